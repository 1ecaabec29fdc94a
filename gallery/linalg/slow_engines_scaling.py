"""
Up to two hundred thousand points: time grows with the pairs, memory with the points
====================================================================================
The long version of :doc:`plot_engines_scaling`, which the documentation does not run: some minutes on one core. Every
measurement is made in a process of its own, so that memory is what the operating system saw and not what an engine
announced, and KeOps is measured beside the engines of this package. Sizes grow until a call would take too long; the
exponents at the end are fitted to what was measured, nothing is extrapolated.
"""

# %%
# One measurement, one process
# ----------------------------
# The first call compiles or loads what it needs and is not counted; the second is, on as many points as are asked for.
# Linux can forget the peak of memory in between.
import json
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np

CHILD = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
from sciml.kernels import Gaussian
from sciml.linalg import kernel_sum
torch.set_num_threads(1)
engine, n = sys.argv[1], int(sys.argv[2])
rng, kernel = np.random.default_rng(0), Gaussian(lengthscale=0.1)
X, b = rng.random((n, 3), dtype=np.float32), rng.random((n, 1), dtype=np.float32)
kernel_sum(X[:500], X[:500], b[:500], kernel=kernel, engine=engine)
def resident(line):
    text = Path("/proc/self/status").read_text()
    return int(next(row for row in text.splitlines() if row.startswith(line)).split()[1]) / 1000
Path("/proc/self/clear_refs").write_text("5")
before, start = resident("VmRSS"), time.process_time()
kernel_sum(X, X, b, kernel=kernel, engine=engine, memory=0.9)
print(json.dumps([time.process_time() - start, resident("VmHWM") - before]))
"""


def measured(engine, n):
    """Return seconds of the processor, and megabytes gained at the peak."""
    done = subprocess.run([sys.executable, "-c", CHILD, engine, str(n)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# %%
# The measurements
# ----------------
# The matrix is given up where it would take gigabytes, KeOps and the uncompiled tiles where a call would take minutes.
sizes = {"dense": [1000, 3000, 10_000, 20_000], "eager": [1000, 3000, 10_000, 30_000, 60_000]}
sizes["compiled"] = [1000, 3000, 10_000, 30_000, 100_000, 200_000]
sizes["keops"] = [1000, 3000, 10_000, 30_000, 60_000]
cost = {}
for engine in sizes:
    try:
        cost[engine] = np.array([measured(engine, n) for n in sizes[engine]]).T
    except subprocess.CalledProcessError as error:
        print(f"{engine} cannot run here: {error.stderr.strip().splitlines()[-1]}")

# %%
# The curves
# ----------
# Solid lines in the background have slopes two and one.
style = {"dense": ("^:", "0.5"), "eager": ("s--", "0.3"), "compiled": ("o-", "k"), "keops": ("x-.", "0.3")}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
guide = np.array([1e4, 2e5])
left.loglog(guide, 1e-2 * (guide / 1e4) ** 2, "0.85", lw=4)
right.loglog(guide, 1e-1 * (guide / 1e4), "0.85", lw=4)
for engine, (seconds, megabytes) in cost.items():
    marker, colour = style[engine]
    left.loglog(sizes[engine], seconds, marker, color=colour, label=engine)
    right.loglog(sizes[engine], np.maximum(megabytes, 0.1), marker, color=colour, label=engine)
left.set(xlabel="points N (number)", ylabel="processor time (s)")
right.set(xlabel="points N (number)", ylabel="memory gained at the peak, at least 0.1 (MB)")
left.legend()
right.legend()
plt.show()

# %%
# The exponents
# -------------
# Fitted from 10,000 points on, below which a call costs its overhead.
slopes = {}
for engine, measures in cost.items():
    keep = np.array(sizes[engine]) >= 10_000
    lines = np.log(np.maximum(measures[:, keep], [[0.0], [0.1]])).T
    slopes[engine] = np.polyfit(np.log(np.array(sizes[engine])[keep]), lines, 1)[0]
    print(f"{engine:8s} time ~ N^{slopes[engine][0]:.2f}, memory ~ N^{slopes[engine][1]:.2f}")
    for n, (seconds, megabytes) in zip(sizes[engine], measures.T, strict=True):
        print(f"    N = {n:6d}: {seconds:8.3f} s, {1e9 * seconds / n**2:6.2f} ns a pair, {megabytes:7.1f} MB")

assert 1.6 < slopes["compiled"][0] < 2.4
assert slopes["compiled"][1] < 1.2
assert slopes["dense"][1] > 1.6
assert cost["compiled"][1].max() < 200
