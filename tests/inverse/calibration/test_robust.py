"""Outliers and sensors of unequal noise."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning
from sciml.inverse.calibration import crb, self_calibrate
from tests.inverse.calibration.simulated import aligned, error, normal, simulate


def with_outliers(rng, sim, share):
    """A share of the entries gets ten times the amplitude."""
    hit = rng.random(sim.y.shape) < share
    return np.where(hit, sim.y + 10 * np.sqrt((abs(sim.y) ** 2).mean()) * normal(rng, *sim.y.shape), sim.y), hit


@pytest.mark.parametrize(("share", "n"), [(0.02, 10), (0.1, 10), (0.3, 16)])
def test_outliers_cost_little(rng, share, n):
    sim = simulate(rng, "repeated", 2 * n, n, 16, snr=30)
    y, hit = with_outliers(rng, sim, share)
    res = self_calibrate(y, sim.A, model="repeated", loss="student-t")
    # Bound of the entries that are left.
    C = crb(sim.d, sim.x, sim.A, np.where(hit, np.inf, sim.sigma))
    bound = np.sqrt(np.trace(C).real) / np.linalg.norm(sim.d)
    assert error(res.gains, sim.d) < 1.6 * bound
    plain = self_calibrate(y, sim.A, model="repeated", method="chain", on_failure="ignore")
    known = np.isfinite(plain.gains)
    assert not known.any() or error(plain.gains, sim.d) > 5 * bound
    assert_allclose(res.noise_std, sim.sigma, rtol=0.35)
    stated = np.linalg.norm(res.gains_std) / np.linalg.norm(res.gains)
    assert 0.6 < stated / error(res.gains, sim.d) < 1.7


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("model", ["diverse", "snapshots"])
def test_without_outliers_the_price_is_small(rng, model, is_complex):
    ratio = []
    for _ in range(2):
        sim = simulate(rng, model, 16, 4, 16, snr=25, is_complex=is_complex, gains="near one")
        robust = self_calibrate(sim.y, sim.A, model=model, loss="student-t")
        plain = self_calibrate(sim.y, sim.A, model=model)
        ratio.append((error(robust.gains, sim.d) / error(plain.gains, sim.d)) ** 2)
        # Of real noise the efficiency is three quarters, of complex more.
        assert_allclose(robust.noise_std, sim.sigma, rtol=0.5)
    assert np.sqrt(np.mean(ratio)) < 1.5


def test_exact_data_with_outliers_are_recovered(rng):
    sim = simulate(rng, "repeated", 16, 8, 12)
    y, _ = with_outliers(rng, sim, 0.05)
    assert error(self_calibrate(y, sim.A, model="repeated", loss="student-t", on_failure="ignore").gains, sim.d) < 1e-5


@pytest.mark.parametrize(("share", "is_complex"), [(0.05, True), (0.1, True), (0.1, False)])
def test_exact_data_of_few_sensors_with_outliers_are_recovered(rng, share, is_complex):
    for _ in range(3):
        sim = simulate(rng, "diverse", 16, 4, 12, is_complex=is_complex)
        y, _ = with_outliers(rng, sim, share)
        res = self_calibrate(y, sim.A, model="diverse", loss="student-t")
        assert res.converged
        assert error(res.gains, sim.d) < 1e-8


def test_no_loud_sensor_is_given_up_as_an_outlier():
    # Without another look at each sensor, the first three starts agree here on an answer without two loud ones.
    rng = np.random.default_rng(1003)
    sim = simulate(rng, "repeated", 24, 12, 12, snr=30)
    y, hit = with_outliers(rng, sim, 0.3)
    res = self_calibrate(y, sim.A, model="repeated", loss="student-t")
    C = crb(sim.d, sim.x, sim.A, np.where(hit, np.inf, sim.sigma))
    assert error(res.gains, sim.d) < 2 * np.sqrt(np.trace(C).real) / np.linalg.norm(sim.d)


def test_a_hopeless_share_of_outliers_is_told(rng):
    sim = simulate(rng, "diverse", 12, 4, 8, snr=30)
    y, _ = with_outliers(rng, sim, 0.5)
    with pytest.warns(ConvergenceWarning):
        res = self_calibrate(y, sim.A, model="diverse", loss="student-t")
    assert not res.converged


def test_starts_are_chosen_channel_by_channel(rng):
    sims = [simulate(rng, "diverse", 16, 4, 12) for _ in range(3)]
    y = np.stack([with_outliers(rng, sim, share)[0] for sim, share in zip(sims, (0.0, 0.05, 0.2), strict=True)])
    res = self_calibrate(y, np.stack([sim.A for sim in sims]), model="diverse", loss="student-t")
    for c, sim in enumerate(sims):
        assert error(res.gains[c], sim.d) < 1e-8


def test_noise_of_each_sensor_is_learned(rng):
    total = np.zeros(3)
    for _ in range(3):
        sim = simulate(rng, "snapshots", 24, 6, 120)
        sigma = 0.03 * 10.0 ** rng.uniform(-1, 1, 24)
        y = sim.y + sigma * normal(rng, *sim.y.shape)
        res = self_calibrate(y, sim.A, noise="per-sensor")
        white = self_calibrate(y, sim.A, method="chain")
        bound = crb(sim.d, sim.x, sim.A, sigma)
        off = [np.linalg.norm(aligned(one.gains, sim.d) - sim.d) ** 2 for one in (res, white)]
        total += [*off, np.trace(bound).real]
        # Each is the root of a mean of some 90 squares; the quietest are hidden by what the signals take.
        loud = sigma > 0.03
        assert_allclose(res.sensor_noise_std[loud], sigma[loud], rtol=0.35)
    assert total[0] < min(1.5 * total[2], 0.9 * total[1])


def test_no_sensor_claims_to_be_exact(rng):
    sim = simulate(rng, "snapshots", 12, 3, 40, snr=20)
    sim.y[:, 2] = 3 * sim.y[:, 5]  # two sensors that say the same
    res = self_calibrate(sim.y, sim.A, noise="per-sensor", on_failure="ignore")
    known = np.isfinite(res.sensor_noise_std)
    assert known.sum() >= 11
    assert res.sensor_noise_std[known].min() > 1e-3 * np.median(res.sensor_noise_std[known])


def test_weights_and_flags_still_count(rng):
    sim = simulate(rng, "repeated", 20, 8, 12, snr=30)
    y, _ = with_outliers(rng, sim, 0.05)
    y[:, 4] = np.nan
    res = self_calibrate(y, sim.A, model="repeated", loss="student-t", noise_std=sim.sigma)
    assert res.unidentified == [4]
    assert error(res.gains, sim.d) < 0.05


def test_batches_of_robust_estimates(rng):
    sims = [simulate(rng, "snapshots", 12, 3, 12, snr=25) for _ in range(2)]
    y = np.stack([with_outliers(rng, sim, 0.03)[0] for sim in sims])
    A = np.stack([sim.A for sim in sims])
    whole = self_calibrate(y, A, model="snapshots", loss="student-t", on_failure="ignore")
    for c in range(2):
        one = self_calibrate(y[c], A[c], loss="student-t", on_failure="ignore")
        assert error(whole.gains[c], one.gains) < 1e-6
