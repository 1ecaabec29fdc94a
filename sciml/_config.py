"""Settings shared by all methods, and the memory that a method may take.

What counts, strongest first: the argument of a function, :func:`config_context`, :func:`set_config`, the environment
(``SCIML_DEVICE``, ``SCIML_MEMORY`` and so on, one variable a key), the default. The keys are the names of the
arguments:

============ ====================================== ======= =======================================================
key          values                                 default meaning
============ ====================================== ======= =======================================================
device       "auto", "cpu", "cuda", "cuda:0", ...   "auto"  where NumPy data are computed on; torch data stay put
dtype        None, "float32", "float64"             None    None keeps the dtype of the data
memory       bytes, "2GiB", or a fraction           0.5     what temporaries may take; a fraction of free memory
check_finite True, False                            True    refuse NaN and infinity in arrays
engine       "auto", "dense", "eager", "compiled",  "auto"  what sums kernels; a named engine is never replaced by
             "keops"                                        another, and "auto" says what it took: :func:`sciml.trace`
on_failure   "warn", "raise", "ignore"              "warn"  what a method does that misses its tolerance
progress     True, False                            False   show progress bars
============ ====================================== ======= =======================================================
"""

import contextlib
import os
import re
from contextvars import ContextVar
from pathlib import Path

from sciml.exceptions import InvalidInputError
from sciml.validation import check_number, check_option

_UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def _device(name, value):
    text = str(value)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        check_option(name, text, ("auto", "cpu", "cuda", "cuda:0"))
    return text


def _dtype(name, value):
    # str(torch.float32) is "torch.float32"; a NumPy scalar type has a __name__; both end in the plain word.
    text = getattr(value, "__name__", None) or str(value)
    return check_option(name, text.rpartition(".")[2], ("float32", "float64"))


def _memory(name, value):
    rule = 'bytes as an integer, a text such as "2GiB", or a fraction of free memory in (0, 1]'
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([KMGT]?I?B?)\s*", value, flags=re.IGNORECASE)
        unit = match and match[2].upper()
        try:
            number = float(match[1])
            size = number * _UNITS[unit]
        except (TypeError, KeyError, ValueError):
            raise InvalidInputError(f"{name} must be {rule}; got {value!r}. Write {name}='2GiB', say.") from None
        value = number if not unit and number <= 1 and "." in match[1] else int(size)
    if isinstance(value, float) and value <= 1:
        return check_number(name, value, low=0, high=1, inclusive="high")
    return check_number(name, value, low=1, integer=True)


def _flag(name, value):
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if isinstance(value, bool):
        return value
    raise InvalidInputError(f"{name} must be True or False; got {value!r}. Pass True or False.")


def _engine(name, value):
    return check_option(name, value, ("auto", "dense", "eager", "compiled", "keops"))


def _on_failure(name, value):
    return check_option(name, value, ("warn", "raise", "ignore"))


# key: (check, default)
_KEYS = {
    "device": (_device, "auto"),
    "dtype": (_dtype, None),
    "memory": (_memory, 0.5),
    "check_finite": (_flag, True),
    "engine": (_engine, "auto"),
    "on_failure": (_on_failure, "warn"),
    "progress": (_flag, False),
}
_process: dict[str, object] = {}
_context = ContextVar("sciml_config", default=None)


def _checked(settings):
    """Return the settings in their stored form; None stands for the value of the environment, or the default."""
    checked = {}
    for key, value in settings.items():
        check_option("a configuration key", key, _KEYS)
        checked[key] = _base(key) if value is None else _KEYS[key][0](key, value)
    return checked


def _base(key):
    """Return what the environment says about a key, or its default."""
    check, default = _KEYS[key]
    variable = f"SCIML_{key.upper()}"
    text = os.environ.get(variable, "").strip()
    return check(f"the environment variable {variable}", text) if text else default


def get_config():
    """Return the settings that hold here and now.

    Returns
    -------
    dict
        Every key with its value; changing the dict changes no setting.

    Examples
    --------
    >>> get_config()["on_failure"]
    'warn'
    """
    stronger = {**_process, **(_context.get() or {})}
    return {key: stronger[key] if key in stronger else _base(key) for key in _KEYS}


