r"""The front door of self-calibration.

Notation  see the package: y_l = diag(d) A_l x_l + noise; s = 1/d.
Cost      dense: some ten eliminations, each p (m n^2 + m^2 n), or m^2 n for common snapshots; operators: some tens of
          products.
Pitfalls  gains and signals are known up to one common factor, chosen by `gauge`; compare gains after the best alignment.
"""

from __future__ import annotations

import dataclasses
import math
import warnings

import torch

from sciml._config import resolve
from sciml.exceptions import AmbiguityWarning, ConvergenceError, ConvergenceWarning, IdentifiabilityError
from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.ambiguity import describe_ambiguity, ranges, settle
from sciml.inverse.calibration.answer import finish, status_of
from sciml.inverse.calibration.chain import Chain, solve_chain
from sciml.inverse.calibration.ensemble_adapters import as_ensemble
from sciml.inverse.calibration.gauge import apply_gauge, check_gauge
from sciml.inverse.calibration.identifiability import check_counts
from sciml.inverse.calibration.matrix_free import solve_matrix_free
from sciml.inverse.calibration.misfit import choose
from sciml.inverse.calibration.priors import GainPrior, gain_penalty, shrink
from sciml.inverse.calibration.problem import as_problem, build_elimination
from sciml.inverse.calibration.published import inverse_power
from sciml.inverse.calibration.refinement import Parametrisation, refine
from sciml.inverse.calibration.robust import per_sensor_chain, student_chain
from sciml.inverse.calibration.uncertainty import gain_covariance
from sciml.inverse.calibration.visibilities import solve_visibilities
from sciml.inverse.calibration.visibility_pairs import connected_groups
from sciml.iterate import Status, caller_level
from sciml.linalg.arrays import enter
from sciml.linalg.memory import require
from sciml.validation import check_number, check_option

__all__ = ["self_calibrate"]

