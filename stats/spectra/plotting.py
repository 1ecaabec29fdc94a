"""Pictures of a diagnosis: exponents of layers with their intervals beside noise, and the spectrum of one layer."""

from __future__ import annotations

import math

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.validation import check_option

__all__ = ["plot", "plot_comparison", "plot_esd", "plot_layers"]

# Names longer than this are shortened at the front, where layers differ least.
_LONGEST_NAME = 44


def plot(result, *, ax=None, kind="layers", layer=None):
    """Draw a diagnosis.

    Parameters
    ----------
    result : SpectraResult or SpectraComparison
        From :func:`~sciml.diagnose` or :func:`~sciml.stats.spectra.compare`.
    ax : matplotlib Axes or None
        Where to draw; a new figure by default.
    kind : {"layers", "esd"}
        Exponents of all layers (the default) or the spectrum of one.
    layer : str or None
        Which one for kind="esd"; None, the default, is the first.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InvalidInputError
        If `kind` or `layer` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import diagnose
    >>> from sciml.stats.spectra.plotting import plot
    >>> plot(diagnose({"fc": np.random.default_rng(0).standard_normal((64, 64))})).get_xlabel()
    'FARMS exponent'
    """
    if not hasattr(result, "alpha_farms"):
        return plot_comparison(result, ax=ax)
    if check_option("kind", kind, ("layers", "esd")) == "esd":
        return plot_esd(result, result.layer[0] if layer is None else layer, ax=ax)
    return plot_layers(result, ax=ax)


def plot_layers(result, *, ax=None):
    """Draw the FARMS exponent of each layer with its interval, and what noise gives in the same windows.

    Parameters
    ----------
    result : SpectraResult
        From :func:`~sciml.diagnose`.
    ax : matplotlib Axes or None
        Where to draw; a new figure by default, high enough for all names.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InvalidInputError
        If no layer has an exponent.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import diagnose
    >>> from sciml.stats.spectra.plotting import plot_layers
    >>> len(plot_layers(diagnose({"fc": np.random.default_rng(0).standard_normal((64, 64))})).get_yticks())
    1
    """
    shown = np.flatnonzero(np.isfinite(result.alpha_farms))
    if not len(shown):
        raise InvalidInputError("result must have a layer with a FARMS exponent; got none: see its status and skipped.")
    ax = _axes(ax, height=1.2 + 0.22 * len(shown))
    y = np.arange(len(shown))
    alpha, lo, hi = (getattr(result, name)[shown] for name in ("alpha_farms", "alpha_lo", "alpha_hi"))
    odd = ~result.comparable[shown]
    null = result.alpha_null[shown]
    ax.plot(np.repeat(null, 2), np.repeat(y, 2) + np.tile([-0.5, 0.5], len(y)), "k:", lw=1.2, label="noise")
    ax.hlines(y, lo, hi, color="0.35", lw=2)
    ax.plot(alpha[~odd], y[~odd], "ko", ms=5, label="layer, 95 % interval")
    if odd.any():
        ax.plot(alpha[odd], y[odd], "ko", ms=5, mfc="white", label="another share of its layer")
    ax.set_yticks(y, [_short(name) for name in result.layer[shown]], fontsize="small")
    ax.set_ylim(len(shown) + 1.2, -0.5)  # the legend has a place of its own
    ax.set(xlabel="FARMS exponent", title="Heavier tails lie to the left of noise")
    ax.grid(axis="x", alpha=0.3)
    ax.legend(fontsize="small", loc="lower left", ncols=3, frameon=False)
    return ax


