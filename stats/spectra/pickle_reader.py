r"""Pickles read as data: a machine for the opcodes that state dicts need, which imports nothing and calls nothing.

.. math:: \text{opcodes} \to \text{dicts, lists, numbers, words} + \text{what a table makes of the names it knows}

A pickle is a program; unpickling runs it. Here the opcodes are taken from :func:`pickletools.genops`, which only splits
the bytes, and are carried out on plain values. Where the program names a function, a table must know the name, and its
entry gets the arguments as plain values; any other name ends the reading with that name.

Notation  stack of values; marks on it; memo of numbered values.
Cost      some microseconds an opcode; about twenty opcodes a tensor.
Pitfalls  values may hold themselves, and one value may be held many times: whoever walks through them must count.

References
----------
Python documentation, pickletools: tools for pickle developers. PEP 3154, Pickle protocol version 4.
"""

import pickletools
import struct

from sciml.exceptions import CheckpointError, UnsafeCheckpointError
from sciml.stats.spectra.regular_file import RegularFile

MAX_PICKLE = 256 * 2**20  # bytes; the names of the tensors of the largest model take a hundredth of it
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_KEYS = (str, int, float, bytes, type(None))


class GlobalName:
    """A name that a pickle asks for, such as "torch.FloatStorage"; nothing is imported.

    Parameters
    ----------
    name : str
        Module and name, joined by a dot.

    Examples
    --------
    >>> from sciml.stats.spectra.pickle_reader import GlobalName
    >>> GlobalName("torch.FloatStorage").name
    'torch.FloatStorage'
    """

    def __init__(self, name):
        self.name = name


class Cursor:
    """A place in a file from which a pickle is read; it never reads beyond a bound.

    Parameters
    ----------
    file : RegularFile
        The file.
    position : int
        Where to begin, in bytes; 0 by default.
    end : int or None
        Where the file ends for this cursor; None (the default) for its own end.

    Examples
    --------
    >>> import tempfile
    >>> from sciml.stats.spectra.pickle_reader import Cursor
    >>> from sciml.stats.spectra.regular_file import RegularFile
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     _ = f.write(b"one\\ntwo")
    ...     f.flush()
    ...     Cursor(RegularFile(f.name)).readline()
    b'one\\n'
    """

    def __init__(self, file: RegularFile, position=0, end=None):
        self._file, self._position = file, position
        self._end = min(file.size if end is None else end, position + MAX_PICKLE)
        self._start, self._chunk = position, b""

    def tell(self):
        """Return the position in the file.

        Returns
        -------
        int
            In bytes from its beginning.

        Examples
        --------
        >>> import tempfile
        >>> from sciml.stats.spectra.pickle_reader import Cursor
        >>> from sciml.stats.spectra.regular_file import RegularFile
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     Cursor(RegularFile(f.name)).tell()
        0
        """
        return self._position

    def read(self, n):
        """Return the next bytes, fewer at the end.

        Parameters
        ----------
        n : int
            How many.

        Returns
        -------
        bytes
            At most `n`.

        Examples
        --------
        >>> import tempfile
        >>> from sciml.stats.spectra.pickle_reader import Cursor
        >>> from sciml.stats.spectra.regular_file import RegularFile
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     Cursor(RegularFile(f.name)).read(5)
        b''
        """
        n = max(0, min(n, self._end - self._position))
        first = self._position - self._start
        if first + n > len(self._chunk):
            size = min(max(n, 1 << 16), self._end - self._position)
            self._chunk = self._file.read(self._position, size).numpy().tobytes()
            self._start, first = self._position, 0
        self._position += n
        return self._chunk[first : first + n]

    def readline(self):
        """Return the bytes to the next end of a line, that included.

        Returns
        -------
        bytes
            The line.

        Examples
        --------
        >>> import tempfile
        >>> from sciml.stats.spectra.pickle_reader import Cursor
        >>> from sciml.stats.spectra.regular_file import RegularFile
        >>> with tempfile.NamedTemporaryFile() as f:
        ...     Cursor(RegularFile(f.name)).readline()
        b''
        """
        line = bytearray()
        while piece := self.read(4096):
            length = piece.find(b"\n") + 1 or len(piece)
            self._position -= len(piece) - length
            line += piece[:length]
            if line.endswith(b"\n"):
                break
        return bytes(line)


def read_pickle(cursor, path, *, calls, names=(), persistent=None):
    """Return the value that a pickle describes, without running it.

    Parameters
    ----------
    cursor : Cursor or binary file
        It stands behind the pickle afterwards.
    path : str
        The file, for messages.
    calls : dict of str to callable
        What to do for the functions and classes that a pickle may name; it gets the arguments as plain values.
    names : container of str
        Names that may stand as values, such as dtypes; they become :class:`GlobalName`. None by default.
    persistent : callable or None
        Gets the identifiers of things outside the pickle, as storages are; None (the default) refuses them.

    Returns
    -------
    object
        Dicts, lists, tuples, numbers, words, names, and what `calls` and `persistent` returned.

    Raises
    ------
    UnsafeCheckpointError
        If the pickle names anything else.
    CheckpointError
        If it is no valid pickle.

    Examples
    --------
    >>> import io, pickle
    >>> from sciml.stats.spectra.pickle_reader import read_pickle
    >>> read_pickle(io.BytesIO(pickle.dumps({"epoch": [1, 2]})), "model.pt", calls={})
    {'epoch': [1, 2]}
    """
    machine = _Machine(path, calls, names, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(cursor):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, struct.error) as error:
        raise CheckpointError(
            f"{path!r} is no file of weights that torch wrote: its pickle breaks off or is malformed "
            f"({type(error).__name__}: {str(error)[:120]}). Save the weights anew, best as safetensors.",
            path=path,
        ) from None


