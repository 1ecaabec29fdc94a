"""Conjugate gradients solve, say by how much they missed, and never claim a residual that is not there."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceError, ConvergenceWarning, InvalidInputError
from sciml.iterate import Status
from sciml.linalg import cg
from sciml.linalg.krylov import cg_steps
from tests.linalg.krylov.systems import spd, true_residual


def test_recovers_a_known_solution_and_reports_the_residual_that_is_there(backend, rng):
    A, x = spd(40, 1e3, rng), rng.standard_normal((40, 3))
    run = cg(backend.array(A), backend.array(A @ x))
    value = backend.numpy(run.value)
    assert run.converged
    assert_allclose(value, x, rtol=0, atol=1e3 * 1e-8 * np.linalg.norm(x))  # cond * tol
    assert_allclose(run.residual, true_residual(A, value, A @ x), rtol=1e-2, atol=1e-15)
    assert run.residual.max() <= 1e-8
    assert (run.engine, run.device, run.preconditioner) == ("Dense", "cpu", "none")
    assert_allclose(run.condition, 1e3, rtol=0.01)


def test_needs_as_many_steps_as_there_are_distinct_eigenvalues(rng):
    Q = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    A = (Q * np.repeat([1.0, 5.0, 20.0], 20)) @ Q.T
    assert cg(A, rng.standard_normal(60)).n_iter == 3


def test_agrees_with_scipy_in_answer_and_number_of_steps(rng):
    A, b = spd(80, 1e2, rng), rng.standard_normal(80)
    steps = []
    theirs, info = scipy.sparse.linalg.cg(A, b, rtol=1e-8, callback=steps.append)
    ours = cg(A, b)
    assert info == 0
    assert abs(ours.n_iter - len(steps)) <= 3  # rounding, in sums of another order
    assert_allclose(ours.value, theirs, rtol=0, atol=1e2 * 2e-8 * np.linalg.norm(theirs))


def test_a_batch_of_matrices_and_columns_equals_one_system_after_the_other(rng):
    A = np.stack([spd(20, 10, rng), spd(20, 1e3, rng)])
    B = rng.standard_normal((2, 20, 3))
    run = cg(A, B)
    assert run.value.shape == B.shape
    assert run.residual.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert_allclose(run.value[i, :, j], cg(A[i], B[i, :, j]).value, rtol=0, atol=1e3 * 2e-8)
    assert cg(A, B[0, :, 0]).value.shape == (2, 20)


def test_columns_that_are_done_are_frozen_and_leave_the_block(rng):
    A = spd(50, 1e4, rng)
    vectors = np.linalg.eigh(A)[1]
    B = np.column_stack([vectors[:, :8], rng.standard_normal(50), np.zeros(50)])  # eight are done after one step
    run = cg(A, B)
    alone = cg(A, B[:, 8])
    assert abs(run.n_iter - alone.n_iter) <= 5  # sums in another order
    assert run.n_matvec < 2 * alone.n_matvec + 30  # and not ten times as many
    assert run.residual.max() <= 1e-8
    assert (run.value[:, 9] == 0).all()


def test_zero_right_side_gives_zero_in_no_iterations_whatever_the_start(rng):
    run = cg(spd(9, 10, rng), np.zeros(9), x0=np.ones(9))
    assert (run.n_iter, run.converged, run.residual) == (0, True, 0.0)
    assert (run.value == 0).all()


@settings(max_examples=4)
@given(st.integers(-40, 40), st.integers(-40, 40), st.sampled_from([np.float64, np.float32]))
def test_units_do_not_matter(j, k, dtype):
    rng = np.random.default_rng(3)
    A, b = spd(30, 1e3, rng).astype(dtype), rng.standard_normal(30).astype(dtype)
    one, scaled = cg(A, b), cg(A * dtype(2.0**j), b * dtype(2.0**k))
    assert scaled.n_iter == one.n_iter
    assert np.array_equal(scaled.value, one.value * 2.0 ** (k - j))


def test_right_sides_at_the_ends_of_the_range_are_solved_as_well(rng):
    A, b = spd(30, 1e3, rng), rng.standard_normal(30)
    one = cg(A, b).value
    assert np.array_equal(cg(A, 2.0**-800 * b).value, 2.0**-800 * one)
    assert np.array_equal(cg(A, 2.0**800 * b).value, 2.0**800 * one)


@pytest.mark.parametrize(("cond", "tol"), [(1e2, 1e-5), (1e2, 1e-8), (1e4, 1e-8), (1e6, 1e-8)])
def test_float32_data_meet_the_tolerance_in_truth(cond, tol, rng, backend):
    A = spd(50, cond, rng).astype(np.float32)
    b = rng.standard_normal(50).astype(np.float32)
    run = cg(backend.array(A), backend.array(b), tol=tol)
    value = backend.numpy(run.value)
    assert run.converged
    assert true_residual(A, value, b) <= tol
    assert_allclose(run.residual, true_residual(A, value, b), rtol=1e-2)
    if value.dtype == np.float64:
        assert "rounded to float32" in run.choices["dtype"]
        assert true_residual(A, value.astype(np.float32), b) > tol


def test_an_easy_float32_request_stays_in_float32(rng):
    run = cg(spd(50, 10, rng).astype(np.float32), rng.standard_normal(50).astype(np.float32), tol=1e-4)
    assert run.value.dtype == np.float32
    assert run.choices == {}


def test_half_precision_and_integers_are_computed_in_longer_types(rng):
    A = spd(20, 10, rng).astype(np.float32)
    run = cg(A, rng.standard_normal(20).astype(np.float16), tol=1e-2)
    assert run.value.dtype == np.float16
    assert run.residual <= 1e-2
    assert cg(np.diag([1, 2]), [2, 2]).value.tolist() == [2.0, 1.0]


def test_what_a_callable_cannot_do_in_float64_is_reported(rng):
    A = spd(30, 1e3, rng).astype(np.float32)
    b = rng.standard_normal(30).astype(np.float32)
    with pytest.warns(ConvergenceWarning, match="cg stopped .* formed anew stays at .* float32"):
        run = cg(lambda x: A @ x.astype(np.float32), b)
    assert run.status is Status.STALLED
    assert 1e-8 < run.residual < 1e-3
    with_promotion = cg(lambda x: A @ x, b)
    assert true_residual(A, with_promotion.value, b) <= 1e-8


def test_complex_systems_and_mixtures_of_real_and_complex(rng, backend):
    A, S = spd(30, 1e2, rng, complex_=True), spd(30, 1e2, rng)
    b = rng.standard_normal(30) + 1j * rng.standard_normal(30)
    for matrix, right in ((A, b), (S, b), (A, b.real.copy())):
        run = cg(backend.array(matrix), backend.array(right))
        assert true_residual(matrix, backend.numpy(run.value), right) <= 1e-8
    short = cg(A.astype(np.complex64), b.astype(np.complex64))
    assert true_residual(A.astype(np.complex64), short.value, b.astype(np.complex64)) <= 1e-8


def test_an_indefinite_matrix_is_named(rng):
    A, b = np.diag([1.0, 1.0, -4.0]), np.ones(3)
    with pytest.warns(ConvergenceWarning, match=r"A is not positive definite: <p, A p> = -0.667 <p, p>; use minres"):
        run = cg(A, b)
    assert run.status is Status.INDEFINITE
    assert_allclose(run.residual, true_residual(A, run.value, b), rtol=1e-2)
    with pytest.warns(ConvergenceWarning, match="M is not positive definite: <r, M r> = -1 <r, r>"):
        assert cg(np.eye(3), b, M=-np.eye(3)).status is Status.INDEFINITE


def test_one_indefinite_matrix_of_a_batch_leaves_the_others_their_answers(rng):
    A = np.stack([spd(10, 10, rng), -np.eye(10)])
    b = rng.standard_normal((2, 10, 1))
    run = cg(A, b, on_failure="ignore")
    assert run.status is Status.INDEFINITE
    assert run.residual[0, 0] <= 1e-8 < run.residual[1, 0]


def test_singular_matrices_are_solved_where_they_can_be_and_named_where_not():
    A = np.diag([0.0, 1.0, 2.0, 3.0])
    run = cg(A, np.array([0.0, 1.0, 2.0, 3.0]))
    assert_allclose(run.value, [0, 1, 1, 1], atol=1e-12)
    with pytest.warns(ConvergenceWarning, match="A is not positive definite beyond rounding"):
        assert cg(A, np.ones(4)).status is Status.INDEFINITE
    with pytest.warns(ConvergenceWarning, match="A is not positive definite"):
        assert cg(np.zeros((4, 4)), np.ones(4)).residual == 1.0


def test_an_unreachable_tolerance_ends_in_a_report_of_the_residual_that_is_there(rng):
    A, b = spd(60, 1e5, rng), rng.standard_normal(60)
    with pytest.warns(ConvergenceWarning, match="formed anew stays at .*float64"):
        run = cg(A, b, tol=1e-14, max_iter=20000)
    assert run.status is Status.STALLED
    assert_allclose(run.residual, true_residual(A, run.value, b), rtol=0.5)  # itself rounding


def test_says_when_it_did_not_converge(rng):
    A, b = spd(80, 1e6, rng), rng.standard_normal(80)
    with pytest.warns(ConvergenceWarning, match=r"cg stopped after 3 iterations with criterion .*max_iter"):
        run = cg(A, b, max_iter=3)
    assert_allclose(run.residual, true_residual(A, run.value, b), rtol=1e-2)
    with pytest.raises(ConvergenceError, match="cg stopped after 3 iterations"):
        cg(A, b, max_iter=3, on_failure="raise")
    start = cg(A, b, max_iter=0, on_failure="ignore")
    assert (start.n_iter, start.residual) == (0, 1.0)
    assert cg(A, b, callback=lambda n, step: n == 4).status is Status.STOPPED


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_named(bad):
    with pytest.raises(InvalidInputError, match="b must be finite; the entry at index 1"):
        cg(np.eye(3), np.array([1.0, bad, 1.0]))
    with pytest.warns(ConvergenceWarning, match="A @ p holds a NaN or inf"):
        run = cg(lambda x: np.full(3, bad), np.ones(3))
    assert run.status is Status.NON_FINITE
    assert np.isfinite(run.value).all()
    with pytest.warns(ConvergenceWarning, match="M @ r holds a NaN or inf"):
        cg(np.eye(3), np.ones(3), M=lambda r: np.full(3, bad))


def test_a_column_whose_products_are_no_numbers_leaves_the_others_their_answers():
    d = np.arange(1.0, 5.0)
    B = np.array([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]]).T
    run = cg(lambda X: np.where(X[1] == 0, d[:, None] * X, np.nan), B, on_failure="ignore")
    assert run.status is Status.NON_FINITE
    assert_allclose(run.value, np.column_stack([B[:, 0] / d, np.zeros(4)]), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((np.eye(3), np.ones(4)), {}, r"b must have shape .* n = 3.*got \(4,\)"),
        ((np.ones((3, 4)), np.ones(3)), {}, r"A must be square; got shape \(3, 4\).*lsmr"),
        ((np.eye(3), np.ones(3)), {"x0": np.ones(4)}, r"x0 must have the shape of the answer, \(3,\); got \(4,\)"),
        ((np.eye(3), np.ones(3)), {"M": np.eye(4)}, r"M must have shape \(3, 3\).*got \(4, 4\)"),
        ((np.eye(3), np.ones(3)), {"tol": -1}, "tol must be a number at least 0; got -1"),
        ((np.eye(3), np.ones(3)), {"tol": 0}, "tol of cg must be at least 10 eps"),
        ((np.eye(3), np.ones(3)), {"max_iter": -1}, "max_iter must be an integer at least 0; got -1"),
        ((np.ones((2, 3, 3)), np.ones((5, 3, 1))), {}, r"b must have batch dimensions that broadcast with \(2,\)"),
        (("A", np.ones(3)), {}, "A must act as a matrix; got str"),
    ],
)
def test_bad_arguments_are_named(arguments, options, text):
    with pytest.raises(InvalidInputError, match=text):
        cg(*arguments, **options)


def test_arrays_of_any_layout_are_taken_and_left_alone(rng):
    A, b = spd(12, 10, rng), rng.standard_normal(24)[::-2]
    before = b.copy()
    fixed = b.copy()
    fixed.flags.writeable = False
    one = cg(A, before).value
    assert_allclose(cg(np.asfortranarray(A), fixed).value, one, rtol=1e-6)
    assert_allclose(cg(A[::-1, ::-1], b[::-1]).value, one[::-1], rtol=1e-6)
    assert np.array_equal(b, before)
    assert cg(np.eye(0), np.ones(0)).value.shape == (0,)
    assert cg(np.eye(3), np.ones((3, 0))).value.shape == (3, 0)
    assert cg([[4.0]], [2.0]).value.tolist() == [0.5]


def test_a_warm_start_costs_no_iteration_and_a_preconditioner_saves_some(rng):
    scale = np.geomspace(1, 1e3, 60)
    A = scale[:, None] * spd(60, 3, rng) * scale
    b = rng.standard_normal(60)
    plain = cg(A, b, max_iter=20000)
    better = cg(A, b, M=np.diag(1 / np.diag(A)))
    assert better.n_iter < plain.n_iter / 4
    assert better.condition < 20 < plain.condition
    assert cg(A, b, x0=better.value).n_iter == 0
    assert cg(A, b, M=lambda r: r / np.diag(A)).n_iter == better.n_iter


def test_stepping_by_hand_gives_the_iterates_of_cg(rng):
    A, b = spd(20, 10, rng), rng.standard_normal(20)
    steps = list(cg_steps(A, b))
    run = cg(A, b)
    assert len(steps) == run.n_iter + 1
    assert np.array_equal(steps[-1].value, run.value)
    # The error falls from step to step in the norm of A.
    errors = [(e := step.value - np.linalg.solve(A, b)) @ A @ e for step in steps]
    assert (np.diff(errors) < 0).all()


def test_derivatives_are_those_of_the_implicit_function(rng):
    G, b = torch.from_numpy(rng.standard_normal((3, 3))), torch.from_numpy(rng.standard_normal((3, 2)))
    G.requires_grad_(True)
    b.requires_grad_(True)

    def solve(G, b):
        return cg(G @ G.mT + 3 * torch.eye(3, dtype=G.dtype), b, tol=1e-13).value

    assert torch.autograd.gradcheck(solve, (G, b))
    assert torch.autograd.gradgradcheck(solve, (G, b))
    assert not cg(torch.eye(3).double(), torch.ones(3).double()).value.requires_grad


def test_the_run_prints_what_a_reader_asks_for(rng):
    text = repr(cg(spd(20, 10, rng), rng.standard_normal(20)))
    for word in ("CONVERGED", "residual", "recomputed", "iterations", "condition", "preconditioner: none", "Dense"):
        assert word in text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_and_the_cpu_agree(rng):
    A, b = torch.from_numpy(spd(50, 1e3, rng)), torch.from_numpy(rng.standard_normal((50, 3)))
    here, there = cg(A, b), cg(A.cuda(), b.cuda())
    assert there.value.is_cuda
    assert abs(here.n_iter - there.n_iter) <= 1
    assert_allclose(there.value.cpu(), here.value, rtol=0, atol=1e3 * 2e-8 * float(here.value.norm()))
