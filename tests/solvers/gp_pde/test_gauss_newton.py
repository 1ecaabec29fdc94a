"""Claims about nonlinear equations: few steps, every solution that a start asks for, and a status that is true."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import brentq

from sciml.exceptions import ConvergenceWarning, FallbackWarning, InvalidInputError, InvalidTypeError
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Neumann, Periodic, Region, solve_pde
from sciml.solvers.gp_pde.features import JointBasis
from sciml.solvers.gp_pde.gauss_newton import Nodes, _descend, gauss_newton
from sciml.solvers.gp_pde.points import condition_rows, interior_points

LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}
FOLD = 3.513830719125160  # of the Bratu problem


def exp(u):
    return u.exp() if isinstance(u, torch.Tensor) else np.exp(u)


def quiet(pde, **options):
    return solve_pde(pde, on_failure="ignore", **options)


def error(sol, u, X):
    return float(np.linalg.norm(sol(X) - u(X)) / np.linalg.norm(u(X)))


def bratu(parameter):
    return PDE(Box([(0, 1)]), {2: 1.0}, 0.0, [Dirichlet(0.0)], nonlinear=lambda X, u: parameter * exp(u))


def bratu_solution(parameter, low, high):
    """Closed form on the branch whose theta lies between low and high."""
    theta = brentq(lambda t: t - np.sqrt(2 * parameter) * np.cosh(t / 4), low, high, xtol=1e-15, rtol=1e-15)
    return lambda X: -2 * np.log(np.cosh((X[:, 0] - 0.5) * theta / 2) / np.cosh(theta / 4))


# ---------------------------------------------------------------- published problems


def p6(X, k):
    return 100.0**k * np.sin(100 * X[:, 0] + k * np.pi / 2)


def p7(X, k):
    return (106.0**k * np.sin(106 * X[:, 0] + k * np.pi / 2) - 94.0**k * np.sin(94 * X[:, 0] + k * np.pi / 2)) / 2


@pytest.mark.parametrize("u", [p6, p7])
def test_a_cubic_equation_of_high_frequency_takes_six_steps(u):
    pde = PDE(
        Box([(0, 2 * np.pi)]),
        {2: 1.0, 0: -1.0},
        lambda X: u(X, 2) + u(X, 0) ** 3 - u(X, 0),
        [Dirichlet(lambda X: u(X, 0))],
        nonlinear=lambda X, v: v**3,
    )
    sol = solve_pde(pde)
    X = np.linspace(0, 2 * np.pi, 3001)[:, None]
    assert sol.status == "converged"
    assert sol.report["iterations"] <= 6
    assert sol.report["n_features"] <= 80
    assert error(sol, lambda X: u(X, 0), X) < 1e-10


def near(X):
    """A slow and a faster wave on the unit square, and minus its Laplacian."""
    x, y = np.pi * X.T
    slow, fast = np.sin(x) * np.sin(y), 2 * np.sin(4 * x) * np.sin(4 * y)
    return slow + fast, 2 * np.pi**2 * slow + 32 * np.pi**2 * fast


def test_scattered_samples_of_an_elliptic_problem():
    rng = np.random.default_rng(2)
    X_f, edge = rng.random((900, 2)), rng.random((124, 2))
    edge[np.arange(124), np.arange(124) % 2] = np.arange(124) // 2 % 2
    u, minus_laplacian = near(X_f)
    pde = PDE(
        Box([(0, 1)] * 2),
        {(2, 0): -1.0, (0, 2): -1.0},
        (X_f, minus_laplacian + u**3),
        [Dirichlet((edge, np.zeros(124)))],
        nonlinear=lambda X, u: u**3,
    )
    sol = solve_pde(pde, tol=1e-7)
    X = rng.random((2000, 2))
    assert sol.status == "converged"
    assert error(sol, lambda X: near(X)[0], X) < 1e-8


def test_samples_that_fill_the_first_basis_are_certified_by_a_poorer_one():
    rng = np.random.default_rng(1)
    X_f = rng.random((45, 1)) * 3
    u = lambda X: np.sin(4 * X[:, 0])  # noqa: E731
    f = -16 * u(X_f) + u(X_f) ** 3
    pde = PDE(Box([(0, 3)]), {2: 1.0}, (X_f, f), [Dirichlet(u)], nonlinear=lambda X, v: v**3)
    sol = quiet(pde)
    assert np.isfinite(sol.error_estimate)
    assert error(sol, u, np.linspace(0, 3, 300)[:, None]) <= 10 * sol.error_estimate


def test_a_star_and_an_exponential():
    t = np.linspace(0, 2 * np.pi, 300, endpoint=False)

    def radius(angle):
        return 0.7 + 0.2 * np.cos(5 * angle)

    star = Region(
        [(-1, 1)] * 2,
        lambda X: np.hypot(X[:, 0], X[:, 1]) < radius(np.arctan2(X[:, 1], X[:, 0])),
        boundary=radius(t)[:, None] * np.c_[np.cos(t), np.sin(t)],
    )

    def u(X):
        return np.sin(3 * X[:, 0]) * np.cos(2 * X[:, 1])

    pde = PDE(star, LAPLACE, lambda X: np.exp(u(X)) - 13 * u(X), [Dirichlet(u)], nonlinear=lambda X, v: exp(v))
    sol = solve_pde(pde, tol=1e-6, max_features=600)
    X = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    assert sol.status == "converged"
    assert sol.report["solver"] == "collocation"
    assert error(sol, u, X[star.contains(X)]) < 1e-8


def test_a_gradient_in_the_nonlinear_term():
    """u'' = u'^2 with u = -log(1 + x)."""

    def u(X):
        return -np.log(1 + X[:, 0])

    pde = PDE(Box([(0, 2)]), {2: 1.0}, 0.0, [Dirichlet(u)], nonlinear=lambda X, v, g: -(g[:, 0] ** 2))
    sol = solve_pde(pde)
    assert sol.status == "converged"
    assert error(sol, u, np.linspace(0, 2, 200)[:, None]) < 1e-12


