"""The screen: residuals of left-out trials against refitting, planted delays, the cheap search against the full one."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.stats.spd import lag_screen
from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.lag_screen import left_out_score, screen_lags
from sciml.stats.spd.trials import as_trials


def echoes(N, n, T, delay, rng):
    """White noise; half of the trials hold an echo of themselves, and all have unit variance."""
    x = rng.normal(size=(N, n, T))
    y = np.arange(N) % 2
    x[y == 1, :, delay:] += 0.7 * x[y == 1, :, :-delay]
    return x / x.std(axis=2, keepdims=True), y


@pytest.fixture
def C(rng):
    x = rng.normal(size=(30, 3, 40)) * np.where(np.arange(30) % 3 == 0, 1.5, 1.0)[:, None, None]
    return x @ x.transpose(0, 2, 1) / 40


def refitted(C, y, groups, alpha):
    """The same score by fitting a ridge regression anew for each group."""
    M = C.mean(axis=0)
    w, V = np.linalg.eigh(M)
    W = V / np.sqrt(w) @ V.T
    X = W @ C @ W
    Z = np.stack([(A - np.eye(3)) @ np.linalg.inv(A + np.eye(3)) for A in X]).reshape(len(C), -1)
    level = ((Z - Z.mean(axis=0)) ** 2).sum() / len(Z)
    Y = (y[:, None] == np.unique(y)).astype(float)
    error = 0.0
    for g in np.unique(groups):
        out = groups == g
        z, t = Z[~out], Y[~out]
        # Both the mean and the penalty are those of all trials, as the identity for left-out residuals has it.
        A = np.hstack([np.ones((len(z), 1)), z - Z.mean(axis=0)])
        P = alpha * level * np.eye(A.shape[1])
        P[0, 0] = 0
        b = np.linalg.solve(A.T @ A + P, A.T @ t)
        error += ((Y[out] - np.hstack([np.ones((out.sum(), 1)), Z[out] - Z.mean(axis=0)]) @ b) ** 2).sum()
    return 1 - error / ((Y - Y.mean(axis=0)) ** 2).sum()


@pytest.mark.parametrize("grouped", [False, True])
def test_left_out_residuals_are_exact(C, grouped):
    y = np.arange(30) % 3
    groups = np.arange(30) // 5 if grouped else np.arange(30)
    expected = max(refitted(C, y, groups, alpha) for alpha in lag_screen._ALPHAS)
    assert_allclose(left_out_score(C, y, groups=groups if grouped else None), expected, rtol=1e-8)


def test_groups_of_one_are_single_trials(C):
    y = np.arange(30) % 3
    assert_allclose(left_out_score(C, y, groups=np.arange(30)), left_out_score(C, y), rtol=1e-10)


def test_any_linear_map_of_the_channels_leaves_the_score(C, rng):
    y, A = np.arange(30) % 3, rng.normal(size=(3, 3)) + 2 * np.eye(3)
    assert_allclose(left_out_score(A @ C @ A.T, y), left_out_score(C, y), rtol=1e-8)
    assert_allclose(left_out_score(1e-12 * C, y), left_out_score(C, y), rtol=1e-8)


def test_labels_without_meaning_score_nothing(C, rng):
    scores = [left_out_score(C, rng.permutation(np.arange(30) % 2)) for _ in range(20)]
    assert np.mean(scores) < 0.05


def test_singular_matrices_and_stacks_of_bands_are_scored(C):
    y = np.arange(30) % 3
    v = np.sqrt(np.diagonal(C, axis1=1, axis2=2))
    assert np.isfinite(left_out_score(v[:, :, None] * v[:, None, :], y))
    assert_allclose(left_out_score(np.stack([C, C], axis=1), y), left_out_score(C, y), rtol=1e-8)


@pytest.mark.parametrize("delay", [1, 3, 7])
@pytest.mark.parametrize("search", ["adaptive", "all"])
def test_finds_a_planted_delay(delay, search, rng):
    x, y = echoes(60, 2, 300, delay, rng)
    table = screen_lags(as_trials(x), y, range(1, 5), range(1, 9), search=search)
    _, order, lag = table[0]
    assert order > 1
    assert delay % lag == 0
    assert (order - 1) * lag >= delay
    assert table[0][0] > 0.5
    assert len(table) <= 4 * 8


def test_the_cheap_search_tries_fewer_and_finds_as_good(rng):
    x, y = echoes(60, 2, 300, 6, rng)
    full = screen_lags(as_trials(x), y, range(1, 11), range(1, 11), search="all")
    cheap = screen_lags(as_trials(x), y, range(1, 11), range(1, 11))
    assert len(full) == 91  # one window has no lag
    assert len(cheap) < 60
    assert cheap[0][0] >= full[0][0] - 0.02
    scores = dict(((p, lag), s) for s, p, lag in full)
    for s, p, lag in cheap:
        assert_allclose(s, scores[p, lag], rtol=1e-9)


def test_leaving_groups_out_sees_through_copies(rng):
    """Every trial comes four times with little noise: single trials are predicted by their copies, groups are not."""
    base = rng.normal(size=(20, 3, 60))
    x = np.repeat(base, 4, axis=0) + 1e-3 * rng.normal(size=(80, 3, 60))
    y, groups = np.repeat(rng.permutation(np.arange(20) % 2), 4), np.repeat(np.arange(20), 4)
    options = {"orders": [2], "lags": [1]}
    assert screen_lags(as_trials(x), y, **options)[0][0] > 0.8
    assert screen_lags(as_trials(x), y, groups=groups, **options)[0][0] < 0.3


def test_what_else_is_done_counts(rng):
    """Classes differ by their level only, which a covariance does not hold."""
    x = rng.normal(size=(40, 2, 50))
    y = np.arange(40) % 2
    x += 2.0 * y[:, None, None]
    assert screen_lags(as_trials(x), y, [1], [1])[0][0] < 0.3
    assert screen_lags(as_trials(x), y, [1], [1], descriptor=Descriptor(n_basis=1))[0][0] > 0.8


def test_many_trials_are_thinned_evenly():
    y, groups = np.repeat(np.arange(4), 500), np.tile(np.arange(10), 200)
    rows = lag_screen._spread(y, groups)
    assert len(rows) == 400
    assert (np.bincount(y[rows]) == 100).all()
    assert (np.abs(np.bincount(groups[rows]) - 40) <= 4).all()


def test_prototypes_know_the_labels(rng):
    with pytest.raises(InvalidInputError, match="must not hold prototypes"):
        screen_lags(
            as_trials(rng.normal(size=(10, 2, 30))), np.arange(10) % 2, [1], [1], descriptor=Descriptor(prototypes=True)
        )


@pytest.mark.parametrize(
    ("y", "groups", "orders", "text"),
    [
        (np.zeros(10), None, [1], "at least two classes"),
        (np.arange(9), None, [1], r"shape \(9,\) for 10"),
        (np.arange(10) % 2, np.zeros(10), [1], "1 groups"),
        (np.arange(10) % 2, None, [40], "shortest trial of 30"),
    ],
)
def test_bad_input_is_told(y, groups, orders, text, rng):
    with pytest.raises(InvalidInputError, match=text):
        screen_lags(as_trials(rng.normal(size=(10, 2, 30))), y, orders, [1], groups=groups)
