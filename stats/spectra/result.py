"""The answer of :func:`diagnose`: one row a layer, and what was set aside with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.results import Result, array

__all__ = ["SpectraResult"]


def _metric(help, units="dimensionless"):
    return array("layer", units=units, help=help)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SpectraResult(Result):
    """Spectra of the layers of a network; all fields with one value a layer have shape (n_layers,).

    Parameters
    ----------
    layer, tensor, module, kind, shape : ndarray of str
        Name of the layer (the tensor's key, with the part in square brackets where it holds several), the tensor's key,
        the module's path, "linear", "embedding", "conv", "recurrent", "attention", "expert", "adapter" or "spectral",
        and the stored shape.
    alpha, alpha_error : ndarray
        Hill's exponent of the whole spectrum, which depends on the shape of the layer, and the error of its estimate:
        0 but for the status "estimated".
    alpha_farms : ndarray
        FARMS exponent: of the pooled eigenvalues of windows of one shape. The one to compare layers by.
    alpha_se, alpha_lo, alpha_hi : ndarray
        Its standard error and interval of 95 percent; NaN with one window.
    alpha_null, z_null : ndarray
        What the same windows of noise give (Gaussian entries, or flatter ones where the weights are, such as the
        uniform ones that torch starts with), and the distance from it in standard deviations of noise; positive for
        tails heavier than noise.
    alpha_mp, alpha_mp_ratio : ndarray
        Exponent of Gaussian noise of the layer's shape (Marchenko-Pastur), and (alpha - 1) / (alpha_mp - 1): for
        reporting, it over-corrects structured layers.
    alpha_ks, xmin, ks_distance : ndarray
        Exponent above the threshold of the least Kolmogorov-Smirnov distance, that threshold and distance.
    sigma_mp, lambda_plus, num_spikes, mp_softrank, ks_mp : ndarray
        Noise fitted to the bulk: standard deviation of an entry, upper edge, eigenvalues above it, edge over largest
        eigenvalue, distance of the bulk from the law of noise.
    noise_status : ndarray of str
        Of that fit: "ok", "rank_deficient", "constant", or "no_bulk": half of the eigenvalues stand out from any noise,
        and `num_spikes` is half of them or more. Empty where there was none.
    stable_rank, frobenius, log_spectral_norm, alpha_weighted, log_alpha_norm, entropy, rank, rank_fraction, \
participation : ndarray
        Of the whole spectrum: sum over largest eigenvalue, sum, log10 of the largest, alpha_ks times that, log10 of the
        sum of lambda^alpha_ks, entropy over its maximum, number above rounding, that over all, and participation ratio.
    num_eigenvalues, n_dead_rows, n_dead_cols, window, n_windows, rows, cols, n_slices, numel : ndarray of int
        Eigenvalues pooled, neurons dropped before windows were cut, smaller side of a window, windows, sides of a
        matrix, matrices of the layer, numbers stored.
    comparable : ndarray of bool
        Whether the window is the share of the layer that most layers have.
    layer_status : ndarray of str
        "status" in :meth:`to_xarray`: "ok"; "too_small" (fewer than 10 eigenvalues, or no window of 16 fits);
        "one_window" (no interval); "rank_deficient" (fitted without the zeros); "constant" (all eigenvalues equal:
        alpha infinite); "zero"; "low_rank" (an adapter); "estimated" (by stochastic Lanczos quadrature);
        "non_finite".
    extra : dict
        Metrics asked for beyond these, one list a name.
    skipped : list of (str, str)
        All tensors without a row, with the reason.
    spectra : ndarray, shape (n_layers, n_eigenvalues), or None
        Ascending eigenvalues, padded with NaN at the end; None where they would be too large.
    influence, design : ndarray, shapes (n_layers, n), (n_layers, 3)
        Influence of each window on alpha_farms, padded with NaN, and repeats x rows x columns of windows: what
        :func:`compare` pairs.
    """

    layer: np.ndarray = _metric("name")
    tensor: np.ndarray = _metric("key of the stored tensor")
    module: np.ndarray = _metric("path of the module")
    kind: np.ndarray = _metric("kind of layer")
    shape: np.ndarray = _metric("stored shape")
    alpha: np.ndarray = _metric("Hill exponent of the whole spectrum")
    alpha_error: np.ndarray = _metric("error of alpha where the spectrum is estimated")
    alpha_farms: np.ndarray = _metric("FARMS exponent")
    alpha_se: np.ndarray = _metric("standard error of the FARMS exponent")
    alpha_lo: np.ndarray = _metric("lower end of its 95 percent interval")
    alpha_hi: np.ndarray = _metric("upper end of its 95 percent interval")
    alpha_null: np.ndarray = _metric("FARMS exponent of noise")
    z_null: np.ndarray = _metric("distance from noise in standard deviations")
    alpha_mp: np.ndarray = _metric("Hill exponent of noise of the layer's shape")
    alpha_mp_ratio: np.ndarray = _metric("(alpha - 1) / (alpha_mp - 1)")
    alpha_ks: np.ndarray = _metric("exponent of the tail of least Kolmogorov-Smirnov distance")
    xmin: np.ndarray = _metric("threshold of that tail", "weight^2")
    ks_distance: np.ndarray = _metric("distance of that tail from its power law")
    num_spikes: np.ndarray = _metric("eigenvalues above the noise")
    sigma_mp: np.ndarray = _metric("standard deviation of an entry of the noise", "weight")
    lambda_plus: np.ndarray = _metric("upper edge of the noise", "weight^2")
    noise_status: np.ndarray = _metric("how the noise was fitted")
    mp_softrank: np.ndarray = _metric("edge of the noise over the largest eigenvalue")
    ks_mp: np.ndarray = _metric("distance of the bulk from the law of noise")
    stable_rank: np.ndarray = _metric("sum over the largest eigenvalue")
    frobenius: np.ndarray = _metric("sum of the eigenvalues", "weight^2")
    log_spectral_norm: np.ndarray = _metric("log10 of the largest eigenvalue")
    alpha_weighted: np.ndarray = _metric("alpha_ks times log_spectral_norm")
    log_alpha_norm: np.ndarray = _metric("log10 of the sum of eigenvalues to the power alpha_ks")
    entropy: np.ndarray = _metric("entropy of the eigenvalues over its maximum")
    rank: np.ndarray = _metric("eigenvalues above rounding")
    rank_fraction: np.ndarray = _metric("rank over the number of eigenvalues")
    participation: np.ndarray = _metric("participation ratio of the eigenvalues")
    num_eigenvalues: np.ndarray = _metric("number of eigenvalues")
    n_dead_rows: np.ndarray = _metric("rows dropped as dead")
    n_dead_cols: np.ndarray = _metric("columns dropped as dead")
    window: np.ndarray = _metric("smaller side of a window")
    n_windows: np.ndarray = _metric("number of windows")
    comparable: np.ndarray = _metric("window is the usual share of the layer")
    rows: np.ndarray = _metric("rows of a matrix")
    cols: np.ndarray = _metric("columns of a matrix")
    n_slices: np.ndarray = _metric("matrices of the layer")
    numel: np.ndarray = _metric("number of weights")
    layer_status: np.ndarray = _metric("how the layer was diagnosed")
    spectra: np.ndarray | None = array("layer", "eigenvalue", units="weight^2", help="spectrum", optional=True)
    influence: np.ndarray = array("layer", "window_number", help="influence of a window on the FARMS exponent")
    design: np.ndarray = array("layer", "design_axis", help="repeats, rows and columns of windows")
    extra: dict = field(default_factory=dict)
    skipped: list = field(default_factory=list)

    def __post_init__(self):
        super().__post_init__()
        # A loaded list holds lists.
        object.__setattr__(self, "skipped", [tuple(pair) for pair in self.skipped])

    def __repr__(self):
        return f"<SpectraResult {self.status.name}: {len(self)} layers, {len(self.skipped)} tensors skipped>"

    def __len__(self):
        return len(self.layer)

    def to_xarray(self):
        """Return all as a Dataset over the dimension ``layer``.

        The coordinate ``layer`` holds the names; ``tensor``, ``module``, ``kind`` and ``shape`` are coordinates beside
        it; ``status`` is that of each layer, and the attribute ``skipped`` a JSON list of names and reasons.

        Returns
        -------
        xarray.Dataset

        Examples
        --------
        >>> import numpy as np
        >>> from sciml import diagnose
        >>> found = diagnose({"fc": np.random.default_rng(0).standard_normal((64, 64))}).to_xarray()
        >>> found.sel(layer="fc").status.item(), found.sizes["layer"]
        ('ok', 1)
        """
        found = super().to_xarray()
        found = found.rename(layer_status="status").set_coords(["tensor", "module", "kind", "shape"])
        for name, values in self.extra.items():
            found[name] = (("layer",), np.asarray(values, dtype=float), {"long_name": name})
        return found.drop_vars(["influence", "design"])

    def index(self, name):
        """Return the number of a layer.

        Parameters
        ----------
        name : str
            Name of the layer, or of its tensor where that holds one layer.

        Returns
        -------
        int

        Raises
        ------
        InvalidInputError
            If there is no such layer.

        Examples
        --------
        >>> import numpy as np
        >>> from sciml import diagnose
        >>> diagnose({"a": np.eye(20), "b": np.eye(30)}, farms=False).index("b")
        1
        """
        for names in (self.layer, self.tensor):
            at = np.flatnonzero(names == name)
            if len(at) == 1:
                return int(at[0])
        near = [str(known) for known in self.layer if str(name) in str(known)] or [str(n) for n in self.layer]
        raise InvalidInputError(f"layer must name one of {len(self)} layers; got {name!r}. Such as {near[:5]}.")

    def compare(self, other):
        """Return the differences of another diagnosis from this one, layer by layer.

        Parameters
        ----------
        other : SpectraResult
            Of a network with layers of the same names, such as after fine-tuning.

        Returns
        -------
        SpectraComparison
            See :func:`sciml.stats.spectra.compare`.

        Examples
        --------
        >>> import numpy as np
        >>> from sciml import diagnose
        >>> found = diagnose({"fc": np.random.default_rng(0).standard_normal((64, 64))})
        >>> found.compare(found).mean_difference
        0.0
        """
        from sciml.stats.spectra.comparison import compare

        return compare(self, other)

    def plot_esd(self, layer, *, ax=None):
        """Draw the spectrum of one layer with its power law, the edge of the noise and the spikes.

        Parameters
        ----------
        layer : str
            Its name.
        ax : matplotlib Axes or None
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        InvalidInputError
            If there is no such layer, or its spectrum was not kept.

        Examples
        --------
        >>> import numpy as np
        >>> from sciml import diagnose
        >>> found = diagnose({"fc": np.random.default_rng(0).standard_normal((64, 64))})
        >>> found.plot_esd("fc").get_xscale()
        'log'
        """
        from sciml.stats.spectra.plotting import plot_esd

        return plot_esd(self, layer, ax=ax)
