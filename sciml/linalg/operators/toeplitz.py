r"""Toeplitz matrices: products by fast Fourier transforms, solves by Levinson's recursion or preconditioned iterations.

Notation  c (m,) first column, r (n,) first row, A_ij = c_{i-j} or r_{j-i}; A is a corner of a circulant matrix of
          size N = next_fast_len(m + n - 1), whose eigenvalues are F.
          Optimal circulant preconditioner (T. Chan): first column ((n - j) c_j + j r_{n-j}) / n, the circulant nearest
          to A in the Frobenius norm.
Cost      N log N a product; 4 n^2 up to n = 512; beyond, a few dozen products where the entries decay.
Pitfalls  Levinson's recursion is stable for positive definite matrices only, so others are factorised densely. The
          optimal circulant of a positive definite matrix is positive definite; Strang's need not be.

References
----------
T. Chan, An optimal circulant preconditioner for Toeplitz systems, 1988.
R. Chan, M. Ng, Conjugate gradient methods for Toeplitz systems, 1996.
"""

import numpy as np
import scipy.linalg
import torch
from scipy.fft import next_fast_len

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.operators.base import LinearOperator
from sciml.linalg.operators.dense import tensors


def _fft_of_columns(x, sizes, real):
    """Transform the axes before the last, padded to `sizes`."""
    dims = tuple(range(-1 - len(sizes), -1))
    return torch.fft.rfftn(x, s=sizes, dim=dims) if real else torch.fft.fftn(x, s=sizes, dim=dims)


def _ifft_of_columns(x, sizes, real):
    dims = tuple(range(-1 - len(sizes), -1))
    return torch.fft.irfftn(x, s=sizes, dim=dims) if real else torch.fft.ifftn(x, s=sizes, dim=dims)


class _Embedded(LinearOperator):
    """A corner of a multilevel circulant matrix: what one-level and two-level Toeplitz matrices share."""

    _dense_size = 512
    # An instance has _sizes_out and _sizes_in, the sizes of its levels, and _period, those of the circulant.

    def _kernel(self):
        """The first column of the circulant as an array (..., *period)."""
        raise NotImplementedError

    def _is_real(self):
        return not self.dtype.is_complex

    def _live_spectrum(self):
        kernel = self._kernel()
        return _fft_of_columns(kernel[..., None], self._period, self._is_real())

    def _spectrum(self):
        # With a graph it must be formed anew; without, once is enough.
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            return self._live_spectrum()
        return self._cached("spectrum", self._live_spectrum)

    def _convolve(self, X, adjoint):
        if X.is_complex() and self._is_real():
            return torch.complex(self._convolve(X.real, adjoint), self._convolve(X.imag, adjoint))
        X = X.to(torch.promote_types(X.dtype, self.dtype))
        sizes, out = (self._sizes_out, self._sizes_in) if adjoint else (self._sizes_in, self._sizes_out)
        F = self._spectrum().conj() if adjoint else self._spectrum()
        Z = _fft_of_columns(X.reshape(*X.shape[:-2], *sizes, X.shape[-1]), self._period, self._is_real())
        Y = _ifft_of_columns(F * Z, self._period, self._is_real())
        for axis, n in enumerate(out):
            Y = Y.narrow(axis - len(out) - 1, 0, n)
        return Y.reshape(*Y.shape[: Y.ndim - len(out) - 1], -1, Y.shape[-1])

    def _apply(self, X):
        return self._convolve(X, False)

    def _apply_adjoint(self, X):
        return self._convolve(X, True)

    def _certainly_posdef(self):
        """Whether the circulant around it is positive definite, which suffices."""
        with torch.no_grad():
            return bool((self._spectrum().real > 0).all())

    def _chan(self):
        """The first column of the optimal circulant."""
        raise NotImplementedError

    def _preconditioner(self):
        return self._cached("preconditioner", lambda: _CirculantInverse(*self._chan(), self))


