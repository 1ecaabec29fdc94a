r"""How far the last iterate of the published method is off: fresh points, and the default method.

What the objective drives to zero at its nodes proves nothing between them, and the answer of a few thousand steps is
far from rounding.  The default method solves the same problem to rounding in milliseconds, so that the difference to it
is the error, up to its own estimate, by the triangle inequality.

Cost      one call of `solve_pde`; kernel evaluations at 600 points.
Pitfalls  Where a nonlinear problem has several solutions the default method may have found another one; the estimate is
          then too large, never too small.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch

from sciml.exceptions import SciMLError
from sciml.iterate import Status
from sciml.solvers.gp_pde.collocation import symbol_size
from sciml.solvers.gp_pde.points import condition_rows, interior_points

__all__ = ["certificate", "verdict"]

N_FRESH = 600  # points at which the answer is judged; the nodes are not among them


def certificate(pde, call, posterior):
    """Judge a posterior at fresh points, and against the default method, which reaches rounding where this one cannot.

    Parameters
    ----------
    pde : PDE
        The problem.
    call : Call
        Settings.
    posterior : GridPosterior
        What is judged.

    Returns
    -------
    dict
        "error_estimate": relative L2 difference to the default method's answer plus the estimate of that; "residual",
        "residual_max", "boundary": relative, at points that the objective did not see; and what the report needs.
    """
    box, d = pde.domain.box, pde.n_dims
    low = np.pi / (box.upper - box.lower)
    X = interior_points(pde.domain, N_FRESH, call.rng, uniform=True)
    points = torch.as_tensor(X, device=call.device)
    terms, zero = pde.coefficient_values(X), (0,) * d
    slopes = [tuple(int(i == j) for i in range(d)) for j in range(d)] if pde._nonlinear is not None else []
    u = posterior.derivatives(points, list(dict.fromkeys([*terms, *slopes, zero])))
    u = {alpha: v.cpu().numpy() for alpha, v in u.items()}
    f = pde._source(X)
    parts = [c * u[alpha] for alpha, c in terms.items()]
    if pde._nonlinear is not None:
        grad = np.stack([u[alpha] for alpha in slopes], axis=1)[:, None]
        parts.append(pde._nonlinear.values(X, u[zero][:, None], grad)[:, 0])
    size = _rms(u[zero])
    r = sum(parts) - f
    scale = _rms(sum(np.abs(p) for p in parts) + np.abs(f))
    scale = float(max(scale, size * symbol_size(terms, low))) or 1.0
    found = {"size": size, "residual": _rms(r) / scale, "boundary": 0.0}
    found["residual_max"] = float(np.max(np.abs(r))) / scale
    for group in condition_rows(pde, {1: 1, 2: 150}.get(d, 300), call.rng):
        b = posterior.apply(torch.as_tensor(group.X, device=call.device), group.terms).cpu().numpy() - group.rhs
        scale = _rms(group.rhs) + size
        found["boundary"] = max(found["boundary"], _rms(b) / (scale or 1.0))
    found["spread"] = float(posterior.deviation(points[::2], zero).square().mean().sqrt())
    return found | _compared(pde, call, X, u[zero])


def _compared(pde, call, X, u):
    """The error estimate: what separates u from the default method's answer, and that one's own estimate."""
    from sciml.solvers.gp_pde.solve import solve_pde  # which imports this module

    nothing = {"error_estimate": math.inf, "difference": math.inf, "singularity": None, "status": "not_converged"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern an answer that the caller did not ask for
            other = solve_pde(
                pde, tol=max(1e-3 * call.tol, 1e-10), on_failure="ignore", memory=call.budget, device=call.device
            )
    except SciMLError as error:
        return nothing | {"notes": [f"no other method could be asked how far off this is: {error}"]}
    truth = other(X)
    size = _rms(truth)
    gap = _rms(truth - u)
    difference = gap / size if size > 0 else (0.0 if gap == 0 else math.inf)
    return {
        "error_estimate": difference + other.error_estimate,
        "difference": difference,
        "singularity": other.report["singularity"],
        "status": other.status,
        "notes": [f"compared with method='auto': {other.status}, error estimate {other.error_estimate:.0e}"],
    }


def _rms(v):
    """Root mean square, which does not overflow where its square would."""
    peak = float(np.max(np.abs(v), initial=0.0))
    return peak * float(np.sqrt(np.mean((v / peak) ** 2))) if peak > 0 and math.isfinite(peak) else peak


def verdict(found, loop, tol):
    """The status of a certificate, and its reason.

    Parameters
    ----------
    found : dict
        From `certificate`.
    loop : sciml.iterate.Run
        How the steps ended.
    tol : float
        Bound on the error estimate.

    Returns
    -------
    str, str
    """
    if found["status"] in ("near_singular", "alias_warning"):
        return found["status"], "the default method says so of this problem; see its reason with method='auto'"
    if found["error_estimate"] <= tol and max(found["residual"], found["boundary"]) <= 10 * tol:
        return "converged", "the error estimate is at most tol"
    ended = {Status.MAX_ITER: f"{loop.n_iter} steps were taken"}.get(loop.status, loop.reason)
    return "not_converged", (
        f"{ended}; the residual is {found['residual']:.0e} at fresh points and {loop.history['residual'][-1]:.0e} at "
        f"the nodes. Raise n_steps, or use method='auto'"
    )
