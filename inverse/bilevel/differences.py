r"""Differences of neighbours along chosen axes: the features of total variation.

.. math:: (D x) = \big( x_{i+1, j} - x_{i, j}, \; x_{i, j+1} - x_{i, j} \big)

Notation  x (b, *shape); t (b, m) the differences of all axes, one after the other; kappa like t.
Cost      two passes over x for each axis; a product with D^T kappa D five in all for two axes, from a diagonal and the
          couplings of neighbours.
"""

from __future__ import annotations

import math
import numbers

import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.analysis import Analysis, Bound

__all__ = ["Differences"]


class Differences(Analysis):
    r"""Differences of neighbours, without a step across the border.

    With it a term is the anisotropic total variation; the norm of D is at most twice the root of the number of axes.

    Parameters
    ----------
    axes : sequence of int
        Axes of one sample, counted from its last; the last two by default, those of an image.

    Raises
    ------
    InvalidInputError
        If an axis is named twice, or is not a negative integer.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel import Differences
    >>> x = torch.tensor([[0.0, 1.0, 3.0]])
    >>> Differences((-1,)).bind(None, x).forward(x)
    tensor([[1., 2.]])
    """

    def __init__(self, axes=(-2, -1)):
        axes = (axes,) if isinstance(axes, numbers.Integral) else tuple(axes)
        good = all(isinstance(axis, numbers.Integral) and axis < 0 for axis in axes)
        if not axes or not good or len(set(axes)) < len(axes):
            raise InvalidInputError(
                f"axes must be different negative integers, counted from the last; got {axes!r}. For an image pass "
                "(-2, -1)."
            )
        self.axes = tuple(int(axis) for axis in axes)

    def __repr__(self):
        return f"Differences(axes={self.axes})"

    def check(self, shape):
        """Raise an error where a sample has fewer axes than are named.

        Parameters
        ----------
        shape : tuple of int
            Of one sample.
        """
        if -min(self.axes) > len(shape):
            raise InvalidInputError(
                f"axes must be axes of a sample of shape {tuple(shape)}; got {self.axes}. For samples with one axis "
                "pass (-1,)."
            )

    def bind(self, theta, like):
        """Return the operator, which does not depend on theta.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), or None
            Not used.
        like : torch.Tensor, shape (b, *shape)
            Gives the shape of a sample.

        Returns
        -------
        Bound
        """
        return _BoundDifferences(self.axes, tuple(like.shape[1:]))


class _BoundDifferences(Bound):
    """Differences of samples of one shape; parts of t are the axes."""

    def __init__(self, axes, shape):
        self.axes, self.shape = axes, shape
        self.parts, start = [], 0
        for axis in axes:
            part = list(shape)
            part[axis] = max(0, part[axis] - 1)
            self.parts.append((axis, start, start + math.prod(part), part))
            start += math.prod(part)
        self.size = start

    def forward(self, x):
        t = x.new_empty(len(x), self.size)
        for after, before, part in self._pairs(x, t):
            torch.sub(after, before, out=part)
        return t

    def adjoint(self, u):
        out = u.new_zeros(len(u), *self.shape)
        self.add_adjoint(u, out)
        return out

    def add_adjoint(self, u, out):
        for after, before, part in self._pairs(out, u):
            after += part
            before -= part

    def prepare(self, kappa):
        # D^T kappa D is a diagonal, and minus kappa between neighbours.
        diagonal = kappa.new_zeros(len(kappa), *self.shape)
        for after, before, part in self._pairs(diagonal, kappa):
            after += part
            before += part
        return kappa, diagonal

    def curve(self, v, prepared, out):
        kappa, diagonal = prepared
        out.addcmul_(diagonal, v)
        for (after, before, part), (v_after, v_before, _) in zip(
            self._pairs(out, kappa), self._pairs(v, kappa), strict=True
        ):
            after.addcmul_(part, v_before, value=-1)
            before.addcmul_(part, v_after, value=-1)

    def gram_bound(self, omega):
        # Along an axis of n points the eigenvalues are 4 sin^2(pi j / 2n), j < n; those of different axes add up.
        total = sum(4 * math.cos(math.pi / (2 * self.shape[axis])) ** 2 for axis in self.axes)
        return float(omega) * total * (1 + 1e-14)

    def row_norms(self):
        return torch.tensor(2**0.5, dtype=torch.float64)

    def _pairs(self, x, t):
        """Yield, for each axis, the views of x after and before a difference, and the view of t that holds it."""
        for axis, start, stop, part in self.parts:
            n = x.shape[axis]
            if n > 1:
                views = x.narrow(axis, 1, n - 1), x.narrow(axis, 0, n - 1)
                yield *views, t[:, start:stop].view(len(t), *part)
