r"""Files of NumPy: ``.npy`` with one array, ``.npz`` with several.

.. math:: \text{file} = \text{magic word, version, header (dtype, order, shape)}, \text{ numbers}

Cost      an uncompressed array is read by rows; a compressed one has to be read whole at each reading.
Pitfalls  arrays of objects are pickles, and are refused. A compressed record that claims more than deflate can expand
          is refused before anything is allocated.
References  numpy.lib.format, section "Format version 1.0".
"""

import io
import math
import warnings
import zipfile
import zlib

import numpy as np
import torch

from sciml.exceptions import CheckpointError, UnsafeCheckpointError
from sciml.stats.spectra.mappings import LaterTensor, add_value
from sciml.stats.spectra.regular_file import RegularFile
from sciml.stats.spectra.stored_tensors import StoredTensor, WeightSource
from sciml.stats.spectra.tensor_names import plain_names
from sciml.stats.spectra.tensor_readers import FileReader
from sciml.stats.spectra.zip_records import RawStream, placed, zip_records

_HEADER = 1 << 16  # bytes of the beginning that are looked at; NumPy itself allows 10000 of header
_EXPANSION = 1100  # deflate makes at most 1032 bytes of one; the headers of its blocks are short


def open_numpy(path):
    """Open an .npy or .npz file.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    WeightSource
        Its arrays by name; the one of an .npy file is called "weight".

    Raises
    ------
    UnsafeCheckpointError
        If it holds Python objects.
    CheckpointError
        If it is broken, or a header contradicts the size of its record.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sciml.stats.spectra.numpy_file import open_numpy
    >>> with tempfile.NamedTemporaryFile(suffix=".npz") as f:
    ...     np.savez(f, layer=np.eye(2))
    ...     f.flush()
    ...     open_numpy(f.name).tensors["layer"].rows(0, 1)
    tensor([[1., 0.]], dtype=torch.float64)
    """
    file = RegularFile(path)
    source = WeightSource({}, files=[file])
    try:
        head = file.read(0, min(file.size, 6)).numpy().tobytes()
        if head == b"\x93NUMPY":
            add_value(source, "weight", _plain(file, 0, file.size))
            return source
        records = zip_records(file)
        names = plain_names([name.removesuffix(".npy") for name in records if name.endswith(".npy")])
        for name, record in records.items():
            if not name.endswith(".npy"):
                source.skipped.append((name, "no array of NumPy"))
                continue
            stored = record.compress_type == zipfile.ZIP_STORED
            value = _plain(file, *placed(file, record)) if stored else _compressed(file, record)
            add_value(source, names[name.removesuffix(".npy")], value)
    except BaseException:
        source.close()
        raise
    return source


def _plain(file, offset, size):
    """Return an array whose numbers lie in the file as they are."""
    start = io.BytesIO(file.read(offset, min(size, _HEADER)).numpy().tobytes())
    shape, by_columns, dtype = _header(file, start)
    if start.tell() + math.prod(shape) * dtype.itemsize != size:
        raise _error(file, f"has an array of shape {shape} and dtype {dtype} in {size} bytes")
    if _torch_dtype(dtype) is None:
        return LaterTensor(reason=f"an array of dtype {dtype}: save it as little-endian float64")
    steps = [1]
    for n in shape[:-1] if by_columns else reversed(shape[1:]):
        steps.append(steps[-1] * max(n, 1))
    strides = tuple(steps if by_columns else reversed(steps))[: len(shape)]
    reader = FileReader(file, offset + start.tell(), shape, strides, _torch_dtype(dtype))
    return LaterTensor(lambda name: _stored(name, shape, dtype, reader))


def _compressed(file, record):
    if record.compress_type != zipfile.ZIP_DEFLATED or record.flag_bits & 1:
        raise _error(file, f"has the encrypted or oddly compressed record {record.filename[:80]!r}")
    if record.file_size > _EXPANSION * record.compress_size:
        raise _error(file, f"claims {record.file_size} bytes from {record.compress_size} in {record.filename[:80]!r}")
    reader = _Compressed(file, record)
    start = io.BytesIO(reader.use(lambda stream: stream.read(_HEADER)))
    shape, _, dtype = _header(file, start)
    if start.tell() + math.prod(shape) * dtype.itemsize != record.file_size:
        raise _error(file, f"has an array of shape {shape} and dtype {dtype} in {record.file_size} bytes")
    if _torch_dtype(dtype) is None:
        return LaterTensor(reason=f"an array of dtype {dtype}: save it as little-endian float64")
    return LaterTensor(lambda name: _stored(name, shape, dtype, reader))


def _stored(name, shape, dtype, reader):
    return StoredTensor(name, shape, _torch_dtype(dtype), math.prod(shape) * dtype.itemsize, reader=reader)


def _header(file, start):
    try:
        version = np.lib.format.read_magic(start)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers of Python 2
            shape, by_columns, dtype = read.get(version, read[2, 0])(start)
    except Exception as error:  # NumPy lets through whatever Python's own parsers raise
        raise _error(file, f"has a malformed header ({str(error)[:120]})") from None
    if dtype.hasobject:
        raise UnsafeCheckpointError(
            f"{file.path!r} holds an array of Python objects, which only unpickling gives. Save arrays of numbers.",
            path=file.path,
            offending="numpy.object_",
        )
    if not all(type(n) is int and 0 <= n < 2**63 for n in shape) or len(shape) > 64:
        raise _error(file, f"has an array of shape {str(shape)[:80]}")
    return shape, by_columns, dtype


def _torch_dtype(dtype):
    if dtype.kind not in "biufc" or dtype.byteorder == ">" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        return None
    return getattr(torch, dtype.name, None)


class _Compressed:
    """An array of a compressed record."""

    def __init__(self, file, record):
        self._file, self._record = file, record

    def use(self, function):
        try:
            with (
                zipfile.ZipFile(RawStream(self._file)) as archive,
                archive.open(self._record) as stream,
            ):
                return function(stream)
        except CheckpointError:
            raise
        except (ValueError, LookupError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise _error(self._file, f"has a broken record ({str(error)[:120]})") from None

    def read(self):
        array = self.use(lambda stream: np.lib.format.read_array(stream, allow_pickle=False))
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)

    def rows(self, start, stop):
        return self.read()[start:stop].clone()

    def take(self, index):
        return self.read()[torch.as_tensor(index, dtype=torch.int64)]


def _error(file, what):
    return CheckpointError(f"{file.path!r} {what}. Save it anew with numpy.savez.", path=file.path)
