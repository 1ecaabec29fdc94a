r"""The spectrum of pure noise, after Marchenko and Pastur: density, distribution, quantiles and the half-Hill exponent.

.. math:: \lambda(t) = \sigma^2 (1 + \gamma - 2 \sqrt\gamma \cos t), \qquad
          f(t) = \frac{2 \sin^2 t}{\pi (1 + \gamma - 2 \sqrt\gamma \cos t)}, \quad 0 \le t \le \pi

The eigenvalues of W W^T / n for a large m x n matrix W of independent entries of variance sigma^2, m <= n, have this
law. In the angle t the square roots at both edges are gone: the distribution function is elementary, and ordinary
quadrature gives all digits of the exponent.

Notation  gamma = m / n in (0, 1]; t angle; F distribution function of t; q share of eigenvalues below the threshold;
          phi = atan2(sqrt(gamma) sin t, 1 - sqrt(gamma) cos t).
Cost      an exponent 0.2 ms, remembered for each gamma and q; a quantile some microseconds.
Pitfalls  entries must be independent with a fourth moment, and the matrix large: for windows of finite size see
          :mod:`sciml.stats.spectra.noise_baseline`. At gamma = 1 the density is infinite at 0.
References  V. Marchenko, L. Pastur, Distribution of eigenvalues for some sets of random matrices, 1967.
            Z. Bai, J. Silverstein, Spectral analysis of large dimensional random matrices, 2010.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.noise_angle import angles, distribution, eigenvalue, slope
from sciml.validation import check_number

__all__ = ["mp_alpha", "mp_cdf", "mp_density", "mp_quantile"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(120)


def mp_alpha(gamma, q=0.5):
    r"""Return the half-Hill exponent of a large matrix of independent entries.

    .. math:: \alpha = 1 + 1 / \xi, \qquad
              \xi = \frac{1}{1 - q} \int_{t_q}^{\pi} f(t) \ln \frac{\lambda(t)}{\lambda(t_q)} dt

    It does not depend on the variance of the entries. For small gamma and q = 1/2 it tends to
    :math:`1 + 3 \pi / (8 \sqrt\gamma)`: the longer a matrix, the lighter its tail seems.

    Parameters
    ----------
    gamma : float or array_like, any shape
        Smaller side over larger side, in (0, 1].
    q : float
        Share of the eigenvalues below the threshold, strictly between 0 and 1; 0.5 by default, the median, which is
        where the usual exponent is read.

    Returns
    -------
    float or ndarray, shape of `gamma`
        Dimensionless, with an error below 1e-10.

    Raises
    ------
    InvalidInputError
        For a gamma outside (0, 1] or a q outside (0, 1).

    Examples
    --------
    >>> from sciml.stats.spectra.marchenko_pastur import mp_alpha
    >>> round(mp_alpha(1.0), 4)
    2.1217
    >>> mp_alpha([0.25, 1 / 16]).round(4)
    array([3.4546, 5.8775])
    """
    q = check_number("q", q, low=0, high=1, inclusive="neither")
    gammas = _ratios(gamma)
    if gammas.ndim == 0:
        return _alpha(float(gammas), q)
    unique, inverse = np.unique(gammas, return_inverse=True)
    return np.array([_alpha(float(g), q) for g in unique])[inverse].reshape(gammas.shape)


def mp_density(x, gamma, sigma2=1.0):
    r"""Return the density of the eigenvalues of W W^T / n.

    .. math:: p(x) = \frac{\sqrt{(\lambda_+ - x)(x - \lambda_-)}}{2 \pi \gamma \sigma^2 x}, \qquad
              \lambda_\pm = \sigma^2 (1 \pm \sqrt\gamma)^2

    Parameters
    ----------
    x : float or array_like, any shape
        Where, in the units of `sigma2`.
    gamma : float
        Smaller side over larger side, in (0, 1].
    sigma2 : float
        Variance of an entry, above 0; 1 by default.

    Returns
    -------
    float or ndarray, shape of `x`
        In one over the units of `sigma2`; 0 outside the edges, infinite at 0 when gamma is 1.

    Raises
    ------
    InvalidInputError
        For a gamma outside (0, 1], a variance that is not positive, or an `x` that is not a number.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.marchenko_pastur import mp_density
    >>> bool(np.isclose(mp_density(1.0, 1.0), 3**0.5 / (2 * np.pi)))
    True
    """
    gamma, sigma2 = _checked(gamma, sigma2)
    x = _numbers("x", x) / sigma2
    low, high = (1 - math.sqrt(gamma)) ** 2, (1 + math.sqrt(gamma)) ** 2
    inside = np.maximum((high - x) * (x - low), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.sqrt(inside) / (2 * np.pi * gamma * x * sigma2)
    density = np.where((x < low) | (x > high), 0.0, density)
    if gamma == 1:
        density = np.where(x == 0, np.inf, density)
    return density if density.ndim else float(density)


def mp_cdf(x, gamma, sigma2=1.0):
    r"""Return the share of the eigenvalues of W W^T / n that are at most x.

    .. math:: F = \frac1\pi \Big( t + \phi - \frac{\phi - \sqrt\gamma \sin t}{\gamma} \Big), \qquad
              \phi = \operatorname{atan2}(\sqrt\gamma \sin t, 1 - \sqrt\gamma \cos t)

    Parameters
    ----------
    x : float or array_like, any shape
        Where, in the units of `sigma2`.
    gamma : float
        Smaller side over larger side, in (0, 1].
    sigma2 : float
        Variance of an entry, above 0; 1 by default.

    Returns
    -------
    float or ndarray, shape of `x`
        Between 0 and 1.

    Raises
    ------
    InvalidInputError
        For a gamma outside (0, 1], a variance that is not positive, or an `x` that is not a number.

    Examples
    --------
    >>> from sciml.stats.spectra.marchenko_pastur import mp_cdf
    >>> mp_cdf([0.0, 4.0], 1.0).tolist()
    [0.0, 1.0]
    >>> round(mp_cdf(2.0, 1.0), 6)  # 1/2 + 1/pi
    0.81831
    """
    gamma, sigma2 = _checked(gamma, sigma2)
    x = _numbers("x", x) / sigma2
    root = math.sqrt(gamma)
    # lambda = (1 - root)^2 + 4 root sin^2(t / 2): no cancellation at the lower edge.
    half = np.clip((x - (1 - root) ** 2) / (4 * root), 0, 1)
    share = np.where(half >= 1, 1.0, np.clip(distribution(2 * np.arcsin(np.sqrt(half)), root), 0, 1))
    return share if share.ndim else float(share)


def mp_quantile(p, gamma, sigma2=1.0):
    """Return the eigenvalue of W W^T / n below which a given share lies.

    Parameters
    ----------
    p : float or array_like, any shape
        Shares, from 0 to 1.
    gamma : float
        Smaller side over larger side, in (0, 1].
    sigma2 : float
        Variance of an entry, above 0; 1 by default.

    Returns
    -------
    float or ndarray, shape of `p`
        In the units of `sigma2`; 0 and 1 give the edges.

    Raises
    ------
    InvalidInputError
        For a share outside [0, 1], a gamma outside (0, 1], or a variance that is not positive.

    Examples
    --------
    >>> from sciml.stats.spectra.marchenko_pastur import mp_quantile
    >>> mp_quantile([0.0, 1.0], 0.25).tolist()  # (1 - 1/2)^2 and (1 + 1/2)^2
    [0.25, 2.25]
    >>> round(mp_quantile(0.5, 1.0), 4)
    0.6528
    """
    gamma, sigma2 = _checked(gamma, sigma2)
    p = _numbers("p", p)
    if not ((p >= 0) & (p <= 1)).all():
        raise InvalidInputError(f"p must lie between 0 and 1; got {p.min():g} to {p.max():g}. Pass shares, no percent.")
    value = sigma2 * eigenvalue(angles(p, math.sqrt(gamma)), math.sqrt(gamma))
    return value if value.ndim else float(value)


@functools.lru_cache(maxsize=4096)
def _alpha(gamma, q):
    """Return the exponent for checked numbers."""
    root = math.sqrt(gamma)
    start = float(angles(q, root))
    # u^2 crowds the nodes at the threshold, near which lambda may vanish when gamma is 1 and q small.
    u = (_NODES + 1) / 2
    t = start + (math.pi - start) * u**2
    growth = 4 * root * np.sin((t - start) / 2) * np.sin((t + start) / 2) / eigenvalue(start, root)
    integral = (_WEIGHTS * u * (math.pi - start) * slope(t, root) * np.log1p(growth)).sum()
    return 1 + (1 - q) / float(integral)


# ---------------------------------------------------------------- checks


def _ratios(gamma):
    """Return gamma as an array in (0, 1]."""
    gammas = _numbers("gamma", gamma)
    bad = ~((gammas > 0) & (gammas <= 1))
    if bad.any():
        raise InvalidInputError(
            f"gamma must lie in (0, 1], the smaller side over the larger; got {float(gammas[bad].flat[0]):g}. "
            "Swap the sides of the matrix."
        )
    return gammas


def _checked(gamma, sigma2):
    """Return both as numbers."""
    return float(_ratios(check_number("gamma", gamma))), check_number("sigma2", sigma2, low=0, inclusive="high")


def _numbers(name, value):
    """Return real numbers as a float64 array; infinities are allowed."""
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if array.dtype.kind not in "fiu" or np.isnan(array).any():
        raise InvalidInputError(
            f"{name} must be real numbers without NaN; got {array.dtype} of shape {array.shape}. Remove the NaN."
        )
    return array.astype(np.float64)
