r"""The exact mean density of the eigenvalues of a Gaussian matrix times its transpose, of any size.

.. math:: \rho(s) = \sum_{j < m} \sum_k \varphi_j(s) \, (M^{-1})_{jk} \, (\varepsilon \varphi_k)(s), \qquad
          M_{jk} = \int \varphi_j \, \varepsilon \varphi_k, \qquad
          \varepsilon f(s) = \tfrac12 \int \operatorname{sign}(s - u) f(u) \, du

Here s is a singular value, and the phi_j span s^{n - m} exp(-s^2 / 2) times the polynomials of degree below m in s^2.
For odd m, M is bordered by the integrals of the phi_j. For complex entries the density is the sum of the squares of
orthonormal functions, with s^{n - m + 1/2}. Nothing is simulated: the answer has ten digits.

Notation  m <= n sides of the matrix, entries of variance 1; n may be any real number, which keeps a ratio of sides
          while m changes; s singular values; U(p) mean of max(0, ln(lambda / lambda_p)), lambda_p the p-quantile.
Cost      O(m^3): 15 ms at m = 64, remembered for 64 pairs of sides.
Pitfalls  the condition of M grows like m, 90 at 64 and 400 at 256. For real n - m in (0, 2) the density is not
          smooth at s = 0, which costs digits in the lower half of the spectrum only.
References  C. Tracy, H. Widom, Correlation functions, cluster functions and spacing distributions for random matrices,
            1998, arXiv solv-int/9804004.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

__all__ = ["WishartDensity", "wishart_density"]

_ORDER = 16  # nodes of a panel
_BEYOND = 7.0  # beyond the edges of the singular values, where the density is below 1e-20
_Z, _W = legendre.leggauss(_ORDER)
_COEFFICIENTS = np.linalg.inv(legendre.legvander(_Z, _ORDER - 1))  # Legendre coefficients of values at the nodes
_INTEGRALS = np.stack([legendre.legval(_Z, legendre.legint(row, lbnd=-1)) for row in np.eye(_ORDER)], axis=1)
_CUMULATIVE = _INTEGRALS @ _COEFFICIENTS  # integral from -1 to each node


@dataclass(frozen=True, eq=False)
class WishartDensity:
    """Density of the singular values on panels of Gauss-Legendre nodes.

    Parameters
    ----------
    nodes : ndarray, shape (P, 16)
        Singular values, ascending.
    weights : ndarray, shape (P, 16)
        Of the quadrature.
    values : ndarray, shape (P, 16)
        Density at the nodes, one over the units of a singular value; its integral is m.

    Examples
    --------
    >>> from sciml.stats.spectra.real_wishart import wishart_density
    >>> density = wishart_density(3, 6)
    >>> round(float((density.weights * density.values * density.nodes**2).sum()), 9)  # the mean of the trace is m n
    18.0
    """

    nodes: np.ndarray
    weights: np.ndarray
    values: np.ndarray

    def upper_log_mean(self, p):
        """Return U(p), the mean over all eigenvalues of max(0, ln(lambda / lambda_p)).

        Parameters
        ----------
        p : float
            Share of the eigenvalues below the threshold, strictly between 0 and 1.

        Returns
        -------
        float
            Dimensionless.

        Examples
        --------
        >>> from sciml.stats.spectra.real_wishart import wishart_density
        >>> round(wishart_density(1, 1).upper_log_mean(0.5), 9)  # of ln(chi-square of one degree / its median)
        0.567433418
        """
        masses = (self.weights * self.values).sum(1)
        below = np.concatenate([[0.0], np.cumsum(masses)])
        wanted = p * below[-1]
        panel = min(int(np.searchsorted(below, wanted, side="right")) - 1, len(masses) - 1)
        half = self.weights[panel].sum() / 2
        start = self.nodes[panel, 0] - half * (1 + _Z[0])
        local = _COEFFICIENTS @ self.values[panel]
        z = _root(legendre.legint(local, lbnd=-1), (wanted - below[panel]) / half)
        threshold = start + half * (1 + z)
        rest = (1 - z) / 2 * (_Z + 1) + z
        inner = _W * (1 - z) / 2 * half * legendre.legval(rest, local) * np.log((start + half * (1 + rest)) / threshold)
        above = slice(panel + 1, None)
        outer = self.weights[above] * self.values[above] * np.log(self.nodes[above] / threshold)
        return float(2 * (inner.sum() + outer.sum()) / below[-1])


@functools.lru_cache(maxsize=64)
def wishart_density(m, n, is_complex=False):
    """Return the mean density of the singular values of an m x n matrix of standard normal entries.

    Parameters
    ----------
    m : int
        Smaller side, at least 1.
    n : float
        Larger side, at least `m`; a number between two integers is allowed.
    is_complex : bool
        Whether entries are complex, with mean square 1; False by default.

    Returns
    -------
    WishartDensity

    Examples
    --------
    >>> from sciml.stats.spectra.real_wishart import wishart_density
    >>> density = wishart_density(8, 8)
    >>> round(float((density.weights * density.values).sum()), 9)
    8.0
    """
    nodes, weights = _panels(m, n)
    s, w = nodes.ravel(), weights.ravel()
    if is_complex:
        phi = _basis(s, w, m, n - m + 0.5)
        return WishartDensity(nodes, weights, (phi**2).sum(0).reshape(nodes.shape))
    phi = _basis(s, w, m, n - m)
    totals = (phi * w).sum(1)
    image = _running_integrals(phi, weights) - totals[:, None] / 2  # epsilon phi
    M = (phi * w) @ image.T
    M = (M - M.T) / 2
    if m % 2:
        M = np.block([[M, totals[:, None]], [-totals[None], np.zeros((1, 1))]])
        image = np.vstack([image, np.ones(len(s))])
    # The transpose of the inverse gives a positive density.
    values = (phi * -np.linalg.solve(M, image)[:m]).sum(0)
    return WishartDensity(nodes, weights, (values * np.sign((values * w).sum())).reshape(nodes.shape))


def _panels(m, n):
    """Return nodes and weights; about as many nodes a singular value wherever one may lie."""
    low, high = math.sqrt(n) - math.sqrt(m) - _BEYOND, math.sqrt(n) + math.sqrt(m) + _BEYOND
    ends = np.linspace(max(low, 0), high, 25 + int(0.6 * m))
    if low < 0:
        # s^(n - m) is not smooth at 0 unless n - m is whole.
        ends = np.concatenate([[0], ends[1] * 2.0 ** np.arange(-6, 0), ends[1:]])
    half = np.diff(ends)[:, None] / 2
    return ends[:-1, None] + half * (1 + _Z), half * _W


def _basis(s, w, m, a):
    """Return functions that span s^a exp(-s^2 / 2) times polynomials in s^2, orthonormal, by the Lanczos process."""
    logarithm = a * np.log(s) - s**2 / 2
    vector = np.exp(logarithm - logarithm.max()) * np.sqrt(w)
    centre = s**2 - (s**2).mean()
    Q = np.empty((m, len(s)))
    Q[0] = vector / np.linalg.norm(vector)
    for j in range(1, m):
        vector = centre * Q[j - 1]
        for _ in range(2):  # twice is enough
            vector -= (Q[:j] @ vector) @ Q[:j]
        Q[j] = vector / np.linalg.norm(vector)
    return Q / np.sqrt(w)


def _running_integrals(phi, weights):
    """Return the integrals of each function from the first end to each node."""
    parts = phi.reshape(len(phi), *weights.shape)
    totals = (parts * weights).sum(2)
    before = np.cumsum(totals, axis=1) - totals
    within = (parts @ _CUMULATIVE.T) * (weights.sum(1) / 2)[:, None]
    return (before[:, :, None] + within).reshape(phi.shape)


def _root(polynomial, level):
    """Return where an ascending polynomial on [-1, 1] reaches a level, by bisection."""
    low, high = -1.0, 1.0
    for _ in range(54):
        middle = (low + high) / 2
        low, high = (middle, high) if legendre.legval(middle, polynomial) < level else (low, middle)
    return (low + high) / 2
