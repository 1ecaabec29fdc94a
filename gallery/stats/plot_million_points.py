"""
A million points cost little more than a few thousand
=====================================================
A semidefinite program for a million points has ten to the twelve unknowns; nobody writes them down. But clusters that
are there are seen in a sample: `cluster` searches among some thousand rows, and gives all rows their most probable
cluster in a few passes over them, which correct what the sample got wrong. We cluster a million points on one core,
compare the errors with those of the rule that knows the true clusters, and let the number of points grow.
"""

# %%
# Eight clusters of unlike shapes
# -------------------------------
# A million points in ten dimensions; the variances of a cluster differ by factors of up to 20. The picture shows five
# thousand of them by the first two features, which set two of the clusters apart.
import time

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment

from sciml.datasets import gaussian_clusters
from sciml.stats.clustering import ClusterResult, cluster

K, p = 8, 10


def error(found, truth):
    """Share of points in a wrong cluster, after the best matching of the names."""
    table = np.bincount(found * K + truth, minlength=K * K).reshape(K, K)
    rows, columns = linear_sum_assignment(-table)
    return 1 - table[rows, columns].sum() / len(truth)


def informed(X, truth):
    """The rule that knows the labels: each point to its most probable cluster, by the true means and covariances."""
    parts = [X[truth == k] for k in range(K)]
    rule = ClusterResult(
        labels=truth,
        membership=np.eye(K)[truth[:1]],
        proportions=np.array([len(part) for part in parts]) / len(X),
        means=np.stack([part.mean(axis=0) for part in parts]),
        covariances=np.stack([np.cov(part.T) for part in parts]),
        n_clusters=K,
    )
    return rule.predict(X)


X, truth = gaussian_clusters(1_000_000, K, p, 6, 20, random_state=0)
begin = time.process_time()
result = cluster(X, K, certify=False, random_state=0)
seconds = {len(X): time.process_time() - begin}
errors = {len(X): (error(result.labels, truth), error(informed(X, truth), truth))}
print(result.report["rows_searched"], "rows searched of", len(X))
result.plot(X=X, features=(0, 1))
plt.show()

# %%
# More and more points
# --------------------
# Below, the seconds of one core on the machine that built this page.
for n in (2_000, 10_000, 100_000):
    X, truth = gaussian_clusters(n, K, p, 6, 20, random_state=0)
    begin = time.process_time()
    labels = cluster(X, K, certify=False, random_state=0).labels
    seconds[n] = time.process_time() - begin
    errors[n] = error(labels, truth), error(informed(X, truth), truth)

sizes = sorted(seconds)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
axes[0].loglog(sizes, [seconds[n] for n in sizes], "ko-")
axes[0].set(xlabel="points", ylabel="time (s of one core)", ylim=(0.3, 100))
axes[1].semilogx(sizes, [100 * errors[n][0] for n in sizes], "ko-", label="cluster")
axes[1].semilogx(sizes, [100 * errors[n][1] for n in sizes], "s--", color="#d55e00", label="knowing the clusters")
axes[1].set(xlabel="points", ylabel="wrong labels (per cent)", ylim=(0, None))
axes[1].legend()
plt.show()

# %%
# What to remember
# ----------------
# What is linear in the number of points are a few passes. A cluster that holds less than a part in a thousand of the
# points may be missing in the sample, and is then not found.
assert result.report["rows_searched"] <= 5000
assert errors[1_000_000][0] < 1.05 * errors[1_000_000][1]
assert all(found < known + 0.005 for found, known in errors.values())
