"""
An unknown conductivity, read from a few temperatures
=====================================================
Heat flows along a rod whose conductivity varies from place to place, and nobody has measured it. What is known is how
strongly the rod is heated, the temperature at its two ends, and sixty noisy thermometer readings between. The equation
ties all that together: were the conductivity another, the temperatures would be. `sciml.solve_pde` expands its
logarithm in polynomials, learns how smooth it must be, and returns it as a function with a band.
"""

# %%
# The rod
# -------
# The equation is :math:`(\kappa u')' = f`, that is :math:`\kappa u'' + \kappa' u' = f`. The name of the parameter
# stands for its value; a callable that takes it finds the slope in ``kappa.gradient``.
import matplotlib.pyplot as plt
import numpy as np

from sciml.solvers.gp_pde import PDE, Box, Dirichlet, UnknownFunction, solve_pde

noise = 0.01


def kappa(x):
    return 1 + 0.5 * np.sin(3 * x)


def u(X):
    return np.sin(2 * X[:, 0]) + 0.3 * X[:, 0]


def f(X):
    x = X[:, 0]
    return -4 * kappa(x) * np.sin(2 * x) + 1.5 * np.cos(3 * x) * (2 * np.cos(2 * x) + 0.3)


def solve(seed, n=60):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 3, (n, 1))
    y = u(X) + noise * rng.standard_normal(n)
    pde = PDE(
        Box([(0, 3)]),
        operator={2: "kappa", 1: lambda X, kappa: kappa.gradient[:, 0]},
        source=f,
        conditions=[Dirichlet(u)],
        parameters={"kappa": UnknownFunction(0.1, 10.0)},
        observations=(X, y),
    )
    return solve_pde(pde, on_failure="ignore"), X, y


sol, X, y = solve(0)
print(sol, "noise found", sol.report["noise"]["observations"])

# %%
# What the thermometers say
# -------------------------
# Left, the readings and the temperature that obeys the equation. Right, the conductivity with its band of two standard
# deviations; it is widest where the temperature is level, since a rod through which no heat flows tells nothing.
x = np.linspace(0, 3, 300)
mean, std = sol.parameters["kappa"](x), sol.parameters_std["kappa"](x)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(X[:, 0], y, "k.", ms=5, label="readings")
left.plot(x, sol(x[:, None]), "C0", lw=1, label="temperature")
left.set(xlabel="x (units of length)", ylabel="temperature u")
left.legend()
right.fill_between(x, mean - 2 * std, mean + 2 * std, color="C1", alpha=0.3, lw=0, label="two sd")
right.plot(x, mean, "C1", lw=1, label="learned")
right.plot(x, kappa(x), "k--", lw=1, label="truth")
right.set(xlabel="x (units of length)", ylabel=r"conductivity $\kappa$", ylim=(0, 2.2))
right.legend()
plt.show()

# %%
# Twelve rods
# -----------
# The same rod with new readings twelve times: how far the learned conductivity is off in units of its band. Standard
# deviations that are right give a spread of about one.
z = []
for seed in range(12):
    again = solve(seed)[0]
    z.append((again.parameters["kappa"](x) - kappa(x)) / again.parameters_std["kappa"](x))
z = np.array(z)
figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
axis.plot(x, z.T, color="C1", lw=0.7, alpha=0.7)
axis.axhspan(-1.96, 1.96, color="0.9", zorder=0)
axis.set(xlabel="x (units of length)", ylabel="error / standard deviation", xlim=(0, 3))
plt.show()

# %%
# What to remember
# ----------------
# A function that nobody measured is found to a few per cent, and its band is honest.
inside = np.mean(np.abs(z) < 1.96)
print(f"the band holds {inside:.3f} of the truth")
assert sol.status == "converged"
assert np.linalg.norm(mean - kappa(x)) < 0.08 * np.linalg.norm(kappa(x))
assert 0.85 < inside <= 1
