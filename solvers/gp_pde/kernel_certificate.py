r"""How far a solution by conditioning can be trusted: fresh points, earlier rungs, and what is still free.

.. math:: e_n \approx d_n \frac{r}{1 - r}, \qquad d_n = \|u_n - u_{n/2}\|, \quad r = d_n / d_{n/2}

the rest of a geometric sequence, times three; r is measured, never assumed.  What the worst of many fresh points would
still change is computed by conditioning on them as well, and counts too.

Notation  u_n solution of n points; d_n differences; v the function of size one that is least determined by the data.
Cost      one evaluation at some thousand points, and n^2 operations for each of 200 of them.
Pitfalls  The residual of a rough solution falls slowly, although u is right: it decides only where it is large.
          The first two rungs say nothing of a rate: their difference itself is the estimate.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sciml.random import generator
from sciml.solvers.gp_pde.collocation import symbol_size
from sciml.solvers.gp_pde.frequencies import lattice_step
from sciml.solvers.gp_pde.functional_gram import FunctionalGroup, Functionals, cross_gram, gram, gram_diagonal
from sciml.solvers.gp_pde.points import condition_rows, interior_points

__all__ = ["Certificate", "extrapolated", "verdict"]

N_TEST = 1000  # points at which rungs are compared
N_WIDE = {1: 8000, 2: 5000}  # points of the last look
N_WORST = 200  # of which so many are conditioned on
SINGULAR = 1e-4  # relative size of L v below which the equation leaves u undetermined, as far as this method can tell
ROUNDING = 1e-6  # deviation, relative to the prior's, below which it is rounding
UNRESOLVED = 0.3  # residual, relative to the source, from which the source is not resolved at all


def extrapolated(difference, before):
    """Estimate the error from two successive differences.

    Parameters
    ----------
    difference : float
        ``|u_n - u_(n/2)|``.
    before : float or None
        ``|u_(n/2) - u_(n/4)|``; None without one.

    Returns
    -------
    float
        At least three tenths of, and at most ten times, `difference`.

    Examples
    --------
    >>> extrapolated(1e-3, 4e-3), extrapolated(1e-3, None), extrapolated(1e-3, 1e-3)
    (0.001, 0.001, 0.01)
    """
    if before is None or not math.isfinite(before):
        return difference
    rate = difference / before if before > 0 else 0.0
    rest = rate / (1 - rate) if rate < 1 else math.inf
    return difference * min(max(3 * rest, 0.3), 10.0)


class Certificate:
    """Fresh points and what they say.

    Parameters
    ----------
    pde : PDE
        The problem.
    call : Call
        Settings of `solve_pde`.
    """

    def __init__(self, pde, call):
        self.pde, self.call = pde, call
        rng, half = generator(int(call.rng.integers(2**31))), N_TEST // 2
        X = interior_points(pde.domain, half, rng, uniform=True)
        self.X = np.concatenate([X, interior_points(pde.domain, N_TEST - half, rng)])
        self.rng = rng
        self.test = torch.as_tensor(self.X, device=call.device)
        self.sampled = pde._source.is_sampled
        self.rows = condition_rows(pde, {1: 1, 2: 100}.get(pde.n_dims, 200), rng) if pde.conditions else []
        low = np.pi / (pde.domain.box.upper - pde.domain.box.lower)
        self.low = symbol_size(pde.coefficient_values(self.X), low)
        self.value = {(0,) * pde.n_dims: 1.0}
        self.size = self.spread = 0.0
        self.residual_rms = self.residual_max = self.boundary = self.noise = self.singularity = math.inf
        self.algebraic = 0.0

    def _scale_of_source(self, f):
        return max(float(np.sqrt(np.mean(f**2))) if len(f) else 0.0, self.low * self.size) or 1.0

    def judge(self, rung, earlier):
        """Set the difference to the rung before, and the estimate."""
        posterior = rung.posterior
        rung.values = posterior.apply(self.test, self.value)
        self.size = float(rung.values.square().mean().sqrt())
        if earlier:
            change = float((rung.values - earlier[-1].values).square().mean().sqrt())
            rung.difference = change / self.size if self.size > 0 else 0.0
            before = earlier[-1].difference if len(earlier) > 1 else None
            rung.estimate = extrapolated(rung.difference, before)
        if rung.correction is not None and self.size > 0:  # what is left of the iteration, to first order
            rest = posterior.evaluate(self.test, self.value, rung.correction)
            self.algebraic = float(rest.square().mean().sqrt()) / self.size
            rung.estimate = max(rung.estimate, 3 * self.algebraic)
        self._residual(rung, earlier)
        if self.residual_rms > UNRESOLVED:
            rung.estimate = max(rung.estimate, min(self.residual_rms, 1.0))

    def _residual(self, rung, earlier):
        """Relative residuals of the equation: at fresh points, or at samples that were left out."""
        if not self.sampled:
            f = self.pde._source(self.X)
            r = rung.posterior.apply(self.test, self.pde.coefficient_values(self.X)).cpu().numpy() - f
        else:
            f = self.pde._source.values
            r = rung.left_out if rung.left_out is not None else rung.held_out
            if r is None and earlier:
                r = earlier[-1].held_out
            r = np.zeros(1) if r is None else r
        scale = self._scale_of_source(f)
        self.residual_rms, self.residual_max = float(np.sqrt(np.mean(r**2))) / scale, float(np.abs(r).max()) / scale

    def finish(self, rung):
        """Complete the certificate of the solution that is returned."""
        p = rung.posterior
        self.boundary = self._boundary(p)
        dev = p.deviation(self.test, (0,) * self.pde.n_dims)
        self.spread = float(dev.square().mean().sqrt())
        known = bool((p.noise > 0).any())
        self.noise = self.spread / self.size if known and self.size > 0 else 0.0
        if known:  # the posterior knows the noise, and its deviation is an error of its own
            rung.estimate = max(rung.estimate, self.noise)
        if self.size > 0 and not self.sampled:
            change, largest = self._worst(p)
            self.residual_max = max(self.residual_max, largest)
            if not known:
                rung.estimate = max(rung.estimate, change)
        if rung.n_iter == 0:
            self.singularity = self._singularity(p)

    def retire(self, rung, last):
        """Let go of the factor of a rung that is compared with no more; the last dense one tells of singularity."""
        if last and rung.n_iter == 0:
            self.singularity = self._singularity(rung.posterior)
        rung.posterior.forget()

    def _boundary(self, posterior):
        """Relative residual of the conditions at fresh points."""
        r, g = [], []
        for rows in self.rows:
            X = torch.as_tensor(rows.X, device=self.call.device)
            out = posterior.apply(X, rows.terms).cpu().numpy()
            if rows.minus is not None:
                out = (
                    out
                    - posterior.apply(torch.as_tensor(rows.minus, device=self.call.device), rows.terms).cpu().numpy()
                )
            order = max(sum(a) for a in rows.terms)
            side = float(np.min(self.pde.domain.box.upper - self.pde.domain.box.lower))
            r.append((out - rows.rhs) * side**order)
            g.append(rows.rhs * side**order)
        if not r:
            return 0.0
        r, g = np.concatenate(r), np.concatenate(g)
        scale = max(float(np.sqrt(np.mean(g**2))), self.size) or 1.0
        return float(np.sqrt(np.mean(r**2))) / scale

    def _worst(self, posterior):
        """What the worst of many fresh points would change in u, relative, and the largest residual among them."""
        d = self.pde.n_dims
        X = interior_points(self.pde.domain, N_WIDE.get(d, 4000), self.rng, uniform=True)
        terms = self.pde.coefficient_values(X)
        f = self.pde._source(X)
        r = f - posterior.apply(torch.as_tensor(X, device=self.call.device), terms).cpu().numpy()
        at = np.argsort(-np.abs(r))[:N_WORST]
        Z = torch.as_tensor(X[at], device=self.call.device)
        chosen = {
            a: (c if isinstance(c, float) else torch.as_tensor(c[at], device=self.call.device))
            for a, c in terms.items()
        }
        G = Functionals([FunctionalGroup(Z, chosen)])
        V = posterior._reduced(G)
        C = gram(posterior.covariance, G)
        prior = float(C.diagonal().mean())
        C = C - V.T @ V
        lam, Q = torch.linalg.eigh((C + C.T) / 2)
        gain = torch.where(lam > 1e-10 * prior, 1 / lam.clamp(min=1e-300), torch.zeros_like(lam))
        w = Q @ (gain * (Q.T @ torch.as_tensor(r[at], device=self.call.device)))
        U = self._values(N_TEST)
        change = cross_gram(posterior.covariance, U, G) @ w - posterior._reduced(U).T @ (V @ w)
        largest = float(np.abs(r).max()) / self._scale_of_source(f)
        return float(change.square().mean().sqrt()) / self.size, largest

    def _values(self, n):
        """The value of u at the first n test points, as functionals."""
        return Functionals([FunctionalGroup(self.test[:n], self.value)])

    def _singularity(self, posterior):
        """Relative size of L v for the function v that the data determine least."""
        dev = posterior.deviation(self.test, (0,) * self.pde.n_dims)
        at = int(dev.argmax())
        prior = float(gram_diagonal(posterior.covariance, self._values(1)).sqrt()) * posterior.amplitude
        if not float(dev[at]) > ROUNDING * prior:
            return math.inf  # u is determined everywhere, and what is left is rounding
        Z = self.test[at : at + 1]
        v = posterior.covariance_with(self.test, self.value, Z)[:, 0]
        Lv = posterior.covariance_with(self.test, self.pde.coefficient_values(self.X), Z)[:, 0]
        size = self.low * float(v.square().mean().sqrt())
        return float(Lv.square().mean().sqrt()) / size if size > 0 else math.inf


def _lattice(pde, max_frequency):
    """Why samples cannot exclude aliases, or None."""
    X, box = pde._source.points, pde.domain.box
    n, d = len(X), pde.n_dims
    nyquist = np.pi * n ** (1 / d) / (box.upper - box.lower)
    for j in range(d):
        step = lattice_step(X[:, j], box.lower[j], box.upper[j], 10 * nyquist[j])
        if step is not None and (max_frequency is None or max_frequency > 0.5 * step * (1 + 1e-9)):
            return (
                f"the samples lie on a lattice in dimension {j}: frequencies above {step / 2:.4g} rad / unit fold into "
                f"the band unseen; pass max_frequency if the source is known to hold none, or add samples off the "
                f"lattice"
            )
    return None


def verdict(pde, call, certificate, rung):
    """The status and its reason.

    Parameters
    ----------
    pde : PDE
        The problem.
    call : Call
        Settings of `solve_pde`.
    certificate : Certificate
        Finished.
    rung : Rung
        What is returned.

    Returns
    -------
    tuple (str, str)
    """
    if certificate.singularity < SINGULAR:
        return "near_singular", (
            f"a function of size one meets the equation and its conditions with zero data to "
            f"{certificate.singularity:.0e}; u is not unique. Check for a resonance or a missing condition"
        )
    lattice = _lattice(pde, call.max_frequency) if certificate.sampled else None
    if lattice:
        return "alias_warning", lattice
    if 3 * certificate.algebraic > call.tol:
        return "not_converged", (
            f"the iteration ended with a relative residual of {rung.residual_data:.0e} after {rung.n_iter} steps, "
            f"which leaves {certificate.algebraic:.0e} of u; raise max_iter or n_neighbours, or lower smoothness"
        )
    if certificate.residual_rms > UNRESOLVED:
        return "not_converged", (
            f"points that were not used show a residual of {certificate.residual_rms:.0e} of the source: it is not "
            f"resolved. Take more points"
        )
    if certificate.noise > call.tol:
        return "not_converged", f"the noise of the data leaves {certificate.noise:.0e} of u; loosen tol"
    if not rung.estimate <= call.tol:
        remedy = "sample more densely" if certificate.sampled else "raise n_points or max_features"
        return "not_converged", f"{remedy}, or loosen tol; for smooth solutions use method='auto'"
    return "converged", "the error estimate is at most tol"
