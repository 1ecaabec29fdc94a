"""Ridge regression whose penalties are learned: one for all features, or one for each."""

from __future__ import annotations

import numpy as np

from sciml.inverse.bilevel.base_estimator import LinearRegressor
from sciml.inverse.bilevel.linear_models import LinearModel

__all__ = ["BilevelRidge"]

# Logarithms stay within this distance of the scale of the data.
_REACH = 12.0


class BilevelRidge(LinearRegressor):
    r"""Ridge regression with penalties learned by gradients of the cross-validated error.

    .. math:: \min_\theta \frac1K \sum_i \frac{1}{2 M_i} \|y_i' - X_i' \hat b_i(\theta)\|^2, \qquad
              \hat b_i = \arg\min_b \frac{1}{2 N_i} \|y_i - X_i b\|^2 + \frac12 \sum_j e^{\theta_j} s_j^2 b_j^2

    with s the standard deviations of the features.

    Parameters
    ----------
    per_feature : bool
        Learn a penalty for each feature; False by default: one for all.
    cv : int, splitter or iterable of pairs
        Folds, 5 by default; or an object of scikit-learn with a method ``split``; or pairs (rows to fit, rows to
        validate).
    fit_intercept : bool
        Centre each fold; True by default.
    standardise : bool
        Measure features in their standard deviations, so that penalties can be compared; True by default.
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
        Penalties in the mean convention above: ``Ridge(alpha=n * alpha_)`` on standardised features is the same model.
    theta_ : ndarray, shape (1,) or (p,)
        Their logarithms.
    coef_ : ndarray, shape (p,)
        Units of y over those of X.
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
    The smallest cross-validated error is no estimate of the error on new data: the penalties were fitted to it, with
    p numbers where `per_feature`. Estimate that error on other rows, or by ``cross_val_score(BilevelRidge(), X, y)``,
    which learns the penalties anew in every fold.

    References
    ----------
    F. Pedregosa, Hyperparameter optimization with approximate gradient, 2016, arXiv 1602.02355.

    Examples
    --------
    One feature matters, nine do not, and penalties of their own can say so:

    >>> import numpy as np
    >>> from sciml.inverse.bilevel.ridge_estimator import BilevelRidge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 10))
    >>> y = 2 * X[:, 0] + rng.standard_normal(60)
    >>> model = BilevelRidge(per_feature=True).fit(X, y)
    >>> bool(model.alpha_[0] < 0.1 * np.median(model.alpha_))
    True
    """

    def __init__(
        self,
        per_feature=False,
        *,
        cv=5,
        fit_intercept=True,
        standardise=True,
        tol=1e-4,
        max_iter=100,
        on_failure=None,
    ):
        self.per_feature = per_feature
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter
        self.on_failure = on_failure

    def _model(self, X, y, per_feature=None):
        per_feature = self.per_feature if per_feature is None else per_feature
        return LinearModel(X, y, penalty="feature" if per_feature else "single")

    def _fit(self, X, y, upper):
        level = float(np.log(max(np.mean([np.mean(A**2) for A in X]), np.finfo(float).tiny)))
        bounds = (level - _REACH, level + _REACH)
        one = self._model(X, y, per_feature=False)
        start = self._scan(one, upper, [np.array([level + t]) for t in np.arange(-8.0, 5.0, 2.0)])
        theta = np.asarray(self._learn(one, upper, start, bounds).theta)
        if self.per_feature:
            # From the best common penalty, so that the loss is never above that one's.
            self._learn(self._model(X, y), upper, np.full(X[0].shape[1], theta[0]), bounds)
        self.alpha_ = np.exp(self.theta_) if self.per_feature else float(np.exp(self.theta_[0]))
        return self.theta_
