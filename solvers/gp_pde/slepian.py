r"""Orthonormal coordinates of an equispaced Fourier frame: discrete prolate spheroidal functions on an interval.

On an interval of length L inside a periodic box of length T the functions :math:`e^{2 \pi i k x / T}`, ``|k| <= K``,
are nearly dependent: of N = 2 K + 1 directions about N L / T are seen from the interval, and the rest fall off to zero.
Slepian's vectors diagonalise the Gram matrix of the interval, a sinc, and are eigenvectors of a tridiagonal matrix as
well, from which they are computed without loss [1]_.  In their coordinates the features are orthonormal on the
interval, so that least squares with evenly scattered samples is well conditioned.

Notation  N = 2 K + 1 modes; W = L / (2 T) half the time-bandwidth product over N; v (N,) a Slepian vector, even or odd;
          sigma its function's root mean square on the interval; psi = sum_k v_k e^{ik x} / sigma.
Cost      one tridiagonal eigenproblem, N^2; N r numbers are kept, r about N L / T + 10.
Pitfalls  A direction of size sigma is a cancellation that loses eps / sigma; beyond `cut` it is dropped, which costs
          the fit cut times the norm of its modes.

References
----------
.. [1] D. Slepian, Prolate spheroidal wave functions, Fourier analysis, and uncertainty V, 1978.
.. [2] R. Matthysen, D. Huybrechs, Fast algorithms for the computation of Fourier extensions of arbitrary length, 2016,
   arXiv 1509.00206.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import eigh_tridiagonal

from sciml.solvers.gp_pde.features import gauss_legendre

__all__ = ["slepian_coordinates"]


def slepian_coordinates(K, ratio, cut=1e-12):
    """Matrix from orthonormal coordinates on the interval to modes of the box.

    Parameters
    ----------
    K : int
        Highest mode.
    ratio : float
        T / L, length of the box over that of the interval, above 1.
    cut : float
        Directions whose root mean square on the interval is below are dropped, dimensionless; default 1e-12.

    Returns
    -------
    C : numpy.ndarray, complex, shape (2 K + 1, r)
        Column i holds the modes, -K .. K about the centre, of a real function of mean square one on the interval.
    sigma : numpy.ndarray, shape (r,)
        Root mean square on the interval of each direction before it was scaled, relative to the first, falling.

    Examples
    --------
    >>> C, sigma = slepian_coordinates(20, 1.5)
    >>> bool(30 < C.shape[1] <= 41), bool(np.allclose(C, C[::-1].conj()))
    (True, True)
    """
    N, W = 2 * K + 1, 0.5 / ratio
    i = np.arange(N)
    diagonal = ((N - 1 - 2 * i) / 2.0) ** 2 * np.cos(2 * np.pi * W)
    most = min(N, math.ceil(2 * N * W + np.log(8 * N) * np.log(1 / cut**2) / np.pi**2) + 12)
    if N == 1:
        return np.ones((1, 1), complex), np.ones(1)
    _, v = eigh_tridiagonal(diagonal, i[1:] * (N - i[1:]) / 2.0, select="i", select_range=(N - most, N - 1))
    v = v[:, ::-1]  # the best concentrated first
    even = np.sum(v * v[::-1], axis=0) > 0
    v = np.where(even, v + v[::-1], v - v[::-1]) / 2
    C = np.where(even, v, -1j * v)
    sure = max(0, int(2 * N * W - 12 - 4 * np.log(N)))  # these lie in the interval to rounding: sigma^2 = T / L
    sigma = np.full(most, math.sqrt(ratio))
    if sure < most:
        nodes, weights = gauss_legendre(int(np.pi * K / ratio) + 60)
        phase = np.exp(1j * np.outer(np.pi / ratio * nodes, np.arange(-K, K + 1)))
        values = (phase @ C[:, sure:]).real
        sigma[sure:] = np.sqrt(weights @ values**2 / 2)
    keep = sigma > cut * sigma[0]
    return C[:, keep] / sigma[keep], sigma[keep] / sigma[0]
