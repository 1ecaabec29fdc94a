r"""Votes of the nearest neighbours.

Notation  D (N, m) distances from m training trials; codes (m,) their classes; k neighbours.
Cost      a partial sort of each row.
Pitfalls  equal votes are decided by the nearer neighbours, not by the order of the classes; equal distances at the edge
          of the neighbourhood by the order of the training trials.
References  S. Dudani, The distance-weighted k-nearest-neighbor rule, 1976.
"""

from __future__ import annotations

import numpy as np

__all__ = ["neighbour_votes"]


def neighbour_votes(D, codes, n_classes, n_neighbors, weights="uniform"):
    """Return the share of each class among the nearest neighbours, and the winner.

    Parameters
    ----------
    D : ndarray, shape (N, m)
        Distances.
    codes : ndarray of int, shape (m,)
        Classes from 0.
    n_classes : int
        Number of classes.
    n_neighbors : int
        Neighbours that vote, at most m.
    weights : {"uniform", "distance"}
        Equal votes (the default), or the inverse of the distance; neighbours at distance zero then vote alone.

    Returns
    -------
    shares : ndarray, shape (N, n_classes)
        Rows sum to one.
    winners : ndarray of int, shape (N,)

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.votes import neighbour_votes
    >>> shares, winners = neighbour_votes(np.array([[3.0, 1.0, 2.0]]), np.array([0, 1, 0]), 2, 2)
    >>> shares.tolist(), winners.tolist()  # one vote each: the nearer one wins
    ([[0.5, 0.5]], [1])
    """
    rows = np.arange(len(D))[:, None]
    nearest = np.argsort(D, axis=1, kind="stable")[:, :n_neighbors]
    d, c = D[rows, nearest], codes[nearest]
    if weights == "distance":
        zero = d == 0
        with np.errstate(divide="ignore"):
            # Relative to the nearest, so that tiny units do not overflow.
            v = np.where(zero.any(1, keepdims=True), zero, np.where(zero, 0, d[:, :1] / np.where(zero, 1, d)))
    else:
        v = np.ones_like(d)
    shares, closeness = np.zeros((len(D), n_classes)), np.zeros((len(D), n_classes))
    np.add.at(shares, (rows, c), v)
    np.add.at(closeness, (rows, c), 1 / (1 + np.arange(n_neighbors)))
    shares /= shares.sum(1, keepdims=True)
    # Rounding must not decide between equal sums that were added in another order.
    tied = shares >= shares.max(1, keepdims=True) * (1 - 1e-12)
    return shares, np.where(tied, closeness, -1.0).argmax(1)
