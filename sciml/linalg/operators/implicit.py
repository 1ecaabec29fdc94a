r"""Solves and determinants with derivatives by the implicit function theorem, to second order.

Notation  x = A^{-1} b; g the gradient by x; w = A^{-H} g, the gradient by b; the gradient by a parameter theta is
          -<w, (dA / dtheta) x>, one product differentiated with x and w held; for L = log |det A| it is
          sum_k <(A^{-1} e_k)^H, e_k^H (dA / dtheta)>, in blocks of unit vectors e_k.
Cost      a backward pass is one solve of the same kind and one product; the factorisation of the forward pass serves.
Pitfalls  "held" must not mean detached, or second derivatives are lost: the parameters are replaced by views of
          themselves, the product is differentiated by the views only, and x and w keep their own graphs. The backward
          pass itself calls the differentiable solve.
"""

import dataclasses
import math
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch

from sciml._config import resolve
from sciml._trace import record
from sciml.exceptions import ConditioningWarning, ConvergenceWarning, InvalidInputError
from sciml.iterate import Status, caller_level
from sciml.linalg.operators import base
from sciml.linalg.operators.direct import dense_factor

# A relative error beyond this is worth a warning.
_DIGITS = 1e-3
# What is asked of iterations in float32, so that the answer can be float32.
_SHORT_TOL = 1e-5
# Up to this size an unknown structure has its determinant from a dense factorisation.
_DENSE_LOGDET = 8000


class Options(NamedTuple):
    """How a solve is to be done; see `LinearOperator.solve`."""

    method: str = "auto"
    tol: float | None = None
    max_iter: int | None = None
    M: Any = None
    on_failure: str | None = None


# ---------------------------------------------------------------- derivatives


def pull_back(A, parameters, needed, W, act):
    """Return the gradients of Re <W, act(A)> by the parameters where needed, else None.

    `act` uses an operator differentiably, such as ``lambda twin: twin._matmat(X)``; W, and what it uses, are held.
    """
    if not any(needed):
        return [None] * len(parameters)
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        if graph:
            twins = [p.view_as(p) for p in parameters]
        else:
            twins = [p.detach().requires_grad_(need) for p, need in zip(parameters, needed, strict=True)]
        Y = act(A._with(twins))
        if not Y.requires_grad:
            return [None] * len(parameters)
        wanted = [p for p, need in zip(twins, needed, strict=True) if need]
        W = W.to(Y.dtype) if Y.is_complex() or not W.is_complex() else W.real
        found = iter(torch.autograd.grad(Y, wanted, W.expand(Y.shape), create_graph=graph, allow_unused=True))
    return [next(found) if need else None for need in needed]


class _Solve(torch.autograd.Function):
    """A^{-1} B, or A^{-H} B."""

    @staticmethod
    def forward(ctx, A, adjoint, options, note, B, *parameters):
        X = _solve(A, B.detach(), adjoint, options, note)
        ctx.A, ctx.adjoint, ctx.options, ctx.dtype = A, adjoint, options, B.dtype
        ctx.save_for_backward(X, *parameters)
        return X

    @staticmethod
    def backward(ctx, G):
        X, *parameters = ctx.saved_tensors
        W = _Solve.apply(ctx.A, not ctx.adjoint, ctx.options, {}, G, *parameters)

        def product(twin):
            return twin._rmatmat(X) if ctx.adjoint else twin._matmat(X)

        gradients = pull_back(ctx.A, parameters, ctx.needs_input_grad[5:], -W, product)
        by_B = W.to(ctx.dtype) if ctx.needs_input_grad[4] else None
        return None, None, None, None, by_B, *gradients


