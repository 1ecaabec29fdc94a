"""Conditions on the boundary and at the start of time, and the faces of a box that they name."""

from __future__ import annotations

import itertools
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciml.exceptions import InvalidInputError

__all__ = ["CONDITIONS", "Dirichlet", "Initial", "Neumann", "Periodic", "Robin", "apply_mask", "named_faces", "touches"]

_SIDES = {0: 0, 1: 1, -1: 1, "lower": 0, "upper": 1, "min": 0, "max": 1, "start": 0, "end": 1, "left": 0, "right": 1}


@dataclass(frozen=True)
class Dirichlet:
    """Values on the boundary: u = g.

    Parameters
    ----------
    g : callable, float, or tuple (points, values)
        Boundary values; scattered ones bring their own points.
    where : None, (dim, side), list of those, callable, or array (m, d)
        None: the whole boundary that no Periodic or Initial condition takes.  ``(0, "lower")``: one face of a box;
        sides are "lower" or "upper".  A callable of X (n, d) gives True where the condition holds.  An array holds the
        points.
    unknown : str, optional
        Name of the unknown of a system; None in a single equation, or for all unknowns.

    Examples
    --------
    >>> Dirichlet(0.0, where=[(0, "lower"), (0, "upper")]).where
    [(0, 'lower'), (0, 'upper')]
    """

    g: Any
    where: Any = None
    unknown: Any = None


@dataclass(frozen=True)
class Neumann:
    """Outward normal derivative on the boundary: du/dn = g.

    Parameters
    ----------
    g : callable, float, or tuple (points, values)
        Normal derivatives, in units of u / units of x.
    where, unknown : as for `Dirichlet`
        Part of the boundary, and the unknown of a system.
    """

    g: Any
    where: Any = None
    unknown: Any = None


@dataclass(frozen=True)
class Robin:
    """A mixture of value and outward normal derivative: a u + b du/dn = g.

    Parameters
    ----------
    a, b : float or callable
        Coefficients of the value and of the normal derivative.
    g : callable, float, or tuple (points, values)
        Right side.
    where, unknown : as for `Dirichlet`
        Part of the boundary, and the unknown of a system.
    """

    a: Any
    b: Any
    g: Any
    where: Any = None
    unknown: Any = None


@dataclass(frozen=True)
class Periodic:
    """u and its derivatives agree at the two ends of one dimension of a box.

    Parameters
    ----------
    dim : int
        The dimension.
    """

    dim: int


@dataclass(frozen=True)
class Initial:
    """Values at the lower end of the time dimension, and the velocity for equations of second order in time.

    Parameters
    ----------
    u0 : callable or float
        Initial values, a function of X (n, d) whose time column holds the initial time.
    velocity : callable or float, optional
        Initial time derivative.
    dim : int
        The dimension of time; the last by default.
    unknown : str, optional
        Name of the unknown of a system; None in a single equation, or for all unknowns.
    """

    u0: Any
    velocity: Any = None
    dim: int = -1
    unknown: Any = None


CONDITIONS = (Dirichlet, Neumann, Robin, Periodic, Initial)


def touches(where, box, dim, side):
    """1 when a mask is true somewhere on a face."""
    if not callable(where):
        return 1
    grid = [np.linspace(a, b, 33 if box.n_dims < 3 else 9) for a, b in box.bounds]
    grid[dim] = np.array([box.bounds[dim][side]])
    X = np.array(list(itertools.product(*grid)))
    return int(apply_mask(where, X).any())


def apply_mask(where, X):
    """Evaluate a mask callable at X (n, d); returns bool (n,)."""
    mask = np.asarray(where(X.copy()))
    if mask.shape != (len(X),):
        raise InvalidInputError(
            f"where must return shape ({len(X)},) for X of shape {X.shape}; got {mask.shape}. Return one truth "
            f"value for each row of X."
        )
    return mask.astype(bool)


def named_faces(where, n_dims):
    """Faces ``(dim, 0 or 1)`` that `where` names, or None when it does not name faces."""
    one = isinstance(where, tuple) and len(where) == 2 and isinstance(where[0], numbers.Integral)
    items = [where] if one else where
    if not isinstance(items, list | tuple) or not items:
        return None
    out = []
    for item in items:
        if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], numbers.Integral)):
            return None
        dim, side = item
        if isinstance(side, float) or side not in _SIDES:
            return None if isinstance(side, float) else _bad_side(side)
        if not -n_dims <= dim < n_dims:
            raise InvalidInputError(f"where must name a dimension from 0 to {n_dims - 1}; got {dim}.")
        out.append((int(dim) % n_dims, _SIDES[side]))
    return out


def _bad_side(side):
    raise InvalidInputError(f"where must name a side 'lower' or 'upper'; got {side!r}. Write where=(0, 'lower').")
