"""Dense factorisations that judge themselves: Cholesky or LU of an equilibrated matrix, with its condition.

Notation  A (..., n, n); R, C row and column scales, powers of two, so that scaling rounds nothing and a change of units
          changes no answer; cond = norm_1(A) norm_1(A^{-1}) of the scaled matrix, the second by Hager's estimator.
Cost      n^3 / 3 (Cholesky) or 2 n^3 / 3 (LU) flops; the estimate ten solves of n^2.
Pitfalls  a positive definite matrix is scaled to a diagonal near one, which all but minimises its condition; without
          that a change of units of one variable would raise a warning.

References
----------
N. Higham, FORTRAN codes for estimating the one-norm of a real or complex matrix, with applications to condition
estimation, 1988.
"""

import math

import torch

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.memory import require


def require_dense(A, copies):
    """State the memory for dense copies of an operator before they are made."""
    count = copies * math.prod(A.batch_shape) * A.shape[0] * A.shape[1]
    require(
        count * torch.empty(0, dtype=A.dtype).element_size(),
        what=f"{copies} dense matri{'x' if copies == 1 else 'ces'} of {A.shape[0]} x {A.shape[1]}",
        remedy="use products and Krylov solves (method='krylov'), which need no dense matrix",
        device=A.device,
    )


class DenseFactor:
    """Cholesky (posdef) or LU of matrices (..., n, n)."""

    def __init__(self, A, posdef, name="A"):
        self.posdef = posdef
        if posdef:
            scale = power_of_two(torch.diagonal(A, dim1=-2, dim2=-1).real, 0.5)
            self.rows, self.columns = scale, scale
        else:
            self.rows, _, self.columns = equilibrated(A)
        scaled = self.rows[..., :, None] * A * self.columns[..., None, :]
        self.norm = scaled.abs().sum(-2).amax(-1) if A.numel() else None
        if posdef:
            self.L, info = torch.linalg.cholesky_ex(scaled)
            _refuse_indefinite(name, A, info)
        else:
            self.LU, self.pivots, info = torch.linalg.lu_factor_ex(scaled)
            _refuse_singular(name, info)

    def _solve_scaled(self, B, adjoint=False):
        if self.posdef:
            return torch.cholesky_solve(B, self.L)
        return torch.linalg.lu_solve(self.LU, self.pivots, B, adjoint=adjoint)

    def solve(self, B, adjoint=False):
        """A^{-1} B or A^{-H} B."""
        left, right = (self.columns, self.rows) if adjoint else (self.rows, self.columns)
        return right[..., :, None] * self._solve_scaled(left[..., :, None] * B, adjoint)

    def condition(self):
        """The largest condition of the batch, in the 1-norm, of the scaled matrices."""
        like = self.L if self.posdef else self.LU
        if like.numel() == 0:
            return 1.0
        return float((self.norm * inverse_norm(self._solve_scaled, lambda B: self._solve_scaled(B, True), like)).max())

    def slogdet(self):
        """Sign and logarithm of the determinant."""
        triangle = self.L if self.posdef else self.LU
        d = torch.diagonal(triangle, dim1=-2, dim2=-1)
        value = d.abs().log().sum(-1) * (2 if self.posdef else 1)
        value = value - self.rows.log().sum(-1) - self.columns.log().sum(-1)
        if self.posdef:
            return torch.ones_like(d[..., :1]).prod(-1), value
        order = torch.arange(1, d.shape[-1] + 1, device=d.device, dtype=self.pivots.dtype)
        swaps = (self.pivots != order).sum(-1)
        return torch.sgn(d).prod(-1) * (1 - 2 * (swaps % 2)), value


def inverse_norm(solve, solve_adjoint, like, n_steps=4):
    """Return a lower bound, rarely below a third, of the 1-norm of an inverse known by its solves.

    `like` (..., n, r) gives size, dtype and device.
    """
    n = like.shape[-2]
    X = torch.full((*like.shape[:-1], 1), 1 / n, dtype=like.dtype, device=like.device)
    best = torch.zeros(like.shape[:-2], dtype=X.real.dtype, device=like.device)
    for _ in range(n_steps):
        Y = solve(X)
        best = torch.maximum(best, Y.abs().sum((-2, -1)))
        signs = torch.where(Y == 0, torch.ones_like(Y), torch.sgn(Y))
        Z = solve_adjoint(signs).abs()
        X = torch.zeros_like(X).scatter_(-2, Z.argmax(-2, keepdim=True), 1)
    # A vector of alternating, growing entries catches the matrices that fool the steps above.
    growth = 1 + torch.arange(n, device=like.device, dtype=X.real.dtype) / max(n - 1, 1)
    growth[1::2] *= -1
    other = solve(growth.to(like.dtype)[:, None].expand_as(X)).abs().sum((-2, -1))
    return torch.maximum(best, 2 * other / (3 * n))


