r"""Solve a linear equation whose source, boundary values or observations are noisy, with calibrated bands.

.. math:: f_i = (Lu)(x_i) + \epsilon_i, \qquad u = \sum_j \theta_j \phi_j, \qquad \theta \sim N(0, s(w, \ell)),

noise levels, weights w and decays l by the evidence, averaged over their uncertainty; carriers of the samples are kept
where the evidence pays for them (`basis_choice`).

Cost      a second or less on a line: one QR of the rows, then a hundred small ones.
Pitfalls  Noise in the source is noise in the highest derivatives: what is slow in u is hidden by it and is known from
          the boundary only. Bands then are wide, and rightly so. A lattice of samples folds frequencies.

References
----------
D. MacKay, Bayesian interpolation, 1992. S. Fang et al., Solving high frequency and multi-scale PDEs with Gaussian
processes, 2024, arXiv 2311.04465 (the prior).
"""

from __future__ import annotations

import importlib
import logging
import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.iterate import Step, run
from sciml.linalg.threads import thread_limit
from sciml.solvers.gp_pde.basis_choice import BasisChoice
from sciml.solvers.gp_pde.collocation import operator_rows, symbol_size
from sciml.solvers.gp_pde.conditions import Periodic
from sciml.solvers.gp_pde.evidence import Evidence, Rows, StructuredPrior
from sciml.solvers.gp_pde.frequencies import _Periodogram
from sciml.solvers.gp_pde.points import condition_rows, interior_points
from sciml.solvers.gp_pde.posterior import LeastSquaresPosterior
from sciml.solvers.gp_pde.result import PDESolution
from sciml.validation import check_number

__all__ = ["noise_levels", "route"]

logger = logging.getLogger(__name__)

EXACT = 1e-12  # noise of an exact row against its norm times the size of u
N_DRAWN = 400, 1200, 2000  # samples taken of a noisy callable on a line, in a plane, in space
ENOUGH = 8  # values from which a noise level can be learned
AGREE = 0.3  # of a standard deviation: bases that differ by less are one


def noise_levels(noise):
    """Check `noise` and split it by kind of data.

    Parameters
    ----------
    noise : None, "learn", float or dict
        As in `solve_pde`; a number is the source's.

    Returns
    -------
    dict
        "source" and "boundary" to a float, "learn", "maybe" (learned where there is enough) or None.

    Raises
    ------
    InvalidInputError
        For any other word, a negative number, or another key.

    Examples
    --------
    >>> noise_levels(0.1)
    {'source': 0.1, 'boundary': None}
    """
    if noise is None:
        return {"source": None, "boundary": None}
    if isinstance(noise, str) and noise == "learn":
        return {"source": "learn", "boundary": "maybe"}
    parts = noise if isinstance(noise, dict) else {"source": noise}
    stray = [key for key in parts if key not in ("source", "boundary")]
    if stray:
        raise InvalidInputError(f"noise must have the keys 'source' and 'boundary'; got {stray[0]!r}.")
    out = {"source": None, "boundary": None}
    for key, value in parts.items():
        if value is None or (isinstance(value, str) and value == "learn"):
            out[key] = value
        elif isinstance(value, str):
            raise InvalidInputError(
                f"noise must be 'learn', a standard deviation, or a dict with the keys 'source' and 'boundary'; got "
                f"{value!r}. Write noise='learn' to have it estimated."
            )
        else:
            out[key] = check_number(f"noise[{key!r}]" if isinstance(noise, dict) else "noise", value, low=0.0) or None
    return out


@dataclass
class Estimate:
    """u on one basis.

    Parameters
    ----------
    basis : JointBasis
        Features.
    fit : HyperFit
        The best hyper-parameters.
    theta, root : torch.Tensor, shapes (P,) and (P, q)
        Mean and root of the covariance, averaged over hyper-parameters.
    groups : list
        Kind, points, rows, right sides, relative noise of each group of equations.
    moved : float
        Difference to the estimate before, in standard deviations.
    """

    basis: object
    fit: object
    theta: torch.Tensor
    root: torch.Tensor
    groups: list
    moved: float = math.inf


