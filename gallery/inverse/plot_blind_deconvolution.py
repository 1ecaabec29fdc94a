"""
Patterns of light part a blur from the picture behind it
========================================================
A camera was shaken during the exposure: the picture is blurred, and nobody knows along which path. From one picture
the question has no answer, because a sharp scene behind a long path and a blurred scene behind none look alike. So the
scene is lit by random patterns of dots, which are known, ten exposures with the same path. In the Fourier domain the
path is a gain for each frequency, unknown but the same in all of them: a self-calibration. We find path and scene
together.
"""

# %%
# Ten exposures
# -------------
# A photograph of 64 x 64 pixels between 0 and 1, each pixel lit or not by chance, blurred by a path within 9 x 9
# pixels, and noise of a third of a per cent.
import matplotlib.pyplot as plt
import numpy as np

from sciml.datasets import photographs
from sciml.inverse.calibration import blind_deconvolve

rng = np.random.default_rng(0)
N, p, sigma = 64, 10, 0.003
scene = photographs(["camera"], size=N)[0]
time = np.linspace(0, 1, 60)
path = np.zeros((9, 9))
np.add.at(path, ((8 * time).round().astype(int), (4 + 4 * np.sin(5 * time)).round().astype(int)), 1 / 60)

spectrum = np.fft.fft2(np.roll(np.pad(path, (0, N - 9)), (-4, -4), (0, 1)))
patterns = rng.integers(0, 2, (p, N, N)).astype(float)
lit = np.fft.ifft2(spectrum * np.fft.fft2(patterns * scene)).real + sigma * rng.standard_normal((p, N, N))

# %%
# Path and scene
# --------------
# The path is searched for within a window of 9 x 9 around zero. Its sum is set to one; so is the mean of the blur.
# Four pixels were never lit, and stay black.
options = {"model": "repeated", "kernel_size": (9, 9), "kernel_centered": True, "gauge": "sum"}
result = blind_deconvolve(lit, patterns, **options)
print(result.status, result.method, "noise", result.noise_std)

pictures = [
    ("one exposure", lit[0], 1),
    ("mean exposure, twice as bright", 2 * lit.mean(axis=0), 1),
    ("scene, found", result.signals, 1),
    ("scene, true", scene, 1),
    ("path, found", result.kernel, path.max()),
    ("path, true", path, path.max()),
]
figure, axes = plt.subplots(1, 6, figsize=(13, 2.7), layout="constrained")
for ax, (title, picture, top) in zip(axes, pictures, strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=top)
    ax.set_title(title, fontsize="small")
    ax.set_axis_off()
plt.show()

# %%
# How sure it is
# --------------
# Every tap has a standard deviation. Error over that, for all 81: as a normal number should be.
scores = ((result.kernel - path) / result.kernel_std).ravel()
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
edges = np.linspace(-4, 4, 17)
ax.hist(scores, edges, color="0.75", edgecolor="k", label="81 taps")
middle = np.linspace(-4, 4, 200)
density = 81 * 0.5 * np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
ax.plot(middle, density, color="#d55e00", label="normal")
ax.set(xlabel="error over stated standard deviation", ylabel="taps (number)")
ax.legend(frameon=False)
plt.show()

# %%
# What to remember
# ----------------
# The path comes out within half a per cent, and says so; the scene is sharper than any exposure. Behind one pattern,
# or none, neither would be determined: it is the patterns that part them.
blur = np.sqrt(np.mean((2 * lit.mean(axis=0) - scene) ** 2))
sharp = np.sqrt(np.mean((result.signals - scene) ** 2))
print(f"scene: {blur:.3f} blurred, {sharp:.3f} found; path: {np.abs(result.kernel - path).max() / path.max():.4f}")
assert np.abs(result.kernel - path).max() < 0.01 * path.max()
assert sharp < 0.4 * blur
assert 0.7 < np.sqrt(np.mean(scores**2)) < 1.3
assert abs(result.noise_std / sigma - 1) < 0.05
