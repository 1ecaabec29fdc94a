r"""Functions of Hermitian matrices with exact derivatives: root, inverse root, logarithm, exponential, power, inverse.

.. math:: f(A) = U f(s) U^H, \qquad
          \mathrm{grad}_A = U \bigl( F \circ (U^H \mathrm{grad}\, U) \bigr) U^H, \quad F_{ij} = f[s_i, s_j]

The derivative is exact where eigenvalues repeat or nearly do, since the divided differences f[a, b] are computed by
forms that do not cancel (:mod:`sciml.linalg.spd.quotients`); no threshold decides what is equal.

Notation  A (..., n, n); s (..., n) eigenvalues; U eigenvectors; F divided differences.
Cost      one eigendecomposition forward (about 9 n^3), four products backward; s and U are kept.
Pitfalls  the logarithm and negative powers of a singular matrix do not exist and raise; the derivative of the root is
          infinite there. Second derivatives exist for root, inverse root and inverse; else they raise.
References Ju. L. Daleckii, S. G. Krein, Integration and differentiation of functions of Hermitian operators, 1965;
          C. Ionescu, O. Vantzos, C. Sminchisescu, Matrix backpropagation, ICCV 2015, arXiv 1509.07838.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter
from sciml.linalg.spd.checks import as_spd, check_eigenvalues, eigh_symmetric, symmetrise
from sciml.linalg.spd.quotients import KINDS, apply_function, divided_difference
from sciml.validation import check_number, check_option

__all__ = ["clip_eigenvalues", "expm", "invm", "invsqrtm", "logm", "powm", "spectral", "sqrtm"]

_TWICE = ("sqrt", "invsqrt", "inv")  # kinds with a second derivative in closed form


class _NoSecondDerivative(torch.autograd.Function):
    """The identity, whose derivative is an error that names the function."""

    @staticmethod
    def forward(ctx, grad, kind, *inputs):
        ctx.kind = kind
        return grad.clone()

    @staticmethod
    def backward(ctx, *_):
        raise InvalidInputError(
            f"the second derivative of the matrix function {ctx.kind!r} is not available; it is for "
            f"{', '.join(map(repr, _TWICE))}. Differentiate once, or take finite differences of the gradient."
        )


class _Spectral(torch.autograd.Function):
    @staticmethod
    def forward(ctx, A, kind, parameter, s, U):
        if kind == "clip" and isinstance(parameter, torch.Tensor):
            ctx.save_for_backward(A, s, U, parameter)
        else:
            ctx.save_for_backward(A, s, U)
        ctx.kind, ctx.parameter = kind, parameter
        values = apply_function(kind, s, parameter)
        return symmetrise((U * values.unsqueeze(-2)) @ U.mH)

    @staticmethod
    def backward(ctx, grad):
        A, s, U, *floor = ctx.saved_tensors
        kind, parameter = ctx.kind, floor[0] if floor else ctx.parameter
        if torch.is_grad_enabled() and kind in _TWICE:
            # A second derivative is asked for: the same product, as a function of A and grad with a derivative.
            from sciml.linalg.spd.multipliers import multiply_in_basis

            return multiply_in_basis(A, symmetrise(grad), kind, s.detach(), U.detach()), None, None, None, None
        with torch.no_grad():
            inner = U.mH @ symmetrise(grad.detach()) @ U
            at = parameter.unsqueeze(-1) if isinstance(parameter, torch.Tensor) and parameter.ndim else parameter
            F = divided_difference(kind, s.unsqueeze(-1), s.unsqueeze(-2), at)
            grad_A = symmetrise(U @ (F * inner) @ U.mH)
            grad_floor = None
            if floor and ctx.needs_input_grad[2]:
                clipped = torch.where(s <= parameter, inner.diagonal(dim1=-2, dim2=-1).real, 0.0)
                grad_floor = clipped.sum_to_size(parameter.shape)
        if torch.is_grad_enabled():
            # By way of A as well: the incoming gradient may be a constant, which has no history.
            grad_A = _NoSecondDerivative.apply(grad_A, kind, A, grad)
        return grad_A, None, grad_floor, None, None


def spectral(A, kind, parameter=None, *, eig=None):
    r"""Return f(A) of Hermitian tensors, with gradients; the door of the other functions, without its checks.

    Parameters
    ----------
    A : torch.Tensor, shape (..., n, n)
        Hermitian; symmetrised here, so that the derivative is that of a function of any square matrix.
    kind : {"sqrt", "invsqrt", "inv", "log", "exp", "pow", "clip"}
        Which function.
    parameter : float, torch.Tensor or None
        The exponent of "pow" (a float), the floor of "clip" in the units of `A` (a float or a tensor of shape
        ``(..., 1)``, through which gradients flow); None else.
    eig : tuple of torch.Tensor or None
        Eigenvalues (..., n) and eigenvectors (..., n, n) of `A` where they are known; None (the default) computes
        them.

    Returns
    -------
    torch.Tensor, shape (..., n, n)

    Raises
    ------
    InvalidInputError
        If `kind` is unknown.

    Examples
    --------
    >>> import torch
    >>> A = torch.eye(2, dtype=torch.float64, requires_grad=True)
    >>> spectral(A, "log")[0, 1].backward()
    >>> A.grad.tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    check_option("kind", kind, KINDS)
    A = symmetrise(A)
    s, U = eigh_symmetric(A) if eig is None else (part.detach() for part in eig)
    return _Spectral.apply(A, kind, parameter, s, U)


