"""Pictures of a `GPRegression`: data, mean and bands in one dimension, maps of mean and deviation in two.

matplotlib is imported when a picture is drawn. Every function returns the axes and shows nothing.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError

__all__ = ["plot"]

_MOST_DRAWN = 5000  # data points; more are a blot, and megabytes in a file


def plot(result, *, ax=None, output=0, n_points=None):
    """Draw a fit.

    In one dimension the data, the mean, and bands of two standard deviations: dark for the function, light for a new
    observation. In two dimensions a map of the mean and one of the standard deviation of the function.

    Parameters
    ----------
    result : GPRegression
        In one or two dimensions.
    ax : matplotlib.axes.Axes, or a sequence of two when d = 2, optional
        Where to draw; a new figure when None.
    output : int
        Which output; 0 by default.
    n_points : int or None
        Points along each dimension; None (the default) takes 400 on a line and 60 on a map.

    Returns
    -------
    matplotlib.axes.Axes, or numpy.ndarray of them, shape (2,)
        What was drawn on.

    Raises
    ------
    InvalidInputError
        When d exceeds two, the output does not exist, or `ax` does not hold the axes that are needed.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.kernels import Gaussian
    >>> from sciml.solvers.gp_regression import fit_gp
    >>> X = np.linspace(0, 6, 20)[:, None]
    >>> ax = plot(fit_gp(X, np.sin(X[:, 0]), Gaussian(), noise=0.1, learn="none"))
    >>> ax.get_xlabel(), len(ax.collections)
    ('x (units of X)', 3)
    """
    import matplotlib.pyplot as plt

    points = _numpy(result.points)
    d, q = points.shape[1], result.targets.shape[1]
    if d > 2:
        raise InvalidInputError(
            f"result must have at most two dimensions to be drawn; got {d}. Draw a slice of mean(X)."
        )
    if output not in range(q):
        raise InvalidInputError(f"output must be one of 0 to {q - 1}; got {output!r}.")
    if ax is None:
        ax = plt.subplots(1, d, figsize=(8, 3.2) if d == 1 else (10, 4), layout="constrained", squeeze=False)[1][0]
    axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(axes) != d:
        raise InvalidInputError(f"ax must hold {d} axes for {d} dimensions; got {len(axes)}.")
    n = n_points or (400, 60)[d - 1]
    low, high = points.min(0), points.max(0)
    grid = [np.linspace(a, b, n) for a, b in zip(low - 0.05 * (high - low), high + 0.05 * (high - low), strict=True)]
    X = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, d)
    answer = result.predict(X)
    mean = np.asarray(answer.mean).reshape(len(X), -1)[:, output]
    if d == 1:
        _line(axes[0], result, grid[0], mean, answer, output)
        return axes[0]
    for panel, values, label in zip(axes, (mean, answer.std), ("mean", "standard deviation"), strict=True):
        image = panel.pcolormesh(*grid, values.reshape(n, n).T, cmap="viridis", shading="nearest", rasterized=True)
        shown = points[:: max(1, len(points) // 500)]
        panel.plot(*shown.T, ".", color="white", markersize=2, alpha=0.5)
        panel.set(xlabel="x (units of X)", ylabel="y (units of X)")
        panel.figure.colorbar(image, ax=panel, label=f"{label} (units of y)")
    axes[0].set_title(_title(result), fontsize="medium")
    return axes


def _line(ax, result, x, mean, answer, output):
    for std, shade, text in (
        (answer.observation_std, "0.9", "new observation, 2 std"),
        (answer.std, "0.75", "function, 2 std"),
    ):
        ax.fill_between(x, mean - 2 * std, mean + 2 * std, color=shade, linewidth=0, label=text)
    points, targets = _numpy(result.points)[:, 0], _numpy(result.targets)[:, output]
    step = max(1, len(points) // _MOST_DRAWN)
    ax.scatter(points[::step], targets[::step], s=8, color="0.4", label="data")
    ax.plot(x, mean, color="black", linewidth=1, label="mean")
    ax.set(xlabel="x (units of X)", ylabel="y (units of y)", xlim=(x[0], x[-1]))
    ax.set_title(_title(result), fontsize="medium")
    ax.legend(fontsize="small", ncols=2)


def _title(result):
    return f"{result.kernel}, noise {result.noise_std:.2g}"


def _numpy(values):
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
