r"""Non-negative weights between clusters with given row sums, :math:`B_{ij} = \max(0, u_{ik} + u_{jl} - c_{ij})`.

For every two clusters l and k, B is the least change (in the squares, weighted) of -c that is non-negative and has the
row sums r asked for: quadratically regularised optimal transport. Its dual is smooth and concave in u, and only pairs
where u_ik + u_jl - c_ij is negative make it differ from a linear system that has a closed solution: a few steps of
Newton's method on a list of such pairs find u, without any (n, n) matrix.

Notation  u (n, K): of point i against cluster k, zero for its own cluster; c_ij = xt_i . xt_j with xt = x - own mean;
          omega weights, W_k their sums; r (n, K) targets, sum_{j in k} omega_j B_ij = r_ik.
Cost      one pass over all pairs, n^2 p / 2 operations in tiles, to list candidates; then steps linear in the list.
Pitfalls  the list holds pairs that are near zero at the start; what the solution wants may lie outside. Whoever uses u
          clips all pairs anew, so that this costs accuracy but never validity.
References  M. Blondel, V. Seguy, A. Rolet, Smooth and sparse optimal transport, 2018, arXiv 1710.06276.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Pairs", "balanced", "closed_potentials", "cluster_sums", "fit_potentials", "negative_pairs", "tiles"]

_TILE, _DEVICE_TILE = 512, 8192  # rows and columns of a tile; on the CPU 2 MiB, which stay in a cache
_STEPS, _INNER = 30, 40
_SUFFICIENT = 1e-4  # of the decrease that the slope promises


@dataclass(frozen=True)
class Pairs:
    """A list of pairs of points in different clusters.

    Parameters
    ----------
    i, j : torch.Tensor, shape (m,)
        Points; each pair once.
    c : torch.Tensor, shape (m,)
        Inner products of the points less their means.
    """

    i: torch.Tensor
    j: torch.Tensor
    c: torch.Tensor

    def __len__(self):
        """Return how many there are."""
        return len(self.c)


def cluster_sums(values, labels, n_clusters):
    """Return the sums of rows over clusters: shape (K, ...).

    Parameters
    ----------
    values : torch.Tensor, shape (n, ...)
        Rows, weighted already.
    labels : torch.Tensor, shape (n,)
        Clusters 0 to K - 1.
    n_clusters : int
        K.

    Returns
    -------
    torch.Tensor, shape (K, ...)

    Examples
    --------
    >>> cluster_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 0]), 2).tolist()
    [5.0, 2.0]
    """
    return values.new_zeros(n_clusters, *values.shape[1:]).index_add_(0, labels, values)


def tiles(clusters, u, margin):
    """Yield tiles of pairs of different clusters, those left out where u_ik + u_jl - c_ij must be above a margin.

    Parameters
    ----------
    clusters : Clusters
        Points less their means, and members.
    u : torch.Tensor, shape (n, K)
        Potentials.
    margin : float
        Pairs below it are wanted.

    Yields
    ------
    rows, columns : torch.Tensor, shapes (m,) and (N,)
        Points of a tile.
    k, own : int
        Clusters of the columns and of the rows.

    Examples
    --------
    >>> from sciml.stats.clustering.kmeans_certificate import Clusters
    >>> X = torch.tensor([[0.0], [2.0], [5.0]], dtype=torch.float64)
    >>> clusters = Clusters(X, torch.ones(3, dtype=torch.float64), torch.tensor([0, 0, 1]), 2)
    >>> [len(rows) * len(columns) for rows, columns, _, _ in tiles(clusters, torch.zeros(3, 2).double(), 0.5)]
    [2]
    """
    side = _TILE if u.device.type == "cpu" else _DEVICE_TILE
    lengths = clusters.offsets.norm(dim=1)
    for k, columns in enumerate(clusters.members):
        for own, rows in enumerate(clusters.members[:k]):
            if len(rows) == 0 or len(columns) == 0:
                continue
            # |c_ij| <= |xt_i| |xt_j| rules out points that are far from the other cluster.
            near = u[rows, k] + u[columns, own].min() - lengths[rows] * lengths[columns].amax() <= margin
            rows = rows[near]
            if len(rows) == 0:
                continue
            near = u[columns, own] + u[rows, k].min() - lengths[columns] * lengths[rows].amax() <= margin
            parts = [part for part in columns[near].split(side) if len(part)]
            for chunk in rows.split(side):
                for part in parts:
                    yield chunk, part, k, own


def negative_pairs(clusters, u, margin=0.0, limit=None):
    """Return the pairs of clusters' points with u_ik + u_jl - c_ij below a margin, or None beyond a limit.

    Parameters
    ----------
    clusters : Clusters
        Points less their means, and members.
    u : torch.Tensor, shape (n, K)
        Potentials.
    margin : float
        0 by default.
    limit : int or None
        Pairs at most; None, the default: any number.

    Returns
    -------
    Pairs or None

    Examples
    --------
    >>> from sciml.stats.clustering.kmeans_certificate import Clusters
    >>> X = torch.tensor([[0.0], [2.0], [5.0]], dtype=torch.float64)
    >>> clusters = Clusters(X, torch.ones(3, dtype=torch.float64), torch.tensor([0, 0, 1]), 2)
    >>> len(negative_pairs(clusters, torch.zeros(3, 2, dtype=torch.float64), margin=0.5))
    2
    """
    found, total = [], 0
    xt, half = clusters.offsets, clusters.offsets.float()
    # Half the digits find the pairs that may be meant, with room for what they round; the others decide.
    reach = xt.norm(dim=1).amax() ** 2 + 2 * u.abs().amax()
    room = 4 * (xt.shape[1] + 4) * torch.finfo(torch.float32).eps * float(reach)
    for rows, columns, k, own in tiles(clusters, u, margin):
        a, b = u[rows, k], u[columns, own]
        left = torch.cat([half[rows], -a.float()[:, None], torch.ones_like(half[rows, :1])], 1)
        right = torch.cat([half[columns], torch.ones_like(half[columns, :1]), -b.float()[:, None]], 1)
        excess = left @ right.T
        if float(excess.amax()) <= -margin - room:
            continue
        i, j = torch.nonzero(excess > -margin - room, as_tuple=True)
        c = torch.linalg.vecdot(xt[rows[i]], xt[columns[j]])
        meant = c > a[i] + b[j] - margin
        found.append((rows[i[meant]], columns[j[meant]], c[meant]))
        total += len(found[-1][0])
        if limit is not None and total > limit:
            return None
    if not found:
        empty = clusters.labels[:0]
        return Pairs(empty, empty, clusters.weights[:0])
    return Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def balanced(clusters, targets):
    """Return targets of row sums that some non-negative B has: none below zero, and equal totals of both sides.

    Parameters
    ----------
    clusters : Clusters
        Weights and labels.
    targets : torch.Tensor, shape (n, K)
        r, any sign.

    Returns
    -------
    torch.Tensor, shape (n, K)

    Examples
    --------
    >>> from sciml.stats.clustering.kmeans_certificate import Clusters
    >>> X = torch.tensor([[0.0], [5.0]], dtype=torch.float64)
    >>> clusters = Clusters(X, torch.ones(2, dtype=torch.float64), torch.tensor([0, 1]), 2)
    >>> balanced(clusters, torch.tensor([[0.0, 1.0], [3.0, 0.0]], dtype=torch.float64)).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    r = targets.clamp_min(0) * clusters.foreign
    t = cluster_sums(clusters.weights[:, None] * r, clusters.labels, clusters.n_clusters)
    factor = torch.where(t > 0, (t + t.T) / 2 / t.clamp_min(torch.finfo(t.dtype).tiny), 1.0)
    return r * factor[clusters.labels]


