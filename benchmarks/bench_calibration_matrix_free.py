"""Self-calibration from products alone: applications of the measurement, time, memory and error, against SciPy.

Spreading codes, Gaussian gains and signals, 60 dB. SciPy solves the linear least-squares problem for inverse gains and
signals with one appended row (their sum is fixed): LSQR on the system as it is, and LSMR with the columns scaled, which
is the better of the two by far. Then the gains of this package: the eigenproblem alone, and refined to maximum
likelihood. An application is one product and one adjoint one of all snapshots; every one is counted, those for the
signals and the misfit too. The columns: unknowns, numbers of data, method, products, adjoint products, seconds of the
processor (one thread), memory in MB that the call adds to the data at its peak in a process of its own, error of the
gains relative to them after the best complex factor, and that error over the Cramer-Rao bound (its leading part).
"""

import contextlib
import ctypes
import math
import time

import numpy as np

from benchmarks.measure import peak_memory_mb, quartiles

SETTINGS = {"snr_db": 60, "seed": 0, "repeats": 3, "scipy_tol": 1e-8, "scipy_max_iter": 4000}
# sensors, unknowns of a snapshot, snapshots
SIZES = [(4096, 1024, 8), (65536, 16384, 56), (262144, 65536, 48)]
SCIPY = ("scipy LSQR, as it is", "scipy LSMR, columns scaled")
OURS = ("eigenproblem", "refined", "refined, complex64")

_made = {}


def problem(m, n, p):
    """Return data, measurement and gains."""
    import torch

    from sciml.inverse.calibration.ensembles import SpreadCode

    if (m, n, p) not in _made:
        rng = np.random.default_rng(SETTINGS["seed"])
        A = SpreadCode(rng.choice(np.array([-1, 1], np.int8), (p, m)), n)
        d = torch.from_numpy(_gaussian(rng, m))
        y = torch.empty(p, m, dtype=torch.complex128)
        for j in range(p):
            y[j] = d * A.forward(torch.from_numpy(_gaussian(rng, 1, n)), j, j + 1)[0]
        sigma = float(y.abs().square().mean()) ** 0.5 * 10 ** (-SETTINGS["snr_db"] / 20)
        for j in range(p):
            y[j] += sigma * torch.from_numpy(_gaussian(rng, m))
        _made.clear()
        _made[m, n, p] = y, A, d
    return _made[m, n, p]


def _gaussian(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / math.sqrt(2)


def ours(y, A, method):
    """Return gains, products, adjoint products and what else was estimated."""
    from sciml.inverse.calibration.matrix_free import solve_matrix_free

    found = solve_matrix_free(y, A, model="diverse", refine=method != "eigenproblem")
    return found.gains[0], found.history["forward"][-1], found.history["adjoint"][-1], found


def scipys(y, A, method):
    """Return the same from a Krylov method on the stacked system."""
    import torch
    from scipy.sparse.linalg import LinearOperator, lsmr, lsqr

    p, m = y.shape
    n = A.shape[1]
    y = y.numpy()
    energy = (np.abs(y) ** 2).sum(0)
    scaled = "scaled" in method
    s_scale = 1 / np.sqrt(energy) if scaled else np.ones(m)
    x_scale = 1 / math.sqrt(float(A.gram[0, 0])) if scaled else 1.0
    w = s_scale / np.linalg.norm(s_scale)
    counts = [0, 0]

    def forward(z):
        counts[0] += 1
        rows = np.empty(p * m + 1, complex)
        rows[-1] = w @ z[:m]
        for j in range(p):
            x = torch.from_numpy(z[m + j * n : m + (j + 1) * n] * x_scale)
            rows[j * m : (j + 1) * m] = y[j] * (s_scale * z[:m]) - A.forward(x[None], j, j + 1)[0].numpy()
        return rows

    def adjoint(r):
        counts[1] += 1
        z = np.empty(m + p * n, complex)
        z[:m] = w * r[-1]
        for j in range(p):
            part = r[j * m : (j + 1) * m]
            z[:m] += s_scale * y[j].conj() * part
            z[m + j * n : m + (j + 1) * n] = -x_scale * A.adjoint(torch.from_numpy(part)[None], j, j + 1)[0].numpy()
        return z

    stacked = LinearOperator((p * m + 1, m + p * n), forward, rmatvec=adjoint, dtype=complex)
    b = np.zeros(p * m + 1, complex)
    b[-1] = 1.0
    solver, limit = (lsmr, "maxiter") if scaled else (lsqr, "iter_lim")
    tol = SETTINGS["scipy_tol"]
    z = solver(stacked, b, atol=tol, btol=tol, **{limit: SETTINGS["scipy_max_iter"]})[0]
    return torch.from_numpy(1 / (s_scale * z[:m])), counts[0], counts[1], None


def call(m, n, p, method):
    """Solve one problem by one method."""
    import torch

    y, A, _ = problem(m, n, p)
    if method in SCIPY:
        return scipys(y, A, method)
    return ours(y.to(torch.complex64) if "complex64" in method else y, A, method)


def warm(m, n, p, method):
    """Make the problem, and let the transforms and solvers of a small one allocate what they keep."""
    import torch

    call(256, 64, 8, method)
    problem(m, n, p)
    if "complex64" in method:
        # The data as the method gets them are no part of what it adds.
        y, A, d = _made[m, n, p]
        _made[m, n, p] = y.to(torch.complex64), A, d
        del y
    # What the making of the problem left in the allocator would hide as much of what the method adds.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def error(found, d):
    """Return the error of some gains relative to the true ones after the best complex factor."""
    import torch

    found = found.to(d)
    alpha = torch.vdot(found, d) / torch.vdot(found, found)
    return float((alpha * found - d).norm() / d.norm())


def rows(quick):
    """Yield one row a size and method."""
    for m, n, p in SIZES[:1] if quick else SIZES:
        # SciPy's vectors of the last size would take gigabytes, and LSQR as it is hours of the second.
        methods = {0: SCIPY + OURS, 1: SCIPY[1:] + OURS, 2: OURS}[SIZES.index((m, n, p))]
        bound = None
        for method in reversed(methods):
            _, _, d = problem(m, n, p)
            seconds = []
            for _ in range(1 if quick or method in SCIPY else SETTINGS["repeats"]):
                start = time.process_time()
                gains, forward, adjoint, found = call(m, n, p, method)
                seconds.append(time.process_time() - start)
            off = error(gains, d)
            if bound is None:
                alpha = float(d.norm() / found.gains[0].to(d).norm())
                bound = alpha * float(found.variance[0].sum()) ** 0.5 / float(d.norm())
            yield {
                "unknowns": m + n * p,
                "data": m * p,
                "method": method,
                "products": float(forward),
                "adjoint": float(adjoint),
                **quartiles(seconds),
                "data_mb": m * p * (8 if "complex64" in method else 16) / 2**20,
                "added_mb": peak_memory_mb("benchmarks.bench_calibration_matrix_free:call", m, n, p, method),
                "error": off,
                "over_bound": off / bound,
            }
