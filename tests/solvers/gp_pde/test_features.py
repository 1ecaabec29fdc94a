"""Claims about the features: their derivatives are derivatives, and each axis is orthonormal."""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev, legendre
from numpy.testing import assert_allclose, assert_array_equal

from sciml.solvers.gp_pde.features import (
    AxisBasis,
    JointBasis,
    ProductBasis,
    chebyshev_derivatives,
    gauss_legendre,
    legendre_derivatives,
    total_degree,
)

JOINT = JointBasis((-1.0, 2.0), (1.5, 3.0), np.array([[11.0, -3.0], [0.0, 17.0]]), (5, 3), (3, 2))
PLAIN = AxisBasis(0.0, 2.0, (), 24, ())
CARRIER = AxisBasis(-1.0, 3.0, (40.0,), 12, (6,))
# 24 polynomials nearly hold a tone of three periods under 12 terms each: many directions cancel.
REDUNDANT = AxisBasis(0.0, 2.0, (9.0, 12.0), 24, (12, 12))
PERIODIC = AxisBasis(0.5, 3.0, (), 7, (), True)
AXES = {"plain": PLAIN, "carrier": CARRIER, "redundant": REDUNDANT, "periodic": PERIODIC}


def tensor(values):
    return torch.as_tensor(np.asarray(values, float))


def inside(basis, n, rng):
    lower, upper = np.array(basis.lower), np.array(basis.upper)
    return tensor(lower + (upper - lower) * rng.random((n, len(lower))))


def automatic(function, X, alpha):
    """Differentiate every column of function(X) by autograd, one order after the other; (n, P)."""
    X = X.clone().requires_grad_(True)
    columns = []
    for column in function(X).T:
        for dim, order in enumerate(alpha):
            for _ in range(order):
                if column.grad_fn is not None:
                    (slope,) = torch.autograd.grad(column.sum(), X, create_graph=True, allow_unused=True)
                    column = torch.zeros_like(column) if slope is None else slope[:, dim]
        columns.append(column.detach())
    return torch.stack(columns, dim=1)


# ---------------------------------------------------------------- recurrences


@pytest.mark.parametrize("order", range(5))
def test_chebyshev_polynomials_and_their_derivatives(order):
    xi = np.linspace(-1, 1, 23)
    got = chebyshev_derivatives(tensor(xi), 9, 4)[order].numpy()
    wanted = np.stack([chebyshev.chebval(xi, chebyshev.chebder(row, order)) for row in np.eye(9)], axis=1)
    assert got.shape == (23, 9)
    assert_allclose(got, wanted, rtol=0, atol=1e-12 * max(1.0, abs(wanted).max()))


@pytest.mark.parametrize("order", range(4))
def test_legendre_polynomials_have_norm_one_and_the_right_derivatives(order):
    xi = np.linspace(-1, 1, 23)
    got = legendre_derivatives(tensor(xi), 9, 3)[order].numpy()
    rows = np.diag(np.sqrt(np.arange(9) + 0.5))
    wanted = np.stack([legendre.legval(xi, legendre.legder(row, order)) for row in rows], axis=1)
    assert_allclose(got, wanted, rtol=0, atol=1e-12 * max(1.0, abs(wanted).max()))


@pytest.mark.parametrize("family", [chebyshev_derivatives, legendre_derivatives])
@pytest.mark.parametrize("n_terms", [1, 2])
def test_one_and_two_polynomials_are_a_family_too(family, n_terms):
    values, slopes = family(tensor([0.25, -0.5]), n_terms, 1)
    assert values.shape == slopes.shape == (2, n_terms)
    assert_array_equal(slopes[:, 0], [0, 0])


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_gauss_quadrature_is_exact_to_degree_2n_minus_1(n):
    nodes, weights = gauss_legendre(n)
    assert len(nodes) == len(weights) == n
    assert_allclose(weights @ nodes ** (2 * n - 2), 2 / (2 * n - 1), rtol=1e-12)
    assert_allclose(weights.sum(), 2, rtol=1e-14)
    assert gauss_legendre(n)[0] is nodes  # kept


