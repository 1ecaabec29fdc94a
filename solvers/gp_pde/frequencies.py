r"""Find the carriers: which few frequencies, under which envelopes, explain the data.

A greedy search with continuous refinement.  The data are fitted by Chebyshev envelopes on the carriers found so far;
the periodogram of what is left shows where the fit lacks something: at low frequency the carrier-free block grows,
beside a known carrier its envelope widens, elsewhere a new carrier is born.  After every birth all carriers are refined
at once by variable projection (Gauss-Newton on the projected residual, Kaufman's Jacobian), so that a tone off the grid
is found to many digits.  The same search serves values along lines, one axis at a time, and scattered samples in d
dimensions.

Notation  X (n, d) points, Y (n, k) data; omega (Q, d) carriers; A features; r = Y - A c residual; h leverage.
Cost      one periodogram (a product of n x N_1 and n x N_2 matrices in two dimensions) and about ten small QRs a
          carrier.
Pitfalls  A lattice of points cannot tell a frequency from its alias: `lattice_step` finds such axes and the caller
          must say so.

References
----------
G. Golub, V. Pereyra, Separable nonlinear least squares: the variable projection method and its applications, 2003.
L. Kaufman, A variable projection method for solving separable nonlinear least squares problems, 1975.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import dct

from sciml.solvers.gp_pde.features import JointBasis

__all__ = ["CarrierFit", "chebyshev_length", "find_carriers", "lattice_step"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CarrierFit:
    """What the search found.

    Parameters
    ----------
    basis : JointBasis
        Carriers and envelope sizes that explain the data.
    weights : numpy.ndarray, shape (Q,)
        Root-mean-square size of each carrier's part of the data.
    residual : float
        Relative root-mean-square leave-one-out residual, dimensionless.
    """

    basis: JointBasis
    weights: np.ndarray
    residual: float


def find_carriers(
    X, Y, lower, upper, *, max_frequency, tol=1e-12, max_carriers=12, max_features=None, start=None, refine_only=False
):
    r"""Explain data by few carriers under polynomial envelopes.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Points inside the box.
    Y : torch.Tensor, shape (n, k)
        Data; the k columns share their carriers.
    lower, upper : sequence of float, length d
        The box, in units of x.
    max_frequency : sequence of float, length d
        Largest angular frequency searched in each dimension, rad / unit.
    tol : float
        Stop when the relative leave-one-out residual is below it (default: rounding of the data).
    max_carriers : int
        Give up beyond; data that need more are broad-band.
    max_features : int, optional
        Give up beyond; default ``n / 1.5``, since a square system predicts nothing.
    start : JointBasis, optional
        Carriers and sizes to begin with.
    refine_only : bool
        True adds no carrier beyond those of `start`.

    Returns
    -------
    CarrierFit

    Notes
    -----
    The search ends without an error when it cannot explain the data; the caller reads ``residual``.
    """
    n, d = X.shape
    lower, upper = tuple(map(float, lower)), tuple(map(float, upper))
    max_features = int(n / 1.5) if max_features is None else min(max_features, int(n / 1.5))
    basis = start or JointBasis(lower, upper, np.zeros((0, d)), (4,) * d, ())
    while basis.n_features > max_features and max(basis.n_base) > 1:
        basis = basis.enriched(-1, 0)
    scale = float(torch.linalg.norm(Y)) or 1.0
    fit = _Fit(basis, X, Y)
    if len(basis.omega):  # carriers that were given are mended first
        fit = _refine(fit, max_iter=12)
    best, stale, search = fit, 0, None
    for _ in range(6 * max_carriers):
        if fit.loo / scale < tol:
            break
        search = search or _Periodogram(X, lower, upper, max_frequency)
        peak = search.peak(fit.residual)
        trials, cheaply = [], n * fit.basis.n_features**2 > 3e8  # then one likely move, not a trial of each
        for grown, born in _moves(fit.basis, peak, max_carriers, refine_only, cheaply):
            if grown.n_features > max_features:
                continue
            trial = _Fit(grown, X, Y)
            if born or (len(grown.omega) and trial.loo < 0.3 * fit.loo):
                trial = _refine(trial, max_iter=12 if born else 3)
            cost = grown.n_features - fit.basis.n_features
            trials.append((math.log(max(trial.loo, 1e-3 * tol * scale) / fit.loo) / cost, trial))
        if not trials:
            break
        fit = min(trials, key=lambda pair: pair[0])[1]
        stale = 0 if fit.loo < 0.9 * best.loo else stale + 1
        if fit.loo < best.loo:
            best = fit
        if stale >= 4:
            break
    logger.debug("carriers %s, residual %.1e", best.basis.omega.tolist(), best.loo / scale)
    return CarrierFit(best.basis, best.carrier_sizes(), best.loo / scale)


def _moves(basis, peak, max_carriers, refine_only, cheaply):
    """Ways to enlarge a basis for a residual that peaks at `peak`: pairs (basis, whether a carrier was born)."""
    lower, upper, omega, base, sizes = basis.lower, basis.upper, basis.omega, basis.n_base, basis.n_envelope
    lobes = 2 * np.pi / (np.array(upper) - np.array(lower))
    # Fewer than three periods are cheap for polynomials on a line, and dear for total degrees in space.
    low = np.all(np.abs(peak) < (3 if len(lobes) == 1 else 1.2) * lobes)
    distance = [float(np.max(np.abs(_wrap(w, peak)) / lobes)) for w in omega]
    near = [q for q, gap in enumerate(distance) if gap < 2.01]
    if not near and distance and (refine_only or len(omega) >= max_carriers):  # none may be born: the nearest widens
        near = [int(np.argmin(distance))]
    born = not low and not near and not refine_only and len(omega) < max_carriers
    if not (cheaply and (near or born)):
        yield basis.enriched(2 if max(base) < 10 else max(base) // 4, 0), False
    if near and not low:
        yield JointBasis(lower, upper, omega, base, tuple(m + 2 * (q in near) for q, m in enumerate(sizes))), False
    if born:
        yield JointBasis(lower, upper, np.vstack([omega, peak]), base, (*sizes, 3)), True


def _wrap(omega, peak):
    """Difference of two frequency vectors, either of which may stand for its negative."""
    return min(omega - peak, omega + peak, key=lambda v: float(np.sum(v**2)))


class _Fit:
    """Least squares of Y in a basis: residual, leverage, leave-one-out size."""

    def __init__(self, basis, X, Y):
        self.basis, self.X, self.Y = basis, X, Y
        A = basis.evaluate(X, (0,) * basis.n_dims)
        self.scale = torch.linalg.norm(A, dim=0)
        P = A.shape[1]
        ridge = 1e-14 * torch.eye(P, dtype=A.dtype, device=A.device)
        self.Q, R = torch.linalg.qr(torch.cat([A / self.scale, ridge]))
        self.Q = self.Q[: len(X)]
        self.coef = torch.linalg.solve_triangular(R, self.Q.T @ Y, upper=True) / self.scale[:, None]
        self.A = A
        self.residual = Y - A @ self.coef
        leverage = (self.Q**2).sum(dim=1, keepdim=True).clamp(max=1 - 1e-6)
        self.size = float(torch.linalg.norm(self.residual))
        self.loo = float(torch.linalg.norm(self.residual / (1 - leverage)))

    def blocks(self):
        """Slices of the even and odd features of each carrier."""
        at = len(self.basis._sets[0])
        for index in self.basis._sets[1:]:
            p = len(index)
            yield slice(at, at + p), slice(at + p, at + 2 * p)
            at += 2 * p

    def carrier_sizes(self):
        rows = math.sqrt(self.Y.numel())
        out = []
        for even, odd in self.blocks():
            both = slice(even.start, odd.stop)
            out.append(float(torch.linalg.norm(self.A[:, both] @ self.coef[both])) / rows)
        return np.array(out)

    def jacobian(self):
        """Kaufman's Jacobian of the projected residual with respect to omega, shape (n k, Q d)."""
        centre = (self.X.new_tensor(self.basis.lower) + self.X.new_tensor(self.basis.upper)) / 2
        columns = []
        for even, odd in self.blocks():
            slope = self.A[:, even] @ self.coef[odd] - self.A[:, odd] @ self.coef[even]
            for j in range(self.basis.n_dims):
                D = (self.X[:, j] - centre[j])[:, None] * slope
                columns.append((D - self.Q @ (self.Q.T @ D)).reshape(-1))
        return torch.stack(columns, dim=1)


