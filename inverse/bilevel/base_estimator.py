"""What the estimators of linear models share: scales, splits, a start from a coarse scan, the search, warnings."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sciml._config import resolve
from sciml.estimators import FitConvergenceWarning, cv_splits
from sciml.exceptions import ConvergenceError
from sciml.inverse.bilevel.auto import Auto
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.held_out import HeldOut
from sciml.inverse.bilevel.solve import learn_hyperparameters
from sciml.inverse.bilevel.sparse_regression import SparseRegression
from sciml.iterate import caller_level
from sciml.optimize import newton_cg

__all__ = ["LinearEstimator", "LinearRegressor"]

# Hyperparameters up to which the Gauss-Newton direction is taken.
_FEW = 8
# How a search may end without a complaint: nothing more can be gained, or told apart.
_FINE = ("converged", "accuracy_floor", "small_decrease", "flat", "stopped")


class LinearEstimator(BaseEstimator):
    """Base of the estimators: scan, learn, solve."""

    def _learn(self, lower, upper, theta0, bounds):
        """Return what the search found, once it is known to have ended well."""
        # A system for each hyperparameter and step pays for itself where they are few, and the loss has no kinks.
        few = len(theta0) <= _FEW and not isinstance(lower, SparseRegression)
        result = learn_hyperparameters(
            lower,
            upper,
            theta0,
            # Solved well, so that no direction is wasted on a start that is far from its minimiser.
            x0=minimisers(lower, torch.from_numpy(theta0)),
            method=Auto(direction="gn" if few else "lbfgs"),
            bounds=bounds,
            tol=self.tol,
            max_iter=self.max_iter,
            callback=_little_gained(0.1 * self.tol),
            on_failure="ignore",
        )
        on_failure = resolve("on_failure", self.on_failure)
        if result.status not in _FINE and on_failure != "ignore":
            text = (
                f"{type(self).__name__} ended with status {result.status!r} after {result.n_iter} steps: "
                f"{result.message}. The hyperparameters are the best that were met; raise max_iter, or loosen tol."
            )
            if on_failure == "raise":
                raise ConvergenceError(text)
            warnings.warn(text, FitConvergenceWarning, stacklevel=caller_level())
        self.bilevel_result_ = result
        self.theta_ = np.asarray(result.theta)
        self.n_iter_ = max(1, result.n_iter)  # scikit-learn counts a fit without a step as one
        return result

    def _scan(self, lower, upper, starts):
        """Return the start with the smallest loss."""
        values, x = [], None
        for theta in starts:
            theta = torch.from_numpy(theta)
            x = minimisers(lower, theta, x)
            values.append(float(upper.value(x, theta, torch.arange(len(x))).mean()))
        return starts[int(np.argmin(values))]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        return tags


def _little_gained(part):
    """Return a callback that stops after three steps that each gain less than a part of the first value."""
    values = []

    def stop(n_iter, step):
        values.append(step.value.value)
        # A loss that goes to zero shrinks by the same factor again and again, to no use.
        return len(values) > 3 and all(
            a - b < part * abs(values[0]) for a, b in zip(values[-4:], values[-3:], strict=False)
        )

    return stop


def minimisers(lower, theta, x0=None):
    """Return the solutions of the lower level at theta, nearly to rounding."""
    B, idx, count = lower.n_samples, torch.arange(lower.n_samples), Counter()
    x0 = torch.zeros(B, *lower.shape, dtype=torch.float64) if x0 is None else x0
    own = lower.solve(x0, theta, idx, None, count, 10_000)
    if own is not None:
        return own.x
    start = torch.zeros_like(x0)
    size = torch.linalg.vector_norm(lower.gradient(start, theta, idx, count).reshape(B, -1), dim=1)

    def at(x, rows):
        return lower.at(x, theta, rows, count, value=True)

    return newton_cg(at, x0, gtol=1e-9 * size, max_iter=200).x


def spread(values):
    """Return standard deviations along the rows, 1 where there is no spread but rounding."""
    std, size = values.std(axis=0), np.abs(values).max(axis=0)
    return np.where(std > 10 * np.finfo(float).eps * size, std, 1.0)


class LinearRegressor(RegressorMixin, LinearEstimator):
    """Base of the regressors: each fold is centred by its own rows, and all by the scales of the whole."""

    def fit(self, X, y):
        """Learn the penalties by cross-validation, then fit all rows with them.

        Parameters
        ----------
        X : array, shape (n, p)
            Features.
        y : array, shape (n,)
            Targets.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If there are fewer rows than folds.

        Warns
        -----
        FitConvergenceWarning
            If the search ended before its tolerance was met.
        """
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        y = np.asarray(y, dtype=np.float64)
        self._scale = spread(X) if self.standardise else np.ones(X.shape[1])
        self._y_scale = float(spread(y[:, None])[0])
        splits = cv_splits(self.cv, X, y)
        fits = [self._centred(X, y, rows, rows) for rows, _ in splits]
        checks = [self._centred(X, y, rows, others) for rows, others in splits]
        upper = HeldOut("squared", *map(list, zip(*checks, strict=True)))
        A, b = self._centred(X, y, slice(None), slice(None))
        theta = self._fit(*map(list, zip(*fits, strict=True)), upper)
        x = minimisers(self._model([A], [b]), torch.from_numpy(theta))[0].numpy()
        self.coef_ = x * self._y_scale / self._scale
        middle, y_middle = (X.mean(axis=0), y.mean()) if self.fit_intercept else (0.0, 0.0)
        self.intercept_ = float(y_middle - np.sum(middle * self.coef_))
        return self

    def predict(self, X):
        """Evaluate the linear model.

        Parameters
        ----------
        X : array, shape (m, p)
            Features.

        Returns
        -------
        ndarray, shape (m,)
            Units of y.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return X @ self.coef_ + self.intercept_

    def _centred(self, X, y, rows, others):
        """Return features and targets of `others` in units of the scales, centred by the means of `rows`."""
        middle, y_middle = (X[rows].mean(axis=0), y[rows].mean()) if self.fit_intercept else (0.0, 0.0)
        return (X[others] - middle) / self._scale, (y[others] - y_middle) / self._y_scale
