r"""The Bures-Wasserstein barycentre: the Gaussian nearest to given ones in the mean of squared transport distances.

.. math:: \min_M \sum_i w_i d_{BW}^2(M, X_i), \qquad \sum_i w_i (T_{M \to X_i} - I) = 0.

With factors X_i = L_i L_i^H and M = C C^H the fixed-point iteration of [1]_ is a generalised Procrustes step,

.. math:: C_+ = \sum_i w_i L_i \operatorname{polar}(L_i^H C),

which inverts nothing, so that singular X_i are legal and no digits are lost at high condition. C_+ - C is the gradient,
(mean T - I) C. Anderson's method extrapolates from the last steps; where all X_i are well conditioned, Newton's method
with S in M = C (I + S) C^H, solved by conjugate gradients, needs a few steps only.

Notation  X (N, n, n), w (N,), L (N, n, n), C (n, n); L_i^H C = U_i diag(s_i) V_i^H; R_i = V_i diag(s_i) V_i^H.
Cost      a singular value decomposition of N (n, n) matrices a step; 8 N n^3 a step of conjugate gradients.
Pitfalls  fixed-point iterations on M itself, with explicit maps, stagnate far from the barycentre at high condition.
          The barycentre is unique where one X_i has the rank of their sum; else a warning tells the ranks.
References  .. [1] P. Alvarez-Esteban, E. del Barrio, J. Cuesta-Albertos, C. Matran, A fixed-point approach to
            barycenters in Wasserstein space, 2016. M. Agueh, G. Carlier, Barycenters in the Wasserstein space, 2011.
            D. Anderson, Iterative procedures for nonlinear integral equations, 1965.
"""

from __future__ import annotations

import warnings

import torch

from sciml._config import resolve
from sciml.exceptions import ConditioningWarning, ConvergenceWarning
from sciml.iterate import Step, caller_level, run
from sciml.linalg.spd.checks import eigh_symmetric, symmetrise
from sciml.linalg.spd.factors import factor
from sciml.linalg.spd.frame_hessian import solve_hessian
from sciml.linalg.spd.mean_result import MeanResult, enter_matrices
from sciml.linalg.spd.second_derivative import refuse_second_derivative
from sciml.validation import check_number, check_option

__all__ = ["bures_mean", "bures_mean_steps"]

_MEMORY = 8
_GROWTH = 10.0  # an extrapolation that makes the residual larger by this is forgotten
_NEWTON_CONDITION = 1e8
_INNER = 60
_DERIVATIVE_TOL = 1e-11


def bures_mean(X, weights=None, *, method="auto", tol=1e-12, max_iter=None, callback=None, on_failure=None):
    r"""Return the Bures-Wasserstein barycentre, :math:`\operatorname{argmin}_M \sum_i w_i d_{BW}^2(M, X_i)` [1]_.

    Parameters
    ----------
    X : array, shape (N, n, n)
        Positive semidefinite matrices, real symmetric or complex Hermitian.
    weights : array, shape (N,), or None
        Not negative; any sum. None (the default) weighs all the same. A weight of 2 counts as a repetition.
    method : {"auto", "procrustes", "newton"}
        Extrapolated Procrustes steps, which suit every condition and singular matrices, or Newton's method. "auto" (the
        default) takes Newton's where all conditions are below 1e8.
    tol : float
        Stop when ``norm(C_+ - C) <= tol * norm(C)`` for the factor C of the mean: the Riemannian gradient relative to
        the root of the trace; 1e-12 by default.
    max_iter : int or None
        Steps at most; None (the default) takes 500 Procrustes or 50 Newton steps.
    callback : callable or None
        ``callback(n_iter, step)``; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when `tol` was not met; None (the default) asks the configuration, which warns.

    Returns
    -------
    MeanResult
        ``mean`` (n, n) in the units of `X`. Where `X` or `weights` is a tensor that asks for a gradient, it flows
        through by implicit differentiation: one linear solve, however many steps there were.

    Raises
    ------
    InvalidInputError
        If the matrices are not square, symmetric and finite, or weights do not match them.
    NotPositiveDefiniteError
        If a matrix has an eigenvalue below -1e-10 of its largest one.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not met.
    ConditioningWarning
        If every matrix is singular on the range of their sum, so that the barycentre may not be unique.

    References
    ----------
    .. [1] M. Agueh, G. Carlier, Barycenters in the Wasserstein space, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import bures_mean
    >>> bures_mean(np.array([np.diag([1.0, 4.0]), np.diag([9.0, 4.0])])).mean.round(10)
    array([[4., 0.],
           [0., 4.]])
    """
    (X, w), leave, eps, scale = enter_matrices(X, weights)
    M, ended, used = mean_of_tensors(
        X, w, eps, method=method, tol=tol, max_iter=max_iter, callback=callback, on_failure=on_failure
    )
    settings = {"method": used, "tol": tol, "scale": scale, "n_matrices": len(X), "dtype": str(X.dtype)}
    return MeanResult.of(ended, settings, mean=leave(M), residual=ended.history["criterion"][-1], metric="bw")


