r"""The matrices that the tensors of a network hold, one layer each.

.. math:: T \to \{W^{(1)}, \dots, W^{(k)}\}

A tensor may hold one matrix, several that belong together (the positions of a kernel: one layer of several matrices),
several that do not (gates, queries with keys and values, experts: a layer each), or none. Every tensor is accounted
for: it belongs to a layer, or to the list of those set aside with the reason.

Notation  T stored tensor, W matrix; rows x cols of one matrix; n_slices matrices of one layer.
Cost      nothing is read but shapes, two rows and small states of packed weights and a row of what may be a mask; a
          layer reads its rows when asked.
Pitfalls  a state dict tells less than a module: what names and shapes do not tell stays whole (`part` is "fused").
          Weights tied to each other are one layer, under the first of their keys.
"""

from __future__ import annotations

import fnmatch
from dataclasses import replace

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
from sciml.stats.spectra.matrix_layers import Layer
from sciml.stats.spectra.names import is_mask, kind_of, logical_key, reason_to_skip
from sciml.stats.spectra.quantised import find_quantised
from sciml.stats.spectra.views import Cut, Turned
from sciml.validation import check_number, check_option

__all__ = ["Layer", "layers_of"]

_RECURRENT_WORDS = ("weight_ih", "weight_hh", "weight_hr")


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
    """Return what configurations tell, in one dict, without what is not of its kind: a file may tell anything."""
    metadata = _dict(metadata)
    config = _dict(metadata.get("config"))
    told = {**_dict(metadata.get("adapter_config")), **config, **_dict(config.get("text_config")), **metadata}
    counts = {key for key in told if "head" in key and not (type(told[key]) is int and 0 < told[key] < 2**31)}
    others = {key for key in ("quantization_config", "adapter_configs") if not isinstance(told.get(key), dict)}
    others |= {key for key in ("architectures",) if not isinstance(told.get(key), (list, tuple))}
    return {key: value for key, value in told.items() if key not in counts | others}


def _dict(value):
    return value if isinstance(value, dict) else {}


def _filter(tensors, include, exclude):
    """Return the reasons of the keys that the patterns leave out."""
    patterns = {}
    for name, value in (("include", include), ("exclude", exclude)):
        value = [value] if isinstance(value, str) else value
        listed = value is None or isinstance(value, (list, tuple, set, frozenset))
        if not listed or not all(isinstance(pattern, str) for pattern in value or ()):
            raise InvalidInputError(
                f'{name} must be a shell pattern over keys or a list of them; got {value!r}. Pass e.g. "*.mlp.*".'
            )
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
    if base is stored and is_mask(logical, stored):
        return "mask: zeros and minus infinity"
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
