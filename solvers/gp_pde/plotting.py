"""Pictures of a `PDESolution`: the solution with its uncertainty, its spectrum, and its error against a known truth.

matplotlib is imported when a picture is drawn. Every function returns the axes and shows nothing. Lightness grows along
every colour scale and lines differ in style, so that the pictures survive a black-and-white printer.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError

__all__ = ["plot", "plot_error", "plot_spectrum"]


def plot(result, *, ax=None, window=None):
    """Draw a solution.

    In one dimension the mean with a band of two standard deviations to each side; in two a map, empty outside of a
    region; in three the planes through the middle, one panel for each dimension that is held fixed.

    Parameters
    ----------
    result : PDESolution
        In at most three dimensions.
    ax : matplotlib.axes.Axes, or a sequence of three when d = 3, optional
        Where to draw; a new figure when None.
    window : sequence of (float, float), length d, optional
        The part of the box to draw, in units of x; all of it when None. Fast oscillations need a small window.

    Returns
    -------
    matplotlib.axes.Axes, or numpy.ndarray of them, shape (3,)
        What was drawn on.

    Raises
    ------
    InvalidInputError
        When d exceeds three, the window is not inside the box, or `ax` does not hold the axes that are needed.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.solvers.gp_pde import PDE, Box, Dirichlet, solve_pde
    >>> sol = solve_pde(PDE(Box([(0, 1)]), {2: 1.0}, 2.0, [Dirichlet(0.0)]))  # u = x^2 - x
    >>> ax = plot(sol)
    >>> ax.get_xlabel(), bool(np.isclose(ax.lines[0].get_ydata().min(), -0.25))
    ('x (units of x)', True)
    """
    axes, bounds = _axes(result, ax), _bounds(result, window)
    if result.n_dims == 1:
        x = _grid(result, bounds)[0]
        mean, band = result(x), 2 * result.std(x)
        axes[0].plot(x, mean, color="black", linewidth=1, label="mean")
        text = f"2 standard deviations, at most {np.max(band):.0e}"
        axes[0].fill_between(x, mean - band, mean + band, color="0.7", linewidth=0, label=text)
        axes[0].set(xlabel="x (units of x)", ylabel="u (units of u)", xlim=bounds[0])
        _legend_above(axes[0], np.min(mean - band), np.max(mean + band))
    else:
        _maps(result, axes, bounds, result, cmap="viridis", label="u (units of u)")
    _title(axes, f"{str(result.status).replace('_', ' ')}, error estimate {result.error_estimate:.0e}")
    return axes if result.n_dims == 3 else axes[0]


def plot_error(result, truth, *, ax=None, window=None):
    """Draw the absolute error against a known truth, on a logarithmic scale.

    Parameters
    ----------
    result : PDESolution
        In at most three dimensions.
    truth : callable
        The true solution, X (n, d) -> (n,), in units of u.
    ax : matplotlib.axes.Axes, or a sequence of three when d = 3, optional
        Where to draw; a new figure when None.
    window : sequence of (float, float), length d, optional
        The part of the box to draw, in units of x.

    Returns
    -------
    matplotlib.axes.Axes, or numpy.ndarray of them, shape (3,)
        What was drawn on. In one dimension two standard deviations are drawn beside the error.

    Raises
    ------
    InvalidInputError
        As for `plot`.

    Examples
    --------
    >>> from sciml.solvers.gp_pde import PDE, Box, Dirichlet, solve_pde
    >>> sol = solve_pde(PDE(Box([(0, 1)]), {2: 1.0}, 2.0, [Dirichlet(0.0)]))
    >>> ax = plot_error(sol, lambda X: X[:, 0] ** 2 - X[:, 0])
    >>> ax.get_yscale(), bool(ax.lines[0].get_ydata().max() < 1e-10)
    ('log', True)
    """
    axes, bounds = _axes(result, ax), _bounds(result, window)

    def error(X):  # rounding is drawn where the error is zero, so that its logarithm exists
        u = np.asarray(truth(X), float)
        return np.maximum(np.abs(result(X) - u), np.finfo(float).eps * (np.max(np.abs(u), initial=0.0) or 1.0))

    if result.n_dims == 1:
        x = _grid(result, bounds)[0]
        axes[0].semilogy(x, error(x[:, None]), color="black", linewidth=0.8, label="true error")
        axes[0].semilogy(x, 2 * result.std(x), color="0.5", linestyle="--", label="2 standard deviations")
        axes[0].set(xlabel="x (units of x)", ylabel="|error of u| (units of u)", xlim=bounds[0])
        axes[0].legend(loc="upper right", ncols=2, fontsize="small")
        axes[0].set_ylim(top=30 * axes[0].get_ylim()[1])  # room for the legend
    else:
        _maps(result, axes, bounds, error, cmap="magma", label="|error of u| (units of u)", logarithmic=True)
    _title(axes, f"error of u, estimated {result.error_estimate:.0e} of its size")
    return axes if result.n_dims == 3 else axes[0]


def plot_spectrum(result, *, ax=None):
    """Draw the spectrum that the solver learned: the size of each carrier's part of u against its frequency.

    Parameters
    ----------
    result : PDESolution
        In any number of dimensions, each with its own marker.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when None.

    Returns
    -------
    matplotlib.axes.Axes
        Stems up to the root-mean-square size of each part; whiskers show the bandwidth of its envelope. The stem at
        zero is the part without a carrier. Parts smaller than the error estimate are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.solvers.gp_pde import PDE, Box, Dirichlet, solve_pde
    >>> u = lambda X: np.sin(100 * X[:, 0])
    >>> ax = plot_spectrum(solve_pde(PDE(Box([(0, 6)]), {2: 1.0}, lambda X: -1e4 * u(X), [Dirichlet(u)])))
    >>> ax.get_yscale(), ax.get_xlabel()
    ('log', 'angular frequency (rad / unit of x)')
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    spectrum = result.spectrum()
    largest = max([np.max(axis["weight"], initial=0.0) for axis in spectrum]) or 1.0
    # A part below the error is no part: it would only stretch the scale.
    least = largest * min(max(result.error_estimate, 1e-15), 1e-3)
    shown = [axis["weight"] > least for axis in spectrum]
    floor = 0.1 * min(np.min(axis["weight"][keep], initial=largest) for axis, keep in zip(spectrum, shown, strict=True))
    highest = 1e-3  # a constant has no frequency, but needs an axis
    for j, (axis, keep) in enumerate(zip(spectrum, shown, strict=True)):
        omega, weight, width = (axis[key][keep] for key in ("omega", "weight", "bandwidth"))
        color, marker = ("black", "0.35", "0.55", "0.7")[j % 4], "osD^"[j % 4]
        ax.vlines(omega, floor, weight, color=color, linestyle=("-", "--", ":", "-.")[j % 4])
        ax.errorbar(
            omega,
            weight,
            xerr=[np.minimum(width, omega), width],
            fmt=marker,
            color=color,
            markerfacecolor="none",
            markersize=6 + 4 * j,
            capsize=3,
            elinewidth=1,
            label=f"dimension {j}",
        )
        highest = max(highest, np.max(omega + width, initial=0.0))
    ax.set(
        yscale="log",
        ylim=(floor, 5 * largest),
        xlim=(-0.04 * highest, 1.08 * highest),
        title="learned spectrum",
        xlabel="angular frequency (rad / unit of x)",
        ylabel="size of the part, rms (units of u)",
    )
    if len(spectrum) > 1:
        ax.legend(loc="upper right", fontsize="small")
    return ax


