r"""Circulant matrices: diagonal in the Fourier basis.

Notation  c (..., n) first column, A_ij = c_{(i - j) mod n}; F its discrete Fourier transform, the eigenvalues.
Cost      n log n for everything.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators.base import LinearOperator
from sciml.linalg.operators.dense import tensors


class Circulant(LinearOperator):
    """A circulant matrix by its first column.

    Parameters
    ----------
    c : array, shape (..., n)
        The first column; leading axes are a batch. Symmetry and definiteness are seen from it.

    Examples
    --------
    >>> import numpy as np
    >>> A = Circulant(np.array([4.0, 1.0, 1.0]))
    >>> A.solve(np.array([6.0, 6.0, 6.0])), A.logdet().round(4)
    (array([1., 1., 1.]), np.float64(3.989))
    """

    _fields = ("c",)

    def __init__(self, c):
        (c,), kind = tensors(c, names=("c",))
        if c.ndim < 1 or c.shape[-1] < 1:
            raise InvalidInputError(f"c must have shape (..., n) with n >= 1; got {tuple(c.shape)}. Pass the column.")
        self.c = c
        n = c.shape[-1]
        symmetric = torch.equal(c, c.flip(-1).roll(1, -1).conj())
        posdef = False
        if symmetric:
            with torch.no_grad():
                posdef = bool((self._spectrum().real > 0).all())
        flags = {"symmetric": symmetric, "posdef": posdef}
        super().__init__((n, n), dtype=c.dtype, device=c.device, batch_shape=c.shape[:-1], kind=kind, **flags)

    def _spectrum(self):
        return torch.fft.fft(self.c, dim=-1)

    def _filter(self, X, F):
        """The matrix with eigenvalues F (..., n) applied to X."""
        Y = torch.fft.ifft(F[..., :, None] * torch.fft.fft(X, dim=-2), dim=-2)
        return Y if X.is_complex() or self.c.is_complex() else Y.real

    def _apply(self, X):
        return self._filter(X, self._spectrum())

    def _apply_adjoint(self, X):
        return self._filter(X, self._spectrum().conj())

    def _diag(self):
        return self.c[..., :1].expand(self.c.shape)

    def _to_dense(self):
        i = torch.arange(self.shape[0], device=self.device)
        return self.c[..., (i[:, None] - i) % self.shape[0]]

    def _eigenvalues(self):
        """The eigenvalues, none of them zero to rounding."""

        def compute():
            F = self._spectrum()
            size = F.abs()
            lost = size <= 4 * torch.finfo(size.dtype).eps * size.amax(-1, keepdim=True)
            if bool(lost.any()):
                index = tuple(int(i) for i in lost.nonzero()[0])
                raise InvalidInputError(
                    f"A must be invertible; its eigenvalue at frequency {index[-1]} of {self.shape[0]} vanishes to "
                    "rounding, so it is singular. Add a multiple of the identity."
                )
            return F

        return self._cached("eigenvalues", compute)

    def _direct(self):
        return f"fast Fourier transform, n={self.shape[0]}"

    def _solve_direct(self, B, adjoint):
        F = self._eigenvalues()
        return self._filter(B, 1 / (F.conj() if adjoint else F))

    def _condition(self):
        size = self._eigenvalues().abs()
        return float((size.amax(-1) / size.amin(-1)).max())

    def _logdet_direct(self):
        self._eigenvalues()
        F = self._spectrum()
        sign = torch.sgn(F.detach()).prod(-1)
        if not self.c.is_complex():
            sign = torch.sgn(sign.real)
        elif self.symmetric:
            sign = torch.sgn(sign.real).to(self.dtype)
        return sign, F.abs().log().sum(-1)
