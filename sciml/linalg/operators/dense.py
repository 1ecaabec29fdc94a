"""The matrix that is there as numbers, batched: products, Cholesky or LU solves, determinants.

Notation  A (..., m, n).
Cost      m n a product; n^3 / 3 or 2 n^3 / 3 the first solve, then n^2 each.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.operators.base import LinearOperator
from sciml.linalg.operators.direct import DenseFactor, require_dense


def tensors(*arrays, names):
    """Return arrays as tensors of one dtype and device, and the kind that the operator is of."""
    entered, _ = enter(*arrays, names=names, check_finite=True)
    return entered, "torch" if any(isinstance(a, torch.Tensor) for a in arrays) else "numpy"


class Dense(LinearOperator):
    """A matrix as an operator.

    Parameters
    ----------
    A : array, shape (..., m, n)
        Real or complex; leading axes are a batch.
    symmetric, posdef : bool
        Claims; False by default. Positive definite matrices are solved by Cholesky, others by LU.
    check : bool
        Test the claims on random vectors; False by default.
    name : str
        For messages; "A" by default.

    Raises
    ------
    InvalidInputError
        If `A` is no matrix, holds a NaN or infinity, or a claim does not hold.

    Examples
    --------
    >>> import numpy as np
    >>> A = Dense(np.array([[2.0, 1.0], [1.0, 2.0]]), posdef=True)
    >>> A.solve(np.array([3.0, 3.0]))
    array([1., 1.])
    """

    _fields = ("A",)

    def __init__(self, A, *, symmetric=False, posdef=False, check=False, name="A"):
        (A,), kind = tensors(A, names=(name,))
        if A.ndim < 2:
            raise InvalidInputError(
                f"{name} must be a matrix (..., m, n); got shape {tuple(A.shape)}. Use Diagonal for a diagonal."
            )
        self.A = A
        flags = {"symmetric": symmetric, "posdef": posdef}
        super().__init__(A.shape[-2:], dtype=A.dtype, device=A.device, batch_shape=A.shape[:-2], kind=kind, **flags)
        if check:
            self.check_flags()

    def _apply(self, X):
        dtype = torch.promote_types(self.A.dtype, X.dtype)
        return self.A.to(dtype) @ X.to(dtype)

    def _apply_adjoint(self, X):
        dtype = torch.promote_types(self.A.dtype, X.dtype)
        return self.A.mH.to(dtype) @ X.to(dtype)

    def _to_dense(self):
        return self.A

    def _rows(self, start, stop):
        return self.A[..., start:stop, :]

    def _diag(self):
        return torch.diagonal(self.A, dim1=-2, dim2=-1)

    def _factor(self):
        def compute():
            require_dense(self, copies=2)
            return DenseFactor(self.A, self.posdef)

        return self._cached("factor", compute)

    def _direct(self):
        return f"{'Cholesky' if self.posdef else 'LU'}, dense, n={self.shape[0]}"

    def _solve_direct(self, B, adjoint):
        return self._factor().solve(B, adjoint)

    def _condition(self):
        return self._cached("condition", lambda: self._factor().condition())

    def _logdet_direct(self):
        return None  # the generic way: the factorisation, and solves for the gradient