def _axes(result, ax):
    """The axes to draw on, as an array (1,) or (3,)."""
    import matplotlib.pyplot as plt

    d = result.n_dims
    if d > 3:
        raise InvalidInputError(
            f"result must have at most three dimensions to be drawn; got {d}. Draw a slice of result(X) yourself."
        )
    needed = 3 if d == 3 else 1
    if ax is None:
        size = {1: (8, 3.2), 2: (5.5, 4.5), 3: (13, 4)}[d]
        return plt.subplots(1, needed, figsize=size, layout="constrained", squeeze=False)[1][0]
    axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(axes) != needed:
        raise InvalidInputError(
            f"ax must hold {needed} axes for a solution in {d} dimensions; got {len(axes)}. Make them "
            f"by plt.subplots(1, {needed})."
        )
    return axes


def _bounds(result, window):
    """The part of the box to draw, an array (d, 2)."""
    basis = result.posterior.basis
    box = np.stack([np.asarray(basis.lower, float), np.asarray(basis.upper, float)], axis=1)
    if window is None:
        return box
    part = np.asarray(window, float).reshape(-1, 2) if np.size(window) % 2 == 0 else np.empty((0, 2))
    ok = part.shape == box.shape and np.all(part[:, 0] < part[:, 1])
    if not ok or np.any(part[:, 0] < box[:, 0]) or np.any(part[:, 1] > box[:, 1]):
        raise InvalidInputError(
            f"window must hold a (lower, upper) inside the box {box.tolist()} for each dimension; got {window!r}."
        )
    return part


