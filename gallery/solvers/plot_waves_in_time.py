"""
A string is followed over many reflections
==========================================
A pulse runs along a string between two walls and comes back upside down, again and again. Time is one more dimension
here: the wave equation is solved on slabs of space and time, each of which starts where the last one ended, and
nothing is ever stepped. Errors travel too. How large are they after many reflections, and does the solver know?
"""

# %%
# The string
# ----------
# :math:`u_{tt} = u_{xx}` on :math:`[0, 1]` with :math:`u = 0` at both walls. The pulse starts in the middle and moves
# to the right; what d'Alembert wrote down in 1747 is the truth at all times: two trains of pulses, one the mirror
# image of the other.
import matplotlib.pyplot as plt
import numpy as np

from sciml import PDE, Box, Dirichlet, Initial, solve_pde

WIDTH, END = 0.1, 10.0


def wrapped(s):
    return np.mod(s + 0.5, 2) - 1


def pulse(s):
    return np.exp(-((wrapped(s) / WIDTH) ** 2) / 2)


def u(X):
    return pulse(X[:, 0] - X[:, 1]) - pulse(-X[:, 0] - X[:, 1])


def velocity(X):
    right, left = X[:, 0] - X[:, 1], -X[:, 0] - X[:, 1]
    return (wrapped(right) * pulse(right) - wrapped(left) * pulse(left)) / WIDTH**2


pde = PDE(
    Box([(0, 1), (0, END)]),
    operator={(0, 2): 1.0, (2, 0): -1.0},
    conditions=[Initial(u, velocity), Dirichlet(0.0, where=[(0, "lower"), (0, "upper")])],
)

# %%
# The solution
# ------------
# The solver decides by itself into how many slabs to cut: the frequencies in time follow from those of the pulse in
# space, though no datum shows them.
sol = solve_pde(pde)
slabs = sol.report["slabs"]
print(f"{sol.status}: {len(slabs)} slabs, {sol.report['n_features']} features, error estimate {sol.error_estimate:.1e}")

x, t = np.linspace(0, 1, 161), np.linspace(0, END, 601)
grid = np.stack(np.meshgrid(x, t), axis=-1).reshape(-1, 2)
values = sol(grid).reshape(len(t), len(x))
error = np.abs(values - u(grid).reshape(values.shape))

fig, (left, right) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
picture = left.pcolormesh(t, x, values.T, cmap="RdBu_r", vmin=-1, vmax=1, rasterized=True)
fig.colorbar(picture, ax=left, label="u")
for slab in slabs[1:]:
    left.axvline(slab["start"], color="0.5", lw=0.6, ls=":")
left.set(ylabel="x", title="The pulse returns upside down; dotted lines part the slabs")
picture = right.pcolormesh(t, x, np.log10(error + 1e-17).T, cmap="viridis", vmin=-15, vmax=-8, rasterized=True)
fig.colorbar(picture, ax=right, label="log10 of the error")
right.set(xlabel="t", ylabel="x", title="Error, by its power of ten")
plt.show()

# %%
# What the solver says of its error
# ---------------------------------
# A slab has its own error, and the one that came with its initial data. The second is followed: an error drawn from the
# posterior is sent through the slabs by the same equation, and its growth is measured. A string neither damps nor
# amplifies errors, so they add up. The energy of the string must stay the same, and how far it drifts is a check that
# needs no truth.
middle = [(s["start"] + s["stop"]) / 2 for s in slabs]
size = np.sqrt(np.mean(values**2))
true = [np.sqrt(np.mean(error[(t >= s["start"]) & (t <= s["stop"])] ** 2)) / size for s in slabs]
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.semilogy(middle, [s["error_estimate"] + s["travelled"] for s in slabs], "o-", label="stated")
ax.semilogy(middle, [s["error_estimate"] for s in slabs], "s:", color="0.6", label="of that the slab's own")
ax.semilogy(middle, true, "k.-", label="true")
ax.axhline(sol.report["drift"]["energy"], color="C3", lw=0.8, ls="--", label="drift of the energy")
ax.set(xlabel="t", ylabel="relative error", ylim=(1e-11, 1e-7))
ax.legend(fontsize="small", ncols=2, loc="upper left")
plt.show()

# %%
# A pure tone needs no slabs
# --------------------------
# Where a few frequencies are all there is, carriers hold them over any length of time: a hundred periods of
# two standing waves and more on one slab.
omega = np.pi * np.array([2, 5])


def tones(X):
    return sum(np.sin(w * X[:, 0]) * np.cos(w * X[:, 1]) for w in omega)


long = PDE(
    Box([(0, 1), (0, 100)]),
    operator={(0, 2): 1.0, (2, 0): -1.0},
    conditions=[Initial(tones, 0.0), Dirichlet(0.0, where=[(0, "lower"), (0, "upper")])],
)
steady = solve_pde(long)
X = np.random.default_rng(0).random((1000, 2)) * [1, 100]
difference = np.linalg.norm(steady(X) - tones(X)) / np.linalg.norm(tones(X))
print(f"{steady.status} from {steady.report['n_features']} features, true relative error {difference:.0e}")
