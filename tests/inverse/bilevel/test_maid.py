"""MAID: every accepted step is a decrease of the exact function, and the published settings are to be had."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.inverse.bilevel.lower import LowerProblem
from sciml.inverse.bilevel.maid import MAID
from sciml.inverse.bilevel.solve import learn_hyperparameters
from sciml.inverse.bilevel.upper import SquaredError

from .quadratic import quadratic, shrinkage

PROBLEM = quadratic()
PUBLISHED = {"alpha0": 0.01, "eta": 1e-4, "lam": 5e-5, "rho_bar": 10 / 9, "nu_bar": 1.25, "max_backtracks": 10}


def learn(problem, theta0, method, **options):
    options = {"x0": problem.x0, "on_failure": "ignore", **options}
    return learn_hyperparameters(problem.lower, problem.upper, np.asarray(theta0, float), method=method, **options)


def assert_every_step_is_a_proven_decrease(result, f, lam):
    """f falls by lam alpha |z|^2 at least: the step has the length alpha |z|."""
    values = [f(theta) for theta in result.thetas]
    for k in range(result.n_iter):
        wanted = lam * result.history["step"][k + 1] * result.history["grad_norm"][k]
        assert values[k + 1] <= values[k] - wanted + 1e-12 * abs(values[k])
        assert abs(result.history["value"][k] - values[k]) <= result.history["value_bar"][k] + 1e-12 * values[k]


@pytest.mark.parametrize("eps", [1e-1, 1e-3, 1e-5])
def test_the_published_quadratic_problem(eps):
    result = learn(PROBLEM, np.ones(10), MAID(eps0=eps, delta0=eps, **PUBLISHED), max_iter=40)
    assert_every_step_is_a_proven_decrease(result, PROBLEM.f, 5e-5)
    assert result.certified
    # Steepest descent on a condition number of 1e5: the steep directions go at once, the flat ones hardly move.
    assert PROBLEM.best < PROBLEM.f(result.theta) < 0.03 * PROBLEM.f(np.ones(10))
    assert result.status == "max_iter"


def test_a_certified_run_converges_where_the_conditioning_is_good():
    problem, best = shrinkage()
    result = learn(problem, [1.0, 1.0], MAID(max_backtracks=8), tol=1e-3)
    assert result.status == "converged"
    assert result.certified
    assert_allclose(result.theta, best, atol=0.05)
    assert_every_step_is_a_proven_decrease(result, problem.f, 0.1)
    assert problem.f(result.theta) - problem.best <= 1e-4


def test_a_large_lambda_asks_for_more():
    # Of a step as long as the curvature allows less than nine tenths of the first-order decrease comes true.
    problem, _ = shrinkage()
    result = learn(problem, [1.0, 1.0], MAID(lam=0.9, eta=0.95, alpha0=20.0), max_iter=3)
    assert result.n_iter == 3
    assert_every_step_is_a_proven_decrease(result, problem.f, 0.9)


def test_the_bar_of_z_lets_minus_z_be_a_direction_of_descent():
    problem, _ = shrinkage()
    for bound in ("published", "sharp"):
        result = learn(problem, [1.0, 1.0], MAID(eps0=10.0, delta0=10.0, bound=bound), max_iter=4)
        assert (result.history["omega"] <= 0.5 * result.history["grad_norm"]).all()
        # What was asked for at first was far too coarse, and was tightened.
        assert result.history["accuracy"][0] < 1.0


def test_accuracies_are_loosened_after_a_success_and_tightened_after_a_failure():
    problem, _ = shrinkage()
    result = learn(problem, [1.0, 1.0], MAID(nu_bar=1.5, nu=0.3), max_iter=15)
    ratio = result.history["accuracy"][1:] / result.history["accuracy"][:-1]
    # Each success gives 1.5, each failure 0.3: nothing else may come out.
    failures = np.round((np.log(1.5) - np.log(ratio)) / -np.log(0.3))
    assert_allclose(ratio, 1.5 * 0.3**failures, rtol=1e-9)
    assert failures.min() == 0
    assert failures.max() >= 1


def test_steps_are_lengthened_by_rho_bar():
    # The first trial of each search is rho_bar times the last step: with a tiny start it always passes.
    problem, _ = shrinkage()
    result = learn(problem, [1.0, 1.0], MAID(alpha0=1e-3, rho_bar=1.25), max_iter=6)
    alpha = result.history["step"][1:] / result.history["grad_norm"][:-1]
    assert_allclose(alpha, 1e-3 * 1.25 ** np.arange(6), rtol=1e-9)


def test_barzilai_and_borwein_are_faster_and_still_proven():
    options = {"max_units": 600, "max_iter": 500}
    runs = {name: learn(PROBLEM, np.ones(10), MAID(direction=name), **options) for name in ("gradient", "bb")}
    values = {name: PROBLEM.f(run.theta) for name, run in runs.items()}
    assert values["bb"] < 0.2 * values["gradient"]
    assert runs["bb"].certified
    # Not monotone, but never above where it began.
    assert max(PROBLEM.f(theta) for theta in runs["bb"].thetas) <= PROBLEM.f(np.ones(10))


def test_without_constants_it_runs_and_certifies_nothing():
    problem, best = shrinkage()
    loose = LowerProblem(problem.lower.h, None, shape=(6,), n_samples=24)
    result = learn_hyperparameters(loose, problem.upper, np.ones(2), method="maid", tol=1e-2, max_iter=60)
    assert result.status == "converged"
    assert not result.certified
    assert_allclose(result.theta, best, atol=0.3)


def test_bounds_are_kept():
    problem, best = shrinkage()
    result = learn(problem, [3.0, 3.0], MAID(), bounds=(best + 0.2, 5.0), tol=1e-6)
    assert_allclose(result.theta, best + 0.2, atol=1e-12)
    assert result.status == "converged"


@pytest.mark.parametrize("direction", ["gradient", "bb"])
def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path, direction):
    problem, _ = shrinkage()
    whole = learn(problem, [1.0, 1.0], MAID(direction=direction), max_iter=6)
    file = tmp_path / "maid.state"
    learn(problem, [1.0, 1.0], MAID(direction=direction), max_iter=3, checkpoint=file)
    rest = learn(problem, [1.0, 1.0], MAID(direction=direction), max_iter=6, checkpoint=file, resume=True)
    assert rest.thetas.tobytes() == whole.thetas.tobytes()
    for key in ("value", "value_bar", "accuracy", "omega"):
        assert rest.history[key].tobytes() == whole.history[key].tobytes()


def test_the_size_of_chunks_does_not_change_the_trajectory():
    problem, _ = shrinkage()
    one, other = (learn(problem, [1.0, 1.0], MAID(), max_iter=4, batch_size=size) for size in (None, 7))
    assert one.thetas.tobytes() == other.thetas.tobytes()


def test_a_flat_problem_and_a_spent_budget_say_so():
    def h(x, theta, idx):
        return 0.5 * ((x - 1) ** 2).sum(1) + 0 * theta.sum()

    lower = LowerProblem(h, 1.0, 1.0, 0.0, 0.0, shape=(2,), n_samples=1)
    with pytest.warns(ConvergenceWarning, match="hypergradient is zero"):
        result = learn_hyperparameters(lower, SquaredError(np.zeros((1, 2))), np.zeros(1), method="maid", max_iter=3)
    assert result.status == "flat"
    problem, _ = shrinkage()
    with pytest.warns(ConvergenceWarning, match="max_units=30 were spent: raise it, or loosen tol"):
        learn(problem, [1.0, 1.0], "maid", max_units=30, on_failure="warn", tol=1e-12)


def test_rounding_ends_it_in_words():
    problem, best = shrinkage()
    result = learn(problem, best + 0.01, MAID(max_backtracks=3, nu=0.1), tol=1e-14, max_iter=2000)
    assert result.status == "accuracy_floor"
    assert_allclose(result.theta, best, atol=1e-6)


def test_a_trial_that_is_not_finite_is_refused():
    # Beyond theta = 2 the energy is not a number.
    def h(x, theta, idx):
        return 0.5 * ((x - 1) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1) * torch.sqrt(2 - theta[0]) / 2

    lower = LowerProblem(h, None, shape=(2,), n_samples=1)
    result = learn_hyperparameters(
        lower,
        SquaredError(np.full((1, 2), 0.55)),
        np.zeros(1),
        method=MAID(alpha0=1e3, rho=0.2),
        tol=1e-2,
        on_failure="ignore",
    )
    assert np.isfinite(result.theta).all()
    assert result.status == "converged"


def test_wrong_options_are_named():
    for name, value in [("rho", 1.0), ("rho_bar", 0.9), ("nu", 0.0), ("nu_bar", 0.5), ("eps0", 0.0), ("alpha0", -1.0)]:
        with pytest.raises(InvalidInputError, match=f"{name} must"):
            MAID(**{name: value})
    with pytest.raises(InvalidInputError, match="lam must be below eta=0.5, else no step need pass; got 0.6"):
        MAID(lam=0.6)
    with pytest.raises(InvalidInputError, match="direction must"):
        MAID(direction="newton")
