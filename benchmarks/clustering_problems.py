"""Clusters with known labels, and the clusterings that sciml's are compared with.

A family draws ``(X, labels, n_clusters)`` from a seed; -1 marks outliers, which do not count as errors. The five
settings S1 to S5 are (n, K, p, separation, condition) of `sciml.datasets.gaussian_clusters`. Tables of measurements are
taken as they come and standardised. Peers take ``(X, n_clusters, seed)`` and return labels.

References  G. Celeux, G. Govaert, A classification EM algorithm for clustering and two stochastic versions, 1992.
            X. Chen, A. Y. Zhang, Achieving optimal clustering in Gaussian mixture models with anisotropic covariance
            structures, NeurIPS 2024, arXiv 2101.05402 (hard EM is minimax from a good start).
"""

import math
import warnings

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import linear_sum_assignment

from sciml.datasets import gaussian_clusters, labelled_table

SETTINGS = {
    "S1": (300, 3, 10, 3, 20),
    "S2": (300, 3, 10, 5, 20),
    "S3": (200, 4, 40, 6, 20),
    "S4": (1000, 4, 10, 2, 30),
    "S5": (600, 10, 8, 5, 30),
}


def error(labels, truth):
    """Return the share of points with a wrong label, after the best matching; points of truth -1 do not count."""
    known = np.asarray(truth) >= 0
    labels, truth = np.asarray(labels)[known], np.asarray(truth)[known]
    table = np.zeros((max(labels.max(), 0) + 1, truth.max() + 1))
    found = labels >= 0
    np.add.at(table, (labels[found], truth[found]), 1)
    return 1 - float(table[linear_sum_assignment(-table)].sum()) / len(truth)


# ---------------------------------------------------------------- families


def _setting(*case, **options):
    return lambda seed: (*gaussian_clusters(*case, random_state=seed, **options), case[1])


def parallel(seed, n=600):
    """Three clusters, ten times as long as wide, side by side."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    X = rng.standard_normal((n, 2)) * (10, 1)
    X[:, 1] += 6 * labels
    X[:, 0] += np.array([0, 3, -4])[labels]
    turn = rng.uniform(0, np.pi)
    return X @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]), labels, 3


def nested(seed, n=500, p=5):
    """Two balls with the same centre, one six times as large as the other."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return rng.standard_normal((n, p)) * np.array([0.5, 3.0])[labels, None], labels, 2


def tied(seed, n=600, K=3, p=8, condition=50.0):
    """One covariance for all, of the condition given, and means 3.2 standard deviations apart on average."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((p, p)))[0]
    L = Q * np.exp(np.linspace(-1, 1, p) * math.log(condition) / 4)
    means = rng.standard_normal((K, p))
    means *= 3.2 / np.mean([np.linalg.norm(means[i] - means[j]) for i in range(K) for j in range(i)])
    labels = rng.integers(0, K, n)
    return (means[labels] + rng.standard_normal((n, p))) @ L.T, labels, K


def student(seed, n=600, K=3, p=6, dof=5):
    """Clusters of condition 10 with the tails of Student's t."""
    X, labels = gaussian_clusters(n, K, p, 5, 10, random_state=seed)
    centres = 5 / math.sqrt(2) * np.eye(K, p)[labels]
    tails = np.sqrt(dof / np.random.default_rng([seed, 1]).chisquare(dof, n))
    return centres + (X - centres) * tails[:, None], labels, K


def line(seed, n=400):
    """Three clusters of unlike width in one dimension."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=(0.3, 0.4, 0.3))
    return (np.array([0, 4, 9])[labels] + rng.standard_normal(n) * np.array([0.5, 1, 2])[labels])[:, None], labels, 3


def diagonal(seed, n=500, K=4, p=8, separation=3.5, condition=30.0):
    """Variances that differ by clusters, without correlations."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    deviations = np.exp(rng.uniform(-1, 1, (K, p)) * math.log(condition) / 4)
    means = rng.standard_normal((K, p)) * separation / math.sqrt(2 * p)
    return means[labels] + rng.standard_normal((n, p)) * deviations[labels], labels, K


def spheres(seed, n=500, p=6):
    """Three balls of unlike size."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    widths = np.array([0.4, 1, 2])[labels, None]
    return 4 / math.sqrt(2) * np.eye(3, p)[labels] + rng.standard_normal((n, p)) * widths, labels, 3


def many_balls(seed, n=2000, K=20, p=20, separation=8):
    """Twenty balls with normal means: a single run of k-means finds no good labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    means = rng.standard_normal((K, p)) * separation / math.sqrt(2 * p)
    return means[labels] + rng.standard_normal((n, p)), labels, K


