"""From an estimate to the result: gauge, units, names, warnings and refusals."""

import math

import torch

from sciml.inverse.calibration.gauge import apply_gauge
from sciml.inverse.calibration.result import CalibrationResult
from sciml.iterate import Status

__all__ = ["finish"]


def finish(
    problem,
    estimate,
    *,
    gauge,
    known,
    covariance,
    groups,
    ratio,
    null,
    ambiguity,
    signals,
    settings,
    reason,
    status,
    A=None,
    within=None,
    sensor_noise=None,
    report=None,
):
    """Return the result of one call.

    Parameters
    ----------
    problem : Problem
        As it came through the door.
    estimate : Estimate
        Gains, in any gauge.
    gauge : str or int
        As `check_gauge` returns it.
    known : Tensor of bool, shape (b, m)
        Sensors with an answer.
    covariance : Tensor, shape (b, m, m), or None
        Of the gains.
    groups : list
        For each channel lists of numbers.
    ratio, null : Tensor, shape (b,)
        Of eigenvalues, and the number of null directions.
    ambiguity : list of str
        For each channel, in words.
    signals : callable or None
        Gains in the gauge (b, m) -> signals in the scaled units.
    settings : dict
        Of the result.
    reason : str
        Why the method.
    status : Status
        Of the result.
    A : Tensor, callable or None
        Kept for predictions.
    within : Tensor, shape (b, m), or None
        Gains of each group in a gauge of its own.
    sensor_noise : Tensor, shape (b, m), or None
        Noise of each sensor.
    report : dict or None
        Goes into the result.

    Returns
    -------
    CalibrationResult
        In the kind of the data.
    """
    b, m = estimate.gains.shape
    lead = problem.batch
    gains = torch.where(known, estimate.gains, float("nan"))
    if problem.model == "covariance":
        d, C = gains, covariance
        if not isinstance(gauge, str):
            # The scale is measured: a reference takes the phase only.
            own = gains[:, gauge]
            d = gains * torch.where(own.abs() > 0, own.conj() / own.abs(), torch.ones_like(own))[:, None]
        variance = estimate.variance
    else:
        d, C, variance = apply_gauge(gauge, gains, covariance, known, estimate.variance)
    ambiguity = list(ambiguity)
    if not isinstance(gauge, str):
        for channel in (known.any(1) & ~known[:, gauge]).nonzero()[:, 0].tolist():
            text = f"the reference sensor {problem.sensors[gauge]} has no answer, so that the scale is arbitrary"
            ambiguity[channel] = "; ".join(filter(None, [ambiguity[channel], text]))
    for channel in (~known.any(1)).nonzero()[:, 0].tolist():
        ambiguity[channel] = ambiguity[channel] or (
            "no sensor has an answer: whatever the gains, signals explain the data, or noise does. Leave columns of A "
            "out that nearly depend on others, or measure more"
        )
    if C is not None:
        variance = torch.diagonal(C, dim1=-2, dim2=-1).real.clamp_min(0)
    std = torch.where(known, variance.nan_to_num(nan=float("inf")).sqrt(), float("inf"))
    x = None if signals is None else signals(torch.where(known, d, 0))
    if x is not None:
        for channel in (known.any(1) & torch.isnan(x.abs()).flatten(1).all(1)).nonzero()[:, 0].tolist():
            seen = int(known[channel].sum()) * (problem.y.shape[1] if problem.model == "repeated" else 1)
            text = "the columns of A are dependent, so that signals are NaN. Leave columns out"
            if seen < x.shape[-1]:
                text = "the sensors with an answer are too few for the signals, which are NaN"
            ambiguity[channel] = "; ".join(filter(None, [ambiguity[channel], text]))
    # As many unknowns as data leave nothing to tell the noise from.
    exhausted = estimate.dof <= 0
    std = torch.where(exhausted[:, None], float("inf"), std)
    if C is not None:
        C = C + torch.diag_embed(torch.where(exhausted, float("inf"), 0.0)[:, None].expand(-1, m).to(C.dtype))
    sigma = torch.where(exhausted, float("nan"), estimate.noise_variance.clamp_min(0).sqrt())
    sigma = sigma * (problem.y_unit * problem.noise_unit)
    # A product of floats overflows to infinity where their power raises.
    unit = problem.y_unit * problem.y_unit
    chi2 = estimate.misfit * unit / estimate.dof.clamp_min(1)
    chi2 = torch.where(exhausted, float("nan"), chi2) if problem.absolute else torch.full_like(chi2, float("nan"))
    real = torch.empty(0, dtype=problem.working).real.dtype

    def out(t, dtype=None):
        if t is None:
            return None
        dtype = dtype or (problem.working if t.is_complex() else real)
        t = t.reshape((*lead, *t.shape[1:]))
        return problem.leave(t.to(dtype) if t.is_floating_point() or t.is_complex() else t)

    name = lambda index: [problem.sensors[i] for i in index]  # noqa: E731
    named_groups = [[name(group) for group in own] for own in groups]
    missing = [name((~row).nonzero()[:, 0].tolist()) for row in known]
    single = not lead
    words = [f"channel {c}: {text}" if not single else text for c, text in enumerate(ambiguity) if text]
    if x is not None:
        x = x * (problem.y_unit / problem.A_unit)
    full = {} if C is None else {"gains_cov": out(torch.where(_both(known), C, float("nan")))}
    return CalibrationResult(
        status=status,
        n_iter=estimate.n_iter,
        history={key: row for key, row in estimate.history.items() if len(row) == estimate.n_iter + 1},
        settings=settings,
        gains=out(d),
        gains_std=out(std),
        noise_std=out(sigma),
        chi2_reduced=out(chi2),
        ambiguity_ratio=out(ratio),
        null_dimension=out(null),
        dof=out(estimate.dof),
        eigenvalues=out(estimate.eigenvalues * unit),
        gains_within_groups=out(d if within is None else within),
        signals=out(x),
        sensor_noise_std=out(None if sensor_noise is None else sensor_noise * (problem.y_unit * problem.noise_unit)),
        model=problem.model,
        method=estimate.method,
        reason=reason,
        groups=named_groups[0] if single else named_groups,
        unidentified=missing[0] if single else missing,
        ambiguity="; ".join(words[:5]) + (f"; and {len(words) - 5} more channels" if len(words) > 5 else ""),
        sensors=list(problem.sensors),
        gauge=gauge if isinstance(gauge, str) else ["reference", problem.sensors[gauge]],
        channel_dims=list(problem.batch_names or ()),
        report={"decisions": list(estimate.notes), **(report or {})},
        A=A,
        **full,
    )


def status_of(converged, stopped):
    """Return the status of a result: all channels must have converged.

    Parameters
    ----------
    converged : Tensor of bool, shape (b,)
        Of the channels.
    stopped : bool
        Whether callback or keyboard ended the work.
    """
    if stopped:
        return Status.STOPPED
    return Status.CONVERGED if bool(converged.all()) else Status.MAX_ITER


def _both(known):
    return known[..., :, None] & known[..., None, :] if math.prod(known.shape) else known[..., None]
