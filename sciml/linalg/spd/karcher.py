r"""The affine-invariant (Karcher, geometric) mean of positive definite matrices, by Barzilai-Borwein steps.

.. math:: \min_M \sum_i w_i \|\log(M^{-1/2} X_i M^{-1/2})\|_F^2, \qquad
          J = \sum_i w_i \log(C^{-1} X_i C^{-H}) = 0, \quad M = C C^H.

The factor C is carried along, C <- C exp(t J / 2). In this moving frame the parallel transport of the old gradient is
the old gradient itself, so that the step length of Barzilai and Borwein is one line [2]_.

Notation  X (N, n, n), w (N,), C (n, n), J (n, n) minus half the gradient; ell logarithms of eigenvalues of the whitened
          X_i, delta their range; t step length.
Cost      a decomposition of N (n, n) matrices a step; 10 to 20 steps.
Pitfalls  eigenvalues of the whitened matrices would leave a residual of eps times their condition; singular values of
          their factors, taken here, leave about 50 eps at any condition.
References  .. [1] D. Bini, B. Iannazzo, Computing the Karcher mean of symmetric positive definite matrices, 2013.
            .. [2] B. Iannazzo, M. Porcelli, The Riemannian Barzilai-Borwein method with nonmonotone line search and
            the matrix geometric mean computation, 2018.
"""

from __future__ import annotations

import warnings

import torch

from sciml.exceptions import ConvergenceWarning
from sciml.iterate import Step, caller_level, run
from sciml.linalg.spd.checks import eigh_symmetric, symmetrise
from sciml.linalg.spd.distances import definite_factor
from sciml.linalg.spd.factors import factor
from sciml.linalg.spd.frame_hessian import solve_hessian
from sciml.linalg.spd.mean_result import MeanResult, enter_matrices
from sciml.linalg.spd.quotients import divided_difference
from sciml.linalg.spd.second_derivative import refuse_second_derivative

__all__ = ["affine_invariant_mean", "affine_invariant_mean_steps"]

_DERIVATIVE_TOL = 1e-12
_NARROW = 5.0  # logarithm of a condition of 150, at which eigenvalues keep all but two digits
_SHORTEST, _LONGEST = 0.05, 2.0


def affine_invariant_mean(X, weights=None, *, tol=1e-12, max_iter=200, callback=None, on_failure=None):
    r"""Return the affine-invariant mean, :math:`\operatorname{argmin}_M \sum_i w_i d_{AI}^2(M, X_i)` [1]_.

    Parameters
    ----------
    X : array, shape (N, n, n)
        Positive definite matrices, real symmetric or complex Hermitian.
    weights : array, shape (N,), or None
        Not negative; any sum. None (the default) weighs all the same.
    tol : float
        Stop when ``norm(J) <= tol * sqrt(n)`` for the mean J of the whitened logarithms, which is the relative
        accuracy of the mean; 1e-12 by default.
    max_iter : int
        Steps at most; 200 by default.
    callback : callable or None
        ``callback(n_iter, step)``; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when `tol` was not met; None (the default) asks the configuration, which warns.

    Returns
    -------
    MeanResult
        ``mean`` (n, n) in the units of `X`; gradients flow through by implicit differentiation.

    Raises
    ------
    NotPositiveDefiniteError
        If a matrix is singular or indefinite.
    InvalidInputError
        If the matrices are not square, symmetric and finite, or weights do not match them.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not met.

    References
    ----------
    .. [1] D. Bini, B. Iannazzo, Computing the Karcher mean of symmetric positive definite matrices, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import affine_invariant_mean
    >>> affine_invariant_mean(np.array([np.diag([1.0, 4.0]), np.diag([9.0, 4.0])])).mean.round(10)
    array([[3., 0.],
           [0., 4.]])
    """
    (X, w), leave, eps, scale = enter_matrices(X, weights)
    M, ended = mean_of_tensors(X, w, eps, tol=tol, max_iter=max_iter, callback=callback, on_failure=on_failure)
    settings = {
        "method": "barzilai-borwein", "tol": tol, "scale": scale, "n_matrices": len(X), "dtype": str(X.dtype)
    }  # fmt: skip
    return MeanResult.of(ended, settings, mean=leave(M), residual=ended.history["criterion"][-1], metric="airm")


def mean_of_tensors(X, w, eps, *, tol=1e-12, max_iter=200, callback=None, on_failure=None):
    """Return (mean, run) of scaled tensors; the mean carries the implicit gradient."""
    kept = w.detach() > 0
    L = definite_factor(X, "X", eps)[kept]
    weights = w.detach()[kept]
    # The log-Euclidean mean of the matrices whitened by the arithmetic one: near, equal for commuting matrices, and it
    # follows any mixture of the channels.
    C = factor(torch.einsum("i,ijk->jk", weights.to(X.dtype), X.detach()[kept]))[0]
    C = C @ _exp(_gradient(L, weights, C, float("inf"))[0] / 2)
    steps = affine_invariant_mean_steps(L, weights, C)
    ended = run(
        steps,
        name="affine_invariant_mean",
        tol=tol,
        max_iter=max_iter,
        callback=callback,
        on_failure=on_failure,
        dtype="float64",
    )
    C = ended.value
    M = symmetrise(C @ C.mH)
    if X.requires_grad or w.requires_grad:
        M = _ImplicitKarcher.apply(X, w, C, M)
    return M, ended


