"""Newton on the support: exact where others are slow, right where the support is ambiguous."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import ElasticNet, LogisticRegression

from sciml.exceptions import InvalidInputError
from sciml.optimize.active_set import l1_newton
from sciml.optimize.coordinate_descent import coordinate_descent


class Quadratic:
    """x^T C x / 2 - b^T x of each sample, and how often it was looked at."""

    def __init__(self, C, b):
        self.C, self.b, self.looks = C.numpy(), b.numpy(), 0

    def __call__(self, x, i):
        self.looks += 1
        C, gradient = self.C[i], self.C[i] @ x - self.b[i]
        value = float(0.5 * x @ (gradient - self.b[i]))
        return SimpleNamespace(value=value, gradient=gradient, hessian=lambda W: C[np.ix_(W, W)])


def regression(rng, n, d, n_samples=1, rho=0.0):
    """Return C and b of least squares with ten true features."""
    C, b = [], []
    for _ in range(n_samples):
        X = torch.from_numpy(rng.standard_normal((n, d)))
        y = X[:, :10].sum(1) + 0.5 * torch.from_numpy(rng.standard_normal(n))
        C.append(X.T @ X / n + rho * torch.eye(d, dtype=torch.float64))
        b.append(X.T @ y / n)
    return torch.stack(C), torch.stack(b)


def optimal(C, b, x, l1, atol):
    """Assert the conditions of a minimiser, one unknown after the other."""
    gradient = C @ x - b
    assert_allclose(gradient[x != 0], -(l1 * torch.sign(x))[x != 0], rtol=0, atol=atol)
    assert bool((gradient.abs() <= l1 + atol)[x == 0].all())


@pytest.mark.parametrize(("n", "d"), [(100, 20), (40, 100)])
@pytest.mark.parametrize("part", [0.5, 1e-1, 1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_reaches_rounding_in_few_steps_from_zero_and_fewer_from_nearby(n, d, part, rho, rng):
    C, b = regression(rng, n, d, rho=rho)
    l1 = part * float(b.abs().max())
    got = l1_newton(Quadratic(C, b), torch.zeros_like(b), l1=l1, gtol=1e-12, max_iter=100)
    assert bool(got.converged)
    optimal(C[0], b[0], got.x[0], l1, 1e-12)
    assert int((got.x != 0).sum()) <= (d if rho else min(n, d))
    near = l1_newton(Quadratic(C, b), got.x, l1=0.99 * l1, gtol=1e-12, max_iter=100)
    assert bool(near.converged)
    assert int(near.n_iter) <= 5


def test_equals_coordinate_descent_and_scikit_learn(rng):
    X, y = rng.standard_normal((60, 30)), rng.standard_normal(60)
    C, b = torch.from_numpy(X.T @ X / 60)[None], torch.from_numpy(X.T @ y / 60)[None]
    C = C + 0.05 * torch.eye(30, dtype=torch.float64)
    got = l1_newton(Quadratic(C, b), torch.zeros_like(b), l1=0.1, gtol=1e-12, max_iter=50).x
    twin = coordinate_descent(C, b, l1=0.1, gtol=1e-12, max_iter=1000).x
    peer = ElasticNet(alpha=0.15, l1_ratio=2 / 3, fit_intercept=False, tol=1e-14, max_iter=10_000).fit(X, y)
    assert_allclose(got, twin, rtol=0, atol=1e-11)
    assert_allclose(got[0], peer.coef_, rtol=0, atol=1e-7)  # its criterion is a gap, which is quadratic in the error


def test_logistic_regression_equals_scikit_learn(rng):
    X, n = torch.from_numpy(rng.standard_normal((80, 12))), 80
    y = (X[:, 0] - X[:, 1] + torch.from_numpy(rng.standard_normal(80)) > 0).double()

    def at(x, i):
        z = X @ torch.from_numpy(x)
        s = torch.sigmoid(z)
        value = float((torch.nn.functional.softplus(z) - y * z).mean())
        curved = X * (s * (1 - s))[:, None] / n
        gradient = (X.T @ (s - y) / n).numpy()
        return SimpleNamespace(value=value, gradient=gradient, hessian=lambda W: (X[:, W].T @ curved[:, W]).numpy())

    got = l1_newton(at, torch.zeros(1, 12, dtype=torch.float64), l1=0.04, gtol=1e-13, max_iter=50)
    assert bool(got.converged)
    assert 0 < int((got.x == 0).sum()) < 12
    peer = LogisticRegression(l1_ratio=1.0, C=1 / (0.04 * n), solver="saga", fit_intercept=False, tol=1e-10)
    assert_allclose(got.x[0], peer.set_params(max_iter=10_000).fit(X.numpy(), y.numpy()).coef_[0], rtol=0, atol=1e-7)


def test_an_unknown_without_penalty_may_be_anything():
    C = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]], dtype=torch.float64)
    b = torch.tensor([[0.5, 3.0]], dtype=torch.float64)
    l1 = torch.tensor([0.0, 1.0], dtype=torch.float64)
    got = l1_newton(Quadratic(C, b), torch.ones_like(b), l1=l1, gtol=1e-13, max_iter=9)
    # C x = b - (0, 1) has the solution (-1 / 3, 7 / 6); the first unknown passes zero without a stop.
    assert got.n_iter.tolist() == [1]
    assert_allclose(got.x, [[-1 / 3, 7 / 6]], rtol=0, atol=1e-14)


@pytest.mark.parametrize("part", [0.1, 1e-2, 1e-4, 1e-7])
def test_equal_columns_do_no_harm(part, rng):
    X = torch.from_numpy(rng.standard_normal((20, 30)))
    X = torch.cat([X, X, X[:, :10]], 1)
    C, b = (X.T @ X / 20)[None], (X.T @ torch.from_numpy(rng.standard_normal(20)) / 20)[None]
    l1 = part * float(b.abs().max())
    got = l1_newton(Quadratic(C, b), torch.zeros_like(b), l1=l1, gtol=1e-11, max_iter=200)
    assert bool(got.converged)
    optimal(C[0], b[0], got.x[0], l1, 1e-11)


def test_small_penalties_are_reached_in_stages(rng):
    C, b = regression(rng, 80, 200)
    l1 = 1e-5 * float(b.abs().max())
    got = l1_newton(Quadratic(C, b), torch.zeros_like(b), l1=l1, gtol=1e-12, max_iter=200)
    assert bool(got.converged)
    assert int(got.n_iter) <= 70  # 46 on other data, 124 without stages


def test_zero_data_large_penalties_and_the_edge_give_zero():
    C, b = torch.zeros(1, 3, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    assert torch.equal(l1_newton(Quadratic(C, b), b, l1=1.0, gtol=0.0, max_iter=9).x, b)
    C, b = torch.eye(3, dtype=torch.float64)[None], torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    got = l1_newton(Quadratic(C, b), torch.ones_like(b), l1=2.0, gtol=0.0, max_iter=9)
    assert torch.equal(got.x, torch.zeros_like(b))
    assert got.n_iter.tolist() == [1]


def test_samples_are_independent_and_units_do_not_matter(rng):
    C, b = regression(rng, 30, 40, n_samples=3)
    l1 = torch.tensor([[0.3], [0.05], [0.01]], dtype=torch.float64)
    together = l1_newton(Quadratic(C, b), torch.zeros_like(b), l1=l1, gtol=1e-12, max_iter=99)
    for i in range(3):
        one = slice(i, i + 1)
        alone = l1_newton(Quadratic(C[one], b[one]), torch.zeros_like(b[one]), l1=l1[one], gtol=1e-12, max_iter=99)
        assert torch.equal(alone.x[0], together.x[i])
        assert alone.n_iter[0] == together.n_iter[i]
    scaled = l1_newton(
        Quadratic(C, 2.0**20 * b), torch.zeros_like(b), l1=2.0**20 * l1, gtol=2.0**20 * 1e-12, max_iter=99
    )
    assert torch.equal(scaled.x, 2.0**20 * together.x)
    assert torch.equal(scaled.n_iter, together.n_iter)


def test_says_where_it_did_not_get_to(rng):
    C, b = regression(rng, 40, 100)
    got = l1_newton(Quadratic(C, b), torch.zeros_like(b), l1=1e-4, gtol=1e-12, max_iter=2)
    assert not bool(got.converged)
    assert got.n_iter.tolist() == [2]
    assert float(got.gradient_norm) > 1e-12
    # Below rounding nothing falls any more: it ends, and says that the tolerance was not met.
    got = l1_newton(Quadratic(C, b), torch.zeros_like(b), l1=0.1, gtol=1e-30, max_iter=1000)
    assert not bool(got.converged)
    assert int(got.n_iter) < 50
    nan = l1_newton(Quadratic(C, b * torch.nan), torch.zeros_like(b), l1=0.1, gtol=1e-12, max_iter=9)
    assert not bool(nan.converged)


def test_takes_one_row_a_sample():
    with pytest.raises(InvalidInputError, match=r"x0 must be of shape \(B, d\); got \(1, 2, 2\)"):
        l1_newton(None, torch.zeros(1, 2, 2), l1=1.0, gtol=1e-9, max_iter=3)
