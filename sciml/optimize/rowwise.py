"""Sums over each sample of a batch, and checks of what callers and their functions give.

Pitfalls  a product of matrices (einsum, bmm) rounds differently for different batch sizes, and so does a sum over a
          dimension that is not the last; an elementwise product summed over the last dimension does not. A multiply
          and add in one call may round once or twice, depending on the place in memory; in two calls it cannot.
"""

import torch

from sciml.exceptions import InvalidInputError

# From this many entries a sample on, samples are taken one after the other on the CPU: the temporaries of a whole batch
# cost page faults (inner products of 25 float32 samples: 0.1 of the time with 2^14 entries, 0.7 with 2^16). The rule
# looks at one sample, not at the batch, on which no answer may depend.
LONG = 2**14


def one_by_one(a):
    """Return whether the rows of `a` are better taken one after the other."""
    return a.shape[-1] >= LONG and a.device.type == "cpu"


def dot(a, b):
    """Return the inner product of each row, (k, d) and (k, d) to (k,), in float64."""
    if one_by_one(a):
        pairs = zip(a.unbind(), b.unbind(), strict=True)
        return torch.stack([(u.double() * v.double()).sum() for u, v in pairs]) if len(a) else a.new_zeros(0).double()
    return (a.double() * b.double()).sum(1)


def add(x, scalar, p):
    """Add ``scalar[i] * p[i]`` to every row of `x`, in place."""
    if one_by_one(x):
        for u, s, v in zip(x.unbind(), scalar.tolist(), p.unbind(), strict=True):
            u.add_(v, alpha=s)
    else:
        x.add_(column(scalar, x) * p)


def wide(a):
    """Return the rows in float64 for several inner products, unless they are better widened one after the other."""
    return a if one_by_one(a) else a.double()


def norm(a):
    """Return the 2-norm of each row, (k, d) to (k,), in float64."""
    a = wide(a)
    return dot(a, a).sqrt()


def column(scalar, like):
    """Return numbers (k,) as a column (k, 1) of the dtype of `like`."""
    return scalar[:, None].to(like.dtype)


def kept(index, *arrays):
    """Return the rows `index` of every array."""
    return [array[index] for array in arrays]


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
    return given.expand(len(like)).contiguous()


def tolerance(name, value, like):
    """Return `per_sample`, once it is known to hold no negative number and no nan."""
    given = per_sample(name, value, like)
    wrong = torch.nonzero(~(given >= 0))
    if len(wrong):
        raise InvalidInputError(
            f"{name} must be 0 or more; got {given[wrong[0, 0]].item():g} for sample {wrong[0, 0].item()}. It is an "
            f"absolute bound, in the units of what it bounds."
        )
    return given


def batch(name, value):
    """Return the samples as rows (B, d), detached.

    Raises
    ------
    InvalidInputError
        If `value` is no batch of floating-point numbers.
    """
    if not isinstance(value, torch.Tensor) or value.ndim < 2 or not value.is_floating_point():
        got = f"{value.dtype}, {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise InvalidInputError(
            f"{name} must be a floating-point tensor of shape (B, ...), samples first; got {got}. "
            f"Write {name}[None] for a single sample and {name}[:, None] for a number a sample."
        )
    return value.detach().flatten(1)


def applied(name, function, v, rows, shape):
    """Return what the caller's `function` gives for rows `v` (k, d) of the samples `rows`, as rows.

    Raises
    ------
    InvalidInputError
        If the answer has another shape than the argument.
    """
    given = v.view(-1, *shape)
    answer = function(given, rows)
    if answer.shape != given.shape:
        raise InvalidInputError(
            f"{name} must return the shape of its argument, {tuple(given.shape)}; got {tuple(answer.shape)}."
        )
    return answer.detach().reshape(v.shape).to(v.dtype)
