"""
A billion pairs of points are summed in a few megabytes
=======================================================
Every point of a cloud acts on every other: masses attract, samples of a random field are correlated, densities are
sums of bumps. The matrix of all these actions has a row and a column for each point; for a hundred thousand points it
fills forty gigabytes. But a product with it needs each entry once, for a moment. `sciml.linalg.kernel_sum` makes the
entries in small tiles and forgets them, so that only time grows with the pairs. We measure both on one core.
"""

# %%
# One sum, three ways
# -------------------
# The engine "dense" forms the matrix, "eager" goes over it in tiles by torch's own operations, and "compiled" fuses a
# tile of fixed size into one loop. The first compiled call of a process takes some ten seconds, here outside the clock;
# all later ones, whatever the number of points, use the same code.
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

import sciml
from sciml.kernels import Gaussian
from sciml.linalg import kernel_sum

torch.set_num_threads(1)
rng, kernel = np.random.default_rng(0), Gaussian(lengthscale=0.1)


def cloud(n):
    return rng.random((n, 3), dtype=np.float32), rng.random((n, 1), dtype=np.float32)


X, b = cloud(3000)
answers = {engine: kernel_sum(X, X, b, kernel=kernel, engine=engine) for engine in ("dense", "eager", "compiled")}

# %%
# What it takes
# -------------
# Seconds are those of the processor, so that other programs on the machine do not count. Memory is what an engine
# announces before it allocates anything: inside `sciml.trace` every call leaves both, and why its engine was taken.
sizes = {"dense": [1000, 2000, 4000, 8000], "eager": [1000, 3000, 10_000, 20_000]}
sizes["compiled"] = [1000, 3000, 10_000, 20_000, 32_000, 64_000]


def measured(engine, n):
    X, b = cloud(n)
    with sciml.trace() as log:
        start = time.process_time()
        kernel_sum(X, X, b, kernel=kernel, engine=engine)
        seconds = time.process_time() - start
    return seconds, log[0]["bytes"] / 1e6


cost = {engine: np.array([measured(engine, n) for n in sizes[engine]]).T for engine in sizes}

# %%
# Time grows with the pairs, memory need not
# ------------------------------------------
# All engines evaluate every pair, so that their times are parallel lines of slope two; the fused loop lies lowest. The
# hollow circle is no measurement, but the last one times the ratio of pairs. In memory only the matrix has slope two.
style = {"dense": ("^:", "0.5"), "eager": ("s--", "0.3"), "compiled": ("o-", "k")}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
guide = np.array([4e3, 1.2e4])
left.loglog(5 * guide, 2e-9 * guide**2, "0.85", lw=4, label="slope 2")
right.loglog(guide, 2e-6 * guide**2, "0.85", lw=4, label="slope 2")
for engine, (seconds, megabytes) in cost.items():
    marker, colour = style[engine]
    left.loglog(sizes[engine], seconds, marker, color=colour, label=engine)
    right.loglog(sizes[engine], megabytes, marker, color=colour, label=engine)
n, seconds = sizes["compiled"][-1], cost["compiled"][0][-1]
extrapolated = seconds * (200_000 / n) ** 2
left.loglog([n, 200_000], [seconds, extrapolated], "k:", lw=1)
left.loglog(200_000, extrapolated, "ko", markerfacecolor="w", label="compiled, extrapolated")
left.set(xlabel="points N (number)", ylabel="processor time (s)")
right.set(xlabel="points N (number)", ylabel="memory for temporaries and answer (MB)")
left.legend()
right.legend()
plt.show()
for engine in sizes:
    for n, (seconds, megabytes) in zip(sizes[engine], cost[engine].T, strict=True):
        print(f"{engine:8s} N = {n:6d}: {seconds:7.3f} s, {1e9 * seconds / n**2:6.2f} ns a pair, {megabytes:6.1f} MB")

# %%
# Who chose, and why
# ------------------
# Nobody needs to name an engine: "auto" chooses by device, dtype, number of pairs and memory. Another kernel is not
# compiled yet, and its few million pairs would not pay for that. An engine that was named and does not fit into the
# budget says so before it begins.
with sciml.trace() as log:
    for n, k in ((1000, kernel), (10_000, kernel), (4000, sciml.kernels.Matern32(lengthscale=0.1))):
        X, b = cloud(n)
        kernel_sum(X, X, b, kernel=k)
print(log)

X, b = cloud(100_000)
try:
    kernel_sum(X, X, b, kernel=kernel, engine="dense", memory="4GiB")
except sciml.exceptions.MemoryBudgetError as error:
    refused = error
print(refused)

# %%
# What to remember
# ----------------
# The three engines agree to the rounding of single precision; memory decides what is possible, and fusion what is
# fast. `gallery/linalg/slow_engines_scaling.py` goes on to 200,000 points, with KeOps beside.


def slope(engine, what, first):
    keep = np.array(sizes[engine]) >= first
    return np.polyfit(np.log(np.array(sizes[engine])[keep]), np.log(cost[engine][what][keep]), 1)[0]


scale = np.abs(answers["dense"]).max()
assert all(np.abs(answer - answers["dense"]).max() < 5e-6 * scale for answer in answers.values())
assert 1.5 < slope("compiled", 0, 20_000) < 2.5
assert slope("compiled", 1, 10_000) < 1.2 < 1.6 < slope("dense", 1, 4000)
assert cost["compiled"][1].max() < 50
assert refused.needed >= 4e10
assert cost["compiled"][0][3] < cost["eager"][0][3] / 1.2
assert [entry["engine"] for entry in log] == ["dense", "compiled", "eager"]
