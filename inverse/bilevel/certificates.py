r"""Error bars of a bilevel problem whose lower level and adjoint are solved inexactly.

One sample has the value :math:`g(\hat x)` at :math:`\hat x = \arg\min_x h(x, \theta)` and the hypergradient
:math:`\partial_\theta g - J^T H^{-1} \nabla g`. Solvers give a point x with a small gradient G of h and a vector q with
:math:`r = \nabla g - H q` small; every bar below follows from :math:`\|x - \hat x\| \le \varepsilon = \|G\| / \mu`.

Notation  x the approximate minimiser; G, H, J = grad_x h, grad_xx h, d/dtheta grad_x h at x; q the approximate adjoint;
          r its residual, delta a bound of ||r||; mu a lower bound of the eigenvalues of H everywhere; Lg, LH, LJ bounds
          of the Lipschitz constants in x of grad g, H and J (2-norms).
Cost      a few operations a sample: what enters is known when the adjoint is solved.
Pitfalls  A bar is as good as its constants: mu must be a *lower* bound for the very h that is differentiated (a mean
          over samples has another), the others upper bounds. The bars cover unfinished solves, not rounding: below
          about 1e-14 of the value itself they say nothing. All norms belong to one sample; never mix in the batch.
References  M. S. Salehi, S. Mukherjee, L. Roberts, M. J. Ehrhardt, An adaptively inexact first-order method for bilevel
          optimization with application to hyperparameter learning, 2025, arXiv 2308.10098. M. J. Ehrhardt, L. Roberts,
          Analyzing inexact hypergradients for bilevel learning, 2024, arXiv 2301.04764.
"""

__all__ = [
    "hypergradient_bar",
    "hypergradient_bar_maid",
    "hypergradient_bar_response",
    "lower_error",
    "lower_error_newton",
    "value_bar_corrected",
    "value_bar_estimated",
    "value_bar_plain",
]


def lower_error(gradient_norm, mu):
    r"""Bound the distance to the minimiser of the lower level.

    .. math:: \|x - \hat x\| \le \varepsilon = \|G(x)\| / \mu

    since :math:`\|G(x)\| = \|G(x) - G(\hat x)\| \ge \mu \|x - \hat x\|`.

    Parameters
    ----------
    gradient_norm : tensor, shape (B,)
        2-norm of the gradient of h at x, one for each sample.
    mu : tensor, shape (B,), or float
        Lower bound of the eigenvalues of the Hessian of that h; positive.

    Returns
    -------
    tensor, shape (B,)
        In units of x.

    Examples
    --------
    h = x^2 has mu = 2 and, at x = 3, the gradient 6:

    >>> lower_error(6.0, 2.0)
    3.0
    """
    return gradient_norm / mu


def lower_error_newton(norm_p, residual, eps, mu, LH):
    r"""Bound the distance to the minimiser with a Newton correction p that is at hand, :math:`H p \approx -G`.

    .. math:: \|x - \hat x\| \le \|p\| + \frac{\|G + H p\| + \tfrac12 L_H \varepsilon^2}{\mu}

    since :math:`H(e - p) = (H - \bar H) e - (G + H p)` for the error e. It is never far above :math:`\|e\|` itself once
    :math:`L_H \varepsilon \ll \mu`, while `lower_error` is above it by up to the condition number of H.

    Parameters
    ----------
    norm_p : tensor, shape (B,)
        2-norm of the correction p.
    residual : tensor, shape (B,)
        2-norm of G + H p.
    eps : tensor, shape (B,)
        The bound of `lower_error`.
    mu, LH : tensor, shape (B,), or float
        Lower bound of the eigenvalues of the Hessian; upper bound of its Lipschitz constant.

    Returns
    -------
    tensor, shape (B,)
        In units of x; take the smaller of this and `eps`.

    Examples
    --------
    A quadratic with eigenvalues 1 and 100, at distance 1 along the second: the gradient has the norm 100.

    >>> lower_error(100.0, 1.0), lower_error_newton(1.0, 0.0, 100.0, mu=1.0, LH=0.0)
    (100.0, 1.0)
    """
    return norm_p + (residual + 0.5 * LH * eps**2) / mu


def value_bar_plain(grad_norm, eps, Lg):
    r"""Bound the error of the plain value g(x).

    .. math:: |g(\hat x) - g(x)| \le b_0 = \|\nabla g(x)\| \varepsilon + \tfrac12 L_g \varepsilon^2

    It is linear in :math:`\varepsilon`; `value_bar_corrected` is quadratic.

    Parameters
    ----------
    grad_norm : tensor, shape (B,)
        2-norm of the gradient of g at x.
    eps : tensor, shape (B,)
        Bound of the distance to the minimiser, from `lower_error`.
    Lg : tensor, shape (B,), or float
        Upper bound of the Lipschitz constant of grad g.

    Returns
    -------
    tensor, shape (B,)
        In units of g.

    Examples
    --------
    g = x^2 / 2 at x = 1, when the minimiser is 1.1: the error is 0.105, and the bar is met exactly.

    >>> round(value_bar_plain(1.0, 0.1, 1.0), 12)
    0.105
    """
    return grad_norm * eps + 0.5 * Lg * eps**2


