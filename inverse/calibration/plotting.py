"""Pictures of a `CalibrationResult`: gains with their errors, the eigenvalues that tell ambiguities, residuals.

matplotlib is imported when a picture is drawn. Every function returns the axes and shows nothing. Marks differ in shape
as well as in grey, so that the pictures survive a black-and-white printer.
"""

from __future__ import annotations

import numpy as np

from sciml.exceptions import InvalidInputError
from sciml.validation import check_number

__all__ = ["plot", "plot_eigenvalues", "plot_plane", "plot_residuals"]

_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_GREYS = ("0.0", "0.45", "0.2", "0.6", "0.3", "0.55", "0.1", "0.4")
# More names than these do not fit below an axis.
_NAMES = 24


def plot(result, *, ax=None, channel=0, n_std=2.0):
    """Draw the gains, modulus above and phase below, against the sensors.

    Parameters
    ----------
    result : CalibrationResult
        Of `self_calibrate`.
    ax : matplotlib.axes.Axes, a sequence of two of them, or None
        Where to draw: one for the moduli alone, or for real gains with their signs; two for moduli and phases. None,
        the default: a new figure with as many as there is something for.
    channel : int
        Which one, where the data had leading axes; 0, the default, is the first of all.
    n_std : float
        Half length of the bars in standard deviations; 2 by default, 95 % of real normal errors.

    Returns
    -------
    matplotlib.axes.Axes, or numpy.ndarray of them, shape (2,)
        What was drawn on. Each group of sensors has a mark of its own, and gains in its own gauge; sensors without an
        answer are crosses at the bottom.

    Raises
    ------
    InvalidInputError
        If `ax` holds neither one nor two axes, or there is no such channel.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration import self_calibrate
    >>> y = np.array([[1.0], [2.0], [-1.0]]) * np.array([1.0, 2.0, 0.5])
    >>> ax = plot(self_calibrate(y, np.ones((3, 1))))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('sensor', 'gain (dimensionless)')
    """
    gains, std, groups = _one(result, channel)
    is_complex = np.iscomplexobj(gains)
    if ax is None:
        import matplotlib.pyplot as plt

        axes = np.atleast_1d(plt.subplots(1 + is_complex, 1, sharex=True, layout="constrained")[1])
    else:
        axes = np.atleast_1d(np.asarray(ax, dtype=object))
        if axes.shape not in ((1,), (2,)):
            raise InvalidInputError(
                f"ax must be one or two axes; got an array of shape {axes.shape}. Make them by plt.subplots(2)."
            )
    length = check_number("n_std", n_std, low=0) * std
    # Errors across and along a complex gain share its variance.
    share = np.sqrt(0.5) if is_complex else 1.0
    shown = np.abs(gains) if is_complex else gains
    _bars(axes[0], shown, share * length, groups)
    _crosses(axes[0], gains)
    axes[0].set_ylabel("modulus (dimensionless)" if is_complex else "gain (dimensionless)")
    if len(axes) == 2:
        with np.errstate(divide="ignore", invalid="ignore"):
            turn = share * length / np.abs(gains)
        turn[np.isfinite(turn)] = np.minimum(turn[np.isfinite(turn)], np.pi)
        _bars(axes[1], np.angle(gains), turn, groups)
        axes[1].set_ylabel("phase (rad)")
        if np.nanmax(np.abs(np.angle(gains)), initial=0) > np.pi / 2:
            axes[1].set(ylim=(-np.pi, np.pi), yticks=[-np.pi, 0, np.pi], yticklabels=["-π", "0", "π"])
        if not axes[0].get_shared_x_axes().joined(*axes):
            _name_sensors(axes[0], result)
    _name_sensors(axes[-1], result)
    if len(groups) > 1 or not np.isfinite(gains).all():
        axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize="small", frameon=False)
    return axes if len(axes) == 2 else axes[0]


