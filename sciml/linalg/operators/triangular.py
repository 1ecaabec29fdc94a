"""Triangular matrices: substitution, the determinant from the diagonal.

Notation  L (..., n, n), of which one triangle is read.
Cost      n^2 a product or solve.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators.base import LinearOperator
from sciml.linalg.operators.dense import tensors
from sciml.linalg.operators.direct import equilibrated, inverse_norm, refuse_zero


class Triangular(LinearOperator):
    """A triangle of a matrix; what lies on the other side is not read.

    Parameters
    ----------
    A : array, shape (..., n, n)
        Holds the triangle; leading axes are a batch.
    lower : bool
        Which triangle; the lower by default.

    Examples
    --------
    >>> import numpy as np
    >>> Triangular(np.array([[2.0, 9.0], [1.0, 1.0]])).solve(np.array([2.0, 3.0]))
    array([1., 2.])
    """

    _fields = ("A",)

    def __init__(self, A, *, lower=True):
        (A,), kind = tensors(A, names=("A",))
        if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
            raise InvalidInputError(f"A must have shape (..., n, n); got {tuple(A.shape)}. Pass a square matrix.")
        self.A, self.lower = A, bool(lower)
        super().__init__(
            A.shape[-2:],
            dtype=A.dtype,
            device=A.device,
            batch_shape=A.shape[:-2],
            triangular="lower" if lower else "upper",
            kind=kind,
        )

    def _to_dense(self):
        return self.A.tril() if self.lower else self.A.triu()

    def _apply(self, X):
        dtype = torch.promote_types(self.A.dtype, X.dtype)
        return self._to_dense().to(dtype) @ X.to(dtype)

    def _apply_adjoint(self, X):
        dtype = torch.promote_types(self.A.dtype, X.dtype)
        return self._to_dense().mH.to(dtype) @ X.to(dtype)

    def _diag(self):
        return torch.diagonal(self.A, dim1=-2, dim2=-1)

    def _direct(self):
        return f"substitution, n={self.shape[0]}"

    def _solve_direct(self, B, adjoint):
        refuse_zero("diagonal entry", self._diag())
        A = self.A.to(torch.promote_types(self.A.dtype, B.dtype))
        A = A.mH if adjoint else A
        return torch.linalg.solve_triangular(A, B, upper=self.lower == adjoint)

    def _condition(self):
        return self._cached("condition", self._estimate)

    def _estimate(self):
        if self.A.numel() == 0:
            return 1.0
        _, scaled, _ = equilibrated(self._to_dense())

        def substitute(A, upper):
            return lambda B: torch.linalg.solve_triangular(A, B, upper=upper)

        forward, backward = substitute(scaled, not self.lower), substitute(scaled.mH, self.lower)
        return float((scaled.abs().sum(-2).amax(-1) * inverse_norm(forward, backward, scaled)).max())

    def _logdet_direct(self):
        d = refuse_zero("diagonal entry", self._diag())
        return torch.sgn(d).prod(-1), d.abs().log().sum(-1)
