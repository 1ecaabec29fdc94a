r"""Isometric coordinates of positive definite matrices in the tangent space at a reference.

.. math:: z_{ij} = \sqrt{(b_i + b_j) / 2}\; (U^H (T - I) U)_{ij}, \qquad \|z\| = d_{BW}(M, X),

with M = U diag(b) U^H and the transport map T from M to X; for the other geometries the logarithm of the whitened
matrix, or the difference of logarithms. The Hermitian array z becomes a vector, off-diagonal entries times sqrt 2, so
that Euclidean lengths of vectors are distances from the reference exactly.

Notation  X (..., n, n) data; M (n, n) reference; b, U its eigenvalues and eigenvectors; C = U diag(b)^{1/2}, M = C C^H;
          T X the optimal map; D = U^H (L_X O) - diag(b)^{1/2}, the residual of aligned factors in the eigenbasis.
Cost      one singular value or eigenvalue decomposition a matrix.
Pitfalls  in "channel" coordinates of the same geometry the scales of large and small eigenvalues mix, and a
          standardiser of single features loses accuracy. In the eigenbasis a coordinate changes its sign with its
          eigenvectors; these are turned so that their largest entry is positive.
References  L. Malago, L. Montrucchio, G. Pistone, Wasserstein Riemannian geometry of Gaussian densities, 2018.
            A. Barachant, S. Bonnet, M. Congedo, C. Jutten, Multiclass brain-computer interface classification by
            Riemannian geometry, 2012.
"""

from __future__ import annotations

import math

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.spd.checks import as_spd, eigh_symmetric, symmetrise
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
from sciml.linalg.spd.quotients import divided_difference
from sciml.linalg.spd.second_derivative import refuse_second_derivative
from sciml.validation import check_option

__all__ = ["from_tangent", "tangent_coordinates", "unvech", "vech"]


# ---------------------------------------------------------------- Hermitian matrices as vectors


def vech(S):
    r"""Return the upper triangle of Hermitian matrices as vectors of the same length, :math:`\|z\| = \|S\|_F`.

    Parameters
    ----------
    S : array, shape (..., n, n)
        Real symmetric or complex Hermitian matrices.

    Returns
    -------
    array, shape (..., n (n + 1) / 2), or (..., n n) for complex matrices
        Rows of the upper triangle one after the other, off-diagonal entries times sqrt 2; for complex matrices their
        real parts, then the imaginary parts of the entries above the diagonal. In the units of `S`.

    Raises
    ------
    InvalidInputError
        If `S` is not square, Hermitian and finite.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import vech
    >>> vech(np.array([[1.0, 2.0], [2.0, 3.0]])).round(4)
    array([1.    , 2.8284, 3.    ])
    """
    (S,), leave = enter(S, names=("S",))
    return leave(stack(as_spd("S", S)))


def unvech(z, *, hermitian=False):
    r"""Return the Hermitian matrices of vectors, the inverse of :func:`vech`.

    Parameters
    ----------
    z : array, shape (..., n (n + 1) / 2), or (..., n n) for complex matrices
        Real coordinates.
    hermitian : bool
        Whether the matrices are complex; False by default.

    Returns
    -------
    array, shape (..., n, n)
        In the units of `z`.

    Raises
    ------
    InvalidInputError
        If the last axis has a length that belongs to no n.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import unvech
    >>> unvech([1.0, 0.0, 3.0])
    array([[1., 0.],
           [0., 3.]])
    """
    (z,), leave = enter(z, names=("z",))
    return leave(unstack("z", z, hermitian))


def stack(S):
    """Return the coordinates of Hermitian tensors; see :func:`vech`."""
    n = S.shape[-1]
    i, j = torch.triu_indices(n, n, device=S.device)
    weight = torch.where(i == j, S.real.new_ones(()), math.sqrt(2.0))
    entries = S[..., i, j]
    if not S.is_complex():
        return entries * weight
    above = i != j
    return torch.cat([entries.real * weight, entries.imag[..., above] * math.sqrt(2.0)], -1)


