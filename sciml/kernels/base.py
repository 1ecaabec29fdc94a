"""What kernels have in common: parameters, the dense matrix, sums, products and multiples.

Notation  y, x points; r = y - x; "pair function": k as a function of the coordinates of y and x, which engines call.
Pitfalls  lengths are divided by a power of two near the lengthscale before anything is squared, so that data of size
          1e-25 or 1e25 in float32 neither underflow nor overflow; the division is exact.
"""

import math
import numbers

import numpy as np
import torch

from sciml.exceptions import InvalidInputError


class Kernel:
    """Base of the covariance functions.

    Parameters
    ----------
    **parameters
        By name; they appear in ``parameters`` and in the repr.

    Notes
    -----
    A subclass gives ``_prepared`` and ``_pair``; and ``_log_pair`` where the kernel is positive everywhere.
    """

    #: Whether k(y, x) is a function of y - x.
    stationary = True

    #: For functions of the distance alone, the function of its square; None otherwise.
    _squared = None

    #: The values, and their logarithms, in memory that is given; None where a kernel has no such form.
    _fill = _fill_log = None

    def __init__(self, **parameters):
        self._given = parameters

    @property
    def parameters(self):
        """The parameters as tensors, by name; one that was given as a tensor is that tensor, with its gradients."""
        return {name: _as_tensor(value) for name, value in self._given.items()}

    def __call__(self, y, x=None):
        """Return the dense matrix of values.

        Parameters
        ----------
        y : array, shape (m, d)
            Row points.
        x : array, shape (n, d), or None
            Column points; None (the default) takes `y`.

        Returns
        -------
        array, shape (m, n)
            In the kind, dtype and device of the points; differentiable.
        """
        from sciml.linalg.engines import kernel_matrix

        return kernel_matrix(y, y if x is None else x, kernel=self)

    def diag(self, x):
        """Return the values ``k(x_i, x_i)``.

        Parameters
        ----------
        x : array, shape (n, d)
            Points.

        Returns
        -------
        array, shape (n,)
            In the kind, dtype and device of the points.
        """
        from sciml.linalg.arrays import enter

        (points,), leave = enter(x, names=("x",))
        if points.ndim < 2:
            raise InvalidInputError(
                f"x must be points of shape (n, d); got shape {tuple(points.shape)}. Pass x[:, None]."
            )
        origin = torch.zeros((1, points.shape[-1]), dtype=points.dtype, device=points.device)
        value = self(origin)[0, 0]  # a function of the difference is constant there
        return leave(value.expand(points.shape[:-1]).clone())

    # ------------------------------------------------------------ what engines ask for
    def _key(self):
        """Return what names the pair function in the cache of compiled tiles; parameters' values do not belong.

        None, for a kernel defined elsewhere, whose name and attributes tell nothing, has its graph compared instead.
        """
        return

    def _unit(self):
        """Return the power of two by which lengths are divided."""
        return 1.0

    def _check_width(self, d):
        """Refuse points whose number of coordinates does not fit the parameters."""
        for name, value in self._given.items():
            size = tuple(np.shape(value) if not isinstance(value, torch.Tensor) else value.shape)
            if name == "lengthscale" and size not in ((), (1,), (d,)):
                raise InvalidInputError(
                    f"lengthscale of {type(self).__name__} must be a number or one for each of the {d} coordinates; "
                    f"got shape {size}. Give {d} numbers."
                )

    def _prepared(self, unit):
        """Return the parameters that the pair function takes, as tensors; lengths divided by `unit`."""
        raise NotImplementedError

    def _pair(self, y, x, *prepared):
        """Return k for the coordinates of all pairs."""
        raise NotImplementedError

    def _log_pair(self, y, x, *prepared):
        """Return log k for the coordinates of all pairs."""
        raise InvalidInputError(
            f"kernel_log must be positive everywhere to have a logarithm; {type(self).__name__} is not. Use kernel_sum."
        )

    # ------------------------------------------------------------ algebra
    def __add__(self, other):
        return _Sum(self, other) if isinstance(other, Kernel) else NotImplemented

    def __mul__(self, other):
        if isinstance(other, Kernel):
            return _Product(self, other)
        if isinstance(other, (numbers.Real, np.generic, np.ndarray, torch.Tensor)):
            return _Multiple(self, other)
        return NotImplemented

    __rmul__ = __mul__
    # NumPy numbers on the left hand the product over instead of making an array of objects.
    __array_ufunc__ = None

    #: Names of attributes, beyond the parameters, that the repr shows.
    _options = ()

    def __repr__(self):
        shown = [f"{name}={_show(value)}" for name, value in self._given.items()]
        shown += [f"{name}={getattr(self, name)!r}" for name in self._options]
        return f"{type(self).__name__}({', '.join(shown)})"


