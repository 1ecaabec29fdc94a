r"""Lanczos' process for a batch: the ends of every sample's spectrum from a few products.

Notation  V orthonormal basis; T = V' H V tridiagonal with diagonal alpha and off-diagonal beta.
Cost      n_steps products and n_steps vectors a sample.
Pitfalls  Ritz values lie within the spectrum, so the lowest is an upper bound of the smallest eigenvalue and the
          highest a lower bound of the largest.
"""

import torch

from sciml.optimize.rowwise import batch, column, dot, norm


def lanczos_extremes(hvp, v0, *, n_steps):
    r"""Return the lowest and the highest Ritz value of every sample's Hessian [1]_.

    Parameters
    ----------
    hvp : callable
        ``hvp(v, rows)`` returns the products ``H_i v_i``, shape (k, ...), for the samples `rows`, int64 (k,).
    v0 : torch.Tensor, shape (B, ...)
        Starting vectors, best random ones; any length but zero.
    n_steps : int
        Products; no more than the dimension are made.

    Returns
    -------
    lowest, highest : torch.Tensor, shape (B,)
        Ritz values, float64; inf and 0 for a sample whose vector is zero, nan where a product was not finite.

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
    steps = min(n_steps, d)
    eps = torch.finfo(start.dtype).eps
    length = norm(start)
    lowest, highest = length.new_full((B,), torch.inf), length.new_zeros(B)
    rows = torch.nonzero(length != 0)[:, 0]
    V = start[rows][None] / column(length[rows], start)
    T = length.new_zeros(B, steps, steps)
    used = torch.zeros(B, dtype=torch.int64, device=start.device)
    reach = torch.zeros_like(length)
    for j in range(steps):
        if not len(rows):
            break
        w = hvp(V[j].view(-1, *shape), rows).detach().reshape(len(rows), d)
        T[rows, j, j] = dot(V[j], w)
        used[rows] = j + 1
        reach[rows] = torch.maximum(reach[rows], norm(w))
        for _ in range(2):  # once more: what cancellation left of the older vectors
            for v in V:
                w = w - column(dot(v, w), v) * v
        beta = norm(w)
        stay = torch.nonzero(beta > 10 * eps * reach[rows])[:, 0]  # false for nan, too
        rows, beta, w, V = rows[stay], beta[stay], w[stay], V[:, stay]
        if j + 1 < steps:
            T[rows, j, j + 1] = T[rows, j + 1, j] = beta
            V = torch.cat([V, (w / column(beta, w))[None]])
    for i in range(B):
        m = int(used[i])
        if m:
            block = T[i, :m, :m]
            values = torch.linalg.eigvalsh(block) if bool(block.isfinite().all()) else block.new_full((1,), torch.nan)
            lowest[i], highest[i] = values[0], values[-1]
    return lowest, highest
