r"""The answer of `cluster`: labels, the mixture that they come from, and how far they are from the best ones.

New rows x are judged by :math:`\log \pi_k + \log N(x; \mu_k, \Sigma_k)`, or by :math:`|x - \mu_k|^2` for K-means.

Notation  n points, p features, K clusters; pi (K,) proportions, mu (K, p) means, Sigma (K, p, p) covariances.
Cost      m p^2 K operations for m new rows, in tiles: the memory does not grow with m but for the answer.
Pitfalls  what is certified are the labels under the covariances that are returned, not the joint choice of both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.linalg.arrays import enter
from sciml.results import Result, array
from sciml.stats.clustering.density import TILE, log_joint

__all__ = ["ClusterResult"]

Array = np.ndarray | torch.Tensor

_RULES = ("nearest", "likelihood", "posterior")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ClusterResult(Result):
    r"""Clusters of n points; see `cluster`. Arrays are tensors where the data were.

    Parameters
    ----------
    n_clusters : int
        K.
    method : str
        "ila-sdp" or "kmeans-sdp".
    assignment : str
        How a row gets its label: "nearest" mean, "likelihood" (the smallest Mahalanobis distance plus log-determinant),
        or "posterior" (that with the proportions). "", the default, is "nearest" for "kmeans-sdp", else "posterior".
    objective : float
        What the labels cost, smaller is better. For "kmeans-sdp" the sum of squares around the means; for "ila-sdp" the
        weighted sum of :math:`|x_i - \bar x_k|^2_{\Sigma_k^{-1}} + \log\det \Sigma_k` with the means of the labels and
        the covariances of the result.
    lower_bound : float
        No labels cost less, given the covariances; NaN if it was not asked for.
    gap : float
        ``objective - lower_bound``; NaN without a bound.
    certified : bool
        Whether the gap is zero to rounding: no other labels are better, given the covariances.
    relaxed_objective : float
        What the relaxation costs at its computed solution, in the units of `objective`; NaN without one. It is no
        bound: the solution is not exact.
    bound_error : float
        Standard error of a bound from samples of the rows; 0 where the bound is rigorous.
    certificate : str
        Where the bound comes from: "dense", "matrix-free", "exact", "sketch estimate" or "none".
    log_likelihood : float
        Of the data under the mixture; NaN where there is none.
    bic, icl : float
        Criteria for the number of clusters, smaller is better; NaN where there is no likelihood.
    noise_proportion : float
        Weight of the uniform component for outliers; 0 without one.
    noise_log_density : float
        Its log-density, taken as constant everywhere, so that far points are noise; NaN without one.
    features : list of str
        Names of the columns; empty if they have none.
    report : dict
        Candidates with their scores, and decisions.

    Notes
    -----
    Labels of noise are -1. The rows of `membership` sum to one but for the probability of noise.

    Examples
    --------
    >>> import numpy as np
    >>> result = ClusterResult(labels=[0, 0, 1], membership=[[1, 0], [1, 0], [0, 1.0]], proportions=[2 / 3, 1 / 3],
    ...                        means=[[0.0], [9.0]], covariances=[[[1.0]], [[1.0]]], n_clusters=2, method="kmeans-sdp")
    >>> result.predict([[1.0], [8.0]])
    array([0, 1])
    """

    labels: Array = array("point", help="cluster of each point, -1 for noise")
    membership: Array = array("point", "cluster", help="probability of each cluster")
    proportions: Array = array("cluster", help="share of each cluster")
    means: Array = array("cluster", "feature", units="data units", help="means of the clusters")
    covariances: Array = array(
        "cluster", "feature", "feature_2", units="data units squared", help="covariances of the clusters"
    )
    noise_probability: Array | None = array("point", help="probability of being an outlier", optional=True)
    n_clusters: int = 1
    method: str = "ila-sdp"
    assignment: str = ""
    objective: float = math.nan
    lower_bound: float = math.nan
    gap: float = math.nan
    certified: bool = False
    relaxed_objective: float = math.nan
    bound_error: float = 0.0
    certificate: str = "none"
    log_likelihood: float = math.nan
    bic: float = math.nan
    icl: float = math.nan
    noise_proportion: float = 0.0
    noise_log_density: float = math.nan
    features: list = field(default_factory=list)
    report: dict = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        if not self.assignment:
            object.__setattr__(self, "assignment", "nearest" if self.method == "kmeans-sdp" else "posterior")
        if self.assignment not in _RULES:
            raise InvalidInputError(f"assignment must be one of {', '.join(_RULES)}; got {self.assignment!r}.")

    @property
    def has_noise(self):
        """Whether there is a component for outliers."""
        return self.noise_proportion > 0

    def predict(self, X):
        """Return the clusters of new rows.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of the data.

        Returns
        -------
        array of int64, shape (m,)
            Numbers of clusters, -1 for noise; a tensor where X is one.

        Raises
        ------
        InvalidInputError
            If X has another number of columns, or an entry that is not finite.
        """
        rows, leave = self._enter(X)

        def label(tile):
            scores = self._scores(tile)
            best = scores.argmax(1)
            # The last column of scores is that of noise.
            return torch.where(best == self.n_clusters, -1, best)

        return leave(self._tiled(rows, label))

    def predict_proba(self, X):
        """Return the probability of each cluster for new rows.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of the data.

        Returns
        -------
        array, shape (m, K)
            Rows sum to one; with a component for noise, to one less the probability of noise. Zeros and ones where
            rows go to the nearest mean.

        Raises
        ------
        InvalidInputError
            If X has another number of columns, or an entry that is not finite.
        """
        rows, leave = self._enter(X)

        def share(tile):
            scores = self._scores(tile)
            if self.assignment == "nearest":
                return torch.nn.functional.one_hot(scores.argmax(1), self.n_clusters).to(scores)
            return torch.softmax(scores, 1)[:, : self.n_clusters]

        return leave(self._tiled(rows, share))

    def score_samples(self, X):
        """Return the log-density of the mixture at new rows.

        Parameters
        ----------
        X : array, shape (m, p)
            Rows in the units of the data.

        Returns
        -------
        array, shape (m,)
            Natural logarithms; the density is one over the product of the units of the columns.

        Raises
        ------
        InvalidInputError
            If X has another number of columns or an entry that is not finite, or a covariance is singular.
        """
        rows, leave = self._enter(X)
        return leave(self._tiled(rows, lambda tile: torch.logsumexp(self._log_joint(tile, "posterior"), 1)))

    def summary(self):
        """Return what there is to know, in a few lines: a str."""
        labels = np.asarray(self.labels.cpu() if isinstance(self.labels, torch.Tensor) else self.labels)
        sizes = np.bincount(labels[labels >= 0], minlength=self.n_clusters)
        lines = [
            f"{type(self).__name__}: {self.n_clusters} clusters of {len(labels)} points, method {self.method!r}",
            f"  points         {', '.join(map(str, sizes.tolist()))}"
            + (f"; noise {int((labels < 0).sum())}" if self.has_noise or (labels < 0).any() else ""),
            f"  objective      {self.objective:.10g}",
        ]
        if math.isfinite(self.lower_bound):
            about = f", standard error {self.bound_error:.2g}" if self.bound_error else ""
            given = "" if self.method == "kmeans-sdp" else ", given the covariances"
            verdict = f"certified: no labels are better{given}" if self.certified else "not certified"
            lines.append(f"  lower bound    {self.lower_bound:.10g} ({self.certificate}{about})")
            lines.append(f"  gap            {self.gap:.3g}; {verdict}")
        if math.isfinite(self.log_likelihood):
            lines.append(f"  log-likelihood {self.log_likelihood:.10g}, bic {self.bic:.10g}, icl {self.icl:.10g}")
        return "\n".join(lines)

    def coords(self):
        """Return the numbers of the clusters and the names of the features as coordinates."""
        named = {axis: np.asarray(self.features) for axis in ("feature", "feature_2")} if self.features else {}
        return {"cluster": np.arange(self.n_clusters), **named}

    def _enter(self, X):
        """Return new rows as a float64 tensor, and the way back to their kind and precision."""
        values = X.values if hasattr(X, "dims") else X
        (rows,), _ = enter(values, names=("X",))
        p = self.means.shape[1]
        if rows.is_complex():
            raise InvalidTypeError(f"X must be real; got dtype {rows.dtype}. Pass real and imaginary parts as columns.")
        if rows.ndim != 2 or rows.shape[1] != p:
            raise InvalidInputError(
                f"X must have shape (m, {p}), a column for each feature of the data; got {tuple(rows.shape)}."
            )
        dtype = rows.dtype

        def leave(answer):
            answer = answer.to(dtype) if answer.is_floating_point() else answer
            return answer if isinstance(X, torch.Tensor) else answer.cpu().numpy()

        return rows.double(), leave

    @staticmethod
    def _tiled(rows, function):
        size = max(1, TILE // rows.shape[1])
        return torch.cat([function(tile) for tile in rows.split(size)]) if len(rows) else function(rows)

    def _scores(self, rows):
        """Return what the label maximises, (m, K), or (m, K + 1) with noise in the last column."""
        if self.assignment != "nearest":
            return self._log_joint(rows, self.assignment)
        means = torch.as_tensor(self.means).to(rows)
        return torch.stack([-(rows - mean).square().sum(1) for mean in means], 1)

    def _log_joint(self, rows, assignment):
        """Return the logarithms of proportion times density; without the proportions for "likelihood"."""
        means, covariances = torch.as_tensor(self.means).to(rows), torch.as_tensor(self.covariances).to(rows)
        proportions = torch.as_tensor(self.proportions).to(rows) if assignment == "posterior" else None
        out = log_joint(rows, means, covariances, proportions)
        if assignment == "posterior" and self.has_noise:
            noise = math.log(self.noise_proportion) + self.noise_log_density
            out = torch.cat([out, out.new_full((len(out), 1), noise)], 1)
        return out
