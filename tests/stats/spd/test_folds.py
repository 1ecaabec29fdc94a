"""Folds hold every trial once, every class in proportion, and no group in two of them."""

import numpy as np
import pytest

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.folds import grouped_folds, stratified_folds


def test_every_fold_has_the_proportions_of_the_classes():
    codes = np.repeat([0, 1, 2], [50, 30, 20])
    folds = stratified_folds(codes, 5, n_repeats=2)
    assert folds.shape == (2, 100)
    for fold in folds:
        for v in range(5):
            assert np.bincount(codes[fold == v]).tolist() == [10, 6, 4]
    assert (folds[0] != folds[1]).any()


def test_folds_are_stretches_of_neighbours_and_repeats_move_their_borders():
    codes = np.array([0, 1] * 15)
    first, second = stratified_folds(codes, 3, n_repeats=2)
    assert first[codes == 0].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert first[codes == 1].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    turned = second[codes == 0]
    assert np.bincount(turned).tolist() == [5, 5, 5]
    # On a circle of trials every fold of a repeat is one stretch, too.
    assert (turned != np.roll(turned, 1)).sum() == 3


def test_folds_of_odd_counts_differ_by_one_trial_at_most():
    folds = stratified_folds(np.repeat([0, 1, 2], [7, 8, 9]), 5, n_repeats=1)[0]
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 1


def test_a_rare_class_asks_for_fewer_folds():
    folds = stratified_folds(np.array([0] * 20 + [1, 1]), 5, n_repeats=1)[0]
    assert set(folds[-2:]) == {0, 1}
    assert folds.max() == 1


def test_few_trials_are_split_several_times():
    assert len(stratified_folds(np.repeat([0, 1], 20), 5)) == 3
    assert len(stratified_folds(np.repeat([0, 1], 100), 5)) == 1


def test_a_class_of_one_trial_is_refused():
    with pytest.raises(InvalidInputError, match="class number 1 has 1"):
        stratified_folds(np.array([0, 0, 1]), 2)


def test_groups_stay_whole_and_every_fold_has_some():
    rng = np.random.default_rng(0)
    groups, codes = rng.integers(0, 12, 300), rng.integers(0, 3, 300)
    folds = grouped_folds(codes, groups, 5, rng)[0]
    for name in np.unique(groups):
        assert len(np.unique(folds[groups == name])) == 1
    assert set(folds) == set(range(5))
    assert np.bincount(folds).max() < 100


def test_as_many_groups_as_folds_leave_one_out():
    codes, groups = np.tile([0, 1], 12), np.repeat(list("abcdef"), 4)
    folds = grouped_folds(codes, groups, 6, np.random.default_rng(0))[0]
    assert len(np.unique(folds)) == 6


def test_every_class_can_be_learned_whichever_fold_is_left_out():
    # Class 2 lives in two groups, which must not meet in one fold.
    codes = np.array([0, 1] * 6 + [2, 2])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 4, 5])
    for seed in range(10):
        folds = grouped_folds(codes, groups, 2, np.random.default_rng(seed))[0]
        assert len(np.unique(folds[codes == 2])) == 2


@pytest.mark.parametrize(
    ("groups", "text"), [(np.zeros(4), "at least 2 groups"), (np.array([0, 0, 1, 1]), "every class in at least 2")]
)
def test_groups_that_cannot_be_split_are_refused(groups, text):
    with pytest.raises(InvalidInputError, match=text):
        grouped_folds(np.array([0, 0, 1, 1]), groups, 5, np.random.default_rng(0))


def test_no_class_lives_in_one_fold():
    codes, groups = np.array([1, 1, 1, 1, 1, 1, 0, 0]), np.array([0, 2, 2, 1, 1, 1, 0, 2])
    folds = grouped_folds(codes, groups, 2, np.random.default_rng(0))[0]
    assert all(len(np.unique(folds[codes == c])) == 2 for c in (0, 1))
    assert folds.max() == 1
    # Three classes in two of three groups each: two folds cannot part them all.
    codes, groups = np.array([0, 1, 1, 2, 2, 0]), np.array([0, 0, 1, 1, 2, 2])
    folds = grouped_folds(codes, groups, 2, np.random.default_rng(0))[0]
    assert all(len(np.unique(folds[codes == c])) == 2 for c in (0, 1, 2))
    assert all(len(np.unique(folds[groups == g])) == 1 for g in (0, 1, 2))
