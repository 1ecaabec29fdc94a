"""Bands of `solve_pde` over many draws of the noise: an unknown coefficient, and noisy samples of a source.

An inverse problem, u'' + kappa u = f on [0, 2 pi] with kappa = 950, from 24 noisy values of u and no boundary data: how
often the 95 % interval of kappa holds it, the mean and spread of the z-scores, and the relative rms error. And
u'' = f for u = x sin 200x from noisy samples of f: which part of 300 points the bands hold, one mean over all draws.
"""

import time

import numpy as np

from benchmarks import problems

N_DRAWS = {False: 100, True: 10}  # of a run in full, of a quick one
SETTINGS = {"kappa": 950.0, "range": [500.0, 1500.0], "n_observed": 24}
COVERAGE = 0.90, 0.99
INVERSE = {  # noise, samples of the source or None for a callable, bar on the relative rms
    "inverse, sd 0.02": (0.02, None, 5e-4),
    "inverse, sd 0.001": (0.001, None, 3e-5),
    "inverse, sd 0.02, 120 samples of f": (0.02, 120, 5e-4),
    "inverse, sd 0.001, 120 samples of f": (0.001, 120, 3e-5),
}
NOISE = {  # relative noise, samples
    "noise 1 %, 80 samples": (0.01, 80),
    "noise 0.1 %, 80 samples": (0.001, 80),
    "noise 1 %, 400 samples": (0.01, 400),
}
LINE = ((0.0, 2 * np.pi),)


def u_kappa(X):
    """Return the solution of the inverse problem."""
    x = X[:, 0]
    return np.sin(30 * x) + 0.3 * np.cos(3 * x) + 0.2 * np.exp(-x)


def f_kappa(X):
    """Return its source."""
    x, k = X[:, 0], SETTINGS["kappa"]
    return (k - 900) * np.sin(30 * x) + 0.3 * (k - 9) * np.cos(3 * x) + 0.2 * (k + 1) * np.exp(-x)


def inverse(seed, noise, n_source):
    """Solve one draw of the inverse problem, the source a callable where n is None, else known at n random points."""
    from sciml.solvers.gp_pde import PDE, Box, solve_pde

    rng = np.random.default_rng(seed)
    X_f, X_o = (LINE[0][1] * rng.random((n, 1)) for n in (n_source or 0, SETTINGS["n_observed"]))
    observed = u_kappa(X_o) + noise * rng.standard_normal(len(X_o))
    pde = PDE(
        Box(LINE),
        {(2,): 1.0, (0,): "kappa"},
        f_kappa if n_source is None else (X_f, f_kappa(X_f)),
        parameters={"kappa": tuple(SETTINGS["range"])},
        observations=(X_o, observed, noise),
    )
    return solve_pde(pde, on_failure="ignore")


def noisy(seed, noise, n):
    """Solve one draw of u'' = f from n noisy samples; `noise` is relative to the rms of f."""
    from sciml.solvers.gp_pde import PDE, Box, Dirichlet, solve_pde

    p, rng = problems.problem("P3"), np.random.default_rng(seed)
    X = p.random_points(n, rng)
    f = p.source(X)
    f = f + noise * np.sqrt(np.mean(f**2)) * rng.standard_normal(n)
    pde = PDE(Box(p.box), p.operator, (X, f), [Dirichlet(p.solution)])
    return p, solve_pde(pde, noise="learn", on_failure="ignore")


def _row(name, bar, found, started):
    low, high = COVERAGE
    met = low <= found["coverage"] <= high and (found["bar_error"] is None or found["error"] <= found["bar_error"])
    draws = found["draws"]
    return {
        "test": name,
        "bar": bar,
        **found,
        "seconds": (time.perf_counter() - started[0]) / draws,
        "cpu": (time.process_time() - started[1]) / draws,
        "met": "yes" if met else "no",
    }


def inverse_row(name, draws):
    """Return coverage, z-scores and relative rms error of kappa over draws 0, 1, ..."""
    noise, n_source, bar = INVERSE[name]
    started, kappa = (time.perf_counter(), time.process_time()), SETTINGS["kappa"]
    solutions = [inverse(seed, noise, n_source) for seed in range(draws)]
    off = np.array([solution.parameters["kappa"] - kappa for solution in solutions])
    z = off / [solution.parameters_std["kappa"] for solution in solutions]
    found = {
        "draws": draws,
        "coverage": float(np.mean(np.abs(z) <= 1.96)),
        "z_mean": float(z.mean()),
        "z_sd": float(z.std()),
        "error": float(np.sqrt(np.mean(off**2)) / kappa),
        "bar_error": bar,
        "converged": sum(solution.status == "converged" for solution in solutions),
    }
    return _row(name, f"coverage 0.90 to 0.99, {bar:g}", found, started)


def noise_row(name, draws):
    """Return the mean coverage of u by its bands at the test points, and the rms of the relative errors."""
    noise, n = NOISE[name]
    started = time.perf_counter(), time.process_time()
    errors, z, converged = [], [], 0
    for seed in range(draws):
        p, solution = noisy(seed, noise, n)
        X = p.test_points()
        values = np.asarray(solution(X))
        errors.append(p.error(values, X))
        inside = slice(1, -1)  # at the ends u is given: no band, and nothing to hold
        z.append((values - p.solution(X))[inside] / np.asarray(solution.std(X))[inside])
        converged += solution.status == "converged"
    z = np.concatenate(z)
    found = {
        "draws": draws,
        "coverage": float(np.mean(np.abs(z) <= 1.96)),
        "z_mean": float(z.mean()),
        "z_sd": float(z.std()),
        "error": float(np.sqrt(np.mean(np.square(errors)))),
        "bar_error": None,
        "converged": converged,
    }
    return _row(name, "coverage 0.90 to 0.99", found, started)


def rows(quick, names=None):
    """Yield one row a test; `names` chooses some."""
    for name in names or (*INVERSE, *NOISE):
        yield (inverse_row if name in INVERSE else noise_row)(name, N_DRAWS[quick])
