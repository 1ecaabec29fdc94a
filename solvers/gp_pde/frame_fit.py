r"""Fit a function to very many scattered samples: an equispaced Fourier frame on a larger periodic box.

.. math:: f(x) \approx \sum_{|k_j| \le K_j} F_k \exp \Bigl(2 \pi i \sum_j k_j (x_j - c_j) / T_j \Bigr),

in Slepian's coordinates along each axis (`slepian`), where least squares is well conditioned, so that a few dozen
conjugate-gradient steps with nonuniform FFTs reach rounding: no Gram matrix is formed and no digits are lost to one.
The band grows where the periodogram of the residual shows power; samples held out say when it is wide enough.  Few
samples are fitted densely, with a prior that sparse Bayesian learning prunes (`fit_dense`).

Notation  X (n, d) samples, y (n,) values; K (d,) highest modes; T = ratio L box; C_j (2 K_j + 1, r_j) coordinates;
          Z (r_1, ..., r_d) coefficients, F = (C_1 x ... x C_d) Z modes; A the nonuniform FFT; B = A C.
Cost      two nonuniform FFTs a step, about 20 to 40 steps: a million samples in two dimensions, 280^2 modes, 25 s.
Pitfalls  n must exceed the number of coordinates, n >= 3 prod r, or they fit noise and say nothing elsewhere; samples
          that leave gaps make the problem ill conditioned again, which shows in slow convergence.

References
----------
P. Greengard, M. Rachh, A. Barnett, Equispaced Fourier representations for efficient Gaussian process regression from a
billion data points, 2022, arXiv 2210.10210 (the frame as a prior; they form its Gram matrix, which costs half the
digits). B. Adcock, D. Huybrechs, Frames and numerical approximation, 2019, arXiv 1612.04464.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch

from sciml.iterate import Step, run
from sciml.linalg.gaussian_model import GaussianLinearModel, sparse_bayes
from sciml.linalg.nufft import NonuniformFourier
from sciml.solvers.gp_pde.slepian import slepian_coordinates

__all__ = ["FrameFunction", "find_band", "fit_dense", "fit_fast", "least_squares_steps"]

logger = logging.getLogger(__name__)

PASSES = ((1e-3, 30), (1e-5, 40), (1e-7, 40), (1e-9, 40), (1e-11, 40))
LIGHT = ((1e-3, 20), (1e-5, 20))  # for the search of the band


@dataclass(frozen=True)
class FrameFunction:
    """A real trigonometric sum on a box, evaluated anywhere by nonuniform FFT.

    Parameters
    ----------
    middle : numpy.ndarray, shape (d,)
        Centre of the box, units of x.
    period : numpy.ndarray, shape (d,)
        Periods T, units of x.
    modes : torch.Tensor, complex, shape (2 K_1 + 1, ..., 2 K_d + 1)
        Modes by rising frequency, with ``modes[-k] = conj(modes[k])``.
    """

    middle: np.ndarray
    period: np.ndarray
    modes: torch.Tensor

    def __call__(self, X):
        """Values at X (n, d), numpy, shape (n,)."""
        out = np.empty(len(X))
        for start in range(0, len(X), 500_000):
            part = slice(start, start + 500_000)
            points = torch.as_tensor(2 * np.pi * (X[part] - self.middle) / self.period, device=self.modes.device)
            operator = NonuniformFourier(points, tuple(self.modes.shape), eps=1e-14)
            out[part] = operator.real_values(self.modes).cpu().numpy()
        return out

    @property
    def band(self):
        """Highest angular frequency along each dimension, rad / unit, shape (d,)."""
        return 2 * np.pi * (np.array(self.modes.shape) // 2) / self.period


def _change(Z, matrices):
    """Apply one matrix (p_j, q_j) along each axis of Z (q_1, ..., q_d)."""
    for j, C in enumerate(matrices):
        Z = torch.movedim(torch.tensordot(C, Z, dims=([1], [j])), 0, j)
    return Z


def least_squares_steps(product, adjoint, y):
    """Yield the iterates of conjugate gradients for least squares (CGLS), starting from zero; endless.

    The criterion is the gradient over its first value, which bounds the error up to the condition number squared.

    Examples
    --------
    >>> A = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    >>> steps = least_squares_steps(lambda z: A @ z, lambda r: A.T @ r, torch.ones(3, dtype=torch.float64))
    >>> *_, last = (next(steps) for _ in range(3))
    >>> last.value.numpy().round(12)
    array([0.5, 1. ])
    """
    r, s = y.clone(), adjoint(y)
    z, p = torch.zeros_like(s), s.clone()
    gamma = first = float(s.square().sum())
    while True:
        size = float(r.square().mean().sqrt())
        yield Step(z, math.sqrt(gamma / first) if first > 0 else 0.0, {"residual": size})
        q = product(p)
        length = float(q.square().sum())
        if not length > 0:
            return
        alpha = gamma / length
        z, r = z + alpha * p, r - alpha * q
        s = adjoint(r)
        gamma, old = float(s.square().sum()), gamma
        p = s + (gamma / old) * p


def fit_fast(X, y, box, K, ratio, *, passes=PASSES, eps=1e-14, cut=1e-12):
    r"""Least squares in Slepian coordinates by conjugate gradients and nonuniform FFTs.

    Each pass adds to the fit so far the minimiser of
    :math:`\|r - B Z\|^2 + n \lambda^2 \|F\|^2`, r the true residual: the prior on the modes keeps directions
    that the samples do not show, in corners above all, from slowing it down, and lambda falls from pass to pass.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Samples, spread over the box.
    y : torch.Tensor, shape (n,)
        Values.
    box : Box
        The box.
    K : sequence of int, length d
        Highest mode along each dimension.
    ratio : float
        Period over length.
    passes : sequence of (float, int)
        lambda, relative to the modes of a function of size one, and steps of each pass.
    eps : float
        Accuracy of the transforms.
    cut : float
        See `slepian_coordinates`; applied to products along several axes.

    Returns
    -------
    FrameFunction, int
        The fit and its number of steps.
    """
    lower, length = np.asarray(box.lower), np.asarray(box.upper) - np.asarray(box.lower)
    middle, period = lower + length / 2, ratio * length
    points = 2 * math.pi * (X - X.new_tensor(middle)) / X.new_tensor(period)
    operator = NonuniformFourier(points, tuple(2 * k + 1 for k in K), eps=eps)
    axes = [slepian_coordinates(k, ratio, cut) for k in K]
    C = [torch.as_tensor(c, device=X.device) for c, _ in axes]
    back = [c.mH for c in C]
    size = torch.ones((), dtype=torch.float64, device=X.device)
    for _, sigma in axes:
        size = size[..., None] * torch.as_tensor(sigma, device=X.device)
    n, scale = len(X), float(y.square().mean().sqrt()) or 1.0
    modes, n_iter, r, before = 0.0, 0, y / scale, 1.0
    for lam, max_iter in passes:
        D = (size > cut) / torch.sqrt(1 + (lam / size) ** 2)  # what cancels along several axes cancels the more
        ridge = math.sqrt(n) * lam / size * D

        w = _weights(points, axes, ratio, lam)

        def product(Z, D=D, ridge=ridge, w=w):
            values = operator.real_values(_change((D * Z).to(torch.complex128), C))
            return torch.cat([w * values, (ridge * Z).reshape(-1)])

        def adjoint(v, D=D, ridge=ridge, w=w):
            return D * _change(operator.real_moments(w * v[:n]), back).real + ridge * v[n:].reshape(size.shape)

        right = torch.cat([w * r, r.new_zeros(size.numel())])
        steps = least_squares_steps(product, adjoint, right)
        done = run(steps, name="frame fit", tol=1e-6, max_iter=max_iter, on_failure="ignore", progress=False)
        n_iter += done.n_iter
        trial = modes + _change((D * done.value).to(torch.complex128), C)
        r_new = y / scale - operator.real_values(trial)
        after = float(r_new.square().mean().sqrt())
        logger.debug("lambda %.0e: %d steps, residual %.1e", lam, done.n_iter, after)
        if not after < before:
            break
        modes, r = trial, r_new
        if after > 0.7 * before or after < 2e-15:  # what is left is noise, or rounding
            break
        before = after
    if isinstance(modes, float):
        modes = torch.zeros(operator.n_modes, dtype=torch.complex128, device=X.device)
    return FrameFunction(middle, period, scale * modes), n_iter


def _weights(points, axes, ratio, lam):
    """Row weights (n,) that keep single samples in corners, where coordinates peak, from ruling the spectrum."""
    load = 1.0
    for j, (C, sigma) in enumerate(axes):
        K = len(C) // 2
        grid = np.pi / ratio * np.cos(np.pi * np.arange(8 * K + 40) / (8 * K + 39))[::-1]
        psi = (np.exp(1j * np.outer(grid, np.arange(-K, K + 1))) @ (C / np.sqrt(1 + (lam / sigma) ** 2))).real
        at = points[:, j].cpu().numpy()
        load = load * np.interp(at, grid, (psi**2).sum(axis=1))
    return torch.as_tensor(1 / np.sqrt(1 + load / len(points)), device=points.device)


def fit_dense(X, y, box, K, ratio, *, sweeps=0, noise=1e-13):
    """Bayesian least squares in the frame itself, for few samples; the prior may be learned.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Samples.
    y : torch.Tensor, shape (n,)
        Values.
    box : Box
        The box.
    K : sequence of int, length d
        Highest mode along each dimension.
    ratio : float
        Period over length.
    sweeps : int
        Sweeps of sparse Bayesian learning, which prune frequencies that the samples do not need; 0 keeps the prior
        flat.
    noise : float
        Standard deviation of the noise relative to the values' root mean square.

    Returns
    -------
    FrameFunction, int
        The fit and the number of sweeps.
    """
    lower, length = np.asarray(box.lower), np.asarray(box.upper) - np.asarray(box.lower)
    middle, period = lower + length / 2, ratio * length
    sizes = tuple(2 * k + 1 for k in K)
    grid = np.stack(np.meshgrid(*[np.arange(-k, k + 1) for k in K], indexing="ij"), axis=-1).reshape(-1, len(K))
    half = grid[len(grid) // 2 :]  # the constant first, then one of each pair +-k
    phase = 2 * math.pi * (X - X.new_tensor(middle)) / X.new_tensor(period) @ X.new_tensor(half.T.astype(float))
    A = torch.cat([torch.cos(phase), torch.sin(phase[:, 1:])], dim=1)
    scale = float(y.square().mean().sqrt()) or 1.0
    start = torch.full((A.shape[1],), A.shape[1] ** -0.5, dtype=A.dtype, device=A.device)
    pairs = np.r_[np.arange(len(half)), np.arange(1, len(half))]
    options = {"prior_std": start, "noise_std": noise}
    if sweeps:
        fit = sparse_bayes(A, y / scale, groups=pairs, max_iter=sweeps, tol=1e-12, on_failure="ignore", **options).value
        options["prior_std"] = fit.prior_std
    theta = scale * GaussianLinearModel(A, y / scale, **options).posterior().mean
    cos, sin = theta[: len(half)], torch.cat([theta.new_zeros(1), theta[len(half) :]])
    right = torch.complex(cos, -sin) / 2
    modes = torch.cat([right[1:].flip(0).conj(), 2 * right[:1].real.to(right.dtype), right[1:]]).reshape(sizes)
    return FrameFunction(middle, period, modes), sweeps


def find_band(X, r, box, K, ratio, limit):
    """Band that the residual of a fit asks for, from its windowed periodogram.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Samples.
    r : torch.Tensor, shape (n,)
        Residuals there, or the data themselves.
    box : Box
        The box.
    K : sequence of int, length d
        Highest modes so far; zeros at the start.
    ratio : float
        Period over length.
    limit : sequence of int, length d
        Highest modes that may be asked for.

    Returns
    -------
    list of int
        Highest modes along each dimension that stand out of the noise of the periodogram, with a margin; `K` where
        none does.
    """
    lower, length = np.asarray(box.lower), np.asarray(box.upper) - np.asarray(box.lower)
    at = (X - X.new_tensor(lower)) / X.new_tensor(length)
    window = torch.prod(torch.sin(math.pi * at) ** 2, dim=1)
    points = 2 * math.pi * (at - 0.5) / ratio
    operator = NonuniformFourier(points, tuple(2 * k + 1 for k in limit), eps=1e-6)
    power = operator.real_moments(r * window).abs().square()
    floor = float(power.median()) / math.log(2)  # noise has exponential powers
    strong = power > max(4 * math.log(power.numel()) * floor, 1e-26 * float(power.max()))
    out = []
    for j, k in enumerate(limit):
        others = tuple(i for i in range(len(limit)) if i != j)
        along = strong.any(dim=others) if others else strong
        found = torch.nonzero(along).flatten() - k
        top = int(found.abs().max()) if len(found) else 0
        out.append(min(k, max(int(K[j]), math.ceil(1.02 * top) + 1 if top else 0)))
    return out
