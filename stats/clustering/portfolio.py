r"""The search for a mixture: many starts, few structures of the prior, one score that compares them all.

No single start is good for every sample: k-means knows round clusters, Ward's tree unequal sizes, agglomeration by
likelihood long and nested ones, the relaxations borderline points. All are fitted by `PredictiveMixtures`, a few steps
each; those that predict best go on, for each structure of the prior; the winner is split and merged; last come mixtures
with a component for outliers.

Notation  Z (n, p) points in standard units: centred, columns of variance one; R (n, K) memberships.
Cost      some hundred steps of 4 n K p^2 operations; n is a few thousand, larger samples are searched on a sketch.
Pitfalls  a column with few values has no density: half a step between neighbours is its least spread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sciml.stats.clustering.agglomerate import agglomerate, group_moments
from sciml.stats.clustering.lloyd import kmeans
from sciml.stats.clustering.predictive import PredictiveMixtures
from sciml.stats.clustering.split_merge import search
from sciml.stats.clustering.ward import ward, ward_cuts

__all__ = ["PRIORS", "Found", "Options", "Sample", "gather_starts", "search_mixture"]

# Prior of the covariances -> structures of its centre that are tried; "spherical" is so in the units of the data,
# "standard" in those of the standard deviations of the columns.
PRIORS = {
    "auto": ("standard", "spherical", "diagonal", "full"),
    "pooled": ("full",),
    "diag": ("diagonal",),
    "spherical": ("spherical",),
    "none": ("full",),
}
_SCREEN, _KEEP = 12, 4


@dataclass(frozen=True)
class Options:
    """What the caller asks of the search.

    Parameters
    ----------
    prior : str
        A key of `PRIORS`; "auto" by default.
    strength : float or None
        Strength of the prior; None, the default: estimated.
    refine : {"em", "cem"}
        Soft or hard steps; "em" by default.
    noise : bool
        Whether there must be a component for outliers; False by default, which tries one all the same, but gives every
        point to a cluster.
    n_init : int
        Runs of k-means; 10 by default.
    moves : int
        Rounds of splitting and merging; 5 by default.
    starts : tuple of str or None
        Which starts are used; None, the default: all.
    """

    prior: str = "auto"
    strength: float | None = None
    refine: str = "em"
    noise: bool = False
    n_init: int = 10
    moves: int = 5
    starts: tuple | None = None


class Sample:
    """Points in standard units, with what the search needs to know of the old ones.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Points, no two the same where `weights` count repetitions.
    weights : torch.Tensor, shape (n,)
        Counts.

    Attributes
    ----------
    Z : torch.Tensor, shape (n, q)
        Columns that vary, less their means, over their standard deviations.
    varying : torch.Tensor of bool, shape (p,)
        Which these are.
    mean, std : torch.Tensor, shape (p,) and (q,)
        Units of the columns.
    floor, metric : torch.Tensor, shape (q,)
        Least variance, and a unit of the data squared, in standard units.
    noise_log_density : float
        Of a uniform distribution over the ranges, in standard units.

    Examples
    --------
    >>> import torch
    >>> Sample(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.ones(2)).Z.flatten().tolist()
    [-1.0, 1.0]
    """

    def __init__(self, X, weights):
        self.weights = weights
        total = weights.sum()
        self.mean = weights @ X / total
        centred = X - self.mean
        variance = weights @ centred.square() / total
        size = X.abs().amax(0) if len(X) else X.new_zeros(X.shape[1])
        # A column that varies by rounding alone is constant.
        self.varying = variance > (1e-13 * size).square()
        self.std = variance[self.varying].sqrt()
        self.Z = centred[:, self.varying] / self.std
        self.metric = 1 / self.std.square() * self.std.square().mean() if len(self.std) else self.std
        self.floor = (self._steps() / self.std).square() / 12 + 1e-9 if len(self.std) else self.std
        ranges = self.Z.amax(0) - self.Z.amin(0)
        self.noise_log_density = -float(ranges.log().sum())
        self._raw = centred[:, self.varying]

    def _steps(self):
        """Smallest step between the values of each column, zero where values hardly repeat."""
        # Some tens of thousands of rows show the grid of a column.
        part = self.Z[:: max(1, len(self.Z) // 20_000)] * self.std
        steps = []
        for column in part.T:
            values = torch.unique((column / column.abs().amax() * 2**40).round())
            few = 4 * len(values) <= len(column)
            steps.append(values.diff().amin() * column.abs().amax() / 2**40 if few else values.new_zeros(()))
        return torch.stack(steps)

    @property
    def raw(self):
        """Points in the units of the data, centred, without constant columns."""
        return self._raw


@dataclass(frozen=True)
class Found:
    """What the search found.

    Parameters
    ----------
    prediction : Prediction
        The best mixture alone.
    model : PredictiveMixtures
        What it was fitted by.
    structure : str
        Of its prior.
    start : str
        Where it began.
    noise : bool
        Whether it has a component for outliers.
    candidates : list of dict
        Structure, start, noise and score of all that were finished.
    rows : int
        How many rows were searched.
    change : float
        Mean change of the memberships of these rows in the last step.
    """

    prediction: object
    model: object
    structure: str
    start: str
    noise: bool
    candidates: list = field(default_factory=list)
    rows: int = 0
    change: float = 0.0


def gather_starts(sample, K, rng, n_init=10, wanted=None):
    """Return labels from several cheap methods, by name.

    Parameters
    ----------
    sample : Sample
        Points.
    K : int
        Clusters.
    rng : numpy.random.Generator
        Source of draws.
    n_init : int
        Runs of k-means; 10 by default.
    wanted : collection of str or None
        Names to keep; None, the default: all.

    Returns
    -------
    dict of torch.Tensor of int64, shape (n,)
        "kmeans", "ward" in the data's units, "kmeans-standard", "ward-standard" in standard ones, "agglomerate-20"
        and so on by likelihood from that many groups, and "random", which must be asked for.

    Examples
    --------
    >>> import torch
    >>> from sciml.random import generator
    >>> sample = Sample(torch.tensor([[0.0], [1.0], [9.0], [10.0]]).double(), torch.ones(4).double())
    >>> gather_starts(sample, 2, generator(0), wanted=("ward",))
    {'ward': tensor([0, 0, 1, 1])}
    """
    w, n = sample.weights, len(sample.Z)
    starts = {}
    for suffix, points in (("", sample.raw), ("-standard", sample.Z)):
        if wanted is None or f"kmeans{suffix}" in wanted:
            starts[f"kmeans{suffix}"] = kmeans(points, K, rng, n_init=n_init, weights=w)[0]
        if wanted is None or f"ward{suffix}" in wanted:
            sizes = [min(max(many * K, 20), n // 3) for many in (5, 12)] if wanted is None else []
            sizes = [size for size in dict.fromkeys(sizes) if size > K]
            cuts = _cuts(points, (K, *sizes), w, rng)
            starts[f"ward{suffix}"] = cuts[0]
            for size, groups in zip(sizes, cuts[1:], strict=True):
                starts[f"agglomerate-{size}{suffix}"] = _merged(sample, groups, size, K)
    if wanted is not None and "random" in wanted:
        starts["random"] = torch.as_tensor(rng.integers(0, K, n), device=sample.Z.device)
    return starts


def _cuts(points, sizes, weights, rng):
    """Ward's tree cut at several numbers of groups; for many points a tree of some of them."""
    if len(points) <= 3000:
        return ward_cuts(points, sizes, weights)
    return [ward(points, size, rng, weights) for size in sizes]


