r"""From a checked problem to a mixture: the alternation and other starts, the search, the lift to all rows.

Up to a few thousand rows everything runs on all of them; of larger samples a sketch is searched, and what is best is
fitted further on all rows, in tiles.

Cost      the search on the sketch, which does not grow with n, and 4 n K p^2 operations for each of the last steps.
Pitfalls  a cluster that the sketch missed is not found again: a sketch has at least 150 rows a cluster in the mean.
References  Y. Zhuang, X. Chen, Y. Yang, Sketch-and-lift, AISTATS 2022, arXiv 2201.08226.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from sciml.exceptions import InvalidInputError
from sciml.stats.clustering.affinity import Affinity
from sciml.stats.clustering.alternation import alternate
from sciml.stats.clustering.density import log_joint as normal_log_joint
from sciml.stats.clustering.lloyd import kmeans
from sciml.stats.clustering.low_rank import denoised, factorise, start_factor
from sciml.stats.clustering.portfolio import Sample, gather_starts, search_mixture
from sciml.stats.clustering.predictive import PredictiveMixtures
from sciml.stats.clustering.reduction import advised, principal

__all__ = ["Mixture", "fit_mixture", "log_joint", "mixture_of", "shares", "singletons", "sketch_size"]

# Rows on which the search runs; the relaxations in it on fewer.
_SEARCH, _RELAX = 1500, 800
# Operations that the last fit on all rows may take.
_WORK = 8e9
# Features up to which all are used, since with an estimated prior more of them do better.
_FEATURES = 80
# Components that are kept of more features: a step of the search takes their square.
_COMPONENTS = 50


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture in the units of the data.

    Parameters
    ----------
    proportions : torch.Tensor, shape (K,)
        Shares of the clusters, less that of noise.
    means : torch.Tensor, shape (K, p)
        Of the rows less the problem's mean.
    covariances : torch.Tensor, shape (K, p, p)
        Positive definite.
    counts : torch.Tensor, shape (K,)
        Weights of the clusters.
    noise_proportion, noise_log_density : float
        Of the uniform component; 0 and NaN without one.
    strength : float
        Of the prior of the covariances.
    score : float
        Sum of log predictive densities, penalised, in the units of the data.
    """

    proportions: torch.Tensor
    means: torch.Tensor
    covariances: torch.Tensor
    counts: torch.Tensor
    noise_proportion: float = 0.0
    noise_log_density: float = math.nan
    strength: float = 0.0
    score: float = math.nan

    def ordered(self, order):
        """Return the mixture with its clusters in another order.

        Parameters
        ----------
        order : torch.Tensor of int64, shape (K,)
            Old numbers in the new order.
        """
        names = ("proportions", "means", "covariances", "counts")
        return replace(self, **{name: getattr(self, name)[order] for name in names})


def sketch_size(n, K):
    """Return how many rows the search runs on: all up to 1500, else 150 for each cluster and at least 1500.

    Parameters
    ----------
    n, K : int
        Rows and clusters.

    Examples
    --------
    >>> sketch_size(1_000_000, 8), sketch_size(500, 8)
    (1500, 500)
    """
    return n if n <= _SEARCH else min(n, max(_SEARCH, 150 * K))


def fit_mixture(rows, counts, K, rng, options, *, init="auto", rank=3, reduce="auto", max_iter=300, refine=True):
    """Return the mixture, how it was found, and the alternation.

    Parameters
    ----------
    rows : torch.Tensor, shape (m, p)
        Points, centred.
    counts : torch.Tensor, shape (m,)
        Weights.
    K : int
        Clusters.
    rng : numpy.random.Generator
        Source of draws.
    options : Options
        Of the search.
    init : "auto", a name of a start, or torch.Tensor of int64, shape (m,)
        Starts; all by default.
    rank : int
        Of the factors of the alternation; 3 by default.
    reduce : "auto", int or None
        Principal components to cluster in.
    max_iter : int
        Steps of the last fit; 300 by default.
    refine : bool
        Whether the alternation's answer is only a start, the default, or the answer.

    Returns
    -------
    found : Found
        On all rows.
    sample : Sample
        The rows in standard units, projected where that was asked for.
    projection : Reduction or None
        To what they were projected.
    history : dict
        "objective" and "criterion" of the alternation that did best.
    """
    if not bool(Sample(rows, counts).varying.any()):
        raise InvalidInputError(
            f"X must vary by more than rounding; its {len(rows)} different rows do not, being "
            f"{float(rows.abs().max()):.3g} apart at most. Subtract a constant before the digits are lost."
        )
    projection = _reduced(rows, counts, K, rng, reduce)
    if projection is not None:
        rows = projection.project(rows)
    m = len(rows)
    size = sketch_size(m, K)
    chosen = None
    if size < m:
        share = (counts / counts.sum()).cpu().numpy()
        chosen = torch.as_tensor(rng.choice(m, size, replace=False, p=share), device=rows.device).sort()[0]
    part = rows if chosen is None else rows[chosen]
    weights = counts if chosen is None else torch.ones_like(counts[chosen])
    sample = Sample(part, weights)
    given = init[chosen] if chosen is not None and isinstance(init, torch.Tensor) else init
    starts, history = _starts(sample, K, rng, options, given, rank)
    if not refine:
        starts = {name: start for name, start in starts.items() if name.startswith("ila")} or starts
    found = search_mixture(sample, K, rng, starts, options, max_iter=max_iter if refine else 1)
    found = replace(found, rows=size, change=float(found.prediction.change[0]))
    if chosen is not None:
        found, sample = _lift(found, sample, rows, counts)
    return found, sample, projection, history


