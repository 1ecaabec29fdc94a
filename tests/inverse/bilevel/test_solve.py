"""The front door: what it takes, what it gives back, how it ends, and when it says that it can be trusted."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import (
    CertificateError,
    ConvergenceError,
    ConvergenceWarning,
    InvalidInputError,
    InvalidTypeError,
)
from sciml.inverse.bilevel import Auto, LowerProblem, SquaredError, UpperLoss, learn_hyperparameters

from .energies import Case, least_squares, regression, shrinking

CASE = shrinking(noise=0.2)
BEST = CASE.best


# ---------------------------------------------------------------- what comes in and goes out


def test_the_kind_of_theta_decides_the_kind_of_the_answer():
    as_numpy = CASE.learn(np.array([-2.0]))
    as_torch = CASE.learn([0.0], x0=None)
    plain = learn_hyperparameters(CASE.lower, CASE.upper, torch.tensor([-2.0], dtype=torch.float32), x0=CASE.x0)
    for name in ("theta", "grad", "thetas", "x"):
        assert isinstance(getattr(as_numpy, name), np.ndarray)
        assert isinstance(getattr(plain, name), torch.Tensor)
    # theta is kept in double precision whatever it came in.
    assert plain.theta.dtype == torch.float64
    assert_allclose(plain.theta, as_numpy.theta, rtol=1e-12)
    assert_allclose(as_torch.theta, as_numpy.theta, atol=1e-4)
    assert learn_hyperparameters(CASE.lower, CASE.upper, [-2]).theta.dtype == np.float64


def test_the_start_is_found_where_a_level_knows_the_shape():
    lower = LowerProblem(CASE.h, **CASE.constants, shape=(3,), n_samples=3)
    loss = UpperLoss(lambda x, theta, idx: CASE.upper.value(x, theta, idx), 1.0)
    results = [
        learn_hyperparameters(CASE.lower, CASE.upper, [-2.0]),
        learn_hyperparameters(lower, loss, [-2.0]),
        learn_hyperparameters(CASE.lower, loss, [-2.0], x0=np.zeros((3, 3))),
    ]
    for result in results[1:]:
        assert_allclose(result.theta, results[0].theta, rtol=1e-9)
    with pytest.raises(InvalidInputError, match="x0 must be given"):
        learn_hyperparameters(CASE.lower, loss, [-2.0])


def test_single_precision_for_x_alone():
    single = CASE.learn([-2.0], dtype="float32", tol=1e-3)
    assert single.x.dtype == np.float32
    assert single.theta.dtype == np.float64
    assert single.settings["dtype"] == "float32"
    assert single.status in ("converged", "accuracy_floor")
    assert_allclose(single.theta, BEST, atol=1e-2)
    f, z, _ = CASE.truth(single.theta)
    assert abs(single.value - f) <= single.value_bar
    assert np.linalg.norm(single.grad - z) <= single.grad_bar


def test_what_is_returned_belongs_to_the_last_theta():
    case = regression("logistic", seed=2, r=lambda t: 0.1 * (t**2).sum())
    result = case.learn([-1.0, 1.0], tol=1e-5)
    f, z, x = case.truth(result.theta)
    assert abs(result.value - f) <= result.value_bar
    assert np.linalg.norm(result.grad - z) <= result.grad_bar
    assert_allclose(result.x, x, atol=1e-4)
    assert result.value_bar <= 1e-4 * f
    assert result.thetas.shape == (result.n_iter + 1, 2)
    assert_array_equal(result.thetas[0], [-1.0, 1.0])
    assert_array_equal(result.thetas[-1], result.theta)
    assert (np.diff(result.history["n_units"]) > 0).all()
    assert result.n_units >= result.history["n_units"][-1] > 0
    assert result.n_hvp > 0
    assert result.n_lower > 0
    assert result.n_cg > 0


# ---------------------------------------------------------------- how it ends


def test_converged():
    result = CASE.learn([-2.0], quiet=False)
    assert result.status == "converged"
    assert result.history["criterion"][-1] <= 1e-6
    f, z, _ = CASE.truth(result.theta)
    assert np.abs(z).max() <= 2e-6 * f
    assert result.certified


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"max_iter": 2}, "max_iter"),
        ({"max_iter": 0}, "max_iter"),
        ({"max_units": 20}, "budget"),
        ({"max_units": 0}, "budget"),
        ({"max_seconds": 0}, "budget"),
        ({"method": Auto(ftol=1e9)}, "small_decrease"),
        ({"method": Auto(max_trials=1, trust=8.0), "theta0": [5.0]}, "no_descent"),
    ],
)
def test_ends_that_are_said_aloud(options, status):
    theta0 = options.get("theta0", [-4.0])
    options = {key: value for key, value in options.items() if key != "theta0"}
    with pytest.warns(ConvergenceWarning, match=f"'{status}'.*criterion.*tol"):
        result = CASE.learn(theta0, quiet=False, **options)
    assert result.status == status
    assert result.message
    f, z, _ = CASE.truth(result.theta)
    assert abs(result.value - f) <= result.value_bar
    assert np.linalg.norm(result.grad - z) <= result.grad_bar


def test_budgets_are_kept_but_for_the_solve_at_hand():
    whole = CASE.learn([-4.0])
    for units in (15, 30, 45):
        result = CASE.learn([-4.0], max_units=units)
        assert result.status == "budget"
        assert result.n_units <= units + 15
        # The same way as far as it goes.
        assert_array_equal(result.thetas, whole.thetas[: len(result.thetas)])


def test_a_theta_without_influence_is_flat():
    def h(x, theta, idx):
        return CASE.h(x, torch.zeros(1, dtype=x.dtype), idx) + 0 * theta.sum()

    flat = Case(h, {}, LowerProblem(h, mu=2.0, LH=0.0, LJ=0.0), CASE.upper, CASE.x0, 2)
    with pytest.warns(ConvergenceWarning, match="'flat'"):
        result = flat.learn([1.0, 2.0], quiet=False)
    assert (result.status, result.n_iter) == ("flat", 0)
    assert_array_equal(result.theta, [1.0, 2.0])
    # A term in theta alone can still be minimised.
    upper = SquaredError(CASE.upper.x_true.numpy(), r=lambda t: ((t - 3) ** 2).sum())
    result = flat.learn([1.0, 2.0], upper=upper)
    assert result.status == "converged"
    assert_allclose(result.theta, [3.0, 3.0], atol=1e-5)


def test_where_the_loss_has_its_minimum_nothing_is_left_to_feel():
    def h(x, theta, idx):
        return 0.5 * (1 + torch.exp(theta[0])) * (x**2).sum(1)

    result = CASE.learn([0.5], upper=SquaredError(np.zeros((3, 3))), lower=LowerProblem(h, mu=1.0), quiet=False)
    assert (result.status, result.value) == ("converged", 0.0)


def test_a_term_that_is_no_number_is_not_finite():
    upper = SquaredError(CASE.upper.x_true.numpy(), r=lambda t: t[0] * float("nan"))
    with pytest.warns(ConvergenceWarning, match="not_finite"):
        result = CASE.learn([1.0], upper=upper, quiet=False)
    assert result.status == "not_finite"
    for h in (
        lambda x, theta, idx: CASE.h(x, theta, idx) + float("nan"),
        lambda x, theta, idx: CASE.h(x, theta, idx) * float("inf"),
    ):
        with pytest.raises(InvalidInputError, match="theta0 must be a point"):
            CASE.learn([1.0], lower=LowerProblem(h, mu=1.0), check=False)
    with pytest.raises(InvalidInputError, match="theta0 must be a point"):
        CASE.learn([1.0], upper=UpperLoss(lambda x: x.sum(1) / 0.0))


def test_callbacks_see_every_point_and_may_stop():
    seen = []

    def look(n_iter, step):
        seen.append((n_iter, step.value.theta.tolist(), step.value.value, step.value.value_bar))
        return n_iter == 2

    result = CASE.learn([-4.0], callback=look, quiet=False)
    assert result.status == "stopped"
    assert [n for n, *_ in seen] == [0, 1, 2]
    assert_array_equal([theta for _, theta, *_ in seen], result.thetas)
    assert_array_equal([value for *_, value, _ in seen], result.history["value"])


def test_failures_are_raised_or_kept_still():
    with pytest.raises(ConvergenceError, match="max_iter"):
        CASE.learn([-4.0], max_iter=1, on_failure="raise", quiet=False)
    assert CASE.learn([-4.0], max_iter=1, on_failure="ignore", quiet=False).status == "max_iter"


# ---------------------------------------------------------------- when it can be trusted


def test_wrong_constants_are_refused_at_the_start():
    case, _ = least_squares(condition=100.0)
    for name, wrong in (("mu", 2.0), ("mu", 10.0), ("mu", 1.001), ("L", 10.0)):
        with pytest.raises(CertificateError, match=f"{name} must be") as caught:
            case.learn([0.0, 0.0], lower=case.made(**{name: wrong}))
        assert caught.value.constant == name
        assert caught.value.given == wrong


@pytest.mark.parametrize("solver", ["auto", "nag"])
def test_unchecked_wrong_constants_cost_the_certificate(solver):
    case, _ = least_squares(condition=100.0)
    for mu in (2.0, 10.0):
        with pytest.warns(ConvergenceWarning, match="contradicted"):
            result = case.learn(
                [3.0, -3.0], lower=case.made(mu=mu), check=False, tol=1e-5, lower_solver=solver, quiet=False
            )
        assert not result.certified
        assert result.report["contradicted"]["mu"] < 1
        assert np.isnan(result.value_bar_proven)
        f, z, _ = case.truth(result.theta)
        assert abs(result.value - f) <= result.value_bar + 1e-12 * f
        assert np.linalg.norm(result.grad - z) <= result.grad_bar + 1e-12 * f
        assert_allclose(result.theta, case.best, atol=1e-3)


@pytest.mark.parametrize("solver", ["auto", "nag", "lbfgs"])
def test_idle_constants_cost_work_and_nothing_else(solver):
    case, _ = least_squares(condition=30.0)
    for changed in ({"mu": 1e-3}, {"L": 1e3}, {"L": None}):
        result = case.learn([3.0, -3.0], lower=case.made(**changed), lower_solver=solver, tol=1e-4)
        assert result.status in ("converged", "accuracy_floor")
        assert result.certified
        f, z, _ = case.truth(result.theta)
        assert abs(result.value - f) <= result.value_bar
        assert np.linalg.norm(result.grad - z) <= result.grad_bar
        assert_allclose(result.theta, case.best, atol=1e-3)


@pytest.mark.parametrize("unknown", ["mu", "LH", "LJ", "Lg"])
def test_unknown_constants_prove_nothing(unknown):
    case = regression("logistic", seed=4, r=lambda t: 0.1 * (t**2).sum())
    upper = UpperLoss(case.upper.g, Lt=0.0, r=case.upper._r) if unknown == "Lg" else None
    lower = None if unknown == "Lg" else case.made(**{unknown: None})
    result = case.learn([1.0, 1.0], lower=lower, upper=upper, tol=1e-4)
    assert result.status == "converged"
    assert not result.certified
    assert ("mu" in result.report["estimated"]) == (unknown == "mu")
    f, z, _ = case.truth(result.theta)
    assert abs(result.value - f) <= result.value_bar
    assert np.linalg.norm(result.grad - z) <= result.grad_bar
    assert np.isnan(result.grad_bar_proven)
    assert np.isnan(result.value_bar_proven) == (unknown in ("mu", "Lg"))


def test_verification_counts_what_lies_outside_of_its_bar():
    honest = CASE.learn([-4.0], verify=True)
    assert honest.report["verification"] == {
        "points": honest.n_iter + 1,
        "violations": 0,
        "worst_ratio": honest.report["verification"]["worst_ratio"],
    }
    assert honest.report["verification"]["worst_ratio"] <= 1
    units = CASE.learn([-4.0]).n_units
    assert honest.n_units == units
    case, _ = least_squares(condition=300.0)
    # Far too large a mu, first seen when the first value is out.
    liar = case.learn([3.0, 3.0], lower=case.made(mu=250.0), check=False, verify=True, tol=1e-3)
    assert liar.report["verification"]["violations"] >= 1
    assert liar.report["verification"]["worst_ratio"] > 1


# ---------------------------------------------------------------- bad input


Z = np.zeros((3, 3))
BAD = [
    ({"theta0": [[0.0]]}, InvalidInputError, "theta0 must be of shape"),
    ({"theta0": []}, InvalidInputError, "theta0 must be of shape"),
    ({"theta0": 0.0}, InvalidInputError, "theta0 must be of shape"),
    ({"theta0": [np.nan]}, InvalidInputError, "theta0 must be finite"),
    ({"theta0": [np.inf]}, InvalidInputError, "theta0 must be finite"),
    ({"theta0": [1j]}, InvalidInputError, "theta0 must be real"),
    ({"theta0": "a"}, InvalidInputError, "theta0 must hold numbers"),
    ({"x0": np.zeros((3, 4))}, InvalidInputError, "samples of shape"),
    ({"x0": np.zeros((2, 3))}, InvalidInputError, "3 samples, but x has 2"),
    ({"x0": np.zeros(3)}, InvalidInputError, "x0 must be of shape"),
    ({"x0": np.zeros((0, 3))}, InvalidInputError, "x0 must be of shape"),
    ({"x0": Z * np.nan}, InvalidInputError, "x0 must be finite"),
    ({"x0": Z + 1j}, InvalidInputError, "x0 must be real"),
    ({"lower": LowerProblem(CASE.h, mu=1.0, n_samples=4)}, InvalidInputError, "Give both levels the same samples"),
    ({"lower": LowerProblem(CASE.h, mu=1.0, shape=(4,))}, InvalidInputError, "samples of shape"),
    ({"lower": CASE.h}, InvalidTypeError, "lower must be a lower level"),
    ({"upper": Z}, InvalidTypeError, "upper must be an upper level"),
    ({"lower": LowerProblem(CASE.h, mu=lambda t: float("nan"))}, InvalidInputError, "mu must be finite"),
    ({"lower": LowerProblem(CASE.h, mu=torch.ones(2))}, InvalidInputError, "mu must be a number or of shape"),
    ({"lower": LowerProblem(lambda x, t, i: CASE.h(x, t, i).mean(), mu=1.0)}, InvalidInputError, "one energy a sample"),
    ({"bounds": (1.0, 2.0)}, InvalidInputError, "theta0 must lie within bounds"),
    ({"bounds": (1.0, -1.0)}, InvalidInputError, "low below high"),
    ({"bounds": (0.0, 0.0)}, InvalidInputError, "low below high"),
    ({"bounds": (np.nan, 1.0)}, InvalidInputError, "bounds must be numbers"),
    ({"bounds": ([-1.0, -1.0], [1.0, 1.0])}, InvalidInputError, "bounds must be a pair"),
    ({"bounds": 3.0}, InvalidInputError, "bounds must be a pair"),
    ({"bounds": (-1, 0, 1)}, InvalidInputError, "bounds must be a pair"),
    ({"tol": 0.0}, InvalidInputError, "tol must be"),
    ({"tol": float("nan")}, InvalidInputError, "tol must be"),
    ({"max_iter": -1}, InvalidInputError, "max_iter must be"),
    ({"max_iter": 1.5}, InvalidInputError, "max_iter must be"),
    ({"max_units": -1}, InvalidInputError, "max_units must be"),
    ({"max_seconds": -1.0}, InvalidInputError, "max_seconds must be"),
    ({"batch_size": 0}, InvalidInputError, "batch_size must be"),
    ({"n_jobs": 0}, InvalidInputError, "n_jobs must be"),
    ({"method": "adam"}, InvalidInputError, "method must be one of"),
    ({"method": 3}, InvalidTypeError, "method must be one of"),
    ({"lower_solver": "magic"}, InvalidInputError, "lower_solver must be one of"),
    ({"dtype": "float16"}, InvalidInputError, "dtype must be one of"),
    ({"device": "tpu"}, InvalidInputError, "device must be one of"),
    ({"on_failure": "cry"}, InvalidInputError, "on_failure must be one of"),
    ({"resume": True}, InvalidInputError, "resume needs a checkpoint"),
    ({"checkpoint": "no/such/folder/a.npz"}, InvalidInputError, "folder that exists"),
    ({"upper": SquaredError(Z, r=lambda t: t.expand(2))}, InvalidInputError, "r must return one number"),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD)
def test_bad_input_is_named(options, error, match):
    options = {"lower": CASE.lower, "upper": CASE.upper, "theta0": [0.0], "x0": Z, **options}
    if "n_samples" in match or "lower" in options and getattr(options["lower"], "n_samples", None):
        options["x0"] = None
    with pytest.raises(error, match=match):
        learn_hyperparameters(options.pop("lower"), options.pop("upper"), options.pop("theta0"), **options)
