"""
An array of antennas calibrates itself on the sky
=================================================
Sixty antennas listen to five radio sources whose places are known from a catalogue. Every cable and amplifier turns
the phase of its antenna by an unknown angle, so that an image made of the raw signals is noise. Nobody knows what the
sources send, either. But each of the 200 snapshots holds sixty numbers and only five unknown ones of the sky, and the
antennas stay the same: that is enough to find all gains, with their errors, from the very data that are to be imaged.
"""

# %%
# The array and the sky
# ---------------------
# Antennas within ten wavelengths of the centre; sources by their direction cosines. The gains have any phase and
# moduli that differ by a third. The noise of one antenna in one snapshot is as strong as the whole sky.
import matplotlib.pyplot as plt
import numpy as np

from sciml.inverse.calibration import Steering, crb, self_calibrate

rng = np.random.default_rng(0)
m, p, sigma = 60, 200, 1.0
angle, radius = 2.4 * np.arange(m), 10 * np.sqrt((np.arange(m) + 0.5) / m)
antennas = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
sources = np.array([[0.31, 0.22], [-0.35, 0.3], [-0.12, -0.33], [0.05, 0.08], [0.37, -0.28]])
strengths = np.array([0.7, 0.5, 0.35, 0.25, 0.2])


def normal(*shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


A = Steering(antennas, sources)
gains = np.exp(0.33 * rng.standard_normal(m) + 2j * np.pi * rng.random(m))
signals = strengths * normal(p, len(sources))
y = gains * (signals @ A.to_dense().T) + sigma * normal(p, m)

result = self_calibrate(y, A, noise_std=sigma)
print(result.summary())

# %%
# The gains
# ---------
# Found and true gains, turned by the one phase that no data can tell. The bars are two of the standard deviations that
# the result states.
factor = np.vdot(gains, result.gains) / np.vdot(gains, gains)
truth = factor * gains
figure, axes = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
result.plot(ax=axes)
axes[0].plot(np.abs(truth), "_", color="#d55e00", markersize=9, label="truth")
axes[1].plot(np.angle(truth), "_", color="#d55e00", markersize=9, label="truth")
axes[0].legend(frameon=False, ncols=2, loc="upper right")
plt.show()

# %%
# The image, before and after
# ---------------------------
# The power that the array receives from each direction when it is pointed there.
grid = np.linspace(-0.5, 0.5, 121)
directions = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
beams = Steering(antennas, directions).to_dense().conj() / m


def image(data):
    return (np.abs(data @ beams) ** 2).mean(axis=0).reshape(len(grid), len(grid))


maps = {"raw": image(y), "calibrated": image(result.calibrate(y)), "true gains": image(y / truth)}
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.9), sharey=True, layout="constrained")
for ax, (title, power) in zip(axes, maps.items(), strict=True):
    extent = (grid[0], grid[-1], grid[0], grid[-1])
    shown = ax.imshow(10 * np.log10(power), origin="lower", extent=extent, cmap="gray", vmin=-18, vmax=-3)
    ax.plot(*sources.T, "o", color="#d55e00", markersize=14, fillstyle="none")
    ax.set(title=title, xlabel="direction cosine (east)")
axes[0].set_ylabel("direction cosine (north)")
figure.colorbar(shown, ax=axes, label="power (dB)")
plt.show()

# %%
# What to remember
# ----------------
# The error of the gains is the smallest that is possible, the Cramer-Rao bound, and is what the result says of itself.
# The image is as good as with the true gains. The strengths of the sources were never used.
bound = np.sqrt(np.trace(crb(gains, signals, A.to_dense(), sigma)).real) / np.linalg.norm(gains)
error = np.linalg.norm(result.gains - truth) / np.linalg.norm(truth)
stated = np.sqrt(np.mean(result.gains_std**2))
print(f"error {error:.4f}, stated {stated:.4f}, bound {bound:.4f}, reduced chi2 {result.chi2_reduced:.3f}")
assert error < 1.2 * bound
assert 0.8 < error / stated < 1.25
assert abs(result.chi2_reduced - 1) < 0.03
rows = [np.argmin(np.abs(directions - s).sum(axis=1)) for s in sources]
close = np.abs(maps["calibrated"].ravel()[rows] / maps["true gains"].ravel()[rows] - 1)
assert close.max() < 0.05
assert maps["raw"].max() < 0.2 * maps["calibrated"].max()
