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

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from sciml import parallel
from sciml.inverse.bilevel.certificates import (
    hypergradient_bar,
    hypergradient_bar_response,
    lower_error,
    value_bar_corrected,
    value_bar_estimated,
    value_bar_plain,
)
from sciml.inverse.bilevel.counter import Counter
from sciml.optimize import batched_cg, lanczos_extremes, nag, newton_cg

__all__ = ["BudgetReached", "Evaluator", "Level", "NotFinite"]

# Largest number of blocks whose sums are kept apart.
_BLOCKS = 64
# Above this many times Lg, the Lipschitz constant of the Hessian makes rigorous bars useless for decisions.
_ABSURD = 1e3


class BudgetReached(Exception):
    """The units or seconds that were allowed are spent."""


class NotFinite(Exception):
    """A solver met NaN or infinity."""


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

    def solve(self, theta, x0, eps):
        """Solve the lower level at theta to a distance eps, and look at the upper level there.

        Parameters
        ----------
        theta : torch.Tensor, shape (n,), float64
            The hyperparameters.
        x0 : torch.Tensor, shape (B, *shape)
            Start.
        eps : float or torch.Tensor, shape (B,)
            Wanted distance to the minimiser, in units of x; None takes 0.3 |G(x0)| / mu.

        Returns
        -------
        Level
        """
        items = []
        for a, b in self.chunks:
            e = eps[a:b] if isinstance(eps, torch.Tensor) else eps
            items.append({"theta": theta, "start": a, "x": x0[a:b], "eps": e, **self._plan()})
        return self._gather(theta, self._map(_solve_chunk, items), {})

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
        new = self.solve(level.theta, level.x, eps)
        if "q" in level.parts:
            new.parts["q0"] = level.parts["q"]
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
            item |= {"theta": level.theta, "start": a, "point": level.points[i]}
            item["q"] = None if q0 is None else q0[a:b]
            item["delta"] = delta[a:b] if isinstance(delta, torch.Tensor) else delta
            items.append(item)
        return self._gather(level.theta, self._map(_adjoint_chunk, items), level, level)

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
        got = self._map(_gradient_chunk, items, level)
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
            items.append({**item, "rtol": rtol, "S": None if S0 is None else S0[:, a:b]})
        got = self._map(_response_chunk, items, level)
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
            items.append({**item, "S": None if S is None else S[:, a:b]})
        got = self._map(_error_chunk, items, level)
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
        got = self._map(_norm_chunk, items, level)
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
        rounding = 8 * torch.finfo(self.dtype).eps * float(parts["z_rows"].sum()) / self.B
        if "S_norm" in parts:
            # That of x itself.
            moved = parts["S_norm"] * parts["Lg"] * _norms(level.x)
            rounding += torch.finfo(self.dtype).eps * float(moved.mean())
        return 1.25 * float(self.gradient_error(level, S).norm()) + rounding, False

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
        return unit * _norms(level.x)

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


# ---------------------------------------------------------------- the work on one chunk


