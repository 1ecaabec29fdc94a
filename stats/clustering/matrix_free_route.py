r"""Bounds for K-means without (n, n) matrices: a low rank plus the pairs whose multiplier is clipped.

Potentials that fit make G + B equal, on vectors orthogonal to the clusters' indicators, to the scatter of each cluster
plus E_ij = max(0, xt_i . xt_j - u_ik - u_jl), which is zero for all but few pairs. With C an orthonormal basis of some
vectors, H_c = C' H C and R what is left of H C off C, and mu a bound on the largest eigenvalue off C,

.. math:: H \preceq \begin{pmatrix} H_c + R' R / \eta & 0 \\ 0 & (\mu + \eta) I \end{pmatrix} \quad (\eta > 0),

so that a sum of largest eigenvalues needs mu only, and mu only roughly. Two ways lead to it: with C the indicators, the
largest scatter plus the Perron value of E, which a positive vector proves; or, with C the leading Ritz vectors, block
Krylov with a random start, which holds but for a chance of 1e-12.

Notation  as in the certificates of K-means; H = P (G + B) P.
Cost      two passes over the pairs of different clusters, n^2 p operations in tiles; then n (p + K) and twice the
          clipped pairs a product, some hundred products. Memory n (p + K + 330) numbers and 150 bytes a clipped pair.
Pitfalls  clusters that overlap clip a few percent of all pairs, 1e8 of them at n = 1e5: then entries are formed anew
          for each product, tile by tile, n^2 p operations each.
References  as in the certificates of K-means.
"""

from __future__ import annotations

import math

import torch

from sciml.linalg.memory import budget
from sciml.random import normal
from sciml.stats.clustering.clipped_affinity import ClippedAffinity
from sciml.stats.clustering.dense_route import metric_points
from sciml.stats.clustering.kmeans_certificate import FACTORS, Clusters, best_potentials, row_targets
from sciml.stats.clustering.krylov_bounds import perron_bound, probable_largest
from sciml.stats.clustering.pair_potentials import balanced, closed_potentials, fit_potentials, negative_pairs
from sciml.stats.clustering.spectral_bounds import leading_pairs

__all__ = ["FAILURE", "SPARE", "kmeans_matrix_free", "split_sum", "stratified"]

FAILURE = 1e-12  # chance with which a bound by Krylov spaces may not hold
_SAMPLE = 1500
_PAIR_BYTES = 150  # a listed pair, its entries in the sparse matrix and what sorting them takes
_BLOCK, _DEPTH = 4, 80
# Vectors beyond those whose values count: what is left is then below these by more than Krylov spaces leave open.
SPARE = 8
_EPS = torch.finfo(torch.float64).eps


def stratified(labels, size, rng):
    """Return indices of a random subset with every cluster in its share, at least one point each: shape (m,).

    Parameters
    ----------
    labels : torch.Tensor, shape (n,)
        Clusters.
    size : int
        Points wanted; all where there are no more.
    rng : numpy.random.Generator
        Source.

    Returns
    -------
    torch.Tensor, shape (m,)
        In increasing order.

    Examples
    --------
    >>> import numpy as np
    >>> chosen = stratified(torch.tensor([0, 0, 0, 0, 1, 1]), 3, np.random.default_rng(0))
    >>> torch.tensor([0, 0, 0, 0, 1, 1])[chosen].tolist()
    [0, 0, 1]
    """
    n = len(labels)
    if n <= size:
        return torch.arange(n, device=labels.device)
    order = torch.from_numpy(rng.permutation(n)).to(labels.device)
    parts = []
    for k in labels.unique():
        members = order[labels[order] == k]
        parts.append(members[: max(1, round(len(members) * size / n))])
    return torch.cat(parts).sort().values


def split_sum(inner, coupling, outside, count):
    r"""Return a bound on the sum of the largest eigenvalues of a matrix split by a basis, negative ones as zero.

    Parameters
    ----------
    inner : torch.Tensor, shape (m, m)
        H_c = C' H C, with C orthonormal.
    coupling : torch.Tensor, shape (m, m)
        R' R of R = H C - C H_c.
    outside : float
        mu, no eigenvalue of H off C is above.
    count : int
        How many.

    Returns
    -------
    float
        The least over a grid of eta.

    Examples
    --------
    >>> inner, coupling = torch.diag(torch.tensor([3.0, 2.0])).double(), torch.zeros(2, 2).double()
    >>> round(split_sum(inner, coupling, 1.0, 2), 6)
    5.0
    """
    best = math.inf
    size = max(float(torch.linalg.eigvalsh(inner).abs().amax()), abs(outside), 1e-300)
    for eta in size * torch.logspace(-13, 1, 57, dtype=inner.dtype):
        theta = torch.linalg.eigvalsh(inner + coupling / float(eta))
        others = theta.new_full((count,), outside + float(eta))
        best = min(best, float(torch.cat([theta, others]).sort(descending=True).values[:count].clamp_min(0).sum()))
    return best


