r"""Low-rank products, and matrices to which one is added, formed for the rows asked for.

.. math:: \Delta W = s B A, \qquad W' = W + \Delta W

Notation  A (r, columns), B (rows, r) factors of rank r; s scale.
Cost      r operations for an entry of the rows asked for; A is read whole each time.
References  E. Hu et al., LoRA: low-rank adaptation of large language models, 2021, arXiv 2106.09685.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sciml.stats.spectra.views import as_matrix_dtype, matrix_dtype

__all__ = ["LowRank", "Sum"]


@dataclass(frozen=True, eq=False)
class LowRank:
    """The product scale * B @ A of the two factors of an adapter, formed only for the rows asked for.

    Parameters
    ----------
    B, A : object
        Views of shapes (rows, r) and (r, columns); `turned` says that each is stored as its transpose.
    scale : float
        Factor; 1 by default.
    turned : bool
        Factors are stored as (r, rows) and (columns, r); False by default.
    transposed : bool
        The matrix is (B A)'; False by default.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.low_rank import LowRank
    >>> def stored(T):
    ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
    >>> LowRank(stored(torch.ones(4, 2)), stored(torch.ones(2, 3)), 0.5).rows(0, 1).tolist()
    [[1.0, 1.0, 1.0]]
    """

    B: object
    A: object
    scale: float = 1.0
    turned: bool = False
    transposed: bool = False

    @property
    def shape(self):
        """(rows, columns) of the product."""
        rows = self.B.shape[1 if self.turned else 0]
        columns = self.A.shape[0 if self.turned else 1]
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def rank(self):
        """Number of columns of B."""
        return int(self.B.shape[0 if self.turned else 1])

    @property
    def dtype(self):
        """The dtype of the product."""
        return torch.promote_types(matrix_dtype(self.B.dtype), matrix_dtype(self.A.dtype))

    def factors(self):
        """Return (B, A, scale), read whole: shapes (rows, r) and (r, columns).

        Returns
        -------
        tuple
            Both factors as tensors and the scale.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.low_rank import LowRank
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> LowRank(stored(torch.ones(2, 1)), stored(torch.ones(1, 3))).factors()[1].shape
        torch.Size([1, 3])
        """
        B, A = (as_matrix_dtype(part.rows(0, part.shape[0])).to(self.dtype) for part in (self.B, self.A))
        if self.turned:
            B, A = B.T, A.T
        return (A.T, B.T, self.scale) if self.transposed else (B, A, self.scale)

    def rows(self, start, stop):
        """Form rows [start, stop) of the product.

        Parameters
        ----------
        start, stop : int
            Ends of the range.

        Returns
        -------
        torch.Tensor, shape (stop - start, columns)
            scale * B[start:stop] @ A.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.low_rank import LowRank
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> LowRank(stored(torch.ones(4, 2)), stored(torch.ones(2, 3))).rows(1, 3).shape
        torch.Size([2, 3])
        """
        if self.turned or self.transposed:
            B, A, scale = self.factors()
            return scale * (B[start:stop] @ A)
        A, B = self.A.rows(0, self.A.shape[0]), self.B.rows(start, stop)
        return self.scale * (B.to(self.dtype) @ A.to(self.dtype))

    def take(self, index):
        """Form single rows of the product.

        Parameters
        ----------
        index : sequence of int
            Row numbers.

        Returns
        -------
        torch.Tensor, shape (len(index), columns)
            scale * B[index] @ A.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.low_rank import LowRank
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> LowRank(stored(torch.ones(4, 2)), stored(torch.ones(2, 3))).take([3]).tolist()
        [[2.0, 2.0, 2.0]]
        """
        B, A, scale = self.factors()
        return scale * (B[torch.as_tensor(list(index), dtype=torch.long)] @ A)


@dataclass(frozen=True, eq=False)
class Sum:
    """A matrix plus a low-rank one of the same shape.

    Parameters
    ----------
    base : object
        View of the matrix.
    update : LowRank
        What is added.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.low_rank import LowRank, Sum
    >>> def stored(T):
    ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
    >>> update = LowRank(stored(torch.ones(3, 1)), stored(torch.ones(1, 2)))
    >>> Sum(stored(torch.ones(3, 2)), update).rows(0, 1).tolist()
    [[2.0, 2.0]]
    """

    base: object
    update: LowRank

    @property
    def shape(self):
        """(rows, columns) of the sum."""
        return tuple(self.base.shape)

    @property
    def dtype(self):
        """The dtype of the sum."""
        return torch.promote_types(matrix_dtype(self.base.dtype), self.update.dtype)

    def rows(self, start, stop):
        """Form rows [start, stop) of the sum.

        Parameters
        ----------
        start, stop : int
            Ends of the range.

        Returns
        -------
        torch.Tensor, shape (stop - start, columns)
            The rows of both added.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.low_rank import LowRank, Sum
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b])
        >>> update = LowRank(stored(torch.ones(3, 1)), stored(torch.ones(1, 2)), 2.0)
        >>> Sum(stored(torch.ones(3, 2)), update).rows(2, 3).tolist()
        [[3.0, 3.0]]
        """
        base = as_matrix_dtype(self.base.rows(start, stop))
        return base + self.update.rows(start, stop).to(base.device)

    def take(self, index):
        """Form single rows of the sum.

        Parameters
        ----------
        index : sequence of int
            Row numbers.

        Returns
        -------
        torch.Tensor, shape (len(index), columns)
            The rows of both added.

        Examples
        --------
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sciml.stats.spectra.low_rank import LowRank, Sum
        >>> def stored(T):
        ...     return SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b], take=lambda i: T[i])
        >>> update = LowRank(stored(torch.ones(3, 1)), stored(torch.ones(1, 2)))
        >>> Sum(stored(torch.zeros(3, 2)), update).take([1]).tolist()
        [[1.0, 1.0]]
        """
        base = as_matrix_dtype(self.base.take(index))
        return base + self.update.take(index).to(base.device)
