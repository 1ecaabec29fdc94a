"""Equations with very many samples of the source: seconds, memory and error of ``method="frame"`` as samples grow.

The baseline is the same fit by dense least squares (QR of the samples by the real modes), where it fits into memory;
the ratio is its seconds over those of the fit alone. Errors are relative L2 errors of u at random points.
"""

import time

import numpy as np
import torch

from benchmarks.measure import peak_memory_mb

QUICK = ((1, 10_000), (2, 10_000))
SIZES = ((1, 10_000), (1, 100_000), (1, 1_000_000), (2, 10_000), (2, 100_000), (2, 1_000_000))
SETTINGS = {"tol": 1e-8, "random_state": 0, "omega": {"1": 100.0, "2": 60.0}, "dense_limit": 2e7}


def statement(d, n):
    """Return a problem of d dimensions with n samples of its source, and its solution."""
    from sciml.solvers.gp_pde import PDE, Box, Dirichlet

    length, omega = (2 * np.pi, 1.0)[d - 1], SETTINGS["omega"][str(d)]
    box = Box([(0, length)] * d)
    X = length * np.random.default_rng(1).random((n, d))

    def wave(X):
        return np.sin(omega * X[:, 0]) * (np.cos(0.7 * omega * X[:, 1]) if d > 1 else 1.0)

    def u(X):
        return wave(X) + np.exp(-X[:, 0] / length)

    f = -(omega**2) * (1.49 if d > 1 else 1.0) * wave(X) + np.exp(-X[:, 0] / length) / length**2
    operator = {tuple(2 * int(i == j) for i in range(d)): 1.0 for j in range(d)}
    return PDE(box, operator, (X, f), [Dirichlet(u)]), u


def ours(d, n):
    """Solve; a missed tolerance shows in the status."""
    from sciml.solvers.gp_pde import solve_pde

    options = {key: SETTINGS[key] for key in ("tol", "random_state")}
    return solve_pde(statement(d, n)[0], method="frame", on_failure="ignore", **options)


def dense_seconds(d, n, n_modes):
    """Seconds of a dense least-squares fit with as many real features, or None where it is too large."""
    P = int(np.prod(n_modes))
    if n * P > SETTINGS["dense_limit"]:
        return None
    rng = np.random.default_rng(0)
    A, y = torch.as_tensor(rng.standard_normal((n, P))), torch.as_tensor(rng.standard_normal(n))
    started = time.perf_counter()
    torch.linalg.lstsq(A, y[:, None])
    return time.perf_counter() - started


def rows(quick):
    """Yield one row a size."""
    for d, n in QUICK if quick else SIZES:
        pde, u = statement(d, n)
        started = time.perf_counter()
        sol = ours(d, n)
        seconds = time.perf_counter() - started
        box = pde.domain
        X = box.lower + (box.upper - box.lower) * np.random.default_rng(2).random((3000, d))
        fit = sol.report["seconds"]["analysis"]
        dense = dense_seconds(d, n, sol.report["n_modes"])
        yield {
            "problem": f"{d}D",
            "samples": n,
            "modes": "x".join(str(m) for m in sol.report["n_modes"]),
            "status": str(sol.status),
            "error": float(np.linalg.norm(sol(X) - u(X)) / np.linalg.norm(u(X))),
            "error_estimate": float(sol.error_estimate),
            "seconds": seconds,
            "fit_seconds": fit,
            "dense_seconds": dense,
            "ratio": dense / fit if dense else None,
            "memory_mb": peak_memory_mb("benchmarks.bench_gp_pde_frame:ours", d, n),
        }
