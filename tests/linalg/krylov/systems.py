"""Systems with a known spectrum, for the tests of this folder."""

import numpy as np


def rotation(n, rng, complex_=False):
    """A random orthogonal or unitary matrix."""
    G = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_ else 0)
    return np.linalg.qr(G)[0]


def symmetric(eigenvalues, rng, complex_=False):
    """A symmetric or Hermitian matrix with these eigenvalues."""
    Q = rotation(len(eigenvalues), rng, complex_)
    A = (Q * np.asarray(eigenvalues)) @ Q.conj().T
    return (A + A.conj().T) / 2


def spd(n, cond, rng, complex_=False):
    """A positive definite matrix with eigenvalues 1 to cond in geometric progression."""
    return symmetric(np.geomspace(1, cond, n), rng, complex_)


def true_residual(A, x, b):
    """norm(b - A x) / norm(b) of each column, in float64."""
    A, x, b = (np.asarray(t, dtype=np.result_type(t, np.float64)) for t in (A, x, b))
    return np.linalg.norm(b - A @ x, axis=0) / np.linalg.norm(b, axis=0)


def gaussian_kernel(x, lengthscale):
    """The kernel matrix of points (n, d)."""
    return np.exp(-((x[:, None] - x) ** 2).sum(-1) / (2 * lengthscale**2))