def mean_of_tensors(X, w, eps, *, method="auto", tol=1e-12, max_iter=None, callback=None, on_failure=None):
    """Return (mean, run, method) of scaled tensors; the mean carries the implicit gradient."""
    check_option("method", method, ("auto", "procrustes", "newton"))
    tol = check_number("tol", tol, low=0)
    kept = w.detach() > 0
    L, singular = factor(X.detach(), "X", eps)
    L, weights = L[kept], w.detach()[kept]
    _warn_if_ambiguous(L, weights, bool(singular[kept].all()), eps, on_failure)
    if method == "auto":
        method = "procrustes"
        if not bool(singular[kept].any()):
            s = torch.linalg.svdvals(L)
            method = "newton" if bool((s[:, 0] < _NEWTON_CONDITION**0.5 * s[:, -1]).all()) else "procrustes"
    if max_iter is None:
        max_iter = 50 if method == "newton" else 500
    steps = bures_mean_steps(L, weights, method=method)
    ended = run(
        steps, name="bures_mean", tol=tol, max_iter=max_iter, callback=callback, on_failure=on_failure, dtype="float64"
    )
    C = ended.value
    M = symmetrise(C @ C.mH)
    if X.requires_grad or w.requires_grad:
        M = _ImplicitBarycentre.apply(X, w, C, M)
    return M, ended, method


def bures_mean_steps(L, w, C=None, *, method="procrustes"):
    """Yield factors C of the iterates M = C C^H, the start first; see :func:`bures_mean`.

    Parameters
    ----------
    L : torch.Tensor, shape (N, n, n)
        Factors of the matrices.
    w : torch.Tensor, shape (N,)
        Weights that sum to one.
    C : torch.Tensor, shape (n, n), or None
        A factor to start from; None (the default) takes one of the arithmetic mean.
    method : {"procrustes", "newton"}
        See :func:`bures_mean`.

    Returns
    -------
    generator of Step
        Of C, shape (n, n).
    """
    if C is None:
        C = factor(symmetrise(torch.einsum("i,ijk,ilk->jl", w.to(L.dtype), L, L.conj())))[0]
    return _newton_steps(L, w, C) if method == "newton" else _anderson_steps(L, w, C)


def _evaluate(L, w, C):
    """Return (C_+, s, V, relative length of the gradient)."""
    U, s, Vh = torch.linalg.svd(L.mH @ C)
    new = torch.einsum("i,ijk->jk", w.to(L.dtype), L @ (U @ Vh))
    size = float(torch.linalg.vector_norm(C))
    return new, s, Vh.mH, float(torch.linalg.vector_norm(new - C)) / (size or 1.0)


# ---------------------------------------------------------------- Procrustes steps, extrapolated


def _anderson_steps(L, w, C):
    points, gradients = [], []
    smallest = float("inf")
    while True:
        new, _, _, residual = _evaluate(L, w, C)
        yield Step(C, residual)
        if residual > _GROWTH * smallest:
            points, gradients = [], []
        smallest = min(smallest, residual)
        points, gradients = [*points, C][-_MEMORY - 1 :], [*gradients, new - C][-_MEMORY - 1 :]
        C = _extrapolate(points, gradients)


def _extrapolate(points, gradients):
    """Return the combination of the last steps whose gradients, combined alike, are shortest."""
    C, F = points[-1], gradients[-1]
    if len(points) == 1:
        return C + F
    flat = lambda A: (torch.view_as_real(A) if A.is_complex() else A).reshape(-1)  # noqa: E731
    dF = [b - a for a, b in zip(gradients, gradients[1:], strict=False)]
    dC = [b - a for a, b in zip(points, points[1:], strict=False)]
    matrix = torch.stack([flat(d) for d in dF], 1)
    sizes = torch.linalg.vector_norm(matrix, dim=0).clamp_min(torch.finfo(matrix.dtype).tiny)
    # By singular values: late differences are almost parallel, and what is below rounding must not count.
    U, s, Vh = torch.linalg.svd(matrix / sizes, full_matrices=False)
    inverse = torch.where(s > 1e-13 * s[0], 1 / s, 0)
    gamma = (Vh.mT @ (inverse * (U.mT @ flat(F)))) / sizes
    return C + F - sum(g * (c + f) for g, c, f in zip(gamma, dC, dF, strict=True))


# ---------------------------------------------------------------- Newton's method


