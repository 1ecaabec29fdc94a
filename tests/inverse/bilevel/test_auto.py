"""The recommended method: it finds known optima, decides by bars, and stays honest where they cannot be shortened."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import lsq_linear

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel import auto
from sciml.inverse.bilevel.auto import Auto
from sciml.inverse.bilevel.directions import Pairs
from sciml.inverse.bilevel.evaluate import NotFinite
from sciml.inverse.bilevel.lower import LowerProblem
from sciml.inverse.bilevel.search import Search

from .energies import Case, least_squares, regression, shrinking


def assert_every_bar_holds(case, result, slack=1e-11):
    """Each value of the history lies within its bar; so do the last value and gradient."""
    for k, theta in enumerate(result.thetas):
        f, z, _ = case.truth(theta)
        assert abs(result.history["value"][k] - f) <= result.history["value_bar"][k] + slack * abs(f)
    assert abs(result.value - f) <= result.value_bar + slack * abs(f)
    assert np.linalg.norm(result.grad - z) <= result.grad_bar + slack * (abs(f) + np.linalg.norm(z))


@pytest.mark.parametrize("direction", ["gn", "lbfgs", "bb", "gd"])
@pytest.mark.parametrize("start", [-6.0, 7.0])
def test_every_direction_finds_the_optimum_from_far_away(direction, start):
    case = shrinking(noise=0.2)
    result = case.learn([start], method=Auto(direction=direction), tol=1e-5)
    assert result.status == "converged"
    assert_allclose(result.theta, case.best, atol=1e-4)
    assert result.certified
    assert_every_bar_holds(case, result)


@pytest.mark.parametrize(
    ("kind", "feels_theta", "options"),
    [
        ("logistic", True, Auto()),
        ("huber", True, Auto(direction="lbfgs")),
        ("logistic", False, Auto(certificate="rigorous")),
        ("huber", False, Auto(certificate="plain")),
    ],
)
def test_bars_hold_all_along(kind, feels_theta, options):
    case = regression(kind, seed=3, B=2, d=3, feels_theta=feels_theta, r=lambda t: 0.05 * (t**2).sum())
    result = case.learn([-4.0, 3.0], method=options, tol=1e-4, max_iter=10)
    assert result.status in ("converged", "max_iter")
    assert result.n_iter >= 5
    assert result.certified
    assert_every_bar_holds(case, result)


def test_gauss_newton_takes_few_steps_where_steepest_descent_takes_many():
    case, _ = least_squares(condition=30.0, n=3)
    steps = {}
    for direction in ("auto", "lbfgs", "gd"):
        result = case.learn([8.0, -8.0, 8.0], method=Auto(direction=direction), tol=1e-4, max_iter=30)
        steps[direction] = result.n_iter
        if direction != "gd":
            assert_allclose(result.theta, case.best, atol=1e-2)
    assert steps["auto"] <= 8
    assert steps["auto"] < steps["lbfgs"] < steps["gd"]


def test_many_hyperparameters_by_limited_memory_and_by_gauss_newton():
    case, _ = least_squares(B=20, n=33, condition=3.0)
    result = case.learn(np.full(33, 2.0), tol=1e-4, method=Auto(direction="lbfgs"))
    assert result.status == "converged"
    assert result.n_iter > 8
    few = case.learn(np.full(33, 2.0), tol=1e-4, method=Auto(direction="gn"))
    assert few.n_iter <= 8
    assert_allclose(few.theta, result.theta, atol=1e-2)


@pytest.mark.parametrize("direction", ["gn", "lbfgs"])
def test_bounds_hold_and_the_others_settle_with_them(direction):
    """Against least squares in a box: a direction that is only cut off by its bounds may lead uphill."""
    for seed in range(3):
        case, (M, right) = least_squares(seed, B=4, n=4)
        low, high = case.best - [1, 2, -0.3, 4], case.best + [3, 2, 2, -0.5]
        result = case.learn((low + high) / 2, bounds=(low, high), method=Auto(direction=direction), tol=1e-5)
        assert bool(((result.thetas >= low) & (result.thetas <= high)).all())
        assert result.status == "converged"
        assert_allclose(result.theta, lsq_linear(M, right, (low, high), tol=1e-14).x, atol=1e-4)


def test_a_start_in_the_corner_of_the_box():
    case = shrinking(noise=0.2)
    best = float(case.best[0])
    for low, high, start, end in (
        (best + 0.5, 6, best + 0.5, best + 0.5),
        (best + 0.5, 6, 6, best + 0.5),
        (-6, best - 0.5, -6, best - 0.5),
        (-6, 6, -6, best),
    ):
        for direction in ("gn", "lbfgs", "gd"):
            result = case.learn([start], bounds=(low, high), method=Auto(direction=direction), tol=1e-5)
            assert result.status == "converged"
            assert_allclose(result.theta, [end], atol=1e-4)


def test_a_small_slope_is_believed_only_when_it_is_known():
    """An inexact level may have a slope near zero by chance, or a value with a bar as long as itself."""
    for condition, seed in ((1e4, 4), (1e6, 3), (1e4, 3)):
        case, _ = least_squares(seed, d=4, condition=condition, noise=0.1)
        result = case.learn([2.0, 2.0], tol=1e-8)
        assert result.status == "converged"
        assert_allclose(result.theta, case.best, rtol=1e-6)
        f, z, _ = case.truth(result.theta)
        assert np.abs(z).max() <= 2e-8 * f
        assert result.value_bar <= 1e-6 * f


def test_a_value_of_zero_can_be_the_optimum():
    case = shrinking(to=0.3)
    for direction in ("gn", "lbfgs"):
        for start in (-3.0, 6.0):
            result = case.learn([start], method=Auto(direction=direction))
            assert result.status in ("converged", "accuracy_floor")
            assert abs(result.value) <= 1e-15
            assert_allclose(result.theta, case.best, atol=1e-6)


def test_units_of_the_data_do_not_matter():
    for n in (2, 33):
        steps = []
        for scale in (1.0, 2.0**20, 2.0**-20):
            case, _ = least_squares(B=9, n=n, scale=scale, condition=5.0)
            result = case.learn(np.full(n, 4.0), tol=1e-3)
            steps.append((result.n_iter, result.n_units, result.value / scale**2, result.theta.tolist()))
        assert steps[0] == steps[1] == steps[2]


def test_thetas_at_which_there_is_no_energy_are_turned_down():
    case, nan, inf = shrinking(noise=0.2), float("nan"), float("inf")
    wall = float(case.best[0]) + 0.05
    walls = {
        "nan": lambda theta: torch.where(theta[0] > wall, nan, 0.0),
        "inf": lambda theta: torch.where(theta[0] > wall, inf, 0.0),
        "sqrt": lambda theta: 0 * torch.sqrt(wall - theta[0]),
    }
    for name, term in walls.items():
        for direction in ("gn", "lbfgs", "gd"):

            def h(x, theta, idx, term=term):
                return case.h(x, theta, idx) + term(theta)

            result = case.learn([-3.0], lower=LowerProblem(h, **case.constants), method=Auto(direction=direction))
            assert result.theta[0] <= wall, name
            assert_allclose(result.theta, case.best, atol=1e-4)


def test_constants_that_overflow_turn_a_trial_down_as_well():
    case = shrinking(noise=0.2)
    wall = float(case.best[0]) + 0.05

    def mu(theta):
        return 1 + torch.exp(theta[0]) + torch.where(theta[0] > wall, torch.inf, 0.0)

    result = case.learn([-3.0], lower=case.made(mu=mu))
    assert result.theta[0] <= wall
    assert_allclose(result.theta, case.best, atol=1e-4)


def test_an_estimated_error_proves_nothing():
    case = regression("logistic", seed=5)
    result = case.learn([-2.0, -2.0], method=Auto(lower_error="newton"), tol=1e-4, bounds=(-8, 8))
    assert result.status == "converged"
    assert not result.certified
    for lower in (case.made(mu=None), case.made(LH=None)):
        result = case.learn([-2.0, -2.0], lower=lower, tol=1e-4, bounds=(-8, 8))
        assert not result.certified
        assert_every_bar_holds(case, result)


def test_a_hyperparameter_without_influence_does_no_harm():
    case = shrinking(noise=0.2)
    wide = Case(case.h, case.constants, case.lower, case.upper, case.x0, 2)
    for direction in ("gn", "lbfgs", "gd"):
        result = wide.learn([2.0, 1.0], method=Auto(direction=direction), tol=1e-5)
        assert result.status == "converged"
        assert_allclose(result.theta, [case.best[0], 1.0], atol=1e-4)


def test_three_steps_that_gain_nothing_end_the_search():
    case, _ = least_squares(B=9, d=6, n=40, condition=10.0, noise=0.1)
    result = case.learn(np.full(40, 2.0), tol=1e-14, method=Auto(direction="lbfgs", ftol=1e-3))
    assert result.status == "small_decrease"
    gains = -np.diff(result.history["value"])[-3:] / result.history["value"][-1]
    assert (gains <= 1e-3).all()
    assert result.n_iter < case.learn(np.full(40, 2.0), tol=1e-14, method=Auto(direction="lbfgs", ftol=1e-9)).n_iter


def test_a_decrease_below_rounding_is_the_floor_and_not_a_failure():
    case = shrinking(noise=0.2)
    result = case.learn([-3.0], tol=1e-16)
    assert result.status == "accuracy_floor"
    assert_allclose(result.theta, case.best, atol=1e-7)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("direction", "newton"),
        ("certificate", "none"),
        ("lower_error", "exact"),
        ("trust", 0.0),
        ("eps0", -1.0),
        ("armijo", 1.0),
        ("armijo", 0.0),
        ("memory", 0),
        ("ftol", -1e-3),
        ("max_trials", 0),
    ],
)
def test_options_that_cannot_be(option, value):
    with pytest.raises(InvalidInputError, match=option):
        Auto(**{option: value})


def test_a_level_that_was_sharpened_is_looked_at_again(monkeypatch):
    """Its slope was noise, and a search that can do no more must see that."""
    case, _ = least_squares()

    def sharpened(search, now, options, direction):
        ev = search.evaluator
        now.level = ev.refine(now.level, 1e-12)
        ev.adjoint(now.level, 1e-12)
        ev.gradient(now.level)
        return "accuracy_floor", "no more to be had"

    monkeypatch.setattr(auto, "_advance", sharpened)
    options = {"method": Auto(eps0=1.0), "max_iter": 5, "lower_solver": "nag"}
    coarse = case.learn(case.best, **options)
    assert coarse.status == "converged"
    assert coarse.history["criterion"][0] > 1e-3
    assert_array_equal(coarse.thetas, np.repeat(case.best[None], 2, axis=0))
    # Elsewhere it is the end, and what is returned is what was seen best.
    other = case.learn(case.best + 1.0, **options)
    assert other.status == "accuracy_floor"
    assert other.value_bar < 1e-3 * other.history["value_bar"][0]


def test_at_its_bound_a_component_is_not_pushed_outwards_for_the_sake_of_others():
    """The second parameter pulls the first one along; it stays, and the second goes without it."""
    inverse = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    pairs = Pairs(4)
    for y in torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], dtype=torch.float64):
        pairs.update(inverse @ y, y, 0.0)
    z, theta = torch.tensor([-1.0, 5.0], dtype=torch.float64), torch.tensor([0.0, 0.0], dtype=torch.float64)
    wide = torch.full((2,), 9.0, dtype=torch.float64)
    search = shrinking_search(low=torch.tensor([0.0, -9.0], dtype=torch.float64), high=wide)
    now = auto._State(SimpleNamespace(theta=theta, z=z), Auto(), 2)
    now.pairs = pairs
    # Unbounded, both would go down.
    free = auto._free_direction(search, now, Auto(), "lbfgs", torch.tensor([True, True]))
    assert bool((free < 0).all())
    d = auto._direction(search, now, Auto(), "lbfgs")
    assert float(d[0]) == 0
    assert float(d[1]) < 0
    assert float(z @ d) < 0


def shrinking_search(low, high):
    case = shrinking()
    return Search(case.evaluator(), low, torch.as_tensor(case.x0), 1e-6, low, high, np.random.default_rng(0))


# ---------------------------------------------------------------- the three-way test, by itself


class Scripted:
    """An evaluator whose values and bars are written down; refining shortens the bar that is asked about."""

    def __init__(self, now, trial):
        self.numbers = {"now": list(now), "trial": list(trial)}
        self.refined = []

    def level(self, name):
        ones = torch.ones(1, dtype=torch.float64)
        parts = {"eps": 1e-3 * ones, "delta": ones, "gg_norm": ones, "x": ones[None], "q": ones[None], "gg": ones[None]}
        return SimpleNamespace(name=name, parts=parts, **parts)

    def solve(self, theta, start, eps, *rest):
        return self.level("trial")

    def adjoint(self, level, delta, *rest):
        level.adjoint = True
        return level

    def gradient(self, level):
        return None

    def refine(self, level, eps, *rest):
        self.refined.append(level.name)
        # The corrected bar is of second order.
        self.numbers[level.name][1] /= 16
        return self.level(level.name)

    def eps_floor(self, level):
        return torch.full((1,), 1e-12, dtype=torch.float64)

    def grain(self, level):
        return 1e-15

    def value(self, level, certificate=None):
        value, bar = self.numbers[level.name]
        if certificate == "plain":
            bar = self.plain
        return value, bar, True

    plain = 1e3


def judged(now, trial, pred=1.0, armijo=0.25, plain=1e3):
    ev = Scripted(now, trial)
    ev.plain = plain
    state = SimpleNamespace(level=ev.level("now"), S=None)
    search = SimpleNamespace(evaluator=ev, all_rigorous=True)
    verdict = auto._judge(search, state, Auto(armijo=armijo), None, None, torch.ones(1), torch.ones(1), pred)
    return verdict[0], ev.refined


def test_a_decrease_that_the_bars_prove_is_accepted():
    assert judged((10.0, 0.1), (9.5, 0.1)) == ("accept", [])
    # 0.25 of the prediction is asked for, with both bars against it.
    assert judged((10.0, 0.1), (9.549, 0.1)) == ("accept", [])


def test_an_increase_that_the_bars_prove_is_rejected():
    assert judged((10.0, 0.1), (10.5, 0.1)) == ("reject", [])
    # A decrease by less than Armijo's rule asks for is rejected, too.
    assert judged((10.0, 0.01), (9.8, 0.01)) == ("reject", [])
    assert judged((10.0, 0.01), (9.8, 0.01), armijo=0.1) == ("accept", [])


def test_noise_shortens_bars_and_not_steps():
    assert judged((10.0, 1.0), (9.5, 0.1)) == ("accept", ["now"])
    assert judged((10.0, 0.1), (9.5, 1.0)) == ("accept", ["trial"])
    assert judged((10.0, 1.0), (10.5, 0.9)) == ("reject", ["now", "trial"])


def test_a_plain_value_may_reject_before_any_adjoint():
    verdict, refined = judged((10.0, 0.1), (12.0, 0.1), plain=1.0)
    assert (verdict, refined) == ("reject", [])


def test_values_that_cannot_be_told_apart_are_the_floor():
    class Spent(Scripted):
        def eps_floor(self, level):
            return level.eps

    class Rounded(Scripted):
        def grain(self, level):
            return 0.9

    for kind in (Spent, Rounded):
        ev = kind((10.0, 1.0), (9.5, 1.0))
        state = SimpleNamespace(level=ev.level("now"), S=None)
        search = SimpleNamespace(evaluator=ev, all_rigorous=True)
        assert auto._judge(search, state, Auto(), None, None, torch.ones(1), torch.ones(1), 1.0)[0] == "floor"
        assert ev.refined == []


def test_a_trial_that_is_no_number_is_rejected():
    class Broken(Scripted):
        def solve(self, theta, start, eps, *rest):
            raise NotFinite

    ev = Broken((10.0, 0.1), (0.0, 0.0))
    state = SimpleNamespace(level=ev.level("now"), S=None)
    search = SimpleNamespace(evaluator=ev, all_rigorous=True)
    got = auto._judge(search, state, Auto(), None, None, torch.ones(1), torch.ones(1), 1.0)
    assert got == ("reject", None, None)