def route(pde, call, options=None):
    """Solve a linear problem with noisy data or observations; see `solve_pde`.

    Parameters
    ----------
    pde : PDE
        Without unknown parameters.
    call : Call
        Settings of `solve_pde`.
    options : None
        Not used.

    Returns
    -------
    PDESolution
        Its standard deviation is calibrated: 95 % bands are ``sol(X) +- 1.96 * sol.std(X)``.

    Raises
    ------
    InvalidInputError
        When the problem is nonlinear or a system, or `noise` breaks its rule.
    """
    levels = noise_levels(call.noise)
    if call.noise is None and pde._observations is not None:  # an exact equation seen through noisy values
        return importlib.import_module("sciml.solvers.gp_pde.inverse").route(pde, call, options)
    if not pde.is_linear or pde.n_unknowns > 1:
        raise InvalidInputError(
            "noise and observations need a linear equation with one unknown; this problem is "
            f"{'nonlinear' if not pde.is_linear else 'a system'}. Leave noise out to solve it with exact data."
        )
    started = time.perf_counter()
    with thread_limit(1):
        solver = _Solver(pde, call, levels)
        loop = run(
            solver.steps(),
            name="solve_pde",
            tol=AGREE,
            max_iter=6 if call.max_iter is None else call.max_iter,
            callback=call.callback,
            on_failure="ignore",
            progress=call.progress,
            dtype="float64",
        )
        return solver.result(loop, started)


class _OneCondition:
    """A problem seen through one of its conditions, so that rows can be told apart; all else is the problem's."""

    def __init__(self, pde, condition):
        self._pde, self.conditions = pde, (condition,)

    def __getattr__(self, name):
        return getattr(self._pde, name)


