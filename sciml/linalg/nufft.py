r"""Nonuniform fast Fourier transforms: trigonometric sums at scattered points, in one to three dimensions.

.. math:: \text{type 2: } f_j = \sum_k F_k e^{i k \cdot x_j}, \qquad
          \text{type 1, its adjoint: } F_k = \sum_j c_j e^{-i k \cdot x_j}.

The sum is an ordinary transform on a grid twice as fine as the modes need, followed by interpolation with a narrow
bump; what the bump does to each mode is divided out beforehand [1]_.  Points are sorted into tiles of the grid, so that
interpolation and its adjoint are batched matrix products and run at the speed of those, on CPU and CUDA alike.

Notation  x (n, d) points, in radians; k modes, -(N // 2) .. (N - 1) // 2 in each dimension (N of them); M fine grid, 2
          N or a little more; w width of the bump in nodes; phi(z) = exp(beta (sqrt(1 - z^2) - 1)), z in [-1, 1];
          t side of a tile; s = t + w - 1 nodes that the points of a tile touch; m points in one row of a batch.
Cost      w^d n + M^d log M a transform; a million points and 281^2 modes take 0.3 s at 1e-12 on one core.  About
          n (8 w d + 16) bytes are kept.
Pitfalls  `eps` is the error relative to sum |F_k| or sum |c_j|, not to each value.  A phase k x is rounded to
          eps(float64) |k x|, so 1e-13 is met up to some hundred modes in each dimension and 1e-12 up to ten thousand.
          Points that differ by 2 pi are the same point.

References
----------
.. [1] A. Barnett, J. Magland, L. af Klinteberg, A parallel nonuniform fast Fourier transform library based on an
   "exponential of semicircle" kernel, 2019, arXiv 1808.06736.
.. [2] A. Dutt, V. Rokhlin, Fast Fourier transforms for nonequispaced data, 1993.
"""

import math

import numpy as np
import torch
from scipy.fft import next_fast_len

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.operators.base import LinearOperator
from sciml.validation import check_number

__all__ = ["NonuniformFourier", "nufft_type1", "nufft_type2"]

_TILE = {1: 32, 2: 16, 3: 8}
_CHUNK = 4_000_000  # numbers in the largest temporary


def nufft_type1(X, c, n_modes, *, eps=1e-12):
    r"""Compute :math:`F_k = \sum_j c_j e^{-i k \cdot x_j}`: from values at scattered points to modes.

    Parameters
    ----------
    X : array, shape (n, d) or (n,)
        Points, in radians; d = 1, 2 or 3.
    c : array, shape (n,)
        Strengths, real or complex.
    n_modes : int or tuple of int, length d
        Modes in each dimension, -(N // 2) .. (N - 1) // 2.
    eps : float
        Error relative to ``sum |c_j|``, 1e-14 to 0.1; 1e-12 by default.

    Returns
    -------
    array, shape (N_1, ..., N_d)
        Modes, complex, by rising frequency.

    Raises
    ------
    InvalidInputError
        A shape does not fit, data are not finite or not in double precision, or `eps` is out of range.

    Examples
    --------
    >>> nufft_type1(np.array([0.0, np.pi]), np.array([1.0, 1.0]), 3).real.round(6) + 0.0
    array([0., 2., 0.])
    """
    operator = NonuniformFourier(X, n_modes, eps=eps)
    return operator.rmatvec(c).reshape(operator.n_modes)


def nufft_type2(X, F, *, eps=1e-12):
    r"""Compute :math:`f_j = \sum_k F_k e^{i k \cdot x_j}`: from modes to values at scattered points.

    Parameters
    ----------
    X : array, shape (n, d) or (n,)
        Points, in radians; d = 1, 2 or 3.
    F : array, shape (N_1, ..., N_d)
        Modes by rising frequency, -(N // 2) .. (N - 1) // 2 in each dimension.
    eps : float
        Error relative to ``sum |F_k|``, 1e-14 to 0.1; 1e-12 by default.

    Returns
    -------
    array, shape (n,)
        Values, complex.

    Raises
    ------
    InvalidInputError
        A shape does not fit, data are not finite or not in double precision, or `eps` is out of range.

    Examples
    --------
    >>> np.abs(nufft_type2(np.array([0.0, np.pi]), np.array([0.0, 1.0, 1.0]))).round(6)
    array([2., 0.])
    """
    shape = tuple(np.shape(F))
    operator = NonuniformFourier(X, shape if shape else 0, eps=eps)
    return operator.matvec(F.reshape(-1) if hasattr(F, "reshape") else np.reshape(F, -1))


