"""Low rank plus diagonal: Woodbury's identity, and where it fails."""

import numpy as np
import pytest

from sciml.exceptions import InvalidInputError
from sciml.linalg import cg
from sciml.linalg.operators import LowRank, ScaledIdentity


def test_a_large_system_is_solved_by_its_small_one(rng):
    n = 100_000
    U, d = rng.standard_normal((n, 4)), rng.uniform(1, 2, n)
    A, x = LowRank(U, diagonal=d), rng.standard_normal(n)
    run = A.solve_run(A @ x)
    np.testing.assert_allclose(run.value, x, atol=1e-9)
    assert run.choices["method"].startswith("direct: Woodbury, rank 4, capacitance of condition")
    # det(I + U^T D^-1 U) det D
    wanted = np.log(d).sum() + np.linalg.slogdet(np.eye(4) + U.T @ (U / d[:, None]))[1]
    assert A.logdet() == pytest.approx(wanted, rel=1e-12)


def test_a_rank_one_update_has_a_closed_form():
    # (s I + u u^T)^{-1} u = u / (s + n), det = s^(n-1) (s + n)
    A = LowRank(np.ones((5, 1)), diagonal=2.0)
    np.testing.assert_allclose(A.solve(np.ones(5)), np.ones(5) / 7, rtol=1e-14)
    assert A.logdet() == pytest.approx(4 * np.log(2) + np.log(7))
    B = LowRank(np.ones((5, 1)), np.array([[-0.1]]), diagonal=2.0)
    assert not B.posdef
    assert B.logdet() == pytest.approx(4 * np.log(2) + np.log(1.5))


@pytest.mark.parametrize("n", [50, 1500])
def test_a_large_capacitance_forbids_the_identity(n, rng):
    U = rng.standard_normal((n, 3)) * [1, 1e3, 1e6]
    A = LowRank(U, diagonal=1e-3)
    b = A @ rng.standard_normal(n)
    run = A.solve_run(b)
    assert run.residual < 1e-8
    assert run.choices["method"].startswith("cg: no direct method")
    assert run.preconditioner == "orthogonal projection"
    assert run.n_iter < 10


def test_the_projection_inverts(rng):
    A = LowRank(rng.standard_normal((30, 3)), diagonal=rng.uniform(1, 2, 30))
    run = cg(A, rng.standard_normal(30), M=A._preconditioner())
    assert run.n_iter <= 2


def test_a_zero_on_the_diagonal_is_no_error():
    A = LowRank(np.ones((2, 1)), diagonal=np.array([1.0, 0.0]))
    np.testing.assert_allclose(A.solve(np.array([3.0, 2.0])), [1, 1], rtol=1e-12)
    assert A.logdet() == pytest.approx(0, abs=1e-12)


def test_sums_with_diagonals_stay_low_rank():
    A = LowRank(np.ones((3, 1))) + ScaledIdentity(3, 2.0)
    assert type(A) is LowRank
    np.testing.assert_allclose((A + ScaledIdentity(3)).diag(), [4, 4, 4])
    assert A.posdef


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: LowRank(np.ones(3)), r"U must have shape \(..., n, k\)"),
        (lambda: LowRank(np.ones((3, 1)), np.eye(2)), r"C must have shape \(..., 1, 1\)"),
        (lambda: LowRank(np.ones((3, 1)), diagonal=np.ones(2)), r"diagonal must be a number or have shape \(..., 3\)"),
        (lambda: LowRank(np.ones((3, 2)), np.array([[1.0, 2.0], [0.0, 1.0]])), "C must equal its conjugate transpose"),
    ],
)
def test_says_what_does_not_fit(make, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        make()


def test_no_rank_at_all_beside_a_core():
    A = LowRank(np.zeros((3, 0)), np.zeros((0, 0)), diagonal=2.0)
    np.testing.assert_allclose(A.solve(np.ones(3)), 0.5, rtol=1e-15)


def test_a_determinant_beside_a_tiny_diagonal(rng):
    Q = np.linalg.qr(rng.standard_normal((5, 3)))[0]
    A = LowRank(Q * np.array([1.0, 1e-3, 1e-6]), diagonal=1e-12)
    wanted = np.log1p([1e12, 1e6, 1]).sum() + 5 * np.log(1e-12)  # eigenvalues s^2 + 1e-12
    assert A.logdet() == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("is_complex", [False, True])
def test_the_determinant_of_more_columns_than_rows(is_complex, rng):
    U, C = rng.standard_normal((4, 6)) + 1j * is_complex * rng.standard_normal((4, 6)), np.diag([1.0, -1, 1, 2, -3, 1])
    sign, value = LowRank(U, C, diagonal=1e-13).slogdet()
    wanted = np.linalg.slogdet(U @ C @ U.conj().T)
    np.testing.assert_allclose(sign, wanted[0].real, rtol=0, atol=1e-10)
    assert value == pytest.approx(wanted[1], abs=1e-10)


def test_the_adjoint_of_a_complex_diagonal_beside_an_indefinite_core(rng):
    U = rng.standard_normal((5, 2)) + 1j * rng.standard_normal((5, 2))
    C, d = np.diag([1.0, -2.0]) + 0j, rng.uniform(1, 2, 5) + 1j * rng.standard_normal(5)
    A, dense = LowRank(U, C, diagonal=d), U @ C @ U.conj().T + np.diag(d)
    b = rng.standard_normal(5) + 0j
    np.testing.assert_allclose(A.rmatvec(b), dense.conj().T @ b, rtol=0, atol=1e-13)
    np.testing.assert_allclose(A.H.solve(b), np.linalg.solve(dense.conj().T, b), rtol=0, atol=1e-12)
