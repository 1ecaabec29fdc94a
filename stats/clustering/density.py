r"""Densities of normal clusters at many points, in tiles: :math:`\log \pi_k + \log N(x; \mu_k, \Sigma_k)`.

Notation  n points, p features, K clusters; pi (K,) proportions, mu (K, p) means, Sigma (K, p, p) covariances.
Cost      n p^2 K operations; beside the answer memory for a tile of points.
Pitfalls  means are taken off before anything is squared: points far from the origin lose no digits.
"""

from __future__ import annotations

import math

import torch

from sciml.exceptions import NotPositiveDefiniteError

__all__ = ["TILE", "log_joint"]

# Numbers in a tile of points: 16 MiB of float64, large enough for the products to be fast.
TILE = 2**21


def log_joint(rows, means, covariances, proportions=None):
    """Return the logarithms of proportion times density of the clusters.

    Parameters
    ----------
    rows : torch.Tensor, shape (n, p)
        Points.
    means : torch.Tensor, shape (K, p)
        Units of the points.
    covariances : torch.Tensor, shape (K, p, p)
        Units of the points squared.
    proportions : torch.Tensor, shape (K,), or None
        Shares of the clusters; None, the default: ones, which gives the densities.

    Returns
    -------
    torch.Tensor, shape (n, K)

    Raises
    ------
    NotPositiveDefiniteError
        If a covariance is singular.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> log_joint(one, one, one[None]).item()  # minus half the logarithm of 2 pi
    -0.9189385332046727
    """
    L, failed = torch.linalg.cholesky_ex(covariances)
    if bool(failed.any()):
        k = int(failed.nonzero()[0])
        raise NotPositiveDefiniteError(
            f"covariances must be positive definite; that of cluster {k} is singular. Its points lie in a subspace: "
            "use a covariance_prior, or fewer features.",
            index=k,
        )
    level = -L.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * rows.shape[1] * math.log(2 * math.pi)
    if proportions is not None:
        level = level + proportions.clamp_min(1e-300).log()
    joint = []
    for tile in rows.split(max(1, TILE // max(1, rows.shape[1]))):
        white = [
            torch.linalg.solve_triangular(F, (tile - mean).T, upper=False).square().sum(0)
            for F, mean in zip(L, means, strict=True)
        ]
        joint.append(level - 0.5 * torch.stack(white, 1))
    return torch.cat(joint)
