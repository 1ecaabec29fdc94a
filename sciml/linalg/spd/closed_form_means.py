r"""Means of positive definite matrices that need no iteration, and the door to all means by name.

.. math:: M = f^{-1} \Bigl( \sum_i w_i f(X_i) \Bigr), \qquad f = \log, \; \text{log-Cholesky}, \; \mathrm{id}, \;
          X \mapsto X^{-1}, \; X \mapsto X^p.

Notation  X (N, n, n); w (N,) weights that sum to one; p exponent; theta the power of a deformed geometry.
Cost      one decomposition a matrix.
Pitfalls  the arithmetic mean swells: its determinant may exceed those of all matrices.
References  V. Arsigny, P. Fillard, X. Pennec, N. Ayache, 2007. Z. Lin, 2019. Y. Lim, M. Palfia, Matrix power means and
            the Karcher mean, 2012. I. Dryden, X. Pennec, J. Peyrat, Power Euclidean metrics for covariances, 2010.
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidInputError
from sciml.iterate import Status
from sciml.linalg.spd import barycentres, karcher
from sciml.linalg.spd.checks import symmetrise
from sciml.linalg.spd.distances import (
    check_parameters,
    definite_factor,
    deform,
    enter_metric,
    log_cholesky_coordinates,
    logarithm,
    power,
)
from sciml.linalg.spd.factors import factor
from sciml.linalg.spd.functions import spectral
from sciml.linalg.spd.mean_result import MeanResult, enter_matrices
from sciml.linalg.spd.metrics import MEANS, canonical_metric
from sciml.validation import check_number

__all__ = ["spd_mean"]


def _average(w, X):
    return torch.einsum("i,ijk->jk", w.to(X.dtype), X)


def _log_euclidean(X, w, eps, p):
    return spectral(_average(w, logarithm(X, "X", eps)), "exp")


def _log_cholesky(X, w, eps, p):
    K = _average(w, log_cholesky_coordinates(X, "X", eps))
    K = K.tril(-1) + torch.diag_embed(K.diagonal().real.exp()).to(K.dtype)
    return K @ K.mH


def _arithmetic(X, w, eps, p):
    factor(X.detach(), "X", eps)  # names what is indefinite
    return _average(w, X)


def _harmonic(X, w, eps, p):
    definite_factor(X, "X", eps)
    return spectral(symmetrise(_average(w, spectral(X, "inv"))), "inv")


def _power(X, w, eps, p):
    return power(symmetrise(_average(w, power(X, "X", p, eps))), "X", 1 / p, eps)


_CLOSED = {
    "logeuclid": _log_euclidean,
    "logchol": _log_cholesky,
    "euclid": _arithmetic,
    "harmonic": _harmonic,
    "power": _power,
}


def spd_mean(
    X, weights=None, *, metric="bw", theta=1.0, M=None, p=0.5, tol=None, max_iter=None, callback=None, on_failure=None
):
    r"""Return the mean of positive definite matrices in a geometry by name.

    Parameters
    ----------
    X : array, shape (N, n, n)
        Positive definite matrices; for "bw", "gbw", "euclid" and "power" with positive `p` also singular ones.
    weights : array, shape (N,), or None
        Not negative; any sum. None (the default) weighs all the same.
    metric : str
        "bw" (the default), "gbw", "airm", "logeuclid", "logchol", "euclid", "harmonic", "power", or another name of
        theirs, such as "riemann" or "wasserstein".
    theta : float
        Power by which the geometry is deformed: the mean of the powers, raised to 1 / theta. Not 0; 1 by default.
    M : array, shape (n, n), or None
        Metric parameter of "gbw"; None for all other metrics.
    p : float
        Exponent of "power", not 0; 0.5 by default, which is the distance of square roots.
    tol, max_iter, callback, on_failure
        As in :func:`bures_mean` and :func:`affine_invariant_mean`, whose defaults None stands for.

    Returns
    -------
    MeanResult
        ``mean`` (n, n) in the units of `X`, with gradients; ``converged`` is true for a closed form.

    Raises
    ------
    InvalidInputError
        If an option is unknown, the matrices are not square, symmetric and finite, or weights do not match them.
    NotPositiveDefiniteError
        If a matrix is indefinite, or singular where the geometry has no place for that.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import spd_mean
    >>> X = np.array([[[1.0]], [[4.0]]])
    >>> [round(float(spd_mean(X, metric=name).mean[0, 0]), 6) for name in ("bw", "riemann", "euclid", "harmonic")]
    [2.25, 2.0, 2.5, 1.6]
    """
    metric = canonical_metric(metric, MEANS)
    if metric in ("harmonic", "power"):
        if M is not None:
            raise InvalidInputError(f"M must be None for metric={metric!r}; got one. Use metric='gbw'.")
        theta = check_number("theta", theta)
        if theta != 1:
            raise InvalidInputError(f"theta must be 1 for metric={metric!r}; got {theta}. Use p of metric='power'.")
        p = check_number("p", p)
        if p == 0:
            raise InvalidInputError("p must not be 0; got 0. For the limit at 0 use metric='logeuclid'.")
    else:
        metric, theta = check_parameters(metric, theta, M)
    (X, w), leave, eps, scale = enter_matrices(X, weights)
    M = enter_metric(M, X)
    X = deform(X, "X", metric, theta, M, eps)
    loop = {key: value for key, value in (("tol", tol), ("max_iter", max_iter)) if value is not None}
    loop |= {"callback": callback, "on_failure": on_failure}
    settings = {"metric": metric, "theta": theta, "scale": scale, "n_matrices": len(X), "dtype": str(X.dtype)}
    ended, residual = None, 0.0
    if metric in ("bw", "gbw"):
        mean, ended, settings["method"] = barycentres.mean_of_tensors(X, w, eps, **loop)
    elif metric == "airm":
        mean, ended = karcher.mean_of_tensors(X, w, eps, **loop)
    else:
        settings |= {"method": "closed form"} | ({"p": p} if metric == "power" else {})
        mean = symmetrise(_CLOSED[metric](X, w, eps, p))
    if ended is not None:
        residual = ended.history["criterion"][-1]
    if metric == "gbw":
        C = torch.linalg.cholesky(M)
        mean = symmetrise(C @ mean @ C.mH)
    if theta != 1:
        mean = power(mean, "X", 1 / theta, eps)
    given = {} if ended is not None else {"status": Status.CONVERGED}
    return MeanResult.of(ended, settings, mean=leave(mean), residual=residual, metric=metric, **given)
