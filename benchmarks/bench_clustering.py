"""Clustering: errors beside the peers on five settings, certificates, large samples and outliers.

All in one process on one core; seconds are of the processor. `errors`: mean and largest share of wrong labels over six
draws of the settings S1 to S5 of `benchmarks.clustering_problems`; "EM from the truth" starts scikit-learn's mixture at
the moments of the true clusters: what no method can expect to beat by much. `random start`: every method from a single
random labelling. `certificates`: relative gap between the labels found and the bound, and whether it proves them best.
`sketched bound`: bound from samples of 20 000 rows with its standard error, both over the sum of squares. `many
clusters`: `extra` is the sum of squares over the least that any method found, less one. `million`: n = 1e6, p = 10,
K = 8; "true discriminant" classifies by the moments of the true labels. `outliers`: S2 and S1 with 5 % of uniform
outliers; `extra` is the share of the outliers that got the label -1.
"""

import time
import warnings

import numpy as np

from benchmarks.clustering_problems import PEERS, by_kmeans, by_mixture, by_ward, error, hard_em, many_balls
from benchmarks.clustering_problems import SETTINGS as CASES
from sciml.datasets import gaussian_clusters

SETTINGS = {"seeds": [0, 1, 2, 3, 4, 5], "quick_seeds": [0], "million": 10**6, "quick_million": 10**5}
COLUMNS = ("table", "case", "method", "seconds", "error", "worst", "extra", "note")


def row(*cells):
    """Return a row of the table."""
    return dict(zip(COLUMNS, cells, strict=True))


def by_sciml(X, K, seed, **options):
    """Result of the front door; nothing certified unless asked for."""
    from sciml.stats.clustering import cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cluster(X, K, random_state=seed, **{"certify": False} | options)


def moments(X, labels, K):
    """Return shares, means and covariances of clusters."""
    shares = np.bincount(labels[labels >= 0], minlength=K) / np.count_nonzero(labels >= 0)
    means = np.stack([X[labels == k].mean(0) for k in range(K)])
    covariances = np.stack([np.cov(X[labels == k].T, bias=True).reshape(2 * X.shape[1:]) for k in range(K)])
    return shares, means, covariances


def from_truth(X, K, seed, truth):
    """scikit-learn's mixture from the moments of the true clusters, with a ridge where they have few points."""
    shares, means, covariances = moments(X, truth, K)
    ridge = 1e-3 * covariances.trace(axis1=1, axis2=2)[:, None, None] / X.shape[1] * np.eye(X.shape[1])
    start = {"weights_init": shares, "means_init": means, "precisions_init": np.linalg.inv(covariances + ridge)}
    return by_mixture(X, K, seed, **start)


def over_draws(name, title, methods, seeds, draw):
    """Yield mean and largest error of methods ``(X, K, seed, truth) -> labels`` over draws."""
    found = {method: [] for method in methods}
    seconds = dict.fromkeys(methods, 0.0)
    for seed in seeds:
        X, truth, K = draw(seed)
        for method, labels_of in methods.items():
            start = time.process_time()
            labels = labels_of(X, K, seed, truth)
            seconds[method] += time.process_time() - start
            outliers = truth < 0
            caught = float(np.mean(labels[outliers] == -1)) if outliers.any() else None
            found[method].append((error(labels, truth), caught))
    for method, values in found.items():
        errors = [value for value, _ in values]
        caught = None if values[0][1] is None else float(np.mean([c for _, c in values]))
        mean, worst = float(np.mean(errors)), max(errors)
        yield row(name, title, method, seconds[method] / len(seeds), mean, worst, caught, f"{len(seeds)} draws")


def four(method):
    """Let a method that needs no truth take it."""
    return lambda X, K, seed, truth: method(X, K, seed)


def errors(seeds):
    """Yield errors on the five settings, and from random labels on the first."""
    methods = {
        "sciml": four(lambda X, K, seed: by_sciml(X, K, seed).labels),
        "sciml, K-means": four(lambda X, K, seed: by_sciml(X, K, seed, method="kmeans-sdp").labels),
        **{name: four(method) for name, method in PEERS.items()},
        "hard EM from KMeans": four(lambda X, K, seed: hard_em(X, by_kmeans(X, K, seed, 10), K)[0]),
        "EM from the truth": from_truth,
    }
    for name, case in CASES.items():
        yield from over_draws("errors", name, methods, seeds, drawn(*case))
    n, K, *_ = CASES["S1"]
    methods = {
        "sciml": four(lambda X, K, seed: by_sciml(X, K, seed, init=random_labels(n, K, seed)).labels),
        "GaussianMixture": four(lambda X, K, seed: by_mixture(X, K, seed, init_params="random")),
        "hard EM": four(lambda X, K, seed: hard_em(X, random_labels(n, K, seed), K)[0]),
    }
    yield from over_draws("random start", "S1", methods, seeds, drawn(*CASES["S1"]))


def random_labels(n, K, seed):
    """Return labels without any information."""
    return np.random.default_rng([seed, 2]).integers(0, K, n)


def drawn(*case, **options):
    """Return the draws of a setting."""
    return lambda seed: (*gaussian_clusters(*case, random_state=seed, **options), case[1])