def _newton_steps(L, w, C):
    new, s, V, residual = _evaluate(L, w, C)
    while True:
        yield Step(C, residual)
        S = _newton_direction(C, new, s, V, w, residual)
        lowest = float(torch.linalg.eigvalsh(S)[0])
        t = 1.0 if lowest > -0.9 else 0.9 / -lowest  # I + t S stays positive definite
        eye = torch.eye(len(C), dtype=C.dtype, device=C.device)
        trial = C @ torch.linalg.cholesky(eye + t * S)
        tried = _evaluate(L, w, trial)
        if tried[3] < 0.9 * residual:
            C, (new, s, V, residual) = trial, tried
        else:
            C = new
            new, s, V, residual = _evaluate(L, w, C)


def _newton_direction(C, new, s, V, w, residual):
    # C^H C - sum_i w_i R_i, with the subtraction already done in C - C_+.
    gradient = symmetrise(C.mH @ (C - new))
    h, precondition = _hessian(C, s)
    return -solve_hessian(V, h, w, gradient, tol=min(0.1, residual), max_iter=_INNER, precondition=precondition)[0]


def _hessian(C, s):
    """Return the multipliers s_a s_b / (s_a + s_b), and the inverse of those of the mean alone in their place."""
    a, b = s[..., :, None], s[..., None, :]
    h = torch.where(a + b > 0, a * b / (a + b), 0)
    m, Q = eigh_symmetric(symmetrise(C.mH @ C))
    m = m.clamp_min(0)
    plain = m[:, None] * m[None, :] / (m[:, None] + m[None, :]).clamp_min(torch.finfo(m.dtype).tiny)
    plain = plain.clamp_min(1e-10 * float(plain.max()))
    return h, lambda R: symmetrise(Q @ ((Q.mH @ R @ Q) / plain) @ Q.mH)


# ---------------------------------------------------------------- the derivative


class _ImplicitBarycentre(torch.autograd.Function):
    """The barycentre as a function of matrices and weights, differentiated through its optimality condition."""

    @staticmethod
    def forward(ctx, X, w, C, M):
        ctx.save_for_backward(X, w, C)
        return M.clone()

    @staticmethod
    def backward(ctx, grad):
        X, w, C = ctx.saved_tensors
        grad_X = grad_w = None
        with torch.no_grad():
            L, _ = factor(X, "X")
            _, s, Vh = torch.linalg.svd(L.mH @ C)
            V = Vh.mH
            h, precondition = _hessian(C, s)
            right = symmetrise(C.mH @ symmetrise(grad) @ C)
            Y, residual = solve_hessian(V, h, w, right, tol=_DERIVATIVE_TOL, max_iter=1000, precondition=precondition)
            if residual > 1e3 * _DERIVATIVE_TOL:
                warnings.warn(
                    f"the derivative of bures_mean was solved to a relative residual of {residual:.1e} only: the "
                    "matrices are badly conditioned. Add shrinkage.",
                    ConvergenceWarning,
                    stacklevel=caller_level(),
                )
            if ctx.needs_input_grad[0]:
                sums = s[:, :, None] + s[:, None, :]
                inner = (Vh @ Y @ V) * torch.where(sums > 0, 1 / sums, 0) * w[:, None, None]
                grad_X = symmetrise(C @ (V @ inner @ Vh) @ C.mH)
            if ctx.needs_input_grad[1]:
                # - <Y, C^H C - R_i>; the part that all share is taken out, since weights are normalised.
                moved = (V * s[:, None, :]) @ Vh - C.mH @ C
                grad_w = torch.sum(moved * Y.conj(), dim=(-2, -1)).real
        grads = [refuse_second_derivative("bures_mean", G, X, w, grad) for G in (grad_X, grad_w)]
        return *grads, None, None


def _warn_if_ambiguous(L, w, all_singular, eps, on_failure):
    """Warn where every matrix lacks rank on the range of their sum."""
    if not all_singular or resolve("on_failure", on_failure) == "ignore":
        return
    threshold = (4 * L.shape[-1] * eps) ** 0.5

    def rank(A):
        s = torch.linalg.svdvals(A)
        return (s > threshold * s[..., :1]).sum(-1)

    total = factor(symmetrise(torch.einsum("i,ijk,ilk->jl", w.to(L.dtype), L, L.conj())), "X", eps)[0]
    ranks, whole = rank(L), int(rank(total))
    if int(ranks.max()) < whole:
        warnings.warn(
            f"every matrix of X is singular: ranks up to {int(ranks.max())} where their sum has {whole}, so that the "
            "Bures-Wasserstein mean may not be unique. Where that matters, add shrinkage (shrink=1e-3).",
            ConditioningWarning,
            stacklevel=caller_level(),
        )
