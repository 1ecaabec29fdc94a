r"""Geometry of positive definite matrices as estimators of scikit-learn: means, tangent spaces, classifiers, domains.

They take what descriptors of this package and the estimators of pyRiemann give, arrays of shape (trials, n, n), and
know its names of geometries ("riemann", "wasserstein" and so on), so that pipelines written for it run unchanged.

Cost      a mean of each class or domain; a decomposition of each pair of trial and mean.
Pitfalls  arrays have three axes, so that most of scikit-learn's own checks do not apply.
References  A. Barachant, S. Bonnet, M. Congedo, C. Jutten, Multiclass brain-computer interface classification by
            Riemannian geometry, 2012.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from sciml.estimators import FitConvergenceWarning, cv_splits
from sciml.exceptions import InvalidInputError
from sciml.iterate import caller_level
from sciml.linalg.arrays import enter
from sciml.linalg.spd import as_spd, from_tangent, pairwise_distances, spd_mean, tangent_coordinates
from sciml.linalg.spd.metrics import MEANS, METRICS, canonical_metric
from sciml.stats.spd.recentring import domain_labels, whiten
from sciml.stats.spd.temperature import distance_probabilities, fit_temperature
from sciml.stats.spd.votes import neighbour_votes
from sciml.validation import check_number, check_option

__all__ = ["MDM", "SPDKNN", "SPDMean", "SPDRecenter", "SPDTangentSpace"]

_DISTANCES = tuple(name for name in METRICS if name != "gbw")
_MEAN_NAMES = tuple(name for name in MEANS if name != "gbw")


class _Matrices:
    """What all share: matrices in, checked once for their shape and number of channels."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def _matrices(self, X, *, reset=False):
        (tensor,), _ = enter(X, names=("X",))
        X = tensor.detach().cpu()
        if X.ndim != 3 or X.shape[1] != X.shape[2] or not len(X):
            raise InvalidInputError(
                f"X must be matrices of shape (trials, n, n); got shape {tuple(X.shape)}. Put a descriptor "
                "such as Covariance before this step."
            )
        X = as_spd("X", X).numpy()
        X = X.astype(np.complex128 if np.iscomplexobj(X) else np.float64, copy=False)
        if reset:
            self.n_features_in_ = X.shape[1]
        elif X.shape[1] != self.n_features_in_:
            raise InvalidInputError(
                f"X must have {self.n_features_in_} rows in each matrix, as in fit; got {X.shape[1]}. Use the same "
                "channels and descriptor."
            )
        return X

    def _mean(self, X, metric, sample_weight=None, theta=1.0):
        """Return the result of a mean, with a warning of both libraries where it did not converge."""
        deformed = {} if metric in ("harmonic", "power") else {"theta": theta}
        result = spd_mean(X, sample_weight, metric=metric, on_failure="ignore", **deformed)
        if not result.converged:
            warnings.warn(
                f"{type(self).__name__}: the {metric} mean stopped after {result.n_iter} iterations with criterion "
                f"{result.residual:.1e}. Add shrinkage, or use metric='logeuclid' for the mean.",
                FitConvergenceWarning,
                stacklevel=caller_level(),
            )
        return result


def _two_metrics(metric, second):
    """Return the short names of the metrics of the mean and of a second use, from a name or a dict of two."""
    if not isinstance(metric, dict):
        name = canonical_metric(metric, _DISTANCES)
        return name, name
    if set(metric) != {"mean", second}:
        raise InvalidInputError(
            f"metric must be a name, or a dict with the keys 'mean' and {second!r}; got the keys "
            f"{sorted(map(str, metric))}. Name both."
        )
    return (
        canonical_metric(metric["mean"], _MEAN_NAMES, argument="metric['mean']"),
        canonical_metric(metric[second], _DISTANCES, argument=f"metric[{second!r}]"),
    )


def _labels(y, n):
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (n,):
        raise InvalidInputError(f"y must hold one label for each of {n} trials; got shape {y.shape}.")
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise InvalidInputError(
            f"y must hold at least 2 classes; got {classes.tolist()}. Record trials of another class."
        )
    return classes, codes


def _weights(sample_weight, X):
    return None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)


