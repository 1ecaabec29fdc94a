r"""LSMR: least squares :math:`\min \|b - A x\|^2 + d^2 \|x\|^2` with any rectangular `A`, many b at once.

Notation  A (n, m), with damping the stacked matrix [A; d I] and b extended by zeros; u, v Golub-Kahan vectors, beta and
          alpha the bidiagonal matrix; (c, s), (cbar, sbar), (ctilde, stilde) the rotations of the paper; zetabar the
          norm of A^H r; h, hbar directions.
Cost      one product with A and one with A^H a step; 5 blocks of memory.
Pitfalls  a least-squares residual does not fall to zero, so what is judged is either r itself or its gradient A^H r,
          relative to norm(A) norm(r), and both are formed anew before a claim. The latter is a backward error: that of
          x is up to the square of the condition number of A times it, so the default asks for more digits than other
          methods do. Where r is small, rounding of b - A x allows less, and what float64 can reach counts as reached.
"""

import warnings

import numpy as np
import torch

from sciml.exceptions import ConditioningWarning
from sciml.iterate import End, Status, Step, caller_level, run
from sciml.linalg.krylov.system import System, norm, power_of_two
from sciml.validation import check_number

_RESTARTS = 3  # after a criterion that could not be confirmed
_ROUNDING = 10 * torch.finfo(torch.float64).eps  # relative rounding of b - A x
_FAR = 2.0**200  # powers of two up to which squares are safe
_DIGITS = 1e-3  # an estimated relative error of the answer beyond this is worth a warning


def lsmr(A, b, *, damp=0.0, x0=None, tol=1e-12, max_iter=None, callback=None, on_failure=None, progress=None):
    r"""Solve :math:`\min \|b - A x\|^2 + d^2 \|x\|^2` by LSMR [1]_.

    Parameters
    ----------
    A : LinearOperator, array or sparse matrix
        Shape (n, m), or a batch of such; an operator needs an adjoint product.
    b : array, shape (n,), (n, R) or (..., n, R)
        Right sides, a column each, with the batch dimensions of `A` in front.
    damp : float
        d, in the units of `A`, at least 0, which is the default.
    x0 : array, shape of the answer, or None
        Starting point; zero by default, from which a singular problem gives the shortest solution.
    tol : float
        Every column satisfies ``norm(r) <= tol * norm(b)`` (a consistent system) or
        ``norm(A.H @ r) <= tol * norm(A) * norm(r)`` (least squares), r and A with the rows of the damping, recomputed
        in float64; norm(A) is an estimate from below. 1e-12 by default, since the relative error of the answer of least
        squares may be the square of the condition number times this: unscaled data often have conditions of 1e6.
        Where r is so small that rounding of ``b - A @ x`` rules this out,
        ``norm(A.H @ r) <= 10 * eps * norm(A) * (norm(b) + norm(A) * norm(x))`` is enough.
    max_iter : int or None
        Iterations at most; None (the default) takes ``min(max(10 min(n, m), 1000), 5000)``.
    callback : callable or None
        ``callback(n_iter, step)``, once an iteration; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the tolerance was not met; None (the default) asks the configuration.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Returns
    -------
    SolveRun
        The answer as ``value``, without derivatives; ``residual`` is the smaller of the two criteria, recomputed, and
        ``choices["criterion"]`` says which it was; ``error_estimate`` is what the condition number makes of it. float32
        data are iterated in float64.

    Raises
    ------
    InvalidInputError
        A shape does not fit, an entry is not finite, or an option is out of range.
    ConvergenceError
        If `tol` was not met and `on_failure` is "raise".

    Warns
    -----
    ConvergenceWarning
        If `tol` was not met and `on_failure` is "warn".
    ConditioningWarning
        If `tol` was met, but the condition number lets the answer be off by more than a thousandth.

    References
    ----------
    .. [1] D. C.-L. Fong, M. A. Saunders, LSMR: an iterative algorithm for sparse least-squares problems, 2011,
       arXiv 1006.0758.

    Examples
    --------
    A line through (0, 1), (1, 3), (2, 5.5): least squares.

    >>> A = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> lsmr(A, np.array([1.0, 3.0, 5.5])).value.round(6)
    array([0.916667, 2.25    ])
    """
    system = System(A, b, None, x0, square=False)
    tol, damp = check_number("tol", tol, low=0), check_number("damp", damp, low=0)
    problem = _Stacked(system, damp, tol)
    if system.has_long:
        system.choices["iteration"] = "float64: least squares of float32 data"
    if max_iter is None:
        max_iter = min(max(10 * min(system.A.operator.shape), 1000), 5000)
    loop = {"callback": callback, "on_failure": on_failure, "progress": progress}
    done = run(_steps(problem, tol), name="lsmr", tol=tol, max_iter=max_iter, dtype="float64", **loop)
    with torch.no_grad():
        X = system.back(done.value).to(system.long)
        judge, error = problem.criteria(X), problem.error(X)
    which = "residual" if bool((judge[0] <= judge[1]).all()) else "gradient of the squares"
    system.choices["criterion"] = f"{which}; the relative residual is {_top(judge[0]):.1e}"
    if done.converged and error > _DIGITS:
        _warn_of_condition(problem.condition, error)
    end = {"condition": problem.condition, "error_estimate": error}
    return system.report(done, tol=tol, name="lsmr", judge=lambda X: torch.minimum(*problem.criteria(X)), **end)


