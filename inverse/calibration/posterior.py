"""Gains with a prior: asked for, or found necessary since the model holds only nearly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sciml.inverse.calibration.misfit import assess, choose, mean_is_supported, shrunk_gains
from sciml.inverse.calibration.priors import gain_penalty
from sciml.inverse.calibration.problem import build_elimination
from sciml.inverse.calibration.refinement import refine
from sciml.inverse.calibration.robust import per_sensor_chain

__all__ = ["answer_misfit", "numbered", "with_prior"]

_LEAST_DOF = 10  # residuals of fewer are not tested for a misfit


def answer_misfit(call, problem, elimination, answer, options):
    """Let each channel that has one group decide between likelihood and shrunk gains; return reasons.

    Residuals that are not white may come from sensors of unequal noise, which weights mend, or from a model that holds
    only nearly, which a prior mends: the former is tried first.
    """
    parameters = options.parameters
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
        weighed = _own_noise(problem, channel, options, decision)
        if weighed is not None:
            reasons[-1] = weighed.reason
            for name in ("gains", "covariance", "converged", "misfit", "noise_variance"):
                getattr(estimate, name)[channel] = getattr(weighed.estimate, name)[0]
            estimate.method = weighed.estimate.method
            continue
        if decision.spread == 0 and not mean_is_supported(part, torch.ones_like(d)):
            # Gains of arbitrary signs or phases are not one: those of the likelihood are no worse than none.
            reasons[-1] = (
                f"residuals are no white noise (score {decision.assessment.score:.0f}), but nothing speaks for gains "
                "near a mean: the gains of highest likelihood are kept, with errors larger than stated"
            )
            answer.overruled[channel] = reasons[-1]
            continue
        answer.overruled[channel] = decision.reason if decision.method == "uncalibrated" else ""
        estimate.gains[channel] = torch.where(active[0], decision.gains, float("nan"))
        estimate.covariance[channel] = decision.covariance
        estimate.converged[channel] = decision.converged
        misfit = part.cost(decision.gains[None])
        estimate.misfit[channel] = misfit[0]
        estimate.noise_variance[channel] = misfit[0] / estimate.dof[channel].clamp_min(1)
        estimate.method = "prior" if decision.method == "prior" else decision.method
    if not reasons:
        return []
    return [reasons[0]] if len(set(reasons)) == 1 else numbered(reasons, len(answer.groups))


@dataclass
class _Weighed:
    estimate: object
    reason: str


def _own_noise(problem, channel, options, decision):
    """The answer of one channel with a noise for each sensor, if that makes its residuals white; else None."""
    pick = lambda t: t if t is None or len(t) == 1 else t[channel : channel + 1]  # noqa: E731
    one = replace(problem, y=problem.y[channel : channel + 1], A=pick(problem.A), W=pick(problem.W))
    answer, elimination, std = per_sensor_chain(one, replace(options, sensor_weights=None))
    estimate = answer.estimate
    active = estimate.active
    if len(answer.groups[0]) != 1 or not bool(estimate.converged.all()):
        return None
    w = torch.where(active, 1 / std.square(), 0).nan_to_num(0.0, posinf=0.0)
    w = w / w.amax().clamp_min(torch.finfo(w.dtype).tiny)
    base = one.y.real.new_ones(1, *one.y.shape[1:]) if one.W is None else one.W
    weighted = build_elimination(one, base * w[:, None, :]).restrict(active)
    d = torch.where(active, estimate.gains, 0)
    verdict = assess(weighted, d)
    if verdict.misfit:
        return None
    spread = float(std[active].max() / std[active].min())
    reason = (
        f"residuals are no white noise (score {decision.assessment.score:.0f}), but are so with a noise for each "
        f"sensor (score {verdict.score:.1f}), the noisiest being {spread:.3g} times the quietest: weighed accordingly"
    )
    return _Weighed(estimate, reason)


def _weights_of(problem, channel):
    return 1.0 if problem.W is None else problem.W[channel if len(problem.W) > 1 else 0]


def numbered(reasons, channels):
    if channels == 1:
        return reasons
    shown = [f"channel {c}: {text}" for c, text in enumerate(reasons[:3])]
    return shown + ([f"and so on for {channels} channels"] if channels > 3 else [])


def with_prior(call, problem, elimination, answer):
    """Maximum a posteriori in place of maximum likelihood."""
    estimate, prior = answer.estimate, call.prior
    active = estimate.active
    d = torch.where(active & torch.isfinite(estimate.gains.abs()), estimate.gains, 0)
    centre = prior.centre(d)
    own = elimination.restrict(active)
    # The start is brought to the scale of the mean.
    factor = (d.conj() * centre).sum(1) / d.abs().square().sum(1).clamp_min(1e-300)
    start = torch.where(active, d * factor[:, None], 0)
    if isinstance(prior.strength, str):
        reasons = []
        for channel in range(len(d)):
            index = torch.tensor([channel], device=d.device)
            part, mean = own.rows(index), torch.where(active[index], centre[index], 0)
            supported = mean_is_supported(part, torch.where(active[index], mean, 1))
            found = shrunk_gains(part, start[index], torch.where(active[index], mean, 1), problem.y[index], supported)
            estimate.gains[channel] = torch.where(active[channel], found.d, float("nan"))
            estimate.covariance[channel] = found.covariance
            estimate.converged[channel] = found.converged
            answer.overruled[channel] = ""
            reasons.append(
                f"log gains shrunk towards the mean of the prior, with a spread of {found.spread:.2g} and errors of "
                f"{found.inflation:.3g} times the variance of the residuals, both estimated"
            )
        estimate.method = "prior"
        answer.groups[:] = [[sorted(sum(each, []))] if each else [] for each in answer.groups]
        answer.null_dimension = torch.ones_like(answer.null_dimension)
        return reasons[:1] if len(set(reasons)) == 1 else numbered(reasons, len(d))
    f, g, F = own.gauss_newton(start)
    weight = prior.strength * torch.diagonal(F, dim1=-2, dim2=-1).real.sum(1) / active.sum(1).clamp_min(1)
    if prior.on == "inverse":
        weight = weight * start.abs().square().sum(1) / active.sum(1).clamp_min(1)
    penalty = gain_penalty(torch.where(active, centre, 0), weight, prior.on)
    if prior.strength > 0:
        found = refine(own, start, penalty=penalty, tol=call.tol, max_iter=call.max_iter)
        d = found.d
        _, _, F = own.gauss_newton(d)
        F = F + penalty(d)[2] + torch.diag_embed((~active).to(F.dtype))
        inverse = torch.linalg.inv((F + F.mH) / 2)
        both = active[..., :, None] & active[..., None, :]
        estimate.misfit = found.misfit
        estimate.noise_variance = found.misfit / estimate.dof.clamp_min(1)
        estimate.covariance = torch.where(both, estimate.noise_variance[:, None, None] * inverse, 0)
        estimate.gains = torch.where(active, d, float("nan"))
        estimate.converged, estimate.n_iter, estimate.history = found.converged, found.n_iter, found.history
        answer.groups[:] = [[sorted(sum(each, []))] if each else [] for each in answer.groups]
        answer.null_dimension = torch.ones_like(answer.null_dimension)
        answer.overruled.update(dict.fromkeys(range(len(d)), ""))
    estimate.method = "prior"
    return [f"prior of strength {prior.strength:g} on the {prior.on} of the gains, as asked for"]
