r"""Quantised weights: which tensors hold numbers, scales and zero points, and the matrix that they stand for.

.. math:: W_{ij} = s_{IJ} (q_{ij} - z_{IJ}), \qquad I = \lfloor i / a \rfloor, \; J = \lfloor j / b \rfloor

Recognised by keys and shapes: integers or eight-bit floats with a scale for the tensor, each row, each column, each
group or each block; GPTQ, AWQ, compressed-tensors, bitsandbytes, MXFP4 and NVFP4.

Notation  q stored number; s scale; z zero point; a x b block of entries that share them.
Cost      rows are dequantised to float32 as they are read, never the matrix at once. The first and the last row are
          read beforehand: parts that do not fit each other are a reason to set the weight aside.
Pitfalls  integers without a scale are no weights and stay aside. A scale never makes a weight of a tensor that is
          floating point already: norms have siblings called `scale` too.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import dataclass

import torch

from sciml.exceptions import CheckpointError
from sciml.stats.spectra.packed_floats import Blockwise4, Float4
from sciml.stats.spectra.packed_weights import Awq, Gptq, PackedColumns
from sciml.stats.spectra.unpacking import Restored, fetch

__all__ = ["Scaled", "find_quantised"]

_SCALES = ("{key}_scale", "{key}_scale_inv", "{key}.scale", "{key}_scales", "{path}scale", "{path}scales", "{path}SCB")
_ZEROS = ("{key}_zero_point", "{key}.zero_point", "{path}zero_point", "{path}zero_points", "{path}zeros")
_STATE = re.compile(r"^(?P<weight>.*)\.quant_state\.bitsandbytes__(nf4|fp4)$")
_BNB = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


@dataclass(frozen=True, eq=False)
class Scaled(Restored):
    """Numbers of eight bits with scales, and perhaps zero points, for blocks of entries.

    Parameters
    ----------
    codes : object
        Stored numbers, of any number of axes.
    scale : object
        With as many axes, each of length one, of the weight's length, or of its number of blocks.
    zero : object or None
        Likewise; None: there are none.
    axis : int or None
        Axis along which a scale of one axis lies; None: it has as many axes as the numbers.
    block : tuple of int or None
        Sizes of blocks along the last two axes; None: 128 where that fits, else equal parts.
    factor : float
        Scale of all; 1 by default.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.quantised import Scaled
    >>> def stored(T):
    ...     return SimpleNamespace(shape=tuple(T.shape), rows=lambda a, b: T[a:b])
    >>> codes, scale = torch.ones(2, 4, dtype=torch.int8), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> Scaled(stored(codes), stored(scale)).rows(1, 2).tolist()
    [[3.0, 3.0, 4.0, 4.0]]
    """

    codes: object
    scale: object
    zero: object | None = None
    axis: int | None = None
    block: tuple | None = None
    factor: float = 1.0

    @property
    def shape(self):
        """Of the numbers."""
        return tuple(self.codes.shape)

    def decode(self, index):
        """Return entries along the first axis as float32.

        Parameters
        ----------
        index : torch.Tensor, shape (b,)
            Numbers along the first axis.

        Returns
        -------
        torch.Tensor, shape (b, ...)
            Dequantised.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.quantised import Scaled
        >>> def stored(T):
        ...     return SimpleNamespace(shape=tuple(T.shape), rows=lambda a, b: T[a:b])
        >>> codes, scale = torch.ones(2, 2, dtype=torch.int8), torch.tensor([1.0, 2.0])
        >>> Scaled(stored(codes), stored(scale), axis=0).decode(torch.tensor([1])).tolist()
        [[2.0, 2.0]]
        """
        values = fetch(self.codes, index).to(torch.float32)
        if self.zero is not None:
            values = values - self._spread(self.zero, index)
        return values * (self._spread(self.scale, index) * self.factor)

    def _spread(self, stored, index):
        """Return scales of the entries asked for, each axis of length one or of full length."""
        shape = tuple(stored.shape)
        if shape == ():
            return _numbers(stored.read().cpu(), stored is self.scale)
        if len(shape) < len(self.shape):
            place = [1] * len(self.shape)
            axis = 0 if self.axis is None else self.axis % len(self.shape)
            place[axis : axis + len(shape)] = shape
            shape = tuple(place)
        sizes = [self._block(axis, shape[axis]) for axis in range(len(shape))]
        if stored.shape[0] == shape[0] and shape[0] > 1:
            values = fetch(stored, index // sizes[0]).reshape(len(index), *shape[1:])
        else:
            values = stored.rows(0, stored.shape[0]).cpu().reshape(shape)
        values = _numbers(values, stored is self.scale)
        for axis in range(1, len(shape)):
            if 1 < shape[axis] < self.shape[axis]:
                values = values.index_select(axis, torch.arange(self.shape[axis]) // sizes[axis])
        return values

    def _block(self, axis, count):
        return _block_size(self.shape[axis], count, axis - len(self.shape), self.block) or 1


def _numbers(values, is_scale):
    """Return float32; a scale stored as a byte is a power of two with an offset of 127."""
    values, byte = values.to(torch.float32), values.dtype == torch.uint8
    return torch.exp2(values - 127) if is_scale and byte else values


def _block_size(size, count, axis, block):
    """Return how many entries of an axis share a scale, None where the count does not fit."""
    if count == 1:
        return max(size, 1)
    if count == size:
        return 1
    if count == 0:
        return None
    choices = [block[axis]] if block is not None and axis >= -2 else []
    choices += [128] + ([size // count] if size % count == 0 else [])
    return next((choice for choice in choices if choice and -(-size // choice) == count), None)


def find_quantised(tensors, metadata):
    """Return the dequantised tensors among stored ones.

    Parameters
    ----------
    tensors : dict
        Stored tensors by key.
    metadata : dict
        With `quantization_config`, or its entries, where known.

    Returns
    -------
    restored : dict
        What looks like a stored tensor of float32, by the key of the tensor that holds the numbers.
    reasons : dict
        What the other keys are: scales, zero points, groups; also packed numbers that cannot be read.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.quantised import find_quantised
    >>> from sciml.stats.spectra.sources import open_weights
    >>> weights = {"q.weight": torch.ones(4, 8, dtype=torch.int8), "q.weight_scale": torch.ones(4, 1)}
    >>> restored, reasons = find_quantised(open_weights(weights).tensors, {})
    >>> restored["q.weight"].shape, reasons
    ((4, 8), {'q.weight_scale': 'scale of q.weight'})
    """
    config = metadata.get("quantization_config") or metadata
    restored, reasons = {}, {}
    for key, stored in tensors.items():
        path, _, leaf = key.rpartition(".")
        path = f"{path}." if path else ""
        state = _STATE.match(key)
        if state:
            key = state["weight"]
        elif not (leaf in ("qweight", "weight_packed") or leaf.endswith("_blocks") or _is_byte(stored, leaf)):
            continue
        try:
            found = _found(tensors, config, key, path, reasons, state and state.string)
            if found is not None and 0 not in found.shape:
                _try(found)
        except CheckpointError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, UserWarning) as error:
            reasons[key] = f"quantised: its parts do not fit each other ({type(error).__name__})"
            continue
        if found is not None:
            restored[key] = found
    return restored, reasons


def _is_byte(stored, leaf):
    return stored.dtype.itemsize == 1 and stored.dtype != torch.bool and leaf not in ("SCB", "weight_format")


def _found(tensors, config, key, path, reasons, state):
    """Return the weight that a key stands for, None where it stands for none."""
    leaf = key.rpartition(".")[2]
    if state:
        return _bitsandbytes(tensors, key, state, reasons)
    if leaf == "qweight":
        return _packed_rows(tensors, config, key, path, reasons)
    if leaf == "weight_packed":
        return _compressed(tensors, key, path, reasons)
    if leaf.endswith("_blocks") and f"{key[:-7]}_scales" in tensors:
        return _mxfp4(tensors, key, reasons)
    return _scaled(tensors, config, key, path, reasons) if _is_byte(tensors[key], leaf) else None


def _try(found):
    """Read the first and the last row, so that parts which do not fit are known before anything is computed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.take([0, found.shape[0] - 1])


