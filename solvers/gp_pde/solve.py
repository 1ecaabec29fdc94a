r"""Solve a linear partial differential equation by a spectral-mixture Gaussian process, and certify the answer.

The process is a Gaussian linear model in few carriers under polynomial envelopes (`features`); u is integrated out in
closed form by one factorisation (`collocation`, `fast_diagonal`).  Carriers come from the data themselves (`lines`,
`frequencies`). The solver climbs a ladder of bases; what it returns is certified by fresh points, by the next rung and
by the posterior.

Cost      two factorisations of a few hundred to a few thousand features; see `collocation` and `fast_diagonal`.
Pitfalls  A small residual at the collocation points proves nothing: only fresh points and a second basis count.

References
----------
S. Fang, M. Cooley, D. Long, S. Li, R. Kirby, S. Zhe, Solving high frequency and multi-scale PDEs with Gaussian
processes, 2024, arXiv 2311.04465 (the problem and the kernel; the algorithm here is another).
"""

from __future__ import annotations

import importlib
import logging
import math
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from sciml._config import memory_budget, resolve
from sciml.exceptions import (
    ConditioningWarning,
    ConvergenceError,
    ConvergenceWarning,
    InvalidInputError,
    InvalidTypeError,
    MemoryBudgetError,
)
from sciml.iterate import Step, caller_level, run
from sciml.linalg.threads import thread_limit
from sciml.random import generator
from sciml.solvers.gp_pde.call import Call
from sciml.solvers.gp_pde.collocation import ROUNDING, assemble, symbol_size
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.fast_diagonal import check_corners, solve_tensor
from sciml.solvers.gp_pde.features import ProductBasis
from sciml.solvers.gp_pde.plan import make_plan
from sciml.solvers.gp_pde.points import condition_rows, interior_points
from sciml.solvers.gp_pde.posterior import LeastSquaresPosterior, TensorPosterior
from sciml.solvers.gp_pde.problem import PDE
from sciml.solvers.gp_pde.result import PDESolution
from sciml.validation import check_number, check_option

__all__ = ["solve_pde", "solve_pde_steps"]

logger = logging.getLogger(__name__)

METHODS = ("auto", "carriers", "chebyshev", "joint", "frame", "kernel", "gphm")
ROUTES = {  # methods of their own: where the route and its options are
    "frame": ("sciml.solvers.gp_pde.frame", "FourierFrame"),
    "kernel": ("sciml.solvers.gp_pde.kernel_route", "KernelMethod"),
    "gphm": ("sciml.solvers.gp_pde.gphm", "GPHM"),
}
N_TEST = 1500  # points at which rungs are compared and residuals validated
N_WIDE = 20_000, 6_000  # points, on a line and beyond, of the last look for features that all others missed
RESONANCE = 1e-10  # relative size of L v for a function v of size 1 that meets the conditions: below it L is singular


