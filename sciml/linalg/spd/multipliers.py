r"""Bivariate multipliers in the eigenbasis of G (double operator integrals), with exact derivatives in both arguments.

.. math:: Y = U \bigl[ \varphi(g_i, g_j) \circ (U^H V U) \bigr] U^H, \qquad G = U g U^H

Lyapunov's equation :math:`G Y + Y G = V` has :math:`\varphi = 1/(x+y)`; Bures-Wasserstein parallel transport from the
identity to G :math:`\sqrt{(x+y)/2}`, and back :math:`\sqrt{2/(x+y)}`. The adjoint in V is the same multiplier; in G it
is :math:`2 \sum_j K_{ikj} D_{ij} \bar V_{kj}`, with :math:`K_{ikj} = \varphi[g_i, g_k; g_j]` the divided difference in
the first argument, in closed form: exact at G = I, where the derivative of eigenvectors does not exist.

Notation  G (..., n, n) Hermitian positive definite; V (..., n, n) Hermitian; D the gradient of Y in the eigenbasis.
Cost      one eigendecomposition of G and four products a matrix of V; the adjoint in G two products for Lyapunov and
          the divided differences, n^3 operations in blocks of bounded memory for the transports.
Pitfalls  first derivatives only.
References R. Bhatia, Matrix Analysis, Springer 1997, chapters V and VII; R. Bhatia, T. Jain, Y. Lim, On the
          Bures-Wasserstein distance between positive definite matrices, 2019, arXiv 1712.01504.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.spd.checks import as_spd, check_eigenvalues, eigh_symmetric, symmetrise
from sciml.linalg.spd.second_derivative import refuse_second_derivative
from sciml.validation import check_option

__all__ = [
    "MULTIPLIERS",
    "lyapunov",
    "multiply_in_basis",
    "schur_multiplier",
    "transport_from_identity",
    "transport_to_identity",
]

MULTIPLIERS = ("lyapunov", "from_identity", "to_identity", "sqrt", "invsqrt", "inv")
_BLOCK = 2**22  # entries of one temporary of the n^3 contraction: 32 MiB


def _phi(kind, g):
    """Return the multiplier, (..., n, n)."""
    x, y = g.unsqueeze(-1), g.unsqueeze(-2)
    if kind == "lyapunov":
        return (x + y).reciprocal()
    if kind == "from_identity":
        return (0.5 * (x + y)).sqrt()
    if kind == "to_identity":
        return (0.5 * (x + y)).rsqrt()
    if kind == "inv":
        return -x.reciprocal() * y.reciprocal()
    rx, ry = x.clamp(min=0).sqrt(), y.clamp(min=0).sqrt()
    return (rx + ry).reciprocal() if kind == "sqrt" else -1 / rx / ry / (rx + ry)


def _contract(P, D, W):
    """Return sum_j D_ij W_kj / (P_ij + P_kj), in blocks of rows i."""
    n = P.shape[-1]
    rows = max(1, min(n, _BLOCK // max(1, D[..., :1].numel() * n)))
    parts = []
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        sums = P[..., block, None, :] + P[..., None, :, :]
        parts.append((D[..., block, None, :] * W[..., None, :, :] / sums).sum(-1))
    return torch.cat(parts, -2)


def _adjoint_in_g(kind, g, D, W):
    """Return 2 sum_j K_ikj D_ij W_kj, where W is the conjugate of V in the eigenbasis."""
    phi = _phi(kind, g)
    if kind == "lyapunov":  # K = -1/((a+y)(b+y))
        return -2 * (phi * D) @ (phi * W).mT
    if kind == "from_identity":  # K = 1/(2 (phi(a,y) + phi(b,y)))
        return _contract(phi, D, W)
    if kind == "to_identity":  # K = -1/(2 p q (p + q)), p and q the roots at (a, y) and (b, y)
        return -_contract(phi.reciprocal(), phi * D, phi * W)
    if kind == "inv":  # K = 1/(a b y)
        outer = g.reciprocal()
        return 2 * outer.unsqueeze(-1) * (D * outer.unsqueeze(-2)) @ W.mT * outer.unsqueeze(-2)
    r = g.clamp(min=0).sqrt()
    sums = (r.unsqueeze(-1) + r.unsqueeze(-2)).reciprocal()
    inner = (sums * D) @ (sums * W).mT
    if kind == "sqrt":  # K = -1/((ra+rb)(rb+rc)(ra+rc)) with r the roots
        return -2 * sums * inner
    # K = (ra+rb+rc)/(ra rb rc (ra+rb)(rb+rc)(ra+rc))
    q = r.reciprocal()
    weighted = (sums * D * q.unsqueeze(-2)) @ (sums * W).mT
    return 2 * q.unsqueeze(-1) * q.unsqueeze(-2) * (weighted + sums * inner)


class _Multiplier(torch.autograd.Function):
    @staticmethod
    def forward(ctx, G, V, kind, g, U):
        ctx.save_for_backward(g, U, V, G)
        ctx.kind, ctx.shape = kind, G.shape
        return symmetrise(U @ (_phi(kind, g) * (U.mH @ V @ U)) @ U.mH)

    @staticmethod
    def backward(ctx, grad):
        g, U, V, G = ctx.saved_tensors
        grad_G = grad_V = None
        with torch.no_grad():
            D = U.mH @ symmetrise(grad) @ U
            if ctx.needs_input_grad[1]:
                grad_V = symmetrise(U @ (_phi(ctx.kind, g) * D) @ U.mH).sum_to_size(V.shape)
            if ctx.needs_input_grad[0]:
                inner = _adjoint_in_g(ctx.kind, g, D, (U.mH @ V @ U).conj().expand(D.shape))
                grad_G = symmetrise(U @ inner @ U.mH).sum_to_size(ctx.shape)
        grads = [refuse_second_derivative("the multiplier", part, G, V, grad) for part in (grad_G, grad_V)]
        return *grads, None, None, None


def multiply_in_basis(G, V, kind, g=None, U=None):
    """Return the multiplier on tensors, without checks; the eigendecomposition of G may be handed in.

    Parameters
    ----------
    G : torch.Tensor, shape (..., n, n)
        Hermitian positive definite, in any unit; symmetrised here.
    V : torch.Tensor, shape (..., n, n)
        Hermitian; broadcasts against `G` on the left; symmetrised here.
    kind : str
        One of `MULTIPLIERS`.
    g, U : torch.Tensor or None
        Eigenvalues (..., n) and eigenvectors (..., n, n) of `G`; None (the default) computes them.

    Returns
    -------
    torch.Tensor, shape (..., n, n)

    Examples
    --------
    >>> import torch
    >>> multiply_in_basis(torch.eye(2), torch.ones(2, 2), "lyapunov").tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    G, V = symmetrise(G), symmetrise(V)
    if g is None:
        g, U = eigh_symmetric(G)
    return _Multiplier.apply(G, V, kind, g, U)


