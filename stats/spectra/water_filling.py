r"""Ratios that follow exponents and keep a budget exactly, and whole numbers that keep it, too.

.. math:: \sum_l d_l \min(\max(c\, w_l,\ r_{\min}),\ r_{\max}) = S \sum_l d_l

Notation  w raw ratios; d numbers of weights; S target; c the one scale that keeps the budget.
Cost      that of a sort, and n products of length n.
Pitfalls  raw ratios below 0, under a wide spread, count as 0: such layers are filled when all others are full.
References  H. Lu and others, AlphaPruning: using heavy-tailed self regularization theory for improved layer-wise
          pruning of large language models, 2024, arXiv 2410.10912.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["allocate", "exact_counts"]


def allocate(alpha, d, target, eps, r_min=0.0, r_max=0.99):
    """Return ratios that follow exponents and keep the budget, by exact water-filling.

    Parameters
    ----------
    alpha : ndarray, shape (n,)
        Exponents; those that are not finite get the target.
    d : ndarray, shape (n,)
        Numbers of weights.
    target : float
        Between `r_min` and `r_max`.
    eps : float
        Spread of the raw ratios.
    r_min, r_max : float
        Bounds on a ratio; 0 and 0.99 by default.

    Returns
    -------
    ndarray, shape (n,)

    Notes
    -----
    The budget is a piecewise linear, rising function of the scale c, with a knot wherever a ratio meets a bound: the
    knots are sorted and the one segment is solved. That is the limit of "clip, give the deficit to the free ones,
    repeat", without the repeats.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.water_filling import allocate
    >>> allocate(np.array([2.0, 3.0, 4.0]), np.ones(3), 0.8, 0.5, 0.0, 0.9).round(6)
    array([0.6, 0.9, 0.9])
    """
    finite = np.isfinite(alpha)
    ratios = np.full(len(alpha), float(target))
    a, size = alpha[finite], np.asarray(d, dtype=np.float64)[finite]
    # Exponents that differ by rounding only share a ratio.
    if len(a) < 2 or np.ptp(a) <= 1e-12 * np.abs(a).max() or eps == 0:
        return ratios
    w = (1.0 - eps) + 2.0 * eps * ((a - a.min()) / np.ptp(a))
    w = np.where(w > 1e-12 * w.max(), w, 0.0)
    ratios[finite] = _filled(w, size / size.sum(), float(target), r_min, r_max)
    return ratios


def _filled(w, share, target, r_min, r_max):
    """Return clip(c w, r_min, r_max) for the c that keeps the budget; share sums to one."""
    live = w > 0
    knots = np.unique(np.concatenate([r_min / w[live], r_max / w[live]]))
    totals = np.array([share @ np.clip(c * w, r_min, r_max) for c in knots])
    if target > totals[-1]:
        # Everything that can follow its exponent is full: what is left goes to the rest alike.
        r = np.full(len(w), r_max)
        if not live.all():
            r[~live] = (target - r_max * share[live].sum()) / share[~live].sum()
        return np.clip(r, r_min, r_max)
    k = int(np.searchsorted(totals, target))
    c = knots[k]
    if k > 0 and totals[k] > totals[k - 1]:
        c = knots[k - 1] + (target - totals[k - 1]) / (totals[k] - totals[k - 1]) * (knots[k] - knots[k - 1])
    return np.clip(c * w, r_min, r_max)


def exact_counts(ratios, d, r_max=1.0):
    """Return whole numbers of zeros by largest remainder: in sum what the ratios ask for, rounded once.

    Parameters
    ----------
    ratios : array_like, shape (n,)
        Shares of zeros.
    d : array_like, shape (n,)
        Numbers of weights.
    r_max : float
        No count is rounded up beyond the share `r_max` of a tensor, unless nothing else is left; 1 by default.

    Returns
    -------
    ndarray of int64, shape (n,)

    Examples
    --------
    >>> from sciml.stats.spectra.water_filling import exact_counts
    >>> exact_counts([0.5, 0.5, 0.5], [3, 3, 3])
    array([2, 1, 1])
    """
    d = np.asarray(d, dtype=np.float64)
    wanted = np.asarray(ratios, dtype=np.float64) * d
    total = round(math.fsum(wanted))
    # A product such as 0.29 * 100 misses the whole number by rounding.
    near = np.rint(wanted)
    wanted = np.where(np.abs(wanted - near) <= np.clip(1e-9 * near, 1e-9, 1e-3), near, wanted)
    counts = np.floor(wanted)
    missing = int(total - counts.sum())
    if missing < 0:
        # Many products were brought to the whole number above: the largest give that back.
        counts[np.argsort(-counts, kind="stable")[:-missing]] -= 1
        return counts.astype(np.int64)
    full = np.minimum(np.floor(r_max * d + 1e-9), d)
    # Largest remainder first; those that a further zero would fill beyond r_max last; ties by index.
    order = np.lexsort((np.arange(len(d)), counts - wanted, counts + 1 > full))
    counts[order[:missing]] += 1
    return counts.astype(np.int64)
