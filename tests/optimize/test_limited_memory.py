"""batched_lbfgs: counts beside scipy's, line search, independence of samples, limits of rounding."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from sciml.exceptions import InvalidInputError
from sciml.optimize import batched_lbfgs
from tests.optimize.samples import (
    Quadratics,
    Separable,
    assert_same_in_any_company,
    hyperbola,
    living,
    rounded,
    spread,
)

EVERY = ("x", "gradient", "gradient_norm", "n_iter", "converged", "L", "secant_min", "last_step")


def values(problem):
    """The values and gradients of quadratics."""

    def value_and_gradient(x, rows):
        G = problem.gradient(x, rows)
        return (0.5 * x * (G - problem.b[rows])).sum(1), G

    return value_and_gradient


def test_needs_about_as_many_evaluations_as_scipy(rng):
    problem = Quadratics([np.geomspace(1, c, 40) for c in (10.0, 1e2, 1e3)], rng)
    gtol = 1e-6 * problem.b.norm(dim=1)
    found = batched_lbfgs(values(problem), torch.zeros_like(problem.b), gtol=gtol, max_iter=500)
    used = problem.used.clone()
    assert found.converged.all()
    assert (found.gradient_norm <= gtol).all()
    assert_allclose(found.x, problem.solution(), rtol=0, atol=2e-5)
    for i in range(3):
        norms = []

        def alone(x, i=i, norms=norms):
            f, g = values(problem)(torch.from_numpy(x)[None], torch.tensor([i]))
            norms.append(g.norm().item())
            return f.item(), g[0].numpy()

        options = {"maxcor": 10, "gtol": 1e-9, "ftol": 0.0}
        minimize(alone, np.zeros(40), jac=True, method="L-BFGS-B", options=options)
        theirs = 1 + next(k for k, norm in enumerate(norms) if norm <= gtol[i])
        assert used[i] <= 1.25 * theirs + 3


def test_is_a_method_of_conjugate_directions_on_quadratics(rng):
    # With steps that are not exact it is not done after as many steps as there are eigenvalues, but not long after.
    problem = Quadratics(np.repeat([[1.0, 3.0, 10.0]], 5, axis=1), rng)
    found = batched_lbfgs(values(problem), torch.zeros_like(problem.b), gtol=1e-9, max_iter=99)
    assert found.converged.all()
    assert found.n_iter.item() <= 16
    assert 1 - 1e-9 <= found.secant_min.item() <= 3
    assert 9 <= found.L.item() <= 10 * (1 + 1e-9)


def test_more_pairs_help(rng):
    problem = Quadratics(spread(1, 60, 1e3), rng)
    counts = [
        batched_lbfgs(values(problem), torch.zeros_like(problem.b), gtol=1e-6, max_iter=5000, memory=m).n_iter.item()
        for m in (1, 5, 60)
    ]
    assert counts[0] > counts[1] > 1.5 * counts[2]


def test_hands_on_the_point_it_evaluated(rng):
    weight = torch.from_numpy(1 + rng.random((3, 5)))
    problem = Separable(rounded, weight, torch.zeros(3, 5, dtype=torch.float64))
    x0 = torch.tensor([[0.5], [0.1], [0.0]], dtype=torch.float64).expand(3, 5)
    gtol = torch.tensor([1e-12, 1e-3, 1e-9], dtype=torch.float64)
    found = batched_lbfgs(problem.value_and_gradient, x0, gtol=gtol, max_iter=99)
    used = problem.used.clone()
    assert found.converged.all()
    assert found.n_iter[2] == 0
    assert used[2] == 1
    assert (used >= found.n_iter + 1).all()
    assert torch.equal(found.gradient, problem.gradient(found.x, torch.arange(3)))
    assert_allclose(found.gradient_norm, found.gradient.norm(dim=1), rtol=1e-14)


@pytest.mark.parametrize("far", [3.0, 100.0, 1e4])
def test_finds_its_step_length_from_afar(far):
    one = torch.ones(3, 2, dtype=torch.float64)
    weight = torch.tensor([[1.0], [1e-6], [1e6]], dtype=torch.float64) * one
    problem = Separable(hyperbola, weight, 0 * one)
    found = batched_lbfgs(problem.value_and_gradient, far * one, gtol=1e-9 * weight[:, 0], max_iter=99)
    assert found.converged.all()
    assert_allclose(found.x, 0.0, atol=1e-8)
    assert (problem.used < 60).all()


@pytest.mark.parametrize("offset", [1e8, -1e12])
def test_rounding_of_the_value_does_not_stop_it(rng, offset):
    weight = torch.from_numpy(1 + rng.random((2, 5)))
    problem = Separable(rounded, weight, torch.zeros(2, 5, dtype=torch.float64), offset)
    found = batched_lbfgs(problem.value_and_gradient, torch.full((2, 5), 0.9).double(), gtol=1e-10, max_iter=60)
    assert found.converged.all()


def test_a_sample_is_the_same_in_any_company(rng):
    weight = torch.from_numpy(10.0 ** rng.uniform(-2, 1, (6, 7)))
    problem = Separable(rounded, weight, torch.from_numpy(rng.standard_normal((6, 7))))
    x0 = torch.tensor([[0.0], [30.0], [0.5], [-600.0], [1.0], [2.0]], dtype=torch.float64).expand(6, 7)
    gtol = torch.tensor([1e-10, 1e-8, 1e-1, 1e-12, 1e-19, 1e-5], dtype=torch.float64)

    def solve(index):
        part = problem.some(index)
        return batched_lbfgs(part.value_and_gradient, x0[index], gtol=gtol[index], max_iter=300, memory=4)

    assert_same_in_any_company(solve, 6, EVERY)
    found = solve(torch.arange(6))
    assert found.converged[[0, 1, 2, 3, 5]].all()
    assert len(found.n_iter.unique()) > 3


@pytest.mark.parametrize(("value_unit", "x_unit"), [(40, 0), (-40, 0), (0, 30), (0, -30), (-12, 25)])
def test_units_do_not_matter(rng, value_unit, x_unit):
    problem = Separable(rounded, torch.from_numpy(1 + rng.random((3, 5))), torch.zeros(3, 5, dtype=torch.float64))
    f, s = 2.0**value_unit, 2.0**x_unit

    def scaled(x, rows):
        value, G = problem.value_and_gradient(x / s, rows)
        return f * value, f / s * G

    x0 = torch.from_numpy(3 * rng.standard_normal((3, 5)))
    one = batched_lbfgs(problem.value_and_gradient, x0, gtol=1e-9, max_iter=99)
    two = batched_lbfgs(scaled, s * x0, gtol=f / s * 1e-9, max_iter=99)
    assert one.converged.all()
    assert torch.equal(one.n_iter, two.n_iter)
    assert torch.equal(one.x * s, two.x)
    assert torch.equal(one.L * f / s**2, two.L)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ends_where_rounding_ends_it(rng, dtype):
    problem = Quadratics(spread(3, 20, 50.0), rng, dtype=dtype)
    found = batched_lbfgs(values(problem), torch.zeros_like(problem.b), gtol=1e-30, max_iter=9000)
    assert not found.converged.any()
    assert (problem.used < 600).all()
    assert (found.gradient_norm < 1e4 * torch.finfo(dtype).eps).all()
    assert (found.secant_min >= 1 - 1e-6).all()


def test_numbers_that_are_none(rng):
    problem = Quadratics(spread(3, 20, 50.0), rng)
    whole = batched_lbfgs(values(problem), torch.zeros_like(problem.b), gtol=1e-6, max_iter=99)

    def broken(x, rows):
        f, G = values(problem)(x, rows)
        return f.where(rows != 1, torch.nan), G

    found = batched_lbfgs(broken, torch.zeros_like(problem.b), gtol=1e-6, max_iter=99)
    assert found.converged.tolist() == [True, False, True]
    assert found.n_iter[1] == 0
    assert torch.equal(found.x[::2], whole.x[::2])

    def barrier(x):  # minimum at 0.1, not a number below 0
        return 10 * x - x.log(), 10 - 1 / x, 1 / x**2

    one = torch.ones(2, 1, dtype=torch.float64)
    walled = Separable(barrier, one, 0 * one)
    found = batched_lbfgs(walled.value_and_gradient, torch.tensor([[1.0], [0.3]]).double(), gtol=1e-9, max_iter=60)
    assert found.converged.all()
    assert_allclose(found.x, 0.1, rtol=1e-9)


def test_small_cases_and_shapes(rng):
    weight = torch.from_numpy(1 + rng.random((2, 3, 4))).requires_grad_()

    def value_and_gradient(x, rows):
        return (weight[rows] * (x - 1) ** 2 / 2).sum((1, 2)), weight[rows] * (x - 1)

    x0 = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    found = batched_lbfgs(value_and_gradient, x0, gtol=1e-10, max_iter=99)
    assert found.x.shape == found.gradient.shape == (2, 3, 4)
    assert not found.x.requires_grad
    assert_allclose(found.x, 1.0, rtol=1e-9)
    stopped = batched_lbfgs(value_and_gradient, x0, gtol=1e-10, max_iter=3)
    assert stopped.n_iter.tolist() == [3, 3]
    assert not stopped.converged.any()
    assert batched_lbfgs(value_and_gradient, x0[:0], gtol=1e-10, max_iter=9).x.shape == (0, 3, 4)


def test_memory_does_not_grow_with_the_steps(rng):
    problem, held = Quadratics(spread(2, 333, 1e3), rng), []

    def value_and_gradient(x, rows):
        if problem.used[0] in (15, 60):
            held.append(count())
        return values(problem)(x, rows)

    with living(666) as count:
        batched_lbfgs(value_and_gradient, torch.zeros_like(problem.b), gtol=1e-12, max_iter=62)
    assert 3 < held[1] <= held[0] < 30


def test_errors_name_the_argument(rng):
    problem = Quadratics(spread(2, 3, 2.0), rng)
    with pytest.raises(InvalidInputError, match="memory must be an integer at least 1; got 0"):
        batched_lbfgs(values(problem), problem.b, gtol=1.0, max_iter=9, memory=0)
    with pytest.raises(InvalidInputError, match="gtol must be 0 or more; got -1 for sample 0"):
        batched_lbfgs(values(problem), problem.b, gtol=-1.0, max_iter=9)
    with pytest.raises(
        InvalidInputError, match=r"values of shape \(2,\) and gradients of shape \(2, 3\); got \(2, 3\)"
    ):
        batched_lbfgs(lambda x, rows: (x, x), problem.b, gtol=1.0, max_iter=9)
