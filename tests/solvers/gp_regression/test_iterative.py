"""The iterative method is the exact one up to the tolerances that it states."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning, InvalidInputError, MemoryBudgetError
from sciml.kernels import Gaussian, Matern32, Matern52
from sciml.solvers.gp_regression import Iterative, fit_gp, iterative


def waves(rng, n, d=2):
    X = rng.uniform(0, 1, (n, d))
    return X, 10 + 3 * np.sin(6 * X[:, 0]) * np.cos(5 * X[:, 1]) + 0.6 * rng.standard_normal(n)


def both(X, y, kernel, options, noise=0.6):
    settings = {"noise": noise, "learn": "none", "random_state": 0}
    one = fit_gp(X, y, kernel, method="exact", **settings)
    return one, fit_gp(X, y, kernel, method="iterative", iterative_options=options, **settings)


@pytest.mark.parametrize(("precision", "tol", "engine"), [("mixed", 1e-6, "auto"), ("float64", 1e-10, "eager")])
def test_equals_the_exact_method_to_the_tolerance(precision, tol, engine, rng):
    X, y = waves(rng, 2000)
    options = Iterative(tol=tol, precision=precision, rank=150, engine=engine)
    one, other = both(X, y, 9.0 * Matern52(0.3), options)
    assert other.converged
    assert other.residual <= 1.1 * tol
    new = rng.uniform(0, 1, (50, 2))
    # |k^T K^{-1} r| <= sqrt(k(x, x)) |r| / s.
    bound = 3 * tol * np.linalg.norm(y - y.mean()) / 0.6
    assert_allclose(other.mean(new), one.mean(new), rtol=0, atol=bound)
    assert abs(other.log_evidence - one.log_evidence) < 5 * other.log_evidence_error
    assert 0 < other.log_evidence_error < 5
    answer = other.predict(new)
    assert_allclose(answer.variance, one.variance(new), rtol=max(2 * answer.variance_error, 1e-9))
    assert answer.variance_error < 0.1


def test_the_residual_that_is_reported_is_the_true_one(rng):
    X, y = waves(rng, 600)
    _, gp = both(X, y, 9.0 * Matern32(0.2), Iterative(rank=50))
    K = 9.0 * Matern32(0.2)(X) + 0.36 * np.eye(600)
    centred = y - y.mean()
    true = np.linalg.norm(centred - K @ gp.weights[:, 0]) / np.linalg.norm(centred)
    assert true <= gp.residual <= 1.1e-6
    assert gp.residual < 1.5 * true + 1e-7  # the rounding of y to float32 is at most 6e-8


def test_several_outputs_share_one_block(rng):
    X, y = waves(rng, 300)
    Y = np.stack([y, -y, y**2], axis=1)
    one, other = both(X, Y, 9.0 * Matern32(0.4), Iterative(rank=60))
    assert_allclose(other.mean(X[:9]), one.mean(X[:9]), atol=1e-3)
    assert abs(other.log_evidence - one.log_evidence) < 5 * other.log_evidence_error


def test_variance_of_the_explained_part_states_its_error(rng, monkeypatch):
    X, y = waves(rng, 1500)
    one, other = both(X, y, 9.0 * Gaussian(0.3), Iterative(rank=100, n_inducing=300))
    monkeypatch.setattr(iterative, "_EXACT_WORK", 0.0)
    new = rng.uniform(0, 1, (200, 2))
    answer = other.predict(new)
    true = one.variance(new)
    # The largest error at 200 points against that at 8 of them.
    assert np.max(np.abs(answer.variance / true - 1)) < 10 * answer.variance_error + 1e-3
    assert answer.variance_error < 0.1
    covariance = other.posterior.covariance(torch.as_tensor(new))
    assert_allclose(np.diag(covariance.numpy()), answer.variance, rtol=1e-6)
    assert_allclose(covariance, one.posterior.covariance(torch.as_tensor(new)), atol=0.05 * true.max())


def test_a_poor_variance_warns(rng, monkeypatch):
    X, y = waves(rng, 500)
    _, gp = both(X, y, 9.0 * Matern32(0.1), Iterative(rank=50, n_inducing=5))
    monkeypatch.setattr(iterative, "_EXACT_WORK", 0.0)
    with pytest.warns(ConvergenceWarning, match=r"variance at 30 points is \d+% off .*Raise n_inducing=5"):
        gp.variance(rng.uniform(0, 1, (30, 2)))


def test_samples_have_the_moments_of_the_posterior(rng):
    X, y = waves(rng, 400)
    one, other = both(X, y, 9.0 * Matern52(0.3), Iterative(rank=60))
    new = rng.uniform(0, 1, (5, 2))
    draws = other.sample(new, 10_000, random_state=1)
    assert_allclose(draws.mean(0), one.mean(new), atol=5 * 0.3 / 100)
    assert_allclose(draws.var(0), one.variance(new), rtol=0.1)


def test_learns_from_parts_of_the_data_and_states_the_error(rng):
    X = rng.uniform(0, 1, (1500, 1))
    y = np.sin(12 * X[:, 0]) + 0.3 * rng.standard_normal(1500)
    options = Iterative(block_size=300, rank=50)
    gp = fit_gp(X, y, Gaussian(), method="iterative", iterative_options=options, random_state=0)
    errors = dict(gp.settings["learned_std"])
    # 1200 numbers seen: the log of a standard deviation has the error 1 / sqrt(2400) = 0.020.
    assert errors["noise_std"] == pytest.approx(0.0204, rel=0.1)
    assert abs(np.log(gp.noise_std / 0.3)) < 4 * errors["noise_std"]


def test_blocks_are_random_and_local_in_turn(rng):
    X, Y = torch.as_tensor(rng.uniform(0, 1, (2000, 2))), torch.zeros(2000, 1)
    parts = iterative.blocks(X, Y, Iterative(n_blocks=4, block_size=100), rng)
    widths = [float((part.amax(0) - part.amin(0)).max()) for part, _ in parts]
    assert [len(part) for part, _ in parts] == [100] * 4
    assert widths[0] > 0.9
    assert widths[2] > 0.9
    assert max(widths[1], widths[3]) < 0.5  # a disc of 100 of 2000 points has the radius 0.13, more at an edge


def test_says_when_it_did_not_converge(rng):
    X, y = waves(rng, 500)
    options = Iterative(rank=2, max_iter=3, n_probes=0)
    with pytest.warns(ConvergenceWarning, match="cg stopped after 3 iterations with criterion .*max_iter"):
        gp = fit_gp(X, y, 9.0 * Matern52(0.3), noise=0.01, learn="none", method="iterative", iterative_options=options)
    assert not gp.converged
    assert gp.residual > 1e-6
    assert np.isnan(gp.log_evidence)


def test_memory_is_stated_before(rng):
    X, y = waves(rng, 500)
    options = Iterative(rank=200)
    with pytest.raises(MemoryBudgetError, match=r"iterative method for 500 points with rank 200 takes .*rank"):
        fit_gp(X, y, Matern52(0.3), noise=0.6, learn="none", method="iterative", iterative_options=options,
               memory="1MiB")  # fmt: skip
    gp = fit_gp(X, y, Matern52(0.3), noise=0.6, learn="none", method="iterative", memory="4MiB", random_state=0)
    assert gp.settings["memory_bytes"] <= 4 * 2**20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_probes": 1}, "n_probes must be 0 or at least 2; got 1"),
        ({"rank": 0}, "rank must be an integer at least 1; got 0"),
        ({"precision": "float32"}, "precision must be one of 'mixed', 'float64'"),
        ({"tol": 0}, "tol must be a number above 0; got 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Iterative(**options)
