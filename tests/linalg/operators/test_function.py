"""Callables and the adapters of SciPy."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.linalg.operators import Function, LinearOperator
from sciml.testing import check_adjoint


def test_the_adjoint_is_derived_from_the_product(rng):
    A = Function(lambda x: torch.cumsum(x, 0)[1:], (4, 5))
    assert check_adjoint(A.matvec, A.rmatvec, 5, 4) < 1e-14
    np.testing.assert_array_equal(A.T @ np.ones(4), [4, 4, 3, 2, 1])


def test_a_wrong_adjoint_is_refused():
    with pytest.raises(InvalidInputError, match="rmatvec must be the adjoint of matvec; .* differ by"):
        Function(lambda x: torch.cumsum(x, 0), (3, 3), lambda y: torch.cumsum(y, 0))
    with pytest.raises(InvalidInputError, match="conjugate"):
        Function(lambda x: 1j * x, (2, 2), lambda y: 1j * y, dtype="complex128")
    Function(lambda x: 1j * x, (2, 2), lambda y: -1j * y, dtype="complex128")


def test_numpy_callables_are_differentiable_in_their_argument(rng):
    M = rng.standard_normal((3, 4))
    A = Function(lambda x: M @ x, (3, 4), lambda y: M.T @ y, kind="numpy")
    x = torch.from_numpy(rng.standard_normal((4, 2))).requires_grad_()
    assert torch.autograd.gradcheck(A.matvec, x)
    assert torch.autograd.gradgradcheck(A.matvec, x)
    B = Function(lambda x: M @ x, (3, 4), kind="numpy")
    with pytest.raises(InvalidInputError, match="A has no adjoint product"):
        B.rmatvec(np.ones(3))


def test_columns_go_one_by_one_or_together(rng):
    seen = []

    def double(x):
        seen.append(tuple(x.shape))
        return 2 * x

    Function(double, (3, 3), symmetric=True, check=False) @ np.ones((3, 2))
    Function(double, (3, 3), symmetric=True, columns="all", check=False) @ np.ones((3, 2))
    assert seen == [(3,), (3,), (3, 2)]


@pytest.mark.parametrize(
    ("make", "error", "complaint"),
    [
        (lambda: Function("f", (2, 2)), InvalidTypeError, "matvec must be callable; got str"),
        (lambda: Function(lambda x: x[:1], (2, 2)) @ np.ones(2), InvalidInputError, r"matvec must return shape \(2,\)"),
        (lambda: Function(lambda x: x.numpy(), (2, 2)) @ np.ones(2), InvalidTypeError, "matvec must return a tensor"),
        (lambda: Function(lambda x: x, (2, 2), dtype="int32"), InvalidInputError, "dtype must be one of"),
        (lambda: Function(lambda x: x, (2, 2)).to(torch.float32), InvalidInputError, "cannot be had in torch.float32"),
    ],
)
def test_says_what_is_wrong(make, error, complaint):
    with pytest.raises(error, match=complaint):
        make()


def test_scipy_solvers_take_our_operators(rng):
    R = rng.standard_normal((8, 8))
    M, b = R @ R.T + np.eye(8), rng.standard_normal(8)
    A = Function(lambda x: torch.from_numpy(M) @ x, (8, 8), symmetric=True)
    x, info = scipy.sparse.linalg.cg(A.as_scipy(), b, rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(M, b), rtol=1e-8)
    values = scipy.sparse.linalg.eigsh(A.as_scipy(), k=2, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(M)[-2:], rtol=1e-10)


def test_scipy_operators_without_an_adjoint_still_multiply():
    S = scipy.sparse.linalg.LinearOperator((2, 3), matvec=lambda x: x.ravel()[:2], dtype=np.float32)
    A = LinearOperator.from_scipy(S)
    assert A.dtype == torch.float32
    np.testing.assert_array_equal(A @ np.array([1.0, 2.0, 3.0]), [1, 2])
    with pytest.raises(InvalidInputError, match="no adjoint product"):
        A.T @ np.ones(2)


def test_a_real_callable_gets_real_columns(rng):
    A = torch.as_tensor(rng.standard_normal((3, 3)))
    z = rng.standard_normal(3) + 1j * rng.standard_normal(3)
    for F in (Function(lambda x: A @ x, (3, 3)), Function(lambda x: A.numpy() @ x.real, (3, 3), kind="numpy")):
        np.testing.assert_allclose(F @ z, A.numpy() @ z, rtol=0, atol=1e-14)
