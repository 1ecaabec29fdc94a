r"""A bound from samples of the rows, for more points than a certificate can have: an estimate with its error.

The best partition of all points, restricted to s points drawn at random and given the means of these, costs them no
more than s / n of what it costs all, in the mean over the draws. The certificate of a sample is below that, hence

.. math:: \frac ns\, \mathbb E_S[\mathrm{bound}(S)] = \mathrm{cost} - \frac ns\, \mathbb E_S\Big[
          \sum_{i \in S} \mathrm{cost}_i - \mathrm{bound}(S)\Big] \;\le\; \min_G \mathrm{objective}(G),

with cost_i what point i costs under the labels given, and cost their sum over all points, which is known: the mean of
the *differences* is what samples estimate, and it varies far less than the bounds themselves. Three standard errors are
taken off.

Notation  n weight of all rows, s size of a sample, K clusters; samples are drawn with replacement, by weight.
Cost      a dense certificate of some hundred points for each sample; nothing grows with n but the draws.
Pitfalls  the means of a sample fit it too well, by a share of K / s: a gap of that size is left, however good the
          labels. Squared distances times s / (s - K) are `corrected`, nearly unbiased where clusters are well
          represented and labels nearly the best, but no bound even in the mean.
References  C. Clum, D. Mixon, S. Villar, K. Xie, Sketch-and-solve approaches to k-means clustering by semidefinite
          programming, 2022, arXiv 2211.15744.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sciml.stats.clustering.affinity import Affinity

__all__ = ["SketchBound", "sketch_bound"]


@dataclass(frozen=True)
class SketchBound:
    """What samples of the rows tell about the best partition; numbers in the units of the objective.

    Parameters
    ----------
    bound : float
        `mean` less three standard errors.
    mean : float
        Cost of the labels less the mean difference, scaled to all points.
    error : float
        Its standard error.
    corrected : float
        The mean with the share by which samples are fitted too well put back; an estimate of the optimum, no bound.
    size, samples : int
        Points of a sample, and how many samples.

    Examples
    --------
    >>> SketchBound(bound=1.0, mean=1.3, error=0.1, corrected=1.4, size=200, samples=8).error
    0.1
    """

    bound: float
    mean: float
    error: float
    corrected: float
    size: int
    samples: int


def sketch_bound(affinity, labels, rng, *, size=None, samples=8, covariances=None, polish="auto"):
    """Return an estimated lower bound of what any labels cost.

    Parameters
    ----------
    affinity : Affinity
        The problem.
    labels : torch.Tensor of int64, shape (n,)
        Labels to build the bounds of the samples from; they need not be good.
    rng : numpy.random.Generator
        Draws the samples.
    size : int or None
        Points of a sample; None, the default: 100 for each cluster, at least 400 and at most 1200.
    samples : int
        How many; 8 by default.
    polish : "auto", bool or int
        Steps that tighten the bound of each sample, as for `certify`; "auto" by default.
    covariances : torch.Tensor, shape (K, p, p), (p, p), or None
        Those of the affinity, where it was made with some; None, the default: they are taken from its factors.
    polish : "auto", bool or int
        Ascent of the certificates of the samples, as for `certify`.

    Returns
    -------
    SketchBound

    Examples
    --------
    >>> from sciml.random import generator
    >>> X = torch.cat([torch.linspace(0, 1, 500), torch.linspace(9, 10, 500)])[:, None].double()
    >>> affinity = Affinity(X, 2)
    >>> labels = (X[:, 0] > 5).long()
    >>> found = sketch_bound(affinity, labels, generator(0))
    >>> bool(found.bound < affinity.objective(labels)), round(found.corrected / float(affinity.objective(labels)), 2)
    (True, 1.0)
    """
    from sciml.stats.clustering.certificates import certify

    n, K = len(affinity.X), affinity.n_clusters
    size = int(min(n, min(1200, max(400, 100 * K)) if size is None else size))
    if covariances is None:
        L = torch.linalg.inv(affinity.factors).mT
        covariances = L @ L.mT
        covariances = covariances[0] if affinity.blocks == 1 else covariances
    total = float(affinity.weights.sum())
    costs = affinity.costs(affinity.means(labels)[0]).gather(1, labels[:, None])[:, 0]
    least = float(affinity.logdets.min())
    # Inverse transform by hand: a draw costs a search, not a pass over the rows.
    ladder = np.cumsum(affinity.weights.cpu().numpy())
    differences, corrections = [], []
    for _ in range(samples):
        drawn, counts = np.unique(np.searchsorted(ladder, rng.random(size) * ladder[-1]), return_counts=True)
        rows = torch.as_tensor(drawn.clip(max=n - 1), device=labels.device)
        weights = torch.as_tensor(counts, device=labels.device, dtype=affinity.X.dtype)
        part = Affinity(affinity.X[rows], K, covariances, weights)
        bound = float(certify(part, labels[rows], method="dense", polish=polish, rng=rng).bound)
        differences.append(float(weights @ costs[rows]) + size * least - bound)
        # What is fitted too well are squared distances, not log-determinants.
        offsets = (affinity.logdets - least).expand(K)[labels[rows]]
        squares = bound - size * least - float(weights @ offsets)
        corrections.append(max(0.0, squares) * K / (size - K) if size > K else 0.0)
    scaled = np.array(differences) * total / size
    cost = float(affinity.weights @ costs) + affinity.shift
    mean = cost - float(scaled.mean())
    error = float(scaled.std(ddof=1) / np.sqrt(samples)) if samples > 1 else np.inf
    corrected = mean + float(np.mean(corrections)) * total / size
    return SketchBound(mean - 3 * error, mean, error, corrected, size, samples)
