r"""Zero-phase band-pass filters, so that each band of frequencies gets a matrix of its own.

Notation  band (low, high): -3 dB edges of one pass in units of the sampling rate's; 0 as the low edge makes a low-pass,
          half the sampling rate as the high edge a high-pass.
Cost      O(N n T) for each band and second-order section, forwards and backwards.
Pitfalls  passing both ways doubles the attenuation, 6 dB at the edges, and delays nothing. Trials are continued at
          their ends by odd reflection, so a narrow band of a short trial is shaped by its ends.
References  K. Ang, Z. Chin, H. Zhang, C. Guan, Filter bank common spatial pattern, 2008. F. Gustafsson, Determining the
            initial states in forward-backward filtering, 1996.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import butter, sosfiltfilt

from sciml.exceptions import InvalidInputError
from sciml.validation import check_number

__all__ = ["filtered"]

_ORDER = 4


def filtered(trials, band, fs=1.0):
    """Return trials of which only a band of frequencies is left.

    Parameters
    ----------
    trials : Trials
        Series.
    band : (float, float)
        Low and high edge, in units of `fs`; from 0 to half of it.
    fs : float
        Sampling rate, in hertz, say; 1, the default: edges are fractions of the sampling rate.

    Returns
    -------
    Trials

    Raises
    ------
    InvalidInputError
        If the edges are out of order or range, or matrices came instead of series.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.filter_bank import filtered
    >>> from sciml.stats.spd.trials import as_trials
    >>> t = np.arange(400) / 100
    >>> x = np.sin(2 * np.pi * 10 * t) + np.sin(2 * np.pi * 30 * t)
    >>> y = filtered(as_trials(x[None, None]), (8, 12), fs=100).series[0, 0]
    >>> bool(np.abs(y - np.sin(2 * np.pi * 10 * t))[100:300].max() < 0.01)
    True
    """
    ((low, high),) = check_bands([band], fs)
    nyquist = fs / 2
    if low == 0 and high == nyquist:
        return trials
    if low == 0:
        sections = butter(_ORDER, high, "lowpass", fs=fs, output="sos")
    elif high == nyquist:
        sections = butter(_ORDER, low, "highpass", fs=fs, output="sos")
    else:
        sections = butter(_ORDER, (low, high), "bandpass", fs=fs, output="sos")
    # SciPy's own rule for the length of the continuation, cut for short trials, which it would refuse.
    pad = 3 * (2 * len(sections) + 1)
    return trials.map_series(
        lambda x: np.ascontiguousarray(sosfiltfilt(sections, x, axis=2, padlen=min(pad, x.shape[2] - 1)))
    )


def check_bands(bands, fs):
    """Return bands as a tuple of pairs of floats, or say which one is wrong."""
    fs = check_number("fs", fs, low=0, inclusive="neither")
    try:
        pairs = tuple((float(low), float(high)) for low, high in bands)
    except (TypeError, ValueError):
        raise InvalidInputError(f"bands must be pairs (low, high); got {bands!r}.") from None
    if not pairs:
        raise InvalidInputError("bands must hold at least one pair (low, high); got none. Pass None for no filter.")
    for low, high in pairs:
        if not 0 <= low < high <= fs / 2:
            raise InvalidInputError(
                f"bands must satisfy 0 <= low < high <= fs / 2; got ({low:g}, {high:g}) with fs={fs:g}. "
                "Give fs in the unit of the bands."
            )
    return pairs
