r"""Conjugate gradients for a batch: solve :math:`H_i x_i = b_i` with one symmetric positive definite `H` a sample.

Notation  B samples of d entries; k of them, `rows`, still at work; r = b - H x residual; z = M r preconditioned;
          p direction; q = H p; rho = <r, z>.
Cost      one product with the Hessians of the samples at work an iteration, one more where a start is given; five
          vectors a sample.
Pitfalls  the answer for ``|b| <= atol`` is 0 (or the start), not some other point at hand; the tolerance is absolute.
"""

import torch

from sciml.optimize.results import BatchedSolve
from sciml.optimize.rowwise import batch, column, dot, per_sample


def batched_cg(hvp, b, *, atol, x0=None, preconditioner=None, max_iter=None):
    r"""Solve :math:`H_i x_i = b_i` for every sample to an absolute tolerance by conjugate gradients [1]_.

    Parameters
    ----------
    hvp : callable
        ``hvp(v, rows)`` returns the products ``H_i v_i``, shape (k, ...), for the samples `rows`, int64 (k,); `v` has
        the shape (k, ...).
    b : torch.Tensor, shape (B, ...)
        Right sides; their dtype and device are those of the answer.
    atol : float or torch.Tensor, shape (B,)
        A sample is done when ``norm(b - H x) <= atol``, an absolute bound.
    x0 : torch.Tensor, shape (B, ...), or None
        Start, which costs a product; None (the default) starts at zero without one.
    preconditioner : callable or None
        ``preconditioner(r, rows)`` applies an approximate inverse, symmetric positive definite; None (the default)
        goes without.
    max_iter : int or None
        Iterations at most; None (the default) takes ``max(100, 10 d)``.

    Returns
    -------
    BatchedSolve
        Solutions, residual norms, and the curvature that the directions met.

    References
    ----------
    .. [1] M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems, J. Res. Nat. Bur.
       Standards 49, 1952.

    Examples
    --------
    >>> import torch
    >>> from sciml.optimize import batched_cg
    >>> H = torch.tensor([[[2.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    >>> b = torch.tensor([[2.0, 4.0], [3.0, 5.0]], dtype=torch.float64)
    >>> found = batched_cg(lambda v, rows: (H[rows] * v[:, None, :]).sum(2), b, atol=1e-10)
    >>> found.x.numpy().round(9)
    array([[1., 1.],
           [3., 5.]])
    >>> found.n_iter
    tensor([2, 1])
    """
    return solve(hvp, b, atol=atol, x0=x0, preconditioner=preconditioner, max_iter=max_iter)[0]


def solve(hvp, b, *, atol, x0=None, preconditioner=None, max_iter=None):
    """Return the solution and the residual vectors of the recurrence, (B, d)."""
    shape, right = b.shape[1:], batch("b", b)
    B, d = right.shape
    atol = per_sample("atol", atol, b)
    max_iter = max(100, 10 * d) if max_iter is None else max_iter
    eps = torch.finfo(b.dtype).eps

    def apply(function, v, rows):
        return function(v.view(-1, *shape), rows).detach().reshape(len(rows), d)

    rows = torch.arange(B, device=b.device)
    X, R = torch.zeros_like(right), right.clone()
    if x0 is not None and B:
        X = batch("x0", x0).to(right.dtype).clone()
        R = right - apply(hvp, X, rows)
        # A start that is worse than zero is left aside; b itself is the residual there.
        worse = ~(dot(R, R) <= dot(right, right))
        X, R = torch.where(worse[:, None], 0 * right, X), torch.where(worse[:, None], right, R)
    out = {
        "residual": dot(R, R).sqrt(),
        "n_iter": torch.zeros(B, dtype=torch.int64, device=b.device),
        "converged": torch.zeros(B, dtype=torch.bool, device=b.device),
        "curvature_min": torch.full_like(atol, torch.inf, memory_format=torch.contiguous_format),
        "curvature_max": torch.zeros_like(atol, memory_format=torch.contiguous_format),
        "indefinite": torch.zeros(B, dtype=torch.bool, device=b.device),
    }
    x, r, p, rho = X, R, torch.zeros_like(R), torch.ones_like(out["residual"])
    low, high, size, first = out["curvature_min"], out["curvature_max"], out["residual"], True
    for n_iter in range(max_iter + 1):
        drift = eps * n_iter * torch.where(low < torch.inf, high, 0.0) * dot(x, x).sqrt()
        met = size + drift <= atol[rows]
        done = met | ~torch.isfinite(size) | (n_iter == max_iter)
        if n_iter < max_iter and not bool(done.all()):
            z = r if preconditioner is None else apply(preconditioner, r, rows)
            rho, before = dot(r, z), rho
            p = z if first else z + column(rho / before, z) * p
            first = False
            keep = torch.nonzero(~done)[:, 0]
            q = torch.zeros_like(p)
            q[keep] = apply(hvp, p[keep], rows[keep])
            bent = dot(p, q)
            quotient = bent / dot(p, p)
            low = torch.where(done | quotient.isnan(), low, torch.minimum(low, quotient))
            high = torch.where(done | quotient.isnan(), high, torch.maximum(high, quotient))
            stuck = ~done & ~((bent > 0) & (bent < torch.inf))
            out["indefinite"][rows[stuck & (bent <= 0)]] = True
            size = torch.where(stuck & ~(bent <= 0), torch.nan, size)
            done = done | stuck
        if bool(done.any()):
            end = rows[done]
            X[end], R[end] = x[done], r[done]
            out["residual"][end], out["converged"][end] = (size + drift)[done], met[done]
            out["curvature_min"][end], out["curvature_max"][end] = low[done], high[done]
            out["n_iter"][end] = n_iter
            stay = torch.nonzero(~done)[:, 0]
            if not len(stay):
                break
            x, r, p, q = x[stay], r[stay], p[stay], q[stay]
            rows, rho, bent, low, high = rows[stay], rho[stay], bent[stay], low[stay], high[stay]
        alpha = column(rho / bent, x)
        x = x + alpha * p
        r = r - alpha * q
        size = dot(r, r).sqrt()
    return BatchedSolve(x=X.view(b.shape), **out), R
