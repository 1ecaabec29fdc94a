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

from sciml.iterate import Status
from sciml.linalg.krylov.refinement import Descent, refined, solve
from sciml.linalg.krylov.system import System, dot

_TRACKED = 4  # columns whose coefficients are kept for the estimate of the condition number

_LOOKS = {10 * 2**k for k in range(12)}  # steps at which float32 is asked whether it can reach the tolerance


def cg(A, b, *, M=None, x0=None, tol=1e-8, max_iter=None, callback=None, on_failure=None, progress=None):
    r"""Solve :math:`A x = b` by conjugate gradients [1]_, `A` symmetric or Hermitian positive definite.

    Every column of `b` has iterates of its own; those that are done no longer change and leave the block.

    Parameters
    ----------
    A : LinearOperator, array, sparse matrix or callable
        Shape (n, n), or a batch of such; a callable takes and returns vectors (n,), or blocks (n, R) if `b` is one.
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
    loop = {"callback": callback, "on_failure": on_failure, "progress": progress}

    def adjoint(operator, G):
        return cg(operator, G, M=M, tol=tol, max_iter=max_iter, on_failure=on_failure).value

    return solve("cg", ConjugateGradients, A, b, M, x0, tol=tol, max_iter=max_iter, adjoint=adjoint, **loop)


def cg_steps(A, b, M=None, x0=None, *, tol=1e-8):
    """Yield the iterates of `cg`, the starting point first, to be stepped by hand; endless but for success or failure.

    Examples
    --------
    >>> [round(step.criterion, 3) for step in cg_steps(np.diag([1.0, 4.0]), np.ones(2))]
    [1.0, 0.6, 0.0]
    """
    return refined(System(A, b, M, x0), tol, [], ConjugateGradients)


class ConjugateGradients(Descent):
    """Conjugate gradients for a block of columns; see :class:`Descent`."""

    _per_column = ("p", "rho", "top")

    def _start(self, tracked=_TRACKED):
        self.p = torch.zeros_like(self.r)
        self.rho = self.top = torch.zeros_like(self.active, dtype=torch.float64)
        self.coefficients, self.tracked = [], self.columns[:tracked]

    def _advance(self):
        real = self.r.real.dtype
        z = self.M(self.r)
        rho = dot(self.r, z)
        beta = torch.where(self.active & (self.rho != 0), rho / self.rho, 0.0)
        self.p = torch.addcmul(z, beta[..., None, :].to(real), self.p)
        if not bool(self.active.all()):
            self.p = torch.where(self.active[..., None, :], self.p, 0)
        self.rho = rho
        q = self.A(self.p)
        curvature, length = dot(self.p, q), dot(self.p, self.p)
        # The largest Rayleigh quotient so far stands for the norm of A: what is eps of it is rounding.
        self.top = torch.maximum(self.top, torch.where(length > 0, curvature / length, 0.0))
        floor = torch.finfo(self.dtype).eps * self.top * length
        sound = self.active & (rho > 0) & (curvature > floor) & torch.isfinite(rho + curvature)
        if not bool((sound | ~self.active).all()):
            self._diagnose(self.active & ~sound, rho, curvature, length)
            q = torch.where(sound[..., None, :], q, 0)  # 0 * NaN would spread
        alpha = torch.where(sound, rho / curvature, 0.0)
        alpha_row = alpha[..., None, :].to(real)
        self.d = torch.addcmul(self.d, alpha_row, self.p)
        self.r = torch.addcmul(self.r, alpha_row, q, value=-1)
        self.size = dot(self.r, self.r).sqrt()
        self._record(alpha, beta)

    def _diagnose(self, bad, rho, curvature, length):
        """Say what is wrong with A or M, with the numbers of the first bad column."""
        size = dot(self.r, self.r)
        r, c, p, s, top = (float(t[bad][0]) for t in (rho, curvature, length, size, self.top))
        r, c, top = r * getattr(self.M, "unit", 1), c * self.A.unit, top * self.A.unit  # in the units of the user
        if not np.isfinite(r + c):
            culprit = "A @ p" if np.isfinite(r) else "M @ r"
            text = f"{culprit} holds a NaN or inf: check A and M, and their range"
            return self._break(bad, Status.NON_FINITE, text)
        if not r > 0:
            text = f"M is not positive definite: <r, M r> = {r / s:.3g} <r, r>; pass another preconditioner or none"
        else:
            what = "positive definite" if c < 0 else "positive definite beyond rounding"
            largest = f", against {top:.3g} before" if top > 0 else ""
            text = f"A is not {what}: <p, A p> = {c / p:.3g} <p, p>{largest}; use minres"
        return self._break(bad, Status.INDEFINITE, text)

    def _record(self, alpha, beta):
        here = torch.isin(self.columns, self.tracked)
        if bool(here.any()):
            alpha = alpha / (self.A.unit * getattr(self.M, "unit", 1))  # of M A in the units of the user
            self.coefficients.append(torch.stack([alpha, beta])[..., here].reshape(2, -1).cpu().numpy())

    def condition(self):
        """Return the ratio of the extreme Ritz values of M A, from the coefficients of a few columns."""
        return _condition(self.coefficients)


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
