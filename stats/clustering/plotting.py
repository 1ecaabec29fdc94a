r"""Pictures of a `ClusterResult`: clusters with ellipses, membership, the path of the objective, the gap to the bound.

An ellipse holds the share `level` of its Gaussian in the plane: :math:`(z - \mu)' \Sigma^{-1} (z - \mu) = -2 \log(1 -
\mathrm{level})`, with mean and covariance of the two coordinates that are drawn.

matplotlib is imported when a picture is drawn. Every function returns the axes and shows nothing. Clusters differ in
their marks as well as in colour, so that the pictures survive a black-and-white printer.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.validation import check_number

__all__ = ["plot", "plot_gap", "plot_membership", "plot_objective"]

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Colours that the colour-blind tell apart (Okabe and Ito), the darkest first.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#56B4E9", "#E69F00", "#666666")
# Columns of a heat map: more than a screen has would only be averaged by it.
_COLUMNS = 2000


def plot(result, *, X=None, ax=None, features=None, level=0.95, max_points=5000):
    """Draw the clusters in a plane: means, ellipses, and the points if they are given.

    Parameters
    ----------
    result : ClusterResult
        Of `cluster`.
    X : array, shape (n, p) or (m, p), or None
        The data, which a result does not hold, or other rows, which then get labels by `result.predict`. None, the
        default: no points.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure by default (None).
    features : pair of int or str, or None
        The columns across and up, by number or name. None, the default: both of two columns, the only one, and of more
        than two the plane in which means and covariances of the clusters differ most [1]_, whatever the units.
    level : float
        Share of a Gaussian inside its ellipse, between 0 and 1; 0.95 by default.
    max_points : int
        Points that are drawn at most, evenly picked; 5000 by default, since more become one blot.

    Returns
    -------
    matplotlib.axes.Axes
        With one mark and colour for each cluster and crosses for noise; data of one column are drawn as a histogram
        with the densities of the clusters.

    Raises
    ------
    InvalidInputError
        If there are no such features, or a number is out of its range.

    References
    ----------
    .. [1] L. Scrucca, Dimension reduction for model-based clustering, Statistics and Computing 20, 2010, 471.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.result import ClusterResult
    >>> result = ClusterResult(labels=[0, 1], membership=np.eye(2), proportions=[0.5, 0.5], n_clusters=2,
    ...                        means=[[0.0, 0.0], [9.0, 0.0]], covariances=[np.eye(2), np.eye(2)])
    >>> len(plot(result).patches)
    2
    """
    level = check_number("level", level, low=0, high=1, inclusive="neither")
    most = check_number("max_points", max_points, low=1, integer=True)
    origin, plane, names = _plane(result, features)
    rows, labels = (None, None) if X is None else _picked(result, X, most)
    ax = _axes(ax)
    if plane.shape[1] == 1:
        _densities(ax, result, rows)
        ax.set(xlabel=names[0], ylabel="density")
    else:
        _scatter(ax, result, None if rows is None else (rows - origin) @ plane, labels)
        _ellipses(ax, (_numpy(result.means) - origin) @ plane, plane.T @ _numpy(result.covariances) @ plane, level)
        ax.set(xlabel=names[0], ylabel=names[1])
        ax.autoscale_view()
    if result.n_clusters <= 12:
        ax.legend(fontsize="small")
    return ax


def plot_membership(result, *, ax=None):
    """Draw the probability of each cluster for each point, the points sorted by cluster and then by probability.

    Parameters
    ----------
    result : ClusterResult
        Of `cluster`.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure by default (None).

    Returns
    -------
    matplotlib.axes.Axes
        Points run to the right, clusters upwards, noise is the last line; black is one. White seams are borders where
        points are torn between clusters. Of more than 2000 points, evenly picked ones are drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.result import ClusterResult
    >>> result = ClusterResult(labels=[0, 1, 0], membership=[[0.6, 0.4], [0.1, 0.9], [1.0, 0.0]], means=[[0.0], [1.0]],
    ...                        proportions=[0.5, 0.5], covariances=np.ones((2, 1, 1)), n_clusters=2)
    >>> plot_membership(result).images[0].get_array().tolist()
    [[1.0, 0.6, 0.1], [0.0, 0.4, 0.9]]
    """
    ax = _axes(ax)
    shares, labels = _numpy(result.membership), _numpy(result.labels)
    names = [str(k) for k in range(result.n_clusters)]
    if result.noise_probability is not None:
        shares = np.column_stack([shares, _numpy(result.noise_probability)])
        labels, names = np.where(labels < 0, result.n_clusters, labels), [*names, "noise"]
    own = shares[np.arange(len(shares)), labels]
    order = np.lexsort((-own, labels))
    order = order[_even(len(order), _COLUMNS)]
    extent = (0, len(shares), -0.5, len(names) - 0.5)
    image = ax.imshow(
        shares[order].T,
        aspect="auto",
        origin="lower",
        cmap="Greys",
        vmin=0,
        vmax=1,
        extent=extent,
        interpolation="none",
    )
    ax.figure.colorbar(image, ax=ax, label="probability")
    ax.set(xlabel="point, sorted", ylabel="cluster", yticks=range(len(names)), yticklabels=names)
    return ax


def plot_objective(result, *, ax=None, key="objective"):
    """Draw how the relaxation went.

    Parameters
    ----------
    result : ClusterResult
        Of a method that kept a history.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure by default (None).
    key : str
        Which row of the history; "objective" by default.

    Returns
    -------
    matplotlib.axes.Axes
        For "kmeans-sdp" the value of the relaxation, which comes close from either side, since its constraints are met
        only in the end; dotted what the labels cost, dashed the lower bound, if there is one. For "ila-sdp" the
        penalised log-likelihood of the relaxation, which rises; it has other units than the objective of the labels.

    Raises
    ------
    InvalidInputError
        If there is no such history.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.result import ClusterResult
    >>> result = ClusterResult(labels=[0, 1], membership=np.eye(2), proportions=[0.5, 0.5], n_clusters=2,
    ...                        means=[[0.0], [9.0]], covariances=np.ones((2, 1, 1)), history={"objective": [5.0, 4.0]})
    >>> plot_objective(result).lines[0].get_ydata().tolist()
    [5.0, 4.0]
    """
    path = np.asarray(result.history.get(key, ()), dtype=float)
    if not path.size:
        raise InvalidInputError(
            f"key must name a row of result.history; got {key!r}, and there are {sorted(result.history)}. "
            "A method without a loop has none."
        )
    ax = _axes(ax)
    is_sum_of_squares = key == "objective" and result.method == "kmeans-sdp"
    ax.plot(np.arange(len(path)), path, "o-", color="0.0", markersize=4, label="relaxation")
    if is_sum_of_squares:
        ax.axhline(result.objective, color="0.4", linestyle=":", label="labels")
        if math.isfinite(result.lower_bound):
            ax.axhline(result.lower_bound, color=_COLOURS[1], linestyle="--", label="lower bound")
        ax.legend(fontsize="small")
    words = "penalised log-likelihood (larger is better)" if key == "objective" else key.replace("_", " ")
    ax.set(xlabel="step", ylabel="sum of squares (smaller is better)" if is_sum_of_squares else words)
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def plot_gap(result, *, ax=None):
    """Draw the cost of the labels and the lower bound: the best labels there are lie in the bar between them.

    Parameters
    ----------
    result : ClusterResult, or dict of str to ClusterResult
        With lower bounds; several by name stand side by side.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure by default (None).

    Returns
    -------
    matplotlib.axes.Axes
        With "certified" above a bar that is closed, else "not certified" and the gap in per cent of the objective. A
        bound from samples of the rows has an error bar of three standard errors.

    Raises
    ------
    InvalidInputError
        If a result has no lower bound.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.clustering.result import ClusterResult
    >>> result = ClusterResult(labels=[0, 1], membership=np.eye(2), proportions=[0.5, 0.5], n_clusters=2,
    ...                        means=[[0.0], [9.0]], covariances=np.ones((2, 1, 1)), objective=2.0, lower_bound=1.5,
    ...                        gap=0.5)
    >>> plot_gap(result).texts[0].get_text()
    'not certified\\ngap 25 %'
    """
    results = result if isinstance(result, dict) else {result.method: result}
    for name, one in results.items():
        if not math.isfinite(one.lower_bound):
            raise InvalidInputError(
                f"result must have a lower bound; that of {name!r} is {one.lower_bound}. Pass certify=True to cluster."
            )
    ax = _axes(ax)
    for i, one in enumerate(results.values()):
        first = i == 0
        low, high = one.lower_bound, one.objective
        ax.bar(i, high - low, bottom=low, width=0.5, color="0.85", label="gap" if first else None)
        ax.hlines(high, i - 0.3, i + 0.3, color="0.0", linewidth=2, label="objective" if first else None)
        ax.hlines(
            low, i - 0.3, i + 0.3, color=_COLOURS[1], linewidth=2, linestyle="--", label="bound" if first else None
        )
        if one.bound_error:
            ax.errorbar(i, low, 3 * one.bound_error, color=_COLOURS[1], capsize=4)
        ax.annotate(_verdict(one), (i, high), (0, 6), textcoords="offset points", ha="center", fontsize="small")
    values = np.array([(one.lower_bound - 3 * one.bound_error, one.objective) for one in results.values()])
    # Bars that are all closed still need an axis with some length.
    room = max(np.ptp(values), 1e-3 * np.abs(values).max(), np.finfo(float).tiny)
    ax.set(ylim=(values.min() - 0.15 * room, values.max() + 0.35 * room), xlim=(-0.6, len(results) - 0.4))
    ax.set(xticks=range(len(results)), xticklabels=list(results), ylabel="objective (smaller is better)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize="small", frameon=False)
    return ax


def _verdict(one):
    if one.certified:
        return "certified"
    share = f"gap {100 * one.gap / abs(one.objective):.2g} %" if one.objective else f"gap {one.gap:.2g}"
    return f"{'estimated' if one.bound_error else 'not certified'}\n{share}"


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _numpy(value):
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _even(n, most):
    """Return at most `most` numbers below n, evenly spread."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).round().astype(int)


