"""Claims about the Fourier frame: coordinates, fits to samples, and solutions with their certificates."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from benchmarks.problems import problem
from sciml import load
from sciml.exceptions import InvalidInputError, MemoryBudgetError
from sciml.solvers.gp_pde import PDE, Box, Dirichlet, solve_pde
from sciml.solvers.gp_pde.features import gauss_legendre
from sciml.solvers.gp_pde.frame import FourierFrame
from sciml.solvers.gp_pde.frame_fit import find_band, fit_dense, fit_fast, least_squares_steps
from sciml.solvers.gp_pde.slepian import slepian_coordinates

LINE, SQUARE = Box([(0, 2)]), Box([(0, 1)] * 2)


def line(n, omega=60.0, noise=0.0, seed=0):
    """Samples of f for u'' = f, u a fast and a slow tone."""
    rng = np.random.default_rng(seed)
    X = 2 * rng.random((n, 1))
    u = lambda X: np.sin(omega * X[:, 0]) + 0.3 * np.cos(1.3 * X[:, 0])  # noqa: E731
    f = -(omega**2) * np.sin(omega * X[:, 0]) - 0.507 * np.cos(1.3 * X[:, 0])
    f = f + noise * omega**2 * rng.standard_normal(n)
    return PDE(LINE, {2: 1.0}, (X, f), [Dirichlet(u)]), u


def error(sol, u, box):
    X = box.lower + (box.upper - box.lower) * np.random.default_rng(3).random((1000, len(box.bounds)))
    return np.linalg.norm(sol(X) - u(X)) / np.linalg.norm(u(X))


def solved(pde, **options):
    return solve_pde(pde, method=options.pop("method", "frame"), on_failure="ignore", **options)


# ---------------------------------------------------------------- coordinates


@pytest.mark.parametrize(("K", "ratio"), [(0, 1.5), (3, 1.2), (25, 1.7171), (60, 3.0)])
def test_coordinates_are_real_functions_orthonormal_on_the_interval(K, ratio):
    C, sigma = slepian_coordinates(K, ratio, 1e-7)
    nodes, weights = gauss_legendre(300)
    psi = np.exp(1j * np.pi / ratio * np.outer(nodes, np.arange(-K, K + 1))) @ C
    assert_allclose(psi.imag, 0, atol=1e-7)
    assert_allclose((psi.real.T * weights / 2) @ psi.real, np.eye(C.shape[1]), atol=1e-7)
    assert sigma[0] == 1.0
    assert np.all(np.diff(sigma) < 1e-12)


def test_directions_are_as_many_as_the_interval_sees():
    for K, ratio in ((100, 1.5), (200, 2.0)):
        C, sigma = slepian_coordinates(K, ratio)
        assert np.sum(sigma > 0.7) == pytest.approx((2 * K + 1) / ratio, abs=2)
        assert C.shape[1] < (2 * K + 1) / ratio + 45


# ---------------------------------------------------------------- fits


def test_conjugate_gradients_find_the_least_squares_solution(rng):
    A, y = torch.as_tensor(rng.standard_normal((30, 6))), torch.as_tensor(rng.standard_normal(30))
    steps = least_squares_steps(lambda z: A @ z, lambda r: A.T @ r, y)
    for _ in range(8):
        step = next(steps)
    assert_allclose(step.value, torch.linalg.lstsq(A, y).solution, rtol=1e-10)
    assert step.criterion < 1e-10


@pytest.mark.parametrize("d", [1, 2])
def test_the_fast_fit_is_the_function(d):
    box, K = Box([(0, 2), (-1, 3)][:d]), (26, 22)[:d]
    rng = np.random.default_rng(0)
    f = lambda X: np.cos(12 * X[:, 0] + (5 * X[:, 1] if d > 1 else 0)) + X[:, 0]  # noqa: E731
    at = lambda n: box.lower + (box.upper - box.lower) * rng.random((n, d))  # noqa: E731
    X, Y = at(2000 * 4 ** (d - 1) * d), at(500)
    fitted, steps = fit_fast(torch.as_tensor(X), torch.as_tensor(f(X)), box, K, 1.7171)
    assert steps > 0
    assert np.sqrt(np.mean((fitted(Y) - f(Y)) ** 2)) < (1e-10, 1e-6)[d - 1]


@pytest.mark.parametrize("d", [1, 2])
def test_the_dense_fit_is_the_function_and_the_fast_one(d):
    box, K, rng = Box([(0, 1)] * d), (9, 8)[:d], np.random.default_rng(1)
    f = lambda X: np.exp(X[:, 0]) * np.cos(4 * X[:, -1])  # noqa: E731
    X, Y = rng.random((700 * d**2, d)), rng.random((300, d))
    dense, _ = fit_dense(torch.as_tensor(X), torch.as_tensor(f(X)), box, K, 1.7171)
    fast, _ = fit_fast(torch.as_tensor(X), torch.as_tensor(f(X)), box, K, 1.7171)
    assert np.sqrt(np.mean((dense(Y) - f(Y)) ** 2)) < 1e-5
    assert np.sqrt(np.mean((fast(Y) - dense(Y)) ** 2)) < 1e-5


def test_sparse_bayes_fits_from_fewer_samples_than_coordinates():
    """Ninety samples; 2 x 80 modes of which the interval sees about 95."""
    rng = np.random.default_rng(2)
    f = lambda X: np.sin(70 * X[:, 0]) + np.cos(2 * X[:, 0])  # noqa: E731
    X, Y = 2 * rng.random((90, 1)), 2 * rng.random((300, 1))
    error = {}
    for sweeps in (0, 12):
        fitted, _ = fit_dense(torch.as_tensor(X), torch.as_tensor(f(X)), LINE, (80,), 1.7171, sweeps=sweeps)
        error[sweeps] = np.sqrt(np.mean((fitted(Y) - f(Y)) ** 2))
    assert error[12] < 0.2 * error[0]


def test_the_band_is_read_off_the_data():
    rng = np.random.default_rng(0)
    X = torch.as_tensor(rng.random((4000, 2)))
    y = torch.cos(60 * X[:, 0]) + torch.sin(25 * X[:, 1])
    K = find_band(X, y, SQUARE, [0, 0], 1.7171, [60, 60])
    wanted = 1.7171 * np.array([60, 25]) / (2 * np.pi)
    assert np.all(wanted <= K)
    assert np.all(wanted + 6 >= K)
    assert find_band(X, 0 * y, SQUARE, [7, 9], 1.7171, [60, 60]) == [7, 9]
    assert max(find_band(X, y, SQUARE, [0, 0], 1.7171, [10, 10])) <= 10


# ---------------------------------------------------------------- solutions


def test_thirty_thousand_samples_on_a_line():
    pde, u = line(30_000)
    sol = solved(pde)
    assert sol.status == "converged"
    assert error(sol, u, LINE) < 1e-9
    assert error(sol, u, LINE) < 10 * sol.error_estimate
    assert sol.report["held_out"] < 1e-11
    assert sol.report["solver"].startswith("frame")


def test_eight_thousand_samples_on_a_square():
    X = np.random.default_rng(1).random((8000, 2))
    u = lambda X: np.sin(20 * X[:, 0]) * np.cos(15 * X[:, 1]) + np.exp(X[:, 0] - X[:, 1])  # noqa: E731
    f = -625 * np.sin(20 * X[:, 0]) * np.cos(15 * X[:, 1]) + 2 * np.exp(X[:, 0] - X[:, 1])
    sol = solved(PDE(SQUARE, {(2, 0): 1.0, (0, 2): 1.0}, (X, f), [Dirichlet(u)]), tol=1e-6)
    true = error(sol, u, SQUARE)
    assert sol.status == "converged"
    assert true < 1e-7
    assert true < 10 * sol.error_estimate


@pytest.mark.parametrize(
    ("name", "n", "bar"),
    [("P1", 400, 1e-8), ("P2", 400, 7e-8), ("P3", 900, 2e-6), ("P4", 900, 1e-9), ("P5", 400, 8e-9)],
)
def test_the_published_problems_from_uniform_nodes(name, n, bar):
    p = problem(name)
    box = Box([tuple(b) for b in p.box])
    X = np.linspace(box.lower[0], box.upper[0], n)[:, None]
    top = 0.9 * np.pi * (n - 1) / float(box.upper[0] - box.lower[0])
    sol = solved(PDE(box, p.operator, (X, p.source(X)), [Dirichlet(p.solution)]), max_frequency=top)
    true = error(sol, p.solution, box)
    assert true < bar
    assert true < 10 * sol.error_estimate


def test_a_source_that_is_a_function_is_sampled():
    pde, u = line(10)
    f = lambda X: -3600 * np.sin(60 * X[:, 0]) - 0.507 * np.cos(1.3 * X[:, 0])  # noqa: E731
    sol = solved(PDE(LINE, {2: 1.0}, f, pde.conditions), method=FourierFrame(ratio=1.6))
    assert sol.status == "converged"
    assert error(sol, u, LINE) < 1e-9


def test_units_do_not_matter():
    pde, _ = line(3000)
    X, f = pde.source
    c = 2.0**12
    wide = PDE(Box([(0, 2 * c)]), {2: 1.0}, (c * X, f / c**2), [Dirichlet(lambda X: line(3)[1](X / c))])
    one, other = solved(pde), solved(wide)
    Y = np.linspace(0, 2, 40)[:, None]
    assert_allclose(other(c * Y), one(Y), rtol=0, atol=1e-9)


def test_zero_samples_are_a_zero_source():
    X = np.random.default_rng(0).random((2000, 1))
    sol = solved(PDE(Box([(0, 1)]), {2: 1.0}, (X, np.zeros(2000)), [Dirichlet(lambda X: 1 + X[:, 0])]))
    assert_allclose(sol(np.array([[0.25]])), 1.25, rtol=1e-12)


# ---------------------------------------------------------------- honesty


def test_aliases_of_a_lattice_are_told():
    u = lambda X: np.sin(90 * X[:, 0])  # noqa: E731
    X = np.linspace(0, 2, 81)[:, None]  # resolves up to 126 rad / unit
    sol = solved(PDE(LINE, {2: 1.0}, (X, -8100 * u(X)), [Dirichlet(u)]))
    assert sol.status == "alias_warning"
    assert "lie on a lattice" in sol.report["reason"]


def test_a_gap_is_told():
    pde, _ = line(6000)
    X, f = pde.source
    keep = np.abs(X[:, 0] - 1.2) > 0.03
    sol = solved(PDE(LINE, {2: 1.0}, (X[keep], f[keep]), pde.conditions))
    assert sol.status == "not_converged"
    assert "gap around [1.2" in sol.report["reason"]


def test_noise_is_told_and_its_effect_is_estimated():
    pde, u = line(2000, omega=30.0, noise=1e-4)
    sol = solved(pde)
    assert sol.status == "not_converged"
    assert "they are noisy" in sol.report["reason"]
    assert sol.report["held_out"] == pytest.approx(1e-4 * np.sqrt(2), rel=0.1)
    assert error(sol, u, LINE) < 10 * sol.error_estimate


def test_few_samples_of_a_fast_source_do_not_converge():
    pde, u = line(70, omega=200.0)
    sol = solved(pde)
    assert sol.status != "converged"
    assert error(sol, u, LINE) < 10 * sol.error_estimate or sol.error_estimate > 0.1


def test_a_missing_budget_is_told_before_any_work():
    with pytest.raises(MemoryBudgetError, match="nonuniform transform of 27000 samples"):
        solved(line(30_000)[0], memory="1MiB")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio must be a number at least 1.1"),
        ({"ratio": 1.5, "second_ratio": 1.51}, "second_ratio must differ from ratio by 0.02"),
        ({"hold_out": 0.9}, "hold_out must be a number at least 0.01 and at most 0.5"),
        ({"sweeps": -1}, "sweeps must be an integer at least 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InvalidInputError, match=message):
        FourierFrame(**options)


def test_too_few_samples_are_named():
    with pytest.raises(InvalidInputError, match="at least 9 samples for a frame; got 6"):
        solved(line(6)[0])


def test_it_is_saved_and_loaded(tmp_path):
    sol = solved(line(3000)[0])
    sol.save(tmp_path / "frame")
    X = np.linspace(0, 2, 9)[:, None]
    again = load(tmp_path / "frame")
    assert_allclose(again(X), sol(X), rtol=1e-12)
    assert_allclose(again.std(X), sol.std(X), rtol=1e-9)
