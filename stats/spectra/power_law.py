r"""Power-law exponents of a spectrum: Hill's estimator over the upper half, and Clauset's search for the threshold.

.. math:: \alpha = 1 + K \Big/ \sum_{j \ge i} \ln (\lambda_j / \lambda_i)

Notation  lam (N,) eigenvalues, ascending; i index of the threshold; K = N - i; S sum of the logarithms above the
          threshold, relative to it; D Kolmogorov-Smirnov distance between the tail and its power law.
Cost      Hill: one partition of N numbers. The search: N K_probe for bounds, then the whole distance for the few
          thresholds that the bounds leave; the answer is that of the full search over N^2 / 2 pairs.
Pitfalls  Hill's exponent over half the spectrum tells the shape of the bulk, not the index of a tail: it saturates near
          2.1 for square matrices. The threshold of the search jumps where there is no power law. Eigenvalues repel
          each other, so that (alpha - 1) / sqrt(K) is not their standard error.

References
----------
A. Clauset, C. Shalizi, M. Newman, Power-law distributions in empirical data, SIAM Review 51, 2009.
C. Martin, M. Mahoney, Implicit self-regularization in deep neural networks, 2018, arXiv 1810.01075.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.validation import check_finite, check_number, check_option

__all__ = ["PowerLawFit", "fit_powerlaw", "hill"]

# Points of each tail at which a lower bound of its distance is read.
_PROBES = 24


@dataclass(frozen=True)
class PowerLawFit:
    """A power law fitted to the upper part of a spectrum.

    Parameters
    ----------
    alpha : float
        Exponent of the density, dimensionless; infinite where all eigenvalues of the tail are equal, NaN where nothing
        can be fitted.
    xmin : float
        Threshold, in units of the eigenvalues.
    distance : float
        Kolmogorov-Smirnov distance of the tail from the law, between 0 and 1.
    n_tail : int
        Number of eigenvalues that are not below the threshold.

    Examples
    --------
    >>> PowerLawFit(alpha=2.5, xmin=1.0, distance=0.05, n_tail=100).alpha
    2.5
    """

    alpha: float
    xmin: float
    distance: float
    n_tail: int


def hill(eigenvalues, q=0.5, *, bias_corrected=False):
    r"""Return Hill's exponent of the eigenvalues above the q-quantile.

    .. math:: \alpha = 1 + K / \sum_{j \ge i} \ln (\lambda_j / \lambda_i), \quad i = \lfloor q N \rfloor,\ K = N - i

    Parameters
    ----------
    eigenvalues : array_like, shape (N,)
        Eigenvalues, not negative, in any order; zeros below the threshold do no harm.
    q : float
        Share of the spectrum below the threshold, 0 <= q < 1. The default 0.5 is the convention of the field.
    bias_corrected : bool
        Multiply alpha - 1 by (K - 2) / K, which removes the bias for independent Pareto numbers (the threshold is one
        of the K). False by default, as everywhere in the field.

    Returns
    -------
    float
        The exponent, dimensionless and at least 1; infinite where the tail is constant, NaN where its threshold is 0 or
        fewer than 2 eigenvalues are there.

    Raises
    ------
    InvalidInputError
        If eigenvalues are negative or not finite, or q is out of range.

    References
    ----------
    B. Hill, A simple general approach to inference about the tail of a distribution, 1975.

    Examples
    --------
    >>> import numpy as np
    >>> bool(np.isclose(hill([0.1, 0.2, 1.0, np.e]), 3.0))      # the threshold is 1, the sum of logarithms 1, K = 2
    True
    """
    lam = _checked(eigenvalues)
    q = check_number("q", q, low=0.0, high=1.0, inclusive="low")
    return hill_of_sorted(np.sort(lam), q, bias_corrected=bias_corrected)


def hill_of_sorted(lam, q, *, bias_corrected=False):
    """Return Hill's exponent of ascending eigenvalues."""
    if len(lam) < 2:
        return math.nan
    i = int(q * len(lam))
    if not lam[i] > 0:
        return math.nan
    K = len(lam) - i
    S = float(np.log(lam[i:] / lam[i]).sum())
    if S <= 0:
        return math.inf
    return 1 + (K - 2 if bias_corrected else K) / S


