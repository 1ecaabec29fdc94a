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

import dataclasses
import importlib
import logging
import math
import numbers
import time
import warnings

import numpy as np
import torch

from sciml._config import memory_budget, resolve
from sciml.exceptions import (
    ConditioningWarning,
    ConvergenceError,
    ConvergenceWarning,
    InvalidInputError,
    InvalidTypeError,
)
from sciml.iterate import Status, caller_level, run
from sciml.linalg.threads import thread_limit
from sciml.random import generator
from sciml.solvers.gp_pde.call import Call
from sciml.solvers.gp_pde.certificate import smallest_singular_value
from sciml.solvers.gp_pde.conditions import named_faces
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.fast_diagonal import check_corners
from sciml.solvers.gp_pde.functions import PointFunction, to_numpy
from sciml.solvers.gp_pde.ladder import Context, explore_steps, solve_pde_steps
from sciml.solvers.gp_pde.plan import make_plan, plan_from_solution
from sciml.solvers.gp_pde.problem import PDE
from sciml.solvers.gp_pde.result import PDESolution
from sciml.solvers.gp_pde.slabs import slabs_needed, solve_slabs
from sciml.solvers.gp_pde.time_axis import time_dimension
from sciml.validation import check_number, check_option

__all__ = ["solve_pde", "solve_pde_steps"]

logger = logging.getLogger(__name__)

METHODS = ("auto", "carriers", "chebyshev", "joint", "frame", "kernel", "gphm")
ROUTES = {  # methods of their own: where the route and its options are
    "frame": ("sciml.solvers.gp_pde.frame", "FourierFrame"),
    "kernel": ("sciml.solvers.gp_pde.kernel_route", "KernelMethod"),
    "gphm": ("sciml.solvers.gp_pde.gphm", "GPHM"),
}
MANY = 20_000  # samples of the source beyond which "auto" takes the frame
WAVES = 40.0  # half the box's diagonal times the wavenumber beyond which "auto" tries plane waves first
UNKNOWN = 0.5  # an estimate beyond, of a solution that did not converge, says that nothing is known
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
        Noise of the source: its standard deviation in units of f, or "learn" to estimate it and that of boundary
        values; a dict with the keys "source" and "boundary" for one of them each. None: the data are exact.
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
    if isinstance(noise, numbers.Real) and noise == 0:  # exact data, in other words
        noise = None
    own = not isinstance(method, str) or method in ROUTES
    pde, note = (pde, []) if own else _without_needless_observations(pde, noise)
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
    start = _checked_start(pde, start)
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
            solution = _solve(pde, call) if _slabs(pde, call) == 1 else solve_slabs(pde, call, _solve)
    solution.report["notes"].extend(note)
    if solution.status != "converged" and on_failure != "ignore":
        text = (
            f"solve_pde: status {solution.status} with error estimate {solution.error_estimate:.1e}, tol={tol:.0e}: "
            f"{solution.report['reason']}."
        )
        if on_failure == "raise":
            raise ConvergenceError(text)
        warnings.warn(text, ConvergenceWarning, stacklevel=caller_level())
    return solution


def _without_needless_observations(pde, noise):
    """An exact problem that its conditions determine learns nothing from values of u; with a note that says so."""
    if pde._observations is None or pde.parameters or noise is not None or not pde.conditions:
        return pde, []
    wheres = [getattr(c, "where", None) for c in pde.conditions]
    if any(w is not None and (callable(w) or named_faces(w, pde.n_dims) is None) for w in wheres):
        return pde, []
    if any(isinstance(getattr(c, "g", None), tuple) for c in pde.conditions):
        return pde, []
    try:
        plain = dataclasses.replace(pde, observations=None)
    except InvalidInputError:  # conditions alone are not enough
        return pde, []
    return plain, ["the equation and its conditions determine u: the observations were not used"]


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
    source = pde._source
    if method == "auto" and pde.is_linear and pde.unknowns is None and source.is_sampled and len(source.points) >= MANY:
        frame = importlib.import_module("sciml.solvers.gp_pde.frame")
        return frame.route, frame.FourierFrame(), method
    return None, None, method


def _slabs(pde, call):
    """Number of slabs of time that the caller asks for, or that the problem needs."""
    if call.slabs is None:
        call.slabs = 1 if time_dimension(pde) is None else slabs_needed(pde, call.max_features)
    return call.slabs


