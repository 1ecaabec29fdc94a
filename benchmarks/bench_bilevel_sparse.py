"""Penalties of the lasso learned by hypergradients, to stated accuracies: sciml against sparho 0.2, in one process.

Both minimise the same five-fold validation error from the same start, half or a tenth of the penalty from which on all
is zero, on the same folds, and the clock runs until the error comes within an accuracy of the best one known (that of
any method or, for one penalty, of a grid of 400). What counts is the error of the penalties met, computed afresh by
scikit-learn to 1e-12, not what a method believes. sparho runs HOAG on scikit-learn's coordinate descent with warm
starts, as its documentation advises, at two inner tolerances. A method that does not come so near in its budget has no
time; its excess over the best error stands alone. Seconds are those of the processor, one thread, data preparation
included. The columns: seconds to the accuracy (median, quartiles), ratio to sciml, excess of the best error over the
best one known, evaluations to the accuracy (or all), seconds of the whole run.
"""

import time

import numpy as np

from benchmarks.measure import quartiles

SETTINGS = {
    "folds": 5,
    "accuracies": [1e-3, 1e-6],
    "repeats": 5,
    "grid": 400,
    "sparho_iterations": 100,
    "sparho_inner_tolerances": [1e-5, 1e-8],
    "seed": 0,
}
# name, rows, columns, what is learned, part of the largest penalty to start from
CASES = [
    ("lasso", 200, 100, "lasso", 0.1),
    ("lasso, wide", 200, 1000, "lasso", 0.5),
    ("lasso, tall", 1000, 200, "lasso", 0.1),
    ("weighted lasso", 200, 100, "weighted-lasso", 0.1),
    ("weighted lasso, wide", 200, 1000, "weighted-lasso", 0.5),
]


