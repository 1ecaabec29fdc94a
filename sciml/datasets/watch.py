"""Shoulder exercises seen by a smartwatch: windows of the 140 series that ship inside seglearn.

Seglearn keeps them as pickled arrays. A pickle may name any code to run; it is read here by an unpickler that knows
NumPy's arrays and nothing else, and refuses the rest, so that opening the file runs no code of the file's choosing.

Cost      0.1 s; nothing is fetched, and seglearn itself is not imported.
Pitfalls  windows overlap and come from few people: judge a classifier on subjects that it has not seen (`groups`).
          What is refused is code, not nonsense: a forged file could still hold wrong numbers.
References  D. M. Burns et al., Shoulder physiotherapy exercise recognition: machine learning the inertial signals from
            a smartwatch, Physiological Measurement 39, 2018, 075007, arXiv 1802.01489.
"""

import pickle

import numpy as np

from sciml.datasets.series import LabelledTrials, data_folder
from sciml.exceptions import InvalidInputError
from sciml.validation import check_number

__all__ = ["watch_windows"]


def watch_windows(length=400, step=200):
    """Return windows of accelerometer and gyroscope of a watch during seven shoulder exercises.

    Ten subjects did each of seven exercises with each arm, twenty times over: 140 series of 6 channels at 50 Hz.

    Parameters
    ----------
    length : int or None
        Samples of a window; 400 by default, 8 seconds, two to three repetitions. None returns the whole series.
    step : int
        Samples from the start of one window to the start of the next; 200 by default, half a window.

    Returns
    -------
    LabelledTrials
        `X` (1009, 6, 400) by default, a list of 140 series where `length` is None; accelerations in units of gravity
        and angular velocities in radians a second, as recorded. `groups` are the subjects, 1 to 10.

    Raises
    ------
    ImportError
        If seglearn is not installed; install it by ``pip install --no-deps seglearn``.
    InvalidInputError
        If a number is below 1 or no series is as long as a window; if the file holds anything but arrays.

    References
    ----------
    D. M. Burns et al., Physiological Measurement 39, 2018, 075007, arXiv 1802.01489.

    Examples
    --------
    >>> from sciml.datasets import watch_windows
    >>> watch = watch_windows()  # needs seglearn's file
    >>> watch.X.shape, len(watch.class_names), sorted(set(watch.groups.tolist()))
    ((1009, 6, 400), 7, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    """
    if length is not None:
        length = check_number("length", length, low=1, integer=True)
    step = check_number("step", step, low=1, integer=True)
    data = _read(data_folder("seglearn", "watch_windows()") / "data" / "watch_dataset.npy")
    series = [np.ascontiguousarray(x.T, dtype=np.float64) for x in data["X"]]
    if length is None:
        X, source = series, np.arange(len(series))
    else:
        starts = [(i, a) for i, x in enumerate(series) for a in range(0, x.shape[1] - length + 1, step)]
        if not starts:
            longest = max(x.shape[1] for x in series)
            raise InvalidInputError(f"length must be at most {longest}, that of the longest series; got {length}.")
        X = np.stack([series[i][:, a : a + length] for i, a in starts])
        source = np.array([i for i, _ in starts])
    return LabelledTrials(
        X=X,
        y=np.asarray(data["y"], dtype=np.int64)[source],
        class_names=tuple(map(str, data["y_labels"])),
        groups=np.asarray(data["subject"], dtype=np.int64)[source],
        sampling_rate=50.0,
        channels=tuple(map(str, data["X_labels"])),
    )


def _latin1(text, encoding):
    """Return the bytes of a text: how the second protocol of pickle writes them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r} is not that of bytes")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """An unpickler to which NumPy's arrays are known, under their old and their new address, and nothing else."""

    def find_class(self, module, name):
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            from numpy._core.multiarray import _reconstruct

            return _reconstruct
        raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")


def _read(path):
    """Return the dictionary in an .npy file of one pickled object."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, _, dtype = reader(file)
        if not dtype.hasobject or shape != ():
            raise InvalidInputError(f"{path.name} must hold one object; got an array {shape} of {dtype}.")
        try:
            return _ArraysOnly(file).load().item()
        except pickle.UnpicklingError as error:
            raise InvalidInputError(f"{path.name} must hold arrays only: {error}. It was not read further.") from None
