"""Exponents: closed forms, the complete search as a slow twin, and what has no exponent."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.power_law import fit_powerlaw, hill


def search_all_thresholds(lam):
    """The definition, one threshold at a time."""
    lam = np.sort(lam)
    best = (math.inf, math.nan, math.nan)
    for i in range(len(lam) - 1):
        tail, K = lam[i:], len(lam) - i
        S = np.log(tail / lam[i]).sum()
        if S <= 0:
            continue
        alpha = 1 + K / S
        D = np.abs(1 - (tail / lam[i]) ** (1 - alpha) - np.arange(K) / K).max()
        if best[0] > D:
            best = (D, alpha, lam[i])
    return best


def test_hill_by_hand():
    # The upper half of four numbers is 2 and 8, the threshold 2 counts: K = 2, sum ln 4.
    assert_allclose(hill([8.0, 1.0, 2.0, 0.5]), 1 + 2 / math.log(4), rtol=1e-15)


def test_hill_of_an_odd_number_takes_the_floor():
    assert_allclose(hill([1.0, 2.0, 4.0]), 1 + 2 / math.log(2), rtol=1e-15)


def test_hill_at_another_quantile():
    assert_allclose(hill([1.0, 2.0, 4.0, 8.0], q=0.25), 1 + 3 / math.log(2 * 4), rtol=1e-15)


def test_hill_of_pareto_quantiles():
    u = (np.arange(100000) + 0.5) / 100000
    assert hill((1 - u) ** (-1 / 2.0)) == pytest.approx(3.0, abs=1e-3)


def test_bias_correction_removes_the_bias(rng):
    draws = rng.pareto(3.0, (4000, 20)) + 1
    plain = np.mean([hill(x, 0.0) for x in draws])
    corrected = np.array([hill(x, 0.0, bias_corrected=True) for x in draws])
    assert plain > 4.2
    assert abs(corrected.mean() - 4.0) < 4 * corrected.std() / math.sqrt(4000)


@pytest.mark.parametrize(("lam", "alpha"), [([2.0] * 5, math.inf), ([0.0, 0.0, 0.0, 1.0], math.nan), ([3.0], math.nan)])
def test_hill_where_there_is_none(lam, alpha):
    assert_allclose(hill(lam), alpha)


@pytest.mark.parametrize("n", [2, 3, 20, 300])
def test_search_equals_the_complete_search(rng, n):
    for _ in range(20 if n < 300 else 4):
        lam = np.exp(rng.normal(size=n) * rng.uniform(0.2, 3))
        D, alpha, xmin = search_all_thresholds(lam)
        fit = fit_powerlaw(lam)
        assert_allclose((fit.distance, fit.alpha, fit.xmin), (D, alpha, xmin), rtol=1e-10)


def test_search_equals_the_complete_search_for_a_layer(rng):
    lam = np.linalg.svd(rng.standard_t(3, (150, 400)), compute_uv=False) ** 2
    D, alpha, xmin = search_all_thresholds(lam)
    fit = fit_powerlaw(lam)
    assert_allclose((fit.distance, fit.alpha, fit.xmin), (D, alpha, xmin), rtol=1e-11)
    assert fit.n_tail == (lam >= fit.xmin).sum()


@given(st.integers(-500, 500))
@settings(deadline=None, max_examples=20)
def test_exponents_have_no_units(k):
    lam = np.exp(np.linspace(-2, 3, 50) ** 2)
    one, scaled = fit_powerlaw(lam), fit_powerlaw(lam * 2.0**k)
    assert (scaled.alpha, scaled.distance, scaled.xmin) == (one.alpha, one.distance, one.xmin * 2.0**k)
    assert hill(lam * 2.0**k) == hill(lam)


def test_zeros_are_left_out(rng):
    lam = rng.pareto(1.5, 60) + 1
    assert fit_powerlaw(np.concatenate([np.zeros(40), lam])) == fit_powerlaw(lam)


def test_ties_belong_to_the_tail():
    lam = [1.0, 1.0, 1.0, 2.0, 4.0, 8.0]
    D, alpha, xmin = search_all_thresholds(lam)
    fit = fit_powerlaw(lam)
    assert_allclose((fit.distance, fit.alpha, fit.xmin), (D, alpha, xmin), rtol=1e-12)
    assert (fit.xmin, fit.n_tail) == (1.0, 6)


def test_equal_eigenvalues_have_an_infinite_exponent():
    assert fit_powerlaw(np.ones(9)).alpha == math.inf
    assert math.isnan(fit_powerlaw([0.0, 0.0, 5.0]).alpha)


def test_a_given_threshold(rng):
    lam = np.sort(rng.pareto(1.5, 200) + 1)
    fit = fit_powerlaw(lam, xmin=lam[100])
    assert_allclose(fit.alpha, 1 + 100 / np.log(lam[100:] / lam[100]).sum(), rtol=1e-12)
    assert fit.n_tail == 100


def test_thresholds_near_the_peak(rng):
    # A bulk about 10 and a cluster of large eigenvalues, which a free search takes for the tail.
    lam = np.sort(np.concatenate([10 * rng.lognormal(0, 0.3, 400), 1000 * (rng.pareto(3.0, 60) + 1)]))
    counts, edges = np.histogram(np.log10(lam), bins=100)
    peak = 10 ** edges[counts.argmax()]
    near, published = fit_powerlaw(lam, xmin="peak"), fit_powerlaw(lam, xmin="peak-published")
    assert fit_powerlaw(lam).xmin > 500
    assert 0.95 * peak < near.xmin <= 1.5 * peak
    assert math.log10(0.95 * peak) < published.xmin <= 1.5 * peak
    assert near == fit_powerlaw(lam, xmin_range=(0.95 * peak, 1.5 * peak))
    assert published == fit_powerlaw(lam, xmin_range=(math.log10(0.95 * peak), 1.5 * peak))
    with pytest.raises(InvalidInputError, match="xmin must be one of 'peak', 'peak-published'; got 'top'"):
        fit_powerlaw(lam, xmin="top")


def test_a_range_of_thresholds(rng):
    lam = np.sort(rng.pareto(1.5, 200) + 1)
    fit = fit_powerlaw(lam, xmin_range=(lam[120], lam[150]))
    assert lam[120] <= fit.xmin <= lam[150]
    with pytest.raises(InvalidInputError, match=r"xmin_range must hold an eigenvalue .* got \(1000000.0, "):
        fit_powerlaw(lam, xmin_range=(1e6, 1e7))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: hill([1.0, -2.0]), r"eigenvalues must not be negative; got -2 at index 1"),
        (lambda: hill([1.0, math.nan]), "eigenvalues must be finite"),
        (lambda: hill(np.ones((2, 2))), r"shape \(N,\); got shape \(2, 2\)"),
        (lambda: hill([1.0, 2.0], q=1.0), "q must be a number at least 0 and below 1; got 1.0"),
        (lambda: fit_powerlaw([]), r"got shape \(0,\)"),
        (lambda: fit_powerlaw("abc"), "one list of real numbers, .* got dtype <U3"),
        (lambda: fit_powerlaw(None), "got dtype object"),
        (lambda: hill(np.ones(3) + 1j), "got dtype complex128"),
        (lambda: fit_powerlaw([1.0, 2.0], xmin=5.0), "xmin must leave two eigenvalues; got xmin=5"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(InvalidInputError, match=text):
        call()
