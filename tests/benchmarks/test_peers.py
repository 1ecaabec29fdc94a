"""Claims about the baselines: their known accuracies, orders of convergence, and evaluators."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks import peers
from benchmarks.measure import interleaved, peak_memory_mb, quartiles, surroundings
from benchmarks.problems import Problem, problem


def error_of(solver, p, shape):
    X = p.test_points()
    return p.error(solver(p, shape)(X), X)


@pytest.mark.parametrize(
    ("name", "solver", "shape", "bar"),
    [
        ("P1", peers.chebyshev_line, (400,), 3e-10),  # literature on such matrices: about n^2 eps to n^4 eps
        ("P3", peers.chebyshev_line, (900,), 2e-9),
        ("P5", peers.chebyshev_line, (400,), 3e-10),
        ("P8", peers.chebyshev_box, (400, 400), 2e-12),
        ("P11", peers.chebyshev_advection, (16, 160), 1e-12),
        ("boundary-layer", peers.chebyshev_box, (90, 60), 1e-10),
    ],
)
def test_chebyshev_is_as_accurate_as_known(name, solver, shape, bar):
    assert error_of(solver, problem(name), shape) < bar


def test_chebyshev_fails_below_pi_nodes_a_wavelength():
    assert error_of(peers.chebyshev_line, problem("P1"), (200,)) > 0.1


def general(dims):
    """A problem with all the terms that a peer takes, and a source that does not vanish."""
    w = np.array([3.0, 2.0, 4.0])[:dims]
    second = {tuple(2 * (i == j) for i in range(dims)): 1.0 + j for j in range(dims)}
    operator = {**second, (0,) * dims: 5.0}
    symbol = 5.0 - sum((1.0 + j) * w[j] ** 2 for j in range(dims))
    if dims == 1:
        operator[(1,)] = 2.0

    def solution(X):
        return np.cos(X * w + 0.3).prod(axis=1)

    def source(X):
        slope = -2.0 * w[0] * np.sin(X[:, 0] * w[0] + 0.3) if dims == 1 else 0.0
        return symbol * solution(X) + slope

    return Problem("general", "", ((-0.5, 1.0), (0.2, 1.0), (0.0, 0.7))[:dims], operator, source, solution, n_test=31)


def advection():
    """Advection with a source."""
    return Problem(
        "advection",
        "",
        ((0.5, 1.5), (-1.0, 0.0)),
        {(1, 0): 2.0, (0, 1): 0.5},
        source=lambda X: (2 * 3 - 0.5 * 4) * np.cos(3 * X[:, 0] - 4 * X[:, 1]),
        solution=lambda X: np.sin(3 * X[:, 0] - 4 * X[:, 1]),
        conditions="initial-inflow",
        n_test=41,
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_chebyshev_solves_every_operator_that_it_takes(dims):
    solver = peers.chebyshev_line if dims == 1 else peers.chebyshev_box
    assert error_of(solver, general(dims), (21, 23, 19)[:dims]) < 1e-12


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_differences_are_of_second_order(dims):
    solver = peers.differences_line if dims == 1 else peers.differences_box
    errors = [error_of(solver, general(dims), tuple(n + extra for extra in (0, 3, 5)[:dims])) for n in (21, 41)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)


def test_advection_peers_agree_with_the_truth():
    assert error_of(peers.chebyshev_advection, advection(), (20, 22)) < 1e-12
    errors = [error_of(peers.differences_advection, advection(), (n, 2 * n)) for n in (40, 80, 160)]
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.25)


def test_unit_courant_number_is_exact_along_the_characteristics():
    p = problem("P11")
    answer = peers.differences_advection(p, (21, 4001))
    X = np.stack(np.meshgrid(np.linspace(0, 1, 21), np.linspace(0, 1, 81), indexing="ij"), axis=-1).reshape(-1, 2)
    assert p.error(answer(X), X) < 1e-11  # at nodes, where no interpolation enters


@pytest.mark.parametrize("scattered", [False, True], ids=["grid", "scattered"])
def test_evaluators_are_exact_for_low_degree(scattered, rng):
    def polynomial(X):
        return X[:, 0] ** 3 - X[:, 0] * X[:, 1] ** 2 + 2

    p = Problem(
        "polynomial", "", ((-1.0, 2.0), (0.0, 1.0)), {(2, 0): 1.0, (0, 2): 3.0}, lambda X: 0 * X[:, 0], polynomial
    )
    X = p.random_points(700, rng) if scattered else p.test_points()  # 6 x - 6 x = 0: harmonic for this operator
    assert_allclose(peers.chebyshev_box(p, (9, 11))(X), polynomial(X), rtol=0, atol=1e-12)
    assert_allclose(peers.differences_box(p, (9, 11))(X), polynomial(X), rtol=0, atol=1e-12)


def test_operators_beyond_a_peer_are_refused():
    p = problem("P8")
    mixed = Problem("mixed", "", p.box, {**p.operator, (1, 1): 1.0}, p.source, p.solution)
    with pytest.raises(ValueError, match="operator must be a sum of second derivatives and a constant"):
        peers.chebyshev_box(mixed, (10, 10))


def test_tuning_takes_the_first_good_shape_or_the_best():
    p = general(1)
    X = p.test_points()
    ladder = [(6,), (20,), (30,)]
    assert peers.tuned(peers.chebyshev_line, p, ladder, X)[0] == (20,)
    shape, error = peers.tuned(peers.differences_line, p, [(11,), (81,), (41,)], X)
    assert shape == (81,)
    assert_allclose(error, error_of(peers.differences_line, p, (81,)), rtol=1e-12)


def test_the_need_of_a_tone_is_a_little_above_its_turning_point():
    (need,) = peers.chebyshev_need(problem("P1"))
    assert 100 * np.pi < need < 100 * np.pi + 100
    assert set(peers.peers(problem("P1"))) == {"Chebyshev", "finite differences"}
    assert peers.peers(problem("star")) == {}


def test_times_come_as_quartiles_of_interleaved_calls():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert "".join(calls) == "ababab" + "ab"  # the warm-up is a turn, too
    assert times["a"]["repeats"] == 3
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == {
        "seconds": 3.0,
        "seconds_low": 2.0,
        "seconds_high": 4.0,
        "repeats": 5,
    }


def test_the_peak_of_a_call_is_that_of_its_arrays():
    held = b"x" * 200_000_000  # the peak of the process that asks must not count
    added = peak_memory_mb("numpy:ones", 10_000_000)
    assert len(held) == 200_000_000
    assert added == pytest.approx(80e6 / 2**20, rel=0.05)


def test_surroundings_name_no_host_and_no_folder():
    text = str(surroundings())
    import platform

    assert platform.node() not in text
    assert "/home" not in text
