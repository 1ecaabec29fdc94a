r"""Projected gradient descent with Barzilai-Borwein steps and a non-monotone line search.

.. math:: U^+ = P(U - \tau \nabla L(U)), \qquad \tau^+ = |d|^2 / \langle d, \nabla L(U^+) - \nabla L(U) \rangle,
          \quad d = U^+ - U.

Cost      one evaluation and one gradient a step; a step that is refused costs another evaluation.
Pitfalls  the set is a piece of a sphere, no convex one: where d is long, the slope along it may be positive, and a
          block may lose all its points but one, from where nothing leads back. Long ones are refused.
References  E. G. Birgin, J. M. Martinez, M. Raydan, Nonmonotone spectral projected gradient methods on convex sets,
            2000.
"""

from __future__ import annotations

from collections import deque

import torch

__all__ = ["descend"]

_WINDOW = 8  # values that a step is compared with
_SLOPE = 1e-4  # Armijo's constant
_SHRINK = 0.3
_FAR = 0.7  # of the radius: the gradient knows nothing of the far side of a sphere
_STRETCH = 10.0  # a step against the one before, at most


def descend(problem, U, y, beta, step, *, goal, max_iter):
    """Lower L(., y) from U until it is stationary to `goal`.

    Parameters
    ----------
    problem : RowSumLagrangian
        Gives ``evaluate``, ``gradient``, ``project_`` and ``natural_step``.
    U : torch.Tensor, shape (B r, n)
        Start, on the set; not changed.
    y : torch.Tensor, shape (n,)
        Multipliers.
    beta : float
        Penalty.
    step : float
        First tau.
    goal : float
        Bound on ``problem.natural_step``, dimensionless.
    max_iter : int
        Steps at most.

    Returns
    -------
    U : torch.Tensor, shape (B r, n)
    at : Evaluation
        At U.
    criterion : float
        ``problem.natural_step`` at U.
    step : float
        The tau that would come next.
    n_iter : int
        Steps taken.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> from sciml.stats.clustering.row_sum_lagrangian import RowSumLagrangian
    >>> X = torch.tensor([[0.0], [1.0], [9.0]], dtype=torch.float64)
    >>> problem, y = RowSumLagrangian(Affinity(X, 2)), torch.zeros(3, dtype=torch.float64)
    >>> U = problem.project_(torch.tensor([[1.0, 0.9, 0.1], [0.1, 0.2, 1.0]], dtype=torch.float64))
    >>> descend(problem, U, y, 1.0, 0.3, goal=1e-6, max_iter=100)[2] < 1e-6
    True
    """
    U, V, d, spare = U.clone(), torch.empty_like(U), torch.empty_like(U), torch.empty_like(U)
    at = problem.evaluate(U, y, beta)
    gradient = problem.gradient(U, y, beta, at)
    recent = deque([at.lagrangian], maxlen=_WINDOW)
    criterion, n_iter = problem.natural_step(U, gradient), 0
    while criterion > goal and n_iter < max_iter:
        moved = _search(problem, U, gradient, y, beta, step, max(recent), V, d)
        if moved is None:  # no descent that rounding would let us see
            break
        at, step, length, slope = moved
        curvature = _dot(d, problem.gradient(V, y, beta, at, out=spare)) - slope
        U, V, gradient, spare, n_iter = V, U, spare, gradient, n_iter + 1
        recent.append(at.lagrangian)
        # |d| / tau is the projected gradient before the step, and falls with tau: what it refuses need no look.
        criterion = length**0.5 / (step * problem.size * problem.radius)
        if criterion <= goal:
            criterion = problem.natural_step(U, gradient)
        wanted = length / curvature if curvature > 0 else _STRETCH * step
        step = min(max(wanted, step / _STRETCH), _STRETCH * step)
    return U, at, criterion, step, n_iter


def _search(problem, U, gradient, y, beta, step, top, V, d):
    """Move V to the first point along the projected path that is low enough, and d to V - U.

    Returns its evaluation, its step, |d|^2 and the slope <gradient, d>; None if there is no such point.
    """
    for _ in range(20):
        torch.add(U, gradient, alpha=-step, out=V)
        torch.sub(problem.project_(V), U, out=d)
        length = _dot(d, d)
        if length <= (_FAR * problem.radius) ** 2:
            at, slope = problem.evaluate(V, y, beta), _dot(gradient, d)
            if at.lagrangian <= top + _SLOPE * min(slope, 0.0):
                return at, step, length, slope
        step *= _SHRINK
    return None


def _dot(a, b):
    return float(torch.dot(a.view(-1), b.view(-1)))
