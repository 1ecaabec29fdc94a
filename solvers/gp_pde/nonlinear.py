r"""The nonlinear part of an equation, :math:`N(x, u, \nabla u)`, and its derivatives.

Users give ``N`` alone, which torch differentiates, or ``(N, dN)``.  Everything is pointwise: the value at a point
depends on u and its gradient at that point alone.

Notation  n points; m unknowns; E equations; u (n, m), grad (n, m, d), N (n, E).
Pitfalls  A function written with NumPy cannot be traced by torch: it is differentiated by complex steps, which is exact
          for what is analytic and checked against differences.
"""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import torch

from sciml.exceptions import FallbackWarning, InvalidInputError, InvalidTypeError

__all__ = ["NonlinearTerm"]

STEP = 1e-30  # of the complex derivative: no cancellation, so it may be tiny
CHECKS = 3  # of a given derivative, one an iterate: the first is often zero, where many a wrong one is right
WRONG = 1e-4  # relative disagreement with differences beyond which a derivative is refused


def _names(function, skip=()):
    """Names of the positional arguments of a callable without those in `skip`, or None where it does not tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in skip]


class NonlinearTerm:
    """N with its derivatives, for arrays of points.

    Parameters
    ----------
    value : callable, or tuple (N, dN)
        ``N(X (n, d), u)`` or ``N(X, u, grad)``.  One unknown: u (n,), grad (n, d), N (n,); a system: u (n, m), grad
        (n, m, d), N (n, E).  ``dN`` takes the same arguments and returns the derivative in u: (n,), or (n, E, m); where
        N takes the gradient, a pair with the derivative in the gradient: (n, d), or (n, E, m, d).
    n_dims, n_unknowns, n_equations : int
        d, m and E.
    system : bool
        False: one unknown, whose axis is left out.
    """

    def __init__(self, value, n_dims, n_unknowns=1, n_equations=1, system=False):
        if isinstance(value, tuple | list):
            if len(value) != 2 or not all(callable(v) for v in value):
                raise InvalidTypeError(
                    "nonlinear must be a callable N(X, u), or a pair of callables (N, dN); got "
                    f"{[type(v).__name__ for v in value]}. Leave dN out to have N differentiated."
                )
            self._value, self._slope = value
        elif callable(value):
            self._value, self._slope = value, None
        else:
            raise InvalidTypeError(
                f"nonlinear must be a callable N(X, u), or a pair (N, dN); got {type(value).__name__}. Write "
                "nonlinear=lambda X, u: u**3."
            )
        names = _names(self._value)
        if names is not None and len(names) not in (2, 3):
            raise InvalidInputError(
                f"nonlinear must take (X, u) or (X, u, grad); got a function of ({', '.join(names)})."
            )
        self.takes_gradient = names is not None and len(names) == 3
        self.n_dims, self.n_unknowns, self.n_equations, self.system = n_dims, n_unknowns, n_equations, system
        self._way = "given" if self._slope is not None else None
        self._checks = CHECKS if self._slope is not None else 0

    def values(self, X, u, grad):
        """Evaluate N at X (n, d), u (n, m), grad (n, m, d), NumPy; returns (n, E), which may hold inf or NaN."""
        with np.errstate(all="ignore"):
            if self._way == "torch":
                with torch.no_grad():
                    return self._shaped(self._value(*self._arguments(*map(torch.as_tensor, (X, u, grad)))), len(X))
            try:
                return self._shaped(self._value(*self._arguments(X, u, grad)), len(X))
            except (TypeError, AttributeError):  # written for tensors
                self._way = self._way or "torch"
                with torch.no_grad():
                    out = self._value(*self._arguments(*map(torch.as_tensor, (X, u, grad))))
                return self._shaped(out, len(X))

    def linearised(self, X, u, grad):
        """Values and derivatives: (n, E), (n, E, m) and (n, E, m, d), the last None where N takes no gradient."""
        if self._way == "given":
            return self._given(X, u, grad)
        if self._way in (None, "torch"):
            try:
                with warnings.catch_warnings():  # what torch has to say of functions for numbers is said below
                    warnings.simplefilter("ignore", UserWarning)
                    out = self._traced(X, u, grad)
                self._way = "torch"
                return out
            except InvalidInputError:
                raise
            except Exception as error:  # the user's own function may raise anything with tensors
                if self._way == "torch":
                    raise
                self._way = "complex"
                try:
                    out = self._stepped(X, u, grad)
                except (TypeError, ValueError, AttributeError) as second:
                    raise InvalidInputError(
                        f"nonlinear must take arrays of points; with tensors it failed ({error}), with NumPy arrays "
                        f"too ({second}). Write it with operators and functions of torch or NumPy that take arrays."
                    ) from second
                self._compare(X, u, grad, out, f"nonlinear could not be differentiated ({error})")
                warnings.warn(
                    f"nonlinear could not be differentiated by torch ({error}); complex steps are used. Write it with "
                    "operators and torch functions, or pass (N, dN).",
                    FallbackWarning,
                    stacklevel=2,
                )
                return out
        return self._stepped(X, u, grad)

    def _arguments(self, X, u, grad):
        if not self.system:
            u, grad = u[:, 0], grad[:, 0]
        return (X, u, grad) if self.takes_gradient else (X, u)

    def _shaped(self, out, n):
        """Anything a user may return as (n, E) float64."""
        out = out.detach().cpu().numpy() if hasattr(out, "detach") else np.asarray(out)
        if out.dtype.kind not in "fiubc":
            raise InvalidInputError(f"nonlinear must return real numbers; got dtype {out.dtype}.")
        out, given = out if out.dtype.kind == "c" else out.astype(float), out.shape
        if out.ndim == 0:
            out = np.full((n, self.n_equations), out)
        if out.ndim == 1 and self.n_equations == 1:
            out = out[:, None]
        if out.shape != (n, self.n_equations):
            want = f"({n}, {self.n_equations})" if self.system else f"({n},)"
            raise InvalidInputError(f"nonlinear must return shape {want} for {n} points; got {given}.")
        return out

    def _given(self, X, u, grad):
        n, E, m, d = len(X), self.n_equations, self.n_unknowns, self.n_dims
        value = self.values(X, u, grad)
        with np.errstate(all="ignore"):
            slope = self._slope(*self._arguments(X, u, grad))
        if self.takes_gradient:
            if not isinstance(slope, tuple | list) or len(slope) != 2:
                raise InvalidInputError(
                    "the derivative of nonlinear must return a pair (derivative in u, derivative in grad) where N "
                    f"takes the gradient; got {type(slope).__name__}."
                )
            by_u, by_grad = (np.asarray(s.detach() if hasattr(s, "detach") else s, float) for s in slope)
            want = (n, E, m, d) if self.system else (n, d)
            by_grad = self._slope_of_shape(by_grad, want, " in grad").reshape(n, E, m, d)
        else:
            by_u = np.asarray(slope.detach() if hasattr(slope, "detach") else slope, float)
            by_grad = None
        by_u = self._slope_of_shape(by_u, (n, E, m) if self.system else (n,), "").reshape(n, E, m)
        out = value, by_u, by_grad
        if self._checks:
            self._checks -= 1
            self._compare(X, u, grad, out, "the derivative given with nonlinear is not that of N")
        return out

    @staticmethod
    def _slope_of_shape(slope, shape, name):
        try:
            return np.broadcast_to(slope, shape).copy()
        except ValueError as error:
            raise InvalidInputError(
                f"the derivative of nonlinear{name} must return shape {shape} for {shape[0]} points; got {slope.shape}."
            ) from error

    def _traced(self, X, u, grad):
        with torch.enable_grad():  # the caller may have switched gradients off
            return self._differentiated(*(torch.tensor(a) for a in (X, u, grad)))

    def _differentiated(self, X, u, grad):
        u.requires_grad_(True)
        if self.takes_gradient:
            grad.requires_grad_(True)
        value = self._value(*self._arguments(X, u, grad))
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"it returned {type(value).__name__}, not a tensor")
        self._shaped(value, len(X))
        shaped = value[:, None] if value.ndim == 1 and self.n_equations == 1 else value
        if shaped.ndim == 0:
            shaped = shaped.expand(len(X), self.n_equations)
        leaves = (u, grad) if self.takes_gradient else (u,)
        by_u, by_grad = [], []
        for e in range(self.n_equations):
            if not shaped.requires_grad:
                parts = [None] * len(leaves)
            else:
                parts = torch.autograd.grad(shaped[:, e].sum(), leaves, retain_graph=True, allow_unused=True)
            parts = [torch.zeros_like(leaf) if p is None else p for p, leaf in zip(parts, leaves, strict=True)]
            by_u.append(parts[0])
            by_grad.append(parts[-1])
        slopes = torch.stack(by_grad, dim=1).numpy() if self.takes_gradient else None
        return shaped.detach().numpy(), torch.stack(by_u, dim=1).numpy(), slopes

    def _stepped(self, X, u, grad):
        """Complex steps, one argument after the other."""
        n, E, m, d = len(X), self.n_equations, self.n_unknowns, self.n_dims
        by_u, by_grad = np.zeros((n, E, m)), np.zeros((n, E, m, d))
        with np.errstate(all="ignore"):
            for k in range(m):
                z = u.astype(complex)
                z[:, k] += 1j * STEP
                by_u[:, :, k] = self._shaped(self._value(*self._arguments(X, z, grad)), n).imag / STEP
                for j in range(d if self.takes_gradient else 0):
                    z = grad.astype(complex)
                    z[:, k, j] += 1j * STEP
                    by_grad[:, :, k, j] = self._shaped(self._value(*self._arguments(X, u, z)), n).imag / STEP
        return self.values(X, u, grad), by_u, by_grad if self.takes_gradient else None

    def _compare(self, X, u, grad, out, what):
        """Compare derivatives with central differences along one direction, where everything is finite."""
        rng = np.random.default_rng(0)
        du = (1 + np.abs(u)) * rng.standard_normal(u.shape)
        dg = (1 + np.abs(grad)) * rng.standard_normal(grad.shape) * self.takes_gradient
        exact = np.einsum("nem,nm->ne", out[1], du)
        if out[2] is not None:
            exact = exact + np.einsum("nemd,nmd->ne", out[2], dg)
        h = 1e-5
        ahead, behind = self.values(X, u + h * du, grad + h * dg), self.values(X, u - h * du, grad - h * dg)
        with np.errstate(all="ignore"):  # N may overflow
            rough = (ahead - behind) / (2 * h)
            # Where the slope vanishes, as that of u^3 does at zero, differences leave h^2 of what a long step changes.
            long = np.nan_to_num(np.abs(self.values(X, u + du, grad + dg) - out[0]), posinf=0.0)
            size = np.abs(exact) + np.abs(rough) + 1e-10 * (np.abs(ahead) + np.abs(behind)) / h + h * long
            off = np.abs(exact - rough) / np.where(size > 0, size, 1.0)
        off = off[np.isfinite(off)]
        if len(off) and np.quantile(off, 0.9) > WRONG:  # a few points may lie beside a kink
            raise InvalidInputError(
                f"{what}: it differs from central differences by {np.quantile(off, 0.9):.0e} of their size. Mend it, "
                "or leave it out to have N differentiated."
            )
