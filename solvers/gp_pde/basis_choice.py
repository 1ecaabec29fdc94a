r"""Features for noisy data and for unknown parameters: how long the base, which carriers, how many points.

Exact callables tell by themselves how long an expansion must be.  Noisy samples do not: there a carrier is kept when
the evidence of the samples rises by more than chance would make it among all the frequencies that were looked at,

.. math:: \log p(f \mid \text{with}) - \log p(f \mid \text{without}) > \log N_\omega + 2.

Cost      a noisy search takes one maximisation of the evidence a carrier; 0.05 to 0.2 s each on a line.
Pitfalls  Waves of the operator itself need not show in the source: their frequencies, roots of its symbol, are carriers
          of their own and move with the parameters.

References
----------
A. Wilson, R. Adams, Gaussian process kernels for pattern discovery and extrapolation, 2013, arXiv 1302.4245.
"""

from __future__ import annotations

import itertools
import logging
import math

import numpy as np
import torch

from sciml.exceptions import MemoryBudgetError
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.evidence import Evidence, Rows, StructuredPrior
from sciml.solvers.gp_pde.features import JointBasis
from sciml.solvers.gp_pde.frequencies import _Fit, _Periodogram, _refine, _wrap, find_carriers, lattice_step
from sciml.solvers.gp_pde.lines import axis_needs, symbol_roots
from sciml.solvers.gp_pde.points import interior_points

__all__ = ["BasisChoice", "noisy_carriers"]

logger = logging.getLogger(__name__)

LONGEST = 260  # polynomials on a line beyond which carriers are taken instead
EXACT_FIT = 1e-7  # relative residual below which samples count as free of noise


