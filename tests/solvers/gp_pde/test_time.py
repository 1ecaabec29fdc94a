"""Claims about what a problem needs along time, and about initial-value problems in one box."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Neumann, Periodic, solve_pde
from sciml.solvers.gp_pde.drift import conserved, drift
from sciml.solvers.gp_pde.lines import axis_needs
from sciml.solvers.gp_pde.time_axis import symbol_eigenvalues, time_content, time_dimension

WALLS = [(0, "lower"), (0, "upper")]
FIXED = Dirichlet(0.0, where=WALLS)


def relative_error(solution, u, seed=3, n=1500):
    """Relative L2 error at random points of the box."""
    lower, upper = np.array(solution.posterior.basis.lower), np.array(solution.posterior.basis.upper)
    X = lower + (upper - lower) * np.random.default_rng(seed).random((n, len(lower)))
    return np.linalg.norm(solution(X) - u(X)) / np.linalg.norm(u(X))


def standing(amplitudes, numbers, rate):
    """Sums of sin(k x) Re exp(s(k) t) with k = pi n on [0, 1], and their velocity."""

    def u(X):
        return sum(
            a * np.sin(np.pi * n * X[:, 0]) * np.exp(rate(np.pi * n) * X[:, 1]).real
            for a, n in zip(amplitudes, numbers, strict=True)
        )

    def velocity(X):
        return sum(
            a * np.sin(np.pi * n * X[:, 0]) * (rate(np.pi * n) * np.exp(rate(np.pi * n) * X[:, 1])).real
            for a, n in zip(amplitudes, numbers, strict=True)
        )

    return u, velocity


def string(c, T=1.0, amplitudes=(1.0, 0.5), numbers=(2, 5), damping=0.0, mass=0.0):
    """A string between walls: u_tt + damping u_t + mass u = c^2 u_xx, with its solution."""

    def rate(k):
        return -damping / 2 + 1j * np.sqrt(c**2 * k**2 + mass - damping**2 / 4)

    u, velocity = standing(amplitudes, numbers, rate)
    operator = {(0, 2): 1.0, (2, 0): -(c**2), (0, 1): damping, (0, 0): mass}
    return PDE(Box([(0, 1), (0, T)]), operator, 0.0, [Initial(u, velocity), FIXED]), u


def test_time_is_where_the_initial_data_are():
    pde = string(3.0)[0]
    assert time_dimension(pde) == 1
    first = PDE(Box([(0, 1), (0, 1)]), {(1, 0): 1.0, (0, 1): 2.0}, 0.0, [Initial(1.0, dim=0), Periodic(1)])
    assert time_dimension(first) == 0
    assert time_dimension(PDE(Box([(0, 1)]), {2: 1.0}, 0.0, [Dirichlet(0.0)])) is None


def test_rates_are_the_roots_of_the_symbol():
    K, X = np.array([[3.0, 0.0]]), np.zeros((1, 2))
    telegraph = string(7.0, damping=2.0, mass=5.0)[0]
    s = symbol_eigenvalues(telegraph, K, X, 1)[0]
    assert_allclose(s**2 + 2 * s + 5 + 49 * 9, 0, atol=1e-10)
    assert_allclose(np.sort(s.imag), [-np.sqrt(445.0), np.sqrt(445.0)], rtol=1e-12)
    schroedinger = PDE(
        Box([(0, 1), (0, 1)]),
        [{"a": {(0, 1): 1.0}, "b": {(2, 0): 0.5}}, {"b": {(0, 1): 1.0}, "a": {(2, 0): -0.5}}],
        0.0,
        [Initial(1.0), Periodic(0)],
        unknowns=("a", "b"),
    )
    s = symbol_eigenvalues(schroedinger, K, X, 1)[0]
    assert_allclose(np.sort(s.imag), [-4.5, 4.5], rtol=1e-12)
    assert_allclose(s.real, 0, atol=1e-12)


def test_an_algebraic_constraint_has_no_rate():
    constrained = PDE(
        Box([(0, 1), (0, 1)]),
        [{"a": {(0, 1): 1.0}, "b": {(1, 0): 1.0}}, {"b": {(0, 0): 1.0}, "a": {(1, 0): -1.0}}],
        0.0,
        [Initial(1.0), Periodic(0)],
        unknowns=("a", "b"),
    )  # a_t + b_x = 0 with b = a_x: backward heat
    s = symbol_eigenvalues(constrained, np.array([[2.0, 0.0]]), np.zeros((1, 2)), 1)
    assert_allclose(s[np.isfinite(s)], [4.0], rtol=1e-12)


def test_modes_of_the_data_tell_the_frequencies_in_time():
    pde, _ = string(20.0)
    content = time_content(pde, np.random.default_rng(0))
    assert content.complete
    strong = content.rates[content.weights > 1e-8]
    assert_allclose(np.unique(np.abs(strong.imag).round(6)), np.round([40 * np.pi, 100 * np.pi], 6))
    needs = axis_needs(pde, 1, np.random.default_rng(0))
    assert_allclose(sorted(needs.omega), [40 * np.pi, 100 * np.pi], rtol=1e-12)
    assert needs.count() < 60


def test_what_lies_below_the_accuracy_of_the_data_is_no_mode():
    def u0(X):
        return np.sin(2 * np.pi * X[:, 0]) + 1e-7 * np.sin(40 * np.pi * X[:, 0])

    def content(accuracy):
        handed = type("Handed", (), {"__call__": staticmethod(u0), "accuracy": accuracy})()
        pde = PDE(Box([(0, 1), (0, 1)]), {(0, 2): 1.0, (2, 0): -1.0}, 0.0, [Initial(handed, 0.0), FIXED])
        return time_content(pde, np.random.default_rng(0)).frequency

    assert content(0.0) == pytest.approx(40 * np.pi)
    assert content(1e-5) == pytest.approx(2 * np.pi)


def test_a_velocity_counts_by_what_it_makes_of_u():
    def fast(X):
        return 1e-12 * np.sin(40 * np.pi * X[:, 0])  # over 800 pi it is 4e-16 of u

    initial = Initial(lambda X: np.sin(2 * np.pi * X[:, 0]), fast)
    pde = PDE(Box([(0, 1), (0, 1)]), {(0, 2): 1.0, (2, 0): -400.0}, 0.0, [initial, FIXED])
    assert time_content(pde, np.random.default_rng(0)).frequency == pytest.approx(40 * np.pi)


def test_where_modes_do_not_decay_the_band_bounds_the_frequency():
    def u(X):
        return np.exp(X[:, 0] - 3.0 * X[:, 1]) * (1 + X[:, 0])

    pde = PDE(Box([(0, 1), (0, 1)]), {(0, 1): 1.0, (1, 0): 3.0}, 0.0, [Initial(u), Dirichlet(u, where=(0, "lower"))])
    content = time_content(pde, np.random.default_rng(0))
    assert not content.complete
    assert 3.0 < content.frequency < 200.0


CASES = {
    "fast string": string(100.0),
    "four modes": string(30.0, amplitudes=(1.0, 0.5, 0.3, 0.1), numbers=(2, 3, 7, 11)),
    "damped": string(30.0, T=1.5, damping=2.0),
    "with mass": string(30.0, T=1.5, mass=400.0),
}


@pytest.mark.parametrize("name", CASES)
def test_strings_are_solved_to_ten_digits_with_a_true_certificate(name):
    pde, u = CASES[name]
    solution = solve_pde(pde)
    error = relative_error(solution, u)
    assert solution.status == "converged"
    assert error < 2e-10
    assert error <= 10 * solution.error_estimate


def test_damped_carriers_get_the_envelope_that_their_decay_asks_for():
    light, heavy = (axis_needs(string(30.0, damping=g)[0], 1, np.random.default_rng(0)) for g in (0.01, 8.0))
    assert light.omega
    assert heavy.omega
    assert max(heavy.n_envelope) >= max(light.n_envelope) + 5


def test_advection_of_the_benchmark_from_causal_data():
    def u(X):
        return np.sin(X[:, 0] - 200 * X[:, 1])

    for L in (1.0, 2 * np.pi):
        conditions = [Initial(u), Dirichlet(u, where=(0, "lower"))]
        solution = solve_pde(PDE(Box([(0, L), (0, L)]), {(0, 1): 1.0, (1, 0): 200.0}, 0.0, conditions))
        assert solution.status == "converged"
        assert relative_error(solution, u) < 1e-11
        assert solution.report["n_features"] < 1500


def test_waves_that_meet_no_end_condition_by_themselves():
    c = 20.0

    def u(X):
        return np.sin(11.3 * (X[:, 0] - c * X[:, 1])) + 0.4 * np.cos(5.7 * (X[:, 0] + c * X[:, 1]) + 1)

    def velocity(X):
        return -11.3 * c * np.cos(11.3 * (X[:, 0] - c * X[:, 1])) - 0.4 * 5.7 * c * np.sin(
            5.7 * (X[:, 0] + c * X[:, 1]) + 1
        )

    pde = PDE(
        Box([(0, 1), (0, 1)]),
        {(0, 2): 1.0, (2, 0): -(c**2)},
        0.0,
        [Initial(u, velocity), Dirichlet(u, where=WALLS)],
    )
    solution = solve_pde(pde)
    error = relative_error(solution, u)
    assert solution.status == "converged"
    assert error < 1e-9
    assert error <= 10 * solution.error_estimate


def test_a_force_sets_off_modes_that_are_in_no_initial_data():
    c, n = 30.0, 3 * np.pi

    def u(X):
        return np.sin(n * X[:, 0]) * (np.sin(5 * X[:, 1]) - 5 / (n * c) * np.sin(n * c * X[:, 1]))

    def force(X):
        return np.sin(n * X[:, 0]) * np.sin(5 * X[:, 1]) * (n**2 * c**2 - 25)

    pde = PDE(Box([(0, 1), (0, 1)]), {(0, 2): 1.0, (2, 0): -(c**2)}, force, [Initial(0.0, 0.0), FIXED])
    solution = solve_pde(pde)
    assert solution.status == "converged"
    assert relative_error(solution, u) < 1e-11


def test_heat_between_insulated_walls_and_dispersion_on_a_ring():
    def heat(X):
        return 1 + np.exp(-0.02 * 49 * np.pi**2 * X[:, 1]) * np.cos(7 * np.pi * X[:, 0])

    def airy(X):
        return np.sin(3 * X[:, 0] + 27 * X[:, 1]) + 0.2 * np.cos(5 * X[:, 0] + 125 * X[:, 1])

    insulated = PDE(
        Box([(0, 1), (0, 3)]), {(0, 1): 1.0, (2, 0): -0.02}, 0.0, [Initial(heat), Neumann(0.0, where=WALLS)]
    )
    ring = PDE(Box([(0, 2 * np.pi), (0, 2)]), {(0, 1): 1.0, (3, 0): 1.0}, 0.0, [Initial(airy), Periodic(0)])
    for pde, u in ((insulated, heat), (ring, airy)):
        solution = solve_pde(pde)
        assert solution.status == "converged"
        assert relative_error(solution, u) < 1e-10


def test_a_membrane_in_two_plus_one_dimensions():
    omega = 10 * np.sqrt(13) * np.pi

    def u(X):
        return np.sin(2 * np.pi * X[:, 0]) * np.sin(3 * np.pi * X[:, 1]) * np.cos(omega * X[:, 2])

    walls = Dirichlet(0.0, where=[*WALLS, (1, "lower"), (1, "upper")])
    pde = PDE(Box([(0, 1)] * 3), {(0, 0, 2): 1.0, (2, 0, 0): -100.0, (0, 2, 0): -100.0}, 0.0, [Initial(u, 0.0), walls])
    solution = solve_pde(pde)
    assert solution.status == "converged"
    assert relative_error(solution, u) < 1e-11
    assert solution.report["n_features"] < 40_000


def test_what_is_conserved_is_read_off_the_operator():
    pde, _ = string(3.0)
    assert conserved(pde) == {"mass": False, "norm": False, "energy": True}
    assert not any(conserved(string(3.0, damping=1.0)[0]).values())

    def ring(operator):
        return PDE(Box([(0, 1), (0, 1)]), operator, 0.0, [Initial(1.0), Periodic(0)])

    assert conserved(ring({(0, 1): 1.0, (1, 0): 2.0})) == {"mass": True, "norm": True, "energy": False}
    assert conserved(ring({(0, 1): 1.0, (2, 0): -1.0})) == {"mass": True, "norm": False, "energy": False}
    assert not any(conserved(ring({(0, 1): 1.0, (1, 0): 2.0, (0, 0): 1.0})).values())
    forced = dataclasses.replace(ring({(0, 1): 1.0, (1, 0): 2.0}), source=1.0)
    assert not any(conserved(forced).values())
    cold = PDE(Box([(0, 1), (0, 1)]), {(0, 1): 1.0, (2, 0): -1.0}, 0.0, [Initial(0.0), FIXED])
    assert not any(conserved(cold).values())


def test_drift_measures_what_changes_and_only_that():
    class Known:
        """A posterior that is a known function."""

        def __init__(self, function):
            import torch

            self.function, self.theta = function, torch.zeros(1)
            self.basis = type("Basis", (), {"max_frequency": np.array([20.0, 20.0])})()

        def apply(self, X, terms):
            (index,) = terms
            return self.function(X, index)

    def decaying(X, index):  # a standing wave whose energy falls as exp(-2 g t)
        import torch

        x, t, g = np.pi * X[:, 0], np.pi * X[:, 1], 0.01
        fall = torch.exp(-g * X[:, 1])
        if index == (0, 1):
            return -np.pi * torch.sin(x) * torch.sin(t) * fall
        if index == (1, 0):
            return np.pi * torch.cos(x) * torch.cos(t) * fall
        return torch.sin(x) * torch.cos(t) * fall

    pde, _ = string(1.0)
    out = drift(pde, Known(decaying), np.linspace(0, 1, 5))
    assert out["mass"] is None
    assert out["norm"] is None
    assert out["energy"] == pytest.approx(1 - np.exp(-0.02), rel=1e-6)
