r"""Probabilities from squared distances: one temperature, chosen on trials that the class means have not seen.

.. math:: p_c \propto \exp\Bigl(-\frac{d_c^2}{2 \tau}\Bigr)

Notation  D (N, k) squared distances; beta = 1 / (2 tau); a target of 1 - 1 / (N + 2) for the true class keeps tau
          positive where the classes separate.
Cost      a convex problem in one unknown: some ten passes over D.
Pitfalls  distances of the trials that made the means are too small, and so is a temperature learned from them.
References  J. Platt, Probabilistic outputs for support vector machines, 1999. C. Guo, G. Pleiss, Y. Sun, K. Weinberger,
            On calibration of modern neural networks, 2017, arXiv 1706.04599.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

__all__ = ["distance_probabilities", "fit_temperature"]

_RANGE = 1e8  # of beta about the inverse of the typical difference of squared distances


def fit_temperature(D, codes):
    """Return the temperature of the greatest likelihood.

    Parameters
    ----------
    D : ndarray, shape (N, k)
        Squared distances of held-out trials from the means of the classes, in any units.
    codes : ndarray of int, shape (N,)
        True classes from 0.

    Returns
    -------
    float
        tau > 0, in the units of `D`; 1 where all distances are equal.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.temperature import distance_probabilities, fit_temperature
    >>> D = np.array([[0.0, 1.0]] * 3 + [[1.0, 0.0]])
    >>> tau = fit_temperature(D, np.zeros(4, dtype=int))
    >>> distance_probabilities(D[:1], tau).round(2)  # three of four, held back a little
    array([[0.67, 0.33]])
    """
    n, k = D.shape
    D = D - D.min(1, keepdims=True)
    unit = float(np.mean(D)) * k / max(k - 1, 1)
    if not unit > 0:
        return 1.0
    D = D / unit
    target = np.full((n, k), 1 / (n + 2) / max(k - 1, 1))
    target[np.arange(n), codes] = 1 - 1 / (n + 2)

    def slope(log_beta):
        """Return the derivative of the negative log-likelihood by beta, which grows with beta."""
        return float(np.sum((target - softmax(-np.exp(log_beta) * D, axis=1)) * D))

    low, high = -np.log(_RANGE), np.log(_RANGE)
    if slope(low) >= 0:  # no better than chance: nearly equal probabilities
        log_beta = low
    elif slope(high) <= 0:
        log_beta = high
    else:
        log_beta = brentq(slope, low, high, xtol=1e-12)
    return unit / (2 * np.exp(log_beta))


def distance_probabilities(D, tau):
    """Return probabilities of the classes.

    Parameters
    ----------
    D : ndarray, shape (N, k)
        Squared distances.
    tau : float
        Temperature, in the units of `D`.

    Returns
    -------
    ndarray, shape (N, k)
        Rows sum to one.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.temperature import distance_probabilities
    >>> distance_probabilities(np.array([[1.0, 1.0]]), 2.0).tolist()
    [[0.5, 0.5]]
    """
    return softmax(-(D - D.min(1, keepdims=True)) / (2 * tau), axis=1)
