"""Pictures of a classifier: what is confused with what, which view predicts how well, what its probabilities mean."""

from __future__ import annotations

import math

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.validation import check_option

__all__ = ["plot", "plot_confusion", "plot_reliability", "plot_views"]


def plot(result, *, ax=None, kind="confusion"):
    """Draw a classifier.

    Parameters
    ----------
    result : SPDResult
        From :func:`~sciml.classify_spd`.
    ax : matplotlib Axes or None
        Where to draw; a new figure by default.
    kind : {"confusion", "views", "reliability"}
        Which picture; the confusion matrix by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InvalidInputError
        If `kind` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import classify_spd
    >>> from sciml.stats.spd.plotting import plot
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 2, 60)), np.repeat([0, 1], 10)
    >>> plot(classify_spd(X, y, descriptor="covariance", metric="bw")).get_xlabel()
    'predicted class'
    """
    pictures = {"confusion": plot_confusion, "views": plot_views, "reliability": plot_reliability}
    return pictures[check_option("kind", kind, tuple(pictures))](result, ax=ax)


def plot_confusion(result, *, ax=None):
    """Draw the out-of-fold confusion matrix: shares of each true class, and counts.

    Parameters
    ----------
    result : SPDResult
        From :func:`~sciml.classify_spd`.
    ax : matplotlib Axes or None
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import classify_spd
    >>> from sciml.stats.spd.plotting import plot_confusion
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 2, 60)), np.repeat([0, 1], 10)
    >>> plot_confusion(classify_spd(X, y, descriptor="covariance", metric="bw")).get_ylabel()
    'true class'
    """
    ax = _axes(ax)
    codes, k = _codes(result), len(result.classes)
    counts = np.zeros((k, k), dtype=int)
    np.add.at(counts, (codes, np.asarray(result.cv_proba).argmax(1)), 1)
    share = counts / counts.sum(1, keepdims=True)
    image = ax.imshow(share, cmap="Greys", vmin=0, vmax=1)
    if k <= 12:
        for i, j in np.ndindex(k, k):
            if counts[i, j]:
                ax.text(j, i, counts[i, j], ha="center", va="center", color="white" if share[i, j] > 0.5 else "black")
    names = [str(c) for c in result.classes]
    ax.set_xticks(range(k), names, rotation=45 if max(map(len, names)) > 3 else 0, ha="right" if k > 2 else "center")
    ax.set_yticks(range(k), names)
    ax.set(xlabel="predicted class", ylabel="true class", title=f"accuracy {result.cv_accuracy:.3f}, out of fold")
    ax.figure.colorbar(image, ax=ax, label="share of the true class")
    return ax


def plot_views(result, *, ax=None, n_best=12):
    """Draw the log-loss of the best views; those of the mixture are filled.

    Parameters
    ----------
    result : SPDResult
        From :func:`~sciml.classify_spd`.
    ax : matplotlib Axes or None
        Where to draw; a new figure by default.
    n_best : int
        How many; 12 by default.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import classify_spd
    >>> from sciml.stats.spd.plotting import plot_views
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 2, 60)), np.repeat([0, 1], 10)
    >>> plot_views(classify_spd(X, y, descriptor="covariance", metric="bw")).get_xlabel()
    'log-loss out of fold (nats)'
    """
    ax = _axes(ax)
    table = result.cv_results
    rows = range(min(n_best, len(table["view"])))
    for row in rows:
        inside = table["weight"][row] > 0
        ax.plot(table["log_loss"][row], row, "o", color="black", fillstyle="full" if inside else "none")
    ax.axvline(math.log(len(result.classes)), color="grey", ls="--", label="knowing nothing")
    ax.axvline(result.cv_log_loss, color="black", ls=":", label="mixture, choices made without the fold")
    ax.set_yticks(list(rows), [str(table["view"][row]) for row in rows])
    ax.invert_yaxis()
    ax.set(xlabel="log-loss out of fold (nats)", title="filled: in the mixture")
    ax.legend(loc="lower right", fontsize="small")
    return ax


def plot_reliability(result, *, ax=None, n_bins=8):
    """Draw how often labels are right against the probability stated for them.

    Parameters
    ----------
    result : SPDResult
        From :func:`~sciml.classify_spd`.
    ax : matplotlib Axes or None
        Where to draw; a new figure by default.
    n_bins : int
        Groups of equally many trials; 8 by default, at most one for 5 trials.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InvalidInputError
        If `n_bins` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml import classify_spd
    >>> from sciml.stats.spd.plotting import plot_reliability
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 2, 60)), np.repeat([0, 1], 10)
    >>> plot_reliability(classify_spd(X, y, descriptor="covariance", metric="bw")).get_ylabel()
    'share that is right'
    """
    if n_bins < 1:
        raise InvalidInputError(f"n_bins must be at least 1; got {n_bins}.")
    ax = _axes(ax)
    P, codes = np.asarray(result.cv_proba), _codes(result)
    stated, right = P.max(1), P.argmax(1) == codes
    bins = np.array_split(np.argsort(stated, kind="stable"), max(1, min(n_bins, len(codes) // 5)))
    x = np.array([stated[rows].mean() for rows in bins])
    y = np.array([right[rows].mean() for rows in bins])
    # One standard error of a share, from the stated probabilities, so that a share of 1 has bars, too.
    error = np.array([np.sqrt((stated[rows] * (1 - stated[rows])).sum()) / len(rows) for rows in bins])
    low = 1 / len(result.classes)
    ax.plot([low, 1], [low, 1], color="grey", ls="--", label="exact")
    ax.errorbar(x, y, yerr=error, fmt="o", color="black", capsize=3, label="out of fold, one standard error")
    ax.set(xlabel="probability stated for the label", ylabel="share that is right", ylim=(None, 1.05))
    ax.legend(loc="upper left", fontsize="small")
    return ax


def _codes(result):
    return np.asarray(result._model["codes"])


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
