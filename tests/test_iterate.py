"""The one loop stops where it should, records every step, and never returns a failure quietly."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from sciml.exceptions import ConvergenceError, ConvergenceWarning, InvalidInputError
from sciml.iterate import End, Status, Step, run


def halving(start=1.0):
    """Yield 1, 1/2, 1/4, ...: the criterion after n steps is known."""
    x = start
    while True:
        yield Step(x, x, {"step_length": x / 2})
        x = x / 2


def test_stops_at_the_first_criterion_within_tol():
    answer = run(halving(), name="halving", tol=2.0**-10, max_iter=100)
    assert answer.status is Status.CONVERGED
    assert answer.converged
    assert (answer.n_iter, answer.value) == (10, 2.0**-10)
    assert answer.history["criterion"].tolist() == [2.0**-n for n in range(11)]
    assert answer.history["step_length"].tolist() == [2.0 ** -(n + 1) for n in range(11)]
    assert (np.diff(answer.history["seconds"]) >= 0).all()
    assert len(answer.history["seconds"]) == 11


def test_a_good_start_takes_no_step_and_max_iter_zero_returns_the_start():
    assert run(halving(1e-9), name="halving", tol=1e-8, max_iter=5).n_iter == 0
    answer = run(halving(), name="halving", tol=1e-8, max_iter=0, on_failure="ignore")
    assert (answer.n_iter, answer.value, answer.status) == (0, 1.0, Status.MAX_ITER)


def test_max_iter_warns_with_name_count_criterion_tol_and_remedy_at_the_callers_line():
    text = r"halving stopped after 3 iterations with criterion 1.25e-01, tol=1e-08: max_iter was reached: raise it"
    with pytest.warns(ConvergenceWarning, match=text) as caught:
        answer = run(halving(), name="halving", tol=1e-8, max_iter=3)
    assert caught[0].filename == __file__
    assert answer.status is Status.MAX_ITER
    assert not answer.converged
    assert answer.n_iter == 3
    assert answer.value == 0.125


def test_the_warning_shows_the_line_outside_of_sciml_however_deep():
    # A module that calls itself sciml.* stands for a front door that calls a method that calls run.
    inside = {"__name__": "sciml.made_up", "run": run}
    exec(
        "def method(steps):\n    return run(steps, name='m', tol=1e-8, max_iter=1)\n"
        "def door(steps):\n    return method(steps)",
        inside,
    )
    with pytest.warns(ConvergenceWarning) as caught:
        inside["door"](halving())
    assert caught[0].filename == __file__


def test_on_failure_raises_or_stays_silent():
    with pytest.raises(ConvergenceError, match="halving stopped after 2 iterations .*max_iter"):
        run(halving(), name="halving", tol=1e-8, max_iter=2, on_failure="raise")
    assert run(halving(), name="halving", tol=1e-8, max_iter=2, on_failure="ignore").status is Status.MAX_ITER
    with pytest.raises(InvalidInputError, match="on_failure must be one of .*got 'warning'"):
        run(halving(), name="halving", tol=1e-8, max_iter=2, on_failure="warning")


def test_a_method_that_ends_by_itself_has_stalled():
    with pytest.warns(ConvergenceWarning, match="short stopped after 1 iterations .*singular"):
        answer = run([Step(1.0, 1.0), Step(0.5, 0.5)], name="short", tol=1e-8, max_iter=9)
    assert answer.status is Status.STALLED
    assert answer.value == 0.5


def test_a_method_that_gives_up_says_why_in_its_own_words():
    def broken():
        yield Step(1.0, 0.5)
        return End(Status.INDEFINITE, "<p, A p> = -1: use minres")

    with pytest.warns(ConvergenceWarning, match="broken stopped after 0 iterations .*: <p, A p> = -1: use minres"):
        answer = run(broken(), name="broken", tol=1e-8, max_iter=9)
    assert (answer.status, answer.reason) == (Status.INDEFINITE, "<p, A p> = -1: use minres")
    assert run(halving(), name="halving", tol=0.5, max_iter=9).reason == Status.CONVERGED.value


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("nan"), torch.tensor(float("nan"))])
def test_a_criterion_that_is_no_number_is_reported(bad):
    with pytest.warns(ConvergenceWarning, match="a NaN or inf appeared"):
        answer = run([Step(1.0, 1.0), Step(2.0, bad), Step(3.0, 0.0)], name="bad", tol=1e-8, max_iter=9)
    assert answer.status is Status.NON_FINITE
    assert answer.n_iter == 1


@pytest.mark.parametrize("value", [np.array([1.0, np.nan]), torch.tensor([1.0, float("inf")]).double(), float("nan")])
def test_a_nan_in_the_answer_is_reported_though_the_criterion_is_fine(value):
    with pytest.warns(ConvergenceWarning, match="a NaN or inf appeared"):
        assert run([Step(value, 0.0)], name="bad", tol=1e-8, max_iter=9).status is Status.NON_FINITE


def test_a_callback_sees_every_step_and_stops_without_a_warning():
    seen = []

    def callback(n_iter, step):
        seen.append((n_iter, step.value))
        return n_iter == 2

    answer = run(halving(), name="halving", tol=1e-8, max_iter=9, callback=callback)
    assert seen == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert answer.status is Status.STOPPED
    assert answer.value == 0.25


def test_the_keyboard_keeps_the_last_iterate():
    def interrupted():
        yield Step(1.0, 1.0)
        yield Step(0.5, 0.5)
        raise KeyboardInterrupt

    answer = run(interrupted(), name="interrupted", tol=1e-8, max_iter=9)
    assert answer.status is Status.STOPPED
    assert (answer.value, answer.n_iter, len(answer.history["criterion"])) == (0.5, 1, 2)

    def at_once():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        run(at_once(), name="at once", tol=1e-8, max_iter=9)


def test_another_error_goes_through():
    def broken():
        yield Step(1.0, 1.0)
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(broken(), name="broken", tol=1e-8, max_iter=9)


@pytest.mark.parametrize(
    ("value", "dtype", "tol", "eps"),
    [
        (1.0, None, 1e-15, "2.2e-15 in float64"),
        (np.ones(2, np.float32), None, 1e-7, "1.2e-06 in float32"),
        (torch.ones(2, dtype=torch.float32), None, 1e-7, "1.2e-06 in float32"),
        (torch.ones(2, dtype=torch.complex64), None, 1e-7, "1.2e-06 in complex64"),
        (1.0, "float32", 1e-7, "1.2e-06 in float32"),
        (1.0, torch.float32, 1e-7, "1.2e-06 in float32"),
        (1.0, np.float32, 1e-7, "1.2e-06 in float32"),
    ],
)
def test_a_tol_within_rounding_is_refused_with_both_numbers(value, dtype, tol, eps):
    match = f"tol of toy must be at least 10 eps = {eps}; got {tol:.1e}"
    with pytest.raises(InvalidInputError, match=match):
        run([Step(value, 0.0)], name="toy", tol=tol, max_iter=1, dtype=dtype)
    assert run([Step(value, 0.0)], name="toy", tol=2e-6, max_iter=1, dtype=dtype).converged


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tol": -1.0}, "tol must be a number at least 0; got -1"),
        ({"tol": float("nan")}, "tol must be .*got nan"),
        ({"max_iter": -1}, "max_iter must be an integer at least 0; got -1"),
        ({"max_iter": 2.5}, "max_iter must be an integer at least 0; got 2.5"),
    ],
)
def test_wrong_options_are_named(options, match):
    with pytest.raises(InvalidInputError, match=match):
        run(halving(), **{"name": "halving", "tol": 1e-8, "max_iter": 3, **options})


def test_a_method_without_a_start_is_an_error():
    with pytest.raises(InvalidInputError, match="steps of empty must yield at least the starting point"):
        run([], name="empty", tol=1e-8, max_iter=3)


def test_a_scalar_that_comes_and_goes_is_nan_where_it_is_missing():
    steps = [Step(1.0, 1.0), Step(0.5, 0.5, {"damping": 3.0}), Step(0.0, 0.0)]
    np.testing.assert_array_equal(
        run(steps, name="toy", tol=1e-8, max_iter=9).history["damping"], [np.nan, 3.0, np.nan]
    )


def test_needs_no_torch():
    code = (
        "import sys; from sciml.iterate import *; run([Step(1.0, 0.0)], name='t', tol=1e-8, max_iter=1); "
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
