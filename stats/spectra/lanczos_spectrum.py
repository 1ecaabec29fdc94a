r"""The spectrum of a huge layer from a few products with it: stochastic Lanczos quadrature.

.. math:: \rho(\lambda) \approx \frac1P \sum_p \sum_i w_{pi} \, \delta(\lambda - \theta_{pi}), \qquad
          T_p = S_p \operatorname{diag}(\theta_p) S_p^T, \quad w_{pi} = (S_p)_{1i}^2

T_p is the Lanczos matrix of the smaller Gram matrix from a random vector p. The largest Ritz values converge to
eigenvalues; these count once each, exactly, and the random weights are left to the bulk.

Notation  A = W W^H or W^H W, of size m; P probes; K steps; theta, w nodes and weights of a probe.
Cost      K products with W and W^H for P vectors, that is 4 m n P K operations, and 2 m P K^2 for orthogonality; memory
          8 m P K bytes. Below m = 8000 the dense spectrum is cheaper.
Pitfalls  the lower end of the spectrum is only as fine as K nodes; eigenvalues that are repeated exactly are seen once,
          unless their weight tells. Each number comes with an error: the spread of the probes and what the last quarter
          of the steps changed.
References  L. Lin, Y. Saad, C. Yang, Approximating spectral densities of large matrices, 2016, arXiv 1308.5467.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.random import generator, normal
from sciml.validation import check_number

__all__ = ["SpectralDensity", "lanczos_spectrum"]

_CONVERGED = 1e-7  # residual of a Ritz pair over its value
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """A spectrum on nodes with weights.

    Parameters
    ----------
    nodes, weights : ndarray, shape (P, K)
        Eigenvalues and their shares for each probe, by K steps; each row of weights sums to 1.
    rough : tuple of (nodes, weights)
        The same by fewer steps, from three quarters on, to see what the last ones changed.
    top : ndarray, shape (c,)
        Largest eigenvalues that have converged, ascending.
    size : int
        Number of eigenvalues, the smaller side of W.
    trace : float
        Sum of the eigenvalues, exact: the squared Frobenius norm.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.lanczos_spectrum import lanczos_spectrum
    >>> density = lanczos_spectrum(np.diag([3.0, 2.0, 1.0, 1.0]), n_steps=4)
    >>> density.size, round(density.trace, 9), density.top.round(6).tolist()[-2:]
    (4, 15.0, [4.0, 9.0])
    """

    nodes: np.ndarray
    weights: np.ndarray
    rough: tuple
    top: np.ndarray
    size: int
    trace: float

    def eigenvalues(self):
        """Return as many eigenvalues as there are, ascending: quantiles of the density below those that converged.

        Returns
        -------
        ndarray, shape (size,)

        Examples
        --------
        >>> import numpy as np
        >>> from sciml.stats.spectra.lanczos_spectrum import lanczos_spectrum
        >>> lanczos_spectrum(np.eye(5) * 2).eigenvalues().round(6).tolist()
        [4.0, 4.0, 4.0, 4.0, 4.0]
        """
        return _quantiles(self.nodes, self.weights, self.top, self.size)

    def estimate(self, statistic):
        """Return a number read from the eigenvalues, and its standard error.

        Parameters
        ----------
        statistic : callable
            Takes ascending eigenvalues, shape (size,), and returns a number, such as an exponent.

        Returns
        -------
        value, error : float
            The error joins the jackknife over the probes with what the last quarter of the steps changed.

        Examples
        --------
        >>> import numpy as np
        >>> from sciml.stats.spectra.lanczos_spectrum import lanczos_spectrum
        >>> W = np.random.default_rng(0).standard_normal((200, 300))
        >>> value, error = lanczos_spectrum(W).estimate(np.median)
        >>> bool(abs(value - np.median(np.linalg.eigvalsh(W @ W.T))) < 4 * error)
        True
        """
        value = float(statistic(self.eigenvalues()))
        P = len(self.nodes)
        others = [
            float(statistic(_quantiles(self.nodes[kept], self.weights[kept], self.top, self.size)))
            for kept in ~np.eye(P, dtype=bool)
        ]
        rough = [float(statistic(_quantiles(*pair, self.top, self.size))) for pair in self.rough]
        with np.errstate(invalid="ignore"):  # infinite statistics, as of equal eigenvalues, have no spread
            spread = math.sqrt((P - 1) / P * np.square(np.subtract(others, np.mean(others))).sum())
            return value, math.hypot(spread, np.abs(np.subtract(rough, value)).max())


def lanczos_spectrum(W, *, k=0, n_probes=8, n_steps=80, random_state=0):
    """Return the density of the eigenvalues of the smaller Gram matrix of W, by stochastic Lanczos quadrature.

    Parameters
    ----------
    W : ndarray, torch.Tensor or Layer, shape (m, n)
        A matrix, real or complex. A layer of the diagnosis is read in blocks of rows and never held whole.
    k : int
        Which slice of a layer; 0 by default.
    n_probes : int
        Random vectors, at least 2; 8 by default.
    n_steps : int
        Steps of the Lanczos process, at least 4; 80 by default, less for a smaller matrix.
    random_state : None, int or numpy.random.Generator
        0 by default, so that a diagnosis is repeatable.

    Returns
    -------
    SpectralDensity

    Raises
    ------
    InvalidInputError
        If W is no matrix, is not finite, or there are too few probes or steps.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.lanczos_spectrum import lanczos_spectrum
    >>> W = np.random.default_rng(0).standard_normal((300, 400))
    >>> density = lanczos_spectrum(W, n_steps=40)
    >>> bool(np.isclose(density.trace, (W**2).sum()))
    True
    """
    n_probes = check_number("n_probes", n_probes, low=2, integer=True)
    n_steps = check_number("n_steps", n_steps, low=4, integer=True)
    gram = _Gram(W, k)
    m = gram.size
    alphas, betas = _lanczos(gram, min(n_steps, m), n_probes, generator(random_state))
    nodes, weights, residuals = _quadrature(alphas, betas, len(alphas))
    steps = len(alphas)
    rough = tuple(_quadrature(alphas, betas, max(1, steps * part // 12))[:2] for part in (9, 10, 11))
    return SpectralDensity(nodes, weights, rough, _top(nodes, weights, residuals, m), m, gram.trace)


class _Gram:
    """Products with the smaller Gram matrix, and its trace."""

    def __init__(self, W, k):
        self._layer, self._k = (W, k) if hasattr(W, "row_blocks") else (None, 0)
        if self._layer is None:
            self._W = torch.as_tensor(W)
            if self._W.ndim != 2 or not self._W.numel():
                raise InvalidInputError(f"W must be a matrix; got shape {tuple(self._W.shape)}. Reshape it first.")
            self.shape = tuple(self._W.shape)
        else:
            self.shape = (W.rows, W.cols)
        self.size = min(self.shape)
        self.dtype, self.device, self.trace = torch.float64, torch.device("cpu"), 0.0
        for block in self._blocks():
            self.trace += float(block.abs().square().sum())
            self.dtype, self.device = block.dtype, block.device
        if not math.isfinite(self.trace):
            raise InvalidInputError(
                f"W must be finite, and so must be its squared norm; got {self.trace}. Repair or scale it first."
            )

    def _blocks(self):
        """Yield blocks of rows in double precision."""
        if self._layer is None:
            step = max(1, _BLOCK_BYTES // (16 * self.shape[1]))
            blocks = (self._W[start : start + step] for start in range(0, self.shape[0], step))
        else:
            blocks = self._layer.row_blocks(self._k)
        for block in blocks:
            yield block.to(torch.complex128 if block.is_complex() else torch.float64)

    def __matmul__(self, X):
        """Return A X for X of shape (size, p)."""
        if self.size == self.shape[1]:
            return sum(block.mH @ (block @ X) for block in self._blocks())
        Y, start = 0, 0
        for block in self._blocks():
            Y = Y + block.mH @ X[start : start + len(block)]
            start += len(block)
        return torch.cat([block @ Y for block in self._blocks()])


def _lanczos(gram, n_steps, n_probes, rng):
    """Return diagonals and off-diagonals of the Lanczos matrices, shapes (K, P), with full orthogonalisation."""
    v = normal(rng, (gram.size, n_probes), device=gram.device).to(gram.dtype)
    v = v / torch.linalg.vector_norm(v, dim=0)
    basis = torch.zeros((n_steps, *v.shape), dtype=gram.dtype, device=gram.device)
    alphas, betas = [], []
    for step in range(n_steps):
        basis[step] = v
        u = gram @ v
        alphas.append((v.conj() * u).sum(0).real)
        for _ in range(2):  # twice is enough
            overlaps = torch.einsum("kmp,mp->kp", basis[: step + 1].conj(), u)
            u = u - torch.einsum("kmp,kp->mp", basis[: step + 1], overlaps)
        beta = torch.linalg.vector_norm(u, dim=0)
        # Where the Krylov space is exhausted the matrix T ends: nodes that follow have weight 0.
        beta = torch.where(beta > 1e-13 * gram.trace, beta, torch.zeros_like(beta))
        betas.append(beta)
        if not beta.any():
            break
        v = torch.where(beta > 0, u / torch.where(beta > 0, beta, torch.ones_like(beta)), torch.zeros_like(u))
    return torch.stack(alphas).cpu().numpy(), torch.stack(betas).cpu().numpy()


def _quadrature(alphas, betas, steps):
    """Return nodes (ascending), weights and residuals of the first steps, each of shape (P, steps)."""
    T = np.zeros((alphas.shape[1], steps, steps))
    at = np.arange(steps)
    T[:, at, at] = alphas[:steps].T
    T[:, at[1:], at[:-1]] = T[:, at[:-1], at[1:]] = betas[: steps - 1].T
    theta, S = np.linalg.eigh(T)
    return np.maximum(theta, 0), S[:, 0] ** 2, np.abs(S[:, -1]) * betas[steps - 1][:, None]


def _top(nodes, weights, residuals, m):
    """Return the largest eigenvalues that all probes have found, ascending."""
    # A node without weight, after the Krylov space was exhausted, tells nothing.
    real = [row[w > 1e-14] for row, w in zip(nodes, weights, strict=True)]
    sure = [r[w > 1e-14] <= _CONVERGED * nodes.max() for r, w in zip(residuals, weights, strict=True)]
    heavy = [w[w > 1e-14] for w in weights]
    found = []
    for place in range(1, 1 + min(len(row) for row in real)):
        values = np.array([row[-place] for row in real])
        if not all(s[-place] for s in sure) or np.ptp(values) > 1e-6 * values.max():
            break
        share = m * np.mean([w[-place] for w in heavy])
        # A weight far above 1 / m tells that the eigenvalue is repeated; the random weight has a relative error of
        # sqrt(2 / P).
        repeated = round(share) if share > 1 + 4 * math.sqrt(2 / len(nodes)) else 1
        found += [float(values.mean())] * repeated
    return np.array(found[:m])[::-1]


def _quantiles(nodes, weights, top, size):
    """Return eigenvalues: quantiles of the pooled nodes that are not among the top ones, and these."""
    rest = size - len(top)
    if rest == 0:
        return top.copy()
    low = nodes < top[0] * (1 - 1e-6) if len(top) else np.ones(nodes.shape, dtype=bool)
    share = np.where(low, weights, 0)
    totals = share.sum(1, keepdims=True)
    share = share / np.where(totals > 0, totals, 1)
    order = np.argsort(nodes, axis=None)
    value, mass = nodes.ravel()[order], share.ravel()[order] / max(1, int((totals > 0).sum()))
    value, mass = value[mass > 0], mass[mass > 0]
    if not len(value):
        return np.concatenate([np.full(rest, top[0] if len(top) else 0.0), top])
    middle = np.cumsum(mass) - mass / 2
    return np.concatenate([np.interp((np.arange(rest) + 0.5) / rest, middle, value), top])
