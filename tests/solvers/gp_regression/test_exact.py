"""The posterior by Cholesky against scikit-learn, dense formulas and repeated data."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as peers

from sciml.exceptions import ConditioningWarning, InvalidInputError
from sciml.kernels import Gaussian, Matern12, Matern32, Matern52, RationalQuadratic
from sciml.solvers.gp_regression import exact, fit_gp

PAIRS = [
    (Gaussian(1.3), peers.RBF(1.3)),
    (Gaussian([1.3, 0.4]), peers.RBF([1.3, 0.4])),
    (Matern12(0.8), peers.Matern(0.8, nu=0.5)),
    (Matern32(0.8), peers.Matern(0.8, nu=1.5)),
    (Matern52(0.8), peers.Matern(0.8, nu=2.5)),
    (RationalQuadratic(0.8, 1.5), peers.RationalQuadratic(0.8, 1.5)),
    (0.5 * Gaussian(1.0) + 2.0 * Matern12(3.0), 0.5 * peers.RBF(1.0) + 2.0 * peers.Matern(3.0, nu=0.5)),
]


@pytest.mark.parametrize(("kernel", "peer"), PAIRS, ids=lambda k: str(k))
def test_equals_scikit_learn(kernel, peer, rng):
    X, y, new = rng.uniform(0, 6, (40, 2)), 3 * rng.standard_normal(40), rng.uniform(-1, 7, (30, 2))
    gp = fit_gp(X, y, 4.0 * kernel, noise=0.3, learn="none", prior_mean=0.0)
    other = GaussianProcessRegressor(4.0 * peer, alpha=0.09, optimizer=None).fit(X, y)
    mean, std = other.predict(new, return_std=True)
    answer = gp.predict(new)
    assert gp.residual < 1e-12
    assert_allclose(answer.mean, mean, rtol=0, atol=1e-8)
    assert_allclose(answer.std, std, rtol=0, atol=1e-8)
    assert_allclose(answer.observation_std**2, std**2 + 0.09, rtol=1e-10)
    assert_allclose(gp.log_evidence, other.log_marginal_likelihood_value_, rtol=0, atol=1e-8)


def test_a_repeated_point_is_a_point_with_half_the_noise_variance(rng):
    X, y = rng.uniform(0, 3, (15, 1)), rng.standard_normal(15)
    new = rng.uniform(0, 3, (9, 1))
    twice = fit_gp(np.r_[X, X], np.r_[y, y], Gaussian(0.5), noise=0.2, learn="none", prior_mean=0.0).predict(new)
    once = fit_gp(X, y, Gaussian(0.5), noise=0.2 / np.sqrt(2), learn="none", prior_mean=0.0).predict(new)
    assert_allclose(twice.mean, once.mean, rtol=1e-9, atol=1e-11)
    assert_allclose(twice.variance, once.variance, rtol=1e-9, atol=1e-12)


def test_without_noise_it_interpolates(rng):
    X = np.sort(rng.uniform(0, 10, (20, 1)), axis=0)
    y = np.sin(X[:, 0])
    gp = fit_gp(X, y, Matern32(1.0), noise=0, learn="none")
    assert_allclose(gp.mean(X), y, atol=1e-10)
    assert_allclose(gp.variance(X), 0, atol=1e-10)
    assert gp.residual < 1e-12


def test_a_smooth_kernel_without_noise_says_what_it_added(rng):
    X = np.linspace(0, 1, 100)[:, None]
    with pytest.warns(ConditioningWarning, match="100 points without noise is singular to rounding; a noise of"):
        gp = fit_gp(X, np.sin(3 * X[:, 0]), Gaussian(1.0), noise=0, learn="none")
    assert 0 < gp.noise_std < 1e-5
    assert gp.settings["jitter"] == pytest.approx(gp.noise_std**2)
    assert_allclose(gp.mean(X), np.sin(3 * X[:, 0]), atol=1e-5)


def test_equal_points_without_noise_are_refused(rng):
    X = rng.uniform(0, 1, (10, 2))
    X[7] = X[3]
    with pytest.raises(InvalidInputError, match=r"noise is 0; rows 3 and 7 are equal"):
        fit_gp(X, np.arange(10.0), Matern12(1.0), noise=0, learn="none")


def test_test_points_in_blocks_change_nothing(rng, monkeypatch):
    X, y, new = rng.uniform(0, 3, (15, 2)), rng.standard_normal(15), rng.uniform(0, 3, (20, 2))
    gp = fit_gp(X, y, Gaussian(0.5), noise=0.2, learn="none")
    whole = gp.variance(new)
    monkeypatch.setattr(exact, "_TEST_BLOCK", 15 * 3)
    assert_allclose(gp.variance(new), whole, rtol=1e-12)


def test_root_of_a_covariance_that_rounding_made_indefinite():
    v = torch.ones(50, 1, dtype=torch.float64)
    R = exact.root(v @ v.T, 1.0)
    assert_allclose(R @ R.T, v @ v.T, atol=1e-12)
