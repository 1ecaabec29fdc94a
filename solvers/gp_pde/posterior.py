r"""The solution as a Gaussian in coefficient space: mean, and a root of the covariance, for both solvers.

Both posteriors know the covariance up to one factor, since a noise-free equation has no noise level of its own; the
factor is set by the certificate, so that the root-mean-square of the standard deviation is the error estimate.

Notation  theta (P,) mean; W (P, q) with cov(theta) proportional to W W^T; phi(x) features.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import Any

import numpy as np
import torch

from sciml.random import normal
from sciml.solvers.gp_pde.features import AxisBasis, JointBasis, ProductBasis
from sciml.solvers.gp_pde.spectrum import basis_spectrum
from sciml.solvers.gp_pde.systems import SystemBasis

__all__ = [
    "LeastSquaresPosterior",
    "Posterior",
    "TensorPosterior",
    "basis_from_state",
    "basis_state",
    "posterior_from_state",
    "posterior_state",
    "register",
]

CHUNK = 20_000_000  # numbers of a feature matrix that are held at once


_KINDS: dict[str, Any] = {}  # kind -> class: the only classes that a file can name


def register(kind):
    """Class decorator: a saved solution names the posterior by `kind` and finds the class again."""

    def enrol(cls):
        _KINDS[kind] = cls
        cls.kind = kind
        return cls

    return enrol


def posterior_state(posterior) -> dict:
    """Plain values and arrays that rebuild a posterior."""
    return {"kind": posterior.kind} | posterior.state()


def posterior_from_state(state: dict):
    """The posterior of `posterior_state`."""
    state = dict(state)
    kind = str(state.pop("kind"))
    if kind not in _KINDS:  # kept beside its method: loaded when first asked for
        for module in ("gphm", "kernel_route", "frame", "slabs", "noisy", "inverse"):
            if importlib.util.find_spec(f"sciml.solvers.gp_pde.{module}") is not None:
                importlib.import_module(f"sciml.solvers.gp_pde.{module}")
    return _KINDS[kind].from_state(state)


class Posterior:
    """What every posterior has: `basis`, `theta`, the mean and its derivatives, and a deviation from it.

    A subclass gives ``_mean(X, alpha)`` or a basis that evaluates itself, ``deviation``, ``draw``, ``state`` and
    ``from_state``, and is enrolled by `register`.
    """

    kind = ""
    basis: Any = None
    theta: Any = None

    def deviation(self, X, alpha):
        """Standard deviation of the derivative `alpha` of u at X (n, d); shape (n,)."""
        raise NotImplementedError

    def draw(self, X, alpha, n_samples, rng):
        """Deviations from the mean at X (n, d), joint over the points; shape (n_samples, n)."""
        raise NotImplementedError

    def state(self):
        """Plain values and arrays that rebuild it."""
        raise NotImplementedError

    def spectrum(self):
        """Frequencies along each dimension; see `PDESolution.spectrum`."""
        return basis_spectrum(self.basis, self.theta)

    def of(self, k):
        """The posterior of unknown k of a system, for itself."""
        raise NotImplementedError

    def apply(self, X, terms):
        """``sum_alpha c_alpha d^alpha u`` at X, a tensor (n, d); c floats or arrays (n,)."""
        out = X.new_zeros(len(X))
        for alpha, c in terms.items():
            parts = [self._mean(part, alpha) for part in self._chunks(X)]
            values = torch.cat(parts) if parts else X.new_zeros(0)
            out = out + (values * c if isinstance(c, float) else values * torch.as_tensor(c, device=X.device))
        return out

    def _mean(self, X, alpha):
        if isinstance(self.basis, ProductBasis | SystemBasis):
            return self.basis.contract(X, alpha, self.theta)
        return self.basis.evaluate(X, alpha) @ self.theta

    def _chunks(self, X):
        width = max(1, self.basis.n_features)
        if isinstance(self.basis, ProductBasis):  # the recurrences hold all orders of all polynomials of an axis
            width = 8 * int(max(a.max_frequency * (a.upper - a.lower) / 2 + a.n_features for a in self.basis.axes))
        if isinstance(self.basis, ProductBasis) and self.basis.n_dims > 2:
            width = max(width, self.basis.n_features // min(self.basis.shape) + 1)
        return torch.split(X, max(1, CHUNK // max(1, width))) if len(X) else []


@register("least-squares")
class LeastSquaresPosterior(Posterior):
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
        return torch.cat([torch.linalg.norm(self._times(part, alpha, self.root), dim=1) for part in self._chunks(X)])

    def _times(self, X, alpha, weights):
        if isinstance(self.basis, SystemBasis):
            return self.basis.contract(X, alpha, weights)
        return self.basis.evaluate(X, alpha) @ weights

    def draw(self, X, alpha, n_samples, rng):
        """Deviations from the mean at X (n, d), joint over the points; shape (n_samples, n)."""
        noise = normal(rng, (n_samples, self.root.shape[1]), device=X.device)
        weights = self.root @ noise.T
        return torch.cat([self._times(part, alpha, weights) for part in self._chunks(X)]).T

    def of(self, k):
        """The posterior of unknown k of a system, for itself."""
        block = self.basis.block(k)
        return LeastSquaresPosterior(self.basis.parts[k], self.theta[block], lambda: self.root[block])

    def state(self):
        """Plain values and arrays that rebuild it."""
        return {"basis": basis_state(self.basis), "theta": self.theta, "root": self.root}

    @classmethod
    def from_state(cls, state):
        """The posterior of `state`."""
        return cls(basis_from_state(state["basis"]), state["theta"], state["root"])


@register("tensor")
class TensorPosterior(Posterior):
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

    def state(self):
        """Plain values and arrays that rebuild it."""
        state = {"basis": basis_state(self.basis), "theta": self.theta}
        for j, (root, lam) in enumerate(zip(self.roots, self.eigenvalues, strict=True)):
            state[f"root_{j}"], state[f"lam_{j}"] = root, lam
        return state

    @classmethod
    def from_state(cls, state):
        """The posterior of `state`."""
        basis = basis_from_state(state["basis"])
        axes = range(basis.n_dims)
        roots, lams = [state[f"root_{j}"] for j in axes], [state[f"lam_{j}"] for j in axes]
        return cls(basis, state["theta"].reshape(basis.shape), roots, lams)


def basis_state(basis) -> dict:
    """Numbers that rebuild a basis: plain values only."""
    if isinstance(basis, SystemBasis):
        return {"kind": "system", "parts": [basis_state(part) for part in basis.parts]}
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
    if hasattr(basis, "state"):  # plane waves and multipoles
        return {"kind": "waves"} | basis.state()
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
    if state["kind"] == "system":
        return SystemBasis(tuple(basis_from_state(part) for part in state["parts"]))
    if state["kind"] == "waves":
        return importlib.import_module("sciml.solvers.gp_pde.joint").WaveBasis.from_state(state)
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
