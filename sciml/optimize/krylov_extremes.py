r"""Lanczos' process for a batch: the ends of every sample's spectrum from a few products.

Notation  V orthonormal basis; T = V' H V tridiagonal with diagonal alpha and off-diagonal beta.
Cost      n_steps products and n_steps + 2 vectors a sample, and n_steps^2 inner products, since each new vector is made
          orthogonal to all older ones.
Pitfalls  Ritz values lie within the spectrum, so the lowest is an upper bound of the smallest eigenvalue and the
          highest a lower bound of the largest. From a random start the ends of the spectrum come first, an end that
          is not separated from the rest last.
"""

import torch

from sciml.optimize.rowwise import add, applied, batch, column, dot, norm
from sciml.validation import check_number


def lanczos_extremes(hvp, v0, *, n_steps):
    r"""Return the lowest and the highest Ritz value of every sample's Hessian by Lanczos' process [1]_.

    Parameters
    ----------
    hvp : callable
        ``hvp(v, rows)`` returns the products ``H_i v_i``, shape (k, ...), for the samples `rows`, int64 (k,).
    v0 : torch.Tensor, shape (B, ...)
        Starting vectors, of any length but zero; random ones meet every eigenvector.
    n_steps : int
        Products at most; a sample whose vectors are exhausted, at the latest after its dimension, makes no more.

    Returns
    -------
    lowest, highest : torch.Tensor, shape (B,)
        Ritz values, float64; inf and 0 for a sample whose vector is zero, nan where a number was not finite.

    Raises
    ------
    InvalidInputError
        If an argument, or what `hvp` returns, has the wrong shape, or `n_steps` is below 1.

    References
    ----------
    .. [1] G. Golub and C. Van Loan, Matrix Computations, 2013, section 10.1.

    Examples
    --------
    >>> import torch
    >>> from sciml.optimize import lanczos_extremes
    >>> weight = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64)
    >>> lowest, highest = lanczos_extremes(lambda v, rows: weight[rows] * v, torch.ones(1, 3).double(), n_steps=3)
    >>> round(lowest.item(), 9), round(highest.item(), 9)
    (1.0, 5.0)
    """
    shape, start = v0.shape[1:], batch("v0", v0)
    B, d = start.shape
    steps = min(check_number("n_steps", n_steps, low=1, integer=True), d)
    eps = torch.finfo(start.dtype).eps
    length = norm(start)
    used, reach = torch.zeros_like(length, dtype=torch.int64), torch.zeros_like(length)
    T = length.new_zeros(B, steps, steps)
    rows = torch.nonzero(length != 0)[:, 0]
    V = [start[rows] / column(length[rows], start)]
    for j in range(steps):
        if not len(rows):
            break
        w = applied("hvp", hvp, V[-1], rows, shape).clone()
        T[rows, j, j], used[rows] = dot(V[-1], w), j + 1
        reach[rows] = torch.maximum(reach[rows], norm(w))
        if j + 1 == steps:
            break
        for v in V + V:  # twice: what cancellation left of the older vectors
            add(w, -dot(v, w), v)
        beta = norm(w)
        stay = torch.nonzero(beta > 10 * eps * reach[rows])[:, 0]  # false for nan, too
        if len(stay) < len(rows):
            rows, beta, w, V = rows[stay], beta[stay], w[stay], [v[stay] for v in V]
        T[rows, j, j + 1] = T[rows, j + 1, j] = beta
        V.append(w / column(beta, w))
    lowest, highest = torch.full_like(length, torch.inf), torch.zeros_like(length)
    for i, m in enumerate(used.tolist()):
        if m:
            block = T[i, :m, :m]
            sound = bool(torch.isfinite(block).all())
            ends = torch.linalg.eigvalsh(block) if sound else block.new_full((1,), torch.nan)
            lowest[i], highest[i] = ends[0], ends[-1]
    lowest[~torch.isfinite(length)] = highest[~torch.isfinite(length)] = torch.nan
    return lowest, highest
