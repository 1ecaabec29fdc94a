r"""Checks of Hermitian and positive (semi)definite matrices at the door, and the eigendecomposition behind them.

.. math:: A = A^H \text{ up to } 100\,\epsilon \max|A|, \qquad \lambda_{\min} \ge -10^{-10} \lambda_{\max}

Notation  A (..., n, n) tensor; s (..., n) eigenvalues, ascending; eps the rounding unit of the dtype.
Cost      the symmetry check is one pass; ``definite="semi"`` a Cholesky factorisation where it succeeds, else
          eigenvalues; ``definite="positive"`` eigenvalues.
Pitfalls  every threshold is relative to the matrix: covariances in volts squared live at 1e-12.
References N. J. Higham, Functions of Matrices, SIAM 2008.
"""

import warnings

import torch

from sciml.exceptions import ConditioningWarning, FallbackWarning, InvalidInputError, NotPositiveDefiniteError
from sciml.validation import check_option

__all__ = ["as_spd", "check_eigenvalues", "eigh_symmetric", "symmetrise"]

_NEGATIVE = 1e-10  # an eigenvalue below -1e-10 lam_max is no rounding
_SINGULAR = 4.0  # a smallest eigenvalue of a few eps lam_max is rounding
_FLOAT32_CONDITION = 1e5


def symmetrise(A):
    r"""Return the Hermitian part :math:`(A + A^H)/2`.

    Parameters
    ----------
    A : torch.Tensor, shape (..., n, n)
        Any square matrices, in any unit.

    Returns
    -------
    torch.Tensor, shape (..., n, n)
        Exactly Hermitian; gradients flow through.

    Examples
    --------
    >>> import torch
    >>> symmetrise(torch.tensor([[1.0, 2.0], [4.0, 1.0]])).tolist()
    [[1.0, 3.0], [3.0, 1.0]]
    """
    return 0.5 * (A + A.mH)


