r"""A structured lower level linearised at a point: products with H, J and third derivatives from kept features.

Notation  as in the module of structured lower levels; e derivatives in weights and widths, one row a sample.
Cost      features t are computed once, curvatures kappa with the first product; every other quantity from t when it is
          asked for, a group of samples at a time.
Pitfalls  sums over features are taken in float64 over the last axis of each sample by itself, so that a sample's
          numbers do not depend on its batch.
"""

from __future__ import annotations

import torch

from sciml.inverse.bilevel.lower import Point

__all__ = ["StructuredPoint"]


class StructuredPoint(Point):
    """The linearisation that :class:`sciml.inverse.bilevel.StructuredLower` gives.

    Parameters
    ----------
    lower : StructuredLower
        The problem.
    x : torch.Tensor, shape (b, *shape)
        Where.
    theta : torch.Tensor, shape (n,)
        The hyperparameters.
    idx : torch.Tensor of int64, shape (b,)
        Numbers of the samples.
    count : Counter
        Is told of products, and of the gradient when it is asked for.
    """

    def __init__(self, lower, x, theta, idx, count):
        self._lower, self._count = lower, count
        self.x, self.theta, self.idx, self.mask = x, theta, idx, None
        self._terms = lower._at(theta, x)
        self._t = [term.D.forward(x) for term in self._terms]
        self._gradient = self._value = self._kappa = None
        self._picked = (None, None, None)

    # ------------------------------------------------------------ value and gradient, when they are asked for

    @property
    def gradient(self):
        """G at x, shape (b, *shape)."""
        if self._gradient is None:
            self._evaluate()
        return self._gradient

    @property
    def value(self):
        """Energies h, shape (b,), float64."""
        if self._value is None:
            if self._gradient is None:
                self._evaluate()
            value = 0.5 * _dots(self._residual, self._residual)
            if self._lower.mu0:
                value = value + 0.5 * self._lower.mu0 * _dots(self.x, self.x)
            for term, t, some in self._parts():
                sums = term.D.sums(term.potential.value(t, term.nu))
                value[some] += (sums * term.w64.reshape(1, -1)).sum(1)
            self._value = value
        return self._value

    def _evaluate(self):
        self._count.lower += len(self.x)
        self._residual, self._gradient = self._lower._fit(self.x, self.idx)
        if self._gradient is self._residual:
            self._gradient = self._residual.clone()
        for term, t, some in self._parts():
            term.add_gradient(t, self._gradient[some])

    def _parts(self):
        """Yield term, features and slice of samples, group by group."""
        for term, t in zip(self._terms, self._t, strict=True):
            for some in term.groups(len(self.x)):
                yield term, t[some], some

    # ------------------------------------------------------------ products

    def hvp(self, v, rows=None):
        """Return H v.

        Parameters
        ----------
        v : torch.Tensor, shape (k, *shape)
            One direction a sample.
        rows : torch.Tensor of int64, shape (k,), or None
            Which samples of this point; None (the default) means all.

        Returns
        -------
        torch.Tensor, shape (k, *shape)
        """
        self._count.hvp += len(v)
        idx, kappa = self._pick(rows)
        out = self._lower.A.normal(v, idx)
        if self._lower.mu0:
            out.add_(v, alpha=self._lower.mu0)
        for term, prepared in zip(self._terms, kappa, strict=True):
            term.D.curve(v, prepared, out)
        return out

    def _pick(self, rows):
        """Return the numbers and curvatures of some samples; those of the last rows are kept."""
        if self._kappa is None:
            self._kappa = [
                term.D.prepare(term.potential.curvature(t, term.nu).mul_(term.w))
                for term, t in zip(self._terms, self._t, strict=True)
            ]
        if rows is None or len(rows) == len(self.x) and bool((rows[1:] > rows[:-1]).all()):
            return self.idx, self._kappa
        kept, idx, kappa = self._picked
        if kept is None or not torch.equal(kept, rows):
            idx = self.idx[rows]
            kappa = [tuple(part[rows] for part in prepared) for prepared in self._kappa]
            self._picked = rows.clone(), idx, kappa
        return idx, kappa

    def cross(self, t):
        """Return J t for each sample.

        Parameters
        ----------
        t : torch.Tensor, shape (n,)
            A direction in theta.

        Returns
        -------
        torch.Tensor, shape (b, *shape)
        """
        self._count.cross += len(self.x)
        out = torch.zeros_like(self.x)
        t = t.detach().to(device=self.x.device, dtype=torch.float64)
        for term, features, some in self._parts():
            potential, nu, D = term.potential, term.nu, term.D
            slope = potential.slope(features, nu)
            u = slope * term._number(term.weight.pushforward(term.theta, t), self.x)
            if term.width is not None:
                change = term.w64 * term.width.pushforward(term.theta, t)
                u += potential.slope_in_width(features, nu).mul_(term._number(change, self.x))
            if term.learned:
                S = D.tangent(t)
                u += S.forward(self.x[some]).mul_(potential.curvature(features, nu)).mul_(term.w)
                out[some] += S.adjoint(slope.mul_(term.w))
            D.add_adjoint(u, out[some])
        return out

    def cross_adjoint(self, q, blocks):
        """Return the sums of J^T q over blocks of samples.

        Parameters
        ----------
        q : torch.Tensor, shape (b, *shape)
            One vector a sample.
        blocks : list of slice
            Which samples of this point are added up.

        Returns
        -------
        torch.Tensor, shape (len(blocks), n), float64
        """
        self._count.cross += sum(block.stop - block.start for block in blocks)
        rows = self._new_rows()
        for term, t, some in self._parts():
            potential, nu = term.potential, term.nu
            Dq = term.D.forward(q[some])
            slope = potential.slope(t, nu)
            rows[some] += term.weight.pullback(term.theta, term.D.sums(slope * Dq))
            if term.width is not None:
                e = term.D.sums(potential.slope_in_width(t, nu).mul_(Dq)) * term.w64
                rows[some] += term.width.pullback(term.theta, e)
            if term.learned:
                u = potential.curvature(t, nu).mul_(Dq).mul_(term.w)
                rows[some] += term.D.pullback([(q[some], slope.mul_(term.w)), (self.x[some], u)])
        return _blocked(rows, blocks)

    def third(self, p, q, blocks):
        """Return the derivatives of p^T H q in x and in theta.

        Parameters
        ----------
        p, q : torch.Tensor, shape (b, *shape)
            One vector a sample.
        blocks : list of slice
            As in `cross_adjoint`.

        Returns
        -------
        in_x : torch.Tensor, shape (b, *shape)
        in_theta : torch.Tensor, shape (len(blocks), n), float64
        """
        self._count.third += sum(block.stop - block.start for block in blocks)
        in_x, rows = torch.zeros_like(self.x), self._new_rows()
        for term, t, some in self._parts():
            potential, nu, D = term.potential, term.nu, term.D
            Dp, Dq = D.forward(p[some]), D.forward(q[some])
            both = Dp * Dq
            bend = potential.third(t, nu).mul_(both).mul_(term.w)
            D.add_adjoint(bend, in_x[some])
            curvature = potential.curvature(t, nu)
            rows[some] += term.weight.pullback(term.theta, D.sums(curvature * both))
            if term.width is not None:
                e = D.sums(potential.curvature_in_width(t, nu).mul_(both)) * term.w64
                rows[some] += term.width.pullback(term.theta, e)
            if term.learned:
                curvature.mul_(term.w)
                pairs = [(self.x[some], bend), (p[some], Dq.mul_(curvature)), (q[some], Dp.mul_(curvature))]
                rows[some] += D.pullback(pairs)
        return in_x, _blocked(rows, blocks)

    def norm_J_bound(self):
        """Return upper bounds of the norms of J, for operators that do not depend on theta.

        Returns
        -------
        torch.Tensor, shape (b,), float64
            |D| times the root of the sum over channels of (|dw| |phi'| + w |dnu| |d_nu phi'|)^2.
        """
        total = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        for term, t, some in self._parts():
            potential, D = term.potential, term.D
            norms = D.sums(potential.slope(t, term.nu).square_()).sqrt() * term.weight.row_norms(term.theta)
            if term.width is not None:
                lengths = D.sums(potential.slope_in_width(t, term.nu).square_()).sqrt()
                norms = norms + lengths * term.w64 * term.width.row_norms(term.theta)
            D_norm = D.gram_bound(torch.ones((), dtype=torch.float64)) ** 0.5
            total[some] += D_norm * (norms * norms).sum(1).sqrt() * (1 + 1e-12)
        return total

    def _new_rows(self):
        return torch.zeros(len(self.x), len(self.theta), dtype=torch.float64, device=self.x.device)


def _blocked(rows, blocks):
    return torch.stack([rows[block].sum(0) for block in blocks])


def _dots(a, b):
    return (a * b).reshape(len(a), -1).sum(1, dtype=torch.float64)