def plot_plane(result, *, ax=None, channel=0, n_std=2.0):
    """Draw the gains in the complex plane, each with a disc for its error.

    Parameters
    ----------
    result : CalibrationResult
        Of `self_calibrate`.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure by default (None).
    channel : int
        Which one, where the data had leading axes; 0 by default.
    n_std : float
        Radius of the discs in standard deviations; 2 by default: 98 % of complex normal errors are inside.

    Returns
    -------
    matplotlib.axes.Axes
        With the unit circle for comparison.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration import self_calibrate
    >>> y = np.array([[1.0], [2.0], [-1.0]]) * np.array([1.0, 2.0j, 0.5])
    >>> plot_plane(self_calibrate(y, np.ones((3, 1)))).get_aspect()
    1.0
    """
    from matplotlib.patches import Circle

    ax = _axes(ax)
    gains, std, groups = _one(result, channel)
    ax.add_patch(Circle((0, 0), 1, fill=False, color="0.6", linestyle=":"))
    for number, (label, index) in enumerate(groups):
        style = {"marker": _MARKS[number % 8], "color": _GREYS[number % 8], "markersize": 4, "linestyle": "none"}
        ax.plot(gains[index].real, gains[index].imag, label=label, zorder=3, **style)
    for gain, radius in zip(gains, check_number("n_std", n_std, low=0) * std, strict=True):
        if np.isfinite(radius) and np.isfinite(gain):
            ax.add_patch(Circle((gain.real, gain.imag), radius, color="0.8", linewidth=0, zorder=1))
    ax.set(xlabel="real part of the gain (dimensionless)", ylabel="imaginary part (dimensionless)", aspect="equal")
    ax.autoscale_view()
    if len(groups) > 1:
        ax.legend(fontsize="small")
    return ax


def plot_eigenvalues(result, *, ax=None):
    """Draw the smallest eigenvalues over the variance of the noise: one at one, and the others far above, is good.

    Parameters
    ----------
    result : CalibrationResult
        Of a method with an eigenproblem.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure by default (None).

    Returns
    -------
    matplotlib.axes.Axes
        With a line for each channel and a dashed one at the variance that was estimated in the end.

    Raises
    ------
    InvalidInputError
        If the result holds no eigenvalues.

    Notes
    -----
    Each eigenvalue is the variance that the noise would have if its vector were the inverse gains. Two at the bottom
    are two answers that fit alike.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration import self_calibrate
    >>> rng = np.random.default_rng(0)
    >>> y = rng.standard_normal((50, 1)) * np.ones(4) + 0.1 * rng.standard_normal((50, 4))
    >>> plot_eigenvalues(self_calibrate(y, np.ones((4, 1)))).get_yscale()
    'log'
    """
    ax = _axes(ax)
    lam = np.asarray(_numpy(result.eigenvalues), float)
    if lam.shape[-1] == 0:
        raise InvalidInputError(f"result must hold eigenvalues; method {result.method!r} has none. Use method='chain'.")
    lam = lam.reshape(-1, lam.shape[-1])
    noise = np.broadcast_to(np.square(np.asarray(_numpy(result.noise_std), float)).reshape(-1, 1), lam.shape)
    # Exact data have no noise to compare with.
    unit = np.where(noise > 0, noise, 1.0)
    number = np.arange(1, lam.shape[1] + 1)
    for row in np.where(lam > 0, lam / unit, np.nan):
        ax.plot(number, row, "o-", color="0.2", linewidth=0.8, markersize=5)
    if (noise > 0).all():
        ax.axhline(1.0, color="0.5", linestyle="--", label="variance of the noise, estimated in the end")
        ax.legend(fontsize="small", loc="lower right")
    ax.set(yscale="log", xlabel="eigenvalue (number, ascending)", xticks=number)
    ax.set_ylabel("eigenvalue over noise variance" if (noise > 0).all() else "eigenvalue (squared units of the data)")
    return ax


