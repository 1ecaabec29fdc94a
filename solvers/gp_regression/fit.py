r"""The front door: `fit_gp` checks, chooses the method, learns, conditions and reports.

Notation  y (n, q) targets; m their prior mean; c a power of two near their size, by which everything is divided, so
          that units neither decide a start nor a bound; division by it rounds nothing.
"""

from __future__ import annotations

import math
import numbers
import time
import warnings
from collections.abc import Sequence
from typing import Literal

import torch

from sciml.exceptions import ConditioningWarning, InvalidInputError, InvalidTypeError
from sciml.iterate import Run, Status, caller_level, run
from sciml.kernels import Kernel
from sciml.linalg.arrays import enter
from sciml.linalg.memory import budget, require
from sciml.random import generator
from sciml.solvers.gp_regression import exact, iterative
from sciml.solvers.gp_regression.evidence import floor, variance_of
from sciml.solvers.gp_regression.learning import Objective, learn_steps, standard_errors
from sciml.solvers.gp_regression.parameters import Parameters, detached, has_free_size, multiplied, name_in
from sciml.solvers.gp_regression.result import GPRegression
from sciml.validation import check_number, check_option

__all__ = ["fit_gp"]

# Beyond this size a factorisation takes longer than the iterative method, and gigabytes.
_EXACT_SIZE = 8000