def schur_multiplier(G, V, kind):
    r"""Return :math:`U [\varphi(g_i, g_j) \circ (U^H V U)] U^H` in the eigenbasis of G.

    Parameters
    ----------
    G : array_like, shape (..., n, n)
        Hermitian positive definite matrices, in any unit.
    V : array_like, shape (..., n, n)
        Hermitian matrices; broadcast against `G` on the left.
    kind : {"lyapunov", "from_identity", "to_identity", "sqrt", "invsqrt", "inv"}
        :math:`1/(x+y)`, :math:`\sqrt{(x+y)/2}`, :math:`\sqrt{2/(x+y)}`, and the derivatives of the square root, the
        inverse square root and the inverse at `G` in the direction `V`.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Hermitian, of the kind that came in, with gradients to both arguments.

    Raises
    ------
    InvalidInputError
        If an argument is not square, Hermitian and finite, or `kind` is unknown.
    NotPositiveDefiniteError
        If `G` is singular or indefinite.

    References
    ----------
    R. Bhatia, Matrix Analysis, Springer 1997, chapter V.

    Examples
    --------
    >>> import numpy as np
    >>> schur_multiplier(np.diag([1.0, 3.0]), np.ones((2, 2)), "lyapunov")
    array([[0.5       , 0.25      ],
           [0.25      , 0.16666667]])
    """
    check_option("kind", kind, MULTIPLIERS)
    (G, V), leave = enter(G, V, names=("G", "V"))
    G, V = as_spd("G", G), as_spd("V", V)
    try:
        torch.broadcast_shapes(G.shape, V.shape)
    except RuntimeError:
        raise InvalidInputError(
            f"G and V must have the same n and batches that broadcast; got G of shape {tuple(G.shape)} and V of shape "
            f"{tuple(V.shape)}. Match the last two axes."
        ) from None
    g, U = eigh_symmetric(G)
    if G.numel():
        check_eigenvalues("G", g, "positive")
    return leave(multiply_in_basis(G, V, kind, g, U))


