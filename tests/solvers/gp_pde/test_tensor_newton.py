"""Claims about Newton's method on products of axes: it agrees with the dense route and with closed forms."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Neumann, Periodic, solve_pde
from sciml.solvers.gp_pde.fast_diagonal import separable_parts
from sciml.solvers.gp_pde.features import AxisBasis, ProductBasis
from sciml.solvers.gp_pde.gauss_newton import Nodes, gauss_newton
from sciml.solvers.gp_pde.points import condition_rows, interior_points
from sciml.solvers.gp_pde.tensor_newton import solve_tensor_newton

LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}


def plain(pde, n):
    """A product of Chebyshev axes."""
    return ProductBasis(tuple(AxisBasis(a, b, (), n, ()) for a, b in pde.domain.bounds))


def newton(pde, basis, **options):
    axes, ends = separable_parts(pde, frozen=True)
    assert axes is not None, ends
    return solve_tensor_newton(pde, basis, axes, ends, **options)


def values(basis, out, X, alpha=(0, 0)):
    return basis.evaluate(torch.as_tensor(X), alpha) @ out.theta.reshape(-1)


def spots(pde, n=300):
    box = pde.domain
    return box.lower + (box.upper - box.lower) * np.random.default_rng(0).random((n, box.n_dims))


def wave(w):
    """Two scales in each variable, as in the Allen-Cahn problem of the literature, and its second derivative."""
    return lambda x, k: w**k * np.sin(w * x + k * np.pi / 2) + 0.1 * (4 * w) ** k * np.sin(4 * w * x + k * np.pi / 2)


def allen_cahn(w):
    s = wave(w)

    def u(X):
        return s(X[:, 0], 0) * s(X[:, 1], 0)

    def f(X):
        return s(X[:, 0], 2) * s(X[:, 1], 0) + s(X[:, 0], 0) * s(X[:, 1], 2) + u(X) ** 3 - u(X)

    pde = PDE(Box([(0, 2 * np.pi)] * 2), {**LAPLACE, (0, 0): -1.0}, f, [Dirichlet(u)], nonlinear=lambda X, v: v**3)
    return pde, u


def test_allen_cahn_with_two_scales_takes_six_steps():
    pde, u = allen_cahn(3)
    sol = solve_pde(pde)
    X = spots(pde)
    assert sol.status == "converged"
    assert sol.report["solver"] == "fast-diagonal"
    assert sol.report["iterations"] <= 6
    assert sol.report["smallest_singular_value"] > 0.1
    assert_allclose(sol(X), u(X), atol=1e-9)
    assert np.linalg.norm(sol(X) - u(X)) <= 10 * sol.error_estimate * np.linalg.norm(u(X))


def viscous(nu=0.15, speed=0.5, jump=0.5):
    """A travelling wave of Burgers' equation."""

    def u(X):
        return speed - jump * np.tanh(jump * (X[:, 0] - speed * X[:, 1]) / (2 * nu))

    pde = PDE(
        Box([(-1, 1), (0, 1)]),
        {(0, 1): 1.0, (2, 0): -nu},
        0.0,
        [Initial(u), Dirichlet(u)],
        nonlinear=lambda X, v, g: v * g[:, 0],
    )
    return pde, u


def test_a_viscous_wave_travels():
    pde, u = viscous()
    sol = solve_pde(pde)
    X = spots(pde)
    assert sol.status == "converged"
    assert_allclose(sol(X), u(X), atol=1e-10)


@pytest.mark.parametrize("case", ["value", "gradient", "variable", "neumann"])
def test_it_agrees_with_the_dense_route(case):
    box = Box([(0, 1), (0, 2)])

    def u(X):
        return np.sin(2 * X[:, 0] + X[:, 1])

    def slope(X):
        return np.cos(2 * X[:, 0] + X[:, 1])

    def right(X):
        extra = {
            "gradient": -u(X) * 2 * slope(X) + 2.5 * slope(X) ** 2,
            "variable": -(u(X) ** 3) + 2 * np.cos(X[:, 1]) * slope(X) - (1 + X[:, 0] * X[:, 1]) * u(X),
        }
        return -5 * u(X) + extra.get(case, -(u(X) ** 3))

    conditions, operator, nonlinear = [Dirichlet(u)], LAPLACE, lambda X, v: -(v**3)
    if case == "gradient":
        nonlinear = lambda X, v, g: -v * g[:, 0] + 0.5 * (g**2).sum(1)  # noqa: E731
    if case == "variable":
        operator = {**LAPLACE, (1, 0): lambda X: np.cos(X[:, 1]), (0, 0): lambda X: -1 - X[:, 0] * X[:, 1]}
    if case == "neumann":
        end = Neumann(lambda X: -2 * slope(X), where=(0, "lower"))
        conditions = [end, Dirichlet(u, where=[(0, 1), (1, 0), (1, 1)])]
    pde = PDE(box, operator, right, conditions, nonlinear=nonlinear)
    basis = plain(pde, 18)
    out = newton(pde, basis)
    assert out.newton.settled
    rng = np.random.default_rng(0)
    X = interior_points(box, 900, rng)
    dense = gauss_newton(Nodes(pde, basis, [X], [pde._source(X)], condition_rows(pde, 60, rng)))
    Y = spots(pde)
    found = values(basis, out, Y)
    assert_allclose(found, basis.evaluate(torch.as_tensor(Y), (0, 0)) @ dense.theta, atol=1e-10)
    assert_allclose(found, u(Y), atol=1e-10)


