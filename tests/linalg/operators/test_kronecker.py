"""Kronecker products and sums."""

import numpy as np
import pytest
import scipy.linalg
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import Circulant, Dense, Diagonal, Kronecker, KroneckerSum, ScaledIdentity


def spd(n, rng):
    R = rng.standard_normal((n, n))
    return R @ R.T / n + np.eye(n)


def test_agrees_with_numpy(rng):
    A, B, C = rng.standard_normal((2, 3)), rng.standard_normal((3, 2)), rng.standard_normal((2, 2))
    K = Kronecker(A, B, C)
    wanted = np.kron(np.kron(A, B), C)
    np.testing.assert_allclose(K.to_dense(), wanted, rtol=1e-13)
    np.testing.assert_allclose(K @ np.eye(12), wanted, rtol=1e-12)
    np.testing.assert_allclose(K.T @ np.eye(12), wanted.T, rtol=1e-12)


def test_the_product_with_a_vector_is_two_products_of_matrices(rng):
    A, B, X = rng.standard_normal((4, 5)), rng.standard_normal((6, 7)), rng.standard_normal((5, 7))
    np.testing.assert_allclose(Kronecker(A, B) @ X.ravel(), (A @ X @ B.T).ravel(), rtol=1e-12)


def test_shifted_products_of_many_unknowns_are_solved_directly(rng):
    K = Kronecker(spd(120, rng), spd(120, rng), shift=0.1)
    x = rng.standard_normal(14_400)
    b = K @ x
    np.testing.assert_allclose(K.solve(b), x, atol=1e-10)


@pytest.mark.parametrize("dtype", [float, complex])
def test_the_spectrum_is_that_of_the_factors(dtype, rng):
    A, B = (spd(n, rng).astype(dtype) for n in (3, 4))
    if dtype is complex:
        A[0, 1] += 0.3j
        A[1, 0] -= 0.3j
    K, S = Kronecker(A, B, shift=0.5), KroneckerSum(A, B, shift=0.5)
    a, b = np.linalg.eigvalsh(A), np.linalg.eigvalsh(B)
    assert K.logdet() == pytest.approx(np.log(np.multiply.outer(a, b) + 0.5).sum())
    assert S.logdet() == pytest.approx(np.log(np.add.outer(a, b) + 0.5).sum())
    x = rng.standard_normal(12)
    np.testing.assert_allclose(K.solve(K @ x), x, rtol=1e-10)
    np.testing.assert_allclose(S.solve(S @ x), x, rtol=1e-10)
    condition = (a.max() * b.max() + 0.5) / (a.min() * b.min() + 0.5)
    assert K.solve_run(x).condition == pytest.approx(condition)


def test_factors_that_are_not_symmetric(rng):
    A, B = rng.standard_normal((3, 3)) + 3 * np.eye(3), rng.standard_normal((4, 4)) + 3 * np.eye(4)
    x = rng.standard_normal((12, 2))
    K, S = Kronecker(A, B), KroneckerSum(A, B)
    np.testing.assert_allclose(K.solve(K @ x), x, rtol=1e-9)
    np.testing.assert_allclose(S.solve(S @ x), x, rtol=1e-9)
    np.testing.assert_allclose(S.H.solve(S.H @ x), x, rtol=1e-9)
    C = rng.standard_normal((3, 4))
    np.testing.assert_allclose(S.solve(C.ravel()), scipy.linalg.solve_sylvester(A, B.T, C).ravel(), rtol=1e-12)
    assert "Sylvester" in S.solve_run(x).choices["method"]
    shifted = Kronecker(A, B, shift=0.3)
    np.testing.assert_allclose(shifted.solve(shifted @ x), x, rtol=1e-9)
    assert "dense matrix" in shifted.solve_run(x).choices["method"]
    assert K.slogdet()[1] == pytest.approx(4 * np.linalg.slogdet(A)[1] + 3 * np.linalg.slogdet(B)[1])


def test_structured_factors_keep_their_structure(rng):
    K = Kronecker(Circulant(np.array([3.0, 1.0, 1.0])), Diagonal([1.0, 2.0]))
    assert K.posdef
    x = rng.standard_normal(6)
    run = K.solve_run(K @ x)
    np.testing.assert_allclose(run.value, x, rtol=1e-12)
    assert "fast Fourier transform, n=3; division by the diagonal" in run.choices["method"]


def test_batches_of_factors(rng):
    A, B = np.stack([spd(2, rng) for _ in range(3)]), spd(3, rng)
    K, S = Kronecker(A, B, shift=0.1), KroneckerSum(A, B)
    for k in range(3):
        np.testing.assert_allclose(K.to_dense()[k], np.kron(A[k], B) + 0.1 * np.eye(6), rtol=1e-13)
        np.testing.assert_allclose(S.to_dense()[k], np.kron(A[k], np.eye(3)) + np.kron(np.eye(2), B), rtol=1e-13)
    for M in (K, S):
        x = rng.standard_normal((3, 6, 2))
        np.testing.assert_allclose(M.solve(M @ x), x, rtol=1e-10)
        np.testing.assert_allclose(M.logdet(), np.linalg.slogdet(M.to_dense())[1], rtol=1e-12)


def test_sums_with_the_identity_become_shifts(rng):
    A = spd(2, rng)
    for kind in (Kronecker, KroneckerSum):
        M = kind(A, A) + ScaledIdentity(4, 0.5) + ScaledIdentity(4, 0.25)
        assert type(M) is kind
        assert float(M.shift) == 0.75
        assert isinstance(M.diag(), np.ndarray)


def test_second_derivatives_where_eigenvalues_repeat():
    # Both factors are the same, so every eigenvalue of the product comes twice; the plain way gives NaN.
    eye = torch.eye(2, dtype=torch.float64)

    def value(R):
        A = R @ R.T + 2 * eye
        return Kronecker(A, A, shift=0.3).logdet() + KroneckerSum(A, A, shift=0.3).logdet()

    R = (0.1 * eye).requires_grad_()
    assert torch.autograd.gradcheck(value, R)
    assert torch.autograd.gradgradcheck(value, R)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (Kronecker, "factors must hold at least one matrix"),
        (lambda: Kronecker(np.ones((2, 3)), shift=1.0), "factor 0 must be square here"),
        (lambda: KroneckerSum(np.eye(2), np.ones((2, 3))), "factor 1 must be square here"),
        (lambda: Kronecker(np.eye(2), shift=np.ones(2)), "shift must be a number"),
    ],
)
def test_says_what_does_not_fit(make, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        make()


@pytest.mark.parametrize("kind", [Kronecker, KroneckerSum])
def test_a_factor_of_shorter_precision_does_not_spoil_the_rest(kind, rng):
    A, B = spd(3, rng).astype(np.float32), spd(4, rng)
    M = kind(A, B, shift=0.5)
    x = rng.standard_normal(12)
    np.testing.assert_allclose(M.solve(M @ x), x, rtol=1e-11)
    np.testing.assert_allclose(
        kind(A, B + np.triu(B, 1)).to_dense(), kind(A.astype(float), B + np.triu(B, 1)).to_dense()
    )


def test_symmetry_of_arrays_is_seen(rng):
    A = spd(2, rng)
    assert Kronecker(A, A).symmetric
    assert not Kronecker(A, A + np.triu(A, 1)).symmetric
    assert not Kronecker(A, A).posdef  # not known
    assert Kronecker(Dense(A, posdef=True), Dense(A, posdef=True)).posdef
