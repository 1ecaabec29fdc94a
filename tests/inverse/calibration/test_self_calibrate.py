"""The front door: recovery, errors, ambiguities, equivariance, kinds of arrays, and what users complain of."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import sciml
from sciml.exceptions import (
    AmbiguityWarning,
    ConvergenceError,
    ConvergenceWarning,
    IdentifiabilityError,
    InvalidInputError,
)
from sciml.inverse.calibration import CalibrationResult, crb, self_calibrate
from sciml.iterate import Status
from tests.inverse.calibration.simulated import aligned, error, misfit, normal, simulate

MODELS = ["repeated", "diverse", "snapshots"]


def fewest(model, m, n):
    """Snapshots from which on there are as many equations as unknowns."""
    return -(-(m + n - 1) // m) if model == "repeated" else -(-(m - 1) // (m - n))


def run(sim, **more):
    return self_calibrate(sim.y, sim.A, model=sim.model, **more)


@pytest.mark.parametrize(("ensemble", "is_complex"), [("gaussian", True), ("gaussian", False), ("fourier", True)])
@pytest.mark.parametrize("model", MODELS)
def test_exact_data_are_recovered_from_the_counting_bound_on(rng, model, is_complex, ensemble):
    sizes = [(16, 4), (16, 8), (12, 9), (2, 1), (3, 1)] + ([(16, 32), (8, 20)] if model == "repeated" else [])
    for m, n in sizes:
        p = fewest(model, m, n)
        if model == "repeated" and ensemble == "fourier":
            p += 2  # two random sign patterns of few columns may be equal
        sim = simulate(rng, model, m, n, p, is_complex=is_complex, ensemble=ensemble)
        res = run(sim)
        assert error(res.gains, sim.d) < 1e-7, (m, n)
        assert res.status is Status.CONVERGED
        assert res.null_dimension == 1
        assert np.iscomplexobj(res.gains) == is_complex
        few = fewest(model, m, n) - 1
        if few > 0:
            A = sim.A if model == "snapshots" else sim.A[:few]
            with pytest.raises(IdentifiabilityError, match="so 1 are missing"):
                self_calibrate(sim.y[:few], A, model=model)


CASES = [
    ("repeated", 32, 32, 4, 20),
    ("diverse", 32, 8, 4, 15),
    ("diverse", 32, 8, 4, 30),
    ("snapshots", 32, 8, 16, 10),
    ("snapshots", 32, 8, 16, 20),
]


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize(("model", "m", "n", "p", "snr"), CASES)
def test_error_reaches_the_bound_and_is_as_large_as_stated(rng, model, m, n, p, snr, is_complex):
    ratios, inside, squares, chi2 = [], [], [], []
    for _ in range(8):
        sim = simulate(rng, model, m, n, p, snr=snr, is_complex=is_complex, gains="near one")
        res = run(sim, noise_std=sim.sigma)
        bound = np.trace(crb(sim.d, sim.x, sim.A, sim.sigma)).real
        found = aligned(res.gains, sim.d)
        ratios.append((np.linalg.norm(found - sim.d) ** 2, bound))
        z = abs(found - sim.d) / (res.gains_std * abs(found[0] / res.gains[0]))
        inside.append(np.mean(z < (np.sqrt(-np.log(0.05)) if is_complex else 1.96)))
        squares.append(np.mean(z**2))
        chi2.append(res.chi2_reduced)
        assert_allclose((res.noise_std / sim.sigma) ** 2, res.chi2_reduced, rtol=1e-6)
    total = np.array(ratios).sum(0)
    # 8 runs of 31 gains each leave 5 (complex) to 10 percent of scatter in the mean square.
    assert np.sqrt(total[0] / total[1]) < (1.12 if is_complex else 1.18)
    assert 0.89 < np.mean(inside) < 0.99
    assert 0.75 < np.mean(squares) < 1.45
    # The mean of 8 runs with 65 degrees of freedom or more.
    assert_allclose(np.mean(chi2), 1, atol=0.2)


def test_noise_is_estimated_where_it_is_not_known(rng):
    sim = simulate(rng, "snapshots", 32, 8, 40, snr=20)
    res = run(sim)
    assert_allclose(res.noise_std, sim.sigma, rtol=0.1)
    assert np.isnan(res.chi2_reduced)
    assert res.dof == 40 * 24 - 31


def test_no_degree_of_freedom_means_no_error_bar(rng):
    """As many unknowns as noisy data: the fit is exact and tells nothing of its error."""
    sim = simulate(rng, "snapshots", 5, 1, 1, snr=20)
    res = run(sim)
    assert res.dof == 0
    assert np.isinf(res.gains_std).all()
    assert np.isnan(res.noise_std)
    assert np.isfinite(res.gains).all()


def two_groups(rng, sizes, *, flags_only=False, snr=None):
    """Sensors in groups that see signals of their own."""
    m, k = sum(sizes), len(sizes)
    label = np.repeat(np.arange(k), sizes)
    A = np.zeros((m, 2 * k), complex)
    for g in range(k):
        A[label == g, 2 * g : 2 * g + 2] = normal(rng, sizes[g], 2)
    d, x = normal(rng, m), normal(rng, 24, 2 * k)
    if flags_only:
        A = normal(rng, m, 2)
        x = normal(rng, 24, 2)
    y = d * (x @ A.T)
    sigma = 0.0 if snr is None else 10 ** (-snr / 20) * np.sqrt((abs(y) ** 2).mean())
    y = y + sigma * normal(rng, *y.shape)
    if flags_only:
        # No snapshot has data of two groups.
        y = np.where(np.arange(24)[:, None] % k == label, y, np.nan)
    return y, A, d, label


@pytest.mark.parametrize("snr", [None, 40, 15])
@pytest.mark.parametrize("flags_only", [False, True])
@pytest.mark.parametrize("sizes", [(8, 6), (5, 7, 4)])
def test_groups_without_common_information_are_named_and_not_mixed(rng, sizes, flags_only, snr):
    y, A, d, label = two_groups(rng, sizes, flags_only=flags_only, snr=snr)
    edges = np.cumsum([0, *sizes])
    with pytest.warns(AmbiguityWarning, match=f"0-{edges[1] - 1} and {edges[1]}-{edges[2] - 1}.*no common information"):
        res = self_calibrate(y, A)
    assert res.groups == [list(range(a, b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    assert res.null_dimension >= len(sizes)
    largest = int(np.argmax(sizes))
    assert_array_equal(np.isfinite(res.gains), label == largest)
    assert res.unidentified == np.nonzero(label != largest)[0].tolist()
    assert np.isinf(res.gains_std[label != largest]).all()
    for g in range(len(sizes)):
        own = label == g
        assert error(res.gains_within_groups[own], d[own]) < (1e-6 if snr is None else 5 * 10 ** (-snr / 20))


def test_groups_in_one_channel_only(rng):
    y, A, d, label = two_groups(rng, (8, 6), flags_only=True, snr=40)
    whole = d * (normal(rng, 24, 2) @ A.T)
    with pytest.warns(AmbiguityWarning, match="channel 1: sensors 0-7 and 8-13"):
        res = self_calibrate(np.stack([whole, y]), A)
    assert np.isfinite(res.gains[0]).all()
    assert_array_equal(np.isfinite(res.gains[1]), label == 0)
    assert [len(own) for own in res.groups] == [1, 2]
    assert res.unidentified == [[], list(range(8, 14))]
    with pytest.raises(IdentifiabilityError, match="no common information"):
        self_calibrate(y, A, on_failure="raise")


def test_dead_flagged_and_zero_sensors_stay_out(rng):
    sim = simulate(rng, "snapshots", 20, 4, 40, snr=30, gains="near one")
    y = sim.y.copy()
    y[:, 3] = sim.sigma * normal(rng, 40)  # dead
    y[:, 7] = 0
    y[:, 11] = np.nan
    res = self_calibrate(y, sim.A)
    others = np.setdiff1d(np.arange(20), [3, 7, 11])
    assert res.unidentified == [3, 7, 11]
    assert np.isnan(res.gains[[3, 7, 11]]).all()
    assert np.isinf(res.gains_std[[3, 7, 11]]).all()
    assert error(res.gains[others], sim.d[others]) < 0.02
    # Out of the average of the gauge, too.
    assert_allclose(np.mean(abs(res.gains[others]) ** 2), 1, rtol=1e-12)
    # And as if they had never been there.
    alone = self_calibrate(y[:, others], sim.A[others])
    assert_allclose(res.gains[others], alone.gains, rtol=1e-8)
    assert_allclose(res.noise_std, alone.noise_std, rtol=1e-8)


@pytest.mark.parametrize("snr", [None, 30, 15])
@pytest.mark.parametrize("is_complex", [True, False])
def test_identical_snapshots_are_never_an_answer(rng, is_complex, snr):
    sim = simulate(rng, "snapshots", 16, 4, 1, is_complex=is_complex)
    y = np.repeat(sim.y, 30, 0)
    if snr is not None:
        y = y + 10 ** (-snr / 20) * np.sqrt((abs(y) ** 2).mean()) * normal(rng, *y.shape, is_complex=is_complex)
    with warnings.catch_warnings():
        # Along directions that mean nothing the likelihood is flat.
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.warns(AmbiguityWarning, match="combinations of 1 signal.*2 are needed"):
            res = self_calibrate(y, sim.A)
    assert np.isnan(res.gains).all()
    assert res.null_dimension > 1


def test_a_phase_ramp_is_named(rng):
    """Fourier columns in a row: a ramp of the gains is a shift of the signals."""
    m, n = 24, 6
    A = np.exp(2j * np.pi * np.outer(np.arange(m), np.arange(n)) / m)
    x = normal(rng, 20, n)
    x[:, 0] = 0  # room for the shift
    y = normal(rng, m) * (x @ A.T)
    with pytest.warns(AmbiguityWarning, match=r"phase that grows by -?0\.2\d* rad"):
        res = self_calibrate(y, A)
    assert res.null_dimension == 2


@pytest.mark.parametrize("model", MODELS)
def test_dependent_columns_leave_the_gains_and_are_told(rng, model):
    sim = simulate(rng, model, 10, 3, 5)
    A = np.concatenate([sim.A, 2 * sim.A[..., :1]], -1)
    with pytest.warns(AmbiguityWarning, match="columns of A are dependent"):
        res = self_calibrate(sim.y, A, model=model)
    assert error(res.gains, sim.d) < 1e-9
    assert np.isnan(res.signals).all()


@pytest.mark.parametrize("model", MODELS)
def test_columns_of_any_size(rng, model):
    sim = simulate(rng, model, 10, 3, 6, snr=20)
    scale = np.array([1e8, 1.0, 1e-8])
    one, two = run(sim), self_calibrate(sim.y, sim.A * scale, model=model)
    assert_allclose(two.gains, one.gains, rtol=1e-9)
    assert_allclose(two.signals * scale, one.signals, rtol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_equivariance(rng, model):
    sim = simulate(rng, model, 9, 3, 8, snr=20)
    res = run(sim)
    # Units that are powers of two change nothing but the exponent.
    units = self_calibrate(sim.y * 2.0**-300, sim.A * 2.0**200, model=model)
    assert_array_equal(units.gains, res.gains)
    assert_array_equal(units.gains_std, res.gains_std)
    assert units.noise_std == res.noise_std * 2.0**-300
    assert_allclose(units.signals * 2.0**500, res.signals, rtol=1e-13)
    others = {
        "unit": (self_calibrate(3.7 * sim.y, 0.3 * sim.A, model=model), lambda g: g),
        "conjugate": (self_calibrate(sim.y.conj(), sim.A.conj(), model=model), np.conj),
        "factor": (self_calibrate(sim.y * np.exp(2j), sim.A, model=model), lambda g: g),
    }
    order = rng.permutation(9)
    A = sim.A[order] if model == "snapshots" else sim.A[:, order]
    others["permuted"] = (self_calibrate(sim.y[:, order], A, model=model), lambda g: g[order])
    for name, (other, change) in others.items():
        assert error(other.gains, change(res.gains)) < 1e-12, name
        assert_allclose(other.gains_std, np.abs(change(res.gains_std)), rtol=1e-9)
    snapshots = rng.permutation(8)
    A = sim.A if model == "snapshots" else sim.A[snapshots]
    assert error(self_calibrate(sim.y[snapshots], A, model=model).gains, res.gains) < 1e-12
    # Known gains divided out: what is left is the rest.
    known = np.exp(0.3 * normal(rng, 9))
    weights = 1 / abs(known) ** 2
    part = self_calibrate(sim.y * known, sim.A, model=model, weights=weights)
    assert error(part.gains / known, res.gains) < 1e-9


@pytest.mark.parametrize("model", MODELS)
def test_batches_equal_one_by_one(rng, model):
    sims = [simulate(rng, model, 8, 2, 8, snr=snr) for snr in (15, 20, 40)]
    A = np.stack([sim.A for sim in sims])
    y = np.stack([sim.y for sim in sims])
    whole = self_calibrate(y, A, model=model)
    assert whole.gains.shape == (3, 8)
    assert whole.gains_cov.shape == (3, 8, 8)
    for c, sim in enumerate(sims):
        one = run(sim)
        for name in ("gains", "gains_std", "noise_std", "signals", "ambiguity_ratio", "dof", "gains_cov"):
            assert_allclose(getattr(whole, name)[c], getattr(one, name), rtol=1e-8, atol=1e-11, err_msg=name)
    # One matrix for all, flags of their own, two leading axes.
    y = np.stack([sim.d * (sims[0].y / sims[0].d) for sim in sims])[None]
    y[0, 1, 2, 3] = np.nan
    whole = self_calibrate(y, sims[0].A, model=model, on_failure="ignore")
    for c in range(3):
        one = self_calibrate(y[0, c], sims[0].A, model=model, on_failure="ignore")
        assert_allclose(whole.gains[0, c], one.gains, rtol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_flags_are_weights_of_zero_are_missing_rows(rng, model):
    sim = simulate(rng, model, 10, 2, 8, snr=20)
    keep = rng.random((8, 10)) > 0.2
    junk = np.where(keep, sim.y, 1e3)
    by_nan = self_calibrate(np.where(keep, sim.y, np.nan), sim.A, model=model)
    by_weight = self_calibrate(junk, sim.A, model=model, weights=keep.astype(float))
    by_flag = self_calibrate(junk, sim.A, model=model, weights=keep)
    assert_array_equal(by_nan.gains, by_flag.gains)
    assert error(by_weight.gains, by_nan.gains) < 1e-12
    assert_allclose(by_weight.gains_std, by_nan.gains_std, rtol=1e-10)
    assert by_nan.dof == keep.sum() - (2 if model == "repeated" else 16) - 9
    # The same as an ordinary minimiser of the same misfit finds.
    own = misfit(np.where(keep, sim.y, 0), sim.A, by_nan.gains, model, keep.astype(float))
    for _ in range(10):
        moved = by_nan.gains * (1 + 1e-3 * normal(rng, 10))
        assert misfit(np.where(keep, sim.y, 0), sim.A, moved, model, keep.astype(float)) > own


def test_error_with_flags_reaches_the_bound(rng):
    for share in (0.1, 0.3):
        total = np.zeros(2)
        for _ in range(4):
            sim = simulate(rng, "diverse", 32, 8, 8, snr=30)
            keep = rng.random((8, 32)) > share
            res = run(type(sim)(np.where(keep, sim.y, np.nan), sim.A, sim.d, sim.x, sim.sigma, "diverse"))
            bound = crb(sim.d, sim.x, sim.A, np.where(keep, sim.sigma, np.inf))
            total += [np.linalg.norm(aligned(res.gains, sim.d) - sim.d) ** 2, np.trace(bound).real]
        assert total[0] < 1.25 * total[1]


def test_weights_are_inverse_variances(rng):
    """Noise of six decades: with weights the error is at the weighted bound and chi2 is one."""
    sim = simulate(rng, "diverse", 16, 4, 12)
    sigma = 10.0 ** rng.uniform(-5, 1, sim.y.shape)
    y = sim.y + sigma * normal(rng, *sim.y.shape)
    res = self_calibrate(y, sim.A, weights=1 / sigma**2)
    bound = crb(sim.d, sim.x, sim.A, sigma)
    assert error(res.gains, sim.d) < 3 * np.sqrt(np.trace(bound).real) / np.linalg.norm(sim.d)
    assert_allclose(res.chi2_reduced, 1, atol=0.4)
    assert_allclose(self_calibrate(y, sim.A, noise_std=sigma).gains, res.gains, rtol=1e-9)
    # The unit of the weights does not matter to the gains.
    assert error(self_calibrate(y, sim.A, weights=1e6 / sigma**2).gains, res.gains) < 1e-9


@pytest.mark.parametrize("model", ["repeated", "diverse"])
@pytest.mark.parametrize("is_complex", [True, False])
def test_a_single_snapshot_is_enough_in_a_subspace_of_the_inverse_gains(rng, model, is_complex):
    m, k, n = 64, 6, 59
    B, h = normal(rng, m, k, is_complex=is_complex), normal(rng, k, is_complex=is_complex)
    A, x = normal(rng, 1, m, n, is_complex=is_complex), normal(rng, n, is_complex=is_complex)
    d = 1 / (B @ h)
    y = (d * (A[0] @ x))[None]
    res = self_calibrate(y, A, model=model, s_basis=B)
    # The condition number of a square system of this size is some thousands.
    assert error(res.gains, d) < 1e-7
    with pytest.raises(IdentifiabilityError, match="1 are missing"):
        self_calibrate(y, normal(rng, 1, m, 60, is_complex=is_complex), model=model, s_basis=B)


def test_a_subspace_of_the_gains_from_one_snapshot(rng):
    m, k, n = 64, 6, 40
    B = np.exp(2j * np.pi * np.outer(np.arange(m), np.arange(-2, 4)) / m)
    A, x, d = normal(rng, 1, m, n), normal(rng, n), B @ normal(rng, k)
    res = self_calibrate((d * (A[0] @ x))[None], A, model="diverse", d_basis=B)
    assert error(res.gains, d) < 1e-9
    assert res.null_dimension == 1


@pytest.mark.parametrize("model", ["repeated", "snapshots"])
def test_a_subspace_of_the_gains_reaches_its_bound(rng, model):
    m, k, n, p = (32, 4, 32, 2) if model == "repeated" else (32, 4, 8, 8)
    B = np.exp(2j * np.pi * np.outer(np.arange(m), np.arange(-1, 3)) / m)
    errors, stated = [], []
    for _ in range(4):
        sim = simulate(rng, model, m, n, p)
        d = B @ normal(rng, k)
        y = sim.y / sim.d * d
        y = y + 0.1 * np.sqrt((abs(y) ** 2).mean()) * normal(rng, p, m)
        res = self_calibrate(y, sim.A, model=model, d_basis=B)
        errors.append(error(res.gains, d))
        stated.append(np.linalg.norm(res.gains_std) / np.linalg.norm(res.gains))
        coefficients = np.linalg.lstsq(B, res.gains, rcond=None)[0]
        assert_allclose(B @ coefficients, res.gains, rtol=1e-9)
    # Four runs of three numbers each.
    assert 0.5 < np.mean(errors) / np.mean(stated) < 1.6


def test_subspaces_with_flags(rng):
    m, k = 32, 4
    B, h = normal(rng, m, k), normal(rng, k)
    sim = simulate(rng, "snapshots", m, 8, 6)
    y = sim.y / sim.d / (B @ h)
    y[rng.random(y.shape) < 0.2] = np.nan
    assert error(self_calibrate(y, sim.A, s_basis=B).gains, 1 / (B @ h)) < 1e-8
    y = sim.y / sim.d * (B @ h)
    y[rng.random(y.shape) < 0.2] = np.nan
    assert error(self_calibrate(y, sim.A, d_basis=B).gains, B @ h) < 1e-8


@pytest.mark.parametrize("gains", ["gaussian", "near one"])
def test_no_sensor_is_driven_to_zero_or_to_huge_values_at_low_snr(rng, gains):
    for model in MODELS:
        sim = simulate(rng, model, 24, 6, 12, snr=3, gains=gains)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AmbiguityWarning)
            res = run(sim)
        known = np.isfinite(res.gains)
        assert known.mean() > 0.7
        off = abs(aligned(res.gains, sim.d) - sim.d)[known]
        # No gain is further off than a few of its own standard deviations.
        assert (off < 5 * res.gains_std[known]).mean() > 0.95
        assert abs(res.gains[known]).max() < 6
        assert np.isfinite(res.gains_std[known]).all()


def test_nan_is_never_written_silently(rng):
    """Whatever is NaN in the gains is listed; calibrated data are NaN there and nowhere else."""
    sim = simulate(rng, "snapshots", 12, 3, 10, snr=30)
    y = sim.y.copy()
    y[:, 4] = np.nan
    y[2, 7] = np.nan
    res = self_calibrate(y, sim.A)
    assert res.unidentified == [4]
    assert_array_equal(np.isnan(res.gains), np.arange(12) == 4)
    full = np.where(np.isnan(y), 1.0, y)
    assert_array_equal(np.isnan(res.calibrate(full)), np.tile(np.arange(12) == 4, (10, 1)))
    assert np.isfinite(res.signals).all()


def test_chi2_is_per_degree_of_freedom_for_any_flags(rng):
    sim = simulate(rng, "snapshots", 24, 6, 40, snr=20)
    for share in (0.0, 0.2, 0.5):
        y = np.where(rng.random(sim.y.shape) < share, np.nan, sim.y)
        assert_allclose(self_calibrate(y, sim.A, noise_std=sim.sigma).chi2_reduced, 1, atol=0.2)


def test_signals_predictions_and_residuals(rng):
    for model in MODELS:
        sim = simulate(rng, model, 10, 3, 6, snr=30)
        res = run(sim)
        assert res.signals.shape == ((3,) if model == "repeated" else (6, 3))
        residual = res.residuals(sim.y)
        assert_allclose(sim.y - residual, res.predict(), rtol=1e-12)
        assert_allclose((abs(residual) ** 2).sum() / res.dof, res.noise_std**2, rtol=1e-8)
        assert_allclose((abs(residual) ** 2).sum(), misfit(sim.y, sim.A, res.gains, model), rtol=1e-8)
        assert_allclose(res.calibrate(sim.y), sim.y / res.gains, rtol=1e-12)
        assert_allclose(res.calibrate(sim.y[0]), sim.y[0] / res.gains, rtol=1e-12)
        assert_allclose(res.inverse_gains * res.gains, 1, rtol=1e-12)
        assert "identified" in res.summary()


def test_all_gauges_are_the_same_answer(rng):
    sim = simulate(rng, "snapshots", 10, 3, 8, snr=20, gains="near one")
    norm = run(sim)
    for gauge in ("sum", "mean-phase", ("reference", 4)):
        res = run(sim, gauge=gauge)
        assert_allclose(res.gains / norm.gains, (res.gains / norm.gains)[0], rtol=1e-12)
        assert_allclose(res.predict(), norm.predict(), rtol=1e-10)
    assert res.gains[4] == 1
    assert res.gains_std[4] == 0
    assert res.gauge == ["reference", 4]


@pytest.mark.parametrize("kind", ["torch", "list", "read-only", "float32", "big-endian", "strided"])
def test_any_kind_of_array(rng, kind):
    sim = simulate(rng, "snapshots", 8, 2, 6, snr=20, is_complex=kind not in ("list",))
    expected = run(sim).gains
    y, A = sim.y, sim.A
    if kind == "torch":
        res = self_calibrate(torch.from_numpy(y), torch.from_numpy(A))
        assert isinstance(res.gains, torch.Tensor)
        assert isinstance(res.predict(), torch.Tensor)
        assert isinstance(res.calibrate(torch.from_numpy(y)), torch.Tensor)
        found = res.gains.numpy()
    elif kind == "list":
        found = self_calibrate(y.tolist(), A.tolist()).gains
    elif kind == "read-only":
        y.flags.writeable = A.flags.writeable = False
        before = y.copy()
        found = self_calibrate(y, A).gains
        assert_array_equal(y, before)
    elif kind == "float32":
        res = self_calibrate(y.astype(np.complex64), A.astype(np.complex64))
        assert res.gains.dtype == np.complex64
        assert res.gains_std.dtype == np.float32
        assert error(res.gains, expected) < 1e-5
        return
    elif kind == "big-endian":
        found = self_calibrate(y.astype(">c16"), A.astype(">c16")).gains
    else:
        found = self_calibrate(np.repeat(y, 2, 1)[:, ::2], A).gains
    assert_allclose(found, expected, rtol=1e-10)


def test_named_data(rng):
    xr = pytest.importorskip("xarray")
    sim = simulate(rng, "snapshots", 4, 1, 6, snr=30)
    y = xr.DataArray(
        np.stack([sim.y, sim.y]).transpose(0, 2, 1),
        dims=("frequency", "sensor", "snapshot"),
        coords={"sensor": list("nesw")},
    )
    res = self_calibrate(y, sim.A, gauge=("reference", "s"))
    assert res.sensors == list("nesw")
    assert res.gains.shape == (2, 4)
    assert_allclose(res.gains[:, 2], 1, rtol=1e-12)
    frame = res.to_xarray()
    assert frame["gains"].dims == ("frequency", "sensor")
    assert frame["gains"].coords["sensor"].values.tolist() == list("nesw")
    assert_allclose(self_calibrate(y.values.transpose(0, 2, 1), sim.A, gauge=("reference", 2)).gains, res.gains)


def test_saved_and_loaded(rng, tmp_path):
    sim = simulate(rng, "diverse", 8, 2, 6, snr=20)
    res = run(sim)
    res.save(tmp_path / "gains.npz")
    assert isinstance(res, CalibrationResult)
    again = sciml.load(tmp_path / "gains.npz")
    assert_array_equal(again.gains, res.gains)
    assert_array_equal(again.predict(), res.predict())
    assert_array_equal(again.calibrate(sim.y), res.calibrate(sim.y))
    assert again.groups == res.groups
    assert again.method == res.method
    assert again.settings == res.settings
    assert again.status is res.status


def test_settings_tell_what_was_done(rng):
    sim = simulate(rng, "snapshots", 8, 2, 6, snr=20)
    res = run(sim, method="chain", max_iter=50)
    assert res.settings["model"] == "snapshots"
    assert res.settings["method"] == "chain"
    assert res.settings["max_iter"] == 50
    assert res.settings["dtype"] == "complex128"
    assert res.reason


def test_the_same_data_give_the_same_answer(rng):
    sim = simulate(rng, "repeated", 12, 6, 4, snr=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = run(sim), run(sim)
    assert_array_equal(one.gains, two.gains)
    assert_array_equal(one.gains_std, two.gains_std)


def test_published_methods(rng):
    sim = simulate(rng, "diverse", 24, 6, 4, snr=30)
    best = error(run(sim).gains, sim.d)
    for method in ("least-squares", "spectral", "eigenvector", "signal"):
        res = run(sim, method=method, refine=False)
        assert method in res.method
        assert error(res.gains, sim.d) < 12 * best
        # Refined, all of them are the same answer.
        assert error(run(sim, method=method).gains, run(sim, method="chain").gains) < 1e-7
    exact = simulate(rng, "diverse", 24, 6, 4)
    for method in ("least-squares", "spectral"):
        assert error(run(exact, method=method, refine=False).gains, exact.d) < 1e-8


def test_a_normaliser_orthogonal_to_the_answer_is_told(rng):
    sim = simulate(rng, "snapshots", 8, 2, 8, snr=100)
    w = normal(rng, 8)
    w = w - (1 / sim.d) * np.vdot(1 / sim.d, w) / np.linalg.norm(1 / sim.d) ** 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="w is nearly orthogonal.*method='spectral'")
        with pytest.raises(AmbiguityWarning):
            self_calibrate(sim.y, sim.A, method="least-squares", w=w, refine=False)


def test_low_snr_converges(rng):
    for model in MODELS:
        sim = simulate(rng, model, 16, 4, 16, snr=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AmbiguityWarning)
            warnings.simplefilter("error", ConvergenceWarning)
            assert run(sim).status is Status.CONVERGED


def test_what_failure_means(rng):
    sim = simulate(rng, "snapshots", 12, 4, 8, snr=15)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        res = run(sim, max_iter=1, on_failure="warn")
    assert res.status is Status.MAX_ITER
    with pytest.raises(ConvergenceError, match="without convergence"):
        run(sim, max_iter=1, on_failure="raise")
    assert run(sim, max_iter=1, on_failure="ignore").n_iter == 1
    few = simulate(rng, "snapshots", 12, 8, 2)
    with pytest.raises(IdentifiabilityError):
        run(few)
    with pytest.raises(IdentifiabilityError):
        run(few, on_failure="raise")
    with pytest.warns(AmbiguityWarning, match="do not determine all gains"):
        res = run(few, on_failure="warn")
    assert np.isnan(res.gains).all()


def test_callback_and_keyboard_stop_and_keep_the_last_gains(rng):
    sim = simulate(rng, "snapshots", 12, 4, 24, snr=10)
    res = run(sim, callback=lambda n_iter, step: n_iter == 2, method="chain")
    assert res.status is Status.STOPPED
    assert error(res.gains, sim.d) < 0.5

    def interrupt(n_iter, step):
        if n_iter == 2:
            raise KeyboardInterrupt

    res = run(sim, callback=interrupt, method="chain")
    assert res.status is Status.STOPPED
    assert np.isfinite(res.gains).all()


def test_many_sensors(rng):
    """More than LAPACK decomposes in full: block inverse iterations."""
    sim = simulate(rng, "snapshots", 400, 6, 8, snr=30)
    res = run(sim, method="chain")
    bound = np.trace(crb(sim.d, sim.x, sim.A, sim.sigma)).real
    assert error(res.gains, sim.d) * np.linalg.norm(sim.d) < 1.1 * np.sqrt(bound)


@pytest.mark.parametrize("prior", ["auto", 1.0, np.ones(12)])
def test_priors_help_little_data_and_harm_nothing(rng, prior):
    sim = simulate(rng, "snapshots", 12, 3, 12, snr=3, gains="near one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free, held = run(sim), run(sim, prior=prior)
    assert held.method == "prior"
    assert np.isfinite(held.gains).all()
    known = np.isfinite(free.gains)
    assert known.sum() > 6
    assert error(held.gains[known], sim.d[known]) < 1.05 * error(free.gains, sim.d)


def test_operators_and_matrices_agree(rng):
    from scipy.sparse.linalg import aslinearoperator

    sim = simulate(rng, "snapshots", 12, 3, 8, snr=20)
    res = run(sim)
    assert error(self_calibrate(sim.y, aslinearoperator(sim.A)).gains, res.gains) < 1e-9
    diverse = simulate(rng, "diverse", 12, 3, 8, snr=20)
    assert error(self_calibrate(diverse.y, [aslinearoperator(a) for a in diverse.A]).gains, run(diverse).gains) < 1e-9


def test_nothing_known_is_told():
    with pytest.warns(AmbiguityWarning, match="no sensor has an answer"):
        found = self_calibrate(np.ones((5, 1)), np.ones((1, 1)))
    assert np.isnan(found.gains).all()
    assert found.unidentified == [0]


def test_channels_are_summed_up_without_warnings(rng):
    sim = simulate(rng, "snapshots", 8, 3, 12, snr=30)
    text = self_calibrate(np.stack([sim.y, 2 * sim.y]), sim.A).summary()
    assert "reduced chi2 nan" in text
    assert "16 of 16 identified" in text


def test_named_data_may_have_any_order_of_axes(rng):
    import xarray as xr

    sim = simulate(rng, "snapshots", 8, 3, 12, snr=30)
    y = xr.DataArray(sim.y, dims=("snapshot", "sensor"))
    found = self_calibrate(y.T, sim.A)
    assert_array_equal(found.calibrate(y.T).transpose("snapshot", "sensor"), found.calibrate(y))
    assert_array_equal(found.residuals(y.T), found.residuals(y))
    with pytest.raises(InvalidInputError, match=r"y must have the shape.*\(12, 8\); got \(5, 8\)"):
        found.residuals(sim.y[:5])


def test_one_sensor_that_is_left_is_no_answer(rng):
    from sciml.inverse.calibration.ambiguity import settle
    from sciml.inverse.calibration.chain import Chain, solve_chain
    from sciml.inverse.calibration.problem import as_problem, build_elimination

    sim = simulate(rng, "diverse", 8, 2, 4, snr=30)
    answer = solve_chain(build_elimination(as_problem(sim.y, sim.A)), Chain())
    assert bool(settle(answer)[2].all())
    for left in (1, 2):
        wide = torch.full((8,), 1e3, dtype=torch.complex128)
        wide[:left] = 1e-3
        answer.estimate.covariance = torch.diag(wide)[None]
        assert int(settle(answer)[2].sum()) == (0 if left == 1 else left)


def test_few_sensors_with_an_answer_are_no_dependent_columns(rng):
    A = np.kron(np.eye(3), np.ones((2, 1)))
    found = self_calibrate(rng.standard_normal((9, 3)) @ A.T, A, on_failure="ignore")
    assert "the sensors with an answer are too few for the signals" in found.ambiguity
    assert "dependent" not in found.ambiguity
