"""
Unlike clusters need covariances, and covariances need a prior
==============================================================
K-means draws its borders half way between the means, as if all clusters were balls of one size: it cuts a long cluster
in two. A Gaussian mixture learns a covariance for each cluster, but its likelihood has no maximum: a component that
fits a few points exactly has an infinite one, and more starts of EM only find such a component sooner. `cluster` draws
the covariances to a common centre, as strongly as the data themselves say, and judges each point by the others. We
compare the three on two made examples and on penguins.
"""

# %%
# A long cluster between round ones
# ---------------------------------
# Standard deviations 6 and 0.3 in the first, 1 in the other two. The ellipses hold 95 % of each cluster.
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from sciml.datasets import gaussian_clusters, labelled_table
from sciml.stats.clustering import cluster


def error(found, truth):
    """Share of points in a wrong cluster, after the best matching of the names."""
    table = np.zeros((found.max() + 1, truth.max() + 1))
    np.add.at(table, (found, truth), 1)
    rows, columns = linear_sum_assignment(-table)
    return 1 - table[rows, columns].sum() / len(truth)


rng = np.random.default_rng(0)
spreads = np.array([[6.0, 0.3], [1.0, 1.0], [1.0, 1.0]])
centres = np.array([[0.0, 0.0], [-3.0, 3.0], [3.0, -3.0]])
truth = np.repeat([0, 1, 2], 100)
X = centres[truth] + spreads[truth] * rng.standard_normal((300, 2))
wrong = KMeans(3, n_init=20, random_state=0).fit_predict(X)
result = cluster(X, 3, random_state=0)

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for k, mark in enumerate("os^"):
    axes[0].plot(*X[wrong == k].T, mark, markersize=3)
axes[0].set(title=f"K-means: {100 * error(wrong, truth):.0f} % wrong", xlabel="feature 0", ylabel="feature 1")
result.plot(X=X, ax=axes[1]).set_title(f"cluster: {100 * error(result.labels, truth):.1f} % wrong")
plt.show()

# %%
# More starts make EM worse
# -------------------------
# Four clusters of 50 points each in 40 dimensions: their covariances have as many entries as there are data. Of 20
# starts EM keeps the one of the largest likelihood, and that is a spike around a handful of points.
samples = [gaussian_clusters(200, 4, 40, 6, 20, random_state=seed) for seed in range(4)]
errors = {
    "K-means": [error(KMeans(4, n_init=20, random_state=0).fit_predict(X), y) for X, y in samples],
    "EM, 1 start": [error(GaussianMixture(4, random_state=0).fit_predict(X), y) for X, y in samples],
    "EM, 20 starts": [error(GaussianMixture(4, n_init=20, random_state=0).fit_predict(X), y) for X, y in samples],
    "cluster": [error(cluster(X, 4, certify=False, random_state=0).labels, y) for X, y in samples],
}
ax = plt.subplots(figsize=(6, 3.2), layout="constrained")[1]
for place, (values, mark) in enumerate(zip(errors.values(), "s^vo", strict=True)):
    ax.plot(values, [place] * 4, mark, color="k", markerfacecolor="none")
ax.set(xlabel="share of wrong labels, four samples", yticks=range(4), yticklabels=list(errors), xlim=(-0.02, 0.6))
plt.show()

# %%
# Penguins
# --------
# Bills, flippers and weights of three species, 342 birds; no method is told the species.
penguins = labelled_table("penguins")
Z = (penguins.X - penguins.X.mean(axis=0)) / penguins.X.std(axis=0)
birds = cluster(penguins.X, 3, random_state=0)
wrong_birds = error(KMeans(3, n_init=20, random_state=0).fit_predict(Z), penguins.labels)
birds.plot(X=penguins.X, features=(0, 1)).set(xlabel="length of the bill (mm)", ylabel="depth of the bill (mm)")
plt.show()

# %%
# What to remember
# ----------------
# K-means cuts what is long; EM without a prior gets worse with more starts; with a prior that the data set themselves
# neither happens, and the units of the columns do not matter.
assert error(wrong, truth) > 0.2
assert error(result.labels, truth) < 0.05
assert np.mean(errors["EM, 20 starts"]) > np.mean(errors["EM, 1 start"]) > 0.05
assert max(errors["cluster"]) < 0.03
assert error(birds.labels, penguins.labels) < 0.03 < wrong_birds
