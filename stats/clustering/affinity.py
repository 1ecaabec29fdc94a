r"""Affinities :math:`(A_k)_{ij} = -\tfrac12 |x_i - x_j|^2_{P_k} - c_k`, applied to vectors without forming them.

For labels with clusters G_k, Z_k = 1_{G_k} 1_{G_k}' / |G_k| turns the profile likelihood into a linear function:

.. math:: \sum_k \langle A_k, Z_k \rangle = -\sum_k \sum_{i \in G_k} \big( |x_i - \bar x_k|^2_{P_k} + c_k \big).

Notation  X (n, p) points, centred; P_k = F_k F_k' (p, p) inverse covariances; c_k = log det Sigma_k; q_k (n,) squared
          lengths x_i' P_k x_i; B blocks, K clusters: B = K for a covariance each, B = 1 where one metric serves all;
          omega (n,) weights, s = sqrt(omega): with weights A becomes diag(s) A diag(s), and 1 becomes s.
Cost      n p r + n r operations and n (p + r) numbers for each block of r vectors.
Pitfalls  A_k is shift invariant but x' P x is not: X is centred before anything is squared. Numbers are divided by
          `scale`, the mean of the q_k, and by the smallest c_k, so that solvers see the same problem in all units.
References  Y. Zhuang, X. Chen, Y. Yang, Likelihood adjusted semidefinite programs, 2023, arXiv 2209.15097.
"""

from __future__ import annotations

from functools import cached_property

import torch

__all__ = ["Affinity"]


class Affinity:
    r"""The matrices A_k of a clustering problem, in units where the mean of q is one.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points, as they come; the weighted mean is taken off here.
    n_clusters : int
        K.
    covariances : torch.Tensor, shape (K, p, p) or (p, p), or None
        Sigma_k; one for all gives one block. None, the default: the identity, which is K-means.
    sample_weight : torch.Tensor, shape (n,), or None
        omega, positive; None, the default: ones.

    Attributes
    ----------
    X : torch.Tensor, shape (n, p)
        Centred points.
    factors : torch.Tensor, shape (B, p, p)
        F_k with P_k = F_k F_k'; x @ F_k is whitened.
    q : torch.Tensor, shape (B, n)
        Squared lengths over `scale`.
    offsets : torch.Tensor, shape (B,)
        c_k less the smallest, over `scale`.
    traces : torch.Tensor, shape (B,)
        What the traces of the blocks must be: ones, or K for a single block.
    weights, roots : torch.Tensor, shape (n,)
        omega and s.
    scale, shift : float
        ``objective = shift - scale * value``, with value the sum of inner products.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2)
    >>> affinity.objective(torch.tensor([0, 0, 1, 1])).item()
    1.0
    """

    def __init__(self, X, n_clusters, covariances=None, sample_weight=None):
        n, p = X.shape
        self.weights = torch.ones_like(X[:, 0]) if sample_weight is None else sample_weight
        self.roots = self.weights.sqrt()
        self.X = X - (self.weights @ X) / self.weights.sum()
        self.n_clusters = n_clusters
        if covariances is None:
            self.factors = torch.eye(p, dtype=X.dtype, device=X.device)[None]
            self.logdets = X.new_zeros(1)
        else:
            stack = covariances if covariances.ndim == 3 else covariances[None]
            L = torch.linalg.cholesky(stack)
            eye = torch.eye(p, dtype=X.dtype, device=X.device).expand_as(L)
            self.factors = torch.linalg.solve_triangular(L, eye, upper=False).mT.contiguous()
            self.logdets = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self.blocks = len(self.factors)
        self.traces = torch.full_like(self.logdets, n_clusters if self.blocks == 1 else 1.0)
        self.shift = float(self.weights.sum() * self.logdets.min())

    @cached_property
    def _lengths(self):
        return torch.stack([(self.X @ F).square().sum(-1) for F in self.factors])  # (B, n)

    @cached_property
    def scale(self):
        """Mean of the squared lengths; a number."""
        # Points that all coincide have no length; any unit does for them.
        return float((self._lengths @ self.weights).mean() / self.weights.sum()) or 1.0

    @cached_property
    def q(self):
        """Squared lengths over `scale`: shape (B, n)."""
        return self._lengths / self.scale

    @cached_property
    def offsets(self):
        """c_k less the smallest, over `scale`: shape (B,)."""
        return (self.logdets - self.logdets.min()) / self.scale

    @property
    def shape(self):
        """Blocks, points and features: (B, n, p)."""
        return self.blocks, *self.X.shape

    def apply(self, U):
        """Return diag(s) A_k diag(s) U_k over `scale`: shape (B, n, r) in and out."""
        s = self.roots[:, None]
        V = s * U
        total = V.sum(1, keepdim=True)  # (B, 1, r)
        inner = self.factors.mT @ (self.X.T @ V)  # (B, p, r)
        out = self.X @ (self.factors @ inner / self.scale)  # (B, n, r)
        out -= 0.5 * (self.q[:, None, :] @ V) + self.offsets[:, None, None] * total
        out -= 0.5 * self.q[..., None] * total
        return s * out

    def value(self, U):
        """Return the sum of <U_k, A_k U_k> over `scale`, a tensor of shape ()."""
        return (U * self.apply(U)).sum()

    def dense(self):
        """Return diag(s) A_k diag(s) over `scale`: shape (B, n, n)."""
        W = (self.X @ self.factors) / self.scale**0.5  # (B, n, p)
        distance = self.q[:, :, None] + self.q[:, None, :] - 2 * W @ W.mT
        A = -0.5 * distance.clamp_min(0) - self.offsets[:, None, None]
        A.diagonal(dim1=-2, dim2=-1).copy_(-self.offsets[:, None].expand(-1, self.X.shape[0]))
        return self.roots[:, None] * A * self.roots

    def costs(self, means):
        """Return d_k(i)^2 + c_k of every point to every cluster, without `shift`: shape (n, K), in the data's units.

        Parameters
        ----------
        means : torch.Tensor, shape (K, p)
            Of the centred points.
        """
        rows = []
        for k, mean in enumerate(means):
            F = self.factors[min(k, self.blocks - 1)]
            rows.append(((self.X - mean) @ F).square().sum(-1) + self.scale * self.offsets[min(k, self.blocks - 1)])
        return torch.stack(rows, 1)

    def means(self, labels):
        """Return the weighted means of the clusters, of the centred points, and their weights: (K, p) and (K,).

        The mean of an empty cluster is zero.
        """
        onehot = torch.nn.functional.one_hot(labels, self.n_clusters).to(self.X.dtype) * self.weights[:, None]
        sizes = onehot.sum(0)
        return (onehot.T @ self.X) / sizes.clamp_min(torch.finfo(self.X.dtype).tiny)[:, None], sizes

    def objective(self, labels):
        """Return what labels cost: the sum of d^2 + c_k, weighted; for K-means the sum of squares. Shape ()."""
        means, sizes = self.means(labels)
        total = self.X.new_zeros(())
        for k in range(self.n_clusters):
            rows = labels == k
            F = self.factors[min(k, self.blocks - 1)]
            total = total + self.weights[rows] @ ((self.X[rows] - means[k]) @ F).square().sum(-1)
        return total + (sizes * (self.logdets - self.logdets.min()).expand(self.n_clusters)).sum() + self.shift

    def to_objective(self, value):
        """Return the objective that belongs to a sum of inner products (a number or a tensor)."""
        return self.shift - self.scale * value