def data(n, p):
    """Return correlated features, targets and folds."""
    rng = np.random.default_rng(SETTINGS["seed"])
    X = rng.standard_normal((n, p))
    X[:, 1:] = 0.5 * X[:, :-1] + np.sqrt(0.75) * X[:, 1:]
    true = np.zeros(p)
    true[:: p // 20] = rng.standard_normal(20)
    y = X @ true
    y += 0.5 * y.std() * rng.standard_normal(n)
    own = rng.permutation(n) % SETTINGS["folds"]
    return X, y, [(np.flatnonzero(own != k), np.flatnonzero(own == k)) for k in range(SETTINGS["folds"])]


def ours(X, y, splits, penalty, alpha):
    """Return seconds since the call and penalties, step by step."""
    from sciml.inverse.bilevel import Auto, HeldOut, SparseRegression, learn_hyperparameters

    start = time.process_time()
    trace = []
    lower = SparseRegression([X[a] for a, _ in splits], [y[a] for a, _ in splits], penalty=penalty)
    upper = HeldOut("squared", [X[b] for _, b in splits], [y[b] for _, b in splits])
    learn_hyperparameters(
        lower,
        upper,
        np.full(lower.n_hyper, np.log(alpha)),
        method=Auto(direction="lbfgs", trust=3.0 if lower.n_hyper == 1 else 1.5),
        tol=1e-6,
        callback=lambda n_iter, step: trace.append((time.process_time() - start, step.value.theta.exp().numpy())),
        on_failure="ignore",
    )
    return trace


def theirs(X, y, splits, penalty, alpha, tol):
    """Return the same for sparho."""
    import sparho
    from sparho.adapters.sklearn import SklearnLasso, SklearnWeightedLasso

    lasso = penalty == "lasso"
    problem = sparho.Problem(sparho.SquaredLoss(), sparho.L1() if lasso else sparho.WeightedL1(), X, y)
    solver = (SklearnLasso if lasso else SklearnWeightedLasso)(tol=tol, max_iter=100_000)
    folds = tuple((a.astype(np.int32), b.astype(np.int32)) for a, b in splits)
    criterion = _Timed(sparho.CrossVal(folds, warm_start=True))
    sparho.hoag_search(
        problem,
        float(alpha) if lasso else np.full(X.shape[1], alpha),
        solver=solver,
        criterion=criterion,
        n_iter=SETTINGS["sparho_iterations"],
        inner_tol=tol,
    )
    return criterion.trace


class _Timed:
    """A criterion of sparho that writes down when it was asked, and at which penalties."""

    def __init__(self, criterion):
        self.criterion, self.trace, self.start = criterion, [], time.process_time()

    def value_and_hypergrad(self, problem, penalties, *arguments, **options):
        result = self.criterion.value_and_hypergrad(problem, penalties, *arguments, **options)
        self.trace.append((time.process_time() - self.start, np.atleast_1d(np.asarray(penalties, float)).copy()))
        return result


def error_of(X, y, splits, penalties):
    """Return the validation error, the mean square, at some penalties."""
    from sklearn.linear_model import Lasso

    errors = []
    for a, b in splits:
        # A penalty on everything is one on the columns over the penalties.
        model = Lasso(alpha=1.0, fit_intercept=False, tol=1e-12, max_iter=1_000_000).fit(X[a] / penalties, y[a])
        errors.append(((X[b] / penalties @ model.coef_ - y[b]) ** 2).mean())
    return np.mean(errors)


def reached(trace, errors, target):
    """Return when a trace first comes down to the target; None where it does not."""
    below = np.flatnonzero(errors <= target)
    return float(trace[below[0]][0]) if len(below) else None


def best_of_grid(X, y, splits, top):
    """Return the smallest validation error of one penalty on a fine grid."""
    from sklearn.linear_model import lasso_path

    alphas = np.geomspace(top, 1e-3 * top, SETTINGS["grid"])
    errors = np.zeros(len(alphas))
    for a, b in splits:
        _, coefs, _ = lasso_path(X[a], y[a], alphas=alphas, tol=1e-10, max_iter=100_000)
        errors += ((X[b] @ coefs - y[b][:, None]) ** 2).mean(axis=0) / len(splits)
    return errors.min()


def rows(quick):
    """Yield one row a case and library."""
    import warnings

    from sciml.inverse.bilevel import alpha_max

    for name, n, p, penalty, part in CASES[::3] if quick else CASES:
        X, y, splits = data(n, p)
        top = alpha_max([X[a] for a, _ in splits], [y[a] for a, _ in splits])
        methods = {"sciml": lambda X=X, y=y, s=splits, w=penalty, a=part * top: ours(X, y, s, w, a)}
        for tol in SETTINGS["sparho_inner_tolerances"]:
            methods[f"sparho, tol {tol:g}"] = lambda X=X, y=y, s=splits, w=penalty, a=part * top, t=tol: theirs(
                X, y, s, w, a, t
            )
        traces = {label: [] for label in methods}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # inner solvers of both complain on the way
            for repeat in range(1 + (2 if quick else SETTINGS["repeats"])):
                for label, method in methods.items():
                    trace = method()
                    if repeat:  # the first round warms up
                        traces[label].append(trace)
            # Every run of a method meets the same penalties.
            errors = {
                label: np.array([error_of(X, y, splits, penalties) for _, penalties in repeats[0]])
                for label, repeats in traces.items()
            }
        best = min(e.min() for e in errors.values())
        if penalty == "lasso":
            best = min(best, best_of_grid(X, y, splits, top))
        for accuracy in SETTINGS["accuracies"]:
            yield from compared(f"{name} {n} x {p}", traces, errors, best, accuracy)


def compared(case, traces, errors, best, accuracy):
    """Yield one row a method: when it comes within an accuracy of the best error."""
    target = best * (1 + accuracy)
    times = {label: [reached(trace, errors[label], target) for trace in repeats] for label, repeats in traces.items()}
    ready = {label: float(np.median(t)) for label, t in times.items() if None not in t}
    for label, repeats in traces.items():
        found = label in ready
        yield {
            "case": case,
            "accuracy": accuracy,
            "method": label,
            **(quartiles(times[label]) if found else {"seconds": None, "seconds_low": None, "seconds_high": None}),
            "ratio": ready[label] / ready["sciml"] if found and "sciml" in ready else None,
            "excess": float(errors[label].min() / best - 1),
            "evaluations": int(np.flatnonzero(errors[label] <= target)[0]) + 1 if found else len(repeats[0]),
            "seconds_all": float(np.median([trace[-1][0] for trace in repeats])),
            "repeats": len(repeats),
        }
