"""Votes of the nearest neighbours."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from sciml.stats.spd.votes import neighbour_votes

CODES = np.array([0, 1, 1, 2])


def test_shares_are_counts_of_the_nearest():
    shares, winners = neighbour_votes(np.array([[4.0, 1, 2, 3]]), CODES, 3, 3)
    assert_allclose(shares, [[0, 2 / 3, 1 / 3]])
    assert_array_equal(winners, [1])


def test_equal_votes_go_to_the_nearer_whatever_the_order_of_the_classes():
    assert_array_equal(neighbour_votes(np.array([[9.0, 9, 2, 1]]), CODES, 3, 2)[1], [2])
    assert_array_equal(neighbour_votes(np.array([[9.0, 9, 1, 2]]), CODES, 3, 2)[1], [1])


def test_inverse_distances_weigh_the_votes_at_any_unit():
    D = np.array([[1.0, 3.0, 3.0, 9.0]])
    for unit in (1e-300, 1.0, 1e300):
        shares, winners = neighbour_votes(unit * D, CODES, 3, 3, "distance")
        assert_allclose(shares, [[0.6, 0.4, 0]], rtol=1e-12)
        assert_array_equal(winners, [0])


def test_neighbours_at_no_distance_vote_alone():
    shares, _ = neighbour_votes(np.array([[0.0, 0.0, 1.0, 1.0]]), CODES, 3, 4, "distance")
    assert_allclose(shares, [[0.5, 0.5, 0]])
