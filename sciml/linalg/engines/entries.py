"""What a pair function computes with: the coordinates of one vector for all pairs of a tile.

Notation  y (m, d) row points; x (n, d) column points; an :class:`Entries` of width w holds w tensors that broadcast to
          the tile (m, n), one a coordinate; width 1 is a number a pair.
Cost      an operation on width w is w operations on tiles; under compilation all of them become one loop.
Pitfalls  the operators and methods are those that LazyTensors of KeOps have, too: a pair function written with them
          serves every engine. :meth:`Entries.sqrt` has derivative zero at zero, as there: a distance at coinciding
          points gives a zero gradient, not NaN.
"""

import numbers

import numpy as np
import torch

from sciml.exceptions import InvalidInputError


class Functions:
    """Make ``np.exp(d)`` and ``torch.exp(d)`` mean ``d.exp()``, and let arrays stand on the left of operators."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", str(function)).strip("_")
        return _call(cls, name, args, kwargs or {})

    def __array_ufunc__(self, function, method, *args, **kwargs):
        if method != "__call__":
            raise TypeError(f"a pair function has no operation numpy.{function.__name__}.{method}")
        return _call(type(self), function.__name__, args, kwargs)


def _call(cls, name, args, kwargs):
    """Call the method of that name of the first argument; of the second, turned round, where the first is an array."""
    if isinstance(args[0], cls):
        return getattr(args[0], _METHODS.get(name, name))(*args[1:], **kwargs)
    # PyTorch's reflected operators, such as rsub, put the arguments in this order, too.
    method = _METHODS.get(name, "").strip("_")
    if not method or len(args) != 2 or not isinstance(args[1], cls):
        raise TypeError(f"a pair function has no operation {name!r} of an array and a point")
    return getattr(args[1], f"__r{method}__")(args[0])


_METHODS = {"subtract": "__sub__", "multiply": "__mul__", "add": "__add__", "true_divide": "__truediv__"}
_METHODS |= {"divide": "__truediv__", "power": "__pow__", "absolute": "abs", "negative": "__neg__", "neg": "__neg__"}
_METHODS |= {"sub": "__sub__", "mul": "__mul__", "div": "__truediv__", "truediv": "__truediv__", "pow": "__pow__"}
_METHODS |= {"rsub": "__rsub__", "rpow": "__rpow__", "rdiv": "__rtruediv__", "rtruediv": "__rtruediv__"}


class Entries(Functions):
    """The coordinates of a vector for all pairs of a tile.

    Parameters
    ----------
    parts : list of torch.Tensor
        One tensor a coordinate, each broadcasting to the tile's shape.
    """

    # NumPy hands operators over to this class instead of looping over its parts.
    __array_priority__ = 1000

    def __init__(self, parts):
        self.parts = list(parts)

    def __len__(self):
        return len(self.parts)

    # ------------------------------------------------------------ operators
    def _with(self, other, operation):
        mine, theirs = self.parts, _parts(other)
        if len(mine) != len(theirs) and 1 not in (len(mine), len(theirs)):
            raise InvalidInputError(
                f"kernel combines vectors of {len(mine)} and {len(theirs)} coordinates; they must be equally long, or "
                "one of them a number."
            )
        width = max(len(mine), len(theirs))
        mine, theirs = (parts * width if len(parts) == 1 else parts for parts in (mine, theirs))
        return Entries([operation(a, b) for a, b in zip(mine, theirs, strict=True)])

    def _each(self, operation):
        return Entries([operation(part) for part in self.parts])

    def __add__(self, other):
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other):
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other):
        return self._with(other, lambda a, b: b - a)

    def __mul__(self, other):
        return self._with(other, lambda a, b: a * b)

    def __truediv__(self, other):
        return self._with(other, lambda a, b: a / b)

    def __rtruediv__(self, other):
        return self._with(other, lambda a, b: b / a)

    def __pow__(self, other):
        # A square as a product: faster, and its second derivative at zero is exact.
        return self._each(lambda a: a * a) if _is_two(other) else self._with(other, lambda a, b: a**b)

    def __rpow__(self, other):
        return self._with(other, lambda a, b: b**a)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self._each(torch.neg)

    def __abs__(self):
        return self._each(torch.abs)

    def __or__(self, other):
        return (self * other).sum(-1)

    def __getitem__(self, index):
        where = index[-1] if isinstance(index, tuple) else index
        if isinstance(where, slice):
            return Entries(self.parts[where])
        return Entries([self.parts[where]])

    # ------------------------------------------------------------ methods
    def sum(self, dim=-1, axis=None, dtype=None, out=None):
        """Return the sum of the coordinates; `dim` must be the last one; the rest is what NumPy's sum passes."""
        if (dim if axis is None else axis) not in (-1, 2):
            raise InvalidInputError(f"kernel must sum over the coordinates, by .sum(-1); got .sum({dim}).")
        total = self.parts[0]
        for part in self.parts[1:]:
            total = total + part
        return Entries([total])

    def sqnorm2(self):
        """Return the squared Euclidean norm."""
        return (self * self).sum(-1)

    def norm2(self):
        """Return the Euclidean norm, with derivative zero at zero."""
        return self.sqnorm2().sqrt()

    norm = norm2

    def sqdist(self, other):
        """Return the squared Euclidean distance."""
        return (self - other).sqnorm2()

    def dot(self, other):
        """Return the inner product."""
        return self | other

    def elem(self, index):
        """Return one coordinate."""
        return self[index]

    def sqrt(self):
        """Return the square root, with derivative zero at zero."""
        return self._each(safe_sqrt)

    def rsqrt(self):
        """Return one over the square root."""
        return self._each(torch.rsqrt)

    def pow(self, exponent):
        """Return a power."""
        return self**exponent

    def square(self):
        """Return the square of each coordinate."""
        return self**2

    def abs(self):
        """Return absolute values."""
        return abs(self)

    def clamp(self, low=None, high=None):
        """Return the coordinates, moved into ``[low, high]``."""
        return self._each(lambda part: torch.clamp(part, low, high))

    def __getattr__(self, name):
        if name in _PLAIN:
            function = getattr(torch, name)
            return lambda: self._each(function)
        raise AttributeError(
            f"a pair function has no operation {name!r}. Use + - * / ** | and the methods exp log sqrt rsqrt cos sin "
            "tanh abs square sum(-1) sqnorm2 norm2 clamp."
        )


_PLAIN = ("exp", "log", "cos", "sin", "tan", "tanh", "atan", "sinh", "cosh", "sign", "relu", "sigmoid", "reciprocal")


def safe_sqrt(part):
    """Return the square root of a tensor, with derivatives zero where it is zero."""
    positive = part > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, part, 1.0)), part)


def _is_two(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == 2


def _parts(value):
    """Return the coordinates of an operand: entries, a number, or an array of one number a coordinate."""
    if isinstance(value, Entries):
        return value.parts
    if isinstance(value, numbers.Number):
        return [value]
    if isinstance(value, torch.Tensor):
        return [value] if value.ndim == 0 else list(value.reshape(-1).unbind())
    if isinstance(value, (np.ndarray, np.generic, list, tuple)):
        return np.asarray(value).reshape(-1).tolist()
    raise InvalidInputError(f"kernel combines coordinates with a {type(value).__name__}; use numbers and arrays.")