def _solve(pde, call):
    """Plan, climb and certify."""
    tol, started = call.tol, time.perf_counter()
    _warn_about_coordinates(pde)
    plan = _plan(pde, call)
    analysed = time.perf_counter()
    context = Context(pde, plan, call)
    if len(pde.conditions) > 1 and plan.parts is not None:
        jump = check_corners(pde, context.yardstick.data_size())
        if jump > 1e-8:
            warnings.warn(
                f"conditions must agree where faces meet; they jump by {jump:.1e} of their size. The solution has a "
                f"singularity there and converges slowly.",
                ConditioningWarning,
                stacklevel=caller_level(),
            )
    if call.settings["method"] == "auto" and _radiates(pde, plan):
        waves = _by_waves(pde, call, context.yardstick)
        if waves is not None:
            status, reason = _status(waves[0], waves[0].best, tol)
            if status in ("converged", "near_singular"):
                seconds = {"analysis": analysed - started, "total": time.perf_counter() - started}
                return _result(pde, waves[0], waves[0].best, waves[1], status, reason, call.settings, seconds)
    if pde.is_linear:
        # The loop goes on below tol while that is cheap, so its own tolerance is the generator's business.
        loop = _climb(context, max(1e-3 * tol, 3e-15))
    else:
        context, loop = _explore_and_climb(context)
    record = context.best or loop.value
    _warn_about_precision(pde, tol)
    status, reason = _status(context, record, tol)
    seconds = {"analysis": analysed - started, "total": time.perf_counter() - started}
    return _result(pde, context, record, loop, status, reason, call.settings, seconds)


def _plan(pde, call):
    if call.settings["method"] == "joint":
        joint = importlib.import_module("sciml.solvers.gp_pde.joint")
        return joint.joint_plan(
            pde,
            rng=call.rng,
            frequencies=call.frequencies,
            max_features=call.max_features,
            max_frequency=call.max_frequency,
        )
    return make_plan(
        pde,
        method=call.settings["method"],
        rng=call.rng,
        frequencies=call.frequencies,
        max_frequency=call.max_frequency,
        max_features=call.max_features,
        data_tol=1e-13 if pde.is_linear else 1e-3,
    )


def _radiates(pde, plan):
    """True for a Helmholtz-like equation of many wavelengths where fast diagonalisation does not apply."""
    sampled = any(e.source.is_sampled for e in pde._equations)
    if plan.solver != "collocation" or pde.n_dims < 2 or not pde.is_linear or pde.unknowns is not None or sampled:
        return False
    waves = importlib.import_module("sciml.solvers.gp_pde.joint").wave_matrix(pde)
    box = pde.domain.box
    return waves is not None and float(np.linalg.norm(waves, 2) * np.linalg.norm(box.upper - box.lower) / 2) >= WAVES


def _by_waves(pde, call, yardstick):
    """Climb with plane waves, or None where they do not arrive."""
    joint = importlib.import_module("sciml.solvers.gp_pde.joint")
    plan = joint.joint_plan(
        pde,
        rng=call.rng,
        frequencies=call.frequencies,
        max_features=call.max_features,
        max_frequency=call.max_frequency,
    )
    context = Context(pde, plan, call, yardstick)
    loop = _climb(context, max(1e-3 * call.tol, 3e-15))
    return (context, loop) if context.best is not None and context.best.estimate <= call.tol else None


def _climb(context, tol, steps=None, first=None):
    max_iter = 12 if context.call.max_iter is None else context.call.max_iter
    return run(
        solve_pde_steps(context, max_iter, first) if steps is None else steps(context, max_iter),
        name="solve_pde",
        tol=tol,
        max_iter=max_iter,
        callback=context.call.callback,
        on_failure="ignore",
        progress=context.call.progress,
        dtype="float64",
    )


def _explore_and_climb(context):
    """Of a nonlinear equation the source tells little of u: a first solution does, from which the ladder is chosen."""
    pde, call, fine = context.pde, context.call, max(1e-3 * context.tol, 3e-15)
    explored = _climb(context, max(1e-9, 0.1 * context.tol), explore_steps)
    first = explored.value
    if explored.status is Status.STOPPED:
        context.best = first[1]
        return context, explored
    ready = first[1].propagated < 1e-6 and first[1].newton.settled
    sampled = any(e.source.is_sampled for e in pde._equations)
    if ready and pde.unknowns is None and not sampled and call.settings["method"] not in ("chebyshev", "joint"):

        def u(X):
            points = torch.as_tensor(X, dtype=torch.float64, device=call.device)
            return first[1].posterior.apply(points, {(0,) * pde.n_dims: 1.0}).cpu().numpy()

        plan = plan_from_solution(
            pde,
            u,
            rng=call.rng,
            frequencies=call.frequencies,
            max_features=call.max_features,
            error=first[1].propagated,
        )
        if plan.carriers:
            second = Context(pde, plan, call, context.yardstick)
            second.last, second.newton_steps, second.notes = first[1], context.newton_steps, context.notes
            loop = _climb(second, fine)
            if second.best is not None and second.best.estimate <= context.tol:
                return second, loop
            context.plan.carriers = plan.carriers
    return context, _climb(context, fine, first=first)


