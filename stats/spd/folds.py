r"""Folds for trials: stretches of neighbours, every class in every fold as far as may be, groups never torn apart.

Notation  N trials; V folds; every trial is validated exactly once in each repeat.
Cost      N log N; with groups, N_groups V n_classes.
Pitfalls  trials that were recorded one after the other resemble one another, in ways that are gone in the next session:
          judged by shuffled folds, a classifier that learns the session wins. Stretches judge it by what comes later or
          came before; where the order of trials means nothing they are as good as shuffled folds. Without `groups` the
          score is that for the same people. Few trials make a noisy choice, so that small data are split several times.
References  R. Kohavi, A study of cross-validation and bootstrap for accuracy estimation and model selection, 1995.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError

__all__ = ["grouped_folds", "stratified_folds"]

_ENOUGH = 200  # trials of which one split gives a stable choice


def stratified_folds(codes, n_folds, *, n_repeats=None):
    """Return folds of neighbouring trials of each class, with the proportions of the classes.

    Parameters
    ----------
    codes : ndarray of int, shape (N,)
        Classes from 0.
    n_folds : int
        Number of folds V, at least 2; the rarest class may ask for fewer.
    n_repeats : int or None
        Splits, whose borders lie elsewhere each time; None, the default: as many as make 200 validated trials, at
        most 3.

    Returns
    -------
    ndarray of int64, shape (n_repeats, N)
        The fold that validates each trial.

    Raises
    ------
    InvalidInputError
        If a class has one trial only.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.folds import stratified_folds
    >>> stratified_folds(np.array([0, 0, 1, 0, 0, 1]), 2, n_repeats=1).tolist()
    [[0, 0, 0, 1, 1, 1]]
    """
    counts = np.bincount(codes)
    if counts.min() < 2:
        raise InvalidInputError(
            f"y must have at least 2 trials of every class; class number {int(counts.argmin())} has "
            f"{int(counts.min())}. Leave it out, or record more."
        )
    V = int(min(n_folds, counts.min()))
    if n_repeats is None:
        n_repeats = int(min(3, max(1, np.ceil(_ENOUGH / len(codes)))))
    folds = np.empty((n_repeats, len(codes)), dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(counts)])
    for repeat, row in enumerate(folds):
        for c in range(len(counts)):
            members = np.flatnonzero(codes == c)
            # Classes go around the folds one after the other, so that rounding does not fill the same folds each time;
            # a repeat moves the borders by a part of a fold.
            turned = np.roll(members, round(repeat * counts[c] / (V * n_repeats)))
            row[turned] = np.sort((start[c] + np.arange(counts[c])) % V)
    return folds


def grouped_folds(codes, groups, n_folds, rng):
    """Return folds made of whole groups.

    Parameters
    ----------
    codes : ndarray of int, shape (N,)
        Classes from 0.
    groups : ndarray, shape (N,)
        The group of each trial, such as the person.
    n_folds : int
        Number of folds V; at most the number of groups.
    rng : numpy.random.Generator
        Breaks ties.

    Returns
    -------
    ndarray of int64, shape (1, N)
        The fold that validates each trial.

    Raises
    ------
    InvalidInputError
        If there is one group only, or a class lives in one group only.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.folds import grouped_folds
    >>> grouped_folds(np.array([0, 1, 0, 1]), np.array(["a", "a", "b", "b"]), 5, np.random.default_rng(0)).tolist()
    [[0, 0, 1, 1]]
    """
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise InvalidInputError(
            f"groups must name at least 2 groups; got {names.tolist()}. Leave groups out to split trials."
        )
    table = np.zeros((len(names), codes.max() + 1))
    np.add.at(table, (members, codes), 1)
    if ((table > 0).sum(0) < 2).any():
        lonely = int(np.flatnonzero((table > 0).sum(0) < 2)[0])
        raise InvalidInputError(
            f"groups must leave every class in at least 2 of them; class number {lonely} is in one. "
            "Leave groups out, or record more groups."
        )
    V = int(min(n_folds, len(names)))
    load, fold_of = np.zeros((V, table.shape[1])), np.zeros(len(names), dtype=np.int64)
    wanted = table.sum(0) / V
    # Large groups first; each goes where the counts of all classes stay most even. The draw decides between equals.
    waiting = len(names)
    order = np.lexsort((rng.random(len(names)), -table.sum(1))) if len(names) > V else np.arange(len(names))
    for g in order:
        excess = ((load + table[g] - wanted) ** 2).sum(1) - ((load - wanted) ** 2).sum(1)
        empty = np.flatnonzero(~load.any(1))
        # No fold may stay empty: the last groups go to those that have nothing yet.
        fold_of[g] = empty[0] if len(empty) >= waiting else excess.argmin()
        waiting -= 1
        load[fold_of[g]] += table[g]
    # A class must be seen in training whichever fold is left out.
    for c in range(table.shape[1]):
        homes = np.unique(fold_of[table[:, c] > 0])
        if len(homes) == 1:
            mover = np.flatnonzero(table[:, c] > 0)[0]
            fold_of[mover] = (homes[0] + 1) % V
    if any(len(np.unique(fold_of[row])) < 2 for row in (table > 0).T):
        # One class was moved at the cost of another: a fold for each group serves them all.
        fold_of = np.arange(len(names))
    return fold_of[members][None]
