r"""Self-calibration from products alone: a million unknowns and more, in about a dozen applications of the measurement.

.. math:: y_l = d \circ A_l x_l + \varepsilon_l

First the smallest eigenpair of the linearised problem, from which gains of any size and phase are found without a
guess; of a part of the snapshots where there are many, if that comes near enough. Then maximum likelihood by
Gauss-Newton with the gains eliminated, from signals that are already near.

Notation  y (p, m); d gains (m,); s = 1/d; x signals (p, n), or (n,) where all snapshots see one; F the information
          on the gains, with V_i (1 - h_i) on its diagonal; V_i = sum_l W_li |A_l x_l|_i^2; h_i leverage of sensor i.
Cost      an application is one product and one adjoint one of all snapshots. No array is larger than the data.
Pitfalls  A_l^H A_l must be diagonal and there must be no weights for the cheapest way; else the gains are eliminated
          first, with twice the work. Neighbouring columns of a Fourier transform make neighbouring gains nearly
          ambiguous: hundreds of applications, and a warning if they are not enough.

References
----------
S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, 2018, arXiv 1611.04196.
G. Golub, V. Pereyra, Separable nonlinear least squares: the variable projection method, 2003.
"""

from __future__ import annotations

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.ensemble_base import Ensemble
from sciml.inverse.calibration.estimate import Estimate
from sciml.inverse.calibration.matrix_free_data import Stream
from sciml.inverse.calibration.matrix_free_refinement import Reduced, probed_variance, refine_steps
from sciml.inverse.calibration.matrix_free_spectral import SensorSpace, SignalSpace, smallest_pairs
from sciml.iterate import run
from sciml.linalg.memory import budget
from sciml.random import generator, normal
from sciml.validation import check_number, check_option

__all__ = ["solve_matrix_free"]

_SHARE = {True: 0.3, False: 0.02}  # residual of the eigenpair over the error by noise, with a refinement and without
_PART = 5  # the first eigenproblem takes one of so many snapshots,
_FEWEST = 8  # but at least so many
_INNER_TOL = 0.02  # decrease of the misfit that ends an inner iteration, over what the noise of the gains makes of it
_OUTER_TOL = 0.02
_SMALL = 2.0**24  # bytes that nobody misses
_MANY = 40  # steps of the eigenproblem beyond which it is badly conditioned, and variances are to be measured
_NEAR = 0.01  # error by noise of the gains of some snapshots up to which Gauss-Newton may start from them


