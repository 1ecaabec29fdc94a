"""Diagonal matrices and multiples of the identity."""

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import Diagonal, ScaledIdentity


def test_wide_ranges_are_exact():
    d = np.array([1e-300, 1.0, 1e300, -3.0])
    A = Diagonal(d)
    np.testing.assert_array_equal(A.solve(d), np.ones(4))
    sign, value = A.slogdet()
    assert (sign, value) == (-1, pytest.approx(np.log(3), abs=1e-12))
    assert not A.posdef


def test_sums_stay_diagonal(rng):
    d, e = rng.standard_normal((2, 4))
    total = Diagonal(d) + Diagonal(e) + ScaledIdentity(4, 2.0)
    assert type(total) is Diagonal
    np.testing.assert_allclose(total.diag(), d + e + 2)
    assert isinstance(total.diag(), np.ndarray)
    assert type(ScaledIdentity(3) + ScaledIdentity(3, 2.0)) is ScaledIdentity


def test_complex_diagonals_conjugate():
    A = Diagonal(np.array([1j, 2.0]))
    np.testing.assert_array_equal(A.H.solve(np.array([-1j, 2.0])), [1, 1])
    np.testing.assert_array_equal(A.rmatvec(np.ones(2)), [-1j, 2])
    assert A.slogdet()[0] == 1j
    B = ScaledIdentity(3, 2j)
    np.testing.assert_array_equal(B.H @ np.ones(3), [-2j] * 3)
    np.testing.assert_array_equal(B.H.solve(np.ones(3)), [0.5j] * 3)
    assert B.slogdet()[0] == pytest.approx(-1j)


def test_a_batch_of_multiples():
    A = ScaledIdentity(3, torch.tensor([1.0, 2.0]))
    assert A.batch_shape == (2,)
    assert A.logdet().tolist() == pytest.approx([0, 3 * np.log(2)])
    assert A.to_dense().shape == (2, 3, 3)


def test_a_number_is_no_diagonal():
    with pytest.raises(InvalidInputError, match="Use ScaledIdentity"):
        Diagonal(2.0)
    with pytest.raises(InvalidInputError, match="its diagonal entry at 1 is zero"):
        Diagonal([1.0, 0.0]).solve([1.0, 1.0])