class SPDMean(_Matrices, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The mean of matrices, and their distances from it.

    Parameters
    ----------
    metric : str or dict
        A geometry, "riemann" by default; or {"mean": ..., "distance": ...}, where the mean may also be "harmonic" or
        "power".
    theta : float
        Power by which the geometry is deformed; 1 by default.

    Attributes
    ----------
    mean_ : ndarray, shape (n, n)
        The mean, in the units of the matrices.
    result_ : MeanResult
        How it was found.
    n_features_in_ : int
        n.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.geometry_estimator import SPDMean
    >>> X = np.array([np.diag([1.0, 1.0]), np.diag([9.0, 1.0])])
    >>> SPDMean("wasserstein").fit(X).mean_.round(10)
    array([[4., 0.],
           [0., 1.]])
    """

    def __init__(self, metric="riemann", theta=1.0):
        self.metric = metric
        self.theta = theta

    def fit(self, X, y=None, sample_weight=None):
        """Find the mean.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.
        y : ignored
            For pipelines.
        sample_weight : array, shape (N,), or None
            Not negative; None, the default, weighs all the same.

        Returns
        -------
        self
        """
        mean, _ = _two_metrics(self.metric, "distance")
        X = self._matrices(X, reset=True)
        self.result_ = self._mean(X, mean, _weights(sample_weight, X), self.theta)
        self.mean_ = self.result_.mean
        self._n_features_out = 1
        return self

    def transform(self, X):
        """Return the distance of each matrix from the mean, which shows outliers.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.

        Returns
        -------
        ndarray, shape (N, 1)
        """
        check_is_fitted(self)
        _, distance = _two_metrics(self.metric, "distance")
        return pairwise_distances(self._matrices(X), self.mean_[None], metric=distance, theta=self.theta)


class SPDTangentSpace(_Matrices, TransformerMixin, BaseEstimator):
    """Coordinates in the tangent space at the mean; their lengths are the distances from it.

    Parameters
    ----------
    metric : str or dict
        A geometry, "riemann" by default; or {"mean": ..., "map": ...}, where the mean may also be "harmonic" or
        "power".
    theta : float
        Power by which the geometry is deformed; 1 by default.
    basis : {"eig", "channel"}
        Along eigenvectors of the mean, the default, which keeps large and small ones apart; or along channels.

    Attributes
    ----------
    reference_ : ndarray, shape (n, n)
        The mean, in the units of the matrices.
    n_features_in_ : int
        n.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.geometry_estimator import SPDTangentSpace
    >>> X = np.array([np.diag([1.0, 4.0]), np.diag([9.0, 4.0])])
    >>> SPDTangentSpace("wasserstein").fit_transform(X).round(6) + 0.0
    array([[-1.,  0.,  0.],
           [ 1.,  0.,  0.]])
    """

    def __init__(self, metric="riemann", theta=1.0, basis="eig"):
        self.metric = metric
        self.theta = theta
        self.basis = basis

    def fit(self, X, y=None, sample_weight=None):
        """Find the mean.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.
        y : ignored
            For pipelines.
        sample_weight : array, shape (N,), or None
            Not negative; None, the default, weighs all the same.

        Returns
        -------
        self
        """
        mean, _ = _two_metrics(self.metric, "map")
        check_option("basis", self.basis, ("eig", "channel"))
        X = self._matrices(X, reset=True)
        self.reference_ = self._mean(X, mean, _weights(sample_weight, X), self.theta).mean
        return self

    def transform(self, X):
        """Return tangent coordinates.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.

        Returns
        -------
        ndarray, shape (N, n (n + 1) / 2), or (N, n n) for complex matrices
        """
        check_is_fitted(self)
        return tangent_coordinates(self._matrices(X), self.reference_, **self._options())

    def inverse_transform(self, X):
        """Return the matrices of tangent coordinates.

        Parameters
        ----------
        X : array, shape (N, n (n + 1) / 2)
            Coordinates.

        Returns
        -------
        ndarray, shape (N, n, n)
        """
        check_is_fitted(self)
        return from_tangent(np.asarray(X), self.reference_, **self._options())

    def _options(self):
        return {"metric": _two_metrics(self.metric, "map")[1], "theta": self.theta, "basis": self.basis}

    def get_feature_names_out(self, input_features=None):
        """Return a name for each coordinate.

        Parameters
        ----------
        input_features : array of str, shape (n,), or None
            Names of the channels, used for basis="channel"; None, the default, numbers them.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        n = self.n_features_in_
        if input_features is not None and len(input_features) != n:
            raise InvalidInputError(f"input_features must hold {n} names; got {len(input_features)}.")
        named = input_features is not None and self.basis == "channel"
        names = list(map(str, input_features)) if named else [f"{self.basis[0]}{i}" for i in range(n)]
        i, j = np.triu_indices(n)
        found = [f"{names[a]}_{names[b]}" for a, b in zip(i, j, strict=True)]
        if np.iscomplexobj(self.reference_):
            found += [f"{names[a]}_{names[b]}_imag" for a, b in zip(i, j, strict=True) if a != b]
        return np.asarray(found, dtype=object)


class MDM(_Matrices, ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator):
    """Minimum distance to the mean of a class.

    Parameters
    ----------
    metric : str or dict
        A geometry, "riemann" by default; or {"mean": ..., "distance": ...}, such as a log-Euclidean mean, which is
        fast, and "riemann" distances.
    theta : float
        Power by which the geometry is deformed; 1 by default.
    cv : int, splitter, iterable of splits or None
        Folds on which the temperature of the probabilities is learned, 5 by default; None learns it from the training
        trials themselves, which is faster and too confident.

    Attributes
    ----------
    classes_ : ndarray, shape (k,)
        Labels.
    covmeans_ : ndarray, shape (k, n, n)
        Means of the classes.
    tau_ : float
        Temperature, in squared units of the distance.
    n_features_in_ : int
        n.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.geometry_estimator import MDM
    >>> X = np.array([[[1.0]], [[1.1]], [[9.0]], [[9.9]]])
    >>> mdm = MDM("wasserstein").fit(X, ["a", "a", "b", "b"])
    >>> mdm.predict([[[2.0]], [[20.0]]]).tolist()
    ['a', 'b']
    """

    def __init__(self, metric="riemann", theta=1.0, cv=5):
        self.metric = metric
        self.theta = theta
        self.cv = cv

    def fit(self, X, y, sample_weight=None):
        """Find the means of the classes, and the temperature on held-out folds.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.
        y : array, shape (N,)
            Labels, at least two different ones.
        sample_weight : array, shape (N,), or None
            Not negative; None, the default, weighs all the same.

        Returns
        -------
        self
        """
        _two_metrics(self.metric, "distance")
        X = self._matrices(X, reset=True)
        self.classes_, codes = _labels(y, len(X))
        weights = _weights(sample_weight, X)
        self.covmeans_ = self._class_means(X, codes, weights)
        self.tau_ = fit_temperature(*self._held_out(X, codes, weights))
        self._n_features_out = len(self.classes_)
        return self

    def _class_means(self, X, codes, weights):
        metric, _ = _two_metrics(self.metric, "distance")
        means = []
        for c, label in enumerate(self.classes_):
            rows = codes == c
            w = None if weights is None else weights[rows]
            if w is not None and not (w > 0).any():
                raise InvalidInputError(
                    f"sample_weight must be positive for some trial of class {_key(label)!r}; all are zero."
                )
            means.append(self._mean(X[rows], metric, w, self.theta).mean)
        return np.stack(means)

    def _squared(self, X, means):
        _, metric = _two_metrics(self.metric, "distance")
        return pairwise_distances(X, means, metric=metric, theta=self.theta, squared=True)

    def _held_out(self, X, codes, weights):
        """Return squared distances and classes of trials that did not take part in the means."""
        everywhere = np.ones(len(X)) if weights is None else weights
        counts = np.bincount(codes)
        if self.cv is not None and (counts.min() >= 2 or not isinstance(self.cv, int)):
            pairs = []
            for fit, validate in cv_splits(self.cv, X, codes, classifier=True):
                seen = np.bincount(codes[fit], everywhere[fit], len(counts))
                if (seen > 0).all():
                    w = None if weights is None else weights[fit]
                    means = self._class_means(X[fit], codes[fit], w)
                    pairs.append((self._squared(X[validate], means), codes[validate]))
            if pairs:
                return np.concatenate([d for d, _ in pairs]), np.concatenate([c for _, c in pairs])
        return self._squared(X, self.covmeans_), codes

    def transform(self, X):
        """Return the distances from the means of the classes.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.

        Returns
        -------
        ndarray, shape (N, k)
        """
        check_is_fitted(self)
        return np.sqrt(self._squared(self._matrices(X), self.covmeans_))

    def predict(self, X):
        """Return the class of the nearest mean.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.

        Returns
        -------
        ndarray, shape (N,)
            Labels.
        """
        check_is_fitted(self)
        # Not by `transform`, which set_output may turn into a table.
        return self.classes_[self._squared(self._matrices(X), self.covmeans_).argmin(1)]

    def predict_proba(self, X):
        """Return probabilities, the softmax of -d^2 / (2 tau).

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.

        Returns
        -------
        ndarray, shape (N, k)
            Rows sum to one.
        """
        check_is_fitted(self)
        return distance_probabilities(self._squared(self._matrices(X), self.covmeans_), self.tau_)


class SPDKNN(_Matrices, ClassifierMixin, BaseEstimator):
    """Vote of the nearest training matrices.

    Parameters
    ----------
    n_neighbors : int
        How many vote; 5 by default.
    metric : str
        A geometry, "riemann" by default.
    theta : float
        Power by which the geometry is deformed; 1 by default.
    weights : {"uniform", "distance"}
        Equal votes, the default, or the inverse of the distance.

    Attributes
    ----------
    classes_ : ndarray, shape (k,)
        Labels.
    n_features_in_ : int
        n.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.geometry_estimator import SPDKNN
    >>> knn = SPDKNN(1, metric="wasserstein").fit(np.array([[[1.0]], [[9.0]]]), [0, 1])
    >>> knn.predict([[[2.0]], [[20.0]]]).tolist()
    [0, 1]
    """

    def __init__(self, n_neighbors=5, metric="riemann", theta=1.0, weights="uniform"):
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.theta = theta
        self.weights = weights

    def fit(self, X, y):
        """Keep the training matrices.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.
        y : array, shape (N,)
            Labels, at least two different ones.

        Returns
        -------
        self
        """
        canonical_metric(self.metric, _DISTANCES)
        check_option("weights", self.weights, ("uniform", "distance"))
        k = check_number("n_neighbors", self.n_neighbors, low=1, integer=True)
        X = self._matrices(X, reset=True)
        if k > len(X):
            raise InvalidInputError(f"n_neighbors must be at most the {len(X)} training trials; got {k}. Take fewer.")
        self.classes_, self._codes = _labels(y, len(X))
        # Refuses now what the geometry has no place for.
        pairwise_distances(X, X[:1], metric=self.metric, theta=self.theta, fast=True)
        self._X = X
        return self

    def _votes(self, X):
        check_is_fitted(self)
        D = pairwise_distances(self._matrices(X), self._X, metric=self.metric, theta=self.theta)
        return neighbour_votes(D, self._codes, len(self.classes_), int(self.n_neighbors), self.weights)

    def predict(self, X):
        """Return the class with most votes; of equal ones that of the nearer neighbours.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.

        Returns
        -------
        ndarray, shape (N,)
            Labels.
        """
        _, winners = self._votes(X)
        return self.classes_[winners]

    def predict_proba(self, X):
        """Return the shares of the votes.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.

        Returns
        -------
        ndarray, shape (N, k)
            Rows sum to one.
        """
        return self._votes(X)[0]


class SPDRecenter(_Matrices, TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Whiten every domain (person, session, device) by its own mean, without labels.

    Parameters
    ----------
    domains : array, shape (N,), or None
        The domain of each training trial, where `fit` is not told; None, the default, puts all into one.
    metric : str
        Of the mean, "riemann" by default, with which every domain's mean becomes the identity exactly.
    unseen : {"error", "adapt"}
        What to do with a domain that has no statistics: refuse it (the default), or take its mean from the trials that
        are transformed together.

    Attributes
    ----------
    means_ : dict
        The mean of each domain, (n, n).
    n_features_in_ : int
        n.

    Notes
    -----
    Domains travel through pipelines by scikit-learn's metadata routing: ``SPDRecenter().set_fit_request(domains=True)
    .set_transform_request(domains=True)``.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.geometry_estimator import SPDRecenter
    >>> X = np.array([[[1.0]], [[4.0]], [[100.0]], [[400.0]]])
    >>> recenter = SPDRecenter()
    >>> recenter.fit_transform(X, domains=["a", "a", "b", "b"]).ravel().round(12)
    array([0.5, 2. , 0.5, 2. ])
    >>> recenter.adapt(9 * X[:2], domains=["c", "c"]).transform(9 * X[:1], domains=["c"]).ravel().round(12)
    array([0.5])
    """

    def __init__(self, domains=None, metric="riemann", unseen="error"):
        self.domains = domains
        self.metric = metric
        self.unseen = unseen

    def fit(self, X, y=None, domains=None):
        """Find the mean of each domain.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.
        y : ignored
            For pipelines.
        domains : array, shape (N,), or None
            The domain of each trial; None, the default, takes those of the constructor.

        Returns
        -------
        self
        """
        canonical_metric(self.metric, _MEAN_NAMES)
        check_option("unseen", self.unseen, ("error", "adapt"))
        X = self._matrices(X, reset=True)
        self.means_ = {}
        self._learn(X, domain_labels(self.domains if domains is None else domains, len(X)))
        return self

    def _learn(self, X, labels):
        metric = canonical_metric(self.metric, _MEAN_NAMES)
        for label in np.unique(labels):
            self.means_[_key(label)] = self._mean(X[labels == label], metric).mean

    def adapt(self, X, domains=None):
        """Learn the means of new domains, or anew those of known ones, from trials without labels.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.
        domains : array, shape (N,), or None
            The domain of each trial; None, the default, is the single domain of a fit without any.

        Returns
        -------
        self
            Changed in place; other domains keep their statistics.
        """
        check_is_fitted(self)
        X = self._matrices(X)
        self._learn(X, domain_labels(domains, len(X)))
        return self

    def transform(self, X, domains=None):
        """Return the matrices, each whitened by the mean of its domain.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.
        domains : array, shape (N,), or None
            The domain of each trial; None, the default, where there is one domain only.

        Returns
        -------
        ndarray, shape (N, n, n)
            Dimensionless.

        Raises
        ------
        InvalidInputError
            If a domain has no statistics and `unseen` is "error".
        """
        check_is_fitted(self)
        X = self._matrices(X)
        if domains is None and len(self.means_) == 1:
            return whiten(X, next(iter(self.means_.values())))
        if domains is None:
            raise InvalidInputError(
                f"domains must name the domain of each trial, one of {self._known()}; got None. Pass domains=."
            )
        labels = domain_labels(domains, len(X))
        new = [label for label in np.unique(labels) if _key(label) not in self.means_]
        if new and self.unseen == "error":
            raise InvalidInputError(
                f"domains must be known, {self._known()}; got {_key(new[0])!r}, which has no statistics. Call "
                "adapt(X, domains=...) with trials of it first, which need no labels, or set unseen='adapt'."
            )
        Y = np.empty_like(X)
        for label in np.unique(labels):
            rows = labels == label
            known = self.means_.get(_key(label))
            # A domain of the moment leaves no trace: the same trials give the same whatever came before.
            M = self._mean(X[rows], canonical_metric(self.metric, _MEAN_NAMES)).mean if known is None else known
            Y[rows] = whiten(X[rows], M)
        return Y

    def fit_transform(self, X, y=None, domains=None):
        """Find the mean of each domain and return the whitened matrices.

        Parameters
        ----------
        X : array, shape (N, n, n)
            Matrices.
        y : ignored
            For pipelines.
        domains : array, shape (N,), or None
            The domain of each trial; None, the default, takes those of the constructor.

        Returns
        -------
        ndarray, shape (N, n, n)
        """
        return self.fit(X, y, domains).transform(X, self.domains if domains is None else domains)

    def set_output(self, *, transform=None):
        """Change nothing: matrices are no table.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None
            What a pipeline passes to all its steps; not used.

        Returns
        -------
        self
        """
        return self

    def _known(self):
        names = [repr(name) for name in self.means_]
        return ", ".join(names[:5]) + (" and others" if len(names) > 5 else "")


def _key(label):
    """Return the plain value of a NumPy label, which compares and prints as the user wrote it."""
    return label.item() if hasattr(label, "item") else label
