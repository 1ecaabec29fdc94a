"""Bands and parameters over many draws: how often 95 % bands hold, the error, and what least squares gets.

The peer is told the truth as its start and the form of the solution (two free waves); its error is as small as the
observations allow. A z-score is an error over the standard deviation that came with it; its spread should be one.
"""

import time

import numpy as np

TAU = 2 * np.pi
QUICK = ("helmholtz 0.02", "noise 80 1%")
SETTINGS = {"draws": 100, "quick_draws": 10, "slow_draws": 30, "seed": 1000}


def helmholtz(seed, noise, known=True):
    """u'' + kappa u = f without conditions, from 24 noisy values; kappa = 950."""
    from sciml import PDE, Box

    rng = np.random.default_rng(seed)

    def u(X):
        return np.sin(30 * X[:, 0]) + 0.3 * np.cos(3 * X[:, 0]) + 0.2 * np.exp(-X[:, 0])

    def f(X):
        x = X[:, 0]
        return 50 * np.sin(30 * x) + 282.3 * np.cos(3 * x) + 190.2 * np.exp(-x)

    X = TAU * rng.random((24, 1))
    y = u(X) + noise * rng.standard_normal(24)
    sigma = noise if known else None
    box = Box([(0, TAU)])
    pde = PDE(box, {2: 1.0, 0: "kappa"}, f, parameters={"kappa": (500, 1500)}, observations=(X, y, sigma))
    return pde, u, {"kappa": 950.0}, (X[:, 0], y)


def two_waves(X, y):
    """Least squares in kappa and the amplitudes of the two free waves, from the truth."""
    from scipy.optimize import least_squares

    def misfit(p):
        k, a, b = p
        forced = 50 / (k - 900) * np.sin(30 * X) + 282.3 / (k - 9) * np.cos(3 * X) + 190.2 / (k + 1) * np.exp(-X)
        return forced + a * np.cos(np.sqrt(k) * X) + b * np.sin(np.sqrt(k) * X) - y

    return least_squares(misfit, [950.0, 0.0, 0.0], x_scale=[1.0, 0.1, 0.1], xtol=1e-12).x[0] - 950.0


def oscillator(seed):
    """u'' + c u' + k u = f, both unknown, from forty values of unknown noise."""
    from sciml import PDE, Box

    rng, s = np.random.default_rng(seed), -1 + 3j

    def d(X, n):
        return 5**n * np.sin(5 * X[:, 0] + n * np.pi / 2) + (s**n * np.exp(s * X[:, 0])).real

    X = 4 * rng.random((40, 1))
    observations = (X, d(X, 0) + 0.02 * rng.standard_normal(40))
    parameters = {"c": (0.0, 5.0), "k": (10.0, 200.0)}
    pde = PDE(
        Box([(0, 4)]),
        {2: 1.0, 1: "c", 0: "k"},
        lambda X: d(X, 2) + 0.7 * d(X, 1) + 60 * d(X, 0),
        parameters=parameters,
        observations=observations,
    )
    return pde, lambda X: d(X, 0), {"c": 0.7, "k": 60.0}, None


def heat(seed):
    """u_t = D u_xx without any condition, from sixty values."""
    from sciml import PDE, Box

    rng, D = np.random.default_rng(seed), 0.3

    def u(X):
        one = np.exp(-D * np.pi**2 * X[:, 1]) * np.sin(np.pi * X[:, 0])
        return one + 0.5 * np.exp(-D * 4 * np.pi**2 * X[:, 1]) * np.sin(2 * np.pi * X[:, 0])

    X = rng.random((60, 2))
    y = u(X) + 0.01 * rng.standard_normal(60)
    square = Box([(0, 1), (0, 1)])
    pde = PDE(square, {(0, 1): 1.0, (2, 0): "-D"}, parameters={"D": (0.01, 3.0)}, observations=(X, y))
    return pde, u, {"D": D}, None