@torch.no_grad()
def solve_matrix_free(
    y: torch.Tensor,
    ensemble: Ensemble,
    *,
    model: str,
    W: torch.Tensor | None = None,
    tol: float = 1e-8,
    refine: bool = True,
    n_eigen: int = 1,
    probes: int = 0,
    max_iter: int = 500,
    max_inner: int = 60,
    memory: float | None = None,
    callback=None,
    on_failure: str | None = None,
    progress: bool | None = None,
) -> Estimate:
    r"""Estimate the gains of one channel from products with the measurement alone.

    Parameters
    ----------
    y : Tensor, shape (p, m)
        Data; float32 and complex64 stay so, with sums over snapshots in double precision.
    ensemble : Ensemble
        Of p matrices, or one for all snapshots. Where its `gram` is not known, one application asks whether it is a
        multiple of the identity.
    model : {"diverse", "snapshots", "repeated"}
        A signal for each snapshot, or one for all ("repeated").
    W : Tensor, shape (p, m), or None
        Weights not below 0, one over the variance; None (the default) for ones.
    tol : float
        Smallest residual of the eigenpair that is asked for, which counts where there is next to no noise; 1e-8 by
        default, and never below 2e-6 in single precision. Else a part of the error that the noise makes is enough.
    refine : bool
        Go on to maximum likelihood; True by default.
    n_eigen : int
        Eigenvalues sought; 1 by default. More show an ambiguity, at as many applications a step; those beyond the
        first are upper bounds, of a part of the snapshots where that is enough to tell.
    probes : int
        Random vectors that measure the level of the variances of the gains, at about eight applications each; 0 by
        default, which takes their leading part unless the problem is badly conditioned.
    max_iter, max_inner : int
        Steps of the eigenproblem, and inner steps of the refinement; 500 and 60 by default.
    memory : float or None
        Bytes that arrays as large as the data may take besides it; None (the default) takes as much as the data or
        16 MiB, whichever is more, but never more than the configured budget.
    callback : callable or None
        ``callback(n_iter, step)``, once a step of either stage; a true value stops the stage.
    on_failure : {"warn", "raise", "ignore"} or None
        When a stage misses its tolerance; None (the default) asks the configuration.
    progress : bool or None
        Show a bar; None (the default) asks the configuration.

    Returns
    -------
    Estimate
        With b = 1, `variance` in place of a covariance, and in `history` the applications: ``"forward"`` and
        ``"adjoint"`` after the eigenproblem and at the end, in units of all snapshots.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit, or no sensor saw anything.

    Warns
    -----
    ConvergenceWarning
        If a stage missed its tolerance.

    Examples
    --------
    >>> from sciml.inverse.calibration.ensembles import SpreadCode
    >>> rng = np.random.default_rng(0)
    >>> A = SpreadCode(rng.choice([-1, 1], (8, 64)), 16)
    >>> d = torch.from_numpy(rng.standard_normal(64) + 1j * rng.standard_normal(64))
    >>> y = d * A.forward(torch.from_numpy(rng.standard_normal((8, 16)) + 0j))
    >>> found = solve_matrix_free(y, A, model="diverse").gains[0]
    >>> ratio = found / d
    >>> ((ratio - ratio.mean()).abs() < 1e-6 * ratio.mean().abs()).all()
    tensor(True)
    """
    check_option("model", model, ("diverse", "snapshots", "repeated"))
    n_eigen = check_number("n_eigen", n_eigen, low=1, integer=True)
    probes = check_number("probes", probes, low=0, integer=True)
    _check_shapes(y, ensemble, W)
    stream = Stream(y, ensemble, W, shared=model == "repeated")
    if not bool(stream.active.any()):
        raise InvalidInputError("y must hold data; all its entries are zero or have no weight. Check y and W.")
    notes = _notes_of(stream)
    loop = {"callback": callback, "on_failure": on_failure, "progress": progress}
    size = stream.p * stream.m * torch.empty(0, dtype=stream.dtype).element_size()
    memory = min(max(1.05 * size, _SMALL), float(budget())) if memory is None else check_number("memory", memory, low=0)
    if stream.plain and ensemble.gram is None and stream.find_gram():
        notes.append("A^H A was found to be a multiple of the identity")

    cheap = stream.plain and ensemble.gram is not None and bool((ensemble.gram > 0).all())
    if stream.dtype in (torch.float32, torch.complex64):
        tol = max(tol, 2e-6)
    problem = Reduced(stream, memory if refine or probes or W is not None else 0.0)
    # The eigenproblem is done with its vectors before A x needs the place.
    goal = {"tol": tol, "refined": bool(refine), "room": problem.v}
    solve = _sensor_eigenpairs if cheap else _signal_eigenpairs
    theta, x, found = solve(stream, n_eigen, goal, max_iter, loop, notes, size)
    history = {key: list(found.history[key]) for key in ("criterion", "lambda")}
    work = [stream.work()]
    converged, n_iter, dof = found.converged, found.n_iter, stream.dof()

    if refine:
        n_gains = float(stream.active.sum())
        steps = refine_steps(problem, x, dof, n_gains, inner_tol=_INNER_TOL, max_inner=max_inner)
        done = run(
            steps, name="matrix-free refinement", tol=_OUTER_TOL, max_iter=max_inner + 1, dtype="float64", **loop
        )
        converged, n_iter = converged and done.converged, done.n_iter
        history |= {key: list(done.history[key]) for key in ("misfit", "inner")}
        history["refinement"] = list(done.history["criterion"])
        gains = problem.d
    else:
        gains = problem.evaluate(x)
    noise = problem.misfit / dof if dof > 0 else float("nan")
    leading = _leading_variance(stream, problem, x)
    variance = leading * noise
    if (probes or found.n_iter > _MANY) and dof > 0:
        probes = max(probes, 1)
        factor, steps = probed_variance(problem, x, leading, probes, max_inner)
        variance = variance * factor
        notes.append(
            f"variances: leading diagonal times {factor:.3f}, found by {probes} probes in {steps} applications"
        )
    else:
        notes.append("variances: leading diagonal of the inverse information")
    work.append(stream.work())
    history["forward"], history["adjoint"] = ([float(w[j]) for w in work] for j in range(2))
    notes.append(f"{work[-1][0]:.1f} products and {work[-1][1]:.1f} adjoint ones of all snapshots")
    off = ~stream.active
    return Estimate(
        gains=torch.where(off, torch.nan, gains)[None],
        active=stream.active[None],
        noise_variance=torch.tensor([noise], dtype=torch.float64),
        misfit=torch.tensor([problem.misfit], dtype=torch.float64),
        dof=torch.tensor([dof], dtype=torch.float64),
        eigenvalues=theta.double()[None],
        converged=torch.tensor([converged]),
        method="matrix-free",
        n_iter=n_iter,
        variance=torch.where(off, torch.inf, variance)[None],
        signals=x[None],
        history=history,
        notes=notes,
    )


