r"""Hessians of mean problems in the frame of the mean, and conjugate gradients for them.

At M = C C^H a tangent is C S C^H with Hermitian S, and the Hessians of both the Bures-Wasserstein and the
affine-invariant variance have one form,

.. math:: H[S] = \sum_i w_i Q_i \bigl( h_i \circ (Q_i^H S Q_i) \bigr) Q_i^H,

with unitary Q_i and symmetric h_i >= 0 from a decomposition of each matrix in that frame.

Notation  Q (N, n, n); h (N, n, n); w (N,); S (n, n) Hermitian.
Cost      4 N n^3 real products a step, no decomposition.
Pitfalls  h is as badly conditioned as the matrices for Bures-Wasserstein: precondition it.
References  see :mod:`sciml.linalg.spd.barycentres` and :mod:`sciml.linalg.spd.karcher`.
"""

from __future__ import annotations

import torch

from sciml.linalg.spd.checks import symmetrise

__all__ = ["apply_hessian", "solve_hessian"]


def apply_hessian(Q, h, w, S):
    """Return H[S].

    Parameters
    ----------
    Q, h : torch.Tensor, shape (N, n, n)
        Eigenvectors in columns, and multipliers.
    w : torch.Tensor, shape (N,)
        Weights.
    S : torch.Tensor, shape (n, n)
        Hermitian.

    Returns
    -------
    torch.Tensor, shape (n, n)

    Examples
    --------
    >>> import torch
    >>> Q, h, w = torch.eye(2)[None], torch.full((1, 2, 2), 3.0), torch.ones(1)
    >>> apply_hessian(Q, h, w, torch.eye(2)).tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """
    inner = (Q.mH @ S @ Q) * (h * w[:, None, None])
    return symmetrise((Q @ inner @ Q.mH).sum(0))


def solve_hessian(Q, h, w, G, *, tol, max_iter, precondition=None):
    """Return (S, relative residual) with H[S] = G, by preconditioned conjugate gradients.

    Parameters
    ----------
    Q, h, w : torch.Tensor
        See :func:`apply_hessian`.
    G : torch.Tensor, shape (n, n)
        Right side, Hermitian.
    tol : float
        Stop when ``norm(G - H[S]) <= tol * norm(G)``.
    max_iter : int
        Steps at most.
    precondition : callable or None
        Approximate inverse of H; None for the identity.

    Returns
    -------
    S : torch.Tensor, shape (n, n)
    residual : float
        Of the best iterate, which is the one returned.

    Examples
    --------
    >>> import torch
    >>> Q, h, w = torch.eye(2)[None], torch.full((1, 2, 2), 4.0), torch.ones(1)
    >>> solve_hessian(Q, h, w, torch.eye(2), tol=1e-6, max_iter=5)[0].tolist()
    [[0.25, 0.0], [0.0, 0.25]]
    """
    precondition = precondition or (lambda R: R)
    product = lambda A, B: torch.sum(A.conj() * B).real  # noqa: E731
    S, R = torch.zeros_like(G), G
    size = float(torch.linalg.vector_norm(G))
    if size == 0:
        return S, 0.0
    Z = precondition(R)
    P, rho = Z, product(R, Z)
    best, residual = S, 1.0
    for _ in range(max_iter):
        A = apply_hessian(Q, h, w, P)
        curvature = product(P, A)
        if not curvature > 0:  # the kernel of a singular problem, or rounding
            break
        alpha = rho / curvature
        S, R = S + alpha * P, R - alpha * A
        now = float(torch.linalg.vector_norm(R)) / size
        if now < residual:
            best, residual = S, now
        if residual <= tol:
            break
        Z = precondition(R)
        rho, before = product(R, Z), rho
        P = Z + (rho / before) * P
    return best, residual
