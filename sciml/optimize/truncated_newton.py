r"""Truncated Newton for a batch: every sample has its own direction, step length and end.

.. math:: \|H p + G\| \le \eta \|G\|, \qquad x^{+} = x + t p

Notation  G gradient, H Hessian, p direction by conjugate gradients, t step length, eta forcing term.
Cost      an evaluation (value, gradient, linearisation) for each trial point of the samples at work, and a Hessian
          product for each inner iteration; a trial point that is accepted is the next point and not evaluated again.
"""

import torch

from sciml.optimize.conjugate_gradients import solve
from sciml.optimize.results import BatchedMinimum
from sciml.optimize.rowwise import batch, column, dot, norm, per_sample


def newton_cg(at, x0, *, gtol, max_iter):
    r"""Minimise every sample's function by Newton's method with inexact directions and Armijo's rule [1]_.

    Parameters
    ----------
    at : callable
        ``at(x, rows)`` returns a point for the samples `rows`, int64 (k,), at `x`, shape (k, ...), with ``value``,
        shape (k,), ``gradient``, shape (k, ...), and ``hvp(v, rows_in_point)``, products with the Hessians of those
        samples of this point.
    x0 : torch.Tensor, shape (B, ...)
        Starting points.
    gtol : float or torch.Tensor, shape (B,)
        A sample is done when the norm of its gradient is at most this.
    max_iter : int
        Newton steps at most.

    Returns
    -------
    BatchedMinimum
        `L` and `secant_min` hold the largest and smallest curvature that the inner directions met.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, Numerical Optimization, 2006, section 7.1.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.optimize import newton_cg
    >>> def at(x, rows):
    ...     grow = x.exp()
    ...     return SimpleNamespace(value=(grow - 2 * x).sum(1), gradient=grow - 2,
    ...                            hvp=lambda v, some: grow[some] * v)
    >>> newton_cg(at, torch.zeros(1, 1, dtype=torch.float64), gtol=1e-10, max_iter=20).x.exp()
    tensor([[2.0000]], dtype=torch.float64)
    """
    shape, X = x0.shape[1:], batch("x0", x0).clone()
    B, d = X.shape
    eps, gtol = torch.finfo(X.dtype).eps, per_sample("gtol", gtol, X)
    out = {
        "gradient": torch.zeros_like(X),
        "gradient_norm": gtol.new_full((B,), torch.nan),
        "n_iter": torch.zeros(B, dtype=torch.int64, device=X.device),
        "converged": torch.zeros(B, dtype=torch.bool, device=X.device),
        "L": gtol.new_zeros(B),
        "secant_min": gtol.new_full((B,), torch.inf),
        "last_step": gtol.new_zeros(B),
    }
    value, slope, t = gtol.new_full((B,), torch.inf), gtol.new_zeros(B), gtol.new_zeros(B)
    largest, tries = gtol.new_zeros(B), torch.zeros_like(out["n_iter"])
    P = torch.zeros_like(X)
    rows = torch.arange(B, device=X.device)
    while len(rows):
        fresh = tries[rows] == 0
        trial = X[rows] + column(t[rows], X) * P[rows]
        point = at(trial.view(-1, *shape), rows)
        f, G = point.value.detach().double(), point.gradient.detach().reshape(len(rows), d)
        size = norm(G)
        finite = torch.isfinite(f) & torch.isfinite(size)
        predicted = t[rows] * slope[rows]
        noise = 32 * eps * largest[rows]
        armijo = f <= value[rows] + 1e-4 * predicted
        level = (f <= value[rows] + noise) & (size < out["gradient_norm"][rows])
        good = torch.where(fresh, True, finite & (armijo | level))
        moved = rows[good]
        out["last_step"][moved] = t[moved] * norm(P[moved])
        X[moved], out["gradient"][moved], out["gradient_norm"][moved] = trial[good], G[good], size[good]
        value[moved], largest[moved] = f[good], torch.maximum(largest[moved], f[good].abs())
        out["n_iter"][moved] += tries[moved] > 0
        out["converged"][moved] = (size <= gtol[rows])[good]
        bad = rows[~good]
        curve = f[~good] - value[bad] - predicted[~good]
        ratio = torch.where(curve > 0, -predicted[~good] / (2 * curve), 0.5).nan_to_num(nan=0.1)
        t[bad] = t[bad] * ratio.clamp(0.1, 0.5)
        tries[bad] += 1
        over = out["converged"][rows] | ~finite & good | (tries[rows] > 30) & ~good
        over |= good & (out["n_iter"][rows] >= max_iter)
        local = torch.nonzero(good & ~over)[:, 0]
        if len(local):
            now = rows[local]
            bound = torch.maximum((out["gradient_norm"][now].sqrt().clamp(max=0.3)) * size[local], 0.3 * gtol[now])
            g = G[local].view(-1, *shape)
            inner, _ = solve(lambda v, some, point=point, local=local: point.hvp(v, local[some]), -g, atol=bound)
            p = inner.x.view(len(local), d)
            falls = dot(p, G[local])
            steep = ~(falls < 0)
            scale = inner.curvature_min.abs()
            scale = torch.where((scale > 0) & torch.isfinite(scale), scale, 1.0)
            p = torch.where(steep[:, None], -G[local] / column(scale, p), p)
            P[now], slope[now] = p, dot(p, G[local])
            t[now], tries[now] = 1.0, 1
            out["L"][now] = torch.maximum(out["L"][now], inner.curvature_max)
            out["secant_min"][now] = torch.minimum(out["secant_min"][now], inner.curvature_min)
        rows = rows[~over]
    out["gradient"] = out["gradient"].view(x0.shape)
    return BatchedMinimum(x=X.view(x0.shape), **out)
