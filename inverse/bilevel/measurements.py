r"""How data arise from x: the operator A of the fit :math:`\tfrac12 \|A x - y\|^2` of a structured lower level.

Notation  x (b, *shape); y, z (b, *data) data; idx (b,) numbers of the samples.
Pitfalls  a mask and most blurs have a null space, or nearly one: give mu0 then, or the error bars are infinite.
"""

from __future__ import annotations

import copy
import math

import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.analysis import apply_rows
from sciml.linalg.arrays import enter
from sciml.linalg.operators import LinearOperator
from sciml.validation import check_number

__all__ = ["Mask", "Measurement", "as_measurement"]

# Up to this many unknowns the spectrum of a matrix is computed where nobody gives it.
_DENSE = 2000


class Measurement:
    """Base of the operators A; this one is the identity.

    Attributes
    ----------
    n_samples : int or None
        Samples, where each has an operator of its own.
    shape, data_shape : tuple of int or None
        Shapes of one sample's x and data, once they are known.
    exact : bool
        Whether the bounds of its spectrum were computed, and not given.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.measurements import Measurement
    >>> Measurement().spectrum(torch.tensor([0]))[0]
    tensor([1.], dtype=torch.float64)
    """

    n_samples: int | None = None
    shape: tuple | None = None
    data_shape: tuple | None = None
    exact = True

    def on(self, shape):
        """Return the operator for samples of a shape.

        Parameters
        ----------
        shape : tuple of int
            Of one sample's x.

        Returns
        -------
        Measurement
            A copy that knows `shape` and `data_shape`.
        """
        other = copy.copy(self)
        other.shape = other.data_shape = tuple(shape)
        return other

    def forward(self, x, idx):
        """Return A x.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Samples.
        idx : torch.Tensor of int64, shape (b,)
            Their numbers.

        Returns
        -------
        torch.Tensor, shape (b, *data)
        """
        return x

    def adjoint(self, z, idx):
        """Return A^T z.

        Parameters
        ----------
        z : torch.Tensor, shape (b, *data)
            Like data.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        return z

    def normal(self, v, idx):
        """Return A^T A v, a tensor of its own.

        Parameters
        ----------
        v : torch.Tensor, shape (b, *shape)
            Directions.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        return v.clone()

    def start(self, y, idx):
        """Return a first guess of x from data.

        Parameters
        ----------
        y : torch.Tensor, shape (b, *data)
            Data.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
            The data, 0 where there are none; zero where they are no images.
        """
        return y.clone()

    def spectrum(self, idx):
        """Return bounds of the eigenvalues of A^T A.

        Parameters
        ----------
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        low, high : torch.Tensor, shape (b,), float64
            `high` is None where nobody knows it.
        """
        one = torch.ones(len(idx), dtype=torch.float64, device=idx.device)
        return one, one

    def to(self, device, dtype):
        """Return the operator on a device in a dtype.

        Parameters
        ----------
        device : torch.device
            Where to compute.
        dtype : torch.dtype
            Of x.

        Returns
        -------
        Measurement
        """
        return self


class Mask(Measurement):
    r"""Weights of pixels, 0 where nothing was measured: :math:`(A x)_j = m_j x_j`.

    Parameters
    ----------
    mask : array, shape of one sample, or (B, ...) with one mask a sample
        Weights; truth values count as 0 and 1.

    Raises
    ------
    InvalidInputError
        If a weight is not finite.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel import Mask
    >>> Mask([[1, 0]]).forward(torch.tensor([[[3.0, 4.0]]]), torch.tensor([0]))
    tensor([[[3., 0.]]])
    """

    def __init__(self, mask):
        (mask,), _ = enter(mask, names=("mask",))
        self.mask = mask.detach()

    def on(self, shape):
        """Return the operator for samples of a shape.

        Parameters
        ----------
        shape : tuple of int
            Of one sample's x.

        Returns
        -------
        Measurement
            A copy that knows `shape` and `data_shape`.
        """
        other = super().on(shape)
        if tuple(self.mask.shape[1:]) == other.shape:
            other.n_samples = len(self.mask)
        elif tuple(self.mask.shape) != other.shape:
            raise InvalidInputError(
                f"mask must have the shape of one sample, {other.shape}, or one mask for each sample, "
                f"(B, {str(other.shape)[1:]}; got {tuple(self.mask.shape)}."
            )
        return other

    def forward(self, x, idx):
        """Return A x.

        Parameters
        ----------
        x : torch.Tensor, shape (b, *shape)
            Samples.
        idx : torch.Tensor of int64, shape (b,)
            Their numbers.

        Returns
        -------
        torch.Tensor, shape (b, *data)
        """
        return x * self._of(idx, x)

    def adjoint(self, z, idx):
        """Return A^T z.

        Parameters
        ----------
        z : torch.Tensor, shape (b, *data)
            Like data.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        return z * self._of(idx, z)

    def normal(self, v, idx):
        """Return A^T A v, a tensor of its own.

        Parameters
        ----------
        v : torch.Tensor, shape (b, *shape)
            Directions.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        m = self._of(idx, v)
        return (v * m).mul_(m)

    def start(self, y, idx):
        """Return a first guess of x from data.

        Parameters
        ----------
        y : torch.Tensor, shape (b, *data)
            Data.
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
            The data where there are any, else 0.
        """
        return torch.where(self._of(idx, y) != 0, y, torch.zeros_like(y))

    def spectrum(self, idx):
        """Return bounds of the eigenvalues of A^T A.

        Parameters
        ----------
        idx : torch.Tensor of int64, shape (b,)
            Numbers of the samples.

        Returns
        -------
        low, high : torch.Tensor, shape (b,), float64
            `high` is None where nobody knows it.
        """
        m = self.mask.to(torch.float64)
        squares = (m * m).reshape(1 if self.n_samples is None else len(m), -1)
        low, high = squares.amin(1), squares.amax(1)
        return (low.expand(len(idx)), high.expand(len(idx))) if self.n_samples is None else (low[idx], high[idx])

    def to(self, device, dtype):
        """Return the operator on a device in a dtype.

        Parameters
        ----------
        device : torch.device
            Where to compute.
        dtype : torch.dtype
            Of x.

        Returns
        -------
        Measurement
        """
        other = copy.copy(self)
        other.mask = self.mask.to(device=device, dtype=dtype)
        return other

    def _of(self, idx, like):
        m = self.mask if self.n_samples is None else self.mask[idx]
        return m.to(like.dtype)