def _style(k):
    """Return mark and colour of cluster k: 64 differ."""
    return {"marker": _MARKS[(k + k // 8) % 8], "color": _COLOURS[k % 8]}


def _plane(result, features):
    """Return what is zero in the picture, the map from there to its coordinates, (p, 1 or 2), and their names."""
    p = result.means.shape[1]
    if features is None and p > 2:
        origin, directions = _separating(result)
        return origin, directions, [f"direction {i} (standard deviations)" for i in (1, 2)]
    given = tuple(range(p)) if features is None else tuple(np.atleast_1d(np.asarray(features, dtype=object)))
    if len(given) not in (1, 2) or (len(given) == 1 and p > 1):
        raise InvalidInputError(f"features must be two columns; got {features!r}. Pass a pair such as (0, 1).")
    columns = [_column(result, name) for name in given]
    names = [result.features[c] if result.features else f"feature {c} (data units)" for c in columns]
    return np.zeros(p), np.eye(p)[:, columns], names


def _separating(result):
    """Return the mean and the two directions, of variance one, in which means and covariances differ most, (p, 2)."""
    shares = _numpy(result.proportions) / _numpy(result.proportions).sum()
    means, covariances = _numpy(result.means), _numpy(result.covariances)
    spread = means - shares @ means
    within = np.tensordot(shares, covariances, 1)
    total = within + (shares[:, None] * spread).T @ spread
    std = np.sqrt(np.diagonal(total))
    std = np.where(std > 0, std, 1.0)
    values, vectors = np.linalg.eigh(total / np.outer(std, std))
    # Directions without variance show nothing, and would only be magnified rounding.
    values = np.where(values > 1e-10 * values.max(), values, np.inf)
    whiten = vectors / np.sqrt(values) / std[:, None]
    spread, covariances, within = spread @ whiten, whiten.T @ covariances @ whiten, whiten.T @ within @ whiten
    between = (shares[:, None] * spread).T @ spread
    unlike = np.tensordot(shares, (covariances - within) @ (covariances - within), 1)
    directions = np.linalg.eigh(between @ between + unlike)[1][:, ::-1][:, :2]
    directions = whiten @ directions
    # The sign of an eigenvector is chance; the largest entry, in standard deviations, is taken as positive.
    return shares @ means, directions * np.sign(directions[np.abs(directions * std[:, None]).argmax(0), [0, 1]])


def _column(result, name):
    p = result.means.shape[1]
    if isinstance(name, str) and name in result.features:
        return result.features.index(name)
    known = f"0 to {p - 1}" + (f" or {', '.join(result.features)}" if result.features else "")
    if isinstance(name, (bool, str)) or not isinstance(name, (int, np.integer)) or not -p <= name < p:
        raise InvalidInputError(f"features must be columns of the data, {known}; got {name!r}.")
    return int(name) % p


def _picked(result, X, most):
    """Return the rows that are drawn, and their labels."""
    rows = _numpy(X).astype(float, copy=False)
    p = result.means.shape[1]
    if rows.ndim != 2 or rows.shape[1] != p:
        raise InvalidInputError(f"X must have shape (n, {p}), as the data of the result; got {rows.shape}.")
    known = len(rows) == len(result.labels)
    index = _even(len(rows), most)
    return rows[index], _numpy(result.labels)[index] if known else result.predict(rows[index])


def _scatter(ax, result, points, labels):
    if points is None:
        return
    for k in range(result.n_clusters):
        inside = points[labels == k]
        ax.plot(inside[:, 0], inside[:, 1], linestyle="none", markersize=3, alpha=0.6, **_style(k))
    noise = points[labels < 0]
    if len(noise):
        ax.plot(noise[:, 0], noise[:, 1], "x", color="0.6", markersize=4, label="noise")


def _ellipses(ax, means, covariances, level):
    from matplotlib.patches import Ellipse

    radius = math.sqrt(-2 * math.log1p(-level))
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        width, height = 2 * radius * np.sqrt(values.clip(0)[::-1])
        angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
        style = _style(k)
        ax.add_patch(Ellipse(mean, width, height, angle=angle, fill=False, edgecolor=style["color"], linewidth=1.5))
        ax.plot(*mean, linestyle="none", markersize=9, markeredgecolor="white", label=f"cluster {k}", **style)


def _densities(ax, result, rows):
    means, shares = _numpy(result.means)[:, 0], _numpy(result.proportions)
    std = np.sqrt(_numpy(result.covariances)[:, 0, 0].clip(0))
    if rows is not None:
        ax.hist(rows[:, 0], bins="auto", density=True, color="0.9")
    grid = np.linspace((means - 4 * std).min(), (means + 4 * std).max(), 500)
    for k in np.flatnonzero(std > 0):
        density = shares[k] * np.exp(-0.5 * ((grid - means[k]) / std[k]) ** 2) / (std[k] * math.sqrt(2 * math.pi))
        ax.plot(grid, density, markevery=50, markersize=4, label=f"cluster {k}", **_style(k))
