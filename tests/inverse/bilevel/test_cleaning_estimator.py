"""Wrong labels are found and do no harm; scikit-learn's contract is kept."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.cleaning_estimator import DataCleaner


@parametrize_with_checks([DataCleaner()])
def test_scikit_learn_contract(estimator, check):
    assert check(estimator) is None  # it raises what it finds


def breast_cancer():
    """Return 250 rows of which three in ten have a wrong label, 100 trusted rows, and the rest."""
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    state = np.random.RandomState(0)  # the recorded experiment drew with it
    order = state.permutation(len(X))
    X, y = X[order], y[order]
    wrong = state.rand(250) < 0.3
    return X[:250], np.where(wrong, 1 - y[:250], y[:250]), wrong, X[250:350], y[250:350], X[350:], y[350:]


def test_finds_wrong_labels_and_predicts_as_if_there_were_none():
    X, y, wrong, trusted, right, X_test, y_test = breast_cancer()
    model = DataCleaner().fit(X, y, X_trusted=trusted, y_trusted=right)
    plain = DataCleaner(max_iter=0, on_failure="ignore").fit(X, y, X_trusted=trusted, y_trusted=right)
    assert roc_auc_score(wrong, -model.weights_) >= 0.97
    assert model.score(X_test, y_test) >= 0.97
    assert plain.score(X_test, y_test) <= 0.90
    assert model.bilevel_result_.status == "converged"
    # With the right labels, and no weights, logistic regression reaches 0.982.
    oracle = LogisticRegression(C=1).fit(X, np.where(wrong, 1 - y, y)).score(X_test, y_test)
    assert model.score(X_test, y_test) >= oracle - 0.01


def test_the_prior_holds_weights_together():
    X, y, wrong, trusted, right, _, _ = breast_cancer()
    fits = [DataCleaner(prior=tau).fit(X, y, X_trusted=trusted, y_trusted=right) for tau in (0.0, 1e-2, 1.0)]
    spreads = [np.abs(model.theta_).max() for model in fits]
    assert spreads[0] > spreads[1] > spreads[2]
    assert roc_auc_score(wrong, -fits[1].weights_) > roc_auc_score(wrong, -fits[0].weights_)
    unit = DataCleaner(prior=1e6).fit(X, y, X_trusted=trusted, y_trusted=right)
    assert_allclose(unit.weights_, 0.5, atol=1e-6)


def test_rows_are_drawn_as_trusted_where_none_come(rng):
    X = rng.standard_normal((200, 3))
    y = np.where(X[:, 0] > 0, "yes", "no")
    model = DataCleaner(trusted_fraction=0.25).fit(X, y)
    assert model.trusted_.sum() == pytest.approx(50, abs=1)
    assert np.all(model.weights_[model.trusted_] == 1)
    assert len(model.theta_) == 200 - model.trusted_.sum()
    assert model.score(X, y) > 0.95
    other = DataCleaner(trusted_fraction=0.25, random_state=np.random.RandomState(1)).fit(X, y)
    assert not np.array_equal(other.trusted_, model.trusted_)


def test_three_classes(rng):
    X = rng.standard_normal((240, 3))
    right = X.argmax(axis=1)
    y, wrong = right.copy(), rng.random(160) < 0.2
    y[:160][wrong] = (y[:160][wrong] + 1) % 3
    model = DataCleaner().fit(X[:160], y[:160], X_trusted=X[160:], y_trusted=right[160:])
    assert model.coef_.shape == (3, 3)
    assert roc_auc_score(wrong, -model.weights_) > 0.9


def test_says_what_is_wrong(rng):
    X, y = rng.standard_normal((20, 2)), np.arange(20) % 2
    with pytest.raises(InvalidInputError, match="y_trusted must come with the other trusted array"):
        DataCleaner().fit(X, y, X_trusted=X)
    with pytest.raises(InvalidInputError, match=r"labels that occur in y, \[0, 1\]; got 2"):
        DataCleaner().fit(X, y, X_trusted=X[:1], y_trusted=[2])
    with pytest.raises(InvalidInputError, match=r"y_trusted must be of shape \(2,\)"):
        DataCleaner().fit(X, y, X_trusted=X[:2], y_trusted=[1])
    with pytest.raises(InvalidInputError, match="trusted_fraction must be a number above 0 and below 1; got 1"):
        DataCleaner(trusted_fraction=1).fit(X, y)
    with pytest.raises(InvalidInputError, match="prior must be a number at least 0"):
        DataCleaner(prior=-1).fit(X, y)
    with pytest.raises(InvalidInputError, match="n_samples=2"):
        DataCleaner().fit(X[:2], y[:2])
