r"""What one slab of time hands to the next: u at its end, without the noise of its last digits.

The mean of a slab is exact in features that are richer than it needs; taken over as it stands, each slab would need
more than the last, for nothing but rounding.  Here u at one time is projected on orthonormal features of space, and
what lies in the plateau of its coefficients is left out.

Notation  d - 1 space dimensions; theta coefficients on the product of their features.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sciml.solvers.gp_pde.conditions import Dirichlet, Neumann, Periodic
from sciml.solvers.gp_pde.fast_diagonal import mode
from sciml.solvers.gp_pde.features import AxisBasis, ProductBasis
from sciml.solvers.gp_pde.functions import PointFunction

__all__ = ["Handed", "bubbles", "project"]

N_BUBBLES = 12  # functions along an axis in which errors that travel are held: what is rougher leaves no trace


class Handed:
    """A function of space that stands for initial data; callable with X (n, d), whose time column is not used.

    Parameters
    ----------
    basis : ProductBasis or None
        Features of space; None without space.
    theta : torch.Tensor
        Coefficients, or the value itself.
    others : list of int
        Dimensions of space.
    accuracy : float
        Relative size of what is not to be trusted.
    """

    def __init__(self, basis, theta, others, accuracy=0.0):
        self.basis, self.theta, self.others, self.accuracy = basis, theta, others, accuracy

    def __call__(self, X):
        if self.basis is None:
            return np.full(len(X), float(self.theta))
        points = torch.as_tensor(np.asarray(X)[:, self.others], dtype=torch.float64, device=self.theta.device)
        zero = (0,) * len(self.others)
        parts = [self.basis.contract(part, zero, self.theta) for part in torch.split(points, 20_000)]
        return torch.cat(parts).cpu().numpy() if parts else np.zeros(0)

    def __add__(self, other):
        if self.basis is not None and self.basis.shape != other.basis.shape:
            raise ValueError("both must lie on the same features")
        return Handed(self.basis, self.theta + other.theta, self.others, max(self.accuracy, other.accuracy))

    def times(self, factor):
        """The function times a number."""
        return Handed(self.basis, self.theta * factor, self.others, self.accuracy)

    def rms(self):
        """Root-mean-square size over space."""
        if self.basis is None:
            return abs(float(self.theta))
        volume = math.prod(b - a for a, b in zip(self.basis.lower, self.basis.upper, strict=True))
        return float(torch.linalg.norm(self.theta)) / math.sqrt(volume)


def project(pde, function, dim, counts, *, accuracy=0.0, scale=0.0, floor=1e-14):
    """Project a function of space on its features and leave its noise out.

    Parameters
    ----------
    pde : PDE
        The problem: its box, and which axes wrap round.
    function : callable
        Of X (n, d) with any time; returns (n,).
    dim : int
        The dimension of time.
    counts : sequence of int, length d - 1
        Features that hold the function, along each dimension of space.
    accuracy : float
        Relative error of the function: at most a tenth of it is left out.
    scale : float
        Root-mean-square size beside which the function is to be seen, if larger than its own: at some times all of u
        is rounding.
    floor : float
        Relative size below which coefficients are rounding in any case.

    Returns
    -------
    Handed
    """
    others = [j for j in range(pde.n_dims) if j != dim]
    if not others:
        return Handed(None, torch.tensor(float(function(np.zeros((1, 1)))[0]), dtype=torch.float64), others, accuracy)
    axes = []
    for j, n in zip(others, counts, strict=True):
        a, b = pde.domain.bounds[j]
        wraps = any(isinstance(c, Periodic) and c.dim % pde.n_dims == j for c in pde.conditions)
        axes.append(AxisBasis(a, b, (), n // 2 + 1 if wraps else n, (), wraps))
    T = _coefficients(function, axes, others, pde.n_dims)
    volume = math.prod(b - a for j, (a, b) in enumerate(pde.domain.bounds) if j != dim)
    scale = scale * math.sqrt(volume / max(1, T.numel()))
    kept = []
    for j, axis in enumerate(axes):
        size = T.abs().movedim(j, 0).reshape(T.shape[j], -1).amax(dim=1)
        if axis.periodic:
            m = axis.n_base
            size = torch.cat([size[:1], torch.maximum(size[1:m], size[m:])])
        envelope = torch.flip(torch.cummax(torch.flip(size, [0]), 0).values, [0]) / max(
            float(size.max()), scale, 1e-300
        )
        plateau = float(envelope[int(0.8 * len(envelope))])
        cut = min(max(floor, 2 * plateau), max(0.1 * accuracy, floor))
        kept.append(max(4, int((envelope > cut).sum())))
    short = []
    for j, (axis, n) in enumerate(zip(axes, kept, strict=True)):
        n = min(n, axis.n_base)
        index = torch.arange(n)
        if axis.periodic:
            index = torch.cat([index, torch.arange(axis.n_base, axis.n_base + n - 1)])
        T = T.index_select(j, index.to(T.device))
        short.append(AxisBasis(axis.lower, axis.upper, (), n, (), axis.periodic))
    for j, (axis, along) in enumerate(zip(short, others, strict=True)):
        rows = [] if axis.periodic else _zero_ends(pde, along)
        if rows and axis.n_base > len(rows) + 2:  # what is left of met end conditions would grow from slab to slab
            T = T - mode(mode(T, _end_rows(axis, rows), j), _lift(axis, rows), j)
    return Handed(ProductBasis(tuple(short)), T.reshape(-1), others, accuracy)


def _zero_ends(pde, j):
    """Ends of an axis on which all unknowns, or all their slopes, vanish: (end, order of the derivative)."""
    rows: dict = {}
    for condition in pde.conditions:
        if not isinstance(condition, Dirichlet | Neumann) or callable(condition.where):
            continue
        g = PointFunction("g", condition.g, pde.n_dims)
        for dim, end in pde.faces_of(condition) if g.constant == 0.0 else ():
            if dim == j:
                key = end, int(isinstance(condition, Neumann))
                rows[key] = rows.get(key, 0) + 1
    return sorted(key for key, n in rows.items() if n == pde.n_unknowns)


def _end_rows(axis, rows):
    """Values or slopes of the features at ends, (e, r)."""
    spots = torch.tensor([axis.lower, axis.upper], dtype=torch.float64)
    both = [axis.evaluate(spots, order) for order in (0, 1)]
    return torch.stack([both[order][end] for end, order in rows])


def _lift(axis, rows):
    """The lowest polynomials with given values or slopes at ends, (r, e)."""
    low = torch.eye(axis.n_base, len(rows) + 2, dtype=torch.float64)
    E = _end_rows(axis, rows) @ low
    size = torch.linalg.norm(E, dim=1, keepdim=True)
    return low @ torch.linalg.pinv(E / size) / size.T


def _coefficients(function, axes, others, d):
    """Coefficients on orthonormal features by quadrature, (r_1, ..., r_(d-1))."""
    quadratures = [axis.quadrature() for axis in axes]
    grid = np.stack(np.meshgrid(*[q[0] for q in quadratures], indexing="ij"), axis=-1).reshape(-1, len(axes))
    X = np.zeros((len(grid), d))
    X[:, others] = grid
    T = torch.as_tensor(function(X)).reshape([len(q[0]) for q in quadratures])
    for j, (axis, (nodes, weights)) in enumerate(zip(axes, quadratures, strict=True)):
        U = axis.evaluate(torch.as_tensor(nodes), 0)
        T = mode(T, U.T * torch.as_tensor(weights), j)
    return T


def bubbles(pde, function, dim):
    """Fit a function of space by a few smooth ones that vanish at ends that do not wrap round, with their slopes.

    Errors that travel are handed on in these: they meet every homogeneous condition, at corners too.

    Parameters
    ----------
    pde : PDE
        The problem.
    function : callable
        Of X (n, d); returns (n,).
    dim : int
        The dimension of time.

    Returns
    -------
    Handed
        Always on the same features.
    """
    others = [j for j in range(pde.n_dims) if j != dim]
    if not others:
        return project(pde, function, dim, ())
    axes, maps = [], []
    for j in others:
        a, b = pde.domain.bounds[j]
        wraps = any(isinstance(c, Periodic) and c.dim % pde.n_dims == j for c in pde.conditions)
        axis = AxisBasis(a, b, (), N_BUBBLES // 2 + 1 if wraps else N_BUBBLES + 6, (), wraps)
        axes.append(axis)
        if wraps:
            maps.append(torch.eye(axis.n_features, dtype=torch.float64))
            continue
        nodes, weights = axis.quadrature()
        x = torch.as_tensor(nodes)
        xi = (2 * x - a - b) / (b - a)
        U = axis.evaluate(x, 0)
        B = (U.T * torch.as_tensor(weights)) @ ((1 - xi**2) ** 3)[:, None].mul(U[:, :N_BUBBLES])
        Q, _ = torch.linalg.qr(B)
        maps.append(Q @ Q.T)  # onto the span of the bubbles
    T = _coefficients(function, axes, others, pde.n_dims)
    for j, P in enumerate(maps):
        T = mode(T, P, j)
    return Handed(ProductBasis(tuple(axes)), T.reshape(-1), others, 0.0)
