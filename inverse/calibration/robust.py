r"""Outliers and sensors of unequal noise: weights that follow from the residuals, found together with the gains.

Notation  r (b, p, m) residuals over the noise; w = (nu + 2) / (nu + 2 abs(r)^2) for complex, (nu + 1) / (nu + r^2) for
          real data, nu = 2; sigma by the median of abs(r).
Cost      from fifty eliminations with weights of every entry, where the first starts agree, to some four hundred.
Pitfalls  an eigenvector has no defence against outliers, and the likelihood has many local maxima: several starts hide
          what the data themselves make suspect, each is followed through eigenproblems with weights from the residuals,
          and the most likely one counts. Where few starts come to it, the answer says that it did not converge.
References
    K. L. Lange, R. J. A. Little, J. M. G. Taylor, Robust statistical modeling using the t distribution, 1989.
"""

import math
from dataclasses import dataclass, replace

import torch

from sciml.inverse.calibration.chain import solve_chain
from sciml.inverse.calibration.identifiability import uninformed_sensors
from sciml.inverse.calibration.problem import build_elimination
from sciml.inverse.calibration.refinement import refine
from sciml.inverse.calibration.spectral import spectral_start
from sciml.random import generator

__all__ = ["per_sensor_chain", "student_chain"]

_NU = 2.0
_ROUNDS = 30  # of two Gauss-Newton steps
_SEARCH = 20  # rounds of the eigenproblem for each start
_EARLY = 6  # of them in which suspects stay hidden
_REPAIRS = (8, 12)  # rounds in which sensors that were given up are tried again
_CANDIDATES = 32  # gains of a sensor that are then tried, at most
_SEEN = 3  # starts that come to the most likely answer: fewer are no reason to trust it, more are not needed
_ALIKE = 0.03  # mean distance between the predictions of two such starts, over their median
# Starts: entries above so many times what is usual at their sensor are suspects, hidden with that power of the excess;
# True for weights of least absolute values at first. Neighbours differ, lest they agree on the same wrong answer.
_SCREENS = (
    (2.0, 8, False),
    (math.inf, 1, True),
    (1.0, 2, True),
    (1.5, 8, False),
    (2.0, 8, True),
    (3.0, 8, False),
    (1.0, 2, False),
)
_RANDOM = 16  # further starts with a quarter of the entries hidden at random
_WHOLE = 4  # rounds of weights from one whole solution to the next
_FLOOR = 1e-3  # of the median variance of a sensor: no sensor may claim to be exact


def student_chain(problem, options):
    """Return the chain's answer for noise of Student's t distribution with two degrees of freedom.

    Parameters
    ----------
    problem : Problem
        With dense matrices.
    options : Chain
        What is asked for.

    Returns
    -------
    answer : ChainAnswer
        With the covariance of the robust estimate.
    elimination : Elimination
        With the last weights.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration.chain import Chain
    >>> from sciml.inverse.calibration.problem import as_problem
    >>> x = np.array([[1.0], [2.0], [-1.0], [3.0], [1.5], [-2.0]])
    >>> y = x * np.array([1.0, 2.0, 4.0, 1.0])
    >>> y[2, 1] = 50.0
    >>> answer, _ = student_chain(as_problem(y, np.ones((4, 1))), Chain())
    >>> (answer.estimate.gains / answer.estimate.gains[:, :1]).round(decimals=6)
    tensor([[1., 2., 4., 1.]], dtype=torch.float64)
    """
    given = problem.W
    own = torch.ones_like(problem.y.real) if given is None else given.expand(problem.y.shape)
    weights, trusted = _most_likely(problem, own, options.parameters)
    start = replace(options, refine=False, start="reweighted")
    for _ in range(2):
        elimination = build_elimination(problem, weights)
        d = _usable(solve_chain(elimination, start).estimate.gains)
        w, _, _ = _student(problem, elimination, d, own)
        weights = own * w
    for _ in range(_ROUNDS if options.refine else 0):
        elimination = build_elimination(problem, weights)
        old = d
        d = refine(elimination, d, parameters=options.parameters, max_iter=2).d
        w, scale, gain = _student(problem, elimination, d, own)
        weights = own * w
        if float(_distance(d, old).max()) < 1e-9:
            break
    elimination = build_elimination(problem, weights)
    answer = solve_chain(elimination, replace(options, start="reweighted"))
    w, scale, gain = _student(problem, elimination, _usable(answer.estimate.gains), own)
    estimate = answer.estimate
    # The covariance of an M-estimate: that of least squares with the same information times E psi^2 / (E psi')^2.
    if options.refine:
        mean = (own * w).sum((1, 2)) / own.sum((1, 2))
        ratio = mean * gain * scale.square() / estimate.noise_variance.clamp_min(torch.finfo(own.dtype).tiny)
        estimate.covariance = estimate.covariance * ratio[:, None, None]
    estimate.noise_variance = scale.square()
    estimate.converged = estimate.converged & trusted
    estimate.method = "robust " + estimate.method
    return answer, elimination


