"""Certificates of `solve_pde` on bases that are too small: is the stated error honest, and "converged" true?

Every test of `bench_gp_pde_acceptance` is solved once as it is, and again with `max_features` at 0.3, 0.5, 0.8 and 1.2
of what that took, with the ladder cut after one rung and two, and with the carriers that were found handed in a
hundredth too high. Honest: the error is at most ten times the estimate, or nothing is estimated. True: the status is
not "converged" where the error exceeds a hundred tolerances. The last row counts.
"""

import math

import numpy as np

from benchmarks.bench_gp_pde_acceptance import CASES, solve, timed, warm

QUICK = ("P1", "P6", "P8", "elliptic from 900 + 124 samples")
SETTINGS = {
    "features": [0.3, 0.5, 0.8, 1.2],
    "rungs": [1, 2],
    "detuned": 1.01,
    "tol": 1e-8,
    "factor": 10.0,
    "false": 100.0,
    "n_test": 4000,
}
LEAST_HONEST = 0.95  # of all rows
FEWEST = 8  # what max_features may be


def levels(solution):
    """Return the truncations of a case whose full solution is known: label -> options of `solve_pde`."""
    n_features = solution.report["n_features"]
    cut = {f"{s:g} n": {"max_features": max(FEWEST, math.ceil(s * n_features))} for s in SETTINGS["features"]}
    cut |= {f"{k} rungs": {"max_iter": k} for k in SETTINGS["rungs"]}
    omega = {round(float(w), 3) for c in solution.report["carriers"] or () for w in c["omega"] if w != 0}
    return cut | ({"carriers off": {"frequencies": [SETTINGS["detuned"] * w for w in sorted(omega)]}} if omega else {})


def row(name, level, case, **options):
    """Return the row of one case at one level, and the solution."""
    (p, solution), _, cpu = timed(lambda: solve(case, **options), 1)
    X = p.random_points(SETTINGS["n_test"], np.random.default_rng(1))
    error, estimate = p.error(np.asarray(solution(X)), X), float(solution.error_estimate)
    found = {
        "test": name,
        "level": level,
        "error": error,
        "error_estimate": estimate if math.isfinite(estimate) else None,
        "ratio": error / estimate if estimate else None,
        "status": solution.status,
        "unknowns": int(solution.report["n_features"]),
        "residual_validation": solution.report["residual_validation"],
        "residual_max": solution.report["residual_max"],
        "cpu": cpu,
        "honest": "yes" if error <= SETTINGS["factor"] * estimate else "no",
        "true": "no" if error > SETTINGS["false"] * SETTINGS["tol"] and solution.status == "converged" else "yes",
    }
    return found, solution


def counted(table):
    """Return the last row: the parts of all rows that are honest and true, and whether they meet the bar."""
    honest, true = (np.mean([found[key] == "yes" for found in table]) for key in ("honest", "true"))
    return dict.fromkeys(table[0]) | {
        "test": f"all, bar {LEAST_HONEST:g} and 1",
        "level": f"{len(table)} rows, {sum(found['error_estimate'] is None for found in table)} without an estimate",
        "ratio": max(found["ratio"] for found in table if found["ratio"] is not None),
        "cpu": float(sum(found["cpu"] for found in table)),
        "honest": f"{honest:.3f} {'met' if honest >= LEAST_HONEST else 'missed'}",
        "true": f"{true:.3f} {'met' if true == 1 else 'missed'}",
    }


def rows(quick, names=None):
    """Yield one row a test and level, and a last one that counts; `names` chooses some tests."""
    warm()
    table = []
    for name in names or (QUICK if quick else CASES):
        found, solution = row(name, "full", CASES[name])
        table.append(found)
        yield found
        for level, options in levels(solution).items():
            found, _ = row(name, level, CASES[name], **options)
            table.append(found)
            yield found
    yield counted(table)
