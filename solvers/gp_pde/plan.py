r"""Choose how to solve: which features, which of the two solvers, how many points, and what to try next.

A plan is a ladder of bases.  The solver climbs it, and the difference of two neighbouring rungs is the error estimate.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from sciml.exceptions import InvalidInputError
from sciml.solvers.gp_pde.conditions import Periodic
from sciml.solvers.gp_pde.domain import Box, Region
from sciml.solvers.gp_pde.fast_diagonal import separable_parts
from sciml.solvers.gp_pde.features import AxisBasis, JointBasis, ProductBasis
from sciml.solvers.gp_pde.frequencies import find_carriers, lattice_step
from sciml.solvers.gp_pde.lines import axis_needs, symbol_roots
from sciml.solvers.gp_pde.points import interior_points
from sciml.solvers.gp_pde.problem import PDE
from sciml.solvers.gp_pde.systems import SystemBasis

__all__ = ["Plan", "make_plan", "plan_from_solution"]

logger = logging.getLogger(__name__)


@dataclass
class Plan:
    """How a problem is going to be solved.

    Parameters
    ----------
    solver : {"fast-diagonal", "collocation"}
        Kronecker sum on a box, or scattered least squares.
    why : str
        The reason, for the report.
    rungs : callable
        ``rungs(level) -> basis or None``.
    carriers : list of dict
        What was found: ``omega`` (d,) and ``weight``, for the report and `spectrum`.
    parts : tuple
        From `separable_parts`, when the solver is fast diagonalisation.
    alias : dict
        ``lattice`` (str or None: why samples cannot exclude aliases), ``margin`` (power near the end of the band).
    resolved : bool
        False when the data were not resolved on the lines.
    flat : callable or None
        Rungs for collocation, when fast diagonalisation turns out not to apply.
    gap : str or None
        Where samples leave a part of the domain unseen.
    tensor : callable or None
        Rungs on products of axes without regard to the size of a dense system.
    """

    solver: str
    why: str
    rungs: object
    carriers: list
    parts: tuple | None = None
    alias: dict = field(default_factory=lambda: {"lattice": None, "margin": 0.0})
    resolved: bool = True
    flat: object = None
    gap: str | None = None
    tensor: object = None


def make_plan(pde, *, method, rng, frequencies, max_frequency, max_features, data_tol=1e-13):
    """Analyse a problem and decide.

    Parameters
    ----------
    pde : PDE
        The problem.
    method : {"auto", "carriers", "chebyshev"}
        "chebyshev" uses no carrier; "carriers" and "auto" do where they pay.
    rng : numpy.random.Generator
        Source of lines and points.
    frequencies : array or None
        Carriers known beforehand: (Q,) for each axis alike, or (Q, d) vectors.
    max_frequency : float or None
        The user's word that the data hold no frequency above, rad / unit.
    max_features : int
        Bound on the features of a dense least-squares system.
    data_tol : float
        What of the data counts, relative to their size; rounding by default. A nonlinear equation's source holds
        harmonics that u need not have.

    Returns
    -------
    Plan
    """
    carriers = method != "chebyshev"
    m = pde.n_unknowns
    if any(e.source.is_sampled for e in pde._equations):
        plan = _from_samples(pde, rng, carriers, frequencies, max_frequency, max_features // m)
    elif isinstance(pde.domain, Box):
        plan = _on_box(pde, rng, carriers, frequencies, max_features // m, data_tol)
    else:
        plan = _in_region(pde, rng, carriers, frequencies, max_frequency, max_features // m, data_tol)
    return plan if pde.unknowns is None else _side_by_side(plan, m)


def plan_from_solution(pde, u, *, rng, frequencies, max_features, error=1e-13):
    """Plan anew with what a first solution shows of u itself.

    Parameters
    ----------
    pde : PDE
        A problem of one unknown.
    u : callable
        Its solution so far, a function of X (n, d).
    rng, frequencies, max_features
        As for `make_plan`.
    error : float
        Relative error of `u`, below which nothing is sought in it.

    Returns
    -------
    Plan
    """
    d = pde.n_dims
    periodic = [c for c in pde.conditions if isinstance(c, Periodic)]
    image = PDE(pde.domain, {(0,) * d: 1.0}, u, periodic)
    found = make_plan(
        image,
        method="carriers",
        rng=rng,
        frequencies=frequencies,
        max_frequency=None,
        max_features=max_features,
        data_tol=min(max(1e-13, 3 * error), 9e-10),
    )
    parts = (None, "") if isinstance(pde.domain, Region) else separable_parts(pde, frozen=True)
    if d == 1 or parts[0] is None:
        return found
    return replace(found, solver="fast-diagonal", parts=parts, rungs=found.tensor or found.rungs)


def _side_by_side(plan, m):
    """The same rungs for every one of m unknowns."""

    def wrapped(rungs):
        def both(level):
            basis = rungs(level)
            return None if basis is None else SystemBasis((basis,) * m)

        return both

    return replace(plan, rungs=wrapped(plan.rungs), flat=plan.flat and wrapped(plan.flat))


def _per_axis(frequencies, d):
    """Known carriers, for each axis a list, or None."""
    if frequencies is None:
        return [None] * d
    omega = np.asarray(frequencies, float)
    if omega.ndim == 1:
        return [np.abs(omega).tolist()] * d
    return [sorted({round(abs(w), 9) for w in column if w}) for column in omega.T]


def _vectors(frequencies, d):
    """Known carriers as vectors (Q, d)."""
    omega = np.asarray(frequencies, float)
    if omega.ndim == 2:
        return omega
    return omega[:, None] if d == 1 else np.array([w * e for w in omega for e in np.eye(d)])


def _on_box(pde, rng, carriers, frequencies, max_features, data_tol=1e-13):
    d = pde.n_dims
    known = _per_axis(frequencies, d)
    needs = [
        axis_needs(pde, j, rng, carriers=carriers and data_tol < 1e-9, frequencies=known[j], tol=data_tol)
        for j in range(d)
    ]
    found = [
        {"omega": [w if i == j else 0.0 for i in range(d)], "weight": v}
        for j, n in enumerate(needs)
        for w, v in zip(n.omega, n.weights, strict=True)
    ]
    resolved = all(n.resolved for n in needs)

    def tensor(level):
        counts = [n.count(level) for n in needs]
        if math.prod(counts) > (4e5 if d == 2 else 4e6) or max(counts) > 3000:
            return None
        return ProductBasis(tuple(n.axis(level) for n in needs))

    def short(level):
        """Where the data are not resolved within the limits: plain bases as far as those go."""
        counts = [min(n.count(0), int(24 * 1.4**level)) for n in needs]
        if math.prod(counts) > (4e5 if d == 2 else 4e6) or counts == [
            min(n.count(0), int(24 * 1.4 ** (level - 1))) for n in needs
        ]:
            return None
        return ProductBasis(
            tuple(
                AxisBasis(n.lower, n.upper, (), (c + 1) // 2 if n.periodic else c, (), n.periodic)
                for n, c in zip(needs, counts, strict=True)
            )
        )

    def flat(level):
        pace = 2 if d == 1 else 1  # products count P as a power: small steps
        if math.prod(n.count(level, pace) for n in needs) > max_features:
            return None
        if d == 1 and not needs[0].periodic:  # recurrences on one axis need no orthonormal coordinates
            omega, base, terms = needs[0].sizes(level, pace)
            return JointBasis((needs[0].lower,), (needs[0].upper,), np.reshape(omega, (-1, 1)), (base,), terms)
        return ProductBasis(tuple(n.axis(level, pace) for n in needs))

    parts, reason = separable_parts(pde, frozen=not pde.is_linear)
    if parts is None and d > 1 and (flat(0) is None or flat(1) is None) and tensor(0) is not None:
        near = separable_parts(pde, frozen=True)  # variable coefficients: a neighbour that preconditions
        parts, reason = near if near[0] is not None else (parts, reason)
    kind = "carriers" if any(n.omega for n in needs) else "plain Chebyshev (carriers would not pay)"
    if d == 1 and flat(0) is not None and flat(1) is None:  # room for one rung: the one below it is the answer
        plan = Plan("collocation", f"one dimension; {kind}, cut short by max_features", lambda k: flat(k - 1), found)
    elif d == 1 and flat(0) is None:
        plan = Plan(
            "collocation",
            f"one dimension; {kind}, cut short by max_features",
            _grow_base((needs[0].lower,), (needs[0].upper,), max_features),
            [],
        )
    elif d > 1 and parts is not None:
        fits = tensor(0) is not None and tensor(1) is not None
        plan = Plan(
            "fast-diagonal",
            f"a box and a separable operator; {kind}",
            tensor if fits else short,
            found,
            (parts, reason),
        )
    else:
        why = "one dimension" if d == 1 else reason
        plan = Plan("collocation", f"{why}; {kind}", flat, found)
        if d > 1 and (flat(0) is None or flat(1) is None):
            plan = _in_region(pde, rng, carriers, frequencies, None, max_features, data_tol)
            plan.why = f"{why}; products of axes need too many features"
    plan.resolved, plan.tensor = resolved, tensor
    plan.flat = (
        flat if flat(0) is not None else _grow_base(tuple(pde.domain.lower), tuple(pde.domain.upper), max_features)
    )
    return plan


def _in_region(pde, rng, carriers, frequencies, max_frequency, max_features, data_tol=1e-13):
    d, box = pde.n_dims, pde.domain.box
    lower, upper = tuple(box.lower), tuple(box.upper)
    n = {1: 600, 2: 1800}.get(d, 3000)
    start = None
    if frequencies is not None:
        omega = _vectors(frequencies, d)
        start = JointBasis(lower, upper, omega, (12,) * d, (5,) * len(omega))
    elif carriers and any(e.source.constant is None for e in pde._equations):
        X = interior_points(pde.domain, n, rng, uniform=True)
        f = np.stack([e.source(X) for e in pde._equations if e.source.constant is None], axis=1)
        if np.any(f):
            top = [max_frequency or 4 * np.pi * n ** (1 / d) / w for w in box.upper - box.lower]
            fit = find_carriers(
                torch.as_tensor(X),
                torch.as_tensor(f),
                lower,
                upper,
                max_frequency=top,
                max_features=min(n // 3, max_features // 2),
                tol=max(1e-12, data_tol),
            )
            if fit.residual < max(1e-6, 10 * data_tol):
                start = fit
    why = "scattered least squares on any domain"
    waves = [max([*symbol_roots(pde, j)[0], 0.0]) * (upper[j] - lower[j]) / 2 for j in range(d)]
    least = int(1.2 * max(waves)) + 14 if max(waves) > 3 else 0  # what a wave of the operator's own needs
    if start is None:
        return Plan("collocation", f"{why}; total-degree Chebyshev", _grow_base(lower, upper, max_features, least), [])
    if isinstance(start, JointBasis):
        basis, weights = start, np.ones(len(start.omega))
    else:
        basis, weights = start.basis, start.weights
    found = [{"omega": w.tolist(), "weight": float(v)} for w, v in zip(basis.omega, weights, strict=True)]
    base = max(16 if d < 3 else 12, max(basis.n_base) + 4, least)
    sizes = tuple(m + 3 for m in basis.n_envelope)

    def rungs(level):
        more = int(math.ceil(base * 1.3**level)) if d < 3 else base + 3 * level
        out = JointBasis(lower, upper, basis.omega, (more,) * d, tuple(m + 2 * level for m in sizes))
        return out if out.n_features <= max_features else None

    plain = _grow_base(lower, upper, max_features, least)
    if rungs(0) is None or rungs(1) is None:
        return Plan("collocation", f"{why}; total-degree Chebyshev (carriers would not pay)", plain, found)
    return Plan("collocation", f"{why}; {len(found)} carriers", rungs, found)


def _grow_base(lower, upper, max_features, least=0):
    """Carrier-free total-degree bases, each 1.3 times as long (1.2 in three dimensions); at least two of them fit."""
    d = len(lower)
    growth = 1.3 if d < 3 else 1.2
    largest = 1
    while math.comb(largest + d, d) <= max_features:
        largest += 1
    start = max(1, min(max({1: 14, 2: 14}.get(d, 8), least), int(largest / growth)))

    def rungs(level):
        n = int(math.ceil(start * growth**level))
        out = JointBasis(lower, upper, np.zeros((0, d)), (n,) * d, ())
        return out if out.n_features <= max_features else None

    return rungs


def _from_samples(pde, rng, carriers, frequencies, max_frequency, max_features):
    d, box = pde.n_dims, pde.domain.box
    sampled = [e.source for e in pde._equations if e.source.is_sampled]
    X = sampled[0].points
    f = np.stack([s.values for s in sampled if len(s.points) == len(X)], axis=1)
    lower, upper = tuple(box.lower), tuple(box.upper)
    length = np.array(upper) - np.array(lower)
    n = len(np.unique(X, axis=0))
    if n < 4:
        raise InvalidInputError(
            f"source must hold at least 4 different samples; got {n}. Sample it more densely, or pass a callable."
        )
    nyquist = np.pi * n ** (1 / d) / length
    reach = {1: 16, 2: 10}.get(d, 4)
    top, lattice = reach * nyquist, []
    for j in range(d):
        step = lattice_step(X[:, j], lower[j], upper[j], 2.1 * reach * nyquist[j])
        if step is not None:
            top[j] = min(top[j], step / 2)
            # However few of its sites are taken, a lattice folds; only a fold beyond the search's reach is harmless.
            near = step / 2 < reach * nyquist[j]
            if near and (max_frequency is None or max_frequency > 0.5 * step * (1 + 1e-9)):
                lattice.append(
                    f"the samples lie on a lattice in dimension {j}: frequencies above {step / 2:.4g} rad / unit "
                    f"fold into the band unseen"
                )
    if max_frequency is not None:
        top = np.minimum(top, max_frequency)
    points, values = torch.as_tensor(X), torch.as_tensor(f)
    limit = min(max_features, int(n / 1.5))
    plan_alias = {"lattice": "; ".join(lattice) or None, "margin": 0.0}
    if not np.any(f):
        fit_basis, weights, residual = JointBasis(lower, upper, np.zeros((0, d)), (4,) * d, ()), np.zeros(0), 0.0
    else:
        start = None
        if frequencies is not None:
            omega = _vectors(frequencies, d)
            start = JointBasis(lower, upper, omega, (4,) * d, (3,) * len(omega))
        fit = find_carriers(
            points,
            values,
            lower,
            upper,
            max_frequency=top,
            max_features=limit,
            start=start,
            refine_only=frequencies is not None,
            max_carriers=12 if carriers else 0,
        )
        fit_basis, weights, residual = fit.basis, fit.weights, fit.residual
    found = [{"omega": w.tolist(), "weight": float(v)} for w, v in zip(fit_basis.omega, weights, strict=True)]
    if len(weights) and weights.sum() > 0:
        high = np.any(np.abs(fit_basis.omega) > 0.9 * np.asarray(top), axis=1)
        plan_alias["margin"] = float((weights[high] ** 2).sum() / (weights**2).sum())
    # What the data determine bounds the basis: the homogeneous part is fixed by boundary data, the rest by the samples.
    most = min(int((n + _boundary_budget(pde)) / 1.3), max_features)
    rise = {1: 5, 2: 4}.get(d, 2)

    def sized(base, more):
        return JointBasis(lower, upper, fit_basis.omega, (base,) * d, tuple(m + more for m in fit_basis.n_envelope))

    start = max(fit_basis.n_base) + pde.order + (4 if d == 1 else 2)
    while start > 2 and sized(start + 1, 0).n_features > most:  # few samples: at least two rungs
        start -= 1
    tight = sized(start + rise, 1).n_features > most

    def rungs(level):
        out = sized(start + level, 0) if tight else sized(start + rise * level, (level + 1) // 2)
        return out if level == 0 or out.n_features <= most else None

    why = f"{n} scattered samples of the source; {len(found)} carriers explain them to {residual:.0e}"
    plan = Plan("collocation", why, rungs, found, alias=plan_alias)
    plan.resolved = residual < 1e-3 or not np.any(f)
    plan.gap = _widest_gap(pde.domain, X, n, rng)
    return plan


def _widest_gap(domain, X, n, rng):
    """Say where the samples leave a part of the domain unseen, or None.

    A ball around a point that is as far from all n samples as chance makes one, with probability 1e-3, holds log n + 7
    times the volume of one sample; only what lies in the domain counts.
    """
    d, box = domain.n_dims, domain.box
    length = box.upper - box.lower
    Y = interior_points(domain, 4000, rng, uniform=True)
    at = (Y - box.lower) / length
    radius = cKDTree((X - box.lower) / length).query(at)[0]
    inside = np.prod((np.minimum(at.T, radius) + np.minimum(1 - at.T, radius)) / (2 * radius + 1e-300), axis=0)
    if not isinstance(domain, Box):  # its boundary may cut a ball anywhere, and its volume is a part of the box's
        share = domain.contains(box.lower + length * rng.random((4000, d))).mean()
        inside = np.full(len(Y), 0.5**d / max(share, 1e-3))
    ball = math.pi ** (d / 2) / math.gamma(d / 2 + 1) * radius**d * inside
    worst = int(ball.argmax())
    if ball[worst] * n <= math.log(n) + 7:
        return None
    where = np.array2string(Y[worst], precision=4)
    return f"the samples leave a gap around {where}, in which nothing is known of the source"


def _boundary_budget(pde):
    """Coefficients that boundary data can fix beyond what the samples of the source do, roughly."""
    return 0 if pde.n_dims == 1 else 120 if pde.n_dims == 2 else 400
