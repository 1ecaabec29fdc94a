"""The estimator: scikit-learn's contract, streams that equal batches, and scores that know other data."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from sciml.exceptions import AmbiguityWarning, IdentifiabilityError, InvalidInputError, NotPositiveDefiniteError
from sciml.inverse.calibration import Steering, self_calibrate
from sciml.inverse.calibration.estimator import SelfCalibrator
from sciml.inverse.calibration.streaming import SnapshotStream, calibrate_stream, held_out_chi2

# scikit-learn wants complex data refused; refusing them would take away most uses.
COMPLEX = {"check_complex_data": "complex data are supported"}


@parametrize_with_checks([SelfCalibrator(on_failure="ignore")], expected_failed_checks=lambda _: COMPLEX)
def test_scikit_learn_contract(estimator, check):
    assert check(estimator) is None  # it raises what it finds


def normal(rng, shape, is_complex):
    """Gaussian numbers with E|z|^2 = 1."""
    if not is_complex:
        return rng.standard_normal(shape)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def data(rng, m=12, n=3, p=200, noise=0.1, is_complex=True):
    A, x = normal(rng, (m, n), is_complex), normal(rng, (p, n), is_complex)
    d = normal(rng, m, is_complex) + 0.5
    return A, d, d * (x @ A.T) + noise * normal(rng, (p, m), is_complex)


def distance(found, d):
    """Relative error after the best alignment."""
    factor = np.vdot(found, d) / np.vdot(found, found)
    return np.linalg.norm(factor * found - d) / np.linalg.norm(d)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("forgetting", [1.0, 0.98])
def test_chunks_do_not_matter(rng, forgetting, is_complex):
    A, _, Y = data(rng, is_complex=is_complex)
    batch = SelfCalibrator(A, forgetting=forgetting).fit(Y)
    for ends in ([200], [1, 2, 3, 150, 200], list(range(7, 200, 7)) + [200]):
        stream = SelfCalibrator(A, forgetting=forgetting)
        for a, b in zip([0, *ends[:-1]], ends, strict=True):
            stream.partial_fit(Y[a:b])
            if 2 < b < 20:
                assert distance(stream.gains_, batch.gains_) > 1e-3  # asking in between does no harm
        assert stream.n_samples_seen_ == 200
        assert_allclose(stream.gains_, batch.gains_, rtol=1e-12)
        assert_allclose(stream.gains_std_, batch.gains_std_, rtol=1e-11)
        assert_allclose(stream.noise_std_, batch.noise_std_, rtol=1e-12)


@pytest.mark.parametrize("is_complex", [False, True])
def test_a_stream_finds_what_the_front_door_finds(rng, is_complex):
    A, d, Y = data(rng, is_complex=is_complex)
    model, result = SelfCalibrator(A, gauge="sum").fit(Y), self_calibrate(Y, A, gauge="sum")
    assert_allclose(model.gains_, result.gains, rtol=1e-11)
    assert_allclose(model.gains_std_, result.gains_std, rtol=1e-10)
    assert_allclose(model.noise_std_, result.noise_std, rtol=1e-11)
    assert distance(model.gains_, d) < 0.05
    assert model.result_.signals is None


def test_exact_data_are_recovered_from_the_counting_bound_on(rng):
    A, d, Y = data(rng, p=2, noise=0)  # 2 (12 - 3) equations for 11 ratios
    assert distance(SelfCalibrator(A).partial_fit(Y[:1]).partial_fit(Y[1:]).gains_, d) < 1e-10
    model = SelfCalibrator(A).partial_fit(Y[:1])
    with pytest.raises(IdentifiabilityError, match="got 1, so 1 are missing"):
        model.gains_  # noqa: B018
    assert distance(model.partial_fit(Y[1:]).gains_, d) < 1e-10


def test_transform_takes_the_gains_out_and_the_inverse_puts_them_back(rng):
    A, d, Y = data(rng, noise=0)
    model = SelfCalibrator(A).fit(Y)
    out = model.transform(Y)
    x = np.linalg.lstsq(A, out.T, rcond=None)[0]
    assert_allclose(A @ x, out.T, atol=1e-10 * np.abs(out).max())
    assert_allclose(model.inverse_transform(out), Y, rtol=1e-12)
    assert model.transform(Y.real).dtype == np.complex128
    assert SelfCalibrator().fit(np.ones((3, 2))).transform(np.ones((3, 2), np.float32)).dtype == np.float32


@pytest.mark.parametrize("is_complex", [False, True])
def test_a_covariance_is_as_good_as_its_snapshots(rng, is_complex):
    A, d, Y = data(rng, is_complex=is_complex)
    one, two = SelfCalibrator(A).fit(Y), SelfCalibrator(A).fit_covariance(Y.T @ Y.conj() / len(Y), len(Y))
    assert_allclose(two.gains_, one.gains_, rtol=1e-9)
    assert_allclose(two.gains_std_, one.gains_std_, rtol=1e-8)
    both = SelfCalibrator(A).fit_covariance(Y[:80].T @ Y[:80].conj() / 80, 80).partial_fit(Y[80:])
    assert_allclose(both.gains_, one.gains_, rtol=1e-9)
    assert both.n_samples_seen_ == 200


def test_forgetting_follows_gains_that_change_and_says_how_well(rng):
    A, d, Y = data(rng, p=4000)
    later = d * np.exp(0.3 * normal(rng, 12, True))
    Y[2000:] = later * (normal(rng, (2000, 3), True) @ A.T) + 0.1 * normal(rng, (2000, 12), True)
    model = SelfCalibrator(A, forgetting=0.98).fit(Y)
    assert distance(model.gains_, later) < 0.05
    assert distance(SelfCalibrator(A, on_failure="ignore").fit(Y).gains_, later) > 0.1
    # As much as (1 + 0.98) / (1 - 0.98) = 99 equal snapshots, a 40th of them all.
    steady = SelfCalibrator(A, method="chain").fit(Y[2000:])
    ratio = np.median(model.gains_std_ / steady.gains_std_)
    assert_allclose(ratio, np.sqrt(2000 / 99), rtol=0.2)


def test_errors_are_as_large_as_stated_with_forgetting(rng):
    z2 = []
    for _ in range(60):
        A, d, Y = data(rng, m=8, n=2, p=150, noise=0.05)
        model = SelfCalibrator(A, forgetting=0.95).fit(Y)
        factor = np.vdot(model.gains_, d) / np.vdot(model.gains_, model.gains_)
        z2.append(np.abs(factor * model.gains_ - d) ** 2 / (np.abs(factor) * model.gains_std_) ** 2)
    # 480 squares; weights that decay make the sums of signal and noise differ by some percent.
    assert 0.85 < np.mean(z2) < 1.2


def test_the_score_is_minus_one_on_other_data_and_worse_for_worse_gains(rng):
    A, d, Y = data(rng, p=2000)
    model = SelfCalibrator(A, noise_std=0.1).fit(Y[:1000])
    assert_allclose(model.score(Y[1000:]), -1, atol=4 * np.sqrt(1 / (1000 * 9)))
    assert_allclose(SelfCalibrator(A).fit(Y[:1000]).score(Y[1000:]), -1, atol=6 * np.sqrt(1 / (1000 * 9)))
    assert SelfCalibrator(A, noise_std=0.1, method="chain").fit(Y[:10]).score(Y[1000:]) < model.score(Y[1000:])
    assert SelfCalibrator(A, noise_std=0.05).fit(Y[:1000]).score(Y[1000:]) < -3
    exact = SelfCalibrator(A).fit(data(np.random.default_rng(0), noise=0)[2] / d * d)
    assert np.isfinite(exact.score(Y))


def test_noise_of_each_sensor_weighs_in_the_score(rng):
    A, d, Y = data(rng, p=2000, noise=0)
    sigma = np.geomspace(0.01, 1, 12)
    Y = Y + sigma * normal(rng, Y.shape, True)
    model = SelfCalibrator(A, noise_std=sigma).fit(Y[:1000])
    assert_allclose(model.score(Y[1000:]), -1, atol=0.05)
    assert_allclose(model.noise_std_, 1, atol=0.05)
    learned = SelfCalibrator(A, noise="per-sensor").fit(Y[:1000])
    assert distance(learned.gains_, d) < 2 * distance(model.gains_, d)
    assert_allclose(learned.score(Y[1000:]), -1, atol=0.1)


def test_models_are_chosen_by_their_scores(rng):
    m = 16
    basis = np.linalg.qr(normal(rng, (m, m), False))[0]
    A, x = normal(rng, (m, 8), False), normal(rng, (60, 8), False)
    Y = (1 + 0.3 * basis[:, 0]) * (x @ A.T) + 0.5 * normal(rng, (60, m), False)
    bases = [np.c_[np.ones(m), basis[:, :k]] for k in (1, 12)]
    search = GridSearchCV(SelfCalibrator(A, noise_std=0.5), {"d_basis": bases}, cv=4).fit(Y)
    assert search.best_params_["d_basis"].shape == (m, 2)


def test_sensors_have_names(rng):
    pandas = pytest.importorskip("pandas")
    A, d, Y = data(rng, m=4, n=1, noise=1e-3, is_complex=False)
    frame = pandas.DataFrame(Y, columns=["north", "east", "south", "west"])
    model = SelfCalibrator(A, gauge=("reference", "south")).set_output(transform="pandas").fit(frame)
    assert model.gains_[2] == 1
    assert model.gains_std_[2] == 0
    assert model.get_feature_names_out().tolist() == list(frame.columns)
    assert list(model.transform(frame).columns) == list(frame.columns)
    assert model.result_.sensors == list(frame.columns)
    named = SelfCalibrator(A, sensors=["a", "b", "c", "d"]).fit(Y)
    assert named.get_feature_names_out().tolist() == ["a", "b", "c", "d"]
    assert SelfCalibrator(A).fit(Y).get_feature_names_out().tolist() == ["x0", "x1", "x2", "x3"]


def test_ensembles_pipelines_clones_and_pickles(rng):
    A = Steering(0.5 * np.arange(8), [-0.4, 0.1, 0.5])
    dense = A.to_dense()
    _, d, _ = data(rng, m=8)
    Y = d * (normal(rng, (50, 3), True) @ dense.T) + 0.01 * normal(rng, (50, 8), True)
    model = make_pipeline(FunctionTransformer(), clone(SelfCalibrator(A))).fit(Y)
    assert_allclose(model[-1].gains_, SelfCalibrator(dense).fit(Y).gains_, rtol=1e-12)
    again = pickle.loads(pickle.dumps(SelfCalibrator(dense).partial_fit(Y[:25])))  # noqa: S301
    assert_allclose(again.partial_fit(Y[25:]).gains_, model[-1].gains_, rtol=1e-12)


def test_sensors_without_common_signal_are_named_and_come_out_as_nan(rng):
    A = np.zeros((9, 4))
    A[:5, :2], A[5:, 2:] = normal(rng, (5, 2), False), normal(rng, (4, 2), False)
    Y = normal(rng, (50, 4), False) @ A.T + 0.01 * normal(rng, (50, 9), False)
    with pytest.warns(AmbiguityWarning, match="sensors x0-x4 and x5-x8 share no common information"):
        model = SelfCalibrator(A).fit(Y)
    assert_array_equal(np.isnan(model.transform(Y)).any(0), np.arange(9) > 4)
    assert_array_equal(np.isinf(model.gains_std_), np.arange(9) > 4)
    assert np.isfinite(model.score(Y))
    assert_allclose(model.inverse_transform(model.transform(Y))[:, :5], Y[:, :5], rtol=1e-12)


def test_units_do_not_matter(rng):
    A, _, Y = data(rng)
    one, two = SelfCalibrator(A).fit(Y), SelfCalibrator(2.0**-30 * A).fit(2.0**40 * Y)
    assert_array_equal(one.gains_, two.gains_)
    assert two.noise_std_ == 2.0**40 * one.noise_std_
    assert_array_equal(SelfCalibrator(A, on_failure="ignore").fit(Y.astype(np.complex64)).gains_.dtype, np.complex128)


def test_bad_input_is_named(rng):
    A, _, Y = data(rng, m=5, n=2, is_complex=False)
    model = SelfCalibrator(A).fit(Y)
    Y[3, 2] = np.nan
    with pytest.raises(InvalidInputError, match=r"entry at \(3, 2\) is nan.*self_calibrate"):
        SelfCalibrator(A).fit(Y)
    with pytest.raises(InvalidInputError, match=r"entry at \(3, 2\) is \(nan.*self_calibrate"):
        SelfCalibrator(A).fit(Y + 0j)
    Y[3, 2] = 0
    with pytest.raises(InvalidInputError, match="X must hold no masked entries; got 1"):
        SelfCalibrator(A).fit(np.ma.masked_array(Y, Y == 0))
    with pytest.raises(InvalidInputError, match=r"A must have shape \(4, n\).*got \(5, 2\)"):
        SelfCalibrator(A).fit(Y[:, :4])
    with pytest.raises(ValueError, match="expecting 5 features"):
        model.transform(Y[:, :4])
    with pytest.raises(ValueError, match="expecting 5 features"):
        model.partial_fit(Y[:, :4] + 0j)
    with pytest.raises(InvalidInputError, match="forgetting must be"):
        SelfCalibrator(A, forgetting=0).fit(Y)
    with pytest.raises(InvalidInputError, match="method must be one of"):
        SelfCalibrator(A, method="matrix-free").fit(Y)
    with pytest.raises(InvalidInputError, match="given together"):
        SelfCalibrator(A, s_basis=np.eye(5), d_basis=np.eye(5)).fit(Y)
    with pytest.raises(InvalidInputError, match=r"X must have shape \(p, m\)"):
        SelfCalibrator(A).fit(np.zeros((0, 5)) * 1j)


def test_bad_covariances_are_named(rng):
    A, _, Y = data(rng, m=5, n=2)
    C = Y.T @ Y.conj() / len(Y)
    with pytest.raises(InvalidInputError, match=r"square matrix; got shape \(5, 4\)"):
        SelfCalibrator(A).fit_covariance(C[:, :4], 10)
    with pytest.raises(InvalidInputError, match="1 entries"):
        SelfCalibrator(A).fit_covariance(np.where(np.eye(5) * np.arange(5) == 4, np.nan, C), 10)
    with pytest.raises(InvalidInputError, match="C must be Hermitian"):
        SelfCalibrator(A).fit_covariance(C + np.triu(np.ones((5, 5)), 1), 10)
    with pytest.raises(NotPositiveDefiniteError, match="smallest eigenvalue is -"):
        SelfCalibrator(A).fit_covariance(C - 10 * np.eye(5), 10)
    with pytest.raises(InvalidInputError, match="n_samples must be"):
        SelfCalibrator(A).fit_covariance(C, 0)


def test_streams_keep_kind_and_refuse_what_does_not_fit(rng):
    A, _, Y = data(rng)
    stream = SnapshotStream(12).add(torch.from_numpy(Y))
    found = calibrate_stream(stream, torch.from_numpy(A))
    assert isinstance(found.gains, torch.Tensor)
    assert_allclose(found.gains.numpy(), calibrate_stream(SnapshotStream(12).add(Y), A).gains, rtol=1e-12)
    with pytest.raises(InvalidInputError, match=r"12 columns.*\(200, 11\)"):
        stream.add(torch.from_numpy(Y[:, :11]))
    with pytest.raises(InvalidInputError, match="no snapshots"):
        SnapshotStream(3).factor()
    assert stream.add(torch.zeros(0, 12)).n_seen == 200
    assert SnapshotStream(3).effective == 0


def test_real_snapshots_may_be_followed_by_complex_ones(rng):
    A, d, Y = data(rng, noise=0.01)
    A, d = A.real, d.real
    Y = Y.real * 0 + d * (normal(rng, (200, 3), True) @ A.T)
    mixed = SelfCalibrator(A + 0j).partial_fit(Y[:100].real).partial_fit(Y[100:])
    assert distance(mixed.gains_, d) < 1e-10


def test_sensors_without_gain_do_not_count_in_the_held_out_misfit(rng):
    A, d, Y = data(rng, m=6, n=2, p=500, noise=0.1)
    gains = d.copy()
    gains[4] = np.nan
    arrays = [torch.from_numpy(a) for a in (Y, gains, A)]
    value = held_out_chi2(*arrays, torch.tensor(0.1, dtype=torch.float64))
    keep = np.arange(6) != 4
    B = (d[:, None] * A)[keep]
    left = Y[:, keep].T - B @ np.linalg.lstsq(B, Y[:, keep].T, rcond=None)[0]
    assert_allclose(value, (np.abs(left) ** 2).sum() / 0.1**2 / (500 * 3), rtol=1e-10)
    assert np.isnan(held_out_chi2(arrays[0][:, :2], arrays[1][:2], arrays[2][:2], torch.tensor(0.1)))
