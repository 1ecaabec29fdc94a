"""A layer: one matrix, or several that belong together, read when asked.

Notation  rows x cols of one matrix; n_slices matrices of equal shape.
Cost      a matrix reads its own rows, a block of rows no others.
Pitfalls  matrices of a module in memory are its parameters, not copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.unpacking import Restored
from sciml.stats.spectra.views import Cut, Turned, as_matrix_dtype, forget

__all__ = ["Layer"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Layer:
    """One layer: a matrix, or several of equal shape that belong together, still unread.

    Parameters
    ----------
    name : str
        Unique; the tensor's key, with the part in square brackets where the tensor holds several layers.
    tensor : str
        Key of the stored tensor.
    module : str
        Path of the module that holds it.
    kind : str
        "linear", "embedding", "conv", "recurrent", "attention", "expert", "adapter" or "spectral".
    shape : tuple of int
        Of the stored tensor.
    views : tuple
        One view for each matrix.
    stored_dtype : str
        As stored, without "torch.".
    part : str
        What the layer is of its tensor ("q", "input gate", "head"); "fused" where parts are known to exist but not
        where they lie; empty by default.
    low_rank : int or None
        Rank of an adapter's product; None (the default) otherwise.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.layouts import layers_of
    >>> W = torch.arange(6.0).reshape(3, 2)
    >>> stored = SimpleNamespace(shape=W.shape, dtype=W.dtype, rows=lambda a, b: W[a:b], take=lambda i: W[i])
    >>> layers, skipped = layers_of(SimpleNamespace(tensors={"fc.weight": stored}))
    >>> layers[0], layers[0].take([2]).tolist()
    (<Layer fc.weight linear 3 x 2>, [[4.0, 5.0]])
    """

    name: str
    tensor: str
    module: str
    kind: str
    shape: tuple
    views: tuple = field(repr=False)
    stored_dtype: str
    part: str = ""
    low_rank: int | None = None

    def __repr__(self):
        slices = f" x {self.n_slices} matrices" if self.n_slices > 1 else ""
        return f"<Layer {self.name} {self.kind} {self.rows} x {self.cols}{slices}>"

    @property
    def rows(self):
        """Rows of one matrix."""
        return int(self.views[0].shape[0])

    @property
    def cols(self):
        """Columns of one matrix."""
        return int(self.views[0].shape[1])

    @property
    def n_slices(self):
        """Number of matrices that belong together."""
        return len(self.views)

    @property
    def is_complex(self):
        """Whether the matrices are complex."""
        return self.views[0].dtype.is_complex

    @property
    def numel(self):
        """Number of entries of all matrices; for an adapter, of its factors."""
        if self.low_rank is not None:
            return self.low_rank * (self.rows + self.cols)
        return self.rows * self.cols * self.n_slices

    def matrix(self, k=0):
        """Read matrix number `k`.

        Parameters
        ----------
        k : int
            From 0 (the default) to n_slices - 1.

        Returns
        -------
        torch.Tensor, shape (rows, cols)
            float64, float32 or complex as stored; shorter and quantised weights as float32. For a module in memory it
            may be the parameter itself: do not change it.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.layouts import layers_of
        >>> W = torch.ones(4, 2, dtype=torch.bfloat16)
        >>> stored = SimpleNamespace(shape=W.shape, dtype=W.dtype, rows=lambda a, b: W[a:b])
        >>> layers_of(SimpleNamespace(tensors={"fc.weight": stored}))[0][0].matrix().dtype
        torch.float32
        """
        return as_matrix_dtype(self.views[k].rows(0, self.rows))

    def matrices(self):
        """Read all matrices in turn, sharing readings where they share rows.

        Yields
        ------
        torch.Tensor, shape (rows, cols)
            As `matrix` returns it.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.layouts import layers_of
        >>> W = torch.ones(16, 16, 3)
        >>> stored = SimpleNamespace(shape=W.shape, dtype=W.dtype, rows=lambda a, b: W[a:b])
        >>> len(list(layers_of(SimpleNamespace(tensors={"conv.weight": stored}))[0][0].matrices()))
        3
        """
        for k in range(self.n_slices):
            yield self.matrix(k)
        forget()

    def row_blocks(self, k=0, nbytes=64 * 2**20):
        """Read matrix number `k` in blocks of rows.

        Parameters
        ----------
        k : int
            From 0 (the default) to n_slices - 1.
        nbytes : int
            Bytes that a block may take; 64 MiB by default. A block has at least one row.

        Yields
        ------
        torch.Tensor, shape (b, cols)
            In the dtype of `matrix`.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.layouts import layers_of
        >>> W = torch.ones(5, 2)
        >>> stored = SimpleNamespace(shape=W.shape, dtype=W.dtype, rows=lambda a, b: W[a:b])
        >>> layer = layers_of(SimpleNamespace(tensors={"fc.weight": stored}))[0][0]
        >>> [len(block) for block in layer.row_blocks(nbytes=16)]
        [2, 2, 1]
        """
        view = self.views[k]
        if isinstance(view, Turned):
            # Its rows are spread over the stored matrix, which is read once rather than once for each block.
            matrix, read = self.matrix(k), None
        else:
            matrix, read = None, view.rows
        row = self.cols * max(view.dtype.itemsize, 4)
        if isinstance(view, Cut):
            row = max(row, self._stored_row(view.base))
            # Numbers and places of packed weights are integers of four or eight bytes for a while.
            row *= 4 if isinstance(view.base, Restored) else 1
        step = max(int(nbytes // row), 1)
        for start in range(0, self.rows, step):
            stop = min(start + step, self.rows)
            yield matrix[start:stop] if read is None else as_matrix_dtype(read(start, stop))

    def take(self, index, k=0):
        """Read single rows of matrix number `k`.

        Parameters
        ----------
        index : sequence of int
            Row numbers, in any order.
        k : int
            From 0 (the default) to n_slices - 1.

        Returns
        -------
        torch.Tensor, shape (len(index), cols)
            In the dtype of `matrix`.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.layouts import layers_of
        >>> W = torch.arange(6.0).reshape(3, 2)
        >>> stored = SimpleNamespace(shape=W.shape, dtype=W.dtype, take=lambda i: W[i])
        >>> layers_of(SimpleNamespace(tensors={"fc.weight": stored}))[0][0].take([2, 0]).tolist()
        [[4.0, 5.0], [0.0, 1.0]]
        """
        return as_matrix_dtype(self.views[k].take([int(i) for i in index]))

    def factors(self):
        """Read the factors of an adapter: its matrix is scale * B @ A.

        Returns
        -------
        (torch.Tensor, torch.Tensor, float)
            B (rows, r), A (r, cols) and the scale.

        Raises
        ------
        InvalidInputError
            If the layer is no adapter.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.layouts import layers_of
        >>> def stored(W):
        ...     return SimpleNamespace(shape=W.shape, dtype=W.dtype, rows=lambda a, b: W[a:b])
        >>> tensors = {"q.lora_A.weight": stored(torch.ones(2, 8)), "q.lora_B.weight": stored(torch.ones(6, 2))}
        >>> layer = layers_of(SimpleNamespace(tensors=tensors, metadata={"lora_alpha": 4}))[0][0]
        >>> layer, layer.factors()[2]
        (<Layer q[adapter] adapter 6 x 8>, 2.0)
        """
        if self.low_rank is None:
            raise InvalidInputError(f"layer must be an adapter to have factors; {self.name} is none. Use matrix.")
        return self.views[0].factors()

    @staticmethod
    def _stored_row(base):
        size = base.dtype.itemsize
        for extent in base.shape[1:]:
            size *= extent
        return size
