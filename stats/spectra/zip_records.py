r"""Records of a zip file, found by its directory and read by position.

.. math:: \text{content} = \text{offset of the header} + 30 + \text{length of the name} + \text{length of the rest}

Cost      opening reads the directory at the end; a record costs its bytes.
Pitfalls  what the directory says about a record is not taken on trust: it must begin with a header and lie inside.
References  PKWARE, .ZIP file format specification, sections 4.3.7 and 4.3.12.
"""

import io
import zipfile

from sciml.exceptions import CheckpointError

_LARGEST = 64 * 2**20  # bytes read at once: a directory of a million records


def zip_records(file):
    """Return the records of a zip file.

    Parameters
    ----------
    file : RegularFile
        The file.

    Returns
    -------
    dict of str to zipfile.ZipInfo
        By name.

    Raises
    ------
    CheckpointError
        If it is no zip file, or one name stands for two records.

    Examples
    --------
    >>> import tempfile, torch
    >>> from sciml.stats.spectra.regular_file import RegularFile
    >>> from sciml.stats.spectra.zip_records import zip_records
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     torch.save(torch.ones(2), f.name)
    ...     any(name.endswith("/data.pkl") for name in zip_records(RegularFile(f.name)))
    True
    """
    try:
        with zipfile.ZipFile(RawStream(file)) as archive:
            entries = archive.infolist()
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, LookupError) as error:
        raise _error(file, f"is a broken zip file ({str(error)[:120]})") from None
    records = {entry.filename: entry for entry in entries}
    if len(records) != len(entries):
        raise _error(file, "is a zip file with two records of one name")
    return records


def placed(file, record):
    """Return where the bytes of an uncompressed record of a zip file lie.

    Parameters
    ----------
    file : RegularFile
        The file.
    record : zipfile.ZipInfo
        One of its records.

    Returns
    -------
    tuple of int
        Offset and size in bytes.

    Raises
    ------
    CheckpointError
        If the record is compressed, encrypted, or reaches beyond the file.

    Examples
    --------
    >>> import tempfile, zipfile
    >>> from sciml.stats.spectra.regular_file import RegularFile
    >>> from sciml.stats.spectra.zip_records import placed, zip_records
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     with zipfile.ZipFile(f, "w") as archive:
    ...         archive.writestr("a", b"123")
    ...     file = RegularFile(f.name)
    ...     placed(file, zip_records(file)["a"])
    (31, 3)
    """
    name = record.filename
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 or record.file_size != record.compress_size:
        raise _error(file, f"has the compressed or encrypted record {name[:80]!r}, and torch writes plain ones")
    start = record.header_offset
    if not 0 <= start <= file.size - 30:
        raise _error(file, f"has the record {name[:80]!r} outside the file")
    head = file.read(start, 30).numpy().tobytes()
    if head[:4] != b"PK\x03\x04":
        raise _error(file, f"has no header where the record {name[:80]!r} should begin")
    start += 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if start + record.file_size > file.size:
        raise _error(file, f"ends inside the record {name[:80]!r}")
    return start, record.file_size


def bytes_of(file, record, limit):
    """Return the content of an uncompressed record.

    Parameters
    ----------
    file : RegularFile
        The file.
    record : zipfile.ZipInfo
        One of its records.
    limit : int
        Bytes that it may have at most.

    Returns
    -------
    bytes
        The content.

    Raises
    ------
    CheckpointError
        If it is longer, compressed, or not whole.

    Examples
    --------
    >>> import tempfile, zipfile
    >>> from sciml.stats.spectra.regular_file import RegularFile
    >>> from sciml.stats.spectra.zip_records import bytes_of, zip_records
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     with zipfile.ZipFile(f, "w") as archive:
    ...         archive.writestr("a", b"123")
    ...     file = RegularFile(f.name)
    ...     bytes_of(file, zip_records(file)["a"], 10)
    b'123'
    """
    offset, size = placed(file, record)
    if size > limit:
        raise _error(file, f"has a record {record.filename[:80]!r} of {size} bytes; at most {limit} are read")
    return file.read(offset, size).numpy().tobytes()


class RawStream(io.RawIOBase):
    """A regular file as the stream that zipfile wants.

    Parameters
    ----------
    file : RegularFile
        The file.

    Examples
    --------
    >>> import tempfile
    >>> from sciml.stats.spectra.regular_file import RegularFile
    >>> from sciml.stats.spectra.zip_records import RawStream
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     _ = f.write(b"abc")
    ...     f.flush()
    ...     RawStream(RegularFile(f.name)).read()
    b'abc'
    """

    def __init__(self, file):
        self._file, self._position = file, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError("a position before the beginning")
        self._position = base + offset
        return self._position

    def tell(self):
        return self._position

    def read(self, size=-1):
        left = max(0, self._file.size - self._position)
        n = left if size is None or size < 0 else min(size, left)
        if n > _LARGEST:
            raise _error(self._file, f"claims a directory of {n} bytes; at most {_LARGEST} are read")
        data = self._file.read(self._position, n).numpy().tobytes()
        self._position += n
        return data


def _error(file, what):
    return CheckpointError(f"{file.path!r} {what}. Save its content anew.", path=file.path)
