r"""Functions, distances and means of positive definite matrices beside pyRiemann and spd-learn: digits and seconds.

Seconds are those of this process on one core, the median of interleaved calls. `error` is relative: of derivatives
against 50 digits by mpmath, of distances and means against known answers, or the residual that the case names. `bar` is
what is to be reached.

Derivatives are the off-diagonal entries of the gradient at diag(a, b), which are divided differences, for gaps from 0
to 1e-5, condition 1e14 and scale 1e-12. Distances are those of A and (1 + e)^2 A, which are e sqrt(tr A) (n = 12, 20
seeds, worst). The residual of a Bures-Wasserstein mean M = C C' is that of C = mean of L_i O_i, O_i the polar factor of
L_i' C, that of an affine-invariant mean the norm of the mean logarithm over its spread; both are computed here, anew.
"""

import time
import warnings

import numpy as np

from benchmarks.measure import interleaved

SETTINGS = {"n": 12, "count": 30, "seeds": 20, "repeats": 5}
COLUMNS = ("case", "method", "seconds", "error", "bar", "note")


def row(*cells):
    """Return a row of the table."""
    return dict(zip(COLUMNS, cells, strict=True))


def matrices(count, n, condition, seed, spread=0.3):
    """Return SPD matrices with random frames and eigenvalues from about 1 down to about 1 / condition."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((count, n, n)))[0]
    eigenvalues = np.geomspace(1, 1 / condition, n) * np.exp(spread * rng.standard_normal((count, n)))
    X = (Q * eigenvalues[:, None]) @ Q.swapaxes(-1, -2)
    return (X + X.swapaxes(-1, -2)) / 2


def factors(X):
    """Return square-root factors that keep small eigenvalues, as this benchmark's own judge needs them."""
    s, U = np.linalg.eigh(X)
    return U * np.sqrt(np.maximum(s, 0))[..., None, :]


def bures_residual(M, L):
    """Return the relative change of C by one step of the barycentre's fixed point."""
    C = factors(M)
    U, _, V = np.linalg.svd(L.swapaxes(-1, -2) @ C)
    return np.linalg.norm((L @ (U @ V)).mean(0) - C) / np.linalg.norm(C)


def affine_residual(M, X):
    """Return the norm of the mean logarithm at M over the root mean square of its terms."""
    C = np.linalg.cholesky(M)
    Y = np.linalg.solve(C, np.linalg.solve(C, X).swapaxes(-1, -2))
    s, U = np.linalg.eigh((Y + Y.swapaxes(-1, -2)) / 2)
    logs = (U * np.log(s)[:, None]) @ U.swapaxes(-1, -2)
    return np.linalg.norm(logs.mean(0)) / np.sqrt((logs**2).sum((1, 2)).mean())


def derivatives():
    """Yield the worst relative error of the divided differences behind every gradient."""
    import torch

    from sciml.linalg import spd

    ours = {"sqrt": spd.sqrtm, "1/sqrt": spd.invsqrtm, "log": spd.logm, "exp": spd.expm, "1/x": spd.invm}
    ours |= {f"x^{p}": (lambda X, p=p: spd.powm(X, p)) for p in (0.3, -0.7, 1.5)}
    theirs = {}
    try:
        from spd_learn.functional.core import matrix_exp, matrix_inv_sqrt, matrix_log, matrix_sqrt

        theirs = {
            "sqrt": matrix_sqrt.apply,
            "1/sqrt": matrix_inv_sqrt.apply,
            "log": matrix_log.apply,
            "exp": matrix_exp.apply,
        }
    except ImportError:
        pass
    for name, function in ours.items():
        pairs = _pairs(name)
        exact = np.array([_quotient(name, a, b) for a, b in pairs])
        for method, some in (("sciml", function), ("spd-learn", theirs.get(name))):
            if some is None:
                continue
            found = np.array([_gradient(some, a, b, torch) for a, b in pairs])
            error = float(np.nan_to_num(abs(found / exact - 1), nan=np.inf).max())
            yield row(f"derivative of {name}", method, None, error, 1e-14, f"{len(pairs)} pairs")


def _pairs(name):
    gaps = [0.0, *10.0 ** np.arange(-15, -4)]
    scales = (1.0, 3.0) if name == "exp" else (1.0, 1e-12, 7e5)
    near = [(s * (1 + gap), s) for s in scales for gap in gaps]
    far = [(2.0, 0.5), (1.0, 0.3), (5.0, 0.01)] + ([] if name == "exp" else [(1.0, 1e-14), (1e-5, 1e-12)])
    return near + far


def _quotient(name, a, b):
    import mpmath

    mpmath.mp.dps = 50
    x, y = mpmath.mpf(float(a)), mpmath.mpf(float(b))
    p = {"sqrt": mpmath.mpf("0.5"), "1/sqrt": mpmath.mpf("-0.5"), "1/x": mpmath.mpf(-1)}.get(name)
    if name.startswith("x^"):
        p = mpmath.mpf(float(name[2:]))
    f = mpmath.log if name == "log" else mpmath.exp if name == "exp" else lambda z: z**p
    slope = 1 / x if name == "log" else mpmath.exp(x) if name == "exp" else p * x ** (p - 1) if p is not None else None
    return float(slope if x == y else (f(x) - f(y)) / (x - y))


def _gradient(function, a, b, torch):
    X = torch.diag(torch.tensor([float(a), float(b)], dtype=torch.float64)).requires_grad_()
    weights = torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=torch.float64)
    (weights * function(X)).sum().backward()
    return float(X.grad[0, 1] + X.grad[1, 0])