def per_sensor_chain(problem, options, rounds=8):
    """Return the chain's answer with a noise variance for each sensor, found from its residuals.

    Parameters
    ----------
    problem : Problem
        With dense matrices.
    options : Chain
        What is asked for.
    rounds : int
        Of weights and gains; 8 by default, after which neither changes by more than a fraction of its error.

    Returns
    -------
    answer : ChainAnswer
        With the covariance for these weights.
    elimination : Elimination
        Without them.
    std : Tensor, shape (b, m)
        Noise of each sensor; NaN where inactive.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration.chain import Chain
    >>> from sciml.inverse.calibration.problem import as_problem
    >>> rng = np.random.default_rng(0)
    >>> y = rng.standard_normal((500, 1)) * np.ones(5) + [0.1, 0.1, 0.1, 0.1, 0.5] * rng.standard_normal((500, 5))
    >>> problem = as_problem(y, np.ones((5, 1)))
    >>> (per_sensor_chain(problem, Chain())[2] * problem.y_unit).round(decimals=1)
    tensor([[0.1000, 0.1000, 0.1000, 0.1000, 0.5000]], dtype=torch.float64)
    """
    elimination = build_elimination(problem)
    given = options.sensor_weights
    weights, std = given, None
    answer = solve_chain(elimination, options)
    d = _usable(answer.estimate.gains)
    for number in range(1, rounds + 1):
        active = answer.estimate.active
        part = elimination.restrict(active)
        power, freedom = part.residual_powers(d, weights)
        own = power / (1 if weights is None else torch.where(weights > 0, weights, 1))
        variance = torch.where(active & (freedom > 0), own / freedom.clamp_min(1e-300), float("nan"))
        typical = variance.nanmedian(dim=1, keepdim=True).values
        # A sensor that the signals fit whatever it says would claim no noise at all (Heywood's case).
        variance = torch.maximum(variance, _FLOOR * typical)
        std = variance.sqrt()
        weights = (typical / variance).nan_to_num(0.0).clamp(1e-6, 1 / _FLOOR)
        weights = weights if given is None else weights * given
        weighed = replace(options, sensor_weights=weights)
        if number % _WHOLE == 0 or number == rounds or not options.refine:
            answer = solve_chain(elimination, weighed)
            d = _usable(answer.estimate.gains)
        else:
            # Between whole solutions the gains only follow the weights.
            d = refine(part, d, parameters=options.parameters, sensor_weights=weights, tol=1e-5, max_iter=20).d
    answer.estimate.method += ", noise of each sensor"
    answer.estimate.noise_variance = variance.nanmean(dim=1)
    return answer, elimination, std


@dataclass
class _Found:
    """The most likely answer of the starts so far, for each channel."""

    weights: torch.Tensor  # (b, p, m)
    fitted: torch.Tensor  # (b, p, m), data that it predicts
    score: torch.Tensor  # (b,)
    seen: torch.Tensor  # (b,), how many starts came to it


