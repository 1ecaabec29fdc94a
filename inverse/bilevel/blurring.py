r"""Blurred images: correlation with a kernel, its exact transpose, and bounds of its spectrum.

Notation  kernel (r, s), odd sides; x (b, H, W).
Cost      a kernel that is an outer product of a column and a row takes as many passes over x as these have entries,
          another one as many as it has entries itself.
Pitfalls  mirrored at the border a blur is not symmetric, even if its kernel is.
References  L. Collatz, Einschliessungssatz fuer die charakteristischen Zahlen von Matrizen, 1942.
"""

from __future__ import annotations

import math

import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.borders import BOUNDARIES, pad, unpad
from sciml.inverse.bilevel.measurements import Measurement
from sciml.linalg.arrays import enter
from sciml.validation import check_option

__all__ = ["Blur"]


class Blur(Measurement):
    r"""Correlation of images with a kernel, of the size of the image.

    Parameters
    ----------
    kernel : array, shape (r, s), with r and s odd
        Weights of the neighbours; most often they add up to 1.
    boundary : {"reflect", "periodic"}
        How the image goes on beyond its border: mirrored at its outermost pixels (the default), or from the other side.

    Raises
    ------
    InvalidInputError
        If a side of the kernel is even, or it is not a matrix.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import Blur
    >>> blur = Blur(np.array([[0.25, 0.5, 0.25]]))
    >>> x = torch.tensor([[[0.0, 0.0, 4.0, 0.0, 0.0]]], dtype=torch.float64)
    >>> blur.forward(x, torch.tensor([0]))
    tensor([[[0., 1., 2., 1., 0.]]], dtype=torch.float64)
    """

    def __init__(self, kernel, boundary="reflect"):
        self.boundary = check_option("boundary", boundary, BOUNDARIES)
        (kernel,), _ = enter(kernel, names=("kernel",))
        if kernel.ndim != 2 or not all(n % 2 for n in kernel.shape):
            raise InvalidInputError(
                f"kernel must be a matrix with odd sides, so that it has a centre; got shape {tuple(kernel.shape)}. "
                "Pad it with zeros."
            )
        self.kernel = kernel.detach().to(torch.float64)
        self.stages = _stages(self.kernel)

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
        sides = [n // 2 for n in self.kernel.shape]
        if len(shape) != 2 or any(n <= p for n, p in zip(shape, sides, strict=True)):
            raise InvalidInputError(
                f"a kernel of shape {tuple(self.kernel.shape)} needs images (H, W) of at least "
                f"{tuple(p + 1 for p in sides)} pixels; got samples of shape {tuple(shape)}."
            )
        other = super().on(shape)
        other._spectrum = other._exact() if self.boundary == "periodic" else (0.0, other._upper())
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
        for stage in self.stages:
            x = self._correlate(x, *stage)
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
        for stage in reversed(self.stages):
            z = self._back(z, *stage)
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
        return self.adjoint(self.forward(v, idx), idx)

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
        low, high = self._spectrum
        like = torch.ones(len(idx), dtype=torch.float64, device=idx.device)
        return low * like, high * like

    def _exact(self):
        """Return the extreme eigenvalues of A^T A, which for a periodic border are squared moduli of a transform."""
        r, s = self.kernel.shape
        wide = self.kernel.new_zeros(self.shape)
        rows = (torch.arange(r, device=wide.device) - r // 2)[:, None].expand(r, s) % self.shape[0]
        columns = (torch.arange(s, device=wide.device) - s // 2)[None].expand(r, s) % self.shape[1]
        wide.index_put_((rows, columns), self.kernel, accumulate=True)
        power = torch.fft.fft2(wide).abs() ** 2
        return float(power.min()) * (1 - 1e-12), float(power.max()) * (1 + 1e-12)

    def _upper(self):
        """Return a bound of the largest eigenvalue for a mirrored border, by Collatz and Wielandt.

        For a matrix M without negative entries and any positive vector w the spectral radius is at most max (M w) / w;
        a few powers of M make w good. For a kernel with negative entries their moduli are taken.
        """
        modulus = Blur(self.kernel.abs())
        w, bound = self.kernel.new_ones(1, *self.shape), math.inf
        for _ in range(8):
            power = modulus.normal(w, None)
            bound = min(bound, float((power / w).max()))
            w = power / power.max() + 1e-12
        return bound * (1 + 1e-10)

    def _correlate(self, x, shape, entries):
        r, s = shape
        H, W = x.shape[-2:]
        wide = pad(x, r // 2, s // 2, self.boundary)
        out = torch.zeros_like(x)
        for (i, j), c in entries:
            out.add_(wide[:, i : i + H, j : j + W], alpha=c)
        return out

    def _back(self, z, shape, entries):
        r, s = shape
        H, W = z.shape[-2:]
        wide = z.new_zeros(len(z), H + r - 1, W + s - 1)
        for (i, j), c in entries:
            wide[:, i : i + H, j : j + W].add_(z, alpha=c)
        return unpad(unpad(wide, -1, s // 2, self.boundary), -2, r // 2, self.boundary)


def _stages(kernel):
    """Return the shapes and entries of a column and a row whose outer product a kernel is, or of the kernel itself."""
    parts = [kernel]
    if min(kernel.shape) > 1:
        U, S, Vh = torch.linalg.svd(kernel)
        if float(S[1]) <= 1e-14 * float(S[0]):
            root = math.sqrt(float(S[0]))
            parts = [root * U[:, :1], root * Vh[:1]]
    return [(tuple(part.shape), _entries(part)) for part in parts]


def _entries(kernel):
    """Return the places and values of the entries that are not zero."""
    return [((i, j), c) for i, row in enumerate(kernel.tolist()) for j, c in enumerate(row) if c]
