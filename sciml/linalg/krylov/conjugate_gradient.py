r"""Preconditioned conjugate gradients: solve :math:`A x = b` with `A` symmetric positive definite, many b at once.

Notation  A (n, n) operator; B (n, R) right sides, a column each; X iterates; r = b - A x residual; M ~ A^-1;
          z = M r; p direction; q = A p; rho = <r, z>; alpha = rho / <p, q>; beta = rho / (rho before).
Cost      one product with A and one with M a step, for the whole block; 5 blocks of memory.
Pitfalls  the recurrence for r drifts from b - A x, so the two are compared every 50 steps, with a new start from the
          latter once they differ, and no answer is called converged before b - A x was formed anew in float64;
          in float32 the true residual stops near eps * condition whatever the recurrence says, so the outer residual
          and update are in float64 there (iterative refinement); <p, A p> <= 0 means that A is not positive definite,
          and the method ends with that reason.
"""

import numpy as np
import torch
from scipy.linalg import eigvalsh_tridiagonal

from sciml.iterate import End, Status, Step, run
from sciml.linalg.krylov.system import LONG, System, dot, norm, power_of_two
from sciml.validation import check_number

_COMPARE = 50  # steps between two comparisons of the recurrence with the true residual
_LOST = 0.1  # relative difference of the two at which the recurrence counts as lost
_RESTARTS = 3  # in float64, after a residual that could not be confirmed
_REFINEMENTS = 20  # outer steps for float32 data
_INNER = 1e-2  # what an inner solve in float32 is asked for
_HOPELESS = 1e-2  # eps32 times a condition number beyond which float32 gains too little to be worth its steps
_TRACKED = 4  # columns whose coefficients are kept for the estimate of the condition number

_LOOKS = {10 * 2**k for k in range(12)}  # steps at which float32 is asked whether it can reach the tolerance


def cg(A, b, *, M=None, x0=None, tol=1e-8, max_iter=None, callback=None, on_failure=None, progress=None):
    r"""Solve :math:`A x = b` by conjugate gradients [1]_, `A` symmetric or Hermitian positive definite.

    Every column of `b` has iterates of its own; those that are done no longer change and leave the block.

    Parameters
    ----------
    A : LinearOperator, array, sparse matrix or callable
        Shape (n, n), or a batch of such; a callable takes a block of columns (n, R) and returns one.
    b : array, shape (n,), (n, R) or (..., n, R)
        Right sides, a column each, with the batch dimensions of `A` in front.
    M : LinearOperator, preconditioner, array, callable or None
        Applies an approximate inverse of `A`, symmetric positive definite; None (the default) goes without.
    x0 : array, shape of `b`, or None
        Starting point; zero by default.
    tol : float
        Every column satisfies ``norm(b - A @ x) <= tol * norm(b)``, recomputed in float64. 1e-8 by default, which
        float32 data meet, too.
    max_iter : int or None
        Iterations at most, inner ones counted; None (the default) takes ``min(max(10 n, 1000), 5000)``.
    callback : callable or None
        ``callback(n_iter, step)``, once an iteration; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the tolerance was not met; None (the default) asks the configuration.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Returns
    -------
    SolveRun
        The answer as ``value``, of the kind of `b`, with its recomputed residual. For float32 data the value is
        float32 if it meets `tol` when rounded, else float64; ``choices["dtype"]`` says so.

    Raises
    ------
    InvalidInputError
        A shape does not fit, an entry is not finite, or `tol` is below 10 eps of float64.
    ConvergenceError
        If `tol` was not met and `on_failure` is "raise".

    Warns
    -----
    ConvergenceWarning
        If `tol` was not met and `on_failure` is "warn": max_iter, an indefinite `A` or `M`, a residual that could not
        be confirmed.

    Notes
    -----
    The number of iterations grows as the square root of the condition number of ``M @ A``. For float32 data the
    iteration runs in float32; once a request is below ten times eps times the estimated condition number, or the
    residual could not be confirmed, it is solved for corrections only, to 1e-2, with residual and update in float64.
    Where that, too, gains nothing, the iteration goes on in float64. Columns with ``b = 0`` give ``x = 0``.

    References
    ----------
    .. [1] M. R. Hestenes, E. Stiefel, Methods of conjugate gradients for solving linear systems, 1952.

    Examples
    --------
    >>> run = cg(np.diag([1.0, 2.0, 4.0]), np.ones(3))
    >>> run.value.round(6), run.n_iter
    (array([1.  , 0.5 , 0.25]), 3)
    """
    system = System(A, b, M, x0)
    tol = check_number("tol", tol, low=0)
    n = system.B.shape[-2]
    max_iter = min(max(10 * n, 1000), 5000) if max_iter is None else max_iter
    conditions = []
    done = run(
        _steps(system, tol, conditions),
        name="cg",
        tol=tol,
        max_iter=max_iter,
        callback=callback,
        on_failure=on_failure,
        progress=progress,
        dtype="float64",
    )

    def adjoint(operator, G):
        return cg(operator, G, M=M, tol=tol, max_iter=max_iter, on_failure=on_failure).value

    return system.report(done, tol=tol, name="cg", condition=max(conditions, default=np.nan), adjoint=adjoint)


