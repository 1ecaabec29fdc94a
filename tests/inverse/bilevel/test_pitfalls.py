"""Mistakes that released programs make, each with a test that fails where it is made."""

import gc
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import CertificateError, ConvergenceWarning
from sciml.inverse.bilevel import Auto, LowerProblem, SquaredError, UpperLoss
from sciml.inverse.bilevel.evaluate import Level
from sciml.inverse.bilevel.lower import _GraphPoint

from .energies import Case, least_squares, regression, shrinking

THETA = torch.tensor([-1.0, 0.5], dtype=torch.float64)


def evaluated(case, eps, theta=THETA, **options):
    ev = case.evaluator(**options)
    level = ev.solve(theta, torch.as_tensor(case.x0), eps)
    ev.adjoint(level, 1e-3 * level.gg_norm)
    ev.gradient(level)
    return ev, level


def test_1_momentum_is_momentum():
    """Taken from x - x_old right after x_old = x it is zero, and the iterations grow with kappa, not with its root."""
    iterations = []
    for condition in (1e2, 1e4):
        case, _ = least_squares(B=2, d=20, condition=condition)
        ev = case.evaluator(solver="nag")
        start = torch.ones(2, 20, dtype=torch.float64)
        level = ev.solve(THETA, start, 1e-6)
        # sqrt(kappa) log(kappa |x - x_hat|^2 / eps^2) / 2 and a little; gradient descent takes sqrt(kappa) times that.
        assert ev.n_lower <= 1.2 * math.sqrt(condition) * math.log(math.sqrt(condition) * 20 / 1e-6)
        assert bool(level.reached.all())
        iterations.append(ev.n_lower)
    assert iterations[1] <= 15 * iterations[0]


def test_2_only_the_upper_level_averages():
    """With h averaged over the batch and mu of one sample the bound of the distance is short by the batch size."""
    for B in (1, 8):
        case = regression("logistic", seed=1, B=B)
        _, _, x = case.truth(THETA)
        ev, level = evaluated(case, 1e-2)
        H = case.constants["mu"](THETA)
        G = case.lower.gradient(level.x, THETA, torch.arange(B), ev.count)
        assert_allclose(level.G_norm, G.norm(dim=1), rtol=1e-12)
        assert bool((level.eps >= G.norm(dim=1) / H).all())
        assert bool((level.eps >= (level.x - x).norm(dim=1)).all())
        assert float(level.eps.max()) <= 1e-2 * (1 + 1e-9)


def test_3_mu_is_a_lower_bound_or_no_certificate():
    case, _ = least_squares(condition=50.0)
    for wrong in (50.0 - 1e-3, 25.0, 1.01):
        with pytest.raises(CertificateError, match="mu must be"):
            case.learn([1.0, 1.0], lower=case.made(mu=wrong))
    with pytest.warns(ConvergenceWarning, match="contradicted"):
        result = case.learn([1.0, 1.0], lower=case.made(mu=50.0 - 1e-3), check=False, quiet=False)
    assert not result.certified
    assert not case.learn([1.0, 1.0], lower=case.made(mu=None)).certified
    assert case.learn([1.0, 1.0]).certified


class Held:
    """What autograd keeps for a backward pass, counted while it lives."""

    alive = 0
    most = 0

    def __init__(self, tensor):
        # Without its graph, which holds this very object.
        self.tensor, self.size = tensor.detach(), tensor.numel()
        Held.alive += self.size
        Held.most = max(Held.most, Held.alive)

    def __del__(self):
        Held.alive -= self.size


SPECTRUM = torch.logspace(0, 4.6, 8, dtype=torch.float64)


def bent(x, theta, idx):
    """A condition number of 4e4 and a little curvature of its own."""
    return (0.5 * SPECTRUM * x**2 + torch.exp(theta[0]) * torch.sqrt(1 + (x - 1) ** 2)).sum(1)


def kept(eps, solver):
    """Numbers kept by autograd at most, and iterations, of a lower level that is solved to eps."""
    lower = LowerProblem(bent, mu=lambda t: 1 + 0 * t.sum(), L=lambda t: 4e4 + torch.exp(t[0]), LH=1.0)
    case = Case(bent, {}, lower, SquaredError(np.zeros((2, 8))), np.zeros((2, 8)), 2)
    gc.collect()
    Held.alive = Held.most = 0
    ev = case.evaluator(solver=solver)
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        # The theta of a caller who wants its gradient later.
        theta = THETA.clone().requires_grad_()
        ev.solve(theta, torch.full((2, 8), 3.0, dtype=torch.float64), eps)
    gc.collect()
    return Held.most, ev.n_lower


@pytest.mark.parametrize(("solver", "least"), [("nag", 1200), ("newton_cg", 4), ("lbfgs", 30)])
def test_4_memory_does_not_grow_with_the_iterations(solver, least):
    """A step size that depends on theta with its graph would keep every iterate alive."""
    few, long = kept(1e3, solver), kept(1e-7, solver)
    assert long[1] >= least
    assert long[1] >= 2 * few[1]
    assert few[0] > 0
    assert long[0] <= 1.05 * few[0]


