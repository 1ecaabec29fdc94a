r"""Blind deconvolution: one unknown kernel, unknown signals behind known codes, from what was received.

.. math:: y_l = h * (c_l \circ R\, x_l) + \varepsilon_l, \qquad l = 1, \dots, p

with circular convolution: in the Fourier domain a self-calibration, whose gains are the spectrum of the kernel.

Notation  N pixels of `shape` (one axis or more); c_l code; R holds each number of x_l over a block of pixels; F unitary
          Fourier transform: F y_l = diag(d) F diag(c_l) R x_l, d = sum_t h_t exp(-2 pi i f t / N) = B h.
Cost      that of `self_calibrate` with m = N sensors: dense to N = 3000, by transforms beyond. A kernel of few taps is
          found by transforms from N = 300 on where the data are enough for all gains, too; errors take a solve a tap.
Pitfalls  diversity must act on the spread signal: codes that are constant over the blocks of R are none. The kernel and
          the signals are known up to one factor. Frequencies at which the kernel has no power are weak sensors: without
          `kernel_size` they stay unknown. Convolution is circular: pad signals by zeros in the code where it is not.
References  S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, SIAM J.
          Imaging Sci. 2018, arXiv 1611.04196. A. Ahmed, B. Recht, J. Romberg, Blind deconvolution using convex
          programming, 2014, arXiv 1211.5608.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sciml._config import resolve
from sciml.exceptions import (
    AmbiguityWarning,
    ConvergenceError,
    ConvergenceWarning,
    IdentifiabilityError,
    InvalidInputError,
)
from sciml.inverse.calibration.coded_signals import CodedSignals, Taps, tap_columns, tap_delays
from sciml.inverse.calibration.ensemble_base import complex_dtype
from sciml.inverse.calibration.identifiability import check_counts
from sciml.inverse.calibration.solve import self_calibrate
from sciml.inverse.calibration.tap_refinement import fit_taps
from sciml.iterate import Status, caller_level
from sciml.linalg.arrays import enter
from sciml.results import Result, array, internal
from sciml.validation import check_number, check_option

__all__ = ["DeconvolutionResult", "blind_deconvolve"]

Array = np.ndarray | torch.Tensor
# Pixels from which on taps are found after the gains, by transforms, if there are data enough for these; dense matrices
# of 24 x 24 pixels take ten seconds. No more pixels than the second number are taken by dense matrices.
_DENSE, _LARGEST = 300, 3000
# Taps are undetermined where their error is this part of the norm, or this many times the relative noise.
_UNCERTAIN, _AMPLIFIED = 0.5, 1e4


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class DeconvolutionResult(Result):
    """Kernel and signals; see `blind_deconvolve`. Leading axes "..." are those of the data.

    Parameters
    ----------
    axes_count : int
        Axes of a received signal: 1 for signals, 2 for images.
    model, method, reason, ambiguity : str
        Of the calibration in the Fourier domain.
    lost_frequencies : list
        Frequencies (flat indices, for each channel) of which the data hold nothing. Without `kernel_size` the kernel
        was taken to have none of them, and has no finite error.
    gauge : str
        The choice of the common factor.
    """

    kernel: Array = array("...", "tap", help="kernel; tap 0 has delay 0, or is the first one of a centred kernel")
    kernel_std: Array | None = array("...", "tap", help="standard deviations of the kernel", optional=True)
    signals: Array = array("...", "unknown", units="data units", help="signals, for the kernel in its gauge")
    response: Array = array("...", "frequency", help="spectrum of the kernel: the gains")
    noise_std: Any = array("...", units="data units", help="standard deviation of the noise of a pixel")
    chi2_reduced: Any = array("...", help="misfit over degrees of freedom, where noise_std was given")
    ambiguity_ratio: Any = array("...", help="ratio of the two smallest eigenvalues; near one the data are ambiguous")
    axes_count: int = 1
    model: str = ""
    method: str = ""
    reason: str = ""
    ambiguity: str = ""
    lost_frequencies: list = field(default_factory=list)
    gauge: str = "norm"
    calibration: Any = internal(default=None)

    def batch_axes(self, count):
        """Return names for leading axes: channels, then "snapshot" for signals of several snapshots.

        Parameters
        ----------
        count : int
            How many.
        """
        lead = np.ndim(self.kernel) - self.axes_count
        names = [f"channel_{i}" if lead > 1 else "channel" for i in range(lead)]
        return tuple([*names, "snapshot"][:count])

    def _axes(self, axes, ndim):
        if len(axes) == 1:
            return super()._axes(axes, ndim)
        count = self.axes_count
        own = axes[1:] if count == 1 else tuple(f"{axes[1]}_{i}" for i in range(count))
        return (*self.batch_axes(ndim - count), *own)


def blind_deconvolve(
    y,
    codes,
    *,
    signal_shape=None,
    model="auto",
    kernel_size=None,
    kernel_centered=False,
    weights=None,
    noise_std=None,
    gauge="norm",
    loss="gaussian",
    refine=True,
    tol=1e-10,
    max_iter=300,
    callback=None,
    on_failure=None,
):
    r"""Find the kernel that blurred all of several coded signals, and the signals.

    .. math:: y_l = h * (c_l \circ R\, x_l) + \varepsilon_l

    Each number of a signal is held over a block of pixels (R: the chips of a spreading code; the pixels of a pattern of
    light finer than the scene), multiplied by a known code and convolved, circularly, with one unknown kernel.

    Parameters
    ----------
    y : array, shape ``(..., p, *shape)``
        What was received: p signals or images, real or complex; leading axes are channels with kernels of their own.
    codes : array, shape ``(p, *shape)``, or ``(*shape)`` for ``model="snapshots"``
        The known codes, real or complex.
    signal_shape : int, tuple of int or None
        Axes of a signal x_l, each at most as long as those of `shape`; pixel j belongs to number floor(j n / N). None
        (the default) takes `shape`: no spreading, which only ``model="repeated"`` can afford.
    model : {"auto", "diverse", "repeated", "snapshots"}
        "diverse": an own x_l for each code, the default for codes with the axis p; "repeated": one x behind all codes;
        "snapshots": all x_l behind one code.
    kernel_size : int, tuple of int or None
        How many taps the kernel has along each axis; None (the default): any. With it fewer data are enough, the error
        is smaller, and frequencies that the kernel does not pass are no obstacle.
    kernel_centered : bool
        Whether the taps lie around delay 0, from -(size // 2) on, in place of 0 to size - 1; False by default.
    weights : array, shape ``(*shape)``, or None
        Inverse variance of each frequency (as ``numpy.fft.fftn`` orders them), 0 to leave one out; None (the default):
        white noise. Symmetric for real data.
    noise_std : float or None
        Standard deviation of the noise of a pixel, where known: for ``chi2_reduced``, errors follow the residuals.
    gauge : {"norm", "sum"}
        The common factor: norm of the kernel 1 and its largest tap real and positive (the default), or its taps sum up
        to 1 (a blur that keeps the mean).
    loss, refine, tol, max_iter, callback, on_failure
        As for `self_calibrate`.

    Returns
    -------
    DeconvolutionResult
        ``kernel``, shape ``(..., *shape)`` or ``(..., *kernel_size)``, ``kernel_std``, ``signals``, shape
        ``(..., p, *signal_shape)``, or ``(..., *signal_shape)`` for "repeated"; ``calibration`` is the result of
        `self_calibrate` in the Fourier domain. Real for real data.

    Raises
    ------
    InvalidInputError
        If shapes do not fit or data are not finite.
    IdentifiabilityError
        If there are too few data for the unknowns.

    Warns
    -----
    AmbiguityWarning, ConvergenceWarning
        As `self_calibrate`.

    Notes
    -----
    Errors of real data are those of real numbers: the spectrum has a symmetry, so that half of its numbers are copies,
    of data and of unknowns alike, and the estimate of the complex problem has it, too.

    References
    ----------
    S. Ling, T. Strohmer, Self-calibration and bilinear inverse problems via linear least squares, 2018, arXiv
    1611.04196.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration.deconvolution import blind_deconvolve
    >>> from sciml.random import generator
    >>> rng = generator(0)
    >>> codes, x, h = rng.choice([-1.0, 1.0], (3, 32)), rng.standard_normal((3, 8)), [3.0, 2.0, 1.0]
    >>> sent = codes * np.repeat(x, 4, axis=1)
    >>> y = np.fft.ifft(np.fft.fft(h, 32) * np.fft.fft(sent)).real
    >>> blind_deconvolve(y, codes, signal_shape=8, kernel_size=3, gauge="sum").kernel.round(6)
    array([0.5       , 0.333333, 0.166667])
    """
    check_option("gauge", gauge, ("norm", "sum"))
    (Y, C), leave = enter(y, codes, names=("y", "codes"))
    model, shape, signal_shape = _shapes(Y, C, signal_shape, model)
    count, is_real = len(shape), not Y.is_complex()  # both are complex here where one is
    taps = tap_delays(kernel_size, bool(kernel_centered), shape)
    few, counts = kernel_size is not None, (model, math.prod(shape), math.prod(signal_shape), Y.shape[-count - 1])
    dense = math.prod(shape) <= _DENSE or (math.prod(shape) <= _LARGEST and (loss != "gaussian" or not _enough(counts)))
    if few and (on_failure is None or on_failure == "raise"):
        check_counts(*counts, math.prod(len(t) for t in taps) if dense else None)
    spectra, ensemble = _spectra(Y, count), CodedSignals(C, shape, signal_shape, shared=model == "snapshots")
    W = None if weights is None else _frequency_weights(weights, shape, is_real)
    found = self_calibrate(
        spectra,
        ensemble,
        model=model,
        d_basis=tap_columns(taps, shape, Y.device) if few and dense else None,
        weights=W,
        noise_std=noise_std,
        # Spectra are not alike, and those of real data come twice: neither a prior of gains nor a test of residuals.
        method="matrix-free" if few and not dense else "chain",
        loss=loss,
        refine=refine and (dense or not few),
        tol=tol,
        max_iter=max_iter,
        callback=callback,
        # With few taps the question is what they are, not every gain by itself: the verdict is spoken below.
        on_failure="ignore" if few else on_failure,
    )

    lost = ~found.gains.isfinite()
    d = found.gains.masked_fill(lost, 0)
    answer = {name: getattr(found, name) for name in ("status", "n_iter", "history", "noise_std", "chi2_reduced")}
    if noise_std is not None:
        noise_std = check_number("noise_std", noise_std, low=0, inclusive="neither")
    if few and not dense:
        repeated, known = model == "repeated", {"W": W, "noise_std": noise_std}
        stop = {"tol": max(tol, 1e-8), "max_iter": max_iter if refine else 0, "callback": callback}
        fit = fit_taps(spectra + 0j, ensemble, taps, shape, d, repeated=repeated, **known, **stop)
        h, x, covariance, d = fit.h, fit.x, fit.covariance, Taps(taps, shape, None).spectrum(fit.h)
        answer = {"status": fit.run.status, "n_iter": fit.run.n_iter, "history": fit.run.history}
        answer |= {"noise_std": fit.noise_std, "chi2_reduced": fit.chi2_reduced}
    else:
        to_taps = Taps(taps, shape, lost if few else None)
        h, x, d = to_taps(d), found.signals, to_taps.spectrum(to_taps(d)) if few else d
        covariance = None if found.gains_cov is None else _of_taps(found.gains_cov.nan_to_num(0), to_taps)
    factor = _factor(h, gauge, is_real)  # (..., 1)
    std = None if covariance is None else _kernel_std(covariance, h, factor, gauge)
    if few:
        ambiguity = _verdict(answer, std, h * factor, Y, on_failure, tol)
    else:
        ambiguity = found.ambiguity
        std = None if std is None else std.masked_fill(lost.any(-1, keepdim=True), math.inf)

    def give(t, axes, real=is_real):
        t = t.real if real and t.is_complex() else t
        wanted = complex_dtype(Y) if t.is_complex() else Y.real.dtype
        return leave(t.to(wanted).reshape(*t.shape[:-1], *axes))

    own = tuple(len(t) for t in taps)
    return DeconvolutionResult(
        **answer,
        **{name: getattr(found, name) for name in ("model", "method", "reason", "ambiguity_ratio")},
        settings={**found.settings, "kernel_size": own if few else None, "signal_shape": signal_shape},
        kernel=give(h * factor, own),
        kernel_std=None if std is None else give(std, own),
        signals=give(x / factor.reshape(*factor.shape[:-1], *[1] * (x.ndim - factor.ndim + 1)), signal_shape),
        response=give(d * factor, shape, real=False),
        ambiguity=ambiguity,
        axes_count=count,
        lost_frequencies=[row.nonzero()[:, 0].tolist() for row in lost.reshape(-1, lost.shape[-1])]
        if bool(lost.any())
        else [],
        gauge=gauge,
        calibration=found,
    )


def _enough(counts):
    """Return whether the data are enough for all gains, not for the taps only."""
    try:
        check_counts(*counts)
    except IdentifiabilityError:
        return False
    return True


def _shapes(Y, C, signal_shape, model):
    """Return the model, the axes of what is received and those of a signal."""
    check_option("model", model, ("auto", "diverse", "repeated", "snapshots"))
    for name, value in (("y", Y), ("codes", C)):
        if value is None:
            raise InvalidInputError(
                f"{name} must be an array; got None. Pass what was {'received' if name == 'y' else 'sent'}."
            )
    if not bool((C != 0).any()):
        raise InvalidInputError("codes must not be zero: nothing would be sent; got zeros only. Check them.")
    if signal_shape is None:
        count = C.ndim if model == "snapshots" or C.ndim == 1 else C.ndim - 1
    else:
        signal_shape = (signal_shape,) if np.ndim(signal_shape) == 0 else tuple(signal_shape)
        count = len(signal_shape)
    if model == "auto":
        model = "snapshots" if C.ndim == count else "diverse"
    wanted = count + (model != "snapshots")
    if count < 1 or C.ndim != wanted or Y.ndim < count + 1:
        raise InvalidInputError(
            f"codes must have shape {'(*shape)' if model == 'snapshots' else '(p, *shape)'} and y (..., p, *shape), "
            f"with {count} axes of shape; got {tuple(C.shape)} and {tuple(Y.shape)}. Say by signal_shape how many axes "
            "a signal has, and which model it is."
        )
    shape = tuple(Y.shape[-count:])
    if tuple(C.shape[-count:]) != shape or (model != "snapshots" and C.shape[0] != Y.shape[-count - 1]):
        raise InvalidInputError(
            f"codes must be as long as y, one for each of its {Y.shape[-count - 1]} signals of shape {shape}; got "
            f"codes of shape {tuple(C.shape)} and y of shape {tuple(Y.shape)}. Crop or repeat the codes."
        )
    signal_shape = shape if signal_shape is None else signal_shape
    sizes = zip(signal_shape, shape, strict=True)
    return model, shape, tuple(check_number("signal_shape", n, low=1, high=N, integer=True) for n, N in sizes)


def _verdict(answer, std, h, Y, on_failure, tol):
    """Warn or raise where the taps are not determined or the method did not converge; return the ambiguity in words."""
    text = ""
    if std is not None:
        relative = torch.linalg.vector_norm(std, dim=-1) / torch.linalg.vector_norm(h, dim=-1)
        noise = torch.as_tensor(answer["noise_std"], dtype=torch.float64, device=std.device)
        noise = noise / torch.sqrt(Y.abs().square().mean())
        if not bool(((relative < _UNCERTAIN) & (relative < _AMPLIFIED * noise + 1e-12)).all()):
            text = (
                f"the taps of the kernel are uncertain by {float(relative.max()):.2g} of its norm, with noise of "
                f"{float(noise.max()):.2g} of the data: take fewer taps, or more signals"
            )
    level = resolve("on_failure", on_failure)
    if text:
        kind = IdentifiabilityError if level == "raise" else AmbiguityWarning
        _tell(kind, f"the data do not determine the kernel: {text}.", level)
    elif answer["status"] not in (Status.CONVERGED, Status.STOPPED):
        kind = ConvergenceError if level == "raise" else ConvergenceWarning
        _tell(
            kind, f"blind_deconvolve stopped after {answer['n_iter']} iterations, tol={tol:.0e}: raise max_iter.", level
        )
    return text


def _tell(kind, text, level):
    if level == "raise":
        raise kind(text)
    if level == "warn":
        warnings.warn(text, kind, stacklevel=caller_level())


def _listed(lost):
    return [row.nonzero()[:, 0].tolist() for row in lost.reshape(-1, lost.shape[-1])] if bool(lost.any()) else []


def _spectra(Y, count):
    Y = Y.to(torch.complex128 if Y.is_complex() else torch.float64)
    return torch.fft.fftn(Y, dim=tuple(range(-count, 0)), norm="ortho").flatten(-count)


def _frequency_weights(weights, shape, is_real):
    (W,), _ = enter(weights, names=("weights",))
    if tuple(W.shape) != shape:
        raise InvalidInputError(
            f"weights must have shape {shape}, a number for each frequency; got {tuple(W.shape)}. Leave them out for "
            "white noise."
        )
    mirrored = torch.roll(W.flip(tuple(range(W.ndim))), [1] * W.ndim, tuple(range(W.ndim)))
    if is_real and not bool(((W - mirrored).abs() <= 1e-6 * W.abs().amax()).all()):
        raise InvalidInputError(
            "weights must be the same at opposite frequencies for real data; got others. Pass the mean of both."
        )
    return W.flatten()


def _factor(h, gauge, is_real):
    """Return what brings kernels (..., k) to the gauge: (..., 1)."""
    turn = torch.ones_like(h[..., :1])
    if is_real:
        # The square of a real kernel times a factor of modulus one has that factor's square for phase.
        turn = (h.square().sum(-1, keepdim=True)).sgn().conj().sqrt()
        turn = torch.where(turn == 0, 1, turn)
    if gauge == "sum":
        total = (h * turn).real.sum(-1, keepdim=True) * turn.conj() if is_real else h.sum(-1, keepdim=True)
        if bool((total.abs() <= 1e-8 * h.abs().sum(-1, keepdim=True)).any()):
            raise InvalidInputError(
                "gauge must be 'norm' for a kernel without a sum; got 'sum', and taps that cancel. Pass gauge='norm'."
            )
        return 1 / total
    largest = torch.gather(h, -1, h.abs().argmax(-1, keepdim=True))
    turn = turn * torch.where((largest * turn).real < 0, -1, 1) if is_real else largest.sgn().conj()
    return turn / torch.linalg.vector_norm(h, dim=-1, keepdim=True)


def _of_taps(C, to_taps):
    """Return the covariance (..., k, k) of taps from that of the gains, (..., N, N)."""
    half = to_taps(C.mT).mT
    return to_taps(half.conj()).conj()


def _kernel_std(C, h, factor, gauge):
    """Return standard deviations of the taps in the gauge; the covariance C (..., k, k) leaves the factor out."""
    if gauge == "sum":
        # h / sum(h): the change of the sum moves every tap.
        G = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device) - (h * factor)[..., :, None]
        C = G @ C @ G.mH
    return factor.abs() * torch.diagonal(C, dim1=-2, dim2=-1).real.clamp_min(0).sqrt()
