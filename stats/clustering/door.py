r"""What comes in, checked and put into the form that every method works on; what goes out, in the form that came.

Rows that are equal become one row with their number as weight, rows of weight zero stand aside, and the mean is taken
off, before anything is computed: repeated rows are weights, the order of the rows and a shift of the origin are
nothing.

Cost      sorting the rows once.
Pitfalls  weights are counts, since a cluster's spread is judged by how many points it has. Weights that sum to less
          than the number of rows, such as shares of one, are scaled up to it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch

from sciml._config import resolve
from sciml.exceptions import FallbackWarning, InvalidInputError, InvalidTypeError
from sciml.linalg.arrays import enter
from sciml.stats.clustering.distinct import distinct_rows
from sciml.stats.clustering.lloyd import as_they_appear
from sciml.validation import check_number

__all__ = ["Problem", "check_data", "check_n_clusters", "check_weights", "open_problem", "renumber"]


@dataclass(frozen=True)
class Problem:
    """A clustering problem after its checks.

    Parameters
    ----------
    rows : torch.Tensor, shape (m, p), float64
        Different rows of positive weight, less `mean`.
    counts : torch.Tensor, shape (m,), float64
        Their weights.
    inverse : torch.Tensor of int64, shape (n,)
        Which of them each row of the data is; -1 for a row of weight zero that equals none.
    data : torch.Tensor, shape (n, p), float64
        The data.
    mean : torch.Tensor, shape (p,)
        What was taken off.
    n_clusters : int
        K, at most m.
    features : list of str
        Names of the columns, where they have some.
    leave : callable
        Gives a tensor the kind and device of the data.
    """

    rows: torch.Tensor
    counts: torch.Tensor
    inverse: torch.Tensor
    data: torch.Tensor
    mean: torch.Tensor
    n_clusters: int
    features: list
    leave: object

    def spread(self, values, missing):
        """Return values of the different rows for all rows of the data: (m, ...) to (n, ...).

        Parameters
        ----------
        values : torch.Tensor, shape (m, ...)
            One entry for each different row.
        missing : callable
            Returns those of further rows of the data; called only if there are any.
        """
        out = values[self.inverse.clamp_min(0)]
        absent = self.inverse < 0
        if bool(absent.any()):
            out = out.clone()
            out[absent] = missing(self.data[absent]).to(out)
        return out


def check_data(X):
    """Return data as a float64 tensor, names of the columns, and the way back.

    Parameters
    ----------
    X : array, shape (n, p)
        NumPy, torch, xarray or a data frame; rows are points. One feature is a column, shape (n, 1).

    Raises
    ------
    InvalidInputError
        If it is no finite matrix of at least one row and one column.
    InvalidTypeError
        If it is complex, or no array.
    """
    names = [str(name) for name in getattr(X, "columns", [])] if hasattr(X, "iloc") else []
    if hasattr(X, "dims") and hasattr(X, "coords") and len(X.dims) == 2 and X.dims[1] in X.coords:
        names = [str(name) for name in X.coords[X.dims[1]].values]
    if X is None:
        raise InvalidInputError("X must be an array of shape (n, p); got None.")
    values = X.to_numpy() if hasattr(X, "iloc") else X
    (rows,), leave = enter(values, names=("X",))
    if rows.is_complex():
        raise InvalidTypeError(f"X must be real; got dtype {rows.dtype}. Pass real and imaginary parts as columns.")
    if rows.ndim != 2 or 0 in rows.shape:
        hint = "Reshape it by X.reshape(-1, 1) if it is one feature." if rows.ndim == 1 else "Rows are points."
        raise InvalidInputError(
            f"X must have shape (n, p) with at least one row and column; got {tuple(rows.shape)}. {hint}"
        )
    largest = float(rows.detach().abs().max())
    if largest > 1e150:
        raise InvalidInputError(
            f"X must be below 1e150, so that its squares are finite; got {largest:.3g}. Rescale it."
        )
    if 0 < largest < 1e-150:
        raise InvalidInputError(
            f"X must have an entry above 1e-150, so that squares are not zero; got {largest:.3g}. Rescale it."
        )
    return rows.detach().double(), names, leave


def check_n_clusters(n_clusters, n):
    """Return the number of clusters as an int between 1 and n, or "auto".

    Parameters
    ----------
    n_clusters : int or "auto"
        K.
    n : int
        Points.

    Raises
    ------
    InvalidInputError
        If it is neither.
    """
    if isinstance(n_clusters, str):
        if n_clusters != "auto":
            raise InvalidInputError(f"n_clusters must be an integer or 'auto'; got {n_clusters!r}.")
        return n_clusters
    K = check_number("n_clusters", n_clusters, low=1, integer=True)
    if n < K:
        raise InvalidInputError(
            f"n_clusters must be at most the number of points, n_samples={n}; got {K}. Ask for fewer clusters."
        )
    return K


def open_problem(X, n_clusters, sample_weight=None, device=None):
    """Return the checked problem; "auto" for the number of clusters is left to the caller, as 1.

    Parameters
    ----------
    X : array, shape (n, p)
        Data.
    n_clusters : int or "auto"
        K.
    sample_weight : array, shape (n,), or None
        Weights, not below zero.
    device : str, torch.device or None
        Where to compute; None, the default: where the data are.

    Returns
    -------
    Problem

    Raises
    ------
    InvalidInputError
        If data, weights or K break their rules.

    Warns
    -----
    FallbackWarning
        If there are fewer different rows than clusters: there will be as many clusters as different rows.
    """
    data, features, leave = check_data(X)
    n = len(data)
    if n < 2:
        raise InvalidInputError(
            f"X must have at least 2 rows to be clustered; got n_samples={n} and shape {tuple(data.shape)}."
        )
    K = check_n_clusters(n_clusters, n)
    weights = check_weights(sample_weight, data)
    rows, counts, inverse = distinct_rows(data, weights)
    place = _place(device, data)
    rows, counts, inverse, data = (t.to(place) for t in (rows, counts, inverse, data))
    if K != "auto" and len(rows) < K:
        what = "all rows of X are equal" if len(rows) == 1 else f"X has {len(rows)} different rows of positive weight"
        warnings.warn(
            f"n_clusters={K}, but {what}: there will be {len(rows)} cluster{'s' * (len(rows) > 1)}. Ask for fewer.",
            FallbackWarning,
            stacklevel=4,
        )
        K = len(rows)
    mean = counts @ rows / counts.sum()
    # Twice, since the sum of many large numbers is inexact: the second mean is that of small ones.
    rows = rows - mean
    rest = counts @ rows / counts.sum()
    return Problem(rows - rest, counts, inverse, data, mean + rest, 1 if K == "auto" else K, features, leave)


def _place(device, data):
    """Return where to compute."""
    name = "auto" if device is None else resolve("device", device)
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidInputError(
            f"device must be available; got {name!r} and torch sees no CUDA device. Use device='cpu'."
        )
    return data.device if name == "auto" else torch.device(name)


def check_weights(sample_weight, data):
    """Return weights as counts, or None.

    Parameters
    ----------
    sample_weight : array, shape (n,), number or None
        Not below zero, one of them positive.
    data : torch.Tensor, shape (n, p)
        What they belong to.

    Raises
    ------
    InvalidInputError
        If they are not so.
    """
    if sample_weight is None:
        return None
    (w,), _ = enter(sample_weight, names=("sample_weight",))
    n = len(data)
    if w.ndim == 0:
        w = w.expand(n)
    if w.is_complex() or tuple(w.shape) != (n,):
        raise InvalidInputError(
            f"sample_weight must have one real number for each of the {n} rows of X; got shape {tuple(w.shape)}."
        )
    w = w.to(data)
    if bool((w < 0).any()):
        i = int((w < 0).nonzero()[0])
        raise InvalidInputError(
            f"sample_weight must not be negative; the entry at index {i} is {float(w[i]):g}. "
            "Set it to zero to leave a row out."
        )
    total = float(w.sum())
    if not total > 0:
        raise InvalidInputError(f"sample_weight must have a positive entry; all {n} are zero.")
    positive = int((w > 0).sum())
    return w * (positive / total) if total < positive * (1 - 1e-12) and math.isfinite(total) else w


def renumber(problem, labels, n_clusters):
    """Return labels of the different rows numbered in the order in which clusters appear in the data, and that order.

    Parameters
    ----------
    problem : Problem
        Knows the order of the data.
    labels : torch.Tensor of int64, shape (m,)
        0 to K - 1.
    n_clusters : int
        K.

    Returns
    -------
    labels : torch.Tensor of int64, shape (m,)
    order : torch.Tensor of int64, shape (K,)
        Old numbers in the new order.
    """
    seen = problem.inverse[problem.inverse >= 0]
    given = labels[seen]
    _, order = as_they_appear(given[given >= 0], n_clusters)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return torch.where(labels < 0, labels, rank[labels.clamp_min(0)]), order