def test_4_memory_does_not_grow_with_the_steps():
    """Neither levels nor their linearisations are kept when theta has moved on."""
    case, most = shrinking(noise=0.2), []

    def count(n_iter, step):
        gc.collect()
        things = [type(thing) for thing in gc.get_objects()]
        most.append((things.count(Level), things.count(_GraphPoint)))

    case.learn([-8.0], method=Auto(direction="gd", trust=0.3), max_iter=6, callback=count)
    assert len(most) == 7
    assert max(levels for levels, _ in most) <= 4
    assert max(points for _, points in most) <= 4


class Spy(LowerProblem):
    """Counts for itself: an evaluation of the energy is a gradient, a product is a product."""

    gradients = products = 0

    def _energy(self, x, theta, idx):
        self.gradients += len(x)
        return super()._energy(x, theta, idx)

    def at(self, x, theta, idx, count, value=False):
        point = super().at(x, theta, idx, count, value)
        hvp = point.hvp

        def counted(v, rows=None):
            self.products += len(v)
            return hvp(v, rows)

        point.hvp = counted
        return point


@pytest.mark.parametrize("options", [{}, {"lower_solver": "nag"}, {"method": Auto(direction="lbfgs")}])
@pytest.mark.parametrize("unknown", [(), ("L",), ("mu", "L")])
def test_5_what_is_computed_is_counted(options, unknown):
    case = regression("logistic", seed=3, d=6, r=lambda t: 0.1 * (t**2).sum())
    spy = Spy(case.h, **{**case.constants, **dict.fromkeys(unknown)})
    units, seen = [], []

    def look(n_iter, step):
        units.append(step.scalars["n_units"])
        seen.append((spy.gradients + spy.products) / 3)

    result = case.learn([1.0, -1.0], lower=spy, tol=1e-3, callback=look, **options)
    # Of a gradient whose sum is taken block by block the graph is built again: the same gradient, counted once.
    again = result.n_cross
    for counted, real in zip(units, seen, strict=True):
        assert counted <= real + result.n_third + 1e-9
        assert real <= counted + again
    assert result.n_power > 0
    assert result.n_units > result.n_hvp + result.n_power + result.n_third


def test_5_curvature_that_is_estimated_costs_units():
    case = regression("logistic", seed=3, r=lambda t: 0.1 * (t**2).sum())
    known = case.learn([1.0, -1.0], tol=1e-3, check=False, lower_solver="nag")
    assert known.n_power == 0
    guessed = case.learn([1.0, -1.0], lower=case.made(L=None), tol=1e-3, check=False, lower_solver="nag")
    # At every theta anew, and not in every iteration.
    assert guessed.n_power >= 4 * guessed.n_iter
    assert guessed.n_power <= 9 * guessed.n_lower / 5


def test_6_a_right_hand_side_of_zero_has_the_solution_zero():
    case = shrinking(to=0.5)
    ev = case.evaluator()
    theta, x = torch.zeros(1, dtype=torch.float64), torch.from_numpy(case.upper.x_true.numpy())
    # Solutions that are perfect: no slope of the loss, so no adjoint and no hypergradient.
    level = ev.solve(theta, x, 1e-6)
    ev.adjoint(level, 1e-6)
    assert_array_equal(level.q, np.zeros((3, 3)))
    assert_array_equal(ev.gradient(level), [0.0])
    # A loose tolerance is absolute: zero is good enough, and costs nothing.
    level = ev.solve(theta + 1.0, x, 1e-9)
    units = ev.n_cg
    ev.adjoint(level, 10 * level.gg_norm)
    assert_array_equal(level.q, np.zeros((3, 3)))
    assert_allclose(level.delta, level.gg_norm, rtol=1e-9)
    assert ev.n_cg == units


def test_7_values_are_compared_with_their_bars():
    """Every accepted step is a decrease of the exact function, though no value is exact."""
    for seed in range(3):
        case = regression("huber", seed=seed, B=2, d=3, r=lambda t: 0.05 * (t**2).sum())
        result = case.learn([3.0, -3.0], method=Auto(certificate="rigorous", eps0=10.0), tol=1e-3, max_iter=10)
        f = np.array([case.truth(theta)[0] for theta in result.thetas])
        moved = result.history["step"][1:] > 0
        assert (np.diff(f)[moved] < 0).all()
        assert (np.abs(f - result.history["value"]) <= result.history["value_bar"] + 1e-13 * f).all()
        # The first value was known badly, and no later one was held against it as it stood.
        assert result.certified


def test_8_the_slope_belongs_to_the_point():
    """The slope that a decrease is held against is that of the very x and theta whose value is compared."""
    case = regression("logistic", seed=5, r=lambda t: 0.05 * (t**2).sum())
    seen = []

    def look(n_iter, step):
        level = step.value.level
        _, gg = case.upper.gradient(level.x, level.theta, torch.arange(3))
        assert_array_equal(level.gg, gg)
        point = case.lower.at(level.x, level.theta, torch.arange(3), case.evaluator().count)
        assert_allclose(level.G, point.gradient, rtol=1e-9, atol=1e-14)
        residual = level.gg - point.hvp(level.q)
        assert bool((residual.norm(dim=1) <= level.delta * (1 + 1e-6) + 1e-14).all())
        z = -point.cross_adjoint(level.q, [slice(0, 3)])[0] / 3 + 0.1 * level.theta
        assert_allclose(level.z, z, rtol=1e-9, atol=1e-14)
        assert_array_equal(level.theta, step.value.theta)
        seen.append(n_iter)

    case.learn([2.0, -2.0], tol=1e-4, callback=look)
    assert len(seen) > 3


