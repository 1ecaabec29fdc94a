"""Gaussian-process regression: `fit_gp` against scikit-learn at n = 2000 in one process, and alone at n = 1e5.

Seconds are those of a fit with learned kernel and noise. Both start at the same numbers; scikit-learn has no further
start. The ratio is its seconds over ours: above 1 we are faster. `rmse` is against the truth at fresh points.
"""

import time

import numpy as np

from benchmarks.measure import peak_memory_mb, quartiles

SETTINGS = {"noise_std": 0.2, "random_state": 0, "repeats": 3, "sizes": {"exact": 2000, "iterative": 100_000}}


def data(n, d, seed=0):
    """Return points (n, d), targets (n,), fresh points (2000, d) and the truth there."""
    rng = np.random.default_rng(seed)
    X, fresh = rng.uniform(0, 1, (n, d)), rng.uniform(0, 1, (2000, d))

    def truth(X):
        return np.sin(6 * X[:, 0]) * np.cos(5 * X[:, 1]) + 0.5 * np.sin(9 * X.sum(axis=1))

    return X, truth(X) + SETTINGS["noise_std"] * rng.standard_normal(n), fresh, truth(fresh)


def ours(X, y):
    """Fit by `fit_gp`."""
    from sciml.kernels import Matern52
    from sciml.solvers.gp_regression import fit_gp

    gp = fit_gp(X, y, 1.0 * Matern52(0.5), random_state=SETTINGS["random_state"], on_failure="ignore")
    return gp.mean, gp.log_evidence, {"residual": gp.residual, "status": gp.status.name, "noise_std": gp.noise_std}


def peer(X, y):
    """Fit by scikit-learn, one start."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    kernel = 1.0 * Matern(0.5, nu=2.5) + WhiteKernel(0.09)
    mean = y.mean()
    model = GaussianProcessRegressor(kernel, random_state=SETTINGS["random_state"]).fit(X, y - mean)
    noise_std = float(np.sqrt(model.kernel_.k2.noise_level))
    extra = {"residual": None, "status": None, "noise_std": noise_std}
    return lambda X: mean + model.predict(X), float(model.log_marginal_likelihood_value_), extra


def warm():
    """Fit something small, before memory is measured."""
    X, y, _, _ = data(100, 2)
    ours(X, y)
    peer(X, y)


def fit_named(n, d, method):
    """Fit by name, for the measurement of memory in a process of its own."""
    X, y, _, _ = data(n, d)
    return {"sciml": ours, "scikit-learn": peer}[method](X, y)


def rows(quick):
    """Yield one row a size, dimension and method."""
    yield from compare(SETTINGS["sizes"]["exact"], 2, {"sciml": ours, "scikit-learn": peer}, 1 if quick else 3)
    if not quick:
        for d in (2, 3):
            yield from compare(SETTINGS["sizes"]["iterative"], d, {"sciml": ours}, 1)


def compare(n, d, methods, repeats):
    """Yield the rows of one size, ours first."""
    X, y, fresh, truth = data(n, d)
    warm()
    taken, entries = {name: [] for name in methods}, {}
    for _ in range(repeats):
        for name, fit in methods.items():
            start = time.perf_counter()
            mean, log_evidence, extra = fit(X, y)
            taken[name].append(time.perf_counter() - start)
            rmse = float(np.sqrt(np.mean((mean(fresh) - truth) ** 2)))
            entries[name] = {"rmse": rmse, "log_evidence": log_evidence, **extra}
    times = {name: quartiles(seconds) for name, seconds in taken.items()}
    for name, entry in entries.items():
        yield {
            "n": n,
            "d": d,
            "method": name,
            **entry,
            **times[name],
            "ratio": times[name]["seconds"] / times["sciml"]["seconds"],
            "memory_mb": peak_memory_mb("benchmarks.bench_gp_regression:fit_named", n, d, name),
        }
