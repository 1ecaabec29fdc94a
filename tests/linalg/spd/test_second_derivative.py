"""A derivative written by hand is never taken for a constant."""

import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.spd import bures_mean, expm, logm, lyapunov, spd_distance
from sciml.linalg.spd.second_derivative import refuse_second_derivative


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return refuse_second_derivative("the square", 2 * x.detach() * grad.detach(), x, grad)


def test_the_first_derivative_is_left_alone_and_the_second_refused():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    Square.apply(x).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]
    (first,) = torch.autograd.grad(Square.apply(x).sum(), x, create_graph=True)
    with pytest.raises(InvalidInputError, match="second derivative of the square is not available"):
        first.sum().backward()


def distance_from_a_constant(A):
    return spd_distance(A, 3 * torch.eye(2, dtype=A.dtype))


@pytest.mark.parametrize(
    "function", [logm, expm, lambda A: lyapunov(A, A), lambda A: bures_mean(A[None]).mean, distance_from_a_constant]
)
def test_a_constant_incoming_gradient_hides_nothing(function):
    A = torch.diag(torch.tensor([2.0, 5.0], dtype=torch.float64)).requires_grad_()
    (first,) = torch.autograd.grad(function(A).flatten()[0], A, create_graph=True)
    with pytest.raises(InvalidInputError, match="second derivative"):
        first.sum().backward()


def test_what_is_missing_stays_missing():
    assert refuse_second_derivative("nothing", None) is None
