"""Diagonal matrices and multiples of the identity.

Notation  d (..., n) the diagonal; c (...) the multiple.
Cost      n for everything.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators.base import LinearOperator
from sciml.linalg.operators.dense import tensors
from sciml.linalg.operators.direct import refuse_zero
from sciml.validation import check_number


class Diagonal(LinearOperator):
    """diag(d).

    Parameters
    ----------
    d : array, shape (..., n)
        The diagonal; leading axes are a batch. Whether it is positive is seen from the entries.

    Examples
    --------
    >>> import numpy as np
    >>> A = Diagonal(np.array([1.0, 4.0]))
    >>> A.solve(np.array([1.0, 2.0])), A.posdef
    (array([1. , 0.5]), True)
    """

    _fields = ("d",)

    def __init__(self, d):
        (d,), kind = tensors(d, names=("d",))
        if d.ndim < 1:
            raise InvalidInputError("d must have shape (..., n); got a number. Use ScaledIdentity(n, c).")
        self.d = d
        n = d.shape[-1]
        real = not d.is_complex()
        posdef = real and bool((d > 0).all())
        flags = {"symmetric": real, "posdef": posdef}
        super().__init__((n, n), dtype=d.dtype, device=d.device, batch_shape=d.shape[:-1], kind=kind, **flags)

    def _apply(self, X):
        return self.d[..., :, None] * X

    def _apply_adjoint(self, X):
        return self.d.conj()[..., :, None] * X

    def _diag(self):
        return self.d

    def _to_dense(self):
        return torch.diag_embed(self.d)

    def _direct(self):
        return f"division by the diagonal, n={self.shape[0]}"

    def _solve_direct(self, B, adjoint):
        d = refuse_zero("diagonal entry", self.d)
        return B / (d.conj() if adjoint else d)[..., :, None]

    def _logdet_direct(self):
        d = refuse_zero("diagonal entry", self.d)
        return torch.sgn(d).prod(-1), d.abs().log().sum(-1)

    def _plus(self, other):
        if not isinstance(other, (Diagonal, ScaledIdentity)) or other.shape != self.shape:
            return None
        result = Diagonal(self.d + other._diag())
        result.kind = "torch" if "torch" in (self.kind, other.kind) else "numpy"
        return result


class ScaledIdentity(LinearOperator):
    """c times the identity.

    Parameters
    ----------
    n : int
        Size.
    c : float or array, shape batch_shape
        The multiple; 1 by default.
    dtype : torch.dtype or None
        None (the default) takes that of `c`, float64 for a Python number.

    Examples
    --------
    >>> import numpy as np
    >>> ScaledIdentity(3, 2.0).logdet().round(4)
    np.float64(2.0794)
    """

    _fields = ("c",)

    def __init__(self, n, c=1.0, *, dtype=None):
        n = check_number("n", n, low=0, integer=True)
        (c,), kind = tensors(c, names=("c",))
        self.c = c if dtype is None else c.to(dtype)
        real = not c.is_complex()
        posdef = real and bool((c > 0).all())
        flags = {"symmetric": real, "posdef": posdef}
        super().__init__((n, n), dtype=self.c.dtype, device=c.device, batch_shape=c.shape, kind=kind, **flags)

    def _apply(self, X):
        return self.c[..., None, None] * X

    def _apply_adjoint(self, X):
        return self.c.conj()[..., None, None] * X

    def _diag(self):
        return self.c[..., None].expand(*self.c.shape, self.shape[0])

    def _to_dense(self):
        return torch.diag_embed(self._diag())

    def _direct(self):
        return "division by a number"

    def _solve_direct(self, B, adjoint):
        c = refuse_zero("factor", self.c)
        return B / (c.conj() if adjoint else c)[..., None, None]

    def _logdet_direct(self):
        c, n = refuse_zero("factor", self.c), self.shape[0]
        return torch.sgn(c) ** n, n * c.abs().log()

    def _plus(self, other):
        if not isinstance(other, ScaledIdentity) or other.shape != self.shape:
            return None
        result = ScaledIdentity(self.shape[0], self.c + other.c)
        result.kind = "torch" if "torch" in (self.kind, other.kind) else "numpy"
        return result
