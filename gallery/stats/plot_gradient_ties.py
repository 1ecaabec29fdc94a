"""
Equal eigenvalues have a derivative, too
========================================
A network of covariance matrices takes square roots and logarithms of matrices and needs their derivatives. Automatic
differentiation through the eigenvectors divides by differences of eigenvalues: it returns NaN where two are equal,
as they are in the identity, where parameters begin, and loses digits where they are near. The usual repair, a threshold
below which eigenvalues count as equal, is wrong at the threshold, and wrong everywhere for an EEG in volts squared,
all of whose eigenvalues are below it. Divided differences in a form that does not cancel need no threshold.
"""

# %%
# One number that tells it all
# ----------------------------
# At diag(a, b) the off-diagonal derivative of a matrix function is the divided difference (f(a) - f(b)) / (a - b),
# which tends to f'(a). We let the gap shrink, in units of the eigenvalues, and compare with 50 digits.
import matplotlib.pyplot as plt
import mpmath
import numpy as np
import torch

from sciml.linalg.spd import logm

mpmath.mp.dps = 50


def through_eigenvectors(X):
    """Return the logarithm as one would write it down."""
    s, U = torch.linalg.eigh(X)
    return (U * torch.log(s)) @ U.T


class WithThreshold(torch.autograd.Function):
    """The logarithm with the usual repair: gaps below 1e-6 count as zero."""

    @staticmethod
    def forward(ctx, X):
        s, U = torch.linalg.eigh(X)
        ctx.save_for_backward(s, U)
        return (U * torch.log(s)) @ U.T

    @staticmethod
    def backward(ctx, grad):
        s, U = ctx.saved_tensors
        gap, tie = s[:, None] - s, (s[:, None] - s).abs() < 1e-6
        F = torch.where(tie, 1 / s[:, None], (s.log()[:, None] - s.log()) / torch.where(tie, 1.0, gap))
        return U @ (F * (U.T @ grad @ U)) @ U.T


def derivative(function, a, b):
    """Return the off-diagonal derivative at diag(a, b)."""
    X = torch.diag(torch.tensor([a, b], dtype=torch.float64)).requires_grad_()
    function(X)[0, 1].backward()
    return float(X.grad[0, 1] + X.grad[1, 0])


def exact(a, b):
    """Return the divided difference of the logarithm, rounded once."""
    a, b = mpmath.mpf(a), mpmath.mpf(b)
    return float(1 / a if a == b else (mpmath.log(a) - mpmath.log(b)) / (a - b))


ways = {"through eigenvectors": through_eigenvectors, "threshold 1e-6": WithThreshold.apply, "sciml": logm}
gaps = 10.0 ** np.arange(-15, 1, 0.5)
errors = {}
for scale in (0.7, 7e-13):
    for name, way in ways.items():
        pairs = [(scale * (1 + gap), scale) for gap in gaps]
        errors[scale, name] = [abs(derivative(way, a, b) / exact(a, b) - 1) for a, b in pairs]

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for ax, (scale, title) in zip(axes, ((0.7, "eigenvalues about 1"), (7e-13, "eigenvalues about 1e-12")), strict=True):
    for mark, name in zip("v^o", ways, strict=True):
        ax.loglog(gaps, np.maximum(errors[scale, name], 1e-17), mark, label=name, markersize=4)
    ax.set(title=title, xlabel="relative gap of the two eigenvalues", ylim=(3e-18, 3))
axes[0].set_ylabel("relative error of the derivative")
axes[0].legend()
plt.show()

# %%
# At the identity
# ---------------
# All eigenvalues are equal, and the derivative of the logarithm in a direction V is V itself.
X = torch.eye(4, dtype=torch.float64, requires_grad=True)
V = torch.arange(16.0, dtype=torch.float64).reshape(4, 4)
V = (V + V.T) / 2
at_identity = {name: torch.autograd.grad((V * way(X)).sum(), X)[0] for name, way in ways.items()}
for name, gradient in at_identity.items():
    print(f"{name:22s} largest error {float((gradient - V).abs().max()):.1e}")

# %%
# What to remember
# ----------------
# A derivative at equal eigenvalues exists and is smooth. Formulas that do not cancel have it to the last digit, at
# every gap and every scale, without a number to choose.
assert torch.isnan(at_identity["through eigenvectors"]).any()
assert float((at_identity["sciml"] - V).abs().max()) < 1e-13
assert max(errors[0.7, "sciml"] + errors[7e-13, "sciml"]) < 1e-14
assert max(errors[0.7, "threshold 1e-6"]) > 1e-7 < max(errors[0.7, "through eigenvectors"])
assert max(errors[7e-13, "threshold 1e-6"]) > 0.2
