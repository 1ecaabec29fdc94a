"""Batches of functions with a known truth, which count what is asked of every sample and of which."""

import gc
from contextlib import contextmanager

import numpy as np
import torch


class Counted:
    """Counts the calls for each sample; refuses a call for no sample, or for one sample twice."""

    def __init__(self, B):
        self.used = torch.zeros(B, dtype=torch.int64)

    def note(self, rows, v):
        assert isinstance(rows, torch.Tensor)
        assert rows.dtype == torch.int64
        assert len(rows) == len(v) > 0
        assert len(rows.unique()) == len(rows)
        self.used[rows] += 1


class Quadratics(Counted):
    """h_i(x) = x'H_i x / 2 - b_i'x; `eigenvalues` (B, d) in a random frame, sums that no company changes."""

    def __init__(self, eigenvalues, rng, dtype=torch.float64):
        eigenvalues = np.atleast_2d(np.asarray(eigenvalues, dtype=float))
        B, d = eigenvalues.shape
        super().__init__(B)
        Q = np.linalg.qr(rng.standard_normal((B, d, d)))[0]
        H = (Q * eigenvalues[:, None, :]) @ np.swapaxes(Q, 1, 2)
        self.H = torch.from_numpy((H + np.swapaxes(H, 1, 2)) / 2).to(dtype)
        self.b = torch.from_numpy(rng.standard_normal((B, d))).to(dtype)

    def some(self, index, scale=1.0):
        """The same functions for some of the samples, with another scale of H."""
        part = object.__new__(Quadratics)
        Counted.__init__(part, len(index))
        part.H, part.b = scale * self.H[index], self.b[index]
        return part

    def hvp(self, v, rows):
        self.note(rows, v)
        return (self.H[rows] * v[:, None, :]).sum(2)

    def gradient(self, x, rows):
        return self.hvp(x, rows) - self.b[rows]

    def solution(self):
        return np.linalg.solve(self.H.double().numpy(), self.b.double().numpy()[..., None])[..., 0]


def spread(B, d, cond):
    """Eigenvalues 1 to cond in geometric progression, for every sample."""
    return np.tile(np.geomspace(1, cond, d), (B, 1))


class Point:
    def __init__(self, value, gradient, hvp):
        self.value, self.gradient, self.hvp = value, gradient, hvp


class Separable(Counted):
    """h_i(x) = sum_j weight_ij phi(x_j - centre_ij) + offset, from phi and its two derivatives."""

    def __init__(self, phi, weight, centre, offset=0.0):
        super().__init__(len(weight))
        self.phi, self.weight, self.centre, self.offset = phi, weight, centre, offset
        self.products = torch.zeros(len(weight), dtype=torch.int64)

    def some(self, index):
        return Separable(self.phi, self.weight[index], self.centre[index], self.offset)

    def at(self, x, rows):
        self.note(rows, x)
        f, g, h = self.phi(x - self.centre[rows])
        w = self.weight[rows]

        def hvp(v, places):
            assert len(places) == len(v) > 0
            self.products[rows[places]] += 1
            return (w * h)[places] * v

        return Point((w * f).sum(1) + self.offset, w * g, hvp)

    def value_and_gradient(self, x, rows):
        point = self.at(x, rows)
        return point.value, point.gradient

    def gradient(self, x, rows):
        return self.at(x, rows).gradient


def hyperbola(x):
    """Curvature 1 at zero and none far away; Newton's full steps go from x to -x^3. Roots and quotients are rounded
    correctly wherever they stand in memory, which a library's exponential need not be."""
    r = (1 + x * x).sqrt()
    return r - 1, x / r, 1 / (r * r * r)


def rounded(x):
    """The hyperbola plus x^2 / 20: curvature from 0.1 to 1.1."""
    f, g, h = hyperbola(x)
    return f + x * x / 20, g + x / 10, h + 0.1


def assert_same(one, other, fields):
    """The answers are the same, bit for bit."""
    for field in fields:
        assert torch.equal(getattr(one, field), getattr(other, field)), field


def assert_same_in_any_company(solve, B, fields):
    """`solve(index)` gives for every sample what it gives alone, and in another order."""
    together = solve(torch.arange(B))
    for i in range(B):
        alone = solve(torch.tensor([i]))
        for field in fields:
            assert torch.equal(getattr(alone, field)[0], getattr(together, field)[i]), (field, i)
    order = torch.arange(B - 1, -1, -1)
    turned = solve(order)
    for field in fields:
        assert torch.equal(getattr(turned, field), getattr(together, field)[order]), field


@contextmanager
def living(size):
    """Give a function that counts the tensors of this size made since, and still held."""
    gc.collect()
    gc.freeze()  # what is there already is not looked at, which takes long
    try:
        yield lambda: sum(type(o) is torch.Tensor and o.numel() == size for o in gc.get_objects())
    finally:
        gc.unfreeze()