def _first(tensors, patterns, key, path):
    """Return the first key that is there, and its tensor."""
    for pattern in patterns:
        name = pattern.format(key=key, path=path)
        if name in tensors and name != key:
            return name, tensors[name]
    return None, None


def _scaled(tensors, config, key, path, reasons):
    """Return numbers of eight bits with their scale, None where there is none that fits."""
    stored, leaf = tensors[key], key.rpartition(".")[2]
    # A lone `scale` beside a whole module belongs to its weight, not to anything else of eight bits there.
    scales = _SCALES if leaf in ("weight", "weight_orig", "qweight", "_data", "w") else _SCALES[:4]
    scales = (*scales, "{path}_scale") if leaf == "_data" else scales
    name, scale = _first(tensors, scales, key, path)
    if scale is None or len(stored.shape) < 2 or not (scale.dtype.is_floating_point or scale.dtype == torch.uint8):
        return None
    zero_name, zero = _first(tensors, (*_ZEROS, "{path}_shift") if leaf == "_data" else _ZEROS, key, path)
    block = _block(config)
    axis = _fits(stored.shape, scale.shape, block)
    if axis is False or (zero is not None and _fits(stored.shape, zero.shape, block) is False):
        reasons[key] = f"quantised: a scale of shape {tuple(scale.shape)} does not fit {tuple(stored.shape)}"
        return None
    reasons[name] = f"scale of {key}"
    if zero_name:
        reasons[zero_name] = f"zero point of {key}"
    # LLM.int8() keeps the largest modulus of each row, which stands for 127.
    return Scaled(stored, scale, zero, axis, block, 1 / 127 if name.endswith("SCB") else 1.0)


