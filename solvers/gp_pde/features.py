r"""Spectral-mixture features: a few carriers, each under a polynomial envelope.

A Gaussian process whose kernel is a spectral mixture with finite-rank envelopes is a linear model in the features

.. math:: T_K(\xi) \cos\omega_q\cdot(x - c), \qquad T_K(\xi) \sin\omega_q\cdot(x - c), \qquad \xi = (x - c) / h,

with Chebyshev polynomials :math:`T_K` of low degree.  A bandwidth of zero is a pure tone; no carrier at all is the
Chebyshev spectral method.

Notation  d dimensions; c, h centre and half width of the box, (d,); omega_q carriers, angular frequency (rad / unit);
          m_0 envelope terms of the carrier-free block, m_q those of carrier q; P features; alpha multi-index of a
          derivative.
Cost      O(n P) a derivative and a term of Leibniz' rule.
Pitfalls  Blocks overlap once an envelope is wide enough to resolve its own carrier: the features are a frame, and least
          squares in them must be regularised at rounding level rather than truncated.

References
----------
A. Wilson, R. Adams, Gaussian process kernels for pattern discovery and extrapolation, 2013, arXiv 1302.4245.
B. Adcock, D. Huybrechs, Frames and numerical approximation, 2019, arXiv 1612.04464.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

REDUNDANT = 1e-3  # singular values below this part of the largest cost digits when features cancel

__all__ = ["AxisBasis", "JointBasis", "ProductBasis", "chebyshev_derivatives"]


def chebyshev_derivatives(xi: torch.Tensor, n_terms: int, order: int) -> list[torch.Tensor]:
    r"""Evaluate :math:`T_k^{(j)}(\xi)` for ``k < n_terms`` and ``j <= order``.

    Parameters
    ----------
    xi : torch.Tensor, shape (n,)
        Points; [-1, 1] is where the polynomials are bounded by one.
    n_terms : int
        Number of polynomials.
    order : int
        Highest derivative.

    Returns
    -------
    list of torch.Tensor, each of shape (n, n_terms)
        Values, first derivatives, ..., with respect to `xi`.

    Examples
    --------
    >>> import torch
    >>> values, slopes = chebyshev_derivatives(torch.tensor([0.5], dtype=torch.float64), 3, 1)
    >>> values.tolist(), slopes.tolist()
    ([[1.0, 0.5, -0.5]], [[0.0, 1.0, 2.0]])
    """
    one, zero = torch.ones_like(xi), torch.zeros_like(xi)
    rows = [[one, *[zero] * order]]
    if n_terms > 1:
        rows.append([xi, *[one if j == 1 else zero for j in range(1, order + 1)]])
    for _ in range(2, n_terms):
        last, before = rows[-1], rows[-2]
        new = [2 * xi * last[0] - before[0]]
        for j in range(1, order + 1):
            new.append(2 * j * last[j - 1] + 2 * xi * last[j] - before[j])
        rows.append(new)
    return [torch.stack([row[j] for row in rows[:n_terms]], dim=-1) for j in range(order + 1)]


def legendre_derivatives(xi: torch.Tensor, n_terms: int, order: int) -> list[torch.Tensor]:
    r"""Evaluate derivatives of the Legendre polynomials, normalised in L2(-1, 1), for ``k < n_terms`` and ``j <=
    order``.

    Parameters
    ----------
    xi : torch.Tensor, shape (n,)
        Points.
    n_terms : int
        Number of polynomials.
    order : int
        Highest derivative.

    Returns
    -------
    list of torch.Tensor, each of shape (n, n_terms)

    Examples
    --------
    >>> import torch
    >>> P = legendre_derivatives(torch.tensor([1.0], dtype=torch.float64), 3, 1)
    >>> (P[0][0] ** 2).round(decimals=12).tolist()  # (2 k + 1) / 2 at the end
    [0.5, 1.5, 2.5]
    """
    one, zero = torch.ones_like(xi), torch.zeros_like(xi)
    rows = [[one, *[zero] * order]]
    if n_terms > 1:
        rows.append([xi, *[one if j == 1 else zero for j in range(1, order + 1)]])
    for k in range(1, n_terms - 1):
        last, before = rows[-1], rows[-2]
        new = [((2 * k + 1) * xi * last[0] - k * before[0]) / (k + 1)]
        new += [(2 * k + 1) * last[j - 1] + before[j] for j in range(1, order + 1)]
        rows.append(new)
    scale = torch.sqrt(torch.arange(n_terms, dtype=xi.dtype, device=xi.device) + 0.5)
    return [torch.stack([row[j] for row in rows[:n_terms]], dim=-1) * scale for j in range(order + 1)]


def total_degree(sizes: Sequence[int]) -> np.ndarray:
    """Multi-indices K with ``sum(K_j / sizes_j) < 1``, shape (p, d): a total-degree set, stretched per dimension.

    Examples
    --------
    >>> total_degree((2, 2)).tolist()
    [[0, 0], [0, 1], [1, 0]]
    """
    sizes = [max(1, int(m)) for m in sizes]
    grid = np.indices(sizes).reshape(len(sizes), -1).T
    return grid[(grid / np.array(sizes)).sum(axis=1) < 1 - 1e-12]


@dataclass(frozen=True)
class JointBasis:
    r"""Chebyshev envelopes on frequency *vectors*: few features when u is a sum of few plane waves.

    Parameters
    ----------
    lower, upper : tuple of float, length d
        The bounding box, in units of x.
    omega : numpy.ndarray, shape (Q, d)
        Carriers, rad / unit.
    n_base : tuple of int, length d
        Size per dimension of the carrier-free block (total-degree set).
    n_envelope : tuple of int, length Q
        Envelope terms of each carrier (total degree below it).
    """

    lower: tuple
    upper: tuple
    omega: np.ndarray
    n_base: tuple
    n_envelope: tuple
    _sets: list = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        d = len(self.lower)
        sets = [total_degree(self.n_base)] + [total_degree((m,) * d) for m in self.n_envelope]
        object.__setattr__(self, "_sets", sets)

    @property
    def n_dims(self) -> int:
        """Number of dimensions d."""
        return len(self.lower)

    @property
    def n_features(self) -> int:
        """Number of features P."""
        return len(self._sets[0]) + 2 * sum(len(s) for s in self._sets[1:])

    @property
    def max_frequency(self) -> np.ndarray:
        """Largest angular frequency per dimension that the features hold, shape (d,), rad / unit."""
        half = (np.array(self.upper) - np.array(self.lower)) / 2
        top = (np.array(self.n_base) - 1) / half
        for q, m in enumerate(self.n_envelope):
            top = np.maximum(top, np.abs(self.omega[q]) + (m - 1) / half)
        return top

    def enriched(self, base: int, envelope: int) -> JointBasis:
        """The same carriers with `base` more terms per dimension in block 0 and `envelope` more on each carrier."""
        return JointBasis(
            self.lower,
            self.upper,
            self.omega,
            tuple(m + base for m in self.n_base),
            tuple(m + envelope for m in self.n_envelope),
        )

    def evaluate(self, X: torch.Tensor, alpha: Sequence[int]) -> torch.Tensor:
        r"""Evaluate :math:`\partial^\alpha` of every feature.

        Parameters
        ----------
        X : torch.Tensor, shape (n, d)
            Points.
        alpha : sequence of int, length d
            Order of the derivative in each dimension.

        Returns
        -------
        torch.Tensor, shape (n, P)
        """
        lower, upper = X.new_tensor(self.lower), X.new_tensor(self.upper)
        half = (upper - lower) / 2
        shifted = X - (lower + upper) / 2
        d = self.n_dims
        sizes = [max(int(s[:, j].max()) + 1 for s in self._sets) for j in range(d)]
        T = [chebyshev_derivatives(shifted[:, j] / half[j], sizes[j], alpha[j]) for j in range(d)]
        T = [[t / half[j] ** k for k, t in enumerate(T[j])] for j in range(d)]

        def envelope(index, beta):
            out = T[0][beta[0]][:, index[:, 0]]
            for j in range(1, d):
                out = out * T[j][beta[j]][:, index[:, j]]
            return out

        columns = [envelope(torch.as_tensor(self._sets[0], device=X.device), tuple(alpha))]
        omegas = X.new_tensor(np.asarray(self.omega).reshape(-1, d))
        cache = {}
        for q, index in enumerate(self._sets[1:]):
            key = int(self.n_envelope[q])
            if key not in cache:
                where = torch.as_tensor(index, device=X.device)
                cache[key] = {b: envelope(where, b) for b in itertools.product(*(range(a + 1) for a in alpha))}
            phase = shifted @ omegas[q]
            cos, sin = torch.cos(phase)[:, None], torch.sin(phase)[:, None]
            turned = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)]  # derivatives of order 0..3, then periodic
            even = odd = 0.0
            for beta, values in cache[key].items():
                rest = [a - b for a, b in zip(alpha, beta, strict=True)]
                factor: Any = math.prod(math.comb(a, b) for a, b in zip(alpha, beta, strict=True))
                for j in range(d):
                    factor = factor * omegas[q, j] ** rest[j]
                c, s = turned[sum(rest) % 4]
                even, odd = even + values * (c * factor), odd + values * (s * factor)
            columns += [even, odd]
        return torch.cat(columns, dim=1)


@dataclass(frozen=True)
class AxisBasis:
    r"""Features along one axis, made orthonormal in L2 of the interval.

    Parameters
    ----------
    lower, upper : float
        The interval, in units of x.
    omega : tuple of float
        Carriers, rad / unit.
    n_base, n_envelope : int, tuple of int
        Envelope terms of block 0 and of each carrier.
    periodic : bool
        True takes the harmonics ``0 .. n_base - 1`` of the interval instead of all that; carriers are then unused.

    Notes
    -----
    Directions whose singular value is below 1e-12 of the largest are dropped: the blocks overlap.  A direction of
    singular value sigma is a combination of features that cancel, with a rounding error of eps / sigma; where that is
    more than 1e-12 the orthonormal features are held by their Legendre coefficients instead, which differentiates what
    was rounded and cancels nothing (two carriers with 12 terms each under 24 of block 0: 2e-10 becomes 1e-13 for a
    Poisson problem). Orthonormal coordinates make the coefficients' norm the function's.
    """

    lower: float
    upper: float
    omega: tuple
    n_base: int
    n_envelope: tuple
    periodic: bool = False
    cut: float = 1e-12
    _transform: np.ndarray = field(init=False, repr=False, compare=False)
    _legendre: np.ndarray | None = field(init=False, repr=False, compare=False, default=None)
    _raw: JointBasis = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(
            self,
            "_raw",
            JointBasis(
                (self.lower,), (self.upper,), np.reshape(self.omega, (-1, 1)), (self.n_base,), tuple(self.n_envelope)
            ),
        )
        if self.periodic:
            length = self.upper - self.lower
            scale = np.r_[length**-0.5, np.full(2 * (self.n_base - 1), (2 / length) ** 0.5)]
            object.__setattr__(self, "_transform", np.diag(scale))
            return
        if len(self.omega) == 0:  # plain polynomials: Legendre's are orthonormal as they stand
            object.__setattr__(self, "_transform", np.eye(self.n_base))
            return
        nodes, weights = self.quadrature()
        Phi = self._evaluate_raw(torch.as_tensor(nodes), 0).numpy()
        weighted = np.sqrt(weights)[:, None] * Phi
        _, sigma, Vt = np.linalg.svd(weighted, full_matrices=False)
        if sigma[-1] >= REDUNDANT * sigma[0]:  # features in order, so that the first ones stay smooth
            object.__setattr__(self, "_transform", np.linalg.inv(np.linalg.qr(weighted, mode="r")))
            return
        if len(nodes) > 2500:
            keep = sigma > self.cut * sigma[0]
            object.__setattr__(self, "_transform", Vt[keep].T / sigma[keep])
            return
        half = (self.upper - self.lower) / 2
        P = legendre_derivatives(torch.as_tensor((nodes - self.lower) / half - 1), len(nodes) - 8, 0)[0].numpy()
        C = (P * weights[:, None]).T @ Phi / half**0.5  # Legendre coefficients of the raw features, (N, P_1)
        rows = np.linalg.norm(C, axis=1)
        C = C[: int(np.max(np.flatnonzero(rows > 1e-15 * rows.max()))) + 1]
        b = self.n_base  # block 0 is exactly the polynomials below degree b: the carriers add what lies above
        U, size, _ = np.linalg.svd(C[b:, b:], full_matrices=False)
        U = U[:, size > self.cut * rows.max()]
        Q = np.zeros((len(C), b + U.shape[1]))
        Q[:b, :b], Q[b:, b:] = np.eye(b), U
        object.__setattr__(self, "_legendre", Q / half**0.5)
        object.__setattr__(self, "_transform", np.linalg.lstsq(C, Q, rcond=self.cut)[0])

    @property
    def n_features(self) -> int:
        """Number of orthonormal features r."""
        return self._transform.shape[1]

    @property
    def max_frequency(self) -> float:
        """Largest angular frequency that the features hold, rad / unit."""
        if self.periodic:
            return 2 * np.pi * (self.n_base - 1) / (self.upper - self.lower)
        return float(self._raw.max_frequency[0])

    def quadrature(self, extra: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights that integrate products of two features to rounding; `extra` times as many as needed."""
        half = (self.upper - self.lower) / 2
        if self.periodic:
            n = int(extra * 2 * self.n_base) + 4
            return self.lower + 2 * half * np.arange(n) / n, np.full(n, 2 * half / n)
        n = int(extra * (self.max_frequency * half + self.n_base + 30)) + 2
        xi, weights = gauss_legendre(n)
        return (self.lower + self.upper) / 2 + half * xi, half * weights

    def enriched(self, base: int, envelope: int) -> AxisBasis:
        """The same carriers with `base` more terms in block 0 and `envelope` more on each carrier."""
        return AxisBasis(
            self.lower,
            self.upper,
            self.omega,
            self.n_base + base,
            tuple(m + envelope for m in self.n_envelope),
            self.periodic,
            self.cut,
        )

    def _evaluate_raw(self, x, order):
        if not self.periodic and len(self.omega) == 0:
            half = (self.upper - self.lower) / 2
            xi = (x - (self.lower + self.upper) / 2) / half
            return legendre_derivatives(xi, self.n_base, order)[order] / half ** (order + 0.5)
        if not self.periodic:
            return self._raw.evaluate(x[:, None], (order,))
        k = 2 * math.pi / (self.upper - self.lower) * torch.arange(1, self.n_base, dtype=x.dtype, device=x.device)
        phase = (x - self.lower)[:, None] * k + order * math.pi / 2
        constant = torch.ones_like(x) if order == 0 else torch.zeros_like(x)
        return torch.cat([constant[:, None], torch.cos(phase) * k**order, torch.sin(phase) * k**order], dim=1)

    def evaluate(self, x: torch.Tensor, order: int) -> torch.Tensor:
        """Derivative of the given order of every feature at x (n,), shape (n, r)."""
        if len(self.omega) == 0 and not self.periodic:
            return self._evaluate_raw(x, order)
        if self._legendre is not None:
            half = (self.upper - self.lower) / 2
            P = legendre_derivatives((x - (self.lower + self.upper) / 2) / half, len(self._legendre), order)[order]
            return P @ torch.as_tensor(self._legendre, dtype=x.dtype, device=x.device) / half**order
        return self._evaluate_raw(x, order) @ torch.as_tensor(self._transform, dtype=x.dtype, device=x.device)


