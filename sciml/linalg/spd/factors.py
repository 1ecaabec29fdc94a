r"""Square factors of positive semidefinite matrices: A = L L^H, by Cholesky where it exists, else by eigenvectors.

Distances and means of the Bures-Wasserstein geometry need some factor of every matrix, not a particular one, so that
the cheapest accurate factor is taken for each matrix of a batch. A matrix is singular to working precision where some
channel is a combination of the others up to rounding,

.. math:: \max_i A_{ii} (A^{-1})_{ii} > 1 / (4 n \epsilon),

a measure that the units of the channels do not change. It is balanced to unit diagonal then, and eigenvalues that are
rounding errors become zero, so that two factors of one singular matrix agree to eps and not to its square root.

Notation  A (..., n, n) positive semidefinite; L (..., n, n); D diagonal of A; s, U eigenvalues and eigenvectors.
Cost      n^3 / 3 flops a matrix; as many more where a pivot is small, 10 n^3 more for each singular one.
Pitfalls  a small pivot alone says little: in a singular matrix the last one is rounding, amplified by the others.
References  N. Higham, Accuracy and Stability of Numerical Algorithms, chapter 10, 2002.
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.arrays import enter
from sciml.linalg.spd.checks import as_spd

__all__ = ["spd_factor"]

_SMALL = 1e-7  # pivots relative to the diagonal that are worth a second look
_NEGATIVE = 1e-10  # relative to the largest eigenvalue: below lies an error of the data, above one of rounding


def spd_factor(A):
    r"""Return a square factor, :math:`A = L L^H`, of every matrix of a batch.

    Parameters
    ----------
    A : array, shape (..., n, n)
        Positive semidefinite matrices, real symmetric or complex Hermitian.

    Returns
    -------
    array, shape (..., n, n)
        Lower triangular with a positive diagonal where the matrix is positive definite to working precision, else any
        square factor, with a column of zeros for each lost rank. In units of the square root of `A`.

    Raises
    ------
    NotPositiveDefiniteError
        If a matrix has an eigenvalue below -1e-10 of its largest one.
    InvalidInputError
        If `A` is not square, symmetric and finite, or a singular tensor asks for a gradient: its factor has none.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.linalg.spd import spd_factor
    >>> spd_factor(np.array([[4.0, 2.0], [2.0, 5.0]]))
    array([[2., 0.],
           [1., 2.]])
    >>> L = spd_factor(np.ones((2, 2)))  # of rank one
    >>> (L @ L.T).round(12)
    array([[1., 1.],
           [1., 1.]])
    """
    (A,), leave = enter(A, names=("A",))
    A = as_spd("A", A)
    L, singular = factor(A.detach(), "A")
    if A.requires_grad:
        if bool(singular.any()):
            raise InvalidInputError(
                f"A must be positive definite where a gradient is asked for; got {int(singular.sum())} singular "
                "matrices, whose factor has no derivative. Add shrinkage, or differentiate a distance instead."
            )
        L = torch.linalg.cholesky(A)
    return leave(L)


def factor(A, name="A", eps=None):
    """Return (L, singular) of symmetric tensors without gradient; `singular` of shape (...) says where Cholesky failed.

    `eps` is the precision of the data, that of their dtype by default: float32 data computed in float64 keep theirs.
    """
    n = A.shape[-1]
    eps = torch.finfo(A.dtype).eps if eps is None else eps
    L, info = torch.linalg.cholesky_ex(A)
    diagonal = A.diagonal(dim1=-2, dim2=-1).real
    pivots = L.diagonal(dim1=-2, dim2=-1).real.square()
    singular = info != 0
    suspect = ~singular & ~(pivots > max(_SMALL, n * eps) * diagonal).all(-1)
    if bool(suspect.any()):
        eye = torch.eye(n, dtype=L.dtype, device=L.device).expand(int(suspect.sum()), n, n)
        inverse = torch.linalg.solve_triangular(L[suspect], eye, upper=False)
        inflation = (diagonal[suspect] * inverse.abs().square().sum(-2)).amax(-1)
        singular[suspect] = ~(inflation * (4 * n * eps) <= 1)  # also where a tiny pivot overflowed
    if bool(singular.any()):
        flat, rows = A.reshape(-1, n, n), singular.reshape(-1).nonzero()[:, 0]
        check_semidefinite(name, A, flat[rows], rows, eps)
        L = L.reshape(-1, n, n).clone()
        L[rows] = _balanced_factor(flat[rows], eps)
        L = L.reshape(A.shape)
    return L, singular


def _balanced_factor(A, eps):
    """Return U sqrt(s) of the balanced matrix, turned back; eigenvalues that are rounding errors become zero."""
    n = A.shape[-1]
    root = A.diagonal(dim1=-2, dim2=-1).real.clamp_min(0).sqrt()
    inverse = torch.where(root > 0, 1 / root, 0)
    s, U = torch.linalg.eigh(A * inverse[..., :, None] * inverse[..., None, :])
    s = torch.where(s > 2 * n * eps * s[..., -1:], s, 0)
    return root[..., :, None] * U * s.sqrt()[..., None, :]


def check_semidefinite(name, batch, A, rows, eps):
    """Raise if one of the matrices A, which are number `rows` of the flattened batch, has a negative eigenvalue."""
    values = torch.linalg.eigvalsh(A)
    limit = max(_NEGATIVE, 4 * A.shape[-1] * eps) * values.abs().amax(-1)
    bad = (values[:, 0] < -limit).nonzero()[:, 0]
    if len(bad):
        raise indefinite(name, batch, int(rows[bad[0]]), float(values[bad[0], 0]), "positive semidefinite")


def check_definite(name, batch, singular, remedy):
    """Raise if a matrix is singular, for geometries in which those lie infinitely far."""
    rows = singular.reshape(-1).nonzero()[:, 0]
    if len(rows):
        A = batch.reshape(-1, *batch.shape[-2:])[rows[0]]
        raise indefinite(name, batch, int(rows[0]), float(torch.linalg.eigvalsh(A)[0]), "positive definite", remedy)


def indefinite(name, batch, row, smallest, rule, remedy=None):
    """Return the error that names a matrix, its smallest eigenvalue and what to do."""
    shape = tuple(batch.shape[:-2])
    index = None if not shape else row if len(shape) == 1 else tuple(int(i) for i in _unravel(row, shape))
    which = f"{name}" if index is None else f"number {index} of {name}"
    remedy = remedy or "Estimate covariances with shrinkage (shrink=1e-3), or clip with clip_eigenvalues."
    return NotPositiveDefiniteError(
        f"{name} must be {rule}; {which} has smallest eigenvalue {smallest:.3g}. {remedy}",
        index=index,
        smallest=smallest,
    )


def _unravel(row, shape):
    place = []
    for length in reversed(shape):
        row, rest = divmod(row, length)
        place.append(rest)
    return reversed(place)