def _reduced(rows, counts, K, rng, reduce):
    """The reduction to principal components, or None where all features are kept."""
    n, p = rows.shape
    if reduce is None or (reduce == "auto" and p <= _FEATURES):
        return None
    q = min(_COMPONENTS, advised(sketch_size(n, K), p, K)[0]) if reduce == "auto" else reduce
    return principal(rows, q, rng, counts) if q < p else None


def _starts(sample, K, rng, options, init, rank):
    """Starts by name; the relaxations begin at the best of the others and at labels that know nothing."""
    if isinstance(init, torch.Tensor):
        starts = {"given": init}
    elif init == "auto":
        starts = gather_starts(sample, K, rng, options.n_init)
    else:
        starts = gather_starts(sample, K, rng, options.n_init, wanted=(init,))
    history = {}
    if K > 1:
        begun, history = _relaxed(sample, K, rng, options, starts, rank)
        starts = {**begun, **starts}
    return starts, history


def _relaxed(sample, K, rng, options, starts, rank):
    """The K-means relaxation, rounded, and the alternation with a covariance for every cluster."""
    n = len(sample.Z)
    few = None
    if n > _RELAX:
        few = torch.as_tensor(rng.choice(n, _RELAX, replace=False), device=sample.Z.device).sort()[0]
    Z, w = (sample.Z, sample.weights) if few is None else (sample.Z[few], sample.weights[few])
    made, history, best = {}, {}, -math.inf
    begin = {name: starts[name] for name in ("given", "kmeans-standard", "ward-standard", "random") if name in starts}
    begin = begin or dict(list(starts.items())[:1])
    if "given" not in begin and "random" not in begin:
        affinity = Affinity(Z, K, None, w)
        labels = next(iter(begin.values()))
        solved = factorise(
            affinity, start_factor(affinity, labels if few is None else labels[few], None, rng), on_failure="ignore"
        )
        made["sdp"] = _all(kmeans(denoised(affinity, solved.U), K, rng, n_init=5, weights=w)[0], few, sample, K)
    strength = options.strength
    prior = {"auto": "pooled"}.get(options.prior, options.prior)
    for name, labels in begin.items():
        done = alternate(
            Z, K, labels if few is None else labels[few], rng, weights=w, prior=prior, strength=strength, rank=rank,
            floor=sample.floor + 1e-6,
        )  # fmt: skip
        made[f"ila-sdp from {name}"] = _all(done.value.memberships, few, sample, K)
        if done.value.objective > best:
            best, history = done.value.objective, done.history
    return made, history


def _all(part, few, sample, K):
    """Labels or memberships of a part of the rows for all rows, by the nearest mean in the metric of their cluster."""
    if few is None:
        return part
    R = part if part.ndim == 2 else torch.nn.functional.one_hot(part, K).to(sample.Z)
    model = PredictiveMixtures(sample.Z[few], sample.weights[few], floor=sample.floor)
    fitted = model.fit(R[None], max_iter=1)
    return shares(mixture_of(fitted, sample, has_noise=False, standard=True), sample.Z)[0]