# ---------------------------------------------------------------- total degree


@pytest.mark.parametrize(("m", "d"), [(1, 3), (4, 1), (6, 2), (5, 3)])
def test_a_total_degree_set_has_binomially_many_members(m, d):
    index = total_degree((m,) * d)
    assert len(index) == math.comb(m + d - 1, d)
    assert index.sum(axis=1).max() == m - 1


def test_a_stretched_total_degree_set_reaches_each_axis_as_asked():
    index = {tuple(k) for k in total_degree((6, 3)).tolist()}
    assert {(5, 0), (0, 2), (3, 1), (1, 2)} <= index
    assert not {(6, 0), (0, 3), (4, 1), (2, 2)} & index  # these lie on or beyond k0 / 6 + k1 / 3 = 1


# ---------------------------------------------------------------- frequency vectors under envelopes


@pytest.mark.parametrize("alpha", [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (2, 1), (0, 3)])
def test_joint_derivatives_are_those_of_autograd(alpha, rng):
    X = inside(JOINT, 6, rng)
    wanted = automatic(lambda Z: JOINT.evaluate(Z, (0, 0)), X, alpha)
    assert wanted.shape == (6, JOINT.n_features)
    assert_allclose(JOINT.evaluate(X, alpha), wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))


@pytest.mark.parametrize("order", range(6))
def test_a_bare_carrier_turns_through_its_derivatives(order):
    basis = JointBasis((0.0,), (2.0,), np.array([[30.0]]), (1,), (1,))
    x = np.linspace(0, 2, 11)
    wanted = 30.0**order * np.cos(30 * (x - 1)[:, None] + np.array([0, -np.pi / 2]) + order * np.pi / 2)
    got = basis.evaluate(tensor(x[:, None]), (order,))
    assert_allclose(got[:, 1:], wanted, rtol=0, atol=1e-13 * 30.0**order)
    assert_array_equal(got[:, 0], np.full(11, float(order == 0)))


def test_features_are_counted_and_lie_in_order():
    assert JOINT.n_features == len(total_degree((5, 3))) + 2 * (6 + 3)
    assert JOINT.evaluate(tensor([[0.0, 2.5]]), (0, 0)).shape == (1, JOINT.n_features)
    centre = JOINT.evaluate(tensor([[0.25, 2.5]]), (0, 0))[0]
    at = len(total_degree((5, 3)))
    assert centre[at] == 1  # cosines about the centre come before the sines
    assert_array_equal(centre[at + 6 : at + 12], np.zeros(6))


def test_the_largest_frequency_counts_carrier_and_envelope():
    # half widths 1.25 and 0.5
    assert_allclose(
        JOINT.max_frequency, [max(4 / 1.25, 11 + 2 / 1.25, 1 / 1.25), max(2 / 0.5, 3 + 2 / 0.5, 17 + 1 / 0.5)]
    )


def test_enriching_keeps_the_carriers_and_adds_terms():
    richer = JOINT.enriched(4, 2)
    assert richer.n_base == (9, 7)
    assert richer.n_envelope == (5, 4)
    assert_array_equal(richer.omega, JOINT.omega)
    axis = CARRIER.enriched(4, 2)
    assert (axis.omega, axis.n_base, axis.n_envelope) == ((40.0,), 16, (8,))
    assert ProductBasis((PLAIN, CARRIER)).enriched(1, 1).axes[1].n_base == 13


# ---------------------------------------------------------------- one axis


