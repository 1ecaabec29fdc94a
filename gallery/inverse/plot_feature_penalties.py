"""
A penalty for each feature finds the worthless ones, and can be too clever
==========================================================================
Ridge regression has one penalty for all features. With one for each, a feature that tells nothing is switched off by a
penalty that grows without limit. Nobody searches over thirty penalties on a grid, but the gradient of a cross-validated
loss in all of them costs one linear system. We hide ten medical features among twenty columns of random numbers and
look which ones survive; then we do the same with data that are easier to please. What was learned is judged by a third
of the rows that no one has touched, and that is where the two cases part.
"""

# %%
# Ten features and twenty impostors
# ---------------------------------
# Progress of diabetes in 442 patients, with twenty columns of random numbers, all standardised. Two thirds of the rows
# learn penalties by five-fold cross-validation, first one for all features, then one for each. This is done for five
# draws of the rows and of the random columns.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import train_test_split

from sciml.inverse.bilevel import BilevelLogistic, BilevelRidge


def thirds(load, seed):
    """Return rows to learn from, and a third to judge by, with twenty random columns at the end."""
    X, y = load(return_X_y=True)
    X = np.c_[X, np.random.default_rng(seed).standard_normal((len(X), 20))]
    return train_test_split(X, y, test_size=1 / 3, random_state=seed)


def compare(load, models, loss):
    """Return the fitted models of five draws, and losses (draw, model, learned or judged)."""
    fitted, losses = [], []
    for seed in range(5):
        X, X_third, y, y_third = thirds(load, seed)
        pair = [model().fit(X, y) for model in models]
        fitted.append(pair)
        losses.append([(model.bilevel_result_.value, loss(model, X_third, y_third, y)) for model in pair])
    return fitted, np.array(losses)


def half_square(model, X_third, y_third, y):
    return 0.5 * mean_squared_error(y_third, model.predict(X_third)) / y.var()


def nats(model, X_third, y_third, y):
    return log_loss(y_third, model.predict_proba(X_third))


ridges = (BilevelRidge, lambda: BilevelRidge(per_feature=True))
diabetes, diabetes_losses = compare(load_diabetes, ridges, half_square)

# %%
# Which are switched off
# ----------------------
# The penalties learned in the first draw, sorted. The curvature of the loss in a standardised feature is one, so that a
# penalty of a hundred leaves a hundredth of its coefficient.
single, each = diabetes[0]
order = np.argsort(each.alpha_)
names = [*load_diabetes().feature_names, *20 * ["random"]]
figure, ax = plt.subplots(figsize=(7, 6), layout="constrained")
ax.hlines(range(30), 1e-7, each.alpha_[order], color="0.85")
for color, style, which in (("#d55e00", "o", order < 10), ("w", "s", order >= 10)):
    ax.plot(each.alpha_[order][which], np.flatnonzero(which), style, color=color, markeredgecolor="k", clip_on=False)
ax.axvline(single.alpha_, color="k", linestyle="--")
ax.annotate("one for all", (single.alpha_, 0), xytext=(5, 0), textcoords="offset points", va="center")
ax.set_yticks(range(30), [names[k] for k in order], fontsize="small")
ax.set(xscale="log", xlabel="penalty (dimensionless)", ylim=(-0.7, 29.7))
plt.show()

# %%
# Data that are easier to please
# ------------------------------
# Breast cancer: 569 patients, thirty features that nearly separate them, and again twenty impostors. For both data
# sets, and five draws each: the cross-validated loss, which was learned, and the loss on the third, which was not.
logistic = (BilevelLogistic, lambda: BilevelLogistic("feature"))
cancer, cancer_losses = compare(load_breast_cancer, logistic, nats)
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, losses in zip(axes, (diabetes_losses, cancer_losses), strict=True):
    learned = ax.plot([0, 1], losses[:, :, 0].T, "o-", color="#d55e00")
    judged = ax.plot([0, 1], losses[:, :, 1].T, "ks--", markerfacecolor="w")
    ax.set_xticks([0, 1], ["one penalty", "one each"])
    ax.set_xlim(-0.2, 1.2)
axes[0].set(title="diabetes", ylabel="half the squared error (variances)")
axes[1].set(title="breast cancer", ylabel="log loss (nats)")
labels = ["cross-validated, which was learned", "on the untouched third"]
figure.legend([learned[0], judged[0]], labels, loc="outside lower center", ncols=2, frameon=False)
plt.show()

# %%
# What to remember
# ----------------
# On diabetes more than half of the impostors are switched off, with some real features, which repeat others, and on
# average the predictions on the third get better by a small part of what the learned loss says. On cancer the
# learned loss falls most and the predictions get worse: fifty penalties have learned the folds. The learned value is no
# score. Keep a third set, or learn anew in every fold: ``cross_val_score(BilevelRidge(per_feature=True), X, y)``.
off = np.array([each.alpha_ > 30 for _, each in diabetes])
print(f"switched off: {off[:, 10:].mean():.0%} of the impostors, {off[:, :10].mean():.0%} of the features")
for name, losses in (("diabetes", diabetes_losses), ("cancer", cancer_losses)):
    (one, one_judged), (many, many_judged) = losses.mean(axis=0)
    print(f"{name}: learned {one:.3f} -> {many:.3f}, judged {one_judged:.3f} -> {many_judged:.3f}")
    assert (losses[:, 1, 0] < losses[:, 0, 0]).all()
assert off[:, 10:].mean() > 0.5 > off[:, :10].mean() + 0.1
assert diabetes_losses[:, 1, 1].mean() < diabetes_losses[:, 0, 1].mean()
assert cancer_losses[:, 1, 1].mean() > 1.3 * cancer_losses[:, 0, 1].mean()