def _status(context, record, tol):
    """The word and its reason."""
    yardstick = context.yardstick
    resonance = yardstick.resonance(record)
    if not record.estimate <= tol:  # large bases round more: a small one may show what is free
        resonance = min([resonance, *(yardstick.resonance(r) for r in context.small)])
    record.resonance = resonance
    if resonance < RESONANCE:
        return "near_singular", (
            f"a function of size one meets the equation and its conditions with zero data to {resonance:.0e}; "
            f"u is not unique. Check for a resonance or a missing condition"
        )
    if record.newton is not None and not record.newton.settled:
        return "not_converged", (
            f"Gauss-Newton did not settle: its last step changed u by {record.newton.step:.0e}; pass another start"
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
        if record.estimate < 1e-11 and record.residual_rms < 1e-12:
            return "not_converged", "rounding bounds what can be reached here; loosen tol"
        return "not_converged", "raise max_features or max_iter, or loosen tol"
    if not record.residual_rms <= 10 * max(tol, 1e-13) or not record.boundary <= 10 * max(tol, 1e-13):
        return "not_converged", (
            f"fresh points show a residual of {record.residual_rms:.0e} inside and {record.boundary:.0e} on the "
            f"boundary; the data may be rough, noisy or contradict one another"
        )
    if yardstick.widely(record) > max(tol, 1e-12, 3 * record.residual_rms):
        return "not_converged", (
            f"among many more points the residual reaches {record.residual_max:.0e}: the source has a feature "
            f"too narrow for this basis"
        )
    if not context.plan.resolved and record.residual_max > 10 * max(tol, 1e-13):
        return "not_converged", "the data were not resolved on the lines; they may be rough"
    return "converged", "the error estimate is at most tol"


def _result(pde, context, record, loop, status, reason, settings, seconds):
    size = float(record.sizes.max())
    if record.spread == 0 and size > 0:
        context.yardstick.propagated(record, size)
    # Of waves that are not resolved two bases may agree, or a large residual hide beside a larger u.
    unknown = record.estimate > UNKNOWN or record.residual_rms > 0.1 or status == "near_singular"
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
        "iterations": record.newton.total if record.newton is not None and not pde.is_linear else 1,
        "smallest_singular_value": smallest_singular_value(context.yardstick, record),
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
        error_estimate=math.inf if status != "converged" and unknown else record.estimate,
        report=report,
        coefficients=record.posterior.theta.detach().cpu().numpy(),
        factor=factor,
        posterior=record.posterior,
        region=domain,
        unknowns=pde.unknowns,
    )


def _checked_frequencies(frequencies, d):
    if frequencies is None:
        return None
    omega = to_numpy("frequencies", frequencies)
    if omega.ndim not in (1, 2) or omega.size == 0 or (omega.ndim == 2 and omega.shape[1] != d):
        raise InvalidInputError(
            f"frequencies must have shape (Q,) or (Q, {d}) with Q > 0; got {omega.shape}. Leave it out to let the "
            f"solver find them."
        )
    return omega


def _checked_start(pde, start):
    """None, an earlier solution, or a function of X (n, d) that returns (n, m)."""
    if start is None or hasattr(start, "posterior"):
        if start is not None and (start.n_dims, start.n_unknowns) != (pde.n_dims, pde.n_unknowns):
            raise InvalidInputError(
                f"start must be a solution in {pde.n_dims} dimensions with {pde.n_unknowns} unknowns; got "
                f"{start.n_dims} and {start.n_unknowns}."
            )
        return start
    if pde.unknowns is None:
        g = PointFunction("start", start, pde.n_dims)
        if g.is_sampled:
            raise InvalidTypeError("start must be a callable of X, a number or an earlier solution; got samples.")
        return lambda X: g(X)[:, None]
    if not callable(start):
        start = np.broadcast_to(to_numpy("start", start), (pde.n_unknowns,))
        return lambda X: np.tile(start, (len(X), 1))

    def values(X):
        out = to_numpy("start", start(X.copy()))
        if out.shape != (len(X), pde.n_unknowns):
            raise InvalidInputError(
                f"start must return shape ({len(X)}, {pde.n_unknowns}) for X of shape {X.shape}; got {out.shape}."
            )
        return out

    return values


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
