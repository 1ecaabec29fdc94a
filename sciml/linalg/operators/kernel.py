r"""Kernel matrices plus a diagonal, :math:`k(y_i, x_j) + d_i \delta_{ij}`, of any size.

Notation  y (m, d), x (n, d) points; k the kernel; diag (n,) the diagonal, a noise variance say.
Cost      m n evaluations a product, no memory; n^3 / 3 for a Cholesky factorisation up to n = 8000; beyond it
          conjugate gradients with a Nystrom or pivoted Cholesky preconditioner.
Pitfalls  equal points without a diagonal make equal rows, hence a singular matrix: they are refused with their indices.
          A smooth kernel is singular to rounding even for distinct points; the warning about the condition tells.
"""

import copy

import torch

from sciml.exceptions import InvalidInputError
from sciml.kernels.base import Kernel
from sciml.linalg import memory
from sciml.linalg.engines import kernel_matrix, kernel_sum
from sciml.linalg.operators.base import LinearOperator
from sciml.linalg.operators.dense import tensors
from sciml.linalg.operators.diagonal import Diagonal, ScaledIdentity
from sciml.linalg.operators.direct import dense_factor
from sciml.linalg.operators.function import transposed
from sciml.validation import check_option

# Up to this size a kernel matrix is factorised.
_CHOLESKY_SIZE = 8000
# The share of the memory budget that a dense matrix may take to serve several products.
_SHARE = 0.25
_CHUNK = 64
_MANY = 50


class KernelOperator(LinearOperator):
    """The matrix of a kernel between points, plus a diagonal.

    Parameters
    ----------
    x : array, shape (n, d)
        Column points.
    kernel : sciml.kernels.Kernel or callable
        As for :func:`sciml.linalg.kernel_sum`.
    y : array, shape (m, d), or None
        Row points; None (the default) takes `x`, which makes the matrix symmetric.
    diagonal : float, array of shape (n,), or None
        Added to the diagonal, not negative; None (the default) adds nothing. Only without `y`.
    params : dict or None
        Keyword arguments of a callable kernel; None (the default) for none.
    engine : {"auto", "dense", "eager", "compiled", "keops"}
        For products; "auto" by default.
    posdef : bool or None
        Claim. None (the default): without `y`, kernels of sciml.kernels are positive definite, callables are not
        known to be.
    cache : {"auto", "always", "never"}
        Keep the dense matrix for products. "auto" (the default) does so from the second product on if it fits into a
        quarter of the memory budget, and only with engine="auto".

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or the diagonal is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.kernels import Gaussian
    >>> K = KernelOperator(np.array([[0.0], [1.0]]), Gaussian(lengthscale=1.0), diagonal=0.5)
    >>> K.to_dense().round(4)
    array([[1.5   , 0.6065],
           [0.6065, 1.5   ]])
    >>> K.solve(np.array([1.0, 1.0])).round(4)
    array([0.4747, 0.4747])
    """

    _fields = ("x", "y", "_theta", "diagonal")
    _dense_size = 0

    def __init__(self, x, kernel, y=None, *, diagonal=None, params=None, engine="auto", posdef=None, cache="auto"):
        (x, y, d), kind = tensors(x, y, diagonal, names=("x", "y", "diagonal"))
        for name, points in (("x", x), ("y", y)):
            if points is not None and (points.ndim != 2 or points.is_complex()):
                raise InvalidInputError(
                    f"{name} must be real points of shape (n, d); got shape {tuple(points.shape)}. For points on a "
                    f"line pass {name}[:, None]."
                )
        if d is not None:
            d = _checked_diagonal(d, y, x.shape[0])
        self._engine = check_option("engine", engine, ("auto", "dense", "eager", "compiled", "keops"))
        self._keep = check_option("cache", cache, ("auto", "always", "never"))
        self._kernel, self._params = kernel, dict(params or {})
        self.x, self.y, self.diagonal = x, y, d
        self._theta = tuple(_tensors_of(kernel, self._params))
        self._products = 0
        kind = "torch" if any(t.requires_grad for t in self._theta) else kind
        known = isinstance(kernel, Kernel)
        posdef = (known and y is None) if posdef is None else posdef
        super().__init__(
            ((x if y is None else y).shape[0], x.shape[0]),
            dtype=x.dtype,
            device=x.device,
            symmetric=y is None and (known or posdef),
            posdef=posdef,
            kind=kind,
        )

    def _function(self):
        """The kernel and the params of a callable, with the present parameters."""
        queue = list(self._theta)
        kernel = _rebuilt(self._kernel, queue)
        params = {key: queue.pop(0) if isinstance(v, torch.Tensor) else v for key, v in self._params.items()}
        return {"kernel": kernel, "params": params or None}

    def _row_points(self):
        return self.x if self.y is None else self.y

    def _sum(self, y, x, X):
        if X.numel() == 0 or 0 in self.shape:
            return X.new_zeros(*X.shape[:-2], y.shape[0], X.shape[-1])
        # Who multiplies twice is likely to iterate, so that compiling pays.
        expected = 1 if self._products < 2 else _MANY
        return kernel_sum(y, x, X, engine=self._engine, products=expected, check_finite=False, **self._function())

    def _kept(self):
        """The dense matrix without the diagonal where it is worth keeping, else None."""
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            return None
        self._products += 1
        wanted = self._keep == "always" or (
            self._keep == "auto" and self._engine == "auto" and self._products > 1 and self._fits(_SHARE)
        )
        return (
            self._cached("dense", lambda: kernel_matrix(self._row_points(), self.x, **self._function()))
            if wanted
            else None
        )

    def _fits(self, share):
        needed = self.shape[0] * self.shape[1] * self.x.element_size()
        return needed <= share * memory.budget(device=self.device)

    def _apply(self, X):
        K = self._kept()
        Y = self._sum(self._row_points(), self.x, X) if K is None else _multiply(K, X)
        return Y if self.diagonal is None else Y + self.diagonal[:, None] * X

    def _apply_adjoint(self, X):
        if self.symmetric:
            return self._apply(X)
        K = self._kept()
        if K is not None:
            Y = _multiply(K.mT, X)
        elif isinstance(self._kernel, Kernel):
            Y = self._sum(self.x, self._row_points(), X)
        else:
            Y = transposed(lambda u: self._sum(self._row_points(), self.x, u), X, self.shape[1], self.dtype)
        return Y if self.diagonal is None else Y + self.diagonal[:, None] * X

    def _rows(self, start, stop):
        K = kernel_matrix(self._row_points()[start:stop], self.x, **self._function())
        if self.diagonal is None:
            return K
        return K + torch.nn.functional.pad(torch.diag(self.diagonal[start:stop]), (start, self.shape[1] - stop))

    def _to_dense(self):
        K = kernel_matrix(self._row_points(), self.x, **self._function())
        return K if self.diagonal is None else K + torch.diag(self.diagonal)

    def _diag(self):
        n, f = min(self.shape), self._function()
        y, x = self._row_points(), self.x
        if self.y is None and isinstance(self._kernel, Kernel):
            d = f["kernel"].diag(x)
        else:
            blocks = [
                kernel_matrix(y[i : i + _CHUNK][: n - i], x[i : i + _CHUNK][: n - i], **f) for i in range(0, n, _CHUNK)
            ]
            d = torch.cat([torch.diagonal(K) for K in blocks])
        return d if self.diagonal is None else d + self.diagonal

    def _refuse_equal_points(self):
        """Equal points with a zero diagonal make equal rows."""

        def compute():
            bare = torch.arange(len(self.x), device=self.device)
            if self.diagonal is not None:
                bare = bare[self.diagonal == 0]
            _, group, count = torch.unique(self.x[bare], dim=0, return_inverse=True, return_counts=True)
            if bool((count > 1).any()):
                first = int((count > 1).nonzero()[0])
                i, j = (int(k) for k in bare[group == first][:2])
                raise InvalidInputError(
                    f"x must hold distinct points where the diagonal is zero; rows {i} and {j} are equal, so A is "
                    "singular. Pass diagonal=, the variance of the noise, or merge equal points."
                )
            return True

        return self._cached("distinct", compute)

    def _direct(self):
        if self.symmetric:
            self._refuse_equal_points()
        if self.shape[0] > _CHOLESKY_SIZE or not self._fits(1 / 3):
            return None
        return f"{'Cholesky' if self.posdef else 'LU'} of the kernel matrix, n={self.shape[0]}"

    def _solve_direct(self, B, adjoint):
        return dense_factor(self).solve(B, adjoint)

    def _logdet_direct(self):
        if self.symmetric:
            self._refuse_equal_points()

    def _condition(self):
        return self._cached("condition", lambda: dense_factor(self).condition())

    def _preconditioner(self):
        from sciml.linalg.krylov import nystrom

        if not self.posdef or self.diagonal is None or not bool((self.diagonal > 0).all()):
            return None
        return self._cached("preconditioner", lambda: nystrom(self, float(self.diagonal.min()), random_state=0))

    def _plus(self, other):
        if not isinstance(other, (Diagonal, ScaledIdentity)) or other.shape != self.shape or self.y is not None:
            return None
        if not other.posdef or other.batch_shape:
            return None
        result = copy.copy(self)
        result._cache, result._count = {}, [0]
        result.diagonal = other._diag() if self.diagonal is None else self.diagonal + other._diag()
        result.kind = "torch" if "torch" in (self.kind, other.kind) else "numpy"
        return result


