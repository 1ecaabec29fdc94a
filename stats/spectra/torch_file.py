r"""Files that ``torch.save`` wrote, read as data: names and shapes from the pickle, numbers by position.

.. math:: \text{tensor} = (\text{storage}, \text{offset}, \text{shape}, \text{strides}), \qquad
    \text{offset} + \sum_k (n_k - 1)\, \text{stride}_k < \text{entries of the storage}

A zip file holds the pickle ``data.pkl`` and one uncompressed record for each storage; a legacy file (before torch 1.6)
holds four pickles, a list of storages and their bytes one after the other. Neither is unpickled, no torch object is
made before its rows are read, and the device that a tensor was saved on does not matter.

Cost      opening reads the pickle and the headers of the records.
Pitfalls  whole modules (``torch.save(model)``), TorchScript and exported programs are refused: they name code. A view
          that repeats its numbers (``expand``) is skipped, since it may claim any size.
References  torch.serialization and torch._utils of PyTorch 2, functions ``_legacy_save``, ``_save`` and ``_rebuild_*``.
"""

import io

import torch

from sciml.exceptions import CheckpointError, InvalidInputError
from sciml.stats.spectra.mappings import LaterTensor, open_mapping
from sciml.stats.spectra.pickle_reader import MAX_PICKLE, Cursor, GlobalName, read_pickle
from sciml.stats.spectra.regular_file import RegularFile
from sciml.stats.spectra.stored_tensors import StoredTensor
from sciml.stats.spectra.tensor_readers import FileReader
from sciml.stats.spectra.zip_records import bytes_of, placed, zip_records

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexDouble": "complex128",
    "ComplexFloat": "complex64", "Untyped": "uint8", "QInt8": "int8", "QUInt8": "uint8", "QInt32": "int32",
}  # fmt: skip
_STORAGES = {
    f"{module}.{kind}Storage": getattr(torch, name)
    for kind, name in _TYPES.items()
    for module in ("torch", "torch.cuda", "torch.storage")
}
_DTYPES = {f"torch.{key}": value for key, value in vars(torch).items() if isinstance(value, torch.dtype)}
_PLAIN = {
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.nn.Parameter",
    *(f"builtins.{name}" for name in ("int", "float", "str", "bool", "list", "dict", "tuple")),
    *(f"torch.{name}" for name in ("per_tensor_affine", "per_channel_affine", "strided", "sparse_coo", "sparse_csr",
      "contiguous_format", "channels_last", "preserve_format")),
}  # fmt: skip
_NAMES = {*_STORAGES, *_DTYPES, *_PLAIN}


def open_torch(path, *, plain=True):
    """Open a file that ``torch.save`` wrote, of the zip or the legacy format.

    Parameters
    ----------
    path : str or path-like
        The file.
    plain : bool
        Whether to take prefixes of wrappers off the names; True by default.

    Returns
    -------
    WeightSource
        Its tensors; keys of nested dicts are joined by ".".

    Raises
    ------
    UnsafeCheckpointError
        If the file names a class or function other than those of tensors and dicts.
    CheckpointError
        If the file is broken, is no file of torch, or a tensor claims numbers outside its storage.

    Examples
    --------
    >>> import tempfile, torch
    >>> from sciml.stats.spectra.torch_file import open_torch
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     torch.save({"model": {"weight": torch.eye(2)}}, f.name)
    ...     open_torch(f.name).tensors["model.weight"].rows(1, 2)
    tensor([[0., 1.]])
    """
    file = RegularFile(path)
    try:
        head = file.read(0, min(file.size, 4)).numpy().tobytes()
        value = _zip_value(file) if head[:2] == b"PK" else _legacy_value(file)
        if isinstance(value, LaterTensor):
            value = {"weight": value}
        if not isinstance(value, (dict, list, tuple)):
            raise _error(file, f"holds no tensors but a {type(value).__name__}")
        try:
            source = open_mapping(value, plain=plain)
        except CheckpointError:
            raise
        except InvalidInputError as error:
            raise _error(file, f"cannot be walked through: {error}") from None
    except BaseException:
        file.close()
        raise
    source.files.append(file)
    return source


class _Storage:
    """Bytes somewhere in a file; a legacy file says where only after its pickle."""

    def __init__(self, key, dtype, numel):
        self.key, self.dtype, self.numel = key, dtype, numel
        self.first = 0  # entries before it, for a view of a storage
        self.offset = None


