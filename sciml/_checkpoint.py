"""Values on disk: finished items of :func:`sciml.parallel.map`, found again by what was computed, and single states.

Notation  the key of an item is a hash of the function (its name, its compiled code, its defaults and what it closes
          over), of the item's content, of its random stream and of the settings that change numbers.
Pitfalls  a change of what the function calls does not change its own code: that is what ``version`` is for. Files are
          npz archives with a JSON text and hold no pickle, so values of unknown classes are refused.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import struct
import sys
import tempfile
import tokenize
import types
import uuid
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from sciml._config import get_config
from sciml.exceptions import FallbackWarning, InvalidInputError, InvalidTypeError
from sciml.iterate import caller_level
from sciml.results import Result, _as_tensor, _is_tensor, _numpy, load

_FORMAT = 1
# Settings that change numbers; the others change how a task reports, or what memory it takes.
_NUMERIC = ("device", "dtype", "engine")
MISSING = object()
# What reading a file with a wrong byte can raise; a wrong size in a header asks for memory that nobody has.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SyntaxError,
    RuntimeError,
    OverflowError,
    MemoryError,
    IndexError,
    StopIteration,
    struct.error,
    tokenize.TokenError,
    zlib.error,
    zipfile.BadZipFile,
)


class Checkpoint:
    """A folder with one file for each finished item.

    Parameters
    ----------
    folder : str or path-like
        Made where it does not exist.
    fn : callable
        The function whose values are stored.
    version : str, int or None
        Part of the key, for changes that the function's own code does not show.
    """

    def __init__(self, folder, fn, version=None):
        if not isinstance(folder, (str, os.PathLike)):
            raise InvalidInputError(
                f"checkpoint must be the path of a folder or None; got {folder!r} of type {type(folder).__name__}. "
                "Pass a str or a pathlib.Path."
            )
        self.folder = Path(folder)
        self._root = _digest("fn", fn, version, _sciml_version(), {key: get_config()[key] for key in _NUMERIC})
        self._told = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise InvalidInputError(
                f"checkpoint must be a folder that can be written; got {str(folder)!r}: {error}. Pass another folder."
            ) from None

    def key(self, item, stream):
        """Return the key of an item: a text of 64 hexadecimal digits.

        Parameters
        ----------
        item : object
            The argument.
        stream : numpy.random.Generator or None
            Its random stream, before the first draw.
        """
        return _digest(self._root, item, stream)

    def get(self, key):
        """Return the stored value, or MISSING; a damaged file counts as missing, with a warning.

        Parameters
        ----------
        key : str
            Of the item.
        """
        path = self._path(key)
        if not path.exists():
            return MISSING
        try:
            head, arrays = _read(path)
            if (head["format"], head["key"]) != (_FORMAT, key):
                raise ValueError(f"it holds format {head['format']!r} of the item {head['key']!r}")
            return _decode(head["value"], arrays)
        except _DAMAGE as error:
            warnings.warn(
                f"checkpoint: {str(path)!r} is damaged and its item is computed again ({error}).",
                FallbackWarning,
                stacklevel=caller_level(),
            )
            return MISSING

    def put(self, key, value, index):
        """Store a value by an atomic rename, so that a reader sees all of it or nothing.

        Parameters
        ----------
        key : str
            Of the item.
        value : object
            What the function returned.
        index : int
            Which item, for messages.
        """
        arrays = {}
        head = {"format": _FORMAT, "key": key, "value": _encode(value, arrays, f"the value of item {index}")}
        try:
            _write(self._path(key), head, arrays)
        except OSError as error:
            # The value itself is at hand: a full disk must not cost the run.
            if not self._told:
                warnings.warn(
                    f"checkpoint: item {index} could not be stored in {str(self.folder)!r} ({error}); "
                    "the run goes on without.",
                    FallbackWarning,
                    stacklevel=caller_level(),
                )
            self._told = True

    def _path(self, key):
        return self.folder / f"{key}.npz"


def _sciml_version():
    from sciml import __version__

    return __version__


# ---------------------------------------------------------------- one state, one file


def save_state(path, value):
    """Write a value to one file that :func:`load_state` reads; an interruption leaves the earlier file as it was.

    Parameters
    ----------
    path : str or path-like
        Taken as it stands; a file that exists is replaced by an atomic rename.
    value : object
        Arrays of numbers or texts, tensors, numbers, texts, None, sciml results, and lists, tuples and dicts of them,
        however nested. Nothing is pickled.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InvalidInputError
        If the folder does not exist.
    InvalidTypeError
        If a part of the value is of another class; the file is not touched.
    OSError
        If the file cannot be written, such as on a full disk.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = save_state(f"{folder}/run.state", {"k": 3, "step": (0.5, None)})
    ...     load_state(file)
    {'k': 3, 'step': (0.5, None)}
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InvalidInputError(f"path must lie in a folder that exists; got {str(path)!r}. Make the folder first.")
    arrays = {}
    form = _encode(value, arrays, "value", "a state may hold", "Save its parts instead.")
    _write(path, {"format": _FORMAT, "state": form}, arrays)
    return path


