r"""A partial differential equation, or a system of them, as users state it.

.. math:: \sum_\alpha c_\alpha(x)\, \partial^\alpha u(x) + N(x, u, \nabla u) = f(x) \text{ in } \Omega, \qquad
          \text{conditions on the boundary.}

Everything is checked here, before any work; nothing is computed here.

Notation  An *index* is what a derivative of an unknown goes by inside the package: the multi-index alpha (d,) where
          there is one unknown, and (k, *alpha) for unknown k of a system.
"""

from __future__ import annotations

import dataclasses
import inspect
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.solvers.gp_pde.conditions import CONDITIONS, Initial, Periodic, named_faces, touches
from sciml.solvers.gp_pde.domain import Box, Region
from sciml.solvers.gp_pde.functions import PointFunction, to_numpy
from sciml.solvers.gp_pde.nonlinear import NonlinearTerm

__all__ = ["PDE", "Equation", "UnknownFunction"]


@dataclass(frozen=True)
class UnknownFunction:
    """A parameter that is a positive function of x, to be learned.

    Parameters
    ----------
    lower, upper : float
        Bounds of its values, positive.
    n_terms : int
        Terms of the expansion of its logarithm along each dimension, default 12.
    dims : sequence of int, optional
        Dimensions on which it depends; all when None.

    Raises
    ------
    InvalidInputError
        When the bounds are not positive and increasing.

    Examples
    --------
    >>> UnknownFunction(0.1, 10.0).n_terms
    12
    """

    lower: float
    upper: float
    n_terms: int = 12
    dims: Any = None

    def __post_init__(self):
        if not 0 < float(self.lower) < float(self.upper) < np.inf:
            raise InvalidInputError(
                f"lower and upper of an UnknownFunction must be positive and increasing; got ({self.lower}, "
                f"{self.upper}). Its logarithm is expanded: write -kappa in the operator for a negative coefficient."
            )
        if not isinstance(self.n_terms, numbers.Integral) or self.n_terms < 1:
            raise InvalidInputError(f"n_terms must be a positive integer; got {self.n_terms!r}.")


@dataclass(frozen=True)
class Equation:
    """One equation: its linear part by index, and its right side.

    Parameters
    ----------
    coefficients : dict
        Index to PointFunction.
    source : PointFunction
        Right side.
    """

    coefficients: dict
    source: PointFunction


