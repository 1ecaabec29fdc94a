"""Noisy sources, boundary values and observations: bands that hold the truth, and a status that is true."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, solve_pde
from sciml.solvers.gp_pde.basis_choice import noisy_carriers
from sciml.solvers.gp_pde.noisy import noise_levels

LINE = Box([(0, 2 * np.pi)])
T = np.linspace(0, 2 * np.pi, 300)[:, None]


def u_fast(X):
    return X[:, 0] * np.sin(200 * X[:, 0])


def fast(seed, n=80, relative=0.01, **options):
    """u'' = f for u = x sin 200x, f at random points with noise."""
    rng = np.random.default_rng(seed)
    X = 2 * np.pi * rng.random((n, 1))
    x = X[:, 0]
    f = 400 * np.cos(200 * x) - 4e4 * x * np.sin(200 * x)
    noise = relative * np.sqrt(np.mean(f**2))
    pde = PDE(LINE, {2: 1.0}, (X, f + noise * rng.standard_normal(n)), [Dirichlet(u_fast)])
    return solve_pde(pde, **{"noise": "learn", **options}), noise


def covered(sol, u, X=T):
    return float(np.mean(np.abs(sol(X) - u(X)) <= 1.96 * sol.std(X) + 1e-12))


def test_bands_hold_a_fast_solution_from_few_noisy_samples():
    """Over a hundred draws 0.98 of the bands hold the truth, with a relative error of 2.6e-3."""
    sols = [fast(seed) for seed in range(5)]
    errors = [np.linalg.norm(s(T) - u_fast(T)) / np.linalg.norm(u_fast(T)) for s, _ in sols]
    assert all(s.status == "converged" for s, _ in sols)
    assert np.mean([covered(s, u_fast) for s, _ in sols]) > 0.85
    assert np.sqrt(np.mean(np.square(errors))) < 5e-3
    assert max(e / s.error_estimate for e, (s, _) in zip(errors, sols, strict=True)) < 3
    for s, noise in sols:  # eighty samples tell a level to a tenth
        assert abs(s.report["noise"]["source"] / noise - 1) < 0.35
        assert abs(s.report["carriers"][0]["omega"][0] - 200) < 0.1


def test_bands_shrink_with_the_noise():
    wide, narrow = fast(0)[0], fast(0, relative=0.001)[0]
    assert 3 < wide.error_estimate / narrow.error_estimate < 50  # ten, but for whether block 0 is kept


def test_noise_that_is_given_is_taken():
    _, noise = fast(1)
    sol = fast(1, noise=noise)[0]
    assert sol.report["noise"]["source"] == noise
    assert sol.status == "converged"
    assert covered(sol, u_fast) > 0.8


def test_noise_that_is_given_too_small_is_noticed():
    sol = fast(1, noise=fast(1)[1] / 20, on_failure="ignore")[0]
    assert sol.status == "not_converged"


def u_harmonic(X):
    return np.exp(X[:, 0]) * np.sin(X[:, 1])


def harmonic(noise, seed=0):
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, 30)
    edge = np.concatenate([np.c_[t, 0 * t], np.c_[t, 0 * t + 1], np.c_[0 * t, t], np.c_[0 * t + 1, t]])
    values = u_harmonic(edge) + 0.02 * rng.standard_normal(len(edge))
    square = Box([(0, 1), (0, 1)])
    return solve_pde(PDE(square, {(2, 0): 1.0, (0, 2): 1.0}, 0.0, [Dirichlet((edge, values))]), noise=noise)


@pytest.mark.parametrize("noise", ["learn", {"boundary": 0.02}])
def test_noisy_boundary_values_of_a_harmonic_function(noise):
    X = np.random.default_rng(1).random((200, 2))
    sol = harmonic(noise)
    assert sol.status == "converged"
    assert sol.report["noise"]["boundary"] == pytest.approx(0.02, rel=0.2)
    assert covered(sol, u_harmonic, X) > 0.7  # few degrees of freedom: one draw may be off as a whole
    assert np.linalg.norm(sol(X) - u_harmonic(X)) < 0.02 * np.linalg.norm(u_harmonic(X))
    assert "source" not in sol.report["noise"]  # a number is exact


def test_observations_of_an_exact_equation_without_conditions():
    """u'' = f leaves a line free; twenty-five values of noise 0.05 fix it."""
    rng = np.random.default_rng(2)
    X = 2 * np.pi * rng.random((25, 1))

    def u(X):
        return np.sin(30 * X[:, 0]) + X[:, 0] / 5

    y = u(X) + 0.05 * rng.standard_normal(25)
    sol = solve_pde(PDE(LINE, {2: 1.0}, lambda X: -900 * np.sin(30 * X[:, 0]), observations=(X, y)))
    line = np.polynomial.Polynomial.fit(X[:, 0], y - np.sin(30 * X[:, 0]), 1)
    assert sol.status == "converged"
    assert_allclose(sol(T), np.sin(30 * T[:, 0]) + line(T[:, 0]), rtol=0, atol=2e-3)  # least squares, but for the prior
    assert covered(sol, u) > 0.9
    assert sol.report["noise"]["observations"] == pytest.approx(0.05, rel=0.4)


def test_noisy_source_and_noisy_observations():
    rng = np.random.default_rng(3)
    X, X_f = 2 * np.pi * rng.random((25, 1)), 2 * np.pi * rng.random((100, 1))

    def u(X):
        return np.sin(30 * X[:, 0]) + X[:, 0] / 5

    f = -900 * np.sin(30 * X_f[:, 0]) + 9 * rng.standard_normal(100)
    y = u(X) + 0.05 * rng.standard_normal(25)
    sol = solve_pde(PDE(LINE, {2: 1.0}, (X_f, f), observations=(X, y, 0.05)), noise="learn")
    assert sol.status == "converged"
    assert covered(sol, u) > 0.8
    assert np.linalg.norm(sol(T) - u(T)) < 0.1 * np.linalg.norm(u(T))


def test_a_lattice_of_samples_is_an_alias_warning_without_a_word():
    x = np.linspace(0, 2 * np.pi, 81)[:, None]
    f = -900 * np.sin(30 * x[:, 0]) + 9 * np.random.default_rng(0).standard_normal(81)
    pde = PDE(LINE, {2: 1.0}, (x, f), [Dirichlet(0.0)])
    assert solve_pde(pde, noise="learn", on_failure="ignore").status == "alias_warning"
    assert solve_pde(pde, noise="learn", max_frequency=39.0, on_failure="ignore").status != "alias_warning"


def test_samples_of_nothing_but_noise():
    rng = np.random.default_rng(0)
    pde = PDE(LINE, {2: 1.0}, (2 * np.pi * rng.random((100, 1)), rng.standard_normal(100)), [Dirichlet(0.0)])
    sol = solve_pde(pde, noise="learn", on_failure="ignore")
    assert sol.status == "not_converged"
    assert "explain little" in sol.report["reason"]


def test_zeros_give_zero():
    X = 2 * np.pi * np.random.default_rng(0).random((50, 1))
    sol = solve_pde(PDE(LINE, {2: 1.0}, (X, np.zeros(50)), [Dirichlet(0.0)]), noise="learn")
    assert np.max(np.abs(sol(T))) < 1e-8
    assert sol.error_estimate == 0


def test_carriers_are_paid_for():
    """Two tones in noise, and no third."""
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.random((120, 1)))
    y = torch.sin(80 * x[:, 0]) + 0.5 * torch.cos(190 * x[:, 0]) + 0.1 * torch.as_tensor(rng.standard_normal(120))
    basis, fit = noisy_carriers(x, y, (0.0,), (1.0,), [500.0])
    assert_allclose(np.sort(basis.omega[:, 0]), [80, 190], atol=0.5)
    assert fit.noise["source"] == pytest.approx(0.1, rel=0.25)


def test_noise_levels_are_split_by_kind():
    assert noise_levels(None) == {"source": None, "boundary": None}
    assert noise_levels("learn") == {"source": "learn", "boundary": "maybe"}
    assert noise_levels({"boundary": 0.5}) == {"source": None, "boundary": 0.5}


@pytest.mark.parametrize(
    ("noise", "text"),
    [("lean", "noise must be 'learn'.*got 'lean'"), (-1.0, "at least 0; got -1"), ({"edge": 1.0}, "got 'edge'")],
)
def test_errors_name_the_noise(noise, text):
    with pytest.raises(InvalidInputError, match=text):
        fast(0, noise=noise)


def test_two_ends_cannot_tell_their_noise():
    with pytest.raises(InvalidInputError, match="cannot be learned from 1 values"):
        fast(0, noise={"source": "learn", "boundary": "learn"})


def test_nonlinear_problems_are_refused():
    pde = PDE(LINE, {2: 1.0}, 0.0, [Dirichlet(0.0)], nonlinear=lambda X, u: u**3)
    with pytest.raises(InvalidInputError, match="linear equation"):
        solve_pde(pde, noise="learn")