_LEGENDRE: dict[int, tuple[np.ndarray, np.ndarray]] = {}


def gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature on [-1, 1], each of shape (n,); kept, since they cost O(n^2).

    The weights of SciPy and NumPy are off by 1e-13 to 1e-12 for some hundred nodes, which shows as noise of that size
    in high coefficients; these are off by about 5e-15.

    Examples
    --------
    >>> nodes, weights = gauss_legendre(3)
    >>> round(float(weights @ nodes**4), 12)
    0.4
    """
    if n not in _LEGENDRE:
        if len(_LEGENDRE) > 64:
            _LEGENDRE.clear()
        _LEGENDRE[n] = _newton_legendre(n)
    return _LEGENDRE[n]


def _newton_legendre(n):
    """Nodes by Newton's method, weights as one over the sum of squares of the normalised polynomials."""
    if n > 4000:  # the table of polynomials below would take n^2 numbers
        from scipy.special import roots_legendre

        return roots_legendre(n)
    x = torch.as_tensor(-np.cos(np.pi * (np.arange(1, n + 1) - 0.25) / (n + 0.5)))
    for _ in range(3):
        P = legendre_derivatives(x, n + 1, 0)[0]
        last, before = P[:, n] / math.sqrt(n + 0.5), P[:, n - 1] / math.sqrt(n - 0.5)
        x = x - last * (x * x - 1) / (n * (x * last - before))
    weights = 1 / legendre_derivatives(x, n, 0)[0].square().sum(dim=1)
    return x.numpy(), weights.numpy()


