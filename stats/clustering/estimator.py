"""Clustering with a proof as estimators of scikit-learn: a Gaussian mixture, and K-means."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from sciml._config import resolve
from sciml.estimators import FitConvergenceWarning
from sciml.exceptions import ConvergenceError
from sciml.iterate import caller_level
from sciml.stats.clustering.solve import ila_sdp, kmeans_sdp

__all__ = ["ILASDP", "SDPKMeans"]


class _Clusterer(ClusterMixin):
    """What both share: data in, a result kept, new rows judged by it."""

    def _keep(self, function, X, sample_weight, **options):
        """Run a front door on validated data and keep what it found."""
        X = validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=2)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        on_failure = resolve("on_failure", self.on_failure)
        result = function(
            X.astype(np.float64, copy=False),
            self.n_clusters,
            sample_weight=sample_weight,
            init=self.init,
            n_init=self.n_init,
            rank=self.rank,
            certify=self.certify,
            tol=self.tol,
            device=self.device,
            random_state=_seed(self.random_state),
            on_failure="ignore",
            **options,
        )
        if not result.converged and on_failure != "ignore":
            text = (
                f"{type(self).__name__} ended with status {getattr(result.status, 'name', result.status)} before its "
                "tolerance was met; labels and bound are those of the best that was found. Loosen tol, or raise n_init."
            )
            if on_failure == "raise":
                raise ConvergenceError(text)
            warnings.warn(text, FitConvergenceWarning, stacklevel=caller_level())
        names = getattr(self, "feature_names_in_", None)
        self.result_ = result = _ordered(result, [] if names is None else names.tolist())
        self.labels_ = result.labels
        self.lower_bound_ = result.lower_bound
        self.gap_ = result.gap
        self.certified_ = result.certified
        self.n_iter_ = max(1, result.n_iter)  # scikit-learn counts a fit without a step as one
        return self

    def _rows(self, X):
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=(np.float64, np.float32))

    def predict(self, X):
        """Return the clusters of rows.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of those fitted.

        Returns
        -------
        ndarray of int64, shape (m,)
            Numbers of clusters, -1 for noise.
        """
        return self._rows_by("predict", X)

    def _rows_by(self, name, X):
        X = self._rows(X)
        return getattr(self.result_, name)(X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.non_deterministic = False
        return tags


class ILASDP(_Clusterer, DensityMixin, BaseEstimator):
    r"""Gaussian clusters of unlike shapes, with a bound on how far the labels are from the best ones.

    .. math:: \min_{G_1, \dots, G_K} \sum_k \sum_{i \in G_k} \omega_i \big( |x_i - \bar x_k|^2_{\Sigma_k^{-1}} +
              \log\det \Sigma_k \big)

    Labels are found by a semidefinite relaxation that alternates with an empirical-Bayes update of the covariances, and
    refined; see `ila_sdp`.

    Parameters
    ----------
    n_clusters : int or "auto"
        Number of clusters, at most that of different rows; 8 by default, as in scikit-learn. "auto" chooses it.
    covariance_prior : {"auto", "pooled", "diag", "spherical", "none"}
        Shape of what the covariances are drawn to; "auto", the default, takes what predicts best.
    prior_strength : float or None
        How many points the prior counts for; None, the default: estimated.
    refine : {"em", "cem"} or None
        What follows the relaxation: soft steps (the default), hard ones, or none.
    rank : int or None
        Columns of the factor of each cluster in the relaxation; None, the default: 3.
    n_init : int
        Runs of k-means among the starts; 10 by default.
    init : str or array of int, shape (n,)
        Labels to start from, as for `cluster`; "auto", the default: all that are known.
    reduce : {"auto", None} or int
        Number of principal components to cluster in; "auto", the default: fewer than there are features only where
        points are too few for covariances.
    certify : bool, "auto", "dense", "matrix-free" or "sketch"
        Whether and how to compute the lower bound; "auto", the default: where it takes about a second.
    noise : bool
        Whether outliers get the label -1; False by default.
    tol : float or None
        Bound on the mean change of the memberships in the last step; None, the default: 1e-3.
    max_iter : int
        Steps of the last refinement; 300 by default.
    criterion : {"bic", "icl"}
        For ``n_clusters="auto"``; "bic" by default.
    random_state : None, int, numpy.random.Generator or numpy.random.RandomState
        Draws the starts. None, the default: other draws in every fit.
    device : str, torch.device or None
        Where to compute; None, the default: on the CPU. What is learned are NumPy arrays in any case.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when a fit did not converge; None (the default) asks the configuration.

    Attributes
    ----------
    weights_ : ndarray, shape (K,)
        Proportions of the clusters.
    means_ : ndarray, shape (K, p)
        Units of X.
    covariances_ : ndarray, shape (K, p, p)
        Units of X squared.
    precisions_cholesky_ : ndarray, shape (K, p, p)
        Upper triangular P with ``P @ P.T`` the inverse covariance, as in scikit-learn.
    labels_ : ndarray of int64, shape (n,)
        Cluster of each row, -1 for noise.
    membership_ : ndarray, shape (n, K)
        Probability of each cluster.
    objective_path_ : ndarray, shape (n_iter + 1,)
        Penalised log-likelihood of the relaxation after each step of the alternation, but for constants; it rises.
    lower_bound_, gap_ : float
        No labels cost less, given the covariances; and how much those found cost above it. NaN without a bound. Not the
        attribute of that name of scikit-learn's mixtures, which is a log-likelihood.
    certified_ : bool
        Whether the gap is zero to rounding.
    result_ : ClusterResult
        All that is known.
    n_iter_ : int
        Steps, at least 1.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of str, shape (p,)
        Columns of the data frame, where one came.

    Raises
    ------
    InvalidInputError
        If a parameter breaks its rule, or data hold a NaN.

    Notes
    -----
    What is certified are the labels given the covariances, not the choice of both. Clusters are numbered by size, the
    largest first, so that the order of the rows does not matter.

    References
    ----------
    Y. Zhuang, X. Chen, Y. Yang, Likelihood adjusted semidefinite programs for clustering heterogeneous data, 2023,
    arXiv 2209.15097.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.estimator import ILASDP
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(0, 1, (40, 2)), rng.normal(20, 3, (40, 2))])
    >>> model = ILASDP(2, random_state=0).fit(X)
    >>> np.sort(np.bincount(model.predict(X))).tolist(), model.certified_
    ([40, 40], True)
    """

    def __init__(
        self,
        n_clusters=8,
        *,
        covariance_prior="auto",
        prior_strength=None,
        refine="em",
        rank=None,
        n_init=10,
        init="auto",
        reduce="auto",
        certify="auto",
        noise=False,
        tol=None,
        max_iter=300,
        criterion="bic",
        random_state=None,
        device=None,
        on_failure=None,
    ):
        self.n_clusters = n_clusters
        self.covariance_prior = covariance_prior
        self.prior_strength = prior_strength
        self.refine = refine
        self.rank = rank
        self.n_init = n_init
        self.init = init
        self.reduce = reduce
        self.certify = certify
        self.noise = noise
        self.tol = tol
        self.max_iter = max_iter
        self.criterion = criterion
        self.random_state = random_state
        self.device = device
        self.on_failure = on_failure

    def fit(self, X, y=None, sample_weight=None):
        """Find the clusters.

        Parameters
        ----------
        X : array, shape (n, p)
            Rows.
        y : None
            Not used; there for pipelines.
        sample_weight : array, shape (n,), or None
            Weights, not below 0: how often a row counts. None, the default: ones.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If there are fewer different rows than clusters, or a parameter breaks its rule.

        Warns
        -----
        FitConvergenceWarning
            If the fit ended before its tolerance was met.
        """
        names = ("covariance_prior", "prior_strength", "refine", "reduce", "noise", "max_iter", "criterion")
        self._keep(ila_sdp, X, sample_weight, **{name: getattr(self, name) for name in names})
        result = self.result_
        self.weights_, self.means_, self.covariances_ = result.proportions, result.means, result.covariances
        eye = np.eye(self.n_features_in_)
        self.precisions_cholesky_ = np.stack(
            [solve_triangular(np.linalg.cholesky(C), eye, lower=True).T for C in result.covariances]
        )
        self.membership_ = result.membership
        self.objective_path_ = result.history.get("objective", np.array([result.objective]))
        return self

    def predict_proba(self, X):
        """Return the probability of each cluster for rows.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of those fitted.

        Returns
        -------
        ndarray, shape (m, K)
            Rows sum to one, less the probability of noise where there is a component for it.
        """
        return self._rows_by("predict_proba", X)

    def score_samples(self, X):
        """Return the log-density of the mixture at rows.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of those fitted.

        Returns
        -------
        ndarray, shape (m,)
            Natural logarithms.
        """
        return self._rows_by("score_samples", X)

    def score(self, X, y=None):
        """Return the mean of the log-density over rows.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of those fitted.
        y : None
            Not used; there for pipelines.

        Returns
        -------
        float
            Larger is better.
        """
        return float(self.score_samples(X).mean())

    def bic(self, X):
        r"""Return the Bayesian information criterion of the mixture on rows, smaller is better.

        .. math:: -2 \sum_i \log f(x_i) + \nu \log m

        A covariance counts among the :math:`\nu` free parameters only as far as the data, not the prior, determine it.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of those fitted.

        Returns
        -------
        float
        """
        scores = self.score_samples(X)
        return -2 * float(scores.sum()) + self.result_.report["free_parameters"] * math.log(len(scores))

    def icl(self, X):
        r"""Return the integrated classification criterion: `bic` plus twice the entropy of the memberships.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of those fitted.

        Returns
        -------
        float
            Smaller is better.
        """
        shares = self.predict_proba(X)
        noise = 1 - shares.sum(axis=1, keepdims=True) if self.result_.has_noise else shares[:, :0]
        shares = np.clip(np.hstack([shares, noise]), np.finfo(float).tiny, None)
        return self.bic(X) - 2 * float((shares * np.log(shares)).sum())


class SDPKMeans(_Clusterer, TransformerMixin, ClassNamePrefixFeaturesOutMixin, BaseEstimator):
    r"""K-means by its semidefinite relaxation, with a bound on how far the labels are from the best ones.

    .. math:: \min_{G_1, \dots, G_K} \sum_k \sum_{i \in G_k} \omega_i |x_i - \bar x_k|^2

    Parameters
    ----------
    n_clusters : int
        Number of clusters, at most that of different rows; 8 by default, as in scikit-learn.
    solver : {"auto", "low-rank", "exact"}
        Of the relaxation, as for `kmeans_sdp`; "auto", the default, is "low-rank".
    rank : int or None
        Columns of the factor; None, the default: twice the number of clusters.
    n_init : int
        Runs of k-means among the starts; 10 by default.
    init : str or array of int, shape (n,)
        Labels to start from, as for `cluster`; "auto", the default: all that are known.
    certify : bool, "auto", "dense", "matrix-free" or "sketch"
        Whether and how to compute the lower bound; "auto", the default: where it takes about a second.
    tol : float or None
        Of the relaxation; None, the default: 1e-3, or 1e-5 where a bound is computed.
    random_state : None, int, numpy.random.Generator or numpy.random.RandomState
        Draws the starts. None, the default: other draws in every fit.
    device : str, torch.device or None
        Where to compute; None, the default: on the CPU. What is learned are NumPy arrays in any case.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when a fit did not converge; None (the default) asks the configuration.

    Attributes
    ----------
    cluster_centers_ : ndarray, shape (K, p)
        Means, units of X.
    labels_ : ndarray of int64, shape (n,)
        Cluster of each row.
    inertia_ : float
        Weighted sum of squared distances to the means, units of X squared.
    lower_bound_, gap_ : float
        No labels have a smaller inertia than the bound; and how far that found is above it. NaN without a bound.
    certified_ : bool
        Whether the gap is zero to rounding: there are no better labels.
    result_ : ClusterResult
        All that is known.
    n_iter_ : int
        Steps, at least 1.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of str, shape (p,)
        Columns of the data frame, where one came.

    Raises
    ------
    InvalidInputError
        If a parameter breaks its rule, or data hold a NaN.

    Notes
    -----
    Clusters are numbered by size, the largest first, so that the order of the rows does not matter.

    References
    ----------
    J. Peng, Y. Wei, Approximating K-means-type clustering via semidefinite programming, 2007;
    Y. Zhuang, X. Chen, Y. Yang, R. Zhang, Statistically optimal K-means clustering via nonnegative low-rank
    semidefinite programming, 2024, arXiv 2305.18436.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.estimator import SDPKMeans
    >>> model = SDPKMeans(2, random_state=0).fit([[0.0], [1.0], [10.0], [11.0]])
    >>> round(model.inertia_, 9), model.certified_
    (1.0, True)
    >>> model.get_feature_names_out().tolist()
    ['sdpkmeans0', 'sdpkmeans1']
    """

    def __init__(
        self,
        n_clusters=8,
        *,
        solver="auto",
        rank=None,
        n_init=10,
        init="auto",
        certify="auto",
        tol=None,
        random_state=None,
        device=None,
        on_failure=None,
    ):
        self.n_clusters = n_clusters
        self.solver = solver
        self.rank = rank
        self.n_init = n_init
        self.init = init
        self.certify = certify
        self.tol = tol
        self.random_state = random_state
        self.device = device
        self.on_failure = on_failure

    def fit(self, X, y=None, sample_weight=None):
        """Find the clusters.

        Parameters
        ----------
        X : array, shape (n, p)
            Rows.
        y : None
            Not used; there for pipelines.
        sample_weight : array, shape (n,), or None
            Weights, not below 0: how often a row counts. None, the default: ones.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If there are fewer different rows than clusters, or a parameter breaks its rule.

        Warns
        -----
        FitConvergenceWarning
            If the fit ended before its tolerance was met.
        """
        self._keep(kmeans_sdp, X, sample_weight, solver=self.solver)
        self.cluster_centers_ = self.result_.means
        self.inertia_ = self.result_.objective
        return self

    def transform(self, X):
        """Return the distances of rows to the means.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of those fitted.

        Returns
        -------
        ndarray, shape (m, K)
            Units of X.
        """
        X = self._rows(X)
        columns = [np.linalg.norm(X - centre, axis=1) for centre in self.cluster_centers_]
        return np.stack(columns, axis=1).astype(X.dtype, copy=False)

    def score(self, X, y=None, sample_weight=None):
        """Return minus the sum of squared distances to the nearest means.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of those fitted.
        y : None
            Not used; there for pipelines.
        sample_weight : array, shape (m,), or None
            Weights; None, the default: ones.

        Returns
        -------
        float
            Larger is better; units of X squared.
        """
        nearest = self.transform(X).astype(np.float64).min(axis=1) ** 2
        weights = np.ones(len(nearest)) if sample_weight is None else _check_sample_weight(sample_weight, X)
        return -float(weights @ nearest)

    @property
    def _n_features_out(self):
        return len(self.cluster_centers_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _ordered(result, features):
    """Return the result with the largest cluster first, equal ones by their means, whatever the order of the rows."""
    order = np.lexsort((*result.means.T[::-1], -result.proportions))
    rank = np.append(np.argsort(order), -1)  # noise, -1, stays
    parts = {name: getattr(result, name)[order] for name in ("proportions", "means", "covariances")}
    labels, membership = rank[result.labels], result.membership[:, order]
    return replace(result, labels=labels, membership=membership, features=features, **parts)


def _seed(random_state):
    """Return what `sciml.random.generator` takes; a legacy RandomState gives one draw and moves on."""
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return random_state
