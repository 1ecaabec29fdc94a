"""The answer of `learn_hyperparameters`: hyperparameters, value and gradient with error bars, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sciml.results import Result, array, internal

__all__ = ["BilevelResult"]

Array = np.ndarray | torch.Tensor


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class BilevelResult(Result):
    """Learned hyperparameters; see `learn_hyperparameters`.

    Parameters
    ----------
    value : float
        Upper-level value at `theta`, units of g.
    value_bar : float
        The exact value is within this of `value`: a theorem where `certified`, else an estimate.
    grad_bar : float
        2-norm of what `grad` may be off by, likewise.
    certified : bool
        Whether the bars, and the bars behind every accepted step, follow from constants that were given, that nothing
        seen contradicts, and that no estimate replaced.
    value_bar_proven, grad_bar_proven : float
        The proven bars at `theta`, which may be many times longer than the estimated ones; NaN where a constant is
        unknown.
    message : str
        Why the search ended, in words.
    n_units : float
        Gradients of h and products with its Hessian, over the number of samples: all that were computed.
    n_lower, n_cg : int
        Iterations of lower-level and of linear solvers, of the slowest sample, summed over the solves.
    n_hvp, n_power, n_cross, n_third : float
        Products with the Hessian; those that estimated eigenvalues; products with the mixed derivative, which are no
        part of a unit; with third derivatives; each over the number of samples.
    report : dict
        Contradicted constants, what `verify` found, estimated constants.
    """

    theta: Array = array("parameter", help="learned hyperparameters")
    grad: Array = array("parameter", units="units of g", help="hypergradient at theta")
    thetas: Array = array("iteration", "parameter", help="hyperparameters of each iteration")
    value: float = float("nan")
    value_bar: float = float("nan")
    grad_bar: float = float("nan")
    certified: bool = False
    value_bar_proven: float = float("nan")
    grad_bar_proven: float = float("nan")
    message: str = ""
    n_units: float = 0.0
    n_lower: int = 0
    n_cg: int = 0
    n_hvp: float = 0.0
    n_power: float = 0.0
    n_cross: float = 0.0
    n_third: float = 0.0
    report: dict = field(default_factory=dict)
    x: Any = internal(default=None)

    @property
    def n_outer(self):
        """Accepted steps of the upper level; the same as ``n_iter``."""
        return self.n_iter

    @property
    def trace(self):
        """The history as an xarray Dataset over ``outer``."""
        return self.to_xarray().rename({"iteration": "outer"})

    def _state(self):
        return {} if self.x is None else {"x": self.x}

    @classmethod
    def _restore(cls, fields, state):
        return cls(**fields, x=state.get("x"))
