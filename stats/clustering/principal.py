r"""Principal components for clustering: as many as stand out of the same data without their correlations.

A covariance of p features has p(p+1)/2 numbers, which a cluster of a few hundred points cannot tell for p above some
hundred. The points are projected on the leading directions, those whose singular values exceed what the columns give when
each is shuffled by itself (parallel analysis); covariances are carried back with the pooled variance of what was left
out.

Notation  X (n, p) centred points; V (p, q) orthonormal directions; s2 variance left out, for each remaining dimension.
Cost      8 n p (q + 10) operations for either of two randomised decompositions.
Pitfalls  directions of small variance that tell clusters apart are lost: ask for more components, or none.
References  J. Horn, A rationale and test for the number of factors in factor analysis, 1965. N. Halko, P. Martinsson,
            J. Tropp, Finding structure with randomness, 2011, arXiv 0909.4061.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Projection", "leading_directions", "project"]

# Features up to which nothing is left out, and components at most.
_FREE, _MOST = 80, 50


@dataclass(frozen=True)
class Projection:
    """A subspace, and how to leave it.

    Parameters
    ----------
    directions : torch.Tensor, shape (p, q)
        V, orthonormal columns.
    left_out : float
        Variance of a direction that is left out, squared units of the data.

    Examples
    --------
    >>> import torch
    >>> Projection(torch.tensor([[1.0], [0.0]]), 0.25).covariances(torch.ones(1, 1, 1))[0].diagonal()
    tensor([1.0000, 0.2500])
    """

    directions: torch.Tensor
    left_out: float

    def means(self, means):
        """Return means in the data's space: (K, q) to (K, p)."""
        return means @ self.directions.T

    def covariances(self, covariances):
        """Return covariances in the data's space: (K, q, q) to (K, p, p), with the variance left out elsewhere."""
        V = self.directions
        rest = torch.eye(len(V), dtype=V.dtype, device=V.device) - V @ V.T
        out = V @ covariances @ V.T + self.left_out * rest
        return 0.5 * (out + out.mT)


def project(rows, counts, K, rng, reduce="auto"):
    """Return the projection to cluster in, or None where all features are kept.

    Parameters
    ----------
    rows : torch.Tensor, shape (n, p)
        Centred points.
    counts : torch.Tensor, shape (n,)
        Weights.
    K : int
        Clusters.
    rng : numpy.random.Generator
        Of the random decomposition and the shuffles.
    reduce : "auto", int or None
        Number of components; "auto", the default: all features up to 80, else those that stand out, at least K and at
        most 50; None: all features.

    Returns
    -------
    Projection or None

    Examples
    --------
    >>> import torch
    >>> from sciml.random import generator
    >>> project(torch.eye(4).double(), torch.ones(4).double(), 2, generator(0)) is None
    True
    """
    n, p = rows.shape
    if reduce is None or (reduce == "auto" and p <= _FREE) or (reduce != "auto" and reduce >= p):
        return None
    most = min(_MOST if reduce == "auto" else reduce, n - 1, p)
    weighted = rows * counts.sqrt()[:, None]
    V, values = leading_directions(weighted, most, rng)
    q = most
    if reduce == "auto":
        order = torch.as_tensor(rng.permuted(_ramp(n, p), axis=0), device=rows.device)
        threshold = leading_directions(weighted.gather(0, order), 1, rng)[1][0]
        q = min(most, max(int((values > threshold).sum()), min(K, most)))
    V, values = V[:, :q], values[:q]
    left = float(weighted.square().sum() - values.square().sum()) / float(counts.sum()) / max(1, p - q)
    total = float(values.square().sum()) / float(counts.sum()) / q
    return Projection(V, max(left, 1e-9 * total))


def _ramp(n, p):
    import numpy as np

    return np.repeat(np.arange(n)[:, None], p, axis=1)


def leading_directions(X, q, rng):
    """Return the leading right singular vectors and values by a randomised range finder.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Matrix.
    q : int
        How many.
    rng : numpy.random.Generator
        Of the random start.

    Returns
    -------
    tuple of torch.Tensor, shapes (p, q) and (q,)
        Signs are those that make the entry of largest modulus of each vector positive.

    Examples
    --------
    >>> import torch
    >>> from sciml.random import generator
    >>> leading_directions(torch.diag(torch.tensor([1.0, 3.0]).double()), 1, generator(0))[1].round(decimals=6)
    tensor([3.], dtype=torch.float64)
    """
    n, p = X.shape
    width = min(q + 10, n, p)
    Q = torch.as_tensor(rng.standard_normal((p, width)), dtype=X.dtype, device=X.device)
    for _ in range(4):
        Q = torch.linalg.qr(X.T @ torch.linalg.qr(X @ Q)[0])[0]
    _, values, right = torch.linalg.svd(X @ Q, full_matrices=False)
    V = Q @ right.T
    sign = V.gather(0, V.abs().argmax(0, keepdim=True)).sign()
    return (V * torch.where(sign == 0, 1.0, sign))[:, :q], values[:q]
