r"""Limited-memory BFGS for a batch: every sample has its own pairs, line search and end.

Notation  G gradient; p = -B G direction, B the inverse Hessian that the pairs s = x+ - x, c = G+ - G imply; t step
          length; slope = <G, p>.
Cost      an evaluation of value and gradient for each trial point of the samples at work; 2 memory + 5 vectors a
          sample and as many inner products a step.
Pitfalls  a step that satisfies Armijo's rule alone may make a pair with <s, c> <= 0, so the slope must have risen,
          too (weak Wolfe conditions, found by bisection). Near the minimiser the decrease drowns in the rounding of
          the value: there the slopes decide. The first direction knows no scale; the step that brings a function with
          the slope and value at hand to zero is tried.
References  Nocedal and Wright, Numerical Optimization, 2006, section 7.2; Lewis and Overton, Nonsmooth optimization via
            quasi-Newton methods, 2013; Hager and Zhang, A new conjugate gradient method with guaranteed descent and an
            efficient line search, 2005.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.optimize.results import BatchedMinimum, blank
from sciml.optimize.rowwise import add, batch, column, dot, kept, norm, tolerance
from sciml.validation import check_number

_ARMIJO, _WOLFE = 1e-4, 0.9
_TRIES = 40  # trial points along one direction
_IDLE = 200  # steps that only rounding can judge, with no smaller gradient among them; a condition of 1e5 needs 100


def batched_lbfgs(value_and_gradient, x0, *, gtol, max_iter, memory=10):
    r"""Minimise every sample's function by the limited-memory BFGS method [1]_ with a weak Wolfe line search [2]_.

    A sample that is done leaves; so does one whose numbers are not finite at the start, or along whose direction no
    step helps, as not converged, without an exception and without a warning.

    Parameters
    ----------
    value_and_gradient : callable
        ``value_and_gradient(x, rows)`` returns the values, shape (k,), and the gradients, shape (k, ...), of the
        samples `rows`, int64 (k,), at `x`, shape (k, ...).
    x0 : torch.Tensor, shape (B, ...)
        Starting points; their dtype and device are those of the answer.
    gtol : float or torch.Tensor, shape (B,)
        A sample is done when the norm of its gradient is at most this: absolute, in the units of the gradient.
    max_iter : int
        Steps at most.
    memory : int
        Pairs kept; 10 by default, more seldom help.

    Returns
    -------
    BatchedMinimum
        `L` and `secant_min` hold the largest and smallest curvature that the pairs showed.

    Raises
    ------
    InvalidInputError
        If an argument, or what `value_and_gradient` returns, has the wrong shape, or `gtol` is negative or nan.

    References
    ----------
    .. [1] J. Nocedal and S. Wright, Numerical Optimization, 2006, section 7.2.
    .. [2] A. Lewis and M. Overton, Nonsmooth optimization via quasi-Newton methods, Math. Program. 141, 2013.

    Examples
    --------
    >>> import torch
    >>> from sciml.optimize import batched_lbfgs
    >>> weight = torch.tensor([[1.0, 10.0]], dtype=torch.float64)
    >>> def value_and_gradient(x, rows):
    ...     gradient = weight[rows] * (x - 3)
    ...     return 0.5 * (gradient * (x - 3)).sum(1), gradient
    >>> found = batched_lbfgs(value_and_gradient, torch.zeros(1, 2, dtype=torch.float64), gtol=1e-9, max_iter=50)
    >>> found.x.numpy().round(6)
    array([[3., 3.]])
    """
    shape, x = x0.shape[1:], batch("x0", x0)
    gtol = tolerance("gtol", gtol, x)
    max_iter = check_number("max_iter", max_iter, low=0, integer=True)
    memory = check_number("memory", memory, low=1, integer=True)
    eps = torch.finfo(x.dtype).eps
    rows = torch.arange(len(x), device=x.device)
    X, last, out = x.clone(), torch.zeros_like(x), blank(gtol, rows)

    # Of the samples at work; one that has tried nothing yet is at its start.
    inf, zero = out["secant_min"].clone(), torch.zeros_like(gtol)
    G, p = torch.zeros_like(x), torch.zeros_like(x)
    f, slope, t, lo, hi, size, largest, moved, L, low = zero, zero, zero, zero, inf, zero, zero, zero, zero, inf
    tries, n_iter, reach = torch.zeros_like(rows), torch.zeros_like(rows), norm(x)
    idle, least, pairs = tries, inf, _Pairs(x, memory)
    while len(rows):
        trial = x + column(t, x) * p
        f_new, G_new = _evaluate(value_and_gradient, trial, rows, shape)
        length = norm(G_new)
        finite, start = torch.isfinite(f_new) & torch.isfinite(length), tries == 0
        noise = 32 * eps * largest
        rise, slope_new = f_new - f, dot(G_new, p)
        low_enough = (rise <= _ARMIJO * t * slope) | (rise <= noise) & (slope_new <= (2 * _ARMIJO - 1) * slope)
        low_enough &= finite
        risen = slope_new >= _WOLFE * slope
        good = start | low_enough & risen

        far, near = ~good & ~low_enough, ~good & low_enough
        parabola = (-t * slope / (2 * (rise - t * slope))).nan_to_num(nan=0.1).clamp(0.1, 0.5)
        longer = (slope / (slope - slope_new)).nan_to_num(nan=10.0, posinf=10.0, neginf=10.0)
        longer = torch.where(longer > 0, longer, 10.0).clamp(2.0, 10.0)
        hi, lo = torch.where(far, t, hi), torch.where(near, t, lo)
        inside = torch.where(lo > 0, (lo + hi) / 2, t * parabola)
        t_next = torch.where(far, inside, torch.where(hi < torch.inf, (lo + hi) / 2, t * longer))
        hopeless = (tries >= _TRIES) | (tries >= 4) & (-t * slope <= noise) & far

        s, c = trial - x, G_new - G
        ss, sc, cc = dot(s, s), dot(s, c), dot(c, c)
        stepped = good & ~start
        # Two gradients differ by what curvature and the step make, and by at most about this much rounding.
        blur = 10 * eps * (L * reach + length + size)
        low = torch.where(stepped & (ss > 0), torch.fmin(low, sc / ss + blur / ss.sqrt()), low)
        usable = stepped & (sc > 1e-10 * (ss * cc).sqrt())
        L = torch.where(usable, torch.maximum(L, cc / sc), L)
        pairs.push(usable, s, c, sc, cc)

        idle = torch.where((length < least) | (-t * slope > noise), 0, idle + stepped)
        least = torch.where(good, torch.fmin(least, length), least)
        n_iter = n_iter + stepped
        moved = torch.where(stepped, ss.sqrt(), moved)
        reach = torch.where(stepped, reach + moved, reach)
        if bool(good.all()):
            x, G = trial, G_new
        else:
            x, G = torch.where(good[:, None], trial, x), torch.where(good[:, None], G_new, G)
        f, size = torch.where(good, f_new, f), torch.where(good, length, size)
        largest = torch.where(good, torch.maximum(largest, f_new.abs()), largest)
        met = size <= gtol
        gone = torch.where(good, met | ~finite | (n_iter >= max_iter) | (idle > _IDLE), hopeless)
        if bool(gone.any()):
            end = rows[gone]
            X[end], last[end], out["gradient_norm"][end] = x[gone], G[gone], size[gone]
            out["converged"][end], out["n_iter"][end], out["last_step"][end] = met[gone], n_iter[gone], moved[gone]
            out["L"][end], out["secant_min"][end] = L[gone], low[gone]
            stay = torch.nonzero(~gone)[:, 0]
            x, G, p, rows, gtol, f, slope, t_next, lo, hi = kept(stay, x, G, p, rows, gtol, f, slope, t_next, lo, hi)
            size, largest, moved, reach, L, low = kept(stay, size, largest, moved, reach, L, low)
            tries, n_iter, good, idle, least = kept(stay, tries, n_iter, good, idle, least)
            pairs.keep(stay)
            if not len(rows):
                break
        t, tries = t_next, tries + 1
        if bool(good.any()):
            new = torch.nonzero(good)[:, 0]
            q, scaled = pairs.direction(G, new)
            fall = dot(q, G[new])
            # Without pairs the length of the first step is a guess: to value zero, else to the size of x, else to one.
            squared = size[new] ** 2
            guess = torch.where(f[new] != 0, f[new].abs() / squared, norm(x[new]) / size[new])
            guess = torch.where((guess > 0) & (guess < torch.inf), guess, 1 / size[new])
            falls = scaled & (fall < 0)
            p[new] = torch.where(falls[:, None], q, -G[new])
            slope[new] = torch.where(falls, fall, -squared)
            t[new], tries[new] = torch.where(falls, 1.0, guess), 1
            lo[new], hi[new] = 0.0, torch.inf
    return BatchedMinimum(x=X.view(x0.shape), gradient=last.view(x0.shape), **out)


def _evaluate(value_and_gradient, x, rows, shape):
    """Return float64 values and gradients as rows."""
    f, G = value_and_gradient(x.view(-1, *shape), rows)
    if f.shape != rows.shape or G.shape != (len(rows), *shape):
        raise InvalidInputError(
            f"value_and_gradient must return values of shape {(len(rows),)} and gradients of shape "
            f"{(len(rows), *shape)}; got {tuple(f.shape)} and {tuple(G.shape)}."
        )
    return f.detach().double(), G.detach().reshape(x.shape).to(x.dtype)


class _Pairs:
    """The newest pairs (s, c) of every sample, in a ring of its own: samples take their steps at different times."""

    def __init__(self, x, memory):
        self.memory = memory
        self.s, self.c = (x.new_zeros(memory, *x.shape) for _ in range(2))
        self.inverse = torch.zeros(memory, len(x), dtype=torch.float64, device=x.device)  # 1 / <s, c>; 0 for no pair
        self.scale = self.inverse.new_zeros(len(x))
        self.count = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def _in_step(self, some):
        """Return the newest slot that all samples share, if `some` are all of them and they share it, else None."""
        low, high = (int(end) for end in torch.aminmax(self.count))
        return low % self.memory if low == high and len(some) == len(self.count) else None

    def push(self, usable, s, c, sc, cc):
        i = torch.nonzero(usable)[:, 0]
        if not len(i):
            return
        slot = self._in_step(i)
        if slot is None:
            slot = self.count[i] % self.memory
            self.s[slot, i], self.c[slot, i], self.inverse[slot, i] = s[i], c[i], 1 / sc[i]
        else:
            self.s[slot], self.c[slot], self.inverse[slot] = s, c, 1 / sc
        self.scale[i] = sc[i] / cc[i]
        self.count[i] += 1

    def keep(self, stay):
        if len(stay) < len(self.count):
            self.s, self.c, self.inverse = self.s[:, stay], self.c[:, stay], self.inverse[:, stay]
            self.scale, self.count = self.scale[stay], self.count[stay]

    def direction(self, G, new):
        """Return -B G for the samples `new`, and whether they have a pair at all: the two loops."""
        q, steps, slot = -G[new], [], self._in_step(new)
        for age in range(1, min(self.memory, int(self.count[new].max())) + 1):
            # A sample with fewer pairs than others meets an empty slot, which changes nothing.
            place = (self.count[new] - age) % self.memory, new
            place = place if slot is None else (slot - age) % self.memory
            s, c, inverse = self.s[place], self.c[place], self.inverse[place]
            alpha = inverse * dot(s, q)
            add(q, -alpha, c)
            steps.append((s, c, inverse, alpha))
        q = q * column(self.scale[new], q)
        for s, c, inverse, alpha in reversed(steps):
            add(q, alpha - inverse * dot(c, q), s)
        return q, self.count[new] > 0
