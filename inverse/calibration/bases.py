r"""Orthonormal bases of ranges, batched, and the Hermitian matrices made of them.

Notation  B (..., m, n) matrices of full or deficient rank; Q (b or 1, l or 1, m, k) bases, columns orthonormal or zero;
          t (b, l, m) rows that stand in diagonal matrices.
Pitfalls  QR does not tell the rank; its smallest pivot is looked at, and the singular values where that is small.
"""

import torch

__all__ = [
    "freedom_of",
    "hermitian",
    "inverse_or_zero",
    "joint_pairs",
    "least_squares",
    "noise_pairs",
    "over_gains",
    "pairs",
    "project",
    "range_basis",
    "shared_pairs",
]


def range_basis(B):
    """Return an orthonormal basis of the range of each matrix, with zero columns where the rank is smaller.

    Parameters
    ----------
    B : Tensor, shape (..., m, n)
        Any rank, any scaling of the columns.

    Returns
    -------
    Tensor, shape (..., m, min(m, n))
        Columns orthonormal or zero.

    Examples
    --------
    >>> import torch
    >>> range_basis(torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])).norm(dim=0).round(decimals=6)
    tensor([1., 0.])
    """
    m, n = B.shape[-2:]
    size = torch.linalg.vector_norm(B, dim=-2, keepdim=True)
    B = B / torch.where(size > 0, size, 1.0)
    if n < m:
        Q, R = torch.linalg.qr(B)
        # The smallest pivot overestimates the smallest singular value, so that a wide margin is kept.
        pivot = torch.diagonal(R, dim1=-2, dim2=-1).abs().amin(-1)
        poor = pivot < max(1e-9, 1e3 * torch.finfo(pivot.dtype).eps)
        if not bool(poor.any()):
            return Q
        Q = Q.clone()
        Q[poor] = _by_singular_values(B[poor])
        return Q
    return _by_singular_values(B)


def _by_singular_values(B):
    U, S, _ = torch.linalg.svd(B, full_matrices=False)
    limit = max(B.shape[-2:]) * torch.finfo(S.dtype).eps * S.amax(-1, keepdim=True)
    return U * (limit < S)[..., None, :]


def least_squares(B, z):
    """Return the least-squares solutions, NaN where the columns of B are dependent.

    Parameters
    ----------
    B : Tensor, shape (b or 1, l or 1, m, n)
        Matrices.
    z : Tensor, shape (b, l, m)
        Right sides.

    Returns
    -------
    Tensor, shape (b, l, n)
        Solutions.

    Examples
    --------
    >>> import torch
    >>> least_squares(torch.tensor([[[[1.0], [1.0]]]]), torch.tensor([[[1.0, 3.0]]])).round(decimals=3)
    tensor([[[2.]]])
    """
    m, n = B.shape[-2:]
    size = torch.linalg.vector_norm(B, dim=-2, keepdim=True)
    B = B / torch.where(size > 0, size, 1.0)
    if n > m:
        return z.new_full((*z.shape[:-1], n), float("nan"))
    Q, R = torch.linalg.qr(B)
    poor = torch.diagonal(R, dim1=-2, dim2=-1).abs().amin(-1) < 1e-13
    R = torch.where(poor[..., None, None], torch.eye(n, dtype=R.dtype, device=R.device), R)
    if B.shape[1] == 1:
        c = z @ Q[:, 0].conj()  # (b, l, n)
        x = torch.linalg.solve_triangular(R[:, 0], c.mT, upper=True).mT
    else:
        c = Q.mH @ z[..., None]
        x = torch.linalg.solve_triangular(R, c, upper=True)[..., 0]
    x = x / torch.where(size > 0, size, 1.0)[..., 0, :]
    return torch.where(poor[..., None], float("nan"), x)


def freedom_of(Q):
    """Return one minus the leverage of each row, zero where that is rounding."""
    free = 1 - Q.abs().square().sum(-1)
    return torch.where(free > 1e-10, free, 0.0)


def inverse_or_zero(d):
    """1 / d, zero where d is, so that sensors that do not take part stay out."""
    return torch.where(d == 0, 0, 1 / torch.where(d == 0, 1, d))


def project(Q, z):
    """P z for bases Q (b or 1, l or 1, m, k) and z (b, l, m)."""
    if Q.shape[1] == 1:
        return (z @ Q[:, 0].conj()) @ Q[:, 0].mT
    return (Q @ (Q.mH @ z[..., None]))[..., 0]


def noise_pairs(Q):
    """Return (I - P) o conj(P) for P = Q Q^H: what white noise leaves where a signal was projected; (..., m, m)."""
    return (torch.diag_embed(Q.abs().square().sum(-1)) - (Q @ Q.mH).abs().square()).to(Q.dtype)


def over_gains(K, d):
    """Return K_ij / (conj(d_i) d_j), zero where a gain is zero."""
    inverse = inverse_or_zero(d)
    return inverse.conj()[..., :, None] * K * inverse[..., None, :]


def pairs(t, Q):
    """Return the sum over l of diag(conj t_l) (I - Q_l Q_l^H) diag(t_l)."""
    b, count, m = t.shape
    if Q.shape[1] == 1:
        return shared_pairs(t, Q[:, 0])
    Z = (t.conj()[..., None] * Q).permute(0, 2, 1, 3).reshape(b, m, -1)
    return torch.diag_embed(t.abs().square().sum(1)) - Z @ Z.mH


def shared_pairs(t, Q):
    """The same where all l have one basis Q (b or 1, m, k)."""
    C = t.mH @ t
    return torch.diag_embed(torch.diagonal(C, dim1=-2, dim2=-1).real) - (Q @ Q.mH) * C


def joint_pairs(t, Q):
    """Return diag(sum |t|^2) - Z Z^H with Z the sum over l of diag(conj t_l) Q_l, Q (b or 1, l, m, k)."""
    Z = torch.einsum("bli,blik->bik", t.conj(), Q.expand(len(t), -1, -1, -1))
    return torch.diag_embed(t.abs().square().sum(1)) - Z @ Z.mH


def hermitian(M):
    return (M + M.mH) / 2
