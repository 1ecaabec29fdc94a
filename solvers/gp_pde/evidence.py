r"""Hyper-parameters of a spectral-mixture prior and of the noise, by maximising the evidence, and averages over them.

Coefficients of carrier q and envelope degree k have the prior standard deviation

.. math:: s_{q,k}^{1/2} = w_q \exp\bigl(-\tfrac12 \textstyle\sum_j (\ell_{q,j} k_j)^p\bigr),

one weight a block and one decay a block and dimension; rows of the linear model come in groups, each with one noise
level, which may be learned. The logarithms of all these are moved by a quasi-Newton method with analytic gradients.

Notation  x hyper-parameters, logarithms: noise levels first, then weights, then decays; A (n, P) rows; y (n,) right
          sides; theta (P,) coefficients; z whitened coefficients; W (P, q) root of the covariance.
Cost      one QR of at most (groups + 1) P rows an evaluation, whatever the number of samples: about a millisecond for
          P = 60.
Pitfalls  A block that the data do not need has a flat evidence in the logarithm of its weight: a mild penalty, linear
          in the weight itself, lets it vanish rather than stay where the search began, which would widen all bands.
          The best hyper-parameters alone make bands a little too narrow; `average` mixes the posteriors of many.

References
----------
D. MacKay, Bayesian interpolation, 1992. M. Simpson et al., Penalising model component complexity, 2017, arXiv
1403.4630 (the penalty). H. Rue, S. Martino, N. Chopin, Approximate Bayesian inference for latent Gaussian models by
integrated nested Laplace approximations, 2009 (the average).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from sciml.linalg.gaussian_model import Posterior, _Inside

__all__ = ["Evidence", "HyperFit", "Rows", "StructuredPrior"]

POWER = 2.0  # of k in the exponent; 1 makes bands a third too wide for modulated tones
STEEPEST = 0.5, 8.0  # largest decay of block 0 and of carriers: only a carrier may be a pure tone
QUIET = 1e-12  # noise stays above this part of the root mean square of the right side


@dataclass(frozen=True)
class StructuredPrior:
    r"""Prior standard deviations of coefficients in blocks, by weight and decay.

    Parameters
    ----------
    block : numpy.ndarray of int, shape (P,)
        Block of each coefficient, counted from 0; -1 for one whose standard deviation is given.
    degree : numpy.ndarray, shape (P, d)
        Degree of each coefficient's envelope in each dimension.
    fixed : numpy.ndarray, shape (P,)
        Standard deviation where the block is -1, in units of the coefficient; not looked at elsewhere.
    power : numpy.ndarray, shape (P,), optional
        p, by coefficient (default 2; 1 is the decay of an analytic function).

    Examples
    --------
    >>> prior = StructuredPrior(np.zeros(3, int), np.arange(3.0)[:, None], np.ones(3))
    >>> prior.log_std(np.array([0.0, np.log(2.0)])).round(6).tolist()  # weight 1, decay 2
    [0.0, -2.0, -8.0]
    """

    block: np.ndarray
    degree: np.ndarray
    fixed: np.ndarray
    power: np.ndarray | None = None

    @classmethod
    def of(cls, basis, power=POWER) -> StructuredPrior:
        """Take the blocks of a `JointBasis`: the carrier-free one, then one for each carrier.

        Parameters
        ----------
        basis : JointBasis
            Features.
        power : float
            Of the degree in the exponent (default 2).

        Returns
        -------
        StructuredPrior
        """
        block, degree = [], []
        for q, index in enumerate(basis._sets):
            for _ in range(1 if q == 0 else 2):  # cosine and sine share their size, so that the prior is stationary
                block.append(np.full(len(index), q))
                degree.append(index.astype(float))
        blocks = np.concatenate(block)
        return cls(blocks, np.concatenate(degree), np.ones(len(blocks)), np.full(len(blocks), float(power)))

    @property
    def _power(self):
        return np.full(len(self.block), POWER) if self.power is None else self.power

    def extended(self, other: StructuredPrior) -> StructuredPrior:
        """Put the coefficients of another prior behind these, its blocks counted on.

        Parameters
        ----------
        other : StructuredPrior
            May have another number of dimensions.

        Returns
        -------
        StructuredPrior
        """
        d = max(self.degree.shape[1], other.degree.shape[1])
        pad = [np.pad(p.degree, ((0, 0), (0, d - p.degree.shape[1]))) for p in (self, other)]
        shifted = np.where(other.block < 0, -1, other.block + self.n_blocks)
        return StructuredPrior(
            np.r_[self.block, shifted],
            np.concatenate(pad),
            np.concatenate([self.fixed, other.fixed]),
            np.concatenate([self._power, other._power]),
        )

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return int(self.block.max(initial=-1)) + 1

    @property
    def n_params(self) -> int:
        """Number of hyper-parameters: one weight a block, one decay a block and dimension."""
        return self.n_blocks * (1 + self.degree.shape[1])

    def log_std(self, x: np.ndarray) -> np.ndarray:
        """Logarithms of the standard deviations.

        Parameters
        ----------
        x : numpy.ndarray, shape (n_params,)
            Logarithms of the weights, then of the decays, block by block.

        Returns
        -------
        numpy.ndarray, shape (P,)
        """
        Q = self.n_blocks
        own = self.block >= 0
        q = self.block[own]
        out = np.log(self.fixed)
        out[own] = x[q] - 0.5 * self._exponent(x)[own].sum(axis=1) if Q else out[own]
        return out

    def chain(self, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Turn a gradient by the logarithms of the standard deviations (P,) into one by x, shape (n_params,)."""
        Q, d = self.n_blocks, self.degree.shape[1]
        own = self.block >= 0
        q, g = self.block[own], gradient[own]
        slope = -0.5 * (self._power[:, None] * self._exponent(x))[own] * g[:, None]
        decays = np.stack([np.bincount(q, slope[:, j], minlength=Q) for j in range(d)], axis=1)
        return np.concatenate([np.bincount(q, g, minlength=Q), decays.reshape(-1)])

    def _exponent(self, x):
        Q, d = self.n_blocks, self.degree.shape[1]
        decay = np.exp(np.append(x[Q:], np.zeros(d)).reshape(Q + 1, d))  # the last row serves block -1
        return (decay[self.block] * self.degree) ** self._power[:, None]


