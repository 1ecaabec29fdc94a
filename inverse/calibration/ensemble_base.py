r"""What measures: p matrices :math:`A_l` known by their products, taken a block of snapshots at a time.

Notation  p snapshots (none, for one matrix that all share); A_l (m, n); X (..., k, n) signals and Y (..., k, m) data,
          a row a snapshot: rows are what fast transforms work on; g (p or 1, n) diagonal of A_l^H A_l.
Cost      that of the transforms; a block of k snapshots holds about three arrays (k, m).
Pitfalls  products keep the precision of what they are given, so that data in float32 stay in float32.
"""

import copy

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.operators.base import LinearOperator


class Ensemble(LinearOperator):
    r"""The matrices of an experiment as one operator with batch shape (p,), or () for one that all snapshots share.

    Subclasses give ``_forward(X, start, stop)`` and ``_adjoint(Y, start, stop)`` on rows, and name in
    ``_per_snapshot`` the tensors whose leading axis are the snapshots.

    Parameters
    ----------
    shape : tuple of int
        (m, n) of one matrix.
    dtype : torch.dtype
        Of its entries.
    device : str or torch.device
        Where its tensors lie; the CPU by default.
    batch_shape : tuple of int
        (p,), or () (the default) for one matrix.
    gram : tensor, shape (p or 1, n), or None
        The diagonal of A_l^H A_l where that is all there is; None (the default) where it is not, or is unknown.
    kind : {"torch", "numpy"}
        What :meth:`to_dense` returns; torch by default.

    Attributes
    ----------
    gram
        As given.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.calibration.ensembles import SpreadCode
    >>> A = SpreadCode(np.array([[1, -1, 1, 1], [1, 1, -1, 1]]), 2)
    >>> A.block(1, 2).batch_shape, A.gram
    ((1,), tensor([[2., 2.]], dtype=torch.float64))
    """

    _per_snapshot: tuple = ()
    divisible = True  # whether a block of snapshots costs less than all of them

    def __init__(self, shape, *, dtype, device="cpu", batch_shape=(), gram=None, kind="torch"):
        super().__init__(shape, dtype=dtype, device=device, batch_shape=batch_shape, kind=kind)
        self.gram = gram
        self._snapshots = [0]  # shared by copies: snapshots that went through `forward` and `adjoint`

    def _forward(self, X, start, stop):
        raise NotImplementedError(f"{type(self).__name__} has no product")

    def _adjoint(self, Y, start, stop):
        raise NotImplementedError(f"{type(self).__name__} has no adjoint product")

    def forward(self, X, start=0, stop=None):
        """Return A_l x_l for a block of snapshots, in the precision of `X`.

        Parameters
        ----------
        X : tensor, shape (..., k, n)
            A row a snapshot, from `start` on; any k for one matrix. A single row serves the whole block.
        start, stop : int, int or None
            The block; all snapshots by default.

        Returns
        -------
        tensor, shape (..., k, m)

        Examples
        --------
        >>> import torch
        >>> from sciml.inverse.calibration.ensembles import PartialDFT
        >>> PartialDFT(4, 1).forward(torch.ones(2, 1)).real
        tensor([[0.5000, 0.5000, 0.5000, 0.5000],
                [0.5000, 0.5000, 0.5000, 0.5000]])
        """
        Y = self._forward(X, start, self._stop(stop))
        self._snapshots[0] += Y.shape[-2]
        return Y

    def adjoint(self, Y, start=0, stop=None):
        """Return A_l^H y_l for a block of snapshots, in the precision of `Y`.

        Parameters
        ----------
        Y : tensor, shape (..., k, m)
            A row a snapshot, from `start` on.
        start, stop : int, int or None
            The block; all snapshots by default.

        Returns
        -------
        tensor, shape (..., k, n)

        Examples
        --------
        >>> import torch
        >>> from sciml.inverse.calibration.ensembles import PartialDFT
        >>> PartialDFT(4, 1).adjoint(torch.ones(2, 4)).real
        tensor([[2.],
                [2.]])
        """
        X = self._adjoint(Y, start, self._stop(stop))
        self._snapshots[0] += X.shape[-2]
        return X

    def _stop(self, stop):
        return self.batch_shape[0] if stop is None and self.batch_shape else stop

    @property
    def matvec_count(self):
        """Products with one vector so far, adjoint ones included; a batch of p matrices counts once."""
        per = self.batch_shape[0] if self.batch_shape else 1
        return self._count[0] - (-self._snapshots[0] // max(per, 1))

    def block(self, start, stop):
        """Return the same measurement of the snapshots from `start` to before `stop` only, sharing memory.

        Parameters
        ----------
        start, stop : int
            Snapshots, from 0; one matrix that all share is returned as it is.

        Returns
        -------
        Ensemble

        Examples
        --------
        >>> import numpy as np
        >>> from sciml.inverse.calibration.ensembles import DFTMask
        >>> DFTMask(np.ones((5, 8))).block(1, 4)
        <DFTMask 8x8 batch=(3,) complex128>
        """
        if not self.batch_shape:
            return self
        if not 0 <= start < stop <= self.batch_shape[0]:
            raise InvalidInputError(
                f"start and stop must enclose some of the {self.batch_shape[0]} snapshots; got {start} and {stop}. "
                "Count from 0."
            )
        other = copy.copy(self)
        other.batch_shape, other._cache = (stop - start,), {}
        other._count, other._snapshots = [0], [0]
        for name in self._per_snapshot:
            value = getattr(self, name)
            setattr(other, name, value if value is None else value[start:stop])
        if self.gram is not None and self.gram.shape[0] > 1:
            other.gram = self.gram[start:stop]
        return other

    def _apply(self, X):
        return self._in_rows(self._forward, X)

    def _apply_adjoint(self, X):
        return self._in_rows(self._adjoint, X)

    def _in_rows(self, call, X):
        """Send columns (..., n, r) through a product of rows."""
        if not self.batch_shape:
            return call(X.mT, 0, None).mT
        rows = X.movedim(-1, 0)  # (r, ..., n): the last but one axis are the snapshots
        rows = rows[:, None] if X.ndim == 2 else rows
        return call(rows, 0, self.batch_shape[0]).movedim(0, -1)


def codes_of(name, masks, ndim=2):
    """Return masks as a tensor with the snapshots in front, and the kind they came in; integers keep their type."""
    kind = "torch" if isinstance(masks, torch.Tensor) else "numpy"
    plain = masks if kind == "torch" else None
    if plain is None and getattr(getattr(masks, "dtype", None), "kind", "") in "bi":
        # Codes of one byte are an eighth of the memory that they take in float64.
        plain = torch.as_tensor(masks)
    if plain is None or plain.is_floating_point() or plain.is_complex():
        (plain,), _ = enter(masks, names=(name,), check_finite=True)
    if plain.ndim < ndim or 0 in plain.shape:
        raise InvalidInputError(
            f"{name} must have the snapshots first and then the entries of each mask; got shape {tuple(plain.shape)}. "
            f"For a single snapshot pass {name}[None]."
        )
    return plain, kind


def complex_dtype(tensor):
    """Return the complex dtype of a tensor's precision; integers are exact in any, and count as float64."""
    return torch.complex64 if tensor.dtype in (torch.float32, torch.complex64) else torch.complex128


def in_precision_of(codes, X):
    """Return codes in the precision of X, real ones real."""
    if codes.is_complex():
        return codes.to(complex_dtype(X))
    return codes.to(X.real.dtype if X.is_complex() else X.dtype)


def power(codes):
    """Return the squared moduli in a real dtype."""
    return (
        codes.abs().square() if codes.is_complex() else codes.to(torch.promote_types(codes.dtype, torch.float32)) ** 2
    )


def distinct(gram):
    """Return the diagonals (p, n) of all snapshots, or one row for all where they are equal."""
    return gram[:1].clone() if bool((gram == gram[:1]).all()) else gram