def _solve_chunk(lower, upper, item):
    count, theta = Counter(), item["theta"]
    x0, idx = item["x"], _numbers(item)
    known = lower.constants(theta, idx)
    estimated = set()
    mu, L = known.mu, known.L
    # A solver of the problem's own may find out more of the curvature than holds everywhere.
    own = lower.solve(x0, theta, idx, item["eps"], count, item["max_inner"])
    if own is not None and getattr(own, "mu", None) is not None:
        mu = own.mu
        estimated |= {"mu"} if own.guess else set()
    if mu is None or L is None and item["solver"] in ("auto", "nag"):
        low, high = _extremes(lower, x0, theta, idx, count)
        if mu is None:
            mu = (0.5 * low).clamp_min(1e-12 * high.clamp_min(1e-300))
            estimated.add("mu")
        L = 1.05 * high if L is None else L
    mu = mu.to(torch.float64) * item["doubt"]
    _finite(mu)
    eps, point, got, n_lower, seen = item["eps"], None, own, 0, {}
    if eps is None and got is None:
        eps = 0.3 * _norms(lower.gradient(x0, theta, idx, count)) / mu
    if got is None:
        eps = torch.as_tensor(eps, dtype=torch.float64, device=x0.device).expand(len(x0))
        _finite(eps)
        solver = item["solver"]
        if solver == "auto":
            solver = _choose(lower, x0, mu, L)
        got, point = _minimise(solver, lower, x0, theta, idx, eps, mu, L, count, item)
    x, G = got.x, got.gradient
    G_norm = _norms(G)
    n_lower = int(got.n_iter.max()) if got.n_iter.numel() else 0
    eps = lower_error(G_norm, mu)
    if item["lower_error"] == "newton" and got.last_step is not None:
        # A Newton step that ends below its forcing term leaves at most three tenths of itself.
        step = torch.where(torch.isfinite(got.last_step), 0.3 * got.last_step, eps)
        eps = torch.where(got.n_iter > 0, torch.minimum(eps, step), eps)
    secant = got.secant_min
    if secant is not None:
        _contradict(seen, "mu", (secant / mu).min(), {"guess": known.mu is None})
    # Rounding of the gradient itself.
    unit = torch.finfo(x.dtype).eps
    spread = (L / mu) if L is not None else torch.ones_like(mu)
    eps = eps + unit * spread.clamp(1, 1e12) * _norms(x)
    g, gg = upper.gradient(x, theta, idx)
    Lg, Lt = upper.Lg(x, theta, idx), upper.Lt(x, theta, idx)
    if Lg is None:
        Lg = _estimated_Lg(upper, x, theta, idx)
        estimated.add("Lg")
    # Rounding inside g, which its gradient does not tell: a residual may be a small difference of large numbers.
    shaken, _ = upper.gradient(x * (1 + 4 * unit * _probe(x).sign()), theta, idx)
    noise = 16 * (shaken.to(torch.float64) - g.to(torch.float64)).abs()
    nan = torch.full_like(mu, torch.nan)
    gg_norm = _norms(gg)
    out = {"x": x, "G": G, "G_norm": G_norm, "eps": eps, "mu": mu, "g": g.to(torch.float64), "gg": gg}
    out |= {"L": nan if L is None else L.to(torch.float64), "LH": nan if known.LH is None else known.LH.to(mu)}
    out |= {"LJ": nan if known.LJ is None else known.LJ.to(mu), "Lg": Lg.to(mu), "Lt": nan if Lt is None else Lt.to(mu)}
    out |= {
        "gg_norm": gg_norm,
        "b0": value_bar_plain(gg_norm, eps, Lg) + noise,
        "noise": noise,
        "reached": got.converged,
    }
    out |= {"count": count.as_dict(), "point": point, "n_lower": n_lower, "estimated": estimated, "seen": seen}
    return out


def _adjoint_chunk(lower, upper, item):
    count = Counter()
    point = _point(lower, item, count)
    b = item["gg"] if point.mask is None else torch.where(point.mask, item["gg"], torch.zeros_like(item["gg"]))
    q0 = item["q"]
    if q0 is not None and point.mask is not None:
        q0 = torch.where(point.mask, q0, torch.zeros_like(q0))
    got = batched_cg(point.hvp, b, atol=_atol(item["delta"], b), x0=q0, preconditioner=point.precondition)
    q, delta = got.x, got.residual.to(torch.float64)
    # The solver's own gradient, which need not be computed again; on a support it is another.
    G = item["G"] if point.mask is None else point.gradient
    c = item["g"] - _dots(q, G)
    q_norm = _norms(q)
    eps, Lg, LH, mu = item["eps"], item["Lg"], item["LH"], item["mu"]
    b1 = value_bar_corrected(delta, eps, Lg, LH, q_norm)
    # Rounding of G, whose terms are of the size of L |x| and cancel; in many unknowns it is as good as random.
    unit = torch.finfo(G.dtype).eps
    top = torch.where(torch.isfinite(item["L"]), item["L"], got.curvature_max.to(mu))
    rounding = item["noise"] + 2 * unit * q_norm * (top * _norms(item["x"]) / G[0].numel() ** 0.5 + _norms(G))
    b1e = value_bar_estimated(delta, eps, Lg) + rounding
    seen = {}
    _contradict(seen, "mu", (got.curvature_min / mu).min(), item)
    out = {"q": q, "q_norm": q_norm, "delta": delta, "c": c, "b1": b1 + rounding, "b1e": b1e, "grain": rounding}
    n_cg = int(got.n_iter.max()) if got.n_iter.numel() else 0
    return {**out, "count": count.as_dict(), "point": point, "n_cg": n_cg, "seen": seen}


