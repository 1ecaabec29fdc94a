r"""Nesterov's accelerated gradients for a batch of smooth, strongly convex functions.

.. math:: x^{+} = y - G(y)/L, \qquad y^{+} = x^{+} + \beta (x^{+} - x), \qquad
          \beta = \frac{\sqrt L - \sqrt\mu}{\sqrt L + \sqrt\mu}

Notation  y the points at which gradients G are evaluated; x the points after a gradient step; m = y - x the momentum,
          so that d = x+ - x = m - G / L, m+ = beta d, and the step is s = y+ - y = m+ - G / L; c = G+ - G;
          gg, gm, mm, ss, sc, ... inner products; low the least sc / ss seen; mu <= curvature <= L.
Cost      one gradient of the samples at work an iteration, about sqrt(L / mu) log(1 / accuracy) of them; three inner
          products, from which the others follow by the recurrences; five vectors a sample.
Pitfalls  the momentum needs the x before the step: taken after x was overwritten it is always zero, and what is left
          is gradient descent, with L / mu in place of its root. Close to the minimiser the difference of two
          gradients is rounding, so curvature is only believed beyond an allowance for it.
References  Nesterov, Lectures on Convex Optimization, 2018, section 2.2; O'Donoghue and Candes, Adaptive restart for
            accelerated gradient schemes, 2015, arXiv 1204.3982.
"""

import torch

from sciml.optimize.results import BatchedMinimum, blank
from sciml.optimize.rowwise import add, applied, batch, column, dot, kept, norm, per_sample, tolerance, wide
from sciml.validation import check_number

_LOOK = 50  # steps between two looks at whether rounding has ended the descent


