r"""A nonsmooth lower level at one point: the smooth part of one sample, and the linearisation on the support.

.. math:: H_{SS}\, q_S = \nabla_S g, \qquad J^T q = \Big( \sum_{j \in S} \alpha_j \operatorname{sign}(x_j)\, q_j,\;
          \sum_{j \in S} \rho_j x_j q_j \Big)

Notation  S support: the unknowns that are not zero, or want to leave it; g slope of the smooth part; off S the
          Hessian is the identity, and everything else zero.
Cost      products with H: |S|^2 a sample. The factor of H_SS is formed once a point and serves as preconditioner, so
          that a linear system takes one product.
Pitfalls  where H_SS is singular, as for equal columns, the minimiser is not unique and neither is its derivative: a
          ridge of 1e-10 trace / |S| picks one, and a warning says so.
References  Q. Bertrand et al., Implicit differentiation for fast hyperparameter selection in non-smooth convex
            learning, 2022, arXiv 2105.01637. E. Ndiaye et al., Gap safe screening rules, 2017, arXiv 1611.05780.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch

from sciml.exceptions import ConditioningWarning, ConvergenceWarning
from sciml.inverse.bilevel.lower import Point
from sciml.iterate import caller_level

__all__ = ["Look", "SparsePoint"]

# Relative distances to the edge of the support below which it is not identified.
_TIE = 1e-9


class Look:
    """The smooth part of one sample at one x: value, slope and blocks of the Hessian; `work` is told what they cost.

    Parameters
    ----------
    model : SparseRegression
        The problem.
    i : int
        Number of the sample.
    x : ndarray, shape (p,)
        Where.
    rho : ndarray, shape (p,)
        Quadratic penalties.
    work : list of float
        Its entry grows by the multiplications done over those of one gradient.
    """

    def __init__(self, model, i, x, rho, work):
        self.loss, self.fold, data = model.loss, model.folds[i], model.data[i]
        self.columns, self.gram, self.norms, self.targets = data.columns, data.gram, data.norms, data.targets
        self.x, self.rho, self.work = x, rho, work
        p, m = self.columns.shape
        self.full = 2 * p * m
        self.S = np.flatnonzero(x)
        if self.gram is not None:
            slope = x[self.S] @ self.gram[self.S] - data.linear
            self.value = 0.5 * float(x @ (slope - data.linear))
            self._count(len(self.S) * p)
        else:
            z = x[self.S] @ self.columns[self.S]
            if self.loss.name == "squared":
                e = z - self.targets
                self.value = 0.5 * float(e @ e) / self.fold.n_rows
            else:
                z = torch.from_numpy(z)
                t = torch.from_numpy(self.targets)
                self.state = self.loss.state(z)
                self.value = float(self.loss.value(z, t).sum()) / self.fold.n_rows
                e = self.loss.slope(z, t, self.state).numpy()
            slope = self.columns @ e / self.fold.n_rows
            self._count((len(self.S) + p) * m)
        self.slope = slope
        self.gradient = slope
        if model.quadratic_part:
            self.value += 0.5 * float(rho @ (x * x))
            self.gradient = slope + rho * x

    def hessian(self, W):
        """Return the block of the Hessian for some unknowns; counted with the factor that it is wanted for."""
        w = len(W)
        if self.gram is not None:
            H = self.gram[W[:, None], W]
        else:
            A = self.columns[W]
            curved = A if self.loss.name == "squared" else self.loss.curve(self.state, torch.from_numpy(A)).numpy()
            H = A @ curved.T / self.fold.n_rows
        self.work[0] += self.factor_work(w)
        H[np.arange(w), np.arange(w)] += self.rho[W]
        return H

    def factor_work(self, w):
        """Return the multiplications for a block of w unknowns and its factor over those of a gradient."""
        block = 0 if self.gram is not None else w * w * self.columns.shape[1]
        return (block + w**3 / 6 + w * w) / self.full

    def gap(self, alpha):
        """Return the duality gap of least squares, and the dual slopes X^T nu that belong to it.

        With nu = s r / N it is a sum of terms that are 0 at the optimum each, so that nothing cancels:
        N / 2 (1 - s)^2 |r / N|^2 + sum_j [alpha |x| + rho x^2 / 2 + (|u| - alpha)_+^2 / (2 rho) - x u]_j, u = X^T nu.
        """
        n, x, rho, slope = self.fold.n_rows, self.x, self.rho, -self.slope
        hard = (rho == 0) & (np.abs(slope) > alpha)
        s = float((alpha[hard] / np.abs(slope[hard])).min(initial=1.0))
        u = s * slope
        over = np.maximum(np.abs(u) - alpha, 0)
        dual = np.where(rho > 0, over**2 / (2 * np.where(rho > 0, rho, 1)), 0.0)
        terms = alpha * np.abs(x) + 0.5 * rho * x**2 + dual - x * u
        residual = self.targets - x[self.S] @ self.columns[self.S]
        return 0.5 * (1 - s) ** 2 * float(residual @ residual) / n + float(terms.sum()), u

    def may_live(self, alpha):
        """Return which unknowns may be nonzero at the minimiser: those that the gap does not exclude."""
        gap, u = self.gap(alpha)
        return np.abs(u) + self.norms * math.sqrt(2 * max(gap, 0.0) / self.fold.n_rows) >= alpha

    def _count(self, multiplications):
        self.work[0] += multiplications / self.full


class SparsePoint(Point):
    """The linearisation on the support; see `Point`."""

    def __init__(self, model, x, theta, idx, count, value=False):
        self._model, self._count = model, count
        self._alpha, self._rho = model.penalties(theta)
        alpha, work = self._alpha, [0.0]
        rho, plain = self._rho.cpu().numpy(), x.cpu().numpy()
        self._looks = [Look(model, i, plain[j], rho, work) for j, i in enumerate(idx.tolist())]
        slope = torch.from_numpy(np.stack([look.gradient for look in self._looks])).to(x)
        pulls = (x == 0) & (slope.abs() > alpha * (1 + _TIE))
        mask = (x != 0) | pulls | (alpha == 0)
        self._signs = torch.where(x != 0, torch.sign(x), -torch.sign(slope)) * mask
        gradient = (slope + alpha * self._signs) * mask
        self._supports = [torch.nonzero(m)[:, 0] for m in mask]
        self._blocks = [None] * len(x)
        # With what the factors will cost when they are asked for.
        count.lower += work[0] + sum(k.factor_work(len(S)) for k, S in zip(self._looks, self._supports, strict=True))
        if model.warn_of_ties:
            _warn_of_ties(alpha, slope, mask)
        values = None
        if value:
            # Quadratics by X^T X leave out what does not depend on x.
            rest = [k.fold.rest + (float(k.targets @ k.targets) if k.gram is not None else 0.0) for k in self._looks]
            smooth = [k.value + 0.5 * c / k.fold.n_rows for k, c in zip(self._looks, rest, strict=True)]
            values = torch.tensor(smooth, dtype=x.dtype, device=x.device) + (alpha * x.abs()).sum(1)
        super().__init__(x, theta, idx, gradient, values, mask)

    def hvp(self, v, rows=None):
        """Return H v; the identity off the support."""
        self._count.hvp += len(v)
        out = v.clone()
        for j, i in enumerate(range(len(v)) if rows is None else rows.tolist()):
            S = self._supports[i]
            out[j, S] = self._block(i)[0] @ v[j, S]
        return out

    def precondition(self, r, rows):
        """Return H^-1 r, up to rounding."""
        out = r.clone()
        for j, i in enumerate(rows.tolist()):
            S = self._supports[i]
            if len(S):
                out[j, S] = torch.cholesky_solve(r[j, S][:, None], self._block(i)[1])[:, 0]
        return out

    def cross(self, t):
        """Return J t for each sample."""
        self._count.cross += len(self.x)
        a, r = self._model.spread(t.to(self.x.dtype))
        return self._alpha * self._signs * a + self._rho * self._live * r

    def cross_adjoint(self, q, blocks):
        """Return sums of J^T q."""
        self._count.cross += sum(block.stop - block.start for block in blocks)
        return self._gathered(self._alpha * self._signs * q, self._rho * self._live * q, blocks)

    def third(self, p, q, blocks):
        """Return the derivatives of p^T H q."""
        self._count.third += sum(block.stop - block.start for block in blocks)
        in_x = torch.zeros_like(p)
        if self._model.loss.name != "squared":
            for j, (look, S) in enumerate(zip(self._looks, self._supports, strict=True)):
                columns = look.fold.X[:, S]
                e = look.loss.third(look.state.to(p), columns @ p[j, S], columns @ q[j, S])
                in_x[j, S] = columns.T @ e / look.fold.n_rows
        return in_x, self._gathered(0 * p, self._rho * self.mask * p * q, blocks)

    def norm_J(self):
        """Return bounds of the spectral norms of J, (b,)."""
        # The columns of alpha have no entry in common, and neither have those of rho.
        bounds = []
        for signs, live in zip(self._alpha * self._signs, self._rho * self._live, strict=True):
            a, r = self._model.gather(signs.double() ** 2, live.double() ** 2)
            bounds.append(torch.sqrt(a.max() + r.max()))
        return torch.stack(bounds)

    def _block(self, i):
        """Return H_SS of a sample and its factor, computed when first asked for."""
        if self._blocks[i] is None:
            self._blocks[i] = _factored(self._looks[i], self._supports[i])
        return self._blocks[i]

    @property
    def _live(self):
        return self.x * self.mask

    def _gathered(self, of_alpha, of_rho, blocks):
        rows = []
        for block in blocks:
            a, r = self._model.gather(of_alpha[block].double().sum(0), of_rho[block].double().sum(0))
            rows.append(a + r)
        return torch.stack(rows)


def _factored(look, S):
    """Return H_SS and its Cholesky factor, with a ridge where there is none."""
    H = torch.from_numpy(look.hessian(S.cpu().numpy())).to(S.device)
    if not len(S):
        return H, H
    scale = H.diagonal().clamp_min(torch.finfo(H.dtype).tiny)
    factor, info = torch.linalg.cholesky_ex(H)
    pivots = factor.diagonal() ** 2 / scale
    if int(info) == 0 and float(pivots.min()) > 1e4 * torch.finfo(H.dtype).eps:
        return H, factor
    warnings.warn(
        "the Hessian on the support is singular, so that the minimiser of the lower level has no unique derivative: a "
        "ridge of 1e-10 of its mean eigenvalue was added. Add a quadratic penalty, or drop dependent columns.",
        ConditioningWarning,
        stacklevel=caller_level(),
    )
    ridge = max(1e-10, 1e3 * torch.finfo(H.dtype).eps) * float(H.diagonal().mean())
    while int(info) or ridge:
        H = H + ridge * torch.eye(len(S), dtype=H.dtype, device=H.device)
        factor, info = torch.linalg.cholesky_ex(H)
        if int(info) == 0:
            break
        ridge = max(10 * ridge, torch.finfo(H.dtype).tiny)
    return H, factor


def _warn_of_ties(alpha, slope, mask):
    distance = torch.where(mask, torch.inf, (alpha - slope.abs()) / alpha)
    if distance.numel() and float(distance.min()) < _TIE:
        warnings.warn(
            "the support of a solution of the lower level is not identified: an unknown that is zero is at the edge of "
            "leaving it, and the hypergradient is that of one side of a kink. Move theta a little, or bound it.",
            ConvergenceWarning,
            stacklevel=caller_level(),
        )
