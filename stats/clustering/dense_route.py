r"""Proved bounds with (n, n) matrices: multipliers from the labels, better ones where these leave a gap, a proof.

Notation  as in the affinities; values are sums of inner products <A_k, Z_k> in the affinity's units.
Cost      K-means: 4 n^2 numbers, 5 with ascent; likelihood: 4 n^2, and 2 K + 4 with ascent.
Pitfalls  estimates of a bound decide which multipliers are kept; only what is kept is proved.
"""

from __future__ import annotations

import torch

from sciml.stats.clustering.block_design import best_design
from sciml.stats.clustering.clipped_affinity import ClippedAffinity
from sciml.stats.clustering.dual_ascent import ascend
from sciml.stats.clustering.kmeans_certificate import Clusters, best_potentials, dense_multiplier, dense_value_bound
from sciml.stats.clustering.kmeans_splitting import KMeansSplitting
from sciml.stats.clustering.likelihood_certificate import Profiles, block_multiplier, dense_block_bound
from sciml.stats.clustering.likelihood_splitting import LikelihoodSplitting
from sciml.stats.clustering.pair_potentials import negative_pairs

__all__ = ["dense_bound", "dense_bytes", "metric_points"]


def dense_bytes(n, blocks, ascent):
    """Return the bytes that a dense certificate takes at its peak.

    Parameters
    ----------
    n : int
        Points.
    blocks : int
        1 for K-means, else K.
    ascent : bool
        Whether multipliers are improved.

    Returns
    -------
    int

    Examples
    --------
    >>> dense_bytes(1000, 1, False)
    32000000
    """
    matrices = 4 if not ascent else 5 if blocks == 1 else 2 * blocks + 4
    return 8 * n * n * matrices


def metric_points(affinity):
    """Return the centred points in the one metric of an affinity, of mean squared length one: shape (n, p).

    Parameters
    ----------
    affinity : Affinity
        With one block.

    Returns
    -------
    torch.Tensor, shape (n, p)

    Examples
    --------
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> metric_points(Affinity(torch.tensor([[0.0], [4.0]], dtype=torch.float64), 1)).tolist()
    [[-1.0], [1.0]]
    """
    return affinity.X @ affinity.factors[0] / affinity.scale**0.5


def dense_bound(affinity, labels, *, steps, goal, rng):
    """Return a proved bound from above on the value of all partitions into at most K clusters.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    labels : torch.Tensor, shape (n,)
        Clusters 0 to K - 1 that the multipliers are built from.
    steps : int
        Of ascent at most; 0 for none.
    goal : float
        Difference to the value of the labels that needs no ascent, in the affinity's units.
    rng : numpy.random.Generator
        Source of start vectors.

    Returns
    -------
    value : float
        Rounding included.
    report : dict
        Steps of ascent taken.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> affinity, rng = Affinity(X, 2), np.random.default_rng(0)
    >>> value, _ = dense_bound(affinity, torch.tensor([0, 0, 1, 1]), steps=0, goal=1e-6, rng=rng)
    >>> round(affinity.to_objective(value), 6)
    1.0
    """
    with torch.no_grad():
        if affinity.blocks == 1:
            return _kmeans(affinity, labels, steps, goal, rng)
        return _likelihood(affinity, labels, steps, goal, rng)


def _kmeans(affinity, labels, steps, goal, rng):
    X, K, weights = metric_points(affinity), affinity.n_clusters, affinity.weights
    total = float(weights @ X.square().sum(1))
    clusters = Clusters(X, weights, labels, K)
    attained = total - float(weights @ clusters.offsets.square().sum(1))
    u, _ = best_potentials(clusters, rng)
    start = torch.zeros_like(u).scatter_(1, labels[:, None], affinity.roots[:, None])
    B, done = dense_multiplier(clusters, u), 0
    if steps:
        estimate = ClippedAffinity(clusters, u, negative_pairs(clusters, u)).value(rng)
        if estimate - attained > goal:
            splitting = KMeansSplitting(X, weights, labels, K, B, rng)
            better, found, done = ascend(
                splitting, attained, steps=steps, goal=goal, take=lambda state: (state.multiplier(), state.Q[:, :K])
            )
            if better < estimate:
                B, start = found
            del splitting, found
    return dense_value_bound(X, weights, B, K, start=start, rng=rng) - total, {"ascent_steps": done}


def _likelihood(affinity, labels, steps, goal, rng):
    K, s = affinity.n_clusters, affinity.roots
    profiles = Profiles(affinity, labels)
    attained = -float(affinity.weights @ profiles.costs)
    a, keep, _ = best_design(profiles, rng, goal)
    blocks = lambda: (block_multiplier(profiles, k, a, keep[k])[1] for k in range(K))  # noqa: E731
    value = _sum_of_blocks(affinity, a, blocks(), [(s * (labels == k))[:, None] for k in range(K)], rng)
    if value - attained <= goal or not steps:
        return value, {"ascent_steps": 0}
    splitting = LikelihoodSplitting(affinity, labels, a, blocks(), rng)
    better, found, done = ascend(
        splitting,
        attained,
        steps=steps,
        goal=goal,
        take=lambda state: (state.multipliers()[0], list(state.multipliers()[1]), [Q[:, :1] for Q in state.Q]),
    )
    del splitting
    if better < value:
        value = min(value, _sum_of_blocks(affinity, *found, rng))
    return value, {"ascent_steps": done}


def _sum_of_blocks(affinity, a, multipliers, starts, rng):
    value = float(affinity.weights @ a)
    for k, (B, start) in enumerate(zip(multipliers, starts, strict=True)):
        value += dense_block_bound(affinity, k, a, B, start=start, rng=rng)
    return value