def test_neumann_and_periodic_ends():
    def u(X):
        return np.cos(2 * X[:, 0]) + 0.2

    def f(X):
        return -4 * np.cos(2 * X[:, 0]) - u(X) - u(X) ** 3

    X = np.linspace(0, 2 * np.pi, 200)[:, None]
    for condition in (Periodic(0), Neumann(0.0)):
        box = Box([(0, 2 * np.pi)])
        sol = solve_pde(PDE(box, {2: 1.0, 0: -1.0}, f, [condition], nonlinear=lambda X, v: -(v**3)))
        assert sol.status == "converged"
        assert error(sol, u, X) < 1e-11


# ---------------------------------------------------------------- several solutions


@pytest.mark.parametrize("parameter", [1.0, 3.5])
def test_both_branches_of_bratu(parameter):
    X = np.linspace(0, 1, 200)[:, None]
    low, high = bratu_solution(parameter, 0, 4.798714561), bratu_solution(parameter, 4.798714561, 30)
    first = solve_pde(bratu(parameter))
    top = 1.2 * high(np.array([[0.5]]))[0]
    second = solve_pde(bratu(parameter), start=lambda X: top * np.sin(np.pi * X[:, 0]))
    assert (first.status, second.status) == ("converged", "converged")
    assert error(first, low, X) < 1e-11
    assert error(second, high, X) < 1e-11
    assert error(first, low, X) <= 10 * first.error_estimate
    assert error(second, high, X) <= 10 * second.error_estimate


def test_towards_the_fold_the_smallest_singular_value_goes_like_a_root():
    gaps = np.array([1e-2, 1e-4])
    found = [solve_pde(bratu(FOLD - gap)).report["smallest_singular_value"] for gap in gaps]
    assert_allclose(found[0] / found[1], 10, rtol=0.05)


def test_at_the_fold_the_certificate_holds():
    X = np.linspace(0, 1, 200)[:, None]
    sol = quiet(bratu(FOLD - 1e-7))
    true = error(sol, bratu_solution(FOLD - 1e-7, 0, 4.7987145), X)
    assert true <= 10 * max(sol.error_estimate, 1e-9)  # the reference itself has lost half its digits
    assert sol.status != "converged" or true < 1e-6