def _multiply(K, X):
    dtype = torch.promote_types(K.dtype, X.dtype)
    return K.to(dtype) @ X.to(dtype)


def _checked_diagonal(d, y, n):
    if y is not None:
        raise InvalidInputError("diagonal must be left out where y is given; a cross matrix has no noise. Drop it.")
    d = d.expand(n) if d.ndim == 0 else d
    if d.shape != (n,):
        raise InvalidInputError(f"diagonal must be a number or have shape ({n},); got {tuple(d.shape)}.")
    if bool((d < 0).any()):
        i = int((d < 0).nonzero()[0])
        raise InvalidInputError(f"diagonal must not be negative; entry {i} is {float(d[i]):.3g}. Pass variances.")
    return d


def _parts(kernel):
    """The kernels that a sum, product or multiple is made of, by attribute."""
    return {name: part for name, part in vars(kernel).items() if isinstance(part, Kernel)}


def _tensors_of(kernel, params):
    if isinstance(kernel, Kernel):
        yield from (value for value in kernel._given.values() if isinstance(value, torch.Tensor))
        for part in _parts(kernel).values():
            yield from _tensors_of(part, {})
    yield from (value for value in params.values() if isinstance(value, torch.Tensor))


def _rebuilt(kernel, queue):
    """The same kernel with its tensors taken from the queue, in the order of `_tensors_of`."""
    if not isinstance(kernel, Kernel):
        return kernel
    other = copy.copy(kernel)
    other._given = {key: queue.pop(0) if isinstance(v, torch.Tensor) else v for key, v in kernel._given.items()}
    for name, part in _parts(kernel).items():
        setattr(other, name, _rebuilt(part, queue))
    return other
