"""Lazy sums, products, multiples and transposes of operators; nothing is multiplied out.

Notation  A, B operators; c a number or a tensor of no axes. The products of sums and multiples cost what their parts
          cost; a product of square operators is solved factor by factor, a multiple and a transpose by their operand.
"""

import math

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators.base import LinearOperator
from sciml.linalg.operators.direct import direct_reason, direct_solve, part_condition, refuse_zero
from sciml.linalg.operators.implicit import exact_slogdet, solve


def _common(operators):
    """Return dtype, device, batch shape and kind of a combination."""
    devices = {A.device for A in operators}
    if len(devices) > 1:
        raise InvalidInputError(f"operators must be on one device; got {sorted(map(str, devices))}. Move one of them.")
    dtype = operators[0].dtype
    for A in operators[1:]:
        dtype = torch.promote_types(dtype, A.dtype)
    try:
        batch = torch.broadcast_shapes(*(A.batch_shape for A in operators))
    except RuntimeError:
        raise InvalidInputError(
            f"batch axes of the operators must broadcast; got {[A.batch_shape for A in operators]}. Match them."
        ) from None
    kind = "torch" if any(A.kind == "torch" for A in operators) else "numpy"
    return {"dtype": dtype, "device": operators[0].device, "batch_shape": tuple(batch), "kind": kind}


class Sum(LinearOperator):
    """A + B + ..., what ``A + B`` returns.

    Parameters
    ----------
    *terms : LinearOperator
        All of one shape.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.operators import Circulant, Diagonal
    >>> (Diagonal(np.array([1.0, 2.0])) + Circulant(np.array([0.0, 1.0]))).to_dense()
    array([[1., 1.],
           [1., 2.]])
    """

    _fields = ("terms",)

    def __init__(self, *terms):
        if not terms or any(A.shape != terms[0].shape for A in terms):
            raise InvalidInputError(
                f"terms must be operators of one shape; got {[A.shape for A in terms]}. Check which is transposed."
            )
        flat = []
        for A in terms:
            flat.extend(A.terms if isinstance(A, Sum) else (A,))
        self.terms = tuple(flat)
        flags = {word: all(getattr(A, word) for A in flat) for word in ("symmetric", "posdef")}
        super().__init__(terms[0].shape, **flags, **_common(terms))

    def _apply(self, X):
        return sum(A._matmat(X) for A in self.terms)

    def _apply_adjoint(self, X):
        return sum(A._rmatmat(X) for A in self.terms)

    def _diag(self):
        return sum(A._diag() for A in self.terms)


class Product(LinearOperator):
    """A B ..., what ``A @ B`` returns.

    Parameters
    ----------
    *factors : LinearOperator
        Neighbours must fit.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.operators import Diagonal
    >>> D = Diagonal(np.array([1.0, 2.0]))
    >>> (D @ D).solve(np.ones(2))
    array([1.  , 0.25])
    """

    _fields = ("factors",)

    def __init__(self, *factors):
        flat = []
        for A in factors:
            flat.extend(A.factors if isinstance(A, Product) else (A,))
        for A, B in zip(flat[:-1], flat[1:], strict=True):
            if A.shape[1] != B.shape[0]:
                raise InvalidInputError(f"factors must fit; got shapes {A.shape} and {B.shape}. Transpose one of them.")
        self.factors = tuple(flat)
        super().__init__((flat[0].shape[0], flat[-1].shape[1]), **_common(flat))

    def _apply(self, X):
        for A in reversed(self.factors):
            X = A._matmat(X)
        return X

    def _apply_adjoint(self, X):
        for A in self.factors:
            X = A._rmatmat(X)
        return X

    def _all_square(self):
        return all(A.shape[0] == A.shape[1] for A in self.factors)

    def _direct(self):
        if not self._all_square():
            return None
        reasons = [direct_reason(A) for A in self.factors]
        return None if None in reasons else "factor by factor: " + "; ".join(reasons)

    def _solve_direct(self, B, adjoint):
        for A in reversed(self.factors) if adjoint else self.factors:
            B = direct_solve(A, B, adjoint)
        return B

    def _condition(self):
        found = [part_condition(A) for A in self.factors]
        return None if None in found else math.prod(found)

    def _logdet_direct(self):
        if not self._all_square():
            return None
        parts = [exact_slogdet(A) for A in self.factors]
        if None in parts:
            return None
        return math.prod(sign for sign, _ in parts), sum(value for _, value in parts)


