"""Simulated trials and matrices have the covariances, domains and classes that their truth names."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.datasets import simulated_spd, simulated_trials
from sciml.exceptions import InvalidInputError


def relative(A, B):
    return np.linalg.norm(A - B) / np.linalg.norm(B)


@pytest.mark.parametrize("kind", ["eeg", "slow"])
def test_the_mean_second_moment_is_the_truth(kind):
    trials = simulated_trials(6000, n_channels=3, n_times=64, kind=kind, n_domains=2, shift=0.3)
    moments = trials.X @ trials.X.swapaxes(1, 2) / 64
    for d in range(2):
        for k in range(2):
            mine = moments[(trials.groups == d) & (trials.y == k)]
            truth = trials.truth["covariances"][d, k]
            # Each entry is a mean of 1500 independent ones: five of its standard errors.
            assert (abs(mine.mean(0) - truth) < 5 * mine.std(0) / np.sqrt(len(mine))).all()


def test_motion_has_its_covariance_about_gravity():
    trials = simulated_trials(6000, n_channels=3, n_times=50, n_classes=3, kind="motion")
    for k in range(3):
        mine = trials.X[trials.y == k]
        pooled = np.cov(mine.swapaxes(0, 1).reshape(3, -1), bias=True)
        assert relative(pooled, trials.truth["covariances"][0, k]) < 0.06  # 2000 trials of one or few turns each
    assert abs(trials.X.mean((0, 2))).max() > 0.1  # gravity


def test_a_class_of_the_eeg_raises_one_source():
    trials = simulated_trials(60, n_channels=4, n_classes=3, separation=0.7)
    A = trials.truth["mixing"][0]
    sources = np.linalg.solve(A, np.linalg.solve(A, trials.truth["covariances"][0]).swapaxes(-1, -2))
    expected = np.stack([np.diag([np.exp(1.4) if j == k else 1.0 for j in range(4)]) for k in range(3)])
    assert_allclose(sources, expected, atol=1e-10)  # condition of the mixing 25, squared


def test_slow_trends_hide_from_the_covariance_and_show_in_the_mean_course():
    trials = simulated_trials(4000, n_channels=3, n_times=64, kind="slow", separation=1.0)
    assert_array_equal(trials.truth["covariances"][0, 0], trials.truth["covariances"][0, 1])
    course = [trials.X[trials.y == k].mean(0) for k in range(2)]
    assert relative(course[0], -course[1]) < 0.2
    slope = course[1][:, -1] - course[1][:, 0]
    assert np.linalg.norm(np.linalg.solve(trials.truth["mixing"][0], slope)) == pytest.approx(2, abs=0.25)


def test_trials_do_not_join_end_to_beginning():
    X = simulated_trials(2000, n_channels=2, n_times=32, separation=0.0).X
    near = np.mean(X[..., 0] * X[..., 1])
    assert near > 0.5 * np.mean(X**2)
    # 16 samples apart and 31 apart: a periodic series would return at 31 to what it is at 1.
    assert abs(np.mean(X[..., 0] * X[..., 31])) < 0.6 * near


def test_domains_differ_by_the_shift_only():
    still = simulated_trials(40, n_domains=3, shift=0.0)
    assert_array_equal(still.truth["mixing"][0], still.truth["mixing"][2])
    moved = simulated_trials(40, n_domains=3, shift=0.2)
    distances = [relative(A, still.truth["mixing"][0]) for A in moved.truth["mixing"]]
    assert all(0.05 < d < 0.6 for d in distances)
    assert_array_equal(still.y, moved.y)


def test_classes_are_even_within_domains():
    trials = simulated_trials(120, n_classes=2, n_domains=5)
    table = np.zeros((5, 2), int)
    np.add.at(table, (trials.groups, trials.y), 1)
    assert (table == 12).all()
    assert (np.diff(trials.y[:10]) != 0).any()


@pytest.mark.parametrize("draw", [simulated_trials, simulated_spd])
def test_one_seed_one_draw(draw):
    assert_array_equal(draw(20, random_state=3).X, draw(20, random_state=np.random.default_rng(3)).X)
    assert (draw(20, random_state=3).X != draw(20, random_state=4).X).any()


def test_matrices_scatter_about_their_centres():
    spd = simulated_spd(30_000, n_features=3, n_classes=3, separation=0.8, condition=100)
    assert_allclose(spd.X, spd.X.swapaxes(1, 2), rtol=0)
    centres = spd.truth["centres"]
    for k in range(3):
        # A Wishart matrix of 20 degrees scatters by about sqrt(n / 20); a mean of 1e4 by a hundredth of it.
        assert relative(spd.X[spd.y == k].mean(0), centres[k]) < 0.02
    shares = np.bincount(spd.y) / len(spd.y)
    assert_allclose(shares, 1 / 3, atol=5 * np.sqrt(2 / 9 / 30_000))


def test_centres_are_as_far_from_the_common_one_as_asked_for():
    from scipy.linalg import eigvalsh

    far = simulated_spd(2, n_features=4, separation=0.8, condition=50, random_state=1).truth["centres"]
    common = simulated_spd(2, n_features=4, separation=0.0, condition=50, random_state=1).truth["centres"]
    assert_allclose(common[0], common[1], rtol=1e-12)
    assert np.linalg.cond(common[0]) == pytest.approx(50, rel=1e-10)
    for centre in far:
        assert np.linalg.norm(np.log(eigvalsh(centre, common[0]))) == pytest.approx(0.8, rel=1e-10)


def test_few_degrees_of_freedom_give_singular_matrices():
    spd = simulated_spd(30, n_features=5, degrees_of_freedom=3)
    assert (np.linalg.matrix_rank(spd.X) == 3).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: simulated_trials(kind="meg"), "kind must be one of 'eeg', 'slow', 'motion'; got 'meg'"),
        (lambda: simulated_trials(kind="slow", n_classes=3), "n_classes must be an integer .*got 3"),
        (lambda: simulated_trials(n_channels=2, n_classes=3), "n_channels must be an integer at least 3; got 2"),
        (lambda: simulated_trials(shift=-0.1), "shift must be a number at least 0"),
        (lambda: simulated_spd(condition=0.5), "condition must be a number at least 1"),
        (lambda: simulated_spd(degrees_of_freedom=0), "degrees_of_freedom must be an integer at least 1"),
    ],
)
def test_bad_arguments_are_named(call, text):
    with pytest.raises(InvalidInputError, match=text):
        call()
