"""Claims about the statement of a problem: what is accepted, and that every mistake is named before any work."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Neumann, Periodic, Region, Robin
from sciml.solvers.gp_pde.conditions import apply_mask, named_faces

SQUARE = Box([(0, 1), (0, 2)])
LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}
T = np.linspace(0, 2 * np.pi, 60, endpoint=False)
CIRCLE = np.c_[np.cos(T), np.sin(T)]


def disc(**options):
    return Region([(-1, 1)] * 2, lambda X: np.hypot(X[:, 0], X[:, 1]) < 1, **{"boundary": CIRCLE, **options})


# ---------------------------------------------------------------- domains


def test_a_box_knows_its_corners_and_its_inside():
    box = Box(((0, 1), (-2, 2)))
    assert (box.n_dims, box.box) == (2, box)
    assert_array_equal(box.lower, [0, -2])
    assert_array_equal(box.upper, [1, 2])
    assert box.contains(np.array([[0, -2], [1, 2], [0.5, 0], [1.1, 0], [0.5, -3]])).tolist() == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert Box((0, 3)).bounds == ((0.0, 3.0),)
    assert Box(torch.tensor([[0.0, 1.0]])).bounds == ((0.0, 1.0),)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ([(0, 1), (2, 2)], r"lower < upper in every dimension; got \(2.0, 2.0\) in dimension 1"),
        ([(1, 0)], r"lower < upper in every dimension; got \(1.0, 0.0\) in dimension 0. Swap the ends"),
        ([(0, np.inf)], r"bounds must be finite; found inf at index \(0, 1\)"),
        ([(np.nan, 1)], r"bounds must be finite; found nan at index \(0, 0\)"),
        ([(0, 1, 2)], r"bounds must be a sequence of \(lower, upper\).*got shape \(1, 3\)"),
        ([], r"bounds must be a sequence of \(lower, upper\).*got shape \(0,\)"),
        ([(1e9, 1e9 + 1e-3)], "bounds must be wider than rounding; got .* in dimension 0. Shift the origin"),
        ([("a", "b")], "bounds must hold real numbers; got dtype <U1"),
    ],
)
def test_a_bad_box_is_refused(bounds, text):
    with pytest.raises(InvalidInputError, match=text):
        Box(bounds)


def test_a_region_answers_for_its_points_and_its_boundary(rng):
    region = disc()
    assert region.n_dims == 2
    assert region.contains(np.array([[0, 0], [0.9, 0.9]])).tolist() == [True, False]
    assert_array_equal(region.boundary_points(7, rng), CIRCLE)  # all that are stored
    column = Region([(-1, 1)] * 2, lambda X: X[:, :1] > 0, CIRCLE)
    assert column.contains(CIRCLE[:1]).tolist() == [True]


def test_a_sampler_of_the_boundary_may_take_one_argument_or_two(rng):
    one = disc(boundary=lambda n: CIRCLE[:n]).boundary_points(7, rng)
    assert_array_equal(one, CIRCLE[:7])
    seen = []

    def two(n, generator):
        seen.append(generator)
        return CIRCLE[-n:]

    assert_array_equal(disc(boundary=two).boundary_points(7, rng), CIRCLE[-7:])
    assert seen == [rng]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"boundary": np.zeros((4, 3))}, InvalidInputError, r"boundary must be points of shape \(m, 2\).*got \(4, 3\)"),
        ({"boundary": np.zeros((0, 2))}, InvalidInputError, r"boundary must be points .* got \(0, 2\)"),
        ({"boundary": 2 * CIRCLE}, InvalidInputError, r"boundary must lie in the box; point 0 is \[2.0, 0.0\]"),
        ({"boundary": CIRCLE + np.nan}, InvalidInputError, r"boundary must be finite; found nan at index \(0, 0\)"),
        ({"normals": CIRCLE[:5]}, InvalidInputError, r"normals must match the boundary points.*got shape \(5, 2\)"),
        ({"normals": CIRCLE, "boundary": lambda n: CIRCLE}, InvalidInputError, "normals must match .* sampler"),
    ],
)
def test_a_bad_boundary_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        disc(**options)


def test_inside_must_be_a_callable_of_many_points():
    with pytest.raises(InvalidTypeError, match=r"inside must be a callable of X \(n, 2\).*got ndarray"):
        Region([(-1, 1)] * 2, np.ones(3, bool), CIRCLE)
    region = Region([(-1, 1)] * 2, lambda X: X > 0, CIRCLE)
    with pytest.raises(InvalidInputError, match=r"inside must return shape \(60,\).*got \(60, 2\)"):
        region.contains(CIRCLE)


def test_normals_are_of_length_one_whatever_their_source():
    for normals in (3 * CIRCLE, lambda X: 5 * X):
        assert_allclose(disc(normals=normals).normals_at(CIRCLE[3:9]), CIRCLE[3:9], rtol=0, atol=1e-14)
    near = disc(normals=CIRCLE).normals_at(CIRCLE[3:9] + 1e-4)
    assert_allclose(near, CIRCLE[3:9], rtol=0, atol=1e-14)  # those of the nearest point


@pytest.mark.parametrize(
    ("normals", "text"),
    [
        (None, "normals must be given for a Neumann or Robin condition on a Region; got None"),
        (lambda X: X[:, 0], r"normals must return shape \(60, 2\).*got \(60,\)"),
        (lambda X: 0 * X, "normals must not be zero vectors"),
        (lambda X: X * np.nan, "normals must be finite; found nan"),
    ],
)
def test_bad_normals_are_refused_when_asked(normals, text):
    with pytest.raises(InvalidInputError, match=text):
        disc(normals=normals).normals_at(CIRCLE)


# ---------------------------------------------------------------- operators


def test_an_operator_is_read_once_and_zeros_are_dropped():
    pde = PDE(SQUARE, {(2, 0): 1, (0, 1): lambda X: X[:, 0], (0, 4): 0.0}, 0.0, [Dirichlet(0.0)])
    assert (pde.n_dims, pde.order, pde.axis_order(0), pde.axis_order(1)) == (2, 2, 2, 1)
    assert not pde.is_constant
    values = pde.coefficient_values(np.array([[0.3, 1.0], [0.7, 1.0]]))
    assert values[2, 0] == 1.0
    assert_array_equal(values[0, 1], [0.3, 0.7])
    assert set(values) == {(2, 0), (0, 1)}


def test_in_one_dimension_plain_numbers_will_do():
    pde = PDE([(0, 1)], {2: 1.0, 0: -3.0}, 1.0, Dirichlet(0.0))
    assert pde.domain == Box([(0, 1)])
    assert pde.coefficient_values(np.zeros((1, 1))) == {(2,): 1.0, (0,): -3.0}
    assert pde.conditions == (Dirichlet(0.0),)


@pytest.mark.parametrize(
    ("operator", "error", "text"),
    [
        ([1.0, 2.0], InvalidTypeError, "operator must be a dict of multi-index to coefficient; got list"),
        ({(2,): 1.0}, InvalidInputError, r"multi-indices of length 2, the domain's dimension; got \(2,\) of length 1"),
        ({(2, 0, 0): 1.0}, InvalidInputError, r"got \(2, 0, 0\) of length 3"),
        ({2: 1.0}, InvalidInputError, "got 2 of length 1"),
        ({(-1, 0): 1.0}, InvalidInputError, r"non-negative integers as keys; got \(-1, 0\)"),
        ({(1.5, 0): 1.0}, InvalidInputError, r"non-negative integers as keys; got \(1.5, 0\)"),
        ({"xx": 1.0}, InvalidInputError, "non-negative integers as keys; got 'xx'"),
        ({(9, 9): 1.0}, InvalidInputError, r"order 12 at most; got \(9, 9\)"),
        ({}, InvalidInputError, "at least one coefficient that is not zero; got {}"),
        ({(2, 0): 0.0}, InvalidInputError, "at least one coefficient that is not zero"),
        ({(2, 0): "k"}, InvalidTypeError, r"operator\[\(2, 0\)\] must be a callable .* got str"),
        ({(2, 0): np.nan}, InvalidInputError, r"operator\[\(2, 0\)\] must be finite; found nan"),
        ({(2, 0): 1j}, InvalidTypeError, r"operator\[\(2, 0\)\] must be a callable .* got complex"),
        (
            {(2, 0): ([[0.5, 0.5]], [1.0])},
            InvalidTypeError,
            r"operator\[\(2, 0\)\] must be a number or a callable of X; got a pair",
        ),
    ],
)
def test_a_bad_operator_is_refused(operator, error, text):
    with pytest.raises(error, match=text):
        PDE(SQUARE, operator, 0.0, [Dirichlet(0.0)])


# ---------------------------------------------------------------- domain, source and conditions


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("square", LAPLACE, 0.0, [Dirichlet(0.0)]), InvalidTypeError, "domain must be a Box or a Region; got str"),
        (
            (SQUARE, LAPLACE, "f", [Dirichlet(0.0)]),
            InvalidTypeError,
            r"source must be a callable of X \(n, 2\).*got str",
        ),
        ((SQUARE, LAPLACE, 0.0, [0.0]), InvalidTypeError, "conditions must hold Dirichlet, .*; got float"),
        ((SQUARE, LAPLACE, 0.0, [Dirichlet]), InvalidTypeError, "conditions must hold Dirichlet, .*; got type"),
        ((SQUARE, LAPLACE, 0.0, [Dirichlet("g")]), InvalidTypeError, r"g must be a callable of X \(n, 2\).*got str"),
        (
            (SQUARE, LAPLACE, 0.0, []),
            InvalidInputError,
            "conditions must determine u; got none for an operator of order 2",
        ),
        (
            (SQUARE, LAPLACE, 0.0, [Dirichlet(0.0, where=(0, "lower"))]),
            InvalidInputError,
            "order 2 in dimension 0, but conditions hold there 1 times",
        ),
        (
            (SQUARE, LAPLACE, 0.0, [Dirichlet(0.0, where=[(0, "lower"), (0, "upper")])]),
            InvalidInputError,
            "order 2 in dimension 1, but conditions hold there 0 times",
        ),
        (
            (SQUARE, {(2, 0): -1.0, (0, 2): 1.0}, 0.0, [Initial(0.0), Dirichlet(0.0)]),
            InvalidInputError,
            r"order 2 in dimension 1, but conditions hold there 1 times.*Initial\(u0, velocity\)",
        ),
        (
            (SQUARE, LAPLACE, 0.0, [Dirichlet(0.0, where=(0, "top"))]),
            InvalidInputError,
            "'lower' or 'upper'; got 'top'",
        ),
        (
            (SQUARE, LAPLACE, 0.0, [Dirichlet(0.0, where=(5, "lower"))]),
            InvalidInputError,
            "dimension from 0 to 1; got 5",
        ),
        (
            (SQUARE, LAPLACE, 0.0, [Dirichlet(0.0, where=np.zeros((3, 5)))]),
            InvalidInputError,
            "where must be None, .* got array",
        ),
        (
            (SQUARE, LAPLACE, 0.0, [Periodic(2), Dirichlet(0.0)]),
            InvalidInputError,
            "Periodic: dim must be .* from 0 to 1; got 2",
        ),
        (
            (SQUARE, LAPLACE, 0.0, [Initial(0.0, dim="t")]),
            InvalidInputError,
            "Initial: dim must be an integer .* got 't'",
        ),
        ((disc(), LAPLACE, 0.0, [Periodic(0)]), InvalidInputError, "Periodic needs a Box as domain; got a Region"),
        ((disc(), LAPLACE, 0.0, [Initial(0.0)]), InvalidInputError, "Initial needs a Box as domain; got a Region"),
        ((disc(), LAPLACE, 0.0, [Dirichlet(0.0, where=(0, "lower"))]), InvalidInputError, "Faces belong to a Box"),
        ((disc(), LAPLACE, 0.0, []), InvalidInputError, "conditions must determine u; got none"),
    ],
)
def test_a_bad_statement_is_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        PDE(*arguments)


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ([[0.5, 0.5], [0.5, 2.5]], r"the points of source must lie in the domain; point 1 is \[0.5, 2.5\], outside of"),
        ([[0.5], [0.6]], r"the points of source must have shape \(m, 2\).*got \(2, 1\)"),
    ],
)
def test_samples_outside_of_the_domain_are_refused(points, text):
    with pytest.raises(InvalidInputError, match=text):
        PDE(SQUARE, LAPLACE, (np.array(points), np.zeros(2)), [Dirichlet(0.0)])


def test_samples_that_miss_a_region_are_refused_and_a_few_strays_are_not():
    far = np.array([[0.9, 0.9], [-0.9, 0.9], [0.1, 0.1]])
    with pytest.raises(InvalidInputError, match="points of source must lie in the domain; 2 of 3 are not inside"):
        PDE(disc(), LAPLACE, (far, np.zeros(3)), [Dirichlet(0.0)])
    near = np.r_[far[:1], np.zeros((9, 2))]
    assert PDE(disc(), LAPLACE, (near, np.zeros(10)), [Dirichlet(0.0)])._source.is_sampled


def test_a_pure_function_of_the_source_needs_no_conditions():
    assert PDE(SQUARE, {(0, 0): 2.0}, 1.0).conditions == ()


# ---------------------------------------------------------------- where a condition holds


@pytest.mark.parametrize(
    ("where", "faces"),
    [
        ((0, "lower"), [(0, 0)]),
        ((1, "upper"), [(1, 1)]),
        ((-1, 0), [(1, 0)]),
        ([(0, "left"), (1, "end")], [(0, 0), (1, 1)]),
        ((0, -1), [(0, 1)]),
        (np.zeros((3, 2)), None),
        ([[0.5, 0.0], [0.7, 0.0]], None),
    ],
)
def test_faces_are_named_in_words_or_numbers(where, faces):
    assert named_faces(where, 2) == faces


def test_without_where_a_condition_takes_what_is_left():
    pde = PDE(SQUARE, {(2, 0): 1.0, (0, 1): -1.0}, 0.0, [Initial(0.0), Dirichlet(0.0)])
    assert pde.faces_of(pde.conditions[0]) == [(1, 0)]
    assert pde.faces_of(pde.conditions[1]) == [(0, 0), (0, 1)]
    pde = PDE(SQUARE, LAPLACE, 0.0, [Periodic(0), Neumann(0.0)])
    assert pde.faces_of(pde.conditions[0]) == [(0, 0), (0, 1)]
    assert pde.faces_of(pde.conditions[1]) == [(1, 0), (1, 1)]
    pde = PDE(SQUARE, LAPLACE, 0.0, Robin(1.0, 1.0, 0.0))
    assert pde.faces_of(pde.conditions[0]) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_mask_counts_on_the_faces_that_it_touches():
    bottom = Dirichlet(0.0, where=lambda X: X[:, 1] == 0)
    with pytest.raises(InvalidInputError, match="order 2 in dimension 1, but conditions hold there 1 times"):
        PDE(SQUARE, LAPLACE, 0.0, [Dirichlet(0.0, where=[(0, 0), (0, 1)]), bottom])
    rest = Neumann(0.0, where=lambda X: X[:, 1] != 0)
    assert len(PDE(SQUARE, LAPLACE, 0.0, [bottom, rest]).conditions) == 2


def test_a_mask_must_return_one_truth_value_a_point():
    with pytest.raises(
        InvalidInputError, match=r"where must return shape \(3,\) for X of shape \(3, 2\); got \(3, 2\)"
    ):
        apply_mask(lambda X: X > 0, np.zeros((3, 2)))
    assert apply_mask(lambda X: (X[:, 0] > 0).astype(int), np.array([[1.0, 0], [0, 0]])).tolist() == [True, False]
