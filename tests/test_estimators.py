"""Splits leave no row out, and a warning that both libraries know."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning as TheirWarning
from sklearn.model_selection import ShuffleSplit

from sciml.estimators import FitConvergenceWarning, cv_splits
from sciml.exceptions import ConvergenceWarning, InvalidInputError


@pytest.mark.parametrize("classifier", [False, True])
def test_every_row_is_validated_once_and_never_fitted_at_the_same_time(classifier):
    y = np.arange(11) % 3
    splits = cv_splits(3, np.zeros((11, 1)), y, classifier=classifier)
    assert sorted(np.concatenate([validate for _, validate in splits])) == list(range(11))
    for fit, validate in splits:
        assert sorted([*fit, *validate]) == list(range(11))
    if classifier:
        assert all(len(set(y[fit])) == 3 for fit, _ in splits)


def test_folds_are_fewer_where_there_are_few_rows_or_rare_classes():
    assert len(cv_splits(5, np.zeros((3, 1)), np.zeros(3))) == 3
    assert len(cv_splits(5, np.zeros((9, 1)), np.array([0] * 7 + [1] * 2), classifier=True)) == 2
    # A class with one row cannot be in both parts; the rows are shuffled, since classes may come in order.
    splits = cv_splits(4, np.zeros((8, 1)), np.array([0] * 7 + [1]), classifier=True)
    assert len(splits) == 4
    assert [validate.tolist() for _, validate in splits] != [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_takes_splitters_and_pairs_and_masks():
    X, y = np.zeros((6, 1)), np.zeros(6)
    assert len(cv_splits(ShuffleSplit(4, random_state=0), X, y)) == 4
    pair = (np.array([True, True, False, False, False, False]), [5])
    ((fit, validate),) = cv_splits([pair], X, y)
    assert (fit.tolist(), validate.tolist()) == ([0, 1], [5])


@pytest.mark.parametrize(
    ("cv", "n", "message"),
    [
        (1, 5, "cv must be at least 2.*cv=1"),
        (3, 1, "n_samples=1"),
        ([([0, 1], [])], 5, "split 0 has 2 and 0 of n_samples=5"),
    ],
)
def test_says_what_cannot_be_split(cv, n, message):
    with pytest.raises(InvalidInputError, match=message):
        cv_splits(cv, np.zeros((n, 1)), np.zeros(n))


def test_one_filter_of_either_library_is_enough():
    for base in (ConvergenceWarning, TheirWarning):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", base)
            assert warnings.warn("it did not converge", FitConvergenceWarning, stacklevel=1) is None
