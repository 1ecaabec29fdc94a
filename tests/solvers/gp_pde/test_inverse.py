"""Unknown numbers and functions from noisy observations: values, standard deviations, and a status that is true."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.results import load
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, UnknownFunction, solve_pde
from sciml.solvers.gp_pde.features import JointBasis
from sciml.solvers.gp_pde.parameter_model import FieldValues, LearnedFunction, ParameterModel, ParameterVector
from sciml.solvers.gp_pde.parameter_search import Search, scan_grid
from sciml.solvers.gp_pde.points import interior_points

LINE = Box([(0, 3)])


def wave(n=30, noise=0.01, seed=5):
    """Points and noisy values of sin 4x, which solves u'' + 16 u = 0."""
    rng = np.random.default_rng(seed)
    x = 3 * rng.random((n, 1))
    return x, np.sin(4 * x[:, 0]) + noise * rng.standard_normal(n)


def u_kappa(X):
    return np.sin(30 * X[:, 0]) + 0.3 * np.cos(3 * X[:, 0]) + 0.2 * np.exp(-X[:, 0])


def f_kappa(X, k=950.0):
    x = X[:, 0]
    return (k - 900) * np.sin(30 * x) + 0.3 * (k - 9) * np.cos(3 * x) + 0.2 * (k + 1) * np.exp(-x)


def search_of(pde, n_base=32):
    """The density of a problem on a line, with a broad prior."""
    vector = ParameterVector(pde)
    basis = JointBasis((0.0,), (3.0,), np.zeros((0, 1)), (n_base,), ())
    X = interior_points(pde.domain, 2 * n_base, np.random.default_rng(0))
    model = ParameterModel(vector, lambda p: basis, X, 1, torch.device("cpu"), 0)
    return Search(model, lambda b: np.full(b.n_features, 2.0), {})


# ---------------------------------------------------------------- the parts


def test_density_is_that_of_the_observations_given_the_equation():
    x, y = wave(12)
    search = search_of(PDE(LINE, {2: 1.0, 0: "k"}, parameters={"k": (5.0, 30.0)}, observations=(x, y, 0.01)))
    fit = search.evaluate(np.array([15.0]), search.start_hyper())
    covariance = (fit.given.spread @ fit.given.spread.T).numpy() + 1e-4 * np.eye(12)
    wanted = multivariate_normal(fit.given.mean.numpy(), covariance).logpdf(y)
    assert_allclose(fit.objective, wanted, rtol=1e-7)  # the covariance has a condition of 1e6


def test_two_waves_are_left_free_and_more_parameters_change_nothing_of_it():
    x, y = wave(12)
    search = search_of(PDE(LINE, {2: 1.0, 0: "k"}, parameters={"k": (5.0, 30.0)}, observations=(x, y, 0.01)))
    given = search.evaluate(np.array([15.0]), search.start_hyper()).given
    sizes = torch.linalg.svdvals(given.spread)
    assert sizes[1] > 0.1 > 1e6 * sizes[2]
    assert_allclose(given.mean.numpy(), 0.0, atol=1e-9)  # no source, no conditions


def test_noise_is_the_best_factor():
    x, y = wave(25, 0.05)
    search = search_of(PDE(LINE, {2: 1.0, 0: "k"}, parameters={"k": (5.0, 30.0)}, observations=(x, y)))
    density = search.evaluate(np.array([16.0]), search.start_hyper()).density
    around = density.at(density.tau * np.array([0.95, 1.0, 1.05]))
    assert around[1] > max(around[0], around[2])
    assert density.freedom == pytest.approx(23, abs=0.1)
    assert 0.03 < density.tau < 0.08


def test_sensitivity_is_the_derivative_of_u():
    pde = PDE(
        LINE,
        {2: 1.0, 1: lambda X, c: c * np.cos(X[:, 0]), 0: "k"},
        lambda X, a: a * np.exp(X[:, 0]),
        [Dirichlet(lambda X, b: b + X[:, 0])],
        parameters={"c": (0.0, 2.0), "k": (1.0, 9.0), "a": (0.0, 4.0), "b": (-2.0, 2.0)},
        observations=wave(12),
    )
    search = search_of(pde)
    p = np.array([0.7, 2.0, 1.5, 0.5])
    at = search.evaluate(p, search.start_hyper()).given
    D = search.model.sensitivity(at, at.theta)
    for j, step in enumerate(1e-4 * np.eye(4)):
        up, down = (search.evaluate(p + s * step, search.start_hyper()).given.mean for s in (1, -1))
        slope = (up - down) / 2e-4
        assert_allclose((at.Phi @ D[:, j]).numpy(), slope.numpy(), rtol=0, atol=1e-5 * float(slope.abs().max()))


def test_sensitivity_is_not_bound_by_what_u_needed():
    x, y = wave(12)
    search = search_of(PDE(LINE, {2: 1.0, 0: "k"}, parameters={"k": (5.0, 30.0)}, observations=(x, y, 0.01)))
    given = search.evaluate(np.array([16.0]), search.start_hyper()).given
    theta = given.theta + given.root @ torch.ones(given.root.shape[1], dtype=torch.float64)  # free waves
    narrow = dataclasses.replace(given, prior=1e-12 * given.prior)
    D = search.model.sensitivity(narrow, theta)[:, 0]
    u = search.model.rows(np.array([17.0]), {})[1][0].A @ theta - given.A @ theta  # dL / dk u = u
    assert_allclose((given.A @ D).numpy(), -u.numpy(), rtol=0, atol=1e-6 * float(u.abs().max()))


def test_scan_is_finer_where_waves_turn_faster():
    vector = ParameterVector(PDE(LINE, {2: 1.0, 0: "k"}, parameters={"k": (1.0, 1e4)}, observations=wave()))
    grid = scan_grid(vector, np.linspace(0, 3, 10)[:, None], 1000)[:, 0]
    turns = np.diff(3 * np.sqrt(grid))
    assert turns.max() < 1.2  # rad
    assert len(grid) < 500


def test_field_values_know_their_gradient():
    function = LearnedFunction.from_state(
        {"name": "k", "lower": 0.1, "upper": 10.0, "n_terms": 4, "dims": [0], "bounds": [[0.0, 2.0]]}
        | {"coef": np.array([0.3, 0.2, -0.1, 0.05])}
    )
    x = np.linspace(0, 2, 9)[:, None]
    values = function.expansion.values(x, function.coef)
    assert isinstance(values, FieldValues)
    up, down = (function(x[1:-1] + h) for h in (1e-5, -1e-5))
    assert_allclose(values.gradient[1:-1, 0], (up - down) / 2e-5, rtol=1e-7, atol=1e-9)
    assert (values + 1).gradient is None


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(("noise", "known"), [(0.02, True), (0.02, False), (0.001, True)])
def test_helmholtz_coefficient_among_many_maxima(noise, known):
    """Over 100 draws the relative error is 3e-4 at noise 0.02 and 2e-5 at 0.001; the standard deviations say so."""
    rng = np.random.default_rng(7)
    x = 2 * np.pi * rng.random((24, 1))
    y = u_kappa(x) + noise * rng.standard_normal(24)
    pde = PDE(
        Box([(0, 2 * np.pi)]),
        {2: 1.0, 0: "kappa"},
        f_kappa,
        parameters={"kappa": (500, 1500)},
        observations=(x, y, noise if known else None),
    )
    sol = solve_pde(pde)
    kappa, std = sol.parameters["kappa"], sol.parameters_std["kappa"]
    assert sol.status == "converged"
    assert abs(kappa - 950) < 3 * std < 3 * 30 * noise
    assert std > 5 * noise
    assert len(sol.report["modes"]) == 1
    T = np.linspace(0, 2 * np.pi, 200)[:, None]
    assert np.linalg.norm(sol(T) - u_kappa(T)) < 3 * sol.error_estimate * np.linalg.norm(u_kappa(T))


def test_source_known_at_points_only():
    rng = np.random.default_rng(1)
    x, X_f = 2 * np.pi * rng.random((24, 1)), 2 * np.pi * rng.random((120, 1))
    y = u_kappa(x) + 0.02 * rng.standard_normal(24)
    pde = PDE(
        Box([(0, 2 * np.pi)]),
        {2: 1.0, 0: "kappa"},
        (X_f, f_kappa(X_f)),
        parameters={"kappa": (900, 1000)},
        observations=(x, y, 0.02),
    )
    sol = solve_pde(pde)
    assert sol.status == "converged"
    assert abs(sol.parameters["kappa"] - 950) < 3 * sol.parameters_std["kappa"] < 1.8


def test_two_numbers_and_their_covariance():
    """u'' + c u' + k u = f, from values of u alone."""
    rng = np.random.default_rng(2)
    c, k, s = 0.7, 60.0, -1 + 3j

    def d(X, n):
        return 5**n * np.sin(5 * X[:, 0] + n * np.pi / 2) + (s**n * np.exp(s * X[:, 0])).real

    x = 3 * rng.random((40, 1))
    pde = PDE(
        LINE,
        {2: 1.0, 1: "c", 0: "k"},
        lambda X: d(X, 2) + c * d(X, 1) + k * d(X, 0),
        parameters={"c": (0.0, 5.0), "k": (10.0, 200.0)},
        observations=(x, d(x, 0) + 0.01 * rng.standard_normal(40)),
    )
    sol = solve_pde(pde)
    cov = np.array(sol.report["parameters_cov"])
    z = np.array([sol.parameters["c"] - c, sol.parameters["k"] - k])
    assert sol.status == "converged"
    assert z @ np.linalg.solve(cov, z) < 12  # chi-squared of two: 0.25 %
    assert_allclose(np.sqrt(np.diag(cov)), [sol.parameters_std["c"], sol.parameters_std["k"]], rtol=1e-12)
    assert abs(sol.parameters["k"] / k - 1) < 0.01


