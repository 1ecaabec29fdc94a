"""
Few unknowns are the gain, and time is not
==========================================
How much work does a digit cost? A string is shaken a hundred times along its length, and a second one carries a slow
wave, a faster one and a faint ripple. Five kinds of method find the deflection from the force: finite differences,
Chebyshev collocation, a neural network with random Fourier features, the published Gaussian-process objective GP-HM,
and `sciml.solve_pde`. We hold their errors against computing time and against the number of unknowns. The result is
not one of speed: high-order differences and Chebyshev collocation take milliseconds here, `sciml.solve_pde` a tenth of
a second, most of it to find the frequencies. What it saves is unknowns, a few dozen against several hundred.
"""

# %%
# Two problems
# ------------
# :math:`u'' = f` on :math:`[0, 2\pi]` with the values of :math:`u` at both ends. A problem is a list of amplitudes,
# frequencies and phases, so that the truth is known. Time is that of the processor, in seconds, on one thread.
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.polynomial import Chebyshev
from scipy.linalg import solve_banded

from sciml import PDE, Box, Dirichlet, solve_pde

torch.set_num_threads(1)
length = 2 * np.pi
grid = np.linspace(0, length, 3001)[:, None]


class Waves:
    def __init__(self, *parts):
        self.size, self.omega, self.phase = np.array(parts).T

    def u(self, X):
        return (self.size * np.sin(X * self.omega + self.phase)).sum(axis=1)

    def f(self, X):
        return (-self.size * self.omega**2 * np.sin(X * self.omega + self.phase)).sum(axis=1)

    def error(self, values, X=grid):
        return np.linalg.norm(values - self.u(X)) / np.linalg.norm(self.u(X))

    def pde(self):
        return PDE(domain=Box([(0, length)]), operator={(2,): 1.0}, source=self.f, conditions=[Dirichlet(self.u)])


problems = {
    r"$\sin 100x$": Waves((1, 100, 0)),
    r"$\sin x + 0.1\,\sin 20x + 0.02\,\cos 100x$": Waves((1, 1, 0), (0.1, 20, 0), (0.02, 100, np.pi / 2)),
}


def timed(solve):
    """Run three times; return the answer and the median time."""
    times = []
    for _ in range(3):
        start = time.process_time()
        answer = solve()
        times.append(time.process_time() - start)
    return answer, np.median(times)


# %%
# Classical methods
# -----------------
# Chebyshev collocation here is its fastest form: interpolate the force at Chebyshev points and integrate the series
# twice. Central differences have second order; Numerov's formula averages the force and has fourth.
def chebyshev(problem, n):
    v = Chebyshev.interpolate(lambda x: problem.f(x[:, None]), n - 1, domain=[0, length]).integ(2)
    first, last = problem.u(np.array([[0.0], [length]])) - v(np.array([0.0, length]))
    return lambda: v(grid[:, 0]) + first + (last - first) * grid[:, 0] / length


def differences(problem, n, numerov):
    X = np.linspace(0, length, n + 2)[:, None]
    f, ends = problem.f(X), problem.u(X[[0, -1]])
    right = (f[:-2] + 10 * f[1:-1] + f[2:]) / 12 if numerov else f[1:-1]
    right = right * (length / (n + 1)) ** 2
    right[[0, -1]] -= ends
    v = solve_banded((1, 1), np.repeat([[1.0], [-2.0], [1.0]], n, axis=1), right)
    return np.r_[ends[0], v, ends[1]], X


def classical(problem):
    """Return rows (unknowns, seconds, error) of the three."""
    rows = {"Chebyshev collocation": [], "finite differences, order 2": [], "finite differences, order 4": []}
    for n in (50, 100, 200, 280, 300, 320, 340, 360, 400, 500):
        v, seconds = timed(lambda n=n: chebyshev(problem, n))
        rows["Chebyshev collocation"].append((n, seconds, problem.error(v())))
    for n in (100, 300, 1000, 3000, 10_000, 30_000):
        for name, numerov in (("finite differences, order 2", False), ("finite differences, order 4", True)):
            answer, seconds = timed(lambda n=n, numerov=numerov: differences(problem, n, numerov))
            rows[name].append((n, seconds, problem.error(*answer)))
    return rows


# %%
# Ours
# ----
# Whatever tolerance is asked for, the first basis that holds the frequencies reaches nearly the last digit, so that
# the curve is a cliff. To see its edge the number of unknowns is capped.
def ours(problem):
    rows = []
    for n in (10, 20, 30, 40, 60, 80):
        sol, seconds = timed(lambda n=n: solve_pde(problem.pde(), max_features=n, on_failure="ignore"))
        rows.append((sol.report["n_features"], seconds, problem.error(sol(grid))))
    sol, seconds = timed(lambda: solve_pde(problem.pde()))
    rows.append((sol.report["n_features"], seconds, problem.error(sol(grid))))
    return sol, rows


