r"""The half-Hill exponent of pure noise, as it is read from windows of finite size: the baseline of every layer.

.. math:: \alpha = 1 + \frac{1 - q}{U_m(q)}, \qquad
          U_m(p) = \frac1m E \sum_j \max(0, \ln (\lambda_j / \lambda_p)), \qquad
          \rho_m = \rho + \frac1m \Big( \tfrac14 \delta_{\lambda_-} + \tfrac14 \delta_{\lambda_+}
          - \frac{dt}{2\pi} \Big) + O(m^{-2})

Eigenvalues of many windows, pooled before the fit, have the mean density of one window. It is known exactly for
Gaussian entries (:mod:`sciml.stats.spectra.real_wishart`) and, for large windows, as the law of Marchenko and Pastur
with a first correction that is the same for every ratio of the sides: no table and no simulation is needed.

Notation  m, n smaller and larger side of a window, gamma = m / n; N eigenvalues in the pool; i = floor(q N) index of
          the threshold, K = N - i; t angle of :mod:`sciml.stats.spectra.noise_angle`.
Cost      15 ms for a new shape, then nothing: shapes are remembered.
Pitfalls  for entries with a heavy tail (no fourth moment) it is not the baseline. A window shares its baseline with its
          transpose.
References  Z. Bai, J. Silverstein, CLT for linear spectral statistics of large-dimensional sample covariance matrices,
            2004. C. Tracy, H. Widom, 1998, arXiv solv-int/9804004.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from sciml.stats.spectra.noise_angle import angles, distribution, eigenvalue, slope
from sciml.stats.spectra.real_wishart import wishart_density
from sciml.validation import check_number

__all__ = ["null_alpha"]

_EXACT = 64  # the smaller side up to which the density is formed itself
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(120)


def null_alpha(height, width, q=0.5, n_windows=None):
    """Return the pooled half-Hill exponent that windows of independent Gaussian entries have in the mean.

    Eigenvalues of all windows are put in one ascending list of N; the threshold is number floor(q N) from below,
    counted from 0, and belongs to the tail of K: ``1 + K / sum(log(tail / threshold))``.

    Parameters
    ----------
    height, width : int
        Sides of a window, in either order, at least 1.
    q : float
        Share of the eigenvalues below the threshold, strictly between 0 and 1; 0.5 by default.
    n_windows : int or None
        How many independent windows are pooled; None (the default) for many. It matters for a few small windows only.

    Returns
    -------
    float
        Dimensionless. For many windows the error is below 1e-5 for q up to 0.75 and 1e-4 at 0.9.

    Raises
    ------
    InvalidInputError
        For a side or number of windows below 1, or a q outside (0, 1).

    Examples
    --------
    >>> from sciml.stats.spectra.noise_baseline import null_alpha
    >>> round(null_alpha(16, 16), 4), round(null_alpha(2048, 2048), 4)  # 2.1217 for a matrix without end
    (2.0873, 2.1214)
    >>> null_alpha(64, 256) == null_alpha(256, 64)
    True
    """
    height = check_number("height", height, low=1, integer=True)
    width = check_number("width", width, low=1, integer=True)
    q = check_number("q", q, low=0, high=1, inclusive="neither")
    if n_windows is not None:
        n_windows = check_number("n_windows", n_windows, low=1, integer=True)
    return _null_alpha(min(height, width), max(height, width), q, n_windows)


@functools.lru_cache(maxsize=4096)
def _null_alpha(m, n, q, n_windows):
    """Return the exponent for checked numbers."""
    if n_windows is None:
        return 1 + _inverse_mean(m, n, q)
    N = n_windows * m
    i = int(q * N)
    # The i-th of N ordered eigenvalues lies at the level (i + 1/2) / N.
    p = (i + 0.5) / N
    return 1 + _inverse_mean(m, n, p) / (1 - p) * (N - i) / N


def _inverse_mean(m, n, p):
    """Return (1 - p) / U_m(p)."""
    if m <= _EXACT:
        return (1 - p) / wishart_density(m, float(n)).upper_log_mean(p)
    # What the first correction leaves falls like 1 / m^2, with a factor that is read off at a smaller size.
    gamma, small = m / n, _EXACT
    rest = (1 - p) / wishart_density(small, small / gamma).upper_log_mean(p) - (1 - p) / _corrected(small, gamma, p)
    return (1 - p) / _corrected(m, gamma, p) + rest * (small / m) ** 2


def _corrected(m, gamma, p):
    """Return U_m(p) for the law of Marchenko and Pastur with its correction of order 1 / m."""
    root = math.sqrt(gamma)
    start = float(angles(p, root))
    for _ in range(20):
        start -= float((distribution(start, root) + (0.25 - start / (2 * np.pi)) / m - p) / slope(start, root))
    u = (_NODES + 1) / 2
    t = start + (np.pi - start) * u**2
    logarithm = np.log(eigenvalue(t, root) / eigenvalue(start, root))
    smooth = _WEIGHTS * u * (np.pi - start) * logarithm * (slope(t, root) - 1 / (2 * np.pi * m))
    return float(smooth.sum()) + 0.25 / m * math.log(eigenvalue(np.pi, root) / eigenvalue(start, root))
