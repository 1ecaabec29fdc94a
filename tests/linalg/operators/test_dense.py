"""Dense matrices: against NumPy and SciPy."""

import numpy as np
import pytest
import scipy.linalg
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import Dense


@pytest.mark.parametrize("posdef", [True, False])
def test_agrees_with_scipy(posdef, rng, backend):
    R = rng.standard_normal((20, 20))
    A, B = (R @ R.T + np.eye(20) if posdef else R), rng.standard_normal((20, 3))
    found = backend.numpy(Dense(A, posdef=posdef).solve(backend.array(B)))
    np.testing.assert_allclose(found, scipy.linalg.solve(A, B), rtol=1e-10)


def test_only_posdef_takes_cholesky():
    A = Dense(np.array([[0.0, 1.0], [1.0, 0.0]]), symmetric=True)
    np.testing.assert_array_equal(A.solve(np.array([1.0, 2.0])), [2, 1])
    assert A.slogdet() == (-1, 0)


def test_batches_broadcast(rng):
    A, b = rng.standard_normal((3, 1, 4, 4)), rng.standard_normal((2, 4, 1))
    found = Dense(A).solve(b)
    assert found.shape == (3, 2, 4, 1)
    np.testing.assert_allclose(A @ found, np.broadcast_to(b, found.shape), atol=1e-10)
    assert Dense(A).logdet.__doc__


def test_gradient_of_the_logarithm_of_the_determinant_is_the_inverse(rng):
    R = torch.from_numpy(rng.standard_normal((300, 300)))  # more than one block of rows
    A = (R @ R.T / 300 + torch.eye(300)).requires_grad_()
    (gradient,) = torch.autograd.grad(Dense(A, posdef=True).logdet(), A)
    torch.testing.assert_close(gradient, torch.linalg.inv(A.detach()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("A", [np.ones(3), 2.0])
def test_needs_a_matrix(A):
    with pytest.raises(InvalidInputError, match="A must be a matrix"):
        Dense(A)
