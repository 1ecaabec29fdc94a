"""Sums over each sample of a batch, and the bookkeeping of samples that are still at work.

Pitfalls  a product of matrices (einsum, bmm) rounds differently for different batch sizes, and so does a sum over a
          dimension that is not the last; an elementwise product summed over the last dimension does not.
"""

import torch

from sciml.exceptions import InvalidInputError


def dot(a, b):
    """Return the inner product of each row, (k, d) and (k, d) to (k,), in float64."""
    if a.dtype == torch.float64:
        return (a * b).sum(1)
    return (a.double() * b.double()).sum(1)


def norm(a):
    """Return the 2-norm of each row, (k, d) to (k,), in float64."""
    return dot(a, a).sqrt()


def column(scalar, like):
    """Return numbers (k,) as a column (k, 1) of the dtype of `like`."""
    return scalar[:, None].to(like.dtype)


def per_sample(name, value, like):
    """Return a number, or one a sample, as float64 (B,) beside the batch `like`.

    Raises
    ------
    InvalidInputError
        If `value` has another shape.
    """
    given = torch.as_tensor(value, dtype=torch.float64, device=like.device).detach()
    if given.ndim and given.shape != (len(like),):
        raise InvalidInputError(
            f"{name} must be a number or have one entry a sample, shape ({len(like)},); got shape {tuple(given.shape)}."
        )
    return given.expand(len(like))


def batch(name, value):
    """Return a batch, detached, and its samples as rows (B, d)."""
    if value.ndim < 2:
        raise InvalidInputError(
            f"{name} must have the shape (B, ...), samples first; got shape {tuple(value.shape)}. "
            f"Write {name}[None] for a single sample, {name}[:, None] for numbers."
        )
    return value.detach().reshape(len(value), -1)
