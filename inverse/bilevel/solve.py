r"""The front door: `learn_hyperparameters` checks what comes, runs a method, and says how far to trust the answer.

.. math:: \min_\theta f(\theta) = \frac1B \sum_{i=1}^B g_i(\hat x_i(\theta), \theta) + r(\theta), \qquad
          \hat x_i(\theta) = \arg\min_x h_i(x, \theta)
"""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from pathlib import Path

import numpy as np
import torch

from sciml._checkpoint import _digest, load_state, save_state
from sciml._config import resolve
from sciml.exceptions import ConvergenceError, ConvergenceWarning, InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.evaluate import BudgetReached, Evaluator, NotFinite
from sciml.inverse.bilevel.lower import Lower
from sciml.inverse.bilevel.result import BilevelResult
from sciml.inverse.bilevel.search import Search
from sciml.inverse.bilevel.upper import UpperLoss
from sciml.iterate import Status, Step, caller_level, run
from sciml.linalg.arrays import enter
from sciml.random import generator
from sciml.validation import check_number, check_option

__all__ = ["learn_hyperparameters"]

# Method -> module, class of options, generator of steps.
METHODS = {
    "auto": ("auto", "Auto", "auto_steps"),
    "maid": ("maid", "MAID", "maid_steps"),
    "hoag": ("hoag", "HOAG", "hoag_steps"),
    "fixed": ("fixed_accuracy", "FixedAccuracy", "fixed_accuracy_steps"),
    "stochastic": ("stochastic", "Stochastic", "stochastic_steps"),
}