class Scaled(LinearOperator):
    """c A, what ``c * A`` returns.

    Parameters
    ----------
    operator : LinearOperator
        A.
    factor : float, complex or tensor of no axes
        c, which may need a gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.operators import Circulant
    >>> (2 * Circulant(np.array([1.0, 0.0]))).to_dense()
    array([[2., 0.],
           [0., 2.]])
    """

    _fields = ("operator", "factor")

    def __init__(self, operator, factor):
        given = isinstance(factor, torch.Tensor)
        c = torch.as_tensor(factor, device=operator.device)
        if c.ndim:
            raise InvalidInputError(f"factor must be a number; got shape {tuple(c.shape)}. Use Diagonal(factor) @ A.")
        if not bool(torch.isfinite(c)):
            raise InvalidInputError(f"factor must be finite; got {c.item()}. Check how it was computed.")
        dtype = operator.dtype
        if c.is_complex() and not dtype.is_complex:
            dtype = torch.complex64 if dtype is torch.float32 else torch.complex128
        self.operator, self.factor = operator, c.to(dtype)
        common = _common([operator]) | {"dtype": dtype}
        if given:
            common["kind"] = "torch"
        real = not c.is_complex() or c.imag.item() == 0
        positive = real and c.real.item() > 0 if c.is_complex() else bool(c > 0)
        super().__init__(
            operator.shape,
            symmetric=operator.symmetric and real,
            posdef=operator.posdef and positive,
            triangular=operator.triangular,
            **common,
        )

    def _apply(self, X):
        return self.factor * self.operator._matmat(X)

    def _apply_adjoint(self, X):
        return self.factor.conj() * self.operator._rmatmat(X)

    def _diag(self):
        return self.factor * self.operator._diag()

    def _to_dense(self):
        return self.factor * self.operator._to_dense()

    def _direct(self):
        refuse_zero("factor", self.factor)
        return direct_reason(self.operator)

    def _solve_direct(self, B, adjoint):
        return direct_solve(self.operator, B / (self.factor.conj() if adjoint else self.factor), adjoint)

    def _condition(self):
        return part_condition(self.operator)

    def _preconditioner(self):
        M = self.operator._preconditioner()
        return None if M is None else M / self.factor.detach()

    def _logdet_direct(self):
        refuse_zero("factor", self.factor)
        part = exact_slogdet(self.operator)
        if part is None:
            return None
        n = self.shape[0]
        return part[0] * torch.sgn(self.factor) ** n, part[1] + n * self.factor.abs().log()


class Transpose(LinearOperator):
    """A^T or A^H, what ``A.T`` and ``A.H`` return.

    Parameters
    ----------
    operator : LinearOperator
        A.
    conjugate : bool
        A^H rather than A^T; False by default. The same for real operators.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.operators import Dense, Transpose
    >>> Transpose(Dense(np.array([[1.0, 2.0]]))).to_dense()
    array([[1.],
           [2.]])
    """

    _fields = ("operator",)

    def __init__(self, operator, conjugate=False):
        self.operator, self._conjugate = operator, conjugate or not operator.dtype.is_complex
        triangular = {"lower": "upper", "upper": "lower", None: None}[operator.triangular]
        flags = {"symmetric": operator.symmetric, "posdef": operator.posdef, "triangular": triangular}
        super().__init__(operator.shape[::-1], **flags, **_common([operator]))

    @property
    def T(self):
        """The transpose, an operator."""
        return self.operator if self._conjugate == (not self.dtype.is_complex) else super().T

    @property
    def H(self):
        """The conjugate transpose, an operator."""
        return self.operator if self._conjugate else super().H

    def _through(self, function, X):
        # A^T x is the conjugate of A^H conj(x).
        return function(X) if self._conjugate else function(X.conj()).conj()

    def _apply(self, X):
        return self._through(self.operator._rmatmat, X)

    def _apply_adjoint(self, X):
        return self._through(self.operator._matmat, X)

    def _diag(self):
        diag = self.operator._diag()
        return diag.conj() if self._conjugate else diag

    def _to_dense(self):
        dense = self.operator._to_dense().mT
        return dense.conj() if self._conjugate else dense

    def _direct(self):
        return direct_reason(self.operator)

    def _solve_direct(self, B, adjoint):
        return self._through(lambda X: direct_solve(self.operator, X, not adjoint), B)

    def _condition(self):
        return part_condition(self.operator)

    def _preconditioner(self):
        M = self.operator._preconditioner()
        return None if M is None else (M.H if self._conjugate else M.T)

    def _logdet_direct(self):
        part = exact_slogdet(self.operator)
        if part is None:
            return None
        return (part[0].conj() if self._conjugate else part[0]), part[1]


class Inverse(LinearOperator):
    """A^{-1} as an operator whose product is a solve, such as a preconditioner.

    Parameters
    ----------
    operator : LinearOperator
        A, square.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.operators import Diagonal, Inverse
    >>> Inverse(Diagonal(np.array([2.0, 4.0]))) @ np.ones(2)
    array([0.5 , 0.25])
    """

    _fields = ("operator",)

    def __init__(self, operator):
        operator._require_square("Inverse")
        self.operator = operator
        flags = {word: getattr(operator, word) for word in ("symmetric", "posdef", "triangular")}
        super().__init__(operator.shape, **flags, **_common([operator]))

    def _apply(self, X):
        return solve(self.operator, X)

    def _apply_adjoint(self, X):
        return solve(self.operator, X, adjoint=True)

    def _direct(self):
        return f"the product with {type(self.operator).__name__}"

    def _solve_direct(self, B, adjoint):
        return self.operator._rmatmat(B) if adjoint else self.operator._matmat(B)

    def _logdet_direct(self):
        part = exact_slogdet(self.operator)
        return None if part is None else (part[0].conj(), -part[1])


def total(A, B):
    """Return A + B, in the closed form that the structure allows."""
    for left, right in ((A, B), (B, A)):
        found = left._plus(right)
        if found is not None:
            return found
    return Sum(A, B)


def product(A, B):
    """Return A B."""
    return Product(A, B)


def scaled(A, factor):
    """Return c A, in the closed form that the structure allows."""
    return Scaled(A, factor)
