"""Block-diagonal matrices and two by two blocks."""

import numpy as np
import pytest
import scipy.linalg

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import Block2x2, BlockDiag, Dense, Diagonal, Triangular, laplacian


def test_agrees_with_scipy(rng):
    A, B = rng.standard_normal((2, 3)), rng.standard_normal((3, 2))
    np.testing.assert_array_equal(BlockDiag(A, B).to_dense(), scipy.linalg.block_diag(A, B))
    M = BlockDiag(np.eye(2), 3 * np.eye(1), Triangular(np.ones((2, 2))))
    assert M.logdet() == pytest.approx(np.log(3))
    assert M.solve_run(np.ones(5)).choices["method"].count("LU") == 2
    np.testing.assert_array_equal(M.solve(np.array([1.0, 2.0, 3.0, 1.0, 2.0])), [1, 2, 1, 1, 1])


def test_blocks_of_very_different_units_do_not_mix(rng):
    M = BlockDiag(1e-12 * np.eye(2), 1e12 * np.eye(2))
    run = M.solve_run(np.array([1e-12, 1e-12, 1e12, 1e12]))
    np.testing.assert_array_equal(run.value, np.ones(4))
    assert run.condition < 10


def test_least_squares_with_constraints(rng):
    # min |G x - g|^2 subject to C x = d, by its saddle point
    G, g, C, d = (
        rng.standard_normal((9, 4)),
        rng.standard_normal(9),
        rng.standard_normal((2, 4)),
        rng.standard_normal(2),
    )
    K = Block2x2(Dense(G.T @ G, posdef=True), C.T)
    x = K.solve(np.r_[G.T @ g, d])[:4]
    np.testing.assert_allclose(C @ x, d, atol=1e-12)
    null = scipy.linalg.null_space(C)
    np.testing.assert_allclose(null.T @ (G.T @ (G @ x - g)), 0, atol=1e-10)
    assert K.symmetric
    assert K.slogdet()[0] == 1  # two constraints, two negative eigenvalues


def test_a_large_first_block_is_used_through_its_solve(rng):
    A = laplacian((50, 40))
    B = rng.standard_normal((2000, 3))
    K = Block2x2(A, B)
    x = rng.standard_normal(2003)
    run = K.solve_run(K @ x)
    np.testing.assert_allclose(run.value, x, atol=1e-9)
    assert "Schur complement, dense, n=3; first block by fast sine" in run.choices["method"]
    sign, value = K.slogdet()
    S = B.T @ A.solve(B)
    assert (sign, value) == (-1, pytest.approx(A.logdet() + np.linalg.slogdet(S)[1]))


def test_the_block_preconditioner_helps_minres(rng):
    from sciml.linalg import minres

    K = Block2x2(Diagonal(np.logspace(0, 6, 60)), rng.standard_normal((60, 5)))
    b = K @ rng.standard_normal(65)
    run = minres(K, b, M=K._preconditioner(), tol=1e-9)
    assert run.converged
    assert run.n_iter <= 6  # three distinct eigenvalues where the diagonal is A itself


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (BlockDiag, "blocks must hold at least one matrix"),
        (lambda: Block2x2(np.eye(2), np.ones((3, 1))), r"B must have shape \(2, 1\) beside the others; got \(3, 1\)"),
        (lambda: Block2x2(np.ones((2, 3)), np.ones((2, 1))), r"A must have shape \(2, 2\)"),
        (lambda: Block2x2(np.zeros((1, 1)), np.ones((1, 1))).solve(np.ones(2)), "must be invertible"),
    ],
)
def test_says_what_does_not_fit(make, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        make()