def cg_steps(A, b, M=None, x0=None, *, tol=1e-8):
    """Yield the iterates of `cg`, the starting point first, to be stepped by hand; endless but for success or failure.

    Examples
    --------
    >>> [round(step.criterion, 3) for step in cg_steps(np.diag([1.0, 4.0]), np.ones(2))]
    [1.0, 0.6, 0.0]
    """
    return _steps(System(A, b, M, x0), tol, [])


@torch.no_grad()
def _steps(system, tol, conditions):
    """Yield the iterates; estimates of the condition number are left in a list.

    Each turn of the outer loop descends on A D = R, adds D to X, and forms R = B - A X in the long dtype. One turn is
    enough unless the data are float32 or the recurrence was wrong about its residual.
    """
    X = torch.where((system.norm_B == 0)[..., None, :], 0, system.X0)
    R, relative = system.residual(X)
    active = ~(relative <= tol)  # a NaN is active, too
    yield _step(system, X, relative, active)

    A, dtype, turn, reason = system.A, system.dtype, 0, None
    while bool(active.any()):
        unit = power_of_two(relative * system.norm_B)
        to_relative = unit / torch.where(system.norm_B > 0, system.norm_B, 1.0)
        descent = _Descent(A, system, R / unit[..., None, :], dtype, active)
        short, eps = dtype in LONG, torch.finfo(dtype).eps  # short: float32
        in_parts, switch = short and (turn > 0 or tol < 10 * eps), ""
        while True:
            descent.step()
            if short and descent.n_steps in _LOOKS:
                condition = descent.condition()
                in_parts = in_parts or tol < 10 * eps * condition
                if system.has_long and eps * condition > _HOPELESS:
                    switch = f"the condition number is {condition:.0e}"
                    descent.active &= False
            goal = torch.clamp(_INNER * relative, min=tol) if in_parts else torch.full_like(relative, tol)
            estimate = descent.filled(relative, descent.size * to_relative[..., descent.columns])
            descent.drop(estimate <= goal)
            if not bool(descent.active.any()):
                break  # nothing is claimed before the residual is confirmed
            yield _step(system, X + unit[..., None, :] * descent.correction, estimate, active)
        conditions.append(descent.condition())

        before, turn = relative, turn + 1
        X, R, relative = _better(system, X, R, relative, X + unit[..., None, :] * descent.correction)
        active = active & ~(relative <= tol)
        broken, slow = active & descent.broken, active & ~(relative <= 0.5 * before)
        if short and bool((broken | slow).any()):
            switch = switch or "float32 no longer gained"
        if short and system.has_long and bool(active.any()):
            precision = f"float64 in the end: {switch}" if switch else "float32, residual and update in float64"
            system.choices["iteration"] = precision
            if switch:
                A, dtype, turn = system.A_long, system.long, 0
        else:
            active = active & ~broken
            reason = reason or descent.reason
        yield _step(system, X, relative, active)
        if turn > (_REFINEMENTS if short else _RESTARTS) and bool(active.any()):
            return End(Status.STALLED, _stagnation(relative, dtype, conditions))
    return reason