def _most_likely(problem, own, parameters):
    """Return the weights (b, p, m) of the most likely of several starts, and whether (b,) enough of them came to it."""
    y = problem.y
    used = own > 0
    elimination = build_elimination(problem, own)
    active = used.any(1)
    for _ in range(elimination.m):
        poor = uninformed_sensors(*elimination.restrict(active).schur(), active)
        if not bool(poor.any()):
            break
        active = active & ~poor
    used = used & active[:, None]
    ones = active.to(y.dtype)
    size = active.sum(1) if parameters.size is None else parameters.size
    freedom = elimination.restrict(active).degrees(ones) - size + 1
    shrink = freedom.clamp_min(1) / used.sum((1, 2)).clamp_min(1)
    typical = torch.where(used, y.abs(), float("nan")).nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0)
    excess = y.abs() / typical.clamp_min(torch.finfo(own.dtype).tiny)
    found = None
    todo = torch.arange(len(y), device=y.device)
    for number in range(len(_SCREENS) + _RANDOM):
        limit, power, absolute = _SCREENS[number] if number < len(_SCREENS) else (1.5, 8, number % 2 == 1)
        hidden = (limit / excess.clamp_min(limit)).pow(power) if math.isfinite(limit) else torch.ones_like(excess)
        if number >= len(_SCREENS):
            draw = torch.as_tensor(generator(number).random(y.shape[1:]), device=y.device)
            hidden = torch.where(draw < 0.25, 1e-3 * hidden, hidden)
        hidden = hidden.clamp_min(1e-8)
        part = _channels(problem, todo)
        rows = (own[todo], active[todo], shrink[todo])
        weights, fitted, score = _follow(part, hidden[todo], absolute, *rows, parameters)
        if found is None:
            found = _Found(weights, fitted, score, torch.ones_like(todo))
            continue
        better = score < found.score[todo]
        alike = _alike(fitted, found.fitted[todo], used[todo])
        found.seen[todo] = torch.where(alike, found.seen[todo] + 1, torch.where(better, 1, found.seen[todo]))
        rows = todo[better]
        found.weights[rows], found.fitted[rows] = weights[better], fitted[better]
        found.score[rows] = score[better]
        todo = (found.seen < _SEEN).nonzero()[:, 0]
        if len(todo) == 0:
            break
    return found.weights, found.seen >= _SEEN


def _follow(problem, hidden, absolute, own, active, shrink, parameters):
    """Return weights, predictions and the negative log likelihood (b,) that one start leads to."""
    y = problem.y
    used = (own > 0) & active[:, None]
    root = torch.where(used, own, 0).sqrt()
    middle = math.sqrt(math.log(2.0)) if problem.is_complex else 0.6744897501960817
    floor = 1e-13 * (root * y.abs()).flatten(1).amax(1).clamp_min(torch.finfo(own.dtype).tiny)
    basis = parameters.basis if parameters.inverse else None
    weights, d = own * hidden, None
    for number in range(_SEARCH):
        elimination = build_elimination(problem, weights).restrict(active)
        size = None
        if d is not None:
            # The residual of the linear equation is s times the noise.
            size = torch.where(active, d.abs(), float("nan"))
            size = (size / size.nanmedian(dim=1, keepdim=True).values).nan_to_num(0.0).clamp(1e-2, 1e2).square()
        M, N = elimination.schur(size)
        N = N.clamp_min(1e-12 * N.amax(1, keepdim=True))
        s = spectral_start(M, N, active, 1, basis)[0]
        d = torch.where(active, _reciprocal(s, active), 0)
        if parameters.basis is not None:
            d = torch.where(active, parameters.gains(parameters.project(torch.where(active, d, 1))), 0)
        ideal = elimination.predict(torch.ones_like(d), elimination.signals(d, y).nan_to_num(0.0))
        fitted = d[:, None, :] * ideal
        r = root * (y - fitted).abs()
        scale = torch.where(used, r, float("nan")).flatten(1).nanmedian(dim=1).values.nan_to_num(0.0)
        scale = torch.maximum(scale / middle / shrink.sqrt(), floor)
        if number in _REPAIRS and parameters.basis is None:
            d = _repaired(y, ideal, d, root / scale[:, None, None], problem.is_complex)
            fitted = d[:, None, :] * ideal
            r = root * (y - fitted).abs()
        t = (r / scale[:, None, None]).square()
        if absolute and number < _EARLY:
            w = 1 / t.sqrt().clamp_min(0.1)
        else:
            w = (_NU + 2) / (_NU + 2 * t) if problem.is_complex else (_NU + 1) / (_NU + t)
        weights = own * w * hidden if number < _EARLY else own * w
    return weights, fitted, _unlikelihood(r, used, scale, shrink, floor, problem.is_complex)


