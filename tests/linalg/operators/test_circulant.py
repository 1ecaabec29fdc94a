"""Circulant matrices."""

import numpy as np
import pytest
import scipy.linalg
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import Circulant


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("dtype", [float, complex])
def test_agrees_with_scipy(n, dtype, rng):
    c = rng.standard_normal(n).astype(dtype)
    if dtype is complex:
        c = c + 1j * rng.standard_normal(n)
    A, M = Circulant(c), scipy.linalg.circulant(c)
    b = rng.standard_normal(n)
    np.testing.assert_allclose(A.to_dense(), M)
    np.testing.assert_allclose(A.solve(b), np.linalg.solve(M, b), rtol=1e-9)
    np.testing.assert_allclose(A.H.solve(b), np.linalg.solve(M.conj().T, b), rtol=1e-9)
    sign, value = A.slogdet()
    wanted = np.linalg.slogdet(M)
    assert value == pytest.approx(wanted[1], abs=1e-12)
    assert sign == pytest.approx(wanted[0], abs=1e-9)
    assert np.isrealobj(A @ b) == (dtype is float)


def test_a_million_unknowns(rng):
    n = 10**6
    c = np.zeros(n)
    c[[0, 1, -1]] = 2.5, -1, -1
    A, x = Circulant(c), rng.standard_normal(n)
    assert A.posdef
    np.testing.assert_allclose(A.solve(A @ x), x, atol=1e-13)
    # The product of 2.5 - 2 cos over all frequencies is (2^n + 2^-n - 2): roots 2 and 1/2
    assert A.logdet() == pytest.approx(n * np.log(2), rel=1e-12)


def test_flags_are_seen_from_the_column():
    assert Circulant(np.array([3.0, 1.0, 1.0])).posdef
    assert Circulant(np.array([1.0, 3.0, 3.0])).symmetric
    assert not Circulant(np.array([1.0, 3.0, 3.0])).posdef
    assert not Circulant(np.array([3.0, 1.0, 0.0])).symmetric
    assert Circulant(np.array([3.0, 1j, -1j])).posdef


def test_a_missing_frequency_is_named():
    with pytest.raises(InvalidInputError, match="its eigenvalue at frequency 2 of 4 vanishes"):
        Circulant(np.array([2.0, 1.0, 0.0, 1.0])).solve(np.ones(4))
    with pytest.raises(InvalidInputError, match="c must have shape"):
        Circulant(torch.zeros(()))