def test_unknown_source_and_boundary_value():
    rng = np.random.default_rng(4)
    x = 3 * rng.random((40, 1))
    y = 1.5 + 2 * np.sin(x[:, 0]) + 0.01 * rng.standard_normal(40)
    pde = PDE(
        LINE,
        {2: 1.0},
        lambda X, a: -a * np.sin(X[:, 0]),
        [Dirichlet(lambda X, b: b + 2 * np.sin(X[:, 0]))],
        parameters={"a": (-10.0, 10.0), "b": (-5.0, 5.0)},
        observations=(x, y, 0.01),
    )
    sol = solve_pde(pde)
    assert sol.status == "converged"
    for name, truth in (("a", 2.0), ("b", 1.5)):
        assert abs(sol.parameters[name] - truth) < 4 * sol.parameters_std[name] < 0.1


def test_diffusivity_in_space_and_time():
    """u_t = D u_xx with its conditions."""
    rng = np.random.default_rng(3)
    D, X = 0.3, rng.random((40, 2))
    u = np.exp(-D * np.pi**2 * X[:, 1]) * np.sin(np.pi * X[:, 0])
    pde = PDE(
        Box([(0, 1), (0, 1)]),
        {(0, 1): 1.0, (2, 0): "-D"},
        0.0,
        [Dirichlet(0.0, where=[(0, "lower"), (0, "upper")])],
        parameters={"D": (0.1, 1.0)},
        observations=(X, u + 0.01 * rng.standard_normal(40), 0.01),
    )
    sol = solve_pde(pde)
    assert sol.status == "converged"
    assert abs(sol.parameters["D"] - D) < 3.5 * sol.parameters_std["D"] < 0.06