def test_where_there_is_no_solution_none_is_claimed():
    with pytest.warns(ConvergenceWarning, match="Gauss-Newton did not settle"):
        sol = solve_pde(bratu(4.0), max_features=60, max_iter=2)
    assert sol.status == "not_converged"


def test_the_smallest_singular_value_is_the_eigenvalue_next_to_zero():
    """u'' - u + u^3 = 0 about u = 0: the eigenvalues of the linearisation are -(pi k)^2 - 1."""
    pde = PDE(Box([(0, 1)]), {2: 1.0, 0: -1.0}, 0.0, [Dirichlet(0.0)], nonlinear=lambda X, u: u**3)
    sol = solve_pde(pde)
    assert_allclose(sol(np.linspace(0, 1, 9)), 0, atol=1e-14)
    assert_allclose(sol.report["smallest_singular_value"], np.pi**2 + 1, rtol=0.01)  # from random points


# ---------------------------------------------------------------- starts


def test_an_earlier_solution_is_a_warm_start():
    cold = solve_pde(bratu(3.0))
    warm = solve_pde(bratu(3.01), start=cold)
    same = solve_pde(bratu(3.0), start=cold)
    again = solve_pde(bratu(3.01))
    assert same.report["iterations"] < cold.report["iterations"]
    assert warm.report["iterations"] < again.report["iterations"]
    X = np.linspace(0, 1, 50)
    assert_allclose(warm(X), again(X), rtol=1e-11, atol=1e-13)


def test_a_number_is_a_start():
    X = np.linspace(0, 1, 50)
    assert_allclose(solve_pde(bratu(1.0), start=0.1)(X), solve_pde(bratu(1.0))(X), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("start", "kind", "text"),
    [
        (([0.5], [1.0]), InvalidTypeError, "start must be a callable of X, a number or an earlier solution"),
        (lambda X: X[:3, 0], InvalidInputError, r"start .*shape"),
        (lambda X: np.full(len(X), np.nan), InvalidInputError, "start .*finite"),
        ("zero", InvalidTypeError, "start must be"),
    ],
)
def test_a_bad_start_is_named(start, kind, text):
    with pytest.raises(kind, match=text):
        solve_pde(bratu(1.0), start=start)


def test_a_start_of_other_dimensions_is_refused():
    plane = PDE(Box([(0, 1)] * 2), LAPLACE, 1.0, [Dirichlet(0.0)])
    with pytest.raises(InvalidInputError, match="start must be .* in 1 dimensions with 1 unknowns; got 2 and 1"):
        solve_pde(bratu(1.0), start=quiet(plane, max_iter=1, tol=1e-2))


def test_a_start_at_which_the_term_overflows_is_named():
    with pytest.raises(InvalidInputError, match="nonlinear must be finite at the iterate; got inf .* another start"):
        solve_pde(bratu(1.0), start=2000.0)


def test_a_term_of_numpy_alone_is_solved_with_one_warning():
    def N(X, u):
        if isinstance(u, torch.Tensor):
            raise TypeError("arrays only")
        return u**3

    pde = PDE(Box([(0, 1)]), {2: 1.0}, 1.0, [Dirichlet(0.0)], nonlinear=N)
    with pytest.warns(FallbackWarning, match="complex steps are used") as record:
        sol = solve_pde(pde)
    assert sol.status == "converged"
    assert len(record) == 1


def test_a_derivative_that_is_wrong_stops_the_solver():
    pde = PDE(Box([(0, 1)]), {2: 1.0}, 1.0, [Dirichlet(1.0)], nonlinear=(lambda X, u: u**3, lambda X, u: u**2))
    with pytest.raises(InvalidInputError, match="the derivative given with nonlinear is not that of N"):
        solve_pde(pde)


# ---------------------------------------------------------------- the iteration by itself