def fit_gp(
    X,
    y,
    kernel: Kernel,
    *,
    noise: float | Literal["evidence"] = "evidence",
    learn: Literal["all", "none"] | Sequence[str] = "all",
    prior_mean: float | Literal["sample"] = "sample",
    method: Literal["auto", "exact", "iterative"] = "auto",
    tol: float = 1e-4,
    max_iter: int = 100,
    n_starts: int = 4,
    iterative_options: iterative.Iterative | None = None,
    random_state=None,
    on_failure: str | None = None,
    memory: int | float | str | None = None,
) -> GPRegression:
    r"""Condition a Gaussian process on noisy data, and learn its kernel and noise from them.

    .. math:: y_i = m + f(x_i) + \varepsilon_i, \qquad f \sim N(0, k), \qquad \varepsilon_i \sim N(0, s^2).

    Parameters
    ----------
    X : array, shape (n, d)
        Points. NumPy, torch or xarray.
    y : array, shape (n,) or (n, q)
        Targets; `q` outputs are independent draws with one kernel and one noise, so bring them to one scale first.
    kernel : sciml.kernels.Kernel
        Covariance of f, in units of y squared. What is learned of it starts here, and at lengths taken from the data.
    noise : float or "evidence"
        Standard deviation `s` of the noise in units of y; 0 interpolates. "evidence" (the default) learns it. While
        a kernel is learned, none is taken below about 3e-6 standard deviations of f; ``noise_std`` has what was taken.
    learn : "all", "none" or sequence of str
        Names in ``kernel.parameters`` that are learned by maximising the evidence. With "all" (the default) a kernel
        without a variance of its own, such as ``Gaussian(1.0)``, gets one as a factor; "none" keeps the kernel.
    prior_mean : float or "sample"
        Mean `m` of the prior, units of y; "sample" (the default) takes the mean of each output.
    method : {"auto", "exact", "iterative"}
        Cholesky, or preconditioned conjugate gradients. "auto" (the default) factorises up to 8000 points if memory
        allows.
    tol : float
        Bound on the largest projected derivative of the mean log evidence of a number by the logarithms of what is
        learned; 1e-4 by default: the numbers are then exact to about 1e-3, a small part of their standard error for
        thousands of points.
    max_iter : int
        Steps of that maximisation; 100 by default.
    n_starts : int
        Starts that compete on a sample of 400 points; 4 by default: the kernel's own numbers and three lengths.
    iterative_options : Iterative or None
        Options of the iterative method; None (the default) for its defaults.
    random_state : None, int or numpy.random.Generator
        Source of samples of the data and of probes; the exact method below 400 points uses none.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when a tolerance was not met; None (the default) asks the configuration.
    memory : int, float, str or None
        What matrices may take; None (the default) asks the configuration.

    Returns
    -------
    GPRegression
        With ``mean(X)``, ``variance(X)``, ``predict(X)``, ``sample(X)``, ``kernel``, ``noise_std``, ``log_evidence``.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, an entry is not finite, a name of `learn` is unknown, or points coincide without noise.
    MemoryBudgetError
        If the method asked for does not fit into `memory`; before anything is allocated.
    ConvergenceError
        If a tolerance was not met and `on_failure` is "raise".

    Warns
    -----
    ConvergenceWarning
        If a tolerance was not met and `on_failure` is "warn".
    ConditioningWarning
        If ``noise=0`` and a kernel that is not learned needed a jitter, or if there is nothing to learn from.

    Notes
    -----
    The exact method takes n^3 flops a step and 3 n^2 numbers; the iterative one is described in
    :class:`Iterative`. Arithmetic is in float64 whatever the data are. No gradient flows through the fit; the mean is
    differentiable in new points.

    References
    ----------
    C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.kernels import Gaussian
    >>> X = np.linspace(0, 6, 30)[:, None]
    >>> y = np.sin(X[:, 0]) + 0.1 * np.random.default_rng(0).standard_normal(30)
    >>> gp = fit_gp(X, y, Gaussian())
    >>> bool(abs(gp.mean([[1.0]])[0] - np.sin(1.0)) < 0.1), bool(0.05 < gp.noise_std < 0.15)
    (True, True)
    """
    started = time.perf_counter()
    points, Y, leave, single = _entered(X, y)
    kernel = _checked_kernel(kernel, points)
    n, q = Y.shape
    noise_given = None if _is_word("noise", noise, "evidence") else check_number("noise", noise, low=0)
    tol, max_iter = check_number("tol", tol, low=0), check_number("max_iter", max_iter, low=0, integer=True)
    n_starts = check_number("n_starts", n_starts, low=1, integer=True)
    method, why = _method(check_option("method", method, ("auto", "exact", "iterative")), n, points, memory)
    rng = generator(random_state)
    options = iterative_options or iterative.Iterative()

    offset = _mean(Y) if _is_word("prior_mean", prior_mean, "sample") else Y.new_full(
        (q,), check_number("prior_mean", prior_mean)
    )  # fmt: skip
    centred = Y - offset
    size = float(centred.abs().amax())
    if size > 0 and not 1e-140 < size < 1e140:
        raise InvalidInputError(f"y must have squares in the range of float64; it has the size {size:.1e}. Rescale it.")
    scale = 2.0 ** round(math.log2(float((centred / size).square().mean().sqrt()) * size)) if size > 0 else 1.0
    names = _learned(learn, kernel)
    if learn == "all" and not has_free_size(kernel):
        kernel, names = scale**2 * kernel, ["variance", *(f"kernel.{name}" for name in names)]
    inside = multiplied(kernel, scale**-2)
    names = [name_in(inside, name) for name in names]
    settings = {
        "method": method,
        "why": why,
        "noise": noise,
        "learned": names + ["noise_std"] * (noise_given is None),
        "kernel_given": repr(kernel),
        "prior_mean": prior_mean,
        "tol": tol,
        "max_iter": max_iter,
        "n_starts": n_starts,
        "scale": scale,
        "device": str(points.device),
    }
    if noise_given == 0:
        exact.refuse_equal_points(points)
    parameters = Parameters(inside, None if noise_given is None else noise_given / scale, names, points)
    Yc = centred / scale
    blocks = iterative.blocks(points, Yc, options, rng) if method == "iterative" else [(points, Yc)]
    theta, learned = _learn(parameters, points, Yc, blocks, size, tol, max_iter, n_starts, rng, on_failure)
    if method == "iterative" and learned.n_iter:
        errors = standard_errors(Objective(parameters, blocks), theta)
        settings["learned_std"] = [[name, float(e)] for name, e in zip(parameters.names, errors, strict=True)]
    inside, noise_variance = parameters.model(torch.as_tensor(theta))
    inside = detached(inside)
    if len(theta):  # as the evidence took it
        noise_variance = parameters.raised(noise_variance, floor(variance_of(inside, points.cpu()), n))
    noise_variance = float(noise_variance)
    settings["at_bounds"] = [
        name
        for name, value, low, high in zip(parameters.names, theta, parameters.lower, parameters.upper, strict=True)
        if not low < value < high
    ]
    if noise_variance == 0:
        noise_variance = exact.jittered(points, inside) if method == "exact" else iterative.jittered(points, inside)
        settings["jitter"] = noise_variance * scale**2
    if method == "exact":
        posterior, found = _condition_exactly(points, inside, noise_variance, Yc)
    else:
        posterior, found = iterative.condition(
            points, inside, noise_variance, Yc, options, rng=rng, on_failure=on_failure, memory=memory
        )
    settings |= found.pop("settings", {})
    settings["seconds"] = time.perf_counter() - started
    A = found["weights"]
    status = learned.status if found["converged"] else Status.STALLED
    posterior.rescale(scale)
    return GPRegression(
        status=status,
        n_iter=learned.n_iter,
        history=learned.history,
        settings=settings,
        points=leave(points),
        targets=leave(Y),
        weights=leave(A / scale),
        fitted=leave(Y - noise_variance * scale * A),
        prior_mean=leave(offset),
        log_evidence=found["log_evidence"] - n * q * math.log(scale),
        log_evidence_error=found["log_evidence_error"],
        noise_std=math.sqrt(noise_variance) * scale,
        residual=found["residual"],
        single_output=single,
        kernel=posterior.kernel,
        posterior=posterior,
    )