def test_a_variable_coefficient_takes_one_step():
    def u(X):
        return np.exp(X[:, 0]) * np.sin(2 * X[:, 1])

    operator = {**LAPLACE, (0, 0): lambda X: X[:, 0] ** 2}
    pde = PDE(Box([(0, 1)] * 2), operator, lambda X: (X[:, 0] ** 2 - 3) * u(X), [Dirichlet(u)])
    basis = plain(pde, 20)
    out = newton(pde, basis)
    assert out.newton.steps == 1
    X = spots(pde)
    assert_allclose(values(basis, out, X), u(X), atol=1e-11)


def test_the_smallest_singular_value_is_an_eigenvalue():
    """About u = 0 the linearisation of Laplace + 18 has the eigenvalue 18 - 2 pi^2, next to zero."""
    pde = PDE(Box([(0, 1)] * 2), LAPLACE, 0.0, [Dirichlet(0.0)], nonlinear=lambda X, u: 18 * torch.as_tensor(u).sin())
    out = newton(pde, plain(pde, 16))
    assert_allclose(out.newton.smallest, 2 * np.pi**2 - 18, rtol=2e-3)
    assert_allclose(out.gain, 2 * np.pi**2 / (2 * np.pi**2 - 18), rtol=2e-3)


def test_starts_reach_different_solutions():
    """u'' + u'' + 40 u - u^3 = 0 has the solution zero and one of each sign."""
    pde = PDE(Box([(0, 1)] * 2), {**LAPLACE, (0, 0): 40.0}, 0.0, [Dirichlet(0.0)], nonlinear=lambda X, u: -(u**3))
    basis = plain(pde, 24)

    def bump(sign):
        return lambda X: sign * 5 * np.prod(np.sin(np.pi * X), axis=1)[:, None]

    plus, minus = newton(pde, basis, start=bump(1)), newton(pde, basis, start=bump(-1))
    assert plus.newton.settled
    assert minus.newton.settled
    assert_allclose(plus.theta, -minus.theta, atol=1e-9)
    X = spots(pde)
    assert values(basis, plus, X).min() > 0
    u, lap = values(basis, plus, X), values(basis, plus, X, (2, 0)) + values(basis, plus, X, (0, 2))
    assert_allclose(lap + 40 * u - u**3, 0, atol=1e-5 * 40 * float(u.max()))


def test_a_solution_on_another_basis_is_a_start():
    pde, u = allen_cahn(1)
    coarse, fine = plain(pde, 30), plain(pde, 34)
    cold = newton(pde, coarse)
    warm = newton(pde, fine, start=(coarse, cold.theta))
    assert warm.newton.settled
    assert warm.newton.steps < cold.newton.steps
    X = spots(pde)
    assert_allclose(values(fine, warm, X), u(X), atol=1e-7)


def test_a_period_of_one_axis():
    def u(X):
        return np.cos(2 * X[:, 0]) * np.exp(X[:, 1])

    def f(X):
        return -3 * u(X) + np.sinh(u(X))

    pde = PDE(
        Box([(0, 2 * np.pi), (0, 1)]),
        LAPLACE,
        f,
        [Periodic(0), Dirichlet(u, where=[(1, 0), (1, 1)])],
        nonlinear=lambda X, v: torch.sinh(torch.as_tensor(v)),
    )
    sol = solve_pde(pde, tol=1e-6)
    X = spots(pde)
    assert sol.report["solver"] == "fast-diagonal"
    assert_allclose(sol(X), u(X), atol=1e-9)


def test_overflow_ends_in_a_status():
    """u'' + ... = exp(50 u) blows up from a start far out; the answer says so, or is right."""
    pde = PDE(Box([(0, 1)] * 2), LAPLACE, 0.0, [Dirichlet(0.0)], nonlinear=lambda X, u: 20 * torch.as_tensor(u).exp())
    sol = solve_pde(pde, on_failure="ignore", max_iter=1, tol=1e-6)
    assert sol.status != "converged"


def test_what_is_no_product_goes_to_least_squares():
    X = np.random.default_rng(0).random((200, 2))
    pde = PDE(Box([(0, 1)] * 2), LAPLACE, (X, X[:, 0]), [Dirichlet(0.0)], nonlinear=lambda X, u: -(u**3))
    parts, reason = separable_parts(pde, frozen=True)
    assert parts is None
    assert reason == "the source is known at scattered points only"
    sol = solve_pde(pde, on_failure="ignore", tol=1e-3, max_features=150, max_iter=1)
    assert sol.report["solver"] == "collocation"