class NonuniformFourier(LinearOperator):
    r"""The matrix :math:`A_{jk} = e^{i k \cdot x_j}` of points and modes; the points are sorted once.

    Parameters
    ----------
    X : array, shape (n, d) or (n,)
        Points, in radians; d = 1, 2 or 3.
    n_modes : int or tuple of int, length d
        Modes in each dimension, -(N // 2) .. (N - 1) // 2; columns in C order.
    eps : float
        Relative error of a product, 1e-14 to 0.1; 1e-12 by default.

    Raises
    ------
    InvalidInputError
        A shape does not fit, points are not finite or not float64, or `eps` is out of range.

    Examples
    --------
    >>> A = NonuniformFourier(np.array([0.0, np.pi]), 3)
    >>> A.shape, (A @ np.array([1.0, 0.0, 1.0])).real.round(6)
    ((2, 3), array([ 2., -2.]))
    """

    def __init__(self, X, n_modes, *, eps=1e-12):
        (points,), _ = enter(X, names=("X",))
        if points.dtype != torch.float64:
            raise InvalidInputError(
                f"X must be float64, since phases in single precision lose all that eps promises; got "
                f"{str(points.dtype).removeprefix('torch.')}. Convert the points."
            )
        points = points[:, None] if points.ndim == 1 else points
        n_modes = (n_modes,) * (1 if points.ndim != 2 else points.shape[1]) if np.ndim(n_modes) == 0 else n_modes
        if points.ndim != 2 or not 1 <= points.shape[1] <= 3 or len(points) == 0:
            raise InvalidInputError(
                f"X must have shape (n, d) with n >= 1 and d = 1, 2 or 3; got {tuple(points.shape)}. Pass one row a "
                f"point."
            )
        if len(n_modes) != points.shape[1]:
            raise InvalidInputError(
                f"n_modes must have one number for each of the {points.shape[1]} dimensions of X; got {n_modes}."
            )
        self.n_modes = tuple(check_number("n_modes", N, low=1, integer=True) for N in n_modes)
        self.eps = check_number("eps", eps, low=1e-14, high=0.1)
        self.width = max(3, math.ceil(-math.log10(self.eps) - 1e-9) + 1)
        self.beta = 2.3 * self.width
        tile = _TILE[len(self.n_modes)]
        self.grid_shape = tuple(tile * next_fast_len(math.ceil(max(2 * N, self.width) / tile)) for N in self.n_modes)
        n, d = points.shape
        kind = "torch" if isinstance(X, torch.Tensor) else "numpy"
        super().__init__((n, math.prod(self.n_modes)), dtype=torch.complex128, device=points.device, kind=kind)
        self._sort(points)
        self._spectrum = tuple(self._deconvolution(j).to(points.device) for j in range(d))

    # ------------------------------------------------------------ the points, once

    def _sort(self, points):
        """Sort the points by tiles, in rows of at most m; keep the weights of the w nodes next to each point."""
        n, d = points.shape
        w, tile = self.width, _TILE[d]
        first, offset, key = [], [], 0
        for j, M in enumerate(self.grid_shape):
            at = torch.remainder(points[:, j] / (2 * math.pi), 1.0) * M
            left = torch.ceil(at - w / 2)
            z = (left[:, None] - at[:, None] + torch.arange(w, device=at.device)) * (2 / w)
            first.append(torch.exp(self.beta * (torch.sqrt((1 - z * z).clamp(min=0)) - 1)))
            left = torch.remainder(left, M).long()
            offset.append(left % tile)
            key = key * (M // tile) + left // tile
        key, order = torch.sort(key, stable=True)
        tiles, counts = torch.unique_consecutive(key, return_counts=True)
        m = self.row_size = int(max(4, min(64, math.ceil(n / (2 * len(tiles))))))
        rows = (counts + m - 1) // m
        start = torch.cumsum(rows, 0) - rows
        rank = torch.arange(n, device=key.device) - torch.repeat_interleave(torch.cumsum(counts, 0) - counts, counts)
        slot = torch.repeat_interleave(start, counts) * m + rank
        size = int(rows.sum()) * m
        self._slot = torch.empty_like(slot)
        self._slot[order] = slot  # where each point's value lies among the rows
        self._tile = torch.repeat_interleave(tiles, rows)
        weights = []
        for phi in first:  # padding has weight zero
            weights.append(phi.new_zeros(size, w).index_copy_(0, self._slot, phi).reshape(-1, m, w))
        self._weights = tuple(weights)
        self._offset = tuple(o.new_zeros(size).index_copy_(0, self._slot, o).reshape(-1, m) for o in offset)

    def _deconvolution(self, j):
        """One over the transform of the bump at the modes of dimension j, shape (N_j,)."""
        N, M, w = self.n_modes[j], self.grid_shape[j], self.width
        z, weights = np.polynomial.legendre.leggauss(40 + 4 * w)
        phi = weights * np.exp(self.beta * (np.sqrt(1 - z * z) - 1))
        k = np.arange(N) - N // 2
        return torch.as_tensor(2 / w / (np.cos(np.outer(k, z) * (np.pi * w / M)) @ phi))

    # ------------------------------------------------------------ tiles

    def _chunks(self):
        """Ranges of rows whose temporaries are of bounded size."""
        d, m = len(self.n_modes), self.row_size
        s = _TILE[d] + self.width - 1
        step = max(1, _CHUNK // (s**d + 2 * m * s ** max(1, d - 1)))
        return [slice(a, a + step) for a in range(0, len(self._tile), step)]

    def _spread_weights(self, j, rows):
        """Weights of the s nodes of a tile for each point of some rows: (b, m, s)."""
        phi, o = self._weights[j][rows], self._offset[j][rows]
        out = phi.new_zeros(*phi.shape[:2], _TILE[len(self.n_modes)] + self.width - 1)
        return out.scatter_(2, o[..., None] + torch.arange(self.width, device=o.device), phi)

    def _nodes(self, rows):
        """Flat indices of the nodes of the tiles of some rows: (b, s^d)."""
        d = len(self.n_modes)
        tile, s = _TILE[d], _TILE[d] + self.width - 1
        key, flat = self._tile[rows], None
        index = []
        for M in reversed(self.grid_shape):
            index.append(torch.remainder(tile * (key % (M // tile))[:, None] + torch.arange(s, device=key.device), M))
            key = key // (M // tile)
        for M, i in zip(self.grid_shape, reversed(index), strict=True):
            flat = i if flat is None else (flat[:, :, None] * M + i[:, None, :]).flatten(1)
        return flat

    def _interpolate(self, grid):
        """Values at the points of a real grid (M_1, ..., M_d) under the bump; shape (n,)."""
        d, grid = len(self.n_modes), grid.reshape(-1)
        out = grid.new_empty(len(self._tile), self.row_size)
        for rows in self._chunks():
            W = [self._spread_weights(j, rows) for j in range(d)]
            G = grid[self._nodes(rows)].reshape(len(W[0]), W[0].shape[2], -1)  # (b, s, s^(d-1))
            Y = torch.bmm(W[0], G)
            for Wj in W[1:]:
                Y = (Y.reshape(*Wj.shape, -1) * Wj[..., None]).sum(2)
            out[rows] = Y.reshape(len(W[0]), -1)
        return out.reshape(-1)[self._slot]

    def _spread(self, c):
        """The adjoint of interpolation: real strengths c (n,) to a grid (M_1, ..., M_d)."""
        d = len(self.n_modes)
        values = c.new_zeros(len(self._tile) * self.row_size).index_copy_(0, self._slot, c)
        values = values.reshape(-1, self.row_size, 1)
        grid = c.new_zeros(math.prod(self.grid_shape))
        for rows in self._chunks():
            W = [self._spread_weights(j, rows) for j in range(d)]
            Y = values[rows]
            for Wj in W[:0:-1]:
                Y = (Wj[..., None] * Y[:, :, None, :]).flatten(2)
            H = torch.bmm(W[0].mT, Y)
            grid.index_add_(0, self._nodes(rows).reshape(-1), H.reshape(-1))
        return grid.reshape(self.grid_shape)

    # ------------------------------------------------------------ modes

    def _scaled(self, F):
        """Modes (N_1, ..., N_d) times the deconvolution."""
        d = len(self.n_modes)
        for j, g in enumerate(self._spectrum):
            F = F * g.reshape(-1, *[1] * (d - 1 - j))
        return F

    def _padded(self, F):
        """Modes by rising frequency, laid into the order of an FFT of the fine grid."""
        grid = F.new_zeros(self.grid_shape)
        grid[tuple(slice(0, N) for N in self.n_modes)] = F
        return grid.roll([-(N // 2) for N in self.n_modes], list(range(len(self.n_modes))))

    def _cropped(self, grid):
        grid = grid.roll([N // 2 for N in self.n_modes], list(range(len(self.n_modes))))
        return grid[tuple(slice(0, N) for N in self.n_modes)]

    def real_values(self, F):
        """Type 2 for modes with ``F[-k] = conj(F[k])``, at half the cost.

        Parameters
        ----------
        F : torch.Tensor, complex, shape (N_1, ..., N_d)
            Modes of a real function; every N odd.

        Returns
        -------
        torch.Tensor, float64, shape (n,)
        """
        dims = tuple(range(len(self.n_modes)))
        half = self._padded(self._scaled(F))[..., : self.grid_shape[-1] // 2 + 1]
        return self._interpolate(torch.fft.irfftn(half, s=self.grid_shape, dim=dims, norm="forward"))

    def real_moments(self, c):
        """Transform real strengths as type 1 does, at half the cost.

        Parameters
        ----------
        c : torch.Tensor, shape (n,)
            Strengths, real.

        Returns
        -------
        torch.Tensor, shape (N_1, ..., N_d)
            Complex modes, by rising frequency; every N must be odd.
        """
        dims = tuple(range(len(self.n_modes)))
        half = torch.fft.rfftn(self._spread(c), dim=dims)
        right = half[..., : self.n_modes[-1] // 2 + 1]
        right = right.roll([N // 2 for N in self.n_modes[:-1]], dims[:-1]) if len(dims) > 1 else right
        right = right[tuple(slice(0, N) for N in self.n_modes[:-1])]
        left = right[..., 1:].flip(dims).conj()
        return self._scaled(torch.cat([left, right], dim=-1))

    def _apply(self, X):
        dims = tuple(range(len(self.n_modes)))
        out = []
        for F in X.mT.reshape(-1, self.shape[1]):
            grid = self._padded(self._scaled(F.reshape(self.n_modes).to(torch.complex128)))
            grid = torch.fft.ifftn(grid, dim=dims, norm="forward")
            out.append(torch.complex(self._interpolate(grid.real), self._interpolate(grid.imag)))
        return torch.stack(out, dim=-1).reshape(self.shape[0], *X.shape[:-2], X.shape[-1]).movedim(0, -2)

    def _apply_adjoint(self, X):
        dims = tuple(range(len(self.n_modes)))
        out = []
        for c in X.mT.reshape(-1, self.shape[0]):
            grid = self._spread(c.real.double().contiguous()).to(torch.complex128)
            if c.is_complex():
                grid = grid + 1j * self._spread(c.imag.double().contiguous())
            out.append(self._scaled(self._cropped(torch.fft.fftn(grid, dim=dims))).reshape(-1))
        return torch.stack(out, dim=-1).reshape(self.shape[1], *X.shape[:-2], X.shape[-1]).movedim(0, -2)
