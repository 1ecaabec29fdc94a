"""Gradient descent at one accuracy: as good as that accuracy, and it says where that ends."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.inverse.bilevel.fixed_accuracy import FixedAccuracy
from sciml.inverse.bilevel.solve import learn_hyperparameters

from .quadratic import quadratic, shrinkage

PROBLEM, BEST = shrinkage()


def learn(method, theta0=(1.0, 1.0), **options):
    options = {"on_failure": "ignore", **options}
    return learn_hyperparameters(PROBLEM.lower, PROBLEM.upper, np.array(theta0), method=method, **options)


def test_it_finds_the_optimum_at_a_tight_accuracy():
    result = learn(FixedAccuracy(1e-8), tol=1e-3, max_iter=100)
    assert result.status == "converged"
    assert not result.certified
    assert_allclose(result.theta, BEST, atol=0.05)
    assert (result.history["eps"] <= 1e-8 * (1 + 1e-9)).all()
    assert (result.history["delta"] <= 1e-8 * (1 + 1e-9)).all()


def test_every_step_decreases_the_value_as_it_comes_by_what_was_asked_for():
    result = learn(FixedAccuracy(1e-2, lam=0.3, alpha0=4.0), max_iter=12)
    h = result.history
    # The step is alpha |z|, so lam alpha |z|^2 is lam step |z|.
    assert (h["value"][1:] <= h["value"][:-1] - 0.3 * h["step"][1:] * h["grad_norm"][:-1] + 1e-12).all()


def test_steps_are_lengthened_after_a_success():
    result = learn(FixedAccuracy(1e-6, alpha0=1e-3, rho_bar=1.25), max_iter=5)
    alpha = result.history["step"][1:] / result.history["grad_norm"][:-1]
    assert_allclose(alpha, 1e-3 * 1.25 ** np.arange(5), rtol=1e-9)


@pytest.mark.parametrize("eps", [1e-1, 1e-3, 1e-5])
def test_the_published_quadratic_problem(eps):
    problem = quadratic()
    result = learn_hyperparameters(
        problem.lower,
        problem.upper,
        np.ones(10),
        x0=problem.x0,
        method=FixedAccuracy(eps, alpha0=0.01, rho=0.5),
        max_iter=40,
        on_failure="ignore",
    )
    # The coarse one ends where its error hides the decrease, the fine ones go on.
    assert result.status == ("no_descent" if eps == 1e-1 else "max_iter")
    assert problem.f(result.theta) < 0.03 * problem.f(np.ones(10))


def test_a_coarse_accuracy_ends_in_words():
    problem = quadratic()
    with pytest.warns(ConvergenceWarning, match="lowers the value as it comes at eps=0.1: lower eps"):
        learn_hyperparameters(problem.lower, problem.upper, np.ones(10), x0=problem.x0, method=FixedAccuracy(0.1))


def test_bounds_are_kept():
    result = learn(FixedAccuracy(1e-8), theta0=(3.0, 3.0), bounds=(BEST + 0.2, 5.0), tol=1e-3, max_iter=60)
    assert result.status == "converged"
    assert_allclose(result.theta, BEST + 0.2, atol=1e-12)


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path):
    whole = learn(FixedAccuracy(), max_iter=6)
    file = tmp_path / "fixed.state"
    learn(FixedAccuracy(), max_iter=2, checkpoint=file)
    rest = learn(FixedAccuracy(), max_iter=6, checkpoint=file, resume=True)
    assert rest.thetas.tobytes() == whole.thetas.tobytes()
    assert rest.history["value"].tobytes() == whole.history["value"].tobytes()


def test_the_residual_of_the_adjoint_has_a_tolerance_of_its_own():
    loose, tight = (learn(FixedAccuracy(1e-6, delta=delta), theta0=(1.0, -1.0), max_iter=0) for delta in (1.0, 1e-10))
    assert tight.history["delta"][0] <= 1e-10 < loose.history["delta"][0] <= 1.0
    assert loose.n_hvp < tight.n_hvp


def test_wrong_options_are_named():
    for name, value in [("eps", 0.0), ("delta", -1.0), ("rho", 1.0), ("rho_bar", 0.5), ("lam", 0.0)]:
        with pytest.raises(InvalidInputError, match=f"{name} must"):
            FixedAccuracy(**{name: value})
