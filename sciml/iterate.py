"""The one loop: a method yields its steps, :func:`run` stops them, records them and says how they ended.

A method is a generator of :class:`Step`; item 0 is the starting point. It may be stepped by hand, too:

>>> def halve(x):
...     while True:
...         yield Step(x, abs(x))
...         x = x / 2
>>> answer = run(halve(1.0), name="halve", tol=1e-3, max_iter=20)
>>> answer.status, answer.n_iter, answer.value
(<Status.CONVERGED: 'the criterion fell to tol'>, 10, 0.0009765625)

A criterion is dimensionless: a residual over the right side, a gradient norm over its first value, a duality gap over
the objective. The change of an iterate alone is none, since a short step makes it small as well.
"""

import enum
import logging
import math
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciml import progress as _progress
from sciml._config import resolve
from sciml.exceptions import ConvergenceError, ConvergenceWarning, InvalidInputError
from sciml.validation import check_number

_log = logging.getLogger(__name__)


class Status(enum.Enum):
    """How a loop ended; the value is the second half of the message."""

    CONVERGED = "the criterion fell to tol"
    MAX_ITER = "max_iter was reached: raise it, loosen tol, or precondition"
    STALLED = "the method ended above tol: the problem may be singular, or the dtype too short for this tol"
    NON_FINITE = "a NaN or inf appeared: check the scale of the inputs, or shorten the step"
    STOPPED = "the callback or the keyboard asked to stop"
    INDEFINITE = "a matrix that must be positive definite is not: use a method for indefinite ones"


@dataclass(frozen=True)
class Step:
    """One iterate.

    Parameters
    ----------
    value : object
        The iterate: an array, a tensor, or whatever the method returns.
    criterion : float
        Dimensionless; the loop stops when it is at most ``tol``.
    scalars : dict of float
        More numbers for the history, such as a step length; empty by default.
    """

    value: Any
    criterion: float
    scalars: dict = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """Why a method gave up: what its generator may return after its last step.

    Parameters
    ----------
    status : Status
        How it ended; never ``CONVERGED``, which only the criterion decides.
    reason : str
        The second half of the message, with numbers and a remedy.
    """

    status: Status
    reason: str


@dataclass(frozen=True)
class Run:
    """What a loop left.

    Parameters
    ----------
    value : object
        The last iterate.
    status : Status
        How the loop ended.
    n_iter : int
        Steps taken; 0 when the starting point was good enough.
    history : dict of ndarray, shape (n_iter + 1,)
        ``"criterion"``, ``"seconds"`` since the start, and the scalars of the steps (NaN where a step had none).
    reason : str
        Why the loop ended, in words: what the method said about it, else the text of the status.
    """

    value: Any
    status: Status
    n_iter: int
    history: dict
    reason: str = ""

    @property
    def converged(self):
        """Whether the criterion fell to the tolerance."""
        return self.status is Status.CONVERGED


