r"""Sketch and lift: solve for a few rows, then give every row its cluster in passes over tiles.

Row i of a cluster or stratum of n_l rows, J of them, is kept with probability

.. math:: \gamma \quad (\text{uniform}), \qquad \min\Big(1, \frac{\gamma n}{J n_{l(i)}}\Big) \quad (\text{weighted}),

or an equal number is taken from each (balanced), so that small ones are not lost. A row then stands for 1 / probability
others, which is its weight in what is solved. `cells` makes strata that know nothing of clusters: far more than there
are clusters, so that a small one has a cell of its own.

Notation  n, m rows of the data and of the sketch; gamma = m / n; J strata; K clusters.
Cost      n operations for a sketch, n p J for cells, n p K a pass for a lift with means, n p^2 K with covariances.
Pitfalls  a first k-means of K clusters does not see a cluster of one in a thousand: it splits a large one instead,
          since that lowers the sum of squares more. Strata should be cells; `overlooked` looks again after the lift.
References  Y. Zhuang, X. Chen, Y. Yang, Sketch-and-lift: scalable subsampled semidefinite program for K-means
          clustering, AISTATS 2022, arXiv 2201.08226.
"""

from __future__ import annotations

import numpy as np
import torch

from sciml.stats.clustering.density import log_joint
from sciml.stats.clustering.lloyd import Points, descend, lloyd, seed
from sciml.validation import check_option

__all__ = ["cells", "disjoint_blocks", "lift", "lifted_means", "matched", "quadratic_scores", "sketch_rows"]

_SCHEMES = ("uniform", "weighted", "balanced")
_SEEN = 20_000
_TILE = 2**15


