r"""The published method, for reproduction and teaching: grid values and kernel, all optimised together by Adam.

.. math:: \min_{U, \theta, \tau} \; -\log N(\mathrm{vec}\, U \mid 0, C_\theta)
          - \lambda_b \log N(g \mid U_b, \tau_1^{-1} I) - \log N(0 \mid r(U), \tau_2^{-1} I)

It is the objective of the paper, evaluated much faster (`gphm_objective`), with its settings as defaults.  What it
returns is the last iterate, certified like any other answer: at fresh points, and against the default method.

Notation  U values on the grid; theta = (w, rho, mu) of each axis; tau precisions; F highest first frequency.
Cost      a step: sum M_j^3 / 3 + O(M sum M_j); some milliseconds for 400 points on a line.
Pitfalls  The paper takes 1e5 to 3e6 steps for errors of 1e-3 to 1e-7; the default method takes milliseconds for 1e-9.
          Frequencies above that of the grid, pi / spacing, may zero the residual at the nodes with a wrong u.

References
----------
S. Fang, M. Cooley, D. Long, S. Li, R. Kirby, S. Zhe, Solving high frequency and multi-scale PDEs with Gaussian
processes, 2024, arXiv 2311.04465.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from dataclasses import dataclass

import torch

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.iterate import End, Status, Step, run
from sciml.linalg.memory import require
from sciml.linalg.threads import thread_limit
from sciml.solvers.gp_pde.functions import PointFunction
from sciml.solvers.gp_pde.gphm_certificate import certificate, verdict
from sciml.solvers.gp_pde.gphm_kernel import ENVELOPES
from sciml.solvers.gp_pde.gphm_objective import GPHMObjective
from sciml.solvers.gp_pde.gphm_posterior import GridPosterior
from sciml.solvers.gp_pde.result import PDESolution
from sciml.validation import check_number, check_option

__all__ = ["GPHM", "gphm_steps", "route"]

PARTS = ("weight", "bandwidth", "frequency")


@dataclass(frozen=True)
class GPHM:
    r"""Options of ``method="gphm"``: the defaults are the settings of the paper, but for the number of steps.

    Parameters
    ----------
    n_points : int or tuple of int
        Points of the even grid along each dimension, end points included. Default 400, as for most problems of the
        paper: twice what :math:`\sin 100x` on :math:`[0, 2\pi]` needs by the sampling theorem.
    n_components : int
        Components Q of each dimension's mixture, default 30.
    max_frequency : float or tuple of float, optional
        F: the first frequencies are even from zero to F, cycles / unit. None takes the ``max_frequency`` of
        `solve_pde` (rad / unit) over :math:`2\pi`, or 20 without it, as for most problems of the paper. It should
        exceed the highest of u, and not that of the grid, (n_points - 1) / (2 length).
    kernel : {"stm", "gm", "matern52", "se"}
        "stm": Matern-5/2 envelopes, whose spectrum is a mixture of Student-t densities (the default, and the paper's
        choice); "gm": Gaussian ones; the others have a single component of frequency zero, for comparison.
    n_steps : int
        Steps of Adam where `solve_pde` is given no ``max_iter``. Default 2000: seconds on a line; the paper takes 1e5
        to 3e6.
    learning_rate : float
        Of Adam, without decay; default 1e-2.
    boundary_weight : float
        lambda_b, default 200; the paper takes 500 for advection.
    jitter : float
        Added to the variance at the nodes, units of u squared; default 1e-6. It bounds the condition number, and the
        accuracy: conditioning exactly with such a nugget leaves an error of 2e-3 on :math:`\sin 100x`, 3e-4 without.
    freeze : sequence of {"weight", "bandwidth", "frequency"}
        Parts of the kernel that are not learned; none by default. For ablations.
    log_determinant : bool
        False leaves the log-determinants out, which prune components. For ablations.
    extra_after : float, optional
        After this fraction of the steps freeze what was learned and add a Matern-5/2 process; None (the default) never
        does. The paper does for two problems, at 0.5 and 0.01.

    Raises
    ------
    InvalidInputError
        When a number is out of range or a name unknown.

    References
    ----------
    S. Fang et al., Solving high frequency and multi-scale PDEs with Gaussian processes, 2024, arXiv 2311.04465.

    Examples
    --------
    >>> GPHM(n_points=100, n_steps=50).boundary_weight
    200.0
    """

    n_points: int | tuple = 400
    n_components: int = 30
    max_frequency: float | tuple | None = None
    kernel: str = "stm"
    n_steps: int = 2000
    learning_rate: float = 1e-2
    boundary_weight: float = 200.0
    jitter: float = 1e-6
    freeze: tuple = ()
    log_determinant: bool = True
    extra_after: float | None = None

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        if isinstance(self.n_points, list | tuple):
            put("n_points", tuple(check_number("n_points", n, low=4, integer=True) for n in self.n_points))
        else:
            put("n_points", check_number("n_points", self.n_points, low=4, integer=True))
        put("n_components", check_number("n_components", self.n_components, low=1, integer=True))
        if isinstance(self.max_frequency, list | tuple):
            put("max_frequency", tuple(check_number("max_frequency", v, low=0.0) for v in self.max_frequency))
        elif self.max_frequency is not None:
            put("max_frequency", check_number("max_frequency", self.max_frequency, low=0.0))
        check_option("kernel", self.kernel, tuple(ENVELOPES))
        put("n_steps", check_number("n_steps", self.n_steps, low=0, integer=True))
        for name in ("learning_rate", "boundary_weight", "jitter"):
            put(name, check_number(name, getattr(self, name), low=0.0, inclusive="neither"))
        freeze = (self.freeze,) if isinstance(self.freeze, str) else tuple(self.freeze)
        put("freeze", tuple(check_option("freeze", name, PARTS) for name in freeze))
        if self.extra_after is not None:
            put("extra_after", check_number("extra_after", self.extra_after, low=0.0, high=1.0))

    def frequencies(self, n_dims, omega=None):
        """F of each dimension, cycles / unit.

        Parameters
        ----------
        n_dims : int
            d.
        omega : float, optional
            What to take where the option is None, rad / unit.

        Returns
        -------
        tuple of float, length d
        """
        highest = self.max_frequency
        if highest is None:
            highest = 20.0 if omega is None else omega / (2 * math.pi)
        highest = highest if isinstance(highest, tuple) else (highest,) * n_dims
        if len(highest) != n_dims:
            raise InvalidInputError(
                f"max_frequency must be one number or one for each of {n_dims} dimensions; got {highest}."
            )
        return highest


def gphm_steps(objective, n_steps=None):
    """Take steps of Adam on a `GPHMObjective`, in place.

    Parameters
    ----------
    objective : GPHMObjective
        What is minimised; it holds the iterate.
    n_steps : int, optional
        The whole number of steps, of which ``extra_after`` is a fraction; that of the options when None.

    Yields
    ------
    Step
        value : the objective; criterion : the larger of the relative residual at the nodes and the relative mismatch
        on the boundary, dimensionless; scalars : "loss" at this iterate, before the step that follows, and both parts
        of the criterion.
    """
    options = objective.options
    n_steps = options.n_steps if n_steps is None else n_steps
    extra = None if options.extra_after is None else round(options.extra_after * n_steps)

    def adam():
        return torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=options.learning_rate)

    optimizer = adam()
    for k in itertools.count():
        if k == extra:
            objective.add_correction()
            optimizer = adam()
        optimizer.zero_grad()
        try:
            loss = objective()
        except NotPositiveDefiniteError as error:
            if k == 0:
                raise
            return End(Status.INDEFINITE, f"after {k} steps {error}")
        residual, boundary = (float(objective.criteria[name]) for name in ("residual", "boundary"))
        # A NaN must not hide behind max, which the order of its arguments decides.
        criterion = max(residual, boundary) if math.isfinite(residual + boundary) else math.nan
        yield Step(objective, criterion, {"loss": float(loss.detach()), "residual": residual, "boundary": boundary})
        loss.backward()
        optimizer.step()


def route(pde, call, options):
    """Minimise the published objective, and certify the last iterate.

    Parameters
    ----------
    pde : PDE
        One unknown on a Box, linear or not, with values on faces.
    call : Call
        Settings of `solve_pde`.
    options : GPHM
        Settings of the method.

    Returns
    -------
    PDESolution
        ``history["loss"][k]`` is the objective before step k + 1.

    Raises
    ------
    InvalidInputError
        When the objective cannot hold the problem or the settings.
    MemoryBudgetError
        When covariances and grid values do not fit.
    """
    started = time.perf_counter()
    for name in ("noise", "slabs"):
        if getattr(call, name) is not None:
            raise InvalidInputError(f"{name} must be None for method='gphm'; got {getattr(call, name)!r}.")
    max_frequency = options.frequencies(pde.n_dims, call.max_frequency)
    shape = options.n_points if isinstance(options.n_points, tuple) else (options.n_points,) * pde.n_dims
    size = math.prod(shape)
    require(
        8 * (8 * sum(n * n for n in shape) + 60 * size + 60 * options.n_components * sum(shape)),
        what=f"the objective on a grid of {' x '.join(map(str, shape))} points",
        remedy="lower n_points",
        memory=call.budget,
    )
    objective = GPHMObjective(pde, options, max_frequency, call.device)
    notes = _notes(objective, call)
    if call.start is not None:
        values = PointFunction("start", call.start, pde.n_dims)(objective.X)
        with torch.no_grad():
            objective.fields[0].values.copy_(torch.as_tensor(values).reshape(shape))
    n_steps = options.n_steps if call.max_iter is None else call.max_iter
    with thread_limit(call.threads if size > 20_000 else 1):
        loop = run(
            gphm_steps(objective, n_steps),
            name="gphm",
            tol=max(1e-3 * call.tol, 3e-15),  # what holds at the nodes alone is no reason to stop
            max_iter=n_steps,
            callback=call.callback,
            on_failure="ignore",
            progress=call.progress,
            dtype="float64",
        )
        posterior = GridPosterior.of(objective)
        seconds = {"steps": time.perf_counter() - started}
        found = certificate(pde, call, posterior)
    seconds["total"] = time.perf_counter() - started
    estimate = found["error_estimate"]
    status, reason = verdict(found, loop, call.tol)
    spread = found.pop("spread")
    target = found["size"] * (estimate if math.isfinite(estimate) else 1.0)
    last = {name: float(loop.history[name][-1]) for name in ("residual", "boundary")}
    report = {
        "n_features": posterior.basis.n_features,
        "n_rows": size + len(objective.g),
        "solver": "adam",
        "why": f"the published objective, {loop.n_iter} steps on {' x '.join(map(str, shape))} points",
        "reason": reason,
        "residual_validation": found["residual"],
        "residual_max": found["residual_max"],
        "boundary_residual": found["boundary"],
        "difference_to_richer": found["difference"],
        "propagated_noise": None,
        "alias_margin": None,
        "singularity": found["singularity"],
        "carriers": [],
        "residual_nodes": last["residual"],
        "boundary_nodes": last["boundary"],
        "seconds": seconds,
        "notes": notes + found["notes"],
    }
    return PDESolution(
        status=status,
        n_iter=loop.n_iter,
        history=loop.history,
        settings=call.settings | {"options": dataclasses.asdict(options)},
        error_estimate=estimate,
        report={k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in report.items()},
        coefficients=posterior.theta.cpu().numpy(),
        factor=target / spread if spread > 0 else 0.0,
        posterior=posterior,
        region=None,
    )


def _notes(objective, call):
    """What a user should know of the settings."""
    notes = []
    field = objective.fields[0]
    for j, ((lower, upper), n) in enumerate(zip(field.bounds, field.shape, strict=True)):
        highest, limit = float(field.mu[j].detach().abs().max()), (n - 1) / (2 * (upper - lower))
        if highest > limit:
            notes.append(
                f"first frequencies reach {highest:.3g} cycles / unit in dimension {j} and the grid resolves "
                f"{limit:.3g}: the residual may vanish at the nodes with a wrong u; raise n_points or lower "
                f"max_frequency"
            )
    if call.frequencies is not None:
        notes.append("frequencies are not used: this method learns its own from an even start")
    return notes
