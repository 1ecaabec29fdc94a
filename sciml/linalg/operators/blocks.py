r"""Block-diagonal matrices, and two by two blocks solved by the Schur complement.

Notation  [[A, B], [C, D]] with A (n, n), D (k, k); S = D - C A^{-1} B the Schur complement, dense.
Cost      two solves with A a right side, k solves with A and k^3 once.
Pitfalls  A must be invertible; a saddle point whose A is singular has no Schur complement although it may be
          invertible as a whole: solve it by method="krylov".

References
----------
M. Benzi, G. Golub, J. Liesen, Numerical solution of saddle point problems, 2005.
"""

import math

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators.algebra import Inverse, _common
from sciml.linalg.operators.base import LinearOperator, as_operator
from sciml.linalg.operators.dense import Dense
from sciml.linalg.operators.diagonal import Diagonal
from sciml.linalg.operators.direct import DenseFactor, direct_reason, direct_solve, part_condition
from sciml.linalg.operators.implicit import exact_slogdet, solve

# Up to this size a Schur complement is formed.
_SCHUR_SIZE = 4096


class BlockDiag(LinearOperator):
    """Blocks along the diagonal.

    Parameters
    ----------
    *blocks : array or operator, shape (..., m_k, n_k)
        One after the other; all batch axes broadcast.

    Examples
    --------
    >>> import numpy as np
    >>> BlockDiag(np.eye(1), np.array([[2.0, 1.0], [0.0, 2.0]])).solve(np.array([1.0, 3.0, 2.0]))
    array([1., 1., 1.])
    """

    _fields = ("blocks",)

    def __init__(self, *blocks):
        if not blocks:
            raise InvalidInputError(
                "blocks must hold at least one matrix; nothing came. Pass them one after the other."
            )
        self.blocks = tuple(as_operator(A, name=f"block {k}") for k, A in enumerate(blocks))
        flags = {word: all(getattr(A, word) for A in self.blocks) for word in ("symmetric", "posdef")}
        shape = tuple(sum(A.shape[i] for A in self.blocks) for i in (0, 1))
        super().__init__(shape, **flags, **_common(self.blocks))

    def _each(self, X, maps, axis):
        parts = X.split([A.shape[axis] for A in self.blocks], dim=-2)
        done = [apply(part) for apply, part in zip(maps, parts, strict=True)]
        batch = torch.broadcast_shapes(*(Y.shape[:-2] for Y in done))
        return torch.cat([Y.expand(*batch, *Y.shape[-2:]) for Y in done], -2)

    def _apply(self, X):
        return self._each(X, [A._matmat for A in self.blocks], 1)

    def _apply_adjoint(self, X):
        return self._each(X, [A._rmatmat for A in self.blocks], 0)

    def _square(self):
        return all(A.shape[0] == A.shape[1] for A in self.blocks)

    def _diag(self):
        if not self._square():
            return super()._diag()
        return torch.cat([A._diag().expand(*self.batch_shape, A.shape[0]) for A in self.blocks], -1)

    def _direct(self):
        reasons = [direct_reason(A) for A in self.blocks] if self._square() else [None]
        return None if None in reasons else "block by block: " + "; ".join(dict.fromkeys(reasons))

    def _solve_direct(self, B, adjoint):
        return self._each(B, [lambda X, A=A: direct_solve(A, X, adjoint) for A in self.blocks], 0)

    def _condition(self):
        # Each block is solved on its own: their sizes do not mix.
        found = [part_condition(A) for A in self.blocks]
        return None if None in found else max(found)

    def _logdet_direct(self):
        parts = [exact_slogdet(A) for A in self.blocks] if self._square() else [None]
        if None in parts:
            return None
        return math.prod(sign for sign, _ in parts), sum(value for _, value in parts)


