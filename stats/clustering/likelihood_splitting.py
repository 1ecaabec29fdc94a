r"""The best multipliers of the relaxation with a covariance for each cluster, by splitting it in two.

.. math:: \max \sum_k \langle A_k, Z_k \rangle \quad \text{subject to}\quad Z_k \succeq 0,\; \operatorname{tr} Z_k \le 1
          \quad\text{and}\quad Z_k \ge 0,\; \textstyle\sum_k Z_k s = s

Projecting on the first two sets shrinks the eigenvalues of each block; on the last two it is entrywise up to one vector
y of shifts, Z_k = max(0, R_k) with R_k containing (s y' + y s') / 2, which a step of Newton's method brings to row sums
s. The alternating direction method of these two blocks remembers one (n, n) matrix R_k a block, and y:

.. math:: F_k = \Pi(|R_k| + \tfrac12 (s y' + y s') + A_k / \rho), \quad R_k \leftarrow \omega F_k + (1 - \omega)
          \max(R_k, 0) + \min(R_k, 0), \quad B_k = \rho \max(0, -R_k), \quad \alpha = -\rho y.

Any y and any B_k >= 0 make a bound, so that Newton's method need not converge.

Notation  Z_k (n, n) memberships; A_k, B_k, alpha, s as in the certificates; omega = 1.6 relaxation; rho penalty.
Cost      some ten passes over K matrices of (n, n) numbers a step, three products of each with a few vectors.
Pitfalls  rho has the units of A over those of Z, which is n where the mean length is 1; it adapts.
References  Y. Zhuang, X. Chen, Y. Yang, Likelihood adjusted semidefinite programs, 2023, arXiv 2209.15097.
            J. Eckstein, D. Bertsekas, On the Douglas-Rachford splitting method, 1992.
"""

from __future__ import annotations

import torch

from sciml.random import normal
from sciml.stats.clustering.spectral_bounds import leading_pairs

__all__ = ["LikelihoodSplitting"]

_RELAXATION = 1.6
_DECOMPOSED = 100
_PRODUCTS = 3
_SPARE = 4
_INNER, _INNER_TOL = 15, 1e-3
_TRIALS = 4  # of the length of a step
_RIDGE = 5e-3  # of the mean size of a cluster


