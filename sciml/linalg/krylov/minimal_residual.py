r"""Minimal residuals: solve :math:`A x = b` with `A` symmetric, definite or not, many b at once.

Notation  A (n, n) symmetric or Hermitian; M ~ abs(A)^-1, symmetric positive definite; v Lanczos vectors, y = M v;
          alpha, beta the tridiagonal matrix; c, s the rotations that make it triangular; phi the next coefficient;
          w directions, A w orthonormal; r = b - A x.
Cost      one product with A and one with M a step; 8 blocks of memory.
Pitfalls  with M the method minimises r^H M r, so that norm(r) itself need not fall in every step; a singular A with b
          out of its range leaves a residual: the method then ends with a least-squares solution and says so.
"""

import numpy as np
import torch

from sciml.iterate import Status
from sciml.linalg.krylov.refinement import Descent, refined, solve
from sciml.linalg.krylov.system import System, dot


def minres(A, b, *, M=None, x0=None, tol=1e-8, max_iter=None, callback=None, on_failure=None, progress=None):
    r"""Solve :math:`A x = b` by minimal residuals [1]_, `A` symmetric or Hermitian, positive definite or not.

    Parameters
    ----------
    A : LinearOperator, array, sparse matrix or callable
        Shape (n, n), or a batch of such; a callable takes and returns vectors (n,), or blocks (n, R) if `b` is one.
    b : array, shape (n,), (n, R) or (..., n, R)
        Right sides, a column each, with the batch dimensions of `A` in front.
    M : LinearOperator, preconditioner, array, callable or None
        Symmetric positive definite, near the inverse of ``abs(A)``; None (the default) goes without.
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
        If `tol` was not met and `on_failure` is "warn": max_iter, an indefinite `M`, a singular `A`, a residual that
        could not be confirmed.

    Notes
    -----
    The number of iterations grows as the condition number of ``M @ A``, its root where that is definite. float32 data
    are refined as by :func:`cg`. Of a singular system whose right side is not in the range of `A`, the least-squares
    solution that was reached is returned, with status ``STALLED``.

    References
    ----------
    .. [1] C. C. Paige, M. A. Saunders, Solution of sparse indefinite systems of linear equations, 1975.

    Examples
    --------
    >>> run = minres(np.diag([1.0, -2.0, 4.0]), np.ones(3))
    >>> run.value.round(6), run.n_iter
    (array([ 1.  , -0.5 ,  0.25]), 3)
    """
    loop = {"callback": callback, "on_failure": on_failure, "progress": progress}

    def adjoint(operator, G):
        return minres(operator, G, M=M, tol=tol, max_iter=max_iter, on_failure=on_failure).value

    return solve("minres", MinimalResiduals, A, b, M, x0, tol=tol, max_iter=max_iter, adjoint=adjoint, **loop)


def minres_steps(A, b, M=None, x0=None, *, tol=1e-8):
    """Yield the iterates of `minres`, the starting point first, to be stepped by hand."""
    return refined(System(A, b, M, x0), tol, [], MinimalResiduals)


