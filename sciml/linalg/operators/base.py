"""Linear operators: matrices known by what they do, with products, solves and determinants that have derivatives.

Notation  A (m, n) the matrix, after batch axes that broadcast; X (..., n, r) columns; A^H the conjugate transpose.
          A subclass gives `_apply(X)` and `_apply_adjoint(X)`, names in `_fields` the attributes (tensors, operators or
          tuples of them) that it is made of, and, where it can do better than a dense matrix or a Krylov method,
          `_solve_direct`, `_logdet_direct`, `_diag` and so on. These get and return tensors and check nothing.
Pitfalls  an operator shares memory with the arrays that it was made of. Factorisations are kept; an array changed in
          place by torch is noticed and factorised anew, one changed by NumPy is not: make a new operator.
"""

import copy
import math
import numbers

import numpy as np
import torch

from sciml.exceptions import BackendMismatchError, InvalidInputError, InvalidTypeError, NotPositiveDefiniteError
from sciml.linalg.arrays import enter
from sciml.random import generator, normal
from sciml.validation import check_option


class LinearOperator:
    r"""A matrix known by its products with vectors.

    Subclasses state the structure; users make one of them, or call :func:`as_operator`. With arrays,
    ``A @ x`` follows the rules of NumPy's ``@``: x is ``(n,)`` or ``(..., n, r)``, batch axes broadcast.

    Parameters
    ----------
    shape : tuple of int
        (m, n), without batch axes.
    dtype : torch.dtype
        float32, float64, complex64 or complex128.
    device : str or torch.device
        Where its tensors lie; the CPU by default.
    batch_shape : tuple of int
        Leading axes; none by default.
    symmetric, posdef : bool
        Claims: Hermitian, and positive definite (which implies Hermitian). False, the default, means unknown.
    triangular : {None, "lower", "upper"}
        Claim of a triangle; None by default.
    kind : {"torch", "numpy"}
        What :meth:`to_dense`, :meth:`diag` and the like return; torch by default.

    Attributes
    ----------
    shape, dtype, device, batch_shape, symmetric, posdef, triangular, kind
        As given.

    Examples
    --------
    >>> from sciml.linalg.operators import Diagonal
    >>> A = Diagonal(np.array([1.0, 2.0]))
    >>> (2 * A + A.T) @ np.ones(2)
    array([3., 6.])
    """

    _fields: tuple = ()
    # Up to this size a matrix without a direct method of its own is formed and factorised.
    _dense_size = 1024
    __array_ufunc__ = None  # so that NumPy leaves `array @ operator` and `number * operator` to us

    def __init__(
        self,
        shape,
        *,
        dtype,
        device="cpu",
        batch_shape=(),
        symmetric=False,
        posdef=False,
        triangular=None,
        kind="torch",
    ):
        self.shape = tuple(int(s) for s in shape)
        self.dtype, self.device = dtype, torch.device(device)
        self.batch_shape = tuple(batch_shape)
        self.symmetric, self.posdef, self.triangular = bool(symmetric or posdef), bool(posdef), triangular
        self.kind = kind
        self._count = [0]  # a list, so that copies with other parameters count together
        self._cache = {}
        if (self.symmetric or self.posdef) and self.shape[0] != self.shape[1]:
            raise InvalidInputError(
                f"A must be square to be symmetric or posdef; got shape {self.shape}. Drop the flag."
            )

    def __repr__(self):
        batch = f" batch={self.batch_shape}" if self.batch_shape else ""
        flags = "".join(f" {word}" for word in ("posdef", "symmetric") if getattr(self, word))
        return f"<{type(self).__name__} {self.shape[0]}x{self.shape[1]}{batch} {str(self.dtype)[6:]}{flags}>"

    def __getstate__(self):
        # Factorisations of SciPy do not travel to other processes; they are made again there.
        return self.__dict__ | {"_cache": {}}

    # ------------------------------------------------------------ what subclasses give

    def _apply(self, X):
        raise NotImplementedError(f"{type(self).__name__} has no product")

    def _apply_adjoint(self, X):
        if self.symmetric:
            return self._apply(X)
        raise InvalidInputError(
            f"{type(self).__name__} has no adjoint product. Give rmatvec, or say symmetric=True if that holds."
        )

    def _matmat(self, X):
        """A X for tensors, without checks, differentiable in X and in the parameters."""
        self._count[0] += X.shape[-1] if X.ndim > 1 else 1
        return self._apply(X)

    def _rmatmat(self, X):
        """A^H X for tensors, without checks, differentiable."""
        self._count[0] += X.shape[-1] if X.ndim > 1 else 1
        return self._apply_adjoint(X)

    # ------------------------------------------------------------ parameters

    def parameters(self):
        """Return the tensors that the operator is made of, in a fixed order: a tuple."""
        found = []
        for name in self._fields:
            _gather(getattr(self, name), found)
        return tuple(found)

    def _with(self, tensors):
        """Return the same operator made of other tensors, in the order of `parameters`; without caches."""
        other = copy.copy(self)
        other._cache = {}
        queue = list(tensors)
        for name in self._fields:
            setattr(other, name, _refill(getattr(self, name), queue))
        dtypes = [t.dtype for t in tensors if t.is_floating_point() or t.is_complex()]
        for dtype in dtypes:
            other.dtype = torch.promote_types(dtypes[0], dtype)
        return other

    def to(self, dtype):
        """Return the same operator in another precision.

        Parameters
        ----------
        dtype : torch.dtype
            float32 or float64; a complex operator takes the complex dtype of that precision.

        Raises
        ------
        InvalidInputError
            If a callable computes in a precision of its own.
        """
        long = dtype in (torch.float64, torch.complex128)
        real, complex_ = (torch.float64, torch.complex128) if long else (torch.float32, torch.complex64)

        def cast(p):
            return p.to(complex_) if p.is_complex() else p.to(real) if p.is_floating_point() else p

        other = self._with([cast(p) for p in self.parameters()])
        other.dtype = complex_ if self.dtype.is_complex else real
        return other

    def _cached(self, key, compute):
        """Return compute(), kept until a parameter changes in place; computed without a graph."""
        versions = tuple(p._version for p in self.parameters())
        kept = self._cache.get(key)
        if kept is None or kept[0] != versions:
            with torch.no_grad():
                kept = self._cache[key] = (versions, compute())
        return kept[1]

    # ------------------------------------------------------------ products with arrays

    @property
    def matvec_count(self):
        """Products with one vector so far, adjoint ones included."""
        return self._count[0]

    def _enter(self, x, name, rows):
        """Return x as a tensor (..., rows, r) of the common dtype, and the way back."""
        known = x if isinstance(x, torch.Tensor) else None
        (X,), leave = enter(x, names=(name,), device=None if known is not None else str(self.device))
        if X.device != self.device:
            raise BackendMismatchError(
                f"{name} must be on the device of the operator, {self.device}; got {X.device}. Move it by .to(device)."
            )
        own = getattr(x, "dtype", None)
        floating = own is not None and (X.is_complex() or str(own).rpartition(".")[2].startswith("float"))
        X = X.to(torch.promote_types(X.dtype, self.dtype) if floating else self.dtype)
        is_vector = X.ndim == 1
        if X.ndim == 0 or X.shape[0 if is_vector else -2] != rows:
            raise InvalidInputError(
                f"{name} must have shape ({rows},) or (..., {rows}, r) for an operator of shape {self.shape}; got "
                f"{tuple(X.shape)}. Several vectors are the columns of one array."
            )
        try:
            torch.broadcast_shapes(self.batch_shape, X.shape[:-2])
        except RuntimeError:
            raise InvalidInputError(
                f"{name} must have batch axes that broadcast with {self.batch_shape}; got shape {tuple(X.shape)}. "
                "Put the batch axes first."
            ) from None
        if is_vector:
            return X[:, None], lambda Y: leave(Y[..., 0])
        return X, leave

    def _leave(self, tensor):
        """Return a tensor in the kind of the operator."""
        return tensor if self.kind == "torch" else tensor.detach().cpu().resolve_conj().numpy()[()]

    def matvec(self, x):
        """Return A x, in the kind, dtype and device of x.

        Parameters
        ----------
        x : array, shape (n,) or (..., n, r)
            One vector, or the columns of a matrix.
        """
        X, leave = self._enter(x, "x", self.shape[1])
        return leave(self._matmat(X))

    def rmatvec(self, x):
        """Return A^H x, in the kind, dtype and device of x.

        Parameters
        ----------
        x : array, shape (m,) or (..., m, r)
            One vector, or the columns of a matrix.
        """
        X, leave = self._enter(x, "x", self.shape[0])
        return leave(self._rmatmat(X))

    def __matmul__(self, other):
        if isinstance(other, LinearOperator):
            from sciml.linalg.operators.algebra import product

            return product(self, other)
        return self.matvec(other)

    def __rmatmul__(self, x):
        """x A for an array x of shape (m,) or (..., r, m)."""
        swap = (lambda a: a) if np.ndim(x) == 1 else (lambda a: a.swapaxes(-1, -2))
        return swap(self.T.matvec(swap(x)))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        # torch.Tensor.__matmul__ and its kin would otherwise refuse an operator before asking it.
        name = getattr(func, "__name__", "")
        left, right = (*args, None, None)[:2]
        if name in ("matmul", "__matmul__", "__rmatmul__") and isinstance(right, LinearOperator):
            return right.__rmatmul__(left)
        if name in ("mul", "__mul__", "__rmul__") and isinstance(right, LinearOperator):
            return right * left
        if name in ("mul", "__mul__", "__rmul__") and isinstance(left, LinearOperator):
            return left * right
        return NotImplemented

    # ------------------------------------------------------------ algebra

    @property
    def T(self):
        """The transpose, an operator."""
        if self.symmetric and not self.dtype.is_complex:
            return self
        from sciml.linalg.operators.algebra import Transpose

        return Transpose(self)

    @property
    def H(self):
        """The conjugate transpose, an operator."""
        if self.symmetric:
            return self
        from sciml.linalg.operators.algebra import Transpose

        return Transpose(self, conjugate=True)

    def __add__(self, other):
        from sciml.linalg.operators.algebra import total

        return total(self, as_operator(other, "other", like=self))

    __radd__ = __add__

    def __sub__(self, other):
        return self + (-1) * as_operator(other, "other", like=self)

    def __rsub__(self, other):
        return (-1) * self + other

    def __mul__(self, factor):
        from sciml.linalg.operators.algebra import scaled

        return scaled(self, factor)

    __rmul__ = __mul__

    def __truediv__(self, factor):
        return self * (1 / factor)

    def __neg__(self):
        return self * -1

    # ------------------------------------------------------------ entries

    def _to_dense(self):
        eye = torch.eye(self.shape[1], dtype=self.dtype, device=self.device)
        return self._matmat(eye).expand(*self.batch_shape, *self.shape)

    def to_dense(self):
        """Return the matrix, shape ``(*batch_shape, m, n)``, differentiable.

        Raises
        ------
        MemoryBudgetError
            If it would take more memory than configured.
        """
        from sciml.linalg.operators.direct import require_dense

        require_dense(self, copies=1)
        return self._leave(self._to_dense())

    def _rows(self, start, stop):
        """Rows start to stop as a dense matrix (..., stop - start, n), differentiable."""
        E = unit_vectors(self, start, stop, rows=True)
        return self._rmatmat(E).mH.expand(*self.batch_shape, stop - start, self.shape[1])

    def _diag(self):
        size = min(self.shape)
        parts = []
        for start in range(0, size, _BLOCK):
            stop = min(start + _BLOCK, size)
            eye = unit_vectors(self, start, stop)
            parts.append(torch.diagonal(self._matmat(eye)[..., start:stop, :], dim1=-2, dim2=-1))
        return torch.cat(parts, -1) if parts else torch.zeros(0, dtype=self.dtype, device=self.device)

    def diag(self):
        """Return the diagonal, shape ``(*batch_shape, min(m, n))``; without structure it costs n products."""
        return self._leave(self._diag())

    def _trace(self):
        return self._diag().sum(-1)

    def trace(self):
        """Return the sum of the diagonal, shape batch_shape; differentiable, exact."""
        self._require_square("trace")
        return self._leave(self._trace())

    # ------------------------------------------------------------ solve and determinant

    def _require_square(self, what):
        m, n = self.shape
        if m != n:
            raise InvalidInputError(
                f"{what} needs a square matrix; got shape {self.shape}. For the least-squares solution of a "
                "rectangular system use sciml.linalg.lsmr(A, b)."
            )

    # What a subclass can do without iterations: None, or the reason in words.
    def _direct(self):
        return None

    def _solve_direct(self, B, adjoint):
        """A^{-1} B, or A^{-H} B if adjoint, without a graph."""
        raise NotImplementedError

    def _condition(self):
        """An estimate of the condition number from the factorisation, or None."""

    def _logdet_direct(self):
        """(sign, log |det A|), differentiable; None where there is no formula."""

    def _plus(self, other):
        """Return self + other in closed form, or None."""

    def _preconditioner(self):
        """What Krylov methods are given where the user gives nothing: an operator, or None."""

    def solve(self, b, *, method="auto", tol=None, max_iter=None, M=None, on_failure=None):
        r"""Return :math:`A^{-1} b`; :meth:`solve_run` tells how it was found.

        Derivatives come from the implicit function theorem: with :math:`x = A^{-1} b` and a gradient g,
        :math:`w = A^{-H} g` is the gradient by b and :math:`-\langle w, (\partial A / \partial \theta) x \rangle` that
        by a parameter, found by the same method and to the same tolerance; second derivatives work alike.

        Parameters
        ----------
        b : array, shape (n,) or (..., n, r)
            Right sides, in the columns.
        method : {"auto", "direct", "krylov"}
            "auto" (the default) takes the direct method of the structure where there is one, the dense matrix up to
            n = 1024, else a Krylov method: cg if posdef, minres if symmetric, gmres.
        tol : float or None
            For Krylov methods: bound on ``norm(b - A x) / norm(b)``; None (the default) is their own default, 1e-8, and
            1e-5 in float32. A smaller one may give an answer in float64.
        max_iter : int or None
            For Krylov methods; None (the default) is their own default.
        M : operator, preconditioner or None
            Approximate inverse for Krylov methods; None (the default) lets the operator choose.
        on_failure : {"warn", "raise", "ignore"} or None
            When a Krylov method misses its tolerance; None (the default) asks the configuration.

        Returns
        -------
        array, shape of b
            In the kind and device of b.

        Raises
        ------
        InvalidInputError
            If A is not square or is singular, or b does not fit.
        NotPositiveDefiniteError
            If a factorisation finds that A, claimed to be positive definite, is not.

        Warns
        -----
        ConditioningWarning
            If rounding may have taken all but three digits of the answer.
        """
        run = self.solve_run(b, method=method, tol=tol, max_iter=max_iter, M=M, on_failure=on_failure)
        return run.value

    def solve_run(self, b, *, method="auto", tol=None, max_iter=None, M=None, on_failure=None):
        """Return A^{-1} b with the story of how it was found.

        Parameters
        ----------
        b, method, tol, max_iter, M, on_failure
            As in :meth:`solve`.

        Returns
        -------
        sciml.linalg.krylov.SolveRun
            ``value`` x, ``converged``, the recomputed ``residual`` relative to b, ``n_iter``, ``engine``, ``device``,
            ``condition`` where an estimate was at hand, ``reason`` of the end, ``choices`` made and why.
        """
        from sciml.linalg.operators.implicit import Options, solve_run

        self._require_square("solve")
        check_option("method", method, ("auto", "direct", "krylov"))
        B, leave = self._enter(b, "b", self.shape[0])
        return solve_run(self, B, leave, Options(method, tol, max_iter, M, on_failure))

    def slogdet(self, *, method="auto", n_probes=16, random_state=0):
        """Return the sign (a unit number if complex) and the logarithm of the modulus of the determinant.

        Parameters
        ----------
        method, n_probes, random_state
            As in :meth:`logdet`.

        Returns
        -------
        sign, logabsdet : arrays or numbers, shape batch_shape
            Both 0 and -inf cannot come: a singular matrix raises.
        """
        from sciml.linalg.operators.implicit import slogdet

        self._require_square("slogdet")
        check_option("method", method, ("auto", "exact", "stochastic"))
        sign, value = slogdet(self, method, n_probes, random_state)
        return self._leave(sign), self._leave(value)

    def logdet(self, *, method="auto", n_probes=16, random_state=0):
        r"""Return :math:`\log \det A`, differentiable, shape batch_shape.

        Exact by the formula of the structure, and by a dense factorisation up to n = 8000. Beyond that, for positive
        definite operators, by stochastic Lanczos quadrature, whose error falls like one over the square root of
        ``n_probes`` and whose derivative is of first order only; :func:`sciml.linalg.stochastic_logdet` gives its
        standard error, which :func:`sciml.trace` shows, too.

        Parameters
        ----------
        method : {"auto", "exact", "stochastic"}
            As above for "auto" (the default).
        n_probes : int
            Random vectors of the stochastic way; 16 by default.
        random_state : None, int or numpy.random.Generator
            Of these vectors; 0 by default, so that an optimiser sees a smooth function.

        Returns
        -------
        array or number, shape batch_shape

        Raises
        ------
        InvalidInputError
            If A is not square or is singular, or its determinant is negative or complex: use :meth:`slogdet`.
        """
        sign, value = self.slogdet(method=method, n_probes=n_probes, random_state=random_state)
        wrong = torch.as_tensor(sign) - 1
        if bool((wrong.abs() > 1e-6).any()):
            raise InvalidInputError(f"A must have a positive determinant for logdet; its sign is {sign}. Use slogdet.")
        return value

    # ------------------------------------------------------------ claims

    def check_flags(self, *, n_trials=3, random_state=0):
        """Test the claims symmetric, posdef and triangular on random vectors; return the operator.

        Parameters
        ----------
        n_trials : int
            Random pairs of vectors; 3 by default. A wrong symmetry is missed with probability zero, an indefinite
            matrix whose negative part is small may be missed: a factorisation notices it.
        random_state : None, int or numpy.random.Generator
            0 by default.

        Raises
        ------
        InvalidInputError
            If a claim does not hold.
        """
        rng = generator(random_state)
        m, n = self.shape
        with torch.no_grad():
            X, Y = _draw(self, rng, n, n_trials), _draw(self, rng, m, n_trials)
            AX = self._matmat(X)
            slack = 100 * torch.finfo(self.dtype).eps * math.sqrt(max(m, n, 1))
            if self.symmetric:
                self._check_symmetry(X, Y, AX, slack)
            if self.posdef:
                self._check_definiteness(X, AX)
            if self.triangular is not None:
                self._check_triangle(X, AX, slack)
        return self

    def _check_symmetry(self, X, Y, AX, slack):
        AY = self._matmat(Y)
        left, right = _dots(Y, AX), _dots(X, AY).conj()
        scale = _norms(AX) * _norms(Y) + _norms(X) * _norms(AY)
        worst = float(((left - right).abs() / scale.clamp_min(torch.finfo(scale.dtype).tiny)).max())
        if worst > slack:
            raise InvalidInputError(
                f"A must equal its conjugate transpose, as symmetric=True claims; <y, A x> and <A y, x> differ by "
                f"{worst:.1e} of their size. Drop the flag, or symmetrise A."
            )

    def _check_definiteness(self, X, AX):
        values = _dots(X, AX).real / _dots(X, X).real
        smallest = float(values.min())
        if smallest <= 0:
            raise NotPositiveDefiniteError(
                f"A must be positive definite, as posdef=True claims; <x, A x> / <x, x> = {smallest:.3g} for a random "
                "x. Drop the flag.",
                smallest=smallest,
            )

    def _check_triangle(self, X, AX, slack):
        # The first half of the rows of a lower triangle does not see the second half of x.
        cut = self.shape[1] // 2
        other = X.clone()
        seen = slice(0, cut) if self.triangular == "lower" else slice(cut, None)
        hidden = slice(cut, None) if self.triangular == "lower" else slice(0, cut)
        other[..., hidden, :] = 0
        change = _norms((self._matmat(other) - AX)[..., seen, :])
        if bool((change > slack * _norms(AX)).any()):
            raise InvalidInputError(
                f"A must be a {self.triangular} triangle, as triangular={self.triangular!r} claims; entries on the "
                "other side act. Drop the flag, or use torch.tril or torch.triu."
            )

    # ------------------------------------------------------------ adapters

    def as_scipy(self):
        """Return a `scipy.sparse.linalg.LinearOperator` on the CPU, for SciPy's solvers; no batch axes.

        Raises
        ------
        InvalidInputError
            If the operator has batch axes.
        """
        from sciml.linalg.operators.function import to_scipy

        return to_scipy(self)

    @staticmethod
    def from_scipy(A):
        """Return an operator that calls a SciPy (or pylops) one.

        Parameters
        ----------
        A : scipy.sparse.linalg.LinearOperator
            With an adjoint product, if derivatives or solves of non-symmetric systems are wanted.

        Returns
        -------
        LinearOperator
            Differentiable in the vectors that it is applied to.
        """
        from sciml.linalg.operators.function import from_scipy

        return from_scipy(A)


