r"""MAID, the method of adaptive inexact descent, as published: descent that inexact values and gradients prove.

.. math:: \psi(\alpha) = [v^+ + b^+] - [v - b] + \lambda \alpha \|z\|^2 \le 0 \quad\Rightarrow\quad
          f(\theta - \alpha z) \le f(\theta) - \lambda \alpha \|z\|^2,

whatever z is; z is computed until :math:`\omega \le (1 - \eta) \|z\|`, so that -z is a descent direction. Where no step
length passes, both accuracies are multiplied by nu; after a success by nu_bar, and the step by rho_bar.

Notation  v, b value g(x) and its plain bar; z hypergradient, omega its bar; eps, delta accuracies of lower level and
          adjoint; alpha step.
Cost      a lower-level solve for every trial of the line search, an adjoint for every accepted step.
Pitfalls  the bars are linear in eps, so a good step is refused while b is above what it gains, and a step shortened for
          noise gains less still: ``method="auto"`` has neither. The constant of the decrease is lambda, not eta; values
          of two points are compared with the bars of their own accuracies.
References  M. S. Salehi, S. Mukherjee, L. Roberts, M. J. Ehrhardt, An adaptively inexact first-order method for bilevel
          optimization with application to hyperparameter learning, 2025, arXiv 2308.10098, Algorithms 3.1 and 3.2. H.
          Zhang, W. Hager, A nonmonotone line search technique, SIAM J. Optim. 2004; J. Barzilai, J. Borwein, Two-point
          step size gradient methods, 1988.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.certificates import hypergradient_bar_maid
from sciml.inverse.bilevel.evaluate import BudgetReached, NotFinite
from sciml.inverse.bilevel.search import Snapshot
from sciml.validation import check_number, check_option

__all__ = ["MAID", "maid_steps"]


@dataclass(frozen=True)
class MAID:
    """Options of MAID; the defaults are those for a certified run.

    The published experiments are had by ``MAID(eta=1e-4, lam=5e-5, rho_bar=10/9, nu_bar=1.25, max_backtracks=10)`` for
    the quadratic problem, and ``nu_bar=1.05`` for images.

    Parameters
    ----------
    eps0 : float or None
        First accuracy of the lower level, a distance in units of x; None (the default) takes 0.3 of the distance
        between x0 and the first solution, that of the sample farthest away.
    delta0 : float or None
        First accuracy of the adjoint, a residual in units of g over those of x; None (the default) takes 0.1 |grad g|,
        of the sample with the largest.
    alpha0 : float or None
        First step; None (the default) takes the one that moves the largest component of theta by 0.5.
    rho, rho_bar : float
        Factors of the step after a refused trial, below 1, and after a success, above 1; 0.5 and 1.2 by default.
    nu, nu_bar : float
        Factors of the accuracies after a failed line search, below 1, and after a success, above 1; 0.5 and 1.1 by
        default.
    lam : float
        Part of the first-order decrease that is asked for; 0.1 by default.
    eta : float
        The bar of z may be (1 - eta) of its norm; 0.5 by default, above `lam`.
    max_backtracks : int
        Trials of the first line search; one more after each failure; 20 by default.
    direction : {"gradient", "bb"}
        "gradient" (the default), or "bb": first trials of Barzilai-Borwein length against an average of past values,
        and the monotone search where these fail.
    bound : {"published", "sharp", "estimate"}
        Bar of z: the published one, or the sharper one that uses the adjoint, both estimated where a constant is not
        known; or always the estimate. "published" by default.
    convex : bool
        Whether g is convex in x, which shortens the lower end of its bar; False by default.

    Raises
    ------
    InvalidInputError
        If a number is out of its range, or `lam` is not below `eta`.

    Examples
    --------
    >>> from sciml.inverse.bilevel.maid import MAID
    >>> MAID(rho=0.9).nu
    0.5
    """

    eps0: float | None = None
    delta0: float | None = None
    alpha0: float | None = None
    rho: float = 0.5
    rho_bar: float = 1.2
    nu: float = 0.5
    nu_bar: float = 1.1
    lam: float = 0.1
    eta: float = 0.5
    max_backtracks: int = 20
    direction: str = "gradient"
    bound: str = "published"
    convex: bool = False

    def __post_init__(self):
        for name in ("eps0", "delta0", "alpha0"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low=0, inclusive="neither")
        for name in ("rho", "nu", "lam", "eta"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive="neither")
        for name in ("rho_bar", "nu_bar"):
            check_number(name, getattr(self, name), low=1)
        check_number("max_backtracks", self.max_backtracks, low=1, integer=True)
        check_option("direction", self.direction, ("gradient", "bb"))
        check_option("bound", self.bound, ("published", "sharp", "estimate"))
        if not self.lam < self.eta:
            raise InvalidInputError(
                f"lam must be below eta={self.eta:g}, else no step need pass; got {self.lam:g}. Lower lam."
            )


@dataclass
class _Now:
    """What the search remembers between iterations."""

    eps: float
    delta: float
    alpha: float | None
    trials: int
    average: float = 0.0  # of Zhang and Hager, with its weight
    weight: float = 0.0
    step: float = 0.0
    move: torch.Tensor | None = field(default=None)
    old_z: torch.Tensor | None = field(default=None)


def maid_steps(search, options):
    """Yield the accepted points of MAID, the start first.

    Parameters
    ----------
    search : Search
        The problem, its budget and its bounds.
    options : MAID
        Options.

    Yields
    ------
    Step
        With a Snapshot as value.
    """
    ev = search.evaluator
    if search.saved is not None:
        level, now = ev.level(search.saved["level"]), _Now(**search.saved["now"])
    else:
        level = ev.solve(search.theta0, search.x0, options.eps0)
        search.first = ev.value(level)[0]
        eps = _first_accuracy(level, search.x0) if options.eps0 is None else options.eps0
        delta = 0.1 * float(level.gg_norm.max()) if options.delta0 is None else options.delta0
        now = _Now(eps, delta, options.alpha0, options.max_backtracks)
    try:
        while True:
            if search.save is not None:
                search.save({"level": ev.state(level), "now": asdict(now)})
            level, omega = _descent_direction(search, level, now, options)
            value, bar, proven = ev.value(level)
            criterion = search.criterion(level.theta, level.z, value)
            snapshot = Snapshot(level.theta, value, bar, proven, level)
            yield search.step(snapshot, criterion, step=now.step, accuracy=now.eps, omega=omega)
            _lengthen(search, level, now, options)
            level = _line_search(search, level, now, options)
            if level is None:
                return search.finish(
                    "accuracy_floor", "rounding keeps the bars above what any step along the gradient would gain"
                )
    except BudgetReached as end:
        return search.finish("budget", f"{end}: raise it, or loosen tol")


def _first_accuracy(level, x0):
    """Return three tenths of the way that the first solve went, which may have gone farther than it was asked to."""
    way = (level.x - x0).to(torch.float64).reshape(len(x0), -1).norm(dim=1)
    return max(float(level.eps.max()), 0.3 * float(way.max()))


def _descent_direction(search, level, now, options):
    """Return the level with z and the bar of z below (1 - eta) of its norm, or as exact as rounding allows."""
    ev = search.evaluator
    while True:
        eps = ev.eps_floor(level).clamp_min(now.eps)
        if bool((level.eps > 1.01 * eps).any()):
            level = ev.refine(level, eps)
        if not level.has_adjoint or level.z is None or bool((level.delta > now.delta).any()):
            ev.adjoint(level, now.delta)
            ev.gradient(level)
        omega = _omega(ev, level, options)
        # Where z is zero since delta asks for no more, omega is not.
        if omega <= (1 - options.eta) * float(level.z.norm()) or _spent(ev, level, now):
            return level, omega
        now.eps, now.delta = options.nu * now.eps, options.nu * now.delta


def _omega(ev, level, options):
    """Return the bar of z."""
    parts = level.parts
    known = ev.sound(level) and not level.estimated & {"Lg", "mu"}
    known = known and all(bool(torch.isfinite(parts[key]).all()) for key in ("LH", "LJ"))
    known = known and bool((parts["Lt"] == 0).all())
    if options.bound == "published" and known:
        norms, rigorous = ev.norm_J(level)
        if rigorous:
            constants = {key: parts[key] for key in ("mu", "Lg", "LH", "LJ")}
            bars = hypergradient_bar_maid(level.gg_norm, level.eps, level.delta, norm_J=norms, **constants)
            return float(bars.mean())
    if options.bound == "estimate":
        return 1.25 * float(ev.gradient_error(level).norm())
    return ev.gradient_bar(level)[0]


def _spent(ev, level, now):
    """Return whether rounding lets no accuracy be asked for that is better than what there is."""
    return bool((now.eps <= 2 * ev.eps_floor(level)).all()) or not now.eps > 1e-290


def _lengthen(search, level, now, options):
    """Set the first trial of the line search: the first one of all, or that of Barzilai and Borwein."""
    if now.alpha is None:
        now.alpha = 0.5 / float(level.z.abs().max())
    if options.direction == "bb" and now.move is not None:
        change = level.z - now.old_z
        curvature = float(now.move @ change)
        if curvature > 1e-10 * float(now.move.norm() * change.norm()):
            now.alpha = float(now.move @ now.move) / curvature


def _line_search(search, level, now, options):
    """Return the level of an accepted trial, or None where rounding leaves nothing to gain."""
    ev = search.evaluator
    while True:
        top, bottom = _ends(ev, level, options)
        reference = bottom
        if options.direction == "bb" and now.weight > 0:
            # The lower ends enter the average, so that it is still one of exact values that bounds the new one.
            reference = max(bottom, now.average)
        for i in range(now.trials):
            # The second half of the trials is the monotone search.
            start = reference if i < now.trials // 2 else bottom
            alpha = now.alpha * options.rho**i
            theta = search.clip(level.theta - alpha * level.z)
            move = theta - level.theta
            decrease = -options.lam * float(level.z @ move)
            if not float(move.abs().max()) > 0:
                break
            trial = _tried(ev, theta, level, now.eps)
            if trial is not None and _ends(ev, trial, options)[0] - start + decrease <= 0:
                now.alpha, now.eps = options.rho_bar * alpha, options.nu_bar * now.eps
                now.delta = options.nu_bar * now.delta
                now.trials, now.step = options.max_backtracks, float(move.norm())
                now.move, now.old_z = move, level.z
                now.average = (0.85 * now.weight * now.average + bottom) / (0.85 * now.weight + 1)
                now.weight = 0.85 * now.weight + 1
                trial.parts["q0"] = level.q
                search.all_rigorous &= ev.value(level)[2] and ev.value(trial)[2]
                return trial
        if _spent(ev, level, now):
            return None
        now.eps, now.delta, now.trials = options.nu * now.eps, options.nu * now.delta, now.trials + 1
        level, _ = _descent_direction(search, level, now, options)


def _tried(ev, theta, level, eps):
    try:
        return ev.solve(theta, level.x, ev.eps_floor(level).clamp_min(eps))
    except NotFinite:
        return None


def _ends(ev, level, options):
    """Return the upper and the lower end of the bar of the value."""
    value, bar, _ = ev.value(level)
    bottom = value - bar
    if options.convex:
        bottom += 0.5 * float((level.Lg * level.eps**2).mean())
    return value + bar, bottom
