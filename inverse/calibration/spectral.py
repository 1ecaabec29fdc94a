r"""The smallest eigenpairs of :math:`M s = \lambda N s`: inverse gains free of the bias of white noise, and sigma^2.

Plain least squares and the smallest singular vector of the stacked system are inconsistent, since noise enters the
matrix: E M = M_0 + sigma^2 diag(N). The generalised eigenproblem takes just that out, and its smallest eigenvalue
estimates sigma^2.

Notation  M (b, m, m), N (b, m) of the elimination; B = N^-1/2 M N^-1/2 with eigenvalues lam ascending; s = N^-1/2 v;
          basis (m, k): s = basis h.
Cost      a full eigendecomposition up to m = 384, a Cholesky factor and block inverse iterations beyond.
Pitfalls  lam_1 of exact data is rounding, and may be negative by as much.
References
    S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, 2018, arXiv
    1611.04196 (the smallest singular vector; the normaliser N is ours).
"""

import torch

from sciml.inverse.calibration.bases import hermitian

__all__ = ["smallest_pairs", "spectral_start"]

_FULL = 384  # up to here LAPACK's full decomposition takes no longer than the iterations and their check
_BLOCK = 4
_ROUNDS = 40


def spectral_start(M, N, active, n_pairs=3, basis=None):
    """Return inverse gains, the smallest eigenvalues and the null directions of M s = lam N s.

    Parameters
    ----------
    M : Tensor, shape (b, m, m)
        Hermitian, positive semidefinite.
    N : Tensor, shape (b, m)
        Normaliser, positive where active.
    active : Tensor of bool, shape (b, m)
        Sensors that take part.
    n_pairs : int
        Pairs wanted; fewer come where there are fewer. 3 by default.
    basis : Tensor, shape (m, k), or None
        Subspace of the inverse gains; all by default.

    Returns
    -------
    s : Tensor, shape (b, m)
        Zero where not active (without a basis).
    eigenvalues : Tensor, shape (b, k)
        Ascending; estimates of the noise variance if the data were ambiguous in as many ways.
    vectors : Tensor, shape (b, m, k)
        Orthonormal, of B; the first belongs to s.

    Examples
    --------
    >>> import torch
    >>> M = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])  # s^T M s = (s_1 - s_2)^2
    >>> s, lam, _ = spectral_start(M, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool))
    >>> bool((s[0, 0] - s[0, 1]).abs() < 1e-6), bool(lam[0, 0].abs() < 1e-6)
    (True, True)
    """
    if basis is not None:
        # In the coordinates h: B^H M B h = lam B^H N B h, whitened by the factor of the right side.
        weights = torch.where(active, N, 0)
        L = torch.linalg.cholesky(hermitian(basis.mH @ (weights[..., None] * basis)))
        inner = torch.linalg.solve_triangular(L, basis.mH @ M @ basis, upper=False)
        inner = torch.linalg.solve_triangular(L, inner.mH, upper=False)
        lam, V = smallest_pairs(hermitian(inner), n_pairs)
        h = torch.linalg.solve_triangular(L.mH, V, upper=True)
        vectors = weights.sqrt()[..., None] * (basis @ h)
        return basis @ h[..., 0] if basis.ndim > 2 else h[..., 0] @ basis.mT, lam, vectors
    root = torch.where(active, N, 1.0).sqrt()
    B = M / root[..., :, None] / root[..., None, :]
    # Sensors that do not take part are moved to the far end of the spectrum.
    out = torch.where(active, 0.0, 2 * torch.linalg.vector_norm(B, dim=(-2, -1))[..., None] + 1)
    B = torch.where((active[..., :, None] & active[..., None, :]), B, 0) + torch.diag_embed(out.to(B.dtype))
    n_pairs = min(n_pairs, int(active.sum(1).min())) if len(active) else n_pairs
    lam, V = smallest_pairs(hermitian(B), max(n_pairs, 1))
    V = torch.where(active[..., None], V, 0)
    return V[..., 0] / root, lam, V


def smallest_pairs(B, k):
    """Return the k smallest eigenvalues (b, k) and vectors (b, m, k) of Hermitian positive semidefinite matrices.

    Parameters
    ----------
    B : Tensor, shape (b, m, m)
        Matrices.
    k : int
        Pairs wanted.

    Examples
    --------
    >>> import torch
    >>> smallest_pairs(torch.diag(torch.tensor([3.0, 1.0, 2.0]))[None], 2)[0]
    tensor([[1., 2.]])
    """
    m = B.shape[-1]
    k = min(k, m)
    if m > _FULL:
        found = _inverse_iterations(B, k)
        if found is not None:
            return found
    lam, V = torch.linalg.eigh(B)
    return lam[..., :k], V[..., :k]


def _inverse_iterations(B, k):
    """Block inverse iterations with Ritz values, or None where they do not settle."""
    b, m, _ = B.shape
    scale = torch.diagonal(B, dim1=-2, dim2=-1).real.mean(-1)
    eps = torch.finfo(scale.dtype).eps
    shift = 1e-12 * scale[:, None].expand(b, m)
    L, info = torch.linalg.cholesky_ex(B + torch.diag_embed(shift.to(B.dtype)))
    if bool(info.any()):
        return None
    size = k + _BLOCK
    # A fixed start, so that the same matrix gives the same answer.
    grid = torch.arange(m, dtype=scale.dtype, device=B.device)[:, None]
    V = torch.cos(grid * (1 + torch.arange(size, dtype=scale.dtype, device=B.device)) * 0.7390851332151607)
    V = V.to(B.dtype).expand(b, m, size)
    last = None
    for _ in range(_ROUNDS):
        V, _ = torch.linalg.qr(torch.cholesky_solve(V, L))
        BV = B @ V
        lam, Y = torch.linalg.eigh(hermitian(V.mH @ BV))
        V, BV = V @ Y, BV @ Y
        rest = torch.linalg.vector_norm(BV[..., :k] - V[..., :k] * lam[..., None, :k], dim=-2)
        rest = rest.amax(-1) / scale
        # A residual that no longer falls is at rounding; that of the first pairs must be far below their distance.
        if bool((rest < 1e3 * eps).all()):
            return lam[..., :k], V[..., :k]
        last = rest
    return (lam[..., :k], V[..., :k]) if last is not None and bool((last < 1e-9).all()) else None