class _General(Measurement):
    """An operator given by two functions on batches, or a linear operator on vectors."""

    exact = False

    def __init__(self, forward, adjoint, spectrum, data=None):
        self._forward, self._adjoint, self._data = forward, adjoint, data
        self._low, self._high = spectrum

    def on(self, shape):
        other = super().on(shape)
        other.data_shape = self._data
        return other

    def forward(self, x, idx):
        return self._forward(x)

    def adjoint(self, z, idx):
        return self._adjoint(z)

    def normal(self, v, idx):
        return self._adjoint(self._forward(v)).clone()

    def start(self, y, idx):
        return y.new_zeros(len(y), *self.shape)

    def spectrum(self, idx):
        like = torch.ones(len(idx), dtype=torch.float64, device=idx.device)
        return self._low * like, None if self._high is None else self._high * like


class _Operator(_General):
    """A linear operator of this library, applied to samples as vectors."""

    def __init__(self, operator, spectrum):
        self.operator = operator
        if spectrum is None:
            self.exact, spectrum = True, (0.0, None)
            if operator.shape[1] <= _DENSE:
                A = operator.to_dense()
                s = torch.linalg.svdvals(torch.as_tensor(A).to(torch.float64)) ** 2
                low = float(s[-1]) if operator.shape[0] >= operator.shape[1] else 0.0
                spectrum = (max(0.0, low - 1e-12 * float(s[0])), float(s[0]) * (1 + 1e-12))
        super().__init__(None, None, spectrum, (operator.shape[0],))

    def on(self, shape):
        if math.prod(shape) != self.operator.shape[1]:
            raise InvalidInputError(
                f"A must take the {math.prod(shape)} entries of a sample of shape {tuple(shape)}; got an operator of "
                f"shape {tuple(self.operator.shape)}. Pass shape, the shape of one sample."
            )
        return super().on(shape)

    def forward(self, x, idx):
        return apply_rows(self.operator._matmat, x.reshape(len(x), -1))

    def adjoint(self, z, idx):
        return apply_rows(self.operator._rmatmat, z).reshape(len(z), *self.shape)

    def normal(self, v, idx):
        return self.adjoint(self.forward(v, idx), idx)

    def to(self, device, dtype):
        if self.operator.dtype == dtype:
            return self
        other = copy.copy(self)
        other.operator = self.operator.to(dtype)
        return other


def as_measurement(A, spectrum=None):
    """Return the operator of the data from what a user may give for one.

    Parameters
    ----------
    A : None, Measurement, LinearOperator, or tuple (forward, adjoint)
        None is the identity; functions take batches and return batches.
    spectrum : tuple (low, high) or None
        Bounds of the eigenvalues of A^T A, for an operator or functions; None (the default) computes them for an
        operator with at most 2000 unknowns, and takes 0 and unknown otherwise.

    Returns
    -------
    Measurement

    Raises
    ------
    InvalidTypeError
        If `A` is none of these.
    InvalidInputError
        If the bounds are negative or in the wrong order.

    Examples
    --------
    >>> from sciml.inverse.bilevel.measurements import as_measurement
    >>> type(as_measurement(None)).__name__
    'Measurement'
    """
    if spectrum is not None:
        low = check_number("spectrum[0]", spectrum[0], low=0)
        spectrum = low, check_number("spectrum[1]", spectrum[1], low=low)
    if A is None or isinstance(A, Measurement):
        if spectrum is not None:
            raise InvalidInputError("spectrum must be None for this A, which knows its own; got bounds.")
        return Measurement() if A is None else A
    if isinstance(A, LinearOperator):
        return _Operator(A, spectrum)
    if isinstance(A, tuple) and len(A) == 2 and callable(A[0]) and callable(A[1]):
        return _General(A[0], A[1], (0.0, None) if spectrum is None else spectrum)
    raise InvalidTypeError(
        "A must be None, Mask, Blur, a LinearOperator, or a pair of functions (forward, adjoint); got "
        f"{type(A).__name__}."
    )
