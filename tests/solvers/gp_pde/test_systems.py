"""Claims about systems of equations: every unknown at full accuracy, and a solution that knows their names."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml import load
from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Neumann, Periodic, Robin, solve_pde
from sciml.solvers.gp_pde.features import AxisBasis, JointBasis, ProductBasis
from sciml.solvers.gp_pde.systems import SystemBasis

LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}
NAMES = ("u", "v")


def columns(*parts):
    return torch.stack(parts, 1) if isinstance(parts[0], torch.Tensor) else np.stack(parts, 1)


def assert_solves(sol, X, *truth, rtol=1e-9):
    """Every unknown on its own scale, and an error estimate that does not flatter."""
    assert sol.status == "converged", sol.report["reason"]
    found = sol(X)
    assert found.shape == (len(X), len(truth))
    for k, exact in enumerate(truth):
        off = np.linalg.norm(found[:, k] - exact(X)) / np.linalg.norm(exact(X))
        assert off < rtol
        assert off <= 10 * sol.error_estimate


# ---------------------------------------------------------------- the basis


def two_parts():
    line = JointBasis((0.0,), (2.0,), np.array([[9.0]]), (4,), (2,))
    return SystemBasis((line, JointBasis((0.0,), (2.0,), np.zeros((0, 1)), (6,), ())))


def test_each_unknown_has_its_columns():
    basis = two_parts()
    first, second = (p.n_features for p in basis.parts)
    assert (basis.n_unknowns, basis.n_dims, basis.n_features) == (2, 1, first + second)
    assert (basis.lower, basis.upper) == ((0.0,), (2.0,))
    assert basis.block(0) == slice(0, first)
    assert basis.block(1) == slice(first, first + second)
    assert_array_equal(basis.max_frequency, np.maximum(*(p.max_frequency for p in basis.parts)))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("k", [0, 1])
def test_a_derivative_is_that_of_its_part_and_zero_elsewhere(k, order):
    basis, X = two_parts(), torch.linspace(0, 2, 11, dtype=torch.float64)[:, None]
    rows = basis.evaluate(X, (k, order))
    own = basis.parts[k].evaluate(X, (order,))
    assert_array_equal(rows[:, basis.block(k)], own)
    assert_array_equal(rows[:, basis.block(1 - k)], 0)
    theta = torch.linspace(-1, 1, basis.n_features, dtype=torch.float64)
    assert_allclose(basis.contract(X, (k, order), theta), rows @ theta, rtol=1e-12, atol=1e-12)
    assert basis.contract(X, (k, order), torch.stack([theta, theta], 1)).shape == (11, 2)


def test_products_of_axes_have_two_orders():
    plane = ProductBasis((AxisBasis(0.0, 1.0, (), 4, ()), AxisBasis(0.0, 1.0, (), 5, ())))
    basis, X = SystemBasis((plane, plane)), torch.rand((6, 2), dtype=torch.float64, generator=torch.manual_seed(0))
    assert basis.n_features == 40
    assert_allclose(basis.evaluate(X, (1, 2, 1))[:, 20:], plane.evaluate(X, (2, 1)))


# ---------------------------------------------------------------- linear systems


def rotation(length=6.0, **options):
    return PDE(
        Box([(0, length)]),
        [{"u": {1: 1.0}, "v": {0: -1.0}}, {"v": {1: 1.0}, "u": {0: 1.0}}],
        conditions=[Initial(0.0, unknown="u"), Initial(1.0, unknown="v")],
        unknowns=NAMES,
        **options,
    )


def test_a_rotation_from_its_initial_values():
    sol = solve_pde(rotation())
    assert_solves(sol, np.linspace(0, 6, 100)[:, None], lambda X: np.sin(X[:, 0]), lambda X: np.cos(X[:, 0]))
    assert sol.report["smallest_singular_value"] is None


def test_cauchy_and_riemann():
    """Two first-order equations on a square; v is known at one corner only."""

    def u(X):
        return np.exp(X[:, 0]) * np.cos(X[:, 1])

    def v(X):
        return np.exp(X[:, 0]) * np.sin(X[:, 1])

    rows = [{"u": {(1, 0): 1.0}, "v": {(0, 1): -1.0}}, {"u": {(0, 1): 1.0}, "v": {(1, 0): 1.0}}]
    box, known = Box([(0, 1)] * 2), Dirichlet(u, unknown="u")
    point = Dirichlet((np.zeros((1, 2)), np.zeros(1)), unknown="v")
    sol = solve_pde(PDE(box, rows, conditions=[known, point], unknowns=NAMES), tol=1e-6, max_features=500)
    assert_solves(sol, np.random.default_rng(0).random((200, 2)), u, v)
    free = solve_pde(PDE(box, rows, conditions=[known], unknowns=NAMES), on_failure="ignore", tol=1e-5, max_iter=1)
    assert free.status == "near_singular"  # v is known but for a constant


def test_a_system_of_mixed_conditions():
    """u'' + v = f, v'' - u = g with Neumann, Robin and Dirichlet ends."""

    def u(X):
        return np.sin(4 * X[:, 0])

    def v(X):
        return np.exp(-X[:, 0])

    pde = PDE(
        Box([(0, 1)]),
        [{"u": {2: 1.0}, "v": {0: 1.0}}, {"v": {2: 1.0}, "u": {0: -1.0}}],
        [lambda X: -16 * u(X) + v(X), lambda X: v(X) - u(X)],
        [
            Neumann(-4.0, where=(0, "lower"), unknown="u"),
            Dirichlet(u, where=(0, "upper"), unknown="u"),
            Robin(1.0, 2.0, lambda X: -v(X), where=(0, "upper"), unknown="v"),
            Dirichlet(1.0, where=(0, "lower"), unknown="v"),
        ],
        unknowns=NAMES,
    )
    assert_solves(solve_pde(pde), np.linspace(0, 1, 100)[:, None], u, v)


def test_a_period_is_one_of_all_unknowns():
    def u(X):
        return np.sin(X[:, 0])

    def v(X):
        return np.cos(2 * X[:, 0])

    pde = PDE(
        Box([(0, 2 * np.pi)]),
        [{"u": {2: 1.0, 0: -1.0}, "v": {0: 1.0}}, {"v": {2: 1.0, 0: -1.0}, "u": {1: 1.0}}],
        [lambda X: -2 * u(X) + v(X), lambda X: -5 * v(X) + np.cos(X[:, 0])],
        [Periodic(0)],
        unknowns=NAMES,
    )
    assert_solves(solve_pde(pde), np.linspace(0, 6.28, 100)[:, None], u, v)


def test_samples_of_both_sources(rng):
    def u(X):
        return np.sin(3 * X[:, 0])

    def v(X):
        return np.cos(2 * X[:, 0])

    X = 3 * rng.random((120, 1))
    pde = PDE(
        Box([(0, 3)]),
        [{"u": {2: 1.0}, "v": {0: 1.0}}, {"v": {2: 1.0}}],
        [(X, -9 * u(X) + v(X)), (X, -4 * v(X))],
        [Dirichlet(u, unknown="u"), Dirichlet(v, unknown="v")],
        unknowns=NAMES,
    )
    assert_solves(solve_pde(pde), np.linspace(0, 3, 100)[:, None], u, v, rtol=1e-8)


# ---------------------------------------------------------------- nonlinear systems


def reaction(size=1.0):
    """Two equations that couple their unknowns, v being of its own size."""

    def u(X):
        return np.sin(3 * X[:, 0])

    def v(X):
        return size * np.exp(-X[:, 0])

    def f(X):
        return -9 * u(X) - u(X) * v(X) / size

    def g(X):
        return v(X) + 3 * size * np.cos(3 * X[:, 0]) - u(X) ** 2 * v(X)

    pde = PDE(
        Box([(0, 2)]),
        [{"u": {2: 1.0}}, {"v": {2: 1.0}, "u": {1: size}}],
        [f, g],
        [Dirichlet(u, unknown="u"), Dirichlet(v, unknown="v")],
        nonlinear=lambda X, w: columns(-w[:, 0] * w[:, 1] / size, -(w[:, 0] ** 2) * w[:, 1]),
        unknowns=NAMES,
    )
    return pde, u, v


@pytest.mark.parametrize("size", [1.0, 1e5, 1e-5])
def test_unknowns_of_unequal_size(size):
    pde, u, v = reaction(size)
    sol = solve_pde(pde, start=lambda X: columns(u(X), v(X)))
    assert_solves(sol, np.linspace(0, 2, 100)[:, None], u, v)


def test_predator_and_prey_keep_their_invariant():
    pde = PDE(
        Box([(0, 2)]),
        [{"u": {1: 1.0, 0: -1.0}}, {"v": {1: 1.0, 0: 1.0}}],
        conditions=[Initial(1.5, unknown="u"), Initial(1.0, unknown="v")],
        nonlinear=lambda X, w: columns(w[:, 0] * w[:, 1], -w[:, 0] * w[:, 1]),
        unknowns=NAMES,
    )
    sol = solve_pde(pde, tol=1e-6, slabs=1)
    u, v = sol(np.linspace(0, 2, 60)).T
    invariant = u - np.log(u) + v - np.log(v)
    assert sol.status == "converged"
    assert_allclose(invariant, invariant[0], rtol=1e-8)
    assert u.max() - u.min() > 0.3


def test_a_gradient_in_a_plane_system():
    def u(X):
        return np.sin(X[:, 0] + 2 * X[:, 1])

    def v(X):
        return np.cos(X[:, 0]) * np.exp(-X[:, 1])

    def slope(X):
        return np.cos(X[:, 0] + 2 * X[:, 1])

    pde = PDE(
        Box([(0, 1)] * 2),
        [{"u": LAPLACE}, {"v": LAPLACE}],
        [lambda X: -5 * u(X) + v(X) * slope(X), lambda X: u(X) * v(X)],
        [Dirichlet(u, unknown="u"), Dirichlet(v, unknown="v")],
        nonlinear=lambda X, w, g: columns(w[:, 1] * g[:, 0, 0], w[:, 0] * w[:, 1]),
        unknowns=NAMES,
    )
    sol = solve_pde(pde, tol=1e-7, max_features=500)
    assert_solves(sol, np.random.default_rng(0).random((200, 2)), u, v)


# ---------------------------------------------------------------- the solution


@pytest.fixture(scope="module")
def turned():
    return solve_pde(rotation())


def test_an_unknown_is_had_by_its_name(turned):
    X = np.linspace(0, 6, 20)
    assert list(turned.unknowns) == list(NAMES)
    assert turned(X).shape == (20, 2)
    for k, name in enumerate(NAMES):
        assert_array_equal(turned[name](X), turned(X)[:, k])
        assert turned[name].unknowns is None
        assert turned[name].status == "converged"
    with pytest.raises(InvalidInputError, match="name must be one of the unknowns .*; got 'w'"):
        turned["w"]
    with pytest.raises(InvalidInputError, match="got 'u'"):
        turned["u"]["u"]


def test_derivatives_spread_and_draws_have_an_axis_of_unknowns(turned):
    X = np.linspace(0.5, 5.5, 15)
    assert_allclose(turned.derivative(X, 1), np.stack([np.cos(X), -np.sin(X)], 1), atol=1e-9)
    assert_allclose(turned["v"].derivative(X, 2), -np.cos(X), atol=1e-8)
    std = turned.std(X)
    assert std.shape == (15, 2)
    assert (std > 0).all()
    assert_allclose(turned["v"].std(X), std[:, 1])
    draws = turned.sample(X, 200, random_state=0)
    assert draws.shape == (200, 15, 2)
    assert_allclose(draws.std(0), std, rtol=0.3)
    assert_allclose(draws.mean(0), turned(X), atol=float(std.max()))
    assert set(turned.spectrum()) == set(NAMES)


def test_unknowns_are_drawn_together(turned):
    X = np.linspace(1, 5, 9)
    both = turned.sample(X, 3, random_state=1)
    for k, name in enumerate(NAMES):
        assert_allclose(both[..., k], turned[name].sample(X, 3, random_state=1), rtol=1e-13, atol=1e-15)


def test_a_dataset_has_the_names(turned):
    data = turned.to_xarray(11)
    assert set(data.data_vars) == {"u", "u_std", "v", "v_std"}
    assert_allclose(data["v"], np.cos(data["x0"]), atol=1e-10)
    assert data["u"].attrs["units"] == "units of u"


def test_a_system_is_saved_and_loaded(turned, tmp_path):
    turned.save(tmp_path / "turned")
    again = load(tmp_path / "turned")
    X = np.linspace(0, 6, 20)
    assert_array_equal(again(X), turned(X))
    assert_array_equal(again["v"](X), turned["v"](X))
    assert_allclose(again.std(X), turned.std(X), rtol=1e-12)
    assert list(again.unknowns) == list(NAMES)


def test_torch_goes_in_and_out(turned):
    X = torch.linspace(0, 6, 5, dtype=torch.float64)[:, None].requires_grad_(True)
    out = turned(X)
    assert out.shape == (5, 2)
    (slope,) = torch.autograd.grad(out[:, 0].sum(), X)
    assert_allclose(slope[:, 0].numpy(), np.cos(X.detach()[:, 0].numpy()), atol=1e-9)


def test_a_system_may_start_anywhere():
    pde, u, v = reaction()
    sol = solve_pde(pde, start=[0.1, 0.5])
    assert_solves(sol, np.linspace(0, 2, 100)[:, None], u, v)
    again = solve_pde(pde, start=sol)
    assert again.report["iterations"] < sol.report["iterations"]
    with pytest.raises(InvalidInputError, match=r"start must return shape \(\d+, 2\)"):
        solve_pde(pde, start=lambda X: X[:, 0])


# ---------------------------------------------------------------- mistakes

FIRST = {"u": {1: 1.0}}
BOTH = [FIRST, {"v": {1: 1.0}}]


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"operator": {1: 1.0}}, InvalidTypeError, "operator must be a sequence of dicts for a system.*got dict"),
        ({"operator": [{1: 1.0}, FIRST]}, InvalidTypeError, "operator must hold dicts of dicts for a system"),
        ({"operator": [FIRST, {"w": {1: 1.0}}]}, InvalidInputError, r"name unknowns of \('u', 'v'\); got 'w'"),
        ({"operator": [FIRST, {"v": {(1, 0): 1.0}}]}, InvalidInputError, r"multi-indices of length 1.*got \(1, 0\)"),
        ({"operator": [FIRST, {"v": {1: 0.0}}]}, InvalidInputError, "at least one coefficient that is not zero"),
        ({"source": [1.0]}, InvalidInputError, "one entry for each of the 2 equations; got 1"),
        ({"source": [1.0, 2.0, 3.0]}, InvalidInputError, "one entry for each of the 2 equations; got 3"),
        (
            {"conditions": [Initial(0.0, unknown="w")]},
            InvalidInputError,
            r"unknown of Initial must be one of .*got 'w'",
        ),
        ({"conditions": ()}, InvalidInputError, "conditions must determine u; got none"),
        ({"unknowns": ("u", "u")}, InvalidInputError, r"unknowns must be different names; got \('u', 'u'\)"),
        ({"unknowns": (1, 2)}, InvalidInputError, "unknowns must be different names"),
        ({"unknowns": ()}, InvalidInputError, "unknowns must be different names"),
        ({"observations": ([0.5], [1.0])}, InvalidInputError, "observations are not supported for systems"),
        ({"nonlinear": 3.0}, InvalidTypeError, "nonlinear must be a callable"),
    ],
)
def test_a_bad_system_is_refused(arguments, kind, text):
    good = {"operator": BOTH, "conditions": [Initial(0.0)], "unknowns": NAMES}
    with pytest.raises(kind, match=text):
        PDE(Box([(0, 1)]), **{**good, **arguments})


def test_a_condition_without_a_name_holds_for_all():
    pde = PDE(Box([(0, 1)]), BOTH, conditions=[Initial(2.0)], unknowns=NAMES)
    assert [c.unknown for c in pde.conditions] == ["u", "v"]
    assert_allclose(solve_pde(pde)(np.linspace(0, 1, 5)), 2.0, rtol=1e-12)


def test_a_name_in_a_single_equation_is_refused():
    with pytest.raises(InvalidInputError, match="unknown of Dirichlet must be one of None; got 'u'"):
        PDE(Box([(0, 1)]), {2: 1.0}, 1.0, [Dirichlet(0.0, unknown="u")])


def test_a_nonlinear_term_of_the_wrong_width_is_refused():
    pde = PDE(Box([(0, 1)]), BOTH, conditions=[Initial(1.0)], nonlinear=lambda X, w: w[:, 0] ** 2, unknowns=NAMES)
    with pytest.raises(InvalidInputError, match=r"nonlinear must return shape \(\d+, 2\)"):
        solve_pde(pde)


def test_sources_at_different_points_are_refused(rng):
    sources = [(rng.random((30, 1)), rng.random(30)) for _ in range(2)]
    pde = PDE(Box([(0, 1)]), BOTH, sources, [Initial(1.0)], unknowns=NAMES)
    with pytest.raises(InvalidInputError, match="source must be sampled at the same points for all equations"):
        solve_pde(pde, on_failure="ignore")