def _merged(sample, groups, size, K):
    """Groups merged by likelihood in standard units."""
    _, _, T = group_moments(sample.Z, groups, size, sample.weights)
    spread = T.sum(0).diagonal() / sample.weights.sum()
    return agglomerate(sample.Z, groups, size, K, sample.weights, torch.diag(3 * spread.clamp_min(1e-6)))


def search_mixture(sample, K, rng, starts, options, max_iter=300):
    """Return the mixture that predicts best.

    Parameters
    ----------
    sample : Sample
        Points.
    K : int
        Clusters.
    rng : numpy.random.Generator
        Source of draws.
    starts : dict of torch.Tensor
        Labels (n,) of int64, or memberships (n, K), by name.
    options : Options
        Prior, noise and effort.
    max_iter : int
        Steps of the last fit; 300 by default, few cases need a hundred. 1: the start is the answer.

    Returns
    -------
    Found

    Examples
    --------
    >>> import torch
    >>> from sciml.random import generator
    >>> sample = Sample(torch.tensor([[0.0], [1.0], [9.0], [10.0]]).double(), torch.ones(4).double())
    >>> found = search_mixture(sample, 2, generator(0), {"given": torch.tensor([0, 0, 1, 1])}, Options())
    >>> found.prediction.memberships[0].argmax(1)
    tensor([0, 0, 1, 1])
    """
    names, R = list(starts), _memberships(list(starts.values()), K, sample.Z)
    pool = _Pool()
    structures = PRIORS[options.prior]
    if max_iter == 1:
        model = _model(sample, structures[0], options)
        pool.add(model, structures[0], names, model.fit(R, max_iter=1))
        model, structure, start, best = pool.best()
        return Found(best, model, structure, start, False, pool.candidates)
    # Which starts lead far depends on the structure: all begin under each, and the best go on.
    for structure in structures:
        model = _model(sample, structure, options)
        begun = model.fit(R, max_iter=_SCREEN, tol=1e-3)
        top = _distinct(begun.score)[:_KEEP]
        pool.add(
            model, structure, [names[i] for i in top], model.fit(begun.memberships[top], max_iter=4 * _SCREEN, tol=1e-4)
        )
    model, structure, start, best = pool.best()
    if options.moves:
        moved = search(model, best, rounds=options.moves)
        pool.add(model, structure, [f"{start}, split and merged"], moved)
        # Where no start led under the other structures, this may.
        for other in (name for name in structures if name != structure):
            model = _model(sample, other, options)
            again = model.fit(moved.memberships, max_iter=4 * _SCREEN, tol=1e-4)
            pool.add(model, other, [f"{start}, split and merged"], again)
    if options.noise or options.prior == "auto":
        _with_noise(pool, sample, K, rng, options)
    model, structure, start, best = pool.best(noise=options.noise)
    last = model.fit(best.memberships, noise=best.noise_memberships, max_iter=max_iter, tol=1e-7)
    # The best iterate of the last fit scores at least as well but for the first step's share.
    best = last if float(last.score[0]) >= float(best.score[0]) - 1e-9 * abs(float(best.score[0])) else best
    return Found(best, model, structure, start, model.noise_log_density is not None, pool.candidates)


