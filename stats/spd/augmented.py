r"""Covariances of trials with lagged copies and slow functions of time as further channels.

.. math:: z_t = (x_t, x_{t+l}, \dots, x_{t+(p-1)l}) / s, \qquad
          M = \begin{pmatrix} \hat S + c c' & c \\ c' & I \end{pmatrix}, \qquad c = \overline{z p'}

S is the covariance of what the polynomials p_0, ..., p_{K-1} leave of z. With the plain estimate of S and no shrinkage,
M is the second moment of (z, p); with K = 0 it is the covariance of z (p = 1: of the trial). Block (i, j) of the lagged
part is the autocovariance R((i-j) l): the matrix of the Yule-Walker equations of an autoregression of order p, delay l.

Notation  x (n, T) trial; p order; l lag; K number of polynomials p_k; s scale; T' = T - (p-1) l common samples;
          c (np, K).
Cost      see `lag_bank`: the products of each lag once, and N (np)^2 to write each matrix.
Pitfalls  the windowed and the Toeplitz estimate differ by a share (p-1) l / T: never mix them. Neither wraps around.
          Only S is shrunk, not c c': with an offset far above the signal, shrinkage relative to the trace of M would
          drown the covariance (EyesOpenShut: 38 % became 62 %). Trials must be longer than p l samples.
References  I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023, arXiv
            2302.04508. M. Calvo, J. M. Oller, A distance between multivariate normal distributions based in an
            embedding into the Siegel group, 1990.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.covariance import check_estimator_name, covariance, shrunk
from sciml.stats.spd.lag_bank import LagBank
from sciml.stats.spd.time_basis import legendre_basis
from sciml.validation import check_number, check_option

__all__ = ["augmented_covariance"]

LAG_ESTIMATORS = ("windowed", "toeplitz")


def augmented_covariance(
    x, order=1, lag=1, *, n_basis=0, scale=1.0, estimator="scm", shrink=0.0, lag_estimator="windowed"
):
    r"""Return the covariances of trials augmented by lags and polynomials.

    Parameters
    ----------
    x : ndarray, shape (N, n, T), or LagBank
        Trials of equal length; a `LagBank` of them where several orders and lags are wanted.
    order : int
        Number of windows p; 1, the default, is the trial itself.
    lag : int
        Samples between windows l; 1 by default.
    n_basis : int
        Number of polynomials K; 0, the default: a plain covariance.
    scale : float
        s, units of the data; 1 by default. The root mean square of the training trials makes the blocks comparable.
    estimator : str
        Of S, one of `covariance.ESTIMATORS`; "scm" by default. "scm_unbiased" divides by T' - max(K, 1).
    shrink : float
        Relative shrinkage of S towards its mean variance, from 0 to 1; 0 by default.
    lag_estimator : {"windowed", "toeplitz"}
        Over the samples common to all windows (the default), or from biased autocovariances of the centred trial padded
        by zeros; the latter with "scm" only.

    Returns
    -------
    ndarray, shape (N, n p + K, n p + K)
        Symmetric positive semidefinite; the lagged part has units of the data squared over those of s squared. Rows i n
        to (i+1) n belong to window i, the last K to the polynomials.

    Raises
    ------
    InvalidInputError
        If trials are not longer than order * lag samples, or an argument breaks its rule.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.augmented import augmented_covariance
    >>> x = np.array([[[1.0, -1.0, 1.0, -1.0, 1.0, -1.0]]])
    >>> augmented_covariance(x, 2, 2)[0].round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    >>> augmented_covariance(x, 2, 2, lag_estimator="toeplitz")[0].round(6).tolist()
    [[1.0, 0.666667], [0.666667, 1.0]]
    """
    bank = x if isinstance(x, LagBank) else LagBank(x)
    order = check_number("order", order, low=1, integer=True)
    lag = check_number("lag", lag, low=1, integer=True)
    estimator = check_estimator_name(estimator)
    shrink = check_number("shrink", shrink, low=0, high=1)
    check_option("lag_estimator", lag_estimator, LAG_ESTIMATORS)
    check_length(bank.n_times, order, lag, n_basis)
    if lag_estimator == "toeplitz" and estimator != "scm":
        raise InvalidInputError(
            f'lag_estimator="toeplitz" goes with estimator="scm" only; got {estimator!r}. Use "windowed".'
        )
    T = bank.n_times - (order - 1) * lag
    c = _trends(bank, order, lag, n_basis, padded=lag_estimator == "toeplitz")
    if estimator in ("scm", "scm_unbiased"):
        S = bank.toeplitz(order, lag) if lag_estimator == "toeplitz" else bank.windowed(order, lag)
        if c.shape[2]:
            S -= c @ c.transpose(0, 2, 1)
        if estimator == "scm_unbiased":
            S *= T / max(T - max(n_basis, 1), 1)
        S = shrunk(S, shrink)
    else:
        z = np.concatenate([bank.x[:, :, i * lag : i * lag + T] for i in range(order)], axis=1)
        z -= c @ legendre_basis(T, c.shape[2])
        S = covariance(z, estimator, shrink, assume_centered=True) if n_basis else covariance(z, estimator, shrink)
    if scale != 1:
        S /= scale**2
    return _bordered(S, c, np.tile(bank.mean, order), scale) if n_basis else S


def check_length(T, order, lag, n_basis, trial=None):
    """Refuse orders and lags that reach too far, naming the trial where its number is known."""
    if order > 1 and order * lag >= T:
        which = f"trial {trial} has" if trial is not None else "they have"
        raise InvalidInputError(
            f"trials must be longer than order * lag = {order} * {lag} = {order * lag} samples; {which} {T}. "
            "Lower order or lag, or remove the short trials."
        )
    if n_basis > T - (order - 1) * lag:
        which = f"trial {trial} leaves" if trial is not None else "they leave"
        raise InvalidInputError(
            f"n_basis must be at most the number of samples common to all windows; got n_basis={n_basis}, and {which} "
            f"{T - (order - 1) * lag}."
        )


def _trends(bank, order, lag, K, padded):
    """Return the products of the windows of centred trials with the polynomials, (N, np, K); with p_0 for K = 0.

    The offsets are added at the very end: as long as they are out, nothing large is subtracted from something large.
    """
    T = bank.n_times if padded else bank.n_times - (order - 1) * lag
    if padded and not K:
        return np.zeros((len(bank.x), order * bank.x.shape[1], 0))
    P = legendre_basis(T, max(K, 1))
    windows = [bank.x[:, :, i * lag : i * lag + T] for i in range(order)]
    return np.concatenate([w @ P[:, : w.shape[2]].T / T for w in windows], axis=1)


def _bordered(S, c, mean, scale):
    """Return ((S + c c', c), (c', I)), c with its offset and in units of the scale."""
    c[:, :, 0] += mean
    c /= scale
    N, d, K = c.shape
    whole = np.empty((N, d + K, d + K))
    product = c @ c.transpose(0, 2, 1)
    whole[:, :d, :d] = S + (product + product.transpose(0, 2, 1)) / 2
    whole[:, :d, d:] = c
    whole[:, d:, :d] = c.transpose(0, 2, 1)
    whole[:, d:, d:] = np.eye(K)
    return whole
