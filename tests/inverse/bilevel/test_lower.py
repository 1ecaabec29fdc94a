"""LowerProblem: derivatives against dense ones, counts, and what it says to wrong input."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.lower import Lower, LowerProblem, Point

from .energies import regression

B, D, N = 4, 3, 2
Y = torch.from_numpy(np.random.default_rng(0).standard_normal((B, D)))
X = torch.from_numpy(np.random.default_rng(1).standard_normal((B, D)))
THETA = torch.tensor([0.3, -0.7], dtype=torch.float64)
IDX = torch.tensor([3, 0, 2, 1])


def h(x, theta, idx):
    """No two of its derivatives look alike, and every sample has others."""
    quartic = (torch.exp(theta[0]) * (x - Y[idx]) ** 4).sum(1)
    return quartic + torch.sin(theta[1] * x[:, 0]) * x[:, 1] + (1 + theta[1] ** 2) * (x**2).sum(1) * (1 + idx)


def dense(i, f):
    """f of one sample's energy as a function of x (d,) and theta (n,)."""
    one = torch.tensor([int(IDX[i])])
    return f(lambda x, theta: h(x[None], theta, one)[0])


def hessian(i):
    return dense(i, lambda e: torch.autograd.functional.hessian(lambda x: e(x, THETA), X[i]))


def mixed(i):
    """J (d, n)."""
    return dense(i, lambda e: torch.autograd.functional.hessian(e, (X[i], THETA))[0][1])


@pytest.fixture
def point():
    return LowerProblem(h, mu=1.0).at(X, THETA, IDX, Counter())


def test_value_and_gradient():
    count, problem = Counter(), LowerProblem(h, mu=1.0)
    point = problem.at(X, THETA, IDX, count)
    assert count.as_dict() == Counter(lower=B).as_dict()
    assert_allclose(point.value, h(X, THETA, IDX), rtol=1e-14)
    G = problem.gradient(X, THETA, IDX, count)
    assert count.lower == 2 * B
    for i in range(B):
        assert_allclose(G[i], dense(i, lambda e, i=i: torch.autograd.functional.jacobian(lambda x: e(x, THETA), X[i])))
    assert_allclose(point.gradient, G, rtol=1e-14)
    assert not G.requires_grad
    assert not point.gradient.requires_grad
    assert not point.x.requires_grad


@pytest.mark.parametrize("rows", [None, [0, 1, 2, 3], [0, 2, 3], [1, 3], [2]])
def test_products_with_the_hessian_of_some_samples(rows):
    count = Counter()
    point = LowerProblem(h, mu=1.0).at(X, THETA, IDX, count)
    some = list(range(B)) if rows is None else rows
    v = torch.from_numpy(np.random.default_rng(2).standard_normal((len(some), D)))
    for _ in range(2):
        got = point.hvp(v, None if rows is None else torch.tensor(rows))
        for k, i in enumerate(some):
            assert_allclose(got[k], hessian(i) @ v[k], rtol=1e-12)
    assert count.hvp == 2 * len(some)
    # A linearisation of few samples costs their gradient, and only once.
    assert count.lower == B + (len(some) if 2 * len(some) <= B else 0)


def test_linearisations_of_fewer_and_fewer_samples(point):
    v = torch.ones(B, D, dtype=torch.float64)
    for rows in ([1, 3], [3], [1], [0, 2], [0, 1, 2, 3]):
        got = point.hvp(v[rows], torch.tensor(rows))
        for k, i in enumerate(rows):
            assert_allclose(got[k], hessian(i).sum(1), rtol=1e-12)
    # Every linearisation of some samples costs their gradients; the one of all is kept.
    assert point._count.lower == B + 2 + 1 + 1 + 2


def test_products_with_the_mixed_derivative(point):
    t = torch.tensor([0.4, -1.3], dtype=torch.float64)
    q = torch.from_numpy(np.random.default_rng(3).standard_normal((B, D)))
    blocks = [slice(0, 1), slice(1, 4)]
    along, back = point.cross(t), point.cross_adjoint(q, blocks)
    single = torch.stack([mixed(i).T @ q[i] for i in range(B)])
    for i in range(B):
        assert_allclose(along[i], mixed(i) @ t, rtol=1e-12)
    assert_allclose(back, torch.stack([single[0], single[1:].sum(0)]), rtol=1e-12)
    assert_allclose(point.cross_adjoint(q, [slice(0, B)])[0], single.sum(0), rtol=1e-12)
    assert point._count.cross == 3 * B


def test_third_derivatives(point):
    p, q = torch.from_numpy(np.random.default_rng(4).standard_normal((2, B, D)))
    blocks = [slice(0, 2), slice(2, 4)]
    in_x, in_theta = point.third(p, q, blocks)
    assert point._count.third == B
    by_theta = []
    for i in range(B):

        def form(x, theta, i=i):
            H = torch.autograd.functional.hessian(lambda v: dense(i, lambda e: e(v, theta)), x, create_graph=True)
            return p[i] @ H @ q[i]

        by_x, by_t = torch.autograd.functional.jacobian(form, (X[i], THETA))
        assert_allclose(in_x[i], by_x, rtol=1e-11)
        by_theta.append(by_t)
    assert_allclose(in_theta, torch.stack([by_theta[0] + by_theta[1], by_theta[2] + by_theta[3]]), rtol=1e-11)