def certificates(quick):
    """Yield gaps of both forms."""
    cases = [("ila-sdp", (n, 3, 4, 12, 20)) for n in (150, 300, 600)] + [("ila-sdp", (600, 3, 4, 8, 20))]
    cases += [("kmeans-sdp", (200, 4, 20, separation, 1)) for separation in (10, 8, 6, 5)]
    for method, case in cases[:1] + cases[4:5] if quick else cases:
        X, truth, K = drawn(*case)(0)
        start = time.process_time()
        found = by_sciml(X, K, 0, method=method, certify=True)
        seconds = time.process_time() - start
        gap = found.gap / abs(found.objective)
        title = f"{method}, n={case[0]}, p={case[2]}, separation {case[3]}"
        note = f"relative gap {gap:.1e}, {found.certificate}{', certified' if found.certified else ''}"
        yield row("certificates", title, "sciml", seconds, error(found.labels, truth), None, gap, note)


def sketched(quick):
    """Yield the estimated bound of a large sample."""
    n = 5000 if quick else 20_000
    X, truth, K = drawn(n, 4, 20, 6, 1)(0)
    start = time.process_time()
    found = by_sciml(X, K, 0, method="kmeans-sdp", certify="sketch")
    seconds = time.process_time() - start
    bound, spread = found.lower_bound / found.objective, found.bound_error / found.objective
    note = f"bound {bound:.4f} +- {spread:.4f} of the sum of squares"
    yield row("sketched bound", f"n={n}", "sciml", seconds, error(found.labels, truth), None, bound, note)


def many_clusters(seeds):
    """Yield sums of squares of twenty balls, over the least that any method found."""
    for seed in seeds:
        X, truth, K = many_balls(seed)
        labelled, seconds = {}, {}
        for name, method in {
            "sciml, K-means": lambda X, K, seed: by_sciml(X, K, seed, method="kmeans-sdp").labels,
            "KMeans, 1 start": lambda X, K, seed: by_kmeans(X, K, seed, 1),
            "KMeans, 100 starts": by_kmeans,
            "Ward + Lloyd": by_ward,
        }.items():
            start = time.process_time()
            labelled[name] = method(X, K, seed)
            seconds[name] = time.process_time() - start
        squares = {name: sum_of_squares(X, labels) for name, labels in labelled.items()}
        least = min(squares.values())
        for name, value in squares.items():
            note = f"sum of squares {value:.4f}"
            wrong = error(labelled[name], truth)
            yield row(
                "many clusters", f"20 balls, seed {seed}", name, seconds[name], wrong, None, value / least - 1, note
            )


def sum_of_squares(X, labels):
    """Return what labels cost by the K-means objective."""
    return float(sum(np.square(X[labels == k] - X[labels == k].mean(0)).sum() for k in np.unique(labels)))


def discriminant(X, truth, K):
    """Return labels by the moments of the true ones."""
    logs = []
    for share, mean, covariance in zip(*moments(X, truth, K), strict=True):
        L = np.linalg.cholesky(covariance)
        whitened = np.linalg.solve(L, (X - mean).T)
        logs.append(np.log(share) - np.square(whitened).sum(0) / 2 - np.log(np.diag(L)).sum())
    return np.stack(logs).argmax(0)


def million(n):
    """Yield time and error for very many points, balls and other shapes."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    methods = {
        "sciml": lambda X, K: by_sciml(X, K, 0).labels,
        "sciml, K-means": lambda X, K: by_sciml(X, K, 0, method="kmeans-sdp").labels,
        "KMeans, 1 start": lambda X, K: KMeans(K, n_init=1, random_state=0).fit_predict(X),
        "MiniBatchKMeans": lambda X, K: MiniBatchKMeans(K, n_init=3, random_state=0).fit_predict(X),
        "GaussianMixture": lambda X, K: by_mixture(X, K, 0),
    }
    for title, condition in (("balls", 1), ("shapes", 20)):
        X, truth, K = drawn(n, 8, 10, 6, condition)(0)
        case = f"n={n:.0e}, {title}"
        for name, method in methods.items():
            start = time.process_time()
            labels = method(X, K)
            yield row("million", case, name, time.process_time() - start, error(labels, truth), None, None, "")
        best = error(discriminant(X, truth, K), truth)
        yield row("million", case, "true discriminant", None, best, None, None, "")


def outliers(seeds):
    """Yield errors with five per cent of uniform outliers."""
    methods = {
        "sciml, noise": four(lambda X, K, seed: by_sciml(X, K, seed, noise=True).labels),
        "sciml": four(lambda X, K, seed: by_sciml(X, K, seed).labels),
        **{name: four(method) for name, method in PEERS.items()},
    }
    for name in ("S2", "S1"):
        yield from over_draws("outliers", name, methods, seeds, drawn(*CASES[name], outliers=0.05))


def warm():
    """Import and compile what a first call needs."""
    X, truth, K = drawn(60, 2, 3, 8, 2)(0)
    for method in (by_mixture, by_kmeans, *PEERS.values()):
        method(X, K, 0)
    for method in ("ila-sdp", "kmeans-sdp"):
        by_sciml(X, K, 0, method=method, certify=True)


def rows(quick):
    """Yield the rows of all tables."""
    warm()
    seeds = SETTINGS["quick_seeds" if quick else "seeds"]
    yield from errors(seeds)
    yield from certificates(quick)
    yield from sketched(quick)
    yield from many_clusters(seeds[:1] if quick else seeds[:3])
    yield from million(SETTINGS["quick_million" if quick else "million"])
    yield from outliers(seeds)
