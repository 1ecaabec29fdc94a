r"""Classifiers by distance: the nearest mean of a class, or the nearest training matrices.

.. math:: p_c \propto \exp\left(-\frac{d^2(M_c, X)}{2 \tau}\right)

Notation  M_c (bands, d, d) mean of class c; tau > 0 temperature; bands are added: d^2 is a sum over them.
Cost      a mean for each class; N k distances, or N N_train of them for neighbours.
Pitfalls  a mean has no shrinkage to choose: with many channels and few trials tangent views do better.
References  A. Barachant et al., Multiclass brain-computer interface classification by Riemannian geometry, 2012.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciml.linalg.spd import pairwise_distances
from sciml.stats.spd.logistic import log_softmax
from sciml.stats.spd.views import TangentView
from sciml.stats.spd.votes import neighbour_votes

__all__ = ["NearestMean", "NearestNeighbours", "distance_paths"]

_NEIGHBOURS = (1, 3, 5, 9, 15)


@dataclass(frozen=True)
class NearestMean(TangentView):
    """Minimum distance to the mean of a class.

    Parameters
    ----------
    descriptor : Descriptor
        How a trial becomes a matrix.
    metric : str
        As that of a tangent view.
    theta : float
        Power by which the geometry is deformed; 1 by default.

    Examples
    --------
    >>> from sciml.stats.spd.descriptor import Descriptor
    >>> from sciml.stats.spd.distance_views import NearestMean
    >>> NearestMean(Descriptor(), "bw").label
    'covariance | bw | nearest mean'
    """

    @property
    def label(self):
        """str: a few words for tables."""
        return f"{super().label} | nearest mean"

    def settings(self):
        """Return plain values that describe the view: a dict."""
        return {**super().settings(), "view": "mean"}

    def options(self, n_train):
        """Return the temperatures to choose from, relative to the mean squared distance from the own class.

        Parameters
        ----------
        n_train : int
            Number of training trials.
        """
        return tuple(float(10.0**e) for e in np.arange(-3, 1.5, 0.5))

    def train(self, blocks, codes):
        """Return the class means and the scale of distances: a dict of arrays.

        Parameters
        ----------
        blocks : ndarray, shape (N, bands, d, d)
            Training matrices.
        codes : ndarray of int, shape (N,)
            Classes from 0.
        """
        means = np.stack([self.fit(blocks[codes == c])["reference"] for c in range(codes.max() + 1)])
        own = self._squared(blocks, means)[np.arange(len(codes)), codes]
        return {"means": means, "scale": np.array(own.mean() or 1.0)}

    def log_proba(self, blocks, state, option):
        """Return log-probabilities, an array of shape (N, k).

        Parameters
        ----------
        blocks : ndarray, shape (N, bands, d, d)
            Matrices.
        state : dict
            What `train` returned.
        option : float
            Relative temperature.
        """
        return log_softmax(-self._squared(blocks, state["means"]) / (2 * option * float(state["scale"])))

    def _squared(self, blocks, others):
        options = {"metric": self.metric, "theta": self.theta, "squared": True}
        return sum(pairwise_distances(blocks[:, b], others[:, b], **options) for b in range(blocks.shape[1]))


@dataclass(frozen=True)
class NearestNeighbours(NearestMean):
    """Vote of the nearest training matrices.

    Parameters
    ----------
    descriptor : Descriptor
        How a trial becomes a matrix.
    metric : str
        As that of a tangent view.
    theta : float
        Power by which the geometry is deformed; 1 by default.

    Examples
    --------
    >>> from sciml.stats.spd.descriptor import Descriptor
    >>> from sciml.stats.spd.distance_views import NearestNeighbours
    >>> NearestNeighbours(Descriptor(), "logeuclid").options(7)
    (1.0, 3.0, 5.0)
    """

    @property
    def label(self):
        """str: a few words for tables."""
        return f"{TangentView.label.fget(self)} | neighbours"

    def settings(self):
        """Return plain values that describe the view: a dict."""
        return {**super().settings(), "view": "neighbours"}

    def options(self, n_train):
        """Return the numbers of neighbours to choose from.

        Parameters
        ----------
        n_train : int
            Number of training trials.
        """
        return tuple(float(m) for m in _NEIGHBOURS if m <= max(1, n_train - 1))

    def train(self, blocks, codes):
        """Return the training matrices and their classes: a dict of arrays.

        Parameters
        ----------
        blocks : ndarray, shape (N, bands, d, d)
            Training matrices.
        codes : ndarray of int, shape (N,)
            Classes from 0.
        """
        self.fit(blocks)  # refuses what the geometry cannot hold
        return {"matrices": blocks, "codes": codes}

    def log_proba(self, blocks, state, option):
        """Return log-probabilities: votes with half a vote for every class, an array of shape (N, k).

        Parameters
        ----------
        blocks : ndarray, shape (N, bands, d, d)
            Matrices.
        state : dict
            What `train` returned.
        option : float
            Number of neighbours.
        """
        codes = np.asarray(state["codes"])
        m, k = int(option), int(codes.max()) + 1
        shares, _ = neighbour_votes(self._squared(blocks, state["matrices"]), codes, k, m)
        return np.log((m * shares + 0.5) / (m + 0.5 * k))


def distance_paths(view, blocks, codes, folds):
    """Return options and out-of-fold probabilities of a classifier by distance.

    Parameters
    ----------
    view : NearestMean or NearestNeighbours
        The classifier.
    blocks : ndarray, shape (N, bands, d, d)
        Matrices of all training trials.
    codes : ndarray of int, shape (N,)
        Classes from 0.
    folds : ndarray of int, shape (n_repeats, N)
        The fold that validates each trial.

    Returns
    -------
    options : tuple of float
    paths : ndarray, shape (n_options, N, k)
    """
    smallest = min((fold != f).sum() for fold in folds for f in np.unique(fold))
    options = view.options(int(smallest))
    paths = np.zeros((len(options), len(codes), int(codes.max()) + 1))
    for fold in folds:
        for f in np.unique(fold):
            held = fold == f
            state = view.train(blocks[~held], codes[~held])
            for j, option in enumerate(options):
                paths[j, held] += np.exp(view.log_proba(blocks[held], state, option)) / len(folds)
    return options, paths
