r"""The half-Hill exponent of pure noise, as it is read from windows of finite size: the baseline of every layer.

.. math:: \alpha = 1 + \frac{1 - q}{U_m(q)}, \qquad
          U_m(p) = \frac1m E \sum_j \max(0, \ln (\lambda_j / \lambda_p)), \qquad
          \rho_m = \rho + \frac1m \Big( \tfrac14 \delta_{\lambda_-} + \tfrac14 \delta_{\lambda_+}
          - \frac{dt}{2\pi} \Big) + O(m^{-2})

.. math:: \Big( \frac{\mathrm{sd}(\alpha)}{\alpha - 1} \Big)^2 = \frac{1}{m^2 T} \Big[ \sum_k \frac{k a_k^2}{2}
          e^{-(k / k_m)^2} \Big( \frac1R + \big(1 - \frac1R\big) T \omega^k \Big) - \frac{c^2}{12 T R} \Big], \qquad
          a_k = \frac{2}{\pi U} \int_{t_q}^{\pi} \Big( \ln \frac{\lambda(t)}{\lambda(t_q)} - c U \Big) \cos k t \, dt

Eigenvalues of many windows, pooled before the fit, have the mean density of one window. It is known exactly for
Gaussian entries (:mod:`sciml.stats.spectra.real_wishart`) and, for large windows, as the law of Marchenko and Pastur
with a first correction that is the same for every ratio of the sides: no table and no simulation is needed.

The exponent fluctuates as a linear statistic of eigenvalues does: its standard deviation falls like 1 / m, not like one
over the root of their number. The jump of the statistic at the threshold makes it grow like the root of ln m; the sum
ends where the angle resolves single eigenvalues, k_m = 6.64 m f(t_q), which the known variance of a count fixes. T
disjoint windows are independent; of R repeats by new permutations only the low modes k are common, in the measure
omega = (share of the matrix in a window) in which two windows overlap.

Notation  m, n smaller and larger side of a window, gamma = m / n; N eigenvalues in the pool; i = floor(q N) index of
          the threshold, K = N - i; t angle of :mod:`sciml.stats.spectra.noise_angle`, t_q at the threshold, f its
          density; c = (1 - q) pi sqrt(gamma) / (U sin t_q), the jump.
Cost      15 ms for a new shape, then nothing: shapes are remembered.
Pitfalls  entries with a fourth moment above that of a Gaussian vary more, and with a heavy tail (no fourth moment) this
          is not their baseline. A window shares its baseline with its transpose. `python -m benchmarks
          bench_spectra_null` compares both numbers with simulations.
References  Z. Bai, J. Silverstein, CLT for linear spectral statistics of large-dimensional sample covariance matrices,
            2004. C. Tracy, H. Widom, 1998, arXiv solv-int/9804004. A. Borodin, CLT for spectra of submatrices of
            Wigner random matrices, 2010, arXiv 1010.0898. M. Mehta, Random matrices, 2004, chapter 16.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import scipy.special

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.noise_angle import angles, distribution, eigenvalue, slope
from sciml.stats.spectra.real_wishart import wishart_density
from sciml.validation import check_number

__all__ = ["null_alpha", "null_std"]

_EXACT = 64  # the smaller side up to which the density is formed itself
_MODES = 400  # beyond, those of the jump are summed by their average
# So that the counts of eigenvalues vary as in the Gaussian orthogonal and unitary ensemble.
_RESOLUTION = [2 * math.pi * math.exp(np.euler_gamma / 2 + 1 - term) for term in (math.pi**2 / 8, 0)]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(120)


def null_alpha(height, width, q=0.5, n_windows=None, *, is_complex=False, kurtosis=0.0):
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
        How many independent windows are pooled; None (the default) for many. It matters for a few small windows only: a
        single one of 64 x 64 has 0.045 more, one of 16 x 16 has 0.22 more.
    is_complex : bool
        Whether entries are complex, with independent real and imaginary parts; False by default.
    kurtosis : float
        Excess kurtosis of the entries, between -2 and 0: 0, the default, for Gaussian ones, -1.2 for uniform ones, as
        torch starts with. The spread, :func:`null_std`, hardly depends on it.

    Returns
    -------
    float
        Dimensionless. For many windows the error is below 1e-5 for q up to 0.75 and 1e-4 at 0.9; for few, where the
        tail has 8 eigenvalues or more, it is below 0.3 % of alpha - 1 for q up to 0.5.

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
    kurtosis = check_number("kurtosis", kurtosis, low=-2, high=0)
    m, n = min(height, width), max(height, width)
    alpha = _null_alpha(m, n, q, n_windows, bool(is_complex))
    return 1 + (alpha - 1) * (1 - kurtosis * _flattening(m / n, q) / m)


@functools.lru_cache(maxsize=4096)
def _null_alpha(m, n, q, n_windows, is_complex):
    """Return the exponent for checked numbers."""
    if n_windows is None:
        return 1 + _inverse_mean(m, n, q, is_complex)
    N = n_windows * m
    i = int(q * N)
    # The i-th of N ordered eigenvalues lies at the level (i + 1/2) / N.
    p = (i + 0.5) / N
    # The mean of an inverse exceeds the inverse of a mean; this factor is fitted to simulations.
    excess = 1 + (1.7 if is_complex else 2.1) / ((1 - q) ** 1.85 * n_windows * m**2)
    return 1 + _inverse_mean(m, n, p, is_complex) / (1 - p) * (N - i) / N * excess


def null_std(rows, cols, height, width, n_repeats=1, q=0.5, *, n_windows=None, n_matrices=1, is_complex=False):
    """Return the standard deviation of the pooled half-Hill exponent over matrices of independent Gaussian entries.

    A matrix is cut into as many disjoint windows as fit, after random permutations of its rows and columns, and this
    `n_repeats` times; the eigenvalues of all windows are pooled before the fit. With :func:`null_alpha` for the mean,
    (mean - exponent) / std is a standard normal number for noise.

    Parameters
    ----------
    rows, cols : int
        Shape of the matrix.
    height, width : int
        Shape of a window, at most that of the matrix.
    n_repeats : int
        How often the matrix is cut; 1 by default.
    q : float
        Share of the eigenvalues below the threshold, strictly between 0 and 1; 0.5 by default.
    n_windows : int or None
        How many windows each cut uses; None (the default) for all that fit.
    n_matrices : int
        Independent matrices that are pooled, such as the slices of a convolution; 1 by default.
    is_complex : bool
        Whether entries are complex; False by default. The variance is then about half.

    Returns
    -------
    float
        Dimensionless, good to 5 % for windows of 16 or more on the smaller side and q up to 0.75.

    Raises
    ------
    InvalidInputError
        For sizes below 1, a window larger than the matrix, more windows than fit, or a q outside (0, 1).

    Examples
    --------
    >>> from sciml.stats.spectra.noise_baseline import null_std
    >>> round(null_std(384, 384, 192, 192), 4), round(null_std(384, 384, 192, 192, n_repeats=4), 4)
    (0.0105, 0.0055)
    """
    sizes = {"rows": rows, "cols": cols, "height": height, "width": width, "n_repeats": n_repeats}
    sizes = {name: check_number(name, value, low=1, integer=True) for name, value in sizes.items()}
    n_matrices = check_number("n_matrices", n_matrices, low=1, integer=True)
    q = check_number("q", q, low=0, high=1, inclusive="neither")
    tiles = (sizes["rows"] // sizes["height"]) * (sizes["cols"] // sizes["width"])
    if not tiles:
        raise InvalidInputError(
            f"height and width must be at most the {rows} rows and {cols} columns of the matrix; got {height} and "
            f"{width}. Take a smaller window, or turn it."
        )
    if n_windows is not None:
        tiles = check_number("n_windows", n_windows, low=1, high=tiles, integer=True)
    m, n = sorted((sizes["height"], sizes["width"]))
    share = m * n / (sizes["rows"] * sizes["cols"])
    variance = _relative_variance(m, n, tiles, share, sizes["n_repeats"], q, bool(is_complex))
    return (_null_alpha(m, n, q, None, bool(is_complex)) - 1) * math.sqrt(variance / n_matrices)


def _relative_variance(m, n, tiles, share, repeats, q, is_complex):
    """Return the variance of the exponent over (exponent - 1)^2."""
    modes, jump, slope_there = _fluctuation(m / n, q)
    last = _RESOLUTION[is_complex] * m * slope_there
    k = np.arange(1, _MODES + 1)
    weight = 1 / repeats + (1 - 1 / repeats) * tiles * share**k
    variance = (0.5 * k * modes**2 * np.exp(-((k / last) ** 2)) * weight).sum()
    # Beyond, k a_k^2 / 2 is on average (jump / pi)^2 / k, and repeats have nothing in common.
    variance += (jump / np.pi) ** 2 / repeats * scipy.special.exp1(((_MODES + 0.5) / last) ** 2) / 2
    variance = variance / 2 if is_complex else variance
    # The threshold is an eigenvalue itself, not a fixed level: no rounding of a count.
    variance -= jump**2 / (12 * tiles * repeats)
    return variance / (m**2 * tiles)


@functools.lru_cache(maxsize=256)
def _fluctuation(gamma, q):
    """Return the coefficients a_k of the statistic, its jump c, and the density of the angle at the threshold."""
    root = math.sqrt(gamma)
    start = float(angles(q, root))
    nodes, weights = np.polynomial.legendre.leggauss(600)  # three for a wave of the last mode
    half = (np.pi - start) / 2
    t, weights = start + half * (nodes + 1), half * weights
    logarithm = np.log(eigenvalue(t, root) / eigenvalue(start, root))
    mean = float((weights * slope(t, root) * logarithm).sum())
    jump = (1 - q) * np.pi * root / math.sin(start) / mean
    waves = np.cos(np.outer(np.arange(1, _MODES + 1), t))
    return 2 / np.pi * waves @ (weights * (logarithm / mean - jump)), jump, float(slope(start, root))


@functools.lru_cache(maxsize=256)
def _flattening(gamma, q):
    """Return m d(ln U)/d(kurtosis): flatter entries add (kurtosis / m) cos(2 t) dt / pi to the density."""
    root = math.sqrt(gamma)
    start = float(angles(q, root))
    t = start + (np.pi - start) * (_NODES + 1) / 2
    weights = _WEIGHTS * (np.pi - start) / 2
    logarithm = np.log(eigenvalue(t, root) / eigenvalue(start, root))
    mean = float((weights * slope(t, root) * logarithm).sum())
    added = float((weights * np.cos(2 * t) * logarithm).sum()) / np.pi
    # The threshold moves, too: the share below it is fixed.
    below = math.sin(2 * start) / (2 * np.pi)
    rise = 2 * root * math.sin(start) / float(eigenvalue(start, root))
    return (added + (1 - q) * rise * below / float(slope(start, root))) / mean


def _inverse_mean(m, n, p, is_complex):
    """Return (1 - p) / U_m(p)."""
    if m <= _EXACT:
        return (1 - p) / wishart_density(m, float(n), is_complex).upper_log_mean(p)
    # What the first correction leaves falls like 1 / m^2, with a factor that is read off at a smaller size.
    gamma, small = m / n, _EXACT
    first = 0.0 if is_complex else 1.0  # for complex entries there is no term of order 1 / m
    exact = (1 - p) / wishart_density(small, small / gamma, is_complex).upper_log_mean(p)
    rest = exact - (1 - p) / _corrected(first / small, gamma, p)
    return (1 - p) / _corrected(first / m, gamma, p) + rest * (small / m) ** 2


def _corrected(size, gamma, p):
    """Return U(p) for the law of Marchenko and Pastur with its first correction, of the given size, such as 1 / m."""
    root = math.sqrt(gamma)
    start = float(angles(p, root))
    for _ in range(20):
        start -= float((distribution(start, root) + (0.25 - start / (2 * np.pi)) * size - p) / slope(start, root))
    u = (_NODES + 1) / 2
    t = start + (np.pi - start) * u**2
    logarithm = np.log(eigenvalue(t, root) / eigenvalue(start, root))
    smooth = _WEIGHTS * u * (np.pi - start) * logarithm * (slope(t, root) - size / (2 * np.pi))
    return float(smooth.sum()) + 0.25 * size * math.log(eigenvalue(np.pi, root) / eigenvalue(start, root))