def nag(gradient, x0, *, mu, L, gtol, max_iter):
    r"""Minimise every sample's function by accelerated gradients with constant momentum [1]_ and restarts [2]_.

    A sample loses its momentum when its gradient points against the step to come. Its `L` is raised, without further
    evaluations, when two successive gradients contradict it, and the momentum follows a smaller `mu` than the given
    one when they reveal it. A sample that is done leaves; so does one with a number that is not finite, or that
    rounding keeps from its tolerance, as not converged, without an exception and without a warning.

    Parameters
    ----------
    gradient : callable
        ``gradient(x, rows)`` returns the gradients, shape (k, ...), of the samples `rows`, int64 (k,), at `x`,
        shape (k, ...), in a tensor that the next call leaves as it is.
    x0 : torch.Tensor, shape (B, ...)
        Starting points; their dtype and device are those of the answer. Sums are made in float64 whatever it is.
    mu : float or torch.Tensor, shape (B,)
        Constants of strong convexity, in the units of `L`; 0 where nothing is known, which leaves the momentum to the
        restarts.
    L : float or torch.Tensor, shape (B,)
        Lipschitz constants of the gradients; one that is too small is raised.
    gtol : float or torch.Tensor, shape (B,)
        A sample is done when the norm of its gradient is at most this: absolute, in the units of the gradient.
    max_iter : int
        Steps at most; one more gradient than that is evaluated.

    Returns
    -------
    BatchedMinimum
        The points at which the gradients were evaluated, with these gradients; `L` as raised.

    Raises
    ------
    InvalidInputError
        If an argument, or what `gradient` returns, has the wrong shape, or `gtol` is negative or nan.

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
    >>> found.x.numpy().round(6)
    array([[3., 3.]])
    """
    shape, y = x0.shape[1:], batch("x0", x0)
    mu, L, gtol = per_sample("mu", mu, y), per_sample("L", L, y), tolerance("gtol", gtol, y)
    max_iter = check_number("max_iter", max_iter, low=0, integer=True)
    eps = torch.finfo(y.dtype).eps
    rows = torch.arange(len(y), device=y.device)
    X, last, out = y.clone(), torch.zeros_like(y), blank(gtol, rows)

    # Numbers that are no constants at all end their sample once its first gradient is known.
    unfit = ~((mu >= 0) & (L > 0) & torch.isfinite(L))
    L = torch.maximum(L, mu)
    low, looked, reach = out["secant_min"].clone(), out["secant_min"].clone(), norm(y)
    since = zero = torch.zeros_like(gtol)
    m, G_old = torch.zeros_like(y), torch.zeros_like(y)
    gg_old, sg_old, ss, mm, slack, L_old = zero, zero, zero, zero, zero, L
    n_iter = 0
    while len(rows):
        G = applied("gradient", gradient, y, rows, shape)
        G_wide = wide(G)
        gg, gm, go = dot(G_wide, G_wide), dot(G_wide, m), dot(G_wide, G_old)
        size, moved = gg.sqrt(), ss.sqrt()
        steady = None
        if n_iter == 0:
            first = size
        # Two gradients differ by what curvature and the step make, and by at most about this much rounding.
        blur = 10 * eps * (L * reach + first)
        if n_iter:
            sc = gm - go / L_old - sg_old  # <s, c>, with c = G - G_old
            cc = gg + gg_old - 2 * go
            low = torch.fmin(low, (sc + L * slack) / ss + blur / moved)
            excess = cc - 1.001 * L * sc
            if not float(excess.max()) <= 0:  # nan, too: one sample's must not hide another's
                across = (cc - 1e-15 * (gg + gg_old)).clamp(min=0).sqrt() - blur
                along = sc + blur * moved
                steep = torch.where(along > 0, across.clamp(min=0) ** 2 / along, across / moved)
                steady = ~((excess > 0) & (steep > 1.001 * L))
                L = torch.where(steady, L, 1.1 * steep)
        # Two numbers tell that all go on: nan compares false.
        least, most = torch.aminmax(size - gtol)
        if n_iter >= max_iter or n_iter % _LOOK == 0 or not (float(least) > 0 and float(most) < torch.inf):
            met = size <= gtol
            gone = met | ~torch.isfinite(size) | unfit | (n_iter >= max_iter)
            if n_iter % _LOOK == 0:
                # Not half as large for that long, and as small as rounding: there is no more to be had.
                halved = 2 * size < looked
                looked, since = torch.where(halved, size, looked), torch.where(halved, float(n_iter), since)
                patience = _LOOK + 10 * (L / torch.where(mu > 0, mu, low.clamp(min=0))).sqrt()
                level = 10 * eps * (L * norm(y) + first)
                gone = gone | ~torch.isfinite(L) | ((size < level) & (n_iter - since > patience))
            end = rows[gone]
            X[end], last[end], out["gradient_norm"][end] = y[gone], G[gone], size[gone]
            out["converged"][end], out["n_iter"][end], out["last_step"][end] = met[gone], n_iter, moved[gone]
            out["L"][end], out["secant_min"][end] = L[gone], low[gone]
            stay = torch.nonzero(~gone)[:, 0]
            if len(stay) < len(rows):
                y, m, G, G_wide, rows, gtol, unfit = kept(stay, y, m, G, G_wide, rows, gtol, unfit)
                looked, since = kept(stay, looked, since)
                mu, L, gg, gm, mm, low, reach, first = kept(stay, mu, L, gg, gm, mm, low, reach, first)
                steady = None if steady is None else steady[stay]
                if not len(stay):
                    break
        ratio = (torch.minimum(mu, low.clamp(min=0)) / L).sqrt()
        beta = (1 - ratio) / (1 + ratio)
        a = gg / L
        gd = gm - a  # <G, d>, with d = x+ - x = m - G / L the step to come
        beta = torch.where(gd > 0, 0.0, beta)
        if steady is not None:
            beta = beta * steady
        add(m, -1 / L, G)
        m.mul_(column(beta, m))
        y = y + m  # a new tensor: the caller may have kept the old one, and may have returned it as its gradient
        add(y, -1 / L, G)
        dd, gm = mm - (gm + gd) / L, beta * gd
        mm = beta * beta * dd
        G_old, gg_old, L_old, sg_old = G_wide, gg, L, gm - a
        slack = 1e-15 * (mm + a / L)
        ss = (mm - (gm + sg_old) / L - slack).clamp(min=0)
        reach = reach + ss.sqrt()
        n_iter += 1
    return BatchedMinimum(x=X.view(x0.shape), gradient=last.view(x0.shape), **out)