def value_bar_corrected(delta, eps, Lg, LH, norm_q):
    r"""Bound the error of the value that the adjoint corrects, :math:`c = g(x) - q^T G(x)`.

    .. math:: |g(\hat x) - c| \le b_1 = \delta \varepsilon + \tfrac12 (L_g + L_H \|q\|) \varepsilon^2

    With :math:`e = \hat x - x` and the mean Hessian :math:`\bar H` between the two, :math:`G = -\bar H e`, so that
    :math:`\nabla g^T e + q^T G = r^T e + q^T (H - \bar H) e`: the term linear in e is gone but for the residual r.

    Parameters
    ----------
    delta : tensor, shape (B,)
        Bound of the 2-norm of the adjoint's residual, grad g - H q.
    eps : tensor, shape (B,)
        Bound of the distance to the minimiser, from `lower_error`.
    Lg, LH : tensor, shape (B,), or float
        Upper bounds of the Lipschitz constants of grad g and of the Hessian of h; LH = 0 for a quadratic h.
    norm_q : tensor, shape (B,)
        2-norm of the adjoint q.

    Returns
    -------
    tensor, shape (B,)
        In units of g; quadratic in eps where delta is of the order of eps.

    Examples
    --------
    A plain value with |grad g| = 1 would have the bar 1e-2 here:

    >>> round(value_bar_corrected(1e-3, 1e-2, 1.0, 2.0, 0.5), 9)
    0.00011
    """
    return delta * eps + 0.5 * (Lg + LH * norm_q) * eps**2


def value_bar_estimated(delta, eps, Lg, safety=2.0):
    r"""Estimate the error of the corrected value when LH is unknown or absurdly large.

    .. math:: b_1^e = s (\delta \varepsilon + L_g \varepsilon^2)

    Not a bound: what uses it must not call its answer certified.

    Parameters
    ----------
    delta : tensor, shape (B,)
        Bound of the 2-norm of the adjoint's residual.
    eps : tensor, shape (B,)
        Bound of the distance to the minimiser.
    Lg : tensor, shape (B,), or float
        Lipschitz constant of grad g, or its estimate.
    safety : float
        The factor s; 2 (the default) was never too small along learning runs of total-variation denoising, where
        LH by the formula is in the thousands.

    Returns
    -------
    tensor, shape (B,)
        In units of g.

    Examples
    --------
    >>> round(value_bar_estimated(1e-3, 1e-2, 1.0), 9)
    0.00022
    """
    return safety * (delta * eps + Lg * eps**2)


def hypergradient_bar_maid(grad_norm, eps, delta, *, mu, Lg, LH, LJ, norm_J):
    r"""Bound the error of the hypergradient z by the published formula (Theorem 2.1 of the paper on MAID).

    .. math:: \omega = \Big(\frac{L_g \|J\|}{\mu} + \frac{L_H \|\nabla g\| \|J\|}{\mu^2} + \frac{L_J \|\nabla g\|}{\mu}
              \Big) \varepsilon + \frac{\|J\|}{\mu} \delta + \frac{L_J L_g}{\mu} \varepsilon^2
              \ge \|z - \nabla f\|

    Parameters
    ----------
    grad_norm : tensor, shape (B,)
        2-norm of the gradient of g at x.
    eps : tensor, shape (B,)
        Bound of the distance to the minimiser, from `lower_error`.
    delta : tensor, shape (B,)
        Bound of the 2-norm of the adjoint's residual.
    mu, Lg, LH, LJ : tensor, shape (B,), or float
        Lower bound of the eigenvalues of the Hessian; upper bounds of the Lipschitz constants of grad g, H and J.
    norm_J : tensor, shape (B,)
        Upper bound of the spectral norm of J at x.

    Returns
    -------
    tensor, shape (B,)
        In units of the hypergradient, as a 2-norm. It assumes that grad_theta g, where g depends on theta, is exact.

    Examples
    --------
    >>> print(f"{hypergradient_bar_maid(1.0, 0.01, 0.0, mu=0.1, Lg=1.0, LH=0.0, LJ=0.0, norm_J=1.0):.3f}")
    0.100
    """
    linear = (Lg * norm_J + LH * grad_norm * norm_J / mu + LJ * grad_norm) / mu
    return linear * eps + norm_J / mu * delta + LJ * Lg / mu * eps**2