FAMILIES = {
    **{name: _setting(*case) for name, case in SETTINGS.items()},
    "20 clusters": _setting(2000, 20, 20, 5.5, 3),
    "20 balls": many_balls,
    "10 shapes": _setting(3000, 10, 5, 8, 20),
    "0.9/0.07/0.03": _setting(1000, 3, 5, 4.5, 10, proportions=(0.9, 0.07, 0.03)),
    "0.9/0.07/0.03, balls": _setting(1000, 3, 5, 5, 1, proportions=(0.9, 0.07, 0.03)),
    "8:4:2:2": _setting(800, 4, 6, 4, 20, proportions=(0.5, 0.25, 0.125, 0.125)),
    "40 points for p=30, balls": _setting(120, 3, 30, 5, 1),
    "40 points for p=30": _setting(120, 3, 30, 6, 20),
    "outliers": _setting(300, 3, 10, 5, 20, outliers=0.05),
    "outliers, p=2": _setting(600, 3, 2, 5, 5, outliers=0.05),
    "parallel": parallel,
    "nested": nested,
    "balls": _setting(500, 5, 6, 6, 1),
    "close balls": _setting(600, 4, 10, 3.5, 1),
    "one covariance": tied,
    "Student's t": student,
    "100 points": _setting(100, 3, 5, 4, 10),
    "one dimension": line,
    "two dimensions": _setting(500, 5, 2, 8, 20),
    "uncorrelated": diagonal,
    "balls of unlike size": spheres,
}


def _digits(*chosen):
    table = labelled_table("digits")
    rows = np.isin(table.labels, chosen)
    return table.X[rows], np.searchsorted(chosen, table.labels[rows])


TABLES = {
    **{name: lambda name=name: (labelled_table(name).X, labelled_table(name).labels) for name in ("iris", "wine")},
    "breast cancer": lambda: (labelled_table("breast_cancer").X, labelled_table("breast_cancer").labels),
    "penguins": lambda: (labelled_table("penguins").X, labelled_table("penguins").labels),
    "digits": lambda: _digits(*range(10)),
    "digits 1, 2, 7": lambda: _digits(1, 2, 7),
    "digits 3, 5, 8": lambda: _digits(3, 5, 8),
}


def table(name, standardised):
    """Return X, labels and the number of classes of a table."""
    X, labels = TABLES[name]()
    if standardised:
        deviation = X.std(0)
        X = (X - X.mean(0)) / np.where(deviation > 0, deviation, 1)
    return X, labels, labels.max() + 1


# ---------------------------------------------------------------- peers


def by_kmeans(X, K, seed, n_init=100):
    """scikit-learn's KMeans."""
    from sklearn.cluster import KMeans

    return KMeans(K, n_init=n_init, random_state=seed).fit_predict(X)


def by_mixture(X, K, seed, n_init=1, **options):
    """scikit-learn's GaussianMixture."""
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a maximum that was not reached within its default number of steps
        return GaussianMixture(K, n_init=n_init, random_state=seed, **options).fit_predict(X)


def by_ward(X, K, seed):
    """Ward's tree, and then Lloyd's method from its means."""
    from sklearn.cluster import AgglomerativeClustering, KMeans

    labels = AgglomerativeClustering(K, linkage="ward").fit_predict(X)
    centres = np.stack([X[labels == k].mean(0) for k in range(K)])
    return KMeans(K, init=centres, n_init=1, random_state=seed).fit_predict(X)


def by_hard_em(X, K, seed, starts=100):
    """Classification EM with a covariance each: the best of many starts, half of k-means++, half random labels."""
    from sklearn.cluster import kmeans_plusplus

    rng = np.random.default_rng(seed)
    best, most = np.zeros(len(X), int), -np.inf
    for start in range(starts):
        if start % 2:
            labels = rng.integers(0, K, len(X))
        else:
            centres, _ = kmeans_plusplus(X, K, random_state=int(rng.integers(2**31)))
            labels = (np.square(centres).sum(1) - 2 * X @ centres.T).argmin(1)
        found, value = hard_em(X, labels, K)
        if value > most:
            best, most = found, value
    return best


def hard_em(X, labels, K, ridge=1e-6, max_iter=200):
    """Return labels and classification likelihood that hard EM ends at; minus infinity where a cluster got lost."""
    n, p = X.shape
    floor = ridge * X.var(0).mean() * np.eye(p)
    for _ in range(max_iter):
        logs = np.empty((n, K))
        for k in range(K):
            members = X[labels == k]
            if len(members) < 2:
                return labels, -np.inf
            mean = members.mean(0)
            L = np.linalg.cholesky((members - mean).T @ (members - mean) / len(members) + floor)
            whitened = solve_triangular(L, (X - mean).T, lower=True, check_finite=False)
            logs[:, k] = math.log(len(members) / n) - np.square(whitened).sum(0) / 2 - np.log(np.diag(L)).sum()
        new = logs.argmax(1)
        if np.array_equal(new, labels):
            break
        labels = new
    return labels, logs.max(1).sum()


PEERS = {
    "GaussianMixture": by_mixture,
    "GaussianMixture, 20 starts": lambda X, K, seed: by_mixture(X, K, seed, n_init=20),
    "KMeans, 100 starts": by_kmeans,
    "Ward + Lloyd": by_ward,
    "hard EM, 100 starts": by_hard_em,
}
