r"""Boxes with separable, constant-coefficient operators: one small eigenproblem per dimension.

With orthonormal features U of each axis the operator is a Kronecker sum, :math:`L = \sum_j I \otimes A_j \otimes I`.
The boundary data are lifted, face after face, by the lowest polynomials that meet the end conditions; the rest vanishes
there and is expanded in the null space N of the end functionals, where each :math:`N^T A_j N = V_j \Lambda_j V_j^{-1}`,
so that a division by :math:`\lambda_{1,i} + \lambda_{2,k} + \dots` solves the whole problem.

Notation  r_j features of axis j; E_j (e_j, r_j) end functionals; N_j (r_j, r_j - e_j); Pi_j quadrature projection.
Cost      sum_j r_j^3 + (prod_j r_j)(sum_j r_j), and the source on a product grid; memory that of one slab of it.
Pitfalls  A time axis has its conditions at one end and eigenvectors close to parallel: where their condition exceeds
          1e6 that axis is solved as it stands, once for each combination of the other axes' eigenvalues; two such axes
          are solved through Schur forms in two dimensions, and refused beyond.

References
----------
R. Lynch, J. Rice, D. Thomas, Direct solution of partial difference equations by tensor product methods, 1964.
W. Gordon, C. Hall, Transfinite element methods: blending-function interpolation, 1973.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import schur, solve_sylvester

from sciml.solvers.gp_pde.conditions import Dirichlet, Initial, Neumann, Periodic, Robin, apply_mask, named_faces
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.functions import PointFunction

__all__ = ["EndConditions", "KroneckerSum", "TensorSolution", "mode", "separable_parts", "solve_tensor"]

SLAB_POINTS = 1_000_000  # points of the source grid that are held at once


@dataclass
class EndConditions:
    """The end functionals of one axis: rows ``value * u + slope * u'`` at an end, with their right sides.

    Parameters
    ----------
    rows : list of (end, value, slope, PointFunction)
        ``end`` is 0 or 1; ``slope`` multiplies the derivative along the axis (not the outward one).
    periodic : bool
        True when the axis wraps round.
    """

    rows: list
    periodic: bool = False


def separable_parts(pde, frozen=False):
    """Split a problem for fast diagonalisation.

    Parameters
    ----------
    pde : PDE
        The problem.
    frozen : bool
        True takes variable coefficients at their mean and leaves mixed derivatives out: a neighbour of the operator, to
        precondition with.

    Returns
    -------
    (list of dict, list of EndConditions) or (None, str)
        For each axis the one-dimensional operator (order to coefficient) and the end conditions; or why it cannot be
        split.
    """
    d = pde.n_dims
    if not isinstance(pde.domain, Box):
        return None, "the domain is not a box"
    if pde.unknowns is not None:
        return None, "there are several unknowns"
    if not pde.is_constant and not frozen:
        return None, "the operator has variable coefficients"
    if pde._source.is_sampled:
        return None, "the source is known at scattered points only"
    axes = [{} for _ in range(d)]
    spots = np.array((pde.domain.lower + pde.domain.upper) / 2)[None]
    if not pde.is_constant:
        grid = [np.linspace(a, b, 41 if d < 3 else 15)[1:-1] for a, b in pde.domain.bounds]
        spots = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, d)
    for alpha, c in pde.coefficient_values(spots).items():
        c = float(np.mean(c))
        active = [j for j in range(d) if alpha[j]]
        if len(active) > 1 and frozen:
            continue
        if len(active) > 1:
            return None, f"the operator mixes dimensions in {alpha}"
        j = active[0] if active else 0
        axes[j][alpha[j]] = axes[j].get(alpha[j], 0.0) + c
    ends = [EndConditions([]) for _ in range(d)]
    for condition in pde.conditions:
        reason = _place(pde, condition, ends)
        if reason:
            return None, reason
    for j, end in enumerate(ends):
        needed = pde.axis_order(j)
        if not end.periodic and len(end.rows) != needed:
            return None, f"dimension {j} has order {needed} and {len(end.rows)} end conditions"
        if end.periodic and end.rows:
            return None, f"dimension {j} is periodic and has end conditions too"
    return axes, ends


def _place(pde, condition, ends):
    """Add one condition to the axes; returns a reason when it does not fit."""
    d = pde.n_dims
    if isinstance(condition, Periodic):
        ends[condition.dim % d].periodic = True
        return None
    if isinstance(condition, Initial):
        rows = ends[condition.dim % d].rows
        rows.append((0, 1.0, 0.0, PointFunction("u0", condition.u0, d)))
        if condition.velocity is not None:
            rows.append((0, 0.0, 1.0, PointFunction("velocity", condition.velocity, d)))
        return None
    g = PointFunction("g", condition.g, d)
    if g.is_sampled:
        return "boundary values are known at scattered points only"
    where = condition.where
    if where is not None and not callable(where) and named_faces(where, d) is None:
        return "a condition holds at scattered points"
    for j, side in pde.faces_of(condition):
        if callable(where):
            grid = [np.linspace(a, b, 33 if d < 3 else 9) for a, b in pde.domain.bounds]
            grid[j] = np.array([pde.domain.bounds[j][side]])
            inner = [g_[1:-1] if len(g_) > 1 else g_ for g_ in grid]
            mask = apply_mask(where, np.array(list(itertools.product(*inner))))
            if not mask.any():
                continue
            if not mask.all():
                return "a condition holds on part of a face"
        sign = 1.0 if side else -1.0
        if isinstance(condition, Dirichlet):
            ends[j].rows.append((side, 1.0, 0.0, g))
        elif isinstance(condition, Neumann):
            ends[j].rows.append((side, 0.0, sign, g))
        elif isinstance(condition, Robin):
            a, b = PointFunction("a", condition.a, d), PointFunction("b", condition.b, d)
            if a.constant is None or b.constant is None:
                return "a Robin condition has variable coefficients"
            ends[j].rows.append((side, a.constant, sign * b.constant, g))
    return None


@dataclass
class TensorSolution:
    """Coefficients on a product basis, with what its uncertainty needs.

    Parameters
    ----------
    theta : torch.Tensor, shape (r_1, ..., r_d)
        Coefficients.
    roots : list of torch.Tensor
        For each axis ``N V`` (r_j, k_j), the eigenfunctions in coefficients.
    eigenvalues : list of torch.Tensor
        For each axis (k_j,), complex in general.
    cancellation : float
        Smallest ``|sum lambda| / sum |lambda|`` over all combinations: rounding level means resonance.
    newton : NewtonRun or None
        How Newton's method ended, where there was one.
    gain : float
        How much more the linearised operator amplifies noise than the eigenvalues say.
    """

    theta: torch.Tensor
    roots: list
    eigenvalues: list
    cancellation: float
    newton: object = None
    gain: float = 1.0


def mode(T, M, j):
    """Multiply the tensor T along axis j by the matrix M (p, r_j)."""
    return torch.movedim(torch.tensordot(M, T, dims=([1], [j])), 0, j)


def solve_tensor(pde, basis, axes, ends, device="cpu"):
    """Solve on a product basis.

    Parameters
    ----------
    pde : PDE
        The problem; its source is asked on a product of quadrature nodes.
    basis : ProductBasis
        Orthonormal features of each axis.
    axes, ends : lists
        From `separable_parts`.
    device : str or torch.device
        Where the products run.

    Returns
    -------
    TensorSolution or str
        A reason when the method does not apply: end conditions that the features cannot meet, or eigenvectors too close
        to parallel.
    """
    tensor = KroneckerSum(pde, basis, axes, ends, device)
    if tensor.refused:
        return tensor.refused
    F = _project(pde._source, [p.quadrature for p in tensor.pieces], device)
    W = tensor.solve(tensor.reduce(F - tensor.image(tensor.lifting)))
    theta = tensor.lifting + tensor.expand(W)
    return TensorSolution(theta, tensor.roots, tensor.eigenvalues, tensor.cancellation)


class KroneckerSum:
    """The operator on a product basis: a sum over the axes, with its conditions and its inverse.

    Parameters
    ----------
    pde : PDE
        The problem; only its conditions are asked.
    basis : ProductBasis
        Orthonormal features of each axis.
    axes, ends : lists
        From `separable_parts`.
    device : str or torch.device
        Where the products run.
    """

    def __init__(self, pde, basis, axes, ends, device="cpu"):
        d = basis.n_dims
        self.refused = self._shifted = None
        self.pieces = pieces = [_axis(basis.axes[j], axes[j], ends[j], device) for j in range(d)]
        for j, piece in enumerate(pieces):
            if isinstance(piece, str):
                self.refused = f"dimension {j}: {piece}"
                return
        C = torch.zeros(basis.shape, dtype=torch.float64, device=device)
        for j, piece in enumerate(pieces):  # boundary values, face after face
            if piece.E is None or not len(piece.E):
                continue
            G = torch.stack([_face(pde, pieces, j, row, device) for row in ends[j].rows])  # (e, other axes ...)
            G = torch.movedim(G, 0, j)
            C = C + mode(G - mode(C, piece.E, j), piece.lift, j)
        self.lifting = C
        self.eigenvalues = [p.eigenvalues for p in pieces]
        total = size = 0.0
        for j, lam in enumerate(self.eigenvalues):
            view = [1] * d
            view[j] = -1
            total, size = total + lam.reshape(view), size + lam.abs().reshape(view)
        ratio = total.abs() / torch.clamp(size, min=torch.finfo(torch.float64).tiny)
        scale = max(float(lam.abs().max()) for lam in self.eigenvalues)
        self.total, self.ratio = total, torch.where(size > 1e-12 * scale, ratio, torch.zeros_like(ratio))
        self.skew = [j for j, p in enumerate(pieces) if p.condition > 1e6]
        if len(self.skew) > 1 and d > 2:
            self.refused = "the eigenvectors of several axes are close to parallel"

    @property
    def cancellation(self):
        """Smallest ``|sum lambda| / sum |lambda|``."""
        return float(self.ratio.min())

    @property
    def roots(self):
        """For each axis ``N V``, the eigenfunctions in coefficients."""
        return [p.N.to(p.V.dtype) @ p.V for p in self.pieces]

    def image(self, theta):
        """Coefficients of the operator's image."""
        return sum(mode(theta, piece.A, j) for j, piece in enumerate(self.pieces))

    def reduce(self, F):
        """Free coefficients of F: those in the null space of the end functionals."""
        for j, piece in enumerate(self.pieces):
            F = mode(F, piece.N.T, j)
        return F

    def expand(self, W):
        """Coefficients of what the free ones W stand for, with zero conditions."""
        for j, piece in enumerate(self.pieces):
            W = mode(W, piece.N, j)
        return W

    def fitted(self, theta):
        """The coefficients nearest to `theta` that meet the conditions."""
        return self.lifting + self.expand(self.reduce(theta - self.lifting))

    def solve(self, F):
        """Free coefficients W with the operator's image F, with zero conditions."""
        W = self._once(F)
        if max(p.condition for p in self.pieces) > 1:  # rounding of eigenvectors that are not orthogonal: refine once
            left = F - sum(mode(W, p.B, j) for j, p in enumerate(self.pieces))
            W = W + self._once(left)
        return W

    def _once(self, F):
        """Axes close to parallel as they stand, the others by eigenvalues, zero ones dropped."""
        pieces, skew = self.pieces, self.skew
        if len(skew) > 1:
            return _sylvester([p.B for p in pieces], F)
        straight = [j for j in range(len(pieces)) if j not in skew]
        W = F.to(torch.complex128) if any(pieces[j].V.is_complex() for j in straight) else F
        for j in straight:
            W = mode(W, pieces[j].V_inverse.to(W.dtype), j)
        if skew:
            if self._shifted is None:
                self._shifted = _Shifted(pieces[skew[0]].B, [pieces[j].eigenvalues for j in straight], skew[0])
            W = self._shifted(W)
        else:
            kept = self.ratio > 1e-13
            inverse = torch.where(kept, 1 / torch.where(kept, self.total, torch.ones_like(self.total)), 0.0)
            W = W * inverse
        for j in straight:
            W = mode(W, pieces[j].V.to(W.dtype), j)
        return W.real if W.is_complex() else W


