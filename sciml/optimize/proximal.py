r"""Accelerated proximal gradients for a batch: a smooth convex function of each sample plus weighted absolute values.

.. math:: F(x) = f(x) + \sum_j \alpha_j |x_j|, \qquad x^{+} = S_{\alpha / L}(y - G(y) / L), \qquad
          y^{+} = x^{+} + \tfrac{t - 1}{t^{+}} (x^{+} - x)

Notation  S soft threshold; y points at which gradients G of f are evaluated; x the points after a step; t momentum
          counter; v subgradient of F of least norm, zero at the minimiser alone.
Cost      one gradient of the samples at work an iteration; four vectors a sample.
Pitfalls  a small step is no small distance: the criterion is |v|, which bounds the distance to the minimiser by
          |v| / mu where f is mu-strongly convex. Entries are exactly zero only once they were so in two iterates.
References  Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009; O'Donoghue and Candes, Adaptive
            restart for accelerated gradient schemes, 2015, arXiv 1204.3982.
"""

import torch

from sciml.optimize.results import BatchedMinimum
from sciml.optimize.rowwise import applied, batch, column, dot, kept, norm, per_sample, tolerance
from sciml.validation import check_number


def soft_threshold(x, t):
    r"""Shrink numbers towards zero: :math:`S_t(x) = \operatorname{sign}(x) \max(|x| - t, 0)`.

    Parameters
    ----------
    x : torch.Tensor, any shape
        Numbers.
    t : torch.Tensor or float
        Thresholds, at least 0, in the units of x; broadcast.

    Returns
    -------
    torch.Tensor
        Of the shape of x.

    Examples
    --------
    >>> import torch
    >>> from sciml.optimize.proximal import soft_threshold
    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0).tolist()
    [-2.0, 0.0, 1.0]
    """
    return x - x.clamp(-t, t) if not isinstance(t, torch.Tensor) else x - torch.maximum(torch.minimum(x, t), -t)


def l1_subgradient(gradient, x, l1):
    r"""Return the subgradient of least norm of :math:`f(x) + \sum_j \alpha_j |x_j|`.

    Parameters
    ----------
    gradient : torch.Tensor, shape (..., d)
        Of f at x.
    x : torch.Tensor, shape (..., d)
        Where; zeros must be exact.
    l1 : torch.Tensor or float
        alpha, at least 0; broadcast.

    Returns
    -------
    torch.Tensor, shape (..., d)
        Zero at the minimiser and nowhere else. If f is mu-strongly convex, its norm over mu bounds the distance.

    Examples
    --------
    A gradient of 0.5 at zero is held by a weight of 1, one of 3 is not:

    >>> import torch
    >>> from sciml.optimize.proximal import l1_subgradient
    >>> l1_subgradient(torch.tensor([0.5, 3.0, 1.0]), torch.tensor([0.0, 0.0, 2.0]), 1.0).tolist()
    [0.0, 2.0, 2.0]
    """
    return torch.where(x == 0, soft_threshold(gradient, l1), gradient + l1 * torch.sign(x))


def proximal_gradient(gradient, x0, *, l1, L, gtol, max_iter):
    r"""Minimise every sample's function plus weighted absolute values, by FISTA [1]_ with restarts [2]_.

    A sample that is done leaves, and so does one with a number that is not finite, as not converged, without an
    exception and without a warning.

    Parameters
    ----------
    gradient : callable
        ``gradient(x, rows)`` returns the gradients, shape (k, ...), of the smooth parts of the samples `rows`, int64
        (k,), at `x`, shape (k, ...).
    x0 : torch.Tensor, shape (B, ...)
        Starting points.
    l1 : float or torch.Tensor, broadcast to (B, ...)
        alpha, at least 0; an entry 0 leaves its unknown without a penalty.
    L : float or torch.Tensor, shape (B,)
        Upper bounds of the Lipschitz constants of the gradients.
    gtol : float or torch.Tensor, shape (B,)
        A sample is done when the norm of the subgradient of least norm is at most this.
    max_iter : int
        Steps at most; one more gradient than that is evaluated.

    Returns
    -------
    BatchedMinimum
        `gradient` holds the subgradients of least norm; `secant_min` is not computed, and inf.

    Raises
    ------
    InvalidInputError
        If an argument, or what `gradient` returns, has the wrong shape, or `gtol` is negative or nan.

    References
    ----------
    .. [1] A. Beck and M. Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse problems, 2009.
    .. [2] B. O'Donoghue and E. Candes, Adaptive restart for accelerated gradient schemes, 2015, arXiv 1204.3982.

    Examples
    --------
    The minimiser of (x - 3)^2 / 2 + |x| is 2, that of (x - 0.5)^2 / 2 + |x| is 0:

    >>> import torch
    >>> from sciml.optimize.proximal import proximal_gradient
    >>> target = torch.tensor([[3.0], [0.5]], dtype=torch.float64)
    >>> start = torch.zeros(2, 1, dtype=torch.float64)
    >>> proximal_gradient(lambda x, rows: x - target[rows], start, l1=1.0, L=1.0, gtol=1e-9, max_iter=9).x.tolist()
    [[2.0], [0.0]]
    """
    shape, x = x0.shape[1:], batch("x0", x0).clone()
    B = len(x)
    l1 = torch.as_tensor(l1, dtype=x.dtype, device=x.device).expand(x0.shape).reshape(B, -1)
    gtol, L = tolerance("gtol", gtol, x), per_sample("L", L, x)
    max_iter = check_number("max_iter", max_iter, low=0, integer=True)
    rows = torch.arange(B, device=x.device)
    out = {
        "gradient": torch.zeros_like(x),
        "gradient_norm": torch.full_like(gtol, torch.nan),
        "n_iter": torch.zeros_like(rows),
        "converged": rows < 0,
        "last_step": torch.zeros_like(gtol),
    }
    X, y, t, moved, n_iter, largest = x.clone(), x.clone(), torch.ones_like(gtol), torch.zeros_like(gtol), 0, L.clone()
    while len(rows):
        G = applied("gradient", gradient, y, rows, shape)
        v = l1_subgradient(G, y, l1)
        size = norm(v)
        met = size <= gtol
        gone = met | ~torch.isfinite(size) | (n_iter >= max_iter)
        if bool(gone.any()):
            end = rows[gone]
            X[end], out["gradient"][end], out["gradient_norm"][end] = y[gone], v[gone], size[gone]
            out["converged"][end], out["n_iter"][end], out["last_step"][end] = met[gone], n_iter, moved[gone]
            stay = torch.nonzero(~gone)[:, 0]
            x, y, G, l1, L, gtol, t, rows = kept(stay, x, y, G, l1, L, gtol, t, rows)
        step = column(1 / L, y)
        new = soft_threshold(y - step * G, step * l1)
        change = new - x
        # The step points uphill along the momentum: start it anew.
        again = dot(y - new, change) > 0
        ahead = (1 + torch.sqrt(1 + 4 * t * t)) / 2
        beta = torch.where(again, 0.0, (t - 1) / ahead)
        t = torch.where(again, 1.0, ahead)
        before = y
        x, y = new, new + column(beta, new) * change
        moved = norm(y - before)
        n_iter += 1
    out["gradient"] = out["gradient"].view(x0.shape)
    none = torch.full_like(out["last_step"], torch.inf)
    return BatchedMinimum(x=X.view(x0.shape), L=largest, secant_min=none, **out)
