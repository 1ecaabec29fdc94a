r"""The relaxation of clustering by non-negative factors of low rank, one factor for each covariance.

.. math:: \max_{U_1, \dots, U_B \ge 0} \sum_k \langle U_k, A_k U_k \rangle \quad \text{subject to } |U_k|_F^2 = t_k,\;
          \sum_k U_k (U_k' s) = s

Z_k = U_k U_k' is positive semidefinite and non-negative by construction; an exact projection keeps the traces,
multipliers the row sums.

Notation  as in the affinities; U_k (n, r); y (n,) multipliers; beta penalty; rho (n,) residual of the row sums.
Cost      2 n (p + B) B r operations for a product, two products a step, some hundred steps; n (p + 5 B r) numbers.
Pitfalls  labels are a stationary point, so that a start made from them is perturbed. Ranks of K or less in all are
          local methods over labels; B = 1 wants 2 K, and a block of its own wants 3. U is unique up to rotation at
          best: memberships, denoised points and the value are what one reads off.
References
    Y. Zhuang, X. Chen, Y. Yang, R. Y. Zhang, Statistically optimal K-means clustering via nonnegative low-rank
    semidefinite programming, 2024, arXiv 2305.18436.
    Y. Zhuang, X. Chen, Y. Yang, Likelihood adjusted semidefinite programs, 2023, arXiv 2209.15097.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sciml.exceptions import InvalidInputError
from sciml.iterate import Status, Step, run
from sciml.random import generator, normal
from sciml.stats.clustering.projected_descent import descend
from sciml.stats.clustering.row_sum_lagrangian import RowSumLagrangian

__all__ = ["LowRankSolution", "default_rank", "denoised", "factorise", "memberships", "random_factor", "start_factor"]

_FIRST_GOAL = 1e-2  # of the first descent
_TIGHTER = 0.2  # each goal against the one before, down to a third of tol
_LAST_GOAL = 0.3
_FALL = 0.5  # of the residual; where a descent that reached its goal leaves more, beta is doubled
_MOST_BETA = 1e4


@dataclass(frozen=True)
class LowRankSolution:
    """What `factorise` returns.

    Parameters
    ----------
    U : torch.Tensor, shape (B, n, r)
        Factors, non-negative.
    multipliers : torch.Tensor, shape (n,)
        y of the row sums, over the affinity's scale.
    value : float
        The sum of inner products less y' rho: to first order what it is where the row sums hold. In the affinity's
        units; ``affinity.to_objective(value)`` is in the data's.
    residual : float
        ``norm(rho) / norm(s)``.
    stationarity : float
        ``norm(P(U - gradient / n) - U) / norm(U)``, with n the sum of the weights.
    penalty : float
        The last beta.
    status : Status
        How the iteration ended.
    n_iter, n_inner : int
        Updates of the multipliers, and steps of descent in all.
    history : dict of ndarray
        "criterion", "residual", "stationarity", "value", "penalty" and "seconds", one for each update.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity = Affinity(torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64), 2)
    >>> start = start_factor(affinity, torch.tensor([0, 0, 1, 1]), 4, rng=0)
    >>> factorise(affinity, start).converged
    True
    """

    U: torch.Tensor
    multipliers: torch.Tensor
    value: float
    residual: float
    stationarity: float
    penalty: float
    status: Status
    n_iter: int
    n_inner: int
    history: dict

    @property
    def converged(self):
        """Whether residual and stationarity fell to the tolerance."""
        return self.status is Status.CONVERGED


@dataclass(frozen=True)
class _Iterate:
    U: torch.Tensor
    y: torch.Tensor
    value: float
    residual: float
    stationarity: float
    penalty: float
    n_inner: int


def factorise(
    affinity,
    U0,
    *,
    multipliers=None,
    trace="block",
    tol=1e-3,
    max_iter=60,
    max_inner=300,
    callback=None,
    on_failure=None,
):
    r"""Solve the relaxation by factors of low rank, from a start.

    Parameters
    ----------
    affinity : Affinity
        The problem: B blocks of n points.
    U0 : torch.Tensor, shape (B, n, r)
        Start; negative entries become zero. `start_factor` and `random_factor` make one.
    multipliers : torch.Tensor, shape (n,), or None
        First y, such as that of a solution nearby; zeros by default.
    trace : {"block", "total"}
        Whether every Z_k has trace t_k (the default, a tighter relaxation), or only their sum has trace K.
    tol : float
        Bound on residual and stationarity, see `LowRankSolution`; 1e-3 by default, enough for labels. 1e-5 gives the
        value to about six digits.
    max_iter : int
        Updates of the multipliers at most; 60 by default.
    max_inner : int
        Steps of descent for each, at most; 300 by default.
    callback : callable or None
        ``callback(n_iter, step)``, called after each update; a true value stops. None by default.
    on_failure : {"warn", "raise", "ignore"} or None
        As for :func:`sciml.iterate.run`.

    Returns
    -------
    LowRankSolution
        The best iterate: the one with the smallest criterion.

    Raises
    ------
    InvalidInputError
        If `U0` has another shape than (B, n, r), or `trace` is unknown.
    ConvergenceError
        If the tolerance was not met and `on_failure` is "raise".

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not met and `on_failure` is "warn".

    Notes
    -----
    The problem is not convex, and the value that it ends at is a lower bound of the objective only as far as the
    optimum is global; `dual_bound` is one in any case.

    Examples
    --------
    Two pairs of points: the relaxation is tight, and its value is the sum of squares of the best labels.

    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity = Affinity(torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64), 2)
    >>> found = factorise(affinity, random_factor(affinity, 4, rng=0), tol=1e-8)
    >>> round(affinity.to_objective(found.value), 6)
    1.0
    """
    if trace not in ("block", "total"):
        raise InvalidInputError(f"trace must be 'block' or 'total'; got {trace!r}.")
    B, n, _ = affinity.shape
    if U0.ndim != 3 or U0.shape[:2] != (B, n) or U0.shape[2] < 1:
        raise InvalidInputError(
            f"U0 must have shape ({B}, {n}, rank); got {tuple(U0.shape)}. start_factor and random_factor make one."
        )
    problem = RowSumLagrangian(affinity, trace)
    y = torch.zeros_like(problem.s) if multipliers is None else multipliers
    U = problem.project_(problem.pack(U0))
    steps = _steps(problem, U, y, tol, max_inner)
    loop = {"callback": callback, "on_failure": on_failure, "dtype": str(U.dtype)}
    done = run(steps, name="factorise", tol=tol, max_iter=max_iter, **loop)
    best = done.value
    return LowRankSolution(
        U=problem.unpack(best.U),
        multipliers=best.y,
        value=best.value,
        residual=best.residual,
        stationarity=best.stationarity,
        penalty=best.penalty,
        status=done.status,
        n_iter=done.n_iter,
        n_inner=best.n_inner,
        history=done.history,
    )


def _steps(problem, U, y, tol, max_inner):
    """Yield the best iterate so far after every update of the multipliers, the start first."""
    beta, goal, tau, last, n_inner = 1.0, _FIRST_GOAL, 1 / problem.size, None, 0
    at = problem.evaluate(U, y, beta)
    stationarity = problem.natural_step(U, problem.gradient(U, y, beta, at))
    norm = problem.size**0.5
    best = None
    while True:
        size = float(torch.linalg.vector_norm(at.residual))
        # y was the multiplier that the descent saw; its own estimate is one update on.
        value = at.value - float(torch.dot(y, at.residual))
        if n_inner:
            y = torch.add(y, at.residual, alpha=beta)
        residual = size / norm
        now = _Iterate(U, y, value, residual, stationarity, beta, n_inner)
        if best is None or max(residual, stationarity) < max(best.residual, best.stationarity):
            best = now
        scalars = {"residual": residual, "stationarity": stationarity, "value": value, "penalty": beta}
        yield Step(best, max(best.residual, best.stationarity), scalars)
        # A descent that was cut short says nothing of beta: a larger one would make it harder still.
        if last is not None and residual > max(_FALL * last, tol) and stationarity <= goal:
            beta = min(2 * beta, _MOST_BETA)
        if n_inner:
            last, goal = residual, max(_TIGHTER * goal, _LAST_GOAL * tol)
        U, at, stationarity, tau, n = descend(problem, U, y, beta, tau, goal=goal, max_iter=max_inner)
        n_inner += n


def default_rank(affinity):
    """Return the rank that is used where none is given: 2 K for a single block, 3 for a block of its own.

    Parameters
    ----------
    affinity : Affinity
        The problem.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> default_rank(Affinity(torch.eye(5, dtype=torch.float64), 4))
    8
    """
    return 2 * affinity.n_clusters if affinity.blocks == 1 else 3


def start_factor(affinity, labels, rank=None, rng=None, perturbation=0.1):
    """Return factors near those of labels.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    labels : torch.Tensor of int64, shape (n,)
        0 to K - 1; a cluster without points starts at random.
    rank : int or None
        Columns of a factor; `default_rank` by default.
    rng : numpy.random.Generator, int or None
        Source of the perturbation.
    perturbation : float
        Its size, dimensionless; 0.1 by default. Labels themselves are stationary, and nothing would move.

    Returns
    -------
    torch.Tensor, shape (B, n, rank)
        Columns of a block stand for its clusters in turn.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity = Affinity(torch.eye(4, dtype=torch.float64), 2)
    >>> start_factor(affinity, torch.tensor([0, 0, 1, 1]), 2, perturbation=0)[0].square().sum(0).round(decimals=9)
    tensor([1., 1.], dtype=torch.float64)
    """
    rank = default_rank(affinity) if rank is None else rank
    B, K = affinity.blocks, affinity.n_clusters
    onehot = torch.nn.functional.one_hot(labels, K).to(affinity.X.dtype) * affinity.roots[:, None]
    onehot /= torch.linalg.vector_norm(onehot, dim=0).clamp_min(torch.finfo(onehot.dtype).tiny)
    if B == 1:
        columns = torch.arange(rank, device=labels.device) % K
        copies = torch.bincount(columns, minlength=K)[columns]
        U = (onehot[:, columns] / copies.sqrt())[None]
    else:
        U = (onehot.T[:, :, None] / rank**0.5).expand(-1, -1, rank)
    return U + perturbation * random_factor(affinity, rank, rng)


def random_factor(affinity, rank=None, rng=None):
    """Return factors at random: absolute values of normal numbers, with columns of length about one.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    rank : int or None
        Columns of a factor; `default_rank` by default.
    rng : numpy.random.Generator, int or None
        Source; drawn on the CPU, so that every device starts alike.

    Returns
    -------
    torch.Tensor, shape (B, n, rank)

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> random_factor(Affinity(torch.eye(4, dtype=torch.float64), 2), rng=0).shape
    torch.Size([1, 4, 4])
    """
    B, n, _ = affinity.shape
    rank = default_rank(affinity) if rank is None else rank
    roots = affinity.roots[:, None]
    draw = normal(generator(rng), (B, n, rank), device=roots.device, dtype=roots.dtype).abs_()
    return draw.mul_(roots / torch.linalg.vector_norm(roots))


def memberships(affinity, U, labels=None):
    """Return how far every point belongs to every cluster, by the row sums of Z.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    U : torch.Tensor, shape (B, n, r)
        Factors.
    labels : torch.Tensor of int64, shape (n,), or None
        Needed for a single block only, whose Z does not say which cluster is which: the row sums are then split by
        the labels of the columns.

    Returns
    -------
    torch.Tensor, shape (n, K)
        Rows sum to one as far as the row sums of Z do.

    Raises
    ------
    InvalidInputError
        If there is a single block for several clusters, and `labels` is None.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity, labels = Affinity(torch.eye(4, dtype=torch.float64), 2), torch.tensor([0, 0, 1, 1])
    >>> U = start_factor(affinity, labels, 2, perturbation=0)
    >>> memberships(affinity, U, labels)[0].round(decimals=9)
    tensor([1., 0.], dtype=torch.float64)
    """
    s = affinity.roots
    if affinity.blocks > 1:
        return (U @ (U.mT @ s)[..., None])[..., 0].T / s[:, None]
    if labels is None:
        raise InvalidInputError(
            "labels must be given where one block serves all clusters; got None. Round denoised(...) by k-means first."
        )
    onehot = torch.nn.functional.one_hot(labels, affinity.n_clusters).to(U.dtype)
    return U[0] @ (U[0].T @ (s[:, None] * onehot)) / s[:, None]


def denoised(affinity, U):
    """Return the points Z X, with Z the sum of the blocks: rows that tend to the means of their clusters.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    U : torch.Tensor, shape (B, n, r)
        Factors.

    Returns
    -------
    torch.Tensor, shape (n, p)
        Of the centred points.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity = Affinity(torch.tensor([[0.0], [2.0], [8.0], [10.0]], dtype=torch.float64), 2)
    >>> U = start_factor(affinity, torch.tensor([0, 0, 1, 1]), 2, perturbation=0)
    >>> denoised(affinity, U)[:, 0].round(decimals=6)
    tensor([-4., -4.,  4.,  4.], dtype=torch.float64)
    """
    s = affinity.roots[:, None]
    sX = s * affinity.X
    return sum(Uk @ (Uk.T @ sX) for Uk in U) / s