def as_spd(name, A, *, definite=None):
    r"""Return matrices made exactly Hermitian, or say which one is not what it must be.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    A : torch.Tensor, shape (..., n, n)
        Real symmetric or complex Hermitian, finite, in any unit.
    definite : {None, "semi", "positive"}
        None (the default) asks for symmetry only; "semi" refuses an eigenvalue below ``-1e-10 lam_max``; "positive"
        refuses a smallest eigenvalue of at most ``4 eps lam_max``, too.

    Returns
    -------
    torch.Tensor, shape (..., n, n)
        ``(A + A^H) / 2``; gradients flow through.

    Raises
    ------
    InvalidInputError
        If the matrices are not square, or an entry of the anti-Hermitian part exceeds ``100 eps max|A|``.
    NotPositiveDefiniteError
        If an eigenvalue is too small for `definite`; it carries the index and the eigenvalue.

    Examples
    --------
    >>> import torch
    >>> as_spd("A", torch.tensor([[2.0, 1.0], [1.0, 2.0]]), definite="positive").tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    check_option("definite", "none" if definite is None else definite, ("none", "semi", "positive"))
    if A.ndim < 2 or A.shape[-1] != A.shape[-2] or A.shape[-1] == 0:
        raise InvalidInputError(
            f"{name} must be square matrices of shape (..., n, n); got shape {tuple(A.shape)}. "
            "Put the matrices in the last two axes."
        )
    if not (A.is_floating_point() or A.is_complex()):
        A = A.to(torch.float64)
    if A.numel():
        _check_symmetric(name, A.detach())
    H = symmetrise(A)
    if definite is not None and A.numel():
        plain = H.detach()
        if definite == "positive" or bool((torch.linalg.cholesky_ex(plain).info != 0).any()):
            check_eigenvalues(name, torch.linalg.eigvalsh(plain), definite)
    return H


def _check_symmetric(name, A):
    eps = torch.finfo(A.real.dtype).eps
    skew = 0.5 * (A - A.mH).abs().amax((-2, -1))
    bad = skew > 100 * eps * A.abs().amax((-2, -1))
    if bool(bad.any()):
        where = tuple(int(i) for i in bad.nonzero()[0])
        which = "it" if not where else f"number {where[0] if len(where) == 1 else where}"
        kind, twin = ("Hermitian", f"{name}.conj().T") if A.is_complex() else ("symmetric", f"{name}.T")
        raise InvalidInputError(
            f"{name} must be {kind}; {which} differs from its transpose by {2 * skew[where].item():.3g}, its largest "
            f"entry being {A[where].abs().max().item():.3g}. Pass ({name} + {twin})/2 if that is rounding."
        )


def check_eigenvalues(name, s, definite):
    """Raise unless eigenvalues are those of positive (semi)definite matrices.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    s : torch.Tensor, shape (..., n)
        Eigenvalues of each matrix in ascending order, in the units of the matrix.
    definite : {"semi", "positive"}
        See :func:`as_spd`.

    Raises
    ------
    NotPositiveDefiniteError
        With the index of the first such matrix and its smallest eigenvalue.

    Examples
    --------
    >>> import torch
    >>> check_eigenvalues("A", torch.tensor([[0.0, 1.0]]), "semi")
    """
    s = s.detach()
    smallest, largest = s[..., 0], s[..., -1]
    eps = torch.finfo(s.dtype).eps
    if s.dtype == torch.float64 and bool((smallest > _SINGULAR * eps * largest).all()):
        return  # the common case, in two passes
    largest = largest.clamp(min=0)
    # In float32 rounding alone makes eigenvalues of about -n eps lam_max.
    negative = smallest < -max(_NEGATIVE, 4 * s.shape[-1] * eps) * largest
    singular = smallest <= _SINGULAR * eps * largest if definite == "positive" else negative
    bad = negative | singular
    if bool(bad.any()):
        where = tuple(int(i) for i in bad.nonzero()[0])
        value, top = smallest[where].item(), s[..., -1][where].item()
        index = None if not where else where[0] if len(where) == 1 else where
        which = "it" if index is None else f"number {index}"
        rule = "positive semidefinite" if definite == "semi" else "positive definite"
        remedy = (
            "Remove what made it indefinite, or clip its eigenvalues by clip_eigenvalues."
            if bool(negative[where])
            else 'Estimate it with shrinkage (shrink=1e-3), or choose a geometry of singular matrices, metric="bw".'
        )
        raise NotPositiveDefiniteError(
            f"{name} must be {rule}; {which} has smallest eigenvalue {value:.3g} and largest {top:.3g}. {remedy}",
            index=index,
            smallest=value,
        )
    if s.dtype == torch.float32 and definite == "positive" and bool((largest > _FLOAT32_CONDITION * smallest).any()):
        warnings.warn(
            f"{name} has a condition number above {_FLOAT32_CONDITION:.0e} in float32: expect two digits or fewer in "
            "its small eigenvalues. Compute in float64.",
            ConditioningWarning,
            stacklevel=4,
        )


def eigh_symmetric(A):
    r"""Return eigenvalues and eigenvectors, trying again where LAPACK gives up.

    Parameters
    ----------
    A : torch.Tensor, shape (..., n, n)
        Exactly Hermitian and finite, in any unit. No gradient is recorded: the functions that need one differentiate
        by closed forms, since the derivative of eigenvectors does not exist where eigenvalues repeat.

    Returns
    -------
    s : torch.Tensor, shape (..., n)
        Eigenvalues, ascending, in the units of `A`.
    U : torch.Tensor, shape (..., n, n)
        Orthonormal eigenvectors in columns, dimensionless.

    Raises
    ------
    InvalidInputError
        If the decomposition fails three times.

    Examples
    --------
    >>> import torch
    >>> eigh_symmetric(torch.diag(torch.tensor([3.0, 1.0])))[0].tolist()
    [1.0, 3.0]
    """
    A = A.detach()
    try:
        return torch.linalg.eigh(A)
    except torch.linalg.LinAlgError:
        pass
    # Once in float64 on the CPU at unit scale, then with a diagonal of eps ||A|| that separates the eigenvalues.
    long = torch.complex128 if A.is_complex() else torch.float64
    B = A.to("cpu", long)
    scale = B.abs().amax((-2, -1), keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    n = A.shape[-1]
    ridge = torch.finfo(A.dtype).eps * torch.diag(torch.arange(1, n + 1, dtype=torch.float64) / n)
    for jitter, remark in ((None, "in float64 on the CPU"), (ridge, "with eps ||A|| added to the diagonal")):
        try:
            s, U = torch.linalg.eigh(B / scale if jitter is None else B / scale + jitter)
        except torch.linalg.LinAlgError:
            continue
        warnings.warn(
            f"the eigendecomposition failed for shape {tuple(A.shape)} and was done {remark}.",
            FallbackWarning,
            stacklevel=2,
        )
        return (scale[..., 0].real * s).to(A.device, A.real.dtype), U.to(A.device, A.dtype)
    raise InvalidInputError(
        f"the eigendecomposition of matrices of shape {tuple(A.shape)} failed, also in float64 with a jitter. "
        "Look for entries of very different size."
    )
