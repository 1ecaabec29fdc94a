r"""Clusters that a sketch had too few rows of: found among the points that a mixture explains badly, and put in.

A sketch of m rows holds m / 1000 of a cluster of one in a thousand: too few to be found, and a mixture of K clusters
fitted to it has spent its clusters elsewhere. But points of the missing one lie far from all others. Those with

.. math:: \min_k |x_i - \mu_k|^2_{\Sigma_k^{-1}} > \chi^2_p(1 - 10^{-4})

are divided into groups; the group whose own density explains its points best becomes a cluster, and of the K + 1 the
two whose union costs least likelihood are joined, or the one goes that is missed least. The mixture of K is fitted
further, and kept if it explains all points better than the one given does after as many steps.

Notation  pi (K,) proportions, mu (K, p) means, Sigma (K, p, p) covariances; omega weights.
Cost      some fifteen steps of EM, n K p^2 each, on at most 200 000 rows.
Pitfalls  scattered outliers are far from all clusters too: all mixtures have a uniform component with the share of the
          far points, and a group must not be twice as wide as the widest cluster.
References  N. Ueda, R. Nakano, Z. Ghahramani, G. Hinton, SMEM algorithm for mixture models, 2000 (moves of clusters).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from sciml.stats.clustering.density import log_joint
from sciml.stats.clustering.lloyd import kmeans

__all__ = ["em_step", "overlooked"]

_TAIL = 1e-4
_ROWS, _GROUPED = 200_000, 5000
_STEPS = 4


def overlooked(X, proportions, means, covariances, rng, weights=None, *, moves=3):
    """Return a mixture of as many clusters in which clusters of badly explained points have taken others' places.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    proportions : torch.Tensor, shape (K,)
        pi.
    means : torch.Tensor, shape (K, p)
        mu.
    covariances : torch.Tensor, shape (K, p, p)
        Sigma.
    rng : numpy.random.Generator
        Chooses rows where n > 200 000, and groups.
    weights : torch.Tensor, shape (n,), or None
        Positive; None, the default: ones.
    moves : int
        At most so many clusters are put in; 3 by default.

    Returns
    -------
    tuple of torch.Tensor, or None
        Proportions, means and covariances; None where nothing was overlooked.

    Examples
    --------
    >>> from sciml.random import generator, normal
    >>> rng = generator(0)
    >>> X = normal(rng, (3000, 2))
    >>> X[:1500, 0] += 20
    >>> X[:60, 1] += 30
    >>> halves = torch.tensor([[0.0, -0.8], [0.0, 0.8], [20.0, 0.0]], dtype=torch.float64)
    >>> eye = torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
    >>> overlooked(X, torch.ones(3).double() / 3, halves, eye, rng)[1][:, 1].max().round().item()
    30.0
    """
    if len(X) > _ROWS:
        rows = torch.from_numpy(np.sort(rng.choice(len(X), _ROWS, replace=False))).to(X.device)
        X, weights = X[rows], None if weights is None else weights[rows]
    w = torch.ones_like(X[:, 0]) if weights is None else weights * (len(weights) / weights.sum())
    given = proportions / proportions.sum(), means, covariances
    best, moved = given, False
    ranges = X.amax(0) - X.amin(0)
    uniform = -float(ranges[ranges > 0].log().sum())
    for _ in range(moves):
        value, far = _far(X, best)
        share = float(w[far].sum() / w.sum())
        level = math.log(max(share, 1e-9)) + uniform
        wider = _with_group(X, w, best, value.clamp_min(level), far, rng)
        if wider is None:
            break
        fewer = _without_one(X, w, _stepped(X, w, wider, 1, level)[0], level)
        new, old = _stepped(X, w, fewer, _STEPS, level), _stepped(X, w, best, _STEPS, level)
        # As many parameters on both sides; a difference of a few units is chance.
        if not new[1] > old[1] + math.log(len(X)):
            break
        best, moved = new[0], True
    return best if moved else None


def _stepped(X, w, mixture, steps, level):
    """Return a mixture after some steps of EM, and the log-likelihood before the last."""
    for _ in range(steps):
        *mixture, value = em_step(X, *mixture, w, level=level)
    return tuple(mixture), value


def em_step(X, proportions, means, covariances, weights, *, level=-math.inf):
    r"""Return proportions, means and covariances after a step of EM, and the log-likelihood before it.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points.
    proportions : torch.Tensor, shape (K,)
        pi.
    means : torch.Tensor, shape (K, p)
        mu.
    covariances : torch.Tensor, shape (K, p, p)
        Sigma. New ones are drawn to their mean as by p / 2 points.
    weights : torch.Tensor, shape (n,)
        omega.
    level : float
        Log-density, times its share, of a uniform component for outliers; that of none by default.

    Notes
    -----
    Shares are formed for a tile of points at a time: memory is p^2 K and a tile.

    Examples
    --------
    >>> X = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]], dtype=torch.float64)
    >>> one = torch.ones(2, dtype=torch.float64)
    >>> em_step(X, one / 2, torch.tensor([[-2.0], [2.0]]).double(), one.view(2, 1, 1), one.repeat(2))[0]
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    K, p = means.shape
    N, sums, T, value = X.new_zeros(K), torch.zeros_like(means), torch.zeros_like(covariances), 0.0
    for start in range(0, len(X), 2**15):
        rows = X[start : start + 2**15]
        omega = weights[start : start + 2**15]
        joint = log_joint(rows, means, covariances, proportions)
        joint = torch.cat([joint, joint.new_full((len(joint), 1), level)], 1)
        value += float(omega @ torch.logsumexp(joint, 1))
        R = torch.softmax(joint, 1)[:, :K] * omega[:, None]
        N += R.sum(0)
        for k in range(K):
            # About the old means first: their squares would cancel far from the origin.
            D = rows - means[k]
            sums[k] += R[:, k] @ D
            T[k] += (D * R[:, k, None]).T @ D
    shift = sums / N.clamp_min(1e-300)[:, None]
    T = T - N[:, None, None] * shift[:, :, None] * shift[:, None, :]
    pooled, kappa = T.sum(0) / N.sum(), p / 2
    fresh = (T + kappa * pooled) / (N + kappa)[:, None, None]
    return (N + 1) / (N.sum() + K), means + shift, 0.5 * (fresh + fresh.mT), value


