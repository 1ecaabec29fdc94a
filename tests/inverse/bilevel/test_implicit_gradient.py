"""One hypergradient to a stated accuracy: the truth is within the bar, and the bar within what was asked for."""

import functools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning, InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel.implicit_gradient import check_hypergradient, hypergradient
from sciml.inverse.bilevel.lower import LowerProblem
from sciml.inverse.bilevel.upper import SquaredError, UpperLoss

CUBIC = 1 / (6 * 3**0.5)  # the largest |third derivative| of log(1 + exp(t))


def logistic(B=3, N=40, d=5, *, seed=0, known=True):
    """B logistic regressions with one ridge a feature, against true weights, with all their constants."""
    rng = np.random.default_rng(seed)
    X = torch.from_numpy(rng.standard_normal((B, N, d)))
    w = torch.from_numpy(rng.standard_normal((B, d)))
    s = torch.sign((X @ w[..., None])[..., 0] + torch.from_numpy(0.5 * rng.standard_normal((B, N))))

    def h(x, theta, idx):
        scores = -s[idx] * (X[idx] @ x[..., None])[..., 0]
        return torch.nn.functional.softplus(scores).mean(1) + 0.5 * (torch.exp(theta) * x**2).sum(1)

    power = torch.linalg.matrix_norm(X, ord=2) ** 2 / N
    constants = {
        "mu": lambda theta: torch.exp(theta).min(),
        "L": lambda theta: power / 4 + torch.exp(theta).max(),
        "LH": CUBIC * torch.linalg.vector_norm(X, dim=2).amax(1) * power,
        "LJ": lambda theta: torch.exp(theta).max(),
    }
    if not known:
        constants = {"mu": None}
    lower = LowerProblem(h, **constants, shape=(d,), n_samples=B)
    return lower, SquaredError(w)


def truth(lower, upper, theta):
    return _truth(lower.h, upper, lower.n_samples, lower.shape[0], tuple(theta))


@functools.cache
def _truth(h, upper, B, d, theta):
    """The hypergradient by Newton's method to rounding and dense solves, one sample after the other."""
    theta = torch.tensor(theta, dtype=torch.float64)
    total = torch.zeros_like(theta)
    for i in range(B):
        idx, x = torch.tensor([i]), torch.zeros(1, d, dtype=torch.float64)

        def gradient(x, theta, idx=idx):
            x = x if x.requires_grad else x.requires_grad_()
            (G,) = torch.autograd.grad(h(x.reshape(1, d), theta, idx).sum(), x, create_graph=True)
            return G

        x = x.reshape(-1)
        for _ in range(12):
            H, J = torch.autograd.functional.jacobian(gradient, (x, theta))
            x = x - torch.linalg.solve(H, gradient(x.clone(), theta).detach())
        H, J = torch.autograd.functional.jacobian(gradient, (x, theta))
        x = x.reshape(1, d)
        _, grad = upper.gradient(x, theta, idx)
        total -= J.T @ torch.linalg.solve(H, grad.reshape(-1))
    return (total / B).numpy()


LOGISTIC = {known: logistic(known=known) for known in (True, False)}
THETA = np.array([-1.0, -2.0, -0.5, -3.0, 0.3])


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("bound", ["auto", "rigorous", "estimate"])
def test_the_truth_is_within_the_bar_and_the_bar_within_the_tolerance(tol, bound):
    lower, upper = LOGISTIC[True]
    z, info = hypergradient(lower, upper, THETA, tol=tol, bound=bound)
    error = np.linalg.norm(z - truth(lower, upper, THETA))
    assert info.converged
    assert info.certified == (bound != "estimate")
    assert error <= info.bar <= tol * np.linalg.norm(z)


def test_a_tighter_tolerance_costs_more():
    lower, upper = LOGISTIC[True]
    units = [hypergradient(lower, upper, THETA, tol=tol, lower_solver="nag")[1].n_units for tol in (1e-2, 1e-7)]
    assert units[0] < units[1]


def test_the_estimated_error_is_added_and_leaves_one_of_second_order():
    lower, upper = LOGISTIC[False]
    z, info = hypergradient(lower, upper, THETA, tol=1e-1)
    assert 1e-3 * np.linalg.norm(z) < info.bar <= 1e-2 * np.linalg.norm(z)  # a tenth would be out of its reach
    assert np.linalg.norm(z - truth(lower, upper, THETA)) <= 0.25 * info.bar


def test_unknown_constants_are_estimated_and_said_so():
    lower, upper = LOGISTIC[False]
    z, info = hypergradient(lower, upper, THETA)
    assert (info.converged, info.certified) == (True, False)
    assert np.linalg.norm(z - truth(lower, upper, THETA)) <= 1e-6 * np.linalg.norm(z)
    with pytest.raises(InvalidInputError, match="bound='rigorous' needs all constants; got None for mu, LH, LJ"):
        hypergradient(lower, upper, THETA, bound="rigorous")


def test_a_proven_bar_that_rounding_keeps_too_long_gives_way_to_the_estimate():
    lower, upper = logistic()  # its own, since it is changed
    lower.LH = 1e9  # a bound still, though an idle one
    with pytest.warns(ConvergenceWarning, match="hypergradient ended with a bar of .* tol=1e-08: rounding"):
        _, info = hypergradient(lower, upper, THETA, tol=1e-8, bound="rigorous")
    assert (info.converged, info.certified) == (False, True)
    z, info = hypergradient(lower, upper, THETA, tol=1e-8)
    assert (info.converged, info.certified) == (True, False)
    assert np.linalg.norm(z - truth(lower, upper, THETA)) <= info.bar


