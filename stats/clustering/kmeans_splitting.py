r"""The best multipliers of the K-means relaxation, by splitting its two cones: one eigenvalue step, one entrywise step.

.. math:: \max_Z \langle G, Z \rangle \quad \text{subject to}\quad Z \ge 0, \quad
          Z \in \mathcal F = \{ t t' + F : 0 \preceq F \preceq I,\; F t = 0,\; \operatorname{tr} F \le K - 1 \}

is the relaxation of K-means: Z s = s is Z t = t with t = s / |s|, and non-negative matrices with that eigenvector have
no eigenvalue above 1. Projections on F and on Z >= 0 are both explicit, so that the alternating direction method of two
blocks applies, which always converges; one (n, n) matrix R is all it remembers:

.. math:: F = \Pi_{\mathcal F}(|R| + G / \rho), \quad R \leftarrow \omega F + (1 - \omega) \max(R, 0) + \min(R, 0),
          \quad B = \rho \max(0, -R).

B is non-negative at every step, which makes every step a bound. Of |R| + G / rho only eigenvalues above a threshold
matter, as many as Z has rank, and those of the last step are near: a few products replace the decomposition.

Notation  Z (n, n) memberships; G, B as in the certificates of K-means; omega = 1.6 relaxation; rho penalty.
Cost      some ten passes over (n, n) numbers a step, three products with (n, r) vectors, r the rank of Z and five more.
Pitfalls  rho has the units of G over those of Z, which is n / K where the mean length is 1.
References  J. Peng, Y. Wei, Approximating K-means-type clustering via semidefinite programming, SIAM J. Optim., 2007.
            S. Boyd et al., Distributed optimization and statistical learning via the alternating direction method of
            multipliers, 2011. J. Eckstein, D. Bertsekas, On the Douglas-Rachford splitting method, 1992.
"""

from __future__ import annotations

import torch

from sciml.random import normal
from sciml.stats.clustering.spectral_bounds import leading_pairs

__all__ = ["KMeansSplitting", "fantope_threshold"]

_RELAXATION = 1.6
_DECOMPOSED = 100  # up to here a full decomposition is the faster way
_PRODUCTS = 3
_SPARE = 5  # vectors beyond the rank, among which new directions appear


def fantope_threshold(values, trace):
    r"""Return tau with :math:`\sum_i \min(1, \max(0, \theta_i - \tau)) = t`, or zero where that is negative.

    Parameters
    ----------
    values : torch.Tensor, shape (r,)
        theta, the largest first.
    trace : int
        t, at least 0.

    Returns
    -------
    float

    Examples
    --------
    >>> fantope_threshold(torch.tensor([3.0, 1.5, 1.0]), 2)
    0.75
    """
    total = lambda tau: float((values - tau).clamp(0, 1).sum())  # noqa: E731
    if total(0.0) <= trace:
        return 0.0
    kinks = torch.cat([values, values - 1, values.new_zeros(1)]).clamp_min(0).unique().tolist()
    # The sum falls from kink to kink, linear in between.
    low, high = 0, len(kinks) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(kinks[middle]) >= trace else (low, middle)
    above, below = total(kinks[low]), total(kinks[high])
    return kinks[low] + (above - trace) / (above - below) * (kinks[high] - kinks[low])


