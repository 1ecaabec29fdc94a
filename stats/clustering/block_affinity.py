r"""The matrix of a block of a likelihood certificate applied to vectors: low ranks plus the pairs that repel.

With :math:`h_i = \tfrac12 (q_i + a_i + c_k)` the entries of -M_k are :math:`w_i \cdot w_j - h_i - h_j`, and
H_k = -M_k + B_k is, without the weights,

* among the members of cluster k, and among those of any other cluster where these keep their entries, -M_k itself;
* between a point j outside and the members, :math:`-\nu_j + \max(0, \nu_j - M_{ij})`: a level and a few pairs;
* between all other pairs :math:`\max(0, -M_{ij})`, and -M_jj on the diagonal.

Notation  as in the certificates of the likelihood; w whitened points less the mean of their cluster where both are of
          one; members m, others o.
Cost      K n^2 p operations in tiles to list the pairs; then n p operations a vector plus two a pair.
Pitfalls  points of other clusters that metric k sees as near repel each other in large numbers unless they keep their
          entries: n^2 / K pairs in the worst case.
"""

from __future__ import annotations

import torch

from sciml.stats.clustering.clipped_affinity import symmetric_sparse
from sciml.stats.clustering.likelihood_certificate import water_levels

__all__ = ["BlockAffinity", "excess_pairs"]

_TILE, _DEVICE_TILE = 512, 8192
_ANY = 2**62


def excess_pairs(W, left, right, rows, columns, limit, upper=False):
    """Return the pairs with w_i . w_j above left_i + right_j, or None beyond a limit.

    Parameters
    ----------
    W : torch.Tensor, shape (n, p)
        Points.
    left, right : torch.Tensor, shape (n,)
        Thresholds.
    rows, columns : torch.Tensor
        Indices of points that may be i and j.
    limit : int
        Pairs at most.
    upper : bool
        Rows and columns are the same, and each pair is wanted once, none with itself; False by default.

    Returns
    -------
    tuple of torch.Tensor, shapes (m,), or None
        i, j and the excess.

    Examples
    --------
    >>> W = torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
    >>> zeros, points = torch.zeros(3, dtype=torch.float64), torch.arange(3)
    >>> [t.tolist() for t in excess_pairs(W, zeros, zeros, points, points, 10, upper=True)]
    [[0], [1], [2.0]]
    """
    side = _TILE if W.device.type == "cpu" else _DEVICE_TILE
    found, total = [], 0
    half = W.float()
    reach = W.square().sum(1).amax() + left.abs().amax() + right.abs().amax() if len(W) else 0.0
    # Half the digits find the pairs that may be meant, with room for what they round; the others decide.
    room = 4 * (W.shape[1] + 4) * torch.finfo(torch.float32).eps * float(reach)
    for number, r in enumerate(rows.split(side)):
        for c in columns.split(side)[number if upper else 0 :]:
            if len(r) == 0 or len(c) == 0:
                continue
            excess = half[r] @ half[c].T
            excess -= left[r].float()[:, None]
            excess -= right[c].float()
            if float(excess.amax()) <= -room:
                continue
            i, j = (t[n] for t, n in zip((r, c), torch.nonzero(excess > -room, as_tuple=True), strict=True))
            e = torch.linalg.vecdot(W[i], W[j]) - left[i] - right[j]
            meant = (e > 0) & (i < j) if upper else e > 0
            found.append((i[meant], j[meant], e[meant]))
            total += len(found[-1][0])
            if total > limit:
                return None
    if not found:
        empty = rows[:0]
        return empty, empty, W[:0, 0]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


