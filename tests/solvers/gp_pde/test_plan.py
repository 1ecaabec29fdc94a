"""Claims about the choice of solver and features, and about what samples can and cannot exclude."""

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks.bench_gp_pde import statement
from benchmarks.problems import problem
from sciml.exceptions import InvalidInputError
from sciml.solvers.gp_pde import PDE, Box, Dirichlet
from sciml.solvers.gp_pde.features import JointBasis, ProductBasis
from sciml.solvers.gp_pde.plan import make_plan

LINE, SQUARE = Box([(0, 6.3)]), Box([(0, 6.3)] * 2)
LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}


def plan(pde, **options):
    defaults = {"method": "auto", "frequencies": None, "max_frequency": None, "max_features": 4000}
    return make_plan(pde, rng=np.random.default_rng(0), **{**defaults, **options})


def sampled(X, function, domain=LINE, operator=None):
    return PDE(domain, operator or {2: 1.0}, (X, function(X)), [Dirichlet(0.0)])


def tone(X):
    return np.sin(100 * X[:, 0])


# ---------------------------------------------------------------- which solver


@pytest.mark.parametrize(
    ("name", "solver", "words", "kind"),
    [
        ("P1", "collocation", "one dimension; carriers", JointBasis),
        ("P8", "fast-diagonal", "a box and a separable operator; carriers", ProductBasis),
        ("P11", "fast-diagonal", "a box and a separable operator", ProductBasis),
        ("chirp", "fast-diagonal", r"plain Chebyshev \(carriers would not pay\)", ProductBasis),
        ("star", "collocation", "scattered least squares on any domain; [1-6] carriers", JointBasis),
    ],
)
def test_the_solver_is_chosen_and_the_reason_is_told(name, solver, words, kind):
    made = plan(statement(problem(name)))
    assert made.solver == solver
    assert re.search(words, made.why)
    assert isinstance(made.rungs(0), kind)
    assert made.resolved
    assert made.alias == {"lattice": None, "margin": 0.0}


def test_each_rung_is_richer_until_the_bound():
    made = plan(statement(problem("star")), max_features=1000)
    bases = [made.rungs(level) for level in range(12)]
    sizes = [b.n_features for b in bases if b is not None]
    assert sizes == sorted(set(sizes))
    assert max(sizes) <= 1000
    assert bases[-1] is None


def test_a_product_that_is_too_large_becomes_a_total_degree_set():
    operator = {(2, 0): lambda X: 1 + 0 * X[:, 0], (0, 2): 1.0}
    p = problem("P8", frequency_scale=0.1)
    partly = Dirichlet(p.solution, where=lambda X: X[:, 0] < 10)  # no whole faces: no sum over the axes
    made = plan(PDE(SQUARE, operator, p.source, [Dirichlet(p.solution), partly]), max_features=500)
    assert made.solver == "collocation"
    assert "products of axes need too many features" in made.why
    assert made.rungs(0).n_features <= 500


def test_variable_coefficients_beyond_a_dense_system_are_solved_beside_their_mean():
    operator = {(2, 0): lambda X: 1 + 0 * X[:, 0], (0, 2): 1.0}
    p = problem("P8", frequency_scale=0.1)
    pde = PDE(SQUARE, operator, p.source, [Dirichlet(p.solution)])
    assert plan(pde, max_features=500).solver == "fast-diagonal"
    assert plan(pde, max_features=4000).solver == "collocation"


def test_the_method_and_known_frequencies_are_obeyed():
    pde = statement(problem("P1"))
    assert plan(pde, method="chebyshev").carriers == []
    assert plan(pde, method="chebyshev").rungs(0).n_features > 300
    known = plan(pde, frequencies=np.array([100.0]))
    assert [c["omega"] for c in known.carriers] == [[100.0]]
    star = statement(problem("star"))
    assert plan(star, frequencies=np.array([[30.0, 20.0], [30.0, -20.0]])).rungs(0).omega.tolist() == [
        [30, 20],
        [30, -20],
    ]
    assert plan(star, frequencies=np.array([30.0])).rungs(0).omega.tolist() == [[30, 0], [0, 30]]


