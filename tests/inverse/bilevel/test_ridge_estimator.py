"""Learned ridge: scikit-learn's contract, the best of a fine grid, and no dependence on units."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sciml.estimators import FitConvergenceWarning
from sciml.exceptions import ConvergenceError, InvalidInputError
from sciml.inverse.bilevel.ridge_estimator import BilevelRidge


@parametrize_with_checks([BilevelRidge(cv=3)])
def test_scikit_learn_contract(estimator, check):
    assert check(estimator) is None  # it raises what it finds


def data(rng, n=60, p=8):
    X = rng.standard_normal((n, p)) * np.geomspace(0.1, 10, p) + 3
    return X, X[:, 0] * 10 - X[:, 1] * 3 + 0.3 * rng.standard_normal(n) + 5


def cv_loss(X, y, penalties, splits, scale):
    """Return half the mean square of the validation errors, by scikit-learn, with penalties on scaled features."""
    losses = []
    for fit, validate in splits:
        middle = X[fit].mean(axis=0)
        A, B = ((X[rows] - middle) / scale / np.sqrt(penalties) for rows in (fit, validate))
        model = Ridge(alpha=len(fit), fit_intercept=True).fit(A, y[fit])
        losses.append(0.5 * np.mean((model.predict(B) - y[validate]) ** 2))
    return np.mean(losses)


def test_no_common_penalty_of_a_fine_grid_is_better(rng):
    X, y = data(rng)
    model = BilevelRidge(tol=1e-6).fit(X, y)
    splits, scale = list(KFold(5).split(X)), X.std(axis=0)
    best = min(cv_loss(X, y, np.full(8, a), splits, scale) for a in np.geomspace(1e-5, 1e2, 300))
    own = cv_loss(X, y, np.full(8, model.alpha_), splits, scale)
    assert_allclose(model.bilevel_result_.value * y.var(), own, rtol=1e-9)
    assert own <= best * (1 + 1e-9)
    assert model.bilevel_result_.certified


def test_a_penalty_for_each_feature_is_better_still_and_stationary(rng):
    X, y = data(rng)
    model = BilevelRidge(per_feature=True, tol=1e-7).fit(X, y)
    splits, scale = list(KFold(5).split(X)), X.std(axis=0)
    own = cv_loss(X, y, model.alpha_, splits, scale)
    assert own < 0.999 * cv_loss(X, y, np.full(8, BilevelRidge().fit(X, y).alpha_), splits, scale)
    for j in range(8):
        for factor in (0.9, 1.1):
            nearby = model.alpha_ * np.where(np.arange(8) == j, factor, 1.0)
            at_bound = abs(model.theta_[j]) > 11.9
            assert at_bound or cv_loss(X, y, nearby, splits, scale) >= own * (1 - 1e-9)


def test_the_final_fit_is_ridge_on_all_rows(rng):
    X, y = data(rng)
    model = BilevelRidge().fit(X, y)
    scaler = StandardScaler().fit(X)
    peer = Ridge(alpha=len(X) * model.alpha_).fit(scaler.transform(X), y)
    assert_allclose(model.predict(X), peer.predict(scaler.transform(X)), rtol=1e-9)


@pytest.mark.parametrize("per_feature", [False, True])
def test_units_do_not_matter(per_feature, rng):
    X, y = data(rng)
    model = BilevelRidge(per_feature).fit(X, y)
    for a, b in ((2.0**30, 1.0), (1.0, 2.0**-40)):  # powers of two rescale without rounding
        scaled = BilevelRidge(per_feature).fit(a * X, b * y)
        assert np.array_equal(scaled.theta_, model.theta_)
        assert np.array_equal(scaled.coef_, model.coef_ * b / a)


def test_constant_features_constant_targets_and_single_features(rng):
    X, y = data(rng)
    X[:, 2] = 7.0
    model = BilevelRidge(per_feature=True).fit(X, y)
    assert_allclose(model.coef_[2], 0, atol=1e-12)
    model = BilevelRidge().fit(X, np.full(60, 4.0))
    assert_allclose(model.predict(X), 4.0, rtol=1e-12)
    assert BilevelRidge().fit(X[:, :1], y).coef_.shape == (1,)
    raw = BilevelRidge(fit_intercept=False, standardise=False).fit(X, y)
    assert raw.intercept_ == 0
    peer = Ridge(alpha=60 * raw.alpha_, fit_intercept=False).fit(X, y)
    assert_allclose(raw.coef_, peer.coef_, rtol=1e-8)


def test_one_split_and_nested_cross_validation(rng):
    X, y = data(rng, 120)
    model = BilevelRidge(cv=[(np.arange(80), np.arange(80, 120))]).fit(X, y)
    assert len(model.bilevel_result_.x) == 1
    scores = cross_val_score(clone(model).set_params(cv=3), X, y, cv=3)
    assert np.all(scores > 0.5)


def test_says_when_it_did_not_converge(rng):
    X, y = data(rng)
    with pytest.warns(FitConvergenceWarning, match="BilevelRidge ended with status 'max_iter' after 1 steps"):
        BilevelRidge(per_feature=True, max_iter=1).fit(X, y)
    with pytest.raises(ConvergenceError, match="'max_iter'"):
        BilevelRidge(per_feature=True, max_iter=1, on_failure="raise").fit(X, y)
    assert BilevelRidge(per_feature=True, max_iter=1, on_failure="ignore").fit(X, y).n_iter_ == 1
    with pytest.raises(InvalidInputError, match="cv=5 and n_samples=1"):
        BilevelRidge().fit(X[:1], y[:1])
