r"""Truncated Newton for a batch: every sample has its own direction, step length and end.

.. math:: \|H p + G\| \le \eta \|G\|, \qquad x^{+} = x + t p

Notation  G gradient, H Hessian, p direction by conjugate gradients, R = -(G + H p) what they left, t step length;
          eta forcing term; E = |G+ + R|, what the linear model of the gradient missed in the last step.
Cost      an evaluation (value, gradient, linearisation) for each trial point of the samples at work, and a Hessian
          product for each inner iteration. A trial point that is accepted is the next point, not evaluated again, and
          a sample that tries a shorter step does so in the evaluation in which others try their next one.
Pitfalls  near the minimiser the decrease drowns in the rounding of the value: there the gradient decides.
          eta = min(0.3, sqrt|G|) depends on the units; here it is E / |G before|, which is zero for a quadratic, so
          that it takes one step more, and needs as many products otherwise (0.93 to 1.04 times, ten problems).
References  Eisenstat and Walker, Choosing the forcing terms in an inexact Newton method, 1996, choice 1; Nocedal and
            Wright, Numerical Optimization, 2006, section 7.1.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.optimize.conjugate_gradients import solve
from sciml.optimize.results import BatchedMinimum, blank
from sciml.optimize.rowwise import batch, column, dot, norm, tolerance
from sciml.validation import check_number


def newton_cg(at, x0, *, gtol, max_iter, xtol=0.0):
    r"""Minimise every sample's function by Newton's method with inexact directions [1]_ and Armijo's rule [2]_.

    Where a direction of negative curvature is met at once the step is one of steepest descent. A sample that is done
    leaves; so does one whose numbers are not finite at the start, or along whose direction no step helps, as not
    converged, without an exception and without a warning.

    Parameters
    ----------
    at : callable
        ``at(x, rows)`` returns a point for the samples `rows`, int64 (k,), at `x`, shape (k, ...), with ``value``,
        shape (k,), ``gradient``, shape (k, ...), and ``hvp(v, rows_in_point)``, the products with the Hessians of
        those samples of this point; where it has ``precondition(r, rows_in_point)``, too, an approximate inverse, the
        inner iteration uses it.
    x0 : torch.Tensor, shape (B, ...)
        Starting points; their dtype and device are those of the answer.
    gtol : float or torch.Tensor, shape (B,)
        A sample is done when the norm of its gradient is at most this: absolute, in the units of the gradient.
    max_iter : int
        Newton steps at most.
    xtol : float or torch.Tensor, shape (B,)
        A sample is done, too, when three tenths of a full Newton step are at most this: an estimate of the distance to
        the minimiser, for problems whose gradient tells little of it. 0 (the default) leaves it to the gradient.

    Returns
    -------
    BatchedMinimum
        `L` and `secant_min` hold the largest and smallest curvature that the inner directions met; `n_iter` counts
        Newton steps.

    Raises
    ------
    InvalidInputError
        If an argument, or what `at` returns, has the wrong shape, or `gtol` is negative or nan.

    References
    ----------
    .. [1] S. Eisenstat and H. Walker, Choosing the forcing terms in an inexact Newton method, SIAM J. Sci. Comput.,
       1996.
    .. [2] J. Nocedal and S. Wright, Numerical Optimization, 2006, section 7.1.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.optimize import newton_cg
    >>> def at(x, rows):
    ...     grow = x.exp()
    ...     return SimpleNamespace(value=(grow - 2 * x).sum(1), gradient=grow - 2,
    ...                            hvp=lambda v, some: grow[some] * v)
    >>> newton_cg(at, torch.zeros(1, 1, dtype=torch.float64), gtol=1e-10, max_iter=20).x.exp().numpy().round(9)
    array([[2.]])
    """
    shape, X = x0.shape[1:], batch("x0", x0).clone()
    B, d = X.shape
    gtol, xtol = tolerance("gtol", gtol, X), tolerance("xtol", xtol, X)
    max_iter = check_number("max_iter", max_iter, low=0, integer=True)
    rows = torch.arange(B, device=X.device)
    last, out = torch.zeros_like(X), blank(gtol, rows)

    # All of these have an entry for every sample; a sample without a direction yet has tried nothing.
    P, R = torch.zeros_like(X), torch.zeros_like(X)
    value, slope, t, largest = (torch.zeros_like(gtol) for _ in range(4))
    tries, modelled = torch.zeros_like(rows), rows < 0
    while len(rows):
        trial = X[rows] + column(t[rows], X) * P[rows]
        point = at(trial.view(-1, *shape), rows)
        if point.value is None or point.value.shape != rows.shape or point.gradient.shape != (len(rows), *shape):
            got = [None if part is None else tuple(part.shape) for part in (point.value, point.gradient)]
            raise InvalidInputError(
                f"at must return a value of shape {(len(rows),)} and a gradient of shape {(len(rows), *shape)}; got "
                f"{got[0]} and {got[1]}."
            )
        f, G = point.value.detach().double(), point.gradient.detach().reshape(len(rows), d).to(X.dtype)
        size, before = norm(G), out["gradient_norm"][rows]
        finite = torch.isfinite(f) & torch.isfinite(size)
        start, hoped = tries[rows] == 0, t[rows] * slope[rows]
        noise = 32 * torch.finfo(point.value.dtype).eps * largest[rows]
        rise = f - value[rows]
        good = start | finite & ((rise <= 1e-4 * hoped) | (rise <= noise) & (size < before))

        # Those that move: the forcing term wants what the model of their last gradient missed.
        moved = rows[good]
        missed = torch.where(modelled[rows] & (t[rows] == 1), norm(G + R[rows]) * size / before, torch.inf)
        bound = torch.maximum(torch.minimum(missed, 0.3 * size), 0.3 * gtol[rows])
        out["last_step"][moved] = t[moved] * norm(P[moved])
        out["n_iter"][moved] += tries[moved] > 0
        X[moved], last[moved], out["gradient_norm"][moved] = trial[good], G[good], size[good]
        value[moved], largest[moved] = f[good], torch.maximum(largest[moved], f[good].abs())
        near = modelled[rows] & (t[rows] == 1) & (0.3 * out["last_step"][rows] <= xtol[rows])
        met = (size <= gtol[rows]) | near & good & (size < 0.5 * before) & (xtol[rows] > 0)
        out["converged"][moved] = met[good]

        # Those that do not: a shorter step, by the parabola through what is known.
        shorter = (-hoped / (2 * (rise - hoped))).nan_to_num(nan=0.1).clamp(0.1, 0.5)
        stay = rows[~good]
        t[stay] = t[stay] * shorter[~good]
        hopeless = (tries[rows] >= 30) | (tries[rows] >= 4) & (-hoped <= noise)
        tries[stay] += 1

        over = torch.where(good, met | ~finite | (out["n_iter"][rows] >= max_iter), hopeless)
        new = torch.nonzero(good & ~over)[:, 0]
        if len(new):
            now, g = rows[new], G[new]
            inner, left = solve(
                lambda v, some, point=point, new=new: point.hvp(v, new[some]),
                -g.view(-1, *shape),
                atol=bound[new],
                preconditioner=_preconditioner(point, new),
            )
            p = inner.x.view(g.shape)
            fall = dot(p, g)
            bent = inner.curvature_min.abs()
            bent = torch.where((bent > 0) & (bent < torch.inf), bent, 1.0)
            falls = fall < 0
            P[now], R[now] = torch.where(falls[:, None], p, -g / column(bent, g)), left
            slope[now], modelled[now] = torch.where(falls, fall, -dot(g, g) / bent), falls
            t[now], tries[now] = 1.0, 1
            out["L"][now] = torch.maximum(out["L"][now], inner.curvature_max)
            out["secant_min"][now] = torch.minimum(out["secant_min"][now], inner.curvature_min)
        rows = rows[~over]
    return BatchedMinimum(x=X.view(x0.shape), gradient=last.view(x0.shape), **out)


def _preconditioner(point, new):
    """Return the preconditioner of a point for some of its samples, None where it has none."""
    own = getattr(point, "precondition", None)
    return None if own is None else lambda r, some: own(r, new[some])
