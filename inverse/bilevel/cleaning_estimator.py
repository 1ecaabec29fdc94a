"""A linear classifier for labels of which some are wrong: rows get weights, learned from few rows that are right."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import validate_data

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.data_cleaning import DataCleaning
from sciml.inverse.bilevel.held_out import HeldOut
from sciml.inverse.bilevel.logistic_estimator import LinearClassifier
from sciml.random import generator
from sciml.validation import check_number

__all__ = ["DataCleaner"]

# The weight 1 / (1 + exp(-12)) is 1 to five digits.
_REACH = 12.0


class DataCleaner(LinearClassifier):
    r"""Logistic regression on rows with learned weights, which shows the rows whose label is wrong.

    .. math:: \min_\theta \ell'(\hat b(\theta)) + \frac{\tau}{2 n} \|\theta\|^2, \qquad
              \hat b = \arg\min_b \frac1n \sum_k \sigma(\theta_k)\, \ell_k(b) + \frac c2 \|b\|^2

    with the mean negative log likelihood of rows that are trusted on the left, and :math:`\sigma(\theta_k)` the weight
    of row k.

    Parameters
    ----------
    c : float
        Penalty of the weights of the features, measured in standard deviations, and of the intercept; 1e-2 by default.
    prior : float
        tau: how strongly weights are held near 1/2; 1e-2 by default. Without it, more rows than trusted rows fit the
        trusted ones by chance, and the weights say less about the labels.
    trusted_fraction : float
        Part of the rows that is drawn as trusted where `fit` gets none; 0.2 by default. Wrong labels among them do
        harm: pass trusted rows where there are any.
    fit_intercept : bool
        Add a column of ones; True by default.
    standardise : bool
        Centre features and measure them in their standard deviations; True by default.
    tol : float
        As in `learn_hyperparameters`; the search ends, too, after three steps that gain less than tol / 10 of the first
        loss each. 1e-3 by default: only the order of the weights matters.
    max_iter : int
        Steps of the search at most; 100 by default.
    random_state : None, int, numpy.random.Generator or numpy.random.RandomState
        Draws the trusted rows where `fit` gets none; 0 by default, so that the same call gives the same answer.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the search did not converge; None (the default) asks the configuration.

    Attributes
    ----------
    weights_ : ndarray, shape (n,)
        Weights of the rows, from 0 to 1; trusted rows drawn by `trusted_fraction` have 1.
    theta_ : ndarray, shape (n_weighted,)
        Their logits, for the rows that are not trusted.
    trusted_ : ndarray of bool, shape (n,)
        Which rows were drawn as trusted.
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
    The loss of the trusted rows is no estimate of the loss on new data: there are more weights than trusted rows as a
    rule. Keep a third set for that.

    References
    ----------
    L. Franceschi, M. Donini, P. Frasconi, M. Pontil, Forward and reverse gradient-based hyperparameter optimization,
    2017, arXiv 1703.01785.

    Examples
    --------
    A fifth of the labels is turned round:

    >>> import numpy as np
    >>> from sciml.inverse.bilevel.cleaning_estimator import DataCleaner
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((300, 3))
    >>> right = X[:, 0] > 0
    >>> wrong = rng.random(200) < 0.2
    >>> model = DataCleaner().fit(X[:200], right[:200] ^ wrong, X_trusted=X[200:], y_trusted=right[200:])
    >>> bool(model.weights_[wrong].mean() < 0.3 < model.weights_[~wrong].mean())
    True
    """

    # Rows of another set are no metadata to be routed.
    __metadata_request__fit = {"X_trusted": UNUSED, "y_trusted": UNUSED}

    def __init__(
        self,
        c=1e-2,
        *,
        prior=1e-2,
        trusted_fraction=0.2,
        fit_intercept=True,
        standardise=True,
        tol=1e-3,
        max_iter=100,
        random_state=0,
        on_failure=None,
    ):
        self.c = c
        self.prior = prior
        self.trusted_fraction = trusted_fraction
        self.fit_intercept = fit_intercept
        self.standardise = standardise
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.on_failure = on_failure

    def fit(self, X, y, X_trusted=None, y_trusted=None):
        """Learn the weights of the rows, and the model that belongs to them.

        Parameters
        ----------
        X : array, shape (n, p)
            Features.
        y : array, shape (n,)
            Labels, of which some may be wrong.
        X_trusted : array, shape (m, p), or None
            Features of rows whose labels are right; None (the default) draws them from X.
        y_trusted : array, shape (m,), or None
            Their labels, among those in y.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            If there is one class only, a trusted label is unknown, only one of the trusted arrays came, or an argument
            of the constructor breaks its rule.

        Warns
        -----
        FitConvergenceWarning
            If the search ended before its tolerance was met.
        """
        prior = check_number("prior", self.prior, low=0)
        fraction = check_number("trusted_fraction", self.trusted_fraction, low=0, high=1, inclusive="neither")
        if (X_trusted is None) != (y_trusted is None):
            missing = "X_trusted" if X_trusted is None else "y_trusted"
            raise InvalidInputError(f"{missing} must come with the other trusted array; got None. Pass both or none.")
        A, t, loss = self._read(X, y)
        K, n = len(self.classes_), len(A)
        self.trusted_ = np.zeros(n, dtype=bool)
        if X_trusted is None:
            self.trusted_ = _drawn(t, fraction, self.random_state)
            checks, truth = A[self.trusted_], t[self.trusted_]
        else:
            checks = self._prepared(validate_data(self, X_trusted, reset=False, dtype=np.float64))
            truth = self._numbers(y_trusted, len(checks))
        rest = ~self.trusted_
        lower = DataCleaning(A[rest], t[rest], c=self.c, loss=loss, n_classes=K)
        size = lower.n_hyper

        def held(theta):
            return 0.5 * prior / size * (theta * theta).sum()

        upper = HeldOut(loss, checks, truth, r=held if prior else None, n_classes=K)
        result = self._learn(lower, upper, np.zeros(size), (-_REACH, _REACH))
        self.weights_ = np.ones(n)
        self.weights_[rest] = 1 / (1 + np.exp(-self.theta_))
        self._keep(np.asarray(torch.as_tensor(result.x)[0]))
        return self

    def _numbers(self, labels, n):
        """Return the numbers of trusted labels."""
        labels = np.asarray(labels)
        if labels.shape != (n,):
            raise InvalidInputError(f"y_trusted must be of shape ({n},), one label a row; got {labels.shape}.")
        unknown = labels[~np.isin(labels, self.classes_)]
        if len(unknown):
            raise InvalidInputError(
                f"y_trusted must hold labels that occur in y, {self.classes_.tolist()}; got {unknown[0]}."
            )
        return np.searchsorted(self.classes_, labels)


def _drawn(t, fraction, state):
    """Return which rows are drawn: the part of each class, rounded, at least one row, and never all rows of a class."""
    if isinstance(state, np.random.RandomState):
        state = int(state.randint(2**31 - 1))
    rng, chosen = generator(state), np.zeros(len(t), dtype=bool)
    for k in range(int(t.max()) + 1):
        rows = np.flatnonzero(t == k)
        count = min(len(rows) - 1, max(1, round(fraction * len(rows))))
        chosen[rng.permutation(rows)[:count]] = True
    if not chosen.any():
        raise InvalidInputError(
            f"y must hold two rows of some class, so that one can be trusted and one weighted; got n_samples={len(t)}."
        )
    return chosen