def _check_shapes(y, ensemble, W):
    if y.ndim != 2 or y.shape[1] != ensemble.shape[0] or ensemble.batch_shape not in ((), (len(y),)):
        raise InvalidInputError(
            f"y must have shape (p, m) as A says; got y of shape {tuple(y.shape)} and A of shape "
            f"{(*ensemble.batch_shape, *ensemble.shape)}. The last axis of y are the sensors."
        )
    if W is not None and W.shape != y.shape:
        raise InvalidInputError(
            f"W must have the shape of y, {tuple(y.shape)}; got {tuple(W.shape)}. Broadcast it first."
        )


def _notes_of(stream):
    silent = int((~stream.active).sum())
    return [f"{silent} sensors saw nothing and are left out"] if silent else []


def _basis_limit(stream, n_eigen, length, size):
    """Return how many vectors a basis may hold: about half of the data with their products, or 16 MiB."""
    each = 2 * length * torch.empty(0, dtype=stream.long).element_size()
    return max(3 * n_eigen, min(80, int(max(size / 2, 2**24) // each)))


def _random(stream, like, number):
    draw = normal(generator(number), like.shape, dtype=like.real.dtype if like.is_complex() else like.dtype)
    draw = draw.to(like.device)
    return torch.complex(draw, draw.flip(0)) if like.is_complex() else draw


def _eigenpairs(space, first, n_eigen, goal, max_iter, loop, limit, what):
    starts = [first] + [_random(space.stream, first, j) for j in range(1, n_eigen)]
    steps = smallest_pairs(
        space, starts, limit=limit, tol=goal["tol"], share=_SHARE[goal["refined"]], room=goal["room"]
    )
    name = f"matrix-free eigenproblem{what}"
    return run(steps, name=name, tol=1.0, max_iter=max_iter, dtype="float64", **loop)


def _sensor_eigenpairs(stream, n_eigen, goal, max_iter, loop, notes, size):
    """Signals eliminated: a part of the snapshots first, then all from what they gave."""
    space = SensorSpace(stream)
    limit = _basis_limit(stream, n_eigen, stream.m, size)
    first, bound = space.start(), None
    blocks = _part_of(stream)
    if blocks is not None:
        part = SensorSpace(stream, blocks)
        quiet = {**loop, "on_failure": "ignore"}
        found = _eigenpairs(part, part.start(), n_eigen, goal, max_iter, quiet, limit, " of some snapshots")
        theta, X, S = found.value
        s = S[:, 0]
        heard = part.scale > 0
        first = torch.where(heard, s / space.scale.clamp_min(torch.finfo(space.scale.dtype).tiny), X[0].abs().mean())
        first = torch.where(space.scale > 0, first, 0.0)
        notes.append(f"started from {part.p} of {stream.p} snapshots, which took {found.n_iter} steps")
        angle = (max(float(theta[0]), 0.0) / part.p) ** 0.5
        told_apart = n_eigen == 1 or float(theta[1]) > 10 * max(float(theta[0]), goal["tol"])
        if (
            goal["refined"]
            and found.converged
            and told_apart
            and goal["tol"] < angle < _NEAR
            and bool((part.scale > 0).all())
        ):
            return _noise_values(part, theta, S), space.signals(first), found
        if n_eigen > 1 and found.converged and float(theta[1]) > 10 * max(float(theta[0]), goal["tol"]):
            # What some snapshots tell apart all of them do: the other eigenvalues need no more products.
            bound, n_eigen = _noise_values(part, theta, S)[1:], 1
    found = _eigenpairs(space, first, n_eigen, goal, max_iter, loop, limit, "")
    theta, X, S = found.value
    theta = _noise_values(space, theta, S)
    if bound is not None:
        theta = torch.cat([theta, bound])
    return theta, space.signals(X[0]), found


def _noise_values(space, theta, S):
    """Return the eigenvalues with the noise as the norm, found in the span of the pairs: they estimate its variance.

    The matrix of the problem is diag(theta) there, and that of the noise has N_i = sum_l W_li (1 - h_li), with the
    leverage of a measurement in general position, unknowns over data.
    """
    stream = space.stream
    if stream.W is None:
        rows = float(stream.active.sum())
        N = torch.where(stream.active, space.p * (1 - stream.n / (rows * (space.p if stream.shared else 1))), 0.0)
    else:
        N = torch.zeros_like(stream.energy)
        per = stream.n / stream.p if stream.shared else stream.n
        for a, b in stream.blocks:
            rows = (stream.W[a:b] > 0).sum(1, keepdim=True).clamp_min(1)
            N += (stream.W[a:b] * (1 - per / rows).clamp_min(0.0)).sum(0, dtype=torch.float64)
    root = torch.linalg.qr(S * N.clamp_min(0.0).sqrt()[:, None], mode="r")[1]
    if not bool((torch.diagonal(root).abs() > 0).all()):
        return theta  # nothing to compare with: as many unknowns as data
    half = torch.linalg.solve_triangular(root.mH, torch.diag(theta).to(root), upper=False)
    return torch.linalg.eigvalsh(torch.linalg.solve_triangular(root.mH, half.mH, upper=False))


def _part_of(stream):
    """Return some blocks of snapshots, spread evenly, that are enough for a first estimate; None if all are needed."""
    needed = max(_FEWEST, 4 * stream.m / max(stream.m - stream.n, 1), stream.p / _PART)
    if stream.shared or 2 * needed > stream.p or len(stream.blocks) < 2:
        return None
    step = stream.blocks[0][1]
    count = int(np.ceil(needed / step))
    if 2 * count > len(stream.blocks):
        return None
    chosen = np.unique(np.linspace(0, len(stream.blocks) - 1, count).round().astype(int))
    return [stream.blocks[j] for j in chosen]


def _signal_eigenpairs(stream, n_eigen, goal, max_iter, loop, notes, size):
    """Gains eliminated: for weights, sensors left out, and Gram matrices that are not diagonal."""
    length = stream.zeros_shape()
    length = int(np.prod(length))
    limit = _basis_limit(stream, n_eigen, length, size)
    itemsize = torch.empty(0, dtype=stream.dtype).element_size()
    space = SignalSpace(stream, keep=size + 2 * limit * length * itemsize <= max(1.75 * size, _SMALL))
    found = _eigenpairs(space, space.start(), n_eigen, goal, max_iter, loop, limit, "")
    theta, X, S = found.value
    notes.append("gains eliminated first: there are weights, or A^H A is not known to be diagonal")
    return _noise_values(space, theta, S), space.signals(X[0]), found


def _leading_variance(stream, problem, x):
    """Return an approximation of the diagonal of F^+ for noise of variance one, zero where a sensor is left out.

    F_ii = V_i (1 - h_i), with the leverages of a measurement in general position: h = w t / (1 + w t), w the weight of
    a sensor times its squared gain, t such that they sum to the unknowns of a snapshot. The next order is the square
    of the other entries of a row, h (1 - h) V^2 / p in sum.
    """
    per = stream.n / stream.p if stream.shared else float(stream.n)
    w = torch.where(stream.active, problem.d.abs().square(), 0.0)
    if stream.W is None:
        information, count = problem.V * (1 - _leverages(w[None], per)[0]), stream.p
    else:
        information, count = torch.zeros_like(w), torch.zeros_like(w)
        for a, b in stream.blocks:
            W = stream.W[a:b].double()
            h = _leverages(w * W, per)
            information += (W * (1 - h) * problem.kept(x, a, b).abs().square()).sum(0, dtype=torch.float64)
            count += (W > 0).sum(0)
    rest = torch.where(problem.V > 0, information * problem.inverse, 1.0).clamp_min(1e-6)
    next_order = 1 + (1 - rest) / (count * rest).clamp_min(1.0)
    return torch.where(stream.active, problem.inverse / rest * next_order, 0.0)


def _leverages(w, total):
    """Return h = w t / (1 + w t), with t such that the rows, one a snapshot, sum to `total`; 1 where they cannot."""
    top = w.amax(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    low, high = 1e-12 / top, 1e12 / top
    for _ in range(60):
        t = (low * high).sqrt()
        h = w * t / (1 + w * t)
        below = h.sum(1, keepdim=True) < total
        low, high = torch.where(below, t, low), torch.where(below, high, t)
    return h
