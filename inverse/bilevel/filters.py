r"""Banks of small filters, fixed or learned: the features of a field of experts.

.. math:: t_k = c_k * x, \qquad c = C \, \theta_{I}

Notation  x (b, H, W); c (K, s, s) filters, s = 2 p + 1; P x the image with p rows and columns more on each side; t, u
          (b, K, H, W); omega (K,).
Cost      2 K s^2 operations a pixel for D x as for D^T u; an image's s^2 H W shifted entries are held at a time, and
          K H W features.
Pitfalls  reflection at the border is not symmetric: the norm of D exceeds that of the same filters without a border,
          and |c|_1^2 is no bound of it. The sum of norms, on the other hand, is far above the norm of the sum: for ten
          random filters eight times.
References  S. Roth, M. Black, Fields of experts, 2009; Y. Chen, R. Ranftl, T. Pock, Insights into analysis operator
          learning, 2014, arXiv 1401.2804.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.analysis import ALIGNMENT, Analysis, Bound, aligned
from sciml.inverse.bilevel.borders import BOUNDARIES, pad, unpad
from sciml.linalg.arrays import enter
from sciml.random import generator, normal
from sciml.validation import check_number, check_option

__all__ = ["Filters", "xavier_filters"]

# Entries of a temporary that are filled before it is used up: small enough for a cache, large enough for a product.
_TEMPORARY = 2**20
# Images of at most so many pixels are left to torch's transposed convolution in float64.
_SMALL = 48**2


class Filters(Analysis):
    r"""Correlations of images with a bank of square filters, of the size of the image.

    Parameters
    ----------
    kernels : array, shape (K, s, s), or None
        Fixed filters with an odd side s; None (the default) takes them from theta.
    index : slice or None
        Entries of theta that hold the filters one after the other, row by row; needed without `kernels`.
    n_filters, size : int or None
        K, and the side s, odd; needed without `kernels`.
    boundary : {"reflect", "periodic"}
        How the image goes on beyond its border: mirrored at its outermost pixels (the default, without a jump), or from
        the other side.
    zero_mean : bool
        Whether the mean is taken off each filter that theta gives, so that constant images cost nothing; True by
        default, since a filter that sees brightness penalises it.

    Raises
    ------
    InvalidInputError
        If the side is even, shapes are wrong, or both or neither of `kernels` and `index` are given.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import Filters
    >>> mean = Filters(np.full((1, 3, 3), 1 / 9))
    >>> x = torch.ones(1, 4, 4, dtype=torch.float64)
    >>> round(float(mean.bind(None, x).forward(x).max()), 12)
    1.0
    """

    def __init__(self, kernels=None, *, index=None, n_filters=None, size=None, boundary="reflect", zero_mean=True):
        if (kernels is None) == (index is None):
            raise InvalidInputError("kernels or index must be given, and not both. Pass fixed kernels (K, s, s), or "
                                    "index=slice(first, last) with n_filters and size.")  # fmt: skip
        self.boundary = check_option("boundary", boundary, BOUNDARIES)
        self.learned = kernels is None
        if self.learned:
            self.n_channels = check_number("n_filters", n_filters, low=1, integer=True)
            self.size = check_number("size", size, low=1, integer=True)
            self.index, self.kernels = index, None
        else:
            (self.kernels,), _ = enter(kernels, names=("kernels",))
            if self.kernels.ndim != 3 or self.kernels.shape[1] != self.kernels.shape[2] or not len(self.kernels):
                raise InvalidInputError(f"kernels must be of shape (K, s, s); got {tuple(self.kernels.shape)}.")
            self.n_channels, self.size = len(self.kernels), self.kernels.shape[1]
        if self.size % 2 == 0:
            raise InvalidInputError(f"size must be odd, so that filters have a centre; got {self.size}.")
        self.zero_mean = bool(zero_mean) and self.learned

    def __repr__(self):
        return f"Filters(n_filters={self.n_channels}, size={self.size}, boundary={self.boundary!r})"

    def check(self, shape):
        """Raise an error where samples are no images, or too small to be mirrored.

        Parameters
        ----------
        shape : tuple of int
            Of one sample.
        """
        if len(shape) != 2 or min(shape) <= self.size // 2:
            raise InvalidInputError(
                f"filters of size {self.size} need images (H, W) with sides of at least {self.size // 2 + 1}; got "
                f"samples of shape {tuple(shape)}."
            )

    def kernels_at(self, theta):
        """Return the filters.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,)
            The hyperparameters; not used by fixed filters.

        Returns
        -------
        torch.Tensor, shape (K, s, s), float64
        """
        if not self.learned:
            return self.kernels.to(torch.float64)
        c = theta[self.index].to(torch.float64)
        if c.numel() != self.n_channels * self.size**2:
            raise InvalidInputError(
                f"index must name {self.n_channels * self.size**2} entries of theta, for {self.n_channels} filters "
                f"of size {self.size}; {self.index} names {c.numel()} of {len(theta)}."
            )
        return self._centred(c.view(self.n_channels, self.size, self.size))

    def bind(self, theta, like):
        """Return the operator at theta.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.
        like : torch.Tensor
            Gives the dtype and device to compute in.

        Returns
        -------
        Bound
        """
        return _BoundFilters(self, self.kernels_at(theta).to(like.device), theta, like)

    def _centred(self, c):
        return c - c.mean((-2, -1), keepdim=True) if self.zero_mean else c


class _BoundFilters(Bound):
    """The filters at one theta."""

    def __init__(self, bank, kernels, theta, like):
        self.bank, self.theta, self.kernels = bank, theta, kernels
        self.c = kernels.to(like.dtype)
        self.K, self.s = kernels.shape[:2]
        self.p = self.s // 2
        self.shape = tuple(like.shape[-2:])

    def forward(self, x):
        wide = self._pad(x)
        if self._even(x):
            return F.conv2d(wide, self.c[:, None])
        out = x.new_empty(len(x), self.K, *x.shape[-2:])
        for image, t in zip(wide, out, strict=True):
            t.copy_(F.conv2d(aligned(image), self.c[:, None]))
        return out

    def adjoint(self, u):
        H, W = u.shape[-2:]
        even = self._even(u)
        # The choice may depend on the size of an image, but not on how many there are, for the sake of equal bits.
        if u.is_cuda or u.dtype == torch.float64 and H * W <= _SMALL:
            parts = [u] if even or not len(u) else [aligned(u[i : i + 1]) for i in range(len(u))]
            wide = torch.cat([F.conv_transpose2d(part, self.c[:, None])[:, 0] for part in parts])
            return self._fold(wide)
        # A product for each image, since one for all rounds differently in other batches. On larger images torch's own
        # transpose takes a third longer, and in float32 five times as long on images of any size.
        group, rows = max(1, _TEMPORARY // (self.s**2 * H * W)), self.c.reshape(self.K, -1).T.contiguous()
        wide = u.new_zeros(len(u), H + 2 * self.p, W + 2 * self.p)
        for start in range(0, len(u), group):
            some = u[start : start + group]
            shifted = u.new_empty(len(some), self.s**2, H * W)
            for each, out in zip(some, shifted, strict=True):
                each = aligned(each.reshape(self.K, -1))
                torch.mm(rows, each, out=out) if even else out.copy_(torch.mm(rows, each))
            shifted = shifted.view(len(some), self.s, self.s, H, W)
            part = wide[start : start + group]
            for i in range(self.s):
                for j in range(self.s):
                    part[:, i : i + H, j : j + W] += shifted[:, i, j]
        return self._fold(wide)

    def _even(self, like):
        """Return whether every image of a batch begins where memory is aligned as for the first.

        Products of matrices round differently where it is not, which would let a sample's place in its batch show.
        """
        H, W = like.shape[-2:]
        sizes = (H * W, (H + 2 * self.p) * (W + 2 * self.p))
        return like.is_cuda or all(n * like.element_size() % ALIGNMENT == 0 for n in sizes)

    def curve(self, v, prepared, out):
        (kappa,) = prepared
        group = self.group(len(v))
        for start in range(0, len(v), group):
            some = slice(start, start + group)
            out[some] += self.adjoint(self.forward(v[some]).mul_(kappa[some]))

    def group(self, b):
        # Few images at a time, so that their features need not be written to memory.
        limit = 64 * _TEMPORARY if self.c.is_cuda else _TEMPORARY
        return max(1, min(b, limit // (self.K * math.prod(self.shape))))

    def shaped(self, values):
        return values.reshape(-1, 1, 1) if values.ndim else values

    def sums(self, u):
        return u.reshape(*u.shape[:2], -1).sum(2, dtype=torch.float64)

    # ------------------------------------------------------------ derivatives in the filters

    def tangent(self, t):
        """Return the operator with the filters' change along t (n,) in their place."""
        return _BoundFilters(self.bank, self.bank.kernels_at(t).to(self.c.device), t, self.c.new_empty(self.shape))

    def pullback(self, pairs):
        """Return the derivatives in theta of the sum of <u, D x> over pairs (x, u): (b, n), float64."""
        grads = []
        for i in range(len(pairs[0][0])):
            total = 0.0
            for x, u in pairs:
                H, W = u.shape[-2:]
                wide = self._pad(x[i : i + 1])[0, 0]
                a, b = wide.stride()
                shifted = wide.as_strided((self.s, self.s, H, W), (a, b, a, b)).reshape(self.s**2, H * W)
                total = total + (aligned(u[i].reshape(self.K, -1)) @ shifted.T).to(torch.float64)
            grads.append(self.bank._centred(total.view(self.K, self.s, self.s)).reshape(-1))
        out = torch.zeros(len(grads), len(self.theta), dtype=torch.float64, device=self.c.device)
        out[:, self.bank.index] = torch.stack(grads)
        return out

    # ------------------------------------------------------------ bounds

    def gram_bound(self, omega):
        r"""Return the smaller of two bounds of the largest eigenvalue of :math:`\sum_k \omega_k D_k^T D_k`.

        Schur's: ``sum_k omega_k |D_k|_1 |D_k|_inf``. Fourier's: a pixel occurs at most four times in the mirrored image
        (nine times in one smaller than a filter), so that multiple of the largest value of the symbol.
        """
        omega = omega.expand(self.K).to(self.kernels)
        size = self.kernels.abs()
        # Sums of moduli down the columns; they are largest near a corner, where small images are like large ones.
        ones = size.new_ones(1, self.K, *(min(n, 2 * self.s) for n in self.shape))
        columns = self._fold(F.conv_transpose2d(ones, size[:, None], groups=self.K)).amax((0, 2, 3))
        schur = float((omega * size.sum((1, 2)) * columns).sum())
        times = 1.0
        if self.bank.boundary == "reflect":
            for n in self.shape:
                times *= 2 if n > self.s else 3
        # A trigonometric polynomial of degree s - 1 in each variable exceeds its 8 s samples by no more than this.
        times /= math.cos(math.pi * (self.s - 1) / (8 * self.s)) ** 2
        return min(schur, times * self._symbol(omega)) * (1 + 1e-12)

    def gram_estimate(self, omega):
        """Return the largest Ritz value on a small image, and the largest value of the symbol, with 3 percent more."""
        omega = omega.expand(self.K).to(self.kernels)
        # The border acts on a few pixels only, so a small image shows what a large one does.
        small = tuple(min(n, 4 * self.s) for n in self.shape)
        start = normal(generator(0), (1, *small), device=self.kernels.device)
        bound = _BoundFilters(self.bank, self.kernels, None, start)
        weights = omega[:, None, None]
        high = _highest(lambda v: bound.adjoint(bound.forward(v).mul_(weights)), start, n_steps=16)
        high = high if small == self.shape else max(high, self._symbol(omega))
        return min(1.03 * high, self.gram_bound(omega))

    def row_norms(self):
        # Mirrored, one pixel can meet up to four entries of a filter, which may add up.
        times = 1 if self.bank.boundary == "periodic" and min(self.shape) >= self.s else 2
        return times * torch.linalg.vector_norm(self.kernels, dim=(1, 2))

    def _symbol(self, omega):
        """Return the largest sample of the symbol sum_k omega_k |c_k|^2 of the filters without a border."""
        power = torch.fft.rfft2(self.kernels, s=(8 * self.s, 8 * self.s)).abs() ** 2
        return float((power * omega[:, None, None]).sum(0).max())

    # ------------------------------------------------------------ the border

    def _pad(self, x):
        return pad(x, self.p, self.p, self.bank.boundary)[:, None]

    def _fold(self, wide):
        """Add what lies beyond the border to where it was taken from: the transpose of `_pad`."""
        return unpad(unpad(wide, -1, self.p, self.bank.boundary), -2, self.p, self.bank.boundary)


