"""
Waves around a kite, from measurements on a frame
=================================================
A plane wave passes a kite-shaped body, and the body answers with waves of its own. We measure the pressure on the skin
of the kite and on a square frame around it; what happens in between? The wave equation at one frequency decides. Plane
waves in all directions, and multipoles inside the kite for all that comes out of it, are fitted to the measurements,
and some three hundred numbers give the field to ten digits and more, with an error estimate of its own.
"""

# %%
# The scene
# ---------
# The real part of the pressure satisfies :math:`\Delta u + k^2 u = 0` outside the kite. With k = 40 the square is
# almost thirteen wavelengths wide. The truth is an incoming plane wave and the waves of four sources hidden in the
# kite, with phases as if the plane wave had set them off; the solver knows neither.
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.path import Path
from scipy.special import hankel1

from sciml import PDE, Dirichlet, Region, solve_pde

k, direction = 40.0, np.array([np.cos(0.6), np.sin(0.6)])
sources = np.array([[0.06, 0.0], [0.0, 0.08], [0.0, -0.08], [0.1, 0.03]])


def angles(n):
    return 2 * np.pi * (np.arange(n) + 0.5) / n


def kite(t):
    """Points of the outline."""
    return 0.35 * np.stack([np.cos(t) + 0.65 * np.cos(2 * t) - 0.45, 1.5 * np.sin(t)], axis=1)


def pressure(X):
    """Incoming wave and answer of the body, real part."""
    answers = hankel1(0, k * np.linalg.norm(X[:, None, :] - sources, axis=2)) @ np.exp(1j * k * sources @ direction)
    return (np.exp(1j * k * X @ direction) - 1.2 * answers).real


# %%
# The problem and its solution
# ----------------------------
# The domain is a square without the kite; its boundary are points of both, on which a function gives the data. One call
# follows, and the report says what it took.
shape = Path(kite(angles(3000)))


def inside(X):
    return ~shape.contains_points(X)


def boundary(n):
    m = max(10, n // 5)
    s, one = 2 * (np.arange(m) + 0.5) / m - 1, np.ones(m)
    square = [np.stack(side, axis=1) for side in ((s, -one), (s, one), (-one, s), (one, s))]
    return np.concatenate([*square, kite(angles(m))])


domain = Region(box=[(-1, 1)] * 2, inside=inside, boundary=boundary)
pde = PDE(domain, operator={(2, 0): 1.0, (0, 2): 1.0, (0, 0): k**2}, conditions=[Dirichlet(pressure)])
sol = solve_pde(pde, method="joint")
print(sol)
print(sol.report["why"])

# %%
# The field
# ---------
# Incoming and answering waves make a pattern of beams and shadows. The error against the truth is of the size that the
# solver states.
axis = np.linspace(-1, 1, 301)
X = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
free = inside(X)
u, truth = np.full(len(X), np.nan), np.full(len(X), np.nan)
u[free], truth[free] = sol(X[free]), pressure(X[free])
error = np.linalg.norm(u[free] - truth[free]) / np.linalg.norm(truth[free])

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.4), layout="constrained")
view = {"origin": "lower", "extent": (-1, 1, -1, 1), "interpolation": "bilinear"}
image = left.imshow(u.reshape(301, 301).T, cmap="RdBu_r", vmin=-2, vmax=2, **view)
figure.colorbar(image, ax=left, shrink=0.85, label="pressure (units of the incoming wave)")
left.annotate("", -0.72 * direction, -0.98 * direction, arrowprops={"width": 2, "headwidth": 9, "color": "k"})
left.set_title("Pressure around the body")
size = np.log10(np.maximum(np.abs(u - truth), 1e-16)).reshape(301, 301).T
image = right.imshow(size, cmap="magma", vmin=-16, vmax=-12, **view)
figure.colorbar(image, ax=right, shrink=0.85, label="log10 of the error (units of the incoming wave)")
right.set_title(f"Error against the truth: {error:.0e}, stated {sol.error_estimate:.0e}")
for ax in (left, right):
    ax.fill(*kite(angles(400)).T, color="0.25" if ax is left else "0.9", zorder=3)
    ax.set(xlabel="x (units of length)", ylabel="y (units of length)", xlim=(-1, 1), ylim=(-1, 1))
plt.show()

# %%
# What to remember
# ----------------
# Where an equation has waves of its own, they are the features to take: their number grows with the wave number, not
# with its square. Obstacles add a few multipoles each. No mesh, no absorbing layer, and a certificate.
assert sol.status == "converged"
assert error < 1e-9
assert error < 10 * sol.error_estimate
assert sol.report["n_features"] < 500
