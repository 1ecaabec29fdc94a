r"""The learned numbers of a model as one vector, and kernels written down so that they can be saved.

Notation  theta (p,) what the optimiser moves: logarithms of the positive numbers, frequencies in units of their bound;
          s noise standard deviation; scale: the targets are divided by it before anything is computed.
Pitfalls  a correlation such as Gaussian(l) has variance one whatever the units of the targets are; a kernel whose size
          cannot be learned otherwise therefore gets a factor.
"""

import copy
import math

import numpy as np
import torch

from sciml import kernels
from sciml.exceptions import InvalidInputError
from sciml.kernels.base import _Multiple, _Product, _Sum

# Bounds. Lengths: from a tenth of the mean gap on a line to far beyond the data, where the function is a constant.
_LONGEST, _LARGEST_VARIANCE, _SMALLEST_VARIANCE = 1e3, 1e6, 1e-8
_ALPHA = (1e-2, 1e4)
# A smaller noise is hardly told from none, and only worsens the condition.
NOISE_BOUNDS = (3e-4, 10.0)


def multiplied(kernel, factor):
    """Return `factor` times a kernel, the factor being absorbed by the variances that it has.

    Parameters
    ----------
    kernel : sciml.kernels.Kernel
        Any.
    factor : float
        Positive.
    """
    if isinstance(kernel, _Multiple):
        return (kernel._given["variance"] * factor) * kernel.kernel
    if isinstance(kernel, _Sum):
        return multiplied(kernel.first, factor) + multiplied(kernel.second, factor)
    if isinstance(kernel, _Product):
        return multiplied(kernel.first, factor) * kernel.second
    if "weights" in kernel._given:
        return _with(kernel, {"weights": kernel._given["weights"] * factor})
    return factor * kernel


def name_in(multiple, name):
    """Return the name that a parameter of a kernel has in a multiple of it, where a leaf may have got a factor.

    Parameters
    ----------
    multiple : sciml.kernels.Kernel
        What `multiplied` returned.
    name : str
        In ``parameters`` of the kernel that it was given.
    """
    prefix, dot, word = name.rpartition(".")
    return name if name in multiple.parameters else f"{prefix}{dot}kernel.{word}"


def has_free_size(kernel):
    """Whether the kernel's variance is among its own parameters."""
    if isinstance(kernel, _Sum):
        return has_free_size(kernel.first) and has_free_size(kernel.second)
    if isinstance(kernel, _Product):
        return has_free_size(kernel.first) or has_free_size(kernel.second)
    return isinstance(kernel, _Multiple) or "weights" in kernel._given


def detached(kernel):
    """Return the kernel with its parameters as plain float64 numbers, free of gradients, on no device."""
    values = {name: value.detach().cpu().double().numpy() for name, value in kernel.parameters.items()}
    return replaced(kernel, values)


def replaced(kernel, values, prefix=""):
    """Return the same kernel with other values, named as in ``kernel.parameters``; those not named stay.

    Parameters
    ----------
    kernel : sciml.kernels.Kernel
        Any.
    values : dict of str to number, array or tensor
        By name.
    prefix : str
        Where the kernel stands in a larger one.
    """
    if isinstance(kernel, (_Sum, _Product)):
        parts = (replaced(getattr(kernel, side), values, f"{prefix}{side}.") for side in ("first", "second"))
        return type(kernel)(*parts)
    if isinstance(kernel, _Multiple):
        variance = values.get(f"{prefix}variance", kernel._given["variance"])
        return _plain(variance) * replaced(kernel.kernel, values, f"{prefix}kernel.")
    return _with(kernel, {name: _plain(values[prefix + name]) for name in kernel._given if prefix + name in values})


def _with(leaf, values):
    other = copy.copy(leaf)
    other._given = {**leaf._given, **values}
    return other


def _plain(value):
    if isinstance(value, torch.Tensor):
        return value
    return float(value) if np.ndim(value) == 0 else np.asarray(value, dtype=np.float64)


# ---------------------------------------------------------------- saved kernels


def written(kernel):
    """Return a kernel as texts and numbers, from which `read` makes it again.

    Parameters
    ----------
    kernel : sciml.kernels.Kernel
        Made of those that sciml ships.
    """
    if isinstance(kernel, (_Sum, _Product)):
        word = "sum" if isinstance(kernel, _Sum) else "product"
        return {"class": word, "parts": [written(kernel.first), written(kernel.second)]}
    if isinstance(kernel, _Multiple):
        return {"class": "multiple", "variance": float(kernel._given["variance"]), "parts": [written(kernel.kernel)]}
    name = type(kernel).__name__
    if getattr(kernels, name, None) is not type(kernel):
        raise InvalidInputError(
            f"kernel must be made of the classes of sciml.kernels to be saved; {name} is not among them. "
            "Keep its parameters and fit again."
        )
    options = {key: getattr(kernel, key) for key in ("nu", "envelope") if name in ("Matern", "SpectralMixture")
               and hasattr(kernel, key)}  # fmt: skip
    return {"class": name, "options": options, "parameters": {k: np.asarray(v) for k, v in kernel._given.items()}}


def read(text):
    """Return the kernel that `written` wrote."""
    parts = [read(part) for part in text.get("parts", ())]
    if text["class"] == "sum":
        return parts[0] + parts[1]
    if text["class"] == "product":
        return parts[0] * parts[1]
    if text["class"] == "multiple":
        return text["variance"] * parts[0]
    given = {key: _plain(value) for key, value in text["parameters"].items()}
    return getattr(kernels, text["class"])(**given, **text["options"])


