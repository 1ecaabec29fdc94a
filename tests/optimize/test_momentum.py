"""nag: rates that theory promises, constants that are wrong, independence of samples, limits of rounding."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from sciml.exceptions import InvalidInputError
from sciml.optimize import nag
from tests.optimize.samples import Quadratics, Separable, assert_same_in_any_company, living, rounded, spread

EVERY = ("x", "gradient", "gradient_norm", "n_iter", "converged", "L", "secant_min", "last_step")


def slow_twin(H, b, x, mu, L, steps):
    """The textbook's scheme with restarts, one sample: the points y at which gradients are evaluated, and restarts."""
    beta = (np.sqrt(L) - np.sqrt(mu)) / (np.sqrt(L) + np.sqrt(mu))
    y, seen, restarts = x, [x], 0
    for _ in range(steps):
        G = H @ y - b
        x_old, x = x, y - G / L
        uphill = G @ (x - x_old) > 0
        y = x if uphill else x + beta * (x - x_old)
        seen.append(y)
        restarts += uphill
    return seen, restarts


def zeros(problem):
    return torch.zeros_like(problem.b)


def test_makes_the_steps_of_the_textbook(rng):
    problem = Quadratics(spread(2, 15, 400.0), rng)
    seen = []

    def gradient(y, rows):
        seen.append(y.numpy().copy())
        return problem.gradient(y, rows)

    found = nag(gradient, problem.b, mu=1.0, L=400.0, gtol=1e-12, max_iter=40)
    for i in range(2):
        H, b = problem.H[i].numpy(), problem.b[i].numpy()
        twin, restarts = slow_twin(H, b, b, 1.0, 400.0, 40)
        assert 0 < restarts < 8
        assert_allclose([y[i] for y in seen], twin, rtol=0, atol=1e-13)
        assert_allclose(found.last_step[i], np.linalg.norm(twin[-1] - twin[-2]), rtol=1e-10)
    assert found.n_iter.tolist() == [40, 40]
    assert not found.converged.any()


@pytest.mark.parametrize("cond", [100.0, 1e4])
def test_needs_the_root_of_the_condition_number(rng, cond):
    problem = Quadratics(spread(3, 40, cond), rng)
    gtol = 1e-8 * problem.b.norm(dim=1)
    found = nag(problem.gradient, zeros(problem), mu=1.0, L=cond, gtol=gtol, max_iter=10000)
    assert found.converged.all()
    # Gradient descent takes about half of cond * log(1e8), the method without momentum of a wrong order of lines.
    theory = math.sqrt(cond) * math.log(1e8)
    assert (found.n_iter <= 1.3 * theory).all()
    assert (found.n_iter >= 0.5 * theory).all()
    assert_allclose(found.x, problem.solution(), rtol=0, atol=1e-7)


def test_counts_and_hands_on_what_it_evaluated(rng):
    problem = Quadratics([np.geomspace(1, c, 20) for c in (1.5, 10.0, 100.0)], rng)
    L = torch.tensor([1.5, 10.0, 100.0], dtype=torch.float64)
    gtol = torch.tensor([1e-8, 1e-3, 1e-6], dtype=torch.float64)
    found = nag(problem.gradient, zeros(problem), mu=1.0, L=L, gtol=gtol, max_iter=2000)
    assert torch.equal(problem.used, found.n_iter + 1)
    assert torch.equal(found.gradient, problem.gradient(found.x, torch.arange(3)))
    assert_allclose(found.gradient_norm, found.gradient.norm(dim=1), rtol=1e-14)
    assert (found.gradient_norm <= gtol).all()
    assert (found.gradient_norm >= 0.05 * gtol).all()
    assert torch.equal(found.L, L)


def test_a_solution_stays_where_it_is(rng):
    problem = Quadratics(spread(2, 10, 10.0), rng)
    x0 = torch.from_numpy(problem.solution())
    found = nag(problem.gradient, x0, mu=1.0, L=10.0, gtol=1e-9, max_iter=50)
    assert torch.equal(found.x, x0)
    assert found.n_iter.tolist() == [0, 0]
    assert problem.used.tolist() == [1, 1]
    assert found.last_step.tolist() == [0.0, 0.0]
    assert torch.isinf(found.secant_min).all()


