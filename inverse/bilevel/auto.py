r"""The recommended method: curvature of the upper level, corrected values, and a three-way test with error bars.

.. math:: \text{accept if } (v^+ + b^+) - (v - b) \le -\lambda\, \mathrm{pred}, \qquad
          \text{reject if } (v^+ - b^+) - (v + b) > -\lambda\, \mathrm{pred}, \qquad
          \mathrm{pred} = -z^T (\theta^+ - \theta)

and if neither holds the value with the longer bar is computed more exactly: a step is shortened because it was bad,
never because of noise.

Notation  v, b value of the upper level and its bar; z hypergradient; d direction; t step; S = -H^-1 J.
Cost      an accepted trial is the next point: its adjoint is the next hypergradient, so it wastes nothing.
Pitfalls  a decrease below the resolution of the value cannot be seen: the search ends with "accuracy_floor".
References  Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv 2308.10098 (the upper and lower bounds of an inexact line
          search); Xie, Byrd, Nocedal, Analysis of the BFGS method with errors, SIAM J. Optim. 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sciml.inverse.bilevel.dense import MOST, fits
from sciml.inverse.bilevel.directions import Pairs, SecantPart, damped_newton
from sciml.inverse.bilevel.evaluate import BudgetReached, NotFinite
from sciml.inverse.bilevel.search import Snapshot
from sciml.validation import check_number, check_option

__all__ = ["Auto", "auto_steps"]

# A slope may be off by this fraction of itself before the point is computed more exactly; less buys no fewer steps.
_SLOPE = 0.25
# Growth of steps taken without any curvature.
_GROWTH = 1.5
_UNIT = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Auto:
    """Options of the recommended method.

    Parameters
    ----------
    direction : {"auto", "gn", "lbfgs", "bb", "gd"}
        Gauss-Newton, limited-memory BFGS, Barzilai-Borwein or steepest descent; "auto" (the default) takes
        Gauss-Newton up to 32 hyperparameters, since it needs a linear system for each, or up to 200 where a sample has
        at most 200 unknowns, so that its Hessian can be factored; else BFGS, as for
        nonsmooth problems with more than 2.
    certificate : {"adjoint", "plain", "rigorous"}
        Which values and bars decide: "adjoint" (the default) corrects the value by the adjoint, and takes an estimate
        of its bar where the Lipschitz constant of the Hessian is unknown, or more than 1000 times that of the loss;
        "plain" takes the uncorrected value and its proven bar; "rigorous" takes proven bars only.
    lower_error : {"bound", "newton"}
        Distance to the minimiser: the bound |G| / mu (the default), or an estimate from the last Newton step, which
        spares work where mu is tiny, and certifies nothing.
    trust : float
        Largest component of a first step, in units of theta; 1.5 by default, which suits logarithms.
    eps0 : float or None
        Accuracy of the first lower solve, in units of x; None (the default) takes 0.3 |G(x0)| / mu.
    armijo : float
        Fraction of the predicted decrease that is asked for; 1e-4 by default.
    memory : int
        Pairs of the limited-memory BFGS; 30 by default: a pair costs next to nothing beside a lower-level solve.
    ftol : float
        Relative decrease below which three accepted steps in a row end the search; 1e-10 by default.
    max_trials : int
        Trials of one search at most; 30 by default.

    Examples
    --------
    >>> from sciml.inverse.bilevel import Auto
    >>> Auto(direction="lbfgs").memory
    30
    """

    direction: str = "auto"
    certificate: str = "adjoint"
    lower_error: str = "bound"
    trust: float = 1.5
    eps0: float | None = None
    armijo: float = 1e-4
    memory: int = 30
    ftol: float = 1e-10
    max_trials: int = 30

    def __post_init__(self):
        check_option("direction", self.direction, ("auto", "gn", "lbfgs", "bb", "gd"))
        check_option("certificate", self.certificate, ("adjoint", "plain", "rigorous"))
        check_option("lower_error", self.lower_error, ("bound", "newton"))
        check_number("trust", self.trust, low=0, inclusive="neither")
        if self.eps0 is not None:
            check_number("eps0", self.eps0, low=0, inclusive="neither")
        check_number("armijo", self.armijo, low=0, high=1, inclusive="neither")
        check_number("memory", self.memory, low=1, integer=True)
        check_number("ftol", self.ftol, low=0)
        check_number("max_trials", self.max_trials, low=1, integer=True)


class _State:
    """What the search remembers between iterations."""

    def __init__(self, level, options, n):
        self.level, self.trust, self.damping, self.rtol = level, options.trust, 0.0, 1e-2
        self.S = self.B = self.reach = None
        self.length, self.stretch, self.blind = options.trust / 3, 1.0, False
        self.pairs, self.secant, self.small = Pairs(options.memory), SecantPart(n), 0

    def save(self, search):
        """Return plain arrays and numbers."""
        return {
            "level": search.evaluator.state(self.level),
            "numbers": [self.trust, self.damping, self.rtol, self.length, self.stretch, float(self.small)],
            "S": self.S,
            "B": self.B,
            "reach": self.reach,
            "pairs": self.pairs.state(),
            "secant": self.secant.matrix,
        }

    def restore(self, search, saved):
        """Take what :meth:`save` returned."""
        ev = search.evaluator
        self.level = ev.level(saved["level"])
        self.trust, self.damping, self.rtol, self.length, self.stretch, small = saved["numbers"]
        self.small = int(small)
        self.S, self.B, self.reach = saved["S"], saved["B"], saved["reach"]
        self.pairs = Pairs(self.pairs.memory, saved["pairs"])
        self.secant.matrix = saved["secant"]
        return self


def auto_steps(search, options):
    """Yield the accepted points of the recommended method, the start first.

    Parameters
    ----------
    search : Search
        The problem, its budget and its bounds.
    options : Auto
        Options.

    Yields
    ------
    Step
        With a Snapshot as value.
    """
    ev, n = search.evaluator, len(search.theta0)
    direction = options.direction
    few = n <= MOST and fits(ev.B, math.prod(ev.shape))
    if direction == "auto":
        direction = "gn" if n <= 32 or few else "lbfgs"
        if not ev.lower.smooth and n > 2:
            # A support that changes takes the model of one step with it.
            direction = "lbfgs"
    # With many parameters and few unknowns, one factored Hessian serves all the systems of a level.
    ev.dense = ev.dense or (direction == "gn" and few and n > 32 and ev.lower.smooth)
    step = 0.0
    if search.saved is not None:
        now, step = _State(None, options, n).restore(search, search.saved), search.saved["step"]
    else:
        level = ev.solve(search.theta0, search.x0, options.eps0)
        ev.adjoint(level, 0.1 * level.gg_norm)
        ev.gradient(level)
        now = _State(level, options, n)
        search.first = ev.value(level)[0]
    while True:
        level = now.level
        value, bar, rigorous = ev.value(level)
        criterion = search.criterion(level.theta, level.z, value)
        if search.save is not None:
            search.save({**now.save(search), "step": step})
        try:
            if criterion <= search.tol:
                level, criterion = _confirmed(search, now, criterion)
                value, bar, rigorous = ev.value(level)
            yield search.step(Snapshot(level.theta, value, bar, rigorous, level), criterion, step=step)
            if not bool(level.z.abs().max() > 0):
                return search.finish("flat", "the hypergradient is zero: the upper level does not feel theta here")
            if now.small >= 3:
                return search.finish("small_decrease", "three steps in a row decreased the value by less than ftol")
            outcome = _advance(search, now, options, direction)
        except BudgetReached as end:
            return search.finish("budget", f"{end}: raise it, or loosen tol")
        if outcome[0] != "accepted":
            seen = Snapshot(now.level.theta, *ev.value(now.level), now.level)
            if now.level is not level and search.criterion(seen.theta, now.level.z, seen.value) <= search.tol:
                # The same theta, whose slope was noise: seen more exactly it is small enough.
                step = 0.0
                continue
            search.offer(seen)
            return search.finish(*outcome)
        step = outcome[1]


def _confirmed(search, now, criterion):
    """Return a level whose hypergradient is exact enough to say that it is small, refining where it is not."""
    for _ in range(12):
        value, _, _ = search.evaluator.value(now.level)
        criterion = search.criterion(now.level.theta, now.level.z, value)
        if criterion > search.tol or not _refined_slope(search, now):
            break
    value, bar, _ = search.evaluator.value(now.level)
    if criterion <= search.tol and bar > 0.5 * search.scale(value):
        # A value that is mostly bar is no scale for a gradient: rounding lets nothing be said here.
        criterion = max(2 * search.tol, bar / search.scale(value))
    return now.level, criterion


def _refined_slope(search, now):
    """Make the present level more exact if half its hypergradient may be error; return whether that was done."""
    ev, level = search.evaluator, now.level
    off, free, none = (
        1.25 * ev.gradient_error(level, now.S),
        search.free(level.theta, level.z),
        torch.zeros_like(level.z),
    )
    error, size = (float(torch.where(free, part, none).norm()) for part in (off, level.z))
    value, bar, _ = ev.value(level)
    scale = search.scale(value)
    wanted = max(0.5 * size, search.tol * scale)
    # Far from the minimiser the error of first order says little; there the bar of the value is long.
    far = bar > 0.1 * scale
    # Of a component at its bound only the sign counts, and of the others not what those at bounds may be.
    signs = bool((free | (off.abs() <= level.z.abs())).all())
    floor = ev.eps_floor(level)
    if error <= wanted and signs and not far or bool((level.eps <= 2 * floor).all()):
        return False
    factor = min(0.5, max(1e-4, 0.5 * wanted / max(error, 1e-300))) if signs else 0.1
    if far:
        factor = min(factor, max(1e-4, (0.05 * scale / bar) ** 0.5))
    delta = torch.minimum(level.delta, 0.1 * level.gg_norm) * factor
    now.level = ev.refine(level, torch.maximum(factor * level.eps, floor))
    ev.adjoint(now.level, delta)
    ev.gradient(now.level)
    return True


def _direction(search, now, options, direction):
    """Return d (n,), before it is capped; no component leaves the bounds from where it is."""
    theta, free = now.level.theta, search.free(now.level.theta, now.level.z)
    while True:
        d = _free_direction(search, now, options, direction, free)
        # At its bound a component may be pushed outwards by the curvature, for the sake of others: it stays there, and
        # the others go without it. What is left of the step by clipping alone might lead uphill.
        out = ((theta <= search.low) & (d < 0)) | ((theta >= search.high) & (d > 0))
        if not bool(out.any()):
            return d
        free = free & ~out


def _free_direction(search, now, options, direction, free):
    ev, level = search.evaluator, now.level
    z, theta = level.z, level.theta
    if direction == "gn":
        if now.B is None:
            before = ev.n_cg
            now.S, now.B = ev.responses(level, now.rtol, now.S)
            ev.weigh_dense(before)
            # Errors of S enter the step through the smallest curvature.
            needed = max(1e-6, min(1e-2, 0.1 / _condition(now.B)))
            if needed < 0.1 * now.rtol:
                now.rtol = needed
                now.S, now.B = ev.responses(level, now.rtol, now.S)
        for matrix in (now.B + now.secant.matrix, now.B):
            # The trust region is a box, like the bounds: one component without curvature must not shorten the others.
            low, high = (search.low - theta).clamp(min=-now.trust), (search.high - theta).clamp(max=now.trust)
            # Curvatures below the errors of S are none.
            least = 1e-12 if ev.dense else (0.1 * now.rtol) ** 2
            d = damped_newton(matrix, z, free, now.damping + least, low, high)
            if d is not None and float(z @ d) < 0:
                return d
    keep = torch.where(free, z, torch.zeros_like(z))
    if direction == "lbfgs":
        v = now.pairs.apply(z, free)
        if v is not None and float(z @ v) > 0:
            return -now.stretch * v
    if direction in ("bb", "lbfgs", "gd"):
        length = now.pairs.barzilai_borwein()
        if length is not None and direction != "gd":
            return -now.stretch * length * keep
    # Without any curvature the first step takes a third of the trust region, and each that does well is lengthened.
    largest = float(keep.abs().max())
    now.blind = True
    return keep * (-now.length / largest) if largest > 0 else keep


def _condition(B):
    scale = B.diagonal().clamp_min(0).sqrt()
    if not bool((scale > 0).all()):
        return 1.0
    values = torch.linalg.eigvalsh(B / scale[:, None] / scale)
    return float(values[-1] / values[0].clamp_min(1e-300))


def _advance(search, now, options, direction):
    """Find and take one step; return ("accepted", length), or a status and its reason."""
    ev = search.evaluator
    d, t, capped, fruitless, doubtful = None, 1.0, False, False, False
    floor_reason = (
        "the bars of the values cannot be made short enough to see a decrease: theta is as good as told apart"
    )
    for _ in range(options.max_trials):
        if d is None:
            d = _direction(search, now, options, direction)
            largest = float(d.abs().max())
            capped = largest >= now.trust
            if largest > now.trust:
                d = d * (now.trust / largest)
        level = now.level
        value, bar, _ = ev.value(level)
        theta = search.clip(level.theta + t * d)
        move = theta - level.theta
        pred = -float(level.z @ move)
        if pred < -0.1 * t * float(level.z @ d):
            # Bounds took away what made it a descent.
            t = min(t, search.reach(level.theta, d))
            theta = search.clip(level.theta + t * d)
            move = theta - level.theta
            pred = -float(level.z @ move)
        if pred <= 4 * _UNIT * abs(value) or not float(move.abs().max()) > 0:
            # A slope may be small by the chance of an inexact level.
            if _refined_slope(search, now):
                d = None
                continue
            return "accuracy_floor", floor_reason
        # The present point first: its value and its slope must be known well enough for what the step promises.
        if not fruitless:
            noise = _slope_noise(now, move) if direction == "gn" or doubtful else 0.0
            better, doubtful = _sharpened(search, now, noise, pred, bar), False
            if better is not None:
                fruitless = bool((better.eps >= 0.9 * level.eps).all() and (better.delta >= 0.9 * level.delta).all())
                now.level, d = better, None
                continue
        eps = torch.maximum(ev.eps_for(level, 0.05 * pred), ev.eps_floor(level))
        start = level.x
        if now.S is not None:
            start = start + torch.tensordot(move.to(start), now.S, dims=1)
        verdict, new, seen = _judge(search, now, options, theta, start, eps, move, pred)
        if new is not None:
            now.reach = _row_norms(new.x - level.x) / move.norm()
        if verdict == "accept":
            return _accept(search, now, new, move, pred, seen, capped and t == 1.0, direction, options)
        value = ev.value(now.level)[0]
        change = pred if seen is None else max(pred, abs(seen - value))
        if verdict == "floor" or change <= 1e-12 * search.scale(value):
            return "accuracy_floor", floor_reason
        # A slope that was mostly noise is computed better, and the step is not shortened for it.
        if not fruitless and _slope_noise(now, move) > _SLOPE * pred:
            told = float("inf") if new is None else float(_row_dots(level.gg, new.x - level.x).mean())
            if told > -0.1 * pred:
                doubtful = True
                continue
        if direction == "gn":
            now.trust = max(0.5 * now.trust, 1e-12)
        # Quadratic interpolation; a trial that was not finite is cut hard.
        shorter = 0.1 if seen is None else 0.5 * pred / max(seen - value + pred, 1e-300)
        t *= min(0.5, max(0.1, shorter))
        now.damping = max(10 * now.damping, 1e-3) if direction == "gn" else 0.0
    return "no_descent", f"no step along the direction decreased the value in {options.max_trials} trials"


def _slope_noise(now, move):
    """Return what z^T move may be off by, from how far the solutions move: |S move| (delta + 2 Lg eps)."""
    level = now.level
    if now.S is not None:
        reach = _row_norms(torch.tensordot(move.to(now.S), now.S, dims=1))
    elif now.reach is not None:
        reach = now.reach * move.norm()
    else:
        return 0.0
    return float((reach * (level.delta + 2 * level.Lg * level.eps)).mean())


def _sharpened(search, now, noise, pred, bar):
    """Return the present level computed more exactly where a step needs it, None where it does not."""
    ev, level = search.evaluator, now.level
    blurred = bar > max(0.1 * pred, 2 * ev.grain(level))
    if not blurred and noise <= _SLOPE * pred:
        return None
    eps, delta = level.eps, torch.minimum(level.delta, 0.1 * level.gg_norm)
    if blurred:
        eps = torch.minimum(ev.eps_for(level, 0.05 * pred), 0.5 * eps)
        delta = torch.minimum(delta, 0.02 * pred / eps.clamp_min(1e-300))
    if noise > _SLOPE * pred:
        factor = max(1e-3, 0.1 * pred / noise)
        # Only what contributes: often the adjoint alone.
        eps = torch.where(2 * level.Lg * level.eps > factor * level.delta, torch.minimum(eps, factor * level.eps), eps)
        delta = torch.minimum(delta, factor * level.delta)
    eps = torch.maximum(eps, ev.eps_floor(level))
    if bool((eps < 0.99 * level.eps).any()):
        level = ev.refine(level, eps)
        ev.adjoint(level, torch.minimum(delta, 0.1 * level.gg_norm))
    else:
        level = ev.again(level)
        ev.adjoint(level, delta)
    ev.gradient(level)
    return level


def _at_floor(ev, level):
    """Return whether nothing but rounding is left of a level's errors."""
    return bool((level.eps <= 2 * ev.eps_floor(level)).all()) or ev.value(level)[1] <= 2 * ev.grain(level)


