r"""Gains from a covariance or from visibilities whose model is known (the classical gain calibration of arrays).

.. math:: V_{ij} = d_i M_{ij} \bar d_j + \varepsilon_{ij}, \quad i < j, \qquad
          E|\varepsilon_{ij}|^2 = \sigma^2 / W_{ij}

Notation  H = W o V o conj(M), Q = W o |M|^2, both (m, m) with empty diagonals: g = (H d) / (Q |d|^2) is the fixed
          point of StEFCal. With a change d_i -> phase_i (|d_i| + alpha_i + i beta_i), Gauss-Newton falls apart into two
          real systems: D + K for alpha and D - K for beta, D = diag(Q |d|^2), K_ij = Q_ij |d_i| |d_j|: no splitting of
          the whole into real and imaginary parts is needed. D - K is a graph Laplacian; its null space is the phase.
Cost      two products with (m, m) matrices a step of StEFCal, two Cholesky factorisations a step of Gauss-Newton; the
          start takes one eigenvalue decomposition.
Pitfalls  the diagonal of V holds the power of the noise and is not used but for the weights. The errors assume that
          those of different pairs are independent, which the entries of a sample covariance of strong signals are not:
          give `n_samples` then. Groups of sensors without a pair between them have a free phase each; in a group whose
          pairs all join one half with the other (bipartite), the scale between the halves is free, too.
References  S. Salvini, S. Wijnholds, Fast gain calibration in radio astronomy using alternating direction implicit
          methods (StEFCal), A&A 571 A97, 2014, arXiv 1410.2101.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count

import torch

from sciml.inverse.calibration.estimate import Estimate
from sciml.inverse.calibration.visibility_pairs import product, read_pairs
from sciml.iterate import Step, run
from sciml.validation import check_number, check_option

__all__ = ["solve_visibilities", "stefcal"]

# Steps of StEFCal before Gauss-Newton: enough to bring amplitudes over several decades within its reach.
_WARM = 20
# Rounds in which a robust loss follows the scale of the residuals; afterwards it is held, so that the steps converge.
_ROUNDS = 15
_NU = 2.0
# Gains below this times the median count as that large in the certificate: dead sensors are noise.
_SMALL = 1e-3
# A gain below this many standard deviations is that of a dead sensor.
_DEAD = 2.0
_EPS = 2.0**-52


def solve_visibilities(
    V, M, *, W=None, n_samples=None, loss="gaussian", tol=1e-10, max_iter=500, start=None, on_failure=None
):
    r"""Return the gains d that explain visibilities, :math:`V = D M D^* + \varepsilon`, with their covariance.

    The start is the top eigenvector of :math:`W \circ V \circ \bar M`, which is right for any phases; StEFCal [1]_ and
    then Gauss-Newton minimise :math:`\sum_{i<j} W_{ij} |V_{ij} - d_i M_{ij} \bar d_j|^2`. The scale of d is determined,
    one phase (of real data: one sign) a group of connected sensors is not.

    Parameters
    ----------
    V : array, shape (m, m) or (b, m, m)
        Hermitian visibilities, or sample covariances; real symmetric for real data. NaN: missing.
    M : array, shape (m, m) or (b, m, m)
        Hermitian model: what V would be with all gains one and without noise.
    W : array or None, shape (m, m) or (b, m, m)
        Symmetric weights, at least 0, proportional to 1 / variance; 0 leaves a pair out. None takes
        1 / (V_ii V_jj), which is right for sample covariances where the noise dominates. The diagonal is not used.
    n_samples : int or None
        Of how many independent snapshots V is the mean of y y^*. The covariance then allows for errors of different
        pairs being correlated; None (the default) takes them as independent, which is right for weak signals only.
    loss : {"gaussian", "student-t"}
        "student-t" (2 degrees of freedom) resists pairs with wrong data, at some 10 % longer error bars.
    tol : float
        Bound on the certificate, dimensionless: :math:`\max_i |g_i - d_i| / |d_i|`, where g is the next fixed point of
        StEFCal (the minimiser over each gain with the others held), independent of the step that was taken. Gains
        below 1e-3 of the median count as if they were as large as that.
    max_iter : int
        Steps at most, those of StEFCal (20) included; 0 returns the start.
    start : array or None, shape (m,) or (b, m)
        Gains to begin with, brought to the best common scale; None (the default) computes them.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the tolerance was not met; None asks the configuration.

    Returns
    -------
    Estimate
        ``gains`` (b, m), the sum of each group real and positive; NaN where nothing is known; ``covariance`` (b, m, m)
        of :math:`E[\delta d\, \delta d^*]` with the free phases projected out; ``dof`` the number of pairs minus that
        of the gains, plus one half a free phase (complex data); ``noise_variance`` that of a pair of weight one;
        ``history["certificate"]``, the worst of all channels at every step; ``notes``.

    Raises
    ------
    InvalidInputError
        If shapes differ, V or M is not Hermitian, or a weight is negative.
    IdentifiabilityError
        If no channel has more pairs than sensors.

    Warns
    -----
    ConvergenceWarning
        If the certificate did not fall to `tol`.

    References
    ----------
    .. [1] S. Salvini, S. Wijnholds, Fast gain calibration in radio astronomy using alternating direction implicit
       methods, A&A 571 A97, 2014, arXiv 1410.2101.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration.visibilities import solve_visibilities
    >>> d = np.array([1.0, 2j, -3.0, 1 + 1j, 0.5])
    >>> M = 0.5 + np.eye(5)
    >>> found = solve_visibilities(d[:, None] * M * d.conj(), M).gains[0].numpy()
    >>> abs(found / found[0] - d).max() < 1e-9
    np.True_
    """
    check_option("loss", loss, ("gaussian", "student-t"))
    if n_samples is not None:
        n_samples = check_number("n_samples", n_samples, low=1, integer=True)
    pairs = read_pairs(V, M, W, start)
    steps = _steps(pairs, pairs.start, robust=loss == "student-t", warm=_WARM, tol=tol)
    done = run(steps, name="solve_visibilities", tol=tol, max_iter=max_iter, on_failure=on_failure)
    return _estimate(pairs, done.value, done, n_samples, loss, tol)


def stefcal(V, M, *, W=None, tol=1e-10, max_iter=1000, start=None, on_failure=None):
    r"""Return the gains by the alternating fixed point of StEFCal [1]_ alone: the published method.

    All gains are replaced at once by :math:`g_i = \sum_j W_{ij} V_{ij} \bar Z_{ij} / \sum_j W_{ij} |Z_{ij}|^2`,
    :math:`Z_{ij} = M_{ij} \bar d_j`, and every second iterate by its mean with the one before. It begins with ones and
    neither looks for missing links nor returns errors: `solve_visibilities` does.

    Parameters
    ----------
    V : array, shape (m, m) or (b, m, m)
        Hermitian visibilities; NaN: missing.
    M : array, shape (m, m) or (b, m, m)
        Hermitian model.
    W : array or None, shape (m, m) or (b, m, m)
        Symmetric weights, at least 0; None takes 1 / (V_ii V_jj).
    tol : float
        Bound on :math:`\max_i |g_i - d_i| / |d_i|`, dimensionless.
    max_iter : int
        Steps at most.
    start : array or None, shape (m,) or (b, m)
        Gains to begin with, brought to the best common scale; None takes ones, as published.
    on_failure : {"warn", "raise", "ignore"} or None
        What to do when the tolerance was not met; None asks the configuration.

    Returns
    -------
    sciml.iterate.Run
        ``value``: the gains, a tensor of shape (b, m), NaN for sensors without a pair; status, n_iter and history.

    Raises
    ------
    InvalidInputError
        If shapes differ, V or M is not Hermitian, or a weight is negative.
    IdentifiabilityError
        If no channel has more pairs than sensors.

    References
    ----------
    .. [1] S. Salvini, S. Wijnholds, Fast gain calibration in radio astronomy using alternating direction implicit
       methods, A&A 571 A97, 2014, arXiv 1410.2101.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration.visibilities import stefcal
    >>> d = np.array([1.0, 2.0, 3.0, 1.0, 0.5])
    >>> stefcal(d[:, None] * (0.5 + np.eye(5)) * d, 0.5 + np.eye(5)).value[0].numpy().round(6)
    array([1. , 2. , 3. , 1. , 0.5])
    """
    pairs = read_pairs(V, M, W, torch.ones(1) if start is None else start, keep_bipartite=True)
    steps = _steps(pairs, pairs.start, robust=False, warm=math.inf, tol=tol)
    done = run(
        (Step(step.value.gains, step.criterion) for step in steps),
        name="stefcal",
        tol=tol,
        max_iter=max_iter,
        on_failure=on_failure,
    )
    return replace(done, value=done.value.masked_fill(~pairs.active, math.nan))


@dataclass
class _Iterate:
    gains: torch.Tensor
    certificate: torch.Tensor  # (b,)
    spread: torch.Tensor | None  # (b,), of a robust loss

    dtype = torch.float64

    def isfinite(self):
        """Whether the gains are numbers."""
        return self.gains.isfinite()

    def detach(self):
        """Return this; asked for beside `isfinite` by the loop."""
        return self


def _steps(pairs, d, *, robust, warm, tol):
    """Yield iterates: `warm` steps of StEFCal, then Gauss-Newton; a channel that has met `tol` stands still."""
    W, mu, spread = pairs.W, torch.zeros_like(d[:, 0].real), None
    for k in count():
        r = _residual(pairs, d)
        if robust:
            if k <= warm + _ROUNDS:
                spread = _spread(pairs, r)
            W = pairs.W * _robust(pairs.W * r.abs() ** 2 / spread[:, None, None], d.is_complex())[0]
        H, Q, modulus = W * pairs.V * pairs.M.conj(), W * pairs.M.abs() ** 2, d.abs()
        D = torch.where(pairs.active, product(Q, modulus**2), 1)
        fixed = product(H, d) / D
        certificate = ((fixed - d).abs() / modulus.clamp_min(_SMALL * _typical(modulus, pairs.active))).amax(1)
        worst = float(certificate.max())
        yield Step(_Iterate(d, certificate, spread), worst, {"certificate": worst})
        moving = certificate > tol
        if k < warm:
            d = torch.where(moving[:, None], fixed if k % 2 == 0 else (fixed + d) / 2, d)
            continue
        trial = _newton(pairs, d, (fixed - d) * D, D, Q, mu)
        old, new, energy = _cost(W, r), _cost(W, _residual(pairs, trial)), _cost(W, pairs.V)
        # Where the residual is rounding, costs differ by rounding only.
        better = new <= old + 8 * _EPS * (old * energy).sqrt() + 64 * _EPS**2 * energy
        d = torch.where((moving & better)[:, None], trial, d)
        mu = torch.where(better, torch.where(mu < 1e-6, 0, mu / 10), (10 * mu).clamp_min(1e-3))
        if bool((mu[moving] > 1e8).all()):
            return


def _newton(pairs, d, g, D, Q, mu):
    """Return one step of Gauss-Newton with the diagonal made longer by mu; g is minus half the gradient."""
    modulus, turn = d.abs(), torch.where(d == 0, 1, d.sgn())
    g = turn.conj() * g
    fisher, laplacian = _fisher(pairs, modulus, D, Q)
    longer = torch.diag_embed(mu[:, None] * D)
    alpha = _solve(fisher + longer, g.real)
    if not d.is_complex():
        return _moved(turn, modulus, alpha)
    null = _null_space(pairs, modulus)
    beta = _solve(laplacian + longer + null * D.mean(1)[:, None, None], g.imag)
    return _moved(turn, modulus, torch.complex(alpha, beta))


def _moved(turn, modulus, change):
    """Return gains changed by a factor where the change is small: heavy pairs keep their products d_i conj(d_j)."""
    ratio = change / modulus.clamp_min(1e-300)
    return turn * torch.where(ratio.abs() < 1, modulus * ratio.exp(), modulus + change)


def _fisher(pairs, modulus, D, Q):
    """Return D + K and D - K of the module's formula, (b, m, m); ones on the diagonal where not active."""
    K = Q * modulus[:, :, None] * modulus[:, None, :]
    return torch.diag_embed(D) + K, torch.diag_embed(D) - K


