"""The classifier of trials and covariance matrices as an estimator of scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from sciml.stats.spd.solve import classify_spd

__all__ = ["TangentClassifier"]


class TangentClassifier(ClassifierMixin, BaseEstimator):
    """Calibrated classifier in tangent coordinates, for pipelines and grids.

    Parameters
    ----------
    descriptor : "auto", str, Descriptor, or a sequence of these
        As in :func:`~sciml.classify_spd`; "covariance" by default, which also takes matrices as they are. "auto" makes
        a search of its own at every fit.
    metric : "auto", str, or a sequence of str
        Geometry; "airm" by default, "riemann" and other aliases work.
    classifier : {"tangent", "mdm", "knn"}
        Logistic regression of tangent coordinates, the default; nearest class mean; nearest neighbours.
    theta : float
        Power by which the geometry is deformed; 1 by default.
    calibrate : {"sigmoid", "temperature", "none"}
        Calibration of the probabilities; "sigmoid" by default.
    cv : int
        Folds by which the penalty is chosen; 5 by default.
    random_state : None, int or numpy.random.Generator
        Decides between groups of equal size where they are put into folds; 0 by default.

    Attributes
    ----------
    classes_ : ndarray, shape (k,)
        Labels.
    result_ : SPDResult
        The answer of :func:`~sciml.classify_spd`, with conformal sets and a report.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import TangentClassifier
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 2, 60)), np.repeat([0, 1], 10)
    >>> X[y == 1, 0] *= 3
    >>> TangentClassifier().fit(X, y).score(X, y)
    1.0
    """

    def __init__(
        self,
        descriptor="covariance",
        metric="airm",
        classifier="tangent",
        theta=1.0,
        calibrate="sigmoid",
        cv=5,
        random_state=0,
    ):
        self.descriptor = descriptor
        self.metric = metric
        self.classifier = classifier
        self.theta = theta
        self.calibrate = calibrate
        self.cv = cv
        self.random_state = random_state

    def fit(self, X, y, groups=None, domains=None):
        """Fit the classifier.

        Parameters
        ----------
        X : array, shape (n_trials, n_channels, n_times) or (n_trials, d, d), or list
            Trials or matrices.
        y : array, shape (n_trials,)
            Labels.
        groups : array, shape (n_trials,), or None
            Kept whole in the folds; None by default.
        domains : array, shape (n_trials,), or None
            Recordings to be whitened by their own means; None by default.

        Returns
        -------
        TangentClassifier
            Itself.
        """
        self.result_ = classify_spd(
            X,
            y,
            descriptor=self.descriptor,
            metric=self.metric,
            classifier=self.classifier,
            theta=self.theta,
            calibrate=self.calibrate,
            cv=self.cv,
            random_state=self.random_state,
            groups=groups,
            domains=domains,
        )
        self.classes_ = self.result_.classes
        self.n_features_in_ = len(self.result_.channels)
        return self

    def predict(self, X, domains=None):
        """Return the most probable labels.

        Parameters
        ----------
        X : array, shape (m, n_channels, n_times) or (m, d, d), or list
            Trials or matrices as in fitting.
        domains : array, shape (m,), or None
            Their domains, where those were given in fitting.

        Returns
        -------
        ndarray, shape (m,)
        """
        check_is_fitted(self)
        return self.result_.predict(X, domains=domains)

    def predict_proba(self, X, domains=None):
        """Return calibrated probabilities.

        Parameters
        ----------
        X : array, shape (m, n_channels, n_times) or (m, d, d), or list
            Trials or matrices as in fitting.
        domains : array, shape (m,), or None
            Their domains, where those were given in fitting.

        Returns
        -------
        ndarray, shape (m, k)
        """
        check_is_fitted(self)
        return self.result_.predict_proba(X, domains=domains)

    def decision_function(self, X, domains=None):
        """Return log-probabilities; for two classes the log-odds of the second.

        Parameters
        ----------
        X : array, shape (m, n_channels, n_times) or (m, d, d), or list
            Trials or matrices as in fitting.
        domains : array, shape (m,), or None
            Their domains, where those were given in fitting.

        Returns
        -------
        ndarray, shape (m,) or (m, k)
        """
        P = np.log(np.maximum(self.predict_proba(X, domains), np.finfo(float).tiny))
        return P[:, 1] - P[:, 0] if P.shape[1] == 2 else P

    def score(self, X, y, sample_weight=None, domains=None):
        """Return the share of labels that are right.

        Parameters
        ----------
        X : array, shape (m, n_channels, n_times) or (m, d, d), or list
            Trials or matrices as in fitting.
        y : array, shape (m,)
            True labels.
        sample_weight : array, shape (m,), or None
            Weights of the trials; None, the default: all the same.
        domains : array, shape (m,), or None
            Their domains, where those were given in fitting; in a cross-validation they arrive by
            ``set_score_request(domains=True)`` and scikit-learn's ``params=``.

        Returns
        -------
        float
        """
        return float(accuracy_score(y, self.predict(X, domains), sample_weight=sample_weight))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.two_d_array = False
        return tags
