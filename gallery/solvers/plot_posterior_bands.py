"""
Bands that hold the truth, from a noisy source
==============================================
The force on a string is measured at sixty random places, each value off by a tenth of the force's usual size. A method
that trusts its data would carry that noise into the deflection and not say so. `sciml.solve_pde` with
``noise="learn"`` finds how loud the noise is, which frequency is in it, and how smooth its envelope may be, all from
the same sixty numbers. It returns a band of two standard deviations, which we hold against the truth: first by eye,
then by counting over twenty repetitions.
"""

# %%
# The measurements
# ----------------
# We solve :math:`u'' = f` on [0, 6]; the truth is a beat of forty radians a unit. The solver sees the points, and the
# deflection at the two ends.
import matplotlib.pyplot as plt
import numpy as np

from sciml import PDE, Box, Dirichlet, solve_pde

length, omega, part = 6.0, 40.0, 0.10


def u(X):
    return np.sin(omega * X[:, 0]) * np.sin(np.pi * X[:, 0] / length)


def f(X):
    x, k = X[:, 0], np.pi / length
    return 2 * omega * k * np.cos(omega * x) * np.cos(k * x) - (omega**2 + k**2) * u(X)


def solve(seed, n=60):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, length, (n, 1))
    values = f(X) + part * np.std(f(X)) * rng.standard_normal(n)
    pde = PDE(Box([(0, length)]), {2: 1.0}, (X, values), [Dirichlet(u)])
    return solve_pde(pde, noise="learn"), X, values


sol, X, values = solve(0)
print(sol, sol.report["noise"], sol.report["carriers"])

# %%
# The band
# --------
# Above, the force: its samples and the truth between them. Below, the deflection in the middle of the string, with the
# band of two standard deviations.
x = np.linspace(0, length, 1500)[:, None]
figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained")
above.plot(x, f(x), color="0.75", lw=0.8, label="truth")
above.plot(X[:, 0], values, "k.", ms=5, label="noisy samples")
above.set(xlabel="x (units of length)", ylabel="force f", xlim=(0, length))
above.legend(loc="upper right")
window = np.linspace(2.5, 3.5, 500)[:, None]
mean, std = sol(window), sol.std(window)
below.fill_between(window[:, 0], mean - 2 * std, mean + 2 * std, color="C0", alpha=0.3, lw=0, label="two sd")
below.plot(window, mean, "C0", lw=1, label="mean")
below.plot(window, u(window), "k--", lw=1, label="truth")
below.set(xlabel="x (units of length)", ylabel="deflection u", xlim=(2.5, 3.5))
below.legend(loc="upper right")
plt.show()

# %%
# Counting
# --------
# A band of 95 per cent ought to hold 95 per cent of the truth. Twenty repetitions, each with new points and new noise:
# the share of the string on which the band holds, and the error beside the one that the solver states.
share, error, stated = [], [], []
for seed in range(20):
    sol = solve(seed)[0]
    gap = np.abs(sol(x) - u(x))
    share.append(np.mean(gap < 1.96 * sol.std(x)))
    error.append(np.linalg.norm(gap) / np.linalg.norm(u(x)))
    stated.append(sol.error_estimate)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
left.bar(np.arange(20), share, color="C0")
left.axhline(0.95, color="k", ls="--", lw=1)
left.set(xlabel="repetition", ylabel="share of the string inside the band", ylim=(0, 1.02), xticks=range(0, 20, 5))
right.plot(stated, error, "o")
top = 1.1 * max(error + stated)
right.plot([0, top], [0, top], "k--", lw=1)
right.set(xlabel="relative error stated", ylabel="relative error", xlim=(0, top), ylim=(0, top))
plt.show()

# %%
# What to remember
# ----------------
# Noise, frequency and smoothness are learned from the data, and the band that follows neither flatters nor frightens.
print(f"the band holds {np.mean(share):.3f} of the truth; the error is {np.mean(error):.1e}")
assert 0.88 < np.mean(share) < 0.995
assert np.mean(error) < 0.1
assert np.max(np.array(error) / np.array(stated)) < 4
