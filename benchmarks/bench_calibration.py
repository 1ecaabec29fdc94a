"""Self-calibration by dense matrices: time, memory and error beside stacked least squares and alternation.

First the cost at 60 dB: `numpy.linalg.lstsq` on the stacked system with one row for the normaliser, SciPy's LSMR and
LSQR on the same system as a sparse matrix, alternating least squares (gains, then signals, in turn, as StEFCal does for
visibilities) from the same eigenvector, and sciml, all in one process and run one after the other. Error is that of the
gains after the best alignment, over the Cramer-Rao bound. Then the error over the bound by signal-to-noise ratio,
median of 25 draws: LS1 is least squares with the sum of inverse gains fixed, S the smallest singular vector, G the
eigenproblem freed of the bias of noise, K3 three reweightings, V maximum likelihood, with the coverage of its 95 %
discs. Columns: case, method, seconds of the processor (median), ratio of the time to sciml's, peak of additional memory
in MB, error over the bound, coverage.
"""

import time
import warnings

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from benchmarks.measure import peak_memory_mb

SETTINGS = {"seed": 0, "draws": 25, "snr_of_costs_dB": 60, "tolerance_of_lsmr": 1e-8}
# model, sensors, unknowns, snapshots
COSTS = [("diverse", 256, 64, 8), ("snapshots", 256, 64, 32), ("repeated", 256, 256, 8), ("diverse", 512, 128, 16)]
QUICK = [("diverse", 64, 16, 4), ("snapshots", 64, 16, 16), ("repeated", 64, 64, 4)]
# model, (sensors, unknowns, snapshots), dB, gains
ERRORS = [
    ("repeated", (64, 64, 4), 20, "gaussian"),
    ("repeated", (64, 64, 4), 40, "gaussian"),
    ("diverse", (64, 16, 4), 10, "gaussian"),
    ("diverse", (64, 16, 4), 30, "gaussian"),
    ("snapshots", (64, 16, 16), 5, "gaussian"),
    ("snapshots", (64, 16, 16), 20, "gaussian"),
    ("snapshots", (64, 16, 16), 0, "near one"),
    ("snapshots", (64, 16, 16), 20, "near one"),
]


def normal(rng, *shape):
    """Return complex numbers of variance one."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def problem(model, m, n, p, snr, gains="gaussian", seed=0):
    """Return gains, signals, matrices, data and the noise's standard deviation."""
    rng = np.random.default_rng(seed)
    d = normal(rng, m) if gains == "gaussian" else 1 + 0.3 * rng.standard_normal(m) + 0.3j * rng.standard_normal(m)
    A = normal(rng, m, n) if model == "snapshots" else normal(rng, p, m, n)
    x = normal(rng, n) if model == "repeated" else normal(rng, p, n)
    clean = d * (x @ A.T if model == "snapshots" else A @ x if model == "repeated" else np.einsum("lij,lj->li", A, x))
    sigma = np.sqrt(np.mean(abs(clean) ** 2) / 10 ** (snr / 10))
    return d, x, A, clean + sigma * normal(rng, p, m), sigma


def error(found, d):
    """Return the relative error after the best alignment."""
    alpha = np.vdot(found, d) / np.vdot(found, found)
    return float(np.linalg.norm(alpha * found - d) / np.linalg.norm(d))


def bound(d, x, A, sigma):
    """Return the Cramer-Rao bound of that error."""
    from sciml.inverse.calibration import crb

    return float(np.sqrt(np.trace(crb(d, x, A, sigma)).real) / np.linalg.norm(d))


def stacked(y, A, model):
    """Return the matrix of the equations s y_l = A_l x_l and of the normaliser, sparse, and the right side."""
    p, m = y.shape
    n = A.shape[-1]
    many = 1 if model == "repeated" else p
    rows = [sp.diags(y[k]) for k in range(p)]
    blocks = []
    for k in range(p):
        own = -(A if model == "snapshots" else A[k])
        signals = [None] * many
        signals[0 if model == "repeated" else k] = sp.csr_matrix(own)
        blocks.append([rows[k], *[s if s is not None else sp.csr_matrix((m, n)) for s in signals]])
    top = sp.hstack([sp.csr_matrix(np.ones((1, m))), sp.csr_matrix((1, n * many))])
    S = sp.vstack([sp.bmat(blocks), top]).tocsr()
    b = np.zeros(S.shape[0], complex)
    b[-1] = m
    return S, b


def by_lstsq(y, A, model):
    """Gains by NumPy's least squares on the stacked matrix."""
    S, b = stacked(y, A, model)
    return 1 / np.linalg.lstsq(S.toarray(), b, rcond=None)[0][: y.shape[1]]


def by_lsmr(y, A, model):
    """Gains by SciPy's LSMR on the sparse stacked matrix."""
    S, b = stacked(y, A, model)
    tol = SETTINGS["tolerance_of_lsmr"]
    return 1 / spla.lsmr(S, b, atol=tol, btol=tol, maxiter=20000)[0][: y.shape[1]]


