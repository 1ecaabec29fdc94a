r"""Files in the safetensors format, read without trusting them.

.. math:: \text{file} = \underbrace{N}_{8\text{ bytes}} \; \underbrace{\text{header}}_{N\text{ bytes}} \; \text{data}

The header gives dtype, shape and the range of bytes of every tensor. All of it is checked before a byte of data is
read: the ranges must fill the data without overlap or hole, and each must be as long as shape and dtype say.

Notation  N little-endian length of the header; offsets count from the first byte of the data.
Cost      opening reads the header alone; see :mod:`sciml.stats.spectra.stored_tensors` for the rest.
Pitfalls  packed types of 4 and 6 bits have no numbers that torch can compute with: they are skipped with a reason.

References
----------
Hugging Face, safetensors: simple, safe way to store and distribute tensors, https://github.com/huggingface/safetensors,
section "Format".
"""

import json
import math

import torch

from sciml.exceptions import CheckpointError
from sciml.stats.spectra.regular_file import RegularFile
from sciml.stats.spectra.stored_tensors import StoredTensor, WeightSource
from sciml.stats.spectra.tensor_readers import FileReader

MAX_HEADER = 100_000_000  # bytes; the bound of the format's own reader
_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
    "C64": "complex64",
    "C128": "complex128",
}
_DTYPES = {word: getattr(torch, name, None) for word, name in _NAMES.items()}
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8}
_BITS |= {word: 8 * dtype.itemsize for word, dtype in _DTYPES.items() if dtype is not None}


def open_safetensors(path):
    """Open a safetensors file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    WeightSource
        Its tensors in the order of their bytes; ``metadata["file"]`` holds the strings of ``__metadata__``.

    Raises
    ------
    CheckpointError
        If the file cannot be opened, or its header breaks a rule of the format.

    Examples
    --------
    >>> import tempfile
    >>> from sciml.stats.spectra.safetensors_file import open_safetensors
    >>> header = b'{"a": {"dtype": "U8", "shape": [2, 1], "data_offsets": [0, 2]}}'
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     _ = f.write(len(header).to_bytes(8, "little") + header + bytes([5, 7]))
    ...     f.flush()
    ...     open_safetensors(f.name).tensors["a"].rows(1, 2)
    tensor([[7]], dtype=torch.uint8)
    """
    file = RegularFile(path)
    try:
        return _source(file)
    except BaseException:
        file.close()
        raise


def _source(file):
    if file.size < 8:
        raise _error(file, f"it has {file.size} bytes, fewer than the 8 of the header's length")
    length = int.from_bytes(file.read(0, 8).numpy().tobytes(), "little")
    if length > MAX_HEADER:
        raise _error(file, f"its header claims {length} bytes; at most {MAX_HEADER} are allowed")
    if 8 + length > file.size:
        raise _error(file, f"its header claims {length} bytes, and the whole file has {file.size}")
    header = _header(file, file.read(8, length).numpy().tobytes())
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise _error(file, "__metadata__ must map words to words")

    start, position = 8 + length, 0
    tensors, skipped = {}, []
    entries = {name: _entry(file, name, entry) for name, entry in header.items()}
    for name, (word, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != position:
            wrong = "overlap those before" if begin < position else f"leave a hole of {begin - position} bytes"
            raise _error(file, f"the bytes {begin} to {end} of {_short(name)} {wrong}")
        position = end
        if _DTYPES.get(word) is None:
            skipped.append((name, f"dtype {word} has no arithmetic in torch: convert it to one of 8 bits or more"))
            continue
        reader = FileReader(file, start + begin, shape, _strides(shape), _DTYPES[word])
        tensors[name] = StoredTensor(name, shape, _DTYPES[word], end - begin, reader=reader)
    if start + position != file.size:
        more = "fewer" if start + position < file.size else "more"
        raise _error(file, f"its header describes {position} bytes of data, {more} than the {file.size - start} there")
    return WeightSource(tensors, skipped, {"file": notes} if notes else {}, files=[file])


def _header(file, data):
    def unique(pairs):
        found = {}
        for key, value in pairs:
            if key in found:
                raise _error(file, f"its header names {_short(key)} twice")
            found[key] = value
        return found

    try:
        if data[:1] != b"{":
            raise ValueError("it does not begin with a brace")
        header = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
        if not isinstance(header, dict):
            raise ValueError("it is no object")
        for name in header:
            name.encode("utf-8")  # half of a surrogate pair cannot be printed or saved
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise _error(file, f"its header is no JSON object of the format ({str(error)[:200]})") from None
    return header


def _entry(file, name, entry):
    """Return (dtype's word, shape, begin, end), all checked but for the place among the others."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _error(file, f"the entry of {_short(name)} must hold dtype, shape and data_offsets")
    word, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(word, str) or word not in (_BITS | _NAMES):
        raise _error(file, f"{_short(name)} has the unknown dtype {str(word)[:40]!r}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise _error(file, f"{what} of {_short(name)} must be whole numbers from 0; got {str(numbers)[:80]}")
    if len(offsets) != 2 or len(shape) > 64 or offsets[0] > offsets[1]:
        raise _error(file, f"{_short(name)} has {len(shape)} axes and offsets {str(offsets)[:80]}")
    bits = math.prod(shape) * _BITS.get(word, 8)
    if bits >= 2**66 or bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise _error(
            file, f"{_short(name)} of shape {shape} and dtype {word} takes {bits / 8:g} bytes, not the "
            f"{offsets[1] - offsets[0]} of its offsets"
        )  # fmt: skip
    return word, tuple(shape), *offsets


def _strides(shape):
    steps = [1]
    for n in reversed(shape[1:]):
        steps.append(steps[-1] * max(n, 1))
    return tuple(reversed(steps)) if shape else ()


def _short(name):
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _error(file, what):
    return CheckpointError(
        f"{file.path!r} is no valid safetensors file: {what}. Fetch it again, or save it anew with safetensors.",
        path=file.path,
    )
