r"""Trials: multichannel series of equal or unequal lengths, or symmetric matrices, checked once and sorted by length.

Notation  N trials; n channels; T_i samples of trial i; x (n, T_i) one trial; d order of matrices that came in place of
          series.
Cost      one pass for finiteness, one copy where series must be stacked or converted; an eigendecomposition of every
          matrix where matrices came.
Pitfalls  an array of shape (N, n, n) is taken for matrices where these are symmetric: pass ``kind="series"`` for a
          series that is so by chance. A trial of zeros has no covariance to classify by, so it is an error.
References  S. Chevallier et al., The largest EEG-based BCI reproducibility study for open science: the MOABB benchmark,
            2024, arXiv 2404.15319, whose arrays (trials, channels, times) are taken as they are.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from sciml.exceptions import InvalidInputError, InvalidTypeError, NotPositiveDefiniteError
from sciml.validation import check_option

__all__ = ["Trials", "as_trials"]

_DIMS = ("trial", "channel", "time")


@dataclass(frozen=True, repr=False, eq=False)
class Trials:
    """Checked trials; made by :func:`as_trials`.

    Parameters
    ----------
    kind : {"series", "matrices"}
        What came.
    groups : tuple of (ndarray of int64, shape (m,), ndarray of float64, shape (m, n, T))
        Series of one length each: their numbers among all trials, ascending, and the series, in the units of the data;
        the shortest first. Empty for matrices.
    matrices : ndarray, shape (N, d, d), or None
        Symmetric positive semidefinite matrices, where such came; units of the data squared.
    channels : tuple of str
        Names of the channels; "0", "1", ... where the data have none.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.trials import as_trials
    >>> trials = as_trials([np.ones((2, 5)), np.ones((2, 3)), np.ones((2, 5))])
    >>> len(trials), trials.n_channels, trials.lengths.tolist(), len(trials.groups)
    (3, 2, [5, 3, 5], 2)
    """

    kind: str
    groups: tuple
    matrices: np.ndarray | None
    channels: tuple

    def __len__(self):
        return self.n_trials

    def __repr__(self):
        if self.kind == "matrices":
            return f"<Trials {self.n_trials} matrices of order {self.n_channels}>"
        lengths = self.lengths
        spread = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
        return f"<Trials {self.n_trials} series of {self.n_channels} channels and {spread} samples>"

    @property
    def n_trials(self):
        """int: number of trials."""
        return len(self.matrices) if self.kind == "matrices" else sum(len(rows) for rows, _ in self.groups)

    @property
    def n_channels(self):
        """int: number of channels, or the order of the matrices."""
        return len(self.channels)

    @property
    def lengths(self):
        """ndarray of int64, shape (N,): samples of each trial; zeros for matrices."""
        lengths = np.zeros(self.n_trials, dtype=np.int64)
        for rows, block in self.groups:
            lengths[rows] = block.shape[2]
        return lengths

    @property
    def series(self):
        """ndarray, shape (N, n, T), for equal lengths; else list of ndarray, shape (n, T_i); None for matrices."""
        if self.kind == "matrices":
            return None
        if len(self.groups) == 1:
            return self.groups[0][1]
        series = [None] * self.n_trials
        for rows, block in self.groups:
            for row, x in zip(rows, block, strict=True):
                series[row] = x
        return series

    def subset(self, rows):
        """Return some of the trials, in the order asked for.

        Parameters
        ----------
        rows : array of int or bool
            Numbers of the trials, which may repeat, or a mask of all.

        Returns
        -------
        Trials
            Series of a length that nobody has any more are gone.

        Raises
        ------
        InvalidInputError
            If no trial is left, a number is out of range, or a mask has another length.
        """
        rows = np.asarray(rows)
        if rows.dtype == bool and rows.shape != (self.n_trials,):
            raise InvalidInputError(f"rows must be a mask of {self.n_trials} trials; got one of shape {rows.shape}.")
        try:
            rows = np.arange(self.n_trials)[rows if rows.size else slice(0)]
        except IndexError as error:
            raise InvalidInputError(f"rows must be numbers of {self.n_trials} trials; {error}.") from None
        if not len(rows):
            raise InvalidInputError("rows must leave at least one trial; got none.")
        if self.kind == "matrices":
            return Trials("matrices", (), self.matrices[rows], self.channels)
        place = np.empty(self.n_trials, dtype=np.int64)
        group = np.empty(self.n_trials, dtype=np.int64)
        for g, (numbers, _) in enumerate(self.groups):
            place[numbers], group[numbers] = np.arange(len(numbers)), g
        chosen = group[rows]
        groups = [(np.flatnonzero(chosen == g), self.groups[g][1][place[rows[chosen == g]]]) for g in np.unique(chosen)]
        return Trials("series", tuple(groups), None, self.channels)

    def map_series(self, function, channels=None):
        """Return trials whose series went through a function, block by block.

        Parameters
        ----------
        function : callable
            ``function(block)`` takes series of equal length, (m, n, T), and returns (m, n', T').
        channels : sequence of str or None
            Names of the channels that come out; None, the default: those that went in.

        Returns
        -------
        Trials

        Raises
        ------
        InvalidInputError
            If there are no series.
        """
        if self.kind == "matrices":
            raise InvalidInputError(
                "the trials must be series; got matrices. Pass X of shape (n_trials, channels, times)."
            )
        groups = tuple((rows, function(block)) for rows, block in self.groups)
        return Trials("series", groups, None, self.channels if channels is None else tuple(channels))


def as_trials(X, *, kind="auto", name="X"):
    """Return data as checked trials.

    Parameters
    ----------
    X : array_like or Trials
        NumPy array or torch tensor of shape (N, n, T): trials, channels, samples; or (N, d, d): symmetric positive
        semidefinite matrices. Or a list of N arrays of shape (n, T_i), T_i at least 2. Or an xarray.DataArray with
        dimensions trial, channel and time in any order, whose channel coordinate gives names. Any real dtype; computed
        in float64. Trials are returned as they are.
    kind : {"auto", "series", "matrices"}
        What the numbers are. "auto", the default, takes square slices for matrices where at least half of them are
        symmetric, and everything else for series.
    name : str
        What the data are called in messages; "X" by default.

    Returns
    -------
    Trials

    Raises
    ------
    InvalidTypeError
        If the data are of no such type, or complex.
    InvalidInputError
        With the number of the trial that has a NaN, is all zero, has fewer than two samples, another number of channels
        than the first, or is not symmetric among matrices.
    NotPositiveDefiniteError
        If a matrix has an eigenvalue below -1e-10 of its largest.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.stats.spd.trials import as_trials
    >>> as_trials(np.random.default_rng(0).normal(size=(4, 3, 50)))
    <Trials 4 series of 3 channels and 50 samples>
    >>> as_trials(np.stack([np.eye(3)] * 4))
    <Trials 4 matrices of order 3>
    """
    if isinstance(X, Trials):
        return X
    check_option("kind", kind, ("auto", "series", "matrices"))
    X, channels = _named(name, X)
    blocks, eps = _blocks(name, X)
    n = blocks[0][1].shape[1]
    channels = tuple(channels) if channels is not None else tuple(str(i) for i in range(n))
    if len(channels) != n:
        raise InvalidInputError(f"{name} has {n} channels but {len(channels)} names of channels.")
    _check_numbers(name, blocks)
    if kind == "matrices" or (kind == "auto" and len(blocks) == 1 and _symmetric(blocks[0][1], 1e-3).mean() >= 0.5):
        if len(blocks) > 1 or blocks[0][1].shape[2] != n:
            shapes = sorted({block.shape[1:] for _, block in blocks})
            raise InvalidInputError(f"{name} must be square matrices of one order; got slices of shape {shapes[:3]}.")
        return Trials("matrices", (), _checked_matrices(name, blocks[0][1], eps), channels)
    for rows, block in blocks:
        if block.shape[2] < 2:
            raise InvalidInputError(
                f"{name} must have at least 2 samples in every trial; trial {rows[0]} has {block.shape[2]}. "
                "The last axis is time."
            )
    return Trials("series", tuple(blocks), None, channels)


def _named(name, X):
    """Return plain data and the names of channels, if there are any."""
    xarray = sys.modules.get("xarray")  # whoever holds a DataArray has imported xarray
    if xarray is None:
        return X, None
    if isinstance(X, xarray.DataArray):
        if set(X.dims) != set(_DIMS):
            raise InvalidInputError(f"{name} must have the dimensions {_DIMS}; got {X.dims}. Use X.rename(...).")
        X = X.transpose(*_DIMS)
        names = [str(c) for c in X["channel"].values] if "channel" in X.coords else None
        return X.values, names
    if isinstance(X, (list, tuple)) and X and isinstance(X[0], xarray.DataArray):
        if any(not isinstance(x, xarray.DataArray) or set(x.dims) != set(_DIMS[1:]) for x in X):
            raise InvalidInputError(f"{name} must be DataArrays with the dimensions {_DIMS[1:]}; got others.")
        names = [[str(c) for c in x["channel"].values] if "channel" in x.coords else None for x in X]
        for i, other in enumerate(names):
            if other != names[0]:
                raise InvalidInputError(f"{name} must have the same channels in all trials; trial {i} has {other}.")
        return [x.transpose(*_DIMS[1:]).values for x in X], names[0]
    return X, None


def _blocks(name, X):
    """Return series by length, [(rows, (m, n, T) float64)], and the rounding unit of the data as they came."""
    ragged = isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.dtype == object)
    if not ragged:
        array, eps = _plain(name, X)
        if array.ndim != 3:
            raise InvalidInputError(
                f"{name} must have shape (n_trials, n_channels, n_times) or (n_trials, d, d), or be a list of arrays "
                f"(n_channels, n_times); got shape {array.shape}. One channel is X[:, None, :], one trial X[None]."
            )
        if not array.shape[0] or not array.shape[1]:
            raise InvalidInputError(f"{name} must hold at least one trial and one channel; got shape {array.shape}.")
        return [(np.arange(len(array)), array)], eps
    if not len(X):
        raise InvalidInputError(f"{name} must hold at least one trial; got an empty {type(X).__name__}.")
    plain = [_plain(f"{name}[{i}]", x) for i, x in enumerate(X)]
    arrays, eps = [array for array, _ in plain], max(unit for _, unit in plain)
    for i, x in enumerate(arrays):
        if x.ndim != 2 or not x.shape[0]:
            raise InvalidInputError(
                f"{name} must be a list of arrays (n_channels, n_times); trial {i} has shape {x.shape}."
            )
        if x.shape[0] != arrays[0].shape[0]:
            raise InvalidInputError(
                f"{name} must have the same channels in all trials; trial {i} has {x.shape[0]} and trial 0 has "
                f"{arrays[0].shape[0]}. The first axis of a trial is the channel, the second time: transpose it?"
            )
    lengths = np.array([x.shape[1] for x in arrays])
    groups = [np.flatnonzero(lengths == T) for T in np.unique(lengths)]
    return [(rows, np.stack([arrays[i] for i in rows])) for rows in groups], eps


def _plain(name, x):
    """Return a float64 array, and the rounding unit of what came."""
    if hasattr(x, "detach"):
        x = x.detach().cpu().resolve_conj().resolve_neg()
        x = x.double() if str(x.dtype) == "torch.bfloat16" else x
        x = x.numpy()
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise InvalidInputError(f"{name} must hold no masked entries; got {int(np.ma.count_masked(x))}. Fill them.")
    try:
        array = np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"{name} must be an array of real numbers; got {type(x).__name__}: {error}.") from None
    if array.dtype.kind not in "fiub":
        raise InvalidTypeError(
            f"{name} must be an array of real numbers; got {type(x).__name__} of dtype {array.dtype} and shape "
            f"{array.shape}."
        )
    eps = float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0
    return np.ascontiguousarray(array, dtype=np.float64), max(eps, float(np.finfo(np.float64).eps))


def _check_numbers(name, blocks):
    bad, zero = [], []
    for rows, block in blocks:
        # A sum is finite only if all its terms are, and cheaper to test; an overflow is looked at again.
        with np.errstate(over="ignore", invalid="ignore"):
            doubtful = ~np.isfinite(block.sum(axis=(1, 2)))
        bad += [rows[i] for i in np.flatnonzero(doubtful) if not np.isfinite(block[i]).all()]
        if block.shape[2]:
            zero += rows[~block.any(axis=(1, 2))].tolist()
    if bad:
        raise InvalidInputError(
            f"{name} must be finite; trial {min(bad)} holds NaN or infinity, one of {len(bad)} such trials. "
            "Remove or fill these samples first."
        )
    if zero:
        raise InvalidInputError(
            f"{name} must hold no trial of zeros; trial {min(zero)} is all zero, one of {len(zero)} such. Remove them."
        )


def _symmetric(A, tol):
    """Return which matrices are symmetric up to a tolerance relative to their norm; none if they are not square."""
    if A.shape[1] != A.shape[2]:
        return np.zeros(len(A), dtype=bool)
    odd = np.linalg.norm(A - A.transpose(0, 2, 1), axis=(1, 2))
    return odd <= tol * np.linalg.norm(A, axis=(1, 2))


def _checked_matrices(name, A, eps):
    crooked = np.flatnonzero(~_symmetric(A, 100 * eps))
    if len(crooked):
        i = crooked[0]
        size = np.abs(A[i] - A[i].T).max() / np.abs(A[i]).max()
        raise InvalidInputError(
            f"{name} must be symmetric matrices; matrix {i} differs from its transpose by {size:.1e} of its largest "
            f'entry. Symmetrise it, or pass kind="series" if these are series.'
        )
    A = (A + A.transpose(0, 2, 1)) / 2
    values = np.linalg.eigvalsh(A)
    low = values[:, 0] < -max(1e-10, 10 * A.shape[1] * eps) * np.abs(values).max(axis=1)
    if low.any():
        i = int(np.flatnonzero(low)[0])
        raise NotPositiveDefiniteError(
            f"{name} must be positive semidefinite matrices; matrix {i} has smallest eigenvalue {values[i, 0]:.3g} and "
            f"largest {values[i, -1]:.3g}. Estimate it with shrinkage, or clip its eigenvalues.",
            index=i,
            smallest=float(values[i, 0]),
        )
    return A
