r"""What one spectrum tells: size, rank, spread, exponents and what rises above noise.

.. math:: \text{stable rank} = \frac{\sum \lambda}{\lambda_1}, \quad
          \text{entropy} = -\frac{\sum p \ln p}{\ln r}, \ p = \frac{\lambda}{\sum \lambda}, \quad
          \text{participation} = \frac{(\sum \lambda)^2}{N \sum \lambda^2}

Notation  lambda (N,) ascending eigenvalues of a layer's Gram matrices, divided by 2^shift; r their number above
          rounding, tol = n eps lambda_1 with n the larger side.
Cost      a sort, a fit of the tail and one of the noise: about a millisecond for 400 eigenvalues.
Pitfalls  all exponents are free of scale; norms are not. Rank and entropy look at the lower end of the spectrum, which
          a Gram matrix in float32 does not resolve.

References
----------
C. Martin, M. Mahoney, Implicit self-regularization in deep neural networks, 2018, arXiv 1810.01075: the names.
"""

from __future__ import annotations

import math

import numpy as np

from sciml.stats.spectra.gram_spectrum import times_power_of_two
from sciml.stats.spectra.marchenko_pastur import fit_mp, mp_alpha
from sciml.stats.spectra.power_law import fit_sorted, hill_of_sorted

# Exponents of fewer eigenvalues would say nothing.
FEWEST = 10

SPECTRAL = (
    "alpha",
    "alpha_mp",
    "alpha_mp_ratio",
    "alpha_ks",
    "xmin",
    "ks_distance",
    "num_spikes",
    "sigma_mp",
    "lambda_plus",
    "mp_softrank",
    "ks_mp",
    "stable_rank",
    "frobenius",
    "log_spectral_norm",
    "alpha_weighted",
    "log_alpha_norm",
    "entropy",
    "rank",
    "rank_fraction",
    "participation",
)


def spectral_metrics(
    lam, *, rows, cols, n_slices=1, q=0.5, shift=0, eps=2.0**-52, fit_noise=True, count=None, living=None
):
    """Return the metrics of one layer by name, and its status.

    Parameters
    ----------
    lam : ndarray, shape (N,)
        Ascending eigenvalues divided by 2**shift, in the precision whose rounding is `eps`.
    rows, cols, n_slices : int
        Shape of a matrix and number of matrices pooled.
    q : float
        Share of the spectrum below Hill's threshold.
    shift : int
        See `lam`.
    eps : float
        Relative rounding of the eigenvalues.
    fit_noise : bool
        Whether to fit noise and count spikes; True by default.
    count : int or None
        Eigenvalues that there could be; None, the default, is the smaller side times `n_slices`.
    living : (int, int) or None
        Rows and columns that are not dead, the shape of the noise; None, the default, is all.

    Returns
    -------
    dict, str
        The metrics and "ok", "zero", "too_small", "constant" or "rank_deficient".
    """
    m, n = min(rows, cols), max(rows, cols)
    out = dict.fromkeys(SPECTRAL, math.nan) | {"num_spikes": 0, "rank": 0, "rank_fraction": 0.0, "frobenius": 0.0}
    living = (rows, cols) if living is None else living
    if min(living) > 0:
        out["alpha_mp"] = mp_alpha(min(living) / max(living), q)
    if not lam[-1] > 0:
        return out | {"log_spectral_norm": -math.inf}, "zero"
    real = lam[lam > n * eps * lam[-1]]
    _sizes(out, lam, real, m * n_slices if count is None else count, shift)
    if len(real) < FEWEST:
        return out, "too_small" if len(lam) < FEWEST else "rank_deficient"
    # Rounding makes equal eigenvalues differ a little: no exponent of some 1e15.
    constant = math.log(real[-1] / real[0]) <= 100 * n * eps
    # Zeros of dead neurons are no part of the layer that lives.
    lam = lam[max(0, m - min(living)) * n_slices :]
    deficient = not lam[int(q * len(lam))] > n * eps * lam[-1]
    if constant:
        out["alpha"] = out["alpha_ks"] = math.inf
        status = "constant"
    else:
        out["alpha"] = hill_of_sorted(real if deficient else lam, q)
        fit = fit_sorted(real)
        out |= {"alpha_ks": fit.alpha, "xmin": _scaled(fit.xmin, shift), "ks_distance": fit.distance}
        log_top = math.log(lam[-1]) + shift * math.log(2)
        out["alpha_weighted"] = fit.alpha * log_top / math.log(10)
        powers = fit.alpha * (np.log(real / real[-1]))
        out["log_alpha_norm"] = (fit.alpha * log_top + math.log(np.exp(powers).sum())) / math.log(10)
        status = "rank_deficient" if deficient else "ok"
    out["alpha_mp_ratio"] = (out["alpha"] - 1) / (out["alpha_mp"] - 1)
    if fit_noise:
        noise = fit_mp(real, living, n_matrices=n_slices)
        out |= {name: getattr(noise, name) for name in ("num_spikes", "mp_softrank", "ks_mp")}
        out["noise_status"] = noise.status
        out["sigma_mp"], out["lambda_plus"] = _scaled(noise.sigma_mp, shift // 2), _scaled(noise.lambda_plus, shift)
    return out, status


def _sizes(out, lam, real, count, shift):
    total = float(lam.sum())
    p = real / real.sum()
    out["stable_rank"] = total / float(lam[-1])
    out["frobenius"] = _scaled(total, shift)
    out["log_spectral_norm"] = math.log10(lam[-1]) + shift * math.log10(2)
    out["entropy"] = float(-(p * np.log(p)).sum() / math.log(len(p))) if len(p) > 1 else 0.0
    out["rank"] = len(real)
    out["rank_fraction"] = len(real) / count
    out["participation"] = float((lam / lam[-1]).sum() ** 2 / (count * ((lam / lam[-1]) ** 2).sum()))


def _scaled(value, shift):
    return float(times_power_of_two(value, shift))
