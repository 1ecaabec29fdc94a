r"""Log-determinants and traces from random vectors: stochastic Lanczos quadrature and Hutch++, with standard errors.

Notation  A (n, n) positive definite; P preconditioner; Z (n, p) probes with covariance P; B = P^{-1/2} A P^{-1/2};
          T_j the Lanczos matrix of B from probe j, which conjugate gradients on A x = z_j give; X = A^{-1} Z.
Cost      p products with A and P^{-1} a step.
Pitfalls  the error falls like one over the root of p, and what is random is the logarithm of B only: a good P makes it
          small. Gaussian probes are scaled to length sqrt(n), which takes out the largest part of their variance.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.iterate import Status
from sciml.linalg.krylov.conjugate_gradient import ConjugateGradients
from sciml.linalg.krylov.preconditioners import Preconditioner
from sciml.linalg.krylov.system import System, dot, norm, power_of_two
from sciml.linalg.operators.base import _draw, as_operator
from sciml.random import generator, normal
from sciml.validation import check_number

_SOLVED = 1e-6  # residual at which a probe has nothing more to tell


@dataclass(frozen=True, eq=False)
class StochasticEstimate:
    """A number estimated from random vectors.

    Parameters
    ----------
    value : float, array or Tensor, shape batch_shape
        The estimate, differentiable for torch.
    standard_error : float or ndarray
        Of `value`, from the spread of the probes.
    quadrature_error : float or ndarray
        How much the last quarter of the Lanczos steps changed the estimate; 0 where there is none.
    n_probes, n_iter, n_matvec : int
        Random vectors, steps, and products with one column.
    preconditioner : str
        Its name; "none" without one.
    """

    value: Any
    standard_error: Any
    quadrature_error: Any = 0.0
    n_probes: int = 0
    n_iter: int = 0
    n_matvec: int = 0
    preconditioner: str = "none"


def stochastic_logdet(A, *, n_probes=16, n_steps=200, M=None, random_state=None):
    r"""Estimate :math:`\log\det A` of a positive definite `A` by stochastic Lanczos quadrature [1]_.

    .. math:: \log\det A = \log\det P + \mathrm{tr} \log(P^{-1/2} A P^{-1/2})

    The derivative is that of the exact log-determinant, :math:`\mathrm{tr}(A^{-1} dA)`, estimated with the same probes.

    Parameters
    ----------
    A : LinearOperator, array or sparse matrix, shape (..., n, n)
        Symmetric or Hermitian positive definite.
    n_probes : int
        Random vectors, at least 2 for a standard error; 16 by default.
    n_steps : int
        Lanczos steps at most, fewer where the probes are solved to 1e-6; 200 by default.
    M : Preconditioner or None
        Its log-determinant is added exactly, and the probes are drawn from its normal distribution; None (the default)
        goes without.
    random_state : None, int or numpy.random.Generator
        Of the probes; None (the default) draws a fresh seed.

    Returns
    -------
    StochasticEstimate

    Raises
    ------
    InvalidInputError
        If `A` is not square or not symmetric, or `M` has no determinant.
    NotPositiveDefiniteError
        If a step meets a direction with :math:`\langle p, A p \rangle \le 0`.

    References
    ----------
    .. [1] S. Ubaru, J. Chen, Y. Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, 2017.

    Examples
    --------
    Of a diagonal matrix every vector of random signs sees the whole: log 8.

    >>> round(float(stochastic_logdet(np.diag([1.0, 2.0, 4.0])).value), 6)
    2.079442
    """
    operator = as_operator(A)
    n, m = operator.shape
    if n != m:
        raise InvalidInputError(f"A must be square; got shape {(n, m)}. Only square matrices have a determinant.")
    if M is not None and not isinstance(M, Preconditioner):
        raise InvalidInputError(
            f"M must be a Preconditioner, which knows its determinant; got {type(M).__name__}. Make one by nystrom, "
            "pivoted_cholesky, jacobi, block_jacobi or circulant."
        )
    n_probes = check_number("n_probes", n_probes, low=2, integer=True)
    n_steps = check_number("n_steps", n_steps, low=1, integer=True)
    with torch.no_grad():
        _refuse_unsymmetric(operator)
        Z = _probes(operator, M, n_probes, generator(random_state))
        system = System(operator, Z, M)
        descent = _descend(system, n_steps)
        T = _tridiagonals(descent, Z.shape[-1] * math.prod(system.B.shape[:-2]))
        shape = system.norm_B.shape
        values, coarse = (
            torch.tensor([n * f(t) for t in T], dtype=torch.float64).reshape(shape) for f in (_full, _part)
        )
        base = 0.0 if M is None else torch.as_tensor(M.logdet(), dtype=torch.float64).cpu()
        estimate = (values.mean(-1) + base).to(operator.device)
        error = (values.std(-1) / math.sqrt(n_probes)).numpy()
        quadrature = (values - coarse).mean(-1).abs().numpy()
    parameters = operator.parameters()
    if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
        PZ = system.B if M is None else system.M(system.B)
        weights = n / (dot(system.B, PZ) * n_probes)
        estimate = _Logdet.apply(
            estimate, system, PZ.detach(), weights.detach(), descent.correction.detach(), *parameters
        )
    return StochasticEstimate(
        operator._leave(estimate.to(torch.empty(0, dtype=operator.dtype).real.dtype)),
        float(error) if error.ndim == 0 else error,
        float(quadrature) if quadrature.ndim == 0 else quadrature,
        n_probes,
        descent.n_steps,
        system.n_matvec,
        "none" if M is None else M.name,
    )


def _refuse_unsymmetric(operator):
    """Test the symmetry that nobody claimed on one pair of vectors; without it the estimate is a wrong number."""
    if operator.symmetric or not operator.shape[0]:
        return
    X, Y = (_draw(operator, generator(seed), operator.shape[0], 1) for seed in (0, 1))
    AX, AY = operator._matmat(X), operator._matmat(Y)
    unit = power_of_two(norm(AX) + norm(AY))[..., None, :]
    AX, AY = AX / unit, AY / unit
    left, right = (Y.conj() * AX).sum(-2), (X.conj() * AY).sum(-2).conj()
    slack = 1e3 * torch.finfo(operator.dtype).eps * (norm(AX) * norm(Y) + norm(X) * norm(AY))
    if bool(((left - right).abs() > slack).any()):
        raise InvalidInputError(
            f"A must equal its conjugate transpose; <y, A x> and <A y, x> are {complex(left.flatten()[0]):.3g} and "
            f"{complex(right.flatten()[0]):.3g}. Pass (A + A.H) / 2, or use A.slogdet()."
        )


def _probes(operator, M, count, rng):
    """Draw from the normal distribution of M, or random signs, as columns (..., n, count)."""
    if M is not None:
        return M.sample(count, rng)
    real = torch.empty(0, dtype=operator.dtype).real.dtype
    signs = torch.where(normal(rng, (operator.shape[0], count), device=operator.device, dtype=real) >= 0, 1.0, -1.0)
    return signs.to(operator.dtype)


def _descend(system, n_steps):
    """Run conjugate gradients on A X = Z in the long dtype; no column leaves the block."""
    everyone = torch.ones_like(system.norm_B, dtype=torch.bool)
    descent = ConjugateGradients(system.A_long, system, system.B, system.long, everyone, tracked=system.B.shape[-1])
    n_steps = min(n_steps, max(system.B.shape[-2], 1))
    while descent.n_steps < n_steps and bool(descent.active.any()):
        descent.step()
        descent.active = descent.active & (descent.size > _SOLVED * system.norm_B)
    if descent.reason is not None and descent.reason.status is not Status.CONVERGED:
        raise NotPositiveDefiniteError(f"A must be positive definite for a log-determinant: {descent.reason.reason}.")
    return descent


def _tridiagonals(descent, count):
    """Return the diagonals of the Lanczos matrix of each probe."""
    found = []
    for j in range(count):
        rows = [c[:, j] for c in descent.coefficients if c[0, j] > 0]
        alpha, beta = np.array(rows).T
        diagonal = 1 / alpha
        diagonal[1:] += beta[1:] / alpha[:-1]
        found.append((diagonal, np.sqrt(beta[1:]) / alpha[:-1]))
    return found


def _full(T):
    """Return e_1^T log(T) e_1: Gauss quadrature of the logarithm."""
    theta, Y = eigh_tridiagonal(*T)
    return float(Y[0] ** 2 @ np.log(theta))


def _part(T):
    """Return the same from the first three quarters of the steps."""
    k = max(1, 3 * len(T[0]) // 4)
    return _full((T[0][:k], T[1][: k - 1]))


class _Logdet(torch.autograd.Function):
    """The estimate, with gradient sum_j weight_j <A^{-1} z_j, dA P^{-1} z_j>."""

    @staticmethod
    def forward(ctx, estimate, system, PZ, weights, X, *parameters):
        ctx.system, ctx.PZ, ctx.cotangent = system, PZ, X * weights[..., None, :]
        ctx.save_for_backward(*parameters)
        return estimate.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, G):
        needed = ctx.needs_input_grad[5:]
        with torch.enable_grad():
            twins = [p.detach().requires_grad_(need) for p, need in zip(ctx.saved_tensors, needed, strict=True)]
            operator = ctx.system.A.operator._with(twins)
            product = operator._matmat(ctx.PZ.to(operator.dtype))
            cotangent = (ctx.cotangent * G[..., None, None]).to(product.dtype)
            wanted = [t for t, need in zip(twins, needed, strict=True) if need]
            found = iter(torch.autograd.grad(product, wanted, cotangent, allow_unused=True))
        return None, None, None, None, None, *(next(found) if need else None for need in needed)


def stochastic_trace(A, *, n_probes=48, random_state=None):
    r"""Estimate :math:`\mathrm{tr} A` by Hutch++ [1]_: exactly on a random subspace, by probes on the rest.

    Parameters
    ----------
    A : LinearOperator, array or sparse matrix, shape (n, n)
        Any square matrix; the method is at its best for positive semidefinite ones.
    n_probes : int
        Products with `A`, a third each for the subspace, its trace and the rest; at least 6, 48 by default.
    random_state : None, int or numpy.random.Generator
        None (the default) draws a fresh seed.

    Returns
    -------
    StochasticEstimate
        Without derivatives; ``operator.trace()`` has them. Exact, with error 0, if ``n_probes >= 3 n``.

    Raises
    ------
    InvalidInputError
        If `A` is not square or a batch.

    References
    ----------
    .. [1] R. Meyer, C. Musco, C. Musco, D. Woodruff, Hutch++: optimal stochastic trace estimation, 2021,
       arXiv 2010.09649.

    Examples
    --------
    >>> round(float(stochastic_trace(np.diag([1.0, 2.0, 3.0]), random_state=0).value), 6)
    6.0
    """
    operator = as_operator(A)
    if operator.shape[0] != operator.shape[1] or operator.batch_shape:
        raise InvalidInputError(f"A must be one square matrix; got {operator!r}. Take one of the batch.")
    count = min(check_number("n_probes", n_probes, low=6, integer=True) // 3, max(operator.shape[0], 1))
    rng = generator(random_state)
    with torch.no_grad():
        Q = torch.linalg.qr(operator._matmat(_probes(operator, None, count, rng)))[0]
        inside = (Q.conj() * operator._matmat(Q)).sum()
        G = _probes(operator, None, count, rng)
        G = G - Q @ (Q.mH @ G)
        rest = (G.conj() * operator._matmat(G)).sum(-2)
        error = float(rest.abs().std()) / math.sqrt(count) if count > 1 and count < operator.shape[0] else 0.0
        value = inside + rest.mean()
    return StochasticEstimate(operator._leave(value), error, 0.0, n_probes, 1, 3 * count)
