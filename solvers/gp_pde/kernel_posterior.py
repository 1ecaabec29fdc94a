r"""The posterior of a process conditioned on functionals: mean, deviation and draws of any derivative, anywhere.

.. math:: \hat u(x) = k_x^\top \theta, \qquad
          \mathrm{var}\, u(x) = a^2 \left(k(0) - k_x^\top D (D G D + R)^{-1} D k_x\right)

Notation  k_x (n,) covariances of u(x) with the functionals; D G D + R scaled Gram matrix with nugget and noise.
Cost      mean: n covariances a point. Deviation: n^2 operations a point with the dense factor.
Pitfalls  Beyond a dense factor the deviation is that given a spread-out part of the functionals (`KEPT`): never below
          that given all, so it errs to the safe side, and the certificate sets its size.
          The deviation is a difference: below 1e-8 of the prior's it is rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.linalg.memory import require
from sciml.random import normal
from sciml.solvers.gp_pde.functional_gram import (
    FunctionalGroup,
    Functionals,
    cross_gram,
    gram,
    gram_diagonal,
    gram_sum,
)
from sciml.solvers.gp_pde.kernel_condition import scaled_cholesky
from sciml.solvers.gp_pde.posterior import Posterior, register
from sciml.solvers.gp_pde.stationary import Mixture, covariance_from_state

__all__ = ["FunctionalBasis", "KernelPosterior"]

KEPT = 2000  # functionals that the deviation of a large system is conditioned on
CHUNK = 4_000_000  # covariances of points with functionals that are held at once


@dataclass(frozen=True)
class FunctionalBasis:
    """Covariances with the functionals as features: what a `PDESolution` asks of a basis.

    Parameters
    ----------
    lower, upper : tuple of float, length d
        The box, units of x.
    n_features : int
        Number of functionals.
    max_frequency : tuple of float, length d
        Angular frequency up to which the points resolve, rad / unit.
    """

    lower: tuple
    upper: tuple
    n_features: int
    max_frequency: tuple

    @property
    def n_dims(self):
        """Number of dimensions d."""
        return len(self.lower)


@register("kernel")
class KernelPosterior(Posterior):
    """Posterior of a process given functionals.

    Parameters
    ----------
    basis : FunctionalBasis
        Box and sizes.
    covariance : Covariance
        The kernel.
    F : Functionals
        n functionals.
    theta : torch.Tensor, shape (n,)
        Their weights.
    noise : torch.Tensor, shape (n,)
        Variances of their values, squared units of each.
    nugget : float
        Added to the unit diagonal.
    amplitude : float
        Factor a of the deviation.
    index : torch.Tensor of int, shape (m,)
        Functionals that the deviation is conditioned on, ascending.
    root : torch.Tensor, shape (m, m), optional
        Their Cholesky factor; made when first asked for.
    """

    def __init__(self, basis, covariance, F, theta, noise, nugget, amplitude, index, root=None):
        self.basis, self.covariance, self.F, self.theta = basis, covariance, F, theta
        self.noise, self.nugget, self.amplitude = noise, float(nugget), float(amplitude)
        self.index, self._root = index, root
        self._part = F if len(index) == len(F) else F.take(index)

    @property
    def root(self):
        """Cholesky factor of the scaled Gram matrix, (m, m), and its scale (m,)."""
        diagonal = gram_diagonal(self.covariance, self._part)
        scale = torch.where(diagonal > 0, diagonal.clamp(min=1e-300).rsqrt(), torch.ones_like(diagonal))
        if self._root is None:
            G = gram(self.covariance, self._part)
            self._root, _ = scaled_cholesky(G, scale, self.noise[self.index] * scale**2, self.nugget)
        return self._root, scale

    def forget(self):
        """Let go of the factor; it is made anew when asked for."""
        self._root = None

    def apply(self, X, terms):
        """``sum_alpha c_alpha d^alpha u`` at X, a tensor (n, d); c floats or arrays (n,)."""
        if X.requires_grad and torch.is_grad_enabled():
            total = X.new_zeros(len(X))
            for alpha, c in terms.items():
                c = c if isinstance(c, float) else torch.as_tensor(c, device=X.device)
                total = total + _Derivative.apply(X, self, alpha) * c
            return total
        if len(X) == 0 or not terms:
            return X.new_zeros(len(X))
        return self.evaluate(X.detach(), {a: _coefficient(c, X) for a, c in terms.items()})

    def evaluate(self, X, terms, theta=None):
        """As `apply`, with other weights, and without derivatives in X."""
        theta = self.theta if theta is None else theta
        G = Functionals([FunctionalGroup(X, terms)])
        G.check(self.covariance, self.F)
        if len(X) * len(self.F) > CHUNK and not isinstance(self.covariance, Mixture):
            return gram_sum(self.covariance, G, self.F, theta)
        parts = [cross_gram(self.covariance, part, self.F) @ theta for part in self._parts(G)]
        return torch.cat(parts)

    def _parts(self, G):
        n, step = len(G), max(1, CHUNK // len(self.F))
        index = torch.arange(n)
        return [G.take(index[at : at + step]) for at in range(0, n, step)]

    def _reduced(self, part):
        """``L^-1 D k_x`` for the functionals of a part, (m, n)."""
        root, scale = self.root
        K = cross_gram(self.covariance, self._part, part) * scale[:, None]
        return torch.linalg.solve_triangular(root, K, upper=False)

    def deviation(self, X, alpha):
        """Standard deviation of the derivative `alpha` of u at X (n, d), in units of the free factor; shape (n,)."""
        if len(X) == 0:
            return X.new_zeros(0)
        G = Functionals([FunctionalGroup(X.detach(), {alpha: 1.0})])
        G.check(self.covariance)
        out = []
        for part in self._parts(G):
            prior = gram_diagonal(self.covariance, part)
            out.append((prior - self._reduced(part).square().sum(dim=0)).clamp(min=0).sqrt())
        return self.amplitude * torch.cat(out)

    def covariance_with(self, X, terms, Z):
        """Posterior covariances of ``sum c_alpha d^alpha u`` at X (n, d) with u at Z (m, d), up to a^2; (n, m)."""
        A = Functionals([FunctionalGroup(X, {a: _coefficient(c, X) for a, c in terms.items()})])
        B = Functionals([FunctionalGroup(Z, {(0,) * X.shape[1]: 1.0})])
        return cross_gram(self.covariance, A, B) - self._reduced(A).T @ self._reduced(B)

    def draw(self, X, alpha, n_samples, rng):
        """Deviations from the mean at X (n, d), joint over the points; shape (n_samples, n)."""
        n = len(X)
        require(8 * 4 * n * n, what=f"a joint draw at {n} points", remedy="draw at fewer points")
        G = Functionals([FunctionalGroup(X.detach(), {alpha: 1.0})])
        G.check(self.covariance)
        V = self._reduced(G)
        C = gram(self.covariance, G) - V.T @ V
        values, vectors = torch.linalg.eigh((C + C.T) / 2)
        noise = normal(rng, (n_samples, n), device=X.device)
        return self.amplitude * (noise * values.clamp(min=0).sqrt()) @ vectors.T

    def spectrum(self):
        """Frequencies along each dimension: the peaks of the kernel's spectral density."""
        c, out = self.covariance, []
        for j in range(self.basis.n_dims):
            if isinstance(c, Mixture):
                order = np.argsort(-c.weights, kind="stable")
                omega, size, width = np.abs(c.omega[order, j]), np.sqrt(c.weights[order]), c.rho[order, j]
            else:
                length = getattr(c, "lengthscale", (math.inf,) * self.basis.n_dims)[j]
                omega, size = np.zeros(1), np.array([math.sqrt(getattr(c, "variance", 1.0))])
                width = np.array([1 / length])
            out.append({"omega": omega, "weight": self.amplitude * size, "bandwidth": width})
        return out

    def state(self):
        """Plain values and arrays that rebuild it; the factor is made anew when asked for."""
        b = self.basis
        state = {
            "lower": list(b.lower),
            "upper": list(b.upper),
            "max_frequency": list(b.max_frequency),
            "covariance": self.covariance.state(),
            "theta": self.theta,
            "noise": self.noise,
            "nugget": self.nugget,
            "amplitude": self.amplitude,
            "index": self.index,
            "n_groups": len(self.F.groups),
        }
        for i, g in enumerate(self.F.groups):
            state[f"X_{i}"], state[f"alphas_{i}"] = g.X, [list(a) for a in g.terms]
            for j, c in enumerate(g.terms.values()):
                state[f"c_{i}_{j}"] = c
            if g.minus is not None:
                state[f"minus_{i}"] = g.minus
        return state

    @classmethod
    def from_state(cls, state):
        """The posterior of `state`."""
        groups = []
        for i in range(int(state["n_groups"])):
            X = torch.as_tensor(state[f"X_{i}"])
            terms = {}
            for j, alpha in enumerate(state[f"alphas_{i}"]):
                c = state[f"c_{i}_{j}"]
                terms[tuple(int(k) for k in alpha)] = torch.as_tensor(c) if np.ndim(c) else float(c)
            minus = state.get(f"minus_{i}")
            groups.append(FunctionalGroup(X, terms, None if minus is None else torch.as_tensor(minus)))
        theta = torch.as_tensor(state["theta"])
        lower, upper, top = (tuple(float(v) for v in state[k]) for k in ("lower", "upper", "max_frequency"))
        return cls(
            FunctionalBasis(lower, upper, len(theta), top),
            covariance_from_state(state["covariance"]),
            Functionals(groups),
            theta,
            torch.as_tensor(state["noise"]),
            state["nugget"],
            state["amplitude"],
            torch.as_tensor(state["index"]),
        )


def _coefficient(c, X):
    return float(c) if isinstance(c, float | int) else torch.as_tensor(c, dtype=X.dtype, device=X.device)


class _Derivative(torch.autograd.Function):
    """A derivative of the mean whose own derivative in X is the next one, in closed form: any order, at any point."""

    @staticmethod
    def forward(ctx, X, posterior, alpha):
        ctx.save_for_backward(X)
        ctx.posterior, ctx.alpha = posterior, alpha
        return posterior.evaluate(X.detach(), {alpha: 1.0})

    @staticmethod
    def backward(ctx, g):
        (X,) = ctx.saved_tensors
        columns = []
        for j in range(X.shape[1]):
            alpha = tuple(k + (i == j) for i, k in enumerate(ctx.alpha))
            columns.append(ctx.posterior.apply(X, {alpha: 1.0}))
        return g[:, None] * torch.stack(columns, dim=1), None, None
