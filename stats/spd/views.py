r"""Views: ways of looking at a trial that end in a vector, each with what it learns from training trials.

A tangent view describes a trial by a symmetric positive definite matrix and gives its isometric coordinates at the mean
of the training matrices. A trend view gives the coefficients of slow polynomials of time, in units of the noise:

.. math:: z = L^{-1} (\overline{x p'} - \mu), \qquad L L' = S_{\mathrm{within}} + S_{\mathrm{between}}

Notation  x (n, T) trial; p (K, T) orthonormal polynomials; S covariance of the channels about their trends, within and
          between trials; M (d, d) mean of the matrices; z features. A view turns trials into blocks (N, rows, columns)
          once, which can be cut into folds; `fit` learns from some of them, `features` applies it to others.
Cost      the eigendecomposition of every matrix for each tangent view and fold; none for trends.
Pitfalls  slow drifts of the electrodes can be a thousand times stronger than what a class does to them: a logarithm of
          the whole matrix then drowns what the linear coefficients, whitened, still show. Neither view alone is safe.
References  A. Barachant et al., Multiclass brain-computer interface classification by Riemannian geometry, 2012
            (tangent space). B. Blankertz et al., Single-trial analysis and classification of ERP components, 2011
            (trends).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from sciml.exceptions import ConditioningWarning, InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import canonical_metric, invsqrtm, spd_mean, tangent_coordinates
from sciml.stats.spd.descriptor import Descriptor
from sciml.stats.spd.time_basis import legendre_basis

__all__ = ["TangentView", "TrendView", "view_from_settings"]

# Features are distances from the mean: a mean that is a hundred thousandth off moves none that the noise has not moved.
_MEAN_TOL = 1e-5


@dataclass(frozen=True)
class TangentView:
    """Tangent coordinates of descriptors.

    Parameters
    ----------
    descriptor : Descriptor
        How a trial becomes a matrix.
    metric : str
        "airm", "logeuclid", "bw", "logchol" or "euclid".
    theta : float
        Power by which the geometry is deformed; 1 by default.

    Examples
    --------
    >>> from sciml.stats.spd.descriptor import Descriptor
    >>> from sciml.stats.spd.views import TangentView
    >>> TangentView(Descriptor(n_basis=1), "bw").label
    'mean | bw'
    """

    descriptor: Descriptor
    metric: str = "airm"
    theta: float = 1.0

    def __post_init__(self):
        names = ("airm", "logeuclid", "bw", "logchol", "euclid")
        object.__setattr__(self, "metric", canonical_metric(self.metric, names))

    @property
    def label(self):
        """str: a few words for tables."""
        power = "" if self.theta == 1 else f", power {self.theta:g}"
        return f"{self.descriptor.label} | {self.metric}{power}"

    @property
    def supervised(self):
        """bool: whether the blocks themselves depend on labels."""
        return self.descriptor.prototypes

    @property
    def exact_in_folds(self):
        """bool: whether features of all trials differ from those of a fold by a shift only, which no fit notices."""
        return self.metric in ("logeuclid", "logchol", "euclid") and not self.supervised

    @property
    def source(self):
        """Descriptor: views of one source share their blocks."""
        return self.descriptor

    def prepare(self, trials, y=None):
        """Return what the descriptor learns from training trials: a dict of arrays and numbers.

        Parameters
        ----------
        trials : Trials
            Training trials.
        y : ndarray or None
            Labels, for prototypes.
        """
        return self.descriptor.fit(trials, y)

    def blocks(self, trials, prepared):
        """Return the matrices of trials.

        Parameters
        ----------
        trials : Trials
            Trials.
        prepared : dict
            What `prepare` returned.

        Returns
        -------
        ndarray, shape (N, bands, d, d)
        """
        matrices = self.descriptor.matrices(trials, prepared)
        return matrices if matrices.ndim == 4 else matrices[:, None]

    def domain_state(self, blocks):
        """Return the whitening of one domain, an array of shape (bands, d, d).

        Parameters
        ----------
        blocks : ndarray, shape (N, bands, d, d)
            Its matrices, without labels.
        """
        metric = "airm" if self._regular(blocks) else "bw"
        return np.stack([invsqrtm(_mean(band, metric)) for band in np.moveaxis(blocks, 1, 0)])

    def recentred(self, blocks, state):
        """Return blocks of one domain after its whitening; shapes as they came.

        Parameters
        ----------
        blocks : ndarray, shape (N, bands, d, d)
            Matrices.
        state : ndarray, shape (bands, d, d)
            What `domain_state` returned.
        """
        out = state @ blocks @ state
        return (out + np.swapaxes(out, -1, -2)) / 2

    def fit(self, blocks):
        """Return what the view learns from training blocks: a dict with "reference" (bands, d, d).

        Parameters
        ----------
        blocks : ndarray, shape (N, bands, d, d)
            Training matrices.
        """
        if self.metric in ("airm", "logeuclid", "logchol") and not self._regular(blocks):
            index, smallest = self._worst(blocks)
            raise NotPositiveDefiniteError(
                f"metric {self.metric!r} needs regular matrices; number {index} has smallest eigenvalue {smallest:.1e} "
                'of its largest. Pass metric="bw", or a descriptor with shrink= above 0'
                + ("; or take large offsets out of the channels." if self.descriptor.n_basis else "."),
                index=index,
                smallest=smallest,
            )
        bands = np.moveaxis(blocks, 1, 0)
        return {"reference": np.stack([_mean(band, self.metric, self.theta) for band in bands])}

    def features(self, blocks, state):
        """Return the coordinates of blocks.

        Parameters
        ----------
        blocks : ndarray, shape (N, bands, d, d)
            Matrices.
        state : dict
            What `fit` returned.

        Returns
        -------
        ndarray, shape (N, bands d (d + 1) / 2)
            Dimensionless; the length of each part is the distance from its mean.
        """
        parts = [
            tangent_coordinates(blocks[:, b], reference, metric=self.metric, theta=self.theta)
            for b, reference in enumerate(state["reference"])
        ]
        return np.concatenate(parts, 1)

    def settings(self):
        """Return plain values from which `view_from_settings` makes an equal view: a dict."""
        return {"view": "tangent", "metric": self.metric, "theta": self.theta, **self.descriptor.settings()}

    @staticmethod
    def _worst(blocks):
        s = np.linalg.eigvalsh(blocks).reshape(len(blocks), -1, blocks.shape[-1])
        ratio = (s[..., 0] / np.maximum(s[..., -1], np.finfo(float).tiny)).min(1)
        return int(ratio.argmin()), float(ratio.min())

    def _regular(self, blocks):
        return self._worst(blocks)[1] > 1e-13


@dataclass(frozen=True)
class TrendView:
    """Whitened coefficients of slow polynomials of time.

    Parameters
    ----------
    n_basis : int
        Polynomials K; 1 is the mean.

    Examples
    --------
    >>> from sciml.stats.spd.views import TrendView
    >>> TrendView(3).label
    'trend 3 | linear'
    """

    n_basis: int = 3

    supervised = False
    exact_in_folds = False

    @property
    def label(self):
        """str: a few words for tables."""
        return f"trend {self.n_basis} | linear"

    @property
    def source(self):
        """tuple: views of one source share their blocks."""
        return ("trend", self.n_basis)

    def prepare(self, trials, y=None):
        """Return the number of channels, in a dict.

        Parameters
        ----------
        trials : Trials
            Training trials.
        y : ndarray or None
            Not used.
        """
        return {"n_channels": trials.n_channels}

    def blocks(self, trials, prepared):
        """Return coefficients and covariances about the trend, side by side.

        Parameters
        ----------
        trials : Trials
            Trials with T of at least K samples.
        prepared : dict
            What `prepare` returned.

        Returns
        -------
        ndarray, shape (N, n, K + n)
        """
        if trials.n_channels != prepared["n_channels"]:
            raise InvalidInputError(
                f"X must have the {prepared['n_channels']} channels of the training trials; got {trials.n_channels}."
            )
        out = np.empty((len(trials), trials.n_channels, self.n_basis + trials.n_channels))
        for rows, x in trials.groups:
            T = x.shape[2]
            P = legendre_basis(T, min(self.n_basis, T))
            coefficients = np.zeros((len(x), x.shape[1], self.n_basis))
            coefficients[..., : len(P)] = x @ P.T / T
            rest = x - coefficients[..., : len(P)] @ P
            out[rows] = np.concatenate([coefficients, rest @ np.swapaxes(rest, 1, 2) / T], 2)
        return out

    def domain_state(self, blocks):
        """Return mean coefficients and the whitening of one domain, an array of shape (n, K + n).

        Parameters
        ----------
        blocks : ndarray, shape (N, n, K + n)
            Its trials, without labels.
        """
        learned = self.fit(blocks)
        return np.concatenate([learned["mean"], learned["factor"]], 1)

    def recentred(self, blocks, state):
        """Return blocks of one domain after centring and whitening; shapes as they came.

        Parameters
        ----------
        blocks : ndarray, shape (N, n, K + n)
            Trials.
        state : ndarray, shape (n, K + n)
            What `domain_state` returned.
        """
        K = self.n_basis
        mean, L = state[:, :K], state[:, K:]
        coefficients = np.linalg.solve(L, blocks[..., :K] - mean)
        half = np.linalg.solve(L, blocks[..., K:])
        return np.concatenate([coefficients, np.linalg.solve(L, np.swapaxes(half, 1, 2))], 2)

    def fit(self, blocks):
        """Return what the view learns from training blocks: a dict with "mean" (n, K) and "factor" (n, n).

        Parameters
        ----------
        blocks : ndarray, shape (N, n, K + n)
            Training trials.
        """
        K = self.n_basis
        c, within = blocks[..., :K], blocks[..., K:].mean(0)
        mean = c.mean(0)
        D = c - mean
        S = within + np.einsum("ijk,ilk->jl", D, D) / len(D)
        size = np.sqrt(np.diag(S))
        if not size.max() > 0:
            raise InvalidInputError("X must vary: all trials of the training set are the same constant.")
        size = np.maximum(size, 1e-8 * size.max())
        # Channels that are sums of others, such as those about a common average, would divide by zero; the ridge is in
        # each channel's own unit.
        correlation = S / size[:, None] / size + 1e-6 * np.eye(len(S))
        return {"mean": mean, "factor": size[:, None] * np.linalg.cholesky(correlation)}

    def features(self, blocks, state):
        """Return whitened coefficients.

        Parameters
        ----------
        blocks : ndarray, shape (N, n, K + n)
            Trials.
        state : dict
            What `fit` returned.

        Returns
        -------
        ndarray, shape (N, n K)
            Dimensionless.
        """
        z = np.linalg.solve(state["factor"], blocks[..., : self.n_basis] - state["mean"])
        return z.reshape(len(z), -1)

    def settings(self):
        """Return plain values from which `view_from_settings` makes an equal view: a dict."""
        return {"view": "trend", "n_basis": self.n_basis}


def view_from_settings(settings):
    """Return the view that `settings` describes.

    Parameters
    ----------
    settings : dict
        What the method ``settings`` of a view returned, after JSON, too.

    Returns
    -------
    TangentView or TrendView

    Examples
    --------
    >>> from sciml.stats.spd.views import TrendView, view_from_settings
    >>> view_from_settings(TrendView(2).settings())
    TrendView(n_basis=2)
    """
    settings = dict(settings)
    if settings.pop("view") == "trend":
        return TrendView(**settings)
    metric, theta = settings.pop("metric"), settings.pop("theta")
    if settings.get("bands") is not None:
        settings["bands"] = tuple(tuple(band) for band in settings["bands"])
    return TangentView(Descriptor(**settings), metric, theta)


def _mean(matrices, metric, theta=1.0):
    with warnings.catch_warnings():
        # Where all matrices are singular the mean may be one of several; any of them is a reference.
        warnings.simplefilter("ignore", ConditioningWarning)
        return spd_mean(matrices, metric=metric, theta=theta, tol=_MEAN_TOL).mean
