"""Logistic regression: the optimum, along a path, for many problems at once."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression

from sciml.stats.spd.logistic import log_softmax, logistic_path, principal_axes


def problem(n=60, m=7, k=3, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(n) % k)
    F = rng.normal(size=(n, m)) * np.geomspace(0.01, 10, m) + np.eye(k, m)[codes]
    return F, codes, np.eye(k)[codes]


def gradient(Z, Y, w, C, W, b):
    slack = w[:, None] * (np.exp(log_softmax(Z @ W + b)) - Y)
    return Z.T @ slack + W / C, slack.sum(0)


@pytest.mark.parametrize("k", [2, 3])
def test_every_point_of_the_path_is_an_optimum(k):
    F, _, Y = problem(k=k)
    Z, _ = principal_axes(F)
    w = np.random.default_rng(1).uniform(0, 2, (2, len(Z)))
    for C, W, b in logistic_path(Z, Y, w, gtol=1e-8):
        for j in range(2):
            gW, gb = gradient(Z, Y, w[j], C, W[j], b[j])
            # The solver stops by the gradient in scaled coordinates; unscaled it may be larger by the root of n.
            assert max(np.abs(gW).max(), np.abs(gb).max()) < 1e-5
    assert_allclose(b.sum(1), 0, atol=1e-12)


def test_probabilities_are_those_of_scikit_learn():
    F, codes, Y = problem()
    Z, back = principal_axes(F)
    for C, W, b in logistic_path(Z, Y, np.ones((1, len(Z))), (0.1, 10.0), gtol=1e-9):
        peer = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(Z, codes)
        assert_allclose(np.exp(log_softmax(Z @ W[0] + b[0])), peer.predict_proba(Z), atol=1e-6)
        coef, intercept = back(W[0], b[0])
        assert_allclose(F @ coef + intercept, Z @ W[0] + b[0], atol=1e-9)


def test_weight_zero_is_absence_and_weight_two_is_repetition():
    F, _, Y = problem()
    Z, _ = principal_axes(F)
    w = np.ones((1, len(Z)))
    w[0, :10], w[0, 10:20] = 0, 2
    rows = np.r_[10:20, 10 : len(Z)]
    one = list(logistic_path(Z, Y, w, (1.0,), gtol=1e-9))[0]
    other = list(logistic_path(Z[rows], Y[rows], np.ones((1, len(rows))), (1.0,), gtol=1e-9))[0]
    assert_allclose(one[1], other[1], atol=1e-6)
    assert_allclose(one[2], other[2], atol=1e-6)


def test_problems_of_their_own_features_are_solved_apart_and_zeros_change_nothing():
    F, _, Y = problem()
    Z, _ = principal_axes(F)
    padded = np.zeros((2, len(Z), Z.shape[1] + 3))
    padded[0, :, : Z.shape[1]], padded[1, :, : Z.shape[1]] = Z, Z[:, ::-1]
    _, W, _ = list(logistic_path(padded, Y, np.ones((2, len(Z))), (1.0,), gtol=1e-9))[0]
    _, V, _ = list(logistic_path(Z, Y, np.ones((1, len(Z))), (1.0,), gtol=1e-9))[0]
    assert_allclose(W[0, : Z.shape[1]], V[0], atol=1e-6)
    assert_allclose(W[1, : Z.shape[1]], V[0, ::-1], atol=1e-6)
    assert_allclose(W[:, Z.shape[1] :], 0, atol=1e-12)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_principal_axes_keep_all_inner_products_up_to_one_scale(shape):
    F = np.random.default_rng(0).normal(size=shape)
    Z, _ = principal_axes(F)
    D = F - F.mean(0)
    scale = np.sqrt((D**2).sum() / len(D))
    assert_allclose(Z @ Z.T, D @ D.T / scale**2, atol=1e-10)
    assert_allclose((Z**2).sum(1).mean(), 1, rtol=1e-12)
    assert Z.shape[1] <= min(shape[1], shape[0] - 1)


def test_features_that_do_not_vary_leave_no_axis():
    Z, back = principal_axes(np.ones((5, 3)))
    assert Z.shape == (5, 0)
    _, W, b = list(logistic_path(Z, np.eye(2)[[0, 0, 0, 1, 1]], np.ones((1, 5)), (1.0,)))[0]
    assert_allclose(np.exp(log_softmax(b[0])), [0.6, 0.4], atol=1e-4)
    assert back(W[0], b[0])[0].shape == (3, 2)
