"""Answers: a frozen dataclass whose arrays have named axes and units, and that shows, plots, saves and loads itself.

A file written by :meth:`Result.save` is an npz archive: the arrays as they are, and one JSON text with the rest. It
holds no pickle, so reading one from a stranger runs none of the stranger's code.
"""

import contextlib
import dataclasses
import html
import importlib
import json
import numbers
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.iterate import Status

_FORMAT = 1
_COMMON = ("status", "n_iter", "history", "settings")
# "module:name" -> class, filled as classes are made; the only classes that a file can name.
_CLASSES: dict[str, type] = {}


def array(*axes, units="dimensionless", help="", optional=False):
    """Declare an array field of a :class:`Result`.

    Parameters
    ----------
    *axes : str
        A name for each axis, all different; an axis that two arrays share has one length. A first "..." stands for any
        number of leading axes, such as those of a batch; where nothing else is declared, an array without axes becomes
        a Python number.
    units : str
        Units of the values; "dimensionless" by default.
    help : str
        What the array means, in a few words.
    optional : bool
        Whether None may stand in its place, and does by default; False by default.

    Returns
    -------
    dataclasses.Field

    Examples
    --------
    >>> array("point", units="m", help="height").metadata["axes"]
    ('point',)
    """
    if len(set(axes)) != len(axes):
        raise InvalidInputError(f"axes must differ; got {axes}. Name the second one otherwise, such as 'column'.")
    default = {"default": None} if optional else {}
    return dataclasses.field(metadata={"kind": "array", "axes": axes, "units": units, "help": help}, **default)


