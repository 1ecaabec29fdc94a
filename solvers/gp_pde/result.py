"""The answer of `solve_pde`: a function of points with its certificate, derivatives, uncertainty and spectrum."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.random import generator
from sciml.results import Result, array, internal
from sciml.solvers.gp_pde.features import ProductBasis
from sciml.solvers.gp_pde.functions import to_numpy
from sciml.solvers.gp_pde.posterior import LeastSquaresPosterior, TensorPosterior, basis_from_state, basis_state
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
        Scale of the posterior standard deviation, set so that its root-mean-square is the error estimate.
    """

    coefficients: np.ndarray = array("feature", units="units of u", help="posterior mean of the coefficients")
    error_estimate: float = float("inf")
    factor: float = 0.0
    report: dict
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

    def __call__(self, X):
        """Evaluate u.

        Parameters
        ----------
        X : array, shape (n, d)
            Points in the domain's box; shape (n,) is accepted when d = 1. NumPy, torch or xarray.

        Returns
        -------
        array, shape (n,)
            Values, of the same kind, dtype and device as `X`; torch keeps the derivative with respect to `X`.

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
        return leave(self.posterior.apply(points, {alpha: 1.0}))

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
        return leave(self.factor * self.posterior.deviation(points, self._checked_order(order)))

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
        alpha = (0,) * self.n_dims
        mean = self.posterior.apply(points, {alpha: 1.0})
        return leave(mean + self.factor * self.posterior.draw(points, alpha, n_samples, generator(random_state)))

    def spectrum(self):
        """Frequencies of the solution's carriers along each dimension.

        Returns
        -------
        list of dict, length d
            For each dimension the arrays ``omega`` (angular frequency, rad / unit; 0 is the carrier-free block),
            ``weight``
            (root-mean-square size of that part of u, units of u) and ``bandwidth`` (of its envelope, rad / unit), by
            falling weight.
        """
        basis = self.posterior.basis
        if isinstance(basis, ProductBasis):
            return [_axis_spectrum(basis, self.posterior.theta, j) for j in range(self.n_dims)]
        return _joint_spectrum(basis, self.posterior.theta)

    def to_xarray(self, grid=None):
        """Mean and standard deviation on a grid.

        Parameters
        ----------
        grid : None, int, or sequence of arrays
            Coordinates of each dimension; an int asks for that many even ones; None for 257 (1D), 65 (2D) or 17.

        Returns
        -------
        xarray.Dataset
            Variables ``mean`` and ``std`` over the dimensions x0, x1, ...; NaN outside a region. Attributes hold the
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
        mean, std = self(X), self.std(X)
        if self.region is not None:
            outside = ~self.region.contains(X)
            mean, std = np.where(outside, np.nan, mean), np.where(outside, np.nan, std)
        dims = tuple(f"x{j}" for j in range(d))
        about = {
            "status": str(self.status),
            "error_estimate": float(self.error_estimate),
            "n_features": len(self.coefficients),
        }
        return xr.Dataset(
            {
                "mean": (dims, mean.reshape(shape), {"long_name": "u", "units": "units of u"}),
                "std": (dims, std.reshape(shape), {"long_name": "standard deviation of u", "units": "units of u"}),
            },
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
        p = self.posterior
        state = {"basis": basis_state(p.basis), "theta": p.theta}
        if isinstance(p, TensorPosterior):
            for j, (root, lam) in enumerate(zip(p.roots, p.eigenvalues, strict=True)):
                state[f"root_{j}"], state[f"lam_{j}"] = root, lam
        else:
            state["root"] = p.root
        if self.region is not None:  # a callable cannot be saved without pickle: which cells of a grid lie inside can
            state["inside"] = _inside_cells(self.region, p.basis)
        return state

    @classmethod
    def _restore(cls, fields, state):
        basis = basis_from_state(state["basis"])
        region = _Cells(basis.lower, basis.upper, state["inside"]) if "inside" in state else None
        if "root" in state:
            posterior = LeastSquaresPosterior(basis, state["theta"], state["root"])
        else:
            d = basis.n_dims
            posterior = TensorPosterior(
                basis,
                state["theta"].reshape(basis.shape),
                [state[f"root_{j}"] for j in range(d)],
                [state[f"lam_{j}"] for j in range(d)],
            )
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


def _sorted(omega, weight, bandwidth):
    order = np.argsort(-np.asarray(weight), kind="stable")
    return {
        "omega": np.asarray(omega)[order],
        "weight": np.asarray(weight)[order],
        "bandwidth": np.asarray(bandwidth)[order],
    }


def _blocks(sizes, base):
    """Slices of block 0 and of each carrier's pair of blocks along one axis."""
    yield slice(0, base)
    at = base
    for m in sizes:
        yield slice(at, at + 2 * m)
        at += 2 * m


def _axis_spectrum(basis, theta, j):
    """Sizes of the blocks of one axis of a product basis, by their Gram matrices."""
    axis = basis.axes[j]
    nodes, weights = axis.quadrature()
    raw = axis._evaluate_raw(torch.as_tensor(nodes), 0).numpy()
    T = np.moveaxis(theta.detach().cpu().numpy().reshape(basis.shape), j, 0).reshape(basis.shape[j], -1)
    C = axis._transform @ T  # coefficients of the raw features, (P_1, others)
    volume = float(np.prod(np.array(basis.upper) - np.array(basis.lower)))
    half = (axis.upper - axis.lower) / 2
    if axis.periodic:
        base = 2 * np.pi / (axis.upper - axis.lower)
        k = np.r_[0, np.tile(np.arange(1, axis.n_base), 2)]
        energy = (C**2).sum(axis=1) * (weights @ raw**2) / volume
        power = np.bincount(k, energy)
        return _sorted(base * np.arange(len(power)), np.sqrt(power), np.zeros(len(power)))
    omega, size, width = [0.0, *axis.omega], [], []
    for q, block in enumerate(_blocks(axis.n_envelope, axis.n_base)):
        values = raw[:, block] @ C[block]
        size.append(np.sqrt(max(0.0, float((weights @ values**2).sum())) / volume))
        k = np.arange(axis.n_base) if q == 0 else np.tile(np.arange(axis.n_envelope[q - 1]), 2)
        power = (C[block] ** 2).sum(axis=1)
        width.append(np.sqrt((k**2 @ power) / power.sum()) / half if power.sum() > 0 else 0.0)
    return _sorted(omega, size, width)


def _joint_spectrum(basis, theta):
    """Sizes of the blocks of a joint basis, on points of the box."""
    rng = np.random.default_rng(0)
    lower, upper = np.array(basis.lower), np.array(basis.upper)
    X = torch.as_tensor(lower + (upper - lower) * rng.random((800, basis.n_dims)), device=theta.device)
    Phi = basis.evaluate(X, (0,) * basis.n_dims)
    sizes = [len(s) for s in basis._sets[1:]]
    blocks = list(_blocks(sizes, len(basis._sets[0])))
    out = []
    for j in range(basis.n_dims):
        half = (upper[j] - lower[j]) / 2
        omega, size, width = [0.0, *np.abs(np.reshape(basis.omega, (-1, basis.n_dims))[:, j])], [], []
        for q, block in enumerate(blocks):
            c = theta[block]
            size.append(float((Phi[:, block] @ c).square().mean().sqrt()))
            k = np.tile(basis._sets[q][:, j], 1 if q == 0 else 2)
            power = c.detach().cpu().numpy() ** 2
            width.append(float(np.sqrt((k**2 @ power) / power.sum()) / half) if power.sum() > 0 else 0.0)
        out.append(_sorted(omega, size, width))
    return out
