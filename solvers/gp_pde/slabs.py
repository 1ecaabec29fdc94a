r"""Long times: solve slab after slab of time, each starting from the last, and follow the errors that travel.

Slab n is the problem itself between two times; its initial data are the posterior mean of slab n - 1 at its end, with
the velocity where the equation is of second order in time.  With e_n the error that a slab makes at its end and I_n the
one that its initial data bring,

.. math:: I_{n+1} = e_n + h_n I_n, \qquad \text{error in slab } n \le \text{own}_n + g_n I_n .

The factors :math:`g_n, h_n` are measured: an error drawn from the posterior of the slabs before is sent through the
slab by the equation linearised about u, with homogeneous conditions, and its size is compared over the slab and at its
end with that at the start.  The error that arrives is sent on, with a fresh draw, so that what grows fastest wins.

Notation  own_n root-mean-square error of slab n by its own certificate; rho_n that of u; T the whole time.
Cost      one solve a slab, and a coarse one for the travelling error.
Pitfalls  Errors are added, not their squares: slabs repeat the same small phase error, which adds up.
          A slab that does not converge is halved, five times at most; what it cannot do then is said in the status.

References
----------
N. Kraemer, P. Hennig, Stable implementation of probabilistic ODE solvers, 2020, arXiv 2012.10106 (Gaussian states
handed from step to step).
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sciml.exceptions import ConditioningWarning, InvalidInputError, MemoryBudgetError
from sciml.iterate import Status, Step, run
from sciml.solvers.gp_pde.conditions import Initial, Periodic
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.drift import drift
from sciml.solvers.gp_pde.fast_diagonal import separable_parts
from sciml.solvers.gp_pde.functions import PointFunction
from sciml.solvers.gp_pde.gauss_newton import fields_at
from sciml.solvers.gp_pde.handed import Handed, bubbles, project
from sciml.solvers.gp_pde.lines import axis_needs
from sciml.solvers.gp_pde.result import PDESolution
from sciml.solvers.gp_pde.slab_posterior import SlabPosterior
from sciml.solvers.gp_pde.time_axis import time_dimension

__all__ = ["slabs_needed", "solve_slabs"]

PHASE = 150.0  # angular frequency in time by length of a slab: beyond, rounding grows and the cost of its third power
DENSE = 1400  # features of a least-squares slab: a few seconds of one core
MAX_SLABS = 100_000
HALVINGS = 5
OVERLAP = 0.08  # part of a slab that is solved twice
HOPELESS = 0.3  # relative error beyond which marching on means nothing
N_SIZE = 600  # points on which the size of u in a slab is taken
TRAVEL_TOL = 1e-2  # of the coarse solve that sends an error through a slab
MEASURED = 3  # slabs of an autonomous problem in which that is done; then at every doubling of their number


def slabs_needed(pde, max_features=4000):
    r"""Say into how many slabs of time a problem is best cut.

    One where a few carriers hold u over all times, or where the frequency in time times the length is below 150; else
    slabs of that length, or, where a dense system has to be solved, of such a length that about 1,400 features do.

    Parameters
    ----------
    pde : PDE
        The problem.
    max_features : int
        Bound on the features of a dense system.

    Returns
    -------
    int
        1 also where the problem has no Initial data.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.solvers.gp_pde import PDE, Box, Initial, Periodic
    >>> bump = Initial(lambda X: np.exp(4 * np.sin(X[:, 0])))
    >>> slow, fast = (
    ...     PDE(Box([(0, 2 * np.pi), (0, 1)]), {(0, 1): 1.0, (1, 0): c}, 0.0, [bump, Periodic(0)])
    ...     for c in (1.0, 500.0)
    ... )
    >>> slabs_needed(slow), slabs_needed(fast) > 10
    (1, True)
    """
    dim = time_dimension(pde)
    if dim is None or _refusal(pde, dim) is not None:
        return 1
    rng = np.random.default_rng(0)
    tol = 1e-13 if pde.is_linear else 1e-5
    needs = [axis_needs(pde, j, rng, carriers=pde.is_linear, tol=tol) for j in range(pde.n_dims)]
    moving = needs[dim]
    tensor = pde.unknowns is None and separable_parts(pde, frozen=not pde.is_linear)[0] is not None
    if tensor:
        return 1 if moving.omega else max(1, math.ceil(2 * (moving.length - 30) / PHASE))
    space = pde.n_unknowns * math.prod(n.count() for j, n in enumerate(needs) if j != dim)
    total = space * moving.count()
    if total <= min(DENSE, max_features) or moving.length <= 16:
        return 1
    room = max(14, int(min(DENSE, max_features) / space))  # features along time that a slab may have
    if moving.omega and moving.count() <= 2 * room:
        return 1
    return max(1, math.ceil((moving.length - 12) / max(2, 0.8 * room - 12)))


def _refusal(pde, dim):
    """Why a problem cannot be cut, or None."""
    if pde._observations is not None or pde.parameters:
        return "observations and parameters belong to all times at once"
    if any(e.source.is_sampled for e in pde._equations):
        return "the source is known at scattered points only"
    for condition in pde.conditions:
        if isinstance(condition, Initial | Periodic):
            if isinstance(condition, Periodic) and condition.dim % pde.n_dims == dim:
                return "time wraps round"
            continue
        where = condition.where
        if isinstance(condition.g, tuple) or (
            where is not None and not callable(where) and not pde.faces_of(condition)
        ):
            return "a condition holds at scattered points"
        if not callable(where) and any(j == dim for j, _ in pde.faces_of(condition)):
            return "a condition holds at the end of time"
    return None


def solve_slabs(pde, call, solve_one, n_slabs=None):
    """Solve an initial-value problem slab after slab.

    Parameters
    ----------
    pde : PDE
        The problem, with Initial data on a Box.
    call : Call
        The caller's settings; ``tol`` bounds the error over all times.
    solve_one : callable
        ``solve_one(pde, call) -> PDESolution`` for one slab.
    n_slabs : int, optional
        Slabs to begin with; those of `call`, or `slabs_needed`, when None.

    Returns
    -------
    PDESolution
        ``report["slabs"]`` lists start, stop, features, own estimate, what came with the initial data and the factor by
        which that grew; ``report["drift"]`` tells what should be conserved, see `drift`.

    Raises
    ------
    InvalidInputError
        When the problem has no Initial data, or has data that cannot be cut in time.
    """
    dim = time_dimension(pde)
    reason = "there are no Initial data" if dim is None else _refusal(pde, dim)
    if reason is not None:
        raise InvalidInputError(f"slabs must be None for this problem: {reason}. Leave slabs out.")
    n = n_slabs or call.slabs or slabs_needed(pde, call.max_features)
    march = _March(pde, call, solve_one, dim, n)
    loop = run(
        march.steps(),
        name="solve_slabs",
        tol=1e-12,
        max_iter=MAX_SLABS,
        callback=call.callback,
        on_failure="ignore",
        progress=call.progress,
        dtype="float64",
    )
    return march.result(loop)


@dataclass
class _Slab:
    """One slab: its solution and the errors in it, in units of u."""

    start: float
    stop: float
    solution: Any
    size: float
    own: float
    end: float
    travelled: float = 0.0
    growth: float | None = None
    shape: Any = None
    halvings: int = 0


@dataclass
class _March:
    """The slabs so far, the state at the end of the last, and the error that it brings."""

    pde: Any
    call: Any
    solve_one: Any
    dim: int
    n: int
    slabs: list = field(default_factory=list)
    state: dict | None = None
    error: dict | None = None
    arriving: float = 0.0
    floor: float = 0.0
    factors: tuple = (1.0, 1.0)
    why: str | None = None
    easy: bool = False

    def __post_init__(self):
        self.begun = time.perf_counter()
        self.first, self.last = self.pde.domain.bounds[self.dim]
        self.tol = max(self.call.tol / (2 * self.n), 1e-12)

    def steps(self):
        """March: yield a Step after each slab; the criterion is the part of time that is left."""
        t, width = self.first, (self.last - self.first) / self.n
        while t < self.last - 1e-12 * (self.last - self.first):
            n = max(1, math.ceil((self.last - t) / width - 1e-6))
            slab = self.advance(t, t + (self.last - t) / n if n > 1 else self.last)
            if slab.halvings:
                width = slab.stop - slab.start
            elif len(self.slabs) % 4 == 3:  # what was too steep may have passed
                width = min(1.5 * width, (self.last - self.first) / self.n)
            self.travel(slab)
            self.slabs.append(slab)
            t = slab.stop
            left = (self.last - t) / (self.last - self.first)
            yield Step(
                self,
                left if left > 1e-12 else 0.0,
                {"time": t, "n_features": float(len(slab.solution.coefficients)), "error": slab.own + slab.travelled},
            )
            if left > 1e-12:
                if slab.own + slab.travelled > HOPELESS * slab.size:
                    self.why = f"at t = {t:.4g} the error estimate is as large as u; what lies beyond is not computed"
                    return
                self.hand_on(slab)

    def advance(self, a, b):
        """Solve from a to b, or to an earlier time where that does not converge."""
        best, halvings = None, 0
        while True:
            target = self.target()
            try:
                solution = self.tried(self.problem(a, self.beyond(a, b)), target)
            except MemoryBudgetError:
                if halvings == HALVINGS:
                    raise
                solution = None
            if solution is not None:
                slab = self.measured(solution, a, b, halvings)
                estimate = solution.error_estimate
                if solution.status == "converged" or estimate <= 2 * max(target, self.floor):
                    return slab
                if solution.status in ("near_singular", "alias_warning") or self.rounds(solution):
                    return slab
                if best is not None and not estimate < 0.3 * best.solution.error_estimate:  # rounding, not resolution
                    self.floor = max(self.floor, best.solution.error_estimate)
                    return best
                best = slab
            if halvings == HALVINGS:
                return best
            b, halvings = (a + b) / 2, halvings + 1

    def beyond(self, a, b):
        """Where a slab ends in truth: derivatives of a polynomial are n times as noisy at its end as inside."""
        return min(b + OVERLAP * (b - a), self.last)

    @staticmethod
    def rounds(solution):
        """True where what is left is noise rather than resolution: a shorter slab would have as much."""
        report = solution.report
        noise, gap = report.get("propagated_noise"), report.get("difference_to_richer")
        return noise is not None and gap is not None and noise > gap and solution.error_estimate < 1e-6

    def tried(self, pde, target):
        """Solve a slab: where the slabs before went well, two bases are enough, and the ladder is climbed if not."""
        if self.slabs and self.call.max_iter is None and self.easy:
            solution = self.solve(pde, target, max_iter=0)
            near = solution.error_estimate <= (30 if self.rounds(solution) else 2) * target
            if solution.status == "converged" or near:
                return solution
            self.easy = False
            return self.solve(pde, target, max_iter=3 if solution.error_estimate < 1e-6 else None)
        solution = self.solve(pde, target)
        self.easy = solution.status == "converged"
        return solution

    def target(self):
        """Relative tolerance of the next slab: no finer than the error that it starts with."""
        size = self.slabs[-1].size if self.slabs else 0.0
        return max(self.tol, 0.1 * self.arriving / size) if size > 0 else self.tol

    def solve(self, pde, tol, coarse=False, max_iter=None):
        call = dataclasses.replace(
            self.call,
            tol=min(tol, 1.0),
            slabs=1,
            callback=None,
            max_iter=self.call.max_iter if max_iter is None else max_iter,
            progress=False,
            start=None if coarse else self.start(pde),
            settings=self.call.settings | {"tol": tol},
        )
        with warnings.catch_warnings():
            if self.slabs:  # a state that is handed on meets the boundary data to its accuracy only
                warnings.simplefilter("ignore", ConditioningWarning)
            return self.solve_one(pde, call)

    def start(self, pde):
        """Where Newton's method starts: the initial data, at all times."""
        if pde.is_linear or (not self.slabs and self.call.start is not None):
            return self.call.start
        names = pde.unknowns or (None,)
        found = {c.unknown: PointFunction("u0", c.u0, pde.n_dims) for c in pde.conditions if isinstance(c, Initial)}

        def values(X):
            X = np.array(X, float)
            X[:, self.dim] = pde.domain.bounds[self.dim][0]
            return np.stack([found[n](X) if n in found else np.zeros(len(X)) for n in names], axis=1)

        return values

    def box(self, a, b):
        bounds = list(self.pde.domain.bounds)
        bounds[self.dim] = (a, b)
        return Box(bounds)

    def problem(self, a, b):
        """The problem between two times, from the state in hand."""
        conditions = self.pde.conditions
        if self.state is not None:
            conditions = tuple(
                dataclasses.replace(c, **self.state[c.unknown]) if isinstance(c, Initial) else c for c in conditions
            )
        return dataclasses.replace(self.pde, domain=self.box(a, b), conditions=conditions)

    def indices(self, condition):
        """Index of what an Initial condition gives: u, and its velocity."""
        d = self.pde.n_dims
        head = () if self.pde.unknowns is None else (self.pde.unknowns.index(condition.unknown),)
        out = {"u0": (*head, *(0,) * d)}
        if condition.velocity is not None:
            out["velocity"] = (*head, *(int(j == self.dim) for j in range(d)))
        return out

    def measured(self, solution, a, b, halvings):
        """The size of u in a slab, and its own error over the slab and at its end."""
        points = self.spots(a, b)
        size = self.norm(solution.posterior, points)
        # Conditions that contradict one another are not met, however well two bases agree on how.
        own = max(solution.error_estimate, solution.report["boundary_residual"] or 0.0) * size if size > 0 else 0.0
        at_end = points.clone()
        at_end[:, self.dim] = b
        spread = [solution.posterior.deviation(at_end[:150], i).square().mean() for i in self.pde._indices]
        end = solution.factor * float(sum(spread).sqrt())
        return _Slab(a, b, solution, size, own, max(end, 0.5 * own), halvings=halvings)

    def spots(self, a, b):
        """Random points between two times, a tensor (n, d); the same ones in every slab."""
        box = self.box(a, b)
        X = box.lower + (box.upper - box.lower) * np.random.default_rng(0).random((N_SIZE, self.pde.n_dims))
        return torch.as_tensor(X, device=self.call.device)

    def norm(self, posterior, points, alpha=None):
        """Root-mean-square size of all unknowns together, or of a derivative of them."""
        indices = self.pde._indices
        if alpha is not None:
            indices = [(*i[: -self.pde.n_dims], *alpha) for i in indices]
        return math.sqrt(sum(float(posterior.apply(points, {i: 1.0}).square().mean()) for i in indices))

    def hand_on(self, slab):
        """Set the state at the end of a slab as initial data, and add a draw of its own error to what travels."""
        solution, b = slab.solution, slab.stop
        posterior, basis, state = solution.posterior, solution.posterior.basis, {}
        box = self.pde.domain.box
        half = (box.upper - box.lower) / 2
        counts = [int(basis.max_frequency[j] * half[j]) + 12 for j in range(self.pde.n_dims) if j != self.dim]
        self.arriving = slab.end + self.factors[1] * self.arriving
        accuracy = self.arriving / slab.size if slab.size > 0 else 0.0
        seed = np.random.default_rng(len(self.slabs)).bit_generator.state
        fresh: dict = {}
        for c in (c for c in self.pde.conditions if isinstance(c, Initial)):
            state[c.unknown], fresh[c.unknown] = {}, {}
            for name, index in self.indices(c).items():
                mean = self.at(b, lambda X, index=index: posterior.apply(X, {index: 1.0}))
                scale = self.norm(posterior, self.spots(slab.start, b), index[-self.pde.n_dims :])
                state[c.unknown][name] = project(
                    self.pde, mean, self.dim, counts, accuracy=accuracy, scale=scale / math.sqrt(self.pde.n_unknowns)
                )
                fresh[c.unknown][name] = bubbles(self.pde, self.at(b, self.drawn(solution, index, seed)), self.dim)
        self.state = state
        self.error = self.mixed({name: self.balanced(parts) for name, parts in fresh.items()}, slab)

    def balanced(self, parts):
        """Give a drawn error the velocity that belongs to it: a frequency times its size, without its mean.

        Draws of derivatives at the end of time are too large by far, and a mean velocity would grow for ever.
        """
        u, v = parts["u0"], parts.get("velocity")
        if v is None or v.basis is None:
            return parts
        theta = v.theta.clone()
        if all(axis.periodic for axis in v.basis.axes):
            theta[0] = 0.0
        v = Handed(v.basis, theta, v.others)
        size = v.rms()
        return {"u0": u, "velocity": v.times(self.pace(u) * u.rms() / size if size > 0 else 0.0)}

    def pace(self, u):
        """The frequency in time of a function of space: of u_tt + A u = 0, the root of the size of A u beside u."""
        if self.pde.unknowns is not None or u.rms() == 0:
            return 0.0
        box, d = self.pde.domain.box, self.pde.n_dims
        X = box.lower + (box.upper - box.lower) * np.random.default_rng(2).random((400, d))
        values, order = self.pde.coefficient_values(X), self.pde.axis_order(self.dim)
        points = torch.as_tensor(X[:, u.others], device=u.theta.device)
        lead, rest = 0.0, np.zeros(len(X))
        for alpha, c in values.items():
            if alpha[self.dim] == order:
                lead = np.maximum(lead, np.abs(c))
            elif not alpha[self.dim]:
                part = u.basis.contract(points, [alpha[j] for j in u.others], u.theta).cpu().numpy()
                rest = rest + c * part
        scale = float(np.mean(lead)) or 1.0
        return float((np.sqrt(np.mean(rest**2)) / scale / u.rms()) ** (1 / order))

    def at(self, t, function):
        """A function of tensors X (n, d) at one time, with NumPy at the door."""

        def values(X):
            X = torch.as_tensor(np.array(X, float), device=self.call.device)
            X[:, self.dim] = t
            return function(X).detach().cpu().numpy()

        return values

    @staticmethod
    def drawn(solution, index, seed):
        """The same draw of the posterior's deviation for every index."""

        def values(X):
            rng = np.random.default_rng(0)
            rng.bit_generator.state = seed
            return solution.factor * solution.posterior.draw(X, index, 1, rng)[0]

        return values

    def mixed(self, fresh, slab):
        """The error that travels on: what has arrived, and a fresh draw of the slab's own, each at its size."""
        size = _rms(fresh)
        weight = slab.end / size if size > 0 else 0.0
        arrived = self.error if slab.shape is not None else None
        carried = self.arriving - slab.end
        out = {}
        for name, parts in fresh.items():
            out[name] = {key: part.times(weight) for key, part in parts.items()}
            if arrived is not None and _rms(arrived) > 0:
                out[name] = {
                    key: part + arrived[name][key].times(carried / _rms(arrived)) for key, part in out[name].items()
                }
        total = _rms(out)
        if total == 0:
            return None
        return {name: {key: p.times(1 / total) for key, p in parts.items()} for name, parts in out.items()}

    def travel(self, slab):
        """Send the error at the start of a slab through it, and set what it is there."""
        if not self.slabs or self.arriving == 0:
            return
        n = len(self.slabs)
        autonomous = self.pde.is_linear and self.pde.is_constant
        if self.error is not None and (not autonomous or n <= MEASURED or n & (n - 1) == 0):
            self.send(slab)
        slab.growth = self.factors[0]
        slab.travelled = self.factors[0] * self.arriving

    def send(self, slab):
        pde = self.linearised(slab)
        try:
            sent = self.solve(pde, TRAVEL_TOL, coarse=True, max_iter=int(pde.is_linear))
        except MemoryBudgetError:
            return
        if not sent.error_estimate < 0.5:
            return
        points = self.spots(slab.start, slab.stop)
        start = self.content(self.error)
        over = self.norm(sent.posterior, points) / start
        arrived: dict = {}
        for c in (c for c in pde.conditions if isinstance(c, Initial)):
            arrived[c.unknown] = {
                name: bubbles(
                    self.pde,
                    self.at(slab.stop, lambda X, index=index: sent.posterior.apply(X, {index: 1.0})),
                    self.dim,
                )
                for name, index in self.indices(c).items()
            }
        points[:, self.dim] = slab.stop
        self.factors = over, self.content(arrived) / start
        self.error, slab.shape = arrived, sent.posterior

    def content(self, parts):
        """Size of an error at one time: of the error itself, and of what its velocity will make of it."""
        total = 0.0
        for p in parts.values():
            u, v = p["u0"], p.get("velocity")
            pace = self.pace(u) if v is not None and v.basis is not None else 0.0
            total += u.rms() ** 2 if not pace else (u.rms() ** 2 + (v.rms() / pace) ** 2) / 2
        return math.sqrt(total)

    def linearised(self, slab):
        """The equation for a small error: linearised about u, without data but for the error at the start."""
        zero = {"g": 0.0}
        conditions = []
        for c in self.pde.conditions:
            if isinstance(c, Initial):
                conditions.append(dataclasses.replace(c, **self.error[c.unknown]))
            elif isinstance(c, Periodic):
                conditions.append(c)
            else:
                conditions.append(dataclasses.replace(c, **zero))
        nonlinear = None
        if not self.pde.is_linear:
            nonlinear = _Tangent(self.pde, slab.solution.posterior).pair()
        source = 0.0 if self.pde.unknowns is None else [0.0] * self.pde.n_equations
        return dataclasses.replace(
            self.pde,
            domain=self.box(slab.start, slab.stop),
            source=source,
            conditions=tuple(conditions),
            nonlinear=nonlinear,
        )

    def result(self, loop):
        """Gather the slabs into one solution."""
        slabs, pde = self.slabs, self.pde
        length = np.array([s.stop - s.start for s in slabs])
        size = math.sqrt(sum(length * np.array([s.size for s in slabs]) ** 2))
        error = math.sqrt(sum(length * np.array([s.own + s.travelled for s in slabs]) ** 2))
        estimate = error / size if size > 0 else (0.0 if error == 0 else math.inf)
        edges = np.array([slabs[0].start, *[s.stop for s in slabs]])
        posterior = SlabPosterior(
            [s.solution.posterior for s in slabs],
            edges,
            self.dim,
            [s.solution.factor for s in slabs],
            [s.travelled for s in slabs],
            [s.shape for s in slabs],
        )
        status, reason = self.status(estimate, loop)
        report = self.report(posterior, estimate, reason)
        return PDESolution(
            status=status,
            n_iter=loop.n_iter,
            history=loop.history,
            settings=self.call.settings | {"slabs": len(slabs)},
            error_estimate=estimate,
            report=report,
            coefficients=posterior.theta.detach().cpu().numpy(),
            factor=1.0,
            posterior=posterior,
            unknowns=pde.unknowns,
        )

    def status(self, estimate, loop):
        """The word and its reason."""
        tol = self.call.tol
        for s in self.slabs:
            if s.solution.status in ("near_singular", "alias_warning"):
                return s.solution.status, f"from t = {s.start:.4g} to {s.stop:.4g}: {s.solution.report['reason']}"
        if self.why is not None:
            return "not_converged", self.why
        if loop.status is Status.STOPPED or self.slabs[-1].stop < self.last - 1e-9 * (self.last - self.first):
            return "not_converged", f"stopped at t = {self.slabs[-1].stop:.4g}"
        if not estimate <= tol:
            return "not_converged", "raise max_features, give more slabs, or loosen tol"
        for s in self.slabs:
            rows = [s.solution.report[name] or 0.0 for name in ("residual_validation", "boundary_residual")]
            peak = s.solution.report["residual_max"] or 0.0
            told = s.solution.status != "converged" and s.solution.error_estimate <= self.tol and peak > 100 * tol
            if max(rows) > 10 * max(tol, 1e-13) or told:
                return "not_converged", f"from t = {s.start:.4g} to {s.stop:.4g}: {s.solution.report['reason']}"
        return "converged", "the error estimate is at most tol"

    def report(self, posterior, estimate, reason):
        """Certificates of the whole: the worst over the slabs, or their sum."""
        reports = [s.solution.report for s in self.slabs]

        def over(name, best):
            found = [r.get(name) for r in reports]
            found = [v for v in found if v is not None]
            return best(found) if found else None

        sizes = [s.size for s in self.slabs]
        travelled = [s.travelled / s.size if s.size > 0 else 0.0 for s in self.slabs]
        times = np.linspace(posterior.edges[0], posterior.edges[-1], 17)
        notes = list(dict.fromkeys(note for r in reports for note in r["notes"]))
        if any(s.halvings for s in self.slabs):
            notes.append(f"{sum(s.halvings > 0 for s in self.slabs)} slabs were halved")
        return {
            "n_features": posterior.basis.n_features,
            "n_rows": over("n_rows", sum),
            "solver": reports[0]["solver"],
            "why": f"{len(self.slabs)} slabs of time; {reports[0]['why']}",
            "reason": reason,
            "residual_validation": over("residual_validation", max),
            "residual_max": over("residual_max", max),
            "boundary_residual": over("boundary_residual", max),
            "difference_to_richer": over("difference_to_richer", max),
            "propagated_noise": over("propagated_noise", max),
            "alias_margin": over("alias_margin", max),
            "singularity": over("singularity", min),
            "carriers": reports[0]["carriers"],
            "iterations": over("iterations", sum),
            "smallest_singular_value": over("smallest_singular_value", min),
            "seconds": {
                "analysis": sum(r["seconds"]["analysis"] for r in reports),
                "total": time.perf_counter() - self.begun,
            },
            "notes": notes,
            "slabs": [
                {
                    "start": s.start,
                    "stop": s.stop,
                    "n_features": len(s.solution.coefficients),
                    "error_estimate": s.solution.error_estimate,
                    "travelled": t,
                    "growth": s.growth,
                    "status": s.solution.status,
                }
                for s, t in zip(self.slabs, travelled, strict=True)
            ],
            "drift": drift(self.pde, posterior, times) if max(sizes) > 0 else None,
        }


