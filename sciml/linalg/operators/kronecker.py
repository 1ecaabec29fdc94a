r"""Kronecker products and sums, with a multiple of the identity: solved in the eigenbases of the factors.

.. math:: A_1 \otimes \dots \otimes A_d + s I, \qquad \sum_k I \otimes A_k \otimes I + s I.

Notation  A_k (n_k, n_k) factors, n = n_1 ... n_d; A_k = U_k diag(l_k) U_k^H; a vector of n entries is an array
          (n_1, ..., n_d) in C order; D (n_1, ..., n_d) the eigenvalues, prod l_k + s or sum l_k + s.
Cost      a product or solve sum n_k * n; the eigenvalue problems sum n_k^3, once.
Pitfalls  non-symmetric factors have no orthogonal eigenbasis: a product of them is solved factor by factor, which a
          shift forbids; a sum of two by Bartels and Stewart's reduction (Sylvester's equation).
          Second derivatives through eigenvectors divide by differences of eigenvalues, which repeat for every product
          of equal factors; the gradient of logdet is therefore written with inverses of the factors.

References
----------
R. Lynch, J. Rice, D. Thomas, Direct solution of partial difference equations by tensor product methods, 1964.
"""

import math

import scipy.linalg
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators.algebra import _common
from sciml.linalg.operators.base import LinearOperator, as_operator
from sciml.linalg.operators.dense import Dense, tensors
from sciml.linalg.operators.diagonal import ScaledIdentity
from sciml.linalg.operators.direct import direct_reason, direct_solve, part_condition, refuse_zero
from sciml.linalg.operators.implicit import exact_slogdet


def _factors(given, square):
    """Return the factors as operators; an array that is Hermitian entry by entry is marked so."""
    if not given:
        raise InvalidInputError("factors must hold at least one matrix; nothing came. Pass them one after the other.")
    found = []
    for k, A in enumerate(given):
        A = as_operator(A, name=f"factor {k}")
        if type(A) is Dense and not A.symmetric and A.shape[0] == A.shape[1] and torch.equal(A.A, A.A.mH):
            A.symmetric = True
        if square and A.shape[0] != A.shape[1]:
            raise InvalidInputError(f"factor {k} must be square here; got shape {A.shape}. Drop the shift.")
        found.append(A)
    return tuple(found)


def along_axes(maps, X, sizes):
    """Apply one map to each axis of the columns of X.

    Parameters
    ----------
    maps : sequence of callable
        map k takes tensors (..., n_k, q) to (..., m_k, q).
    X : Tensor, shape (..., n_1 ... n_d, r)
        Columns, each an array (n_1, ..., n_d) in C order.
    sizes : sequence of int
        The n_k.

    Returns
    -------
    Tensor, shape (..., m_1 ... m_d, r)

    Examples
    --------
    >>> X = torch.arange(4.0)[:, None]
    >>> along_axes([lambda x: x.flip(-2), lambda x: x], X, (2, 2))[:, 0]
    tensor([2., 3., 0., 1.])
    """
    # The leading axis is mapped and sent to the end, so every map is one product of matrices.
    r = X.shape[-1]
    for apply, n in zip(maps, sizes, strict=True):
        X = X.reshape(*X.shape[:-2], n, -1) if X.numel() else X.new_zeros(*X.shape[:-2], n, 0)
        X = apply(X).mT
        X = X.reshape(*X.shape[:-2], -1, 1)
    return X.reshape(*X.shape[:-2], r, -1).mT


