r"""The front door of self-calibration.

Notation  see the package: y_l = diag(d) A_l x_l + noise; s = 1/d.
Cost      dense: some ten eliminations, each p (m n^2 + m^2 n), or m^2 n for common snapshots; operators: some tens of
          products.
Pitfalls  gains and signals are known up to one common factor, chosen by `gauge`; compare gains after the best
          alignment.
"""

from __future__ import annotations

import numpy as np
import torch

from sciml._config import resolve
from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.calibration.call import METHODS, Call, as_prior
from sciml.inverse.calibration.dense_route import solve_dense
from sciml.inverse.calibration.gauge import check_gauge
from sciml.inverse.calibration.problem import as_problem
from sciml.inverse.calibration.product_route import DENSE_SENSORS, solve_operator, solve_products
from sciml.inverse.calibration.visibility_route import solve_covariance
from sciml.validation import check_number, check_option

__all__ = ["self_calibrate"]


def self_calibrate(
    y,
    A,
    *,
    model="auto",
    s_basis=None,
    d_basis=None,
    weights=None,
    prior=None,
    gauge="norm",
    refine=True,
    method="auto",
    noise="white",
    noise_std=None,
    loss="gaussian",
    w=None,
    n_samples=None,
    sensors=None,
    tol=1e-10,
    max_iter=300,
    dtype=None,
    device=None,
    callback=None,
    progress=None,
    on_failure=None,
):
    r"""Find the gains of an instrument and the signals that it saw from the same data.

    .. math:: y_l = \mathrm{diag}(d) A_l x_l + \varepsilon_l, \qquad l = 1, \dots, p

    with A known, the gains d and the signals x not. With s = 1/d the equations are linear: the published least squares
    [1]_ is one of the methods; the default goes on to an eigenproblem free of the bias of noise, to weights that follow
    the gains, and to maximum likelihood, which reaches the Cramer-Rao bound.

    Parameters
    ----------
    y : array or DataArray, shape (..., p, m)
        Data, p snapshots of m sensors, real or complex; leading axes are channels, solved each by itself. NaN is a
        flag. A DataArray may name its axes "snapshot" and "sensor"; names of sensors come from its coordinate. For
        ``model="covariance"`` Hermitian visibilities ``(..., m, m)``.
    A : array, shape (m, n) or (p, m, n), or operator
        What the sensors see of a signal with n unknowns. Operators (of `sciml.linalg`, SciPy, a list of them, or the
        ensembles of `sciml.inverse.calibration`) are used by their products where their matrices are large. Channels
        may have matrices of their own: ``(..., m, n)`` with ``model="snapshots"``, or ``(..., p, m, n)``. For
        ``model="covariance"`` the model ``(m, m)`` of the visibilities.
    model : {"auto", "repeated", "diverse", "snapshots", "covariance"}
        "repeated": one x for all snapshots; "diverse": an x for each, through different matrices; "snapshots": an x for
        each through one matrix; "covariance": y = D A D^*. "auto", the default, takes "snapshots" for a matrix and
        "diverse" for p of them.
    s_basis, d_basis : array, shape (m, k), or None
        Subspace of the inverse gains, or of the gains; at most one of them. None, the default: all gains are free.
    weights : array, shape (m,), (p, m) or that of y, or None
        Inverse variances, 0 for a flag; booleans are flags (False) only. None, the default: one.
    prior : GainPrior, "auto", number or array (m,), or None
        A prior of the gains; an array or number is the mean of one whose strength is estimated. None, the default: no
        prior, except that ``method="auto"`` may find one necessary.
    gauge : {"norm", "sum", "mean-phase"} or ("reference", sensor)
        The common factor, chosen after solving. "norm", the default: root mean square of the gains one, their sum real
        and positive; `gains_std` is then the error after the best alignment. "sum": their mean is one. "mean-phase":
        geometric mean of the moduli one, mean phase zero. A reference sensor has the gain one and no error.
    refine : bool
        Whether to go on to maximum likelihood; True by default.
    method : str
        "auto", the default: "chain", and where residuals do not look like white noise, a noise for each sensor or, the
        model holding only nearly, gains shrunk towards one, the reason being told; "matrix-free" for large operators.
        "chain": eigenproblem, reweighting, maximum likelihood. "eigenvector": without the reweighting. "signal": the
        eigenproblem normalised by the energy of the data, for model errors in proportion to the signal.
        "least-squares", "spectral": the published methods (with ``refine=False`` as published). "matrix-free": products
        only.
    noise : {"white", "per-sensor"}
        Whether all sensors have the same noise (up to weights; the default), or each its own, which is then learned.
    noise_std : number or array (m,) or (p, m), or None
        Standard deviation of the noise, units of the data, :math:`E|\varepsilon|^2 = \sigma^2`. None, the default:
        unknown, and estimated. Together with `weights` both count.
        The `noise_std` of the result is in units of the data if a number came, else a factor on what came.
    loss : {"gaussian", "student-t"}
        "student-t", with two degrees of freedom, withstands outliers at a cost of some ten percent in error.
    w : array, shape (m,), or None
        Normaliser of ``method="least-squares"``: the inner product of w and 1/d is fixed. None, the default: ones, a
        prior that the gains are alike.
    n_samples : int or None
        For ``model="covariance"``: of how many snapshots the visibilities are the mean, so that errors of pairs with a
        common sensor are known to be correlated. None, the default: errors of different pairs are independent.
    sensors : sequence or None
        Names of the sensors; None, the default, takes those of a DataArray, else numbers.
    tol : float
        The refinement ends when its step, relative to the gains, is below; 1e-10 by default. For operators the
        residual of the eigenproblem, at least 1e-8.
    max_iter : int
        Steps of the refinement at most; 300 by default.
    dtype, device : str or None
        As everywhere; dense problems are computed in double precision whatever the dtype of the data, in which answers
        are given.
    callback : callable or None
        ``callback(n_iter, step)``; a true value stops the refinement.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do where the data do not determine the gains, or a method does not converge. None, the default: too few
        data raise, the rest asks the configuration, which warns. With "warn" or "ignore" too few data are tried.

    Returns
    -------
    CalibrationResult
        ``gains``, ``gains_std``, ``signals``, ``noise_std``, ``chi2_reduced`` (NaN without known variances),
        ``ambiguity_ratio``, ``null_dimension``, ``groups``, ``unidentified``, ``method`` and ``reason``;
        ``calibrate(y)``, ``predict()``, ``residuals(y)``, ``summary()``, ``plot()``.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or an argument breaks its rule.
    IdentifiabilityError
        If the data are too few, with the number of snapshots that are missing; or ambiguous, with
        ``on_failure="raise"``.
    ConvergenceError
        If a method did not converge, with ``on_failure="raise"``.

    Warns
    -----
    AmbiguityWarning
        If groups of sensors share no information, or other gains fit about as well: the text names them. Gains of
        groups other than the largest are NaN in ``gains``; ``gains_within_groups`` has them.
    ConvergenceWarning
        If the refinement did not converge.

    Notes
    -----
    Exact data are recovered from the number of equations on that equals the number of unknowns: m p >= m + n - 1 for
    "repeated", p (m - n) >= m - 1 for the others, m counting the dimension of the subspace where one is given. Cost and
    memory: see `sciml.inverse.calibration.elimination`; with common snapshots neither depends on p after one pass.
    Below some 10 dB and with many snapshots of "snapshots", no estimate that has a signal for each snapshot reaches the
    bound; the standard deviations tell.

    References
    ----------
    .. [1] S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, 2018,
       arXiv 1611.04196.

    Examples
    --------
    Three sensors see one source of varying strength; the second is twice, the third half as sensitive as the first.

    >>> import numpy as np
    >>> strength = np.array([[1.0], [2.0], [-1.0], [0.5]])
    >>> y = strength * np.array([1.0, 2.0, 0.5])
    >>> res = self_calibrate(y, np.ones((3, 1)), gauge=("reference", 0))
    >>> res.gains.round(6)
    array([1. , 2. , 0.5])
    """
    check_option("method", method, METHODS)
    check_option("noise", noise, ("white", "per-sensor"))
    check_option("loss", loss, ("gaussian", "student-t"))
    if loss == "student-t" and noise == "per-sensor":
        raise InvalidInputError(
            "noise must be 'white' with loss='student-t'; got 'per-sensor'. Give known variances by weights, or "
            "leave the loss as it is."
        )
    if not isinstance(refine, (bool, np.bool_)):
        raise InvalidInputError(f"refine must be True or False; got {refine!r}.")
    if w is not None and method not in ("least-squares", "spectral"):
        raise InvalidInputError(
            f"w must be None but for method='least-squares'; got one with method={method!r}. For knowledge of the "
            "gains pass prior."
        )
    if n_samples is not None and model != "covariance":
        raise InvalidInputError(f"n_samples must be None but for model='covariance'; got it with model={model!r}.")
    if s_basis is not None and d_basis is not None:
        raise InvalidInputError(
            "s_basis and d_basis must not be given together: the gains or their inverses lie in a subspace; got both. "
            "Leave one out."
        )
    tol, max_iter = check_number("tol", tol, low=0), check_number("max_iter", max_iter, low=0, integer=True)
    if callback is not None and not callable(callback):
        raise InvalidTypeError(
            f"callback must be a function of (n_iter, step), or None; got {type(callback).__name__}. Pass a function."
        )
    asked = on_failure
    on_failure = resolve("on_failure", on_failure)
    problem = as_problem(
        y, A, model=model, weights=weights, sensors=sensors, noise_std=noise_std, dtype=dtype, device=device
    )
    gauge = check_gauge(gauge, problem.sensors)
    call = Call(
        problem=problem,
        gauge=gauge,
        method=method,
        noise=noise,
        loss=loss,
        w=w,
        n_samples=None if n_samples is None else check_number("n_samples", n_samples, low=1, integer=True),
        prior=as_prior(prior),
        refine=bool(refine),
        tol=tol,
        max_iter=max_iter,
        callback=callback,
        progress=progress,
        on_failure=on_failure,
        strict=asked is None or asked == "raise",
        s_basis=s_basis,
        d_basis=d_basis,
    )
    if problem.model == "covariance":
        return solve_covariance(call)
    if problem.operator is not None:
        found = solve_operator(call)
        if found is not None:
            return found
        if not bool(torch.isfinite(call.problem.A.abs()).all()):
            raise InvalidInputError("A must be finite; some products of the operator are not. Correct it.")
    elif problem.y.shape[-1] > DENSE_SENSORS or method == "matrix-free":
        call.problem.operator = (problem.A[0, 0] if problem.A.shape[1] == 1 else problem.A[0]) * problem.A_unit
        return solve_products(call)
    return solve_dense(call)
