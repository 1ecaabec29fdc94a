r"""Bounds on the K-means objective from below, built from labels and valid whatever the labels are.

With Z the membership matrix of any partition into at most K clusters, s the roots of the weights and P the projection
off s, the sum of squares is :math:`\operatorname{tr} G - \langle G, Z \rangle`, and for every :math:`B \ge 0`

.. math:: \langle G, Z \rangle \le \langle G + B, Z \rangle
          \le \frac{s' (G + B) s}{s' s} + \sum_{j < K} \max\big(0, \lambda_j(P (G + B) P)\big),

since Z >= 0, Z s = s, tr Z <= K make Z - s s' / s's a matrix between 0 and P of trace K - 1 at most. No multiplier of
the row sums is left, and K - 1 *different* eigenvalues are added where the usual form takes K times the largest: B = 0
is the bound by principal components. B is chosen to make labels that are right tight: within clusters zero, between
them the least non-negative B with the row sums that make the clusters eigenvectors to one value lam.

Notation  x (n, p) centred, s_i x_i with weights; G_ij = s_i s_j x_i . x_j; mu_k, W_k mean and weight of cluster k;
          l the own cluster of i; xt_i = x_i - mu_l; T_ik = |x_i - mu_k|^2 - |xt_i|^2; u (n, K) potentials;
          strength lam = f max_k |Xt_k|^2 in the spectral norm.
Cost      a pass over all pairs, n^2 p operations; each f a dozen products with a matrix of low rank plus the clipped
          pairs; the proof n^3 / 3 operations and 3 n^2 numbers.
Pitfalls  u fixes B up to clipping, and B must be clipped at *all* pairs. Points nearer to another mean than
          lam (1 / W_k + 1 / W_l) allow have no row sums that fit: they are what makes the bound loose.
References  T. Iguchi, D. Mixon, J. Peterson, S. Villar, Probably certifiably correct k-means clustering, 2017,
            arXiv 1509.07983. X. Chen, Y. Yang, Cutoff for exact recovery of Gaussian mixture models, 2021,
            arXiv 2001.01194. C. Ding, X. He, K-means clustering via principal component analysis, 2004.
"""

from __future__ import annotations

import torch

from sciml.stats.clustering.clipped_affinity import ClippedAffinity
from sciml.stats.clustering.pair_potentials import (
    balanced,
    closed_potentials,
    cluster_sums,
    fit_potentials,
    negative_pairs,
)
from sciml.stats.clustering.spectral_bounds import largest_sum

__all__ = ["FACTORS", "Clusters", "best_potentials", "dense_multiplier", "dense_value_bound", "row_targets"]

_EPS = torch.finfo(torch.float64).eps
# Below 1 the clusters themselves stick out of lam; beyond 2 margins are eaten up. In between the best value moves with
# the overlap of the clusters.
FACTORS = (1.02, 1.1, 1.2, 1.35, 1.6, 2.0, 2.6)
_MIDDLE = 3


class Clusters:
    """A partition of weighted points with what its certificate is made of.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points, in the metric of the problem.
    weights : torch.Tensor, shape (n,)
        omega, positive.
    labels : torch.Tensor, shape (n,)
        Clusters 0 to K - 1; some may be empty.
    n_clusters : int
        K.

    Attributes
    ----------
    sizes : torch.Tensor, shape (K,)
        W_k.
    offsets : torch.Tensor, shape (n, p)
        xt.
    margins : torch.Tensor, shape (n, K)
        T.
    foreign : torch.Tensor, shape (n, K)
        0 for the own cluster of a point, else 1.
    strengths : torch.Tensor, shape (K,)
        Squared spectral norms of the clusters less their means, weighted.
    spread : float
        Root mean square of xt_i . xt_j over pairs of different clusters, the largest over pairs of clusters.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [2.0], [5.0]], dtype=torch.float64)
    >>> Clusters(X, torch.ones(3, dtype=torch.float64), torch.tensor([0, 0, 1]), 2).strengths.tolist()
    [2.0, 0.0]
    """

    def __init__(self, X, weights, labels, n_clusters):
        self.X, self.weights, self.labels, self.n_clusters = X, weights, labels, n_clusters
        self.roots = weights.sqrt()
        self.sizes = cluster_sums(weights, labels, n_clusters)
        positive = self.sizes.clamp_min(torch.finfo(X.dtype).tiny)
        self.means = cluster_sums(weights[:, None] * X, labels, n_clusters) / positive[:, None]
        self.offsets = X - self.means[labels]
        between = self.means[labels][:, None] - self.means  # (n, K, p)
        self.margins = between.square().sum(2) + 2 * (between @ self.offsets[:, :, None])[..., 0]
        self.foreign = torch.ones_like(self.margins).scatter_(1, labels[:, None], 0.0)
        self.members = [torch.nonzero(labels == k)[:, 0] for k in range(n_clusters)]
        scatters = [(weights[m, None] * self.offsets[m]).T @ self.offsets[m] for m in self.members]
        self.strengths = torch.stack([torch.linalg.eigvalsh(S)[-1] for S in scatters]).clamp_min(0)
        C = torch.stack([S / W for S, W in zip(scatters, positive, strict=True)]).flatten(1)
        products = (C @ C.T).fill_diagonal_(0)
        self.spread = float(products.amax()) ** 0.5


