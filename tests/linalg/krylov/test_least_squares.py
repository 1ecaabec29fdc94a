"""LSMR finds least squares, damped or not, without squaring the condition number."""

import numpy as np
import pytest
import scipy.sparse.linalg
import sklearn.datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sciml.exceptions import ConditioningWarning, ConvergenceWarning, InvalidInputError
from sciml.iterate import Status
from sciml.linalg import lsmr
from sciml.linalg.krylov import lsmr_steps
from tests.linalg.krylov.systems import rotation


def tall(n, m, cond, rng):
    """A matrix with singular values 1 to 1 / cond in geometric progression."""
    return rotation(n, rng)[:, :m] * np.geomspace(1, 1 / cond, m) @ rotation(m, rng)


def test_agrees_with_the_dense_least_squares_solution(backend, rng):
    A, B = tall(80, 30, 50, rng), rng.standard_normal((80, 2))
    run = lsmr(backend.array(A), backend.array(B))
    truth = np.linalg.lstsq(A, B)[0]
    assert_allclose(backend.numpy(run.value), truth, rtol=0, atol=50**2 * 1e-8 * np.linalg.norm(B))
    assert "gradient of the squares" in run.choices["criterion"]
    r = B - A @ backend.numpy(run.value)
    gradient = np.linalg.norm(A.T @ r, axis=0) / np.linalg.norm(r, axis=0)
    assert (run.residual <= 1e-12).all()
    assert (gradient <= 1e-12 * np.linalg.norm(A, 2)).all()
    assert_allclose(run.condition, 50, rtol=0.5)


def test_a_consistent_system_is_judged_by_its_residual(rng):
    A, x = tall(60, 30, 10, rng), rng.standard_normal(30)
    run = lsmr(A, A @ x)
    assert_allclose(run.value, x, rtol=0, atol=10 * 1e-8 * np.linalg.norm(A @ x))
    assert run.choices["criterion"].startswith("residual")


def test_takes_about_the_steps_of_scipy(rng):
    A, b = tall(80, 30, 20, rng), rng.standard_normal(80)
    theirs = scipy.sparse.linalg.lsmr(A, b, atol=1e-8, btol=1e-8, maxiter=1000)
    ours = lsmr(A, b, tol=1e-8)
    assert theirs[2] <= ours.n_iter <= 1.4 * theirs[2]  # their estimate of norm(A) is larger, so they stop earlier
    assert_allclose(ours.value, theirs[0], rtol=0, atol=20**2 * 2e-8 * np.linalg.norm(b))


@pytest.mark.parametrize("damp", [0.01, 0.3, 10.0])
def test_damping_solves_the_shifted_normal_equations_from_any_start(damp, rng):
    A, b = tall(50, 20, 30, rng), rng.standard_normal(50)
    truth = np.linalg.solve(A.T @ A + damp**2 * np.eye(20), A.T @ b)
    for x0 in (None, rng.standard_normal(20)):
        assert_allclose(lsmr(A, b, damp=damp, x0=x0).value, truth, rtol=0, atol=30**2 * 1e-7)


def test_of_many_solutions_the_shortest_is_found(rng):
    A = tall(60, 25, 10, rng).T
    b = rng.standard_normal(25)
    assert_allclose(lsmr(A, b).value, np.linalg.pinv(A) @ b, rtol=0, atol=1e-6)


@settings(max_examples=6)
@given(st.integers(-40, 40), st.integers(-40, 40))
def test_units_do_not_matter(j, k):
    rng = np.random.default_rng(3)
    A, b = tall(30, 12, 20, rng), rng.standard_normal(30)
    one, scaled = lsmr(A, b, damp=0.125), lsmr(2.0**j * A, 2.0**k * b, damp=0.125 * 2.0**j)
    assert scaled.n_iter == one.n_iter
    assert scaled.condition == one.condition
    assert np.array_equal(scaled.value, one.value * 2.0 ** (k - j))


def test_float32_and_complex_data_and_batches(rng):
    A, b = tall(40, 15, 20, rng), rng.standard_normal(40)
    run = lsmr(A.astype(np.float32), b.astype(np.float32))
    assert run.converged
    assert "float64" in run.choices["iteration"]
    C = A + 1j * tall(40, 15, 20, rng)
    assert_allclose(lsmr(C, b).value, np.linalg.lstsq(C, b + 0j)[0], rtol=0, atol=1e-4)
    batch = lsmr(np.stack([A, 2 * A]), b)
    assert_allclose(batch.value[0], 2 * batch.value[1], rtol=0, atol=1e-5)


def test_the_criterion_on_the_way_is_the_true_one(rng):
    A, b = tall(40, 15, 20, rng), rng.standard_normal(40)
    steps = list(lsmr_steps(A, A @ rng.standard_normal(15) + 0 * b))
    assert len(steps) > 5
    b = A @ np.ones(15)
    for step in list(lsmr_steps(A, b))[1:-1]:
        assert step.criterion <= 1.0001 * np.linalg.norm(b - A @ step.value) / np.linalg.norm(b)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes"])
def test_unscaled_real_data_keep_six_digits(name):
    X, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    A = np.c_[np.ones(len(X)), X]  # conditions of 1.5e6, 2e4 and 2e2
    truth = np.linalg.lstsq(A, y.astype(float))[0]
    run = lsmr(A, y)
    assert run.converged
    error = np.linalg.norm(run.value - truth) / np.linalg.norm(truth)
    assert error < 1e-6
    assert error < 10 * run.error_estimate < 1e-3
    assert 0.3 * np.linalg.cond(A) < run.condition < 1.01 * np.linalg.cond(A)  # an estimate from below


def test_a_loose_tolerance_at_a_large_condition_is_warned_of():
    X, y = sklearn.datasets.load_breast_cancer(return_X_y=True)
    with pytest.warns(ConditioningWarning, match="at a condition number of about 6.9e.* off by 3e-02"):
        run = lsmr(np.c_[np.ones(len(X)), X], y, tol=1e-8)
    assert "about 3e-02 of the answer" in repr(run)


def test_the_condition_survives_restarts():
    X, y = sklearn.datasets.load_breast_cancer(return_X_y=True)
    assert lsmr(np.c_[np.ones(len(X)), X], y, tol=1e-14).condition > 5e5


@pytest.mark.parametrize("noise", [1e-4, 1e-8, 1e-10])
def test_a_small_residual_is_not_asked_for_more_than_rounding_allows(noise, rng):
    A, x = rng.standard_normal((200, 20)), rng.standard_normal(20)
    b = A @ x + noise * rng.standard_normal(200)
    run = lsmr(A, b)  # norm(A.T @ r) cannot fall below eps norm(A) norm(b)
    assert run.converged
    assert_allclose(run.value, np.linalg.lstsq(A, b)[0], rtol=0, atol=1e-12)


def test_failures_are_named(rng):
    A, b = tall(40, 15, 1e4, rng), rng.standard_normal(40)
    with pytest.warns(ConvergenceWarning, match="lsmr stopped after 3 iterations .*max_iter"):
        assert lsmr(A, b, max_iter=3).status is Status.MAX_ITER
    with pytest.raises(InvalidInputError, match="damp must be a number at least 0; got -1"):
        lsmr(A, b, damp=-1)
    with pytest.raises(InvalidInputError, match=r"b must have shape .* n = 40.*got \(15,\)"):
        lsmr(A, b[:15])
    assert lsmr(A, np.zeros(40)).n_iter == 0
    assert (lsmr(np.zeros((4, 2)), np.ones(4)).value == 0).all()