def lyapunov(G, V):
    r"""Return the solution X of :math:`G X + X G = V`.

    Parameters
    ----------
    G : array_like, shape (..., n, n)
        Hermitian positive definite matrices, in any unit.
    V : array_like, shape (..., n, n)
        Hermitian right sides; broadcast against `G` on the left.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Hermitian, in units of `V` over units of `G`, with gradients to both arguments.

    Raises
    ------
    InvalidInputError
        If an argument is not square, Hermitian and finite.
    NotPositiveDefiniteError
        If `G` is singular or indefinite.

    References
    ----------
    R. Bhatia, T. Jain, Y. Lim, On the Bures-Wasserstein distance between positive definite matrices, 2019,
    arXiv 1712.01504.

    Examples
    --------
    >>> import numpy as np
    >>> lyapunov(np.diag([1.0, 3.0]), np.eye(2)).diagonal()
    array([0.5       , 0.16666667])
    """
    return schur_multiplier(G, V, "lyapunov")


def transport_from_identity(G, V):
    r"""Return V transported from the identity to G by Bures-Wasserstein parallel transport.

    In the eigenbasis of G the entries are multiplied by :math:`\sqrt{(g_i + g_j)/2}`.

    Parameters
    ----------
    G : array_like, shape (..., n, n)
        Hermitian positive definite end points, dimensionless.
    V : array_like, shape (..., n, n)
        Tangent vectors at the identity.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Tangent vectors at `G` of the same Bures-Wasserstein length, with gradients to both arguments.

    Raises
    ------
    InvalidInputError
        If an argument is not square, Hermitian and finite.
    NotPositiveDefiniteError
        If `G` is singular or indefinite.

    References
    ----------
    Y. Thanwerdas, X. Pennec, O(n)-invariant Riemannian metrics on SPD matrices, 2023, arXiv 2109.05768.

    Examples
    --------
    >>> import numpy as np
    >>> transport_from_identity(np.diag([4.0, 9.0]), np.eye(2)).diagonal()
    array([2., 3.])
    """
    return schur_multiplier(G, V, "from_identity")


def transport_to_identity(G, V):
    r"""Return V transported from G to the identity by Bures-Wasserstein parallel transport.

    In the eigenbasis of G the entries are multiplied by :math:`\sqrt{2/(g_i + g_j)}`.

    Parameters
    ----------
    G : array_like, shape (..., n, n)
        Hermitian positive definite starting points, dimensionless.
    V : array_like, shape (..., n, n)
        Tangent vectors at `G`.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Tangent vectors at the identity of the same Bures-Wasserstein length, with gradients to both arguments.

    Raises
    ------
    InvalidInputError
        If an argument is not square, Hermitian and finite.
    NotPositiveDefiniteError
        If `G` is singular or indefinite.

    References
    ----------
    Y. Thanwerdas, X. Pennec, O(n)-invariant Riemannian metrics on SPD matrices, 2023, arXiv 2109.05768.

    Examples
    --------
    >>> import numpy as np
    >>> transport_to_identity(np.diag([4.0, 9.0]), np.diag([2.0, 3.0])).diagonal()
    array([1., 1.])
    """
    return schur_multiplier(G, V, "to_identity")
