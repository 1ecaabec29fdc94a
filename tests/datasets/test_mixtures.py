"""Gaussian clusters have the means, the volumes and the shares that were asked for, in a known order of draws."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.datasets import gaussian_clusters
from sciml.exceptions import InvalidInputError


def by_hand(n, K, p, separation, condition, seed):
    """The published recipe, word by word."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    means = (
        rng.standard_normal((K, p)) * separation / np.sqrt(2 * p) if p < K else separation / np.sqrt(2) * np.eye(K, p)
    )
    X = np.zeros((n, p))
    for k in range(K):
        Q, _ = np.linalg.qr(rng.standard_normal((p, p)))
        e = np.exp(rng.uniform(-np.log(condition) / 2, np.log(condition) / 2, p))
        e /= np.prod(e) ** (1 / p)
        X[labels == k] = means[k] + rng.standard_normal(((labels == k).sum(), p)) * np.sqrt(e) @ Q.T
    return X, labels


@pytest.mark.parametrize("case", [(300, 3, 10, 3, 20), (200, 4, 40, 6, 20), (600, 10, 8, 5, 30)])
@pytest.mark.parametrize("seed", [0, 5])
def test_draws_are_those_of_the_recipe(case, seed):
    X, labels = gaussian_clusters(*case, random_state=seed)
    Y, truth = by_hand(*case, seed)
    assert_array_equal(labels, truth)
    assert_allclose(X, Y, rtol=0, atol=1e-13)
    assert X.dtype == np.float64
    assert labels.dtype == np.int64


def test_covariances_have_volume_one_unlike_shapes_and_the_condition_asked_for():
    X, labels = gaussian_clusters(300_000, 3, 4, 6, 20)
    spectra = []
    for k in range(3):
        Y = X[labels == k]
        # Five standard errors of a mean of 1e5 points, whose variances are at most 20.
        assert_allclose(Y.mean(0), 6 / np.sqrt(2) * np.eye(4)[k], atol=5 * np.sqrt(20 / 1e5))
        spectra.append(np.linalg.eigvalsh(np.cov(Y.T)))
        assert_allclose(spectra[-1].prod(), 1, atol=5 * np.sqrt(2 * 4 / 1e5))
    assert abs(spectra[0] - spectra[1]).max() > 0.05


def test_no_condition_exceeds_the_one_asked_for_and_some_come_near():
    X, labels = gaussian_clusters(200_000, 40, 3, 1, 1e4)
    conditions = [np.linalg.cond(np.cov(X[labels == k].T)) for k in range(40)]
    # The range of three uniform logarithms exceeds 0.8 of its interval with probability 0.1; so 40 do but for 1 in 80.
    assert 1e4**0.8 < max(conditions) < 1.1e4
    # The mean range of three is half the interval.
    assert np.mean(np.log(conditions)) == pytest.approx(np.log(1e4) / 2, rel=0.15)


def test_balls_need_no_frame():
    X, labels = gaussian_clusters(100_000, 2, 3, 2, 1, random_state=1)
    assert_allclose(np.cov(X[labels == 0].T), np.eye(3), atol=5 * np.sqrt(2 / 5e4))


def test_more_clusters_than_features_have_the_separation_in_mean_square():
    K = 400
    X, labels = gaussian_clusters(40_000, K, 2, 100, 1)
    means = np.stack([X[labels == k].mean(0) for k in range(K)])
    square = 2 * K / (K - 1) * means.var(0).sum() * (K - 1) / K
    # The mean of K squares of length 2 has a relative error of sqrt(1 / K).
    assert square == pytest.approx(100**2, rel=4 / np.sqrt(K))


def test_proportions_are_those_asked_for():
    _, labels = gaussian_clusters(100_000, 3, 2, 5, 2, proportions=(0.9, 0.07, 0.03))
    assert_allclose(np.bincount(labels) / 1e5, (0.9, 0.07, 0.03), atol=4 * np.sqrt(0.25 / 1e5))


def test_outliers_fill_a_cube_and_leave_the_rest_alone():
    clean, truth = gaussian_clusters(10_000, 3, 4, 5, 20)
    X, labels = gaussian_clusters(10_000, 3, 4, 5, 20, outliers=0.05)
    wild = labels == -1
    assert wild.sum() == 500
    assert_array_equal(X[~wild], clean[~wild])
    assert_array_equal(labels[~wild], truth[~wild])
    assert 11.9 < abs(X[wild]).max() < 12
    assert_allclose(X[wild].var(0), 12**2 / 3, rtol=0.2)


def test_a_generator_moves_on():
    rng = np.random.default_rng(3)
    first, _ = gaussian_clusters(50, 2, 3, 4, 5, random_state=rng)
    second, _ = gaussian_clusters(50, 2, 3, 4, 5, random_state=rng)
    assert_array_equal(first, gaussian_clusters(50, 2, 3, 4, 5, random_state=3)[0])
    assert abs(first - second).min() > 0


def test_one_point_of_one_cluster_and_a_cluster_without_points():
    X, labels = gaussian_clusters(1, 1, 1, 0, 1)
    assert X.shape == (1, 1)
    assert labels.tolist() == [0]
    X, labels = gaussian_clusters(5, 2, 3, 4, 5, proportions=[1.0, 0.0])
    assert labels.tolist() == [0] * 5
    assert np.isfinite(X).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n": 0}, "n must be an integer at least 1; got 0"),
        ({"n_clusters": 0}, "n_clusters must be an integer at least 1; got 0"),
        ({"n_features": 1.5}, r"n_features must be an integer at least 1; got 1\.5"),
        ({"separation": -1}, "separation must be a number at least 0; got -1"),
        ({"condition": 0.5}, r"condition must be a number at least 1; got 0\.5"),
        ({"outliers": 1.5}, r"outliers must be a number .*; got 1\.5"),
        ({"proportions": [1.0]}, r"proportions must have one entry for each of 3 clusters; got shape \(1,\)"),
        (
            {"proportions": [0.5, 0.7, -0.2]},
            r"proportions must not be negative and have sum 1; got \[0\.5, 0\.7, -0\.2\]",
        ),
        ({"proportions": [0.5, 0.5, 0.5]}, r"with sum 1\.5\. Divide by their sum"),
        ({"proportions": [0.5, np.nan, 0.5]}, "proportions must be finite; the entry at index 1 is nan"),
        ({"random_state": "a"}, "random_state must be None, an int"),
    ],
)
def test_bad_arguments_are_named(change, text):
    given = {"n": 10, "n_clusters": 3, "n_features": 2, "separation": 3, "condition": 4} | change
    with pytest.raises(InvalidInputError, match=text):
        gaussian_clusters(**given)