def hypergradient_bar(norm_q, eps, delta, *, mu, Lg, LH, LJ, norm_J, Lt=0.0):
    r"""Bound the error of the hypergradient z with the adjoint that is at hand.

    .. math:: e_q = \frac{\delta + (L_g + L_H \|q\|) \varepsilon}{\mu}, \qquad
              \omega_+ = L_J \varepsilon \|q\| + (\|J\| + L_J \varepsilon) e_q + L_t \varepsilon
              \ge \|z - \nabla f\|

    :math:`e_q` bounds the error of q itself, by :math:`\hat H (q - \hat q) = (\hat H - H) q + (\nabla g - \nabla\hat g)
    - r`. Where :math:`\|q\|` is much smaller than its bound :math:`\|\nabla g\| / \mu`, that is for a small `mu`, this
    is many times below `hypergradient_bar_maid`.

    Parameters
    ----------
    norm_q : tensor, shape (B,)
        2-norm of the adjoint q.
    eps : tensor, shape (B,)
        Bound of the distance to the minimiser, from `lower_error`.
    delta : tensor, shape (B,)
        Bound of the 2-norm of the adjoint's residual.
    mu, Lg, LH, LJ : tensor, shape (B,), or float
        Lower bound of the eigenvalues of the Hessian; upper bounds of the Lipschitz constants of grad g, H and J.
    norm_J : tensor, shape (B,)
        Upper bound of the spectral norm of J at x.
    Lt : tensor, shape (B,), or float
        Upper bound of the Lipschitz constant in x of grad_theta g; 0 (the default) where that does not depend on x.

    Returns
    -------
    tensor, shape (B,)
        In units of the hypergradient, as a 2-norm.

    Examples
    --------
    The adjoint is ten times smaller than |grad g| / mu would allow, and with LH = 1 so is nearly the bar:

    >>> print(f"{hypergradient_bar(1.0, 0.01, 0.0, mu=0.1, Lg=0.0, LH=1.0, LJ=0.0, norm_J=1.0):.3f}")
    0.100
    >>> print(f"{hypergradient_bar_maid(1.0, 0.01, 0.0, mu=0.1, Lg=0.0, LH=1.0, LJ=0.0, norm_J=1.0):.3f}")
    1.000
    """
    error_q = (delta + (Lg + LH * norm_q) * eps) / mu
    return LJ * eps * norm_q + (norm_J + LJ * eps) * error_q + Lt * eps


def hypergradient_bar_response(norm_q, norm_S, eps, delta, *, mu, Lg, LH, LJ, Lt=0.0):
    r"""Bound the error of the hypergradient z with the response of the minimiser, :math:`S = -H^{-1} J`.

    .. math:: \|\hat q\| \le Q = \|q\| + e_q, \qquad \omega_S = \|S\| (\delta + (L_g + L_H Q) \varepsilon)
              + L_J \varepsilon Q + L_t \varepsilon \ge \|z - \nabla f\|

    It is `hypergradient_bar` with the true size of :math:`H^{-1} J` in place of :math:`\|J\| / \mu`, from
    :math:`J^T (q - \hat q) = -S^T [\nabla g - \nabla\hat g - r + (\hat H - H) \hat q]`. With an S that leaves the
    residual R = J + H S, the norm to pass is :math:`\|S\| + \|R\| / \mu`.

    Parameters
    ----------
    norm_q : tensor, shape (B,)
        2-norm of the adjoint q.
    norm_S : tensor, shape (B,)
        Upper bound of the spectral norm of H^-1 J at x.
    eps : tensor, shape (B,)
        Bound of the distance to the minimiser.
    delta : tensor, shape (B,)
        Bound of the 2-norm of the adjoint's residual.
    mu, Lg, LH, LJ : tensor, shape (B,), or float
        Lower bound of the eigenvalues of the Hessian; upper bounds of the Lipschitz constants of grad g, H and J.
    Lt : tensor, shape (B,), or float
        Upper bound of the Lipschitz constant in x of grad_theta g; 0 (the default) where that does not depend on x.

    Returns
    -------
    tensor, shape (B,)
        In units of the hypergradient, as a 2-norm; take the smaller of this and `hypergradient_bar`.

    Examples
    --------
    J acts where H is 1, while mu = 0.1 belongs to another direction:

    >>> constants = dict(mu=0.1, Lg=1.0, LH=0.0, LJ=0.0)
    >>> print(f"{hypergradient_bar(1.0, 0.01, 0.0, norm_J=1.0, **constants):.3f}")
    0.100
    >>> print(f"{hypergradient_bar_response(1.0, 1.0, 0.01, 0.0, **constants):.3f}")
    0.010
    """
    norm_true = norm_q + (delta + (Lg + LH * norm_q) * eps) / mu
    return norm_S * (delta + (Lg + LH * norm_true) * eps) + LJ * eps * norm_true + Lt * eps