# %%
# GP-HM
# -----
# The published objective takes the values on a grid of 400 points and the kernel of a Gaussian process for unknowns,
# and optimises them together. We take 400 steps; the paper takes 100,000. The error is measured on the grid, at each
# tenth step.
def gphm(problem, n_steps=400):
    rows, started = [], time.process_time()

    def watch(n_iter, step):
        if n_iter % 10 == 0 and n_iter:
            objective = step.value
            unknowns = sum(p.numel() for p in objective.parameters())
            error = problem.error(objective.values.numpy(), objective.X)
            rows.append((unknowns, time.process_time() - started, error))

    solve_pde(problem.pde(), method="gphm", max_iter=n_steps, callback=watch, on_failure="ignore")
    return rows


# %%
# A neural network
# ----------------
# Cosines and sines of 64 random frequencies feed a layer of 64 neurons. The loss is the relative residual at 400
# points, drawn anew in each of 800 steps, and the mismatch at the ends. With fixed points the loss would fall to 1e-14
# and the error stay near one: the network is free between the points.
def network(problem, n_steps=800, n_points=400):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    B = 50 * torch.randn(1, 64)
    net = torch.nn.Sequential(torch.nn.Linear(128, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    ends, size = np.array([[0.0], [length]]), np.sqrt(np.mean(problem.f(grid) ** 2))
    rows, started = [], time.process_time()

    def u(x):
        return net(torch.cat([torch.cos(x @ B), torch.sin(x @ B)], dim=1))[:, 0]

    for k in range(1, n_steps + 1):
        X = length * rng.random((n_points, 1))
        x = torch.tensor(X, dtype=torch.float32, requires_grad=True)
        (slope,) = torch.autograd.grad(u(x).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        residual = (curvature[:, 0] - torch.tensor(problem.f(X)).float()) / size
        mismatch = u(torch.tensor(ends).float()) - torch.tensor(problem.u(ends)).float()
        loss = residual.square().mean() + mismatch.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        if k % 20 == 0:
            with torch.no_grad():
                error = problem.error(u(torch.tensor(grid).float()).numpy())
            rows.append((sum(p.numel() for p in net.parameters()), time.process_time() - started, error))
    return rows


results, solutions = {}, {}
for name, problem in problems.items():
    solutions[name], rows = ours(problem)
    results[name] = {"solve_pde": rows} | classical(problem) | {"GP-HM": gphm(problem), "network": network(problem)}

# %%
# Error against time
# ------------------
# Towards the lower left is better. For the two optimised methods the line follows the steps; for the others every
# mark is a calculation of its own.
styles = {
    "solve_pde": ("#d55e00", "o", "-"),
    "Chebyshev collocation": ("#000000", "s", "--"),
    "finite differences, order 2": ("#56b4e9", "^", ":"),
    "finite differences, order 4": ("#0072b2", "v", ":"),
    "GP-HM": ("#009e73", "", "-"),
    "network": ("#cc79a7", "", "-."),
}
labels = {"solve_pde": "sciml.solve_pde", "network": "network, random Fourier features"}


def draw(column, xlabel):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
    for ax, (name, rows) in zip(axes, results.items(), strict=True):
        for method, (color, marker, line) in styles.items():
            values = np.array(rows[method])
            if column == 0 and not marker:  # a fixed number of unknowns: the last iterate alone
                values, marker = values[-1:], {"GP-HM": "D", "network": "P"}[method]
            label = labels.get(method, method)
            ax.loglog(values[:, column], values[:, 2], line, color=color, marker=marker, markersize=6, label=label)
        ax.set(xlabel=xlabel, title=f"u = {name}", ylim=(1e-14, 1e4))
        ax.grid(color="0.9")
    axes[0].set_ylabel("relative L2 error (dimensionless)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    plt.show()


draw(1, "computing time (s)")

# %%
# Error against unknowns
# ----------------------
# A frequency is worth a few unknowns to a method that knows it, and :math:`\pi` for each of its waves to one that does
# not: Chebyshev collocation needs three hundred before it sees anything at all. For the two optimised methods only the
# last step is drawn.
draw(0, "unknowns (number)")

# %%
# What to remember
# ----------------
# For a smooth problem on an interval whose source can be asked anywhere, and which can be resolved, take a classical
# method. Few unknowns pay where they multiply, in two and three dimensions; where samples are few or scattered; and
# where a posterior is wanted. GP-HM has the same prior, and takes ten thousand steps for values that could be had in
# closed form; in a few hundred it does not see the slow wave of the second string, whose force is faint. The network
# has had as many seconds and twenty times the unknowns, and does not come below half the size of the solution.
for name, rows in results.items():
    cost, sol = {}, solutions[name]
    for method, values in rows.items():
        exact = [row for row in values if row[2] < 1e-9]
        cost[method] = min(row[0] for row in exact) if exact else None
        unknowns, seconds, error = min(values, key=lambda row: row[2])
        print(f"{labels.get(method, method):32s} best error {error:.0e}, {unknowns} unknowns, {seconds:.0e} s")
    assert sol.status == "converged"
    assert cost["solve_pde"] < 0.3 * cost["Chebyshev collocation"]
    assert cost["finite differences, order 2"] is cost["GP-HM"] is cost["network"] is None
    assert rows["GP-HM"][-1][2] > 1e-3
    assert min(row[2] for row in rows["network"]) > 0.5
    assert rows["GP-HM"][-1][1] > 5 * rows["solve_pde"][-1][1]  # a few seconds against a fraction of one
    assert problems[name].error(sol(grid)) < 10 * sol.error_estimate