def solve(A, B, options=None, note=None, adjoint=False):
    """Return A^{-1} B for tensors, differentiable in B and in the parameters of A.

    Parameters
    ----------
    A : LinearOperator
        Square.
    B : Tensor, shape (..., n, r)
        Its batch axes broadcast with those of A.
    options : Options or None
        None (the default) lets the structure choose.
    note : dict or None
        Receives "reason", and "run" of a Krylov method; None (the default) drops them.
    adjoint : bool
        A^{-H} B instead; False by default.

    Returns
    -------
    Tensor, shape (..., n, r)

    Examples
    --------
    >>> from sciml.linalg.operators import Diagonal
    >>> solve(Diagonal(torch.tensor([2.0])), torch.tensor([[3.0]]))
    tensor([[1.5000]])
    """
    batch = torch.broadcast_shapes(A.batch_shape, B.shape[:-2])
    B = B.to(torch.promote_types(A.dtype, B.dtype)).expand(*batch, *B.shape[-2:])
    return _Solve.apply(A, adjoint, options or Options(), {} if note is None else note, B, *A.parameters())


# ---------------------------------------------------------------- which method


def _solve(A, B, adjoint, options, note):
    """Return the solution without a graph; tell in `note` how, and the open traces."""
    method, reason = choose(A, options.method)
    note["method"], note["reason"], note["adjoint"] = method, reason, adjoint
    start = time.perf_counter()
    if B.numel() == 0:
        X = torch.zeros_like(B)
    elif method == "krylov":
        X = _krylov(A.H if adjoint else A, B, options, note)
    else:
        X = _without_iterations(A, B, adjoint, method)
    note["engine"] = _krylov_name(A) if method == "krylov" else f"{type(A).__name__}, {method}"
    record(
        "solve, adjoint" if adjoint else "solve",
        shapes=(A.shape, B.shape),
        engine=note["engine"],
        device=A.device,
        reason=reason,
        seconds=time.perf_counter() - start,
    )
    if method == "krylov":
        return X  # its run says whether it is finite
    if not bool(torch.isfinite(X).all()):
        raise InvalidInputError(
            "A must be invertible; its solution is not finite, so A is singular to rounding, or b too large for its "
            "dtype. Remove dependent rows, or use sciml.linalg.lsmr(A, b)."
        )
    return X


def _without_iterations(A, B, adjoint, method):
    if B.is_complex() and not A.dtype.is_complex:
        parts = (_without_iterations(A, part, adjoint, method) for part in (B.real, B.imag))
        return torch.complex(*parts)
    return dense_factor(A).solve(B, adjoint) if method == "dense" else A._solve_direct(B, adjoint)


def choose(A, method):
    """Return "direct", "dense" or "krylov", and why."""
    n = A.shape[0]
    structure = None if method == "krylov" else A._direct()
    if structure is not None:
        return "direct", f"direct: {structure}"
    if method == "direct" or (method == "auto" and n <= A._dense_size):
        return "dense", f"direct: {'Cholesky' if A.posdef else 'LU'} of the dense matrix, n={n}"
    why = "asked for" if method == "krylov" else f"no direct method for {type(A).__name__} of n={n}"
    return "krylov", f"{_krylov_name(A)}: {why}"


def _krylov_name(A):
    return "cg" if A.posdef else "minres" if A.symmetric else "gmres"


def _krylov(A, B, options, note):
    """Solve by the Krylov method that the flags allow."""
    from sciml.linalg import krylov

    name = _krylov_name(A)
    M = options.M if options.M is not None else A._preconditioner()
    if note.get("adjoint") and isinstance(options.M, base.LinearOperator):
        M = options.M.H
    on_failure = resolve("on_failure", options.on_failure)
    if note.get("warns_later") and on_failure == "warn":
        on_failure = "ignore"  # a warning from here would show a line of torch's
    tol = options.tol
    if tol is None and B.dtype in (torch.float32, torch.complex64):
        tol = _SHORT_TOL
    keywords = {"M": M, "tol": tol, "max_iter": options.max_iter, "on_failure": on_failure}
    run = getattr(krylov, name)(A, B, **{key: value for key, value in keywords.items() if value is not None})
    note["run"] = run
    return run.value  # in float64 where float32 could not hold what tol asks for


# ---------------------------------------------------------------- the answer with its story


