r"""Bounds on the likelihood objective from below, a covariance for each cluster, built from labels, valid for any.

For every alpha and every :math:`B_k \ge 0`, all partitions into at most K clusters satisfy

.. math:: \sum_k \langle A_k, Z_k \rangle \le \sum_k \max\big(0, \lambda_{\max}(H_k)\big) + s' \alpha, \quad
          H_k = A_k + B_k - \tfrac12 (s \alpha' + \alpha s').

Labels that are right are tight where H_k has the members of cluster k as its leading eigenvector, to the value lam_k:
alpha follows from the labels, B_k is zero among the members. Between a point j outside and the members, the least
change of M_k = -A_k + (s alpha' + alpha s') / 2 that leaves room for B_k and sums to zero is min(M_k, nu_j), with a
level nu_j >= 0 as water finds it; where M_k is non-negative it is zero. Two other points repel each other by
min(M_k, 0), or by M_k as it is, whichever of the two is better for the pair of clusters.

Notation  as in the affinities; d_k(i)^2 squared distance to mean k in metric k; l the own cluster of i; W_k weights;
          strengths lam_k >= |Y_k|^2 with Y_k the members less their mean, whitened;
          alpha_i / s_i = -(d_l(i)^2 + c_l) - lam_l / W_l.
Cost      K n^2 p operations and 4 n^2 numbers for each of ten choices of lam; the proof K n^3 / 3.
Pitfalls  a point that cluster k would take, (d_k^2 + c_k) - (d_l^2 + c_l) < lam_k / W_k + lam_l / W_l, has no level.
References  Y. Zhuang, X. Chen, Y. Yang, Likelihood adjusted semidefinite programs, 2023, arXiv 2209.15097.
"""

from __future__ import annotations

import torch

from sciml.stats.clustering.pair_potentials import cluster_sums
from sciml.stats.clustering.spectral_bounds import largest_sum

__all__ = ["Profiles", "block_multiplier", "dense_block_bound", "row_multipliers", "water_levels"]

_EPS = torch.finfo(torch.float64).eps
_LEVELS = 40  # Newton steps at most; each passes a kink, and a handful is the rule


class Profiles:
    """A partition with the distances, sizes and strengths that its certificate is made of; units of the affinity.

    Parameters
    ----------
    affinity : Affinity
        The problem, a block for each cluster.
    labels : torch.Tensor, shape (n,)
        Clusters 0 to K - 1; some may be empty.

    Attributes
    ----------
    costs : torch.Tensor, shape (n,)
        d_l(i)^2 + c_l of the own cluster.
    sizes : torch.Tensor, shape (K,)
        W_k.
    strengths : torch.Tensor, shape (K,)
        Squared spectral norms of the members less their mean, whitened and weighted.
    members, others : list of torch.Tensor
        Indices of the points in and out of each cluster.

    Examples
    --------
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[0.0], [2.0], [9.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2, torch.ones(2, 1, 1, dtype=torch.float64))
    >>> (Profiles(affinity, torch.tensor([0, 0, 1])).strengths * affinity.scale).numpy().round(6)
    array([2., 0.])
    """

    def __init__(self, affinity, labels):
        self.affinity, self.labels = affinity, labels
        K, weights = affinity.n_clusters, affinity.weights
        means, _ = affinity.means(labels)
        self.sizes = cluster_sums(weights, labels, K)
        self.costs = affinity.costs(means).gather(1, labels[:, None])[:, 0] / affinity.scale
        self.members = [torch.nonzero(labels == k)[:, 0] for k in range(K)]
        self.others = [torch.nonzero(labels != k)[:, 0] for k in range(K)]
        strengths = []
        for k, m in enumerate(self.members):
            Y = (affinity.X[m] - means[k]) @ affinity.factors[k]
            S = (weights[m, None] * Y).T @ Y / affinity.scale
            strengths.append(torch.linalg.eigvalsh(S)[-1])
        self.strengths = torch.stack(strengths).clamp_min(0)


def row_multipliers(profiles, strengths):
    r"""Return alpha_i / s_i, :math:`-(d_l(i)^2 + c_l) - \lambda_l / W_l`: shape (n,).

    Parameters
    ----------
    profiles : Profiles
        The partition.
    strengths : torch.Tensor, shape (K,)
        lam_k.

    Returns
    -------
    torch.Tensor, shape (n,)

    Examples
    --------
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 1, torch.ones(1, 1, 1, dtype=torch.float64))
    >>> profiles = Profiles(affinity, torch.tensor([0, 0]))
    >>> row_multipliers(profiles, profiles.strengths).tolist()
    [-2.0, -2.0]
    """
    share = strengths / profiles.sizes.clamp_min(torch.finfo(strengths.dtype).tiny)
    return -profiles.costs - share[profiles.labels]


