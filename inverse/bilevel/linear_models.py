r"""Smooth linear models as lower levels: ridge, logistic and multinomial regression with learned penalties.

.. math:: h_i(x, \theta) = \frac{1}{N_i} \sum_k \ell(a_k^T x, t_k) + \frac12 \sum_j \lambda_j(\theta) x_j^2, \qquad
          \lambda_j = e^{\theta_{s(j)}}

Notation  a_k rows of X_i (N_i, p), t_k targets; x (p,), or (K, p) with K classes; s(j) the number of the penalty of
          entry j: one for all, one a feature, one a weight, or any groups; G = X^T l' / N + lambda x; H = X^T l'' X / N
          + diag(lambda); J = d/dtheta G has, in the column of a group, lambda_j x_j on its entries.
Cost      a gradient or a product with H: two products with X_i; rows of a squared loss are replaced by a factor.
Pitfalls  the loss is a mean over rows, the penalty is not: lambda N is what a sum convention calls the penalty. mu =
          min lambda unless the loss is squared, so that one weight without penalty makes every bound infinite: give
          an intercept a small fixed penalty. Folds are computed one by one, never stacked: matrix products of a stack
          differ in the last bits with what else is in the stack.
References  F. Pedregosa, Hyperparameter optimization with approximate gradient, 2016, arXiv 1602.02355.
"""

from __future__ import annotations

import numpy as np
import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.folds import read_folds
from sciml.inverse.bilevel.linear_point import PenaltyPoint, factor, factor_work, mean_back
from sciml.inverse.bilevel.losses import find_loss
from sciml.inverse.bilevel.lower import Constants, Lower
from sciml.optimize import BatchedMinimum
from sciml.validation import check_number, check_option

__all__ = ["LinearModel", "PENALTIES"]

PENALTIES = ("single", "feature", "weight")
# Up to this many features a quadratic is solved by a factor, which costs a product for every three of them.
_DIRECT = 128


class _Model(Lower):
    """Losses of linear scores and a quadratic penalty; subclasses say what theta does."""

    exact = True

    def _read(self, X, y, loss, n_classes, reduce=True):
        self.loss = find_loss(loss)
        self.folds, self.n_classes = read_folds(X, y, self.loss, n_classes=n_classes, reduce=reduce)
        self.n_samples, self.n_features = len(self.folds), self.folds[0].X.shape[1]
        self.shape = (self.n_features,) if self.n_classes is None else (self.n_classes, self.n_features)
        self.quadratic = self.loss.name == "squared"
        self.direct = self.quadratic and reduce and self.n_features <= _DIRECT
        if self.direct:
            self.folds = [fold.with_gram() for fold in self.folds]

    def _row_weights(self, theta):
        """Return the weights of the rows, (N,), or None where all are 1."""

    def _penalties(self, theta):
        """Return lambda, of the shape of x or of shape ()."""
        raise NotImplementedError

    def gradient(self, x, theta, idx, count):
        """Return G; see `Lower`."""
        count.lower += len(x)
        weights, out = self._row_weights(theta), torch.empty_like(x)
        for j, fold in enumerate(self._of(idx)):
            z = fold.scores(x[j])
            out[j] = mean_back(fold, self.loss.slope(z, fold.t, self.loss.state(z)), weights)
        return out + self._penalties(theta) * x

    def solve(self, x0, theta, idx, eps, count, max_iter):
        """Return the minimisers of quadratics of few unknowns, to rounding; see `Lower`."""
        if not self.direct:
            return None
        x, penalties = torch.empty_like(x0), self._penalties(theta)
        for j, fold in enumerate(self._of(idx)):
            chol = factor(fold, penalties)
            x[j] = torch.cholesky_solve(fold.back(fold.t)[:, None] / fold.n_rows, chol)[:, 0]
            count.lower += factor_work(fold)
        gradient = self.gradient(x, theta, idx, count)
        size = torch.linalg.vector_norm(gradient.double(), dim=1)
        unknown = torch.full_like(size, torch.inf)
        return BatchedMinimum(
            x=x,
            gradient=gradient,
            gradient_norm=size,
            n_iter=torch.ones_like(idx),
            converged=torch.isfinite(size),
            L=torch.zeros_like(size),
            secant_min=unknown,
            last_step=torch.linalg.vector_norm((x - x0).double(), dim=1),
        )

    def at(self, x, theta, idx, count, value=False):
        """Return the linearisation; see `Lower`."""
        # With what the preconditioner will cost: a factor, or a diagonal for half of a product.
        count.lower += len(x) + sum(factor_work(fold) if self.direct else 0.5 for fold in self._of(idx))
        return self._point(self, x.detach(), theta.detach(), idx, count, value)

    def to(self, device, dtype):
        """Return the model with its data on a device in a dtype; see `Lower`."""
        if self.folds[0].X.device == torch.device(device) and self.folds[0].X.dtype == dtype:
            return self
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.folds = [fold.to(device, dtype) for fold in self.folds]
        return copy

    def _of(self, idx):
        return [self.folds[i] for i in idx.tolist()]


