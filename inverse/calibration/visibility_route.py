"""Self-calibration from visibilities: V = D M D^* + noise with M known."""

from __future__ import annotations

import dataclasses

import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.ambiguity import ranges
from sciml.inverse.calibration.answer import finish, status_of
from sciml.inverse.calibration.call import complain, kept_matrices
from sciml.inverse.calibration.visibilities import solve_visibilities
from sciml.inverse.calibration.visibility_pairs import connected_groups

__all__ = ["solve_covariance"]


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
            f"no visibility joins the sensors {listed}: their relative phase is undetermined, and only the first of "
            "the largest groups is answered for. Add pairs that join them"
            if len(own) > 1
            else ""
        )
    return groups, words


def solve_covariance(call):
    problem = call.problem
    V, M = problem.y * problem.y_unit, problem.A[:, 0] * problem.A_unit
    for name, value in (("s_basis", call.s_basis), ("d_basis", call.d_basis), ("prior", call.prior)):
        if value is not None:
            raise InvalidInputError(f"{name} must be None for model='covariance'; got one. Leave it out.")
    for name, value, usual in (("method", call.method, ("auto", "chain")), ("noise", call.noise, ("white",))):
        if value not in usual:
            raise InvalidInputError(f"{name} must be {usual[0]!r} for model='covariance'; got {value!r}. Leave it out.")
    estimate = solve_visibilities(
        V,
        M,
        W=problem.W,
        n_samples=call.n_samples,
        loss=call.loss,
        tol=max(call.tol, 1e-12),
        max_iter=max(call.max_iter, 1),
        on_failure="ignore",
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
        A=kept_matrices(problem),
        within=estimate.gains,
    )
    complain(call, result)
    return result