class _Spectral(LinearOperator):
    """What products and sums share: the solve in the eigenbases of symmetric factors."""

    _fields = ("factors", "shift")

    def __init__(self, factors, shift, posdef):
        shift = 0.0 if shift is None else shift
        (s,), kind = tensors(shift, names=("shift",))
        if s.ndim:
            raise InvalidInputError(f"shift must be a number; got shape {tuple(s.shape)}. Pass one number.")
        common = _common(factors)
        if not s.is_complex():
            real = torch.empty(0, dtype=common["dtype"]).real.dtype
            s = s.to(dtype=s.dtype if kind == "torch" and s.requires_grad else real)
        common["dtype"] = torch.promote_types(common["dtype"], s.dtype) if s.is_complex() else common["dtype"]
        common["kind"] = "torch" if "torch" in (kind, common["kind"]) else "numpy"
        # A factor of shorter precision would spoil the solution of the whole.
        eps = torch.finfo(common["dtype"]).eps
        factors = [A if torch.finfo(A.dtype).eps == eps else A.to(common["dtype"]) for A in factors]
        self.factors, self.shift = tuple(factors), s.to(common["device"])
        self._shifted = bool(s != 0) or s.requires_grad
        symmetric = all(A.symmetric for A in factors) and not s.is_complex()
        shape = tuple(math.prod(A.shape[i] for A in factors) for i in (0, 1))
        super().__init__(shape, symmetric=symmetric, posdef=symmetric and posdef, **common)

    def _sizes(self, i):
        return tuple(A.shape[i] for A in self.factors)

    def _bases(self):
        return self._cached("bases", lambda: [eigenbasis(A) for A in self.factors])

    def _combine(self, spectra):
        """Eigenvalues of the whole, flat (..., n), from those of the factors (..., n_k)."""
        raise NotImplementedError

    def _eigenvalues(self):
        def compute():
            D = self._combine([basis.values for basis in self._bases()])
            size = D.abs().amax(-1, keepdim=True)
            # Rounding of the factors' eigenvalues makes an exact zero a small number.
            lost = D.abs() <= 4 * torch.finfo(D.dtype).eps * size
            if bool(lost.any()):
                raise InvalidInputError(
                    f"A must be invertible; {int(lost.sum())} of its {D.shape[-1]} eigenvalues vanish to rounding, so "
                    "it is singular. Add a shift, or ask for a least-squares solution: sciml.linalg.lsmr(A, b)."
                )
            return D

        return self._cached("eigenvalues", compute)

    def _solve_spectral(self, B):
        bases, sizes = self._bases(), self._sizes(0)
        D = self._eigenvalues()
        Z = along_axes([basis.analyse for basis in bases], B, sizes) / D[..., :, None]
        X = along_axes([basis.synthesise for basis in bases], Z, sizes)
        return X.real if X.is_complex() and not B.is_complex() else X

    def _spectral_condition(self):
        def compute():
            size = self._eigenvalues().abs()
            return float((size.amax(-1) / size.amin(-1)).max())

        return self._cached("condition", compute)

    def _spectral_logdet(self):
        """Sign and log |det|; the gradient by `_SpectralLogdet`."""
        D = self._eigenvalues()
        sign = torch.sgn(D).prod(-1)
        dense = [A._to_dense() for A in self.factors]
        value = _SpectralLogdet.apply(self, D.abs().log().sum(-1), self.shift, *dense)
        return sign, value