def run(steps, *, name, tol, max_iter, callback=None, on_failure=None, progress=None, dtype=None):
    """Take steps until the criterion falls to `tol`, and say so when it does not.

    Ctrl-C ends the loop as a callback would: the last iterate is kept, with status ``STOPPED``.

    Parameters
    ----------
    steps : iterable of Step
        The method; item 0 is the starting point. A generator that gives up may return an :class:`End`, which says why.
    name : str
        The method's name, for messages.
    tol : float
        Bound on the criterion, dimensionless; at least 10 eps of the dtype, since a smaller one is met by luck only.
    max_iter : int
        Steps at most; 0 returns the starting point.
    callback : callable or None
        ``callback(n_iter, step)``, called once a step, the starting point included; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the tolerance was not met; None (the default) asks the configuration, which warns by default.
    progress : bool or None
        Show a bar; None (the default) asks the configuration, which is silent by default.
    dtype : numpy or torch dtype, str or None
        The dtype that the method computes in; None (the default) takes that of the first iterate if it has one, else
        float64.

    Returns
    -------
    Run
        The last iterate, the status, the number of steps and the history.

    Raises
    ------
    InvalidInputError
        If `tol` is below 10 eps, `max_iter` is negative, or no step came at all.
    ConvergenceError
        If the tolerance was not met and `on_failure` is "raise".

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not met and `on_failure` is "warn"; the line shown is the caller's outside sciml.

    Notes
    -----
    The loop itself costs a few microseconds a step.

    Examples
    --------
    >>> roots = (Step(x, abs(x * x - 2) / 2) for x in (1.0, 1.5, 1.4))
    >>> run(roots, name="list", tol=0.1, max_iter=5).value
    1.4
    """
    tol = check_number("tol", tol, low=0)
    max_iter = check_number("max_iter", max_iter, low=0, integer=True)
    on_failure = resolve("on_failure", on_failure)
    rows, step, status, reason = [], None, Status.STALLED, None
    start = time.perf_counter()
    bar = _progress.bar(max_iter, desc=name, progress=progress)
    try:
        steps = iter(steps)
        while True:
            try:
                step = next(steps)
            except StopIteration as last:
                if isinstance(last.value, End):
                    status, reason = last.value.status, last.value.reason
                break
            criterion = float(step.criterion)
            if not rows:
                _check_tol(name, tol, step.value if dtype is None else dtype)
            rows.append({"criterion": criterion, "seconds": time.perf_counter() - start, **step.scalars})
            if len(rows) > 1:
                bar.update()
            if not math.isfinite(criterion):
                status = Status.NON_FINITE
            elif criterion <= tol:
                # A criterion may miss a NaN elsewhere in the iterate; one look at the end is cheap.
                status = Status.CONVERGED if _is_finite(step.value) else Status.NON_FINITE
            elif callback is not None and callback(len(rows) - 1, step):
                status = Status.STOPPED
            elif len(rows) > max_iter:
                status = Status.MAX_ITER
            else:
                continue
            break
    except KeyboardInterrupt:
        if not rows:
            raise
        status = Status.STOPPED
    finally:
        bar.close()
    if not rows:
        raise InvalidInputError(f"steps of {name} must yield at least the starting point; nothing came.")
    n_iter = len(rows) - 1
    keys = dict.fromkeys(key for row in rows for key in row)
    history = {key: np.array([float(row.get(key, math.nan)) for row in rows]) for key in keys}
    reason = reason or status.value
    text = f"{name} stopped after {n_iter} iterations with criterion {criterion:.2e}, tol={tol:.0e}: {reason}."
    _log.info(text)
    if status not in (Status.CONVERGED, Status.STOPPED) and on_failure != "ignore":
        if on_failure == "raise":
            raise ConvergenceError(text)
        warnings.warn(text, ConvergenceWarning, stacklevel=caller_level())
    return Run(step.value, status, n_iter, history, reason)


def caller_level():
    """Return the ``stacklevel`` by which a warning shows the caller's line outside sciml.

    Returns
    -------
    int
        For ``warnings.warn`` in the function that calls this one.

    Examples
    --------
    >>> caller_level() >= 1
    True
    """
    level, frame = 1, sys._getframe(1)
    # PyTorch lies between where sciml is called back, as in derivatives.
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("sciml.", "torch.")):
        level, frame = level + 1, frame.f_back
    return level


def _check_tol(name, tol, like):
    eps, dtype = _eps(like)
    if tol < 10 * eps:
        raise InvalidInputError(
            f"tol of {name} must be at least 10 eps = {10 * eps:.1e} in {dtype}; got {tol:.1e}. Loosen tol, or compute "
            "in a longer dtype; to take a fixed number of steps, set max_iter and on_failure='ignore'."
        )


def _eps(like):
    """Return the machine epsilon and name of a dtype, or of an array's dtype; of float64 where there is none."""
    # On a class such as numpy.float32 the attribute is there, too, but is no dtype.
    dtype = like if isinstance(like, type) else getattr(like, "dtype", like)
    word = (dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)).rpartition(".")[2]
    # bfloat16 is unknown to NumPy; complex numbers have the eps of their parts.
    known = {"bfloat16": 2.0**-7, "complex64": 2.0**-23, "complex128": 2.0**-52}
    known |= {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
    return (known[word], word) if word in known else (known["float64"], "float64")


def _is_finite(value):
    if isinstance(value, (float, complex, np.ndarray, np.floating)) and np.asarray(value).dtype.kind in "fc":
        return bool(np.isfinite(value).all())
    if hasattr(value, "isfinite") and hasattr(value, "detach"):
        return bool(value.isfinite().all())
    return True
