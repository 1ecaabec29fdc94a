r"""A proof of how far labels are from the best ones: objective, bound from below, gap.

.. math:: \text{bound} \le \min_{\text{partitions into at most } K \text{ clusters}} \text{objective} \le
          \text{objective of the labels} = \text{bound} + \text{gap}

The bound holds for all partitions, whatever the labels it was built from, so that it never lies about wrong labels: it
is only loose there. A gap of zero, up to 1e-6 of the objective, is a proof that no labels are better.

Notation  as in the affinities; B = 1 block is the K-means form, B = K blocks, a covariance each, the likelihood form.
Cost      dense: a pass over all pairs and a Cholesky factorisation, n^3 / 3 operations, for each block.
Pitfalls  what is certified are labels for the covariances given, not the joint choice of both; distances are those of
          the affinity's factors, whose own rounding, cond(Sigma) eps relative, is common to objective and bound.
References  J. Peng, Y. Wei, Approximating K-means-type clustering via semidefinite programming, SIAM J. Optim., 2007.
            Y. Zhuang, X. Chen, Y. Yang, Likelihood adjusted semidefinite programs, 2023, arXiv 2209.15097.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sciml.linalg.memory import require
from sciml.random import generator
from sciml.stats.clustering.affinity import Affinity
from sciml.stats.clustering.kmeans_certificate import Clusters, best_potentials, dense_multiplier, dense_value_bound
from sciml.stats.clustering.likelihood_certificate import Profiles, best_design, block_multiplier, dense_block_bound
from sciml.validation import check_option

__all__ = ["CERTIFIED", "Certificate", "certify"]

CERTIFIED = 1e-6  # of the objective: what a gap may be that counts as none
_METHODS = ("auto", "dense")
_DESCENT = 100


@dataclass(frozen=True)
class Certificate:
    """What `certify` returns; numbers in the data's units.

    Parameters
    ----------
    objective : float
        What the labels cost.
    bound : float
        No partition into at most K clusters costs less, if `rigorous`.
    gap : float
        ``objective - bound``, not below 0.
    certified : bool
        Whether the gap is at most 1e-6 of the objective, and of the objective less its constant, and rigorous.
    rigorous : bool
        Whether the bound holds for certain, rounding included.
    error : float
        Standard error of an estimated bound; 0 for others.
    method : str
        "dense", "matrix-free" or "sketch estimate".
    report : dict
        How the bound was found.
    """

    objective: float
    bound: float
    gap: float
    certified: bool
    rigorous: bool
    error: float
    method: str
    report: dict = field(default_factory=dict)


def certify(affinity, labels, *, method="auto", polish="auto", memory=None, rng=None):
    """Return objective, bound from below and gap of labels.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    labels : torch.Tensor of int64, shape (n,)
        Clusters 0 to K - 1; some may be empty.
    method : {"auto", "dense"}
        How eigenvalues are bounded; "auto" by default.
    polish : "auto", bool
        Not used yet.
    memory : int, float, str or None
        What temporaries may take; None (the default) asks the configuration.
    rng : numpy.random.Generator or None
        Source of start vectors; None, the default: seed 0, since the bound hardly depends on it.

    Returns
    -------
    Certificate

    Raises
    ------
    MemoryBudgetError
        If the matrices of the dense way do not fit.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> found = certify(Affinity(X, 2), torch.tensor([0, 0, 1, 1]))
    >>> found.objective, found.certified
    (1.0, True)
    """
    check_option("method", method, _METHODS)
    rng = generator(0) if rng is None else rng
    affinity = _shared(affinity)
    reference = _descended(affinity, labels)
    n = affinity.X.shape[0]
    require(4 * 8 * n * n, what=f"a dense certificate of {n} points", remedy="pass method='matrix-free'", memory=memory)
    if affinity.blocks == 1:
        value = _kmeans_value(affinity, reference, rng)
    else:
        value = _likelihood_value(affinity, reference, rng)
    return _finished(affinity, labels, affinity.to_objective(value), True, 0.0, "dense", {})


def _finished(affinity, labels, bound, rigorous, error, method, report):
    above = float(affinity.weights @ affinity.costs(affinity.means(labels)[0]).gather(1, labels[:, None])[:, 0])
    objective = above + affinity.shift
    # Squares are not negative, and no log-determinant is below the smallest.
    bound = min(max(float(bound), affinity.shift), objective)
    gap = objective - bound
    certified = rigorous and gap <= CERTIFIED * min(abs(objective), above)
    return Certificate(objective, bound, gap, certified, rigorous, error, method, report)


def _shared(affinity):
    """Return the affinity with one block where all blocks are the same: the bound is tighter and costs less."""
    if affinity.blocks == 1 or bool((affinity.offsets > 0).any()):
        return affinity
    if bool((affinity.factors != affinity.factors[0]).any()):
        return affinity
    merged = object.__new__(Affinity)
    merged.__dict__.update(affinity.__dict__)
    merged.factors, merged.q, merged.offsets = affinity.factors[:1], affinity.q[:1], affinity.offsets[:1]
    merged.blocks, merged.traces = 1, affinity.traces.new_full((1,), affinity.n_clusters)
    return merged


def _descended(affinity, labels):
    """Return labels that assigning all points to their best mean leaves as they are: better labels bound better."""
    for _ in range(_DESCENT):
        new = affinity.costs(affinity.means(labels)[0]).argmin(1)
        if bool((new == labels).all()) or len(new.unique()) < len(labels.unique()):
            break
        labels = new
    return labels


def _kmeans_value(affinity, labels, rng):
    """The least bound on <A, Z>, <G, Z> less the sum of the lengths."""
    X = affinity.X @ affinity.factors[0] / affinity.scale**0.5
    clusters = Clusters(X, affinity.weights, labels, affinity.n_clusters)
    u = best_potentials(clusters, rng)
    start = torch.zeros_like(u).scatter_(1, labels[:, None], affinity.roots[:, None])
    B = dense_multiplier(clusters, u)
    total = float(affinity.weights @ X.square().sum(1))
    return dense_value_bound(X, affinity.weights, B, affinity.n_clusters, start=start, rng=rng) - total


def _likelihood_value(affinity, labels, rng):
    profiles = Profiles(affinity, labels)
    a, keep = best_design(profiles, rng)
    value = float(affinity.weights @ a)
    for k in range(affinity.n_clusters):
        B = block_multiplier(profiles, k, a, keep[k])[1]
        start = (affinity.roots * (labels == k))[:, None]
        value += dense_block_bound(affinity, k, a, B, start=start, rng=rng)
    return value
