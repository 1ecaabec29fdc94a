"""Claims about fast diagonalisation: the spectra are those of the operators, and manufactured problems are solved."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Neumann, Periodic, Region, Robin, solve_pde
from sciml.solvers.gp_pde.fast_diagonal import check_corners, separable_parts, solve_tensor
from sciml.solvers.gp_pde.features import AxisBasis, ProductBasis

from .manufactured import Solution, general, growth, power, product, spots, tone

L = 2.7
LINE, SQUARE = Box([(0.3, 0.3 + L)]), Box([(0.3, 0.3 + L), (-1, 1)])
LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}
FACES = [(0, "lower"), (0, "upper"), (1, "lower"), (1, "upper")]


def eigenvalues(domain, operator, conditions, basis):
    """Return the eigenvalues of the first axis, by falling real part."""
    pde = PDE(domain, operator, 0.0, conditions)
    axes, ends = separable_parts(pde)
    lam = solve_tensor(pde, ProductBasis(basis), axes, ends).eigenvalues[0].numpy()
    return lam[np.argsort(-lam.real)]


PLAIN = AxisBasis(0.3, 0.3 + L, (), 40, ())
CARRIER = AxisBasis(0.3, 0.3 + L, (60.0,), 24, (8,))


# ---------------------------------------------------------------- spectra


@pytest.mark.parametrize("axis", [PLAIN, CARRIER], ids=["plain", "carrier"])
def test_eigenvalues_of_the_second_derivative_are_real_negative_and_known(axis):
    lam = eigenvalues(LINE, {2: 1.0}, [Dirichlet(0.0)], (axis,))
    assert not np.iscomplexobj(lam)
    assert np.all(lam < 0)
    assert len(lam) == axis.n_features - 2
    assert_allclose(lam[:4], -((np.pi * np.arange(1, 5) / L) ** 2), rtol=1e-6)


def test_a_carrier_has_eigenvalues_about_its_own_frequency():
    lam = eigenvalues(LINE, {2: 1.0}, [Dirichlet(0.0)], (CARRIER,))
    k = np.round(60 * L / np.pi)
    assert np.min(np.abs(lam / -((np.pi * k / L) ** 2) - 1)) < 1e-6


def test_neumann_ends_have_a_constant_and_the_same_frequencies():
    lam = eigenvalues(LINE, {2: 1.0}, [Neumann(0.0)], (PLAIN,))
    assert_allclose(lam[:4], -((np.pi * np.arange(4) / L) ** 2), rtol=1e-6, atol=1e-9)


def test_one_end_of_each_kind_has_quarter_waves():
    ends = [Dirichlet(0.0, where=(0, "lower")), Neumann(0.0, where=(0, "upper"))]
    lam = eigenvalues(LINE, {2: 1.0}, ends, (PLAIN,))
    assert_allclose(lam[:4], -((np.pi * (np.arange(4) + 0.5) / L) ** 2), rtol=1e-6)


def test_robin_ends_have_the_roots_of_their_equation():
    # u' = h u at the lower and u' = -h u at the upper end: tan(k L) = 2 h k / (k^2 - h^2)
    h = 1.7
    lam = eigenvalues(LINE, {2: 1.0}, [Robin(h, 1.0, 0.0)], (PLAIN,))
    k = np.sqrt(-lam[:4])
    assert_allclose((k**2 - h**2) * np.sin(k * L), 2 * h * k * np.cos(k * L), rtol=0, atol=1e-6)


def test_a_periodic_axis_has_each_frequency_twice():
    axis = AxisBasis(0.3, 0.3 + L, (), 6, (), True)
    lam = eigenvalues(LINE, {2: 1.0}, [Periodic(0)], (axis,))
    k = np.repeat(np.arange(6), 2)[1:]
    assert_allclose(lam, -((2 * np.pi * k / L) ** 2), rtol=1e-12, atol=1e-9)


def test_a_reaction_moves_the_spectrum_and_a_drift_leaves_it_real():
    lam = eigenvalues(LINE, {2: 1.0, 0: 5.0}, [Dirichlet(0.0)], (PLAIN,))
    assert_allclose(lam[:3], 5 - (np.pi * np.arange(1, 4) / L) ** 2, rtol=1e-6)
    lam = eigenvalues(LINE, {2: 1.0, 1: 3.0}, [Dirichlet(0.0)], (PLAIN,))  # u'' + 3 u' has -(k pi / L)^2 - 9 / 4
    assert_allclose(lam[:3], -2.25 - (np.pi * np.arange(1, 4) / L) ** 2, rtol=1e-6, atol=1e-6)


def test_the_cancellation_measures_the_distance_to_a_resonance():
    for shift in (0.0, 1e-3):
        pde = PDE(LINE, {2: 1.0, 0: (np.pi / L) ** 2 + shift}, 0.0, [Dirichlet(0.0)])
        out = solve_tensor(pde, ProductBasis((PLAIN,)), *separable_parts(pde))
        assert out.cancellation < 1e-10 if shift == 0 else out.cancellation == 1  # one axis: nothing cancels but itself


# ---------------------------------------------------------------- manufactured solutions

u_2d = Solution((1.0, tone(31.0, 0.3), tone(17.0)), (0.4, growth(0.7), power(3)), (0.2, power(2), tone(25.0, 1.0)))
u_time = Solution((1.0, tone(40.0, 0.2), growth(-1.1)), (0.5, tone(3.0), tone(12.0, 0.4)))
u_wave = Solution((1.0, tone(21.0, 0.2), tone(42.0, 0.1)), (0.3, power(2), power(3)))
turns = 2 * np.pi / L
u_ring = Solution(
    (1.0, tone(9 * turns, 0.3), tone(20.0)), (0.5, tone(2 * turns), growth(0.8)), (0.2, power(0), power(2))
)
u_3d = Solution((1.0, tone(11.0), tone(9.0, 0.4), tone(13.0, 0.2)), (0.5, growth(0.3), power(1), power(2)))

CASES = {
    "poisson": (u_2d, SQUARE, LAPLACE, [Dirichlet(u_2d)]),
    "helmholtz": (u_2d, SQUARE, {**LAPLACE, (0, 0): 700.0}, [Dirichlet(u_2d)]),
    "reaction": (u_2d, SQUARE, {(2, 0): -1.0, (0, 2): -2.5, (0, 0): 30.0}, [Dirichlet(u_2d)]),
    "drift": (u_2d, SQUARE, {**LAPLACE, (1, 0): 6.0, (0, 1): -2.0}, [Dirichlet(u_2d)]),
    "neumann": (
        u_2d,
        SQUARE,
        LAPLACE,
        [Neumann(u_2d.slope(0, -1), where=(0, "lower")), Dirichlet(u_2d, where=FACES[1:])],
    ),
    "neumann on top": (
        u_2d,
        SQUARE,
        {**LAPLACE, (0, 0): -9.0},
        [Neumann(u_2d.slope(1, 1), where=(1, "upper")), Dirichlet(u_2d, where=FACES[:3])],
    ),
    "robin": (
        u_2d,
        SQUARE,
        LAPLACE,
        [
            Robin(2.0, 0.5, lambda X: 2 * u_2d(X) + 0.5 * u_2d.slope(0)(X), where=(0, "upper")),
            Robin(1.0, 0.2, lambda X: u_2d(X) - 0.2 * u_2d.slope(1)(X), where=(1, "lower")),
            Dirichlet(u_2d, where=[FACES[0], FACES[3]]),
        ],
    ),
    "periodic": (u_ring, SQUARE, {**LAPLACE, (0, 0): -4.0}, [Periodic(0), Dirichlet(u_ring)]),
    "heat": (u_time, SQUARE, {(0, 1): 1.0, (2, 0): -0.05}, [Initial(u_time), Dirichlet(u_time)]),
    "wave": (
        u_wave,
        SQUARE,
        {(0, 2): 1.0, (2, 0): -4.0},
        [Initial(u_wave, velocity=u_wave.slope(1)), Dirichlet(u_wave)],
    ),
    "advection": (
        u_time,
        SQUARE,
        {(0, 1): 1.0, (1, 0): 2.0},
        [Initial(u_time), Dirichlet(u_time, where=(0, "lower"))],
    ),
    "heat on a ring": (u_ring, SQUARE, {(0, 1): 1.0, (2, 0): -0.1}, [Initial(u_ring), Periodic(0)]),
    "cube": (
        u_3d,
        Box([(0, 1), (-1, 1), (0, 1.5)]),
        {(2, 0, 0): 1.0, (0, 2, 0): 1.0, (0, 0, 2): 1.0},
        [Neumann(u_3d.slope(2), where=(2, 1)), Dirichlet(u_3d, where=[(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)])],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_manufactured_problem_is_solved(name):
    u, domain, operator, conditions = CASES[name]
    sol = solve_pde(u.problem(domain, operator, conditions))
    assert sol.report["solver"] == "fast-diagonal"
    assert sol.status == "converged"
    error = u.error(sol, spots(domain))
    assert error < 1e-9
    assert error < 10 * sol.error_estimate


SMALL = Box([(0, 1), (0.2, 1.2)])
u_small = Solution((1.0, tone(5.0, 0.3), tone(3.0)), (0.4, growth(0.7), power(2)))
u_small_ring = Solution((1.0, tone(4 * np.pi, 0.3), tone(2.0)), (0.2, power(0), power(2)))
AGREE = {
    "elliptic": (
        u_small,
        {(2, 0): 1.0, (0, 2): 2.0, (1, 0): 3.0, (0, 0): 5.0},
        [
            Robin(2.0, 0.5, lambda X: 2 * u_small(X) + 0.5 * u_small.slope(0)(X), where=(0, "upper")),
            Neumann(u_small.slope(1, -1), where=(1, "lower")),
            Dirichlet(u_small, where=[FACES[0], FACES[3]]),
        ],
    ),
    "heat": (u_small, {(0, 1): 1.0, (2, 0): -0.3}, [Initial(u_small), Dirichlet(u_small)]),
    "periodic": (u_small_ring, {**LAPLACE, (0, 0): -4.0}, [Periodic(0), Dirichlet(u_small_ring)]),
}


@pytest.mark.parametrize("name", AGREE)
def test_collocation_agrees(name):
    u, operator, conditions = AGREE[name]
    fast = solve_pde(u.problem(SMALL, operator, conditions))
    dense = solve_pde(u.problem(SMALL, general(operator), conditions))
    assert (fast.report["solver"], dense.report["solver"]) == ("fast-diagonal", "collocation")
    X = spots(SMALL)
    assert_allclose(dense(X), fast(X), rtol=0, atol=1e-9 * np.abs(u(X)).max())
    assert u.error(dense, X) < 1e-9


# ---------------------------------------------------------------- what cannot be split


def disc():
    t = np.linspace(0, 2 * np.pi, 50)
    return Region([(-1, 1)] * 2, lambda X: np.hypot(*X.T) < 1, np.c_[np.cos(t), np.sin(t)])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((disc(), LAPLACE, 0.0, [Dirichlet(0.0)]), "the domain is not a box"),
        ((SQUARE, general(LAPLACE), 0.0, [Dirichlet(0.0)]), "variable coefficients"),
        ((SQUARE, LAPLACE, (np.array([[1.0, 0.0]]), [0.0]), [Dirichlet(0.0)]), "known at scattered points only"),
        ((SQUARE, {**LAPLACE, (1, 1): 0.5}, 0.0, [Dirichlet(0.0)]), r"mixes dimensions in \(1, 1\)"),
        (
            (SQUARE, LAPLACE, 0.0, [Dirichlet((np.array([[0.3, 0.0]]), [1.0]))]),
            "boundary values are known at scattered",
        ),
        ((SQUARE, LAPLACE, 0.0, [Dirichlet(0.0, where=np.array([[0.3, 0.0]]))]), "holds at scattered points"),
        (
            (
                SQUARE,
                LAPLACE,
                0.0,
                [Dirichlet(0.0, where=lambda X: X[:, 1] < 0), Neumann(0.0, where=lambda X: X[:, 1] >= 0)],
            ),
            "a condition holds on part of a face",
        ),
        ((SQUARE, LAPLACE, 0.0, [Robin(lambda X: X[:, 1], 1.0, 0.0)]), "Robin condition has variable coefficients"),
        ((SQUARE, LAPLACE, 0.0, [Dirichlet(0.0), Neumann(0.0)]), "dimension 0 has order 2 and 4 end conditions"),
        (
            (SQUARE, LAPLACE, 0.0, [Periodic(0), Dirichlet(0.0, where=FACES)]),
            "dimension 0 is periodic and has end conditions too",
        ),
    ],
)
def test_what_cannot_be_split_says_why(arguments, reason):
    parts, why = separable_parts(PDE(*arguments))
    assert parts is None
    assert re.search(reason, why)


def test_a_separable_operator_is_split_by_axis():
    axes, ends = separable_parts(
        PDE(SQUARE, {(2, 0): 3.0, (0, 1): -1.0, (0, 0): 7.0}, 0.0, [Initial(2.0), Neumann(5.0)])
    )
    assert axes == [{2: 3.0, 0: 7.0}, {1: -1.0}]
    assert [row[:3] for row in ends[0].rows] == [(0, 0.0, -1.0), (1, 0.0, 1.0)]  # outward slopes
    assert [row[:3] for row in ends[1].rows] == [(0, 1.0, 0.0)]


def test_a_mask_of_whole_faces_is_split_like_named_ones():
    by_mask = [
        Dirichlet(1.0, where=lambda X: np.abs(X[:, 1]) == 1),
        Dirichlet(2.0, where=lambda X: np.abs(X[:, 1]) < 1),
    ]
    _, ends = separable_parts(PDE(SQUARE, LAPLACE, 0.0, by_mask))
    assert [(e.rows[0][0], e.rows[1][0]) for e in ends] == [(0, 1), (0, 1)]
    assert [row[3].constant for row in ends[0].rows] == [2.0, 2.0]
    assert [row[3].constant for row in ends[1].rows] == [1.0, 1.0]


@pytest.mark.parametrize(("top", "jump"), [(0.0, 0.0), (1.5, 0.75)])
def test_corner_jumps_are_measured_against_the_data(top, jump):
    conditions = [Dirichlet(0.0, where=FACES[:3]), Dirichlet(top, where=FACES[3])]
    assert check_corners(PDE(SQUARE, LAPLACE, 0.0, conditions), 2.0) == jump


def test_units_of_the_data_scale_the_answer_exactly():
    u, domain, operator, _ = CASES["poisson"]
    pde = u.problem(domain, operator, [Dirichlet(u)])
    basis = ProductBasis((AxisBasis(0.3, 0.3 + L, (31.0,), 20, (8,)), AxisBasis(-1.0, 1.0, (), 60, ())))
    theta = solve_tensor(pde, basis, *separable_parts(pde)).theta.numpy()
    for k in (-40, 40):
        scaled = PDE(domain, operator, lambda X, k=k: 2.0**k * pde.source(X), [Dirichlet(lambda X, k=k: 2.0**k * u(X))])
        assert_array_equal(solve_tensor(scaled, basis, *separable_parts(scaled)).theta.numpy(), 2.0**k * theta)


def test_a_product_rule_of_the_manufactured_solutions_holds():
    f = product(tone(3.0), power(2))
    x = np.array([0.3, 1.1])
    wanted = 2 * np.sin(3 * x) + 12 * x * np.cos(3 * x) - 9 * x**2 * np.sin(3 * x)
    assert_allclose(f(x, 2), wanted, rtol=1e-13)
