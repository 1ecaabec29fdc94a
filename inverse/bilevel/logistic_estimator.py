"""Logistic regression whose penalties are learned: one, one for each feature, or one for each weight."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from sciml.estimators import cv_splits
from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.base_estimator import LinearEstimator, minimisers, spread
from sciml.inverse.bilevel.held_out import HeldOut
from sciml.inverse.bilevel.linear_models import PENALTIES, LinearModel
from sciml.validation import check_number, check_option

__all__ = ["BilevelLogistic", "LinearClassifier"]

# Logarithms of penalties: from hardly any to a weight of zero, for features of unit variance.
_BOUNDS = (-10.0, 8.0)


class LinearClassifier(ClassifierMixin, LinearEstimator):
    """Base of the classifiers: classes, scales, and what follows from the scores."""

    def _read(self, X, y):
        """Return features with the scales taken out and a column of ones, class numbers, and the loss."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, t = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InvalidInputError(
                f"y must hold at least two classes; got one class, {self.classes_[0]!r}, so nothing to tell apart."
            )
        self._middle = X.mean(axis=0) if self.standardise else np.zeros(X.shape[1])
        self._scale = spread(X) if self.standardise else np.ones(X.shape[1])
        return self._prepared(X), t, "logistic" if len(self.classes_) == 2 else "multinomial"

    def _prepared(self, X):
        X = (X - self._middle) / self._scale
        return np.hstack([X, np.ones((len(X), 1))]) if self.fit_intercept else X

    def _keep(self, x):
        """Set coefficients and intercepts from a solution, in the units of the data."""
        x = np.atleast_2d(np.asarray(x))
        weights, ones = (x[:, :-1], x[:, -1]) if self.fit_intercept else (x, np.zeros(len(x)))
        self.coef_ = weights / self._scale
        self.intercept_ = ones - self.coef_ @ self._middle

    def decision_function(self, X):
        """Return the scores.

        Parameters
        ----------
        X : array, shape (m, p)
            Features.

        Returns
        -------
        ndarray, shape (m,), or (m, K) for more than two classes
            Log odds of the second class, or logarithms of probabilities up to a constant.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X):
        """Return the likeliest classes.

        Parameters
        ----------
        X : array, shape (m, p)
            Features.

        Returns
        -------
        ndarray, shape (m,)
        """
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    def predict_proba(self, X):
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array, shape (m, p)
            Features.

        Returns
        -------
        ndarray, shape (m, K)
        """
        scores = self.decision_function(X)
        return np.stack([expit(-scores), expit(scores)], 1) if scores.ndim == 1 else softmax(scores, axis=1)


