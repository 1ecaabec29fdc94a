r"""Density, distribution function and quantiles of the eigenvalues of noise, after Marchenko and Pastur.

.. math:: p(x) = \frac{\sqrt{(\lambda_+ - x)(x - \lambda_-)}}{2 \pi \gamma \sigma^2 x}, \qquad
          \lambda_\pm = \sigma^2 (1 \pm \sqrt\gamma)^2

Notation  gamma = m / n in (0, 1], sides of a large matrix W of independent entries of variance sigma^2; x eigenvalue of
          W W^T / n; t angle, with x = sigma^2 (1 + gamma - 2 sqrt(gamma) cos t).
Cost      some microseconds; quantiles of 400 shares 0.25 ms.
Pitfalls  the eigenvalues are those of W W^T divided by the larger side. At gamma = 1 the density is infinite at 0.
References  V. Marchenko, L. Pastur, Distribution of eigenvalues for some sets of random matrices, 1967.
"""

from __future__ import annotations

import math

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.noise_angle import angles, distribution, eigenvalue
from sciml.validation import check_number

__all__ = ["mp_cdf", "mp_density", "mp_quantile"]


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
    >>> from sciml.stats.spectra.noise_law import mp_density
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
    >>> from sciml.stats.spectra.noise_law import mp_cdf
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
    >>> from sciml.stats.spectra.noise_law import mp_quantile
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
