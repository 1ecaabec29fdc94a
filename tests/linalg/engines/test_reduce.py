"""Derivatives of every order, at ordinary points and where points coincide."""

import numpy as np
import pytest
import torch

from sciml.kernels import Gaussian, InverseMultiquadric, Laplace, Matern32, Matern52, SpectralMixture
from sciml.linalg import kernel_logsumexp, kernel_sum


def leaves(rng, m, n, d=2, r=2):
    y, x, b = (torch.from_numpy(rng.standard_normal(size)) for size in ((m, d), (n, d), (n, r)))
    return [v.requires_grad_() for v in (y, x, b)]


def number(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("make", [Gaussian, Matern32, Matern52, Laplace, InverseMultiquadric])
def test_sums_pass_gradcheck(simple, make, rng):
    y, x, b = leaves(rng, 3, 2)

    def function(y, x, b, length, variance):
        return kernel_sum(y, x, b, kernel=variance * make(length), engine=simple)

    given = (y, x, b, number([0.7, 1.3]), number(2.0))
    assert torch.autograd.gradcheck(function, given)
    # Second derivatives along random directions, here and below: all of them one by one take five times as long.
    assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


@pytest.mark.parametrize("make", [Gaussian, Matern52, InverseMultiquadric])
def test_sums_pass_gradcheck_where_points_coincide(simple, make, rng):
    y, x, b = leaves(rng, 3, 3)
    x = y.detach().clone().requires_grad_()

    def function(y, x, length):
        return kernel_sum(y, x, b, kernel=make(length), engine=simple)

    assert torch.autograd.gradcheck(function, (y, x, number(0.7)))
    # The difference quotients of Matern 5/2 see its cubic kink over their step of 1e-6.
    assert torch.autograd.gradgradcheck(function, (y, x, number(0.7)), atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("make", [Gaussian, Matern32, Laplace])
def test_log_sum_exps_pass_gradcheck(simple, make, rng):
    y, x, _ = leaves(rng, 3, 2)
    w = number([0.3, -1.0])

    def function(y, x, w, length):
        return kernel_logsumexp(y, x, w, kernel_log=make(length), engine=simple)

    assert torch.autograd.gradcheck(function, (y, x, w, number(0.7)))
    assert torch.autograd.gradgradcheck(function, (y, x, w, number(0.7)), fast_mode=True)


def test_parameters_of_functions_pass_gradcheck(simple, rng):
    y, x, b = leaves(rng, 3, 2)

    def function(y, scale, power):
        def kernel(d, scale, power):
            return (-((((d * scale) ** 2).sum(-1) + 0.1) ** power)).exp()

        return kernel_sum(y, x, b, kernel=kernel, params={"scale": scale, "power": power}, engine=simple)

    given = (y, number([0.5, 1.5]), number(0.8))
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


def test_mixtures_pass_gradcheck(simple, rng):
    y, x, b = leaves(rng, 3, 2, d=1)

    def function(y, w, f, rho):
        return kernel_sum(y, x, b, kernel=SpectralMixture(w, f, rho, "matern"), engine=simple)

    assert torch.autograd.gradcheck(function, (y, number([1.0, 0.5]), number([0.3, 1.0]), number([0.4, 0.2])))


def test_the_compiled_engine_passes_gradcheck(rng):
    y, x, b = leaves(rng, 3, 2, d=1, r=1)
    x, b = x.detach(), b.detach()

    def function(y):
        return kernel_sum(y, x, b, kernel=Matern32(0.7), engine="compiled")

    assert torch.autograd.gradcheck(function, (y,))
    assert torch.autograd.gradgradcheck(function, (y,), fast_mode=True)


@pytest.mark.keops
def test_keops_passes_gradcheck(rng):
    y, x, b = leaves(rng, 3, 2, d=3, r=2)
    x, b = x.detach(), b.detach()
    assert torch.autograd.gradcheck(lambda y: kernel_sum(y, x, b, kernel=Gaussian(0.8), engine="keops"), (y,))


def test_derivatives_at_coinciding_points_with_a_kink_are_zero_not_nan(simple):
    y = torch.zeros((2, 2), dtype=torch.float64, requires_grad=True)
    for kernel in (Matern32(1.0), Laplace(1.0), 2 * Matern32(0.3) + Laplace(2.0)):
        out = kernel_sum(y, y.detach(), torch.ones(2, dtype=torch.float64), kernel=kernel, engine=simple)
        (first,) = torch.autograd.grad(out.sum(), y, create_graph=True)
        np.testing.assert_array_equal(first.detach(), np.zeros((2, 2)))
        (second,) = torch.autograd.grad(first.sum(), y)
        assert torch.isfinite(second).all()


def test_only_what_was_asked_for_is_differentiated(simple, rng):
    y, x, b = leaves(rng, 3, 2)
    out = kernel_sum(y.detach(), x.detach(), b, kernel=Gaussian(), engine=simple)
    (found,) = torch.autograd.grad(out.sum(), b)
    K = Gaussian()(y.detach(), x.detach())
    np.testing.assert_allclose(found, K.sum(0)[:, None].expand(2, 2), rtol=1e-13)
