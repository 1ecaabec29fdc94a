"""Sums, products, multiples, transposes, inverses."""

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import Circulant, Dense, Diagonal, Inverse, Permutation, Product, Selection, Sum, Toeplitz


def test_expressions_are_lazy_and_right(rng):
    M, N, d = rng.standard_normal((4, 4)), rng.standard_normal((4, 4)), rng.standard_normal(4)
    A, B, D = Dense(M), Dense(N), Diagonal(d)
    expression = 2 * A @ B.T - D @ A + (-B) / 4
    wanted = 2 * M @ N.T - np.diag(d) @ M - N / 4
    assert isinstance(expression, Sum)
    np.testing.assert_allclose(expression.to_dense(), wanted, atol=1e-13)
    np.testing.assert_allclose(expression.T.to_dense(), wanted.T, atol=1e-13)
    np.testing.assert_allclose(expression.solve(d), np.linalg.solve(wanted, d), rtol=1e-9)
    assert len((A + B + A).terms) == 3
    assert len((A @ B @ A).factors) == 3


def test_a_product_is_solved_and_its_determinant_taken_factor_by_factor(rng):
    c = np.r_[3.0, rng.uniform(-0.3, 0.3, 4)]
    A = Circulant(c) @ Diagonal([1.0, -2.0, 3.0, 4.0, 5.0]) @ Permutation([1, 0, 2, 3, 4])
    b = rng.standard_normal(5)
    np.testing.assert_allclose(A @ A.solve(b), b, rtol=1e-12)
    np.testing.assert_allclose(A.T @ A.T.solve(b), b, rtol=1e-12)
    sign, value = A.slogdet()
    wanted = np.linalg.slogdet(A.to_dense())
    assert (sign, value) == (wanted[0], pytest.approx(wanted[1]))
    assert A.solve_run(b).choices["method"].startswith("direct: factor by factor: fast Fourier transform")


def test_a_product_of_rectangles_is_solved_as_a_whole(rng):
    A = Product(Dense(rng.standard_normal((3, 5))), Dense(rng.standard_normal((5, 3))))
    b = rng.standard_normal(3)
    run = A.solve_run(b)
    np.testing.assert_allclose(run.value, np.linalg.solve(A.to_dense(), b), rtol=1e-9)
    assert run.choices["method"] == "direct: LU of the dense matrix, n=3"
    assert A.slogdet()[1] == pytest.approx(np.linalg.slogdet(A.to_dense())[1])


def test_transposes_undo_one_another():
    A = Dense(np.array([[1.0, 2j], [0.0, 1.0]]))
    assert A.T.T is A
    assert A.H.H is A
    np.testing.assert_array_equal(A.T.H.to_dense(), np.array([[1, -2j], [0, 1]]))
    symmetric = Toeplitz([2.0, 1.0])
    assert symmetric.T is symmetric
    hermitian = Dense(np.array([[1.0, 2j], [-2j, 1.0]]), symmetric=True)
    assert hermitian.H is hermitian
    np.testing.assert_array_equal(hermitian.T.to_dense(), hermitian.to_dense().T)


def test_flags_follow():
    A, B = Toeplitz([2.0, 1.0]), Diagonal([1.0, 2.0])
    assert (A + B).posdef
    assert (2 * A).posdef
    assert not (-2 * A).posdef
    assert (-2 * A).symmetric
    assert not (1j * A).symmetric
    assert not (A @ B).symmetric


def test_an_inverse_is_an_operator(rng):
    A = Circulant(np.r_[3.0, rng.uniform(-0.3, 0.3, 4)])
    M = Inverse(A)
    x = rng.standard_normal(5)
    np.testing.assert_allclose(M @ (A @ x), x, rtol=1e-12)
    np.testing.assert_allclose(M.solve(x), A @ x, rtol=1e-12)
    assert M.logdet() == pytest.approx(-A.logdet())
    with pytest.raises(InvalidInputError, match="Inverse needs a square matrix"):
        Inverse(Selection(np.array([0]), 2))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Dense(np.eye(2)) + Dense(np.eye(3)), "terms must be operators of one shape"),
        (lambda: Dense(np.eye(2)) @ Dense(np.eye(3)), "factors must fit"),
        (lambda: Dense(np.eye(2)) * np.ones(2), "factor must be a number"),
        (lambda: Dense(np.zeros((2, 3, 3))) + Dense(np.zeros((4, 3, 3))), "batch axes of the operators must broadcast"),
        (lambda: Dense(np.zeros((2, 3, 3))) @ np.ones((4, 3, 1)), "batch axes that broadcast"),
        (lambda: Dense(np.eye(2)) + 3, "add ScaledIdentity"),
    ],
)
def test_says_what_does_not_fit(make, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        make()


def test_one_tensor_in_two_places_gets_both_gradients():
    c = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    A = Diagonal(c * torch.ones(3, dtype=torch.float64)) + c * Dense(torch.ones(3, 3, dtype=torch.float64))
    x = A.solve(torch.ones(3, dtype=torch.float64))
    # A = c (I + 1 1^T), so x = 1 / (4 c)
    (gradient,) = torch.autograd.grad(x.sum(), c)
    assert float(gradient) == pytest.approx(-3 / 16)
