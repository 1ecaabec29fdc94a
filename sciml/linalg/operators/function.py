"""Operators given by callables, and the adapters to and from SciPy.

Notation  A (m, n); callables take and return one vector, or all columns at once (`columns="all"`).
Pitfalls  a wrong adjoint shows only as an iteration that does not converge: it is tested on random vectors when the
          operator is made. What calls NumPy is differentiable in its argument through the adjoint, since it is linear.
"""

import numpy as np
import scipy.sparse.linalg
import torch

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.linalg.operators.base import LinearOperator, _dots, _draw, _norms
from sciml.random import generator
from sciml.validation import check_option

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}


class Function(LinearOperator):
    """A matrix given by its product as a callable.

    Parameters
    ----------
    matvec : callable
        ``matvec(x, *parameters)`` returns A x, shape (m,) for x of shape (n,); linear in x.
    shape : tuple of int
        (m, n).
    rmatvec : callable or None
        ``rmatvec(y, *parameters)`` returns A^H y. None (the default) takes `matvec` for symmetric operators and
        derives it from `matvec` by automatic differentiation if `kind` is "torch".
    parameters : sequence of tensors
        What A depends on, handed to the callables, differentiable; a tensor that the callable holds by itself gets no
        gradient from `solve` and `logdet`. Empty by default.
    kind : {"torch", "numpy"}
        Arrays that the callables take and return; torch by default.
    columns : {"one", "all"}
        "one" (the default) calls once for each column; "all" hands over the columns together as an array
        (..., n, r).
    dtype : str, numpy.dtype or torch.dtype
        float64 by default.
    device : str or torch.device
        The CPU by default.
    symmetric, posdef : bool
        Claims, as for :class:`LinearOperator`; False by default.
    check : bool
        Test the adjoint and the claims on random vectors; True by default, at the cost of a few products.

    Raises
    ------
    InvalidInputError
        If the adjoint does not belong to the product, or a claim does not hold.

    Examples
    --------
    >>> A = Function(lambda x: x.flip(0), (3, 3), symmetric=True)
    >>> A @ np.array([1.0, 2.0, 3.0])
    array([3., 2., 1.])
    """

    _fields = ("_parameters",)

    def __init__(
        self,
        matvec,
        shape,
        rmatvec=None,
        *,
        parameters=(),
        kind="torch",
        columns="one",
        dtype="float64",
        device="cpu",
        symmetric=False,
        posdef=False,
        check=True,
    ):
        for name, call in (("matvec", matvec), ("rmatvec", rmatvec)):
            if not callable(call) and (name == "matvec" or call is not None):
                raise InvalidTypeError(f"{name} must be callable; got {type(call).__name__}. Pass a function.")
        self._forward, self._backward = matvec, rmatvec
        self._parameters = tuple(parameters)
        self._columns = check_option("columns", columns, ("one", "all"))
        check_option("kind", kind, ("torch", "numpy"))
        dtype = _torch_dtype(dtype)
        super().__init__(shape, dtype=dtype, device=device, symmetric=symmetric, posdef=posdef, kind=kind)
        if check:
            _check_adjoint(self)
            self.check_flags()

    def _run(self, call, X, rows):
        """Call a callable on columns, checking the shape of what returns; a real one gets real columns."""
        if X.is_complex() and not self.dtype.is_complex:
            return self._run(call, X.real, rows) + 1j * self._run(call, X.imag, rows)
        if self._columns == "all":
            Y = self._convert(call(self._hand_over(X), *self._parameters), X)
            wanted = (*X.shape[:-2], rows, X.shape[-1])
        else:
            flat = X.movedim(-1, 0).reshape(-1, X.shape[-2])  # batches and columns, one vector each
            parts = [self._convert(call(self._hand_over(x), *self._parameters), X) for x in flat]
            Y = torch.stack(parts) if parts else X.new_zeros(0, rows)
            if Y.shape == (len(flat), rows):
                Y = Y.reshape(X.shape[-1], *X.shape[:-2], rows).movedim(0, -1)
            wanted = (*X.shape[:-2], rows, X.shape[-1])
        if Y.shape != wanted:
            raise InvalidInputError(
                f"matvec must return shape ({rows},) for each vector; got {tuple(Y.shape)} in place of {wanted}. "
                "Check shape, or set columns='all' for a callable of matrices."
            )
        return Y

    def _hand_over(self, X):
        return X if self.kind == "torch" else X.detach().cpu().numpy()

    def _convert(self, Y, X):
        if self.kind == "torch" and not isinstance(Y, torch.Tensor):
            raise InvalidTypeError(
                f"matvec must return a tensor; got {type(Y).__name__}. Set kind='numpy' for a callable of NumPy arrays."
            )
        return Y if self.kind == "torch" else torch.as_tensor(np.asarray(Y)).to(device=X.device)

    def to(self, dtype):
        """Return the operator itself; a callable computes in the precision that it was written for.

        Parameters
        ----------
        dtype : torch.dtype
            The dtype that it has.
        """
        if dtype != self.dtype:
            raise InvalidInputError(
                f"A is a callable of {str(self.dtype)[6:]} and cannot be had in {dtype}. Make it in that dtype."
            )
        return self

    def _adjoint_call(self):
        if self._backward is not None:
            return self._backward
        return self._forward if self.symmetric else None

    def _apply(self, X):
        if self.kind == "numpy":
            return _Linear.apply(self, False, X)
        return self._run(self._forward, X, self.shape[0])

    def _apply_adjoint(self, X):
        call = self._adjoint_call()
        if call is None and self.kind == "numpy":
            raise InvalidInputError(
                "A has no adjoint product, which this needs. Give rmatvec, or say symmetric=True if that holds."
            )
        if self.kind == "numpy":
            return _Linear.apply(self, True, X)
        return self._run(call, X, self.shape[1]) if call else self._derived_adjoint(X)

    def _derived_adjoint(self, X):
        return transposed(lambda u: self._run(self._forward, u, self.shape[0]), X, self.shape[1], self.dtype)


