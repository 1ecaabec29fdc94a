r"""Recentring: every domain (person, session, device) is whitened by its own mean, so that all have the identity.

.. math:: X_i \leftarrow M_k^{-1/2} X_i M_k^{-1/2}, \qquad i \text{ in domain } k

Notation  X (N, n, n); M_k (n, n) mean of domain k; W_k its inverse root.
Cost      a mean of each domain and two products of each matrix.
Pitfalls  a mean of few matrices is noisy; classes of very different frequency in two domains pull their means apart.
References  P. Zanini, M. Congedo, C. Jutten, S. Said, Y. Berthoumieu, Transfer learning: a Riemannian geometry
            framework with applications to brain-computer interfaces, 2018.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.linalg.spd import invsqrtm

__all__ = ["domain_labels", "whiten"]


def domain_labels(domains, n):
    """Return one name for each of n trials.

    Parameters
    ----------
    domains : array, shape (n,), or None
        Names or numbers; None puts all trials into one domain, 0.
    n : int
        Number of trials.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    InvalidInputError
        If there is not one name for each trial.

    Examples
    --------
    >>> from sciml.stats.spd.recentring import domain_labels
    >>> domain_labels(["a", "b"], 2).tolist(), domain_labels(None, 2).tolist()
    (['a', 'b'], [0, 0])
    """
    if domains is None:
        return np.zeros(n, dtype=int)
    labels = np.asarray(domains)
    if labels.shape != (n,):
        raise InvalidInputError(
            f"domains must hold one name for each of {n} trials; got shape {labels.shape}. "
            "Pass the names of the trials that are transformed."
        )
    return labels


def whiten(X, M):
    """Return the matrices in the coordinates in which M is the identity.

    Parameters
    ----------
    X : ndarray, shape (N, n, n)
        Positive semidefinite matrices.
    M : ndarray, shape (n, n)
        Positive definite, in the units of `X`.

    Returns
    -------
    ndarray, shape (N, n, n)
        Exactly symmetric, dimensionless.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.recentring import whiten
    >>> whiten(np.array([np.diag([4.0, 9.0])]), np.diag([4.0, 3.0]))[0].diagonal().round(12)
    array([1., 3.])
    """
    W = invsqrtm(M)
    Y = W @ X @ W
    return (Y + Y.conj().swapaxes(-1, -2)) / 2