def solve_run(A, B, leave, options):
    """Return the `SolveRun` of A X = B for a tensor B, its value through `leave`."""
    start, note = time.perf_counter(), {"warns_later": True}
    X = solve(A, B, options, note)
    seconds = time.perf_counter() - start
    if "run" in note:
        return _krylov_story(X, leave, note, options)
    return _direct_story(A, B, X, leave, note, seconds)


def _krylov_story(X, leave, note, options):
    run = note["run"]
    if not run.converged and run.status is not Status.STOPPED and resolve("on_failure", options.on_failure) == "warn":
        text = f"{note['engine']} stopped after {run.n_iter} iterations with a residual of {np.max(run.residual):.2e}: "
        warnings.warn(f"{text}{run.reason}.", ConvergenceWarning, stacklevel=caller_level())
    return dataclasses.replace(run, value=leave(X), choices={"method": note["reason"], **run.choices})


def _direct_story(A, B, X, leave, note, seconds):
    from sciml.linalg.krylov import SolveRun

    condition = _condition_of(A, note["method"])
    residual = relative_residual(A, B, X)
    worst = float(np.max(residual, initial=0.0))
    exact = worst <= math.sqrt(torch.finfo(A.dtype).eps)
    _warn_of_rounding(A, condition, None if exact else worst)
    value = leave(X)
    vector = residual.shape == (1,) and value.ndim == 1
    return SolveRun(
        value=value,
        status=Status.CONVERGED if exact else Status.STALLED,
        n_iter=0,
        history={"criterion": np.array([worst]), "seconds": np.array([seconds])},
        reason="a direct method, without iterations" if exact else "a direct method, spoilt by rounding",
        residual=float(residual[0]) if vector else residual,
        n_matvec=0,
        engine=note["engine"],
        device=str(A.device),
        preconditioner="none",
        condition=math.nan if condition is None else condition,
        error_estimate=math.nan if condition is None else condition * torch.finfo(A.dtype).eps,
        choices={"method": note["reason"]},
    )


def relative_residual(A, B, X):
    """Return norm(B - A X) / norm(B) of each column (norm of the residual where B is zero), computed in float64."""
    if B.shape[-2] == 0:
        return np.zeros((*B.shape[:-2], B.shape[-1]))
    with torch.no_grad():
        B, X = B.detach(), X.detach()
        if B.dtype in (torch.float32, torch.complex64):
            long = torch.complex128 if B.is_complex() else torch.float64
            try:
                A = A.to(long)
            except InvalidInputError:
                long = B.dtype
            B, X = B.to(long), X.to(long)
        _, k = torch.frexp(B.abs().amax(-2).clamp_min(torch.finfo(B.dtype).tiny))
        unit = torch.ldexp(torch.ones_like(B[..., 0, :].real), k)
        R = (B - A._matmat(X)) / unit[..., None, :]
        size = torch.linalg.vector_norm(B / unit[..., None, :], dim=-2)
        norm = torch.linalg.vector_norm(R, dim=-2)
        return (norm / torch.where(size > 0, size, torch.ones_like(size))).double().cpu().numpy()


def _condition_of(A, method):
    if method == "dense":
        return A._cached("dense condition", lambda: dense_factor(A).condition())
    return A._condition()


def _warn_of_rounding(A, condition, residual):
    """Warn of a large condition, or of a residual that a direct method should not leave."""
    word, eps = str(A.dtype).removeprefix("torch."), torch.finfo(A.dtype).eps
    if condition is not None and condition * eps > _DIGITS:
        text = (
            f"A has a condition number of about {condition:.1e}, so rounding in {word} may leave a relative error of "
        )
        text += f"{min(condition * eps, 1):.0e} in the solution. Add a ridge, or rescale or remove variables"
        text += "." if word in ("float64", "complex128") else ", or use float64."
    elif residual is not None:
        text = (
            f"A x misses b by {residual:.1e} of its norm after a direct solve: A is nearly singular, was changed after "
        )
        text += (
            "its factorisation, or is not what its flags claim. Make the operator anew, and test it by check_flags()."
        )
    else:
        return
    warnings.warn(text, ConditioningWarning, stacklevel=caller_level())


