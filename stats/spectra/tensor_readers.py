r"""Rows of a tensor, wherever it is: in memory, computed when asked for, or in a file.

.. math:: \text{byte of entry } (i_0, i_1, \dots) = \text{offset} + \text{itemsize} \sum_k i_k \, \text{stride}_k

Notation  offset and itemsize in bytes; strides in entries; span: entries from the first to the last of a block.
Cost      a block costs the bytes of its rows; rows of a matrix that is stored by columns cost one read a column.
Pitfalls  blocks of tensors in memory share it: do not write there.
"""

import math

import numpy as np
import torch


class MemoryReader:
    """Rows of a tensor in memory; views, no copies.

    Parameters
    ----------
    tensor : Tensor
        Any dense tensor.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.tensor_readers import MemoryReader
    >>> MemoryReader(torch.arange(4)).rows(1, 3)
    tensor([1, 2])
    """

    def __init__(self, tensor):
        self._tensor = tensor

    def read(self):
        """Return the whole tensor, without its history of derivatives.

        Returns
        -------
        Tensor
            It shares the memory of the original.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.tensor_readers import MemoryReader
        >>> MemoryReader(torch.ones(2, requires_grad=True)).read()
        tensor([1., 1.])
        """
        # The bits of a lazy conjugate or negative would travel on, and not every operation knows them.
        return self._tensor.detach().resolve_conj().resolve_neg()

    def rows(self, start, stop):
        """Return a block of axis 0.

        Parameters
        ----------
        start, stop : int
            The range, inside the tensor.

        Returns
        -------
        Tensor
            A view where there is one.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.tensor_readers import MemoryReader
        >>> MemoryReader(torch.arange(4)).rows(0, 1)
        tensor([0])
        """
        return self._tensor.detach()[start:stop].resolve_conj().resolve_neg()

    def take(self, index):
        """Return some entries of axis 0.

        Parameters
        ----------
        index : ndarray of int, shape (k,)
            Positions.

        Returns
        -------
        Tensor, shape (k, ...)
            A copy.

        Examples
        --------
        >>> import numpy as np
        >>> import torch
        >>> from sciml.stats.spectra.tensor_readers import MemoryReader
        >>> MemoryReader(torch.arange(4)).take(np.array([3, 1]))
        tensor([3, 1])
        """
        tensor = self._tensor.detach()
        index = torch.as_tensor(index, dtype=torch.int64, device=tensor.device)
        # Types of eight bits have no kernels for gathering on every device; their bytes do.
        if tensor.dtype.itemsize == 1 and tensor.dtype.is_floating_point:
            return tensor.view(torch.uint8)[index].view(tensor.dtype)
        return tensor[index].resolve_conj().resolve_neg()


class ComputedReader(MemoryReader):
    """Rows of a tensor that is computed at each reading, since keeping it would take its memory a second time.

    Parameters
    ----------
    make : callable
        Takes nothing and returns the tensor; called without derivatives.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.tensor_readers import ComputedReader
    >>> ComputedReader(lambda: torch.arange(4) ** 2).rows(2, 4)
    tensor([4, 9])
    """

    def __init__(self, make):
        self._make = make

    @property
    def _tensor(self):
        with torch.no_grad():
            return self._make()


class FileReader:
    """Rows of a tensor that lies in a file.

    Parameters
    ----------
    file : RegularFile
        The open file.
    offset : int
        Where the first entry lies, in bytes.
    shape, strides : tuple of int
        Shape, and steps in entries; the caller has checked that all entries lie inside the file.
    dtype : torch.dtype
        The dtype of the entries, little-endian.

    Examples
    --------
    >>> import tempfile, torch
    >>> from sciml.stats.spectra.regular_file import RegularFile
    >>> from sciml.stats.spectra.tensor_readers import FileReader
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     _ = f.write(bytes(range(6)))
    ...     f.flush()
    ...     FileReader(RegularFile(f.name), 0, (3, 2), (2, 1), torch.uint8).rows(1, 3)
    tensor([[2, 3],
            [4, 5]], dtype=torch.uint8)
    """

    def __init__(self, file, offset, shape, strides, dtype):
        self._file, self._offset, self._dtype = file, offset, dtype
        self._shape, self._strides = tuple(shape), tuple(strides)

    def read(self):
        """Return the whole tensor.

        Returns
        -------
        Tensor
            A tensor of its own.

        Examples
        --------
        >>> import tempfile, torch
        >>> from sciml.stats.spectra.regular_file import RegularFile
        >>> from sciml.stats.spectra.tensor_readers import FileReader
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     _ = f.write(bytes(range(2)))
        ...     f.flush()
        ...     FileReader(RegularFile(f.name), 0, (2,), (1,), torch.uint8).read()
        tensor([0, 1], dtype=torch.uint8)
        """
        return self._block(self._offset, self._shape, self._strides)

    def rows(self, start, stop):
        """Return a block of axis 0.

        Parameters
        ----------
        start, stop : int
            The range, inside the tensor.

        Returns
        -------
        Tensor
            A tensor of its own.

        Examples
        --------
        >>> import tempfile, torch
        >>> from sciml.stats.spectra.regular_file import RegularFile
        >>> from sciml.stats.spectra.tensor_readers import FileReader
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     _ = f.write(bytes(range(3)))
        ...     f.flush()
        ...     FileReader(RegularFile(f.name), 0, (3,), (1,), torch.uint8).rows(2, 3)
        tensor([2], dtype=torch.uint8)
        """
        offset = self._offset + start * self._strides[0] * self._dtype.itemsize
        return self._block(offset, (stop - start, *self._shape[1:]), self._strides)

    def take(self, index):
        """Return some entries of axis 0; neighbours in `index` that follow each other are read at once.

        Parameters
        ----------
        index : ndarray of int, shape (k,)
            Positions.

        Returns
        -------
        Tensor, shape (k, ...)
            A tensor of its own.

        Examples
        --------
        >>> import tempfile, torch
        >>> import numpy as np
        >>> from sciml.stats.spectra.regular_file import RegularFile
        >>> from sciml.stats.spectra.tensor_readers import FileReader
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     _ = f.write(bytes(range(3)))
        ...     f.flush()
        ...     FileReader(RegularFile(f.name), 0, (3,), (1,), torch.uint8).take(np.array([2, 0]))
        tensor([2, 0], dtype=torch.uint8)
        """
        out = torch.empty((len(index), *self._shape[1:]), dtype=self._dtype)
        cuts = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
        for a, b in zip(cuts[:-1], cuts[1:], strict=True):
            if a < b:
                out[a:b] = self.rows(int(index[a]), int(index[b - 1]) + 1)
        return out

    def _block(self, offset, shape, strides):
        numel, itemsize = math.prod(shape), self._dtype.itemsize
        if numel == 0:
            return torch.empty(shape, dtype=self._dtype)
        span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if span <= 2 * numel:
            flat = self._file.read(offset, span * itemsize)
            # A byte other than 0 and 1 is no bool: torch's kernels may do anything with it.
            flat = flat != 0 if self._dtype == torch.bool else flat.view(self._dtype)
            return flat.as_strided(shape, strides)
        # Rows of a matrix that is stored by columns: one short read for each column instead of the whole matrix.
        axis = max((k for k in range(len(shape)) if shape[k] > 1), key=lambda k: strides[k])
        out = torch.empty(shape, dtype=self._dtype)
        rest = (*shape[:axis], *shape[axis + 1 :]), (*strides[:axis], *strides[axis + 1 :])
        for i in range(shape[axis]):
            out.select(axis, i).copy_(self._block(offset + i * strides[axis] * itemsize, *rest))
        return out
