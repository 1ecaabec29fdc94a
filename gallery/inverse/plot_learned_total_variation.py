"""
Two numbers of total variation are learned, each step as exact as it must be
============================================================================
Total variation removes noise from photographs and keeps their edges, if two numbers are right: how much variation
costs, and how sharp an edge may be. Here both are learned from six photographs whose truth is known, so that the
denoised ones come as near to it as they can. Every look at a pair of numbers means to denoise all six, which is itself
an iteration: the search stops it as early as the decision at hand allows, and carries an error bar for what it left
undone. We look at its way, at its bars, and at four photographs that it never saw.
"""

# %%
# The problem
# -----------
# A photograph :math:`y` with noise is denoised to the minimiser :math:`\hat x(\theta)` of
# :math:`\tfrac12\|x-y\|^2 + \tfrac\alpha2\sum_j\sqrt{(Dx)_j^2+\nu^2}`, with :math:`Dx` the differences of neighbours
# and :math:`\theta = (\log\alpha, \log\nu)`; what shall be small is the mean of
# :math:`\tfrac12\|\hat x_i(\theta)-x_i\|^2` over the photographs. The start is almost no penalty at all.
# ``verify=True`` computes each value again, nearly exactly, and counts those outside their bars.
import matplotlib.pyplot as plt
import numpy as np

from sciml.datasets import noisy, photographs
from sciml.inverse.bilevel import Auto, LearnedTV, SquaredError, learn_hyperparameters, psnr, total_variation

seen = photographs(["camera", "astronaut", "coffee", "rocket", "brick", "gravel"], size=64)
unseen = photographs(["chelsea", "coins", "immunohistochemistry", "text"], size=64)
seen_noisy, unseen_noisy = noisy(seen, sigma=0.1, seed=19), noisy(unseen, sigma=0.1, seed=20)

model = LearnedTV(theta0=(-5, -5), tol=1e-6, verify=True).fit(seen_noisy, seen)
result = model.bilevel_result_
print(result)
print(f"alpha = {model.alpha_:.4f}, nu = {model.nu_:.4f}, after {result.n_units:.0f} units")
print(result.report["verification"])

# %%
# The way through the landscape
# -----------------------------
# The grey lines are levels of the value, from a table of 120 pairs, which the search does not have. The first steps are
# as long as it allows itself. Below, the valley is flat: how narrow the bend is hardly matters.
log_alpha, log_nu = np.linspace(-5.25, -0.5, 12), np.linspace(-7, -1, 10)
table, table_units, x = np.empty((10, 12)), 0.0, seen_noisy
for i, j in np.ndindex(10, 12):
    j = j if i % 2 else 11 - j  # there and back, so that each starts from the images of its neighbour
    theta, exact = (log_alpha[j], log_nu[i]), Auto(eps0=0.03)
    there = learn_hyperparameters(
        total_variation(seen_noisy), SquaredError(seen), theta, x0=x, method=exact, max_iter=0, on_failure="ignore"
    )
    table[i, j], table_units, x = there.value, table_units + there.n_units, there.x

figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
levels = [5, 5.5, 6.5, 8, 10, 12, 14, 16, 18]
ax.contourf(log_alpha, log_nu, table, levels=[4, *levels, 30], cmap="Greys", alpha=0.35)
ax.clabel(ax.contour(log_alpha, log_nu, table, levels=levels, colors="0.5", linewidths=0.8), fontsize="small")
ax.plot(*result.thetas.T, "o-", color="#d55e00", markeredgecolor="k")
ax.plot(*result.theta, "k*", markersize=15)
ax.annotate("start", result.thetas[0], xytext=(8, -4), textcoords="offset points")
ax.set(xlabel=r"$\log\,\alpha$ ($\alpha$ in grey values)", ylabel=r"$\log\,\nu$ ($\nu$ in grey values)")
plt.show()

# %%
# What each step knew
# -------------------
# Left, the values with their bars. Right, the bars beside what is left to gain: they are rough while that is much, and
# become fine when it is little, without a schedule chosen by anyone. One unit is one gradient, or one product with the
# Hessian, for all six photographs.
units, value, bar = (result.history[key] for key in ("n_units", "value", "value_bar"))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
left.errorbar(units, value, yerr=bar, fmt="o-", color="#d55e00", ecolor="k", capsize=5, linewidth=1)
left.set(xlabel="units (number)", ylabel="value (squared grey values)", ylim=(0, 21))
right.semilogy(units[:-1], abs(value - value[-1])[:-1], "o-", color="#d55e00", label="distance from the last value")
right.semilogy(units, bar, "ks--", markerfacecolor="w", label="bar of the value")
right.set(xlabel="units (number)", ylabel="squared grey values")
right.legend(frameon=False)
plt.show()

# %%
# Photographs that were not seen
# ------------------------------
# The learned pair, used on four others.
denoised = model.denoise(unseen_noisy)
figure, axes = plt.subplots(3, 4, figsize=(8, 6.4), layout="constrained")
for row, name, images in zip(axes, ("noisy", "denoised", "truth"), (unseen_noisy, denoised, unseen), strict=True):
    row[0].set_ylabel(name)
    for k, ax in enumerate(row):
        ax.imshow(images[k], cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        if name != "truth":
            ax.set_xlabel(f"{psnr(images, unseen)[k]:.1f} dB")
plt.show()

# %%
# What to remember
# ----------------
# None of the values lay outside its bar, the whole search cost less than a fifth of the coarse table, and what was
# learned holds on other photographs: had the pair been learned from these themselves, they would be hardly better.
ideal = LearnedTV().fit(unseen_noisy, unseen).denoise(unseen_noisy)
ratio = {"noisy": psnr(unseen_noisy, unseen), "learned": psnr(denoised, unseen), "ideal": psnr(ideal, unseen)}
print({name: f"{values.mean():.2f} dB" for name, values in ratio.items()}, f"table: {table_units:.0f} units")
assert result.status == "converged"
assert result.report["verification"]["violations"] == 0
assert result.value < table.min()
assert result.n_units < table_units / 5
assert ratio["learned"].mean() > ratio["noisy"].mean() + 5
assert ratio["learned"].mean() > ratio["ideal"].mean() - 0.3
