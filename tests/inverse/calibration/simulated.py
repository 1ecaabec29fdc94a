"""Self-calibration problems with known truth, and slow obvious ways to solve them."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Simulated:
    """Data of one model with everything that made them; sigma^2 = E|noise|^2."""

    y: np.ndarray
    A: np.ndarray
    d: np.ndarray
    x: np.ndarray
    sigma: float
    model: str


def normal(rng, *shape, is_complex=True):
    """Gaussian numbers with E|z|^2 = 1."""
    if not is_complex:
        return rng.standard_normal(shape)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def signal_part(model, A, x):
    """A x of every snapshot, shape (p, m)."""
    if model == "snapshots":
        return x @ A.T
    return A @ x if model == "repeated" else (A @ x[..., None])[..., 0]


def fourier(rng, model, m, n, p):
    """Partial Fourier matrices with random signs."""
    F = np.exp(-2j * np.pi * np.outer(np.arange(max(m, n)), np.arange(max(m, n))) / max(m, n))
    if model == "snapshots":
        return F[:m][:, rng.permutation(max(m, n))[:n]] * 1.0
    if model == "repeated":
        return F[:m, :n] * rng.choice([-1.0, 1.0], (p, 1, n))
    code = np.linalg.qr(normal(rng, m, n))[0]
    return F[:m, :m] @ (rng.choice([-1.0, 1.0], (p, m, 1)) * code)


def simulate(rng, model, m, n, p, *, snr=None, is_complex=True, ensemble="gaussian", gains="gaussian"):
    """Data of Gaussian signals; gains complex Gaussian, or near one with gains="near one"."""
    make = lambda *shape: normal(rng, *shape, is_complex=is_complex)  # noqa: E731
    A = make(m, n) if model == "snapshots" else make(p, m, n)
    if ensemble == "fourier":
        A = fourier(rng, model, m, n, p)
    d = make(m) if gains == "gaussian" else 1 + 0.3 * make(m)
    x = make(n) if model == "repeated" else make(p, n)
    y = d * signal_part(model, A, x)
    sigma = 0.0 if snr is None else float(np.sqrt((abs(y) ** 2).mean()) * 10 ** (-snr / 20))
    return Simulated(y + sigma * make(p, m), A, d, x, sigma, model)


def aligned(found, truth):
    """The first gains times the factor that brings them nearest to the truth; NaN entries are left alone."""
    known = np.isfinite(found)
    factor = np.vdot(found[known], truth[known]) / np.vdot(found[known], found[known])
    return factor * found


def error(found, truth):
    """Relative error after the best alignment."""
    found = np.asarray(found)
    known = np.isfinite(found)
    return np.linalg.norm((aligned(found, truth) - truth)[known]) / np.linalg.norm(truth[known])


def stacked(y, A, model, W=None):
    """The matrix of the linear system in z = (1/d, x): the sum of W |s y - A x|^2 is |matrix z|^2."""
    p, m = y.shape
    n = A.shape[-1]
    W = np.ones((p, m)) if W is None else np.broadcast_to(W, (p, m))
    rows = []
    for k in range(p):
        own = A if A.ndim == 2 else A[k]
        block = [np.diag(y[k])]
        block += [-own] if model == "repeated" else [-own if j == k else np.zeros((m, n)) for j in range(p)]
        rows.append(np.sqrt(W[k])[:, None] * np.hstack(block))
    return np.vstack(rows)


def misfit(y, A, d, model, W=None):
    """The smallest sum of W |y - d A x|^2 over the signals, by ordinary least squares on the whole."""
    p, m = y.shape
    root = np.sqrt(np.ones((p, m)) if W is None else np.broadcast_to(W, (p, m)))
    B = np.broadcast_to(A, (p, *A.shape[-2:])) * (root * d)[..., None]
    if model == "repeated":
        B, z = B.reshape(1, p * m, -1), (root * y).reshape(1, -1)
    else:
        z = root * y
    total = 0.0
    for own, data in zip(B, z, strict=True):
        x = np.linalg.lstsq(own, data, rcond=None)[0]
        total += float((abs(data - own @ x) ** 2).sum())
    return total
