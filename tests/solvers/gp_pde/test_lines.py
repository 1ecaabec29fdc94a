"""Claims about what a box problem needs along its axes, as read off its data on lines."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Neumann, Periodic
from sciml.solvers.gp_pde.lines import AxisNeeds, axis_needs

from .manufactured import Solution, growth, power, tone

LINE, SQUARE = Box([(0, 6.3)]), Box([(0, 6.3), (-1, 1)])
LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}
fast = Solution((1.0, tone(100.0)))
plane = Solution((1.0, tone(100.0), tone(130.0)), (0.1, growth(0.2), power(2)))


def needs(pde, dim=0, **options):
    return axis_needs(pde, dim, np.random.default_rng(0), **options)


def reach(axis_basis, omega):
    """Return the error of the best approximation of sin(omega x) in a basis."""
    x, weights = axis_basis.quadrature(1.5)
    U = axis_basis.evaluate(torch.as_tensor(x), 0).numpy()
    f = np.sin(omega * x + 0.3)
    return np.abs(U @ (U.T @ (weights * f)) - f).max()


# ---------------------------------------------------------------- what is found


def test_a_tone_in_the_source_becomes_a_carrier():
    found = needs(fast.problem(LINE, {2: 1.0}, [Dirichlet(fast)]))
    assert found.resolved
    assert_allclose(found.omega, [100], rtol=0, atol=0.05 / 3.15)
    assert 315 < found.length < 400  # 100 * 3.15 half widths and a few more
    basis = found.axis()
    assert basis.n_features < 60
    assert reach(basis, 100) < 1e-9
    assert reach(found.axis(1), 100) < 1e-11


def test_each_axis_has_its_own_carriers():
    pde = plane.problem(Box([(0, 6.3), (0, 5)]), LAPLACE, [Dirichlet(plane)])
    assert_allclose(needs(pde, 0).omega, [100], rtol=0, atol=0.02)
    assert_allclose(needs(pde, 1).omega, [130], rtol=0, atol=0.02)


def test_boundary_data_show_what_the_source_does_not():
    u = Solution((1.0, tone(90.0), growth(-90.0)))  # harmonic: the source is zero
    pde = PDE(Box([(0, 6.3), (0, 1)]), LAPLACE, 0.0, [Dirichlet(u)])
    assert_allclose(needs(pde, 0).omega, [90], rtol=0, atol=0.02)


def test_smooth_data_need_few_polynomials():
    u = Solution((1.0, growth(0.5)))
    found = needs(u.problem(Box([(0, 2)]), {2: 1.0}, [Dirichlet(u)]))
    assert found.omega == ()
    assert 8 <= found.length < 25
    assert found.axis().omega == ()
    assert found.axis().n_base >= found.length
    assert reach(found.axis(), 3.0) < 1e-9


def test_broad_data_take_the_plain_expansion():
    pde = PDE(Box([(0, 3)]), {2: 1.0}, lambda X: np.sin(20 * X[:, 0] ** 2), [Dirichlet(0.0)])
    found = needs(pde)
    assert found.resolved
    assert found.omega == ()
    assert found.axis().n_features > 3 * 20 * 3


@pytest.mark.parametrize("operator", [{2: 1.0, 0: 80.0**2}, {2: -1.0, 0: -(80.0**2)}])
def test_the_operators_own_wavenumber_counts(operator):
    pde = PDE(LINE, operator, 1.0, [Dirichlet(0.0)])  # constant data; u oscillates with 80 or decays
    found = needs(pde)
    if operator[0] > 0:
        assert reach(found.axis(1), 80.0) < 1e-8
    else:
        assert found.length >= 6 + 4 * np.sqrt(80 * 3.15) - 1  # layers at the ends


@pytest.mark.parametrize(
    "source", [lambda X: np.sign(X[:, 0] - 2.1), lambda X: np.abs(X[:, 0] - 2.1)], ids=["jump", "kink"]
)
def test_rough_data_are_not_resolved(source):
    assert not needs(PDE(LINE, {2: 1.0}, source, [Dirichlet(0.0)])).resolved


def test_rounding_of_one_group_is_not_taken_for_a_spectrum():
    noise = Dirichlet(lambda X: 1e-16 * np.sin(1e6 * X[:, 0] * X[:, 1]))  # as sin(k pi) leaves on a boundary
    u = Solution((1.0, tone(100.0), tone(13.0)))
    found = needs(PDE(SQUARE, LAPLACE, lambda X: -(100**2 + 13**2) * u(X), [noise]), 0)
    assert found.resolved
    assert_allclose(found.omega, [100], rtol=0, atol=0.02)


def test_initial_and_neumann_data_are_read_too():
    u = Solution((1.0, tone(90.0), growth(-1.0)))
    box = Box([(0, 6.3), (0, 1)])
    heat = PDE(box, {(0, 1): 1.0, (2, 0): -1e-4}, 0.0, [Initial(u), Dirichlet(0.0)])
    assert_allclose(needs(heat, 0).omega, [90], rtol=0, atol=0.02)
    sides = [Dirichlet(0.0, where=[(0, 0), (0, 1), (1, 0)]), Neumann(u, where=(1, 1))]
    assert_allclose(needs(PDE(box, LAPLACE, 0.0, sides), 0).omega, [90], rtol=0, atol=0.02)


def test_a_periodic_axis_gets_harmonics():
    u = Solution((1.0, tone(2 * np.pi * 40 / 6.3), power(0)))
    found = needs(u.problem(SQUARE, LAPLACE, [Periodic(0), Dirichlet(u)]), 0)
    assert found.periodic
    assert found.omega == ()
    basis = found.axis()
    assert basis.periodic
    assert basis.max_frequency > 2 * np.pi * 40 / 6.3
    assert basis.n_features < 200


# ---------------------------------------------------------------- how it is steered


def test_known_frequencies_are_taken_as_they_are():
    pde = fast.problem(LINE, {2: 1.0}, [Dirichlet(fast)])
    assert needs(pde, frequencies=[99.0, 42.0]).omega == (99.0, 42.0)
    assert needs(pde, carriers=False).omega == ()


def test_carriers_that_do_not_pay_give_way_to_polynomials():
    many = AxisNeeds(0.0, 1.0, 100, True, (60.0, 70.0, 80.0), 16, (9, 9, 9))
    assert many.axis(0).omega == (60.0, 70.0, 80.0)  # 16 + 2 * 27 of 0.75 * 130
    assert many.axis(3).omega == ()  # 34 + 2 * 45 is more
    assert many.axis(3).n_base > 100


@pytest.mark.parametrize("level", [0, 2, 4])
def test_features_are_counted_before_they_are_built(level):
    for case in (
        AxisNeeds(0.0, 1.0, 100, True),
        AxisNeeds(0.0, 1.0, 400, True, (150.0,), 16, (9,)),
        AxisNeeds(0.0, 1.0, 60, True, periodic=True),
    ):
        assert case.axis(level).n_features <= case.count(level) <= 1.05 * case.axis(level).n_features + 1


def test_each_level_is_richer():
    for case in (
        AxisNeeds(0.0, 1.0, 100, True),
        AxisNeeds(0.0, 1.0, 400, True, (150.0,), 16, (9,)),
        AxisNeeds(0.0, 1.0, 60, True, periodic=True),
    ):
        sizes = [case.axis(level).n_features for level in range(4)]
        assert sizes == sorted(set(sizes))


def test_the_same_generator_gives_the_same_needs():
    pde = plane.problem(SQUARE, LAPLACE, [Dirichlet(plane)])
    assert needs(pde) == needs(pde)
