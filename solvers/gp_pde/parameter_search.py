r"""Find the parameters of a differential equation: a scan for every maximum, then Gauss-Newton steps with a prior.

Around p the observations are linear in what is unknown,

.. math:: y \approx \Phi\theta_0 + \Phi W \zeta + \Phi D (p' - p) + \epsilon,

a small Gaussian linear model whose solution is the step; at the maximum it is also the posterior of u and p together.

Notation  as in `parameter_model`; zeta (q,) what the equation leaves free of u; tau noise of the observations, as a
          factor on their relative levels; k parameters; nu degrees of freedom of the noise.
Cost      a scan value is one QR of the equation's rows; a step is two, and one for each halving.
Pitfalls  The density has as many maxima as the phase of a free wave turns over the range of p: the scan must see each.
          A noise learned from few observations is a little too small, by what the parameters took of it, and its
          uncertainty makes bands those of Student: both are put right in `posterior_factor`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.iterate import Step
from sciml.linalg.gaussian_model import GaussianLinearModel
from sciml.solvers.gp_pde.evidence import Evidence, Rows, StructuredPrior

__all__ = ["Density", "Fit", "climb_steps", "scan_grid"]

TURN = 1.0  # rad that the phase of a free wave may turn between two values of a scan


class Density:
    """Log density of the observations given the equation at one p, as a function of the noise.

    Parameters
    ----------
    given : Given
        u given the equation.
    y, relative : torch.Tensor, shape (m,)
        Observed values, and their noise up to the factor tau.
    tau : float or None
        The factor where it is known.
    floor : float
        Least factor.

    Attributes
    ----------
    tau : float
        Known or most likely factor.
    value : float
        Log density at tau, nats.
    """

    def __init__(self, given, y, relative, tau=None, floor=1e-12):
        r = ((y - given.mean) / relative).cpu().numpy()
        V = (given.spread / relative[:, None]).cpu().numpy()
        U, s, Zt = np.linalg.svd(V, full_matrices=False)
        keep = s > 1e-9 * max(s.max(initial=0.0), np.linalg.norm(r), 1e-300)
        self.free = torch.as_tensor(Zt[keep].T, device=y.device)  # what of u the observations see, (q, r)
        self._s, self._c = s[keep], U[:, keep].T @ r
        self.n_free = int(np.sum(s > 1e-3 * np.linalg.norm(r)))  # directions in which the values can follow
        self._rest = max(float(r @ r - self._c @ self._c), 0.0)
        if self._rest < 1e-6 * float(r @ r):  # the difference has cancelled
            self._rest = float(np.sum((r - U[:, keep] @ self._c) ** 2))
        self._m, self._shift = len(r), float(relative.log().sum())
        self.tau = self._best(floor) if tau is None else tau
        self.value = float(self.at(np.array([self.tau]))[0])
        self.freedom = float(self._m - np.sum(self._s**2 / (self._s**2 + self.tau**2)))

    def at(self, tau):
        """Log densities for factors tau, shape (t,)."""
        var = self._s[None] ** 2 + tau[:, None] ** 2
        spare = self._m - len(self._s)
        quadratic = (self._c**2 / var).sum(1) + self._rest / tau**2
        volume = np.log(var).sum(1) + 2 * spare * np.log(tau)
        return -0.5 * (quadratic + volume + self._m * math.log(2 * math.pi)) - self._shift

    def _best(self, floor):
        size = math.sqrt((self._rest + float(self._c @ self._c)) / self._m) or 1.0
        low, high = math.log(max(floor, 1e-14 * size)), math.log(max(3 * size, 2 * floor))
        for _ in range(4):
            grid = np.linspace(low, high, 41)
            k = int(np.argmax(self.at(np.exp(grid))))
            low, high = grid[max(k - 1, 0)], grid[min(k + 1, 40)]
        return math.exp(0.5 * (low + high))


@dataclass
class Fit:
    """A value of the parameters with all that follows from it.

    Parameters
    ----------
    p : numpy.ndarray, shape (k,)
        Parameters.
    given : Given
        u given the equation.
    density : Density
        Of the observations.
    hyper : numpy.ndarray
        Logarithms of weights and decays of the functions among the parameters.
    objective : float
        Log density plus log prior of p, nats.
    """

    p: np.ndarray
    given: object
    density: Density
    hyper: np.ndarray
    objective: float


class Search:
    """The density over p, with the hyper-parameters of u held.

    Parameters
    ----------
    model : ParameterModel
        The problem.
    prior_std : callable
        JointBasis -> prior standard deviations of the coefficients of u.
    noise : dict
        Levels of "source" and "boundary" where these are not exact.
    """

    def __init__(self, model, prior_std, noise):
        self.model, self.prior_std, self.noise = model, prior_std, noise
        self.prior = model.vector.prior()
        self.n_evaluations = 0

    def start_hyper(self):
        """Weights and decays of the functions: a quarter of their range, slow decay."""
        spreads = [e.spread for e in self.model.vector.functions.values()]
        Q = self.prior.n_blocks
        weights = [math.log(s / 2) for s in spreads][:Q]
        return np.concatenate([weights, np.full(self.prior.n_params - Q, math.log(0.2))])

    def evaluate(self, p, hyper) -> Fit:
        """Everything at p."""
        self.n_evaluations += 1
        given = self.model.given(p, self.prior_std, self.noise)
        model = self.model
        density = Density(given, model.values, model.relative, 1.0 if model.sigma_known else None, 1e-10 * model.scale)
        return Fit(np.asarray(p), given, density, hyper, density.value + self._log_prior(p, hyper))

    def _log_prior(self, p, hyper):
        k = len(self.model.vector.numbers)
        if len(p) == k:
            return 0.0
        std = np.exp(self.prior.log_std(hyper))[k:]
        return float(-0.5 * np.sum((p[k:] / std) ** 2) - np.log(std).sum())

    def linear(self, fit):
        """The small model about a fit: columns, right side, D and the number of free directions."""
        model, given = self.model, fit.given
        if not fit.density.free.shape[1]:  # a column at least, for the factorisations
            fit.density.free = given.root.new_zeros(given.root.shape[1], 1)
        V = given.spread @ fit.density.free
        inner = GaussianLinearModel(
            V,
            model.values - given.mean,
            prior_std=1.0,
            noise_std=fit.density.tau * model.relative,
        ).posterior()
        theta = given.theta + given.root @ (fit.density.free @ inner.mean)
        D = model.sensitivity(given, theta)
        J = given.Phi @ D
        right = model.values - given.mean + J @ torch.as_tensor(fit.p - self._centre(fit.p), device=J.device)
        return torch.cat([V, J], dim=1), right, D, V.shape[1], theta

    def _centre(self, p):
        """Where the prior of p has its mean: numbers at p itself (it is as good as flat), functions at the middle."""
        k = len(self.model.vector.numbers)
        return np.concatenate([p[:k], np.zeros(len(p) - k)])

    def solve_linear(self, fit, learn):
        """Posterior of (zeta, p - centre), with hyper-parameters of the functions learned when asked."""
        A, right, D, n_free, theta = self.linear(fit)
        ones = StructuredPrior(np.full(n_free, -1), np.zeros((n_free, 1)), np.ones(n_free))
        prior = ones.extended(self.prior)
        tau, known = fit.density.tau, self.model.sigma_known
        hyper = fit.hyper
        rows = Rows(A, right, tau, not known, "observations", weight=self.model.relative)
        self.evidence, self.at = None, np.zeros(0)
        if self.prior.n_blocks:
            spread = max(e.spread for e in self.model.vector.functions.values())
            # What the observations hardly see keeps a fair prior: an evidence would shrink it to what they do see.
            evidence = Evidence(prior, [rows], 0.5 * spread, least=0.5)
            x0 = np.concatenate([[] if known else [math.log(tau)], hyper])
            if learn:
                found = evidence.maximise([x0], max_iter=25)
                hyper = found.x[0 if known else 1 :]
                tau = tau if known else found.noise["observations"]
                x0 = found.x
            self.evidence, self.at = evidence, x0
        std = torch.as_tensor(np.exp(prior.log_std(hyper)), device=A.device)
        model = GaussianLinearModel(A, right, prior_std=std, noise_std=tau * self.model.relative)
        return model.posterior(), hyper, tau, D, n_free, theta


def climb_steps(search, fit, *, learn):
    """Gauss-Newton steps from a fit; yield a Step with the best Fit, criterion the step against its sd.

    Parameters
    ----------
    search : Search
        The density.
    fit : Fit
        Where to begin.
    learn : bool
        Whether hyper-parameters of functions are learned on the way.

    Yields
    ------
    Step
        value : Fit; criterion : largest step of a parameter over its standard deviation, dimensionless.
    """
    vector, stalled = search.model.vector, 0
    while True:
        posterior, hyper, _, _, n_free, _ = search.solve_linear(fit, learn)
        if learn and len(hyper):
            fit = Fit(fit.p, fit.given, fit.density, hyper, fit.density.value + search._log_prior(fit.p, hyper))
        target = search._centre(fit.p) + posterior.mean[n_free:].cpu().numpy()
        step = vector.clipped(target) - fit.p
        root = posterior.covariance_root()[n_free:].cpu().numpy()
        sd = np.linalg.norm(root, axis=1)
        size = float(np.max(np.abs(step) / np.maximum(sd, 1e-300)))
        yield Step(fit, min(size, 1e6) if stalled < 2 else 0.0, {"objective": fit.objective})
        # A step beyond where the phases turn means nothing: numbers move by a fifth of their range at most.
        m = len(vector.numbers)
        length = 1.0
        if m:
            length = min(1.0, 0.2 / max(1e-300, float(np.max(np.abs(step[:m]) / (vector.high - vector.low)))))
        better = None
        for _ in range(9):
            trial = search.evaluate(fit.p + length * step, fit.hyper)
            if trial.objective > fit.objective:
                better = trial
                break
            length *= 0.35
        gain = better.objective - fit.objective if better is not None else 0.0
        stalled = stalled + 1 if gain < 1e-7 * (1 + abs(fit.objective)) else 0
        fit = better or fit
        if better is None:
            stalled = 2


def scan_grid(vector, X, budget):
    """Values of p at which the density is to be looked at, finer where the phase of a free wave turns faster.

    Parameters
    ----------
    vector : ParameterVector
        The parameters.
    X : numpy.ndarray, shape (n, d)
        Points at which coefficients are frozen.
    budget : int
        About how many values at most.

    Returns
    -------
    numpy.ndarray, shape (g, k)
    """
    m = len(vector.numbers)
    middle = np.zeros(vector.size)
    middle[:m] = [math.sqrt(a * b) if a > 0 else 0.5 * (a + b) for a, b in zip(vector.low, vector.high, strict=True)]
    levels = [s.start for s in vector.slices.values()]
    axes, places = [], list(range(m)) + levels
    base = {1: 33, 2: 9, 3: 6}.get(len(places), 3)
    for i in places:
        if i < m:
            low, high = vector.low[i], vector.high[i]
            fine = np.geomspace(low, high, 65) if low > 0 and high / low > 20 else np.linspace(low, high, 65)
        else:
            spread = [e.spread for e in vector.functions.values()][levels.index(i)]
            fine = np.linspace(-0.95 * spread, 0.95 * spread, 65)
        turns = []
        for value in fine:
            p = middle.copy()
            p[i] = value
            turns.append(_phases(vector.bind(p), X))
        turn = np.abs(np.diff(np.array(turns), axis=0)).max(axis=1)
        measure = np.concatenate([[0.0], np.cumsum(turn / TURN + base / 64)])
        axes.append((fine, measure))
    counts = np.array([max(base, math.ceil(measure[-1])) for _, measure in axes], float)
    while np.prod(counts) > budget and counts.max() > 3:
        counts[np.argmax(counts)] *= 0.8
    grids = [
        np.interp(np.linspace(0, measure[-1], int(c) + 2)[1:-1], measure, fine)
        for (fine, measure), c in zip(axes, counts, strict=True)
    ]
    out = []
    for values in itertools.product(*grids):
        p = middle.copy()
        p[places] = values
        out.append(p)
    return np.array(out)


def _phases(pde, X):
    """Turns of the free waves along each axis, by the roots of the symbol with coefficients frozen; rad, shape (d,)."""
    X = X[:: max(1, len(X) // 5)][:5]
    terms = {a: np.broadcast_to(c, (len(X),)) for a, c in pde.coefficient_values(X).items()}
    box, out = pde.domain.box, []
    for j, length in enumerate(box.upper - box.lower):
        order = max(a[j] for a in terms)
        waves = []
        for i in range(len(X)):
            q = np.zeros(order + 1)
            for a, c in terms.items():
                if all(k == 0 for n, k in enumerate(a) if n != j):
                    q[order - a[j]] += c[i]
            roots = np.roots(q) if q[0] else np.zeros(0)
            waves.append(np.sort(np.abs(roots.imag))[-1] if len(roots) else 0.0)
        out.append(float(np.mean(waves)) * length)
    return np.array(out)