def unstack(name, z, hermitian):
    """Return the Hermitian tensors of coordinates; see :func:`unvech`."""
    length = z.shape[-1] if z.ndim else 0
    n = math.isqrt(length) if hermitian else (math.isqrt(8 * length + 1) - 1) // 2
    if z.is_complex() or n < 1 or length != (n * n if hermitian else n * (n + 1) // 2):
        rule = "n n" if hermitian else "n (n + 1) / 2"
        raise InvalidInputError(
            f"{name} must hold {rule} real coordinates in its last axis; got shape {tuple(z.shape)} of "
            f"{'complex' if z.is_complex() else 'real'} numbers. Pass hermitian={not hermitian} for "
            f"{'real' if hermitian else 'complex'} matrices."
        )
    i, j = torch.triu_indices(n, n, device=z.device)
    weight = torch.where(i == j, z.new_ones(()), math.sqrt(0.5))
    upper = z[..., : len(i)] * weight
    if hermitian:
        above = i != j
        imaginary = torch.zeros_like(upper)
        imaginary[..., above] = z[..., len(i) :] * math.sqrt(0.5)
        upper = torch.complex(upper, imaginary)
    S = upper.new_zeros((*z.shape[:-1], n, n))
    S[..., i, j] = upper
    S[..., j, i] = upper.conj()
    return S


# ---------------------------------------------------------------- logarithms with gradients in X


class _BuresLog(torch.autograd.Function):
    """z in the eigenbasis of M, with M = U diag(b) U^H; real or complex Hermitian (..., n, n)."""

    @staticmethod
    def forward(ctx, X, L_X, M, b, U):
        root = b.clamp_min(0).sqrt()
        C = U * root
        # D = U^H (L_X O - C): the small difference first, the division by small eigenvalues never.
        R = close_residual(M, X, C, procrustes(C, L_X)[0])
        D = -U.mH @ R
        total = root.square()[:, None] + root.square()[None, :]
        weight = torch.where(total > 0, (2 * total).rsqrt(), 0)
        ctx.save_for_backward(X, L_X, C, root)
        return 2 * symmetrise(D * root) * weight

    @staticmethod
    def backward(ctx, grad):
        X, L_X, C, root = ctx.saved_tensors
        with torch.no_grad():
            # z_ij = sqrt((b_i + b_j) / 2) (S_ij / sqrt(b_i b_j) - delta_ij) with S = (C^H X C)^{1/2} = V s V^H.
            _, s, Vh = torch.linalg.svd(L_X.mH @ C)
            total = root.square()[:, None] + root.square()[None, :]
            product = root[:, None] * root[None, :]
            grad_S = symmetrise(grad) * torch.where(product > 0, (total / 2).sqrt() / product, 0)
            sums = s[..., :, None] + s[..., None, :]
            inner = (Vh @ grad_S @ Vh.mH) * torch.where(sums > 0, 1 / sums, 0)
            grad_X = symmetrise(C @ (Vh.mH @ inner @ Vh) @ C.mH).sum_to_size(X.shape)
        return refuse_second_derivative("tangent coordinates", grad_X, X, grad), *[None] * 4


class _AffineLog(torch.autograd.Function):
    """log(L^-1 X L^-H) for the Cholesky factor L of M."""

    @staticmethod
    def forward(ctx, X, L_X, M, L):
        shape = torch.broadcast_shapes(X.shape, M.shape)
        ell, V = relative_spectrum(L.expand(shape), M, X, L_X.expand(shape))
        ctx.save_for_backward(X, L, ell, V)
        return symmetrise((V * ell[..., None, :]) @ V.mH)

    @staticmethod
    def backward(ctx, grad):
        X, L, ell, V = ctx.saved_tensors
        with torch.no_grad():
            x = ell.exp()
            F = divided_difference("log", x[..., :, None], x[..., None, :])
            inner = V @ (F * (V.mH @ symmetrise(grad) @ V)) @ V.mH
            half = torch.linalg.solve_triangular(L.mH, inner, upper=True)
            whole = torch.linalg.solve_triangular(L, half, upper=False, left=False)
            grad_X = symmetrise(whole).sum_to_size(X.shape)
        return refuse_second_derivative("tangent coordinates", grad_X, X, grad), None, None, None


def _bw_log(X, M, b, U, eps):
    return _BuresLog.apply(X, factor(X.detach(), "X", eps)[0], M, b, U)


def _airm_log(X, M, b, U, eps):
    L = definite_factor(M, "reference", eps)
    H = _AffineLog.apply(X, definite_factor(X, "X", eps), M, L)
    turn = _turn(L, b, U)
    return turn @ H @ turn.mH


def _turn(L, b, U):
    """Return the unitary that turns the frame of the Cholesky factor into that of the eigenvectors, b^-1/2 U^H L.

    Eigenvalues of a badly conditioned matrix are wrong in their first digits, its factor is not: only the nearest
    unitary keeps the lengths.
    """
    V, _, Wh = torch.linalg.svd(torch.linalg.solve_triangular(L, U * b.clamp_min(0).sqrt(), upper=False))
    return (V @ Wh).mH


def _logeuclid_log(X, M, b, U, eps):
    return U.mH @ (logarithm(X, "X", eps) - logarithm(M, "reference", eps)) @ U


def _logchol_log(X, M, b, U, eps):
    K, L = log_cholesky_coordinates(X, "X", eps), log_cholesky_coordinates(M, "reference", eps)
    difference = K - L
    diagonal = torch.diag_embed(difference.diagonal(dim1=-2, dim2=-1))
    # As a Hermitian array whose upper triangle, times sqrt 2, has the entries of the factor.
    return diagonal + (difference.tril(-1) + difference.tril(-1).mH) / math.sqrt(2.0)


def _euclid_log(X, M, b, U, eps):
    return U.mH @ (X - M) @ U


_LOGARITHMS = {
    "bw": _bw_log,
    "gbw": _bw_log,
    "airm": _airm_log,
    "logeuclid": _logeuclid_log,
    "logchol": _logchol_log,
    "euclid": _euclid_log,
}


# ---------------------------------------------------------------- and back


def _bw_exp(Z, M, b, U):
    root = b.clamp_min(0).sqrt()
    half = ((root.square()[:, None] + root.square()[None, :]) / 2).sqrt()
    T = torch.where(half > 0, Z / half, 0) + torch.eye(len(b), dtype=Z.dtype, device=Z.device)
    values = torch.linalg.eigvalsh(T.detach())
    beyond = (values[..., 0] < -1e-10 * values[..., -1].clamp_min(1)).reshape(-1)
    if bool(beyond.any()):
        row = int(beyond.nonzero()[0, 0])
        value = float(values[..., 0].reshape(-1)[row])
        raise indefinite(
            "I + Log", T, row, value, "positive semidefinite", "The vector z leaves the range of the map: shorten it."
        )
    K = U @ T * root  # U T diag(b)^{1/2}
    return K @ K.mH


def _airm_exp(Z, M, b, U):
    L = definite_factor(M, "reference")
    C = L @ _turn(L, b, U).mH
    return C @ spectral(Z, "exp") @ C.mH


def _logeuclid_exp(Z, M, b, U):
    return spectral(logarithm(M, "reference") + U @ Z @ U.mH, "exp")


def _logchol_exp(Z, M, b, U):
    L = log_cholesky_coordinates(M, "reference")
    K = L + Z.tril(-1) * math.sqrt(2.0)
    diagonal = (L + Z).diagonal(dim1=-2, dim2=-1).real.exp().to(Z.dtype)
    K = K.tril(-1) + torch.diag_embed(diagonal)
    return K @ K.mH


def _euclid_exp(Z, M, b, U):
    return M + U @ Z @ U.mH


_EXPONENTIALS = {
    "bw": _bw_exp,
    "gbw": _bw_exp,
    "airm": _airm_exp,
    "logeuclid": _logeuclid_exp,
    "logchol": _logchol_exp,
    "euclid": _euclid_exp,
}


# ---------------------------------------------------------------- the door


def eigenbasis(M):
    """Return ascending eigenvalues and eigenvectors whose largest entry is positive, so that no sign is by chance."""
    b, U = eigh_symmetric(M)
    # Entries of equal size, as in a circulant matrix, differ by rounding: the first of those within a millionth counts.
    size = U.abs()
    first = (size > (1 - 1e-6) * size.amax(-2, keepdim=True)).to(size.dtype).argmax(-2, keepdim=True)
    entry = U.gather(-2, first)
    return b, U * (entry.conj() / entry.abs())


def _reference(reference, metric, theta, M, eps):
    """Return the deformed reference and its eigenbasis."""
    if reference.requires_grad:
        raise InvalidInputError(
            "reference must not ask for a gradient: coordinates in its eigenbasis have none where eigenvalues repeat; "
            f"got a tensor of shape {tuple(reference.shape)} that does. Pass reference.detach()."
        )
    if reference.ndim != 2:
        raise InvalidInputError(f"reference must be one matrix (n, n); got shape {tuple(reference.shape)}.")
    reference = deform(reference, "reference", metric, theta, M, eps)
    return reference, *eigenbasis(reference)


def tangent_coordinates(X, reference, *, metric="airm", theta=1.0, M=None, basis="eig"):
    r"""Return coordinates in the tangent space at a reference whose Euclidean length is the distance from it.

    Parameters
    ----------
    X : array, shape (..., n, n)
        Positive definite matrices; for "bw", "gbw" and "euclid" also singular ones.
    reference : array, shape (n, n)
        Positive definite, in the units of `X`; usually a mean.
    metric : str
        "airm" (the default, the usual choice for covariances of signals), "bw", "gbw", "logeuclid", "logchol",
        "euclid" or another name of theirs.
    theta : float
        Power by which the geometry is deformed, not 0; 1 by default.
    M : array, shape (n, n), or None
        Metric parameter of "gbw"; None for all other metrics.
    basis : {"eig", "channel"}
        Coordinates along the eigenvectors of the reference (the default: large and small ones stay apart), or along
        the channels. Both have the same length. "logchol" knows one basis only, that of its triangular factor.

    Returns
    -------
    array, shape (..., n (n + 1) / 2), or (..., n n) for complex matrices
        z of the order of :func:`vech`, with ``norm(z) = spd_distance(reference, X)``. Differentiable once in `X`.

    Raises
    ------
    InvalidInputError
        If an option is unknown, the matrices are not square, symmetric, finite or of one size, or the reference asks
        for a gradient.
    NotPositiveDefiniteError
        If a matrix is indefinite, or singular where the geometry has no place for that.

    Notes
    -----
    Where the reference of "bw" is singular, directions along its kernel are zero; a barycentre's kernel is common to
    all its matrices, so that nothing is lost for those.

    References
    ----------
    L. Malago, L. Montrucchio, G. Pistone, Wasserstein Riemannian geometry of Gaussian densities, 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import tangent_coordinates
    >>> tangent_coordinates(np.diag([4.0, 9.0]), np.diag([1.0, 1.0]), metric="bw").round(12)
    array([1., 0., 2.])
    """
    check_option("basis", basis, ("eig", "channel"))
    metric, theta = check_parameters(metric, theta, M)
    (X, reference), leave, eps = enter_pair(X, reference, names=("X", "reference"))
    M = enter_metric(M, X)
    center, b, U = _reference(reference, metric, theta, M, eps)
    X = deform(X, "X", metric, theta, M, eps)
    Z = symmetrise(_LOGARITHMS[metric](X, center, b, U, eps))
    if basis == "channel" and metric != "logchol":
        Z = symmetrise(U @ Z @ U.mH)
    return leave(stack(Z) / abs(theta))


def from_tangent(z, reference, *, metric="airm", theta=1.0, M=None, basis="eig"):
    r"""Return the matrices of tangent coordinates, the inverse of :func:`tangent_coordinates`.

    Parameters
    ----------
    z : array, shape (..., n (n + 1) / 2), or (..., n n) where the reference is complex
        Coordinates.
    reference : array, shape (n, n)
        The same as in the way there, and so are `metric`, `theta`, `M` and `basis`.
    metric : str
        "airm" by default.
    theta : float
        1 by default.
    M : array, shape (n, n), or None
        None by default.
    basis : {"eig", "channel"}
        "eig" by default.

    Returns
    -------
    array, shape (..., n, n)
        Positive semidefinite matrices in the units of the reference.

    Raises
    ------
    NotPositiveDefiniteError
        If a vector of "bw" leads out of the range in which geodesics are shortest, or the reference is singular where
        the geometry has no place for that.
    InvalidInputError
        If an option is unknown, or the lengths do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import from_tangent
    >>> from_tangent(np.array([1.0, 0.0, 2.0]), np.eye(2), metric="bw").round(12)
    array([[4., 0.],
           [0., 9.]])
    """
    check_option("basis", basis, ("eig", "channel"))
    metric, theta = check_parameters(metric, theta, M)
    (z, reference), leave = enter(z, reference, names=("z", "reference"))
    reference = as_spd("reference", reference)
    working, eps = reference.dtype, torch.finfo(reference.dtype).eps
    long = torch.complex128 if reference.is_complex() else torch.float64
    hermitian = reference.is_complex()
    Z = unstack("z", (z.real if z.is_complex() else z).double(), hermitian) * abs(theta)
    if Z.shape[-1] != reference.shape[-1]:
        raise InvalidInputError(
            f"z must hold coordinates of matrices with {reference.shape[-1]} rows; got {z.shape[-1]} numbers, which "
            f"belong to {Z.shape[-1]} rows."
        )
    M = enter_metric(M, reference.to(long))
    center, b, U = _reference(reference.to(long), metric, theta, M, eps)
    if metric in ("airm", "logeuclid", "logchol"):
        definite_factor(center, "reference", eps)
    if basis == "channel" and metric != "logchol":
        Z = U.mH @ Z @ U
    X = symmetrise(_EXPONENTIALS[metric](symmetrise(Z), center, b, U))
    if metric == "gbw":
        C = torch.linalg.cholesky(M)
        X = symmetrise(C @ X @ C.mH)
    if theta != 1:
        X = power(X, "X", 1 / theta, eps)
    return leave(X.to(working))
