"""What the solvers of many samples return: plain tensors, one entry a sample."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class BatchedSolve:
    """Solutions of one linear system a sample.

    Parameters
    ----------
    x : torch.Tensor, shape (B, ...)
        Solutions; for a sample that did not converge, the last iterate.
    residual : torch.Tensor, shape (B,)
        Norm of ``b - H x``, float64: that of the recurrence and an allowance for what rounding may have added to it.
    n_iter : torch.Tensor, shape (B,)
        Iterations, int64; a product with the Hessian each.
    converged : torch.Tensor, shape (B,)
        Whether `residual` is within the tolerance, bool.
    curvature_min, curvature_max : torch.Tensor, shape (B,)
        Smallest and largest Rayleigh quotient seen, float64, hence bounds of the spectrum from within; inf and 0 where
        none was.
    indefinite : torch.Tensor, shape (B,)
        Whether a direction without positive curvature ended the sample, bool.
    """

    x: torch.Tensor
    residual: torch.Tensor
    n_iter: torch.Tensor
    converged: torch.Tensor
    curvature_min: torch.Tensor
    curvature_max: torch.Tensor
    indefinite: torch.Tensor


@dataclass(frozen=True, eq=False)
class BatchedMinimum:
    """Minimisers of one function a sample.

    Parameters
    ----------
    x : torch.Tensor, shape (B, ...)
        The points at which `gradient` was evaluated.
    gradient : torch.Tensor, shape (B, ...)
        Gradients at `x`.
    gradient_norm : torch.Tensor, shape (B,)
        Their norms, float64; nan or inf where a sample broke down.
    n_iter : torch.Tensor, shape (B,)
        Steps taken, int64; 0 where the starting point was good enough.
    converged : torch.Tensor, shape (B,)
        Whether the tolerance was met, bool.
    L : torch.Tensor, shape (B,)
        Curvature from above, float64: the constant in use at the end, or the largest curvature seen, as the method
        says.
    secant_min : torch.Tensor, shape (B,)
        Smallest curvature seen along a step or a direction, float64, hence an upper bound of the constant of strong
        convexity; inf where none was seen above rounding.
    last_step : torch.Tensor, shape (B,)
        Norm of the last step, float64; 0 where none was taken.
    """

    x: torch.Tensor
    gradient: torch.Tensor
    gradient_norm: torch.Tensor
    n_iter: torch.Tensor
    converged: torch.Tensor
    L: torch.Tensor
    secant_min: torch.Tensor
    last_step: torch.Tensor


def blank(like, n_iter):
    """Return the fields of :class:`BatchedMinimum` that are one number a sample, before any step.

    `like` is float64 (B,), `n_iter` int64 (B,); neither is kept.
    """
    zero = torch.zeros_like(like)
    return {
        "gradient_norm": zero + torch.nan,
        "n_iter": torch.zeros_like(n_iter),
        "converged": torch.zeros_like(n_iter, dtype=torch.bool),
        "L": zero.clone(),
        "secant_min": zero + torch.inf,
        "last_step": zero,
    }
