"""Conformal sets: thresholds that are exact by counting, and sets that answer like lists and like matrices."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.conformal import LabelSets, conformal_threshold


@pytest.mark.parametrize("n", [9, 19, 50, 99])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25, 0.5])
def test_the_threshold_is_the_quantile_of_one_more_trial(n, alpha):
    scores = np.random.default_rng(0).permutation(n) / n
    q = conformal_threshold(scores, alpha)
    # A new score falls between any two old ones with equal chance.
    needed = int(np.ceil(round((n + 1) * (1 - alpha), 9)))
    assert q == (np.inf if needed > n else (needed - 1) / n)


def test_coverage_is_as_promised_whatever_the_scores():
    rng = np.random.default_rng(0)
    hits = [rng.exponential() <= conformal_threshold(rng.exponential(size=39), 0.1) for _ in range(4000)]
    # The promise is 36 / 40; four standard errors of 4000 draws.
    assert abs(np.mean(hits) - 0.9) < 4 * np.sqrt(0.09 / 4000)


def test_sets_are_lists_of_labels_and_a_matrix():
    mask = np.array([[True, False, True], [False, False, False]])
    sets = LabelSets(mask, np.array(["a", "b", "c"]))
    assert len(sets) == 2
    assert "a" in sets[0]
    assert "b" not in sets[0]
    assert [s.tolist() for s in sets] == [["a", "c"], []]
    assert_array_equal(np.asarray(sets), mask)
    assert_array_equal(np.asarray(sets, dtype=int).sum(1), sets.sizes)
    assert_array_equal(sets[:, 0], [True, False])
    assert_array_equal(sets.sum(axis=1), [2, 0])
    assert_array_equal(sets.mean(0), [0.5, 0, 0.5])
    assert_array_equal(sets[np.arange(2), [2, 1]], [True, False])
    assert isinstance(sets[:1], LabelSets)
    assert sets.shape == (2, 3)
    assert sets.coverage(["c", "c"]) == 0.5
    with pytest.raises(InvalidInputError, match="each of the 2 sets"):
        sets.coverage(["c"])


def test_coverage_counts_sets_that_hold_the_true_label():
    sets = LabelSets(np.array([[True, False], [True, True], [False, False]]), np.array(["a", "b"]))
    assert sets.coverage(["b", "b", "a"]) == pytest.approx(1 / 3)
    assert sets.coverage(["a", "a", "a"]) == pytest.approx(2 / 3)
