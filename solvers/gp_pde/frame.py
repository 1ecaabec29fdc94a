r"""Very many scattered samples of the source: an equispaced Fourier frame makes them a function, then the equation is
solved.

.. math:: L u = f \text{ known at } 10^3 \dots 10^6 \text{ scattered points, } \qquad
          f \approx \sum_k F_k e^{2 \pi i k \cdot (x - c) / T}, \quad T > L.

A dense least-squares problem takes n P^2 operations and n P numbers; with a million samples and ten thousand features
there is no room for it.  On a periodic box longer than the domain sines and cosines are equispaced, so that products
with the (n, P) matrix are nonuniform FFTs, and in Slepian's coordinates a few dozen of them solve it to rounding
(`frame_fit`).  The fit is a function of points, and the equation with it as source is solved by the solver for
functions, boundary conditions exactly scaled, at no more cost than without samples.

Certificate  Samples held out show what the fit misses.  The equation is solved twice, for the fit to all samples and
             for one to half of them on a box of another length; the difference of the two solutions is what noise,
             gaps and the frame do to u.
Cost         see `frame_fit`; the solution of the equation adds seconds.
Pitfalls     Samples on a lattice have aliases, and gaps hide what happens in them: both are told.  Noise of the samples
             is averaged, not removed: pass ``noise="learn"``, and the estimate says how much of it is left in u.

References
----------
P. Greengard, M. Rachh, A. Barnett, Equispaced Fourier representations for efficient Gaussian process regression from a
billion data points, 2022, arXiv 2210.10210. B. Adcock, D. Huybrechs, Frames and numerical approximation, 2019,
arXiv 1612.04464.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from sciml.exceptions import InvalidInputError, MemoryBudgetError
from sciml.linalg.threads import thread_limit
from sciml.solvers.gp_pde.frame_fit import LIGHT, find_band, fit_dense, fit_fast
from sciml.solvers.gp_pde.frequencies import lattice_step
from sciml.solvers.gp_pde.plan import _widest_gap
from sciml.solvers.gp_pde.points import interior_points
from sciml.validation import check_number

__all__ = ["FourierFrame", "route"]

logger = logging.getLogger(__name__)

MOST = {1: 1200, 2: 400, 3: 40}  # modes along each dimension
DRAWN = {1: 4000, 2: 40_000, 3: 100_000}  # samples of a source that can be evaluated


@dataclass(frozen=True)
class FourierFrame:
    """Options of ``method="frame"``.

    Parameters
    ----------
    ratio : float
        Length of the periodic box over that of the domain, 1.1 to 4. Default 1.7171: longer boxes need more modes,
        shorter ones larger coefficients; an odd number, so that frequencies of a test do not fall on the frame.
    second_ratio : float
        That of the second fit, whose difference certifies the first. Default 1.9373.
    hold_out : float
        Part of the samples that no fit sees, 0.01 to 0.5. Default 0.1; at most 20,000 samples.
    sweeps : int
        Sweeps of sparse Bayesian learning where samples are fewer than three times the coordinates. Default 12; 0
        keeps the prior flat.

    Raises
    ------
    InvalidInputError
        A value is out of range.

    Examples
    --------
    >>> FourierFrame(ratio=1.5).sweeps
    12
    """

    ratio: float = 1.7171
    second_ratio: float = 1.9373
    hold_out: float = 0.1
    sweeps: int = 12

    def __post_init__(self):
        for name in ("ratio", "second_ratio"):
            check_number(name, getattr(self, name), low=1.1, high=4.0)
        check_number("hold_out", self.hold_out, low=0.01, high=0.5)
        check_number("sweeps", self.sweeps, low=0, integer=True)
        if abs(self.ratio - self.second_ratio) < 0.02:
            raise InvalidInputError(
                f"second_ratio must differ from ratio by 0.02 at least; got {self.second_ratio} and {self.ratio}. Two "
                f"boxes of one length make the same errors."
            )


def route(pde, call, options):
    """Solve from samples of the source; see `solve_pde`.

    Parameters
    ----------
    pde : PDE
        The problem; a source that can be evaluated is sampled first.
    call : Call
        Settings.
    options : FourierFrame
        Options of the method.

    Returns
    -------
    PDESolution
    """
    started = time.perf_counter()
    d = pde.n_dims
    if d > 3:
        raise InvalidInputError(f"method='frame' takes one to three dimensions; got {d}. Use method='carriers'.")
    if pde._source.is_sampled:
        X, f = pde._source.points, pde._source.values
    else:
        X = interior_points(pde.domain, DRAWN[d], call.rng, uniform=True)
        f = pde._source(X)
    with thread_limit(call.threads):
        fits = _Fits(pde, call, options, X, f)
        fits.search()
        first, second = fits.first(), fits.second()
    fitted = time.perf_counter()
    tol = max(call.tol, min(0.1, 0.3 * fits.error))  # beyond what the samples tell there is nothing to solve
    solutions = [_solve(pde, call, source, tol) for source in (first, second)]
    seconds = {"analysis": fitted - started, "total": time.perf_counter() - started}
    return _certified(pde, call, fits, *solutions, seconds)


class _Fits:
    """Samples in random order, those held out first, and the fits to the others."""

    def __init__(self, pde, call, options, X, f):
        self.pde, self.call, self.options, self.box = pde, call, options, pde.domain.box
        order = call.rng.permutation(len(X))
        self.X = torch.as_tensor(X[order], device=call.device)
        self.f = torch.as_tensor(f[order], device=call.device)
        self.n_held = max(1, min(20_000, int(options.hold_out * len(X))))
        self.n = len(X) - self.n_held
        if self.n < 8:
            raise InvalidInputError(
                f"source must hold at least 9 samples for a frame; got {len(X)}. Sample it more densely, or pass a "
                f"callable."
            )
        self.size = float(self.f.square().mean().sqrt())
        self.lattice, top = self._lattice(X)
        d, length = len(self.box.bounds), self.box.upper - self.box.lower
        coordinates = (self.n / 1.3) ** (1 / d)
        most = [max(1, min(MOST[d], int((coordinates - 6) * options.ratio / 2))) for _ in range(d)]
        reach = options.ratio * length / (2 * np.pi)
        self.limit = [
            int(max(1, min(k, t * r + (0 if lattice else 10))))
            for k, t, r, lattice in zip(most, top, reach, [bool(self.lattice)] * d, strict=True)
        ]
        self.capped = [k < m for k, m in zip(self.limit, most, strict=True)]
        needed = self.n * (8 * 16 * d + 8 * (3 * d + 6)) + 200 * math.prod(2 * k + 1 for k in self.limit)
        if needed > call.budget:
            raise MemoryBudgetError(
                f"memory must hold the nonuniform transform of {self.n} samples, {needed / 2**30:.2f} GiB; the budget "
                f"is {call.budget / 2**30:.2f} GiB. Raise `memory`, or pass fewer samples.",
                needed=int(needed),
                allowed=int(call.budget),
            )
        self.K, self.n_iter, self.notes = [0] * d, 0, []

    def _lattice(self, X):
        """Why samples have aliases, or None, and the highest frequency (d,) that they or the user's word admit."""
        box, d = self.box, X.shape[1]
        length = box.upper - box.lower
        word = self.call.max_frequency
        top, said = np.full(d, np.inf), []
        nyquist = np.pi * len(np.unique(X[:, 0])) / length if d == 1 else np.pi * len(X) ** (1 / d) / length
        for j in range(d):
            step = lattice_step(X[:, j], box.lower[j], box.upper[j], 8 * nyquist[j]) if len(X) < 300_000 else None
            if step is not None:
                top[j] = step / 2
                if word is None or word > 0.5 * step * (1 + 1e-9):
                    said.append(
                        f"the samples lie on a lattice in dimension {j}: frequencies above {step / 2:.4g} rad / unit "
                        f"fold into the band unseen"
                    )
        if word is not None:
            top = np.minimum(top, word)
        return "; ".join(said) or None, top

    def _coordinates(self, K, ratio):
        return math.prod(2 * k / ratio + 12 for k in K)

    def fit(self, start, stop, K, ratio, light=False):
        """Fit the samples from `start` to `stop` beyond those held out."""
        part = slice(self.n_held + start, self.n_held + stop)
        X, f = self.X[part], self.f[part]
        P, n = math.prod(2 * k + 1 for k in K), stop - start
        few = n < 1.5 * self._coordinates(K, ratio)
        if 100 * n * P < min(self.call.budget, 1e9) and n * P * P < (2e10 if few else 6e10):
            learn = self.options.sweeps if few else 0
            done, n_iter = fit_dense(X, f, self.box, K, ratio, sweeps=learn)
        else:
            done, n_iter = fit_fast(X, f, self.box, K, ratio, **({"passes": LIGHT} if light else {}))
        self.n_iter += n_iter
        return done

    def miss(self, fitted):
        """Root mean square and largest difference to the samples held out, relative to the samples' size."""
        X = self.X[: self.n_held].cpu().numpy()
        r = np.abs(fitted(X) - self.f[: self.n_held].cpu().numpy())
        return (float(np.sqrt(np.mean(r**2))) / self.size, float(r.max()) / self.size) if self.size else (0.0, 0.0)

    def search(self):
        """Find the band from the data, then from what light fits to a part of them leave."""
        if not self.size:
            return
        ratio, K, best = self.options.ratio, self.K, math.inf
        m = min(self.n, 200_000)
        part = slice(self.n_held, self.n_held + m)
        X, y = self.X[part], self.f[part]
        r, stale = y, 0
        for _ in range(12):
            wider = find_band(X, r, self.box, K, ratio, self.limit)
            if wider == list(K) and best < 0.01:
                break
            if wider == list(K):  # nothing stands out: the spectrum falls slowly
                wider = [min(t, math.ceil(1.2 * k) + 3) for k, t in zip(K, self.limit, strict=True)]
            if wider == list(K):
                break
            n = min(self.n, max(2000, int(5 * self._coordinates(wider, ratio))))
            fitted = self.fit(0, n, wider, ratio, light=True)
            error = self.miss(fitted)[0]
            logger.debug("band %s: held out %.1e", wider, error)
            stale = 0 if error < 0.7 * best else stale + 1
            K = wider
            if error < best:
                best, self.K = error, wider
            if error < 1e-6 or stale >= 2:
                break
            r = y - torch.as_tensor(fitted(X.cpu().numpy()), device=X.device)
        self.K = [min(t, k + 2) for k, t in zip(self.K, self.limit, strict=True)]

    def first(self):
        """The fit to all samples but those held out, in a band that is widened while that pays.

        A wider band than needed harms: its directions peak in corners, where samples are few.
        """
        fitted = self.fit(0, self.n, self.K, self.options.ratio)
        self.error, self.largest = self.miss(fitted)
        for _ in range(3):
            wider = [min(t, math.ceil(1.04 * k) + 1) for k, t in zip(self.K, self.limit, strict=True)]
            if self.error < min(0.01 * self.call.tol, 1e-10) or wider == self.K or not self.size:
                break
            trial = self.fit(0, self.n, wider, self.options.ratio)
            error, largest = self.miss(trial)
            logger.debug("band %s: held out %.1e", wider, error)
            better = error < 0.5 * self.error
            if error < self.error:
                fitted, self.K, self.error, self.largest = trial, wider, error, largest
            if not better:
                break
        return fitted

    def second(self):
        """Another box, and other samples: half of them where they are noisy, else most of them."""
        ratio = self.options.second_ratio
        K = [max(1, math.ceil(k * ratio / self.options.ratio)) for k in self.K]
        half = self.n // 2
        noisy = self.call.noise is not None or self.error > 1e-6  # then two fits to the same samples agree too well
        n = half if noisy and half > 8 * self._coordinates(K, ratio) else int(0.85 * self.n)
        return self.fit(self.n - n, self.n, K, ratio)


