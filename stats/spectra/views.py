r"""Matrices cut out of stored tensors, read lazily: rows, columns, kernel positions, experts, low-rank products.

.. math:: W^{(k)}_{ij} = T_{r(i),\, c(j),\, a_k}

A view knows its shape and reads only the rows it is asked for. The tensor beneath is anything with `shape`, `dtype`,
`rows(start, stop)` and `take(index)` along its first axis: a tensor of a file, of a module, or a dequantised one.

Notation  T stored tensor; r, c runs of rows and columns; a_k the position in the remaining axes of matrix number k.
Cost      the bytes of the rows asked for. Matrices that share their rows (the positions of a kernel) share one reading,
          if it is below 256 MiB; `forget` lets go of it.
Pitfalls  the tensors of a module are not copied: never change what a view returns.
"""

from __future__ import annotations

import itertools
import math
import threading
from dataclasses import dataclass

import torch

__all__ = ["Cut", "LowRank", "Sum", "Turned", "as_matrix_dtype", "matrix_dtype"]

_HELD_BYTES = 256 * 2**20
_KEPT = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_held = threading.local()


def matrix_dtype(dtype):
    """Return the dtype in which matrices stored as `dtype` are handed out.

    Parameters
    ----------
    dtype : torch.dtype
        As stored.

    Returns
    -------
    torch.dtype
        float32, float64, complex64 and complex128 stay; half complex becomes complex64, everything else float32.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.views import matrix_dtype
    >>> matrix_dtype(torch.bfloat16), matrix_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    if dtype in _KEPT:
        return dtype
    return torch.complex64 if dtype.is_complex else torch.float32


def as_matrix_dtype(block):
    """Return a tensor in `matrix_dtype` of its own dtype, without a copy where it has that already.

    Parameters
    ----------
    block : torch.Tensor
        Of any shape.

    Returns
    -------
    torch.Tensor
        Of the same shape.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.views import as_matrix_dtype
    >>> as_matrix_dtype(torch.ones(2, dtype=torch.float16)).dtype
    torch.float32
    """
    return block.to(matrix_dtype(block.dtype))


def _read(base, start, stop):
    """Read rows of a tensor of three or more axes, remembering the last small reading: its matrices share rows."""
    key = (start, stop)
    last = getattr(_held, "last", None)
    if last is not None and last[0] is base and last[1] == key:
        return last[2]
    block = base.rows(start, stop)
    if block.numel() * block.element_size() <= _HELD_BYTES:
        _held.last = (base, key, block)
    return block


def forget():
    """Let go of the last reading."""
    _held.last = None


def _length(runs):
    return sum(stop - start for start, stop in runs)


@dataclass(frozen=True, eq=False)
class Cut:
    """Rows of the first axis against runs of the second, at one position of the remaining axes or with them flattened.

    Parameters
    ----------
    base : object
        The stored tensor, of two or more axes.
    row_runs : tuple of (int, int)
        Runs [start, stop) of the first axis, in the order of the matrix's rows.
    column_runs : tuple of (int, int)
        Runs of the second axis.
    at : tuple of int or None
        Position in the axes after the second; None (the default) flattens the columns with them.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.views import Cut
    >>> T = torch.arange(12.0).reshape(3, 4)
    >>> base = SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
    >>> Cut(base, ((0, 1), (2, 3)), ((1, 3),)).rows(0, 2).tolist()
    [[1.0, 2.0], [9.0, 10.0]]
    """

    base: object
    row_runs: tuple
    column_runs: tuple
    at: tuple | None = None

    @property
    def shape(self):
        """(rows, columns) of the matrix."""
        tail = math.prod(self.base.shape[2:]) if self.at is None else 1
        return _length(self.row_runs), _length(self.column_runs) * tail

    @property
    def dtype(self):
        """The dtype of what is read."""
        return self.base.dtype

    def rows(self, start, stop):
        """Read rows [start, stop) of the matrix: shape (stop - start, columns).

        Parameters
        ----------
        start, stop : int
            Ends of the range.

        Returns
        -------
        torch.Tensor, shape (stop - start, columns)
            In the dtype of the base.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.views import Cut
        >>> T = torch.ones(3, 2, 5)
        >>> base = SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> Cut(base, ((0, 3),), ((0, 2),)).rows(0, 1).shape
        torch.Size([1, 10])
        """
        read = _read if len(self.base.shape) > 2 else lambda base, a, b: base.rows(a, b)
        parts, offset = [], 0
        for first, last in self.row_runs:
            low, high = max(start, offset), min(stop, offset + last - first)
            if low < high:
                parts.append(read(self.base, first + low - offset, first + high - offset))
            offset += last - first
        if not parts:
            parts = [self.base.rows(0, 0)]
        return self._pick(parts[0] if len(parts) == 1 else torch.cat(parts))

    def take(self, index):
        """Read single rows of the matrix.

        Parameters
        ----------
        index : sequence of int
            Row numbers, in any order.

        Returns
        -------
        torch.Tensor, shape (len(index), columns)
            In the dtype of the base.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.views import Cut
        >>> T = torch.arange(12.0).reshape(3, 4)
        >>> base = SimpleNamespace(shape=T.shape, dtype=T.dtype, take=lambda i: T[i])
        >>> Cut(base, ((1, 3),), ((0, 1),)).take([1, 0]).tolist()
        [[8.0], [4.0]]
        """
        if len(self.row_runs) == 1:
            return self._pick(self.base.take([self.row_runs[0][0] + int(i) for i in index]))
        places, ends = [], list(itertools.accumulate(stop - start for start, stop in self.row_runs))
        for i in index:
            run = next(k for k, end in enumerate(ends) if i < end)
            places.append(self.row_runs[run][1] - ends[run] + int(i))
        return self._pick(self.base.take(places))

    def _pick(self, block):
        if self.column_runs != ((0, self.base.shape[1]),):
            pieces = [block[:, start:stop] for start, stop in self.column_runs]
            block = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        if self.at is not None:
            return block[(slice(None), slice(None), *self.at)]
        return block.reshape(block.shape[0], self.shape[1])


@dataclass(frozen=True, eq=False)
class Turned:
    """A matrix whose rows do not lie along the first axis: an expert of a stack, a transposed convolution.

    Parameters
    ----------
    base : object
        The stored tensor.
    first, last : int
        Run of the first axis that holds the matrix.
    at : tuple
        What to take of the remaining axes: an integer drops the axis, a slice cuts it.
    order : tuple of int or None
        Permutation of the remaining axes, after which the first gives the rows and the others are flattened; None (the
        default) keeps them.
    row_axes : int
        How many axes, after the permutation, give the rows; 1 by default.
    paired : bool
        The last axis of length two holds real and imaginary parts; False by default.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.views import Turned
    >>> T = torch.arange(24.0).reshape(2, 3, 4)
    >>> base = SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
    >>> Turned(base, 1, 2, (0,)).rows(0, 1).tolist()
    [[12.0, 13.0, 14.0, 15.0]]
    """

    base: object
    first: int
    last: int
    at: tuple = ()
    order: tuple | None = None
    row_axes: int = 1
    paired: bool = False

    @property
    def shape(self):
        """(rows, columns) of the matrix."""
        sizes = self._sizes()
        return math.prod(sizes[: self.row_axes]), math.prod(sizes[self.row_axes :])

    @property
    def dtype(self):
        """The dtype of what is read."""
        dtype = self.base.dtype
        if not self.paired:
            return dtype
        return torch.complex128 if dtype == torch.float64 else torch.complex64

    def _sizes(self):
        shape = list(self.base.shape[:-1] if self.paired else self.base.shape)
        shape[0] = self.last - self.first
        sizes = []
        for axis, size in enumerate(shape):
            entry = self.at[axis] if axis < len(self.at) else slice(None)
            if isinstance(entry, slice):
                sizes.append(len(range(*entry.indices(size))))
        return [sizes[axis] for axis in self.order] if self.order is not None else sizes

    def rows(self, start, stop):
        """Read rows [start, stop) of the matrix.

        Parameters
        ----------
        start, stop : int
            Ends of the range.

        Returns
        -------
        torch.Tensor, shape (stop - start, columns)
            In the dtype of the base, or complex where real and imaginary parts are paired.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.views import Turned
        >>> T = torch.ones(4, 3, 5)
        >>> base = SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> Turned(base, 0, 4, order=(1, 0, 2)).rows(0, 2).shape
        torch.Size([2, 20])
        """
        return self._whole()[start:stop]

    def take(self, index):
        """Read single rows of the matrix.

        Parameters
        ----------
        index : sequence of int
            Row numbers, in any order.

        Returns
        -------
        torch.Tensor, shape (len(index), columns)
            In the dtype of `rows`.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.views import Turned
        >>> T = torch.arange(24.0).reshape(2, 3, 4)
        >>> base = SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> Turned(base, 0, 1, (0,)).take([2]).tolist()
        [[8.0, 9.0, 10.0, 11.0]]
        """
        return self._whole()[torch.as_tensor(list(index), dtype=torch.long)]

    def _whole(self):
        block = _read(self.base, self.first, self.last)
        if self.paired:
            block = torch.view_as_complex(as_matrix_dtype(block).contiguous())
        block = block[tuple(self.at)]
        if self.order is not None:
            block = block.permute(self.order)
        return block.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class LowRank:
    """The product scale * B @ A of the two factors of an adapter, formed only for the rows asked for.

    Parameters
    ----------
    B, A : object
        Views of shapes (rows, r) and (r, columns); `turned` says that each is stored as its transpose.
    scale : float
        Factor; 1 by default.
    turned : bool
        Factors are stored as (r, rows) and (columns, r); False by default.
    transposed : bool
        The matrix is (B A)'; False by default.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.views import LowRank
    >>> def stored(T):
    ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
    >>> LowRank(stored(torch.ones(4, 2)), stored(torch.ones(2, 3)), 0.5).rows(0, 1).tolist()
    [[1.0, 1.0, 1.0]]
    """

    B: object
    A: object
    scale: float = 1.0
    turned: bool = False
    transposed: bool = False

    @property
    def shape(self):
        """(rows, columns) of the product."""
        rows = self.B.shape[1 if self.turned else 0]
        columns = self.A.shape[0 if self.turned else 1]
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def rank(self):
        """Number of columns of B."""
        return int(self.B.shape[0 if self.turned else 1])

    @property
    def dtype(self):
        """The dtype of the product."""
        return torch.promote_types(matrix_dtype(self.B.dtype), matrix_dtype(self.A.dtype))

    def factors(self):
        """Return (B, A, scale), read whole: shapes (rows, r) and (r, columns).

        Returns
        -------
        tuple
            Both factors as tensors and the scale.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.views import LowRank
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> LowRank(stored(torch.ones(2, 1)), stored(torch.ones(1, 3))).factors()[1].shape
        torch.Size([1, 3])
        """
        B, A = (as_matrix_dtype(part.rows(0, part.shape[0])).to(self.dtype) for part in (self.B, self.A))
        if self.turned:
            B, A = B.T, A.T
        return (A.T, B.T, self.scale) if self.transposed else (B, A, self.scale)

    def rows(self, start, stop):
        """Form rows [start, stop) of the product.

        Parameters
        ----------
        start, stop : int
            Ends of the range.

        Returns
        -------
        torch.Tensor, shape (stop - start, columns)
            scale * B[start:stop] @ A.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.views import LowRank
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> LowRank(stored(torch.ones(4, 2)), stored(torch.ones(2, 3))).rows(1, 3).shape
        torch.Size([2, 3])
        """
        if self.turned or self.transposed:
            B, A, scale = self.factors()
            return scale * (B[start:stop] @ A)
        A, B = self.A.rows(0, self.A.shape[0]), self.B.rows(start, stop)
        return self.scale * (B.to(self.dtype) @ A.to(self.dtype))

    def take(self, index):
        """Form single rows of the product.

        Parameters
        ----------
        index : sequence of int
            Row numbers.

        Returns
        -------
        torch.Tensor, shape (len(index), columns)
            scale * B[index] @ A.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.views import LowRank
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> LowRank(stored(torch.ones(4, 2)), stored(torch.ones(2, 3))).take([3]).tolist()
        [[2.0, 2.0, 2.0]]
        """
        B, A, scale = self.factors()
        return scale * (B[torch.as_tensor(list(index), dtype=torch.long)] @ A)


@dataclass(frozen=True, eq=False)
class Sum:
    """A matrix plus a low-rank one of the same shape.

    Parameters
    ----------
    base : object
        View of the matrix.
    update : LowRank
        What is added.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.views import LowRank, Sum
    >>> def stored(T):
    ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
    >>> update = LowRank(stored(torch.ones(3, 1)), stored(torch.ones(1, 2)))
    >>> Sum(stored(torch.ones(3, 2)), update).rows(0, 1).tolist()
    [[2.0, 2.0]]
    """

    base: object
    update: LowRank

    @property
    def shape(self):
        """(rows, columns) of the sum."""
        return tuple(self.base.shape)

    @property
    def dtype(self):
        """The dtype of the sum."""
        return torch.promote_types(matrix_dtype(self.base.dtype), self.update.dtype)

    def rows(self, start, stop):
        """Form rows [start, stop) of the sum.

        Parameters
        ----------
        start, stop : int
            Ends of the range.

        Returns
        -------
        torch.Tensor, shape (stop - start, columns)
            The rows of both added.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.views import LowRank, Sum
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> update = LowRank(stored(torch.ones(3, 1)), stored(torch.ones(1, 2)), 2.0)
        >>> Sum(stored(torch.ones(3, 2)), update).rows(2, 3).tolist()
        [[3.0, 3.0]]
        """
        return as_matrix_dtype(self.base.rows(start, stop)) + self.update.rows(start, stop)

    def take(self, index):
        """Form single rows of the sum.

        Parameters
        ----------
        index : sequence of int
            Row numbers.

        Returns
        -------
        torch.Tensor, shape (len(index), columns)
            The rows of both added.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.views import LowRank, Sum
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b], take=lambda i: T[i])
        >>> update = LowRank(stored(torch.ones(3, 1)), stored(torch.ones(1, 2)))
        >>> Sum(stored(torch.zeros(3, 2)), update).take([1]).tolist()
        [[1.0, 1.0]]
        """
        return as_matrix_dtype(self.base.take(index)) + self.update.take(index)
