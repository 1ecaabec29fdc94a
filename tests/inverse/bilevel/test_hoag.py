"""HOAG: accuracies by its schedule, steps by its estimate of L, and nothing certified."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.inverse.bilevel.hoag import HOAG
from sciml.inverse.bilevel.solve import learn_hyperparameters
from sciml.inverse.bilevel.upper import UpperLoss

from .quadratic import shrinkage

PROBLEM, BEST = shrinkage()


def learn(method, theta0=(1.0, 1.0), **options):
    options = {"on_failure": "ignore", **options}
    return learn_hyperparameters(PROBLEM.lower, PROBLEM.upper, np.array(theta0), method=method, **options)


@pytest.mark.parametrize("schedule", ["geometric", "quadratic", "cubic"])
def test_it_finds_the_optimum_with_every_schedule(schedule):
    result = learn(HOAG(schedule), tol=1e-3, max_iter=60)
    assert result.status == "converged"
    assert not result.certified
    assert_allclose(result.theta, BEST, atol=0.05)


@pytest.mark.parametrize(
    ("schedule", "rule"),
    [("geometric", lambda k: 0.9**k), ("quadratic", lambda k: k**-2.0), ("cubic", lambda k: k**-3.0)],
)
def test_the_accuracies_are_those_of_the_schedule(schedule, rule):
    result = learn(HOAG(schedule, eps0=0.3), max_iter=5)
    k = np.arange(1, 7)
    assert_allclose(result.history["accuracy"], 0.3 * rule(k), rtol=1e-12)
    assert (result.history["eps"] <= 0.3 * rule(k) * (1 + 1e-9)).all()
    assert (result.history["delta"] <= 0.3 * rule(k) * (1 + 1e-9)).all()


def test_no_accuracy_is_below_the_floor():
    assert HOAG("cubic").accuracy(10**5) == 1e-12
    assert HOAG("quadratic", eps_min=1e-3).accuracy(100) == 1e-3
    assert HOAG("geometric", eps0=2.0).accuracy(1, factor=0.5) == pytest.approx(0.9)


def test_the_first_step_moves_theta_by_one_a_component():
    result = learn(HOAG(), max_iter=1)
    assert result.history["lipschitz"][0] == pytest.approx(result.history["grad_norm"][0] / 2**0.5, rel=1e-12)
    assert result.history["step"][1] == pytest.approx(2**0.5, rel=1e-12)


@pytest.mark.parametrize(("eps0", "factor"), [(1.0, 0.95), (1e-9, 1.0)])
def test_l_shrinks_by_a_twentieth_where_the_accuracy_leaves_room(eps0, factor):
    # Of an exact value |z|^2 / L is asked for, which no convex function gives: L stays.
    result = learn(HOAG("geometric", L0=5.0, eps0=eps0), max_iter=4)
    L = result.history["lipschitz"]
    assert_allclose(L[1:] / L[:-1], factor, rtol=1e-12)
    assert_allclose(result.history["step"][1:], result.history["grad_norm"][:-1] / L[:-1], rtol=1e-12)


def test_a_step_that_raises_the_value_by_a_fifth_is_undone():
    # The first step is a thousand times too long.
    result = learn(HOAG(L0=2e-3), theta0=(-0.5, 0.0), max_iter=3)
    halvings = np.log2(result.history["lipschitz"][1] / 2e-3 / 0.95)
    undone = round(float(halvings)) if abs(halvings - round(float(halvings))) < 1e-9 else round(float(halvings + 0.074))
    assert undone >= 3
    # A step back halves the accuracies too, and counts as a step of the schedule.
    assert result.history["accuracy"][1] == pytest.approx(0.1 * 0.5**undone / (2 + undone) ** 2, rel=1e-12)
    assert (result.history["value"][1:] < 1.2 * result.history["value"][:-1]).all()


def test_a_negative_value_is_not_a_fifth_above_itself():
    shifted = UpperLoss(lambda x, theta, idx: PROBLEM.upper.value(x, theta, idx) - 50, Lg=1.0, shape=(6,), n_samples=24)
    one = learn(HOAG(L0=5.0), max_iter=5)
    result = learn_hyperparameters(
        PROBLEM.lower, shifted, np.ones(2), method=HOAG(L0=5.0), max_iter=5, on_failure="ignore"
    )
    assert_allclose(result.thetas, one.thetas, rtol=1e-6)


def test_bounds_are_kept():
    result = learn(HOAG(L0=1.0), theta0=(3.0, 3.0), bounds=(BEST + 0.2, 5.0), tol=1e-3, max_iter=60)
    assert result.status == "converged"
    assert_allclose(result.theta, BEST + 0.2, atol=1e-12)


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path):
    whole = learn(HOAG(), max_iter=6)
    file = tmp_path / "hoag.state"
    learn(HOAG(), max_iter=2, checkpoint=file)
    rest = learn(HOAG(), max_iter=6, checkpoint=file, resume=True)
    assert rest.thetas.tobytes() == whole.thetas.tobytes()
    for key in ("value", "accuracy", "lipschitz", "step"):
        assert rest.history[key].tobytes() == whole.history[key].tobytes()


def test_a_spent_budget_says_so():
    with pytest.warns(ConvergenceWarning, match="max_units=20 were spent"):
        learn("hoag", max_units=20, on_failure="warn")


def test_wrong_options_are_named():
    with pytest.raises(InvalidInputError, match="schedule must"):
        HOAG("linear")
    for name in ("eps0", "eps_min", "L0"):
        with pytest.raises(InvalidInputError, match=f"{name} must"):
            HOAG(**{name: 0.0})
