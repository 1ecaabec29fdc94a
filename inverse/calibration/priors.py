r"""Prior knowledge of the gains: near a mean, by their logarithms or inverses, with a strength found from the data.

Penalised likelihood, f the misfit with the signals eliminated, s = 1/d:

.. math:: f(d) + \mu \sum_i |\log (d_i / d_{0i})|^2 \qquad \text{or} \qquad f(d) + \mu \sum_i |s_i - s_{0i}|^2

The strength mu = kappa / tau^2 is the ratio of two variances. Around the current gains the likelihood says that
beta = log d is normal with mean z and covariance kappa F^+; the prior says that beta has variance tau^2 about a common
mean. In the eigenbasis of F, eigenvalues lam_k, so

.. math:: z_k \sim N(0, \tau^2 + \kappa / \lambda_k),

and both variances are those of highest restricted likelihood: tau^2 shows in directions that the data determine well,
kappa in those that they hardly determine. kappa is more than the variance of the noise where the model is wrong in a
way that all snapshots share; neither their scatter nor held-out snapshots show that part.

Notation  b channels, m sensors; d (b, m) gains; f (b,), g (b, m), F (b, m, m) of the elimination; tau spread of log d;
          kappa variance of an entry of weight one, bias included.
Cost      one eigendecomposition of F and 250 evaluations of m terms a step.
Pitfalls  held-out misfit falls until there is no prior at all, since the bias is that of the held-out half as well.
          Phases beyond pi wrap: gains of arbitrary phase get a spread of 1.8, which is next to no prior. Signs of real
          gains stay as they start.
References
    D. V. Lindley, A. F. M. Smith, Bayes estimates for the linear model, 1972. H. D. Patterson, R. Thompson, Recovery of
    inter-block information when block sizes are unequal, 1971 (restricted likelihood). P. J. Huber, The behavior of
    maximum likelihood estimates under nonstandard conditions, 1967 (scatter of the scores).
"""

import numbers
from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.bases import inverse_or_zero
from sciml.validation import check_number, check_option

__all__ = ["GainPrior", "Shrunk", "gain_penalty", "map_inverse_gains", "shrink", "two_variances"]

# Log-likelihood that an error far beyond the scatter of the snapshots must bring.
_EVIDENCE = 5.0
# The same for a spread of the gains at all, below which data are better left as they are: 2 % of chance at most.
_SPREAD_EVIDENCE = 2.0
_RATIOS = np.logspace(-8, 8, 129)
_SHARES = np.logspace(-2, 0, 41)
_SPREADS = np.concatenate([[0.0], np.logspace(-10, 3, 121)])
_LARGEST = 1e6  # of a gain beside its mean
_SETTLING = 12  # steps after which the variances stay, so that the rest is a contraction


@dataclass(frozen=True)
class GainPrior:
    """What is known of the gains before the data.

    Parameters
    ----------
    mean : number or array, shape (m,)
        Gains that the prior is centred on, in the units of the gains; 1 (the default) for instruments that were
        calibrated before. Only their ratios count where `on` is "log". Complex means are for complex data.
    strength : "auto" or float
        "auto" (the default) estimates the spread of the gains and the variance of their errors, model errors included,
        from the data. A number is dimensionless: the prior counts as that many times the mean information of a sensor
        in the data, 0 being no prior.
    on : {"log", "inverse"}
        The scale that deviations are normal on: of log d (the default: a gain of 2 is as far from 1 as one of 1/2) or
        of 1/d, which the eliminated equations are linear in.

    Raises
    ------
    InvalidInputError
        If a mean is zero or not finite, the strength negative, or a word unknown.

    References
    ----------
    D. V. Lindley, A. F. M. Smith, Bayes estimates for the linear model, 1972.

    Examples
    --------
    >>> GainPrior(strength=0.1).on
    'log'
    """

    mean: object = 1.0
    strength: object = "auto"
    on: str = "log"

    def __post_init__(self):
        mean = np.asarray(self.mean)
        if mean.dtype.kind not in "fiuc" or mean.ndim > 1:
            raise InvalidInputError(
                f"mean must be a number or an array (m,) of numbers; got shape {mean.shape} of dtype {mean.dtype}. "
                "Pass one gain for each sensor."
            )
        if not np.isfinite(mean).all() or (mean == 0).any():
            raise InvalidInputError(
                "mean must be finite and not zero: a gain of zero has no inverse. Leave that sensor out."
            )
        check_option("on", self.on, ("log", "inverse"))
        if isinstance(self.strength, numbers.Number) and not isinstance(self.strength, bool):
            check_number("strength", self.strength, low=0)
        elif not (isinstance(self.strength, str) and self.strength == "auto"):
            raise InvalidInputError(f"strength must be 'auto' or a number at least 0; got {self.strength!r}.")

    def centre(self, like):
        """Return the mean as gains of every channel.

        Parameters
        ----------
        like : Tensor, shape (b, m)
            Whose shape, dtype and device to take.

        Returns
        -------
        Tensor, shape (b, m)
            Mean gains.

        Raises
        ------
        InvalidInputError
            If the mean has another length, or is complex where the data are real.

        Examples
        --------
        >>> import torch
        >>> GainPrior(mean=2).centre(torch.zeros(1, 3))
        tensor([[2., 2., 2.]])
        """
        mean = np.asarray(self.mean)
        if mean.ndim == 1 and len(mean) != like.shape[-1]:
            raise InvalidInputError(
                f"mean must hold one gain for each of the {like.shape[-1]} sensors; got {len(mean)}. Pass one number "
                "for all, or as many as sensors."
            )
        if np.iscomplexobj(mean) and not like.is_complex():
            raise InvalidInputError(
                "mean of the prior must be real for real data; got complex numbers. Pass its real part."
            )
        return torch.as_tensor(mean, device=like.device).to(like.dtype).expand(like.shape).clone()


