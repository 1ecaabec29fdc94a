"""What a mean of positive definite matrices returns, and what every mean checks at its door.

Notation  X (N, n, n) matrices; w (N,) weights that sum to one; c a power of four near the mean of tr X / n.
Cost      one pass over the matrices.
Pitfalls  all are divided by c before any computation, which rounds nothing, so that tolerances are relative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.spd.checks import as_spd
from sciml.results import Result, array

__all__ = ["MeanResult"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class MeanResult(Result):
    """A mean of positive definite matrices.

    Parameters
    ----------
    mean : array, shape (n, n)
        In the units and of the kind of the matrices; a tensor carries the gradient.
    residual : float
        The criterion at the end, dimensionless: the length of the gradient relative to the size of the mean; 0 for a
        closed form.
    metric : str
        The geometry.
    """

    mean: object = array("row", "column", units="those of the matrices", help="mean of the matrices")
    residual: float = 0.0
    metric: str = "bw"


def enter_matrices(X, weights):
    """Return ((X, w), leave, eps, scale): scaled float64 matrices, normalised weights, and the way back."""
    (X, weights), leave = enter(X, weights, names=("X", "weights"))
    if X.ndim != 3:
        raise InvalidInputError(
            f"X must be a list of matrices of shape (N, n, n); got shape {tuple(X.shape)}. Put them in one list."
        )
    if not len(X):
        raise InvalidInputError(f"X must hold at least one matrix; got shape {tuple(X.shape)}.")
    eps = torch.finfo(X.dtype).eps
    working, long = X.dtype, torch.complex128 if X.is_complex() else torch.float64
    X = as_spd("X", X).to(long)
    w = normalised("weights", weights, X)
    scale = power_of_four(X.detach().diagonal(dim1=-2, dim2=-1).real.mean())

    def back(M):
        """Return a mean in the units and the kind of the user's matrices."""
        return leave((M * scale).to(working))

    return (X / scale, w), back, eps, scale


def normalised(name, weights, X):
    """Return weights that sum to one as a float64 tensor, equal ones for None."""
    if weights is None:
        return torch.full((len(X),), 1 / len(X), dtype=torch.float64, device=X.device)
    w = (weights.real if weights.is_complex() else weights).to(torch.float64)
    if w.shape != (len(X),):
        raise InvalidInputError(
            f"{name} must hold one number for each of {len(X)} matrices; got shape {tuple(w.shape)}."
        )
    plain = w.detach()
    if bool((plain < 0).any()) or not bool((plain > 0).any()):
        raise InvalidInputError(
            f"{name} must not be negative, nor all zero; the smallest is {float(plain.min()):.3g}. Leave matrices out."
        )
    # Twice: the first quotient keeps the sum of huge or tiny weights in range, the second rounds to one.
    w = w / plain.max()
    return w / w.sum()


def power_of_four(value):
    """Return the power of four nearest to a positive number, or 1 for zero."""
    value = float(value)
    return 4.0 ** round(math.log2(value) / 2) if value > 0 else 1.0