def _null_space(pairs, modulus):
    """Return the projector on the free phases, one a group: on |d| there, (b, m, m)."""
    total = product(pairs.same, modulus**2)  # of each sensor's group
    outer = pairs.same * modulus[:, :, None] * modulus[:, None, :]
    return outer / torch.where(total > 0, total, 1)[:, :, None]


def _solve(matrix, right):
    factor, info = torch.linalg.cholesky_ex(matrix)
    # Without a factor the answer is no step at all, which makes the next one shorter.
    answer = torch.cholesky_solve(right[..., None], factor)[..., 0]
    return torch.where((info == 0)[:, None], answer, math.inf)


def _residual(pairs, d):
    return pairs.V - d[:, :, None] * pairs.M * d[:, None, :].conj()


def _cost(W, r):
    return (W * r.abs() ** 2).sum((1, 2)) / 2


def _typical(modulus, active):
    """Return the median gain of each channel, (b, 1); 1 where there is none."""
    return modulus.masked_fill(~active, math.nan).nanmedian(1, keepdim=True)[0].nan_to_num(1).clamp_min(1e-300)


def _spread(pairs, r):
    """Return a variance that outliers do not move, from the median of |r|^2; at least rounding."""
    median = (pairs.W * r.abs() ** 2).masked_fill(pairs.W == 0, math.nan).flatten(1).nanmedian(1)[0]
    floor = (_EPS**2 * pairs.W * pairs.V.abs() ** 2).amax((1, 2))
    # Medians of |r|^2 of Gaussian numbers of variance one: log 2, complex; 0.4549, real.
    return torch.maximum(median.nan_to_num(1) / (math.log(2) if r.is_complex() else 0.45494), floor).clamp_min(1e-300)