def _refine(fit, max_iter):
    """Move all carriers by Levenberg-Marquardt on the projected residual."""
    d = fit.basis.n_dims
    lobes = np.pi / (np.array(fit.basis.upper) - np.array(fit.basis.lower))
    damping = 1e-8
    for _ in range(max_iter):
        J = fit.jacobian()
        norms = torch.linalg.norm(J, dim=0)
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        U, s, Vt = torch.linalg.svd(J / norms, full_matrices=False)
        rhs = U.T @ fit.residual.reshape(-1)
        accepted = False
        for _ in range(5):
            step = ((Vt.T @ (s / (s**2 + damping) * rhs)) / norms).cpu().numpy().reshape(-1, d)
            step = step * min(1.0, 1.0 / max(1e-300, float(np.max(np.abs(step) / lobes))))
            moved = JointBasis(
                fit.basis.lower, fit.basis.upper, fit.basis.omega + step, fit.basis.n_base, fit.basis.n_envelope
            )
            trial = _Fit(moved, fit.X, fit.Y)
            if trial.size < fit.size:
                accepted = True
                break
            damping = max(damping, 1e-10) * 30
        if not accepted:
            break
        gain, fit, damping = trial.size / fit.size, trial, damping / 10
        if gain > 0.99:
            break
    return fit


