"""Claims about long times cut into slabs: what is handed on, how errors travel, and that the certificate is true."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.results import load
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Periodic, solve_pde
from sciml.solvers.gp_pde import slabs as module
from sciml.solvers.gp_pde.handed import bubbles, project
from sciml.solvers.gp_pde.slab_posterior import SlabPosterior
from sciml.solvers.gp_pde.slabs import slabs_needed

TAU = 2 * np.pi
WALLS = Dirichlet(0.0, where=[(0, "lower"), (0, "upper")])


def ring(u, operator, T, L=TAU, velocity=None, **more):
    """A problem on a ring of length L."""
    return PDE(Box([(0, L), (0, T)]), operator, 0.0, [Initial(u, velocity), Periodic(0)], **more)


def bump(speed):
    """A steep periodic profile that travels."""
    return lambda X: np.exp(np.sin(X[:, 0] - speed * X[:, 1]))


def advection(speed=10.0, T=1.0):
    return ring(bump(speed), {(0, 1): 1.0, (1, 0): speed}, T), bump(speed)


def relative_error(solution, u, seed=3, n=2000):
    lower, upper = np.array(solution.posterior.basis.lower), np.array(solution.posterior.basis.upper)
    X = lower + (upper - lower) * np.random.default_rng(seed).random((n, len(lower)))
    return float(np.linalg.norm(solution(X) - u(X)) / np.linalg.norm(u(X)))


@pytest.fixture(scope="module")
def moving():
    """Advection in three slabs, with its solution."""
    pde, u = advection()
    return pde, u, solve_pde(pde, slabs=3)


def test_slabs_cover_time_and_agree_with_the_truth(moving):
    _, u, solution = moving
    rows = solution.report["slabs"]
    assert [r["start"] for r in rows] == pytest.approx([0, 1 / 3, 2 / 3])
    assert rows[-1]["stop"] == 1.0
    assert solution.status == "converged"
    error = relative_error(solution, u)
    assert error < 1e-11
    assert error <= 10 * solution.error_estimate
    assert solution.error_estimate < 1e-10
    assert solution.settings["slabs"] == 3


def test_interfaces_and_derivatives_belong_to_one_slab_each(moving):
    _, u, solution = moving
    edges = np.array([[1.0, 0.0], [1.0, 1 / 3], [1.0, 2 / 3], [1.0, 1.0]])
    assert_allclose(solution(edges), u(edges), rtol=1e-11)
    before, after = edges[1:3] - [0, 1e-12], edges[1:3] + [0, 1e-12]
    assert_allclose(solution(before), solution(after), rtol=1e-9)
    X = np.random.default_rng(0).random((40, 2))
    slope = np.cos(X[:, 0] - 10 * X[:, 1]) * u(X)
    assert_allclose(solution.derivative(X, (1, 0)), slope, atol=1e-9)
    assert_allclose(solution.derivative(X, (0, 1)), -10 * slope, atol=1e-8)
    points = torch.tensor(X, requires_grad=True)
    grad = torch.autograd.grad(solution(points).sum(), points)[0]
    assert_allclose(grad[:, 0].numpy(), slope, atol=1e-9)
    assert solution(np.zeros((0, 2))).shape == (0,)


def test_the_deviation_is_of_the_size_of_the_estimate_and_grows_with_time(moving):
    _, u, solution = moving
    X = np.random.default_rng(1).random((3000, 2)) * [TAU, 1.0]
    size = np.sqrt(np.mean(u(X) ** 2))
    ratio = np.sqrt(np.mean(solution.std(X) ** 2)) / size / solution.error_estimate
    assert 0.3 < ratio < 1.2  # errors add up in the estimate, variances in the deviation
    first, last = (solution.std(X[(X[:, 1] > a) & (X[:, 1] < b)]).mean() for a, b in ((0.0, 0.3), (0.7, 1.0)))
    assert last > first


def test_draws_have_the_deviation_and_travel_through_the_slabs(moving):
    solution = moving[2]
    X = np.random.default_rng(2).random((100, 2)) * [TAU, 1.0]
    draws = solution.sample(X, 200, random_state=0) - solution(X)
    together = np.sqrt(np.mean(draws.std(axis=0) ** 2)) / np.sqrt(np.mean(solution.std(X) ** 2))
    assert 0.7 < together < 1.4
    assert_allclose(solution.sample(X, 2, random_state=5), solution.sample(X, 2, random_state=5))


def test_a_saved_solution_comes_back(moving, tmp_path):
    solution = moving[2]
    back = load(solution.save(tmp_path / "slabs.npz"))
    X = np.random.default_rng(3).random((60, 2))
    assert np.array_equal(back(X), solution(X))
    assert np.array_equal(back.std(X), solution.std(X))
    assert np.array_equal(back.sample(X, 2, 0), solution.sample(X, 2, 0))
    assert back.report["slabs"] == solution.report["slabs"]


def test_the_spectrum_is_that_of_all_slabs(moving):
    x, t = moving[2].spectrum()
    assert_allclose(x["omega"][:4], [0, 1, 2, 3], atol=1e-9)
    # exp(sin) has the modified Bessel functions I_0, I_1, ... for coefficients; a cosine has half its square for mean
    assert_allclose(x["weight"][:2], [1.2660658777520084, np.sqrt(2) * 0.565159103992485], rtol=1e-6)
    assert len(t["omega"]) >= 1


def test_what_is_conserved_does_not_drift(moving):
    drift = moving[2].report["drift"]
    assert drift["mass"] < 1e-11
    assert drift["norm"] < 1e-11
    assert drift["energy"] is None


def test_errors_neither_grow_nor_fade_where_the_norm_is_conserved(moving):
    growth = [row["growth"] for row in moving[2].report["slabs"]]
    assert growth[0] is None
    assert_allclose(growth[1:], 1.0, atol=0.1)


def test_errors_fade_under_diffusion_and_grow_under_a_source():
    def rows(reaction):
        pde = ring(lambda X: np.sin(X[:, 0]), {(0, 1): 1.0, (2, 0): -1.0, (0, 0): -reaction}, 4.0)
        return solve_pde(pde, slabs=4).report["slabs"]

    fading, growing = rows(0.0), rows(3.0)
    assert fading[-1]["growth"] < 1.0
    assert growing[-1]["growth"] > 1.5  # the fastest mode grows by e^3 in a slab; a draw holds slower ones too
    for before, row in zip(growing, growing[1:], strict=False):  # what came is sent on; u itself grows by e^2
        assert row["travelled"] > 0.2 * row["growth"] / math.exp(2.0) * before["error_estimate"] > 0


def test_a_string_over_many_periods_with_a_true_certificate():
    width = 0.12

    def wrapped(s):
        return np.mod(s + 0.5, 2) - 1.0

    def profile(s):
        return np.exp(-((wrapped(s) / width) ** 2) / 2)

    def slope(s):
        return -wrapped(s) / width**2 * profile(s)

    def u(X):
        return profile(X[:, 0] - X[:, 1]) - profile(-X[:, 0] - X[:, 1])

    def velocity(X):
        return -slope(X[:, 0] - X[:, 1]) + slope(-X[:, 0] - X[:, 1])

    pde = PDE(Box([(0, 1), (0, 6)]), {(0, 2): 1.0, (2, 0): -1.0}, 0.0, [Initial(u, velocity), WALLS])
    solution = solve_pde(pde, slabs=6)
    error = relative_error(solution, u)
    assert solution.status == "converged"
    assert error < 2e-9
    assert error <= 10 * solution.error_estimate
    assert solution.report["drift"]["energy"] < 1e-8
    # a state that is zero but for rounding is met at times: the velocity carries all of it
    assert max(row["n_features"] for row in solution.report["slabs"]) < 12_000


def test_a_problem_that_fits_is_not_cut_and_one_that_does_not_is():
    assert slabs_needed(advection(1.0)[0]) == 1
    steep = ring(lambda X: np.exp(4 * np.sin(X[:, 0])), {(0, 1): 1.0, (1, 0): 500.0}, 1.0)
    assert slabs_needed(steep) > 10
    tone = ring(lambda X: np.sin(X[:, 0]), {(0, 1): 1.0, (1, 0): 500.0}, 1.0)
    assert slabs_needed(tone) == 1  # a single carrier needs no slab
    assert slabs_needed(PDE(Box([(0, 1)]), {2: 1.0}, 1.0, [Dirichlet(0.0)])) == 1


def test_what_cannot_be_cut_is_refused_with_the_reason():
    pde, u = advection()
    for changed, reason in (
        ({"conditions": [Initial(u), Periodic(0), Dirichlet(u, where=(1, "upper"))]}, "at the end of time"),
        ({"source": (np.array([[1.0, 0.5]]), np.array([0.0]))}, "scattered points"),
        ({"conditions": [Dirichlet(u, where=[(1, "lower"), (0, "lower")])]}, "no Initial data"),
    ):
        with pytest.raises(InvalidInputError, match=reason):
            solve_pde(dataclasses.replace(pde, **changed), slabs=2)


def test_contradicting_data_are_no_small_error():
    hot = PDE(Box([(0, 1), (0, 1)]), {(0, 1): 1.0, (2, 0): -1.0}, 0.0, [Initial(1.0), WALLS])
    with pytest.warns(match="must agree where faces meet"), pytest.warns(match="not_converged"):
        solution = solve_pde(hot, slabs=2, max_iter=2)
    assert solution.status == "not_converged"
    assert solution.error_estimate > 0.01


def test_a_callback_stops_and_the_status_says_where():
    pde, u = advection()
    with pytest.warns(match="stopped at t = 0.25"):
        solution = solve_pde(pde, slabs=4, callback=lambda n_iter, step: True)
    assert solution.status == "not_converged"
    assert solution.posterior.basis.upper[1] == 0.25
    with pytest.raises(InvalidInputError, match="must lie in the box"):
        solution(np.array([[1.0, 0.9]]))


def test_a_slab_that_fails_is_halved(monkeypatch):
    pde, u = advection(T=0.8)
    lengths = []
    real = module._March.solve

    def solve(self, problem, tol, coarse=False, max_iter=None):
        out = real(self, problem, tol, coarse, max_iter)
        a, b = problem.domain.bounds[1]
        lengths.append(b - a)
        poor = b - a > 0.3 and not coarse
        report = out.report | ({"difference_to_richer": 1e-3} if poor else {})
        return dataclasses.replace(
            out,
            status="not_converged" if poor else out.status,
            error_estimate=1e-3 if poor else out.error_estimate,
            report=report,
        )

    monkeypatch.setattr(module._March, "solve", solve)
    solution = solve_pde(pde, slabs=2)
    rows = solution.report["slabs"]
    assert len(rows) == 4
    assert max(r["stop"] - r["start"] for r in rows) < 0.3
    assert solution.status == "converged"
    assert "halved" in " ".join(solution.report["notes"])


def test_what_is_handed_on_loses_its_noise_and_meets_its_ends():
    rng = np.random.default_rng(0)
    pde = PDE(Box([(0, 1), (0, 1)]), {(0, 1): 1.0, (2, 0): -1.0}, 0.0, [Initial(0.0), WALLS])
    noise = np.cumsum(rng.standard_normal(4000)) * 1e-12

    def rough(X):
        return np.sin(9 * np.pi * X[:, 0]) + noise[(3999 * X[:, 0]).astype(int)]

    handed = project(pde, rough, 1, [120], accuracy=1e-8)
    assert handed.basis.n_features < 70
    x = np.linspace(0, 1, 201)[:, None] * [1.0, 0.0]
    assert_allclose(handed(x), np.sin(9 * np.pi * x[:, 0]), atol=1e-8)
    assert np.max(np.abs(handed(x[[0, -1]]))) < 1e-14
    assert handed.rms() == pytest.approx(np.sqrt(0.5), rel=1e-6)
    quiet = project(pde, lambda X: 1e-16 * np.sin(40 * X[:, 0]), 1, [120], scale=1.0)
    assert quiet.basis.n_features <= 6  # seen beside a velocity of size one it is rounding


def test_errors_travel_in_functions_that_meet_every_end():
    pde = PDE(Box([(0, 1), (0, 1)]), {(0, 1): 1.0, (2, 0): -1.0}, 0.0, [Initial(0.0), WALLS])
    smooth = bubbles(pde, lambda X: np.cos(3 * X[:, 0]), 1)
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for order in (0, 1, 2):
        assert float(smooth.basis.contract(ends, (order,), smooth.theta).abs().max()) < 1e-9
    assert smooth.rms() > 0.1


def test_a_system_marches_with_all_its_unknowns():
    omega = 9.0
    pde = PDE(
        Box([(0, 6)]),
        [{"u": {1: 1.0}, "v": {0: -1.0}}, {"v": {1: 1.0}, "u": {0: omega**2}}],
        0.0,
        [Initial(1.0, unknown="u"), Initial(0.0, unknown="v")],
        unknowns=("u", "v"),
    )
    solution = solve_pde(pde, slabs=3)
    t = np.random.default_rng(4).random(300) * 6
    truth = np.stack([np.cos(omega * t), -omega * np.sin(omega * t)], axis=1)
    values = solution(t)
    error = np.linalg.norm(values - truth) / np.linalg.norm(truth)
    assert solution.status == "converged"
    assert error < 1e-10
    assert error <= 10 * solution.error_estimate
    assert_allclose(solution["v"](t), values[:, 1])
    assert isinstance(solution["v"].posterior, SlabPosterior)
    assert solution.std(t).shape == (300, 2)
    assert set(solution.spectrum()) == {"u", "v"}


def test_a_nonlinear_equation_is_linearised_for_its_errors():
    def u(t):
        return 1 / (1 + np.exp(-4 * (t - 1)))  # u' = 4 u (1 - u)

    pde = PDE(Box([(0, 2)]), {1: 1.0}, 0.0, [Initial(float(u(0.0)))], nonlinear=lambda X, v: -4 * v * (1 - v))
    solution = solve_pde(pde, slabs=4)
    t = np.linspace(0, 2, 301)
    error = np.linalg.norm(solution(t) - u(t)) / np.linalg.norm(u(t))
    assert solution.status == "converged"
    assert error < 1e-10
    assert error <= 10 * solution.error_estimate
    rows = solution.report["slabs"]
    # an error grows as u' does: over a slab by u'(t_n) / u'(t_(n-1)), more than one before the middle and less after
    assert rows[1]["growth"] > 1.3
    assert rows[3]["growth"] < 0.7


def exponential_steps(u0, L, T, linear, n=128, steps=800):
    """u(x, T) of u_t + u u_x = linear part on a ring, by ETDRK4 (Kassam and Trefethen, 2005): the slow obvious twin."""
    x, k, h = L * np.arange(n) / n, TAU / L * np.fft.fftfreq(n, 1 / n), T / steps
    lam, keep = linear(k), np.abs(np.fft.fftfreq(n, 1 / n)) < n / 3
    z = h * lam[:, None] + np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
    half, whole = np.exp(h * lam / 2), np.exp(h * lam)
    Q = h * ((np.exp(z / 2) - 1) / z).mean(axis=1).real
    f1 = h * ((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3).mean(axis=1).real
    f2 = h * ((2 + z + np.exp(z) * (-2 + z)) / z**3).mean(axis=1).real
    f3 = h * ((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3).mean(axis=1).real

    def N(v):
        return -0.5j * k * keep * np.fft.fft(np.fft.ifft(v).real ** 2)

    v = np.fft.fft(u0(x))
    for _ in range(steps):
        a = half * v + Q * N(v)
        b = half * v + Q * N(a)
        c = half * a + Q * (2 * N(b) - N(v))
        v = whole * v + f1 * N(v) + 2 * f2 * (N(a) + N(b)) + f3 * N(c)
    return x, np.fft.ifft(v).real


@pytest.mark.parametrize(
    ("L", "T", "operator", "linear"),
    [
        (TAU, 0.5, {(2, 0): -0.3}, lambda k: -0.3 * k**2),  # Burgers
        (2 * TAU, 1.0, {(2, 0): 1.0, (4, 0): 1.0}, lambda k: k**2 - k**4),  # Kuramoto-Sivashinsky
    ],
    ids=["burgers", "kuramoto-sivashinsky"],
)
def test_nonlinear_waves_agree_with_time_stepping(L, T, operator, linear):
    def u0(x):
        return np.cos(TAU * x / L) * (1 + 0.5 * np.sin(TAU * x / L))

    pde = ring(
        lambda X: u0(X[:, 0]),
        {(0, 1): 1.0} | operator,
        T,
        L,
        nonlinear=(lambda X, v, g: v * g[:, 0], lambda X, v, g: (g[:, 0], np.stack([v, 0 * v], axis=1))),
    )
    solution = solve_pde(pde, tol=1e-6, slabs=1)
    x, stepped = exponential_steps(u0, L, T, linear)
    error = np.linalg.norm(solution(np.stack([x, np.full_like(x, T)], axis=1)) - stepped) / np.linalg.norm(stepped)
    assert solution.status == "converged"
    assert error < 1e-8
    assert error <= 10 * solution.error_estimate + 1e-11  # the steps err too
