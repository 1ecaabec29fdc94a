r"""What an initial-value problem needs along time: frequencies and rates that follow from the data in space.

A mode :math:`e^{i k \cdot x}` of the initial data moves as :math:`e^{s t}` with the roots s of the symbol,
:math:`P(s, i k) = 0`: :math:`s = \pm i c |k|` for waves, :math:`-\nu |k|^2` for heat, the eigenvalues of a matrix for a
system.  None of them need show in the data, which say nothing about later times.  Here the data at the start are
taken apart into modes, their roots are found, and traces of them over time, with random phases, stand in for data on
lines of the time axis: `lines` measures those as it does all others.

Notation  d dimensions, one of them time; k (d - 1,) wave vector of a mode, rad / unit; s its roots, 1 / unit of time;
          weight the size of u that a mode sets off, relative to the largest.
Cost      a fast Fourier transform of the data on a grid, and an eigenvalue problem of the size of the system for each
          mode.
Pitfalls  Where the data vanish with the ends' own symmetry (odd for Dirichlet, even for Neumann) or wrap round, the
          modes are exact; else only the band of the data along x is known, and with it the largest frequency in time.
          Where data come from an earlier solve, what lies below its error is no mode: such a function says how far it
          can be trusted by an attribute ``accuracy``, relative.

References
----------
G. Whitham, Linear and nonlinear waves, 1974 (dispersion relations).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct

from sciml.solvers.gp_pde.conditions import Initial, Periodic
from sciml.solvers.gp_pde.domain import Box
from sciml.solvers.gp_pde.functions import PointFunction

__all__ = ["TimeContent", "symbol_eigenvalues", "time_content", "time_dimension"]

CUT = 1e-13  # modes below this part of the largest are rounding
MAX_MODES = 4000  # strongest modes whose roots are found
N_TRACES = 5
MERGE = 10.0  # modes closer than this over the half length of time share a carrier


def time_dimension(pde):
    """Return the dimension that holds time, by its Initial conditions, or None.

    Parameters
    ----------
    pde : PDE
        The problem.

    Returns
    -------
    int or None

    Examples
    --------
    >>> from sciml.solvers.gp_pde import PDE, Box, Initial, Periodic
    >>> time_dimension(PDE(Box([(0, 1), (0, 2)]), {(0, 1): 1.0, (1, 0): 2.0}, 0.0, [Initial(1.0), Periodic(0)]))
    1
    """
    dims = {c.dim % pde.n_dims for c in pde.conditions if isinstance(c, Initial)}
    return dims.pop() if len(dims) == 1 and isinstance(pde.domain, Box) else None


@dataclass
class TimeContent:
    """Rates of the modes that the data set off.

    Parameters
    ----------
    start : float
        Where time begins.
    dim : int
        The dimension of time.
    rates : numpy.ndarray, complex, shape (n,)
        Roots s, 1 / unit of time.
    weights : numpy.ndarray, shape (n,)
        Size of each, relative to the largest.
    complete : bool
        True when the modes make up all of the initial data; False when only their band is known.
    """

    start: float
    dim: int
    rates: np.ndarray
    weights: np.ndarray
    complete: bool

    @property
    def frequency(self) -> float:
        """Largest angular frequency in time, rad / unit; 0 when nothing is known."""
        return float(np.abs(self.rates.imag).max(initial=0.0))

    @property
    def rate(self) -> float:
        """Largest rate of growth or decay, 1 / unit of time."""
        return float(np.abs(self.rates.real).max(initial=0.0))

    def traces(self, rng, length):
        """Return functions of X that move as u does at some place, normalised, for lines along time.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the phases.
        length : float
            How long time lasts.

        Returns
        -------
        list of callable
            Each takes X (n, d) and returns (n,).
        """
        kept = self.weights > 0
        s, w = self.rates[kept], self.weights[kept]
        fastest = max(0.0, float(s.real.max(initial=0.0))) * length
        phases = rng.random((N_TRACES, len(s))) * 2 * math.pi
        return [_Trace(s, w * np.exp(1j * p - max(0.0, fastest - 600)), self.start, self.dim) for p in phases]

    def carriers(self, length):
        """Gather the frequencies into few carriers, each with an envelope as long as its modes ask for.

        Parameters
        ----------
        length : float
            How long time lasts.

        Returns
        -------
        (list of float, list of int, list of float, int) or None
            Carriers, rad / unit, their envelope terms and weights, and the terms of the slow part; None where more than
            12 are needed.
        """
        half = length / 2
        kept = (self.weights > 0) & (self.rates.imag >= 0)
        s, w = self.rates[kept], self.weights[kept]
        order = np.argsort(s.imag, kind="stable")
        s, w = s[order], w[order]
        groups: list[list] = []
        for i, rate in enumerate(s):
            slow = rate.imag * half < 3 * math.pi
            near = groups and (slow or (rate.imag - s[groups[-1][0]].imag) * half < MERGE)
            if near and (slow or s[groups[-1][0]].imag * half >= 3 * math.pi):
                groups[-1].append(i)
            else:
                groups.append([i])
        if len(groups) > 13:
            return None
        omega, sizes, weights, base = [], [], [], 4
        for members in groups:
            slow = s[members[0]].imag * half < 3 * math.pi
            centre = 0.0 if slow else float(s[members].imag.min() + s[members].imag.max()) / 2
            terms = self._envelope(s[members] - 1j * centre, w[members], half)
            if slow:
                base = terms
            else:
                omega.append(centre)
                sizes.append(terms)
                weights.append(float(w[members].max()))
        return omega, sizes, weights, base

    def _envelope(self, rates, weights, half):
        """Chebyshev terms of a few slow exponentials, relative to the largest part of u."""
        n, rng = 32, np.random.default_rng(0)
        growth = max(0.0, float(rates.real.max())) * 2 * half
        phases = np.exp(2j * math.pi * rng.random((3, len(rates))))
        while True:
            tau = half * (1 + np.cos(np.pi * np.arange(n + 1) / n))
            V = (
                np.exp(np.minimum(np.outer(tau, rates).real - growth, 0) + 1j * np.outer(tau, rates).imag) * weights
            ) @ (phases.T)
            c = np.abs(dct(np.c_[V.real, V.imag], type=1, axis=0)).max(axis=1) / n
            if c[int(0.9 * n) :].max() < CUT or n >= 4096:
                return int(np.flatnonzero(c > CUT).max(initial=0)) + 1
            n *= 2

    def occupied(self, half):
        """Return how many cells of width pi / half of the frequency axis hold a mode: half the features it takes."""
        strong = np.abs(self.rates.imag[self.weights > 1e-10])
        return len(np.unique(np.floor(strong * half / math.pi)))


class _Trace:
    """A sum of exponentials in time."""

    def __init__(self, rates, amplitudes, start, dim):
        self.rates, self.amplitudes, self.start, self.dim = rates, amplitudes, start, dim

    def __call__(self, X):
        t, out = X[:, self.dim] - self.start, np.zeros(len(X))
        block = max(1, 2_000_000 // max(1, len(self.rates)))
        for i in range(0, len(t), block):
            out[i : i + block] = (np.exp(np.outer(t[i : i + block], self.rates)) @ self.amplitudes).real
        return out


def symbol_eigenvalues(pde, K, X, dim):
    r"""Find the rates s of modes :math:`e^{i k \cdot x + s t}`, all coefficients frozen at points.

    Parameters
    ----------
    pde : PDE
        The problem; its nonlinear term is left out.
    K : numpy.ndarray, shape (n, d)
        Wave vectors, rad / unit; the entry of time is not used.
    X : numpy.ndarray, shape (1, d)
        Point at which coefficients are taken.
    dim : int
        The dimension of time.

    Returns
    -------
    numpy.ndarray, complex, shape (n, q)
        All finite roots; NaN where a mode has fewer.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.solvers.gp_pde import PDE, Box, Initial, Periodic
    >>> wave = PDE(Box([(0, 1), (0, 1)]), {(0, 2): 1.0, (2, 0): -9.0}, 0.0, [Initial(0.0, 1.0), Periodic(0)])
    >>> s = symbol_eigenvalues(wave, np.array([[2.0, 0.0]]), np.zeros((1, 2)), 1)
    >>> np.sort(s.imag).round(12).tolist()
    [[-6.0, 6.0]]
    """
    d, m, E = pde.n_dims, pde.n_unknowns, pde.n_equations
    p = pde.axis_order(dim)
    if p == 0 or m != E:
        return np.zeros((len(K), 0), complex)
    M = np.zeros((p + 1, len(K), E, m), complex)
    for e in range(E):
        for index, c in pde.coefficient_values(X, e).items():
            unknown, alpha = (index[0], index[1:]) if len(index) > d else (0, index)
            value = complex(np.ravel(c)[0])
            term = np.full(len(K), value)
            for j in range(d):
                if j != dim and alpha[j]:
                    term = term * (1j * K[:, j]) ** alpha[j]
            M[alpha[dim], :, e, unknown] += term
    lead = M[p]
    if m == 1:
        lead, rest = lead[:, 0, 0], M[:p, :, 0, 0]
        out = np.full((len(K), p), np.nan + 0j)
        good = np.abs(lead) > 1e-12 * max(1e-300, float(np.abs(lead).max()))
        C = np.zeros((int(good.sum()), p, p), complex)
        C[:, np.arange(1, p), np.arange(p - 1)] = 1.0
        C[:, :, -1] = -(rest[:, good] / lead[good]).T
        out[good] = np.linalg.eigvals(C)
        return out
    # M_0 + s M_1 + ... as a pencil A - s B; a singular leading matrix (a constraint) has infinite eigenvalues
    A, B = np.zeros((len(K), p * m, p * m), complex), np.zeros((len(K), p * m, p * m), complex)
    eye = np.eye(m)
    for i in range(p - 1):
        A[:, i * m : (i + 1) * m, (i + 1) * m : (i + 2) * m] = eye
        B[:, i * m : (i + 1) * m, i * m : (i + 1) * m] = eye
    for i in range(p):
        A[:, (p - 1) * m :, i * m : (i + 1) * m] = -M[i]
    B[:, (p - 1) * m :, (p - 1) * m :] = lead
    if np.linalg.cond(lead[0]) < 1e8:
        return np.linalg.eigvals(np.linalg.solve(B, A))
    from scipy.linalg import eigvals

    out = np.stack([eigvals(a, b) for a, b in zip(A, B, strict=True)])
    return np.where(np.isfinite(out) & (np.abs(out) < 1e12), out, np.nan)


def time_content(pde, rng):
    """Find what the data at the start set off in time.

    Parameters
    ----------
    pde : PDE
        A problem with Initial data on a Box.
    rng : numpy.random.Generator
        Source of the times at which the source is asked.

    Returns
    -------
    TimeContent or None
        None where the problem has no time, or its symbol has no roots.
    """
    dim = time_dimension(pde)
    if dim is None:
        return None
    box, d = pde.domain.box, pde.n_dims
    others = [j for j in range(d) if j != dim]
    columns, accuracy = _columns(pde, dim, rng)
    symmetries = [_symmetries(pde, j) for j in others]
    found = None
    if columns and not others:  # an ordinary differential equation: one mode, of no wave number
        found = np.zeros((1, 1)), np.ones((len(columns), 1))
    elif columns and len(others) < 3:
        for extension in itertools.product(*symmetries):
            found = _modes(columns, box, others, extension)
            if found is not None:
                break
    middle = ((box.lower + box.upper) / 2)[None]
    middle[0, dim] = box.lower[dim]
    points = [middle] if pde.is_constant else list(box.lower + (box.upper - box.lower) * rng.random((24, 1, d)))
    if found is None:
        K = _band(columns, box, others, rng)
        if K is None:
            return None
        s = np.concatenate([symbol_eigenvalues(pde, K, X, dim) for X in points]).reshape(-1)
        s = s[np.isfinite(s)]
        return TimeContent(float(box.lower[dim]), dim, s, np.zeros(len(s)), False) if len(s) else None
    K, sizes = found  # (n, d) and (columns, n)
    s = symbol_eigenvalues(pde, K, points[0], dim)
    if not s.shape[1] or not np.isfinite(s).any():
        return None
    span = box.upper[dim] - box.lower[dim]
    pace = np.maximum(np.nan_to_num(np.abs(s)).max(axis=1), 1 / span)
    weight = np.zeros(len(K))
    for (_, order), size in zip(columns, sizes, strict=True):  # in units of u: a velocity v makes v / |s| of it
        weight = np.maximum(weight, size / pace**order)
    weight = weight / (weight.max() or 1.0)
    kept = weight > max(CUT, 0.1 * accuracy)
    if not pde.is_constant or not pde.is_linear:
        s = np.stack([symbol_eigenvalues(pde, K[kept], X, dim) for X in points])
        s = s[np.isfinite(s)].reshape(-1)
        return TimeContent(float(box.lower[dim]), dim, s, np.zeros(len(s)), False)
    rates, weights = s[kept], np.repeat(weight[kept][:, None], s.shape[1], axis=1)
    good = np.isfinite(rates)
    return TimeContent(float(box.lower[dim]), dim, rates[good], weights[good], True)


def _columns(pde, dim, rng):
    """Functions on the initial face with their order in time, and the accuracy of the worst."""
    box, d, out, accuracy = pde.domain.box, pde.n_dims, [], 0.0
    for condition in pde.conditions:
        if isinstance(condition, Initial):
            for order, value in enumerate((condition.u0, condition.velocity)):
                if value is None:
                    continue
                g = PointFunction("u0", value, d)
                if g.is_sampled or (g.constant is not None and not g.constant):
                    continue
                accuracy = max(accuracy, float(getattr(value, "accuracy", 0.0)))
                out.append((_at(g, dim, box.lower[dim]), order))
    for equation in pde._equations:
        f = equation.source
        if f.is_sampled or (f.constant is not None and not f.constant):
            continue
        for t in box.lower[dim] + (box.upper[dim] - box.lower[dim]) * rng.random(2):
            out.append((_at(f, dim, t), pde.axis_order(dim)))
    return out, accuracy


def _at(function, dim, t):
    def restricted(X):
        X = X.copy()
        X[:, dim] = t
        return function(X)

    return restricted


def _symmetries(pde, j):
    """Ways to continue data beyond the ends of an axis, the likeliest first."""
    periodic = any(isinstance(c, Periodic) and c.dim % pde.n_dims == j for c in pde.conditions)
    return ("periodic",) if periodic else ("odd", "even", "periodic")


def _modes(columns, box, others, extension):
    """Wave vectors and sizes of the modes of all columns, or None where they do not decay."""
    d, n = box.n_dims, 64
    most = 2048 if len(others) == 1 else 128
    while n <= most:
        axes, lengths = [], []
        for j, kind in zip(others, extension, strict=True):
            a, b = box.bounds[j]
            step = (b - a) / n
            axes.append(a + step * (np.arange(n) if kind == "periodic" else np.arange(n) + 0.5))
            lengths.append((b - a) * (1 if kind == "periodic" else 2))
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(others))
        X = np.zeros((len(grid), d))
        X[:, others] = grid
        spectra, resolved = [], True
        for function, _ in columns:
            V = function(X).reshape((n,) * len(others))
            for axis, kind in enumerate(extension):
                if kind != "periodic":
                    mirror = np.flip(V, axis)
                    V = np.concatenate([V, mirror if kind == "even" else -mirror], axis)
            S = np.abs(np.fft.fftn(V)) / V.size
            k = np.meshgrid(*[np.abs(np.fft.fftfreq(m)) for m in V.shape], indexing="ij")
            tail = max(float(S[np.abs(q) > 0.4].max()) for q in k)
            top = float(S.max())
            resolved = resolved and tail <= 1e-12 * max(top, 1e-300)
            spectra.append(S.reshape(-1))
        if resolved:
            shape = V.shape
            waves = np.meshgrid(
                *[2 * np.pi * np.fft.fftfreq(m, w / m) for m, w in zip(shape, lengths, strict=True)], indexing="ij"
            )
            K = np.zeros((len(spectra[0]), d))
            for j, k in zip(others, waves, strict=True):
                K[:, j] = k.reshape(-1)
            sizes = np.stack(spectra)
            relative = (sizes / np.maximum(sizes.max(axis=1, keepdims=True), 1e-300)).max(axis=0)
            order = np.argsort(-relative)[:MAX_MODES]
            order = order[relative[order] > CUT]
            return (K[order], sizes[:, order]) if len(order) else None
        n *= 2
    return None


def _band(columns, box, others, rng):
    """Wave vectors up to the largest that the data hold along each axis, or None where those are unresolved."""
    from sciml.solvers.gp_pde.lines import MAX_LENGTH, _Group

    if not columns or not others:
        return None
    top = []
    for j in others:
        half = (box.upper[j] - box.lower[j]) / 2
        anchors = box.lower + (box.upper - box.lower) * rng.random((2, box.n_dims))
        group = _Group([(f, a) for f, _ in columns for a in anchors], j, box.lower[j], half, rng)
        length = group.length if group.resolved else MAX_LENGTH
        if length == MAX_LENGTH:
            return None
        top.append(max(length - 14, length / 2) / half)
    axes = [np.linspace(-k, k, 33 if len(others) == 1 else 9) for k in top]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(others))
    K = np.zeros((len(grid), box.n_dims))
    K[:, others] = grid
    return K
