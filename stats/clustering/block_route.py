r"""Bounds for a covariance each without (n, n) matrices: low ranks plus the pairs that repel.

Strengths and choices are those that are best for a sample. For each block the indicator of its members is nearly the
leading vector; what is off it has no larger eigenvalue than

.. math:: \mu = \lambda_{\max} \begin{pmatrix} |Y_k|^2 & |E_\times| \\ |E_\times| & e \end{pmatrix}

with E_x the pairs of members and others, and e a bound for the others: the largest eigenvalue of what points of one
cluster keep, or of their diagonal, plus the Perron value of their pairs. All of it is proved by positive vectors and
small eigenvalue problems. Where it is too much, block Krylov with a random start bounds the rest but for a chance.

Notation  as in the certificates of the likelihood and of K-means without matrices.
Cost      K n^2 p operations to list the pairs, twice; then products of n (p + K) operations and two a pair.
Pitfalls  pairs that repel can be n^2 / K for each block: more than memory allows end in an error that names it.
References  as in the certificates of the likelihood.
"""

from __future__ import annotations

from copy import copy

import torch

from sciml.linalg.memory import budget, require
from sciml.random import normal
from sciml.stats.clustering.block_affinity import BlockAffinity
from sciml.stats.clustering.block_design import best_design, with_margin
from sciml.stats.clustering.krylov_bounds import perron_bound, probable_largest
from sciml.stats.clustering.likelihood_certificate import Profiles, row_multipliers
from sciml.stats.clustering.matrix_free_route import FAILURE, SPARE, split_sum, stratified
from sciml.stats.clustering.spectral_bounds import leading_pairs

__all__ = ["likelihood_matrix_free"]

_SAMPLE = 1000
_PAIR_BYTES = 150  # a listed pair, its entries in the sparse matrix and what sorting them takes
_ROUNDS = 2
_BLOCK, _DEPTH = 4, 80
_EPS = torch.finfo(torch.float64).eps


def likelihood_matrix_free(affinity, labels, *, goal, memory, rng):
    """Return a bound from above on the value of all partitions into at most K clusters, in the affinity's units.

    Parameters
    ----------
    affinity : Affinity
        With a block for each cluster.
    labels : torch.Tensor, shape (n,)
        Clusters the multipliers are built from.
    goal : float
        Difference to the value of the labels that counts as none.
    memory : int, float, str or None
        What temporaries may take.
    rng : numpy.random.Generator
        Source of the sample and of Krylov starts.

    Returns
    -------
    value : float
    report : dict
        How many pairs repel, and the chance with which the bound may fail: 0 where it is proved.

    Raises
    ------
    MemoryBudgetError
        If there are more pairs than memory allows.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2, torch.ones(2, 1, 1, dtype=torch.float64))
    >>> labels, rng = torch.tensor([0, 0, 1, 1]), np.random.default_rng(0)
    >>> value, report = likelihood_matrix_free(affinity, labels, goal=1e-6, memory=None, rng=rng)
    >>> round(affinity.to_objective(value), 6), report["failure_probability"]
    (1.0, 0.0)
    """
    profiles = Profiles(affinity, labels)
    attained = -float(affinity.weights @ profiles.costs)
    chosen = stratified(labels, _SAMPLE, rng)
    sample = Profiles(_subset(affinity, chosen), labels[chosen])
    part = goal * len(chosen) / len(labels)
    _, keep, strengths = best_design(sample, rng, part)
    strengths = with_margin(sample, strengths, keep, part, rng)
    base = profiles.strengths.clamp_min(1e-3 * float(profiles.strengths.amax()))
    strengths = base * strengths / sample.strengths.clamp_min(1e-3 * float(sample.strengths.amax()))
    best, report = float("inf"), {}
    for _ in range(_ROUNDS):
        a = row_multipliers(profiles, strengths)
        value, needs, found = float(affinity.weights @ a), [], {"listed_pairs": 0, "failure_probability": 0.0}
        for k in range(affinity.n_clusters):
            block = _block(profiles, k, a, keep, memory)
            chance = FAILURE / affinity.n_clusters
            need, failure = _largest(block, float(strengths[k]), goal / affinity.n_clusters, chance, rng)
            needs.append(need)
            found["listed_pairs"] += block.n_pairs
            found["failure_probability"] += failure
        value += sum(max(0.0, need) for need in needs)
        if value < best:
            best, report = value, found
        if best - attained <= goal:
            break
        strengths = strengths + 1.5 * (torch.tensor(needs).to(strengths) - strengths).clamp_min(0)
    return best, report


