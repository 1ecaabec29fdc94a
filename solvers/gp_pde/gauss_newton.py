r"""Gauss-Newton for nonlinear equations in a basis: a sequence of least-squares problems.

At an iterate v the equation is linearised,

.. math:: L u + N'(v)\, u = f - N(v) + N'(v)\, v,

and solved with its conditions for the next u itself, not for a correction, so that no rounding gathers.  A step that
does not lower the residual is halved (Armijo), and where halving fails a Levenberg term shortens it.

Notation  theta (P,) coefficients; J rows of the linearised equation and the conditions, each divided by its norm;
          r residual in the same scale; step = size of the last change of u, relative to u, both in the nodes.
Cost      one factorisation of (n, P) a step; the rows of the linear part and of u are evaluated once.
Pitfalls  Residuals of two steps can only be compared in one scale: that of the rows of the linearisation in hand.
          The residual of an unresolved u is not small at the best coefficients: the iteration ends where steps do.

References
----------
Y. Chen, B. Hosseini, H. Owhadi, A. Stuart, Solving and learning nonlinear PDEs with Gaussian processes, 2021, arXiv
2103.12959 (Gauss-Newton on representers; here on coefficients of a basis).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.iterate import Step, run
from sciml.solvers.gp_pde.collocation import condition_block, operator_rows, scaled

__all__ = ["NewtonRun", "Nodes", "fields_at", "gauss_newton", "linear_terms"]

SETTLED = 1e-7  # relative step after which the next one would be rounding, convergence being quadratic
FLOOR = 1e-5  # a step below that no longer lowers the residual ends at its floor: rounding, or an unresolved u
HALVINGS = 10
FREE_FEATURES = 800  # beyond, the function that is free at zero is not sought: it costs a singular value decomposition
MAX_STEPS = 30
CONTINUATION = (0.1, 0.25, 0.5, 0.75, 1.0)  # parts of the nonlinear term that are added one after the other


def fields_at(pde, apply, X):
    """Values (n, m) and gradients (n, m, d) of the unknowns at X (n, d), NumPy.

    ``apply(index)`` gives the derivative `index` there, a tensor (n,).  Gradients are zero where N does not take them.
    """
    d = pde.n_dims
    u = np.stack([apply(index).cpu().numpy() for index in pde._indices], axis=1)
    grad = np.zeros((*u.shape, d))
    if pde._nonlinear.takes_gradient:
        for k, index in enumerate(pde._indices):
            for j in range(d):
                grad[:, k, j] = apply(_slope(index, j, d)).cpu().numpy()
    return u, grad


def _slope(index, j, d):
    """Index of the first derivative along j of what `index` stands for."""
    return (*index[:-d], *(int(i == j) for i in range(d)))


def linear_terms(pde, by_u, by_grad, equation):
    """What N'(v) adds to the linear part of one equation: index to an array (n,)."""
    d, out = pde.n_dims, {}
    for k, index in enumerate(pde._indices):
        out[index] = by_u[:, equation, k]
        for j in range(d if by_grad is not None else 0):
            out[_slope(index, j, d)] = by_grad[:, equation, k, j]
    return out


@dataclass
class NewtonRun:
    """How an iteration ended.

    Parameters
    ----------
    theta : torch.Tensor, shape (P,)
        Coefficients.
    system : System
        The last linearisation, whose posterior is that of u.
    steps : int
        Linearisations that were solved.
    step : float
        Relative size of the last change of u.
    note : str or None
        What else was needed: a Levenberg term, or continuation.
    smallest : float or None
        Smallest singular value of the linearised operator, in its units.
    total : int
        Linearisations so far, on this basis and those before.
    """

    theta: torch.Tensor
    system: object
    steps: int
    step: float
    note: str | None = None
    smallest: float | None = None
    total: int = 0

    @property
    def settled(self):
        """True when the last step was that of a converged iteration."""
        return self.step <= SETTLED