def test_derivatives_that_are_not_there_are_zero():
    def linear(x, theta, idx):
        return x.sum(1)

    ones, every = torch.ones(B, D, dtype=torch.float64), [slice(0, B)]
    for energy in (linear, lambda x, theta, idx: 0.5 * (x**2).sum(1), lambda x, theta, idx: theta.sum() + 0 * x.sum(1)):
        point = LowerProblem(energy, mu=1.0).at(X, THETA, IDX, Counter())
        assert_allclose(point.cross(THETA), np.zeros((B, D)))
        assert_allclose(point.cross_adjoint(ones, every), np.zeros((1, N)))
        in_x, in_theta = point.third(ones, ones, every)
        assert_allclose(in_x, np.zeros((B, D)))
        assert_allclose(in_theta, np.zeros((1, N)))
    assert_allclose(LowerProblem(linear, mu=1.0).at(X, THETA, IDX, Counter()).hvp(ones), np.zeros((B, D)))


def test_no_gradient_flows_to_theta_while_solving():
    """A theta that requires a gradient would keep the graph of every iterate."""
    seen = []

    def energy(x, theta, idx):
        seen.append(theta.requires_grad)
        return h(x, theta, idx)

    theta = THETA.clone().requires_grad_()
    problem = LowerProblem(energy, mu=lambda t: t.exp().min())
    G = problem.gradient(X, theta, IDX, Counter())
    assert seen == [False]
    assert not G.requires_grad
    assert not problem.constants(theta, IDX).mu.requires_grad


def test_theta_comes_in_the_dtype_of_x():
    seen = []

    def energy(x, theta, idx):
        seen.append((x.dtype, theta.dtype))
        return (torch.exp(theta[0]) * x**2).sum(1)

    problem, x = LowerProblem(energy, mu=1.0), X.to(torch.float32)
    G = problem.gradient(x, THETA, IDX, Counter())
    point = problem.at(x, THETA, IDX, Counter())
    assert seen == [(torch.float32, torch.float32)] * 2
    assert G.dtype == point.hvp(x).dtype == point.cross(THETA).dtype == torch.float32
    assert point.cross_adjoint(x, [slice(0, B)]).dtype == torch.float64


def test_constants_are_numbers_functions_or_one_for_each_sample():
    each = torch.tensor([1.0, 2.0, 3.0, 4.0])
    problem = LowerProblem(h, mu=lambda t: torch.exp(t[0]), L=each, LH=0.0, LJ=lambda t: each + t[1])
    constants = problem.constants(THETA, IDX)
    assert_allclose(constants.mu, np.full(B, np.exp(0.3)))
    assert_allclose(constants.L, [4, 1, 3, 2])
    assert_allclose(constants.LH, np.zeros(B))
    assert_allclose(constants.LJ, np.array([4, 1, 3, 2]) - 0.7, rtol=1e-6)
    assert constants.mu.dtype == constants.L.dtype == torch.float64
    unknown = LowerProblem(h, mu=None).constants(THETA, IDX)
    assert unknown.mu is unknown.L is unknown.LH is unknown.LJ is None


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("mu", 0.0, InvalidInputError),
        ("mu", -1.0, InvalidInputError),
        ("mu", float("nan"), InvalidInputError),
        ("mu", torch.tensor([1.0, 0.0]), InvalidInputError),
        ("mu", "large", InvalidTypeError),
        ("L", 0.0, InvalidInputError),
        ("L", float("inf"), InvalidInputError),
        ("LH", -1e-3, InvalidInputError),
        ("LJ", float("nan"), InvalidInputError),
    ],
)
def test_constants_that_cannot_be(name, value, error):
    with pytest.raises(error, match=name):
        LowerProblem(h, **{"mu": 1.0, name: value})


@pytest.mark.parametrize("mu", [lambda t: -1.0, lambda t: torch.ones(2), lambda t: torch.ones(2, 2), torch.ones(3)])
def test_constants_that_turn_out_wrong(mu):
    with pytest.raises(InvalidInputError, match="mu must be"):
        LowerProblem(h, mu=mu).constants(THETA, IDX)


def test_energies_that_are_none():
    with pytest.raises(InvalidTypeError, match="h must be a function"):
        LowerProblem(3.0, mu=1.0)
    for energy, error, match in (
        (lambda x, theta, idx: h(x, theta, idx).mean(), InvalidInputError, "one energy a sample"),
        (lambda x, theta, idx: x, InvalidInputError, "one energy a sample"),
        (lambda x, theta, idx: x.detach().numpy().sum(1), InvalidTypeError, "torch tensor"),
    ):
        with pytest.raises(error, match=match):
            LowerProblem(energy, mu=1.0).gradient(X, THETA, IDX, Counter())
    with pytest.raises(InvalidInputError, match="n_samples"):
        LowerProblem(h, mu=1.0, n_samples=0)


def test_a_sample_does_not_depend_on_its_company():
    case = regression("logistic", B=5)
    idx, x = torch.arange(5), torch.from_numpy(np.random.default_rng(5).standard_normal((5, 4)))
    G = case.lower.gradient(x, THETA, idx, Counter())
    for i in range(5):
        alone = case.lower.gradient(x[i : i + 1], THETA, idx[i : i + 1], Counter())
        assert_allclose(alone[0], G[i], rtol=1e-13)


def test_the_base_classes_promise_and_nothing_more():
    lower, point = Lower(), Point(X, THETA, IDX, X)
    for call in (
        lambda: lower.constants(THETA, IDX),
        lambda: lower.gradient(X, THETA, IDX, Counter()),
        lambda: lower.at(X, THETA, IDX, Counter()),
        lambda: point.hvp(X),
        lambda: point.cross(THETA),
        lambda: point.cross_adjoint(X, [slice(0, B)]),
        lambda: point.third(X, X, [slice(0, B)]),
    ):
        with pytest.raises(NotImplementedError):
            call()
    assert lower.solve(X, THETA, IDX, None, Counter(), 1) is None
    assert lower.norm_J(point) is None
    assert lower.to(torch.device("cpu"), torch.float64) is lower
    assert not lower.exact
    assert not lower.quadratic
