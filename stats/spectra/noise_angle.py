r"""The law of Marchenko and Pastur in an angle, where it is smooth: distribution function, density and quantiles.

.. math:: \lambda(t) = 1 + \gamma - 2 \sqrt\gamma \cos t, \qquad
          F(t) = \frac1\pi \Big( t + \phi - \frac{\phi - \sqrt\gamma \sin t}{\gamma} \Big), \qquad
          f(t) = F'(t) = \frac{2 \sin^2 t}{\pi \lambda(t)}

Notation  root = sqrt(gamma), gamma in (0, 1]; t angle in [0, pi]; phi = atan2(root sin t, 1 - root cos t).
Cost      a quantile some microseconds, by Newton's method in a bracket.
Pitfalls  the difference phi - root sin t cancels for small gamma, and is then summed as a series.
References  V. Marchenko, L. Pastur, Distribution of eigenvalues for some sets of random matrices, 1967.
"""

import functools
import math

import numpy as np

__all__ = ["angle", "angles", "distribution", "eigenvalue", "slope"]

_SERIES = 0.1  # below this root the series of (phi - root sin t) / gamma has 18 terms above the rounding


def eigenvalue(t, root):
    """Return lambda(t) for entries of variance 1.

    Parameters
    ----------
    t : float or ndarray
        Angles, in radians.
    root : float
        Root of gamma.

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.noise_angle import eigenvalue
    >>> float(eigenvalue(np.pi, 0.5))
    2.25
    """
    # (1 - root)^2 + ...: no cancellation at the lower edge.
    return (1 - root) ** 2 + 4 * root * np.sin(t / 2) ** 2


def distribution(t, root):
    """Return F(t), the share of eigenvalues up to an angle.

    Parameters
    ----------
    t : float or ndarray
        Angles, in radians.
    root : float
        Root of gamma.

    Returns
    -------
    float or ndarray
        Between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.noise_angle import distribution
    >>> round(float(distribution(np.pi / 2, 1.0)), 6)  # 1/2 + 1/pi
    0.81831
    """
    sine = np.sin(t)
    phi = np.arctan2(root * sine, 1 - root * np.cos(t))
    if root < _SERIES:
        tail = sum(root ** (k - 2) * np.sin(k * t) / k for k in range(2, 20))
    else:
        tail = (phi - root * sine) / root**2
    return (t + phi - tail) / np.pi


def slope(t, root):
    """Return f(t), the density of the angle; 2 / pi at t = 0 when gamma is 1.

    Parameters
    ----------
    t : float or ndarray
        Angles, in radians.
    root : float
        Root of gamma.

    Returns
    -------
    ndarray
        One over radians.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.noise_angle import slope
    >>> round(float(slope(np.pi / 2, 1.0) * np.pi), 6)
    1.0
    """
    value = eigenvalue(t, root)
    return np.where(value > 0, 2 / np.pi * np.sin(t) ** 2 / np.where(value > 0, value, 1), 2 / np.pi)


def angles(p, root):
    """Return the angles at which F is p.

    Parameters
    ----------
    p : float or ndarray
        Shares between 0 and 1.
    root : float
        Root of gamma.

    Returns
    -------
    ndarray
        In radians, to the rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.noise_angle import angles
    >>> round(float(angles(0.5 + 1 / np.pi, 1.0) / np.pi), 6)
    0.5
    """
    p = np.asarray(p, dtype=float)
    low, high = np.zeros(p.shape), np.full(p.shape, np.pi)
    t = np.interp(p, *_table(root))
    for _ in range(60):
        excess = distribution(t, root) - p
        low, high = np.where(excess <= 0, t, low), np.where(excess >= 0, t, high)
        rise = slope(t, root)
        step = np.where(rise > 0, excess / np.where(rise > 0, rise, 1), np.inf)
        new = np.where((t - step >= low) & (t - step <= high), t - step, (low + high) / 2)
        done = np.abs(new - t).max(initial=0) <= 1e-15 * np.pi
        t = new
        if done:
            break
    return np.where(p <= 0, 0.0, np.where(p >= 1, np.pi, t))


def angle(p, root):
    """Return the angle at which F is p, for one p well inside (0, 1), in Python's numbers: 10 microseconds.

    Parameters
    ----------
    p : float
        Share strictly between 0 and 1.
    root : float
        Root of gamma.

    Returns
    -------
    float
        In radians.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spectra.noise_angle import angle
    >>> round(angle(0.5 + 1 / np.pi, 1.0) / np.pi, 6)
    0.5
    """
    low, high, t = 0.0, math.pi, 2.0
    for _ in range(60):
        sine, cosine = math.sin(t), math.cos(t)
        phi = math.atan2(root * sine, 1 - root * cosine)
        if root < _SERIES:
            tail = sum(root ** (k - 2) * math.sin(k * t) / k for k in range(2, 20))
        else:
            tail = (phi - root * sine) / root**2
        excess = (t + phi - tail) / math.pi - p
        low, high = (t, high) if excess < 0 else (low, t)
        rise = 2 / math.pi * sine**2 / (1 + root**2 - 2 * root * cosine)
        new = t - excess / rise if rise > 0 else low
        new = new if low < new < high else (low + high) / 2
        if abs(new - t) <= 1e-15:
            return new
        t = new
    return t


@functools.lru_cache(maxsize=256)
def _table(root):
    """Return (F, t) on a grid, for first guesses."""
    t = np.linspace(0, np.pi, 257)
    return np.maximum.accumulate(distribution(t, root)), t
