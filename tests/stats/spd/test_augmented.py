"""Augmented covariances: the stacked series as a slow twin, offsets, shrinkage of what trends leave."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.covariance import ledoit_wolf

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.augmented import augmented_covariance
from sciml.stats.spd.lag_bank import LagBank
from sciml.stats.spd.time_basis import legendre_basis


@pytest.fixture
def x(rng):
    return rng.normal(size=(3, 2, 80)).cumsum(axis=2) + np.array([[5.0], [-2.0]])


def stacked(x, p, lag, K=0):
    """The augmented series, as the definition has it."""
    T = x.shape[2] - (p - 1) * lag
    parts = [x[:, :, i * lag : i * lag + T] for i in range(p)]
    return np.concatenate([*parts, np.broadcast_to(legendre_basis(T, K), (len(x), K, T))], axis=1)


GRID = [(1, 1), (2, 1), (3, 10), (4, 5), (2, 39), (7, 11)]


@pytest.mark.parametrize(("p", "lag"), GRID)
def test_windowed_is_the_covariance_of_stacked_series(x, p, lag):
    for unbiased, estimator in ((False, "scm"), (True, "scm_unbiased")):
        expected = np.stack([np.cov(z, bias=not unbiased) for z in stacked(x, p, lag)])
        C = augmented_covariance(x, p, lag, estimator=estimator)
        assert_allclose(C, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
        assert_array_equal(C, C.transpose(0, 2, 1))


@pytest.mark.parametrize(("p", "lag"), GRID[:-2])
@pytest.mark.parametrize("K", [1, 2, 5])
def test_with_polynomials_it_is_the_second_moment(x, p, lag, K):
    z = stacked(x, p, lag, K)
    expected = z @ z.transpose(0, 2, 1) / z.shape[2]
    M = augmented_covariance(x, p, lag, n_basis=K)
    assert_allclose(M, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    assert_array_equal(M, M.transpose(0, 2, 1))
    scaled = augmented_covariance(x, p, lag, n_basis=K, scale=4.0)
    d = 2 * p
    assert_allclose(scaled[:, :d, :d], M[:, :d, :d] / 16, rtol=1e-12, atol=1e-13)
    assert_allclose(scaled[:, :d, d:], M[:, :d, d:] / 4, rtol=1e-12, atol=1e-13)
    assert_array_equal(scaled[:, d:, d:], np.broadcast_to(np.eye(K), (3, K, K)))


def test_one_polynomial_is_the_gaussian_embedding(x):
    M, m = augmented_covariance(x, n_basis=1), x.mean(axis=2)
    S = np.stack([np.cov(t, bias=True) for t in x])
    assert_allclose(M[:, :2, :2], S + m[:, :, None] * m[:, None, :], rtol=1e-13)
    assert_allclose(M[:, :2, 2], m, rtol=1e-13)
    assert_array_equal(M[:, 2, 2], 1.0)


def test_a_linear_trend_is_all_in_the_cross_block():
    T = 41
    x = (3.0 + 0.5 * (np.arange(T) - 20))[None, None]
    M = augmented_covariance(x, n_basis=3)[0]
    slope = 0.5 * np.sqrt((T**2 - 1) / 12)
    assert_allclose(M[0], [9 + slope**2, 3, slope, 0], atol=1e-12)


@pytest.mark.parametrize(("p", "lag"), GRID)
@pytest.mark.parametrize("K", [1, 3])
def test_toeplitz_is_the_second_moment_of_the_padded_series(x, p, lag, K):
    """The centred series and the polynomials are continued by zeros; then the offsets are put back."""
    span = (p - 1) * lag
    padded = np.pad(x - x.mean(axis=2, keepdims=True), ((0, 0), (0, 0), (span, span)))
    P = np.pad(legendre_basis(80, K), ((0, 0), (span, 0)))
    parts = [padded[:, :, i * lag : i * lag + 80 + span] for i in range(p)]
    z = np.concatenate([*parts, np.broadcast_to(P, (3, K, 80 + span))], axis=1)
    G = np.broadcast_to(np.eye(2 * p + K), (3, 2 * p + K, 2 * p + K)).copy()
    G[:, : 2 * p, 2 * p] = np.tile(x.mean(axis=2), p)
    expected = G @ (z @ z.transpose(0, 2, 1) / 80) @ G.transpose(0, 2, 1)
    M = augmented_covariance(x, p, lag, n_basis=K, lag_estimator="toeplitz")
    assert_allclose(M, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("lag_estimator", ["windowed", "toeplitz"])
@pytest.mark.parametrize("K", [0, 1, 4])
def test_positive_semidefinite_even_when_short(lag_estimator, K, rng):
    x = rng.normal(size=(20, 3, 9)) + 100
    M = augmented_covariance(x, 2, 4, n_basis=K, lag_estimator=lag_estimator, scale=100.0)
    values = np.linalg.eigvalsh(M)
    assert (values[:, 0] >= -1e-14 * values[:, -1]).all()


@pytest.mark.parametrize("K", [0, 3])
def test_the_two_estimates_meet_as_trials_grow(K, rng):
    gaps = []
    for T in (100, 10_000):
        x = rng.normal(size=(20, 2, T)).cumsum(axis=2)[:, :, ::1]
        x = np.diff(x, axis=2) + 1.0
        a, b = (augmented_covariance(x, 3, 5, n_basis=K, lag_estimator=e) for e in ("windowed", "toeplitz"))
        gaps.append(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert gaps[1] < 0.02 * 10 / 100 * 10  # a share (p - 1) l / T of 10 / 10000, times noise
    assert gaps[1] < gaps[0] / 10


@pytest.mark.parametrize("lag_estimator", ["windowed", "toeplitz"])
@pytest.mark.parametrize("shrink", [0.0, 0.05])
def test_an_offset_acts_as_a_congruence(x, lag_estimator, shrink):
    """z + mu p_0 is a linear map of (z, p): shrinkage must not know the offset."""
    options = {"n_basis": 3, "lag_estimator": lag_estimator, "shrink": shrink}
    M = augmented_covariance(x, 2, 3, **options)
    mu = np.array([1e4, -2e4])
    G = np.eye(7)
    G[:4, 4] = np.tile(mu, 2)
    shifted = augmented_covariance(x + mu[:, None], 2, 3, **options)
    assert_allclose(shifted, G @ M @ G.T, rtol=1e-12)
    back = np.linalg.inv(G) @ shifted @ np.linalg.inv(G).T
    assert_allclose(back, M, rtol=0, atol=1e-15 * 4e8 * 100)


def test_shrinkage_leaves_means_and_trends_alone(x):
    M, shrunk = (augmented_covariance(x, 2, 3, n_basis=2, shrink=g) for g in (0.0, 0.2))
    assert_array_equal(M[:, 4:], shrunk[:, 4:])
    c = M[:, :4, 4:]
    S = M[:, :4, :4] - c @ c.transpose(0, 2, 1)
    level = np.trace(S, axis1=1, axis2=2)[:, None, None] / 4
    assert_allclose(shrunk[:, :4, :4], M[:, :4, :4] - 0.2 * S + 0.2 * level * np.eye(4), rtol=1e-12)


def test_other_estimators_see_the_stacked_series(x):
    expected = np.stack([ledoit_wolf(z.T)[0] for z in stacked(x, 3, 4)])
    assert_allclose(augmented_covariance(x, 3, 4, estimator="lw"), expected, rtol=1e-10, atol=1e-10)
    P = legendre_basis(72, 2)
    z = stacked(x, 3, 4)
    c = z @ P.T / 72
    expected = np.stack([ledoit_wolf(t.T, assume_centered=True)[0] for t in z - c @ P])
    M = augmented_covariance(x, 3, 4, n_basis=2, estimator="lw")
    assert_allclose(M[:, :6, :6], expected + c @ c.transpose(0, 2, 1), rtol=1e-10, atol=1e-10)
    assert_allclose(M[:, :6, 6:], c, rtol=1e-12)


def test_unbiased_divides_by_what_is_left(rng):
    x = rng.normal(size=(4000, 1, 8))
    M = augmented_covariance(x, n_basis=3, estimator="scm_unbiased")
    S = M[:, 0, 0] - (M[:, 0, 1:] ** 2).sum(axis=1)
    assert_allclose(S.mean(), 1.0, atol=0.05)  # five standard errors of chi^2_5 / 5 over 4000


def test_a_bank_and_channels_in_any_order_give_the_same(x):
    bank = LagBank(x)
    for p, lag, K in ((2, 3, 0), (3, 3, 2), (2, 3, 1)):
        C = augmented_covariance(x, p, lag, n_basis=K)
        assert_array_equal(augmented_covariance(bank, p, lag, n_basis=K), C)
        order = [*[2 * i + c for i in range(p) for c in (1, 0)], *range(2 * p, 2 * p + K)]
        assert_allclose(augmented_covariance(x[:, ::-1], p, lag, n_basis=K), C[:, order][:, :, order], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"order": 8, "lag": 10}, r"order \* lag = 8 \* 10 = 80 samples; they have 80"),
        ({"order": 2, "lag": 39, "n_basis": 42}, "n_basis=42, and they leave 41"),
        ({"order": 0}, "order must be"),
        ({"lag": 1.5}, "lag must be"),
        ({"lag_estimator": "circular"}, "lag_estimator must be"),
        ({"lag_estimator": "toeplitz", "estimator": "lw"}, "goes with"),
        ({"shrink": -0.1}, "shrink must be"),
    ],
)
def test_bad_options_are_told(x, options, text):
    with pytest.raises(InvalidInputError, match=text):
        augmented_covariance(x, **options)