METHODS = ("auto", "chain", "least-squares", "spectral", "eigenvector", "signal", "matrix-free")
_DENSE_SENSORS = 3000  # a matrix of this size is factorised in seconds
_LEAST_DOF = 10  # residuals of fewer are not tested for a misfit
_DENSE_BYTES = 2**28  # operators whose matrices take no more than this are written out


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
        Data, p snapshots of m sensors, real or complex; leading axes are channels, solved each by itself. NaN is a flag.
        A DataArray may name its axes "snapshot" and "sensor"; names of sensors come from its coordinate. For
        ``model="covariance"`` Hermitian visibilities ``(..., m, m)``.
    A : array, shape (m, n) or (p, m, n), or operator
        What the sensors see of a signal with n unknowns. Operators (of `sciml.linalg`, SciPy, a list of them, or the
        ensembles of `sciml.inverse.calibration`) are used by their products where their matrices are large. Channels may
        have matrices of their own: ``(..., m, n)`` with ``model="snapshots"``, or ``(..., p, m, n)``. For
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
        "auto", the default: "chain", and where residuals do not look like noise, the model holding only nearly, gains
        shrunk towards `prior` (or one), the reason being told; "matrix-free" for large operators. "chain": eigenproblem,
        reweighting, maximum likelihood. "eigenvector": without the reweighting. "signal": the eigenproblem normalised by
        the energy of the data, for model errors in proportion to the signal. "least-squares", "spectral": the published
        methods (with ``refine=False`` as published). "matrix-free": products only.
    noise : {"white", "per-sensor"}
        Whether all sensors have the same noise (up to weights; the default), or each its own, which is then learned.
    noise_std : number or array (m,) or (p, m), or None
        Standard deviation of the noise, units of the data, :math:`E|\varepsilon|^2 = \sigma^2`. None, the default: unknown,
        and estimated. Together with `weights` both count.
    loss : {"gaussian", "student-t"}
        "student-t", with two degrees of freedom, withstands outliers at a cost of some ten percent in error.
    w : array, shape (m,), or None
        Normaliser of ``method="least-squares"``: the inner product of w and 1/d is fixed. None, the default: ones, a
        prior that the gains are alike.
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
    if s_basis is not None and d_basis is not None:
        raise InvalidInputError(
            "s_basis and d_basis must not be given together: the gains or their inverses lie in a subspace; got both. "
            "Leave one out."
        )
    tol, max_iter = check_number("tol", tol, low=0), check_number("max_iter", max_iter, low=0, integer=True)
    asked = on_failure
    on_failure = resolve("on_failure", on_failure)
    problem = as_problem(
        y, A, model=model, weights=weights, sensors=sensors, noise_std=noise_std, dtype=dtype, device=device
    )
    gauge = check_gauge(gauge, problem.sensors)
    call = _Call(
        problem=problem,
        gauge=gauge,
        method=method,
        noise=noise,
        loss=loss,
        w=w,
        prior=_as_prior(prior),
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
        return _visibilities(call)
    if problem.operator is not None:
        found = _operator(call)
        if found is not None:
            return found
    elif problem.y.shape[-1] > _DENSE_SENSORS or method == "matrix-free":
        call.problem.operator = (problem.A[0, 0] if problem.A.shape[1] == 1 else problem.A[0]) * problem.A_unit
        return _matrix_free(call)
    return _dense(call)


@dataclasses.dataclass
class _Call:
    """The arguments of one call, checked."""

    problem: object
    gauge: object
    method: str
    noise: str
    loss: str
    w: object
    prior: object
    refine: bool
    tol: float
    max_iter: int
    callback: object
    progress: object
    on_failure: str
    strict: bool
    s_basis: object
    d_basis: object

    def settings(self, **more):
        """What is needed to run again."""
        return {
            "model": self.problem.model,
            "method": self.method,
            "noise": self.noise,
            "loss": self.loss,
            "refine": self.refine,
            "tol": self.tol,
            "max_iter": self.max_iter,
            "prior": None if self.prior is None else str(self.prior),
            "subspace": "gains" if self.d_basis is not None else "inverse gains" if self.s_basis is not None else None,
            "dtype": str(self.problem.working).removeprefix("torch."),
            "device": str(self.problem.y.device),
            "versions": {"torch": torch.__version__},
            **more,
        }


def _as_prior(prior):
    if prior is None or isinstance(prior, GainPrior):
        return prior
    return GainPrior() if isinstance(prior, str) and prior == "auto" else GainPrior(mean=prior)


# ---------------------------------------------------------------- dense


def _dense(call):
    """Models 1 to 3 with matrices."""
    problem = call.problem
    y, A, W = problem.y, problem.A, problem.W
    b, p, m = y.shape
    itemsize = y.element_size()
    require(
        (6 * b * m * m + 2 * y.numel()) * itemsize,
        what=f"calibrating {b} channels of {m} sensors by dense matrices",
        remedy="pass method='matrix-free', or fewer channels at once",
    )
    parameters = _parametrisation(call)
    _check_basis(call, parameters)
    _count(call, parameters.size)
    # Entry-wise flags that differ between channels are solved channel by channel, so that equal patterns share bases.
    if b > 1 and W is not None and len(W) > 1 and not bool((W == W[:1]).all()):
        parts = [_estimate(call, _channel(problem, c), parameters) for c in range(b)]
        estimated = _joined(parts)
    else:
        if W is not None and len(W) > 1:
            problem = dataclasses.replace(problem, W=W[:1])
        estimated = _estimate(call, problem, parameters)
    return _finish_dense(call, estimated)


@dataclasses.dataclass
class _Estimated:
    """What the dense methods found for some channels."""

    answer: object
    pieces: list  # pairs of Problem and Elimination, in the order of the channels
    reason: str
    sensor_noise: object = None
    stopped: bool = False


def _estimate(call, problem, parameters):
    starts = {"auto": "reweighted", "chain": "reweighted", "matrix-free": "reweighted"}
    options = Chain(
        parameters=parameters,
        start=starts.get(call.method, call.method),
        refine=call.refine,
        w=_normaliser(call),
        tol=call.tol,
        max_iter=call.max_iter,
        callback=call.callback,
        progress=call.progress,
    )
    noise = None
    if call.loss == "student-t":
        answer, elimination = student_chain(problem, options)
    elif call.noise == "per-sensor":
        answer, elimination, noise = per_sensor_chain(problem, options)
    else:
        elimination = build_elimination(problem)
        answer = solve_chain(elimination, options)
    reason = {
        "reweighted": "maximum likelihood from a reweighted eigenproblem" if call.refine else "a reweighted eigenproblem",
        "least-squares": "asked for",
    }.get(options.start, "asked for")
    if call.method == "least-squares":
        reason = _check_normaliser(call, elimination, options) or reason
    reasons = [reason]
    if call.prior is not None:
        reasons = _with_prior(call, elimination, answer)
    elif call.method == "auto" and call.refine and call.loss == "gaussian" and call.noise == "white":
        reasons = _misfit(call, problem, elimination, answer, parameters) or reasons
    stopped = answer.estimate.history.pop("stopped", False) if isinstance(answer.estimate.history, dict) else False
    return _Estimated(answer, [(problem, elimination)], "; ".join(dict.fromkeys(reasons)), noise, bool(stopped))


def _misfit(call, problem, elimination, answer, parameters):
    """Let each channel that has one group decide between likelihood and shrunk gains; return reasons."""
    estimate, reasons = answer.estimate, []
    if parameters.basis is not None:
        return []
    for channel, groups in enumerate(answer.groups):
        # Residuals of exact data are rounding, and a handful of numbers has no structure to test.
        energy = float((problem.y[channel].abs().square() * _weights_of(problem, channel)).sum())
        exact = float(estimate.misfit[channel]) <= 1e-16 * energy
        if len(groups) != 1 or len(groups[0]) < 3 or exact or float(estimate.dof[channel]) < _LEAST_DOF:
            continue
        index = torch.tensor([channel], device=elimination.device)
        active = estimate.active[channel][None]
        part = elimination.rows(index).restrict(active)
        d = torch.where(active, estimate.gains[index], 0)
        decision = choose(part, d, y=problem.y[index] if problem.count is None else None)
        reasons.append(decision.reason)
        if decision.method == "likelihood":
            continue
        estimate.gains[channel] = torch.where(active[0], decision.gains, float("nan"))
        estimate.covariance[channel] = decision.covariance
        estimate.converged[channel] = decision.converged
        misfit = part.cost(decision.gains[None])
        estimate.misfit[channel] = misfit[0]
        estimate.noise_variance[channel] = misfit[0] / estimate.dof[channel].clamp_min(1)
        estimate.method = "prior" if decision.method == "prior" else decision.method
    if not reasons:
        return []
    return [reasons[0]] if len(set(reasons)) == 1 else _numbered(reasons, len(answer.groups))


def _weights_of(problem, channel):
    return 1.0 if problem.W is None else problem.W[channel if len(problem.W) > 1 else 0]


def _numbered(reasons, channels):
    if channels == 1:
        return reasons
    shown = [f"channel {c}: {text}" for c, text in enumerate(reasons[:3])]
    return shown + ([f"and so on for {channels} channels"] if channels > 3 else [])


def _with_prior(call, elimination, answer):
    """Maximum a posteriori in place of maximum likelihood."""
    estimate, prior = answer.estimate, call.prior
    active = estimate.active
    d = torch.where(active & torch.isfinite(estimate.gains.abs()), estimate.gains, 0)
    centre = prior.centre(d)
    problem = elimination.restrict(active)
    # The start is brought to the scale of the mean.
    factor = (d.conj() * centre).sum(1) / d.abs().square().sum(1).clamp_min(1e-300)
    start = torch.where(active, d * factor[:, None], 0)
    if isinstance(prior.strength, str):
        reasons = []
        for channel in range(len(d)):
            index = torch.tensor([channel], device=d.device)
            found = shrink(problem.rows(index), torch.where(active[index], start[index], 1), centre[index])
            estimate.gains[channel] = torch.where(active[channel], found.d, float("nan"))
            estimate.covariance[channel] = found.covariance
            estimate.converged[channel] = found.converged
            reasons.append(
                f"log gains shrunk towards the mean of the prior, with a spread of {found.spread:.2g} and errors of "
                f"{found.inflation:.3g} times the variance of the residuals, both estimated"
            )
        estimate.method = "prior"
        groups = [[sorted(sum(own, []))] if own else [] for own in answer.groups]
        answer.groups[:] = groups
        answer.null_dimension = torch.ones_like(answer.null_dimension)
        return reasons[:1] if len(set(reasons)) == 1 else _numbered(reasons, len(d))
    f, g, F = problem.gauss_newton(start)
    weight = prior.strength * torch.diagonal(F, dim1=-2, dim2=-1).real.sum(1) / active.sum(1).clamp_min(1)
    if prior.on == "inverse":
        weight = weight * start.abs().square().sum(1) / active.sum(1).clamp_min(1)
    penalty = gain_penalty(torch.where(active, centre, 0), weight, prior.on)
    if prior.strength > 0:
        found = refine(problem, start, penalty=penalty, tol=call.tol, max_iter=call.max_iter)
        d = found.d
        _, _, F = problem.gauss_newton(d)
        F = F + penalty(d)[2] + torch.diag_embed((~active).to(F.dtype))
        inverse = torch.linalg.inv((F + F.mH) / 2)
        both = active[..., :, None] & active[..., None, :]
        estimate.misfit = found.misfit
        estimate.noise_variance = found.misfit / estimate.dof.clamp_min(1)
        estimate.covariance = torch.where(both, estimate.noise_variance[:, None, None] * inverse, 0)
        estimate.gains = torch.where(active, d, float("nan"))
        estimate.converged, estimate.n_iter, estimate.history = found.converged, found.n_iter, found.history
        answer.groups[:] = [[sorted(sum(own, []))] if own else [] for own in answer.groups]
        answer.null_dimension = torch.ones_like(answer.null_dimension)
    estimate.method = "prior"
    return [f"prior of strength {prior.strength:g} on the {prior.on} of the gains, as asked for"]


def _parametrisation(call):
    problem = call.problem
    made = {}
    for name in ("s_basis", "d_basis"):
        basis = getattr(call, name)
        if basis is None:
            continue
        (B,), _ = enter(basis, names=(name,), device=None if problem.y.device.type == "cpu" else str(problem.y.device))
        m = problem.y.shape[-1]
        if B.ndim != 2 or B.shape[0] != m or not 1 <= B.shape[1] <= m:
            raise InvalidInputError(
                f"{name} must have shape ({m}, k) with k from 1 to {m}: a row for each sensor; got {tuple(B.shape)}."
            )
        if B.is_complex() and not problem.is_complex:
            raise InvalidInputError(f"{name} must be real for real data; got complex numbers. Make y or A complex.")
        B = B.to(torch.complex128 if problem.is_complex else torch.float64)
        rank = int(torch.linalg.matrix_rank(B))
        if rank < B.shape[1]:
            raise InvalidInputError(f"{name} must have independent columns; got rank {rank} of {B.shape[1]}. Drop some.")
        made[name] = B
    return Parametrisation(**made)


def _check_basis(call, parameters):
    if parameters.basis is not None and (call.prior is not None):
        raise InvalidInputError("prior must be None with s_basis or d_basis; got both. Leave one out.")


def _count(call, k):
    """Count equations and unknowns of each channel."""
    problem = call.problem
    y, W = problem.y, problem.W
    b, p, m = y.shape
    p = p if problem.count is None else int(problem.count)
    if not call.strict:
        return
    n = problem.A.shape[-1]
    if W is None:
        check_counts(problem.model, m, n, p, k)
        return
    for own in W:
        used = own > 0
        sensors = int(used.any(0).sum())
        if problem.model == "repeated":
            # Every unflagged entry is an equation.
            equations, unknowns = int(used.sum()), (sensors if k is None else k) + n - 1
        else:
            rows = used.sum(1)
            equations = int((rows - n).clamp_min(0).sum())
            unknowns = (sensors if k is None else k) - 1
        if equations < unknowns:
            check_counts(problem.model, sensors, n, int(used.any(1).sum()), k)
            each = max(1, (sensors if problem.model == "repeated" else sensors - n))
            missing = math.ceil((unknowns - equations) / each)
            raise IdentifiabilityError(
                f"y must hold more unflagged entries: {equations} equations are left for {unknowns} unknowns after "
                f"flags; at least {missing} more snapshots are missing. Measure more, or flag less.",
                missing=missing,
            )


def _normaliser(call):
    if call.w is None:
        return None
    problem = call.problem
    (w,), _ = enter(call.w, names=("w",), device=None if problem.y.device.type == "cpu" else str(problem.y.device))
    m = problem.y.shape[-1]
    if w.shape != (m,):
        raise InvalidInputError(f"w must have shape ({m},), a number for each sensor; got {tuple(w.shape)}.")
    if w.is_complex() and not problem.is_complex:
        raise InvalidInputError("w must be real for real data; got complex numbers. Pass its real part.")
    if not bool((w != 0).any()):
        raise InvalidInputError("w must not be zero: it fixes the scale of the inverse gains; got zeros only.")
    return w.to(torch.complex128 if problem.is_complex else torch.float64)


def _check_normaliser(call, elimination, options):
    """Warn where w is nearly orthogonal to what it should fix; return the reason then."""
    _, cosine = inverse_power(elimination, options.w)
    worst = float(cosine.min())
    if worst >= 1e-3:
        return None
    text = (
        f"w is nearly orthogonal to the inverse gains (cosine {worst:.1e}), so that least squares amplifies noise. Pass "
        "another w, or method='spectral'."
    )
    if call.on_failure != "ignore":
        warnings.warn(text, AmbiguityWarning, stacklevel=caller_level())
    return text


def _channel(problem, c):
    """The problem of one channel alone."""
    pick = lambda t: t if t is None or len(t) == 1 else t[c : c + 1]  # noqa: E731
    return dataclasses.replace(problem, y=problem.y[c : c + 1], A=pick(problem.A), W=pick(problem.W))


def _joined(parts):
    """Channels that were solved one by one."""
    answers = [part.answer for part in parts]
    first = answers[0].estimate
    k = min(a.estimate.eigenvalues.shape[1] for a in answers)
    v = min(a.null_vectors.shape[2] for a in answers)
    names = ("gains", "active", "noise_variance", "misfit", "dof", "converged", "covariance")
    merged = {name: torch.cat([getattr(a.estimate, name) for a in answers]) for name in names}
    estimate = dataclasses.replace(
        first,
        **merged,
        eigenvalues=torch.cat([a.estimate.eigenvalues[:, :k] for a in answers]),
        n_iter=max(a.estimate.n_iter for a in answers),
    )
    estimate.history = max((a.estimate for a in answers), key=lambda e: e.n_iter).history
    answer = dataclasses.replace(
        answers[0],
        estimate=estimate,
        groups=[group for a in answers for group in a.groups],
        null_dimension=torch.cat([a.null_dimension for a in answers]),
        ratio=torch.cat([a.ratio for a in answers]),
        threshold=torch.cat([a.threshold for a in answers]),
        null_vectors=torch.cat([a.null_vectors[..., :v] for a in answers]),
    )
    noise = None if parts[0].sensor_noise is None else torch.cat([part.sensor_noise for part in parts])
    reasons = list(dict.fromkeys(part.reason for part in parts))
    reason = reasons[0] if len(reasons) == 1 else "; ".join(_numbered([p.reason for p in parts], len(parts)))
    return _Estimated(answer, [piece for part in parts for piece in part.pieces], reason, noise, parts[-1].stopped)


def _finish_dense(call, found):
    problem, answer = call.problem, found.answer
    estimate = answer.estimate
    raw = estimate.gains
    gains, covariance, known, lost = settle(answer)
    estimate.gains = gains
    ambiguity = [
        describe_ambiguity(answer, known, lost, problem.sensors, channel) for channel in range(len(estimate.gains))
    ]
    within = _within_groups(answer, raw)

    def signals(d):
        parts, first = [], 0
        for own, elimination in found.pieces:
            rows = slice(first, first + len(own.y))
            first += len(own.y)
            seen = d[rows]
            parts.append(elimination.restrict(seen != 0).signals(seen, own.y))
        return torch.cat(parts)

    result = finish(
        problem,
        estimate,
        gauge=call.gauge,
        known=known,
        covariance=covariance,
        groups=answer.groups,
        ratio=answer.ratio,
        null=answer.null_dimension,
        ambiguity=ambiguity,
        signals=signals if problem.count is None else None,
        settings=call.settings(),
        reason=found.reason,
        status=status_of(estimate.converged, estimate.history.get("stopped", False)),
        A=_kept(problem),
        within=within,
        sensor_noise=found.sensor_noise,
    )
    _complain(call, result)
    return result


def _within_groups(answer, source):
    """Gains with every group in the gauge "norm" of its own."""
    estimate, m = answer.estimate, answer.estimate.active.shape[1]
    raw = torch.full_like(estimate.gains, float("nan"))
    for channel, groups in enumerate(answer.groups):
        for group in groups:
            mask = torch.zeros(1, m, dtype=torch.bool, device=raw.device)
            mask[0, group] = True
            one, _, _ = apply_gauge("norm", source[channel][None], None, mask)
            raw[channel] = torch.where(mask[0], one[0], raw[channel])
    return raw


def _kept(problem):
    """The matrices in the shape that they came in, for predictions."""
    A = problem.A * problem.A_unit
    lead = problem.batch if len(A) > 1 else ()
    if problem.model == "snapshots" or A.shape[1] == 1:
        A = A[:, 0]
    return problem.leave(A.reshape((*lead, *A.shape[1:])).to(problem.working))


def _complain(call, result):
    """Warn or raise about ambiguities and missing convergence."""
    if call.on_failure == "ignore":
        return
    if result.ambiguity:
        text = f"the data do not determine all gains: {result.ambiguity}."
        if call.on_failure == "raise":
            raise IdentifiabilityError(text)
        warnings.warn(text, AmbiguityWarning, stacklevel=caller_level())
    if result.status not in (Status.CONVERGED, Status.STOPPED):
        text = (
            f"self_calibrate stopped after {result.n_iter} iterations without convergence, tol={call.tol:.0e}: raise "
            "max_iter, or pass prior, s_basis or d_basis."
        )
        if call.on_failure == "raise":
            raise ConvergenceError(text)
        warnings.warn(text, ConvergenceWarning, stacklevel=caller_level())


# ---------------------------------------------------------------- operators and visibilities


def _operator(call):
    """Write small operators out and return None; solve large ones by their products."""
    problem = call.problem
    b, p, m = problem.y.shape
    ensemble = as_ensemble(problem.operator, p, m)
    own = p if ensemble.batch_shape else 1
    size = own * m * ensemble.shape[1] * 16
    if call.method == "matrix-free" or size > _DENSE_BYTES or m > _DENSE_SENSORS:
        problem.operator = ensemble
        return _matrix_free(call)
    dense = torch.as_tensor(ensemble.to_dense()).to(device=problem.y.device)
    long = torch.complex128 if problem.is_complex or dense.is_complex() else torch.float64
    problem.A = dense.to(long).reshape(1, own, m, -1)
    problem.y = problem.y.to(long)
    problem.is_complex = long.is_complex
    return None


def _matrix_free(call):
    problem = call.problem
    for name, value, wanted in (
        ("s_basis", call.s_basis, None),
        ("d_basis", call.d_basis, None),
        ("prior", call.prior, None),
        ("loss", call.loss, "gaussian"),
        ("noise", call.noise, "white"),
    ):
        if value is not wanted and value != wanted:
            raise InvalidInputError(
                f"{name} must be left at its default for matrix-free problems; got {value!r}. Pass A as an array with "
                f"at most {_DENSE_SENSORS} sensors."
            )
    b, p, m = problem.y.shape
    ensemble = as_ensemble(problem.operator, p, m)
    if call.strict:
        check_counts(problem.model, m, ensemble.shape[1], p)
    parts = []
    for channel in range(b):
        W = problem.W
        parts.append(
            solve_matrix_free(
                problem.y[channel],
                ensemble,
                model=problem.model,
                W=None if W is None else W[channel if len(W) > 1 else 0],
                tol=max(call.tol, 1e-8),
                refine=call.refine,
                callback=call.callback,
                progress=call.progress,
                on_failure=call.on_failure,
            )
        )
    join = lambda name: torch.cat([getattr(part, name) for part in parts])  # noqa: E731
    names = ("gains", "active", "noise_variance", "misfit", "dof", "eigenvalues", "converged", "variance")
    estimate = dataclasses.replace(parts[0], **{name: join(name) for name in names})
    signals = [part.signals for part in parts]
    own = estimate.gains

    def rescaled(d):
        # Gains were only multiplied by the factor of the gauge: signals take its inverse.
        known = d != 0
        ratio = torch.where(known, own / torch.where(known, d, 1), 0).nan_to_num(0.0).sum(1) / known.sum(1).clamp_min(1)
        stacked = torch.stack([t.reshape(t.shape[1:]) if t.shape[0] == 1 else t for t in signals])
        return stacked * ratio.to(stacked.dtype).reshape(-1, *[1] * (stacked.ndim - 1))

    known = estimate.active & torch.isfinite(estimate.gains.abs())
    lam = estimate.eigenvalues
    ratio = lam[:, 1] / lam[:, 0] if lam.shape[1] > 1 else torch.full_like(estimate.dof, float("nan"))
    groups = [[own.nonzero()[:, 0].tolist()] for own in known]
    result = finish(
        problem,
        estimate,
        gauge=call.gauge,
        known=known,
        covariance=None,
        groups=groups,
        ratio=ratio,
        null=torch.ones(len(known), dtype=torch.long, device=known.device),
        ambiguity=[""] * len(known),
        signals=None if any(t is None for t in signals) else rescaled,
        settings=call.settings(),
        reason="products with the operator only, since its matrices are large",
        status=status_of(estimate.converged, False),
        A=_forward(ensemble),
        report={"applications": _numbers(parts[0].history)},
    )
    _complain(call, result)
    return result


def _forward(ensemble):
    """Signals (..., p, n) -> what the sensors would see of them, without gains."""

    def seen(x):
        flat = x.reshape(-1, *x.shape[-2:]) if x.ndim > 1 else x[None, None]
        out = torch.stack([ensemble.forward(one) for one in flat])
        return out.reshape(*x.shape[:-2], *out.shape[1:])

    return seen


def _numbers(history):
    return {key: [float(v) for v in row] for key, row in history.items() if key in ("forward", "adjoint")}


def _visibility_groups(call, estimate, V, M):
    """Groups of sensors that pairs with weight join, and what that leaves undetermined in words."""
    problem = call.problem
    b, m = estimate.gains.shape
    W = torch.ones_like(V.real) if problem.W is None else problem.W.expand(b, m, m)
    groups, words = [], []
    for channel in range(b):
        model = M[channel if len(M) > 1 else 0]
        active = estimate.active[channel].tolist()
        own = [[i for i in group if active[i]] for group in connected_groups(model, W[channel])]
        own = [group for group in own if group]
        groups.append(own)
        listed = " and ".join(ranges(group, problem.sensors) for group in own[:6])
        words.append(
            f"no visibility joins the sensors {listed}: their relative phase is undetermined, and only the first of the "
            "largest groups is answered for. Add pairs that join them"
            if len(own) > 1
            else ""
        )
    return groups, words


def _visibilities(call):
    problem = call.problem
    V, M = problem.y * problem.y_unit, problem.A[:, 0] * problem.A_unit
    for name, value in (("s_basis", call.s_basis), ("d_basis", call.d_basis), ("prior", call.prior)):
        if value is not None:
            raise InvalidInputError(f"{name} must be None for model='covariance'; got {value!r}. Leave it out.")
    estimate = solve_visibilities(
        V, M, W=problem.W, loss=call.loss, tol=max(call.tol, 1e-12), max_iter=max(call.max_iter, 1), on_failure="ignore"
    )
    known = estimate.active & torch.isfinite(estimate.gains.abs())
    groups, ambiguity = _visibility_groups(call, estimate, V, M)
    for channel, own in enumerate(groups):
        if len(own) > 1:
            mask = torch.zeros_like(known[channel])
            mask[max(own, key=len)] = True
            known[channel] &= mask
    b = len(known)
    result = finish(
        dataclasses.replace(problem, y_unit=1.0, A_unit=1.0),
        estimate,
        gauge=call.gauge,
        known=known,
        covariance=estimate.covariance,
        groups=groups,
        ratio=torch.full((b,), float("nan"), dtype=V.real.dtype, device=V.device),
        null=torch.tensor([max(len(own), 1) for own in groups], device=V.device),
        ambiguity=ambiguity,
        signals=None,
        settings=call.settings(),
        reason="alternating least squares from an eigenvector, then Gauss-Newton",
        status=status_of(estimate.converged, False),
        A=_kept(problem),
        within=estimate.gains,
    )
    _complain(call, result)
    return result