def _grid(result, bounds):
    """Coordinates along each dimension, fine enough for the fastest part of u that the eye could see."""
    per_period, fewest, most = {1: (16, 501, 20001), 2: (8, 241, 641), 3: (6, 101, 201)}[result.n_dims]
    grid = []
    for (lower, upper), axis in zip(bounds, result.spectrum(), strict=True):
        seen = axis["weight"] > 1e-3 * np.max(axis["weight"], initial=0.0)
        fastest = np.max((axis["omega"] + 2 * axis["bandwidth"])[seen], initial=0.0)
        n = int(per_period * fastest * (upper - lower) / (2 * np.pi))
        grid.append(np.linspace(lower, upper, min(max(n, fewest), most)))
    return grid


def _maps(result, axes, bounds, function, *, cmap, label, logarithmic=False):
    """Maps of a function of X on the planes through the middle: one for d = 2, three for d = 3."""
    from matplotlib.colors import LogNorm, Normalize

    d, grid, planes = result.n_dims, _grid(result, bounds), []
    fixed = [None] if d == 2 else [2, 1, 0]
    for k in fixed:
        free = [j for j in range(d) if j != k]
        X = np.empty((len(grid[free[0]]) * len(grid[free[1]]), d))
        if k is not None:
            X[:, k] = bounds[k].mean()
        X[:, free] = np.stack(np.meshgrid(*(grid[j] for j in free), indexing="ij"), axis=-1).reshape(-1, 2)
        values = np.full(len(X), np.nan)
        inside = np.ones(len(X), bool) if result.region is None else result.region.contains(X)
        if inside.any():
            values[inside] = function(X[inside])
        planes.append((k, free, values.reshape(len(grid[free[0]]), -1)))
    seen = np.concatenate([values[np.isfinite(values)] for *_, values in planes])
    low, high = (np.min(seen), np.max(seen)) if len(seen) else (0.0, 1.0)
    if logarithmic:
        low, high = (max(low, 1e-6 * high), high) if len(seen) else (0.1, 1.0)
    norm = LogNorm(low, max(high, 2 * low), clip=True) if logarithmic else Normalize(low, high)
    for panel, (k, free, values) in zip(axes, planes, strict=True):
        x, y = grid[free[0]], grid[free[1]]
        image = panel.pcolormesh(x, y, values.T, cmap=cmap, norm=norm, shading="nearest", rasterized=True)
        names = ["x", "y", "z"] if d == 3 else ["x", "y"]
        panel.set(xlabel=f"{names[free[0]]} (units of x)", ylabel=f"{names[free[1]]} (units of x)", aspect="equal")
        if k is not None:
            panel.set_title(f"{names[k]} = {bounds[k].mean():.3g}", fontsize="medium")
    axes[-1].figure.colorbar(image, ax=list(axes), label=label)


def _legend_above(ax, low, high):
    """A legend with room for it above a curve between two values."""
    room = (high - low) or 1.0
    ax.set_ylim(low - 0.05 * room, high + 0.25 * room)
    ax.legend(loc="upper right", ncols=2, fontsize="small")


def _title(axes, text):
    """One title over all panels."""
    if len(axes) == 1:
        axes[0].set_title(text, fontsize="medium")
    else:
        axes[0].figure.suptitle(text)