def water_levels(M, weights):
    r"""Return :math:`\nu_j \ge 0` with :math:`\sum_i \omega_i \min(M_{ij}, \nu_j) = 0`.

    Parameters
    ----------
    M : torch.Tensor, shape (m, n)
        Entries.
    weights : torch.Tensor, shape (m,)
        omega, positive.

    Returns
    -------
    torch.Tensor, shape (n,)
        Zero for columns without negative entries, infinite where the sum of M is not positive.

    Examples
    --------
    >>> M = torch.tensor([[-1.0, 1.0, -3.0], [4.0, 2.0, 1.0]], dtype=torch.float64)
    >>> water_levels(M, torch.ones(2, dtype=torch.float64)).tolist()
    [1.0, 0.0, inf]
    """
    nu = torch.zeros_like(M[0]) if len(M) else M.new_zeros(M.shape[1])
    if len(M) == 0:
        return nu
    # The sum is concave and increasing in nu: Newton's method from the left never passes the root.
    dry = weights @ M <= 0
    for _ in range(_LEVELS):
        total = weights @ torch.minimum(M, nu)
        slope = weights @ (nu < M).to(M.dtype)
        step = torch.where(slope > 0, -total / slope.clamp_min(torch.finfo(M.dtype).tiny), 0.0).clamp_min(0)
        step = torch.where(dry, 0.0, step)
        nu = nu + step
        if bool((step <= 1e-13 * nu).all()):
            break
    return torch.where(dry, torch.inf, nu)


def block_multiplier(profiles, k, a, keep):
    """Return -M_k and the multiplier B_k, both (n, n) with the weights, for one block.

    Parameters
    ----------
    profiles : Profiles
        The partition.
    k : int
        Block.
    a : torch.Tensor, shape (n,)
        alpha_i / s_i.
    keep : bool
        Whether two points of one other cluster keep their entry of M_k; else it is clipped at zero.

    Returns
    -------
    tuple of torch.Tensor, shapes (n, n)
        A_k - (s alpha' + alpha s') / 2, and B_k >= 0.

    Examples
    --------
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[0.0], [9.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2, torch.ones(2, 1, 1, dtype=torch.float64))
    >>> profiles = Profiles(affinity, torch.tensor([0, 1]))
    >>> H, B = block_multiplier(profiles, 0, row_multipliers(profiles, profiles.strengths), True)
    >>> ((H + B) * affinity.scale).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    affinity, labels = profiles.affinity, profiles.labels
    W = (affinity.X @ affinity.factors[k]) / affinity.scale**0.5
    M = (affinity.q[k][:, None] + affinity.q[k] - 2 * W @ W.T).clamp_min_(0).fill_diagonal_(0)
    M += a
    M += a[:, None]
    M *= 0.5
    M += affinity.offsets[k]
    m, o = profiles.members[k], profiles.others[k]
    B = M.clamp_min(0)
    B.diagonal().zero_()
    if keep:
        B.masked_fill_(labels[:, None] == labels, 0.0)
    B[m[:, None], m] = 0.0
    if len(m) and len(o):
        cross = M[m][:, o]
        cross = (cross - water_levels(cross, affinity.weights[m])).clamp_min(0)
        B[m[:, None], o] = cross
        B[o[:, None], m] = cross.T
    s = affinity.roots
    for T in (M, B):
        T.mul_(s).mul_(s[:, None])
    return M.neg_(), torch.maximum(B, B.T)


def dense_block_bound(affinity, k, a, B, *, start=None, rng=None):
    """Return a proved bound on max(0, largest eigenvalue of A_k + B - (s alpha' + alpha s') / 2).

    Parameters
    ----------
    affinity : Affinity
        The problem.
    k : int
        Block.
    a : torch.Tensor, shape (n,)
        alpha_i / s_i, any numbers.
    B : torch.Tensor, shape (n, n)
        Symmetric and non-negative; changed in place.
    start : torch.Tensor, shape (n, r), or None
        Vectors near the leading one.
    rng : numpy.random.Generator or None
        Needed for n beyond 700.

    Returns
    -------
    float
        Rounding included.

    Examples
    --------
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 1, torch.ones(1, 1, 1, dtype=torch.float64))
    >>> zeros = torch.zeros(2, dtype=torch.float64)
    >>> 2 <= dense_block_bound(affinity, 0, zeros, torch.zeros(2, 2, dtype=torch.float64)) < 2 + 1e-12
    True
    """
    s, q, p = affinity.roots, affinity.q[k], affinity.X.shape[1]
    W = (affinity.X @ affinity.factors[k]) / affinity.scale**0.5
    H = (q[:, None] + q - 2 * W @ W.T).clamp_min_(0).fill_diagonal_(0)
    H += a
    H += a[:, None]
    H *= -0.5
    H -= affinity.offsets[k]
    H.mul_(s).mul_(s[:, None])
    H += B
    # Each entry is a sum of q_i, q_j, a_i, a_j, c and p products; the norm of s_i s_j (z_i + z_j) is at most
    # 2 |s| |s z|.
    z = s * (2 * q + a.abs() + affinity.offsets[k])
    error = (p + 12) * _EPS * (2 * float(s.norm() * z.norm()) + float(B.norm()))
    return largest_sum(H, 1, start=start, rng=rng, error=error)
