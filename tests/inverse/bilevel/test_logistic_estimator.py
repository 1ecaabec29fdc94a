"""Learned logistic regression: scikit-learn's contract, the best of a fine grid, one penalty for each weight."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from sciml.estimators import FitConvergenceWarning
from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.logistic_estimator import BilevelLogistic


@parametrize_with_checks([BilevelLogistic(cv=2)])
def test_scikit_learn_contract(estimator, check):
    assert check(estimator) is None  # it raises what it finds


def data(rng, n=120, p=6, classes=2):
    X = rng.standard_normal((n, p))
    scores = np.stack([X[:, k] + rng.standard_normal(n) for k in range(classes)], 1)
    return (X - X.mean(axis=0)) / X.std(axis=0), np.array(["ab", "cd", "ef"])[scores.argmax(axis=1)]


def test_no_common_penalty_of_a_fine_grid_is_better(rng):
    X, y = data(rng)
    model = BilevelLogistic(fit_intercept=False, tol=1e-6).fit(X, y)
    losses = []
    for a in np.geomspace(1e-3, 1, 20):
        each = []
        for fit, validate in StratifiedKFold(5).split(X, y):
            peer = LogisticRegression(C=1 / (a * len(fit)), fit_intercept=False, tol=1e-10).fit(X[fit], y[fit])
            each.append(log_loss(y[validate], peer.predict_proba(X[validate])))
        losses.append(np.mean(each))
    assert model.bilevel_result_.value <= min(losses) * (1 + 1e-9)
    assert_allclose(model.bilevel_result_.value, min(losses), rtol=1e-2)
    peer = LogisticRegression(C=1 / (model.alpha_ * len(X)), fit_intercept=False, tol=1e-10).fit(X, y)
    assert_allclose(model.coef_, peer.coef_, rtol=0, atol=1e-6)
    assert_allclose(model.predict_proba(X), peer.predict_proba(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_more_penalties_fit_the_folds_better(classes, rng):
    X, y = data(rng, 90, classes=classes)
    one, feature, weight = (BilevelLogistic(word).fit(X, y) for word in ("single", "feature", "weight"))
    losses = [model.bilevel_result_.value for model in (one, feature, weight)]
    assert losses[1] < losses[0]
    assert losses[2] <= losses[0]
    rows = 1 if classes == 2 else 3
    assert one.coef_.shape == feature.coef_.shape == weight.coef_.shape == (rows, 6)
    assert one.intercept_.shape == (rows,)
    assert feature.alpha_.shape == (6,)
    assert weight.alpha_.shape == ((6,) if classes == 2 else (3, 6))
    for model in (one, feature, weight):
        assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-12)
        assert model.score(X, y) > 0.6
        best = model.classes_[model.predict_proba(X).argmax(axis=1)]
        assert np.array_equal(best, model.predict(X))


def test_scales_and_shifts_of_features_do_not_matter():
    X, y = load_wine(return_X_y=True)
    model = BilevelLogistic(cv=3).fit(X, y)
    other = BilevelLogistic(cv=3).fit(1e6 * X - 5e5, y)
    assert_allclose(other.theta_, model.theta_, rtol=0, atol=1e-6)
    assert_allclose(other.predict_proba(1e6 * X - 5e5), model.predict_proba(X), rtol=0, atol=1e-6)
    assert model.score(X, y) > 0.97


def test_rare_classes_constant_features_and_nested_cross_validation(rng):
    X, y = data(rng)
    y[:1] = "rare"
    X[:, 3] = 2.0
    model = BilevelLogistic("feature", cv=2).fit(X, y)
    assert model.coef_.shape == (3, 6)
    assert_allclose(model.coef_[:, 3], 0, atol=1e-12)
    assert np.isfinite(model.predict_proba(X)).all()
    X, y = data(rng)
    assert cross_val_score(BilevelLogistic(cv=2), X, y, cv=2).mean() > 0.6


def test_says_what_is_wrong_and_when_it_did_not_converge(rng):
    X, y = data(rng)
    with pytest.raises(InvalidInputError, match="at least two classes; got one class"):
        BilevelLogistic().fit(X, np.zeros(len(X)))
    with pytest.raises(InvalidInputError, match="Did you mean 'weight'"):
        BilevelLogistic("weights").fit(X, y)
    with pytest.raises(InvalidInputError, match="intercept_penalty must be a number above 0; got 0"):
        BilevelLogistic(intercept_penalty=0).fit(X, y)
    with pytest.warns(FitConvergenceWarning, match="BilevelLogistic ended with status 'max_iter' after 1 steps"):
        BilevelLogistic("feature", max_iter=1).fit(X, y)