def set_config(**settings):
    """Change settings for the whole process.

    Parameters
    ----------
    **settings
        Keys and values of the table above; None returns to the environment's value or the default.

    Raises
    ------
    InvalidInputError
        For an unknown key or value; nothing is changed then.

    Examples
    --------
    >>> set_config(on_failure="raise")
    >>> get_config()["on_failure"]
    'raise'
    >>> set_config(on_failure=None)
    """
    checked = _checked(settings)
    for key, value in checked.items():
        if settings[key] is None:
            _process.pop(key, None)
        else:
            _process[key] = value


@contextlib.contextmanager
def config_context(**settings):
    """Change settings inside a ``with`` block, for this thread or task only.

    Parameters
    ----------
    **settings
        Keys and values of the table above; None takes the environment's value or the default.

    Yields
    ------
    dict
        The settings that hold inside.

    Raises
    ------
    InvalidInputError
        For an unknown key or value, before the block is entered.

    Examples
    --------
    >>> with config_context(dtype="float32"):
    ...     get_config()["dtype"]
    'float32'
    """
    token = _context.set({**(_context.get() or {}), **_checked(settings)})
    try:
        yield get_config()
    finally:
        _context.reset(token)


def resolve(name, argument=None):
    """Return a function's argument, or the configured value where the argument is None.

    Parameters
    ----------
    name : str
        The key, which is also the argument's name.
    argument : object
        What the function was given; None (the default) asks the configuration.

    Returns
    -------
    object
        The checked value.

    Raises
    ------
    InvalidInputError
        For an unknown key or value.

    Examples
    --------
    >>> resolve("on_failure", "ignore"), resolve("on_failure")
    ('ignore', 'warn')
    """
    check_option("a configuration key", name, _KEYS)
    return get_config()[name] if argument is None else _KEYS[name][0](name, argument)


def memory_budget(memory=None):
    """Return how many bytes the temporaries of a method may take.

    A number of bytes is taken as it stands. A fraction is one of the memory that is free now: the least of what the
    machine, the control groups and the address-space limit of this process leave.

    Parameters
    ----------
    memory : int, float, str or None
        Bytes, "2GiB", or a fraction; None (the default) asks the configuration.

    Returns
    -------
    int
        Bytes, at least 1.

    Raises
    ------
    InvalidInputError
        If `memory` is none of these.

    Examples
    --------
    >>> memory_budget("2MiB")
    2097152
    """
    value = resolve("memory", memory)
    return value if isinstance(value, int) else max(1, int(value * _free_memory()))


def _free_memory():
    """Return the bytes that this process may still take; 4 GiB where the system does not tell."""
    known = [size for size in (_free_on_machine(), _free_in_group(), _free_address_space()) if size is not None]
    return max(0, min(known)) if known else 4 * 2**30


def _read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _free_on_machine():
    match = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    if match:
        return 1024 * int(match[1])
    try:
        # Not Linux: half of the physical memory is a cautious guess of what is free.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _free_in_group(root="/sys/fs/cgroup", groups="/proc/self/cgroup"):
    """Return what the tightest memory limit of the control groups leaves, or None where there is no limit."""
    own = next((line[3:] for line in _read(groups).splitlines() if line.startswith("0::")), "/")
    folder, found = Path(root) / own.strip("/"), []
    # A limit may stand on any level above the group of this process.
    for level in [folder, *folder.parents]:
        if not level.is_relative_to(root):
            break
        limit = _read(level / "memory.max").strip()
        if limit.isdigit():
            # Pages of files that nobody uses are given back on demand, so they count as free.
            cached = re.search(r"^inactive_file (\d+)", _read(level / "memory.stat"), flags=re.MULTILINE)
            used = int(_read(level / "memory.current") or 0) - (int(cached[1]) if cached else 0)
            found.append(int(limit) - used)
    old = _read(Path(root) / "memory" / "memory.limit_in_bytes").strip()
    if old.isdigit():
        found.append(int(old) - int(_read(Path(root) / "memory" / "memory.usage_in_bytes") or 0))
    return min(found) if found else None


def _free_address_space():
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = _read("/proc/self/statm").split()
    return limit - int(pages[0]) * resource.getpagesize() if pages else limit