class Nodes:
    """Rows of the linear part, of the unknowns and of their gradients at the collocation points.

    Parameters
    ----------
    pde : PDE
        The problem.
    basis : JointBasis, ProductBasis or SystemBasis
        Features.
    points : list of numpy.ndarray, shape (n_e, d)
        Collocation points of each equation, often one and the same array.
    sources : list of numpy.ndarray, shape (n_e,)
        Right sides there.
    rows : list of ConditionRows
        Conditions.
    device : str or torch.device
        Where the rows are.
    """

    def __init__(self, pde, basis, points, sources, rows, device="cpu"):
        self.pde, self.basis, self.points, self.sources, self.device = pde, basis, points, sources, device
        self.linear = [operator_rows(basis, X, pde.coefficient_values(X, e), device) for e, X in enumerate(points)]
        self.edge, self.edge_size, self.edge_rhs = condition_block(basis, rows, device)
        indices = list(pde._indices)
        if pde._nonlinear.takes_gradient:
            indices += [_slope(i, j, pde.n_dims) for i in pde._indices for j in range(pde.n_dims)]
        self._features = {}
        for X in {id(X): X for X in points}.values():
            at = torch.as_tensor(X, dtype=torch.float64, device=device)
            self._features[id(X)] = {index: basis.evaluate(at, index) for index in indices}

    def fields(self, X, theta):
        """Values and gradients of the unknowns at collocation points."""
        return fields_at(self.pde, lambda index: self._features[id(X)][index] @ theta, X)

    def system(self, start, part=1.0):
        """The linearised system about an iterate, ``start(X) -> (u, grad)``, with `part` of the nonlinear term."""
        blocks, right = [], []
        for e, X in enumerate(self.points):
            u, grad = start(X)
            value, by_u, by_grad = self.pde._nonlinear.linearised(X, u, grad)
            bad = ~np.isfinite(value[:, e]) | ~np.isfinite(by_u[:, e]).all(axis=1)
            if bad.any():
                at = int(np.argmax(bad))
                raise InvalidInputError(
                    f"nonlinear must be finite at the iterate; got {value[at, e]} at the point "
                    f"{np.array2string(X[at], precision=6)} where u is {u[at].tolist()}. Pass another start."
                )
            block, rhs = self.linear[e].clone(), self.sources[e] - part * value[:, e]
            for index, c in linear_terms(self.pde, by_u, by_grad, e).items():
                c = part * torch.as_tensor(c, dtype=torch.float64, device=self.device)
                block.addcmul_(self._features[id(X)][index], c[:, None])
            rhs = rhs + part * np.einsum("nm,nm->n", by_u[:, e], u)
            if by_grad is not None:
                rhs = rhs + part * np.einsum("nmd,nmd->n", by_grad[:, e], grad)
            blocks.append(block)
            right.append(rhs)
        n = sum(len(b) for b in blocks)
        size = torch.cat([*[torch.linalg.norm(b, dim=1) for b in blocks], self.edge_size])
        return scaled(torch.cat([*blocks, self.edge]), np.concatenate([*right, self.edge_rhs]), size, n)

    def residual(self, theta, part=1.0):
        """Residual of the equations and conditions at coefficients, unscaled (n,); inf where N overflows."""
        out = []
        for e, X in enumerate(self.points):
            u, grad = self.fields(X, theta)
            value = part * self.pde._nonlinear.values(X, u, grad)[:, e].real - self.sources[e]
            out.append(self.linear[e] @ theta + torch.as_tensor(value, device=self.device))
        out.append(self.edge @ theta - torch.as_tensor(self.edge_rhs, device=self.device))
        return torch.nan_to_num(torch.cat(out), nan=math.inf, posinf=math.inf, neginf=math.inf)

    def fit(self, start):
        """Coefficients of a function, ``start(X) -> (n, m)``, by least squares at the collocation points."""
        blocks, right = [], []
        for X in {id(X): X for X in self.points}.values():
            values = start(X)
            for k, index in enumerate(self.pde._indices):
                blocks.append(self._features[id(X)][index])
                right.append(values[:, k])
        A = torch.cat(blocks)
        system = scaled(A, np.concatenate(right), torch.ones_like(A[:, 0]), len(A))
        posterior, unit = system.solve()
        return posterior.mean * unit


def gauss_newton(nodes, theta=None, start=None, max_steps=MAX_STEPS):
    """Solve a nonlinear system by Gauss-Newton, with other ways to begin as the last resort.

    Parameters
    ----------
    nodes : Nodes
        Rows at the collocation points.
    theta : torch.Tensor, shape (P,), optional
        Coefficients to start from; zero when None.
    start : callable, optional
        ``start(X) -> (u, grad)``: an iterate that is known in the nodes only, such as a solution in another basis;
        `theta` is not used then.
    max_steps : int
        Linearisations at most.

    Returns
    -------
    NewtonRun
    """
    out = _iterate(nodes, theta, start, 1.0, max_steps)
    if out.settled or theta is not None or start is not None:
        return out
    free = _along_free_function(nodes, out, max_steps)
    if free is not None and free.settled:
        return free
    steps, path = out.steps, None
    for part in CONTINUATION:
        attempt = _iterate(nodes, path, None, part, max_steps)
        steps += attempt.steps
        if attempt.step > 1e-3:
            return out
        path = attempt.theta
    if attempt.step < out.step:
        return NewtonRun(attempt.theta, attempt.system, steps, attempt.step, "continuation in the nonlinear term")
    return out


