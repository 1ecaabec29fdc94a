"""Claims about the manufactured problems: the source is the operator applied to the solution, whatever the variant."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.problems import NONLINEAR, PROBLEMS, problem

VARIANTS = [{}, {"stretch": 1.7, "frequency_scale": 0.6}]


def highest_frequency(p, X, h):
    """Estimate the highest frequency of the solution: its largest second derivative over its largest first one."""
    rates = []
    for row in h * np.eye(p.dims):
        below, here, above = (p.solution(X + k * row) for k in (-1, 0, 1))
        rates.append(np.abs(above - 2 * here + below).max() / np.abs(above - below).max() * 2 / h)
    return max(rates)


def differences(u, X, index, h):
    """Central differences of eighth order for a pure derivative of order one or two."""
    axis, order = next((axis, order) for axis, order in enumerate(index) if order)
    first = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    second = {0: -205 / 72, 1: 8 / 5, 2: -1 / 5, 3: 8 / 315, 4: -1 / 560}
    row = h * np.eye(X.shape[1])[axis]
    if order == 1:
        return sum(c * (u(X + k * row) - u(X - k * row)) for k, c in first.items()) / h
    pairs = sum(c * (u(X + k * row) + u(X - k * row)) for k, c in second.items() if k)
    return (second[0] * u(X) + pairs) / h**2


@pytest.mark.parametrize("options", VARIANTS, ids=["published", "variant"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_source_is_the_operator_of_the_solution(name, options, rng):
    p = problem(name, **options)
    X = p.random_points(200, rng)
    h = 0.05 / highest_frequency(p, X, 1e-5)
    terms = [value * differences(p.solution, X, index, h) for index, value in p.operator.items()]
    # Eighth order with h w = 0.05 leaves 1e-13 of a term, rounding 1e-16 / 0.05^2; more where w is underestimated.
    scale = max(np.abs(term).max() for term in terms)
    assert_allclose(sum(terms), p.source(X), rtol=0, atol=1e-9 * scale)
    assert p.source(X).shape == p.solution(X).shape == (len(X),)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_variant_is_longer_and_slower(name):
    plain, other = problem(name), problem(name, stretch=2.0)
    lengths = [np.diff(p.box, axis=1)[:, 0] for p in (plain, other)]
    assert_allclose(lengths[1], 2 * lengths[0], rtol=1e-14)
    X = plain.random_points(1000, np.random.default_rng(0))
    slow, fast = (highest_frequency(problem(name, frequency_scale=s), X, 1e-6) for s in (0.5, 1.0))
    assert 0.4 < slow / fast < 0.6


@pytest.mark.parametrize("name", PROBLEMS)
def test_points_lie_in_the_domain(name, rng):
    p = problem(name)
    lower, upper = np.array(p.box).T
    for X in (p.test_points(), p.random_points(100, rng)):
        assert X.shape[1] == p.dims
        assert (lower <= X).all() and (upper >= X).all()  # noqa: PT018
        assert p.inside is None or p.inside(X).all()
    assert p.error(p.solution(X), X) == 0.0
    assert_allclose(p.error(1.25 * p.solution(X), X), 0.25, rtol=1e-12)


def test_the_star_is_bounded_by_its_boundary():
    p = problem("star")
    assert p.inside(0.999 * p.boundary).all()
    assert not p.inside(1.001 * p.boundary).any()


def test_the_boundary_layer_does_not_overflow_and_is_the_hyperbolic_sine():
    p = problem("boundary-layer", frequency_scale=50.0)
    assert np.isfinite(p.solution(p.test_points())).all()
    p = problem("boundary-layer", frequency_scale=0.03)
    X = p.test_points()
    assert_allclose(p.solution(X), np.sin(3 * X[:, 0]) * np.sinh(3 * (1 - X[:, 1])) / np.sinh(3), rtol=0, atol=1e-14)


def test_p4_has_the_two_fine_scales():
    X = problem("P4").test_points()
    rest = np.sin(X[:, 0]) + 0.1 * np.sin(20 * X[:, 0])
    assert_allclose(problem("P4").solution(X), rest + 0.05 * np.cos(100 * X[:, 0]), rtol=0, atol=1e-14)
    assert_allclose(problem("P4", shift=0.0).solution(X), rest + 0.05 * np.sin(100 * X[:, 0]), rtol=0, atol=1e-14)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="name must be one of P1, .*cube; got 'P6'"):
        problem("P6")


def test_zero_source_problems_are_homogeneous(rng):
    for name in ("P11", "boundary-layer"):
        p = problem(name)
        assert_array_equal(p.source(p.random_points(5, rng)), 0.0)


@pytest.mark.parametrize("options", VARIANTS, ids=["published", "variant"])
@pytest.mark.parametrize("name", NONLINEAR)
def test_the_source_of_a_nonlinear_problem_is_its_left_side(name, options, rng):
    p = NONLINEAR[name](**options)
    X = p.random_points(200, rng)
    h = 0.05 / highest_frequency(p, X, 1e-5)
    terms = [value * differences(p.solution, X, index, h) for index, value in p.operator.items()]
    terms.append(p.term(p.solution(X)))
    assert_allclose(sum(terms), p.source(X), rtol=0, atol=1e-9 * max(np.abs(term).max() for term in terms))
    u = rng.standard_normal(50)
    assert_allclose((p.term(u + 1e-5) - p.term(u - 1e-5)) / 2e-5, p.slope(u), rtol=1e-8, atol=1e-8)


def test_the_grid_of_the_cube_sees_its_fast_wave():
    p = problem("cube")
    X = p.test_points()
    assert np.abs(np.sin(40 * X).prod(axis=1)).max() > 0.9
