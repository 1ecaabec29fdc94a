r"""The solution as a Gaussian in coefficient space: mean, and a root of the covariance, for both solvers.

Both posteriors know the covariance up to one factor, since a noise-free equation has no noise level of its own; the
factor is set by the certificate, so that the root-mean-square of the standard deviation is the error estimate.

Notation  theta (P,) mean; W (P, q) with cov(theta) proportional to W W^T; phi(x) features.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sciml.random import normal
from sciml.solvers.gp_pde.features import AxisBasis, JointBasis, ProductBasis

__all__ = ["LeastSquaresPosterior", "TensorPosterior", "basis_from_state", "basis_state"]

CHUNK = 20_000_000  # numbers of a feature matrix that are held at once


class _Posterior:
    """Shared: evaluate the mean and its derivatives in chunks of points."""

    basis = None
    theta = None

    def apply(self, X, terms):
        """``sum_alpha c_alpha d^alpha u`` at X, a tensor (n, d); c floats or arrays (n,)."""
        out = X.new_zeros(len(X))
        for alpha, c in terms.items():
            parts = [self._mean(part, alpha) for part in self._chunks(X)]
            values = torch.cat(parts) if parts else X.new_zeros(0)
            out = out + (values * c if isinstance(c, float) else values * torch.as_tensor(c, device=X.device))
        return out

    def _mean(self, X, alpha):
        if isinstance(self.basis, ProductBasis):
            return self.basis.contract(X, alpha, self.theta)
        return self.basis.evaluate(X, alpha) @ self.theta

    def _chunks(self, X):
        width = self.basis.n_features
        if isinstance(self.basis, ProductBasis):  # the recurrences hold all orders of all polynomials of an axis
            width = 8 * int(max(a.max_frequency * (a.upper - a.lower) / 2 + a.n_features for a in self.basis.axes))
        if isinstance(self.basis, ProductBasis) and self.basis.n_dims > 2:
            width = max(width, self.basis.n_features // min(self.basis.shape) + 1)
        return torch.split(X, max(1, CHUNK // max(1, width))) if len(X) else []


class LeastSquaresPosterior(_Posterior):
    """Posterior of scattered least squares.

    Parameters
    ----------
    basis : JointBasis or ProductBasis
        Features.
    theta : torch.Tensor, shape (P,)
        Mean.
    root : torch.Tensor, shape (P, q), or callable
        W, or a function that makes it when first asked.
    """

    def __init__(self, basis, theta, root):
        self.basis, self.theta, self._root = basis, theta, root

    @property
    def root(self):
        """W (P, q)."""
        if callable(self._root):
            self._root = self._root()
        return self._root

    def set_root(self, root):
        """Replace W."""
        self._root = root

    def deviation(self, X, alpha):
        """Standard deviation of the derivative `alpha` of u at X (n, d), in units of the free factor; shape (n,)."""
        return torch.cat(
            [torch.linalg.norm(self.basis.evaluate(part, alpha) @ self.root, dim=1) for part in self._chunks(X)]
        )

    def draw(self, X, alpha, n_samples, rng):
        """Deviations from the mean at X (n, d), joint over the points; shape (n_samples, n)."""
        noise = normal(rng, (n_samples, self.root.shape[1]), device=X.device)
        weights = self.root @ noise.T
        return torch.cat([self.basis.evaluate(part, alpha) @ weights for part in self._chunks(X)]).T


class TensorPosterior(_Posterior):
    """Posterior of fast diagonalisation: white noise in the source, carried through the inverse eigenvalues.

    Parameters
    ----------
    basis : ProductBasis
        Features.
    theta : torch.Tensor, shape (r_1, ..., r_d)
        Mean.
    roots : list of torch.Tensor, shape (r_j, k_j)
        Eigenfunctions of each axis.
    eigenvalues : list of torch.Tensor, shape (k_j,)
        Their eigenvalues.
    """

    def __init__(self, basis, theta, roots, eigenvalues):
        self.basis, self.theta = basis, theta.reshape(-1)
        self.roots, self.eigenvalues = roots, eigenvalues
        total = 0.0
        for j, lam in enumerate(eigenvalues):
            view = [1] * len(eigenvalues)
            view[j] = -1
            total = total + lam.reshape(view)
        size = total.abs()
        floor = 1e-13 * float(size.max())
        self.gain = torch.where(size > floor, 1 / torch.clamp(size, min=floor), torch.zeros_like(size))

    def _modes(self, X, alpha):
        return [f.to(r.dtype) @ r for f, r in zip(self.basis.factors(X, alpha), self.roots, strict=True)]

    def deviation(self, X, alpha):
        """Standard deviation of the derivative `alpha` of u at X (n, d), in units of the free factor; shape (n,)."""
        out = []
        for part in self._chunks(X):
            T = self.gain**2
            first, *rest = [m.abs() ** 2 for m in self._modes(part, alpha)]
            T = first @ T.reshape(T.shape[0], -1)
            for m in rest:
                T = torch.einsum("nr,nrs->ns", m, T.reshape(len(part), m.shape[1], -1))
            out.append(T[:, 0].clamp(min=0).sqrt())
        return torch.cat(out)

    def draw(self, X, alpha, n_samples, rng):
        """Deviations from the mean at X (n, d), joint over the points; shape (n_samples, n)."""
        out = []
        for _ in range(n_samples):
            noise = normal(rng, tuple(self.gain.shape), device=X.device) * self.gain
            if any(r.is_complex() for r in self.roots):  # a complex pair of modes carries one real function
                noise = torch.complex(
                    noise, normal(rng, tuple(self.gain.shape), device=X.device) * self.gain
                ) / math.sqrt(2)
            row = []
            for part in self._chunks(X):
                first, *rest = self._modes(part, alpha)
                T = first.to(noise.dtype) @ noise.reshape(noise.shape[0], -1)
                for m in rest:
                    T = torch.einsum("nr,nrs->ns", m.to(noise.dtype), T.reshape(len(part), m.shape[1], -1))
                row.append(T[:, 0].real * (math.sqrt(2) if T.is_complex() else 1.0))
            out.append(torch.cat(row))
        return torch.stack(out)


def basis_state(basis) -> dict:
    """Numbers that rebuild a basis: plain values only."""
    if isinstance(basis, ProductBasis):
        return {
            "kind": "product",
            "axes": [
                {
                    "lower": a.lower,
                    "upper": a.upper,
                    "omega": list(a.omega),
                    "n_base": int(a.n_base),
                    "n_envelope": [int(m) for m in a.n_envelope],
                    "periodic": bool(a.periodic),
                    "cut": a.cut,
                }
                for a in basis.axes
            ],
        }
    return {
        "kind": "joint",
        "lower": [float(v) for v in basis.lower],
        "upper": [float(v) for v in basis.upper],
        "omega": np.asarray(basis.omega).tolist(),
        "n_base": [int(m) for m in basis.n_base],
        "n_envelope": [int(m) for m in basis.n_envelope],
    }


def basis_from_state(state: dict):
    """The basis of `basis_state`."""
    if state["kind"] == "product":
        return ProductBasis(
            tuple(
                AxisBasis(
                    a["lower"],
                    a["upper"],
                    tuple(a["omega"]),
                    a["n_base"],
                    tuple(a["n_envelope"]),
                    a["periodic"],
                    a["cut"],
                )
                for a in state["axes"]
            )
        )
    d = len(state["lower"])
    return JointBasis(
        tuple(state["lower"]),
        tuple(state["upper"]),
        np.reshape(state["omega"], (-1, d)),
        tuple(state["n_base"]),
        tuple(state["n_envelope"]),
    )
