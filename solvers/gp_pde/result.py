"""The answer of `solve_pde`: a function of points with its certificate, derivatives, uncertainty and spectrum."""

from __future__ import annotations

import dataclasses
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.random import generator
from sciml.results import Result, array, internal
from sciml.solvers.gp_pde.functions import to_numpy
from sciml.solvers.gp_pde.posterior import posterior_from_state, posterior_state
from sciml.validation import check_number

__all__ = ["PDESolution"]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PDESolution(Result):
    """A certified solution u of a partial differential equation; call it with points.

    Parameters
    ----------
    status : str
        "converged", "not_converged", "near_singular" or "alias_warning".
    error_estimate : float
        Estimate of the relative L2 error of u, dimensionless.
    report : dict
        Certificates, sizes, timings, what was chosen and why.
    coefficients : numpy.ndarray, shape (P,)
        Posterior mean of the features' coefficients, units of u.
    factor : float
        Scale of the posterior standard deviation, set so that its root-mean-square is the error estimate; 1 where noise
        makes the posterior a calibrated one.
    unknowns : list of str, optional
        Names of the unknowns of a system, m of them; values then have a last axis of length m, and ``sol["u"]`` is the
        solution for one of them.
    parameters : dict
        Estimates of the problem's parameters: name to a float, or to a callable of X for a function.
    parameters_std : dict
        Their posterior standard deviations, likewise.
    """

    coefficients: np.ndarray = array("feature", units="units of u", help="posterior mean of the coefficients")
    error_estimate: float = float("inf")
    factor: float = 0.0
    report: dict
    unknowns: Any = None
    parameters: dict = internal(default_factory=dict)
    parameters_std: dict = internal(default_factory=dict)
    posterior: Any = internal(default=None)
    region: Any = internal(default=None)

    def __repr__(self):
        return (
            f"<PDESolution {self.status} error_estimate={self.error_estimate:.1e} n_features={len(self.coefficients)} "
            f"solver={self.report.get('solver')}>"
        )

    @property
    def n_dims(self) -> int:
        """Number of dimensions d."""
        return self.posterior.basis.n_dims

    @property
    def n_unknowns(self) -> int:
        """Number of unknown functions m."""
        return 1 if self.unknowns is None else len(self.unknowns)

    def __getitem__(self, name):
        """The solution for one unknown of a system.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        PDESolution
            With the certificate of the whole system.
        """
        if self.unknowns is None or name not in self.unknowns:
            raise InvalidInputError(f"name must be one of the unknowns {self.unknowns}; got {name!r}.")
        part = self.posterior.of(self.unknowns.index(name))
        return dataclasses.replace(self, posterior=part, coefficients=part.theta.detach().cpu().numpy(), unknowns=None)

    def __call__(self, X):
        """Evaluate u.

        Parameters
        ----------
        X : array, shape (n, d)
            Points in the domain's box; shape (n,) is accepted when d = 1. NumPy, torch or xarray.

        Returns
        -------
        array, shape (n,)
            Values, of the same kind, dtype and device as `X`; torch keeps the derivative with respect to `X`. Of a
            system (n, m).

        Raises
        ------
        InvalidInputError
            When points are not finite, have the wrong number of columns, or lie outside the box.
        """
        return self.derivative(X, (0,) * self.n_dims)

    def derivative(self, X, order):
        """Evaluate a partial derivative of u.

        Parameters
        ----------
        X : array, shape (n, d)
            Points.
        order : int or tuple of int, length d
            Multi-index of the derivative.

        Returns
        -------
        array, shape (n,)
            Values, units of u / units of x to the order.
        """
        alpha = self._checked_order(order)
        points, leave = self._enter(X)
        return leave(self._stacked([self.posterior.apply(points, {index: 1.0}) for index in self._indices(alpha)]))

    def _indices(self, alpha):
        """Index of a derivative of every unknown."""
        return [alpha] if self.unknowns is None else [(k, *alpha) for k in range(self.n_unknowns)]

    def _stacked(self, values):
        """One array, with a last axis of unknowns for a system."""
        return values[0] if self.unknowns is None else torch.stack(values, dim=-1)

    def std(self, X, order=0):
        """Evaluate the posterior standard deviation of u, or of a derivative.

        Parameters
        ----------
        X : array, shape (n, d)
            Points.
        order : int or tuple of int
            Multi-index; 0 for u itself.

        Returns
        -------
        array, shape (n,)
            Standard deviations, units of u. Their root-mean-square over the domain is ``error_estimate`` times that of
            u: the equation has no noise of its own, so the scale comes from the certificate and the shape from the
            posterior.
        """
        points, leave = self._enter(X)
        alpha = self._checked_order(order)
        parts = [self.posterior.deviation(points, index) for index in self._indices(alpha)]
        return leave(self.factor * self._stacked(parts))

    def sample(self, X, n_samples=1, random_state=None):
        """Draw functions from the posterior, at points.

        Parameters
        ----------
        X : array, shape (n, d)
            Points.
        n_samples : int
            Number of draws.
        random_state : None, int or numpy.random.Generator
            Source of the numbers.

        Returns
        -------
        array, shape (n_samples, n)
            Draws, joint over the points.
        """
        n_samples = check_number("n_samples", n_samples, low=1, integer=True)
        points, leave = self._enter(X)
        rng, draws = generator(random_state), []
        state = rng.bit_generator.state
        for index in self._indices((0,) * self.n_dims):
            rng.bit_generator.state = state  # the unknowns of a system are drawn together
            mean = self.posterior.apply(points, {index: 1.0})
            draws.append(mean + self.factor * self.posterior.draw(points, index, n_samples, rng))
        return leave(self._stacked(draws))

    def spectrum(self):
        """Frequencies of the solution's carriers along each dimension.

        Returns
        -------
        list of dict, length d
            For each dimension the arrays ``omega`` (angular frequency, rad / unit; 0 is the carrier-free block),
            ``weight`` (root-mean-square size of that part of u, units of u) and ``bandwidth`` (of its envelope, rad /
            unit), by falling weight. Of a system a dict of such lists, by unknown.
        """
        if self.unknowns is not None:
            return {name: self[name].spectrum() for name in self.unknowns}
        return self.posterior.spectrum()

    def to_xarray(self, grid=None):
        """Mean and standard deviation on a grid.

        Parameters
        ----------
        grid : None, int, or sequence of arrays
            Coordinates of each dimension; an int asks for that many even ones; None for 257 (1D), 65 (2D) or 17.

        Returns
        -------
        xarray.Dataset
            Variables ``mean`` and ``std`` over the dimensions x0, x1, ... (of a system ``u`` and ``u_std`` for every
            unknown by its name); NaN outside a region. Attributes hold the
            status and the error estimate.
        """
        import xarray as xr

        basis, d = self.posterior.basis, self.n_dims
        if grid is None or isinstance(grid, numbers.Integral):
            n = grid if grid is not None else {1: 257, 2: 65}.get(d, 17)
            n = check_number("grid", n, low=1, integer=True)
            grid = [np.linspace(a, b, n) for a, b in zip(basis.lower, basis.upper, strict=True)]
        elif isinstance(grid, dict):
            grid = [grid[f"x{j}"] for j in range(d)]
        elif d == 1 and np.ndim(grid) == 1:
            grid = [grid]
        if isinstance(grid, str) or len(grid) != d:
            raise InvalidInputError(
                f"grid must hold {d} arrays of coordinates, one for each dimension; got {len(grid)}."
            )
        axes = [to_numpy("grid", g) for g in grid]
        X = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d)
        shape = tuple(len(g) for g in axes)
        names = [("mean", "std", "u", self)]
        if self.unknowns is not None:
            names = [(n, f"{n}_std", n, self[n]) for n in self.unknowns]
        outside = np.zeros(len(X), bool) if self.region is None else ~self.region.contains(X)
        dims = tuple(f"x{j}" for j in range(d))
        about = {
            "status": str(self.status),
            "error_estimate": float(self.error_estimate),
            "n_features": len(self.coefficients),
        }
        variables = {}
        for mean, std, u, part in names:
            for name, values, long_name in ((mean, part(X), u), (std, part.std(X), f"standard deviation of {u}")):
                values = np.where(outside, np.nan, values).reshape(shape)
                variables[name] = (dims, values, {"long_name": long_name, "units": f"units of {u}"})
        return xr.Dataset(
            variables,
            {name: (name, g, {"units": "units of x"}) for name, g in zip(dims, axes, strict=True)},
            about,
        )

    def _checked_order(self, order):
        alpha = (
            (order,) * self.n_dims
            if isinstance(order, numbers.Integral) and (self.n_dims == 1 or order == 0)
            else order
        )
        ok = isinstance(alpha, tuple | list) and len(alpha) == self.n_dims
        if not ok or not all(isinstance(k, numbers.Integral) and k >= 0 for k in alpha):
            raise InvalidInputError(
                f"order must be a multi-index of {self.n_dims} non-negative integers; got {order!r}. Write (2, 0) for "
                f"the second derivative in the first of two dimensions."
            )
        return tuple(int(k) for k in alpha)

    def _enter(self, X):
        (points,), leave = enter(X, names=("X",))
        given = points.dtype
        if points.is_complex():
            raise InvalidInputError("X must be real; got complex numbers. Pass its real part.")
        points = points.double()
        if points.ndim == 1 and self.n_dims == 1:
            points = points[:, None]
        if points.ndim != 2 or points.shape[1] != self.n_dims:
            raise InvalidInputError(
                f"X must have shape (n, {self.n_dims}), one row a point; got {tuple(points.shape)}. Stack the "
                f"coordinates as columns."
            )
        lower, upper = points.new_tensor(self.posterior.basis.lower), points.new_tensor(self.posterior.basis.upper)
        slack = 1e-9 * (upper - lower) if given == torch.float64 else 1e-5 * (upper - lower + lower.abs() + upper.abs())
        out = ((points < lower - slack) | (points > upper + slack)).any(dim=1)
        if bool(out.any()):
            at = int(out.nonzero()[0])
            raise InvalidInputError(
                f"X must lie in the box from {lower.tolist()} to {upper.tolist()}; point {at} is "
                f"{points[at].tolist()}. The solution means nothing outside: widen the domain."
            )
        home = points.device
        at_home = self.posterior.theta.device
        return points.to(at_home), lambda values: leave(values.to(home).to(given))

    def _state(self):
        state = posterior_state(self.posterior)
        if self.region is not None:  # a callable cannot be saved without pickle: which cells of a grid lie inside can
            state["inside"] = _inside_cells(self.region, self.posterior.basis)
        for name in ("parameters", "parameters_std"):
            learned = getattr(self, name)
            state[name] = {k: float(v) if isinstance(v, numbers.Real) else v.state() for k, v in learned.items()}
        return state

    @classmethod
    def _restore(cls, fields, state):
        state = dict(state)
        for name in ("parameters", "parameters_std"):
            fields[name] = {
                k: v if isinstance(v, numbers.Real) else _learned(v) for k, v in state.pop(name, {}).items()
            }
        inside = state.pop("inside", None)
        posterior = posterior_from_state(state)
        basis = posterior.basis
        region = _Cells(basis.lower, basis.upper, inside) if inside is not None else None
        return cls(**fields, posterior=posterior, region=region)


class _Cells:
    """A region known by which cells of a grid on its box lie inside."""

    def __init__(self, lower, upper, inside):
        self.lower, self.upper, self.inside = np.array(lower), np.array(upper), np.asarray(inside)

    def contains(self, X):
        """True for the points X (n, d) whose nearest cell lies inside."""
        at = (X - self.lower) / (self.upper - self.lower) * (np.array(self.inside.shape) - 1)
        return self.inside[tuple(np.clip(np.rint(at), 0, np.array(self.inside.shape) - 1).astype(int).T)]


def _inside_cells(region, basis):
    """Truth on a grid of about 1e5 nodes of the box; a loaded region is passed on as it is."""
    if isinstance(region, _Cells):
        return region.inside
    d = basis.n_dims
    axes = [np.linspace(a, b, {1: 2001, 2: 401}.get(d, 49)) for a, b in zip(basis.lower, basis.upper, strict=True)]
    X = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d)
    return region.contains(X).reshape([len(a) for a in axes])


def _learned(state):
    """A learned function of x, from what its ``state`` gave."""
    from sciml.solvers.gp_pde.inverse import LearnedFunction

    return LearnedFunction.from_state(state)