def internal(**options):
    """Declare a field of a :class:`Result` that is neither shown nor saved, but rebuilt by ``_restore``.

    Parameters
    ----------
    **options
        Options of :func:`dataclasses.field`, such as ``default``.

    Returns
    -------
    dataclasses.Field

    Examples
    --------
    >>> internal(default=None).metadata["kind"]
    'internal'
    """
    return dataclasses.field(metadata={"kind": "internal"}, **options)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Result:
    """Base of every answer.

    A subclass is a dataclass with the same options, ``@dataclass(frozen=True, kw_only=True, repr=False, eq=False)``,
    and has fields of three kinds: arrays, declared by :func:`array`; plain values, which JSON can write (numbers,
    texts, None, lists and dicts of them; NumPy numbers and tuples are turned into those at once, so that a loaded
    result equals the saved one); and internals, declared by :func:`internal`, such as a function that evaluates the
    answer. Three methods may be overridden:

    - ``coords(self)`` returns a dict of coordinates for :meth:`to_xarray`: axis name to an array, or to
      ``(array, units)``.
    - ``_state(self)`` returns a dict of arrays and plain values from which the internals can be rebuilt; it is saved.
    - ``_restore(cls, fields, state)``, a class method, returns an instance from the fields (a dict by name, without
      the internals) and what ``_state`` returned. By default it is ``cls(**fields)``.

    A module ``plotting`` beside the subclass's module, with a function ``plot(result, *, ax=None)``, draws it.

    Parameters
    ----------
    status : Status or str
        How the method ended; a plain word where :class:`Status` does not fit. "converged" counts as converged.
    n_iter : int
        Steps taken; 0 by default, for a method without a loop.
    history : dict of ndarray, shape (n_iter + 1,)
        Numbers recorded at every step.
    settings : dict
        Method, options, seed, dtype, device, versions and every silent decision: enough to run again.
    """

    status: Status | str = Status.CONVERGED
    n_iter: int = 0
    history: dict = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        _CLASSES[f"{cls.__module__}:{cls.__qualname__}"] = cls

    def __post_init__(self):
        for name, value in self._plain_fields().items():
            object.__setattr__(self, name, _plain(value, f"{type(self).__name__}.{name}"))
        object.__setattr__(self, "history", {str(key): np.asarray(row) for key, row in self.history.items()})
        for name, field in self._array_fields().items():
            value, axes = getattr(self, name), field.metadata["axes"]
            if value is None and field.default is None:
                continue
            if not (isinstance(value, np.ndarray) or _is_tensor(value)):
                value = np.asarray(value)
                object.__setattr__(self, name, value)
            if axes == ("...",) and value.ndim == 0:
                object.__setattr__(self, name, value.item())
            elif value.ndim < len(axes) - 1 if axes[:1] == ("...",) else value.ndim != len(axes):
                raise InvalidInputError(
                    f"{name} of {type(self).__name__} must have the axes {axes}; got shape {tuple(value.shape)}."
                )

    @classmethod
    def of(cls, run, settings, **fields):
        """Return a result with what a loop recorded.

        Parameters
        ----------
        run : sciml.iterate.Run or None
            Gives status, n_iter and history; None for a method without a loop, which gives them among the fields.
        settings : dict
            Enough to run again.
        **fields
            The other fields; they win over those of the run.

        Returns
        -------
        Result
            Of the class that this is called on.

        Examples
        --------
        >>> Result.of(None, {"method": "direct"}).settings["method"]
        'direct'
        """
        taken = {} if run is None else {"status": run.status, "n_iter": run.n_iter, "history": run.history}
        return cls(**{**taken, "settings": settings, **fields})

    @property
    def converged(self):
        """Whether the method met its tolerance."""
        return self.status is Status.CONVERGED or self.status == "converged"

    def coords(self):
        """Return coordinates for :meth:`to_xarray`; none by default.

        Returns
        -------
        dict
            Axis name to an array of shape (length of the axis,), or to a pair of it and its units.
        """
        return {}

    def __repr__(self):
        parts = [type(self).__name__, _word(self.status), f"n_iter={self.n_iter}"]
        if len(self.history.get("criterion", ())):
            parts.append(f"criterion={self.history['criterion'][-1]:.1e}")
        shapes = [
            f"{name}({', '.join(map(str, np.shape(getattr(self, name))))})"
            for name in self._array_fields()
            if getattr(self, name) is not None and np.ndim(getattr(self, name))
        ]
        return f"<{' '.join(parts)}{' | ' if shapes else ''}{' '.join(shapes)}>"

    def _repr_html_(self):
        # The table of the base class: a subclass's to_xarray may ask for more than a notebook can give.
        return f"<p><code>{html.escape(repr(self))}</code></p>{Result.to_xarray(self)._repr_html_()}"

    def to_xarray(self):
        """Return the arrays as a Dataset with axes, units and meanings, and the history over ``iteration``.

        The attributes are texts and numbers only (JSON for the rest), so that the Dataset can be written as netCDF.

        Returns
        -------
        xarray.Dataset
            In memory of its own; tensors are detached and moved to the CPU.
        """
        import xarray as xr

        variables, coordinates = {}, {}
        for name, field in self._array_fields().items():
            if getattr(self, name) is not None:
                about = {"units": field.metadata["units"], "long_name": field.metadata["help"] or name}
                value = _numpy(getattr(self, name)).copy()
                variables[name] = (self._axes(field.metadata["axes"], value.ndim), value, about)
        for key, row in self.history.items():
            variables[f"history_{key}"] = (("iteration",), row.copy(), {"long_name": f"{key} of each iteration"})
        for axis, given in self.coords().items():
            values, units = given if isinstance(given, tuple) else (given, "dimensionless")
            coordinates[axis] = ((axis,), _numpy(values), {"units": units})
        about = {"title": type(self).__name__, "status": _word(self.status), "n_iter": self.n_iter}
        for name, value in self._plain_fields().items():
            if name not in about:
                about[name] = value if _is_scalar(value) else json.dumps(value)
        return xr.Dataset(variables, coordinates, about)

    def plot(self, **options):
        """Draw the answer by the function ``plot`` of the module ``plotting`` beside the class.

        Parameters
        ----------
        **options
            Handed on, such as ``ax``.

        Returns
        -------
        object
            What that function returns: the axes.

        Raises
        ------
        NotImplementedError
            If there is no such module.
        """
        home = f"{type(self).__module__.rpartition('.')[0]}.plotting"
        try:
            module = importlib.import_module(home)
        except ModuleNotFoundError as error:
            if error.name != home:
                raise
            raise NotImplementedError(f"{type(self).__name__} has no picture: there is no module {home}") from None
        return module.plot(self, **options)

    def save(self, path):
        """Write the result to a file that :func:`load` reads; nothing is left there if writing fails.

        Parameters
        ----------
        path : str or path-like
            Taken as it stands; ``.npz`` is the usual ending. A file that exists is replaced.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        InvalidInputError
            If the folder does not exist.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise InvalidInputError(f"path must lie in a folder that exists; got {str(path)!r}. Make the folder first.")
        arrays, torch_dtypes, plain = {}, {}, {}

        def put(key, value):
            if _is_tensor(value):
                torch_dtypes[key] = str(value.dtype).removeprefix("torch.")
            arrays[key] = _numpy(value)

        for name in self._array_fields():
            if getattr(self, name) is not None:
                put(f"field.{name}", getattr(self, name))
        for key, row in self.history.items():
            put(f"history.{key}", row)
        for key, value in self._state().items():
            if isinstance(value, np.ndarray) or _is_tensor(value):
                put(f"state.{key}", value)
            else:
                plain[key] = _plain(value, f"{type(self).__name__}._state()[{key!r}]")
        for key, value in arrays.items():
            if value.dtype.hasobject:
                raise InvalidInputError(f"{key} must be an array of numbers or texts; got dtype {value.dtype}.")
        fields = self._plain_fields()
        fields["status"] = {"enum": self.status.name} if isinstance(self.status, Status) else self.status
        head = {
            "format": _FORMAT,
            "class": f"{type(self).__module__}:{type(self).__qualname__}",
            "fields": fields,
            "history": list(self.history),
            "state": plain,
            "torch": torch_dtypes,
        }
        text = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
        # Beside the target, so that the last step is a rename within one file system.
        scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with open(scratch, "xb") as file:
                np.savez(file, head=text, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise
        return path

    def _axes(self, axes, ndim):
        """Names of the axes of an array; leading ones by `batch_axes`."""
        return (*self.batch_axes(ndim - len(axes) + 1), *axes[1:]) if axes[:1] == ("...",) else axes

    def batch_axes(self, count):
        """Return names for the leading axes of arrays declared with "..."; "batch_0", "batch_1" and so on by default.

        Parameters
        ----------
        count : int
            How many.
        """
        return tuple(f"batch_{i}" for i in range(count))

    def _state(self):
        """Return what rebuilds the internals: a dict of arrays and plain values; nothing by default."""
        return {}

    @classmethod
    def _restore(cls, fields, state):
        """Return an instance from the saved fields and what :meth:`_state` returned."""
        return cls(**fields)

    @classmethod
    def _array_fields(cls):
        return {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("kind") == "array"}

    def _plain_fields(self):
        named = [f.name for f in dataclasses.fields(self) if "kind" not in f.metadata and f.name != "history"]
        return {name: getattr(self, name) for name in named}


def load(path):
    """Read a result that :meth:`Result.save` wrote.

    The class is looked up among the classes derived from :class:`Result`; only modules of sciml are imported to find
    it, and nothing is unpickled. Tensors come back on the CPU.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    Result
        Of the class that was saved, with equal arrays, status, history and settings.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InvalidInputError
        If the file is damaged, of another origin, of a later format, or names a class that is no result of sciml.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Result.of(None, {"seed": 3}, n_iter=2).save(f"{folder}/answer.npz")
    ...     load(file)
    <Result CONVERGED n_iter=2>
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path must be a file written by Result.save; there is no {str(path)!r}.")
    rule = f"path must be a file written by Result.save; {str(path)!r}"
    if not zipfile.is_zipfile(path):
        raise InvalidInputError(f"{rule} is none, or only a part of one. Save the result again.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            head = json.loads(archive["head"].tobytes().decode())
            arrays = {key: archive[key] for key in archive.files if key != "head"}
        form, name, fields, state = head["format"], head["class"], dict(head["fields"]), dict(head["state"])
        status = fields["status"]
        fields["status"] = Status[status["enum"]] if isinstance(status, dict) else status
        torch_dtypes, history = head["torch"], {key: arrays.pop(f"history.{key}") for key in head["history"]}
    except (KeyError, ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, SyntaxError) as e:
        raise InvalidInputError(f"{rule} is damaged or of another origin: {e}. Save the result again.") from None
    if form != _FORMAT:
        raise InvalidInputError(
            f"{rule} has format {form!r}; this version reads {_FORMAT}. Use the sciml that wrote it."
        )
    cls = _find_class(rule, name)
    for key, value in arrays.items():
        part, _, key_inside = key.partition(".")
        target = {"field": fields, "state": state}.get(part)
        if target is None:
            raise InvalidInputError(f"{rule} holds an array {key!r} that is not of a result.")
        target[key_inside] = _as_tensor(value, torch_dtypes[key]) if key in torch_dtypes else value
    fields["history"] = history
    try:
        return cls._restore(fields, state)
    except (TypeError, KeyError) as error:
        raise InvalidInputError(
            f"{rule} does not fit {cls.__name__} of this version: {error}. Use the sciml that wrote it."
        ) from error


def _find_class(rule, name):
    if name == f"{Result.__module__}:{Result.__qualname__}":
        return Result
    module, _, _ = str(name).partition(":")
    if name not in _CLASSES and module.startswith("sciml."):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    if name not in _CLASSES:
        raise InvalidInputError(
            f"{rule} holds {name!r}, which is no result of this sciml. Import what defines it first."
        )
    return _CLASSES[name]


def _is_tensor(value):
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported torch
    return torch is not None and isinstance(value, torch.Tensor)


def _numpy(value):
    """Return an array in memory that NumPy can write."""
    if not _is_tensor(value):
        return np.asarray(value)
    value = value.detach().cpu().resolve_conj().resolve_neg()
    # NumPy has no bfloat16; float32 holds each of its numbers exactly.
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def _as_tensor(value, dtype):
    import torch

    return torch.from_numpy(value).to(getattr(torch, dtype))


def _word(status):
    return status.name if isinstance(status, Status) else str(status)


def _is_scalar(value):
    # NetCDF knows no booleans and no None; a bool is an int to isinstance.
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _plain(value, where):
    """Return a value as JSON would give it back."""
    if value is None or isinstance(value, (str, bool, Status)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.ndarray) or _is_tensor(value):
        return _plain(_numpy(value).tolist(), where)
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return str(value).removeprefix("torch.")
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise InvalidInputError(
        f"{where} must be numbers, texts, None, or lists and dicts of them; got {type(value).__name__}. "
        "Declare an array by array(), and what cannot be saved by internal()."
    )
