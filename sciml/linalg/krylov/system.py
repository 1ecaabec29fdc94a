"""The door of all Krylov methods: the system A x = b as a block of columns in torch, and its true residual.

Notation  B (..., n, R) right sides as columns, X (..., m, R) answers, both in the long dtype; A (n, m) operator;
          the long dtype is float64 or complex128, in which residuals are judged, whatever the data.
Pitfalls  a power of two divides without rounding, so data in other units give the same digits; squares of numbers
          beyond 1e154 or below 1e-154 leave the range of float64, so norms are taken of scaled columns.
"""

import time

import numpy as np
import torch

from sciml._trace import record
from sciml.exceptions import BackendMismatchError, InvalidInputError
from sciml.iterate import Status
from sciml.linalg.arrays import enter
from sciml.linalg.krylov.result import SolveRun
from sciml.linalg.operators.base import as_operator

LONG = {torch.float32: torch.float64, torch.complex64: torch.complex128}
SHORT = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def dot(X, Y):
    """Return the real parts of the inner products of the columns (..., n, R), summed in float64: (..., R)."""
    if X.is_complex():
        return dot(X.real, Y.real) + dot(X.imag, Y.imag)
    if X.shape[1:] == (1,) and X.dtype is torch.float64:
        return torch.dot(X[:, 0], Y[:, 0])[None]  # in one pass
    return (X.double() * Y.double()).sum(-2)


def norm(X):
    """Return the norms of the columns (..., n, R) in float64, safe from overflow and underflow of squares: (..., R)."""
    if X.shape[-2] == 0:
        return torch.zeros(*X.shape[:-2], X.shape[-1], dtype=torch.float64, device=X.device)
    size = X.abs().double()
    unit = power_of_two(size.amax(-2))
    return unit * torch.linalg.vector_norm(size / unit[..., None, :], dim=-2)


def power_of_two(scale):
    """Return the power of two next to a positive number; 1 where it is 0, inf or NaN."""
    usable = torch.isfinite(scale) & (scale > 0)
    return torch.exp2(torch.where(usable, scale, 1.0).log2().round())


class Counted:
    """An operator as a function of a block of columns of any floating dtype; it counts its products.

    Parameters
    ----------
    operator : LinearOperator
        What is applied.
    dtype : torch.dtype or None
        What it computes in; None (the default) takes its own.
    """

    def __init__(self, operator, dtype=None):
        self.operator, self.dtype = operator, dtype or operator.dtype
        self.n_matvec = 0

    def __call__(self, X):
        self.n_matvec += X.shape[-1]
        return self._apply(self.operator._matmat, X)

    def adjoint(self, X):
        """Return A^H X."""
        self.n_matvec += X.shape[-1]
        return self._apply(self.operator._rmatmat, X)

    def _apply(self, product, X):
        if X.is_complex() and not self.dtype.is_complex:
            # Twice the columns, in real arithmetic.
            R = X.shape[-1]
            Y = self._apply(product, torch.cat([X.real, X.imag], -1))
            return torch.complex(Y[..., :R], Y[..., R:]).to(X.dtype)
        return product(X.to(self.dtype)).to(X.dtype)


