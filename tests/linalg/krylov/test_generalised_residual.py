"""GMRES solves square systems of any kind; the residual it reports is that of A x = b."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.iterate import Status
from sciml.linalg import gmres
from sciml.linalg.krylov import gmres_steps
from tests.linalg.krylov.systems import true_residual


def shifted(n, rng):
    """A random matrix with eigenvalues in a disc of radius about 4 around 6."""
    return 6 * np.eye(n) + 4 * rng.standard_normal((n, n)) / np.sqrt(n)


def test_recovers_a_known_solution(backend, rng):
    A, x = shifted(60, rng), rng.standard_normal((60, 3))
    run = gmres(backend.array(A), backend.array(A @ x), restart=20)
    value = backend.numpy(run.value)
    assert_allclose(value, x, rtol=0, atol=1e-8 * np.linalg.norm(A @ x))
    assert_allclose(run.residual, true_residual(A, value, A @ x), rtol=1e-2)


@pytest.mark.parametrize("restart", [7, 20, 200])
def test_takes_the_steps_of_scipy_with_the_true_residual_in_each(restart, rng):
    A, b = shifted(60, rng), rng.standard_normal(60)
    theirs = []
    scipy.sparse.linalg.gmres(A, b, rtol=1e-8, restart=restart, callback=theirs.append, callback_type="pr_norm")
    steps = list(gmres_steps(A, b, restart=restart))
    assert abs(len(steps) - 1 - len(theirs)) <= 1
    for step in steps:
        assert_allclose(step.criterion, true_residual(A, step.value, b), rtol=1e-5)


def test_a_right_preconditioner_leaves_the_residual_and_saves_steps(rng):
    A, b = shifted(60, rng) * np.geomspace(1, 1e3, 60), rng.standard_normal(60)
    better = gmres(A, b, M=np.diag(1 / np.diag(A)))
    assert better.n_iter < 60 <= gmres(A, b, restart=30, on_failure="ignore").n_iter
    assert_allclose(better.residual, true_residual(A, better.value, b), rtol=1e-2)


@settings(max_examples=4)
@given(st.integers(-40, 40), st.integers(-40, 40), st.sampled_from([np.float64, np.float32]))
def test_units_do_not_matter(j, k, dtype):
    rng = np.random.default_rng(3)
    A, b = shifted(30, rng).astype(dtype), rng.standard_normal(30).astype(dtype)
    one, scaled = gmres(A, b), gmres(A * dtype(2.0**j), b * dtype(2.0**k))
    assert scaled.n_iter == one.n_iter
    assert np.array_equal(scaled.value, one.value * 2.0 ** (k - j))


def test_float32_data_complex_data_and_batches_meet_the_tolerance_in_truth(rng):
    A, b = shifted(40, rng), rng.standard_normal(40)
    A32, b32 = A.astype(np.float32), b.astype(np.float32)
    assert true_residual(A32, gmres(A32, b32).value, b32) <= 1e-8
    C = A + 1j * rng.standard_normal((40, 40)) / 4
    assert true_residual(C, gmres(C, b, restart=15).value, b) <= 1e-8
    run = gmres(np.stack([A, 3 * A.T]), rng.standard_normal((2, 40, 2)))
    assert run.residual.shape == (2, 2)
    assert run.residual.max() <= 1e-8


def test_the_cyclic_shift_needs_all_its_dimensions_and_a_short_cycle_says_that_it_gains_nothing():
    P, b = np.roll(np.eye(10), 1, 0), np.eye(10)[0]
    run = gmres(P, b)
    assert run.n_iter == 10
    assert_allclose(run.value, P.T @ b, atol=1e-12)
    with pytest.warns(ConvergenceWarning, match="a cycle of 5 steps gained nothing: raise restart"):
        assert gmres(P, b, restart=5).status is Status.STALLED


def test_singular_systems_are_solved_or_named():
    A = np.diag([0.0, 1.0, 2.0, 3.0])
    assert_allclose(gmres(A, np.array([0.0, 1.0, 2.0, 3.0])).value, [0, 1, 1, 1], atol=1e-12)
    with pytest.warns(ConvergenceWarning, match="A or M is singular, and b not in the range of A"):
        run = gmres(A, np.ones(4))
    assert_allclose(run.residual, 0.5)
    with pytest.warns(ConvergenceWarning, match="singular"):
        assert gmres(np.array([[0.0, 1.0], [0.0, 0.0]]), np.ones(2)).status is Status.STALLED


def test_failures_are_named(rng):
    A, b = shifted(40, rng), rng.standard_normal(40)
    with pytest.warns(ConvergenceWarning, match="gmres stopped after 3 iterations .*max_iter"):
        run = gmres(A, b, max_iter=3)
    assert_allclose(run.residual, true_residual(A, run.value, b), rtol=1e-2)
    with pytest.warns(ConvergenceWarning, match="A @ v or M @ v holds a NaN"):
        assert np.isfinite(gmres(lambda x: x * np.nan, b).value).all()
    with pytest.raises(InvalidInputError, match="restart must be an integer at least 1; got 0"):
        gmres(A, b, restart=0)
    with pytest.raises(InvalidInputError, match="A must be square"):
        gmres(A[:3], b[:3])
    assert gmres(np.eye(0), np.ones(0)).value.shape == (0,)
    assert gmres([[4.0]], [2.0]).value.tolist() == [0.5]


def test_derivatives_are_those_of_the_implicit_function(rng):
    A = torch.from_numpy(shifted(3, rng)).requires_grad_(True)
    b = torch.from_numpy(rng.standard_normal(3)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda A, b: gmres(A, b, tol=1e-13).value, (A, b))
    assert torch.autograd.gradgradcheck(lambda A, b: gmres(A, b, tol=1e-13).value, (A, b))


def test_the_basis_stays_orthogonal_at_a_large_condition():
    n = 40
    A = 1 / (np.arange(n)[:, None] + np.arange(n) + 1.0) + 1e-10 * np.diag(np.arange(1.0, n + 1))
    run = gmres(A, A @ np.ones(n), tol=1e-13, restart=n, max_iter=n + 10)
    assert run.converged
    assert run.n_iter <= n
