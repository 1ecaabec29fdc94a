r"""Directions of the search: Gauss-Newton, limited-memory BFGS, Barzilai-Borwein, steepest descent.

.. math:: d_{GN} = -(B + \lambda \operatorname{diag} B)^{-1} z, \qquad
          B = \frac1B \sum_i S_i^T \nabla^2 g_i S_i + \nabla^2 r

Notation  z hypergradient (n,); S = -H^-1 J; B (n, n); s, y differences of theta and z between accepted points.
Pitfalls  a pair (s, y) whose product is within the noise of the values tells nothing of the curvature and is dropped.
References  D. Liu, J. Nocedal, On the limited memory BFGS method for large scale optimization, 1989; J. Barzilai,
          J. Borwein, Two-point step size gradient methods, 1988; J. Dennis, D. Gay, R. Welsch, An adaptive nonlinear
          least-squares algorithm, 1981; Y. Xie, R. Byrd, J. Nocedal, Analysis of the BFGS method with errors, 2020.
"""

from __future__ import annotations

import torch
from scipy.optimize import lsq_linear

__all__ = ["Pairs", "SecantPart", "damped_newton"]


class Pairs:
    """Recent pairs of differences, and the products with the inverse Hessian that they model.

    Parameters
    ----------
    memory : int
        Pairs kept.
    state : list or None
        From :meth:`state`; None (the default) starts empty.
    """

    def __init__(self, memory, state=None):
        self.memory = memory
        self.pairs = [tuple(pair) for pair in state or []]

    def state(self):
        """Return the pairs as plain lists of tensors."""
        return [list(pair) for pair in self.pairs]

    def update(self, s, y, noise):
        """Keep a pair if its curvature is above the noise; return whether it is.

        Parameters
        ----------
        s, y : torch.Tensor, shape (n,)
            Differences of theta and of z.
        noise : float
            What s^T y may be off by, in units of the value.
        """
        curvature = float(s @ y)
        if curvature <= 1e-10 * float(s.norm() * y.norm()) or curvature <= noise:
            return False
        self.pairs = [*self.pairs, (s, y)][-self.memory :]
        return True

    def apply(self, z, free):
        """Return the model of H^-1 z on the free components, None without pairs.

        Parameters
        ----------
        z : torch.Tensor, shape (n,)
            Hypergradient.
        free : torch.Tensor of bool, shape (n,)
            Components that may move.
        """
        keep = free.to(z.dtype)
        used = [(s * keep, y * keep) for s, y in self.pairs]
        used = [(s, y) for s, y in used if float(s @ y) > 1e-10 * float(s.norm() * y.norm())]
        if not used:
            return None
        v, back = z * keep, []
        for s, y in reversed(used):
            a = (s @ v) / (s @ y)
            v = v - a * y
            back.append(a)
        s, y = used[-1]
        v = v * (s @ y) / (y @ y)
        for (s, y), a in zip(used, reversed(back), strict=True):
            v = v + (a - (y @ v) / (s @ y)) * s
        return v * keep

    def barzilai_borwein(self):
        """Return the step length s^T s / s^T y of the last pair, None without one."""
        if not self.pairs:
            return None
        s, y = self.pairs[-1]
        return float((s @ s) / (s @ y))


class SecantPart:
    """The part of the Hessian that Gauss-Newton leaves out, learned from differences of gradients.

    Parameters
    ----------
    n : int
        Hyperparameters.
    matrix : torch.Tensor, shape (n, n), or None
        Start; None (the default) means zero.

    References
    ----------
    J. Dennis, D. Gay, R. Welsch, An adaptive nonlinear least-squares algorithm, ACM TOMS, 1981.
    """

    def __init__(self, n, matrix=None):
        self.matrix = torch.zeros(n, n, dtype=torch.float64) if matrix is None else matrix

    def update(self, s, y, gauss_newton, noise):
        """Learn from a step: y is the change of the hypergradient, `gauss_newton` belongs to the new point."""
        curvature = float(s @ y)
        if curvature <= max(noise, 1e-10 * float(s.norm() * y.norm())):
            return
        wanted = y - gauss_newton @ s
        A = self.matrix
        along = float(s @ (A @ s))
        # Sizing: what was learned far away must not outweigh what is seen now.
        if along != 0:
            A = A * min(1.0, abs(float(s @ wanted)) / abs(along))
        miss = wanted - A @ s
        outer = torch.outer(miss, y)
        A = A + (outer + outer.T) / curvature - float(miss @ s) * torch.outer(y, y) / curvature**2
        self.matrix = A


def damped_newton(matrix, z, free, damping, low=None, high=None):
    """Solve (B + damping diag B) d = -z on the free components, within bounds of d.

    Where the solution leaves its bounds, it is the minimiser within them of the model that the system belongs to.

    Parameters
    ----------
    matrix : torch.Tensor, shape (n, n)
        Symmetric.
    z : torch.Tensor, shape (n,)
        Hypergradient.
    free : torch.Tensor of bool, shape (n,)
        Components that may move.
    damping : float
        At least 0.
    low, high : torch.Tensor, shape (n,), or None
        Bounds of d, with 0 between them; None (the default) means none.

    Returns
    -------
    torch.Tensor, shape (n,), or None
        None where the damped matrix is not positive definite.
    """
    d = torch.zeros_like(z)
    if not bool(free.any()):
        return d
    factored = _factored(matrix[free][:, free], damping)
    if factored is None:
        return None
    R, scale = factored  # (B + damping diag B) = scale R^T R scale
    target = torch.linalg.solve_triangular(R.T, (-z[free] / scale)[:, None], upper=False)
    d[free] = torch.linalg.solve_triangular(R, target, upper=True)[:, 0] / scale
    if low is None or not bool(((d < low) | (d > high)).any()):
        return d
    # Its minimum within the box, which is not what clipping leaves: the other components answer.
    box = ((low[free] * scale).numpy(), (high[free] * scale).numpy())
    found = lsq_linear(R.numpy(), target[:, 0].numpy(), box, method="bvls", tol=1e-12)
    d[free] = torch.from_numpy(found.x) / scale
    return torch.minimum(torch.maximum(d, low), high)


def _factored(B, damping):
    """Return the Cholesky factor of the damped matrix in units in which its diagonal is 1, and these units."""
    diagonal = B.diagonal()
    if not bool((diagonal > 0).all()):
        return None
    scale = diagonal.sqrt()
    unit = B / scale[:, None] / scale + damping * torch.eye(len(B), dtype=B.dtype, device=B.device)
    R, failed = torch.linalg.cholesky_ex(unit, upper=True)
    return None if int(failed) else (R, scale)
