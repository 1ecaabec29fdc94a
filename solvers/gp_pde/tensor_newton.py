r"""Newton's method on products of axes, for nonlinear equations and variable coefficients on a box.

What is constant and separable in the operator is inverted by fast diagonalisation; the rest, variable parts and the
nonlinear term, acts pointwise on a product grid,

.. math:: L_0 u + G(x, u, \nabla u, \dots) = f, \qquad G = (L - L_0) u + N(x, u, \nabla u),

and Newton's equations are solved by GMRES with :math:`L_0^{-1}` as preconditioner: G is of lower order, or small beside
:math:`L_0`, so that some ten to thirty iterations do whatever the number of features.

Notation  theta (r_1, ..., r_d) coefficients; C lifting of the boundary data; theta = C + N W with W free; S = L_0^-1.
Cost      an iteration: the grid's transforms, 2 d prod(n) max(r), and one fast diagonalisation.
Pitfalls  Products of functions hold higher frequencies than the features: the grid has twice the nodes of an axis.

References
----------
D. Knoll, D. Keyes, Jacobian-free Newton-Krylov methods, 2004.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sciml.iterate import Step, run
from sciml.linalg.krylov import gmres
from sciml.solvers.gp_pde.collocation import symbol_size
from sciml.solvers.gp_pde.fast_diagonal import KroneckerSum, TensorSolution, mode
from sciml.solvers.gp_pde.gauss_newton import FLOOR, HALVINGS, MAX_STEPS, SETTLED, NewtonRun, fields_at

__all__ = ["solve_tensor_newton"]

INNER = 1e-11  # relative residual of Newton's equations


def solve_tensor_newton(pde, basis, axes, ends, start=None, device="cpu"):
    """Solve a nonlinear problem, or one of variable coefficients, on a product basis.

    Parameters
    ----------
    pde : PDE
        The problem, of one unknown on a Box.
    basis : ProductBasis
        Orthonormal features of each axis.
    axes, ends : lists
        From `separable_parts`: what is constant and separable of the operator, and the end conditions.
    start : callable or tuple (ProductBasis, torch.Tensor), optional
        An iterate to start from: ``start(X (n, d)) -> (n, 1)``, or an expansion in another basis. The equation
        linearised at zero when None.
    device : str or torch.device
        Where the products run.

    Returns
    -------
    TensorSolution or str
        A reason when the method does not apply.
    """
    tensor = KroneckerSum(pde, basis, axes, ends, device)
    if tensor.refused:
        return tensor.refused
    if tensor.cancellation < 1e-8:  # L_0 is singular, which L need not be: shift it, and G takes the shift back
        low = symbol_size(_kept(axes), np.pi / (pde.domain.upper - pde.domain.lower))
        shift = math.copysign(low, float(tensor.total.real.sum() if tensor.total.is_complex() else tensor.total.sum()))
        axes = [{**axes[0], 0: axes[0].get(0, 0.0) + shift}, *axes[1:]]
        tensor = KroneckerSum(pde, basis, axes, ends, device)
    problem = _Pointwise(pde, basis, axes, tensor, device)
    loop = run(
        _newton_steps(problem, start),
        name="tensor_newton",
        tol=SETTLED,
        max_iter=MAX_STEPS,
        on_failure="ignore",
        progress=False,
        dtype="float64",
    )
    theta, newton = loop.value
    if problem.stuck > (1e-8 if pde.is_linear else 1e-2) and (pde.is_linear or not newton.settled):
        return f"GMRES stopped at {problem.stuck:.0e}: the operator is too far from its constant, separable part"
    smallest = problem.smallest(theta)
    linear = float(tensor.total.abs().min())
    low = symbol_size({a: np.mean(c) for a, c in problem.terms.items()}, np.pi / (pde.domain.upper - pde.domain.lower))
    out = TensorSolution(theta, tensor.roots, tensor.eigenvalues, min(1.0, smallest / low))
    out.newton, out.gain, newton.smallest = newton, max(1.0, linear / max(smallest, 1e-300)), smallest
    return out


def _kept(axes):
    """Terms of a Kronecker sum: multi-index to a float."""
    kept: dict = {}
    for j, axis in enumerate(axes):
        for order, c in axis.items():
            alpha = tuple(order if i == j else 0 for i in range(len(axes)))
            kept[alpha] = kept.get(alpha, 0.0) + c
    return kept


class _Pointwise:
    """What acts point by point on the grid, and Newton's equations."""

    def __init__(self, pde, basis, axes, tensor, device):
        self.pde, self.basis, self.tensor, self.device = pde, basis, tensor, device
        d = basis.n_dims
        extra = (2.0 if d < 3 else 1.5) if not pde.is_linear else 1.3
        rules = [axis.quadrature(extra) for axis in basis.axes]
        self.nodes = nodes = [torch.as_tensor(x, device=device) for x, _ in rules]
        self.shape = tuple(len(x) for x in nodes)
        self.X = np.stack(np.meshgrid(*(x for x, _ in rules), indexing="ij"), axis=-1).reshape(-1, d)
        self.terms = pde.coefficient_values(self.X)
        self.rest = self._rest(axes)
        slopes = [tuple(int(i == j) for i in range(d)) for j in range(d)]
        steep = pde._nonlinear is not None and pde._nonlinear.takes_gradient
        self.zero = (0,) * d
        needed = {self.zero, *self.rest, *(slopes if steep else [])}
        self.features = [{k: basis.axes[j].evaluate(nodes[j], k) for k in {a[j] for a in needed}} for j in range(d)]
        self.weights = [
            self.features[j][0].T * torch.as_tensor(rules[j][1], device=device) for j in range(d)
        ]  # quadrature projections
        self.f = self.projected(pde._source(self.X))
        self.inner, self.stuck = 0, 0.0

    def _rest(self, axes):
        """Terms of the operator that the Kronecker sum leaves out."""
        kept, rest = _kept(axes), {}
        for alpha in {*self.terms, *kept}:
            difference = self.terms.get(alpha, 0.0) - kept.get(alpha, 0.0)
            if np.max(np.abs(difference)) > 1e-15 * np.max(np.abs(self.terms.get(alpha, 1.0))):
                rest[alpha] = torch.as_tensor(difference, dtype=torch.float64, device=self.device)
        return rest

    def on_grid(self, theta, alpha):
        """A derivative of u in the nodes, (n,)."""
        for j, k in enumerate(alpha):
            theta = mode(theta, self.features[j][k], j)
        return theta.reshape(-1)

    def values_of(self, start):
        """Values of an iterate in the nodes, (n,)."""
        if callable(start):
            return start(self.X)[:, 0]
        basis, theta = start
        theta = theta.reshape(basis.shape)
        for j, x in enumerate(self.nodes):
            theta = mode(theta, basis.axes[j].evaluate(x, 0), j)
        return theta.reshape(-1)

    def projected(self, values):
        """Coefficients of values in the nodes."""
        T = torch.as_tensor(values, dtype=torch.float64, device=self.device).expand(len(self.X)).reshape(self.shape)
        for j, weights in enumerate(self.weights):
            T = mode(T, weights, j)
        return T

    def fields(self, theta):
        """Values and gradients in the nodes, as N takes them."""
        return fields_at(self.pde, lambda alpha: self.on_grid(theta, alpha), self.X)

    def linear_rest(self, theta):
        """``(L - L_0) u`` in the nodes, zero where there is none."""
        return sum(
            (c * self.on_grid(theta, alpha) for alpha, c in self.rest.items()), torch.zeros(len(self.X)).double()
        )

    def residual(self, theta):
        """Free coefficients of L u + N(u) - f; inf where N overflows."""
        G = self.linear_rest(theta)
        if self.pde._nonlinear is not None:
            u, grad = self.fields(theta)
            G = G + torch.as_tensor(self.pde._nonlinear.values(self.X, u, grad)[:, 0].real, device=self.device)
        if not bool(torch.isfinite(G).all()):
            return torch.full_like(self.tensor.reduce(self.f), math.inf)
        return self.tensor.reduce(self.tensor.image(theta) + self.projected(G) - self.f)

    def slopes(self, u, grad):
        """N(v) in the nodes and the terms of G' there: index to a tensor (n,)."""
        terms = dict(self.rest)
        if self.pde._nonlinear is None:
            return torch.zeros(len(self.X), dtype=torch.float64, device=self.device), terms
        value, by_u, by_grad = self.pde._nonlinear.linearised(self.X, u, grad)
        d = self.basis.n_dims
        terms[self.zero] = terms.get(self.zero, 0.0) + torch.as_tensor(by_u[:, 0, 0], device=self.device)
        for j in range(d if by_grad is not None else 0):
            alpha = tuple(int(i == j) for i in range(d))
            terms[alpha] = terms.get(alpha, 0.0) + torch.as_tensor(by_grad[:, 0, 0, j], device=self.device)
        return torch.as_tensor(value[:, 0], device=self.device), terms

    def correction(self, terms, rhs, tol=INNER):
        """Solve ``reduce((L_0 + G') N W) = rhs`` for W by GMRES, L_0 as preconditioner."""
        shape = rhs.shape

        def matvec(w):
            theta = self.tensor.expand(w.reshape(shape))
            G = sum(c * self.on_grid(theta, alpha) for alpha, c in terms.items())
            return w + self.tensor.solve(self.tensor.reduce(self.projected(G))).reshape(-1)

        b = self.tensor.solve(rhs)
        if not terms:
            return b
        out = gmres(matvec, b.reshape(-1), tol=tol, max_iter=400, restart=80, on_failure="ignore", progress=False)
        self.inner += out.n_iter
        if tol == INNER:
            self.stuck = max(self.stuck, float(np.max(out.residual)))
        return out.value.reshape(shape)

    def smallest(self, theta):
        """Smallest size of an eigenvalue of the linearised operator with zero conditions, by inverse iteration."""
        u, grad = self.fields(theta) if self.pde._nonlinear is not None else (None, None)
        _, terms = self.slopes(u, grad)
        shape = self.tensor.reduce(self.f).shape
        rng = np.random.default_rng(0)
        v = self.tensor.solve(torch.as_tensor(rng.standard_normal(shape), device=self.device))
        growth = 0.0
        for _ in range(3):
            v = self.correction(terms, v / torch.linalg.norm(v), tol=1e-3)
            size = float(torch.linalg.norm(v))
            if not 0 < size < math.inf:  # no solution for this right side: the operator is singular
                return 0.0
            growth = max(growth, size)
        return 1 / growth if growth > 0 else math.inf