def sketch_rows(n, K, rng, *, size=None, labels=None, scheme="uniform"):
    """Return rows of a sketch, and how many rows each of them stands for.

    Parameters
    ----------
    n, K : int
        Rows of the data, and clusters.
    rng : numpy.random.Generator
        Source of the draws.
    size : int or None
        Rows to take, in the mean for "weighted"; None, the default: 200 for each cluster and at least 2000.
    labels : torch.Tensor of int64, shape (n,), or None
        Clusters or strata; needed for all schemes but "uniform".
    scheme : {"uniform", "weighted", "balanced"}
        All rows alike, the default; strata alike in the mean; equal numbers of each stratum.

    Returns
    -------
    rows : torch.Tensor of int64, shape (m,)
        Ascending, none twice.
    counts : torch.Tensor, shape (m,)
        One over the probability of each, scaled to mean one: weights for the solver.

    Examples
    --------
    >>> from sciml.random import generator
    >>> labels = torch.tensor([0] * 98 + [1, 1])
    >>> rows, counts = sketch_rows(100, 2, generator(0), size=10, labels=labels, scheme="balanced")
    >>> labels[rows].bincount().tolist(), round(float(counts[0] / counts[-1]), 1)
    ([5, 2], 19.6)
    """
    check_option("scheme", scheme, _SCHEMES)
    size = min(n, max(200 * K, 2000) if size is None else size)
    if scheme == "uniform":
        rows = np.sort(rng.choice(n, size, replace=False))
        device = None if labels is None else labels.device
        return torch.from_numpy(rows).to(device), torch.ones(size, dtype=torch.float64, device=device)
    label = labels.cpu().numpy()
    sizes = np.bincount(label)
    strata = int((sizes > 0).sum())
    key = rng.random(n)
    if scheme == "weighted":
        probability = np.minimum(1.0, size / (strata * np.maximum(sizes, 1)))
        rows = np.flatnonzero(key < probability[label])
    else:
        take = np.minimum(sizes, max(1, size // strata))
        probability = take / np.maximum(sizes, 1)
        order = np.lexsort((key, label))
        rank = np.arange(n) - (np.cumsum(sizes) - sizes)[label[order]]
        rows = np.sort(order[rank < take[label[order]]])
    counts = 1 / probability[label[rows]]
    counts = counts / counts.mean() if len(counts) else counts
    return torch.from_numpy(rows).to(labels.device), torch.from_numpy(counts).to(labels.device)


def disjoint_blocks(n, size, blocks, rng):
    """Return rows of several sketches that share none: a list of int64 tensors (size,), each ascending.

    Parameters
    ----------
    n, size, blocks : int
        Rows of the data, of a sketch, and how many sketches; fewer where the rows do not suffice, at least one.
    rng : numpy.random.Generator
        Source of the draws.

    Examples
    --------
    >>> from sciml.random import generator
    >>> torch.cat(disjoint_blocks(6, 2, 3, generator(0))).sort().values.tolist()
    [0, 1, 2, 3, 4, 5]
    """
    size = min(n, size)
    blocks = max(1, min(blocks, n // size))
    drawn = rng.choice(n, blocks * size, replace=False).reshape(blocks, size)
    return [torch.from_numpy(np.sort(rows)) for rows in drawn]


def cells(X, n_cells, rng, weights=None):
    """Return a coarse division of the points, for strata: int64 labels (n,).

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    n_cells : int
        J; some ten times more than clusters.
    rng : numpy.random.Generator
        Source of the draws.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.

    Notes
    -----
    Centres come from k-means++ and three steps of Lloyd's method on at most 20 000 rows.

    Examples
    --------
    >>> from sciml.random import generator
    >>> X = torch.tensor([[0.0], [0.1], [9.0]], dtype=torch.float64)
    >>> len(cells(X, 2, generator(0))[:2].unique())
    1
    """
    part = slice(None)
    if len(X) > _SEEN:
        part = torch.from_numpy(np.sort(rng.choice(len(X), _SEEN, replace=False))).to(X.device)
    few = Points(X[part], None if weights is None else weights[part])
    J = min(n_cells, len(few.X))
    _, C, _, _ = descend(few, few.X[seed(few, J, rng)], max_iter=3)
    points = Points(X, weights)
    return points.nearest(C + (few.mean - points.mean))[0][0]


def matched(sets, weights=None):
    """Return the average of several sets of means, each renumbered to fit the first.

    Parameters
    ----------
    sets : list of torch.Tensor, shape (K, p)
        Means from as many sketches.
    weights : list of torch.Tensor, shape (K,), or None
        Weight of each mean, such as points of its cluster; None, the default: ones.

    Returns
    -------
    means : torch.Tensor, shape (K, p)
        Averages.
    orders : list of torch.Tensor of int64, shape (K,)
        ``sets[b][orders[b]]`` are in the order of the first.

    Examples
    --------
    >>> one, two = torch.tensor([[0.0], [10.0]]), torch.tensor([[12.0], [2.0]])
    >>> matched([one, two])[0][:, 0].tolist()
    [1.0, 11.0]
    """
    from scipy.optimize import linear_sum_assignment

    first, orders = sets[0], []
    for means in sets:
        costs = torch.cdist(first, means, compute_mode="donot_use_mm_for_euclid_dist").square()
        orders.append(torch.from_numpy(linear_sum_assignment(costs.cpu().numpy())[1]).to(first.device))
    stacked = torch.stack([means[order] for means, order in zip(sets, orders, strict=True)])
    if weights is None:
        return stacked.mean(0), orders
    w = torch.stack([w[order] for w, order in zip(weights, orders, strict=True)])[..., None]
    return (w * stacked).sum(0) / w.sum(0).clamp_min(1e-300), orders


def lift(X, scores):
    """Return the cluster of the largest score for every point: int64 labels (n,).

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    scores : callable
        Takes a tile of points (t, p), returns scores (t, K).

    Examples
    --------
    >>> lift(torch.tensor([[1.0], [-2.0]]), lambda rows: torch.cat([rows, -rows], 1)).tolist()
    [0, 1]
    """
    labels = torch.empty(len(X), dtype=torch.int64, device=X.device)
    for start in range(0, len(X), _TILE):
        rows = slice(start, start + _TILE)
        labels[rows] = scores(X[rows]).argmax(1)
    return labels


def quadratic_scores(means, covariances, proportions=None):
    r"""Return scores for `lift`: :math:`-\tfrac12 (d_k^2 + \log\det \Sigma_k - 2 \log \pi_k)` but for a constant.

    Parameters
    ----------
    means : torch.Tensor, shape (K, p)
        Of the clusters.
    covariances : torch.Tensor, shape (K, p, p)
        Positive definite.
    proportions : torch.Tensor, shape (K,), or None
        Shares of the clusters; None, the default: equal ones.

    Returns
    -------
    callable

    Examples
    --------
    >>> wide = torch.tensor([[[1.0]], [[100.0]]])
    >>> lift(torch.tensor([[0.5], [9.0]]), quadratic_scores(torch.zeros(2, 1), wide)).tolist()
    [0, 1]
    """
    return lambda rows: log_joint(rows, means, covariances, proportions)


def lifted_means(X, means, weights=None, *, passes=1):
    """Return labels, means and sum of squares of all points, from the means of a sketch.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    means : torch.Tensor, shape (K, p)
        Of the sketch, or matched ones.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.
    passes : int
        Steps of Lloyd's method over all points; 1 by default, 0: the nearest of the means as they are.

    Returns
    -------
    labels : torch.Tensor of int64, shape (n,)
        Of the nearest mean.
    means : torch.Tensor, shape (K, p)
        After the passes.
    sse : float
        Weighted sum of squared distances to them.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> lifted_means(X, torch.tensor([[0.0], [10.0]]).double())[1][:, 0].tolist()
    [0.5, 10.5]
    """
    if passes:
        return lloyd(X, means, weights, max_iter=passes)[:3]
    points = Points(X, weights)
    labels, D = points.nearest((means - points.mean)[None])
    return labels[0], means, float(points.weigh(D)[1])
