"""Sparse matrices: against SciPy."""

import numpy as np
import pytest
import scipy.sparse
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import Sparse, laplacian


def poisson(n):
    D = scipy.sparse.diags_array([2.0, -1.0, -1.0], offsets=[0, 1, -1], shape=(n, n))
    return scipy.sparse.kronsum(D, D)


@pytest.mark.parametrize("layout", ["csr", "csc", "lil", "bsr", "dia", "dok"])
def test_takes_every_layout(layout, rng):
    M = scipy.sparse.random_array((7, 5), density=0.4, rng=rng).asformat(layout)
    x = rng.standard_normal((5, 2))
    A = Sparse(M)
    np.testing.assert_allclose(A @ x, M @ x, atol=1e-14)
    np.testing.assert_allclose(A.T @ np.ones(7), M.T @ np.ones(7), atol=1e-14)
    np.testing.assert_array_equal(A.to_dense(), M.toarray())
    np.testing.assert_array_equal(A.diag(), M.diagonal())


def test_takes_tensors():
    M = torch.tensor([[2.0, 1.0], [0.0, 4.0]])
    A = Sparse(M.to_sparse())
    assert A.to_dense().tolist() == M.tolist()
    assert A.solve(torch.tensor([3.0, 4.0])).tolist() == [1, 1]


def test_solves_a_laplacian_by_a_sparse_factorisation(rng):
    A, x = Sparse(poisson(40), symmetric=True, posdef=True), rng.standard_normal(1600)
    run = A.solve_run(A @ x)
    np.testing.assert_allclose(run.value, x, atol=1e-11)
    assert run.choices["method"] == "direct: sparse LU (SuperLU), n=1600, 7840 entries"
    twin = laplacian((40, 40))
    assert A.logdet() == pytest.approx(twin.logdet(), rel=1e-12)
    np.testing.assert_allclose(A @ x, twin @ x, atol=1e-12)
    # condition in the 1-norm: 8 times the norm of the inverse
    assert run.condition == pytest.approx(8 * abs(twin.solve(np.ones(1600))).max(), rel=0.1)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128, np.int64])
def test_dtypes(dtype, rng):
    M = (10 * scipy.sparse.random_array((8, 8), density=0.4, rng=rng) + 20 * scipy.sparse.eye_array(8)).astype(dtype)
    M = M * (1 + 1j) if dtype is np.complex128 else M
    A, b = Sparse(M), rng.standard_normal(8)
    x = A.solve(b)
    assert x.dtype == (np.complex128 if dtype is np.complex128 else np.float64)
    np.testing.assert_allclose(M @ x, b, atol=1e-6 if dtype is np.float32 else 1e-12)
    np.testing.assert_allclose(A.H.solve(b), np.linalg.solve(M.toarray().conj().T, b), rtol=1e-5)
    sign, value = A.slogdet()
    wanted = np.linalg.slogdet(M.toarray().astype(complex))
    assert sign == pytest.approx(wanted[0], abs=1e-6)
    assert value == pytest.approx(wanted[1], rel=1e-6)


def test_too_large_for_a_factorisation_goes_to_conjugate_gradients(rng, monkeypatch):
    monkeypatch.setattr("sciml.linalg.operators.sparse._LU_SIZE", 100)
    monkeypatch.setattr(Sparse, "_dense_size", 0)
    A, x = Sparse(poisson(20), posdef=True), rng.standard_normal(400)
    run = A.solve_run(A @ x, tol=1e-11)
    np.testing.assert_allclose(run.value, x, atol=1e-8)
    assert run.choices["method"] == "cg: no direct method for Sparse of n=400"


def test_entries_given_twice_are_added_and_have_gradients():
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    A = Sparse.from_entries([0, 0, 1], [0, 0, 1], values, (2, 2))
    assert A.to_dense().tolist() == [[3, 0], [0, 4]]
    (gradient,) = torch.autograd.grad(A.logdet(), values)
    assert gradient.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 4])
    assert A.solve(torch.ones(2, dtype=torch.float64)).tolist() == pytest.approx([1 / 3, 1 / 4])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Sparse.from_entries([0], [2], [1.0], (2, 2)), "columns must lie in 0 to 1; got 2 at 0"),
        (lambda: Sparse.from_entries([0, 1], [0], [1.0], (2, 2)), "must be equally long; got 2, 1 and 1"),
        (lambda: Sparse(scipy.sparse.csr_array((2, 2))).solve(np.ones(2)), "must be invertible"),
    ],
)
def test_says_what_is_wrong(make, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        make()
