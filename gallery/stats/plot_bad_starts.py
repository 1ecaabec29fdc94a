"""
A bad start costs the relaxation nothing
========================================
K-means and EM improve what they are given. With twenty clusters a start almost surely puts two centres into one cluster
and none into another, and neither method ever moves a centre across the gap. The semidefinite relaxation has labels
as its unknowns and no centres that could be caught: started from random numbers it ends where the best of many starts
does. We start all of them badly, twenty clusters for K-means and three unlike ones for EM, and count.
"""

# %%
# Twenty clusters
# ---------------
# A thousand points around twenty random means in ten dimensions. Each mark is one run: K-means from random centres,
# from k-means++, and the relaxation by itself from a random factor. Its solution Z pulls every point to the mean of its
# cluster, so that a single run of K-means on Z X reads the labels off. (`kmeans_sdp` starts better, and searches more.)
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from sciml.datasets import gaussian_clusters
from sciml.random import generator
from sciml.stats.clustering import cluster
from sciml.stats.clustering.affinity import Affinity
from sciml.stats.clustering.low_rank import denoised, factorise, random_factor


def error(found, truth):
    """Share of points in a wrong cluster, after the best matching of the names."""
    table = np.zeros((found.max() + 1, truth.max() + 1))
    np.add.at(table, (found, truth), 1)
    rows, columns = linear_sum_assignment(-table)
    return 1 - table[rows, columns].sum() / len(truth)


X, truth = gaussian_clusters(1000, 20, 10, 9, 1, random_state=1)
runs = {
    "K-means, random centres": [KMeans(20, init="random", n_init=1, random_state=s).fit(X) for s in range(20)],
    "K-means, k-means++": [KMeans(20, n_init=1, random_state=s).fit(X) for s in range(20)],
}
costs = {name: [run.inertia_ for run in some] for name, some in runs.items()}
wrong = {name: [error(run.labels_, truth) for run in some] for name, some in runs.items()}
affinity = Affinity(torch.from_numpy(X), 20)
solved = [factorise(affinity, random_factor(affinity, 40, generator(s))) for s in range(5)]
read = [KMeans(20, n_init=1, random_state=0).fit_predict(denoised(affinity, one.U)) for one in solved]
costs["relaxation, random factor"] = [float(affinity.objective(torch.from_numpy(labels).long())) for labels in read]
wrong["relaxation, random factor"] = [error(labels, truth) for labels in read]

ax = plt.subplots(figsize=(6.5, 4), layout="constrained")[1]
for mark, name in zip("v^o", costs, strict=True):
    ax.plot(costs[name], wrong[name], mark, label=name, alpha=0.7)
ax.set(xlabel="sum of squares (smaller is better)", ylabel="share of wrong labels")
ax.legend()
plt.show()

# %%
# Three unlike clusters
# ---------------------
# Long ellipsoids in ten dimensions, a hundred points each. EM starts from random memberships, as does the alternation
# of relaxation and covariances; the dashed line is what EM makes of the true labels.
X, truth = gaussian_clusters(300, 3, 10, 3, 20, random_state=0)
seeds = range(8)
em = [GaussianMixture(3, init_params="random", max_iter=500, random_state=s).fit(X).predict(X) for s in seeds]
ours = [cluster(X, 3, init="random", certify=False, random_state=s).labels for s in seeds]
errors = {"EM": [error(labels, truth) for labels in em], "cluster": [error(labels, truth) for labels in ours]}
means = np.stack([X[truth == k].mean(axis=0) for k in range(3)])
precisions = np.stack([np.linalg.inv(np.cov(X[truth == k].T)) for k in range(3)])
oracle = GaussianMixture(3, weights_init=[1 / 3] * 3, means_init=means, precisions_init=precisions).fit(X)

ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")[1]
for mark, (name, values) in zip("vo", errors.items(), strict=True):
    ax.plot(seeds, values, mark, label=f"{name}, random start", alpha=0.7)
ax.axhline(error(oracle.predict(X), truth), color="0.4", linestyle="--", label="EM from the true labels")
ax.set(xlabel="seed of the start", ylabel="share of wrong labels")
ax.legend()
plt.show()

# %%
# What to remember
# ----------------
# Restarts help K-means while clusters are few. The relaxation needs none, and reaches the best of all runs every time.
best = min(costs["K-means, k-means++"])
assert min(costs["K-means, random centres"]) > 1.05 * best
assert np.mean(np.array(costs["K-means, k-means++"]) > 1.05 * best) > 0.5
assert max(costs["relaxation, random factor"]) < best * (1 + 1e-9)
assert max(wrong["relaxation, random factor"]) < 0.01
assert max(errors["EM"]) > 0.25
assert max(errors["cluster"]) < 0.06
