r"""Proved bounds on the relaxation from multipliers, whatever they are.

.. math:: \sum_k \langle A_k, Z_k \rangle \le y' s + \sum_k t_k \lambda_{\max}\big(A_k - \tfrac12 (y s' + s y') +
          W_k\big) \quad\text{for all } y,\; W_k \ge 0

For a single block, Z has t = s / |s| as an eigenvector and no eigenvalue above one, so that y need not be known:

.. math:: \langle A, Z \rangle \le t' H t + \sum_{j < K} \lambda_j(P H P), \qquad H = A + W,\; P = I - t t'.

Notation  as in the affinities; y (n,) multipliers of the row sums, W (B, n, n) of the signs, lambda_1 the largest.
Cost      one matrix of (n, n) and its eigenvalues for each block.
Pitfalls  W must vanish where Z does not, or the bound is loose; factors tell where that is only up to a threshold.
References  J. Peng, Y. Wei, Approximating K-means-type clustering via semidefinite programming, 2007;
            T. Iguchi, D. Mixon, J. Peterson, S. Villar, Probably certifiably correct k-means clustering, 2017.
"""

from __future__ import annotations

import torch

from sciml.random import generator
from sciml.stats.clustering.relaxation_splitting import RelaxationSplitting
from sciml.stats.clustering.spectral_bounds import spectral_slack

__all__ = ["clipped_part", "dual_bound", "relaxation_bound", "warm_splitting"]

_EPS = torch.finfo(torch.float64).eps
_SUPPORT = 1e-2  # of the largest diagonal entry: below it, an entry of Z is taken for zero
_EVERY = 5


def relaxation_bound(affinity, y, clipped, *, trace="block", A=None):
    r"""Return a bound from above on the sum of inner products over the relaxation, rounding included.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    y : torch.Tensor, shape (n,)
        Multipliers of the row sums; not used for a single block.
    clipped : torch.Tensor, shape (B, n, n)
        W, symmetric and non-negative.
    trace : {"block", "total"}
        Whether every Z_k has trace t_k, or only their sum has trace K; "block" by default.
    A : torch.Tensor, shape (B, n, n), or None
        ``affinity.dense()``, if it is there already.

    Returns
    -------
    float
        In the affinity's units; ``affinity.to_objective`` of it is a bound from below on the objective of all labels.

    Examples
    --------
    Without multipliers, this is what principal components explain, here one: all of a line.

    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity = Affinity(torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64), 2)
    >>> bound = relaxation_bound(affinity, torch.zeros(4).double(), torch.zeros(1, 4, 4).double())
    >>> abs(affinity.to_objective(bound)) < 1e-9
    True
    """
    A = affinity.dense() if A is None else A
    s, K = affinity.roots, affinity.n_clusters
    H = A + clipped
    if len(H) == 1:
        t = (s / torch.linalg.vector_norm(s))[:, None]
        along, through = _off(H[0], t)
        errors = _errors(affinity, H, torch.zeros_like(s))
        largest = torch.linalg.eigvalsh(through)[len(t) - min(K - 1, len(t)) :]
        return along + float(largest.sum()) + K * float(errors[0])
    half = 0.5 * torch.outer(y, s)
    largest = torch.linalg.eigvalsh(H - half - half.T)[:, -1] + _errors(affinity, H, y)
    total = float(K * largest.amax() if trace == "total" else (affinity.traces * largest).sum())
    inner = float(torch.dot(y, s))
    return total + inner + 2 * len(s) * _EPS * float(torch.dot(y.abs(), s))


def _off(H, t):
    """Return t'Ht, and H projected off t."""
    Ht = H @ t
    along = float(t.T @ Ht)
    cross = Ht @ t.T
    through = H - cross - cross.T + along * (t @ t.T)
    return along, (through + through.T) / 2


