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

from copy import copy
from dataclasses import dataclass, field

from sciml.linalg.memory import budget, require
from sciml.random import generator
from sciml.stats.clustering.dense_route import dense_bound, dense_bytes
from sciml.stats.clustering.matrix_free_route import kmeans_matrix_free
from sciml.stats.clustering.sketch_bound import sketch_bound
from sciml.validation import check_option

__all__ = ["CERTIFIED", "Certificate", "certify"]

CERTIFIED = 1e-6  # of the objective: what a gap may be that counts as none
_METHODS = ("auto", "dense", "matrix-free", "sketch")
_DENSE, _SKETCH = 5000, 100_000  # points up to which "auto" takes matrices, and no samples
_DESCENT = 100
_STEPS = 300
_SECONDS, _PER_ENTRY = 1.5, 4e-8  # what "auto" may spend on ascent, and what a step takes for each entry of a matrix


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
    method : {"auto", "dense", "matrix-free", "sketch"}
        How eigenvalues are bounded: with matrices of n^2 numbers; without, for K-means; or from samples of the rows,
        which gives an estimate. "auto", the default: the first up to 5000 points, the second up to 1e5.
    polish : "auto", bool or int
        Steps of ascent that raise a bound which leaves a gap, at most: none for False, 300 for True; "auto", the
        default, as many as take a second or two, and none where this is too few to help.
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
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> found = certify(Affinity(X, 2), torch.tensor([0, 0, 1, 1]))
    >>> found.objective, found.certified
    (1.0, True)
    """
    check_option("method", method, _METHODS)
    rng = generator(0) if rng is None else rng
    affinity = _shared(affinity)
    reference = _descended(affinity, labels)
    n = len(affinity.X)
    steps = _steps(polish, n, affinity.blocks)
    if method == "auto":
        method = _method(n, affinity, memory)
    if method == "sketch":
        found = sketch_bound(affinity, reference, rng, polish=polish)
        report = {"corrected": found.corrected, "size": found.size, "samples": found.samples}
        return _finished(affinity, labels, found.bound, False, found.error, "sketch estimate", report)
    if method == "matrix-free":
        value, report = kmeans_matrix_free(affinity, reference, memory=memory, rng=rng)
        return _finished(affinity, labels, affinity.to_objective(value), True, 0.0, "matrix-free", report)
    device = affinity.X.device
    if polish == "auto" and steps and dense_bytes(n, affinity.blocks, True) > budget(memory, device):
        steps = 0
    needed = dense_bytes(n, affinity.blocks, steps > 0)
    remedy = "pass method='matrix-free'" if affinity.blocks == 1 else "pass method='sketch'"
    require(needed, what=f"a dense certificate of {n} points", remedy=remedy, memory=memory, device=device)
    goal = 0.1 * CERTIFIED * _reference(affinity, labels) / affinity.scale
    value, report = dense_bound(affinity, reference, steps=steps, goal=goal, rng=rng)
    return _finished(affinity, labels, affinity.to_objective(value), True, 0.0, "dense", report)


def _method(n, affinity, memory):
    """The way that "auto" takes: rigorous as long as it can be paid."""
    fits = dense_bytes(n, affinity.blocks, False) <= budget(memory, affinity.X.device)
    if n <= _DENSE and fits:
        return "dense"
    return "matrix-free" if n <= _SKETCH and affinity.blocks == 1 else "sketch"


def _steps(polish, n, blocks):
    if isinstance(polish, bool):
        return _STEPS if polish else 0
    if polish == "auto":
        steps = int(_SECONDS / (_PER_ENTRY * blocks * n * n))
        return min(_STEPS, steps) if steps >= 20 else 0
    return int(polish)


def _reference(affinity, labels):
    """What gaps are compared with: the objective, or what of it is above the least that any labels could cost."""
    above = float(affinity.weights @ affinity.costs(affinity.means(labels)[0]).gather(1, labels[:, None])[:, 0])
    return min(abs(above + affinity.shift), above)


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
    if affinity.blocks == 1 or bool((affinity.logdets != affinity.logdets[0]).any()):
        return affinity
    if bool((affinity.factors != affinity.factors[0]).any()):
        return affinity
    merged = copy(affinity)
    for name in ("_lengths", "q", "offsets"):
        merged.__dict__.pop(name, None)
    merged.factors, merged.logdets = affinity.factors[:1], affinity.logdets[:1]
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