@dataclass
class Rows:
    """Equations of one kind, with one noise level.

    Parameters
    ----------
    A : torch.Tensor, shape (n, P)
        Features seen by each equation.
    y : torch.Tensor, shape (n,)
        Right sides.
    std : float
        Noise level, or where the search for it begins, in units of y.
    learn : bool
        Whether the level is learned (default False).
    name : str
        For reports.
    floor : float
        Least level, in units of y (default: 1e-12 of the root mean square of y).
    weight : torch.Tensor, shape (n,), optional
        Levels of single equations relative to `std` (default 1).
    cause : bool
        Whether its level is as given and the others are to be explained given these, which are no data about the
        prior (default False): an exact source would shrink all weights, since a small prior makes any operator's
        image small.
    """

    A: torch.Tensor
    y: torch.Tensor
    std: float
    learn: bool = False
    name: str = ""
    floor: float = 0.0
    weight: torch.Tensor | None = None
    cause: bool = False
    _small: tuple | None = field(init=False, repr=False, default=None)

    def reduced(self):
        """Rows (at most P + 1) with the same evidence up to what ``_Lost`` restores: A, y, and rows lost."""
        if self._small is None:
            scale = 1.0 if self.weight is None else self.weight
            both = torch.cat([self.A, self.y[:, None]], dim=1) / (scale if self.weight is None else scale[:, None])
            n, lost = len(both), 0
            if n > both.shape[1]:
                both = torch.linalg.qr(both, mode="r").R
                lost = n - len(both)
            shift = 0.0 if self.weight is None else float(self.weight.log().sum())
            self._small = (both[:, :-1], both[:, -1], lost, shift)
        return self._small


