"""Gauges: what they fix, and the covariance that goes with them."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.gauge import apply_gauge, check_gauge
from tests.inverse.calibration.simulated import normal

GAUGES = ["norm", "sum", "mean-phase", 2]


def covariance(rng, d):
    """A covariance orthogonal to the gains."""
    B = 1e-4 * normal(rng, len(d), len(d), is_complex=np.iscomplexobj(d))
    P = np.eye(len(d)) - np.outer(d, d.conj()) / np.linalg.norm(d) ** 2
    return P @ B @ B.conj().T @ P


def gauged(gauge, d, C=None, known=None):
    known = np.ones(len(d), bool) if known is None else known
    C = None if C is None else torch.from_numpy(C)[None]
    found, C, _ = apply_gauge(gauge, torch.from_numpy(d)[None], C, torch.from_numpy(known)[None])
    return found[0].numpy(), None if C is None else C[0].numpy()


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("gauge", GAUGES)
def test_what_a_gauge_fixes(rng, gauge, is_complex):
    d = normal(rng, 6, is_complex=is_complex) + 1.5
    found, _ = gauged(gauge, d)
    fixed = {
        "norm": np.mean(abs(found) ** 2),
        "sum": np.mean(found),
        "mean-phase": np.exp(np.mean(np.log(abs(found)))),
        2: found[2],
    }
    assert_allclose(fixed[gauge], 1, rtol=1e-12)
    if gauge == "norm":
        assert_allclose(np.sum(found), abs(np.sum(found)), rtol=1e-12)
    if gauge == "mean-phase":
        assert_allclose(np.mean(np.angle(found)), 0, atol=1e-12)
    assert_allclose(found / d, (found / d)[0], rtol=1e-12)


@pytest.mark.parametrize("gauge", GAUGES)
def test_a_factor_in_the_gains_does_not_matter(rng, gauge):
    d = normal(rng, 6) + 1.5
    C = covariance(rng, d)
    one, two = gauged(gauge, d, C), gauged(gauge, d * 8 * 1j, C * 64)
    assert_allclose(two[0], one[0], rtol=1e-12)
    assert_allclose(two[1], one[1], rtol=1e-10, atol=1e-22)


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("gauge", ["sum", "mean-phase", 2])
def test_covariance_by_the_delta_method_is_that_of_repetition(rng, gauge, is_complex):
    d = normal(rng, 5, is_complex=is_complex) + 2
    C = covariance(rng, d)
    _, found = gauged(gauge, d, C)
    root = np.linalg.cholesky(C + 1e-16 * np.eye(5))
    noise = normal(rng, 40000, 5, is_complex=is_complex) @ root.T
    many = apply_gauge(gauge, torch.from_numpy(d + noise), None, torch.ones(len(noise), 5, dtype=torch.bool))[0].numpy()
    E = many - gauged(gauge, d)[0]
    # 40000 runs: half a percent of the largest entry is one standard deviation.
    assert_allclose(found, E.T @ E.conj() / len(E), atol=0.03 * abs(found).max())


def test_norm_leaves_the_covariance_orthogonal(rng):
    d = normal(rng, 5)
    found, C = gauged("norm", d, covariance(rng, d))
    assert np.linalg.norm(C @ found) < 1e-12 * np.linalg.norm(C)


def test_a_reference_has_no_error_and_the_others_have_more(rng):
    d = normal(rng, 5)
    C = covariance(rng, d)
    _, found = gauged(2, d, C)
    assert abs(found[2]).max() == 0
    assert np.delete(np.diag(found).real, 2).min() > 0


def test_sensors_without_an_answer_stay_out_of_every_mean(rng):
    d = normal(rng, 6) + 1.5
    known = np.array([True, True, False, True, True, True])
    broken = np.where(known, d, np.nan)
    for gauge in ("norm", "sum", "mean-phase", 0):
        found, _ = gauged(gauge, broken, None, known)
        alone, _ = gauged(gauge, d[known])
        assert_allclose(found[known], alone, rtol=1e-12)
        assert np.isnan(found[2])


def test_mean_phase_does_not_copy_a_jump_of_one_sensor(rng):
    """A reference antenna would write its jump into all others; the mean writes a hundredth."""
    d = np.exp(0.1j * rng.standard_normal(100))
    jumped = d.copy()
    jumped[7] *= np.exp(1j)
    before, after = gauged("mean-phase", d)[0], gauged("mean-phase", jumped)[0]
    others = np.arange(100) != 7
    assert abs(np.angle(after / before))[others].max() < 0.0101
    assert_allclose(abs(np.angle(after / before))[7], 0.99, rtol=1e-6)
    reference = gauged(7, jumped)[0] / gauged(7, d)[0]
    assert abs(np.angle(reference))[others].min() > 0.99


def test_infinite_variances_stay_infinite(rng):
    d = normal(rng, 4)
    C = covariance(rng, d)
    C[1, 1] = np.inf
    for gauge in GAUGES:
        found = np.diag(gauged(gauge, d, C)[1]).real
        assert np.isinf(found[1])
        assert np.isfinite(np.delete(found, 1)).all()


def test_names_of_gauges():
    names = ["west", "east", "7"]
    assert check_gauge("sum", names) == "sum"
    assert check_gauge(("reference", "east"), names) == 1
    assert check_gauge(["reference", -1], names) == 2
    for bad, word in ((("reference", "north"), "north"), (("reference", 3), "3"), ("unit", "unit"), (5, "gauge")):
        with pytest.raises(InvalidInputError, match=word):
            check_gauge(bad, names)


def test_phases_on_both_sides_of_the_cut_have_their_mean_there():
    d = np.exp(1j * np.array([3.0, -3.0, 3.1, -2.9, 3.05]))
    found = gauged("mean-phase", d)
    found = np.asarray(found[0] if isinstance(found, tuple) else found).ravel()
    # Deviations from pi: -0.1416, 0.1416, -0.0416, 0.2416, -0.0916, whose mean is 0.0217.
    deviations = np.array([3.0 - np.pi, np.pi - 3.0, 3.1 - np.pi, np.pi - 2.9, 3.05 - np.pi])
    assert_allclose(np.angle(found), deviations - deviations.mean(), rtol=0, atol=1e-12)
