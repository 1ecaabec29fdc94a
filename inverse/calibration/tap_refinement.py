r"""A kernel of few taps from many pixels: Gauss-Newton on taps and signals together, by transforms alone.

.. math:: \min_{h, x} \sum_l \|W^{1/2} (y_l - (B h) \circ A_l x_l)\|^2

Notation  y (p, N) spectra; B h the spectrum of the k taps, v_l = A_l x_l; a change (a, z) of taps and signals changes
          the model by (B a) v_l + (B h) A_l z_l. The scale between h and x is free: conjugate gradients from zero leave
          it as it is.
Cost      one product with A, one with its adjoint and two transforms an inner step; errors take one inner solve a tap.
Pitfalls  frequencies that the kernel does not pass say nothing of the signals: the inner iteration converges slowly
          where whole signals hide behind them.
References  A. Bjorck, Numerical methods for least squares problems, 1996, section 7.4 (CGLS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sciml.inverse.calibration.coded_signals import Taps
from sciml.iterate import Step, run

__all__ = ["TapFit", "TapProblem", "fit_taps", "tap_covariance", "tap_steps"]

_INNER = 300
_CLIP = 3.0  # times what the power at a frequency lets expect: inverses of weak gains are noise


@dataclass
class TapFit:
    """Kernels, signals and errors of all channels.

    Parameters
    ----------
    h : Tensor, shape (..., k)
        Taps.
    x : Tensor, shape (..., p, n) or (..., n)
        Signals.
    covariance : Tensor, shape (..., k, k)
        Of the taps, the common factor left out.
    noise_std, chi2_reduced : Tensor, shape (...)
        Of a pixel; NaN where the variance is not known.
    run : sciml.iterate.Run
        Of the channel that took longest, or did not converge.
    """

    h: torch.Tensor
    x: torch.Tensor
    covariance: torch.Tensor
    noise_std: torch.Tensor
    chi2_reduced: torch.Tensor
    run: object


def fit_taps(y, A, taps, shape, gains, *, repeated, W=None, noise_std=None, tol=1e-8, max_iter=50, callback=None):
    """Return the best taps near free gains, channel by channel.

    Parameters
    ----------
    y : Tensor, shape (..., p, N)
        Spectra.
    A : CodedSignals
        The measurement.
    taps : list of Tensor of int
        Delays along each axis.
    shape : tuple of int
        Axes of what is received.
    gains : Tensor, shape (..., N)
        Spectra of the kernels to begin with, without a limit on their taps; 0 where unknown.
    repeated : bool
        Whether one signal is behind all snapshots.
    W : Tensor, shape (N,), or None
        Weights of the frequencies; None, the default: ones.
    noise_std : float or None
        Of a pixel, where known.
    tol, max_iter, callback
        Of `sciml.iterate.run` for `tap_steps`.

    Returns
    -------
    TapFit

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.coded_signals import CodedSignals
    >>> from sciml.inverse.calibration.tap_refinement import fit_taps
    >>> A = CodedSignals(torch.tensor([[1.0, 1, -1, 1], [1.0, -1, 1, 1]]).double(), (4,), (1,), shared=False)
    >>> d = torch.fft.fft(torch.tensor([2.0, 1, 0, 0]).double())
    >>> y = d * A.forward(torch.ones(2, 1).double())
    >>> fit = fit_taps(y, A, [torch.arange(2)], (4,), d + 0.1, repeated=False)
    >>> bool((fit.h[0] / fit.h[1] - 2).abs() < 1e-5)
    True
    """
    p, N = y.shape[-2:]
    lead, fits = y.shape[:-2], []
    for own, d in zip(y.reshape(-1, p, N), gains.reshape(-1, N), strict=True):
        problem = TapProblem(own, A, taps, shape, repeated=repeated, W=W)
        expected = torch.linalg.vector_norm(own, dim=0)
        ratio = d.abs() / expected.clamp_min(1e-300)
        limit = _CLIP * ratio[ratio > 0].median() * expected if bool((ratio > 0).any()) else expected
        h = problem.to_taps(d * (limit / d.abs().clamp_min(1e-300)).clamp_max(1))
        steps = tap_steps(problem, h)
        done = run(
            steps, name="taps", tol=tol, max_iter=max_iter, callback=callback, on_failure="ignore", dtype=y.dtype
        )
        h, x, misfit = done.value
        count = p * (N if W is None else int((W > 0).sum()))
        dof = max(count - x.numel() - problem.k + 1, 1)
        variance = misfit / dof
        unit = float("nan") if noise_std is None and W is None else 1.0 if noise_std is None else noise_std**2
        fits.append((h, x, variance * tap_covariance(problem, h, x), variance**0.5, variance / unit, done))
    h, x, C = (torch.stack([fit[i] for fit in fits]) for i in range(3))
    noise, chi2 = (torch.tensor([fit[i] for fit in fits], dtype=torch.float64) for i in (3, 4))
    worst = max((fit[5] for fit in fits), key=lambda r: (not r.converged, r.n_iter))
    return TapFit(
        h.reshape(*lead, *h.shape[1:]),
        x.reshape(*lead, *x.shape[1:]),
        C.reshape(*lead, *C.shape[1:]),
        noise.reshape(lead),
        chi2.reshape(lead),
        worst,
    )


class TapProblem:
    """Data, measurement and taps of one channel.

    Parameters
    ----------
    y : Tensor, shape (p, N)
        Spectra, complex.
    A : CodedSignals
        The measurement.
    taps : list of Tensor of int
        Delays along each axis.
    shape : tuple of int
        Axes of what is received.
    repeated : bool
        Whether one signal is behind all of `y`.
    W : Tensor, shape (N,), or None
        Weights of the frequencies; None, the default: ones.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.coded_signals import CodedSignals
    >>> from sciml.inverse.calibration.tap_refinement import TapProblem
    >>> A = CodedSignals(torch.ones(1, 4), (4,), (2,), shared=False)
    >>> problem = TapProblem(torch.ones(1, 4) + 0j, A, [torch.arange(2)], (4,), repeated=False)
    >>> problem.spectrum(torch.tensor([2.0, 0.0]) + 0j).real
    tensor([2., 2., 2., 2.])
    """

    def __init__(self, y, A, taps, shape, *, repeated, W=None):
        self.A, self.shape, self.repeated = A, shape, repeated
        self.root = torch.ones((), dtype=y.real.dtype) if W is None else W.sqrt()
        self.y, self.to_taps = self.root * y, Taps(taps, shape, None)
        self.k = self.to_taps(y[0]).numel()

    def spectrum(self, h):
        """Return B h for taps (k,): (N,)."""
        return self.to_taps.spectrum(h)

    def signals_to_data(self, d, z):
        """Return W^(1/2) d o A z: (p, N)."""
        rows = z[None].expand(len(self.y), -1) if self.repeated else z
        return self.root * d * self.A.forward(rows)

    def data_to_signals(self, d, u):
        """Return the adjoint of `signals_to_data`."""
        z = self.A.adjoint(self.root * d.conj() * u)
        return z.sum(0) if self.repeated else z

    def taps_to_data(self, v, a):
        """Return W^(1/2) (B a) o v for v = A x: (p, N)."""
        return self.root * self.spectrum(a) * v

    def data_to_taps(self, v, u):
        """Return the adjoint of `taps_to_data`: (k,)."""
        return self.y.shape[1] * self.to_taps((self.root * v.conj() * u).sum(0))

    def view(self, x):
        """Return A x: (p, N)."""
        return self.A.forward(x[None].expand(len(self.y), -1) if self.repeated else x)


def tap_steps(problem, h, tol_inner=1e-4):
    """Yield iterates, the first with the best signals for `h`.

    Parameters
    ----------
    problem : TapProblem
        What to fit.
    h : Tensor, shape (k,)
        Start, not zero.
    tol_inner : float
        Relative residual of the normal equations at which the inner iteration ends; 1e-4 by default.

    Yields
    ------
    sciml.iterate.Step
        Value (h, x, misfit); the criterion is the change of the model that the next step asks for, over the data. A
        step is halved until the misfit does not grow; the iteration ends where no length does that.

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.coded_signals import CodedSignals
    >>> from sciml.inverse.calibration.tap_refinement import TapProblem, tap_steps
    >>> A = CodedSignals(torch.tensor([[1.0, 1, -1, 1]]), (4,), (1,), shared=False)
    >>> y = torch.fft.fft(torch.tensor([2.0, 1, 0, 0])) * A.forward(torch.ones(1, 1))
    >>> problem = TapProblem(y, A, [torch.arange(2)], (4,), repeated=False)
    >>> next(tap_steps(problem, torch.tensor([2.0, 1.0]) + 0j)).criterion < 1e-6
    True
    """
    size = float(problem.y.norm())
    d = problem.spectrum(h)
    x = _conjugate_gradients(
        lambda z: problem.signals_to_data(d, z), lambda u: problem.data_to_signals(d, u), problem.y, 1e-8
    )
    while True:
        d, v = problem.spectrum(h), problem.view(x)
        r = problem.y - problem.root * d * v
        # Both blocks of columns are brought to about the same size.
        unit = float((problem.root * v).norm()) / max(float((problem.root * d * v).norm() / x.norm()), 1e-300)
        a, z = _step(problem, d, v, r, unit, tol_inner)
        change = problem.taps_to_data(v, a) + problem.signals_to_data(d, z)
        misfit = float(r.norm())
        yield Step((h, x, misfit**2), float(change.norm()) / size, {"misfit": misfit})
        for halvings in range(10):
            length = 0.5**halvings
            new = h + length * a, x + length * z
            if float((problem.y - problem.signals_to_data(problem.spectrum(new[0]), new[1])).norm()) <= misfit:
                break
        else:
            return
        # Gains of norm one leave the signals at one scale.
        scale = float(new[0].norm() / h.norm())
        h, x = new[0] / scale, new[1] * scale


def tap_covariance(problem, h, x):
    """Return the covariance of the taps for noise of variance one, orthogonal to the taps themselves.

    Parameters
    ----------
    problem : TapProblem
        What was fitted.
    h : Tensor, shape (k,)
        Taps found.
    x : Tensor
        Signals found.

    Returns
    -------
    Tensor, shape (k, k)

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.calibration.coded_signals import CodedSignals
    >>> from sciml.inverse.calibration.tap_refinement import TapProblem, tap_covariance
    >>> A = CodedSignals(torch.tensor([[1.0, 1, -1, 1]]), (4,), (1,), shared=False)
    >>> problem = TapProblem(torch.ones(1, 4) + 0j, A, [torch.arange(2)], (4,), repeated=False)
    >>> C = tap_covariance(problem, torch.tensor([1.0, 0.0]) + 0j, torch.ones(1, 1) + 0j)
    >>> C.real.round(decimals=3)
    tensor([[0.0000, 0.0000],
            [0.0000, 0.2500]])
    """
    d, v = problem.spectrum(h), problem.view(x)
    rows = []
    for t in range(problem.k):
        unit = torch.zeros_like(h)
        unit[t] = 1
        column = problem.taps_to_data(v, unit)
        z = _conjugate_gradients(
            lambda z: problem.signals_to_data(d, z), lambda u: problem.data_to_signals(d, u), column, 1e-5
        )
        rows.append(problem.data_to_taps(v, column - problem.signals_to_data(d, z)))
    F = torch.stack(rows, 1)
    F = (F + F.mH) / 2
    along = h / h.norm()
    level = torch.diagonal(F).real.mean()
    # The scale is free: F h = 0 up to the accuracy of the inner solves.
    keep = torch.eye(len(h), dtype=F.dtype, device=F.device) - along[:, None] * along.conj()
    inverse = torch.linalg.inv(keep @ F @ keep + level * along[:, None] * along.conj())
    return keep @ inverse @ keep


def _step(problem, d, v, r, unit, tol):
    """Return the change of taps and signals of one Gauss-Newton step, columns of the taps divided by `unit`."""
    k = problem.k

    def split(t):
        return t[:k] / unit, t[k:].reshape(-1, problem.A.shape[1]) if not problem.repeated else t[k:]

    def forward(t):
        a, z = split(t)
        return problem.taps_to_data(v, a) + problem.signals_to_data(d, z)

    def adjoint(u):
        return torch.cat([problem.data_to_taps(v, u) / unit, problem.data_to_signals(d, u).flatten()])

    return split(_conjugate_gradients(forward, adjoint, r, tol))


def _conjugate_gradients(forward, adjoint, u, tol):
    """Return the least-squares solution of forward(t) = u by conjugate gradients on the normal equations (CGLS)."""
    g = adjoint(u)
    t, q, r = torch.zeros_like(g), g, u
    gamma = first = float(g.abs().square().sum())
    for _ in range(_INNER):
        if gamma <= tol**2 * first or gamma == 0:
            break
        w = forward(q)
        length = gamma / max(float(w.abs().square().sum()), 1e-300)
        t, r = t + length * q, r - length * w
        g = adjoint(r)
        gamma, old = float(g.abs().square().sum()), gamma
        q = g + (gamma / old) * q
    return t
