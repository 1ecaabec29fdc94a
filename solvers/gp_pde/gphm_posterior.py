r"""The interpolant of grid values by a Gaussian process, anywhere in the box, and its conditional deviation.

.. math:: u(x) = \sum_i \theta_i \prod_j k_j(x_j - x_{i_j}), \qquad \theta = (C_1 \otimes \dots \otimes C_d)^{-1} U,
          \qquad \mathrm{var}\, u(x) = \prod_j k_j(0) - \prod_j k_j(x_j)^T C_j^{-1} k_j(x_j).

Notation  theta (M_1, ..., M_d) coefficients; L_j Cholesky factor of C_j; k_j(x) (M_j,) covariances with the nodes.
Cost      n sum M_j Q evaluations of the kernel at n points, then n M products.
Pitfalls  The deviation knows the distance to the nodes and not the error of the values there: it is scaled by the
          certificate. Its derivative of order n needs 2 n of the kernel, so at most two for Matern-5/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.random import normal
from sciml.solvers.gp_pde.gphm_kernel import ENVELOPES, bandwidth, mixture
from sciml.solvers.gp_pde.gphm_toeplitz import factor
from sciml.solvers.gp_pde.posterior import Posterior, register

__all__ = ["GridBasis", "GridPosterior", "Interpolant"]

CHUNK = {"cpu": 250_000, "cuda": 20_000_000}  # kernel components at once: a core's cache, a card's memory


@dataclass(frozen=True)
class GridBasis:
    """Translates of a kernel to the nodes of an even grid: what a `PDESolution` asks of a basis.

    Parameters
    ----------
    lower, upper : tuple of float, length d
        The box, units of x.
    shape : tuple of int, length d
        Points along each axis, end points included.
    max_frequency : tuple of float, length d
        Highest angular frequency of the kernel, rad / unit.
    n_fields : int
        Processes that are added.
    """

    lower: tuple
    upper: tuple
    shape: tuple
    max_frequency: tuple
    n_fields: int = 1

    @property
    def n_dims(self):
        """Number of dimensions d."""
        return len(self.shape)

    @property
    def n_features(self):
        """Number of coefficients."""
        return self.n_fields * math.prod(self.shape)


class Interpolant:
    """One process: its kernels and the coefficients of its mean.

    Parameters
    ----------
    lower, upper : sequence of float, length d
        The box.
    kind : {"stm", "gm", "matern52", "se"}
        Kernel.
    kernels : list of (weight, scale, mu), length d
        Tensors (Q,) of each axis.
    theta : torch.Tensor, shape (M_1, ..., M_d)
        Coefficients.
    jitter : float
        What is added to the variance at the nodes.
    """

    def __init__(self, lower, upper, kind, kernels, theta, jitter):
        self.kind, self.kernels, self.theta, self.jitter = kind, kernels, theta, float(jitter)
        options = {"dtype": torch.float64, "device": theta.device}
        self.axes = [
            a + torch.arange(n, **options) * ((b - a) / (n - 1))
            for a, b, n in zip(lower, upper, theta.shape, strict=True)
        ]
        self._roots = None

    @property
    def roots(self):
        """Cholesky factors of the covariances, made when first asked for."""
        if self._roots is None:
            columns = [
                mixture(self.kind, axis - axis[0], *kernel, (0,))[0]
                for axis, kernel in zip(self.axes, self.kernels, strict=True)
            ]
            self._roots = [factor(torch.cat([c[:1] + self.jitter, c[1:]])) for c in columns]
        return self._roots

    def cross(self, X, orders):
        """Covariances of derivatives at X (n, d) with the nodes: for each axis a dict from order to (n, M_j)."""
        out = []
        for j, (axis, kernel) in enumerate(zip(self.axes, self.kernels, strict=True)):
            needed = sorted({alpha[j] for alpha in orders})
            found = mixture(self.kind, X[:, j, None] - axis, *kernel, needed)
            out.append(dict(zip(needed, found, strict=True)))
        return out

    def mean(self, X, orders):
        """Derivatives of the mean at X (n, d): multi-index to (n,)."""
        rows, out = self.cross(X, orders), {}
        for alpha in orders:
            first, *rest = [row[k] for row, k in zip(rows, alpha, strict=True)]
            T = first @ self.theta.reshape(len(self.axes[0]), -1)
            for row in rest:
                T = torch.einsum("nm,nmr->nr", row, T.reshape(len(X), row.shape[1], -1))
            out[alpha] = T[:, 0]
        return out

    def _smooth_enough(self, alpha):
        if max(alpha) > 2 and ENVELOPES[self.kind] == "matern52":
            raise InvalidInputError(
                f"order must be at most 2 in each dimension for the deviation of a Matern-5/2 process; got {alpha}. A "
                f"third derivative has no variance: take kernel='gm'."
            )

    def variance(self, X, alpha):
        """Variance of the derivative `alpha` at X (n, d), given the values at the nodes; shape (n,)."""
        self._smooth_enough(alpha)
        whole, known = 1.0, 1.0
        zero = X.new_zeros(1)
        for j, row in enumerate(self.cross(X, [alpha])):
            k = alpha[j]
            whole = whole * (-1.0) ** k * mixture(self.kind, zero, *self.kernels[j], (2 * k,))[0]
            half = torch.linalg.solve_triangular(self.roots[j], row[k].T, upper=False)
            known = known * half.square().sum(dim=0)
        return (whole - known).clamp(min=0.0)

    def covariance(self, X, alpha):
        """Covariance of the derivative `alpha` between points X (n, d), given the values at the nodes; (n, n)."""
        self._smooth_enough(alpha)
        whole, known = 1.0, 1.0
        for j, row in enumerate(self.cross(X, [alpha])):
            k, x = alpha[j], X[:, j]
            parts = [
                mixture(self.kind, part[:, None] - x, *self.kernels[j], (2 * k,))[0]
                for part in torch.split(x, max(1, CHUNK[x.device.type] // (len(x) * len(self.kernels[j][0]))))
            ]
            whole = whole * (-1.0) ** k * torch.cat(parts)
            half = torch.linalg.solve_triangular(self.roots[j], row[k].T, upper=False)
            known = known * (half.T @ half)
        return whole - known

    def max_frequency(self, axis):
        """Highest angular frequency of one axis, a bandwidth included, rad / unit."""
        _, scale, mu = self.kernels[axis]
        return float((2 * math.pi * mu.abs() + bandwidth(self.kind, scale)).max())

    def parts(self, axis):
        """Root-mean-square over the nodes of what each component of one axis adds to the mean; shape (Q,)."""
        T = self.theta
        for j in (j for j in range(T.ndim) if j != axis):
            K = mixture(self.kind, self.axes[j][:, None] - self.axes[j], *self.kernels[j], (0,))[0]
            T = torch.tensordot(K, T, dims=([1], [j])).movedim(0, j)
        T = T.movedim(axis, 0).reshape(T.shape[axis], -1)
        d, out = self.axes[axis][:, None] - self.axes[axis], []
        for q in range(len(self.kernels[axis][0])):
            one = [v[q : q + 1] for v in self.kernels[axis]]
            out.append((mixture(self.kind, d, *one, (0,))[0] @ T).square().mean().sqrt())
        return torch.stack(out)


@register("gphm")
class GridPosterior(Posterior):
    """Sum of interpolants on one grid.

    Parameters
    ----------
    lower, upper : sequence of float, length d
        The box, units of x.
    parts : list of Interpolant
        The processes, on the same grid.
    """

    def __init__(self, lower, upper, parts):
        self.parts = parts
        shape = tuple(parts[0].theta.shape)
        highest = [max(p.max_frequency(j) for p in parts) for j in range(len(shape))]
        self.basis = GridBasis(tuple(lower), tuple(upper), shape, tuple(highest), len(parts))
        self.theta = torch.cat([p.theta.reshape(-1) for p in parts])

    @classmethod
    def of(cls, objective):
        """The posterior of the values and kernels of a `GPHMObjective`."""
        fields = list(objective.fields)
        lower, upper = zip(*fields[0].bounds, strict=True)
        parts = []
        for f in fields:
            kernels = [tuple(v.detach().clone() for v in f.kernel(j)) for j in range(len(f.shape))]
            parts.append(Interpolant(lower, upper, f.kind, kernels, f.weights(), f.jitter))
        return cls(lower, upper, parts)

    def apply(self, X, terms):
        """``sum_alpha c_alpha d^alpha u`` at X, a tensor (n, d); c floats or arrays (n,)."""
        out = X.new_zeros(len(X))
        found = self.derivatives(X, list(terms))
        for alpha, c in terms.items():
            out = out + found[alpha] * (c if isinstance(c, float) else torch.as_tensor(c, device=X.device))
        return out

    def derivatives(self, X, orders):
        """Several derivatives of u at X (n, d) for the price of one; multi-index to (n,)."""
        found = [[p.mean(part, orders) for p in self.parts] for part in self._chunks(X)]
        return {
            alpha: torch.cat([sum(mean[alpha] for mean in means) for means in found]) if found else X.new_zeros(0)
            for alpha in orders
        }

    def _chunks(self, X):
        widest = max(len(k[0]) * n for p in self.parts for k, n in zip(p.kernels, p.theta.shape, strict=True))
        rest = math.prod(self.basis.shape[1:])  # what is left after the first axis is contracted
        return torch.split(X, max(1, CHUNK[X.device.type] // max(widest, rest))) if len(X) else []

    def deviation(self, X, alpha):
        """Standard deviation of the derivative `alpha` of u at X (n, d), before the certificate's factor; (n,)."""
        found = [sum(p.variance(part, alpha) for p in self.parts).sqrt() for part in self._chunks(X)]
        return torch.cat(found) if found else X.new_zeros(0)

    def draw(self, X, alpha, n_samples, rng):
        """Deviations from the mean at X (n, d), joint over the points; shape (n_samples, n)."""
        C = sum(p.covariance(X, alpha) for p in self.parts)
        values, vectors = torch.linalg.eigh(0.5 * (C + C.T))  # semi-definite up to rounding, which Cholesky refuses
        root = vectors * values.clamp(min=0.0).sqrt()
        return normal(rng, (n_samples, len(X)), device=X.device) @ root.T

    def spectrum(self):
        """Frequencies of the learned mixtures along each dimension; see `PDESolution.spectrum`."""
        out = []
        for j in range(self.basis.n_dims):
            omega = torch.cat([2 * math.pi * p.kernels[j][2].abs() for p in self.parts])
            weight = torch.cat([p.parts(j) for p in self.parts])
            width = torch.cat([bandwidth(p.kind, p.kernels[j][1]) for p in self.parts])
            order = np.argsort(-weight.cpu().numpy(), kind="stable")
            names = ("omega", "weight", "bandwidth")
            out.append({n: v.cpu().numpy()[order] for n, v in zip(names, (omega, weight, width), strict=True)})
        return out

    def state(self):
        """Plain values and arrays that rebuild it."""
        state = {"lower": list(self.basis.lower), "upper": list(self.basis.upper), "n_parts": len(self.parts)}
        for i, p in enumerate(self.parts):
            state |= {f"kind_{i}": p.kind, f"jitter_{i}": p.jitter, f"theta_{i}": p.theta}
            for j, kernel in enumerate(p.kernels):
                state[f"kernel_{i}_{j}"] = torch.stack(kernel)
        return state

    @classmethod
    def from_state(cls, state):
        """The posterior of `state`."""
        lower, upper, parts = state["lower"], state["upper"], []
        for i in range(state["n_parts"]):
            kernels = [tuple(torch.as_tensor(state[f"kernel_{i}_{j}"])) for j in range(len(lower))]
            theta = torch.as_tensor(state[f"theta_{i}"])
            parts.append(Interpolant(lower, upper, state[f"kind_{i}"], kernels, theta, state[f"jitter_{i}"]))
        return cls(lower, upper, parts)
