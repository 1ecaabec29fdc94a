"""What estimators of all areas share with scikit-learn: a warning of both, and splits of the data."""

from __future__ import annotations

import numpy as np
from sklearn.exceptions import ConvergenceWarning as _SklearnConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold, check_cv

from sciml.exceptions import ConvergenceWarning, InvalidInputError

__all__ = ["FitConvergenceWarning", "cv_splits"]


class FitConvergenceWarning(ConvergenceWarning, _SklearnConvergenceWarning):
    """A fit ended before its tolerance was met; caught by who filters the warning of either library."""


def cv_splits(cv, X, y, *, classifier=False):
    """Return the splits of a cross-validation as pairs of index arrays.

    Parameters
    ----------
    cv : int, splitter or iterable of pairs
        Number of folds: consecutive blocks for numbers, blocks with the proportions of the whole for classes, and fewer
        of them where the rarest class has fewer rows. Or an object of scikit-learn with a method ``split``; or pairs
        (rows to fit, rows to validate).
    X : ndarray, shape (n, p)
        Features.
    y : ndarray, shape (n,)
        Targets, or class numbers.
    classifier : bool
        Whether y holds classes; False by default.

    Returns
    -------
    list of (ndarray, ndarray)
        Rows to fit and rows to validate, int64, neither empty.

    Raises
    ------
    InvalidInputError
        If there are fewer rows than folds, or a split leaves nothing to fit or to validate.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.estimators import cv_splits
    >>> [validate.tolist() for _, validate in cv_splits(2, np.zeros((4, 1)), np.zeros(4))]
    [[0, 1], [2, 3]]
    """
    n = len(X)
    if isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        if cv < 2 or n < 2:
            raise InvalidInputError(
                f"cv must be at least 2, and there must be at least 2 rows to split; got cv={cv} and n_samples={n}. "
                "Pass more rows, or one split as cv=[(rows to fit, rows to validate)]."
            )
        folds = int(min(cv, n))
        if classifier:
            folds_of_all = min(folds, int(np.bincount(y).min()))
            shuffled = KFold(folds, shuffle=True, random_state=0)
            splitter = StratifiedKFold(folds_of_all) if folds_of_all >= 2 else shuffled
        else:
            splitter = KFold(folds)
    else:
        splitter = check_cv(cv, y, classifier=classifier)
    splits = []
    for fit, validate in splitter.split(X, y):
        fit, validate = (np.arange(n)[rows if len(rows) else slice(0)] for rows in map(np.asarray, (fit, validate)))
        if not len(fit) or not len(validate):
            raise InvalidInputError(
                f"cv must leave rows to fit and rows to validate; split {len(splits)} has {len(fit)} and "
                f"{len(validate)} of n_samples={n}."
            )
        splits.append((fit, validate))
    return splits
