"""Triangular matrices."""

import numpy as np
import pytest
import scipy.linalg

from sciml.exceptions import ConditioningWarning, InvalidInputError
from sciml.linalg.operators import Triangular


@pytest.mark.parametrize("lower", [True, False])
def test_agrees_with_scipy_and_reads_one_side(lower, rng):
    A = rng.standard_normal((6, 6)) + 6 * np.eye(6)
    b = rng.standard_normal(6)
    T = Triangular(A, lower=lower)
    np.testing.assert_allclose(T.solve(b), scipy.linalg.solve_triangular(A, b, lower=lower), rtol=1e-13)
    np.testing.assert_allclose(T.T.solve(b), scipy.linalg.solve_triangular(A, b, trans=1, lower=lower), rtol=1e-13)
    assert T.triangular == ("lower" if lower else "upper")
    assert T.T.triangular == ("upper" if lower else "lower")
    assert T.logdet() == pytest.approx(np.log(np.diag(A)).sum())


def test_the_condition_is_found():
    # Kahan's: the inverse grows like 2^n although the diagonal is one.
    A = np.eye(40) - np.tril(np.ones((40, 40)), -1)
    assert Triangular(A[:10, :10]).solve_run(np.ones(10)).condition == pytest.approx(10 * 2**9, rel=0.5)
    with pytest.warns(ConditioningWarning, match=r"e\+1"):
        Triangular(np.eye(50) - np.tril(np.ones((50, 50)), -1)).solve(np.ones(50))


def test_the_determinant_has_its_sign():
    sign, value = Triangular(np.diag([0.5, -0.25, 4.0])).slogdet()
    assert (sign, value) == (-1, pytest.approx(-np.log(2)))


def test_needs_a_square():
    with pytest.raises(InvalidInputError, match=r"A must have shape \(..., n, n\); got \(2, 3\)"):
        Triangular(np.ones((2, 3)))
