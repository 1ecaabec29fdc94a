"""Operators that pick and reorder entries: selection, mask, permutation.

Notation  index (m,) the entries that are kept, so that (S x)_i = x_index[i]; S S^T = I when none is kept twice.
"""

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators.base import LinearOperator
from sciml.validation import check_number


def parity(permutation):
    """Return the sign of a permutation, by its cycles.

    Parameters
    ----------
    permutation : array of int, shape (n,)

    Returns
    -------
    int
        1 or -1.

    Examples
    --------
    >>> parity([1, 0, 2])
    -1
    """
    p = np.asarray(permutation)
    # Each pass joins every entry to the smallest of its cycle within twice the distance.
    smallest, step = np.minimum(np.arange(len(p)), p), p
    while True:
        better = np.minimum(smallest, smallest[step])
        step = step[step]
        if np.array_equal(better, smallest):
            break
        smallest = better
    n_cycles = len(np.unique(smallest))
    return -1 if (len(p) - n_cycles) % 2 else 1


def indices(name, index, n):
    """Return checked indices 0 to n - 1 as a tensor, and whether they came from NumPy or torch.

    Parameters
    ----------
    name : str
        The argument's name.
    index : array of int, shape (m,)
        What came.
    n : int
        Bound.

    Returns
    -------
    index : Tensor, int64
    kind : {"numpy", "torch"}

    Examples
    --------
    >>> indices("index", [0, 2], 3)
    (tensor([0, 2]), 'numpy')
    """
    kind = "torch" if isinstance(index, torch.Tensor) else "numpy"
    index = index if kind == "torch" else torch.from_numpy(np.array(index))
    if index.ndim != 1 or index.is_floating_point() or index.is_complex() or index.dtype is torch.bool:
        raise InvalidInputError(
            f"{name} must be integers of shape (m,); got {index.dtype} of shape {tuple(index.shape)}. Use Mask for "
            "booleans."
        )
    bad = (index < 0) | (index >= n)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise InvalidInputError(f"{name} must lie in 0 to {n - 1}; got {int(index[i])} at {i}. Count from zero.")
    return index.long(), kind


class Selection(LinearOperator):
    """The rows `index` of the identity: (S x)_i = x_index[i].

    Parameters
    ----------
    index : array of int, shape (m,)
        Entries kept, in order; one may come twice.
    n : int
        Length of x.
    dtype : torch.dtype
        float64 by default.

    Examples
    --------
    >>> S = Selection(np.array([2, 0]), 3)
    >>> S @ np.array([5.0, 6.0, 7.0]), S.T @ np.array([1.0, 2.0])
    (array([7., 5.]), array([2., 0., 1.]))
    """

    def __init__(self, index, n, *, dtype=torch.float64):
        n = check_number("n", n, low=0, integer=True)
        self._index, kind = indices("index", index, n)
        super().__init__((len(self._index), n), dtype=dtype, device=self._index.device, kind=kind)

    def _apply(self, X):
        return X[..., self._index, :]

    def _apply_adjoint(self, X):
        zeros = X.new_zeros(*X.shape[:-2], self.shape[1], X.shape[-1])
        return zeros.index_add(-2, self._index, X)

    def _diag(self):
        size = min(self.shape)
        own = torch.arange(size, device=self.device)
        return (self._index[:size] == own).to(self.dtype)


class Mask(Selection):
    """The entries where a mask is true, in order.

    Parameters
    ----------
    mask : array of bool, any shape
        Of n entries in all; x is their values in C order.
    dtype : torch.dtype
        float64 by default.

    Examples
    --------
    >>> Mask(np.array([True, False, True])) @ np.array([5.0, 6.0, 7.0])
    array([5., 7.])
    """

    def __init__(self, mask, *, dtype=torch.float64):
        plain = mask if isinstance(mask, torch.Tensor) else torch.from_numpy(np.array(mask))
        if plain.dtype is not torch.bool:
            raise InvalidInputError(f"mask must be boolean; got {plain.dtype}. Use Selection for indices.")
        index = plain.reshape(-1).nonzero()[:, 0]
        super().__init__(index if isinstance(mask, torch.Tensor) else index.numpy(), plain.numel(), dtype=dtype)


class Permutation(Selection):
    """A permutation: (P x)_i = x_permutation[i], so P^{-1} = P^T.

    Parameters
    ----------
    permutation : array of int, shape (n,)
        Each of 0 to n - 1 once.
    dtype : torch.dtype
        float64 by default.

    Examples
    --------
    >>> P = Permutation(np.array([1, 2, 0]))
    >>> P @ np.array([5.0, 6.0, 7.0]), P.solve(np.array([6.0, 7.0, 5.0])), P.logdet()
    (array([6., 7., 5.]), array([5., 6., 7.]), np.float64(0.0))
    """

    def __init__(self, permutation, *, dtype=torch.float64):
        super().__init__(permutation, len(permutation), dtype=dtype)
        times = torch.bincount(self._index, minlength=len(permutation))
        if bool((times != 1).any()):
            i = int((times != 1).nonzero()[0])
            raise InvalidInputError(
                f"permutation must hold each of 0 to {len(permutation) - 1} once; got {i} {int(times[i])} times. Use "
                "Selection for a choice with repetition."
            )

    def _direct(self):
        return "the inverse permutation"

    def _solve_direct(self, B, adjoint):
        return self._apply(B) if adjoint else self._apply_adjoint(B)

    def _logdet_direct(self):
        sign = torch.full((), float(parity(self._index.cpu().numpy())), dtype=self.dtype, device=self.device)
        return sign, torch.zeros_like(sign).real
