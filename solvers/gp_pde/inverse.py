r"""Unknown parameters of a differential equation, from observations of its solution.

.. math:: \hat p = \arg\max_p \log p(y \mid f, g, p), \qquad \text{sd}^{-2} = -\partial_p^2 \log p(y \mid f, g, \hat p),

p being numbers, or the coefficients of the logarithm of an unknown function. A scan finds every maximum
(`parameter_search`), Gauss-Newton steps climb it, and the climb is repeated on richer bases until the parameters and u
stop moving against their standard deviations.

Cost      a hundred small factorisations for one unknown number; seconds on a line, up to a minute in two dimensions.
Pitfalls  Too small a basis biases the parameters by many standard deviations, which no residual at the collocation
          points shows: the richer basis does.  Two parameters of which the data see only the product have a flat
          density: the status says so.

References
----------
C. Rasmussen, C. Williams, Gaussian processes for machine learning, 2006. A. Stuart, Inverse problems: a Bayesian
perspective, 2010.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.iterate import run
from sciml.linalg.threads import thread_limit
from sciml.solvers.gp_pde.basis_choice import BasisChoice, corner_values
from sciml.solvers.gp_pde.evidence import Evidence, HyperFit, StructuredPrior
from sciml.solvers.gp_pde.parameter_model import LearnedFunction, ParameterModel, ParameterVector
from sciml.solvers.gp_pde.parameter_report import report_parameters
from sciml.solvers.gp_pde.parameter_search import Density, Search, climb_steps, scan_grid
from sciml.solvers.gp_pde.points import interior_points

__all__ = ["LearnedFunction", "route"]

logger = logging.getLogger(__name__)

BROAD = 3.0  # prior sd of coefficients against the size of u, where the equation leaves little free
SLACK = 1e-12, 1e-9, 1e-6  # noise of exact equations against their rows, tried in this order
LEAST = 0.05  # least prior sd of a block against the size of u
FEW = 6  # free directions of u up to which that prior need not be learned


@dataclass
class _Answer:
    """A maximum with its posterior: parameters with covariance, u with its own."""

    fit: object
    p: np.ndarray
    cov: np.ndarray
    theta: torch.Tensor
    root: torch.Tensor
    tau: float
    freedom: float
    log_evidence: float
    notes: list = field(default_factory=list)

    @property
    def std(self):
        """Standard deviations of p."""
        return np.sqrt(np.maximum(np.diag(self.cov), 0.0))


def route(pde, call, options=None):
    """Estimate the parameters of a linear problem, or u alone where there are none; see `solve_pde`.

    Parameters
    ----------
    pde : PDE
        With `observations`, and `parameters` or not.
    call : Call
        Settings of `solve_pde`.
    options : None
        Not used.

    Returns
    -------
    PDESolution
        With ``parameters`` and ``parameters_std``; its own standard deviation holds that of the parameters.

    Raises
    ------
    InvalidInputError
        When the problem is nonlinear or a system, has no observations, or fewer than parameters.
    """
    if not pde.is_linear or pde.n_unknowns > 1:
        raise InvalidInputError(
            "parameters must belong to a linear equation with one unknown; this problem is "
            f"{'nonlinear' if not pde.is_linear else 'a system'}. Bind numbers with pde.bind, or linearise."
        )
    if pde._observations is None:
        raise InvalidInputError(
            f"observations must be given where parameters are to be learned ({sorted(pde.parameters)}); got None. Pass "
            "observations=(X_o, u_o, sigma)."
        )
    started = time.perf_counter()
    vector = ParameterVector(pde)
    m = len(pde._observations[1])
    if m <= len(vector.numbers) + len(vector.functions):
        raise InvalidInputError(
            f"observations must outnumber the parameters; got {m} for {sorted(pde.parameters)}. Observe u at more "
            "points, or fix parameters with pde.bind."
        )
    with thread_limit(1):
        solver = _Solver(pde, vector, call)
        return solver.solve(started)


class _Solver:
    """Bases, scan, climbs and certificate of one problem."""

    def __init__(self, pde, vector, call):
        self.pde, self.vector, self.call = pde, vector, call
        self.corners = [vector.bind(p) for p in corner_values(vector)]
        source = pde._source
        samples = (source.points, source.values) if source.is_sampled else None
        self.noisy_source = call.noise is not None
        self.choice = BasisChoice(
            self.corners, vector.bind, call, noise=self.noisy_source, samples=samples, points=pde._observations[0]
        )
        self.seed = int(call.rng.integers(2**31))
        self.history, self.notes, self.n_iter = None, [], 0
        self.learned, self.exact = None, SLACK[0]

    def noise_levels(self):
        """Levels of what is not exact, where the search for them begins."""
        noise, out = self.call.noise, {}
        f = self.pde._source
        parts = noise if isinstance(noise, dict) else {"source": noise}
        given = parts.get("source")
        if f.is_sampled:  # samples are never quite exact to a basis: their level is free
            size = float(np.sqrt(np.mean(f.values**2))) or 1.0
            start = self.choice.source_noise or 1e-6 * size
            out["source"] = float(given) if isinstance(given, int | float) else max(start, 1e-10 * size)
        return out

    def model(self, level):
        """Model and search on a rung, or None."""
        rung = self.choice.at(level)
        if rung is None:
            return None
        basis_of, X, n_face = rung
        model = ParameterModel(self.vector, basis_of, X, n_face, self.call.device, self.seed, self.exact)
        noise = self.noise_levels() if self.learned is None else dict(self.learned[1])
        return Search(model, self.prior_std(model), noise)

    def prior_std(self, model):
        """Standard deviations of the coefficients: learned, or broad."""
        scale, learned = model.scale, self.learned

        def std(basis):
            prior = StructuredPrior.of(basis)
            if learned is None:
                return np.full(basis.n_features, BROAD * scale)
            x, d = learned[0], prior.degree.shape[1]
            Q = len(x) // (1 + d)
            full = np.concatenate(
                [
                    np.append(x[:Q], np.full(max(0, prior.n_blocks - Q), math.log(scale)))[: prior.n_blocks],
                    np.append(x[Q:], np.full(max(0, prior.n_blocks - Q) * d, math.log(0.2)))[: prior.n_blocks * d],
                ]
            )
            return np.exp(np.maximum(prior.log_std(full), -300.0))

        return std

    def learn_prior(self, search, ps):
        """Hyper-parameters of u and noise levels at the best of a few p, by the evidence of all rows."""
        best = None
        for p in ps:
            basis, rows, _ = search.model.rows(p, self.noise_levels() if self.learned is None else self.learned[1])
            rows.append(search.model.observed(basis, 0.1 * search.model.scale))
            fixed = isinstance(self.call.noise, int | float)
            for r in rows:
                r.learn = r.learn and not (r.name == "source" and fixed)
            prior = StructuredPrior.of(basis)
            # A block that is not needed at this p may be at another: none may vanish.
            evidence = Evidence(prior, rows, search.model.scale, least=LEAST)
            steps = 40 if len(evidence.prior.block) < 250 else 15
            fit = evidence.maximise([self._start(evidence)], max_iter=steps)
            if best is None or fit.log_evidence > best[0]:
                x = fit.x[len(evidence.learned) :]
                levels = {r.name: fit.noise[r.name] for r in rows if r.name in ("source", "boundary")}
                best = (fit.log_evidence, x, levels)
        self.learned = best[1:]
        search.prior_std, search.noise = self.prior_std(search.model), dict(best[2])

    def _start(self, evidence):
        x = evidence.start(0.2)
        if self.learned is not None and len(self.learned[0]) == evidence.prior.n_params:
            x[len(evidence.learned) :] = self.learned[0]
        return x

    def solve(self, started):
        """All of it."""
        search, level, values = self.model(0), 0, []
        while True:  # until some p explains the observations: too small a basis may see none
            free = self.look(search)
            maxima = self.scan(search)
            # Conditions that no function of this basis meets exactly leave none: they are met nearly, first.
            for slack in () if free or self.explains(search, maxima[0]) or self.pde._source.is_sampled else SLACK[1:]:
                model = search.model
                before, model.exact = model.exact, slack
                free = self.look(search)
                looser = self.scan(search)
                if looser[0].objective > maxima[0].objective + 5:
                    maxima, self.exact = looser, slack
                else:
                    model.exact = before
                if self.explains(search, maxima[0]):
                    break
            values.append(maxima[0].objective)
            idle = free and len(values) > 1 and values[-1] < values[-2] + 5
            richer = None if self.explains(search, maxima[0]) or level >= 5 or idle else self.model(level + 1)
            if richer is None:
                break
            search, level = richer, level + 1
        answer, last = None, level + 5
        while True:
            fit = maxima[0]
            if self.open:
                self.learn_prior(search, [fit.p])
                fit = self.climb(search, search.evaluate(fit.p, fit.hyper))
                maxima[0] = fit
            new = self.posterior(search, fit)
            moved = math.inf if answer is None else self.distance(answer, new)
            logger.debug("rung %d: p %s, moved %.1e sd", level, new.p[:4], moved)
            previous, answer = answer, new
            if previous is not None and moved < 0.15:
                break
            if level >= last:
                break
            level += 1
            richer = self.model(level)
            if richer is None:
                self.notes.append("max_features or the memory budget ended the refinement")
                break
            search = richer
            start = search.evaluate(fit.p, fit.hyper)
            while self.exact > SLACK[0]:  # as exact as the richer basis can
                search.model.exact = max(SLACK[0], self.exact / 100)
                stricter = search.evaluate(fit.p, fit.hyper)
                if stricter.objective < start.objective - 1:
                    search.model.exact = self.exact
                    break
                start, self.exact = stricter, search.model.exact
            climbed = self.climb(search, start)
            if climbed.objective > fit.objective + 8 and level <= last - 3:  # the scan was done with too small a basis
                maxima = self.scan(search, extra=[climbed])
            else:
                maxima = [climbed, *maxima[1:]]
        return report_parameters(self, search, answer, maxima, moved, started)

    def look(self, search):
        """How many directions of u the equation leaves free; many ask for a learned prior."""
        places = corner_values(self.vector)
        free = search.evaluate(places[0], search.start_hyper()).density.n_free
        self.open = free > FEW or self.pde._source.is_sampled
        if self.open:
            large = search.model.basis_of(places[0]).n_features > 250
            self.learn_prior(search, places[:1] if large else places[:3])
        return free

    def explains(self, search, fit):
        """Whether the observations lie within their noise; where it is unknown, within half of their spread."""
        model, density = search.model, fit.density
        if model.sigma_known:
            free = Density(fit.given, model.values, model.relative, None, 1e-10)
            return free.tau < 1 + 4 / math.sqrt(2 * len(model.values))
        return density.tau < 0.5 * float(model.values.std())

    def scan(self, search, extra=()):
        """All maxima worth keeping, the best first."""
        P = search.model.basis_of(corner_values(self.vector)[0]).n_features
        budget = int(np.clip(2.5e9 / P**3, 24, 400))
        X = search.model.X
        fits = [search.evaluate(p, search.start_hyper()) for p in scan_grid(self.vector, X, budget)]
        values = np.array([f.objective for f in fits])
        self.scan_range = float(values.max() - values.min())
        order, kept = np.argsort(-values), []
        m = len(self.vector.numbers) + len(self.vector.functions)
        points = np.array([f.p for f in fits])
        spread = np.ptp(points, axis=0)
        spread[spread == 0] = 1.0
        near = 1.5 / max(2.0, len(fits) ** (1 / m)) if m > 1 else 0.0
        for i in order:
            gap = [np.max(np.abs(points[i] - points[j]) / spread) for j in kept]
            peak = all(values[i] >= values[j] for j in (i - 1, i + 1) if 0 <= j < len(values)) if near == 0 else True
            if peak and (not gap or min(gap) > near):
                kept.append(i)
            if len(kept) >= (5 if P < 300 else 3 if P < 700 else 2):
                break
        climbed = [self.climb(search, fits[i]) for i in kept] + list(extra)
        climbed.sort(key=lambda f: -f.objective)
        out = []
        for fit in climbed:  # one of each: several starts may reach the same maximum
            gap = [np.max(np.abs(fit.p - other.p) / spread, initial=0.0) for other in out]
            if not gap or min(gap) > 1e-3:
                out.append(fit)
        return out

    def climb(self, search, fit):
        """Gauss-Newton steps to a maximum."""
        if not self.vector.size:
            self.history, self.best_objective = {}, fit.objective
            return fit
        loop = run(
            climb_steps(search, fit, learn=True),
            name="solve_pde",
            tol=1e-3,
            max_iter=self.call.max_iter or 30,
            callback=self.call.callback,
            on_failure="ignore",
            progress=self.call.progress,
            dtype="float64",
        )
        if self.history is None or loop.value.objective >= self.best_objective:
            self.history, self.n_iter, self.best_objective = loop.history, loop.n_iter, loop.value.objective
        return loop.value

    def posterior(self, search, fit):
        """Covariance of p and u at a maximum."""
        linear, hyper, tau, D, n_free, theta = search.solve_linear(fit, True)
        mean, root = linear.mean, linear.covariance_root()
        k, known = len(self.vector.numbers), search.model.sigma_known
        m = len(search.model.values)
        given, notes = fit.given, []
        if self.vector.functions and len(search.at):
            found = HyperFit(search.at, 0.0, mean, {}, linear)
            mean, root = search.evidence.average(found, np.random.default_rng(0))
        p = fit.p.copy()
        shift = mean[n_free:].cpu().numpy() + search._centre(fit.p) - fit.p
        if self.vector.functions:
            p = self.vector.clipped(p + shift)
        freedom = max(m - float(linear.effective_dof), 0.5)
        cov = (root[n_free:] @ root[n_free:].T).cpu().numpy()
        if k and not self.vector.functions:
            exact = self._curvature(search, fit, cov)
            if exact is not None:
                p, new = exact
                ratio = np.sqrt(np.diag(new) / np.diag(cov))
                root = torch.cat([root[:n_free], root[n_free:] * torch.as_tensor(ratio, device=root.device)[:, None]])
                cov = new
        if not known:  # Student's bands, and the noise's share that the parameters took
            n_left = fit.density.freedom
            share = n_left / max(n_left - k, 0.5) if not self.vector.functions else 1.0
            nu = max((n_left - k) if not self.vector.functions else freedom, 2.5)
            factor = math.sqrt(share * nu / (nu - 2))
            root, cov, tau = root * factor, cov * factor**2, tau * math.sqrt(share)
        free = fit.density.free
        rest = given.root - (given.root @ free) @ free.T  # what the observations do not see
        u_root = torch.cat([rest, (given.root @ free) @ root[:n_free] + D @ root[n_free:]], dim=1)
        if u_root.shape[1] > u_root.shape[0]:
            u_root = torch.linalg.qr(u_root.T, mode="r").R.T
        theta = given.theta + given.root @ (free @ mean[:n_free]) + D @ torch.as_tensor(p - fit.p, device=D.device)
        log_evidence = fit.objective
        if len(p):
            sign, logdet = np.linalg.slogdet(cov / np.outer(search.model.vector.spans, search.model.vector.spans))
            log_evidence = fit.objective + 0.5 * logdet if sign > 0 else fit.objective
        fit = replace(fit, hyper=hyper)
        return _Answer(fit, p, cov, theta, u_root, tau, freedom, log_evidence, notes)

    def _curvature(self, search, fit, cov):
        """Newton's point and inverse curvature of the density, by differences along the axes of the linear answer.

        None where a direction is so free that half a standard deviation is no small step.
        """
        lam, V = np.linalg.eigh(cov / np.outer(self.vector.spans, self.vector.spans))
        R = self.vector.spans[:, None] * V * np.sqrt(np.maximum(lam, 0.0))  # columns: one standard deviation each
        reach = np.max(np.abs(R) / self.vector.spans[:, None], axis=0)
        room = np.minimum(self.vector.high - fit.p, fit.p - self.vector.low) / self.vector.spans
        if not np.all(np.isfinite(reach)) or reach.max() > 0.1 or np.any(reach <= 0) or room.min() <= 0.5 * reach.max():
            return None
        k, h, E = len(lam), 0.5, np.eye(len(lam))

        def value(xi):
            return search.evaluate(fit.p + R @ (h * xi), fit.hyper).objective

        centre = fit.objective
        up, down = [value(E[i]) for i in range(k)], [value(-E[i]) for i in range(k)]
        H, g = np.zeros((k, k)), np.zeros(k)
        for i in range(k):
            g[i] = (up[i] - down[i]) / (2 * h)
            H[i, i] = (2 * centre - up[i] - down[i]) / h**2
            for j in range(i):
                both = value(E[i] + E[j]) + value(-E[i] - E[j]) - value(E[i] - E[j]) - value(E[j] - E[i])
                H[i, j] = H[j, i] = -both / (4 * h**2)
        # In these units the curvature is near one; where it is far from it the differences saw something else.
        if not np.all(np.isfinite(H)) or not 0.2 < np.linalg.eigvalsh(H)[0] <= np.linalg.eigvalsh(H)[-1] < 5.0:
            return None
        inverse = np.linalg.inv(H)
        step = inverse @ g
        if np.max(np.abs(step)) > 1.0:
            return None
        return self.vector.clipped(fit.p + R @ step), R @ inverse @ R.T

    def distance(self, a, b):
        """How far two answers are apart, in standard deviations: of the parameters, and of u."""
        k = len(self.vector.numbers)
        gaps = [0.0]
        if k:
            gaps.append(float(np.max(np.abs(a.p[:k] - b.p[:k]) / np.maximum(b.std[:k], 1e-300))))
        X = torch.as_tensor(self.fresh(), device=self.call.device)
        zero = (0,) * self.pde.n_dims
        ua, ub = (s.fit.given.basis.evaluate(X, zero) @ s.theta for s in (a, b))
        sd = torch.linalg.norm(b.fit.given.basis.evaluate(X, zero) @ b.root, dim=1)
        size = float(ub.square().mean().sqrt())
        gaps.append(
            float((ua - ub).square().mean().sqrt() / max(float(sd.square().mean().sqrt()), 1e-9 * size, 1e-300))
        )
        for name, s in self.vector.slices.items():
            e = self.vector.functions[name]
            F = e.features(X.cpu().numpy())
            sd = np.linalg.norm(F @ np.linalg.cholesky(b.cov[s, s] + 1e-14 * np.eye(e.size)), axis=1)
            gaps.append(float(np.sqrt(np.mean((F @ (a.p[s] - b.p[s])) ** 2) / np.mean(sd**2))))
        return max(gaps)

    def fresh(self):
        """Points at which answers are compared."""
        if not hasattr(self, "_fresh"):
            self._fresh = interior_points(self.pde.domain, 600, np.random.default_rng(1), uniform=True)
        return self._fresh
