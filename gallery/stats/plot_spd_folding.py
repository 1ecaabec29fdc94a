"""
Why a batch normalisation of covariances may fold
=================================================
The published Bures-Wasserstein batch normalisation centres a batch by logarithm, parallel transport and exponential
map, and takes the logarithm again to scale. On 1 x 1 matrices all of it can be written down: a positive number x with
batch mean b comes out as (1 + sqrt x - sqrt b)^2. Where sqrt x < sqrt b - 1 the bracket is negative, its square rises
again as x falls, and no logarithm brings it back: small and large numbers land on one another. How many do depends on
the unit of the data alone; a few more are folded by the second exponential, after scaling. In the frame of the running
mean the same steps are one increasing function.
"""

# %%
# The map, in three units
# -----------------------
# One batch of positive numbers in three units, through the published layer and through `SPDBatchNorm`. Both centre and
# divide by the spread.
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch

from sciml.stats.spd import GBWBatchNorm, SPDBatchNorm

rng = np.random.default_rng(0)
batch = np.sort(np.exp(0.8 * rng.standard_normal(300)))
ways = {
    "published": lambda: GBWBatchNorm(1, theta=1.0),
    "in the mean's frame": lambda: SPDBatchNorm(1, metric="bw"),
}


def through(way, x):
    """Return what a fresh layer makes of a batch of numbers, and what it warned of."""
    layer = ways[way]().train()
    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("always")
        y = layer(torch.from_numpy(x)[:, None, None])[:, 0, 0].numpy()
    return y, [str(one.message) for one in said]


def falls(y):
    """Return the share of neighbours that change their order."""
    return np.mean(np.diff(y) < -1e-12 * y.max())


figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True, layout="constrained")
turned = {}
for ax, unit in zip(axes, (0.1, 10.0, 1000.0), strict=True):
    for way, mark in zip(ways, "v.", strict=True):
        y, said = through(way, unit * batch)
        turned[unit, way] = falls(y)
        ax.plot(unit * batch, y, mark, markersize=4, label=way)
        for text in said:
            print(f"unit {unit:g}: {text}")
    ax.set(title=f"{100 * turned[unit, 'published']:.0f} % turned round", xlabel="number before", xscale="log")
axes[0].set_ylabel("after the layer")
axes[0].legend()
plt.show()

# %%
# What it costs
# -------------
# Two classes that differ by a factor of four in power: a threshold tells them apart well in any unit. After the
# published layer the best threshold depends on the unit; after the other it does not.
labels = np.repeat([0, 1], 300)
power = np.exp(0.5 * rng.standard_normal(600)) * np.where(labels, 4.0, 1.0)
units = np.geomspace(1e-3, 1e3, 25)


def best_threshold(values):
    """Return the share of right answers of the best threshold, upwards or downwards."""
    order = labels[np.argsort(values, kind="stable")]
    right = np.concatenate([[0], np.cumsum(1 - 2 * order)]) + order.sum()
    return max(right.max(), 600 - right.min()) / 600


shares = {way: [best_threshold(through(way, unit * power)[0]) for unit in units] for way in ways}
ax = plt.subplots(figsize=(6, 3.2), layout="constrained")[1]
for mark, (way, values) in zip("vo", shares.items(), strict=True):
    ax.semilogx(units, values, mark, label=way)
ax.axhline(best_threshold(power), color="0.5", linestyle="--", label="before")
ax.set(xlabel="unit of the data", ylabel="right answers of the best threshold")
ax.legend()
plt.show()

# %%
# What to remember
# ----------------
# An exponential map that is not one-to-one must not be followed by a logarithm. In coordinates in which the running
# mean is the identity, centring, scaling and both maps are one increasing function of the eigenvalues.
assert turned[0.1, "published"] + 0.1 < turned[10.0, "published"] < turned[1000.0, "published"] - 0.1
assert max(turned[unit, "in the mean's frame"] for unit in (0.1, 10.0, 1000.0)) == 0
assert min(shares["published"]) < best_threshold(power) - 0.05
assert min(shares["in the mean's frame"]) == best_threshold(power)
