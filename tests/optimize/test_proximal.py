"""Proximal gradients and coordinate descent: right answers, honest ends, samples that do not mix."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.optimize.coordinate_descent import coordinate_descent
from sciml.optimize.proximal import l1_subgradient, proximal_gradient, soft_threshold


def problem(rng, n, d, n_samples=2, rho=0.0):
    X = torch.from_numpy(rng.standard_normal((n_samples, n, d)))
    C = X.mT @ X / n + rho * torch.eye(d, dtype=torch.float64)
    b = (X.mT @ torch.from_numpy(rng.standard_normal((n_samples, n, 1))))[..., 0] / n
    return C, b, torch.linalg.eigvalsh(C)[:, -1] * (1 + 1e-12)


def gradient_of(C, b):
    return lambda x, rows: torch.stack([C[i] @ z - b[i] for z, i in zip(x, rows.tolist(), strict=True)])


def test_thresholds_and_subgradients_by_hand():
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0])
    assert soft_threshold(x, 1.0).tolist() == [-2.0, 0.0, 0.0, 0.0, 1.0]
    assert soft_threshold(x, torch.tensor([0.0, 1, 1, 0, 3])).tolist() == [-3.0, 0.0, 0.0, 0.5, 0.0]
    # The minimiser of (x - 3)^2 / 2 + 2 |x| is 1; at 0 and at 4 the slopes are -1 and 3.
    at = torch.tensor([0.0, 1.0, 4.0])
    assert l1_subgradient(at - 3, at, 2.0).tolist() == [-1.0, 0.0, 3.0]


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_both_find_the_same_minimiser(rho, rng):
    C, b, L = problem(rng, 60, 20, rho=rho)
    l1 = torch.tensor([[0.02], [0.1]], dtype=torch.float64) * (1 + torch.arange(20) / 20)
    one = proximal_gradient(gradient_of(C, b), torch.zeros_like(b), l1=l1, L=L, gtol=1e-11, max_iter=5000)
    two = coordinate_descent(C, b, l1=l1, gtol=1e-11, max_iter=5000)
    for got in (one, two):
        assert bool(got.converged.all())
        assert_allclose(got.gradient_norm, torch.linalg.vector_norm(got.gradient, dim=1), rtol=1e-12)
        assert bool((got.gradient_norm <= 1e-11).all())
    assert_allclose(one.x, two.x, rtol=0, atol=1e-10)
    assert torch.equal(one.x == 0, two.x == 0)
    assert 0 < int((one.x == 0).sum()) < 40


def test_momentum_is_worth_its_name():
    # Eigenvalues 1 and 1e-3: without momentum the slow direction takes 1e3 log(1e8) = 18 000 steps.
    diagonal = torch.tensor([[1.0, 1e-3]], dtype=torch.float64)
    got = proximal_gradient(
        lambda x, rows: diagonal * (x - 1), torch.zeros(1, 2).double(), l1=0.0, L=1.0, gtol=1e-11, max_iter=9999
    )
    assert bool(got.converged)
    assert int(got.n_iter) < 1200


def test_without_a_penalty_it_is_least_squares(rng):
    C, b, L = problem(rng, 30, 5)
    want = torch.linalg.solve(C, b)
    got = proximal_gradient(gradient_of(C, b), torch.zeros_like(b), l1=0.0, L=L, gtol=1e-12, max_iter=2000)
    assert_allclose(got.x, want, rtol=0, atol=1e-10)
    assert_allclose(coordinate_descent(C, b, l1=0.0, gtol=1e-12, max_iter=999).x, want, rtol=0, atol=1e-10)


def test_samples_are_independent_bit_for_bit_and_leave_on_their_own(rng):
    C, b, L = problem(rng, 30, 12, n_samples=3)
    l1 = torch.tensor([[1.0], [0.1], [0.01]], dtype=torch.float64).expand(3, 12)
    gtol = torch.tensor([1e-3, 1e-8, 1e-10], dtype=torch.float64)
    seen = []

    def gradient(x, rows):
        seen.append(len(rows))
        return gradient_of(C, b)(x, rows)

    one = proximal_gradient(gradient, torch.zeros_like(b), l1=l1, L=L, gtol=gtol, max_iter=2000)
    two = coordinate_descent(C, b, l1=l1, gtol=gtol, max_iter=2000)
    assert sum(seen) == int((one.n_iter + 1).sum())
    for i in range(3):
        s = slice(i, i + 1)
        assert_allclose(one.gradient[i], l1_subgradient(C[i] @ one.x[i] - b[i], one.x[i], l1[i]), rtol=0, atol=1e-15)
        alone = coordinate_descent(C[s], b[s], l1=l1[s], gtol=gtol[s], max_iter=2000)
        assert torch.equal(alone.x[0], two.x[i])
        assert alone.n_iter[0] == two.n_iter[i]
        alone = proximal_gradient(
            gradient_of(C[s], b[s]), torch.zeros_like(b[s]), l1=l1[s], L=L[s], gtol=gtol[s], max_iter=2000
        )
        assert torch.equal(alone.x[0], one.x[i])


def test_a_good_start_takes_no_step_and_a_budget_is_kept(rng):
    C, b, L = problem(rng, 30, 12)
    best = coordinate_descent(C, b, l1=0.05, gtol=1e-12, max_iter=999).x
    assert coordinate_descent(C, b, best, l1=0.05, gtol=1e-11, max_iter=9).n_iter.tolist() == [0, 0]
    assert proximal_gradient(gradient_of(C, b), best, l1=0.05, L=L, gtol=1e-11, max_iter=9).n_iter.tolist() == [0, 0]
    for got in (
        coordinate_descent(C, b, l1=0.05, gtol=1e-12, max_iter=1),
        proximal_gradient(gradient_of(C, b), torch.zeros_like(b), l1=0.05, L=L, gtol=1e-12, max_iter=1),
    ):
        assert not bool(got.converged.any())
        assert got.n_iter.tolist() == [1, 1]
    for got in (
        coordinate_descent(C, b * math.nan, l1=0.05, gtol=1e-12, max_iter=9),
        proximal_gradient(gradient_of(C, b * math.nan), torch.zeros_like(b), l1=0.05, L=L, gtol=1e-12, max_iter=9),
    ):
        assert not bool(got.converged.any())


def test_a_zero_column_stays_at_zero():
    C = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))[None]
    b = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    got = coordinate_descent(C, b, torch.ones_like(b), l1=1.0, gtol=1e-12, max_iter=9)
    assert got.x.tolist() == [[2.0, 0.0]]


def test_says_what_is_wrong():
    b = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(InvalidInputError, match=r"C must have the shape \(2, 3, 3\).*got \(2, 3\)"):
        coordinate_descent(b, b, l1=1.0, gtol=1e-9, max_iter=3)
    with pytest.raises(InvalidInputError, match=r"x0 must have the shape of b, \(2, 3\); got \(1, 3\)"):
        coordinate_descent(torch.zeros(2, 3, 3), b, b[:1], l1=1.0, gtol=1e-9, max_iter=3)
    with pytest.raises(InvalidInputError, match="gtol must be 0 or more; got -1"):
        proximal_gradient(lambda x, rows: x, b, l1=1.0, L=1.0, gtol=-1.0, max_iter=3)
    with pytest.raises(InvalidInputError, match="max_iter must be an integer"):
        proximal_gradient(lambda x, rows: x, b, l1=1.0, L=1.0, gtol=np.float64(1e-9), max_iter=-1)