def _block(config):
    """Return the sizes of blocks with a scale of their own; None where a configuration tells none, or nonsense."""
    block = config.get("weight_block_size")
    known = isinstance(block, (list, tuple)) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)
    return tuple(block) if known else None


def _fits(shape, scale, block):
    """Return the axis along which a scale of fewer axes lies, None where it has all, False where it does not fit."""
    if len(scale) == 0 or tuple(scale) == (1,):
        return 0
    if len(scale) == 1:
        return 0 if scale[0] == shape[0] else len(shape) - 1 if scale[0] == shape[-1] else False
    if len(scale) == len(shape):
        whole = [_block_size(shape[k], scale[k], k - len(shape), block) for k in range(len(shape))]
        return False if None in whole else None
    return 0 if tuple(scale) == tuple(shape[: len(scale)]) else False


def _packed_rows(tensors, config, key, path, reasons):
    """Return a GPTQ or AWQ weight, told apart by the shape of the scales."""
    codes, zeros, scales = tensors[key], tensors.get(f"{path}qzeros"), tensors.get(f"{path}scales")
    if codes.dtype != torch.int32:
        return _scaled(tensors, config, key, path, reasons) if codes.dtype.itemsize == 1 else None
    for name, what in (("qzeros", "zero points"), ("scales", "scales"), ("g_idx", "groups of inputs")):
        if f"{path}{name}" in tensors:
            reasons[f"{path}{name}"] = f"{what} of {key}"
    if zeros is None or scales is None or {len(t.shape) for t in (codes, zeros, scales)} != {2} or 0 in scales.shape:
        reasons[key] = "packed weight of an unknown layout: no scales and zero points of two axes beside it"
        return None
    outputs = scales.shape[1]
    if codes.shape[1] * 8 == outputs and tuple(zeros.shape) == (scales.shape[0], outputs // 8):
        return Awq(codes, zeros, scales)
    bits = 32 * zeros.shape[1] // outputs
    if codes.shape[1] != outputs or bits not in (2, 3, 4, 8):
        reasons[key] = f"packed weight of an unknown layout: {tuple(codes.shape)} with scales {tuple(scales.shape)}"
        return None
    _check_groups(tensors.get(f"{path}g_idx"), codes.shape[0] * 32 // bits, min(scales.shape[0], zeros.shape[0]))
    shift = 0 if config.get("checkpoint_format") == "gptq_v2" else 1
    return Gptq(codes, zeros, scales, tensors.get(f"{path}g_idx"), bits, shift)


def _check_groups(groups, inputs, count):
    """Raise an error where the groups of inputs are not one number for each input, from 0 to count - 1."""
    if groups is None or 0 in (inputs, *groups.shape):
        return
    numbers = groups.read()
    if tuple(numbers.shape) != (inputs,) or int(numbers.min()) < 0 or int(numbers.max()) >= count:
        raise ValueError(f"groups of shape {tuple(numbers.shape)} for {inputs} inputs in {count} groups")


def _compressed(tensors, key, path, reasons):
    """Return a weight of compressed-tensors: packed integers, or floats of four bits."""
    codes, scales = tensors[key], tensors.get(f"{path}weight_scale")
    zeros, groups = tensors.get(f"{path}weight_zero_point"), tensors.get(f"{path}weight_g_idx")
    for name in ("weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape", "weight_global_scale"):
        if f"{path}{name}" in tensors:
            reasons[f"{path}{name}"] = f"{name.removeprefix('weight_').replace('_', ' ')} of {key}"
    sizes = tensors.get(f"{path}weight_shape")
    if scales is None or len(codes.shape) != 2 or len(scales.shape) != 2:
        reasons[key] = "packed weight without a scale of two axes"
        return None
    if codes.dtype == torch.uint8:
        whole = tensors.get(f"{path}weight_global_scale")
        return Float4(codes, scales, 1.0 if whole is None else 1 / float(whole.read().reshape(-1)[0]))
    if sizes is None:
        reasons[key] = "packed weight without its shape"
        return None
    columns = int(sizes.read()[1])
    # Some widths fill the same number of words: the usual ones come first.
    bits = next((b for b in (4, 8, 2, 3, 5, 6) if -(-columns // (32 // b)) == codes.shape[1]), None)
    if bits is None:
        reasons[key] = f"packed weight of an unknown layout: {tuple(codes.shape)} for {columns} columns"
        return None
    _check_groups(groups, columns, scales.shape[1])
    return PackedColumns(codes, scales, zeros, groups, columns, bits)


def _mxfp4(tensors, key, reasons):
    """Return experts in floats of four bits: `..._blocks` with `..._scales`."""
    codes, scales = tensors[key], tensors[f"{key[:-7]}_scales"]
    if codes.dtype != torch.uint8 or tuple(codes.shape[:-1]) != tuple(scales.shape) or len(codes.shape) < 3:
        return None
    reasons[f"{key[:-7]}_scales"] = f"scales of {key}"
    return Float4(codes, scales)


def _bitsandbytes(tensors, key, state_key, reasons):
    """Return a weight of four bits of bitsandbytes, whose state is a JSON text stored as bytes."""
    for name in (*_BNB, "quant_state"):
        if f"{key}.{name}" in tensors:
            reasons[f"{key}.{name}"] = f"quantisation state of {key}"
    reasons[state_key] = f"quantisation state of {key}"
    codes, absmax, table = (tensors.get(name) for name in (key, f"{key}.absmax", f"{key}.quant_map"))
    if codes is None or absmax is None or table is None or codes.dtype != torch.uint8:
        if codes is not None:
            reasons[key] = "packed weight of four bits without its maxima and its table of values"
        return None
    try:
        state = json.loads(bytes(tensors[state_key].read().to(torch.uint8).tolist()))
        shape, block = tuple(int(size) for size in state["shape"]), int(state["blocksize"])
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        reasons[key] = "packed weight of four bits whose state cannot be read"
        return None
    if min(shape, default=0) < 0 or math.prod(shape) > 2 * math.prod(codes.shape) or not 0 < block <= 2**20:
        raise ValueError(f"{math.prod(codes.shape)} bytes for shape {shape} in blocks of {block}")
    if tuple(table.shape) != (16,):
        raise ValueError(f"a table of {tuple(table.shape)} values")
    nested = None
    if f"{key}.nested_absmax" in tensors:
        outer_table = tensors[f"{key}.nested_quant_map"].read().cpu()
        if tuple(outer_table.shape) != (256,) or absmax.dtype != torch.uint8:
            raise ValueError(f"a table of {tuple(outer_table.shape)} values for {absmax.dtype}")
        nested = (
            outer_table,
            tensors[f"{key}.nested_absmax"],
            int(state["nested_blocksize"]),
            float(state["nested_offset"]),
        )
    return Blockwise4(codes, absmax, table.read().cpu(), shape, block, nested)
