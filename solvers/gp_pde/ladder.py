r"""Climb a ladder of ever richer bases: each rung is one solution, and two neighbours tell the error.

A rung is solved by fast diagonalisation where the problem is linear and separable on a box, by `tensor_newton` where it
is so up to a nonlinear or variable part, and else by scattered least squares: one factorisation for a linear equation,
a few for a nonlinear one, which starts from the rung before.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch

from sciml.exceptions import InvalidInputError, MemoryBudgetError
from sciml.iterate import Step
from sciml.linalg.threads import thread_limit
from sciml.solvers.gp_pde.certificate import Record, Yardstick
from sciml.solvers.gp_pde.collocation import assemble
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.fast_diagonal import solve_tensor
from sciml.solvers.gp_pde.features import ProductBasis
from sciml.solvers.gp_pde.gauss_newton import Nodes, fields_at, gauss_newton
from sciml.solvers.gp_pde.points import condition_rows, interior_points
from sciml.solvers.gp_pde.posterior import LeastSquaresPosterior, TensorPosterior
from sciml.solvers.gp_pde.systems import SystemBasis
from sciml.solvers.gp_pde.tensor_newton import solve_tensor_newton

__all__ = ["Context", "explore_steps", "solve_pde_steps"]

logger = logging.getLogger(__name__)

LOST = 3  # rungs in a row on which Gauss-Newton did not settle: there may be no solution near its start


class Context:
    """A problem with its plan, its yardstick, and the rungs climbed so far.

    Parameters
    ----------
    pde : PDE
        The problem.
    plan : Plan
        How to solve it.
    call : Call
        The caller's settings.
    """

    def __init__(self, pde, plan, call, yardstick=None):
        self.pde, self.plan, self.call = pde, plan, call
        self.rng, self.device, self.tol = call.rng, call.device, call.tol
        self.yardstick = yardstick or Yardstick(pde, call.rng, call.device, call.tol)
        self.best, self.last, self.notes, self.small = None, None, [], []
        self.newton_steps = 0

    def solve(self, basis):
        """One rung; returns a Record."""
        with self.enough_threads(basis.n_features):
            record = self._solve(basis)
        if record.newton is not None:
            self.newton_steps += record.newton.steps
            record.newton.total = self.newton_steps
            if record.newton.note and record.newton.note not in self.notes:
                self.notes.append(record.newton.note)
        return record

    def is_dear(self, record):
        """True where another rung costs more than it is worth once the tolerance is met."""
        if self.plan.solver != "fast-diagonal":
            return record.n_features > 1500
        return record.n_features > (100_000 if self.pde.is_linear and self.pde.is_constant else 8_000)

    def judge(self, record, richer):
        """Fill in the certificate of a record; see `Yardstick.judge`."""
        with self.enough_threads(record.n_features):
            return self.yardstick.judge(record, richer)

    def enough_threads(self, n_features):
        """All threads for a large rung, one for a small one."""
        large = 20_000 if self.plan.solver == "fast-diagonal" else 600
        return thread_limit(self.call.threads if n_features > large else 1)

    def _solve(self, basis):
        if self.plan.solver == "fast-diagonal":
            self._check_memory(8 * 4 * basis.n_features + 8 * 3 * sum(r * r for r in basis.shape), basis)
            out = self._tensor(basis)
            if not isinstance(out, str):
                return out
            logger.info("fast diagonalisation refused: %s", out)
            self.notes.append(out)
            self.plan.solver, self.plan.rungs = "collocation", self.plan.flat
            basis = self.plan.flat(0)
        return self._least_squares(basis)

    def _tensor(self, basis):
        if self.pde.is_linear and self.pde.is_constant:
            out = solve_tensor(self.pde, basis, *self.plan.parts, device=self.device)
        else:
            known = None if self.pde.is_linear else self._known()
            start = known if known is None or not hasattr(known, "posterior") else self._values_of(known)
            out = solve_tensor_newton(self.pde, basis, *self.plan.parts, start=start, device=self.device)
        if isinstance(out, str):
            return out
        posterior = TensorPosterior(basis, out.theta, out.roots, out.eigenvalues)
        record = Record(posterior, 0, self.yardstick.values(posterior), out.cancellation)
        record.newton, record.gain = out.newton, out.gain
        return record

    def _least_squares(self, basis):
        pde, d, P = self.pde, self.pde.n_dims, basis.n_features
        each = basis.parts[0] if isinstance(basis, SystemBasis) else basis
        p = each.n_features
        widest = max(each.shape) if isinstance(each, ProductBasis) else max(each.n_base) + 2 * sum(each.n_envelope)
        n_face = {1: 1, 2: max(40, 2 * min(widest, int(math.sqrt(2 * p)) + 8))}.get(d, max(150, int(2 * p ** (2 / 3))))
        n_face *= 1 if isinstance(pde.domain, Box) else 3  # a region's boundary points may be random and leave gaps
        n_face = max(n_face, getattr(basis, "n_boundary", 0))  # plane waves are known by boundary data alone
        n = max(
            (2 if isinstance(pde.domain, Box) else 3) * p if p < 2400 else int(1.5 * p),
            6000 if d == 1 and P < 200 and pde.is_linear else 1500,
        )
        sources = [e.source for e in pde._equations]
        total = len(sources) * max([len(s.points) for s in sources if s.is_sampled], default=n)
        copies = 4 if pde.is_linear else 6 + d * pde._nonlinear.takes_gradient
        self._check_memory(8 * copies * (total + 2 * d * n_face + P) * P, basis)
        sampled = [s.points for s in sources if s.is_sampled]
        if any(X.shape != sampled[0].shape or np.any(sampled[0] != X) for X in sampled[1:]):
            raise InvalidInputError("source must be sampled at the same points for all equations of a system.")
        shared = sampled[0] if sampled else interior_points(pde.domain, n, self.rng)
        points = [shared for _ in sources]
        right = [s.values if s.is_sampled else s(shared) for s in sources]
        rows = condition_rows(pde, n_face, self.rng)
        newton = None
        if pde.is_linear:
            terms = [pde.coefficient_values(points[0], e) for e in range(pde.n_equations)]
            system = assemble(basis, points[0], terms, right, rows, self.device)
        else:
            nodes = Nodes(pde, basis, points, right, rows, self.device)
            newton = self._newton(nodes)
            system = newton.system
        fitted, unit = system.solve()
        theta = fitted.mean * unit if newton is None else newton.theta
        posterior = LeastSquaresPosterior(basis, theta, lambda: fitted.covariance_root() * unit)
        record = Record(posterior, len(system.y), self.yardstick.values(posterior))
        at, record.left_out, record.row_sizes = 0, [], []
        for source, X in zip(sources, points, strict=True):
            own = slice(at, at + len(X))
            at += len(X)
            if source.is_sampled:
                loo = fitted.leave_one_out[own] * unit
                record.left_out.append((loo * system.size[own]).cpu().numpy())
            else:
                record.left_out.append(None)
            record.row_sizes.append(float(system.size[own].square().mean().sqrt()))
        record.fitted, record.unit, record.newton = fitted, unit, newton
        return record

    def _known(self):
        """An earlier solution to start from, or None."""
        return self.last or self.call.start

    def _values_of(self, known):
        """An earlier solution as `solve_tensor_newton` takes it."""
        if isinstance(known.posterior.basis, ProductBasis):
            return known.posterior.basis, known.posterior.theta.to(self.device)
        return lambda X: self._fields_of(known, X)[0]

    def _fields_of(self, known, X):
        """Values (n, m) and gradients (n, m, d) of an earlier solution at X (n, d)."""
        points = torch.as_tensor(X, dtype=torch.float64, device=self.device)
        return fields_at(self.pde, lambda index: known.posterior.apply(points, {index: 1.0}), X)

    def _newton(self, nodes):
        known = self._known()
        if known is None:
            return gauss_newton(nodes)
        if not hasattr(known, "posterior"):
            return gauss_newton(nodes, theta=nodes.fit(known))
        return gauss_newton(nodes, start=lambda X: self._fields_of(known, X))

    def _check_memory(self, needed, basis):
        if needed > self.call.budget:
            raise MemoryBudgetError(
                f"memory must hold the factorisation of {basis.n_features} features, {needed / 2**30:.2f} GiB; the "
                f"budget "
                f"is {self.call.budget / 2**30:.2f} GiB. Raise `memory`, lower `max_features`, or loosen `tol`.",
                needed=int(needed),
                allowed=int(self.call.budget),
            )


def explore_steps(context, max_level=12):
    """Climb with a look at fresh points alone: yield a Step for each rung, with ``(level, record)`` as value.

    Parameters
    ----------
    context : Context
        Problem, plan, validation points.
    max_level : int
        Highest rung.

    Yields
    ------
    Step
        criterion : relative size of u that the residual at fresh points stands for, at most 1e300.
    """
    best, lost = math.inf, 0
    for level in range(max_level + 1):
        basis = context.plan.rungs(level)
        if basis is None:
            return
        try:
            record = context.solve(basis)
        except MemoryBudgetError:
            if level == 0:
                raise
            return
        if record.newton.step < 0.1:
            context.last = record
        context.judge(record, None)
        logger.debug("exploring rung %d: %d features, %.1e", level, record.n_features, record.propagated)
        yield Step((level, record), min(record.propagated, 1e300), {"n_features": float(record.n_features)})
        lost = 0 if record.newton.settled else lost + 1
        if lost >= LOST:
            return
        if best < 1e-6 and record.propagated > 0.3 * best:
            return  # as good as it gets
        best = min(best, record.propagated)


def solve_pde_steps(context, max_level=12, first=None):
    """Climb the ladder: yield a Step for each rung, with the best certified record as value.

    Parameters
    ----------
    context : Context
        Problem, plan, validation points.
    max_level : int
        Highest rung.
    first : tuple (int, Record), optional
        A rung that is solved already, to climb on from.

    Yields
    ------
    Step
        value : Record; criterion : error estimate, dimensionless.
    """
    previous, worse, level, lost = None, 0, 0, 0
    if first is not None:
        level, previous = first[0] + 1, first[1]
    best = None
    while level <= max_level + 1:
        basis = context.plan.rungs(level)
        level += 1
        if basis is None:
            break
        try:
            record = context.solve(basis)
        except MemoryBudgetError:
            if previous is None:
                raise
            context.notes.append("the memory budget ended the refinement")
            break
        if record.newton is None or record.newton.step < 0.1:
            context.last = record
        if previous is not None:
            context.judge(previous, record)
            if previous.n_features <= 300 or not context.small:
                context.small.append(previous)
            logger.debug("rung %d: %d features, estimate %.1e", level - 2, previous.n_features, previous.estimate)
            improved = (
                best is None or previous.estimate < (0.3 if best.estimate <= context.tol else 1.0) * best.estimate
            )
            unresolved = best is None or best.estimate > 1e-2  # waves are not seen at all until the basis resolves them
            worse = 0 if unresolved or previous.estimate < 0.3 * best.estimate else worse + 1
            best = previous if improved else best
            context.best = best
            yield Step(
                best, best.estimate, {"n_features": float(previous.n_features), "residual": previous.residual_rms}
            )
            if best.estimate <= context.tol and (
                worse or previous.difference <= 1e-3 * context.tol or context.is_dear(record)
            ):
                break  # what is left is noise, which a richer basis does not lower
            if worse >= 4:
                break
        lost = lost + 1 if record.newton is not None and not record.newton.settled else 0
        if lost >= LOST and best is not None:
            break
        previous = record
    if best is None:
        if previous is None:
            raise InvalidInputError(
                "max_features must admit the smallest basis of this problem, which needs more. Raise max_features."
            )
        below = None
        if first is not None and previous is first[1] and first[0] > 0:  # no richer basis: a poorer one has to do
            below = context.solve(context.plan.rungs(first[0] - 1))
        context.judge(previous, below)
        context.best = previous
        yield Step(
            previous, previous.estimate, {"n_features": float(previous.n_features), "residual": previous.residual_rms}
        )