def _errors(affinity, H, y):
    """What rounding can hide in the entries of every matrix and in its largest eigenvalue: shape (B,)."""
    s = affinity.roots
    n, p = affinity.X.shape
    norm = torch.linalg.vector_norm
    lengths = norm(s * (affinity.q + affinity.offsets[:, None]), dim=1) + 2 * norm(y)
    entries = (p + 8) * _EPS * (2 * lengths * norm(s) + norm(H, dim=(1, 2)))
    return entries + H.new_tensor([spectral_slack(n, float(norm(block) + 2 * norm(y) * norm(s))) for block in H])


def clipped_part(affinity, y, support, A=None):
    """Return the W that makes ``(y s' + s y') / 2 - A - W`` non-positive off a support, and nothing on it.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    y : torch.Tensor, shape (n,)
        Multipliers of the row sums.
    support : torch.Tensor of bool, shape (B, n, n)
        Where Z is not zero.
    A : torch.Tensor, shape (B, n, n), or None
        ``affinity.dense()``, if it is there already.

    Returns
    -------
    torch.Tensor, shape (B, n, n)

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity = Affinity(torch.tensor([[0.0], [4.0]], dtype=torch.float64), 2)
    >>> clipped_part(affinity, torch.zeros(2).double(), torch.eye(2).bool()[None])[0]
    tensor([[0., 2.],
            [2., 0.]], dtype=torch.float64)
    """
    A = affinity.dense() if A is None else A
    half = 0.5 * torch.outer(y, affinity.roots)
    return (half + half.T - A).clamp_min(0).masked_fill(support, 0)


def dual_bound(affinity, solution, *, trace="block", steps=20, rng=None):
    """Return a proved bound from below on the objective of all labels, from a low-rank solution.

    Its multipliers say nothing about signs. Those of the signs are clipped first, then improved by splitting.

    Parameters
    ----------
    affinity : Affinity
        The problem that was solved; (n, n) matrices are formed, some six a block.
    solution : LowRankSolution
        From `factorise`, to a tolerance of 1e-4 or so.
    trace : {"block", "total"}
        As for `factorise`; "block" by default.
    steps : int
        Of the splitting; 20 by default, which leave a gap of 1e-3 or less.
    rng : numpy.random.Generator, int or None
        Source of start vectors.

    Returns
    -------
    float
        In the units of the objective; valid whether or not the solution has converged.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> from sciml.stats.clustering.low_rank import factorise, start_factor
    >>> affinity = Affinity(torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64), 2)
    >>> found = factorise(affinity, start_factor(affinity, torch.tensor([0, 0, 1, 1]), rng=0), tol=1e-8)
    >>> round(dual_bound(affinity, found), 6)
    1.0
    """
    state = warm_splitting(affinity, solution, trace, generator(rng))
    best = relaxation_bound(affinity, *state.multipliers(), trace=trace, A=state.A)
    for step in range(1, steps + 1):
        state.advance()
        # Bounds do not improve at every step.
        if step % _EVERY == 0 or step == steps:
            best = min(best, relaxation_bound(affinity, *state.multipliers(), trace=trace, A=state.A))
    return affinity.to_objective(best)


def warm_splitting(affinity, solution, trace, rng):
    """Return a `RelaxationSplitting` that starts from factors and their multipliers.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    solution : LowRankSolution
        Where to start.
    trace : {"block", "total"}
        As for `factorise`.
    rng : numpy.random.Generator
        Source of start vectors.

    Returns
    -------
    RelaxationSplitting

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> from sciml.stats.clustering.low_rank import factorise, random_factor
    >>> affinity = Affinity(torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64), 2)
    >>> found = factorise(affinity, random_factor(affinity, rng=0))
    >>> warm_splitting(affinity, found, "block", np.random.default_rng(0)).outer.shape
    torch.Size([1, 4, 4])
    """
    Z, y = solution.U @ solution.U.mT, solution.multipliers
    support = _SUPPORT * Z.diagonal(dim1=1, dim2=2).amax(1)
    W = clipped_part(affinity, y, support[:, None, None] < Z)
    vectors = torch.linalg.svd(solution.U, full_matrices=False)[0]
    return RelaxationSplitting(affinity, Z, rng, trace, alpha=y, W=W, vectors=vectors)
