"""MINRES solves what is symmetric, definite or not, and names what cannot be solved."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceError, ConvergenceWarning, InvalidInputError
from sciml.iterate import Status
from sciml.linalg import minres
from sciml.linalg.krylov import minres_steps
from tests.linalg.krylov.systems import symmetric, true_residual

SPECTRUM = np.concatenate([-np.geomspace(1, 50, 15), np.geomspace(1, 100, 25)])


def test_recovers_a_known_solution_of_an_indefinite_system(backend, rng):
    A, x = symmetric(SPECTRUM, rng), rng.standard_normal((40, 3))
    run = minres(backend.array(A), backend.array(A @ x))
    value = backend.numpy(run.value)
    assert run.converged
    assert_allclose(value, x, rtol=0, atol=100 * 1e-8 * np.linalg.norm(A @ x))
    assert_allclose(run.residual, true_residual(A, value, A @ x), rtol=1e-2)
    assert 1 < run.condition <= 100.1


def test_the_residual_carried_along_is_the_true_one_and_never_grows(rng):
    A, b = symmetric(SPECTRUM, rng), rng.standard_normal(40)
    steps = list(minres_steps(A, b))
    for step in steps[::7]:
        assert_allclose(step.criterion, true_residual(A, step.value, b), rtol=1e-6, atol=1e-12)
    assert (np.diff([step.criterion for step in steps]) <= 1e-14).all()
    assert np.array_equal(steps[-1].value, minres(A, b).value)


def test_takes_as_many_steps_as_scipy_and_as_distinct_eigenvalues(rng):
    A, b = symmetric(SPECTRUM, rng), rng.standard_normal(40)
    theirs = []
    scipy.sparse.linalg.minres(A, b, rtol=1e-9, callback=theirs.append)
    assert abs(minres(A, b).n_iter - len(theirs)) <= 8  # their criterion is another
    assert minres(symmetric(np.repeat([-3.0, 1.0, 7.0, 9.0], 10), rng), b).n_iter == 4


def test_a_preconditioner_leaves_the_answer_and_saves_steps(rng):
    scale = np.geomspace(1, 300, 40)
    A = scale[:, None] * symmetric(np.sign(SPECTRUM) * np.linspace(1, 2, 40), rng) * scale
    b = A @ rng.standard_normal(40)
    plain = minres(A, b, max_iter=20000)
    better = minres(A, b, M=np.diag(scale**-2.0))
    assert better.n_iter < plain.n_iter / 3
    assert true_residual(A, better.value, b) <= 1e-8
    assert minres(A, b, x0=better.value).n_iter == 0


@settings(max_examples=4)
@given(st.integers(-40, 40), st.integers(-40, 40), st.sampled_from([np.float64, np.float32]))
def test_units_do_not_matter(j, k, dtype):
    rng = np.random.default_rng(3)
    A, b = symmetric(SPECTRUM, rng).astype(dtype), rng.standard_normal(40).astype(dtype)
    one, scaled = minres(A, b), minres(A * dtype(2.0 ** (2 * j)), b * dtype(2.0**k))
    assert scaled.n_iter == one.n_iter
    assert np.array_equal(scaled.value, one.value * 2.0 ** (k - 2 * j))


def test_float32_data_complex_data_and_batches_meet_the_tolerance_in_truth(rng):
    A, b = symmetric(SPECTRUM, rng).astype(np.float32), rng.standard_normal(40).astype(np.float32)
    assert true_residual(A, minres(A, b).value, b) <= 1e-8
    C = symmetric(SPECTRUM, rng, complex_=True)
    assert true_residual(C, minres(C, b + 1j).value, b + 1j) <= 1e-8
    batch, B = np.stack([A.astype(float), -2.0 * A]), rng.standard_normal((2, 40, 2))
    run = minres(batch, B)
    assert run.residual.shape == (2, 2)
    assert run.residual.max() <= 1e-8


def test_columns_that_are_done_leave_the_block(rng):
    A = symmetric(SPECTRUM, rng)
    B = np.column_stack([np.linalg.eigh(A)[1][:, :6], rng.standard_normal(40), np.zeros(40)])
    run, alone = minres(A, B), minres(A, B[:, 6])
    assert run.residual.max() <= 1e-8
    assert run.n_matvec < 2 * alone.n_matvec + 30


def test_singular_systems_are_solved_or_named():
    A = np.diag([0.0, 1.0, -2.0, 3.0])
    assert_allclose(minres(A, np.array([0.0, 1.0, 2.0, 3.0])).value, [0, 1, -1, 1], atol=1e-12)
    with pytest.warns(ConvergenceWarning, match="A is singular and b not in its range"):
        run = minres(A, np.ones(4))
    assert run.status is Status.STALLED
    assert_allclose(run.value[1:], [1, -0.5, 1 / 3], rtol=1e-10)  # the least-squares solution
    assert_allclose(run.residual, 0.5)


def test_failures_are_named(rng):
    A, b = symmetric(SPECTRUM, rng), rng.standard_normal(40)
    with pytest.warns(ConvergenceWarning, match="minres stopped after 3 iterations .*max_iter"):
        assert not minres(A, b, max_iter=3).converged
    with pytest.raises(ConvergenceError, match="minres stopped after 3"):
        minres(A, b, max_iter=3, on_failure="raise")
    with pytest.warns(ConvergenceWarning, match="M is not positive definite"):
        assert minres(A, b, M=-np.eye(40)).status is Status.INDEFINITE
    with pytest.warns(ConvergenceWarning, match="A @ v holds a NaN or inf"):
        run = minres(lambda x: x * np.nan, b)
    assert run.status is Status.NON_FINITE
    assert np.isfinite(run.value).all()
    with pytest.raises(InvalidInputError, match="A must be square"):
        minres(A[:3], b[:3])
    assert minres(np.eye(0), np.ones(0)).value.shape == (0,)
    assert minres(A, np.zeros(40)).n_iter == 0


def test_derivatives_are_those_of_the_implicit_function(rng):
    G = torch.from_numpy(rng.standard_normal((5, 5))).requires_grad_(True)
    b = torch.from_numpy(rng.standard_normal(5)).requires_grad_(True)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)

    def solve(G, b):
        return minres(G + G.mT + torch.diag(9 * signs), b, tol=1e-13).value

    assert torch.autograd.gradcheck(solve, (G, b))


def test_the_condition_is_that_of_the_extreme_eigenvalues(rng):
    eigenvalues = np.r_[100.0, np.linspace(-1, -0.5, 15), np.linspace(0.5, 1, 14)]
    run = minres(symmetric(eigenvalues, rng), rng.standard_normal(30), tol=1e-12)
    assert 60 < run.condition < 201  # 200, from below
