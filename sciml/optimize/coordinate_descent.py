r"""Cyclic coordinate descent for a batch of quadratics with weighted absolute values: lasso, elastic net.

.. math:: F(x) = \tfrac12 x^T C x - b^T x + \sum_j \alpha_j |x_j|, \qquad
          x_j \leftarrow \frac{S_{\alpha_j}(C_{jj} x_j - G_j)}{C_{jj}}

Notation  C (B, d, d) one matrix a sample; b (B, d); G = C x - b gradient of the smooth part; S soft threshold.
Cost      d^2 a pass and sample, at least, in d small steps: the batch shares these, so that many samples cost little
          more than one. `l1_newton` needs far fewer passes wherever a support can be factored.
Pitfalls  a pass over the support alone is cheap, but must be followed by one over everything before the end. A zero
          column of C leaves its unknown at zero where alpha is positive.
References  Friedman, Hastie, Tibshirani, Regularization paths for generalized linear models via coordinate descent,
            2010; Nutini, Laradji, Schmidt, 2017, arXiv 1712.08859.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.optimize.proximal import l1_subgradient, soft_threshold
from sciml.optimize.results import BatchedMinimum
from sciml.optimize.rowwise import batch, kept, norm, tolerance
from sciml.validation import check_number


def coordinate_descent(C, b, x0=None, *, l1, gtol, max_iter):
    r"""Minimise :math:`x^T C x / 2 - b^T x + \sum_j \alpha_j |x_j|` for every sample, one unknown after the other.

    Parameters
    ----------
    C : torch.Tensor, shape (B, d, d)
        Symmetric and positive semidefinite; a ridge belongs on the diagonal.
    b : torch.Tensor, shape (B, d)
        Linear terms.
    x0 : torch.Tensor, shape (B, d), or None
        Starting points; None (the default) means zero.
    l1 : float or torch.Tensor, broadcast to (B, d)
        alpha, at least 0; where it is 0, the diagonal of C must be positive.
    gtol : float or torch.Tensor, shape (B,)
        A sample is done when the norm of the subgradient of least norm is at most this.
    max_iter : int
        Passes over all unknowns at most.

    Returns
    -------
    BatchedMinimum
        `gradient` holds the subgradients of least norm; `L` and `secant_min` are not computed: 0 and inf.

    Raises
    ------
    InvalidInputError
        If the shapes disagree, or `gtol` is negative or nan.

    References
    ----------
    J. Friedman, T. Hastie, R. Tibshirani, Regularization paths for generalized linear models via coordinate descent,
    Journal of Statistical Software 33, 2010, section 2.2 ("covariance updates").

    Examples
    --------
    >>> import torch
    >>> from sciml.optimize.coordinate_descent import coordinate_descent
    >>> C, b = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[3.0, 0.5]], dtype=torch.float64)
    >>> coordinate_descent(C, b, l1=1.0, gtol=1e-9, max_iter=9).x.tolist()
    [[2.0, 0.0]]
    """
    b = batch("b", b)
    B, d = b.shape
    if tuple(C.shape) != (B, d, d):
        raise InvalidInputError(f"C must have the shape ({B}, {d}, {d}) to go with b; got {tuple(C.shape)}.")
    x = torch.zeros_like(b) if x0 is None else batch("x0", x0).to(b.dtype).clone()
    if x.shape != b.shape:
        raise InvalidInputError(f"x0 must have the shape of b, {tuple(b.shape)}; got {tuple(x.shape)}.")
    l1 = torch.as_tensor(l1, dtype=b.dtype, device=b.device).expand(b.shape).contiguous()
    gtol = tolerance("gtol", gtol, b)
    max_iter = check_number("max_iter", max_iter, low=0, integer=True)
    rows = torch.arange(B, device=b.device)
    X, V = x.clone(), torch.zeros_like(x)
    out = {
        "gradient_norm": torch.full_like(gtol, torch.nan),
        "n_iter": torch.zeros_like(rows),
        "converged": rows < 0,
        "last_step": torch.zeros_like(gtol),
    }
    diagonal = C.diagonal(dim1=1, dim2=2).clone()
    moved, n_iter = torch.zeros_like(gtol), 0
    while len(rows):
        # Formed anew once a pass: in the pass it is updated, which drifts.
        G = torch.stack([c @ z for c, z in zip(C, x, strict=True)]) - b
        v = l1_subgradient(G, x, l1)
        size = norm(v)
        met = size <= gtol
        gone = met | ~torch.isfinite(size) | (n_iter >= max_iter)
        if bool(gone.any()):
            end = rows[gone]
            X[end], V[end], out["gradient_norm"][end] = x[gone], v[gone], size[gone]
            out["converged"][end], out["n_iter"][end], out["last_step"][end] = met[gone], n_iter, moved[gone]
            stay = torch.nonzero(~gone)[:, 0]
            C, b, x, G, l1, gtol, rows, diagonal = kept(stay, C, b, x, G, l1, gtol, rows, diagonal)
            if not len(rows):
                break
        before = x.clone()
        _pass(range(d), C, x, G, l1, diagonal)
        own = x != 0
        own &= 2 * own.sum(1, keepdim=True) <= d
        support = torch.nonzero(own.any(0))[:, 0].tolist()
        for _ in range(4 if support else 0):  # cheap passes, between two dear ones
            _pass(support, C, x, G, l1, diagonal, own)
        moved = norm(x - before)
        n_iter += 1
    none = torch.full_like(out["last_step"], torch.inf)
    return BatchedMinimum(x=X, gradient=V, L=torch.zeros_like(none), secant_min=none, **out)


def _pass(unknowns, C, x, G, l1, diagonal, own=None):
    """Minimise along some unknowns in turn, of samples that `own` them; x and its gradient G are changed in place."""
    for j in unknowns:
        c = diagonal[:, j]
        new = soft_threshold(c * x[:, j] - G[:, j], l1[:, j]) / c
        # A zero column has a constant energy, so that the penalty alone decides.
        step = torch.where(c > 0, new, torch.zeros_like(new)) - x[:, j]
        if own is not None:
            step = torch.where(own[:, j], step, torch.zeros_like(step))
        if bool((step != 0).any()):
            x[:, j] += step
            G += step[:, None] * C[:, j]
