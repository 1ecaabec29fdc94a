r"""Quantities that an initial-value problem conserves, and how far a solution lets them drift.

.. math:: \int u, \qquad \tfrac12 \int u^2, \qquad \tfrac12 \int u_t^2 + \tfrac12 \int u\, A u \quad (u_{tt} + A u = 0).

Which of them are conserved is read off the operator and the ends: nothing is assumed that integration by parts does not
give.  The drift costs no solve and needs no truth; an error that a conserved quantity shows is an error of u.

Notation  A (k) symbol of what the operator holds beside the time derivative; k wave vector; q(t) a quantity.
Pitfalls  The converse fails: a wave at the wrong place has the right energy.

References
----------
E. Hairer, C. Lubich, G. Wanner, Geometric numerical integration, 2006.
"""

from __future__ import annotations

import numpy as np
import torch

from sciml.solvers.gp_pde.conditions import Dirichlet, Initial, Neumann, Periodic
from sciml.solvers.gp_pde.features import gauss_legendre
from sciml.solvers.gp_pde.functions import PointFunction
from sciml.solvers.gp_pde.time_axis import time_dimension

__all__ = ["conserved", "drift"]

MOST_NODES = 40_000  # of the quadrature at one time


def conserved(pde):
    """Say which quantities a problem conserves.

    Parameters
    ----------
    pde : PDE
        An initial-value problem.

    Returns
    -------
    dict
        "mass", "norm" and "energy" to True or False.

    Examples
    --------
    >>> from sciml.solvers.gp_pde import PDE, Box, Initial, Periodic
    >>> heat = PDE(Box([(0, 1), (0, 1)]), {(0, 1): 1.0, (2, 0): -1.0}, 0.0, [Initial(1.0), Periodic(0)])
    >>> conserved(heat)
    {'mass': True, 'norm': False, 'energy': False}
    """
    none = {"mass": False, "norm": False, "energy": False}
    dim = time_dimension(pde)
    free = all(e.source.constant == 0.0 for e in pde._equations)
    if dim is None or not pde.is_linear or not pde.is_constant or not free or pde.n_equations != pde.n_unknowns:
        return none
    ends = [_ends(pde, j) for j in range(pde.n_dims) if j != dim]
    if None in ends:
        return none
    terms = [
        {(index[: -pde.n_dims], index[-pde.n_dims :]): c.constant for index, c in e.coefficients.items()}
        for e in pde._equations
    ]
    order = pde.axis_order(dim)
    moving = [(e, k, a, c) for e, row in enumerate(terms) for (k, a), c in row.items() if a[dim]]
    if any(sum(a) != a[dim] or a[dim] != order for _, _, a, _ in moving):  # mixed or lower derivatives in time
        return none
    still = [(e, k[0] if k else 0, a, c) for e, row in enumerate(terms) for (k, a), c in row.items() if not a[dim]]
    lead = np.zeros((pde.n_equations, pde.n_unknowns))
    for e, k, _, c in moving:
        lead[e, k[0] if k else 0] = c
    if order not in (1, 2) or np.count_nonzero(lead) != len(lead) or np.linalg.matrix_rank(lead) < len(lead):
        return none
    periodic = all(end == "periodic" for end in ends)
    still = [(int(np.flatnonzero(lead[e])[0]), k, a, c / lead[e].sum()) for e, k, a, c in still]
    if order == 2:
        even = all(n % 2 == 0 for _, _, a, _ in still for n in a)
        low = all(sum(a) <= 2 for _, _, a, _ in still)
        return none | {"energy": pde.unknowns is None and even and (periodic or low)}
    flat = periodic or all(end in ("periodic", "neumann") for end in ends)
    mass = all(sum(a) > 0 for _, _, a, _ in still) and (
        periodic or (flat and all(sum(a) == 2 and 2 in a for _, _, a, _ in still))
    )
    rng = np.random.default_rng(0)
    skew = periodic or all(sum(a) in (0, 2) and 1 not in a for _, _, a, _ in still)
    for k in rng.standard_normal((4, pde.n_dims)):
        M = np.zeros((pde.n_equations, pde.n_unknowns), complex)
        for e, unknown, a, c in still:
            M[e, unknown] += c * np.prod((1j * k) ** np.array(a))
        skew = skew and np.allclose(M, -M.conj().T, rtol=0, atol=1e-12 * (1 + np.abs(M).max()))
    return {"mass": mass and pde.unknowns is None, "norm": bool(skew and still), "energy": False}


