r"""Estimators of the covariance of a trial, for many trials at once.

.. math:: C = (1 - \gamma) \hat C + \gamma \frac{\operatorname{tr} \hat C}{n} I

Every estimate is multiplied by c^2 where the trial is multiplied by c; shrinkage is relative to the mean variance,
never absolute.

Notation  x (n, T) trial; S = sum_t x_t x_t' / T after centring; mu = tr S / n; gamma shrinkage; d_t = x_t' C^{-1} x_t.
Cost      N T n^2 for the closed forms; times the number of steps, 5 to 50, for the M-estimators.
Pitfalls  with T <= n the estimate is singular unless it is shrunk; M-estimators do not exist there without shrinkage.
          Tyler's estimate has no scale of its own: it is scaled so that the median of d_t is that of Gaussian samples.
References  O. Ledoit, M. Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004. Y. Chen,
            A. Wiesel, Y. Eldar, A. Hero, Shrinkage algorithms for MMSE covariance estimation, 2010, eq. 23. J.
            Schaefer, K. Strimmer, A shrinkage approach to large-scale covariance matrix estimation, 2005. D. Tyler, A
            distribution-free M-estimator of multivariate scatter, 1987. T. Hettmansperger, R. Randles, A practical
            affine equivariant multivariate median, 2002. P. Huber, Robust Statistics, 1981, ch. 8.
"""

from __future__ import annotations

import warnings

import torch
from scipy.stats import chi2

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.linalg.arrays import enter
from sciml.validation import check_number, check_option

__all__ = ["ESTIMATORS", "covariance", "numerical_rank"]

ESTIMATORS = ("scm", "scm_unbiased", "lw", "oas", "ss", "tyler", "huber")
_ALIASES = {"cov": "scm_unbiased", "lwf": "lw", "sch": "ss", "tyl": "tyler", "hub": "huber"}
_STEPS = 500
_TOL = 1e-9


def covariance(x, estimator="scm", shrink=1e-3, *, assume_centered=False):
    r"""Return covariances of trials.

    Parameters
    ----------
    x : array, shape (..., n, T)
        Trials: channels by samples, real; NumPy or torch, in which case gradients flow.
    estimator : {"scm", "scm_unbiased", "lw", "oas", "ss", "tyler", "huber"}
        Divided by T (the default: positive semidefinite, plain), by T - 1, shrunk by Ledoit and Wolf, by oracle
        approximation, or by Schaefer and Strimmer towards the diagonal; or robust against outlying samples. pyRiemann's
        words "cov", "lwf", "sch", "tyl", "hub" are understood.
    shrink : float
        Further shrinkage gamma from 0 to 1 towards the mean variance times the identity; 1e-3 by default, so that the
        condition is at most about 1000 n.
    assume_centered : bool
        Take the second moment about zero instead of about the means; False by default.

    Returns
    -------
    array, shape (..., n, n)
        Symmetric, units of x squared.

    Raises
    ------
    InvalidInputError
        If there are fewer than two samples, or a robust estimate is asked for with T <= n and no shrinkage.

    Warns
    -----
    ConvergenceWarning
        If a robust estimate did not settle to 1e-9 in 500 steps.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.covariance import covariance
    >>> covariance(np.array([[1.0, 3.0], [2.0, 2.0]]), shrink=0)
    array([[1., 0.],
           [0., 0.]])
    """
    (x,), leave = enter(x, names=("x",))
    return leave(_covariance(x, estimator, shrink, assume_centered))


def numerical_rank(C):
    """Return the ranks of covariances.

    Parameters
    ----------
    C : array, shape (..., d, d)
        Symmetric positive semidefinite; NumPy or torch.

    Returns
    -------
    array of int64, shape (...)
        Number of eigenvalues above d eps of the largest, whatever the units.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.covariance import covariance, numerical_rank
    >>> x = np.random.default_rng(0).normal(size=(8, 5))  # five samples of eight channels
    >>> int(numerical_rank(covariance(x, shrink=0))), int(numerical_rank(covariance(x)))
    (4, 8)
    """
    (C,), leave = enter(C, names=("C",))
    w = torch.linalg.eigvalsh(C)
    return leave((w > C.shape[-1] * torch.finfo(w.dtype).eps * w[..., -1:]).sum(dim=-1))


