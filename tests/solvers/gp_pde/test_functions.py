"""Claims about callables, numbers and samples at the door: what is taken, and how refusals read."""

import math
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import FallbackWarning, InvalidInputError, InvalidTypeError
from sciml.solvers.gp_pde.functions import PointFunction, to_numpy

X = np.array([[0.5, 2.0], [1.5, 3.0], [2.5, 5.0]])


# ---------------------------------------------------------------- what is taken


@pytest.mark.parametrize("number", [2, 2.5, np.float32(2.5), np.int64(3), np.array(1.5)])
def test_a_number_is_a_constant(number):
    f = PointFunction("g", number, 2)
    assert f.constant == float(number)
    assert_array_equal(f(X), np.full(3, float(number)))


def test_a_callable_is_asked_at_all_points_at_once():
    sizes = []

    def g(points):
        sizes.append(points.shape)
        return points[:, 0] * points[:, 1]

    assert_array_equal(PointFunction("g", g, 2)(X), X[:, 0] * X[:, 1])
    assert sizes == [(2, 2), (3, 2)]  # one probe with two points


@pytest.mark.parametrize(
    "g",
    [
        lambda P: torch.as_tensor(P[:, 0]),
        lambda P: P[:, :1],
        lambda P: P[:, 0].astype(np.float32),
        lambda P: list(P[:, 0]),
    ],
    ids=["torch", "column", "float32", "list"],
)
def test_any_kind_of_column_comes_back_as_float64(g):
    values = PointFunction("g", g, 2)(X)
    assert values.dtype == np.float64
    assert_array_equal(values, X[:, 0])


def test_a_callable_may_return_one_number_and_cannot_change_the_points():
    def spoil(points):
        points[:] = 0
        return 7.0

    before = X.copy()
    assert_array_equal(PointFunction("g", spoil, 2)(X), [7, 7, 7])
    assert_array_equal(X, before)


def test_samples_are_kept_and_shapes_of_one_dimension_are_mended():
    f = PointFunction("source", ([0.0, 1.0, 2.0], [[1], [2], [3]]), 1)
    assert f.is_sampled
    assert f.points.shape == (3, 1)
    assert_array_equal(f.values, [1.0, 2.0, 3.0])
    tensor = PointFunction("source", (torch.zeros(3, 2), torch.ones(3)), 2)
    assert tensor.single_precision
    assert isinstance(tensor.values, np.ndarray)


def test_no_points_give_no_values():
    assert PointFunction("g", lambda P: P[:, 0], 2)(np.zeros((0, 2))).shape == (0,)


# ---------------------------------------------------------------- callables of one point


@pytest.mark.parametrize("d", [1, 2])
def test_a_callable_of_one_point_warns_once_and_works(d):
    def g(x):
        return math.sin(x) if d == 1 else math.sin(x[0]) + x[1]  # math.sin cannot take many

    f = PointFunction("g", g, d)
    with pytest.warns(FallbackWarning, match="g is not vectorised .* point by point"):
        values = f(X[:, :d])
    assert_allclose(values, np.sin(X[:, 0]) + (d - 1) * X[:, 1], rtol=1e-15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_array_equal(f(X[:, :d]), values)


def test_a_callable_that_returns_a_scalar_for_many_points_by_mistake_is_looped():
    f = PointFunction("source", lambda x: [float(np.ravel(x)[0])], 2)  # a list of one number, whatever came
    with pytest.warns(FallbackWarning, match=r"must return shape \(2,\) for X of shape \(2, 2\); got \(1,\)"):
        assert_array_equal(f(X), X[:, 0])


def test_a_scalar_answer_is_not_mistaken_for_a_constant():
    f = PointFunction("g", lambda x: float(np.exp(-(np.linalg.norm(x) ** 2))), 2)
    with pytest.warns(FallbackWarning, match="g is not vectorised"):
        values = f(X)
    assert_allclose(values, np.exp(-(X**2).sum(axis=1)), rtol=1e-13)


def test_a_constant_callable_stays_silent():
    assert_array_equal(PointFunction("g", lambda X: 1.5, 2)(X), [1.5, 1.5, 1.5])


# ---------------------------------------------------------------- refusals


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(InvalidInputError, match="g must be finite; found nan"):
        PointFunction("g", float("nan"), 2)


@pytest.mark.parametrize("value", ["x**2", None, [1.0, 2.0], np.ones(3), True, (1, 2, 3), {}])
def test_a_value_of_no_known_kind_is_a_type_error(value):
    with pytest.raises(InvalidTypeError, match=rf"source must be a callable of X \(n, 2\).*got {type(value).__name__}"):
        PointFunction("source", value, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_callable_with_a_bad_value_names_the_first_bad_point(bad):
    f = PointFunction("source", lambda P: np.where(P[:, 0] > 1, bad, 1.0), 2)
    with pytest.raises(
        InvalidInputError, match=rf"source must return finite values; got {bad} at the point \[1.5 3. \] \(2 of 3"
    ):
        f(X)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda P: P, r"source must return shape|source must be a callable of X \(n, 2\) that returns \(n,\)"),
        (lambda P: P[:, 0] + 1j, "source must return real numbers; got dtype complex128|source must be a callable"),
        (lambda P: P[:, 9], "source must be a callable .* index 9 is out of bounds"),
        (lambda P: 1 / 0, "source must be a callable .* division by zero"),
    ],
    ids=["shape", "complex", "index", "raises"],
)
def test_a_callable_that_fails_is_reported_with_its_own_words(value, text):
    with pytest.raises(InvalidInputError, match=text):
        PointFunction("source", value, 2)(X)


@pytest.mark.parametrize(
    ("points", "values", "text"),
    [
        (np.zeros((3, 3)), np.zeros(3), r"the points of source must have shape \(m, 2\).*got \(3, 3\)"),
        (np.zeros(6), np.zeros(3), r"the points of source must have shape \(m, 2\).*got \(6,\)"),
        (np.zeros((3, 2)), np.zeros(4), r"the values of source must have shape \(3,\).*got \(4,\)"),
        (np.zeros((3, 2)), np.zeros((3, 2)), r"the values of source must have shape \(3,\).*got \(3, 2\)"),
        (np.zeros((0, 2)), np.zeros(0), "source must hold at least one sample; got 0"),
        (
            np.zeros((3, 2)),
            [0, np.nan, np.nan],
            r"the values of source must be finite; found nan at index 1.*\(2 in all\)",
        ),
        ([[0, 0], [0, np.inf]], [0, 1], r"the points of source must be finite; found inf at index \(1, 1\)"),
        (np.zeros((3, 2)), np.zeros(3) + 1j, "the values of source must hold real numbers; got dtype complex128"),
        (np.zeros((3, 2)), ["a", "b", "c"], "the values of source must hold real numbers; got dtype <U1"),
    ],
)
def test_bad_samples_are_refused_by_name(points, values, text):
    with pytest.raises(InvalidInputError, match=text):
        PointFunction("source", (points, values), 2)


def test_samples_cannot_be_asked_elsewhere():
    f = PointFunction("source", (np.zeros((3, 2)), np.ones(3)), 2)
    with pytest.raises(InvalidInputError, match="source is known at its 3 points only"):
        f(X)


def test_arrays_of_any_library_become_float64(backend):
    values = to_numpy("X", backend.array([[1, 2], [3, 4]], dtype=np.float32))
    assert values.dtype == np.float64
    assert_array_equal(values, [[1, 2], [3, 4]])
