"""The answer: moments of its samples, calibration of its bands, saving, copying, derivatives."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import sciml
from sciml.exceptions import InvalidInputError, MemoryBudgetError
from sciml.kernels import Gaussian, Matern32, Matern52
from sciml.solvers.gp_regression import Iterative, fit_gp
from sciml.testing import check_gradient


@pytest.fixture
def gp(rng):
    X = rng.uniform(0, 3, (25, 2))
    y = 5 + np.sin(X[:, 0]) + 0.1 * rng.standard_normal(25)
    return fit_gp(X, y, 2.0 * Matern52([0.9, 2.0]), noise=0.1, learn="none")


def test_samples_have_the_moments_of_the_posterior(gp, rng):
    new = rng.uniform(0, 3, (6, 2))
    draws = gp.sample(new, 20_000, random_state=1)
    answer = gp.predict(new)
    # Standard errors: std / sqrt(20000) of a mean, std^2 sqrt(2 / 20000) of a variance; five of them.
    assert np.all(np.abs(draws.mean(0) - answer.mean) < 5 * answer.std / np.sqrt(20_000))
    assert_allclose(draws.var(0), answer.variance, rtol=5 * np.sqrt(2 / 20_000))
    assert_allclose(np.cov(draws.T), gp.posterior.covariance(torch.as_tensor(new)), atol=0.05 * answer.variance.max())
    assert_array_equal(gp.sample(new, 3, random_state=1), gp.sample(new, 3, random_state=1))
    assert gp.sample(new).shape == (1, 6)


def test_samples_go_through_data_without_noise(rng):
    X, y = rng.uniform(0, 3, (10, 1)), rng.standard_normal(10)
    gp = fit_gp(X, y, Matern32(0.5), noise=0, learn="none")
    assert_allclose(gp.sample(X, 3, 0), np.tile(y, (3, 1)), atol=1e-6)


def test_bands_hold_what_they_promise(rng):
    # Truths drawn from the model: standardised errors are standard normal, 95 % lie within 1.96.
    X, kernel = rng.uniform(0, 5, (60, 1)), 2.0 * Gaussian(0.6)
    new, inside, standard = rng.uniform(0, 5, (20, 1)), [], []
    root = np.linalg.cholesky(kernel(np.r_[X, new]) + 1e-8 * np.eye(80))
    for _ in range(100):
        f = root @ rng.standard_normal(80)
        y = f[:60] + 0.3 * rng.standard_normal(60)
        answer = fit_gp(X, y, kernel, noise=0.3, learn="none", prior_mean=0.0).predict(new)
        standard.append((f[60:] - answer.mean) / answer.std)
        observed = f[60:] + 0.3 * rng.standard_normal(20)
        inside.append(np.abs(observed - answer.mean) < 1.96 * answer.observation_std)
    # 2000 values of which about 600 are independent: standard errors of 0.03 and 0.01.
    assert np.std(standard) == pytest.approx(1, abs=0.12)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_mean_is_differentiable_in_new_points(gp):
    new = torch.tensor([[0.3, 0.4], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    assert check_gradient(lambda x: gp.mean(x).sum(), new) < 1e-6


def test_fitted_values_are_the_mean_at_the_points(gp):
    assert_allclose(gp.fitted[:, 0], gp.mean(gp.points), rtol=1e-10)


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_saved_pickled_and_copied_it_says_the_same(method, rng, tmp_path):
    X, y, new = rng.uniform(0, 3, (60, 2)), rng.standard_normal(60), rng.uniform(0, 3, (5, 2))
    options = Iterative(rank=20, n_inducing=30)
    gp = fit_gp(X, y, 2.0 * Gaussian([0.9, 2.0]) + 0.1 * Matern32(3.0), noise=0.5, learn="none", method=method,
                iterative_options=options, random_state=0)  # fmt: skip
    for other in (sciml.load(gp.save(tmp_path / "gp.npz")), pickle.loads(pickle.dumps(gp)), copy.deepcopy(gp)):
        assert_allclose(other.mean(new), gp.mean(new), rtol=1e-14)
        assert_allclose(other.variance(new), gp.variance(new), rtol=1e-6)
        assert repr(other) == repr(gp)
        assert other.settings == gp.settings


def test_to_xarray_has_axes_and_units(gp):
    dataset = gp.to_xarray()
    assert dataset.points.dims == ("point", "coordinate")
    assert dataset.targets.attrs["units"] == "units of y"
    assert dataset.attrs["noise_std"] == pytest.approx(0.1)


def test_repr_says_what_counts(gp):
    assert repr(gp).startswith("<GPRegression CONVERGED n=25 kernel=2 * Matern52(lengthscale=[0.9 2. ]) noise_std=0.1 ")


def test_wrong_points_are_named(gp):
    with pytest.raises(InvalidInputError, match=r"X must be real of shape \(m, 2\).*got \(4, 3\)"):
        gp.mean(np.zeros((4, 3)))
    with pytest.raises(InvalidInputError, match=r"got \(2,\)"):
        gp.predict(np.zeros(2))
    with pytest.raises(InvalidInputError, match="n_samples must be an integer at least 1; got 0"):
        gp.sample(np.zeros((4, 2)), 0)
    with sciml.config_context(memory="1MiB"), pytest.raises(MemoryBudgetError, match="the covariance of 1000 points"):
        gp.sample(np.zeros((1000, 2)))


def test_no_points_give_nothing(gp):
    answer = gp.predict(np.zeros((0, 2)))
    assert answer.mean.shape == answer.variance.shape == (0,)
