"""
Which weights to drop is a question to the data, not to the spectrum
====================================================================
Pruning sets most weights of a trained network to zero. A published rule reads from the eigenvalues of each layer how
well it is trained, and takes more from layers whose exponent alpha is high. Simpler ways take the smallest weights of
every layer alike, of every row alike, or those whose product with the size of their input is smallest (Wanda). We train
small networks on handwritten digits, prune each in all these ways, the rule with either sign, and compare in pairs.
Here the simplest way wins; on a sentence encoder rows did, and the rule with its sign turned round. Hence
`compare_pruning` always reports all of them.
"""

# %%
# Eight networks, pruned in seven ways
# ------------------------------------
# Perceptrons with three hidden layers and 97 % of the test digits right. Every way sets the same number of weights to
# zero, and nothing is trained afterwards. ``eps`` is the spread of the ratios, positive as published.
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

from sciml.stats.spectra import compare_pruning, diagnose

digits = load_digits()
X, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)


def trained(seed):
    """Return a network and the rows of its training and test digits."""
    torch.manual_seed(seed)
    order = torch.randperm(len(X))
    train, test = order[:1200], order[1200:]
    widths = [64, 128, 128, 64, 10]
    layers = [part for m, n in zip(widths, widths[1:], strict=False) for part in (nn.Linear(m, n), nn.ReLU())]
    network = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
    for _ in range(40):
        for batch in train[torch.randperm(len(train))].split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(X[batch]), y[batch]).backward()
            optimizer.step()
    return network, train, test


torch.set_num_threads(1)
sparsities = [0.5, 0.6, 0.7, 0.8, 0.9]
scores = {}
for seed in range(8):
    network, train, test = trained(seed)
    # The last layer has ten rows, too few for an exponent: it is left as it is.
    names = ["0.weight", "2.weight", "4.weight"]
    alphas = dict(zip(names, diagnose(network, include=names).alpha_farms, strict=True))

    def right(pruned, rows=test):
        """Return the share of digits that a network reads right."""
        return float((pruned(X[rows]).argmax(1) == y[rows]).double().mean())

    for target in sparsities:
        table = compare_pruning(
            network, right, target, calibration=X[train], alphas=alphas, include=names, eps=(-0.4, -0.2, 0.2, 0.4)
        )
        for row in table.rows:
            scores.setdefault(row["name"], np.empty((8, len(sparsities))))[seed, sparsities.index(target)] = row[
                "score"
            ]

# %%
# Accuracy, and differences in pairs
# ----------------------------------
# On the right each network is compared with itself, pruned to 70 % uniformly; bars are 95 % intervals of the mean over
# the eight networks.
labels = {"uniform": "uniform", "row": "rows alike", "wanda": "Wanda"}
labels |= {f"eps={eps:g}": f"by alpha, eps={eps:g}" for eps in (-0.4, -0.2, 0.2, 0.4)}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
shades = ["0", "0.25", "0.25", "0.55", "0.55", "0.55", "0.55"]
for (name, label), mark, shade in zip(labels.items(), "osD<v^>", shades, strict=True):
    line = "-" if "eps" not in name else "--" if "-" in name else ":"
    axes[0].plot(100 * np.array(sparsities), 100 * scores[name].mean(0), mark + line, color=shade, label=label)
axes[0].axhline(100 * scores["dense"].mean(), color="0.7", linewidth=1)
axes[0].set(xlabel="weights set to zero (per cent)", ylabel="test digits right (per cent)", ylim=(0, 100))
axes[0].legend(fontsize="small")

k = sparsities.index(0.7)
others = [name for name in labels if name != "uniform"]
differences = {name: 100 * (scores[name] - scores["uniform"])[:, k] for name in others}
half = {name: stats.t.ppf(0.975, 7) * d.std(ddof=1) / np.sqrt(8) for name, d in differences.items()}
places = np.arange(len(others))[::-1]
means = [differences[name].mean() for name in others]
axes[1].errorbar(means, places, xerr=list(half.values()), fmt="ko", capsize=4)
axes[1].axvline(0, color="0.7", linewidth=1)
axes[1].set_yticks(places, [labels[name] for name in others])
axes[1].set(xlabel="difference from uniform, at 70 % (points)")
plt.show()
for name in others:
    print(f"{labels[name]:>22}: {differences[name].mean():6.1f} +- {half[name]:.1f} points")

# %%
# What to remember
# ----------------
# Neither sign of the rule gained anything over dropping the smallest weights of each layer alike: try, and keep the
# plain ways in the table.
mean = {name: values.mean(0) for name, values in scores.items()}
assert mean["dense"][0] > 0.95
assert max(means) < 3
assert all(differences[f"eps={eps:g}"].mean() < -5 for eps in (0.2, 0.4))
assert mean["uniform"][3] > max(mean[name][3] for name in others) - 0.02