class _CirculantInverse(LinearOperator):
    """The inverse of the optimal circulant; for an indefinite symmetric A that of its modulus."""

    name = "circulant"

    def __init__(self, column, levels, A):
        dims = tuple(range(-levels, 0))
        F = torch.fft.fftn(column, dim=dims)
        size = F.abs()
        # A frequency that A all but misses is left alone rather than blown up.
        floor = torch.finfo(size.dtype).eps * size.amax(dims, keepdim=True)
        if A.symmetric:
            F = size.to(F.dtype)
        F = torch.where(size > floor, F, size.amax(dims, keepdim=True).to(F.dtype))
        self._inverse, self._levels = 1 / F, levels
        flags = {"symmetric": A.symmetric, "posdef": A.symmetric}
        super().__init__(A.shape, dtype=A.dtype, device=A.device, batch_shape=A.batch_shape, **flags)

    def _filter(self, X, F):
        sizes = F.shape[F.ndim - self._levels :]
        dims = tuple(range(-1 - self._levels, -1))
        Z = torch.fft.fftn(X.reshape(*X.shape[:-2], *sizes, X.shape[-1]), dim=dims)
        Y = torch.fft.ifftn(F[..., None] * Z, dim=dims)
        Y = Y.reshape(*Y.shape[: Y.ndim - self._levels - 1], -1, X.shape[-1])
        return (Y if X.is_complex() or self.dtype.is_complex else Y.real).to(torch.promote_types(X.dtype, self.dtype))

    def _apply(self, X):
        return self._filter(X, self._inverse)

    def _apply_adjoint(self, X):
        return self._filter(X, self._inverse.conj())


class Toeplitz(_Embedded):
    """A Toeplitz matrix by its first column and row.

    Parameters
    ----------
    c : array, shape (..., m)
        First column; leading axes are a batch.
    r : array, shape (..., n), or None
        First row; its first entry is not read. None (the default): the conjugate of `c`, a Hermitian matrix.
    posdef : bool
        Claim; False by default. It is seen without a claim where the circulant around A is positive definite.
    check : bool
        Test the claim on random vectors; False by default.

    Examples
    --------
    >>> import numpy as np
    >>> Toeplitz(np.array([2.0, 1.0, 0.0])).to_dense()
    array([[2., 1., 0.],
           [1., 2., 1.],
           [0., 1., 2.]])
    >>> Toeplitz(np.array([2.0, 1.0]), np.array([2.0, 5.0])) @ np.array([1.0, 1.0])
    array([7., 3.])
    """

    _fields = ("c", "r")

    def __init__(self, c, r=None, *, posdef=False, check=False):
        (c, r), kind = tensors(c, r, names=("c", "r"))
        for name, x in (("c", c), ("r", r)):
            if x is not None and (x.ndim < 1 or x.shape[-1] < 1):
                raise InvalidInputError(f"{name} must have shape (..., n) with n >= 1; got {tuple(x.shape)}.")
        self.c, self.r = c, r
        m, n = c.shape[-1], (c if r is None else r).shape[-1]
        self._sizes_out, self._sizes_in, self._period = (m,), (n,), (next_fast_len(m + n - 1, not c.is_complex()),)
        batch = c.shape[:-1] if r is None else torch.broadcast_shapes(c.shape[:-1], r.shape[:-1])
        if r is None and c.is_complex() and bool((c[..., 0].imag != 0).any()):
            raise InvalidInputError("c must begin with a real number for a Hermitian matrix; give r otherwise.")
        symmetric = r is None or (
            m == n and torch.equal(r[..., 1:], c[..., 1:].conj()) and bool(torch.isreal(c[..., 0]).all())
        )
        super().__init__(
            (m, n), dtype=c.dtype, device=c.device, batch_shape=batch, symmetric=symmetric, posdef=posdef, kind=kind
        )
        self.posdef = self.posdef or (symmetric and self._certainly_posdef())
        if check:
            self.check_flags()

    def _row(self):
        return self.c.conj() if self.r is None else self.r

    def _kernel(self):
        c, r = torch.broadcast_tensors(self.c[..., :1], self._row()[..., :1])
        c, r = self.c.expand(*c.shape[:-1], -1), self._row().expand(*r.shape[:-1], -1)
        gap = c.new_zeros(*c.shape[:-1], self._period[0] - c.shape[-1] - r.shape[-1] + 1)
        return torch.cat([c, gap, r[..., 1:].flip(-1)], -1)

    def _diag(self):
        return self.c[..., :1].expand(*self.c.shape[:-1], min(self.shape)).expand(*self.batch_shape, min(self.shape))

    def _to_dense(self):
        m, n = self.shape
        i = torch.arange(m, device=self.device)[:, None] - torch.arange(n, device=self.device)
        return self._kernel()[..., i % self._period[0]]

    def _chan(self):
        n = self.shape[0]
        c, r = self.c, self._row()
        j = torch.arange(n, dtype=c.real.dtype, device=self.device) / n
        wrapped = torch.cat([torch.zeros_like(r[..., :1]), r[..., 1:].flip(-1)], -1)
        return (1 - j) * c + j * wrapped, 1

    def _direct(self):
        if self.posdef and self.shape[0] <= self._dense_size:
            return f"Levinson's recursion, n={self.shape[0]}"
        return None

    def _solve_direct(self, B, adjoint):
        # Hermitian, so the adjoint is A itself
        n, r = B.shape[-2:]
        batch = B.shape[:-2]
        columns = self.c.expand(*batch, n).reshape(-1, n).cpu().resolve_conj().numpy()
        flat = B.reshape(-1, n, r).cpu().resolve_conj().numpy()
        try:
            found = [scipy.linalg.solve_toeplitz((c, c.conj()), b) for c, b in zip(columns, flat, strict=True)]
        except np.linalg.LinAlgError:
            raise NotPositiveDefiniteError(
                "A must be positive definite, as posdef=True claims; a leading minor vanishes. Drop the claim."
            ) from None
        return torch.from_numpy(np.stack(found)).reshape(B.shape).to(B.device, B.dtype)


