r"""Merge small groups into Gaussian clusters of any shape, the pair first whose union is the most probable.

A group with scatter T_g about its mean has, under an inverse-Wishart prior of centre W and strength nu and a flat prior
of the mean, the marginal likelihood

.. math:: \log m_g = -\tfrac p2 \log n_g - \tfrac{\nu + n_g - 1}2 \log|\nu W + T_g|
          + \log \frac{\Gamma_p((\nu + n_g - 1)/2)}{\Gamma_p(\nu/2)} + \tfrac\nu2 \log|\nu W|,

and two groups are merged where :math:`\log m_{a \cup b} - \log m_a - \log m_b` is largest. Long, unequal and nested
clusters, which k-means cuts to pieces, are put together again.

Notation  M groups, p features; N (M,) counts, m (M, p) means, T (M, p, p) scatters.
Cost      M^2 p^3 / 6 operations for the first table of unions, M p^3 for each merger.
Pitfalls  groups must lie within clusters to begin with: give several times more groups than clusters.
References  J. Banfield, A. Raftery, Model-based Gaussian and non-Gaussian clustering, 1993; C. Fraley, Algorithms for
          model-based Gaussian hierarchical clustering, 1998.
"""

from __future__ import annotations

import math

import torch

__all__ = ["agglomerate", "group_moments", "log_marginal"]


def group_moments(X, labels, n_groups, weights):
    """Return counts, means and scatters of groups.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    labels : torch.Tensor of int64, shape (n,)
        Group of each.
    n_groups : int
        M.
    weights : torch.Tensor, shape (n,)
        Counts of the points.

    Returns
    -------
    tuple of torch.Tensor, shapes (M,), (M, p), (M, p, p)

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[0.0], [2.0], [5.0]])
    >>> group_moments(X, torch.tensor([0, 0, 1]), 2, torch.ones(3))[2].flatten()
    tensor([2., 0.])
    """
    order = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels, minlength=n_groups).tolist()
    N, m, T = X.new_zeros(n_groups), X.new_zeros(n_groups, X.shape[1]), X.new_zeros(n_groups, *[X.shape[1]] * 2)
    for g, rows in enumerate(torch.split(order, sizes)):
        if len(rows):
            w = weights[rows]
            N[g] = w.sum()
            m[g] = w @ X[rows] / N[g]
            D = X[rows] - m[g]
            T[g] = (D * w[:, None]).T @ D
    return N, m, T


def log_marginal(N, T, W, nu):
    """Return the log marginal likelihood of groups, but for constants of every point.

    Parameters
    ----------
    N : torch.Tensor, shape (...)
        Counts.
    T : torch.Tensor, shape (..., p, p)
        Scatters.
    W : torch.Tensor, shape (p, p)
        Centre of the prior.
    nu : float
        Its strength, above p - 1.

    Returns
    -------
    torch.Tensor, shape (...)

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1)
    >>> log_marginal(torch.tensor(1.0), 0 * one, one, 3.0).item()  # one point tells nothing about its cluster
    0.0
    """
    p = W.shape[-1]
    dof = nu + (N - 1).clamp_min(0)
    logdet = torch.linalg.slogdet(nu * W + T)[1]
    prior = 0.5 * nu * torch.linalg.slogdet(nu * W)[1] - float(torch.mvlgamma(torch.tensor(nu / 2, dtype=W.dtype), p))
    return -0.5 * p * N.clamp_min(1e-9).log() - 0.5 * dof * logdet + torch.mvlgamma(dof / 2, p) + prior


def agglomerate(X, labels, n_groups, n_clusters, weights, W, nu=None):
    """Return labels of clusters that groups were merged into.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    labels : torch.Tensor of int64, shape (n,)
        Groups to begin with.
    n_groups, n_clusters : int
        Their number, and that of the clusters.
    weights : torch.Tensor, shape (n,)
        Counts of the points.
    W : torch.Tensor, shape (p, p)
        Centre of the prior, such as the pooled covariance within the groups.
    nu : float or None
        Its strength; None, the default: p + 2, the weakest with a mean.

    Returns
    -------
    torch.Tensor of int64, shape (n,)
        Numbered in the order of their first group.

    Examples
    --------
    Points in a row are one long cluster, not two halves:

    >>> import torch
    >>> line = torch.stack([torch.linspace(-9, 9, 40), torch.zeros(40)], 1)
    >>> X = torch.cat([line, line + torch.tensor([0.0, 1.0])]).double()
    >>> groups = torch.arange(80) // 10
    >>> agglomerate(X, groups, 8, 2, torch.ones(80).double(), 0.1 * torch.eye(2).double())[::10]
    tensor([0, 0, 0, 0, 1, 1, 1, 1])
    """
    nu = X.shape[1] + 2.0 if nu is None else nu
    N, m, T = group_moments(X, labels, n_groups, weights)
    owner = torch.arange(n_groups, device=X.device)
    alive = N > 0
    present = alive.clone()
    own = log_marginal(N, T, W, nu)
    gain = torch.full((n_groups, n_groups), -math.inf, dtype=X.dtype, device=X.device)
    for a in range(n_groups):
        _refresh(gain, a, N, m, T, own, alive, W, nu, later=True)
    for _ in range(int(alive.sum()) - n_clusters):
        a, b = divmod(int(gain.argmax()), n_groups)
        T[a] = _union(N, m, T, a, b)
        m[a] = (N[a] * m[a] + N[b] * m[b]) / (N[a] + N[b])
        N[a] = N[a] + N[b]
        alive[b] = False
        owner[owner == b] = a
        own[a] = log_marginal(N[a], T[a], W, nu)
        gain[b], gain[:, b] = -math.inf, -math.inf
        _refresh(gain, a, N, m, T, own, alive, W, nu, later=False)
    # A merger may have gone to the group that comes later.
    first = torch.full_like(owner, n_groups)
    first.scatter_reduce_(0, owner[present], present.nonzero()[:, 0], "amin")
    numbers = first.argsort(stable=True).argsort()
    return numbers[owner][labels]


def _union(N, m, T, a, b):
    """Scatter of two groups about their common mean; b may be an index tensor."""
    d = m[a] - m[b]
    factor = N[a] * N[b] / (N[a] + N[b])
    return T[a] + T[b] + factor[..., None, None] * d[..., :, None] * d[..., None, :]


def _refresh(gain, a, N, m, T, own, alive, W, nu, later):
    """Fill row and column a of the table of gains; only the columns after a where the table is new."""
    others = alive.clone()
    others[a] = False
    if later:
        others[: a + 1] = False
    b = others.nonzero()[:, 0]
    if alive[a] and len(b):
        gain[a, b] = log_marginal(N[a] + N[b], _union(N, m, T, a, b), W, nu) - own[a] - own[b]
        gain[b, a] = -math.inf
