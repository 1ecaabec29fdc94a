r"""Whatever describes the measurement, as one :class:`Ensemble`: arrays, operators, SciPy operators, lists of them.

Notation  p snapshots; m data and n unknowns of one.
Cost      none for what is an ensemble already; a list is gone through item by item.
"""

import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.calibration.ensemble_base import Ensemble, complex_dtype
from sciml.linalg.arrays import enter
from sciml.linalg.operators.base import LinearOperator, as_operator


class Matrices(Ensemble):
    r"""Matrices as numbers: one for all snapshots, or one for each.

    Parameters
    ----------
    A : array, shape (m, n) or (p, m, n)
        Real or complex, finite.
    kind : {"torch", "numpy"} or None
        What :meth:`to_dense` returns; None (the default) takes that of `A`.

    Raises
    ------
    InvalidInputError
        If the shape is another, or an entry is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> Matrices(np.ones((3, 4, 2)))
    <Matrices 4x2 batch=(3,) float64>
    """

    _fields = ("A",)

    def __init__(self, A, kind=None):
        kind = kind or ("torch" if isinstance(A, torch.Tensor) else "numpy")
        (A,), _ = enter(A, names=("A",), check_finite=True)
        if A.ndim not in (2, 3) or 0 in A.shape:
            raise InvalidInputError(
                f"A must have shape (m, n), or (p, m, n) with a matrix a snapshot; got {tuple(A.shape)}. Reshape it."
            )
        self.A = A
        self._per_snapshot = ("A",) if A.ndim == 3 else ()
        super().__init__(A.shape[-2:], dtype=A.dtype, device=A.device, batch_shape=A.shape[:-2], kind=kind)

    def _part(self, X, start, stop):
        A = self.A[start:stop] if self.batch_shape else self.A
        short = X.dtype in (torch.float32, torch.complex64)
        return A.to(complex_dtype(X) if A.is_complex() else torch.float32 if short else torch.float64)

    def _forward(self, X, start, stop):
        A = self._part(X, start, stop)
        A, X = _alike(A, X)
        return (A @ X[..., None])[..., 0] if self.batch_shape else X @ A.mT

    def _adjoint(self, Y, start, stop):
        A = self._part(Y, start, stop)
        A, Y = _alike(A, Y)
        return (A.mH @ Y[..., None])[..., 0] if self.batch_shape else Y @ A.conj()

    def _to_dense(self):
        return self.A


class Wrapped(Ensemble):
    r"""Any linear operator as an ensemble: one matrix for all snapshots, or a batch of p, which is not taken apart.

    Parameters
    ----------
    operator : LinearOperator
        Batch shape () or (p,).

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg import Circulant
    >>> Wrapped(Circulant(np.array([1.0, 2.0, 0.0]))).shape
    (3, 3)
    """

    _fields = ("operator",)

    def __init__(self, operator):
        if len(operator.batch_shape) > 1:
            raise InvalidInputError(
                f"A must have no batch axes or one of snapshots; got batch shape {operator.batch_shape}. "
                "Solve for one channel at a time."
            )
        self.operator = operator
        self.divisible = not operator.batch_shape
        super().__init__(
            operator.shape,
            dtype=operator.dtype,
            device=operator.device,
            batch_shape=operator.batch_shape,
            kind=operator.kind,
        )

    def _forward(self, X, start, stop):
        return self._through(self.operator._matmat, X, start, stop)

    def _adjoint(self, Y, start, stop):
        return self._through(self.operator._rmatmat, Y, start, stop)

    def _through(self, product, X, start, stop):
        if not self.batch_shape:
            return product(X.to(torch.promote_types(X.dtype, self.dtype)).mT).mT
        wide = X.to(torch.promote_types(X.dtype, self.dtype))
        if (start, stop) != (0, self.batch_shape[0]):
            # An unknown batch cannot be taken apart: the rest is multiplied by zeros.
            full = wide.new_zeros(*wide.shape[:-2], self.batch_shape[0], wide.shape[-1])
            full[..., start:stop, :] = wide
            return product(full[..., None])[..., start:stop, :, 0]
        return product(wide.expand(*wide.shape[:-2], self.batch_shape[0], -1)[..., None])[..., 0]