def affine_invariant_mean_steps(L, w, C):
    """Yield factors C of the iterates M = C C^H, the start first; see :func:`affine_invariant_mean`.

    Parameters
    ----------
    L : torch.Tensor, shape (N, n, n)
        Factors of the matrices.
    w : torch.Tensor, shape (N,)
        Weights that sum to one.
    C : torch.Tensor, shape (n, n)
        A factor of the starting point.

    Returns
    -------
    generator of Step
        Of C, shape (n, n).
    """
    n = len(C)
    J, delta = _gradient(L, w, C, float("inf"))
    # Curvature is at most the mean of delta / 2 coth(delta / 2): the step of [1] that is safe for it.
    half = (delta / 2).clamp_min(1e-8)
    safe = t = 1 / float((w * half / half.tanh()).sum())
    smallest = float("inf")
    while True:
        residual = float(torch.linalg.vector_norm(J)) / n**0.5
        yield Step(C, residual, {"step_length": t})
        smallest = min(smallest, residual)
        C = C @ _exp(t / 2 * J)
        old, (J, delta) = J, _gradient(L, w, C, float(delta.max()))
        curvature = float(torch.sum(old.conj() * (old - J)).real)
        t = t * float(torch.linalg.vector_norm(old)) ** 2 / curvature if curvature > 0 else safe
        t = min(max(t, _SHORTEST), _LONGEST)
        if float(torch.linalg.vector_norm(J)) / n**0.5 > 2 * smallest:
            t = safe  # a long step went wrong


def _gradient(L, w, C, spread):
    """Return the mean of the whitened logarithms, and the range of the logarithms of the eigenvalues of each.

    `spread` is the largest range a step ago: where it is small, eigenvalues are as good as singular values and cheaper.
    """
    ell, U = _eigenvalues(L, C) if spread < _NARROW else _whitened(L, C)
    J = torch.einsum("i,ijk->jk", w.to(L.dtype), (U * ell[:, None, :]) @ U.mH)
    return symmetrise(J), ell.amax(-1) - ell.amin(-1)


def _whitened(L, C):
    """Return (ell, U) with C^-1 X C^-H = U e^ell U^H; singular values of the factor keep small eigenvalues."""
    U, s, _ = torch.linalg.svd(torch.linalg.solve(C, L))
    return 2 * s.log(), U


def _eigenvalues(L, C):
    W = torch.linalg.solve(C, L)
    x, U = eigh_symmetric(symmetrise(W @ W.mH))
    return x.clamp_min(torch.finfo(x.dtype).tiny).log(), U


def _exp(S):
    s, U = eigh_symmetric(S)
    return (U * s.exp()) @ U.mH


class _ImplicitKarcher(torch.autograd.Function):
    """The mean as a function of matrices and weights, differentiated through J = 0."""

    @staticmethod
    def forward(ctx, X, w, C, M):
        ctx.save_for_backward(X, w, C)
        return M.clone()

    @staticmethod
    def backward(ctx, grad):
        X, w, C = ctx.saved_tensors
        grad_X = grad_w = None
        with torch.no_grad():
            ell, U = _whitened(definite_factor(X, "X"), C)
            # d/dM of log of the whitened matrix: (x_a + x_b) / 2 log[x_a, x_b] = (delta / 2) coth(delta / 2).
            delta = (ell[:, :, None] - ell[:, None, :]).abs() / 2
            h = torch.where(delta > 1e-4, delta / delta.clamp_min(1e-4).tanh(), 1 + delta.square() / 3)
            Y, residual = solve_hessian(
                U, h, w, symmetrise(C.mH @ symmetrise(grad) @ C), tol=_DERIVATIVE_TOL, max_iter=500
            )
            if residual > 1e3 * _DERIVATIVE_TOL:
                warnings.warn(
                    f"the derivative of affine_invariant_mean was solved to a relative residual of {residual:.1e} "
                    "only: the matrices are badly conditioned. Add shrinkage.",
                    ConvergenceWarning,
                    stacklevel=caller_level(),
                )
            if ctx.needs_input_grad[0]:
                x = ell.exp()
                F = divided_difference("log", x[:, :, None], x[:, None, :]) * w[:, None, None]
                inner = U @ (F * (U.mH @ Y @ U)) @ U.mH
                half = torch.linalg.solve(C.mH, inner)
                grad_X = symmetrise(torch.linalg.solve(C, half, left=False))
            if ctx.needs_input_grad[1]:
                logs = (U * ell[:, None, :]) @ U.mH
                grad_w = torch.sum(logs * Y.conj(), dim=(-2, -1)).real
        grads = [refuse_second_derivative("affine_invariant_mean", G, X, w, grad) for G in (grad_X, grad_w)]
        return *grads, None, None