def test_the_carriers_that_were_found_are_reported():
    (carrier,) = plan(statement(problem("P1"))).carriers
    assert_allclose(carrier["omega"], [100], rtol=0, atol=0.02)
    assert carrier["weight"] > 0.5
    waves = sorted(plan(statement(problem("star"))).carriers, key=lambda c: -c["weight"])
    assert_allclose(np.abs([c["omega"] for c in waves[:2]]), [[30, 20]] * 2, rtol=0, atol=0.1)


# ---------------------------------------------------------------- samples


def test_random_samples_are_explained_beyond_the_rate_of_a_lattice(rng):
    X = 6.3 * rng.random((100, 1))  # a lattice of 100 points folds at 50
    made = plan(sampled(X, tone))
    assert made.resolved
    assert made.alias == {"lattice": None, "margin": 0.0}
    assert "100 scattered samples of the source; 1 carriers" in made.why
    assert made.rungs(0).n_features < 40


def test_a_lattice_of_samples_is_told(rng):
    X = np.linspace(0, 6.3, 64)[:, None]
    made = plan(sampled(X, tone))
    assert f"lie on a lattice in dimension 0: frequencies above {10 * np.pi:.4g} rad" in made.alias["lattice"]
    shaken = X + 0.02 * rng.standard_normal(X.shape).clip(-1, 1) * [[0.0], *[[1.0]] * 62, [0.0]]
    assert plan(sampled(shaken, tone)).alias["lattice"] is None


def test_a_lattice_in_one_of_two_dimensions_is_told_too(rng):
    X = np.stack([np.repeat(np.linspace(0, 6.3, 20), 20), 6.3 * rng.random(400)], axis=1)
    made = plan(sampled(X, lambda X: np.sin(3 * X[:, 0]) * np.cos(5 * X[:, 1]), SQUARE, LAPLACE))
    assert "dimension 0" in made.alias["lattice"]
    assert "dimension 1" not in made.alias["lattice"]


def test_the_users_word_lifts_the_warning_and_bounds_the_search():
    X = np.linspace(0, 6.3, 400)[:, None]
    made = plan(sampled(X, tone), max_frequency=150.0)
    assert made.alias == {"lattice": None, "margin": 0.0}
    assert_allclose(np.abs(made.carriers[0]["omega"]), [100], rtol=0, atol=0.02)
    assert plan(sampled(X, tone), max_frequency=250.0).alias["lattice"]  # above what 400 points can hold


def test_power_at_the_end_of_the_band_is_measured():
    X = np.linspace(0, 6.3, 200)[:, None]  # folds at 99.2
    near = plan(sampled(X, lambda X: np.sin(95 * X[:, 0])), max_frequency=99.0)
    assert near.alias["margin"] == pytest.approx(1.0, abs=1e-6)
    far = plan(sampled(X, lambda X: np.sin(50 * X[:, 0])), max_frequency=99.0)
    assert far.alias["margin"] < 1e-20


def test_noise_is_not_resolved(rng):
    X = 6.3 * rng.random((100, 1))
    assert not plan(sampled(X, lambda X: rng.standard_normal(len(X)))).resolved
    assert plan(sampled(X, lambda X: np.zeros(len(X)))).resolved


def test_too_few_samples_are_refused():
    X = np.array([[1.0], [2.0], [2.0], [1.0], [3.0]])
    with pytest.raises(InvalidInputError, match="source must hold at least 4 different samples; got 3"):
        plan(sampled(X, tone))


def test_the_basis_never_outgrows_the_samples(rng):
    made = plan(sampled(6.3 * rng.random((30, 1)), tone))
    sizes = [b.n_features for b in map(made.rungs, range(12)) if b is not None]
    assert max(sizes) <= 23  # 30 / 1.3
