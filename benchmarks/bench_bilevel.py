"""Bilevel learning: units and seconds to a stated value, of `method="auto"`, MAID, HOAG and fixed accuracy.

A unit is one gradient of the lower energy, or one product with its Hessian, for all samples. Every method counts all of
them, also those that estimate eigenvalues, and gets the same budget. `units` and `seconds` are what the target took,
a dash where it was not reached; `ratio` is the units of a method, or the budget, over those of "auto".
"""

import time

from benchmarks.bilevel_problems import PROBLEMS

SETTINGS = {"budget_units": 8000, "quick_budget_units": 1000, "seeds": {"noise": 19, "quadratic": 0, "filters": 0}}


def methods(name):
    """Return the methods of a problem: baselines with the settings of their papers."""
    from sciml.inverse.bilevel import HOAG, MAID, Auto, FixedAccuracy

    published = {"eta": 1e-4, "lam": 5e-5, "max_backtracks": 10}
    if name.startswith("quadratic"):
        maid = {
            "MAID, eps0 1e-1": MAID(eps0=1e-1, delta0=1e-1, alpha0=0.01, rho_bar=10 / 9, nu_bar=1.25, **published),
            "MAID, eps0 1e-5": MAID(eps0=1e-5, delta0=1e-5, alpha0=0.01, rho_bar=10 / 9, nu_bar=1.25, **published),
        }
    elif name.startswith("digits"):
        maid = {"MAID, eps0 1e-1": MAID(eps0=0.1, delta0=0.1, rho=0.9, nu_bar=1.05, **published)}
    else:
        maid = {
            "MAID, eps0 1e-1": MAID(eps0=0.1, delta0=0.1, alpha0=0.01, rho_bar=10 / 9, nu_bar=1.05, **published),
            "MAID, eps0 10": MAID(eps0=10.0, delta0=10.0, alpha0=0.01, rho_bar=10 / 9, nu_bar=1.05, **published),
        }
    return {
        "auto": Auto(),
        "auto, lbfgs": Auto(direction="lbfgs"),
        "auto, plain bars": Auto(direction="lbfgs", certificate="plain"),
        **maid,
        "HOAG, geometric": HOAG(),
        "fixed accuracy 1e-3": FixedAccuracy(eps=1e-3, delta=1e-3),
    }


def measure(problem, method, budget):
    """Return what one run took to the target."""
    from sciml import learn_hyperparameters

    reached, start = [], time.process_time()

    def seen(n_iter, step):
        if step.value.value <= problem.target:
            reached.append((step.scalars["n_units"], time.process_time() - start))
        return bool(reached)

    result = learn_hyperparameters(
        problem.lower,
        problem.upper,
        problem.theta0,
        method=method,
        max_units=budget,
        max_iter=100_000,
        callback=seen,
        on_failure="ignore",
        **problem.options,
    )
    units, seconds = reached[0] if reached else (None, None)
    return {"units": units, "seconds": seconds, "value": result.value, "status": result.status, "steps": result.n_iter}


def rows(quick):
    """Yield one row a problem and method."""
    budget = SETTINGS["quick_budget_units" if quick else "budget_units"]
    for name, make in PROBLEMS.items():
        problem, ours = make(), None
        for label, method in methods(name).items():
            got = measure(problem, method, budget)
            ours = ours or got["units"]
            ratio = (got["units"] or budget) / ours if ours else None
            got["value"] = f"{got['value']:.7g}"
            yield {"problem": f"{name:36}", "method": label, "target": f"{problem.target:.7g}", **got, "ratio": ratio}
