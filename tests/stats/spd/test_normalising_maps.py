"""The spectral maps of the batch norms: strictly increasing, exact derivatives, agreement with the formula."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from sciml.exceptions import InvalidInputError
from sciml.linalg.spd.checks import symmetrise
from sciml.stats.spd.normalising_maps import DELTA, rescale, scatter

SPECTRA = {
    "ordinary": [0.5, 1.0, 2.0],
    "identity": [1.0, 1.0, 1.0],
    "repeated": [0.7, 2.0, 2.0],
    "nearly repeated": [0.7, 2.0, 2.0 + 1e-11],
    "far below the mean": [0.02, 0.04, 3.0],
}


def matrix(spectrum, rng):
    Q = torch.from_numpy(np.linalg.qr(rng.standard_normal((3, 3)))[0])
    return symmetrise((Q * torch.tensor(spectrum, dtype=torch.float64)) @ Q.mT)[None]


def apply(kind):
    def function(A, c):
        A = symmetrise(A)
        return rescale(A, c, kind, torch.linalg.eigh(A.detach()))

    return function


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kind", ["root", "power", "square"])
def test_gradients_to_matrix_and_scale(kind, spectrum, rng):
    A = matrix(SPECTRA[spectrum], rng).requires_grad_()
    c = torch.tensor([1.3], dtype=torch.float64, requires_grad=kind != "square")
    assert gradcheck(apply(kind), (A, c), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kind", ["root", "power"])
def test_gradients_of_the_scatter(kind, spectrum, rng):
    A = matrix(SPECTRA[spectrum], rng).requires_grad_()

    def function(A):
        A = symmetrise(A)
        return scatter(A, kind, torch.linalg.eigh(A.detach()))

    assert gradcheck(function, (A,), eps=1e-6, atol=1e-6)


def diagonal(kind, x, c):
    """Return h(x) of 1 x 1 matrices."""
    x = torch.as_tensor(x, dtype=torch.float64)[:, None]
    eig = (x, torch.ones(len(x), 1, 1, dtype=torch.float64))
    return rescale(x[:, None], torch.tensor([c], dtype=torch.float64), kind, eig).flatten().numpy()


def test_the_formula_above_the_bend():
    x = np.array([0.3, 1.0, 4.0])
    assert_allclose(diagonal("root", x, 0.7), (1 + 0.7 * (np.sqrt(x) - 1)) ** 2, rtol=1e-14)
    assert_allclose(diagonal("power", x, 0.7), x**0.7, rtol=1e-14)
    assert_allclose(diagonal("square", x, 0.7), x**2, rtol=1e-14)


@pytest.mark.parametrize("c", [0.1, 1.0, 5.0, 300.0])
def test_the_root_never_folds_nor_flattens(c):
    x = np.concatenate([[0.0], np.logspace(-14, 14, 400)])
    y = diagonal("root", x, c)
    assert (np.diff(y) > 0).all()
    assert (y > 0).all()


def test_the_square_never_folds():
    y = diagonal("square", np.linspace(-300, 300, 10001), 1.0)
    assert (np.diff(y) > 0).all()
    assert (y > 0).all()


def test_the_bend_has_one_continuous_derivative():
    h = 1e-7
    x = np.array([DELTA - h, DELTA, DELTA + h])
    y = diagonal("square", x, 1.0)
    slopes = np.diff(y) / h
    assert_allclose(slopes, 2 * DELTA, rtol=1e-3)  # the second derivative jumps: O(h / DELTA)


def test_quotients_across_the_bend_do_not_cancel():
    # A pair on either side of the bend, 1e-13 apart: the derivative there is that of u^2.
    A = torch.diag(torch.tensor([DELTA - 5e-14, DELTA + 5e-14], dtype=torch.float64)).requires_grad_()
    eig = (A.detach().diagonal(), torch.eye(2, dtype=torch.float64))
    rescale(A, torch.ones(1, dtype=torch.float64), "square", eig)[0, 1].backward()
    assert A.grad[0, 1].item() == pytest.approx(DELTA, rel=1e-10)


def test_scatter_is_the_squared_distance_to_the_identity(rng):
    A = matrix([0.25, 1.0, 9.0], rng)
    eig = torch.linalg.eigh(A)
    assert scatter(A, "root", eig).item() == pytest.approx(0.25 + 4, rel=1e-13)
    assert scatter(A, "power", eig).item() == pytest.approx(np.log(4) ** 2 + np.log(9) ** 2, rel=1e-13)


def test_singular_matrices_have_finite_gradients():
    A = torch.diag(torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)).requires_grad_()
    eig = (A.detach().diagonal(), torch.eye(3, dtype=torch.float64))
    rescale(A, torch.tensor([0.5], dtype=torch.float64), "root", eig).sum().backward()
    assert torch.isfinite(A.grad).all()


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kind", ["root", "power"])
def test_the_logarithm_from_the_same_eigenvectors(kind, spectrum, rng):
    A = matrix(SPECTRA[spectrum], rng).requires_grad_()
    c = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)

    def function(A, c):
        A = symmetrise(A)
        return rescale(A, c, kind, torch.linalg.eigh(A.detach()), log=True)

    assert_allclose(torch.linalg.matrix_exp(function(A, c)).detach(), apply(kind)(A, c).detach(), rtol=0, atol=1e-12)
    assert gradcheck(function, (A, c), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["root", "power"])
def test_a_second_derivative_is_refused_and_not_wrong(kind, rng):
    L = torch.from_numpy(rng.normal(size=(2, 3, 3)))
    A = (L @ L.mT + torch.eye(3)).requires_grad_(True)
    c = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    eig = torch.linalg.eigh(A.detach())
    for value in (rescale(A, c, kind, eig).sum(), scatter(A, kind, eig).sum()):
        (first,) = torch.autograd.grad(value, A, create_graph=True)
        with pytest.raises(InvalidInputError, match="second derivative of a batch norm's"):
            torch.autograd.grad(first.sum(), A)
