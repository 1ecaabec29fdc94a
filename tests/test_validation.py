"""Checks let right values through in one form, and name argument, value and remedy otherwise."""

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.validation import check_finite, check_number, check_option, check_points


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int8(2), np.array(2.0), torch.tensor(2.0)])
def test_numbers_of_all_kinds_become_python_numbers(value):
    assert type(check_number("tol", value)) is float
    assert check_number("tol", value) == 2
    assert type(check_number("n", value, integer=True)) is int


@pytest.mark.parametrize("value", [True, np.True_, "2", None, 1j, [2.0], np.array([2.0]), float("nan"), float("inf")])
def test_what_is_no_number_is_named(value):
    with pytest.raises(InvalidInputError, match="^tol must be a number.*got "):
        check_number("tol", value)


@pytest.mark.parametrize(
    ("inclusive", "low_ok", "high_ok"),
    [("both", True, True), ("neither", False, False), ("low", True, False), ("high", False, True)],
)
def test_ends_of_a_range_belong_to_it_as_asked(inclusive, low_ok, high_ok):
    for value, allowed in ((0, low_ok), (1, high_ok), (0.5, True), (-0.1, False), (1.1, False)):
        if allowed:
            assert check_number("x", value, low=0, high=1, inclusive=inclusive) == value
        else:
            with pytest.raises(InvalidInputError, match=f"x must be a number .*got {value}"):
                check_number("x", value, low=0, high=1, inclusive=inclusive)


def test_the_rule_of_a_range_is_spelt_out():
    with pytest.raises(InvalidInputError, match=r"^n must be an integer at least 1 and below 9; got 2.5\."):
        check_number("n", 2.5, low=1, high=9, integer=True, inclusive="low")


def test_a_huge_integer_is_no_overflow():
    assert check_number("memory", 10**400, low=1, integer=True) == 10**400


def test_a_wrong_option_lists_the_right_ones_and_the_nearest():
    with pytest.raises(InvalidInputError, match=r"'auto', 'spectral'; got 'spectrall'. Did you mean 'spectral'\?"):
        check_option("method", "spectrall", ("auto", "spectral"))
    with pytest.raises(InvalidInputError, match=r"got None\.$"):
        check_option("method", None, ("auto", "spectral"))


def test_finite_names_the_first_bad_entry_and_counts():
    array = np.zeros((3, 2))
    check_finite("b", array)
    array[1, 1], array[2, 0] = np.nan, np.inf
    with pytest.raises(InvalidInputError, match=r"b must be finite; the entry at index \(1, 1\) is nan, one of 2 such"):
        check_finite("b", array)
    with pytest.raises(InvalidInputError, match=r"index 0 is -inf"):
        check_finite("b", np.array([-np.inf]))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_points_are_rows_in_float64(kind):
    X = check_points("X", kind([[0, 1], [2, 3], [4, 5]]), 2)
    assert X.dtype == np.float64
    assert X.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_points_on_a_line_may_be_a_vector():
    assert check_points("X", [1.0, 2.0], 1).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("X", "d", "match"),
    [
        ([1.0, 2.0], 2, r"X must be of shape \(n, 2\); got shape \(2,\)"),
        (np.zeros((2, 5)), 2, r"got shape \(2, 5\). Pass its transpose"),
        (np.zeros((4, 3)), 2, r"got shape \(4, 3\). Put one point of 2"),
        ([["a", "b"]], 2, "X must be real numbers .*dtype is <U1"),
        ([[1j, 0]], 2, "complex128"),
        ([[1.0], [1.0, 2.0]], 2, "X must be real numbers"),
        ([[1.0, np.nan]], 2, r"X must be finite; the entry at index \(0, 1\) is nan"),
    ],
)
def test_wrong_points_are_named(X, d, match):
    with pytest.raises(InvalidInputError, match=match):
        check_points("X", X, d)
