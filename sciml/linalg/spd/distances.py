r"""Distances of positive (semi)definite matrices in five geometries, without cancellation and with exact gradients.

.. math:: d_{BW}(A, B) = \min_O \| L_A - L_B O \|_F, \qquad A = L_A L_A^H,\; B = L_B L_B^H,\; O^H O = I

is the 2-Wasserstein distance of centred Gaussians. The trace formula subtracts numbers of the size of A to find d^2 and
loses everything below the square root of eps; here the residual of the two factors is formed first and is small by
itself; for close pairs it is found from B - A, so that d is as exact as the data. The affine-invariant distance
likewise takes log(1 + mu) of the relative difference where that is small.

Notation  A, B (..., n, n); L their factors; O unitary; T the transport map, T A T = B; C C^H = M the metric parameter.
Cost      a factorisation of each matrix and one singular value decomposition (about 12 n^3) a pair.
Pitfalls  rounding of the data leaves a relative error of about eps ||L|| / d, and more at high condition. The
          derivative of d at A = B is the subgradient 0; d^2 has derivative 0 there. Second derivatives raise. On
          singular A the gradient of the Bures-Wasserstein distance is that along matrices of the same range: across
          it, there is none.
References  R. Bhatia, T. Jain, Y. Lim, On the Bures-Wasserstein distance between positive definite matrices, 2019.
            A. Han, B. Mishra, P. Jawanpuria, J. Gao, Learning with symmetric positive definite matrices via generalized
            Bures-Wasserstein geometry, 2021. Y. Thanwerdas, X. Pennec, 2023. Z. Lin, Riemannian geometry of symmetric
            positive definite matrices via Cholesky decomposition, 2019.
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.spd.checks import as_spd, eigh_symmetric, symmetrise
from sciml.linalg.spd.factors import check_definite, factor
from sciml.linalg.spd.functions import spectral
from sciml.linalg.spd.metrics import canonical_metric
from sciml.linalg.spd.second_derivative import refuse_second_derivative
from sciml.validation import check_number

__all__ = [
    "affine_invariant_distance",
    "bures_distance",
    "log_cholesky_distance",
    "log_euclidean_distance",
    "spd_distance",
]

_SINGULAR_REMEDY = 'Estimate covariances with shrinkage (shrink=1e-3), or use metric="bw", which allows singular ones.'
_CLOSE = 1e-3  # distance relative to the root of the trace below which digits are restored
_CONTRACTION, _STEPS = 0.03, 12  # 0.03^12 is below eps
_FAR = 0.01  # squared distance relative to the traces above which their difference keeps 13 digits
_LOWEST, _HIGHEST = -0.95, 20.0  # relative differences whose logarithm keeps 13 digits


# ---------------------------------------------------------------- factors and maps without gradients


def procrustes(L_A, L_B):
    """Return (L_A - L_B O, O) with the unitary O that brings the two factors closest."""
    U, _, Vh = torch.linalg.svd(L_B.mH @ L_A)
    O = U @ Vh  # noqa: E741  # the letter of the formula
    return L_A - L_B @ O, O


def close_residual(A, B, L_A, R):
    r"""Return the residual with its digits restored for pairs that are close, where it is mostly rounding of factors.

    There T = I + H with H A + A H + H A H = B - A, solved by fixed-point steps in the eigenbasis of A: whatever error
    its decomposition has moves A and B alike, and only the rounding of B - A remains. The residual is -H L_A.
    """
    d, size = (torch.linalg.vector_norm(X, dim=(-2, -1)) for X in (R, L_A))
    close = d < _CLOSE * size
    if not bool(close.any()):
        return R
    A, B, L_A = (X.expand(R.shape)[close] for X in (A, B, L_A))
    s, U = eigh_symmetric(A)
    Delta = U.mH @ (B - A) @ U
    root = s.clamp_min(0).sqrt()
    inverse = torch.where(root > 0, 1 / root, torch.inf)
    relative = torch.linalg.matrix_norm(Delta * inverse[:, :, None] * inverse[:, None, :])
    good = relative < _CONTRACTION  # the steps contract; false for a singular matrix
    sums = s[:, :, None] + s[:, None, :]
    H = Delta / sums
    for _ in range(_STEPS):
        H = (Delta - (H * s[:, None, :]) @ H) / sums
    R = R.clone()
    R[close] = torch.where(good[:, None, None], -U @ H @ U.mH @ L_A, R[close])
    return R


def right_divide(R, L, singular):
    """Return R L^+, by triangular solves, or by the pseudo-inverse for the matrices whose factor is singular."""
    if not bool(singular.any()):
        return torch.linalg.solve_triangular(L, R, upper=False, left=False)
    # The columns of a singular factor are orthogonal only in the balanced frame, so that no transpose will do.
    lost = singular[..., None, None]
    eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
    whole = torch.linalg.solve_triangular(torch.where(lost, eye, L), R, upper=False, left=False)
    return torch.where(lost, R @ torch.linalg.pinv(L, rtol=1e-7), whole)


def relative_spectrum(L, A, B, L_B, *, vectors=True):
    r"""Return (ell, U) with :math:`L^{-1} B L^{-H} = U e^{ell} U^H`, where A = L L^H and B = L_B L_B^H.

    The relative difference is decomposed first, which keeps all digits of close matrices. Where that leaves too few of
    small eigenvalues, the singular values of the product of the factors are taken, which keep twice as many. Without
    vectors U is None.
    """
    half = torch.linalg.solve_triangular(L, B - A, upper=False)
    E = symmetrise(torch.linalg.solve_triangular(L.mH, half, upper=True, left=False))
    mu, U = eigh_symmetric(E) if vectors else (torch.linalg.eigvalsh(E), None)
    ell = mu.log1p()
    wide = ~((mu[..., 0] > _LOWEST) & (mu[..., -1] < _HIGHEST))
    if bool(wide.any()):
        W = torch.linalg.solve_triangular(L.expand(E.shape)[wide], L_B.expand(E.shape)[wide], upper=False)
        if vectors:
            U[wide], s, _ = torch.linalg.svd(W)
        else:
            s = torch.linalg.svdvals(W)
        ell[wide] = 2 * s.log()
    return ell, U


def bures_values(A, B, L_A, L_B):
    """Return distances without gradients: by traces where that loses nothing, by residuals for the pairs left."""
    trace = lambda L: L.abs().square().sum((-2, -1))  # noqa: E731
    total = trace(L_A) + trace(L_B)
    gap = total - 2 * torch.linalg.svdvals(L_B.mH @ L_A).sum(-1)
    d = gap.clamp_min(0).sqrt()
    left = ~(gap > _FAR * total)
    if bool(left.any()):
        shape = (*d.shape, *A.shape[-2:])
        P, Q, L_P, L_Q = (X.expand(shape)[left] for X in (A, B, L_A, L_B))
        R = close_residual(P, Q, L_P, procrustes(L_P, L_Q)[0])
        d[left] = torch.where((P == Q).all(-1).all(-1), 0, torch.linalg.vector_norm(R, dim=(-2, -1)))
    return d


class _Bures(torch.autograd.Function):
    """d(A, B); the factors are taken before the two batches are broadcast against each other."""

    @staticmethod
    def forward(ctx, A, B, L_A, L_B, lost_A, lost_B):
        R, O = procrustes(L_A, L_B)  # noqa: E741
        R = close_residual(A, B, L_A, R)
        same = (A == B).all(-1).all(-1)
        d = torch.where(same, 0, torch.linalg.vector_norm(R, dim=(-2, -1)))
        # Below this the direction of R is rounding, and the subgradient zero is as good as any.
        noise = A.shape[-1] * torch.finfo(d.dtype).eps * torch.linalg.vector_norm(L_A, dim=(-2, -1))
        inverse = torch.where(d > noise, 1 / d, 0)
        ctx.save_for_backward(A, B, R, O, inverse, L_A, L_B, lost_A, lost_B)
        return d

    @staticmethod
    def backward(ctx, grad):
        A, B, R, O, inverse, L_A, L_B, lost_A, lost_B = ctx.saved_tensors  # noqa: E741
        batch, grad_A, grad_B = R.shape, None, None
        with torch.no_grad():
            weight = (grad * inverse / 2)[..., None, None]
            # I - T_AB = (L_A - L_B O) L_A^-1 needs no subtraction of maps; the other one is its mirror image.
            if ctx.needs_input_grad[0]:
                G = right_divide(R, L_A.expand(batch), lost_A.expand(batch[:-2]))
                grad_A = symmetrise(weight * G).sum_to_size(A.shape)
            if ctx.needs_input_grad[1]:
                G = right_divide(-R @ O.mH, L_B.expand(batch), lost_B.expand(batch[:-2]))
                grad_B = symmetrise(weight * G).sum_to_size(B.shape)
        grads = [refuse_second_derivative("the distance", G, A, B, grad) for G in (grad_A, grad_B)]
        return *grads, None, None, None, None


class _AffineInvariant(torch.autograd.Function):
    """d(A, B) = ||log(L_A^-1 B L_A^-H)||."""

    @staticmethod
    def forward(ctx, A, B, L_A, L_B):
        batch = torch.broadcast_shapes(A.shape, B.shape)
        L = L_A.expand(batch)
        ell, U = relative_spectrum(L, A, B, L_B.expand(batch))
        d = torch.linalg.vector_norm(ell, dim=-1)
        ctx.save_for_backward(A, B, ell, U, d, L)
        return d

    @staticmethod
    def backward(ctx, grad):
        A, B, ell, U, d, L = ctx.saved_tensors
        with torch.no_grad():
            slope = torch.where(d > 0, grad / d, 0)[..., None] * ell
            Z = torch.linalg.solve_triangular(L.mH, U, upper=True)  # A = Z^-H Z^-1, B = Z^-H e^ell Z^-1
            grad_A = symmetrise((Z * -slope[..., None, :]) @ Z.mH).sum_to_size(A.shape)
            grad_B = symmetrise((Z * (slope * (-ell).exp())[..., None, :]) @ Z.mH).sum_to_size(B.shape)
        grads = [refuse_second_derivative("the distance", G, A, B, grad) for G in (grad_A, grad_B)]
        return *grads, None, None


# ---------------------------------------------------------------- distances of tensors that are known to be right


def bures(A, B, eps=None):
    """Return the Bures-Wasserstein distances of symmetric tensors whose batches broadcast."""
    (L_A, lost_A), (L_B, lost_B) = factor(A.detach(), "A", eps), factor(B.detach(), "B", eps)
    return bures_of_factors(A, B, L_A, L_B, lost_A, lost_B)


def bures_of_factors(A, B, L_A, L_B, lost_A, lost_B):
    """Return the distances of matrices that are factored already; `lost` says which factors are singular."""
    if A.requires_grad or B.requires_grad:
        return _Bures.apply(A, B, L_A, L_B, lost_A, lost_B)
    return bures_values(A, B, L_A, L_B)


def affine_invariant(A, B, eps=None):
    """Return the affine-invariant distances of symmetric tensors whose batches broadcast."""
    return affine_invariant_of_factors(A, B, definite_factor(A, "A", eps), definite_factor(B, "B", eps))


def affine_invariant_of_factors(A, B, L_A, L_B):
    """Return the distances of matrices that are factored already."""
    if A.requires_grad or B.requires_grad:
        return _AffineInvariant.apply(A, B, L_A, L_B)
    return torch.linalg.vector_norm(relative_spectrum(L_A, A, B, L_B, vectors=False)[0], dim=-1)


def definite_factor(A, name, eps=None):
    """Return the Cholesky factor without gradient, or say which matrix has none."""
    L, singular = factor(A.detach(), name, eps)
    check_definite(name, A.detach(), singular, _SINGULAR_REMEDY)
    return L


def log_cholesky(A, B, eps=None):
    """Return the log-Cholesky distances of symmetric tensors whose batches broadcast."""
    K, L = (log_cholesky_coordinates(X, name, eps) for X, name in ((A, "A"), (B, "B")))
    return length(K - L, 2)


def log_cholesky_coordinates(A, name="A", eps=None):
    """Return the strictly lower part of the Cholesky factor and the logarithm of its diagonal."""
    definite_factor(A, name, eps)
    L = torch.linalg.cholesky(A)
    return L.tril(-1) + torch.diag_embed(L.diagonal(dim1=-2, dim2=-1).real.log()).to(L.dtype)


def log_euclidean(A, B, eps=None):
    """Return the log-Euclidean distances of symmetric tensors whose batches broadcast."""
    return length(logarithm(A, "A", eps) - logarithm(B, "B", eps), 2)


def logarithm(A, name="A", eps=None):
    """Return log A, or say which matrix has none."""
    definite_factor(A, name, eps)
    return spectral(A, "log")


def length(X, axes):
    """Return the norm over the last axes; its derivative at zero is zero."""
    return torch.linalg.vector_norm(X, dim=tuple(range(-axes, 0)))


_DISTANCES = {
    "bw": bures,
    "gbw": bures,
    "airm": affine_invariant,
    "logeuclid": log_euclidean,
    "logchol": log_cholesky,
    "euclid": lambda A, B, eps=None: length(A - B, 2),
}


# ---------------------------------------------------------------- the door


def enter_pair(A, B, names=("A", "B")):
    """Return ((A, B), leave, eps): symmetric tensors of at least double precision that broadcast, and theirs of old.

    float32 data are computed in float64: the square root of their eps would not leave enough digits of a distance.
    """
    (A, B), leave = enter(A, B, names=names)
    A, B = as_spd(names[0], A), as_spd(names[1], B)
    if A.shape[-1] != B.shape[-1]:
        raise InvalidInputError(
            f"{names[0]} and {names[1]} must hold matrices of one size; got shapes {tuple(A.shape)} and "
            f"{tuple(B.shape)}. Use the same channels for both."
        )
    try:
        torch.broadcast_shapes(A.shape, B.shape)
    except RuntimeError:
        raise InvalidInputError(
            f"the leading axes of {names[0]} and {names[1]} must broadcast; got shapes {tuple(A.shape)} and "
            f"{tuple(B.shape)}. For all pairs of two lists use pairwise_distances."
        ) from None
    working, eps = A.dtype, torch.finfo(A.dtype).eps
    long = torch.complex128 if A.is_complex() else torch.float64
    back = lambda X: leave(X.to(working if X.is_complex() else working.to_real()))  # noqa: E731
    return (A.to(long), B.to(long)), back, eps


def check_parameters(metric, theta, M):
    """Return the short name of the metric and theta as a float, checked."""
    metric = canonical_metric(metric)
    theta = check_number("theta", theta)
    if theta == 0:
        raise InvalidInputError("theta must not be 0; got 0. For the limit at 0 use metric='logeuclid'.")
    if (metric == "gbw") != (M is not None):
        raise InvalidInputError(
            f"M must be given with metric='gbw' and with no other; got metric={metric!r} and M of type "
            f"{type(M).__name__}. Pass M=, or use metric='bw', where M is the identity."
        )
    return metric, theta


def deform(X, name, metric, theta, M, eps):
    """Return X^theta, in the coordinates in which the metric parameter M is the identity."""
    if theta != 1:
        X = power(X, name, theta, eps)
    if metric == "gbw":
        # Any factor of M serves: the geometry does not see rotations.
        C = torch.linalg.cholesky(M)
        half = torch.linalg.solve_triangular(C, X, upper=False)
        X = symmetrise(torch.linalg.solve_triangular(C.mH, half, upper=True, left=False))
    return X


def power(X, name, theta, eps):
    """Return X^theta; eigenvalues that are rounding errors are zero, since a root would make them large."""
    _, lost = factor(X.detach(), name, eps)
    if theta < 0:
        check_definite(name, X.detach(), lost, "Estimate covariances with shrinkage (shrink=1e-3), or take theta > 0.")
    s, U = eigh_symmetric(X)
    rounding = s <= 2 * X.shape[-1] * eps * s[..., -1:]
    return spectral(X, "pow", theta, eig=(torch.where(lost[..., None] & rounding, 0, s), U))


def enter_metric(M, like):
    """Return the metric parameter as a symmetric positive definite tensor beside `like`, or None."""
    if M is None:
        return None
    (M,), _ = enter(M, names=("M",), device=like.device)
    M = as_spd("M", M).to(like.dtype)
    if M.shape[-1] != like.shape[-1]:
        raise InvalidInputError(f"M must have {like.shape[-1]} rows like the matrices; got shape {tuple(M.shape)}.")
    definite_factor(M, "M")
    return M


def bures_distance(A, B, *, squared=False):
    r"""Return the Bures-Wasserstein distance, :math:`\min_O \|L_A - L_B O\|_F` over unitary O [1]_.

    It is the root of :math:`\operatorname{tr} A + \operatorname{tr} B - 2 \operatorname{tr} (A^{1/2} B A^{1/2})^{1/2}`,
    the 2-Wasserstein distance of centred Gaussians with covariances A and B.

    Parameters
    ----------
    A, B : array, shapes (..., n, n)
        Positive semidefinite matrices, real symmetric or complex Hermitian, in the same units; singular ones are
        legal. Leading axes broadcast.
    squared : bool
        Return the squared distance, that of the residual and not a difference of traces; False by default.

    Returns
    -------
    array, shape (...)
        In units of the square root of `A` (those of `A` if squared); a number for two single matrices. Its relative
        error is that of rounding the data, eps sqrt(tr A) / d at moderate condition. Differentiable once: d^2 by I - T
        with the transport map T, zero at A = B.

    Raises
    ------
    NotPositiveDefiniteError
        If a matrix has an eigenvalue below -1e-10 of its largest one; with its index.
    InvalidInputError
        If the matrices are not square, symmetric, finite or of one size.

    References
    ----------
    .. [1] R. Bhatia, T. Jain, Y. Lim, On the Bures-Wasserstein distance between positive definite matrices, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import bures_distance
    >>> round(float(bures_distance(np.diag([1.0, 4.0]), np.diag([4.0, 4.0]))), 12)
    1.0
    """
    (A, B), leave, eps = enter_pair(A, B)
    d = bures(A, B, eps)
    return leave(d.square() if squared else d)


def affine_invariant_distance(A, B, *, squared=False):
    r"""Return the affine-invariant distance, :math:`\|\log(A^{-1/2} B A^{-1/2})\|_F` [1]_.

    Parameters
    ----------
    A, B : array, shapes (..., n, n)
        Positive definite matrices, real symmetric or complex Hermitian, in the same units. Leading axes broadcast.
    squared : bool
        Return the squared distance; False by default.

    Returns
    -------
    array, shape (...)
        Dimensionless; the same for C A C^H and C B C^H with any invertible C. Differentiable once.

    Raises
    ------
    NotPositiveDefiniteError
        If a matrix is singular or indefinite.
    InvalidInputError
        If the matrices are not square, symmetric, finite or of one size.

    References
    ----------
    .. [1] R. Bhatia, Positive Definite Matrices, chapter 6, 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import affine_invariant_distance
    >>> round(float(affine_invariant_distance(np.eye(4), np.e * np.eye(4))), 12)
    2.0
    """
    (A, B), leave, eps = enter_pair(A, B)
    d = affine_invariant(A, B, eps)
    return leave(d.square() if squared else d)


def log_euclidean_distance(A, B, *, squared=False):
    r"""Return the log-Euclidean distance, :math:`\|\log A - \log B\|_F` [1]_.

    Parameters
    ----------
    A, B : array, shapes (..., n, n)
        Positive definite matrices, real symmetric or complex Hermitian, in the same units. Leading axes broadcast.
    squared : bool
        Return the squared distance; False by default.

    Returns
    -------
    array, shape (...)
        Dimensionless. Differentiable once.

    Raises
    ------
    NotPositiveDefiniteError
        If a matrix is singular or indefinite.
    InvalidInputError
        If the matrices are not square, symmetric, finite or of one size.

    References
    ----------
    .. [1] V. Arsigny, P. Fillard, X. Pennec, N. Ayache, Geometric means in a novel vector space structure on symmetric
       positive-definite matrices, 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import log_euclidean_distance
    >>> round(float(log_euclidean_distance(np.eye(4), np.e * np.eye(4))), 12)
    2.0
    """
    (A, B), leave, eps = enter_pair(A, B)
    d = log_euclidean(A, B, eps)
    return leave(d.square() if squared else d)


def log_cholesky_distance(A, B, *, squared=False):
    r"""Return the log-Cholesky distance of the factors: strictly lower parts, and logarithms of the diagonals [1]_.

    Parameters
    ----------
    A, B : array, shapes (..., n, n)
        Positive definite matrices, real symmetric or complex Hermitian, in the same units. Leading axes broadcast.
    squared : bool
        Return the squared distance; False by default.

    Returns
    -------
    array, shape (...)
        It mixes logarithms with entries, hence depends on the units and on the order of the channels. Differentiable
        once.

    Raises
    ------
    NotPositiveDefiniteError
        If a matrix is singular or indefinite.
    InvalidInputError
        If the matrices are not square, symmetric, finite or of one size.

    References
    ----------
    .. [1] Z. Lin, Riemannian geometry of symmetric positive definite matrices via Cholesky decomposition, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import log_cholesky_distance
    >>> round(float(log_cholesky_distance(np.eye(4), np.e * np.eye(4))), 12)
    1.0
    """
    (A, B), leave, eps = enter_pair(A, B)
    d = log_cholesky(A, B, eps)
    return leave(d.square() if squared else d)


def spd_distance(A, B, *, metric="bw", theta=1.0, M=None):
    r"""Return the distance of a geometry by name, :math:`d_\theta(A, B) = d(A^\theta, B^\theta) / |\theta|` [1]_.

    Parameters
    ----------
    A, B : array, shapes (..., n, n)
        Positive definite matrices in the same units, for "bw", "gbw" and "euclid" also singular ones. Leading axes
        broadcast.
    metric : str
        "bw" (the default, which allows singular matrices), "gbw", "airm", "logeuclid", "logchol", "euclid" or another
        name of theirs, such as "riemann" or "wasserstein".
    theta : float
        Power by which the geometry is deformed, not 0; 1 by default, which leaves it alone.
    M : array, shape (n, n) or (..., n, n), or None
        Metric parameter of "gbw", positive definite: distances are those of :math:`C^{-1} A^\theta C^{-H}` with
        :math:`M = C C^H`. None for all other metrics.

    Returns
    -------
    array, shape (...)
        In units of A^(theta / 2) for "bw", of A^theta for "euclid", else dimensionless. Differentiable once.

    Raises
    ------
    InvalidInputError
        If an option is unknown, or the matrices are not square, symmetric, finite or of one size.
    NotPositiveDefiniteError
        If a matrix is indefinite, or singular where the geometry has no place for that.

    References
    ----------
    .. [1] Y. Thanwerdas, X. Pennec, O(n)-invariant Riemannian metrics on SPD matrices, 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import spd_distance
    >>> A, B = np.diag([1.0, 4.0]), np.diag([4.0, 16.0])
    >>> [round(float(spd_distance(A, B, metric=name)), 4) for name in ("bw", "riemann", "euclid")]
    [2.2361, 1.9605, 12.3693]
    """
    metric, theta = check_parameters(metric, theta, M)
    (A, B), leave, eps = enter_pair(A, B)
    M = enter_metric(M, A)
    A, B = deform(A, "A", metric, theta, M, eps), deform(B, "B", metric, theta, M, eps)
    return leave(_DISTANCES[metric](A, B, eps) / abs(theta))
