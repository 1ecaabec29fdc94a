"""What the front door hands to a method: the caller's settings, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

__all__ = ["Call"]


@dataclass
class Call:
    """Settings of one call of `solve_pde`.

    Parameters
    ----------
    tol : float
        Bound on the relative error estimate, dimensionless.
    rng : numpy.random.Generator
        Source of points and lines.
    device : torch.device
        Where the linear algebra runs.
    budget : int
        Bytes for temporaries.
    frequencies : numpy.ndarray or None
        Carriers known beforehand, (Q,) or (Q, d), rad / unit.
    max_frequency : float or None
        The user's word on the band of samples, rad / unit.
    max_features : int
        Bound on the features of a dense system.
    max_iter : int or None
        Outer iterations; None where the user left the method its own number.
    threads : int
        Threads that a large system may use.
    callback, progress : callable or None, bool or None
        As in `solve_pde`.
    start : object
        Where a nonlinear problem starts: a callable of X, an earlier solution, a number, or None.
    noise : object
        None, "learn", a float, or a dict of those.
    slabs : int or None
        Number of slabs in time.
    settings : dict
        What the result records of the call.
    """

    tol: float
    rng: np.random.Generator
    device: torch.device
    budget: int
    frequencies: np.ndarray | None = None
    max_frequency: float | None = None
    max_features: int = 4000
    max_iter: int | None = None
    threads: int = 1
    callback: Any = None
    progress: Any = None
    start: Any = None
    noise: Any = None
    slabs: int | None = None
    settings: dict = field(default_factory=dict)
