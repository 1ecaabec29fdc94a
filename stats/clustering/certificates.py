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
from functools import cached_property

import torch

from sciml.exceptions import MemoryBudgetError
from sciml.linalg.memory import budget, require
from sciml.random import generator
from sciml.stats.clustering.block_route import likelihood_matrix_free
from sciml.stats.clustering.dense_route import dense_bound, dense_bytes
from sciml.stats.clustering.matrix_free_route import kmeans_matrix_free
from sciml.stats.clustering.sketch_bound import sketch_bound
from sciml.validation import check_number, check_option

__all__ = ["CERTIFIED", "Certificate", "certificate_seconds", "certify"]

CERTIFIED = 1e-6  # of the objective: what a gap may be that counts as none
_METHODS = ("auto", "dense", "matrix-free", "sketch")
# Points up to which "auto" goes straight to matrices; takes them if the way without leaves a gap; takes no samples.
_SMALL, _DENSE, _SKETCH = 1500, 5000, 100_000
_DESCENT = 100
_STEPS, _LEAST = 300, 20
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
        Whether the bound holds, rounding included: for certain, or, for some that are "matrix-free", but for a chance
        of 1e-12 over the vectors drawn, which ``report["failure_probability"]`` states.
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
        How eigenvalues are bounded: with matrices of n^2 numbers; without; or from samples of the rows, which gives an
        estimate. "auto", the default: with them up to 1500 points; then without up to 1e5, and with them as well where
        this leaves a gap, up to 5000; samples beyond.
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
    InvalidInputError
        If `method` or `polish` is none of these.
    MemoryBudgetError
        If the matrices of the dense way, or the pairs of the one without, do not fit.

    Examples
    --------
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> found = certify(Affinity(X, 2), torch.tensor([0, 0, 1, 1]))
    >>> found.objective, found.certified
    (1.0, True)
    """
    check_option("method", method, _METHODS)
    if not isinstance(polish, bool) and polish != "auto":
        polish = check_number("polish", polish, low=0, integer=True)
    call = _Call(_shared(affinity), labels, polish, memory, generator(0) if rng is None else rng)
    if method == "auto":
        return _automatic(call)
    return {"dense": _dense, "matrix-free": _matrix_free, "sketch": _sketch}[method](call)


def certificate_seconds(n, p, n_clusters, blocks, method="auto"):
    """Return about how many seconds of one core of 2024 a certificate takes without ascent, within a factor of three.

    Parameters
    ----------
    n, p : int
        Points and features.
    n_clusters : int
        K.
    blocks : int
        1 for K-means or one covariance for all, else K.
    method : {"auto", "dense", "matrix-free", "sketch"}
        As for `certify`; "auto", the default, is the way it begins with.

    Returns
    -------
    float
        Clusters that hardly overlap take a tenth of it without matrices.

    Examples
    --------
    >>> certificate_seconds(1000, 10, 3, 1) < 1 < certificate_seconds(100_000, 10, 3, 1)
    True
    """
    check_option("method", method, _METHODS)
    if method == "auto":
        method = "dense" if n <= _SMALL else "matrix-free" if n <= _SKETCH else "sketch"
    if method == "sketch":
        return 2e-7 * n + 8 * certificate_seconds(min(1200, max(400, 100 * n_clusters)), p, n_clusters, blocks, "dense")
    if method == "matrix-free":
        pairs = 3e-9 * (1 + p / 40) if blocks == 1 else 6e-8 * blocks
        return 0.2 * blocks + 1e-4 * n + pairs * n * n
    return blocks * (1.5e-7 * n * n + 3e-11 * n**3)


@dataclass(frozen=True)
class _Call:
    affinity: object
    labels: torch.Tensor
    polish: object
    memory: object
    rng: object

    @cached_property
    def above(self):
        """The objective less what no labels could avoid."""
        costs = self.affinity.costs(self.affinity.means(self.labels)[0])
        return float(self.affinity.weights @ costs.gather(1, self.labels[:, None])[:, 0])

    @cached_property
    def reference(self):
        return _descended(self.affinity, self.labels)

    @property
    def allowed(self):
        """The gap that counts as none."""
        return CERTIFIED * min(abs(self.above + self.affinity.shift), self.above)

    @property
    def goal(self):
        """A tenth of it, in the affinity's units."""
        return 0.1 * self.allowed / self.affinity.scale

    def finished(self, bound, rigorous, error, method, report):
        objective = self.above + self.affinity.shift
        # Squares are not negative, and no log-determinant is below the smallest.
        bound = min(max(float(bound), self.affinity.shift), objective)
        gap = objective - bound
        certified = rigorous and gap <= self.allowed
        return Certificate(objective, bound, gap, certified, rigorous, error, method, report)


def _automatic(call):
    """Rigorous as long as that can be paid; matrices where they are quick, or tell more."""
    n, blocks = len(call.affinity.X), call.affinity.blocks
    fits = dense_bytes(n, blocks, False) <= budget(call.memory, call.affinity.X.device)
    if n > _SKETCH:
        return _sketch(call)
    if n <= _SMALL and fits:
        return _dense(call)
    try:
        found = _matrix_free(call)
    except MemoryBudgetError:
        return _dense(call) if n <= _DENSE and fits else _sketch(call)
    if found.certified or n > _DENSE or not fits:
        return found
    return max(found, _dense(call), key=lambda one: one.bound)


def _sketch(call):
    found = sketch_bound(call.affinity, call.reference, call.rng, polish=call.polish)
    report = {"corrected": found.corrected, "size": found.size, "samples": found.samples}
    return call.finished(found.bound, False, found.error, "sketch estimate", report)


def _matrix_free(call):
    common = {"memory": call.memory, "rng": call.rng}
    if call.affinity.blocks == 1:
        value, report = kmeans_matrix_free(call.affinity, call.reference, **common)
    else:
        value, report = likelihood_matrix_free(call.affinity, call.reference, goal=call.goal, **common)
    return call.finished(call.affinity.to_objective(value), True, 0.0, "matrix-free", report)


def _dense(call):
    n, blocks, device = len(call.affinity.X), call.affinity.blocks, call.affinity.X.device
    steps = _steps(call.polish, n, blocks)
    if call.polish == "auto" and dense_bytes(n, blocks, True) > budget(call.memory, device):
        steps = 0
    needed = dense_bytes(n, blocks, steps > 0)
    remedy = "pass method='matrix-free'" + ", or polish=False" * (steps > 0)
    require(needed, what=f"a dense certificate of {n} points", remedy=remedy, memory=call.memory, device=device)
    value, report = dense_bound(call.affinity, call.reference, steps=steps, goal=call.goal, rng=call.rng)
    return call.finished(call.affinity.to_objective(value), True, 0.0, "dense", report)


def _steps(polish, n, blocks):
    if isinstance(polish, bool):
        return _STEPS if polish else 0
    if polish == "auto":
        steps = int(_SECONDS / (_PER_ENTRY * blocks * n * n))
        return min(_STEPS, steps) if steps >= _LEAST else 0
    return polish


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