# ---------------------------------------------------------------- determinants


class _Logdet(torch.autograd.Function):
    """log |det A| with its gradient tr(A^{-1} dA), by blocks of rows."""

    @staticmethod
    def forward(ctx, A, value, *parameters):
        ctx.A = A
        ctx.save_for_backward(*parameters)
        return value.clone()

    @staticmethod
    def backward(ctx, G):
        A, parameters, needed = ctx.A, ctx.saved_tensors, ctx.needs_input_grad[2:]
        options = Options("direct") if A._direct() is None else Options()
        total = [None] * len(parameters)
        for start in range(0, A.shape[0], base._BLOCK):
            stop = min(start + base._BLOCK, A.shape[0])
            E = base.unit_vectors(A, start, stop).expand(*A.batch_shape, A.shape[0], stop - start)
            # tr(A^{-1} E E^H dA) is the inner product of (A^{-1} E)^H and these rows of dA.
            W = _Solve.apply(A, False, options, {}, E, *parameters).mH * G[..., None, None]
            parts = pull_back(A, parameters, needed, W, lambda twin, a=start, b=stop: twin._rows(a, b))
            total = [b if a is None else a if b is None else a + b for a, b in zip(total, parts, strict=True)]
        return None, None, *total


def slogdet(A, method, n_probes, random_state):
    """Return sign and log |det A| as tensors of the batch's shape, the latter differentiable."""
    real = torch.empty(0, dtype=A.dtype).real.dtype
    if A.shape[0] == 0:
        one = torch.ones(A.batch_shape, dtype=A.dtype, device=A.device)
        return one, torch.zeros(A.batch_shape, dtype=real, device=A.device)
    found = None if method == "stochastic" else A._logdet_direct()
    if found is not None:
        sign, value = found
        _refuse_infinite(value)
        record("logdet", shapes=(A.shape,), engine=type(A).__name__, device=A.device, reason="formula of the structure")
        return sign.expand(A.batch_shape), value.expand(A.batch_shape)
    if method == "exact" or (method == "auto" and A.shape[0] <= _DENSE_LOGDET):
        sign, value = factored_slogdet(A)
        record("logdet", shapes=(A.shape,), engine="factorisation", device=A.device, reason=f"n={A.shape[0]}")
        return sign.to(A.dtype), _Logdet.apply(A, value, *A.parameters())
    return _stochastic(A, n_probes, random_state)


def exact_slogdet(A):
    """Return sign and log |det A|, differentiable, or None where only a large dense factorisation would tell."""
    found = A._logdet_direct()
    if found is None and A.shape[0] <= _DENSE_LOGDET:
        sign, value = factored_slogdet(A)
        found = sign.to(A.dtype), _Logdet.apply(A, value, *A.parameters())
    return found


def factored_slogdet(A):
    """Sign and log |det A| from a factorisation, without a graph."""
    with torch.no_grad():
        factor = A._factor() if hasattr(A, "_factor") else dense_factor(A)
        return factor.slogdet()


def _stochastic(A, n_probes, random_state):
    from sciml.linalg.krylov import Preconditioner, stochastic_logdet

    if not A.posdef:
        raise InvalidInputError(
            f"A must be positive definite for a stochastic logdet; got {A!r}. Say posdef=True if it is, or pass "
            "method='exact', which forms the dense matrix."
        )
    M = A._preconditioner()
    M = M if isinstance(M, Preconditioner) else None
    found = stochastic_logdet(A, n_probes=n_probes, M=M, random_state=random_state)
    value = torch.as_tensor(found.value, device=A.device)
    reason = f"n={A.shape[0]}, standard error {float(np.max(found.standard_error)):.1e}"
    record("logdet", shapes=(A.shape,), engine="stochastic Lanczos", device=A.device, reason=reason)
    return torch.ones_like(value), value


def _refuse_infinite(value):
    if not bool(torch.isfinite(value).all()):
        raise InvalidInputError(
            "A must be invertible; its determinant is zero, so it is singular. Remove dependent rows, or add a ridge."
        )