def closed_potentials(clusters, targets):
    """Return the potentials that give the row sums where no entry of B has to be clipped.

    Parameters
    ----------
    clusters : Clusters
        Weights and labels.
    targets : torch.Tensor, shape (n, K)
        r, with equal totals of both sides.

    Returns
    -------
    torch.Tensor, shape (n, K)

    Examples
    --------
    >>> from sciml.stats.clustering.kmeans_certificate import Clusters
    >>> X = torch.tensor([[0.0], [5.0]], dtype=torch.float64)
    >>> clusters = Clusters(X, torch.ones(2, dtype=torch.float64), torch.tensor([0, 1]), 2)
    >>> closed_potentials(clusters, torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    # An empty cluster has no targets: any size does for it.
    W = torch.where(clusters.sizes > 0, clusters.sizes, 1.0)
    t = cluster_sums(clusters.weights[:, None] * targets, clusters.labels, clusters.n_clusters)
    half = (t + t.T) / (4 * W[:, None] * W)
    return (targets / W - half[clusters.labels]) * clusters.foreign


def fit_potentials(clusters, pairs, targets, *, tol=1e-8):
    """Return potentials whose clipped B has the row sums asked for, as far as the listed pairs know.

    Parameters
    ----------
    clusters : Clusters
        Weights and labels.
    pairs : Pairs
        Where B may have to be clipped.
    targets : torch.Tensor, shape (n, K)
        r, from `balanced`.
    tol : float
        Stop at ``norm(row sums - r) <= tol * norm(r)``, weighted norms; 1e-8 by default: four Newton steps.

    Returns
    -------
    torch.Tensor, shape (n, K)

    Examples
    --------
    >>> from sciml.stats.clustering.kmeans_certificate import Clusters
    >>> X = torch.tensor([[0.0], [2.0], [5.0]], dtype=torch.float64)
    >>> clusters = Clusters(X, torch.ones(3, dtype=torch.float64), torch.tensor([0, 0, 1]), 2)
    >>> r = balanced(clusters, torch.tensor([[0.0, 3.0], [0.0, 1.0], [4.0, 0.0]], dtype=torch.float64))
    >>> fit_potentials(clusters, negative_pairs(clusters, closed_potentials(clusters, r)), r).tolist()
    [[0.0, 2.0], [0.0, 0.0], [1.0, 0.0]]
    """
    dual = _Dual(clusters, pairs, targets)
    u = closed_potentials(clusters, targets)
    value, residual, g = dual.at(u)
    largest = dual.norm(targets)
    goal = tol * largest
    for _ in range(_STEPS):
        size = dual.norm(residual)
        if size <= goal or largest == 0:
            break
        step = dual.newton(residual, g, min(0.1, size / largest))
        slope, length = dual.dot(residual, step), 1.0
        while True:
            ahead = dual.at(u + length * step)
            if ahead[0] <= value - _SUFFICIENT * length * slope:
                break
            length /= 2
            if length < 1e-6:
                return u
        u = u + length * step
        value, residual, g = ahead
    return u


class _Dual:
    """The dual function of u, negated, up to a constant: half the squares of B, less <r, u>."""

    def __init__(self, clusters, pairs, targets):
        self.clusters, self.pairs, self.targets = clusters, pairs, targets
        K, labels = clusters.n_clusters, clusters.labels
        self.ik = pairs.i * K + labels[pairs.j]
        self.jl = pairs.j * K + labels[pairs.i]
        self.wi, self.wj = clusters.weights[pairs.i], clusters.weights[pairs.j]

    def dot(self, a, b):
        return float((self.clusters.weights[:, None] * a * b).sum())

    def norm(self, a):
        return self.dot(a, a) ** 0.5

    def at(self, u):
        """Return value, residual r - row sums, and u_ik + u_jl - c_ij of the listed pairs."""
        flat = u.view(-1)
        g = flat[self.ik] + flat[self.jl] - self.pairs.c
        e = (-g).clamp_min(0)
        linear = self._rows_of_all(u)
        # The squares of all pairs have a closed form: c sums to zero over either cluster.
        value = 0.5 * self.dot(u, linear) - self.dot(self.targets, u) - 0.5 * float(self.wi @ (self.wj * e * e))
        return value, self.targets - linear - self._scatter(e, slice(None)), g

    def newton(self, residual, g, tol):
        """Return the step of Newton's method by preconditioned conjugate gradients."""
        clipped = torch.nonzero(g < 0)[:, 0]
        lost = self._scatter(torch.ones_like(clipped, dtype=g.dtype), clipped)
        sizes = self.clusters.sizes
        diagonal = (sizes - lost).clamp_min(1e-2 * float(sizes.mean()))
        ik, jl = self.ik[clipped], self.jl[clipped]
        x, r = torch.zeros_like(residual), residual
        z = r / diagonal
        p, rho, goal = z, self.dot(r, z), tol * self.norm(r)
        for _ in range(_INNER):
            flat = p.view(-1)
            q = self._rows_of_all(p) - self._scatter(flat[ik] + flat[jl], clipped)
            curvature = self.dot(p, q)
            # A shift of one side against the other changes nothing: there the curvature is zero.
            if curvature <= 1e-14 * rho:
                break
            x, r = x + rho / curvature * p, r - rho / curvature * q
            if self.norm(r) <= goal:
                break
            z = r / diagonal
            rho, old = self.dot(r, z), rho
            p = z + rho / old * p
        return x * self.clusters.foreign

    def _rows_of_all(self, u):
        """Row sums of u_ik + u_jl over all pairs of different clusters."""
        clusters = self.clusters
        S = cluster_sums(clusters.weights[:, None] * u, clusters.labels, clusters.n_clusters)
        return (clusters.sizes * u + S.T[clusters.labels]) * clusters.foreign

    def _scatter(self, e, chosen):
        """Row sums of a value for each of some pairs, weighted by the other point."""
        out = self.clusters.weights.new_zeros(self.clusters.foreign.numel())
        out.index_add_(0, self.ik[chosen], e * self.wj[chosen])
        out.index_add_(0, self.jl[chosen], e * self.wi[chosen])
        return out.view_as(self.clusters.foreign)
