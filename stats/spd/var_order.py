r"""Order and delay of a vector autoregression by an information criterion, from the lag bank.

.. math:: x_t = \sum_{i=1}^{q} A_i x_{t-il} + e_t, \qquad
          \mathrm{BIC}(q, l) = \sum_{\text{trials}} T \log \det V_q + q n^2 \log T

Notation  Gam_k = R(k l) (N, n, n) autocovariances of each trial; A_i, B_i forward and backward coefficients; V, U their
          error covariances; D = Gam_{q+1} - sum_i A_i Gam_{q+1-i}; q order of the autoregression.
Cost      N q_max^2 n^3 for each delay by the block Levinson recursion of Whittle, besides the bank.
Pitfalls  an autoregression of order q is told by R(0), ..., R(q l), so its augmented covariance has order q + 1.
          Smooth, oversampled signals always favour delay 1, from which the next sample is predicted best: thin the
          signal first, or let `lag_screen` judge by the classes.
References  P. Whittle, On the fitting of multivariate autoregressions, 1963. G. Schwarz, Estimating the dimension of a
            model, 1978. E. Hannan, B. Quinn, The determination of the order of an autoregression, 1979.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.lag_bank import LagBank
from sciml.validation import check_option

__all__ = ["information_criterion"]

# A share of each variance on the diagonal: referenced or interpolated channels leave Gam_0 singular.
_RIDGE = 1e-8


def information_criterion(trials, orders, lags, *, criterion="bic"):
    """Return the criterion of autoregressions, one for each trial, summed over trials.

    Parameters
    ----------
    trials : Trials
        Series.
    orders : sequence of int
        Orders p = q + 1 of augmented covariances, at least 1.
    lags : sequence of int
        Delays l, at least 1.
    criterion : {"bic", "hq"}
        Bayesian (the default, consistent) or Hannan and Quinn's, which allows larger orders.

    Returns
    -------
    ndarray, shape (orders, lags)
        Dimensionless, smaller is better; inf where p l reaches the length of the shortest trial.

    Raises
    ------
    InvalidInputError
        If no order and lag fit into the shortest trial.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.trials import as_trials
    >>> from sciml.stats.spd.var_order import information_criterion
    >>> e = np.random.default_rng(0).normal(size=(5, 1, 503))
    >>> x = e.copy()
    >>> for t in range(3, 503):
    ...     x[:, :, t] += 0.8 * x[:, :, t - 3]
    >>> table = information_criterion(as_trials(x), (1, 2, 3), (1, 2, 3))
    >>> [int(i) for i in np.unravel_index(table.argmin(), table.shape)]
    [1, 2]
    """
    check_option("criterion", criterion, ("bic", "hq"))
    orders, lags = np.asarray(orders), np.asarray(lags)
    fits = (orders[:, None] * lags < trials.lengths.min()) | (orders[:, None] == 1)
    if not fits.any():
        raise InvalidInputError(
            f"orders and lags must fit into the shortest trial of {trials.lengths.min()} samples; got products from "
            f"{(orders[:, None] * lags).min()} on. Lower them."
        )
    table = np.where(fits, 0.0, np.inf)
    for _, block in trials.groups:
        T, n = block.shape[2], block.shape[1]
        price = n**2 * (np.log(T) if criterion == "bic" else 2 * np.log(np.log(max(T, 3))))
        bank = LagBank(block)
        for j, lag in enumerate(lags):
            if not fits[:, j].any():
                continue
            top = orders[fits[:, j]].max()
            logdets = _levinson([bank.sums(k * lag) / T for k in range(top)], bank.mean)
            for i in np.flatnonzero(fits[:, j]):
                q = orders[i] - 1
                table[i, j] += (T * logdets[q] + q * price).sum()
    return table


def _levinson(Gam, mean):
    """Return log det V_q, (q_max + 1, N), for q = 0, ..., q_max from Gam_0, ..., Gam_{q_max} and the trials' means."""
    n = Gam[0].shape[1]
    variance = Gam[0].diagonal(0, 1, 2)
    # A flat channel varies by the rounding of its mean only; as noise of its own it costs the same at all orders.
    flat = variance <= (1e-13 * mean) ** 2
    level = np.where(flat, variance.max(axis=1, keepdims=True), _RIDGE * variance)
    V = Gam[0] + level[:, None, :] * np.eye(n)
    U, A, B, logdets = V, [], [], [np.linalg.slogdet(V)[1]]
    for q in range(len(Gam) - 1):
        D = Gam[q + 1] - sum(a @ Gam[q - i] for i, a in enumerate(A))
        # a_next = D U^{-1}, b_next = D' V^{-1}, by solves with the symmetric U and V.
        a_next = np.linalg.solve(U, D.transpose(0, 2, 1)).transpose(0, 2, 1)
        b_next = np.linalg.solve(V, D).transpose(0, 2, 1)
        A, B = (
            [a - a_next @ b for a, b in zip(A, B[::-1], strict=True)] + [a_next],
            [b - b_next @ a for a, b in zip(A[::-1], B, strict=True)] + [b_next],
        )
        V, U = V - a_next @ D.transpose(0, 2, 1), U - b_next @ D
        V, U = (V + V.transpose(0, 2, 1)) / 2, (U + U.transpose(0, 2, 1)) / 2
        logdets.append(np.linalg.slogdet(V)[1])
    return np.array(logdets)
