"""Linear models: every product equals automatic differentiation, every constant is a bound, folds do not mix."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.data_cleaning import DataCleaning
from sciml.inverse.bilevel.held_out import HeldOut
from sciml.inverse.bilevel.linear_models import LinearModel
from sciml.inverse.bilevel.losses import find_loss

P, K = 4, 3
GROUPS = {(P,): [-1, 0, 1, 0], (K, P): [[-1, 0, 1, 2], [-1, 2, 1, 0], [-1, 0, 0, 1]]}
CASES = [
    (a, b) for a in ("squared", "logistic", "multinomial") for b in ("single", "feature", "weight", "groups", "rows")
]


def data(loss, rng, rows):
    """Return matrices and targets of several folds."""
    X = [rng.standard_normal((n, P)) for n in rows]
    top = {"logistic": 2, "multinomial": K}
    y = [rng.standard_normal(n) if loss == "squared" else rng.integers(0, top[loss], n) for n in rows]
    return X, y


def problem(loss, penalty, rng, rows=(9, 3, 6)):
    """Return a model, its data, and theta."""
    shape = (K, P) if loss == "multinomial" else (P,)
    X, y = data(loss, rng, rows[:1] if penalty == "rows" else rows)
    if penalty == "rows":
        model = DataCleaning(X, y, loss=loss, n_classes=K, c=0.07)
    elif penalty == "groups":
        model = LinearModel(X, y, loss=loss, penalty=np.array(GROUPS[shape]), fixed=0.1, n_classes=K)
    else:
        model = LinearModel(X, y, loss=loss, penalty=penalty, n_classes=K)
    return model, X, y, torch.from_numpy(rng.standard_normal(model.n_hyper))


def energy(x, theta, X, y, loss, penalty):
    """Return h of one fold, written down anew."""
    X, y, z = torch.from_numpy(X), torch.from_numpy(y), x @ torch.from_numpy(X).T
    if loss == "squared":
        losses = 0.5 * (z - y) ** 2
    elif loss == "logistic":
        losses = torch.log1p(torch.exp(z)) - y * z
    else:
        losses = torch.log(torch.exp(z).sum(0)) - z.gather(0, y[None])[0]
    if penalty == "rows":
        return (losses / (1 + torch.exp(-theta))).mean() + 0.035 * (x**2).sum()
    number = {
        "single": torch.zeros(x.shape, dtype=int),
        "feature": torch.arange(P).expand(x.shape),
        "weight": torch.arange(x.numel()).reshape(x.shape),
        "groups": torch.tensor(GROUPS[tuple(x.shape)]),
    }[penalty]
    lam = torch.where(number < 0, 0.1, torch.exp(theta)[number.clamp(min=0)])
    return losses.mean() + 0.5 * (lam * x**2).sum()


@pytest.mark.parametrize(("loss", "penalty"), CASES)
def test_all_products_equal_automatic_differentiation(loss, penalty, rng):
    model, X, y, theta = problem(loss, penalty, rng)
    B, idx, count = len(X), torch.arange(len(X)), Counter()
    x, p, q = torch.from_numpy(rng.standard_normal((3, B, *model.shape)))
    t = torch.from_numpy(rng.standard_normal(model.n_hyper))
    point = model.at(x, theta, idx, count, value=True)
    each = [slice(i, i + 1) for i in range(B)]
    Hq, Jt, JTq, (in_x, in_theta) = point.hvp(q), point.cross(t), point.cross_adjoint(q, each), point.third(p, q, each)
    diagonal, gradient = point.diagonal(), model.gradient(x, theta, idx, count)
    # The factor of a quadratic takes P^3 / 6 multiplications, a product with its reduced rows two for each entry.
    factored = sum(P**2 / 12 / min(len(A), P) for A in X)
    extra = factored if loss == "squared" and penalty != "rows" else 0.5 * B
    assert_allclose(count.lower, 2 * B + extra, rtol=1e-12)
    assert (count.hvp, count.cross, count.third) == (B, 2 * B, B)
    close = {"rtol": 1e-11, "atol": 1e-12}  # rounding of sums of at most nine terms of order 1
    for i in range(B):
        a, th = x[i].clone().requires_grad_(), theta.clone().requires_grad_()
        h = energy(a, th, X[i], y[i], loss, penalty)
        (G,) = torch.autograd.grad(h, a, create_graph=True)
        (want_Hq,) = torch.autograd.grad(G, a, q[i], create_graph=True)
        (want_JTq,) = torch.autograd.grad(G, th, q[i], create_graph=True)
        want_x, want_theta = torch.autograd.grad((want_Hq * p[i]).sum(), (a, th))
        H = torch.autograd.functional.hessian(lambda v, i=i: energy(v, theta, X[i], y[i], loss, penalty), x[i])
        assert_allclose(point.value[i], h.detach(), **close)
        assert_allclose(point.gradient[i], G.detach(), **close)
        assert_allclose(gradient[i], G.detach(), **close)
        assert_allclose(Hq[i], want_Hq.detach(), **close)
        assert_allclose(JTq[i], want_JTq.detach(), **close)
        assert_allclose((Jt[i] * q[i]).sum(), want_JTq.detach() @ t, **close)
        assert_allclose(in_x[i], want_x, **close)
        assert_allclose(in_theta[i], want_theta, **close)
        size = math.prod(model.shape)
        assert_allclose(diagonal[i].reshape(-1), H.reshape(size, size).diagonal(), **close)
    together = point.cross_adjoint(q, [slice(0, B)])
    assert_allclose(together[0], JTq.sum(0), **close)


@pytest.mark.parametrize(("loss", "penalty"), CASES)
def test_all_constants_are_bounds(loss, penalty, rng):
    model, X, y, theta = problem(loss, penalty, rng)
    idx, size = torch.arange(len(X)), math.prod(model.shape)
    constants = model.constants(theta, idx)
    eye = torch.eye(size, dtype=torch.float64).reshape(size, *model.shape)
    for scale in (0.1, 1.0, 10.0):
        a, b = scale * torch.from_numpy(rng.standard_normal((2, len(X), *model.shape)))
        H, J = [], []
        for x in (a, b):
            point = model.at(x, theta, idx, Counter())
            columns = [point.hvp(e.expand(x.shape)).reshape(len(X), size) for e in eye]
            H.append(torch.stack(columns, 2))
            columns = [point.cross(t).reshape(len(X), size) for t in torch.eye(model.n_hyper, dtype=torch.float64)]
            J.append(torch.stack(columns, 2))
            norm = torch.linalg.matrix_norm(J[-1], 2)
            # The bound is an equality for penalties, up to rounding.
            assert bool((norm <= model.norm_J(point) * (1 + 1e-12)).all())
            eigenvalues = torch.linalg.eigvalsh(H[-1])
            assert bool((eigenvalues[:, 0] >= constants.mu - 1e-14 * constants.L).all())
            assert bool((eigenvalues[:, -1] <= constants.L).all())
        distance = torch.linalg.vector_norm((a - b).reshape(len(X), -1), dim=1)
        assert bool((torch.linalg.matrix_norm(H[0] - H[1], 2) <= constants.LH * distance + 1e-14).all())
        assert bool((torch.linalg.matrix_norm(J[0] - J[1], 2) <= constants.LJ * distance * (1 + 1e-12)).all())


@pytest.mark.parametrize("loss", ["squared", "logistic", "multinomial"])
def test_third_derivatives_of_a_loss_reach_their_bound(loss):
    found = find_loss(loss)
    # The largest skewness: a probability (1 +- 1 / sqrt 3) / 2 of two classes, along their difference.
    p = (1 + 1 / math.sqrt(3)) / 2
    z = torch.tensor([math.log(p / (1 - p))], dtype=torch.float64)
    v = torch.ones_like(z)
    if loss == "multinomial":
        z, v = torch.tensor([[float(z)], [0.0]]).double(), torch.tensor([[1.0], [-1.0]]).double() / math.sqrt(2)
    third = (found.third(found.state(z), v, v) * v).sum()
    assert_allclose(abs(float(third)), found.third_bound, rtol=1e-12, atol=0)


def test_the_curvature_of_one_row_varies_as_fast_as_its_bound():
    model, idx = LinearModel(np.array([[3.0]]), np.ones(1), loss="logistic"), torch.tensor([0])
    z = math.log(2 + math.sqrt(3))  # where s (1 - s) (1 - 2 s) is largest
    theta, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    low, high = (model.at(one * (z + d) / 3, theta, idx, Counter()).hvp(one) for d in (-1e-4, 1e-4))
    bound = float(model.constants(theta, idx).LH)
    assert_allclose(float(abs(high - low)) / (2e-4 / 3), bound, rtol=1e-7)  # off by the square of the step


def test_ridge_has_the_curvature_of_its_matrix_and_its_closed_form():
    rng = np.random.default_rng(0)
    X, y, theta = rng.standard_normal((30, 3)), rng.standard_normal(30), torch.tensor([0.3], dtype=torch.float64)
    model, lam, C = LinearModel(X, y), math.exp(0.3), X.T @ X / 30
    constants = model.constants(theta, torch.tensor([0]))
    eigenvalues = np.linalg.eigvalsh(C) + lam
    assert_allclose([float(constants.mu), float(constants.L)], eigenvalues[[0, -1]], rtol=1e-12)
    x = np.linalg.solve(C + lam * np.eye(3), X.T @ y / 30)
    point = model.at(torch.from_numpy(x)[None], theta, torch.tensor([0]), Counter())
    assert_allclose(point.gradient, np.zeros((1, 3)), atol=1e-15)
    assert model.quadratic
    assert model.exact


@pytest.mark.parametrize("penalty", ["single", "feature", "groups"])
def test_ridge_is_solved_and_differentiated_as_its_closed_form(penalty, rng):
    model, X, y, theta = problem("squared", penalty, rng, rows=(12, 20, 3))
    Xv, yv = data("squared", rng, (5, 4, 6))
    upper, idx, count = HeldOut("squared", Xv, yv), torch.arange(3), Counter()
    got = model.solve(torch.zeros(3, P, dtype=torch.float64), theta, idx, None, count, 10)
    point = model.at(got.x, theta, idx, count)
    value, slope = upper.gradient(got.x, theta, idx)
    q = point.precondition(slope, idx)
    z = -point.cross_adjoint(q, [slice(0, 3)])[0]

    def closed_form(t):
        lam, total = model._penalties(t).expand(P), 0.0
        for i in range(3):
            A, b = torch.from_numpy(X[i]), torch.from_numpy(y[i])
            x = torch.linalg.solve(A.T @ A / len(A) + torch.diag(lam), A.T @ b / len(A))
            total = total + 0.5 * ((torch.from_numpy(Xv[i]) @ x - torch.from_numpy(yv[i])) ** 2).mean()
        return total

    assert_allclose(value.sum(), closed_form(theta), rtol=1e-12)
    assert_allclose(z, torch.autograd.functional.jacobian(closed_form, theta), rtol=1e-10, atol=1e-13)
    assert bool(got.converged.all() & (got.gradient_norm < 1e-14).all())
    assert_allclose(point.hvp(q), slope, rtol=0, atol=1e-13)
    # Two factors of P^3 / 6 multiplications, and two gradients, for each of two folds with four rows left and one with
    # three; a product with four rows takes 2 P^2.
    assert_allclose(count.lower + count.hvp - 3, 6 + 2 * (2 * P / 12 + P * P / 36), rtol=1e-12)


def test_penalties_that_vanish_are_turned_back_from():
    model = LinearModel(np.ones((2, 3)), np.ones(2), penalty="feature")
    theta, idx = torch.full((3,), -80.0, dtype=torch.float64), torch.tensor([0])
    got = model.solve(torch.zeros(1, 3, dtype=torch.float64), theta, idx, None, Counter(), 9)
    assert not bool(torch.isfinite(got.x).any())
    assert not bool(got.converged)


@pytest.mark.parametrize("loss", ["logistic", "multinomial"])
def test_the_preconditioner_is_the_diagonal(loss, rng):
    model, X, _, theta = problem(loss, "weight", rng)
    idx = torch.arange(3)
    x, r = torch.from_numpy(rng.standard_normal((2, 3, *model.shape)))
    point = model.at(x, theta, idx, Counter())
    assert torch.equal(point.precondition(r[1:], idx[1:]), r[1:] / point.diagonal()[1:])
    assert model.solve(x, theta, idx, None, Counter(), 9) is None


@pytest.mark.parametrize(("loss", "penalty"), CASES[:-1])
def test_a_fold_is_the_same_alone_and_in_company_bit_for_bit(loss, penalty, rng):
    model, X, _, theta = problem(loss, penalty, rng, rows=(23, 31, 17, 8))
    idx = torch.arange(len(X))
    x, q = torch.from_numpy(rng.standard_normal((2, len(X), *model.shape)))
    point = model.at(x, theta, idx, Counter())
    each = [slice(i, i + 1) for i in range(len(X))]
    for i in range(len(X)):
        one = idx[i : i + 1]
        alone = model.at(x[one], theta, one, Counter())
        assert torch.equal(alone.gradient[0], point.gradient[i])
        assert torch.equal(alone.hvp(q[one])[0], point.hvp(q)[i])
        assert torch.equal(point.hvp(q[one], one)[0], point.hvp(q)[i])
        assert torch.equal(point.diagonal(one)[0], point.diagonal()[i])
        assert torch.equal(alone.cross_adjoint(q[one], each[:1])[0], point.cross_adjoint(q, each)[i])
        assert torch.equal(alone.third(q[one], q[one], each[:1])[0][0], point.third(q, q, each)[0][i])


@pytest.mark.parametrize("loss", ["squared", "logistic", "multinomial"])
def test_the_upper_level_equals_automatic_differentiation(loss, rng):
    X, y = data(loss, rng, (9, 3))
    upper = HeldOut(loss, X, y, n_classes=K)
    x, v = torch.from_numpy(rng.standard_normal((2, 2, *upper.shape)))
    none, idx = torch.zeros(1), torch.tensor([1, 0])
    value, gradient = upper.gradient(x, none, idx)
    Hv, Lg = upper.hvp(x, none, idx, v), upper.Lg(x, none, idx)
    assert_allclose(upper.value(x, none, idx), value, rtol=1e-15)
    assert upper.gradient_theta(x, none, idx, [slice(0, 2)]) is None
    for j, i in enumerate(idx.tolist()):

        def g(a, i=i):
            return energy(a, torch.full((1,), -math.inf, dtype=torch.float64), X[i], y[i], loss, "single")

        want, want_v = torch.autograd.functional.hvp(g, x[j], v[j])
        assert_allclose(value[j], want, rtol=1e-13)
        assert_allclose(gradient[j], torch.autograd.functional.jacobian(g, x[j]), rtol=1e-12, atol=1e-13)
        assert_allclose(Hv[j], want_v, rtol=1e-12, atol=1e-13)
        size = x[j].numel()
        H = torch.autograd.functional.hessian(g, x[j]).reshape(size, size)
        assert float(torch.linalg.eigvalsh(H)[-1]) <= float(Lg[j])


def test_single_precision_computes_in_single_precision(rng):
    model, X, y, theta = problem("logistic", "feature", rng)
    upper = HeldOut("logistic", X, y)
    small, judge = model.to("cpu", torch.float32), upper.to("cpu", torch.float32)
    idx = torch.arange(3)
    x = torch.from_numpy(rng.standard_normal((3, P)))
    point = small.at(x.float(), theta, idx, Counter())
    assert point.gradient.dtype == point.hvp(x.float()).dtype == torch.float32
    eps = np.finfo(np.float32).eps
    assert_allclose(point.gradient, model.gradient(x, theta, idx, Counter()), rtol=20 * eps, atol=20 * eps)
    assert_allclose(judge.value(x.float(), theta, idx), upper.value(x, theta, idx), rtol=20 * eps)
    assert small.to("cpu", torch.float32) is small
    assert judge.to("cpu", torch.float32) is judge
    assert model.constants(theta, idx).mu.dtype == small.constants(theta, idx).mu.dtype == torch.float64


def test_labels_of_minus_one_and_one_are_classes(rng):
    X, y = data("logistic", rng, (9,))
    x = torch.from_numpy(rng.standard_normal((1, P)))
    upper, twin = HeldOut("logistic", X, y), HeldOut("logistic", X, [2 * y[0] - 1])
    assert torch.equal(upper.value(x, None, torch.tensor([0])), twin.value(x, None, torch.tensor([0])))


def test_scores_of_any_size_neither_overflow_nor_vanish():
    X = np.array([[1e4], [-1e4]])
    for loss in ("logistic", "multinomial"):
        upper = HeldOut(loss, X, np.array([0, 1]), n_classes=2)
        x = torch.ones(1, *upper.shape, dtype=torch.float64) * (1.0 if loss == "logistic" else 0.5)
        if loss == "multinomial":
            x[0, 0] = -0.5
        value, gradient = upper.gradient(x, None, torch.tensor([0]))
        assert_allclose(value, [1e4], rtol=1e-12)
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": np.ones((3, 2)), "y": np.ones(2)}, r"y must hold one target for each row of X.*\(3, 2\) and \(2,\)"),
        ({"X": [np.ones((3, 2)), np.ones((3, 1))], "y": [np.ones(3)] * 2}, r"same columns in every fold; got \[1, 2\]"),
        ({"X": np.ones(3), "y": np.ones(3)}, r"X must be real, of 2 axes.*shape \(3,\)"),
        ({"X": [np.ones((3, 2))], "y": [np.ones(3)] * 2}, "one array for each of the 1 matrices in X; got 2"),
        ({"X": np.full((3, 2), np.nan), "y": np.ones(3)}, "X must be finite"),
        ({"X": np.ones((3, 2)), "y": np.array([0, 1, 2.0]), "loss": "logistic"}, "classes 0 and 1.*got 2"),
        ({"X": np.ones((3, 2)), "y": np.array([0, 1, 2.5]), "loss": "multinomial"}, "class numbers.*between 0 and 2.5"),
        ({"X": np.ones((3, 2)), "y": np.arange(3), "loss": "multinomial", "n_classes": 2}, "from 0 to 1 for"),
        ({"X": np.ones((3, 2)), "y": np.ones(3), "loss": "hinge"}, "loss must be one of 'squared'"),
        ({"X": np.ones((3, 2)), "y": np.ones(3), "penalty": "singles"}, "Did you mean 'single'"),
        ({"X": np.ones((3, 2)), "y": np.ones(3), "penalty": np.array([0, 2])}, r"number its groups.*got \[0, 2\]"),
        ({"X": np.ones((3, 2)), "y": np.ones(3), "penalty": np.array([0, -1])}, "fixed must be given"),
        ({"X": np.ones((3, 2)), "y": np.ones(3), "penalty": np.zeros(3, int)}, r"integers of shape \(2,\).*\(3,\)"),
        ({"X": np.ones((3, 2)), "y": np.ones(3), "penalty": np.array([-1, 0]), "fixed": 0.0}, "fixed must be.*above 0"),
        ({"X": [], "y": []}, "X must be real, of 2 axes"),
    ],
)
def test_says_what_is_wrong(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        LinearModel(**arguments)


def test_cleaning_takes_one_training_set():
    with pytest.raises(InvalidInputError, match="one training set.*got 2"):
        DataCleaning(np.ones((2, 3, 1)), np.ones((2, 3)))
    with pytest.raises(InvalidInputError, match="c must be a number above 0; got 0"):
        DataCleaning(np.ones((3, 1)), np.ones(3), c=0)