def learn_hyperparameters(
    lower,
    upper,
    theta0,
    *,
    method="auto",
    tol=1e-6,
    x0=None,
    bounds=None,
    lower_solver="auto",
    max_iter=200,
    max_units=None,
    max_seconds=None,
    batch_size=None,
    n_jobs=None,
    dtype=None,
    device=None,
    random_state=None,
    check=True,
    verify=False,
    checkpoint=None,
    resume=False,
    callback=None,
    on_failure=None,
    progress=None,
):
    r"""Learn hyperparameters theta so that the solutions of a lower-level problem are good.

    .. math:: \min_\theta \frac1B \sum_i g_i(\hat x_i(\theta), \theta) + r(\theta), \qquad
              \hat x_i(\theta) = \arg\min_x h_i(x, \theta)

    The lower level is solved as exactly as each decision needs, and no more; every value carries an error bar.

    Parameters
    ----------
    lower : Lower
        The lower level: a `LowerProblem` of any torch energy, a `StructuredLower`, or one of the ready models.
    upper : UpperLoss
        The upper level, such as a `SquaredError`.
    theta0 : array, shape (n,)
        Start; NumPy or torch, which decides the kind of the answer. theta is kept in float64 whatever x is.
    method : str or options object
        "auto" (the default): curvature and values corrected by the adjoint, with a three-way test; "maid": the method
        of [1]_; "hoag": [2]_; "fixed": gradient descent at one accuracy; "stochastic": minibatches, never certified;
        or an object such as ``MAID(rho=0.9)`` with options.
    tol : float
        Stop when ``max|P z| <= tol * max(|value|, 1e-6 |first value|)``, with z the hypergradient and P dropping
        components that push against a bound, and z known well enough to say so. 1e-6 by default.
    x0 : array, shape (B, ...), or None
        Start of the first lower-level solve; gives shape, dtype and device of x. None (the default) starts at zero, in
        the shape that the lower or upper level knows.
    bounds : tuple (low, high) or None
        Bounds of theta, numbers or arrays (n,); None (the default) means none.
    lower_solver : {"auto", "nag", "newton_cg", "lbfgs"}
        Method of the lower level; "auto" (the default) takes Newton's method with conjugate gradients for up to 2000
        unknowns a sample or condition numbers above 3000, accelerated gradients otherwise.
    max_iter : int
        Accepted steps at most; 200 by default, 0 evaluates the start.
    max_units, max_seconds : float or None
        Budget: units of work (see `BilevelResult`), seconds; the solve at hand is finished first. None (the default)
        means none.
    batch_size : int or None
        Samples at work at once, to bound memory; does not change the answer. None (the default) takes all.
    n_jobs : int or None
        Workers for chunks of `batch_size` samples, by `sciml.parallel.map`; does not change the answer.
    dtype : None, "float32" or "float64"
        Of x; None (the default) keeps that of the data. Sums and theta are in float64.
    device : None, str or torch.device
        Where to compute; None (the default) asks the arrays.
    random_state : None, int or numpy.random.Generator
        For methods that draw: only "stochastic" does.
    check : bool
        Test the given constants mu and L by a few Lanczos steps at the start; True by default. What is met on the way
        is always tested, for nothing.
    verify : bool
        Solve the lower level again at every accepted theta, nearly exactly, and count the values outside their bars in
        ``report["verification"]``; False by default. Not counted as work.
    checkpoint : str, path-like or None
        File written after every accepted step.
    resume : bool
        Go on from `checkpoint`, if it exists, with the same trace as if nothing had happened; False by default.
    callback : callable or None
        ``callback(n_iter, step)``, with ``step.value.theta``, ``.value``, ``.value_bar``; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the search did not converge; None (the default) asks the configuration.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Returns
    -------
    BilevelResult
        With `status` "converged"; "accuracy_floor" (values can no longer be told apart); "small_decrease" (three
        steps in a row gained less than ftol); "budget", "max_iter"; "no_descent"; "flat" (the hypergradient is zero at
        the start: theta has no effect there); "not_finite"; or "stopped" (by the callback or the keyboard).

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule.
    CertificateError
        If `check` finds a given constant contradicted.
    ConvergenceError
        If the search failed and `on_failure` is "raise".

    Warns
    -----
    ConvergenceWarning
        If it did not converge, or a given constant was contradicted on the way.

    Notes
    -----
    Memory is that of about ten arrays of the size of x, and n more for the Gauss-Newton direction, which "auto" takes
    for n up to 32. It does not grow with the iterations.

    References
    ----------
    .. [1] M. S. Salehi, S. Mukherjee, L. Roberts, M. J. Ehrhardt, An adaptively inexact first-order method for bilevel
       optimization with application to hyperparameter learning, SIAM J. Math. Data Sci. 2025, arXiv 2308.10098.
    .. [2] F. Pedregosa, Hyperparameter optimization with approximate gradient, ICML 2016, arXiv 1602.02355.

    Examples
    --------
    The best shrinkage of two noisy numbers towards zero:

    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import LowerProblem, SquaredError, learn_hyperparameters
    >>> y = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    >>> def h(x, theta, idx):
    ...     return 0.5 * ((x - y[idx]) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)
    >>> lower = LowerProblem(h, mu=lambda theta: 1 + torch.exp(theta[0]), LH=0.0)
    >>> result = learn_hyperparameters(lower, SquaredError(np.array([[1.0, 0.5]])), np.array([3.0]))
    >>> result.status, result.theta.round(4)
    ('converged', array([0.]))
    """
    options, steps = _method(method)
    lower, upper, theta0, x0, leave = _problem(lower, upper, theta0, x0, dtype, device)
    tol = check_number("tol", tol, low=0, inclusive="neither")
    max_iter = check_number("max_iter", max_iter, low=0, integer=True)
    for name, number in (("max_units", max_units), ("max_seconds", max_seconds)):
        if number is not None:
            check_number(name, number, low=0)
    if batch_size is not None:
        batch_size = check_number("batch_size", batch_size, low=1, integer=True)
    check_option("lower_solver", lower_solver, ("auto", "nag", "newton_cg", "lbfgs"))
    on_failure = resolve("on_failure", on_failure)
    low, high = _bounds(bounds, theta0)

    evaluator = Evaluator(
        lower,
        upper,
        x0,
        len(theta0),
        solver=lower_solver,
        certificate=getattr(options, "certificate", "plain"),
        lower_error=getattr(options, "lower_error", "bound"),
        batch_size=batch_size,
        n_jobs=n_jobs,
        max_units=max_units,
        max_seconds=max_seconds,
    )
    search = Search(evaluator, theta0, x0, tol, low, high, generator(random_state))
    rows = []
    if checkpoint is not None:
        rows = _prepare_checkpoint(search, Path(checkpoint), resume, options, lower, upper)
    elif resume:
        raise InvalidInputError("resume needs a checkpoint to resume from; got checkpoint=None. Pass its path.")
    if check and search.saved is None and not lower.exact:
        _check_start(search)
    loop = run(
        _replayed(search, rows, steps, options),
        name="learn_hyperparameters",
        tol=max(tol, 10 * np.finfo(float).eps),
        max_iter=max_iter,
        callback=_after(len(rows), callback),
        on_failure="ignore",
        progress=progress,
        dtype="float64",  # a step is no array; to ask what it is would write it down, which takes longer than a step
    )
    status, reason = _ending(search, loop)
    result = _result(search, loop, status, reason, options, leave, verify, rows)
    _complain(result, reason, loop, tol, on_failure)
    return result


