r"""Multinomial logistic regression along a path of penalties, for all folds of a cross-validation at once.

.. math:: \min_{W, b} \; \sum_i w_i \, \mathrm{ce}(y_i, W' z_i + b) + \frac{1}{2 C} \|W\|_F^2

Notation  z (n, r) features with mean square norm one; Y (n, k) indicators; w (B, n) weights of B problems, 0 for the
          trials that a fold leaves out; C strength of the data; ce cross entropy of the softmax.
Cost      two products (n, r) x (r, B k) an evaluation; 10 to 60 evaluations for each C, warm from the C before.
Pitfalls  features are turned to their principal axes, which changes no penalised solution and makes the Hessian
          nearly diagonal; where r is larger than n only the n axes that the data span are kept, without loss.
References  J. Nocedal, S. Wright, Numerical Optimization, 2006, section 7.2. D. Boehning, Multinomial logistic
            regression algorithm, 1992 (the bound of the Hessian that scales the axes).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import special

from sciml.linalg.arrays import enter
from sciml.optimize.limited_memory import batched_lbfgs

__all__ = ["PENALTIES", "log_softmax", "logistic_path", "principal_axes"]

PENALTIES = tuple(float(10.0**e) for e in range(-2, 6))


def principal_axes(F):
    """Return centred features in their principal axes, scaled to a mean square norm of one.

    Parameters
    ----------
    F : ndarray, shape (n, m)
        Features.

    Returns
    -------
    Z : ndarray, shape (n, r)
        Scores on the r axes along which the features vary.
    back : callable
        ``back(W, b)`` returns coefficients (m, k) and intercepts (k,) for `F` itself from those for `Z`.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.logistic import principal_axes
    >>> Z, _ = principal_axes(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> Z.tolist()
    [[-1.0], [1.0]]
    """
    mu = F.mean(0)
    D = F - mu
    # The small Gram matrix gives the axes; those within rounding of zero carry nothing that could be learned.
    if D.shape[1] <= D.shape[0]:
        s, V = np.linalg.eigh(D.T @ D)
    else:
        s, U = np.linalg.eigh(D @ D.T)
        with np.errstate(invalid="ignore", divide="ignore"):
            V = (D.T @ U) / np.sqrt(np.maximum(s, 0))
    keep = s > 1e-12 * max(s[-1], 0.0)
    V, s = V[:, keep][:, ::-1], s[keep][::-1]
    scale = float(np.sqrt(s.sum() / len(D))) or 1.0
    # The sign of an axis is chance; the largest entry is made positive, so that rounding alone decides nothing.
    if V.shape[1]:
        V = V * np.where(V[np.abs(V).argmax(0), np.arange(V.shape[1])] < 0, -1.0, 1.0)
    V = V / scale

    def back(W, b):
        coef = V @ W
        return coef, b - mu @ coef

    return D @ V, back


def logistic_path(Z, Y, weights, penalties=PENALTIES, *, gtol=1e-5, max_iter=200):
    """Yield the solutions along increasing C.

    Parameters
    ----------
    Z : ndarray, shape (n, r) or (B, n, r)
        Features: the same for all problems, or each problem's own.
    Y : ndarray, shape (n, k)
        Indicators of the classes.
    weights : ndarray, shape (B, n)
        Weights of the trials in each problem.
    penalties : sequence of float
        Values of C, ascending; dimensionless, since features have a mean square norm of one.
    gtol : float
        Norm of the gradient, over that of no features at all, at which a problem is solved; 1e-5 moves no probability
        by more than some 1e-5.
    max_iter : int
        Steps at most for each C.

    Yields
    ------
    C : float
        The penalty.
    W : ndarray, shape (B, r, k)
        Coefficients.
    b : ndarray, shape (B, k)
        Intercepts, of sum zero.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.logistic import logistic_path
    >>> Z, Y = np.array([[-1.0], [1.0]]), np.eye(2)
    >>> for C, W, b in logistic_path(Z, Y, np.ones((1, 2)), (1.0,)):
    ...     W[0].round(3).tolist()
    [[-0.521, 0.521]]
    """
    # float64 whatever the configuration says: probabilities near 0 and 1 are differences of logarithms.
    (Z, Y, w), _ = enter(Z, Y, weights, names=("Z", "Y", "weights"), dtype="float64", check_finite=False)
    B, k = len(w), Y.shape[1]
    r = Z.shape[-1]
    spread = (w[:, :, None] * (Z if Z.ndim == 3 else Z[None]) ** 2).sum(1)  # (B, r)
    total = w.sum(1)
    x = Z.new_zeros(B, r + 1, k)
    share = (w @ Y + 0.5) / (total + 0.5 * k)[:, None]
    x[:, r] = share.log() - share.log().mean(1, keepdim=True)
    # Curvatures of the bound 1/2 (I - 11'/k), at most 1/2, along each axis.
    for C in penalties:
        curvature = torch.cat([spread / 4 + 1 / C, total[:, None] / 4], 1)  # (B, r + 1)
        root = curvature.rsqrt()[:, :, None]

        def value_and_gradient(v, rows, C=C, root=root):
            theta = v * root[rows]
            W, b = theta[:, :-1], theta[:, -1:]
            ZB = Z[rows] if Z.ndim == 3 else Z
            logits = ZB @ W + b  # (B', n, k)
            log_p = torch.log_softmax(logits, 2)
            value = -(w[rows][:, :, None] * Y * log_p).sum((1, 2)) + W.square().sum((1, 2)) / (2 * C)
            slack = w[rows][:, :, None] * (log_p.exp() - Y)
            gW = ZB.mT @ slack + W / C
            gradient = torch.cat([gW, slack.sum(1, keepdim=True)], 1) * root[rows]
            return value, gradient

        start = x / root
        zero = torch.zeros_like(start)
        zero[:, r] = start[:, r]
        first = torch.linalg.vector_norm(value_and_gradient(zero, torch.arange(B, device=Z.device))[1], dim=(1, 2))
        bar = gtol * torch.maximum(first, total.sqrt() * 1e-3)
        solved = batched_lbfgs(value_and_gradient, start, gtol=bar, max_iter=max_iter, memory=12)
        x = solved.x * root
        b = x[:, r] - x[:, r].mean(1, keepdim=True)
        yield C, x[:, :r].cpu().numpy().copy(), b.cpu().numpy().copy()


def log_softmax(logits):
    """Return logarithms of probabilities.

    Parameters
    ----------
    logits : ndarray, shape (..., k)
        Scores.

    Returns
    -------
    ndarray, shape (..., k)

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.logistic import log_softmax
    >>> np.exp(log_softmax(np.array([0.0, 0.0]))).tolist()
    [0.5, 0.5]
    """
    return special.log_softmax(logits, axis=-1)
