r"""Choose order and lag of an augmented covariance: one name for all ways.

=========== ====== ===============================================================================================
method      labels what decides
=========== ====== ===============================================================================================
"bic", "hq" no     information criterion of vector autoregressions, `var_order`
"mdop"      no     delays that separate neighbours fastest, `delay_embedding`
"ami_fnn"   no     mutual information and false neighbours, `delay_embedding`
"screen"    yes    classes of left-out trials, `lag_screen`
=========== ====== ===============================================================================================

Cost      of a trial of 6 x 896 samples: see the four files.
Pitfalls  only "screen" looks at what the classifier is for; call it inside cross-validation.
References  I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023, arXiv
            2302.04508.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.delay_embedding import ami_fnn, mdop
from sciml.stats.spd.lag_screen import screen_lags
from sciml.stats.spd.trials import as_trials
from sciml.stats.spd.var_order import information_criterion
from sciml.validation import check_option

__all__ = ["LagChoice", "choose_lags"]

METHODS = ("mdop", "ami_fnn", "bic", "hq", "screen")


@dataclass(frozen=True)
class LagChoice:
    """Order and lag, and what else was tried.

    Parameters
    ----------
    order : int
        Number of windows p.
    lag : int
        Samples between windows l.
    method : str
        What decided.
    table : tuple of (float, int, int)
        Score, order and lag of what was tried, the best first: larger is better for "screen", smaller for "bic" and
        "hq"; empty for the others.

    Examples
    --------
    >>> from sciml.stats.spd.lag_choice import LagChoice
    >>> LagChoice(2, 5, "mdop").order
    2
    """

    order: int
    lag: int
    method: str
    table: tuple = ()


def choose_lags(X, y=None, *, method="screen", orders=range(1, 11), lags=range(1, 11), groups=None, descriptor=None):
    """Choose order and lag.

    Parameters
    ----------
    X : Trials or array
        Training trials, series.
    y : array, shape (N,), or None
        Labels; needed by "screen", not used by the others.
    method : {"screen", "bic", "hq", "mdop", "ami_fnn"}
        What decides; "screen" by default.
    orders, lags : sequence of int
        What may be chosen; 1 to 10 by default, as published. The embeddings use the largest only.
    groups : array, shape (N,), or None
        For "screen": groups of trials that are left out together. None, the default: single trials.
    descriptor : Descriptor or None
        For "screen": what else is done to trials. None, the default: nothing.

    Returns
    -------
    LagChoice

    Raises
    ------
    InvalidInputError
        If labels are missing, matrices came instead of series, or nothing fits into the shortest trial.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.lag_choice import choose_lags
    >>> x = np.random.default_rng(0).normal(size=(10, 2, 400))
    >>> choose_lags(x, method="bic").order
    1
    """
    check_option("method", method, METHODS)
    trials = as_trials(X)
    if trials.kind == "matrices":
        raise InvalidInputError("X must be series for a choice of lags; got matrices.")
    orders, lags = _whole("orders", orders), _whole("lags", lags)
    if method in ("bic", "hq"):
        table = information_criterion(trials, orders, lags, criterion=method)
        rows = sorted(
            (float(table[i, j]), p, lag)
            for i, p in enumerate(orders)
            for j, lag in enumerate(lags)
            if np.isfinite(table[i, j]) and (p > 1 or j == 0)
        )
        return LagChoice(rows[0][1], rows[0][2], method, tuple(rows))
    if method == "screen":
        if y is None:
            raise InvalidInputError('y must be given for method="screen"; got None. Pass labels, or method="bic".')
        rows = screen_lags(trials, y, orders, lags, groups=groups, descriptor=descriptor)
        return LagChoice(rows[0][1], rows[0][2], method, tuple(rows))
    choose = mdop if method == "mdop" else ami_fnn
    order, lag = choose(trials, max_order=max(orders), max_lag=max(lags))
    return LagChoice(*_fitting(order, lag, int(trials.lengths.min())), method)


def _whole(name, values):
    numbers = sorted({int(v) for v in np.atleast_1d(np.asarray(values)).ravel()})
    if not numbers or numbers[0] < 1:
        raise InvalidInputError(f"{name} must hold whole numbers from 1 on; got {numbers}.")
    return numbers


def _fitting(order, lag, T):
    """Return what fits into the shortest trial: first fewer windows, then closer ones."""
    while order > 2 and order * lag >= T:
        order -= 1
    if order > 1 and order * lag >= T:
        lag = max(1, (T - 1) // order)
    return (order, lag) if order == 1 or order * lag < T else (1, 1)
