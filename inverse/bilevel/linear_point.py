r"""Linear models at one point: products with the Hessian, with the mixed derivative, and third derivatives.

.. math:: H v = \frac{1}{N} X^T (w\, \ell''(z) X v) + \lambda v, \qquad J t = \lambda\, x\, t_{s(\cdot)}

Notation  as in `linear_models`: z = X x scores, w weights of the rows, lambda penalties, s(j) the number of the penalty
          of entry j; p, q vectors of the shape of x.
Cost      a product with H: two products with X_i for each sample. A quadratic of few unknowns is factored when a linear
          system first asks for it.
Pitfalls  samples are computed one by one: stacked products would round differently in other company.
"""

from __future__ import annotations

import torch

from sciml.inverse.bilevel.lower import Point

__all__ = ["ModelPoint", "PenaltyPoint", "factor", "factor_work", "mean_back"]


def factor(fold, penalties):
    """Return the Cholesky factor of a quadratic's Hessian."""
    p = fold.X.shape[1]
    H = fold.gram + torch.diag(penalties.expand(p))
    chol, info = torch.linalg.cholesky_ex(H)
    # No number is better than a wrong one: the search turns back from where penalties vanish.
    return chol if int(info) == 0 else torch.full_like(H, torch.nan)


def factor_work(fold):
    """Return the multiplications of the factor over those of a product with the Hessian."""
    m, p = fold.X.shape
    return p**3 / 6 / (2 * m * p)


def mean_back(fold, e, weights):
    """Return X^T (w e) / N."""
    return fold.back(e if weights is None else weights * e) / fold.n_rows


class ModelPoint(Point):
    """The products at one point, fold by fold; subclasses add those with J."""

    def __init__(self, model, x, theta, idx, count, value):
        self._model, self._count, self._loss = model, count, model.loss
        self._folds, self._weights, self._penalties = model._of(idx), model._row_weights(theta), model._penalties(theta)
        self._states, self._slopes, values = [], [], []
        self._diagonal, self._factors = None, [None] * len(x)
        gradient = torch.empty_like(x)
        for j, fold in enumerate(self._folds):
            z = fold.scores(x[j])
            state = self._loss.state(z)
            slope = self._loss.slope(z, fold.t, state)
            gradient[j] = mean_back(fold, slope, self._weights)
            self._states.append(state)
            self._slopes.append(slope)
            if value:
                values.append(self._energy(fold, z, x[j]))
        gradient += self._penalties * x
        super().__init__(x, theta, idx, gradient, torch.stack(values) if value else None)

    def _energy(self, fold, z, x):
        loss = self._loss.value(z, fold.t)
        loss = loss if self._weights is None else self._weights * loss
        return (loss.sum() + 0.5 * fold.rest) / fold.n_rows + 0.5 * (self._penalties * x * x).sum()

    def hvp(self, v, rows=None):
        self._count.hvp += len(v)
        out = torch.empty_like(v)
        for j, i in enumerate(range(len(v)) if rows is None else rows.tolist()):
            fold = self._folds[i]
            out[j] = mean_back(fold, self._loss.curve(self._states[i], fold.scores(v[j])), self._weights)
        return out.addcmul_(self._penalties.expand(v.shape[1:]), v)

    def diagonal(self, rows=None):
        """Return the diagonals of H, (k, *shape); as many operations as half a product."""
        out = []
        for i in range(len(self.x)) if rows is None else rows.tolist():
            fold = self._folds[i]
            c = self._loss.diagonal(self._states[i], fold.t)
            c = c if self._weights is None else self._weights * c
            out.append((c @ (fold.X * fold.X)) / fold.n_rows + self._penalties)
        return torch.stack(out)

    def precondition(self, r, rows):
        """Return H^-1 r where H is factored, else r over its diagonal, which evens unequal penalties."""
        if self._model.direct:
            return torch.stack([self._solved(i, r[j]) for j, i in enumerate(rows.tolist())])
        if self._diagonal is None:
            self._diagonal = self.diagonal()
        return r / self._diagonal[rows]

    def _solved(self, i, r):
        if self._factors[i] is None:
            self._factors[i] = factor(self._folds[i], self._penalties)
        return torch.cholesky_solve(r[:, None], self._factors[i])[:, 0]

    def _third_in_x(self, p, q):
        """Yield, fold by fold, the scores of p and q and the third derivative applied to p and q."""
        for j, fold in enumerate(self._folds):
            zp, zq = fold.scores(p[j]), fold.scores(q[j])
            e = self._loss.third(self._states[j], zp, zq)
            yield zp, zq, mean_back(fold, e, self._weights)


class PenaltyPoint(ModelPoint):
    """J is diagonal up to groups: its column g is lambda x on the entries of group g."""

    def cross(self, t):
        self._count.cross += len(self.x)
        return self._penalties * self.x * self._model._spread(t.to(self.x.dtype))

    def cross_adjoint(self, q, blocks):
        self._count.cross += sum(block.stop - block.start for block in blocks)
        return self._gathered(self._penalties * self.x * q, blocks)

    def third(self, p, q, blocks):
        self._count.third += sum(block.stop - block.start for block in blocks)
        in_x = torch.stack([e for _, _, e in self._third_in_x(p, q)])
        return in_x, self._gathered(self._penalties * p * q, blocks)

    def _gathered(self, products, blocks):
        products = products.double()
        return torch.stack([self._model._gather(products[block].sum(0)) for block in blocks])
