r"""The upper level of a linear model: its mean loss on rows that it was not fitted to.

.. math:: g_i(x) = \frac{1}{M_i} \sum_k \ell(a_k^T x, t_k)

Notation  a_k rows of the validation matrix (M_i, p), t_k targets; x (p,), or (K, p) with K classes.
Cost      value and gradient: two products with the matrix; a product with the Hessian likewise.
Pitfalls  the squared loss is half the mean square. With more hyperparameters than validation rows the minimum found is
          no estimate of the error on new data: keep a third set, or cross-validate the whole.
References  F. Pedregosa, Hyperparameter optimization with approximate gradient, 2016, arXiv 1602.02355.
"""

from __future__ import annotations

import torch

from sciml.inverse.bilevel.folds import read_folds
from sciml.inverse.bilevel.losses import find_loss
from sciml.inverse.bilevel.upper import UpperLoss

__all__ = ["HeldOut"]


class _HeldOut(UpperLoss):
    """Value and derivatives in closed form, fold by fold; see `HeldOut`."""

    def _mean(self, x, theta, idx):
        means = []
        for j, fold in enumerate(self._of(idx)):
            loss = self._loss.value(fold.scores(x[j]), fold.t)
            means.append((loss.sum(dtype=torch.float64) + 0.5 * fold.rest) / fold.n_rows)
        return torch.stack(means)

    def gradient(self, x, theta, idx):
        """Return the losses and their gradients; see `UpperLoss`."""
        values, out = [], torch.empty_like(x)
        for j, fold in enumerate(self._of(idx)):
            z = fold.scores(x[j])
            loss = self._loss.value(z, fold.t)
            values.append((loss.sum(dtype=torch.float64) + 0.5 * fold.rest) / fold.n_rows)
            out[j] = fold.back(self._loss.slope(z, fold.t, self._loss.state(z))) / fold.n_rows
        return torch.stack(values), out

    def gradient_theta(self, x, theta, idx, blocks):
        """Return None: the loss does not depend on theta; see `UpperLoss`."""

    def hvp(self, x, theta, idx, v):
        """Return products of the Hessian, which is positive semidefinite; see `UpperLoss`."""
        out = torch.empty_like(v)
        for j, fold in enumerate(self._of(idx)):
            state = self._loss.state(fold.scores(x[j]))
            out[j] = fold.back(self._loss.curve(state, fold.scores(v[j]))) / fold.n_rows
        return out

    def Lg(self, x, theta, idx):
        """Return Lipschitz constants of the gradient, from singular values; see `UpperLoss`."""
        bounds = [self._loss.curvature * fold.largest / fold.n_rows for fold in self._of(idx)]
        return torch.tensor(bounds, dtype=torch.float64, device=x.device)

    def to(self, device, dtype):
        """Return the loss with its data on a device in a dtype; see `UpperLoss`."""
        if self._folds[0].X.device == torch.device(device) and self._folds[0].X.dtype == dtype:
            return self
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._folds = [fold.to(device, dtype) for fold in self._folds]
        # A bound method would compute with the data of the original.
        copy.g = copy._mean
        return copy

    def _of(self, idx):
        return [self._folds[i] for i in idx.tolist()]


class HeldOut(_HeldOut):
    """The mean loss of a linear model on validation rows, one set for each sample.

    Parameters
    ----------
    loss : {"squared", "logistic", "multinomial"}
        Half the squared error, or the negative log likelihood; its mean over the rows is taken.
    X : array, shape (M, p) or (B, M, p), or sequence of B arrays (M_i, p)
        Features, with the columns of the lower level: one matrix, or one for each sample.
    y : array, shape (M,) or (B, M), or sequence of B arrays (M_i,)
        Targets: numbers; classes 0 and 1 (or -1 and 1, or probabilities); or class numbers from 0.
    r : callable or None
        A term ``r(theta)`` of theta alone; None (the default) means none.
    n_classes : int or None
        Classes K of the multinomial loss, where `y` may lack some; None (the default) counts those in `y`.

    Raises
    ------
    InvalidInputError
        If shapes disagree, an entry is not finite, or targets do not suit the loss.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel.held_out import HeldOut
    >>> upper = HeldOut("squared", np.eye(2), np.array([3.0, 1.0]))
    >>> x = torch.ones(1, 2, dtype=torch.float64)
    >>> upper.value(x, torch.zeros(1), torch.tensor([0])).tolist()
    [1.0]
    """

    def __init__(self, loss, X, y, *, r=None, n_classes=None):
        self._loss = find_loss(loss)
        self._folds, self.n_classes = read_folds(X, y, self._loss, n_classes=n_classes)
        p = self._folds[0].X.shape[1]
        shape = (p,) if self.n_classes is None else (self.n_classes, p)
        super().__init__(self._mean, 0.0, Lt=0.0, r=r, shape=shape, n_samples=len(self._folds))
