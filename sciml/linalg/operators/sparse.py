"""Sparse matrices in compressed rows: SciPy's product and SuperLU on the CPU, torch's product on a GPU.

Notation  values (nnz,) the parameters; rows, columns (nnz,) where they stand, in the order of rows.
Cost      nnz a product; a factorisation about n^1.5 for a planar mesh, n^2 in space, and its fill-in of memory.
Pitfalls  the gradient by the values is taken where there is an entry, a zero that is stored included, nowhere else.
          The gradient of logdet costs n solves. torch does not differentiate a sparse tensor's values twice.
"""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators.base import LinearOperator
from sciml.linalg.operators.dense import tensors
from sciml.linalg.operators.direct import inverse_norm
from sciml.linalg.operators.permutation import indices, parity

# Up to this size a sparse LU is tried before Krylov methods.
_LU_SIZE = 100_000


class Sparse(LinearOperator):
    """A sparse matrix.

    Parameters
    ----------
    A : scipy.sparse matrix or array, or sparse torch tensor, shape (m, n)
        Any layout; entries given twice are added. A torch tensor passes first derivatives to its values; for second
        ones use :meth:`from_entries`.
    symmetric, posdef : bool
        Claims; False by default.
    check : bool
        Test the claims on random vectors; False by default.
    name : str
        For messages; "A" by default.

    Raises
    ------
    InvalidInputError
        If a value is not finite, or a claim does not hold.

    Examples
    --------
    >>> A = Sparse(scipy.sparse.diags([[2.0, 2.0], [1.0]], [0, 1]))
    >>> A.solve(np.array([3.0, 2.0]))
    array([1., 1.])
    """

    _fields = ("values",)

    def __init__(self, A, *, symmetric=False, posdef=False, check=False, name="A"):
        if isinstance(A, torch.Tensor):
            kind, entries = "torch", A.to_sparse_coo().coalesce()
            (rows, columns), values = entries.indices(), entries.values()
        else:
            kind, entries = "numpy", scipy.sparse.csr_array(A).tocoo()
            rows, columns = (torch.from_numpy(i.astype(np.int64)) for i in entries.coords)
            data = entries.data if entries.data.dtype.char in "fdFD" else entries.data.astype(np.float64)
            values = torch.from_numpy(np.ascontiguousarray(data))
        self._fill(rows, columns, values, A.shape, symmetric, posdef, kind, name)
        if check:
            self.check_flags()

    def _fill(self, rows, columns, values, shape, symmetric, posdef, kind, name):
        if not (values.is_floating_point() or values.is_complex()):
            values = values.double()
        if not bool(torch.isfinite(values).all()):
            raise InvalidInputError(f"{name} must be finite; a stored value is NaN or infinite. Remove it first.")
        self.values, self._row_index, self._column_index = values, rows, columns
        flags = {"symmetric": symmetric, "posdef": posdef}
        LinearOperator.__init__(self, shape, dtype=values.dtype, device=values.device, kind=kind, **flags)

    @classmethod
    def from_entries(cls, rows, columns, values, shape, *, symmetric=False, posdef=False, check=False):
        """Return a sparse matrix by its entries, with derivatives of any order by the values.

        Parameters
        ----------
        rows, columns : array of int, shape (nnz,)
            Where the values stand.
        values : array, shape (nnz,)
            Two at one place are added.
        shape : tuple of int
            (m, n).
        symmetric, posdef, check
            As for the class.
        """
        rows, _ = indices("rows", rows, shape[0])
        columns, _ = indices("columns", columns, shape[1])
        (values,), kind = tensors(values, names=("values",))
        if not rows.shape == columns.shape == values.shape:
            raise InvalidInputError(
                f"rows, columns and values must be equally long; got {len(rows)}, {len(columns)} and {len(values)}."
            )
        made = cls.__new__(cls)
        rows, columns = rows.to(values.device), columns.to(values.device)
        made._fill(rows, columns, values, shape, symmetric, posdef, kind, "values")
        return made.check_flags() if check else made

    def _scipy(self, values=None):
        """The matrix in SciPy, sharing the values."""
        values = self.values if values is None else values
        place = (self._row_index.cpu().numpy(), self._column_index.cpu().numpy())
        return scipy.sparse.csr_array((values.detach().cpu().numpy(), place), shape=self.shape)

    def _apply(self, X):
        return _SparseProduct.apply(self, False, self.values, X)

    def _apply_adjoint(self, X):
        return _SparseProduct.apply(self, True, self.values, X)

    def _multiply(self, X, adjoint):
        """The product without a graph."""
        flat = X.movedim(-2, 0).reshape(X.shape[-2], -1)
        if X.device.type == "cpu":
            A = self._cached("scipy", self._scipy)
            Y = torch.from_numpy(np.ascontiguousarray((A.conj().T if adjoint else A) @ flat.resolve_conj().numpy()))
        else:
            dtype = torch.promote_types(self.dtype, X.dtype)
            A = torch.sparse_coo_tensor(
                torch.stack([self._row_index, self._column_index]), self.values.to(dtype), self.shape
            )
            Y = torch.sparse.mm(A.conj().t() if adjoint else A, flat.to(dtype))
        return Y.reshape(-1, *X.shape[:-2], X.shape[-1]).movedim(0, -2)

    def _diag(self):
        on = self._row_index == self._column_index
        zeros = self.values.new_zeros(min(self.shape))
        return zeros.index_add(0, self._row_index[on], self.values[on])

    def _to_dense(self):
        flat = self.values.new_zeros(self.shape[0] * self.shape[1])
        return flat.index_add(0, self._row_index * self.shape[1] + self._column_index, self.values).reshape(self.shape)

    def _direct(self):
        if self.device.type != "cpu" or self.shape[0] > _LU_SIZE:
            return None
        return f"sparse LU (SuperLU), n={self.shape[0]}, {len(self.values)} entries"

    def _factor(self):
        return self._cached("factor", lambda: _SparseFactor(self._scipy(), self.symmetric, self.device))

    def _solve_direct(self, B, adjoint):
        return self._factor().solve(B, adjoint)

    def _condition(self):
        return self._cached("condition", lambda: self._factor().condition())

    def _preconditioner(self):
        from sciml.linalg.operators.algebra import Inverse
        from sciml.linalg.operators.diagonal import Diagonal

        d = self._diag().detach()
        return Inverse(Diagonal(d)) if bool((d.abs() > 0).all()) and (d.is_complex() or bool((d > 0).all())) else None