class BlockToeplitz(_Embedded):
    r"""A two-level Toeplitz matrix (block Toeplitz with Toeplitz blocks): a convolution on an image.

    Rows and columns are the pixels of an n1 x n2 image in C order; the entry for pixels p and q is
    ``T[n1 - 1 + p1 - q1, n2 - 1 + p2 - q2]``.

    Parameters
    ----------
    T : array, shape (..., 2 n1 - 1, 2 n2 - 1)
        Values by offset, the zero offset in the centre; leading axes are a batch.
    posdef : bool
        Claim; False by default. It is seen without a claim where the circulant around A is positive definite.
    check : bool
        Test the claim on random vectors; False by default.

    Examples
    --------
    >>> import numpy as np
    >>> T = np.zeros((3, 3))
    >>> T[1, 1], T[1, 0], T[1, 2] = 4.0, 1.0, 1.0
    >>> BlockToeplitz(T).to_dense()
    array([[4., 1., 0., 0.],
           [1., 4., 0., 0.],
           [0., 0., 4., 1.],
           [0., 0., 1., 4.]])
    """

    _fields = ("offsets",)

    def __init__(self, T, *, posdef=False, check=False):
        (T,), kind = tensors(T, names=("T",))
        if T.ndim < 2 or T.shape[-1] % 2 == 0 or T.shape[-2] % 2 == 0:
            raise InvalidInputError(
                f"T must have shape (..., 2 n1 - 1, 2 n2 - 1); got {tuple(T.shape)}. Put the zero offset in the centre."
            )
        self.offsets = T
        sizes = tuple((s + 1) // 2 for s in T.shape[-2:])
        self._sizes_out = self._sizes_in = sizes
        self._period = tuple(next_fast_len(s, not T.is_complex()) for s in T.shape[-2:])
        symmetric = torch.equal(T, T.flip((-1, -2)).conj())
        n = sizes[0] * sizes[1]
        super().__init__(
            (n, n),
            dtype=T.dtype,
            device=T.device,
            batch_shape=T.shape[:-2],
            symmetric=symmetric,
            posdef=posdef,
            kind=kind,
        )
        self.posdef = self.posdef or (symmetric and self._certainly_posdef())
        if check:
            self.check_flags()

    def _kernel(self):
        n1, n2 = self._sizes_out
        pad = (0, self._period[1] - 2 * n2 + 1, 0, self._period[0] - 2 * n1 + 1)
        return torch.nn.functional.pad(self.offsets, pad).roll((1 - n1, 1 - n2), (-2, -1))

    def _diag(self):
        n1, n2 = self._sizes_out
        return self.offsets[..., n1 - 1, n2 - 1, None].expand(*self.batch_shape, self.shape[0])

    def _to_dense(self):
        n1, n2 = self._sizes_out
        i, j = (torch.arange(n, device=self.device) for n in (n1, n2))
        first = (n1 - 1 + i[:, None] - i)[:, None, :, None]
        second = (n2 - 1 + j[:, None] - j)[None, :, None, :]
        return self.offsets[..., first, second].reshape(*self.batch_shape, *self.shape)

    def _chan(self):
        # Averages along each cyclic diagonal, one level after the other
        T = _wrap(self.offsets, self._sizes_out[0], -2)
        return _wrap(T, self._sizes_out[1], -1), 2


def _wrap(T, n, dim):
    """Average the offsets j and j - n along an axis with the weights (n - j) / n and j / n."""
    j = torch.arange(n, dtype=T.real.dtype, device=T.device) / n
    j = j if dim == -1 else j[:, None]
    ahead = T.narrow(dim, n - 1, n)  # offsets 0 to n - 1
    back = torch.cat([torch.zeros_like(T.narrow(dim, 0, 1)), T.narrow(dim, 0, n - 1)], dim)  # offsets j - n
    return (1 - j) * ahead + j * back