class _Periodogram:
    """Power of a residual on a grid of frequency vectors; separable, hence products of matrices."""

    def __init__(self, X, lower, upper, max_frequency, max_points=3_000_000):
        length = np.array(upper) - np.array(lower)
        step = np.pi / length
        counts = [int(np.ceil(f / s)) for f, s in zip(max_frequency, step, strict=True)]
        sizes = [c + 1 if j == 0 else 2 * c + 1 for j, c in enumerate(counts)]
        shrink = max(1.0, (math.prod(sizes) / max_points) ** (1 / len(sizes)))
        counts = [max(1, int(c / shrink)) for c in counts]
        self.grids = [
            np.arange(0 if j == 0 else -c, c + 1) * s for j, (c, s) in enumerate(zip(counts, step, strict=True))
        ]
        centre = X.new_tensor((np.array(lower) + np.array(upper)) / 2)
        Z = X - centre
        self.E = [torch.exp(-1j * Z[:, j : j + 1] * X.new_tensor(g)) for j, g in enumerate(self.grids)]

    def power(self, R):
        """Sum over the columns of R (n, k) of the squared modulus of the transform."""
        if len(self.E) == 1:
            return (self.E[0].T @ R.to(self.E[0].dtype)).abs().square().sum(1)
        total = 0.0
        for column in R.T:
            F = self.E[0] * column[:, None]
            if len(self.E) == 2:
                F = F.T @ self.E[1]
            else:
                rest = self.E[1]
                for E in self.E[2:]:
                    rest = (rest[:, :, None] * E[:, None, :]).flatten(1)
                F = F.T @ rest
            total = total + F.abs() ** 2
        return total.reshape([len(g) for g in self.grids])

    def peak(self, R):
        """The frequency vector of largest power, sharpened by a parabola through the logarithm."""
        power = self.power(R)
        at = np.unravel_index(int(power.argmax()), power.shape)
        out = []
        for j, g in enumerate(self.grids):
            k = at[j]
            omega = g[k]
            if 0 < k < len(g) - 1:
                p = [float(power[tuple(at[i] + (s if i == j else 0) for i in range(len(at)))]) for s in (-1, 0, 1)]
                if min(p) > 0:
                    a, b, c = np.log(np.array(p) / p[1])  # the same whatever the units of the data
                    bend = a - 2 * b + c
                    omega += (g[1] - g[0]) * (0.5 * (a - c) / bend if bend < 0 else 0.0)
            out.append(float(omega))
        return np.array(out)