class _Reading:
    """What the names in a pickle of torch mean, for one file."""

    def __init__(self, file, locate):
        self.file, self._locate, self.storages = file, locate, {}
        utils = "torch._utils."
        skip = lambda reason: lambda *_: LaterTensor(reason=reason)  # noqa: E731
        self.calls = {
            f"{utils}_rebuild_tensor": self._tensor,
            f"{utils}_rebuild_tensor_v2": self._tensor,
            f"{utils}_rebuild_tensor_v3": self._tensor_of_dtype,
            f"{utils}_rebuild_device_tensor_from_cpu_tensor": lambda data, *_: data,
            f"{utils}_rebuild_parameter": lambda data, *_: data,
            f"{utils}_rebuild_parameter_with_state": lambda data, *_: data,
            f"{utils}_rebuild_meta_tensor_no_storage": skip("on the meta device, without numbers"),
            f"{utils}_rebuild_qtensor": skip("quantised by torch: save its dequantize()"),
            f"{utils}_rebuild_sparse_tensor": skip("a sparse tensor: save its to_dense()"),
            f"{utils}_rebuild_sparse_csr_tensor": skip("a sparse tensor: save its to_dense()"),
            f"{utils}_rebuild_nested_tensor": skip("a nested tensor: save its parts"),
            "torch._tensor._rebuild_from_type_v2": self._typed,
            "torch.serialization._get_layout": str,
            "torch.device": lambda *parts: ":".join(map(str, parts)),
            "torch.Size": lambda sizes=(): tuple(sizes),
            "collections.OrderedDict": _pairs,
            "collections.Counter": _pairs,
            "collections.defaultdict": lambda kind=None, pairs=(): _pairs(pairs),
            "_codecs.encode": lambda text, *_: text,
            "builtins.set": list,
            "builtins.frozenset": list,
            "builtins.bytearray": lambda *_: b"",
            "builtins.complex": lambda *parts: parts,
            "builtins.slice": lambda *parts: parts,
        }

    def read(self, cursor):
        return read_pickle(cursor, self.file.path, calls=self.calls, names=_NAMES, persistent=self.storage)

    def storage(self, identifier):
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
            raise ValueError("an identifier that is no storage")
        kind, key, _, numel = identifier[1:5]
        if not isinstance(kind, GlobalName) or kind.name not in _STORAGES:
            raise ValueError("a storage of an unknown type")
        if not isinstance(key, str) or not _is_size(numel):
            raise ValueError("a storage without a name or a size")
        stored = self.storages.get(key)
        if stored is None:
            stored = self.storages[key] = _Storage(key, _STORAGES[kind.name], numel)
            stored.offset = self._locate(stored)
        elif stored.numel * stored.dtype.itemsize != numel * _STORAGES[kind.name].itemsize:
            raise _error(self.file, f"claims two sizes for the storage {key!r}")
        if len(identifier) == 6 and identifier[5] is not None:
            _, first, size = identifier[5]
            if not (_is_size(first) and _is_size(size) and first + size <= numel):
                raise _error(self.file, f"has a view beyond the end of the storage {key!r}")
            return _View(stored, first, size)
        return stored

    def _tensor(self, storage, offset, shape, strides, *_):
        if not isinstance(storage, (_Storage, _View)):
            raise TypeError("a tensor without a storage")
        return self._later(storage, storage.dtype, offset, shape, strides)

    def _tensor_of_dtype(self, storage, offset, shape, strides, requires_grad, hooks, dtype, *_):
        if not isinstance(storage, (_Storage, _View)) or not isinstance(dtype, GlobalName):
            raise TypeError("a tensor without a storage or dtype")
        return self._later(storage, _DTYPES[dtype.name], offset, shape, strides)

    def _typed(self, function, kind, arguments, *_):
        if not isinstance(function, GlobalName) or not isinstance(kind, GlobalName) or kind.name not in _PLAIN:
            raise TypeError("a tensor of a type of its own")
        return self.calls[function.name](*arguments)

    def _later(self, storage, dtype, offset, shape, strides):
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or len(shape) > 64 or not all(map(_is_size, numbers)):
            raise _error(self.file, f"has a tensor of shape {str(shape)[:80]} and strides {str(strides)[:80]}")
        room = storage.numel * storage.dtype.itemsize // dtype.itemsize
        numel, last = 1, offset
        for n, step in zip(shape, strides, strict=True):
            numel, last = numel * n, last + (n - 1) * step
        if numel and last >= room:
            raise _error(
                self.file, f"has a tensor of shape {str(shape)[:80]} that ends at entry {last} of a storage of {room}"
            )  # fmt: skip
        if numel > room:
            return LaterTensor(reason=f"a view that repeats {room} numbers {numel} times: save its clone()")
        return LaterTensor(lambda name: self._stored(name, storage, dtype, offset, tuple(shape), tuple(strides), numel))

    def _stored(self, name, storage, dtype, offset, shape, strides, numel):
        begin = storage.offset + storage.first * storage.dtype.itemsize + offset * dtype.itemsize
        reader = FileReader(self.file, begin, shape, strides, dtype)
        tie = ("file", self.file.path, begin, shape, strides, dtype) if numel else None
        return StoredTensor(name, shape, dtype, numel * dtype.itemsize, tie=tie, reader=reader)


