"""Levels and their bars, against dense solutions; what was spent; and that chunks change nothing."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.inverse.bilevel.evaluate import BudgetReached, NotFinite
from sciml.inverse.bilevel.lower import LowerProblem
from sciml.inverse.bilevel.upper import SquaredError, UpperLoss

from .energies import Case, least_squares, regression, shrinking

CASES = {
    "logistic": regression("logistic", seed=1),
    "huber": regression("huber", seed=2, feels_theta=True, r=lambda t: 0.1 * (t**2).sum()),
    "quadratic": least_squares(seed=4)[0],
}
THETA = torch.tensor([-1.0, 0.5], dtype=torch.float64)


def level_at(case, eps, theta=THETA, delta=1e-12, start=None, **options):
    ev = case.evaluator(**options)
    level = ev.solve(theta, torch.as_tensor(case.x0) if start is None else start, eps)
    ev.adjoint(level, delta * level.gg_norm)
    ev.gradient(level)
    return ev, level


def off(case, distance, seed=0, theta=THETA):
    """A point at this distance from the minimisers, in a fixed direction."""
    _, _, x = case.truth(theta)
    away = torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(x.shape)))
    return x + distance * away / away.norm(dim=1, keepdim=True)


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("solver", ["auto", "nag", "newton_cg", "lbfgs"])
def test_every_sample_is_as_near_as_its_bound_says(name, solver):
    case = CASES[name]
    f, z, x = case.truth(THETA)
    start = torch.zeros_like(x)
    for eps in (1e-1, 1e-5, torch.tensor([1e-2, 1e-6, 1e-4])):
        ev = case.evaluator(solver=solver)
        level = ev.solve(THETA, start, eps)
        assert bool((level.eps <= torch.as_tensor(eps) * (1 + 1e-6)).all())
        assert bool(((level.x - x).norm(dim=1) <= level.eps).all())
        assert ev.n_lower > 0
        ev.adjoint(level, 1e-2 * level.gg_norm)
        ev.gradient(level)
        for certificate in ("plain", "rigorous", "adjoint"):
            value, bar, rigorous = ev.value(level, certificate)
            assert abs(value - f) <= bar
            assert rigorous
        bar, rigorous = ev.gradient_bar(level)
        assert rigorous
        assert np.linalg.norm(level.z.numpy() - z) <= bar


@pytest.mark.parametrize("name", ["logistic", "huber"])
def test_the_corrected_value_is_of_second_order_and_the_plain_one_of_first(name):
    case, distances = CASES[name], np.array([1e-1, 3e-2, 1e-2, 3e-3, 1e-3])
    f, _, x = case.truth(THETA)
    plain, corrected, bars = [], [], []
    for distance in distances:
        ev, level = level_at(case, 1e9, start=off(case, distance))
        assert_allclose((level.x - x).norm(dim=1), distance, rtol=1e-9)
        plain.append(abs(ev.value(level, "plain")[0] - f))
        corrected.append(abs(float(level.c.mean()) + ev._r(THETA)[0] - f))
        bars.append(float(level.b1.mean()))
    assert abs(slope(distances, plain) - 1) < 0.15
    assert slope(distances, corrected) >= 1.8
    assert slope(distances, bars) == pytest.approx(2, abs=0.1)


def test_of_a_quadratic_the_corrected_value_misses_what_the_loss_curves():
    case = CASES["quadratic"]
    f, _, x = case.truth(THETA)
    ev, level = level_at(case, 1e9, start=off(case, 0.5))
    # g(x_hat) - c = |x - x_hat|^2 / 2 for an exact adjoint: the bar with eps = |x - x_hat| is met.
    assert float(level.c.mean()) - f == pytest.approx(-0.125, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_error_estimate_of_the_hypergradient_is_of_first_order_and_corrects(name):
    # The last one is a good point with a bad adjoint.
    case, distances = CASES[name], {3e-2: 1e-3, 1e-2: 1e-3, 1e-4: 0.1}
    _, z, _ = case.truth(THETA)
    before, after = [], []
    for distance, delta in distances.items():
        ev, level = level_at(case, 1e9, start=off(case, distance), delta=delta)
        error = ev.gradient_error(level).numpy()
        before.append(np.linalg.norm(level.z.numpy() - z))
        after.append(np.linalg.norm(level.z.numpy() + error - z))
        S, _ = ev.responses(level, 1e-9)
        assert_allclose(ev.gradient_error(level, S), error, rtol=0.1, atol=1e-2 * np.linalg.norm(error))
    assert (np.array(after) <= 0.1 * np.array(before)).all()


@pytest.mark.parametrize("name", CASES)
def test_the_adjoint_leaves_what_it_says(name):
    case = CASES[name]
    for delta in (1e-1, 1e-6):
        ev, level = level_at(case, 1e-8, delta=delta)
        H = _hessians(case, THETA, level.x)
        residual = level.gg - torch.einsum("bij,bj->bi", H, level.q)
        assert bool((residual.norm(dim=1) <= level.delta * (1 + 1e-9) + 1e-14).all())
        assert bool((level.delta <= delta * level.gg_norm).all())
        assert_allclose(level.c, level.g - (level.q * level.G).sum(1), rtol=1e-12)


def _hessians(case, theta, x):
    rows = []
    for i in range(len(x)):
        one = torch.tensor([i])
        rows.append(torch.autograd.functional.hessian(lambda v, one=one: case.h(v[None], theta, one)[0], x[i]))
    return torch.stack(rows)


def _mixed(case, theta, x):
    """J of every sample, (B, d, n)."""
    rows = []
    for i in range(len(x)):
        one = torch.tensor([i])
        both = torch.autograd.functional.hessian(lambda v, t, one=one: case.h(v[None], t, one)[0], (x[i], theta))
        rows.append(both[0][1])
    return torch.stack(rows)


def test_responses_and_the_gauss_newton_matrix():
    for case in (CASES["huber"], CASES["quadratic"]):
        ev, level = level_at(case, 1e-9)
        S, matrix = ev.responses(level, 1e-10)
        H, J = _hessians(case, THETA, level.x), _mixed(case, THETA, level.x)
        dense = -torch.linalg.solve(H, J)
        assert_allclose(S.permute(1, 2, 0), dense, atol=1e-8)
        curved = torch.stack([ev.upper.hvp(level.x, THETA, torch.arange(ev.B), S[j]) for j in range(2)], -1)
        wanted = torch.einsum("bdi,bdj->ij", dense, curved) / ev.B
        _, _, hessian = ev._r(THETA)
        if hessian is not None:
            wanted = wanted + torch.stack([hessian(e) for e in torch.eye(2, dtype=torch.float64)])
        assert_allclose(matrix, wanted, atol=1e-8)
        # Loosely solved columns may be off, but their bound counts what they leave.
        level = ev.again(level)
        ev.responses(level, 0.3)
        assert bool((level.S_norm >= torch.linalg.matrix_norm(dense, ord=2) * (1 - 1e-9)).all())


@pytest.mark.parametrize("name", CASES)
def test_factored_hessians_say_the_same_as_conjugate_gradients(name):
    case = CASES[name]
    ev, level = level_at(case, 1e-3)
    direct = case.evaluator()
    direct.dense = True
    same = direct.solve(THETA, torch.as_tensor(case.x0), 1e-3)
    direct.adjoint(same, 0.5 * same.gg_norm)
    direct.gradient(same)
    # Whatever was asked for, they are solved to rounding, and their residuals are bounds.
    residual = same.gg - torch.einsum("bij,bj->bi", _hessians(case, THETA, same.x), same.q)
    assert bool((residual.norm(dim=1) <= same.delta).all())
    assert bool((same.delta <= 1e-13 * same.gg_norm * level.L / level.mu).all())
    assert_allclose(same.z, level.z, rtol=1e-6)
    (S, matrix), (T, other) = ev.responses(level, 1e-10), direct.responses(same, 1e-2)
    assert_allclose(T, S, atol=1e-8)
    assert_allclose(other, matrix, atol=1e-8)
    assert_allclose(same.S_norm, level.S_norm, rtol=1e-6)
    error = ev.gradient_error(level, S)
    assert_allclose(direct.gradient_error(same), error, rtol=0.05, atol=0.05 * float(error.norm()) + 1e-12)
    # The Hessian is formed once.
    assert direct.count.hvp <= ev.count.hvp
    assert direct.n_cg == 0


def test_norms_of_the_mixed_derivative():
    wide = least_squares(seed=5, d=3, n=70)[0]  # more columns than are formed one by one
    for case, theta in ((CASES["logistic"], THETA), (wide, torch.linspace(-1, 1, 70, dtype=torch.float64))):
        ev, level = level_at(case, 1e-6, theta=theta)
        norms, rigorous = ev.norm_J(level)
        assert rigorous
        assert_allclose(norms, torch.linalg.matrix_norm(_mixed(case, theta, level.x), ord=2), rtol=1e-9)


@pytest.mark.parametrize("certificate", ["plain", "adjoint", "rigorous"])
def test_distances_for_a_bar_give_that_bar(certificate):
    case = CASES["logistic"]
    ev, level = level_at(case, 1e-2, certificate=certificate)
    for bar in (1e-3, 1e-6):
        eps = ev.eps_for(level, bar)
        new = ev.refine(level, eps)
        ev.adjoint(new, 1e-12 * new.gg_norm)
        got = ev.value(new)[1]
        assert got <= 1.05 * bar
        # What is asked for is met, and what is met is not many times more than was asked for.
        own = level.gg_norm * eps + 0.5 * level.Lg * eps**2
        if certificate != "plain":
            own = 0.5 * (level.Lg + level.LH * level.q_norm) * eps**2
        assert_allclose(own, np.full(3, bar), rtol=1e-9)


def test_unknown_constants_are_estimated_and_nothing_is_proven():
    case = CASES["logistic"]
    f, z, _ = case.truth(THETA)
    for changed, names in (({"mu": None, "L": None}, {"mu"}), ({"LH": None}, set()), ({"LJ": None}, set())):
        ev, level = level_at(case, 1e-5, lower=case.made(**changed))
        assert level.estimated == names
        value, bar, rigorous = ev.value(level)
        assert abs(value - f) <= bar
        assert rigorous == (changed == {"LJ": None})
        # A proven plain value is to be had where mu is known.
        assert ev.value(level, "plain")[2] == ("mu" not in names)
        bar, rigorous = ev.gradient_bar(level)
        assert not rigorous
        assert np.linalg.norm(level.z.numpy() - z) <= bar
    loss = UpperLoss(case.upper.g)
    ev, level = level_at(Case(case.h, case.constants, case.lower, loss, case.x0, 2), 1e-5)
    assert level.estimated == {"Lg"}
    assert not ev.value(level)[2]
    assert abs(ev.value(level)[0] - f) <= ev.value(level)[1]
    exact = case.upper.Lg(level.x, THETA, torch.arange(3))
    assert bool((level.Lg >= exact * (1 - 1e-6)).all() and (level.Lg <= 1.06 * exact).all())


def test_absurd_constants_are_replaced_by_estimates_that_say_so():
    case = CASES["logistic"]
    ev, level = level_at(case, 1e-4, lower=case.made(LH=1e9))
    estimate, proven = ev.value(level), ev.value(level, "rigorous")
    assert not estimate[2]
    assert proven[2]
    assert estimate[1] < 1e-2 * proven[1]


@pytest.mark.parametrize("solver", ["nag", "newton_cg"])
def test_a_mu_that_the_curvature_contradicts_is_noticed(solver):
    case = CASES["quadratic"]
    f, _, x = case.truth(THETA)
    # By the adjoint alone, where there was nothing to solve.
    ev = case.evaluator(lower=case.made(mu=10.0), solver=solver)
    level = ev.solve(THETA, x, 1e-3)
    assert ev.contradicted == {}
    ev.adjoint(level, 1e-3 * level.gg_norm)
    assert ev.contradicted["mu"] == pytest.approx(0.1, rel=0.3)
    # By the lower level.
    ev = case.evaluator(lower=case.made(mu=10.0), solver=solver)
    level = ev.solve(THETA, torch.zeros_like(x), 1e-3)
    assert ev.contradicted["mu"] < 1
    ev.adjoint(level, 1e-3 * level.gg_norm)
    assert ev.contradicted["mu"] == pytest.approx(0.1, rel=0.3)
    assert not ev.sound(level)
    assert not ev.value(level)[2]
    # The spectrum of a factored Hessian is seen as a whole.
    other = case.evaluator(lower=case.made(mu=1.01))
    other.dense = True
    other.adjoint(other.solve(THETA, torch.zeros_like(x), 1e-3), 1.0)
    assert other.contradicted["mu"] == pytest.approx(1 / 1.01, rel=1e-6)
    # From then on mu is what was seen, with a margin.
    for _ in range(3):
        level = ev.refine(level, 1e-3)
        ev.adjoint(level, 1e-3 * level.gg_norm)
    assert bool((level.mu <= 1.0).all())
    assert bool(((level.x - x).norm(dim=1) <= level.eps).all())
    assert abs(ev.value(level)[0] - f) <= ev.value(level)[1]


def test_a_correct_mu_is_never_contradicted():
    for case in CASES.values():
        for solver in ("nag", "newton_cg", "lbfgs"):
            ev, level = level_at(case, 1e-9, solver=solver)
            ev.refine(level, ev.eps_floor(level))
            assert ev.contradicted == {}
            assert ev.doubt == 1.0


def test_bars_cover_rounding():
    """At the floor, in exact rational numbers: the gradient of an ill-conditioned h is a difference of large terms."""
    rng = np.random.default_rng(0)
    for condition in (1e3, 1e6):
        Q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        A = torch.from_numpy(Q @ np.diag([1, 1, condition]) @ Q.T)
        b, x_true = torch.from_numpy(rng.standard_normal(3)), rng.standard_normal((1, 3))

        def h(x, theta, idx, A=A, b=b):
            return 0.5 * ((x @ A) * x).sum(1) - theta[0] * (x @ b)

        constants = {"mu": 1 - 1e-6, "L": condition * (1 + 1e-6), "LH": 0.0, "LJ": 0.0}
        lower, upper = LowerProblem(h, **constants), SquaredError(x_true)
        ev, level = level_at(Case(h, constants, lower, upper, np.zeros((1, 3)), 1), 1e-3, theta=THETA[:1])
        for _ in range(3):
            level = ev.refine(level, ev.eps_floor(level))
        ev.adjoint(level, 1e-15 * level.gg_norm)
        # theta b = -b, and A counts with its transpose: its entries are rounded, too.
        whole = [[Fraction(A[i, j].item()) + Fraction(A[j, i].item()) for j in range(3)] for i in range(3)]
        x = _solved(whole, [-2 * Fraction(v) for v in b.tolist()])
        f = sum((v - Fraction(w)) ** 2 for v, w in zip(x, x_true[0].tolist(), strict=True)) / 2
        value, bar, _ = ev.value(level)
        assert abs(Fraction(value) - f) <= Fraction(bar)
        assert bar <= 1e-13 * condition * float(f)


def _solved(A, b):
    """Gaussian elimination in rational numbers."""
    n, rows = len(b), [[*row, right] for row, right in zip(A, b, strict=True)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for k in range(n):
            if k != i:
                factor = rows[k][i] / rows[i][i]
                rows[k] = [u - factor * v for u, v in zip(rows[k], rows[i], strict=True)]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def test_blocks_keep_their_sums_with_many_samples():
    """More samples than blocks: a chunk is a whole number of blocks."""
    case = least_squares(seed=7, B=130, d=2)[0]
    ev = case.evaluator(batch_size=4)
    assert ev.block == 3
    assert [b - a for a, b in ev.chunks[:-1]] == [6] * (len(ev.chunks) - 1)
    _, one = level_at(case, 1e-6)
    _, other = level_at(case, 1e-6, batch_size=4)
    assert_array_equal(one.z, other.z)


def test_what_the_samples_do_stays_theirs():
    """f averages, and nothing else does: copies of a sample leave every number as it is."""
    one = regression("logistic", seed=8, B=1)

    def h(x, theta, idx):
        return one.h(x, theta, 0 * idx)

    upper = UpperLoss(lambda x, theta, idx: one.upper.g(x, theta, 0 * idx), float(one.upper.Lg(None, THETA, [0])[0]))
    constants = {name: (c if callable(c) else float(c[0])) for name, c in one.constants.items()}
    constants["L"] = lambda t: float(one.constants["L"](t)[0])
    five = Case(h, constants, LowerProblem(h, **constants), upper, np.zeros((5, 4)), 2)
    ev, level = level_at(one, 1e-3)
    ev5, level5 = level_at(five, 1e-3)
    assert_allclose(level5.eps, np.full(5, float(level.eps[0])), rtol=1e-12)
    assert_allclose(ev5.value(level5)[:2], ev.value(level)[:2], rtol=1e-12)
    assert_allclose(level5.z, level.z, rtol=1e-12)
    assert ev5.gradient_bar(level5)[0] == pytest.approx(ev.gradient_bar(level)[0], rel=1e-9)
    assert ev5.units == ev.units


def test_a_level_is_rebuilt_from_its_state_for_nothing():
    case = CASES["huber"]
    ev, level = level_at(case, 1e-4)
    units = ev.units
    other = case.evaluator()
    again = other.level(ev.state(level))
    assert other.units == 0
    assert other.value(again) == ev.value(level)
    assert_array_equal(again.z, level.z)
    other.gradient(again)
    # The linearisation was paid for when it was made first.
    assert other.units == 0
    assert_allclose(again.z, level.z, rtol=1e-12)
    assert ev.units == units


def test_the_linearisation_belongs_to_its_theta():
    """Levels at several theta are alive at once: each keeps its own."""
    case = CASES["logistic"]
    ev, first = level_at(case, 1e-6)
    z = first.z.clone()
    other = ev.solve(THETA + 1.0, first.x, 1e-6)
    ev.adjoint(other, 1e-9 * other.gg_norm)
    ev.gradient(other)
    assert_array_equal(ev.gradient(first), z)
    assert abs(float((other.z - z).norm())) > 1e-2 * float(z.norm())


def test_budgets_hold_once_there_is_something_to_return():
    case = CASES["logistic"]
    ev = case.evaluator(max_units=1.0)
    level = ev.solve(THETA, torch.as_tensor(case.x0), 1e-6)
    assert ev.units > 1
    ev.limited = True
    with pytest.raises(BudgetReached, match="max_units=1"):
        ev.refine(level, 1e-9)
    slow = case.evaluator(max_seconds=0.0)
    slow.limited = True
    with pytest.raises(BudgetReached, match="max_seconds"):
        slow.solve(THETA, torch.as_tensor(case.x0), 1e-6)


def test_energies_and_losses_that_are_no_numbers():
    case = shrinking()
    start, theta = torch.as_tensor(case.x0), torch.zeros(1, dtype=torch.float64)
    nan = float("nan")

    def only_the_value(x, theta, idx):  # its gradient is finite
        return case.h(x, theta, idx) + nan

    def one_sample(x, theta, idx):
        return case.h(x, theta, idx) * torch.where(idx == 1, nan, 1.0)

    for h in (only_the_value, one_sample, lambda x, theta, idx: case.h(x, theta, idx) * float("inf")):
        for solver in ("auto", "lbfgs"):
            for eps in (None, 1e-3):
                with pytest.raises(NotFinite):
                    case.evaluator(lower=LowerProblem(h, mu=1.0), solver=solver).solve(theta, start, eps)
    ev = Case(case.h, {}, case.lower, UpperLoss(lambda x: x.sum(1) / 0.0), case.x0, 1).evaluator()
    with pytest.raises(NotFinite):
        ev.solve(theta, start, 1e-3)


def test_samples_without_a_slope_have_no_adjoint():
    case = shrinking(to=0.5)
    ev = case.evaluator()
    x = torch.from_numpy(case.upper.x_true.numpy())
    level = ev.solve(torch.zeros(1, dtype=torch.float64), x, 1e-9)
    ev.adjoint(level, 1e-3)
    assert_array_equal(level.q, np.zeros((3, 3)))
    assert_array_equal(ev.gradient(level), [0.0])
    assert ev.n_cg == 0


def test_the_floor_of_single_precision():
    case = shrinking()
    lower, upper = case.lower, SquaredError(case.upper.x_true.numpy().astype(np.float32))
    x0 = case.x0.astype(np.float32)
    ev = Case(case.h, case.constants, lower, upper, x0, 1).evaluator()
    theta = torch.zeros(1, dtype=torch.float64)
    level = ev.solve(theta, torch.as_tensor(x0), 1e-12)
    floor = ev.eps_floor(level)
    assert_allclose(floor, 1e-6 * level.x.norm(dim=1), rtol=1e-6)
    _, _, x = case.truth([0.0])
    assert bool(((level.x - x).norm(dim=1) <= level.eps).all())
    assert level.x.dtype == torch.float32
    assert level.g.dtype == level.eps.dtype == torch.float64