# ---------------------------------------------------------------- the vector


class Parameters:
    """What is learned of a kernel and a noise, as one vector.

    Parameters
    ----------
    kernel : sciml.kernels.Kernel
        For targets divided by their scale; its numbers are the first start.
    noise_std : float or None
        Held at this value, in units of the scaled targets; None learns it.
    learn : sequence of str
        The parameters of the kernel that are learned, by name.
    X : torch.Tensor, shape (n, d)
        The points, whose extent bounds the lengths.

    Attributes
    ----------
    lower, upper : numpy.ndarray, shape (p,)
        Bounds of theta.
    given : numpy.ndarray, shape (p,)
        The kernel's own numbers, and a noise of 0.3.
    """

    def __init__(self, kernel, noise_std, learn, X):
        self.kernel, self.noise_std = kernel, noise_std
        extent = (X.amax(0) - X.amin(0)).cpu().numpy()
        self._extent = np.where(extent > 0, extent, extent.max(initial=0.0) or 1.0)
        self._n = len(X)
        self.entries, rows = [], []  # (name, shape, positions, is_log, unit)
        values = {name: value.detach().cpu().double().numpy() for name, value in kernel.parameters.items()}
        for name in learn:
            value, word = values[name], name.rpartition(".")[2]
            low, high = (np.broadcast_to(bound, value.shape).ravel() for bound in self._bounds(word, value.shape))
            flat, is_log = value.ravel(), word != "frequencies"
            free = flat > 0 if is_log else np.ones(len(flat), bool)  # a pure tone or a term switched off stays so
            unit = 1.0 if is_log else max(float(np.abs(flat).max(initial=0.0)), float(1 / self._extent.max()))
            self.entries.append((name, value, free, is_log, unit))
            change = np.log if is_log else (lambda v, unit=unit: v / unit)
            rows += [(f"{name}", *change(np.array([v, lo, hi]))) for v, lo, hi in zip(flat[free], low[free], high[free],
                                                                                   strict=True)]  # fmt: skip
        if noise_std is None:
            rows.append(("noise_std", math.log(0.3), *np.log(NOISE_BOUNDS)))
        self.names = [row[0] for row in rows]
        table = np.array([row[1:] for row in rows], dtype=float).reshape(len(rows), 3)
        self.lower, self.upper = table[:, 1], table[:, 2]
        self.given = np.clip(table[:, 0], self.lower, self.upper)

    def _bounds(self, word, shape):
        extent = self._extent if len(shape) and shape[-1] == len(self._extent) else self._extent.max()
        shortest, longest = 0.1 * extent / self._n, _LONGEST * extent
        if word == "lengthscale":
            return shortest, longest
        if word == "bandwidths":
            return 1 / longest, 1 / shortest
        if word == "frequencies":
            return -0.5 / shortest, 0.5 / shortest
        if word == "alpha":
            return _ALPHA
        return _SMALLEST_VARIANCE, _LARGEST_VARIANCE

    def model(self, theta):
        """Return the kernel and the noise variance of a vector, differentiable in it.

        Parameters
        ----------
        theta : torch.Tensor, shape (p,)
            Float64.
        """
        at, values = 0, {}
        for name, value, free, is_log, unit in self.entries:
            size = int(free.sum())
            part = theta[at : at + size].exp() if is_log else theta[at : at + size] * unit
            at += size
            whole = torch.as_tensor(value.ravel(), dtype=theta.dtype, device=theta.device)
            where = torch.as_tensor(np.flatnonzero(free), device=theta.device)
            values[name] = whole.index_copy(0, where, part).reshape(value.shape)
        noise = theta[-1].exp() if self.noise_std is None else theta.new_tensor(self.noise_std)
        return replaced(self.kernel, values), noise**2

    def clipped(self, theta):
        """Return theta (p,) moved into the bounds."""
        return np.clip(theta, self.lower, self.upper)

    def raised(self, noise_variance, floor):
        """Return a noise variance that is at least a floor: the sum where it is learned, which is smooth.

        Parameters
        ----------
        noise_variance, floor : torch.Tensor
            Variances, shape ().
        """
        if self.noise_std is None:
            return noise_variance + floor
        return torch.maximum(noise_variance, floor)

    def starts(self, X, n, rng):
        """Return starting vectors (n, p): the kernel's own numbers, then lengths taken from the data.

        Parameters
        ----------
        X : torch.Tensor, shape (m, d)
            Points.
        n : int
            How many; from the fifth on they are drawn at random.
        rng : numpy.random.Generator
            Source of those.
        """
        spread = X.std(0, unbiased=False).cpu().numpy()
        spread = np.where(spread > 0, spread, self._extent)
        size = float(self.kernel.diag(torch.zeros(1, X.shape[1], dtype=torch.float64)))
        found = [self.given]
        for k in range(1, n):
            factor = (1.0, 0.2, 0.04)[k - 1] if k < 4 else 0.2 * math.exp(1.5 * rng.standard_normal())
            theta = self.given.copy()
            for name in set(self.names):
                at, word = np.flatnonzero(np.array(self.names) == name), name.rpartition(".")[2]
                length = spread * math.sqrt(X.shape[1]) if len(at) == X.shape[1] > 1 else np.sqrt((spread**2).sum())
                if word == "lengthscale":
                    theta[at] = np.log(factor * length)
                elif word in ("variance", "weights") and size > 0:
                    theta[at] -= math.log(size)
            found.append(np.clip(theta, self.lower, self.upper))
        return np.array(found)
