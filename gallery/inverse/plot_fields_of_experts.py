"""
Learned filters see more than differences of neighbours
=======================================================
Total variation knows an image by the differences of its neighbours. A field of experts has several filters in their
place, each with a weight and a width of its own, and all of them are learned from photographs whose truth is known:
eight filters of 3 x 3 pixels are 89 numbers instead of two, eight of 5 x 5 pixels 217. We start from random filters,
give all models the same budget of work, and compare them on photographs that none of them saw. Both fields win on
average; the larger one, which has more numbers to learn, does not win more.
"""

# %%
# Three models, one budget
# ------------------------
# One unit of work is one gradient, or one product with the Hessian, for all ten photographs. Total variation is done
# long before the budget is spent. The filters still improve when it is, and their status says so.
import matplotlib.pyplot as plt
import numpy as np

from sciml.datasets import noisy, photographs
from sciml.inverse.bilevel import FieldsOfExperts, LearnedTV, psnr

names = ["chelsea", "coins", "immunohistochemistry", "text", "grass", "microaneurysms"]
others = ["camera", "astronaut", "coffee", "rocket", "brick", "gravel", "retina", "page", "moon", "clock"]
seen, unseen = photographs(others, size=64), photographs(names, size=64)
seen_noisy, unseen_noisy = noisy(seen, sigma=0.1, seed=19), noisy(unseen, sigma=0.1, seed=20)

budget = {"max_units": 1000, "on_failure": "ignore"}
models = {
    "total variation": LearnedTV(**budget),
    "8 filters of 3 x 3": FieldsOfExperts(n_filters=8, size=3, **budget),
    "8 filters of 5 x 5": FieldsOfExperts(n_filters=8, size=5, **budget),
}
for name, model in models.items():
    result = model.fit(seen_noisy, seen).bilevel_result_
    print(f"{name}: {result.status} after {result.n_units:.0f} units, value {result.value:.3f}")

# %%
# What the budget bought
# ----------------------
# The mean over the photographs of half the squared error, as the search saw it.
styles = {"total variation": ("k", "s", "--"), "8 filters of 3 x 3": ("#d55e00", "o", "-")}
styles["8 filters of 5 x 5"] = ("#56b4e9", "^", "-")
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, (color, marker, line) in styles.items():
    history = models[name].bilevel_result_.history
    ax.semilogx(history["n_units"], history["value"], line, color=color, marker=marker, label=name)
ax.set(xlabel="units (number)", ylabel="value (squared grey values)", xlim=(10, None), ylim=(3.5, 6))
ax.legend(frameon=False)
plt.show()

# %%
# The filters
# -----------
# Those of 3 x 3, strongest first; black is negative. They compare a pixel with its neighbours, or neighbours with one
# another, in more directions than two.
foe = models["8 filters of 3 x 3"]
strength = foe.alpha_ * np.linalg.norm(foe.filters_, axis=(1, 2))
figure, axes = plt.subplots(1, 8, figsize=(9, 1.6), layout="constrained")
for ax, k in zip(axes, np.argsort(-strength), strict=True):
    size = abs(foe.filters_[k]).max()
    ax.imshow(foe.filters_[k], cmap="gray", vmin=-size, vmax=size)
    ax.set(xticks=[], yticks=[], xlabel=f"{strength[k]:.3f}")
figure.suptitle("weight times norm, in grey values, below each filter", fontsize="medium")
plt.show()

# %%
# Photographs that were not seen
# ------------------------------
# Peak signal-to-noise ratios on six others, over that of total variation.
ratio = {name: psnr(model.denoise(unseen_noisy), unseen) for name, model in models.items()}
figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
ax.axvline(0, color="k", linestyle="--")
for name in ("8 filters of 3 x 3", "8 filters of 5 x 5"):
    color, marker, _ = styles[name]
    ax.plot(ratio[name] - ratio["total variation"], names, marker, color=color, markersize=9, label=name)
ax.set(xlabel="gain over total variation (dB)")
ax.legend(frameon=False)
plt.show()

# %%
# The cat's eyes
# --------------
# What the numbers look like: flat patches with steps between them, and smoother ones.
panels = {"noisy": unseen_noisy[0]} | {name: model.denoise(unseen_noisy[0]) for name, model in models.items()}
figure, axes = plt.subplots(1, 4, figsize=(9, 2.7), layout="constrained")
for ax, (name, image) in zip(axes, panels.items(), strict=True):
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], title=name, xlabel=f"{psnr(image[None], unseen[:1])[0]:.1f} dB")
plt.show()

# %%
# What to remember
# ----------------
# The value is what was fitted, and more numbers make it smaller, given time; only other photographs tell what they are
# worth. A field of experts is worth a quarter of a decibel here. On the coins, which are like nothing that was seen,
# its larger filters lose more than that.
tv, small, large = ratio.values()
values = [model.bilevel_result_.value for model in models.values()]
print(f"unseen: {tv.mean():.2f}, {small.mean():.2f}, {large.mean():.2f} dB")
assert values[0] > max(values[1:])
assert small.mean() > tv.mean() + 0.15
assert tv.mean() < large.mean() < small.mean() + 0.1