class _PenaltyModel(_Model):
    """Penalties e^theta, shared within groups; see `LinearModel`."""

    def to(self, device, dtype):
        """Return the model with its data on a device in a dtype; see `Lower`."""
        copy = super().to(device, dtype)
        if copy is not self:
            copy._groups, copy._learned = self._groups.to(device), self._learned.to(device)
        return copy

    def _penalties(self, theta):
        """Return lambda, of the shape of x, or of shape () where one penalty serves all."""
        lam = torch.exp(theta.to(self.folds[0].X.dtype))
        if self._one:
            return lam[0]
        if self._diagonal:
            return lam.reshape(self.shape)
        spread = lam[self._groups.clamp_min(0)]
        if self._fixed is not None:
            spread = torch.where(self._learned, spread, spread.new_tensor(self._fixed))
        return spread.reshape(self.shape)

    def _spread(self, t):
        """Return the entry of t (n,) that belongs to each entry of x, 0 where nothing is learned."""
        if self._one:
            return t[0]
        if self._diagonal:
            return t.reshape(self.shape)
        return (t[self._groups.clamp_min(0)] * self._learned).reshape(self.shape)

    def _gather(self, e):
        """Return the sums of e, of the shape of x, over the groups: (n,)."""
        e = e.reshape(-1)
        if self._diagonal:
            return e
        if self._one:
            return e.sum().reshape(1)
        out = torch.zeros(self.n_hyper, dtype=e.dtype, device=e.device)
        return out.index_add_(0, self._groups.clamp_min(0), e * self._learned)

    def constants(self, theta, idx):
        """Return the bounds; see `Lower`."""
        lam = self._penalties(theta).double()
        low, high = lam.min(), lam.max()
        learned = lam.expand(self.shape).reshape(-1)[self._learned].max()
        c, third = self.loss.curvature, self.loss.third_bound
        folds = self._of(idx)

        def each(values):
            return torch.tensor(values, dtype=torch.float64, device=lam.device)

        smallest = each([fold.smallest / fold.n_rows for fold in folds]) if self.quadratic else 0.0
        largest = each([fold.largest / fold.n_rows for fold in folds])
        longest = each([fold.longest for fold in folds])
        return Constants(
            mu=smallest + low.expand(len(folds)),
            L=c * largest + high,
            LH=third * largest * longest,
            LJ=learned.expand(len(folds)),
        )

    def norm_J(self, point):
        """Return the norms of J; see `Lower`."""
        # Columns of J have no entry in common, so the largest of their norms is the spectral norm.
        squares = (self._penalties(point.theta) * point.x).double() ** 2
        return torch.stack([self._gather(e).max() for e in squares]).sqrt()


