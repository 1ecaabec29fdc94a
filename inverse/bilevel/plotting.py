"""Pictures of a `BilevelResult`: value with its bars, hyperparameters and accuracies against the work that was spent.

matplotlib is imported when a picture is drawn. Every function returns the axes and shows nothing. Lines differ in style
as well as in grey, so that the pictures survive a black-and-white printer.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError

__all__ = ["plot", "plot_accuracy", "plot_parameters"]

_WORK = "work (units: gradients and Hessian products a sample)"
# More lines than these nobody tells apart.
_LINES = 8
_STYLES = ("-", "--", "-.", ":")


def plot(result, *, ax=None):
    """Draw the value with its error bar, and below it the hyperparameters, against the work that was spent.

    Parameters
    ----------
    result : BilevelResult
        Of `learn_hyperparameters`.
    ax : matplotlib.axes.Axes, a sequence of two of them, or None
        Where to draw: one for the value alone, two for value and hyperparameters; a new figure with two by default
        (None).

    Returns
    -------
    matplotlib.axes.Axes, or numpy.ndarray of them, shape (2,)
        What was drawn on.

    Raises
    ------
    InvalidInputError
        If `ax` holds neither one nor two axes.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import LowerProblem, SquaredError, learn_hyperparameters
    >>> def h(x, theta, idx):
    ...     return 0.5 * ((x - 2.0) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)
    >>> lower = LowerProblem(h, mu=1.0, LH=0.0)
    >>> result = learn_hyperparameters(lower, SquaredError(np.ones((1, 1))), np.array([2.0]))
    >>> axes = plot(result)
    >>> axes[0].get_ylabel(), axes[1].get_ylabel()
    ('value (units of g)', 'theta (dimensionless)')
    """
    if ax is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(2, 1, sharex=True, layout="constrained")
    else:
        axes = np.atleast_1d(np.asarray(ax, dtype=object))
        if axes.shape not in ((1,), (2,)):
            raise InvalidInputError(
                f"ax must be one or two axes; got an array of shape {axes.shape}. Make them by plt.subplots(2)."
            )
    _draw_value(result, axes[0])
    if len(axes) == 1:
        axes[0].set_xlabel(_WORK)
        return axes[0]
    plot_parameters(result, ax=axes[1])
    axes[1].set_title("")
    return axes


def plot_parameters(result, *, ax=None):
    """Draw the hyperparameters against the work that was spent.

    Parameters
    ----------
    result : BilevelResult
        Of `learn_hyperparameters`.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure by default (None).

    Returns
    -------
    matplotlib.axes.Axes
        With a line for each hyperparameter; of more than eight the eight that moved most stand out of the others.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import LowerProblem, SquaredError, learn_hyperparameters
    >>> def h(x, theta, idx):
    ...     return 0.5 * ((x - 2.0) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)
    >>> lower = LowerProblem(h, mu=1.0, LH=0.0)
    >>> result = learn_hyperparameters(lower, SquaredError(np.ones((1, 1))), np.array([2.0]))
    >>> ax = plot_parameters(result)
    >>> bool(abs(ax.lines[0].get_ydata()[-1]) < 1e-3)
    True
    """
    ax = _axes(ax)
    units, thetas = np.asarray(result.history["n_units"], float), _numpy(result.thetas)
    n = thetas.shape[1]
    moved = np.argsort(-np.ptp(thetas, axis=0), kind="stable")
    shown = np.sort(moved[:_LINES])
    for j in range(n):
        if j not in shown:
            ax.plot(units, thetas[:, j], color="0.85", linewidth=0.5, zorder=1)
    for k, j in enumerate(shown):
        grey = str(0.6 * k / max(len(shown) - 1, 1))
        ax.plot(units, thetas[:, j], _STYLES[k % 4], color=grey, linewidth=1, marker=".", label=f"theta[{j}]")
    ax.set(xlabel=_WORK, ylabel="theta (dimensionless)")
    if n > 1:
        ax.legend(loc="best", ncols=2, fontsize="small")
    if n > _LINES:
        ax.set_title(f"the {_LINES} of {n} hyperparameters that moved most, and the others", fontsize="medium")
    return ax


def plot_accuracy(result, *, ax=None):
    """Draw gradient norm, bar of the value and accuracy of the lower level against the work that was spent.

    Parameters
    ----------
    result : BilevelResult
        Of `learn_hyperparameters`.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure by default (None).

    Returns
    -------
    matplotlib.axes.Axes
        With a logarithmic scale; what is zero is left out.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel import LowerProblem, SquaredError, learn_hyperparameters
    >>> def h(x, theta, idx):
    ...     return 0.5 * ((x - 2.0) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)
    >>> lower = LowerProblem(h, mu=1.0, LH=0.0)
    >>> result = learn_hyperparameters(lower, SquaredError(np.ones((1, 1))), np.array([2.0]))
    >>> ax = plot_accuracy(result)
    >>> ax.get_yscale(), [line.get_label() for line in ax.lines][0]
    ('log', 'norm of the hypergradient')
    """
    ax = _axes(ax)
    units = np.asarray(result.history["n_units"], float)
    rows = {
        "grad_norm": ("norm of the hypergradient", "black", "-"),
        "value_bar": ("bar of the value", "0.3", "--"),
        "eps": ("distance to the minimiser", "0.5", "-."),
        "delta": ("residual of the adjoint", "0.6", ":"),
    }
    for key, (label, grey, style) in rows.items():
        if key in result.history:
            row = np.asarray(result.history[key], float)
            ax.plot(units, np.where(row > 0, row, np.nan), style, color=grey, linewidth=1, marker=".", label=label)
    ax.set_yscale("log")
    ax.set(xlabel=_WORK, ylabel="units of g, or of x")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize="small")  # above the axes
    return ax


def _draw_value(result, ax):
    """Draw the value with a band from its lower to its upper end."""
    units, value, bar = (np.asarray(result.history[key], float) for key in ("n_units", "value", "value_bar"))
    low, high = value - bar, value + bar
    kind = "proven" if result.certified else "estimated"
    ax.fill_between(units, low, high, color="0.8", linewidth=0, label=f"{kind} bar, {bar[-1]:.0e} at the end")
    ax.plot(units, value, color="black", linewidth=1, marker=".", label="value")
    # A logarithm shows the end of a long way down, where there is one and no end of a bar lies below zero.
    if np.min(low) > 0 and np.max(value) > 10 * np.min(value):
        ax.set_yscale("log")
    ax.set(ylabel="value (units of g)")
    ax.set_title(f"{str(result.status).replace('_', ' ')} after {result.n_iter} steps", fontsize="medium")
    ax.legend(loc="upper right", fontsize="small")


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _numpy(array):
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array, float)
