r"""Ward's tree, cut where K clusters are left: a deterministic start that knows how big clusters are.

Joining clusters a and b raises the sum of squares by

.. math:: d_{ab} = \frac{w_a w_b}{w_a + w_b} |\bar x_a - \bar x_b|^2, \qquad
          d_{c, a \cup b} = \frac{(w_a + w_c) d_{ac} + (w_b + w_c) d_{bc} - w_c d_{ab}}{w_a + w_b + w_c}

Notation  w_a weight of a cluster (sums of omega); d (m, m) costs of joining; heights (m - 1,) costs of the joins made.
Cost      chains of nearest neighbours: m^2 time and numbers for m <= 3000 points. Beyond that 20 000 rows are condensed
          to 1500 weighted small clusters, whose tree is cut, and the other rows take the nearest mean: linear in n.
Pitfalls  joins come out of the chains in no order of cost; since a join never costs less than those below it, sorting
          repairs that. Points that coincide are joined first, at no cost, so that repeating a point is weighing it.
References  J. Ward, Hierarchical grouping to optimize an objective function, 1963.
          F. Murtagh, P. Contreras, Methods of hierarchical clustering, 2011, arXiv 1105.0121.
"""

from __future__ import annotations

import numpy as np
import torch

from sciml.stats.clustering.lloyd import Points, as_they_appear

__all__ = ["cut", "joins", "ward", "ward_cuts"]

_EXACT = 3000
_ROWS, _SMALL = 20_000, 1500


def ward(X, K, rng, weights=None):
    """Return the labels of Ward's tree cut at K clusters.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    K : int
        Clusters, at most n.
    rng : numpy.random.Generator
        Chooses the rows of the small clusters; not used for n <= 3000, where the answer is exact.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.

    Returns
    -------
    torch.Tensor of int64, shape (n,)
        0 to K - 1, in the order in which clusters appear; above 3000 points fewer, if few of them differ.

    Examples
    --------
    >>> from sciml.random import generator
    >>> X = torch.tensor([[0.0], [9.0], [1.0], [5.0]], dtype=torch.float64)
    >>> ward(X, 2, generator(0)).tolist()
    [0, 1, 0, 1]
    """
    points = Points(X, weights)
    n = len(X)
    if n <= _EXACT:
        return ward_cuts(X, (K,), weights)[0]
    if n > (rows := max(_ROWS, 2 * K)):
        chosen = torch.from_numpy(np.sort(rng.choice(n, rows, replace=False))).to(X.device)
        part = Points(points.X[chosen], None if weights is None else weights[chosen])
    else:
        part = points
    start = torch.from_numpy(rng.choice(len(part.X), max(_SMALL, min(2 * K, len(part.X))), replace=False))
    C = part.X[start.to(X.device)][None]
    for _ in range(2):
        labels, _ = part.nearest(C)
        C, sizes = part.means(labels, C.shape[1], C)
    full = sizes[0] > 0
    groups = torch.zeros_like(full, dtype=torch.int64)
    groups[full] = _tree(C[0, full], sizes[0, full], (K,))[0]
    labels = groups[labels]
    if part is not points:
        labels, _ = points.nearest(part.means(labels, K, C[:, :K])[0])
    return as_they_appear(labels[0], K)[0]


def ward_cuts(X, numbers, weights=None):
    """Return the labels of one exact tree cut at several numbers of clusters.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points; n^2 numbers are kept.
    numbers : sequence of int
        Clusters of each cut.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.

    Returns
    -------
    list of torch.Tensor of int64, shape (n,)

    Examples
    --------
    >>> X = torch.tensor([[0.0], [9.0], [1.0], [5.0]], dtype=torch.float64)
    >>> [labels.tolist() for labels in ward_cuts(X, (2, 3))]
    [[0, 1, 0, 1], [0, 1, 0, 2]]
    """
    points = Points(X, weights)
    return _tree(points.X, points.weights, numbers)


