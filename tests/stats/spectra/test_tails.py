"""Tails: estimators on known laws, the test of a power law, and noise as its rival."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.integrate import quad

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.marchenko_pastur import fit_mp
from sciml.stats.spectra.tails import _noise_density, hill_tail, moment_estimator, tail_p_value, tail_vs_mp


def pareto(alpha, size, rng):
    """Return numbers whose density is a power law of exponent alpha above 1."""
    return rng.random(size) ** (-1 / (alpha - 1))


def noise_spectrum(m, n, rng):
    W = rng.standard_normal((m, n))
    return np.linalg.eigvalsh(W @ W.T)


# ---------------------------------------------------------------- estimators


def test_hill_of_five_numbers_by_hand():
    lam = np.array([math.e**2, 1.0, 0.5, math.e, 0.2])  # tail of 2 above the threshold 1
    assert hill_tail(lam, 0.4) == pytest.approx(1 + 2 / 3, rel=1e-14)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("alpha", [1.6, 2.5, 4.0])
def test_estimators_find_the_exponent_of_a_power_law(alpha, fraction):
    rng = np.random.default_rng(0)
    samples = [pareto(alpha, 2000, rng) for _ in range(40)]
    k = fraction * 2000
    error = 4 * (alpha - 1) / np.sqrt(40 * k)
    hills = [hill_tail(s, fraction) for s in samples]
    assert np.mean(hills) == pytest.approx(alpha, abs=error + (alpha - 1) / k)  # Hill's bias is 1 / k
    # The moment estimator of gamma = 1 / (alpha - 1) has variance (1 + gamma^2) / k.
    gamma = 1 / (alpha - 1)
    found = np.mean([1 / (moment_estimator(s, fraction) - 1) for s in samples])
    assert found == pytest.approx(gamma, abs=4 * np.sqrt((1 + gamma**2) / (40 * k)) + 3 / k)


def test_only_the_moment_estimator_says_that_there_is_no_power_law():
    bounded = np.linspace(0, 1, 500)
    assert moment_estimator(bounded) == math.inf
    assert hill_tail(bounded) > 10
    assert np.isfinite(hill_tail(bounded))


def test_estimators_do_not_depend_on_units_or_order():
    lam = pareto(2.5, 300, np.random.default_rng(1))
    for estimator in (hill_tail, moment_estimator):
        one = estimator(lam, 0.1)
        assert estimator(lam[::-1] * 2.0**60, 0.1) == pytest.approx(one, rel=1e-12)
        assert estimator(torch.from_numpy(lam), 0.1) == one


def test_estimators_of_hardly_any_tail():
    for estimator in (hill_tail, moment_estimator):
        assert math.isnan(estimator(np.arange(10.0), 0.1))  # a tail of one
        assert math.isnan(estimator(np.r_[np.zeros(50), 1, 2], 0.1))  # a threshold of zero
        assert math.isnan(estimator([], 0.1))
        assert estimator(np.ones(50), 0.1) == math.inf


# ---------------------------------------------------------------- the test


def test_a_power_law_is_accepted_and_its_p_values_are_even():
    rng = np.random.default_rng(2)
    p = [tail_p_value(pareto(2.5, 60, rng), n_draws=20, random_state=k) for k in range(40)]
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) < 0.1) < 0.25


def test_two_heaps_are_no_power_law():
    lam = np.r_[np.linspace(1, 1.2, 150), np.linspace(9, 10, 150)]
    fit = SimpleNamespace(alpha=1.9, xmin=1.0, distance=0.4)
    assert tail_p_value(lam, fit, n_draws=30) == 0


def test_the_test_is_repeatable_and_knows_what_it_cannot_do():
    lam = pareto(2.2, 80, np.random.default_rng(3))
    one = tail_p_value(lam, n_draws=20)
    assert one == tail_p_value(lam, n_draws=20, random_state=0)
    assert 0 <= one <= 1
    assert (20 * one) == round(20 * one)
    assert math.isnan(tail_p_value(np.ones(50), n_draws=5))
    # Half of the numbers below the threshold are drawn from themselves.
    mixed = np.r_[np.linspace(0.1, 1, 40), lam + 1]
    assert tail_p_value(mixed, SimpleNamespace(alpha=2.2, xmin=2.0, distance=0.0), n_draws=5) == 1


# ---------------------------------------------------------------- the rival


def test_noise_is_nearer_to_noise_and_a_power_law_to_a_power_law():
    rng = np.random.default_rng(4)
    lam = noise_spectrum(150, 300, rng)
    noise = tail_vs_mp(lam, (150, 300), xmin=np.median(lam))
    assert noise.normalised < -2
    assert noise.log_ratio < 0
    assert noise.p_value < 0.05
    assert noise.n_tail == 75
    heavy = np.sort(pareto(2.0, 150, rng))
    power = tail_vs_mp(heavy, (300, 150))
    assert power.normalised > 2
    assert power.log_ratio > 0


def test_ratio_of_two_densities_by_hand():
    rng = np.random.default_rng(5)
    lam = noise_spectrum(60, 90, rng)
    x = np.quantile(lam, 0.7)
    found = tail_vs_mp(lam, (60, 90), xmin=x, alpha=3.0)
    tail = lam[lam >= x]
    density = _noise_density(tail, x, (60, 90), fit_mp(lam, (60, 90)))
    terms = np.log(2 / x * (tail / x) ** -3.0) - np.log(density)
    assert found.log_ratio == pytest.approx(terms.sum(), rel=1e-10)
    assert found.normalised == pytest.approx(terms.sum() / (terms.std() * len(terms) ** 0.5), rel=1e-10)
    assert found.p_value == pytest.approx(math.erfc(abs(found.normalised) / 2**0.5), rel=1e-10)


def test_mixed_density_of_noise_is_a_density():
    lam = noise_spectrum(80, 120, np.random.default_rng(6))
    lam[-1] *= 2
    x, fit = np.quantile(lam, 0.4), fit_mp(lam, (80, 120))

    def density(y):
        # The largest number of the tail says where the even part ends.
        tail = np.r_[lam[lam >= x][:-1], y, lam[-1]]
        return _noise_density(tail, x, (80, 120), fit)[-2]

    total = quad(density, x, lam[-1], points=[fit.lambda_plus], limit=200)[0]
    assert total == pytest.approx(1, abs=0.02)  # the shares move with the one number that is added


def test_rival_scales_with_the_units_and_tells_when_it_cannot_tell():
    lam = noise_spectrum(60, 90, np.random.default_rng(7))
    one, two = tail_vs_mp(lam, (60, 90), xmin=lam[30]), tail_vs_mp(lam * 2.0**20, (90, 60), xmin=lam[30] * 2.0**20)
    assert_allclose([two.log_ratio, two.normalised], [one.log_ratio, one.normalised], rtol=1e-9)
    for values, xmin in ((lam, lam[-1]), (np.ones(60), 1.0), (np.zeros(60), None)):
        assert math.isnan(tail_vs_mp(values, (60, 90), xmin=xmin).normalised)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: hill_tail([1.0, np.nan]), "eigenvalues must be a vector of finite numbers; .* 1 that are not"),
        (lambda: hill_tail([-1.0, 1.0]), "eigenvalues must not be below 0; got -1"),
        (lambda: moment_estimator(np.ones((2, 2))), r"got shape \(2, 2\)"),
        (lambda: hill_tail([1.0, 2.0], 1.0), "fraction must be a number above 0 and below 1; got 1.0"),
        (lambda: tail_p_value([1.0, 2.0], n_draws=0), "n_draws must be an integer at least 1; got 0"),
        (lambda: tail_vs_mp(np.arange(1, 21.0), (20, 30), xmin=-1.0), "xmin must be a number above 0; got -1.0"),
        (lambda: tail_vs_mp(np.arange(1, 21.0), (20, 30), xmin=1.0, alpha=0.5), "alpha must be a number above 1"),
        (lambda: tail_vs_mp(np.arange(1, 21.0), (10, 30)), "at most 10 numbers"),
    ],
)
def test_bad_input_is_refused(call, text):
    with pytest.raises(InvalidInputError, match=text):
        call()
