"""Memory: state the need before anything is allocated, and name the remedy when it does not fit.

Notation  the need of a method in bytes; the budget is what :func:`sciml._config.memory_budget` allows on the CPU, and
          the same fraction of the free memory of a CUDA device.
Pitfalls  a device may be full although the budget said otherwise (another process, fragments): :func:`exhaustion`
          turns whatever the allocator raises into :class:`MemoryBudgetError`, and :func:`halving` tries again with
          smaller tiles. The memory of the failed attempt hangs on its exception until that is dropped.
"""

import contextlib
import ctypes
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sciml._config import memory_budget, resolve
from sciml.exceptions import MemoryBudgetError

__all__ = ["budget", "exhaustion", "halving", "require", "trim"]

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "EiB": 2**60}
# What torch's CPU allocator, the C++ library, CUDA and its BLAS say; there is no class of error to tell them by.
_SIGNS = ("DefaultCPUAllocator: ", "bad_alloc", "out of memory", "ALLOC_FAILED")


def budget(memory: int | float | str | None = None, device: str | torch.device | None = None) -> int:
    """Return how many bytes the temporaries of a method may take on a device.

    Parameters
    ----------
    memory : int, float, str or None
        Bytes, "2GiB", or a fraction of the memory that is free now; None (the default) asks the configuration.
    device : str, torch.device or None
        Where they will lie; the CPU by default.

    Returns
    -------
    int
        Bytes, at least 1.

    Examples
    --------
    >>> budget("2KiB")
    2048
    """
    value = resolve("memory", memory)
    if device is None or torch.device(device).type != "cuda" or isinstance(value, int):
        return memory_budget(value)
    free, _ = torch.cuda.mem_get_info(device)
    # Blocks that torch holds but does not use serve the next request as well as free memory does.
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, int(value * (free + idle)))


def require(
    needed: int | float,
    *,
    what: str,
    remedy: str,
    memory: int | float | str | None = None,
    device: str | torch.device | None = None,
) -> int:
    """Return the budget, or raise when a request does not fit; call it before anything is allocated.

    Parameters
    ----------
    needed : int or float
        Bytes at the peak, all temporaries together.
    what : str
        What takes them, such as "a dense matrix of 20000 x 20000".
    remedy : str
        What the user can do, such as "pass engine='eager'".
    memory : int, float, str or None
        Bytes, "2GiB", or a fraction of the memory that is free now; None (the default) asks the configuration.
    device : str, torch.device or None
        Where they will lie; the CPU by default.

    Returns
    -------
    int
        The budget in bytes.

    Raises
    ------
    MemoryBudgetError
        With the bytes needed and allowed as attributes.

    Examples
    --------
    >>> require(8e9, what="a dense matrix of 31623 x 31623", remedy="pass engine='eager'", memory="1GiB")
    Traceback (most recent call last):
    ...
    sciml.exceptions.MemoryBudgetError: a dense matrix of 31623 x 31623 takes 7.45 GiB on cpu; memory allows 1.00 GiB. \
To go on, pass engine='eager', or raise memory.
    """
    allowed = budget(memory, device)
    if needed > allowed:
        raise MemoryBudgetError(
            f"{what} takes {_size(needed)} on {device or 'cpu'}; memory allows {_size(allowed)}. "
            f"To go on, {remedy}, or raise memory.",
            needed=int(needed),
            allowed=allowed,
        )
    return allowed


def trim() -> bool:
    """Give memory that was freed back to the system, where the allocator keeps it.

    A loop over large arrays of many sizes leaves holes in the heap of glibc, which are not given back by themselves, so
    that the resident memory of the process grows although nothing is held. One call takes about a millisecond.

    Returns
    -------
    bool
        Whether memory was given back; False where the allocator has no such function.

    Examples
    --------
    >>> trim() in (True, False)
    True
    """
    release = _allocator_trim()
    return bool(release is not None and release(0))


@functools.cache
def _allocator_trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another allocator, or another system
        return None


@contextlib.contextmanager
def exhaustion(*, what: str, remedy: str, device: str | torch.device | None = None) -> Iterator[None]:
    """Turn whatever an allocator raises inside a ``with`` block into :class:`MemoryBudgetError`.

    Parameters
    ----------
    what : str
        What was being computed, such as "the factorisation of a 20000 x 20000 matrix".
    remedy : str
        What the user can do.
    device : str, torch.device or None
        Where it was computed; the CPU by default.

    Raises
    ------
    MemoryBudgetError
        With the bytes of the request that failed as ``needed`` (None where the allocator does not tell) and those
        free then as ``allowed``.

    Examples
    --------
    >>> with exhaustion(what="a vector", remedy="take fewer points"):  # doctest: +ELLIPSIS
    ...     torch.empty(2**60)
    Traceback (most recent call last):
    ...
    sciml.exceptions.MemoryBudgetError: a vector ran out of memory on cpu: a request of 4194304.00 TiB failed with ...
    """
    try:
        yield
    except MemoryBudgetError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not _is_exhaustion(error):
            raise
        asked, free = _asked(str(error)), budget(1.0, device)
        request = "a request" if asked is None else f"a request of {_size(asked)}"
        raise MemoryBudgetError(
            f"{what} ran out of memory on {device or 'cpu'}: {request} failed with {_size(free)} free. "
            f"To go on, {remedy}, or free memory.",
            needed=asked,
            allowed=free,
        ) from None


def halving(
    work: Callable[[int], Any],
    tile: int,
    *,
    what: str,
    remedy: str,
    device: str | torch.device | None = None,
    times: int = 4,
) -> tuple[Any, int]:
    """Call ``work(tile)``; where memory runs out, free what it took and call again with half the tile.

    Parameters
    ----------
    work : callable
        Takes the tile; must be safe to repeat.
    tile : int
        Rows of the first attempt, at least 1.
    what : str
        What is being computed, for the message of the last failure.
    remedy : str
        What the user can do, for the same.
    device : str, torch.device or None
        Where it is computed; the CPU by default.
    times : int
        Halvings before giving up; 4 by default: where a sixteenth does not fit, the tile is not what fills the memory.

    Returns
    -------
    value : object
        What `work` returned.
    tile : int
        The tile that fitted.

    Raises
    ------
    MemoryBudgetError
        If memory ran out in every attempt.

    Examples
    --------
    >>> def work(tile):
    ...     if tile > 300:
    ...         raise MemoryError
    ...     return "done"
    >>> halving(work, 1000, what="a sum", remedy="take fewer points")
    ('done', 250)
    """
    for left in range(times, -1, -1):
        try:
            with exhaustion(what=what, remedy=remedy, device=device):
                return work(tile), tile
        except MemoryBudgetError:
            if left == 0 or tile == 1:
                raise
        # Out here the exception is gone, and with it the frames that held the tensors of the failed attempt.
        if device is not None and torch.device(device).type == "cuda":
            torch.cuda.empty_cache()
        tile = max(1, tile // 2)
    raise AssertionError("unreachable")


def _is_exhaustion(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(error) for sign in _SIGNS)


def _asked(text: str) -> int | None:
    """Return the bytes that an allocator's message says were asked for."""
    match = re.search(r"(?:[Tt]ried|Unable) to allocate ([0-9.]+) (bytes|[KMGTPE]iB)", text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def _size(n: int | float) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if n >= _UNITS[unit]:
            return f"{n / _UNITS[unit]:.2f} {unit}"
    return f"{int(n)} bytes"
