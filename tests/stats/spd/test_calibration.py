"""Calibration: finds the temperature and shifts that made the labels, and holds back where there is little to learn."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.stats.spd.calibration import calibrated, fit_calibration
from sciml.stats.spd.logistic import log_softmax


def drawn(n, slope, shift, seed=0):
    rng = np.random.default_rng(seed)
    log_p = log_softmax(2 * rng.normal(size=(n, 3)))
    true = np.exp(log_softmax(slope * log_p + shift))
    return log_p, (rng.random(n)[:, None] > true.cumsum(1)).sum(1)


def test_recovers_temperature_and_shifts_of_many_trials():
    shift = np.array([0.5, -0.5, 0.0])
    a, *b = fit_calibration(*drawn(40_000, 0.6, shift))
    # Three standard errors, some 0.02, and the prior, which is worth a hundred trials of 40,000.
    assert abs(a - 0.6) < 0.03
    assert_allclose(np.array(b) - np.mean(b), shift, atol=0.06)


def test_temperature_alone_shifts_nothing():
    parameters = fit_calibration(*drawn(500, 0.6, 0.0), "temperature")
    assert_allclose(parameters[1:], 0)
    assert parameters[0] < 0.9
    assert_allclose(fit_calibration(*drawn(50, 0.6, 0.0), "none"), [1, 0, 0, 0])


def test_nothing_runs_away_where_all_trials_are_right():
    log_p = np.log(np.array([[0.9, 0.1], [0.1, 0.9]] * 10))
    a, *b = fit_calibration(log_p, np.array([0, 1] * 10))
    assert 1 <= a < 1.2
    assert_allclose(b, 0, atol=1e-6)


@pytest.mark.parametrize("method", ["sigmoid", "temperature"])
def test_the_fit_is_an_optimum(method):
    log_p, codes = drawn(300, 0.5, np.array([0.3, 0.0, -0.3]))
    best = fit_calibration(log_p, codes, method)

    def loss(a, b):
        value = -calibrated(log_p, np.r_[a, b])[np.arange(300), codes].sum()
        return value + (30 * np.log(a) ** 2 + 100 * (b**2).sum()) / 2

    for step in (1e-3, -1e-3):
        assert loss(best[0], best[1:]) < loss(best[0] * (1 + step), best[1:])
        if method == "sigmoid":
            assert loss(best[0], best[1:]) < loss(best[0], best[1:] + step * np.array([1, 0, 0]))


def test_calibrated_rows_sum_to_one_even_from_zero_probabilities():
    P = np.exp(calibrated(np.array([[0.0, -np.inf]]), np.array([1.0, 0.0, 0.0])))
    assert_allclose(P.sum(1), 1)