def _step(system, X, relative, active):
    return Step(system.shaped(X), _largest(relative), {"active": int(active.sum())})


def _largest(relative):
    return float(relative.max()) if relative.numel() else 0.0


def _better(system, X, R, relative, X_new):
    """Return the iterate, its residual and relative norm, column by column those of the smaller residual."""
    R_new, relative_new = system.residual(X_new)
    keep = (relative_new > relative) | ~torch.isfinite(relative_new)
    if not bool(keep.any()):
        return X_new, R_new, relative_new
    column = keep[..., None, :]
    return torch.where(column, X, X_new), torch.where(column, R, R_new), torch.where(keep, relative, relative_new)


def _stagnation(relative, dtype, conditions):
    word = str(dtype).removeprefix("torch.")
    return (
        f"the residual b - A x formed anew stays at {_largest(relative):.1e} although the recurrence fell below tol: "
        f"tol is below what {word} reaches at a condition of about {max(conditions):.0e}. Loosen tol, or precondition"
    )


class _Descent:
    """Conjugate gradients on A D = R from D = 0; columns that are done are frozen, and dropped when most are.

    Parameters
    ----------
    A : callable
        Product with a block of columns.
    system : System
        Gives the preconditioner and the product in the long dtype.
    R : Tensor, shape (..., n, R)
        Right sides of about unit size, in the long dtype.
    dtype : torch.dtype
        What to iterate in.
    active : Tensor of bool, shape (..., R)
        Columns to work on.
    """

    def __init__(self, A, system, R, dtype, active):
        self.A, self.system, self.R, self.dtype = A, system, R, dtype
        self.M = system.M or (lambda X: X)
        self.columns = _any_batch(active).nonzero()[:, 0]
        self.whole = torch.zeros_like(R, dtype=dtype)  # corrections of columns that have left
        self.r = R[..., self.columns].to(dtype)
        self.d, self.p = torch.zeros_like(self.r), torch.zeros_like(self.r)
        self.active = active[..., self.columns]
        self.rho = self.top = torch.zeros_like(self.active, dtype=torch.float64)
        self.broken, self.reason = torch.zeros_like(active), None
        self.n_steps, self.coefficients, self.tracked = 0, [], self.columns[:_TRACKED]

    def step(self):
        """Take one step in every active column."""
        self.n_steps += 1
        z = self.M(self.r)
        rho = dot(self.r, z)
        beta = torch.where(self.active & (self.rho != 0), rho / self.rho, 0.0)
        beta_row = beta[..., None, :].to(self.r.real.dtype)
        self.p = torch.where(self.active[..., None, :], z + beta_row * self.p, 0)
        self.rho = rho
        q = self.A(self.p)
        curvature, length = dot(self.p, q), dot(self.p, self.p)
        # The largest Rayleigh quotient so far stands for the norm of A: what is eps of it is rounding.
        self.top = torch.maximum(self.top, torch.where(length > 0, curvature / length, 0.0))
        floor = torch.finfo(self.dtype).eps * self.top * length
        sound = self.active & (rho > 0) & (curvature > floor) & torch.isfinite(rho + curvature)
        self._break(self.active & ~sound, rho, curvature, length, dot(self.r, self.r))
        alpha = torch.where(sound, rho / curvature, 0.0)
        alpha_row = alpha[..., None, :].to(self.r.real.dtype)
        if not bool(sound.all()):
            q = torch.where(sound[..., None, :], q, 0)  # 0 * NaN would spread
        self.active = sound
        self.d = self.d + alpha_row * self.p
        self.r = self.r - alpha_row * q
        self._record(alpha, beta)
        self.size = dot(self.r, self.r).sqrt()
        if self.n_steps % _COMPARE == 0:
            self._compare()

    def _break(self, bad, rho, curvature, length, size):
        """Note columns in which A or M is not what it must be, with the numbers of the first."""
        if not bool(bad.any()):
            return
        self.broken = self.filled(self.broken, bad | self.broken[..., self.columns])
        rho, curvature, length, size, top = (float(t[bad][0]) for t in (rho, curvature, length, size, self.top))
        if not np.isfinite(rho + curvature):
            culprit = "M @ r" if not np.isfinite(rho) else "A @ p"
            self.reason = End(Status.NON_FINITE, f"{culprit} holds a NaN or inf: check A and M, and their range")
        elif not rho > 0:
            text = (
                f"M is not positive definite: <r, M r> = {rho / size:.3g} <r, r>; pass another preconditioner or none"
            )
            self.reason = End(Status.INDEFINITE, text)
        else:
            what = "positive definite" if curvature < 0 else "positive definite beyond rounding"
            largest = f", against {top:.3g} before" if top > 0 else ""
            text = f"A is not {what}: <p, A p> = {curvature / length:.3g} <p, p>{largest}; use minres"
            self.reason = End(Status.INDEFINITE, text)

    def drop(self, done):
        """Freeze columns that are done, (..., R) of the whole block; leave them out once they are the majority."""
        self.active = self.active & ~done[..., self.columns]
        left = _any_batch(self.active)
        if 2 * int(left.sum()) < len(left):
            self.whole = self.correction
            self.columns = self.columns[left]
            names = ("r", "d", "p", "active", "rho", "top", "size")
            for name in names:
                setattr(self, name, getattr(self, name)[..., left])

    @property
    def correction(self):
        """D, the whole block (..., n, R)."""
        if len(self.columns) == self.whole.shape[-1]:
            return self.d
        return self.whole.index_copy(-1, self.columns, self.d)

    def filled(self, whole, part):
        """Return what is known of all columns, (..., R), with news of those still here."""
        if len(self.columns) == whole.shape[-1]:
            return part
        return whole.index_copy(-1, self.columns, part)

    def _compare(self):
        """Form R - A D anew; a column whose recurrence has lost it has nothing more to gain from this descent.

        The recurrence is not overwritten: near the end of what the dtype can do, directions built on a residual that is
        rounding grow without bound. The outer loop starts afresh from the true residual instead.
        """
        true = self.R[..., self.columns] - self.system.A_long(self.d.to(self.R.dtype))
        self.active = self.active & ~(norm(true - self.r) > _LOST * norm(true))

    def _record(self, alpha, beta):
        here = torch.isin(self.columns, self.tracked)
        if bool(here.any()):
            first = torch.stack([alpha, beta])[..., here].reshape(2, -1).cpu().numpy()
            self.coefficients.append(first)

    def condition(self):
        """Return the ratio of the extreme Ritz values of M A, from the coefficients of a few columns."""
        return _condition(self.coefficients)


def _any_batch(flags):
    """Return which columns (R,) are set in any matrix of the batch, from (..., R)."""
    return flags.reshape(-1, flags.shape[-1]).any(0)


def _condition(coefficients):
    """Return the ratio of the extreme eigenvalues of the Lanczos matrices behind alpha and beta, each of (steps, R)."""
    worst = 1.0
    width = coefficients[0].shape[1] if coefficients else 0
    for column in range(width):
        rows = [c[:, column] for c in coefficients if c.shape[1] == width and c[0, column] > 0]
        if len(rows) < 2:
            continue
        alpha, beta = np.array(rows).T
        diagonal = 1 / alpha
        diagonal[1:] += beta[1:] / alpha[:-1]
        ritz = eigvalsh_tridiagonal(diagonal, np.sqrt(beta[1:]) / alpha[:-1])
        if ritz[0] > 0:
            worst = max(worst, float(ritz[-1] / ritz[0]))
    return worst
