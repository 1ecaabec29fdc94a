"""The scikit-learn estimator: it stores parameters, calls `fit_gp` and keeps its answer."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sciml.kernels import Matern52
from sciml.random import generator
from sciml.solvers.gp_regression.fit import fit_gp

__all__ = ["GPRegressor"]


class GPRegressor(RegressorMixin, BaseEstimator):
    """Gaussian-process regression with learned kernel and noise.

    Parameters
    ----------
    kernel : sciml.kernels.Kernel or None
        Covariance of the function; None (the default) takes ``Matern52(lengthscale=1.0)``, whose variance and length
        are learned.
    noise : float or "evidence"
        Standard deviation of the noise, in units of y; learned by default.
    learn : "all", "none" or sequence of str
        Parameters of the kernel that are learned; all by default.
    prior_mean : float or "sample"
        Mean of the prior; that of the targets by default.
    method : {"auto", "exact", "iterative"}
        By default exact up to 8000 points.
    tol : float
        Of the maximisation of the evidence; 1e-4 by default.
    max_iter : int
        Of the same; 100 by default.
    n_starts : int
        Of the same; 4 by default.
    iterative_options : sciml.solvers.gp_regression.Iterative or None
        Options of the iterative method; its defaults by default.
    random_state : None, int, numpy.random.Generator or numpy.random.RandomState
        Source of samples and probes.

    Attributes
    ----------
    result_ : GPRegression
        What `fit_gp` returned.
    n_iter_ : int
        Steps of the maximisation, at least 1.
    n_features_in_ : int
        Columns of X.

    Examples
    --------
    >>> X = np.linspace(0, 6, 30)[:, None]
    >>> model = GPRegressor(random_state=0).fit(X, np.sin(X[:, 0]) + 0.05 * np.cos(40 * X[:, 0]))
    >>> bool(model.score(X, np.sin(X[:, 0])) > 0.99)
    True
    """

    def __init__(
        self,
        kernel=None,
        *,
        noise="evidence",
        learn="all",
        prior_mean="sample",
        method="auto",
        tol=1e-4,
        max_iter=100,
        n_starts=4,
        iterative_options=None,
        random_state=None,
    ):
        self.kernel = kernel
        self.noise = noise
        self.learn = learn
        self.prior_mean = prior_mean
        self.method = method
        self.tol = tol
        self.max_iter = max_iter
        self.n_starts = n_starts
        self.iterative_options = iterative_options
        self.random_state = random_state

    def fit(self, X, y):
        """Fit the model.

        Parameters
        ----------
        X : array, shape (n, d)
            Points.
        y : array, shape (n,) or (n, q)
            Targets.

        Returns
        -------
        GPRegressor
            Itself.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=[np.float64, np.float32])
        state = self.random_state
        if isinstance(state, np.random.RandomState):
            state = generator(int(state.randint(2**31 - 1)))
        options = {key: value for key, value in self.get_params(deep=False).items() if key != "kernel"}
        kernel = Matern52(lengthscale=1.0) if self.kernel is None else self.kernel
        self.result_ = fit_gp(X, y, kernel, **{**options, "random_state": state})
        self.n_iter_ = max(1, self.result_.n_iter)  # scikit-learn counts a fit without a step as one
        return self

    def predict(self, X):
        """Evaluate the posterior mean.

        Parameters
        ----------
        X : array, shape (m, d)
            Points.

        Returns
        -------
        ndarray, shape (m,) or (m, q)
            Units of y. For variances and samples ask ``result_``.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return self.result_.mean(X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.non_deterministic = False
        return tags
