r"""From a checked problem to the labels of the smallest sum of squares, by the K-means relaxation.

.. math:: \min_{G} \sum_k \sum_{i \in G_k} |x_i - \bar x_k|^2 \;\ge\;
          \min_Z \tfrac12 \sum_{ij} Z_{ij} |x_i - x_j|^2,\quad Z \succeq 0,\; Z \ge 0,\; Z \mathbf 1 = \mathbf 1,\;
          \operatorname{tr} Z = K

The relaxation is solved by factors of rank 2 K, its denoised points Z X are rounded by k-means, and what comes is
polished and compared with the partitions that it began at: the answer is never worse than the best of them.

Cost      n p K operations a step of descent; above 20 000 rows a sketch is solved and lifted.
Pitfalls  a relaxation stopped early can lie above the best partition; both are reported.
References  J. Peng, Y. Wei, Approximating K-means-type clustering via semidefinite programming, 2007. Y. Zhuang,
          X. Chen, Y. Yang, R. Zhang, Statistically optimal K-means clustering via nonnegative low-rank semidefinite
          programming, 2024, arXiv 2305.18436.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sciml.stats.clustering.affinity import Affinity
from sciml.stats.clustering.agglomerate import group_moments
from sciml.stats.clustering.lloyd import kmeans, lloyd
from sciml.stats.clustering.low_rank import denoised, factorise, memberships, random_factor, start_factor
from sciml.stats.clustering.mixture_route import Mixture
from sciml.stats.clustering.swaps import improve
from sciml.stats.clustering.ward import ward

__all__ = ["Partition", "fit_partition"]

_WHOLE = {"cpu": 20_000, "cuda": 200_000}
# More runs than two pay for small samples only.
_SMALL = 2000


@dataclass(frozen=True)
class Partition:
    """Labels of a small sum of squares.

    Parameters
    ----------
    labels : torch.Tensor of int64, shape (m,)
        Clusters.
    membership : torch.Tensor, shape (m, K)
        Shares by the relaxation, in the order of the labels.
    sse : float
        Sum of squares.
    relaxed : float
        The relaxation's, NaN where it was solved for a sketch.
    solution : LowRankSolution or None
        Of the relaxation.
    candidates : list of dict
        Start and score of each.
    rows : int
        How many rows the relaxation had.
    """

    labels: torch.Tensor
    membership: torch.Tensor
    sse: float
    relaxed: float
    solution: object
    candidates: list
    rows: int

    def mixture(self, rows, counts):
        """Return proportions, means and covariances of the clusters.

        Parameters
        ----------
        rows : torch.Tensor, shape (m, p)
            The points.
        counts : torch.Tensor, shape (m,)
            Their weights.
        """
        K = self.membership.shape[1]
        N, means, T = group_moments(rows, self.labels, K, counts)
        return Mixture(N / N.sum(), means, T / N.clamp_min(1e-300)[:, None, None], N)


def fit_partition(rows, counts, K, rng, *, n_init=10, rank=None, tol=1e-3, init="auto", exact=False):
    """Return labels of a small sum of squares, with the relaxation's shares and value.

    Parameters
    ----------
    rows : torch.Tensor, shape (m, p)
        Points.
    counts : torch.Tensor, shape (m,)
        Weights.
    K : int
        Clusters.
    rng : numpy.random.Generator
        Source of draws.
    n_init : int
        Runs of k-means among the starts; 10 by default.
    rank : int or None
        Of the factors; None, the default: 2 K.
    tol : float
        Of the relaxation; 1e-3 by default.
    init : "auto", "kmeans", "ward", "random", or torch.Tensor of int64, shape (m,)
        Where to start; all by default.
    exact : bool
        Whether the relaxation is solved to six digits by `admm`, for a few hundred points; False by default.

    Returns
    -------
    Partition

    Examples
    --------
    >>> import torch
    >>> from sciml.random import generator
    >>> X = torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64)
    >>> fit_partition(X, torch.ones(4).double(), 2, generator(0)).sse
    1.0
    """
    m = len(rows)
    limit = _WHOLE["cuda" if rows.is_cuda else "cpu"]
    if m > limit:
        return _sketched(rows, counts, K, rng, n_init, rank, tol, limit)
    ends = _starts(rows, counts, K, rng, n_init, init)
    candidates = [{"start": name, "score": sse} for name, _, sse in ends]
    name, labels, sse = min(ends, key=lambda end: end[2])
    affinity = Affinity(rows, K, None, counts)
    factors = [start_factor(affinity, labels, rank, rng)]
    if m <= _SMALL:
        factors.append(random_factor(affinity, rank, rng))
    best = None
    for k, U in enumerate(factors):
        solved = factorise(affinity, U, tol=tol, on_failure="ignore")
        rounded, _, value, _ = kmeans(denoised(affinity, solved.U), K, rng, n_init=5, weights=counts)
        rounded, _, value = improve(rows, rounded, K, rng, counts, rounds=2)
        candidates.append({"start": ("relaxation", "relaxation at random")[k], "score": float(value)})
        if float(value) < sse * (1 - 1e-12):
            labels, sse = rounded, float(value)
        if best is None or solved.value > best.value:
            best = solved
    relaxed = float(affinity.to_objective(best.value))
    share = memberships(affinity, best.U, labels).clamp_min(0)
    if exact:
        from sciml.stats.clustering.exact import admm

        solved = admm(affinity, on_failure="ignore")
        relaxed = float(affinity.to_objective(solved.value))
    share = share / share.sum(1, keepdim=True).clamp_min(1e-12)
    return Partition(labels, share, sse, relaxed, best, candidates, m)


def _starts(rows, counts, K, rng, n_init, init):
    """Names, labels and sums of squares of partitions that Lloyd's method has polished."""
    makers = {
        "kmeans": lambda: kmeans(rows, K, rng, n_init=n_init, weights=counts)[0],
        "ward": lambda: ward(rows, K, rng, counts),
        "random": lambda: torch.as_tensor(rng.integers(0, K, len(rows)), device=rows.device),
    }
    names = ("kmeans", "ward") if isinstance(init, str) and init == "auto" else (init,)
    ends = []
    for name in names:
        labels = name if isinstance(name, torch.Tensor) else makers[name]()
        labels, _, sse = improve(rows, labels, K, rng, counts)
        ends.append(("given" if isinstance(name, torch.Tensor) else name, labels, float(sse)))
    return ends


def _sketched(rows, counts, K, rng, n_init, rank, tol, limit):
    """Solve a sketch, give every row the nearest mean, and lower the sum of squares by Lloyd's method."""
    size = min(limit, max(2000, 200 * K))
    share = (counts / counts.sum()).cpu().numpy()
    chosen = torch.as_tensor(rng.choice(len(rows), size, replace=False, p=share), device=rows.device).sort()[0]
    part = fit_partition(rows[chosen], torch.ones_like(counts[chosen]), K, rng, n_init=n_init, rank=rank, tol=tol)
    means, _ = Affinity(rows[chosen], K).means(part.labels)
    centres = means + rows[chosen].mean(0)
    steps = max(1, min(30, int(5e9 / (len(rows) * K * (rows.shape[1] + 8)))))
    labels, _, sse, _ = lloyd(rows, centres, counts, max_iter=steps)
    onehot = torch.nn.functional.one_hot(labels, K).to(rows)
    return Partition(labels, onehot, float(sse), float("nan"), None, part.candidates, size)