def _gradient_chunk(lower, upper, item):
    count = Counter()
    point, blocks = _point(lower, item, count), item["blocks"]
    rows = -point.cross_adjoint(item["q"], blocks)
    direct = upper.gradient_theta(item["x"], item["theta"], point.idx, blocks)
    rows = rows if direct is None else rows + direct
    return {"z": rows, "count": count.as_dict(), "point": point}


def _response_chunk(lower, upper, item):
    count = Counter()
    point, n = _point(lower, item, count), len(item["theta"])
    x, theta, idx, mu = item["x"], item["theta"], point.idx, item["mu"]
    S, curved, excess, n_cg = [], [], torch.zeros_like(mu), 0
    for j, e in enumerate(torch.eye(n, dtype=torch.float64, device=x.device)):
        column = -point.cross(e)
        start = None if item["S"] is None else item["S"][j]
        atol = item["rtol"] * _norms(column)
        got = batched_cg(point.hvp, column, atol=atol, x0=start, preconditioner=point.precondition)
        n_cg += int(got.n_iter.max()) if got.n_iter.numel() else 0
        S.append(got.x)
        curved.append(upper.hvp(x, theta, idx, got.x))
        excess = excess + (got.residual.to(mu) / mu) ** 2
    gram = torch.stack([torch.stack([_dots(s, c) for c in curved], -1) for s in S], -2)  # (b, n, n)
    own = torch.stack([torch.stack([_dots(s, t) for t in S], -1) for s in S], -2)
    norm = torch.linalg.eigvalsh(own)[:, -1].clamp_min(0).sqrt() * (1 + 1e-10) + excess.sqrt()
    out = {"S": torch.stack(S), "S_norm": norm, "gauss_newton": gram, "count": count.as_dict(), "point": point}
    return {**out, "n_cg": n_cg}


def _error_chunk(lower, upper, item):
    count = Counter()
    point, blocks = _point(lower, item, count), item["blocks"]
    x, theta, idx, q = item["x"], item["theta"], point.idx, item["q"]
    G = item["G"] if point.mask is None else point.gradient
    tight = 1e-2
    p = batched_cg(point.hvp, -G, atol=tight * _norms(G), preconditioner=point.precondition).x
    gg = item["gg"] if point.mask is None else torch.where(point.mask, item["gg"], torch.zeros_like(item["gg"]))
    residual = gg - point.hvp(q)
    in_x, in_theta = point.third(p, q, blocks)
    curved = upper.hvp(x, theta, idx, p)
    if point.mask is not None:
        curved = torch.where(point.mask, curved, torch.zeros_like(curved))
    w = residual + curved - in_x
    if item["S"] is None:
        u = batched_cg(point.hvp, w, atol=tight * _norms(w), preconditioner=point.precondition).x
        rows = -point.cross_adjoint(u, blocks)
    else:
        per_sample = torch.stack([_dots(s, w) for s in item["S"]], -1)  # (b, n)
        rows = torch.stack([per_sample[block].sum(0) for block in blocks])
    if bool((item["Lt"] != 0).any()):
        rows = rows + upper.cross_adjoint(x, theta, idx, p, blocks)
    return {"error": rows - in_theta, "count": count.as_dict(), "point": point}


def _norm_chunk(lower, upper, item):
    count = Counter()
    point = _point(lower, item, count)
    norm, rigorous = lower.norm_J(point), True
    b, n = len(point.x), len(item["theta"])
    d = point.x[0].numel()
    if norm is None and n <= max(64, min(d, 512)):
        columns = torch.stack([point.cross(e) for e in torch.eye(n, dtype=torch.float64, device=point.x.device)])
        flat = columns.reshape(n, b, -1).transpose(0, 1).to(torch.float64)  # (b, n, d)
        norm = torch.linalg.matrix_norm(flat, ord=2) if min(n, d) <= 512 else torch.linalg.matrix_norm(flat)
        norm = norm * (1 + 1e-12)
    elif norm is None and d <= 512:
        singles, rows = [slice(i, i + 1) for i in range(b)], []
        for k in range(d):
            e = torch.zeros_like(point.x).reshape(b, -1)
            e[:, k] = 1
            rows.append(point.cross_adjoint(e.reshape(point.x.shape), singles))
        norm = torch.linalg.matrix_norm(torch.stack(rows, 1), ord=2) * (1 + 1e-12)
    elif norm is None:
        norm, rigorous = torch.full((b,), torch.nan, dtype=torch.float64, device=point.x.device), False
    return {"norm": norm.to(torch.float64), "rigorous": rigorous, "count": count.as_dict(), "point": point}