class BilevelLogistic(LinearClassifier):
    r"""Logistic regression, of two classes or more, with penalties learned by gradients of the cross-validated loss.

    .. math:: \min_\theta \frac1K \sum_i \ell_i'(\hat b_i(\theta)), \qquad
              \hat b_i = \arg\min_b \ell_i(b) + \frac12 \sum_j e^{\theta_j} s_j^2 b_j^2

    with the mean negative log likelihoods of the validation and of the training rows of fold i, and s the standard
    deviations of the features.

    Parameters
    ----------
    penalty : {"single", "feature", "weight"}
        Learn one penalty for all weights (the default), one for each feature, or one for each feature and class. With
        two classes the last two are the same.
    cv : int, splitter or iterable of pairs
        Folds with the proportions of the whole, 5 by default; or an object of scikit-learn with a method ``split``; or
        pairs (rows to fit, rows to validate).
    fit_intercept : bool
        Add a column of ones; True by default.
    intercept_penalty : float
        Its penalty, which is not learned; above 0, since it bounds the curvature. 1e-3 by default: small beside the
        curvature 1/4 of the loss.
    standardise : bool
        Centre features and measure them in their standard deviations; True by default.
    tol : float
        As in `learn_hyperparameters`; the search ends, too, after three steps that gain less than tol / 10 of the first
        loss each. 1e-3 by default: penalties matter to two digits at most.
    max_iter : int
        Steps of the search at most; 100 by default.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the search did not converge; None (the default) asks the configuration.

    Attributes
    ----------
    alpha_ : float, or ndarray (p,) or (K, p)
        Penalties in the mean convention above: ``LogisticRegression(C=1 / (n * alpha_))`` on standardised features is
        the same model but for the intercept.
    theta_ : ndarray, shape (n,)
        Their logarithms.
    classes_ : ndarray, shape (K,)
        The labels.
    coef_ : ndarray, shape (1, p) or (K, p)
        Over the units of X.
    intercept_ : ndarray, shape (1,) or (K,)
        Dimensionless.
    bilevel_result_ : BilevelResult
        What the search returned.
    n_iter_ : int
        Steps of the search, at least 1.
    n_features_in_ : int
        Columns of X.

    Notes
    -----
    The smallest cross-validated loss is no estimate of the loss on new data: the penalties were fitted to it, with as
    many numbers as there are weights at worst. Estimate that on other rows, or by
    ``cross_val_score(BilevelLogistic(), X, y)``, which learns the penalties anew in every fold.

    References
    ----------
    F. Pedregosa, Hyperparameter optimization with approximate gradient, 2016, arXiv 1602.02355.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel.logistic_estimator import BilevelLogistic
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 5))
    >>> y = np.where(X[:, 0] + 0.3 * rng.standard_normal(100) > 0, "yes", "no")
    >>> model = BilevelLogistic("feature").fit(X, y)
    >>> bool(model.score(X, y) > 0.85), int(model.alpha_.argmin())
    (True, 0)
    """

    def __init__(
        self,
        penalty="single",
        *,
        cv=5,
        fit_intercept=True,
        intercept_penalty=1e-3,
        standardise=True,
        tol=1e-3,
        max_iter=100,
        on_failure=None,
    ):
        self.penalty = penalty
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.intercept_penalty = intercept_penalty
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter
        self.on_failure = on_failure

    def fit(self, X, y):
        """Learn the penalties by cross-validation, then fit all rows with them.

        Parameters
        ----------
        X : array, shape (n, p)
            Features.
        y : array, shape (n,)
            Labels.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If there is one class only, fewer rows than folds, or an argument of the constructor breaks its rule.

        Warns
        -----
        FitConvergenceWarning
            If the search ended before its tolerance was met.
        """
        check_option("penalty", self.penalty, PENALTIES)
        check_number("intercept_penalty", self.intercept_penalty, low=0, inclusive="neither")
        A, t, loss = self._read(X, y)
        splits, K = cv_splits(self.cv, A, t, classifier=True), len(self.classes_)
        upper = HeldOut(loss, [A[rows] for _, rows in splits], [t[rows] for _, rows in splits], n_classes=K)
        fits = [A[rows] for rows, _ in splits], [t[rows] for rows, _ in splits]
        one = self._model(*fits, loss, K, "single")
        start = self._scan(one, upper, [np.array([s]) for s in np.arange(-9.0, 4.0, 2.0)])
        kind = self.penalty
        theta = np.asarray(self._learn(one, upper, start, _BOUNDS).theta)
        if kind != "single":
            lower = self._model(*fits, loss, K, kind)
            # From the best common penalty, so that the loss is never above that one's.
            theta = np.asarray(self._learn(lower, upper, np.full(lower.n_hyper, theta[0]), _BOUNDS).theta)
        p = self.n_features_in_
        alpha = np.exp(theta)
        shape = (K, p) if kind == "weight" and K > 2 else (p,)
        self.alpha_ = float(alpha[0]) if kind == "single" else alpha.reshape(shape)
        self._keep(minimisers(self._model([A], [t], loss, K, kind), torch.from_numpy(theta))[0].numpy())
        return self

    def _model(self, X, t, loss, n_classes, penalty):
        p, rows = self.n_features_in_, n_classes if loss == "multinomial" else 1
        features = {"single": np.zeros((rows, p)), "feature": np.tile(np.arange(p), (rows, 1))}
        groups = features.get(penalty, np.arange(rows * p).reshape(rows, p)).astype(np.int64)
        if self.fit_intercept:
            groups = np.hstack([groups, np.full((rows, 1), -1)])
        groups = groups if loss == "multinomial" else groups[0]
        return LinearModel(X, t, loss=loss, penalty=groups, fixed=self.intercept_penalty, n_classes=n_classes)
