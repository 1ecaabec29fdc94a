r"""What is said of learned parameters: certificates, other maxima, the status and its reason.

Pitfalls  A status must be true: a parameter at its bound, one that the observations leave free, two maxima that explain
          them alike, observations that the equation cannot explain are each named.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from sciml.solvers.gp_pde.collocation import symbol_size
from sciml.solvers.gp_pde.parameter_model import LearnedFunction
from sciml.solvers.gp_pde.points import condition_rows
from sciml.solvers.gp_pde.posterior import LeastSquaresPosterior
from sciml.solvers.gp_pde.result import PDESolution

__all__ = ["report_parameters"]

CLEAR = 6.0  # nats below the best at which another maximum no longer counts
VAGUE = 0.25  # sd of the logarithm of a function beyond which it is as good as free


def report_parameters(solver, search, answer, maxima, moved, started):
    """Certificates, status and the solution."""
    vector, call, pde = solver.vector, solver.call, solver.pde
    m = len(pde._observations[1])
    basis = answer.fit.given.basis
    posterior = LeastSquaresPosterior(basis, answer.theta, answer.root)
    bound = vector.bind(answer.p)
    X = solver.fresh()
    points = torch.as_tensor(X, device=call.device)
    zero = (0,) * pde.n_dims
    u = posterior.apply(points, {zero: 1.0})
    sd = posterior.deviation(points, zero)
    size = float(u.square().mean().sqrt())
    estimate = float(sd.square().mean().sqrt()) / size if size > 0 else math.inf
    residual, peak = _residual(solver, bound, posterior, answer)
    modes = _modes(solver, answer, maxima, search)
    observed = posterior.apply(torch.as_tensor(search.model.points, device=call.device), {zero: 1.0})
    z = ((search.model.values - observed) / search.model.relative / answer.tau).cpu().numpy()
    misfit = float(np.sqrt(np.mean(z**2)))
    status, reason = _status(solver, search, answer, modes, moved, residual, misfit, size)
    numbers = {n: float(answer.p[i]) for i, n in enumerate(vector.numbers)}
    stds = {n: float(answer.std[i]) for i, n in enumerate(vector.numbers)}
    for name, s in vector.slices.items():
        e = vector.functions[name]
        lam, V = np.linalg.eigh(answer.cov[s, s])
        numbers[name] = LearnedFunction(e, answer.p[s])
        stds[name] = LearnedFunction(e, answer.p[s], V * np.sqrt(np.maximum(lam, 0.0)))
    k = len(vector.numbers)
    report = {
        "n_features": basis.n_features,
        "n_rows": len(answer.fit.given.y) + m,
        "solver": "inverse",
        "why": f"{solver.choice.why}; {len(maxima)} maxima climbed",
        "reason": reason,
        "residual_validation": residual,
        "residual_max": peak,
        "boundary_residual": _boundary(solver, bound, posterior, size),
        "difference_to_richer": moved if math.isfinite(moved) else None,
        "propagated_noise": estimate,
        "alias_margin": 0.0,
        "singularity": None,
        "carriers": [{"omega": w.tolist(), "weight": None} for w in basis.omega],
        "seconds": {"total": time.perf_counter() - started},
        "notes": solver.notes,
        "parameters_cov": answer.cov[:k, :k].tolist(),
        "modes": modes,
        "noise": {"observations": answer.tau if not search.model.sigma_known else None, **search.noise},
        "misfit": misfit,
        "log_evidence": answer.log_evidence,
    }
    return PDESolution(
        status=status,
        n_iter=solver.n_iter,
        history=solver.history,
        settings=call.settings,
        error_estimate=estimate,
        report=report,
        coefficients=answer.theta.detach().cpu().numpy(),
        factor=1.0,
        posterior=posterior,
        region=pde.domain if type(pde.domain).__name__ == "Region" else None,
        parameters=numbers,
        parameters_std=stds,
    )


def _residual(solver, bound, posterior, answer):
    """Root mean square and largest residual of the equation at fresh points against its terms."""
    X = bound._source.points if bound._source.is_sampled else solver.fresh()
    points = torch.as_tensor(X, device=solver.call.device)
    terms = bound.coefficient_values(X)
    f = bound._source.values if bound._source.is_sampled else bound._source(X)
    r = posterior.apply(points, terms).cpu().numpy() - f
    parts = sum(np.abs(c) * np.abs(posterior.apply(points, {a: 1.0}).cpu().numpy()) for a, c in terms.items())
    box = solver.pde.domain.box
    size = float(posterior.apply(points, {(0,) * box.n_dims: 1.0}).square().mean().sqrt())
    scale = float(np.sqrt(np.mean((parts + np.abs(f)) ** 2)))
    scale = max(scale, size * symbol_size(terms, np.pi / (box.upper - box.lower))) or 1.0  # L u may vanish by itself
    return float(np.sqrt(np.mean(r**2))) / scale, float(np.max(np.abs(r))) / scale


def _boundary(solver, bound, posterior, size):
    """Largest relative residual of the conditions."""
    worst, box = 0.0, solver.pde.domain.box
    for rows in condition_rows(bound, {1: 1, 2: 100}.get(solver.pde.n_dims, 200), np.random.default_rng(2)):
        r = posterior.apply(torch.as_tensor(rows.X, device=solver.call.device), rows.terms)
        if rows.minus is not None:
            r = r - posterior.apply(torch.as_tensor(rows.minus, device=solver.call.device), rows.terms)
        r = r.cpu().numpy() - rows.rhs
        scale = float(np.sqrt(np.mean(rows.rhs**2))) + size * symbol_size(rows.terms, np.pi / (box.upper - box.lower))
        worst = max(worst, float(np.sqrt(np.mean(r**2))) / (scale or 1.0))
    return worst


def _modes(solver, answer, maxima, search):
    """Maxima within `CLEAR` nats of the best that are well apart from it, with their probabilities."""
    k = len(solver.vector.numbers)
    best = maxima[0].objective
    out = [{"values": dict(zip(solver.vector.numbers, answer.p[:k].tolist(), strict=True)), "log_evidence": best}]
    spread = np.maximum(answer.std, 1e-300)
    for fit in maxima[1:]:
        apart = k and np.max(np.abs(fit.p[:k] - answer.p[:k]) / spread[:k]) > 4
        if apart and fit.objective > best - CLEAR:
            values = dict(zip(solver.vector.numbers, fit.p[:k].tolist(), strict=True))
            out.append({"values": values, "log_evidence": fit.objective})
    weight = np.exp([o["log_evidence"] - best for o in out])
    for mode, w in zip(out, weight / weight.sum(), strict=True):
        mode["probability"] = float(w)
    return out


def _status(solver, search, answer, modes, moved, residual, misfit, size):
    """The word and its reason."""
    vector = solver.vector
    span = vector.high - vector.low
    m = len(search.model.values)
    for i, name in enumerate(vector.numbers):
        if answer.std[i] > 0.2 * span[i] or not math.isfinite(answer.std[i]):
            return "near_singular", (
                f"the observations leave {name} free: its standard deviation {answer.std[i]:.2g} is a large part "
                f"of its bounds [{vector.low[i]:g}, {vector.high[i]:g}]. Observe more, or fix another parameter"
            )
    for i, name in enumerate(vector.numbers):
        edge = min(answer.p[i] - vector.low[i], vector.high[i] - answer.p[i])
        if edge < 1e-3 * span[i] and edge < answer.std[i] or edge <= 1e-9 * span[i]:
            return "not_converged", f"{name} = {answer.p[i]:.6g} lies at a bound of its range; widen the bounds"
    for name, s in vector.slices.items():
        e = vector.functions[name]
        values = e.values(solver.fresh(), answer.p[s])
        level = np.sqrt(
            np.mean(
                np.linalg.norm(
                    e.features(solver.fresh()) @ np.linalg.cholesky(answer.cov[s, s] + 1e-14 * np.eye(e.size)), axis=1
                )
                ** 2
            )
        )
        if level > min(VAGUE, 0.5 * e.spread):
            return "near_singular", f"the observations leave {name}(x) free within its bounds. Observe more points"
        if values.min() < 0.99 * e.spec.lower or values.max() > 1.01 * e.spec.upper:
            return "not_converged", f"{name}(x) leaves its bounds [{e.spec.lower:g}, {e.spec.upper:g}]; widen them"
    if len(modes) > 1 and modes[1]["probability"] > 0.02:
        return "not_converged", (
            f"several values explain the observations: {[mode['values'] for mode in modes]}. Narrow the bounds, or "
            "observe more points"
        )
    if solver.choice.alias:
        return "alias_warning", f"{solver.choice.alias}; pass max_frequency if none are there"
    if not moved < 0.5:
        return "not_converged", (
            f"parameters or u still move by {moved:.1g} standard deviations on a richer basis; raise max_features"
        )
    if search.model.sigma_known and misfit > 1 + 4 / math.sqrt(2 * max(m - 1, 1)):
        return "not_converged", (
            f"the observations miss the solution by {misfit:.2g} of their standard deviation: it may be too small, "
            "or the equation may be another"
        )
    if not search.model.sigma_known and answer.tau > 0.5 * float(search.model.values.std()):
        return "not_converged", (
            f"the solution explains too little of the observations: the noise found is {answer.tau:.2g}. The "
            "bounds may exclude the true parameters"
        )
    if not solver.pde._source.is_sampled and residual > 1e-4:
        return "not_converged", f"fresh points show a residual of {residual:.0e}; the source may be rough or noisy"
    return "converged", "parameters and u agree on a richer basis within a part of their standard deviations"
