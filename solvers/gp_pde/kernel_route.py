r"""The kernel route: a process with a kernel of finite smoothness, conditioned exactly on equation and conditions.

.. math:: u \sim \mathrm{GP}(0, k), \qquad \hat u = E[u \mid \mathcal{L} u(x_i) = f(x_i),\; \mathcal{B} u(z_j) = g(z_j)]

For solutions of finite smoothness, on which bases of waves and polynomials converge slowly, and for very many points.

Notation  n functionals: values of L u inside and of B u on the boundary; k Matern (or any kernel given); p = nu - 1/2.
Cost      dense n^3 / 3 up to `DENSE` functionals; beyond, conjugate gradients with a sparse inverse Cholesky factor:
          n^2 / 2 kernel values and some tens of products with them.
Pitfalls  The estimate is that of a sequence: solutions of n / 4, n / 2 and n points, extrapolated by the rate that they
          show. A source that no rung resolves is told by its residual at fresh points.
          Smooth solutions are cheaper by ``method="auto"``, by orders of magnitude.

References
----------
Y. Chen, B. Hosseini, H. Owhadi, A. Stuart, Solving and learning nonlinear PDEs with Gaussian processes, 2021, arXiv
2103.12959.
H. Wendland, Scattered data approximation, 2005, chapter 16.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.iterate import Step, run
from sciml.linalg.threads import thread_limit
from sciml.random import generator
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.functional_gram import FunctionalGroup, Functionals
from sciml.solvers.gp_pde.kernel_certificate import Certificate, verdict
from sciml.solvers.gp_pde.kernel_choice import choose_matern, evidence_part
from sciml.solvers.gp_pde.kernel_condition import condition_dense, condition_iteratively
from sciml.solvers.gp_pde.kernel_posterior import KEPT, FunctionalBasis, KernelPosterior
from sciml.solvers.gp_pde.points import condition_rows, interior_points
from sciml.solvers.gp_pde.result import PDESolution
from sciml.solvers.gp_pde.sparse_cholesky import coarse_to_fine
from sciml.solvers.gp_pde.stationary import RadialFunction, covariance_of
from sciml.validation import check_number, check_option

__all__ = ["KernelMethod", "kernel_steps", "route"]

DENSE = 5500  # functionals up to which the factorisation is dense: 480 MB
N_SMOOTHNESS = 4  # smoothness p is sought from m to m + 3 for an equation of order m
LONGEST = 4.0  # lengthscale, in sides of the box: towards the flat limit the evidence is level and rounding grows


@dataclass(frozen=True)
class KernelMethod:
    r"""Options of ``method="kernel"``.

    Parameters
    ----------
    kernel : sciml.kernels.Kernel, optional
        A kernel with the derivatives that the equation needs: Gaussian, Matern52, RationalQuadratic, SpectralMixture,
        or sums and products of such. None (the default) takes a radial Matern kernel, its lengthscales by evidence.
    smoothness : float, optional
        nu of the Matern kernel, a half-integer; at least the order of the equation plus 1/2. None (the default) lets
        the evidence choose.
    lengthscale : float or tuple of float, optional
        Of the Matern kernel, units of x; None (the default): by evidence.
    n_points : int, optional
        Interior points where the source is a function. None (the default) doubles their number until `tol` is met or
        ``max_features`` functionals are used.
    max_points : int
        Samples of the source that are used at most; of more, an even part is taken. Default 40,000, which bounds the
        cost.
    solver : {"auto", "dense", "iterative"}
        "auto" (the default) factors up to 5,500 functionals and iterates beyond.
    nugget : float
        Where the nugget starts, relative to the diagonal. Default 1e-14, which costs no accuracy (1e-6 would).
    n_neighbours : int, optional
        Of the preconditioner; None (the default) takes 30 p - 10 in two dimensions: the smoother, the more.
    max_iter : int
        Iterations of conjugate gradients, default 200.
    engine : str
        Of `sciml.linalg.kernel_sum`, for what does not fit into memory. Default "auto".

    Raises
    ------
    InvalidInputError
        When an option is out of its range.

    References
    ----------
    Y. Chen, B. Hosseini, H. Owhadi, A. Stuart, Solving and learning nonlinear PDEs with Gaussian processes, 2021.

    Examples
    --------
    A solution whose third derivative jumps:

    >>> from sciml.solvers.gp_pde import PDE, Box, Dirichlet, solve_pde
    >>> u = lambda X: np.abs(X[:, 0]) ** 3
    >>> pde = PDE(Box([(-1, 1)]), {2: 1.0}, lambda X: 6 * np.abs(X[:, 0]), [Dirichlet(u)])
    >>> sol = solve_pde(pde, method=KernelMethod(smoothness=2.5), tol=1e-5)
    >>> sol.status
    'converged'
    >>> bool(abs(sol(np.array([0.5]))[0] - 0.125) < 1e-5)
    True
    """

    kernel: Any = None
    smoothness: float | None = None
    lengthscale: Any = None
    n_points: int | None = None
    max_points: int = 40_000
    solver: str = "auto"
    nugget: float = 1e-14
    n_neighbours: int | None = None
    max_iter: int = 200
    engine: str = "auto"

    def __post_init__(self):
        check_option("solver", self.solver, ("auto", "dense", "iterative"))
        check_option("engine", self.engine, ("auto", "dense", "eager", "compiled", "keops"))
        check_number("nugget", self.nugget, low=1e-16, high=1e-4)
        check_number("max_iter", self.max_iter, low=1, integer=True)
        check_number("max_points", self.max_points, low=16, integer=True)
        for name, low in (("n_points", 4), ("n_neighbours", 2)):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low=low, integer=True)
        if self.smoothness is not None:
            nu = check_number("smoothness", self.smoothness, low=0.5)
            if (nu - 0.5) % 1 or nu > 8:
                raise InvalidInputError(
                    f"smoothness must be a half-integer up to 7.5; got {nu:g}. Take {math.floor(min(nu, 7.5)) + 0.5:g}."
                )
        if self.lengthscale is not None:
            lengths = np.atleast_1d(np.asarray(self.lengthscale, float))
            if lengths.ndim != 1 or not (np.isfinite(lengths) & (lengths > 0)).all():
                raise InvalidInputError(f"lengthscale must be positive and finite; got {self.lengthscale!r}.")
        if self.kernel is not None and (self.smoothness is not None or self.lengthscale is not None):
            raise InvalidInputError(
                "kernel holds its own smoothness and lengthscale; got one of these as well. Leave them out."
            )


def route(pde, call, options):
    """Condition a process on the problem, with more and more points, and certify the last solution.

    Parameters
    ----------
    pde : PDE
        One unknown, linear.
    call : Call
        Settings of `solve_pde`.
    options : KernelMethod
        Settings of the method.

    Returns
    -------
    PDESolution

    Raises
    ------
    InvalidInputError
        When the problem is none for this method, or the kernel lacks derivatives.
    MemoryBudgetError
        When the first system does not fit.
    """
    started = time.perf_counter()
    _check_problem(pde, call)
    problem = _Problem(pde, call, options)
    with thread_limit(call.threads):
        loop = run(
            kernel_steps(problem),
            name="kernel",
            tol=call.tol,
            max_iter=12 if call.max_iter is None else call.max_iter,
            callback=call.callback,
            on_failure="ignore",
            progress=call.progress,
            dtype="float64",
        )
        rung = loop.value
        certificate = problem.certificate
        certificate.finish(rung)
        status, reason = verdict(pde, call, certificate, rung)
    seconds = {"total": time.perf_counter() - started}
    return _result(pde, call, problem, rung, loop, status, reason, seconds)


def kernel_steps(problem):
    """Yield the rungs, each with more points than the last; the first one only where there is nothing to compare.

    Parameters
    ----------
    problem : object
        Gives ``sizes`` and solves one of them by ``rung(n)``; see `route`.

    Yields
    ------
    Step
        Its value is the rung and its criterion the error estimate.
    """
    # A criterion of one says nothing; asked for a fixed number of points, earlier rungs only serve the estimate.
    for i, n in enumerate(problem.sizes):
        rung = problem.rung(n)
        if rung is None:
            break
        problem.certificate.judge(rung, problem.rungs)
        problem.rungs.append(rung)
        last = i + 1 == len(problem.sizes)
        if i >= 2 and not problem.fixed or last:
            yield Step(rung, rung.estimate, {"n_functionals": float(len(rung.posterior.F)), "nugget": rung.nugget})


@dataclass
class Rung:
    """One solution and what is known of it."""

    posterior: KernelPosterior
    n_points: int
    solver: str
    nugget: float
    residual_data: float
    n_iter: int
    log_evidence: float
    left_out: Any = None
    held_out: Any = None
    values: Any = None
    correction: Any = None
    difference: float = math.inf
    estimate: float = math.inf


class _Problem:
    """A problem with its data, kernel and rungs."""

    def __init__(self, pde, call, options):
        self.pde, self.call, self.options = pde, call, options
        self.d, self.box = pde.n_dims, pde.domain.box
        self.sides = self.box.upper - self.box.lower
        self.rungs, self.notes = [], []
        self.noise = _noise(call.noise)
        self.seed = int(call.rng.integers(2**30))
        self.known_noise = any(v > 0 for v in self.noise.values()) or pde._observations is not None
        self.sampled = pde._source.is_sampled
        self.covariance = None
        if options.kernel is not None:
            self.covariance = covariance_of(options.kernel, self.d)
        if self.sampled:
            X = pde._source.points
            self.order = coarse_to_fine(X / self.sides)
            total = min(len(X), options.max_points)
            if total < len(X):
                self.notes.append(f"{total} of {len(X)} samples are used, spread evenly; raise max_points for more")
            self.sizes = sorted({max(total // 4, 2), max(total // 2, 2), total})
        elif options.n_points is not None:
            self.X = interior_points(pde.domain, options.n_points, call.rng, uniform=True)
            n = options.n_points
            self.sizes = sorted({max(n // 4, 4), max(n // 2, 4), n})
        else:
            first = {1: 30, 2: 120}.get(self.d, 200)
            self.sizes = [first * 2**i for i in range(12)]
        self.fixed = self.sampled or options.n_points is not None
        self.certificate = Certificate(pde, call)
        self._check_kernel()

    def _check_kernel(self):
        order = max(self.pde.order, 1)
        nu = self.options.smoothness
        if self.covariance is None and nu is not None and nu < order + 0.5:
            raise InvalidInputError(
                f"smoothness must be at least {order + 0.5:g} for an equation of order {self.pde.order}; got {nu:g}: "
                f"two values of the equation are correlated by derivatives of order {2 * order}. Raise it, or leave "
                f"it out."
            )
        if self.covariance is not None:
            self.functionals(2)[0].check(self.covariance)

    def functionals(self, n):
        """Functionals of n interior points with their data: F, y, noise variances."""
        pde = self.pde
        if self.sampled:
            index = self.order[:n]
            X, f = pde._source.points[index], pde._source.values[index]
        else:
            X = self.X[:n] if self.fixed else interior_points(pde.domain, n, generator(self.seed + n), uniform=True)
            f = pde._source(X)
        X, f = np.array(X), np.array(f)
        per_face = 1 if self.d == 1 else int(1.5 * n ** ((self.d - 1) / self.d)) + 8
        if not isinstance(pde.domain, Box):
            per_face = int(1.3 * per_face)  # boundary points of a region may be random and leave gaps
        rows = condition_rows(pde, per_face, generator(self.seed + n + 1))
        groups, y, noise = [], [], []
        for r in rows:
            minus = None if r.minus is None else self._tensor(r.minus)
            groups.append(FunctionalGroup(self._tensor(r.X), self._terms(r.terms), minus))
            y.append(r.rhs)
            noise.append(np.full(len(r.X), self.noise["boundary"] ** 2))
        groups.append(FunctionalGroup(self._tensor(X), self._terms(pde.coefficient_values(X))))
        y.append(f)
        noise.append(np.full(len(X), self.noise["source"] ** 2))
        if pde._observations is not None:
            X, u, sigma = pde._observations
            groups.append(FunctionalGroup(self._tensor(X), {(0,) * self.d: 1.0}))
            y.append(u)
            noise.append(np.broadcast_to(np.square(sigma), (len(X),)))
        return Functionals(groups), self._tensor(np.concatenate(y)), self._tensor(np.concatenate(noise))

    def _tensor(self, values):
        return torch.as_tensor(np.array(values, dtype=float), device=self.call.device)

    def _terms(self, terms):
        return {a: (c if isinstance(c, float) else self._tensor(c)) for a, c in terms.items()}

    def kernel(self, F, y, noise):
        """The kernel of a rung: the one given, or the Matern kernel of largest evidence."""
        o, m, known = self.options, max(self.pde.order, 1), self.known_noise
        if o.kernel is not None or (self.fixed and self.covariance is not None):
            return self.covariance
        if self.fixed:  # one kernel for all rungs, so that their differences tell of the points alone
            F, y, noise = self.functionals(self.sizes[-1])
        smoothness = list(range(m, m + N_SMOOTHNESS))
        if self._iterates(F):
            smoothness = smoothness[:2]  # smoother ones take more neighbours and hundreds of iterations
        if o.smoothness is not None:
            smoothness = [round(o.smoothness - 0.5)]
        lengths = None if o.lengthscale is None else np.broadcast_to(np.asarray(o.lengthscale, float), (self.d,))
        if lengths is not None and len(smoothness) == 1 and not known:
            return RadialFunction("matern", lengths, p=smoothness[0])
        part = evidence_part(F, y, noise)
        if self.covariance is not None and len(part[0]) < len(self.rungs[-1].posterior.F):
            return self.covariance  # the evidence would be asked of no more data than last time
        # Near the flat limit rounding decides, and an iteration stalls.
        longest = 1.0 if self._iterates(F) else LONGEST
        options = {"known_noise": known, "start": self.covariance, "lengths": lengths, "longest": longest}
        self.covariance, _ = choose_matern(*part, self.sides, smoothness, **options)
        return self.covariance

    def _iterates(self, F):
        o = self.options
        return o.solver == "iterative" or (o.solver == "auto" and len(F) > DENSE)

    def rung(self, n):
        """Solve with n interior points; None where that is more than may be used."""
        o, call = self.options, self.call
        F, y, noise = self.functionals(n)
        if not self.fixed and len(F) > call.max_features and self.rungs:
            return None
        k = self.kernel(F, y, noise)
        F.check(k)
        if self.rungs:
            self.certificate.retire(self.rungs[-1], last=self._iterates(F))
        # Data of any size: squares neither underflow nor overflow. Noise and amplitude fix the unit themselves.
        unit = 1.0 if self.known_noise else float(y.abs().max()) or 1.0
        common = {"nugget": o.nugget, "memory": call.budget}
        if self._iterates(F):
            p = getattr(k, "p", 4)
            neighbours = o.n_neighbours or {1: 10 * p + 10, 2: 30 * p - 10}.get(self.d, 40 * p - 10)
            common |= {"max_iter": o.max_iter, "n_neighbours": neighbours, "engine": o.engine}
            common |= {"tol": float(np.clip(1e-2 * call.tol, 1e-11, 1e-7))}
            found = condition_iteratively(k, F, y / unit, noise / unit**2, **common)
        else:
            last = self.sampled and n == self.sizes[-1]
            found = condition_dense(k, F, y / unit, noise / unit**2, left_out=last, **common)
        theta = found.theta * unit
        known = self.known_noise
        amplitude = 1.0 if known else math.sqrt(max(found.quadratic, 0.0) / len(F)) * unit
        index = torch.arange(len(F), device=y.device)
        if found.root is None and len(F) > KEPT:
            index = self._spread(F)
        side = self.sides / max(n ** (1 / self.d), 1.0)
        basis = FunctionalBasis(tuple(self.box.lower), tuple(self.box.upper), len(F), tuple(np.pi / side))
        posterior = KernelPosterior(basis, k, F, theta, noise, found.nugget, amplitude, index, found.root)
        left = None if found.left_out is None else (found.left_out * unit)[self._interior(F)].cpu().numpy()
        correction = None if found.correction is None else found.correction * unit
        rung = Rung(posterior, n, found.solver, found.nugget, found.residual, found.n_iter, found.log_evidence, left)
        rung.correction = correction
        if self.sampled and n < self.sizes[-1]:
            out = self.order[n : n + 2000]
            X = self.pde._source.points[out]
            Lu = posterior.apply(self._tensor(X), self.pde.coefficient_values(X))
            rung.held_out = Lu.cpu().numpy() - self.pde._source.values[out]
        return rung

    def _interior(self, F):
        """The slice of the equation's functionals."""
        parts = list(F.slices())
        return parts[-2 if self.pde._observations is not None else -1]

    def _spread(self, F):
        """An even part of all functionals for the deviation, ascending; the boundary first."""
        interior = self._interior(F)
        other = torch.cat([torch.arange(0, interior.start), torch.arange(interior.stop, len(F))])
        other = other[:: max(1, 2 * len(other) // KEPT)]
        # The points inside come in an order whose every beginning is even.
        inside = torch.arange(interior.start, min(interior.stop, interior.start + KEPT - len(other)))
        return torch.cat([other, inside]).unique().to(F.groups[0].X.device)


def _noise(noise):
    given = noise if isinstance(noise, dict) else {"source": noise}
    unknown = set(given) - {"source", "boundary"}
    if unknown:
        raise InvalidInputError(f"noise must have the keys 'source' and 'boundary'; got {sorted(unknown)}.")
    out = {}
    for name in ("source", "boundary"):
        value = given.get(name)
        if value == "learn":
            raise InvalidInputError(
                "noise must be known for method='kernel'; got 'learn'. Pass its standard deviation, or use "
                "method='auto'."
            )
        out[name] = 0.0 if value is None else check_number(f"noise[{name!r}]", value, low=0.0)
    return out


def _check_problem(pde, call):
    """Refuse what this method does not solve."""
    for name, remedy in (
        ("unknowns", "Solve systems by method='auto'"),
        ("nonlinear", "Solve nonlinear equations by method='auto'"),
        ("parameters", "Learn parameters by method='auto'"),
    ):
        if getattr(pde, name, None):
            raise InvalidInputError(f"{name} must be None for method='kernel'; got {getattr(pde, name)!r}. {remedy}.")
    for name in ("slabs", "start"):
        if getattr(call, name) is not None:
            raise InvalidInputError(f"{name} must be None for method='kernel'; got {getattr(call, name)!r}.")


def _result(pde, call, problem, rung, loop, status, reason, seconds):
    c, posterior = problem.certificate, rung.posterior
    estimate = rung.estimate
    target = estimate * c.size if math.isfinite(estimate) else c.size
    # Known noise calibrates the posterior itself; without, its size is the certificate's.
    factor = 1.0 if problem.known_noise else target / c.spread if c.spread > 0 else 0.0
    count = (
        "its factor is dense" if rung.n_iter == 0 else f"{rung.n_iter} iterations, residual {rung.residual_data:.0e}"
    )
    report = {
        "n_features": len(posterior.F),
        "n_rows": len(posterior.F),
        "solver": rung.solver,
        "why": f"{posterior.covariance!r} on {rung.n_points} points inside; {count}",
        "reason": reason,
        "residual_validation": c.residual_rms,
        "residual_max": c.residual_max,
        "boundary_residual": c.boundary,
        "difference_to_richer": rung.difference,
        "propagated_noise": c.noise,
        "alias_margin": None,
        "singularity": c.singularity,
        "carriers": [],
        "kernel": repr(posterior.covariance),
        "nugget": rung.nugget,
        "log_evidence": rung.log_evidence,
        "iterations": rung.n_iter,
        "residual_data": rung.residual_data,
        "seconds": seconds,
        "notes": problem.notes,
    }
    report = {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in report.items()}
    return PDESolution(
        status=status,
        n_iter=loop.n_iter,
        history=loop.history,
        settings=call.settings,
        error_estimate=estimate,
        report=report,
        coefficients=posterior.theta.detach().cpu().numpy(),
        factor=factor,
        posterior=posterior,
        region=pde.domain if not isinstance(pde.domain, Box) else None,
    )
