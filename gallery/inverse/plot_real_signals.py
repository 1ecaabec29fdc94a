"""
Doubting the model is better than believing it
==============================================
Photographs are nearly smooth: seen through a block of eight by eight pixels, sixteen slow cosines explain nine tenths
of the amplitude, but not all. If the pixels of the camera differ in sensitivity, can their gains be found from
pictures alone? Maximum likelihood believes the sixteen cosines to the letter and takes edges for gains, an error that
no number of pictures removes. The default looks at its own residuals, sees that they are no noise, and trusts the data
only as far as they show that gains differ at all. We put gains on photographs and on scanned digits, and compare with
doing nothing.
"""

# %%
# A pattern on a photograph
# -------------------------
# Eight photographs of scikit-image in 1152 blocks; every block passes through the same 64 pixels, whose gains differ
# by 30 per cent. The model: the sixteen lowest cosines of a block.
import matplotlib.pyplot as plt
import numpy as np

from sciml.datasets import gain_pattern, measured_snapshots
from sciml.inverse.calibration import self_calibrate

blocks, A = measured_snapshots("patches", "dct", n=16)
gains = gain_pattern(64, spread=0.3, random_state=0)
y = gains * blocks

doubting = self_calibrate(y, A)
believing = self_calibrate(y, A, method="chain")
print(doubting.method, "-", doubting.reason)


def error(found, truth):
    """Relative error after the best common factor."""
    factor = np.vdot(found, truth) / np.vdot(found, found)
    return np.linalg.norm(factor * found - truth) / np.linalg.norm(truth)


# %%
# The pictures
# ------------
# The first photograph with the pattern, and after division by the gains that were found, scaled to the same mean.
def photograph(data):
    picture = data[:144].reshape(12, 12, 8, 8).transpose(0, 2, 1, 3).reshape(96, 96)
    return picture / picture.mean()


pictures = {
    "as it came": photograph(y),
    "model believed": photograph(believing.calibrate(y)),
    "model doubted (default)": photograph(doubting.calibrate(y)),
    "without pattern": photograph(blocks),
}
truth = pictures["without pattern"]
figure, axes = plt.subplots(1, 4, figsize=(11, 3.6), layout="constrained")
for ax, (title, picture) in zip(axes, pictures.items(), strict=True):
    rms = np.sqrt(np.mean((picture - truth) ** 2))
    ax.imshow(picture, cmap="gray", vmin=0, vmax=2)
    ax.set_title(f"{title}\nerror {100 * rms:.1f} % of the mean", fontsize="medium")
    ax.set_axis_off()
plt.show()

# %%
# More sources, more patterns
# ---------------------------
# Digits are no smooth images: sixteen cosines leave two fifths of their amplitude. Directions learned from other
# digits (or blocks) do better. The gains differ by 30 per cent, by 5, or not at all.
sources = [("patches", "dct"), ("patches", "pca"), ("digits", "dct"), ("digits", "pca")]
spreads = [0.3, 0.05, 0.0]
errors = {}
for source, basis in sources:
    z, B = measured_snapshots(source, basis, n=16)
    z = z[::2]
    for spread in spreads:
        d = gain_pattern(len(B), spread=spread, random_state=1)
        found = {"nothing done": np.ones(len(B)), "default": self_calibrate(d * z, B).gains}
        found["model believed"] = self_calibrate(d * z, B, method="chain").gains
        for name, g in found.items():
            errors[source, basis, spread, name] = error(g, d)

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.6), sharey=True, layout="constrained")
styles = {"nothing done": ("_", "k"), "model believed": ("s", "0.6"), "default": ("o", "#d55e00")}
for ax, spread in zip(axes, spreads, strict=True):
    for name, (marker, color) in styles.items():
        values = [errors[source, basis, spread, name] for source, basis in sources]
        ax.plot(range(4), np.maximum(values, 1e-3), marker, color=color, markeredgecolor="k", markersize=9, label=name)
    ax.set(title=f"gains differ by {100 * spread:.0f} %", yscale="log", ylim=(8e-4, 1.5))
    ax.set_xticks(range(4), [f"{source}\n{basis}" for source, basis in sources])
axes[0].set_ylabel("relative error of the gains")
axes[0].legend(frameon=False, loc="lower left")
plt.show()

# %%
# What to remember
# ----------------
# The default is never worse than leaving the data alone (errors below a thousandth are drawn there), and better
# wherever the pattern is strong; believing the model can be far worse than nothing. ``result.reason`` says which way
# was taken. A model that describes the signals well, such as directions learned from them, is worth more than any
# method.
for source, basis in sources:
    for spread in spreads:
        ours, nothing = (errors[source, basis, spread, name] for name in ("default", "nothing done"))
        assert ours <= 1.02 * nothing + 1e-3, f"{source}, {basis}, {spread}: {ours} against {nothing}"
    assert errors[source, basis, 0.3, "default"] < 0.8 * errors[source, basis, 0.3, "nothing done"] or basis == "dct"
assert errors["digits", "dct", 0.05, "model believed"] > 3 * errors["digits", "dct", 0.05, "nothing done"]
assert error(doubting.gains, gains) < 0.5 * error(np.ones(64), gains)
