r"""The data of linear models: one matrix and one target for each sample of a bilevel problem, such as a fold.

Notation  B samples (folds); sample i has a matrix X_i (N_i, p) and targets y_i (N_i,); s singular values of X_i.
Cost      eigenvalues of X_i^T X_i or X_i X_i^T at construction, N p min(N, p); with a squared loss and N > p the
          rows are first replaced by a triangular factor, so that later products cost p^2 instead of N p.
Pitfalls  folds may differ in length, so that samples are kept in a list and never padded: a product for one sample is
          the same, bit for bit, whatever other samples are asked for with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.arrays import enter

__all__ = ["Fold", "read_folds"]


@dataclass(frozen=True)
class Fold:
    """The data of one sample, and what is known of its matrix.

    Parameters
    ----------
    X : torch.Tensor, shape (m, p)
        Rows; with a squared loss perhaps a triangular factor of them.
    t : torch.Tensor, shape (m,)
        Targets as the loss wants them.
    n_rows : int
        Rows of the data, by which sums are divided.
    largest, smallest : float
        Squared singular values of X; the smallest is 0 where there are fewer rows than columns.
    longest : float
        Largest 2-norm of a row.
    rest : float
        Squared norm of the part of the targets that no x can reach, where rows were replaced by a factor; else 0.
    gram : torch.Tensor, shape (p, p), or None
        X^T X / N, where it is wanted.
    """

    X: torch.Tensor
    t: torch.Tensor
    n_rows: int
    largest: float
    smallest: float
    longest: float
    rest: float = 0.0
    gram: torch.Tensor | None = None

    def scores(self, x):
        """Return X x, (m,), or (K, m) for x (K, p)."""
        return self.X @ x if x.ndim == 1 else x @ self.X.mT

    def back(self, e):
        """Return X^T e, (p,), or (K, p) for e (K, m)."""
        return self.X.mT @ e if e.ndim == 1 else e @ self.X

    def to(self, device, dtype):
        """Return the data on a device in a dtype; the constants stay."""
        t = self.t.to(device) if self.t.dtype == torch.long else self.t.to(device=device, dtype=dtype)
        X = self.X.to(device=device, dtype=dtype)
        gram = None if self.gram is None else self.gram.to(device=device, dtype=dtype)
        return replace(self, X=X, t=t, gram=gram)

    def with_gram(self):
        """Return the same with X^T X / N."""
        return replace(self, gram=self.X.mT @ self.X / self.n_rows)


def read_folds(X, y, loss, *, names=("X", "y"), n_classes=None, reduce=True):
    """Return the data of all samples, checked, and the number of classes.

    Parameters
    ----------
    X : array, shape (N, p) or (B, N, p), or sequence of arrays (N_i, p)
        One matrix, or one for each sample.
    y : array, shape (N,) or (B, N), or sequence of arrays (N_i,)
        Targets, likewise.
    loss : Loss
        Of `sciml.inverse.bilevel.losses`; decides what targets are right.
    names : tuple of str
        The arguments' names, for messages.
    n_classes : int or None
        Classes of a loss that has some; None (the default) takes the largest number that occurs, plus 1.
    reduce : bool
        Replace rows by a triangular factor where the loss is squared and N > p; True by default.

    Returns
    -------
    folds : list of Fold
    n_classes : int or None
        None where the loss has no axis of classes.

    Raises
    ------
    InvalidInputError
        If shapes disagree, an entry is not finite, or targets do not suit the loss.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel.folds import read_folds
    >>> from sciml.inverse.bilevel.losses import find_loss
    >>> folds, _ = read_folds(np.diag([3.0, 1.0]), np.ones(2), find_loss("squared"))
    >>> round(folds[0].largest, 9), round(folds[0].smallest, 9)
    (9.0, 1.0)
    """
    Xs, ys = _listed(names[0], X, 2), _listed(names[1], y, 1)
    if len(Xs) != len(ys):
        raise InvalidInputError(
            f"{names[1]} must hold one array for each of the {len(Xs)} matrices in {names[0]}; got {len(ys)}."
        )
    widths = {A.shape[1] for A in Xs}
    if len(widths) != 1:
        raise InvalidInputError(
            f"{names[0]} must have the same columns in every fold; got {sorted(widths)}. Select the features first."
        )
    for i, (A, b) in enumerate(zip(Xs, ys, strict=True)):
        if len(A) != len(b) or A.numel() == 0:
            raise InvalidInputError(
                f"{names[1]} must hold one target for each row of {names[0]}, and at least one; fold {i} has "
                f"{tuple(A.shape)} and {tuple(b.shape)}."
            )
    ts = [loss.targets(names[1], b, Xs[0].dtype, n_classes) for b in ys]
    if loss.classes and n_classes is None:
        n_classes = max(2, 1 + max(int(t.max()) for t in ts))
    folds = [_fold(A, t, reduce and loss.name == "squared") for A, t in zip(Xs, ts, strict=True)]
    return folds, n_classes if loss.classes else None


def _listed(name, arrays, ndim):
    """Return a list of tensors of one dtype and device; a plain array with an axis more is split along the first."""
    if isinstance(arrays, (list, tuple)) and len(arrays) and hasattr(arrays[0], "shape"):
        parts = list(arrays)
    else:
        (whole,), _ = enter(arrays, names=(name,))
        parts = list(whole) if whole.ndim == ndim + 1 else [whole]
    if not parts:
        raise InvalidInputError(f"{name} must hold at least one array; got none.")
    parts, _ = enter(*parts, names=[name if len(parts) == 1 else f"{name}[{i}]" for i in range(len(parts))])
    for part in parts:
        if part.ndim != ndim or part.is_complex():
            raise InvalidInputError(
                f"{name} must be real, of {ndim} axes, or one such array for each fold; got {part.dtype} of shape "
                f"{tuple(part.shape)}."
            )
    return [part.detach() for part in parts]


def _fold(X, t, reduce):
    n_rows, p = X.shape
    rest = 0.0
    longest = float(torch.linalg.vector_norm(X, dim=1).max())
    if reduce and n_rows > p:
        R = torch.linalg.qr(torch.cat([X, t[:, None]], 1), mode="r").R
        X, t, rest = R[:p, :p].contiguous(), R[:p, p].contiguous(), float(R[p, p]) ** 2
    A = X.double()
    squares = torch.linalg.eigvalsh(A @ A.mT if len(A) < p else A.mT @ A)
    high, low = float(squares[-1]), float(squares[0]) if len(A) >= p else 0.0
    # Computed ones are off by about eps times the largest; the bounds are moved outwards by more than that.
    slack = 4 * max(X.shape) * torch.finfo(torch.float64).eps * high
    return Fold(X.contiguous(), t, n_rows, high + slack, max(0.0, low - slack), longest, rest)
