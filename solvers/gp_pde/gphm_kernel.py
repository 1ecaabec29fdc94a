r"""Spectral-mixture covariance functions of one dimension, with their derivatives in closed form.

.. math:: k(d) = \sum_q w_q\, \gamma_q(|d|) \cos \omega_q d, \qquad
          k^{(n)}(d) = \sum_q w_q \sum_j \binom nj \gamma_q^{(n-j)}(d)\, \omega_q^j \cos(\omega_q d + j\pi/2).

Two envelopes: Matern-5/2, gamma = (1 + a r + a^2 r^2 / 3) exp(-a r) with a = sqrt(5) rho, whose spectrum is a Student-t
density of five degrees of freedom; and the squared exponential, gamma = exp(-beta d^2), whose spectrum is Gaussian.

Notation  d signed difference, r = |d|; w (Q,) weights; mu (Q,) frequencies in cycles / unit, omega = 2 pi mu in rad /
          unit; scale (Q,): rho, an inverse length, for Matern-5/2 and beta, its square, for the squared exponential.
Cost      Q exponentials and Q sines and cosines for each difference, whatever the number of orders.
Pitfalls  Differentiating |d| automatically gives zero curvature at d = 0, where the truth is -sum w (a^2/3 + omega^2).
          The fifth derivative of Matern-5/2 jumps at zero: orders above four do not exist.

References
----------
A. Wilson, R. Adams, Gaussian process kernels for pattern discovery and extrapolation, 2013, arXiv 1302.4245.
S. Fang et al., Solving high frequency and multi-scale PDEs with Gaussian processes, 2024, arXiv 2311.04465.
"""

from __future__ import annotations

import math

import torch

from sciml.exceptions import InvalidInputError

__all__ = ["ENVELOPES", "bandwidth", "mixture", "spectral_density"]

#: Name of a kernel to its envelope; the last two are single components of frequency zero.
ENVELOPES = {"stm": "matern52", "gm": "se", "matern52": "matern52", "se": "se"}


def envelope(kind, d, scale, order):
    r"""Derivatives of the envelope of orders 0 to `order`.

    Parameters
    ----------
    kind : {"matern52", "se"}
        Matern-5/2 or squared exponential.
    d : torch.Tensor, shape (..., 1)
        Signed differences, units of x.
    scale : torch.Tensor, shape (Q,)
        rho (1 / unit) or beta (1 / unit^2).
    order : int
        Highest derivative; at most 4 for "matern52".

    Returns
    -------
    list of torch.Tensor, shape (..., Q)
        One for each order.

    Examples
    --------
    >>> zero = torch.zeros(1, 1, dtype=torch.float64)
    >>> [round(g.item(), 3) for g in envelope("se", zero, torch.tensor([2.0]), 2)]  # 1, 0, -2 beta
    [1.0, -0.0, -4.0]
    """
    if kind == "se":
        out = [torch.exp(-scale * d**2)]
        for n in range(order):  # g' = -2 beta d g, differentiated n times
            out.append(-2 * scale * (d * out[n] + (n * out[n - 1] if n else 0.0)))
        return out
    if order > 4:
        raise InvalidInputError(
            f"order must be at most 4 for a Matern-5/2 envelope, which has no derivative of order {order} at zero. "
            f"Take kernel='gm'."
        )
    a = math.sqrt(5) * scale
    r = a * d.abs()
    e = torch.exp(-r)
    out = [
        lambda: (1 + r + r**2 / 3) * e,
        lambda: -(a**2 / 3) * d * (1 + r) * e,
        lambda: -(a**2 / 3) * (1 + r - r**2) * e,
        lambda: (a**4 / 3) * d * (3 - r) * e,
        lambda: (a**4 / 3) * (3 - 5 * r + r**2) * e,
    ]
    return [g() for g in out[: order + 1]]


def mixture(kind, d, weight, scale, mu, orders):
    r"""Derivatives of a spectral-mixture kernel with respect to its difference.

    Parameters
    ----------
    kind : {"stm", "gm", "matern52", "se"}
        The kernel.
    d : torch.Tensor, shape (...)
        Signed differences x - x', units of x.
    weight, scale, mu : torch.Tensor, shape (Q,)
        Weights, inverse lengths (or their squares), frequencies in cycles / unit.
    orders : sequence of int
        Which derivatives.

    Returns
    -------
    list of torch.Tensor, shape (...)
        :math:`k^{(n)}(d)` for each n of `orders`. Cross-covariances follow:
        :math:`\partial_x^a \partial_{x'}^b k = (-1)^b k^{(a+b)}(x - x')`.

    Raises
    ------
    InvalidInputError
        When an order exceeds the smoothness of the envelope.

    Examples
    --------
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> k, k2 = mixture("stm", torch.zeros(1, dtype=torch.float64), one, one, one, (0, 2))
    >>> round(k.item(), 6), bool(torch.isclose(k2, -(5 / 3 + (2 * torch.pi) ** 2) * one))
    (1.0, True)
    """
    top = max(orders)
    d = d[..., None]
    gamma = envelope(ENVELOPES[kind], d, scale, top)
    omega = 2 * math.pi * mu
    cos, sin = torch.cos(omega * d), torch.sin(omega * d)
    turned = (cos, -sin, -cos, sin)  # cos(omega d + j pi / 2) for j = 0, 1, 2, 3
    out = []
    for n in orders:
        terms = sum(math.comb(n, j) * omega**j * gamma[n - j] * turned[j % 4] for j in range(n + 1))
        out.append(terms @ weight)
    return out


def spectral_density(kind, s, weight, scale, mu):
    r"""Power spectrum of a mixture per cycle, :math:`S(s) = \int k(d) e^{-2\pi i s d}\, \mathrm{d}d`.

    Parameters
    ----------
    kind : {"stm", "gm", "matern52", "se"}
        The kernel.
    s : torch.Tensor, shape (...)
        Frequencies, cycles / unit.
    weight, scale, mu : torch.Tensor, shape (Q,)
        As for `mixture`.

    Returns
    -------
    torch.Tensor, shape (...)
        Its integral over s is the sum of the weights.

    Examples
    --------
    >>> s = torch.linspace(-50, 50, 20001, dtype=torch.float64)
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> round(torch.trapezoid(spectral_density("stm", s, 3 * one, one, 5 * one), s).item(), 5)
    3.0
    """

    def density(s):
        if ENVELOPES[kind] == "se":
            return torch.sqrt(math.pi / scale) * torch.exp(-((math.pi * s) ** 2) / scale)
        a = math.sqrt(5) * scale
        return (16 * a**5 / 3) / (a**2 + (2 * math.pi * s) ** 2) ** 3

    s = s[..., None]
    return 0.5 * (density(s - mu) + density(s + mu)) @ weight


def bandwidth(kind, scale):
    """Standard deviation of the spectral density of one component about its peak, rad / unit.

    Parameters
    ----------
    kind : {"stm", "gm", "matern52", "se"}
        The kernel.
    scale : torch.Tensor, shape (Q,)
        rho or beta.

    Returns
    -------
    torch.Tensor, shape (Q,)
        The root of minus the envelope's curvature at zero.

    Examples
    --------
    >>> bandwidth("gm", torch.tensor([2.0])).item()
    2.0
    """
    return torch.sqrt(2 * scale) if ENVELOPES[kind] == "se" else math.sqrt(5 / 3) * scale
