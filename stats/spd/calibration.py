r"""Calibration: probabilities that mean what they say, learned from out-of-fold predictions.

.. math:: q = \operatorname{softmax}(a \log p + b)

Notation  p (N, k) probabilities of a mixture; a > 0 inverse temperature; b (k,) shift of each class.
Cost      a smooth convex problem in k + 1 unknowns.
Pitfalls  where all trials are right a would run to infinity: a prior, worth some dozens of trials, holds log a and b.
References  C. Guo, G. Pleiss, Y. Sun, K. Weinberger, On calibration of modern neural networks, 2017, arXiv 1706.04599.
            J. Platt, Probabilistic outputs for support vector machines, 1999.
"""

from __future__ import annotations

import numpy as np
import torch

from sciml.optimize.limited_memory import batched_lbfgs
from sciml.stats.spd.logistic import log_softmax

__all__ = ["CALIBRATIONS", "calibrated", "fit_calibration"]

# Penalties and mixtures are chosen by log-loss, so that probabilities are nearly right before. Each of these is the
# number of trials, about, that must say otherwise; a weaker hold follows the few mistakes of the training trials.
_SLOPE, _SHIFT = 30.0, 100.0

CALIBRATIONS = ("sigmoid", "temperature", "none")


def fit_calibration(log_p, codes, method="sigmoid"):
    """Return the inverse temperature and shifts.

    Parameters
    ----------
    log_p : ndarray, shape (N, k)
        Logarithms of out-of-fold probabilities.
    codes : ndarray of int, shape (N,)
        Classes from 0.
    method : {"sigmoid", "temperature", "none"}
        Temperature and shifts; the temperature alone; or nothing.

    Returns
    -------
    ndarray, shape (k + 1,)
        a, then b.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.calibration import fit_calibration
    >>> log_p = np.log(np.array([[0.99, 0.01]] * 800))
    >>> a, *b = fit_calibration(log_p, np.array([0] * 500 + [1] * 300), "temperature")
    >>> bool(0.0 < a < 0.5)
    True
    """
    k = log_p.shape[1]
    if method == "none":
        return np.concatenate([[1.0], np.zeros(k)])
    L = torch.as_tensor(np.maximum(log_p, -50.0))
    Y = torch.eye(k, dtype=torch.float64)[torch.as_tensor(codes)]
    hold = torch.full((k + 1,), _SHIFT, dtype=torch.float64)
    hold[0] = _SLOPE
    shifts = 1.0 if method == "sigmoid" else 0.0

    def value_and_gradient(x, rows):
        with torch.enable_grad():
            v = x.detach().requires_grad_(True)
            logits = v[:, :1].exp()[:, :, None] * L + shifts * v[:, None, 1:]
            value = -(Y * torch.log_softmax(logits, 2)).sum((1, 2)) + (hold * v.square()).sum(1) / 2
            (gradient,) = torch.autograd.grad(value.sum(), v)
        return value.detach(), gradient

    found = batched_lbfgs(value_and_gradient, torch.zeros(1, k + 1, dtype=torch.float64), gtol=1e-8, max_iter=200)
    x = found.x[0].numpy()
    return np.concatenate([[np.exp(x[0])], shifts * x[1:]])


def calibrated(log_p, parameters):
    """Return calibrated log-probabilities.

    Parameters
    ----------
    log_p : ndarray, shape (N, k)
        Logarithms of probabilities.
    parameters : ndarray, shape (k + 1,)
        What `fit_calibration` returned.

    Returns
    -------
    ndarray, shape (N, k)

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.calibration import calibrated
    >>> np.exp(calibrated(np.log([[0.2, 0.8]]), np.array([0.0, 0.0, 0.0]))).tolist()
    [[0.5, 0.5]]
    """
    return log_softmax(parameters[0] * np.maximum(log_p, -50.0) + parameters[1:])