# ---------------------------------------------------------------- what comes in


def _method(method):
    """Return the options and the generator of steps."""
    if isinstance(method, str):
        name = check_option("method", method, METHODS)
    else:
        kinds = {options: name for name, (_, options, _) in METHODS.items()}
        name = kinds.get(type(method).__name__)
        if name is None:
            raise InvalidTypeError(
                f"method must be one of {', '.join(map(repr, METHODS))} or an object such as Auto() or MAID(); "
                f"got {method!r}."
            )
    home, options, steps = METHODS[name]
    module = importlib.import_module(f"sciml.inverse.bilevel.{home}")
    return (getattr(module, options)() if isinstance(method, str) else method), getattr(module, steps)


def _problem(lower, upper, theta0, x0, dtype, device):
    """Return the checked problem on one device, theta0 (n,) in float64, x0 (B, ...), and the way back."""
    if not isinstance(lower, Lower):
        raise InvalidTypeError(
            f"lower must be a lower level; got {type(lower).__name__}. Write LowerProblem(h, mu) around an energy."
        )
    if not isinstance(upper, UpperLoss):
        raise InvalidTypeError(
            f"upper must be an upper level; got {type(upper).__name__}. Write UpperLoss(g) around a loss, or "
            "SquaredError(x_true)."
        )
    (theta,), leave = enter(theta0, names=("theta0",), dtype="float64", device=device)
    if not theta.is_floating_point():
        raise InvalidInputError(f"theta0 must be real; got dtype {theta.dtype}. Pass real and imaginary part apart.")
    if theta.ndim != 1 or len(theta) == 0:
        raise InvalidInputError(
            f"theta0 must be of shape (n,), n at least 1; got shape {tuple(theta.shape)}. Write theta0.ravel()."
        )
    if x0 is None:
        n_samples = lower.n_samples if lower.n_samples is not None else upper.n_samples
        shape = lower.shape if lower.shape is not None else upper.shape
        if n_samples is None or shape is None:
            raise InvalidInputError(
                "x0 must be given, of shape (B, ...): neither the lower nor the upper level knows the shape of x."
            )
        known = next((d for d in (getattr(lower, "dtype", None), getattr(upper, "dtype", None)) if d), torch.float64)
        x = torch.zeros((n_samples, *shape), dtype=known, device=theta.device)
        start = getattr(lower, "start", None)
        x = x if start is None else start().to(x)
    else:
        (x,), _ = enter(x0, names=("x0",), device=device)
        if x.ndim < 2 or x.numel() == 0:
            raise InvalidInputError(
                f"x0 must be of shape (B, ...), one row a sample; got shape {tuple(x.shape)}. "
                "For one sample pass x0[None]."
            )
    if dtype is not None:
        x = x.to(getattr(torch, resolve("dtype", dtype)))
    if not x.is_floating_point():
        raise InvalidInputError(f"x0 must be real; got dtype {x.dtype}.")
    x = x.detach().to(theta.device if x0 is None or device is not None else x.device)
    home = theta.device
    theta = theta.detach().cpu()
    for name, part in (("lower", lower), ("upper", upper)):
        if part.n_samples is not None and part.n_samples != len(x):
            raise InvalidInputError(
                f"{name} has {part.n_samples} samples, but x has {len(x)}. Give both levels the same samples."
            )
        if part.shape is not None and tuple(part.shape) != tuple(x.shape[1:]):
            raise InvalidInputError(
                f"{name} has samples of shape {tuple(part.shape)}, but x of shape {tuple(x.shape[1:])}."
            )
    # theta is kept on the CPU: what is done with it is little, and wants no synchronisation.
    return lower.to(x.device, x.dtype), upper.to(x.device, x.dtype), theta, x, lambda t: leave(t.to(home))


def _bounds(bounds, theta0):
    """Return lower and upper bounds (n,)."""
    low, high = torch.full_like(theta0, -torch.inf), torch.full_like(theta0, torch.inf)
    if bounds is None:
        return low, high
    try:
        ends = [
            torch.as_tensor(np.asarray(end.cpu() if isinstance(end, torch.Tensor) else end), dtype=torch.float64).cpu()
            for end in bounds
        ]
        low, high = (end.expand_as(theta0) for end in ends)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(
            f"bounds must be a pair (low, high) of numbers or arrays ({len(theta0)},): {error}."
        ) from None
    if bool(torch.isnan(low).any()) or bool(torch.isnan(high).any()) or not bool((low < high).all()):
        raise InvalidInputError("bounds must be numbers with low below high in every component.")
    outside = ((theta0 < low) | (theta0 > high)).nonzero()
    if len(outside):
        i = int(outside[0])
        raise InvalidInputError(
            f"theta0 must lie within bounds; component {i} is {float(theta0[i]):g}, outside "
            f"[{float(low[i]):g}, {float(high[i]):g}]. Move it inside."
        )
    return low, high