@dataclass(frozen=True)
class PDE:
    r"""A partial differential equation with its conditions, linear or not; or a system of them.

    Parameters
    ----------
    domain : Box or Region
        Where the equation holds; d dimensions, time being one of them.
    operator : dict, or sequence of dict
        Multi-index of length d (an int when d = 1) to the coefficient of that derivative: a float, a callable of X
        (n, d), the name of a parameter (or ``"-name"``), or a callable of X and parameters, such as
        ``lambda X, kappa: kappa * X[:, 0]``. A system has one dict an equation, from the name of an unknown to such a
        dict.
    source : callable, float, or tuple (X_f, f_values)
        Right side f: a callable of X (n, d) that returns (n,), or samples at scattered points X_f (m, d). A system
        has a sequence of them, one an equation, or one number for all.
    conditions : sequence of Dirichlet, Neumann, Robin, Periodic, Initial
        Boundary and initial conditions. In a system each names its ``unknown``; without a name it holds for all.
    nonlinear : callable or tuple of two callables, optional
        ``N(X, u) -> (n,)``, added to the linear operator, or ``(N, dN)`` with its derivative in u; N alone is
        differentiated by torch. With a third argument N gets the gradient of u, (n, d), and dN returns a pair: the
        derivative in u, (n,), and in the gradient, (n, d). In a system of E equations in m unknowns u is (n, m), its
        gradient (n, m, d), N returns (n, E) and dN (n, E, m), with (n, E, m, d) for the gradient.
    parameters : dict, optional
        Name to ``(lower, upper)`` of an unknown number, or to an `UnknownFunction`; learned from `observations`.
    observations : tuple (X_o, u_o, sigma), optional
        Observed values of u at the points X_o (m, d), with their standard deviation, a float or (m,), in units of u;
        None or no third entry: it is estimated.
    unknowns : sequence of str, optional
        Names of the unknown functions of a system, m of them; None for a single unknown.

    Raises
    ------
    InvalidInputError
        When lengths disagree, the operator is empty, samples lie outside the domain, or conditions are missing.
    InvalidTypeError
        When source, coefficient or condition is not of a known kind.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial
    >>> pde = PDE(Box([(0, 1)]), {(2,): 1.0}, lambda X: -np.sin(X[:, 0]), [Dirichlet(lambda X: np.sin(X[:, 0]))])
    >>> pde.n_dims, pde.order
    (1, 2)

    Two unknowns, u' = v and v' = -u:

    >>> system = PDE(
    ...     Box([(0, 1)]),
    ...     [{"u": {1: 1.0}, "v": {0: -1.0}}, {"v": {1: 1.0}, "u": {0: 1.0}}],
    ...     conditions=[Initial(0.0, unknown="u"), Initial(1.0, unknown="v")],
    ...     unknowns=("u", "v"),
    ... )
    >>> system.n_unknowns, system.n_equations
    (2, 2)
    """

    domain: Any
    operator: Any
    source: Any = 0.0
    conditions: Sequence = ()
    nonlinear: Any = None
    parameters: Any = None
    observations: Any = None
    unknowns: Any = None
    _equations: tuple = field(init=False, repr=False, compare=False)
    _nonlinear: NonlinearTerm | None = field(init=False, repr=False, compare=False)
    _observations: tuple | None = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        put = object.__setattr__
        if not isinstance(self.domain, Box | Region):
            try:
                put(self, "domain", Box(self.domain))
            except (InvalidInputError, TypeError, ValueError) as error:
                raise InvalidTypeError(
                    f"domain must be a Box or a Region; got {type(self.domain).__name__}. Write Box([(0, 1)])."
                ) from error
        put(self, "unknowns", self._checked_unknowns())
        put(self, "parameters", self._checked_parameters())
        conditions = self._checked_conditions()
        put(self, "conditions", conditions)
        # Names of parameters are tried in the middle of their range; `bind` puts the numbers in.
        middle = {name: _middle(p) for name, p in self.parameters.items()}
        self._check_names(middle)
        operators, sources = self._per_equation()
        equations = []
        for e, (operator, source) in enumerate(zip(operators, sources, strict=True)):
            name = "source" if self.unknowns is None else f"source[{e}]"
            f = PointFunction(name, _bound(source, middle), self.n_dims)
            if f.is_sampled:
                self._check_samples(f.points)
            equations.append(Equation(self._checked_operator(operator, middle, e), f))
        put(self, "_equations", tuple(equations))
        if self.nonlinear is None:
            put(self, "_nonlinear", None)
        else:
            given = self.nonlinear if isinstance(self.nonlinear, tuple | list) else (self.nonlinear,)
            bound = tuple(_bound(part, middle) for part in given)
            term = NonlinearTerm(
                bound if len(bound) > 1 else bound[0],
                self.n_dims,
                self.n_unknowns,
                self.n_equations,
                self.unknowns is not None,
            )
            put(self, "_nonlinear", term)
        put(self, "_observations", self._checked_observations())
        for condition in conditions:
            self._check_condition(_bound_condition(condition, middle))
        self._check_enough()

    @property
    def n_dims(self) -> int:
        """Number of dimensions d."""
        return self.domain.n_dims

    @property
    def n_unknowns(self) -> int:
        """Number of unknown functions m."""
        return 1 if self.unknowns is None else len(self.unknowns)

    @property
    def n_equations(self) -> int:
        """Number of equations E."""
        return 1 if self.unknowns is None else len(self.operator)

    @property
    def is_linear(self) -> bool:
        """True without a nonlinear term."""
        return self._nonlinear is None

    @property
    def _coefficients(self) -> dict:
        return self._equations[0].coefficients

    @property
    def _source(self) -> PointFunction:
        return self._equations[0].source

    @property
    def _indices(self) -> list:
        """Index of every unknown itself."""
        zero = (0,) * self.n_dims
        return [zero] if self.unknowns is None else [(k, *zero) for k in range(self.n_unknowns)]

    @property
    def order(self) -> int:
        """Highest total order of a derivative."""
        return max((sum(index[-self.n_dims :]) for e in self._equations for index in e.coefficients), default=0)

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
        return max((index[-self.n_dims :][dim] for e in self._equations for index in e.coefficients), default=0)

    def coefficient_values(self, X: np.ndarray, equation: int = 0) -> dict:
        """Evaluate the coefficients of the operator.

        Parameters
        ----------
        X : numpy.ndarray, shape (n, d)
            Points.
        equation : int
            Number of the equation, the first by default.

        Returns
        -------
        dict
            Index to a float where the coefficient is constant, else to an array (n,).
        """
        coefficients = self._equations[equation].coefficients
        return {index: c.constant if c.constant is not None else c(X) for index, c in coefficients.items()}

    @property
    def is_constant(self) -> bool:
        """True when every coefficient of the operator is a number."""
        return all(c.constant is not None for e in self._equations for c in e.coefficients.values())

    def bind(self, values: Mapping) -> PDE:
        """Put numbers, or functions, in the place of the parameters.

        Parameters
        ----------
        values : mapping
            Name of every parameter to a float, or to a callable of X (n, d) that returns (n,).

        Returns
        -------
        PDE
            Without parameters; observations are kept.

        Raises
        ------
        InvalidInputError
            When a parameter is missing or unknown.

        Examples
        --------
        >>> from sciml.solvers.gp_pde import PDE, Dirichlet
        >>> seen = ([0.5], [1.1], 0.1)
        >>> pde = PDE([(0, 1)], {2: 1.0, 0: "k"}, 0.0, [Dirichlet(1.0)], parameters={"k": (1, 2)}, observations=seen)
        >>> pde.bind({"k": 1.5}).operator[0]
        1.5
        """
        if set(values) != set(self.parameters):
            raise InvalidInputError(
                f"values must name every parameter, {sorted(self.parameters)}, and nothing else; got {sorted(values)}."
            )
        operators, sources = self._per_equation()
        if self.unknowns is None:
            operator: Any = {alpha: _bound(c, values) for alpha, c in operators[0].items()}
            source: Any = _bound(sources[0], values)
        else:
            operator = [
                {name: {a: _bound(c, values) for a, c in terms.items()} for name, terms in row.items()}
                for row in operators
            ]
            source = [_bound(f, values) for f in sources]
        nonlinear = self.nonlinear
        if nonlinear is not None:
            nonlinear = (
                tuple(_bound(n, values) for n in nonlinear)
                if isinstance(nonlinear, tuple | list)
                else _bound(nonlinear, values)
            )
        return dataclasses.replace(
            self,
            operator=operator,
            source=source,
            conditions=tuple(_bound_condition(c, values) for c in self.conditions),
            nonlinear=nonlinear,
            parameters=None,
        )

    def _checked_unknowns(self):
        if self.unknowns is None:
            return None
        names = (self.unknowns,) if isinstance(self.unknowns, str) else tuple(self.unknowns)
        if not names or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
            raise InvalidInputError(f"unknowns must be different names; got {self.unknowns!r}.")
        return names

    def _checked_parameters(self):
        if self.parameters is None:
            return {}
        if not isinstance(self.parameters, Mapping):
            raise InvalidTypeError(
                f"parameters must be a dict of name to (lower, upper); got {type(self.parameters).__name__}."
            )
        out = {}
        for name, bounds in self.parameters.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise InvalidInputError(f"parameters must have names that Python can take; got {name!r}.")
            if not isinstance(bounds, UnknownFunction):
                pair = to_numpy(f"parameters[{name!r}]", bounds)
                if pair.shape != (2,) or not pair[0] < pair[1]:
                    raise InvalidInputError(
                        f"parameters[{name!r}] must be (lower, upper) with lower < upper; got {bounds!r}. Give bounds "
                        "within which the parameter is sought."
                    )
                bounds = (float(pair[0]), float(pair[1]))
            out[name] = bounds
        return out

    def _checked_conditions(self):
        one = isinstance(self.conditions, CONDITIONS)
        if not one and not isinstance(self.conditions, Sequence):
            raise InvalidTypeError(
                f"conditions must be a sequence of conditions; got {type(self.conditions).__name__}. Write "
                "conditions=[Dirichlet(g)]."
            )
        out = []
        for condition in (self.conditions,) if one else self.conditions:
            if not isinstance(condition, CONDITIONS):
                raise InvalidTypeError(
                    f"conditions must hold {', '.join(c.__name__ for c in CONDITIONS)}; got "
                    f"{type(condition).__name__}. Write conditions=[Dirichlet(g)]."
                )
            unknown = getattr(condition, "unknown", None)
            if unknown is not None and (self.unknowns is None or unknown not in self.unknowns):
                raise InvalidInputError(
                    f"unknown of {type(condition).__name__} must be one of {self.unknowns}; got {unknown!r}."
                )
            if self.unknowns is not None and unknown is None and not isinstance(condition, Periodic):
                out += [dataclasses.replace(condition, unknown=name) for name in self.unknowns]
            else:
                out.append(condition)
        return tuple(out)

    def _check_names(self, middle):
        """Every name in the operator is a parameter, and every parameter is used."""
        used = set()
        operators, sources = self._per_equation()
        terms = [operators[0]] if self.unknowns is None else [t for row in operators for t in row.values()]
        values = [c for t in terms if isinstance(t, Mapping) for c in t.values()] + list(sources)
        if self.nonlinear is not None:
            values += list(self.nonlinear) if isinstance(self.nonlinear, tuple | list) else [self.nonlinear]
        values += [getattr(c, name, None) for c in self.conditions for name in _CONDITION_DATA]
        for value in values:
            if isinstance(value, str):
                if middle and value.lstrip("-") not in middle:
                    raise InvalidInputError(
                        f"operator must hold numbers, callables or names of parameters {sorted(middle)}; got "
                        f"{value!r}. Add parameters={{{value.lstrip('-')!r}: (lower, upper)}}."
                    )
                used.add(value.lstrip("-"))
            elif callable(value):
                used.update(_extra_arguments(value, middle))
        if set(middle) - used:
            raise InvalidInputError(
                f"parameters must occur in the problem; {sorted(set(middle) - used)} do not. Write the name as a "
                "coefficient, or as an argument of a callable: lambda X, kappa: ... ."
            )

    def _per_equation(self):
        """Operators and sources, one an equation."""
        if self.unknowns is None:
            if not isinstance(self.operator, Mapping):
                raise InvalidTypeError(
                    f"operator must be a dict of multi-index to coefficient; got {type(self.operator).__name__}. "
                    f"Write {{(2, 0): 1.0, (0, 2): 1.0}} for the Laplacian in 2D, and unknowns=(...) for a system."
                )
            return [self.operator], [self.source]
        rows = self.operator
        if isinstance(rows, Mapping) or not isinstance(rows, Sequence) or not rows:
            raise InvalidTypeError(
                "operator must be a sequence of dicts for a system, one an equation, from the name of an unknown to a "
                f'dict; got {type(rows).__name__}. Write [{{"u": {{1: 1.0}}, "v": {{0: -1.0}}}}, ...].'
            )
        for row in rows:
            if not isinstance(row, Mapping) or not all(isinstance(terms, Mapping) for terms in row.values()):
                raise InvalidTypeError(f"operator must hold dicts of dicts for a system; got {row!r:.80}.")
            stray = [name for name in row if name not in self.unknowns]
            if stray:
                raise InvalidInputError(f"operator must name unknowns of {self.unknowns}; got {stray[0]!r}.")
        sources = self.source
        if not isinstance(sources, list | tuple):
            sources = [sources] * len(rows) if not callable(sources) else [sources]
        if len(sources) != len(rows):
            raise InvalidInputError(
                f"source must have one entry for each of the {len(rows)} equations; got {len(sources)}."
            )
        return list(rows), list(sources)

    def _checked_operator(self, operator, middle, e):
        if self.unknowns is None:
            out = self._checked_terms(operator, middle, "operator")
        else:
            out = {
                (k, *alpha): c
                for k, name in enumerate(self.unknowns)
                for alpha, c in self._checked_terms(operator.get(name, {}), middle, f"operator[{e}][{name!r}]").items()
            }
        if not out and self.nonlinear is None:
            raise InvalidInputError(
                "operator must have at least one coefficient that is not zero; got "
                f"{operator!r}. Give for example {{{(2,) + (0,) * (self.n_dims - 1)}: 1.0}}."
            )
        return out

    def _checked_terms(self, terms, middle, name):
        d, out = self.n_dims, {}
        for alpha, value in terms.items():
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
            c = PointFunction(f"{name}[{alpha!r}]", _bound(value, middle), d)
            if c.is_sampled:
                raise InvalidTypeError(
                    f"{name}[{alpha!r}] must be a number or a callable of X; got a pair. Interpolate it."
                )
            if c.constant != 0.0:
                out[tuple(int(k) for k in index)] = c
        return out

    def _checked_observations(self):
        if self.observations is None:  # a template: who learns its parameters asks for them
            return None
        if self.unknowns is not None:
            raise InvalidInputError("observations are not supported for systems; leave them out.")
        if not isinstance(self.observations, tuple | list) or len(self.observations) not in (2, 3):
            raise InvalidTypeError(
                f"observations must be a tuple (X_o, u_o, sigma); got {type(self.observations).__name__}. Pass None "
                "for a standard deviation that is not known."
            )
        g = PointFunction("observations", tuple(self.observations[:2]), self.n_dims)
        self._check_in_box("the points of observations", g.points)
        sigma = self.observations[2] if len(self.observations) == 3 else None
        if sigma is None:
            return g.points, g.values, None
        sigma = to_numpy("the standard deviation of observations", sigma)
        if sigma.shape not in ((), (len(g.points),)) or not (sigma > 0).all():
            raise InvalidInputError(
                f"the standard deviation of observations must be positive, a number or of shape ({len(g.points)},); "
                f"got shape {sigma.shape} with smallest value {sigma.min():g}."
            )
        return g.points, g.values, np.broadcast_to(sigma, (len(g.points),)).copy()

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
        if not any(needed.values()) or self._observations is not None or self.parameters:
            return
        if not self.conditions:
            raise InvalidInputError(
                "conditions must determine u; got none for an operator of order "
                f"{self.order}. Add for example Dirichlet(g)."
            )
        if not isinstance(self.domain, Box) or self.unknowns is not None:
            return  # what a system needs shows in the singular values
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
                    count[j] += touches(condition.where, self.domain, j, side)
        for j, order in needed.items():
            if count[j] < order:
                raise InvalidInputError(
                    f"conditions must determine u: the operator has order {order} in dimension {j}, but conditions "
                    f"hold there {count[j]} times. Add a condition on a face of dimension {j}, or "
                    f"Initial(u0, velocity)."
                )


