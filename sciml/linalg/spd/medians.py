r"""The geometric median of positive definite matrices: a mean that single outliers cannot move far.

.. math:: \min_M \sum_i w_i d(M, X_i)

Every distance lies below the parabola d^2 / (2 d_i) + d_i / 2 that touches it at d_i = d(M, X_i), and the mean with
weights w_i / d_i minimises their sum. Repeating that (Weiszfeld's method) never makes the sum larger, in any geometry.

Notation  X (N, n, n); w (N,) weights that sum to one; d (N,) distances; M the iterate.
Cost      a mean and N distances a step; 20 to 60 steps.
Pitfalls  at one of the matrices its weight would be infinite: distances are kept above 1e-12 of their mean there, which
          changes the answer by less. Where the median is one of the matrices convergence is slow.
References  P. Fletcher, S. Venkatasubramanian, S. Joshi, The geometric median on Riemannian manifolds with application
            to robust atlas estimation, 2009. E. Weiszfeld, On the point for which the sum of the distances to n given
            points is minimum, Tohoku Mathematical Journal 43, 1937 (in French).
"""

from __future__ import annotations

from sciml.exceptions import InvalidInputError
from sciml.iterate import Step, run
from sciml.linalg.spd.closed_form_means import spd_mean
from sciml.linalg.spd.distances import spd_distance
from sciml.linalg.spd.mean_result import MeanResult, enter_matrices
from sciml.linalg.spd.metrics import METRICS, canonical_metric

__all__ = ["spd_median", "spd_median_steps"]

_FLOOR = 1e-12


def spd_median(
    X, weights=None, *, metric="bw", theta=1.0, M=None, tol=1e-6, max_iter=500, callback=None, on_failure=None
):
    r"""Return the geometric median, :math:`\operatorname{argmin}_M \sum_i w_i d(M, X_i)` [1]_.

    Parameters
    ----------
    X : array, shape (N, n, n)
        Positive definite matrices; for "bw", "gbw" and "euclid" also singular ones.
    weights : array, shape (N,), or None
        Not negative; any sum. None (the default) weighs all the same.
    metric, theta, M
        As in :func:`spd_distance`: "bw", 1 and None by default.
    tol : float
        Stop when the next step is at most ``tol`` times the mean distance; 1e-6 by default.
    max_iter : int
        Steps at most; 500 by default.
    callback : callable or None
        ``callback(n_iter, step)``; a true value stops.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when `tol` was not met; None (the default) asks the configuration, which warns.

    Returns
    -------
    MeanResult
        ``mean`` is the median (n, n), in the units and of the kind of `X`, without gradients.

    Raises
    ------
    InvalidInputError
        If an option is unknown, the matrices are not square, symmetric and finite, or weights do not match them.
    NotPositiveDefiniteError
        If a matrix is indefinite, or singular where the geometry has no place for that.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not met.

    References
    ----------
    .. [1] P. Fletcher, S. Venkatasubramanian, S. Joshi, The geometric median on Riemannian manifolds with application
       to robust atlas estimation, 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import spd_mean, spd_median
    >>> X = np.array([[[1.0]], [[1.1]], [[1.2]], [[1.3]], [[1e4]]])  # the last one is an outlier
    >>> round(float(spd_median(X).mean[0, 0]), 3), round(float(spd_mean(X).mean[0, 0]))
    (1.2, 435)
    """
    metric = canonical_metric(metric, METRICS)
    (Y, w), leave, _, scale = enter_matrices(X, weights)
    options = {"metric": metric, "theta": theta, "M": M}
    if Y.requires_grad or w.requires_grad:
        raise InvalidInputError(
            "X and weights must not ask for a gradient: the median has none here; got a tensor that does. Pass "
            "X.detach(), or use spd_mean."
        )
    ended = run(
        spd_median_steps(Y, w, options),
        name="spd_median",
        tol=tol,
        max_iter=max_iter,
        callback=callback,
        on_failure=on_failure,
        dtype="float64",
    )
    settings = {"method": "weiszfeld", "theta": theta, "tol": tol, "scale": scale, "n_matrices": len(Y)}
    residual = ended.history["criterion"][-1]
    return MeanResult.of(ended, settings, mean=leave(ended.value), residual=residual, metric=metric)


def spd_median_steps(X, w, options):
    """Yield the iterates, the mean first; see :func:`spd_median`.

    Parameters
    ----------
    X : torch.Tensor, shape (N, n, n)
        Matrices.
    w : torch.Tensor, shape (N,)
        Weights that sum to one.
    options : dict
        Metric, theta and M.

    Returns
    -------
    generator of Step
        Of the median, shape (n, n).
    """
    M = spd_mean(X, w, on_failure="ignore", **options).mean
    while True:
        d = spd_distance(M, X, **options)
        size = float((w * d).sum())
        if size == 0:
            yield Step(M, 0.0)
            return
        new = spd_mean(X, w / d.clamp_min(_FLOOR * size), on_failure="ignore", **options).mean
        yield Step(M, float(spd_distance(M, new, **options)) / size, {"mean_distance": size})
        M = new
