r"""How far anybody's labels are from the best ones: objective, lower bound, gap.

.. math:: \text{bound} \;\le\; \min_G \sum_k \sum_{i \in G_k} \big(|x_i - \bar x_k|^2_{\Sigma_k^{-1}}
          + \log\det\Sigma_k\big) \;\le\; \text{objective of the labels}

Without covariances the objective is the sum of squares of K-means. Labels may come from any program.

Cost      dense: n^2 numbers and n^3 / 3 operations for each metric; beyond some thousand points without matrices.
Pitfalls  the bound is for the covariances given: labels may be certified for poor covariances.
References  T. Iguchi, D. Mixon, J. Peterson, S. Villar, Probably certifiably correct k-means clustering, 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.arrays import enter
from sciml.random import generator
from sciml.stats.clustering.affinity import Affinity
from sciml.stats.clustering.certificates import certify
from sciml.stats.clustering.distinct import distinct_rows
from sciml.stats.clustering.door import check_data, check_weights
from sciml.validation import check_number

__all__ = ["Gap", "optimality_gap"]


class Gap(NamedTuple):
    """What `optimality_gap` returns: three numbers.

    Parameters
    ----------
    objective : float
        What the labels cost.
    bound : float
        No labels cost less.
    gap : float
        Their difference, not below 0.

    Examples
    --------
    >>> Gap(3.0, 2.5, 0.5).gap
    0.5
    """

    objective: float
    bound: float
    gap: float


def optimality_gap(
    X,
    labels,
    covariances=None,
    *,
    n_clusters=None,
    sample_weight=None,
    method="auto",
    polish="auto",
    memory=None,
    random_state=None,
):
    r"""Return what labels cost, a lower bound of what any labels cost, and the difference.

    Parameters
    ----------
    X : array, shape (n, p)
        Points.
    labels : array, shape (n,)
        Clusters, integers or texts; rows labelled -1 are noise and left out.
    covariances : array, shape (K, p, p) or (p, p), or None
        Covariances of the clusters in the order of their sorted labels, or one for all. None, the default: the sum of
        squares of K-means.
    n_clusters : int or None
        Clusters that other labels may have; None, the default: as many as there are labels, or covariances.
    sample_weight : array, shape (n,), or None
        How often each row counts; None, the default: once.
    method : {"auto", "dense", "matrix-free", "sketch"}
        How the bound is computed; "auto", the default, by the number of points: with matrices up to some thousand,
        without them up to 1e5, from samples of the rows beyond, where the bound is an estimate: a mean less three
        standard errors.
    polish : "auto", bool or int
        Steps that improve a bound which leaves a gap; "auto", the default: as many as take a second or two.
    memory : int, float, str or None
        What temporaries may take; None (the default) asks the configuration.
    random_state : None, int or numpy.random.Generator
        Of start vectors and samples of rows.

    Returns
    -------
    tuple of float
        Objective, bound and gap, in squared units of the data, or dimensionless with covariances.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or a number is not finite.
    NotPositiveDefiniteError
        If a covariance is not positive definite.
    MemoryBudgetError
        If a dense bound does not fit into memory.

    Notes
    -----
    A gap of at most 1e-6 of the objective is what `cluster` calls certified.

    References
    ----------
    J. Peng, Y. Wei, Approximating K-means-type clustering via semidefinite programming, SIAM J. Optim., 2007.

    Examples
    --------
    >>> from sciml.stats.clustering import optimality_gap
    >>> objective, bound, gap = optimality_gap([[0.0], [1.0], [10.0], [11.0]], ["a", "a", "b", "b"])
    >>> round(objective, 6), round(bound, 6), round(gap, 6)
    (1.0, 1.0, 0.0)
    """
    data, _, _ = check_data(X)
    number, K = _numbers(labels, len(data))
    weights = check_weights(sample_weight, data)
    kept = torch.as_tensor(number >= 0, device=data.device)
    if weights is not None:
        kept &= weights > 0
    if not bool(kept.any()):
        raise InvalidInputError(f"labels must leave a row; all {len(data)} are -1 or have no weight.")
    number = torch.as_tensor(number, device=data.device)[kept]
    Sigma, metrics = _covariances(covariances, data.shape[1], data)
    K = metrics if n_clusters is None and metrics > 1 else K
    if n_clusters is not None:
        K = check_number("n_clusters", n_clusters, low=K, integer=True)
    if 1 < metrics != K:
        raise InvalidInputError(
            f"covariances must be one for each cluster; got {metrics} for {K} labels. Pass one of shape (p, p) for all."
        )
    if int(number.max()) >= K:
        raise InvalidInputError(
            f"labels must have at most as many values as covariances, {K}; got {int(number.max()) + 1}."
        )
    rows, counts, part = data[kept], None if weights is None else weights[kept], number
    joined, joint, inverse = distinct_rows(torch.cat([rows, number[:, None].to(rows)], 1), counts)
    rows, counts, part = joined[:, :-1], joint, joined[:, -1].long()
    del inverse
    rows = rows - counts @ rows / counts.sum()
    affinity = Affinity(rows, K, Sigma, counts)
    found = certify(affinity, part, method=method, polish=polish, memory=memory, rng=generator(random_state))
    return Gap(float(found.objective), float(found.bound), float(found.gap))


def _numbers(labels, n):
    """Labels as numbers from 0, -1 for noise, and how many there are."""
    values = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if values.shape != (n,):
        raise InvalidInputError(f"labels must have one entry for each of the {n} rows of X; got shape {values.shape}.")
    if values.dtype.kind == "f":
        if not np.all(np.isfinite(values)) or np.any(values != np.round(values)):
            i = int(np.argmax(~np.isfinite(values) | (values != np.round(values))))
            raise InvalidInputError(f"labels must be integers or texts; the entry at index {i} is {values[i]}.")
        values = values.astype(np.int64)
    noise = values == -1 if values.dtype.kind in "iu" else np.zeros(n, bool)
    out = np.full(n, -1, dtype=np.int64)
    names, out[~noise] = np.unique(values[~noise], return_inverse=True)
    return out, max(1, len(names))


def _covariances(covariances, p, like):
    """Covariances as a tensor or None, and how many metrics there are."""
    if covariances is None:
        return None, 1
    (C,), _ = enter(covariances, names=("covariances",))
    if C.ndim not in (2, 3) or C.shape[-2:] != (p, p) or C.is_complex():
        raise InvalidInputError(
            f"covariances must have shape (K, {p}, {p}) or ({p}, {p}); got {tuple(C.shape)}. For variances alone pass "
            "diagonal matrices."
        )
    C = C.to(like)
    stack = C if C.ndim == 3 else C[None]
    uneven = (stack - stack.mT).abs().amax(dim=(-2, -1)) > 1e-8 * stack.abs().amax(dim=(-2, -1))
    smallest = torch.linalg.eigvalsh(0.5 * (stack + stack.mT))[:, 0]
    for k, (value, bad) in enumerate(zip(smallest.tolist(), uneven.tolist(), strict=True)):
        if bad:
            raise InvalidInputError(f"covariances must be symmetric; number {k} is not. Pass (C + C.T) / 2.")
        if not value > 0:
            raise NotPositiveDefiniteError(
                f"covariances must be positive definite; number {k} has smallest eigenvalue {value:.3g}. Add a ridge.",
                index=k,
                smallest=value,
            )
    C = 0.5 * (C + C.mT)
    # A single covariance is one metric for all clusters.
    return (C[0] if C.ndim == 3 and len(C) == 1 else C), len(stack)