class _Pair(Kernel):
    """Two kernels in one."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    @property
    def parameters(self):
        named = {f"first.{name}": value for name, value in self.first.parameters.items()}
        return named | {f"second.{name}": value for name, value in self.second.parameters.items()}

    def _key(self):
        keys = self.first._key(), self.second._key()
        return None if None in keys else (type(self).__name__, *keys)

    def _unit(self):
        return min(self.first._unit(), self.second._unit())

    def _check_width(self, d):
        self.first._check_width(d)
        self.second._check_width(d)

    def _prepared(self, unit):
        return [*self.first._prepared(unit), *self.second._prepared(unit)]

    def _split(self, prepared):
        size = len(self.first._prepared(1.0))
        return prepared[:size], prepared[size:]


class _Sum(_Pair):
    def _pair(self, y, x, *prepared):
        one, two = self._split(prepared)
        return self.first._pair(y, x, *one) + self.second._pair(y, x, *two)

    def _log_pair(self, y, x, *prepared):
        from sciml.linalg.engines.entries import Entries

        one, two = self._split(prepared)
        a, b = self.first._log_pair(y, x, *one), self.second._log_pair(y, x, *two)
        if isinstance(a, Entries):
            return Entries([torch.logaddexp(p, q) for p, q in zip(a.parts, b.parts, strict=True)])
        # Exactly one of them, unlike half of the sum and difference, which loses the smaller where they are far apart.
        first = (a - b).step()
        largest = first * a + (1 - first) * b
        return largest + ((a - largest).exp() + (b - largest).exp()).log()

    def __repr__(self):
        return f"{self.first} + {self.second}"


class _Product(_Pair):
    def _pair(self, y, x, *prepared):
        one, two = self._split(prepared)
        return self.first._pair(y, x, *one) * self.second._pair(y, x, *two)

    def _log_pair(self, y, x, *prepared):
        one, two = self._split(prepared)
        return self.first._log_pair(y, x, *one) + self.second._log_pair(y, x, *two)

    def __repr__(self):
        return " * ".join(f"({k})" if isinstance(k, _Sum) else f"{k}" for k in (self.first, self.second))


class _Multiple(Kernel):
    """A kernel times a positive number, its variance."""

    def __init__(self, kernel, variance):
        super().__init__(variance=positive("variance", variance, sizes=((), (1,))))
        self.kernel = kernel
        self.stationary = kernel.stationary
        if kernel._squared is not None:
            self._squared, self._scale = self._squared_times, self._scale_of_kernel
        if kernel._fill is not None:
            self._fill, self._fill_log = self._fill_times, self._fill_log_plus

    def _fill_times(self, q, t, Y, X, variance, *rest):
        return self.kernel._fill(q, t, Y, X, *rest).mul_(variance)

    def _fill_log_plus(self, q, t, Y, X, variance, *rest):
        return self.kernel._fill_log(q, t, Y, X, *rest) + variance.log()

    def _squared_times(self, q, variance, *rest):
        return self.kernel._squared(q, *rest) * variance

    def _scale_of_kernel(self, points, variance, *rest):
        return self.kernel._scale(points, *rest)

    @property
    def parameters(self):
        return super().parameters | {f"kernel.{name}": value for name, value in self.kernel.parameters.items()}

    def _key(self):
        key = self.kernel._key()
        return None if key is None else ("Multiple", key)

    def _unit(self):
        return self.kernel._unit()

    def _check_width(self, d):
        self.kernel._check_width(d)

    def _prepared(self, unit):
        return [_as_tensor(self._given["variance"]).reshape(()), *self.kernel._prepared(unit)]

    def _pair(self, y, x, variance, *rest):
        return self.kernel._pair(y, x, *rest) * variance

    def _log_pair(self, y, x, variance, *rest):
        return self.kernel._log_pair(y, x, *rest) + variance.log()

    def __repr__(self):
        inner = f"({self.kernel})" if isinstance(self.kernel, _Sum) else f"{self.kernel}"
        return f"{_show(self._given['variance'])} * {inner}"


def positive(name, value, sizes=None, zero=False):
    """Return a parameter that must be positive: a number, an array or a tensor, as it was given.

    Parameters
    ----------
    name : str
        The argument's name.
    value : float, array or torch.Tensor
        What the user gave.
    sizes : tuple of tuple of int, or None
        The shapes allowed; None (the default) allows numbers and vectors.
    zero : bool
        Allow zero, too; False by default.

    Returns
    -------
    float, ndarray or torch.Tensor
        A tensor stays; all else becomes a float or a float64 array.

    Raises
    ------
    InvalidInputError
        If an entry is not positive and finite, or the shape is not allowed.
    """
    rule = f"{name} must be {'at least 0' if zero else 'positive'} and finite"
    if isinstance(value, torch.Tensor):
        kept, plain = value, value.detach().cpu().to(torch.float64).numpy()
    else:
        plain = real_array(rule, value)
        kept = float(plain) if plain.ndim == 0 else plain
    if plain.size == 0 or (plain.ndim > 1 if sizes is None else plain.shape not in sizes):
        allowed = "a number or a vector" if sizes is None else " or ".join(map(str, sizes))
        raise InvalidInputError(f"{name} must be {allowed}; got shape {plain.shape}.")
    bad = ~(np.isfinite(plain) & ((plain >= 0) if zero else (plain > 0)))
    if bad.any():
        raise InvalidInputError(f"{rule}; got {plain[bad].ravel()[0]}. Pass a positive number.")
    return kept


def real_array(rule, value):
    """Return a parameter as a float64 array of its own; refuse texts, complex numbers and ragged lists."""
    try:
        given = np.array(value)
    except ValueError:
        given = np.array(None)
    if given.dtype.kind not in "biuf":
        raise InvalidInputError(f"{rule}; got {value!r} of type {type(value).__name__}. Pass a number.")
    return given.astype(np.float64)


def power_of_two(lengths):
    """Return the power of two at or below the smallest of some lengths."""
    smallest = float(_as_tensor(lengths).detach().min())
    return 2.0 ** math.floor(math.log2(smallest))


def _as_tensor(value):
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value, dtype=torch.float64)


def _long(value):
    """Return a parameter in float64, in which inverses and products of parameters are formed."""
    tensor = _as_tensor(value)
    return tensor if tensor.device.type == "mps" else tensor.to(torch.float64)  # Apple's devices have no float64


def _show(value):
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return f"{float(value):g}" if np.ndim(value) == 0 else np.array2string(np.asarray(value), precision=4)