def test_a_sample_is_the_same_in_any_company(rng):
    problem = Quadratics([np.geomspace(1, c, 23) for c in (1.0, 10.0, 1e3, 300.0, 1e2)], rng)
    L = torch.tensor([1.0, 2.0, 1e3, 1e4, 1e2], dtype=torch.float64)  # too small, right, too large
    mu = torch.tensor([0.0, 1.0, 10.0, 1.0, 1.0], dtype=torch.float64)
    gtol = torch.tensor([1e-8, 1e-3, 1e-10, 1e-6, 1e-16], dtype=torch.float64)

    def solve(index):
        part = problem.some(index)
        return nag(part.gradient, part.b, mu=mu[index], L=L[index], gtol=gtol[index], max_iter=400)

    assert_same_in_any_company(solve, 5, EVERY)


def test_long_samples_are_the_same_in_any_company(rng):
    weight = torch.from_numpy(1 + 9 * rng.random((3, 16400))).float()
    b = torch.from_numpy(rng.standard_normal((3, 16400))).float()

    def solve(index):
        return nag(
            lambda x, rows: weight[index][rows] * x - b[index][rows], b[index], mu=1, L=10, gtol=0.01, max_iter=99
        )

    assert_same_in_any_company(solve, 3, EVERY)
    assert solve(torch.arange(3)).converged.all()


@pytest.mark.parametrize(("matrix", "right"), [(20, 0), (-20, 0), (0, 40), (0, -40), (-12, 30)])
def test_units_do_not_matter(rng, matrix, right):
    problem = Quadratics(spread(3, 25, 100.0), rng)
    L = torch.tensor([100.0, 3.0, 50.0], dtype=torch.float64)
    one = nag(problem.gradient, 0.2 * problem.b, mu=1.0, L=L, gtol=1e-7, max_iter=999)
    h, g = 2.0**matrix, 2.0**right
    part = problem.some(torch.arange(3), h)
    part.b = g * part.b
    two = nag(part.gradient, 0.2 * part.b / h, mu=h, L=h * L, gtol=g * 1e-7, max_iter=999)
    assert torch.equal(one.n_iter, two.n_iter)
    assert torch.equal(one.x * g / h, two.x)
    assert torch.equal(one.L * h, two.L)
    assert torch.equal(one.secant_min * h, two.secant_min)


@pytest.mark.parametrize("share", [1e-6, 1e-2, 0.5])
def test_a_constant_that_is_too_small_is_raised_for_nothing(rng, share):
    problem = Quadratics(spread(3, 40, 1e3), rng)
    found = nag(problem.gradient, zeros(problem), mu=1e-3 * share, L=1e3 * share, gtol=1e-7, max_iter=3000)
    assert found.converged.all()
    assert torch.equal(problem.used, found.n_iter + 1)
    assert ((found.L > 700) & (found.L <= 1100)).all()
    assert (found.n_iter <= 1.7 * math.sqrt(1e3) * math.log(1e8)).all()  # mu is too small, too