def chebyshev_length(values, tol=1e-13):
    r"""Number of Chebyshev coefficients that values on Chebyshev points need.

    Parameters
    ----------
    values : numpy.ndarray, shape (n + 1, k)
        Columns of values at ``cos(pi j / n)``.
    tol : float
        Coefficients below `tol` times the largest are rounding.

    Returns
    -------
    int or None
        None when the points do not resolve the values.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.cos(np.pi * np.arange(33) / 32)
    >>> chebyshev_length((x**3)[:, None]), chebyshev_length(np.sin(80 * x)[:, None])
    (4, None)
    """
    n = len(values) - 1
    c = np.abs(dct(values, type=1, axis=0)).max(axis=1) / n
    top = c.max()
    if top == 0:
        return 1
    envelope = np.maximum.accumulate(c[::-1])[::-1] / top
    tail = envelope[int(0.9 * n)]
    if tail > tol:  # a plateau is the noise of the data: resolved as far as they go
        flat = envelope[n // 4] < 3 * tail  # algebraic decay, as of a kink, is no plateau
        if n < 128 or tail > 1e-7 or not flat:
            return None
        tol = 3 * tail
    return int(np.argmax(envelope <= tol)) if envelope[-1] <= tol else n + 1


def lattice_step(x, lower, upper, max_frequency):
    r"""Smallest frequency that samples at `x` cannot tell from zero, or None.

    Parameters
    ----------
    x : numpy.ndarray, shape (n,)
        One coordinate of the samples.
    lower, upper : float
        The interval.
    max_frequency : float
        Search up to this frequency, rad / unit.

    Returns
    -------
    float or None
        :math:`2\pi / \Delta` where the coordinates lie on a lattice of spacing :math:`\Delta`.

    Examples
    --------
    >>> import numpy as np
    >>> round(lattice_step(np.linspace(0, 1, 11), 0.0, 1.0, 200.0) / (20 * np.pi), 6)
    1.0
    >>> lattice_step(np.random.default_rng(0).random(50), 0.0, 1.0, 2000.0) is None
    True
    """
    x = np.unique(np.asarray(x, float))
    if len(x) < 3:
        return None
    if len(x) > 1500:  # the window below costs the square; a crowd shows its spacing as the smallest distance
        sites = (x - x[0]) / np.diff(x).min()
        return float(2 * np.pi / np.diff(x).min()) if np.max(np.abs(sites - np.rint(sites))) < 1e-3 else None
    step = np.pi / (upper - lower) / 4
    omega = np.arange(int(4 * 2 * np.pi / (upper - lower) / step), int(max_frequency / step) + 2) * step
    for part in np.array_split(omega, max(1, len(omega) * len(x) // 4_000_000)):
        window = np.abs(np.exp(1j * np.outer(part, x - x[0])).mean(axis=1))
        for k in np.flatnonzero(window > 0.8):
            fine = np.linspace(part[k] - step, part[k] + step, 801)
            w = np.abs(np.exp(1j * np.outer(fine, x - x[0])).mean(axis=1))
            if w.max() > 0.999:
                return float(fine[w.argmax()])
    return None
