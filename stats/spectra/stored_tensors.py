r"""Tensors that wait in a file or in memory until some of their rows are asked for.

.. math:: \text{byte of entry } (i_0, i_1, \dots) = \text{offset} + \text{itemsize} \sum_k i_k \, \text{stride}_k

Notation  offset and itemsize in bytes; strides in entries; a block is a range of indices along axis 0.
Cost      a block costs the bytes of its rows, once.
Pitfalls  blocks of tensors in memory share it: do not write there.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from sciml.exceptions import InvalidInputError


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