class Kronecker(_Spectral):
    r"""The Kronecker product of matrices, plus a multiple of the identity.

    Parameters
    ----------
    *factors : array or operator, shape (..., m_k, n_k)
        One after the other; an array that equals its conjugate transpose is marked as symmetric.
    shift : float or tensor
        s; 0 by default.
    posdef : bool or None
        Claim that the whole is positive definite. None (the default): it is if all factors are and s >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> K = Kronecker(A, A, shift=1.0)
    >>> K.diag(), K.logdet().round(4)
    (array([5., 5., 5., 5.]), np.float64(5.7683))
    """

    def __init__(self, *factors, shift=0.0, posdef=None):
        shifted = not isinstance(shift, (int, float)) or shift != 0
        factors = _factors(factors, square=shifted)
        if posdef is None:
            posdef = all(A.posdef for A in factors) and _sign(shift) >= 0
        super().__init__(factors, shift, posdef)

    def _apply(self, X):
        Y = along_axes([A._matmat for A in self.factors], X, self._sizes(1))
        return Y + self.shift * X if self._shifted else Y

    def _apply_adjoint(self, X):
        Y = along_axes([A._rmatmat for A in self.factors], X, self._sizes(0))
        return Y + self.shift.conj() * X if self._shifted else Y

    def _to_dense(self):
        dense = self.factors[0]._to_dense()
        for A in self.factors[1:]:
            B = A._to_dense()
            dense = dense[..., :, None, :, None] * B[..., None, :, None, :]
            m, p, n, q = dense.shape[-4:]
            dense = dense.reshape(*dense.shape[:-4], m * p, n * q)
        return (
            dense + self.shift * torch.eye(*self.shape, dtype=dense.dtype, device=self.device)
            if self._shifted
            else dense
        )

    def _diag(self):
        if any(A.shape[0] != A.shape[1] for A in self.factors):
            return super()._diag()
        return self._combine([A._diag() for A in self.factors])

    def _combine(self, spectra):
        return _outer(spectra, torch.mul) + self.shift

    def _direct(self):
        if not self._shifted:
            reasons = [direct_reason(A) if A.shape[0] == A.shape[1] else None for A in self.factors]
            return None if None in reasons else "factor by factor: " + "; ".join(reasons)
        if self.symmetric and all(A.shape[0] == A.shape[1] for A in self.factors):
            return f"eigenbases of the factors {' x '.join(map(str, self._sizes(0)))}"
        return None

    def _solve_direct(self, B, adjoint):
        if self._shifted:
            return self._solve_spectral(B)
        maps = [lambda X, A=A: direct_solve(A, X, adjoint) for A in self.factors]
        return along_axes(maps, B, self._sizes(0))

    def _condition(self):
        if self._shifted:
            return self._spectral_condition()
        found = [part_condition(A) for A in self.factors]
        return None if None in found else math.prod(found)

    def _logdet_direct(self):
        if self._direct() is None:
            return None
        if self._shifted:
            return self._spectral_logdet()
        n, sign, value = self.shape[0], 1.0, 0.0
        for A in self.factors:
            part = exact_slogdet(A)
            if part is None:
                return None
            power = n // A.shape[0]
            sign, value = sign * part[0] ** power, value + power * part[1]
        return sign, value

    def _plus(self, other):
        if not isinstance(other, ScaledIdentity) or other.shape != self.shape or other.batch_shape:
            return None
        result = Kronecker(*self.factors, shift=self.shift + other.c)
        result.kind = "torch" if "torch" in (self.kind, other.kind) else "numpy"
        return result


