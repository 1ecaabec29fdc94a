"""Hessians in the frame of the mean, and their solution."""

import numpy as np
import torch
from numpy.testing import assert_allclose

from sciml.linalg.spd.frame_hessian import apply_hessian, solve_hessian


def problem(rng, n=4, count=5):
    Q = torch.from_numpy(np.linalg.qr(rng.standard_normal((count, n, n)))[0])
    h = torch.from_numpy(rng.uniform(0.1, 1, (count, n, n)))
    w = torch.full((count,), 1 / count, dtype=torch.float64)
    return Q, (h + h.mT) / 2, w


def symmetric(rng, n=4):
    A = torch.from_numpy(rng.standard_normal((n, n)))
    return (A + A.mT) / 2


def test_the_operator_is_self_adjoint_and_its_solution_exact(rng):
    Q, h, w = problem(rng)
    S, T = symmetric(rng), symmetric(rng)
    assert_allclose(float((apply_hessian(Q, h, w, S) * T).sum()), float((S * apply_hessian(Q, h, w, T)).sum()))
    found, residual = solve_hessian(Q, h, w, apply_hessian(Q, h, w, S), tol=1e-13, max_iter=50)
    assert residual <= 1e-13
    assert_allclose(found.numpy(), S.numpy(), atol=1e-11)


def test_too_few_steps_leave_the_residual_that_is_told(rng):
    Q, h, w = problem(rng)
    G = symmetric(rng)
    found, residual = solve_hessian(Q, h, w, G, tol=1e-13, max_iter=2)
    assert residual > 1e-6
    assert_allclose(float((G - apply_hessian(Q, h, w, found)).norm() / G.norm()), residual, rtol=1e-10)


def test_zero_and_singular_problems_end(rng):
    Q, h, w = problem(rng)
    S, residual = solve_hessian(Q, h, w, torch.zeros(4, 4, dtype=torch.float64), tol=1e-13, max_iter=50)
    assert residual == 0
    assert not S.any()
    S, residual = solve_hessian(Q, 0 * h, w, symmetric(rng), tol=1e-13, max_iter=50)
    assert residual == 1
    assert not S.any()