class _Solver:
    """Rows, ladder and certificate of one noisy problem."""

    def __init__(self, pde, call, levels):
        self.pde, self.call, self.levels, self.notes = pde, call, levels, []
        f, d = pde._source, pde.n_dims
        if f.constant is not None or (f.is_sampled and not np.any(f.values)):
            levels["source"] = None  # a number is exact, and zeros alone say nothing of their noise
        self.noisy = levels["source"] is not None
        self.samples = (f.points, f.values) if f.is_sampled else None
        if self.samples is None and self.noisy:
            X = interior_points(pde.domain, N_DRAWN[min(d, 3) - 1], call.rng, uniform=True)
            self.samples = (X, f(X))
        points = None if pde._observations is None else pde._observations[0]
        self.choice = BasisChoice([pde], lambda p: pde, call, noise=self.noisy, samples=self.samples, points=points)
        self.seed = int(call.rng.integers(2**31))
        self.fresh = interior_points(pde.domain, 800, np.random.default_rng(1), uniform=True)
        self.scale = self._scale()

    def _conditions(self, n_face):
        """Rows of each condition, and whether its data may be noisy."""
        for condition in self.pde.conditions:
            for rows in condition_rows(_OneCondition(self.pde, condition), n_face, np.random.default_rng(self.seed)):
                sampled = isinstance(getattr(condition, "g", None), tuple)
                yield rows, not isinstance(condition, Periodic), sampled

    def _scale(self):
        """Size of u to be expected: that of its data, or the source's over the operator's symbol."""
        sizes = [float(np.sqrt(np.mean(r.rhs**2))) for r, _, _ in self._conditions(20) if not any(map(sum, r.terms))]
        if self.pde._observations is not None:
            sizes.append(float(np.sqrt(np.mean(self.pde._observations[1] ** 2))))
        X = self.fresh if self.samples is None else self.samples[0]
        f = self.pde._source(X) if self.samples is None else self.samples[1]
        terms = self.pde.coefficient_values(X)
        slow = np.pi / (self.pde.domain.box.upper - self.pde.domain.box.lower)
        rms = float(np.sqrt(np.mean(f**2)))
        if len(self.choice.omega):
            sizes.append(max(rms / symbol_size(terms, np.maximum(np.abs(w), slow)) for w in self.choice.omega))
        elif not max(sizes, default=0.0):
            sizes.append(rms / symbol_size(terms, slow))
        return max(sizes, default=0.0) or 1.0

    def groups(self, basis, X, n_face):
        """All equations as `Rows`, with their points."""
        pde, device, levels = self.pde, self.call.device, self.levels
        out = []
        terms = pde.coefficient_values(X)
        A = operator_rows(basis, X, terms, device)
        f = self.samples[1] if self.samples is not None else pde._source(X)
        out.append((self._rows("source", A, f, levels["source"] or ("free" if self.samples is not None else None)), X))
        for rows, may, sampled in self._conditions(n_face):
            A = operator_rows(basis, rows.X, rows.terms, device)
            norm = torch.linalg.norm(A, dim=1)
            if rows.minus is not None:
                A = A - operator_rows(basis, rows.minus, rows.terms, device)
            level = levels["boundary"] if may else None
            if level == "maybe":
                level = "learn" if sampled and len(rows.rhs) >= ENOUGH else None
            elif level == "learn" and len(rows.rhs) < ENOUGH:
                raise InvalidInputError(
                    f"noise['boundary'] cannot be learned from {len(rows.rhs)} values; got 'learn'. Give their "
                    f"standard deviation, or at least {ENOUGH} values."
                )
            out.append((self._rows("boundary", A, rows.rhs, level, norm), rows.X))
        if pde._observations is not None:
            points, y, sigma = pde._observations
            A = operator_rows(basis, points, {(0,) * pde.n_dims: 1.0}, device)
            y = torch.as_tensor(y, device=device)
            if sigma is None:
                out.append((Rows(A, y, 0.1 * self.scale, True, "observations"), points))
            else:
                weight = torch.as_tensor(sigma, device=device)
                out.append((Rows(A, y, 1.0, False, "observations", weight=weight), points))
        return out

    def _rows(self, name, A, y, level, norm=None):
        y = torch.as_tensor(np.asarray(y), device=A.device)
        norm = torch.linalg.norm(A, dim=1) if norm is None else norm
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))
        floor = 3 * EXACT * self.scale * float(norm.square().mean().sqrt())
        if level is None:
            # Beside a noisy source an exact condition is one of the data; an exact source is what makes them.
            cause = self.levels["source"] is None and self.samples is None
            return Rows(A, y, EXACT * self.scale, False, f"exact {name}", weight=norm, cause=cause)
        if isinstance(level, str):
            start = self.choice.source_noise if name == "source" else None
            size = float(y.square().mean().sqrt()) or 1.0
            start = 1e-6 * size if level == "free" and not start else start or 0.05 * size
            return Rows(A, y, max(start, floor), True, name, floor)
        return Rows(A, y, max(level, floor), False, name, floor)

    def steps(self):
        """Climb the ladder of bases: yield a Step with the latest `Estimate`, criterion its distance to the last."""
        before, x = None, None
        for level in range(12):
            rung = self.choice.at(level)
            if rung is None:
                self.notes.append("max_features or the memory budget ended the refinement")
                return
            basis_of, X, n_face = rung
            basis = basis_of(None)
            groups = self.groups(basis, X, n_face)
            prior = StructuredPrior.of(basis)
            evidence = Evidence(prior, [rows for rows, _ in groups], self.scale)
            large = basis.n_features > 300
            starts = [evidence.start(0.3), evidence.start(1.0)] if x is None else [x]
            fit = evidence.maximise(starts[:1] if large else starts, max_iter=25 if large else 80)
            x = fit.x
            rng = np.random.default_rng(self.seed)
            theta, root = evidence.average(fit, rng, n_samples=8 if large else 24)
            now = Estimate(basis, fit, theta, root, groups)
            if before is not None:
                now.moved = self.distance(before, now)
            self.evidence = evidence
            logger.debug("rung %d: %d features, moved %.1e sd", level, basis.n_features, now.moved)
            yield Step(
                now, min(now.moved, 1e6), {"n_features": float(basis.n_features), "log_evidence": fit.log_evidence}
            )
            before = now

    def distance(self, a, b):
        """Root-mean-square difference of two estimates over that of the standard deviation."""
        X, zero = torch.as_tensor(self.fresh, device=self.call.device), (0,) * self.pde.n_dims
        Pb = b.basis.evaluate(X, zero)
        gap = Pb @ b.theta - a.basis.evaluate(X, zero) @ a.theta
        sd = torch.linalg.norm(Pb @ b.root, dim=1).square().mean().sqrt()
        size = (Pb @ b.theta).square().mean().sqrt()
        return float(gap.square().mean().sqrt() / torch.clamp(torch.maximum(sd, 1e-9 * size), min=1e-300))

    def misfit(self, now):
        """Leave-one-out residuals of noisy rows in standard deviations: their size, and whether a tone is left."""
        worst, tone, far = 1.0, None, None
        for rows, X in now.groups:
            level = now.fit.noise.get(rows.name)
            if rows.name.startswith("exact") or level is None:
                continue
            weight = torch.ones_like(rows.y) if rows.weight is None else rows.weight
            r = (rows.y - rows.A @ now.theta) / (level * weight)
            h = (torch.linalg.norm(rows.A @ now.root, dim=1) / (level * weight)).square()
            # With averaged hyper-parameters h may pass one: what a row alone decides says nothing of the misfit.
            keep = h < 0.9
            if int(keep.sum()) < 4 or level <= 1.01 * rows.floor:
                continue
            z = r[keep] / torch.sqrt(1 - h[keep])
            size, n = float(z.square().mean().sqrt()), int(keep.sum())
            if size > 1 + 4 / math.sqrt(2 * n) and size > worst:
                worst, far = size, rows.name
            if rows.name == "source":
                tone = self.tone(X[keep.cpu().numpy()], z)
        return worst, far, tone

    def tone(self, X, z):
        """Frequency of a tone left in residuals of unit size, beyond what chance makes among all frequencies."""
        n, d = X.shape
        top = {1: 8, 2: 4}.get(d, 2) * np.pi * n ** (1 / d) / (2 * self.choice.half)
        if self.call.max_frequency is not None:
            top = np.minimum(top, self.call.max_frequency)
        search = _Periodogram(torch.as_tensor(X), self.choice.lower, self.choice.upper, top, max_points=200_000)
        power = search.power((z - z.mean()).cpu()[:, None]) / n
        limit = math.log(power.numel()) + 9
        if float(power.max()) < limit:
            return None
        return search.peak(z.cpu()[:, None])

    def result(self, loop, started):
        """Certificates, status and the solution."""
        pde, call, now = self.pde, self.call, loop.value
        posterior = LeastSquaresPosterior(now.basis, now.theta, now.root)
        X, zero = torch.as_tensor(self.fresh, device=call.device), (0,) * pde.n_dims
        u, sd = posterior.apply(X, {zero: 1.0}), posterior.deviation(X, zero)
        size, spread = float(u.square().mean().sqrt()), float(sd.square().mean().sqrt())
        nothing = size < 1e-8 * self.scale and spread < 1e-8 * self.scale  # data of nothing but zeros
        estimate = spread / size if size > 0 and not nothing else (0.0 if nothing else math.inf)
        worst, far, tone = self.misfit(now)
        status, reason = self.status(now, estimate, worst, far, tone)
        learned = {rows.name: now.fit.noise[rows.name] for rows, _ in now.groups if not rows.name.startswith("exact")}
        residual, boundary = self.residuals(now)
        report = {
            "n_features": now.basis.n_features,
            "n_rows": sum(len(rows.y) for rows, _ in now.groups),
            "solver": "evidence",
            "why": self.choice.why,
            "reason": reason,
            "residual_validation": residual[0],
            "residual_max": residual[1],
            "boundary_residual": boundary,
            "difference_to_richer": now.moved if math.isfinite(now.moved) else None,
            "propagated_noise": estimate if math.isfinite(estimate) else None,
            "alias_margin": 0.0,
            "singularity": None,
            "carriers": [{"omega": w.tolist(), "weight": None} for w in np.asarray(now.basis.omega)],
            "seconds": {"total": time.perf_counter() - started},
            "notes": self.notes,
            "noise": learned,
            "misfit": worst,
            "log_evidence": now.fit.log_evidence,
        }
        return PDESolution(
            status=status,
            n_iter=loop.n_iter,
            history=loop.history,
            settings=call.settings,
            error_estimate=estimate,
            report=report,
            coefficients=now.theta.detach().cpu().numpy(),
            factor=1.0,
            posterior=posterior,
            region=pde.domain if type(pde.domain).__name__ == "Region" else None,
        )

    def residuals(self, now):
        """Relative residuals of the source's rows, root mean square and largest, and the largest of the conditions."""
        inside, edge = (0.0, 0.0), 0.0
        for rows, _ in now.groups:
            r = rows.y - rows.A @ now.theta
            scale = float((rows.y.abs() + (rows.A @ now.theta).abs()).square().mean().sqrt()) or 1.0
            rms, peak = float(r.square().mean().sqrt()) / scale, float(r.abs().max()) / scale
            if rows.name.endswith("source"):
                inside = (rms, peak)
            elif rows.name.endswith("boundary"):
                edge = max(edge, rms)
        return inside, edge

    def status(self, now, estimate, worst, far, tone):
        """The word and its reason."""
        if self.choice.alias:
            return "alias_warning", (
                f"{self.choice.alias}; pass max_frequency if the source is known to hold none, or add samples off the "
                "lattice"
            )
        if tone is not None:
            return "not_converged", (
                f"the residuals of the source hold a tone at {np.array2string(tone, precision=4)} rad / unit that the "
                "features lack; add samples, or pass frequencies"
            )
        if far is not None:
            return "not_converged", (
                f"leave-one-out residuals of the {far} are {worst:.2g} of their standard deviation: the noise given "
                "may be too small, or the features too few"
            )
        for rows, _ in now.groups:
            level = now.fit.noise[rows.name]
            if rows.learn and len(rows.y) >= ENOUGH and level > 0.7 * float(rows.y.square().mean().sqrt()) > 0:
                return "not_converged", (
                    f"the features explain little of the {rows.name}: the noise found, {level:.3g}, is most of it. Add "
                    "samples, or pass frequencies"
                )
        if not math.isfinite(estimate) or estimate > 1.0:
            return "near_singular", (
                f"the data leave u free: its standard deviation is {estimate:.2g} of its size. Add conditions or data"
            )
        if not now.moved < 1.0:
            return "not_converged", (
                f"u moves by {now.moved:.1g} standard deviations on a richer basis; raise max_features"
            )
        if self.samples is None:  # an exact source: the equation must hold between the points, too
            X = self.fresh
            r = operator_rows(now.basis, X, self.pde.coefficient_values(X), self.call.device) @ now.theta
            f = self.pde._source(X)
            scale = float(np.sqrt(np.mean(f**2))) + self.scale * symbol_size(
                self.pde.coefficient_values(X), np.pi / (2 * self.choice.half)
            )
            rms = float(np.sqrt(np.mean((r.cpu().numpy() - f) ** 2))) / scale
            if rms > 1e-4:
                return "not_converged", f"fresh points show a residual of {rms:.0e}; the source may be rough or noisy"
        return "converged", "the data are explained within their noise, and a richer basis agrees"
