r"""Waves that come out of holes: multipoles of the Helmholtz equation in the plane.

.. math:: Y_n(k r) \cos n \theta, \qquad Y_n(k r) \sin n \theta,

about a centre in each hole of the domain.  Plane waves, and all functions without singularities, represent a field
around an obstacle poorly or not at all; together with multipoles they represent every one [1]_.

Notation  z = x + i y; C_n = Y_n(k r) e^{i n theta}; (d/dx + i d/dy) C_n = -k C_{n+1}, (d/dx - i d/dy) C_n = k C_{n-1},
          which gives all derivatives; a distance of the centre from the domain, where features have size one.
Cost      one Bessel function of each order at each point.
Pitfalls  Below half of a the distance is held there: the features mean nothing inside the hole, but stay finite.

References
----------
.. [1] I. Vekua, New methods for solving elliptic equations, 1967 (completeness in multiply connected domains).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, label
from scipy.special import jv, yv

__all__ = ["Multipoles", "find_holes"]


@dataclass(frozen=True)
class Multipoles:
    """Outgoing cylindrical waves about one centre.

    Parameters
    ----------
    centre : tuple of float, length 2
        In units of x.
    radius : float
        Distance at which features have size one, units of x.
    wave_number : float
        k, rad / unit.
    orders : int
        Highest angular order N.
    """

    centre: tuple
    radius: float
    wave_number: float
    orders: int

    @property
    def n_features(self) -> int:
        """Number of features, 2 N + 1."""
        return 2 * self.orders + 1

    def evaluate(self, X: torch.Tensor, alpha) -> torch.Tensor:
        """Evaluate the derivative `alpha` of every feature at X (n, 2); shape (n, 2 N + 1): order 0, then pairs."""
        k, N, s = self.wave_number, self.orders, sum(alpha)
        Y = X.detach().cpu().numpy() - np.array(self.centre)
        r, theta = np.maximum(np.hypot(Y[:, 0], Y[:, 1]), 0.5 * self.radius), np.arctan2(Y[:, 1], Y[:, 0])
        shift = {0: 1.0 + 0.0j}  # of d^alpha C_n over C_{n + j}
        for step in [{1: -k / 2, -1: k / 2}] * alpha[0] + [{1: 0.5j * k, -1: 0.5j * k}] * alpha[1]:
            moved: dict[int, complex] = {}
            for j, c in shift.items():
                for i, f in step.items():
                    moved[i + j] = moved.get(i + j, 0.0) + c * f
            shift = moved
        n = np.arange(-s, N + s + 1)
        radial = yv(np.abs(n)[:, None], k * r) * np.where((n < 0) & (n % 2 == 1), -1.0, 1.0)[:, None]
        C = radial * np.exp(1j * n[:, None] * theta)
        order = np.arange(N + 1)  # the modulus of J + i Y falls with r, and has no zeros
        scale = 1 / np.hypot(jv(order, k * self.radius), yv(order, k * self.radius))
        derived = sum(c * C[s + j : s + j + N + 1] for j, c in shift.items()) * scale[:, None]
        out = np.empty((len(r), self.n_features))  # Y_n is real: the parts of C_n are the features
        out[:, 0], out[:, 1::2], out[:, 2::2] = derived[0].real, derived[1:].real.T, derived[1:].imag.T
        return torch.as_tensor(out, device=X.device)


def find_holes(region, cells=240):
    """Holes of a region of the plane: components of its complement that do not reach the edge of its box.

    Parameters
    ----------
    region : Region
        The domain.
    cells : int
        Cells of the grid along each dimension; what is narrower is not seen. Default 240.

    Returns
    -------
    list of (tuple, float, float, int)
        Centre (x, y), its distance from the domain, how far it has to reach, and its rank. Up to twelve centres in
        each hole, the deepest first, which reaches everywhere; each outside the discs of those before it.

    Examples
    --------
    >>> from sciml.solvers.gp_pde import Region
    >>> t = np.linspace(0, 2 * np.pi, 100)
    >>> ring = Region([(-2, 2)] * 2, lambda X: np.hypot(X[:, 0], X[:, 1]) > 1, np.c_[np.cos(t), np.sin(t)])
    >>> ((centre, near, far, _),) = find_holes(ring)
    >>> bool(np.hypot(*centre) < 0.05), round(near, 1), round(far, 1)
    (True, 1.0, 1.0)
    """
    box = region.box
    step = (box.upper - box.lower) / cells
    axes = [lo + h * (np.arange(cells) + 0.5) for lo, h in zip(box.lower, step, strict=True)]
    X = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    outside = ~region.contains(X).reshape(cells, cells)
    parts, count = label(outside)
    edge = set(np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])))
    found = []
    for i in range(1, count + 1):
        mine = parts == i
        if i in edge or mine.sum() < 9:
            continue
        depth = distance_transform_edt(mine, sampling=step)
        deepest = depth.max()
        for rank in range(12):
            at = np.unravel_index(depth.argmax(), depth.shape)
            near = float(depth[at])
            if not near > 0.2 * deepest:
                break
            centre = np.array([axes[0][at[0]], axes[1][at[1]]])
            away = np.linalg.norm(X - centre, axis=1).reshape(cells, cells)
            far = near if rank else float(away[mine].max())
            found.append((tuple(float(c) for c in centre), near, far, rank))
            covered = away < near
            depth = np.where(covered, 0.0, depth)
    return found