class KroneckerSum(_Spectral):
    r"""The Kronecker sum :math:`A_1 \otimes I + I \otimes A_2`, and so on for more factors, plus a multiple of I.

    Parameters
    ----------
    *factors : array or operator, shape (..., n_k, n_k)
        Square; an array that equals its conjugate transpose is marked as symmetric.
    shift : float or tensor
        s; 0 by default.
    posdef : bool or None
        Claim that the whole is positive definite. None (the default): it is if all factors are and s >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> KroneckerSum(np.diag([1.0, 2.0]), np.diag([10.0, 20.0])).diag()
    array([11., 21., 12., 22.])
    """

    def __init__(self, *factors, shift=0.0, posdef=None):
        factors = _factors(factors, square=True)
        if posdef is None:
            # A semidefinite factor, such as a Laplacian without boundary values, is made definite by the rest.
            half = all(A.posdef or getattr(A, "semidefinite", False) for A in factors)
            posdef = half and _sign(shift) + any(A.posdef for A in factors) > 0 and _sign(shift) >= 0
        super().__init__(factors, shift, posdef)

    def _sum_along(self, X, word):
        sizes = self._sizes(0)
        total = (self.shift if word == "_matmat" else self.shift.conj()) * X if self._shifted else 0
        for k, A in enumerate(self.factors):
            before, after = math.prod(sizes[:k]), math.prod(sizes[k + 1 :])
            Y = X.reshape(*X.shape[:-2], before, sizes[k], after * X.shape[-1])
            Y = _over_middle(getattr(A, word), Y) if A.batch_shape else getattr(A, word)(Y)
            total = total + Y.reshape(*Y.shape[:-3], X.shape[-2], X.shape[-1])
        return total

    def _apply(self, X):
        return self._sum_along(X, "_matmat")

    def _apply_adjoint(self, X):
        return self._sum_along(X, "_rmatmat")

    def _diag(self):
        return self._combine([A._diag() for A in self.factors])

    def _combine(self, spectra):
        return _outer(spectra, torch.add) + self.shift

    def _sylvester(self):
        return len(self.factors) == 2 and not self.batch_shape

    def _direct(self):
        if self.symmetric:
            names = {type(A).__name__ for A in self.factors}
            how = "fast sine, cosine or Fourier transforms" if names == {"SecondDifference"} else "eigenbases"
            return f"{how} of the factors {' x '.join(map(str, self._sizes(0)))}"
        return "Bartels and Stewart's reduction of Sylvester's equation" if self._sylvester() else None

    def _solve_direct(self, B, adjoint):
        return self._solve_spectral(B) if self.symmetric else self._solve_sylvester(B, adjoint)

    def _refuse_common_eigenvalues(self):
        """Sylvester's equation is singular where an eigenvalue of A_1 + s is minus one of A_2."""

        def compute():
            first, second = (torch.linalg.eigvals(A._to_dense()) for A in self.factors)
            D = (first + self.shift)[:, None] + second
            lost = D.abs() <= 4 * torch.finfo(D.dtype).eps * (first.abs().max() + second.abs().max())
            refuse_zero("sum of eigenvalues", (~lost).flatten().to(self.dtype))
            return True

        return self._cached("solvable", compute)

    def _solve_sylvester(self, B, adjoint):
        # A_1 X + X A_2^T = C for each column as an array (n_1, n_2)
        self._refuse_common_eigenvalues()
        first, second = (A._to_dense().detach() for A in self.factors)
        eye = torch.eye(first.shape[0], dtype=first.dtype, device=self.device)
        left, right = first + self.shift.detach() * eye, second
        left, right = (left.mH, right.conj()) if adjoint else (left, right.mT)
        left, right = left.cpu().resolve_conj().numpy(), right.cpu().resolve_conj().numpy()
        flat = B.movedim(-1, 0).reshape(-1, *self._sizes(0)).cpu().resolve_conj().numpy()
        X = [torch.from_numpy(scipy.linalg.solve_sylvester(left, right, C)) for C in flat]
        return torch.stack(X).reshape(B.shape[-1], *B.shape[:-1]).movedim(0, -1).to(B.device, B.dtype)

    def _condition(self):
        return self._spectral_condition() if self.symmetric else None

    def _logdet_direct(self):
        return self._spectral_logdet() if self.symmetric else None

    def _plus(self, other):
        if not isinstance(other, ScaledIdentity) or other.shape != self.shape or other.batch_shape:
            return None
        result = KroneckerSum(*self.factors, shift=self.shift + other.c)
        result.kind = "torch" if "torch" in (self.kind, other.kind) else "numpy"
        return result


def _sign(shift):
    """1, 0 or -1; -1 for a complex shift, of which no definiteness follows."""
    s = torch.as_tensor(shift).detach()
    return -1 if s.is_complex() else int(torch.sgn(s))


def _over_middle(apply, Y):
    """Apply a batched map to the middle axis of Y (*batch, before, n, q)."""
    before, q = Y.shape[-3], Y.shape[-1]
    Z = apply(Y.movedim(-3, -1).reshape(*Y.shape[:-3], Y.shape[-2], q * before))
    return Z.reshape(*Z.shape[:-1], q, before).movedim(-1, -3)


def _outer(vectors, combine):
    """All combinations of the entries of vectors (..., n_k), flat in C order."""
    total = vectors[0]
    for v in vectors[1:]:
        total = combine(total[..., :, None], v[..., None, :])
        total = total.reshape(*total.shape[:-2], -1)
    return total


