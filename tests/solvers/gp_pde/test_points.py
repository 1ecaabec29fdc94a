"""Claims about collocation points and the rows that conditions become."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Neumann, Periodic, Region, Robin
from sciml.solvers.gp_pde.points import condition_rows, interior_points, low_discrepancy

BOX = Box([(1, 3), (-2, 2)])
LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}
T = np.linspace(0, 2 * np.pi, 90, endpoint=False)
CIRCLE = np.c_[np.cos(T), np.sin(T)]
DISC = Region([(-1, 1)] * 2, lambda X: np.hypot(X[:, 0], X[:, 1]) < 1, CIRCLE, normals=CIRCLE)


def g(X):
    return 10 * X[:, 0] + X[:, 1]


def rows(domain, conditions, rng, n=40, operator=LAPLACE):
    return condition_rows(PDE(domain, operator, 0.0, conditions), n, rng)


# ---------------------------------------------------------------- interior


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_sequence_fills_the_cube_more_evenly_than_chance(d, rng):
    X = low_discrepancy(1000, d, rng)
    assert X.shape == (1000, d)
    assert X.min() >= 0
    assert X.max() < 1

    def worst(points):  # of 200 boxes at the origin: part of the points against the volume
        corners = np.random.default_rng(0).random((200, d))
        part = (points[None] < corners[:, None]).all(axis=2).mean(axis=1)
        return np.abs(part - corners.prod(axis=1)).max()

    assert worst(X) < 0.01  # chance gives 1 / sqrt(1000), about 0.03 and more
    assert worst(rng.random((1000, d))) > 0.015


def test_points_of_a_box_bend_towards_its_faces_unless_asked_for_even_ones(rng):
    bent, even = (interior_points(BOX, 2000, rng, uniform=u) for u in (False, True))
    for X, tenth in ((bent, 2 * np.arccos(0.8) / np.pi), (even, 0.2)):
        assert X.shape == (2000, 2)
        assert BOX.contains(X).all()
        t = (X - BOX.lower) / (BOX.upper - BOX.lower)
        assert_allclose(((t < 0.1) | (t > 0.9)).mean(axis=0), tenth, rtol=0, atol=0.01)


def test_points_of_a_region_lie_inside_and_are_as_many_as_asked(rng):
    X = interior_points(DISC, 700, rng)
    assert X.shape == (700, 2)
    assert DISC.contains(X).all()
    assert_allclose((np.hypot(*X.T) < 0.5).mean(), 0.25, rtol=0, atol=0.03)


def test_a_region_that_is_hardly_there_is_refused(rng):
    dust = Region([(-1, 1)] * 2, lambda X: np.hypot(X[:, 0], X[:, 1]) < 1e-4, CIRCLE)
    with pytest.raises(
        InvalidInputError, match=r"inside must hold for a fair part of the box; found \d+ of \d+ random points"
    ):
        interior_points(dust, 50, rng)


def test_the_same_generator_gives_the_same_points():
    one, two = (interior_points(BOX, 9, np.random.default_rng(3)) for _ in range(2))
    assert_array_equal(one, two)
    assert not np.array_equal(one, interior_points(BOX, 9, np.random.default_rng(4)))


# ---------------------------------------------------------------- conditions


def test_dirichlet_rows_ask_for_values_on_every_face(rng):
    groups = rows(BOX, [Dirichlet(g)], rng)
    spots = []
    for group in groups:
        assert group.terms == {(0, 0): 1.0}
        assert_array_equal(group.rhs, g(group.X))
        assert BOX.contains(group.X).all()
        spots.append((set(group.X[:, 0]), set(group.X[:, 1])))
        assert 30 <= len(group.X) <= 90
    assert {1.0} in [a for a, _ in spots]
    assert {3.0} in [a for a, _ in spots]
    assert {-2.0} in [b for _, b in spots]
    assert {2.0} in [b for _, b in spots]


def test_in_one_dimension_each_end_is_one_point(rng):
    groups = rows(Box([(2, 5)]), [Dirichlet(lambda X: X[:, 0] ** 2)], rng, operator={2: 1.0})
    assert sorted((float(s.X[0, 0]), float(s.rhs[0])) for s in groups) == [(2.0, 4.0), (5.0, 25.0)]
    assert all(len(s.X) == 1 for s in groups)


@pytest.mark.parametrize(
    ("face", "sign"), [((0, "lower"), -1.0), ((0, "upper"), 1.0), ((1, "lower"), -1.0), ((1, "upper"), 1.0)]
)
def test_neumann_rows_point_outwards(face, sign, rng):
    other = Dirichlet(0.0, where=[f for f in [(0, 0), (0, 1), (1, 0), (1, 1)] if f != (face[0], int(sign > 0))])
    group = rows(BOX, [other, Neumann(g, where=face)], rng)[-1]
    ((alpha, normal),) = group.terms.items()
    assert alpha == ((1, 0) if face[0] == 0 else (0, 1))
    assert_array_equal(normal, np.full(len(group.X), sign))
    assert_array_equal(group.rhs, g(group.X))


def test_robin_rows_mix_value_and_slope(rng):
    group = rows(BOX, [Dirichlet(0.0), Robin(lambda X: X[:, 1], 2.0, g, where=(0, "lower"))], rng)[-1]
    assert_array_equal(group.terms[0, 0], group.X[:, 1])
    assert_array_equal(group.terms[1, 0], np.full(len(group.X), -2.0))


def test_normals_of_a_region_make_the_slope(rng):
    group = rows(DISC, [Neumann(g)], rng)[0]
    assert_array_equal(group.X, CIRCLE)
    assert_allclose(group.terms[1, 0], CIRCLE[:, 0], rtol=0, atol=1e-15)
    assert_allclose(group.terms[0, 1], CIRCLE[:, 1], rtol=0, atol=1e-15)


def test_periodic_rows_subtract_the_opposite_face_for_every_order(rng):
    groups = rows(BOX, [Periodic(0), Dirichlet(0.0)], rng)[:2]
    assert [list(group.terms) for group in groups] == [[(0, 0)], [(1, 0)]]
    for group in groups:
        assert_array_equal(group.minus - group.X, np.tile([2.0, 0.0], (len(group.X), 1)))
        assert_array_equal(group.rhs, np.zeros(len(group.X)))


def test_initial_rows_hold_at_the_start_of_time(rng):
    value, slope, *_ = rows(BOX, [Initial(g, velocity=3.0), Dirichlet(0.0)], rng, operator={(2, 0): -1.0, (0, 2): 1.0})
    for group in (value, slope):
        assert_array_equal(group.X[:, 1], np.full(len(group.X), -2.0))
    assert value.terms == {(0, 0): 1.0}
    assert slope.terms == {(0, 1): 1.0}
    assert_array_equal(value.rhs, g(value.X))
    assert_array_equal(slope.rhs, np.full(len(slope.X), 3.0))
    early, *_ = rows(BOX, [Initial(g, dim=0), Dirichlet(0.0)], rng, operator={(1, 0): 1.0, (0, 2): -1.0})
    assert_array_equal(early.X[:, 0], np.full(len(early.X), 1.0))


def test_a_mask_keeps_its_part_of_the_boundary(rng):
    upper = Dirichlet(1.0, where=lambda X: X[:, 1] > 0)
    for domain in (BOX, DISC):
        groups = rows(domain, [Dirichlet(0.0, where=lambda X: X[:, 1] <= 0), upper], rng)
        for group in groups:
            assert np.all((group.X[:, 1] > 0) == (group.rhs == 1))
        assert {0.0, 1.0} == {float(v) for group in groups for v in group.rhs}


def test_points_and_scattered_values_are_taken_as_they_are(rng):
    P = np.array([[1.0, 0.0], [1.0, 1.0], [3.0, -1.0]])
    (named,) = rows(BOX, [Dirichlet(g, where=P)], rng)
    (scattered,) = rows(BOX, [Dirichlet((P, [5.0, 6.0, 7.0]))], rng)
    assert_array_equal(named.X, P)
    assert_array_equal(scattered.X, P)
    assert_array_equal(named.rhs, g(P))
    assert_array_equal(scattered.rhs, [5, 6, 7])
    (slopes,) = rows(BOX, [Neumann((P, [5.0, 6.0, 7.0]))], rng)
    assert_array_equal(slopes.terms[1, 0], [-1, -1, 1])  # the normals of the faces that they lie on


def test_a_condition_that_holds_nowhere_is_refused(rng):
    nowhere = Dirichlet(0.0, where=lambda X: np.zeros(len(X), bool))
    with pytest.raises(InvalidInputError, match="their `where` selects none of the boundary points"):
        rows(DISC, [nowhere], rng)


def test_a_bad_boundary_value_names_the_condition_and_the_point(rng):
    with pytest.raises(InvalidInputError, match=r"g must return finite values; got nan at the point \["):
        rows(BOX, [Dirichlet(lambda X: np.full(len(X), np.nan))], rng)
    with pytest.raises(InvalidInputError, match=r"velocity must return finite values; got inf at the point \["):
        rows(
            BOX,
            [Initial(0.0, velocity=lambda X: X[:, 0] + np.inf), Dirichlet(0.0)],
            rng,
            operator={(2, 0): -1.0, (0, 2): 1.0},
        )
