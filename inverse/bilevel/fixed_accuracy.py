r"""Gradient descent at one accuracy: what is done where nobody asks how exact the lower level must be.

.. math:: \theta^+ = \theta - \alpha z, \qquad v^+ \le v - \lambda \alpha \|z\|^2

with values and hypergradients as they come at the fixed accuracy, in a line search that takes them for exact.

Notation  v value of the upper level; z hypergradient; eps, delta accuracies of lower level and adjoint; alpha step.
Cost      a lower-level solve for each trial, an adjoint for each accepted step.
Pitfalls  what accuracy is right is known afterwards: too loose, and the search ends where the error of the values hides
          their decrease; too tight, and every step pays for it. Nothing is certified.
References  M. J. Ehrhardt, L. Roberts, Inexact derivative-free optimization for bilevel learning, 2021, arXiv
          2006.12674, where fixed and dynamic accuracies are compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from sciml.inverse.bilevel.evaluate import BudgetReached, NotFinite
from sciml.inverse.bilevel.search import Snapshot
from sciml.validation import check_number

__all__ = ["FixedAccuracy", "fixed_accuracy_steps"]


@dataclass(frozen=True)
class FixedAccuracy:
    """Options of gradient descent at one accuracy.

    Parameters
    ----------
    eps : float
        Accuracy of the lower level, a distance in units of x; 1e-3 by default.
    delta : float or None
        Residual of the adjoint, in units of g over those of x; None (the default) takes `eps`.
    alpha0 : float or None
        First step; None (the default) takes the one that moves the largest component of theta by 0.5.
    rho, rho_bar : float
        Factors of the step after a refused trial and after a success; 0.5 and 10/9 by default.
    lam : float
        Part of the first-order decrease that is asked for; 1e-4 by default.
    max_backtracks : int
        Trials of a line search; 30 by default.

    Raises
    ------
    InvalidInputError
        If a number is out of its range.

    Examples
    --------
    >>> from sciml.inverse.bilevel.fixed_accuracy import FixedAccuracy
    >>> FixedAccuracy(eps=1e-5).rho
    0.5
    """

    eps: float = 1e-3
    delta: float | None = None
    alpha0: float | None = None
    rho: float = 0.5
    rho_bar: float = 10 / 9
    lam: float = 1e-4
    max_backtracks: int = 30

    def __post_init__(self):
        check_number("eps", self.eps, low=0, inclusive="neither")
        for name in ("delta", "alpha0"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low=0, inclusive="neither")
        for name in ("rho", "lam"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive="neither")
        check_number("rho_bar", self.rho_bar, low=1)
        check_number("max_backtracks", self.max_backtracks, low=1, integer=True)


@dataclass
class _Now:
    alpha: float | None
    step: float = 0.0


def fixed_accuracy_steps(search, options):
    """Yield the accepted points, the start first.

    Parameters
    ----------
    search : Search
        The problem, its budget and its bounds.
    options : FixedAccuracy
        Options.

    Yields
    ------
    Step
        With a Snapshot as value.
    """
    ev = search.evaluator
    delta = options.eps if options.delta is None else options.delta
    search.all_rigorous = False  # steps are not decided by bars
    if search.saved is not None:
        level, now = ev.level(search.saved["level"]), _Now(**search.saved["now"])
    else:
        level, now = _solved(ev, search.theta0, search.x0, options.eps), _Now(options.alpha0)
        ev.gradient(ev.adjoint(level, delta))
        search.first = ev.value(level)[0]
    try:
        while True:
            value, bar, rigorous = ev.value(level)
            criterion = search.criterion(level.theta, level.z, value)
            if search.save is not None:
                search.save({"level": ev.state(level), "now": asdict(now)})
            yield search.step(Snapshot(level.theta, value, bar, rigorous, level), criterion, step=now.step)
            new = _line_search(search, level, value, now, options)
            if new is None:
                return search.finish(
                    "no_descent",
                    f"no step along the gradient lowers the value as it comes at eps={options.eps:g}: lower eps",
                )
            level = new
            ev.gradient(ev.adjoint(level, delta))
    except BudgetReached as end:
        return search.finish("budget", f"{end}: raise it, or loosen tol")


def _line_search(search, level, value, now, options):
    """Return the level of an accepted trial, or None."""
    ev = search.evaluator
    if now.alpha is None:
        now.alpha = 0.5 / float(level.z.abs().max())
    for i in range(options.max_backtracks):
        alpha = now.alpha * options.rho**i
        theta = search.clip(level.theta - alpha * level.z)
        move = theta - level.theta
        if not float(move.abs().max()) > 0:
            return None
        try:
            trial = _solved(ev, theta, level.x, options.eps)
        except NotFinite:
            continue
        if ev.value(trial)[0] <= value + options.lam * float(level.z @ move):
            now.alpha, now.step = options.rho_bar * alpha, float(move.norm())
            trial.parts["q0"] = level.q
            return trial
    return None


def _solved(ev, theta, x, eps):
    return ev.solve(theta, x, torch.full((ev.B,), eps, dtype=torch.float64, device=ev.device))