class Listed(Ensemble):
    r"""A list of operators, one a snapshot, of one shape.

    Parameters
    ----------
    operators : sequence of LinearOperator
        All of one shape, without batch axes.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg import Dense
    >>> Listed([Dense(np.ones((3, 2))), Dense(np.zeros((3, 2)))])
    <Listed 3x2 batch=(2,) float64>
    """

    _fields = ("operators",)
    _per_snapshot = ("operators",)

    def __init__(self, operators):
        self.operators = tuple(operators)
        first = self.operators[0]
        for number, operator in enumerate(self.operators):
            if operator.shape != first.shape or operator.batch_shape:
                raise InvalidInputError(
                    f"A must hold operators of one shape without batch axes; number 0 has {first.shape}, number "
                    f"{number} has {(*operator.batch_shape, *operator.shape)}. Pad the signals to one length."
                )
        dtype = first.dtype
        for operator in self.operators:
            dtype = torch.promote_types(dtype, operator.dtype)
        super().__init__(
            first.shape, dtype=dtype, device=first.device, batch_shape=(len(self.operators),), kind=first.kind
        )

    def _forward(self, X, start, stop):
        return self._each("_matmat", X, start, stop)

    def _adjoint(self, Y, start, stop):
        return self._each("_rmatmat", Y, start, stop)

    def _each(self, product, X, start, stop):
        X = X.expand(*X.shape[:-2], stop - start, -1)
        parts = [
            getattr(A, product)(X[..., j, :, None].to(torch.promote_types(X.dtype, A.dtype)))[..., 0]
            for j, A in enumerate(self.operators[start:stop])
        ]
        return torch.stack(parts, -2)


def as_ensemble(A, p, m):
    """Return whatever describes the measurement as an :class:`Ensemble`.

    Parameters
    ----------
    A : array, LinearOperator, scipy LinearOperator, sparse matrix, or a list of p of them
        (m, n) for one matrix that all snapshots share, (p, m, n) for one matrix each.
    p, m : int
        Snapshots and sensors of the data that `A` must fit.

    Returns
    -------
    Ensemble

    Raises
    ------
    InvalidInputError
        If the shape does not fit the data, or an entry is not finite.
    InvalidTypeError
        If `A` is nothing of the above.

    Examples
    --------
    >>> import numpy as np
    >>> as_ensemble(np.ones((4, 2)), 10, 4)
    <Matrices 4x2 float64>
    """
    found = _made(A)
    shape = (*found.batch_shape, *found.shape)
    if found.shape[0] != m:
        raise InvalidInputError(
            f"A must have as many rows as there are sensors, {m}; got shape {shape}. The last axis of y are the "
            "sensors, the one before the snapshots."
        )
    if found.batch_shape and found.batch_shape != (p,):
        raise InvalidInputError(
            f"A must hold a matrix for each of the {p} snapshots, or one for all; got shape {shape}. The last axis of "
            "y are the sensors, the one before the snapshots."
        )
    return found


def _made(A):
    if isinstance(A, Ensemble):
        return A
    if isinstance(A, LinearOperator):
        return Wrapped(A)
    if isinstance(A, (list, tuple)) and any(_is_operator(item) for item in A):
        return Listed([as_operator(item, f"A[{number}]") for number, item in enumerate(A)])
    if isinstance(A, (list, tuple)) or hasattr(A, "__array__") or isinstance(A, torch.Tensor):
        return Matrices(A)
    if _is_operator(A):
        return Wrapped(as_operator(A, "A"))
    raise InvalidTypeError(
        f"A must be an array, a linear operator or a list of operators; got {type(A).__name__}. "
        "Wrap callables by FromCallable(matvec, rmatvec, shape)."
    )


def _is_operator(item):
    return isinstance(item, LinearOperator) or (
        hasattr(item, "shape") and (hasattr(item, "matvec") or hasattr(item, "tocsr"))
    )


def _alike(A, X):
    """Promote a real and a complex factor to one dtype."""
    dtype = torch.promote_types(A.dtype, X.dtype)
    return A.to(dtype), X.to(dtype)
