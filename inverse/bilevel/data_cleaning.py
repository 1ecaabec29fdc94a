r"""Data cleaning as a lower level: every training row has a weight of its own, learned from few rows that are clean.

.. math:: h(x, \theta) = \frac1N \sum_k \sigma(\theta_k)\, \ell(a_k^T x, t_k) + \frac c2 \|x\|^2, \qquad
          \sigma(\theta) = \frac{1}{1 + e^{-\theta}}

Notation  a_k rows of X (N, p), t_k targets; x (p,), or (K, p); theta (N,) one number a row, small where its target is
          wrong; J = d/dtheta G has the columns sigma'(theta_k) l'_k a_k / N.
Cost      a gradient or a product with H: two products with X; a product with J or its transpose: one.
Pitfalls  the penalty c alone makes h strongly convex, since all weights may go to zero. Weights are relative: with all
          of them halved and c halved the solution is the same, so that c sets their scale.
References  L. Franceschi, M. Donini, P. Frasconi, M. Pontil, Forward and reverse gradient-based hyperparameter
          optimization, 2017, arXiv 1703.01785 (data hyper-cleaning).
"""

from __future__ import annotations

import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.linear_models import _Model
from sciml.inverse.bilevel.linear_point import ModelPoint
from sciml.inverse.bilevel.lower import Constants
from sciml.validation import check_number

__all__ = ["DataCleaning"]


class _CleaningPoint(ModelPoint):
    """J has one column a row of the data."""

    def __init__(self, model, x, theta, idx, count, value):
        super().__init__(model, x, theta, idx, count, value)
        self._rates = self._weights * (1 - self._weights) / self._folds[0].n_rows

    def cross(self, t):
        self._count.cross += len(self.x)
        weights = self._rates * t.to(self.x.dtype)
        return torch.stack([fold.back(weights * e) for fold, e in zip(self._folds, self._slopes, strict=True)])

    def cross_adjoint(self, q, blocks):
        self._count.cross += sum(block.stop - block.start for block in blocks)
        pairs = zip(self._folds, self._slopes, strict=True)
        each = torch.stack([_per_row(e * fold.scores(q[j])) for j, (fold, e) in enumerate(pairs)])
        return self._summed(each, blocks)

    def third(self, p, q, blocks):
        self._count.third += sum(block.stop - block.start for block in blocks)
        in_x, each = [], []
        for state, (zp, zq, e) in zip(self._states, self._third_in_x(p, q), strict=True):
            in_x.append(e)
            each.append(_per_row(zp * self._loss.curve(state, zq)))
        return torch.stack(in_x), self._summed(torch.stack(each), blocks)

    def _summed(self, each, blocks):
        return torch.stack([self._rates.double() * each[block].double().sum(0) for block in blocks])

    def _norm_J(self):
        # The smaller of two bounds: the Frobenius norm, and |X| times the longest of the slopes.
        bounds = []
        for fold, e in zip(self._folds, self._slopes, strict=True):
            slopes = self._rates.double() * torch.sqrt(_per_row(e.double() ** 2))
            rows = torch.linalg.vector_norm(fold.X.double(), dim=1)
            bounds.append(torch.minimum(fold.largest**0.5 * slopes.max(), torch.linalg.vector_norm(slopes * rows)))
        return torch.stack(bounds)


def _per_row(e):
    return e if e.ndim == 1 else e.sum(0)


class _CleaningModel(_Model):
    """Weights sigma(theta) of the rows and a fixed penalty; see `DataCleaning`."""

    def _row_weights(self, theta):
        return torch.sigmoid(theta.to(self.folds[0].X.dtype))

    def _penalties(self, theta):
        return torch.as_tensor(self.c, dtype=self.folds[0].X.dtype, device=theta.device)

    def constants(self, theta, idx):
        """Return the bounds; see `Lower`."""
        weights, fold = self._row_weights(theta).double(), self.folds[0]
        rates = weights * (1 - weights) * torch.linalg.vector_norm(fold.X.double(), dim=1)
        c, third, heaviest = self.loss.curvature, self.loss.third_bound, weights.max()
        largest = fold.largest / fold.n_rows

        def each(value):
            return torch.as_tensor(value, dtype=torch.float64, device=theta.device).expand(len(idx))

        return Constants(
            mu=each(self.c),
            L=each(c * largest * heaviest + self.c),
            LH=each(third * largest * fold.longest * heaviest),
            LJ=each(c * fold.largest**0.5 * rates.max() / fold.n_rows),
        )

    def norm_J(self, point):
        """Return bounds of the norms of J; see `Lower`."""
        return point._norm_J()


class DataCleaning(_CleaningModel):
    r"""A linear model whose training rows are weighted by :math:`\sigma(\theta_k)`.

    Parameters
    ----------
    X : array, shape (N, p)
        Features of the training rows; add a column of ones for an intercept.
    y : array, shape (N,)
        Targets, of which some may be wrong: numbers; classes 0 and 1 (or -1 and 1); or class numbers from 0.
    c : float
        Penalty of all weights, dimensionless where the columns of X are; above 0. 1e-2 by default: small beside the
        curvature 1/4 of a standardised column.
    loss : {"squared", "logistic", "multinomial"}
        Half the squared error, or the negative log likelihood (logistic by default).
    n_classes : int or None
        Classes K of the multinomial loss; None (the default) counts those in `y`.

    Attributes
    ----------
    n_hyper : int
        Length of theta, N.
    shape : tuple
        Of one sample's x: (p,), or (K, p).

    Raises
    ------
    InvalidInputError
        If shapes disagree, an entry is not finite, targets do not suit the loss, more than one training set comes, or
        `c` is not above 0.

    Examples
    --------
    With all weights 1/2 (theta = 0) the energy at x = 0 is half of log 2:

    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel.counter import Counter
    >>> from sciml.inverse.bilevel.data_cleaning import DataCleaning
    >>> model = DataCleaning(np.ones((4, 1)), np.array([0, 1, 1, 1]))
    >>> x, theta = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    >>> round(float(model.at(x, theta, torch.tensor([0]), Counter(), value=True).value), 6)
    0.346574
    """

    def __init__(self, X, y, *, c=1e-2, loss="logistic", n_classes=None):
        self.c = check_number("c", c, low=0, inclusive="neither")
        self._read(X, y, loss, n_classes, reduce=False)
        if self.n_samples != 1:
            raise InvalidInputError(
                f"X must be one training set (N, p), since theta has an entry for each row; got {self.n_samples} of "
                "them. Clean them one by one."
            )
        self.n_hyper = self.folds[0].n_rows
        self._point = _CleaningPoint
