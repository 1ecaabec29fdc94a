"""
As many equations as unknowns are enough
========================================
How many snapshots does it take to find the gains of an instrument together with the signals that it saw? The proofs
ask for more than there are unknowns, by powers of a logarithm. In practice the answer is a count: gains are recovered
to the last digits as soon as there are as many equations as unknowns, and one snapshot fewer is hopeless. We draw
problems of three kinds on a grid of sizes, solve each of them, and draw the line of the count over the map of
successes.
"""

# %%
# Three kinds of data
# -------------------
# One signal seen through several matrices (repeated), a signal for each matrix (diverse), or one matrix and many
# signals (snapshots). Each line says from how many snapshots on the equations are as many as the unknowns.
import math

import matplotlib.pyplot as plt
import numpy as np

from sciml.inverse.calibration import self_calibrate

m, tries = 16, 4
sizes = {"repeated": [8, 16, 32, 48, 64], "diverse": [2, 4, 8, 10, 12, 13], "snapshots": [2, 4, 8, 10, 12, 13]}
counts = {
    "repeated": lambda n: math.ceil((m + n - 1) / m),
    "diverse": lambda n: math.ceil((m - 1) / (m - n)),
    "snapshots": lambda n: math.ceil((m - 1) / (m - n)),
}
titles = {
    "repeated": "one signal, many matrices",
    "diverse": "a signal a matrix",
    "snapshots": "one matrix, many signals",
}
rng = np.random.default_rng(0)


def normal(*shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def succeeds(model, n, p):
    """Whether the gains of a random problem without noise come back to six digits."""
    d = normal(m)
    A = normal(m, n) if model == "snapshots" else normal(p, m, n)
    x = normal(n) if model == "repeated" else normal(p, n)
    y = d * np.einsum("...ij,...j->...i", A, x)
    found = self_calibrate(y, A, model=model, method="eigenvector", refine=False, on_failure="ignore").gains
    if not np.isfinite(found).all():
        return False  # what the data do not determine is NaN
    factor = np.vdot(found, d) / np.vdot(found, found)
    return np.linalg.norm(factor * found - d) < 1e-6 * np.linalg.norm(d)


rates = {}
for model, range_n in sizes.items():
    for n in range_n:
        for p in range(1, 8):
            rates[model, n, p] = np.mean([succeeds(model, n, p) for _ in range(tries)])

# %%
# The map
# -------
# Filled: all of four problems solved; empty: none. Dashed: the count.
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.8), layout="constrained")
for ax, (model, range_n) in zip(axes, sizes.items(), strict=True):
    for place, n in enumerate(range_n):
        for p in range(1, 8):
            grey = str(1 - rates[model, n, p])
            ax.plot(place, p, "s", color=grey, markeredgecolor="k", markersize=13)
    steps = [counts[model](n) - 0.5 for n in range_n]
    edges = np.arange(len(range_n) + 1) - 0.5
    ax.stairs(steps, edges, color="#d55e00", linestyle="--", linewidth=2, baseline=None)
    ax.set(title=titles[model], xlabel="unknowns of a signal (number)", xlim=(edges[0], edges[-1]), ylim=(0.4, 7.6))
    ax.set_xticks(range(len(range_n)), range_n)
axes[0].set_ylabel("snapshots (number)")
plt.show()

# %%
# What to remember
# ----------------
# The step lies on the count, everywhere. `self_calibrate` counts first, and refuses with the number of snapshots that
# are missing; here it was told to try all the same.
for (model, n, p), rate in rates.items():
    assert rate == (p >= counts[model](n)), f"{model}, n={n}, p={p}: {rate}"