def _ends(pde, j):
    """What holds at both ends of an axis: "periodic", "dirichlet", "neumann" (with zero data), or None."""
    kinds = []
    for condition in pde.conditions:
        if isinstance(condition, Periodic) and condition.dim % pde.n_dims == j:
            return "periodic"
        if isinstance(condition, Initial | Periodic) or condition.where is not None and callable(condition.where):
            continue
        g = PointFunction("g", condition.g, pde.n_dims)
        if g.is_sampled:
            continue
        for dim, _ in pde.faces_of(condition):
            if dim == j:
                kind = {Dirichlet: "dirichlet", Neumann: "neumann"}.get(type(condition))
                kinds.append(kind if g.constant == 0.0 else None)
    if len(kinds) != 2 * pde.n_unknowns or len(set(kinds)) != 1:
        return None
    return kinds[0]


def drift(pde, posterior, times):
    """Relative change of what a problem conserves, the largest over some times.

    Parameters
    ----------
    pde : PDE
        The problem.
    posterior : Posterior
        Its solution, over all of the times.
    times : array, shape (n,)
        Times at which to look; the first is the reference.

    Returns
    -------
    dict or None
        "mass" (relative to the integral of the absolute value), "norm" and "energy" to a float, or to None where the
        problem does not conserve it; None when it conserves nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.solvers.gp_pde import PDE, Box, Initial, Periodic, solve_pde
    >>> u = lambda X: np.sin(X[:, 0] - 5 * X[:, 1])
    >>> pde = PDE(Box([(0, 2 * np.pi), (0, 1)]), {(0, 1): 1.0, (1, 0): 5.0}, 0.0, [Initial(u), Periodic(0)])
    >>> out = drift(pde, solve_pde(pde).posterior, np.linspace(0, 1, 5))
    >>> out["norm"] < 1e-10, out["energy"]
    (True, None)
    """
    what = conserved(pde)
    dim, d = time_dimension(pde), pde.n_dims
    if not any(what.values()):
        return None
    others = [j for j in range(d) if j != dim]
    nodes, weights = [], []
    for j in others:
        a, b = pde.domain.bounds[j]
        n = int(1.2 * posterior.basis.max_frequency[j] * (b - a) / 2) + 24
        n = min(n, int(MOST_NODES ** (1 / len(others))))
        if any(isinstance(c, Periodic) and c.dim % d == j for c in pde.conditions):
            n = 2 * n
            nodes.append(a + (b - a) * np.arange(n) / n)
            weights.append(np.full(n, (b - a) / n))
        else:
            xi, w = gauss_legendre(n)
            nodes.append((a + b) / 2 + (b - a) / 2 * xi)
            weights.append((b - a) / 2 * w)
    grid = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1).reshape(-1, len(others))
    weight = weights[0]
    for w in weights[1:]:
        weight = np.multiply.outer(weight, w)
    weight = weight.reshape(-1)
    rows = []
    for t in times:
        X = np.zeros((len(grid), d))
        X[:, others], X[:, dim] = grid, t
        rows.append(_quantities(pde, posterior, torch.as_tensor(X, device=posterior.theta.device), weight, what, dim))
    out = {}
    for i, name in enumerate(("mass", "norm", "energy")):
        q = np.array([row[i] for row in rows])
        size = rows[0][3] if name == "mass" else abs(q[0])
        out[name] = float(np.max(np.abs(q - q[0])) / size) if what[name] and size > 0 else None
    return out


def _quantities(pde, posterior, X, weight, what, dim):
    """Mass, norm, energy and the integral of the absolute value at one time."""

    def value(index):
        return posterior.apply(X, {index: 1.0}).cpu().numpy()

    u = [value(index) for index in pde._indices]
    mass, norm = float(weight @ u[0]), float(weight @ sum(v**2 for v in u))
    energy = 0.0
    if what["energy"]:
        unit = tuple(int(j == dim) for j in range(pde.n_dims))
        lead = pde._coefficients[tuple(2 * n for n in unit)].constant
        energy = float(weight @ value(unit) ** 2)
        for alpha, c in pde._coefficients.items():
            if not alpha[dim]:  # by parts: the integral of u d^(2 b) u is (-1)^|b| that of (d^b u)^2
                half = tuple(n // 2 for n in alpha)
                energy += (-1) ** sum(half) * c.constant / lead * float(weight @ value(half) ** 2)
    return mass, norm, energy / 2, float(weight @ np.abs(u[0]))
