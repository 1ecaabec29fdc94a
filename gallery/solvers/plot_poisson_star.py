"""
A star needs no mesh to be solved to rounding
=============================================
A membrane is stretched over a frame with five petals and loaded by a force that oscillates. A finite-element code
would first mesh the star; here the shape enters by points alone, a test for the inside and points of the frame. The
solver takes samples of the load, finds its two frequencies, and fits waves under slowly varying envelopes to the
equation and the frame at once, by one least-squares problem. How good is the answer? The solver compares it with a
richer one, tries it at fresh points, and states an error, which we check against the truth and at every accuracy on
the way.
"""

# %%
# The star
# --------
# In polar coordinates the frame is :math:`r = 0.7 + 0.2 \cos 5\varphi`. The truth :math:`u = \sin 20x \cos 12y +
# e^{x-y}` gives the load :math:`\Delta u` and the values on the frame.
import matplotlib.pyplot as plt
import numpy as np

from sciml import PDE, Dirichlet, Region, solve_pde
from sciml.solvers.gp_pde.plotting import plot_error


def radius(phi):
    return 0.7 + 0.2 * np.cos(5 * phi)


def inside(X):
    return np.hypot(X[:, 0], X[:, 1]) < radius(np.arctan2(X[:, 1], X[:, 0]))


def u(X):
    return np.sin(20 * X[:, 0]) * np.cos(12 * X[:, 1]) + np.exp(X[:, 0] - X[:, 1])


def load(X):
    return -544 * np.sin(20 * X[:, 0]) * np.cos(12 * X[:, 1]) + 2 * np.exp(X[:, 0] - X[:, 1])


phi = np.linspace(0, 2 * np.pi, 400, endpoint=False)
frame = radius(phi)[:, None] * np.stack([np.cos(phi), np.sin(phi)], axis=1)
star = Region(box=[(-0.9, 0.9)] * 2, inside=inside, boundary=frame)
pde = PDE(domain=star, operator={(2, 0): 1.0, (0, 2): 1.0}, source=load, conditions=[Dirichlet(u)])

# %%
# The solution
# ------------
# One call, and no frequency given. The report says how it was solved and from how many features.
sol = solve_pde(pde)
print(sol)
print(sol.report["why"])
sol.plot()
plt.show()

# %%
# The error
# ---------
# The difference to the truth is a few units of the last digit everywhere, on the frame and between its points as
# well.
plot_error(sol, u)
plt.show()

# %%
# Certificate against truth
# -------------------------
# Without carriers the same least squares has only polynomials, and needs many. Allowed more and more of them, it is
# wrong, then roughly right, and says at each stage how wrong: the points follow the diagonal. Hollow points are
# those that the solver itself does not call converged.
axis = np.linspace(-0.9, 0.9, 300)
X = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
X = X[inside(X)]


def true_error(solution):
    return np.linalg.norm(solution(X) - u(X)) / np.linalg.norm(u(X))


polynomials = [solve_pde(pde, method="chebyshev", max_features=n, on_failure="ignore") for n in (150, 500, 900, 1500)]
figure, ax = plt.subplots(figsize=(6, 5), layout="constrained")
ax.loglog([1e-16, 10], [1e-16, 10], "k:", label="estimate = error")
for s, marker in [(sol, "o"), *((s, "s") for s in polynomials)]:
    error = true_error(s)
    ax.loglog(error, s.error_estimate, f"k{marker}", markersize=8, markerfacecolor="k" if s.converged else "w")
    place = {"xytext": (8, -10), "textcoords": "offset points", "fontsize": "small"}
    ax.annotate(f"{s.report['n_features']} features", (error, s.error_estimate), **place)
    print(f"{s.report['n_features']:5d} features: error {error:.0e}, estimated {s.error_estimate:.0e}, {s.status}")
ax.plot([], [], "ko", label="with carriers")
ax.plot([], [], "ks", markerfacecolor="w", label="polynomials only")
ax.set(xlabel="true relative L2 error (dimensionless)", ylabel="error estimate (dimensionless)", xlim=(1e-16, 1e3))
ax.legend()
plt.show()

# %%
# What to remember
# ----------------
# No mesh, few features, and an error estimate that holds where the answer is poor as well as where it is good. For
# rough loads or corners that point inwards take finite elements: waves and polynomials need a smooth solution.
assert sol.status == "converged"
assert true_error(sol) < 1e-11
assert sol.report["n_features"] < 500
for s in [sol, *polynomials]:
    assert true_error(s) < 10 * s.error_estimate
    assert not s.converged or true_error(s) < 1e-8