def kmeans_matrix_free(affinity, labels, *, memory, rng):
    """Return a bound from above on <A, Z> over all partitions into at most K clusters, in the affinity's units.

    Parameters
    ----------
    affinity : Affinity
        With one block.
    labels : torch.Tensor, shape (n,)
        Clusters the multipliers are built from.
    memory : int, float, str or None
        What temporaries may take.
    rng : numpy.random.Generator
        Source of the sample that the strength is chosen on, and of Krylov starts.

    Returns
    -------
    value : float
    report : dict
        How many pairs are clipped, and the chance with which the bound may fail: 0 where it is proved.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2)
    >>> labels, rng = torch.tensor([0, 0, 1, 1]), np.random.default_rng(0)
    >>> value, report = kmeans_matrix_free(affinity, labels, memory=None, rng=rng)
    >>> round(affinity.to_objective(value), 6), report["failure_probability"]
    (1.0, 0.0)
    """
    X, weights, K = metric_points(affinity), affinity.weights, affinity.n_clusters
    clusters = Clusters(X, weights, labels, K)
    total = float(weights @ X.square().sum(1))
    attained = total - float(weights @ clusters.offsets.square().sum(1))
    operator = _operator(clusters, memory, rng)
    proved = _by_scatter(operator)
    report = {"clipped_pairs": operator.n_clipped, "failure_probability": 0.0}
    # A proof that is loose may be beaten by a bound that holds but for a chance.
    if K > 1 and proved - attained > 1e-7 * (total - attained):
        likely = _by_krylov(operator, rng)
        if likely < proved - 1e-3 * (proved - attained):
            proved, report["failure_probability"] = likely, FAILURE
    return proved + _rounding(operator) - total, report


def _operator(clusters, memory, rng):
    """G + B with the strength that is best for a sample, and potentials fitted to all points."""
    chosen = stratified(clusters.labels, _SAMPLE, rng)
    sample = Clusters(clusters.X[chosen], clusters.weights[chosen], clusters.labels[chosen], clusters.n_clusters)
    _, number = best_potentials(sample, rng)
    # The clipped pairs weigh more, relative to the scatters, the more points there are: a little more strength pays.
    factor = FACTORS[min(number + (len(chosen) < len(clusters.labels)), len(FACTORS) - 1)]
    limit = budget(memory, clusters.X.device) // _PAIR_BYTES
    targets = balanced(clusters, row_targets(clusters, factor * float(clusters.strengths.amax())))
    u = closed_potentials(clusters, targets)
    near = negative_pairs(clusters, u, clusters.spread / 4, limit)
    if near is not None:
        u = fit_potentials(clusters, near, targets)
        del near
    pairs = negative_pairs(clusters, u, 0.0, limit)
    return ClippedAffinity(clusters, u, pairs)


def _deflated(operator):
    s = operator.clusters.roots
    t = (s / s.norm())[:, None]
    project = lambda V: V - t @ (t.T @ V)  # noqa: E731
    along = float(t[:, 0] @ operator.apply(t)[:, 0])
    return along, project, lambda V: project(operator.apply(project(V)))


def _split(apply, C):
    HC = apply(C)
    inner = C.T @ HC
    inner = (inner + inner.T) / 2
    R = HC - C @ inner
    return inner, R.T @ R


def _by_scatter(operator):
    """The bound with C the indicators of the clusters; infinite where the clipped pairs are not listed."""
    clusters = operator.clusters
    along, project, apply = _deflated(operator)
    if clusters.n_clusters == 1:
        return along
    if not operator.listed:
        return math.inf
    indicators = torch.zeros_like(clusters.margins).scatter_(1, clusters.labels[:, None], clusters.roots[:, None])
    indicators = indicators[:, clusters.sizes > 0]
    # Off s the indicators have one dimension less.
    C = torch.linalg.svd(project(indicators / indicators.norm(dim=0)), full_matrices=False)[0][:, :-1]
    outside = float(clusters.strengths.amax())
    if operator.clipped is not None:
        weighted = lambda V: clusters.roots[:, None] * (operator.clipped @ (clusters.roots[:, None] * V))  # noqa: E731
        outside += perron_bound(weighted, clusters.roots)
    if C.shape[1] == 0:
        return along + (clusters.n_clusters - 1) * outside
    inner, coupling = _split(apply, C)
    return along + split_sum(inner, coupling, outside, clusters.n_clusters - 1)


def _by_krylov(operator, rng):
    """The bound with C the leading Ritz vectors and the rest by block Krylov."""
    clusters = operator.clusters
    n, K = clusters.margins.shape
    along, project, apply = _deflated(operator)
    indicators = torch.zeros_like(clusters.margins).scatter_(1, clusters.labels[:, None], clusters.roots[:, None])
    start = project(torch.cat([indicators, normal(rng, (n, SPARE), device=indicators.device)], 1))[:, : n - 1]
    _, C, _ = leading_pairs(apply, start, min(K - 1, n - 1), tol=1e-9, max_products=60)
    C = torch.linalg.qr(project(C))[0]
    off = lambda V: V - C @ (C.T @ V)  # noqa: E731
    random = off(project(normal(rng, (n, min(_BLOCK, n)), device=C.device)))
    outside, _ = probable_largest(lambda V: off(apply(off(V))), random, depth=_DEPTH, failure=FAILURE)
    inner, coupling = _split(apply, C)
    return along + split_sum(inner, coupling, outside, K - 1)


def _rounding(operator):
    """What sums of rounded entries, entries clipped or not by a rounding, and non-orthonormal bases can hide."""
    clusters = operator.clusters
    n, p = clusters.X.shape
    largest = float(operator.u.abs().amax()) + float(clusters.offsets.square().sum(1).amax())
    entries = float(clusters.weights.sum()) * largest
    norm = float(clusters.weights @ clusters.X.square().sum(1)) + entries
    return (p + clusters.n_clusters + 40) * _EPS * norm
