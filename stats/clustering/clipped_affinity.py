r"""The matrix G + B of a K-means certificate, applied to vectors: a low rank, plus what clipping adds.

.. math:: \frac{(G + B)_{ij}}{s_i s_j} = x_i \cdot x_j + [l_i \ne l_j] \big( u_{i l_j} + u_{j l_i}
          - \tilde x_i \cdot \tilde x_j + e_{ij} \big), \quad
          e_{ij} = \max(0, \tilde x_i \cdot \tilde x_j - u_{i l_j} - u_{j l_i}).

Notation  as in the certificates of K-means; e the clipped part, zero for all but few pairs.
Cost      n (p + K) operations a vector plus two a listed pair. Without a list n^2 p / 2, in tiles that stay in a cache:
          a matrix product and three passes, five times faster than the reductions over pairs that know no products.
Pitfalls  a list must hold *every* pair that clipping changes, or B has negative entries.
"""

from __future__ import annotations

import warnings

import torch

from sciml.random import normal
from sciml.stats.clustering.pair_potentials import cluster_sums, tiles
from sciml.stats.clustering.spectral_bounds import leading_pairs

__all__ = ["ClippedAffinity", "symmetric_sparse"]


class ClippedAffinity:
    """G + B applied to vectors, B = max(0, u_ik + u_jl - xt_i . xt_j) across clusters and zero within.

    Parameters
    ----------
    clusters : Clusters
        The partition.
    u : torch.Tensor, shape (n, K)
        Potentials.
    pairs : Pairs or None
        All pairs whose potentials are below their product (others among them do no harm). None: the pairs are formed
        anew for each product.

    Attributes
    ----------
    clipped : torch.Tensor, shape (n, n), sparse, or None
        e, without the weights; None where no pair is clipped or none is listed.
    n_clipped : int
        Pairs with e > 0; -1 where they are not listed.

    Examples
    --------
    >>> from sciml.stats.clustering.kmeans_certificate import Clusters
    >>> X = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> clusters = Clusters(X, torch.ones(2, dtype=torch.float64), torch.tensor([0, 1]), 2)
    >>> u = torch.tensor([[0.0, 1.5], [1.5, 0.0]], dtype=torch.float64)
    >>> ClippedAffinity(clusters, u, None).apply(torch.eye(2, dtype=torch.float64)).tolist()
    [[1.0, 2.0], [2.0, 1.0]]
    """

    def __init__(self, clusters, u, pairs):
        self.clusters, self.u, self.listed = clusters, u, pairs is not None
        self.clipped, self.n_clipped = None, -1
        if pairs is None:
            return
        K, labels = clusters.n_clusters, clusters.labels
        flat = u.reshape(-1)
        e = pairs.c - flat[pairs.i * K + labels[pairs.j]] - flat[pairs.j * K + labels[pairs.i]]
        keep = torch.nonzero(e > 0)[:, 0]
        self.n_clipped = len(keep)
        if len(keep):
            self.clipped = symmetric_sparse(pairs.i[keep], pairs.j[keep], e[keep], len(u))

    def apply(self, V):
        """Return (G + B) V, shape (n, r) in and out."""
        clusters, u = self.clusters, self.u
        s, xt = clusters.roots[:, None], clusters.offsets
        V = s * V
        S = cluster_sums(V, clusters.labels, clusters.n_clusters)  # (K, r)
        out = clusters.X @ (clusters.X.T @ V) - xt @ (xt.T @ V)
        out += u @ S + (u.T @ V)[clusters.labels]
        for m in clusters.members:
            out.index_add_(0, m, xt[m] @ (xt[m].T @ V[m]))
        if self.clipped is not None:
            out += self.clipped @ V
        elif not self.listed:
            self._add_clipped(out, V)
        return s * out

    def _add_clipped(self, out, V):
        for rows, columns, k, own in tiles(self.clusters, self.u, 0.0):
            e = self.clusters.offsets[rows] @ self.clusters.offsets[columns].T
            e -= self.u[rows, k][:, None]
            e -= self.u[columns, own]
            e.clamp_min_(0)
            out.index_add_(0, rows, e @ V[columns])
            out.index_add_(0, columns, e.T @ V[rows])

    def value(self, rng, *, tol=1e-6, max_products=40):
        """Return an estimate of the bound on <G, Z>, from below by what the eigenvalues lack: no proof.

        Parameters
        ----------
        rng : numpy.random.Generator
            Of two random vectors among the first ones.
        tol, max_products : float, int
            As for `leading_pairs`.

        Returns
        -------
        float
        """
        clusters = self.clusters
        s = clusters.roots
        along = float(s @ self.apply(s[:, None])[:, 0] / (s @ s))
        count = min(clusters.n_clusters - 1, len(s))
        if count == 0:
            return along
        indicators = torch.zeros_like(clusters.margins).scatter_(1, clusters.labels[:, None], s[:, None])
        start = torch.cat([indicators, normal(rng, (len(s), 2), device=s.device)], 1)
        t = (s / s.norm())[:, None]
        project = lambda V: V - t @ (t.T @ V)  # noqa: E731
        theta, _, residual = leading_pairs(
            lambda V: project(self.apply(project(V))), start[:, : len(s)], count, tol=tol, max_products=max_products
        )
        return along + float(theta[:count].clamp_min(0).sum()) + count * residual


def symmetric_sparse(i, j, e, n):
    """Return the (n, n) matrix with entries e at (i, j) and (j, i), compressed by rows.

    Parameters
    ----------
    i, j : torch.Tensor, shape (m,)
        Each pair once.
    e : torch.Tensor, shape (m,)
        Entries.
    n : int
        Rows.

    Returns
    -------
    torch.Tensor, sparse, shape (n, n)

    Examples
    --------
    >>> one, two = torch.tensor([0]), torch.tensor([1])
    >>> (symmetric_sparse(one, two, torch.tensor([3.0]), 2) @ torch.eye(2)).tolist()
    [[0.0, 3.0], [3.0, 0.0]]
    """
    rows, columns = torch.cat([i, j]), torch.cat([j, i])
    # One sort instead of the two of the coordinate format, which also warns about checks that are left out.
    order = torch.argsort(rows * n + columns)
    starts = torch.zeros(n + 1, dtype=rows.dtype, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=n).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse ")
        return torch.sparse_csr_tensor(starts, columns[order], e.repeat(2)[order], (n, n), check_invariants=False)
