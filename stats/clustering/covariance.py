r"""Covariances of clusters from scatters, regularised by what the clusters have in common.

.. math:: \Sigma_k = \frac{T_k + \kappa W}{n_k + \kappa}, \qquad W = \Big(\tfrac1K \sum_k \Sigma_k^{-1}\Big)^{-1}

are the exact coordinate maximisers of the log-likelihood plus the log-prior
:math:`-\tfrac\kappa2 \sum_k [\log\det \Sigma_k + \operatorname{tr}(W \Sigma_k^{-1})] + \tfrac{\kappa K}2 \log\det W`:
the likelihood alone is unbounded, since a cluster of p points or fewer has a singular covariance.

Notation  T_k (K, p, p) scatters about the means; n_k (K,) counts; W (p, p) centre; kappa strength.
Cost      some K p^3 operations a sweep.
Pitfalls  a diagonal centre made of the total variance would be wrong for correlated data; W is within the clusters.
References  C. Fraley, A. Raftery, Bayesian regularization for normal mixture estimation and model-based clustering,
          2007. Y. Chen, A. Wiesel, Y. Eldar, A. Hero, Shrinkage algorithms for MMSE covariance estimation, 2010.
"""

from __future__ import annotations

import torch

__all__ = ["pooled_covariances"]


def pooled_covariances(T, N, floor, *, prior="pooled", strength=None, centre=None, sweeps=5):
    r"""Return covariances, the centre of their prior, and the log-prior.

    Parameters
    ----------
    T : torch.Tensor, shape (K, p, p)
        Scatters.
    N : torch.Tensor, shape (K,)
        Counts, fractional ones too.
    floor : torch.Tensor, shape (p,)
        Variances added to every cluster.
    prior : {"pooled", "diag", "spherical", "oas", "none"}
        W any, diagonal, or a multiple of the identity; "oas": every cluster is shrunk by itself, towards a multiple of
        the identity; "none": the floor alone.
    strength : float or None
        kappa; None, the default: p / 2, which a cluster of p points outweighs twice.
    centre : torch.Tensor, shape (p, p), or None
        W to start from; None, the default: the pooled covariance.
    sweeps : int
        Alternations of Sigma and W; 5 by default, and the objective rises in each.

    Returns
    -------
    covariances : torch.Tensor, shape (K, p, p)
    centre : torch.Tensor, shape (p, p)
    log_prior : torch.Tensor, shape ()
        Zero for "oas" and "none".

    Examples
    --------
    One cluster knows its covariance, the other none; it takes the centre:

    >>> import torch
    >>> T = torch.tensor([[[100.0]], [[0.0]]])
    >>> Sigma, W, _ = pooled_covariances(T, torch.tensor([100.0, 0.0]), torch.zeros(1), strength=1.0)
    >>> Sigma.flatten().round(decimals=2)
    tensor([1., 1.])
    """
    K, p, _ = T.shape
    kappa = p / 2 if strength is None else float(strength)
    counts = N.clamp_min(1e-9)[:, None, None]
    S = T / counts + torch.diag(floor)
    if prior in ("none", "oas"):
        return (S if prior == "none" else _oas(S, N)), S.mean(0), T.new_zeros(())
    # The pooled covariance in the shape of the prior.
    W = _shaped((T.sum(0) / N.sum().clamp_min(1e-9)) + torch.diag(floor), prior) if centre is None else centre
    eye = torch.eye(p, dtype=T.dtype, device=T.device)
    for _ in range(max(1, sweeps)):
        Sigma = (counts * S + kappa * W) / (counts + kappa)
        inverse = torch.cholesky_solve(eye, torch.linalg.cholesky(Sigma)).mean(0)
        W = _centre(inverse, prior)
    Sigma = (counts * S + kappa * W) / (counts + kappa)
    L = torch.linalg.cholesky(Sigma)
    logdet = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum()
    trace = torch.cholesky_solve(W.expand_as(L), L).diagonal(dim1=-2, dim2=-1).sum()
    log_prior = -0.5 * kappa * (logdet + trace) + 0.5 * kappa * K * torch.linalg.slogdet(W)[1]
    return 0.5 * (Sigma + Sigma.mT), W, log_prior


def _shaped(W, prior):
    """A covariance in the shape of the prior."""
    if prior == "pooled":
        return W
    d = W.diagonal()
    return torch.diag(d if prior == "diag" else d.mean().expand_as(d))


def _centre(inverse, prior):
    """W from the mean of the inverses."""
    if prior == "pooled":
        return torch.cholesky_inverse(torch.linalg.cholesky(0.5 * (inverse + inverse.mT)))
    d = inverse.diagonal()
    return torch.diag(1 / (d if prior == "diag" else d.mean().expand_as(d)))


def _oas(S, N):
    """Oracle approximating shrinkage of each covariance towards a multiple of the identity."""
    p = S.shape[-1]
    trace = S.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = (S * S).sum((-2, -1))
    top = (1 - 2 / p) * square + trace**2
    bottom = (N + 1 - 2 / p) * (square - trace**2 / p)
    rho = torch.where(bottom > 0, top / bottom.clamp_min(1e-300), torch.ones_like(top)).clamp_max(1.0)
    target = (trace / p)[:, None, None] * torch.eye(p, dtype=S.dtype, device=S.device)
    return (1 - rho)[:, None, None] * S + rho[:, None, None] * target
