r"""The matrices that the tensors of a network hold, one layer each.

.. math:: T \to \{W^{(1)}, \dots, W^{(k)}\}

A tensor may hold one matrix, several that belong together (the positions of a kernel: one layer of several matrices),
several that do not (gates, queries with keys and values, experts: a layer each), or none. Every tensor is accounted
for: it belongs to a layer, or to the list of those set aside with the reason.

Notation  T stored tensor, W matrix; rows x cols of one matrix; n_slices matrices of one layer.
Cost      nothing is read but shapes and the numbers of heads; a layer reads its rows when asked.
Pitfalls  a state dict tells less than a module: what names and shapes do not tell stays whole (`part` is "fused").
          Weights tied to each other are one layer, under the first of their keys.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field, replace

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.adapters import find_adapters
from sciml.stats.spectra.convolutions import (
    convolution_views,
    is_convolution,
    is_spectral,
    spectral_views,
    stack_views,
)
from sciml.stats.spectra.experts import expert_parts, is_expert
from sciml.stats.spectra.fused import Reading, is_transposed, split_fused_weight
from sciml.stats.spectra.names import kind_of, logical_key, reason_to_skip
from sciml.stats.spectra.quantised import find_quantised
from sciml.stats.spectra.views import Cut, Turned, as_matrix_dtype, forget
from sciml.validation import check_number, check_option

__all__ = ["Layer", "layers_of"]

_RECURRENT_WORDS = ("weight_ih", "weight_hh", "weight_hr")


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


def layers_of(
    source,
    *,
    conv="slice",
    split_fused=True,
    qkv_layout=None,
    num_heads=None,
    num_kv_heads=None,
    min_size=16,
    include=None,
    exclude=None,
):
    r"""Return the layers of a source of weights, and the tensors that are none with the reason.

    Parameters
    ----------
    source : object
        With `tensors`, a dict of stored tensors by key; perhaps `metadata` and `modules`.
    conv : {"slice", "flatten"}
        Kernels as one matrix for each position (the default) or as outputs x (inputs positions).
    split_fused : bool
        Cut gates, queries with keys and values, gate with up; True by default.
    qkv_layout : {None, "contiguous", "interleaved"}
        Order of fused attention weights; None (the default): by names, whole where they do not tell.
    num_heads, num_kv_heads : int or None
        Heads of the attention and groups of keys and values; None (the default): from module and metadata.
    min_size : int
        Smallest side of a kernel's slices, below which they are flattened; 16 by default.
    include, exclude : str, sequence of str or None
        Shell patterns over keys, such as "*.mlp.*"; None (the default): everything, nothing.

    Returns
    -------
    list of Layer
        In the order of the source.
    list of (str, str)
        Keys of all other tensors with the reason.

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.layouts import layers_of
    >>> model = torch.nn.LSTM(8, 16)
    >>> layers, skipped = layers_of(SimpleNamespace(tensors=model.state_dict()))
    >>> [layer.name for layer in layers[:2]], len(layers), skipped[0]
    (['weight_ih_l0[input gate]', 'weight_ih_l0[forget gate]'], 8, ('bias_ih_l0', '1 dimension'))
    """
    check_option("conv", conv, ("slice", "flatten"))
    if qkv_layout is not None:
        check_option("qkv_layout", qkv_layout, ("contiguous", "interleaved"))
    min_size = check_number("min_size", min_size, low=1, integer=True)
    for name, value in (("num_heads", num_heads), ("num_kv_heads", num_kv_heads)):
        if value is not None:
            check_number(name, value, low=1, integer=True)
    tensors, metadata = source.tensors, _settings(getattr(source, "metadata", None))
    modules = getattr(source, "modules", {}) or {}
    restored, consumed = find_quantised(tensors, metadata)
    shapes = {logical_key(key): tuple(restored.get(key, stored).shape) for key, stored in tensors.items()}
    reading = Reading(metadata, modules, shapes, qkv_layout, num_heads, num_kv_heads)
    adapters, sums, factors = find_adapters(tensors, restored, metadata, modules)
    consumed = {**factors, **consumed}
    left_out = _filter(tensors, include, exclude)

    layers, skipped, ties = [], [], {}
    for key, stored in tensors.items():
        tie = getattr(stored, "tie", None)
        new = left_out.get(key) or consumed.get(key)
        if new is None and key in adapters:
            new = [_adapter_layer(key, stored, adapters[key])]
        elif new is None and tie is not None and tie in ties:
            new = f"tied to {ties[tie]}"
        elif new is None:
            new = _layers_of_tensor(key, restored.get(key, stored), stored, reading, conv, split_fused, min_size)
            if not isinstance(new, str):
                new += [_adapter_layer(key, stored, entry, new[0].kind) for entry in sums.get(key, ())]
                ties.setdefault(tie, key)
        if isinstance(new, str):
            skipped.append((key, new))
        else:
            layers += new
    return _unique(layers), skipped


def _settings(metadata):
    """Return what configurations tell, in one dict."""
    metadata = metadata or {}
    config = metadata.get("config") or {}
    return {**(metadata.get("adapter_config") or {}), **config, **(config.get("text_config") or {}), **metadata}


def _filter(tensors, include, exclude):
    """Return the reasons of the keys that the patterns leave out."""
    patterns = {}
    for name, value in (("include", include), ("exclude", exclude)):
        value = [value] if isinstance(value, str) else value
        if value is not None and not all(isinstance(pattern, str) for pattern in value):
            raise InvalidInputError(f'{name} must hold shell patterns over keys; got {value!r}. Pass e.g. "*.mlp.*".')
        patterns[name] = value
    out = {}
    for key in tensors:
        if patterns["include"] is not None and not any(fnmatch.fnmatchcase(key, p) for p in patterns["include"]):
            out[key] = "not included"
        elif any(fnmatch.fnmatchcase(key, p) for p in patterns["exclude"] or ()):
            out[key] = "excluded"
    return out


def _layers_of_tensor(key, base, stored, reading, conv, split_fused, min_size):
    """Return the layers of one tensor, or the reason why it has none."""
    logical = logical_key(key)
    path, leaf = logical.rpartition(".")[::2]
    info = reading.modules.get(path)
    if (reason := reason_to_skip(logical, base, info)) is not None:
        return reason
    kind, part = kind_of(logical, info)
    dtype = str(stored.dtype).removeprefix("torch.")
    shape = tuple(base.shape)

    def make(kind, views, part="", name=None):
        return Layer(
            name=f"{key}[{name}]" if name else key,
            tensor=key,
            module=path,
            kind=kind,
            shape=tuple(stored.shape),
            views=tuple(views),
            stored_dtype=dtype,
            part=name or part,
        )

    if any(word in leaf for word in _RECURRENT_WORDS):
        kind = "recurrent"
    if len(shape) == 2:
        return _parts_of_matrix(logical, base, reading if split_fused else None, info, kind, part, make)
    if is_spectral(logical, shape, base.dtype.is_complex, info):
        return [make("spectral", spectral_views(base, is_complex=base.dtype.is_complex))]
    if is_convolution(logical, shape, info, min_size):
        groups, turned = getattr(info, "groups", None), bool(getattr(info, "transposed", False))
        views = convolution_views(base, conv=conv, min_size=min_size, groups=groups, transposed=turned)
        return views if isinstance(views, str) else [make("conv", views)]
    if kind == "embedding":
        return [make(kind, [Turned(base, 0, shape[0], row_axes=len(shape) - 1)], part)]
    if is_expert(logical) and len(shape) <= 4:
        parts = expert_parts(logical, shape, reading if split_fused else None)
        return [make("expert", [Turned(base, at[0], at[0] + 1, (0, *at[1:]))], name=name) for name, at in parts]
    return [make(kind, stack_views(base), part)]


def _parts_of_matrix(key, base, reading, info, kind, part, make):
    """Return the layers of a tensor of two axes: one, or one for each part of a fused weight."""
    rows, columns = (((0, size),) for size in base.shape)
    transposed = getattr(base, "transposed", False) or is_transposed(key, base.shape, info)
    parts = split_fused_weight(key, base.shape, reading, transposed) if reading is not None else None
    if parts is None or isinstance(parts, str):
        return [make(kind, [Cut(base, rows, columns)], parts or part)]
    if kind == "linear" and parts[0][0] in ("q", "k"):
        kind = "attention"
    cuts = [(name, Cut(base, rows, runs) if transposed else Cut(base, runs, columns)) for name, runs in parts]
    return [make(kind, [cut], name=name) for name, cut in cuts]


def _adapter_layer(key, stored, entry, kind="adapter"):
    """Return the layer of an adapter's product, or of a base with it."""
    view = entry.view
    return Layer(
        name=entry.name,
        tensor=key,
        module=key.rpartition(".")[0],
        kind=kind,
        shape=tuple(stored.shape),
        views=(view,),
        stored_dtype=str(stored.dtype).removeprefix("torch."),
        part=entry.part,
        low_rank=view.rank if kind == "adapter" else None,
    )


def _unique(layers):
    """Number the names that occur twice."""
    seen, unique = {}, []
    for layer in layers:
        seen[layer.name] = seen.get(layer.name, 0) + 1
        again = seen[layer.name] > 1
        unique.append(replace(layer, name=f"{layer.name}#{seen[layer.name]}") if again else layer)
    return unique
