r"""One hypergradient to a stated accuracy, and a check of it that shares nothing with it but the problem.

.. math:: z = \partial_\theta g - J^T q + \nabla r, \qquad H q = \nabla_x g, \qquad \|z - \nabla f\| \le \mathrm{bar}

Notation  as in `certificates`: G, H, J derivatives of h at x; eps distance to the minimiser; delta residual of q.
Cost      each tenth of the tolerance costs a few iterations of the lower-level and the linear solver.
Pitfalls  proven bars are 1e2 to 1e5 times the true error, so that rounding may end the refinement before they are as
          short as asked for; then the estimate 1.25 |Delta| decides, and says that it is one.
References  Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv 2308.10098, Theorem 2.1; Ehrhardt, Roberts, Analyzing
          inexact hypergradients for bilevel learning, 2024, arXiv 2301.04764.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciml.exceptions import ConvergenceWarning, InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.evaluate import Evaluator
from sciml.inverse.bilevel.lower import Lower
from sciml.inverse.bilevel.upper import UpperLoss
from sciml.iterate import caller_level
from sciml.linalg.arrays import enter
from sciml.random import generator
from sciml.validation import check_number, check_option

__all__ = ["GradientReport", "HypergradientInfo", "check_hypergradient", "hypergradient"]

# Above this many numbers the dense Hessians of the check are left out.
_DENSE = 50_000_000
# More components than this are checked along random directions.
_COMPONENTS = 50


@dataclass(frozen=True)
class HypergradientInfo:
    """What is known beside a hypergradient.

    Parameters
    ----------
    bar : float
        2-norm of what z may be off by.
    certified : bool
        Whether `bar` is a theorem: all constants were given, and nothing seen contradicts them.
    converged : bool
        Whether `bar` is within the tolerance.
    value, value_bar : float
        Of the upper level, and its own bar.
    x : array, shape (B, *shape)
        Solutions of the lower level.
    q : array, shape (B, *shape)
        Adjoints.
    eps, delta : array, shape (B,)
        Bounds of the distances to the minimisers, and of the residuals of the adjoints.
    n_units : float
        Gradients and Hessian products of the whole batch.

    Examples
    --------
    >>> HypergradientInfo(1e-9, True, True, 1.0, 1e-12, None, None, None, None, 20.0).certified
    True
    """

    bar: float
    certified: bool
    converged: bool
    value: float
    value_bar: float
    x: Any
    q: Any
    eps: Any
    delta: Any
    n_units: float


def hypergradient(lower, upper, theta, x=None, *, tol=1e-6, bound="auto", lower_solver="auto", on_failure="warn"):
    r"""Return the gradient of the upper level in theta, as exactly as asked for.

    Lower level and adjoint are solved on until ``bar <= tol * |z|``, where bar bounds the error of z [1]_.

    Parameters
    ----------
    lower : Lower
        The lower level.
    upper : UpperLoss
        The upper level.
    theta : array, shape (n,)
        Where; NumPy or torch, which decides the kind of the answer.
    x : array, shape (B, *shape), or None
        Start of the lower level; None (the default) starts at zero, in the shape that either level knows.
    tol : float
        Relative tolerance, dimensionless; 1e-6 by default.
    bound : {"auto", "rigorous", "estimate"}
        "rigorous" takes the proven bar and needs all constants of both levels; "estimate" forms the first-order error,
        adds it to z, and takes 1.25 times its norm, never more than 1e-2 of z; "auto" (the default) takes the proven
        bar where the constants are known and reach `tol` before rounding does, else the estimate.
    lower_solver : {"auto", "nag", "newton_cg", "lbfgs"}
        As in `learn_hyperparameters`.
    on_failure : {"warn", "ignore"}
        What to do when the tolerance was not met; "warn" by default.

    Returns
    -------
    z : array, shape (n,)
        The hypergradient, float64.
    info : HypergradientInfo
        Its bar, whether that is proven, and the rest.

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule, or `bound` is "rigorous" and a constant is not known.

    Warns
    -----
    ConvergenceWarning
        If rounding or the solvers ended above the tolerance.

    References
    ----------
    .. [1] M. S. Salehi, S. Mukherjee, L. Roberts, M. J. Ehrhardt, An adaptively inexact first-order method for bilevel
       optimization with application to hyperparameter learning, 2025, arXiv 2308.10098.

    Examples
    --------
    x = y / (1 + exp(theta)) is compared with 1 at y = 3, theta = 0: df/dtheta = (1.5 - 1) (-3 / 4).

    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import LowerProblem, SquaredError
    >>> def h(x, theta, idx):
    ...     return 0.5 * ((x - 3.0) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)
    >>> lower = LowerProblem(h, mu=2.0, LH=0.0, LJ=1.0)
    >>> z, info = hypergradient(lower, SquaredError(np.ones((1, 1))), np.zeros(1))
    >>> z.round(6), info.certified, bool(info.bar <= 1e-6 * abs(z[0]))
    (array([-0.375]), True, True)
    """
    tol = check_number("tol", tol, low=0, inclusive="neither")
    check_option("bound", bound, ("auto", "rigorous", "estimate"))
    check_option("lower_solver", lower_solver, ("auto", "nag", "newton_cg", "lbfgs"))
    check_option("on_failure", on_failure, ("warn", "ignore"))
    lower, upper, theta, x, leave = _problem(lower, upper, theta, x)
    ev = Evaluator(lower, upper, x, len(theta), solver=lower_solver, certificate="adjoint")
    level = ev.solve(theta, x, None)
    ev.adjoint(level, 0.1 * level.gg_norm)
    ev.gradient(level)
    if bound == "rigorous":
        _need_constants(ev, level)
    z, bar, certified, met, level = _refined(ev, level, tol, bound != "estimate")
    if not met and certified and bound == "auto":
        # The bar is a theorem, and too long by its nature: rounding keeps it above what was asked for.
        z, bar, certified, met, level = _refined(ev, level, tol, False)
    value, value_bar, _ = ev.value(level)
    if not met and on_failure == "warn":
        warnings.warn(
            f"hypergradient ended with a bar of {bar:.2e} for a norm of {float(z.norm()):.2e}, tol={tol:.0e}: "
            "rounding or the iterations of the solvers are spent. Loosen tol, compute in float64, or pass "
            "bound='estimate'.",
            ConvergenceWarning,
            stacklevel=caller_level(),
        )
    parts = [leave(level.parts[key]) for key in ("x", "q", "eps", "delta")]
    return leave(z), HypergradientInfo(bar, certified, met, value, value_bar, *parts, ev.units)


def _refined(ev, level, tol, proven):
    """Return z, its bar, whether that is proven and within tol, and the level that was solved on for it."""
    stuck = False
    while True:
        z, bar, certified = _barred(ev, level, proven)
        # Further out than a hundredth an error of first order need not resemble the error.
        wanted = (tol if certified else min(tol, 1e-2)) * float(z.norm())
        floor = ev.eps_floor(level)
        if bar <= wanted or stuck or bool((level.eps <= 2 * floor).all()):
            return z, bar, certified, bar <= wanted, level
        # The bar is linear in eps and delta; the half is in reserve for its curvature.
        factor = min(0.5, max(1e-3, 0.5 * wanted / bar))
        new = ev.refine(level, torch.maximum(factor * level.eps, floor))
        delta = factor * torch.minimum(level.delta, level.gg_norm)
        ev.adjoint(new, torch.maximum(delta, _adjoint_floor(ev, new)))
        ev.gradient(new)
        stuck = not bool((new.eps < 0.9 * level.eps).any()) and not bool((new.delta < 0.9 * level.delta).any())
        level = new


def _barred(ev, level, proven):
    """Return z, its bar, and whether that is a theorem; an estimated error is also a correction."""
    if proven:
        bar, certified = ev.gradient_bar(level)
        if certified:
            return level.z, bar, True
    error = ev.gradient_error(level)
    return level.z + error, 1.25 * float(error.norm()), False


def _adjoint_floor(ev, level):
    """Return residuals that rounding does not let one fall below."""
    return 4 * torch.finfo(ev.dtype).eps * level.gg_norm


def _need_constants(ev, level):
    missing = sorted(level.estimated)
    missing += [key for key in ("LH", "LJ", "Lt") if not bool(torch.isfinite(level.parts[key]).all())]
    if missing:
        raise InvalidInputError(
            f"bound='rigorous' needs all constants; got None for {', '.join(missing)}. Give them to the levels, or "
            "pass bound='auto'."
        )


def _problem(lower, upper, theta, x):
    """Return the checked problem on one device in one dtype, theta (n,) in float64, x (B, ...), and the way back."""
    if not isinstance(lower, Lower):
        raise InvalidTypeError(
            f"lower must be a lower level; got {type(lower).__name__}. Write LowerProblem(h, mu) around an energy."
        )
    if not isinstance(upper, UpperLoss):
        raise InvalidTypeError(
            f"upper must be an upper level; got {type(upper).__name__}. Write UpperLoss(g) around a loss, or "
            "SquaredError(x_true)."
        )
    (theta,), leave = enter(theta, names=("theta",), dtype="float64")
    if theta.ndim != 1 or not len(theta):
        raise InvalidInputError(f"theta must be of shape (n,); got {tuple(theta.shape)}. Write theta.ravel().")
    shape = lower.shape if lower.shape is not None else upper.shape
    B = lower.n_samples if lower.n_samples is not None else upper.n_samples
    if x is not None:
        (x,), _ = enter(x, names=("x",))
    elif shape is None or B is None:
        raise InvalidInputError(
            "x must be given, of shape (B, ...), since neither level knows it; got None. Pass a starting point."
        )
    else:
        x = torch.zeros((B, *shape), dtype=torch.float64, device=theta.device)
    for name, level in (("lower", lower), ("upper", upper)):
        shape = tuple(x.shape[1:]) if level.shape is None else tuple(level.shape)
        B = len(x) if level.n_samples is None else level.n_samples
        if x.ndim < 2 or (B, *shape) != tuple(x.shape):
            raise InvalidInputError(
                f"x must be of shape (B, ...), that of the {name} level; got {tuple(x.shape)}, wanted {(B, *shape)}."
            )
    x, home = x.detach(), theta.device
    # theta and z are kept on the CPU, all that has an axis of samples where x is.
    theta, there = theta.detach().cpu(), (lower.to(x.device, x.dtype), upper.to(x.device, x.dtype))
    return *there, theta, x, lambda t: leave(t.to(home))


# ---------------------------------------------------------------- a check that shares nothing with it


@dataclass(frozen=True)
class GradientReport:
    """A hypergradient beside what finite differences and dense linear algebra say.

    Parameters
    ----------
    z : ndarray, shape (n,)
        The hypergradient.
    bar : float
        Its bar.
    certified : bool
        Whether that is proven.
    directions : ndarray, shape (k, n)
        What the finite differences were taken along: unit vectors, or random ones for large n.
    along : ndarray, shape (k,)
        z along the directions.
    finite_difference, finite_difference_error : ndarray, shape (k,)
        Central differences of the upper level, and an estimate of their error.
    dense : ndarray, shape (n,), or None
        The hypergradient by dense Hessians at the tight solution; None where they would be too large.
    rtol : float
        What `passed` allows.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> GradientReport(one, 1e-9, True, np.eye(1), one, one + 1e-8, 1e-9 * one, one, 1e-6).passed
    True
    """

    z: np.ndarray
    bar: float
    certified: bool
    directions: np.ndarray
    along: np.ndarray
    finite_difference: np.ndarray
    finite_difference_error: np.ndarray
    dense: np.ndarray | None
    rtol: float

    @property
    def relative_error(self):
        """The largest difference to finite differences, over the norm of z (times that of the direction)."""
        scale = np.linalg.norm(self.z) * np.linalg.norm(self.directions, axis=1)
        return float(np.max(np.abs(self.along - self.finite_difference) / np.where(scale > 0, scale, 1.0)))

    @property
    def dense_error(self):
        """The norm of the difference to dense linear algebra over that of z; NaN where there is none."""
        if self.dense is None:
            return float("nan")
        return float(np.linalg.norm(self.z - self.dense) / (np.linalg.norm(self.z) or 1.0))

    @property
    def passed(self):
        """Whether all agree within `rtol`, the bar, and the error of the differences."""
        lengths = np.linalg.norm(self.directions, axis=1)
        slack = (self.rtol * np.linalg.norm(self.z) + self.bar) * lengths + self.finite_difference_error
        agree = bool(np.all(np.abs(self.along - self.finite_difference) <= slack))
        if self.dense is None:
            return agree
        return agree and bool(np.linalg.norm(self.z - self.dense) <= self.rtol * np.linalg.norm(self.z) + self.bar)


def check_hypergradient(
    lower, upper, theta, x=None, *, tol=1e-8, rtol=1e-6, step=1e-3, n_directions=None, bound="auto", random_state=0
):
    r"""Compare a hypergradient with finite differences of the upper level and with dense linear algebra.

    The differences are of fourth order, :math:`[8 (f_1 - f_{-1}) - (f_2 - f_{-2})] / 12 s`, from lower levels solved as
    exactly as the dtype allows.

    Parameters
    ----------
    lower : Lower
        The lower level.
    upper : UpperLoss
        The upper level.
    theta : array, shape (n,)
        Where.
    x : array, shape (B, *shape), or None
        Start of the lower level, as for `hypergradient`.
    tol : float
        Tolerance of the hypergradient itself; 1e-8 by default.
    rtol : float
        Relative disagreement that the report passes; 1e-6 by default.
    step : float
        Step s of the differences in units of theta; 1e-3 by default, which suits logarithms: the error of fourth order
        and that of rounding are about 1e-12 then.
    n_directions : int or None
        Random directions instead of the components of theta; None (the default) takes all components up to n = 50, else
        10 directions.
    bound : {"auto", "rigorous", "estimate"}
        As for `hypergradient`.
    random_state : None, int or numpy.random.Generator
        For the directions; 0 by default.

    Returns
    -------
    GradientReport
        With `passed`, `relative_error` and `dense_error`; the dense reference is left out for more than 500 unknowns a
        sample.

    Raises
    ------
    InvalidInputError
        If an argument breaks its rule.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import LowerProblem, SquaredError
    >>> def h(x, theta, idx):
    ...     return torch.cosh(x - 1).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)
    >>> lower = LowerProblem(h, mu=1.0)
    >>> report = check_hypergradient(lower, SquaredError(np.ones((2, 3))), np.zeros(1))
    >>> report.passed, report.relative_error < 1e-8, report.dense_error < 1e-8
    (True, True, True)
    """
    step = check_number("step", step, low=0, inclusive="neither")
    rtol = check_number("rtol", rtol, low=0)
    if n_directions is not None:
        n_directions = check_number("n_directions", n_directions, low=1, integer=True)
    z, info = hypergradient(lower, upper, theta, x, tol=tol, bound=bound, on_failure="ignore")
    lower, upper, theta, x, _ = _problem(lower, upper, theta, x)
    ev = Evaluator(lower, upper, x, len(theta), certificate="adjoint")
    z, start = torch.as_tensor(z).cpu(), torch.as_tensor(info.x).to(x)
    n = len(theta)
    if n_directions is None and n <= _COMPONENTS:
        directions = torch.eye(n, dtype=torch.float64)
    else:
        rows = generator(random_state).standard_normal((n_directions or 10, n)) / n**0.5
        directions = torch.from_numpy(rows)
    differences, errors = [], []
    for d in directions:
        f = {k: _tight(ev, theta + k * step * d, start) for k in (-2, -1, 1, 2)}
        near, far = (f[1] - f[-1]) / (2 * step), (f[2] - f[-2]) / (4 * step)
        differences.append((4 * near - far) / 3)
        # A hundredth of what the last extrapolation changed, and rounding.
        size = max(abs(value) for value in f.values())
        errors.append(1e-2 * abs(near - far) + 16 * torch.finfo(x.dtype).eps * size / step)
    dense = _dense(ev, theta, start)
    z, directions, along = (part.numpy() for part in (z, directions, directions @ z))
    fd, fd_error = np.array(differences), np.array(errors)
    return GradientReport(z, info.bar, info.certified, directions, along, fd, fd_error, dense, rtol)


def _tight(ev, theta, x):
    """Return the value of the upper level with everything solved to rounding."""
    return ev.value(_tight_level(ev, theta, x))[0]


def _tight_level(ev, theta, x):
    level = ev.solve(theta, x, None)
    for _ in range(4):
        level = ev.refine(level, ev.eps_floor(level))
        if bool((level.eps <= 4 * ev.eps_floor(level)).all()):
            break
    return ev.adjoint(level, torch.maximum(1e-10 * level.gg_norm, _adjoint_floor(ev, level)))


def _dense(ev, theta, x):
    """Return the hypergradient from dense Hessians, or None where they are too large."""
    d = x[0].numel()
    if d > 500 or len(x) * d * d > _DENSE:
        return None
    lower, upper, B = ev.lower, ev.upper, len(x)
    idx = torch.arange(B, device=x.device)
    x = _tight_level(ev, theta, x).x
    theta = theta.to(x.device)
    point = lower.at(x, theta, idx, Counter())
    units = torch.eye(d, dtype=x.dtype, device=x.device)
    columns = [point.hvp(e.reshape(1, *x.shape[1:]).expand(x.shape).contiguous()) for e in units]
    H = torch.stack([column.reshape(B, d) for column in columns], -1).to(torch.float64)  # (B, d, d)
    _, grad = upper.gradient(x, theta, idx)
    if point.mask is not None:
        grad = torch.where(point.mask, grad, torch.zeros_like(grad))
    q = torch.linalg.solve(0.5 * (H + H.mT), grad.reshape(B, d).to(torch.float64))
    every = [slice(0, B)]
    z = -point.cross_adjoint(q.reshape(x.shape).to(x.dtype), every)[0]
    direct = upper.gradient_theta(x, theta, idx, every)
    z = (z if direct is None else z + direct[0]) / B
    _, dr, _ = upper.r(theta)
    return (z if dr is None else z + dr).cpu().numpy()