def _along_free_function(nodes, out, max_steps):
    """Start again along the function that the equation linearised at zero leaves free, where there is one.

    At zero its amplitude does not enter the linear problem, so that Gauss-Newton stands still; the residual along it
    does tell (Lyapunov and Schmidt).
    """
    zero = torch.zeros(nodes.basis.n_features, dtype=torch.float64, device=nodes.device)
    if len(zero) > FREE_FEATURES:
        return None
    system = nodes.system(lambda X: nodes.fields(X, zero))
    columns = torch.linalg.norm(system.A, dim=0)
    columns = torch.where(columns > 0, columns, torch.ones_like(columns))
    _, sigma, Vt = torch.linalg.svd(system.A / columns, full_matrices=False)
    if float(sigma[-1]) > 1e-6 * float(sigma[-2]):
        return None
    v = Vt[-1] / columns
    v = v / float(_values(nodes, v).abs().max())
    posterior, unit = system.solve()
    base = posterior.mean * unit
    base = base - v * (_values(nodes, base).flatten() @ _values(nodes, v).flatten()) / _values(nodes, v).square().sum()
    tried = [base + sign * s * v for s in np.logspace(-4, 3, 57) for sign in (1.0, -1.0)]
    best = min(tried, key=lambda theta: float(torch.linalg.norm(nodes.residual(theta) / system.size)))
    again = _iterate(nodes, best, None, 1.0, max_steps)
    return NewtonRun(
        again.theta,
        again.system,
        out.steps + again.steps,
        again.step,
        "a start along the function that is free at zero",
    )


def _iterate(nodes, theta, start, part, max_steps):
    loop = run(
        gauss_newton_steps(nodes, theta, start, part),
        name="gauss_newton",
        tol=SETTLED,
        max_iter=max_steps,
        on_failure="ignore",
        progress=False,
        dtype="float64",
    )
    return loop.value


def gauss_newton_steps(nodes, theta=None, start=None, part=1.0):
    """Yield a `Step` for every linearisation: value a `NewtonRun`, criterion its relative step.  See `gauss_newton`."""
    steps, note, poor = 0, None, 0
    if theta is None and start is None:
        theta = torch.zeros(nodes.basis.n_features, dtype=torch.float64, device=nodes.device)
    while True:
        at = theta
        system = nodes.system(start or (lambda X, at=at: nodes.fields(X, at)), part)
        posterior, unit = system.solve()
        new = posterior.mean * unit
        steps += 1
        if start is not None:  # nothing to compare with but values
            change = _relative_to(nodes, new, start)
            start, accepted, length = None, True, 1.0
        else:
            accepted, length, candidate, levenberg = _descend(nodes, system, theta, new, part)
            change = _change(nodes, candidate, theta)
            note = "a Levenberg term" if levenberg else note
            new = candidate
        if not accepted:  # the floor of the residual, or a dead end
            full = _change(nodes, posterior.mean * unit, theta)
            full = min(full, SETTLED) if full <= FLOOR else full
            yield Step(NewtonRun(theta, system, steps, full, note), full)
            return
        theta = new
        size = change / length if length < 1 else change  # a shortened step says nothing of convergence
        yield Step(NewtonRun(theta, system, steps, size, note), size, {"length": length})
        poor = poor + 1 if length < 0.1 else 0
        if poor > 6:
            return


def _descend(nodes, system, theta, new, part):
    """Shorten a step until the residual falls: (accepted, length, coefficients, whether by a Levenberg term)."""

    def merit(at):
        r = nodes.residual(at, part) / system.size
        return float(torch.linalg.norm(r))

    before = merit(theta)
    if not math.isfinite(before):
        return True, 1.0, new, False
    for k in range(HALVINGS + 1):
        length = 0.5**k
        candidate = theta + length * (new - theta) if k else new
        if merit(candidate) <= (1 - 1e-4 * length) * before:
            return True, length, candidate, False
    if _change(nodes, new, theta) <= FLOOR:
        return False, 1.0, theta, False
    r = nodes.residual(theta, part) / system.size
    columns = torch.linalg.norm(system.A, dim=0)
    A = system.A / torch.where(columns > 0, columns, torch.ones_like(columns))
    for damping in (1e-6, 1e-4, 1e-2, 1.0, 100.0):
        rows = math.sqrt(damping) * torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
        delta = torch.linalg.lstsq(torch.cat([A, rows]), torch.cat([-r, r.new_zeros(A.shape[1])])[:, None]).solution
        candidate = theta + delta[:, 0] / torch.where(columns > 0, columns, torch.ones_like(columns))
        if merit(candidate) <= (1 - 1e-4) * before:
            return True, 0.5, candidate, True
    return False, 1.0, theta, False


def _values(nodes, theta):
    X = nodes.points[0]
    return torch.stack([nodes._features[id(X)][index] @ theta for index in nodes.pde._indices])


def _change(nodes, new, old):
    """Relative change of the unknowns in the nodes."""
    a, b = _values(nodes, new), _values(nodes, old)
    return float(torch.linalg.norm(a - b)) / max(float(torch.linalg.norm(a)), 1e-300)


def _relative_to(nodes, theta, start):
    X = nodes.points[0]
    u = torch.as_tensor(start(X)[0].T, device=nodes.device)
    a = _values(nodes, theta)
    return float(torch.linalg.norm(a - u)) / max(float(torch.linalg.norm(a)), 1e-300)