def solve_pde(
    pde,
    *,
    method="auto",
    tol=1e-8,
    start=None,
    noise=None,
    frequencies=None,
    max_frequency=None,
    max_features=4000,
    max_iter=None,
    slabs=None,
    random_state=0,
    device=None,
    memory=None,
    callback=None,
    on_failure=None,
    progress=None,
):
    r"""Solve a linear partial differential equation, with a certificate.

    .. math:: \sum_\alpha c_\alpha \partial^\alpha u = f \text{ in } \Omega \text{, with conditions on the boundary.}

    Parameters
    ----------
    pde : PDE
        Domain, operator, source and conditions.
    method : {"auto", "carriers", "chebyshev", "joint", "frame", "kernel", "gphm"} or options
        "auto" and "carriers" look for frequencies and use them where they pay; "chebyshev" never does; "joint" takes
        frequency vectors, as plane waves; "frame" an equispaced Fourier frame, for very many samples; "kernel"
        conditions a process of finite smoothness; "gphm" is the published objective, for teaching. `KernelMethod`,
        `FourierFrame` and `GPHM` hold the options of the last three and stand in for their names.
    tol : float
        Bound on the relative L2 error estimate, dimensionless; at least 10 eps. Default 1e-8; the answer is usually
        better.
    start : callable, PDESolution or float, optional
        Where Gauss-Newton starts on a nonlinear problem, a function of X (n, d) that returns (n,), or (n, m) in a
        system, or an earlier solution. Which of several solutions is found depends on it. None starts at the solution
        of the equation linearised at zero.
    noise : {"learn"}, float or dict, optional
        Noise of the source and of the boundary data: its standard deviation in their units, "learn" to estimate it, or
        a dict with the keys "source" and "boundary". None: the data are exact.
    frequencies : array, shape (Q,) or (Q, d), optional
        Carriers known beforehand, rad / unit; found by the solver when None.
    max_frequency : float, optional
        Your word that scattered samples of the source hold no angular frequency above it, rad / unit. Samples on a
        lattice need it: they cannot tell a frequency from its alias, and the status is "alias_warning" without it.
    max_features : int
        Bound on the features of a dense least-squares system, default 4000 (128 MB for its square factor).
    max_iter : int, optional
        Rungs of the ladder of bases that are tried, 12 when None; the steps of "gphm".
    slabs : int, optional
        Slabs into which the time of an initial-value problem is cut, each starting from the last; chosen by the solver
        when None.
    random_state : None, int or numpy.random.Generator
        Places lines and collocation points. Default 0: the same call gives the same answer.
    device : str or torch.device, optional
        Where the linear algebra runs; None asks the configuration.
    memory : int, str or float, optional
        Budget for temporaries: bytes, "2GiB", or a part of what is free.
    callback : callable, optional
        ``callback(n_iter, step)`` after each rung; a true value stops.
    on_failure : {"warn", "raise", "ignore"}, optional
        What to do when the status is not "converged"; None asks the configuration.
    progress : bool, optional
        Show a bar.

    Returns
    -------
    PDESolution
        Callable: ``sol(X)``. See ``sol.status``, ``sol.error_estimate`` and ``sol.report``.

    Raises
    ------
    InvalidInputError, InvalidTypeError
        An argument breaks its rule; the message names it, its value and the remedy.
    MemoryBudgetError
        The smallest basis does not fit into the budget; nothing has been allocated.
    ConvergenceError
        With ``on_failure="raise"``.

    Warns
    -----
    ConvergenceWarning
        The status is not "converged".
    ConditioningWarning
        Boundary data jump at a corner, coordinates lie far from the origin, or data came in float32.

    Notes
    -----
    ``error_estimate`` is the largest of: twice the relative L2 difference to the solution on the next, richer basis;
    the posterior standard deviation with the noise that fresh points show, or that of rounded data; and what rounded
    coordinates cost. ``status`` is "converged" when it is at most `tol` and the relative residuals at fresh interior
    and boundary points are at most ten times that; "near_singular" when a function of size one meets the equation and
    the conditions with zero data; "alias_warning" when samples cannot exclude aliases; else "not_converged". A
    feature of the source that 20,000 points (6,000 in two dimensions and more) miss is not seen.

    References
    ----------
    S. Fang et al., Solving high frequency and multi-scale PDEs with Gaussian processes, 2024, arXiv 2311.04465.

    Examples
    --------
    A hundred oscillations from 28 features:

    >>> import numpy as np
    >>> from sciml.solvers.gp_pde import PDE, Box, Dirichlet, solve_pde
    >>> u = lambda X: np.sin(100 * X[:, 0])
    >>> sol = solve_pde(PDE(Box([(0, 6)]), {2: 1.0}, lambda X: -1e4 * u(X), [Dirichlet(u)]))
    >>> sol.status, sol.report["n_features"] < 50
    ('converged', True)
    >>> X = np.linspace(0, 6, 7)[:, None]
    >>> bool(np.max(np.abs(sol(X) - u(X))) < 1e-8)
    True
    """
    if not isinstance(pde, PDE):
        raise InvalidTypeError(
            f"pde must be a PDE; got {type(pde).__name__}. Write PDE(domain, operator, source, conditions)."
        )
    route, options, method = _route(pde, method, noise)
    tol = check_number("tol", tol, low=10 * np.finfo(float).eps, high=1.0)
    max_features = check_number("max_features", max_features, low=8, integer=True)
    if max_iter is not None:
        max_iter = check_number("max_iter", max_iter, low=0, integer=True)
    if slabs is not None:
        slabs = check_number("slabs", slabs, low=1, integer=True)
    if max_frequency is not None:
        max_frequency = check_number("max_frequency", max_frequency, low=0.0, inclusive="neither")
    frequencies = _checked_frequencies(frequencies, pde.n_dims)
    on_failure = resolve("on_failure", on_failure)
    if callback is not None and not callable(callback):
        raise InvalidTypeError(f"callback must be a callable of (n_iter, step), or None; got {callback!r}.")
    device = _device(device)
    budget = memory_budget(memory)
    rng = generator(random_state)
    settings = {
        "method": method,
        "tol": tol,
        "max_features": max_features,
        "max_frequency": max_frequency,
        "device": str(device),
        "random_state": random_state if isinstance(random_state, int) else None,
        "dtype": "float64",
    }
    call = Call(
        tol=tol,
        rng=rng,
        device=device,
        budget=budget,
        frequencies=frequencies,
        max_frequency=max_frequency,
        max_features=max_features,
        max_iter=max_iter,
        threads=torch.get_num_threads(),
        callback=callback,
        progress=progress,
        start=start,
        noise=noise,
        slabs=slabs,
        settings=settings,
    )
    if route is not None:
        solution = route(pde, call, options)
    else:
        with thread_limit(1):  # a large rung asks for the others again
            solution = _solve(pde, call)
    if solution.status != "converged" and on_failure != "ignore":
        text = (
            f"solve_pde: status {solution.status} with error estimate {solution.error_estimate:.1e}, tol={tol:.0e}: "
            f"{solution.report['reason']}."
        )
        if on_failure == "raise":
            raise ConvergenceError(text)
        warnings.warn(text, ConvergenceWarning, stacklevel=caller_level())
    return solution


