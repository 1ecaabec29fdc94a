"""Claims about scattered least squares: rows are those of the equation, and any domain and operator is solved."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.bench_gp_pde import statement
from benchmarks.problems import problem
from sciml.solvers.gp_pde import Box, Dirichlet, Neumann, Region, Robin, solve_pde
from sciml.solvers.gp_pde.collocation import System, assemble, operator_rows, symbol_size
from sciml.solvers.gp_pde.features import JointBasis
from sciml.solvers.gp_pde.points import ConditionRows

from .manufactured import Solution, growth, power, product, spots, tone

BASIS = JointBasis((0.0, 0.0), (1.0, 2.0), np.array([[20.0, 5.0]]), (6, 6), (2,))
LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}


# ---------------------------------------------------------------- rows


def test_the_symbol_is_the_sum_of_sizes():
    assert symbol_size({(2, 0): -3.0, (0, 1): 2.0, (0, 0): -1.0}, [10.0, 7.0]) == 300 + 14 + 1
    assert symbol_size({(2,): np.array([1.0, -4.0])}, [5.0]) == 100  # the largest of a variable coefficient
    assert symbol_size({(1,): 1.0}, [0.0]) == 1.0  # never zero: it divides


def test_rows_apply_the_operator_to_every_feature(rng):
    X = rng.random((7, 2))
    c = rng.standard_normal(7)
    rows = operator_rows(BASIS, X, {(2, 0): 2.0, (1, 1): c, (0, 0): 1.0})
    parts = [BASIS.evaluate(torch.as_tensor(X), alpha).numpy() for alpha in [(2, 0), (1, 1), (0, 0)]]
    wanted = 2 * parts[0] + c[:, None] * parts[1] + parts[2]
    assert_allclose(rows, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())
    assert_array_equal(operator_rows(BASIS, X, {(0, 0): 1.0}), parts[2])  # and changes nothing that is kept


def test_every_row_is_divided_by_its_norm_and_so_is_its_right_side(rng):
    X, B = rng.random((30, 2)), rng.random((5, 2))
    rows = [
        ConditionRows(B, {(0, 0): 3.0}, np.arange(5.0)),
        ConditionRows(B, {(0, 0): 1.0}, np.zeros(5), B[::-1].copy()),
    ]
    system = assemble(BASIS, X, LAPLACE, np.ones(30), rows)
    assert system.A.shape == (40, BASIS.n_features)
    assert system.n_interior == 30
    raw = (system.A * system.size[:, None]).numpy()
    value = BASIS.evaluate(torch.as_tensor(B), (0, 0)).numpy()
    assert_allclose(raw[30:35], 3 * value, rtol=0, atol=1e-12)
    assert_allclose(raw[35:], value - value[::-1], rtol=0, atol=1e-12)
    norms = np.linalg.norm(system.A.numpy(), axis=1)
    assert_allclose(norms[:35], 1.0, rtol=1e-12)
    # a difference that is rounding must not become a row of norm one: the norm before subtracting counts
    assert_allclose(system.size[35:].numpy(), np.linalg.norm(value, axis=1), rtol=1e-12)
    assert norms[37] == 0  # the middle point minus itself
    assert_allclose(
        (system.y * system.size).numpy(), np.r_[np.ones(30), np.arange(5.0), np.zeros(5)], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("k", [-40, 0, 40])
def test_a_consistent_system_gives_back_its_coefficients_in_any_unit(k, rng):
    A = torch.as_tensor(rng.standard_normal((80, 12)))
    theta = torch.as_tensor(rng.standard_normal(12)) * 2.0**k
    size = torch.linalg.norm(A, dim=1)
    posterior, unit = System(A / size[:, None], (A @ theta) / size, size, 80).solve()
    assert_allclose((posterior.mean * unit).numpy(), theta.numpy(), rtol=1e-12)


def test_a_zero_right_side_gives_zero(rng):
    A = torch.as_tensor(rng.standard_normal((20, 5)))
    posterior, unit = System(A, torch.zeros(20, dtype=torch.float64), torch.ones(20), 20).solve()
    assert unit == 1
    assert_array_equal(posterior.mean.numpy(), np.zeros(5))


# ---------------------------------------------------------------- variable coefficients and mixed derivatives

line = Solution((1.0, tone(60.0, 0.2)), (0.3, growth(-1.0)))
modulated = Solution((1.0, product(tone(45.0), growth(0.5))), (0.2, power(3)))
plane = Solution((1.0, tone(6.0, 0.3), tone(4.0)), (0.4, growth(0.7), power(2)))


def x_of(function):
    return lambda X: function(X[:, 0])


CASES = {
    "1D": (
        line,
        Box([(-1, 2)]),
        {2: x_of(lambda x: 1 + x**2), 1: x_of(np.sin), 0: 1.0},
        [Dirichlet(line)],
    ),
    "1D, Robin and Neumann": (
        modulated,
        Box([(0, 2)]),
        {2: x_of(lambda x: 2 + np.cos(3 * x)), 0: x_of(lambda x: -(1 + x))},
        [
            Robin(1.0, -2.0, lambda X: modulated(X) + 2 * modulated.slope(0)(X), where=(0, "lower")),
            Neumann(modulated.slope(0), where=(0, "upper")),
        ],
    ),
    "1D, fourth order": (
        line,
        Box([(0, 1)]),
        {4: 1.0, 2: -3.0, 0: 100.0},
        [Dirichlet(line), Neumann(line.slope(0, -1), where=(0, 0)), Neumann(line.slope(0), where=(0, 1))],
    ),
    "1D, first order": (line, Box([(0, 1)]), {1: x_of(lambda x: 1 + x), 0: -2.0}, [Dirichlet(line, where=(0, 0))]),
    "2D, mixed": (
        plane,
        Box([(0, 1), (0.2, 1.2)]),
        {(2, 0): 1.0, (1, 1): 0.5, (0, 2): lambda X: 1 + X[:, 0] * X[:, 1], (1, 0): lambda X: np.sin(X[:, 1])},
        [Dirichlet(plane)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_manufactured_problem_is_solved(name):
    u, domain, operator, conditions = CASES[name]
    sol = solve_pde(u.problem(domain, operator, conditions))
    assert sol.report["solver"] == "collocation"
    assert sol.status == "converged"
    error = u.error(sol, spots(domain))
    assert error < 1e-9
    assert error < 10 * sol.error_estimate


# ---------------------------------------------------------------- any domain

BARS = [("star", {}), ("star", {"stretch": 1.0237, "frequency_scale": 0.83}), ("star", {"n_boundary": 301})]


@pytest.mark.parametrize(("name", "options"), BARS)
def test_a_star_is_solved(name, options):
    p = problem(name, **options)
    sol = solve_pde(statement(p))
    assert sol.status == "converged"
    X = p.random_points(3000, np.random.default_rng(1))
    error = p.error(sol(X), X)
    assert error < 1e-11
    assert error < 10 * sol.error_estimate


def annulus(n=500):
    """A ring of radii 0.4 and 1, its boundary by a sampler, its normals by a callable."""

    def boundary(m, rng):
        r = np.where(rng.random(max(m, n)) < 0.3, 0.4, 1.0)
        t = 2 * np.pi * rng.random(len(r))
        return r[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)

    def radius(X):
        return np.hypot(X[:, 0], X[:, 1])

    def normals(X):
        return X * np.where(radius(X) > 0.7, 1.0, -1.0)[:, None]

    return Region([(-1, 1)] * 2, lambda X: (radius(X) > 0.4) & (radius(X) < 1), boundary, normals)


ring = Solution((1.0, tone(23.0, 0.4), tone(17.0)), (0.3, growth(0.5), power(2)))


@pytest.mark.parametrize("outer", ["dirichlet", "neumann", "robin"])
def test_an_annulus_is_solved_with_any_condition_outside(outer):
    def slope(X):
        r = np.hypot(X[:, 0], X[:, 1])
        return (X[:, 0] * ring.slope(0)(X) + X[:, 1] * ring.slope(1)(X)) / r

    def outside(X):
        return np.hypot(X[:, 0], X[:, 1]) > 0.7

    condition = {
        "dirichlet": Dirichlet(ring, where=outside),
        "neumann": Neumann(slope, where=outside),
        "robin": Robin(2.0, 0.1, lambda X: 2 * ring(X) + 0.1 * slope(X), where=outside),
    }[outer]
    domain = annulus()
    sol = solve_pde(ring.problem(domain, LAPLACE, [Dirichlet(ring, where=lambda X: ~outside(X)), condition]))
    assert sol.status == "converged"
    error = ring.error(sol, spots(domain, 3000))
    assert error < 1e-11
    assert error < 10 * sol.error_estimate
