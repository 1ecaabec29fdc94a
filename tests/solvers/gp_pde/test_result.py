"""Claims about the answer: a function of points with derivatives, uncertainty, spectrum, and a life on disk."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import sciml
from sciml.exceptions import InvalidInputError
from sciml.solvers.gp_pde import Box, Dirichlet, PDESolution, Region, solve_pde

from .manufactured import Solution, growth, power, spots, tone

LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}
u_line = Solution((1.0, tone(60.0, 0.2)), (0.01, tone(95.0)), (0.3, growth(-1.0)))
u_plane = Solution((1.0, tone(11.0, 0.3), tone(40.0)), (0.4, growth(0.7), power(2)))
LINE, SQUARE = Box([(0, 3)]), Box([(0, 1.5), (-1, 1)])


def disc():
    t = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    return Region([(-1, 1)] * 2, lambda X: np.hypot(*X.T) < 1, np.c_[np.cos(t), np.sin(t)])


CASES = {
    "line": (u_line, LINE, {2: 1.0}),
    "square": (u_plane, SQUARE, LAPLACE),
    "disc": (u_plane, disc(), LAPLACE),
}


@functools.cache
def _solution(name):
    """Return the solution of a case, found once."""
    u, domain, operator = CASES[name]
    return solve_pde(u.problem(domain, operator, [Dirichlet(u)]))


@pytest.fixture
def solved():
    """Solutions by name."""
    return _solution


@pytest.fixture(params=CASES)
def case(request):
    """One solved problem after the other: truth, domain, solution."""
    return *CASES[request.param][:2], _solution(request.param)


@pytest.fixture
def line():
    """The solved problem in one dimension."""
    return _solution("line")


@pytest.fixture
def square():
    """The solved problem in two dimensions."""
    return _solution("square")


# ---------------------------------------------------------------- values and derivatives


def test_values_and_derivatives_are_those_of_the_solution(case):
    u, domain, sol = case
    X = spots(domain)
    for order in range(3):
        alpha = (order, *[0] * (sol.n_dims - 1))
        truth = u.derivative(alpha)(X)
        got = sol.derivative(X, alpha)
        # a derivative multiplies the error by the largest frequency of the basis at most, about 1e3 here
        assert_allclose(got, truth, rtol=0, atol=1e-9 * np.abs(u(X)).max() * 1e3**order)
    assert_array_equal(sol(X), sol.derivative(X, (0,) * sol.n_dims))


def test_derivatives_match_differences(case):
    _, domain, sol = case
    X, h = spots(domain)[:50], 1e-4
    lower, upper = domain.box.lower, domain.box.upper
    X = (lower + upper) / 2 + 0.9 * (X - (lower + upper) / 2)
    for j, row in enumerate(h * np.eye(sol.n_dims)):
        alpha = tuple(int(i == j) for i in range(sol.n_dims))
        slope = (sol(X + row) - sol(X - row)) / (2 * h)
        # h^2 / 6 times the third derivative, 95^3 times 0.01 and 60^3 at most
        assert_allclose(sol.derivative(X, alpha), slope, rtol=0, atol=h**2 / 6 * 70**3 * 2)


def test_torch_points_give_torch_values_with_their_derivative(case):
    u, domain, sol = case
    X = torch.tensor(spots(domain)[:20], requires_grad=True)
    values = sol(X)
    assert isinstance(values, torch.Tensor)
    assert values.dtype == torch.float64
    assert_array_equal(values.detach().numpy(), sol(X.detach().numpy()))
    (slope,) = torch.autograd.grad(values.sum(), X)
    for j in range(sol.n_dims):
        alpha = tuple(int(i == j) for i in range(sol.n_dims))
        wanted = sol.derivative(X.detach().numpy(), alpha)
        assert_allclose(slope[:, j].numpy(), wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


def test_float32_points_give_float32_values(line):
    X = np.linspace(0, 3, 50, dtype=np.float32)[:, None]
    values = line(X)
    assert values.dtype == np.float32
    assert_allclose(values, u_line(X.astype(float)), rtol=0, atol=1e-6)


def test_a_flat_array_will_do_in_one_dimension(line):
    x = np.linspace(0, 3, 7)
    assert_array_equal(line(x), line(x[:, None]))
    assert line(x).shape == (7,)
    assert line(np.zeros((0, 1))).shape == (0,)


@pytest.mark.parametrize(
    ("X", "text"),
    [
        ([[0.5, 2.0]], r"X must lie in the box from \[0.0, -1.0\] to \[1.5, 1.0\]; point 0 is \[0.5, 2.0\]"),
        ([[0.5, 0.0], [-1.0, 0.0]], r"point 1 is \[-1.0, 0.0\].*widen the domain"),
        ([[0.5]], r"X must have shape \(n, 2\).*got \(1, 1\)"),
        ([0.5, 0.5], r"X must have shape \(n, 2\).*got \(2,\)"),
        ([[np.nan, 0.5]], r"X must be finite; the entry at index \(0, 0\) is nan"),
        ([[0.5 + 1j, 0.5]], "X must be real; got complex numbers"),
    ],
)
def test_bad_points_are_refused(square, X, text):
    with pytest.raises(InvalidInputError, match=text):
        square(np.array(X))


@pytest.mark.parametrize("order", [(2,), (1, 0, 0), 2, (-1, 0), (0.5, 0), "xx", None])
def test_a_bad_order_is_refused(square, order):
    with pytest.raises(InvalidInputError, match="order must be a multi-index of 2 non-negative integers; got"):
        square.derivative(np.array([[0.5, 0.5]]), order)


# ---------------------------------------------------------------- uncertainty


def test_the_deviation_has_the_size_of_the_error_estimate(case):
    u, domain, sol = case
    X = spots(domain, 4000, seed=8)
    rms = np.sqrt(np.mean(sol.std(X) ** 2))
    size = np.sqrt(np.mean(u(X) ** 2))
    # both are averages over other random points than those of the certificate
    assert_allclose(rms / size, sol.error_estimate, rtol=0.5)
    assert np.all(sol.std(X) >= 0)


def test_samples_scatter_by_the_deviation_about_the_mean(case):
    _, domain, sol = case
    X = spots(domain)[:40]
    draws = sol.sample(X, 400, random_state=3)
    assert draws.shape == (400, 40)
    mean, std = sol(X), sol.std(X)
    loud = std > 1e-3 * std.max()  # on a boundary of known values there is nothing to scatter
    z = (draws - mean)[:, loud] / std[loud]
    assert_allclose(np.sqrt((z**2).mean()), 1, rtol=0, atol=0.25)
    assert_allclose(z.mean(axis=0), np.zeros(loud.sum()), rtol=0, atol=5 / np.sqrt(400))
    assert_array_equal(draws, sol.sample(X, 400, random_state=3))
    assert not np.array_equal(draws[:1], sol.sample(X, 1, random_state=4))


def test_samples_are_counted(line):
    with pytest.raises(InvalidInputError, match="n_samples must be an integer at least 1; got 0"):
        line.sample(np.array([[0.5]]), 0)


# ---------------------------------------------------------------- spectrum, table, text


def test_the_spectrum_shows_the_carriers_by_weight(line):
    (axis,) = line.spectrum()
    assert set(axis) == {"omega", "weight", "bandwidth"}
    assert np.all(np.diff(axis["weight"]) <= 0)
    assert_allclose(axis["omega"][0], 60, rtol=0, atol=0.05)
    assert_allclose(axis["weight"][0], 1 / np.sqrt(2), rtol=0.1)
    at = np.argmin(np.abs(axis["omega"] - 95))
    assert_allclose(axis["omega"][at], 95, rtol=0, atol=0.05)
    assert axis["weight"][at] < 0.1


def test_the_spectrum_has_one_table_an_axis(square):
    x, y = square.spectrum()
    assert_allclose(y["omega"][np.argmin(np.abs(y["omega"] - 40))], 40, rtol=0, atol=0.05)
    for axis in (x, y):
        assert len(axis["omega"]) == len(axis["weight"]) == len(axis["bandwidth"])
        assert 0 in axis["omega"]
        total = np.sqrt(np.mean(u_plane(spots(SQUARE, 4000)) ** 2))
        assert axis["weight"][0] <= 3 * total


def test_a_table_holds_mean_and_deviation_on_a_grid(case):
    u, domain, sol = case
    d = sol.n_dims
    table = sol.to_xarray(9)
    assert set(table.data_vars) == {"mean", "std"}
    assert table["mean"].dims == tuple(f"x{j}" for j in range(d))
    assert table["mean"].shape == (9,) * d
    X = np.stack(np.meshgrid(*(table[f"x{j}"].values for j in range(d)), indexing="ij"), axis=-1).reshape(-1, d)
    inside = domain.contains(X)
    values = table["mean"].values.reshape(-1)
    assert_allclose(values[inside], sol(X[inside]), rtol=0, atol=1e-13)
    assert np.all(np.isnan(values[~inside]))
    assert table.attrs["status"] == "converged"
    assert table.attrs["error_estimate"] == sol.error_estimate


def test_a_grid_may_be_given_by_its_axes(square):
    axes = [np.linspace(0, 1, 3), np.linspace(-1, 0, 4)]
    for grid in (axes, dict(zip(("x0", "x1"), axes, strict=True))):
        table = square.to_xarray(grid)
        assert table["mean"].shape == (3, 4)
        assert_array_equal(table["x1"], axes[1])
    with pytest.raises(InvalidInputError, match="grid must hold 2 arrays of coordinates.*got 1"):
        square.to_xarray([axes[0]])
    with pytest.raises(InvalidInputError, match="grid must be an integer at least 1; got 0"):
        square.to_xarray(0)


def test_the_answer_shows_what_matters(line):
    text = repr(line)
    assert text.startswith("<PDESolution converged error_estimate=")
    assert f"n_features={line.report['n_features']}" in text
    assert "solver=collocation" in text
    assert "mean" in line._repr_html_()


# ---------------------------------------------------------------- a life on disk

READ = """
import sys, numpy as np, sciml
for name in sys.argv[1:]:
    sol, X = sciml.load(f"{name}.npz"), np.load(f"{name} X.npy")
    np.savez(f"{name} out.npz", value=sol(X), slope=sol.derivative(X, (1,) + (0,) * (sol.n_dims - 1)), std=sol.std(X),
             sample=sol.sample(X, 2, random_state=1), estimate=sol.error_estimate)
    print(sol.status, sol.report["n_features"], sol.settings["method"])
