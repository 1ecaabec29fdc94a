"""Claims about frequency vectors: plane waves, multipoles, and what they cannot do."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import j0, y0

from sciml import load
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Region, Robin, solve_pde
from sciml.solvers.gp_pde.joint import WaveBasis, joint_plan, sphere_directions, wave_matrix
from sciml.solvers.gp_pde.multipoles import Multipoles, find_holes

SQUARE = Box([(0, 1)] * 2)


def helmholtz(k, d=2):
    return {tuple(2 * int(i == j) for i in range(d)): 1.0 for j in range(d)} | {(0,) * d: k**2}


def plane(k, angle=0.7):
    return lambda X: np.cos(k * (X[:, 0] * np.cos(angle) + X[:, 1] * np.sin(angle)) + 0.3)


def radiated(k, at):
    return lambda X: y0(k * np.hypot(X[:, 0] - at[0], X[:, 1] - at[1]))


def disc(hole=0.0):
    t = lambda n: 2 * np.pi * (np.arange(n) + 0.5) / n  # noqa: E731
    circle = lambda n: np.stack([np.cos(t(n)), np.sin(t(n))], axis=1)  # noqa: E731
    edge = (lambda n: np.concatenate([circle(n // 2), hole * circle(n // 2)])) if hole else circle

    def inside(X):
        r = np.hypot(X[:, 0], X[:, 1])
        return (r < 1) & (r > hole)

    return Region([(-1, 1)] * 2, inside, edge, normals=lambda X: X)


def corner():
    """An L."""
    s = np.linspace(0, 1, 120)
    o, h = np.ones(120), s / 2
    sides = [(s, 0 * o), (0 * o, s), (h, o), (o, h), (0.5 + h, 0.5 * o), (0.5 * o, 0.5 + h)]
    points = np.concatenate([np.stack(side, axis=1) for side in sides])
    return Region([(0, 1)] * 2, lambda X: (X[:, 0] < 0.5) | (X[:, 1] < 0.5), points)


def error(sol, u, domain, n=1500):
    box = domain.box
    X = box.lower + (box.upper - box.lower) * np.random.default_rng(4).random((n, box.n_dims))
    X = X[domain.contains(X)]
    return np.linalg.norm(sol(X) - u(X)) / np.linalg.norm(u(X))


def solved(domain, u, k, source=0.0, conditions=None, **options):
    pde = PDE(domain, helmholtz(k, domain.n_dims), source, conditions or [Dirichlet(u)])
    return solve_pde(pde, method="joint", on_failure="ignore", **options)


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("domain", "u", "k"),
    [
        (SQUARE, plane(60.0), 60.0),
        (SQUARE, radiated(60.0, (-0.4, 0.4)), 60.0),
        (disc(), radiated(30.0, (-1.6, 0.4)), 30.0),
        (corner(), plane(50.0), 50.0),
    ],
    ids=["square, plane", "square, source", "disc, source", "L, plane"],
)
def test_waves_are_solved_with_few_features(domain, u, k):
    sol = solved(domain, u, k)
    true = error(sol, u, domain)
    assert sol.status == "converged"
    assert sol.report["n_features"] < 350
    assert true < 1e-9
    assert true <= 10 * sol.error_estimate


def test_two_hundred_radians_across_a_box():
    u = radiated(200.0, (-0.3, 0.4))
    sol = solved(SQUARE, u, 200.0)
    assert sol.status == "converged"
    assert sol.report["n_features"] < 450
    assert error(sol, u, SQUARE) < 1e-9


def test_three_dimensions():
    cube, k, w = Box([(0, 1)] * 3), 5.0, np.array([0.6, 0.5, np.sqrt(0.39)])
    sol = solved(cube, lambda X: np.cos(k * X @ w), k, tol=1e-6)
    true = error(sol, lambda X: np.cos(k * X @ w), cube)
    assert true < 1e-6
    assert true <= 10 * sol.error_estimate
    assert sol.status == "converged"


def test_the_source_brings_its_own_carriers():
    k = 40.0

    def u(X):
        return np.sin(22 * X[:, 0]) * np.cos(15 * X[:, 1]) + np.cos(k * X[:, 0])

    sol = solved(SQUARE, u, k, lambda X: (k**2 - 709) * np.sin(22 * X[:, 0]) * np.cos(15 * X[:, 1]))
    assert sol.status == "converged"
    assert error(sol, u, SQUARE) < 1e-9
    found = np.abs([c["omega"] for c in sol.report["carriers"]])
    assert_allclose(found[np.argmin(np.abs(found[:, 0] - 22))], [22, 15], atol=0.1)


def test_robin_data_determine_the_waves_too():
    k, a, domain = 25.0, 0.7, disc()
    u = plane(k, a)

    def g(X):
        along = X[:, 0] * np.cos(a) + X[:, 1] * np.sin(a)
        return 2 * u(X) - k * np.sin(k * along + 0.3) * along

    sol = solved(domain, u, k, conditions=[Robin(2.0, 1.0, g)])
    assert sol.status == "converged"
    assert error(sol, u, domain) < 1e-9


def test_waves_come_out_of_a_hole():
    domain, k = disc(hole=0.4), 12.0
    u = lambda X: radiated(k, (0.1, 0.05))(X) + plane(k)(X)  # noqa: E731
    sol = solved(domain, u, k)
    assert sol.status == "converged"
    assert "multipoles in 1 hole" in sol.report["why"]
    assert error(sol, u, domain) < 1e-9


def test_an_ellipse_of_waves():
    operator = {(2, 0): 1.0, (0, 2): 4.0, (0, 0): 900.0}
    u = lambda X: np.cos(30 * X[:, 0] * 0.6 + 15 * X[:, 1] * 0.8)  # noqa: E731
    sol = solve_pde(PDE(SQUARE, operator, 0.0, [Dirichlet(u)]), method="joint")
    assert sol.status == "converged"
    assert error(sol, u, SQUARE) < 1e-10


# ---------------------------------------------------------------- honesty


def test_a_resonance_is_told():
    k = 5 * np.pi
    assert solved(SQUARE, plane(k), k, max_features=600).status == "near_singular"


@pytest.mark.parametrize("at", [(-0.01, 0.4), (-0.1, 0.4)])
def test_a_source_too_near_is_admitted(at):
    k = 50.0
    sol = solved(SQUARE, radiated(k, at), k, max_features=400)
    true = error(sol, radiated(k, at), SQUARE)
    assert sol.status == "not_converged"
    assert 1e-8 < true < 10 * sol.error_estimate


def test_units_do_not_matter():
    k, c = 30.0, 2.0**10
    one = solved(SQUARE, plane(k), k)
    wide = Box([(0, c)] * 2)
    other = solved(wide, lambda X: c * plane(k)(X / c), k / c)
    X = np.random.default_rng(0).random((50, 2))
    assert other.report["n_features"] == one.report["n_features"]
    assert_allclose(other(c * X) / c, one(X), rtol=0, atol=1e-11)


def test_it_is_saved_and_loaded(tmp_path):
    domain, k = disc(hole=0.4), 10.0
    sol = solved(domain, lambda X: radiated(k, (0.0, 0.0))(X), k)
    sol.save(tmp_path / "waves")
    X = np.array([[0.5, 0.3], [-0.7, 0.2]])
    assert_allclose(load(tmp_path / "waves")(X), sol(X), rtol=1e-12)


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("operator", "truth"),
    [
        (helmholtz(3.0), 3 * np.eye(2)),
        ({(2, 0): -1.0, (0, 2): -1.0, (0, 0): -9.0}, 3 * np.eye(2)),
        ({(2, 0): 1.0, (0, 2): 1.0, (0, 0): -9.0}, None),
        ({(2, 0): 1.0, (0, 2): 1.0}, None),
        ({(2, 0): 1.0, (0, 2): -1.0, (0, 0): 4.0}, None),
        ({(2, 0): 1.0, (0, 2): 1.0, (1, 0): 1.0, (0, 0): 9.0}, None),
        ({(2, 0): 1.0, (0, 2): 1.0, (0, 0): lambda X: 9 + X[:, 0]}, None),
    ],
)
def test_which_operators_have_a_sphere_of_waves(operator, truth):
    root = wave_matrix(PDE(SQUARE, operator, 0.0, [Dirichlet(1.0)]))
    assert (root is None) if truth is None else np.allclose(root, truth, rtol=1e-14)


def test_a_mixed_derivative_turns_the_ellipse():
    pde = PDE(SQUARE, {(2, 0): 2.0, (1, 1): 1.0, (0, 2): 1.0, (0, 0): 50.0}, 0.0, [Dirichlet(1.0)])
    s = np.stack([np.cos(np.arange(5.0)), np.sin(np.arange(5.0))], axis=1)
    w = s @ wave_matrix(pde).T
    assert_allclose(2 * w[:, 0] ** 2 + w[:, 0] * w[:, 1] + w[:, 1] ** 2, 50.0, rtol=1e-13)


@pytest.mark.parametrize(("n", "d"), [(7, 2), (6, 3)])
def test_directions_are_unit_vectors_of_half_a_sphere(n, d):
    s = sphere_directions(n, d)
    assert_allclose(np.linalg.norm(s, axis=1), 1, rtol=1e-14)
    assert np.all(s[:, -1] > 0)
    nearest = np.sort(np.arccos(np.clip(s @ s.T, -1, 1)), axis=1)[:, 1]
    assert nearest.min() > 0.5 * nearest.max()


def test_no_sphere_no_plane_waves():
    pde = PDE(SQUARE, {(2, 0): 1.0, (0, 2): 1.0}, lambda X: np.sin(40 * X[:, 0] + 30 * X[:, 1]), [Dirichlet(0.0)])
    plan = joint_plan(pde, rng=np.random.default_rng(0))
    assert "no sphere of waves" in plan.why
    assert not isinstance(plan.rungs(0), WaveBasis)


@pytest.mark.parametrize("alpha", [(1, 0), (0, 1), (1, 1), (2, 0), (0, 3)])
def test_derivatives_of_waves_and_multipoles(alpha):
    basis = WaveBasis(
        (0.0, 0.0),
        (2.0, 1.0),
        np.array([[3.0, 1.0], [2.0, -5.0]]),
        (3, 3),
        (2, 1),
        1,
        (Multipoles((0.2, 0.1), 0.3, 4.0, 3),),
    )
    X = torch.tensor([[1.1, 0.7], [0.9, 0.95]], dtype=torch.float64)
    j = 0 if alpha[0] else 1
    lower = tuple(a - (i == j) for i, a in enumerate(alpha))
    step = torch.zeros(1, 2, dtype=torch.float64)
    step[0, j] = 1e-5
    slope = (basis.evaluate(X + step, lower) - basis.evaluate(X - step, lower)) / 2e-5
    scale = slope.abs().max()
    assert basis.evaluate(X, alpha).shape == (2, basis.n_features)
    assert_allclose(basis.evaluate(X, alpha) / scale, slope / scale, rtol=0, atol=1e-8)


def test_multipoles_solve_the_equation_and_are_bounded():
    poles = Multipoles((0.0, 0.0), 0.5, 11.0, 9)
    t = np.linspace(0, 6, 40)
    X = torch.as_tensor(np.linspace(0.5, 2, 40)[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1))
    parts = [poles.evaluate(X, a) for a in ((2, 0), (0, 2))]
    u = poles.evaluate(X, (0, 0))
    assert_allclose(parts[0] + parts[1] + 121 * u, 0, atol=1e-11 * 121)
    assert float(u.abs().max()) <= 1 + 1e-12
    assert_allclose(u[:, 0] / u[0, 0], y0(11 * np.linalg.norm(X, axis=1)) / y0(5.5), rtol=1e-12)


def test_holes_are_found_and_bays_are_not():
    def inside(X):
        hole = np.hypot(X[:, 0] - 0.4, X[:, 1]) < 0.2
        bay = (X[:, 0] < -0.5) & (np.abs(X[:, 1]) < 0.2)
        return ~(hole | bay)

    ((centre, near, far, rank), *more) = find_holes(Region([(-1, 1)] * 2, inside, np.array([[1.0, 1.0]])))
    assert_allclose(centre, (0.4, 0.0), atol=0.02)
    assert_allclose((near, far, rank), (0.2, 0.2, 0), atol=0.02)
    assert all(r > 0 for *_, r in more)


def test_bessel_field_of_order_zero():
    u = lambda X: j0(40 * np.hypot(X[:, 0] - 0.3, X[:, 1] - 0.6))  # noqa: E731
    assert error(solved(SQUARE, u, 40.0), u, SQUARE) < 1e-10