def lsmr_steps(A, b, x0=None, *, damp=0.0, tol=1e-12):
    """Yield the iterates of `lsmr`, the starting point first, to be stepped by hand."""
    return _steps(_Stacked(System(A, b, None, x0, square=False), damp, tol), tol)


def _warn_of_condition(condition, error):
    text = (
        f"lsmr met tol, but at a condition number of about {condition:.1e} the answer may be off by {error:.0e} of its "
        "size. Rescale the columns of A, or lower tol, or add damping."
    )
    warnings.warn(text, ConditioningWarning, stacklevel=caller_level())


class _Stacked:
    """[A; damp I] and [b; 0], with what is known of the norm and condition of the former."""

    def __init__(self, system, damp, tol):
        self.system, self.damp, self.tol = system, damp, tol
        self.norm_A = torch.zeros_like(system.norm_B)
        self.condition = float("nan")  # the largest of all columns and restarts
        # A and damp far from the size of one are taken in this unit, since squares of 1e-200 or 1e200 are lost.
        self.unit = self._unit()
        self.damp_in_units = damp / self.unit

    def _unit(self):
        system = self.system
        size = norm(system.A_long.adjoint(system.B / power_of_two(system.norm_B)[..., None, :]))
        unit = float(power_of_two(torch.tensor(max(_top(size), self.damp), dtype=torch.float64)))
        return 1.0 if 1 / _FAR <= unit <= _FAR else unit

    def product(self, X):
        Y = self._in_units(self.system.A_long(X))
        return torch.cat([Y, self.damp_in_units * X], -2) if self.damp else Y

    def adjoint(self, U):
        n = self.system.B.shape[-2]
        Y = self._in_units(self.system.A_long.adjoint(U[..., :n, :]))
        return Y + self.damp_in_units * U[..., n:, :] if self.damp else Y

    def _in_units(self, Y):
        return Y if self.unit == 1 else Y / self.unit

    def residual(self, X):
        R = self.system.residual(X)[0]
        return torch.cat([R, -self.damp * X], -2) if self.damp else R

    def gradient(self, R):
        """Return the norms of the columns of A^H R."""
        unit = power_of_two(norm(R))
        return unit * norm(self.adjoint(R / unit[..., None, :]))

    def criteria(self, X):
        """Return the relative residual and the relative gradient of the columns, both formed anew: (..., R) each."""
        R = self.residual(X)
        size = norm(R)
        scale = torch.where(self.system.norm_B > 0, self.system.norm_B, 1.0)
        rounding = _ROUNDING * (self.system.norm_B + self.norm_A * self.unit * norm(X))
        product = self.norm_A * torch.maximum(size, rounding / self.tol)
        gradient = self.gradient(R)
        # Without any norm of A yet there is only the exact zero.
        relative = torch.where(product > 0, gradient / torch.where(product > 0, product, 1.0), (gradient > 0).double())
        return size / scale, relative

    def error(self, X):
        """Return an estimate of the largest relative error of a column: x - x* = (A^H A)^-1 A^H r = A^+ r."""
        R, size_X = self.residual(X), norm(X) * self.unit * self.norm_A
        amplified = torch.minimum(self.condition * self.gradient(R) / _safe(self.norm_A), norm(R))
        return _top(torch.where(size_X > 0, self.condition * amplified / _safe(size_X), 0.0))


def _top(t):
    return float(t.max()) if t.numel() else 0.0


@torch.no_grad()
def _steps(problem, tol):
    """Yield the iterates; each turn of the outer loop solves for a correction of x."""
    system = problem.system
    X = torch.where((system.norm_B == 0)[..., None, :], 0, system.X0)
    criterion = torch.minimum(*problem.criteria(X))
    active = ~(criterion <= tol)
    yield Step(system.shaped(X), _top(criterion), {"active": int(active.sum())})
    for _ in range(1 + _RESTARTS):
        process = _GolubKahan(problem, problem.residual(X), active)
        while bool(process.active.any()):
            process.step()
            estimate = torch.where(process.active, process.criterion(system.norm_B), criterion)
            process.active = process.active & ~(estimate <= tol)
            if bool(process.active.any()):
                yield Step(system.shaped(X + process.correction), _top(estimate), {"active": int(active.sum())})
        X = X + process.correction
        criterion = torch.minimum(*problem.criteria(X))
        active = active & ~(criterion <= tol)
        yield Step(system.shaped(X), _top(criterion), {"active": int(active.sum())})
        if not bool(active.any()):
            return None
        if process.reason:
            return process.reason
    text = (
        f"the criterion formed anew stays at {_top(criterion):.1e} although the recurrence fell below tol: loosen tol"
    )
    return End(Status.STALLED, text)


