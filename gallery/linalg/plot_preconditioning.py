"""
A preconditioner turns a thousand iterations into a few dozen
=============================================================
A smooth random field is observed at 2,500 places with a little noise, and its best estimate asks for the solution of a
linear system. Conjugate gradients need no factorisation, but their number of steps grows with the spread of the
eigenvalues, and less noise spreads them: here over seven decades. A preconditioner is a cheap approximation of the
matrix that takes the spread out. Two are made from a look at a few columns or products; we see what they do to the
spectrum, to the residual, and where they do nothing.
"""

# %%
# The system
# ----------
# A Gaussian kernel between random points of the unit cube, lengthscale 0.3, plus the variance of the noise on the
# diagonal. Both noises are tried: 0.01, and 0.0001, which is harder.
import matplotlib.pyplot as plt
import numpy as np
import torch

from sciml.kernels import Gaussian
from sciml.linalg import Dense, cg, laplacian, nystrom, pivoted_cholesky

torch.set_num_threads(1)
rng, kernel, n = np.random.default_rng(0), Gaussian(lengthscale=0.3), 2500
X, b = rng.random((n, 3)), rng.standard_normal(n)
K = kernel(X)


def system(noise):
    return Dense(K + noise * np.eye(n), symmetric=True, posdef=True)


def preconditioners(noise):
    found = {"none": None, "Nystrom": nystrom(system(noise), noise)}
    return found | {"pivoted Cholesky": pivoted_cholesky(kernel, noise, X=X)}


# %%
# What it does to the spectrum
# ----------------------------
# A few hundred eigenvalues are large, the rest are the noise. A preconditioner of low rank maps the large ones to one;
# what counts for the iteration is the ratio of the largest to the smallest that is left.
def spectrum(A, M):
    if M is None:
        return np.linalg.eigvalsh(A)[::-1]
    root = np.linalg.cholesky(M @ np.eye(n))  # the eigenvalues of M A are those of root.T A root
    return np.linalg.eigvalsh(root.T @ A @ root)[::-1]


hard = preconditioners(1e-4)
spectra = {name: spectrum(K + 1e-4 * np.eye(n), M) for name, M in hard.items()}
style = {"none": ("-", "0.6"), "Nystrom": ("--", "0.3"), "pivoted Cholesky": ("-", "k")}

figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
for name, values in spectra.items():
    line, colour = style[name]
    rank = "" if name == "none" else f", rank {hard[name].rank}"
    label = f"{name}{rank}: condition {values[0] / values[-1]:.1e}"
    ax.loglog(np.arange(1, n + 1), values / values[-1], line, color=colour, label=label)
ax.set(xlabel="number of the eigenvalue", ylabel="eigenvalue / smallest (dimensionless)")
ax.set_title("noise 0.0001")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))
plt.show()

# %%
# What it does to the iteration
# -----------------------------
# The residual without a preconditioner creeps, and for the smaller noise is stopped after a thousand steps.
# ``run.residual`` is recomputed from the answer, not what the iteration believes.
runs = {}
for noise in (1e-2, 1e-4):
    for name, M in preconditioners(noise).items():
        runs[noise, name] = cg(system(noise), b, M=M, tol=1e-8, max_iter=1000, on_failure="ignore")

figure, axes = plt.subplots(1, 2, figsize=(9, 5), sharey=True, layout="constrained")
for ax, noise in zip(axes, (1e-2, 1e-4), strict=True):
    for name, (line, colour) in style.items():
        run = runs[noise, name]
        ax.loglog(
            np.arange(run.n_iter + 1)[1:],
            run.history["criterion"][1:],
            line,
            color=colour,
            label=f"{name}: {run.n_iter} steps",
        )
    ax.set(xlabel="step (number)", title=f"noise {noise:g}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))
axes[0].set_ylabel("relative residual (dimensionless)")
plt.show()
print(runs[1e-4, "Nystrom"])

# %%
# Where it does nothing
# ---------------------
# The eigenvalues of a discrete Laplacian fall slowly: no few columns stand for the rest. The sketch is dropped, with
# the reason; such a matrix is solved by sine transforms instead, ``laplacian(...).solve(b)``.
dropped = nystrom(laplacian((50, 50), shift=0.01), 0.01)
print(dropped)

# %%
# What to remember
# ----------------
# Fast decay of the spectrum, few columns, few steps. The price is memory for the columns, n numbers each.
condition = {name: values[0] / values[-1] for name, values in spectra.items()}
assert condition["none"] > 1e6
assert condition["Nystrom"] < condition["none"] / 1e4
assert condition["pivoted Cholesky"] < 11
assert runs[1e-2, "none"].converged
assert not runs[1e-4, "none"].converged
for noise in (1e-2, 1e-4):
    for name in ("Nystrom", "pivoted Cholesky"):
        run = runs[noise, name]
        assert run.converged
        assert run.n_iter < 100
        true = np.linalg.norm(b - (K @ run.value + noise * run.value)) / np.linalg.norm(b)
        assert abs(run.residual - true) < 0.01 * true
assert runs[1e-2, "none"].n_iter > 8 * runs[1e-2, "Nystrom"].n_iter
assert dropped.rank == 0