def map_inverse_gains(M, s0, strength):
    r"""Return the inverse gains that solve :math:`(M + \mu I) s = \mu s_0`, mu being strength times tr(M) / m.

    Parameters
    ----------
    M : Tensor, shape (b, m, m)
        Of the elimination; sensors that take no part have zero rows and get s0.
    s0 : Tensor, shape (b, m)
        Mean of the prior.
    strength : float
        Dimensionless, above 0.

    Returns
    -------
    Tensor, shape (b, m)
        Inverse gains, in the scale of s0.

    Notes
    -----
    One Cholesky factor. For strength towards 0 this is least squares under a fixed sum of s / s0, an inverse iteration
    from s0; it never becomes the smallest eigenvector.

    References
    ----------
    S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, 2018, arXiv
    1611.04196.

    Examples
    --------
    >>> import torch
    >>> M = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])  # equal inverse gains
    >>> map_inverse_gains(M, torch.tensor([[1.0, 3.0]]), 1e-3).round(decimals=2)
    tensor([[2., 2.]])
    """
    size = torch.diagonal(M, dim1=-2, dim2=-1).real
    taking_part = size > 0
    mu = float(strength) * size.sum(-1) / taking_part.sum(-1).clamp_min(1)
    mu = torch.where(mu > 0, mu, 1.0)[:, None]
    L = torch.linalg.cholesky(M + torch.diag_embed(mu.expand_as(size).to(M.dtype)))
    return torch.cholesky_solve((mu * s0)[..., None], L)[..., 0]


def gain_penalty(centre, weight, on="log"):
    """Return the penalty of a prior, as the refinement takes it.

    Parameters
    ----------
    centre : Tensor, shape (b, m)
        Gains that it is zero at.
    weight : Tensor, shape (b,)
        mu of the module, in the units of the misfit.
    on : {"log", "inverse"}
        Which of the two forms of the module; "log" by default.

    Returns
    -------
    callable
        Of gains d (b, m), to be added to f, g and F of an elimination: value (b,), vector (b, m) and matrix (b, m, m);
        the Gauss-Newton step solves (F + matrix) step = g + vector. Gains of zero add nothing.

    Examples
    --------
    >>> import torch
    >>> penalty = gain_penalty(torch.ones(1, 2), torch.ones(1))
    >>> value, vector, matrix = penalty(torch.tensor([[1.0, torch.e]]))
    >>> value, vector
    (tensor([1.]), tensor([[-0.0000, -0.3679]]))
    """

    def penalty(d):
        inverse = inverse_or_zero(d)
        ratio = torch.where(d == 0, 1, d * inverse_or_zero(centre))
        if on == "log":
            # Written as the residual r - v step of a linear model: r = log ratio, v = -1/d.
            rest, slope = _log(ratio), -inverse
        else:
            rest, slope = torch.where(d == 0, 0, inverse - inverse_or_zero(centre)), inverse.square()
        w = weight[:, None]
        vector = w * slope.conj() * rest
        return (w * rest.abs().square()).sum(1), vector, torch.diag_embed((w * slope.abs().square()).to(d.dtype))

    return penalty


