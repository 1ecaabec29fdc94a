"""
A few wild points need not take the clusters along
==================================================
A Gaussian mixture has a place for every point, and squares distances: one wild point in twenty gets components of its
own, and true clusters are merged to make room for them. K-means fails a little later for the same reason. With
``noise=True`` `cluster` has one component more, uniform over the range of the data, which takes what no cluster
expects. We add wild points to three clusters, then make typing errors in measurements of penguins and find them.
"""

# %%
# Three clusters and more and more wild points
# --------------------------------------------
# Three hundred points in ten dimensions, some of them replaced by uniform ones. Errors are counted among the others.
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from sciml.datasets import gaussian_clusters, labelled_table
from sciml.stats.clustering import cluster


def error(found, truth):
    """Share of points of a cluster that got a wrong label, after the best matching of the names."""
    found, truth = found[truth >= 0] + 1, truth[truth >= 0]  # column 0: taken for noise
    table = np.zeros((truth.max() + 1, found.max() + 1))
    np.add.at(table, (truth, found), 1)
    rows, columns = linear_sum_assignment(-table[:, 1:])
    return 1 - table[:, 1:][rows, columns].sum() / len(truth)


shares = [0, 0.02, 0.05, 0.1, 0.2]
errors = {"mixture, 10 starts": [], "K-means, 10 starts": [], "cluster, noise=True": []}
for share in shares:
    X, truth = gaussian_clusters(300, 3, 10, 5, 20, outliers=share, random_state=0)
    result = cluster(X, 3, noise=True, certify=False, random_state=0)
    found = {
        "mixture, 10 starts": GaussianMixture(3, n_init=10, random_state=0).fit_predict(X),
        "K-means, 10 starts": KMeans(3, n_init=10, random_state=0).fit_predict(X),
        "cluster, noise=True": result.labels,
    }
    for name, labels in found.items():
        errors[name].append(error(labels, truth))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for mark, (name, values) in zip("v^o", errors.items(), strict=True):
    axes[0].plot(100 * np.array(shares), values, mark + "-", label=name)
axes[0].set(xlabel="wild points (per cent)", ylabel="share of wrong labels among the others", ylim=(-0.03, 1))
axes[0].legend()
result.plot(X=X, ax=axes[1]).set_title("a fifth of the points is wild")
plt.show()

# %%
# Typing errors
# -------------
# Of six penguins somebody wrote kilograms where others wrote grams; of six more bill and flipper were exchanged.
penguins = labelled_table("penguins")
X, species = penguins.X.copy(), penguins.labels.copy()
typed = np.random.default_rng(0).choice(len(X), 12, replace=False)
X[typed[:6], 3] /= 1000
X[typed[6:, None], [0, 2]] = X[typed[6:, None], [2, 0]]
species[typed] = -1
birds = cluster(X, 3, noise=True, certify=False, random_state=0)
noise = np.flatnonzero(birds.labels < 0)
Z = (X - X.mean(axis=0)) / X.std(axis=0)
mixture = GaussianMixture(3, n_init=10, random_state=0).fit_predict(Z)
print(len(noise), "birds are noise; wrong species among the others:", round(error(birds.labels, species), 3))
print("in no cluster though nobody touched them:", X[np.setdiff1d(noise, typed)])

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
birds.plot(X=X, ax=axes[0], features=(2, 3)).set(xlabel="length of the flipper (mm)", ylabel="mass (g)")
birds.plot(X=X, ax=axes[1], features=(2, 0)).set(xlabel="length of the flipper (mm)", ylabel="length of the bill (mm)")
plt.show()

# %%
# What to remember
# ----------------
# Noise costs nothing where there is none, and `result.noise_probability` says how sure it is for each point.
ours = np.array(errors["cluster, noise=True"])
assert ours.max() < 0.02
assert np.min(errors["mixture, 10 starts"][2:]) > 0.25
assert errors["K-means, 10 starts"][-1] > 0.3
assert set(typed) <= set(noise)
assert len(noise) <= len(typed) + 3
assert error(birds.labels, species) < 0.03 < 0.1 < error(mixture, species)
