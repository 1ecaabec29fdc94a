"""Read time series of labelled trials from text in the ``.ts`` format of the UEA and UCR archives.

A header of lines ``@word value`` is followed, after ``@data``, by one line a trial: channels separated by colons,
values by commas, the class label last. ``?`` stands for a missing value; lines that begin with ``#`` or ``%`` are
comments.

Cost      0.1 microseconds a byte; a file of 9 MB is read in less than a second.
Pitfalls  headers are not always true to the data (``@seriesLength 127`` above trials of 128 values), so that only
          ``@classLabel`` and ``@timestamps`` are believed; lengths come from the data.
References  A. Bagnall et al., The UEA multivariate time series classification archive, 2018, arXiv 1811.00075.
"""

from pathlib import Path

import numpy as np

from sciml.exceptions import InvalidInputError

__all__ = ["read_ts"]


def read_ts(path):
    """Read the trials of one file.

    Parameters
    ----------
    path : str or Path
        File in the ``.ts`` format with class labels and without time stamps.

    Returns
    -------
    trials : list of ndarray, each of shape (n, T_i), float64
        Channels in rows, in the file's units; NaN where a value is missing.
    codes : ndarray, shape (N,), int64
        Class of each trial, an index into `classes`.
    classes : tuple of str
        Names of the classes in the order of the header.

    Raises
    ------
    InvalidInputError
        If the file has time stamps, no class labels, or a line that does not fit its header, with the line's number.

    References
    ----------
    A. Bagnall et al., The UEA multivariate time series classification archive, 2018, arXiv 1811.00075.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sciml.datasets.ts_format import read_ts
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "two.ts"
    >>> _ = path.write_text("@classLabel true no yes\\n@data\\n1,2,3:4,?,6:yes\\n7,8:9,10:no\\n")
    >>> trials, codes, classes = read_ts(path)
    >>> trials[0], codes, classes
    (array([[ 1.,  2.,  3.],
           [ 4., nan,  6.]]), array([1, 0]), ('no', 'yes'))
    """
    trials, codes, classes, in_data = [], [], (), False
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, 1):
            line = text.strip()
            if not line or line[0] in "#%":
                continue
            if in_data:
                trial, code = _trial(line, classes, f"{Path(path).name}, line {number}")
                trials.append(trial)
                codes.append(code)
            elif line.lower() == "@data":
                _check_header(classes, path)
                in_data = True
            elif line[0] == "@":
                classes = _header(line, classes, path)
    if not trials:
        raise InvalidInputError(f"path must name a file with trials after @data; {Path(path).name} holds none.")
    return trials, np.array(codes, dtype=np.int64), classes


def _header(line, classes, path):
    """Return the classes as they are known after one line of the header."""
    word, *values = line[1:].split()
    if word.lower() == "timestamps" and values and values[0].lower() == "true":
        raise InvalidInputError(f"path must name a file without time stamps; {Path(path).name} has them.")
    if word.lower() == "classlabel" and values and values[0].lower() == "true":
        return tuple(values[1:])
    return classes


def _check_header(classes, path):
    if len(classes) < 2:
        raise InvalidInputError(
            f"path must name a file with at least two classes in its line @classLabel; {Path(path).name} has "
            f"{len(classes)}. Files for regression and forecasting are not read."
        )


def _trial(line, classes, where):
    """Return the values (n, T) and the class of one line."""
    *channels, label = line.replace("?", "nan").split(":")
    if label.strip() not in classes:
        raise InvalidInputError(f"{where}: the class must be one of {', '.join(classes)}; got {label.strip()[:30]!r}.")
    # float() rounds correctly and takes any text that is a number; NumPy's own readers are no faster on short lists.
    try:
        rows = [list(map(float, channel.split(","))) for channel in channels]
    except ValueError as error:
        raise InvalidInputError(f"{where}: values must be numbers or '?'; {error}.") from None
    if not rows or len({len(row) for row in rows}) != 1:
        lengths = sorted({len(row) for row in rows})
        raise InvalidInputError(f"{where}: the channels of a trial must have one length; got {lengths}.")
    return np.array(rows), classes.index(label.strip())