def two_variances(z, lam, floor=0.0, doubt=0.0):
    """Return the variances of highest likelihood of z_k ~ N(0, spread + error / lam_k).

    Parameters
    ----------
    z : Tensor, shape (k,)
        Real or complex.
    lam : Tensor, shape (k,)
        Positive.
    floor : float
        Least value of `error`, as known from elsewhere; 0 by default.
    doubt : float
        Log-likelihood that a spread must bring; 0 by default.

    Returns
    -------
    spread : float
        tau^2, 0 where `error` explains as much alone.
    error : float
        kappa, at least `floor`: its logarithm is thought within 0.7 of that of `floor`, or anywhere beyond at odds of
        1 to 150.

    Examples
    --------
    >>> import torch
    >>> z, lam = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1e4, 1e4, 1e6, 1e6])
    >>> two_variances(z, lam, floor=1.0)[0] > 0.9
    True
    """
    z2, lam = z.abs().square(), lam.double()
    size = max(float(z2.max()), torch.finfo(lam.dtype).tiny) if len(z) else 1.0
    score = _scorer(z, lam, floor)
    scale = float(lam.log().mean().exp())
    ratio = torch.as_tensor(_RATIOS, device=lam.device) * scale
    # For a given ratio of the two the best spread is a mean; at the floor it is searched for.
    free = (z2 / (1 + ratio[:, None] / lam)).mean(1)
    grid = torch.as_tensor(_SPREADS, device=lam.device) * size
    spread = torch.cat([grid, free])
    error = torch.cat([torch.full_like(grid, floor), ratio * free])
    value = torch.where(error >= floor, score(spread, error), -torch.inf)
    best = int(value.argmax())
    alone = ((z2 * lam).mean() * torch.as_tensor(_SHARES, device=lam.device)).clamp_min(floor)
    nothing = score(torch.zeros_like(alone), alone)
    none = int(nothing.argmax())
    if float(value[best]) <= float(nothing[none]) + doubt:
        return 0.0, float(alone[none])
    return float(spread[best]), float(error[best])


def _scorer(z, lam, floor):
    """Penalised log-likelihood of spreads and errors, each (j,)."""
    z2, half = z.abs().square(), 1.0 if z.is_complex() else 0.5
    least = 1e-30 * max(float(z2.max()), torch.finfo(lam.dtype).tiny) if len(z) else 1e-300

    def score(spread, error):
        variance = (spread[:, None] + error[:, None] / lam).clamp_min(least)
        # Errors alike in all directions look like a spread: where floor alone will do, it shall.
        beyond = (error / floor).log().square() if floor > 0 else torch.zeros_like(error)
        return -half * (variance.log() + z2 / variance).sum(1) - beyond.clamp_max(_EVIDENCE)

    return score


def _possible(z, lam, floor):
    """The largest spread within four of the best score, and the error that goes with it."""
    score = _scorer(z, lam, floor)
    size = max(float(z.abs().square().max()), torch.finfo(lam.dtype).tiny)
    spread = torch.as_tensor(_SPREADS, device=lam.device) * size
    share = torch.as_tensor(_SHARES, device=lam.device)
    error = ((z.abs().square() * lam).mean() * share).clamp_min(floor)
    value = torch.stack([score(spread, each.expand_as(spread)) for each in error])  # (share, spread)
    top, which = value.max(0)
    last = int((top >= top.max() - 4).nonzero()[-1])
    return float(spread[last]), float(error[which[last]])


@dataclass
class Shrunk:
    """What `shrink` returns, for one channel.

    Parameters
    ----------
    d : Tensor, shape (m,)
        Gains, zero at sensors that take no part; geometric mean of d over the centre one.
    covariance : Tensor, shape (m, m)
        Of the gains, given data and prior; where no spread is found, given the largest that remains possible.
    spread : float
        tau, standard deviation of log d about the centre.
    inflation : float
        kappa over the variance of the residuals: 1 where the errors of the gains are those of white noise.
    sensor_weights : Tensor, shape (m,), or None
        Those used in the end.
    converged : bool
        Whether the last step was small beside the standard errors.
    n_iter : int
        Steps.
    """

    d: torch.Tensor
    covariance: torch.Tensor
    spread: float
    inflation: float
    sensor_weights: torch.Tensor | None
    converged: bool
    n_iter: int


