"""Polynomials of time: orthonormal on the samples, Legendre's in the limit."""

import numpy as np
import pytest
from numpy.polynomial import legendre
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.time_basis import legendre_basis


@pytest.mark.parametrize(("T", "K"), [(2, 2), (7, 6), (7, 7), (50, 10), (400, 40), (896, 6)])
def test_orthonormal_on_the_samples(T, K):
    P = legendre_basis(T, K)
    assert P.shape == (K, T)
    assert_allclose(P @ P.T / T, np.eye(K), atol=1e-13)
    assert_array_equal(P[0], np.ones(T))
    assert (P[:, -1] > 0).all()


def test_each_row_is_a_polynomial_of_its_degree():
    t = np.arange(12.0)
    for k, p in enumerate(legendre_basis(12, 5)):
        assert_allclose(np.polyval(np.polyfit(t, p, k), t), p, atol=1e-12)
        assert k == 0 or np.abs(np.polyval(np.polyfit(t, p, k - 1), t) - p).max() > 0.1


def test_tends_to_legendre():
    T = 20_000
    s = (2 * np.arange(T) + 1 - T) / T
    expected = [np.sqrt(2 * k + 1) * legendre.legval(s, np.eye(5)[k]) for k in range(5)]
    assert_allclose(legendre_basis(T, 5), expected, atol=1e-6)  # they differ by O(1 / T^2) at midpoints


def test_a_linear_trend_has_one_known_coordinate():
    T = 101
    trend = np.arange(T) - 50.0
    coordinates = legendre_basis(T, 4) @ trend / T
    assert_allclose(coordinates, [0, np.sqrt((T**2 - 1) / 12), 0, 0], atol=1e-12)


def test_reversing_time_changes_the_sign_of_odd_degrees():
    P = legendre_basis(33, 6)
    assert_allclose(P[:, ::-1], P * (-1.0) ** np.arange(6)[:, None], atol=1e-13)


def test_what_is_returned_may_be_changed():
    legendre_basis(10, 3)[:] = 0
    assert legendre_basis(10, 3)[0, 0] == 1


@pytest.mark.parametrize(
    ("T", "K", "text"), [(5, 6, "n_basis=6 for trials of 5"), (5, -1, "n_basis must be"), (1, 1, "n_times must be")]
)
def test_bad_numbers_are_told(T, K, text):
    with pytest.raises(InvalidInputError, match=text):
        legendre_basis(T, K)
