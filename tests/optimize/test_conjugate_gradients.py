"""batched_cg: accuracy, count of products, independence of samples, limits of rounding."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.optimize import batched_cg
from tests.optimize.samples import Quadratics, assert_same, assert_same_in_any_company, living, spread

EVERY = ("x", "residual", "n_iter", "converged", "curvature_min", "curvature_max", "indefinite")


def true_residual(problem, x):
    return (problem.b.double() - (problem.H.double() * x.double()[:, None, :]).sum(2)).norm(dim=1)


def test_equals_a_direct_solver_with_one_product_an_iteration(rng):
    problem = Quadratics([np.geomspace(1, c, 30) for c in (1.0, 10.0, 1e3, 1e4)], rng)
    found = batched_cg(problem.hvp, problem.b, atol=1e-9)
    assert found.converged.all()
    assert_allclose(found.x, problem.solution(), rtol=0, atol=1e-9)  # the smallest eigenvalue is 1
    assert torch.equal(problem.used, found.n_iter)
    assert found.n_iter[0] == 1
    assert (true_residual(problem, found.x) <= 1e-9).all()


@pytest.mark.parametrize("distinct", [1, 2, 3, 5])
def test_takes_a_step_for_every_distinct_eigenvalue(rng, distinct):
    problem = Quadratics(np.repeat(np.arange(1.0, distinct + 1), 8)[None], rng)
    assert batched_cg(problem.hvp, problem.b, atol=1e-10).n_iter.item() == distinct


@pytest.mark.parametrize("cond", [10.0, 100.0, 1000.0])
def test_keeps_the_bound_of_chebyshev(rng, cond):
    problem = Quadratics(spread(3, 200, cond), rng)
    found = batched_cg(problem.hvp, problem.b, atol=1e-6)
    # |r| <= 2 sqrt(cond) q^k |b| with q = (sqrt(cond) - 1) / (sqrt(cond) + 1).
    rate = math.log((math.sqrt(cond) + 1) / (math.sqrt(cond) - 1))
    bound = (2 * math.sqrt(cond) * problem.b.norm(dim=1) / 1e-6).log() / rate
    assert (found.n_iter <= bound.ceil() + 1).all()
    assert (found.n_iter >= 0.2 * bound).all()


def test_a_sample_is_the_same_in_any_company(rng):
    problem = Quadratics([np.geomspace(1, c, 23) for c in (1.0, 10.0, 1e3, 1e5, 1e2)], rng)
    x0, atol = 0.1 * problem.b, torch.tensor([1e-8, 1e-3, 1e-10, 1e-6, 2.0], dtype=torch.float64)

    def solve(index):
        part = problem.some(index)
        return batched_cg(part.hvp, part.b, atol=atol[index], x0=x0[index], preconditioner=lambda r, rows: 2 * r)

    assert_same_in_any_company(solve, 5, EVERY)


def test_rounding_is_met_at_the_same_place_in_any_company(rng):
    conditions = (30.0, 100.0, 300.0, 1e3, 2e3, 5e3, 1e4)
    problem = Quadratics([np.geomspace(1, c, 60) for c in conditions], rng, dtype=torch.float32)
    atol = torch.tensor([1e-9, 1e-9, 1e-9, 1e-2, 1e-2, 1e-2, 1e-2], dtype=torch.float64)

    def solve(index):
        part = problem.some(index)
        return batched_cg(part.hvp, part.b, atol=atol[index])

    assert_same_in_any_company(solve, 7, EVERY)
    assert len(solve(torch.arange(7)).n_iter[3:].unique()) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_samples_are_the_same_in_any_company(rng, dtype):
    weight = torch.from_numpy(1 + 9 * rng.random((3, 2, 8200))).to(dtype)
    b = torch.from_numpy(rng.standard_normal((3, 2, 8200))).to(dtype)

    def solve(index):
        return batched_cg(lambda v, rows: weight[index][rows] * v, b[index], atol=1e-3)

    assert_same_in_any_company(solve, 3, EVERY)
    found = solve(torch.arange(3))
    assert found.converged.all()
    assert ((weight * found.x - b).flatten(1).norm(dim=1) <= 1.01e-3).all()


@pytest.mark.parametrize(("matrix", "right"), [(20, 0), (-20, 0), (0, 30), (0, -30), (-12, 40)])
def test_units_do_not_matter(rng, matrix, right):
    problem = Quadratics(spread(3, 25, 1e3), rng)
    one = batched_cg(problem.hvp, problem.b, atol=1e-7, x0=0.2 * problem.b)
    part, unit = problem.some(torch.arange(3), 2.0**matrix), 2.0**right
    two = batched_cg(part.hvp, unit * part.b, atol=unit * 1e-7, x0=0.2 * unit / 2.0**matrix * part.b)
    assert torch.equal(one.n_iter, two.n_iter)
    assert torch.equal(one.x * unit / 2.0**matrix, two.x)
    assert torch.equal(one.residual * unit, two.residual)
    assert torch.equal(one.curvature_max * 2.0**matrix, two.curvature_max)


def test_the_tolerance_is_absolute_and_each_samples_own(rng):
    problem = Quadratics(spread(4, 40, 1e3), rng)
    atol = torch.tensor([1e-9, 1e-6, 1e-3, 100.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 1e4, 1e-5, 1.0], dtype=torch.float64)[:, None]
    found = batched_cg(problem.hvp, scale * problem.b, atol=atol)
    assert found.converged.all()
    problem.b = scale * problem.b
    assert (true_residual(problem, found.x) <= atol).all()
    assert (found.residual >= 0.01 * atol)[:2].all()  # no better than asked
    assert found.n_iter[2:].tolist() == [0, 0]
    assert torch.equal(found.x[2:], torch.zeros(2, 40, dtype=torch.float64))
    assert torch.equal(problem.used, found.n_iter)


def test_a_right_side_within_the_tolerance_gives_zero_without_a_product(rng):
    problem = Quadratics(spread(2, 10, 10.0), rng)
    found = batched_cg(problem.hvp, 0 * problem.b, atol=0.0)
    assert found.converged.all()
    assert not found.x.any()
    assert not found.residual.any()
    assert not problem.used.any()
    assert torch.isinf(found.curvature_min).all()
    assert not found.curvature_max.any()


def test_a_start_within_the_tolerance_is_the_answer(rng):
    problem = Quadratics(spread(2, 10, 10.0), rng)
    x0 = torch.from_numpy(problem.solution())
    x0[1] += 1e-9
    found = batched_cg(problem.hvp, problem.b, atol=1e-7, x0=x0)
    assert torch.equal(found.x, x0)
    assert found.n_iter.tolist() == [0, 0]
    assert problem.used.tolist() == [1, 1]
    assert found.converged.all()


def test_a_start_helps_and_one_worse_than_zero_does_no_harm(rng):
    problem = Quadratics(spread(3, 60, 1e3), rng)
    cold = batched_cg(problem.hvp, problem.b, atol=1e-8)
    x0 = torch.from_numpy(problem.solution()) * torch.tensor([[1 + 1e-4], [1e4], [torch.nan]], dtype=torch.float64)
    warm = batched_cg(problem.hvp, problem.b, atol=1e-8, x0=x0)
    assert warm.n_iter[0] < 0.8 * cold.n_iter[0]
    assert torch.equal(warm.x[1:], cold.x[1:])
    assert torch.equal(warm.n_iter[1:], cold.n_iter[1:])
    zero = batched_cg(problem.hvp, 0 * problem.b, atol=1e-8, x0=problem.b)
    assert zero.converged.all()
    assert not zero.x.any()


def test_finished_samples_are_not_asked_again(rng):
    problem = Quadratics([np.geomspace(1, c, 50) for c in (1.0, 1e1, 1e2, 1e4)], rng)
    found = batched_cg(problem.hvp, problem.b, atol=1e-8, x0=0.1 * problem.b)
    assert torch.equal(problem.used, found.n_iter + 1)
    assert (found.n_iter.diff() > 3).all()


@pytest.mark.parametrize("cond", [1e3, 1e6])
def test_float32_claims_no_more_than_it_has(rng, cond):
    problem = Quadratics(spread(3, 60, cond), rng, dtype=torch.float32)
    atol = torch.tensor([1e-1, 1e-3, 1e-9], dtype=torch.float64) * problem.b.norm(dim=1)
    found = batched_cg(problem.hvp, problem.b, atol=atol, max_iter=20000)
    true = true_residual(problem, found.x)
    assert (true <= 1.05 * found.residual).all()
    assert (true[found.converged] <= 1.05 * atol[found.converged]).all()
    assert not found.converged[2]
    assert found.n_iter.max() < 2000
    assert found.converged[0] == (cond == 1e3)


def test_float64_ends_where_rounding_ends_it(rng):
    problem = Quadratics(spread(2, 60, 1e5), rng)
    found = batched_cg(problem.hvp, problem.b, atol=1e-17, max_iter=10000)
    assert not found.converged.any()
    assert found.n_iter.max() < 1000
    true = true_residual(problem, found.x)
    assert (true <= found.residual).all()
    assert (found.residual < 1e-8).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_sample_that_breaks_down_leaves_the_others_alone(rng, value):
    problem = Quadratics(spread(3, 30, 1e3), rng)
    whole = batched_cg(problem.hvp, problem.b, atol=1e-8)
    broken = problem.some(torch.arange(3))

    def hvp(v, rows):
        q = broken.hvp(v, rows)
        if broken.used[1] > 4:
            q[rows == 1] = value
        return q

    found = batched_cg(hvp, broken.b, atol=1e-8)
    assert found.converged.tolist() == [True, False, True]
    assert not torch.isfinite(found.residual[1])
    assert broken.used[1] == 5
    assert torch.isfinite(found.x).all()
    assert_same(*(type(f)(**{k: getattr(f, k)[::2] for k in EVERY}) for f in (found, whole)), EVERY)

    right = problem.b.clone()
    right[0, 3] = value
    found = batched_cg(problem.hvp, right, atol=1e-8)
    assert found.converged.tolist() == [False, True, True]
    assert not torch.isfinite(found.residual[0])
    assert torch.equal(found.x[1:], whole.x[1:])


def test_negative_curvature_is_reported(rng):
    eigenvalues = spread(3, 20, 100.0)
    eigenvalues[1, 0] = -1.0
    eigenvalues[2] = -eigenvalues[2]
    problem = Quadratics(eigenvalues, rng)
    found = batched_cg(problem.hvp, problem.b, atol=1e-9)
    assert found.indefinite.tolist() == [False, True, True]
    assert found.converged.tolist() == [True, False, False]
    assert (found.curvature_min < 0).tolist() == [False, True, True]
    assert not found.x[2].any()
    assert_allclose(found.residual[2], problem.b[2].norm(), rtol=1e-14)
    singular = batched_cg(lambda v, rows: 0 * v, problem.b, atol=1e-9)
    assert singular.indefinite.all()
    assert not singular.converged.any()


def test_the_curvature_met_lies_within_the_spectrum(rng):
    problem = Quadratics(spread(3, 30, 50.0), rng)
    found = batched_cg(problem.hvp, problem.b, atol=1e-10)
    assert ((found.curvature_min >= 1 - 1e-12) & (found.curvature_min < 4)).all()
    assert ((found.curvature_max <= 50 * (1 + 1e-12)) & (found.curvature_max > 10)).all()


@pytest.mark.parametrize("preconditioned", [False, True])
def test_the_curvature_is_that_of_the_directions(rng, preconditioned):
    problem, quotients = Quadratics(spread(1, 30, 1e4), rng), []

    def hvp(v, rows):
        q = problem.hvp(v, rows)
        quotients.append(((v * q).sum() / (v * v).sum()).item())
        return q

    scale = torch.from_numpy(1 + rng.random(30))
    preconditioner = (lambda r, rows: r * scale) if preconditioned else None
    found = batched_cg(hvp, problem.b, atol=1e-8, preconditioner=preconditioner)
    assert_allclose(found.curvature_min, min(quotients), rtol=1e-9)
    assert_allclose(found.curvature_max, max(quotients), rtol=1e-9)


def test_says_when_it_was_stopped(rng):
    problem = Quadratics(spread(2, 50, 1e4), rng)
    found = batched_cg(problem.hvp, problem.b, atol=1e-9, max_iter=7)
    assert found.n_iter.tolist() == [7, 7]
    assert not found.converged.any()
    assert_allclose(found.residual, true_residual(problem, found.x), rtol=1e-10)
    assert not batched_cg(problem.hvp, problem.b, atol=1e-9, max_iter=0).x.any()


def test_a_preconditioner_is_asked_about_the_samples_at_work(rng):
    problem = Quadratics(spread(3, 30, 1e4), rng)
    inverse = torch.linalg.inv(problem.H)
    perfect = batched_cg(
        problem.hvp, problem.b, atol=1e-6, preconditioner=lambda r, rows: (inverse[rows] * r[:, None, :]).sum(2)
    )
    assert perfect.n_iter.tolist() == [1, 1, 1]
    scale = torch.from_numpy(np.geomspace(1, 1e3, 30))
    problem.H = scale[:, None] * (torch.eye(30) + 0.02 * problem.H / 1e4) * scale
    plain = batched_cg(problem.hvp, problem.b, atol=1e-6)
    jacobi = batched_cg(
        problem.hvp, problem.b, atol=torch.tensor([1e-6, 1e-9, 1e-3]), preconditioner=lambda r, rows: r / scale**2
    )
    assert jacobi.converged.all()
    assert (jacobi.n_iter < 0.5 * plain.n_iter).all()
    assert (true_residual(problem, jacobi.x) <= torch.tensor([1e-6, 1e-9, 1e-3])).all()


def test_small_cases():
    one = torch.tensor([[3.0]], dtype=torch.float64)
    found = batched_cg(lambda v, rows: 4 * v, one, atol=1e-12)
    assert found.x.item() == 0.75
    assert found.n_iter.item() == 1
    same = batched_cg(lambda v, rows: v, one.expand(3, 1), atol=1e-12)  # the product is its argument
    assert same.x.tolist() == [[3.0]] * 3
    none = batched_cg(lambda v, rows: v, torch.zeros(0, 2, 3), atol=1e-12)
    assert none.x.shape == (0, 2, 3)
    assert len(none.residual) == 0


def test_shapes_and_graphs(rng):
    weight = torch.from_numpy(1 + rng.random((2, 3, 4)))
    b = torch.from_numpy(rng.standard_normal((2, 3, 4))).requires_grad_()
    shapes = set()

    def hvp(v, rows):
        shapes.add(tuple(v.shape[1:]))
        return weight[rows].requires_grad_() * v

    found = batched_cg(hvp, b, atol=1e-10, x0=0.3 * b)
    assert shapes == {(3, 4)}
    assert found.x.shape == (2, 3, 4)
    assert not found.x.requires_grad
    assert_allclose(found.x, b.detach() / weight, rtol=1e-8)


def test_memory_does_not_grow_with_the_iterations(rng):
    problem, held = Quadratics(spread(2, 333, 1e5), rng), []

    def hvp(v, rows):
        if problem.used[0] in (5, 60):
            held.append(count())
        return problem.hvp(v, rows)

    with living(666) as count:
        assert batched_cg(hvp, problem.b, atol=1e-6, max_iter=61).n_iter.min() > 60
    assert 3 < held[0] == held[1] < 15


def test_errors_name_the_argument(rng):
    problem = Quadratics(spread(2, 3, 2.0), rng)
    with pytest.raises(InvalidInputError, match=r"b must be a floating-point tensor of shape \(B, ...\).*got .*\(3,\)"):
        batched_cg(problem.hvp, problem.b[0], atol=1e-3)
    with pytest.raises(InvalidInputError, match="atol must be 0 or more; got -1 for sample 1"):
        batched_cg(problem.hvp, problem.b, atol=torch.tensor([1.0, -1.0]))
    with pytest.raises(InvalidInputError, match="atol must be 0 or more; got nan for sample 0"):
        batched_cg(problem.hvp, problem.b, atol=math.nan)
    with pytest.raises(InvalidInputError, match=r"atol must be a number or have one entry a sample.*\(3,\)"):
        batched_cg(problem.hvp, problem.b, atol=torch.ones(3))
    with pytest.raises(InvalidInputError, match=r"hvp must return the shape of its argument, \(2, 3\); got \(2,\)"):
        batched_cg(lambda v, rows: v.sum(1), problem.b, atol=1e-3)
    with pytest.raises(InvalidInputError, match=r"x0 must have the shape of b, \(2, 3\); got \(3,\)"):
        batched_cg(problem.hvp, problem.b, atol=1e-3, x0=problem.b[0])
    with pytest.raises(InvalidInputError, match="max_iter must be an integer at least 0; got -1"):
        batched_cg(problem.hvp, problem.b, atol=1e-3, max_iter=-1)