def direct_reason(A):
    """Why a part of a structure can be solved without iterations, or None."""
    found = A._direct()
    if found is None and A.shape[0] == A.shape[1] <= A._dense_size:
        found = f"{'Cholesky' if A.posdef else 'LU'} of the dense matrix, n={A.shape[0]}"
    return found


def direct_solve(A, B, adjoint):
    """Solve with a part of a structure for which `direct_reason` has one."""
    if B.is_complex() and not A.dtype.is_complex:
        return torch.complex(direct_solve(A, B.real, adjoint), direct_solve(A, B.imag, adjoint))
    return dense_factor(A).solve(B, adjoint) if A._direct() is None else A._solve_direct(B, adjoint)


def dense_factor(A):
    """Return the factorisation of the dense matrix of an operator, kept."""

    def compute():
        require_dense(A, copies=3)
        return DenseFactor(A._to_dense(), A.posdef)

    return A._cached("dense factor", compute)


def part_condition(A):
    """The condition of a part, or None."""
    if A._direct() is None:
        return A._cached("dense condition", lambda: dense_factor(A).condition())
    return A._condition()


def refuse_zero(name, values):
    """Refuse a vanishing pivot, eigenvalue or diagonal entry, naming the first."""
    bad = values == 0
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise InvalidInputError(
            f"A must be invertible; its {name} at {index[0] if len(index) == 1 else index} is zero, so it is singular. "
            "Add a ridge, or ask for a least-squares solution: sciml.linalg.lsmr(A, b)."
        )
    return values


def equilibrated(A):
    """Return row scales, the scaled matrix and column scales, such that every row and column reaches about one."""
    if A.numel() == 0:
        return A.abs().sum(-1), A, A.abs().sum(-2)
    rows = power_of_two(A.abs().amax(-1))
    half = rows[..., :, None] * A
    columns = power_of_two(half.abs().amax(-2))
    return rows, half * columns[..., None, :], columns


def power_of_two(values, exponent=1.0):
    """2**k with 2**k * values**exponent in about [1/2, 2]; 1 where a value is not positive."""
    _, k = torch.frexp(values)
    k = torch.where(values > 0, -torch.round(k * exponent), 0.0).to(torch.int32)
    return torch.ldexp(torch.ones_like(values), k)


def _first_bad(info):
    index = tuple(int(i) for i in (info != 0).nonzero()[0]) if info.ndim else None
    return index, int(info[index] if index is not None else info)


def _refuse_indefinite(name, A, info):
    if not bool((info != 0).any()):
        return
    index, pivot = _first_bad(info)
    matrix = A if index is None else A[index]
    smallest = float(torch.linalg.eigvalsh(matrix).min()) if matrix.shape[-1] <= 2000 else None
    where = "" if index is None else f" number {index[0] if len(index) == 1 else index} of the batch"
    value = "" if smallest is None else f", its smallest eigenvalue {smallest:.3g}"
    raise NotPositiveDefiniteError(
        f"{name} must be positive definite, as it claims:{where} pivot {pivot - 1} is not positive{value}. Add a "
        "ridge of about 1e-6 of its trace / n, or drop posdef=True.",
        index=index,
        smallest=smallest,
    )


def _refuse_singular(name, info):
    if not bool((info != 0).any()):
        return
    index, pivot = _first_bad(info)
    where = "" if index is None else f" number {index[0] if len(index) == 1 else index} of the batch has"
    raise InvalidInputError(
        f"{name} must be invertible;{where} pivot {pivot - 1} is exactly zero, so it is singular. Remove dependent "
        "rows, or ask for a least-squares solution: sciml.linalg.lsmr(A, b)."
    )
