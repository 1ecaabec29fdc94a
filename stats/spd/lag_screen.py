r"""Screen orders and lags by how well a ridge classifier tells the classes of left-out trials.

.. math:: Z_i = I - 2 L' (M + C_i)^{-1} L, \qquad
          Y_g - \hat Y_g^{(-g)} = (I - H_{gg})^{-1} (Y - H Y)_g

Notation  C_i (d, d) augmented covariance; M = L L' their mean; Z_i Cayley transform of the whitened C_i, which is
          log(X)/2 to second order at X = I and bounded; K = Z Z' centred; H = 1 1'/N + K (K + lam I)^{-1}; Y indicators
          of classes; g a trial, or a group of trials.
Cost      a factorisation and a triangular solve of each matrix, several times less than an eigendecomposition; one
          eigendecomposition of K for all lam; no fit is repeated, since the residuals of left-out trials are exact.
Pitfalls  M is that of all trials, which uses no labels. The screen ranks descriptors: judge the best few by the
          classifier that will be used, inside cross-validation.
References  D. Allen, The relationship between variable selection and data augmentation and a method for prediction,
            1974. I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023,
            arXiv 2302.04508.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.descriptor import Descriptor, descriptor_grid
from sciml.validation import check_option

__all__ = ["left_out_score", "screen_lags"]

_ALPHAS = 10.0 ** np.arange(-4, 1.5, 0.5)
_TRIALS = 400


def screen_lags(trials, y, orders, lags, *, groups=None, descriptor=None, search="adaptive"):
    """Score augmented covariances by left-out trials.

    Parameters
    ----------
    trials : Trials
        Series; of more than 400, about 400 are looked at, evenly spread over classes and groups.
    y : array, shape (N,)
        Labels.
    orders, lags : sequence of int
        The grid.
    groups : array, shape (N,), or None
        Whole groups are left out: subjects, sessions, or series from which overlapping windows were cut. None, the
        default: single trials.
    descriptor : Descriptor or None
        What else is done to trials; None, the default: shrink 1e-3 and nothing more.
    search : {"adaptive", "all"}
        "adaptive", the default: a third of the orders times a third of the lags, then the neighbours of the three best
        points until none is left. "all": the whole grid.

    Returns
    -------
    list of (float, int, int)
        Score, order and lag of what was tried, the best first; equal scores favour the smaller matrix. The score is
        that of `left_out_score`.

    Raises
    ------
    InvalidInputError
        If there are fewer than two classes, nothing of the grid fits into the shortest trial, or the descriptor holds
        prototypes.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.lag_screen import screen_lags
    >>> from sciml.stats.spd.trials import as_trials
    >>> x = np.random.default_rng(0).normal(size=(60, 2, 200))
    >>> x[30:, :, 4:] += 0.9 * x[30:, :, :-4].copy()
    >>> x /= x.std(axis=2, keepdims=True)
    >>> screen_lags(as_trials(x), np.repeat([0, 1], 30), range(1, 4), range(1, 6))[0][2]
    4
    """
    check_option("search", search, ("adaptive", "all"))
    if descriptor is not None and descriptor.prototypes:
        raise InvalidInputError(
            "descriptor must not hold prototypes, which know the labels of the trials left out; choose order and lag "
            "without them."
        )
    y, groups = _checked(trials, y, groups)
    rows = _spread(y, groups)
    trials, y, groups = trials.subset(rows), y[rows], None if groups is None else groups[rows]
    orders, lags = sorted({int(p) for p in orders}), sorted({int(lag) for lag in lags})
    T = trials.lengths.min()
    K = 0 if descriptor is None else descriptor.n_basis
    base, scores, banks = Descriptor() if descriptor is None else descriptor, {}, {}

    def score(pairs):
        new = []
        for p, lag in pairs:
            lag = lags[0] if p == 1 else lag  # one window has no lag
            fits = (p * lag < T or p == 1) and T - (p - 1) * lag >= K
            if fits and (p, lag) not in scores and (p, lag) not in new:
                new.append((p, lag))
        matrices = descriptor_grid(trials, [replace(base, order=p, lag=lag) for p, lag in new], banks=banks)
        for pair, C in zip(new, matrices, strict=True):
            scores[pair] = left_out_score(C, y, groups=groups)

    if search == "all":
        score([(p, lag) for lag in lags for p in orders])
    else:
        score([(p, lag) for lag in _some(lags) for p in _some(orders)])
        for _ in range(len(orders) + len(lags)):
            best = sorted(scores, key=lambda pair: (-scores[pair], pair))[:3]
            known = len(scores)
            score([pair for p, lag in best for pair in _beside(p, lag, orders, lags)])
            if len(scores) == known:
                break
    if not scores:
        raise InvalidInputError(
            f"orders and lags must fit into the shortest trial of {T} samples; got orders from {orders[0]} and lags "
            f"from {lags[0]} on. Lower them."
        )
    return sorted(((s, p, lag) for (p, lag), s in scores.items()), key=lambda row: (-row[0], row[1], row[2]))


def left_out_score(C, y, *, groups=None):
    """Return how well ridge regression on tangent vectors tells the classes of left-out trials.

    Parameters
    ----------
    C : ndarray, shape (N, d, d), or (N, bands, d, d)
        Positive semidefinite matrices.
    y : array, shape (N,)
        Labels.
    groups : array, shape (N,), or None
        Groups that are left out together; None, the default: single trials.

    Returns
    -------
    float
        One less the squared error of left-out indicators of classes over their variance: 1 for certain and right
        predictions, 0 for the shares of the classes; the largest over strengths of the ridge.

    Notes
    -----
    The matrices must not know the labels: with prototypes, each left-out trial has entered the mean of its own class
    (SelfRegulationSCP2: a score of 0.37, and 51 % of new trials right).

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.lag_screen import left_out_score
    >>> C = np.eye(2) * np.array([1.0, 1.1, 1.2, 5.0, 5.1, 5.2])[:, None, None]
    >>> left_out_score(C, [0, 0, 0, 1, 1, 1]) > 0.98
    True
    """
    y = np.asarray(y)
    C = C[:, None] if C.ndim == 3 else C
    Z = np.concatenate([_cayley(np.ascontiguousarray(C[:, b])) for b in range(C.shape[1])], axis=1)
    Z = Z - Z.mean(axis=0)
    K = Z @ Z.T
    level = np.trace(K) / len(K)
    w, V = np.linalg.eigh(K / level if level > 0 else K)
    w = np.maximum(w, 0.0)
    classes, numbers = np.unique(y, return_inverse=True)
    Y = np.eye(len(classes))[numbers]
    Y = Y - Y.mean(axis=0)
    members = None if groups is None else [np.flatnonzero(groups == g) for g in np.unique(groups)]
    target = V.T @ Y
    errors = []
    for alpha in _ALPHAS:
        h = w / (w + alpha)
        residual = Y - V @ (h[:, None] * target)
        if members is None:
            free = 1 - 1 / len(Y) - (V**2 @ h)
            residual = residual / np.maximum(free, 1e-12)[:, None]
        else:
            for rows in members:
                H = (V[rows] * h) @ V[rows].T + 1 / len(Y)
                residual[rows] = np.linalg.lstsq(np.eye(len(rows)) - H, residual[rows], rcond=None)[0]
        errors.append((residual**2).sum())
    return 1 - float(min(errors) / (Y**2).sum())


def _cayley(C):
    """Return the vectors of Z_i, isometric: upper triangles with off-diagonals times sqrt 2."""
    C = torch.from_numpy(C)
    d = C.shape[-1]
    M = C.mean(dim=0)
    M = M + 1e-12 * M.diagonal().mean() * torch.eye(d, dtype=C.dtype)
    L = torch.linalg.cholesky(M)
    Y = torch.linalg.solve_triangular(torch.linalg.cholesky(C + M), L.expand(C.shape), upper=False)
    Z = -2 * (Y.mT @ Y)
    i, j = torch.triu_indices(d, d)
    return (Z[:, i, j] * torch.where(i == j, 1.0, 2**0.5)).numpy()


def _some(values):
    """Return about one in three of ascending numbers: ends, and between them roughly a constant ratio."""
    places = np.geomspace(1, len(values), min(len(values), 2 + len(values) // 3)).round().astype(int) - 1
    return [values[i] for i in np.unique(places)]


def _beside(p, lag, orders, lags):
    """Return the neighbours of a point of the grid, by one step along each axis."""
    i, j = orders.index(p), lags.index(lag)
    pairs = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
    return [(orders[a], lags[b]) for a, b in pairs if 0 <= a < len(orders) and 0 <= b < len(lags)]


def _checked(trials, y, groups):
    y = np.asarray(y)
    if y.shape != (len(trials),):
        raise InvalidInputError(f"y must hold one label for each trial; got shape {y.shape} for {len(trials)} trials.")
    if len(np.unique(y)) < 2:
        raise InvalidInputError(f"y must hold at least two classes; got {np.unique(y).tolist()} only.")
    if groups is not None:
        groups = np.asarray(groups)
        if groups.shape != y.shape or len(np.unique(groups)) < 2:
            raise InvalidInputError(
                f"groups must hold one of at least two groups for each trial; got shape {groups.shape} with "
                f"{len(np.unique(groups))} groups."
            )
    return y, groups


def _spread(y, groups):
    """Return numbers of about 400 trials, the same share of every class and group."""
    if len(y) <= _TRIALS:
        return np.arange(len(y))
    keys = (y,) if groups is None else (y, groups)
    order = np.lexsort(keys)
    return np.sort(order[np.linspace(0, len(y) - 1, _TRIALS).round().astype(int)])