def _solve(pde, call, source, tol):
    """The equation with a function as source, by the solver for functions."""
    from sciml.solvers.gp_pde.solve import solve_pde

    return solve_pde(
        dataclasses.replace(pde, source=source),
        method="auto",
        tol=tol,
        start=call.start,
        max_features=call.max_features,
        max_iter=call.max_iter,
        slabs=call.slabs,
        random_state=int(call.rng.integers(2**31)),
        device=str(call.device),
        memory=int(call.budget),
        on_failure="ignore",
        progress=False,
    )


def _certified(pde, call, fits, one, two, seconds):
    """The first solution, with what the samples leave open in its certificate."""
    X = interior_points(pde.domain, 1500, call.rng, uniform=True)
    u, other = np.asarray(one(X)), np.asarray(two(X))
    size = float(np.sqrt(np.mean(u**2)))
    gap = float(np.sqrt(np.mean((u - other) ** 2)))
    difference = 2 * gap / size if size > 0 else (0.0 if gap == 0 else math.inf)
    # The solver's own difference would not know of what both fits miss; a resonance makes both meaningless.
    inner = one.error_estimate
    estimate = max(inner, difference)
    status, reason = _status(pde, call, fits, one, estimate)
    report = dict(one.report)
    report.update(
        solver=f"frame, {one.report['solver']}",
        why=f"{fits.n} samples fitted by {_sizes(fits.K)} modes in {fits.n_iter} steps; then {one.report['why']}",
        reason=reason,
        residual_validation=max(fits.error, one.report["residual_validation"] or 0.0),
        residual_max=max(fits.largest, one.report["residual_max"] or 0.0),
        difference_to_richer=difference,
        seconds=seconds,
        notes=[*one.report["notes"], *fits.notes],
        n_modes=[2 * k + 1 for k in fits.K],
        held_out=fits.error,
    )
    stretch = estimate / inner if inner > 0 and math.isfinite(estimate) else 1.0
    return dataclasses.replace(
        one,
        status=status,
        error_estimate=estimate,
        report=report,
        settings=dict(call.settings),
        factor=one.factor * stretch,
    )


