"""The geometric median: scalar truth, least sum of distances, and outliers that do not count."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.linalg.spd import METRICS, spd_distance, spd_mean, spd_median


def batch(count, n, rng):
    G = rng.standard_normal((count, n, 3 * n))
    return G @ G.swapaxes(-1, -2) / (3 * n)


@pytest.mark.parametrize("metric", METRICS)
def test_no_other_point_has_a_smaller_sum_of_distances(metric, rng):
    X, w = batch(8, 3, rng), rng.uniform(0.5, 1, 8)
    options = {"metric": metric, "M": batch(1, 3, rng)[0] if metric == "gbw" else None}
    result = spd_median(X, w, tol=1e-9, **options)
    assert result.converged
    value = lambda M: w @ spd_distance(M, X, **options)  # noqa: E731
    best = value(result.mean)
    for _ in range(30):
        K = np.eye(3) + 1e-3 * rng.standard_normal((3, 3))
        assert value(K @ result.mean @ K.T) > best


@pytest.mark.parametrize("metric", ["bw", "airm", "logeuclid"])
def test_the_sum_of_distances_never_grows(metric, rng):
    history = spd_median(batch(8, 3, rng), metric=metric, tol=1e-9).history["mean_distance"]
    assert (np.diff(history) <= 1e-13 * history[0]).all()


def test_scalars_have_their_median():
    x = np.array([1.0, 2.0, 3.0, 10.0, 1e6])
    for metric in ("bw", "airm", "euclid"):
        assert_allclose(spd_median(x[:, None, None], metric=metric, tol=1e-8, max_iter=5000).mean, 3.0, rtol=1e-4)


def test_four_corners_meet_in_the_middle():
    # Logarithms (+-1, 0) and (0, +-2): by symmetry the median is the identity, and none of the four.
    logs = np.array([[1.0, 0], [-1, 0], [0, 2], [0, -2]])
    X = np.stack([np.diag(np.exp(row)) for row in logs])
    assert_allclose(spd_median(X, metric="logeuclid").mean, np.eye(2), atol=1e-6)


def test_outliers_do_not_move_it(rng):
    X = batch(20, 3, rng)
    bad = np.concatenate([X, 1e8 * batch(4, 3, rng)])
    clean, robust = spd_median(X).mean, spd_median(bad).mean
    assert spd_distance(clean, robust) < 0.5
    assert spd_distance(spd_mean(X).mean, spd_mean(bad).mean) > 1e3


def test_units_weights_and_equal_matrices(rng):
    X = batch(5, 3, rng)
    M = spd_median(X).mean
    assert_array_equal(spd_median(4.0**-20 * X).mean, 4.0**-20 * M)
    weighted, repeated = spd_median(X, [2, 1, 1, 1, 1]).mean, spd_median(X[[0, 0, 1, 2, 3, 4]]).mean
    assert_allclose(weighted, repeated, atol=1e-10)
    assert_allclose(spd_median(X[[0, 0, 0]]).mean, X[0], rtol=1e-12)
    assert_allclose(spd_median(X[:1]).mean, X[0], rtol=1e-12)


def test_it_says_when_it_did_not_converge_and_what_it_cannot_do(rng):
    X = batch(8, 3, rng)
    with pytest.warns(ConvergenceWarning, match="spd_median stopped after 2 iterations"):
        assert not spd_median(X, max_iter=2).converged
    with pytest.raises(InvalidInputError, match="must not ask for a gradient"):
        spd_median(torch.from_numpy(X).requires_grad_())
    with pytest.raises(InvalidInputError, match="metric must be one of .*got 'harmonic'"):
        spd_median(X, metric="harmonic")


def test_kinds_and_dtypes_stay(backend, rng):
    X = batch(5, 3, rng)
    found = backend.numpy(spd_median(backend.array(X.astype(np.float32))).mean)
    assert found.dtype == np.float32
    assert_allclose(found, spd_median(X).mean, atol=1e-5)
