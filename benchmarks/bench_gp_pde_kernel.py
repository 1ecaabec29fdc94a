"""The kernel route on Poisson's equation with random points: time, memory and error, beside a dense Cholesky by scipy.

The solution is smooth along the diagonal and has a kink in its fourth derivative across it.  Ours chooses its kernel,
solves with a quarter and a half of the points as well for its certificate; scipy factors one Gram matrix of the kernel
that ours chose, evaluated by the same formulas, and certifies nothing.
"""

import numpy as np

from benchmarks.measure import interleaved, peak_memory_mb

QUICK = (2000,)
SETTINGS = {"sizes": [2000, 5000, 20_000], "tol": 1e-6, "seed": 0, "repeats": 3, "dense_up_to": 5000}


def solution(X):
    """Return u: a wave along one diagonal and a kink of power 3.5 across it."""
    return np.sin(3 * X[:, 0] - 2 * X[:, 1]) + np.abs(X[:, 0] + X[:, 1] - 0.9) ** 3.5


def source(X):
    """Return the Laplacian of u."""
    kink = np.abs(X[:, 0] + X[:, 1] - 0.9) ** 1.5
    return -13 * np.sin(3 * X[:, 0] - 2 * X[:, 1]) + 2 * 3.5 * 2.5 * kink


def statement(n):
    """Return the problem with n random samples of the source."""
    from sciml.solvers.gp_pde import PDE, Box, Dirichlet

    X = np.random.default_rng(SETTINGS["seed"]).random((n, 2))
    return PDE(Box([(0, 1)] * 2), {(2, 0): 1.0, (0, 2): 1.0}, (X, source(X)), [Dirichlet(solution)])


def ours(n):
    """Solve by the kernel route; a missed tolerance shows in the status."""
    from sciml.solvers.gp_pde import solve_pde

    return solve_pde(statement(n), method="kernel", tol=SETTINGS["tol"], on_failure="ignore", random_state=0)


def theirs(n, state=None):
    """Condition on the same functionals by scipy's Cholesky; returns values at the test points."""
    import scipy.linalg
    import torch

    from sciml.solvers.gp_pde.functional_gram import FunctionalGroup, Functionals, cross_gram
    from sciml.solvers.gp_pde.points import condition_rows
    from sciml.solvers.gp_pde.stationary import RadialFunction, covariance_from_state

    pde = statement(n)
    k = RadialFunction("matern", [0.9, 0.9], p=3) if state is None else covariance_from_state(state)
    rows = condition_rows(pde, int(1.5 * n**0.5) + 8, np.random.default_rng(0))
    X, f = pde._source.points, pde._source.values
    groups = [FunctionalGroup(torch.as_tensor(r.X), r.terms) for r in rows]
    F = Functionals([*groups, FunctionalGroup(torch.as_tensor(X), pde.coefficient_values(X))])
    y = np.concatenate([*[r.rhs for r in rows], f])
    A = cross_gram(k, F, F).numpy()
    scale = 1 / np.sqrt(np.diag(A))
    A *= scale[:, None]
    A *= scale
    A[np.diag_indices(len(A))] += 1e-12
    factor = scipy.linalg.cho_factor(A, lower=True, overwrite_a=True, check_finite=False)
    weights = torch.as_tensor(scale * scipy.linalg.cho_solve(factor, scale * y, check_finite=False))
    U = Functionals([FunctionalGroup(torch.as_tensor(test_points()), {(0, 0): 1.0})])
    return (cross_gram(k, U, F) @ weights).numpy()


def test_points():
    """Return 1,000 random points of the square."""
    return np.random.default_rng(SETTINGS["seed"] + 1).random((1000, 2))


def relative(values):
    """Return the relative L2 error of values at the test points."""
    u = solution(test_points())
    return float(np.linalg.norm(values - u) / np.linalg.norm(u))


def warm():
    """Solve something small both ways, before memory is measured."""
    ours(200)
    theirs(200)


def rows(quick):
    """Yield one row a size and method."""
    for n in QUICK if quick else SETTINGS["sizes"]:
        found = ours(n)
        state = found.posterior.covariance.state()
        entries = {"sciml": (found(test_points()), found.error_estimate, found.status, found.report["iterations"])}
        calls = {"sciml": lambda n=n: ours(n)}
        arguments = {"sciml": ("benchmarks.bench_gp_pde_kernel:ours", n)}
        if n <= SETTINGS["dense_up_to"]:
            entries["scipy"] = (theirs(n, state), None, None, None)
            calls["scipy"] = lambda n=n, state=state: theirs(n, state)
            arguments["scipy"] = ("benchmarks.bench_gp_pde_kernel:theirs", n, state)
        times = interleaved(calls, 1 if n > SETTINGS["dense_up_to"] else SETTINGS["repeats"])
        for method, (values, estimate, status, iterations) in entries.items():
            yield {
                "points": n,
                "method": method,
                "error": relative(values),
                "error_estimate": estimate,
                "status": status,
                "iterations": iterations,
                **times[method],
                "ratio": times[method]["seconds"] / times["sciml"]["seconds"],
                "memory_mb": peak_memory_mb(*arguments[method]),
            }