def test_the_kind_of_theta_is_kept_and_x_may_be_given():
    lower, upper = LOGISTIC[True]
    z, info = hypergradient(lower, upper, torch.from_numpy(THETA), tol=1e-4)
    assert isinstance(z, torch.Tensor)
    assert isinstance(info.x, torch.Tensor)
    again, warm = hypergradient(lower, upper, THETA, info.x.numpy(), tol=1e-4)
    assert isinstance(again, np.ndarray)
    assert_allclose(again, z.numpy(), rtol=1e-3)
    assert warm.n_units < info.n_units


def test_a_term_of_theta_and_a_loss_that_depends_on_theta_are_part_of_it():
    lower, _ = LOGISTIC[True]

    def g(x, theta):
        return torch.exp(theta[0]) * (x**2).sum(1)

    upper = UpperLoss(g, Lg=lambda theta: 2 * torch.exp(theta[0]), r=lambda theta: (theta**2).sum())
    report = check_hypergradient(lower, upper, THETA)
    assert report.passed
    assert report.relative_error < 1e-8
    assert report.dense_error < 1e-8
    assert not report.certified  # how grad_theta g changes with x was not said


def test_the_check_agrees_with_itself_and_finds_a_wrong_gradient():
    lower, upper = LOGISTIC[True]
    report = check_hypergradient(lower, upper, THETA)
    assert report.passed
    assert report.relative_error < 1e-8
    assert report.dense_error < 1e-8
    assert_allclose(report.dense, truth(lower, upper, THETA), rtol=1e-10)
    assert_allclose(report.finite_difference, report.dense, rtol=1e-8)

    class Wrong(LowerProblem):
        """J misses a factor."""

        def at(self, *args, **options):
            point = super().at(*args, **options)
            right = point.cross_adjoint
            point.cross_adjoint = lambda q, blocks: 1.001 * right(q, blocks)
            return point

    wrong = Wrong(lower.h, lower.mu, lower.L, lower.LH, lower.LJ, shape=lower.shape, n_samples=lower.n_samples)
    report = check_hypergradient(wrong, upper, THETA)
    assert not report.passed
    assert report.relative_error == pytest.approx(1e-3, rel=0.7)


def test_the_check_takes_directions_for_many_hyperparameters_and_leaves_large_matrices_out():
    n = 600

    def h(x, theta, idx):
        return 0.5 * ((x - 1) ** 2).sum(1) + 0.5 * (torch.exp(theta) * x**2).sum(1)

    lower = LowerProblem(h, mu=1.0, LH=0.0, shape=(n,), n_samples=1)
    report = check_hypergradient(lower, SquaredError(np.full((1, n), 0.4)), np.linspace(-1, 1, n), n_directions=3)
    assert report.directions.shape == (3, n)
    assert report.dense is None
    assert np.isnan(report.dense_error)
    assert report.passed


def test_a_sample_without_error_has_no_part_and_a_flat_problem_no_gradient():
    def h(x, theta, idx):
        return 0.5 * ((x - 1) ** 2).sum(1) + 0 * theta.sum()

    lower = LowerProblem(h, mu=1.0, LH=0.0, LJ=0.0, shape=(2,), n_samples=1)
    z, info = hypergradient(lower, SquaredError(np.ones((1, 2))), np.zeros(3))
    assert z.tolist() == [0, 0, 0]
    assert info.converged
    assert check_hypergradient(lower, SquaredError(np.ones((1, 2))), np.zeros(3)).passed


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_units_do_not_matter(scale):
    lower, upper = LOGISTIC[False]
    scaled = UpperLoss(lambda x, theta, idx: scale * upper.value(x, theta, idx), shape=(5,), n_samples=3)
    one, _ = hypergradient(lower, UpperLoss(upper.value, shape=(5,), n_samples=3), THETA, tol=1e-4)
    other, _ = hypergradient(lower, scaled, THETA, tol=1e-4)
    assert other.tolist() == (scale * one).tolist()


def test_wrong_input_is_named():
    lower, upper = LOGISTIC[True]
    with pytest.raises(InvalidTypeError, match="lower must be a lower level; got SquaredError"):
        hypergradient(upper, upper, THETA)
    with pytest.raises(InvalidTypeError, match="upper must be an upper level; got LowerProblem"):
        hypergradient(lower, lower, THETA)
    with pytest.raises(InvalidInputError, match=r"theta must be of shape \(n,\); got \(1, 5\)"):
        hypergradient(lower, upper, THETA[None])
    with pytest.raises(InvalidInputError, match=r"x must be of shape .* lower level; got \(2, 5\), wanted \(3, 5\)"):
        hypergradient(lower, upper, THETA, np.zeros((2, 5)))
    with pytest.raises(InvalidInputError, match="bound must"):
        hypergradient(lower, upper, THETA, bound="best")
    with pytest.raises(InvalidInputError, match="tol must"):
        hypergradient(lower, upper, THETA, tol=0)
    loose = LowerProblem(lower.h, None)
    with pytest.raises(InvalidInputError, match="x must be given, of shape"):
        hypergradient(loose, UpperLoss(lambda x: x.sum(1)), THETA)
