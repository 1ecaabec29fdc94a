r"""The dense chain: eigenproblem free of noise bias, reweighting, maximum likelihood, covariance; group by group.

Notation  b channels, m sensors; s = 1/d; M, N of the elimination; lam its generalised eigenvalues.
Cost      some ten eliminations and m^3.
Pitfalls  the residual of the linear equation is s times the noise, so that it is weighed by the current abs(d)^2 and
          solved again; Gauss-Newton closes what is left to the Cramer-Rao bound. A local minimum is possible at low
          signal-to-noise ratios: several starts are refined there and the lowest misfit is kept.
References
    C. Sanathanan, J. Koerner, Transfer function synthesis as a ratio of two complex polynomials, 1963 (the
    reweighting).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sciml.inverse.calibration.bases import hermitian
from sciml.inverse.calibration.estimate import Estimate
from sciml.inverse.calibration.identifiability import (
    common_groups,
    dead_sensors,
    null_count,
    quiet_sensors,
    ratio_threshold,
    rounding_floor,
    signals_seen,
    uninformed_sensors,
)
from sciml.inverse.calibration.published import inverse_power
from sciml.inverse.calibration.refinement import Parametrisation, refine
from sciml.inverse.calibration.spectral import spectral_start
from sciml.inverse.calibration.uncertainty import gain_covariance, without_noise
from sciml.iterate import Status

__all__ = ["Chain", "ChainAnswer", "solve_chain"]

_ROUNDS = 3  # of reweighting; more change less than the noise does
_APART = 0.1  # two starts whose gains differ by more than this are both refined
_SUBSPACE_STARTS = 20  # of gains in a subspace, at most
_LOUD = 30.0  # signal over noise, as powers, from which one start is enough where the first two agree


@dataclass(frozen=True)
class Chain:
    """What is asked of the chain.

    Parameters
    ----------
    parameters : Parametrisation
        Of the gains.
    start : {"reweighted", "eigenvector", "signal", "least-squares", "spectral"}
        The first estimate; "signal" takes the energy of the data as the normaliser of the eigenproblem.
    refine : bool
        Whether to refine it to maximum likelihood.
    w : Tensor, shape (m,), or None
        Normaliser of least squares.
    tol, max_iter
        Of the refinement.
    sensor_weights : Tensor, shape (b, m), or None
        Multiply the weights throughout.
    callback, progress
        Of the refinement, as for :func:`sciml.iterate.run`.
    """

    parameters: Parametrisation = field(default_factory=Parametrisation)
    start: str = "reweighted"
    refine: bool = True
    w: torch.Tensor | None = None
    tol: float = 1e-10
    max_iter: int = 300
    sensor_weights: torch.Tensor | None = None
    callback: Any = None
    progress: bool | None = None


@dataclass
class ChainAnswer:
    """An estimate with what the data do not determine.

    Parameters
    ----------
    estimate : Estimate
        Gains in a gauge of their own for each group, NaN where unidentified.
    groups : list of list of list of int
        For each channel the groups of sensors that share information.
    null_dimension : Tensor, shape (b,)
        Number of directions that the data leave free, the common factor included.
    ratio : Tensor, shape (b,)
        Of the two smallest eigenvalues.
    threshold : Tensor, shape (b,)
        Ratio up to which noise alone explains their distance.
    null_vectors : Tensor, shape (b, m, k)
        Inverse gains of the smallest pairs.
    signals_seen : list of (int, int) or None
        For each channel of common snapshots: the number of independent signals above the noise, and the number needed.
    overruled : dict of int to str
        Channels whose gains are not those of the likelihood, with what is undetermined nevertheless, "" for nothing.
    """

    estimate: Estimate
    groups: list
    null_dimension: torch.Tensor
    ratio: torch.Tensor
    threshold: torch.Tensor
    null_vectors: torch.Tensor
    signals_seen: list | None = None
    overruled: dict = field(default_factory=dict)


def solve_chain(elimination, options):
    """Return the gains of b channels.

    Parameters
    ----------
    elimination : Elimination
        The problem.
    options : Chain
        What is asked for.

    Returns
    -------
    ChainAnswer
        See there.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.elimination import Shared
    >>> d = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    >>> problem = Shared(d[:, None], torch.ones(1, 3, 1, dtype=torch.float64), torch.ones(1))
    >>> gains = solve_chain(problem, Chain()).estimate.gains
    >>> (gains / gains[:, :1]).round(decimals=9)
    tensor([[1., 2., 4.]], dtype=torch.float64)
    """
    answer = _attempt(elimination, options)
    if not options.refine or options.parameters.basis is not None:
        return answer
    for _ in range(elimination.m):
        estimate = answer.estimate
        std = torch.diagonal(estimate.covariance, dim1=-2, dim2=-1).real.clamp_min(0).sqrt()
        dead = torch.stack([_dead(estimate, std, own, c) for c, own in enumerate(answer.groups)])
        if not bool(dead.any()):
            break
        elimination = elimination.restrict(estimate.active & ~dead)
        answer = _attempt(elimination, options)
    return answer


def _dead(estimate, std, groups, channel):
    """Dead sensors (m,) of one channel, each group being a population of its own."""
    dead = torch.zeros_like(estimate.active[channel])
    d = torch.where(estimate.active, estimate.gains, 0)[channel][None]
    for group in groups:
        mask = torch.zeros_like(dead)
        mask[group] = True
        dead |= dead_sensors(torch.where(mask, d, 0), std[channel][None], mask[None])[0]
    return dead


def _attempt(elimination, options):
    elimination, quiet, M, N, lam, V = _with_information(elimination, options)
    active, loud = elimination.active, elimination.active & ~quiet
    free = options.parameters.basis is None
    groups = (
        common_groups(M, active) if free else [[a.nonzero()[:, 0].tolist()] if bool(a.any()) else [] for a in active]
    )
    dof = _dof(elimination, active.to(elimination.dtype), options)
    root = torch.where(loud, N, 1.0).sqrt()
    floor = rounding_floor(torch.diagonal(M, dim1=-2, dim2=-1).real / root.square(), loud)
    threshold = ratio_threshold(dof)
    null, ratio = null_count(lam, floor, threshold)
    null = torch.maximum(null, torch.tensor([max(len(g), 1) for g in groups], device=null.device))
    if all(len(g) == 1 and len(g[0]) > 1 for g in groups):
        estimate = _solve(elimination, quiet, options, null > 1)
    else:
        estimate = _by_groups(elimination, quiet, options, groups)
    if options.parameters.basis is not None and not options.parameters.inverse:
        # The eigenproblem knows nothing of the subspace of the gains: the information at the estimate does.
        lam = _subspace_eigenvalues(elimination, estimate, options)
        floor = rounding_floor(torch.diagonal(M, dim1=-2, dim2=-1).real / root.square(), loud)
        null, ratio = null_count(lam, floor, threshold)
    estimate.eigenvalues = lam
    noise = (
        estimate.noise_variance if options.refine else torch.minimum(estimate.noise_variance, lam[:, 0].clamp_min(0))
    )
    seen = signals_seen(elimination, noise, options.parameters.size, options.sensor_weights)
    for channel, (own, needed) in enumerate(seen or []):
        if own < needed and len(groups[channel]) == 1:
            # The noise alone tells the gains apart, that is, nothing does: any answer would fit as well.
            null[channel] = null[channel].clamp_min(2)
            unknown = torch.where(active[channel], float("inf"), 0.0).to(estimate.covariance.dtype)
            estimate.covariance[channel] = torch.diag(unknown)
    return ChainAnswer(estimate, groups, null, ratio, threshold, V / root[..., None], seen)


def _with_information(elimination, options):
    """Leave out sensors without information, and set those aside that would spoil the start.

    Return the problem, the sensors set aside, and M, N (of all) and the smallest eigenpairs (of the others).
    """
    parameters = options.parameters
    basis = parameters.basis if parameters.inverse else None
    for _ in range(elimination.m):
        M, N = elimination.schur_kept(options.sensor_weights)
        poor = uninformed_sensors(M, N, elimination.active)
        if not bool(poor.any()):
            break
        elimination = elimination.restrict(~poor)
    quiet = torch.zeros_like(elimination.active)
    loud, M_loud, N_loud = elimination, M, N
    for _ in range(elimination.m):
        lam, V = spectral_start(M_loud, N_loud, loud.active, basis=basis)[1:]
        if parameters.basis is not None or lam.shape[1] < 2:
            break
        freedom = _dof(loud, loud.active.to(loud.dtype), options)
        more = quiet_sensors(M_loud, N_loud, loud.active, lam, V, freedom)
        # What is left must still be a problem.
        more = more & (loud.active.sum(1) - more.sum(1) > max(2, loud.m // 2))[:, None]
        if not bool(more.any()):
            break
        fewer = loud.restrict(~more)
        M_fewer, N_fewer = fewer.schur(options.sensor_weights)
        if bool(uninformed_sensors(M_fewer, N_fewer, fewer.active).any()):
            break  # with no more sensors than unknowns, signals would fit whatever the others say
        quiet, loud, M_loud, N_loud = quiet | more, fewer, M_fewer, N_fewer
    return elimination, quiet, M, N, lam, V


def _subspace_eigenvalues(elimination, estimate, options):
    """Noise variance and information that is left beside it in the weakest directions of the subspace: (b, k),
    ascending.

    Where the information is all noise, it is as large as that of noise: the second number is near the first.
    """
    active = elimination.active
    d = torch.where(active & torch.isfinite(estimate.gains.abs()), estimate.gains, 0)
    _, _, F = elimination.gauss_newton(d, options.sensor_weights)
    K = elimination.noise_part(d, options.sensor_weights)
    J = torch.where(active[..., None], options.parameters.derivative(d), 0)
    # Without the direction of the common factor, which has neither.
    theta = options.parameters.project(torch.where(active, d, 0))
    basis = torch.linalg.qr(
        torch.cat([theta[..., None], torch.eye(J.shape[-1], dtype=F.dtype).expand(len(d), -1, -1)], -1)
    )
    J = J @ basis.Q[..., 1:]
    first = estimate.noise_variance[:, None]
    if J.shape[-1] == 0:
        return first
    F, K = hermitian(J.mH @ F @ J), hermitian(J.mH @ K @ J)
    size = torch.diagonal(K, dim1=-2, dim2=-1).real.sum(-1).clamp_min(torch.finfo(first.dtype).tiny)
    L = torch.linalg.cholesky(K + torch.diag_embed((1e-13 * size)[:, None].expand(-1, K.shape[-1]).to(K.dtype)))
    inner = torch.linalg.solve_triangular(L, F, upper=False)
    lam = torch.linalg.eigvalsh(hermitian(torch.linalg.solve_triangular(L, inner.mH, upper=False)))
    return torch.cat([first, lam[:, :2].clamp_min(first)], 1)


def _dof(elimination, d, options):
    k = options.parameters.size
    count = elimination.active.sum(1) if k is None else torch.full_like(elimination.active.sum(1), k)
    return (elimination.degrees_kept(d) - (count - 1)).to(d.real.dtype)


def _by_groups(elimination, quiet, options, groups):
    """Solve for each group by itself; the factors between groups are arbitrary."""
    parts = []
    for channel, own in enumerate(groups):
        one = elimination.rows(torch.tensor([channel], device=elimination.device))
        weights = options.sensor_weights
        own_options = options if weights is None else replace(options, sensor_weights=weights[channel : channel + 1])
        best = None
        for group in own or [[]]:
            mask = torch.zeros(1, elimination.m, dtype=torch.bool, device=elimination.device)
            mask[0, group] = True
            # A group of one sensor has no equation but its own.
            own_part, aside = one.restrict(mask), quiet[channel][None] & mask
            answer = _solve(own_part, aside, own_options) if len(group) > 1 else _lonely(own_part)
            best = answer if best is None else _merged(best, answer)
        parts.append(best)
    join = lambda name: torch.cat([getattr(part, name) for part in parts])  # noqa: E731
    names = ("gains", "active", "noise_variance", "misfit", "dof", "eigenvalues", "converged", "covariance")
    return Estimate(
        **{name: join(name) for name in names},
        method=parts[0].method,
        n_iter=max(part.n_iter for part in parts),
        history=parts[0].history,
    )


def _lonely(elimination):
    zero = elimination.schur_kept()[1].new_zeros(1)
    m = elimination.m
    gains = torch.where(elimination.active, 1.0, float("nan")).to(elimination.dtype)
    return Estimate(
        gains=gains,
        active=elimination.active,
        noise_variance=zero,
        misfit=zero,
        dof=zero,
        eigenvalues=zero[:, None][:, :0],
        converged=torch.ones(1, dtype=torch.bool, device=zero.device),
        method="none",
        covariance=torch.zeros(1, m, m, dtype=elimination.dtype, device=zero.device),
    )


def _merged(one, two):
    """Two estimates of disjoint sensors of one channel."""
    misfit, dof = one.misfit + two.misfit, one.dof + two.dof
    return Estimate(
        gains=torch.where(two.active, two.gains, one.gains),
        active=one.active | two.active,
        noise_variance=misfit / dof.clamp_min(1),
        misfit=misfit,
        dof=dof,
        eigenvalues=one.eigenvalues[:, :0],
        converged=one.converged & two.converged,
        method=one.method if one.method != "none" else two.method,
        n_iter=max(one.n_iter, two.n_iter),
        covariance=one.covariance + two.covariance,
        history=one.history or two.history,
    )


def _solve(elimination, quiet, options, doubtful_directions=None):
    """Return the estimate for channels whose sensors form one group.

    Directions without information beyond noise are looked for in `doubtful_directions` (b,), everywhere by default.
    """
    parameters, active = options.parameters, elimination.active
    first, others = _starts(elimination, quiet, options)
    history, n_iter = {}, 0
    if options.refine:
        loop = {"tol": options.tol, "max_iter": options.max_iter, "callback": options.callback}
        loop |= {"progress": options.progress, "parameters": parameters}
        solve = lambda e, d, w: refine(e, d, sensor_weights=w, **loop)  # noqa: E731
        found = solve(elimination, first, options.sensor_weights)
        d, misfit, converged, n_iter, history = found.d, found.misfit, found.converged, found.n_iter, found.history
        if parameters.basis is not None and not parameters.inverse and found.status is not Status.STOPPED:
            d, misfit, converged = _lowest_twice(elimination, found, parameters, options, loop)
        doubtful = _doubtful(elimination, first, others, found, options)
        if bool(doubtful.any()) and found.status is not Status.STOPPED and parameters.basis is None:
            index = doubtful.nonzero()[:, 0]
            part = elimination.rows(index)
            weights = None if options.sensor_weights is None else options.sensor_weights[index]
            for start in others:
                again = solve(part, start()[index], weights)
                better = again.misfit < misfit[index] * (1 - 1e-12)
                rows = index[better]
                d[rows], misfit[rows], converged[rows] = again.d[better], again.misfit[better], again.converged[better]
    else:
        d = parameters.gains(parameters.project(torch.where(active, first, 1)))
        d = torch.where(active, d, 0)
        misfit, converged = None, torch.ones(len(d), dtype=torch.bool, device=d.device)
    dof = _dof(elimination, d, options)
    f, _, F = elimination.gauss_newton(d, options.sensor_weights)
    misfit = f if misfit is None else misfit
    variance = misfit / dof.clamp_min(1)
    if options.refine and found.status is Status.STOPPED:
        history = {**history, "stopped": True}
    covariance = gain_covariance(F, d, active, parameters.derivative(d))
    noisy = _is_noisy(elimination, d, F, variance, active)
    if options.refine and bool(noisy.any()):
        noise = variance[:, None, None] * elimination.noise_part(d, options.sensor_weights)
        corrected = without_noise(covariance, noise, doubtful_directions)
        # A few sensors with little information are that; where most have none, the gains are no answer.
        size = variance[:, None] * torch.diagonal(corrected, dim1=-2, dim2=-1).real
        weak = active & (size > d.abs().square().sum(1, keepdim=True) / active.sum(1, keepdim=True).clamp_min(1))
        none = weak.sum(1) > active.sum(1) / 2
        if bool((weak.any(1) & ~none).any()):
            corrected = torch.where(
                none[:, None, None], corrected, without_noise(covariance, noise, torch.zeros_like(none))
            )
        # Channel by channel, so that company does not matter.
        covariance = torch.where(noisy[:, None, None], corrected, covariance)
    covariance = variance[:, None, None] * covariance
    return Estimate(
        gains=torch.where(active, d, float("nan")),
        active=active,
        noise_variance=variance,
        misfit=misfit,
        dof=dof,
        eigenvalues=variance[:, None][:, :0],
        converged=converged,
        method=options.start + (" + maximum likelihood" if options.refine else ""),
        n_iter=n_iter,
        covariance=covariance,
        history=history,
    )


def _lowest_twice(elimination, found, parameters, options, loop):
    """Gains in a subspace from starts in it, until two of them come to the same lowest misfit.

    The eigenproblem knows nothing of the subspace, so that its start may be far off, and the misfit has local minima.
    """
    d, misfit, converged = found.d, found.misfit, found.converged
    m, k = parameters.basis.shape
    exact = 1e-18 * _energy(elimination, options)
    seen = torch.zeros_like(misfit, dtype=torch.bool)
    # Fixed points on the sphere, so that the same data give the same answer.
    grid = torch.arange(1, k + 1, dtype=misfit.dtype, device=misfit.device)
    for number in range(_SUBSPACE_STARTS):
        if number == 0:
            start = torch.ones(elimination.b, m, dtype=d.dtype, device=d.device)
        else:
            angle = number * grid * (1 + 5**0.5) / 2 + number * number * grid.square() * 2**0.5
            theta = torch.polar(torch.ones_like(angle), 6.0 * angle) if d.is_complex() else torch.cos(6.0 * angle)
            start = (parameters.factors.Q @ theta.to(d.dtype)).expand(elimination.b, -1)
        again = refine(elimination, start, sensor_weights=options.sensor_weights, **loop)
        near = (again.misfit - misfit).abs() <= 1e-6 * misfit + exact
        lower = (again.misfit < misfit) & ~near
        seen = torch.where(lower, False, seen | near) | ((again.misfit <= exact) & lower) | (misfit <= exact)
        row = (again.misfit < misfit)[:, None]
        d = torch.where(row, again.d, d)
        converged = torch.where(row[:, 0], again.converged, converged)
        misfit = torch.minimum(again.misfit, misfit)
        if bool(seen.all()):
            break
    return d, misfit, converged & seen


def _energy(elimination, options):
    M, _ = elimination.schur_kept(options.sensor_weights)
    return torch.diagonal(M, dim1=-2, dim2=-1).real.sum(1)


def _starts(elimination, quiet, options):
    """Return the first estimate of the gains (b, m) and functions that give others.

    Sensors set aside get a small gain: the first step of Gauss and Newton then fits it to the signals of the others.
    """
    weights = options.sensor_weights
    basis = options.parameters.basis if options.parameters.inverse else None
    loud = elimination.restrict(~quiet) if bool(quiet.any()) else elimination
    active = loud.active

    def gains(s):
        d = _gains(s, active)
        typical = torch.where(active, d.abs(), float("nan")).nanmedian(dim=1, keepdim=True).values.nan_to_num(1.0)
        return torch.where(quiet & elimination.active, 1e-3 * typical, d)

    M, N = loud.schur_kept(weights)
    if options.start == "least-squares":
        return gains(inverse_power(loud, options.w)[0]), []
    if options.start == "spectral":
        return gains(inverse_power(loud, options.w, 300, 1e-12)[0]), []
    if options.start == "signal":
        # Model errors are as large as the signal, hence in proportion to the energy of each sensor.
        energy = torch.diagonal(M, dim1=-2, dim2=-1).real.clamp_min(torch.finfo(N.dtype).tiny)
        return gains(spectral_start(M, energy, active, 1, basis)[0]), []
    plain = gains(spectral_start(M, N, active, 1, basis)[0])
    if options.start == "eigenvector":
        return plain, []
    d = plain
    for _ in range(_ROUNDS):
        size = torch.where(active, d.abs(), float("nan"))
        size = (size / size.nanmedian(dim=1, keepdim=True).values).nan_to_num(0.0).clamp(1e-3, 1e3).square()
        M, N = loud.schur(size if weights is None else weights * size)
        d = gains(spectral_start(M, N, active, 1, basis)[0])
    published = lambda: gains(inverse_power(loud, n_steps=100, tol=1e-6)[0])  # noqa: E731
    squares = lambda: gains(inverse_power(loud)[0])  # noqa: E731
    return d, [lambda: plain, published, squares]


def _is_noisy(elimination, d, F, variance, active):
    """Channels (b,) in which the noise in F could lengthen a standard deviation by more than half a percent."""
    size = torch.diagonal(F, dim1=-2, dim2=-1).real * d.abs().square()
    most = 0.25 * elimination.p * variance[:, None]
    return (active & (most > 5e-3 * size)).any(1)


def _gains(s, active):
    """1 / s, bounded where s vanishes."""
    size = torch.where(active, s.abs(), 0.0)
    least = 1e-12 * size.amax(1, keepdim=True)
    d = s.conj() / s.abs().square().clamp_min(least.square().clamp_min(torch.finfo(size.dtype).tiny))
    return torch.where(active, d, 0)


def _doubtful(elimination, first, others, found, options):
    """Channels (b,) in which one start may not be enough."""
    if not others:
        return torch.zeros_like(found.converged)
    second = others[0]()
    inner = (first.conj() * second).sum(1).abs()
    norms = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    apart = 1 - (inner / norms.clamp_min(torch.finfo(norms.dtype).tiny)).square() > _APART**2
    return apart | (_energy(elimination, options) < _LOUD * found.misfit) | ~found.converged
