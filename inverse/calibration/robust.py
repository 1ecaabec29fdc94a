r"""Outliers and sensors of unequal noise: weights that follow from the residuals, found together with the gains.

Notation  r (b, p, m) residuals over the noise; w = (nu + 2) / (nu + 2 abs(r)^2) for complex, (nu + 1) / (nu + r^2) for
          real data, nu = 2; sigma by the median of abs(r).
Cost      some twenty eliminations with weights of every entry.
Pitfalls  an eigenvector has no defence against outliers, so that the first weights come from the data themselves, and
          the eigenproblem is solved again with weights from the residuals before any refinement.
References
    K. L. Lange, R. J. A. Little, J. M. G. Taylor, Robust statistical modeling using the t distribution, 1989.
"""

import math
from dataclasses import replace

import torch

from sciml.inverse.calibration.chain import solve_chain
from sciml.inverse.calibration.problem import build_elimination
from sciml.inverse.calibration.refinement import refine

__all__ = ["per_sensor_chain", "student_chain"]

_NU = 2.0
_STARTS = 12  # rounds of the eigenproblem
_ROUNDS = 30  # rounds of two Gauss-Newton steps
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
    y, given = problem.y, problem.W
    own = torch.ones_like(y.real) if given is None else given.expand(y.shape)
    typical = torch.where(own > 0, y.abs(), float("nan")).nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0)
    # Entries far above what is usual at their sensor are suspects from the start.
    excess = y.abs() / typical.clamp_min(torch.finfo(own.dtype).tiny)
    weights = own * (3 / excess.clamp_min(3.0)).square()
    start = replace(options, refine=False, start="reweighted")
    d = None
    for _ in range(_STARTS):
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
    >>> per_sensor_chain(as_problem(y, np.ones((5, 1))), Chain())[2].round(decimals=1)
    tensor([[0.1000, 0.1000, 0.1000, 0.1000, 0.5000]], dtype=torch.float64)
    """
    elimination = build_elimination(problem)
    given = options.sensor_weights
    weights, std = given, None
    answer = solve_chain(elimination, options)
    for _ in range(rounds):
        active = answer.estimate.active
        d = _usable(answer.estimate.gains)
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
        answer = solve_chain(elimination, replace(options, sensor_weights=weights))
    answer.estimate.method += ", noise of each sensor"
    answer.estimate.noise_variance = variance.nanmean(dim=1)
    return answer, elimination, std


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
