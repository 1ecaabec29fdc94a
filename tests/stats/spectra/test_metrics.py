"""Metrics of a spectrum: closed forms, scales, and what each odd spectrum gives."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.stats.spectra.marchenko_pastur import mp_alpha
from sciml.stats.spectra.metrics import spectral_metrics

lam = np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 8.0, 16.0])


def metrics(values, rows=10, cols=40, **options):
    return spectral_metrics(np.sort(np.asarray(values, dtype=float)), rows=rows, cols=cols, **options)


def test_closed_forms():
    found, status = metrics(lam)
    p = lam / 44
    assert status == "ok"
    assert_allclose(found["stable_rank"], 44 / 16)
    assert_allclose(found["frobenius"], 44)
    assert_allclose(found["log_spectral_norm"], math.log10(16))
    assert_allclose(found["entropy"], -(p * np.log(p)).sum() / math.log(10))
    assert_allclose(found["participation"], 44**2 / (10 * (lam**2).sum()))
    assert (found["rank"], found["rank_fraction"]) == (10, 1.0)
    assert_allclose(found["alpha"], 1 + 5 / np.log(lam[5:] / 3).sum())
    assert_allclose(found["alpha_weighted"], found["alpha_ks"] * math.log10(16))
    assert_allclose(found["log_alpha_norm"], math.log10((lam ** found["alpha_ks"]).sum()))
    assert_allclose(found["alpha_mp"], mp_alpha(0.25))
    assert_allclose(found["alpha_mp_ratio"], (found["alpha"] - 1) / (mp_alpha(0.25) - 1))


@pytest.mark.parametrize("shift", [-1400, -30, 40, 1200])
def test_a_shift_is_a_scale(shift):
    one, scaled = metrics(lam)[0], metrics(lam, shift=shift)[0]
    same = ("alpha", "alpha_ks", "ks_distance", "stable_rank", "entropy", "participation", "num_spikes", "mp_softrank")
    assert all(scaled[name] == one[name] for name in same)
    assert_allclose(scaled["log_spectral_norm"], one["log_spectral_norm"] + shift * math.log10(2))
    assert_allclose(scaled["alpha_weighted"], one["alpha_ks"] * scaled["log_spectral_norm"])
    assert_allclose(scaled["log_alpha_norm"], one["log_alpha_norm"] + one["alpha_ks"] * shift * math.log10(2))
    for name, power in (("frobenius", shift), ("xmin", shift), ("lambda_plus", shift), ("sigma_mp", shift // 2)):
        with np.errstate(over="ignore", under="ignore"):
            assert scaled[name] == np.ldexp(one[name], power)


def test_large_exponents_do_not_overflow():
    found, _ = metrics(np.linspace(1.0, 1.01, 20) * 1e8, 20, 20)
    assert found["alpha_ks"] > 100
    assert found["log_alpha_norm"] == pytest.approx(found["alpha_ks"] * 8, rel=0.01)


@pytest.mark.parametrize(
    ("values", "status", "expected"),
    [
        (np.zeros(12), "zero", {"rank": 0, "frobenius": 0.0, "log_spectral_norm": -math.inf, "alpha": math.nan}),
        (np.ones(12), "constant", {"alpha": math.inf, "alpha_ks": math.inf, "stable_rank": 12.0, "num_spikes": 0}),
        (np.ones(12) + 1e-15 * np.arange(12), "constant", {"alpha": math.inf}),
        (np.arange(1.0, 10), "too_small", {"alpha": math.nan, "alpha_ks": math.nan, "rank": 9}),
        ([0.0] * 10 + [5.0] * 2, "rank_deficient", {"rank": 2, "alpha": math.nan}),
        ([7.0], "too_small", {"entropy": 0.0, "stable_rank": 1.0}),
    ],
)
def test_odd_spectra(values, status, expected):
    found, state = metrics(values, rows=len(values), cols=40)
    assert state == status
    for name, value in expected.items():
        assert_allclose(found[name], value)


def test_zeros_that_reach_the_threshold_are_left_out():
    found, status = metrics([0.0] * 15 + list(lam), rows=25)
    assert status == "rank_deficient"
    assert_allclose(found["alpha"], metrics(lam)[0]["alpha"])
    assert found["rank_fraction"] == 0.4
    # The largest entropy is that of equal eigenvalues, as many as the rank.
    assert_allclose(found["entropy"], metrics(lam)[0]["entropy"])


def test_zeros_below_the_threshold_stay():
    found, status = metrics([0.0, 0.0, *lam], rows=12)
    assert status == "ok"
    assert_allclose(found["alpha"], 1 + 6 / np.log(np.array([3, 3, 4, 4, 8, 16]) / 3).sum())


def test_rounding_counts_as_zero():
    found, _ = metrics([1e-16, *lam], rows=11)
    assert found["rank"] == 10
    assert metrics([1e-8, *lam], rows=11)[0]["rank"] == 11
    assert metrics([1e-8, *lam], rows=11, eps=2.0**-23)[0]["rank"] == 10


def test_noise_is_that_of_the_living():
    assert metrics(lam, living=(10, 20))[0]["alpha_mp"] == mp_alpha(0.5)
    assert math.isnan(metrics(lam, fit_noise=False)[0]["sigma_mp"])
