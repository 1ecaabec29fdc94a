"""Differential equations: `solve_pde` against Chebyshev collocation and finite differences, same process, same points.

Seconds are those of the solution, sampling of the source included, evaluation on the test grid not; each peer has the
number of nodes that suits it best (`peers.tuned`). The ratio is its seconds over ours: above 1 we are faster.
"""

import numpy as np

from benchmarks import problems
from benchmarks.measure import interleaved, peak_memory_mb
from benchmarks.peers import peers, tuned

QUICK = ("P1", "P8", "P11", "star")
SETTINGS = {
    "tol": 1e-8,
    "random_state": 0,
    "repeats": 5,
    "peer_target": 1e-10,
    "variants": [{"stretch": 1.0, "frequency_scale": 1.0}, {"stretch": 1.37, "frequency_scale": 0.61}],
}


def statement(problem):
    """Return a problem of `benchmarks.problems` as the `PDE` that `solve_pde` takes."""
    from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Region

    box = Box([tuple(bounds) for bounds in problem.box])
    if problem.inside is not None:
        box = Region(box, inside=problem.inside, boundary=problem.boundary)
    if problem.conditions == "initial-inflow":
        conditions = [Initial(problem.solution), Dirichlet(problem.solution, where=(0, "lower"))]
    else:
        conditions = [Dirichlet(problem.solution)]
    return PDE(domain=box, operator=problem.operator, source=problem.source, conditions=conditions)


def ours(problem):
    """Solve by `solve_pde`; a missed tolerance shows in the status, not as a warning."""
    from sciml.solvers.gp_pde import solve_pde

    settings = {key: SETTINGS[key] for key in ("tol", "random_state")}
    return solve_pde(statement(problem), method="auto", on_failure="ignore", **settings)


def warm():
    """Solve something small by every method, before memory is measured."""
    problem = problems.problem("P4", frequency_scale=0.1)
    ours(problem)
    for solver, ladder in peers(problem).values():
        solver(problem, ladder[0])


def solve_named(name, options, method, shape=None):
    """Solve a problem by name, for the measurement of memory in a process of its own."""
    problem = problems.problem(name, **options)
    if method == "sciml":
        return ours(problem)
    return peers(problem)[method][0](problem, tuple(shape))


def rows(quick):
    """Yield one row a problem, variant and method."""
    repeats = 3 if quick else SETTINGS["repeats"]
    for options in SETTINGS["variants"][: 1 if quick else None]:
        for name in QUICK if quick else problems.PROBLEMS:
            yield from compare(name, options, repeats)


def compare(name, options, repeats):
    """Yield the rows of one problem, ours first."""
    problem = problems.problem(name, **options)
    X = problem.test_points()
    solution = ours(problem)
    entries = {"sciml": {"error": problem.error(np.asarray(solution(X)), X)}}
    entries["sciml"]["error_estimate"] = float(solution.error_estimate)
    entries["sciml"]["status"] = getattr(solution.status, "name", str(solution.status))
    entries["sciml"]["unknowns"] = int(solution.report["n_features"])
    calls, shapes = {"sciml": lambda: ours(problem)}, {"sciml": None}
    for method, (solver, ladder) in peers(problem).items():
        shape, error = tuned(solver, problem, ladder, X, SETTINGS["peer_target"])
        unknowns = solver(problem, shape).unknowns
        entries[method] = {"error": error, "error_estimate": None, "status": None, "unknowns": unknowns}
        calls[method], shapes[method] = (lambda solver=solver, shape=shape: solver(problem, shape)), shape
    times = interleaved(calls, repeats)
    for method, entry in entries.items():
        yield {
            "problem": name,
            "stretch": options["stretch"],
            "frequency": options["frequency_scale"],
            "method": method,
            **entry,
            **times[method],
            "ratio": times[method]["seconds"] / times["sciml"]["seconds"],
            "memory_mb": peak_memory_mb("benchmarks.bench_gp_pde:solve_named", name, options, method, shapes[method]),
        }
