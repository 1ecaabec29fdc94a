r"""A linear partial differential equation as users state it: domain, operator, source, conditions.

.. math:: \sum_\alpha c_\alpha(x)\, \partial^\alpha u(x) = f(x) \text{ in } \Omega, \qquad
          \text{conditions on the boundary.}

Everything is checked here, before any work; nothing is computed here.
"""

from __future__ import annotations

import inspect
import itertools
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.solvers.gp_pde.functions import PointFunction, to_numpy

__all__ = ["PDE", "Box", "Dirichlet", "Initial", "Neumann", "Periodic", "Region", "Robin"]

_SIDES = {0: 0, 1: 1, -1: 1, "lower": 0, "upper": 1, "min": 0, "max": 1, "start": 0, "end": 1, "left": 0, "right": 1}


@dataclass(frozen=True)
class Box:
    """A product of intervals.

    Parameters
    ----------
    bounds : sequence of (float, float), length d
        Lower and upper end in each dimension, in units of x.

    Raises
    ------
    InvalidInputError
        When an end is not finite or an interval has no length.

    Examples
    --------
    >>> Box([(0, 1), (-1, 1)]).n_dims
    2
    """

    bounds: Sequence

    def __post_init__(self):
        array = to_numpy("bounds", self.bounds)
        if array.ndim == 1 and array.shape == (2,):
            array = array[None, :]
        if array.ndim != 2 or array.shape[1] != 2 or len(array) == 0:
            raise InvalidInputError(
                f"bounds must be a sequence of (lower, upper), one for each dimension; got shape "
                f"{array.shape}. Write Box([(0, 1), (0, 2)]) for two dimensions."
            )
        for j, (low, high) in enumerate(array):
            if not high > low:
                raise InvalidInputError(
                    f"bounds must have lower < upper in every dimension; got ({low}, {high}) in dimension "
                    f"{j}. Swap the ends, or drop a dimension of no length."
                )
            if not high - low > 1e-10 * max(abs(low), abs(high)):
                raise InvalidInputError(
                    f"bounds must be wider than rounding; got ({low!r}, {high!r}) in dimension {j}. Shift "
                    f"the origin of x towards the domain."
                )
        object.__setattr__(self, "bounds", tuple((float(a), float(b)) for a, b in array))

    @property
    def n_dims(self) -> int:
        """Number of dimensions d."""
        return len(self.bounds)

    @property
    def lower(self) -> np.ndarray:
        """Lower corner, shape (d,)."""
        return np.array([a for a, _ in self.bounds])

    @property
    def upper(self) -> np.ndarray:
        """Upper corner, shape (d,)."""
        return np.array([b for _, b in self.bounds])

    @property
    def box(self) -> Box:
        """The box itself, so that a Box and a Region can be asked alike."""
        return self

    def contains(self, X: np.ndarray) -> np.ndarray:
        """Tell which points lie inside, within rounding.

        Parameters
        ----------
        X : numpy.ndarray, shape (n, d)
            Points.

        Returns
        -------
        numpy.ndarray of bool, shape (n,)
        """
        slack = 1e-9 * (self.upper - self.lower)
        return np.all((self.lower - slack <= X) & (self.upper + slack >= X), axis=1)


