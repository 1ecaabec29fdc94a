r"""Nesterov's accelerated gradients for a batch of smooth, strongly convex functions.

.. math:: x^{+} = y - G(y)/L, \qquad y^{+} = x^{+} + \beta (x^{+} - x), \qquad
          \beta = \frac{\sqrt L - \sqrt\mu}{\sqrt L + \sqrt\mu}

Notation  y the points at which gradients G are evaluated; x the points after a gradient step; mu <= curvature <= L.
Cost      one gradient of the samples at work an iteration; about sqrt(L / mu) log(1 / accuracy) of them.
Pitfalls  the momentum needs the x before the step: taken after x was overwritten it is always zero, and what is left
          is gradient descent, with L / mu in place of its root.
"""

import torch

from sciml.optimize.results import BatchedMinimum
from sciml.optimize.rowwise import batch, column, dot, norm, per_sample


def nag(gradient, x0, *, mu, L, gtol, max_iter):
    r"""Minimise every sample's function by accelerated gradients with constant momentum [1]_ and restarts [2]_.

    A sample is restarted when its gradient points against its last step, and its `L` is raised, without further
    evaluations, when two successive gradients contradict it.

    Parameters
    ----------
    gradient : callable
        ``gradient(x, rows)`` returns the gradients, shape (k, ...), of the samples `rows`, int64 (k,), at `x`,
        shape (k, ...).
    x0 : torch.Tensor, shape (B, ...)
        Starting points.
    mu : float or torch.Tensor, shape (B,)
        Constants of strong convexity; 0 or more.
    L : float or torch.Tensor, shape (B,)
        Lipschitz constants of the gradients; one that is too small is raised.
    gtol : float or torch.Tensor, shape (B,)
        A sample is done when the norm of its gradient is at most this.
    max_iter : int
        Steps at most; one more gradient than that is evaluated.

    Returns
    -------
    BatchedMinimum
        The points at which the gradients were evaluated, with these gradients; `L` as raised.

    References
    ----------
    .. [1] Y. Nesterov, Lectures on Convex Optimization, 2018, section 2.2.
    .. [2] B. O'Donoghue and E. Candes, Adaptive restart for accelerated gradient schemes, 2015, arXiv:1204.3982.

    Examples
    --------
    >>> import torch
    >>> from sciml.optimize import nag
    >>> weight = torch.tensor([[1.0, 10.0]], dtype=torch.float64)
    >>> found = nag(lambda x, rows: weight[rows] * (x - 3), torch.zeros(1, 2, dtype=torch.float64),
    ...             mu=1.0, L=10.0, gtol=1e-8, max_iter=200)
    >>> found.x
    tensor([[3.0000, 3.0000]], dtype=torch.float64)
    """
    shape, X = x0.shape[1:], batch("x0", x0).clone()
    B, d = X.shape
    eps = torch.finfo(X.dtype).eps
    mu, L, gtol = (per_sample(*pair, X) for pair in (("mu", mu), ("L", L), ("gtol", gtol)))
    L = torch.maximum(L, mu)
    out = {
        "gradient": torch.zeros_like(X),
        "gradient_norm": L.new_zeros(B),
        "n_iter": torch.zeros(B, dtype=torch.int64, device=X.device),
        "converged": torch.zeros(B, dtype=torch.bool, device=X.device),
        "L": L.clone(),
        "secant_min": L.new_full((B,), torch.inf),
        "last_step": L.new_zeros(B),
    }
    rows = torch.arange(B, device=X.device)
    x, y, low, moved, scale = X, X, out["secant_min"], out["last_step"], norm(X)
    y_old = G_old = None
    for n_iter in range(max_iter + 1):
        G = gradient(y.view(-1, *shape), rows).detach().reshape(len(rows), d)
        size = norm(G)
        if n_iter == 0:
            first = size
        else:
            s, c = y - y_old, G - G_old
            ss, sc, cc = dot(s, s), dot(s, c), dot(c, c)
            moved = ss.sqrt()
            scale = scale + moved
            # Below this a secant tells more of rounding than of curvature.
            noise = eps * (scale + first / L)
            low = torch.where((moved > 1e3 * noise * L / mu) & (sc / ss < low), sc / ss, low)
            steep = torch.where(sc > 0, cc / sc, cc.sqrt() / moved)
            raised = (moved > 10 * noise * (L / mu).sqrt()) & (steep > 1.001 * L)
            L = torch.where(raised, 1.1 * steep, L)
        met = size <= gtol[rows]
        done = met | ~torch.isfinite(size) | (n_iter == max_iter)
        if bool(done.any()):
            end = rows[done]
            X[end], out["gradient"][end], out["gradient_norm"][end] = y[done], G[done], size[done]
            out["n_iter"][end], out["converged"][end], out["L"][end] = n_iter, met[done], L[done]
            out["secant_min"][end], out["last_step"][end] = low[done], moved[done]
            stay = torch.nonzero(~done)[:, 0]
            if not len(stay):
                break
            x, y, G, rows, mu, L, low = x[stay], y[stay], G[stay], rows[stay], mu[stay], L[stay], low[stay]
            scale, first, moved = scale[stay], first[stay], moved[stay]
            raised = raised[stay] if n_iter else None
        beta = (L.sqrt() - mu.sqrt()) / (L.sqrt() + mu.sqrt())
        x_old, x = x, y - G / column(L, G)
        s = x - x_old
        beta = torch.where(dot(G, s) > 0, 0.0, beta)
        if n_iter:
            beta = torch.where(raised, 0.0, beta)
        y_old, G_old, y = y, G, x + column(beta, s) * s
    out["gradient"] = out["gradient"].view(x0.shape)
    return BatchedMinimum(x=X.view(x0.shape), **out)