def fit_powerlaw(eigenvalues, *, xmin=None, xmin_range=None):
    r"""Fit a power law above the threshold with the least Kolmogorov-Smirnov distance.

    For each candidate threshold :math:`\lambda_i` with its Hill exponent :math:`\alpha_i`,

    .. math:: D_i = \max_{j \ge i} | 1 - (\lambda_j / \lambda_i)^{1 - \alpha_i} - (j - i) / K_i |

    Parameters
    ----------
    eigenvalues : array_like, shape (N,)
        Eigenvalues, not negative; zeros are left out.
    xmin : float, "peak", "peak-published" or None
        A threshold to use in place of the search: the tail is all that is not smaller. "peak" searches near the peak p
        of the histogram of log10(lambda), from 0.95 p to 1.5 p, which keeps the threshold out of a few large
        eigenvalues; "peak-published" has the lower bound that is in use for pruning of language models, log10(0.95 p),
        although its unit is not that of an eigenvalue. None, the default, searches everywhere.
    xmin_range : (float, float) or None
        Thresholds among which to search, both ends included. None means all but the largest eigenvalue.

    Returns
    -------
    PowerLawFit
        Of equal distances the smallest threshold is taken. With fewer than two positive eigenvalues alpha is NaN.

    Raises
    ------
    InvalidInputError
        If eigenvalues are negative or not finite, or no eigenvalue lies in the range.

    Notes
    -----
    The distance of a candidate is bounded from below at a few points of its tail; candidates whose bound exceeds the
    best distance found need no more. The answer is that of the complete search.

    References
    ----------
    A. Clauset, C. Shalizi, M. Newman, Power-law distributions in empirical data, SIAM Review 51, 2009, eqs. 3.1 and
    3.9.

    Examples
    --------
    >>> import numpy as np
    >>> u = (np.arange(4000) + 0.5) / 4000
    >>> fit = fit_powerlaw((1 - u) ** (-1 / 1.5))               # quantiles of a power law with alpha = 2.5
    >>> round(fit.alpha, 2)
    2.5
    """
    lam = np.sort(_checked(eigenvalues))
    lam = lam[lam > 0]
    if len(lam) < 2:
        return PowerLawFit(math.nan, math.nan, math.nan, len(lam))
    candidates = np.arange(len(lam) - 1)
    if isinstance(xmin, str):
        check_option("xmin", xmin, ("peak", "peak-published"))
        peak = _peak(lam)
        low = 0.95 * peak if xmin == "peak" else math.log10(0.95 * peak)
        near = (lam[:-1] > low) & (lam[:-1] <= 1.5 * peak)
        candidates = candidates[near] if near.any() else candidates
    elif xmin is not None:
        xmin = check_number("xmin", xmin)
        candidates = candidates[[_first(lam, xmin, f"xmin={xmin:g}")]]
    elif xmin_range is not None:
        low, high = xmin_range
        candidates = candidates[(lam[:-1] >= low) & (lam[:-1] <= high)]
        if not len(candidates):
            raise InvalidInputError(
                f"xmin_range must hold an eigenvalue below the largest; got {xmin_range} for eigenvalues between "
                f"{lam[0]:.3g} and {lam[-1]:.3g}."
            )
    return fit_sorted(lam, candidates)


def fit_sorted(lam, candidates=None):
    """Fit ascending positive eigenvalues, with thresholds at the indices `candidates`."""
    N = len(lam)
    x = np.log(lam / lam[-1])  # relative to the largest, where the tails end: less is lost in S
    i = np.arange(N - 1) if candidates is None else candidates
    K = N - i
    S = np.cumsum(x[::-1])[::-1][i] - K * x[i]
    usable = S > 0
    if not usable.any():
        return PowerLawFit(math.inf, float(lam[i[0]]), math.nan, int(K[0]))
    i, K, S = i[usable], K[usable], S[usable]
    beta = K / S  # alpha - 1
    bound = _lower_bounds(x, i, K, beta)
    best, at = math.inf, 0
    for c in np.argsort(bound, kind="stable"):
        if bound[c] > best:
            break
        D = _distances(x, i[c], K[c], beta[c]).max()
        if best > D or (best == D and c < at):
            best, at = D, c
    xmin = lam[i[at]]
    return PowerLawFit(1 + float(beta[at]), float(xmin), float(best), N - int(np.searchsorted(lam, xmin)))


def _distances(x, i, K, beta):
    """Return the distances of one tail, at each of its eigenvalues."""
    return np.abs(-np.expm1(-beta * (x[i:] - x[i])) - np.arange(K) / K)


def _lower_bounds(x, i, K, beta):
    """Return the largest distance of each tail over a few of its eigenvalues, shape (candidates,)."""
    bound = np.zeros(len(i))
    for share in np.linspace(0, 1, _PROBES):
        step = np.minimum((share * K).astype(int), K - 1)
        gap = -np.expm1(-beta * (x[i + step] - x[i])) - step / K
        np.maximum(bound, np.abs(gap), out=bound)
    return bound * (1 - 1e-12)  # rounding of the bound must not hide the winner


def _peak(lam):
    """Return the left edge of the fullest of 100 bins of the logarithms."""
    counts, edges = np.histogram(np.log10(lam), bins=100)
    return 10 ** edges[counts.argmax()]


def _first(lam, xmin, what):
    i = int(np.searchsorted(lam, xmin))
    if i > len(lam) - 2:
        raise InvalidInputError(
            f"xmin must leave two eigenvalues; got {what} where the largest two are {lam[-2]:.3g} and {lam[-1]:.3g}."
        )
    return i


def _checked(eigenvalues):
    lam = np.asarray(eigenvalues.detach().cpu() if hasattr(eigenvalues, "detach") else eigenvalues)
    if lam.dtype.kind not in "iuf":
        raise InvalidInputError(f"eigenvalues must be one list of real numbers, shape (N,); got dtype {lam.dtype}.")
    lam = lam.astype(np.float64)
    if lam.ndim != 1 or not len(lam):
        raise InvalidInputError(f"eigenvalues must be one list of numbers, shape (N,); got shape {lam.shape}.")
    check_finite("eigenvalues", lam)
    if lam.min() < 0:
        raise InvalidInputError(
            f"eigenvalues must not be negative; got {lam.min():.3g} at index {int(lam.argmin())}. Squares of singular "
            "values are meant; rounding below zero may be clipped to 0."
        )
    return lam
