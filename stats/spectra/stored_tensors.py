r"""Tensors that wait in a file or in memory until some of their rows are asked for.

.. math:: \text{byte of entry } (i_0, i_1, \dots) = \text{offset} + \text{itemsize} \sum_k i_k \, \text{stride}_k

Notation  offset and itemsize in bytes; strides in entries; a block is a range of indices along axis 0.
Cost      a block costs the bytes of its rows; nothing is mapped into memory, so that the resident memory of a process
          that walks through a file stays at one block.
Pitfalls  a file may change between two reads: size and time of change are compared at each; what was read before a
          change of the same nanosecond cannot be told apart. Blocks of tensors in memory share it: do not write there.
"""

import math
import os
import stat
import weakref
from dataclasses import dataclass, field

import numpy as np
import torch

from sciml.exceptions import CheckpointError, InvalidInputError


@dataclass(frozen=True, eq=False)
class ModuleInfo:
    """What the layout of a module's tensors depends on.

    Parameters
    ----------
    type : str
        Name of its class, such as "Conv2d".
    groups : int
        Groups of a convolution, dimensionless; 1 by default, which is right for everything else.
    transposed : bool
        Whether it is a transposed convolution, whose weight is stored with inputs first; False by default.
    input_first : bool
        Whether it is a linear map stored as (inputs, outputs), as ``Conv1D`` of transformers; False by default.
    num_heads, num_kv_heads : int or None
        Heads of queries, and of keys and values, of the attention that it belongs to; None (the default) when unknown.
    family : {"", "linear", "conv", "embedding", "norm", "recurrent", "attention"}
        What it is; "" (the default) when its class tells nothing.

    Examples
    --------
    >>> from sciml.stats.spectra.stored_tensors import ModuleInfo
    >>> ModuleInfo("Conv2d", groups=4, family="conv").groups
    4
    """

    type: str
    groups: int = 1
    transposed: bool = False
    input_first: bool = False
    num_heads: int | None = None
    num_kv_heads: int | None = None
    family: str = ""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is read when it is needed, whole or by rows.

    Parameters
    ----------
    name : str
        Its key in the state dict; keys of nested dicts are joined by ".".
    shape : tuple of int
        Its shape.
    dtype : torch.dtype
        The dtype in which it is stored.
    nbytes : int
        Its size in bytes.
    tie : hashable or None
        Equal for two tensors that are the same numbers in the same place, as tied weights are; None when unknown.
    buffer : bool
        Whether a module holds it as a buffer rather than as a parameter; False by default.
    reader : object
        Gives the rows; made by :func:`sciml.stats.spectra.sources.open_weights`.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.sources import open_weights
    >>> weight = open_weights({"weight": torch.arange(6.0).reshape(3, 2)}).tensors["weight"]
    >>> weight.shape, weight.dtype, weight.nbytes
    ((3, 2), torch.float32, 24)
    """

    name: str
    shape: tuple
    dtype: torch.dtype
    nbytes: int
    tie: object = None
    buffer: bool = False
    reader: object = field(default=None, repr=False)

    def read(self):
        """Return the whole tensor.

        Returns
        -------
        Tensor, shape `shape`, dtype `dtype`
            A tensor of its own from a file, the detached tensor itself from memory.

        Raises
        ------
        CheckpointError
            If the file was closed, changed or cut since it was opened.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.sources import open_weights
        >>> open_weights({"weight": torch.ones(2, 2)}).tensors["weight"].read().sum()
        tensor(4.)
        """
        return self.reader.read()

    def rows(self, start, stop):
        """Return the entries `start` to `stop` - 1 of axis 0, reading no others.

        Parameters
        ----------
        start, stop : int
            As in a slice; beyond the end means to the end.

        Returns
        -------
        Tensor, shape (stop - start, ...), dtype `dtype`
            The block.

        Raises
        ------
        CheckpointError
            If the file was closed, changed or cut since it was opened.
        InvalidInputError
            If the tensor has no axis 0.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.sources import open_weights
        >>> open_weights({"weight": torch.arange(6.0).reshape(3, 2)}).tensors["weight"].rows(1, 2)
        tensor([[2., 3.]])
        """
        start, stop, _ = slice(start, stop).indices(self._length())
        return self.reader.rows(start, max(start, stop))

    def take(self, index):
        """Return some entries of axis 0, in the order asked for, reading no others.

        Parameters
        ----------
        index : sequence of int, shape (k,)
            Positions from 0 to ``shape[0] - 1``, in any order, repeats allowed.

        Returns
        -------
        Tensor, shape (k, ...), dtype `dtype`
            The entries.

        Raises
        ------
        CheckpointError
            If the file was closed, changed or cut since it was opened.
        InvalidInputError
            If a position lies outside the tensor.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.sources import open_weights
        >>> open_weights({"weight": torch.arange(6.0).reshape(3, 2)}).tensors["weight"].take([2, 0])
        tensor([[4., 5.],
                [0., 1.]])
        """
        n = self._length()
        index = np.asarray(index.cpu() if isinstance(index, torch.Tensor) else index)
        index = index.reshape(-1).astype(np.int64) if index.size == 0 else index
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise InvalidInputError(f"index must be whole numbers in one row; got {index.dtype} {index.shape}.")
        if index.size and (index.min() < 0 or index.max() >= n):
            raise InvalidInputError(
                f"index must lie in 0..{n - 1} for {self.name!r} of shape {self.shape}; got {index.min()}.."
                f"{index.max()}."
            )
        return self.reader.take(index)

    def _length(self):
        if not self.shape:
            raise InvalidInputError(f"{self.name!r} is a single number and has no rows: use read().")
        return self.shape[0]


class MemoryReader:
    """Rows of a tensor in memory; views, no copies.

    Parameters
    ----------
    tensor : Tensor
        Any dense tensor.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.stored_tensors import MemoryReader
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
        >>> from sciml.stats.spectra.stored_tensors import MemoryReader
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
        >>> from sciml.stats.spectra.stored_tensors import MemoryReader
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
        >>> from sciml.stats.spectra.stored_tensors import MemoryReader
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
    >>> from sciml.stats.spectra.stored_tensors import ComputedReader
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
    >>> from sciml.stats.spectra.stored_tensors import FileReader, RegularFile
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
        >>> from sciml.stats.spectra.stored_tensors import FileReader, RegularFile
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
        >>> from sciml.stats.spectra.stored_tensors import FileReader, RegularFile
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
        >>> from sciml.stats.spectra.stored_tensors import FileReader, RegularFile
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


