"""Lasso and elastic net whose penalties are learned by gradients of the cross-validated error."""

from __future__ import annotations

import numpy as np

from sciml.inverse.bilevel.base_estimator import LinearRegressor
from sciml.inverse.bilevel.sparse_regression import SparseRegression, alpha_max

__all__ = ["BilevelElasticNet", "BilevelLasso"]

# Logarithms of penalties go down to this below the largest one that matters.
_REACH = 12.0
# Above it nothing changes, so that there is no slope to come back by.
_ABOVE = 0.5


class BilevelLasso(LinearRegressor):
    r"""The lasso with one penalty, or one for each feature, learned by gradients of the cross-validated error.

    .. math:: \min_\theta \frac1K \sum_i \frac{1}{2 M_i} \|y_i' - X_i' \hat b_i(\theta)\|^2, \qquad
              \hat b_i = \arg\min_b \frac{1}{2 N_i} \|y_i - X_i b\|^2 + \sum_j e^{\theta_j} s_j |b_j|

    with s the standard deviations of the features.

    Parameters
    ----------
    weighted : bool
        Learn a penalty for each feature, starting from the best common one; False by default.
    cv : int, splitter or iterable of pairs
        Folds, 5 by default; or an object of scikit-learn with a method ``split``; or pairs (rows to fit, rows to
        validate).
    fit_intercept : bool
        Centre each fold; True by default.
    standardise : bool
        Measure features in their standard deviations; True by default.
    tol : float
        As in `learn_hyperparameters`; the search ends, too, after three steps that gain less than tol / 10 of the first
        loss each. 1e-4 by default: penalties matter to two digits at most.
    max_iter : int
        Steps of the search at most; 100 by default.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the search did not converge; None (the default) asks the configuration.

    Attributes
    ----------
    alpha_ : float, or ndarray (p,)
        Penalties of scikit-learn's ``Lasso`` on standardised features, units of y.
    theta_ : ndarray, shape (1,) or (p,)
        Logarithms of the penalties, in units of the standard deviation of y.
    coef_ : ndarray, shape (p,)
        Units of y over those of X; zeros are exact.
    intercept_ : float
        Units of y.
    bilevel_result_ : BilevelResult
        What the search returned; its `value` is half the mean square of y in units of its variance.
    n_iter_ : int
        Steps of the search, at least 1.
    n_features_in_ : int
        Columns of X.

    Notes
    -----
    The smallest cross-validated error is no estimate of the error on new data, least of all with a penalty for each
    feature. Estimate that error on other rows, or by ``cross_val_score(BilevelLasso(), X, y)``. A feature that is zero
    in all folds has no slope, so that its penalty stays: learned weights remove features, they do not bring any back.

    References
    ----------
    Q. Bertrand et al., Implicit differentiation for fast hyperparameter selection in non-smooth convex learning, 2022,
    arXiv 2105.01637.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel.sparse_estimator import BilevelLasso
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 10))
    >>> model = BilevelLasso(weighted=True).fit(X, 2 * X[:, 0] + rng.standard_normal(60))
    >>> int(model.alpha_.argmin()), int((model.coef_ == 0).sum())
    (0, 6)
    """

    def __init__(
        self,
        weighted=False,
        *,
        cv=5,
        fit_intercept=True,
        standardise=True,
        tol=1e-4,
        max_iter=100,
        on_failure=None,
    ):
        self.weighted = weighted
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter
        self.on_failure = on_failure

    def _model(self, X, y, weighted=None):
        weighted = self.weighted if weighted is None else weighted
        return _quiet(SparseRegression(X, y, penalty="weighted-lasso" if weighted else "lasso"))

    def _fit(self, X, y, upper):
        top = _top(X, y)
        one = self._model(X, y, weighted=False)
        start = self._scan(one, upper, [np.array([top - t]) for t in np.arange(0.2, 7.0)])
        bounds = (top - _REACH, top + _ABOVE)
        theta = np.asarray(self._learn(one, upper, start, bounds).theta)
        if self.weighted:
            own = np.full(X[0].shape[1], theta[0])
            self._learn(self._model(X, y), upper, own, bounds)
        alpha = np.exp(self.theta_) * self._y_scale
        self.alpha_ = alpha if self.weighted else float(alpha[0])
        return self.theta_


