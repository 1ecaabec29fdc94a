"""newton_cg: what it evaluates, its line search, its order, independence of samples, limits of rounding."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from sciml.exceptions import InvalidInputError
from sciml.optimize import newton_cg
from tests.optimize.samples import Point, Quadratics, Separable, assert_same_in_any_company, hyperbola, living, rounded

EVERY = ("x", "gradient", "gradient_norm", "n_iter", "converged", "L", "secant_min", "last_step")


def linearised(problem, products=None):
    """The `at` of quadratics."""

    def at(x, rows):
        G = problem.gradient(x, rows)
        b, H = problem.b[rows], problem.H[rows]

        def hvp(v, places):
            if products is not None:
                products[rows[places]] += 1
            return (H[places] * v[:, None, :]).sum(2)

        return Point((0.5 * x * (G - b)).sum(1), G, hvp)

    return at


def robust_regression(rng, B=3, n=60, d=8):
    """Penalised regressions with a loss between square and modulus, their penalties apart by factors of ten."""
    A = torch.from_numpy(rng.standard_normal((B, n, d)))
    y = torch.from_numpy(10 * rng.standard_normal((B, n)))
    penalty = 10.0 ** -torch.arange(B, dtype=torch.float64)

    def at(x, rows, select=None):
        index = rows if select is None else select[rows]
        a, c = A[index], penalty[index][:, None]
        columns = a.mT.contiguous()
        f, g, h = hyperbola((a * x[:, None, :]).sum(2) - y[index])
        value = f.sum(1) / n + 0.5 * (c * x * x).sum(1)
        G = c * x + (columns * g[:, None, :]).sum(2) / n

        def hvp(v, places):
            inner = h[places] * (a[places] * v[:, None, :]).sum(2)
            return c[places] * v + (columns[places] * inner[:, None, :]).sum(2) / n

        return Point(value, G, hvp)

    return at, torch.zeros(B, d, dtype=torch.float64)


def test_agrees_with_scipy(rng):
    at, x0 = robust_regression(rng)
    found = newton_cg(at, x0, gtol=1e-10, max_iter=30)
    assert found.converged.all()
    assert (found.n_iter <= 10).all()
    for i in range(3):

        def alone(x, i=i):
            point = at(torch.from_numpy(x)[None], torch.tensor([i]))
            return point.value.item(), point.gradient[0].numpy()

        assert_allclose(found.x[i], minimize(alone, x0[i].numpy(), jac=True, tol=1e-11).x, rtol=0, atol=1e-6)


def test_hands_on_the_point_it_evaluated_and_evaluates_no_other(rng):
    weight = torch.from_numpy(1 + rng.random((3, 5)))
    problem = Separable(rounded, weight, torch.zeros(3, 5, dtype=torch.float64))
    x0 = torch.tensor([[0.5], [0.1], [0.0]], dtype=torch.float64).expand(3, 5)
    gtol = torch.tensor([1e-12, 1e-3, 1e-9], dtype=torch.float64)
    found = newton_cg(problem.at, x0, gtol=gtol, max_iter=30)
    assert found.converged.all()
    # Full steps from so near: every trial point is the next iterate.
    assert torch.equal(problem.used, found.n_iter + 1)
    assert found.n_iter[2] == 0
    assert problem.products[2] == 0
    assert found.n_iter[0] > found.n_iter[1] > 0
    assert torch.equal(found.gradient, problem.gradient(found.x, torch.arange(3)))
    assert_allclose(found.gradient_norm, found.gradient.norm(dim=1), rtol=1e-14)


def test_the_order_is_more_than_one(rng):
    problem = Separable(rounded, torch.from_numpy(1 + rng.random((1, 5))), torch.zeros(1, 5, dtype=torch.float64))
    norms = [
        newton_cg(problem.at, torch.full((1, 5), 0.7).double(), gtol=0.0, max_iter=k).gradient_norm.item()
        for k in range(2, 5)
    ]
    assert norms[1] < 0.1 * norms[0]
    assert norms[2] < 0.1 * norms[1] * norms[1] / norms[0]


def test_a_quadratic_takes_one_step_more_than_the_first_look(rng):
    problem = Quadratics([np.geomspace(1, c, 40) for c in (1.0, 10.0, 1e3)], rng)
    products = torch.zeros(3, dtype=torch.int64)
    found = newton_cg(linearised(problem, products), torch.zeros_like(problem.b), gtol=1e-9, max_iter=30)
    assert found.converged.all()
    assert found.n_iter.tolist() == [1, 2, 2]
    assert torch.equal(problem.used, found.n_iter + 1)
    assert_allclose(found.x, problem.solution(), rtol=0, atol=1e-9)
    assert (products <= torch.tensor([1, 40, 130])).all()
    # A loose tolerance is met by the first direction, which is no more exact than that asks for.
    loose = torch.zeros(3, dtype=torch.int64)
    norms = problem.b.norm(dim=1)
    found = newton_cg(linearised(problem, loose), torch.zeros_like(problem.b), gtol=0.9 * norms, max_iter=30)
    assert found.converged.all()
    assert (loose[1:] < 0.5 * products[1:]).all()


def test_shortens_steps_that_overshoot():
    one = torch.ones(3, 2, dtype=torch.float64)
    x0 = torch.tensor([[0.3], [3.0], [7.0]], dtype=torch.float64) * one
    # Newton's full step from 3 leads to -27.
    problem = Separable(hyperbola, one, 0 * one)
    found = newton_cg(problem.at, x0, gtol=1e-11, max_iter=99)
    assert found.converged.all()
    assert_allclose(found.x, 0.0, atol=1e-10)
    assert (problem.used[1:] > found.n_iter[1:] + 1).all()
    assert problem.used[0] == found.n_iter[0] + 1


@pytest.mark.parametrize("offset", [1e8, -1e12])
def test_rounding_of_the_value_does_not_stop_it(rng, offset):
    weight = torch.from_numpy(1 + rng.random((2, 5)))
    problem = Separable(rounded, weight, torch.zeros(2, 5, dtype=torch.float64), offset)
    found = newton_cg(problem.at, torch.full((2, 5), 0.9).double(), gtol=1e-12, max_iter=30)
    assert found.converged.all()
    assert torch.equal(problem.used, found.n_iter + 1)


def test_goes_downhill_where_curvature_is_negative():
    def double_well(x):
        return (x**2 - 1) ** 2, 4 * x * (x**2 - 1), 12 * x**2 - 4

    one = torch.ones(3, 1, dtype=torch.float64)
    problem = Separable(double_well, one, 0 * one)
    found = newton_cg(problem.at, torch.tensor([[0.1], [-0.2], [2.0]]).double(), gtol=1e-10, max_iter=50)
    assert found.converged.all()
    assert_allclose(found.x[:, 0], [1.0, -1.0, 1.0], rtol=1e-10)
    assert (found.secant_min < 0).tolist() == [True, True, False]


def test_a_sample_is_the_same_in_any_company(rng):
    at, x0 = robust_regression(rng, B=5)
    x0 = x0 + torch.tensor([[0.0], [30.0], [0.5], [-60.0], [1.0]], dtype=torch.float64)
    gtol = torch.tensor([1e-10, 1e-8, 1e-1, 1e-12, 1e-17], dtype=torch.float64)

    def solve(index):
        return newton_cg(lambda x, rows: at(x, rows, index), x0[index], gtol=gtol[index], max_iter=40)

    assert_same_in_any_company(solve, 5, EVERY)
    assert solve(torch.arange(5)).converged.tolist() == [True] * 4 + [False]


def test_a_bound_on_the_distance_ends_it_where_the_step_has_become_small(rng):
    centre = torch.from_numpy(rng.standard_normal((3, 5)))
    weight = torch.from_numpy(10.0 ** -rng.uniform(0, 3, (3, 5)))
    xtol = torch.tensor([1e-1, 1e-3, 0.0], dtype=torch.float64)
    problem = Separable(rounded, weight, centre)
    tight = newton_cg(problem.at, centre + 0.5, gtol=1e-13, max_iter=60)
    found = newton_cg(problem.at, centre + 0.5, gtol=1e-13, max_iter=60, xtol=xtol)
    assert found.converged.all()
    assert (found.n_iter < tight.n_iter).tolist() == [True, True, False]
    distance = (found.x - centre).norm(dim=1)
    assert (distance[:2] <= xtol[:2]).all()
    assert (found.gradient_norm[:2] > 1e-13).all()
    assert (0.3 * found.last_step[:2] <= xtol[:2]).all()


def test_uses_the_preconditioner_of_a_point(rng):
    weight = torch.from_numpy(10.0 ** rng.uniform(-3, 3, (3, 40)))
    problem = Separable(rounded, weight, torch.zeros(3, 40, dtype=torch.float64))
    x0 = torch.tensor([[0.5], [0.0], [0.9]], dtype=torch.float64).expand(3, 40)
    plain = newton_cg(problem.at, x0, gtol=1e-8, max_iter=60)
    without, problem.products = problem.products, torch.zeros(3, dtype=torch.int64)

    def at(x, rows):
        point = problem.at(x, rows)
        curvature = weight[rows] * (rounded(x)[2])
        point.precondition = lambda r, places: r / curvature[places]
        return point

    found = newton_cg(at, x0, gtol=1e-8, max_iter=60)
    assert plain.converged.all()
    assert found.converged.all()
    assert torch.equal(problem.products, found.n_iter)  # the inverse itself: a product a step
    assert without[0] > 5 * problem.products[0]


@pytest.mark.parametrize(("value_unit", "x_unit"), [(40, 0), (-40, 0), (0, 30), (0, -30), (-12, 25)])
def test_units_do_not_matter(rng, value_unit, x_unit):
    at, x0 = robust_regression(rng)
    f, s = 2.0**value_unit, 2.0**x_unit

    def scaled(x, rows):
        point = at(x / s, rows)
        return Point(f * point.value, f / s * point.gradient, lambda v, places: f / s**2 * point.hvp(v, places))

    x0 = x0 + 2.0
    one = newton_cg(at, x0, gtol=1e-9, max_iter=40)
    two = newton_cg(scaled, s * x0, gtol=f / s * 1e-9, max_iter=40)
    assert torch.equal(one.n_iter, two.n_iter)
    assert torch.equal(one.x * s, two.x)
    assert torch.equal(one.L * f / s**2, two.L)


def test_a_sample_without_a_number_leaves_the_others_alone(rng):
    at, x0 = robust_regression(rng)
    whole = newton_cg(at, x0, gtol=1e-9, max_iter=40)

    def broken(x, rows):
        point = at(x, rows)
        point.gradient[rows == 1, 0] = torch.nan
        return point

    found = newton_cg(broken, x0, gtol=1e-9, max_iter=40)
    assert found.converged.tolist() == [True, False, True]
    assert torch.isnan(found.gradient_norm[1])
    assert found.n_iter[1] == 0
    assert torch.equal(found.x[::2], whole.x[::2])


def test_steps_back_into_the_domain():
    def barrier(x):  # minimum at 0.1, not a number below 0
        return 10 * x - x.log(), 10 - 1 / x, 1 / x**2

    one = torch.ones(2, 1, dtype=torch.float64)
    problem = Separable(barrier, one, 0 * one)
    found = newton_cg(problem.at, torch.tensor([[1.0], [0.3]]).double(), gtol=1e-9, max_iter=50)
    assert found.converged.all()
    assert_allclose(found.x, 0.1, rtol=1e-9)


def test_products_that_are_no_numbers_leave_steepest_descent(rng):
    at, x0 = robust_regression(rng)
    whole = newton_cg(at, x0, gtol=1e-9, max_iter=40)

    def broken(x, rows):
        point = at(x, rows)
        return Point(
            point.value, point.gradient, lambda v, p: point.hvp(v, p).where((rows[p] != 1)[:, None], torch.nan)
        )

    found = newton_cg(broken, x0, gtol=1e-9, max_iter=40)
    assert found.converged.tolist() == [True, False, True]
    assert found.gradient_norm[1] < 0.5 * broken(x0, torch.arange(3)).gradient[1].norm()
    assert torch.equal(found.x[::2], whole.x[::2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ends_where_rounding_ends_it(rng, dtype):
    weight = torch.from_numpy(1 + rng.random((3, 5))).to(dtype)
    problem = Separable(rounded, weight, torch.full((3, 5), 0.3, dtype=dtype))
    found = newton_cg(problem.at, torch.full((3, 5), 5.0, dtype=dtype), gtol=1e-30, max_iter=500)
    # The gradient vanishes where x is the centre, which floating-point numbers may or may not hit.
    assert (problem.used < 60).all()
    assert (found.gradient_norm < 20 * torch.finfo(dtype).eps).all()
    assert found.x.dtype == dtype


def test_small_cases_and_shapes(rng):
    weight = torch.from_numpy(1 + rng.random((2, 3, 4))).requires_grad_()

    def at(x, rows):
        return Point(
            (weight[rows] * (x - 1) ** 2 / 2).sum((1, 2)), weight[rows] * (x - 1), lambda v, p: weight[rows][p] * v
        )

    x0 = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    found = newton_cg(at, x0, gtol=1e-10, max_iter=9)
    assert found.x.shape == found.gradient.shape == (2, 3, 4)
    assert not found.x.requires_grad
    assert_allclose(found.x, 1.0, rtol=1e-9)
    stopped = newton_cg(at, x0, gtol=1e-10, max_iter=0)
    assert not stopped.converged.any()
    assert stopped.n_iter.tolist() == [0, 0]
    assert_allclose(stopped.gradient, -weight.detach())
    assert newton_cg(at, x0, gtol=1e-10, max_iter=1).n_iter.tolist() == [1, 1]
    none = newton_cg(at, x0[:0], gtol=1e-10, max_iter=9)
    assert none.x.shape == (0, 3, 4)
    line = newton_cg(linearised(Quadratics([[3.0]], rng)), x0[:1, :1, 0], gtol=1e-12, max_iter=9)
    assert line.n_iter.item() == 1


def test_memory_does_not_grow_with_the_steps():
    one, held = torch.ones(2, 333, dtype=torch.float64), []
    problem = Separable(hyperbola, one, 0 * one)

    def at(x, rows):
        if problem.used[0] in (3, 12):
            held.append(count())
        return problem.at(x, rows)

    with living(666) as count:
        newton_cg(at, 1e4 * one, gtol=1e-12, max_iter=99)
    assert 3 < held[1] <= held[0] < 25


def test_errors_name_the_argument(rng):
    at, x0 = robust_regression(rng)
    with pytest.raises(InvalidInputError, match="gtol must be 0 or more; got -2 for sample 2"):
        newton_cg(at, x0, gtol=torch.tensor([0.0, 1.0, -2.0]), max_iter=9)
    with pytest.raises(InvalidInputError, match=r"at must return a value of shape \(3,\) .*got None and \(3, 8\)"):
        newton_cg(lambda x, rows: Point(None, x, None), x0, gtol=1.0, max_iter=9)
    with pytest.raises(InvalidInputError, match=r"a gradient of shape \(3, 8\); got \(3,\) and \(3,\)"):
        newton_cg(lambda x, rows: Point(x[:, 0], x[:, 0], None), x0, gtol=1.0, max_iter=9)
    with pytest.raises(InvalidInputError, match="max_iter must be an integer at least 0"):
        newton_cg(at, x0, gtol=1.0, max_iter=-1)
