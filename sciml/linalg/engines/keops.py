"""The KeOps engine: reductions compiled by pykeops, which streams them through the device's registers.

Cost      a compilation for each formula, dtype, number of coordinates and of right sides, kept on disk; then no memory
          beyond the outputs. The engine of choice on CUDA; on a CPU the compiled tile is faster.
Pitfalls  importing pykeops writes to a cache folder and runs a compiler: it is imported on first use only, and tried
          again with a temporary folder where the usual one cannot be written. Its square root has derivative zero at
          zero, so derivatives beyond the first are left to the tiles of the other engines, which know the limits.

References
----------
B. Charlier, J. Feydy, J. A. Glaunes, F.-D. Collin, G. Durif, Kernel operations on the GPU, with autodiff, without
memory overflows, JMLR 22(74), 2021.
"""

import contextlib
import math
import numbers
import os
import tempfile
import warnings
from functools import lru_cache

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.engines import eager
from sciml.linalg.engines.availability import EngineUnavailable, disable, reason_against
from sciml.linalg.engines.entries import Functions
from sciml.linalg.engines.tile import DerivativeTile, LogSumExpTile, SoftmaxTile, SumTile

NAME = "keops"


def peak(tile, m, n, width, dtype):
    """Return the bytes of the outputs and of contiguous copies of the inputs."""
    return 2 * (m + n) * (width + 4) * dtype.itemsize


class Lazy(Functions):
    """A LazyTensor with exact constants and the operations of :class:`sciml.linalg.engines.entries.Entries`.

    KeOps divides by integers, and raises to powers that are not whole, in single precision; here numbers travel as
    parameters in the dtype of the points.

    Parameters
    ----------
    lazy : pykeops.torch.LazyTensor
        What is wrapped.
    like : torch.Tensor
        Of the dtype and device of the points.
    """

    def __init__(self, lazy, like):
        self.lazy, self.like = lazy, like

    def _with(self, other, operation):
        if isinstance(other, Lazy):
            return Lazy(operation(self.lazy, other.lazy), self.like)
        number = torch.as_tensor(other, dtype=self.like.dtype, device=self.like.device).reshape(-1)
        return Lazy(operation(self.lazy, _lazy_tensor()(number)), self.like)

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

    def __or__(self, other):
        return (self * other).sum(-1)

    __radd__, __rmul__ = __add__, __mul__

    def __pow__(self, other):
        if isinstance(other, numbers.Real) and float(other).is_integer():
            return Lazy(self.lazy ** int(other), self.like)
        return (self.log() * other).exp()

    def __rpow__(self, other):
        return (self * math.log(other)).exp()

    def __neg__(self):
        return Lazy(-self.lazy, self.like)

    def __abs__(self):
        return Lazy(self.lazy.abs(), self.like)

    def __getitem__(self, index):
        where = index[-1] if isinstance(index, tuple) else index
        return self.elem(where) if isinstance(where, int) else Lazy(self.lazy[:, :, where], self.like)

    def __len__(self):
        return self.lazy.ndim

    def sum(self, dim=-1, axis=None, dtype=None, out=None):
        """Return the sum of the coordinates; `dim` must be the last one; the rest is what NumPy's sum passes."""
        if (dim if axis is None else axis) not in (-1, 2):
            raise InvalidInputError(f"kernel must sum over the coordinates, by .sum(-1); got .sum({dim}).")
        return Lazy(self.lazy.sum(-1), self.like)

    def elem(self, index):
        """Return one coordinate."""
        if not -len(self) <= index < len(self):  # it is also how loops over the coordinates end
            raise IndexError(f"coordinate {index} of {len(self)}")
        return Lazy(self.lazy.elem(index % self.lazy.ndim if index < 0 else index), self.like)

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

    def pow(self, exponent):
        """Return a power."""
        return self**exponent

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if not hasattr(type(self.lazy), name):
            raise EngineUnavailable(NAME, f"KeOps has no operation {name!r}")
        return lambda *args: Lazy(getattr(self.lazy, name)(*args), self.like)


