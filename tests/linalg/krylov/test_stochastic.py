"""Estimates from random vectors lie within their standard errors, which a preconditioner makes small."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg import jacobi, nystrom, pivoted_cholesky, stochastic_logdet, stochastic_trace
from tests.linalg.krylov.systems import gaussian_kernel, spd, symmetric


def kernel_system(rng, n=200, noise=1e-2):
    return gaussian_kernel(rng.random((n, 2)), 0.3) + noise * np.eye(n)


def test_the_logdet_lies_within_its_error_in_most_cases(rng):
    A = spd(60, 1e2, rng)
    truth = 60 * np.log(10)  # the mean of the logarithms is log(10)
    scores = []
    for seed in range(30):
        found = stochastic_logdet(A, n_probes=12, random_state=seed)
        scores.append((found.value - truth) / found.standard_error)
    assert np.mean(np.abs(scores) < 2) > 0.8
    assert abs(np.mean(scores)) < 4 / np.sqrt(30)  # no bias
    assert np.std(scores) > 0.5  # and the error is no excuse


def test_a_multiple_of_the_identity_is_exact(backend):
    found = stochastic_logdet(backend.array(3.0 * np.eye(7)), random_state=0)
    assert_allclose(backend.numpy(found.value), 7 * np.log(3), rtol=1e-12)
    assert found.standard_error < 1e-12
    assert found.n_iter == 1


@pytest.mark.parametrize("make", [nystrom, pivoted_cholesky])
def test_a_preconditioner_adds_its_determinant_and_shrinks_the_error(make, rng):
    A = kernel_system(rng)
    truth = np.linalg.slogdet(A)[1]
    plain, better = stochastic_logdet(A, random_state=0), stochastic_logdet(A, M=make(A, 1e-2), random_state=0)
    assert better.standard_error < plain.standard_error / 20
    assert abs(better.value - truth) < 5 * better.standard_error + 1e-4
    assert better.n_iter < plain.n_iter / 3
    assert better.preconditioner.startswith(make.__name__)


def test_complex_batches_and_few_steps(rng):
    A = spd(50, 10, rng, complex_=True)
    found = stochastic_logdet(A, n_probes=40, random_state=0)
    assert abs(found.value - np.linalg.slogdet(A)[1]) < 4 * found.standard_error
    both = stochastic_logdet(np.stack([A, 2 * A]), n_probes=40, random_state=0)
    assert_allclose(both.value, [found.value, found.value + 50 * np.log(2)], rtol=1e-6)
    few = stochastic_logdet(spd(50, 1e4, rng), n_steps=8, random_state=0)
    assert few.n_iter == 8
    assert few.quadrature_error > found.quadrature_error


def test_the_derivative_is_the_trace_of_the_inverse_times_the_change(rng):
    K = torch.from_numpy(kernel_system(rng, 100, 0.0))
    noise = torch.tensor(1e-2, dtype=torch.float64, requires_grad=True)
    A = K + noise * torch.eye(100, dtype=K.dtype)
    M = pivoted_cholesky(A.detach(), 1e-2)
    found = stochastic_logdet(A, n_probes=64, M=M, random_state=0)
    (slope,) = torch.autograd.grad(found.value, noise)
    assert_allclose(slope, torch.linalg.inv(A.detach()).trace(), rtol=2e-3)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    found = stochastic_logdet(scale * A.detach(), random_state=0)
    (slope,) = torch.autograd.grad(3 * found.value, scale)
    assert_allclose(slope, 3 * 100 / 2, rtol=1e-5)  # exact but for the tolerance of the solves


def test_units_shift_the_logdet_exactly(rng):
    A = spd(40, 50, rng)
    one, scaled = (stochastic_logdet(c * A, random_state=0) for c in (1.0, 2.0**40))
    assert one.n_iter == scaled.n_iter
    assert_allclose(scaled.value - one.value, 40 * 40 * np.log(2), rtol=1e-12)


def test_what_has_no_logdet_is_named(rng):
    with pytest.raises(NotPositiveDefiniteError, match="A must be positive definite for a log-determinant: A is not"):
        stochastic_logdet(np.diag([1.0, -1.0, 2.0]), random_state=0)
    with pytest.raises(InvalidInputError, match="M must be a Preconditioner.*got ndarray"):
        stochastic_logdet(np.eye(3), M=np.eye(3))
    with pytest.raises(InvalidInputError, match=r"A must be square; got shape \(2, 3\)"):
        stochastic_logdet(np.ones((2, 3)))
    with pytest.raises(InvalidInputError, match="n_probes must be an integer at least 2; got 1"):
        stochastic_logdet(np.eye(3), n_probes=1)
    assert_allclose(stochastic_logdet(np.eye(3), M=jacobi(np.eye(3)), random_state=0).value, 0, atol=1e-12)


def test_the_trace_is_exact_on_low_rank_and_within_its_error_otherwise(rng, backend):
    F = rng.standard_normal((80, 5))
    low = stochastic_trace(backend.array(F @ F.T), n_probes=30, random_state=0)
    assert_allclose(backend.numpy(low.value), (F**2).sum(), rtol=1e-10)
    A = symmetric(1 / np.arange(1, 151.0), rng)
    scores = []
    for seed in range(30):
        found = stochastic_trace(A, n_probes=30, random_state=seed)
        scores.append((found.value - np.trace(A)) / found.standard_error)
    assert np.mean(np.abs(scores) < 2.5) > 0.8
    assert abs(np.mean(scores)) < 5 / np.sqrt(30)
    assert stochastic_trace(np.diag([1.0, 2.0]), random_state=0).standard_error == 0.0
    with pytest.raises(InvalidInputError, match="n_probes must be an integer at least 6"):
        stochastic_trace(A, n_probes=3)


def test_a_matrix_that_is_not_symmetric_is_refused():
    with pytest.raises(InvalidInputError, match="A must equal its conjugate transpose"):
        stochastic_logdet(np.triu(np.ones((5, 5))), random_state=0)