def separations(conditions):
    """Yield the worst relative error of small Bures-Wasserstein distances."""
    from sciml.linalg.spd import bures_distance

    for e, bar in ((1e-3, 3e-12), (1e-6, 3e-9), (1e-9, 1e-4)):
        for method, distance in (("sciml", bures_distance), ("pyRiemann", _peer("distance", "distance_wasserstein"))):
            if distance is None:
                continue
            worst = 0.0
            for condition in conditions:
                A = matrices(SETTINGS["seeds"], SETTINGS["n"], condition, 0, spread=0)
                exact = e * np.sqrt(np.trace(A, axis1=1, axis2=2))
                with np.errstate(invalid="ignore"):
                    found = distance(A, (1 + e) ** 2 * A)
                worst = max(worst, float(np.nan_to_num(abs(found / exact - 1), nan=np.inf).max()))
            note = "condition 1e2 to 1e12" if np.isfinite(worst) else "not a number where condition is high"
            worst = worst if np.isfinite(worst) else None
            yield row(f"distance of A and (1 + {e:g})^2 A", method, None, worst, bar, note)


def _peer(module, name):
    try:
        import importlib

        return getattr(importlib.import_module(f"pyriemann.geometry.{module}"), name)
    except ImportError:
        return None


def distance_times(sizes, conditions):
    """Yield seconds for distances of a hundred pairs."""
    from sciml.linalg import spd

    pairs = {
        "bw": (spd.bures_distance, "distance_wasserstein"),
        "airm": (spd.affine_invariant_distance, "distance_riemann"),
        "logeuclid": (spd.log_euclidean_distance, "distance_logeuclid"),
    }
    for n in sizes:
        for condition in conditions:
            A, B = matrices(100, n, condition, 0), matrices(100, n, condition, 1)
            for metric, (ours, name) in pairs.items():
                yield from _compared(
                    f"100 distances {metric}, n={n}, condition {condition:.0e}",
                    {"sciml": (ours, (A, B)), "pyRiemann": (_peer("distance", name), (A, B))},
                )


def _compared(case, methods, judge=None, bar=None):
    """Yield a row for each method, with the ratio of times in the note."""
    calls = {m: (lambda f=f, a=a: f(*a)) for m, (f, a) in methods.items() if f is not None}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # peers warn of their own iterations; the error tells as much
        taken = interleaved(calls, SETTINGS["repeats"], clock=time.process_time)
        answers = {m: call() for m, call in calls.items()}
    for method, call in taken.items():
        times = taken["sciml"]["seconds"] / call["seconds"]
        error, note = (None, "") if judge is None else judge(answers[method])
        note = f"{note}; " * bool(note) + ("" if method == "sciml" else f"sciml takes {times:.2f} of it")
        yield row(case, method, call["seconds"], error, bar if method == "sciml" else None, note.rstrip("; "))


def means(sizes, conditions):
    """Yield seconds and residuals of means."""
    from sciml.linalg.spd import spd_mean

    for n in sizes:
        for condition in conditions:
            X = matrices(SETTINGS["count"], n, condition, 0)
            L = factors(X)
            judges = {
                "bw": lambda M, L=L: bures_residual(M, L),
                "airm": lambda M, X=X: affine_residual(M, X),
                "logeuclid": None,
            }
            names = {"bw": "mean_wasserstein", "airm": "mean_riemann", "logeuclid": "mean_logeuclid"}
            for metric, residual in judges.items():
                ours = lambda X, metric=metric: spd_mean(X, metric=metric, on_failure="ignore")  # noqa: E731
                judge = None if residual is None else _judge(residual)
                yield from _compared(
                    f"{metric} mean of {len(X)}, n={n}, condition {condition:.0e}",
                    {"sciml": (ours, (X,)), "pyRiemann": (_peer("mean", names[metric]), (X,))},
                    judge,
                    1e-11 if metric == "bw" and condition == 1e10 and n == SETTINGS["n"] else None,
                )


def _judge(residual):
    def judge(answer):
        M = getattr(answer, "mean", answer)
        M = M if isinstance(M, np.ndarray) else answer  # an array has a method of that name
        try:
            error = float(residual(M))
        except np.linalg.LinAlgError:
            error = float("inf")
        return error, f"{answer.n_iter} iterations" if hasattr(answer, "n_iter") else ""

    return judge


def equivariance():
    """Yield how far mean(c X) / c is from mean(X), the worst over c from 1e-12 to 1e12."""
    from sciml.linalg.spd import spd_mean

    X = matrices(SETTINGS["count"], SETTINGS["n"], 1e4, 3)
    names = {"bw": "mean_wasserstein", "airm": "mean_riemann", "logeuclid": "mean_logeuclid"}
    names |= {"logchol": "mean_logchol", "harmonic": "mean_harmonic"}
    for metric, name in names.items():
        for method, mean in (
            ("sciml", lambda Y, metric=metric: spd_mean(Y, metric=metric).mean),
            ("pyRiemann", _peer("mean", name)),
        ):
            if mean is None:
                continue
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                M = mean(X)
                worst = max(
                    np.linalg.norm(mean(c * X) / c - M) / np.linalg.norm(M) for c in 10.0 ** np.arange(-12, 13, 4)
                )
            yield row(f"{metric} mean, scales 1e-12 to 1e12", method, None, float(worst), 1e-12, "")


def rows(quick):
    """Yield the rows of all tables."""
    yield from derivatives()
    yield from separations((1e2, 1e12) if quick else 10.0 ** np.arange(2, 13, 2))
    yield from equivariance()
    sizes, conditions = ((SETTINGS["n"],), (1e10,)) if quick else ((SETTINGS["n"], 30, 60), (1e2, 1e6, 1e10))
    yield from means(sizes, conditions)
    yield from distance_times(sizes, conditions)
