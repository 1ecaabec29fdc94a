r"""The augmented Lagrangian of non-negative factors U_k whose Z_k = U_k U_k' have row sums that add up to one.

.. math:: L(U, y) = -\sum_k \langle U_k, A_k U_k \rangle + y' \rho + \tfrac{\beta}{2} |\rho|^2, \qquad
          \rho = \sum_k U_k (U_k' s) - s, \qquad
          \nabla_k L = -2 A_k U_k + v (s' U_k) + s (v' U_k), \quad v = y + \beta \rho.

Notation  as in the affinities; rho (n,) residual; y (n,) multipliers; G (p + 1 + B, n), the rows
          of (diag(s) X)', s and diag(s) q_k: all that A_k needs, so that G U gives L and G' times a small matrix its
          gradient.
Cost      one product with G for L, one with G' for the gradient: 2 n (p + 1 + B) B r operations each.
Pitfalls  the columns of all factors lie as rows, (B r, n): one large product is several times faster than B small ones,
          and skinny matrices are multiplied fastest along their long side.
References  Y. Zhuang, X. Chen, Y. Yang, R. Y. Zhang, Statistically optimal K-means clustering via nonnegative low-rank
            semidefinite programming, 2024, arXiv 2305.18436.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Evaluation", "RowSumLagrangian"]


class Evaluation(NamedTuple):
    """What `RowSumLagrangian.evaluate` finds at a point.

    Parameters
    ----------
    lagrangian, value : float
        L, and the sum of <U_k, A_k U_k>.
    residual : torch.Tensor, shape (n,)
        rho.
    moments : tuple of torch.Tensor
        P_k X'U_k (B, p, r), s'U_k (B, r) and q_k'U_k (B, r), which the gradient needs.

    Examples
    --------
    >>> Evaluation(1.0, 2.0, None, ()).value
    2.0
    """

    lagrangian: float
    value: float
    residual: torch.Tensor
    moments: tuple


class RowSumLagrangian:
    r"""L, its gradient, and the sets that the factors lie in.

    Parameters
    ----------
    affinity : Affinity
        The matrices A_k.
    trace : {"block", "total"}
        Whether every Z_k has its own trace, or only their sum has; "block" by default, which is tighter.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> L = RowSumLagrangian(Affinity(torch.tensor([[0.0], [1.0], [9.0]], dtype=torch.float64), 2))
    >>> U = torch.tensor([[0.5**0.5, 0.5**0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    >>> L.evaluate(U, torch.zeros(3, dtype=torch.float64), 1.0).residual.abs().max() < 1e-12
    tensor(True)
    """

    def __init__(self, affinity, trace="block"):
        self.affinity = affinity
        self.B, self.n, self.p = affinity.shape
        self.s = s = affinity.roots
        self.G = torch.cat([s * affinity.X.T, s[None], s * affinity.q])
        self.P = affinity.factors @ affinity.factors.mT / affinity.scale
        self.offsets = affinity.offsets[:, None]
        self.joint = trace == "total"
        self.radii = affinity.traces.sqrt()
        self.radius = float(affinity.traces.sum()) ** 0.5
        self.size = float(affinity.weights.sum())

    def pack(self, U):
        """Return factors (B, n, r) as rows (B r, n), in memory of their own."""
        return U.mT.reshape(-1, self.n).clone(memory_format=torch.contiguous_format)

    def unpack(self, U):
        """Return rows (B r, n) as factors (B, n, r)."""
        return U.reshape(self.B, -1, self.n).mT.contiguous()

    def evaluate(self, U, y, beta):
        """Return the `Evaluation` at rows U (B r, n)."""
        B, p = self.B, self.p
        H = (self.G @ U.T).reshape(p + 1 + B, B, -1)
        inner, total = H[:p].transpose(0, 1), H[p]
        lengths = H[p + 1 :].diagonal(dim1=0, dim2=1).T  # (B, r): q_k'U_k
        mapped = self.P @ inner
        value = (mapped * inner).sum() - (lengths * total).sum() - (self.offsets * total.square()).sum()
        residual = torch.addmv(self.s, U.T, total.reshape(-1), beta=-1)
        L = torch.dot(y, residual) + 0.5 * beta * torch.dot(residual, residual) - value
        return Evaluation(float(L), float(value), residual, (mapped, total, lengths))

    def gradient(self, U, y, beta, at, out=None):
        """Return the gradient at rows U (B r, n), of which `at` is the `Evaluation`; `out` is memory for it."""
        mapped, total, lengths = at.moments
        B, p, r = mapped.shape
        v = torch.add(y, at.residual, alpha=beta)
        C = U.new_zeros(p + 1 + B, B, r)
        C[:p] = -2 * mapped.transpose(0, 1)
        C[p] = lengths + 2 * self.offsets * total + (U @ v).reshape(B, r)
        C[p + 1 :].diagonal(dim1=0, dim2=1).copy_(total.T)
        return torch.mm(C.reshape(-1, B * r).T, self.G, out=out).addr_(total.reshape(-1), v)

    def project_(self, V):
        """Move rows V (B r, n), in place, to the nearest ones that are non-negative and of the right norms."""
        blocks = V.view(1 if self.joint else self.B, -1)
        # Where no entry is positive, the nearest point holds the largest entry alone.
        for k in (blocks.amax(1) <= 0).nonzero()[:, 0].tolist():
            entry = blocks[k].argmax()
            blocks[k] = 0
            blocks[k, entry] = 1
        V.clamp_min_(0)
        norms = torch.linalg.vector_norm(blocks, dim=1)
        blocks.mul_(((self.radius if self.joint else self.radii) / norms)[:, None])
        return V

    def natural_step(self, U, gradient):
        """Return |P(U - gradient / n) - U| over |U|, the criterion of stationarity: dimensionless, in all units."""
        # Curvatures are of the order of n, the sum of the weights, since A has the entries of a distance matrix.
        V = self.project_(torch.add(U, gradient, alpha=-1 / self.size))
        return float(torch.linalg.vector_norm(V.sub_(U))) / self.radius
