r"""A matrix of low rank plus a diagonal, :math:`U C U^H + D`, solved by Woodbury's identity.

Notation  U (n, k), C (k, k) Hermitian, C = L L^H where it is positive definite; D (n,) the diagonal;
          W = U L; K = I + W^H D^{-1} W the capacitance, positive definite with D > 0;
          (W W^H + D)^{-1} = D^{-1} - D^{-1} W K^{-1} W^H D^{-1}; det = det K det D.
Cost      n k a product or solve, n k^2 once.
Pitfalls  where the diagonal is small beside U C U^H the two terms of the identity cancel: the error grows with the
          condition of K. Beyond 1 / sqrt(eps) conjugate gradients take over, preconditioned by an orthogonal
          projection; the dense matrix would be worse, since the diagonal drowns in it. A zero on the diagonal forbids
          the identity.

References
----------
M. Woodbury, Inverting modified matrices, 1950. N. Higham, Accuracy and stability of numerical algorithms, 2002.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators.base import LinearOperator
from sciml.linalg.operators.dense import Dense, tensors
from sciml.linalg.operators.diagonal import Diagonal, ScaledIdentity
from sciml.linalg.operators.direct import DenseFactor
from sciml.linalg.operators.implicit import exact_slogdet


class LowRank(LinearOperator):
    """U C U^H plus a diagonal.

    Parameters
    ----------
    U : array, shape (..., n, k)
        Tall; leading axes are a batch.
    C : array or None, shape (..., k, k)
        Hermitian; None (the default) is the identity.
    diagonal : float, array of shape (..., n), or None
        D; None (the default) is none at all, and then there is no solve.
    posdef : bool or None
        Claim. None (the default): it is if D is positive and C is, which its Cholesky factorisation tells.

    Examples
    --------
    >>> import numpy as np
    >>> A = LowRank(np.ones((3, 1)), diagonal=1.0)
    >>> A.solve(np.array([4.0, 4.0, 4.0])), A.logdet().round(4)
    (array([1., 1., 1.]), np.float64(1.3863))
    """

    _fields = ("U", "C", "diagonal")

    def __init__(self, U, C=None, *, diagonal=None, posdef=None):
        (U, C, d), kind = tensors(U, C, diagonal, names=("U", "C", "diagonal"))
        if U.ndim < 2:
            raise InvalidInputError(
                f"U must have shape (..., n, k); got {tuple(U.shape)}. Pass one column as U[:, None]."
            )
        n, k = U.shape[-2:]
        if C is not None and C.shape[-2:] != (k, k):
            raise InvalidInputError(f"C must have shape (..., {k}, {k}) beside U; got {tuple(C.shape)}.")
        if d is not None:
            d = d[..., None].expand(*d.shape, n) if d.ndim == 0 else d
            if d.shape[-1] != n:
                raise InvalidInputError(f"diagonal must be a number or have shape (..., {n}); got {tuple(d.shape)}.")
        if k and C is not None and not torch.allclose(C, C.mH, rtol=1e-5, atol=1e-5 * float(C.detach().abs().max())):
            raise InvalidInputError("C must equal its conjugate transpose; it does not. Use Dense(U) @ Dense(C) @ ...")
        self.U, self.C, self.diagonal = U, C, d
        positive = d is not None and not d.is_complex() and bool((d > 0).all())
        self._core_posdef = C is None or bool((torch.linalg.cholesky_ex(C.detach())[1] == 0).all())
        batch = torch.broadcast_shapes(*(t.shape[:-i] for t, i in ((U, 2), (C, 2), (d, 1)) if t is not None))
        super().__init__(
            (n, n),
            dtype=U.dtype,
            device=U.device,
            batch_shape=batch,
            symmetric=d is None or not d.is_complex(),
            posdef=(positive and self._core_posdef) if posdef is None else posdef,
            kind=kind,
        )

    def _apply(self, X):
        dtype = torch.promote_types(self.dtype, X.dtype)
        Y = self.U.mH.to(dtype) @ X.to(dtype)
        Y = self.U.to(dtype) @ (Y if self.C is None else self.C.to(dtype) @ Y)
        return Y if self.diagonal is None else Y + self.diagonal[..., :, None] * X

    def _apply_adjoint(self, X):
        # U C U^H is Hermitian; only a complex diagonal differs.
        Y = self._apply(X)
        if self.symmetric:
            return Y
        return Y + (self.diagonal.conj() - self.diagonal)[..., :, None] * X

    def _diag(self):
        UC = self.U if self.C is None else self.U @ self.C
        d = (UC * self.U.conj()).sum(-1)
        return d if self.diagonal is None else d + self.diagonal

    def _left(self):
        """W = U L, or U where C is not positive definite."""
        if self.C is None or not self._core_posdef:
            return self.U
        return self.U @ torch.linalg.cholesky((self.C + self.C.mH) / 2)

    def _capacitance(self):
        """K of the identity, differentiable; with W = U it is I + C U^H D^{-1} U, not Hermitian."""
        W = self._left()
        G = W.mH @ (W / self.diagonal[..., :, None])
        if self.C is not None and not self._core_posdef:
            G = self.C @ G
        return torch.eye(G.shape[-1], dtype=G.dtype, device=G.device) + G

    def _factor_of_capacitance(self):
        def compute():
            K = self._capacitance()
            return self._left(), DenseFactor(K, posdef=self.posdef and self._core_posdef, name="the capacitance")

        return self._cached("capacitance", compute)

    def _capacitance_condition(self):
        return self._cached("condition", lambda: float(torch.linalg.cond(self._capacitance(), 1).max()))

    def _woodbury(self, B, adjoint=False):
        W, K = self._factor_of_capacitance()
        d = (self.diagonal.conj() if adjoint else self.diagonal)[..., :, None]
        Z = W.mH @ (B / d)
        if self.C is None or self._core_posdef:
            return B / d - (W @ K.solve(Z, adjoint)) / d
        # U (I + C G)^{-1} C U^H, whose adjoint is U C (I + C G)^{-H} U^H
        Z = self.C @ K.solve(Z, adjoint) if adjoint else K.solve(self.C @ Z)
        return B / d - (W @ Z) / d

    def _has_identity(self):
        return self.diagonal is not None and bool((self.diagonal != 0).all())

    @property
    def _dense_size(self):
        return 0 if self._has_identity() else LinearOperator._dense_size

    def _direct(self):
        if not self._has_identity():
            return None
        condition = self._capacitance_condition()
        if self.posdef and condition > torch.finfo(self.dtype).eps ** -0.5:
            return None
        return f"Woodbury, rank {self.U.shape[-1]}, capacitance of condition {condition:.0e}"

    def _solve_direct(self, B, adjoint):
        return self._woodbury(B.to(torch.promote_types(B.dtype, self.dtype)), adjoint)

    def _condition(self):
        return self._capacitance_condition()

    def _preconditioner(self):
        if not (self._has_identity() and self.posdef and self._core_posdef):
            return None
        return self._cached("preconditioner", lambda: _Projected(self))

    def _logdet_direct(self):
        if not self._has_identity():
            return None
        d = self.diagonal
        if self._capacitance_condition() > torch.finfo(self.dtype).eps ** -0.5:
            # K has eigenvalues near one beside huge ones, whose rounding would swamp them.
            if not (self.posdef and self._core_posdef):
                return None
            S = torch.linalg.svdvals(self._left() / d.sqrt()[..., :, None])
            return torch.ones_like(S[..., 0], dtype=self.dtype), (S**2).log1p().sum(-1) + d.log().sum(-1)
        hermitian = self._core_posdef and not d.is_complex()
        K = Dense(self._capacitance(), symmetric=hermitian, posdef=hermitian and self.posdef)
        sign, value = exact_slogdet(K)
        return sign * torch.sgn(d).prod(-1), value + d.abs().log().sum(-1)

    def _plus(self, other):
        if not isinstance(other, (Diagonal, ScaledIdentity)) or other.shape != self.shape:
            return None
        d = other._diag() if self.diagonal is None else self.diagonal + other._diag()
        result = LowRank(self.U, self.C, diagonal=d)
        result.kind = "torch" if "torch" in (self.kind, other.kind) else "numpy"
        return result


class _Projected(LinearOperator):
    """The inverse by an orthonormal basis Q of D^{-1/2} W = Q S P^H: D^{-1/2} (I - Q S^2 / (1 + S^2) Q^H) D^{-1/2}.

    It costs a factorisation of a tall matrix, and stays positive definite where Woodbury's identity does not.
    """

    name = "orthogonal projection"

    def __init__(self, A):
        self._root = A.diagonal.sqrt()[..., :, None]
        Q, R = torch.linalg.qr(A._left() / self._root)
        U, S, _ = torch.linalg.svd(R)
        self._Q, self._S = Q @ U, S[..., :, None]
        super().__init__(A.shape, dtype=A.dtype, device=A.device, batch_shape=A.batch_shape, posdef=True)

    def _apply(self, X):
        X = X / self._root
        inside = self._Q.mH @ X
        outside = X - self._Q @ inside
        # What rounding left inside would swamp the small part there: project twice.
        outside = outside - self._Q @ (self._Q.mH @ outside)
        return (outside + self._Q @ (inside / (1 + self._S**2))) / self._root
