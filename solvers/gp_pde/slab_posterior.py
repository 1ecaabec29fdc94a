"""The posterior of a problem that was solved slab after slab: pieces over time, and errors that travel through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sciml.random import normal
from sciml.solvers.gp_pde.posterior import Posterior, posterior_from_state, posterior_state, register

__all__ = ["SlabBasis", "SlabPosterior"]

N_SPOTS = 200  # points of a slab on which the size of what travels is taken


@dataclass(frozen=True)
class SlabBasis:
    """The features of all slabs, seen from outside.

    Parameters
    ----------
    lower, upper : tuple of float, length d
        The box over all slabs.
    n_features : int
        Features over all slabs.
    frequency : tuple of float, length d
        Largest angular frequency along each dimension, rad / unit.
    """

    lower: tuple
    upper: tuple
    n_features: int
    frequency: tuple

    @property
    def n_dims(self) -> int:
        """Number of dimensions d."""
        return len(self.lower)

    @property
    def max_frequency(self) -> np.ndarray:
        """Largest angular frequency per dimension, shape (d,), rad / unit."""
        return np.array(self.frequency)


@register("slabs")
class SlabPosterior(Posterior):
    """Pieces over slabs of time; a point on an interface belongs to the later slab.

    Parameters
    ----------
    pieces : list of Posterior, length s
        One for each slab.
    edges : array, shape (s + 1,)
        Where slabs begin and end.
    dim : int
        The dimension of time.
    factors : array, shape (s,)
        Scale of each piece's own deviation.
    travelled : array, shape (s,)
        Root-mean-square size of the errors that came with a slab's initial data, units of u.
    shapes : list of Posterior or None, length s
        What such an error looks like in each slab, up to its size; None: like u itself.
    """

    def __init__(self, pieces, edges, dim, factors, travelled, shapes):
        self.pieces, self.edges, self.dim = list(pieces), np.asarray(edges, float), int(dim)
        self.factors, self.travelled = np.asarray(factors, float), np.asarray(travelled, float)
        self.shapes = list(shapes)
        first = self.pieces[0].basis
        lower, upper = list(map(float, first.lower)), list(map(float, first.upper))
        lower[self.dim], upper[self.dim] = float(self.edges[0]), float(self.edges[-1])
        top = np.max([p.basis.max_frequency for p in self.pieces], axis=0)
        total = sum(p.basis.n_features for p in self.pieces)
        self.basis = SlabBasis(tuple(lower), tuple(upper), total, tuple(map(float, top)))
        self.theta = torch.cat([p.theta.reshape(-1) for p in self.pieces])
        self._sizes = {}

    def _where(self, X):
        t = X[:, self.dim].detach().contiguous()
        inner = torch.as_tensor(self.edges[1:-1], dtype=t.dtype, device=t.device)
        return torch.bucketize(t, inner, right=True)

    def _chunks(self, X):
        return [X] if len(X) else []

    def _mean(self, X, alpha):
        out, at = X.new_zeros(len(X)), self._where(X)
        for i in torch.unique(at).tolist():
            rows = (at == i).nonzero()[:, 0]
            out = out.index_put((rows,), self.pieces[i].apply(X[rows], {alpha: 1.0}))
        return out

    def _shape(self, i):
        return self.shapes[i] if self.shapes[i] is not None else self.pieces[i]

    def _size(self, i, alpha):
        """Root-mean-square size over slab i of what travels, or of its derivative, for a size of one of u itself."""
        if (i, alpha) not in self._sizes:
            shape, d = self._shape(i), self.basis.n_dims
            lower, upper = np.array(self.basis.lower), np.array(self.basis.upper)
            lower[self.dim], upper[self.dim] = self.edges[i], self.edges[i + 1]
            X = torch.as_tensor(lower + (upper - lower) * np.random.default_rng(0).random((N_SPOTS, d)))
            X = X.to(self.theta.device)
            bare = alpha[:-d] + (0,) * d
            unit = float(shape.apply(X, {bare: 1.0}).square().mean().sqrt())
            size = float(shape.apply(X, {alpha: 1.0}).square().mean().sqrt())
            self._sizes[i, alpha] = (size / unit, 1 / unit) if unit > 0 else (0.0, 0.0)
        return self._sizes[i, alpha]

    def deviation(self, X, alpha):
        """Standard deviation of the derivative `alpha` of u at X (n, d): that of the slab and what came with its
        initial data, which counts by its root-mean-square over the slab; shape (n,)."""
        out, at = X.new_zeros(len(X)), self._where(X)
        for i in torch.unique(at).tolist():
            rows = (at == i).nonzero()[:, 0]
            own = self.factors[i] * self.pieces[i].deviation(X[rows], alpha)
            out[rows] = torch.hypot(own, torch.full_like(own, self.travelled[i] * self._size(i, alpha)[0]))
        return out

    def draw(self, X, alpha, n_samples, rng):
        """Deviations from the mean at X (n, d): what travels is one function over all slabs, what a slab adds is drawn
        for itself; shape (n_samples, n)."""
        out, at = X.new_zeros((n_samples, len(X))), self._where(X)
        along = normal(rng, (n_samples,), device=X.device)
        for i in torch.unique(at).tolist():
            rows = (at == i).nonzero()[:, 0]
            part = self.factors[i] * self.pieces[i].draw(X[rows], alpha, n_samples, rng)
            if self.travelled[i] > 0:
                shape = self._shape(i).apply(X[rows], {alpha: 1.0}) * self._size(i, alpha)[1]
                part = part + self.travelled[i] * along[:, None] * shape
            out[:, rows] = part
        return out

    def of(self, k):
        """The posterior of unknown k of a system, for itself."""
        shapes = [None if s is None else s.of(k) for s in self.shapes]
        return SlabPosterior([p.of(k) for p in self.pieces], self.edges, self.dim, self.factors, self.travelled, shapes)

    def spectrum(self):
        """Frequencies along each dimension: root-mean-square over the slabs of the parts under the same carrier."""
        share = np.diff(self.edges) / (self.edges[-1] - self.edges[0])
        rows = [p.spectrum() for p in self.pieces]
        out = []
        for j in range(self.basis.n_dims):
            omega = np.concatenate([row[j]["omega"] for row in rows])
            power = np.concatenate([s * row[j]["weight"] ** 2 for s, row in zip(share, rows, strict=True)])
            width = np.concatenate([row[j]["bandwidth"] for row in rows])
            found, index = np.unique(np.round(omega, 6), return_inverse=True)
            weight = np.sqrt(np.bincount(index, power))
            widest = np.zeros(len(found))
            np.maximum.at(widest, index, width)
            order = np.argsort(-weight, kind="stable")
            out.append({"omega": found[order], "weight": weight[order], "bandwidth": widest[order]})
        return out

    def state(self):
        """Plain values and arrays that rebuild it."""
        state = {"dim": self.dim, "edges": self.edges, "factors": self.factors, "travelled": self.travelled}
        for i, (piece, shape) in enumerate(zip(self.pieces, self.shapes, strict=True)):
            state |= {f"piece{i}/{key}": value for key, value in posterior_state(piece).items()}
            if shape is not None:
                state |= {f"shape{i}/{key}": value for key, value in posterior_state(shape).items()}
        return state

    @classmethod
    def from_state(cls, state):
        """The posterior of `state`."""

        def part(name):
            found = {key.split("/", 1)[1]: v for key, v in state.items() if key.startswith(f"{name}/")}
            return posterior_from_state(found) if found else None

        n = len(state["factors"])
        pieces, shapes = [part(f"piece{i}") for i in range(n)], [part(f"shape{i}") for i in range(n)]
        return cls(pieces, state["edges"], int(state["dim"]), state["factors"], state["travelled"], shapes)
