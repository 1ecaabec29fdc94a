"""Preconditioners are near the matrix, know their determinant and how to draw, and say what they chose."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.kernels import Gaussian
from sciml.linalg import KernelOperator, block_jacobi, cg, circulant, jacobi, nystrom, pivoted_cholesky
from tests.linalg.krylov.systems import gaussian_kernel, spd, symmetric


def kernel_system(n, noise, lengthscale, rng):
    x = rng.random((n, 2))
    return x, gaussian_kernel(x, lengthscale) + noise * np.eye(n)


def makers(A, noise):
    return {
        "jacobi": jacobi(A),
        "block_jacobi(7)": block_jacobi(A, 7),
        "circulant": circulant(A),
        "nystrom(10)": nystrom(A, noise, rank=10),
        "pivoted_cholesky(10)": pivoted_cholesky(A, noise, rank=10),
        "none": nystrom(A, noise, rank=0),
    }


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize(
    "name", ["jacobi", "block_jacobi(7)", "circulant", "nystrom(10)", "pivoted_cholesky(10)", "none"]
)
def test_inverse_determinant_and_root_belong_to_one_positive_definite_matrix(name, complex_, rng):
    A = symmetric(np.geomspace(1e-2, 10, 31), rng, complex_) + 0.1 * np.eye(31)
    M = makers(A, 0.1)[name]
    inverse = np.asarray(M._matmat(torch.eye(31, dtype=M.dtype)))
    assert_allclose(inverse, inverse.conj().T, atol=1e-13)
    assert np.linalg.eigvalsh(inverse)[0] > 0
    assert_allclose(M.logdet(), -np.linalg.slogdet(inverse)[1], rtol=1e-10)
    root = np.asarray(M._root(torch.eye(31, dtype=M.dtype)))
    assert_allclose(root @ root.conj().T, np.linalg.inv(inverse), atol=1e-11)


def test_draws_have_the_covariance_of_the_preconditioner(rng):
    A = spd(6, 10, rng)
    draws = nystrom(A, 0.5, rank=3).sample(40000, 0).numpy()
    P = np.linalg.inv(np.asarray(nystrom(A, 0.5, rank=3)._matmat(torch.eye(6, dtype=torch.float64))))
    assert_allclose(draws @ draws.T / 40000, P, atol=6 * 10 / np.sqrt(40000))
    M = jacobi(spd(6, 10, rng).astype(np.complex128))
    Z = M.sample(40000, 0).numpy()
    assert_allclose(
        (np.abs(Z) ** 2).mean(1), 1 / np.asarray(M._matmat(torch.ones(6, 1, dtype=M.dtype)))[:, 0].real, rtol=0.05
    )


def test_the_same_seed_gives_the_same_and_scaling_the_matrix_scales_the_preconditioner(rng):
    _, A = kernel_system(60, 1e-2, 0.3, rng)
    b = rng.standard_normal(60)
    for make in (nystrom, pivoted_cholesky):
        one = make(A, 1e-2, rank=12) @ b
        assert np.array_equal(one, make(A, 1e-2, rank=12) @ b)
        assert_allclose(make(1024 * A, 10.24, rank=12) @ b, one / 1024, rtol=1e-6)


def test_jacobi_undoes_units_and_block_jacobi_solves_blocks(rng):
    A = scipy.linalg.block_diag(*(spd(4, 100, rng) for _ in range(5)), spd(3, 100, rng))
    b = rng.standard_normal(23)
    assert cg(A, b, M=block_jacobi(A, 4)).n_iter <= 2
    assert cg(scipy.sparse.csr_array(A), b, M=block_jacobi(scipy.sparse.csr_array(A), 4)).n_iter <= 2
    assert cg(A, b, M=block_jacobi(A, 100)).n_iter <= 2
    d = np.geomspace(1, 1e6, 30)
    assert cg(np.diag(d), np.ones(30), M=jacobi(np.diag(d))).n_iter == 1


def test_circulant_is_exact_for_circulant_matrices_and_good_for_toeplitz_ones():
    c = 0.5 ** np.minimum(np.arange(40), 40 - np.arange(40))
    C = scipy.linalg.circulant(c)
    assert cg(C, np.arange(40.0), M=circulant(C)).n_iter == 1
    t = 1 / (1 + np.arange(400.0)) ** 1.1
    T = scipy.linalg.toeplitz(t)
    b = np.random.default_rng(0).standard_normal(400)
    run = cg(T, b, M=circulant(T))
    assert run.n_iter < 15 < cg(T, b).n_iter
    # T. Chan's formula for Toeplitz matrices
    k = np.arange(400)
    first = ((400 - k) * t + k * t[(400 - k) % 400]) / 400
    assert_allclose(circulant(T).values, np.fft.fft(first).real, rtol=1e-10)


def test_a_low_rank_matrix_is_found_exactly_and_cg_takes_one_step(rng):
    F = rng.standard_normal((80, 6))
    A = F @ F.T + 0.1 * np.eye(80)
    b = rng.standard_normal(80)
    for M in (pivoted_cholesky(A, 0.1), pivoted_cholesky(A, 0.1, rank=20)):
        assert M.rank == 6
        assert cg(A, b, M=M).n_iter <= 2
    assert cg(A, b, M=nystrom(A, 0.1, rank=12)).n_iter <= 2
    assert_allclose(pivoted_cholesky(A, 0.1).logdet(), np.linalg.slogdet(A)[1], rtol=1e-8)


def test_the_kernel_system_of_the_specification_in_small(rng):
    x, A = kernel_system(600, 1e-3, 0.2, rng)
    b = rng.standard_normal(600)
    plain = cg(A, b)
    sketched = cg(A, b, M=nystrom(A, 1e-3))
    pivoted = cg(A, b, M=pivoted_cholesky(A, 1e-3))
    assert plain.n_iter > 5 * sketched.n_iter
    assert pivoted.n_iter < 12
    assert sketched.preconditioner.startswith("nystrom(")
    assert "lambda_1" in sketched.choices["preconditioner"]
    # The kernel itself, and an operator made of it, give the same as the matrix.
    kernel = pivoted_cholesky(Gaussian(lengthscale=0.2), 1e-3, X=x, rank=40)
    operator = pivoted_cholesky(KernelOperator(x, Gaussian(lengthscale=0.2), diagonal=1e-3), 1e-3, rank=40)
    matrix = pivoted_cholesky(A, 1e-3, rank=40)
    assert_allclose(kernel @ b, matrix @ b, rtol=1e-5)
    assert_allclose(operator @ b, matrix @ b, rtol=1e-5)


def test_pivoted_cholesky_leaves_a_trace_near_the_best_possible(rng):
    _, A = kernel_system(300, 1e-8, 0.3, rng)
    values = np.linalg.eigvalsh(A - 1e-8 * np.eye(300))[::-1]
    M = pivoted_cholesky(A, 1e-8, rank=30)
    left = 300 - float((M.values - 1e-8).sum())
    assert values[30:].sum() <= left * (1 + 1e-9) <= 10 * values[20:].sum()


def test_the_rank_grows_where_it_pays_and_a_slow_spectrum_is_dropped(rng):
    A = symmetric(10.0 ** -np.linspace(0, 12, 420), rng) + 1e-8 * np.eye(420)
    assert nystrom(A, 1e-8).rank == 200
    assert nystrom(A + 1e-2 * np.eye(420), 1e-2 + 1e-8).rank == 100
    slow = symmetric(np.linspace(1, 4, 420), rng)
    M = nystrom(slow + 1e-3 * np.eye(420), 1e-3)
    assert M.rank == 0
    assert "falls slowly" in M.reason
    run = cg(slow, np.ones(420), M=M)
    assert run.n_iter == cg(slow, np.ones(420)).n_iter
    assert "falls slowly" in run.choices["preconditioner"]


def test_float32_systems_take_float32_preconditioners(rng):
    _, A = kernel_system(200, 1e-2, 0.3, rng)
    A32, b = A.astype(np.float32), rng.standard_normal(200).astype(np.float32)
    for M in (nystrom(A32, 1e-2), pivoted_cholesky(A32, 1e-2), jacobi(A32)):
        assert M.dtype == torch.float32
        run = cg(A32, b, M=M)
        assert run.converged
        assert np.linalg.norm(b - A32.astype(float) @ run.value) <= 1e-8 * np.linalg.norm(b)


def test_a_batch_of_matrices_has_a_batch_of_preconditioners(rng):
    A = np.stack([spd(12, 10, rng), spd(12, 50, rng)])
    for M in (jacobi(A), block_jacobi(A, 5), circulant(A)):
        assert cg(A, rng.standard_normal((2, 12, 2)), M=M).converged
        assert M.logdet().shape == (2,)


def test_what_is_not_positive_definite_or_makes_no_sense_is_named(rng):
    with pytest.raises(NotPositiveDefiniteError, match="for jacobi: its diagonal entry 1 is -2"):
        jacobi(np.diag([1.0, -2.0]))
    with pytest.raises(NotPositiveDefiniteError, match="for block_jacobi"):
        block_jacobi(np.diag([1.0, -2.0]), 2)
    with pytest.raises(NotPositiveDefiniteError, match="for circulant: eigenvalue 0"):
        circulant(-np.eye(3))
    with pytest.raises(NotPositiveDefiniteError, match="A - shift I must be positive semidefinite"):
        nystrom(np.eye(20), 5.0, rank=5)
    with pytest.raises(NotPositiveDefiniteError, match="diagonal of A - shift I 0 is -4"):
        pivoted_cholesky(np.eye(20), 5.0)
    for make in (nystrom, pivoted_cholesky):
        with pytest.raises(InvalidInputError, match="shift must be a number above 0; got 0"):
            make(np.eye(3), 0)
    with pytest.raises(InvalidInputError, match=r"A must be square; got shape \(2, 3\)"):
        jacobi(np.ones((2, 3)))


@pytest.mark.parametrize("make", [nystrom, pivoted_cholesky])
def test_stays_positive_definite_in_float32_where_the_spectrum_spans_seven_digits(make, rng):
    # U (1/values - 1/rest) U^H x + x / rest loses the sign of what is small; projecting twice does not.
    x, b = rng.random((600, 3)), rng.standard_normal(600).astype(np.float32)
    K = (Gaussian(0.5)(x) + 1e-5 * np.eye(600)).astype(np.float32)
    P = make(K, 1e-5, rank=100, random_state=0)
    r = torch.from_numpy(rng.standard_normal((600, 50)).astype(np.float32))
    r = r - P.U @ (P.U.mH @ r) + 1e3 * P.U[:, :50]
    assert bool(((r * (P @ r)).sum(0) > 0).all())
    assert cg(K, b, M=P, tol=1e-6, max_iter=1000).converged


def test_nothing_to_precondition():
    with pytest.raises(InvalidInputError, match="at least one row for circulant; got shape"):
        circulant(np.zeros((0, 0)))


def test_refuses_a_complex_preconditioner_of_a_real_system():
    with pytest.raises(InvalidInputError, match="M must be real where A and b are; got a complex one"):
        cg(np.eye(3), np.ones(3), M=np.eye(3) * (1 + 1j))