@dataclass(frozen=True)
class Region:
    """Any domain inside a box: a test for its points, and its boundary.

    Parameters
    ----------
    box : Box or sequence of (float, float)
        Bounding box.
    inside : callable
        ``inside(X (n, d)) -> (n,)`` bool.
    boundary : array (m, d) or callable
        Points on the boundary, or ``boundary(n)`` / ``boundary(n, rng)`` that returns about n of them, shape (m, d).
    normals : array (m, d) or callable, optional
        Outward normals of the boundary points, or ``normals(X)``; needed by Neumann and Robin conditions only.

    Raises
    ------
    InvalidTypeError
        When `inside` is not callable.
    InvalidInputError
        When boundary points are not finite, lie outside the box, or have the wrong shape.

    Examples
    --------
    >>> import numpy as np
    >>> t = np.linspace(0, 2 * np.pi, 200)
    >>> disc = Region([(-1, 1)] * 2, lambda X: np.hypot(X[:, 0], X[:, 1]) < 1, np.c_[np.cos(t), np.sin(t)])
    >>> disc.contains(np.array([[0.0, 0.0], [0.9, 0.9]])).tolist()
    [True, False]
    """

    box: Any
    inside: Callable
    boundary: Any
    normals: Any = None

    def __post_init__(self):
        if not isinstance(self.box, Box):
            object.__setattr__(self, "box", Box(self.box))
        if not callable(self.inside):
            raise InvalidTypeError(
                f"inside must be a callable of X (n, {self.n_dims}) that returns bool (n,); got "
                f"{type(self.inside).__name__}."
            )
        if not callable(self.boundary):
            object.__setattr__(self, "boundary", self._checked(self.boundary))
        if self.normals is not None and not callable(self.normals):
            normals = to_numpy("normals", self.normals)
            if callable(self.boundary) or normals.shape != self.boundary.shape:
                raise InvalidInputError(
                    f"normals must match the boundary points one by one; got shape {normals.shape}. Pass a "
                    f"callable of X (n, d) when boundary is a sampler."
                )
            object.__setattr__(self, "normals", normals)

    def _checked(self, points):
        points = to_numpy("boundary", points)
        if points.ndim != 2 or points.shape[1] != self.n_dims or len(points) == 0:
            raise InvalidInputError(
                f"boundary must be points of shape (m, {self.n_dims}) with m > 0; got {points.shape}. Stack "
                f"the coordinates as columns."
            )
        out = ~self.box.contains(points)
        if out.any():
            at = int(np.argmax(out))
            raise InvalidInputError(
                f"boundary must lie in the box; point {at} is {points[at].tolist()} and the box "
                f"{list(self.box.bounds)}. Widen the box."
            )
        return points

    @property
    def n_dims(self) -> int:
        """Number of dimensions d."""
        return self.box.n_dims

    def contains(self, X: np.ndarray) -> np.ndarray:
        """Tell which points lie inside.

        Parameters
        ----------
        X : numpy.ndarray, shape (n, d)
            Points.

        Returns
        -------
        numpy.ndarray of bool, shape (n,)
        """
        inside = np.asarray(self.inside(X.copy()))
        if inside.shape == (len(X), 1):
            inside = inside[:, 0]
        if inside.shape != (len(X),):
            raise InvalidInputError(
                f"inside must return shape ({len(X)},) for X of shape {X.shape}; got {inside.shape}. Return "
                f"one truth value for each row of X."
            )
        return inside.astype(bool)

    def boundary_points(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return the stored boundary points, or some from the sampler.

        Parameters
        ----------
        n : int
            About how many; stored points are returned as they are.
        rng : numpy.random.Generator
            Handed to a sampler of two arguments.

        Returns
        -------
        numpy.ndarray, shape (m, d)
        """
        if not callable(self.boundary):
            return self.boundary
        takes = [
            p
            for p in inspect.signature(self.boundary).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        return self._checked(self.boundary(n, rng) if len(takes) > 1 else self.boundary(n))

    def normals_at(self, X: np.ndarray) -> np.ndarray:
        """Return outward unit normals; stored ones are matched to the nearest point.

        Parameters
        ----------
        X : numpy.ndarray, shape (n, d)
            Points on the boundary.

        Returns
        -------
        numpy.ndarray, shape (n, d)
            Of length one.
        """
        if self.normals is None:
            raise InvalidInputError(
                "normals must be given for a Neumann or Robin condition on a Region; got None. Pass "
                "Region(..., normals=array_or_callable)."
            )
        if callable(self.normals):
            nu = to_numpy("normals", self.normals(X.copy()))
        else:
            from scipy.spatial import cKDTree

            nu = self.normals[cKDTree(self.boundary).query(X)[1]]
        if nu.shape != X.shape:
            raise InvalidInputError(f"normals must return shape {X.shape} for X of that shape; got {nu.shape}.")
        size = np.linalg.norm(nu, axis=1, keepdims=True)
        if not (size > 0).all():
            raise InvalidInputError("normals must not be zero vectors. Pass outward directions of any length.")
        return nu / size


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

    Examples
    --------
    >>> Dirichlet(0.0, where=[(0, "lower"), (0, "upper")]).where
    [(0, 'lower'), (0, 'upper')]
    """

    g: Any
    where: Any = None


@dataclass(frozen=True)
class Neumann:
    """Outward normal derivative on the boundary: du/dn = g.

    Parameters
    ----------
    g : callable, float, or tuple (points, values)
        Normal derivatives, in units of u / units of x.
    where : as for `Dirichlet`
        Part of the boundary.
    """

    g: Any
    where: Any = None


@dataclass(frozen=True)
class Robin:
    """A mixture of value and outward normal derivative: a u + b du/dn = g.

    Parameters
    ----------
    a, b : float or callable
        Coefficients of the value and of the normal derivative.
    g : callable, float, or tuple (points, values)
        Right side.
    where : as for `Dirichlet`
        Part of the boundary.
    """

    a: Any
    b: Any
    g: Any
    where: Any = None


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
    """

    u0: Any
    velocity: Any = None
    dim: int = -1


CONDITIONS = (Dirichlet, Neumann, Robin, Periodic, Initial)


@dataclass(frozen=True)
class PDE:
    r"""A linear partial differential equation with its conditions.

    Parameters
    ----------
    domain : Box or Region
        Where the equation holds; d dimensions, time being one of them.
    operator : dict
        Multi-index of length d (an int when d = 1) to the coefficient of that derivative: a float, or a callable of X
        (n, d).
    source : callable, float, or tuple (X_f, f_values)
        Right side f: a callable of X (n, d) that returns (n,), or samples at scattered points X_f (m, d).
    conditions : sequence of Dirichlet, Neumann, Robin, Periodic, Initial
        Boundary and initial conditions.

    Raises
    ------
    InvalidInputError
        When lengths disagree, the operator is empty, samples lie outside the domain, or conditions are missing.
    InvalidTypeError
        When source, coefficient or condition is not of a known kind.

    Examples
    --------
    >>> import numpy as np
    >>> pde = PDE(Box([(0, 1)]), {(2,): 1.0}, lambda X: -np.sin(X[:, 0]), [Dirichlet(lambda X: np.sin(X[:, 0]))])
    >>> pde.n_dims, pde.order
    (1, 2)
    """

    domain: Any
    operator: dict
    source: Any = 0.0
    conditions: Sequence = ()
    _coefficients: dict = field(init=False, repr=False, compare=False)
    _source: PointFunction = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if not isinstance(self.domain, Box | Region):
            try:
                object.__setattr__(self, "domain", Box(self.domain))
            except (InvalidInputError, TypeError, ValueError) as error:
                raise InvalidTypeError(
                    f"domain must be a Box or a Region; got {type(self.domain).__name__}. Write Box([(0, 1)])."
                ) from error
        object.__setattr__(self, "_coefficients", self._checked_operator())
        object.__setattr__(self, "_source", PointFunction("source", self.source, self.n_dims))
        if self._source.is_sampled:
            self._check_samples(self._source.points)
        one = isinstance(self.conditions, CONDITIONS)
        if not one and not isinstance(self.conditions, Sequence):
            raise InvalidTypeError(
                f"conditions must be a sequence of conditions; got {type(self.conditions).__name__}. Write "
                "conditions=[Dirichlet(g)]."
            )
        conditions = (self.conditions,) if one else tuple(self.conditions)
        for condition in conditions:
            if not isinstance(condition, CONDITIONS):
                raise InvalidTypeError(
                    f"conditions must hold {', '.join(c.__name__ for c in CONDITIONS)}; got "
                    f"{type(condition).__name__}. Write conditions=[Dirichlet(g)]."
                )
        object.__setattr__(self, "conditions", conditions)
        for condition in conditions:
            self._check_condition(condition)
        self._check_enough()

    @property
    def n_dims(self) -> int:
        """Number of dimensions d."""
        return self.domain.n_dims

    @property
    def order(self) -> int:
        """Highest total order of a derivative."""
        return max(sum(alpha) for alpha in self._coefficients)

    def axis_order(self, dim: int) -> int:
        """Return the highest order of a derivative in one dimension.

        Parameters
        ----------
        dim : int
            The dimension.

        Returns
        -------
        int
        """
        return max(alpha[dim] for alpha in self._coefficients)

    def coefficient_values(self, X: np.ndarray) -> dict:
        """Evaluate the coefficients of the operator.

        Parameters
        ----------
        X : numpy.ndarray, shape (n, d)
            Points.

        Returns
        -------
        dict
            Multi-index to a float where the coefficient is constant, else to an array (n,).
        """
        return {alpha: c.constant if c.constant is not None else c(X) for alpha, c in self._coefficients.items()}

    @property
    def is_constant(self) -> bool:
        """True when every coefficient of the operator is a number."""
        return all(c.constant is not None for c in self._coefficients.values())

    def _checked_operator(self):
        d = self.n_dims
        if not isinstance(self.operator, dict):
            raise InvalidTypeError(
                f"operator must be a dict of multi-index to coefficient; got {type(self.operator).__name__}. "
                f"Write {{(2, 0): 1.0, (0, 2): 1.0}} for the Laplacian in 2D."
            )
        out = {}
        for alpha, value in self.operator.items():
            index = (alpha,) if isinstance(alpha, numbers.Integral) else alpha
            if not isinstance(index, tuple) or not all(isinstance(k, numbers.Integral) and k >= 0 for k in index):
                raise InvalidInputError(
                    f"operator must have multi-indices of non-negative integers as keys; got {alpha!r}."
                )
            if len(index) != d:
                raise InvalidInputError(
                    f"operator must have multi-indices of length {d}, the domain's dimension; got {alpha!r} of "
                    f"length {len(index)}. Give one order of derivative for each dimension."
                )
            if sum(index) > 12:
                raise InvalidInputError(
                    f"operator must have derivatives of order 12 at most; got {alpha!r}. Write it as a system."
                )
            c = PointFunction(f"operator[{alpha!r}]", value, d)
            if c.is_sampled:
                raise InvalidTypeError(
                    f"operator[{alpha!r}] must be a number or a callable of X; got a pair. Interpolate it."
                )
            if c.constant != 0.0:
                out[tuple(int(k) for k in index)] = c
        if not out:
            raise InvalidInputError(
                "operator must have at least one coefficient that is not zero; got "
                f"{self.operator!r}. Give for example {{{(2,) + (0,) * (d - 1)}: 1.0}}."
            )
        return out

    def _check_samples(self, X):
        out = ~self.domain.contains(X) & ~self.domain.box.contains(X)
        if out.any():
            at = int(np.argmax(out))
            raise InvalidInputError(
                f"the points of source must lie in the domain; point {at} is {X[at].tolist()}, outside of "
                f"{list(self.domain.box.bounds)}. Remove it, or widen the domain."
            )
        if isinstance(self.domain, Region):
            stray = ~self.domain.contains(X)
            if stray.mean() > 0.5:
                raise InvalidInputError(
                    f"the points of source must lie in the domain; {int(stray.sum())} of {len(X)} are not inside. "
                    f"Check `inside`, or the points."
                )

    def _check_in_box(self, name, X):
        out = ~self.domain.box.contains(X)
        if out.any():
            at = int(np.argmax(out))
            raise InvalidInputError(
                f"{name} must lie in the box {list(self.domain.box.bounds)}; point {at} is {X[at].tolist()}. Remove it "
                "or widen the domain."
            )

    def _check_condition(self, condition):
        d = self.n_dims
        if isinstance(condition, Periodic | Initial):
            name = type(condition).__name__
            if not isinstance(self.domain, Box):
                raise InvalidInputError(f"{name} needs a Box as domain; got a Region. Use Dirichlet(g, where=points).")
            if not isinstance(condition.dim, numbers.Integral) or not -d <= condition.dim < d:
                raise InvalidInputError(f"{name}: dim must be an integer from 0 to {d - 1}; got {condition.dim!r}.")
            return
        g = PointFunction("g", condition.g, d)
        if g.is_sampled:
            self._check_in_box("the points of g", g.points)
        if condition.where is not None and not callable(condition.where):
            faces = named_faces(condition.where, d)
            if faces is None:
                X = to_numpy("where", condition.where)
                X = X[:, None] if X.ndim == 1 and d == 1 else X
                if X.ndim != 2 or X.shape[1] != d:
                    raise InvalidInputError(
                        f"where must be None, (dim, side), a list of those, a callable, or points (m, {d}); got "
                        f"{condition.where!r:.80}. Sides are 'lower' and 'upper'."
                    )
                self._check_in_box("where", X)
            elif not isinstance(self.domain, Box):
                raise InvalidInputError(
                    "where must be a callable or points for a Region; got faces. Faces belong to a Box."
                )

    def faces_of(self, condition) -> list[tuple[int, int]]:
        """Return the faces of a box on which a condition may hold, before its mask.

        Parameters
        ----------
        condition : Dirichlet, Neumann, Robin, Periodic or Initial
            One of `conditions`.

        Returns
        -------
        list of (int, int)
            Pairs of dimension and side, 0 for the lower and 1 for the upper.
        """
        d = self.n_dims
        if isinstance(condition, Initial):
            return [(condition.dim % d, 0)]
        if isinstance(condition, Periodic):
            return [(condition.dim % d, 0), (condition.dim % d, 1)]
        if condition.where is not None and not callable(condition.where):
            return named_faces(condition.where, d) or []
        taken = {c.dim % d for c in self.conditions if isinstance(c, Periodic | Initial)}
        free = [(j, s) for j in range(d) for s in (0, 1) if j not in taken]
        if callable(condition.where):  # a mask may ask for any face, also the end of time
            free = [(j, s) for j in range(d) for s in (0, 1)]
        return free

    def _check_enough(self):
        needed = {j: self.axis_order(j) for j in range(self.n_dims)}
        if not any(needed.values()):
            return
        if not self.conditions:
            raise InvalidInputError(
                "conditions must determine u; got none for an operator of order "
                f"{self.order}. Add for example Dirichlet(g)."
            )
        if not isinstance(self.domain, Box):
            return
        count = dict.fromkeys(needed, 0)
        for condition in self.conditions:
            if isinstance(condition, Periodic):
                count[condition.dim % self.n_dims] += needed[condition.dim % self.n_dims]
            elif isinstance(condition, Initial):
                count[condition.dim % self.n_dims] += 1 + (condition.velocity is not None)
            elif isinstance(condition.g, tuple) or (
                condition.where is not None
                and not callable(condition.where)
                and named_faces(condition.where, self.n_dims) is None
            ):
                return  # scattered points: how much they determine shows in the singular values
            else:
                for j, side in self.faces_of(condition):
                    count[j] += _touches(condition.where, self.domain, j, side)
        for j, order in needed.items():
            if count[j] < order:
                raise InvalidInputError(
                    f"conditions must determine u: the operator has order {order} in dimension {j}, but conditions "
                    f"hold there {count[j]} times. Add a condition on a face of dimension {j}, or "
                    f"Initial(u0, velocity)."
                )


def _touches(where, box, dim, side):
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
