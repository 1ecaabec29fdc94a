"""Multipliers in an eigenbasis: what they solve, exact derivatives at the identity, blocks, and what is refused."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import multipliers
from sciml.linalg.spd.checks import symmetrise
from sciml.linalg.spd.functions import invsqrtm, spectral, sqrtm
from sciml.linalg.spd.multipliers import (
    MULTIPLIERS,
    lyapunov,
    multiply_in_basis,
    schur_multiplier,
    transport_from_identity,
    transport_to_identity,
)

SPECTRA = {
    "ordinary": [0.5, 1.0, 2.0],
    "identity": [1.0, 1.0, 1.0],
    "repeated": [0.7, 2.0, 2.0],
    "nearly repeated": [0.7, 2.0, 2.0 + 1e-11],
}


def hermitian(rng, *shape, complex_valued=False):
    Z = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_valued else 0)
    return symmetrise(torch.from_numpy(Z))


def definite(spectrum, rng, complex_valued=False):
    U = torch.linalg.eigh(hermitian(rng, len(spectrum), len(spectrum), complex_valued=complex_valued))[1]
    return symmetrise((U * torch.tensor(spectrum, dtype=torch.float64)) @ U.mH)


@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kind", MULTIPLIERS)
def test_gradients_at_the_identity_and_at_repeated_eigenvalues(kind, spectrum, complex_valued, rng):
    G = definite(SPECTRA[spectrum], rng, complex_valued).requires_grad_()
    V = hermitian(rng, 2, 3, 3, complex_valued=complex_valued).requires_grad_()
    assert gradcheck(lambda G, V: multiply_in_basis(G, V, kind), (G, V), eps=1e-6, atol=1e-6)


def test_lyapunov_solves_its_equation(rng):
    G, V = definite([1e-8, 1.0, 3.0], rng), hermitian(rng, 4, 3, 3)
    X = lyapunov(G, V)
    # Backward stable: the residual is small against ||G|| ||X||.
    assert_allclose((G @ X + X @ G - V).numpy(), 0, atol=1e-14 * X.abs().max().item())


def test_transport_keeps_the_metric_and_comes_back(rng):
    G, V = definite([0.1, 1.0, 3.0], rng), hermitian(rng, 3, 3)
    W = transport_from_identity(G, V)
    # g_P(V, V) = tr(L_P[V] V) / 2
    length_at_G, length_at_I = torch.trace(lyapunov(G, W) @ W), torch.trace(V @ V) / 2
    assert length_at_G.item() == pytest.approx(length_at_I.item(), rel=1e-13)
    assert_allclose(transport_to_identity(G, W).numpy(), V.numpy(), atol=1e-14)


@pytest.mark.parametrize(("kind", "function"), [("sqrt", sqrtm), ("invsqrt", invsqrtm)])
def test_multipliers_of_functions_are_directional_derivatives(kind, function, rng):
    G, V, h = definite([0.5, 1.0, 2.0], rng), hermitian(rng, 3, 3), 1e-5
    slope = (function(G + h * V) - function(G - h * V)) / (2 * h)
    assert_allclose(schur_multiplier(G, V, kind).numpy(), slope.numpy(), atol=1e-8)  # O(h^2)


def test_the_inverse_has_the_derivative_of_the_inverse(rng):
    G, V = definite([0.5, 1.0, 2.0], rng), hermitian(rng, 3, 3)
    want = -torch.linalg.solve(G, torch.linalg.solve(G, V).mT)
    assert_allclose(schur_multiplier(G, V, "inv").numpy(), want.numpy(), atol=1e-13)


@pytest.mark.parametrize("kind", ["from_identity", "to_identity"])
def test_blocks_do_not_change_the_gradient(kind, rng, monkeypatch):
    G, V = torch.stack([definite([0.5, 1, 2, 3], rng), torch.eye(4)]), hermitian(rng, 2, 4, 4)
    D = hermitian(rng, 2, 4, 4)

    def gradient():
        X = G.clone().requires_grad_()
        return torch.autograd.grad(multiply_in_basis(X, V, kind), X, D)[0]

    whole = gradient()
    monkeypatch.setattr(multipliers, "_BLOCK", 1)
    assert_allclose(gradient().numpy(), whole.numpy(), rtol=0, atol=1e-15)


def test_units(rng):
    G, V = definite([0.5, 1.0, 2.0], rng), hermitian(rng, 3, 3)
    for k in (-40, 40):
        assert_allclose(lyapunov(2.0**k * G, V).numpy(), 2.0**-k * lyapunov(G, V).numpy(), rtol=1e-13)
        assert_allclose(transport_from_identity(2.0**k * G, V), 2.0 ** (k // 2) * transport_from_identity(G, V))


def test_numpy_in_numpy_out(rng):
    G, V = definite([0.5, 1.0, 2.0], rng), hermitian(rng, 3, 3)
    assert isinstance(lyapunov(G.numpy(), V.numpy()), np.ndarray)
    assert isinstance(lyapunov(G, V), torch.Tensor)


def test_bad_input_is_named(rng):
    V = np.ones((2, 2))
    with pytest.raises(NotPositiveDefiniteError, match="G must be positive definite"):
        lyapunov(np.diag([0.0, 1.0]), V)
    with pytest.raises(InvalidInputError, match="V must be symmetric"):
        lyapunov(np.eye(2), [[0.0, 1.0], [2.0, 0.0]])
    with pytest.raises(InvalidInputError, match="kind must be one of"):
        schur_multiplier(np.eye(2), V, "sylvester")
    with pytest.raises(InvalidInputError, match=r"V of shape \(3, 3\)"):
        lyapunov(np.eye(2), np.eye(3))


def test_a_second_derivative_is_an_error():
    G = torch.eye(2, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(multiply_in_basis(G, G, "lyapunov").square().sum(), G, create_graph=True)
    with pytest.raises(InvalidInputError, match="second derivative of the multiplier"):
        first.sum().backward()


def test_the_derivative_of_the_root_is_the_solution_of_lyapunov(rng):
    A, G = definite([0.5, 1.0, 1.0], rng).requires_grad_(), hermitian(rng, 3, 3)
    (grad,) = torch.autograd.grad(spectral(A, "sqrt"), A, G)
    assert_allclose(grad.numpy(), lyapunov(sqrtm(A.detach()), G).numpy(), atol=1e-14)