def shrink(elimination, start, centre, *, proportional=False, free_phases=False, scatter=None, max_iter=60):
    """Return the posterior mean of log d under a prior whose strength is estimated, for one channel.

    Parameters
    ----------
    elimination : Elimination
        With b = 1.
    start : Tensor, shape (1, m)
        Gains to begin with; for real data their signs stay.
    centre : Tensor, shape (1, m)
        Gains that the prior is centred on, up to a common factor.
    proportional : bool
        Whether errors are proportional to the gains, as those of the model are, rather than alike at all sensors, as
        noise is (the default): weights are divided by |d|^2 in every step.
    free_phases : bool
        Whether only the moduli of complex gains have a prior; False by default, phases have the same. Signs of real
        gains are free in any case.
    scatter : callable or None
        ``scatter(d, sensor_weights)`` returns the scores of the snapshots by log d, shape (p, m): their scatter bounds
        kappa from below. None by default: the residuals alone do.
    max_iter : int
        Steps at most; 60 by default.

    Returns
    -------
    Shrunk
        See there.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.elimination import Shared
    >>> d = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
    >>> problem = Shared(d[:, None], torch.ones(1, 5, 1, dtype=torch.float64), torch.ones(1))
    >>> found = shrink(problem, torch.ones_like(d), torch.ones_like(d))
    >>> (found.d / found.d[0]).round(decimals=3)
    tensor([1., 2., 3., 4., 5.], dtype=torch.float64)
    """
    active = elimination.active[0]
    index = active.nonzero()[:, 0]
    k = len(index)
    centre = centre[0, index]
    d = start[0, index] / centre
    one = d.new_ones(k)
    Q = _complement(one)
    freedom = max(float(elimination.degrees(_place(start, index, start[0, index]))[0]) - k + 1, 1.0)
    eps = torch.finfo(d.real.dtype).eps
    spread = error = 0.0
    doubted, converged, floor = False, False, 0.0
    weights = None
    for n_iter in range(1, max_iter + 1):
        d = d / d.abs().log().mean().exp()
        if proportional:
            weights = _place(start.real, index, (d * centre).abs().square().reciprocal())
        gains = _place(start, index, d * centre)
        f, g, F = elimination.gauss_newton(gains, weights)
        unit = gains[0, index]
        F = unit.conj()[:, None] * F[0][index][:, index] * unit
        g = unit.conj() * g[0, index]
        lam, U = torch.linalg.eigh((Q.mH @ F @ Q + (Q.mH @ F @ Q).mH) / 2)
        lam = lam.clamp_min(max(float(lam[-1]), torch.finfo(lam.dtype).tiny) * 1e-12)
        V = Q @ U
        beta = d.abs().log().to(d.dtype) if free_phases else _log(d)
        beta = beta - beta.mean()
        push = V.mH @ g
        z = V.mH @ beta + push / lam
        # What the step leaves over, lest a poor start pass for noise and the prior keep it.
        gone = float((push.abs().square() / lam).sum())
        noise = max(float(f[0]) - gone, 0.01 * float(f[0])) / freedom
        if n_iter <= _SETTLING:
            floor = noise
            if scatter is not None:
                scores = scatter(gains, weights)[:, index]
                p = len(scores)
                if p > 1:
                    scores = (scores - scores.mean(0)) @ V.conj()
                    floor = max(floor, float((scores.abs().square().sum(0) / lam).mean()) * p / (p - 1))
            # Rounding: residuals of exact data would claim more digits than there are.
            floor = max(floor, (eps * float(lam.mean())) * eps)
            spread, error = two_variances(z, lam, floor)
            doubted = two_variances(z, lam, floor, _SPREAD_EVIDENCE)[0] == 0
        precise = spread / (spread + error / lam) if spread > 0 else torch.zeros_like(lam)
        step = V @ (precise * z) - beta
        size = float(step.abs().max())
        # log d is trusted within a factor of e; halfway steps end oscillations between weights and gains.
        step = step * min(1.0, 1.0 / size) * (0.7 if n_iter > _SETTLING // 2 else 1.0) if size > 0 else step
        d = d * step.exp()
        # A sensor that a wrong start makes vanish would take all weight.
        d = d * (d.abs().clamp(1 / _LARGEST, _LARGEST) / d.abs())
        width = (float((precise * error / lam).mean()) ** 0.5) if spread > 0 else 0.0
        if size <= max(3e-3 * width, 1e-10):
            converged = True
            break
    if doubted:
        # Data are better left alone than calibrated on a suspicion. Their error is as large as the gains may differ.
        d, spread = one, 0.0
        most, error = _possible(z, lam, floor)
        precise = most / (most + error / lam)
    d = d / d.abs().log().mean().exp()
    gains = _place(start, index, d * centre)[0]
    covariance = (V * (precise * error / lam)) @ V.mH
    full = F.new_zeros(len(active), len(active))
    full[index[:, None], index] = covariance
    covariance = gains[:, None] * full * gains.conj()
    inflation = error / noise if noise > 0 else 1.0
    weights = None if weights is None else weights[0]
    return Shrunk(gains, covariance, spread**0.5, inflation, weights, converged, n_iter)


def _place(like, index, values):
    """Values at some sensors, zero at the others, as one channel."""
    full = torch.zeros_like(like[:1])
    full[0, index] = values.to(full.dtype)
    return full


def _complement(v):
    """Orthonormal columns orthogonal to v."""
    k = len(v)
    square = torch.eye(k, dtype=v.dtype, device=v.device)
    square[:, 0] = v
    return torch.linalg.qr(square)[0][:, 1:]


def _log(ratio):
    """Logarithm of a ratio of gains: of its modulus for real data, whose signs stay."""
    return ratio.log() if ratio.is_complex() else ratio.abs().log()
