"""The relaxation of K-means: time, memory and value of our solvers beside SCS and Clarabel through CVXPY.

Balls in 20 dimensions (K = 4, separation 6), all in one process on one core. `value` is the sum of squares that belongs
to a solver's answer, `off` its relative difference from the dual bound of our exact solver (in `scaling` the
constraint's residual), `MB` the memory that a call adds to a warm process. SCS and Clarabel see the symmetric matrix
with its entries and row sums as constraints. The rows "exponent" are slopes of log(seconds) by log(n) over the sizes
before them. Then values at ranks K, 2 K and 4 K against the dual bound by separation (n = 200; least and largest of
five random starts) and K-means with 50 starts; then the likelihood form with a covariance each (n = 150, K = 3, p = 6),
whose covariances are those of the true labels.
"""

import time
import warnings

import numpy as np

from benchmarks.measure import peak_memory_mb
from sciml.datasets import gaussian_clusters

SETTINGS = {"n_clusters": 4, "features": 20, "separation": 6, "seed": 0, "tol": 1e-5, "scs_eps": 1e-5, "starts": 5}
# Largest n that a solver is asked for: Clarabel takes two minutes and 1.6 GB at n = 100.
LIMITS = {"SCS": 400, "Clarabel": 52, "ADMM": 400, "low rank": 10**6}
QUICK_LIMITS = {"SCS": 52, "Clarabel": 0, "ADMM": 100, "low rank": 10**6}
COLUMNS = ("case", "method", "seconds", "MB", "value", "off", "note")


def points(n, separation=None):
    """Return balls and their labels."""
    K, p = SETTINGS["n_clusters"], SETTINGS["features"]
    return gaussian_clusters(n, K, p, separation or SETTINGS["separation"], 1, random_state=SETTINGS["seed"])


def affinity(X, K, covariances=None):
    """Return the problem as our solvers take it."""
    import torch

    from sciml.stats.clustering.affinity import Affinity

    given = None if covariances is None else torch.from_numpy(covariances)
    return Affinity(torch.from_numpy(X), K, given)


def by_cvxpy(X, K, solver, **options):
    """Solve Peng and Wei's relaxation by a solver that CVXPY knows; return the sum of squares and a remark."""
    import cvxpy as cp

    Y = X - X.mean(0)
    scale = np.square(Y).sum(1).mean()  # solvers stop at absolute errors
    Z = cp.Variable((len(X), len(X)), PSD=True)
    constraints = [Z >= 0, cp.sum(Z, axis=1) == 1, cp.trace(Z) == K]
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(Y @ Y.T / scale, Z))), constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the status that is returned says as much
        problem.solve(solver=solver, **options)
    return np.square(Y).sum() - scale * problem.value, problem.status


def by_scs(X, K):
    """SCS."""
    return by_cvxpy(X, K, "SCS", eps=SETTINGS["scs_eps"], max_iters=100_000)


def by_clarabel(X, K):
    """Clarabel at its defaults."""
    return by_cvxpy(X, K, "CLARABEL")


def by_admm(X, K, tol=None):
    """Our exact solver: the dual bound."""
    from sciml.stats.clustering.exact import admm

    found = admm(affinity(X, K), tol=tol or SETTINGS["tol"], on_failure="ignore")
    return found.bound, f"{found.n_iter} steps"


def by_low_rank(X, K, tol=None, rank=None, seed=0, covariances=None):
    """Our factors of low rank, from k-means++ where there is no seed of a random start."""
    import torch

    from sciml.random import generator
    from sciml.stats.clustering.lloyd import kmeans
    from sciml.stats.clustering.low_rank import factorise, start_factor

    problem, rng = affinity(X, K, covariances), generator(seed)
    labels = kmeans(torch.from_numpy(X), K, rng, n_init=1)[0]
    found = factorise(
        problem, start_factor(problem, labels, rank, rng), tol=tol or SETTINGS["tol"], on_failure="ignore"
    )
    return problem.to_objective(found.value), f"residual {found.residual:.0e}, {found.n_inner} steps"


def from_random(X, K, rank, seed, covariances=None, tol=None):
    """Our factors from a random start."""
    from sciml.random import generator
    from sciml.stats.clustering.low_rank import factorise, random_factor

    problem = affinity(X, K, covariances)
    start = random_factor(problem, rank, generator(seed))
    found = factorise(problem, start, tol=tol or SETTINGS["tol"], on_failure="ignore")
    return problem.to_objective(found.value)


METHODS = {"SCS": by_scs, "Clarabel": by_clarabel, "ADMM": by_admm, "low rank": by_low_rank}