def transposed(product, X, n, dtype):
    """Return A^H X for a differentiable product with A, as the gradient of Re <X, A u> by u.

    Parameters
    ----------
    product : callable
        Takes tensors (..., n, r) to A u.
    X : Tensor, shape (..., m, r)
        Columns.
    n : int
        Columns of A.
    dtype : torch.dtype
        Of A.

    Returns
    -------
    Tensor, shape (..., n, r)
        Differentiable.

    Examples
    --------
    >>> transposed(lambda u: 2 * u, torch.ones(3, 1), 3, torch.float32)[0]
    tensor([2.])
    """
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        dtype = torch.promote_types(X.dtype, dtype)
        # The product is linear, so the point at which it is differentiated does not matter.
        u = torch.zeros(*X.shape[:-2], n, X.shape[-1], dtype=dtype, device=X.device, requires_grad=True)
        (back,) = torch.autograd.grad(product(u), u, X.to(dtype), create_graph=graph)
    return back


class _Linear(torch.autograd.Function):
    """A product by code that torch cannot see into; its derivative is the adjoint product."""

    @staticmethod
    def forward(ctx, A, adjoint, X):
        ctx.A, ctx.adjoint = A, adjoint
        return A._run(A._adjoint_call() if adjoint else A._forward, X, A.shape[1] if adjoint else A.shape[0])

    @staticmethod
    def backward(ctx, G):
        A = ctx.A
        return None, None, (A._apply(G) if ctx.adjoint else A._apply_adjoint(G))


def _check_adjoint(A):
    """Test <y, A x> = <A^H y, x> where there is an adjoint."""
    if A._adjoint_call() is None:
        return
    rng = generator(0)
    with torch.no_grad():
        X, Y = _draw(A, rng, A.shape[1], 2), _draw(A, rng, A.shape[0], 2)
        AX, AY = A._apply(X), A._apply_adjoint(Y)
    scale = _norms(AX) * _norms(Y) + _norms(X) * _norms(AY)
    gap = (_dots(Y, AX) - _dots(AY, X)).abs()
    # Callables may work in float32 inside; a wrong adjoint misses by about one.
    if bool((gap > 1e-4 * scale).any()):
        raise InvalidInputError(
            f"rmatvec must be the adjoint of matvec; <y, A x> and <A^H y, x> differ by "
            f"{float((gap / scale).max()):.1e} of their size on random vectors. For complex operators conjugate."
        )