@dataclass
class _Axis:
    A: torch.Tensor
    B: torch.Tensor
    E: torch.Tensor | None
    N: torch.Tensor
    lift: torch.Tensor | None
    V: torch.Tensor
    V_inverse: torch.Tensor
    eigenvalues: torch.Tensor
    condition: float
    quadrature: tuple


def _axis(axis, operator, end, device):
    """Everything that one axis contributes."""
    nodes, weights = axis.quadrature()
    x = torch.as_tensor(nodes, device=device)
    U = axis.evaluate(x, 0)
    Pi = U.T * torch.as_tensor(weights, device=device)  # (r, n)
    r = U.shape[1]
    A = torch.zeros((r, r), dtype=torch.float64, device=device)
    for order, c in operator.items():
        A = A + c * _projected_derivative(axis, order, x, U, Pi)
    E = lift = None
    N = torch.eye(r, dtype=A.dtype, device=device)
    if end.rows:
        spots = torch.tensor([axis.lower, axis.upper], dtype=torch.float64, device=device)
        values, slopes = axis.evaluate(spots, 0), axis.evaluate(spots, 1)
        E = torch.stack([v * values[e] + s * slopes[e] for e, v, s, _ in end.rows])
        if len(E) >= r:
            return "fewer features than end conditions"
        half = (axis.upper - axis.lower) / 2
        xi = (x - (axis.lower + axis.upper) / 2) / half
        low = Pi @ torch.stack([xi**k for k in range(len(E) + 2)], dim=1)  # coefficients of 1, xi, xi^2, ...
        EL = E @ low
        rows = torch.linalg.norm(EL, dim=1, keepdim=True)
        if float(rows.min()) == 0 or float(torch.linalg.cond(EL / rows)) > 1e10:
            return "the end conditions repeat one another"
        lift = low @ torch.linalg.pinv(EL / rows) / rows.T
        Q, _ = torch.linalg.qr(E.T / torch.linalg.norm(E, dim=1), mode="complete")
        N = Q[:, len(E) :]
    B = N.T @ A @ N
    if float((B - B.T).abs().max()) <= 1e-9 * float(B.abs().max()):
        lam, V = torch.linalg.eigh((B + B.T) / 2)
        V_inverse, condition = V.T, 1.0
    else:
        lam, V = torch.linalg.eig(B)
        s = torch.linalg.svdvals(V)
        condition = float(s[0] / s[-1])
        V_inverse = torch.linalg.inv(V) if condition < 1e12 else V.mH
    return _Axis(A, B, E, N, lift, V, V_inverse, lam, condition, (x, Pi))


