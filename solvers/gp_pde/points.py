r"""Where the equation and its conditions are asked: collocation points, and conditions as rows of a linear system.

Interior points of a box follow a low-discrepancy sequence bent towards the faces (the Chebyshev measure), in which
Chebyshev features are well conditioned; inside a region they are uniform.

References
----------
H. Niederreiter, Random number generation and quasi-Monte Carlo methods, 1992.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.solvers.gp_pde.conditions import Dirichlet, Initial, Neumann, Periodic, apply_mask, named_faces
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.functions import PointFunction, to_numpy

__all__ = ["ConditionRows", "condition_rows", "interior_points", "low_discrepancy"]


def low_discrepancy(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Additive-recurrence points in the unit cube, shape (n, d), shifted at random.

    Examples
    --------
    >>> import numpy as np
    >>> low_discrepancy(4, 2, np.random.default_rng(0)).shape
    (4, 2)
    """
    g = 2.0
    for _ in range(60):  # the root of g^(d+1) = g + 1 gives the irrational steps g^-1, ..., g^-d
        g = (1 + g) ** (1 / (d + 1))
    steps = g ** -np.arange(1.0, d + 1)
    return (np.arange(1, n + 1)[:, None] * steps + rng.random(d)) % 1.0


def interior_points(domain, n: int, rng: np.random.Generator, *, uniform: bool = False) -> np.ndarray:
    """About `n` points inside the domain, shape (n, d).

    Parameters
    ----------
    domain : Box or Region
        The domain.
    n : int
        Number of points.
    rng : numpy.random.Generator
        Source of the random shift.
    uniform : bool
        True spreads them evenly in a box too; a region is always filled evenly.

    Raises
    ------
    InvalidInputError
        When fewer than one in 2,000 points of a region's box lie inside.
    """
    box = domain.box
    lower, upper = box.lower, box.upper
    if isinstance(domain, Box):
        t = low_discrepancy(n, box.n_dims, rng)
        t = t if uniform else 0.5 - 0.5 * np.cos(np.pi * t)
        return lower + (upper - lower) * t
    found: list[np.ndarray] = []
    tried, batch = 0, 2 * n + 64
    while sum(len(part) for part in found) < n:
        X = lower + (upper - lower) * low_discrepancy(batch, box.n_dims, rng)
        found.append(X[domain.contains(X)])
        tried += batch
        inside = sum(len(part) for part in found)
        if tried >= 2000 * (inside + 5):
            raise InvalidInputError(
                f"inside must hold for a fair part of the box; found {inside} of {tried} random points inside. "
                f"Check `inside`, or shrink the box around the region."
            )
        batch = min(int(1.2 * (n - inside) * tried / max(inside, 1)) + 64, 4_000_000)
    return np.concatenate(found)[:n]


@dataclass
class ConditionRows:
    """One condition as equations: the sum over alpha of coefficient times the derivative alpha of u equals `rhs`.

    Parameters
    ----------
    X : numpy.ndarray, shape (n, d)
        Points.
    terms : dict
        Index to coefficient, a float or an array (n,).
    rhs : numpy.ndarray, shape (n,)
        Right sides.
    minus : numpy.ndarray, shape (n, d), optional
        Points whose value is subtracted (periodic conditions).
    """

    X: np.ndarray
    terms: dict
    rhs: np.ndarray
    minus: np.ndarray | None = None


def face_points(box, dim, side, n, rng):
    """About `n` points on one face of a box, shape (n, d); a single one when d = 1."""
    d = box.n_dims
    lower, upper = box.lower, box.upper
    if d == 1:
        return np.array([[box.bounds[0][side]]])
    t = 0.5 - 0.5 * np.cos(np.pi * low_discrepancy(n, d - 1, rng))
    X = lower + (upper - lower) * np.insert(t, dim, 0.0, axis=1)
    X[:, dim] = box.bounds[dim][side]
    return X


def condition_rows(pde, n_face: int, rng: np.random.Generator) -> list[ConditionRows]:
    """Every condition of a problem as rows, with about `n_face` points on each face (or that many times 2 d on a
    region).

    Parameters
    ----------
    pde : PDE
        The problem.
    n_face : int
        Points on each face.
    rng : numpy.random.Generator
        Source of the random shifts.

    Returns
    -------
    list of ConditionRows
    """
    out = []
    for condition in pde.conditions:
        if isinstance(condition, Periodic):
            out += _periodic_rows(pde, condition, n_face, rng)
        elif isinstance(condition, Initial):
            out += _initial_rows(pde, condition, n_face, rng)
        else:
            out += _boundary_rows(pde, condition, n_face, rng)
    if pde.conditions and not any(len(rows.X) for rows in out):
        raise InvalidInputError(
            "conditions must hold somewhere; their `where` selects none of the boundary points. Check the masks."
        )
    return [rows for rows in out if len(rows.X)]


