"""Minibatches: near the optimum of all samples, repeatable, counted by the sample, and never certified."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.lower import LowerProblem
from sciml.inverse.bilevel.solve import learn_hyperparameters
from sciml.inverse.bilevel.stochastic import Stochastic
from sciml.inverse.bilevel.upper import UpperLoss

from .quadratic import shrinkage

PROBLEM, BEST = shrinkage()


def learn(method="stochastic", theta0=(1.0, 1.0), lower=None, upper=None, **options):
    options = {"on_failure": "ignore", "random_state": 0, **options}
    lower, upper = lower or PROBLEM.lower, upper or PROBLEM.upper
    return learn_hyperparameters(lower, upper, np.array(theta0), method=method, **options)


def test_it_comes_near_the_optimum_of_all_samples():
    start = PROBLEM.f((1.0, 1.0)) - PROBLEM.best
    result = learn(Stochastic(minibatch=3, step=0.2), max_iter=25)
    assert PROBLEM.f(result.theta) - PROBLEM.best < 0.01 * start
    assert not result.certified
    # What is reported is the value of all samples.
    assert result.value == pytest.approx(PROBLEM.f(result.theta), abs=result.value_bar)


def test_the_whole_batch_is_adam_itself():
    # One minibatch a pass: z is the hypergradient of all samples, solved nearly exactly.
    options = Stochastic(minibatch=24, eps0=1e-10, eps_decay=0.0, step=0.1, step_decay=0.0)
    result = learn(options, max_iter=6)
    m, s, theta = np.zeros(2), np.zeros(2), np.ones(2)
    first = None
    for k in range(1, 7):
        d = 1e-6
        z = np.array([(PROBLEM.f(theta + d * e) - PROBLEM.f(theta - d * e)) / (2 * d) for e in np.eye(2)])
        first = np.abs(z).max() if first is None else first
        m, s = 0.9 * m + 0.1 * z, 0.999 * s + 0.001 * z**2
        theta = theta - 0.1 * (m / (1 - 0.9**k)) / (np.sqrt(s / (1 - 0.999**k)) + 1e-8 * first)
        assert_allclose(result.thetas[k], theta, atol=1e-6)


def test_every_sample_is_used_once_a_pass():
    seen = []

    def h(x, theta, idx):
        seen.append(idx.tolist())
        return PROBLEM.lower.h(x, theta, idx)

    lower = LowerProblem(h, PROBLEM.lower.mu, PROBLEM.lower.L, 0.0, shape=(6,), n_samples=24)
    learn(Stochastic(minibatch=5), lower=lower, max_iter=2, check=False)
    batches = [tuple(idx) for idx in seen if len(idx) < 24]
    small = list(dict.fromkeys(batch for batch in batches if len(batch) in (5, 4)))
    passes = [small[:5], small[5:10]]
    for one in passes:
        assert sorted(i for batch in one for i in batch) == list(range(24))
    assert passes[0] != passes[1]


def test_accuracies_fall_like_the_square_root_of_the_number_of_minibatches():
    result = learn(Stochastic(minibatch=6, eps0=0.3), max_iter=4)
    k = np.array([1, 4, 8, 12, 16])
    assert_allclose(result.history["accuracy"], 0.3 * k**-0.5, rtol=1e-12)
    assert (result.history["eps"] <= 0.3 * k**-0.5 * (1 + 1e-9)).all()


def test_a_minibatch_costs_its_share():
    # Four minibatches of a quarter cost about what one of all samples costs.
    quarters, whole = (learn(Stochastic(minibatch=b, eps0=1e-3), max_iter=3).n_units for b in (6, 24))
    assert 0.5 < quarters / whole < 2


def test_every_solver_of_the_lower_level_sees_the_same_samples():
    options = Stochastic(minibatch=5, eps0=1e-9, eps_decay=0.0)
    one, two = (learn(options, max_iter=2, lower_solver=solver).thetas for solver in ("nag", "newton_cg"))
    assert_allclose(one, two, atol=1e-6)


def test_the_same_seed_gives_the_same_run_and_another_another():
    one, two, other = (learn(max_iter=3, random_state=seed).thetas for seed in (1, 1, 2))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != other.tobytes()


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path):
    whole = learn(max_iter=5)
    file = tmp_path / "stochastic.state"
    learn(max_iter=2, checkpoint=file)
    rest = learn(max_iter=5, checkpoint=file, resume=True)
    assert rest.thetas.tobytes() == whole.thetas.tobytes()


def test_a_loss_that_knows_its_samples_by_number_is_asked_for_the_right_ones():
    seen = set()

    def g(x, theta, idx):
        seen.add(tuple(idx.tolist()))
        return PROBLEM.upper.value(x, theta, idx)

    upper = UpperLoss(g, Lg=1.0, Lt=0.0, shape=(6,), n_samples=24)
    one, two = learn(upper=upper, max_iter=3), learn(max_iter=3)
    assert_allclose(one.thetas, two.thetas, rtol=1e-12)
    assert len(seen) > 10


def test_bounds_are_kept():
    result = learn(theta0=BEST + 0.6, bounds=(BEST + 0.5, 5.0), max_iter=5)
    assert (result.thetas >= BEST + 0.5 - 1e-12).all()
    assert_allclose(result.theta, BEST + 0.5, atol=1e-12)


def test_wrong_options_are_named():
    for name, value in [("minibatch", 0), ("eps0", 0.0), ("step", 0.0), ("beta1", 1.0), ("eps_decay", -1.0)]:
        with pytest.raises(InvalidInputError, match=f"{name} must"):
            Stochastic(**{name: value})