def _torch_dtype(dtype):
    word = getattr(dtype, "__name__", None) or str(np.dtype(dtype) if not isinstance(dtype, torch.dtype) else dtype)
    word = word.rpartition(".")[2]
    if word not in _DTYPES:
        raise InvalidInputError(f"dtype must be one of {', '.join(_DTYPES)}; got {dtype!r}. Choose one of them.")
    return _DTYPES[word]


def from_callable(call, like, *, symmetric=False, posdef=False):
    """Return a callable as a square operator that fits the right side `like`.

    Parameters
    ----------
    call : callable
        Takes and returns vectors of the kind of `like`, or blocks of columns (n, r) if `like` is one.
    like : ndarray or tensor, shape (n,) or (n, r)
        The right side.
    symmetric, posdef : bool
        Claims; False by default.

    Returns
    -------
    Function

    Examples
    --------
    >>> from_callable(lambda x: 3 * x, np.ones(2)).shape
    (2, 2)
    """
    n = like.shape[0] if like.ndim == 1 else like.shape[-2]
    columns = "one" if like.ndim == 1 else "all"
    kind = "torch" if isinstance(like, torch.Tensor) else "numpy"
    word = str(like.dtype).rpartition(".")[2]
    dtype = word if word in _DTYPES else "float64"
    device = like.device if kind == "torch" else "cpu"
    flags = {"symmetric": symmetric, "posdef": posdef}
    return Function(call, (n, n), kind=kind, columns=columns, dtype=dtype, device=device, check=False, **flags)


def from_scipy(A, *, symmetric=False, posdef=False):
    """Return an operator that calls a SciPy or pylops one.

    Parameters
    ----------
    A : scipy.sparse.linalg.LinearOperator
        Or anything with ``shape``, ``matvec`` and perhaps ``rmatvec``.
    symmetric, posdef : bool
        Claims; False by default.

    Returns
    -------
    Function

    Examples
    --------
    >>> from_scipy(scipy.sparse.linalg.aslinearoperator(np.eye(2))).to_dense()
    array([[1., 0.],
           [0., 1.]])
    """
    dtype = np.dtype(getattr(A, "dtype", None) or float)
    dtype = dtype if dtype.name in _DTYPES else np.dtype(np.complex128 if dtype.kind == "c" else float)
    flags = {"symmetric": symmetric, "posdef": posdef}
    backward = getattr(A, "rmatvec", None)
    if isinstance(A, scipy.sparse.linalg.LinearOperator) and backward is not None:
        try:
            A.rmatvec(np.zeros(A.shape[0], dtype))
        except NotImplementedError:
            backward = None
    return Function(A.matvec, A.shape, backward, kind="numpy", dtype=dtype, check=False, **flags)


def to_scipy(A):
    """Return an operator as one of SciPy.

    Parameters
    ----------
    A : LinearOperator
        Without batch axes.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator

    Raises
    ------
    InvalidInputError
        If `A` has batch axes.

    Examples
    --------
    >>> from sciml.linalg.operators import Diagonal
    >>> to_scipy(Diagonal(np.array([1.0, 2.0]))) @ np.ones(2)
    array([1., 2.])
    """
    if A.batch_shape:
        raise InvalidInputError(f"A must have no batch axes for SciPy; got {A.batch_shape}. Take one matrix at a time.")

    def wrap(product):
        def call(x):
            x = np.asarray(x)
            with torch.no_grad():
                X = torch.as_tensor(x.reshape(len(x), -1).astype(dtype, copy=False)).to(A.device)
                return product(X).cpu().resolve_conj().numpy().reshape(-1, *x.shape[1:])

        return call

    dtype = np.dtype(str(A.dtype).removeprefix("torch."))
    forward, backward = wrap(A._matmat), wrap(A._rmatmat)
    return scipy.sparse.linalg.LinearOperator(
        A.shape, matvec=forward, rmatvec=backward, matmat=forward, rmatmat=backward, dtype=dtype
    )
