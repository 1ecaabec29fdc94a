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
_STRETCH = 100.0  # a step against the one before, at most


def descend(problem, U, y, beta, step, *, goal, max_iter):
    """Lower L(., y) from U until it is stationary to `goal`.

    Parameters
    ----------
    problem : RowSumLagrangian
        Gives ``evaluate``, ``gradient``, ``project_`` and ``natural_step``.
    U : torch.Tensor, shape (n, B r)
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
    U : torch.Tensor, shape (n, B r)
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
    >>> U = problem.project_(torch.tensor([[1.0, 0.1], [0.9, 0.2], [0.1, 1.0]], dtype=torch.float64))
    >>> descend(problem, U, y, 1.0, 0.3, goal=1e-6, max_iter=100)[2] < 1e-6
    True
    """
    at = problem.evaluate(U, y, beta)
    gradient = problem.gradient(U, y, beta, at)
    recent = deque([at.lagrangian], maxlen=_WINDOW)
    criterion, n_iter = problem.natural_step(U, gradient), 0
    while criterion > goal and n_iter < max_iter:
        moved = _search(problem, U, gradient, y, beta, step, max(recent))
        if moved is None:  # no descent that rounding would let us see
            break
        V, d, at, step = moved
        next_gradient = problem.gradient(V, y, beta, at)
        length = _dot(d, d)
        curvature = _dot(d, next_gradient) - _dot(d, gradient)
        U, gradient, n_iter = V, next_gradient, n_iter + 1
        recent.append(at.lagrangian)
        # |d| / tau is the projected gradient before the step, and falls with tau: what it refuses need no look.
        criterion = length**0.5 / (step * problem.size * problem.radius)
        if criterion <= goal:
            criterion = problem.natural_step(U, gradient)
        wanted = length / curvature if curvature > 0 else _STRETCH * step
        step = min(max(wanted, step / _STRETCH), _STRETCH * step)
    return U, at, criterion, step, n_iter


def _search(problem, U, gradient, y, beta, step, top):
    """Return the first point along the projected path that is low enough: V, V - U, its evaluation and its step."""
    for _ in range(20):
        V = problem.project_(torch.add(U, gradient, alpha=-step))
        d = V - U
        if float(torch.linalg.vector_norm(d)) <= _FAR * problem.radius:
            at = problem.evaluate(V, y, beta)
            if at.lagrangian <= top + _SLOPE * min(_dot(gradient, d), 0.0):
                return V, d, at, step
        step *= _SHRINK
    return None


def _dot(a, b):
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))