def test_9_the_mixed_derivative_is_taken_at_its_own_theta():
    """Not at the theta that was solved last."""
    case = regression("logistic", seed=6)
    ev, first = evaluated(case, 1e-9)
    _, exact, _ = case.truth(THETA)
    other = ev.solve(THETA - 2.0, first.x, 1e-3)
    ev.adjoint(other, 1e-3)
    ev.adjoint(first, 1e-10 * first.gg_norm)
    assert_allclose(ev.gradient(first), exact, rtol=1e-6)


def test_10_a_zero_hypergradient_is_no_convergence():
    """Beyond a threshold the solution is zero whatever theta is: the search must not call that an optimum."""
    case = shrinking(noise=0.2)

    def h(x, theta, idx):
        # Above theta = 2 the data are forgotten altogether.
        return case.h(x, torch.clamp(theta, max=2.0), idx)

    lower = LowerProblem(h, mu=1.0, LH=0.0)
    with pytest.warns(ConvergenceWarning, match="'flat'.*does not feel theta"):
        result = case.learn([3.0], lower=lower, quiet=False)
    assert result.status == "flat"


def test_11_theta_may_not_run_away():
    """Without an optimum it goes to its bound, or as far as it makes a difference, and nothing overflows."""
    case = shrinking()
    y = case.upper.x_true.numpy() / 0.3
    for truth, sign in ((y, -1), (0 * y, 1)):
        upper = SquaredError(truth)
        bounded = case.learn([0.0], upper=upper, bounds=(-3, 3))
        assert bounded.status == "converged"
        assert_allclose(bounded.theta, [3.0 * sign])
        free = case.learn([0.0], upper=upper)
        assert free.status == "converged"
        assert np.isfinite([*free.theta, free.value, *free.grad]).all()
        assert sign * free.theta[0] > 5
        # From where exp(theta) is nearly infinite.
        far = case.learn([700.0 * sign], upper=upper)
        assert np.isfinite([*far.theta, far.value, *far.grad]).all()


@pytest.mark.parametrize("B", [1, 4])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_12_ties_zeros_and_single_samples(B, dtype):
    case = shrinking(B=B, noise=0.2)
    x_true = case.upper.x_true.numpy().copy()
    x_true[0] = 0.0

    def h(x, theta, idx):
        # The first sample is all zeros: nothing to shrink, and nothing to learn from it.
        return case.h(x, theta, idx) + torch.where(idx == 0, _undo(x, case, idx), 0.0)

    lower = LowerProblem(h, **case.constants)
    result = case.learn([-1.0], lower=lower, upper=SquaredError(x_true), dtype=dtype, tol=1e-3, bounds=(-8, 8))
    assert np.isfinite([*result.theta, result.value, result.value_bar, *result.grad, result.grad_bar]).all()
    assert_allclose(result.x[0], np.zeros(3), atol=1e-5)
    if B == 1:
        # Its solution is perfect at every theta.
        assert result.status == "converged"
        assert abs(result.value) <= result.value_bar + 1e-12
    else:
        assert result.status in ("converged", "accuracy_floor")
        assert abs(result.theta[0]) < 8


def _undo(x, case, idx):
    """What takes the data out of the energy of a sample: y.x, since |x - y|^2 / 2 = |x|^2 / 2 - y.x + |y|^2 / 2."""
    zero = torch.zeros_like(x)
    one = torch.zeros(1, dtype=torch.float64)
    slope = torch.func.grad(lambda v: case.h(v, one, idx).sum())(zero)
    return -(slope * x).sum(1)


def test_13_a_loss_that_is_fitted_is_not_a_score():
    """With as many hyperparameters as numbers to fit the loss goes to nothing; what it says of new data is another."""
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.standard_normal((1, 20)) + 1.0)

    def h(x, theta, idx):
        return 0.5 * ((x - y[idx]) ** 2).sum(1) + 0.5 * (torch.exp(theta) * x**2).sum(1)

    lower = LowerProblem(h, mu=1.0, LH=0.0)
    truth = 0.5 * np.abs(rng.standard_normal((2, 1, 20))) * np.sign(y.numpy())
    fitted = Case(h, {}, lower, SquaredError(truth[0]), np.zeros((1, 20)), 20)
    result = fitted.learn(np.zeros(20), bounds=(-8, 8), tol=1e-3)
    fresh = UpperLoss(lambda x: 0.5 * ((x - torch.from_numpy(truth[1])) ** 2).sum(1))
    score = float(fresh.value(torch.as_tensor(result.x), None, None)[0])
    assert result.value < 0.2 * score
