"""Equal rows become one row with the sum of their weights, and rows get an order of their own.

Clusters of weighted rows are clusters of repeated rows, and know no order of the rows. Done at the door, both hold to
the last bit, whatever a method draws at random: what it sees is the same.

Notation  n rows, m of them different; X (n, p); omega (n,) weights.
Cost      n p + n log n operations: rows are sorted by one number each, and compared only where these agree.
Pitfalls  the number of a row is summed column by column: a product with a vector rounds equal rows differently.
"""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["distinct_rows"]


def distinct_rows(X, sample_weight=None):
    """Return the different rows in an order that depends on their values alone, with the weights that they have.

    Parameters
    ----------
    X : torch.Tensor, shape (n, p)
        Rows, finite.
    sample_weight : torch.Tensor, shape (n,), or None
        Weights, not below 0; rows of weight 0 are left out. None, the default: ones.

    Returns
    -------
    rows : torch.Tensor, shape (m, p)
        Different rows of positive weight.
    weights : torch.Tensor, shape (m,)
        Sums of weights; of ones, how often each row occurs.
    inverse : torch.Tensor of int64, shape (n,)
        Which of them each row of X is; -1 for rows of weight 0 that equal none.

    Examples
    --------
    >>> import torch
    >>> rows, weights, inverse = distinct_rows(torch.tensor([[1.0], [0.0], [1.0]]))
    >>> rows[inverse, 0].tolist(), weights[inverse].tolist()
    ([1.0, 0.0, 1.0], [2.0, 1.0, 2.0])
    """
    values = X.detach().cpu().numpy() + 0.0  # -0.0 becomes 0.0
    order = _order(values)
    ordered = values[order]
    is_new = np.ones(len(ordered), dtype=bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = np.cumsum(is_new) - 1
    inverse = np.empty(len(order), dtype=np.int64)
    inverse[order] = number
    first = np.empty(number[-1] + 1 if len(number) else 0, dtype=np.int64)
    first[number[::-1]] = order[::-1]
    if sample_weight is None:
        weights = np.bincount(number, minlength=len(first)).astype(float)
    else:
        # Added in an order that the order of the rows does not change: 0.1 + 0.2 + 0.3 depends on it.
        given = sample_weight.detach().cpu().double().numpy()
        ranked = np.lexsort((given, inverse))
        weights = np.bincount(inverse[ranked], weights=given[ranked], minlength=len(first))
    keep = weights > 0
    renumber = np.where(keep, np.cumsum(keep) - 1, -1)
    index = torch.from_numpy(first[keep]).to(X.device)
    return (
        X[index],
        torch.from_numpy(weights[keep]).to(X.device, X.dtype),
        torch.from_numpy(renumber[inverse]).to(X.device),
    )


def _order(values):
    """Return indices that sort the rows, equal ones side by side."""
    if not values.shape[1]:
        return np.arange(len(values))
    key = np.zeros(len(values))
    for column, factor in zip(values.T, np.random.default_rng(0).uniform(1, 2, values.shape[1]), strict=True):
        key += factor * column
    order = np.argsort(key, kind="stable")
    ranked = key[order]
    tie = ranked[1:] == ranked[:-1]
    tied = np.zeros(len(order), dtype=bool)
    tied[1:] |= tie
    tied[:-1] |= tie
    if tied.any():
        # Equal numbers are equal rows as a rule; a sort of the rows themselves decides.
        some = order[tied]
        order[tied] = some[np.lexsort((*values[some].T, key[some]))]
    return order
