r"""Mean series of each class, appended to every trial: the cross block then says how much of each response is in it.

.. math:: z(t) = (P(t), x(t)), \qquad P = (W_1 \bar x_1, \dots, W_C \bar x_C)

Notation  xbar_c (n, T) mean of the training trials of class c; W_c (f, n) xDAWN filters, the identity without xDAWN;
          C_c = xbar_c xbar_c' / T covariance of the response; C covariance of all training trials.
Cost      N n T for the means; two n x n decompositions for each class.
Pitfalls  responses must be locked to the same sample in all trials, and trials be of equal length. The means know the
          training labels: a trial that entered its own class mean looks closer to it than a new one, so everything that
          follows must be judged on other trials.
References  A. Barachant, M. Congedo, A plug and play P300 BCI using information geometry, 2014, arXiv 1409.0107.
            B. Rivet, A. Souloumiac, V. Attina, G. Gibert, xDAWN algorithm to enhance evoked potentials, 2009.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

from sciml.exceptions import InvalidInputError
from sciml.validation import check_number

__all__ = ["append_prototypes", "class_prototypes"]


def class_prototypes(trials, y, *, n_components=None):
    r"""Return the mean series of each class, reduced by xDAWN if asked for.

    Parameters
    ----------
    trials : Trials
        Training series of equal length.
    y : array, shape (N,)
        Their labels.
    n_components : int or None
        Components f of each class that xDAWN keeps, those that maximise :math:`w' C_c w / w' C w`; None, the default:
        all channels as they are.

    Returns
    -------
    prototypes : ndarray, shape (P, T)
        Classes in sorted order, each with f or n rows; units of the data.
    classes : ndarray, shape (C,)
        The labels.

    Raises
    ------
    InvalidInputError
        If labels are missing or of another number, trials are matrices or of several lengths, or there are not as many
        components.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.prototypes import class_prototypes
    >>> from sciml.stats.spd.trials import as_trials
    >>> x = as_trials([[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 7.0]]])
    >>> class_prototypes(x, [0, 0, 1])[0].tolist()
    [[2.0, 3.0], [5.0, 7.0]]
    """
    if y is None:
        raise InvalidInputError("y must be given for prototypes, which are the means of classes; got None.")
    y = np.asarray(y)
    if y.shape != (len(trials),):
        raise InvalidInputError(f"y must hold one label for each trial; got shape {y.shape} for {len(trials)} trials.")
    if trials.kind == "matrices" or len(trials.groups) > 1:
        what = (
            "matrices"
            if trials.kind == "matrices"
            else f"lengths from {trials.lengths.min()} to {trials.lengths.max()}"
        )
        raise InvalidInputError(f"prototypes need series of equal length; got {what}. Cut the trials to one length.")
    classes, numbers = np.unique(y, return_inverse=True)
    x = trials.groups[0][1]
    means = np.stack([x[numbers == c].mean(axis=0) for c in range(len(classes))])
    if n_components is not None:
        n_components = check_number("n_components", n_components, low=1, high=x.shape[1], integer=True)
        x = x - x.mean(axis=2, keepdims=True)  # an offset is no response
        C = (x @ x.transpose(0, 2, 1)).mean(axis=0)
        means = np.stack([_xdawn(mean, C, n_components) @ mean for mean in means])
    return means.reshape(-1, x.shape[2]), classes


def _xdawn(mean, C, f):
    """Return the f filters, rows, that find most of the response; of the size of unit vectors, so that units stay."""
    n = len(C)
    # Rank-deficient data (average reference) leave C singular: a floor relative to its size keeps the pencil regular.
    floor = 1e-9 * np.trace(C) / n
    mean = mean - mean.mean(axis=1, keepdims=True)
    _, W = eigh(mean @ mean.T, C + floor * np.eye(n), subset_by_index=(n - f, n - 1))
    W = W[:, ::-1].T
    W = W / np.linalg.norm(W, axis=1, keepdims=True)
    return W * np.sign(W[np.arange(f), np.abs(W).argmax(axis=1)])[:, None]


def append_prototypes(trials, prototypes):
    """Return trials with the prototypes as their first channels.

    Parameters
    ----------
    trials : Trials
        Series of the length of the prototypes.
    prototypes : ndarray, shape (P, T)
        As `class_prototypes` returns them.

    Returns
    -------
    Trials
        With P + n channels.

    Raises
    ------
    InvalidInputError
        If a trial has another length; its number is named.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.prototypes import append_prototypes
    >>> from sciml.stats.spd.trials import as_trials
    >>> append_prototypes(as_trials(np.ones((3, 2, 5))), np.zeros((1, 5))).channels
    ('prototype0', '0', '1')
    """
    P, T = prototypes.shape
    other = np.flatnonzero(trials.lengths != T)
    if len(other):
        raise InvalidInputError(
            f"trials must have the length of the prototypes, {T} samples; trial {other[0]} has "
            f"{trials.lengths[other[0]]}. Cut or pad it."
        )
    names = [f"prototype{i}" for i in range(P)]
    return trials.map_series(
        lambda x: np.concatenate([np.broadcast_to(prototypes, (len(x), P, T)), x], axis=1), [*names, *trials.channels]
    )