class System:
    """The system A x = b behind the door.

    Parameters
    ----------
    A : operator, array, sparse matrix or callable
        Whatever `as_operator` takes.
    b : array, shape (n,) or (..., n, R)
        Right sides.
    M : operator, array, callable or None
        Applies an approximate inverse.
    x0 : array, shape of the answer, or None
        Starting point.
    square : bool
        Whether the method needs a square A.
    """

    def __init__(self, A, b, M=None, x0=None, *, square=True):
        self.start = time.perf_counter()
        b, self.half = _widened(b)
        (B, X0), self._leave = enter(b, _widened(x0)[0], names=("b", "x0"))
        like = b if isinstance(b, (np.ndarray, torch.Tensor)) else np.asarray(b)
        operator = as_operator(A, name="A", like=like)
        _check_shapes(operator, B, square)
        for name, given in (("b", b), ("x0", x0)):
            _check_device(name, given, operator)
        # Integers and lists follow the matrix.
        self.dtype = torch.promote_types(operator.dtype, B.dtype) if _is_floating(b) else operator.dtype
        if B.is_complex():
            self.dtype = torch.promote_types(self.dtype, torch.complex64)
        self.long = LONG.get(self.dtype, self.dtype)
        self.vector = B.ndim == 1
        B = (B[:, None] if self.vector else B).to(device=operator.device, dtype=self.long)
        batch = _broadcast(operator.batch_shape, B)
        self.B = B.expand(*batch, *B.shape[-2:])
        self.X0 = self._start(X0, (*batch, operator.shape[1], B.shape[-1]))
        self.norm_B = norm(self.B)
        self.A, self.A_long, self.has_long = _both_precisions(operator, self.dtype, self.long)
        self.M = None if M is None else Counted(_preconditioner(M, like, operator.shape[1]))
        if self.M is not None and self.M.dtype.is_complex and not self.dtype.is_complex:
            raise InvalidInputError(
                "M must be real where A and b are; got a complex one, whose imaginary part would be lost. Pass M.real, "
                "or a complex b."
            )
        why = getattr(self.M.operator, "reason", "") if self.M is not None else ""
        self.choices = {"preconditioner": why} if why else {}

    @property
    def has_gradient(self):
        """Whether a derivative by b or a parameter of A may be asked for."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in (self.B, *self.A.operator.parameters()))

    def _start(self, X0, shape):
        """Return the starting point as a block."""
        start = torch.zeros(shape, dtype=self.long, device=self.B.device)
        if X0 is None:
            return start
        X0 = X0[:, None] if X0.ndim == 1 else X0
        try:
            return start + X0.to(start)
        except RuntimeError:
            raise InvalidInputError(
                f"x0 must have the shape of the answer, {shape[: len(shape) - self.vector]}; got "
                f"{tuple(X0.shape[: X0.ndim - self.vector])}. Leave it out to start from zero."
            ) from None

    def residual(self, X):
        """Return B - A X in the long dtype, and its relative norms (..., R); the norm itself where b is zero."""
        # The usual start from zero costs no product, and what A makes of a zero is of no interest.
        R = self.B - self.A_long(X) if bool((X != 0).any()) else self.B
        return R, norm(R) / torch.where(self.norm_B > 0, self.norm_B, 1.0)

    def shaped(self, X):
        """Return a block as the user's array: a vector for a vector."""
        return self._leave(X[..., 0] if self.vector else X)

    def back(self, value):
        """Return what `shaped` gave as a block."""
        X = torch.as_tensor(np.asarray(value) if not isinstance(value, torch.Tensor) else value, device=self.B.device)
        return X[..., None] if self.vector else X

    @property
    def n_matvec(self):
        """Products so far, those in float64 included."""
        return self.A.n_matvec + (self.A_long.n_matvec if self.A_long is not self.A else 0)

    def report(self, run, *, tol, name, judge=None, condition=np.nan, error_estimate=None, adjoint=None):
        """Return the run with the value in the dtype of the data where that keeps the tolerance.

        Parameters
        ----------
        run : Run
            Its value is what `shaped` gave.
        tol : float
            What the criterion must be.
        name : str
            Of the method, for the trace.
        judge : callable or None
            Gives the criterion (..., R) of a block; None (the default) takes the relative residual.
        condition : float
            Estimate of the condition number.
        error_estimate : float or None
            Of the largest relative error of a column; None (the default) takes the condition number times the largest
            residual, which bounds that error where there is no preconditioner.
        adjoint : callable or None
            ``adjoint(A, G)`` solves A^H w = g for a block of gradients; None (the default) gives no derivatives.
        """
        judge = judge or (lambda X: self.residual(X)[1])
        X = self.back(run.value).to(self.long)
        wanted = [d for d in (self.half, self.dtype) if d not in (None, self.long)]
        for dtype in [*wanted, self.long]:
            with torch.no_grad():
                residual = judge(X.to(dtype).to(self.long))
            if run.status is not Status.CONVERGED or bool((residual <= tol).all()):
                break
        if wanted and dtype != wanted[0]:
            self.choices["dtype"] = f"{_word(dtype)}: rounded to {_word(wanted[0])} the answer would miss tol={tol:.0e}"
        if adjoint is not None and self.has_gradient:
            X = _Implicit.apply(X, self, adjoint, self.B, *self.A.operator.parameters())
        operator, residual = self.A.operator, residual.detach().cpu().numpy()
        engine = getattr(operator, "engine", None) or type(operator).__name__
        record(
            name,
            shapes=(tuple(operator.shape), tuple(self.B.shape)),
            engine=str(engine),
            device=str(self.B.device),
            reason="; ".join([run.reason, *self.choices.values()]),
            seconds=time.perf_counter() - self.start,
        )
        return SolveRun(
            value=self.shaped(X.to(dtype)),
            status=run.status,
            n_iter=run.n_iter,
            history=run.history,
            reason=run.reason,
            residual=float(residual[0]) if residual.shape == (1,) and self.vector else residual,
            n_matvec=self.n_matvec,
            engine=str(engine),
            device=str(self.B.device),
            preconditioner="none"
            if self.M is None
            else getattr(self.M.operator, "name", type(self.M.operator).__name__),
            condition=condition,
            error_estimate=condition * float(residual.max(initial=0.0)) if error_estimate is None else error_estimate,
            choices=dict(self.choices),
        )