def _projected_derivative(axis, order, x, U, Pi):
    """Coefficients of the derivative of every feature, (r, r).

    The second derivative is integrated by parts: entries between a smooth and a fast feature are small differences of
    quadratures, and keep eps * omega instead of eps * omega^2.
    """
    if order == 0:
        return torch.eye(U.shape[1], dtype=U.dtype, device=U.device)
    if order != 2 or axis.periodic:
        return Pi @ axis.evaluate(x, order)
    slopes = axis.evaluate(x, 1)
    weights = torch.as_tensor(axis.quadrature()[1], device=U.device)
    spots = torch.tensor([axis.lower, axis.upper], dtype=U.dtype, device=U.device)
    values, ends = axis.evaluate(spots, 0), axis.evaluate(spots, 1)
    return torch.outer(values[1], ends[1]) - torch.outer(values[0], ends[0]) - (slopes.T * weights) @ slopes


class _Shifted:
    """Solve (B + sum of the other axes' eigenvalues) w = f along axis j, for every combination of those.

    One Schur form B = Q T Q^H serves all: every shift leaves a triangular system.
    """

    KEPT = 20_000_000  # numbers of triangular matrices that are kept for the next right side

    def __init__(self, B, lams, j):
        shift = lams[0] if lams else torch.zeros(1, dtype=B.dtype, device=B.device)
        for lam in lams[1:]:
            shift = (shift[:, None] + lam).reshape(-1)
        T, Q = schur(B.cpu().numpy(), output="complex")
        self.T, self.Q = torch.as_tensor(T, device=B.device), torch.as_tensor(Q, device=B.device)
        self.real = not shift.is_complex()
        self.shifts = torch.split(shift, max(1, 4_000_000 // B.numel()))
        self.j, self.kept = j, None
        self.small = B.numel() * len(shift) <= self.KEPT

    def _matrices(self, shift):
        eye = torch.eye(len(self.T), dtype=self.T.dtype, device=self.T.device)
        return self.T + shift[:, None, None] * eye

    def __call__(self, F):
        G = torch.movedim(F, self.j, -1)
        rows = G.reshape(-1, G.shape[-1]).to(self.T.dtype) @ self.Q.conj()
        if self.kept is None and self.small:
            self.kept = [self._matrices(shift) for shift in self.shifts]
        matrices = self.kept or (self._matrices(shift) for shift in self.shifts)
        size = max(1, len(self.shifts[0]))
        out = [
            torch.linalg.solve_triangular(A, f[:, :, None], upper=True)[:, :, 0]
            for A, f in zip(matrices, torch.split(rows, size), strict=True)
        ]
        W = torch.cat(out) @ self.Q.T
        W = W.real if self.real and not F.is_complex() else W
        return torch.movedim(W.reshape(G.shape), -1, self.j)


def _sylvester(B, F):
    """Solve B_1 W + W B_2^T = F through Schur forms."""
    W = solve_sylvester(B[0].cpu().numpy(), B[1].cpu().numpy().T, F.cpu().numpy())
    return torch.as_tensor(W, device=F.device)


def _project(function, quadratures, device):
    """Coefficients of a function of points on the product basis, slab by slab along the first axis."""
    nodes = [q[0].cpu().numpy() for q in quadratures]
    shape = [q[1].shape[0] for q in quadratures]
    if function.constant is not None:
        out = torch.full((), function.constant, dtype=torch.float64, device=device)
        for _, Pi in quadratures:
            out = out[..., None] * Pi.sum(dim=1)
        return out
    rest = [len(x) for x in nodes[1:]]
    slab = max(1, SLAB_POINTS // max(1, math.prod(rest)))
    total = torch.zeros(shape, dtype=torch.float64, device=device)
    for start in range(0, len(nodes[0]), slab):
        part = nodes[0][start : start + slab]
        X = np.stack(np.meshgrid(part, *nodes[1:], indexing="ij"), axis=-1).reshape(-1, len(nodes))
        values = torch.as_tensor(function(X), device=device).reshape(len(part), *rest)
        for j in range(1, len(nodes)):
            values = mode(values, quadratures[j][1], j)
        total += mode(values, quadratures[0][1][:, start : start + slab], 0)
    return total


def _face(pde, pieces, j, row, device):
    """Coefficients of the data of one end condition on the other axes."""
    end, _, _, g = row
    others = [p.quadrature for i, p in enumerate(pieces) if i != j]
    spot = pde.domain.bounds[j][end]
    if not others:
        return torch.as_tensor(g(np.array([[spot]])), device=device)[0]

    def on_face(Y):
        return g(np.insert(Y, j, spot, axis=1))

    if g.constant is not None:
        return _project(g, others, device)
    return _project(_Restricted(on_face), others, device)


class _Restricted:
    """A function on a face, seen as one of the remaining coordinates."""

    constant = None

    def __init__(self, call):
        self._call = call

    def __call__(self, Y):
        return self._call(Y)


def check_corners(pde, g_scale):
    """Largest jump of Dirichlet and initial values where two faces of a box meet, relative to `g_scale`."""
    _, ends = separable_parts(pde)
    if isinstance(ends, str):
        return 0.0
    worst = 0.0
    d = pde.n_dims
    for i, j in itertools.combinations(range(d), 2):
        for (end_i, v_i, s_i, g_i), (end_j, v_j, s_j, g_j) in itertools.product(ends[i].rows, ends[j].rows):
            if s_i or s_j or not v_i or not v_j or g_i is g_j:
                continue
            grid = [np.linspace(a, b, 5) for a, b in pde.domain.bounds]
            grid[i], grid[j] = np.array([pde.domain.bounds[i][end_i]]), np.array([pde.domain.bounds[j][end_j]])
            X = np.array(list(itertools.product(*grid)))
            worst = max(worst, float(np.max(np.abs(g_i(X) / v_i - g_j(X) / v_j))))
    return worst / g_scale if g_scale else 0.0
