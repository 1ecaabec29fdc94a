r"""Matrices cut out of stored tensors, read lazily: rows, columns, kernel positions, experts.

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

__all__ = ["Cut", "Turned", "as_matrix_dtype", "forget", "matrix_dtype"]

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
    """Let go of the last reading, which is kept for the matrices that share its rows.

    Examples
    --------
    >>> from sciml.stats.spectra.views import forget
    >>> forget()
    """
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
