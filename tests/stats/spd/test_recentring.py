"""Recentring of domains."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.linalg.spd import affine_invariant_distance, affine_invariant_mean
from sciml.stats.spd.recentring import domain_labels, whiten


def batch(rng, count=6, n=4):
    G = rng.standard_normal((count, n, 3 * n))
    return G @ G.swapaxes(-1, -2)


def test_the_mean_becomes_the_identity_and_distances_stay(rng):
    X = batch(rng)
    Y = whiten(X, affine_invariant_mean(X).mean)
    assert_allclose(affine_invariant_mean(Y).mean, np.eye(4), atol=1e-11)
    assert_array_equal(Y, Y.swapaxes(-1, -2))
    assert_allclose(affine_invariant_distance(Y[0], Y[1]), affine_invariant_distance(X[0], X[1]), rtol=1e-11)


def test_mixtures_of_the_channels_leave_only_a_rotation(rng):
    X, G = batch(rng), rng.standard_normal((4, 4)) * 1e-6
    Y = whiten(X, affine_invariant_mean(X).mean)
    mixed = G @ X @ G.T
    mixed = (mixed + mixed.swapaxes(-1, -2)) / 2
    Z = whiten(mixed, affine_invariant_mean(mixed).mean)
    assert_allclose(np.linalg.eigvalsh(Z), np.linalg.eigvalsh(Y), rtol=1e-8)


def test_labels_are_one_for_each_trial():
    assert_array_equal(domain_labels(None, 3), [0, 0, 0])
    assert_array_equal(domain_labels(["x", "y"], 2), ["x", "y"])
    with pytest.raises(InvalidInputError, match=r"domains must hold one name for each of 3 trials; got shape \(2,\)"):
        domain_labels([1, 2], 3)
