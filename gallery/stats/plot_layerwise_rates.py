"""
On a small operator network layer-wise learning rates make no difference
========================================================================
Training with one learning rate treats all layers alike. Temperature balancing gives layers whose eigenvalues have a
light tail, said to be undertrained, a larger rate; gains were published for image classifiers. We learn the solution
operator of a one-dimensional Darcy flow, from the permeability of the ground to its pressure, with a DeepONet: by a
cosine schedule, and by `LayerwiseLR` on top of it, from the same starts and with the same batches. Rates of layers then
differ up to threefold, and errors by no more than a few per cent either way. Measure in pairs before you add a knob.
"""

# %%
# The data and the network
# ------------------------
# -(a u')' = 1 on the unit interval with u = 0 at both ends has a solution in closed form; log a is a sum of four random
# sines. The branch reads log a at 64 points, the trunk a place; their product is u there.
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats
from scipy.integrate import cumulative_trapezoid
from torch import nn

from sciml.stats.spectra import LayerwiseLR, param_groups

torch.set_num_threads(1)
x = np.linspace(0, 1, 64)
places = torch.tensor(x[:, None], dtype=torch.float32)


def darcy(count, rng):
    """Return log-permeabilities and pressures in units of their standard deviation."""
    waves = np.arange(1, 5)
    log_a = (0.7 * rng.standard_normal((count, 4)) / waves) @ np.sin(np.pi * np.outer(waves, x))
    resistance = cumulative_trapezoid(np.exp(-log_a), x, initial=0)
    moment = cumulative_trapezoid(x * np.exp(-log_a), x, initial=0)
    u = resistance * moment[:, -1:] / resistance[:, -1:] - moment
    return torch.tensor(log_a, dtype=torch.float32), torch.tensor(u / u.std(), dtype=torch.float32)


def perceptron(*widths):
    """Return linear layers with GELU between them."""
    pairs = zip(widths, widths[1:], strict=False)
    return nn.Sequential(*[part for m, n in pairs for part in (nn.Linear(m, n), nn.GELU())][:-1])


class DeepONet(nn.Module):
    """A branch for the function and a trunk for the place."""

    def __init__(self, width=64):
        super().__init__()
        self.branch, self.trunk = perceptron(64, *[width] * 4), perceptron(1, *[width] * 3)

    def forward(self, log_a):
        """Return the pressures at all places."""
        return self.branch(log_a) @ self.trunk(places).T


def trained(seed, rate=8e-3, epochs=80, **layerwise):
    """Return the mean relative error on 200 further functions, and the rates of all groups at each epoch."""
    log_a, u = darcy(520, np.random.default_rng(seed))
    torch.manual_seed(seed)
    network = DeepONet()
    groups = param_groups(network, rate)
    optimizer = torch.optim.Adam(groups)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    if layerwise:
        scheduler = LayerwiseLR(optimizer, network, scheduler, every=10, **layerwise)
    rates = []
    for _ in range(epochs):
        for batch in torch.randperm(320).split(80):
            optimizer.zero_grad()
            (network(log_a[batch]) - u[batch]).square().mean().backward()
            optimizer.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
        scheduler.step()
    with torch.no_grad():
        error = (network(log_a[320:]) - u[320:]).norm(dim=1) / u[320:].norm(dim=1)
    return float(error.mean()), np.array(rates), [group["layer"] for group in groups]


# %%
# Six starts, three ways
# ----------------------
# The base rate 0.008 was the best of 0.004, 0.008, 0.016 and 0.032, with factors and without, on other seeds. The map
# spends its range from 0.5 to 1.5 even where exponents differ by noise; ``shrink=True`` takes back what their standard
# errors explain.
ways = {"linear": {"rule": "linear"}, "linear, shrunken": {"rule": "linear", "shrink": True}}
seeds = range(6)
plain = np.array([trained(seed)[0] for seed in seeds])
runs = {way: [trained(seed, **options) for seed in seeds] for way, options in ways.items()}
change = {way: 100 * (np.array([run[0] for run in each]) / plain - 1) for way, each in runs.items()}
half = {way: stats.t.ppf(0.975, 5) * d.std(ddof=1) / np.sqrt(6) for way, d in change.items()}
print(f"error of the cosine schedule: {plain.mean():.4f}, standard deviation over the starts {plain.std(ddof=1):.4f}")
for way, d in change.items():
    print(f"{way:>17}: {d.mean():+.1f} +- {half[way]:.1f} per cent")

# %%
# What the layers got, and what came of it
# ----------------------------------------
# On the left the factors of one training; the trunk's first layer has one input, no exponent, and the global rate. On
# the right the change of the error for every start, and the mean with its 95 % interval.
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
_, rates, layers = runs["linear"][0]
cosine = 8e-3 * 0.5 * (1 + np.cos(np.pi * np.arange(80) / 80))
marks = ["-o", "-s", "-^", "-D", "--o", "--s", "--^"]
for k, (layer, mark) in enumerate(zip(layers, marks, strict=True)):
    shade = str(0.15 * (k % 4))
    axes[0].plot(rates[:, k] / cosine, mark, color=shade, markevery=(k, 12), markersize=4, linewidth=1, label=layer)
axes[0].set(xlabel="epoch", ylabel="rate of the layer / global rate")
axes[0].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
for k, (way, d) in enumerate(change.items()):
    axes[1].plot(np.full(6, k) - 0.1, d, "o", color="0.6")
    axes[1].errorbar(k + 0.1, d.mean(), half[way], fmt="ks", capsize=4)
axes[1].axhline(0, color="0.7", linewidth=1)
axes[1].set_xticks([0, 1], list(change))
axes[1].set(ylabel="change of the error (per cent)", xlim=(-0.5, 1.5))
plt.show()

# %%
# What to remember
# ----------------
# Rates differed threefold between layers, and errors hardly at all: here the difference is lost in what starts do.
factors = rates[10:] / cosine[10:, None]
assert factors.min() < 0.51
assert factors.max() > 1.49
assert all(abs(d.mean()) < half[way] + 3 for way, d in change.items())
assert all(abs(d.mean()) < 8 for d in change.values())