def test_a_constant_that_is_right_is_kept_where_gradients_are_rounding():
    # cosh^-2 <= 1, so that no two gradients can contradict the largest weight plus a tenth of it.
    weight = torch.tensor([[1.0, 3.0, 0.3], [2.0, 0.5, 1.0]], dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        problem = Separable(rounded, weight.to(dtype), torch.full((2, 3), 2.0, dtype=dtype))
        L, mu = 1.1 * weight.amax(1), 0.1 * weight.amin(1)
        found = nag(problem.gradient, torch.full((2, 3), 50.0, dtype=dtype), mu=mu, L=L, gtol=0.0, max_iter=3000)
        assert torch.equal(found.L, L)
        assert (found.secant_min >= mu * (1 - 1e-9)).all()
        assert_allclose(found.x, 2.0, rtol=1e-5)


def test_too_large_a_constant_of_convexity_is_revealed_and_does_little_harm(rng):
    problem = Quadratics(spread(3, 40, 1e3), rng)
    mu = torch.tensor([30.0, 100.0, 1e4], dtype=torch.float64)
    found = nag(problem.gradient, zeros(problem), mu=mu, L=1e3, gtol=1e-7, max_iter=9000)
    assert found.converged.all()
    assert (found.secant_min < 1.1).all()
    assert (found.secant_min >= 1 - 1e-9).all()
    theory = math.sqrt(1e3) * math.log(1e8)
    assert (found.n_iter[:2] <= 1.5 * theory).all()
    assert found.n_iter[2] <= 1.5 * math.sqrt(1e4) * math.log(1e8)  # L is at least mu


def test_restarts_stand_in_for_an_unknown_constant_of_convexity(rng):
    problem = Quadratics(spread(3, 40, 1e3), rng)
    found = nag(problem.gradient, zeros(problem), mu=0.0, L=1e3, gtol=1e-7, max_iter=9000)
    assert found.converged.all()
    assert (found.n_iter <= 1.3 * math.sqrt(1e3) * math.log(1e8)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ends_where_rounding_ends_it(rng, dtype):
    problem = Quadratics(spread(3, 30, 100.0), rng, dtype=dtype)
    found = nag(problem.gradient, zeros(problem), mu=1.0, L=100.0, gtol=1e-30, max_iter=10000)
    assert not found.converged.any()
    assert (found.n_iter < 1000).all()
    assert (found.gradient_norm < 1000 * torch.finfo(dtype).eps).all()


def test_does_not_give_up_while_there_is_progress(rng):
    problem = Quadratics(spread(2, 40, 1e4), rng)
    found = nag(problem.gradient, zeros(problem), mu=1.0, L=1e4, gtol=1e-12, max_iter=10000)
    assert found.converged.all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 8])
def test_a_sample_that_breaks_down_leaves_the_others_alone(rng, value, calls):
    problem = Quadratics(spread(3, 30, 100.0), rng)
    L = torch.tensor([1e-3, 100.0, 30.0], dtype=torch.float64)  # too small, so that the first steps raise it
    whole = nag(problem.gradient, zeros(problem), mu=1e-4, L=L, gtol=1e-6, max_iter=999)
    broken = problem.some(torch.arange(3))

    def gradient(x, rows):
        G = broken.gradient(x, rows)
        if broken.used[1] >= calls:
            G[rows == 1, 2] = value
        return G

    found = nag(gradient, zeros(problem), mu=1e-4, L=L, gtol=1e-6, max_iter=999)
    assert found.converged.tolist() == [True, False, True]
    assert not torch.isfinite(found.gradient_norm[1])
    assert broken.used[1] == calls
    for field in EVERY:
        assert torch.equal(getattr(found, field)[::2], getattr(whole, field)[::2])