def by_lsqr(y, A, model):
    """Gains by SciPy's LSQR on the sparse stacked matrix."""
    S, b = stacked(y, A, model)
    tol = SETTINGS["tolerance_of_lsmr"]
    return 1 / spla.lsqr(S, b, atol=tol, btol=tol, iter_lim=20000)[0][: y.shape[1]]


def by_alternation(y, A, model, steps=200, tol=1e-8):
    """Gains by alternating least squares from the eigenvector, every second iterate averaged as in StEFCal."""
    from sciml.inverse.calibration import self_calibrate

    d = self_calibrate(y, A, model=model, method="eigenvector", refine=False, on_failure="ignore").gains
    for step in range(steps):
        if model == "snapshots":
            x = np.linalg.lstsq(d[:, None] * A, y.T, rcond=None)[0].T
            v = x @ A.T
        elif model == "repeated":
            x = np.linalg.lstsq((d[:, None] * A).reshape(-1, A.shape[-1]), y.ravel(), rcond=None)[0]
            v = A @ x
        else:
            Q = np.linalg.qr(d[:, None] * A)[0]
            v = np.einsum("lij,lj->li", Q, np.einsum("lij,li->lj", Q.conj(), y)) / d
        new = (v.conj() * y).sum(0) / (abs(v) ** 2).sum(0)
        new = (new + d) / 2 if step % 2 else new
        change, d = np.linalg.norm(new - d) / np.linalg.norm(d), new
        if change < tol:
            break
    return d


def by_sciml(y, A, model):
    """Gains by sciml at its defaults."""
    from sciml.inverse.calibration import self_calibrate

    return self_calibrate(y, A, model=model).gains


METHODS = {
    "sciml": by_sciml,
    "numpy lstsq": by_lstsq,
    "scipy LSMR": by_lsmr,
    "scipy LSQR": by_lsqr,
    "alternation": by_alternation,
}


def once(name, model, m, n, p):
    """Run one method on the problem of the table, for its memory."""
    d, x, A, y, sigma = problem(model, m, n, p, SETTINGS["snr_of_costs_dB"])
    return METHODS[name](y, A, model)


def warm(name, model, m, n, p):
    """Import and compile what a first call needs."""
    once(name, model, 16, 4, 4)


def costs(cases, repeats):
    """Yield time, memory and error of every method."""
    for model, m, n, p in cases:
        d, x, A, y, sigma = problem(model, m, n, p, SETTINGS["snr_of_costs_dB"])
        limit = bound(d, x, A, sigma)
        seconds = {}
        for name, method in METHODS.items():
            taken = []
            for _ in range(1 if "lstsq" in name and m > 200 else repeats):
                start = time.process_time()
                found = method(y, A, model)
                taken.append(time.process_time() - start)
            seconds[name] = float(np.median(taken))
            yield {
                "case": f"{model} m={m} n={n} p={p}",
                "method": name,
                "seconds": seconds[name],
                "times sciml": seconds[name] / seconds["sciml"],
                "MB": peak_memory_mb("benchmarks.bench_calibration:once", name, model, m, n, p),
                "error / bound": error(found, d) / limit,
                "coverage": None,
            }


def errors(cases, draws):
    """Yield the error over the bound of the published methods and ours."""
    from sciml.inverse.calibration import self_calibrate

    asked = {
        "LS1": {"method": "least-squares", "refine": False},
        "S": {"method": "spectral", "refine": False},
        "G": {"method": "eigenvector", "refine": False},
        "K3": {"method": "chain", "refine": False},
        "V": {},
    }
    for model, (m, n, p), snr, gains in cases:
        ratios, covered = {name: [] for name in asked}, []
        for seed in range(draws):
            d, x, A, y, sigma = problem(model, m, n, p, snr, gains, seed)
            limit = bound(d, x, A, sigma)
            for name, options in asked.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = self_calibrate(y, A, model=model, on_failure="ignore", **options)
                ratios[name].append(error(found.gains, d) / limit)
            alpha = np.vdot(found.gains, d) / np.vdot(found.gains, found.gains)
            off = abs(found.gains - d / alpha) ** 2 / found.gains_std**2
            covered.append(np.mean(off < -np.log(0.05)))
        for name in asked:
            yield {
                "case": f"{model} ({m},{n},{p}) {gains} {snr} dB",
                "method": name,
                "seconds": None,
                "times sciml": None,
                "MB": None,
                "error / bound": float(np.median(ratios[name])),
                "coverage": float(np.mean(covered)) if name == "V" else None,
            }


def rows(quick):
    """Yield the rows of both tables."""
    yield from costs(QUICK if quick else COSTS, 1 if quick else 3)
    yield from errors(ERRORS[1:4] if quick else ERRORS, 3 if quick else SETTINGS["draws"])
