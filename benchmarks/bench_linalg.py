"""Linear systems: our solvers and operators against SciPy and linear_operator, same process, same systems.

Seconds are to the stated relative residual, preconditioner included; the residual is recomputed here in float64,
whatever the method says of itself. Ratio: seconds of the peer named first over those of the row, above 1 is faster.
"""

import warnings

import numpy as np

from benchmarks.measure import interleaved

SETTINGS = {"n": 2500, "lengthscale": 0.3, "rank": 100, "tol": 1e-8, "seed": 0, "repeats": 5, "kronecker": 120}


def system(noise, dtype="float64"):
    """Return a Gaussian kernel matrix of uniform points in the unit cube plus noise, and a right side."""
    from sciml.kernels import Gaussian

    rng = np.random.default_rng(SETTINGS["seed"])
    x, b = rng.random((SETTINGS["n"], 3)), rng.standard_normal(SETTINGS["n"])
    K = Gaussian(SETTINGS["lengthscale"])(x) + noise * np.eye(SETTINGS["n"])
    return K.astype(dtype), b.astype(dtype)


def solvers(K, b, noise, quick):
    """Return {method: function giving (solution, iterations, what it says of itself)}."""
    import scipy.linalg
    import scipy.sparse.linalg
    import torch

    from sciml.linalg import cg, nystrom

    tol = SETTINGS["tol"]

    def plain():
        run = cg(K, b, tol=tol, on_failure="ignore")
        return run.value, run.n_iter, "converged" if run.converged else "not converged"

    def preconditioned():
        run = cg(K, b, M=nystrom(K, noise, rank=SETTINGS["rank"], random_state=0), tol=tol, on_failure="ignore")
        return run.value, run.n_iter, "converged" if run.converged else "not converged"

    def scipy_cg():
        count = []
        value, info = scipy.sparse.linalg.cg(K, b, rtol=tol, maxiter=3000, callback=count.append)
        return value, len(count), "converged" if info == 0 else "not converged"

    def cholesky():
        return scipy.linalg.cho_solve(scipy.linalg.cho_factor(K), b), 0, "direct"

    def linear_operator():
        from linear_operator import settings, to_linear_operator

        with settings.cg_tolerance(tol), settings.max_cg_iterations(3000), settings.max_cholesky_size(1):
            value = to_linear_operator(torch.from_numpy(K)).solve(torch.from_numpy(b)[:, None])
        return value.numpy()[:, 0], None, "nothing"

    def linear_operator_default():
        from linear_operator import settings, to_linear_operator

        with settings.max_cholesky_size(1):
            value = to_linear_operator(torch.from_numpy(K)).solve(torch.from_numpy(b)[:, None])
        return value.numpy()[:, 0], None, "nothing"

    found = {"sciml cg + nystrom": preconditioned, "sciml cg": plain, "scipy cg": scipy_cg, "scipy cholesky": cholesky}
    return found | {"linear_operator": linear_operator, "linear_operator, as it comes": linear_operator_default}


def rows(quick):
    """Yield one row a system and method."""
    for noise, dtype in ((1e-2, "float64"), (1e-4, "float64"), (1e-2, "float32")):
        K, b = system(noise, dtype)
        exact = K.astype(np.float64)
        calls = solvers(K, b, noise, quick)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            taken = interleaved(calls, repeats=1 if quick else SETTINGS["repeats"])
            for method, function in calls.items():
                value, n_iter, says = function()
                residual = np.linalg.norm(b - exact @ np.asarray(value, dtype=np.float64)) / np.linalg.norm(b)
                yield row(f"kernel, noise {noise:g}, {dtype}", method, taken, "scipy cg", residual, n_iter, says)
    yield from kronecker(quick)
    yield from laplacians(quick)
    yield from toeplitz(quick)


