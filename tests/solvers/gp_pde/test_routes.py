"""Which way a problem takes through the front door, and that the way arrives."""

import math

import numpy as np
import pytest

from sciml.exceptions import ConditioningWarning, InvalidInputError
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Region, solve_pde

LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}


def error(sol, u, box, n=800):
    box = np.array(box)
    X = box[:, 0] + (box[:, 1] - box[:, 0]) * np.random.default_rng(5).random((n, len(box)))
    return float(np.linalg.norm(sol(X) - u(X)) / np.linalg.norm(u(X)))


def test_variable_coefficients_of_high_frequency_are_solved_beside_their_constant_neighbour():
    def u(X):
        return np.sin(60 * X[:, 0]) * np.cos(40 * X[:, 1])

    def c(X):
        return 2 + np.sin(3 * X[:, 0] + X[:, 1])

    operator = {(2, 0): c, (0, 2): 1.0, (0, 0): lambda X: X[:, 0]}
    pde = PDE(Box([(0, 3)] * 2), operator, lambda X: (X[:, 0] - 3600 * c(X) - 1600) * u(X), [Dirichlet(u)])
    sol = solve_pde(pde)
    assert sol.status == "converged"
    assert sol.report["solver"] == "fast-diagonal"
    assert error(sol, u, [(0, 3)] * 2) < 1e-9


def test_a_neighbour_that_is_too_far_is_given_up():
    # Coefficients of either sign: the mean operator is no neighbour of this one.
    def u(X):
        return np.sin(X[:, 0]) * X[:, 1]

    operator = {(2, 0): lambda X: np.cos(40 * X[:, 0]), (0, 2): lambda X: np.cos(40 * X[:, 0])}
    pde = PDE(Box([(0, 3)] * 2), operator, lambda X: -np.cos(40 * X[:, 0]) * u(X), [Dirichlet(u)])
    sol = solve_pde(pde, max_features=400, max_iter=1, on_failure="ignore")
    true = error(sol, u, [(0, 3)] * 2)
    assert true < 1e-6 or sol.status != "converged"
    assert true <= 10 * sol.error_estimate


def test_many_samples_take_the_frame():
    def u(X):
        return np.sin(30 * X[:, 0])

    X = np.random.default_rng(0).uniform(0, 3, (20_000, 1))
    sol = solve_pde(PDE(Box([(0, 3)]), {2: 1.0}, (X, -900 * u(X)), [Dirichlet(u)]))
    assert sol.report["solver"].startswith("frame")
    assert sol.status == "converged"
    assert error(sol, u, [(0, 3)]) < 1e-8


def test_waves_of_the_operator_are_tried_first_in_a_region():
    t = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    disc = Region([(-1, 1)] * 2, lambda X: np.hypot(X[:, 0], X[:, 1]) < 1, np.c_[np.cos(t), np.sin(t)])

    def u(X):
        return np.cos(50 * (0.6 * X[:, 0] + 0.8 * X[:, 1]))

    sol = solve_pde(PDE(disc, {**LAPLACE, (0, 0): 2500.0}, 0.0, [Dirichlet(u)]))
    X = np.random.default_rng(1).uniform(-0.7, 0.7, (300, 2))
    assert "waves" in sol.report["why"]
    assert sol.status == "converged"
    assert np.max(np.abs(sol(X) - u(X))) < 1e-9


def test_room_for_one_basis_gives_the_one_below_it():
    def u(X):
        return np.sin(100 * X[:, 0])

    pde = PDE(Box([(0, 6)]), {2: 1.0}, lambda X: -1e4 * u(X), [Dirichlet(u)])
    roomy = solve_pde(pde)
    tight = solve_pde(pde, max_features=roomy.report["n_features"] + 1)
    assert tight.report["n_features"] < roomy.report["n_features"]
    assert tight.status == "converged"
    assert error(tight, u, [(0, 6)]) < 1e-9


def test_nothing_is_known_of_what_is_not_resolved():
    def u(X):
        return np.sin(100 * X[:, 0])

    pde = PDE(Box([(0, 6)]), {2: 1.0}, lambda X: -1e4 * u(X), [Dirichlet(u)])
    sol = solve_pde(pde, max_features=14, on_failure="ignore")
    assert sol.status == "not_converged"
    assert math.isinf(sol.error_estimate)


def test_observations_of_a_determined_problem_are_left_out_and_it_is_said():
    def u(X):
        return np.sin(7 * X[:, 0])

    X = np.linspace(0.1, 2.9, 20)[:, None]
    pde = PDE(Box([(0, 3)]), {2: 1.0}, lambda X: -49 * u(X), [Dirichlet(u)], observations=(X, u(X) + 0.01, 0.01))
    sol = solve_pde(pde)
    assert error(sol, u, [(0, 3)]) < 1e-9
    assert sol.report["solver"] == "collocation"
    assert any("observations were not used" in note for note in sol.report["notes"])


def test_no_noise_is_exact_data():
    def u(X):
        return np.sin(7 * X[:, 0])

    pde = PDE(Box([(0, 3)]), {2: 1.0}, lambda X: -49 * u(X), [Dirichlet(u)])
    assert solve_pde(pde, noise=0.0).report["solver"] == solve_pde(pde).report["solver"] == "collocation"


def test_contradicting_conditions_count_as_error():
    walls = Dirichlet(0.0, where=[(0, "lower"), (0, "upper")])
    pde = PDE(Box([(0, 1), (0, 0.1)]), {(0, 1): 1.0, (2, 0): -1.0}, 0.0, [Initial(1.0), walls])
    with pytest.warns(ConditioningWarning, match="they jump by 1.0e"):
        sol = solve_pde(pde, on_failure="ignore", max_iter=1, slabs=1)
    assert sol.status != "converged"
    assert sol.error_estimate > 1e-3


@pytest.mark.parametrize("amplitude", [0.1, 0.3])
def test_a_start_is_found_where_the_equation_at_zero_is_singular(amplitude):
    def u(X):
        return amplitude * np.sin(np.pi * X[:, 0])

    pde = PDE(Box([(0, 1)]), {2: 1.0, 0: np.pi**2}, lambda X: u(X) ** 3, [Dirichlet(0.0)], nonlinear=lambda X, u: u**3)
    sol = solve_pde(pde)
    assert sol.status == "converged"
    assert error(sol, u, [(0, 1)]) < 1e-9
    assert any("free at zero" in note for note in sol.report["notes"])


def test_a_nonlinear_term_for_numbers_is_refused_with_its_reason():
    pde = PDE(Box([(0, 1)]), {2: 1.0}, 0.0, [Dirichlet(1.0)], nonlinear=lambda X, u: math.exp(u))
    with pytest.raises(InvalidInputError, match="nonlinear must take arrays of points; with tensors it failed"):
        solve_pde(pde)