@dataclass(frozen=True)
class ProductBasis:
    """All products of one feature of each axis; the last axis runs fastest.

    Parameters
    ----------
    axes : tuple of AxisBasis, length d
        One basis for each dimension.
    """

    axes: tuple

    @property
    def n_dims(self) -> int:
        """Number of dimensions d."""
        return len(self.axes)

    @property
    def shape(self) -> tuple:
        """Features of each axis."""
        return tuple(axis.n_features for axis in self.axes)

    @property
    def n_features(self) -> int:
        """Number of features P, the product of `shape`."""
        return math.prod(self.shape)

    @property
    def lower(self) -> tuple:
        """Lower corner of the bounding box."""
        return tuple(axis.lower for axis in self.axes)

    @property
    def upper(self) -> tuple:
        """Upper corner of the bounding box."""
        return tuple(axis.upper for axis in self.axes)

    @property
    def max_frequency(self) -> np.ndarray:
        """Largest angular frequency per dimension that the features hold, shape (d,), rad / unit."""
        return np.array([axis.max_frequency for axis in self.axes])

    def enriched(self, base: int, envelope: int) -> ProductBasis:
        """The same carriers with `base` more terms in each block 0 and `envelope` more on each carrier."""
        return ProductBasis(tuple(axis.enriched(base, envelope) for axis in self.axes))

    def factors(self, X: torch.Tensor, alpha: Sequence[int]) -> list[torch.Tensor]:
        """The derivative `alpha` of the features of each axis at X (n, d): a list of (n, r_j)."""
        return [axis.evaluate(X[:, j], alpha[j]) for j, axis in enumerate(self.axes)]

    def evaluate(self, X: torch.Tensor, alpha: Sequence[int]) -> torch.Tensor:
        """The derivative `alpha` of every feature at X (n, d), shape (n, P)."""
        out, *rest = self.factors(X, alpha)
        for factor in rest:
            out = (out[:, :, None] * factor[:, None, :]).flatten(1)
        return out

    def contract(self, X: torch.Tensor, alpha: Sequence[int], theta: torch.Tensor) -> torch.Tensor:
        """``evaluate(X, alpha) @ theta`` without the (n, P) matrix; theta (P,), result (n,)."""
        first, *rest = self.factors(X, alpha)
        out = first @ theta.reshape(self.shape[0], -1)
        for factor in rest:
            out = torch.einsum("nr,nrs->ns", factor, out.reshape(len(X), factor.shape[1], -1))
        return out[:, 0]
