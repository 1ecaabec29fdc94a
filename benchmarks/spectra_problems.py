"""Random matrices with a known kind of spectrum, the published windows, and a sentence encoder as a torch module.

Populations are functions of a generator and a shape (m, n); scales do not matter. Covariances are turned by random
rotations, so that no row or column differs from another in law.
"""

import math

import numpy as np


def gaussian(rng, m, n):
    """Return independent normal entries."""
    return rng.standard_normal((m, n))


def student(rng, m, n):
    """Return independent entries by Student's law with 3 degrees of freedom: a variance, no fourth moment."""
    return rng.standard_t(3, (m, n))


def one_sided(rng, m, n, power=1.0):
    """Return C^(1/2) G with G normal and eigenvalues j^-power of C, j = 1..m."""
    return _rotation(rng, m) @ (_roots(m, power)[:, None] * rng.standard_normal((m, n)))


def two_sided(rng, m, n, power=0.7):
    """Return A^(1/2) G B^(1/2) with G normal and eigenvalues j^-power of A (m, m) and of B (n, n)."""
    core = _roots(m, power)[:, None] * rng.standard_normal((m, n)) * _roots(n, power)
    return _rotation(rng, m) @ core @ _rotation(rng, n)


def spiked(rng, m, n, share=0.05):
    """Return normal entries plus `share` m spikes at 1.5 to 4 times the largest singular value of the noise."""
    return planted(rng, m, n, round(share * min(m, n)))


def planted(rng, m, n, count, low=1.5, high=4.0):
    """Return normal entries plus `count` orthogonal spikes, evenly spread between `low` and `high` noise edges."""
    noise = rng.standard_normal((m, n))
    if not count:
        return noise
    U, V = (np.linalg.qr(rng.standard_normal((k, count)))[0] for k in (m, n))
    return noise + (U * (np.linspace(low, high, count) * (math.sqrt(m) + math.sqrt(n)))) @ V.T


POPULATIONS = {
    "Gaussian": gaussian,
    "Student-3": student,
    "one-sided covariance": one_sided,
    "two-sided covariance": two_sided,
    "5 % spikes": spiked,
}


def published_eigenvalues(W, height, count, Q=1.0, only=None):
    """Return the pooled squared singular values of the published windows of a matrix.

    Windows of `height` rows and int(Q height) columns stand on an even grid, `count` along each side, contiguous and
    overlapping; a layer that is smaller shrinks them. As published, each is decomposed by its singular values.

    Parameters
    ----------
    W : ndarray, shape (m, n)
        Weights.
    height, count : int
        Rows of a window; windows along each side.
    Q : float
        Columns of a window over its rows.
    only : int or None
        Stop after as many windows; None takes all.

    References
    ----------
    Y. Hu et al., Eigenspectrum analysis of neural networks without aspect ratio bias, ICML 2025, arXiv 2506.06280.
    """
    rows, cols = W.shape
    width = min(int(Q * height), cols)
    height = min(height, rows)
    down, across = (max(1, (side - size) // (count - 1)) for side, size in ((rows, height), (cols, width)))
    pool = []
    for i in range(count):
        for j in range(count):
            r, c = i * down, j * across
            if r + height > rows or c + width > cols:
                continue
            pool.append(np.linalg.svd(W[r : r + height, c : c + width], compute_uv=False) ** 2)
            if only is not None and len(pool) == only:
                return np.concatenate(pool)
    return np.concatenate(pool)


def published_alpha(eigenvalues):
    """Return the published exponent of pooled eigenvalues: Hill's, the threshold at index floor(N / 2) counted."""
    lam = np.sort(eigenvalues)
    i = len(lam) // 2
    return 1 + (len(lam) - i) / np.log(lam[i:] / lam[i]).sum()


def encoder_weights():
    """Return the matrices of the sentence encoder with at least 16 rows and columns, {key: ndarray float32}."""
    from sciml.datasets import sentence_encoder
    from sciml.stats.spectra import open_weights

    with open_weights(sentence_encoder()) as source:
        return {
            key: stored.read().numpy()
            for key, stored in source.tensors.items()
            if len(stored.shape) == 2 and min(stored.shape) >= 16 and stored.dtype.is_floating_point
        }


def as_module(weights):
    """Return weights as a torch module of linear layers, as weightwatcher takes them; dots become underscores."""
    import torch

    layers = {}
    for key, W in weights.items():
        layer = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(torch.as_tensor(W), requires_grad=False)
        layers[key.replace(".", "_")] = layer
    return torch.nn.ModuleDict(layers)


def _roots(k, power):
    return np.arange(1, k + 1.0) ** (-power / 2)


def _rotation(rng, k):
    Q, R = np.linalg.qr(rng.standard_normal((k, k)))
    return Q * np.sign(np.diag(R))