class _Machine:
    def __init__(self, path, calls, names, persistent):
        self.path, self.calls, self.names, self.persistent = path, calls, names, persistent
        self.stack, self.marks, self.memo = [], [], {}

    def step(self, name, argument):
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name not in ("PROTO", "FRAME", "STOP"):
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise ValueError(f"opcode {name}")
            method(argument)

    def _above(self):
        mark = self.marks.pop()
        if mark > len(self.stack):
            raise IndexError("a mark above the stack")
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    # ------------------------------------------------------------ containers

    def _empty_list(self, _):
        self.stack.append([])

    def _empty_tuple(self, _):
        self.stack.append(())

    def _empty_dict(self, _):
        self.stack.append({})

    def _empty_set(self, _):
        self.stack.append([])  # a set of tensors or of names is of no use here, a list holds anything

    def _list(self, _):
        self.stack.append(self._above())

    def _tuple(self, _):
        self.stack.append(tuple(self._above()))

    def _frozenset(self, _):
        self.stack.append(self._above())

    def _tuple1(self, _):
        self._short_tuple(1)

    def _tuple2(self, _):
        self._short_tuple(2)

    def _tuple3(self, _):
        self._short_tuple(3)

    def _short_tuple(self, n):
        if len(self.stack) < n:
            raise IndexError("an empty stack")
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def _dict(self, _):
        values = self._above()
        self.stack.append({})
        self._fill(values)

    def _append(self, _):
        value = self.stack.pop()
        _as(list, self.stack[-1]).append(value)

    def _appends(self, _):
        values = self._above()
        _as(list, self.stack[-1]).extend(values)

    def _additems(self, _):
        self._appends(_)

    def _setitem(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _setitems(self, _):
        self._fill(self._above())

    def _fill(self, values):
        target = _as(dict, self.stack[-1])
        for key, value in zip(values[::2], values[1::2], strict=True):
            # The hash of a tuple of tuples of ... may exhaust the stack of the processor; a deep key serves nothing.
            if isinstance(key, tuple) and all(isinstance(part, _KEYS) for part in key):
                target[str(key)] = value
            elif isinstance(key, str):
                # Half of a surrogate pair cannot be printed or saved.
                target[key.encode("utf-8", "backslashreplace").decode("utf-8")] = value
            elif isinstance(key, _KEYS) and not (isinstance(key, int) and abs(key) >= 2**63):
                target[key] = value
            else:
                target[f"{type(key).__name__} {len(target)}"] = value

    def _pop(self, _):
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def _pop_mark(self, _):
        self._above()

    def _dup(self, _):
        self.stack.append(self.stack[-1])

    # ------------------------------------------------------------ what would run something

    def _global(self, argument):
        self._name(argument.replace(" ", "."))

    def _stack_global(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self._name(f"{_as(str, module)}.{_as(str, name)}")

    def _name(self, name):
        # Pickles of Python 2 and of protocol 2 use the old name.
        name = name.replace("__builtin__.", "builtins.", 1) if name.startswith("__builtin__.") else name
        if name not in self.calls and name not in self.names:
            raise self._unsafe(name)
        self.stack.append(GlobalName(name))

    def _reduce(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function, arguments))

    def _newobj(self, _):
        self._reduce(_)

    def _newobj_ex(self, _):
        self.stack.pop()
        self._reduce(_)

    def call(self, function, arguments):
        name = _as(GlobalName, function).name
        if name not in self.calls:
            raise self._unsafe(name)
        return self.calls[name](*_as(tuple, arguments))

    def _build(self, _):
        self.stack.pop()  # the attributes of a dict or a tensor, such as _metadata
        self.stack[-1]

    def _inst(self, argument):
        raise self._unsafe(argument.replace(" ", "."))

    def _obj(self, _):
        raise self._unsafe(getattr(self._above()[0], "name", "a class"))

    def _ext1(self, argument):
        raise self._unsafe(f"extension {argument}")

    def _ext2(self, argument):
        self._ext1(argument)

    def _ext4(self, argument):
        self._ext1(argument)

    def _persid(self, argument):
        self.stack.append(argument)
        self._binpersid(None)

    def _binpersid(self, _):
        if self.persistent is None:
            raise ValueError("a persistent identifier")
        self.stack.append(self.persistent(self.stack.pop()))

    def _unsafe(self, name):
        name = name if len(name) <= 200 else name[:200] + "..."
        name = name.encode("unicode_escape").decode("ascii")  # nothing of a file may steer a terminal
        return UnsafeCheckpointError(
            f"{self.path!r} names {name}, which only unpickling gives, and that runs whatever a file asks for. "
            "Nothing was run. If you trust the file, load it yourself and save its state dict with safetensors.",
            path=self.path,
            offending=name,
        )


def _as(kind, value):
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected, {type(value).__name__} came")
    return value
