r"""Tensors and arrays that lie in memory: single ones, state dicts, dicts inside dicts.

.. math:: \text{name} = \text{key}_1 \,.\, \text{key}_2 \,.\, \dots

Cost      nothing is copied until it is read, and then only the rows asked for.
Pitfalls  prefixes of wrappers ("module.", "_orig_mod.") are taken off, so that the same weights bear the same names.
          The state of an optimiser looks like weights and is none: it is skipped with that reason.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from sciml.exceptions import CheckpointError, InvalidInputError
from sciml.stats.spectra.stored_tensors import StoredTensor, WeightSource
from sciml.stats.spectra.tensor_names import is_optimiser_key, plain_names
from sciml.stats.spectra.tensor_readers import ComputedReader, MemoryReader

_STATE = "state of an optimiser"
_DEPTH, _REPEATED = 64, 100_000  # dicts inside dicts; values of dicts and lists that were met before


def open_mapping(values, *, plain=True):
    """Return the tensors of a state dict, of nested dicts, or of a list of tensors.

    Parameters
    ----------
    values : mapping, list or tuple
        Torch tensors or arrays, or further mappings and lists of them.
    plain : bool
        Whether to take prefixes of wrappers off the names; True by default.

    Returns
    -------
    WeightSource
        Tensors by name; everything else is in ``skipped``.

    Raises
    ------
    InvalidInputError
        If the dicts contain themselves, or unfold to far more than they hold.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.mappings import open_mapping
    >>> source = open_mapping({"model": {"a": torch.eye(2), "b": [torch.ones(3)]}, "epoch": 3})
    >>> list(source.tensors), source.skipped
    (['model.a', 'model.b.0'], [('epoch', 'no tensor: int')])
    """
    source = WeightSource({})
    _Walker(source, plain).walk("", values)
    return source


def renamed(source):
    """Take the prefixes of wrappers off the names of a source, and an optimiser's tensors out of it.

    Parameters
    ----------
    source : WeightSource
        Changed in place.

    Returns
    -------
    WeightSource
        The same.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.mappings import open_mapping, renamed
    >>> list(renamed(open_mapping({"module.a": torch.ones(2)}, plain=False)).tensors)
    ['a']
    """
    names = plain_names(source.tensors)
    found = {names[key]: replace(tensor, name=names[key]) for key, tensor in source.tensors.items()}
    source.skipped += [(name, _STATE) for name in found if is_optimiser_key(name)]
    source.tensors = {name: tensor for name, tensor in found.items() if not is_optimiser_key(name)}
    return source


def add_value(source, name, value, *, reason=None, buffer=False):
    """Put a tensor or array among the tensors of a source, or among what it skipped.

    Parameters
    ----------
    source : WeightSource
        Changed in place.
    name : str
        Its name; a number is appended where the name is taken.
    value : Tensor or array
        Its numbers.
    reason : str or None
        Why it is to be skipped whatever it is; None (the default) to look.
    buffer : bool
        Whether it is a buffer of a module; False by default.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.mappings import add_value
    >>> from sciml.stats.spectra.stored_tensors import WeightSource
    >>> source = WeightSource({})
    >>> add_value(source, "weight", torch.ones(2, device="meta"))
    >>> source.skipped
    [('weight', 'on the meta device, without numbers: load its weights first')]
    """
    taken = {name} if name in source.tensors else set()
    number, base = 2, name
    while name in taken or name in source.tensors:
        name, number = f"{base} ({number})", number + 1
    try:
        stored = stored_tensor(name, value, buffer=buffer)
    except CheckpointError:
        raise
    except InvalidInputError as error:
        reason = reason or str(error)
    if reason is None:
        source.tensors[name] = stored
    else:
        source.skipped.append((name, reason))


def stored_tensor(name, value, *, buffer=False):
    """Return a tensor or array in memory as a tensor to be read.

    Parameters
    ----------
    name : str
        Its name.
    value : Tensor or array
        Its numbers; a distributed tensor is gathered when it is read.
    buffer : bool
        Whether it is a buffer of a module; False by default.

    Returns
    -------
    StoredTensor
        It shares the memory.

    Raises
    ------
    InvalidInputError
        If it is no dense tensor of numbers; the text is the reason.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.mappings import stored_tensor
    >>> stored_tensor("weight", np.eye(2)).dtype
    torch.float64
    """
    if isinstance(value, LaterTensor):
        if value.reason is not None:
            raise InvalidInputError(value.reason)
        return value.make(name)
    reader, shape, dtype, tie = _torch(value) if isinstance(value, torch.Tensor) else _numpy(value)
    nbytes = dtype.itemsize
    for n in shape:
        nbytes *= n
    return StoredTensor(name, shape, dtype, nbytes, tie=tie, buffer=buffer, reader=reader)


class LaterTensor:
    """A tensor that a file describes, before it has a name.

    Parameters
    ----------
    make : callable or None
        Takes the name and returns the :class:`StoredTensor`; None (the default) where it cannot be read.
    reason : str or None
        Why it cannot be read; None (the default) where it can.

    Examples
    --------
    >>> from sciml.stats.spectra.mappings import LaterTensor, open_mapping
    >>> open_mapping({"mask": LaterTensor(reason="a sparse tensor")}).skipped
    [('mask', 'a sparse tensor')]
    """

    def __init__(self, make=None, reason=None):
        self.make, self.reason = make, reason


def is_array(value):
    """Tell whether a value is a tensor or an array.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    bool
        True for torch tensors, NumPy arrays, what converts to them (with ``__array__`` and ``shape``), and
        :class:`LaterTensor`.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.mappings import is_array
    >>> is_array(np.ones(2)), is_array([1.0])
    (True, False)
    """
    if isinstance(value, type):
        return False
    known = isinstance(value, (torch.Tensor, np.ndarray, LaterTensor))
    return known or (hasattr(value, "__array__") and hasattr(value, "shape"))


class _Walker:
    """A walk through containers that may hold one another, or themselves."""

    def __init__(self, source, plain):
        self.source, self.plain = source, plain
        self.seen, self.repeated = set(), 0

    def walk(self, prefix, values, reason=None, depth=0):
        # Forty lists, each holding the next one twice, unfold to 10^12: what is met again counts.
        self.repeated += len(values) + 1 if id(values) in self.seen else 0
        self.seen.add(id(values))
        if depth > _DEPTH or self.repeated > _REPEATED:
            raise InvalidInputError(
                f"obj holds itself, one part too often, or dicts deeper than {_DEPTH}, at {prefix[:80]!r}: pass a "
                "state dict of tensors"
            )
        if isinstance(values, Mapping):
            if reason is None and "param_groups" in values and "state" in values:
                reason = _STATE
                self.source.skipped.append((prefix or "obj", reason))
            names = plain_names([str(key) for key, value in values.items() if is_array(value)]) if self.plain else {}
            items = [(names.get(str(key), str(key)), value) for key, value in values.items()]
        else:
            items = [(str(key), value) for key, value in enumerate(values)]
        for key, value in items:
            name = f"{prefix}.{key}" if prefix else key
            if is_array(value):
                state = reason is None and is_optimiser_key(name)
                add_value(self.source, name, value, reason=_STATE if state else reason)
            elif isinstance(value, Mapping) or (isinstance(value, (list, tuple)) and any(map(_holds, value))):
                self.walk(name, value, reason, depth + 1)
            elif reason is None:
                self.source.skipped.append((name, f"no tensor: {type(value).__name__}"))


def _holds(value):
    return is_array(value) or isinstance(value, (Mapping, list, tuple))


def _torch(value):
    fake = getattr(torch._subclasses, "FakeTensor", ())
    if isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
        raise InvalidInputError("not initialised: run the lazy module once")
    if isinstance(value, fake) or value.is_meta:
        raise InvalidInputError("on the meta device, without numbers: load its weights first")
    if value.is_nested or value.layout != torch.strided:
        raise InvalidInputError(f"a nested or sparse tensor ({value.layout}): pass value.to_dense()")
    if value.is_quantized:
        return ComputedReader(value.dequantize), tuple(value.shape), torch.float32, None
    if hasattr(value, "full_tensor"):
        return ComputedReader(lambda: value.detach().full_tensor()), tuple(value.shape), value.dtype, None
    return MemoryReader(value), tuple(value.shape), value.dtype, _tie(value)


def _tie(value):
    try:
        place = value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return None  # a subclass without a storage of its own
    if place == 0 or value.numel() == 0:
        return None
    return str(value.device), place, value.storage_offset(), tuple(value.shape), value.stride(), value.dtype


def _numpy(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a masked array or a matrix of an old kind says so loudly
        array = np.asarray(value)
    if np.ma.is_masked(value):
        raise InvalidInputError("a masked array with masked entries: fill them first")
    kind = array.dtype.kind
    if array.dtype.name == "bfloat16":
        dtype = torch.bfloat16
    elif kind in "biufc" and array.dtype.itemsize <= {"c": 16}.get(kind, 8):
        dtype = getattr(torch, array.dtype.name)
    else:
        raise InvalidInputError(f"an array of dtype {array.dtype}, which torch has not: convert it to float64")
    place = array.__array_interface__["data"][0] if array.size and kind != "V" else None
    tie = None if place is None else ("numpy", place, array.shape, array.strides, dtype)
    return _NumpyReader(array, dtype), array.shape, dtype, tie


class _NumpyReader:
    """Rows of a NumPy array, copied, since torch takes no negative strides, foreign byte orders or read-only memory."""

    def __init__(self, array, dtype):
        self._array, self._dtype = array, dtype

    def read(self):
        return self._given(self._array)

    def rows(self, start, stop):
        return self._given(self._array[start:stop])

    def take(self, index):
        return self._given(self._array[index])

    def _given(self, array):
        if self._dtype == torch.bfloat16:
            return torch.from_numpy(array.view(np.int16).astype(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
