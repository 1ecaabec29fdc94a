"""
Wrong labels are found by a few that are right
==============================================
Of 250 patients in a training set three in ten have the wrong label, and nobody knows which. A hundred others were
checked by hand. Every doubtful row gets a weight of its own, and all 250 weights are learned so that the model fitted
to the weighted rows does well on the checked ones: rows that pull it the wrong way lose their weight. The gradient of
that loss in all weights costs one linear system. We look at the weights, and at what they do for patients that took no
part.
"""

# %%
# The data
# --------
# Thirty measurements of tumours, from scikit-learn; the label says whether they are benign. 250 rows with flips, 100
# clean ones, and the remaining 219 to judge by.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score, roc_curve

from sciml.inverse.bilevel import BilevelLogistic, DataCleaner

X, y = load_breast_cancer(return_X_y=True)


class Draw:
    """Doubtful, checked and judging rows of one seed."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.doubtful, self.checked, self.judges = np.split(rng.permutation(len(X)), [250, 350])
        self.wrong = rng.random(250) < 0.3
        self.labels = y[self.doubtful] ^ self.wrong
        self.cleaner = DataCleaner().fit(X[self.doubtful], self.labels, X[self.checked], y[self.checked])

    def accuracy(self, model):
        return model.score(X[self.judges], y[self.judges])


draws = [Draw(seed) for seed in range(5)]
print(draws[0].cleaner.bilevel_result_)

# %%
# The weights
# -----------
# Left, the learned weights of the first draw; at the start all were 1/2. Right, for five draws: the wrong labels that
# are found when all rows below some weight are looked at, against the right ones that are looked at in vain.
first = draws[0]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
weights = [first.cleaner.weights_[first.wrong], first.cleaner.weights_[~first.wrong]]
names = ["wrong label", "right label"]
left.hist(weights, np.linspace(0, 1, 21), color=["#d55e00", "w"], edgecolor="k", label=names)
left.set(xlabel="learned weight (dimensionless)", ylabel="rows (number)", xlim=(0, 1))
left.legend(frameon=False)
for draw in draws:
    vain, found, _ = roc_curve(draw.wrong, -draw.cleaner.weights_)
    right.plot(vain, found, color="#d55e00" if draw is first else "0.6", zorder=2 + (draw is first))
right.plot([0, 1], [0, 1], "k:")
right.set(xlabel="share of right labels looked at", ylabel="share of wrong labels found", aspect="equal")
plt.show()

# %%
# Predictions for others
# ----------------------
# Accuracy on the rows that took no part, for four models: one of all doubtful rows, one of the checked rows alone, the
# weighted one, and, out of reach, one of the doubtful rows with the right labels.
table = []
for draw in draws:
    rows, few = X[draw.doubtful], draw.checked
    models = [
        BilevelLogistic().fit(rows, draw.labels),
        BilevelLogistic().fit(X[few], y[few]),
        draw.cleaner,
        BilevelLogistic().fit(rows, y[draw.doubtful]),
    ]
    table.append([draw.accuracy(model) for model in models])
table = np.array(table)
print(table.mean(axis=0).round(3))

figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
places = ["all labels\nas they are", "checked rows\nalone", "learned weights", "all labels right\n(not to be had)"]
ax.plot(places, table.T, "o-", color="0.7", markersize=4)
ax.plot(places, table.mean(axis=0), "s", color="#d55e00", markeredgecolor="k", markersize=9, label="mean of five draws")
ax.set(ylabel="accuracy on 219 other patients")
ax.legend(frameon=False)
plt.show()

# %%
# What to remember
# ----------------
# Nine wrong labels in ten come first when rows are sorted by weight, and the weighted model predicts better than either
# part of the data alone, as well as if all labels had been right. Weights are more numerous than the checked rows, so
# that a term holds them near 1/2 (``prior``), and the loss on the checked rows says nothing about others.
areas = [roc_auc_score(draw.wrong, -draw.cleaner.weights_) for draw in draws]
print("area under the curves:", np.round(areas, 3))
assert min(areas) > 0.9
assert np.mean(areas) > 0.95
assert table[:, 2].mean() > max(table[:, 0].mean(), table[:, 1].mean())
assert table[:, 2].mean() > table[:, 3].mean() - 0.01