def _sizes(K):
    return " x ".join(str(2 * k + 1) for k in K)


def _status(pde, call, fits, one, estimate):
    if one.status == "near_singular":
        return one.status, one.report["reason"]
    if pde._source.is_sampled and fits.lattice:
        return "alias_warning", (
            f"{fits.lattice}; pass max_frequency if the source is known to hold none, or add samples off the lattice"
        )
    if pde._source.is_sampled:
        n = min(len(pde._source.points), 50_000)
        where = _widest_gap(pde.domain, pde._source.points[:: max(1, len(pde._source.points) // n)], n, call.rng)
        if where:
            return "not_converged", f"{where}; sample there"
    if call.noise is None and fits.error > 10 * max(call.tol, 1e-13):
        return "not_converged", (
            f"samples held out differ by {fits.error:.0e} of their size from the fit: they are noisy (then pass "
            f"noise='learn'), or too few for what the source does"
        )
    if call.noise is None and fits.largest > 100 * max(call.tol, 1e-13) and fits.largest > 50 * fits.error:
        return "not_converged", (
            f"one sample held out differs by {fits.largest:.0e}: the source has a feature too narrow for the samples"
        )
    if not estimate <= call.tol:
        noise = f"; the samples scatter by {fits.error:.0e} of their size" if call.noise is not None else ""
        return "not_converged", f"more samples, or a looser tol, are needed{noise}"
    if one.status != "converged":
        return one.status, one.report["reason"]
    return "converged", "the error estimate is at most tol"
