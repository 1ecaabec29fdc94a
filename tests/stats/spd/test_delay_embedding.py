"""Embeddings: mutual information of a resonance, a chaotic flow of dimension three, noise."""

import numpy as np
import pytest
from scipy.signal import lfilter

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.delay_embedding import _Cloud, ami_fnn, first_minimum_of_information, mdop
from sciml.stats.spd.trials import as_trials


def resonance(period, n, rng, decay=0.98):
    return lfilter([1], [1, -2 * decay * np.cos(2 * np.pi / period), decay**2], rng.normal(size=n))


@pytest.fixture(scope="module")
def lorenz():
    """The flow of 1963 by Runge-Kutta steps of 0.02, (3, 2000)."""

    def f(v):
        return np.array([10 * (v[1] - v[0]), v[0] * (28 - v[2]) - v[1], v[0] * v[1] - 8 / 3 * v[2]])

    v, h, path = np.ones(3), 0.02, []
    for _ in range(2500):
        k1 = f(v)
        k2 = f(v + h / 2 * k1)
        k3 = f(v + h / 2 * k2)
        k4 = f(v + h * k3)
        v = v + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(v)
    return np.array(path[500:]).T


@pytest.mark.parametrize("period", [16, 24, 40])
def test_information_is_least_after_a_quarter_period(period, rng):
    assert abs(first_minimum_of_information(resonance(period, 4000, rng), 30) - period / 4) <= 1.5


def test_information_knows_no_units_and_no_monotone_map(rng):
    x = resonance(24, 2000, rng)
    assert first_minimum_of_information(np.exp(1e-3 * x) * 1e6, 30) == first_minimum_of_information(x, 30)


def test_the_first_minimum_of_a_chaotic_flow(lorenz):
    assert 8 <= first_minimum_of_information(lorenz[0], 20) <= 13  # 0.16 to 0.26 time units, as published


def test_derivatives_find_three_coordinates_of_a_flow_from_one(lorenz):
    order, _ = mdop(as_trials(lorenz[None, :1]), max_lag=20)
    assert order == 3


def test_three_observed_coordinates_need_fewer_more(lorenz):
    assert mdop(as_trials(lorenz[None]), max_lag=20)[0] <= 2
    assert ami_fnn(as_trials(lorenz[None]), max_lag=20)[0] <= 2


def test_neighbours_are_nearest_but_not_in_time(rng):
    x = resonance(40, 300, rng)[None]
    cloud = _Cloud(x, window=7, span=12)
    cloud.append(5)
    z = np.stack([x[0, 12:], x[0, 7:-5]], axis=1)
    for point, neighbour, distance in zip(cloud.points, cloud.neighbour, cloud.distance, strict=True):
        away = np.linalg.norm(z - z[point - 12], axis=1)
        away[np.abs(np.arange(12, 300) - point) <= 7] = np.inf
        assert abs(away.min() - away[neighbour - 12]) < 1e-6
        assert abs(away.min() - distance) < 1e-6


@pytest.mark.parametrize("choose", [ami_fnn, mdop])
def test_units_of_channels_leave_no_trace(choose, rng):
    x = np.stack([resonance(24, 600, rng), resonance(16, 600, rng)])[None]
    expected = choose(as_trials(x))
    for units in ([1e-6, 1e6], [1e6, 1.0]):
        assert choose(as_trials(x * np.array(units)[:, None])) == expected
    assert choose(as_trials(x[:, ::-1])) == expected


@pytest.mark.parametrize("choose", [ami_fnn, mdop])
def test_stays_within_bounds(choose, rng):
    for x in (rng.normal(size=(3, 2, 300)), rng.normal(size=(2, 1, 9)), rng.normal(size=(2, 1, 300)).cumsum(axis=2)):
        order, lag = choose(as_trials(x), max_order=4, max_lag=6)
        assert 1 <= order <= 4
        assert 1 <= lag <= 6


@pytest.mark.parametrize("choose", [ami_fnn, mdop])
def test_flat_channels_are_left_out(choose, rng):
    x = resonance(24, 600, rng)[None, None]
    flat = np.concatenate([x, np.full_like(x, 3.3)], axis=1)
    assert choose(as_trials(flat)) == choose(as_trials(x))


@pytest.mark.parametrize(
    ("x", "options", "text"),
    [
        (np.ones((2, 1, 50)), {}, "all are constant"),
        (np.arange(14.0).reshape(2, 1, 7), {}, "got 7 samples"),
        (np.stack([np.eye(3)] * 2), {}, "got matrices"),
        (np.arange(100.0).reshape(1, 1, 100), {"ratio": 1}, "ratio must be"),
        (np.arange(100.0).reshape(1, 1, 100), {"max_order": 0}, "max_order must be"),
    ],
)
def test_bad_input_is_told(x, options, text):
    for choose in (ami_fnn, mdop):
        with pytest.raises(InvalidInputError, match=text):
            choose(as_trials(x), **options)