def plot_esd(result, layer, *, ax=None):
    """Draw the spectrum of one layer: its density, the power law of its tail, the edge of the noise, the spikes.

    Parameters
    ----------
    result : SpectraResult
        From :func:`~sciml.diagnose`.
    layer : str
        Name of the layer.
    ax : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InvalidInputError
        If there is no such layer, or its spectrum was not kept or is zero.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import diagnose
    >>> from sciml.stats.spectra.plotting import plot_esd
    >>> found = diagnose({"fc": np.random.default_rng(0).standard_normal((64, 64))})
    >>> plot_esd(found, "fc").get_xlabel()
    'eigenvalue (weight squared)'
    """
    at = result.index(layer)
    lam = np.empty(0) if result.spectra is None else result.spectra[at]
    lam = lam[np.isfinite(lam) & (lam > 1e-14 * np.nanmax(lam, initial=0.0))]
    if len(lam) < 2:
        raise InvalidInputError(
            f"layer must have a spectrum of two positive eigenvalues that was kept; {str(layer)!r} has not (status "
            f"{str(result.layer_status[at])!r}). Diagnose it alone, by include=, with all metrics."
        )
    ax = _axes(ax, height=4.0)
    edges = np.geomspace(lam[0], lam[-1] * (1 + 1e-9), min(60, max(10, len(lam) // 8)))
    density, _ = np.histogram(lam, edges)
    density = density / (len(lam) * np.diff(edges))
    ax.stairs(np.where(density > 0, density, np.nan), edges, color="0.45", lw=1.5, label="eigenvalues")
    alpha, xmin = result.alpha_ks[at], result.xmin[at]
    if math.isfinite(alpha) and xmin > 0:
        x = np.geomspace(xmin, lam[-1], 50)
        share = (lam >= xmin * (1 - 1e-12)).mean()
        ax.plot(x, share * (alpha - 1) / xmin * (x / xmin) ** -alpha, "k-", lw=2, label=f"power law {alpha:.2f}")
    if math.isfinite(result.lambda_plus[at]):
        ax.axvline(result.lambda_plus[at], color="k", ls=":", label="edge of the noise")
    spikes = lam[len(lam) - result.num_spikes[at] :]
    if len(spikes):
        base = np.nanmin(density[density > 0])
        least = "at least " if result.noise_status[at] == "no_bulk" else ""
        ax.plot(spikes, np.full(len(spikes), base), "k|", ms=10, label=f"{least}{len(spikes)} above the noise")
    ax.set(xscale="log", yscale="log", xlabel="eigenvalue (weight squared)", ylabel="density")
    ax.set_title(f"{_short(result.layer[at])}: FARMS {result.alpha_farms[at]:.2f}", fontsize="medium")
    ax.legend(fontsize="small")
    return ax


def plot_comparison(comparison, *, ax=None):
    """Draw the difference of the exponents of each layer with its interval.

    Parameters
    ----------
    comparison : SpectraComparison
        From :func:`~sciml.stats.spectra.compare`.
    ax : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import diagnose
    >>> from sciml.stats.spectra import compare
    >>> from sciml.stats.spectra.plotting import plot_comparison
    >>> W = np.random.default_rng(0).standard_normal((64, 64))
    >>> plot_comparison(compare(diagnose({"fc": W}), diagnose({"fc": W**3}))).get_xlabel()
    'difference of FARMS exponents'
    """
    ax = _axes(ax, height=1.2 + 0.22 * len(comparison.layer))
    y = np.arange(len(comparison.layer))
    half = 1.96 * comparison.se
    ax.axvline(0, color="k", ls=":", lw=1.2)
    ax.hlines(y, comparison.difference - half, comparison.difference + half, color="0.35", lw=2)
    ax.plot(comparison.difference, y, "ko", ms=5)
    ax.set_yticks(y, [_short(name) for name in comparison.layer], fontsize="small")
    ax.set_ylim(len(y) - 0.5, -0.5)
    ax.set(xlabel="difference of FARMS exponents", title="Change of each layer with 95 % interval")
    ax.grid(axis="x", alpha=0.3)
    return ax


def _axes(ax, height):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6.8, min(height, 40.0)), layout="constrained")[1]


def _short(name):
    # Names come from files: dollars would begin a formula.
    name = "".join(letter if letter.isprintable() else "?" for letter in str(name))
    name = name if len(name) <= _LONGEST_NAME else "..." + name[3 - _LONGEST_NAME :]
    return name.replace("$", r"\$")