class BlockAffinity:
    """H_k applied to vectors.

    Parameters
    ----------
    profiles : Profiles
        The partition.
    k : int
        Block.
    a : torch.Tensor, shape (n,)
        alpha_i / s_i.
    keep : bool
        Whether two points of one other cluster keep their entry of M_k.
    limit : int or None
        Pairs at most; `complete` is False where there are more. None, the default: any number.

    Attributes
    ----------
    complete : bool
        Whether the pairs are listed.
    n_pairs : int
        How many.
    cross, outer : torch.Tensor, sparse, shape (n, n), or None
        Pairs of members and others, and of others, without the weights.

    Examples
    --------
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> from sciml.stats.clustering.likelihood_certificate import Profiles, row_multipliers
    >>> X = torch.tensor([[0.0], [9.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2, torch.ones(2, 1, 1, dtype=torch.float64))
    >>> profiles = Profiles(affinity, torch.tensor([0, 1]))
    >>> block = BlockAffinity(profiles, 0, row_multipliers(profiles, profiles.strengths), True, 10)
    >>> (block.apply(torch.eye(2, dtype=torch.float64)) * affinity.scale).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self, profiles, k, a, keep, limit=None):
        affinity = profiles.affinity
        self.profiles, self.k, self.keep, self.roots = profiles, k, keep, affinity.roots
        self.W = (affinity.X @ affinity.factors[k]) / affinity.scale**0.5
        self.h = 0.5 * (affinity.q[k] + a + affinity.offsets[k])
        # Points less the mean of their own cluster, with the h that belongs to them: -M is the same, but for rounding.
        means = affinity.means(profiles.labels)[0] @ affinity.factors[k] / affinity.scale**0.5
        own = means[profiles.labels]
        self.centred = self.W - own
        self.own_h = 0.5 * (self.centred.square().sum(1) + a + affinity.offsets[k])
        self.diagonal = -(a + affinity.offsets[k])
        self.levels = torch.zeros_like(a)
        self.cross = self.outer = None
        self.n_pairs = 0
        self.complete = self._list(_ANY if limit is None else limit)

    def _list(self, limit):
        profiles, n, m, o = self.profiles, len(self.h), self.profiles.members[self.k], self.profiles.others[self.k]
        if len(m) and len(o):
            self.levels[o] = self._water(m, o)
            found = excess_pairs(self.W, self.h, self.h - self.levels, m, o, limit)
            if found is None:
                return False
            self.n_pairs += len(found[0])
            self.cross = symmetric_sparse(*found, n) if len(found[0]) else None
        groups = [members for number, members in enumerate(profiles.members) if number != self.k and len(members)]
        found = []
        for number, rows in enumerate(groups):
            if not self.keep:
                found.append(excess_pairs(self.W, self.h, self.h, rows, rows, limit - self.n_pairs, upper=True))
            for columns in groups[:number]:
                if found and found[-1] is None:
                    return False
                found.append(excess_pairs(self.W, self.h, self.h, rows, columns, limit - self.n_pairs))
            if found and found[-1] is None:
                return False
        if found:
            i, j, e = (torch.cat(parts) for parts in zip(*found, strict=True))
            self.n_pairs += len(i)
            self.outer = symmetric_sparse(i, j, e, n) if len(i) else None
        return self.n_pairs <= limit

    def _water(self, m, o):
        """Levels of the points outside; where none would do, the largest entry, which clips nothing."""
        weights, parts = self.profiles.affinity.weights[m], []
        columns = max(1, (_TILE * _TILE if self.h.device.type == "cpu" else _DEVICE_TILE**2) // len(m))
        for part in o.split(columns):
            M = -(self.W[m] @ self.W[part].T)
            M += self.h[m][:, None]
            M += self.h[part]
            levels = water_levels(M, weights)
            parts.append(torch.where(torch.isinf(levels), M.amax(0).clamp_min(0), levels))
        return torch.cat(parts)

    def _low_rank(self, rows, V):
        """-M_k among the points of one cluster."""
        C, h, v = self.centred[rows], self.own_h[rows], V[rows]
        return C @ (C.T @ v) - h[:, None] * v.sum(0) - h @ v

    def apply(self, V):
        """Return H_k V, shape (n, r) in and out."""
        m, o = self.profiles.members[self.k], self.profiles.others[self.k]
        s = self.roots[:, None]
        V = s * V
        out = torch.zeros_like(V)
        out[m] = self._low_rank(m, V) - self.levels[o] @ V[o]
        out[o] = -self.levels[o][:, None] * V[m].sum(0)
        if self.keep:
            for number, rows in enumerate(self.profiles.members):
                if number != self.k:
                    out[rows] += self._low_rank(rows, V)
        else:
            out[o] += self.diagonal[o][:, None] * V[o]
        for sparse in (self.cross, self.outer):
            if sparse is not None:
                out += sparse @ V
        return s * out