class BilevelElasticNet(LinearRegressor):
    r"""The elastic net with both penalties learned by gradients of the cross-validated error.

    .. math:: \min_\theta \frac1K \sum_i \frac{1}{2 M_i} \|y_i' - X_i' \hat b_i(\theta)\|^2, \qquad \hat b_i =
              \arg\min_b \frac{1}{2 N_i} \|y_i - X_i b\|^2 + e^{\theta_0} \sum_j s_j |b_j|
              + \frac12 e^{\theta_1} \sum_j s_j^2 b_j^2

    with s the standard deviations of the features.

    Parameters
    ----------
    cv : int, splitter or iterable of pairs
        Folds, 5 by default; or an object of scikit-learn with a method ``split``; or pairs (rows to fit, rows to
        validate).
    fit_intercept : bool
        Centre each fold; True by default.
    standardise : bool
        Measure features in their standard deviations; True by default.
    tol : float
        As in `learn_hyperparameters`; the search ends, too, after three steps that gain less than tol / 10 of the first
        loss each. 1e-4 by default: penalties matter to two digits at most.
    max_iter : int
        Steps of the search at most; 100 by default.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the search did not converge; None (the default) asks the configuration.

    Attributes
    ----------
    alpha_, l1_ratio_ : float
        Those of scikit-learn's ``ElasticNet`` on standardised features.
    theta_ : ndarray, shape (2,)
        Logarithms of the linear penalty, in units of the standard deviation of y, and of the quadratic one.
    coef_ : ndarray, shape (p,)
        Units of y over those of X; zeros are exact.
    intercept_ : float
        Units of y.
    bilevel_result_ : BilevelResult
        What the search returned; its `value` is half the mean square of y in units of its variance.
    n_iter_ : int
        Steps of the search, at least 1.
    n_features_in_ : int
        Columns of X.

    Notes
    -----
    The smallest cross-validated error is no estimate of the error on new data. Estimate that on other rows, or by
    ``cross_val_score(BilevelElasticNet(), X, y)``.

    References
    ----------
    Q. Bertrand et al., Implicit differentiation for fast hyperparameter selection in non-smooth convex learning, 2022,
    arXiv 2105.01637.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel.sparse_estimator import BilevelElasticNet
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 10))
    >>> model = BilevelElasticNet().fit(X, 2 * X[:, 0] + rng.standard_normal(60))
    >>> bool(0 < model.l1_ratio_ <= 1), model.coef_.shape
    (True, (10,))
    """

    def __init__(
        self,
        *,
        cv=5,
        fit_intercept=True,
        standardise=True,
        tol=1e-4,
        max_iter=100,
        on_failure=None,
    ):
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter
        self.on_failure = on_failure

    def _model(self, X, y):
        return _quiet(SparseRegression(X, y, penalty="elastic-net"))

    def _fit(self, X, y, upper):
        top = _top(X, y)
        square = float(np.log(max(np.mean([np.mean(A**2) for A in X]), np.finfo(float).tiny)))
        lower = self._model(X, y)
        starts = [np.array([top - t, square - r]) for r in (2.0, 5.0) for t in np.arange(0.2, 7.0)]
        start = self._scan(lower, upper, starts)
        bounds = (np.array([top - _REACH, square - _REACH]), np.array([top + _ABOVE, square + _REACH]))
        self._learn(lower, upper, start, bounds)
        linear, quadratic = np.exp(self.theta_) * np.array([self._y_scale, 1.0])
        self.alpha_, self.l1_ratio_ = float(linear + quadratic), float(linear / (linear + quadratic))
        return self.theta_


def _quiet(lower):
    # The error has kinks, and often its minimum is one: the search ends there, and nothing is wrong with that.
    lower.warn_of_ties = False
    return lower


def _top(X, y):
    """Return the logarithm of the penalty from which on all is zero; 0 where everything is zero anyway."""
    largest = alpha_max(X, y)
    return float(np.log(largest)) if largest > np.finfo(float).tiny else 0.0
