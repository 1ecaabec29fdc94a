"""
A clustering can come with a proof that none is better
======================================================
Finding the partition of the smallest sum of squares is hard, and no program that searches knows whether it found it. A
convex relaxation can be solved, and its dual gives a number below which no partition gets: where the labels reach that
number they are the best there are. We prove a clustering of penguins, judge labels that scikit-learn found, damage good
labels point by point, and move clusters together until the proof fails, which theory predicts to the point.
"""

# %%
# Penguins, with a proof
# ----------------------
# In two groups, each with a covariance of its own, 342 penguins fall into Gentoo and the rest. The cost of the labels
# equals the lower bound, so that nobody will find better ones for these covariances.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans

from sciml.datasets import labelled_table
from sciml.stats.clustering import cluster, kmeans_sdp, optimality_gap
from sciml.stats.clustering.plotting import plot_gap

penguins = labelled_table("penguins")
birds = cluster(penguins.X, 2, random_state=0)
print(birds.summary())
is_gentoo = penguins.labels == penguins.class_names.index("Gentoo")

# %%
# Labels of another program
# -------------------------
# Four balls of 50 points, eight standard deviations apart. K-means from random centres ends in one of several places;
# `optimality_gap` tells which of them is the best one.
rng = np.random.default_rng(0)
truth = np.arange(200) % 4
noise = rng.standard_normal((200, 10))
X = 8 / np.sqrt(2) * np.eye(4, 10)[truth] + noise
foreign = [KMeans(4, init="random", n_init=1, random_state=seed).fit_predict(X) for seed in range(8)]
judged = [optimality_gap(X, labels) for labels in foreign]
damaged = {count: np.r_[(truth[:count] + 1) % 4, truth[count:]] for count in (0, 1, 2, 5, 10, 20)}
harm = {count: optimality_gap(X, labels) for count, labels in damaged.items()}

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
axes[0].plot([one.objective for one in judged], "ks", label="sum of squares")
axes[0].plot([one.bound for one in judged], "_", color="#d55e00", markersize=18, label="lower bound")
axes[0].set(xlabel="run of K-means", ylabel="sum of squares (smaller is better)")
axes[0].legend()
axes[1].plot(list(harm), [one.objective for one in harm.values()], "ks-")
axes[1].plot(list(harm), [one.bound for one in harm.values()], "--", color="#d55e00")
axes[1].set(xlabel="points moved to a wrong cluster", xticks=range(0, 21, 5))
plt.show()

# %%
# Where proofs end
# ----------------
# The clusters move together. For K balls of equal sizes the relaxation finds the true labels, and has no gap, above
# a distance of :math:`2 s \sqrt{(1 + \sqrt{1 + K p / (n \log n)}) \log n}`; below it nobody can (Chen and Yang, 2021).
distances = np.array([2, 3, 4, 5, 6, 7, 8])
results = {d: kmeans_sdp(d / np.sqrt(2) * np.eye(4, 10)[truth] + noise, 4, random_state=0) for d in distances}
relative = [results[d].gap / results[d].objective for d in distances]
threshold = 2 * np.sqrt((1 + np.sqrt(1 + 4 * 10 / (200 * np.log(200)))) * np.log(200))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
axes[0].semilogy(distances, np.maximum(relative, 1e-12), "ks-")
axes[0].axvline(threshold, color="#d55e00", linestyle="--", label="threshold of theory")
axes[0].axhline(1e-6, color="0.6", linestyle=":", label="counts as none")
axes[0].set(xlabel="distance of the means (standard deviations)", ylabel="gap over sum of squares")
axes[0].legend()
plot_gap({f"distance {d}": results[d] for d in (2, 4, 6, 8)}, ax=axes[1])
plt.show()

# %%
# What to remember
# ----------------
# Labels with a gap of zero are proven; a gap does not say that labels are wrong, only that the bound is below them. The
# bound is never above a partition, whatever labels it was built from.
best = min(one.objective for one in judged)
assert birds.certified
assert np.array_equal(birds.labels == birds.labels[is_gentoo][0], is_gentoo)
assert all((one.gap < 1e-6 * one.objective) == (one.objective < best * (1 + 1e-9)) for one in judged)
assert max(one.bound for one in [*judged, *harm.values()]) <= best * (1 + 1e-12)
assert harm[0].gap < 1e-6 * best < harm[1].gap
assert all(results[d].certified == (d > threshold) for d in distances)