def _check_start(search):
    """Test the given constants where the search starts."""
    from sciml.inverse.bilevel.constants import check_constants

    ev = search.evaluator
    check_constants(ev.lower, search.theta0, search.x0, n_points=1, n_steps=8, count=ev.count)


# ---------------------------------------------------------------- checkpoints


def _prepare_checkpoint(search, path, resume, options, lower, upper):
    """Make the search save itself, restore it where asked, and return the rows of the restored trace."""
    if not path.parent.is_dir():
        raise InvalidInputError(
            f"checkpoint must lie in a folder that exists; got {str(path)!r}. Make the folder first."
        )
    ev = search.evaluator
    print_ = _fingerprint(search, options, lower, upper)
    rows = []
    if resume and path.exists():
        saved = load_state(path)
        if not isinstance(saved, dict) or saved.get("problem") != print_:
            raise InvalidInputError(
                f"checkpoint {str(path)!r} belongs to another problem, method or version. "
                "Pass another file, or resume=False to start anew."
            )
        rows, search.saved, search.first = saved["rows"], saved["state"], saved["first"]
        search.all_rigorous, search.status = saved["rigorous"], ""
        ev.count.add(saved["count"])
        ev.n_lower, ev.n_cg = saved["iterations"]
        ev.doubt, ev.contradicted, ev.dense = saved["doubt"], saved["contradicted"], saved["dense"]
        search.rng.bit_generator.state = saved["rng"]

    def save(state):
        save_state(
            path,
            {
                "problem": print_,
                "rows": search.rows,
                "state": state,
                "first": search.first,
                "rigorous": search.all_rigorous,
                "count": ev.count.as_dict(),
                "iterations": [ev.n_lower, ev.n_cg],
                "doubt": ev.doubt,
                "dense": ev.dense,
                "contradicted": ev.contradicted,
                "rng": search.rng.bit_generator.state,
            },
        )

    search.save = save
    return rows


def _fingerprint(search, options, lower, upper):
    """Return a text that is the same for the same problem: budgets, chunks and workers do not belong to it."""
    ev = search.evaluator
    return _digest(
        type(lower).__qualname__,
        type(upper).__qualname__,
        _parts(lower),
        _parts(upper),
        search.theta0,
        search.x0,
        search.low,
        search.high,
        ev.solver,
        type(options).__name__,
        dataclasses.asdict(options),
    )


def _parts(level):
    """Return what a level is made of: its attributes, functions by their code."""
    return {key: value for key, value in vars(level).items() if not key.startswith("_cache")}


def _replayed(search, rows, steps, options):
    """Yield the rows of an earlier run, then those of the method; the end of the method ends it all."""
    for row in rows:
        search.rows.append(row)
        yield Step(row["theta"], row["criterion"], row["row"])
    try:
        return (yield from steps(search, options))
    except BudgetReached as end:
        return search.finish("budget", f"{end}: raise it, or loosen tol")
    except NotFinite as met:
        if not search.rows:
            raise InvalidInputError(
                str(met)
                or "theta0 must be a point where energy and loss are finite; got NaN or infinity there. Start "
                "elsewhere, or check the scale of the inputs."
            ) from None
        return search.finish("not_finite", "the energy or the loss became NaN or infinite near the last theta")


def _after(n_replayed, callback):
    if callback is None:
        return None
    return lambda n_iter, step: n_iter >= n_replayed and callback(n_iter, step)


# ---------------------------------------------------------------- what goes out


def _ending(search, loop):
    """Return the word and the sentence for how the search ended."""
    words = {
        Status.CONVERGED: "converged",
        Status.MAX_ITER: "max_iter",
        Status.STOPPED: "stopped",
        Status.NON_FINITE: "not_finite",
    }
    level = getattr(loop.value, "level", None)
    if loop.status is Status.CONVERGED and level is not None and bool(level.gg.any()) and not bool(level.z.any()):
        # Where the loss itself has no slope left, there is nothing to feel.
        return "flat", "the hypergradient is zero: the upper level does not feel theta here"
    if loop.status in words:
        return words[loop.status], loop.reason
    return search.status or "no_descent", search.reason or loop.reason