def _robust(t, is_complex):
    """Return Student's weight w at t, a squared residual over the variance, and how the weighted residual changes."""
    half = 2 if is_complex else 1
    w = (_NU + half) / (_NU + half * t)
    return w, w - 2 * t * w**2 / (_NU + half)


def _estimate(pairs, found, done, n_samples, loss, tol):
    """Return the estimate at the end of the iterations."""
    notes, d = list(pairs.notes), found.gains * _turn_back(pairs, found.gains)
    active, r, W = pairs.active, _residual(pairs, d), pairs.W
    n_pairs = (W > 0).sum((1, 2)) / 2
    n_groups = torch.tensor([row[row >= 0].unique().numel() for row in pairs.labels], device=d.device)
    dof = n_pairs - active.sum(1) + (n_groups / 2 if d.is_complex() else 0)
    dof = torch.where(active.any(1), dof, math.nan)
    misfit = _cost(W, r)
    noise_variance = variance = misfit / dof
    if loss == "student-t":
        t = W * r.abs() ** 2 / found.spread[:, None, None]
        w, slope = ((W > 0) * part for part in _robust(t, d.is_complex()))
        misfit, noise_variance = _cost(W * w, r), found.spread
        # An M-estimate: the mean square of the score over the squared mean of its derivative.
        over, under = (part.sum((1, 2)) / (2 * n_pairs) for part in (w**2 * t, slope))
        variance = found.spread * over / under**2 * n_pairs / dof
    covariance = _covariance(pairs, d, variance, n_samples)
    active = active & ~_drowned(d, covariance, active, notes)
    both = active[:, :, None] & active[:, None, :]
    return Estimate(
        gains=d.masked_fill(~active, math.nan),
        covariance=covariance * both,
        active=active,
        noise_variance=noise_variance,
        misfit=misfit,
        dof=dof,
        eigenvalues=dof.new_zeros(len(d), 0),
        converged=found.certificate <= tol,
        method="visibilities",
        n_iter=done.n_iter,
        history={key: list(row) for key, row in done.history.items()},
        notes=notes,
    )