"""


def test_a_fresh_process_reads_the_same_functions(solved, tmp_path):
    points = {name: spots(domain)[:30] for name, (_, domain, _) in CASES.items()}
    for name, X in points.items():
        solved(name).save(tmp_path / f"{name}.npz")
        np.save(tmp_path / f"{name} X.npy", X)
    # One process for all: most of its time is its imports.
    done = subprocess.run([sys.executable, "-c", READ, *points], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for (name, X), line in zip(points.items(), done.stdout.splitlines(), strict=True):
        sol = solved(name)
        assert line.split() == [sol.status, str(sol.report["n_features"]), "auto"]
        out = np.load(tmp_path / f"{name} out.npz")
        assert_array_equal(out["value"], sol(X))
        assert_array_equal(out["slope"], sol.derivative(X, (1,) + (0,) * (sol.n_dims - 1)))
        assert_array_equal(out["std"], sol.std(X))
        assert_array_equal(out["sample"], sol.sample(X, 2, random_state=1))
        assert out["estimate"] == sol.error_estimate


def test_what_is_loaded_is_a_solution_with_its_history(square, tmp_path):
    square.save(tmp_path / "sol.npz")
    again = sciml.load(tmp_path / "sol.npz")
    assert isinstance(again, PDESolution)
    assert repr(again) == repr(square)
    assert again.settings == square.settings
    assert again.report == square.report
    for key, values in square.history.items():
        assert_array_equal(again.history[key], values)
    assert_array_equal(again.to_xarray(5)["mean"], square.to_xarray(5)["mean"])