class _GolubKahan:
    """LSMR for a block of columns, from x = 0; columns that are done are frozen."""

    def __init__(self, problem, R, active):
        self.problem, self.active, self.reason = problem, active, None
        self.unit = power_of_two(norm(R))
        self.u, self.beta = _normalised(R / self.unit[..., None, :])
        self.v, self.alpha = _normalised(problem.adjoint(self.u))
        one, zero = torch.ones_like(self.beta), torch.zeros_like(self.beta)
        self.d, self.h, self.hbar = torch.zeros_like(self.v), self.v, torch.zeros_like(self.v)
        self.zetabar, self.alphabar = self.alpha * self.beta, self.alpha
        self.rho, self.rhobar, self.cbar, self.sbar, self.zeta = one, one, one, zero, zero
        self.betadd, self.betad, self.rhod, self.tautilde, self.thetatilde = self.beta, zero, one, zero, zero
        self.low, self.high, self.is_first = torch.full_like(one, np.inf), zero, True

    def step(self):
        problem = self.problem
        self.u, beta = _normalised(problem.product(self.v) - self.alpha[..., None, :] * self.u)
        self.v, alpha = _normalised(problem.adjoint(self.u) - beta[..., None, :] * self.v)
        if not bool(torch.isfinite(beta + alpha)[self.active].all()):
            self.reason = End(Status.NON_FINITE, "A @ v or A.H @ u holds a NaN or inf: check A and its range")
            self.active = torch.zeros_like(self.active)
            return
        rho_old, rhobar_old, zeta_old = self.rho, self.rhobar, self.zeta
        c, s, self.rho = _rotation(self.alphabar, beta)
        theta, self.alphabar = s * alpha, c * alpha
        thetabar, rhotemp = self.sbar * self.rho, self.cbar * self.rho
        self.cbar, self.sbar, self.rhobar = _rotation(rhotemp, theta)
        self.zeta, self.zetabar = self.cbar * self.zetabar, -self.sbar * self.zetabar

        row = lambda t: torch.where(self.active, t, 0.0)[..., None, :]  # noqa: E731
        self.hbar = self.h - row(thetabar * self.rho / _safe(rho_old * rhobar_old)) * self.hbar
        self.d = self.d + row(self.zeta / _safe(self.rho * self.rhobar)) * self.hbar
        self.h = self.v - row(theta / _safe(self.rho)) * self.h
        self._norm_of_residual(c, s, thetabar, zeta_old)
        # The norm of a column of the bidiagonal matrix is at most that of A; the sum of squares over all columns, which
        # the paper takes, counts directions twice once orthogonality is lost.
        column = torch.where(self.active, torch.hypot(self.alpha, beta), 0.0)
        self.problem.norm_A = torch.maximum(self.problem.norm_A, column)
        self.alpha = alpha
        self._note_condition(rhobar_old, rhotemp)

    def _norm_of_residual(self, c, s, thetabar, zeta_old):
        """Section 5 of the paper: norm(r) without forming r."""
        betahat, self.betadd = c * self.betadd, -s * self.betadd
        thetatilde_old = self.thetatilde
        ctilde, stilde, rhotilde = _rotation(self.rhod, thetabar)
        self.thetatilde, self.rhod = stilde * self.rhobar, ctilde * self.rhobar
        self.betad = -stilde * self.betad + ctilde * betahat
        self.tautilde = (zeta_old - thetatilde_old * self.tautilde) / _safe(rhotilde)
        taud = (self.zeta - self.thetatilde * self.tautilde) / torch.where(self.rhod == 0, 1.0, self.rhod)
        self.size = torch.hypot(self.betad - taud, self.betadd)

    def _note_condition(self, rhobar_old, rhotemp):
        """Keep the extreme pivots; that before the first step is a mere one."""
        if not self.is_first:
            self.high, self.low = torch.maximum(self.high, rhobar_old), torch.minimum(self.low, rhobar_old)
        self.is_first = False
        top, bottom = torch.maximum(self.high, rhotemp), torch.minimum(self.low, rhotemp)
        known = self.active & (bottom > 0)
        if bool(known.any()):
            estimate = float((top / bottom)[known].max())
            self.problem.condition = max(1.0, estimate, self.problem.condition)  # a NaN in front would stay

    def criterion(self, norm_B):
        """Return the estimate of the smaller of the two criteria."""
        scale = torch.where(norm_B > 0, norm_B, 1.0) / self.unit
        product = self.problem.norm_A * self.size
        gradient = self.zetabar.abs() / torch.where(product > 0, product, 1.0)
        return torch.minimum(self.size / scale, gradient)

    @property
    def correction(self):
        return (self.unit / self.problem.unit)[..., None, :] * self.d


def _normalised(X):
    size = norm(X)
    return X / torch.where(size > 0, size, 1.0)[..., None, :], size


def _rotation(a, b):
    """Return c, s, r with c a + s b = r; the identity where both vanish."""
    r = torch.hypot(a, b)
    return torch.where(r > 0, a / _safe(r), 1.0), torch.where(r > 0, b / _safe(r), 0.0), r


def _safe(t):
    return torch.where(t > 0, t, 1.0)
