r"""The relaxation of clustering split in two: a set with spectral projections, and one with entrywise projections.

.. math:: \max_{Z \in \mathcal F \cap \mathcal G} \langle A, Z \rangle, \qquad T \leftarrow T +
          \omega \big( \Pi_{\mathcal F}(2 \Pi_{\mathcal G}(T) - T + A / \rho) - \Pi_{\mathcal G}(T) \big)

B > 1: F holds the positive semidefinite blocks of the right traces, G the non-negative ones with sum_k Z_k s = s.
B = 1: F = {t t' + H : 0 <= H <= I, H t = 0, tr H = K - 1} has the row sums as well, and G = {Z >= 0} is entrywise.

Notation  Z, T (B, n, n); t = s / |s|; rho penalty; y (n,) with Pi_G(T)_k = max(0, T_k + (s y' + y s') / 2), found by
          Newton's method; W_k = rho max(0, -T_k - (s y' + y s') / 2) and alpha = -rho y are multipliers.
Cost      some products of (n, n) with a few vectors for each block, and one Cholesky factor of (n, n); 4 B n^2 numbers.
Pitfalls  rho has the units of A over those of Z, the sum of the weights. Eigenvectors are those of the last step,
          improved by three products: projections are exact in the limit only, and bounds are computed elsewhere.
References  J. Eckstein, D. Bertsekas, On the Douglas-Rachford splitting method, 1992; J. Peng, Y. Wei, Approximating
            K-means-type clustering via semidefinite programming, 2007.
"""

from __future__ import annotations

import torch

from sciml.random import normal
from sciml.stats.clustering.spectral_bounds import leading_pairs

__all__ = ["RelaxationSplitting", "threshold"]

_RELAXATION = 1.6
_PENALTY = 1.0  # of the sum of the weights
_DECOMPOSED = 100  # up to here a full decomposition is the faster way
_PRODUCTS = 3
_SPARE = 5  # vectors beyond the rank, among which new directions appear
_NEWTON = 20  # steps at most; one or two after the first projections
_LACK = 1e-2  # of the row sums, against the distance of the two blocks
_EXACT = 1e-12  # of the row sums, where that is nothing


def threshold(values, total, cap=None):
    r"""Return tau with :math:`\sum_i \min(c, \max(0, v_i - \tau)) = m`.

    Parameters
    ----------
    values : torch.Tensor, shape (m,)
        v, in any order.
    total : float
        m, positive and at most the number of values times the cap.
    cap : float or None
        c; None, the default: infinity.

    Returns
    -------
    float

    Examples
    --------
    >>> threshold(torch.tensor([3.0, 1.0, 0.0]), 2.0)
    1.0
    """
    kinks = torch.cat([values, values - cap]) if cap else torch.cat([values, values.amin()[None] - total])
    kinks = kinks.sort().values
    # The sum falls from kink to kink, linear in between; bisection on the kinks needs no sums of all.
    size = lambda tau: float((values - tau).clamp(0, cap).sum())  # noqa: E731
    low, high = 0, len(kinks) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(float(kinks[middle])) >= total else (low, middle)
    a, b = float(kinks[low]), float(kinks[high])
    above, below = size(a), size(b)
    return a if above == below else a + (above - total) / (above - below) * (b - a)


