"""The maximum of the evidence: found from several starts, not beaten by a peer, with its standard error."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

from sciml.exceptions import ConvergenceWarning
from sciml.kernels import Gaussian, Matern32
from sciml.solvers.gp_regression import fit_gp
from sciml.solvers.gp_regression.learning import Objective, standard_errors
from sciml.solvers.gp_regression.parameters import Parameters


def waves(rng, n=60, noise=0.2):
    X = rng.uniform(0, 6, (n, 2))
    return X, 5 * np.sin(X[:, 0]) * np.cos(X[:, 1]) + noise * rng.standard_normal(n)


def test_no_direction_gains(rng):
    X, y = waves(rng)
    gp = fit_gp(X, y, Gaussian(), random_state=0)
    assert gp.converged
    assert gp.history["criterion"][-1] <= 1e-4
    for _ in range(6):
        a, b, c = np.exp(0.02 * rng.standard_normal(3))
        variance, length = (float(v) for v in gp.kernel.parameters.values())
        other = fit_gp(X, y, a * variance * Gaussian(b * length), noise=c * gp.noise_std, learn="none")
        assert other.log_evidence < gp.log_evidence


def test_is_not_below_scikit_learn(rng):
    X, y = waves(rng)
    peer = GaussianProcessRegressor(
        4.0 * RBF(1.0, (1e-3, 1e3)) + WhiteKernel(0.1), n_restarts_optimizer=2, random_state=0
    )
    peer.fit(X, y - y.mean())
    gp = fit_gp(X, y, Gaussian(), random_state=0)
    assert gp.log_evidence >= peer.log_marginal_likelihood_value_ - 1e-5


def test_finds_the_short_length_from_a_start_far_away(rng):
    # From a length of 1e3 the evidence is flat: the data must give a start.
    X = np.linspace(0, 60, 300)[:, None]
    y = np.sin(X[:, 0]) + 0.1 * rng.standard_normal(300)
    gp = fit_gp(X, y, Gaussian(1e3), random_state=0)
    assert gp.noise_std == pytest.approx(0.1, rel=0.2)
    assert float(gp.kernel.parameters["kernel.lengthscale"]) < 5


def test_recovers_the_numbers_of_a_draw(rng):
    X = rng.uniform(0, 10, (500, 1))
    truth = 4.0 * Matern32(0.8)
    y = np.linalg.cholesky(truth(X) + 0.09 * np.eye(500)) @ rng.standard_normal(500)
    gp = fit_gp(X, y, Matern32(), prior_mean=0.0, random_state=0)
    variance, length = (float(v) for v in gp.kernel.parameters.values())
    # Standard errors of the logarithms are about 0.04, 0.35 and 0.2 here.
    assert np.log(gp.noise_std / 0.3) == pytest.approx(0, abs=0.16)
    assert np.log(variance / 4) == pytest.approx(0, abs=1.2)
    assert np.log(length / 0.8) == pytest.approx(0, abs=0.7)


def test_says_when_it_did_not_converge(rng):
    X, y = waves(rng)
    with pytest.warns(ConvergenceWarning, match=r"fit_gp stopped after 1 iterations with criterion .*max_iter"):
        gp = fit_gp(X, y, Gaussian(), max_iter=1, n_starts=1)
    assert not gp.converged
    assert gp.status.name == "MAX_ITER"


def test_only_what_was_named_is_learned(rng):
    X, y = waves(rng)
    gp = fit_gp(X, y, 3.0 * Gaussian(1.7), learn=["variance"], noise=0.25)
    assert float(gp.kernel.parameters["kernel.lengthscale"]) == 1.7
    assert float(gp.kernel.parameters["variance"]) != 3.0
    assert gp.noise_std == pytest.approx(0.25, rel=1e-15)
    assert gp.settings["learned"] == ["variance"]


def test_standard_error_of_a_noise_is_that_of_a_variance_estimate(rng):
    # Without correlation the log of a standard deviation has the standard error 1 / sqrt(2 n).
    n = 400
    X, Y = torch.as_tensor(rng.uniform(0, 1, (n, 1))), torch.as_tensor(rng.standard_normal((n, 1)))
    p = Parameters(1e-8 * Gaussian(1.0), None, [], X)
    theta = np.log([float(Y.square().mean().sqrt())])
    assert_allclose(standard_errors(Objective(p, [(X, Y)]), theta), 1 / np.sqrt(2 * n), rtol=1e-2)


def test_criterion_ignores_what_a_bound_holds_back(rng):
    p = Parameters(1.0 * Gaussian(1.0), None, ["variance"], torch.as_tensor(rng.uniform(0, 1, (9, 1))))
    objective = Objective(p, [(torch.zeros(9, 1), torch.zeros(9, 1))])
    assert objective.criterion(p.given, np.array([0.2, -0.3])) == pytest.approx(0.3)
    assert objective.criterion(p.lower, np.array([0.2, 0.3])) == 0
    assert objective.criterion(p.lower, np.array([-0.2, 0.3])) == pytest.approx(0.2)