def test_numbers_that_are_no_constants_end_their_sample(rng):
    problem = Quadratics(spread(6, 10, 100.0), rng)
    mu = torch.tensor([1.0, torch.nan, -1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    L = torch.tensor([100.0, 100.0, 100.0, torch.nan, torch.inf, 0.0], dtype=torch.float64)
    found = nag(problem.gradient, zeros(problem), mu=mu, L=L, gtol=1e-6, max_iter=999)
    assert found.converged.tolist() == [True] + 5 * [False]
    assert found.n_iter[1:].tolist() == 5 * [0]


def test_agrees_with_scipy_on_a_function_that_is_not_quadratic(rng):
    weight, centre = torch.from_numpy(0.1 + rng.random((2, 6))), torch.from_numpy(rng.standard_normal((2, 6)))
    A = torch.from_numpy(rng.standard_normal((2, 6, 6)))

    def value_and_gradient(x, rows):
        z = (A[rows] * x[:, None, :]).sum(2) - centre[rows]
        f, g, _ = rounded(z)
        w = weight[rows]
        return (w * f).sum(1) + 0.5 * (x * x).sum(1), (A[rows] * (w * g)[:, :, None]).sum(1) + x

    L = 1 + 1.1 * (A.mT @ (weight[:, :, None] * A)).flatten(1).norm(dim=1)
    x0 = torch.zeros(2, 6, dtype=torch.float64)
    found = nag(lambda x, rows: value_and_gradient(x, rows)[1], x0, mu=1.0, L=L, gtol=1e-9, max_iter=999)
    assert found.converged.all()
    for i in range(2):

        def alone(x, i=i):
            f, g = value_and_gradient(torch.from_numpy(x)[None], torch.tensor([i]))
            return f.item(), g[0].numpy()

        assert_allclose(found.x[i], minimize(alone, x0[i].numpy(), jac=True, tol=1e-10).x, rtol=0, atol=1e-6)


def test_points_handed_out_are_left_as_they_are(rng):
    seen = []

    def gradient(x, rows):  # of |x|^2 / 2: the argument itself
        seen.append((x, x.clone()))
        return x

    found = nag(gradient, torch.from_numpy(rng.standard_normal((2, 5))), mu=0.5, L=2.0, gtol=1e-9, max_iter=99)
    assert found.converged.all()
    assert len(seen) > 10
    assert all(torch.equal(x, copy) for x, copy in seen)


def test_small_cases():
    one = torch.ones(1, 1, dtype=torch.float64)
    found = nag(lambda x, rows: 4 * x - 2, one, mu=4.0, L=4.0, gtol=1e-12, max_iter=9)
    assert found.x.item() == 0.5
    assert found.n_iter.item() == 1
    assert found.secant_min.item() == pytest.approx(4.0, rel=1e-12)
    loose = nag(lambda x, rows: 4 * x - 2, one, mu=0.1, L=40.0, gtol=1e-12, max_iter=999)
    assert loose.converged.all()
    none = nag(lambda x, rows: x, torch.zeros(0, 2, 3), mu=1.0, L=1.0, gtol=1e-12, max_iter=9)
    assert none.x.shape == none.gradient.shape == (0, 2, 3)
    stopped = nag(lambda x, rows: 4 * x - 2, one, mu=0.1, L=40.0, gtol=1e-12, max_iter=0)
    assert stopped.n_iter.item() == 0
    assert stopped.gradient.item() == 2.0
    assert not stopped.converged.any()


def test_shapes_and_graphs(rng):
    weight = torch.from_numpy(1 + rng.random((2, 3, 4))).requires_grad_()
    x0 = torch.from_numpy(rng.standard_normal((2, 3, 4))).requires_grad_()
    found = nag(lambda x, rows: weight[rows] * (x - 1), x0, mu=1.0, L=weight.amax(), gtol=1e-9, max_iter=99)
    assert found.x.shape == found.gradient.shape == (2, 3, 4)
    assert not found.x.requires_grad
    assert not found.L.requires_grad
    assert_allclose(found.x, 1.0, rtol=1e-8)


def test_memory_does_not_grow_with_the_iterations(rng):
    problem, held = Quadratics(spread(2, 333, 1e4), rng), []

    def gradient(x, rows):
        if problem.used[0] in (5, 200):
            held.append(count())
        return problem.gradient(x, rows)

    with living(666) as count:
        assert nag(gradient, zeros(problem), mu=1.0, L=1e4, gtol=1e-6, max_iter=201).n_iter.min() > 200
    assert 3 < held[0] == held[1] < 15


def test_errors_name_the_argument(rng):
    problem = Quadratics(spread(2, 3, 2.0), rng)
    constants = {"mu": 1.0, "L": 2.0, "gtol": 1e-3, "max_iter": 9}
    with pytest.raises(InvalidInputError, match=r"x0 must be a floating-point tensor.*got torch.int64, \(2, 3\)"):
        nag(problem.gradient, torch.zeros(2, 3, dtype=torch.int64), **constants)
    with pytest.raises(InvalidInputError, match="gtol must be 0 or more; got -1 for sample 0"):
        nag(problem.gradient, problem.b, **{**constants, "gtol": -1.0})
    with pytest.raises(InvalidInputError, match=r"L must be a number or have one entry a sample.*\(3,\)"):
        nag(problem.gradient, problem.b, **{**constants, "L": torch.ones(3)})
    with pytest.raises(InvalidInputError, match="max_iter must be an integer at least 0; got 2.5"):
        nag(problem.gradient, problem.b, **{**constants, "max_iter": 2.5})
    with pytest.raises(
        InvalidInputError, match=r"gradient must return the shape of its argument, \(2, 3\); got \(2,\)"
    ):
        nag(lambda x, rows: x.sum(1), problem.b, **constants)