class RegularFile:
    """A regular file that is open for reading by position; never a pipe, a device or a folder.

    Parameters
    ----------
    path : str or path-like
        The file.

    Raises
    ------
    CheckpointError
        If there is no such file, it may not be read, or it is no regular file.

    Examples
    --------
    >>> import tempfile
    >>> from sciml.stats.spectra.stored_tensors import RegularFile
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     _ = f.write(b"abc")
    ...     f.flush()
    ...     RegularFile(f.name).size
    3
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        # Without O_NONBLOCK, opening a pipe would wait for its other end for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            fd = os.open(self.path, flags)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CheckpointError(
                f"{self.path!r} cannot be opened: {reason}. Pass the path of a readable file; nothing is downloaded.",
                path=self.path,
            ) from error
        self._closer = weakref.finalize(self, os.close, fd)
        self._fd = fd
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise CheckpointError(
                f"{self.path!r} is no regular file but a {_kind(status.st_mode)}. Copy its content into a file first.",
                path=self.path,
            )
        self.size = status.st_size
        self._stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def read(self, offset, nbytes):
        """Return bytes of the file, as many as asked for.

        Parameters
        ----------
        offset : int
            Where they begin, in bytes.
        nbytes : int
            How many.

        Returns
        -------
        Tensor, shape (nbytes,), uint8
            A tensor of its own.

        Raises
        ------
        CheckpointError
            If the range does not lie inside the file, or the file was closed, changed or cut since it was opened.

        Examples
        --------
        >>> import tempfile
        >>> from sciml.stats.spectra.stored_tensors import RegularFile
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     _ = f.write(b"abc")
        ...     f.flush()
        ...     RegularFile(f.name).read(1, 2)
        tensor([98, 99], dtype=torch.uint8)
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise self._error(f"has {self.size} bytes, and bytes {offset} to {offset + nbytes} were asked for")
        if not self._closer.alive:
            raise self._error("was closed. Read inside the with block", remedy=False)
        buffer = torch.empty(nbytes, dtype=torch.uint8)
        view, done = memoryview(buffer.numpy()), 0
        while done < nbytes:
            got = self._read_into(view[done:], offset + done)
            if got == 0:
                raise self._error("was cut while it was read")
            done += got
        status = os.fstat(self._fd)
        if (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != self._stamp:
            raise self._error("changed since it was opened")
        return buffer

    def close(self):
        """Close the file; a second call does nothing.

        Examples
        --------
        >>> import tempfile
        >>> from sciml.stats.spectra.stored_tensors import RegularFile
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     RegularFile(f.name).close()
        """
        self._closer()

    def __reduce__(self):
        # A worker process opens the file anew, and must find the same one.
        return _reopen, (self.path, self._stamp)

    def _read_into(self, view, offset):
        try:
            if hasattr(os, "preadv"):
                return os.preadv(self._fd, [view], offset)
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(view))
            view[: len(data)] = data
            return len(data)
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}") from error

    def _error(self, what, remedy=True):
        advice = ". Write the file anew, completely, before it is opened." if remedy else "."
        return CheckpointError(f"{self.path!r} {what}{advice}", path=self.path)


def _reopen(path, stamp):
    file = RegularFile(path)
    if file._stamp != stamp:
        raise CheckpointError(f"{path!r} changed since it was opened. Open it again.", path=path)
    return file


def _kind(mode):
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((word for test, word in kinds.items() if test(mode)), "device")


class WeightSource:
    """Tensors by name, with what is known about them; the files behind them stay open until :meth:`close`.

    Parameters
    ----------
    tensors : dict of str to StoredTensor
        In the order of the file or module.
    skipped : list of (str, str)
        What is no dense tensor, with the reason.
    metadata : dict
        Plain values: ``num_heads``, ``num_kv_heads``, ``lora_alpha``, ``r`` and others where they are known, and whole
        under ``"config"``, ``"adapter_config"`` and ``"file"`` what the files beside the weights say.
    modules : dict of str to ModuleInfo
        All submodules by name, the module itself as ""; empty unless a module was given.
    files : list of RegularFile
        What to close.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.sources import open_weights
    >>> with open_weights(torch.nn.Linear(3, 2)) as source:
    ...     print(source)
    <WeightSource: 2 tensors, 0 skipped>
    """

    def __init__(self, tensors, skipped=(), metadata=None, modules=None, files=()):
        self.tensors = dict(tensors)
        self.skipped = list(skipped)
        self.metadata = dict(metadata or {})
        self.modules = dict(modules or {})
        self.files = list(files)

    def close(self):
        """Close the files; a second call does nothing.

        Examples
        --------
        >>> import torch
        >>> from sciml.stats.spectra.sources import open_weights
        >>> open_weights({"weight": torch.ones(2, 2)}).close()
        """
        for file in self.files:
            file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __repr__(self):
        return f"<WeightSource: {len(self.tensors)} tensors, {len(self.skipped)} skipped>"