def _unit(dim, d, order=1):
    return tuple(order if j == dim else 0 for j in range(d))


def _periodic_rows(pde, condition, n, rng):
    d, dim = pde.n_dims, condition.dim % pde.n_dims
    X = face_points(pde.domain.box, dim, 0, n, rng)
    minus = X.copy()
    minus[:, dim] = pde.domain.box.bounds[dim][1]
    return [
        ConditionRows(X, {(*index[:-d], *_unit(dim, d, k)): 1.0}, np.zeros(len(X)), minus)
        for index in pde._indices
        for k in range(max(1, _order_of(pde, index, dim)))
    ]


def _order_of(pde, index, dim):
    """Highest order in one dimension in which an unknown occurs, also by its gradient in a nonlinear term."""
    d, who = pde.n_dims, index[: -pde.n_dims]
    orders = [i[-d:][dim] for e in pde._equations for i in e.coefficients if i[:-d] == who]
    steep = pde._nonlinear is not None and pde._nonlinear.takes_gradient
    return max([*orders, int(steep)], default=0)


def _prefix(pde, condition):
    """What an index of a condition's unknown begins with: nothing where there is one unknown."""
    return () if pde.unknowns is None else (pde.unknowns.index(condition.unknown),)


def _initial_rows(pde, condition, n, rng):
    d, dim = pde.n_dims, condition.dim % pde.n_dims
    X = face_points(pde.domain.box, dim, 0, 2 * n, rng)
    who = _prefix(pde, condition)
    rows = [ConditionRows(X, {(*who, *(0,) * d): 1.0}, PointFunction("u0", condition.u0, d)(X))]
    if condition.velocity is not None:
        rows.append(
            ConditionRows(X, {(*who, *_unit(dim, d)): 1.0}, PointFunction("velocity", condition.velocity, d)(X))
        )
    return rows


def _boundary_rows(pde, condition, n, rng):
    d, g = pde.n_dims, PointFunction("g", condition.g, pde.n_dims)
    where, who = condition.where, _prefix(pde, condition)
    faces = isinstance(pde.domain, Box)
    if g.is_sampled:
        groups = [(g.points, None, None)]
    elif where is not None and not callable(where) and named_faces(where, d) is None:
        X = to_numpy("where", where)
        groups = [(X[:, None] if X.ndim == 1 else X, None, None)]
    elif faces:
        groups = [(face_points(pde.domain, j, s, n, rng), j, s) for j, s in pde.faces_of(condition)]
    else:
        groups = [(pde.domain.boundary_points(2 * d * n, rng), None, None)]
    out = []
    for X, dim, side in groups:
        keep = apply_mask(where, X) if callable(where) else np.ones(len(X), bool)
        X, rhs = X[keep], (g.values[keep] if g.is_sampled else g(X[keep]))
        if len(X) == 0:
            continue
        if isinstance(condition, Dirichlet):
            out.append(ConditionRows(X, {(*who, *(0,) * d): 1.0}, rhs))
            continue
        if dim is None:
            normals = pde.domain.normals_at(X) if not faces else _box_normals(pde.domain, X)
        else:
            normals = np.zeros((len(X), d))
            normals[:, dim] = 1.0 if side else -1.0
        terms = {(*who, *_unit(j, d)): normals[:, j] for j in range(d) if np.any(normals[:, j])}
        if not isinstance(condition, Neumann):
            a, b = PointFunction("a", condition.a, d)(X), PointFunction("b", condition.b, d)(X)
            terms = {alpha: b * c for alpha, c in terms.items()} | {(*who, *(0,) * d): a}
        out.append(ConditionRows(X, terms, rhs))
    return out


def _box_normals(box, X):
    """Outward normals of the nearest faces."""
    gaps = np.stack([X - box.lower, box.upper - X], axis=2) / (box.upper - box.lower)[:, None]
    nearest = gaps.reshape(len(X), -1).argmin(axis=1)
    out = np.zeros_like(X)
    out[np.arange(len(X)), nearest // 2] = np.where(nearest % 2, 1.0, -1.0)
    return out
