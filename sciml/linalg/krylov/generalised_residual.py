r"""Restarted generalised minimal residuals (GMRES): solve :math:`A x = b` with any square `A`, many b at once.

Notation  A (n, n); M ~ A^-1 on the right, so that the residual is that of A x = b itself; V (..., n, R, k + 1) the
          Arnoldi basis of each column; H (..., R, k + 1, k) Hessenberg, A M V_k = V_{k+1} H; y minimises
          norm(size e_1 - H y); x = x0 + M V_k y.
Cost      one product with A and two with M a step; step k of a cycle 10 n k flops; restart + 1 blocks of memory.
Pitfalls  a restart forgets the basis: on hard problems a cycle gains nothing, and the method says so and ends; one pass
          of Gram-Schmidt loses orthogonality, so there are two.
"""

import torch

from sciml.iterate import Status
from sciml.linalg.krylov.refinement import Descent, refined, solve
from sciml.linalg.krylov.system import System, dot
from sciml.linalg.operators.base import LinearOperator
from sciml.validation import check_number

_GAIN = 0.999  # a cycle that leaves more of the residual than this has stagnated


def gmres(A, b, *, M=None, x0=None, tol=1e-8, max_iter=None, restart=50, callback=None, on_failure=None, progress=None):
    r"""Solve :math:`A x = b` by restarted generalised minimal residuals [1]_, `A` square.

    Parameters
    ----------
    A : LinearOperator, array, sparse matrix or callable
        Shape (n, n), or a batch of such, symmetric or not; a callable takes and returns vectors (n,), or blocks (n, R)
        if `b` is one.
    b : array, shape (n,), (n, R) or (..., n, R)
        Right sides, a column each, with the batch dimensions of `A` in front.
    M : LinearOperator, preconditioner, array, callable or None
        Near the inverse of `A`, applied from the right; None (the default) goes without.
    x0 : array, shape of `b`, or None
        Starting point; zero by default.
    tol : float
        Every column satisfies ``norm(b - A @ x) <= tol * norm(b)``, recomputed in float64. 1e-8 by default, which
        float32 data meet, too.
    max_iter : int or None
        Iterations at most, inner ones counted; None (the default) takes ``min(max(10 n, 1000), 5000)``.
    restart : int
        Steps of a cycle, the size of the basis that is kept; 50 by default.
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
        If `tol` was not met and `on_failure` is "warn": max_iter, a singular `A`, a cycle without gain, a residual
        that could not be confirmed.

    Notes
    -----
    float32 data are refined as by :func:`cg`.

    References
    ----------
    .. [1] Y. Saad, M. H. Schultz, GMRES: a generalized minimal residual algorithm for solving nonsymmetric linear
       systems, 1986.

    Examples
    --------
    >>> import numpy as np
    >>> run = gmres(np.array([[1.0, 1.0], [-1.0, 1.0]]), np.array([2.0, 0.0]))
    >>> run.value.round(6), run.n_iter
    (array([1., 1.]), 2)
    """
    loop = {"callback": callback, "on_failure": on_failure, "progress": progress}
    options = {"restart": check_number("restart", restart, low=1, integer=True)}

    def adjoint(operator, G):
        left = M.H if isinstance(M, LinearOperator) else None
        same = {"tol": tol, "max_iter": max_iter, "restart": restart, "on_failure": on_failure}
        return gmres(operator.H, G, M=left, **same).value

    end = {"max_iter": max_iter, "adjoint": adjoint, "options": options}
    return solve("gmres", GeneralisedResiduals, A, b, M, x0, tol=tol, **end, **loop)


def gmres_steps(A, b, M=None, x0=None, *, tol=1e-8, restart=50):
    """Yield the iterates of `gmres`, the starting point first, to be stepped by hand."""
    return refined(System(A, b, M, x0), tol, [], GeneralisedResiduals, restart=restart)


