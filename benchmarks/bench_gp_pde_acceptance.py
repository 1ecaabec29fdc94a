"""Acceptance of `solve_pde`: every test of the specification beside its bar, and Chebyshev collocation beside both.

Seconds are wall time, cpu is processor time of the process, medians where a call is short; bars on time are judged by
cpu, which a busy machine does not change much. Errors are relative, L2, on `Problem.test_points`. Coverage over many
draws is `bench_gp_pde_calibration`, truncated bases are `bench_gp_pde_truncation`.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks import problems
from benchmarks.bench_gp_pde import statement
from benchmarks.measure import peak_memory_mb
from benchmarks.peers import peers, tuned

SETTINGS = {"tol": 1e-8, "random_state": 0, "seed": 0, "repeats": 3, "short": 2.0, "anchor_target": 1e-10}
QUICK = ("P1", "P1 from 100 samples", "P6", "P8", "P11", "elliptic from 900 + 124 samples", "star", "gphm, step 4")


@dataclass(frozen=True)
class Bar:
    """What a test demands; None demands nothing.

    Attributes
    ----------
    error, cpu, unknowns, steps, memory_mb : float or None
        Largest relative error, processor seconds, number of unknowns, Gauss-Newton steps, and memory added.
    or_says_so : bool
        A status other than "converged" will do as well.
    """

    error: float
    cpu: float | None = None
    unknowns: int | None = None
    steps: int | None = None
    memory_mb: float | None = None
    or_says_so: bool = False

    def __str__(self):
        said = {"cpu": "s", "unknowns": "unknowns", "steps": "steps", "memory_mb": "MB"}
        parts = [f"{self.error:g}", *(f"{getattr(self, k):g} {unit}" for k, unit in said.items() if getattr(self, k))]
        return ", ".join(parts) + (" or says so" if self.or_says_so else "")

    def missed(self, found):
        """Return the names of what `found`, a row, misses, blank for none."""
        if self.or_says_so and found["status"] != "converged":
            return ""
        limits = {k: getattr(self, k) for k in ("error", "cpu", "unknowns", "steps", "memory_mb")}
        return " ".join(k for k, limit in limits.items() if limit is not None and not found[k] <= limit)


@dataclass(frozen=True)
class Case:
    """A test: a problem, how its data come, and the bar.

    Attributes
    ----------
    problem : str
        Its name in `benchmarks.problems`.
    bar : Bar
        What is demanded.
    samples : None, int or (int, int)
        Random samples of the source, with None a callable; of the source and of the boundary values.
    options : dict
        Of `solve_pde`.
    """

    problem: str
    bar: Bar
    samples: object = None
    options: dict = field(default_factory=dict)


LINE, BOX = Bar(1e-9, cpu=0.5, unknowns=80), Bar(1e-11, cpu=1.0, unknowns=2500)
CASES = {
    **{name: Case(name, LINE) for name in ("P1", "P2", "P4", "P5")},
    "P3": Case("P3", Bar(2e-9, cpu=0.5, unknowns=80)),
    **{
        f"{name} from {n} samples": Case(name, Bar(1e-8, cpu=2.0), samples=n)
        for name, n in (("P1", 100), ("P2", 200), ("P3", 200))
    },
    **{name: Case(name, Bar(1e-9, cpu=0.5, steps=6)) for name in ("P6", "P7")},
    **{name: Case(name, BOX) for name in ("P8", "P9", "P12")},
    **{f"{name} from 800 + 200 samples": Case(name, Bar(1e-8), samples=(800, 200)) for name in ("P8", "P9", "P12")},
    "P10": Case("P10", Bar(1e-9, cpu=10.0, steps=6)),
    "P11": Case("P11", Bar(1e-10, cpu=1.0)),
    "elliptic from 900 + 124 samples": Case("elliptic", Bar(1e-8, cpu=2.0), samples=(900, 124)),
    "star": Case("star", Bar(1e-11, cpu=2.0)),
    "cube": Case("cube", Bar(1e-10, cpu=20.0, memory_mb=2048.0)),
    "chirp": Case("chirp", Bar(1e-10)),
    "boundary-layer": Case("boundary-layer", Bar(1e-8, or_says_so=True)),
}
PUBLISHED_LOSS = {1: 9.975e9, 2: 9.651e9, 4: 8.98e9}  # of the published objective on P1, before the step


def edge_samples(p, n, rng):
    """Return n random points of the boundary of a box, (n, d), evenly over its faces."""
    X, d = p.random_points(n, rng), p.dims
    axis, side = np.arange(n) % d, np.arange(n) // d % 2
    X[np.arange(n), axis] = np.array(p.box)[axis, side]
    return X


def named(name):
    """Return a problem, linear or not."""
    return problems.NONLINEAR[name]() if name in problems.NONLINEAR else problems.problem(name)


def posed(case):
    """Return the problem of a case, and the `PDE` that `solve_pde` takes."""
    from sciml.solvers.gp_pde import PDE, Box, Dirichlet

    p = named(case.problem)
    if case.samples is None and not isinstance(p, problems.NonlinearProblem):
        return p, statement(p)
    source, boundary, rng = p.source, p.solution, np.random.default_rng(SETTINGS["seed"])
    inner, edge = case.samples if isinstance(case.samples, tuple) else (case.samples, None)
    if inner is not None:
        X = p.random_points(inner, rng)
        source = X, p.source(X)
    if edge is not None:
        X = edge_samples(p, edge, rng)
        boundary = X, p.solution(X)
    term = None
    if isinstance(p, problems.NonlinearProblem):
        term = (lambda X, u: p.term(u)), (lambda X, u: p.slope(u))
    return p, PDE(Box([tuple(b) for b in p.box]), p.operator, source, [Dirichlet(boundary)], nonlinear=term)


def solve(case, **options):
    """Solve a case; returns the problem and the solution, whose status says whether the tolerance was met."""
    from sciml.solvers.gp_pde import solve_pde

    p, pde = posed(case)
    settings = {key: SETTINGS[key] for key in ("tol", "random_state")} | case.options | options
    return p, solve_pde(pde, on_failure="ignore", **settings)


def solve_named(name):
    """Solve a case by name, for the measurement of memory in a process of its own."""
    return solve(CASES[name])[1]


def warm():
    """Solve something small of each kind, before time and memory are measured."""
    for name in ("P4", "P6"):
        solve(CASES[name])


def timed(function, repeats):
    """Return what a function returns, and the medians of its wall and processor seconds."""
    wall, cpu = [], []
    while len(wall) < repeats:
        started, used = time.perf_counter(), time.process_time()
        found = function()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
        if cpu[-1] > SETTINGS["short"]:
            break
    return found, float(np.median(wall)), float(np.median(cpu))


def anchored(p):
    """Return error and processor seconds of Chebyshev collocation, None for both where there is none."""
    solvers = {} if isinstance(p, problems.NonlinearProblem) else peers(p)
    name = next((name for name in solvers if name.startswith("Chebyshev")), None)
    if name is None:
        return None, None
    solver, ladder = solvers[name]
    shape, error = tuned(solver, p, ladder, p.test_points(), SETTINGS["anchor_target"])
    return error, timed(lambda: solver(p, shape), SETTINGS["repeats"])[2]


def row(name, case, repeats):
    """Return the row of one test."""
    (p, solution), seconds, cpu = timed(lambda: solve(case), repeats)
    X = p.test_points()
    memory = None
    if case.bar.memory_mb is not None:
        memory = peak_memory_mb("benchmarks.bench_gp_pde_acceptance:solve_named", name)
    anchor_error, anchor_cpu = anchored(p)
    found = {
        "test": name,
        "bar": str(case.bar),
        "error": p.error(np.asarray(solution(X)), X),
        "error_estimate": float(solution.error_estimate),
        "status": solution.status,
        "unknowns": int(solution.report["n_features"]),
        "steps": None if p.name not in problems.NONLINEAR else int(solution.report["iterations"]),
        "cpu": cpu,
        "seconds": seconds,
        "memory_mb": memory,
        "anchor_error": anchor_error,
        "anchor_cpu": anchor_cpu,
    }
    missed = case.bar.missed(found)
    return found | {"met": "no" if missed else "yes", "missed": missed}


def published_rows(steps):
    """Yield the losses of the published objective beside those of an independent evaluation, bar 0.1 %."""
    (_, solution), seconds, cpu = timed(lambda: solve(CASES["P1"], method="gphm", max_iter=max(steps)), 1)
    for step in steps:
        bar = Bar(1e-3)
        found = {
            "test": f"gphm, step {step}",
            "bar": str(bar),
            "error": abs(solution.history["loss"][step - 1] / PUBLISHED_LOSS[step] - 1),
            "error_estimate": None,
            "status": solution.status,
            "unknowns": int(solution.report["n_features"]),
            "steps": step,
            "cpu": cpu,
            "seconds": seconds,
            "memory_mb": None,
            "anchor_error": None,
            "anchor_cpu": None,
        }
        missed = bar.missed(found)
        yield found | {"met": "no" if missed else "yes", "missed": missed}


def rows(quick, names=None):
    """Yield one row a test; `names` chooses some."""
    names = names or (QUICK if quick else [*CASES, *(f"gphm, step {step}" for step in PUBLISHED_LOSS)])
    warm()
    for name in names:
        if name in CASES:
            yield row(name, CASES[name], 1 if quick else SETTINGS["repeats"])
    steps = [step for step in PUBLISHED_LOSS if f"gphm, step {step}" in names]
    if steps:
        yield from published_rows(steps)