class _SparseProduct(torch.autograd.Function):
    """A X or A^H X by code of SciPy; gradients by the values are taken entry by entry."""

    @staticmethod
    def forward(ctx, A, adjoint, values, X):
        ctx.A, ctx.adjoint = A, adjoint
        ctx.save_for_backward(values, X)
        return A._multiply(X.detach(), adjoint)

    @staticmethod
    def backward(ctx, G):
        A, (values, X) = ctx.A, ctx.saved_tensors
        by_X = _SparseProduct.apply(A, not ctx.adjoint, values, G) if ctx.needs_input_grad[3] else None
        by_values = None
        if ctx.needs_input_grad[2]:
            # Y_i = sum a_ij X_j, or Y_j = sum conj(a_ij) X_i
            left, right = (X, G) if ctx.adjoint else (G, X)
            by_values = (left[..., A._row_index, :] * right[..., A._column_index, :].conj()).sum(-1)
            by_values = by_values.reshape(-1, len(values)).sum(0)
            by_values = by_values if values.is_complex() else by_values.real if by_values.is_complex() else by_values
        if by_X is not None and by_X.is_complex() and not X.is_complex():
            by_X = by_X.real
        return None, None, by_values, by_X


class _SparseFactor:
    """SuperLU in float64, with rows and columns ordered against fill-in."""

    def __init__(self, A, symmetric, device):
        self._device = device
        self.n = A.shape[0]
        A = A.tocsc().astype(np.complex128 if A.dtype.kind == "c" else np.float64)
        self._norm = scipy.sparse.linalg.norm(A, 1) if A.nnz else 0.0
        order = "MMD_AT_PLUS_A" if symmetric else "COLAMD"
        try:
            self.lu = scipy.sparse.linalg.splu(A, permc_spec=order, options={"SymmetricMode": bool(symmetric)})
        except RuntimeError as error:
            if "singular" not in str(error):
                raise
            raise InvalidInputError(
                "A must be invertible; its sparse LU met a pivot that is exactly zero, so it is singular. Remove "
                "dependent rows, or ask for a least-squares solution: sciml.linalg.lsmr(A, b)."
            ) from None
        self._complex = A.dtype.kind == "c"

    def solve(self, B, adjoint=False):
        flat = B.movedim(-2, 0).reshape(self.n, -1)
        if flat.is_complex() and not self._complex:
            X = torch.complex(self._solve(flat.real, adjoint), self._solve(flat.imag, adjoint))
        else:
            X = self._solve(flat, adjoint)
        return X.to(B.dtype).reshape(self.n, *B.shape[:-2], B.shape[-1]).movedim(0, -2).to(B.device)

    def _solve(self, flat, adjoint):
        right = flat.cpu().resolve_conj().numpy().astype(np.complex128 if self._complex else np.float64)
        return torch.from_numpy(np.ascontiguousarray(self.lu.solve(right, "H" if adjoint else "N")))

    def condition(self):
        dtype = torch.complex128 if self._complex else torch.float64
        like = torch.empty(self.n, 0, dtype=dtype)
        return self._norm * float(inverse_norm(self.solve, lambda B: self.solve(B, True), like)) if self.n else 1.0

    def slogdet(self):
        d = torch.from_numpy(np.ascontiguousarray(self.lu.U.diagonal()))
        sign = torch.sgn(d).prod() * parity(self.lu.perm_r) * parity(self.lu.perm_c)
        return sign.to(self._device), d.abs().log().sum().to(self._device)
