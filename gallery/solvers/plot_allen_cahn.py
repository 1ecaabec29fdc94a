"""
One equation, many patterns: Allen-Cahn
=======================================
Two phases of a metal, +1 and -1, share a plate whose rim is held in between, at 0. Each phase wants to spread and each
boundary between them costs energy. Which patterns are at rest? The Allen-Cahn equation has many answers, and the one
that a solver finds depends on where it starts. We ask four times, find four patterns to ten digits, and learn from one
number of each report how well it stands alone.
"""

# %%
# The equation
# ------------
# With phase u and width of a boundary eps, in units of the plate's side,
#
# .. math:: \epsilon^2 \Delta u + u - u^3 = 0, \qquad u = 0 \text{ on the rim.}
#
# The linear part is a dict, the nonlinear part a function of the points and of u.
import matplotlib.pyplot as plt
import numpy as np

from sciml import PDE, Box, Dirichlet, solve_pde

eps = 0.08
pde = PDE(
    Box([(0, 1), (0, 1)]),
    operator={(2, 0): eps**2, (0, 2): eps**2, (0, 0): 1.0},
    conditions=[Dirichlet(0.0)],
    nonlinear=lambda X, u: -(u**3),
)

# %%
# Four starts
# -----------
# A start only has to have the right shape. Products of sine waves with m and n halves along the sides lead to patterns
# with the same symmetry, though not always to the expected one: a single dome is drawn to an island with a shore. For
# one phase everywhere we start from a plateau.
starts = {
    "one phase": lambda X: np.prod(1 - (2 * X - 1) ** 8, axis=1),
    "two stripes": lambda X: np.sin(2 * np.pi * X[:, 0]) * np.sin(np.pi * X[:, 1]),
    "a chequerboard": lambda X: np.sin(2 * np.pi * X[:, 0]) * np.sin(2 * np.pi * X[:, 1]),
    "an island": lambda X: np.sin(np.pi * X[:, 0]) * np.sin(np.pi * X[:, 1]),
}
found = {name: solve_pde(pde, start=start, tol=1e-6) for name, start in starts.items()}
for sol in found.values():
    print(sol, sol.report["iterations"])

# %%
# The energy of a pattern
# -----------------------
# Its density is :math:`\tfrac{\epsilon^2}{2} |\nabla u|^2 + \tfrac14 (1 - u^2)^2`; derivatives of a solution are exact,
# and Gauss points integrate them.
nodes, weights = np.polynomial.legendre.leggauss(40)
nodes, weights = (nodes + 1) / 2, weights / 2
grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
area = np.outer(weights, weights).reshape(-1)


def energy(sol):
    steepness = sol.derivative(grid, (1, 0)) ** 2 + sol.derivative(grid, (0, 1)) ** 2
    return float(area @ (eps**2 / 2 * steepness + (1 - sol(grid) ** 2) ** 2 / 4))


energies = {name: energy(sol) for name, sol in found.items()}
alone = {name: sol.report["smallest_singular_value"] for name, sol in found.items()}

# %%
# The patterns
# ------------
# The more boundary, the higher the energy. The second number over each is the size of the eigenvalue of the linearised
# equation next to zero: the smaller it is, the less it takes to push the pattern over into another.
axis = np.linspace(0, 1, 101)
X = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
figure, axes = plt.subplots(1, 4, figsize=(14, 3.9), sharey=True, layout="constrained")
for ax, (name, sol) in zip(axes, found.items(), strict=True):
    u = sol(X).reshape(101, 101).T
    image = ax.imshow(u, origin="lower", extent=(0, 1, 0, 1), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="bilinear")
    ax.contour(axis, axis, u, levels=[-0.9, -0.6, -0.3, 0.3, 0.6, 0.9], colors="k", linewidths=0.5, alpha=0.6)
    ax.set_title(f"{name}\nenergy {energies[name]:.3f}, next to zero {alone[name]:.3f}", fontsize=10)
    ax.set(xlabel="x (sides of the plate)", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
axes[0].set_ylabel("y (sides of the plate)")
figure.colorbar(image, ax=axes, shrink=0.85, label="phase u")
plt.show()

# %%
# What to remember
# ----------------
# A certificate says that the equation holds and how accurate u is, not that there is no other solution. Where an
# equation has several, choose among them by ``start``, and read ``report["smallest_singular_value"]`` to see how near
# they lie to a fork.
mirrored = np.array([[0.3, 0.4], [0.7, 0.4]])
for name, sol in found.items():
    left, right = sol(mirrored)
    laplacian = sol.derivative(grid, (2, 0)) + sol.derivative(grid, (0, 2))
    u = sol(grid)
    assert sol.status == "converged", name
    assert np.abs(u).max() < 1, name
    assert np.isclose(left, right if name in ("one phase", "an island") else -right, atol=1e-6), name
    assert np.abs(eps**2 * laplacian + u - u**3).max() < 1e-4, name
assert found["one phase"](grid).min() > 0 > found["an island"](grid).min()
assert energies["one phase"] < energies["two stripes"] < energies["a chequerboard"] < energies["an island"] < 0.25