def _subset(affinity, chosen):
    """The same problem with some of the points; units, metrics and centre stay."""
    part = copy(affinity)
    part.X, part.weights, part.roots = affinity.X[chosen], affinity.weights[chosen], affinity.roots[chosen]
    part.__dict__["_lengths"], part.__dict__["q"] = affinity.q[:, chosen] * affinity.scale, affinity.q[:, chosen]
    part.__dict__["scale"] = affinity.scale
    return part


def _block(profiles, k, a, keep, memory):
    """The block, with fewer pairs where those of the choice that is best for the sample do not fit."""
    limit = budget(memory, a.device) // _PAIR_BYTES
    for choice in (keep[k], True):
        block = BlockAffinity(profiles, k, a, choice, limit)
        if block.complete:
            return block
    n = len(a)
    require(
        2 * _PAIR_BYTES * limit,
        what=f"a certificate of {n} points with more than {limit} pairs that repel",
        remedy="pass method='sketch'",
        memory=memory,
        device=a.device,
    )
    raise AssertionError("unreachable")


def _largest(block, strength, goal, chance, rng):
    """A bound on the largest eigenvalue, and the chance with which it may fail."""
    s, m = block.roots, block.profiles.members[block.k]
    n = len(s)
    slack = _rounding(block)
    v = torch.zeros_like(s)
    v[m] = s[m]
    size = float(v.norm())
    proved = float("inf")
    if size > 0:
        proved = _split(block, (v / size)[:, None], _outside(block)) + slack
        if proved <= strength + goal:
            return proved, 0.0
    start = torch.cat([v[:, None], normal(rng, (n, SPARE), device=s.device)], 1)[:, : n - 1]
    _, C, _ = leading_pairs(block.apply, start, 1, tol=1e-9, max_products=60)
    off = lambda V: V - C @ (C.T @ V)  # noqa: E731
    random = off(normal(rng, (n, min(_BLOCK, n)), device=s.device))
    outside, _ = probable_largest(lambda V: off(block.apply(off(V))), random, depth=_DEPTH, failure=chance)
    likely = _split(block, C, outside) + slack
    return (likely, chance) if likely < proved else (proved, 0.0)


def _split(block, C, outside):
    HC = block.apply(C)
    inner = C.T @ HC
    R = HC - C @ inner
    return split_sum((inner + inner.T) / 2, R.T @ R, outside, 1)


def _outside(block):
    """A proved bound on the largest eigenvalue off the members' indicator."""
    profiles, s, k = block.profiles, block.roots, block.k
    scatter, cross, others = float(profiles.strengths[k]), 0.0, 0.0
    weighted = lambda sparse: lambda V: s[:, None] * (sparse @ (s[:, None] * V))  # noqa: E731
    if block.cross is not None:
        cross = perron_bound(weighted(block.cross), s)
    o = profiles.others[k]
    if block.keep:
        for number, rows in enumerate(profiles.members):
            if number != k and len(rows):
                others = max(others, _low_rank_largest(block, rows))
    elif len(o):
        others = float((block.diagonal[o] * s[o].square()).amax())
    if block.outer is not None:
        others += perron_bound(weighted(block.outer), s)
    middle, half = (scatter + others) / 2, (scatter - others) / 2
    return middle + (half * half + cross * cross) ** 0.5


def _low_rank_largest(block, rows):
    """The largest eigenvalue of -M_k among the points of one cluster."""
    s = block.roots[rows]
    L = s[:, None] * torch.cat([block.centred[rows], block.own_h[rows][:, None], torch.ones_like(s)[:, None]], 1)
    p = L.shape[1] - 2
    J = torch.eye(p + 2, dtype=s.dtype, device=s.device)
    J[p:, p:] = -torch.eye(2, dtype=s.dtype, device=s.device).flip(0)
    R = torch.linalg.qr(L, mode="r")[1]
    return float(torch.linalg.eigvalsh(R @ J @ R.T).amax())


def _rounding(block):
    """What sums of rounded entries can hide, entries clipped or not by a rounding among them."""
    s, p = block.roots, block.W.shape[1]
    z = s * (block.W.square().sum(1) + 2 * block.h.abs() + block.levels)
    return (p + 40) * _EPS * 2 * float(s.norm() * z.norm())