def plot_residuals(result, y, *, ax=None, channel=0):
    """Draw the root mean square residual of every sensor, over the estimate of the noise: all near one is good.

    Parameters
    ----------
    result : CalibrationResult
        With signals.
    y : array, shape (..., p, m)
        The data that were calibrated; NaN is left out.
    ax : matplotlib.axes.Axes or None
        Where to draw; a new figure by default (None).
    channel : int
        Which one, where the data had leading axes; 0 by default.

    Returns
    -------
    matplotlib.axes.Axes
        With the residual of each sensor over the noise of the result.

    Raises
    ------
    InvalidInputError
        If there are no signals.

    Notes
    -----
    Signals and gains were fitted, so that residuals of a few sensors with a strong say fall below one. One sensor far
    above the others has noise of its own (``noise="per-sensor"``), or outliers (``loss="student-t"``).

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration import self_calibrate
    >>> rng = np.random.default_rng(0)
    >>> y = rng.standard_normal((50, 1)) * np.ones(4) + 0.1 * rng.standard_normal((50, 4))
    >>> ax = plot_residuals(self_calibrate(y, np.ones((4, 1))), y)
    >>> bool(0.5 < ax.lines[0].get_ydata().mean() < 1.1)
    True
    """
    ax = _axes(ax)
    left = np.asarray(_numpy(result.residuals(y)))
    left = left.reshape(-1, *left.shape[-2:])
    channel = check_number("channel", channel, low=0, high=len(left) - 1, integer=True)
    square, seen = np.abs(left[channel]) ** 2, np.isfinite(left[channel])
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.where(seen, square, 0).sum(0) / seen.sum(0))
    sigma = float(np.ravel(np.asarray(_numpy(result.noise_std), float))[channel])
    root = root / sigma if sigma > 0 else root
    ax.plot(np.arange(len(root)), root, "o", color="0.1", markersize=4)
    ax.axhline(1.0 if sigma > 0 else 0.0, color="0.5", linestyle="--")
    ax.set_ylabel("rms residual over noise_std (dimensionless)" if sigma > 0 else "rms residual (units of the data)")
    ax.set_ylim(bottom=0)
    _name_sensors(ax, result)
    return ax


def _one(result, channel):
    """Gains (m,) of one channel, their standard deviations, and pairs of a label and the sensors of each group.

    Groups that are not answered for are shown in a gauge of their own, without errors.
    """
    gains, within = (np.asarray(_numpy(value)) for value in (result.gains, result.gains_within_groups))
    m, single = gains.shape[-1], gains.ndim == 1
    channels = gains.size // m
    channel = check_number("channel", channel, low=0, high=channels - 1, integer=True)
    gains, within = gains.reshape(-1, m)[channel], within.reshape(-1, m)[channel]
    std = np.asarray(_numpy(result.gains_std), float).reshape(-1, m)[channel]
    place = {name: number for number, name in enumerate(result.sensors)}
    named = result.groups if single else result.groups[channel]
    groups = [np.array([place[name] for name in group], dtype=int) for group in named if group]
    if not groups:
        return gains, std, [("gains", np.arange(m))]
    answered = max(groups, key=len)
    shown, marked = gains.copy(), []
    for group in groups:
        other = group is not answered
        if other:
            shown[group] = within[group]
        label = "gains" if len(groups) == 1 else f"group of {len(group)}" + (", a factor of its own" if other else "")
        marked.append((label, group))
    return shown, std, marked


def _bars(ax, values, length, groups):
    """Draw values with bars, a mark for each group; infinite bars are left out."""
    length = np.where(np.isfinite(length), length, 0.0)
    for number, (label, index) in enumerate(groups):
        style = {"color": _GREYS[number % 8], "ecolor": "0.6", "elinewidth": 1, "capsize": 2, "markersize": 4}
        marker = {"marker": _MARKS[number % 8], "linestyle": "none"}
        ax.errorbar(index, values[index], length[index], label=label, **marker, **style)


def _crosses(ax, gains):
    """Mark sensors without a number at the bottom of the axes."""
    lost = np.flatnonzero(~np.isfinite(gains))
    if len(lost):
        transform = ax.get_xaxis_transform()
        style = {"marker": "x", "color": "0.0", "linestyle": "none", "clip_on": False}
        ax.plot(lost, np.full(len(lost), 0.03), transform=transform, label="unidentified", **style)


def _name_sensors(ax, result):
    """Label the axis of the sensors, by their names where these fit."""
    m = len(result.sensors)
    ax.set_xlabel("sensor")
    if result.sensors != list(range(m)) and m <= _NAMES:
        turned = {"rotation": 90} if m > 8 or max(len(str(name)) for name in result.sensors) > 8 else {}
        ax.set_xticks(range(m), [str(name) for name in result.sensors], **turned)
    elif m <= 12:
        ax.set_xticks(range(m))


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _numpy(array):
    return array.detach().cpu().numpy() if hasattr(array, "detach") else array