# Columns of the identity that are sent through an operator at once.
_BLOCK = 256


def as_operator(A, name="A", like=None, *, symmetric=False, posdef=False):
    """Return anything that acts as a matrix as a :class:`LinearOperator`.

    Parameters
    ----------
    A : operator, array, sparse matrix, SciPy operator or callable
        A LinearOperator is returned as it is. A callable takes and returns one vector ``(n,)`` in the kind of `like`.
    name : str
        The argument's name, for messages; "A" by default.
    like : array, LinearOperator or None
        For a callable: the right side, whose length, kind and dtype it has. None (the default) refuses callables.
    symmetric, posdef : bool
        Claims about arrays, sparse matrices, SciPy operators and callables; False by default.

    Returns
    -------
    LinearOperator

    Raises
    ------
    InvalidTypeError
        If `A` is nothing of the above.

    Examples
    --------
    >>> as_operator(np.eye(3), posdef=True)
    <Dense 3x3 float64 posdef symmetric>
    >>> as_operator(lambda x: 2 * x, like=np.ones(3)) @ np.ones(3)
    array([2., 2., 2.])
    """
    from sciml.linalg.operators import dense, function, sparse

    flags = {"symmetric": symmetric, "posdef": posdef}
    if isinstance(A, LinearOperator):
        return A
    if type(A).__module__.startswith("scipy.sparse") and hasattr(A, "tocsr"):
        return sparse.Sparse(A, name=name, **flags)
    if isinstance(A, torch.Tensor) and A.layout is not torch.strided:
        return sparse.Sparse(A, name=name, **flags)
    if isinstance(A, (np.ndarray, torch.Tensor, list, tuple)) or type(A).__module__.startswith("xarray"):
        return dense.Dense(A, name=name, **flags)
    if hasattr(A, "matvec") and hasattr(A, "shape"):
        return function.from_scipy(A, **flags)
    if callable(A) and isinstance(like, (np.ndarray, torch.Tensor)):
        return function.from_callable(A, like, **flags)
    if isinstance(A, numbers.Number):
        hint = "Write A * number, or add ScaledIdentity(n, number)."
    else:
        hint = "Pass an array, a sparse matrix, an operator, or a callable with the right side as `like`."
    raise InvalidTypeError(f"{name} must act as a matrix; got {type(A).__name__}. {hint}")


