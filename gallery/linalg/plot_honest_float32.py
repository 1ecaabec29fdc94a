"""
In single precision an iteration believes what is not true
==========================================================
Single precision halves the memory and doubles the speed, and a solver in it will report success. Conjugate gradients
do not look at the residual of their answer; they carry a vector along that would be the residual if nothing were ever
rounded. It goes on to fall after the true one has stopped. `sciml.linalg.cg` recomputes the residual in double
precision before it claims anything, and when single precision cannot do more, solves for corrections: the answer then
is as good as was asked for, from the same data.
"""

# %%
# The textbook method
# -------------------
# A Gaussian kernel between 2,500 points with noise 0.01: a condition number of fifty thousand, nothing unusual. The
# method of 1952 runs in float32, and every ten steps we form the true residual in float64.
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse.linalg
import torch

from sciml.kernels import Gaussian
from sciml.linalg import Dense, cg, nystrom

torch.set_num_threads(1)
rng, n, noise = np.random.default_rng(0), 2500, 1e-2
A = (Gaussian(lengthscale=0.3)(rng.random((n, 3))) + noise * np.eye(n)).astype(np.float32)
b = rng.standard_normal(n).astype(np.float32)
A_long, b_long = A.astype(np.float64), b.astype(np.float64)


def relative_residual(x):
    return np.linalg.norm(b_long - A_long @ x.astype(np.float64)) / np.linalg.norm(b_long)


def textbook(n_steps, every):
    """Return steps, claimed and true relative residuals of conjugate gradients in float32."""
    x, r, p, found = np.zeros_like(b), b.copy(), b.copy(), []
    for step in range(1, n_steps + 1):
        q = A @ p
        alpha = (r @ r) / (p @ q)
        x, r, r_old = x + alpha * p, r - alpha * q, r
        p = r + (r @ r) / (r_old @ r_old) * p
        if step % every == 0:
            found.append((step, np.linalg.norm(r) / np.linalg.norm(b), relative_residual(x)))
    return np.array(found).T


steps, claimed, true = textbook(900, every=10)

# %%
# The claim and the truth
# -----------------------
# They part near the rounding of float32 times the condition number. What is claimed reaches any tolerance; what is
# true stays where it is.
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.semilogy(steps, claimed, "k--", label="claimed by the recursion")
ax.semilogy(steps, true, "k-", label="true, recomputed in float64")
ax.set(xlabel="step (number)", ylabel="relative residual (dimensionless)")
ax.legend()
plt.show()

peer, info = scipy.sparse.linalg.cg(A, b, rtol=1e-5, maxiter=5000)
print(f"scipy's cg: info = {info}, asked for 1e-05, true relative residual {relative_residual(peer):.1e}")

# %%
# The same data, told straight
# ----------------------------
# We ask for a thousand times more. Products with the matrix are still in float32, but residual and sum of the
# corrections are in float64, and each inner solve is asked for two digits only. An answer that exact does not fit into
# float32, so it comes back in float64, and ``choices`` says so.
matrix = Dense(A, symmetric=True, posdef=True)
run = cg(matrix, b, M=nystrom(matrix, noise), tol=1e-8)
print(run)

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.semilogy(run.history["criterion"], "k.-", label="cg of sciml, float32 refined")
ax.axhline(relative_residual(run.value), color="k", ls="-", lw=1, label="true residual of its answer")
ax.axhline(true.min(), color="0.5", ls="--", label="the best of float32 alone")
ax.set(xlabel="step (number)", ylabel="relative residual (dimensionless)")
ax.legend()
plt.show()

# %%
# What to remember
# ----------------
# Trust a residual that was recomputed from the answer, in more digits than the iteration had.
late = steps > 600
assert info == 0
assert relative_residual(peer) > 1e-4
assert claimed[late].min() < 1e-6
assert true[late].min() > 1e-4
assert run.converged
assert run.residual <= 1e-8
assert abs(run.residual - relative_residual(run.value)) < 0.01 * run.residual
assert run.value.dtype == np.float64