def noisy_carriers(X, y, lower, upper, top, max_carriers=12):
    r"""Find carriers of noisy samples, each paid for by the evidence.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Points.
    y : torch.Tensor, shape (n,)
        Samples.
    lower, upper : tuple of float, length d
        The box.
    top : sequence of float, length d
        Largest angular frequency searched, rad / unit.
    max_carriers : int
        At most so many (default 12).

    Returns
    -------
    (JointBasis, HyperFit)
        Features that explain the samples, and their fit; its noise "source" is the level found.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = torch.as_tensor(rng.random((60, 1)))
    >>> y = torch.sin(80 * x[:, 0]) + 0.1 * torch.as_tensor(rng.standard_normal(60))
    >>> basis, fit = noisy_carriers(x, y, (0.0,), (1.0,), [300.0])
    >>> len(basis.omega), bool(abs(basis.omega[0, 0] - 80) < 0.5)
    (1, True)
    """
    n, d = X.shape
    base, terms = {1: 10, 2: 7}.get(d, 4), {1: 4, 2: 3}.get(d, 2)
    zero, spread = (0,) * d, float(y.std()) if n > 1 else 1.0

    def fitted(basis):
        rows = Rows(basis.evaluate(X, zero), y, 0.1 * spread, True, "source")
        return Evidence(StructuredPrior.of(basis), [rows], spread or 1.0).maximise(max_iter=40)

    basis = JointBasis(lower, upper, np.zeros((0, d)), (base,) * d, ())
    best = fitted(basis)
    search = _Periodogram(X, lower, upper, top)
    price = math.log(math.prod(len(g) for g in search.grids)) + 2
    lobes = 2 * np.pi / (np.array(upper) - np.array(lower))
    for _ in range(2 * max_carriers):
        if basis.n_features > 1.5 * n or best.noise["source"] < 1e-9 * spread:
            break
        residual = (y - basis.evaluate(X, zero) @ best.theta)[:, None]
        peak = search.peak(residual)
        near = [q for q, w in enumerate(basis.omega) if np.max(np.abs(_wrap(w, peak)) / lobes) < 2.01]
        low = np.all(np.abs(peak) < (base / math.pi / 2 + 0.5) * lobes)
        if near:
            sizes = tuple(m + 3 * (q in near) for q, m in enumerate(basis.n_envelope))
            trial, cost = JointBasis(lower, upper, basis.omega, basis.n_base, sizes), 2.0
        elif low:
            trial, cost = basis.enriched(max(3, max(basis.n_base) // 3), 0), 2.0
        elif len(basis.omega) < max_carriers:
            omega = np.vstack([basis.omega, peak])
            small = JointBasis(lower, upper, omega, (min(4, base),) * d, (2,) * len(omega))
            if small.n_features < n / 1.5:
                omega = _refine(_Fit(small, X, y[:, None]), 8).basis.omega
                if np.max(np.abs(omega[-1] - peak) / lobes) > 1:  # carried off by a neighbour
                    omega = np.vstack([basis.omega, peak])
            trial, cost = JointBasis(lower, upper, omega, basis.n_base, (*basis.n_envelope, terms)), price
        else:
            break
        fit = fitted(trial)
        if fit.log_evidence < best.log_evidence + cost:
            break
        basis, best = trial, fit
    logger.debug("noisy carriers %s, noise %.1e", basis.omega.tolist(), best.noise["source"])
    return basis, best


class BasisChoice:
    """A ladder of bases for a problem, or for a family of them over parameters.

    Parameters
    ----------
    corners : list of PDE
        Bound problems that span the family; one when nothing is unknown.
    bind : callable
        p -> bound PDE.
    call : Call
        Settings.
    noise : bool
        Whether the source is noisy.
    samples : tuple (X, f), optional
        Samples of the source, where it is not an exact callable.
    points : numpy.ndarray, shape (m, d), optional
        Observed points, which a basis should have the freedom to fit.
    """

    def __init__(self, corners, bind, call, *, noise, samples=None, points=None):
        self.corners, self.bind, self.call, self.noise = corners, bind, call, noise
        self.pde = corners[0]
        box = self.pde.domain.box
        self.lower, self.upper = tuple(map(float, box.lower)), tuple(map(float, box.upper))
        self.half, self.d = (box.upper - box.lower) / 2, self.pde.n_dims
        self.samples, self.points = samples, points
        self.omega, self.envelope, self.own, self.why = np.zeros((0, self.d)), (), False, ""
        self.alias, self.source_noise = None, None
        self.base = np.array([16.0 if self.d == 1 else 10.0 if self.d == 2 else 6.0] * self.d)
        if call.frequencies is not None:
            given = np.asarray(call.frequencies, float)
            given = given[:, None] * np.eye(self.d)[:1] if given.ndim == 1 and self.d == 1 else given
            if given.ndim == 1:
                given = np.array([w * e for w in given for e in np.eye(self.d)])
            self.omega, self.envelope = given, (8 if self.d == 1 else 4,) * len(given)
        if samples is not None:
            self._from_samples(*samples)
        self._from_callables()

    def _from_samples(self, X, f):
        """Carriers and base of the source's samples."""
        if not np.any(f):
            return
        n, d = len(X), self.d
        length = 2 * self.half
        top = {1: 16, 2: 8}.get(d, 4) * np.pi * n ** (1 / d) / length
        folded = []
        for j in range(d):
            apart = np.diff(np.unique(X[:, j]))
            apart = apart[apart > 1e-9 * length[j]]  # equal but for rounding
            if not len(apart) or np.pi / apart.min() > top[j]:
                continue  # whatever lattice they lie on folds beyond what is searched
            step = lattice_step(X[:, j], self.lower[j], self.upper[j], 2.1 * top[j])
            if step is not None:
                if step / 2 < top[j] and not (self.call.max_frequency or np.inf) <= step / 2:
                    folded.append(f"the samples lie on a lattice in dimension {j}: frequencies above {step / 2:.4g}")
                top[j] = min(top[j], step / 2)
        if folded:
            self.alias = "; ".join(folded) + " rad / unit fold into the band unseen"
        if self.call.max_frequency is not None:
            top = np.minimum(top, self.call.max_frequency)
        points, values = torch.as_tensor(X), torch.as_tensor(f)
        found = None
        known = len(self.omega) > 0
        if not self.noise and not known:
            fit = find_carriers(points, values[:, None], self.lower, self.upper, max_frequency=top, tol=1e-11)
            found = fit.basis if fit.residual < EXACT_FIT else None
            self.source_noise = 0.0 if found is not None else None
        if found is None and not known:
            found, fit = noisy_carriers(points, values, self.lower, self.upper, top)
            self.source_noise = fit.noise["source"]
        if found is not None:
            self.omega = found.omega
            self.envelope = tuple(m + (3 if d == 1 else 1) for m in found.n_envelope)
            self.base = np.maximum(self.base, np.array(found.n_base) + 4.0)
        self.why = f"{n} samples of the source, {len(self.omega)} carriers"

    def _from_callables(self):
        """Lengths along the axes that exact callables and the operator's own waves ask for."""
        exact = self.samples is None
        rng, lengths = self.call.rng, []
        for pde in self.corners:
            for j in range(self.d):
                if exact or self.d > 1:
                    needs = axis_needs(pde, j, rng, carriers=False)
                    lengths.append((j, needs.length if needs.resolved else 0, needs))
                elif pde.is_constant:
                    own, growth = symbol_roots(pde, j)
                    top = max([int(w * self.half[j]) + 20 for w in own], default=8)
                    lengths.append((j, max([top, *(int(6 + 4 * math.sqrt(g * self.half[j])) for g in growth)]), None))
        longest = np.array([max([8, *(m for i, m, _ in lengths if i == j)]) for j in range(self.d)], float)
        if self.d == 1:
            constant = all(pde.is_constant for pde in self.corners)
            if longest[0] > LONGEST and constant and len(self.omega) == 0 and exact:
                needs = axis_needs(self.corners[len(self.corners) // 2], 0, rng)
                if needs.omega:
                    self.omega, self.envelope = np.reshape(needs.omega, (-1, 1)), needs.n_envelope
                    self.base, self.own = np.maximum(self.base, needs.n_base), True
            if len(self.omega) and constant:
                self.own = True
            if not self.own:
                self.base = np.maximum(self.base, longest + 8)
            if not self.why:
                self.why = f"{len(self.omega)} carriers" if self.own else "plain Chebyshev, resolved over the bounds"
            return
        if len(self.omega):  # what the carriers of the source hold, the base need not
            held = np.max(np.abs(self.omega), axis=0) * self.half
            longest = np.where(1.6 * held + 30 > longest, 8.0, longest)
        self.base = np.maximum(self.base, np.minimum(0.7 * longest + 4, 60 if self.d == 2 else 20))
        self.why = self.why or "total-degree Chebyshev over the bounds"

    def _waves(self, pde):
        """The operator's own frequencies on a line, where block 0 does not hold them."""
        if not self.own:
            return []
        order = pde.axis_order(0)
        own = symbol_roots(pde, 0)[0]
        own = [w for w in own if w * self.half[0] > 0.5 * self.base[0]]
        return own[: max(order, 1)]

    def at(self, level):
        """Features of a rung, points of the equation, and points on a face.

        Parameters
        ----------
        level : int
            0 is the smallest.

        Returns
        -------
        (callable, numpy.ndarray, int) or None
            p -> JointBasis; points (n, d); points on each face. None beyond ``max_features``.
        """
        large = math.prod(self.base) > 500 * math.factorial(self.d)
        grow = (1.25 if self.d < 3 and not large else 1.12) ** level
        base = tuple(int(math.ceil(b * grow)) for b in self.base)
        more = 2 * level if self.d == 1 else level
        sizes = tuple(int(m) + more for m in self.envelope)

        def basis_of(p):
            omega, terms = self.omega, sizes
            waves = self._waves(self.bind(p)) if self.own else []
            if waves:
                omega = np.concatenate([omega, np.reshape(waves, (-1, 1))])
                terms = (*sizes, *(6 + more for _ in waves))
            return JointBasis(self.lower, self.upper, omega, base, terms)

        P = JointBasis(self.lower, self.upper, self.omega, base, sizes).n_features + (12 if self.own else 0)
        if level > 0 and self.call.max_features < P:
            return None
        n = max(2 * P, 60) if P < 1500 else int(1.5 * P)
        needed = 8 * 5 * (n + P) * P
        if needed > self.call.budget:
            if level > 0:
                return None
            raise MemoryBudgetError(
                f"memory must hold the factorisation of {P} features, {needed / 2**30:.2f} GiB; the budget is "
                f"{self.call.budget / 2**30:.2f} GiB. Raise `memory`, or shorten the bounds of the parameters.",
                needed=int(needed),
                allowed=int(self.call.budget),
            )
        if self.samples is not None:
            X = self.samples[0]
        else:
            X = interior_points(self.pde.domain, n * (1 if isinstance(self.pde.domain, Box) else 2), self.call.rng)
        n_face = {1: 1, 2: max(30, int(1.3 * max(base)))}.get(self.d, max(100, int(1.5 * P ** (2 / 3))))
        return basis_of, X, n_face


def corner_values(vector, most=5):
    """Values of the parameters that span their ranges: all corners of the numbers, or few of them; and the middle."""
    m = len(vector.numbers)
    middle = np.zeros(vector.size)
    middle[:m] = [math.sqrt(a * b) if a > 0 else 0.5 * (a + b) for a, b in zip(vector.low, vector.high, strict=True)]
    out = [middle]
    ends = list(itertools.product(*zip(vector.low, vector.high, strict=True))) if m else []
    for end in ends if len(ends) < most else [ends[0], ends[-1], *ends[1 : most - 2]]:
        p = middle.copy()
        p[:m] = end
        out.append(p)
    for name, s in vector.slices.items():
        for sign in (-0.9, 0.9):
            p = middle.copy()
            p[s.start] = sign * vector.functions[name].spread
            out.append(p)
    return out