class Block2x2(LinearOperator):
    """The matrix [[A, B], [C, D]], such as a saddle point.

    Parameters
    ----------
    A : array or operator, shape (n, n)
        Invertible for direct solves.
    B : array or operator, shape (n, k)
        Upper right block.
    C : array, operator or None, shape (k, n)
        Lower left block; None (the default) takes the conjugate transpose of `B`.
    D : array, operator or None, shape (k, k)
        Lower right block; None (the default) is zero.

    Examples
    --------
    Minimise x^2 + y^2 under x + y = 2, with multiplier -2.

    >>> import numpy as np
    >>> K = Block2x2(2 * np.eye(2), np.ones((2, 1)))
    >>> K.solve(np.array([0.0, 0.0, 2.0]))
    array([ 1.,  1., -2.])
    """

    _fields = ("A", "B", "C", "D")

    def __init__(self, A, B, C=None, D=None):
        self.A, self.B = as_operator(A, name="A"), as_operator(B, name="B")
        self.C = None if C is None else as_operator(C, name="C")
        self.D = None if D is None else as_operator(D, name="D")
        n, k = self.A.shape[0], self.B.shape[1]
        wanted = {"A": (n, n), "B": (n, k), "C": (k, n), "D": (k, k)}
        for name, shape in wanted.items():
            block = getattr(self, name)
            if block is not None and block.shape != shape:
                raise InvalidInputError(f"{name} must have shape {shape} beside the others; got {block.shape}.")
        given = [block for block in (self.A, self.B, self.C, self.D) if block is not None]
        symmetric = self.A.symmetric and self.C is None and (self.D is None or self.D.symmetric)
        super().__init__((n + k, n + k), symmetric=symmetric, **_common(given))

    def _split(self, X):
        n = self.A.shape[0]
        return X[..., :n, :], X[..., n:, :]

    def _lower(self, X, adjoint=False):
        """C X or C^H X."""
        if self.C is None:
            return self.B._matmat(X) if adjoint else self.B._rmatmat(X)
        return self.C._rmatmat(X) if adjoint else self.C._matmat(X)

    def _apply(self, X):
        x, y = self._split(X)
        top, bottom = self.A._matmat(x) + self.B._matmat(y), self._lower(x)
        return _stack(top, bottom if self.D is None else bottom + self.D._matmat(y))

    def _apply_adjoint(self, X):
        x, y = self._split(X)
        top, bottom = self.A._rmatmat(x) + self._lower(y, adjoint=True), self.B._rmatmat(x)
        return _stack(top, bottom if self.D is None else bottom + self.D._rmatmat(y))

    def _diag(self):
        k = self.B.shape[1]
        zero = torch.zeros(k, dtype=self.dtype, device=self.device)
        parts = [self.A._diag().to(self.dtype), zero if self.D is None else self.D._diag().to(self.dtype)]
        return torch.cat([part.expand(*self.batch_shape, part.shape[-1]) for part in parts], -1)

    def _schur(self, solve_first):
        """D - C A^{-1} B, dense."""
        S = -self._lower(solve_first(self.B._to_dense().to(self.dtype)))
        return S if self.D is None else S + self.D._to_dense()

    def _factor_of_schur(self):
        def compute():
            S = self._schur(lambda X: direct_solve(self.A, X, False))
            return DenseFactor(S, posdef=False, name="the Schur complement D - C A^{-1} B")

        return self._cached("schur", compute)

    def _direct(self):
        reason = direct_reason(self.A)
        if reason is None or self.B.shape[1] > _SCHUR_SIZE:
            return None
        return f"Schur complement, dense, n={self.B.shape[1]}; first block by {reason}"

    def _solve_direct(self, B, adjoint):
        b, d = self._split(B)
        first = direct_solve(self.A, b, adjoint)
        coupling = self.B._rmatmat(first) if adjoint else self._lower(first)
        y = self._factor_of_schur().solve(d - coupling, adjoint)
        back = self._lower(y, adjoint=True) if adjoint else self.B._matmat(y)
        return _stack(first - direct_solve(self.A, back, adjoint), y)

    def _preconditioner(self):
        """The diagonal of A, and the Schur complement with that diagonal in place of A, both made positive."""
        if not (self.symmetric and self.A.posdef) or self.B.shape[1] > _SCHUR_SIZE or self.batch_shape:
            return None

        def compute():
            d, B = self.A._diag(), self.B._to_dense()
            S = B.mH @ (B / d[:, None])
            S = S if self.D is None else S - self.D._to_dense()
            values, V = torch.linalg.eigh((S + S.mH) / 2)
            values = values.abs().clamp_min(torch.finfo(values.dtype).eps * values.abs().max())
            return BlockDiag(Inverse(Diagonal(d)), Inverse(Dense((V * values) @ V.mH, posdef=True)))

        return self._cached("preconditioner", compute)

    def _condition(self):
        first = part_condition(self.A)
        second = self._cached("condition", lambda: self._factor_of_schur().condition())
        return None if first is None else max(first, second)

    def _logdet_direct(self):
        if self.B.shape[1] > _SCHUR_SIZE:
            return None
        first = exact_slogdet(self.A)
        if first is None:
            return None
        second = exact_slogdet(Dense(self._schur(lambda X: solve(self.A, X)), name="the Schur complement"))
        return first[0] * second[0], first[1] + second[1]


def _stack(top, bottom):
    batch = torch.broadcast_shapes(top.shape[:-2], bottom.shape[:-2])
    return torch.cat([top.expand(*batch, *top.shape[-2:]), bottom.expand(*batch, *bottom.shape[-2:])], -2)
