r"""How far a pooled exponent can be trusted: the two-way jackknife over rows and columns of windows.

.. math:: V = \max(V_r + V_c - V_{rc},\ V_w) - (1 - 1/R)\, \min(s^2, V_w)

Notation  t (R, I, J) influence of each window on the exponent, in R repeats of I x J windows; V_r, V_c, V_w variances
          of the mean of t read from rows of windows, columns of windows and single windows, V_rc from what rows and
          columns do not explain; s^2 variance of the means of the repeats.
Cost      one sort of the pooled eigenvalues.
Pitfalls  windows of one row share neurons, so single windows are not independent, and rows and columns are left out
          whole. Their number is small, so that intervals take Student's quantiles with R (I J - 1) degrees of freedom.
          Repeats share all entries: what differs between repeats (s^2) is averaged away by them, the rest is
          not. Fluctuations that all windows share, such as those of a few dominant singular values of the layer, can
          not be seen within one matrix.

The jackknife is the infinitesimal one: the derivative of the exponent with respect to the weight of a window, in place
of leaving it out, since a sample median moves in steps when a window leaves.

References
----------
A. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007, section 3; V_r + V_c - V_rc is
unbiased where rows and columns have random effects that add.
L. Jaeckel, The infinitesimal jackknife, 1972.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.special

# Eigenvalues on each side of the threshold, as a share of all, from which the density there is read.
_SHARE = 0.05


def pooled_hill(values, q):
    """Return Hill's exponent of pooled eigenvalues and the influence of each window on it.

    Parameters
    ----------
    values : ndarray, shape (R, I, J, k)
        Eigenvalues of the windows; zeros are left out where they reach the threshold.
    q : float
        Share of the spectrum below the threshold.

    Returns
    -------
    alpha : float
        The exponent; NaN where fewer than 10 eigenvalues are left.
    influence : ndarray, shape (R, I, J), or None
        Derivative of alpha with respect to the weight of each window, times their number; None where there is none.
    deficient : bool
        Whether zeros were left out.
    """
    pooled = np.sort(values, axis=None)
    deficient = not pooled[int(q * len(pooled))] > 0
    if deficient:
        pooled = pooled[pooled > 0]
    N = len(pooled)
    if N < 10:
        return math.nan, None, deficient
    i = int(q * N)
    # Ratios, so that units cancel to the last bit.
    xi = float(np.log(pooled[i:] / pooled[i]).mean())
    if not xi > 0:
        return math.inf, None, deficient
    return 1 + 1 / xi, _influences(values, pooled, i, xi, q, deficient), deficient


def variance(influence):
    """Return the variance of the pooled exponent from the influences of windows, shape (R, I, J)."""
    R = len(influence)
    by_row, by_col = influence.mean(2), influence.mean(1)
    single, rows, cols = _of_mean(influence.reshape(R, -1)), _of_mean(by_row), _of_mean(by_col)
    if not np.isfinite(single):
        return math.nan
    total = np.nanmax([single, rows, cols])
    if np.isfinite(rows) and np.isfinite(cols):
        rest = influence - by_row[:, :, None] - by_col[:, None, :] + influence.mean((1, 2), keepdims=True)
        freedom = R * (influence.shape[1] - 1) * (influence.shape[2] - 1)
        total = max(single, rows + cols - (rest**2).sum() / freedom / influence[0].size)
    if R > 1:
        total -= (1 - 1 / R) * min(float(influence.mean((1, 2)).var(ddof=1)), single)
    return float(total)


def student_quantile(shape, level=0.95):
    """Return the quantile of Student's law for a two-sided interval from influences of shape (R, I, J)."""
    repeats, down, across = shape
    return float(scipy.special.stdtrit(max(repeats * (down * across - 1), 1), (1 + level) / 2))


def _of_mean(t):
    """Return the variance of the mean of n values, shape (R, n), averaged over repeats."""
    n = t.shape[1]
    return float(t.var(axis=1, ddof=1).mean() / n) if n > 1 else math.nan


def _influences(values, pooled, i, xi, q, deficient):
    N = len(pooled)
    h = max(3, int(_SHARE * N))
    low, high = max(int(np.searchsorted(pooled, 0, side="right")), i - h), min(N - 1, i + h)
    # The reciprocal of the density of ln(lambda) at the threshold.
    width = math.log(pooled[high] / pooled[low]) * N / max(high - low, 1)
    with np.errstate(divide="ignore"):
        logs = np.log(values / pooled[i])
    psi = np.maximum(logs, 0) / (1 - q) - xi - width * (q - (logs < 0))
    if deficient:
        psi = np.where(values > 0, psi, 0.0)
    # Windows count by their share of the eigenvalues.
    return -psi.sum(-1) * (values.size // values.shape[-1]) / N / xi**2