class GeneralisedResiduals(Descent):
    """GMRES for a block of columns; see :class:`Descent`. Columns that are done are frozen, but stay in the block."""

    def _start(self, restart):
        self.restart = min(restart, max(self.r.shape[-2], 1))
        self.base = self.d  # correction at the start of the cycle
        self.worst = 1.0
        self._cycle()

    def _cycle(self):
        self.k = 0
        self.start = dot(self.r, self.r).sqrt()  # (..., R)
        shape = (*self.r.shape, self.restart + 1)
        self.V = torch.zeros(shape, dtype=self.dtype, device=self.r.device)
        self.V[..., 0] = self.r / _row(_safe(self.start), self.r)
        long = torch.complex128 if self.dtype.is_complex else torch.float64
        small = (*self.start.shape, self.restart + 1, self.restart)
        self.H = torch.zeros(small, dtype=long, device=self.r.device)

    def _advance(self):
        if self.k == self.restart:
            self._restart()
        w = self.A(self.M(self.V[..., self.k]))
        bad = self.active & ~torch.isfinite(dot(w, w))
        if bool(bad.any()):
            self._break(bad, Status.NON_FINITE, "A @ v or M @ v holds a NaN or inf: check A and M, and their range")
            w = torch.where(bad[..., None, :], 0, w)
        self.k += 1
        V, before = self.V[..., : self.k], dot(w, w).sqrt()
        for _ in range(2):
            h = torch.einsum("...nrk,...nr->...rk", V.conj(), w)
            w = w - torch.einsum("...nrk,...rk->...nr", V, h)
            self.H[..., : self.k, self.k - 1] += h.to(self.H.dtype)
        length = dot(w, w).sqrt()
        # What is left of a vector inside the space is rounding.
        length = torch.where(length > 4 * torch.finfo(self.dtype).eps * before, length, 0.0)
        self.H[..., self.k, self.k - 1] = length.to(self.H.dtype)
        self.V[..., self.k] = torch.where((length > 0)[..., None, :], w / _row(_safe(length), w), 0)
        self._solve_small(length == 0)

    def _solve_small(self, exhausted):
        """Find y and the norm of the residual by QR of the Hessenberg matrix."""
        H = self.H[..., : self.k + 1, : self.k]
        Q, T = torch.linalg.qr(H, mode="complete")
        g = self.start[..., None].to(Q.dtype) * Q[..., 0, :].conj()
        pivots = torch.diagonal(T, dim1=-2, dim2=-1).abs()
        floor = 10 * torch.finfo(self.dtype).eps * torch.linalg.matrix_norm(H)
        singular = pivots[..., -1] <= floor
        held = self.active & ~singular
        y = torch.linalg.solve_triangular(_regular(T[..., : self.k, :]), g[..., : self.k, None], upper=True)[..., 0]
        update = torch.einsum("...nrk,...rk->...nr", self.V[..., : self.k], y.to(self.dtype))
        self.d = torch.where(held[..., None, :], self.base + self.M(update), self.d)
        self.size = torch.where(held, g[..., -1].abs(), torch.where(self.size > 0, self.size, self.start))
        condition = (pivots.amax(-1) / pivots.amin(-1))[held]
        self.worst = max(self.worst, float(condition.max())) if condition.numel() else self.worst
        text = "A or M is singular, and b not in the range of A: this is the best of its Krylov space; take lsmr"
        self._break(self.active & exhausted & singular, Status.STALLED, text)

    def _restart(self):
        """Begin a new cycle from the residual formed anew; end where the last one gained nothing."""
        self.base = self.d
        self.r = self.residual().to(self.dtype)
        stuck = self.active & (dot(self.r, self.r).sqrt() > _GAIN * self.start)
        text = f"a cycle of {self.restart} steps gained nothing: raise restart, or precondition"
        self._break(stuck, Status.STALLED, text)
        self._cycle()

    def _compare(self):
        """Leave the comparison to the restarts, which form the residual anew."""

    def drop(self, done):
        """Freeze columns that are done."""
        self.active = self.active & ~done[..., self.columns]

    def condition(self):
        """Return the ratio of the extreme pivots of the Hessenberg matrix."""
        return self.worst


def _row(scalars, like):
    return scalars[..., None, :].to(like.real.dtype)


def _safe(t):
    return torch.where(t > 0, t, 1.0)


def _regular(T):
    """Return a triangular matrix with ones in place of pivots that are zero; what it gives is not used there."""
    pivots = torch.diagonal(T, dim1=-2, dim2=-1)
    return T + torch.diag_embed((pivots == 0).to(T.dtype))