def laplacians(quick):
    """Yield the rows of the five-point Laplacian: 300 x 300 beside a sparse factorisation, 1000 x 1000 alone."""
    import scipy.sparse.linalg

    from sciml.linalg.operators import laplacian

    for n in (300, 1000):
        A = laplacian((n, n), spacing=1 / (n + 1))
        b = np.random.default_rng(SETTINGS["seed"]).standard_normal(n * n)
        one = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)) * (n + 1.0) ** 2
        eye = scipy.sparse.eye_array(n)
        sparse = (scipy.sparse.kron(one, eye) + scipy.sparse.kron(eye, one)).tocsc()
        calls = {"sciml laplacian": lambda A=A, b=b: A.solve(b)}
        if n == 300:
            calls["scipy spsolve"] = lambda sparse=sparse, b=b: scipy.sparse.linalg.spsolve(sparse, b)
        taken = interleaved(calls, repeats=2 if quick else SETTINGS["repeats"])
        for method, function in calls.items():
            residual = np.linalg.norm(sparse @ function() - b) / np.linalg.norm(b)
            peer = "scipy spsolve" if n == 300 else method
            yield row(f"Laplacian {n} x {n}", method, taken, peer, residual, 0, "direct")


def toeplitz(quick):
    """Yield the rows of a symmetric positive definite Toeplitz matrix: n = 4,000 beside Levinson, a million alone."""
    import scipy.linalg

    from sciml.linalg.operators import Toeplitz

    for n in (4000, 1_000_000):
        column = 0.5 ** np.arange(n)
        column[0] += 0.1
        b = np.random.default_rng(SETTINGS["seed"]).standard_normal(n)
        A = Toeplitz(column)
        calls = {"sciml Toeplitz": lambda A=A, b=b: A.solve(b)}
        if n == 4000:
            calls["scipy solve_toeplitz"] = lambda c=column, b=b: scipy.linalg.solve_toeplitz(c, b)
        taken = interleaved(calls, repeats=2 if quick else SETTINGS["repeats"])
        for method, function in calls.items():
            residual = np.linalg.norm(scipy.linalg.matmul_toeplitz(column, function()) - b) / np.linalg.norm(b)
            peer = "scipy solve_toeplitz" if n == 4000 else method
            yield row(f"Toeplitz {n}", method, taken, peer, residual, None, "-")


def kronecker(quick):
    """Yield the rows of (A x B + s) x = b with two factors of 120 rows."""
    import torch

    from sciml.linalg.operators import Kronecker

    n, shift = SETTINGS["kronecker"], 1e-2
    rng = np.random.default_rng(SETTINGS["seed"])
    factors = []
    for _ in range(2):
        root = rng.standard_normal((n, n))
        factors.append(torch.from_numpy(root @ root.T / n))
    b = torch.from_numpy(rng.standard_normal(n * n))
    ours = Kronecker(*factors, shift=shift)

    def peer():
        from linear_operator.operators import DenseLinearOperator, KroneckerProductLinearOperator

        operator = KroneckerProductLinearOperator(*[DenseLinearOperator(f) for f in factors])
        return operator.add_diagonal(torch.tensor(shift, dtype=torch.float64)).solve(b[:, None])[:, 0]

    calls = {"sciml Kronecker": lambda: ours.solve(b), "linear_operator": peer}
    taken = interleaved(calls, repeats=3 if quick else 20)
    for method, function in calls.items():
        x = function()
        residual = float((factors[0] @ x.reshape(n, n) @ factors[1] + shift * x.reshape(n, n) - b.reshape(n, n)).norm())
        yield row(f"Kronecker {n} x {n} + shift", method, taken, "linear_operator", residual / float(b.norm()), 0, "-")


def row(system, method, taken, peer, residual, n_iter, says):
    """Return one row of the table."""
    return {
        "system": system,
        "method": method,
        "n_iter": n_iter,
        "residual": float(residual),
        "it_says": says,
        **{key: taken[method][key] for key in ("seconds", "seconds_low", "seconds_high")},
        "ratio": taken[peer]["seconds"] / taken[method]["seconds"],
    }