def _newton_steps(problem, start):
    """Yield a `Step` for every Newton step: value (theta, NewtonRun), criterion the relative step."""
    tensor, steps = problem.tensor, 0
    if start is None:  # the equation linearised at zero, with its boundary data
        zero = np.zeros((len(problem.X), 1)), np.zeros((len(problem.X), 1, problem.basis.n_dims))
        value, terms = problem.slopes(*zero)
        C = tensor.lifting
        lifted = sum((c * problem.on_grid(C, alpha) for alpha, c in terms.items()), torch.zeros_like(value))
        rhs = tensor.reduce(problem.f - tensor.image(C) - problem.projected(value + lifted))
        theta = C + tensor.expand(problem.correction(terms, rhs))
        steps = 1
        if problem.pde.is_linear:
            yield Step((theta, NewtonRun(theta, None, 1, 0.0)), 0.0)
            return
        yield Step((theta, NewtonRun(theta, None, steps, 1.0)), 1.0)
    else:
        theta = tensor.fitted(problem.projected(problem.values_of(start)))
    R = problem.residual(theta)
    while True:
        _, terms = problem.slopes(*problem.fields(theta))
        W = problem.correction(terms, -R)
        delta = tensor.expand(W)
        steps += 1
        size = float(torch.linalg.norm(delta)) / max(float(torch.linalg.norm(theta + delta)), 1e-300)
        before, length = float(torch.linalg.norm(R)), 1.0
        for _ in range(HALVINGS + 1):
            trial = problem.residual(theta + length * delta)
            if float(torch.linalg.norm(trial)) <= (1 - 1e-4 * length) * before:
                break
            length /= 2
        else:
            done = min(size, SETTLED) if size <= FLOOR else size
            yield Step((theta, NewtonRun(theta, None, steps, done)), done)
            return
        theta, R = theta + length * delta, trial
        yield Step((theta, NewtonRun(theta, None, steps, size)), size, {"length": length})