def _result(search, loop, status, reason, options, leave, verify, replayed):
    ev = search.evaluator
    snapshot = loop.value if status == "converged" and hasattr(loop.value, "level") else search.best
    level = snapshot.level
    value, value_bar, grad_bar, proven, certified = _final_bars(search, snapshot, status)
    report = {"estimated": sorted(level.estimated), "contradicted": dict(ev.contradicted)}
    if verify:
        report["verification"] = _verified(search)
    B = ev.B
    return BilevelResult(
        status=status,
        message=reason,
        n_iter=loop.n_iter,
        history=loop.history,
        settings=_settings(search, options),
        theta=leave(level.theta),
        grad=leave(level.z),
        thetas=leave(torch.stack([row["theta"] for row in search.rows])),
        x=leave(level.x),
        value=value,
        value_bar=value_bar,
        grad_bar=grad_bar,
        certified=certified,
        value_bar_proven=proven[0],
        grad_bar_proven=proven[1],
        n_units=ev.units,
        n_lower=ev.n_lower,
        n_cg=ev.n_cg,
        n_hvp=ev.count.hvp / B,
        n_power=ev.count.power / B,
        n_cross=ev.count.cross / B,
        n_third=ev.count.third / B,
        report=report,
    )


def _final_bars(search, snapshot, status):
    """Return value, its bar, the bar of the gradient, the proven bars, and whether the first two are proven."""
    ev, level = search.evaluator, snapshot.level
    unlimited, ev.max_units, ev.max_seconds = (ev.max_units, ev.max_seconds), None, None
    try:
        value, value_bar, rigorous = ev.value(level)
        _, proven_value, is_proven = ev.value(level, "rigorous")
        proven_value = proven_value if is_proven else float("nan")
        grad_bar, grad_rigorous = ev.gradient_bar(level)
        proven_grad = grad_bar if grad_rigorous else float("nan")
        if grad_rigorous and not rigorous:
            # Constants are known, but too large to decide by: the estimate is what the search worked with.
            grad_bar = ev.estimated_gradient_bar(level)
    finally:
        ev.max_units, ev.max_seconds = unlimited
    certified = bool(rigorous and grad_rigorous and search.all_rigorous and not ev.contradicted)
    return value, value_bar, grad_bar, (proven_value, proven_grad), certified


def _verified(search):
    """Return how many values of the trace lie outside their bars, by solving again nearly exactly."""
    ev = search.evaluator
    checker = Evaluator(ev.lower, ev.upper, search.x0, ev.n, solver=ev.solver, certificate="adjoint")
    x, worst, violations = search.x0, 0.0, 0
    for row in search.rows:
        level = checker.solve(row["theta"], x, 1e-10 * max(1.0, float(x.abs().max())))
        checker.adjoint(level, 1e-8 * level.gg_norm)
        truth, own, _ = checker.value(level)
        x = level.x
        miss = abs(row["row"]["value"] - truth) - own
        violations += int(miss > row["row"]["value_bar"])
        if row["row"]["value_bar"] > 0:
            worst = max(worst, miss / row["row"]["value_bar"])
    return {"points": len(search.rows), "violations": violations, "worst_ratio": worst}


def _settings(search, options):
    ev = search.evaluator
    return {
        "method": type(options).__name__,
        "options": dataclasses.asdict(options),
        "tol": search.tol,
        "lower_solver": ev.solver,
        "n_samples": ev.B,
        "n_parameters": ev.n,
        "shape": list(ev.shape),
        "chunks": len(ev.chunks),
        "dtype": str(ev.dtype).removeprefix("torch."),
        "device": str(ev.device),
        "versions": {"torch": torch.__version__},
    }


def _complain(result, reason, loop, tol, on_failure):
    if on_failure == "ignore":
        return
    texts, last = [], loop.history["criterion"][-1]
    # Where values cannot be told apart any more, a gradient near tol is as good as tol.
    at_floor = result.status == "accuracy_floor" and last <= 100 * tol
    if result.status not in ("converged", "stopped") and not at_floor:
        texts.append(
            f"learn_hyperparameters ended with status {result.status!r} after {loop.n_iter} steps with criterion "
            f"{last:.2e}, tol={tol:.0e}: {reason}."
        )
    if result.report["contradicted"]:
        found = ", ".join(f"{name} by a factor {factor:.2g}" for name, factor in result.report["contradicted"].items())
        texts.append(
            f"a constant of the lower level was contradicted by curvatures seen on the way ({found}): the bars are "
            "estimates. Give a smaller mu, or mu=None."
        )
    for text in texts:
        if on_failure == "raise":
            raise ConvergenceError(text)
        warnings.warn(text, ConvergenceWarning, stacklevel=caller_level())
