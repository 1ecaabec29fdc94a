"""Distances of positive definite matrices: exact answers at tiny separations, and gradients at equality."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import cholesky, eigvalsh, logm, sqrtm

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import (
    affine_invariant_distance,
    bures_distance,
    log_cholesky_distance,
    log_euclidean_distance,
    spd_distance,
)

SMOOTH = ("bw", "airm", "logeuclid", "logchol", "euclid")
FUNCTIONS = {
    "bw": bures_distance,
    "airm": affine_invariant_distance,
    "logeuclid": log_euclidean_distance,
    "logchol": log_cholesky_distance,
}


def rotation(n, rng, complex_=False):
    G = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_ else 0)
    return np.linalg.qr(G)[0]


def spd(n, cond, rng, complex_=False):
    """Return a Hermitian matrix with eigenvalues from 1 to 1 / cond."""
    Q = rotation(n, rng, complex_)
    A = (Q * np.logspace(0, -np.log10(cond), n)) @ Q.conj().T
    return (A + A.conj().T) / 2


def hermitian(X):
    return (X + X.mH) / 2


# ---------------------------------------------------------------- known answers


@pytest.mark.parametrize(
    ("e", "rtol", "conditions"),
    [(1e-3, 1.5e-12, range(2, 13)), (1e-6, 1e-10, range(2, 13)), (1e-9, 1e-4, range(2, 13)), (1e-9, 3e-7, range(2, 9))],
)
def test_bures_between_multiples_is_known_at_every_condition(e, rtol, conditions):
    # What is left is the rounding of the entries of B: eps / e, and more where it moves small eigenvalues.
    seeds, conditions = range(20), 10.0 ** np.array(conditions)
    A = np.stack([[spd(12, cond, np.random.default_rng(seed)) for seed in seeds] for cond in conditions])
    d = bures_distance(A, (1 + e) ** 2 * A)
    assert_allclose(d, e * np.sqrt(np.trace(A, axis1=-2, axis2=-1)), rtol=rtol)


@pytest.mark.parametrize("complex_", [False, True])
def test_bures_between_multiples_of_singular_matrices_is_known(rng, complex_):
    # The rounding of the entries moves the range by eps, hence the distance by eps of the size, not by its root.
    G = rng.standard_normal((20, 6, 3)) + (1j * rng.standard_normal((20, 6, 3)) if complex_ else 0)
    A = G @ G.conj().swapaxes(-1, -2)
    for e in (1e-3, 1e-6, 1e-9):
        B = (1 + e) ** 2 * A
        truth = e * np.sqrt(np.trace(A, axis1=-2, axis2=-1).real)
        assert_allclose(bures_distance(A, B), truth, rtol=1e-13 / e)


def test_close_matrices_keep_their_digits_wherever_they_are(rng):
    # A step H that does not commute with A: B = (I + H) A (I + H), d^2 = tr(H A H), all in long arithmetic.
    for cond in (1e2, 1e6):
        A = spd(6, cond, rng)
        H = 1e-6 * hermitian(torch.from_numpy(rng.standard_normal((6, 6)))).numpy() * np.sqrt(1 / cond)
        wide = A.astype(np.longdouble)
        step = H.astype(np.longdouble)
        B = wide + step @ wide + wide @ step + step @ wide @ step
        truth = np.sqrt(np.trace(step @ wide @ step)).astype(float)
        B = ((B + B.T) / 2).astype(float)
        # eps of the entries over those of B - A, amplified by the root of the condition.
        assert_allclose(bures_distance(A, B), truth, rtol=2e-16 / 1e-6 * cond)


def test_bures_of_commuting_matrices_is_that_of_the_square_roots(rng):
    Q, a, b = rotation(5, rng), rng.uniform(1, 2, 5), rng.uniform(0, 2, 5)
    b[2] = 0
    d = bures_distance((Q * a) @ Q.T, (Q * b) @ Q.T)
    assert_allclose(d, np.linalg.norm(np.sqrt(a) - np.sqrt(b)), rtol=1e-13)


def test_bures_of_vectors_of_rank_one_is_the_distance_up_to_sign(rng):
    u, v = rng.standard_normal((2, 4))
    d = bures_distance(np.outer(u, u), np.outer(v, v))
    assert_allclose(d, min(np.linalg.norm(u - v), np.linalg.norm(u + v)), rtol=1e-12)


def test_bures_from_zero_is_the_root_of_the_trace(rng):
    A = spd(4, 1e3, rng)
    assert_allclose(bures_distance(A, np.zeros((4, 4)), squared=True), np.trace(A), rtol=1e-14)
    assert bures_distance(np.zeros((4, 4)), np.zeros((4, 4))) == 0


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_one_by_one_matrices_have_a_scalar_truth(a, b):
    assert bures_distance([[a]], [[b]]) == pytest.approx(abs(np.sqrt(a) - np.sqrt(b)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("e", [1e-3, 1e-9])
def test_affine_invariant_between_multiples_is_known(rng, e):
    # The entries of B are rounded, which moves log lambda by eps cond.
    for cond in (1e2, 1e6):
        A = spd(8, cond, rng)
        assert_allclose(
            affine_invariant_distance(A, (1 + e) ** 2 * A), 2 * np.log1p(e) * np.sqrt(8), rtol=1e-15 * cond / e
        )


def test_affine_invariant_of_small_exact_differences_keeps_its_digits():
    # The difference is a number of the machine here, so that no digit may be lost at any condition.
    A, B = np.diag([1.0, 2.0**-40]), np.diag([1.0 + 2.0**-30, 2.0**-40 + 2.0**-70])
    assert_allclose(affine_invariant_distance(A, B), np.log1p(2.0**-30) * np.sqrt(2), rtol=1e-14)


@pytest.mark.parametrize("complex_", [False, True])
def test_the_slow_formulas_agree(rng, complex_):
    A, B = spd(5, 1e3, rng, complex_), 3 * spd(5, 1e2, rng, complex_)
    root = sqrtm(A)
    trace = np.trace(A + B - 2 * sqrtm(root @ B @ root)).real
    K, L = cholesky(A, lower=True), cholesky(B, lower=True)
    logs = np.log(np.diag(K).real / np.diag(L).real)
    truth = {
        "bw": np.sqrt(trace),
        "airm": np.linalg.norm(np.log(eigvalsh(B, A))),
        "logeuclid": np.linalg.norm(logm(A) - logm(B)),
        "logchol": np.hypot(np.linalg.norm(np.tril(K - L, -1)), np.linalg.norm(logs)),
        "euclid": np.linalg.norm(A - B),
    }
    for metric, value in truth.items():
        assert_allclose(spd_distance(A, B, metric=metric), value, rtol=1e-11)
        if metric in FUNCTIONS:
            assert_allclose(FUNCTIONS[metric](A, B), value, rtol=1e-11)
            assert_allclose(FUNCTIONS[metric](A, B, squared=True), value**2, rtol=1e-11)


def test_a_matrix_far_from_the_other_keeps_twice_the_digits_of_eigenvalues(rng):
    Q = rotation(3, rng)
    A, B = np.eye(3), Q * np.array([1.0, 1e-6, 1e-12]) @ Q.T
    assert_allclose(affine_invariant_distance(A, (B + B.T) / 2), np.hypot(np.log(1e-6), np.log(1e-12)), rtol=1e-5)


# ---------------------------------------------------------------- invariances


@given(st.integers(-40, 40), st.integers(0, 2**32 - 1))
def test_bures_follows_units_and_turns(k, seed):
    rng = np.random.default_rng(seed)
    A, B, Q = spd(4, 1e4, rng), spd(4, 1e4, rng), rotation(4, rng)
    d = bures_distance(A, B)
    assert_allclose(bures_distance(4.0**k * A, 4.0**k * B), 2.0**k * d, rtol=1e-13)
    turned = [Q @ X @ Q.T for X in (A, B)]
    assert_allclose(bures_distance(*[(X + X.T) / 2 for X in turned]), d, rtol=1e-12)
    assert_allclose(bures_distance(B, A), d, rtol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_affine_invariant_does_not_see_mixtures_of_channels(seed):
    rng = np.random.default_rng(seed)
    A, B, G = spd(4, 1e2, rng), spd(4, 1e2, rng), rotation(4, rng) * 10.0 ** rng.uniform(-6, 6)
    mixed = [G @ X @ G.T for X in (A, B)]
    d = affine_invariant_distance(*[(X + X.T) / 2 for X in mixed])
    assert_allclose(d, affine_invariant_distance(A, B), rtol=1e-11)


def test_deformed_and_generalised_distances(rng):
    A, B, M = spd(4, 1e2, rng), spd(4, 1e2, rng), spd(4, 1e1, rng)
    root = lambda X: np.real(sqrtm(X))  # noqa: E731
    half = np.linalg.inv(root(M))
    near = spd_distance(half @ A @ half, half @ B @ half)
    assert_allclose(spd_distance(A, B, metric="gbw", M=M), near, rtol=1e-12)
    assert_allclose(spd_distance(A, B, theta=0.5), 2 * bures_distance(root(A), root(B)), rtol=1e-11)
    # As theta goes to zero the power deformation becomes half of the log-Euclidean distance.
    assert_allclose(spd_distance(A, B, theta=1e-4), spd_distance(A, B, metric="logeuclid") / 2, rtol=1e-3)
    assert_allclose(spd_distance(A, B, theta=-1), bures_distance(np.linalg.inv(A), np.linalg.inv(B)), rtol=1e-9)
    G = rng.standard_normal((4, 2))
    assert_allclose(
        spd_distance(G @ G.T, 4 * (G @ G.T), theta=0.5),
        2 * (2**0.5 - 1) * np.sqrt(np.linalg.svd(G, compute_uv=False).sum()),
        rtol=1e-12,
    )


# ---------------------------------------------------------------- kinds, batches, dtypes


def test_batches_broadcast_and_kinds_agree(backend, rng):
    A = np.stack([spd(3, 10, rng) for _ in range(4)])
    B = np.stack([spd(3, 10, rng) for _ in range(2)])[:, None]
    for metric in SMOOTH:
        d = backend.numpy(spd_distance(backend.array(A), backend.array(B), metric=metric))
        assert d.shape == (2, 4)
        for i in range(2):
            for j in range(4):
                assert_allclose(d[i, j], spd_distance(A[j], B[i, 0], metric=metric), rtol=1e-13)


def test_lists_numbers_and_empty_batches():
    assert float(bures_distance([[1, 0], [0, 4]], [[4, 0], [0, 4]])) == pytest.approx(1)
    assert isinstance(bures_distance(np.eye(2), np.eye(2)), float)
    assert bures_distance(np.empty((0, 2, 2)), np.eye(2)).shape == (0,)


def test_float32_keeps_its_dtype_and_its_digits(rng):
    A = spd(6, 1e3, rng).astype(np.float32)
    B = (np.float32(1.0201) * A).astype(np.float32)
    d = bures_distance(A, B)
    assert d.dtype == np.float32
    assert_allclose(d, 0.01 * np.sqrt(np.trace(A)), rtol=2e-4)  # eps sqrt(n) / 0.01 and the rounding of 1.0201
    G = rng.standard_normal((6, 3)).astype(np.float32)
    S = G @ G.T
    assert_allclose(bures_distance(S, np.float32(4) * S), np.sqrt(np.trace(S)), rtol=1e-6)
    assert bures_distance(torch.from_numpy(A), torch.from_numpy(B)).dtype == torch.float32
    z = torch.from_numpy(A).to(torch.complex64)
    assert bures_distance(z, z).dtype == torch.float32


# ---------------------------------------------------------------- gradients


def cases():
    rng = np.random.default_rng(3)
    for complex_ in (False, True):
        A, B = (torch.from_numpy(spd(3, 20, rng, complex_)) for _ in range(2))
        eye = torch.eye(3, dtype=A.dtype)
        repeated = eye + 1e-11 * torch.diag(torch.tensor([0.0, 1.0, 0.0], dtype=A.dtype))
        kind = "complex" if complex_ else "real"
        for name, pair in {
            "ordinary": (torch.stack([A, B]), B + A),
            "equal": (A, A.clone()),
            "identity": (eye, eye.clone()),
            "multiple of the identity": (eye, 2 * eye),
            "nearly repeated": (repeated, 3 * eye),
        }.items():
            yield pytest.param(*pair, id=f"{name}, {kind}")


@pytest.mark.parametrize("metric", SMOOTH)
@pytest.mark.parametrize(("A", "B"), list(cases()))
def test_squared_distances_have_exact_gradients(metric, A, B):
    A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
    function = lambda A, B: spd_distance(hermitian(A), hermitian(B), metric=metric).square()  # noqa: E731
    assert torch.autograd.gradcheck(function, (A, B), eps=1e-6, atol=1e-6)


def test_the_gradient_of_bures_is_the_identity_less_the_map(rng):
    A, B = (torch.from_numpy(spd(4, 1e2, rng)).requires_grad_() for _ in range(2))
    bures_distance(A, B, squared=True).backward()
    for P, Q in ((A, B), (B, A)):
        root = np.real(sqrtm(P.detach().numpy()))
        inverse = np.linalg.inv(root)
        T = inverse @ np.real(sqrtm(root @ Q.detach().numpy() @ root)) @ inverse
        assert_allclose(P.grad.numpy(), np.eye(4) - T, atol=1e-12)


def test_the_gradient_of_a_singular_pair_is_that_along_its_range():
    A = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)).requires_grad_()
    B = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)).requires_grad_()
    bures_distance(A, B, squared=True).backward()
    assert_allclose(A.grad.numpy(), np.diag([0.5, 0, 0]), atol=1e-14)
    assert_allclose(B.grad.numpy(), np.diag([-1.0, 0, 0]), atol=1e-14)


@pytest.mark.parametrize("metric", SMOOTH)
def test_at_equality_the_subgradient_zero_is_taken(metric, rng):
    A = torch.from_numpy(spd(3, 10, rng)).requires_grad_()
    spd_distance(A, A.detach(), metric=metric).backward()
    assert_array_equal(A.grad.numpy(), 0)
    assert_array_equal(spd_distance(A.detach(), A.detach(), metric=metric), 0)
    # Nor is there a direction in what is rounding.
    B = A.detach() * (1 + 2.0**-52)
    d = spd_distance(A, B, metric=metric)
    (G,) = torch.autograd.grad(d.square(), A)
    assert_allclose(G.numpy(), 0, atol=1e-13)


@pytest.mark.parametrize("metric", ["bw", "airm"])
def test_a_second_derivative_is_refused(metric):
    A = torch.eye(2, dtype=torch.float64, requires_grad=True)
    d = spd_distance(A, torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64)), metric=metric)
    (first,) = torch.autograd.grad(d, A, create_graph=True)
    with pytest.raises(InvalidInputError, match="second derivative of the distance"):
        first.sum().backward()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("function", [bures_distance, affine_invariant_distance, spd_distance])
@pytest.mark.parametrize(
    ("A", "B", "text"),
    [
        (np.ones((2, 3)), np.eye(2), r"A must be square .*\(2, 3\)"),
        (np.eye(2), np.eye(3), r"one size; got shapes \(2, 2\) and \(3, 3\)"),
        (np.ones((2, 1, 1)), np.ones((3, 1, 1)), "pairwise_distances"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), np.eye(2), "A must be .*ermitian|A must be symmetric"),
        (np.eye(2), np.array([[1.0, np.nan], [np.nan, 1.0]]), r"B must be finite; the entry at index \(0, 1\)"),
        (np.eye(2), "words", "B must"),
    ],
)
def test_bad_arrays_are_named(function, A, B, text):
    with pytest.raises(InvalidInputError, match=text):
        function(A, B)


def test_indefinite_matrices_are_named_with_index_and_value():
    with pytest.raises(NotPositiveDefiniteError, match="number 1 of B has smallest eigenvalue -0.5") as caught:
        bures_distance(np.eye(2), np.stack([np.eye(2), np.diag([1.0, -0.5])]))
    assert caught.value.index == 1
    assert caught.value.smallest == pytest.approx(-0.5)


@pytest.mark.parametrize("metric", ["airm", "logeuclid", "logchol"])
def test_singular_matrices_are_refused_where_they_lie_infinitely_far(metric):
    with pytest.raises(NotPositiveDefiniteError, match=r'number 0 of A .*shrink=1e-3.*metric="bw"'):
        spd_distance(np.ones((1, 2, 2)), np.eye(2), metric=metric)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"theta": 0}, "theta must not be 0"),
        ({"theta": np.nan}, "theta must be a number"),
        ({"metric": "gbw"}, "M must be given with metric='gbw'"),
        ({"metric": "bw", "M": np.eye(2)}, "M must be given with metric='gbw'"),
        ({"metric": "gbw", "M": np.eye(3)}, "M must have 2 rows"),
        ({"metric": "gbw", "M": np.diag([1.0, 0.0])}, "M must be positive definite"),
        ({"metric": "manhattan"}, "metric must be one of"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(InvalidInputError, match=text):
        spd_distance(np.eye(2), np.eye(2), **options)
