"""Learned lasso and elastic net: scikit-learn's contract, the best of a fine grid, and no dependence on units."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import ElasticNet, Lasso, LassoCV
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sciml.estimators import FitConvergenceWarning
from sciml.inverse.bilevel.sparse_estimator import BilevelElasticNet, BilevelLasso


@parametrize_with_checks([BilevelLasso(cv=3)])
def test_scikit_learn_contract(estimator, check):
    assert check(estimator) is None  # it raises what it finds


def data(rng, n=60, p=20):
    X = StandardScaler().fit_transform(rng.standard_normal((n, p)))
    return X, X[:, :4] @ np.array([3.0, -2.0, 1.0, 1.0]) + 2 * rng.standard_normal(n)


def test_is_as_good_as_the_best_of_a_fine_grid(rng):
    X, y = data(rng)
    model = BilevelLasso(tol=1e-6).fit(X, y)
    grid = LassoCV(alphas=np.geomspace(1e-3, 3, 400), cv=5, tol=1e-8).fit(X, y)
    own = 2 * model.bilevel_result_.value * y.var()
    # Columns are scaled by the whole here and there, so both see the same folds.
    assert own <= grid.mse_path_.mean(axis=1).min() * (1 + 1e-9)
    assert_allclose(own, grid.mse_path_.mean(axis=1).min(), rtol=1e-3)
    assert model.bilevel_result_.certified


def test_final_fits_are_those_of_scikit_learn(rng):
    X, y = data(rng)
    model = BilevelLasso().fit(X, y)
    peer = Lasso(alpha=model.alpha_, tol=1e-12, max_iter=100_000).fit(X, y)
    assert_allclose(model.coef_, peer.coef_, rtol=0, atol=1e-6)
    assert np.array_equal(model.coef_ == 0, peer.coef_ == 0)
    assert_allclose(model.predict(X), peer.predict(X), rtol=0, atol=1e-5)
    model = BilevelElasticNet().fit(X, y)
    peer = ElasticNet(alpha=model.alpha_, l1_ratio=model.l1_ratio_, tol=1e-12, max_iter=100_000).fit(X, y)
    assert_allclose(model.coef_, peer.coef_, rtol=0, atol=1e-6)


def test_more_penalties_fit_the_folds_better(rng):
    X, y = data(rng, 50, 80)
    one, each, net = (m.fit(X, y) for m in (BilevelLasso(), BilevelLasso(weighted=True), BilevelElasticNet()))
    losses = [m.bilevel_result_.value for m in (one, each, net)]
    assert losses[1] < 0.95 * losses[0]
    assert losses[2] <= losses[0] * (1 + 1e-3)
    assert each.alpha_.shape == (80,)
    assert set(each.coef_.nonzero()[0]) <= set(np.flatnonzero(each.alpha_))
    assert 0 < net.l1_ratio_ <= 1


@pytest.mark.parametrize("model", [BilevelLasso(), BilevelLasso(weighted=True), BilevelElasticNet()], ids=str)
def test_units_do_not_matter(model, rng):
    X, y = data(rng)
    theta, coef = model.fit(X, y).theta_, model.coef_
    for a, b in ((2.0**30, 1.0), (1.0, 2.0**-40)):  # powers of two rescale without rounding
        model.fit(a * X, b * y)
        assert np.array_equal(model.theta_, theta)
        assert np.array_equal(model.coef_, coef * b / a)


def test_noise_constant_features_and_constant_targets(rng):
    X, _ = data(rng)
    noise = BilevelLasso().fit(X, rng.standard_normal(60))
    assert np.count_nonzero(noise.coef_) <= 5
    X[:, 0] = 3.0
    y = X[:, 1] + 0.1 * rng.standard_normal(60)
    assert BilevelLasso(weighted=True).fit(X, y).coef_[0] == 0
    for model in (BilevelLasso(), BilevelElasticNet()):
        model.fit(X, np.full(60, -2.0))
        assert np.array_equal(model.predict(X), np.full(60, -2.0))


def test_says_when_it_did_not_converge(rng):
    X, y = data(rng)
    with pytest.warns(FitConvergenceWarning, match="BilevelLasso ended with status 'max_iter' after 1 steps"):
        BilevelLasso(weighted=True, max_iter=1).fit(X, y)
