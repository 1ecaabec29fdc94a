"""Errors of clustering at sciml's defaults beside scikit-learn's, Ward's tree and hard EM, on drawn and measured data.

Every family is drawn with seeds that nothing was tuned on; the tables of measurements are known to everybody. A row of
a drawn family is the mean over its draws. Error is the share of points with a wrong label after the best matching,
outliers left out. `against best` is ours less that of the peer that did best in this row, chosen with the labels in
hand; the last rows are means over all rows. `sciml` is `sciml.cluster` with a number of clusters, and `noise=True` for
the families with outliers; `sciml, K-means` is its K-means form. Seconds are of the processor, for one data set.
"""

import time

import numpy as np

from benchmarks.clustering_problems import FAMILIES, PEERS, TABLES, error, table

SETTINGS = {"draws": 3, "first_seed": 1000, "quick_draws": 1}
QUICK = ("S1", "S3", "0.9/0.07/0.03", "outliers", "parallel")


def by_sciml(X, K, seed, **options):
    """Labels of the front door."""
    from sciml.stats.clustering import cluster

    return cluster(X, K, random_state=seed, certify=False, **options).labels


def methods(name):
    """Return {name: method}, ours first."""
    noise = {"noise": True} if "outliers" in name else {}
    return {
        "sciml": lambda X, K, seed: by_sciml(X, K, seed, **noise),
        "sciml, K-means": lambda X, K, seed: by_sciml(X, K, seed, method="kmeans-sdp"),
        **PEERS,
    }


def measured(case, draws):
    """Return the row of one case: mean errors of all methods over the draws, and seconds of ours."""
    errors, seconds = {}, []
    for seed, (X, truth, K) in enumerate(draws):
        for name, method in methods(case).items():
            start = time.process_time()
            labels = method(X, K, seed)
            if name == "sciml":
                seconds.append(time.process_time() - start)
            errors.setdefault(name, []).append(error(labels, truth))
    means = {name: float(np.mean(values)) for name, values in errors.items()}
    best = min(means[name] for name in PEERS)
    return {"case": case, **means, "against best": means["sciml"] - best, "seconds": float(np.mean(seconds))}


def rows(quick):
    """Yield a row for each family and table, and their means."""
    first, many = SETTINGS["first_seed"], SETTINGS["quick_draws" if quick else "draws"]
    found = []
    for name in QUICK if quick else FAMILIES:
        found.append(measured(name, [FAMILIES[name](first + draw) for draw in range(many)]))
        yield found[-1]
    drawn = len(found)
    for name in ("iris",) if quick else TABLES:
        for standardised in (False, True):
            row = measured(f"{name}{', standardised' if standardised else ''}", [table(name, standardised)])
            found.append(row)
            yield row
    for title, part in (("mean of drawn", found[:drawn]), ("mean of measured", found[drawn:])):
        yield {"case": title} | {key: float(np.mean([row[key] for row in part])) for key in part[0] if key != "case"}