def _route(pde, method, noise):
    """The function that solves this problem by itself, or None, with its options and the method's name."""
    options = None
    for name, (module, kind) in ROUTES.items():
        if method == name or type(method).__name__ == kind:
            module = importlib.import_module(module)
            options = getattr(module, kind)() if method == name else method
            return module.route, options, name
    method = check_option("method", method, METHODS)
    if pde.parameters:
        return importlib.import_module("sciml.solvers.gp_pde.inverse").route, None, method
    if pde._observations is not None or noise is not None:
        return importlib.import_module("sciml.solvers.gp_pde.noisy").route, None, method
    return None, None, method


def _solve(pde, call):
    """Plan, climb and certify."""
    settings, rng, device, max_iter = call.settings, call.rng, call.device, call.max_iter
    max_iter = 12 if max_iter is None else max_iter
    tol = settings["tol"]
    started = time.perf_counter()
    _warn_about_coordinates(pde)
    plan = make_plan(
        pde,
        method=settings["method"],
        rng=rng,
        frequencies=call.frequencies,
        max_frequency=settings["max_frequency"],
        max_features=settings["max_features"],
    )
    analysed = time.perf_counter()
    context = _Context(pde, plan, rng, device, call.budget, tol, call.threads)
    if len(pde.conditions) > 1 and plan.parts is not None:
        jump = check_corners(pde, context.data_size())
        if jump > 1e-8:
            warnings.warn(
                f"conditions must agree where faces meet; they jump by {jump:.1e} of their size. The solution has a "
                f"singularity there and converges slowly.",
                ConditioningWarning,
                stacklevel=caller_level(),
            )
    # The loop goes on below tol while that is cheap, so its own tolerance is the generator's business.
    loop = run(
        solve_pde_steps(context, max_iter),
        name="solve_pde",
        tol=max(1e-3 * tol, 3e-15),
        max_iter=max_iter,
        callback=call.callback,
        on_failure="ignore",
        progress=call.progress,
        dtype="float64",
    )
    record = context.best or loop.value
    _warn_about_precision(pde, tol)
    status, reason = _status(context, record, tol)
    seconds = {"analysis": analysed - started, "total": time.perf_counter() - started}
    return _result(pde, context, record, loop, status, reason, settings, seconds)