def load_state(path):
    """Read a value that :func:`save_state` wrote; tensors come back on the CPU, without a graph.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    object
        Equal to what was saved, bit for bit.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InvalidInputError
        If the file is damaged, of another origin or of a later format.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = save_state(f"{folder}/run.state", [np.arange(3), "text"])
    ...     load_state(file)
    [array([0, 1, 2]), 'text']
    """
    path = Path(path)
    rule = f"path must be a file written by save_state; {str(path)!r}"
    if not path.exists():
        raise FileNotFoundError(f"path must be a file written by save_state; there is no {str(path)!r}.")
    try:
        head, arrays = _read(path)
        if head["format"] == _FORMAT:
            return _decode(head["state"], arrays)
    except _DAMAGE as error:
        raise InvalidInputError(
            f"{rule} is damaged or of another origin ({type(error).__name__}: {error}). Delete it and start anew, or "
            "restore it from a backup."
        ) from None
    raise InvalidInputError(
        f"{rule} has format {head['format']!r}; this version reads {_FORMAT}. Use the sciml that wrote it."
    )


def _write(path, head, arrays):
    """Write an archive beside its place and rename it, so that a reader sees all of it or nothing."""
    text = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(scratch, "xb") as file:
            np.savez(file, head=text, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def _read(path):
    """Return the head and the arrays of an archive."""
    # Opened here: NumPy leaves a file that it cannot read open.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        head = json.loads(archive["head"].tobytes().decode())
        return head, {name: archive[name] for name in archive.files if name != "head"}


# ---------------------------------------------------------------- values to JSON and arrays, and back


def _encode(
    value,
    arrays,
    where,
    rule="with checkpoint, fn must return",
    remedy="Return one of these, or leave checkpoint out.",
):
    """Return the JSON form of a value; its arrays go into the dict `arrays`."""

    def put(array):
        name = f"a{len(arrays)}"
        arrays[name] = array
        return name

    def inner(part, key):
        return _encode(part, arrays, f"{where}[{key!r}]", rule, remedy)

    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if isinstance(value, np.generic) and not np.asarray(value).dtype.hasobject:
        return {"scalar": put(np.asarray(value))}
    if kind in (np.ndarray, np.memmap) and not value.dtype.hasobject:
        return {"array": put(value)}
    if _is_tensor(value):
        return {"tensor": put(_numpy(value)), "dtype": str(value.dtype).removeprefix("torch.")}
    if kind in (list, tuple):
        return {kind.__name__: [inner(part, i) for i, part in enumerate(value)]}
    if kind is dict:
        return {"dict": [[inner(key, key), inner(part, key)] for key, part in value.items()]}
    if isinstance(value, Result):
        with tempfile.TemporaryDirectory() as folder:
            data = value.save(Path(folder) / "result.npz").read_bytes()
        return {"result": put(np.frombuffer(data, dtype=np.uint8))}
    raise InvalidTypeError(
        f"{rule} arrays of numbers or texts, tensors, numbers, texts, None, sciml results, or lists, tuples and dicts "
        f"of them; {where} is of type {kind.__name__}. {remedy}"
    )


def _decode(form, arrays):
    if not isinstance(form, dict):
        return form
    kind, inner = next(iter(form.items()))
    if kind == "complex":
        return complex(*inner)
    if kind == "scalar":
        return arrays[inner][()]
    if kind == "array":
        return arrays[inner]
    if kind == "tensor":
        return _as_tensor(arrays[inner], form["dtype"])
    if kind == "list":
        return [_decode(part, arrays) for part in inner]
    if kind == "tuple":
        return tuple(_decode(part, arrays) for part in inner)
    if kind == "dict":
        return {_decode(key, arrays): _decode(part, arrays) for key, part in inner}
    if kind == "result":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.npz"
            path.write_bytes(arrays[inner].tobytes())
            return load(path)
    raise ValueError(f"it holds a value of the unknown kind {kind!r}")


# ---------------------------------------------------------------- a hash of content


def _digest(*values):
    sha = hashlib.sha256()
    for value in values:
        _feed(sha, value, ())
    return sha.hexdigest()


def _feed(sha, value, above):
    """Feed the type and content of a value to a hash; `above` holds the ids of the containers around it."""

    def tag(*words):
        # Lengths in front, so that ("ab", "c") and ("a", "bc") differ.
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode()
            sha.update(b"%d:" % len(data))
            sha.update(data)

    if id(value) in above:
        tag("cycle", len(above) - above.index(id(value)))
        return
    inside = (*above, id(value))

    def feed(*parts):
        for part in parts:
            _feed(sha, part, inside)

    kind = type(value)
    tag(f"{kind.__module__}.{kind.__qualname__}")
    if value is None or kind in (bool, int, float, complex, str, bytes, type(...)):
        tag(value if kind is bytes else repr(value))
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        tag(array.dtype.descr, array.shape)
        feed(array.tolist()) if array.dtype.hasobject else tag(np.ascontiguousarray(array).tobytes())
        if isinstance(value, np.ma.MaskedArray):
            feed(np.ma.getmaskarray(value))
    elif _is_tensor(value):
        tag(value.dtype)
        feed(_numpy(value))
    elif isinstance(value, (list, tuple)):
        tag(len(value))
        feed(*value)
    elif isinstance(value, dict):
        # Equal dicts may differ in order; sorted by the hash of the key, they do not.
        pairs = sorted((_digest(key), key) for key in value) if len(value) else []
        tag(len(value))
        for digest, key in pairs:
            tag(digest)
            feed(value[key])
    elif isinstance(value, (set, frozenset)):
        tag(*sorted(_digest(part) for part in value))
    elif isinstance(value, os.PathLike):
        tag(os.fspath(value))
    elif isinstance(value, np.random.Generator):
        feed(value.bit_generator.state, _seed(value))
    elif isinstance(value, functools.partial):
        feed(value.func, value.args, value.keywords)
    elif isinstance(value, types.MethodType):
        feed(value.__func__, value.__self__)
    elif isinstance(value, types.FunctionType):
        tag(value.__module__, value.__qualname__)
        cells = [_cell(cell) for cell in value.__closure__ or ()]
        feed(value.__code__, value.__defaults__, value.__kwdefaults__, cells)
    elif isinstance(value, types.CodeType):
        # No line numbers: a comment above the function changes nothing.
        tag(value.co_code, value.co_names, value.co_varnames, value.co_freevars, value.co_exceptiontable)
        # The same instructions serve f(a) and f(*a).
        feed((value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags), value.co_consts)
    elif isinstance(value, types.BuiltinFunctionType):
        # A method in C, such as array.dot, holds its object; a function its module.
        tag(value.__module__, value.__qualname__)
        feed(value.__self__)
    elif isinstance(value, (type, types.ModuleType, np.ufunc)):
        tag(getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
    else:
        feed(_state(value))
        # An object that is called has its code in its class.
        called = next((vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)), None)
        if isinstance(called, types.FunctionType):
            feed(called)


def _cell(cell):
    try:
        return cell.cell_contents
    except ValueError:  # a name that is bound later
        return None


def _seed(rng):
    """Return what a generator's children depend on: equal states can have had different numbers of children."""
    seed = rng.bit_generator.seed_seq
    fields = ("entropy", "spawn_key", "n_children_spawned")
    return {field: getattr(seed, field, None) for field in fields}


def _state(value):
    """Return the content of an object of any other class."""
    if hasattr(value, "__wrapped__"):  # functools.lru_cache and its like
        return value.__wrapped__
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if "xarray" in sys.modules and hasattr(value, "to_dict") and type(value).__module__.startswith("xarray"):
        return value.to_dict(data="array")
    try:
        reduced = value.__reduce_ex__(4)
    except TypeError as error:
        raise InvalidTypeError(
            f"with checkpoint, items, and what fn closes over, must have a content that can be hashed; got "
            f"{type(value).__name__}: {error}. Pass numbers, texts and arrays, or leave checkpoint out."
        ) from None
    if isinstance(reduced, str):
        return reduced
    make, arguments, *rest = reduced
    return [make, arguments, *(part if i == 0 or part is None else list(part) for i, part in enumerate(rest[:3]))]