def _minimise(solver, lower, x0, theta, idx, eps, mu, L, count, item):
    """Return what a solver found, and the linearisation there where it came along."""
    gtol = eps * mu
    if solver == "nag":

        def gradient(x, rows):
            return lower.gradient(x, theta, idx[rows], count)

        return nag(gradient, x0, mu=mu, L=L, gtol=gtol, max_iter=item["max_inner"]), None
    last, begun = [], []

    def at(x, rows):
        point = lower.at(x, theta, idx[rows], count, value=True)
        if not begun:
            # The gradient may be finite where the energy is not.
            begun.append(_finite(point.value))
        if len(rows) == len(x0):
            last[:] = [point]
        return point

    if solver == "lbfgs":

        def value_and_gradient(x, rows):
            point = at(x, rows)
            return point.value, point.gradient

        from sciml.optimize import batched_lbfgs

        return batched_lbfgs(value_and_gradient, x0, gtol=gtol, max_iter=item["max_inner"]), None
    xtol = eps if item["lower_error"] == "newton" else 0.0
    got = newton_cg(at, x0, gtol=gtol, max_iter=item["max_inner"], xtol=xtol)
    point = last[0] if last and torch.equal(last[0].x, got.x) else None
    return got, point


def _choose(lower, x0, mu, L):
    d = x0[0].numel()
    if lower.quadratic or d <= 2000:
        return "newton_cg"
    return "nag" if float((L / mu).max()) <= 3000 else "newton_cg"


def _extremes(lower, x, theta, idx, count):
    """Return Ritz values of the Hessian at x, from a few Lanczos steps that are counted as such."""
    own = Counter()
    point = lower.at(x, theta, idx, own)
    v0 = _probe(x)
    low, high = lanczos_extremes(point.hvp, v0, n_steps=min(8, x[0].numel()))
    count.power += own.hvp + own.lower
    count.cross += own.cross
    return low.to(torch.float64), high.to(torch.float64)


def _estimated_Lg(upper, x, theta, idx):
    def hvp(v, rows):
        return upper.hvp(x[rows], theta, idx[rows], v)

    _, high = lanczos_extremes(hvp, _probe(x), n_steps=min(6, x[0].numel()))
    return 1.05 * high.to(torch.float64).clamp_min(0)


def _probe(x):
    """Return the same random direction for every sample, whatever else is in the batch."""
    from sciml.random import generator, normal

    one = normal(generator(0), tuple(x.shape[1:]), device=x.device, dtype=x.dtype)
    return one.expand(x.shape).contiguous()


def _contradict(seen, name, ratio, item):
    """Note a curvature below the mu that was given."""
    ratio = float(ratio)
    if ratio < 1 - 1e-6:
        name = f"estimated {name}" if item.get("guess") else name
        seen[name] = min(seen.get(name, 1.0), max(ratio, 1e-12))


def _point(lower, item, count):
    """Return the linearisation of an item: the one at hand, or a new one."""
    point = item.get("point")
    if point is None:
        before = count.lower
        point = lower.at(item["x"], item["theta"], _numbers(item), count)
        if item["free"]:
            count.lower = before
        return point
    if hasattr(point, "_count"):
        point._count = count
    return point


def _numbers(item):
    start = item["start"]
    return torch.arange(start, start + len(item["x"]), device=item["x"].device)


def _finite(numbers):
    if not bool(torch.isfinite(numbers).all()):
        raise NotFinite
    return True


def _atol(delta, b):
    return torch.as_tensor(delta, dtype=torch.float64, device=b.device).expand(len(b))


def _dots(a, b):
    return (a.to(torch.float64) * b.to(torch.float64)).reshape(len(a), -1).sum(1)


def _norms(a):
    return _dots(a, a).sqrt()


def _moved(part: Any, device):
    return part.to(device) if isinstance(part, torch.Tensor) else part