@dataclass
class Record:
    """One rung: its posterior and what is known of its error."""

    posterior: object
    n_rows: int
    values: torch.Tensor
    cancellation: float = 1.0
    left_out: np.ndarray | None = None
    estimate: float = math.inf
    difference: float = math.inf
    propagated: float = math.inf
    residual_rms: float = math.inf
    residual_max: float = math.inf
    boundary: float = math.inf
    rms: float = 0.0
    scale: float = 0.0
    spread: float = 0.0
    row_size: float = 0.0
    resonance: float = 1.0
    fitted: object = None
    unit: float = 1.0

    @property
    def n_features(self):
        """Number of features of the basis."""
        return self.posterior.basis.n_features


class _Context:
    """A problem with its plan, points for validation, and scales."""

    def __init__(self, pde, plan, rng, device, budget, tol, threads=1):
        self.pde, self.plan, self.rng, self.device, self.budget, self.tol = pde, plan, rng, device, budget, tol
        self.threads = threads
        self.best, self.notes, self.small = None, [], []
        half = N_TEST // 2
        X = interior_points(pde.domain, half, rng, uniform=True)
        self.X = np.concatenate([X, interior_points(pde.domain, N_TEST - half, rng)])  # also the faces' neighbourhood
        self.test = torch.as_tensor(self.X, device=device)
        self.terms = pde.coefficient_values(self.X)
        self.f = None if pde._source.is_sampled else pde._source(self.X)
        self.boundary = condition_rows(pde, {1: 1, 2: 150}.get(pde.n_dims, 300), rng)
        self.low = symbol_size(self.terms, np.pi / (pde.domain.box.upper - pde.domain.box.lower))

    def data_size(self):
        """Largest boundary value, in units of u."""
        sizes = [float(np.max(np.abs(r.rhs))) for r in self.boundary if all(sum(a) == 0 for a in r.terms)]
        return max(sizes, default=0.0)

    def solve(self, basis):
        """One rung; returns a Record, or None when there is no way."""
        with self.enough_threads(basis.n_features):
            return self._solve(basis)

    def enough_threads(self, n_features):
        """All threads for a large rung, one for a small one."""
        large = 20_000 if self.plan.solver == "fast-diagonal" else 600
        return thread_limit(self.threads if n_features > large else 1)

    def _solve(self, basis):
        if self.plan.solver == "fast-diagonal":
            self._check_memory(8 * 4 * basis.n_features + 8 * 3 * sum(r * r for r in basis.shape), basis)
            out = solve_tensor(self.pde, basis, *self.plan.parts, device=self.device)
            if not isinstance(out, str):
                posterior = TensorPosterior(basis, out.theta, out.roots, out.eigenvalues)
                return Record(posterior, 0, posterior.apply(self.test, {(0,) * basis.n_dims: 1.0}), out.cancellation)
            logger.info("fast diagonalisation refused: %s", out)
            self.notes.append(out)
            self.plan.solver, self.plan.rungs = "collocation", self.plan.flat
            basis = self.plan.flat(0)
        return self._least_squares(basis)

    def _least_squares(self, basis):
        pde, d, P = self.pde, self.pde.n_dims, basis.n_features
        widest = max(basis.shape) if isinstance(basis, ProductBasis) else max(basis.n_base) + 2 * sum(basis.n_envelope)
        n_face = {1: 1, 2: max(40, 2 * min(widest, int(math.sqrt(2 * P)) + 8))}.get(d, max(150, int(2 * P ** (2 / 3))))
        n_face *= 1 if isinstance(pde.domain, Box) else 3  # a region's boundary points may be random and leave gaps
        n_face = max(n_face, getattr(basis, "n_boundary", 0))  # plane waves are known by boundary data alone
        n = max(
            (2 if isinstance(pde.domain, Box) else 3) * P if P < 2400 else int(1.5 * P),
            6000 if d == 1 and P < 200 else 1500,
        )
        sampled = pde._source.is_sampled
        n = len(pde._source.points) if sampled else n
        self._check_memory(8 * 4 * (n + 2 * d * n_face + P) * P, basis)
        X = pde._source.points if sampled else interior_points(pde.domain, n, self.rng)
        rows = condition_rows(pde, n_face, self.rng)
        system = assemble(
            basis, X, pde.coefficient_values(X), pde._source.values if sampled else pde._source(X), rows, self.device
        )
        fitted, unit = system.solve()
        theta = fitted.mean * unit
        posterior = LeastSquaresPosterior(basis, theta, lambda: fitted.covariance_root() * unit)
        record = Record(posterior, len(system.y), posterior.apply(self.test, {(0,) * d: 1.0}))
        if sampled:
            loo = fitted.leave_one_out[: system.n_interior] * unit
            record.left_out = (loo * system.size[: system.n_interior]).cpu().numpy()
        record.row_size = float(system.size[: system.n_interior].square().mean().sqrt())
        record.fitted, record.unit = fitted, unit
        return record

    def _check_memory(self, needed, basis):
        if needed > self.budget:
            raise MemoryBudgetError(
                f"memory must hold the factorisation of {basis.n_features} features, {needed / 2**30:.2f} GiB; the "
                f"budget "
                f"is {self.budget / 2**30:.2f} GiB. Raise `memory`, lower `max_features`, or loosen `tol`.",
                needed=int(needed),
                allowed=int(self.budget),
            )

    def judge(self, record, richer):
        """Fill in the certificate of a record, given the solution on a richer basis (or None)."""
        with self.enough_threads(record.n_features):
            return self._judge(record, richer)

    def _judge(self, record, richer):
        size = float(record.values.square().mean().sqrt())
        if richer is not None:
            gap = float((record.values - richer.values).square().mean().sqrt())
            record.difference = (
                2 * gap / size if size > 0 else (0.0 if gap == 0 else math.inf)
            )  # the richer one errs too
        Lu = record.posterior.apply(self.test, self.terms).cpu().numpy()
        parts = sum(
            np.abs(c) * np.abs(record.posterior.apply(self.test, {a: 1.0}).cpu().numpy()) for a, c in self.terms.items()
        )
        if self.f is not None:
            r = Lu - self.f
            scale = np.sqrt(np.mean((parts + np.abs(self.f)) ** 2))
        else:
            r = record.left_out
            scale = np.sqrt(np.mean(parts**2)) + np.sqrt(np.mean(self.pde._source.values**2))
        scale = max(scale, self.low * size)  # where L u vanishes its rounding is no residual
        rms, peak, record.scale = float(np.sqrt(np.mean(r**2))), float(np.max(np.abs(r))), float(scale)
        record.residual_rms, record.residual_max = (rms / scale, peak / scale) if scale > 0 else (0.0, 0.0)
        record.boundary = self._boundary_residual(record, size)
        # The posterior costs as much as the fit: not for a rung that is to be left anyway.
        hopeless = richer is not None and record.n_features > 800 and record.difference > 10 * self.tol
        # Data are rounded too, relative to the terms that cancel in them; the points may all round alike and hide it.
        record.rms = max(rms, 16 * np.finfo(float).eps * scale)
        record.propagated = record.difference if hopeless else self._propagated(record, record.rms, size)
        record.estimate = max(record.difference, record.propagated, self._rounded_coordinates(record, size))
        if size == 0 and rms == 0 and record.boundary == 0:
            record.estimate = 0.0
        return record

    def _boundary_residual(self, record, size):
        worst = 0.0
        for group in self.boundary:
            X = torch.as_tensor(group.X, device=self.device)
            r = record.posterior.apply(X, group.terms)
            if group.minus is not None:
                r = r - record.posterior.apply(torch.as_tensor(group.minus, device=self.device), group.terms)
            scale = float(np.sqrt(np.mean(group.rhs**2))) + size * symbol_size(group.terms, np.pi / self._length())
            r = float((r - torch.as_tensor(group.rhs, device=self.device)).square().mean().sqrt())
            worst = max(worst, r / scale if scale > 0 else r)
        return worst

    def _length(self):
        return self.pde.domain.box.upper - self.pde.domain.box.lower

    def _propagated(self, record, rms, size):
        """Relative size of u that noise as large as the residual makes; sets the spread of the posterior too."""
        X = self.test[:: max(1, N_TEST // 300)]
        posterior = record.posterior
        if isinstance(posterior, TensorPosterior):
            counts = [len(a.quadrature()[0]) for a in posterior.basis.axes]
            noise = rms * math.sqrt(float(np.prod(self._length())) / math.prod(counts))
        else:  # the posterior as if its noise were what fresh points show
            noise = 1.0
            seen = rms / record.row_size / record.unit if record.row_size else 0.0
            factor = max(1.0, min(seen / ROUNDING, 1 / ROUNDING))
            posterior.set_root(record.fitted.covariance_root(factor) * record.unit)
        record.spread = float(posterior.deviation(X, (0,) * self.pde.n_dims).square().mean().sqrt())
        if size == 0:
            return 0.0 if rms == 0 else math.inf
        return noise * record.spread / size

    def _rounded_coordinates(self, record, size):
        """Relative change of u when the coordinates of all data are off by their rounding; at least 4 eps."""
        eps = 4 * np.finfo(float).eps
        if size == 0:
            return eps
        box, d, total = self.pde.domain.box, self.pde.n_dims, 0.0
        for j, far in enumerate(np.maximum(np.abs(box.lower), np.abs(box.upper))):
            slope = record.posterior.apply(self.test, {tuple(int(i == j) for i in range(d)): 1.0})
            total += 2 * eps * far * float(slope.square().mean().sqrt())
        return max(eps, total / size)

    def widely(self, record):
        """Relative root-mean-square residual at many more points, once, for the answer; what is narrower escapes."""
        if self.pde._source.is_sampled or self.pde._source.constant is not None:
            return 0.0
        X = interior_points(self.pde.domain, N_WIDE[self.pde.n_dims > 1], self.rng, uniform=True)
        points = torch.as_tensor(X, device=self.device)
        terms, f = self.pde.coefficient_values(X), self.pde._source(X)
        r = record.posterior.apply(points, terms).cpu().numpy() - f
        scale = record.scale or max(float(np.sqrt(np.mean(f**2))), 1e-300)
        record.residual_max = max(record.residual_max, float(np.max(np.abs(r))) / scale)
        return float(np.sqrt(np.mean(r**2))) / scale

    def resonance(self, record):
        """Relative size of (L v, B v) for the function v that the data determine least; rounding means singular."""
        if isinstance(record.posterior, TensorPosterior):
            return record.cancellation
        d = self.pde.n_dims
        rng = np.random.default_rng(0)
        state = rng.bit_generator.state
        # At rounding level: louder noise would let the prior hide which function is free.
        posterior = LeastSquaresPosterior(
            record.posterior.basis, record.posterior.theta, record.fitted.covariance_root()
        )

        def draw(X, terms):
            out = 0.0
            for alpha, c in terms.items():
                rng.bit_generator.state = state  # one and the same function v
                v = posterior.draw(torch.as_tensor(X, device=self.device), alpha, 1, rng)[0].cpu().numpy()
                out = out + c * v
            return out

        X = self.X[::4]
        terms = {a: (c if isinstance(c, float) else c[::4]) for a, c in self.terms.items()}
        v = draw(X, {(0,) * d: 1.0})
        size = np.sqrt(np.mean(v**2))
        if not size > 0:
            return 1.0
        parts = sum(np.abs(draw(X, {a: 1.0}) * c) for a, c in terms.items())
        inside = np.sqrt(np.mean(draw(X, terms) ** 2)) / (np.sqrt(np.mean(parts**2)) + self.low * size)
        edge = 0.0
        for group in self.boundary:
            b = draw(group.X, group.terms)
            if group.minus is not None:
                b = b - draw(group.minus, group.terms)
            edge = max(edge, np.sqrt(np.mean(b**2)) / (size * symbol_size(group.terms, np.pi / self._length())))
        return float(max(inside, edge))


def solve_pde_steps(context, max_level=12):
    """Climb the ladder: yield a Step for each rung, with the best certified record as value.

    Parameters
    ----------
    context : object
        Made by `solve_pde`: problem, plan, validation points.
    max_level : int
        Highest rung.

    Yields
    ------
    Step
        value : Record; criterion : error estimate, dimensionless.
    """
    previous, worse, level = None, 0, 0
    best = None
    while level <= max_level + 1:
        basis = context.plan.rungs(level)
        level += 1
        if basis is None:
            break
        try:
            record = context.solve(basis)
        except MemoryBudgetError:
            if previous is None:
                raise
            context.notes.append("the memory budget ended the refinement")
            break
        if record is None:
            break
        if previous is not None:
            context.judge(previous, record)
            if previous.n_features <= 300 or not context.small:
                context.small.append(previous)
            logger.debug("rung %d: %d features, estimate %.1e", level - 2, previous.n_features, previous.estimate)
            improved = (
                best is None or previous.estimate < (0.3 if best.estimate <= context.tol else 1.0) * best.estimate
            )
            unresolved = best is None or best.estimate > 1e-2  # waves are not seen at all until the basis resolves them
            worse = 0 if unresolved or previous.estimate < 0.3 * best.estimate else worse + 1
            best = previous if improved else best
            context.best = best
            yield Step(
                best, best.estimate, {"n_features": float(previous.n_features), "residual": previous.residual_rms}
            )
            if best.estimate <= context.tol and (worse or previous.difference <= 1e-3 * context.tol):
                break  # what is left is noise, which a richer basis does not lower
            if worse >= 4:
                break
        previous = record
    if best is None:
        if previous is None:
            raise InvalidInputError(
                "max_features must admit the smallest basis of this problem, which needs more. Raise max_features."
            )
        context.judge(previous, None)
        context.best = previous
        yield Step(
            previous, previous.estimate, {"n_features": float(previous.n_features), "residual": previous.residual_rms}
        )


def _status(context, record, tol):
    """The word and its reason."""
    resonance = context.resonance(record)
    if not record.estimate <= tol:  # large bases round more: a small one may show what is free
        resonance = min([resonance, *(context.resonance(r) for r in context.small)])
    record.resonance = resonance
    if resonance < RESONANCE:
        return "near_singular", (
            f"a function of size one meets the equation and its conditions with zero data to {resonance:.0e}; "
            f"u is not unique. Check for a resonance or a missing condition"
        )
    if context.plan.alias["lattice"]:
        return "alias_warning", (
            f"{context.plan.alias['lattice']}; pass max_frequency if the source is known to hold none, or "
            f"add samples off the lattice"
        )
    if context.plan.alias["margin"] > 1e-6:
        return "alias_warning", (
            f"a part {context.plan.alias['margin']:.0e} of the power lies in the top tenth of the band that the "
            f"samples resolve; sample more densely"
        )
    if context.plan.gap:
        return "not_converged", f"{context.plan.gap}; sample there"
    if not record.estimate <= tol:
        return "not_converged", "raise max_features or max_iter, or loosen tol"
    if not record.residual_rms <= 10 * max(tol, 1e-13) or not record.boundary <= 10 * max(tol, 1e-13):
        return "not_converged", (
            f"fresh points show a residual of {record.residual_rms:.0e} inside and {record.boundary:.0e} on the "
            f"boundary; the data may be rough, noisy or contradict one another"
        )
    if context.widely(record) > max(tol, 1e-12, 3 * record.residual_rms):
        return "not_converged", (
            f"among many more points the residual reaches {record.residual_max:.0e}: the source has a feature "
            f"too narrow for this basis"
        )
    if not context.plan.resolved and record.residual_max > 10 * max(tol, 1e-13):
        return "not_converged", "the data were not resolved on the lines; they may be rough"
    return "converged", "the error estimate is at most tol"


def _result(pde, context, record, loop, status, reason, settings, seconds):
    size = float(record.values.square().mean().sqrt())
    if record.spread == 0 and size > 0:
        context._propagated(record, record.rms, size)
    target = record.estimate * size if math.isfinite(record.estimate) else size
    factor = target / record.spread if record.spread > 0 else 0.0
    plan = context.plan
    report = {
        "n_features": record.n_features,
        "n_rows": record.n_rows,
        "solver": plan.solver,
        "why": plan.why,
        "reason": reason,
        "residual_validation": record.residual_rms,
        "residual_max": record.residual_max,
        "boundary_residual": record.boundary,
        "difference_to_richer": record.difference,
        "propagated_noise": record.propagated,
        "alias_margin": plan.alias["margin"],
        "singularity": record.resonance,
        "carriers": plan.carriers,
        "seconds": seconds,
        "notes": context.notes,
    }
    report = {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in report.items()}
    domain = pde.domain if not isinstance(pde.domain, Box) else None
    box = pde.domain.box
    phase = float(np.max(record.posterior.basis.max_frequency * (box.upper - box.lower) / 2))
    if phase > 1e5:
        text = f"phases reach {phase:.0e} rad, so that rounding alone costs {phase * np.finfo(float).eps:.0e} of u"
        context.notes.append(text)
        warnings.warn(f"{text}. Solve on a part of the domain.", ConditioningWarning, stacklevel=caller_level())
    return PDESolution(
        status=status,
        n_iter=loop.n_iter,
        history=loop.history,
        settings=settings,
        error_estimate=record.estimate,
        report=report,
        coefficients=record.posterior.theta.detach().cpu().numpy(),
        factor=factor,
        posterior=record.posterior,
        region=domain,
    )


def _checked_frequencies(frequencies, d):
    if frequencies is None:
        return None
    from sciml.solvers.gp_pde.functions import to_numpy

    omega = to_numpy("frequencies", frequencies)
    if omega.ndim not in (1, 2) or omega.size == 0 or (omega.ndim == 2 and omega.shape[1] != d):
        raise InvalidInputError(
            f"frequencies must have shape (Q,) or (Q, {d}) with Q > 0; got {omega.shape}. Leave it out to let the "
            f"solver find them."
        )
    return omega


def _device(device):
    name = resolve("device", device)
    if name == "auto":
        return torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError(
            f"device must be available; got {name!r} and torch sees no CUDA device. Use device='cpu'."
        )
    return device


def _warn_about_coordinates(pde):
    box = pde.domain.box
    offset = np.max(np.abs(np.stack([box.lower, box.upper])), axis=0) / (box.upper - box.lower)
    if np.max(offset) > 1e5:
        j = int(np.argmax(offset))
        warnings.warn(
            f"bounds lie {offset[j]:.0e} lengths from the origin in dimension {j}: coordinates have lost that many "
            f"digits "
            f"before the solver sees them. Shift the origin of x towards the domain.",
            ConditioningWarning,
            stacklevel=caller_level(),
        )


def _warn_about_precision(pde, tol):
    if pde._source.single_precision and tol < 1e-4:
        warnings.warn(
            f"source came in float32 and tol={tol:.0e}: its seven digits bound what can be reached. Pass float64, or "
            f"loosen tol to 1e-4.",
            ConditioningWarning,
            stacklevel=caller_level(),
        )