class _DenseBasis:
    """Eigenvalues and eigenvectors of a Hermitian matrix (..., n, n)."""

    def __init__(self, A):
        dense = A._to_dense()
        self.values, self._U = torch.linalg.eigh((dense + dense.mH) / 2)

    def analyse(self, X):
        dtype = torch.promote_types(self._U.dtype, X.dtype)
        return self._U.mH.to(dtype) @ X.to(dtype)

    def synthesise(self, Z):
        dtype = torch.promote_types(self._U.dtype, Z.dtype)
        return self._U.to(dtype) @ Z.to(dtype)


def eigenbasis(A):
    """Return the eigenvalues of a symmetric operator with the maps to and from its eigenvectors.

    Parameters
    ----------
    A : LinearOperator
        Symmetric; its own fast basis is taken where it has one.

    Returns
    -------
    object
        With ``values`` (..., n), ``analyse(X)`` = U^H X and ``synthesise(Z)`` = U Z.

    Examples
    --------
    >>> from sciml.linalg.operators import Dense
    >>> eigenbasis(Dense(torch.diag(torch.tensor([3.0, 1.0])), symmetric=True)).values
    tensor([1., 3.])
    """
    own = getattr(A, "_eigenbasis", None)
    return own() if own is not None else _DenseBasis(A)


class _SpectralLogdet(torch.autograd.Function):
    """sum log |D|. By a factor the gradient is U diag(g) U^H, g the derivative of the sum by its eigenvalues."""

    @staticmethod
    def forward(ctx, A, value, shift, *dense):
        ctx.A = A
        ctx.save_for_backward(shift, *dense)
        return value.clone()

    @staticmethod
    def backward(ctx, G):
        shift, *dense = ctx.saved_tensors
        product = isinstance(ctx.A, Kronecker)
        spectra = [torch.linalg.eigvalsh(M) for M in dense]
        whole = _outer(spectra, torch.mul if product else torch.add) + shift
        by_shift = _sum_to((1 / whole).sum(-1) * G, shift) if ctx.needs_input_grad[2] else None
        gradients = []
        for k, M in enumerate(dense):
            others = spectra[:k] + spectra[k + 1 :]
            if not ctx.needs_input_grad[3 + k]:
                gradients.append(None)
                continue
            if others:
                rest = _outer(others, torch.mul if product else torch.add)
            else:
                rest = spectra[0].new_ones(1) if product else spectra[0].new_zeros(1)
            by_factor = _partial_trace(M, rest, shift, product)
            gradients.append(_sum_to(by_factor * G[..., None, None], M))
        return None, None, by_shift, *gradients


def _partial_trace(M, rest, shift, product):
    """sum_j p_j (p_j M + s I)^{-1} for a product, sum_j (M + (p_j + s) I)^{-1} for a sum.

    Without a graph by the eigenvectors of M; with one by inverses, which have second derivatives where eigenvalues
    repeat.
    """
    if not torch.is_grad_enabled():
        values, U = torch.linalg.eigh(M)
        whole = values[..., :, None] * rest[..., None, :] if product else values[..., :, None] + rest[..., None, :]
        g = ((rest[..., None, :] if product else 1.0) / (whole + shift)).sum(-1)
        return (U * g[..., None, :]) @ U.mH
    p = rest[..., :, None, None]
    eye = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
    M = M[..., None, :, :]
    return (p * torch.linalg.inv(p * M + shift * eye) if product else torch.linalg.inv(M + (p + shift) * eye)).sum(-3)


def _sum_to(gradient, like):
    """Sum the axes over which `like` was broadcast."""
    extra = gradient.ndim - like.ndim
    gradient = gradient.sum(tuple(range(extra))) if extra > 0 else gradient
    axes = tuple(i for i, n in enumerate(like.shape) if n == 1 and gradient.shape[i] != 1)
    return gradient.sum(axes, keepdim=True) if axes else gradient
