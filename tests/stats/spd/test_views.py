"""Views: features that keep lengths, do not depend on units or mixing, and survive being written down."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import spd_distance
from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.distance_views import NearestMean, NearestNeighbours, distance_paths
from sciml.stats.spd.trials import as_trials
from sciml.stats.spd.views import TangentView, TrendView, view_from_settings


@pytest.fixture
def trials(rng):
    return as_trials(rng.normal(size=(12, 3, 40)) + rng.normal(size=(12, 3, 1)))


def learned(view, trials):
    prepared = view.prepare(trials)
    blocks = view.blocks(trials, prepared)
    return blocks, view.fit(blocks)


@pytest.mark.parametrize("metric", ["airm", "logeuclid", "bw", "logchol", "euclid"])
def test_lengths_are_distances_from_the_mean(trials, metric):
    view = TangentView(Descriptor(n_basis=1), metric)
    blocks, state = learned(view, trials)
    want = spd_distance(blocks[:, 0], state["reference"][0], metric=metric)
    assert_allclose(np.linalg.norm(view.features(blocks, state), axis=1), want, rtol=1e-10)


@pytest.mark.parametrize("theta", [0.5, -1.0])
def test_lengths_are_distances_in_deformed_geometries(trials, theta):
    view = TangentView(Descriptor(), "bw", theta)
    blocks, state = learned(view, trials)
    want = spd_distance(blocks[:, 0], state["reference"][0], metric="bw", theta=theta)
    assert_allclose(np.linalg.norm(view.features(blocks, state), axis=1), want, rtol=1e-9)


def test_trends_are_the_whitened_regression_on_time(rng):
    t = np.linspace(-1, 1, 41)
    slope = rng.normal(size=(10, 2))
    x = slope[:, :, None] * t + 0.01 * rng.normal(size=(10, 2, 41))
    view = TrendView(2)
    blocks, _ = learned(view, as_trials(x))
    # The second polynomial is t over its root mean square.
    rms = np.sqrt((t**2).mean())
    assert_allclose(blocks[:, :, 1], slope * rms, atol=4 * 0.01 / np.sqrt(41))
    assert_allclose(blocks[:, :, 2:].mean(0), 1e-4 * np.eye(2), atol=3e-5)


def test_trends_do_not_depend_on_mixing(trials):
    A = np.array([[2.0, 1.0, 0.0], [0.0, 1e3, 5.0], [1.0, 0.0, 1.0]])
    view, mixed = TrendView(3), trials.map_series(lambda x: A @ x)
    one, two = (view.features(*learned(view, data)) for data in (trials, mixed))
    # Whitened coefficients of mixed channels are turned, so that inner products stay; the ridge is 1e-6.
    assert_allclose(one @ one.T, two @ two.T, rtol=1e-3, atol=1e-3)


def test_whitening_of_a_domain_makes_its_mean_the_identity(trials):
    view = TangentView(Descriptor(), "airm")
    blocks, _ = learned(view, trials)
    new = view.recentred(blocks, view.domain_state(blocks))
    assert_allclose(view.fit(new)["reference"][0], np.eye(3), atol=1e-4)
    trend = TrendView(2)
    blocks, _ = learned(trend, trials)
    new = trend.recentred(blocks, trend.domain_state(blocks))
    assert_allclose(new[..., :2].mean(0), 0, atol=1e-12)
    assert_allclose(trend.fit(new)["factor"], np.eye(3), atol=1e-5)


def test_bands_are_features_side_by_side(rng):
    trials = as_trials(rng.normal(size=(6, 2, 80)))
    view = TangentView(Descriptor(bands=((0.05, 0.2), (0.2, 0.45))), "bw")
    blocks, state = learned(view, trials)
    assert view.features(blocks, state).shape == (6, 6)


def test_views_are_equal_after_json():
    for view in (TrendView(4), TangentView(Descriptor(n_basis=2, bands=((0.1, 0.2),), shrink=0.1), "bw", 0.5)):
        assert view_from_settings(json.loads(json.dumps(view.settings()))) == view


def test_singular_matrices_are_named(rng):
    C = np.stack([np.eye(3)] * 4)
    C[2, 2, 2] = 0
    view = TangentView(Descriptor(shrink=0.0), "airm")
    with pytest.raises(NotPositiveDefiniteError, match="number 2 has smallest eigenvalue"):
        learned(view, as_trials(C))
    with pytest.raises(InvalidInputError, match="3 channels"):
        TrendView(1).blocks(as_trials(rng.normal(size=(2, 2, 9))), {"n_channels": 3})


def test_nearest_mean_and_neighbours_are_what_they_say(rng):
    codes = np.repeat([0, 1], 6)
    s = np.exp(0.1 * rng.normal(size=12)) * np.where(codes, 9.0, 1.0)
    blocks = s[:, None, None, None] * np.eye(2)
    mean = NearestMean(Descriptor(), "airm")
    state = mean.train(blocks, codes)
    want = [np.exp(np.log(s[codes == c]).mean()) for c in (0, 1)]
    assert_allclose(state["means"][:, 0, 0, 0], want, rtol=1e-4)
    d = 2 * np.log(s[:, None] / want) ** 2
    own = d[np.arange(12), codes].mean()
    P = np.exp(-d / (2 * 0.1 * own))
    assert_allclose(np.exp(mean.log_proba(blocks, state, 0.1)), P / P.sum(1, keepdims=True), rtol=1e-2)
    near = NearestNeighbours(Descriptor(), "logeuclid")
    P = np.exp(near.log_proba(blocks[:2], near.train(blocks, codes), 3.0))
    assert_allclose(P, [[3.5 / 4, 0.5 / 4]] * 2)
    options, paths = distance_paths(near, blocks, codes, np.arange(12)[None] % 3)
    assert options == (1.0, 3.0, 5.0)
    assert (paths.argmax(2) == codes).all()


def test_trends_are_centred_and_in_units_of_all_that_varies(trials):
    view = TrendView(2)
    blocks, state = learned(view, trials)
    assert_allclose(view.features(blocks, state).mean(0), 0, atol=1e-12)
    c = blocks[..., :2]
    between = sum(np.cov(c[..., j].T, bias=True) for j in range(2))
    total = blocks[..., 2:].mean(0) + between
    # The ridge is a millionth of each channel's own variance.
    assert_allclose(state["factor"] @ state["factor"].T, total + 1e-6 * np.diag(np.diag(total)), rtol=1e-9, atol=1e-12)


def test_distances_are_judged_without_the_fold(rng):
    # Labels are chance; whoever sees the trial itself among the neighbours is always right.
    blocks = np.exp(rng.normal(size=60))[:, None, None, None] * np.eye(2)
    codes = rng.permutation(np.repeat([0, 1], 30))
    _, paths = distance_paths(NearestNeighbours(Descriptor(), "airm"), blocks, codes, np.arange(60)[None] % 3)
    assert (paths[0].argmax(1) == codes).mean() < 0.5 + 3 * np.sqrt(0.25 / 60)