def _row_dots(u, v):
    return (u * v).reshape(len(v), -1).sum(1, dtype=torch.float64)


def _row_norms(v):
    return v.reshape(len(v), -1).to(torch.float64).norm(dim=1)


def _judge(search, now, options, theta, start, eps, move, pred):
    """Try theta; return "accept", "reject" or "floor", the level there, and its value (None where not finite)."""
    ev, lam = search.evaluator, options.armijo
    value, bar, _ = ev.value(now.level)
    try:
        new = ev.solve(theta, start, eps, now.level)
        plain, plain_bar, _ = ev.value(new, "plain")
        if plain - plain_bar > value + bar - lam * pred:
            return "reject", new, plain
        new.parts["q0"] = now.level.q
        moved = _row_norms(new.x - now.level.x)
        delta = torch.minimum(0.1 * new.gg_norm, 0.02 * pred / new.eps.clamp_min(1e-300))
        # The adjoint will be a slope: a step like this one must see it through the noise.
        sharp = 0.05 if now.S is not None else 0.2
        delta = torch.minimum(delta, sharp * pred / moved.clamp_min(1e-300))
        ev.adjoint(new, delta)
        for _ in range(16):
            value, bar, rigorous = ev.value(now.level)
            trial, trial_bar, trial_rigorous = ev.value(new)
            if (trial + trial_bar) - (value - bar) <= -lam * pred:
                search.all_rigorous &= rigorous and trial_rigorous
                return "accept", new, trial
            if (trial - trial_bar) - (value + bar) > -lam * pred:
                return "reject", new, trial
            floors = _at_floor(ev, now.level), _at_floor(ev, new)
            if all(floors):
                return "floor", new, trial
            if (bar >= trial_bar and not floors[0]) or floors[1]:
                now.level = _tightened(ev, now.level)
                ev.gradient(now.level)
            else:
                new = _tightened(ev, new)
    except NotFinite:
        return "reject", None, None
    return "floor", new, trial