def _entered(X, y):
    """Return points (n, d) and targets (n, q) in float64, the way back, and whether y was a vector."""
    (points, Y), _ = enter(X, y, names=("X", "y"))
    if points.is_complex():  # both have the dtype of the wider one
        raise InvalidInputError("X and y must be real; got complex numbers. Pass real and imaginary parts.")
    if points.ndim != 2 or 0 in points.shape:
        raise InvalidInputError(
            f"X must have shape (n, d) with at least one row and one column; got {tuple(points.shape)}. For points on "
            "a line pass X[:, None]."
        )
    if Y.ndim not in (1, 2) or Y.shape[0] != points.shape[0] or 0 in Y.shape:
        raise InvalidInputError(
            f"y must have shape ({len(points)},) or ({len(points)}, q), one row for each row of X; got "
            f"{tuple(Y.shape)}."
        )
    single = Y.ndim == 1
    points, Y = points.detach().double(), Y.detach().double()
    torch_came = any(isinstance(array, torch.Tensor) for array in (X, y))

    def leave(tensor):
        # The answer keeps float64: weights in float32 would lose the digits that a bad condition needs.
        return tensor if torch_came else tensor.cpu().numpy()

    return points, (Y[:, None] if single else Y), leave, single


def _mean(Y):
    """Return the means of the columns, without rounding where a column is constant: that must not look like data."""
    return torch.where(Y.amax(0) == Y.amin(0), Y[0], Y.mean(0))


def _checked_kernel(kernel, points):
    if not isinstance(kernel, Kernel):
        raise InvalidTypeError(
            f"kernel must be a kernel of sciml.kernels; got {type(kernel).__name__}. Pass sciml.kernels.Matern52(1.0)."
        )
    kernel._check_width(points.shape[1])
    return detached(kernel)


def _is_word(name, value, word):
    if isinstance(value, str):
        check_option(name, value, (word,))
        return True
    if not isinstance(value, numbers.Real):
        raise InvalidInputError(f"{name} must be a number or {word!r}; got {value!r} of type {type(value).__name__}.")
    return False


def _learned(learn, kernel):
    if isinstance(learn, str):
        return list(kernel.parameters) if check_option("learn", learn, ("all", "none")) == "all" else []
    if not isinstance(learn, Sequence) or not all(isinstance(name, str) for name in learn):
        raise InvalidInputError(f"learn must be 'all', 'none' or a list of names of parameters; got {learn!r}.")
    return list(dict.fromkeys(check_option("learn", name, list(kernel.parameters)) for name in learn))


def _method(method, n, points, memory):
    """Return the method and the reason."""
    needed = 3 * 8 * n * n + 2**28
    what, remedy = f"the exact method for {n} points", "pass method='iterative'"
    if method == "exact":
        require(needed, what=what, remedy=remedy, memory=memory, device=points.device)
        return method, "asked for"
    if method == "iterative":
        return method, "asked for"
    if n > _EXACT_SIZE:
        return "iterative", f"{n} points are more than {_EXACT_SIZE}"
    if n > 500 and needed > budget(memory, points.device):
        return "iterative", f"factors of {n} points exceed the memory"
    return "exact", f"{n} points are at most {_EXACT_SIZE}"


def _learn(parameters, points, Yc, blocks, size, tol, max_iter, n_starts, rng, on_failure):
    """Return theta and the run that found it."""
    start = parameters.given
    if len(start) and size == 0:
        warnings.warn(
            f"y must vary for something to be learned from it; all {len(Yc)} targets equal the prior mean. The kernel "
            "stays as given: pass learn='none' and noise=.",
            ConditioningWarning,
            stacklevel=caller_level(),
        )
    if len(start) == 0 or size == 0:
        return start, Run(start, Status.CONVERGED, 0, {}, "nothing was learned")
    steps = learn_steps(parameters, points, Yc, blocks, n_starts=n_starts, max_iter=max_iter, tol=tol, rng=rng)
    learned = run(steps, name="fit_gp", tol=tol, max_iter=max_iter, on_failure=on_failure, dtype="float64")
    return learned.value, learned


def _condition_exactly(points, kernel, noise_variance, Yc):
    posterior = exact.ExactPosterior(points, kernel, noise_variance)
    A, log_evidence = posterior.solve(Yc)
    return posterior, {
        "weights": A,
        "log_evidence": log_evidence,
        "log_evidence_error": 0.0,
        "residual": posterior.residual(Yc, A),
        "converged": True,
    }