class LinearModel(_PenaltyModel):
    r"""Ridge, logistic or multinomial regression whose penalties are learned, :math:`\lambda = e^\theta`.

    Parameters
    ----------
    X : array, shape (N, p) or (B, N, p), or sequence of B arrays (N_i, p)
        Features: one matrix, or one for each sample of the batch, such as the training rows of a fold. Add a column of
        ones for an intercept.
    y : array, shape (N,) or (B, N), or sequence of B arrays (N_i,)
        Targets: numbers; classes 0 and 1 (or -1 and 1, or probabilities); or class numbers from 0.
    loss : {"squared", "logistic", "multinomial"}
        Half the squared error (the default), or the negative log likelihood; its mean over the rows.
    penalty : {"single", "feature", "weight"} or array of int, shape of x
        What shares a penalty: everything (the default), the weights of one feature, nothing, or entries with the same
        number from 0 to n - 1. Where the number is -1 the penalty is `fixed`, and not learned.
    fixed : float or None
        Penalty of the entries with number -1; above 0. None (the default) allows no such entries.
    n_classes : int or None
        Classes K of the multinomial loss; None (the default) counts those in `y`.

    Attributes
    ----------
    n_hyper : int
        Length n of theta.
    shape : tuple
        Of one sample's x: (p,), or (K, p).

    Raises
    ------
    InvalidInputError
        If shapes disagree, an entry is not finite, targets do not suit the loss, or the numbers of the groups are not
        0, ..., n - 1.

    Notes
    -----
    All constants are exact in the sense that they follow from singular values of X: mu = s_min^2 / N + min lambda for
    the squared loss and min lambda else, L = c s_max^2 / N + max lambda with c = 1, 1/4, 1/2, LH = c3 s_max^2
    max|a_k| / N, LJ = max lambda.

    Examples
    --------
    One feature of ones, target 2, penalty e^0 = 1: the solution is 2 / (1 + 1).

    >>> import numpy as np, torch
    >>> from sciml.inverse.bilevel.counter import Counter
    >>> from sciml.inverse.bilevel.linear_models import LinearModel
    >>> model = LinearModel(np.ones((4, 1)), np.full(4, 2.0))
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> model.gradient(one, torch.zeros(1, dtype=torch.float64), torch.tensor([0]), Counter()).round(decimals=12)
    tensor([[0.]], dtype=torch.float64)
    """

    def __init__(self, X, y, *, loss="squared", penalty="single", fixed=None, n_classes=None):
        self._read(X, y, loss, n_classes)
        size = int(np.prod(self.shape))
        self._diagonal = self._one = False
        if isinstance(penalty, str):
            check_option("penalty", penalty, PENALTIES)
            each = {"single": np.zeros(size), "feature": np.arange(size) % self.n_features, "weight": np.arange(size)}
            groups = each[penalty].astype(np.int64)
        else:
            groups = np.asarray(penalty)
            if groups.shape != self.shape or groups.dtype.kind not in "iu":
                raise InvalidInputError(
                    f"penalty must be a word or integers of shape {self.shape}, one for each entry of x; got "
                    f"{groups.dtype} of shape {groups.shape}."
                )
            groups = groups.astype(np.int64).reshape(-1)
        found = np.unique(groups)
        self.n_hyper = int(found[-1]) + 1
        self._fixed = fixed if fixed is None else check_number("fixed", fixed, low=0, inclusive="neither")
        if not np.array_equal(found[found >= 0], np.arange(self.n_hyper)) or found[0] < -1 or self.n_hyper == 0:
            raise InvalidInputError(
                f"penalty must number its groups 0, 1, ..., with -1 for what is not learned; got {found[:8].tolist()}."
            )
        if found[0] == -1 and fixed is None:
            raise InvalidInputError("fixed must be given where penalty has entries -1; got None. Pass their penalty.")
        self._one = self.n_hyper == 1 and found[0] == 0
        self._diagonal = self.n_hyper == size
        self._groups = torch.from_numpy(groups)
        if self._diagonal:
            self._diagonal = bool((self._groups == torch.arange(size)).all())
        self._learned = self._groups >= 0
        self._point = PenaltyPoint
