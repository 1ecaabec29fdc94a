"""Probabilities from distances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sciml.stats.spd.temperature import distance_probabilities, fit_temperature


def loss(D, codes, tau):
    """The smoothed likelihood, by the book."""
    n, k = D.shape
    target = np.full((n, k), 1 / (n + 2) / (k - 1))
    target[np.arange(n), codes] = 1 - 1 / (n + 2)
    return -np.sum(target * np.log(distance_probabilities(D, tau)))


def test_the_temperature_is_that_of_least_loss(rng):
    D, codes = rng.uniform(1, 3, (40, 3)), rng.integers(0, 3, 40)
    D[np.arange(40), codes] -= 0.7
    tau = fit_temperature(D, codes)
    best = loss(D, codes, tau)
    assert all(loss(D, codes, f * tau) > best for f in (0.9, 0.99, 1.01, 1.1))


def test_a_truth_is_recovered(rng):
    # Labels drawn from the model itself; the error of one parameter from N = 20000 draws is about a percent.
    D = rng.uniform(0, 5, (20000, 3))
    P = distance_probabilities(D, 0.8)
    codes = (P.cumsum(1) < rng.random((20000, 1))).sum(1)
    assert_allclose(fit_temperature(D, codes), 0.8, rtol=0.05)


@given(st.integers(-100, 100))
def test_units_do_not_matter(k):
    D = np.random.default_rng(0).uniform(0, 1, (10, 2))
    codes = np.arange(10) % 2
    assert_allclose(fit_temperature(2.0**k * D, codes), 2.0**k * fit_temperature(D, codes), rtol=1e-12)


def test_separated_classes_and_chance_leave_it_finite():
    D = np.array([[0.0, 1.0], [1.0, 0.0]] * 4)
    codes = np.array([0, 1] * 4)
    p = distance_probabilities(D, fit_temperature(D, codes))
    assert_allclose(p.max(1), 0.9, rtol=1e-9)  # 1 - 1 / (8 + 2)
    wrong = distance_probabilities(D, fit_temperature(D, 1 - codes))
    assert_allclose(wrong, 0.5, atol=1e-6)
    assert (wrong.argmax(1) == codes).all()  # the order of the distances stays
    assert fit_temperature(np.ones((3, 2)), np.array([0, 1, 0])) == 1


def test_far_trials_do_not_overflow():
    assert_allclose(distance_probabilities(np.array([[1e300, 2e300]]), 1e-3), [[1, 0]])
    assert distance_probabilities(np.array([[5.0, 5.0, 5.0]]), 1.0).sum() == pytest.approx(1)
