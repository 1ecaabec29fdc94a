"""Geodesics and the transport map: end points, constant speed, high condition, singular matrices, gradients."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.linalg import sqrtm

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import (
    METRICS,
    bures_distance,
    bures_exp,
    bures_geodesic,
    bures_log,
    bures_map,
    spd_distance,
    spd_geodesic,
    spd_mean,
)


def batch(count, n, cond, rng, complex_=False):
    G = rng.standard_normal((count, n, n)) + (1j * rng.standard_normal((count, n, n)) if complex_ else 0)
    Q = np.linalg.qr(G)[0]
    A = (Q * np.logspace(0, -np.log10(cond), n)) @ Q.conj().swapaxes(-1, -2)
    return (A + A.conj().swapaxes(-1, -2)) / 2


def hermitian(X):
    return (X + X.mH) / 2


@pytest.mark.parametrize("complex_", [False, True])
def test_the_map_is_that_of_the_textbook_and_carries_one_matrix_to_the_other(complex_, backend, rng):
    P, Q = batch(2, 4, 1e2, rng, complex_)
    T = backend.numpy(bures_map(backend.array(P), backend.array(Q)))
    inverse = np.linalg.inv(sqrtm(P))
    assert_allclose(T, inverse @ sqrtm(sqrtm(P) @ Q @ sqrtm(P)) @ inverse, atol=1e-11)
    assert_allclose(T @ P @ T, Q, atol=1e-13)
    assert_allclose(np.linalg.inv(bures_map(Q, P)), T, atol=1e-10)


@pytest.mark.parametrize("complex_", [False, True])
def test_exponential_and_logarithm_are_inverse_and_isometric(complex_, rng):
    P, Q = batch(2, 4, 1e2, rng, complex_)
    V = bures_log(P, Q)
    assert_allclose(V, (bures_map(P, Q) - np.eye(4)) @ P + P @ (bures_map(P, Q) - np.eye(4)), atol=1e-13)
    assert_allclose(bures_exp(P, V), Q, atol=1e-12)
    # g_P(V, V) = 1/2 tr(L_P[V] V) is the squared distance.
    T = bures_map(P, Q)
    assert_allclose(np.trace((T - np.eye(4)) @ V).real / 2, bures_distance(P, Q, squared=True), rtol=1e-11)


def test_logarithms_between_close_matrices_keep_their_digits(rng):
    P = batch(1, 6, 1e12, rng)[0]
    for e in (1e-3, 1e-9):
        # Log_P (1 + e)^2 P = 2 e P; the rounding of the entries of Q is eps / e of it.
        assert_allclose(bures_log(P, (1 + e) ** 2 * P), 2 * e * P, rtol=0, atol=1e-13)


@pytest.mark.parametrize("theta", [1.0, 0.5])
@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_geodesics_join_the_ends_at_constant_speed(metric, complex_, theta, backend, rng):
    A, B = batch(2, 4, 1e2, rng, complex_)
    options = {"metric": metric, "theta": theta, "M": batch(1, 4, 10, rng)[0] if metric == "gbw" else None}
    t = np.array([0.0, 0.3, 0.5, 1.0])
    G = backend.numpy(spd_geodesic(backend.array(A), backend.array(B), t, **options))
    assert G.shape == (4, 4, 4)
    assert_allclose(G[[0, -1]], [A, B], atol=1e-12)
    d = spd_distance(A, B, **options)
    assert_allclose(spd_distance(A, G, **options), t * d, rtol=1e-10, atol=1e-9)
    assert_allclose(spd_distance(G, B, **options), (1 - t) * d, rtol=1e-10, atol=1e-9)
    assert_allclose(G[2], spd_mean(np.stack([A, B]), **options).mean, atol=1e-10)


@pytest.mark.parametrize("metric", ["bw", "airm"])
def test_geodesics_at_high_condition(metric, rng):
    A, B = batch(2, 6, 1e12, rng)
    d = spd_distance(A, B, metric=metric)
    middle = spd_geodesic(A, B, 0.5, metric=metric)
    # Half of d to the accuracy that rounding of the middle allows: its smallest eigenvalues for airm.
    rtol = 1e-9 if metric == "bw" else 1e-3
    assert_allclose([spd_distance(A, middle, metric=metric), spd_distance(middle, B, metric=metric)], d / 2, rtol=rtol)


def test_singular_matrices_are_joined(rng):
    G = rng.standard_normal((2, 4, 2))
    P, Q = G @ G.swapaxes(-1, -2)
    middle = bures_geodesic(P, Q, 0.25)
    d = bures_distance(P, Q)
    assert_allclose([bures_distance(P, middle), bures_distance(middle, Q)], [d / 4, 0.75 * d], rtol=1e-7)
    assert np.linalg.matrix_rank(middle) == 2
    assert np.isfinite(bures_log(P, Q)).all()


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("case", ["ordinary", "equal", "identity"])
def test_gradients_are_exact(case, complex_, rng):
    P, Q = torch.from_numpy(batch(2, 3, 10, rng, complex_))
    eye = torch.eye(3, dtype=P.dtype)
    P, Q = {"ordinary": (P, Q), "equal": (P, P.clone()), "identity": (eye, 2 * eye)}[case]
    P, Q = P.clone().requires_grad_(), Q.clone().requires_grad_()
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    real = lambda X: torch.view_as_real(X) if complex_ else X  # noqa: E731
    for function in (bures_map, bures_log):
        assert torch.autograd.gradcheck(lambda P, Q: real(function(hermitian(P), hermitian(Q))), (P, Q), atol=1e-6)  # noqa: B023
    assert torch.autograd.gradcheck(lambda P, Q: real(bures_exp(hermitian(P), hermitian(Q))), (P, Q), atol=1e-6)
    for metric in METRICS:
        M = 2 * np.eye(3) if metric == "gbw" else None
        options = {"metric": metric, "M": M}
        function = lambda P, Q, t: real(spd_geodesic(hermitian(P), hermitian(Q), t, **options))  # noqa: B023, E731
        assert torch.autograd.gradcheck(function, (P, Q, t), atol=1e-6)


def test_a_direction_too_long_is_refused():
    with pytest.raises(NotPositiveDefiniteError, match="I .* X must be positive semidefinite.*-1.*shorten it"):
        bures_exp(np.eye(2), np.diag([-4.0, 0.0]))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda: bures_geodesic(np.eye(2), np.eye(2), 1.5), "t must be numbers from 0 to 1; got 1.5"),
        (lambda: bures_geodesic(np.eye(2), np.ones((3, 2, 2)), [0.1, 0.2]), r"t must broadcast .*\(2,\)"),
        (lambda: bures_map(np.ones((2, 2)), np.eye(2)), "P must be positive definite"),
        (lambda: bures_map(np.eye(2), -np.eye(2)), "Q must be positive semidefinite"),
        (lambda: bures_log(np.eye(2), np.eye(3)), "P and Q must hold matrices of one size"),
        (lambda: bures_exp(np.zeros((2, 2)), np.eye(2)), "P must be positive definite"),
        (lambda: spd_geodesic(np.eye(2), np.ones((2, 2)), 0.5, metric="airm"), "B must be positive definite"),
    ],
)
def test_bad_input_is_named(function, text):
    with pytest.raises(InvalidInputError, match=text):
        function()
