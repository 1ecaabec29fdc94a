r"""Refuse a second derivative that a closed form of the first one does not provide.

A function whose derivative is written by hand computes it without a graph. Asked for a second derivative, PyTorch would
take the first for a constant and return a wrong number without a word; here it meets an error that names the function.

Notation  grad the first derivative; inputs the tensors that it depends on.
Cost      none.
Pitfalls  PyTorch's own ``once_differentiable`` stays silent where the incoming gradient is a constant.
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidInputError

__all__ = ["refuse_second_derivative"]


class _Refuse(torch.autograd.Function):
    """The identity in its first argument, whose derivative is an error."""

    @staticmethod
    def forward(ctx, grad, what, *inputs):
        ctx.what = what
        return grad.clone()

    @staticmethod
    def backward(ctx, *_):
        raise InvalidInputError(
            f"the second derivative of {ctx.what} is not available. Differentiate once, or take finite differences of "
            "the gradient."
        )


def refuse_second_derivative(what, grad, *inputs):
    """Return a first derivative that raises when it is differentiated again.

    Parameters
    ----------
    what : str
        The function, for the message.
    grad : torch.Tensor or None
        Its derivative, without a graph; None stays None.
    *inputs : torch.Tensor
        What it depends on, the incoming gradient among them.

    Returns
    -------
    torch.Tensor or None
        The same numbers; `grad` itself where no graph is being made.

    Examples
    --------
    >>> import torch
    >>> from sciml.linalg.spd.second_derivative import refuse_second_derivative
    >>> x = torch.ones(2, requires_grad=True)
    >>> refuse_second_derivative("the square", 2 * x.detach(), x).requires_grad
    True
    """
    if grad is None or not torch.is_grad_enabled():
        return grad
    return _Refuse.apply(grad, what, *inputs)