@dataclass
class HyperFit:
    """Hyper-parameters with the posterior that they give.

    Parameters
    ----------
    x : numpy.ndarray
        Logarithms of the learned noise levels, of the weights, of the decays.
    log_evidence : float
        In nats.
    theta : torch.Tensor, shape (P,)
        Posterior mean of the coefficients.
    noise : dict
        Name of each group of rows to its noise level.
    posterior : object
        Of the reduced model: ``covariance_root()``.
    gradient : float
        Largest slope left, nats.
    """

    x: np.ndarray
    log_evidence: float
    theta: torch.Tensor
    noise: dict
    posterior: Any
    gradient: float = 0.0

    def root(self) -> torch.Tensor:
        """W (P, q) with ``W @ W.T`` the covariance of theta."""
        return self.posterior.covariance_root()


def _same(tensor):
    return tensor


class Evidence:
    """Log evidence of grouped rows under a structured prior, as a function of the hyper-parameters.

    Parameters
    ----------
    prior : StructuredPrior
        Of the coefficients.
    rows : list of Rows
        Groups of equations.
    scale : float
        Size of u to be expected, in its units: where weights begin, and the unit of their penalty (default 1).
    least : float
        Weights stay above this times `scale` (default 1e-11: blocks may vanish).

    Examples
    --------
    A constant seen a hundred times: the noise is the spread about the mean.

    >>> y = torch.as_tensor(5.0 + 0.5 * np.random.default_rng(0).standard_normal(100))
    >>> prior = StructuredPrior(np.zeros(1, int), np.zeros((1, 1)), np.ones(1))
    >>> fit = Evidence(prior, [Rows(torch.ones(100, 1, dtype=torch.float64), y, 1.0, True, "data")], 5.0).maximise()
    >>> bool(abs(fit.noise["data"] - float(y.std())) < 1e-3)
    True
    """

    def __init__(self, prior, rows, scale=1.0, least=1e-11):
        self.prior, self.rows, self.scale = prior, [r for r in rows if len(r.y)], float(scale) or 1.0
        self.least = math.log(least)
        self.learned = [r for r in self.rows if r.learn and not r.cause]
        parts = [r.reduced() for r in self.rows]
        self._A, self._y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        self._counts = [len(p[1]) for p in parts]
        self._total = len(self._y) + sum(p[2] for p in parts)
        self._lost = [p[2] for p in parts]
        self._shift = sum(p[3] for p in parts)
        causes = [r for r in self.rows if r.cause]
        self._causes = Evidence(prior, [replace(r, cause=False) for r in causes], scale, least) if causes else None
        self._effects = [r for r in self.rows if not r.cause]

    def start(self, decay=0.3) -> np.ndarray:
        """Where a search begins.

        Parameters
        ----------
        decay : float
            Of all envelopes, a degree (default 0.3); less where a block has high degrees, which must not begin at zero.

        Returns
        -------
        numpy.ndarray
        """
        Q = self.prior.n_blocks
        tops = [self.prior.degree[self.prior.block == q].max(axis=0) for q in range(Q)]
        decays = np.log(np.minimum(decay, 3 / np.maximum(np.reshape(tops, -1), 1.0))) if Q else np.zeros(0)
        noise = [math.log(max(r.std, self._floor(r))) for r in self.learned]
        return np.concatenate([noise, np.full(Q, math.log(self.scale)), decays])

    def bounds(self) -> list:
        """Pairs that keep the search where the numbers mean something."""
        Q, unit = self.prior.n_blocks, math.log(self.scale)
        out = []
        for r in self.learned:
            top = float(r.y.square().mean().sqrt()) or 1.0
            low = math.log(self._floor(r))
            out.append((low, max(math.log(top), math.log(r.std), low) + 5))
        weights, d = [(unit + self.least, unit + 12)] * Q, self.prior.degree.shape[1]
        # A base that may be a constant and nothing else would be certain of what the noise hides.
        return out + weights + [(math.log(1e-2), math.log(STEEPEST[q > 0])) for q in range(Q) for _ in range(d)]

    def _floor(self, rows):
        size = float(rows.y.square().mean().sqrt()) or float(rows.A.square().mean().sqrt()) * self.scale or 1.0
        return max(rows.floor, QUIET * size)

    def posterior(self, x):
        """The model of the reduced rows at hyper-parameters x, and their noise levels by group."""
        levels, at = [], 0
        for r in self.rows:
            if r.learn and not r.cause:
                levels.append(math.exp(x[at]))
                at += 1
            else:
                levels.append(r.std)
        noise = torch.cat([self._y.new_full((c,), s) for c, s in zip(self._counts, levels, strict=True)])
        std = torch.as_tensor(np.exp(np.maximum(self.prior.log_std(x[at:]), -600.0)), device=self._A.device)
        # Past the door of GaussianLinearModel: its checks would cost as much as the factorisation.
        return Posterior(_Inside(self._A, self._y, std, noise, _same)), levels

    def value(self, x, gradient=True):
        """Penalised log evidence, in nats, and its gradient by x."""
        if self._causes is None:
            return self._plain(x, gradient)
        value = self._given_causes(x)
        if not gradient:
            return value
        h = 1e-3  # the value is smooth to 1e-9, and a difference of two joint densities would not be
        shifts = h * np.eye(len(x))
        slope = [(self._given_causes(x + e) - self._given_causes(x - e)) / (2 * h) for e in shifts]
        return value, np.array(slope)

    def _given_causes(self, x):
        """Log density of the effects given the causes, penalised: u is first conditioned on the causes."""
        m, Q = len(self.learned), self.prior.n_blocks
        posterior, _ = self._causes.posterior(x[m:])
        theta, root = posterior.mean, posterior.covariance_root()
        parts = [r.reduced() for r in self._effects]
        A, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        levels, at = [], 0
        for r in self._effects:
            levels.append(math.exp(x[at]) if r.learn else r.std)
            at += r.learn
        noise = torch.cat([y.new_full((len(p[1]),), s) for p, s in zip(parts, levels, strict=True)])
        V = A @ root
        ones = V.new_ones(V.shape[1])
        value = Posterior(_Inside(V, y - A @ theta, ones, noise, _same)).log_evidence
        lost = sum(p[2] * (math.log(s) + 0.5 * math.log(2 * math.pi)) for p, s in zip(parts, levels, strict=True))
        return value - lost - sum(p[3] for p in parts) - self._penalty(x[m : m + Q], x[m + Q :])

    def _penalty(self, weights, decays):
        return float(np.exp(weights).sum()) / self.scale + float(np.sum((decays - math.log(0.3)) ** 2)) / 8.0

    def _plain(self, x, gradient):
        """Joint density of all rows, penalised."""
        posterior, levels = self.posterior(x)
        m, Q = len(self.learned), self.prior.n_blocks
        missing = sum(n * math.log(s) for n, s in zip(self._lost, levels, strict=True)) + self._shift
        value = posterior.log_evidence - missing - 0.5 * (self._total - len(self._y)) * math.log(2 * math.pi)
        weight = np.exp(x[m : m + Q]) / self.scale
        decays = x[m + Q :] - math.log(0.3)
        value = value - self._penalty(x[m : m + Q], x[m + Q :])
        if not gradient:
            return value
        slope = np.zeros(len(x))
        edges = np.cumsum([0, *self._counts])
        if m:
            blocks = [slice(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]
            by_group = posterior.grad_log_noise_std(blocks).cpu().numpy()
            slope[:m] = [g - n for r, g, n in zip(self.rows, by_group, self._lost, strict=True) if r.learn]
        slope[m:] = self.prior.chain(x[m:], posterior.grad_log_prior_std.cpu().numpy())
        slope[m : m + Q] -= weight
        slope[m + Q :] -= decays / 4.0
        return value, slope

    def maximise(self, starts=None, max_iter=80) -> HyperFit:
        """Climb from each start and keep the best.

        Parameters
        ----------
        starts : list of numpy.ndarray, optional
            Hyper-parameters (default: `start` with two decays).
        max_iter : int
            Quasi-Newton steps of each climb (default 80).

        Returns
        -------
        HyperFit
        """
        starts = [self.start(0.3), self.start(1.5)] if starts is None else starts
        bounds = self.bounds()
        low, high = np.array(bounds).T if bounds else (np.zeros(0), np.zeros(0))
        best: Any = None
        for x in starts:
            x = np.clip(x, low, high)
            if len(x):
                out = minimize(
                    self._descent, x, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": max_iter}
                )
                x, value, slope = out.x, -out.fun, float(np.abs(out.jac).max())
            else:
                value, slope = self.value(x, gradient=False), 0.0
            if best is None or value > best[1]:
                best = (x, value, slope)
        return self.at(*best)

    def at(self, x, log_evidence=None, gradient=0.0) -> HyperFit:
        """The posterior at given hyper-parameters."""
        posterior, levels = self.posterior(x)
        value = self.value(x, gradient=False) if log_evidence is None else log_evidence
        noise = {r.name: s for r, s in zip(self.rows, levels, strict=True)}
        return HyperFit(np.asarray(x), value, posterior.mean, noise, posterior, gradient)

    def _descent(self, x):
        value, slope = self.value(x)
        return -value, -slope

    def curvature(self, x, step=0.05) -> np.ndarray:
        """Minus the Hessian of `value` at x, by central differences of the gradient; symmetric."""
        H = np.zeros((len(x), len(x)))
        for i in range(len(x)):
            e = np.zeros(len(x))
            e[i] = step
            H[i] = -(self.value(x + e)[1] - self.value(x - e)[1]) / (2 * step)
        return 0.5 * (H + H.T)

    def average(self, fit, rng, n_samples=24, widest=2.0):
        """Mix the posteriors of hyper-parameters drawn about the best ones, by importance.

        Parameters
        ----------
        fit : HyperFit
            The best.
        rng : numpy.random.Generator
            Source of the draws.
        n_samples : int
            Draws (default 24, in pairs about the best).
        widest : float
            Largest standard deviation of a logarithm (default 2).

        Returns
        -------
        (torch.Tensor, torch.Tensor)
            Mean (P,) and root W (P, q) of the mixture's covariance.
        """
        if not len(fit.x):
            return fit.theta, fit.root()
        low, high = np.array(self.bounds()).T
        lam, V = np.linalg.eigh(self.curvature(fit.x))
        sd = 1 / np.sqrt(np.maximum(lam, widest**-2))
        xi = rng.standard_normal((n_samples // 2, len(sd)))
        xi = np.concatenate([np.zeros((1, len(sd))), xi, -xi])
        points = fit.x + (xi * sd) @ V.T
        logs = np.full(len(xi), -np.inf)
        for i, x in enumerate(points):
            if np.all(x >= low - 1e-9) and np.all(x <= high + 1e-9):
                logs[i] = self.value(x, gradient=False) + 0.5 * float(xi[i] @ xi[i])
        weight = np.exp(logs - logs.max())
        weight = np.minimum(weight, weight.mean() * math.sqrt(len(xi)))  # no draw may drown the others
        weight /= weight.sum()
        fits = [(w, self.at(x, 0.0)) for w, x in zip(weight, points, strict=True) if w > 1e-3]
        total = sum(w for w, _ in fits)
        mean = sum(w / total * f.theta for w, f in fits)
        parts = [math.sqrt(w / total) * f.root() for w, f in fits]
        parts += [(math.sqrt(w / total) * (f.theta - mean))[:, None] for w, f in fits]
        stacked = torch.cat(parts, dim=1)
        return mean, torch.linalg.qr(stacked.T, mode="r").R.T
