"""Toeplitz algebra of the published objective against dense matrices."""

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import NotPositiveDefiniteError
from sciml.solvers.gp_pde.gphm_kernel import mixture
from sciml.solvers.gp_pde.gphm_toeplitz import factor, log_determinant, product, solve, sums_of_inverse, toeplitz


@pytest.fixture
def column():
    """A well conditioned covariance of seven points."""
    return torch.tensor([2.0, 0.7, -0.3, 0.2, 0.1, -0.05, 0.02], dtype=torch.float64)


def smooth_column(n=300, jitter=1e-6):
    """A covariance as ill-conditioned as the method meets: 1e8."""
    one = torch.ones(4, dtype=torch.float64)
    (c,) = mixture("gm", torch.linspace(0, 6, n, dtype=torch.float64), one / 4, one, 5 * one.cumsum(0), (0,))
    c[0] += jitter
    return c


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_dense_and_products_are_those_of_scipy(column, sign, rng):
    column[0] *= sign > 0
    dense = scipy.linalg.toeplitz(column, sign * column)
    assert_allclose(toeplitz(column, sign), dense, rtol=0)
    X = rng.standard_normal((4, 7, 3))
    found = product(column, torch.as_tensor(X), 1, sign)
    assert_allclose(found, np.einsum("ij,ajb->aib", dense, X), rtol=0, atol=1e-14)


@pytest.mark.parametrize("axis", [0, 1])
def test_solves_along_an_axis(column, axis, rng):
    X = torch.as_tensor(rng.standard_normal((7, 7)))
    found = solve(factor(column), column, X, axis)
    assert_allclose(product(column, found, axis), X, rtol=0, atol=1e-13)


def test_log_determinant_is_that_of_numpy(column):
    assert log_determinant(factor(column), column).item() == pytest.approx(np.linalg.slogdet(toeplitz(column))[1])


def test_gradients_are_exact(column, rng):
    X = torch.as_tensor(rng.standard_normal((7, 2))).requires_grad_()
    c = column.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c, X: solve(factor(c), c, X), (c, X))
    assert torch.autograd.gradcheck(lambda c: log_determinant(factor(c), c), (c,))
    assert torch.autograd.gradcheck(lambda c, X: product(c, X, 0, -1.0), (c, X))


def test_sums_of_the_inverse_hold_where_the_matrix_is_ill_conditioned():
    c = smooth_column()
    root = factor(c)
    inverse = torch.cholesky_inverse(root)
    first = torch.zeros(len(c), 1, dtype=torch.float64)
    first[0] = 1
    found = sums_of_inverse(torch.cholesky_solve(first, root)[:, 0])
    truth = torch.stack([inverse.diagonal(-k).sum() for k in range(len(c))])
    assert np.linalg.cond(toeplitz(c)) > 1e7
    assert_allclose(found, truth, rtol=0, atol=1e-7 * float(truth.abs().max()))


def test_a_covariance_that_is_none_is_refused():
    with pytest.raises(NotPositiveDefiniteError, match="covariance of 3 grid values .* pivot 2 .* Raise jitter"):
        factor(torch.tensor([1.0, 1.1, 0.0], dtype=torch.float64))