@pytest.mark.parametrize("name", AXES)
def test_an_axis_is_orthonormal(name):
    axis = AXES[name]
    x, weights = axis.quadrature(1.6)  # not the nodes that made it so
    U = axis.evaluate(tensor(x), 0).numpy()
    # sigma / cut directions carry eps / 1e-10; Legendre coordinates remove most of it
    assert_allclose((U.T * weights) @ U, np.eye(axis.n_features), rtol=0, atol=1e-11)
    assert weights.sum() == pytest.approx(axis.upper - axis.lower, rel=1e-13)


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_axis_derivatives_are_those_of_autograd(name, order, rng):
    axis = AXES[name]
    x = tensor(axis.lower + (axis.upper - axis.lower) * rng.random(5))
    wanted = automatic(lambda Z: axis.evaluate(Z[:, 0], 0), x[:, None], (order,))
    assert_allclose(axis.evaluate(x, order), wanted, rtol=0, atol=1e-11 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    "axis", [REDUNDANT, AxisBasis(0.0, 2.0, (90.0, 94.0), 24, (12, 12)), AxisBasis(0.0, 2.0, (30.0,), 24, (16,))]
)
def test_redundant_features_lose_nothing_of_their_span(axis):
    x, weights = axis.quadrature(1.6)
    U, raw = axis.evaluate(tensor(x), 0).numpy(), axis._evaluate_raw(tensor(x), 0).numpy()
    assert axis.n_features < raw.shape[1]
    # directions below 1e-10 of the largest are dropped; raw features are of size one
    assert_allclose(U @ (U.T @ (weights[:, None] * raw)), raw, rtol=0, atol=1e-9)


def test_a_periodic_axis_holds_the_harmonics_of_its_interval():
    ends = tensor([0.5, 3.0])
    for order in range(4):
        low, high = PERIODIC.evaluate(ends, order)
        assert_allclose(low, high, rtol=0, atol=1e-12 * PERIODIC.max_frequency**order)
    assert PERIODIC.n_features == 13
    assert PERIODIC.max_frequency == pytest.approx(2 * np.pi * 6 / 2.5)
    x, weights = PERIODIC.quadrature()
    f = np.cos(PERIODIC.max_frequency * x + 0.3)
    U = PERIODIC.evaluate(tensor(x), 0).numpy()
    assert_allclose(U @ (U.T @ (weights * f)), f, rtol=0, atol=1e-13)


def test_the_units_of_x_change_an_axis_by_a_factor_only(rng):
    t = rng.random(9)
    for name, axis in AXES.items():
        k = 2.0**20
        scaled = AxisBasis(
            axis.lower * k,
            axis.upper * k,
            tuple(w / k for w in axis.omega),
            axis.n_base,
            axis.n_envelope,
            axis.periodic,
        )
        x = axis.lower + (axis.upper - axis.lower) * t
        wanted = axis.evaluate(tensor(x), 2).numpy()
        got = scaled.evaluate(tensor(k * x), 2).numpy() * k**2.5
        assert_allclose(got, wanted, rtol=0, atol=1e-9 * abs(wanted).max(), err_msg=name)


# ---------------------------------------------------------------- products of axes


@pytest.mark.parametrize("d", [1, 2, 3])
def test_contract_is_evaluate_times_theta(d, rng):
    basis = ProductBasis((AxisBasis(0.0, 1.0, (25.0,), 4, (2,)), PERIODIC, AxisBasis(2.0, 4.0, (), 5, ()))[:d])
    X, alpha = inside(basis, 7, rng), (2, 1, 0)[:d]
    theta = tensor(rng.standard_normal(basis.n_features))
    matrix = basis.evaluate(X, alpha)
    assert matrix.shape == (7, math.prod(basis.shape))
    wanted = matrix @ theta
    assert_allclose(basis.contract(X, alpha, theta), wanted, rtol=0, atol=1e-13 * float(wanted.abs().max()))


def test_the_last_axis_runs_fastest(rng):
    basis = ProductBasis((PLAIN, PERIODIC))
    X = inside(basis, 3, rng)
    got = basis.evaluate(X, (0, 1)).reshape(3, *basis.shape)
    wanted = PLAIN.evaluate(X[:, 0], 0)[:, :, None] * PERIODIC.evaluate(X[:, 1], 1)[:, None, :]
    assert_array_equal(got, wanted)
    assert_array_equal(basis.max_frequency, [PLAIN.max_frequency, PERIODIC.max_frequency])
    assert (basis.lower, basis.upper) == ((0.0, 0.5), (2.0, 3.0))