def _tree(X, weights, numbers):
    """Return the labels of the cuts of the exact tree."""
    w = torch.ones_like(X[:, 0]) if weights is None else weights
    squares = torch.linalg.vecdot(X, X)
    d = X.new_empty(len(X), len(X))
    for start in range(0, len(X), 128):
        rows = slice(start, start + 128)
        size = squares[rows, None] + squares
        part = torch.addmm(size, X[rows], X.T, alpha=-2)
        # What is below rounding errors is zero, so that points that coincide do.
        part *= part > size.mul_(8 * torch.finfo(d.dtype).eps)
        d[rows] = part.mul_(w[rows, None] * w).div_(w[rows, None] + w)
    pairs, heights = joins(d.cpu().numpy(), w.clone().cpu().numpy())
    return [as_they_appear(torch.from_numpy(cut(pairs, heights, K)).to(X.device), K)[0] for K in numbers]


def joins(d, w):
    """Return the joins of Ward's tree by chains of nearest neighbours.

    Parameters
    ----------
    d : ndarray, shape (m, m)
        Costs of joining two points; overwritten.
    w : ndarray, shape (m,)
        Weights; overwritten.

    Returns
    -------
    pairs : ndarray of int, shape (m - 1, 2)
        A point of either cluster, in the order of the chains.
    heights : ndarray, shape (m - 1,)
        What each join costs.

    Examples
    --------
    >>> joins(np.array([[0.0, 4.5, 0.0], [4.5, 0.0, 4.5], [0.0, 4.5, 0.0]]), np.ones(3))[1]
    array([0., 6.])
    """
    m = len(w)
    np.fill_diagonal(d, np.inf)
    names, gone = np.arange(m), np.zeros(m, bool)
    pairs, heights, chain = np.empty((m - 1, 2), np.int64), np.empty(m - 1), []
    for step in range(m - 1):
        if 2 * (m - step) < len(gone) and len(gone) > 64:
            # Rows of half the length from here on.
            left = np.flatnonzero(~gone)
            where = gone.cumsum()
            chain = [a - int(where[a]) for a in chain]
            d, w, names, gone = d[np.ix_(left, left)], w[left], names[left], gone[left]
        if not chain:
            chain.append(int(gone.argmin()))
        while True:
            a = chain[-1]
            b = int(d[a].argmin())
            # Of equal neighbours the previous one, or a chain through points that coincide would never end.
            if len(chain) > 1 and d[a, chain[-2]] <= d[a, b]:
                break
            chain.append(b)
        a, b = chain.pop(), chain.pop()
        height = d[a, b]
        pairs[step], heights[step] = (names[a], names[b]), height
        # b becomes the joined cluster; infinite entries, of a cluster with itself and of those that are gone, stay so.
        row = ((w[a] + w) * d[a] + (w[b] + w) * d[b] - w * height) / (w[a] + w[b] + w)
        w[b] += w[a]
        gone[a] = True
        row[a] = row[b] = np.inf
        d[b] = d[:, b] = row
        d[:, a] = np.inf
    return pairs, heights


def cut(pairs, heights, K):
    """Return the labels, 0 to K - 1, left by all but the K - 1 dearest joins.

    Parameters
    ----------
    pairs : ndarray of int, shape (m - 1, 2)
        A point of either cluster.
    heights : ndarray, shape (m - 1,)
        What each join costs.
    K : int
        Clusters, at most m.

    Returns
    -------
    ndarray of int64, shape (m,)

    Examples
    --------
    >>> cut(np.array([[0, 2], [1, 2]]), np.array([0.5, 9.0]), 2)
    array([0, 1, 0])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    m = len(pairs) + 1
    made = pairs[np.argsort(heights, kind="stable")[: max(m - K, 0)]]
    graph = coo_array((np.ones(len(made)), (made[:, 0], made[:, 1])), shape=(m, m))
    return connected_components(graph, directed=False)[1].astype(np.int64)
