r"""What a box problem needs along each axis, read off its callables on lines.

The source and the boundary data are sampled on lines parallel to an axis.  Their Chebyshev coefficients tell how long a
plain polynomial expansion must be; the carrier search tells whether a few frequencies explain the same values with
fewer features.  Real roots of the operator's own symbol (a wavenumber, say) are added, since they need not show in the
data.

Cost      about 1e4 values of each callable, a few milliseconds of small least-squares problems for each axis.
Pitfalls  Values that are only rounding (boundary data of size 1e-14 beside a source of size 1) must not be taken for a
          spectrum: each group is compared with what the other implies for the size of u.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.fft import dct

from sciml.solvers.gp_pde.collocation import symbol_size
from sciml.solvers.gp_pde.conditions import Initial, Periodic, apply_mask, named_faces
from sciml.solvers.gp_pde.features import AxisBasis, JointBasis
from sciml.solvers.gp_pde.frequencies import CarrierFit, chebyshev_length, find_carriers
from sciml.solvers.gp_pde.functions import PointFunction
from sciml.solvers.gp_pde.time_axis import time_content, time_dimension

__all__ = ["AxisNeeds", "axis_needs", "symbol_roots"]

logger = logging.getLogger(__name__)

PAYS = 0.75  # carriers are used when they need at most this part of the plain expansion's features
MAX_LENGTH = 2**13  # Chebyshev coefficients tried on a line


@dataclass(frozen=True)
class AxisNeeds:
    """Sizes of the features along one axis.

    Parameters
    ----------
    lower, upper : float
        The axis.
    length : int
        Chebyshev coefficients that the plain expansion needs.
    resolved : bool
        False when even `MAX_LENGTH` coefficients do not resolve the data.
    omega : tuple of float
        Carriers, rad / unit; empty when they do not pay.
    n_base, n_envelope : int, tuple of int
        Envelope terms with carriers.
    weights : tuple of float
        Root-mean-square size of each carrier's part of the data (relative to the group's largest value).
    periodic : bool
        True for harmonics of the interval.
    """

    lower: float
    upper: float
    length: int
    resolved: bool
    omega: tuple = ()
    n_base: int = 0
    n_envelope: tuple = ()
    weights: tuple = ()
    periodic: bool = False

    def sizes(self, level: int = 0, pace: int = 2) -> tuple[tuple, int, tuple]:
        """Carriers, terms of block 0 and of each carrier on a rung; `pace` envelope terms more on each rung.

        Where carriers would not pay it is the plain expansion: Chebyshev polynomials, or harmonics.
        """
        base, terms = self.n_base + 3 * pace * level, tuple(m + pace * level for m in self.n_envelope)
        if self.omega and base + 2 * sum(terms) <= PAYS * (self.length + 30):
            return self.omega, base, terms
        height = max(0, level - 1) * pace / 2 if self.omega else level * pace / 2
        n = self.length + max(8, self.length // 20)
        n = int(math.ceil(n * 1.25**height + 4 * height))
        if self.periodic:  # lengths count polynomials, of which a wave needs pi
            n = int(n / math.pi) + 5
        return (), n, ()

    def count(self, level: int = 0, pace: int = 2) -> int:
        """Number of features on a rung, at most."""
        _, base, terms = self.sizes(level, pace)
        return 2 * base - 1 if self.periodic else base + 2 * sum(terms)

    def axis(self, level: int = 0, pace: int = 2) -> AxisBasis:
        """The orthonormal features of a rung."""
        omega, base, terms = self.sizes(level, pace)
        return AxisBasis(self.lower, self.upper, omega, base, terms, self.periodic)


def axis_needs(
    pde, dim: int, rng: np.random.Generator, *, carriers: bool = True, frequencies=None, tol: float = 1e-13
) -> AxisNeeds:
    """Analyse one axis of a box problem.

    Parameters
    ----------
    pde : PDE
        On a Box.
    dim : int
        The axis.
    rng : numpy.random.Generator
        Places the lines.
    carriers : bool
        False gives the plain expansion only.
    frequencies : sequence of float, optional
        Carriers known beforehand, rad / unit; nothing is searched then.
    tol : float
        Chebyshev coefficients of the data below this part of the largest are left out; rounding by default.

    Returns
    -------
    AxisNeeds
    """
    box = pde.domain.box
    lower, upper = box.bounds[dim]
    half = (upper - lower) / 2
    periodic = any(isinstance(c, Periodic) and c.dim % pde.n_dims == dim for c in pde.conditions)
    groups = [g for g in (_source_lines(pde, dim, rng), _condition_lines(pde, dim, rng)) if g]
    measured = [_Group(lines, dim, lower, half, rng, tol) for lines in groups]
    kept = _significant(measured, pde, half)
    length = max([g.length for g in kept], default=8)
    if tol > 1e-9:  # what was left out decays within about as many terms; a system counts its features twice
        length += 24 if pde.unknowns is None else 8
    resolved = all(g.resolved for g in kept)
    own, growth = symbol_roots(pde, dim)
    length = max(length, 8, *(int(w * half) + 20 for w in own), *(int(6 + 4 * math.sqrt(g * half)) for g in growth))
    moving = time_content(pde, rng) if pde.is_linear and time_dimension(pde) == dim else None
    if moving is not None and moving.complete:  # what u does in time follows from its modes in space
        anchor = (pde.domain.box.lower + pde.domain.box.upper) / 2
        lines = [(trace, anchor) for trace in moving.traces(rng, 2 * half)]
        kept = [*kept, _Group(lines, dim, lower, half, rng, tol)]
        length, resolved = max(length, kept[-1].length), resolved and kept[-1].resolved
    elif moving is not None:
        length = max(length, int(moving.frequency * half) + 20, int(6 + 4 * math.sqrt(moving.rate * half)))
    needs = AxisNeeds(lower, upper, length, resolved, periodic=periodic)
    if periodic or not carriers:
        return needs
    if frequencies is not None:
        omega = tuple(float(w) for w in frequencies)
        return AxisNeeds(
            lower, upper, length, resolved, omega, max(16, 2 * pde.order + 12), (8,) * len(omega), (1.0,) * len(omega)
        )
    if length < (40 if pde.n_dims == 1 else 64) or not kept:  # short expansions cost nothing
        return needs
    start = None
    if moving is not None and moving.complete:
        tones = moving.carriers(2 * half)
        if tones is None or 2.5 * moving.occupied(half) > PAYS * length:  # broad-band: a search would fail late
            return needs
        omega, sizes, weights, base = tones
        start = JointBasis((lower,), (upper,), np.reshape(omega, (-1, 1)), (base,), tuple(sizes))
        if len(kept) == 1:  # nothing else moves: the modes are known, and no search could know them better
            return _sized(needs, CarrierFit(start, np.array(weights), 0.0), pde.order)
    x = lower + 2 * half * rng.random(900)
    Y = np.concatenate([g.values(x) / g.top for g in kept], axis=1)
    known = [w for w in own if w * half > 3 * math.pi] if pde.is_constant else []
    if known and start is None:
        start = JointBasis((lower,), (upper,), np.reshape(known, (-1, 1)), (4,), (3,) * len(known))
    found = find_carriers(
        torch.as_tensor(x[:, None]),
        torch.as_tensor(Y),
        (lower,),
        (upper,),
        start=start,
        max_frequency=[1.2 * length / half],
        max_features=min(160, int(PAYS * length)),
        tol=max(1e-12, tol),
    )
    if found.residual > 1e-9 or not len(found.basis.omega):
        return needs
    return _sized(needs, found, pde.order)


def _sized(needs, found, order):
    """Turn a carrier fit of the data into sizes for u, or leave `needs` plain when carriers do not pay."""
    half = (needs.upper - needs.lower) / 2
    omega, base = np.abs(found.basis.omega[:, 0]), max(16, found.basis.n_base[0] + 6)
    sizes, weights = np.array(found.basis.n_envelope), found.weights
    for q in np.argsort(
        omega
    ):  # block 0 holds fewer than three periods by itself, and what costs it less than a carrier
        alone = int(omega[q] * half) + 22 + order
        if omega[q] * half < 3 * math.pi or alone <= base + 2 * max(6, sizes[q] + 1):
            base, omega[q] = max(base, alone), 0.0
    kept = omega > 0
    omega, sizes, weights = omega[kept], np.maximum(6, sizes[kept] + 1), weights[kept]
    if not len(omega) or base + 2 * sizes.sum() > PAYS * needs.length + 8:
        return needs
    return replace(
        needs,
        omega=tuple(omega.tolist()),
        n_base=base,
        n_envelope=tuple(sizes.tolist()),
        weights=tuple(weights.tolist()),
    )


class _Group:
    """Values along some lines: their size, and the polynomial length that they need."""

    def __init__(self, lines, dim, lower, half, rng, tol=1e-13):
        self.lines, self.dim = lines, dim
        self.length, self.resolved, self.top = MAX_LENGTH, False, 0.0
        check = rng.random(24)
        n = 32
        while n <= MAX_LENGTH:
            xi = np.cos(np.pi * np.arange(n + 1) / n)
            V = self.values(lower + half * (1 + xi))
            self.top = max(self.top, float(np.max(np.abs(V))))
            if self.top == 0 and n >= 128:
                self.length, self.resolved = 1, True
                break
            found = chebyshev_length(V, tol) if self.top > 0 else None
            if found is not None and self._holds(V, n, lower, half, check, max(1e-6, 10 * tol)):
                self.length, self.resolved = found, True
                break
            n *= 2

    def values(self, x):
        """Columns of values at the coordinates x (n,), shape (n, number of lines)."""
        columns = []
        for function, anchor in self.lines:
            X = np.repeat(anchor[None, :], len(x), axis=0)
            X[:, self.dim] = x
            columns.append(function(X))
        return np.stack(columns, axis=1)

    def _holds(self, V, n, lower, half, check, tol):
        """The interpolant agrees with the function at points off the grid."""
        c = dct(V, type=1, axis=0) / n
        c[[0, -1]] /= 2
        xi = 2 * check - 1
        return (
            np.max(np.abs(np.polynomial.chebyshev.chebval(xi, c).T - self.values(lower + half * (1 + xi))))
            < tol * self.top
        )


def _source_lines(pde, dim, rng):
    """Lines through the box on which the source is asked."""
    sources = [e.source for e in pde._equations if not e.source.is_sampled and e.source.constant is None]
    if not sources:
        return []
    box, n = pde.domain.box, 1 if pde.n_dims == 1 else 6
    anchors = box.lower + (box.upper - box.lower) * rng.random((n, pde.n_dims))
    return [(source, anchor) for source in sources for anchor in anchors]


def _condition_lines(pde, dim, rng):
    """Lines within the faces on which boundary data are asked."""
    box, d = pde.domain.box, pde.n_dims
    out = []
    for condition in pde.conditions:
        if isinstance(condition, Periodic):
            continue
        data = [condition.u0, condition.velocity] if isinstance(condition, Initial) else [condition.g]
        where = getattr(condition, "where", None)
        if where is not None and not callable(where) and named_faces(where, d) is None:
            continue
        for value in data:
            g = PointFunction("g", value, d) if value is not None else None
            if g is None or g.is_sampled or g.constant is not None:
                continue
            for j, side in pde.faces_of(condition):
                if j == dim:
                    continue
                for _ in range(1 if d == 2 else 3):
                    anchor = box.lower + (box.upper - box.lower) * rng.random(d)
                    anchor[j] = box.bounds[j][side]
                    if not callable(where) or _on_line(where, box, dim, anchor):
                        out.append((g, anchor))
    return out


def _on_line(where, box, dim, anchor):
    """True when a mask holds all along a line."""
    X = np.repeat(anchor[None, :], 17, axis=0)
    X[:, dim] = np.linspace(*box.bounds[dim], 19)[1:-1]
    return bool(apply_mask(where, X).all())


def _significant(groups, pde, half):
    """Drop groups whose values are rounding beside what the others imply."""
    middle = np.atleast_2d((pde.domain.box.lower + pde.domain.box.upper) / 2)
    terms = {}
    for e in range(pde.n_equations):
        for index, c in pde.coefficient_values(middle, e).items():
            alpha = index[-pde.n_dims :]
            terms[alpha] = max(terms.get(alpha, 0.0), float(np.max(np.abs(c))))
    alive = [g for g in groups if g.top > 0]
    if len(alive) < 2:
        return alive
    f, g = alive
    size_f = symbol_size(terms, [f.length / half] * pde.n_dims)
    size_g = symbol_size(terms, [g.length / half] * pde.n_dims)
    if f.top < 1e-11 * size_g * g.top and not f.resolved:
        return [g]
    if g.top < 1e-11 * f.top / size_f:
        return [f]
    return alive


def symbol_roots(pde, dim):
    """Frequencies and growth rates that the operator allows along one axis on its own.

    Parameters
    ----------
    pde : PDE
        The problem. Variable coefficients give the largest roots at 64 points; a system gives none.
    dim : int
        The axis.

    Returns
    -------
    (list of float, list of float)
        Imaginary and real parts of the roots of its symbol, without repetition and sign, rad / unit.
    """
    order = pde.axis_order(dim)
    if order == 0 or pde.unknowns is not None:
        return [], []
    rng = np.random.default_rng(0)
    box = pde.domain.box
    X = (box.lower + box.upper)[None] / 2
    if not pde.is_constant:  # the fastest oscillation anywhere, as WKB has it
        X = box.lower + (box.upper - box.lower) * rng.random((64, pde.n_dims))
    P = np.zeros((len(X), order + 1))
    for alpha, c in pde.coefficient_values(X).items():
        if all(a == 0 for j, a in enumerate(alpha) if j != dim):
            P[:, order - alpha[dim]] += c
    waves, growths = [], []
    for p in P:
        if abs(p[0]) > 1e-6 * np.abs(P[:, 0]).max():
            roots = np.roots(p)
            waves += [abs(float(z.imag)) for z in roots if abs(z.imag) > 1e-9 * (1 + abs(z))]
            growths += [abs(float(z.real)) for z in roots]
    if not pde.is_constant:
        waves, growths = waves and [max(waves)], growths and [max(growths)]
    return sorted({round(w, 12) for w in waves}), sorted({round(g, 12) for g in growths})
