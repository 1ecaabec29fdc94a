"""Metrics of a layer that cost as much as all others together, or that answer for large layers by an estimate."""

from __future__ import annotations

import math

import numpy as np

from sciml.stats.spectra.gram_spectrum import ArrayLayer, eigenvalues, scan
from sciml.stats.spectra.lanczos_spectrum import lanczos_spectrum
from sciml.stats.spectra.metrics import FEWEST, spectral_metrics
from sciml.stats.spectra.power_law import fit_sorted, hill_of_sorted
from sciml.stats.spectra.scrambled import rand_distance, scramble
from sciml.stats.spectra.tails import hill_tail, moment_estimator, tail_p_value, tail_vs_mp


def extra_metrics(names, lam, layer, *, dtype, seed):
    """Return metrics by name.

    Parameters
    ----------
    names : sequence of str
        What to compute.
    lam : ndarray, shape (N,)
        Ascending eigenvalues; their scale does not matter.
    layer : Layer
        Read again for "rand_distance".
    dtype : torch.dtype
        Precision of the computation.
    seed : list of int
        Of scrambling and bootstrap.
    """
    living = lam[lam > 0]
    fit = fit_sorted(living) if len(living) >= FEWEST else None
    if fit is None or not math.isfinite(fit.alpha):
        return dict.fromkeys(names, math.nan)
    calls = {
        "alpha_hill_5": lambda: hill_tail(living, 0.05),
        "alpha_hill_10": lambda: hill_tail(living, 0.1),
        "alpha_hill_20": lambda: hill_tail(living, 0.2),
        "alpha_moment": lambda: moment_estimator(living, 0.1),
        # The law of noise is that of one matrix; the spectrum of slices is that of several.
        "tail_vs_mp": lambda: math.nan if layer.n_slices > 1 else _against_noise(living, layer, fit),
        "p_tail": lambda: tail_p_value(living, fit, random_state=np.random.default_rng(seed)),
        "rand_distance": lambda: rand_distance(lam, _scrambled(layer, dtype, seed)),
    }
    return {name: float(calls[name]()) for name in names}


def estimated_metrics(layer, *, q, seed, fit_noise):
    """Return the metrics of a layer too large for its Gram matrix, by stochastic Lanczos quadrature."""
    densities = [lanczos_spectrum(layer, k=k, random_state=np.random.default_rng(seed)) for k in range(layer.n_slices)]
    lam = np.sort(np.concatenate([density.eigenvalues() for density in densities]))
    found, _ = spectral_metrics(
        lam, rows=layer.rows, cols=layer.cols, n_slices=layer.n_slices, q=q, fit_noise=fit_noise
    )
    # Slices are independent estimates of much the same number.
    errors = [density.estimate(lambda values: hill_of_sorted(values, q))[1] for density in densities]
    found["alpha_error"] = math.sqrt(np.square(errors).sum()) / len(errors)
    return found


def _against_noise(living, layer, fit):
    return tail_vs_mp(living, (layer.rows, layer.cols), fit.xmin, fit.alpha).normalised


def _scrambled(layer, dtype, seed):
    """Return the eigenvalues of the layer with its entries in random order, divided as those of the layer."""
    rng = np.random.default_rng(seed)
    parts = []
    for k in range(layer.n_slices):
        scanned = scan(ArrayLayer(scramble(layer.matrix(k).detach(), random_state=rng)), dtype=dtype)
        parts.append(np.asarray(eigenvalues(scanned.grams[0]), dtype=float))
    return np.concatenate(parts)
