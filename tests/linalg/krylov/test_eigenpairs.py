"""Extreme eigenpairs: right, orthonormal, with residuals that are there."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.linalg import jacobi, lanczos, lobpcg
from tests.linalg.krylov.systems import symmetric

SPECTRUM = np.concatenate([[-8.0, -7.5, -7.0], np.linspace(-1, 2, 120), [6.0, 6.5, 6.8, 9.0]])


def check_pairs(A, run, values):
    vectors = np.asarray(run.vectors)
    assert run.converged
    assert_allclose(run.value, values, rtol=0, atol=1e-10 * np.abs(SPECTRUM).max())  # the square of the residual
    assert_allclose(vectors.conj().T @ vectors, np.eye(len(values)), atol=1e-12)
    residual = np.linalg.norm(A @ vectors - vectors * np.asarray(run.value), axis=0) / np.linalg.norm(A, 2)
    # Theirs is relative to the largest value seen, which LOBPCG may see only in part.
    assert (run.residual >= 0.99 * residual - 1e-15).all()
    assert (run.residual <= 1.3 * residual + 1e-15).all()
    assert residual.max() <= 1e-8


@pytest.mark.parametrize("method", [lanczos, lobpcg])
@pytest.mark.parametrize(
    ("which", "values"),
    [("largest", [9, 6.8, 6.5, 6]), ("smallest", [-8, -7.5, -7, -1]), ("magnitude", [9, -8, -7.5, -7])],
)
def test_finds_the_pairs_that_were_asked_for(method, which, values, backend, rng):
    A = symmetric(SPECTRUM, rng)
    run = method(backend.array(A), 4, which)
    backend.numpy(run.value)
    check_pairs(A, run, values)


@pytest.mark.parametrize("method", [lanczos, lobpcg])
def test_hermitian_and_repeated_eigenvalues(method, rng):
    spectrum = np.concatenate([np.linspace(0, 1, 60), [5.0, 5.0, 5.0, 7.0]])
    A = symmetric(spectrum, rng, complex_=True)
    check_pairs(A, method(A, 4, "largest"), [7, 5, 5, 5])


def test_the_laplacian_on_a_square_has_known_values():
    m = 30
    T = scipy.sparse.diags_array([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], offsets=[-1, 0, 1])
    A = (scipy.sparse.kron(T, scipy.sparse.eye_array(m)) + scipy.sparse.kron(scipy.sparse.eye_array(m), T)).tocsr()
    line = 2 - 2 * np.cos(np.arange(1, m + 1) * np.pi / (m + 1))
    truth = np.sort(np.add.outer(line, line).ravel())
    assert_allclose(lanczos(A, 5).value, truth[::-1][:5], rtol=1e-10)
    solve = scipy.sparse.linalg.splu(A.tocsc()).solve
    plain, better = lobpcg(A, 5), lobpcg(A, 5, M=solve)
    for run in (plain, better):
        assert_allclose(run.value, truth[:5], rtol=1e-8)
    assert better.n_iter < plain.n_iter / 4


def test_units_do_not_matter(rng):
    A = symmetric(SPECTRUM, rng)
    one, scaled = lanczos(A, 3), lanczos(2.0**40 * A, 3)
    assert one.n_iter == scaled.n_iter
    assert np.array_equal(scaled.value, 2.0**40 * one.value)


def test_small_matrices_and_all_pairs(rng):
    A = symmetric([1.0, 2.0, 4.0, 8.0], rng)
    for method in (lanczos, lobpcg):
        for k in (1, 3, 4):
            assert_allclose(method(A, k, "largest").value, [8, 4, 2, 1][:k], rtol=1e-8)
    assert lanczos([[3.0]], 1).value.tolist() == [3.0]
    assert_allclose(lanczos(np.eye(7), 4).value, np.ones(4))
    assert (lanczos(np.zeros((5, 5)), 2).value == 0).all()


def test_float32_and_a_first_guess(rng):
    A = symmetric(SPECTRUM, rng)
    run = lanczos(A.astype(np.float32), 2)
    assert run.value.dtype == np.float32
    assert_allclose(run.value, [9, 6.8], rtol=1e-6)
    again = lobpcg(A, 3, X0=np.linalg.eigh(A)[1][:, :3])
    assert again.n_iter == 0


def test_failures_are_named(rng):
    A = symmetric(SPECTRUM, rng)
    with pytest.warns(ConvergenceWarning, match="lanczos stopped after 1 iterations .*max_iter"):
        run = lanczos(A, 3, max_iter=1)
    assert run.residual.max() > 1e-8
    for bad, text in (
        ({"k": 0}, "k must be an integer at least 1"),
        ({"k": 3, "which": "greatest"}, "which must be one of 'largest'"),
        ({"k": 3, "basis": 4}, "basis must be at least k \\+ block = 6; got 4"),
    ):
        with pytest.raises(InvalidInputError, match=text):
            lanczos(A, **bad)
    with pytest.raises(InvalidInputError, match="A must be one square matrix"):
        lanczos(A[:3])
    with pytest.raises(InvalidInputError, match=r"X0 must have shape \(127, 2\)"):
        lobpcg(A, 2, X0=np.ones((3, 2)))
    assert lobpcg(A + 20 * np.eye(127), 2, M=jacobi(A + 20 * np.eye(127))).preconditioner == "jacobi"
