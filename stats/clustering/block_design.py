r"""Strengths of the blocks of a likelihood certificate, and what points of one cluster do in the blocks of others.

.. math:: \lambda_k \leftarrow \lambda_k + \tfrac32 \max\big(0, \lambda_{\max}(H_k) - \lambda_k\big)

A strength is the eigenvalue that its block has at the members' indicator; where another eigenvalue is larger the bound
is loose, and the strength has to rise, which takes away margin from all other blocks. A fixed point is a bound that the
labels attain.

Notation  as in the certificates of the likelihood.
Cost      for each of up to ten rounds a pass over the pairs for every block, and some dozen products with its list.
Pitfalls  eigenvalues are estimates here; what is chosen is bounded elsewhere.
"""

from __future__ import annotations

import torch

from sciml.random import normal
from sciml.stats.clustering.block_affinity import BlockAffinity
from sciml.stats.clustering.likelihood_certificate import row_multipliers
from sciml.stats.clustering.spectral_bounds import leading_pairs

__all__ = ["best_design", "block_needs", "with_margin"]

# Strengths start a little above the least that their own members allow, and rise by more than what lacks.
_FIRST, _RELAXATION = 1.3, 1.5
_ROUNDS, _PATIENCE = 10, 3
_WIDER, _TIMES = 1.25, 4


def block_needs(profiles, a, choices, rng):
    """Return the largest eigenvalue of every block, estimated, and the choice that makes it smallest.

    Parameters
    ----------
    profiles : Profiles
        The partition.
    a : torch.Tensor, shape (n,)
        alpha_i / s_i.
    choices : list of tuple of bool
        What `keep` may be for each block.
    rng : numpy.random.Generator
        Source of start vectors.

    Returns
    -------
    needs : torch.Tensor, shape (K,)
        Not below 0.
    keep : list of bool

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> from sciml.stats.clustering.likelihood_certificate import Profiles
    >>> X = torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2, torch.ones(2, 1, 1, dtype=torch.float64))
    >>> profiles = Profiles(affinity, torch.tensor([0, 0, 1, 1]))
    >>> a = row_multipliers(profiles, profiles.strengths)
    >>> needs, _ = block_needs(profiles, a, [(True,), (True,)], np.random.default_rng(0))
    >>> (needs * affinity.scale).numpy().round(6)
    array([0.5, 0.5])
    """
    needs, keep = [], []
    for k, options in enumerate(choices):
        found = {option: _largest(BlockAffinity(profiles, k, a, option), rng) for option in options}
        keep.append(min(found, key=found.get))
        needs.append(max(0.0, found[keep[-1]]))
    return torch.tensor(needs, dtype=a.dtype, device=a.device), keep


def _largest(block, rng):
    s = block.roots
    if len(s) <= 150:
        return float(torch.linalg.eigvalsh(block.apply(torch.eye(len(s), dtype=s.dtype, device=s.device)))[-1])
    start = normal(rng, (len(s), 3), device=s.device)
    start[:, 0] = s * (block.profiles.labels == block.k)
    theta, _, residual = leading_pairs(block.apply, start, 1, tol=1e-6, max_products=40)
    return float(theta[0]) + residual


def best_design(profiles, rng, goal=0.0):
    """Return the multipliers and the choices of `keep` whose bound is best by an estimate of its eigenvalues.

    Parameters
    ----------
    profiles : Profiles
        The partition.
    rng : numpy.random.Generator
        Source of start vectors.
    goal : float
        Stop once the bound is so near the value of the labels, in the units of the affinity; 0 by default.

    Returns
    -------
    a : torch.Tensor, shape (n,)
        alpha_i / s_i.
    keep : list of bool
        For each block.
    strengths : torch.Tensor, shape (K,)
        lam_k.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> X = torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2, torch.ones(2, 1, 1, dtype=torch.float64))
    >>> from sciml.stats.clustering.likelihood_certificate import Profiles
    >>> a, keep, _ = best_design(Profiles(affinity, torch.tensor([0, 0, 1, 1])), np.random.default_rng(0))
    >>> len(a), len(keep)
    (4, 2)
    """
    affinity = profiles.affinity
    value = -float(affinity.weights @ profiles.costs)
    # A cluster of one point has strength zero, which leaves no room for rounding in the others.
    strengths = _FIRST * profiles.strengths.clamp_min(1e-3 * float(profiles.strengths.amax()))
    best, chosen, since = float("inf"), None, 0
    choices = [(False, True)] * affinity.n_clusters
    for number in range(_ROUNDS):
        a = row_multipliers(profiles, strengths)
        need, keep = block_needs(profiles, a, choices, rng)
        total = float(affinity.weights @ a) + float(need.sum())
        if number == 1:
            choices = [(each,) for each in keep]
        if total < best:
            best, chosen, since = total, (a, keep, strengths), 0
        since += 1
        if best - value <= goal or since > _PATIENCE:
            break
        strengths = strengths + _RELAXATION * (need - strengths).clamp_min(0)
    return chosen


def with_margin(profiles, strengths, keep, goal, rng):
    """Return strengths in the middle of the range where the bound is attained, so that they serve more points as well.

    Parameters
    ----------
    profiles : Profiles
        A sample.
    strengths : torch.Tensor, shape (K,)
        Those of `best_design`.
    keep : list of bool
        Likewise.
    goal : float
        Difference to the value of the labels that counts as none.
    rng : numpy.random.Generator
        Source of start vectors.

    Returns
    -------
    torch.Tensor, shape (K,)
        `strengths` themselves where these do not attain the bound.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.affinity import Affinity
    >>> from sciml.stats.clustering.likelihood_certificate import Profiles
    >>> X = torch.tensor([[0.0], [1.0], [9.0], [10.0]], dtype=torch.float64)
    >>> affinity = Affinity(X, 2, torch.ones(2, 1, 1, dtype=torch.float64))
    >>> profiles, rng = Profiles(affinity, torch.tensor([0, 0, 1, 1])), np.random.default_rng(0)
    >>> strengths = with_margin(profiles, profiles.strengths, [True, True], 1e-6, rng)
    >>> bool((strengths > profiles.strengths).all())
    True
    """
    value = -float(profiles.affinity.weights @ profiles.costs)
    factor = 1.0
    for _ in range(_TIMES):
        a = row_multipliers(profiles, factor * _WIDER * strengths)
        needs, _ = block_needs(profiles, a, [(each,) for each in keep], rng)
        if float(profiles.affinity.weights @ a) + float(needs.sum()) - value > goal:
            break
        factor *= _WIDER
    return factor**0.5 * strengths
