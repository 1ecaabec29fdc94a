r"""Plans in frequency *vectors*: plane waves in all directions for equations whose solutions are waves.

.. math:: u(x) = \sum_{|k| < m_0} a_k T_k(\xi) + \sum_q \sum_{|k| < m_q} T_k(\xi)
          \bigl(b_{qk} \cos \omega_q \cdot x + c_{qk} \sin \omega_q \cdot x\bigr).

Products of axes waste features on a wave that runs obliquely; frequency vectors do not.  The Helmholtz equation
:math:`\Delta u + k^2 u = f` says more: apart from one particular solution, u is a superposition of waves with
:math:`|\omega| = k` (for other equations of second order, on an ellipse), so directions spread evenly and no envelopes
are all that it needs.  The particular solution has the frequencies of the source, found from its samples, under
envelopes, and a block of polynomials.  Waves in many directions are nearly dependent; least squares with a prior at the
level of rounding does not mind, as long as the coefficients stay moderate [1]_.

Notation  d dimensions; omega (Q, d) frequency vectors, one of each pair +-omega; k wave number; R radius of the domain
          about the centre of its box; n angular orders that a ring resolves, k R + c (k R)^(1/3).
Cost      P = 2 n features in two dimensions (n + 1)^2 in three; the wave number enters once or twice, not as a volume.
Pitfalls  Waves that are entire carry a singularity badly: a point source at a distance below about 0.1 of the domain,
          or in a notch, needs coefficients so large that rounding shows; the certificate tells.  Fields around holes
          get `multipoles`, in the plane.
          Boundary data must resolve the waves: some `n_boundary` points on each face.

References
----------
.. [1] B. Adcock, D. Huybrechs, Frames and numerical approximation, 2019, arXiv 1612.04464.
.. [2] R. Hiptmair, A. Moiola, I. Perugia, A survey of Trefftz methods for the Helmholtz equation, 2016,
   arXiv 1506.04521.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.solvers.gp_pde import plan as plans
from sciml.solvers.gp_pde.features import JointBasis
from sciml.solvers.gp_pde.frequencies import find_carriers
from sciml.solvers.gp_pde.multipoles import Multipoles, find_holes
from sciml.solvers.gp_pde.plan import Plan
from sciml.solvers.gp_pde.points import interior_points

__all__ = ["WaveBasis", "joint_plan", "sphere_directions", "wave_matrix"]

logger = logging.getLogger(__name__)

PACE = 2.0  # by how many (k R)^(1/3) a ring grows from one rung to the next
SHORT = 40.0  # below this k R polynomials are cheap, and they carry what waves cannot: singularities near by


@dataclass(frozen=True)
class WaveBasis(JointBasis):
    """A joint basis whose last carriers are pure plane waves, evaluated together.

    Parameters
    ----------
    lower, upper, omega, n_base, n_envelope :
        As for `JointBasis`.
    n_waves : int
        How many of the last carriers are pure waves, with one envelope term each.
    multipoles : tuple of Multipoles
        Waves out of holes of the domain, after all others.
    """

    n_waves: int = 0
    multipoles: tuple = ()

    @property
    def n_features(self) -> int:
        """Number of features P."""
        return super().n_features + self._n_outgoing

    @property
    def _n_outgoing(self):
        return sum(m.n_features for m in self.multipoles)

    @property
    def n_boundary(self) -> int:
        """Points that each face of a box needs, so that boundary data determine the waves twice over."""
        return math.ceil((2 * self.n_waves + 1.5 * self._n_outgoing) / self.n_dims) + 20

    def evaluate(self, X: torch.Tensor, alpha) -> torch.Tensor:
        """Evaluate the derivative `alpha` of every feature at X (n, d); shape (n, P)."""
        m = len(self.n_envelope) - self.n_waves
        others = JointBasis(self.lower, self.upper, self.omega[:m], self.n_base, self.n_envelope[:m])
        omega = X.new_tensor(self.omega[m:])
        middle = (X.new_tensor(self.lower) + X.new_tensor(self.upper)) / 2
        phase = (X - middle) @ omega.T
        factor = torch.ones_like(omega[:, 0])
        for j, a in enumerate(alpha):
            factor = factor * omega[:, j] ** a
        cos, sin = torch.cos(phase) * factor, torch.sin(phase) * factor
        even, odd = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)][sum(alpha) % 4]
        waves = torch.stack([even, odd], dim=2).flatten(1)
        return torch.cat([others.evaluate(X, alpha), waves, *(m.evaluate(X, alpha) for m in self.multipoles)], dim=1)

    def state(self) -> dict:
        """Plain values that rebuild it."""
        return {
            "lower": [float(v) for v in self.lower],
            "upper": [float(v) for v in self.upper],
            "omega": np.asarray(self.omega).tolist(),
            "n_base": [int(m) for m in self.n_base],
            "n_envelope": [int(m) for m in self.n_envelope],
            "n_waves": int(self.n_waves),
            "multipoles": [[list(m.centre), m.radius, m.wave_number, int(m.orders)] for m in self.multipoles],
        }

    @classmethod
    def from_state(cls, state) -> WaveBasis:
        """The basis of `state`."""
        d = len(state["lower"])
        return cls(
            tuple(state["lower"]),
            tuple(state["upper"]),
            np.reshape(state["omega"], (-1, d)),
            tuple(state["n_base"]),
            tuple(state["n_envelope"]),
            int(state["n_waves"]),
            tuple(Multipoles(tuple(c), float(r), float(k), int(n)) for c, r, k, n in state["multipoles"]),
        )


def joint_plan(pde, *, rng, frequencies=None, max_features=4000, max_frequency=None):
    """Plan a solution in frequency vectors.

    Parameters
    ----------
    pde : PDE
        The problem; any domain, any linear operator.
    rng : numpy.random.Generator
        Source of points.
    frequencies : array, shape (Q, d) or (Q,), optional
        Carriers of the source known beforehand, rad / unit; found from its values when None.
    max_features : int
        Bound on the features of a rung, default 4000.
    max_frequency : float, optional
        The user's word that samples of the source hold no frequency above, rad / unit.

    Returns
    -------
    Plan
        Rungs with ever more directions, envelope terms and polynomials.  Where the operator has no sphere of waves
        (variable coefficients, first-order terms, exponential solutions), carriers of the source alone.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.solvers.gp_pde import PDE, Box, Dirichlet
    >>> helmholtz = {(2, 0): 1.0, (0, 2): 1.0, (0, 0): 100.0**2}
    >>> pde = PDE(Box([(0, 1)] * 2), helmholtz, 0.0, [Dirichlet(lambda X: np.cos(100 * X[:, 0]))])
    >>> basis = joint_plan(pde, rng=np.random.default_rng(0)).rungs(0)
    >>> basis.n_features < 300, bool(np.allclose(np.linalg.norm(basis.omega, axis=1), 100))
    (True, True)
    """
    root = wave_matrix(pde)
    if root is None or pde.n_dims == 1:
        inner = _source_plan(pde, rng, frequencies, max_features, max_frequency, plain=False)
        inner.why = f"{inner.why}; the operator has no sphere of waves"
        return inner
    size = _radius(pde, root, rng)
    inner = _source_plan(pde, rng, frequencies, max_features, max_frequency, plain=True, short=size < SHORT)
    round_waves = pde.n_dims == 2 and np.allclose(root, root[0, 0] * np.eye(2), rtol=1e-12)
    holes = find_holes(pde.domain) if round_waves and pde.domain is not pde.domain.box else []

    def sized(level, first):
        source = inner.rungs(level)
        if source is None:
            return None
        orders = math.ceil(size + 4 + (first + PACE * level) * size ** (1 / 3))
        ring = sphere_directions(orders, pde.n_dims) @ root.T
        basis = WaveBasis(
            source.lower,
            source.upper,
            np.vstack([source.omega, ring]),
            source.n_base,
            tuple(source.n_envelope) + (1,) * len(ring),
            n_waves=len(ring),
            multipoles=tuple(
                Multipoles(centre, near, root[0, 0], math.ceil(root[0, 0] * far) + 8 + 4 * level)
                for centre, near, far, rank in holes
                if rank == 0 or level > 2  # one centre carries what lies deep; more of them reach into arms
            ),
        )
        return basis if basis.n_features <= max_features else None

    first = next(
        (c for c in (6 if size < SHORT else 3, 2, 1, 0, -1) if sized(1, c) is not None), 3
    )  # two rungs at least
    what = f"{len(inner.carriers)} carriers of the source" if inner.carriers else "a smooth source"
    what += f"; multipoles in {sum(h[3] == 0 for h in holes)} holes" if holes else ""
    why = f"waves of the operator's own in all directions, {size:.3g} rad from the centre to the edge; {what}"
    plan = Plan("collocation", why, lambda level: sized(level, first), inner.carriers, alias=inner.alias)
    plan.resolved, plan.gap = inner.resolved, inner.gap
    return plan


def wave_matrix(pde):
    r"""Matrix :math:`\Lambda` (d, d) with :math:`L e^{i \omega \cdot x} = 0` for all ``omega = Lambda s``, ``|s| = 1``.

    Parameters
    ----------
    pde : PDE
        The problem.

    Returns
    -------
    numpy.ndarray or None
        None unless the operator is a constant one of second order, without first-order terms, whose symbol vanishes on
        an ellipsoid: for the Helmholtz equation k times the identity.

    Examples
    --------
    >>> from sciml.solvers.gp_pde import PDE, Box, Dirichlet
    >>> wave_matrix(PDE(Box([(0, 1)] * 2), {(2, 0): 1.0, (0, 2): 4.0, (0, 0): 16.0}, 0.0, [Dirichlet(1.0)]))
    array([[4., 0.],
           [0., 2.]])
    """
    d = pde.n_dims
    if not pde.is_constant or any(sum(alpha) not in (0, 2) for alpha in pde._coefficients):
        return None
    S, c = np.zeros((d, d)), 0.0
    for alpha, f in pde._coefficients.items():
        at = [j for j in range(d) for _ in range(alpha[j])]
        if not at:
            c = f.constant
            continue
        S[at[0], at[1]] += f.constant / 2
        S[at[1], at[0]] += f.constant / 2
    if c == 0:
        return None
    size, turn = np.linalg.eigh(S / c)  # symbol c (1 - omega^T (S / c) omega)
    if not size[0] > 1e-12 * abs(size[-1]):
        return None
    return (turn / np.sqrt(size)) @ turn.T


def sphere_directions(n, d):
    """Evenly spread directions that resolve angular orders up to `n`, one of each pair of opposite ones.

    Parameters
    ----------
    n : int
        Highest angular order.
    d : int
        Dimensions, 2 or 3.

    Returns
    -------
    numpy.ndarray, shape (Q, d)
        Unit vectors; Q = n + 1 in two dimensions, about (n + 1)^2 / 2 in three (a Fibonacci lattice).

    Examples
    --------
    >>> sphere_directions(1, 2).round(6) + 0.0
    array([[ 0.707107,  0.707107],
           [-0.707107,  0.707107]])
    """
    if d == 2:
        angle = np.pi * (np.arange(n + 1) + 0.5) / (n + 1)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    Q = math.ceil((n + 1) ** 2 / 2)
    z = (np.arange(Q) + 0.5) / Q  # the upper half of a lattice of 2 Q points
    angle = np.pi * (1 + 5**0.5) * np.arange(Q)
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


def _radius(pde, root, rng):
    """Largest phase of a wave between the centre of the box and a point of the domain, rad."""
    box = pde.domain.box
    middle = (box.lower + box.upper) / 2
    if pde.domain is box:
        X = np.stack(np.meshgrid(*box.bounds, indexing="ij"), axis=-1).reshape(-1, pde.n_dims)
    else:
        X = interior_points(pde.domain, 4000, rng, uniform=True)
    return 1.02 * float(np.max(np.linalg.norm((X - middle) @ root, axis=1)))


def _source_plan(pde, rng, frequencies, max_features, max_frequency, plain, short=False):
    """Rungs for a particular solution; `plain` says that the homogeneous part is cared for elsewhere."""
    if pde._source.is_sampled:
        return plans._from_samples(pde, rng, True, frequencies, max_frequency, max_features)
    if not plain:
        return plans._in_region(pde, rng, True, frequencies, max_frequency, max_features)
    d, box = pde.n_dims, pde.domain.box
    lower, upper = tuple(box.lower), tuple(box.upper)
    omega, sizes, weights = np.zeros((0, d)), (), ()
    least = {2: 14, 3: 8}[d] if short else {2: 4, 3: 3}[d]
    base, resolved = least, True
    if frequencies is not None:
        omega = plans._vectors(frequencies, d)
        sizes, weights, base = (6,) * len(omega), np.ones(len(omega)), 8
    elif pde._source.constant is None:
        omega, sizes, weights, base, resolved = _carriers(pde, rng, max_frequency, max_features)
    found = [{"omega": w.tolist(), "weight": float(v)} for w, v in zip(omega, weights, strict=True)]
    base, growth = max(base, least), {2: 1.35, 3: 1.2}[d]

    def rungs(level):
        more = math.ceil(base * growth**level) + level
        wider = tuple(m + (level + 1) // 2 for m in sizes)
        return JointBasis(lower, upper, omega, (more,) * d, wider)

    return Plan("collocation", "", rungs, found, resolved=resolved)


def _carriers(pde, rng, max_frequency, max_features):
    """Carriers of a source that can be evaluated: vectors, envelope sizes, weights, polynomials, whether resolved."""
    d, box = pde.n_dims, pde.domain.box
    n = {2: 1600}.get(d, 2400)
    X = interior_points(pde.domain, n, rng, uniform=True)
    f = pde._source(X)
    nothing = np.zeros((0, d)), (), (), 0, True
    if not np.any(f):
        return nothing
    top = [max_frequency or 4 * np.pi * n ** (1 / d) / w for w in box.upper - box.lower]
    fit = find_carriers(
        torch.as_tensor(X),
        torch.as_tensor(f[:, None]),
        tuple(box.lower),
        tuple(box.upper),
        max_frequency=top,
        max_features=min(n // 5, max_features // 2),
    )
    base = max(fit.basis.n_base) + 3
    if not fit.residual < 1e-6:  # broad-band: polynomials alone, and the ladder finds how many
        return np.zeros((0, d)), (), (), {2: 24, 3: 10}[d], True
    return fit.basis.omega, tuple(m + 3 for m in fit.basis.n_envelope), fit.weights, base, True
