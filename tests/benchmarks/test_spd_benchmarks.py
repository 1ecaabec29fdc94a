"""What the benchmarks of positive definite matrices judge by is right on answers that are known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import bench_spd, bench_spd_trials


def test_matrices_have_the_condition_asked_for():
    X = bench_spd.matrices(5, 6, 1e4, 0, spread=0)
    assert_allclose(np.linalg.cond(X), 1e4, rtol=1e-9)
    assert_allclose(X, X.swapaxes(1, 2), rtol=0)


def test_the_residual_of_a_barycentre_is_zero_at_a_known_one_and_not_beside_it():
    lengths = np.array([[1.0, 4.0, 9.0], [4.0, 1.0, 1.0]])
    X = np.stack([np.diag(row) for row in lengths])
    L, mean = bench_spd.factors(X), np.diag(np.sqrt(lengths).mean(0) ** 2)
    assert bench_spd.bures_residual(mean, L) < 1e-15
    assert bench_spd.bures_residual(1.1 * mean, L) > 0.01


def test_the_residual_of_an_affine_mean_is_zero_at_a_known_one_and_not_beside_it():
    variances = np.array([[1.0, 4.0], [9.0, 1.0]])
    X, mean = np.stack([np.diag(row) for row in variances]), np.diag([3.0, 2.0])
    assert bench_spd.affine_residual(mean, X) < 1e-15
    assert bench_spd.affine_residual(1.1 * mean, X) > 0.01


@pytest.mark.parametrize(
    ("name", "a", "b", "expected"),
    [
        ("sqrt", 4.0, 1.0, 1 / 3),
        ("sqrt", 4.0, 4.0, 1 / 4),
        ("1/sqrt", 4.0, 1.0, -1 / 6),
        ("1/x", 2.0, 4.0, -1 / 8),
        ("log", np.e, 1.0, 1 / (np.e - 1)),
        ("log", 2.0, 2.0, 1 / 2),
        ("exp", 1.0, 0.0, np.e - 1),
        ("x^1.5", 4.0, 1.0, 7 / 3),
        ("x^0.3", 1.0, 1.0, 0.3),
    ],
)
def test_divided_differences_are_those_worked_out_by_hand(name, a, b, expected):
    assert bench_spd._quotient(name, a, b) == pytest.approx(expected, rel=1e-15)


def test_coordinates_keep_their_ratios(rng):
    Z = rng.standard_normal((50, 4)) * [1, 2, 3, 4] + 5
    out = bench_spd_trials.OneLength().fit_transform(Z)
    assert np.square(out).sum(1).mean() == pytest.approx(1)
    assert_allclose(out.std(0) / out.std(0)[0], Z.std(0) / Z.std(0)[0])


def test_recentring_puts_every_group_at_the_identity(rng):
    X = bench_spd.matrices(12, 3, 10, 1)
    groups = np.repeat([0, 1], 6)
    out = bench_spd_trials.recentred(np.where((groups == 1)[:, None, None], 100 * X, X), groups)
    for g in range(2):
        assert bench_spd.affine_residual(np.eye(3), out[groups == g]) < 1e-10
