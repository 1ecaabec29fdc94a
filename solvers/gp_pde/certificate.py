r"""What is known of the error of a solution: fresh points, the next basis, the posterior, and how unique u is.

Notation  r = L u + N(u) - f at fresh points; scale: the size of the terms that cancel in it; low: the size of the
          operator's symbol at the lowest frequency of the box.
Pitfalls  A small residual at the collocation points proves nothing.
          Of a nonlinear equation the linearisation about u tells how errors travel and whether u is isolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.solvers.gp_pde.collocation import ROUNDING, condition_block, operator_rows, symbol_size
from sciml.solvers.gp_pde.gauss_newton import fields_at, linear_terms
from sciml.solvers.gp_pde.points import condition_rows, interior_points
from sciml.solvers.gp_pde.posterior import LeastSquaresPosterior, TensorPosterior

__all__ = ["Record", "Yardstick", "smallest_singular_value"]

N_TEST = 1500  # points at which rungs are compared and residuals validated
N_WIDE = 20_000, 6_000  # points, on a line and beyond, of the last look for features that all others missed
FAINT = 1e-6  # an unknown smaller than this part of the largest one is judged by that part


@dataclass
class Record:
    """One rung: its posterior and what is known of its error."""

    posterior: object
    n_rows: int
    values: torch.Tensor  # (m, n): every unknown at the test points
    cancellation: float = 1.0
    left_out: np.ndarray | None = None
    estimate: float = math.inf
    difference: float = math.inf
    propagated: float = math.inf
    residual_rms: float = math.inf
    residual_max: float = math.inf
    boundary: float = math.inf
    noisy: float = 0.0
    scale: float = 0.0
    spread: float = 0.0
    row_sizes: list | None = None
    seen: float = 0.0
    resonance: float = 1.0
    fitted: object = None
    unit: float = 1.0
    newton: object = None
    gain: float = 1.0  # how much more the linearisation amplifies than the posterior says

    @property
    def n_features(self):
        """Number of features of the basis."""
        return self.posterior.basis.n_features

    @property
    def sizes(self):
        """Root-mean-square size of every unknown, a faint one lifted to a part of the largest."""
        size = self.values.square().mean(dim=1).sqrt()
        return torch.clamp(size, min=FAINT * float(size.max()))


class Yardstick:
    """Fresh points of a problem, and what they tell of a posterior.

    Parameters
    ----------
    pde : PDE
        The problem.
    rng : numpy.random.Generator
        Places the points.
    device : torch.device
        Where features are evaluated.
    tol : float
        Below ten times it the posterior is asked even of a large basis.
    """

    def __init__(self, pde, rng, device, tol):
        self.pde, self.rng, self.device, self.tol = pde, rng, device, tol
        half = N_TEST // 2
        X = interior_points(pde.domain, half, rng, uniform=True)
        self.X = np.concatenate([X, interior_points(pde.domain, N_TEST - half, rng)])  # also the faces' neighbourhood
        self.test = torch.as_tensor(self.X, device=device)
        self.terms = [pde.coefficient_values(self.X, e) for e in range(pde.n_equations)]
        self.f = [None if e.source.is_sampled else e.source(self.X) for e in pde._equations]
        self.boundary = condition_rows(pde, {1: 1, 2: 150}.get(pde.n_dims, 300), rng)
        self.length = pde.domain.box.upper - pde.domain.box.lower
        self.low = [symbol_size(t, np.pi / self.length) for t in self.terms]

    def values(self, posterior):
        """Every unknown at the test points, (m, n)."""
        return torch.stack([posterior.apply(self.test, {index: 1.0}) for index in self.pde._indices])

    def data_size(self):
        """Largest boundary value, in units of u."""
        d = self.pde.n_dims
        values = [r.rhs for r in self.boundary if all(sum(a[-d:]) == 0 for a in r.terms)]
        return max((float(np.max(np.abs(v), initial=0.0)) for v in values), default=0.0)

    def linearised(self, record, X, points):
        """Terms of the linearised operator about a solution, one dict an equation, and N there, (n, E) or None."""
        terms = [dict(self.pde.coefficient_values(X, e)) for e in range(self.pde.n_equations)]
        if self.pde.is_linear:
            return terms, None
        u, grad = fields_at(self.pde, lambda index: record.posterior.apply(points, {index: 1.0}), X)
        value, by_u, by_grad = self.pde._nonlinear.linearised(X, u, grad)
        for e, row in enumerate(terms):
            for index, c in linear_terms(self.pde, by_u, by_grad, e).items():
                row[index] = row.get(index, 0.0) + c
        return terms, value

    def residuals(self, record, X, points, terms, f):
        """For each equation the residual (n,) and the size of what cancels in it (n,)."""
        value = None
        if not self.pde.is_linear:
            u, grad = fields_at(self.pde, lambda index: record.posterior.apply(points, {index: 1.0}), X)
            value = self.pde._nonlinear.values(X, u, grad).real
        out = []
        for e, row in enumerate(terms):
            r, parts = np.zeros(len(X)), np.zeros(len(X))
            for index, c in row.items():
                part = c * record.posterior.apply(points, {index: 1.0}).cpu().numpy()
                r, parts = r + part, parts + np.abs(part)
            if value is not None:
                r, parts = r + value[:, e], parts + np.abs(value[:, e])
            if f[e] is not None:
                r, parts = r - f[e], parts + np.abs(f[e])
            out.append((r, parts))
        return out

    def judge(self, record, richer):
        """Fill in the certificate of a record, given the solution on a richer basis (or None)."""
        sizes = record.sizes
        size = float(sizes.max())
        if richer is not None:
            gap = (record.values - richer.values).square().mean(dim=1).sqrt()
            if size > 0:
                record.difference = 2 * float((gap / sizes).max())  # the richer one errs too
            else:
                record.difference = 0.0 if float(gap.max()) == 0 else math.inf
        worst = peak = noisy = record.seen = 0.0
        for e, (r, parts) in enumerate(self.residuals(record, self.X, self.test, self.terms, self.f)):
            if self.f[e] is None:
                r = record.left_out[e]
                parts = np.sqrt(np.mean(parts**2)) + np.sqrt(np.mean(self.pde._equations[e].source.values ** 2))
            scale = max(float(np.sqrt(np.mean(parts**2))), self.low[e] * size)  # where L u vanishes it is rounding
            record.scale = max(record.scale, scale)
            rms, top = float(np.sqrt(np.mean(r**2))), float(np.max(np.abs(r)))
            if scale > 0:
                worst, peak = max(worst, rms / scale), max(peak, top / scale)
            # Data are rounded too, relative to the terms that cancel in them; the points may all round alike.
            rms = max(rms, 16 * np.finfo(float).eps * scale)
            noisy = max(noisy, rms)
            if record.row_sizes is not None and record.row_sizes[e] > 0:
                record.seen = max(record.seen, rms / record.row_sizes[e] / record.unit)
        record.residual_rms, record.residual_max, record.noisy = worst, peak, noisy
        record.boundary = self._boundary_residual(record, size)
        # The posterior costs as much as the fit: not for a rung that is to be left anyway.
        hopeless = richer is not None and record.n_features > 800 and record.difference > 10 * self.tol
        record.propagated = record.difference if hopeless else self.propagated(record, size)
        # Conditions that contradict one another leave a residual that no richer basis lowers.
        known = record.difference, record.propagated, record.boundary, self._rounded_coordinates(record, size)
        unsettled = 0.0 if record.newton is None or record.newton.settled else record.newton.step
        record.estimate = max(*known, unsettled)
        if size == 0 and worst == 0 and record.boundary == 0:
            record.estimate = 0.0
        if not math.isfinite(record.estimate):
            record.estimate = math.inf
        return record

    def _boundary_residual(self, record, size):
        worst = 0.0
        for group in self.boundary:
            X = torch.as_tensor(group.X, device=self.device)
            r = record.posterior.apply(X, group.terms)
            if group.minus is not None:
                r = r - record.posterior.apply(torch.as_tensor(group.minus, device=self.device), group.terms)
            scale = float(np.sqrt(np.mean(group.rhs**2))) + size * symbol_size(group.terms, np.pi / self.length)
            r = float((r - torch.as_tensor(group.rhs, device=self.device)).square().mean().sqrt())
            worst = max(worst, r / scale if scale > 0 else r)
        return worst

    def propagated(self, record, size):
        """Relative size of u that noise as large as the residual makes; sets the spread of the posterior too."""
        X = self.test[:: max(1, N_TEST // 300)]
        posterior = record.posterior
        if isinstance(posterior, TensorPosterior):
            counts = [len(a.quadrature()[0]) for a in posterior.basis.axes]
            noise = record.noisy * math.sqrt(float(np.prod(self.length)) / math.prod(counts)) * record.gain
        else:  # the posterior as if its noise were what fresh points show
            noise = 1.0
            factor = max(1.0, min(record.seen / ROUNDING, 1 / ROUNDING))
            posterior.set_root(record.fitted.covariance_root(factor) * record.unit)
        spreads = [float(posterior.deviation(X, index).square().mean().sqrt()) for index in self.pde._indices]
        record.spread = max(spreads)
        if size == 0:
            return 0.0 if record.noisy == 0 else math.inf
        return noise * max(s / float(z) for s, z in zip(spreads, record.sizes, strict=True))

    def _rounded_coordinates(self, record, size):
        """Relative change of u when the coordinates of all data are off by their rounding; at least 4 eps."""
        eps = 4 * np.finfo(float).eps
        if size == 0:
            return eps
        box, d, worst = self.pde.domain.box, self.pde.n_dims, eps
        for index, scale in zip(self.pde._indices, record.sizes, strict=True):
            total = 0.0
            for j, far in enumerate(np.maximum(np.abs(box.lower), np.abs(box.upper))):
                along = (*index[:-d], *(int(i == j) for i in range(d)))
                slope = record.posterior.apply(self.test, {along: 1.0})
                total += 2 * eps * far * float(slope.square().mean().sqrt())
            worst = max(worst, total / float(scale))
        return worst

    def widely(self, record):
        """Relative root-mean-square residual at many more points, once, for the answer; what is narrower escapes."""
        sources = [e.source for e in self.pde._equations]
        constant = all(s.constant is not None for s in sources)
        if any(s.is_sampled for s in sources) or (constant and self.pde.is_linear):
            return 0.0
        X = interior_points(self.pde.domain, N_WIDE[self.pde.n_dims > 1], self.rng, uniform=True)
        points = torch.as_tensor(X, device=self.device)
        terms = [self.pde.coefficient_values(X, e) for e in range(self.pde.n_equations)]
        worst = 0.0
        for e, (r, _) in enumerate(self.residuals(record, X, points, terms, [s(X) for s in sources])):
            scale = record.scale or max(float(np.sqrt(np.mean(sources[e](X) ** 2))), 1e-300)
            record.residual_max = max(record.residual_max, float(np.max(np.abs(r))) / scale)
            worst = max(worst, float(np.sqrt(np.mean(r**2))) / scale)
        return worst

    def resonance(self, record):
        """Relative size of (L v, B v) for the function v that the data determine least; rounding means singular.

        Of a nonlinear equation L is the linearisation about the solution.
        """
        if isinstance(record.posterior, TensorPosterior):
            return record.cancellation
        rng = np.random.default_rng(0)
        state = rng.bit_generator.state
        # At rounding level: louder noise would let the prior hide which function is free.
        posterior = LeastSquaresPosterior(
            record.posterior.basis, record.posterior.theta, record.fitted.covariance_root()
        )
        kept = {}

        def draw(X, index):
            key = (id(X), index)
            if key not in kept:
                rng.bit_generator.state = state  # one and the same function v
                points = torch.as_tensor(X, device=self.device)
                kept[key] = posterior.draw(points, index, 1, rng)[0].cpu().numpy()
            return kept[key]

        def combined(X, terms):
            return sum((draw(X, index) * c for index, c in terms.items()), np.zeros(len(X)))

        X = np.ascontiguousarray(self.X[::4])
        terms, _ = self.linearised(record, X, torch.as_tensor(X, device=self.device))
        size = float(np.sqrt(np.mean([np.mean(draw(X, index) ** 2) for index in self.pde._indices])))
        if not size > 0:
            return 1.0
        worst = 0.0
        for e, row in enumerate(terms):
            parts = sum(np.abs(draw(X, index) * c) for index, c in row.items())
            inside = np.sqrt(np.mean(combined(X, row) ** 2))
            worst = max(worst, inside / (np.sqrt(np.mean(parts**2)) + self.low[e] * size))
        for group in self.boundary:
            b = combined(group.X, group.terms)
            if group.minus is not None:
                b = b - combined(group.minus, group.terms)
            worst = max(worst, np.sqrt(np.mean(b**2)) / (size * symbol_size(group.terms, np.pi / self.length)))
        return float(worst)


def smallest_singular_value(yardstick, record, largest=1200):
    """Smallest size of the linearised operator's image of a function of size one that meets the conditions.

    Where the operator is self-adjoint it is the size of its eigenvalue nearest to zero.

    Parameters
    ----------
    yardstick : Yardstick
        Fresh points.
    record : Record
        A solution of a nonlinear problem.
    largest : int
        Features beyond which it is not worth its cost.

    Returns
    -------
    float or None
        In units of f / units of u; None for a linear problem, whose `singularity` says it, and for a large basis.
    """
    if record.newton is None or yardstick.pde.is_linear:
        return None
    if record.newton.smallest is not None:
        return float(record.newton.smallest)
    basis = record.posterior.basis
    if basis.n_features > largest:
        return None
    terms, _ = yardstick.linearised(record, yardstick.X, yardstick.test)
    device = yardstick.device
    values = torch.cat([operator_rows(basis, yardstick.X, {i: 1.0}, device) for i in yardstick.pde._indices])
    _, s, Vt = torch.linalg.svd(values, full_matrices=False)
    keep = s > 1e-9 * s[0]
    T = Vt[keep].T / s[keep] * math.sqrt(len(yardstick.X))  # coordinates in which functions have the size of their norm
    image = torch.cat([operator_rows(basis, yardstick.X, t, device) for t in terms]) @ T / math.sqrt(len(yardstick.X))
    edge, size, _ = condition_block(basis, yardstick.boundary, device)
    if len(edge):
        E = (edge / torch.clamp(size, min=1e-300)[:, None]) @ T
        _, e, Wt = torch.linalg.svd(E, full_matrices=True)
        rank = int((e > 1e-9 * e[0]).sum())
        image = image @ Wt[rank:].T
    return float(torch.linalg.svdvals(image)[-1]) if image.shape[1] else None