def nodes_of(pde, n_features=14, n=120):
    rng = np.random.default_rng(0)
    basis = JointBasis(tuple(pde.domain.lower), tuple(pde.domain.upper), np.zeros((0, 1)), (n_features,), ())
    X = interior_points(pde.domain, n, rng)
    return Nodes(pde, basis, [X], [pde._source(X)], condition_rows(pde, 1, rng))


def test_steps_converge_quadratically():
    nodes = nodes_of(bratu(1.0))
    out = gauss_newton(nodes)
    assert out.settled
    assert out.note is None
    X = nodes.points[0]
    assert_allclose(nodes.fields(X, out.theta)[0][:, 0], bratu_solution(1.0, 0, 4.79)(X), atol=1e-9)
    assert out.steps <= 5


def test_a_start_in_the_nodes_takes_one_step_to_settle():
    nodes = nodes_of(bratu(1.0))
    done = gauss_newton(nodes)
    again = gauss_newton(nodes, start=lambda X: nodes.fields(X, done.theta))
    assert again.steps == 1
    assert again.settled
    assert_allclose(again.theta, done.theta, atol=1e-10)


def test_fitted_coefficients_are_those_of_the_function():
    nodes = nodes_of(bratu(1.0))
    theta = nodes.fit(lambda X: np.sin(X))
    assert_allclose(nodes.fields(nodes.points[0], theta)[0], np.sin(nodes.points[0]), atol=1e-11)


def test_a_poor_step_is_halved():
    """From far out, a full step of arctan overshoots."""
    pde = PDE(
        Box([(0, 1)]), {2: 0.1}, 0.0, [Dirichlet(0.0)], nonlinear=lambda X, u: -torch.atan(torch.as_tensor(u)) * 40
    )
    nodes = nodes_of(pde)
    theta = nodes.fit(lambda X: 30 * np.sin(np.pi * X))
    system = nodes.system(lambda X: nodes.fields(X, theta))
    posterior, unit = system.solve()
    accepted, length, candidate, levenberg = _descend(nodes, system, theta, posterior.mean * unit, 1.0)
    before = torch.linalg.norm(nodes.residual(theta) / system.size)
    assert accepted
    assert length < 1
    assert not levenberg
    assert torch.linalg.norm(nodes.residual(candidate) / system.size) < before
    out = gauss_newton(nodes, theta=theta)
    assert out.settled
    assert np.abs(nodes.fields(nodes.points[0], out.theta)[0]).max() < 1e-10


def test_where_halving_fails_a_levenberg_term_lowers_the_residual():
    nodes = nodes_of(bratu(1.0))
    theta = nodes.fit(lambda X: 0.3 * np.sin(np.pi * X))
    system = nodes.system(lambda X: nodes.fields(X, theta))
    posterior, unit = system.solve()
    uphill = 2 * theta - posterior.mean * unit  # a direction along which the residual only grows
    accepted, length, candidate, levenberg = _descend(nodes, system, theta, uphill, 1.0)
    norm = lambda at: torch.linalg.norm(nodes.residual(at) / system.size)  # noqa: E731
    assert accepted
    assert levenberg
    assert length < 1
    assert norm(candidate) < norm(theta)


def test_an_iterate_that_overflows_counts_as_a_large_residual():
    nodes = nodes_of(bratu(1.0))
    theta = nodes.fit(lambda X: np.full_like(X, 900.0))
    assert torch.isinf(nodes.residual(theta)).any()
    assert not torch.isnan(nodes.residual(theta)).any()


def test_the_part_of_the_nonlinear_term_scales_it():
    nodes = nodes_of(bratu(2.0))
    theta = nodes.fit(lambda X: np.sin(X))
    full, half, none = (nodes.residual(theta, part) for part in (1.0, 0.5, 0.0))
    assert_allclose(full + none, 2 * half, rtol=1e-12, atol=1e-9)
    half = gauss_newton(nodes_of(bratu(1.0)))
    out = nodes.system(lambda X: nodes.fields(X, half.theta), 0.5).solve()
    assert_allclose(out[0].mean * out[1], half.theta, atol=1e-9)
