"""What users hand over as data of a problem: a callable of points, a number, or scattered values, behind one door.

Cost      one call of the user's function for each batch of points.
Pitfalls  a callable that is not vectorised is found out with two points and called point by point, with one warning.
"""

from __future__ import annotations

import numbers
import warnings

import numpy as np

from sciml.exceptions import FallbackWarning, InvalidInputError, InvalidTypeError

__all__ = ["PointFunction", "to_numpy"]


def to_numpy(name, value):
    """Turn an array of numpy, torch, xarray or a list into a float64 numpy array, with an error that names it.

    Parameters
    ----------
    name : str
        The argument, for the message.
    value : array_like, any shape
        Real numbers.

    Returns
    -------
    numpy.ndarray, float64

    Raises
    ------
    InvalidInputError
        Where the values are not real numbers, or not finite.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind not in "fiub":
        raise InvalidInputError(
            f"{name} must hold real numbers; got dtype {array.dtype}. Convert it to float64, and pass "
            f"the real and imaginary parts as two problems."
        )
    array = array.astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        place = f" at index {at if len(at) > 1 else at[0]}" if at else ""
        raise InvalidInputError(
            f"{name} must be finite; found {array[at]}{place}. Remove or mend the bad values ({int(bad.sum())} in all)."
        )
    return array


def _is_number(value):
    if isinstance(value, np.ndarray):
        return value.ndim == 0
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


class PointFunction:
    """A function of points ``X (n, d)`` with values ``(n,)``, checked at every call.

    Parameters
    ----------
    name : str
        The argument that it came from, for messages.
    value : callable, float, or tuple (points, values)
        A callable of X (n, d) that returns (n,); a constant; or scattered values: points (m, d), values (m,).
    n_dims : int
        Number of dimensions d.

    Raises
    ------
    InvalidTypeError
        When `value` is none of these.
    InvalidInputError
        When points or values are not finite or their shapes disagree.
    """

    def __init__(self, name, value, n_dims):
        self.name, self.n_dims = name, n_dims
        self.points = self.values = self.constant = self._call = None
        self.single_precision = False
        self._looped, self._scalar = None, False
        if callable(value):
            self._call = value
        elif _is_number(value):
            self.constant = float(to_numpy(name, value))
        elif isinstance(value, tuple) and len(value) == 2:
            self.points, self.values = self._samples(*value)
        else:
            raise InvalidTypeError(
                f"{name} must be a callable of X (n, {n_dims}), a number, or a pair (points, values); got "
                f"{type(value).__name__}. Wrap an expression as lambda X: ... ."
            )

    def _samples(self, points, values):
        self.single_precision = any(str(getattr(a, "dtype", "")).endswith("float32") for a in (points, values))
        points = to_numpy(f"the points of {self.name}", points)
        values = to_numpy(f"the values of {self.name}", values)
        if points.ndim == 1 and self.n_dims == 1:
            points = points[:, None]
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if points.ndim != 2 or points.shape[1] != self.n_dims:
            raise InvalidInputError(
                f"the points of {self.name} must have shape (m, {self.n_dims}), one row a point; got "
                f"{points.shape}. Stack the coordinates as columns."
            )
        if values.shape != (len(points),):
            raise InvalidInputError(
                f"the values of {self.name} must have shape ({len(points)},), one for each point; got "
                f"{values.shape}. Flatten the values in the order of the points."
            )
        if len(points) == 0:
            raise InvalidInputError(f"{self.name} must hold at least one sample; got 0. Pass a callable, or samples.")
        return points, values

    @property
    def is_sampled(self) -> bool:
        """True for scattered values: the function cannot be asked elsewhere."""
        return self.points is not None

    def __call__(self, X):
        """Evaluate at X (n, d) float64; returns (n,) float64, finite.

        Raises
        ------
        InvalidInputError
            When a value is not finite, or the shape is wrong; the message holds the first bad point.
        """
        if self.constant is not None:
            return np.full(len(X), self.constant)
        if self.is_sampled:
            raise InvalidInputError(
                f"{self.name} is known at its {len(self.points)} points only and cannot be evaluated "
                f"elsewhere. Pass a callable."
            )
        if len(X) == 0:
            return np.zeros(0)
        if self._looped is None:
            self._probe(X)
        values = self._loop(X) if self._looped else self._plain(X)
        bad = ~np.isfinite(values)
        if bad.any():
            at = int(np.argmax(bad))
            raise InvalidInputError(
                f"{self.name} must return finite values; got {values[at]} at the point "
                f"{np.array2string(X[at], precision=6)} ({int(bad.sum())} of {len(X)} points). Mend the "
                f"function there, or leave the point out of the domain."
            )
        return values

    def _probe(self, X):
        """Find out with two points whether the callable takes many."""
        two = X[:2] if len(X) > 1 else np.repeat(X[:1], 2, axis=0)
        try:
            out = self._plain(two)
            if self._scalar and not np.allclose(out, self._loop(two), rtol=1e-12, atol=0.0, equal_nan=True):
                raise InvalidInputError("it returned one number for two points where it differs")
        except Exception as error:  # the user's own function may raise anything; its message is passed on below
            reason = error
        else:
            self._looped = False
            return
        try:
            self._loop(two)
        except Exception as error:
            raise InvalidInputError(
                f"{self.name} must be a callable of X (n, {self.n_dims}) that returns (n,); with X of shape "
                f"(2, {self.n_dims}) it failed: {reason}. Write it with X[:, 0], X[:, 1], ... and "
                f"numpy functions."
            ) from error
        warnings.warn(
            f"{self.name} is not vectorised ({reason}); it is called point by point, which is slow. Write it "
            f"for X (n, {self.n_dims}) with columns X[:, j].",
            FallbackWarning,
            stacklevel=2,
        )
        self._looped = True

    def _plain(self, X):
        raw = self._call(X.copy())
        if hasattr(raw, "detach"):
            raw = raw.detach().cpu().numpy()
        out = np.asarray(raw)
        if out.dtype.kind not in "fiub":
            raise InvalidInputError(
                f"{self.name} must return real numbers; got dtype {out.dtype}. Solve for the real and "
                f"imaginary parts apart."
            )
        self.single_precision = self.single_precision or out.dtype in (np.float32, np.float16)
        self._scalar = out.ndim == 0
        if self._scalar:
            return np.full(len(X), float(out))
        if out.shape == (len(X), 1):
            out = out[:, 0]
        if out.shape != (len(X),):
            raise InvalidInputError(
                f"{self.name} must return shape ({len(X)},) for X of shape {X.shape}; got {out.shape}. "
                f"Return one value for each row of X."
            )
        return out.astype(np.float64)

    def _loop(self, X):
        one = [
            np.asarray(self._call(x.copy() if self.n_dims > 1 else float(x[0])), dtype=np.float64).reshape(-1)
            for x in X
        ]
        if any(len(v) != 1 for v in one):
            raise InvalidInputError(
                f"{self.name} must return one number for one point; got {len(one[0])}. Return a scalar."
            )
        return np.concatenate(one)
