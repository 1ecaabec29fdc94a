"""The variance of a pooled exponent: derivatives, components that are known, coverage of populations."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.stats.spectra.farms import farms_spectrum
from sciml.stats.spectra.jackknife import pooled_hill, student_quantile, variance


def test_influences_are_derivatives(rng):
    # Windows of different scale and spread, each taken twice and left out in turn.
    spread, scale = np.exp(0.4 * rng.normal(size=(20, 1))), 0.3 * rng.normal(size=(20, 1))
    windows = np.exp(spread * rng.normal(size=(20, 4000)) + scale)
    alpha, influence, deficient = pooled_hill(windows.reshape(1, 4, 5, -1), 0.5)
    assert not deficient
    change = []
    for k in range(20):
        twice = pooled_hill(np.concatenate([windows, windows[[k]]])[None, None], 0.5)[0]
        without = pooled_hill(np.delete(windows, k, axis=0)[None, None], 0.5)[0]
        change.append((twice - without) / (1 / 21 + 1 / 19))
    # Terms of third order and the density at the threshold, read from 8000 eigenvalues, are some percent.
    assert_allclose(influence.ravel(), change, rtol=0, atol=0.15 * np.std(change))
    assert np.polyfit(influence.ravel(), change, 1)[0] == pytest.approx(1, abs=0.03)
    assert abs(influence.mean()) < 1e-12


def test_variance_of_independent_windows(rng):
    t = rng.normal(size=(400, 3, 4))
    found = np.array([variance(x[None]) for x in t])
    assert 1 / 12 < found.mean() < 2 / 12  # the floor at the variance of windows makes it large rather than small


@pytest.mark.parametrize(("rows", "cols"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_variance_of_rows_and_columns(rng, rows, cols):
    effects = rows * rng.normal(size=(600, 6, 1)) + cols * rng.normal(size=(600, 1, 6)) + np.zeros((600, 6, 6))
    found = np.mean([variance(x[None]) for x in effects])
    # Six rows: the mean of 600 variances has a relative error of sqrt(2 / 5 / 600), 3 %.
    assert found == pytest.approx((rows**2 + cols**2) / 6, rel=0.1)


def test_what_differs_between_repeats_is_averaged(rng):
    shared = rng.normal(size=(300, 1, 4, 4))
    fresh = rng.normal(size=(300, 8, 4, 4))
    same = np.mean([variance(np.repeat(x, 8, axis=0)) for x in shared])
    other = np.mean([variance(x) for x in fresh])
    assert other < 0.6 * same


def test_one_row_of_windows_and_one_window(rng):
    t = rng.normal(size=(1, 1, 8))
    assert_allclose(variance(t), t.var(ddof=1) / 8)
    assert math.isnan(variance(np.zeros((3, 1, 1))))


def test_quantiles_come_from_the_number_of_windows():
    assert student_quantile((1, 2, 2)) == pytest.approx(3.182, abs=1e-3)
    assert student_quantile((1, 40, 40)) == pytest.approx(1.96, abs=5e-3)


def populations(m, n, rng):
    """Layers whose population exponent the interval is to cover."""
    G = rng.standard_normal((m, n))
    turn = np.linalg.qr(rng.standard_normal((m, m)))[0]
    return {
        "noise": G,
        "heavy entries": rng.standard_t(3, (m, n)),
        "correlated rows": turn @ (np.arange(1, m + 1)[:, None] ** -0.5 * G),
        "spikes": G + 3 * rng.standard_normal((m, 3)) @ rng.standard_normal((3, n)) / 3,
    }


def test_intervals_cover(rng):
    found = {}
    for _ in range(100):
        for name, W in populations(64, 128, rng).items():
            found.setdefault(name, []).append(farms_spectrum(W, random_state=rng))
    for name, fits in found.items():
        mean = np.mean([fit.alpha for fit in fits])
        covered = np.mean([fit.lo <= mean <= fit.hi for fit in fits])
        # 95 percent, less two standard errors of a share of 100.
        assert covered >= 0.90, (name, covered)
        width = np.mean([fit.se for fit in fits])
        assert width < 4 * np.std([fit.alpha for fit in fits]), name


def test_permutation_of_neurons_stays_within_the_error(rng):
    turn = np.linalg.qr(rng.standard_normal((96, 96)))[0]
    W = turn @ (np.arange(1, 97)[:, None] ** -0.7 * rng.standard_normal((96, 192)))
    fits = [farms_spectrum(W[rng.permutation(96)][:, rng.permutation(192)]) for _ in range(20)]
    assert np.std([fit.alpha for fit in fits]) < 1.5 * np.mean([fit.se for fit in fits])


def test_few_eigenvalues_and_equal_ones():
    assert math.isnan(pooled_hill(np.ones((1, 1, 1, 9)), 0.5)[0])
    assert pooled_hill(np.ones((1, 2, 2, 9)), 0.5)[0] == math.inf