def _function(name_kind, A, definite, parameter=None):
    (A,), leave = enter(A, names=("A",))
    A = as_spd("A", A)
    eig = eigh_symmetric(A)
    if definite is not None and A.numel():
        check_eigenvalues("A", eig[0], definite)
    return leave(spectral(A, name_kind, parameter, eig=eig))


def sqrtm(A):
    r"""Return the positive semidefinite square root :math:`A^{1/2}`.

    Parameters
    ----------
    A : array_like, shape (..., n, n)
        Hermitian positive semidefinite matrices, in any unit; NumPy or torch.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        In the square root of the unit of `A`; of the kind that came in, with gradients (infinite at a repeated
        eigenvalue zero).

    Raises
    ------
    InvalidInputError
        If `A` is not square, Hermitian and finite.
    NotPositiveDefiniteError
        If an eigenvalue lies below ``-1e-10 lam_max``.

    References
    ----------
    N. J. Higham, Functions of Matrices, SIAM 2008, chapter 6.

    Examples
    --------
    >>> import numpy as np
    >>> sqrtm(np.diag([4.0, 9.0]))
    array([[2., 0.],
           [0., 3.]])
    """
    return _function("sqrt", A, "semi")


def invsqrtm(A):
    r"""Return the inverse square root :math:`A^{-1/2}`.

    Parameters
    ----------
    A : array_like, shape (..., n, n)
        Hermitian positive definite matrices, in any unit.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Of the kind that came in, with gradients.

    Raises
    ------
    InvalidInputError
        If `A` is not square, Hermitian and finite.
    NotPositiveDefiniteError
        If a matrix is singular or indefinite.

    References
    ----------
    N. J. Higham, Functions of Matrices, SIAM 2008, chapter 6.

    Examples
    --------
    >>> import numpy as np
    >>> invsqrtm(np.diag([4.0, 16.0])).diagonal()
    array([0.5 , 0.25])
    """
    return _function("invsqrt", A, "positive")


def invm(A):
    r"""Return the inverse :math:`A^{-1}`, with the derivative of the eigenbasis.

    Parameters
    ----------
    A : array_like, shape (..., n, n)
        Hermitian positive definite matrices, in any unit. To solve a system, factor instead.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Of the kind that came in, with gradients.

    Raises
    ------
    InvalidInputError
        If `A` is not square, Hermitian and finite.
    NotPositiveDefiniteError
        If a matrix is singular or indefinite.

    References
    ----------
    N. J. Higham, Functions of Matrices, SIAM 2008, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> invm(np.diag([4.0, 2.0])).diagonal()
    array([0.25, 0.5 ])
    """
    return _function("inv", A, "positive")