def _tightened(ev, level):
    """Return the level with a quarter of its distance, and so a sixteenth of its bar."""
    delta = torch.minimum(level.delta, 0.1 * level.gg_norm) / 4
    level = ev.refine(level, torch.maximum(0.25 * level.eps, ev.eps_floor(level)))
    return ev.adjoint(level, delta)


def _accept(search, now, new, move, pred, trial, full, direction, options):
    """Make the trial the present point, and learn from the step."""
    ev, old = search.evaluator, now.level
    value, bar, _ = ev.value(old)
    _, trial_bar, _ = ev.value(new)
    z = ev.gradient(new)
    change, noise = z - old.z, bar + trial_bar
    learned = now.pairs.update(move, change, noise)
    decrease = value - trial
    if direction == "gn":
        model = pred - 0.5 * float(move @ ((now.B + now.secant.matrix) @ move))
        ratio = decrease / model if model > 0 else 1.0
        if ratio > 0.75:
            now.damping = now.damping / 10 if now.damping > 1e-6 else 0.0
        before = ev.n_cg
        now.S, B = ev.responses(new, now.rtol, now.S)
        ev.weigh_dense(before)
        # What a long step tells of the curvature is of no use at its end.
        if abs(ratio - 1) < 0.5 and float(move.abs().max()) < 0.1:
            now.secant.update(move, change, B, noise)
        else:
            now.secant.matrix = torch.zeros_like(B)
        now.B = B
        good = ratio > 0.75
        if full and abs(ratio - 1) < 0.1:
            now.trust *= 2
    else:
        good = decrease > 0.25 * pred
    if full and good:
        now.trust *= 2
    # Steps along which no curvature shows, and that keep what they promised, are lengthened.
    longer = decrease > 0.5 * pred
    if now.blind:
        now.length = (_GROWTH if longer else 1.0) * float(move.abs().max())
        now.blind = False
    now.stretch = 2 * now.stretch if longer and not learned else 1.0
    now.small = now.small + 1 if max(decrease, pred) <= options.ftol * search.scale(trial) else 0
    now.level = new
    return "accepted", float(move.norm())