# ---------------------------------------------------------------- functions


def conductivity(n=60, noise=0.01, seed=0):
    """(kappa u')' = f with kappa = 1 + 0.5 sin 3x; u' vanishes inside, which fixes the constant of integration."""
    rng = np.random.default_rng(seed)
    x = 3 * rng.random((n, 1))

    def u(X):
        return np.sin(2 * X[:, 0]) + 0.3 * X[:, 0]

    def f(X):
        t = X[:, 0]
        return -4 * (1 + 0.5 * np.sin(3 * t)) * np.sin(2 * t) + 1.5 * np.cos(3 * t) * (2 * np.cos(2 * t) + 0.3)

    operator = {2: "kappa", 1: lambda X, kappa: kappa.gradient[:, 0]}
    parameters = {"kappa": UnknownFunction(0.1, 10.0)}
    return PDE(
        LINE,
        operator,
        f,
        [Dirichlet(u)],
        parameters=parameters,
        observations=(x, u(x) + noise * rng.standard_normal(n)),
    )


def test_unknown_function_with_bands(tmp_path):
    sol = solve_pde(conductivity())
    x = np.linspace(0, 3, 100)
    truth = 1 + 0.5 * np.sin(3 * x)
    mean, std = sol.parameters["kappa"](x), sol.parameters_std["kappa"](x)
    assert sol.status == "converged"
    assert np.linalg.norm(mean - truth) < 0.1 * np.linalg.norm(truth)
    assert np.mean(np.abs(mean - truth) < 1.96 * std) > 0.7  # 0.95 over sixty draws, 0.71 in the worst
    assert np.sqrt(np.mean(std**2)) < 0.15
    sol.save(tmp_path / "sol.npz")
    again = load(tmp_path / "sol.npz")
    assert_array_equal(again.parameters["kappa"](x), mean)
    assert_array_equal(again.parameters_std["kappa"](x), std)