def logm(A):
    r"""Return the matrix logarithm :math:`\log A`.

    Parameters
    ----------
    A : array_like, shape (..., n, n)
        Hermitian positive definite matrices; a factor c in the unit adds log c to the diagonal.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Hermitian, of the kind that came in, with gradients.

    Raises
    ------
    InvalidInputError
        If `A` is not square, Hermitian and finite.
    NotPositiveDefiniteError
        If a matrix is singular or indefinite.

    References
    ----------
    V. Arsigny, P. Fillard, X. Pennec, N. Ayache, Geometric means in a novel vector space structure on symmetric
    positive-definite matrices, SIAM J. Matrix Anal. Appl. 2007.

    Examples
    --------
    >>> import numpy as np
    >>> logm(np.diag([1.0, np.e])).diagonal()
    array([0., 1.])
    """
    return _function("log", A, "positive")


def expm(A):
    r"""Return the matrix exponential :math:`\exp A` of Hermitian matrices.

    Parameters
    ----------
    A : array_like, shape (..., n, n)
        Hermitian matrices of any signature, dimensionless.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Positive definite, of the kind that came in, with gradients.

    Raises
    ------
    InvalidInputError
        If `A` is not square, Hermitian and finite.

    References
    ----------
    N. J. Higham, Functions of Matrices, SIAM 2008, chapter 10.

    Examples
    --------
    >>> import numpy as np
    >>> expm(np.diag([0.0, np.log(2.0)])).diagonal()
    array([1., 2.])
    """
    return _function("exp", A, None)


def powm(A, p):
    r"""Return the power :math:`A^p`.

    Parameters
    ----------
    A : array_like, shape (..., n, n)
        Hermitian matrices, in any unit: positive definite for negative `p`, else positive semidefinite.
    p : float
        The exponent, dimensionless.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Of the kind that came in, with gradients.

    Raises
    ------
    InvalidInputError
        If `A` is not square, Hermitian and finite, or `p` is no finite number.
    NotPositiveDefiniteError
        If a matrix is indefinite, or singular where `p` is negative.

    References
    ----------
    N. J. Higham, Functions of Matrices, SIAM 2008, chapter 7.

    Examples
    --------
    >>> import numpy as np
    >>> powm(np.diag([4.0, 9.0]), 1.5).diagonal()
    array([ 8., 27.])
    """
    p = check_number("p", p)
    return _function("pow", A, "positive" if p < 0 else "semi", p)


def clip_eigenvalues(A, floor):
    r"""Return :math:`U \max(s, \mathrm{floor}) U^H`: the same matrix with its small eigenvalues raised.

    Parameters
    ----------
    A : array_like, shape (..., n, n)
        Hermitian matrices of any signature, in any unit.
    floor : float or array_like, shape (...)
        The least eigenvalue allowed, in the units of `A`, one for all or one for each matrix. Make it relative, such
        as ``1e-4 * trace / n``: nothing else follows the unit of the data.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n, n)
        Of the kind that came in, with gradients (also to `floor`).

    Raises
    ------
    InvalidInputError
        If `A` is not square, Hermitian and finite, or `floor` does not broadcast against its matrices.

    References
    ----------
    Z. Huang et al., A Riemannian network for SPD matrix learning, AAAI 2017, arXiv 1608.04233, equation 3.

    Examples
    --------
    >>> import numpy as np
    >>> clip_eigenvalues(np.diag([-1.0, 2.0]), 0.5).diagonal()
    array([0.5, 2. ])
    """
    (A, floor), leave = enter(A, floor, names=("A", "floor"))
    A = as_spd("A", A)
    try:
        floor = floor.real.expand(A.shape[:-2]).unsqueeze(-1)
    except RuntimeError:
        raise InvalidInputError(
            f"floor must be one number or of shape {tuple(A.shape[:-2])}; got shape {tuple(floor.shape)}. "
            "Give one floor for each matrix."
        ) from None
    return leave(spectral(A, "clip", floor))
