r"""Slow functions of time that are appended to a trial as further channels: orthonormal polynomials.

.. math:: z(t) = (x(t) / s, p_0(t), \dots, p_{K-1}(t)), \qquad \frac1T \sum_t p_j(t) p_k(t) = \delta_{jk}

The second moment of z holds the covariance of the signal, and in its cross block the regression of the signal on slow
trends: slow potentials, which a covariance alone does not see.

Notation  x (n, T) trial; s its scale, the root mean square of the training trials; p_k polynomial of degree k; K their
          number.
Cost      O(T K^2) once for each length.
Pitfalls  sampled Legendre polynomials are orthonormal only as T grows, and far from it for short trials (off-diagonals
          of 0.4 at T = 7, K = 6); the polynomials here are orthonormal on the samples themselves, for every T >= K, and
          agree with Legendre's as T grows. p_0 = 1, so K = 1 is the Gaussian embedding ((S + m m', m), (m', 1)).
References  M. Calvo, J. M. Oller, A distance between multivariate normal distributions based in an embedding into the
            Siegel group, 1990.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.polynomial import legendre

from sciml.exceptions import InvalidInputError
from sciml.validation import check_number

__all__ = ["legendre_basis"]


def legendre_basis(n_times, n_basis):
    r"""Return polynomials that are orthonormal on equidistant samples.

    Parameters
    ----------
    n_times : int
        Samples T, at least 2.
    n_basis : int
        How many polynomials K, of degrees 0 to K - 1; at most T.

    Returns
    -------
    ndarray, shape (K, T)
        Row k has mean square 1, is orthogonal to the others, and positive at the last sample; dimensionless.

    Raises
    ------
    InvalidInputError
        If there are more polynomials than samples.

    Notes
    -----
    Row k tends to :math:`\sqrt{2k+1} P_k`, P_k the Legendre polynomial on [-1, 1], as T grows.

    Examples
    --------
    >>> from sciml.stats.spd.time_basis import legendre_basis
    >>> legendre_basis(3, 2).round(4)
    array([[ 1.    ,  1.    ,  1.    ],
           [-1.2247,  0.    ,  1.2247]])
    """
    n_times = check_number("n_times", n_times, low=2, integer=True)
    n_basis = check_number("n_basis", n_basis, low=0, integer=True)
    if n_basis > n_times:
        raise InvalidInputError(
            f"n_basis must be at most the number of samples; got n_basis={n_basis} for trials of {n_times} samples."
        )
    return _basis(n_times, n_basis).copy()


@functools.lru_cache(maxsize=256)
def _basis(T, K):
    """The rows, shared: not to be written to."""
    s = (2 * np.arange(T) + 1 - T) / T
    # Legendre's polynomials as the start of the QR factorisation keep it well conditioned at any degree below sqrt(T);
    # the second pass restores what the first one loses beyond.
    Q = legendre.legvander(s, max(K - 1, 0))[:, :K]
    for _ in range(2):
        Q, R = np.linalg.qr(Q)
        Q = Q * np.where(np.diag(R) < 0, -1.0, 1.0)
    Q = Q * np.where(Q[-1] < 0, -1.0, 1.0) * np.sqrt(T)
    Q[np.abs(Q) < 1e-14] = 0.0
    if K:
        Q[:, 0] = 1.0
    Q.flags.writeable = False
    return np.ascontiguousarray(Q.T)