def _lift(found, sample, rows, counts):
    """Fit the best mixture of the sketch further on all rows."""
    mixture = mixture_of(found.prediction, sample, found.noise, standard=True)
    whole = Sample(rows, counts)
    # From the standard units of the sketch to those of all rows; columns that vary there vary here.
    columns = sample.varying[whole.varying]
    stretch = sample.std / whole.std[columns]
    shift = (sample.mean[sample.varying] - whole.mean[whole.varying][columns]) / whole.std[columns]
    means = whole.Z.new_zeros(len(mixture.means), whole.Z.shape[1])
    means[:, columns] = mixture.means * stretch + shift
    covariances = torch.diag_embed(torch.ones_like(means))
    inside = columns.nonzero()[:, 0]
    covariances[:, inside[:, None], inside] = mixture.covariances * stretch[:, None] * stretch
    noise_log_density = whole.noise_log_density
    moved = replace(mixture, means=means, covariances=covariances, noise_log_density=noise_log_density)
    model = PredictiveMixtures(
        whole.Z,
        counts,
        structure=found.model.structure,
        metric=whole.metric if found.structure == "spherical" else None,
        noise_log_density=noise_log_density if found.noise else None,
        strength=found.model.strength,
        floor=whole.floor,
        hard=found.model.hard,
        leave_one_out=found.model.leave_one_out,
    )
    R, noise = shares(moved, whole.Z)
    n, p = whole.Z.shape
    steps = int(min(30, max(1, _WORK / (4.0 * n * len(means) * p * (p + 10)))))
    fitted = model.fit(R[None], noise=noise[None], max_iter=steps, tol=1e-5)
    return replace(found, prediction=fitted, model=model), whole


def singletons(rows, counts):
    """Return the mixture with a cluster for each row, covariances being a millionth of the columns' variances.

    Parameters
    ----------
    rows : torch.Tensor, shape (m, p)
        Different points.
    counts : torch.Tensor, shape (m,)
        Their weights.
    """
    total = counts.sum()
    variance = counts @ (rows - counts @ rows / total).square() / total
    least = float(variance.max()) or 1.0
    covariance = torch.diag(1e-6 * torch.where(variance > 0, variance, least))
    return Mixture(counts / total, rows.clone(), covariance.expand(len(rows), -1, -1).clone(), counts)


def log_joint(mixture, rows):
    """Return the logarithms of proportion times density of the clusters: (n, K).

    Parameters
    ----------
    mixture : Mixture
        Parameters.
    rows : torch.Tensor, shape (n, p)
        Points in its units.
    """
    return normal_log_joint(rows, mixture.means, mixture.covariances, mixture.proportions)


def shares(mixture, rows):
    """Return the posterior shares of the clusters, and of noise: (n, K) and (n,).

    Parameters
    ----------
    mixture : Mixture
        Parameters.
    rows : torch.Tensor, shape (n, p)
        Points in its units.
    """
    joint = log_joint(mixture, rows)
    if mixture.noise_proportion > 0:
        level = math.log(mixture.noise_proportion) + mixture.noise_log_density
        joint = torch.cat([joint, joint.new_full((len(joint), 1), level)], 1)
    part = torch.softmax(joint, 1)
    K = len(mixture.means)
    return part[:, :K], part[:, K] if part.shape[1] > K else torch.zeros_like(part[:, 0])


def mixture_of(prediction, sample, has_noise, *, projection=None, standard=False):
    """Return the parameters of a fitted mixture, in the units of the data or in standard ones.

    Parameters
    ----------
    prediction : Prediction
        Of one mixture.
    sample : Sample
        Knows the units.
    has_noise : bool
        Whether there is a component for outliers.
    projection : Reduction or None
        To leave, where the sample was projected.
    standard : bool
        Whether to stay in standard units and without constant columns; False by default.

    Returns
    -------
    Mixture
    """
    N, noise = prediction.counts[0], float(prediction.noise[0])
    total = float(N.sum()) + noise
    K = len(N)
    proportions = (N + 1) / (total + K + has_noise)
    strength, score = float(prediction.strengths[0]), float(prediction.score[0])
    means, covariances = prediction.means[0], prediction.covariances[0]
    noise_share = (noise + 1) / (total + K + 1) if has_noise else 0.0
    density = sample.noise_log_density if has_noise else math.nan
    if standard:
        return Mixture(proportions, means, covariances, N, noise_share, density, strength, score)
    p = len(sample.varying)
    inside = sample.varying.nonzero()[:, 0]
    wide = means.new_zeros(K, p)
    wide[:, inside] = means * sample.std
    wide += sample.mean
    # A constant column has no variance to speak of: far less than the others, the same for all clusters.
    least = float(sample.std.square().min()) * 1e-6 if len(sample.std) else 1.0
    full = torch.diag_embed(means.new_full((K, p), least))
    full[:, inside[:, None], inside] = covariances * sample.std[:, None] * sample.std
    logs = float(sample.std.log().sum())
    constant = 0.5 * math.log(2 * math.pi * least) * (p - len(inside))
    density = density - logs - constant if has_noise else density
    score = score - logs * float(sample.weights.sum())
    if projection is not None:
        wide, full = projection.lift_means(wide), projection.lift_covariances(full)
        # A point's distance from the subspace is the same for all clusters, and on average for noise.
        outside = projection.into.shape[0] - projection.into.shape[1]
        level = -0.5 * outside * (math.log(2 * math.pi * float(projection.outside)) + 1)
        density = density + level if has_noise else density
    return Mixture(proportions, wide, full, N, noise_share, density, strength, score)