class _Implicit(torch.autograd.Function):
    """The answer x as a function of b and the parameters of A, by the implicit function theorem.

    With a gradient g and w = A^{-H} g, that of b is w, and that of a parameter that of -Re <w, A x> with x held fixed.
    """

    @staticmethod
    def forward(ctx, X, system, adjoint, B, *parameters):
        ctx.system, ctx.adjoint = system, adjoint
        X = X.clone()
        ctx.save_for_backward(X, *parameters)
        return X

    @staticmethod
    def backward(ctx, G):
        X, *parameters = ctx.saved_tensors
        system, again = ctx.system, torch.is_grad_enabled()
        W = ctx.adjoint(system.A.operator, G)
        with torch.enable_grad():
            # Aliases, since x depends on the parameters, too, and must be held fixed here.
            aliases = [p.view_as(p) for p in parameters]
            which = [p for p, needed in zip(aliases, ctx.needs_input_grad[4:], strict=True) if needed]
            if which:
                product = _both_precisions(system.A.operator._with(aliases), system.dtype, system.long)[1](X)
                found = iter(torch.autograd.grad(product, which, -W, create_graph=again, allow_unused=True))
        grads = (next(found) if needed else None for needed in ctx.needs_input_grad[4:])
        return None, None, None, W.real.to(system.B.dtype) if not system.B.is_complex() else W, *grads


def _both_precisions(operator, dtype, long):
    """Return the operator in the dtype of the data and in the long one, and whether the latter differs."""
    if dtype in SHORT or dtype == long:  # the data are long: so must the operator be
        only = Counted(_converted(operator, long))
        return only, only, False
    short, lengthened = Counted(operator), _converted(operator, long)
    real_long = LONG.get(operator.dtype, operator.dtype)
    if not operator.parameters():
        # A callable decides by itself what it computes in: ask it.
        zero = torch.zeros(*operator.shape[1:], 1, dtype=real_long, device=operator.device)
        try:
            knows_long = lengthened._matmat(zero).dtype == real_long
        except (RuntimeError, TypeError, ValueError):
            knows_long = False
        if not knows_long:
            return short, short, False
    return short, Counted(lengthened, real_long), True


def _converted(operator, long):
    """Return an operator made of parameters in the long dtype (its real twin for real ones)."""
    parameters = operator.parameters()
    if not any(p.dtype in LONG for p in parameters):
        return operator
    return operator._with([p.to(LONG.get(p.dtype, p.dtype)) for p in parameters])


def _preconditioner(M, like, n):
    if hasattr(M, "__matmul__") and not hasattr(M, "shape"):
        product = M.__matmul__
        M = lambda r: product(r)  # noqa: E731  # an object that knows `M @ r` only
    operator = as_operator(M, name="M", like=like)
    if tuple(operator.shape) != (n, n):
        raise InvalidInputError(
            f"M must have shape {(n, n)}, as an inverse of A; got {tuple(operator.shape)}. Pass M=None to go without."
        )
    return operator


def _check_shapes(operator, B, square):
    n, m = operator.shape
    if square and n != m:
        raise InvalidInputError(f"A must be square; got shape {(n, m)}. For a rectangular system use lsmr.")
    if B.ndim == 0 or B.shape[-1 if B.ndim == 1 else -2] != n:
        raise InvalidInputError(
            f"b must have shape (n,) or (..., n, R) with n = {n}, the number of rows of A; got {tuple(B.shape)}. "
            "Put each right side in a column."
        )


def _check_device(name, given, operator):
    """Refuse to move what the user has placed elsewhere."""
    if isinstance(given, torch.Tensor) and given.device != operator.device:
        raise BackendMismatchError(
            f"A and {name} must be on one device; got A on {operator.device} and {name} on {given.device}. "
            f"Move {name} by .to({str(operator.device)!r})."
        )


def _broadcast(batch, B):
    try:
        return torch.broadcast_shapes(batch, B.shape[:-2])
    except RuntimeError:
        raise InvalidInputError(
            f"b must have batch dimensions that broadcast with {tuple(batch)}, those of A; got shape {tuple(B.shape)}. "
            "Put them in front."
        ) from None


def _is_floating(b):
    """Whether an array came whose dtype counts."""
    if isinstance(b, torch.Tensor):
        return b.is_floating_point() or b.is_complex()
    return getattr(getattr(b, "dtype", None), "kind", "") in ("f", "c")


def _widened(b):
    """Return half precision as float32, so that the way back does not round, and the dtype that came."""
    if isinstance(b, torch.Tensor) and b.dtype in (torch.float16, torch.bfloat16):
        return b.float(), b.dtype
    if isinstance(b, np.ndarray) and b.dtype == np.float16:
        return b.astype(np.float32), torch.float16
    return b, None


def _word(dtype):
    return str(dtype).removeprefix("torch.")