def once(name, n, tol=None):
    """Run a method on the problem of the table, for its memory."""
    X, _ = points(n)
    return METHODS[name](X, SETTINGS["n_clusters"], *([] if tol is None else [tol]))


def warm(name, n, tol=None):
    """Import and compile what a first call needs."""
    once(name, 24)


def row(*cells):
    """Return a row of the table."""
    return dict(zip(COLUMNS, cells, strict=True))


def timed(name, X, K, *options):
    """Return seconds of the processor, value and remark."""
    start = time.process_time()
    value, note = METHODS[name](X, K, *options)
    return time.process_time() - start, value, note


def small(sizes, limits):
    """Yield all solvers on problems that interior points can still solve."""
    K = SETTINGS["n_clusters"]
    for n in sizes:
        X, _ = points(n)
        bound, _ = by_admm(X, K, 1e-7)
        for name in METHODS:
            if n > limits[name]:
                continue
            try:
                warm(name, n)
                seconds, value, note = timed(name, X, K)
            except ImportError:
                yield row(f"n={n}", name, None, None, None, None, "not installed")
                continue
            memory = peak_memory_mb("benchmarks.bench_clustering_solvers:once", name, n)
            yield row(f"n={n}", name, seconds, memory, value, value / bound - 1, note)


def scaling(sizes, tol):
    """Yield times of the factors by size, and the exponent."""
    times = []
    for n in sizes:
        X, _ = points(n)
        seconds, value, note = timed("low rank", X, SETTINGS["n_clusters"], tol)
        times.append(seconds)
        memory = peak_memory_mb("benchmarks.bench_clustering_solvers:once", "low rank", n, tol)
        yield row(f"n={n}, tol {tol:.0e}", "low rank", seconds, memory, value, None, note)
    slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    yield row(f"n={sizes[0]} to {sizes[-1]}, tol {tol:.0e}", "exponent", slope, None, None, None, "")


def ranks(separations, starts):
    """Yield the value at three ranks against the dual bound, by separation."""
    from sklearn.cluster import KMeans

    K = SETTINGS["n_clusters"]
    for separation in separations:
        X, _ = points(200, separation)
        case = f"n=200, separation {separation}"
        begin = time.process_time()
        bound, note = by_admm(X, K, 1e-7)
        yield row(case, "dual bound", time.process_time() - begin, None, bound, 0.0, note)
        for rank in (K, 2 * K, 4 * K):
            begin = time.process_time()
            values = [from_random(X, K, rank, seed) for seed in range(starts)]
            seconds = (time.process_time() - begin) / starts
            best, worst = min(values), max(values)
            for word, value in (("least", best), ("largest", worst)):
                yield row(case, f"rank {rank}, {word}", seconds, None, value, value / bound - 1, f"{starts} starts")
        sse = KMeans(K, n_init=50, random_state=0).fit(X).inertia_
        yield row(case, "KMeans, 50 starts", None, None, sse, sse / bound - 1, "")


def likelihood(starts):
    """Yield the likelihood form: values at ranks 1 to 4 against the exact solver."""
    from sciml.stats.clustering.exact import admm

    K, p = 3, 6
    X, labels = gaussian_clusters(150, K, p, 4, 20, random_state=SETTINGS["seed"])
    covariances = np.stack([np.cov(X[labels == k].T) for k in range(K)])
    begin = time.process_time()
    exact = admm(affinity(X, K, covariances), tol=1e-6, on_failure="ignore")
    case = "likelihood, n=150"
    seconds = time.process_time() - begin
    yield row(case, "dual bound", seconds, None, exact.bound, 0.0, f"{exact.n_iter} steps")
    # An objective with log determinants may be near zero; errors are over the sum of squares about it.
    size = affinity(X, K, covariances).scale * len(X)
    for rank in (1, 2, 3, 4):
        begin = time.process_time()
        values = [from_random(X, K, rank, seed, covariances) for seed in range(starts)]
        seconds = (time.process_time() - begin) / starts
        for word, value in (("least", min(values)), ("largest", max(values))):
            off = (value - exact.bound) / size
            yield row(case, f"rank {rank}, {word}", seconds, None, value, off, f"{starts} starts")


def rows(quick):
    """Yield the rows of all tables."""
    starts = 2 if quick else SETTINGS["starts"]
    yield from small((52,) if quick else (52, 100, 200, 400), QUICK_LIMITS if quick else LIMITS)
    yield from scaling((1000, 2000) if quick else (1000, 4000, 10_000, 20_000, 64_000, 100_000), 1e-3)
    if not quick:
        yield from scaling((1000, 4000, 16_000), 1e-5)
    yield from ranks((8,) if quick else (8, 5, 4, 3), starts)
    yield from likelihood(starts)