_CONDITION_DATA = ("g", "a", "b", "u0", "velocity")


def _middle(bounds):
    """A value inside a range, for trying out what a parameter stands in."""
    if isinstance(bounds, UnknownFunction):
        return float(np.sqrt(bounds.lower * bounds.upper))
    low, high = bounds
    return float(np.sqrt(low * high)) if low > 0 else low + 0.5123 * (high - low)


def _extra_arguments(function, names):
    """Names of parameters among the arguments of a callable, in no order."""
    try:
        arguments = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return []
    return [name for name in arguments if name in names]


def _bound(value, values):
    """Put the values of parameters into a name or a callable; anything else is returned as it is."""
    if isinstance(value, str):
        name, sign = value.lstrip("-"), -1.0 if value.startswith("-") else 1.0
        if name not in values:
            return value
        number = values[name]
        if callable(number):
            return number if sign > 0 else lambda X: -number(X)
        return sign * float(number)
    names = _extra_arguments(value, values) if callable(value) else []
    if not names:
        return value

    def bound(*args):
        X = args[0]
        return value(*args, **{n: values[n](X) if callable(values[n]) else values[n] for n in names})

    taken = [p for n, p in inspect.signature(value).parameters.items() if n not in names]
    bound.__signature__ = inspect.Signature(taken)
    return bound


def _bound_condition(condition, values):
    """A condition with the values of parameters in its data."""
    data = {name: getattr(condition, name) for name in _CONDITION_DATA if hasattr(condition, name)}
    changed = {name: _bound(v, values) for name, v in data.items() if callable(v) or isinstance(v, str)}
    return dataclasses.replace(condition, **changed) if changed else condition