def _rms(parts):
    """Root-mean-square size of the values of all unknowns of a state."""
    return math.sqrt(sum(p["u0"].rms() ** 2 for p in parts.values()))


class _Tangent:
    """The nonlinear term linearised about a solution, as a nonlinear term of the small error."""

    def __init__(self, pde, posterior):
        self.pde, self.posterior, self.key, self.kept = pde, posterior, None, None

    def slopes(self, X):
        """Derivatives of N at the solution: (n, E, m), and (n, E, m, d) or None; the last ones are kept."""
        X = np.ascontiguousarray(X, dtype=float)
        key = hash(X.tobytes())
        if key != self.key:
            points = torch.as_tensor(X, device=self.posterior.theta.device)
            u, grad = fields_at(self.pde, lambda index: self.posterior.apply(points, {index: 1.0}), X)
            self.key, self.kept = key, self.pde._nonlinear.linearised(X, u, grad)[1:]
        return self.kept

    def pair(self):
        """N and dN for the small error."""
        system = self.pde.unknowns is not None
        one = (slice(None),) if system else (slice(None), 0, 0)  # of a single equation the axes are left out

        if not self.pde._nonlinear.takes_gradient:

            def N(X, v):
                by_u = self.slopes(X)[0]
                return np.einsum("nem,nm->ne", by_u, v) if system else by_u[:, 0, 0] * v

            return N, lambda X, v: self.slopes(X)[0][one]

        def N_gradient(X, v, grad):
            by_u, by_grad = self.slopes(X)
            if system:
                return np.einsum("nem,nm->ne", by_u, v) + np.einsum("nemd,nmd->ne", by_grad, grad)
            return by_u[:, 0, 0] * v + (by_grad[:, 0, 0] * grad).sum(axis=1)

        return N_gradient, lambda X, v, grad: tuple(s[one] for s in self.slopes(X))