def _turn_back(pairs, d):
    """Return factors of modulus one that make the sum of each group's gains real and positive."""
    total = product(pairs.same.to(d.dtype), d)
    return torch.where(total.abs() > 1e-8 * product(pairs.same, d.abs()), total.sgn().conj(), 1)


def _covariance(pairs, d, variance, n_samples):
    """Return E[delta d delta d^*] with the free phases projected out, (b, m, m)."""
    modulus, turn = d.abs(), torch.where(d == 0, 1, d.sgn())
    Q = pairs.W * pairs.M.abs() ** 2
    D = torch.where(pairs.active, product(Q, modulus**2), 1)
    fisher, laplacian = _fisher(pairs, modulus, D, Q)
    level = D.mean(1)[:, None, None]
    null = _null_space(pairs, modulus)
    real = torch.linalg.inv(fisher)
    phase = torch.linalg.inv(laplacian + null * level) - null / level
    if n_samples is None:
        total = variance[:, None, None] * ((real + phase) / 2 if d.is_complex() else real)
    else:
        total = _of_samples(pairs, d, turn, real, phase) / n_samples
    both = pairs.active[:, :, None] & pairs.active[:, None, :]
    return turn[:, :, None] * (both * total) * turn[:, None, :].conj()


def _of_samples(pairs, d, turn, real, phase):
    """Return the covariance where V is a sample covariance: E e_ij conj(e_kl) = R_ik conj(R_jl) / n_samples."""
    model = torch.where(pairs.W > 0, pairs.V, d[:, :, None] * pairs.M * d[:, None, :].conj())
    R = model + torch.diag_embed(pairs.covariance.diagonal(dim1=1, dim2=2))
    C = pairs.W * pairs.M.conj() * d[:, None, :]
    # Covariance and pseudo-covariance of the gradient turn^* sum_j C_ij e_ij.
    P = C @ R.mT
    first = turn[:, :, None].conj() * (R * (C @ R.conj() @ C.mH)) * turn[:, None, :]
    second = turn[:, :, None].conj() * (P * P.mT) * turn[:, None, :].conj()
    if not d.is_complex():
        return real @ (first + second) @ real
    alpha, beta = real @ (first + second).real @ real / 2, phase @ (first - second).real @ phase / 2
    cross = real @ (second - first).imag @ phase / 2  # E[alpha beta^T]
    return torch.complex(alpha + beta, cross.mT - cross)


def _drowned(d, covariance, active, notes):
    """Return the few sensors whose gain is nothing beside its error: dead ones."""
    weak = active & (d.abs() ** 2 < _DEAD**2 * covariance.diagonal(dim1=1, dim2=2).real)
    weak &= (2 * weak.sum(1) < active.sum(1))[:, None]
    for k in weak.any(1).nonzero()[:, 0].tolist():
        dead = weak[k].nonzero()[:, 0].tolist()
        notes.append(f"Channel {k}: the gains of the sensors {dead} are below {_DEAD:g} errors: dead.")
    return weak
