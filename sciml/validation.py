"""Checks of arguments at the door of a public function; every one raises :class:`InvalidInputError`.

A message names the argument, its rule, the value that came and what to do. The checks return the value in the form
that the rest of the code expects, so that a caller writes ``tol = check_number("tol", tol, low=0)``.
"""

import difflib
import math
import numbers

import numpy as np

from sciml.exceptions import InvalidInputError


def check_number(name, value, *, low=None, high=None, integer=False, inclusive="both"):
    """Return a finite real number in a range.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : object
        What the user gave; NumPy and zero-dimensional torch numbers count as numbers, booleans do not.
    low, high : float or None
        The ends of the range; None (the default) leaves that side open.
    integer : bool
        Ask for a whole number and return an int; False by default. ``3.0`` counts as whole.
    inclusive : {"both", "neither", "low", "high"}
        Which ends belong to the range; both by default.

    Returns
    -------
    float or int
        The number as a Python number.

    Raises
    ------
    InvalidInputError
        If `value` is no finite number, or lies outside the range.

    Examples
    --------
    >>> check_number("tol", np.float32(0.5), low=0)
    0.5
    >>> check_number("n_features", 3.0, low=1, integer=True)
    3
    """
    with_low, with_high = inclusive in ("both", "low"), inclusive in ("both", "high")
    kind = "an integer" if integer else "a number"
    limits = [f"{'at least' if with_low else 'above'} {low:g}"] if low is not None else []
    limits += [f"{'at most' if with_high else 'below'} {high:g}"] if high is not None else []
    rule = " ".join([kind, " and ".join(limits)]).strip()

    number = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    if isinstance(number, (bool, np.bool_)) or not isinstance(number, numbers.Real):
        raise InvalidInputError(f"{name} must be {rule}; got {value!r} of type {type(value).__name__}. Pass {rule}.")
    whole = isinstance(number, numbers.Integral) or float(number).is_integer()
    inside = (low is None or (number >= low if with_low else number > low)) and (
        high is None or (number <= high if with_high else number < high)
    )
    finite = isinstance(number, numbers.Integral) or math.isfinite(number)
    if not finite or not inside or (integer and not whole):
        raise InvalidInputError(f"{name} must be {rule}; got {number!r}. Pass {rule}.")
    return int(number) if integer else float(number)


def check_option(name, value, options):
    """Return one of a few words, or say which words there are and which is nearest.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : object
        What the user gave.
    options : iterable of str
        The words allowed; their case counts.

    Returns
    -------
    str
        `value`.

    Raises
    ------
    InvalidInputError
        If `value` is not among the options.

    Examples
    --------
    >>> check_option("on_failure", "warn", ("warn", "raise", "ignore"))
    'warn'
    """
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    near = difflib.get_close_matches(str(value), options, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InvalidInputError(f"{name} must be one of {', '.join(map(repr, options))}; got {value!r}.{hint}")


def check_finite(name, array):
    """Return a NumPy array that holds neither NaN nor infinity.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    array : ndarray, any shape
        Real or complex numbers.

    Returns
    -------
    ndarray
        `array` itself.

    Raises
    ------
    InvalidInputError
        With the index and value of the first entry that is not finite.

    Examples
    --------
    >>> check_finite("b", np.ones(2))
    array([1., 1.])
    """
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InvalidInputError(
            f"{name} must be finite; the entry at index {where if len(where) != 1 else where[0]} is "
            f"{array[where]}, one of {int(bad.sum())} such. Remove or fill these entries first."
        )
    return array


def check_points(name, X, d):
    """Return points as a float64 array with one row a point.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    X : array_like, shape (n, d), or (n,) when d is 1
        Coordinates, in the units of the domain.
    d : int
        The dimension that the problem has.

    Returns
    -------
    ndarray, shape (n, d), float64
        The points; a copy only where the type asks for one.

    Raises
    ------
    InvalidInputError
        If the shape is another, or an entry is not a finite number.

    Examples
    --------
    >>> check_points("X", [0.0, 0.5], 1).shape
    (2, 1)
    """
    rule = f"of shape (n, {d})" + (" or (n,)" if d == 1 else "")
    if hasattr(X, "detach"):
        X = X.detach().cpu()
    try:
        points = np.asarray(X)
        # A complex number would lose its imaginary part in the conversion, and a text or date its meaning.
        if points.dtype.kind not in "fiub":
            raise TypeError(f"its dtype is {points.dtype}")
        points = points.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} must be real numbers {rule}; got {type(X).__name__}: {error}.") from None
    if points.ndim == 1 and d == 1:
        points = points[:, None]
    if points.ndim != 2 or points.shape[1] != d:
        turned = points.ndim == 2 and points.shape[0] == d
        remedy = "Pass its transpose." if turned else f"Put one point of {d} coordinates in each row."
        raise InvalidInputError(f"{name} must be {rule}; got shape {np.shape(X)}. {remedy}")
    return check_finite(name, points)
