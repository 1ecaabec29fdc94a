"""Self-calibration with matrices: counts, the chain and its variants, channel by channel where flags differ."""

from __future__ import annotations

import dataclasses
import math
import warnings

import torch

from sciml.exceptions import AmbiguityWarning, IdentifiabilityError, InvalidInputError
from sciml.inverse.calibration.ambiguity import describe_ambiguity, settle
from sciml.inverse.calibration.answer import finish, status_of
from sciml.inverse.calibration.call import complain, kept_matrices
from sciml.inverse.calibration.chain import Chain, solve_chain
from sciml.inverse.calibration.gauge import apply_gauge
from sciml.inverse.calibration.identifiability import check_counts
from sciml.inverse.calibration.posterior import answer_misfit, numbered, with_prior
from sciml.inverse.calibration.problem import build_elimination
from sciml.inverse.calibration.published import inverse_power
from sciml.inverse.calibration.refinement import Parametrisation
from sciml.inverse.calibration.robust import per_sensor_chain, student_chain
from sciml.iterate import caller_level
from sciml.linalg.arrays import enter
from sciml.linalg.memory import require

__all__ = ["solve_dense"]


def solve_dense(call):
    """Models 1 to 3 with matrices."""
    problem = call.problem
    y, W = problem.y, problem.W
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
    if W is not None and not isinstance(call.gauge, str) and not bool((W[..., call.gauge] > 0).any()):
        raise InvalidInputError(
            f"gauge must name a reference sensor with data; got {problem.sensors[call.gauge]!r}, whose data are all "
            "flagged. Pass another sensor, or gauge='mean-phase'."
        )
    # Entry-wise flags that differ between channels are solved channel by channel, so that equal patterns share bases.
    if b > 1 and W is not None and len(W) > 1 and not bool((W[:1] == W).all()):
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
        "reweighted": "maximum likelihood from a reweighted eigenproblem"
        if call.refine
        else "a reweighted eigenproblem",
        "least-squares": "asked for",
    }.get(options.start, "asked for")
    if call.method == "least-squares":
        reason = _check_normaliser(call, elimination, options) or reason
    reasons = [reason]
    if call.prior is not None:
        reasons = with_prior(call, problem, elimination, answer)
    elif call.method == "auto" and call.refine and call.loss == "gaussian" and call.noise == "white":
        reasons = answer_misfit(call, problem, elimination, answer, options) or reasons
    return _Estimated(answer, [(problem, elimination)], "; ".join(dict.fromkeys(reasons)), noise)


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
            raise InvalidInputError(
                f"{name} must have independent columns; got rank {rank} of {B.shape[1]}. Drop some."
            )
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
    # The answer for w is near w whatever the truth is: the smallest singular vector stands for the truth.
    s, _ = inverse_power(elimination, None, 100, 1e-6)
    w = torch.ones_like(s) if options.w is None else options.w.to(s.dtype).expand(s.shape)
    w = torch.where(elimination.active, w, 0)
    size = torch.linalg.vector_norm(w, dim=1) * torch.linalg.vector_norm(s, dim=1)
    worst = float(((w.conj() * s).sum(1).abs() / size.clamp_min(1e-300)).min())
    if worst >= 1e-3:
        return None
    text = (
        f"w is nearly orthogonal to the inverse gains (cosine {worst:.1e}), so that least squares amplifies noise. "
        "Pass another w, or method='spectral'."
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
    if any(a.estimate.history.get("stopped", False) for a in answers):
        estimate.history = {**estimate.history, "stopped": True}
    answer = dataclasses.replace(
        answers[0],
        estimate=estimate,
        groups=[group for a in answers for group in a.groups],
        null_dimension=torch.cat([a.null_dimension for a in answers]),
        signals_seen=[own for a in answers for own in a.signals_seen or [(0, 0)] * len(a.groups)],
        ratio=torch.cat([a.ratio for a in answers]),
        threshold=torch.cat([a.threshold for a in answers]),
        null_vectors=torch.cat([a.null_vectors[..., :v] for a in answers]),
        overruled={c: a.overruled[0] for c, a in enumerate(answers) if 0 in a.overruled},
    )
    noise = None if parts[0].sensor_noise is None else torch.cat([part.sensor_noise for part in parts])
    reasons = list(dict.fromkeys(part.reason for part in parts))
    reason = reasons[0] if len(reasons) == 1 else "; ".join(numbered([p.reason for p in parts], len(parts)))
    return _Estimated(answer, [piece for part in parts for piece in part.pieces], reason, noise)


def _finish_dense(call, found):
    problem, answer = call.problem, found.answer
    estimate = answer.estimate
    raw = estimate.gains
    gains, covariance, known, lost = settle(answer, call.refine)
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

    stopped = bool(estimate.history.pop("stopped", False))
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
        status=status_of(estimate.converged, stopped),
        A=kept_matrices(problem),
        within=within,
        sensor_noise=found.sensor_noise,
    )
    complain(call, result)
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