class RelaxationSplitting:
    """The state of the splitting; `advance` is one step.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    start : torch.Tensor, shape (B, n, n)
        First Z.
    rng : numpy.random.Generator
        Source of start vectors.
    trace : {"block", "total"}
        Whether every block has its own trace; "block" by default.
    alpha : torch.Tensor, shape (n,), or None
        First multipliers of the row sums; None, the default: zeros.
    W : torch.Tensor, shape (B, n, n), or None
        First multipliers of the signs, non-negative; None, the default: zeros.
    vectors : torch.Tensor, shape (B, n, r), or None
        That span about the range of Z; None, the default: the first step decomposes whole matrices.

    Attributes
    ----------
    inner, outer : torch.Tensor, shape (B, n, n)
        The last points of F and of G.
    y : torch.Tensor, shape (n,)
        Shifts of the row sums.
    rho : float
        Penalty.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> affinity = Affinity(torch.tensor([[-1.0], [-0.9], [0.9], [1.0]], dtype=torch.float64), 2)
    >>> state = RelaxationSplitting(affinity, torch.zeros(1, 4, 4, dtype=torch.float64), np.random.default_rng(0))
    >>> _ = [state.advance() for _ in range(100)]
    >>> round(float(affinity.to_objective((state.A * state.outer).sum())), 6)
    0.01
    """

    def __init__(self, affinity, start, rng, trace="block", *, alpha=None, W=None, vectors=None):
        self.A, self.s, self.traces = affinity.dense(), affinity.roots, affinity.traces
        self.K, self.joint, self.rng = affinity.n_clusters, trace == "total", rng
        self.size = float(affinity.weights.sum())
        self.t = (self.s / self.size**0.5)[:, None]
        self.rho = _PENALTY * self.size
        # A single block has its row sums in F, where they need no multipliers.
        self.y = torch.zeros_like(self.s) if alpha is None or len(start) == 1 else alpha / -self.rho
        self.T = start - self._shift(self.y)
        if W is not None:
            self.T.sub_(W, alpha=1 / self.rho)
        self.Q, self.gap = [None] * len(self.A) if vectors is None else [self._spared(V) for V in vectors], 0.0
        self.inner = self.outer = self._entrywise()

    def advance(self):
        """Take a step; return |inner - outer|."""
        C = torch.add(2 * self.outer - self.T, self.A, alpha=1 / self.rho)
        self.inner = self._spectral(C)
        gap = self.inner - self.outer
        self.T = self.T.add_(gap, alpha=_RELAXATION)
        self.gap = float(torch.linalg.vector_norm(gap))
        self.outer = self._entrywise()
        return self.gap

    def rescale(self, factor):
        """Multiply rho, and leave Z and the multipliers as they are."""
        self.T = self.outer + (self.T - self.outer) / factor
        self.y = self.y / factor
        self.rho *= factor

    def multipliers(self):
        """Return alpha (n,) and W (B, n, n), non-negative."""
        shift = self._shift(self.y)
        return -self.rho * self.y, (-self.T - shift).clamp_min_(0).mul_(self.rho)

    def _shift(self, y):
        half = 0.5 * torch.outer(y, self.s)
        return half + half.T

    def _entrywise(self):
        """Return the point of G nearest to T, and leave its y."""
        if len(self.A) == 1:
            return self.T.clamp_min(0)
        s, size = self.s, self.size
        M, Z, lack = self._at(self.y)
        goal = max(_EXACT * size**0.5, _LACK * self.gap)
        for _ in range(_NEWTON):
            norm = float(torch.linalg.vector_norm(lack))
            if norm <= goal:
                break
            count = (M > 0).sum(0).to(M.dtype)
            H = 0.5 * s[:, None] * count * s
            # Rows without a positive entry have no derivative; the ridge keeps their steps finite.
            H.diagonal().add_(0.5 * (count @ (s * s)) + 1e-8 * size)
            d = torch.cholesky_solve(lack[:, None], torch.linalg.cholesky(H))[:, 0]
            length = 1.0
            while True:
                y = self.y + length * d
                M, Z, lack = self._at(y)
                if float(torch.linalg.vector_norm(lack)) <= (1 - 0.1 * length) * norm or length < 1e-3:
                    break
                length *= 0.5
            self.y = y
        return Z

    def _at(self, y):
        M = self.T + self._shift(y)
        Z = M.clamp_min(0)
        return M, Z, self.s - (Z @ self.s).sum(0)

    def _spectral(self, C):
        """Return the point of F nearest to C."""
        if len(C) == 1:
            values, Q = self._pairs(C[0], 0, self.t)
            f = (values - threshold(values, self.K - 1, 1.0)).clamp(0, 1) if self.K > 1 else 0 * values
            return (self._product(Q, f, 0) + self.t @ self.t.T)[None]
        pairs = [self._pairs(block, k) for k, block in enumerate(C)]
        if self.joint:
            taus = [threshold(torch.cat([values for values, _ in pairs]), float(self.K))] * len(C)
        else:
            taus = [threshold(pair[0], float(t)) for pair, t in zip(pairs, self.traces, strict=True)]
        found = zip(pairs, taus, strict=True)
        return torch.stack([self._product(Q, (v - tau).clamp_min(0), k) for k, ((v, Q), tau) in enumerate(found)])

    def _pairs(self, C, k, t=None):
        """Return leading eigenvalues and vectors of C, off t where that is given."""
        off = (lambda V: V) if t is None else (lambda V: V - t @ (t.T @ V))
        n, start = len(C), self.Q[k]
        if n <= _DECOMPOSED or start is None:
            P = off(off(C).T)
            values, Q = torch.linalg.eigh((P + P.T) / 2)
            values, Q = values.flip(0), Q.flip(1)
            # The direction off which C was taken has eigenvalue zero, and must not count.
            return (values, Q) if t is None else self._without(values, Q)
        apply = lambda V: off(C @ off(V))  # noqa: E731
        steps = _PRODUCTS
        return leading_pairs(apply, off(start), 1, tol=0.0, min_products=steps, max_products=steps, depth=steps)[:2]

    def _without(self, values, Q):
        keep = torch.ones_like(values, dtype=torch.bool)
        keep[(self.t.T @ Q)[0].abs().argmax()] = False
        return values[keep], Q[:, keep]

    def _product(self, Q, f, k):
        """Return Q diag(f) Q', and keep the vectors for the next step."""
        rank = int((f > 0).sum())
        self.Q[k] = self._spared(Q[:, : rank + _SPARE], rank)
        half = Q[:, :rank] * f[:rank].sqrt()
        return half @ half.T

    def _spared(self, Q, rank=None):
        """Return vectors with random ones added, until there are some beyond the rank."""
        lacking = min((Q.shape[1] if rank is None else rank) + _SPARE, len(Q) - 1) - Q.shape[1]
        if lacking <= 0:
            return Q
        return torch.cat([Q, normal(self.rng, (len(Q), lacking), device=Q.device, dtype=Q.dtype)], 1)
