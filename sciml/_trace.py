"""The dispatch decisions of a block of code: which engine ran where, why, for how long.

Notation  an entry is a dict with the keys operation, shapes, engine, device, reason, seconds, bytes.
Cost      about 0.2 microseconds a decision while no trace is open; then nothing is formatted or kept.
Pitfalls  a trace follows the context it was opened in: :func:`sciml.parallel.map` brings the decisions of its workers
          home, a bare ``threading.Thread`` keeps its own to itself.
"""

import contextlib
import math
from contextvars import ContextVar

_KEYS = ("operation", "shapes", "engine", "device", "reason", "seconds", "bytes")
# The logs of all open traces, outermost first; None where there is none.
_open: ContextVar = ContextVar("sciml_trace", default=None)


class TraceLog(list):
    """Dispatch decisions in the order in which they were made: a list of dicts that shows itself as a table.

    Examples
    --------
    >>> log = TraceLog()
    >>> log.append(dict(operation="sum", shapes=((2, 1),), engine="dense", device="cpu", reason="small",
    ...                 seconds=0.5, bytes=64))
    >>> log
    operation | shapes | engine | device | seconds | bytes | reason
    sum       | 2x1    | dense  | cpu    | 0.5     | 64    | small
    """

    def __repr__(self):
        columns = ("operation", "shapes", "engine", "device", "seconds", "bytes", "reason")
        if not self:
            return "no dispatch recorded"
        rows = [columns, *([_text(key, entry[key]) for key in columns] for entry in self)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
        lines = (" | ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def to_xarray(self):
        """Return the decisions as a Dataset over ``dispatch``; shapes are texts such as "20000x3, 500x3".

        Returns
        -------
        xarray.Dataset
            With one variable a key; seconds, and bytes as float64, are NaN where they were not measured.
        """
        import numpy as np
        import xarray as xr

        columns = {}
        for key in _KEYS:
            if key in ("seconds", "bytes"):
                units = {"seconds": "s", "bytes": "byte"}[key]
                values = [math.nan if entry[key] is None else entry[key] for entry in self]
                columns[key] = ("dispatch", np.array(values, dtype=np.float64), {"units": units})
            else:
                columns[key] = ("dispatch", np.array([_text(key, entry[key]) for entry in self], dtype=str))
        return xr.Dataset(columns)


def _text(key, value):
    if value is None:
        return "-"
    if key == "shapes":
        return ", ".join("x".join(map(str, shape)) or "()" for shape in value)
    return f"{value:.3g}" if key == "seconds" else str(value)


@contextlib.contextmanager
def trace():
    """Record every dispatch decision inside a ``with`` block.

    Traces nest: an inner one records for itself and for those around it.

    Yields
    ------
    TraceLog
        A list of dicts that fills up while the block runs; its repr is a table, ``log.to_xarray()`` a Dataset. The
        keys: operation; shapes, one for each array; engine; device; reason; seconds; bytes (the temporaries that were
        asked for). The last two are None where they were not measured.

    Examples
    --------
    >>> with trace() as log:
    ...     record("kernel_sum", shapes=((100, 2), (50, 2)), engine="dense", device="cpu", reason="5,000 pairs")
    >>> log[0]["engine"], len(log)
    ('dense', 1)
    """
    log = TraceLog()
    token = _open.set((*(_open.get() or ()), log))
    try:
        yield log
    finally:
        _open.reset(token)


@contextlib.contextmanager
def isolated_trace(wanted=True):
    """Record the decisions of a ``with`` block for its own log alone, hidden from the traces around it.

    Parameters
    ----------
    wanted : bool
        Whether to record at all; True by default.

    Yields
    ------
    TraceLog
        Stays empty where it is not wanted.

    Examples
    --------
    >>> with trace() as outer, isolated_trace() as inner:
    ...     record("cg")
    >>> len(outer), len(inner)
    (0, 1)
    """
    log = TraceLog()
    token = _open.set((log,) if wanted else None)
    try:
        yield log
    finally:
        _open.reset(token)


def tracing():
    """Return whether a trace is open, for callers whose reason costs time to write.

    Returns
    -------
    bool

    Examples
    --------
    >>> tracing()
    False
    """
    return _open.get() is not None


def record(operation, *, shapes=(), engine=None, device=None, reason=None, seconds=None, bytes=None):
    """Tell the open traces of one decision; do nothing where none is open.

    Parameters
    ----------
    operation : str
        What was asked for, such as "kernel_sum".
    shapes : sequence of tuple of int
        Shapes of the arrays, in the order of the arguments; none by default.
    engine : str or None
        What computes it; None (the default) where there is no choice of engines.
    device : str, torch.device or None
        Where it is computed.
    reason : str or None
        Why this engine and device.
    seconds : float or None
        Wall time; None (the default) where it was not measured.
    bytes : int or None
        Temporaries asked for; None (the default) where that is unknown.

    Examples
    --------
    >>> record("cg", engine="dense", reason="no trace is open: nothing happens")
    """
    logs = _open.get()
    if logs is None:
        return
    for log in logs:
        log.append(
            {
                "operation": operation,
                "shapes": tuple(tuple(int(n) for n in shape) for shape in shapes),
                "engine": engine,
                "device": None if device is None else str(device),
                "reason": reason,
                "seconds": None if seconds is None else float(seconds),
                "bytes": None if bytes is None else int(bytes),
            }
        )
