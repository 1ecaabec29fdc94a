r"""Coded signals as measurements, and kernels of a few taps as a subspace of spectra.

Notation  shape: axes of what is received, N numbers; R holds each of n numbers over a block of them; c_l codes; F the
          unitary Fourier transform; A_l = F diag(c_l) R; B (N, k) columns exp(-2 pi i f t / N) of the taps t.
Cost      a Fourier transform a product; the codes are kept, nothing else.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.ensemble_base import Ensemble, complex_dtype, distinct, in_precision_of, power
from sciml.validation import check_number

__all__ = ["CodedSignals", "Taps", "tap_columns", "tap_delays"]


class CodedSignals(Ensemble):
    """Codes on held signals of any number of axes, then the Fourier transform: A_l x = F (c_l o R x), in C order.

    Parameters
    ----------
    codes : Tensor, shape (p, *shape), or (*shape) where shared
        Real or complex.
    shape, signal_shape : tuple of int
        Axes of what is received and of a signal; pixel j belongs to number floor(j n / N).
    shared : bool
        Whether one code serves all snapshots.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.coded_signals import CodedSignals
    >>> CodedSignals(torch.ones(1, 4), (4,), (2,), shared=False).forward(torch.tensor([[1.0, 2.0]])).real
    tensor([[ 3.0000, -0.5000,  0.0000, -0.5000]])
    """

    _fields = ("codes",)
    _per_snapshot = ("codes",)

    def __init__(self, codes, shape, signal_shape, shared):
        self.axes, self.codes = shape, codes.reshape(-1, math.prod(shape))
        holder = torch.zeros((), dtype=torch.long, device=codes.device)
        for N, n in zip(shape, signal_shape, strict=True):
            holder = holder[..., None] * n + torch.arange(N, device=codes.device) * n // N
        self.holder, self._n = holder.flatten(), math.prod(signal_shape)
        super().__init__(
            (math.prod(shape), self._n),
            dtype=complex_dtype(codes),
            device=codes.device,
            batch_shape=() if shared else (len(self.codes),),
            gram=distinct(self._gather(power(self.codes)).double()),
        )

    def _chips(self, X, start, stop):
        codes = self.codes[start:stop] if self.batch_shape else self.codes[0]
        return in_precision_of(codes, X)

    def _forward(self, X, start, stop):
        sent = (X[..., self.holder] * self._chips(X, start, stop)).unflatten(-1, self.axes)
        return torch.fft.fftn(sent, dim=tuple(range(-len(self.axes), 0)), norm="ortho").flatten(-len(self.axes))

    def _adjoint(self, Y, start, stop):
        seen = torch.fft.ifftn(Y.unflatten(-1, self.axes), dim=tuple(range(-len(self.axes), 0)), norm="ortho")
        seen = seen.flatten(-len(self.axes))
        return self._gather(seen * self._chips(seen, start, stop).conj())

    def _gather(self, pixels):
        return pixels.new_zeros(*pixels.shape[:-1], self._n).index_add_(-1, self.holder, pixels)


def tap_delays(kernel_size, centered, shape):
    """Return the delays of the kernel's taps along each axis.

    Parameters
    ----------
    kernel_size : int, tuple of int or None
        How many; None: as many as there are pixels.
    centered : bool
        Whether they begin at -(size // 2) in place of 0.
    shape : tuple of int
        Axes of what is received.

    Returns
    -------
    list of Tensor of int

    Raises
    ------
    InvalidInputError
        If a size is out of range, or there is one too many.

    Examples
    --------
    >>> from sciml.inverse.calibration.coded_signals import tap_delays
    >>> tap_delays((3, 2), True, (8, 8))
    [tensor([-1,  0,  1]), tensor([-1,  0])]
    """
    sizes = shape if kernel_size is None else (kernel_size,) if np.ndim(kernel_size) == 0 else tuple(kernel_size)
    sizes = sizes * len(shape) if len(sizes) == 1 else sizes
    if len(sizes) != len(shape):
        raise InvalidInputError(
            f"kernel_size must be a number or hold one for each of {len(shape)} axes; got {kernel_size!r}. Pass "
            f"{len(shape)} numbers."
        )
    sizes = [check_number("kernel_size", k, low=1, high=N, integer=True) for k, N in zip(sizes, shape, strict=True)]
    return [torch.arange(k) - (k // 2 if centered else 0) for k in sizes]


def tap_columns(taps, shape, device):
    """Return the columns of the Fourier transform that belong to the taps.

    Parameters
    ----------
    taps : list of Tensor of int
        Delays along each axis.
    shape : tuple of int
        Axes of what is received.
    device : str or torch.device
        Where the answer lies.

    Returns
    -------
    Tensor, shape (N, k)
        The spectrum of a kernel is this times its taps.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.coded_signals import tap_columns
    >>> tap_columns([torch.arange(1, 2)], (4,), "cpu").imag[1::2, 0]
    tensor([-1.,  1.], dtype=torch.float64)
    """
    B = torch.ones(1, 1, dtype=torch.complex128)
    for t, N in zip(taps, shape, strict=True):
        # Whole turns are taken off first: they would cost digits.
        turns = (torch.arange(N)[:, None] * t).remainder(N).double() / N
        B = torch.kron(B, torch.polar(torch.ones_like(turns), -2 * math.pi * turns))
    return B.to(device)


class Taps:
    """The linear map from a spectrum (..., N) to the taps (..., k), by least squares where frequencies are lost.

    Parameters
    ----------
    taps : list of Tensor of int
        Delays along each axis.
    shape : tuple of int
        Axes of what is received.
    lost : Tensor of bool, shape (..., N), or None
        Frequencies that are zero in the spectra, and should not be.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.coded_signals import Taps
    >>> Taps([torch.arange(2)], (4,), None)(torch.ones(4) + 0j).real
    tensor([1., 0.])
    """

    def __init__(self, taps, shape, lost):
        self.shape, self.where = shape, tuple(torch.meshgrid(*taps, indexing="ij"))
        self.lost = None if lost is None or not bool(lost.any()) else lost
        if self.lost is not None:
            B = tap_columns(taps, shape, lost.device)
            known = (~lost).to(B.dtype)
            self.solve = torch.linalg.pinv(known[..., :, None] * B)  # (..., k, N)

    def __call__(self, d):
        if self.lost is not None:
            extra = d.ndim - self.lost.ndim  # 1 for the rows of a covariance
            return (d @ self.solve.mT) if extra else (self.solve @ d[..., None])[..., 0]
        h = torch.fft.ifftn(d.unflatten(-1, self.shape), dim=tuple(range(-len(self.shape), 0)))
        return h[(..., *self.where)].flatten(-len(self.shape))

    def spectrum(self, h):
        """Return the spectra (..., N) of kernels (..., k).

        Parameters
        ----------
        h : Tensor, shape (..., k)
            Taps.
        """
        placed = h.new_zeros(*h.shape[:-1], *self.shape)
        placed[(..., *self.where)] = h.reshape(*h.shape[:-1], *self.where[0].shape)
        return torch.fft.fftn(placed, dim=tuple(range(-len(self.shape), 0))).flatten(-len(self.shape))
