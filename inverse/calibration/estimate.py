"""What every method of self-calibration hands on: gains in any gauge, their covariance, and how well they fit."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

__all__ = ["Estimate"]


@dataclass
class Estimate:
    """An estimate of the gains of b channels with m sensors each, before the gauge is fixed.

    Parameters
    ----------
    gains : Tensor, shape (b, m)
        In any gauge; NaN where unidentified.
    active : Tensor of bool, shape (b, m)
        Sensors that the estimate is about.
    noise_variance : Tensor, shape (b,)
        Variance of an entry of weight one: misfit over degrees of freedom.
    misfit : Tensor, shape (b,)
        Weighted sum of the squared residuals.
    dof : Tensor, shape (b,)
        Degrees of freedom: complex numbers for complex data.
    eigenvalues : Tensor, shape (b, k)
        Smallest ones of the eigenproblem, ascending; k may be 0.
    converged : Tensor of bool, shape (b,)
        Whether the refinement met its tolerance.
    method : str
        What was done, a word.
    n_iter : int
        Steps of the refinement, or of the method itself without one.
    covariance : Tensor, shape (b, m, m), or None
        Of the gains, orthogonal to them (the pseudo-inverse); zero where unidentified.
    variance : Tensor, shape (b, m), or None
        In its place where the matrix is too large.
    signals : Tensor or None
        Shape (b, p, n), or (b, n) for repeated measurements; None where they are yet to be solved for.
    history : dict of list
        Numbers recorded at every step.
    notes : list of str
        Decisions, a sentence each.
    """

    gains: torch.Tensor
    active: torch.Tensor
    noise_variance: torch.Tensor
    misfit: torch.Tensor
    dof: torch.Tensor
    eigenvalues: torch.Tensor
    converged: torch.Tensor
    method: str
    n_iter: int = 0
    covariance: torch.Tensor | None = None
    variance: torch.Tensor | None = None
    signals: torch.Tensor | None = None
    history: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