def check_estimator_name(estimator):
    """Return the name of an estimator without alias."""
    word = _ALIASES.get(estimator, estimator) if isinstance(estimator, str) else estimator
    return check_option("estimator", word, ESTIMATORS)


def shrunk(C, gamma):
    """Return matrices shrunk towards their mean variance times the identity; an array in its own memory."""
    if gamma:
        n = C.shape[-1]
        level = gamma * C.diagonal(0, -2, -1).mean(-1)
        if isinstance(C, torch.Tensor):
            C = C * (1 - gamma)  # a new tensor, which derivatives can pass
        else:
            C *= 1 - gamma
        for i in range(n):
            C[..., i, i] += level
    return C


def _covariance(x, estimator, shrink, assume_centered):
    estimator = check_estimator_name(estimator)
    shrink = check_number("shrink", shrink, low=0, high=1)
    if x.is_complex():
        raise InvalidInputError(f"x must be real; got dtype {x.dtype}. Stack real and imaginary parts as channels.")
    if x.ndim < 2 or x.shape[-1] < 2 or not x.shape[-2]:
        raise InvalidInputError(f"x must have shape (..., n, T) with T at least 2; got shape {tuple(x.shape)}.")
    n, T = x.shape[-2:]
    lead, x = x.shape[:-2], x.reshape(-1, n, T)
    # Powers of two, so that squares and fourth powers neither overflow nor lose digits, and units leave no trace.
    peak = x.detach().abs().amax(dim=(-2, -1), keepdim=True)
    unit = torch.where(peak > 0, torch.exp2(torch.floor(torch.log2(peak.clamp_min(torch.finfo(x.dtype).tiny)))), 1.0)
    x = x / unit
    if estimator in ("tyler", "huber"):
        C = _robust(x, estimator, shrink, assume_centered)
    else:
        x = x if assume_centered else x - x.mean(dim=-1, keepdim=True)
        S = x @ x.mT / T
        S = (S + S.mT) / 2
        if estimator == "scm_unbiased" and not assume_centered:
            S = S * (T / (T - 1))
        elif estimator in _SHRINKERS:
            S = _SHRINKERS[estimator](x, S, T)
        C = shrunk(S, shrink)
    return (C * unit**2).reshape(*lead, n, n)


