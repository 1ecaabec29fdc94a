"""Nonsmooth lower levels: exact solutions, hypergradients on the support, and words where there is no derivative."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import ElasticNet, Lasso

from sciml.exceptions import ConditioningWarning, ConvergenceWarning, InvalidInputError
from sciml.inverse.bilevel import Auto, learn_hyperparameters
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.held_out import HeldOut
from sciml.inverse.bilevel.sparse_regression import SparseRegression, alpha_max

PENALTIES = ["lasso", "weighted-lasso", "elastic-net", "weighted-elastic-net"]


def folds(rng, n, p, k=3, loss="squared"):
    """Return training and validation sets of k folds: X, y, Xv, yv, lists each."""
    X = rng.standard_normal((n, p))
    y = X[:, :4] @ np.array([2.0, -1.0, 1.0, 0.5]) + rng.standard_normal(n)
    y = y if loss == "squared" else (y > 0).astype(float)
    own = np.arange(n) % k
    parts = [[A[own != i] for i in range(k)] for A in (X, y)] + [[A[own == i] for i in range(k)] for A in (X, y)]
    return tuple(parts)


def solve(lower, theta, x0=None):
    """Return solutions at theta and the linearisation there."""
    idx, B = torch.arange(lower.n_samples), lower.n_samples
    x0 = torch.zeros(B, *lower.shape, dtype=torch.float64) if x0 is None else x0
    got = lower.solve(x0, theta, idx, None, Counter(), 1000)
    return got, lower.at(got.x, theta, idx, Counter())


def hypergradient(lower, upper, theta):
    """Return value and hypergradient, by dense linear algebra."""
    got, point = solve(lower, theta)
    idx, B, d = torch.arange(lower.n_samples), lower.n_samples, lower.shape[0]
    value, slope = upper.gradient(got.x, theta, idx)
    eye = torch.eye(d, dtype=torch.float64)
    H = torch.stack([point.hvp(e.expand(B, d)) for e in eye], 2)
    q = torch.linalg.solve(H, slope * point.mask)
    return float(value.mean()), -point.cross_adjoint(q, [slice(0, B)])[0] / B


def start(lower, X, y, part=0.2, rng=None):
    """Return theta with all alpha at a part of alpha_max, all rho at a tenth of that, a little apart."""
    theta = np.full(lower.n_hyper, math.log(part * alpha_max(X, y, loss=lower.loss.name)))
    if lower.n_hyper in (2, 2 * lower.shape[0]):
        theta[lower.n_hyper // 2 :] -= math.log(10)
    return torch.from_numpy(theta + (0.1 * rng.standard_normal(len(theta)) if rng is not None else 0))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("loss", "n", "p"), [("squared", 60, 12), ("squared", 24, 40), ("logistic", 90, 12)])
def test_implicit_gradient_equals_finite_differences(loss, n, p, penalty, rng):
    X, y, Xv, yv = folds(rng, n, p, loss=loss)
    lower, upper = SparseRegression(X, y, loss=loss, penalty=penalty), HeldOut(loss, Xv, yv)
    theta = start(lower, X, y, rng=rng)
    _, z = hypergradient(lower, upper, theta)
    h, differences = 1e-5, []
    for e in torch.eye(lower.n_hyper, dtype=torch.float64):
        values = [
            float(upper.value(solve(lower, theta + s * h * e)[0].x, None, torch.arange(3)).mean()) for s in (1, -1)
        ]
        differences.append((values[0] - values[1]) / (2 * h))
    # Central differences: h^2 times a third derivative of order 1, and rounding of the values over h.
    assert_allclose(z, differences, rtol=1e-6, atol=1e-6 * float(z.abs().max()))
    assert float(z.abs().max()) > 1e-3


@pytest.mark.parametrize("penalty", PENALTIES)
def test_solutions_equal_scikit_learn(penalty, rng):
    X, y, _, _ = folds(rng, 60, 12)
    lower = SparseRegression(X, y, penalty=penalty)
    theta = start(lower, X, y)
    got, point = solve(lower, theta)
    a, r = math.exp(theta[0]), math.exp(theta[-1]) if "elastic" in penalty else 0.0
    peer = ElasticNet(alpha=a + r, l1_ratio=a / (a + r), fit_intercept=False, tol=1e-14, max_iter=100_000)
    assert bool(got.converged.all())
    for i in range(3):
        assert_allclose(got.x[i], peer.fit(X[i], y[i]).coef_, rtol=0, atol=1e-7)  # its gap is quadratic in the error
        assert np.array_equal(point.mask[i].numpy(), peer.coef_ != 0)


@pytest.mark.parametrize(("n", "p"), [(60, 12), (24, 40), (24, 1200)])
def test_all_ways_to_compute_agree_and_the_value_is_the_energy(n, p, rng):
    X, y, _, _ = folds(rng, n, p)
    lower = SparseRegression(X, y, penalty="elastic-net")
    theta = start(lower, X, y)
    (a, r), idx, count = theta.exp(), torch.arange(3), Counter()
    x = torch.from_numpy(rng.standard_normal((3, p)) * (rng.random((3, p)) < 0.5))
    point = lower.at(x, theta, idx, count, value=True)
    assert count.lower > 0
    for i in range(3):
        A, b = torch.from_numpy(X[i]), torch.from_numpy(y[i])
        residual = A @ x[i] - b
        energy = 0.5 * (residual**2).mean() + a * x[i].abs().sum() + 0.5 * r * (x[i] ** 2).sum()
        assert_allclose(point.value[i], energy, rtol=1e-12)
        slope = A.T @ residual / len(A) + r * x[i]
        # The subgradient of least norm: zero in the interval [-a, a] where x = 0.
        least = torch.where(x[i] != 0, slope + a * x[i].sign(), slope - slope.clamp(-a, a))
        assert_allclose(point.gradient[i], least, rtol=0, atol=1e-12)
        assert_allclose(lower.gradient(x, theta, idx, Counter())[i], least, rtol=0, atol=1e-12)


def test_off_the_support_there_is_nothing_but_the_identity(rng):
    X, y, _, _ = folds(rng, 24, 40)
    lower = SparseRegression(X, y, penalty="weighted-elastic-net")
    theta = start(lower, X, y)
    got, point = solve(lower, theta)
    v, count, each = torch.from_numpy(rng.standard_normal((3, 40))), Counter(), [slice(i, i + 1) for i in range(3)]
    point._count = count
    Hv, t = point.hvp(v), torch.from_numpy(rng.standard_normal(80))
    off = ~point.mask
    assert 0 < int(off.sum()) < 120
    assert torch.equal(Hv[off], v[off])
    assert not bool(point.gradient[off].any() | point.cross(t)[off].any())
    assert_allclose(point.precondition(Hv, torch.arange(3)), v, rtol=0, atol=1e-11)
    assert torch.equal(point.hvp(v[1:2], torch.tensor([1]))[0], Hv[1])
    adjoint = point.cross_adjoint(v, each)
    assert_allclose(adjoint @ t, (point.cross(t) * v).sum(1), rtol=1e-12)
    assert not bool(adjoint[:, :40][off].any() | adjoint[:, 40:][off].any())
    in_x, in_theta = point.third(v, v, each)
    assert not bool(in_x.any())
    assert_allclose(in_theta[:, 40:], theta[40:].exp() * v**2 * point.mask, rtol=1e-12)
    J = torch.stack([point.cross(e) for e in torch.eye(80, dtype=torch.float64)], 2)
    norms = torch.linalg.matrix_norm(J, 2)
    bounds = lower.norm_J(point)
    assert bool((norms <= bounds * (1 + 1e-12)).all())
    assert bool((bounds <= 1.5 * norms).all())
    assert (count.hvp, count.cross, count.third) == (4, 9 + 240, 3)


def test_the_third_derivative_of_the_logistic_loss_is_restricted_too(rng):
    X, y, _, _ = folds(rng, 90, 12, loss="logistic")
    lower = SparseRegression(X, y, loss="logistic")
    theta = start(lower, X, y)
    got, point = solve(lower, theta)
    p, q = torch.from_numpy(rng.standard_normal((2, 3, 12))) * point.mask
    in_x, _ = point.third(p, q, [slice(0, 3)])
    e = torch.from_numpy(rng.standard_normal((3, 12))) * point.mask
    h, idx = 1e-5, torch.arange(3)
    ends = [(lower.at(got.x + s * h * e, theta, idx, Counter()).hvp(q) * p).sum(1) for s in (1, -1)]
    assert_allclose((in_x * e).sum(1), (ends[0] - ends[1]) / (2 * h), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("n", "p", "penalty"), [(60, 12, "lasso"), (24, 40, "lasso"), (24, 40, "elastic-net")])
def test_distances_and_energies_are_bounded(n, p, penalty, rng):
    X, y, _, _ = folds(rng, n, p)
    lower, idx = SparseRegression(X, y, penalty=penalty), torch.arange(3)
    theta = start(lower, X, y)
    got, _ = solve(lower, theta)
    best = lower.at(got.x, theta, idx, Counter(), value=True).value
    assert not got.guess
    assert bool((got.gradient_norm <= 1e-13).all())
    assert bool((lower.duality_gap(got.x, theta, idx) <= 1e-12 * best).all())
    known = lower.constants(theta, idx).mu
    assert (known is None) == (penalty == "lasso" and p > n)
    for scale in (1e-3, 1.0):
        # Perturbations of what is not zero; elsewhere strong convexity holds only where mu is known for all x.
        e = torch.from_numpy(rng.standard_normal((3, p))) * scale
        x = got.x + (e if known is not None else e * (got.x != 0))
        point = lower.at(x, theta, idx, Counter(), value=True)
        gap = lower.duality_gap(x, theta, idx)
        assert bool((gap >= (point.value - best) * (1 - 1e-9)).all())
        distance = torch.linalg.vector_norm(x - got.x, dim=1)
        least = torch.linalg.vector_norm(lower.gradient(x, theta, idx, Counter()), dim=1)
        assert bool((distance <= least / got.mu).all())


def test_the_path_starts_at_alpha_max_and_above_it_all_is_flat(rng):
    X, y, Xv, yv = folds(rng, 60, 12)
    top = alpha_max(X, y)
    lower, upper = SparseRegression(X, y), HeldOut("squared", Xv, yv)
    assert bool((solve(lower, torch.tensor([math.log(0.999 * top)]))[0].x != 0).any())
    theta = np.array([math.log(1.001 * top)])
    assert not bool(solve(lower, torch.from_numpy(theta))[0].x.any())
    with pytest.warns(ConvergenceWarning, match="flat"):
        result = learn_hyperparameters(lower, upper, theta)
    assert result.status == "flat"
    classes = [(b > 0).astype(float) for b in y]
    top = math.log(alpha_max(X, classes, loss="logistic"))
    for shift, alive in ((-1e-3, True), (1e-3, False)):
        lower = SparseRegression(X, classes, loss="logistic")
        assert bool((solve(lower, torch.tensor([top + shift], dtype=torch.float64))[0].x != 0).any()) is alive


def test_finds_the_best_penalty_of_a_fine_grid(rng):
    X, y, Xv, yv = folds(rng, 60, 12)
    top = math.log(alpha_max(X, y))
    lower, upper = SparseRegression(X, y), HeldOut("squared", Xv, yv)
    options = {"bounds": (top - 8, top + 1), "on_failure": "ignore"}
    result = learn_hyperparameters(lower, upper, np.array([top - 1.5]), method=Auto(direction="lbfgs"), **options)
    grid = []
    for t in np.linspace(top - 8, top, 200):
        peers = [Lasso(alpha=math.exp(t), fit_intercept=False, tol=1e-10).fit(a, b) for a, b in zip(X, y, strict=True)]
        grid.append(np.mean([((a @ m.coef_ - b) ** 2).mean() / 2 for m, a, b in zip(peers, Xv, yv, strict=True)]))
    assert result.certified
    assert result.value <= min(grid) * (1 + 1e-9)
    assert_allclose(result.value, min(grid), rtol=1e-3)  # a grid of 200 is that fine


def test_a_sample_is_the_same_alone_and_in_company_bit_for_bit(rng):
    X, y, _, _ = folds(rng, 24, 40)
    lower = SparseRegression(X, y)
    theta = start(lower, X, y)
    together, point = solve(lower, theta)
    for i in range(3):
        one = torch.tensor([i])
        alone = lower.solve(torch.zeros(1, 40, dtype=torch.float64), theta, one, None, Counter(), 1000)
        assert torch.equal(alone.x[0], together.x[i])
        q = torch.ones(1, 40, dtype=torch.float64)
        assert torch.equal(lower.at(alone.x, theta, one, Counter()).hvp(q)[0], point.hvp(q.expand(3, 40))[i])


def test_work_is_counted_in_gradients():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((1, 50, 1500)), rng.standard_normal((1, 50))
    lower, idx, count = SparseRegression(X, y), torch.tensor([0]), Counter()
    x = torch.ones(1, 1500, dtype=torch.float64)
    lower.gradient(x, torch.zeros(1), idx, count)
    assert_allclose(count.lower, 1.0, rtol=1e-12)  # two products with the whole matrix
    lower.gradient(0 * x, torch.zeros(1), idx, count)
    assert_allclose(count.lower, 1.5, rtol=1e-12)  # one


def test_a_column_without_absolute_values_is_never_zero(rng):
    X, y, _, _ = folds(rng, 60, 12)
    lower = SparseRegression(X, y, unpenalised=[7])
    got, point = solve(lower, torch.tensor([10.0], dtype=torch.float64))
    for i in range(3):
        column = X[i][:, 7]
        assert_allclose(got.x[i, 7], column @ y[i] / (column @ column), rtol=1e-12)
    assert got.x.count_nonzero() == 3
    assert torch.equal(point.cross(torch.ones(1)), torch.zeros(3, 12, dtype=torch.float64))


def test_equal_columns_have_no_unique_derivative_and_a_warning_says_so(rng):
    X, y, _, _ = folds(rng, 60, 6)
    twice = [np.hstack([a, a]) for a in X]
    lower = SparseRegression(twice, y, rho=0.0)
    theta, idx = start(lower, X, y), torch.arange(3)
    x, v = torch.from_numpy(rng.standard_normal((3, 6))), torch.from_numpy(rng.standard_normal((3, 12)))
    point = lower.at(torch.cat([x, x], 1), theta, idx, Counter())
    with pytest.warns(ConditioningWarning, match="singular.*ridge of 1e-10"):
        u = point.precondition(v, idx)
    assert bool(torch.isfinite(u).all())
    # The ridge belongs to the Hessian, which is inverted up to rounding times its condition number of about 1e10.
    assert_allclose(point.hvp(u), v, rtol=0, atol=1e-4)


def test_an_unknown_at_the_edge_of_the_support_is_announced():
    # x = (2, 0), and the slope of the second is 1, exactly alpha.
    theta, idx = torch.zeros(1, dtype=torch.float64), torch.tensor([0])
    lower = SparseRegression(np.eye(2), np.array([6.0, 2.0]))
    with pytest.warns(ConvergenceWarning, match="support .* is not identified"):
        lower.at(torch.tensor([[4.0, 0.0]], dtype=torch.float64), theta, idx, Counter())


def test_single_precision_and_zero_data():
    rng = np.random.default_rng(3)
    X, y, _, _ = folds(rng, 60, 12)
    lower = SparseRegression(X, y, penalty="elastic-net")
    theta, idx = start(lower, X, y), torch.arange(3)
    want, _ = solve(lower, theta)
    small = lower.to("cpu", torch.float32)
    got = small.solve(torch.zeros(3, 12), theta, idx, None, Counter(), 100)
    assert got.x.dtype == torch.float32
    assert_allclose(got.x, want.x, rtol=0, atol=1e-5)
    assert bool(got.converged.all())
    assert small.to("cpu", torch.float32) is small
    zero = SparseRegression(np.zeros((5, 3)), np.zeros(5))
    got, _ = solve(zero, torch.zeros(1, dtype=torch.float64))
    assert not bool(got.x.any())
    assert bool(got.converged.all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "multinomial"}, "loss must be one of 'squared', 'logistic'; got 'multinomial'"),
        ({"penalty": "lassos"}, "penalty must be one of .*Did you mean 'lasso'"),
        ({"rho": -1.0}, "rho must be a number at least 0; got -1"),
        ({"unpenalised": [2]}, "unpenalised must hold columns from 0 to 1; got 2"),
    ],
)
def test_says_what_is_wrong(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        SparseRegression(np.ones((3, 2)), np.array([0.0, 1.0, 1.0]), **arguments)


def test_a_gap_is_that_of_least_squares():
    lower = SparseRegression(np.ones((3, 2)), np.array([0.0, 1.0, 1.0]), loss="logistic")
    with pytest.raises(InvalidInputError, match="duality_gap needs loss='squared'; got 'logistic'"):
        lower.duality_gap(torch.zeros(1, 2).double(), torch.zeros(1).double(), torch.tensor([0]))