class MinimalResiduals(Descent):
    """Minimal residuals for a block of columns; see :class:`Descent`."""

    _per_column = ("v_old", "v", "y", "w", "w_old", "beta", "beta_old", "c", "s", "dbar", "eps_next", "phi", "norm_A")

    def _start(self):
        zero = torch.zeros_like(self.active, dtype=torch.float64)
        self.v_old, self.v = torch.zeros_like(self.r), self.r  # unscaled: v / beta is the Lanczos vector
        self.y = self.M(self.v)
        self.w = self.w_old = torch.zeros_like(self.r)
        square = dot(self.v, self.y)
        self.beta, self.beta_old = square.clamp(min=0).sqrt(), torch.ones_like(zero)
        self.c, self.s, self.dbar, self.eps_next = zero - 1, zero, zero, zero
        self.phi, self.norm_A = self.beta, zero
        self.low, self.high = torch.full_like(self.broken, np.inf, dtype=torch.float64), self.broken.double()
        self._check_M(square)

    def _check_M(self, square):
        bad = self.active & ~(square >= 0)
        if bool(bad.any()):
            finite = bool(torch.isfinite(square[bad]).all())
            text = "M is not positive definite: <r, M r> < 0; pass another preconditioner or none"
            status = Status.INDEFINITE if finite else Status.NON_FINITE
            self._break(bad, status, text if finite else "M @ r holds a NaN or inf: check M and its range")

    def _advance(self):
        row = lambda t: t[..., None, :].to(self.r.real.dtype)  # noqa: E731
        v = self.y / row(_safe(self.beta))  # this Lanczos vector, preconditioned
        p = self.A(v)
        alpha = dot(v, p)
        bad = self.active & ~torch.isfinite(alpha)
        if bool(bad.any()):
            self._break(bad, Status.NON_FINITE, "A @ v holds a NaN or inf: check A and its range")
            p, alpha = torch.where(bad[..., None, :], 0, p), torch.where(bad, 0.0, alpha)
        p = p - row(alpha / _safe(self.beta)) * self.v
        if self.n_steps > 1:
            p = p - row(self.beta / _safe(self.beta_old)) * self.v_old
        self.v_old, self.v, self.y = self.v, p, self.M(p)
        square = dot(self.v, self.y)
        self._check_M(square)
        self.beta_old, self.beta = self.beta, square.clamp(min=0).nan_to_num(0.0).sqrt()

        # The next column of the tridiagonal matrix, turned by the two rotations before, gives the third.
        eps = self.eps_next
        delta = self.c * self.dbar + self.s * alpha
        gbar = self.s * self.dbar - self.c * alpha
        self.eps_next, self.dbar = self.s * self.beta, -self.c * self.beta
        scale = torch.sqrt(alpha**2 + self.beta**2 + self.beta_old**2 * (self.n_steps > 1))
        self.norm_A = torch.maximum(self.norm_A, scale)
        gamma = torch.hypot(gbar, self.beta)
        singular = self.active & (gamma <= 10 * torch.finfo(self.dtype).eps * self.norm_A)
        self._name_singular(singular)
        self.c, self.s = gbar / _safe(gamma), self.beta / _safe(gamma)
        step, self.phi = self.c * self.phi, self.s * self.phi

        w = (v - row(eps) * self.w_old - row(delta) * self.w) / row(_safe(gamma))
        go = self.active
        self.w_old, self.w = self.w, torch.where(go[..., None, :], w, 0)
        self.d = self.d + row(torch.where(go, step, 0.0)) * self.w
        r = row(self.s**2) * self.r - row(self.phi * self.c / _safe(self.beta)) * self.v
        self.r = torch.where(go[..., None, :], r, self.r)
        self.size = dot(self.r, self.r).sqrt()
        used = go & (gamma > 0)
        low, high = (extreme[..., self.columns] for extreme in (self.low, self.high))
        self.low = self.filled(self.low, torch.where(used, torch.minimum(low, gamma), low))
        self.high = self.filled(self.high, torch.where(used, torch.maximum(high, gamma), high))
        # norm(A r) / (norm(A) norm(r)) down to rounding is a least-squares solution, and no better one is to come.
        self._name_singular(go & (torch.hypot(gbar, self.dbar) <= 10 * torch.finfo(self.dtype).eps * self.norm_A))

    def _name_singular(self, bad):
        text = (
            "A is singular and b not in its range: this is a least-squares solution; check b, or take lsmr, which "
            "judges least squares"
        )
        self._break(bad, Status.STALLED, text)

    def condition(self):
        """Return the ratio of the extreme pivots of the triangular factor."""
        known = (self.high > 0) & torch.isfinite(self.low)
        return max(1.0, float((self.high / self.low)[known].max())) if bool(known.any()) else 1.0


def _safe(t):
    return torch.where(t > 0, t, 1.0)