def _towards_identity(S, gamma):
    n = S.shape[-1]
    mu = S.diagonal(dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(n, dtype=S.dtype, device=S.device)
    return (1 - gamma)[:, None, None] * S + (gamma * mu)[:, None, None] * eye


def _ratio(top, bottom, default):
    """Return top / bottom within [0, 1], and a default where the bottom vanishes."""
    fine = bottom > 0
    return torch.where(fine, top / torch.where(fine, bottom, 1.0), default).clamp(0, 1)


def _ledoit_wolf(x, S, T):
    n = S.shape[-1]
    mu = S.diagonal(dim1=-2, dim2=-1).mean(-1)
    squares = (S**2).sum(dim=(-2, -1))
    fourth = (x**2).sum(dim=-2).square().sum(dim=-1) / T
    spread = (fourth - squares) / T
    distance = squares - n * mu**2
    return _towards_identity(S, _ratio(torch.minimum(spread, distance), distance, 0.0))


def _oas(x, S, T):
    n = S.shape[-1]
    mu = S.diagonal(dim1=-2, dim2=-1).mean(-1)
    alpha = (S**2).mean(dim=(-2, -1))
    return _towards_identity(S, _ratio(alpha + mu**2, (T + 1) * (alpha - mu**2 / n), 1.0))


def _schaefer_strimmer(x, S, T):
    n = S.shape[-1]
    variance = S.diagonal(dim1=-2, dim2=-1)
    live = variance > 0  # a flat channel is correlated with none
    x = x / torch.where(live, variance, 1.0).sqrt()[:, :, None]
    R = x @ x.mT / T
    off = ~torch.eye(n, dtype=torch.bool, device=S.device)
    # The variance of an entry of R over samples; both are scaled by T / (T - 1) in the paper, eq. 9 and 10.
    noise = ((x**2) @ (x**2).mT / T - R**2) * (T / (T - 1)) ** 2 / (T - 1)
    R = R * (T / (T - 1))
    gamma = _ratio((noise * off).sum(dim=(-2, -1)), (R**2 * off).sum(dim=(-2, -1)), 0.0)
    S = S * (T / (T - 1))
    return torch.where(off, (1 - gamma)[:, None, None] * S, S)


_SHRINKERS = {"lw": _ledoit_wolf, "oas": _oas, "ss": _schaefer_strimmer}


def _robust(x, estimator, shrink, assume_centered):
    """Return M-estimates of scatter, with that of location unless it is known to be zero."""
    N, n, T = x.shape
    if n >= T and not shrink:
        raise InvalidInputError(
            f"estimator={estimator!r} needs more samples than channels, or shrink > 0; got {T} samples of {n} channels."
        )
    weigh = _huber_weights(n) if estimator == "huber" else _tyler_weights(n)
    mean = torch.zeros_like(x[:, :, :1]) if assume_centered else x.mean(dim=-1, keepdim=True)
    C = _second_moment(x - mean, None, shrink)
    # Tyler's joint estimate of location creeps where samples hardly outnumber channels; the plain mean stays there.
    change = torch.zeros(())
    for _ in range(_STEPS):
        d = _mahalanobis(x - mean, C)
        scatter, place = weigh(d)
        if not assume_centered and (2 * n < T or estimator == "huber"):
            mean = mean + ((x - mean) * place[:, None]).sum(-1, keepdim=True) / place.sum(-1)[:, None, None]
        new = _second_moment(x - mean, scatter, shrink)
        if estimator == "tyler":
            new = new * (_trace(C) / _trace(new))
        change = ((new - C).flatten(1).norm(dim=1) / C.flatten(1).norm(dim=1)).max().detach()
        C = new
        if change <= max(_TOL, 100 * torch.finfo(x.dtype).eps):
            break
    else:
        warnings.warn(
            f"covariance: the {estimator} estimate changed by {float(change):.1e} in the last of {_STEPS} steps, "
            f"tol={_TOL:.0e}. Raise shrink, or look for samples that repeat.",
            ConvergenceWarning,
            stacklevel=4,
        )
    if estimator == "tyler":
        d = _mahalanobis(x - mean, C)
        C = C * (d.median(dim=-1).values / chi2.median(n))[:, None, None]
    return C


def _second_moment(x, weights, shrink):
    weighted = x if weights is None else x * weights[:, None]
    S = weighted @ x.mT / x.shape[-1]
    return shrunk((S + S.mT) / 2, shrink)


def _trace(C):
    return C.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]


def _mahalanobis(x, C):
    L, info = torch.linalg.cholesky_ex(C)
    if bool(info.any()):
        i = int(info.nonzero()[0])
        raise InvalidInputError(
            f"robust estimates need samples that span all channels; those of trial {i} do not. Raise shrink, or remove "
            "channels that are flat or copies of others."
        )
    return torch.linalg.solve_triangular(L, x, upper=False).square().sum(dim=-2)


def _tyler_weights(n):
    def weigh(d):
        # Samples at the centre, to rounding, have no direction.
        floor = 100 * torch.finfo(d.dtype).eps ** 2 * d.mean(-1, keepdim=True)
        live = d > floor
        safe = torch.where(live, d, 1.0)
        return torch.where(live, n / safe, 0.0), torch.where(live, safe.rsqrt(), 0.0)

    return weigh


def _huber_weights(n, share=0.9):
    # A share of Gaussian samples keeps its full weight; b makes the estimate consistent for them.
    k2 = float(chi2.ppf(share, n))
    b = float(chi2.cdf(k2, n + 2) + k2 * (1 - share) / n)

    def weigh(d):
        ratio = k2 / d.clamp_min(torch.finfo(d.dtype).tiny)
        return ratio.clamp(max=1) / b, ratio.clamp(max=1).sqrt()

    return weigh