@lru_cache(maxsize=1)
def _lazy_tensor():
    """Return the class LazyTensor; import pykeops quietly, and once more with a temporary cache if it must be."""
    os.environ.setdefault("KEOPS_VERBOSE", "0")
    os.environ.setdefault("PYKEOPS_VERBOSE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from pykeops.torch import LazyTensor
        except OSError:
            import sys

            for name in [name for name in sys.modules if name.partition(".")[0] in ("pykeops", "keopscore")]:
                del sys.modules[name]
            os.environ["KEOPS_CACHE_FOLDER"] = tempfile.mkdtemp(prefix="keops")
            from pykeops.torch import LazyTensor
    return LazyTensor


@lru_cache(maxsize=8)
def self_check(device):
    """Compare a small Gaussian sum with torch, once on each device; raise where they differ."""
    against = reason_against(NAME)
    if against:
        raise EngineUnavailable(NAME, against)
    y = torch.linspace(0, 1, 192, device=device).reshape(64, 3)
    b = torch.linspace(-1, 1, 64, device=device)[:, None]
    try:
        LazyTensor = _lazy_tensor()
        found = (-((LazyTensor(y[:, None, :]) - LazyTensor(y[None])) ** 2).sum(-1)).exp() @ b
        error = float((found - torch.exp(-((y[:, None] - y[None]) ** 2).sum(-1)) @ b).abs().max())
        if not error < 1e-4:
            raise ArithmeticError(f"its self-check on {device} is off by {error:.1e}")
    except Exception as error:  # pykeops raises what its compiler, its imports and its drivers raise
        raise EngineUnavailable(NAME, disable(NAME, error)) from error


def run(tile, rows, cols, params, place):
    """Return the outputs of a tile over all rows and columns, as :func:`sciml.linalg.engines.eager.run` does."""
    base = tile.base if isinstance(tile, DerivativeTile) else tile
    if tile.order > 1 or base.order > 0:
        return eager.run(tile, rows, cols, params, place)
    self_check(str(rows[0].device))
    rows, cols = [row.detach().contiguous() for row in rows], [col.detach().contiguous() for col in cols]
    params = [p.detach() for p in params]
    if tile is base:
        with torch.no_grad(), _naming_damage():
            return [_reduce(base, rows, cols, params)]
    # The first derivative is that of pykeops itself.
    inputs = {"row": rows[: base.n_rows], "col": cols[: base.n_cols], "all": params}
    moving = []
    for kind, number in tile.wanted:
        inputs[kind][number] = inputs[kind][number].clone().requires_grad_()
        moving.append(inputs[kind][number])
    with torch.enable_grad(), _naming_damage():
        value = _reduce(base, inputs["row"], inputs["col"], inputs["all"])
        grads = torch.autograd.grad(value, moving, rows[base.n_rows], allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(moving, grads, strict=True)]


@contextlib.contextmanager
def _naming_damage():
    """Name a formula that cannot be loaded: a compilation that was killed leaves half a file in the cache."""
    try:
        yield
    except (ImportError, OSError) as error:
        raise EngineUnavailable(NAME, disable(NAME, error)) from error


def _reduce(tile, rows, cols, params):
    """Return a sum or log-sum-exp over the columns, shape (m, w)."""
    LazyTensor = _lazy_tensor()
    if isinstance(tile, LogSumExpTile):
        cols = _without_impossible(cols)
        if cols[0].shape[0] == 0:
            return rows[0].new_full((rows[0].shape[0], 1), -torch.inf)
    like = rows[0]
    y, x = (Lazy(LazyTensor(points), like) for points in (rows[0][:, None, :], cols[0][None]))
    weights = LazyTensor(cols[1][None])
    value = tile.pair.function(y, x, *[Lazy(LazyTensor(p.reshape(-1)), like) for p in params])
    if not isinstance(value, Lazy):
        raise InvalidInputError(f"kernel must depend on its points on KeOps; got {value!r}. Pass engine='eager'.")
    if len(value) != 1:
        raise InvalidInputError(
            f"kernel could not be evaluated: it gives {len(value)} numbers a pair; end it by .sum(-1)"
        )
    value = value.lazy
    if isinstance(tile, SumTile):
        return (value * weights).sum(1)
    if isinstance(tile, SoftmaxTile):
        return (value + weights - LazyTensor(rows[1][:, None, :])).exp().sum(1)
    return (value + weights).logsumexp(1).reshape(-1, 1)


def _without_impossible(cols):
    """Return the columns whose log-weight is not -inf: pykeops would subtract infinities."""
    possible = cols[1][:, 0] != -torch.inf
    return cols if bool(possible.all()) else [col[possible] for col in cols]