def _far(X, mixture):
    """Return the log-density of the points, and which are in the tails of all clusters."""
    from scipy.stats import chi2

    proportions, means, covariances = mixture
    p = X.shape[1]
    densities = log_joint(X, means, covariances)
    logdets = torch.logdet(covariances) + p * math.log(2 * math.pi)
    nearest = (-2 * densities - logdets).amin(1)
    return torch.logsumexp(densities + proportions.log(), 1), nearest > float(chi2.isf(_TAIL, p))


def _with_group(X, w, mixture, value, far, rng):
    """Return the mixture with one cluster more, of far points, or None; value (n,) is what explains them so far."""
    proportions, means, covariances = mixture
    p = X.shape[1]
    rows = far.nonzero()[:, 0]
    if len(rows) < p + 10:
        return None
    if len(rows) > _GROUPED:
        rows = rows[torch.from_numpy(np.sort(rng.choice(len(rows), _GROUPED, replace=False))).to(X.device)]
    E, e, below = X[rows], w[rows] * float(far.sum()) / len(rows), value[rows]
    pooled = torch.einsum("k,kij->ij", proportions, covariances)
    widest = float(torch.logdet(covariances).max()) + 2 * p * math.log(2)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(pooled), E.T, upper=False).T
    best = None
    for J in (1, 2, 4, 8):
        if len(rows) < J * (p + 10):
            break
        labels = kmeans(white, J, rng, n_init=3, weights=e)[0]
        for j in range(J):
            own = labels == j
            size = float(e[own].sum())
            if int(own.sum()) < p + 10:
                continue
            mean = e[own] @ E[own] / size
            D = E[own] - mean
            covariance = ((D * e[own, None]).T @ D + (p + 2) * pooled) / (size + p + 2)
            if float(torch.logdet(covariance)) > widest:
                continue
            share = torch.tensor([size / float(w.sum())], dtype=X.dtype, device=X.device)
            gain = float(e[own] @ (log_joint(E[own], mean[None], covariance[None], share)[:, 0] - below[own]))
            if best is None or gain > best[0]:
                best = gain, share, mean, covariance
    if best is None or best[0] <= 0.5 * (p + 1) * (p + 2) * math.log(len(X)) / 2:
        return None
    _, share, mean, covariance = best
    return (
        torch.cat([proportions * (1 - share), share]),
        torch.cat([means, mean[None]]),
        torch.cat([covariances, covariance[None]]),
    )


def _without_one(X, w, mixture, level):
    """Return the mixture with one cluster less: the two joined, or the one left out, that cost least likelihood."""
    proportions, means, covariances = mixture
    step = max(1, len(X) // 20_000)
    rows, omega = X[::step], w[::step]
    joint = log_joint(rows, means, covariances, proportions)
    noise = joint.new_full((len(rows), 1), level)
    K = len(means)
    best = None
    for k in range(K):
        keep = [j for j in range(K) if j != k]
        fewer = proportions[keep] / proportions[keep].sum(), means[keep], covariances[keep]
        left = joint[:, keep] - proportions[keep].sum().log()
        value = float(omega @ torch.logsumexp(torch.cat([left, noise], 1), 1))
        best = (value, fewer) if best is None or value > best[0] else best
    for a, b in itertools.combinations(range(K), 2):
        keep = [j for j in range(K) if j not in (a, b)]
        share, mean, covariance = _union(mixture, a, b)
        column = log_joint(rows, mean[None], covariance[None], share[None])
        value = float(omega @ torch.logsumexp(torch.cat([joint[:, keep], column, noise], 1), 1))
        if value > best[0]:
            fewer = (
                torch.cat([proportions[keep], share[None]]),
                torch.cat([means[keep], mean[None]]),
                torch.cat([covariances[keep], covariance[None]]),
            )
            best = value, fewer
    return best[1]


def _union(mixture, a, b):
    """Return proportion, mean and covariance of two clusters together."""
    proportions, means, covariances = mixture
    share = proportions[a] + proportions[b]
    s, t = proportions[a] / share, proportions[b] / share
    D = means[a] - means[b]
    mean = s * means[a] + t * means[b]
    return share, mean, s * covariances[a] + t * covariances[b] + s * t * D[:, None] * D