def conductivity(seed):
    """(kappa u')' = f with kappa = 1 + sin(3x) / 2 a function, from sixty values."""
    from sciml.solvers.gp_pde import PDE, Box, Dirichlet, UnknownFunction

    rng = np.random.default_rng(seed)

    def u(X):
        return np.sin(2 * X[:, 0]) + 0.3 * X[:, 0]

    def f(X):
        x = X[:, 0]
        return -4 * (1 + 0.5 * np.sin(3 * x)) * np.sin(2 * x) + 1.5 * np.cos(3 * x) * (2 * np.cos(2 * x) + 0.3)

    X = 3 * rng.random((60, 1))
    pde = PDE(
        Box([(0, 3)]),
        {2: "kappa", 1: lambda X, kappa: kappa.gradient[:, 0]},
        f,
        [Dirichlet(u)],
        parameters={"kappa": UnknownFunction(0.1, 10.0)},
        observations=(X, u(X) + 0.01 * rng.standard_normal(60)),
    )
    return pde, u, {"kappa": lambda X: 1 + 0.5 * np.sin(3 * X[:, 0])}, None


def noisy(seed, n, part):
    """u'' = f for u = x sin 200x, f with noise at n random points."""
    from sciml import PDE, Box, Dirichlet

    rng = np.random.default_rng(seed)

    def u(X):
        return X[:, 0] * np.sin(200 * X[:, 0])

    X = TAU * rng.random((n, 1))
    f = 400 * np.cos(200 * X[:, 0]) - 4e4 * u(X)
    f = f + part * np.sqrt(np.mean(f**2)) * rng.standard_normal(n)
    return PDE(Box([(0, TAU)]), {2: 1.0}, (X, f), [Dirichlet(u)]), u, {}, None


PROBLEMS = {
    "helmholtz 0.02": lambda s: helmholtz(s, 0.02),
    "helmholtz 0.02, noise unknown": lambda s: helmholtz(s, 0.02, known=False),
    "helmholtz 0.001": lambda s: helmholtz(s, 0.001),
    "oscillator": oscillator,
    "heat": heat,
    "conductivity": conductivity,
    "noise 80 1%": lambda s: noisy(s, 80, 0.01),
    "noise 80 0.1%": lambda s: noisy(s, 80, 0.001),
    "noise 400 1%": lambda s: noisy(s, 400, 0.01),
}


def rows(quick):
    """Yield one row a problem and parameter."""
    from sciml import solve_pde

    for name in QUICK if quick else PROBLEMS:
        draws = SETTINGS["quick_draws" if quick else "slow_draws" if name == "heat" else "draws"]
        found = {}
        seconds, held, errors, converged = [], [], [], 0
        for draw in range(draws):
            pde, u, truth, data = PROBLEMS[name](SETTINGS["seed"] + draw)
            start = time.perf_counter()
            noise = None if pde.parameters else "learn"
            sol = solve_pde(pde, noise=noise, on_failure="ignore")
            seconds.append(time.perf_counter() - start)
            box = pde.domain.box
            X = box.lower + (box.upper - box.lower) * np.random.default_rng(1).random((400, pde.n_dims))
            gap = np.abs(sol(X) - u(X))
            held.append(np.mean(gap <= 1.96 * sol.std(X)))
            errors.append(np.linalg.norm(gap) / np.linalg.norm(u(X)))
            converged += sol.status == "converged"
            for key, value in truth.items():
                value = value(X) if callable(value) else value
                mean, std = sol.parameters[key], sol.parameters_std[key]
                mean, std = (mean(X), std(X)) if callable(mean) else (mean, std)
                peer = two_waves(*data) / value if data is not None else np.nan
                found.setdefault(key, []).append(
                    [np.atleast_1d((mean - value) / std), np.atleast_1d(mean / value - 1), np.atleast_1d(peer)]
                )
        for key, columns in (found or {"u": None}).items():
            z, error, peer = (np.concatenate(c) for c in zip(*columns, strict=True)) if columns else ([], errors, [])
            rms = float(np.sqrt(np.mean(np.square(error))))
            yield {
                "problem": name,
                "unknown": key,
                "draws": draws,
                "error": rms,
                "peer's error": float(np.sqrt(np.mean(np.square(peer))))
                if len(peer) and np.all(peer == peer)
                else None,
                "z mean": float(np.mean(z)) if len(z) else None,
                "z spread": float(np.std(z)) if len(z) else None,
                "held": float(np.mean(np.abs(z) < 1.96)) if len(z) else float(np.mean(held)),
                "u held": float(np.mean(held)),
                "converged": converged / draws,
                "seconds": float(np.median(seconds)),
            }
