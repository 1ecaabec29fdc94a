r"""What is known at one theta: the lower level solved, the adjoint solved, value and hypergradient with their bars.

.. math:: c = g(x) - q^T G, \qquad z = \partial_\theta g - J^T q + \nabla r, \qquad H q = \nabla g + O(\delta)

Notation  a :class:`Level` holds x, G, q (B, *shape) and per-sample numbers (B,); c is the value that the adjoint
          corrected; eps bounds the distance to the minimiser, delta the residual of the adjoint.
Cost      memory of 5 arrays of the size of x and the linearisation, flat in the iterations of every solver.
Pitfalls  sums over samples are taken over blocks that the number of samples alone decides, in their order, so that
          neither the size of a chunk nor the number of workers changes a bit of them. A value without its bar means
          nothing: compare levels by :meth:`Evaluator.value` alone.
References  Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv 2308.10098; Ehrhardt, Roberts, 2024, arXiv 2301.04764.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from sciml import parallel
from sciml.inverse.bilevel.certificates import hypergradient_bar, hypergradient_bar_response
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.dense import fits
from sciml.inverse.bilevel.lower import NotFinite
from sciml.inverse.bilevel.stages import (
    adjoint_chunk,
    error_chunk,
    gradient_chunk,
    norm_chunk,
    response_chunk,
    row_norms,
    solve_chunk,
)

__all__ = ["BudgetReached", "Evaluator", "Level", "NotFinite"]

# Largest number of blocks whose sums are kept apart.
_BLOCKS = 64
# Above this many times Lg, the Lipschitz constant of the Hessian makes rigorous bars useless for decisions.
_ABSURD = 1e3


class BudgetReached(Exception):
    """The units or seconds that were allowed are spent."""


@dataclass
class Level:
    """What is known at one theta; arrays of all samples, filled in the order solve, adjoint, gradient.

    Parameters
    ----------
    theta : torch.Tensor, shape (n,), float64
        The hyperparameters, always on the CPU, as z and all that has no axis of samples.
    parts : dict of torch.Tensor, first axis B
        x, G, G_norm, eps, mu, L, LH, LJ, g, gg (gradient of g), gg_norm, Lg, Lt, and after the adjoint q, q_norm,
        delta, c, b1, b1e, grain; NaN stands for an unknown constant.
    z : torch.Tensor, shape (n,), float64, or None
        The hypergradient.
    points : list
        The linearisations, one a chunk; None where there is none.
    estimated : set of str
        Names of constants that were estimated.
    linear : bool
        Whether the linearisation was paid for; where it is not at hand any more, it is made again for nothing.
    """

    theta: torch.Tensor
    parts: dict
    z: torch.Tensor | None = None
    points: list = field(default_factory=list)
    estimated: set = field(default_factory=set)
    linear: bool = False

    def __getattr__(self, name):
        parts = self.__dict__.get("parts") or {}
        if name in parts:
            return parts[name]
        raise AttributeError(name)

    @property
    def has_adjoint(self):
        """Whether the adjoint was solved at this x."""
        return "q" in self.parts


class Evaluator:
    """Solve lower level and adjoint to asked accuracies, chunk by chunk, and count what it costs.

    Parameters
    ----------
    lower : Lower
        The lower level.
    upper : UpperLoss
        The upper level.
    x0 : torch.Tensor, shape (B, *shape)
        Start of the very first solve; gives dtype and device.
    n : int
        Hyperparameters.
    solver : {"auto", "nag", "newton_cg", "lbfgs", "cg"}
        Method of the lower level; "auto" (the default) takes conjugate gradients for quadratic energies, Newton-CG for
        few unknowns or bad conditioning, accelerated gradients otherwise.
    certificate : {"adjoint", "plain", "rigorous"}
        Which values and bars decide; see :meth:`value`.
    lower_error : {"bound", "newton"}
        What eps is: the bound |G| / mu, or the norm of a Newton correction, an estimate that does not need mu.
    batch_size : int or None
        Samples a chunk; None (the default) takes all at once.
    n_jobs : int or None
        Workers for the chunks.
    max_inner : int
        Iterations of one lower solve at most.
    max_units, max_seconds : float or None
        Budget; None (the default) means none.
    """

    def __init__(
        self,
        lower,
        upper,
        x0,
        n,
        *,
        solver="auto",
        certificate="adjoint",
        lower_error="bound",
        batch_size=None,
        n_jobs=None,
        max_inner=20_000,
        max_units=None,
        max_seconds=None,
    ):
        self.lower, self.upper = lower, upper
        self.B, self.n, self.shape = len(x0), n, tuple(x0.shape[1:])
        self.dtype, self.device = x0.dtype, x0.device
        self.certificate, self.lower_error = certificate, lower_error
        self.max_inner = max_inner
        self.max_units, self.max_seconds = max_units, max_seconds
        self.count = Counter()
        self.n_lower = self.n_cg = 0  # iterations of the slowest sample, summed over solves
        self.workers = parallel._workers(n_jobs)
        self.n_jobs = n_jobs
        self.dense = False  # whether Hessians are formed and factored, which methods decide
        self.solver = solver
        block = -(-self.B // _BLOCKS)
        size = self.B if batch_size is None else min(self.B, -(-batch_size // block) * block)
        self.chunks = [(a, min(a + size, self.B)) for a in range(0, self.B, size)]
        self.block = block
        self.doubt = 1.0  # what the given mu is multiplied by after it was contradicted
        self.contradicted: dict[str, float] = {}
        self.started = time.perf_counter()
        self.limited = False  # the start is evaluated whatever it costs: without it there is no answer

    # ---------------------------------------------------------------- stages

    def solve(self, theta, x0, eps, near=None):
        """Solve the lower level at theta to a distance eps, and look at the upper level there.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.
        x0 : torch.Tensor, shape (B, *shape)
            Start.
        eps : float or torch.Tensor, shape (B,)
            Wanted distance to the minimiser, in units of x; None takes 0.3 |G(x0)| / mu.
        near : Level or None
            A level whose Hessians, where they were formed, precondition; None (the default) means none.

        Returns
        -------
        Level
        """
        items, H = [], None if near is None else near.parts.get("H", near.parts.get("near"))
        for a, b in self.chunks:
            e = eps[a:b] if isinstance(eps, torch.Tensor) else eps
            item = {"theta": theta, "start": a, "x": x0[a:b], "eps": e, "near": None if H is None else H[a:b]}
            items.append({**item, **self._plan()})
        return self._gather(theta, self._map(solve_chunk, items), {})

    def refine(self, level, eps, warm=True):
        """Solve on, from where a level stands, to a smaller distance.

        Parameters
        ----------
        level : Level
            Where to start.
        eps : float or torch.Tensor, shape (B,)
            Wanted distance to the minimiser.
        warm : bool
            Move the start by the Newton correction where the adjoint's linearisation is at hand; True by default.

        Returns
        -------
        Level
            Without an adjoint; its old q is kept as ``parts["q0"]`` to start from.
        """
        new = self.solve(level.theta, level.x, eps, level)
        if "q" in level.parts:
            new.parts["q0"] = level.parts["q"]
        near = level.parts.get("H", level.parts.get("near"))
        if near is not None:
            new.parts["near"] = near
        return new

    def again(self, level):
        """Return a copy of a level, for an adjoint of its own at the same x.

        Parameters
        ----------
        level : Level
            Any.

        Returns
        -------
        Level
            Shares the arrays and the linearisations.
        """
        return Level(level.theta, dict(level.parts), level.z, list(level.points), set(level.estimated), level.linear)

    def adjoint(self, level, delta, q0=None):
        """Solve H q = grad g to residuals delta, and correct the value by q.

        Parameters
        ----------
        level : Level
            Where; it is completed in place.
        delta : float or torch.Tensor, shape (B,)
            Bounds of the residual norms.
        q0 : torch.Tensor, shape (B, *shape), or None
            Start; None (the default) takes what the level had, else zero.

        Returns
        -------
        Level
            The same.
        """
        q0 = level.parts.get("q", level.parts.get("q0")) if q0 is None else q0
        keys = ("x", "G", "gg", "g", "eps", "mu", "L", "Lg", "LH", "noise")
        items = []
        for i, (a, b) in enumerate(self.chunks):
            item = {key: level.parts[key][a:b] for key in keys}
            item |= {"theta": level.theta, "start": a, "point": level.points[i], "dense": self.dense}
            item |= self._hessians(level, a, b)
            item["q"] = None if q0 is None else q0[a:b]
            item["delta"] = delta[a:b] if isinstance(delta, torch.Tensor) else delta
            items.append(item)
        return self._gather(level.theta, self._map(adjoint_chunk, items, level), level, level)

    def gradient(self, level):
        """Form the hypergradient from the adjoint.

        Parameters
        ----------
        level : Level
            With an adjoint; its `z` is set.

        Returns
        -------
        torch.Tensor, shape (n,), float64
        """
        items = []
        for i, (a, b) in enumerate(self.chunks):
            item = {"theta": level.theta, "start": a, "x": level.x[a:b], "q": level.q[a:b], "point": level.points[i]}
            items.append({**item, "blocks": self._blocks(a, b)})
        got = self._map(gradient_chunk, items, level)
        rows = torch.cat([part["z"] for part in got])
        level.parts["z_rows"] = rows.norm(dim=1)
        z = rows.sum(0).cpu() / self.B
        _, dr, _ = self._r(level.theta)
        level.z = z if dr is None else z + dr
        return level.z

    def responses(self, level, rtol, S0=None):
        """Solve for the response S = -H^-1 J of the minimisers, and form the Gauss-Newton matrix.

        Parameters
        ----------
        level : Level
            Where; its parts get ``S_norm`` (B,), a bound of |H^-1 J| where mu is one.
        rtol : float
            Residuals over the norms of the columns of J.
        S0 : torch.Tensor, shape (n, B, *shape), or None
            Start; None (the default) means zero.

        Returns
        -------
        S : torch.Tensor, shape (n, B, *shape)
        gauss_newton : torch.Tensor, shape (n, n), float64
        """
        items = []
        for i, (a, b) in enumerate(self.chunks):
            item = {"theta": level.theta, "start": a, "x": level.x[a:b], "mu": level.mu[a:b], "point": level.points[i]}
            item |= {"dense": self.dense, **self._hessians(level, a, b)}
            items.append({**item, "rtol": rtol, "S": None if S0 is None else S0[:, a:b]})
        got = self._map(response_chunk, items, level)
        S = torch.cat([part["S"] for part in got], dim=1)
        level.parts["S_norm"] = torch.cat([part["S_norm"] for part in got])
        matrix = torch.cat([part["gauss_newton"] for part in got]).sum(0).cpu() / self.B
        _, _, hessian = self._r(level.theta)
        if hessian is not None:
            matrix = matrix + torch.stack([hessian(e) for e in torch.eye(self.n, dtype=torch.float64)])
        return S, 0.5 * (matrix + matrix.T)

    def gradient_error(self, level, S=None):
        """Return the first-order error of the hypergradient: what it is short of the exact one.

        Parameters
        ----------
        level : Level
            With adjoint.
        S : torch.Tensor, shape (n, B, *shape), or None
            Responses, where they are known; None (the default) solves one more adjoint system.

        Returns
        -------
        torch.Tensor, shape (n,), float64
            z plus this is a hypergradient with an error of second order.
        """
        items = []
        for i, (a, b) in enumerate(self.chunks):
            item = {"theta": level.theta, "start": a, "point": level.points[i], "blocks": self._blocks(a, b)}
            item |= {key: level.parts[key][a:b] for key in ("x", "G", "q", "gg", "Lt")}
            items.append({**item, **self._hessians(level, a, b), "S": None if S is None else S[:, a:b]})
        got = self._map(error_chunk, items, level)
        return torch.cat([part["error"] for part in got]).sum(0).cpu() / self.B

    def norm_J(self, level):
        """Return upper bounds of the spectral norms of J, and whether they are bounds.

        Parameters
        ----------
        level : Level
            Where.

        Returns
        -------
        norms : torch.Tensor, shape (B,)
        rigorous : bool
        """
        items = []
        for i, (a, b) in enumerate(self.chunks):
            items.append({"theta": level.theta, "start": a, "x": level.x[a:b], "point": level.points[i]})
        got = self._map(norm_chunk, items, level)
        return torch.cat([part["norm"] for part in got]), all(part["rigorous"] for part in got)

    # ---------------------------------------------------------------- what is said of a level

    def value(self, level, certificate=None):
        """Return the value of the upper level, its bar, and whether the bar is a theorem.

        With "plain" the value is g(x) and the bar linear in eps. With "rigorous" it is g(x) or the corrected value,
        whichever has the smaller proven bar. "adjoint" takes the estimate 2 (delta eps + Lg eps^2) for the corrected
        value where the Lipschitz constant of the Hessian is unknown, or absurdly large.

        Parameters
        ----------
        level : Level
            With or without adjoint.
        certificate : {"adjoint", "plain", "rigorous"} or None
            None (the default) takes that of the evaluator.

        Returns
        -------
        value : float
        bar : float
        rigorous : bool
        """
        mode = self.certificate if certificate is None else certificate
        values, bars, rigorous = self._samples(level, mode)
        r, _, _ = self._r(level.theta)
        value = float(values.sum()) / self.B + r
        rounding = 8 * torch.finfo(torch.float64).eps
        bar = float(bars.sum()) / self.B + rounding * (float(values.abs().mean()) + abs(r))
        return value, bar, rigorous and self.sound(level)

    def _samples(self, level, mode):
        plain_known = not level.estimated & {"Lg", "mu"} and self.lower_error == "bound"
        if mode == "plain" or not level.has_adjoint:
            return level.g, level.b0, plain_known
        known = bool(torch.isfinite(level.LH).all())
        useful = known and float((level.LH * level.q_norm / level.Lg.clamp_min(1e-300)).max()) <= _ABSURD
        if mode == "rigorous" or useful:
            corrected, rigorous = level.b1, plain_known
        else:
            corrected, rigorous = level.b1e, False
        better = corrected <= level.b0
        # Where the plain bar wins everywhere, nothing estimated was used.
        if not bool(better.any()):
            rigorous = plain_known
        return torch.where(better, level.c, level.g), torch.where(better, corrected, level.b0), rigorous

    def grain(self, level):
        """Return the part of the bar of a value that is rounding, which no refinement shortens.

        Parameters
        ----------
        level : Level
            With or without adjoint.

        Returns
        -------
        float
        """
        rounding = level.parts.get("grain", level.noise)
        return float(rounding.mean()) + 8 * torch.finfo(torch.float64).eps * float(level.g.abs().mean())

    def sound(self, level):
        """Return whether the constants of a level were given, and nothing seen contradicts them.

        Parameters
        ----------
        level : Level
            Where.

        Returns
        -------
        bool
        """
        return not self.contradicted and "mu" not in level.estimated and self.lower_error == "bound"

    def gradient_bar(self, level, S=None):
        """Return a bound of the error of z where the constants are known, else an estimate.

        Parameters
        ----------
        level : Level
            With `z`.
        S : torch.Tensor, shape (n, B, *shape), or None
            Responses, where they are known.

        Returns
        -------
        bar : float
            In the 2-norm.
        rigorous : bool
        """
        parts = level.parts
        known = self.sound(level) and not level.estimated & {"Lg", "mu"}
        known = known and all(bool(torch.isfinite(parts[key]).all()) for key in ("LH", "LJ", "Lt"))
        if known:
            norms, rigorous = self.norm_J(level)
            constants = {key: parts[key] for key in ("mu", "Lg", "LH", "LJ", "Lt")}
            bars = hypergradient_bar(level.q_norm, level.eps, level.delta, norm_J=norms, **constants)
            if "S_norm" in parts:
                other = hypergradient_bar_response(level.q_norm, parts["S_norm"], level.eps, level.delta, **constants)
                bars = torch.minimum(bars, other)
            # Rounding of the products J'q and of their sum.
            eps = torch.finfo(self.dtype).eps
            bars = bars + 8 * eps * norms * level.q_norm
            if rigorous:
                return float(bars.mean()) + 8 * eps * float(level.z.norm()), True
        return self.estimated_gradient_bar(level, S), False

    def estimated_gradient_bar(self, level, S=None):
        """Return an estimate of the error of z: that of first order, a quarter more, and what rounding may do.

        Parameters
        ----------
        level : Level
            With `z`.
        S : torch.Tensor, shape (n, B, *shape), or None
            Responses, where they are known.

        Returns
        -------
        float
            In the 2-norm.
        """
        parts, unit = level.parts, torch.finfo(self.dtype).eps
        rounding = 64 * unit * float(parts["z_rows"].sum()) / self.B
        if "S_norm" in parts:
            # That of x itself.
            rounding += 4 * unit * float((parts["S_norm"] * parts["Lg"] * row_norms(level.x)).mean())
        return 1.25 * float(self.gradient_error(level, S).norm()) + rounding

    def eps_for(self, level, bar):
        """Return the distances at which the bar of the value would be about `bar`.

        Parameters
        ----------
        level : Level
            Gives the constants; with an adjoint the corrected bar is aimed at.
        bar : float
            Of the mean over the samples.

        Returns
        -------
        torch.Tensor, shape (B,)
        """
        if self.certificate == "plain" or not level.has_adjoint:
            slope, curvature = level.gg_norm, 0.5 * level.Lg
            return 2 * bar / (slope + torch.sqrt(slope * slope + 4 * curvature * bar)).clamp_min(1e-300)
        known = torch.isfinite(level.LH) & (level.LH * level.q_norm <= _ABSURD * level.Lg)
        if self.certificate == "rigorous":
            known = torch.isfinite(level.LH)
        curvature = torch.where(known, 0.5 * (level.Lg + level.LH * level.q_norm), 2 * level.Lg)
        return torch.sqrt(bar / curvature.clamp_min(1e-300))

    def eps_floor(self, level):
        """Return the distances that rounding does not let one fall below.

        Parameters
        ----------
        level : Level
            Gives the scale of x.

        Returns
        -------
        torch.Tensor, shape (B,)
        """
        unit = 1e-6 if self.dtype == torch.float32 else 4 * torch.finfo(self.dtype).eps
        return unit * row_norms(level.x)

    # ---------------------------------------------------------------- units, workers, states

    @property
    def units(self):
        """Units spent so far."""
        return self.count.units(self.B)

    def check_budget(self):
        """Raise where units or seconds are spent."""
        if not self.limited:
            return
        if self.max_units is not None and self.units >= self.max_units:
            raise BudgetReached(f"max_units={self.max_units:g} were spent")
        if self.max_seconds is not None and time.perf_counter() - self.started >= self.max_seconds:
            raise BudgetReached(f"max_seconds={self.max_seconds:g} have passed")

    def state(self, level):
        """Return what a level can be rebuilt from.

        Parameters
        ----------
        level : Level
            Any.

        Returns
        -------
        dict
        """
        return {
            "theta": level.theta,
            "parts": {key: part for key, part in level.parts.items()},
            "z": level.z,
            "estimated": sorted(level.estimated),
            "linear": level.linear,
        }

    def level(self, state):
        """Rebuild a level from its state; nothing is counted.

        Parameters
        ----------
        state : dict
            From :meth:`state`.

        Returns
        -------
        Level
        """
        parts = {key: part.to(self.device) for key, part in state["parts"].items()}
        points = [None] * len(self.chunks)
        return Level(state["theta"], parts, state["z"], points, set(state["estimated"]), state["linear"])

    def _r(self, theta):
        """Return the term of theta alone, its gradient and its Hessian, where theta is kept: on the CPU."""
        value, gradient, hessian = self.upper.r(theta.to(self.device))
        if gradient is None:
            return value, None, None
        return value, gradient.cpu(), lambda t: hessian(t.to(self.device)).cpu()

    @staticmethod
    def _hessians(level, a, b):
        """Return the Hessians at hand for a chunk: those of the level, and those of a level nearby."""
        parts = {key: level.parts.get(key) for key in ("H", "near")}
        return {key: None if H is None else H[a:b] for key, H in parts.items()}

    def weigh_dense(self, before):
        """Turn to factored Hessians where the iterations since `before` would have paid for forming them."""
        d = math.prod(self.shape)
        if fits(self.B, d) and self.n_cg - before > d:
            self.dense = True

    def _plan(self):
        return {
            "solver": self.solver,
            "max_inner": self.max_inner,
            "doubt": self.doubt,
            "lower_error": self.lower_error,
        }

    def _blocks(self, a, b):
        """Return the blocks of a chunk, relative to its first sample."""
        return [slice(i - a, min(i + self.block, b) - a) for i in range(a, b, self.block)]

    def _map(self, stage, items, level=None):
        """Run a stage for every chunk, here or in workers, and take its counts and its linearisations."""
        self.check_budget()
        for item in items:
            item["theta"] = item["theta"].to(self.device)
            item |= {"free": level is not None and level.linear, "guess": level is not None and "mu" in level.estimated}
        if self.workers > 1 and len(items) > 1:
            bare = [{**item, "point": None} for item in items]
            task = _Remote(stage, self.lower, self.upper)
            got = parallel.map(task, bare, n_jobs=self.n_jobs, threads=1, progress=False)
            got = [{key: _moved(part, self.device) for key, part in one.items()} for one in got]
        else:
            got = [stage(self.lower, self.upper, item) for item in items]
        for i, one in enumerate(got):
            self.count.add(one.pop("count"))
            point = one.pop("point", None)
            linear = one.pop("linear", point is not None)
            if len(items) > 1:
                # Chunks are there to bound memory: a linearisation is made again where it is needed.
                point = None
            if level is None:
                one |= {"point": point, "linear": linear}
            else:
                level.points[i] = point if point is not None else level.points[i]
                level.linear = level.linear or linear
        self.n_lower += max((one.pop("n_lower", 0) for one in got), default=0)
        self.n_cg += max((one.pop("n_cg", 0) for one in got), default=0)
        for one in got:
            self._doubt(one.pop("seen", {}))
        return got

    def _doubt(self, seen):
        """Remember by how much what was seen contradicts a given constant."""
        if self.lower.exact:
            return
        for name, factor in seen.items():
            if not name.startswith("estimated"):
                self.contradicted[name] = min(self.contradicted.get(name, 1.0), factor)
            self.doubt *= min(1.0, 0.5 * factor)

    def _gather(self, theta, got, kept, level=None):
        level = Level(theta, {}, None, [None] * len(got)) if level is None else level
        for i, one in enumerate(got):
            if "point" in one:
                level.points[i] = one.pop("point")
                level.linear = one.pop("linear")
            level.estimated |= set(one.pop("estimated", ()))
        for key in got[0]:
            level.parts[key] = torch.cat([one[key] for one in got])
        bad = not bool(torch.isfinite(level.parts["c" if "c" in level.parts else "g"]).all())
        if bad or not bool(torch.isfinite(level.parts["G_norm"]).all()):
            raise NotFinite
        return level


class _Remote:
    """A stage for a worker: no linearisation travels, and what rebuilds one is not counted again."""

    def __init__(self, stage, lower, upper):
        self.stage, self.lower, self.upper = stage, lower, upper

    def __call__(self, item):
        got = self.stage(self.lower, self.upper, item)
        got["linear"] = got.pop("point", None) is not None
        return got


def _moved(part: Any, device):
    return part.to(device) if isinstance(part, torch.Tensor) else part
