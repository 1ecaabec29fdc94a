"""Spectral mixtures of one dimension: derivatives by independent means, curvature at zero, spectra."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.solvers.gp_pde.gphm_kernel import ENVELOPES, bandwidth, envelope, mixture, spectral_density

KINDS = ["stm", "gm"]


@pytest.fixture
def parameters():
    """Weights, scales and frequencies of three components."""
    return [torch.tensor(v, dtype=torch.float64) for v in ([0.2, 0.5, 0.3], [0.7, 1.5, 3.0], [0.0, 0.8, 2.5])]


def complex_mixture(kind, d, parameters):
    """The kernel for complex d, whose real part keeps one sign: an independent formula, to be differentiated."""
    total = 0
    for w, scale, mu in zip(*(p.tolist() for p in parameters), strict=True):
        if ENVELOPES[kind] == "se":
            gamma = np.exp(-scale * d**2)
        else:
            r = math.sqrt(5) * scale * d * np.sign(d.real)
            gamma = (1 + r + r**2 / 3) * np.exp(-r)
        total = total + w * gamma * np.cos(2 * math.pi * mu * d)
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_derivatives_are_those_of_cauchys_formula(kind, order, parameters):
    d = np.array([-1.7, -0.4, -0.11, 0.13, 0.5, 2.2])
    turn = np.exp(2j * math.pi * np.arange(64) / 64)
    around = complex_mixture(kind, d[:, None] + 0.1 * turn, parameters)
    truth = math.factorial(order) * (around * turn**-order).mean(axis=1).real / 0.1**order
    (found,) = mixture(kind, torch.as_tensor(d), *parameters, (order,))
    # Cauchy's formula rounds at n! / 0.1^n of eps.
    assert_allclose(found, truth, rtol=1e-12, atol=1e-14 * math.factorial(order) / 0.1**order)


@pytest.mark.parametrize("kind", KINDS)
def test_curvatures_at_zero_are_exact(kind, parameters):
    w, scale, mu = (p.numpy() for p in parameters)
    omega = 2 * math.pi * mu
    a = math.sqrt(5) * scale
    # Derivatives of the envelope at zero: of second and fourth order.
    second, fourth = (-(a**2) / 3, a**4) if kind == "stm" else (-2 * scale, 12 * scale**2)
    k1, k2, k3, k4 = mixture(kind, torch.zeros(1, dtype=torch.float64), *parameters, (1, 2, 3, 4))
    assert_allclose(k2, [np.sum(w * (second - omega**2))], rtol=1e-14)
    assert_allclose(k4, [np.sum(w * (fourth - 6 * second * omega**2 + omega**4))], rtol=1e-14)
    assert k1.item() == k3.item() == 0


def test_automatic_differentiation_of_the_distance_misses_the_curvature(parameters):
    # The reason for closed forms: the same kernel written with |d| and differentiated twice.
    d = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (k,) = mixture("stm", d, *parameters, (0,))
    (slope,) = torch.autograd.grad(k.sum(), d, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), d)
    (truth,) = mixture("stm", d.detach(), *parameters, (2,))
    assert abs(curvature.item() / truth.item() - 1) > 0.05


@pytest.mark.parametrize("kind", [*KINDS, "matern52", "se"])
def test_spectra_integrate_to_the_variance_and_give_the_kernel(kind, parameters):
    s = torch.linspace(-100, 100, 100_001, dtype=torch.float64)
    S = spectral_density(kind, s, *parameters)
    assert torch.trapezoid(S, s).item() == pytest.approx(1.0, rel=1e-9)  # tails of s^-6 beyond 100
    for d in (0.0, 0.3, 1.1):
        transformed = torch.trapezoid(S * torch.cos(2 * math.pi * s * d), s).item()
        (k,) = mixture(kind, torch.tensor([d], dtype=torch.float64), *parameters, (0,))
        assert transformed == pytest.approx(k.item(), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_bandwidth_is_the_deviation_of_the_spectrum(kind):
    one, scale, zero = (torch.tensor([v], dtype=torch.float64) for v in (1.0, 1.3, 0.0))
    s = torch.linspace(-100, 100, 100_001, dtype=torch.float64)
    S = spectral_density(kind, s, one, scale, zero)
    variance = torch.trapezoid(S * (2 * math.pi * s) ** 2, s).item()
    assert bandwidth(kind, scale).item() ** 2 == pytest.approx(variance, rel=1e-6)  # tails of s^-4


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind, parameters):
    inputs = [p.clone().requires_grad_() for p in parameters]
    d = torch.tensor([0.0, 0.2, -0.7], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *p: tuple(mixture(kind, d, *p, (0, 1, 2))), inputs)


def test_a_fifth_derivative_of_matern_is_refused():
    d, scale = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    with pytest.raises(InvalidInputError, match="order must be at most 4 .* no derivative of order 5"):
        envelope("matern52", d, scale, 5)
    assert len(envelope("se", d, scale, 6)) == 7
    assert envelope("se", d, scale, 6)[6].item() == pytest.approx(-120)  # -(2 beta)^3 5!!
