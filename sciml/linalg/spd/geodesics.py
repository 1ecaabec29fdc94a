r"""Geodesics of positive (semi)definite matrices, and the transport map behind those of Bures and Wasserstein.

.. math:: T P T = Q, \qquad \operatorname{Log}_P Q = (T - I) P + P (T - I), \qquad
          \gamma(t) = K K^H, \quad K = (1 - t) L_P + t L_Q O,

with the unitary O that aligns the factors, L_Q O = T L_P. The factor form inverts nothing and subtracts small things
first, so that geodesics and logarithms exist at singular matrices and keep their digits between close ones.

Notation  P, Q (..., n, n); L their factors; S = L_P^H T L_P = V diag(s) V^H; X = L_P[V] solves X P + P X = V.
Cost      a singular value decomposition a pair.
Pitfalls  the Bures-Wasserstein exponential is one-to-one only where I + X is positive definite; beyond, it is refused.
References  A. Takatsu, Wasserstein geometry of Gaussian measures, 2011. R. Bhatia, T. Jain, Y. Lim, 2019.
            L. Malago, L. Montrucchio, G. Pistone, 2018.
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.spd.checks import symmetrise
from sciml.linalg.spd.distances import (
    check_parameters,
    close_residual,
    definite_factor,
    deform,
    enter_metric,
    enter_pair,
    log_cholesky_coordinates,
    logarithm,
    power,
    procrustes,
    relative_spectrum,
)
from sciml.linalg.spd.factors import factor, indefinite
from sciml.linalg.spd.functions import spectral
from sciml.linalg.spd.multipliers import lyapunov
from sciml.linalg.spd.second_derivative import refuse_second_derivative

__all__ = ["bures_exp", "bures_geodesic", "bures_log", "bures_map", "spd_geodesic"]


class _Map(torch.autograd.Function):
    """T with T P T = Q."""

    @staticmethod
    def forward(ctx, P, Q, L_P, L_Q):
        U, s, Vh = torch.linalg.svd(L_Q.mH @ L_P)
        aligned = L_Q @ (U @ Vh)
        T = symmetrise(torch.linalg.solve_triangular(L_P.expand(aligned.shape), aligned, upper=False, left=False))
        ctx.save_for_backward(P, Q, L_P, s, Vh, T)
        return T

    @staticmethod
    def backward(ctx, grad):
        P, Q, L_P, s, Vh, T = ctx.saved_tensors
        with torch.no_grad():
            # dT = L^-H Z L^-1 with Z S + S Z = L^H (dQ - T dP T) L, and its adjoint.
            L = L_P.expand(T.shape)
            half = torch.linalg.solve_triangular(L, symmetrise(grad), upper=False)
            G = torch.linalg.solve_triangular(L.mH, half, upper=True, left=False)
            sums = s[..., :, None] + s[..., None, :]
            W = Vh.mH @ ((Vh @ G @ Vh.mH) * torch.where(sums > 0, 1 / sums, 0)) @ Vh
            E = symmetrise(L @ W @ L.mH)
            grad_P, grad_Q = symmetrise(-T @ E @ T).sum_to_size(P.shape), E.sum_to_size(Q.shape)
        grads = [refuse_second_derivative("the transport map", part, P, Q, grad) for part in (grad_P, grad_Q)]
        return *grads, None, None


def transport_map(P, Q, eps=None):
    """Return T of symmetric tensors whose batches broadcast."""
    return _Map.apply(P, Q, definite_factor(P, "P", eps), factor(Q.detach(), "Q", eps)[0])


def with_gradient_of(value, expression, *inputs):
    """Return a value computed without cancellation, with the gradient of an equal expression."""
    if not any(x.requires_grad for x in inputs):
        return value
    plain = expression()
    return value.detach() + (plain - plain.detach())


def bures_map(P, Q):
    r"""Return the optimal transport map, the positive semidefinite T with :math:`T P T = Q` [1]_.

    Parameters
    ----------
    P : array, shape (..., n, n)
        Positive definite matrices, real symmetric or complex Hermitian.
    Q : array, shape (..., n, n)
        Positive semidefinite matrices in the same units. Leading axes broadcast.

    Returns
    -------
    array, shape (..., n, n)
        Dimensionless; differentiable once.

    Raises
    ------
    NotPositiveDefiniteError
        If `P` is singular or `Q` indefinite.
    InvalidInputError
        If the matrices are not square, symmetric, finite or of one size.

    References
    ----------
    .. [1] M. Knott, C. Smith, On the optimal mapping of distributions, 1984.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import bures_map
    >>> bures_map(np.diag([1.0, 4.0]), np.diag([9.0, 1.0])).round(12)
    array([[3. , 0. ],
           [0. , 0.5]])
    """
    (P, Q), leave, eps = enter_pair(P, Q, names=("P", "Q"))
    return leave(transport_map(P, Q, eps))


def bures_log(P, Q):
    r"""Return the Bures-Wasserstein logarithm, :math:`(T - I) P + P (T - I)` with the map T from P to Q.

    Parameters
    ----------
    P, Q : array, shapes (..., n, n)
        Positive semidefinite matrices, real symmetric or complex Hermitian, in the same units. Leading axes broadcast.

    Returns
    -------
    array, shape (..., n, n)
        Hermitian, in the units of `P`. Differentiable once where `P` is positive definite.

    Raises
    ------
    NotPositiveDefiniteError
        If a matrix is indefinite, or `P` is singular and a gradient is asked for.
    InvalidInputError
        If the matrices are not square, symmetric, finite or of one size.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import bures_log
    >>> bures_log(np.diag([1.0, 4.0]), np.diag([9.0, 1.0])).round(12)
    array([[ 4.,  0.],
           [ 0., -4.]])
    """
    (P, Q), leave, eps = enter_pair(P, Q, names=("P", "Q"))
    L_P, L_Q = factor(P.detach(), "P", eps)[0], factor(Q.detach(), "Q", eps)[0]
    R = close_residual(P.detach(), Q.detach(), L_P, procrustes(L_P, L_Q)[0])
    value = 2 * symmetrise(-R @ L_P.mH)

    def expression():
        return 2 * symmetrise(transport_map(P, Q, eps) @ P) - 2 * P

    return leave(with_gradient_of(value, expression, P, Q))


def bures_exp(P, V):
    r"""Return the Bures-Wasserstein exponential, :math:`(I + X) P (I + X)` where :math:`X P + P X = V`.

    Parameters
    ----------
    P : array, shape (..., n, n)
        Positive definite matrices, real symmetric or complex Hermitian.
    V : array, shape (..., n, n)
        Hermitian tangents, in the units of `P`. Leading axes broadcast.

    Returns
    -------
    array, shape (..., n, n)
        Positive semidefinite, in the units of `P`; ``bures_exp(P, bures_log(P, Q))`` is Q. Differentiable once.

    Raises
    ------
    NotPositiveDefiniteError
        If `P` is singular, or I + X is indefinite: the curve of this direction is no shortest one any more.
    InvalidInputError
        If the matrices are not square, symmetric, finite or of one size.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import bures_exp
    >>> bures_exp(np.diag([1.0, 4.0]), np.diag([4.0, -4.0])).round(12)
    array([[9., 0.],
           [0., 1.]])
    """
    (P, V), leave, eps = enter_pair(P, V, names=("P", "V"))
    definite_factor(P, "P", eps)
    T = lyapunov(P, V) + torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    values = torch.linalg.eigvalsh(T.detach())
    beyond = (values[..., 0] < -1e-10 * values[..., -1].clamp_min(1)).reshape(-1)
    if bool(beyond.any()):
        row = int(beyond.nonzero()[0, 0])
        smallest = float(values[..., 0].reshape(-1)[row])
        remedy = "The tangent V leaves the range of the exponential: shorten it."
        raise indefinite("I + X", T, row, smallest, "positive semidefinite", remedy)
    return leave(symmetrise(T @ P @ T))


def bures_geodesic(P, Q, t):
    r"""Return points of the Bures-Wasserstein geodesic, displacement interpolation between centred Gaussians.

    Parameters
    ----------
    P, Q : array, shapes (..., n, n)
        Positive semidefinite matrices, real symmetric or complex Hermitian, in the same units. Leading axes broadcast.
    t : float or array, shape (...)
        Where, from 0 (P) to 1 (Q); broadcasts against the leading axes.

    Returns
    -------
    array, shape (..., n, n)
        Positive semidefinite, with ``bures_distance(P, gamma(t)) = t bures_distance(P, Q)``. Differentiable once where
        `P` is positive definite.

    Raises
    ------
    InvalidInputError
        If t lies outside [0, 1], or the matrices are not square, symmetric, finite or of one size.
    NotPositiveDefiniteError
        If a matrix is indefinite.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import bures_geodesic
    >>> bures_geodesic(np.diag([1.0, 4.0]), np.diag([9.0, 4.0]), 0.5).round(12)
    array([[4., 0.],
           [0., 4.]])
    """
    return spd_geodesic(P, Q, t, metric="bw", names=("P", "Q"))


def spd_geodesic(A, B, t, *, metric="bw", theta=1.0, M=None, names=("A", "B")):
    r"""Return points of the geodesic from A to B in a geometry by name.

    Parameters
    ----------
    A, B : array, shapes (..., n, n)
        Positive definite matrices in the same units, for "bw", "gbw" and "euclid" also singular ones. Leading axes
        broadcast.
    t : float or array, shape (...)
        Where, from 0 (A) to 1 (B); broadcasts against the leading axes.
    metric, theta, M
        As in :func:`spd_distance`: "bw", 1 and None by default.
    names : pair of str
        The arguments' names, for messages; "A" and "B" by default.

    Returns
    -------
    array, shape (..., n, n)
        In the units of `A`; its distance from A is t times that of B. Differentiable once.

    Raises
    ------
    InvalidInputError
        If t lies outside [0, 1], an option is unknown, or the matrices are not square, symmetric, finite or of one
        size.
    NotPositiveDefiniteError
        If a matrix is indefinite, or singular where the geometry has no place for that.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import spd_geodesic
    >>> A, B = np.array([[1.0]]), np.array([[16.0]])
    >>> [round(float(spd_geodesic(A, B, 0.5, metric=name)[0, 0]), 6) for name in ("bw", "riemann", "euclid")]
    [6.25, 4.0, 8.5]
    """
    metric, theta = check_parameters(metric, theta, M)
    (A, B), leave, eps = enter_pair(A, B, names=names)
    t = _enter_time(t, A, B)
    M = enter_metric(M, A)
    A, B = deform(A, names[0], metric, theta, M, eps), deform(B, names[1], metric, theta, M, eps)
    G = symmetrise(_GEODESICS[metric](A, B, t, names, eps))
    if metric == "gbw":
        C = torch.linalg.cholesky(M)
        G = symmetrise(C @ G @ C.mH)
    if theta != 1:
        G = power(G, "the geodesic", 1 / theta, eps)
    return leave(G)


def _enter_time(t, A, B):
    (t,), _ = enter(t, names=("t",), device=A.device)
    if t.is_complex() or bool(((t < 0) | (t > 1)).any()):
        raise InvalidInputError(
            f"t must be numbers from 0 to 1; got {t.detach().cpu().numpy().tolist()}. Points beyond the ends are not "
            "on a shortest path."
        )
    try:
        torch.broadcast_shapes(A.shape[:-2], B.shape[:-2], t.shape)
    except RuntimeError:
        raise InvalidInputError(
            f"t must broadcast against the leading axes of the matrices; got shape {tuple(t.shape)} for shapes "
            f"{tuple(A.shape)} and {tuple(B.shape)}."
        ) from None
    return t.to(torch.float64)[..., None, None]


def _bures(A, B, t, names, eps):
    L_A, L_B = factor(A.detach(), names[0], eps)[0], factor(B.detach(), names[1], eps)[0]
    K = L_A - t * procrustes(L_A, L_B)[0]

    def expression():
        eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        step = (1 - t) * eye + t * transport_map(A, B, eps)
        return step @ A @ step

    return with_gradient_of(K @ K.mH, expression, A, B, t)


def _affine_invariant(A, B, t, names, eps):
    L_A, L_B = definite_factor(A, names[0], eps), definite_factor(B, names[1], eps)
    shape = torch.broadcast_shapes(A.shape, B.shape)
    ell, U = relative_spectrum(L_A.expand(shape), A.detach(), B.detach(), L_B.expand(shape))
    K = L_A @ U * (t[..., 0] / 2 * ell).exp()[..., None, :]

    def expression():
        L = torch.linalg.cholesky(A).expand(shape)
        half = torch.linalg.solve_triangular(L, B, upper=False)
        W = symmetrise(torch.linalg.solve_triangular(L.mH, half, upper=True, left=False))
        return L @ spectral(t * spectral(W, "log"), "exp") @ L.mH

    return with_gradient_of(K @ K.mH, expression, A, B, t)


def _log_euclidean(A, B, t, names, eps):
    return spectral((1 - t) * logarithm(A, names[0], eps) + t * logarithm(B, names[1], eps), "exp")


def _log_cholesky(A, B, t, names, eps):
    K, L = log_cholesky_coordinates(A, names[0], eps), log_cholesky_coordinates(B, names[1], eps)
    G = (1 - t) * K + t * L
    G = G.tril(-1) + torch.diag_embed(G.diagonal(dim1=-2, dim2=-1).real.exp()).to(G.dtype)
    return G @ G.mH


def _euclidean(A, B, t, names, eps):
    return (1 - t) * A + t * B


_GEODESICS = {
    "bw": _bures,
    "gbw": _bures,
    "airm": _affine_invariant,
    "logeuclid": _log_euclidean,
    "logchol": _log_cholesky,
    "euclid": _euclidean,
}
