r"""Stochastic hypergradients: a minibatch a step, accuracies that fall like the square root, Adam on z.

.. math:: \varepsilon_k = \varepsilon_0 k^{-1/2}, \qquad m \leftarrow \beta_1 m + (1 - \beta_1) z, \qquad
          s \leftarrow \beta_2 s + (1 - \beta_2) z^2, \qquad
          \theta \leftarrow \theta - \alpha k^{-p} \frac{m / (1 - \beta_1^k)}{\sqrt{s / (1 - \beta_2^k)} + \epsilon}

Notation  z hypergradient of a minibatch at accuracy eps_k of lower level and adjoint; k counts minibatches.
Cost      a step solves the lower level of its minibatch alone, from where it was solved last; after every pass through
          the samples all of them are solved, for the value and the hypergradient that are reported.
Pitfalls  nothing is certified. With few samples the full-batch methods are faster: a pass costs as much as one of their
          steps and a half. Each sample's x and q are kept between passes, as memory of the size of the batch.
References  M. S. Salehi et al., on inexact stochastic gradients for bilevel learning, 2024, arXiv 2412.12049, and 2025,
          arXiv 2511.06774; D. Kingma, J. Ba, Adam, a method for stochastic optimization, 2015.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from sciml.inverse.bilevel.evaluate import BudgetReached, Evaluator
from sciml.inverse.bilevel.lower import Lower
from sciml.inverse.bilevel.search import Snapshot
from sciml.validation import check_number

__all__ = ["Stochastic", "stochastic_steps"]


@dataclass(frozen=True)
class Stochastic:
    """Options of the stochastic method; an iteration is one pass through the samples.

    Parameters
    ----------
    minibatch : int or None
        Samples a step; None (the default) takes an eighth of them, at least one.
    eps0 : float or None
        First accuracy of lower level and adjoint, a distance in units of x; None (the default) takes a tenth of the
        size of x at the start, solved loosely.
    eps_decay : float
        Power of 1 / k in the accuracies; 0.5 by default, as published.
    step : float
        First step of Adam, in units of theta; 0.1 by default, which suits logarithms.
    step_decay : float
        Power p of 1 / k in the steps; 0.5 by default, so that the steps outrun the noise of the minibatches.
    beta1, beta2 : float
        Memory of the mean of z and of its square; 0.9 and 0.999 by default.

    Raises
    ------
    InvalidInputError
        If a number is out of its range.

    Examples
    --------
    >>> from sciml.inverse.bilevel.stochastic import Stochastic
    >>> Stochastic(minibatch=4).beta1
    0.9
    """

    minibatch: int | None = None
    eps0: float | None = None
    eps_decay: float = 0.5
    step: float = 0.1
    step_decay: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self):
        if self.minibatch is not None:
            check_number("minibatch", self.minibatch, low=1, integer=True)
        if self.eps0 is not None:
            check_number("eps0", self.eps0, low=0, inclusive="neither")
        check_number("step", self.step, low=0, inclusive="neither")
        for name in ("eps_decay", "step_decay"):
            check_number(name, getattr(self, name), low=0)
        for name in ("beta1", "beta2"):
            check_number(name, getattr(self, name), low=0, high=1, inclusive="low")


@dataclass
class _Now:
    k: int
    eps0: float
    mean: torch.Tensor
    square: torch.Tensor
    scale: float  # of the first hypergradient: what the epsilon of Adam is relative to


def stochastic_steps(search, options):
    """Yield the point after each pass through the samples, the start first.

    Parameters
    ----------
    search : Search
        The problem, its budget, its bounds and its random numbers.
    options : Stochastic
        Options.

    Yields
    ------
    Step
        With a Snapshot as value; its numbers are those of all samples.
    """
    ev = search.evaluator
    search.all_rigorous = False
    if search.saved is not None:
        level, now = ev.level(search.saved["level"]), _Now(**search.saved["now"])
    else:
        level, eps0 = _start(search, options)
        zero = torch.zeros_like(level.theta)
        now = _Now(0, eps0, zero, zero.clone(), float(level.z.abs().max()))
        search.first = ev.value(level)[0]
    try:
        while True:
            value, bar, _ = ev.value(level)
            criterion = search.criterion(level.theta, level.z, value)
            if search.save is not None:
                search.save({"level": ev.state(level), "now": vars(now).copy()})
            snapshot = Snapshot(level.theta, value, bar, False, level)
            yield search.step(snapshot, criterion, accuracy=_accuracy(now, options))
            theta, x, q = _pass(search, level, now, options)
            level = ev.solve(theta, x, _accuracy(now, options))
            ev.gradient(ev.adjoint(level, _accuracy(now, options), q))
    except BudgetReached as end:
        return search.finish("budget", f"{end}: raise it, or loosen tol")


def _start(search, options):
    """Return the first level, solved for all samples, and the first accuracy."""
    ev = search.evaluator
    level = ev.solve(search.theta0, search.x0, options.eps0)
    eps0 = options.eps0
    if eps0 is None:
        size = level.x.to(torch.float64).reshape(ev.B, -1).norm(dim=1).mean()
        eps0 = 0.1 * float(size) or float(level.eps.max())
        level = ev.refine(level, eps0)
    ev.gradient(ev.adjoint(level, eps0))
    return level, eps0


def _accuracy(now, options):
    return now.eps0 * max(now.k, 1) ** -options.eps_decay


def _pass(search, level, now, options):
    """Return theta after a step for each minibatch, and the x and q that the samples were left with."""
    ev = search.evaluator
    theta, x, q = level.theta, level.x.clone(), level.q.clone()
    size = options.minibatch or -(-ev.B // 8)
    order = torch.from_numpy(search.rng.permutation(ev.B)).to(ev.device)
    for idx in order.split(size):
        ev.check_budget()
        now.k += 1
        part = _part(ev, idx.sort().values)
        eps = _accuracy(now, options)
        rows = part.lower.index
        small = part.solve(theta, x[rows], eps)
        z = part.gradient(part.adjoint(small, eps, q[rows]))
        x[rows], q[rows] = small.x, small.q
        ev.n_lower, ev.n_cg = ev.n_lower + part.n_lower, ev.n_cg + part.n_cg
        now.mean = options.beta1 * now.mean + (1 - options.beta1) * z
        now.square = options.beta2 * now.square + (1 - options.beta2) * z**2
        mean = now.mean / (1 - options.beta1**now.k)
        spread = torch.sqrt(now.square / (1 - options.beta2**now.k)) + 1e-8 * now.scale
        theta = search.clip(theta - options.step * now.k**-options.step_decay * mean / spread)
    return theta, x, q


def _part(ev, index):
    """Return an evaluator of some samples that counts with that of all."""
    lower, upper = _LowerPart(ev.lower, index), _upper_part(ev.upper, index)
    x = torch.empty((len(index), *ev.shape), dtype=ev.dtype, device=ev.device)
    part = Evaluator(lower, upper, x, ev.n, solver=ev.solver, certificate="plain", max_inner=ev.max_inner)
    part.count, part.doubt = ev.count, ev.doubt
    return part


class _LowerPart(Lower):
    """Some samples of a lower level, numbered from zero."""

    def __init__(self, lower, index):
        self.lower, self.index = lower, index
        self.n_samples, self.shape = len(index), lower.shape
        self.exact, self.quadratic = lower.exact, lower.quadratic

    def constants(self, theta, idx):
        return self.lower.constants(theta, self.index[idx])

    def gradient(self, x, theta, idx, count):
        return self.lower.gradient(x, theta, self.index[idx], count)

    def at(self, x, theta, idx, count, value=False):
        return _PointPart(self.lower.at(x, theta, self.index[idx], count, value), idx)

    def solve(self, x0, theta, idx, eps, count, max_iter):
        return self.lower.solve(x0, theta, self.index[idx], eps, count, max_iter)

    def norm_J(self, point):
        return self.lower.norm_J(point.whole)


class _PointPart:
    """A linearisation whose samples are numbered from zero; all else is that of the lower level."""

    def __init__(self, whole, idx):
        vars(self).update(whole=whole, idx=idx)

    def __getattr__(self, name):
        return getattr(vars(self)["whole"], name)

    def __setattr__(self, name, value):
        setattr(self.whole, name, value)


def _upper_part(upper, index):
    """Return some samples of an upper level, numbered from zero: the same functions, of other samples."""
    part = copy.copy(upper)
    for name in ("value", "gradient", "gradient_theta", "cross_adjoint", "hvp", "Lg", "Lt"):
        setattr(part, name, _numbered(getattr(upper, name), 2, index))
    part.n_samples = len(index)
    return part


def _numbered(method, place, index):
    def call(*args):
        args = list(args)
        args[place] = index[args[place]]
        return method(*args)

    return call
