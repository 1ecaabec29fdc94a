r"""Conformal sets: labels that hold the true one with a probability that is chosen beforehand.

.. math:: \Gamma_\alpha(x) = \{ y : 1 - p_y(x) \le q \}, \qquad
          q = s_{(\lceil (N + 1)(1 - \alpha) \rceil)}, \quad s_i = 1 - p_{y_i}(x_i) \text{ out of fold}

Notation  s (N,) scores of trials that the fold's classifier has not seen; q their quantile; alpha share of misses.
Cost      a sort.
Pitfalls  promised for exchangeable trials only: the same people, session and instrument. Where groups were given the
          scores come from unseen groups, and the promise is for trials of a new group like them. Out-of-fold scores
          come from classifiers of fewer trials, so that the sets err to the large side. A set may be empty: nothing was
          typical enough; it counts as a miss.
References  V. Vovk, Cross-conformal predictors, 2015, arXiv 1208.0806. R. Barber, E. Candes, A. Ramdas, R. Tibshirani,
            Predictive inference with the jackknife+, 2021, arXiv 1905.02928.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sciml.exceptions import InvalidInputError

__all__ = ["LabelSets", "conformal_threshold"]


class LabelSets(Sequence):
    """Sets of labels, one for each trial.

    ``sets[i]`` is the array of labels in set i, so that ``label in sets[i]`` works; ``numpy.asarray(sets)`` is the
    indicator matrix, and so are slices of both axes such as ``sets[:, 0]``.

    Parameters
    ----------
    mask : ndarray of bool, shape (N, k)
        Which labels belong to which set.
    classes : ndarray, shape (k,)
        The labels.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.conformal import LabelSets
    >>> sets = LabelSets(np.array([[True, False], [True, True]]), np.array(["left", "right"]))
    >>> [s.tolist() for s in sets], sets.sizes.tolist(), np.asarray(sets).sum(0).tolist()
    ([['left'], ['left', 'right']], [1, 2], [2, 1])
    """

    def __init__(self, mask, classes):
        self.mask = np.asarray(mask, dtype=bool)
        self.classes = np.asarray(classes)

    @property
    def sizes(self):
        """ndarray of int64, shape (N,): labels in each set."""
        return self.mask.sum(1)

    @property
    def shape(self):
        """tuple of int: (N, k)."""
        return self.mask.shape

    def coverage(self, y):
        """Return the share of sets that hold the true label.

        Parameters
        ----------
        y : array, shape (N,)
            True labels.

        Returns
        -------
        float
        """
        y = np.asarray(y)
        if y.shape != (len(self),):
            raise InvalidInputError(f"y must have one label for each of the {len(self)} sets; got shape {y.shape}.")
        return float((self.mask & (y[:, None] == self.classes)).any(1).mean())

    def sum(self, axis=None):
        """Return how many labels are in the sets: of all, of each label (0), or of each trial (1).

        Parameters
        ----------
        axis : int or None
            As in :func:`numpy.sum` of the indicator matrix.
        """
        return self.mask.sum(axis)

    def mean(self, axis=None):
        """Return the share of labels that are in the sets: of all, of each label (0), or of each trial (1).

        Parameters
        ----------
        axis : int or None
            As in :func:`numpy.mean` of the indicator matrix.
        """
        return self.mask.mean(axis)

    def __len__(self):
        return len(self.mask)

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            return self.classes[self.mask[index]]
        if isinstance(index, tuple):
            return self.mask[index]
        return LabelSets(self.mask[index], self.classes)

    def __array__(self, dtype=None, copy=None):
        return self.mask.astype(bool if dtype is None else dtype, copy=bool(copy))

    def __repr__(self):
        return f"<LabelSets {len(self)} sets of {len(self.classes)} labels, mean size {self.sizes.mean():.2f}>"


def conformal_threshold(scores, alpha):
    """Return the largest score that a label may have to belong to a set.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Scores of trials that were not used in fitting.
    alpha : float
        Share of misses, between 0 and 1.

    Returns
    -------
    float
        Infinity where there are too few scores for so small an alpha: every label belongs.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.conformal import conformal_threshold
    >>> conformal_threshold(np.arange(9) / 10, 0.2), conformal_threshold(np.arange(9) / 10, 0.05)
    (0.7, inf)
    """
    rank = int(np.ceil((len(scores) + 1) * (1 - alpha) * (1 - 1e-12)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")