def unit_vectors(A, start, stop, rows=False):
    """Columns start to stop of the identity of the size of A's columns (of its rows if `rows`)."""
    E = torch.zeros(A.shape[0 if rows else 1], stop - start, dtype=A.dtype, device=A.device)
    E[start:stop].fill_diagonal_(1)
    return E


def _gather(value, found):
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, LinearOperator):
        found.extend(value.parameters())
    elif isinstance(value, (tuple, list)):
        for item in value:
            _gather(item, found)


def _refill(value, queue):
    if isinstance(value, torch.Tensor):
        return queue.pop(0)
    if isinstance(value, LinearOperator):
        n = len(value.parameters())
        own, queue[:n] = queue[:n], []
        return value._with(own)
    if isinstance(value, (tuple, list)):
        return type(value)([_refill(item, queue) for item in value])
    return value


def _draw(A, rng, rows, columns):
    """Standard normal columns in the operator's dtype and device."""
    real = torch.empty(0, dtype=A.dtype).real.dtype
    draw = normal(rng, (rows, columns), device=A.device, dtype=real)
    return (
        torch.complex(draw, normal(rng, (rows, columns), device=A.device, dtype=real)) if A.dtype.is_complex else draw
    )


def _dots(X, Y):
    return (X.conj() * Y).sum(-2)


def _norms(X):
    return torch.linalg.vector_norm(X, dim=-2)
