r"""What every method of the upper level shares: its start, its budget, its bounds, its criterion and its snapshots.

.. math:: \text{criterion} = \frac{\|P z\|_\infty}{\max(|v|, 10^{-6} |v_0|)}

Notation  z hypergradient; P drops the components that push theta against a bound; v value of the upper level, v_0 its
          first one. theta is dimensionless, so the criterion does not depend on the units of f.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sciml.inverse.bilevel.evaluate import Evaluator, Level
from sciml.iterate import End, Status, Step

__all__ = ["Search", "Snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """A point of the search, as it is handed to callbacks.

    Parameters
    ----------
    theta : torch.Tensor, shape (n,), float64
        The hyperparameters.
    value : float
        Of the upper level.
    value_bar : float
        Bound, or estimate, of the error of `value`.
    rigorous : bool
        Whether the bar is proven.
    level : Level
        All that is known there.
    """

    theta: torch.Tensor
    value: float
    value_bar: float
    rigorous: bool
    level: Level


@dataclass
class Search:
    """One call of the front door, as a method sees it.

    Parameters
    ----------
    evaluator : Evaluator
        Solves and counts.
    theta0 : torch.Tensor, shape (n,), float64
        Start.
    x0 : torch.Tensor, shape (B, *shape)
        Start of the first lower solve.
    tol : float
        Bound on the criterion.
    low, high : torch.Tensor, shape (n,)
        Bounds of theta; infinite where there is none.
    rng : numpy.random.Generator
        For methods that draw.
    saved : dict or None
        State to resume from.
    save : callable or None
        ``save(state)`` stores a state.
    """

    evaluator: Evaluator
    theta0: torch.Tensor
    x0: torch.Tensor
    tol: float
    low: torch.Tensor
    high: torch.Tensor
    rng: np.random.Generator
    saved: dict | None = None
    save: Any = None
    status: str = ""
    reason: str = ""
    first: float = 0.0
    all_rigorous: bool = True
    rows: list = field(default_factory=list)
    best: Snapshot | None = None

    def clip(self, theta):
        """Return theta projected on its bounds, and on a bound where rounding keeps it off."""
        theta = torch.minimum(torch.maximum(theta, self.low), self.high)
        for bound in (self.low, self.high):
            near = (theta - bound).abs() <= 4 * torch.finfo(theta.dtype).eps * bound.abs()
            theta = torch.where(near & torch.isfinite(bound), bound, theta)
        return theta

    def free(self, theta, z):
        """Return which components may move against z."""
        return ~(((theta <= self.low) & (z > 0)) | ((theta >= self.high) & (z < 0)))

    def reach(self, theta, d):
        """Return how far along d the first component meets its bound."""
        room = torch.where(d > 0, self.high - theta, self.low - theta) / torch.where(d == 0, torch.ones_like(d), d)
        return float(torch.where(d == 0, torch.full_like(d, torch.inf), room).min())

    def scale(self, value):
        """Return what a gradient is compared with."""
        return max(abs(value), 1e-6 * abs(self.first)) or 1.0

    def criterion(self, theta, z, value):
        """Return the largest free component of z over the scale of the value."""
        inside = torch.where(self.free(theta, z), z, torch.zeros_like(z))
        return float(inside.abs().max()) / self.scale(value)

    def step(self, snapshot, criterion, **scalars):
        """Return the Step of a snapshot, and remember its row and whether it is the best so far."""
        ev = self.evaluator
        row = {
            "value": snapshot.value,
            "value_bar": snapshot.value_bar,
            "grad_norm": float(snapshot.level.z.norm()),
            "n_units": ev.units,
            "n_lower": float(ev.n_lower),
            "n_cg": float(ev.n_cg),
            "eps": float(snapshot.level.eps.max()),
            "delta": float(snapshot.level.delta.max()),
            **{key: float(number) for key, number in scalars.items()},
        }
        ev.limited = True
        self.rows.append({"theta": snapshot.theta.clone(), "criterion": criterion, "row": row})
        self.offer(snapshot)
        return Step(snapshot, criterion, row)

    def offer(self, snapshot):
        """Remember a snapshot if it is the best so far, by the upper end of its bar."""
        upper_end = snapshot.value + snapshot.value_bar
        if self.best is None or upper_end <= self.best.value + self.best.value_bar:
            self.best = snapshot

    def finish(self, status, reason):
        """Remember how the method ended, and return what its generator returns."""
        self.status, self.reason = status, reason
        return End(Status.STALLED, reason)
