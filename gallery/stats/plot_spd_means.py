"""
Means of ill-conditioned ellipses
=================================
A covariance of two channels is an ellipse. The entrywise mean of thin ellipses that point in different directions is
fat: it invents variance that no trial had. Means of curved geometries stay thinner, each in its own way. To compute
them is another matter: the usual iteration for the Bures-Wasserstein mean multiplies square roots and their inverses,
and loses as many digits as the condition number has. The iteration on factors needs no inverse: it takes line
segments, ellipses of no width, as they are.
"""

# %%
# Four means
# ----------
# Twelve ellipses of axes 1 and 0.1 in directions from 0 to 60 degrees, grey, and their means. `d` is the determinant of
# the mean over that of an ellipse.
import matplotlib.pyplot as plt
import numpy as np

from sciml.linalg.spd import bures_mean, spd_mean


def turned(angles, axes):
    """Return covariances of ellipses with these half axes."""
    frames = np.moveaxis(np.array([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]), 2, 0)
    return (frames * np.square(axes)) @ frames.swapaxes(-1, -2)


def outline(C, points=181):
    """Return the ellipse of a covariance."""
    s, U = np.linalg.eigh(C)
    t = np.linspace(0, 2 * np.pi, points)
    return (U * np.sqrt(np.maximum(s, 0))) @ np.array([np.cos(t), np.sin(t)])


ellipses = turned(np.deg2rad(np.linspace(0, 60, 12)), [1, 0.1])
kinds = {"euclid": "entrywise", "bw": "Bures-Wasserstein", "logeuclid": "log-Euclidean", "airm": "affine-invariant"}
means = {kind: spd_mean(ellipses, metric=kind).mean for kind in kinds}
swelling = {kind: np.linalg.det(M) / np.linalg.det(ellipses[0]) for kind, M in means.items()}

figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), sharey=True, layout="constrained")
for ax, (kind, title) in zip(axes, kinds.items(), strict=True):
    for C in ellipses:
        ax.plot(*outline(C), color="0.8", linewidth=0.8)
    ax.plot(*outline(means[kind]), color="C3", linewidth=2)
    ax.set(title=f"{title}\nd = {swelling[kind]:.1f}", aspect="equal", xlabel="channel 0")
axes[0].set_ylabel("channel 1")
plt.show()

# %%
# Thin, and thinner
# -----------------
# Thirty matrices of twelve channels that share their axes have a mean that can be written down: its root is the mean of
# their roots. The error counts every axis in units of the mean's own length along it. The usual iteration,
# M <- M^-1/2 (mean of (M^1/2 X M^1/2)^1/2)^2 M^-1/2, gets 200 steps.


def usual(X, steps=200):
    """Return the mean by square roots and their inverses."""
    M = X.mean(0)
    for _ in range(steps):
        s, U = np.linalg.eigh(M)
        root, inverse = (U * np.sqrt(np.maximum(s, 0))) @ U.T, (U / np.sqrt(np.maximum(s, 1e-300))) @ U.T
        t, V = np.linalg.eigh(root @ X @ root)
        mean = ((V * np.sqrt(np.maximum(t, 0))[:, None]) @ V.swapaxes(-1, -2)).mean(0)
        M = inverse @ mean @ mean @ inverse
        M = (M + M.T) / 2
    return M


rng = np.random.default_rng(0)
conditions = 10.0 ** np.arange(2, 13, 2)
error = {"usual": [], "factors": []}
for condition in conditions:
    Q = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    variances = np.geomspace(1, 1 / condition, 12) * np.exp(rng.standard_normal((30, 12)))
    X = (Q * variances[:, None]) @ Q.T
    X = (X + X.swapaxes(-1, -2)) / 2
    lengths = np.sqrt(variances).mean(0)  # of the mean's axes
    for name, M in {"usual": usual(X), "factors": bures_mean(X).mean}.items():
        error[name].append(np.linalg.norm((Q.T @ M @ Q) / np.outer(lengths, lengths) - np.eye(12)))

ax = plt.subplots(figsize=(6, 3.4), layout="constrained")[1]
for mark, (name, values) in zip("vo", error.items(), strict=True):
    ax.loglog(conditions, values, mark, label=name)
ax.set(xlabel="condition of the matrices", ylabel="relative error of the mean")
ax.legend()
plt.show()

# %%
# A segment and a disc have a mean that one can work out: they commute, so that its root is the mean of their roots.
segment_and_disc = np.array([np.diag([1.0, 0.0]), np.eye(2)])
known = np.diag([1.0, 0.25])
found = bures_mean(segment_and_disc).mean
print(found)

# %%
# What to remember
# ----------------
# The entrywise mean swells, that of Bures and Wasserstein a little, the others not at all. With factors the digits that
# the data have are kept at any condition.
assert swelling["euclid"] > 5 > 2 > swelling["bw"] > 1.1
assert abs(swelling["logeuclid"] - 1) + abs(swelling["airm"] - 1) < 1e-10
assert max(error["factors"]) < 1e-4
assert max(error["usual"]) > 1
assert np.abs(found - known).max() < 1e-10
