"""The log evidence is that of a normal density, and its derivative is its derivative."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from sciml.exceptions import NotPositiveDefiniteError
from sciml.kernels import Gaussian, Matern32, RationalQuadratic, SpectralMixture
from sciml.solvers.gp_regression import evidence
from sciml.solvers.gp_regression.evidence import evidence_with_gradient, factor, floor, log_evidence
from sciml.solvers.gp_regression.parameters import Parameters
from sciml.testing import check_gradient

MIXTURE = SpectralMixture([1.0, 0.5], [[0.3, 0.1], [1.0, -2.0]], [[0.1, 0.2], [0.3, 0.4]])
KERNELS = [
    1.5 * Gaussian(0.4),
    0.7 * Matern32([0.3, 0.9]) + 0.2 * Gaussian(2.0),
    2.0 * RationalQuadratic(0.5, 1.2),
    MIXTURE,
]


def data(rng, n=25, q=1):
    return torch.as_tensor(rng.uniform(0, 1, (n, 2))), torch.as_tensor(rng.standard_normal((n, q)))


@pytest.mark.parametrize("q", [1, 3])
def test_is_the_logarithm_of_a_normal_density(rng, q):
    X, Y = data(rng, q=q)
    kernel = 1.5 * Gaussian(0.4)
    L = factor(X, kernel, 0.1)
    K = kernel(X).numpy() + 0.1 * np.eye(len(X))
    expected = multivariate_normal(np.zeros(len(X)), K).logpdf(Y.numpy().T).sum()
    assert_allclose(log_evidence(L, Y, torch.cholesky_solve(Y, L)), expected, rtol=1e-10)


@pytest.mark.parametrize("noise", [None, 0.2])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_derivative_is_that_of_differences(kernel, noise, rng):
    X, Y = data(rng, q=2)
    p = Parameters(kernel, noise, list(kernel.parameters), X)

    def value(theta):
        return evidence_with_gradient(torch.as_tensor(theta), p, X, Y)[0]

    def gradient(theta):
        return evidence_with_gradient(torch.as_tensor(theta), p, X, Y)[1].numpy()

    assert check_gradient(value, p.given, gradient, step=0.05) < 1e-6


def test_rows_in_blocks_change_nothing(rng, monkeypatch):
    X, Y = data(rng)
    p = Parameters(KERNELS[1], None, list(KERNELS[1].parameters), X)
    _, whole = evidence_with_gradient(torch.as_tensor(p.given), p, X, Y)
    monkeypatch.setattr(evidence, "_BLOCK_BYTES", 8 * 25 * 12 * 7)  # seven rows
    _, parts = evidence_with_gradient(torch.as_tensor(p.given), p, X, Y)
    assert_allclose(parts, whole, rtol=1e-12)


def test_the_floor_makes_a_singular_matrix_pass(rng):
    X = torch.as_tensor(rng.uniform(0, 1e-6, (300, 1)))
    kernel = 3.0 * Gaussian(1.0)
    with pytest.raises(NotPositiveDefiniteError, match="of 300 points with noise variance 0 must be positive definite"):
        factor(X, kernel, 0.0)
    assert bool(torch.isfinite(factor(X, kernel, floor(3.0, 300))).all())
    assert floor(3.0, 300) < 1e-10


def test_the_floor_grows_with_the_rounding_of_many_points():
    eps = np.finfo(float).eps
    assert floor(2.0, 10) == pytest.approx(2e-11)
    assert floor(2.0, 10**5) == pytest.approx(16e5 * eps)
