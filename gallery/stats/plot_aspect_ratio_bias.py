"""
The shape of a layer looks like its training
============================================
How heavy the tail of a weight matrix's eigenvalues is, tells how strongly training has shaped the layer: noise has a
light tail and a large exponent, a trained layer a small one. But the exponent also depends on the shape of the matrix.
Layers of pure noise, which have learned nothing, differ by a factor of three. Here is the bias, the law that it
follows, and the measurement that does not have it: many windows of one shape, pooled before the exponent is read.
"""

# %%
# Noise of nine shapes
# --------------------
# Matrices of independent normal numbers with 192 rows and up to 3072 columns. The curve is the law of Marchenko and
# Pastur, from which the exponent of noise follows without a simulation.
import matplotlib.pyplot as plt
import numpy as np

import sciml
from sciml.stats.spectra import mp_alpha

ratios = np.array([1, 1.25, 1.5, 2, 3, 4, 6, 8, 16])
rng = np.random.default_rng(0)
layers = {f"{ratio:g}": rng.standard_normal((192, int(192 * ratio))) for ratio in ratios}
found = sciml.diagnose(layers)
theory = [float(mp_alpha(1 / ratio)) for ratio in ratios]

# %%
# Plain and by windows
# --------------------
# The plain exponent climbs with the ratio of the sides and reads a wide layer as badly structured. Windows of 96 x 96
# (FARMS) give one answer for all, with an interval: bars hold 95 percent.
ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")[1]
ax.plot(ratios, theory, color="0.6", label="law of noise")
ax.plot(ratios, found.alpha, "o", label="whole matrix")
half = [found.alpha_farms - found.alpha_lo, found.alpha_hi - found.alpha_farms]
ax.errorbar(ratios, found.alpha_farms, yerr=half, fmt="s", capsize=3, label="windows (FARMS)")
ax.set(xscale="log", xlabel="columns over rows", ylabel=r"exponent $\alpha$ (dimensionless)")
ax.set_xticks(ratios[[0, 3, 5, 7, 8]], ["1", "2", "4", "8", "16"])
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# Structure among them
# --------------------
# The same sizes with rows of unlike strength, a simple kind of structure (variances falling like one over the root of
# their number). The plain exponent of the wide ones is above that of square noise: by it, structure reads as less than
# none. By windows every one is told from noise: ``z_null`` is the distance in standard deviations of noise.
covariance = np.arange(1, 193)[rng.permutation(192), None] ** -0.25
structured = sciml.diagnose({name: covariance * W for name, W in layers.items()})
print(f"plain: square noise {found.alpha[0]:.2f}, structured 1 : 16 {structured.alpha[-1]:.2f}")
print(f"windows: noise {found.alpha_farms.min():.2f} to {found.alpha_farms.max():.2f}, ", end="")
print(f"structured {structured.alpha_farms.min():.2f} to {structured.alpha_farms.max():.2f}")

# %%
# What to remember
# ----------------
# Compare layers of different shapes by ``alpha_farms``, never by ``alpha``.
assert np.allclose(found.alpha, theory, rtol=0.06)
assert found.alpha[-1] > 2.5 * found.alpha[0]
assert np.ptp(found.alpha_farms) < 0.03 * found.alpha_farms.mean()
assert np.all(np.abs(found.z_null) < 3.5)
assert np.all(structured.z_null > 5)
assert structured.alpha[-1] > found.alpha[0]
assert structured.alpha_farms.max() < found.alpha_farms.min()
