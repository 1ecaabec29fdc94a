"""Where an equation holds: a box, or any region inside one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.solvers.gp_pde.functions import to_numpy

__all__ = ["Box", "Region"]


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
