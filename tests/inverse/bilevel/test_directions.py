"""Directions against dense matrices: BFGS, the learned part of the Hessian, damped Newton steps in a box."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.inverse.bilevel.directions import Pairs, SecantPart, damped_newton


def spd(n, condition=10.0, seed=0):
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return torch.from_numpy(Q @ np.diag(np.logspace(0, np.log10(condition), n)) @ Q.T)


def vectors(k, n, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((k, n)))


FREE = torch.ones(5, dtype=torch.bool)


def bfgs_inverse(pairs, n):
    """The matrix that BFGS makes of the pairs, from s'y / y'y times the identity."""
    s, y = pairs[-1]
    K, one = torch.eye(n, dtype=torch.float64) * (s @ y) / (y @ y), torch.eye(n, dtype=torch.float64)
    for s, y in pairs:
        rho = 1 / (s @ y)
        left = one - rho * torch.outer(s, y)
        K = left @ K @ left.T + rho * torch.outer(s, s)
    return K


def test_pairs_are_bfgs():
    A, z = spd(5), vectors(1, 5)[0]
    pairs = Pairs(memory=3)
    assert pairs.apply(z, FREE) is None
    kept = [(s, A @ s) for s in vectors(4, 5, seed=2)]
    for s, y in kept:
        assert pairs.update(s, y, noise=0.0)
    assert len(pairs.pairs) == 3
    assert_allclose(pairs.apply(z, FREE), bfgs_inverse(kept[-3:], 5) @ z, rtol=1e-12)
    assert_allclose(pairs.apply(kept[-1][1], FREE), kept[-1][0], rtol=1e-12)
    again = Pairs(3, pairs.state())
    assert_allclose(again.apply(z, FREE), pairs.apply(z, FREE), rtol=0)


def test_components_that_may_not_move_stay():
    A, z, free = spd(5), vectors(1, 5)[0], torch.tensor([True, False, True, True, False])
    pairs = Pairs(4)
    kept = [(s, A @ s) for s in vectors(3, 5, seed=3)]
    for s, y in kept:
        pairs.update(s, y, 0.0)
    got = pairs.apply(z, free)
    assert (got[~free] == 0).all()
    usable = [(s[free], y[free]) for s, y in kept if s[free] @ y[free] > 0]
    assert_allclose(got[free], bfgs_inverse(usable, 3) @ z[free], rtol=1e-12)
    assert got @ z > 0


def test_pairs_within_the_noise_are_dropped():
    s = torch.tensor([1.0, 0.0], dtype=torch.float64)
    pairs = Pairs(5)
    assert not pairs.update(s, torch.tensor([1e-3, 0.0]).double(), noise=1e-2)
    assert not pairs.update(s, -s, noise=0.0)
    assert not pairs.update(s, torch.tensor([1e-11, 1.0]).double(), noise=0.0)
    assert pairs.barzilai_borwein() is None
    assert pairs.update(s, 4 * s, noise=0.1)
    assert pairs.barzilai_borwein() == pytest.approx(0.25)


def test_the_part_that_gauss_newton_leaves_out_is_learned():
    part, whole, gauss_newton = SecantPart(4), spd(4, 5.0), spd(4, 3.0, seed=5)
    assert_allclose(part.matrix, np.zeros((4, 4)))
    for s in vectors(3, 4, seed=6):
        y = whole @ s
        part.update(s, y, gauss_newton, 0.0)
        # The secant condition, by a symmetric matrix.
        assert_allclose((gauss_newton + part.matrix) @ s, y, rtol=1e-11)
        assert_allclose(part.matrix, part.matrix.T, rtol=1e-13)
    before = part.matrix.clone()
    part.update(s, y, gauss_newton, noise=10 * float(s @ y))
    part.update(s, -y, gauss_newton, 0.0)
    assert_allclose(part.matrix, before, rtol=0)


def test_what_was_learned_is_sized_down():
    """Far from the end of a step its curvature does not count: a large matrix gives way to what is seen."""
    s = torch.tensor([1.0, 0.0], dtype=torch.float64)
    part = SecantPart(2, 1e6 * torch.eye(2, dtype=torch.float64))
    part.update(s, 2 * s, torch.eye(2, dtype=torch.float64), 0.0)
    assert_allclose(part.matrix, np.eye(2), atol=1e-9)


@pytest.mark.parametrize("damping", [0.0, 0.1, 100.0])
def test_damped_newton_solves(damping):
    A, z = spd(5, 1e4), vectors(1, 5, seed=7)[0]
    d = damped_newton(A, z, FREE, damping)
    assert_allclose((A + damping * torch.diag(A.diagonal())) @ d, -z, rtol=1e-6)
    free = torch.tensor([True, True, False, True, False])
    d = damped_newton(A, z, free, damping)
    part = A[free][:, free]
    assert_allclose((part + damping * torch.diag(part.diagonal())) @ d[free], -z[free], rtol=1e-6)
    assert (d[~free] == 0).all()


def test_units_of_theta_do_not_matter():
    A, z = spd(4), vectors(1, 4, seed=8)[0]
    units = torch.tensor([1e-9, 1.0, 1e6, 1e3], dtype=torch.float64)
    d = damped_newton(A * units[:, None] * units, z * units, FREE[:4], 0.3)
    assert_allclose(d * units, damped_newton(A, z, FREE[:4], 0.3), rtol=1e-9)


def test_matrices_without_a_step():
    z = vectors(1, 2, seed=9)[0]
    for matrix in ([[1.0, 2.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, 1.0]]):
        assert damped_newton(torch.tensor(matrix).double(), z, FREE[:2], 0.0) is None
    assert_allclose(damped_newton(torch.zeros(2, 2).double(), z, ~FREE[:2], 0.0), [0, 0])


def test_steps_are_the_minimum_of_the_model_in_the_box():
    """Clipping is not: the other components answer to one that is held by its bound."""
    for seed in range(30):
        A, z = spd(5, 1e3, seed), vectors(1, 5, seed)[0]
        low, high = -vectors(1, 5, seed + 100)[0].abs(), vectors(1, 5, seed + 200)[0].abs()
        d = damped_newton(A, z, FREE, 0.0, low, high)
        assert ((d >= low) & (d <= high)).all()
        slope, at_low, at_high = A @ d + z, d <= low + 1e-9, d >= high - 1e-9
        inside = ~(at_low | at_high)
        assert_allclose(slope[inside], np.zeros(int(inside.sum())), atol=1e-8)
        assert (slope[at_low] >= -1e-8).all()
        assert (slope[at_high] <= 1e-8).all()
        wide = damped_newton(A, z, FREE, 0.0, low - 1e9, high + 1e9)
        assert_allclose(wide, damped_newton(A, z, FREE, 0.0), rtol=1e-13)