# ---------------------------------------------------------------- the status is true


def helmholtz(bounds, observations):
    return PDE(LINE, {2: 1.0, 0: "k"}, parameters={"k": bounds}, observations=observations)


def test_estimate_at_a_bound():
    with pytest.warns(ConvergenceWarning, match="k = 20 lies at a bound"):
        sol = solve_pde(helmholtz((20.0, 60.0), (*wave(), 0.01)))
    assert sol.status == "not_converged"


def test_parameters_of_which_only_the_ratio_is_seen():
    pde = PDE(LINE, {2: "a", 0: "k"}, parameters={"a": (0.5, 3.0), "k": (2, 60)}, observations=(*wave(), 0.01))
    sol = solve_pde(pde, on_failure="ignore")
    assert sol.status == "near_singular"
    assert "free" in sol.report["reason"]
    assert sol.parameters_std["k"] > 10


def test_observations_of_nothing():
    x, _ = wave()
    sol = solve_pde(helmholtz((2.0, 60.0), (x, 1e-4 * np.cos(7 * x[:, 0]), 0.01)), on_failure="ignore")
    assert sol.status == "near_singular"


def test_aliases_among_the_observations_are_listed():
    """Seven values on a lattice cannot tell sin 4x from its aliases."""
    x = np.linspace(0, 3, 7)[:, None]
    sol = solve_pde(helmholtz((2.0, 400.0), (x, np.sin(4 * x[:, 0]), 0.001)), on_failure="ignore")
    assert sol.status == "not_converged"
    found = [mode["values"]["k"] for mode in sol.report["modes"]]
    assert len(found) > 1
    assert min(abs(k - 16) for k in found) < 0.1
    assert sum(mode["probability"] for mode in sol.report["modes"]) == pytest.approx(1)


def test_an_equation_that_cannot_explain_the_observations():
    pde = PDE(LINE, {1: 1.0, 0: "k"}, parameters={"k": (-20.0, 20.0)}, observations=(*wave(), 0.01))
    sol = solve_pde(pde, on_failure="ignore")
    assert sol.status == "not_converged"
    assert "miss the solution" in sol.report["reason"]


def test_errors_name_what_is_missing():
    with pytest.raises(InvalidInputError, match=r"observations must be given.*\['k'\]"):
        solve_pde(helmholtz((2.0, 60.0), None))
    x, y = wave()
    with pytest.raises(InvalidInputError, match="outnumber the parameters; got 1"):
        solve_pde(helmholtz((2.0, 60.0), (x[:1], y[:1])))
    pde = PDE(LINE, {2: 1.0, 0: "k"}, nonlinear=lambda X, u: u**3, parameters={"k": (2, 60)}, observations=(x, y))
    with pytest.raises(InvalidInputError, match="linear equation"):
        solve_pde(pde)


def test_units_do_not_matter():
    x, y = wave()
    one = solve_pde(helmholtz((2.0, 60.0), (x, y)))
    scaled = solve_pde(helmholtz((2.0, 60.0), (x, 1024 * y)))
    assert scaled.parameters["k"] == pytest.approx(one.parameters["k"], abs=0.02 * one.parameters_std["k"])
    assert scaled.parameters_std["k"] == pytest.approx(one.parameters_std["k"], rel=1e-2)
