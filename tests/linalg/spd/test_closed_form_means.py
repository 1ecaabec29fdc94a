"""Means by name: closed forms, deformed geometries, and what all means share."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import cholesky, expm, logm, sqrtm

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import affine_invariant_mean, bures_mean, spd_distance, spd_mean

ALL = ("bw", "airm", "logeuclid", "logchol", "euclid", "harmonic", "power")
SINGULAR = ("bw", "euclid", "power")


def batch(count, n, cond, rng, complex_=False):
    G = rng.standard_normal((count, n, n)) + (1j * rng.standard_normal((count, n, n)) if complex_ else 0)
    Q = np.linalg.qr(G)[0]
    A = (Q * np.logspace(0, -np.log10(cond), n)) @ Q.conj().swapaxes(-1, -2)
    return (A + A.conj().swapaxes(-1, -2)) / 2


@pytest.mark.parametrize("complex_", [False, True])
def test_closed_forms_are_those_of_the_textbook(complex_, rng):
    X, w = batch(5, 4, 1e2, rng, complex_), np.array([1.0, 2, 3, 4, 0.5])
    v = w / w.sum()
    average = lambda f: np.tensordot(v, np.stack([f(A) for A in X]), 1)  # noqa: E731
    lower = lambda A: cholesky(A, lower=True)  # noqa: E731
    K = average(lambda A: np.tril(lower(A), -1) + np.diag(np.log(np.diag(lower(A)).real)))
    K = np.tril(K, -1) + np.diag(np.exp(np.diag(K)))
    truth = {
        "logeuclid": expm(average(logm)),
        "logchol": K @ K.conj().T,
        "euclid": average(np.asarray),
        "harmonic": np.linalg.inv(average(np.linalg.inv)),
        "power": average(sqrtm) @ average(sqrtm),
    }
    for metric, value in truth.items():
        result = spd_mean(X, w, metric=metric)
        assert_allclose(result.mean, value, atol=1e-12)
        assert result.converged
        assert result.n_iter == 0
        assert result.metric == metric


def test_iterative_means_are_those_of_their_own_doors(rng):
    X, w = batch(5, 4, 1e2, rng), [1, 2, 3, 4, 5]
    assert_array_equal(spd_mean(X, w).mean, bures_mean(X, w).mean)
    assert_array_equal(spd_mean(X, w, metric="riemann").mean, affine_invariant_mean(X, w).mean)
    assert spd_mean(X, metric="airm", max_iter=2, on_failure="ignore").n_iter == 2


@pytest.mark.parametrize("metric", ["bw", "gbw", "airm", "logeuclid", "logchol", "euclid"])
@pytest.mark.parametrize("theta", [1.0, 0.5, -1.0])
def test_every_mean_is_the_point_of_least_squares(metric, theta, rng):
    X, w = batch(5, 3, 1e1, rng), np.array([1.0, 2, 3, 4, 5])
    options = {"metric": metric, "theta": theta, "M": batch(1, 3, 10, rng)[0] if metric == "gbw" else None}
    M = spd_mean(X, w, **options).mean
    value = lambda M: w @ spd_distance(M, X, **options) ** 2  # noqa: E731
    best = value(M)
    for _ in range(20):
        K = np.eye(3) + 1e-3 * rng.standard_normal((3, 3))
        assert value(K @ M @ K.T) > best


def test_power_means_lie_between_their_limits(rng):
    X = batch(4, 3, 1e2, rng)
    assert_allclose(spd_mean(X, metric="power", p=1).mean, spd_mean(X, metric="euclid").mean, atol=1e-14)
    assert_allclose(spd_mean(X, metric="power", p=-1).mean, spd_mean(X, metric="harmonic").mean, atol=1e-12)
    assert_allclose(spd_mean(X, metric="power", p=1e-5).mean, spd_mean(X, metric="logeuclid").mean, rtol=0, atol=1e-3)


@pytest.mark.parametrize("metric", ALL)
def test_all_means_scale_with_the_units_and_take_weights_for_repetitions(metric, rng):
    X = batch(5, 4, 30, rng)
    M = spd_mean(X, metric=metric).mean
    for c in (1e-14, 3e-5, 1e14):
        assert_allclose(spd_mean(c * X, metric=metric).mean / c, M, rtol=0, atol=1e-12 * np.abs(M).max())
    weighted, repeated = spd_mean(X[:2], [2, 1], metric=metric).mean, spd_mean(X[[0, 0, 1]], metric=metric).mean
    assert_allclose(weighted, repeated, atol=1e-13)
    assert_allclose(spd_mean(X, [1 - 1e-13, *[2.5e-14] * 4], metric=metric).mean, X[0], atol=1e-11)
    assert_allclose(spd_mean(X[:1], metric=metric).mean, X[0], atol=1e-13)


@pytest.mark.parametrize("metric", ALL)
def test_all_means_turn_with_the_frame(metric, rng):
    X, Q = batch(5, 4, 1e2, rng), np.linalg.qr(rng.standard_normal((4, 4)))[0]
    if metric == "logchol":  # which knows the order of the channels, but not the sign of one
        Q = np.diag([1.0, -1.0, 1.0, -1.0])
    turned = Q @ X @ Q.T
    M = spd_mean((turned + turned.swapaxes(-1, -2)) / 2, metric=metric).mean
    assert_allclose(M, Q @ spd_mean(X, metric=metric).mean @ Q.T, atol=1e-12)


@pytest.mark.parametrize("metric", ALL)
def test_singular_matrices_are_averaged_or_refused(metric, rng):
    G = rng.standard_normal((4, 3, 2))
    X = np.concatenate([G @ G.swapaxes(-1, -2), np.eye(3)[None]])
    if metric in SINGULAR:
        assert np.linalg.eigvalsh(spd_mean(X, metric=metric).mean)[0] > 0
    else:
        with pytest.raises(NotPositiveDefiniteError, match="number 0 of X must be|X must be positive definite"):
            spd_mean(X, metric=metric)


@pytest.mark.parametrize("metric", ALL)
def test_gradients_flow_to_matrices_and_weights(metric, rng):
    X = torch.from_numpy(batch(3, 3, 10, rng)).requires_grad_()
    w = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)

    def function(X, w):
        tol = {"tol": 1e-14} if metric in ("bw", "airm") else {}
        return spd_mean((X + X.mH) / 2, w, metric=metric, on_failure="ignore", **tol).mean

    assert torch.autograd.gradcheck(function, (X, w), eps=1e-6, atol=1e-6)


def test_gradients_flow_through_deformed_means(rng):
    X = torch.from_numpy(batch(3, 3, 10, rng)).requires_grad_()

    def function(X):
        return spd_mean((X + X.mH) / 2, theta=0.5, metric="gbw", M=2 * np.eye(3), tol=1e-14, on_failure="ignore").mean

    assert torch.autograd.gradcheck(function, (X,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"metric": "median"}, "metric must be one of 'bw', .*'power'; got 'median'"),
        ({"metric": "power", "p": 0}, "p must not be 0"),
        ({"metric": "power", "theta": 0.5}, "theta must be 1 for metric='power'"),
        ({"metric": "harmonic", "M": np.eye(2)}, "M must be None for metric='harmonic'"),
        ({"theta": 0}, "theta must not be 0"),
        ({"metric": "gbw"}, "M must be given"),
        ({"weights": [1.0]}, "weights must hold"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(InvalidInputError, match=text):
        spd_mean(np.stack([np.eye(2)] * 2), **options)


def test_an_indefinite_matrix_is_refused_by_the_arithmetic_mean_as_well():
    with pytest.raises(NotPositiveDefiniteError, match="number 1 of X"):
        spd_mean(np.stack([np.eye(2), -np.eye(2)]), metric="euclid")
