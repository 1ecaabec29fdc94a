r"""Learn the numbers of a model: maximise the evidence over logarithms, by L-BFGS from several starts.

Notation  blocks: pairs (X_b, Y_b) of points and targets, one pair that holds all data, or several samples of them;
          criterion: largest entry of the projected derivative of the mean log evidence of a number of Y.
Pitfalls  the evidence of a short and a long lengthscale, of all noise and of none, are local maxima of one function:
          one start is not enough. The starts compete on a sample, the winner is finished on the data.
"""

import numpy as np
import torch
from scipy.optimize import minimize

from sciml.exceptions import NotPositiveDefiniteError
from sciml.iterate import Step
from sciml.solvers.gp_regression.evidence import evidence_with_gradient

_SAMPLE = 400  # points on which the starts compete
# The competition ends at steps that gain less than this part of the objective: its winner is finished elsewhere.
_COARSE = {"ftol": 1e-4, "gtol": 1e-3, "maxiter": 30}
# Rounding may spoil a line search; another start from there, along the gradient, often goes on.
_RESTARTS = 4


class Objective:
    """Minus the mean log evidence of a number of Y as a function of theta, for SciPy; it counts and remembers.

    Parameters
    ----------
    parameters : Parameters
        What theta means.
    blocks : list of (torch.Tensor, torch.Tensor)
        Points (n_b, d) and centred targets (n_b, q) of independent parts.
    """

    def __init__(self, parameters, blocks):
        self.parameters, self.blocks = parameters, blocks
        self.count = sum(Y.numel() for _, Y in blocks)
        self.n_evaluations, self.best = 0, None

    def __call__(self, theta):
        """Return value and derivative (p,)."""
        self.n_evaluations += 1
        value, gradient = 0.0, np.zeros(len(theta))
        for X, Y in self.blocks:
            try:
                v, g = evidence_with_gradient(torch.as_tensor(theta, device=X.device), self.parameters, X, Y)
            except NotPositiveDefiniteError:
                return 1e10, gradient  # a wall: the line search turns back
            value, gradient = value + v, gradient + g.cpu().numpy()
        value, gradient = -value / self.count, -gradient / self.count
        if self.best is None or value < self.best[1]:
            self.best = (np.array(theta), value, gradient)
        return value, gradient

    def criterion(self, theta, gradient):
        """Return the largest entry of the projected derivative."""
        p = self.parameters
        return float(np.abs(p.clipped(theta - gradient) - theta).max(initial=0.0))


def descend(objective, start, max_iter, tol, H=None):
    """Return the iterates as a list of `Step`, the start first: BFGS steps with a known curvature, then L-BFGS.

    Parameters
    ----------
    objective : Objective
        What is minimised.
    start : numpy.ndarray, shape (p,)
        Theta.
    max_iter : int
        Steps.
    tol : float
        Of the criterion.
    H : numpy.ndarray of shape (p, p), or None
        Second derivatives near the start, such as those on a sample: a step with them takes one evaluation where
        L-BFGS, which knows none, takes several. None (the default) goes without.
    """
    steps = []

    def record(theta):
        # SciPy hands over the iterate only; its value and derivative were the best so far, or are computed again.
        best = objective.best
        _, value, gradient = best if np.array_equal(best[0], theta) else (theta, *objective(theta))
        steps.append(Step(theta.copy(), objective.criterion(theta, gradient), {"log_evidence": -value}))
        if steps[-1].criterion <= tol:
            raise StopIteration

    first = objective(start)
    steps.append(Step(start, objective.criterion(start, first[1]), {"log_evidence": -first[0]}))
    if H is not None:
        _newton(objective, steps, H, max_iter, tol)
    for _ in range(_RESTARTS):
        left = max_iter + 1 - len(steps)
        if left <= 0 or steps[-1].criterion <= tol:
            break
        options = {"maxiter": left, "ftol": 0.0, "gtol": 0.0, "maxls": 30, "maxfun": 10 * left + 20}
        _minimize(objective, steps[-1].value, options, record)
    return steps


def _newton(objective, steps, H, max_iter, tol):
    """Append steps theta - H^{-1} gradient while they gain, H corrected by each as BFGS does."""
    theta, value, gradient = objective.best
    lam, V = np.linalg.eigh((H + H.T) / 2)
    H = (V * np.maximum(np.abs(lam), 1e-3 * np.abs(lam).max(initial=1e-8))) @ V.T
    while len(steps) <= max_iter and steps[-1].criterion > tol:
        s = objective.parameters.clipped(theta - np.linalg.solve(H, gradient)) - theta
        if not 0 < np.abs(s).max() < 2:
            return
        new_value, new_gradient = objective(theta + s)
        if not new_value < value + 1e-4 * (gradient @ s):
            return
        y = new_gradient - gradient
        if y @ s > 0:
            H = H + np.outer(y, y) / (y @ s) - np.outer(H @ s, H @ s) / (s @ H @ s)
        theta, value, gradient = theta + s, new_value, new_gradient
        steps.append(Step(theta, objective.criterion(theta, gradient), {"log_evidence": -value}))


def _minimize(objective, start, options, callback=None):
    p = objective.parameters
    bounds = np.stack([p.lower, p.upper], axis=1)
    minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, callback=callback, options=options)


def learn_steps(parameters, X, Y, blocks, *, n_starts, max_iter, tol, rng):
    """Yield the iterates theta of the evidence maximisation, the best start of the competition first."""
    starts = parameters.starts(X, n_starts, rng)
    sample = rng.choice(len(X), _SAMPLE, replace=False) if len(X) > _SAMPLE else np.arange(len(X))
    sample = torch.as_tensor(np.sort(sample), device=X.device)
    trial = Objective(parameters, [(X[sample], Y[sample])])
    ends = []
    if len(starts) > 1:
        for start in starts:
            trial.best = None
            _minimize(trial, start, _COARSE)
            ends.append(trial.best[:2])
        winner = min(ends, key=lambda end: end[1])[0]
    else:
        winner = starts[0]
    _, H = curvature(trial, winner) if len(sample) < sum(len(part) for part, _ in blocks) else (None, None)
    yield from descend(Objective(parameters, blocks), winner, max_iter, tol, H)


def curvature(objective, theta, step=1e-3):
    """Return which entries of theta lie between their bounds, and second derivatives (p, p) by differences.

    Parameters
    ----------
    objective : Objective
        Whose derivatives are asked for.
    theta : numpy.ndarray, shape (p,)
        Where.
    step : float
        Of the differences of the gradient; 1e-3 by default, a part in a thousand of each number. Rows and columns of
        entries at their bounds are those of the identity.
    """
    p = objective.parameters
    free = (theta > p.lower) & (theta < p.upper)
    H = np.eye(len(theta))
    _, at = objective(theta)
    for k in np.flatnonzero(free):
        moved = theta.copy()
        moved[k] += step
        H[k, free] = (objective(moved)[1] - at)[free] / step
    return free, (H + H.T) / 2


def standard_errors(objective, theta):
    """Return standard errors (p,) of theta from the curvature of the objective at its minimum; NaN at bounds.

    Parameters
    ----------
    objective : Objective
        With its blocks.
    theta : numpy.ndarray, shape (p,)
        The minimum.
    """
    free, H = curvature(objective, theta)
    lam, V = np.linalg.eigh(H[np.ix_(free, free)])
    errors = np.full(len(theta), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors[free] = np.sqrt((V**2 / np.where(lam > 0, lam, 0.0)).sum(1) / objective.count)
    return errors