class KMeansSplitting:
    """The state of the splitting; `advance` is one step, `multiplier` what certificates take.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Centred points, in the metric of the problem, of mean squared length about 1.
    weights : torch.Tensor, shape (n,)
        omega, positive.
    labels : torch.Tensor, shape (n,)
        Clusters to start from.
    n_clusters : int
        K.
    B : torch.Tensor, shape (n, n)
        First multiplier, symmetric and non-negative.
    rng : numpy.random.Generator
        Source of start vectors.

    Examples
    --------
    >>> import numpy as np
    >>> X = torch.tensor([[-1.0], [-0.9], [0.9], [1.0]], dtype=torch.float64)
    >>> ones, zeros = torch.ones(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    >>> state = KMeansSplitting(X, ones, torch.tensor([0, 0, 1, 1]), 2, zeros, np.random.default_rng(0))
    >>> _ = [state.advance() for _ in range(100)]
    >>> round(3.62 - state.value(), 6)  # the sum of squares less what labels explain at most
    0.01
    """

    def __init__(self, X, weights, labels, n_clusters, B, rng):
        s = weights.sqrt()
        self.points, self.n_clusters, self.rng = s[:, None] * X, n_clusters, rng
        self.t = (s / s.norm())[:, None]
        self.rho = float(weights.sum()) / n_clusters
        clusters = X.new_zeros(len(s), n_clusters).scatter_(1, labels[:, None], s[:, None])
        clusters = clusters / clusters.norm(dim=0).clamp_min(torch.finfo(s.dtype).tiny)
        self.Q = torch.cat([clusters, normal(rng, (len(s), _SPARE), device=s.device)], 1)[:, : len(s)]
        self.R = (clusters @ clusters.T).addcmul_(B, B.new_tensor(-1 / self.rho))

    def _project(self, V):
        return V - self.t @ (self.t.T @ V)

    def advance(self, measure=False):
        """Take a step; return how far the two blocks are apart and how far the second moved, if asked to measure."""
        C = self.R.abs().addmm_(self.points, self.points.T, alpha=1 / self.rho)
        theta, Q = self._pairs(C)
        f = (theta - fantope_threshold(theta, self.n_clusters - 1)).clamp(0, 1)
        rank = int((f > 0).sum())
        self.Q = Q[:, : rank + _SPARE]
        if self.Q.shape[1] < min(rank + _SPARE, len(Q)):
            lacking = min(rank + _SPARE, len(Q)) - self.Q.shape[1]
            self.Q = torch.cat([self.Q, normal(self.rng, (len(Q), lacking), device=Q.device)], 1)
        F = torch.cat([Q[:, :rank] * f[:rank].sqrt(), self.t], 1)
        before = self.R.clamp_min(0) if measure else None
        self.R = torch.where(self.R > 0, (1 - _RELAXATION) * self.R, self.R).addmm_(F, F.T, alpha=_RELAXATION)
        if not measure:
            return None
        after = self.R.clamp_min(0)
        moved = float(before.sub_(after).norm())
        return float(after.addmm_(F, F.T, alpha=-1).norm()), moved

    def _pairs(self, C):
        if len(C) <= _DECOMPOSED:
            P = self._project(self._project(C).T)
            theta, Q = torch.linalg.eigh((P + P.T) / 2)
            return theta.flip(0), Q.flip(1)
        apply = lambda V: self._project(C @ self._project(V))  # noqa: E731
        start, steps = self.Q, _PRODUCTS
        return leading_pairs(apply, start, 1, tol=0.0, min_products=steps, max_products=steps, depth=steps)[:2]

    def rescale(self, factor):
        """Multiply rho, and leave both the memberships and the multiplier as they are."""
        self.rho *= factor
        self.R = torch.where(self.R < 0, self.R / factor, self.R)

    def multiplier(self):
        """Return B, shape (n, n)."""
        return (-self.R).clamp_min_(0).mul_(self.rho)

    def value(self):
        """Return an estimate of the bound on <G, Z>: no proof."""
        H = self.multiplier().addmm_(self.points, self.points.T)
        count = min(self.n_clusters - 1, len(H) - 1)
        along = float(self.t[:, 0] @ (H @ self.t[:, 0]))
        if count == 0:
            return along
        start = torch.cat([self.Q[:, : count + 3], normal(self.rng, (len(H), 1), device=H.device)], 1)
        apply = lambda V: self._project(H @ self._project(V))  # noqa: E731
        theta, _, residual = leading_pairs(apply, start[:, : len(H)], count, tol=1e-8, max_products=40)
        return along + float(theta[:count].clamp_min(0).sum()) + count * residual
