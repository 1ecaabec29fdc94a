r"""Regular files, read by position and watched for changes.

.. math:: (\text{device}, \text{inode}, \text{size}, \text{time of change}) = \text{those when it was opened}

Cost      a read costs its bytes; nothing is mapped into memory, so that the resident memory of a process that walks
          through a file stays at one block.
Pitfalls  a file may change between two reads: size and time of change are compared at each; a change within the same
          tick of the clock that keeps the size cannot be told.
"""

import os
import stat
import weakref

import torch

from sciml.exceptions import CheckpointError


class RegularFile:
    """A regular file that is open for reading by position; never a pipe, a device or a folder.

    Parameters
    ----------
    path : str or path-like
        The file.

    Raises
    ------
    CheckpointError
        If there is no such file, it may not be read, or it is no regular file.

    Examples
    --------
    >>> import tempfile
    >>> from sciml.stats.spectra.regular_file import RegularFile
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     _ = f.write(b"abc")
    ...     f.flush()
    ...     RegularFile(f.name).size
    3
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        # Without O_NONBLOCK, opening a pipe would wait for its other end for ever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            fd = os.open(self.path, flags)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CheckpointError(
                f"{self.path!r} cannot be opened: {reason}. Pass the path of a readable file; nothing is downloaded.",
                path=self.path,
            ) from error
        self._closer = weakref.finalize(self, os.close, fd)
        self._fd = fd
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise CheckpointError(
                f"{self.path!r} is no regular file but a {_kind(status.st_mode)}. Copy its content into a file first.",
                path=self.path,
            )
        self.size = status.st_size
        self._stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def read(self, offset, nbytes):
        """Return bytes of the file, as many as asked for.

        Parameters
        ----------
        offset : int
            Where they begin, in bytes.
        nbytes : int
            How many.

        Returns
        -------
        Tensor, shape (nbytes,), uint8
            A tensor of its own.

        Raises
        ------
        CheckpointError
            If the range does not lie inside the file, or the file was closed, changed or cut since it was opened.

        Examples
        --------
        >>> import tempfile
        >>> from sciml.stats.spectra.regular_file import RegularFile
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     _ = f.write(b"abc")
        ...     f.flush()
        ...     RegularFile(f.name).read(1, 2)
        tensor([98, 99], dtype=torch.uint8)
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise self._error(f"has {self.size} bytes, and bytes {offset} to {offset + nbytes} were asked for")
        if not self._closer.alive:
            raise self._error("was closed. Read inside the with block", remedy=False)
        buffer = torch.empty(nbytes, dtype=torch.uint8)
        view, done = memoryview(buffer.numpy()), 0
        while done < nbytes:
            got = self._read_into(view[done:], offset + done)
            if got == 0:
                raise self._error("was cut while it was read")
            done += got
        status = os.fstat(self._fd)
        if (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != self._stamp:
            raise self._error("changed since it was opened")
        return buffer

    def close(self):
        """Close the file; a second call does nothing.

        Examples
        --------
        >>> import tempfile
        >>> from sciml.stats.spectra.regular_file import RegularFile
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     RegularFile(f.name).close()
        """
        self._closer()

    def __reduce__(self):
        # A worker process opens the file anew, and must find the same one.
        return _reopen, (self.path, self._stamp)

    def _read_into(self, view, offset):
        try:
            if hasattr(os, "preadv"):
                return os.preadv(self._fd, [view], offset)
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(view))
            view[: len(data)] = data
            return len(data)
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}") from error

    def _error(self, what, remedy=True):
        advice = ". Write the file anew, completely, before it is opened." if remedy else "."
        return CheckpointError(f"{self.path!r} {what}{advice}", path=self.path)


def _reopen(path, stamp):
    file = RegularFile(path)
    if file._stamp != stamp:
        raise CheckpointError(f"{path!r} changed since it was opened. Open it again.", path=path)
    return file


def _kind(mode):
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((word for test, word in kinds.items() if test(mode)), "device")
