"""Coordinates in the tangent space are as long as the distance, and lead back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import METRICS, from_tangent, spd_distance, tangent_coordinates, unvech, vech

SMOOTH = ("bw", "airm", "logeuclid", "logchol", "euclid")


def spd(n, cond, rng, complex_=False):
    G = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_ else 0)
    Q = np.linalg.qr(G)[0]
    A = (Q * np.logspace(0, -np.log10(cond), n)) @ Q.conj().T
    return (A + A.conj().T) / 2


# ---------------------------------------------------------------- vectors


@pytest.mark.parametrize("complex_", [False, True])
def test_vech_keeps_lengths_and_products_and_leads_back(backend, rng, complex_):
    A, B = (np.stack([spd(4, 10, rng, complex_) for _ in range(3)]) for _ in range(2))
    a, b = (backend.numpy(vech(backend.array(X))) for X in (A, B))
    assert a.shape == (3, 16 if complex_ else 10)
    assert_allclose((a * b).sum(-1), np.einsum("bij,bji->b", A, B).real, rtol=1e-13)
    assert_allclose(backend.numpy(unvech(backend.array(a), hermitian=complex_)), A, atol=1e-15)


def test_the_order_of_vech_is_that_of_the_rows():
    S = np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    root = np.sqrt(2)
    assert_allclose(vech(S), [1, 2 * root, 3 * root, 4, 5 * root, 6], rtol=1e-15)


def test_lengths_of_no_matrix_are_refused():
    with pytest.raises(InvalidInputError, match=r"z must hold n \(n \+ 1\) / 2 .*\(4,\)"):
        unvech(np.ones(4))
    with pytest.raises(InvalidInputError, match=r"z must hold n n .*\(3,\)"):
        unvech(np.ones(3), hermitian=True)
    with pytest.raises(InvalidInputError, match="complex numbers"):
        unvech(np.ones(3) * 1j)
    with pytest.raises(InvalidInputError, match="S must be square"):
        vech(np.ones((2, 3)))


# ---------------------------------------------------------------- isometry


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("basis", ["eig", "channel"])
@pytest.mark.parametrize("theta", [1.0, 0.5, -1.0])
@pytest.mark.parametrize("metric", METRICS)
def test_lengths_are_distances_and_the_way_back_is_exact(metric, theta, basis, complex_, rng):
    X, center = np.stack([spd(4, 1e2, rng, complex_) for _ in range(3)]), spd(4, 1e2, rng, complex_)
    options = {"metric": metric, "theta": theta, "M": spd(4, 10, rng, complex_) if metric == "gbw" else None}
    z = tangent_coordinates(X, center, basis=basis, **options)
    assert_allclose(np.linalg.norm(z, axis=-1), spd_distance(center, X, **options), rtol=1e-11)
    assert_allclose(from_tangent(z, center, basis=basis, **options), X, rtol=0, atol=1e-10)
    assert_allclose(from_tangent(0 * z, center, basis=basis, **options), np.broadcast_to(center, X.shape), atol=1e-11)


@pytest.mark.parametrize("metric", ["bw", "airm", "logeuclid", "logchol", "euclid"])
@pytest.mark.parametrize("cond", [1e6, 1e12])
def test_lengths_are_distances_at_high_condition_near_and_far(metric, cond, rng):
    center, far = spd(8, cond, rng), spd(8, cond, rng)
    L, S = np.linalg.cholesky(center), rng.standard_normal((8, 8))
    near = [L @ (np.eye(8) + e * (S + S.T)) @ L.T for e in (1e-2, 1e-5)]
    X = np.stack([far, *near, (1 + 1e-3) ** 2 * center])
    X = (X + X.swapaxes(-1, -2)) / 2
    z = tangent_coordinates(X, center, metric=metric)
    assert_allclose(np.linalg.norm(z, axis=-1), spd_distance(center, X, metric=metric), rtol=1e-10)


def test_singular_matrices_have_coordinates_in_the_transport_geometry(rng):
    G = rng.standard_normal((5, 4, 2))
    X, center = G @ G.swapaxes(-1, -2), spd(4, 1e6, rng)
    z = tangent_coordinates(X, center, metric="bw")
    assert_allclose(np.linalg.norm(z, axis=-1), spd_distance(center, X), rtol=1e-12)
    assert_allclose(from_tangent(z, center, metric="bw"), X, atol=1e-12)


def test_a_kernel_that_all_share_is_no_obstacle(rng):
    X, center = np.zeros((2, 4, 4)), np.zeros((4, 4))
    X[:, :3, :3], center[:3, :3] = [spd(3, 10, rng), spd(3, 10, rng)], spd(3, 10, rng)
    z = tangent_coordinates(X, center, metric="bw")
    assert_allclose(np.linalg.norm(z, axis=-1), spd_distance(center, X), rtol=1e-13)
    assert_allclose(from_tangent(z, center, metric="bw"), X, atol=1e-14)


def test_the_formula_with_the_transport_map(rng):
    # z_ij = sqrt((b_i + b_j) / 2) (U' (T - I) U)_ij; T between diagonal matrices is known.
    b, x = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    z = tangent_coordinates(np.diag(x), np.diag(b), metric="bw")
    assert_allclose(z, vech(np.diag(np.sqrt(x) - np.sqrt(b))), atol=1e-14)


@given(st.integers(-40, 40), st.integers(0, 2**32 - 1))
def test_units_do_not_matter(k, seed):
    rng = np.random.default_rng(seed)
    X, center = spd(4, 1e3, rng), spd(4, 1e3, rng)
    for metric, factor in (("bw", 2.0**k), ("airm", 1.0), ("logeuclid", 1.0), ("euclid", 4.0**k)):
        z = tangent_coordinates(X, center, metric=metric)
        scaled = tangent_coordinates(4.0**k * X, 4.0**k * center, metric=metric)
        assert_allclose(scaled, factor * z, rtol=1e-10, atol=1e-10 * factor)


def test_turning_the_frame_turns_the_channel_coordinates_and_leaves_the_others(rng):
    X, center = spd(4, 1e2, rng), spd(4, 1e2, rng)
    Q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    turn = lambda A: (Q @ A @ Q.T + (Q @ A @ Q.T).T) / 2  # noqa: E731
    for metric in ("bw", "airm", "logeuclid", "euclid"):
        z = tangent_coordinates(X, center, metric=metric, basis="channel")
        turned = tangent_coordinates(turn(X), turn(center), metric=metric, basis="channel")
        assert_allclose(unvech(turned), turn(unvech(z)), atol=1e-11)
        # In the eigenbasis only signs of eigenvectors are left free.
        first = tangent_coordinates(X, center, metric=metric)
        again = tangent_coordinates(turn(X), turn(center), metric=metric)
        assert_allclose(np.abs(first), np.abs(again), atol=1e-11)


def test_signs_of_eigenvectors_do_not_leak(monkeypatch, rng):
    X, center = spd(4, 1e2, rng), spd(4, 1e2, rng)
    before = tangent_coordinates(X, center, metric="bw")
    from sciml.linalg.spd import tangent

    plain = tangent.eigh_symmetric

    def flipped(A):
        b, U = plain(A)
        return b, U * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=U.dtype)

    monkeypatch.setattr(tangent, "eigh_symmetric", flipped)
    assert_allclose(tangent_coordinates(X, center, metric="bw"), before, atol=1e-14)


# ---------------------------------------------------------------- gradients, kinds, bad input


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("metric", SMOOTH)
@pytest.mark.parametrize("case", ["ordinary", "equal", "identity"])
def test_gradients_are_exact(metric, case, complex_, rng):
    X, center = (torch.from_numpy(spd(3, 20, rng, complex_)) for _ in range(2))
    center = {"ordinary": center, "equal": X.clone(), "identity": torch.eye(3, dtype=X.dtype)}[case]
    X = torch.stack([X, center]).requires_grad_()
    function = lambda X: tangent_coordinates((X + X.mH) / 2, center, metric=metric)  # noqa: E731
    assert torch.autograd.gradcheck(function, (X,), eps=1e-6, atol=1e-6)
    z = function(X).detach().requires_grad_()
    back = lambda z: torch.view_as_real(from_tangent(z, center, metric=metric).to(torch.complex128))  # noqa: E731
    assert torch.autograd.gradcheck(back, (z,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", ["bw", "airm"])
def test_a_second_derivative_is_refused(metric):
    X = torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64)).requires_grad_()
    z = tangent_coordinates(X, torch.eye(2, dtype=torch.float64), metric=metric)
    (first,) = torch.autograd.grad(z.sum(), X, create_graph=True)
    with pytest.raises(InvalidInputError, match="second derivative of tangent coordinates"):
        first.sum().backward()


def test_kinds_and_dtypes_stay(backend, rng):
    X, center = (spd(3, 10, rng).astype(np.float32) for _ in range(2))
    z = backend.numpy(tangent_coordinates(backend.array(X), backend.array(center)))
    assert z.dtype == np.float32
    assert_allclose(z, tangent_coordinates(X.astype(float), center.astype(float)), atol=1e-5)
    back = backend.numpy(from_tangent(backend.array(z), backend.array(center)))
    assert back.dtype == np.float32
    assert_allclose(back, X, atol=1e-5)


def test_one_by_one_matrices():
    assert_allclose(tangent_coordinates([[9.0]], [[4.0]], metric="bw"), [1.0], rtol=1e-14)
    assert_allclose(tangent_coordinates([[9.0]], [[4.0]]), [np.log(9 / 4)], rtol=1e-14)


def test_vectors_beyond_the_range_of_the_exponential_are_refused():
    with pytest.raises(NotPositiveDefiniteError, match="number 1 of I .*-1.*leaves the range"):
        from_tangent(np.array([[0.0, 0, 0], [-2.0, 0, 0]]), np.eye(2), metric="bw")


@pytest.mark.parametrize(
    ("X", "center", "options", "text"),
    [
        (np.eye(2), np.stack([np.eye(2)] * 2), {}, r"reference must be one matrix .*\(2, 2, 2\)"),
        (np.eye(3), np.eye(2), {}, "X and reference must hold matrices of one size"),
        (np.eye(2), np.diag([1.0, 0.0]), {}, "reference must be positive definite"),
        (np.ones((2, 2)), np.eye(2), {}, 'X must be positive definite.*metric="bw"'),
        (np.eye(2), np.eye(2), {"basis": "pca"}, "basis must be one of 'eig', 'channel'; got 'pca'"),
        (np.eye(2), torch.eye(2, requires_grad=True), {}, "reference must not ask for a gradient"),
    ],
)
def test_bad_input_is_named(X, center, options, text):
    with pytest.raises(InvalidInputError, match=text):
        tangent_coordinates(X, center, **options)


def test_coordinates_of_another_size_are_refused():
    with pytest.raises(InvalidInputError, match="z must hold coordinates of matrices with 3 rows; got 3 numbers"):
        from_tangent(np.ones(3), np.eye(3))


def test_the_zero_vector_is_the_reference_itself():
    assert_array_equal(tangent_coordinates(np.eye(3), np.eye(3), metric="bw"), np.zeros(6))