class _View:
    def __init__(self, storage, first, numel):
        self._storage, self.first, self.numel, self.dtype = storage, first, numel, storage.dtype

    @property
    def offset(self):
        return self._storage.offset


def _is_size(n):
    return type(n) is int and 0 <= n < 2**63


def _pairs(values=()):
    items = values.items() if isinstance(values, dict) else values
    return {str(key): value for key, value in items}


# ---------------------------------------------------------------- the zip format


def _zip_value(file):
    records = zip_records(file)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _error(
            file,
            f"is a zip archive without the one data.pkl that torch writes; it holds {str(sorted(records)[:3])[:200]}",
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in records or any(name.startswith(f"{root}code/") for name in records):
        raise _error(file, "is a TorchScript archive, which holds code", "Save module.state_dict() with safetensors.")
    order = records.get(f"{root}byteorder")
    if order is not None and bytes_of(file, order, 16).strip() not in (b"little", b""):
        raise _error(file, "was written on a big-endian machine")

    def locate(storage):
        record = records.get(f"{root}data/{storage.key}")
        if record is None:
            raise _error(file, f"lacks the record of the storage {storage.key!r}")
        offset, size = placed(file, record)
        needed = storage.numel * storage.dtype.itemsize
        if size < needed:
            raise _error(file, f"claims {needed} bytes for the storage {storage.key!r}, whose record has {size}")
        return offset

    return _Reading(file, locate).read(io.BytesIO(bytes_of(file, records[pickles[0]], MAX_PICKLE)))


# ---------------------------------------------------------------- the legacy format


def _legacy_value(file):
    reading = _Reading(file, lambda storage: None)
    cursor = Cursor(file)
    if reading.read(cursor) != _MAGIC:
        raise _error(file, "is a pickle that torch did not write")
    reading.read(cursor)  # the version of the format, 1001 ever since
    machine = reading.read(cursor)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise _error(file, "was written on a big-endian machine")
    value = reading.read(cursor)
    keys = reading.read(cursor)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _error(file, "has no list of storages")

    position = cursor.tell()
    for key in keys:
        storage = reading.storages.get(key)
        if storage is None or storage.offset is not None:
            raise _error(file, f"lists the storage {key[:80]!r}, which no tensor uses, or lists it twice")
        if position + 8 > file.size:
            raise _error(file, f"ends before the storage {key[:80]!r}")
        numel = int.from_bytes(file.read(position, 8).numpy().tobytes(), "little", signed=True)
        storage.offset = position + 8
        position = storage.offset + storage.numel * storage.dtype.itemsize
        if numel != storage.numel or position > file.size:
            raise _error(
                file, f"claims {storage.numel} numbers for the storage {key[:80]!r}; {numel} are announced, and "
                f"{file.size - storage.offset} bytes follow"
            )  # fmt: skip
    lost = [key for key, storage in reading.storages.items() if storage.offset is None]
    if lost:
        raise _error(file, f"lacks the storage {lost[0][:80]!r}")
    return value


def _error(file, what, remedy="Save its state dict anew, with torch.save or with safetensors."):
    return CheckpointError(f"{file.path!r} {what}. {remedy}", path=file.path)