class LikelihoodSplitting:
    """The state of the splitting; `advance` is one step, `multipliers` what certificates take.

    Parameters
    ----------
    affinity : Affinity
        The problem, a block for each cluster.
    labels : torch.Tensor, shape (n,)
        Clusters to start from.
    a : torch.Tensor, shape (n,)
        First alpha_i / s_i.
    multipliers : iterable of torch.Tensor, shapes (n, n)
        First B_k, symmetric and non-negative; taken one by one.
    rng : numpy.random.Generator
        Source of start vectors.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[-1.0], [-0.9], [0.9], [1.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2, torch.ones(2, 1, 1, dtype=torch.float64))
    >>> zeros = torch.zeros(2, 4, 4, dtype=torch.float64)
    >>> state = LikelihoodSplitting(affinity, torch.tensor([0, 0, 1, 1]), zeros[0, 0], zeros, np.random.default_rng(0))
    >>> _ = [state.advance() for _ in range(60)]
    >>> round(affinity.to_objective(state.value()), 6)
    0.01
    """

    def __init__(self, affinity, labels, a, multipliers, rng):
        self.affinity, self.rng = affinity, rng
        s, K = affinity.roots, affinity.n_clusters
        self.rho = 0.3 * float(affinity.weights.sum())
        self.y = -s * a / self.rho
        self.points = [affinity.X @ F / affinity.scale**0.5 for F in affinity.factors]
        self.R, self.Q = [], []
        for k, B in zip(range(K), multipliers, strict=True):
            v = s * (labels == k)
            v = (v / v.norm().clamp_min(torch.finfo(s.dtype).tiny))[:, None]
            # The shifts of the row sums are part of R: without them Z >= 0 would have the wrong row sums.
            self.R.append(v @ v.T - B / self.rho)
            spare = normal(rng, (len(s), _SPARE), device=s.device)
            self.Q.append(torch.cat([v, spare], 1)[:, : len(s)])

    def _add_affinity(self, C, k, factor):
        """Add A_k times a factor to C in place: a product and sums with vectors, no other matrix."""
        affinity, s = self.affinity, self.affinity.roots
        Y = s[:, None] * self.points[k]
        h = s * (affinity.q[k] + affinity.offsets[k])
        C.addmm_(Y, Y.T, alpha=factor)
        return _add_symmetric(C, s, -factor * h)

    def advance(self, measure=False):
        """Take a step; return how far the two blocks are apart and how far the second moved, if asked to measure."""
        apart = moved = 0.0
        positive = None
        sums = torch.zeros_like(self.y)
        s = self.affinity.roots
        factors, before = [], []
        for k, R in enumerate(self.R):
            C = self._add_affinity(_add_symmetric(R.abs(), s, self.y), k, 1 / self.rho)
            F = self._spectral(C, k)
            if measure:
                before.append(R.clamp_min(0))
                factors.append(F)
            R = torch.where(R > 0, (1 - _RELAXATION) * R, R).addmm_(F, F.T, alpha=_RELAXATION)
            self.R[k] = R
            sums += R.clamp_min(0) @ s
            sign = (R > 0).to(R.dtype)
            positive = sign if positive is None else positive.add_(sign)
        self._shift(self._newton(positive, s - sums), sums - s)
        for k, R in enumerate(self.R):
            if measure:
                after = R.clamp_min(0)
                moved += float((before[k] - after).square().sum())
                apart += float(after.addmm_(factors[k], factors[k].T, alpha=-1).square().sum())
        return (apart**0.5, moved**0.5) if measure else None

    def _spectral(self, C, k):
        """Return F with F F' the nearest positive semidefinite matrix of trace at most one."""
        if len(C) <= _DECOMPOSED:
            theta, Q = torch.linalg.eigh(C)
            theta, Q = theta.flip(0), Q.flip(1)
        else:
            start, steps = self.Q[k], _PRODUCTS
            theta, Q, _ = leading_pairs(
                lambda V: C @ V, start, 1, tol=0.0, min_products=steps, max_products=steps, depth=steps
            )
        f = (theta - _simplex_threshold(theta)).clamp_min(0)
        rank = int((f > 0).sum())
        lacking = min(rank + _SPARE, len(Q)) - Q.shape[1]
        self.Q[k] = Q[:, : rank + _SPARE]
        if lacking > 0:
            self.Q[k] = torch.cat([Q, normal(self.rng, (len(Q), lacking), device=Q.device)], 1)
        return Q[:, :rank] * f[:rank].sqrt()

    def _shift(self, d, residual):
        """Move y along d, which Newton's method found, at most so far that the row sums are not passed by far."""
        s = self.affinity.roots
        first = float(d @ residual)
        low, slope_low, high, slope_high, now = 0.0, first, None, None, 0.0
        length = 1.0
        for _ in range(_TRIALS):
            for R in self.R:
                _add_symmetric(R, s, (length - now) * d)
            now = length
            slope = float(d @ (sum(R.clamp_min(0) @ s for R in self.R) - s))
            if slope <= -0.5 * first and slope >= (0.9 * first if high is not None else -float("inf")):
                break
            if slope > 0:
                high, slope_high = length, slope
            else:
                low, slope_low = length, slope
            fraction = -slope_low / (slope_high - slope_low)
            length = low + (high - low) * min(0.9, max(0.1, fraction))
        self.y = self.y + now * d

    def _newton(self, positive, lack):
        """Return the change of y that brings the row sums up by `lack`, to first order."""
        s = self.affinity.roots
        # A row without a positive entry has no derivative: the ridge keeps its step short.
        ridge = _RIDGE * float(self.affinity.weights.sum()) / len(self.R)
        degree = positive @ (s * s) / 2 + ridge
        diagonal = degree + positive.diagonal() * s * s / 2
        x, r = torch.zeros_like(lack), lack
        goal = _INNER_TOL * float(r.norm())
        z = r / diagonal
        p, rho = z, float(r @ z)
        for _ in range(_INNER):
            if float(r.norm()) <= goal or rho == 0:
                break
            q = s * (positive @ (s * p)) / 2 + degree * p
            curvature = float(p @ q)
            if curvature <= 0:
                break
            x, r = x + rho / curvature * p, r - rho / curvature * q
            z = r / diagonal
            rho, old = float(r @ z), rho
            p = z + rho / old * p
        return x

    def rescale(self, factor):
        """Multiply rho, and leave the memberships and both multipliers as they are."""
        self.rho *= factor
        self.y = self.y / factor
        self.R = [torch.where(R < 0, R / factor, R) for R in self.R]

    def multipliers(self):
        """Return alpha_i / s_i, shape (n,), and the B_k one by one, shapes (n, n)."""
        a = -self.rho * self.y / self.affinity.roots
        return a, ((-R).clamp_min_(0).mul_(self.rho) for R in self.R)

    def value(self):
        """Return an estimate of the bound on the sum of <A_k, Z_k>: no proof."""
        s = self.affinity.roots
        a, multipliers = self.multipliers()
        total = float(self.affinity.weights @ a)
        for k, H in enumerate(multipliers):
            _add_symmetric(self._add_affinity(H, k, 1.0), s, -s * a)
            start = torch.cat([self.Q[k][:, :3], normal(self.rng, (len(H), 1), device=H.device)], 1)
            theta, _, residual = leading_pairs(lambda V, H=H: H @ V, start[:, : len(H)], 1, tol=1e-8, max_products=40)
            total += max(0.0, float(theta[0]) + residual)
        return total


def _simplex_threshold(values):
    """The shift that makes positive values add up to at most one; values that are far apart all stay below one."""
    t = values - values.amax() + 1
    k = torch.arange(1, len(t) + 1, dtype=t.dtype, device=t.device)
    tau = (t.cumsum(0) - 1) / k
    last = int(torch.nonzero(t - tau > 0)[-1])
    return max(0.0, float(tau[last] + values.amax() - 1))


def _add_symmetric(C, s, v):
    """Add (s v' + v s') / 2 to C in place."""
    return C.addr_(s, v, alpha=0.5).addr_(v, s, alpha=0.5)
