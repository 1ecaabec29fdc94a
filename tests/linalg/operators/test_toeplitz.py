"""Toeplitz matrices of one and two levels: small ones against SciPy, a million unknowns with a known solution."""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch

from sciml.linalg.operators import BlockToeplitz, Circulant, Kronecker, Toeplitz


@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 5), (3, 6), (6, 3), (100, 101)])
@pytest.mark.parametrize("dtype", [float, complex])
def test_agrees_with_scipy(m, n, dtype, rng):
    c, r = rng.standard_normal(m).astype(dtype), rng.standard_normal(n).astype(dtype)
    if dtype is complex:
        c, r = c + 1j * rng.standard_normal(m), r - 1j * rng.standard_normal(n)
    A, M, x = Toeplitz(c, r), scipy.linalg.toeplitz(c, r), rng.standard_normal(n)
    np.testing.assert_array_equal(A.to_dense(), M)
    np.testing.assert_allclose(A @ x, scipy.linalg.matmul_toeplitz((c, r), x), atol=1e-12)
    np.testing.assert_allclose(A.rmatvec(np.ones(m)), M.conj().T @ np.ones(m), atol=1e-12)


def test_hermitian_by_default(rng):
    c = np.r_[3.0, 0.5 - 0.5j, 0.25j]
    A = Toeplitz(c)
    np.testing.assert_array_equal(A.to_dense(), scipy.linalg.toeplitz(c))
    assert A.posdef
    x = rng.standard_normal(3) + 1j
    run = A.solve_run(A @ x)
    np.testing.assert_allclose(run.value, x, rtol=1e-12)
    assert "Levinson's recursion, n=3" in run.choices["method"]


def test_levinson_only_where_it_is_stable():
    # The leading minor is zero, which breaks the recursion but not the matrix.
    A = Toeplitz(np.array([0.0, 1.0]))
    run = A.solve_run(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(run.value, [2, 1])
    assert "LU of the dense matrix" in run.choices["method"]
    n = 300
    B = Toeplitz(0.5 ** np.arange(n))
    x = np.cos(np.arange(n))
    np.testing.assert_allclose(B.solve(B @ x), x, rtol=1e-10)
    # Kac, Murdock, Szegoe: det = (1 - rho^2)^(n - 1)
    assert B.logdet() == pytest.approx((n - 1) * np.log(0.75))


def test_definiteness_is_seen_where_the_circulant_around_tells():
    assert Toeplitz(0.5 ** np.arange(200)).posdef
    assert not Toeplitz(np.array([1.0, 0.9, -0.9])).posdef
    assert not Toeplitz(np.array([2.0, 0.5]), np.array([2.0, 0.1])).symmetric


def test_the_optimal_circulant_is_the_nearest(rng):
    for c, r in ((rng.standard_normal(6), None), (rng.standard_normal(6), rng.standard_normal(6))):
        A = Toeplitz(c, r)
        M = A.to_dense()
        # The mean over each cyclic diagonal minimises the Frobenius distance.
        wanted = [np.mean([M[(i + k) % 6, i] for i in range(6)]) for k in range(6)]
        np.testing.assert_allclose(A._chan()[0], wanted, atol=1e-14)
    T = rng.standard_normal((3, 5))
    M = BlockToeplitz(T).to_dense().reshape(2, 3, 2, 3)
    wanted = [
        [np.mean([M[(i + k) % 2, (j + m) % 3, i, j] for i in range(2) for j in range(3)]) for m in range(3)]
        for k in range(2)
    ]
    np.testing.assert_allclose(BlockToeplitz(T)._chan()[0], wanted, atol=1e-14)


def test_the_preconditioner_inverts_a_circulant(rng):
    c = np.array([4.0, 1.0, 0.5, 1.0])
    A = Toeplitz(c)  # its own circulant
    M = A._preconditioner()
    np.testing.assert_allclose(M @ (Circulant(np.asarray(A._chan()[0])) @ np.ones(4)), np.ones(4), rtol=1e-12)


def test_a_million_unknowns(rng):
    n = 10**6
    A = Toeplitz(0.5 ** np.arange(n))
    x = np.sin(np.arange(n))
    run = A.solve_run(A @ x, tol=1e-10)
    np.testing.assert_allclose(run.value, x, atol=1e-9)
    assert run.converged
    assert run.n_iter < 10
    assert run.preconditioner == "circulant"
    assert run.choices["method"] == "cg: no direct method for Toeplitz of n=1000000"


@pytest.mark.parametrize(
    ("c", "r", "method"),
    [
        (np.r_[2.0, 0.5 ** np.arange(1, 3000)], np.r_[2.0, -(0.3 ** np.arange(1, 3000))], "gmres"),
        (np.r_[0.5, 1.0, 0.2 * 0.5 ** np.arange(2998)], None, "minres"),
    ],
)
def test_large_systems_that_are_not_positive_definite(c, r, method, rng):
    A, x = Toeplitz(c, r), rng.standard_normal(3000)
    run = A.solve_run(A @ x, tol=1e-11)
    np.testing.assert_allclose(run.value, x, atol=1e-8)
    assert run.choices["method"] == f"{method}: no direct method for Toeplitz of n=3000"
    assert run.n_iter < 50
    back = A.T.solve_run(A.T @ x, tol=1e-11)
    np.testing.assert_allclose(back.value, x, atol=1e-8)


def test_products_are_convolutions(rng):
    image, kernel = rng.standard_normal((6, 7)), rng.standard_normal((11, 13))
    A = BlockToeplitz(kernel)
    wanted = scipy.signal.convolve2d(image, kernel)[5:11, 6:13]
    np.testing.assert_allclose((A @ image.ravel()).reshape(6, 7), wanted, atol=1e-12)
    assert A.diag().tolist() == [kernel[5, 6]] * 42


def test_two_levels_of_a_product_are_a_kronecker_product(rng):
    a, b = 0.5 ** np.arange(40), 0.3 ** np.arange(30)
    T = np.outer(np.r_[a[:0:-1], a], np.r_[b[:0:-1], b])
    A, K = BlockToeplitz(T), Kronecker(Toeplitz(a), Toeplitz(b))
    x = rng.standard_normal(1200)
    np.testing.assert_allclose(A @ x, K @ x, atol=1e-12)
    assert A.posdef
    run = A.solve_run(A @ x, tol=1e-11)
    np.testing.assert_allclose(run.value, x, atol=1e-9)
    assert run.preconditioner == "circulant"
    np.testing.assert_allclose(K.solve(K @ x), x, atol=1e-11)


def test_the_spectrum_is_formed_once_without_a_graph_and_anew_with_one(rng):
    c = torch.tensor([2.0, 1.0], requires_grad=True)
    A = Toeplitz(c)
    A @ torch.ones(2)
    with torch.no_grad():
        c.mul_(2)
        assert (A @ torch.ones(2)).tolist() == [6, 6]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Toeplitz(np.zeros(0)), "c must have shape"),
        (lambda: Toeplitz(np.array([1j, 1.0])), "c must begin with a real number"),
        (lambda: BlockToeplitz(np.zeros((2, 3))), "T must have shape"),
    ],
)
def test_says_what_is_wrong(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()