def _highest(product, v, n_steps):
    """Return the largest Ritz value of one symmetric map.

    The solver for batches does the same in many more small operations than a vector of this length is worth.
    """
    shape, v = v.shape, v.reshape(-1) / torch.linalg.vector_norm(v)
    V, T = v.new_zeros(n_steps, len(v)), v.new_zeros(n_steps, n_steps)
    for k in range(n_steps):
        V[k] = v
        w = product(v.view(shape)).reshape(-1)
        T[k, k] = v @ w
        for _ in range(2):
            w = w - V[: k + 1].T @ (V[: k + 1] @ w)
        length = torch.linalg.vector_norm(w)
        if k + 1 == n_steps or float(length) <= 1e-12 * float(T[0, 0].abs()):
            break
        T[k, k + 1] = T[k + 1, k] = length
        v = w / length
    return float(torch.linalg.eigvalsh(T[: k + 1, : k + 1])[-1])


def xavier_filters(n_filters, size, random_state=0):
    """Return random filters without mean, of the size that keeps the variance of features [1]_.

    Parameters
    ----------
    n_filters : int
        K.
    size : int
        Side s.
    random_state : None, int or numpy.random.Generator
        Source; 0 by default.

    Returns
    -------
    torch.Tensor, shape (K, s, s), float64
        Normal with variance ``2 / (s^2 (1 + K))``, less the mean of each filter.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010.

    Examples
    --------
    >>> from sciml.inverse.bilevel.filters import xavier_filters
    >>> abs(float(xavier_filters(2, 3)[0].sum())) < 1e-15
    True
    """
    draw = normal(generator(random_state), (n_filters, size, size))
    c = draw * math.sqrt(2 / (size**2 * (1 + n_filters)))
    return c - c.mean((1, 2), keepdim=True)
