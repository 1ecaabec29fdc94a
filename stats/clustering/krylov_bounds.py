r"""Bounds on the largest eigenvalue of a matrix that can only be applied, which hold but for a chance one may choose.

The basis of block Krylov holds all :math:`p(A) y` with y in the span of b random Gaussian vectors and p of degree q.
Let w be the leading eigenvector, lam its value, a the smallest one, and y the combination with the largest share of w:
:math:`\tan^2(y, w) = \chi^2_{n-1} / \chi^2_b`, whatever w is. The Chebyshev polynomial on all but the uppermost part x
of the spectrum shows that the largest Ritz value theta has

.. math:: \lambda - a \le (1 + x) (\theta - a) \quad\text{where}\quad x\, T_q(1 + 2 x)^2 = \tan^2(y, w),

for otherwise the Rayleigh quotient of p(A) y would be above theta. With n = 1e5, b = 4, q = 80 and a chance of 1e-12 x
is 0.01: where the eigenvalue only has to be below another by more than this, the chance of an error of the machine is
larger.

Notation  A (n, n) symmetric; T_q Chebyshev; theta Ritz values; chi^2_b with b degrees of freedom.
Cost      q products with (n, b) vectors, n (q b)^2 operations, 2 n q b numbers.
Pitfalls  the slack falls like 1 / q^2 only: it does not make an eigenvalue *equal* to the Ritz value.
References  J. Kuczynski, H. Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with a
            random start, 1992 (b = 1). Y. Saad, Numerical methods for large eigenvalue problems, 2011.
"""

from __future__ import annotations

import math

import torch

from sciml.stats.clustering.spectral_bounds import spectral_slack

__all__ = ["krylov_slack", "perron_bound", "probable_largest"]


def krylov_slack(n, block, depth, failure):
    """Return x, the part of the spectrum that a block Krylov basis may miss but for a chance.

    Parameters
    ----------
    n : int
        Rows of the matrix.
    block : int
        b, Gaussian vectors at the start.
    depth : int
        q, products.
    failure : float
        The chance.

    Returns
    -------
    float

    Examples
    --------
    >>> round(krylov_slack(100000, 4, 80, 1e-12), 4)
    0.0093
    """
    # P(chi^2_b < v) <= (v / 2)^(b / 2) / Gamma(b / 2 + 1) takes half the chance; chi^2_{n-1} above `most` the rest.
    log_v = math.log(2) + (math.log(failure / 2) + math.lgamma(block / 2 + 1)) * 2 / block
    rare = -math.log(failure / 2)
    most = n + 2 * math.sqrt(n * rare) + 2 * rare
    goal = math.log(most) - log_v
    low, high = 1e-16, 1e6
    for _ in range(200):
        x = math.sqrt(low * high)
        # T_q(1 + 2 x) >= (sqrt(x) + sqrt(1 + x))^(2 q) / 2
        reached = math.log(x) + 2 * (2 * depth * math.asinh(math.sqrt(x)) - math.log(2))
        low, high = (low, x) if reached >= goal else (x, high)
    return high


def probable_largest(apply, start, *, depth=80, failure=1e-12):
    """Return a bound from above on the largest eigenvalue that holds but for a chance of `failure`.

    Parameters
    ----------
    apply : callable
        Takes (n, b) to A times it.
    start : torch.Tensor, shape (n, b)
        Independent standard normal numbers, seen by nothing before; a projection that A is made with is allowed, the
        bound is then that of the projected matrix.
    depth : int
        Products; 80 by default.
    failure : float
        The chance; 1e-12 by default.

    Returns
    -------
    bound : float
    ritz : float
        The largest Ritz value, which is below the eigenvalue.

    Examples
    --------
    >>> from sciml.random import generator, normal
    >>> values = torch.linspace(0, 1, 500, dtype=torch.float64)[:, None]
    >>> bound, ritz = probable_largest(lambda V: values * V, normal(generator(0), (500, 4)))
    >>> ritz <= 1.0 <= bound < 1.02
    True
    """
    n, b = start.shape
    width = b * (depth + 1)
    if 2 * width >= n:
        # A basis of the whole space would end in vectors made of rounding.
        H = apply(torch.eye(n, dtype=start.dtype, device=start.device))
        largest = float(torch.linalg.eigvalsh((H + H.T) / 2)[-1])
        return largest + spectral_slack(n, float(H.norm())), largest
    basis, T = start.new_empty(width, n), start.new_zeros(width, width)  # vectors are rows, which products read faster
    block = torch.linalg.qr(start)[0]
    for filled in range(b, width + 1, b):
        basis[filled - b : filled] = block.T
        V, image = basis[:filled], apply(block)
        T[:filled, filled - b : filled] = V @ image
        size = image.norm(dim=0)
        block = image / torch.where(size > 0, size, 1.0)
        # Twice, since the first pass leaves rounding.
        for _ in range(2):
            block = torch.linalg.qr(block - V.T @ (V @ block))[0]
    theta = torch.linalg.eigvalsh(T, UPLO="U")
    high, low = float(theta[-1]), float(theta[0])
    x = krylov_slack(n, b, depth, failure / 2)
    # Both ends of the spectrum are known up to x of its width.
    missed = x / (1 + x)
    return high + missed * (high - low) / max(1 - 2 * missed, 1e-3), high


def perron_bound(apply, start, *, products=30):
    r"""Return a bound from above on the largest eigenvalue of a matrix without negative entries.

    For every positive x, :math:`\lambda_{\max}(E) \le \max_i (E x)_i / x_i` (Collatz and Wielandt).

    Parameters
    ----------
    apply : callable
        Takes (n, 1) to E times it.
    start : torch.Tensor, shape (n,)
        Positive.
    products : int
        Power steps that make x; 30 by default.

    Returns
    -------
    float

    Examples
    --------
    >>> E = torch.tensor([[0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    >>> round(perron_bound(lambda x: E @ x, torch.ones(2, dtype=torch.float64)), 6)
    2.0
    """
    x = start / start.amax()
    best = math.inf
    for _ in range(products):
        y = apply(x[:, None])[:, 0]
        best = min(best, float((y / x).amax()))
        size = float(y.amax())
        if size <= 0:
            return 0.0
        # A floor keeps points that few others touch positive; it is part of x and costs no validity.
        x = (y / size).clamp_min(0) + x * 0.5 + 1e-6
        x = x / x.amax()
    return best
