"""Matrix functions: values, exact derivatives at repeated eigenvalues, invariances, and what is refused."""

import mpmath
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.autograd import gradcheck, gradgradcheck

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd.functions import clip_eigenvalues, expm, invm, invsqrtm, logm, powm, spectral, sqrtm

CASES = [("sqrt", None), ("invsqrt", None), ("inv", None), ("log", None), ("exp", None), ("pow", 0.4), ("pow", -1.3)]
SPECTRA = {
    "ordinary": [0.5, 1.0, 2.0, 3.0],
    "identity": [1.0, 1.0, 1.0, 1.0],
    "repeated": [0.7, 2.0, 2.0, 2.0],
    "nearly repeated": [0.7, 2.0, 2.0 + 1e-11, 2.0 + 2e-11],
}


def turned(spectrum, rng, complex_valued=False):
    """Return a Hermitian matrix with this spectrum in a random frame."""
    n = len(spectrum)
    Z = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_valued else 0)
    Q = np.linalg.qr(Z)[0]
    A = (Q * spectrum) @ Q.conj().T
    return torch.from_numpy(0.5 * (A + A.conj().T))


@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("kind", "p"), CASES)
def test_gradients_where_eigenvalues_repeat(kind, p, spectrum, complex_valued, rng):
    A = turned(SPECTRA[spectrum], rng, complex_valued).requires_grad_()
    assert gradcheck(lambda A: spectral(A, kind, p), (A,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("spectrum", ["ordinary", "repeated"])
def test_gradients_of_clipping_to_matrix_and_floor(spectrum, rng):
    A = torch.stack([turned(SPECTRA[spectrum], rng), turned(SPECTRA[spectrum], rng)]).requires_grad_()
    floor = torch.tensor([[1.4], [0.9]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda A, floor: spectral(A, "clip", floor), (A, floor), eps=1e-6, atol=1e-6)
    shared = torch.tensor(1.4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda floor: spectral(A.detach(), "clip", floor), (shared,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("complex_valued", [False, True])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kind", ["sqrt", "invsqrt", "inv"])
def test_second_derivatives_of_roots_and_inverse(kind, spectrum, complex_valued, rng):
    A = turned(SPECTRA[spectrum], rng, complex_valued).requires_grad_()
    assert gradgradcheck(lambda A: spectral(A, kind), (A,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize(("kind", "p"), [("log", None), ("exp", None), ("pow", 0.4), ("clip", 0.1)])
def test_other_second_derivatives_are_an_error_not_a_wrong_number(kind, p):
    A = torch.eye(3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(spectral(A, kind, p).square().sum(), A, create_graph=True)
    with pytest.raises(InvalidInputError, match=f"second derivative of the matrix function '{kind}'"):
        first.sum().backward()


@pytest.mark.parametrize(("kind", "p"), CASES[:5] + [("pow", 0.5)])
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_the_gradient_is_exact_on_diagonals(kind, p, scale):
    # Condition 1e14, equal pairs and gaps of 1e-15 to 1e-5 at once, against 60 digits.
    gaps = np.array([0.0, 1e-15, 1e-13, 1e-11, 1e-9, 1e-7, 1e-5])
    s = scale * np.concatenate([[1e-14, 1e-7], 1.0 + gaps])
    A = torch.diag(torch.from_numpy(s)).requires_grad_()
    n, worst = len(s), 0.0
    G = torch.ones(n, n, dtype=torch.float64)
    (got,) = torch.autograd.grad(spectral(A, kind, p), A, G)
    functions = {
        "sqrt": mpmath.sqrt,
        "invsqrt": lambda x: 1 / mpmath.sqrt(x),
        "inv": lambda x: 1 / x,
        "log": mpmath.log,
        "exp": mpmath.exp,
        "pow": lambda x: x**p,
    }
    f = functions[kind]
    with mpmath.workdps(100):
        x = [mpmath.mpf(float(value)) for value in s]
        for i in range(n):
            for j in range(n):
                h = mpmath.mpf(10) ** -60 * x[i]
                b = x[j] if x[j] != x[i] else x[i] + h  # a quotient with a gap of 1e-60 is the derivative
                truth = (f(x[i]) - f(b)) / (x[i] - b)
                worst = max(worst, float(abs(mpmath.mpf(got[i, j].item()) - truth) / abs(truth)))
    assert worst < 1e-14


def test_values_against_the_spectrum(rng):
    A = turned([0.5, 1.0, 2.0, 3.0], rng).numpy()
    R = sqrtm(A)
    assert_allclose(R @ R, A, atol=1e-14)
    assert_allclose(invsqrtm(A) @ R, np.eye(4), atol=1e-14)
    assert_allclose(expm(logm(A)), A, atol=1e-14)
    assert_allclose(invm(A) @ A, np.eye(4), atol=1e-14)
    assert_allclose(powm(A, 0.3) @ powm(A, 0.7), A, atol=1e-14)
    assert_allclose(powm(A, 0), np.eye(4), atol=1e-14)
    assert np.linalg.eigvalsh(clip_eigenvalues(A, 1.5)) == pytest.approx([1.5, 1.5, 2, 3], rel=1e-14)


def test_hermitian_matrices_and_batches(rng):
    A = torch.stack([turned([0.5, 1, 2], rng, True) for _ in range(3)])[None]
    R = sqrtm(A)
    assert R.shape == (1, 3, 3, 3)
    assert torch.equal(R, R.mH)
    assert_allclose((R @ R).numpy(), A.numpy(), atol=1e-14)


@pytest.mark.parametrize("function", [sqrtm, invsqrtm, invm, logm, expm])
def test_the_kind_that_came_in_goes_out(function, rng):
    A = turned([0.5, 1.0, 2.0], rng)
    assert isinstance(function(A.numpy()), np.ndarray)
    assert isinstance(function(A), torch.Tensor)
    assert_allclose(function(A.numpy()), function(A).numpy(), rtol=0, atol=0)


@pytest.mark.parametrize("function", [sqrtm, invsqrtm, invm, lambda A: powm(A, 0.25), lambda A: powm(A, -2)])
def test_units_only_rescale(function, rng):
    A = turned([0.5, 1.0, 2.0], rng).numpy()
    one = function(A)
    for k in (-40, 40):  # 2**(4 k'): every power above is an exact power of two
        factor = function(2.0**k * np.eye(3))[0, 0]
        assert_allclose(function(2.0**k * A), factor * one, rtol=1e-14, atol=1e-14 * abs(factor))


def test_the_frame_does_not_matter(rng):
    A, Q = turned([0.5, 1.0, 1.0, 3.0], rng).numpy(), np.linalg.qr(rng.standard_normal((4, 4)))[0]
    turned_A = Q @ A @ Q.T
    assert_allclose(logm(0.5 * (turned_A + turned_A.T)), Q @ logm(A) @ Q.T, atol=1e-14)


@pytest.mark.parametrize("function", [logm, invsqrtm, invm, lambda A: powm(A, -0.5)])
def test_singular_matrices_have_no_logarithm(function):
    with pytest.raises(NotPositiveDefiniteError, match=r"A must be positive definite; number 1 .*shrink") as caught:
        function(np.stack([np.eye(2), np.diag([0.0, 1.0])]))
    assert caught.value.index == 1


def test_singular_matrices_have_a_root():
    assert_allclose(sqrtm(np.diag([0.0, 4.0])), np.diag([0.0, 2.0]))
    assert_allclose(powm(np.diag([0.0, 4.0]), 1.5), np.diag([0.0, 8.0]))
    with pytest.raises(NotPositiveDefiniteError, match="smallest eigenvalue -1 "):
        sqrtm(np.diag([-1.0, 4.0]))


def test_bad_input_is_named():
    with pytest.raises(InvalidInputError, match="A must be finite"):
        sqrtm(np.full((2, 2), np.nan))
    with pytest.raises(InvalidInputError, match=r"A must be square .*\(2, 3\)"):
        logm(np.ones((2, 3)))
    with pytest.raises(InvalidInputError, match="p must be a number"):
        powm(np.eye(2), np.nan)
    with pytest.raises(InvalidInputError, match=r"floor must be one number or of shape \(3,\); got shape \(2,\)"):
        clip_eigenvalues(np.stack(3 * [np.eye(2)]), [1.0, 2.0])
    with pytest.raises(InvalidInputError, match="kind must be one of"):
        spectral(torch.eye(2), "cube")


def test_the_gradient_lives_at_the_scale_of_volts_squared(rng):
    # Eigenvalues of 1e-12 have the same relative derivative as those of 1: no absolute threshold.
    A = turned([0.5, 1.0, 1.0, 3.0], rng)
    G = turned([1.0, 2.0, 3.0, 4.0], rng)
    grads = []
    for scale in (1.0, 2.0**-40):
        X = (scale * A).requires_grad_()
        (grad,) = torch.autograd.grad(spectral(X, "log"), X, G)
        grads.append(scale * grad)
    assert_allclose(grads[1].numpy(), grads[0].numpy(), rtol=1e-14, atol=1e-14)
