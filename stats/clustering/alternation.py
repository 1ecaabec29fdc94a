r"""iLA-SDP: the relaxation for given covariances and the covariances for a given solution, in turn.

.. math:: \max_{Z, \Sigma} \tfrac12 \sum_k \langle A_k(\Sigma_k), Z_k \rangle + \log \text{prior}(\Sigma), \qquad
          T_k = X' (\operatorname{Diag}(w_k) - Z_k) X, \quad w_k = Z_k \mathbf 1

Labels and means never appear: T_k is a graph Laplacian of a non-negative matrix, hence positive semidefinite, also
where the memberships w_k are fractions. Each half-step raises the objective, if the relaxation is solved exactly.

Notation  X (n, p) centred points; Z_k = U_k U_k'; w (n, K) memberships; n_k sums of w_k; omega weights.
Cost      a relaxation in each of some ten outer steps, started at the last solution: n p K r operations a descent step.
Pitfalls  covariances fitted to a partition make that partition optimal when clusters hold few points: the first metric
          is pooled, and memberships stay fractions until the end. The low-rank solver may dip by a thousandth; the best
          iterate is kept.
References  Y. Zhuang, X. Chen, Y. Yang, Likelihood adjusted semidefinite programs for clustering heterogeneous data,
          2023, arXiv 2209.15097.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sciml.iterate import Step, run
from sciml.stats.clustering.affinity import Affinity
from sciml.stats.clustering.covariance import pooled_covariances
from sciml.stats.clustering.low_rank import factorise, memberships, start_factor

__all__ = ["Alternation", "alternate"]


@dataclass(frozen=True)
class Alternation:
    """The best iterate of `alternate`.

    Parameters
    ----------
    memberships : torch.Tensor, shape (n, K)
        w; rows sum to one.
    covariances : torch.Tensor, shape (K, p, p)
        Sigma.
    objective : float
        Penalised log-likelihood of the relaxation, but for constants; it rises.
    change : float
        Mean over the points of the largest change of a membership in the last step.
    relaxed : float
        What the relaxation costs at these covariances, in the units of the objective of labels.
    """

    memberships: torch.Tensor
    covariances: torch.Tensor
    objective: float
    change: float
    relaxed: float


def alternate(
    X,
    K,
    start,
    rng,
    *,
    weights=None,
    floor=None,
    prior="pooled",
    strength=None,
    rank=3,
    solver="low-rank",
    tol=1e-3,
    max_iter=10,
    callback=None,
    on_failure="ignore",
):
    """Return the run of the alternation.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    K : int
        Clusters.
    start : torch.Tensor, shape (n,) of int64 or (n, K)
        Labels or memberships.
    rng : numpy.random.Generator
        Perturbs the first factors.
    weights : torch.Tensor, shape (n,), or None
        omega; None, the default: ones.
    floor : torch.Tensor, shape (p,), or None
        Least variance; None, the default: a millionth of the variances of the columns, of the largest where a column
        is constant.
    prior, strength : str, float or None
        As for `pooled_covariances`.
    rank : int
        Of the factors; 3 by default. Rank 1 is a local method.
    solver : {"low-rank", "exact"}
        How the relaxation is solved; "exact" is for a few hundred points.
    tol : float
        Bound on the change of the memberships; 1e-3 by default.
    max_iter : int
        Outer steps; 10 by default.
    callback, on_failure
        As for :func:`sciml.iterate.run`; "ignore" by default, since the result is refined and judged anyway.

    Returns
    -------
    sciml.iterate.Run
        With an `Alternation` as value, and "objective" in the history.

    Examples
    --------
    >>> import torch
    >>> from sciml.random import generator
    >>> X = torch.tensor([[0.0], [0.2], [0.1], [5.0], [7.0], [9.0]], dtype=torch.float64)
    >>> done = alternate(X, 2, torch.tensor([0, 0, 0, 0, 1, 1]), generator(0))
    >>> done.value.memberships.argmax(1)
    tensor([0, 0, 0, 1, 1, 1])
    """
    weights = torch.ones_like(X[:, 0]) if weights is None else weights
    mean = weights @ X / weights.sum()
    X = X - mean
    if floor is None:
        variance = weights @ X.square() / weights.sum()
        largest = float(variance.max()) or 1.0
        # A constant column has no unit of its own.
        floor = 1e-6 * torch.where(variance > 1e-20 * largest, variance, largest)
    steps = _steps(X, K, start, rng, weights, floor, prior, strength, rank, solver)
    return run(steps, name="alternate", tol=tol, max_iter=max_iter, callback=callback, on_failure=on_failure)


def _steps(X, K, start, rng, weights, floor, prior, strength, rank, solver):
    """Yield the best iterate so far after every outer step."""
    w = start if start.ndim == 2 else torch.nn.functional.one_hot(start, K).to(X)
    N = weights @ w
    means = (weights[:, None] * w).T @ X / N.clamp_min(1e-9)[:, None]
    T = torch.stack([_scatter(X - m, weights * v) for m, v in zip(means, w.T, strict=True)])
    # The first metric is the same for all: a cluster has no shape before it has its points.
    pooled = T.sum(0) / N.sum()
    Sigma, centre, log_prior = pooled_covariances(
        pooled[None] * N[:, None, None], N, floor, prior=prior, strength=strength
    )
    U = y = best = None
    change = float("inf")
    while True:
        affinity = Affinity(X, K, Sigma, weights)
        if solver == "exact":
            from sciml.stats.clustering.exact import admm

            solved = admm(affinity, on_failure="ignore")
            Z, value = solved.Z, float((affinity.dense() * solved.Z).sum())
            s = affinity.roots
            fresh = ((Z @ s) / s).T
            T = _scatters(X, weights, fresh, s[:, None] * X, Z=Z)
        else:
            U = start_factor(affinity, w.argmax(1), rank, rng) if U is None else _stirred(U, affinity, rng)
            solved = factorise(affinity, U, multipliers=y, tol=1e-3, max_iter=30, on_failure="ignore")
            U, value = solved.U, solved.value
            fresh = memberships(affinity, U, w.argmax(1))
            T = _scatters(X, weights, fresh, affinity.roots[:, None] * X, U=U)
        fresh = fresh.clamp_min(0)
        fresh = fresh / fresh.sum(1, keepdim=True).clamp_min(1e-12)
        change = float((weights @ (fresh - w).abs().amax(1)) / weights.sum())
        w = fresh
        relaxed = float(affinity.to_objective(value))
        objective = -0.5 * relaxed + float(log_prior)
        now = Alternation(w, Sigma, objective, change, relaxed)
        best = now if best is None or objective > best.objective else best
        yield Step(best, change, {"objective": objective})
        Sigma, centre, log_prior = pooled_covariances(
            T, weights @ w, floor, prior=prior, strength=strength, centre=centre if best is not now else None
        )


def _stirred(U, affinity, rng):
    """The last factors, a little perturbed: a partition is stationary, and nothing would move."""
    from sciml.stats.clustering.low_rank import random_factor

    return U + 0.02 * random_factor(affinity, U.shape[2], rng)


def _scatter(D, w):
    return (D * w[:, None]).T @ D


def _scatters(X, weights, w, sX, U=None, Z=None):
    """T_k = X' (Diag(omega w_k) - s Z_k s) X, positive semidefinite but for rounding."""
    scatters = []
    for k in range(w.shape[1]):
        if U is not None:
            half = sX.T @ U[k]
            lost = half @ half.T
        else:
            lost = sX.T @ Z[k] @ sX
        T = _scatter(X, weights * w[:, k]) - lost
        values, vectors = torch.linalg.eigh(0.5 * (T + T.T))
        scatters.append((vectors * values.clamp_min(0)) @ vectors.T)
    return torch.stack(scatters)
