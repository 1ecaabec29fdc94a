r"""HOAG, hyperparameter optimization with approximate gradient: accuracies by a schedule, steps by an estimate of L.

.. math:: \theta_{k+1} = \theta_k - z_k / L_k, \qquad L_0 = \|z_0\| / \sqrt n, \qquad \Delta = \|z\| / L,

.. math:: v_k \le v_{k-1} + C \varepsilon_k + (1 + C) \varepsilon_{k-1} \Delta - L \Delta^2
          \Rightarrow L \leftarrow 0.95 L, \qquad C = \tfrac14,

.. math:: v_k \ge v_{k-1} + 0.2 |v_{k-1}| \Rightarrow \text{back}, \quad L \leftarrow 2 L, \quad
          \varepsilon \leftarrow \varepsilon / 2

Notation  v value of the upper level, without a bar; z hypergradient; eps accuracy of lower level and adjoint alike.
Cost      one lower-level solve and one adjoint a step.
Pitfalls  nothing is compared with a bar, so nothing is certified: a schedule that is too slow lets the value oscillate,
          one that is too fast pays for digits that are not needed. The first test compares distances in x with values,
          as published, so that it depends on units.
References  F. Pedregosa, Hyperparameter optimization with approximate gradient, ICML 2016, arXiv 1602.02355.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from sciml.inverse.bilevel.evaluate import BudgetReached, NotFinite
from sciml.inverse.bilevel.search import Snapshot
from sciml.validation import check_number, check_option

__all__ = ["HOAG", "hoag_steps"]

_SCHEDULES = {
    "geometric": lambda k: 0.9**k,
    "quadratic": lambda k: k**-2.0,
    "cubic": lambda k: k**-3.0,
}


@dataclass(frozen=True)
class HOAG:
    """Options of HOAG.

    Parameters
    ----------
    schedule : {"quadratic", "geometric", "cubic"}
        Accuracy of step k over `eps0`: k^-2 (the default), 0.9^k or k^-3.
    eps0 : float
        Accuracy that the schedule starts from, a distance in units of x, and a residual of the adjoint; 0.1 by default.
    eps_min : float
        Accuracies below this are not asked for; 1e-12 by default.
    L0 : float or None
        First estimate of the Lipschitz constant of the hypergradient; None (the default) takes |z_0| / sqrt(n), a
        first step that moves theta by one a component.

    Raises
    ------
    InvalidInputError
        If a number is out of its range.

    Examples
    --------
    >>> from sciml.inverse.bilevel.hoag import HOAG
    >>> HOAG(schedule="cubic").accuracy(10)
    0.0001
    """

    schedule: str = "quadratic"
    eps0: float = 0.1
    eps_min: float = 1e-12
    L0: float | None = None

    def __post_init__(self):
        check_option("schedule", self.schedule, _SCHEDULES)
        check_number("eps0", self.eps0, low=0, inclusive="neither")
        check_number("eps_min", self.eps_min, low=0, inclusive="neither")
        if self.L0 is not None:
            check_number("L0", self.L0, low=0, inclusive="neither")

    def accuracy(self, k, factor=1.0):
        """Return the accuracy of step k.

        Parameters
        ----------
        k : int
            From 1.
        factor : float
            What steps that went back have left of it; 1 by default.

        Returns
        -------
        float
        """
        return max(factor * self.eps0 * _SCHEDULES[self.schedule](k), self.eps_min)


@dataclass
class _Now:
    k: int
    L: float
    factor: float
    eps: float
    step: float = 0.0


def hoag_steps(search, options):
    """Yield the points of HOAG that were kept, the start first.

    Parameters
    ----------
    search : Search
        The problem, its budget and its bounds.
    options : HOAG
        Options.

    Yields
    ------
    Step
        With a Snapshot as value.
    """
    ev = search.evaluator
    search.all_rigorous = False  # steps are not decided by bars
    if search.saved is not None:
        level, now = ev.level(search.saved["level"]), _Now(**search.saved["now"])
    else:
        eps = options.accuracy(1)
        level = _evaluated(ev, search.theta0, search.x0, eps, None)
        search.first = ev.value(level)[0]
        L = float(level.z.norm()) / len(level.z) ** 0.5 if options.L0 is None else options.L0
        now = _Now(1, L, 1.0, eps)
    try:
        while True:
            value, bar, rigorous = ev.value(level)
            criterion = search.criterion(level.theta, level.z, value)
            if search.save is not None:
                search.save({"level": ev.state(level), "now": asdict(now)})
            snapshot = Snapshot(level.theta, value, bar, rigorous, level)
            yield search.step(snapshot, criterion, step=now.step, accuracy=now.eps, lipschitz=now.L)
            level = _advance(search, level, value, now, options)
            if level is None:
                return search.finish("no_descent", "steps of the length of rounding still raise the value")
    except BudgetReached as end:
        return search.finish("budget", f"{end}: raise it, or loosen tol")


def _advance(search, level, value, now, options):
    """Return the next level that is kept, None where no step is left."""
    ev = search.evaluator
    while True:
        now.k += 1
        old_eps, eps = now.eps, options.accuracy(now.k, now.factor)
        theta = search.clip(level.theta - level.z / now.L)
        length = float((theta - level.theta).norm())
        if not length > 0:
            return None
        try:
            new = _evaluated(ev, theta, level.x, eps, level.q)
            trial = ev.value(new)[0]
        except NotFinite:
            new, trial = None, float("inf")
        # Written with the size of the value, so that a negative one is not "a fifth above itself" at once.
        if trial >= value + 0.2 * abs(value) and trial > value:
            now.L, now.factor = 2 * now.L, 0.5 * now.factor
            continue
        if trial <= value + 0.25 * eps + 1.25 * old_eps * length - now.L * length**2:
            now.L = 0.95 * now.L
        now.eps, now.step = eps, length
        return new


def _evaluated(ev, theta, x, eps, q):
    """Return a level with z, lower level and adjoint both to accuracy eps."""
    level = ev.solve(theta, x, max(eps, 0.0))
    level = ev.adjoint(level, torch.full_like(level.eps, eps), q)
    ev.gradient(level)
    return level
