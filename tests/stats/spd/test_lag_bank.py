"""The lag bank: slow twins, no wrapping around, memory."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.lag_bank import LagBank


@pytest.fixture
def x(rng):
    return rng.normal(size=(3, 2, 60)).cumsum(axis=2)


def test_sums_are_those_of_lagged_products(x):
    bank = LagBank(x)
    y = x - x.mean(axis=2, keepdims=True)
    for k in (0, 1, 7, 59):
        slow = sum(y[:, :, t + k, None] * y[:, None, :, t] for t in range(60 - k))
        assert_allclose(bank.sums(k), slow, rtol=0, atol=1e-12 * np.abs(slow).max())


@pytest.mark.parametrize(("p", "lag"), [(1, 1), (2, 1), (3, 5), (4, 10), (6, 9), (10, 5), (2, 40)])
def test_estimates_are_those_of_stacked_series(x, p, lag):
    bank = LagBank(x)
    y, span = x - x.mean(axis=2, keepdims=True), (p - 1) * lag
    T = 60 - span
    z = np.concatenate([y[:, :, i * lag : i * lag + T] for i in range(p)], axis=1)
    expected = z @ z.transpose(0, 2, 1) / T
    assert_allclose(bank.windowed(p, lag), expected, rtol=0, atol=1e-13 * np.abs(expected).max())

    padded = np.pad(y, ((0, 0), (0, 0), (span, span)))
    z = np.concatenate([padded[:, :, i * lag : i * lag + 60 + span] for i in range(p)], axis=1)
    expected = z @ z.transpose(0, 2, 1) / 60
    assert_allclose(bank.toeplitz(p, lag), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_toeplitz_blocks_depend_on_the_difference_only(x):
    C = LagBank(x).toeplitz(4, 3).reshape(3, 4, 2, 4, 2)
    for i in range(3):
        for j in range(3):
            assert_array_equal(C[:, i + 1, :, j + 1], C[:, i, :, j])
    assert_array_equal(C, C.transpose(0, 3, 4, 1, 2))


def test_the_end_is_not_joined_to_the_beginning():
    x = np.zeros((1, 1, 50))
    x[0, 0, 0], x[0, 0, -1] = 1.0, -1.0  # a circular shift by one would pair them
    assert LagBank(x).sums(1)[0, 0, 0] == 0.0
    assert LagBank(x).sums(49)[0, 0, 0] == -1.0


def test_an_autoregression_has_its_known_autocovariance(rng):
    a, T = 0.8, 200_000
    e = rng.normal(size=T)
    x = np.empty(T)
    x[0] = e[0] / np.sqrt(1 - a**2)
    for t in range(1, T):
        x[t] = a * x[t - 1] + e[t]
    C = LagBank(x[None, None]).toeplitz(5, 1)[0]
    lags = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    assert_allclose(C, a**lags / (1 - a**2), atol=0.07)  # 4 standard errors of the variance: sqrt(2 / T * 4.6) * 2.8


def test_white_noise_is_white(rng):
    C = LagBank(rng.normal(size=(1, 2, 100_000))).windowed(3, 7)[0]
    assert_allclose(C, np.eye(6), atol=0.02)  # four to five times 1 / sqrt(T)


def test_memory_changes_nothing(x):
    small, large = LagBank(x, memory=100), LagBank(x)
    for p, lag in ((3, 2), (3, 4), (3, 2)):
        assert_array_equal(small.toeplitz(p, lag), large.toeplitz(p, lag))
        assert_array_equal(small.windowed(p, lag), large.windowed(p, lag))
    assert len(small._sums) == 1
    assert len(large._sums) == 4


def test_a_power_of_two_is_exact(x):
    assert_array_equal(LagBank(2.0**-20 * x).windowed(4, 3), 2.0**-40 * LagBank(x).windowed(4, 3))


@pytest.mark.parametrize("k", [-1, 60])
def test_lags_beyond_the_trial_are_told(x, k):
    with pytest.raises(InvalidInputError, match=f"from 0 to 59.*got {k}"):
        LagBank(x).sums(k)
