r"""Gaussian clusters of unlike shapes, with the labels that they were drawn by.

.. math:: x_i = \mu_{l(i)} + Q_{l(i)} \operatorname{diag}(e_{l(i)})^{1/2} z_i, \qquad z_i \sim N(0, I)

Every cluster has a frame Q_k of its own, uniform among the rotations, and variances e_k whose logarithms are uniform on
an interval of length log(condition), shifted so that their mean is zero: all clusters have the same volume, none the
same shape.

Notation  n points, K clusters, p features; l(i) the label of a point; mu_k = separation / sqrt(2) times the k-th unit
          vector where K <= p, so that all means are `separation` apart; else entries of N(0, separation^2 / (2 p)), for
          that distance in mean square.
Cost      n p^2 + K p^3.
Pitfalls  the same seed with another K, p or other proportions gives unrelated data. Where K > p some means come close
          to each other by chance. Which signs the columns of Q_k have depends on the library of linear algebra, and so
          do the points, not their distribution.
References  G. W. Stewart, The efficient generation of random orthogonal matrices, SIAM Journal on
          Numerical Analysis 17, 1980, 403.
"""

import math

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.validation import check_finite, check_number

__all__ = ["gaussian_clusters"]

# Outliers fill a cube that the clusters take the middle of: half a side is 12 where the separation is 5.
_CUBE = 2.4


def gaussian_clusters(
    n, n_clusters, n_features, separation, condition, *, proportions=None, outliers=0.0, random_state=0
):
    r"""Draw points of Gaussian clusters that have the same volume and different shapes.

    Parameters
    ----------
    n : int
        Points, outliers included.
    n_clusters : int
        K.
    n_features : int
        p.
    separation : float
        Distance between any two means (in mean square where K > p), in units in which the geometric mean of the
        standard deviations is one.
    condition : float
        At least 1: the largest ratio that two variances of a cluster can have, dimensionless; 1 for balls.
    proportions : array_like, shape (K,), or None
        Probabilities of the clusters, with sum one. None, the default: all alike.
    outliers : float
        Share of the points that are replaced by uniform ones on a cube of half a side 2.4 times the separation about
        the origin, from 0 (the default) to 1.
    random_state : None, int or numpy.random.Generator
        Seed; 0 by default.

    Returns
    -------
    X : ndarray, shape (n, p), float64
        Points.
    labels : ndarray, shape (n,), int64
        Clusters from 0 to K - 1; -1 for outliers.

    Raises
    ------
    InvalidInputError
        If a number is out of its range, or `proportions` are no K probabilities.

    References
    ----------
    G. W. Stewart, The efficient generation of random orthogonal matrices, SIAM Journal on Numerical Analysis 17, 1980,
    403.

    Examples
    --------
    >>> from sciml.datasets import gaussian_clusters
    >>> X, labels = gaussian_clusters(300, 3, 10, 5, 20)
    >>> X.shape, labels[:6]
    ((300, 10), array([2, 1, 1, 0, 0, 0]))
    """
    n = check_number("n", n, low=1, integer=True)
    K = check_number("n_clusters", n_clusters, low=1, integer=True)
    p = check_number("n_features", n_features, low=1, integer=True)
    separation = check_number("separation", separation, low=0)
    half = math.log(check_number("condition", condition, low=1)) / 2
    outliers = check_number("outliers", outliers, low=0, high=1)
    proportions = None if proportions is None else _probabilities(proportions, K)
    rng = generator(random_state)
    labels = rng.integers(0, K, n) if proportions is None else rng.choice(K, n, p=proportions)
    if p < K:
        means = separation / math.sqrt(2 * p) * rng.standard_normal((K, p))
    else:
        means = separation / math.sqrt(2) * np.eye(K, p)
    X = np.empty((n, p))
    for k, mean in enumerate(means):
        # Q diag(e) Q' does not see the signs of the columns of Q, which QR leaves open.
        Q = np.linalg.qr(rng.standard_normal((p, p)))[0]
        logs = rng.uniform(-half, half, p)
        members = labels == k
        Z = rng.standard_normal((np.count_nonzero(members), p))
        X[members] = mean + Z * np.exp((logs - logs.mean()) / 2) @ Q.T
    replaced = rng.permutation(n)[: round(outliers * n)]
    X[replaced] = rng.uniform(-_CUBE * separation, _CUBE * separation, (len(replaced), p))
    labels[replaced] = -1
    return X, labels


def _probabilities(proportions, K):
    values = np.asarray(proportions, dtype=np.float64)
    if values.shape != (K,):
        raise InvalidInputError(
            f"proportions must have one entry for each of {K} clusters; got shape {values.shape}. Leave it out for "
            "clusters that are all alike."
        )
    check_finite("proportions", values)
    if values.min() < 0 or not math.isclose(values.sum(), 1, rel_tol=1e-9):
        raise InvalidInputError(
            f"proportions must not be negative and have sum 1; got {values.tolist()} with sum {values.sum():.6g}. "
            "Divide by their sum."
        )
    return values / values.sum()