def _repaired(y, ideal, d, precision, is_complex):
    """Return gains (b, m), each the most likely of those that single snapshots suggest, given the signals.

    A sensor that was taken for outliers from beginning to end is not missed by the others: it needs another look.
    """
    k = 2 if is_complex else 1
    cost = lambda d: torch.log1p(k * (precision * (y - d[:, None, :] * ideal).abs()).square() / _NU).sum(1)  # noqa: E731
    best, least = d, cost(d)
    count = y.shape[1]
    for row in range(0, count, max(1, count // _CANDIDATES)):
        other = y[:, row] * ideal[:, row].conj() / ideal[:, row].abs().square().clamp_min(1e-300)
        own = torch.where((precision[:, row] > 0) & (ideal[:, row] != 0) & (d != 0), other, d)
        value = cost(own)
        best, least = torch.where(value < least, own, best), torch.minimum(value, least)
    return best


def _unlikelihood(r, used, scale, shrink, floor, is_complex):
    """Return the negative logarithm of the likelihood (b,) at its best scale."""
    k = 2 if is_complex else 1  # real numbers in an entry
    count = used.sum((1, 2)).clamp_min(1)
    for _ in range(20):
        t = (r / scale[:, None, None]).square()
        w = torch.where(used, (_NU + k) / (_NU + k * t), 0)
        scale = torch.maximum(((w * r.square()).sum((1, 2)) / count / shrink).sqrt(), floor)
    t = torch.where(used, (r / scale[:, None, None]).square(), 0)
    return k * count * scale.log() + (_NU + k) / 2 * torch.log1p(k * t / _NU).sum((1, 2))


def _alike(one, two, used):
    """Whether (b,) two predictions are the same; what the data leave open in gains and signals does not count."""
    size = torch.where(used, two.abs(), float("nan")).flatten(1).nanmedian(dim=1).values.nan_to_num(0.0)
    apart = ((one - two).abs() / size.clamp_min(1e-300)[:, None, None]).clamp_max(1.0)
    return torch.where(used, apart, 0).sum((1, 2)) <= _ALIKE * used.sum((1, 2))


def _channels(problem, index):
    pick = lambda t: t if t is None or len(t) == 1 else t[index]  # noqa: E731
    return replace(problem, y=problem.y[index], A=pick(problem.A), W=pick(problem.W))


def _reciprocal(s, active):
    """1 / s, bounded where s vanishes."""
    size = torch.where(active, s.abs(), 0.0)
    least = (1e-12 * size.amax(1, keepdim=True)).clamp_min(1e-150)
    return s.conj() / torch.maximum(size, least).square()


def _student(problem, elimination, d, own):
    """Return weights (b, p, m), the scale (b,) and E psi^2 / (E psi')^2 (b,) of the residuals at gains d."""
    x = elimination.signals(d, problem.y)
    r = own.sqrt() * (problem.y - elimination.predict(d, x.nan_to_num(0.0)))
    used = (own > 0) & (d != 0)[:, None, :]
    size = torch.where(used, r.abs(), float("nan")).flatten(1)
    middle = math.sqrt(math.log(2.0)) if problem.is_complex else 0.6744897501960817
    # Residuals are smaller than the noise by the degrees of freedom that gains and signals took.
    count = used.sum((1, 2)).clamp_min(1)
    shrink = (elimination.degrees(d) - (d != 0).sum(1) + 1).clamp_min(1) / count
    scale = size.nanmedian(dim=1).values / middle / shrink.sqrt()
    tiny = torch.finfo(own.dtype).tiny
    top = size.nan_to_num(0.0).amax(1)
    t = (r.abs() / torch.maximum(scale, 1e-12 * top).clamp_min(tiny)[:, None, None]).square()
    if problem.is_complex:
        w = (_NU + 2) / (_NU + 2 * t)
        slope = w * _NU / (_NU + 2 * t)
    else:
        w = (_NU + 1) / (_NU + t)
        slope = w * (_NU - t) / (_NU + t)
    mean = lambda v: torch.where(used, v, 0.0).sum((1, 2)) / count  # noqa: E731
    psi, slope = mean(w.square() * t) / shrink, mean(slope)
    return torch.where(used, w, 0.0), scale, psi / slope.square().clamp_min(1e-12)


def _usable(gains):
    return (
        torch.nan_to_num(gains, nan=0.0) if not gains.is_complex() else torch.where(torch.isnan(gains.abs()), 0, gains)
    )


def _distance(one, two):
    inner = (one.conj() * two).sum(1).abs()
    norms = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(two, dim=1)
    return (1 - (inner / norms.clamp_min(1e-300)).square()).clamp_min(0).sqrt()