def row_targets(clusters, strength):
    r"""Return :math:`r_{ik} = W_k T_{ik} / 2 - \lambda (W_k + W_l) / (2 W_l)`, the row sums that make labels tight.

    Parameters
    ----------
    clusters : Clusters
        The partition.
    strength : float
        lam.

    Returns
    -------
    torch.Tensor, shape (n, K)
        Zero for the own cluster and for empty ones; negative where lam leaves no margin.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [2.0], [5.0]], dtype=torch.float64)
    >>> clusters = Clusters(X, torch.ones(3, dtype=torch.float64), torch.tensor([0, 0, 1]), 2)
    >>> row_targets(clusters, 2.0).tolist()
    [[0.0, 10.5], [0.0, 2.5], [13.0, 0.0]]
    """
    own = clusters.sizes[clusters.labels][:, None]
    r = 0.5 * clusters.sizes * clusters.margins - strength * (clusters.sizes + own) / (2 * own)
    return torch.where((clusters.foreign > 0) & (clusters.sizes > 0), r, 0.0)


def best_potentials(clusters, rng):
    """Return the potentials of the strength whose bound is best, and this strength.

    Parameters
    ----------
    clusters : Clusters
        The partition.
    rng : numpy.random.Generator
        Source of start vectors.

    Returns
    -------
    u : torch.Tensor, shape (n, K)
    number : int
        Which of `FACTORS` times the largest of the clusters' strengths is lam.

    Examples
    --------
    >>> import numpy as np
    >>> X = torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64)
    >>> clusters = Clusters(X, torch.ones(4, dtype=torch.float64), torch.tensor([0, 0, 1, 1]), 2)
    >>> best_potentials(clusters, np.random.default_rng(0))[0].shape
    torch.Size([4, 2])
    """
    largest = float(clusters.strengths.amax())
    targets = lambda f: balanced(clusters, row_targets(clusters, f * largest))  # noqa: E731
    # The largest strength asks for the smallest potentials, and so for the most pairs.
    pairs = negative_pairs(clusters, closed_potentials(clusters, targets(FACTORS[-1])), clusters.spread / 2)
    found = {}

    def value(number):
        if number not in found:
            u = fit_potentials(clusters, pairs, targets(FACTORS[number]))
            found[number] = ClippedAffinity(clusters, u, pairs).value(rng), u
        return found[number][0]

    # The best value falls and rises again along the factors.
    now = _MIDDLE
    while True:
        near = [number for number in (now - 1, now + 1) if 0 <= number < len(FACTORS)]
        best = min(near, key=value)
        if value(best) >= value(now):
            return found[now][1], now
        now = best


def dense_multiplier(clusters, u):
    """Return s_i s_j max(0, u_ik + u_jl - xt_i . xt_j) across clusters, zero within: shape (n, n).

    Parameters
    ----------
    clusters : Clusters
        The partition.
    u : torch.Tensor, shape (n, K)
        Potentials.

    Returns
    -------
    torch.Tensor, shape (n, n)
        Symmetric and non-negative.

    Examples
    --------
    >>> X = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> clusters = Clusters(X, torch.ones(2, dtype=torch.float64), torch.tensor([0, 1]), 2)
    >>> dense_multiplier(clusters, torch.tensor([[0.0, 1.5], [1.5, 0.0]], dtype=torch.float64)).tolist()
    [[0.0, 3.0], [3.0, 0.0]]
    """
    labels, s = clusters.labels, clusters.roots
    B = clusters.offsets @ clusters.offsets.T
    mixed = u[:, labels]
    B.neg_().add_(mixed).add_(mixed.T).clamp_min_(0)
    B.masked_fill_(labels[:, None] == labels, 0.0)
    B.mul_(s).mul_(s[:, None])
    # A product and its transpose may round differently.
    return torch.maximum(B, B.T)


def dense_value_bound(X, weights, B, n_clusters, *, start=None, rng=None):
    r"""Return a proved bound on <G, Z> over all partitions into at most K clusters.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Centred points, in the metric of the problem.
    weights : torch.Tensor, shape (n,)
        omega, positive.
    B : torch.Tensor, shape (n, n)
        Any symmetric non-negative matrix; changed in place to save memory.
    n_clusters : int
        K.
    start : torch.Tensor, shape (n, r), or None
        Vectors near the leading eigenvectors of G + B; None, the default: random ones.
    rng : numpy.random.Generator or None
        Source of random vectors; needed for n beyond 700.

    Returns
    -------
    float
        Rounding included.

    Examples
    --------
    >>> X = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> ones, zeros = torch.ones(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    >>> 2.0 <= dense_value_bound(X, ones, zeros, 2) < 2.0 + 1e-12
    True
    """
    s = weights.sqrt()
    Y = s[:, None] * X
    n, p = X.shape
    # |sum of p products - its rounding| <= p eps |y_i| |y_j|; a few more for the sums with B and the projection.
    error = (p + 12) * _EPS * float(Y.square().sum() + B.norm())
    H = B.addmm_(Y, Y.T)
    t = s / s.norm()
    h = H @ t
    along = float(t @ h)
    slack = 2 * n * _EPS * float(H.norm())
    H -= torch.outer(t, h)
    H -= torch.outer(h - along * t, t)
    return along + slack + largest_sum(H, n_clusters - 1, start=start, rng=rng, error=error)
