r"""The relaxation of clustering to many digits, with a proved bound, for some hundreds of points.

.. math:: \max \sum_k \langle A_k, Z_k \rangle \quad \text{subject to } Z_k \succeq 0,\; Z_k \ge 0,\;
          \operatorname{tr} Z_k = t_k,\; \textstyle\sum_k Z_k s = s

is split in two sets with explicit projections; the alternating direction method of two blocks converges always. Its
multipliers make a bound at any time, which is proved in full precision and does not depend on convergence.

Notation  as in the affinities and in the splitting; Z (B, n, n) memberships; y (n,), W (B, n, n), l (B,) multipliers.
Cost      a few dozen passes over B matrices of (n, n) a step, some hundred steps; the bound every tenth step.
Pitfalls  the best rho falls with the value over n, from n to some hundredths of it: it is rescaled to balance what the
          criterion is made of, less and less often. Chasing the balance at every step slows the end down.
References
    Y. Zhuang, X. Chen, Y. Yang, Likelihood adjusted semidefinite programs, 2023, arXiv 2209.15097. J. Eckstein,
    D. Bertsekas, On the Douglas-Rachford splitting method, 1992.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sciml.exceptions import InvalidInputError
from sciml.iterate import Status, Step, run
from sciml.random import generator
from sciml.stats.clustering.low_rank import LowRankSolution
from sciml.stats.clustering.relaxation_bounds import relaxation_bound, warm_splitting
from sciml.stats.clustering.relaxation_splitting import RelaxationSplitting

__all__ = ["ExactSolution", "admm"]

_EVERY = 10  # steps between bounds
_RESCALED = (20, 40, 60, 80, 120, 160, 240, 320, 480, 640)  # steps after which rho is looked at
_FACTOR, _WORTH = 3.0, 1.5  # of rho at once: the most, and what is worth the disturbance
_TINY = 1e-12  # rounding says nothing about rho
_SMALL = 1e-3  # of n: values below it need be exact to tol times it only


@dataclass(frozen=True)
class ExactSolution:
    """What `admm` returns.

    Parameters
    ----------
    Z : torch.Tensor, shape (B, n, n)
        Memberships. For several blocks non-negative with exact row sums; for one block with exact row sums and trace,
        and positive semidefinite.
    value : float
        The sum of inner products, in the affinity's units.
    bound : float
        A proved bound from below on the objective of all labels, in the data's units.
    multipliers : torch.Tensor, shape (n,)
        y of the row sums, of the best bound; zeros for a single block, where the bound does without.
    clipped : torch.Tensor, shape (B, n, n)
        W of the signs, of the best bound.
    shifts : torch.Tensor, shape (B,)
        l, the largest eigenvalues of A_k - (y s' + s y') / 2 + W_k.
    primal_residual : float
        Distance of the two blocks over the norm of Z.
    dual_residual : float
        Bound less value, over the value.
    status : Status
        How the iteration ended.
    n_iter : int
        Steps.
    history : dict of ndarray
        "criterion", "primal_residual", "value", "bound" (in the affinity's units), "penalty" and "seconds".

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity = Affinity(torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64), 2)
    >>> admm(affinity).converged
    True
    """

    Z: torch.Tensor
    value: float
    bound: float
    multipliers: torch.Tensor
    clipped: torch.Tensor
    shifts: torch.Tensor
    primal_residual: float
    dual_residual: float
    status: Status
    n_iter: int
    history: dict

    @property
    def converged(self):
        """Whether value and bound agree to the tolerance."""
        return self.status is Status.CONVERGED


def admm(
    affinity,
    *,
    trace="block",
    tol=1e-6,
    max_iter=2000,
    start=None,
    rng=0,
    callback=None,
    on_failure=None,
):
    r"""Solve the relaxation by splitting, and prove a bound.

    Parameters
    ----------
    affinity : Affinity
        The problem: B blocks of n points.
    trace : {"block", "total"}
        Whether every Z_k has trace t_k (the default, a tighter relaxation), or only their sum has trace K.
    tol : float
        Bound on ``norm(inner - outer) / norm(outer)``, the distance of the two sets, and on
        ``(bound - value) / (value + n / 1000)``, with n the sum of the weights; 1e-6 by default.
    max_iter : int
        Steps at most; 2000 by default.
    start : torch.Tensor of int64, shape (n,), LowRankSolution, ExactSolution or None
        Labels or a solution near by; None, the default: nothing.
    rng : numpy.random.Generator, int or None
        Source of the start vectors of eigenvalue problems; 0 by default. It changes digits beyond `tol` only.
    callback : callable or None
        ``callback(n_iter, step)``, called once a step; a true value stops. None by default.
    on_failure : {"warn", "raise", "ignore"} or None
        As for :func:`sciml.iterate.run`.

    Returns
    -------
    ExactSolution
        With the last memberships and the best bound.

    Raises
    ------
    InvalidInputError
        If `trace` is unknown, there is one point only, or `start` is of another shape.
    ConvergenceError
        If the tolerance was not met and `on_failure` is "raise".

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not met and `on_failure` is "warn"; the bound holds all the same.

    Examples
    --------
    Three points in two clusters: no labels have a sum of squares below 0.5, and the bound proves it.

    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity = Affinity(torch.tensor([[0.0], [1.0], [9.0]], dtype=torch.float64), 2)
    >>> found = admm(affinity)
    >>> found.bound <= 0.5, round(found.bound, 4)
    (True, 0.5)
    """
    if trace not in ("block", "total"):
        raise InvalidInputError(f"trace must be 'block' or 'total'; got {trace!r}.")
    state = _state(affinity, start, trace, generator(rng))
    steps = _steps(affinity, state, trace)
    loop = {"callback": callback, "on_failure": on_failure, "dtype": str(state.A.dtype)}
    done = run(steps, name="admm", tol=tol, max_iter=max_iter, **loop)
    best = done.value
    half = 0.5 * torch.outer(best["y"], affinity.roots)
    H = state.A + best["W"] - half - half.T
    return ExactSolution(
        Z=state.outer if affinity.blocks > 1 else state.inner,
        value=best["value"],
        bound=affinity.to_objective(best["bound"]),
        multipliers=best["y"],
        clipped=best["W"],
        shifts=torch.linalg.eigvalsh(H)[:, -1],
        primal_residual=best["apart"],
        dual_residual=best["excess"],
        status=done.status,
        n_iter=done.n_iter,
        history=done.history,
    )


def _state(affinity, start, trace, rng):
    B, n, _ = affinity.shape
    if isinstance(start, LowRankSolution):
        return warm_splitting(affinity, start, trace, rng)
    if isinstance(start, ExactSolution):
        return RelaxationSplitting(affinity, start.Z, rng, trace, alpha=start.multipliers, W=start.clipped)
    if start is None:
        return RelaxationSplitting(affinity, affinity.X.new_zeros(B, n, n), rng, trace)
    if start.shape != (n,):
        raise InvalidInputError(
            f"start must be labels of shape ({n},), or a solution; got shape {tuple(start.shape)}. "
            "Give one label for each point that has a weight."
        )
    onehot = torch.nn.functional.one_hot(start, affinity.n_clusters).to(affinity.X.dtype) * affinity.roots[:, None]
    onehot = onehot / torch.linalg.vector_norm(onehot, dim=0).clamp_min(torch.finfo(onehot.dtype).tiny)
    Z = onehot.T[:, :, None] * onehot.T[:, None, :]
    return RelaxationSplitting(affinity, Z.sum(0, keepdim=True) if B == 1 else Z, rng, trace)


def _steps(affinity, state, trace):
    """Yield what is known after every step: the best bound with its multipliers, and the value."""
    best, apart, n_iter = {"bound": float("inf")}, 1.0, 0
    while True:
        if n_iter % _EVERY == 0:
            y, W = state.multipliers()
            y = y if affinity.blocks > 1 else 0 * y
            bound = relaxation_bound(affinity, y, W, trace=trace, A=state.A)
            best = best | {"bound": bound, "y": y, "W": W} if bound < best["bound"] else best
        value = float((state.A * (state.outer if affinity.blocks > 1 else state.inner)).sum())
        excess = abs(best["bound"] - value) / (abs(value) + _SMALL * state.size)
        best = best | {"value": value, "excess": excess, "apart": apart}
        scalars = {"primal_residual": apart, "value": value, "bound": best["bound"], "penalty": state.rho}
        yield Step(best, max(apart, excess), scalars)
        distance = state.advance()
        apart = distance / float(torch.linalg.vector_norm(state.outer))
        n_iter += 1
        if n_iter in _RESCALED:
            factor = _rescaling(apart, excess)
            if factor != 1:
                state.rescale(factor)


def _rescaling(apart, excess):
    """Return the factor of rho that balances the distance of the sets and the excess of the bound."""
    if max(apart, excess) <= _TINY:
        return 1.0
    factor = min(max((apart / max(excess, _TINY)) ** 0.5, 1 / _FACTOR), _FACTOR)
    return factor if max(factor, 1 / factor) > _WORTH else 1.0
