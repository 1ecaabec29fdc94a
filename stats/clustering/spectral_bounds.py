r"""Sums of largest eigenvalues, :math:`\sum_{j \le m} \max(\lambda_j(H), 0)`, bounded from above in spite of rounding.

A small matrix has all its eigenvalues computed, with the backward error of the method added. A larger one has its
leading pairs (theta_j, v_j) found by a block Krylov method, and then *proved* to be the leading ones: if

.. math:: M = \tau I - H + \sum_{j \le m} d_j v_j v_j' \succeq 0, \quad d_j = \theta_j - \tau \ge 0, \quad \tau \ge 0,

then the sum is at most :math:`m \tau + \sum_j d_j |v_j|^2`, whatever the pairs are. A Cholesky factorisation that runs
to its end proves it up to a known multiple of the trace; it takes a sixth of the time of the eigenvalues.

Notation  H (n, n) symmetric; m count; theta, v Ritz values and vectors; tau the m-th of the values; eps of float64.
Cost      n^3 / 3 operations and 2 n^2 numbers for the proof; a few dozen products with n^2 each for the pairs.
Pitfalls  Ritz values are bounds from *below*, and residuals show only that some eigenvalue is near: without the
          factorisation an eigenvalue may have been missed.
References  S. M. Rump, Verification of positive definiteness, BIT, 2006; K. Fan, On a theorem of Weyl, 1949.
"""

from __future__ import annotations

import math

import torch

from sciml.random import normal

__all__ = ["leading_pairs", "largest_sum", "spectral_slack"]

_ALL = 700  # up to here all eigenvalues cost less than the Krylov method and the proof
_EPS = torch.finfo(torch.float64).eps


def spectral_slack(n, norm):
    """Return the backward error of the eigenvalues of a symmetric (n, n) matrix of that norm, a float.

    Parameters
    ----------
    n : int
        Rows.
    norm : float
        Frobenius norm of the matrix, or more.

    Returns
    -------
    float
        ``4 sqrt(n) eps norm``; reduction to tridiagonal form does better than its worst case, n eps norm, by far.

    Examples
    --------
    >>> spectral_slack(100, 1.0) < 1e-13
    True
    """
    return 4 * math.sqrt(n) * _EPS * norm


def leading_pairs(apply, start, count, *, tol=1e-10, min_products=10, max_products=60, depth=4):
    r"""Return the largest Ritz values of a symmetric operator, block Krylov with thick restart from given vectors.

    Parameters
    ----------
    apply : callable
        Takes (n, r) to H times it.
    start : torch.Tensor, shape (n, r)
        Vectors near the leading ones, at least `count`; a few random ones among them make a miss unlikely.
    count : int
        How many pairs must converge.
    tol : float
        Stop once the residuals of these are below `tol` times the largest modulus of a Ritz value; 1e-10 by default.
    min_products, max_products : int
        Products with blocks at least and at most; 10 and 60 by default. Given vectors may be exact eigenvectors at
        once, and the leading one be among the others.
    depth : int
        Blocks that a basis holds beyond the first before it is compressed; 4 by default.

    Returns
    -------
    values : torch.Tensor, shape (r,)
        Ritz values, the largest first.
    vectors : torch.Tensor, shape (n, r)
        Orthonormal.
    residual : float
        Largest norm of a residual among the first `count`.

    Examples
    --------
    >>> H = torch.diag(torch.tensor([1.0, 5.0, 3.0, 2.0], dtype=torch.float64))
    >>> values, _, _ = leading_pairs(lambda V: H @ V, torch.ones(4, 2, dtype=torch.float64).tril(), 2)
    >>> values.numpy().round(6)
    array([5., 3.])
    """
    n, r = start.shape
    V = torch.linalg.qr(start)[0]
    W = apply(V)
    products = 1
    while True:
        theta, X, WX = _ritz(V, W, r)
        R = WX - X * theta
        sizes = R[:, :count].norm(dim=0)
        residual = float(sizes.amax()) if count else 0.0
        scale = float(theta.abs().amax())
        settled = residual <= tol * scale and products >= min_products
        if settled or products >= max_products or V.shape[1] >= n:
            return theta, X, residual
        if V.shape[1] >= r * (depth + 1):
            V, W = X, WX
        block = _orthonormal(R, V)[:, : n - V.shape[1]]
        V, W = torch.cat([V, block], 1), torch.cat([W, apply(block)], 1)
        products += 1


def _ritz(V, W, r):
    T = V.T @ W
    theta, Y = torch.linalg.eigh((T + T.T) / 2)
    theta, Y = theta.flip(0)[:r], Y.flip(1)[:, :r]
    return theta, V @ Y, W @ Y


def _orthonormal(R, V):
    """Return an orthonormal basis of the columns of R off V; two passes, since the first leaves rounding."""
    size = R.norm(dim=0)
    R = R / torch.where(size > 0, size, 1.0)
    for _ in range(2):
        R = torch.linalg.qr(R - V @ (V.T @ R))[0]
    return R


def largest_sum(H, count, *, start=None, rng=None, error=0.0):
    r"""Return a bound from above on the sum of the largest eigenvalues, negative ones counted as zero.

    Parameters
    ----------
    H : torch.Tensor, shape (n, n)
        Symmetric, float64.
    count : int
        m; 0 gives 0.
    start : torch.Tensor, shape (n, r), or None
        Vectors near the leading ones. None, the default: random ones.
    rng : numpy.random.Generator or None
        Source of the random vectors; needed for n beyond 700.
    error : float
        Spectral norm by which the matrix meant may differ from `H`; 0 by default.

    Returns
    -------
    float
        A bound that holds for every matrix within `error` of `H`.

    Examples
    --------
    >>> bound = largest_sum(torch.diag(torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64)), 2)
    >>> 8.0 <= bound < 8.0 + 1e-12
    True
    """
    if count == 0:
        return 0.0
    n = H.shape[0]
    count = min(count, n)
    if n > _ALL and count < n // 8:
        proved = _proved_sum(H, count, start, rng, error)
        if proved is not None:
            return proved
    w = torch.linalg.eigvalsh(H)[-count:].clamp_min(0)
    return float(w.sum()) + count * (spectral_slack(n, float(H.norm())) + error)


def _proved_sum(H, count, start, rng, error):
    n = H.shape[0]
    extra = normal(rng, (n, 3), device=H.device)
    first = extra if start is None else torch.cat([start, extra], 1)
    if first.shape[1] < count + 2:
        first = torch.cat([first, normal(rng, (n, count + 2 - first.shape[1]), device=H.device)], 1)
    theta, V, residual = leading_pairs(lambda block: H @ block, first, count)
    tau = max(float(theta[count - 1]), 0.0)
    d = (theta[:count] - tau).clamp_min(0)
    V = V[:, :count]
    trace = n * tau + float(H.diagonal().abs().sum()) + float(d.sum())
    # What the factorisation of a matrix of this trace, and the sums that made it, can hide.
    rounding = 2 * (n + count + 8) * _EPS * trace
    margin = rounding + 2 * residual
    for _ in range(4):
        M = (V * d) @ V.T
        M -= H
        M.diagonal().add_(tau + margin)
        if int(torch.linalg.cholesky_ex(M)[1]) == 0:
            return float(count * (tau + margin + rounding + error) + (d * V.square().sum(0)).sum() * (1 + 8 * _EPS))
        margin = 10 * margin
    return None
