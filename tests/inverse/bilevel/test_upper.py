"""Losses of the upper level: derivatives, what they know of theta, and what they say to wrong input."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.upper import SquaredError, UpperLoss

B, D = 3, 4
RNG = np.random.default_rng(0)
TRUE = RNG.standard_normal((B, D))
X, V = torch.from_numpy(RNG.standard_normal((2, B, D)))
THETA = torch.tensor([0.5, -1.5], dtype=torch.float64)
IDX = torch.tensor([2, 0, 1])
BLOCKS = [slice(0, 1), slice(1, 3)]


def g(x, theta, idx):
    return torch.cosh(theta[0] * x).sum(1) * (1 + idx) + theta[1] ** 3 * x[:, 0]


def test_derivatives_in_x():
    upper = UpperLoss(g)
    value, gradient = upper.gradient(X, THETA, IDX)
    slope = THETA[0] * torch.sinh(THETA[0] * X) * (1 + IDX)[:, None]
    slope[:, 0] += THETA[1] ** 3
    assert_allclose(value, g(X, THETA, IDX), rtol=1e-14)
    assert_allclose(gradient, slope, rtol=1e-14)
    curved = THETA[0] ** 2 * torch.cosh(THETA[0] * X) * (1 + IDX)[:, None] * V
    assert_allclose(upper.hvp(X, THETA, IDX, V), curved, rtol=1e-13)
    assert not value.requires_grad
    assert not gradient.requires_grad


def test_derivatives_in_theta_are_sums_over_blocks():
    upper = UpperLoss(g)
    a, b = THETA
    single = torch.stack([(X * torch.sinh(a * X)).sum(1) * (1 + IDX), 3 * b**2 * X[:, 0]], 1)
    wanted = torch.stack([single[0], single[1:].sum(0)])
    assert_allclose(upper.gradient_theta(X, THETA, IDX, BLOCKS), wanted, rtol=1e-13)
    slope = ((torch.sinh(a * X) + a * X * torch.cosh(a * X)) * V).sum(1) * (1 + IDX)
    single = torch.stack([slope, 3 * b**2 * V[:, 0]], 1)
    wanted = torch.stack([single[0], single[1:].sum(0)])
    assert_allclose(upper.cross_adjoint(X, THETA, IDX, V, BLOCKS), wanted, rtol=1e-13)


def test_losses_of_x_alone():
    upper = UpperLoss(lambda x: (x**4).sum(1))
    assert_allclose(upper.value(X, THETA, IDX), (X**4).sum(1))
    assert upper.gradient_theta(X, THETA, IDX, BLOCKS) is None
    assert_allclose(upper.Lt(X, THETA, IDX), np.zeros(B))
    assert upper.Lg(X, THETA, IDX) is None
    two = UpperLoss(lambda x, theta: theta[0] * x.sum(1))
    assert_allclose(two.gradient(X, THETA, IDX)[1], np.full((B, D), 0.5))
    assert_allclose(two.hvp(X, THETA, IDX, V), np.zeros((B, D)))
    assert UpperLoss(lambda *x: x[0].sum(1) + x[2])._arity == 3
    assert UpperLoss(lambda x, scale=2.0: scale * x.sum(1))._arity == 1


def test_whether_theta_enters_is_seen():
    assert UpperLoss(g).Lt(X, THETA, IDX) is None
    deaf = UpperLoss(lambda x, theta, idx: (x**2).sum(1))
    assert_allclose(deaf.Lt(X, THETA, IDX), np.zeros(B))
    assert_allclose(UpperLoss(g, Lt=2.5).Lt(X, THETA, IDX), np.full(B, 2.5))
    assert_allclose(deaf.cross_adjoint(X, THETA, IDX, V, BLOCKS), np.zeros((2, 2)))
    constant = UpperLoss(lambda x, theta, idx: torch.ones(len(x), dtype=x.dtype))
    assert_allclose(constant.Lt(X, THETA, IDX), np.zeros(B))
    assert_allclose(constant.gradient(X, THETA, IDX)[1], np.zeros((B, D)))


def test_lipschitz_constants_follow_the_samples():
    upper = UpperLoss(g, Lg=torch.tensor([1.0, 2.0, 3.0]))
    assert_allclose(upper.Lg(X, THETA, IDX), [3, 1, 2])
    assert_allclose(UpperLoss(g, Lg=lambda t: t[0] ** 2).Lg(X, THETA, IDX), np.full(B, 0.25))
    with pytest.raises(InvalidInputError, match="Lg"):
        UpperLoss(g, Lg=-1.0)
    with pytest.raises(InvalidInputError, match="Lg"):
        UpperLoss(g, Lg=torch.ones(2)).Lg(X, THETA, IDX)


def test_the_term_in_theta():
    value, gradient, hessian = UpperLoss(g, r=lambda t: (t**3).sum()).r(THETA)
    assert value == pytest.approx(0.125 - 3.375, rel=1e-15)
    assert_allclose(gradient, 3 * THETA**2)
    assert_allclose(hessian(torch.tensor([1.0, 2.0])), 6 * THETA * torch.tensor([1.0, 2.0]))
    _, gradient, hessian = UpperLoss(g, r=lambda t: 2 * t.sum()).r(THETA)
    assert_allclose(gradient, [2, 2])
    assert_allclose(hessian(THETA), [0, 0])
    assert UpperLoss(g).r(THETA) == (0.0, None, None)
    for r in (lambda t: t, lambda t: 3.0):
        with pytest.raises(InvalidInputError, match="r must return one number"):
            UpperLoss(g, r=r).r(THETA)


def test_squared_error_is_the_loss_that_it_says():
    upper, error = SquaredError(TRUE, r=lambda t: t.sum()), X - torch.from_numpy(TRUE)[IDX]
    value, gradient = upper.gradient(X, THETA, IDX)
    assert_allclose(value, 0.5 * (error**2).sum(1))
    assert_allclose(upper.value(X, THETA, IDX), value)
    assert_allclose(gradient, error)
    assert_allclose(upper.hvp(X, THETA, IDX, V), V)
    assert upper.gradient_theta(X, THETA, IDX, BLOCKS) is None
    assert_allclose(upper.Lg(X, THETA, IDX), np.ones(B))
    assert_allclose(upper.Lt(X, THETA, IDX), np.zeros(B))
    assert (upper.shape, upper.n_samples) == ((D,), B)
    moved = upper.to(torch.device("cpu"), torch.float32)
    assert moved.x_true.dtype == torch.float32
    assert moved.r(THETA)[0] == -1.0
    assert upper.to(torch.device("cpu"), torch.float64) is upper


def test_squared_errors_of_single_precision_add_up_in_double():
    x_true = np.zeros((1, 100_000), dtype=np.float32)
    x = torch.full((1, 100_000), 1.0, dtype=torch.float32)
    x[0, 0] = 3e4
    value, _ = SquaredError(x_true).gradient(x, THETA, torch.tensor([0]))
    assert value.dtype == torch.float64
    # In single precision the ones drown beside 9e8.
    assert float(value[0]) == 0.5 * (9e8 + 99_999)


def test_wrong_losses():
    with pytest.raises(InvalidTypeError, match="g must be a function"):
        UpperLoss(np.ones(3))
    with pytest.raises(InvalidTypeError, match="r must be a function"):
        UpperLoss(g, r=3.0)
    for loss in (lambda x: (x**2).mean(), lambda x: x, lambda x: 1.0):
        with pytest.raises(InvalidInputError, match="one loss a sample"):
            UpperLoss(loss).value(X, THETA, IDX)
    for bad in (np.full((2, 2), np.nan), np.ones(3), np.ones((0, 3)), np.ones((3, 0))):
        with pytest.raises(InvalidInputError, match="x_true must be"):
            SquaredError(bad)