def _with_noise(pool, sample, K, rng, options):
    """Add mixtures with a uniform component, from the best so far and from k-means of the points in company."""
    _, structure, start, best = pool.best()
    inner = _in_company(sample, K)
    if inner is None and not options.noise:
        return
    seeds = [best.memberships[0]]
    noise = [torch.zeros_like(best.noise_memberships[0])]
    if inner is not None and int(inner.sum()) > K:
        labels = torch.zeros_like(inner, dtype=torch.int64)
        for points in (sample.raw, sample.Z):
            part = kmeans(points[inner], K, rng, n_init=options.n_init, weights=sample.weights[inner])[0]
            labels[inner] = part
            seeds.append(torch.nn.functional.one_hot(labels, K).to(points.dtype) * inner[:, None])
            noise.append((~inner).to(points.dtype))
    for name in dict.fromkeys((structure, "standard" if options.prior == "auto" else structure)):
        model = _model(sample, name, options, noise=True)
        fitted = model.fit(torch.stack(seeds), noise=torch.stack(noise), max_iter=4 * _SCREEN, tol=1e-4)
        tags = [f"{start}, with noise", "kmeans in company", "kmeans in company, standard"][: len(seeds)]
        pool.add(model, name, tags, fitted)
    model, structure, start, best = pool.best(noise=True)
    if options.moves and (options.noise or pool.best()[0] is model):
        pool.add(model, structure, [f"{start}, split and merged"], search(model, best, rounds=options.moves))


def _in_company(sample, K, share=0.85):
    """Which points belong to the share with the nearest tenth neighbour; None for samples too small to tell."""
    n = len(sample.Z)
    if n < 5 * K + 20:
        return None
    radius = torch.cat([torch.cdist(rows, sample.Z).kthvalue(11, dim=1)[0] for rows in sample.Z.split(1024)])
    return radius <= radius.quantile(share)


class _Pool:
    """Finished fits, best first."""

    def __init__(self):
        self.entries, self.candidates = [], []

    def add(self, model, structure, names, predictions):
        for i, name in enumerate(names):
            score = float(predictions.score[i])
            self.entries.append((score, model, structure, name, predictions.pick(i)))
            noise = model.noise_log_density is not None
            self.candidates.append({"structure": structure, "start": name, "noise": noise, "score": score})

    def best(self, noise=False):
        """The entry with the highest score; the earlier one of equals. With noise: among those that have it."""
        fitting = [e for e in self.entries if not noise or e[1].noise_log_density is not None] or self.entries
        top = max(e[0] for e in fitting)
        return next(e for e in fitting if e[0] >= top - 1e-9 * abs(top))[1:]


def _model(sample, structure, options, noise=False):
    """The fitter for a structure by name."""
    plain = options.prior == "none"
    return PredictiveMixtures(
        sample.Z,
        sample.weights,
        structure="spherical" if structure == "standard" else structure,
        metric=sample.metric if structure == "spherical" else None,
        noise_log_density=sample.noise_log_density if noise else None,
        strength=1e-6 if plain else options.strength,
        floor=sample.floor,
        hard=options.refine == "cem",
        leave_one_out=not plain,
    )


def _memberships(starts, K, like):
    """Memberships (S, n, K) of labels or memberships."""
    rows = [s if s.ndim == 2 else torch.nn.functional.one_hot(s.clamp_min(0), K) for s in starts]
    return torch.stack([r.to(like) for r in rows])


def _distinct(score):
    """Indices by falling score; of starts that ended alike only the first."""
    order = torch.argsort(score, descending=True, stable=True).tolist()
    kept = []
    for i in order:
        if not kept or float(score[kept[-1]] - score[i]) > 1e-4 * abs(float(score[i])) / 100:
            kept.append(i)
    return kept
