"""Filters: what is inside a band stays, what is outside goes, nothing is delayed."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.filter_bank import filtered
from sciml.stats.spd.trials import as_trials

FS = 200.0
T = np.arange(1000) / FS


def tone(frequency):
    return np.sin(2 * np.pi * frequency * T)


def through(x, band, fs=FS):
    return filtered(as_trials(x[None, None]), band, fs).series[0, 0]


@pytest.mark.parametrize(
    ("band", "kept", "lost"), [((8, 15), 11, 25), ((8, 15), 11, 4), ((0, 15), 5, 40), ((30, 100), 60, 8)]
)
def test_a_tone_inside_stays_and_one_outside_goes(band, kept, lost):
    y = through(tone(kept) + tone(lost), band)
    assert np.abs(y - tone(kept))[200:-200].max() < 0.02


def test_edges_are_at_minus_six_decibels():
    power = (through(tone(15), (8, 15))[300:-300] ** 2).mean() / (tone(15) ** 2)[300:-300].mean()
    assert_allclose(power, 0.25, rtol=0.02)


def test_reversing_time_commutes():
    x = np.random.default_rng(0).normal(size=1000)
    assert_allclose(through(x[::-1], (20, 40))[::-1][300:-300], through(x, (20, 40))[300:-300], atol=1e-4)


def test_fractions_of_the_sampling_rate_are_the_same_as_hertz(rng):
    x = rng.normal(size=1000)
    assert_allclose(through(x, (8 / FS, 16 / FS), 1.0), through(x, (8, 16)), rtol=0, atol=1e-12)


def test_the_whole_range_changes_nothing(rng):
    x = rng.normal(size=1000)
    assert_array_equal(through(x, (0, FS / 2)), x)


def test_linear_and_for_short_trials_too(rng):
    x = rng.normal(size=7)
    y = through(x, (20, 40))
    assert y.shape == (7,)
    assert np.isfinite(y).all()
    assert_array_equal(through(2.0**-20 * x, (20, 40)), 2.0**-20 * y)


@pytest.mark.parametrize(
    ("band", "fs", "text"),
    [
        ((15, 8), FS, r"\(15, 8\) with fs=200"),
        ((8, 101), FS, "fs / 2"),
        ((-1, 8), FS, "0 <= low"),
        ((8, 15), 1.0, "Give fs"),
        (8, FS, "pairs"),
        ((8, 15), 0, "fs must be"),
    ],
)
def test_bad_bands_are_told(band, fs, text):
    with pytest.raises(InvalidInputError, match=text):
        through(tone(10), band, fs)
