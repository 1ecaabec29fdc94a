"""The minimiser as a layer: its derivatives are those of the implicit function theorem, in both modes."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import forward_ad, gradcheck

from sciml.exceptions import ConvergenceWarning, InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.implicit import ImplicitArgmin
from sciml.inverse.bilevel.lower import LowerProblem

Y = torch.tensor([[2.0, -1.0, 0.5], [1.0, 3.0, -2.0]], dtype=torch.float64)


def smooth(**options):
    """Two samples, not quadratic, three hyperparameters; the curvature is at least 1."""

    def h(x, theta, idx):
        y = Y.to(x.dtype)[idx]
        bend = torch.sqrt((x - theta[2]) ** 2 + 0.25).sum(1)
        return 0.5 * ((x - y) ** 2).sum(1) + torch.exp(theta[0]) * bend + 0.5 * theta[1] ** 2 * (x[:, 0] * x[:, 1]) ** 2

    return LowerProblem(h, mu=options.pop("mu", None), shape=(3,), n_samples=2, **options)


def shrinkage():
    def h(x, theta, idx):
        return 0.5 * ((x - Y.to(x.dtype)[idx]) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)

    return LowerProblem(h, mu=1.0, shape=(3,), n_samples=2)


# Forward mode makes torch load a part of itself by a way that it has deprecated.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
THETA = torch.tensor([0.3, 0.1, -0.2], dtype=torch.float64)


def test_value_and_derivative_by_hand():
    theta = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    weight = float(torch.exp(theta.detach()))
    layer = ImplicitArgmin(shrinkage(), tol=1e-12)
    x = layer(theta)
    assert_allclose(x.detach(), Y / (1 + weight), rtol=1e-12)
    (x**2).sum().backward()
    # x = y / (1 + w): d/dtheta sum x^2 = -2 w |y|^2 / (1 + w)^3.
    assert_allclose(theta.grad, [-2 * weight * float((Y**2).sum()) / (1 + weight) ** 3], rtol=1e-10)


@forward_mode
def test_gradients_pass_the_check_in_both_modes():
    layer = ImplicitArgmin(smooth(), tol=1e-13, solver="newton_cg")
    theta = THETA.clone().requires_grad_()
    assert gradcheck(layer, (theta,), eps=1e-5, atol=1e-7, rtol=1e-6, check_forward_ad=True)


def test_a_layer_inside_a_network():
    layer = ImplicitArgmin(smooth(), tol=1e-13)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh()).double()
    with torch.no_grad():
        for k, part in enumerate(net.parameters()):
            part.copy_(torch.linspace(-1, 1, part.numel(), dtype=torch.float64).reshape(part.shape) / (k + 1))
    u = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda u: torch.sin(layer(net(u))).sum(0), (u,), eps=1e-5, atol=1e-7, rtol=1e-6)
    torch.sin(layer(net(u))).sum().backward()
    assert all(part.grad.abs().sum() > 0 for part in net.parameters())


def test_data_of_the_samples_may_come_by_theta():
    # theta = (data, log weight): the derivative in the data is 1 / (1 + weight).
    def h(x, theta, idx):
        return 0.5 * ((x - theta[:6].reshape(2, 3)[idx]) ** 2).sum(1) + 0.5 * torch.exp(theta[6]) * (x**2).sum(1)

    layer = ImplicitArgmin(LowerProblem(h, mu=1.0, shape=(3,), n_samples=2), tol=1e-12)
    theta = torch.cat([Y.reshape(-1), torch.zeros(1, dtype=torch.float64)]).requires_grad_()
    layer(theta).sum().backward()
    assert_allclose(theta.grad[:6], np.full(6, 0.5), rtol=1e-10)
    assert theta.grad[6].item() == pytest.approx(-float(Y.sum()) / 4, rel=1e-10)


def test_a_second_derivative_is_refused():
    theta = THETA.clone().requires_grad_()
    (first,) = torch.autograd.grad(ImplicitArgmin(smooth())(theta).sum(), theta, create_graph=True)
    assert first.requires_grad
    with pytest.raises(InvalidInputError, match="differentiated once; a second derivative was asked for"):
        first.sum().backward()


@pytest.mark.parametrize("tol", [1e-2, 1e-5, 1e-10])
def test_the_tolerance_is_relative_to_x(tol):
    exact = ImplicitArgmin(smooth(), tol=1e-14)(THETA)
    got = ImplicitArgmin(smooth(mu=1.0), tol=tol, solver="nag")(THETA)
    error = (got - exact).norm(dim=1) / exact.norm(dim=1)
    assert (error <= tol).all()


def test_a_tighter_tolerance_costs_more_and_is_counted():
    spent = []
    for tol in (1e-2, 1e-10):
        layer = ImplicitArgmin(smooth(mu=1.0), tol=tol, solver="nag")
        layer(THETA.clone().requires_grad_()).sum().backward()
        assert layer.count.hvp > 0
        spent.append(layer.count.lower)
    assert spent[0] < spent[1]


def test_a_minimiser_at_zero_and_a_start_at_the_minimiser():
    def h(x, theta, idx):
        return torch.cosh(x).sum(1) * torch.exp(theta[0])

    layer = ImplicitArgmin(LowerProblem(h, mu=0.5, shape=(2,), n_samples=1), tol=1e-8)
    theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    for start in (torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)):
        x = layer(theta, start)
        x.sum().backward()
        assert_allclose(x.detach(), 0, atol=1e-10)
        assert_allclose(theta.grad, 0, atol=1e-9)


def test_a_theta_without_effect_has_no_derivative():
    def h(x, theta, idx):
        return 0.5 * ((x - Y[idx]) ** 2).sum(1)

    layer = ImplicitArgmin(LowerProblem(h, mu=1.0, shape=(3,), n_samples=2))
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    layer(theta).sum().backward()
    assert theta.grad.tolist() == [0, 0, 0, 0]


def test_single_precision_stays_single():
    theta = THETA.to(torch.float32).requires_grad_()
    x = ImplicitArgmin(smooth(), tol=1e-4)(theta)
    x.sum().backward()
    assert (x.dtype, theta.grad.dtype) == (torch.float32, torch.float32)
    double = THETA.clone().requires_grad_()
    ImplicitArgmin(smooth(), tol=1e-12)(double).sum().backward()
    assert_allclose(theta.grad, double.grad, rtol=1e-3)


@forward_mode
def test_forward_mode_gives_the_response():
    weight = 0.7
    with forward_ad.dual_level():
        theta = forward_ad.make_dual(torch.tensor([np.log(weight)]), torch.tensor([2.0], dtype=torch.float64))
        x = ImplicitArgmin(shrinkage(), tol=1e-12)(theta)
        tangent = forward_ad.unpack_dual(x).tangent
    assert_allclose(tangent, -2 * weight * Y / (1 + weight) ** 2, rtol=1e-10)


def test_it_says_when_a_solve_ended_early():
    theta = THETA.clone().requires_grad_()
    with pytest.warns(ConvergenceWarning, match=r"sample \d was solved to .* wanted .*: raise max_iter=3"):
        ImplicitArgmin(smooth(mu=1.0, L=100.0), solver="nag", max_iter=3)(theta)


def test_wrong_input_is_named():
    with pytest.raises(InvalidTypeError, match="lower must be a lower level; got function"):
        ImplicitArgmin(lambda x: x)
    with pytest.raises(InvalidInputError, match="tol must"):
        ImplicitArgmin(smooth(), tol=0.0)
    with pytest.raises(InvalidInputError, match="adjoint_tol must"):
        ImplicitArgmin(smooth(), adjoint_tol=2.0)
    with pytest.raises(InvalidInputError, match="solver must"):
        ImplicitArgmin(smooth(), solver="newton")
    layer = ImplicitArgmin(LowerProblem(lambda x, theta, idx: (x**2).sum(1), mu=1.0))
    with pytest.raises(InvalidInputError, match=r"x0 must be given, shape \(B, ...\)"):
        layer(torch.zeros(1))
    with pytest.raises(InvalidInputError, match=r"theta must be a tensor of shape \(n,\); got \(1, 1\)"):
        layer(torch.zeros(1, 1))
