r"""Covariances of trials with lagged copies and slow functions of time as further channels.

.. math:: z_t = (x_t / s, x_{t+l} / s, \dots, x_{t+(p-1)l} / s, p_0(t), \dots, p_{K-1}(t))

With K = 0 the matrix is the covariance of z (p = 1: of the trial); with K >= 1 it is the second moment of z, whose
cross block holds means and trends. Block (i, j) of the lagged part is the autocovariance R((i-j) l), so that the matrix
is that of the Yule-Walker equations of an autoregression of order p with delay l.

Notation  x (n, T) trial; p order; l lag; K number of polynomials p_k; s scale; T' = T - (p-1) l common samples.
Cost      see `lag_bank`: the products of each lag once, and N (np)^2 to write each matrix.
Pitfalls  the windowed and the Toeplitz estimate differ by a share (p-1) l / T: never mix them. Neither wraps around.
          Trials must be longer than p l samples, so that the windows overlap enough to say anything.
References  I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023, arXiv
            2302.04508. M. Calvo, J. M. Oller, A distance between multivariate normal distributions based in an
            embedding into the Siegel group, 1990.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.covariance import shrunk
from sciml.stats.spd.lag_bank import LagBank
from sciml.stats.spd.time_basis import legendre_basis
from sciml.validation import check_number, check_option

__all__ = ["augmented_covariance", "stacked_series"]

LAG_ESTIMATORS = ("windowed", "toeplitz")


def augmented_covariance(
    x, order=1, lag=1, *, n_basis=0, scale=1.0, lag_estimator="windowed", unbiased=False, shrink=0.0
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
    lag_estimator : {"windowed", "toeplitz"}
        Over the samples common to all windows (the default), or from biased autocovariances of the trial padded by
        zeros.
    unbiased : bool
        Divide by T' - 1 instead of T', for a windowed covariance without polynomials; False by default.
    shrink : float
        Relative shrinkage from 0 to 1; 0 by default.

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
    check_option("lag_estimator", lag_estimator, LAG_ESTIMATORS)
    check_length(bank.n_times, order, lag, n_basis)
    build = _windowed if lag_estimator == "windowed" else _toeplitz
    C, cross = build(bank, order, lag, n_basis)
    if unbiased and lag_estimator == "windowed" and not n_basis:
        T = bank.n_times - (order - 1) * lag
        C *= T / (T - 1)
    if n_basis:
        C = _bordered(C, cross, scale)
    elif scale != 1:
        C /= scale**2
    return shrunk(C, check_number("shrink", shrink, low=0, high=1))


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


def _windowed(bank, order, lag, K):
    """Return the lagged part, not yet scaled, and its products with the polynomials; the windows' common samples."""
    C, w = bank.windowed(order, lag), bank.window_means(order, lag)
    if not K:
        C -= w[:, :, None] * w[:, None, :]
        return C, None
    # Sums, not differences: with an offset mu, E x_i x_j' = C_ij + w_i mu' + mu w_j' + mu mu' loses no digits.
    mu = np.tile(bank.mean, order)
    C += w[:, :, None] * mu[:, None, :] + mu[:, :, None] * (w + mu)[:, None, :]
    T = bank.n_times - (order - 1) * lag
    P = legendre_basis(T, K)
    cross = np.concatenate([bank.x[:, :, i * lag : i * lag + T] @ P.T / T for i in range(order)], axis=1)
    cross[:, :, 0] = w + mu
    return C, cross


def _toeplitz(bank, order, lag, K):
    """Return the same for the trial padded by zeros."""
    if not K:
        return bank.toeplitz(order, lag), None
    T, mu = bank.n_times, bank.mean
    x = bank.x + mu[:, :, None]
    C, P = bank.toeplitz(order, lag, centred=False), legendre_basis(T, K)
    cross = [x[:, :, i * lag :] @ P[:, : T - i * lag].T / T for i in range(order)]
    return C, np.concatenate(cross, axis=1)


def _bordered(C, cross, scale):
    """Return ((C / s^2, cross / s), (cross' / s, I)): the polynomials are orthonormal."""
    N, d, K = cross.shape
    whole = np.empty((N, d + K, d + K))
    np.divide(C, scale**2, out=whole[:, :d, :d])
    np.divide(cross, scale, out=whole[:, :d, d:])
    whole[:, d:, :d] = whole[:, :d, d:].transpose(0, 2, 1)
    whole[:, d:, d:] = np.eye(K)
    return whole


def stacked_series(x, order=1, lag=1, *, n_basis=0, scale=1.0):
    """Return the augmented trials themselves, for estimators that need the samples.

    Parameters
    ----------
    x : ndarray, shape (N, n, T)
        Trials of equal length.
    order, lag, n_basis : int
        As for `augmented_covariance`.
    scale : float
        s, units of the data; 1 by default.

    Returns
    -------
    ndarray, shape (N, n p + K, T - (p-1) l)
        The series z.

    Raises
    ------
    InvalidInputError
        If trials are not longer than order * lag samples.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.augmented import stacked_series
    >>> stacked_series(np.arange(5.0)[None, None], 2, 2, n_basis=1)[0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [1.0, 1.0, 1.0]]
    """
    check_length(x.shape[2], order, lag, n_basis)
    T = x.shape[2] - (order - 1) * lag
    parts = [x[:, :, i * lag : i * lag + T] / scale for i in range(order)]
    if n_basis:
        parts.append(np.broadcast_to(legendre_basis(T, n_basis), (len(x), n_basis, T)))
    return np.concatenate(parts, axis=1)
