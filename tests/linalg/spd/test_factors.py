"""Factors of positive semidefinite matrices: Cholesky where it exists, exact rank where it does not."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import spd_factor
from sciml.linalg.spd.factors import factor


def spectrum(values, rng, complex_=False):
    """Return a Hermitian matrix with given eigenvalues."""
    n = len(values)
    G = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_ else 0)
    Q = np.linalg.qr(G)[0]
    A = (Q * np.asarray(values)) @ Q.conj().T
    return (A + A.conj().T) / 2


def test_a_definite_matrix_has_its_cholesky_factor(backend, rng):
    A = spectrum([3.0, 2.0, 1e-6], rng)
    assert_allclose(backend.numpy(spd_factor(backend.array(A))), np.linalg.cholesky(A), rtol=1e-9)


@pytest.mark.parametrize("complex_", [False, True])
def test_mixed_batches_are_factored_each_in_its_way(rng, complex_):
    A = np.stack([spectrum(v, rng, complex_) for v in ([3, 2, 1, 1], [3, 2, 0, 0], [1, 1e-9, 1e-9, 1e-9], [0] * 4)])
    L = spd_factor(A)
    assert_allclose(L @ L.conj().swapaxes(-1, -2), A, rtol=0, atol=1e-14)
    assert_allclose(L[0], np.linalg.cholesky(A[0]), atol=1e-15)
    assert (np.abs(L[1]).max(axis=0) > 1e-8).sum() == 2  # as many columns as the rank
    assert_array_equal(L[3], 0)


def test_what_is_singular_does_not_depend_on_the_units_of_the_channels(rng):
    A = spectrum([3.0, 2.0, 1.0, 0.5], rng)
    units = np.array([1.0, 1e-9, 1e9, 1e-3])
    scaled = torch.from_numpy(A * units[:, None] * units)
    L, singular = factor(scaled)
    assert not singular.any()
    assert_allclose((L / torch.from_numpy(units)[:, None]).numpy(), np.linalg.cholesky(A), rtol=1e-12)
    G = rng.standard_normal((4, 2))
    lost = torch.from_numpy((G @ G.T) * units[:, None] * units)
    L, singular = factor(lost)
    assert bool(singular)
    assert (L.abs().amax(0) > 0).sum() == 2
    assert_allclose((L @ L.mT).numpy() / units[:, None] / units, G @ G.T, atol=1e-13)


def test_a_singular_matrix_is_found_whatever_its_last_pivot(rng):
    # The last pivot of a matrix of rank n - 1 is rounding amplified by the other pivots, now and then by 1e5.
    for n in (2, 3, 6, 12):
        G = rng.standard_normal((500, n, n - 1))
        _, singular = factor(torch.from_numpy(G @ G.swapaxes(-1, -2)))
        assert singular.all()


def test_a_channel_without_signal_is_a_row_of_zeros(rng):
    A = np.zeros((3, 3))
    A[:2, :2] = spectrum([2.0, 1.0], rng)
    L = spd_factor(A)
    assert_allclose(L @ L.T, A, atol=1e-15)
    assert_array_equal(L[2], 0)


def test_the_condition_at_which_cholesky_ends_is_near_that_of_the_dtype(rng):
    A = np.stack([spectrum([1.0, 0.5, c], rng) for c in (1e-13, 0)])
    _, singular = factor(torch.from_numpy(A))
    assert singular.tolist() == [False, True]
    _, singular = factor(torch.from_numpy(A.astype(np.float32)[:1]))
    assert singular.tolist() == [True]
    _, singular = factor(torch.eye(3, dtype=torch.float64) * 1e-300)
    assert not singular.any()


def test_gradients_flow_through_definite_matrices_and_are_refused_for_singular_ones():
    A = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda A: spd_factor((A + A.mT) / 2), (A,))
    with pytest.raises(InvalidInputError, match="1 singular matrices"):
        spd_factor(torch.ones(2, 2, requires_grad=True))


@pytest.mark.parametrize(
    ("A", "index", "text"),
    [
        (np.diag([1.0, -1e-3]), None, "A has smallest eigenvalue -0.001"),
        (np.stack([np.eye(2), np.diag([-2.0, 1.0])]), 1, "number 1 of A has smallest eigenvalue -2"),
        (np.stack([[np.eye(2)] * 3, [np.eye(2), np.eye(2), np.diag([1.0, -1.0])]]), (1, 2), r"number \(1, 2\) of A"),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), None, "smallest eigenvalue -1"),
    ],
)
def test_an_indefinite_matrix_is_named_with_its_eigenvalue(A, index, text):
    with pytest.raises(NotPositiveDefiniteError, match=text) as caught:
        spd_factor(A)
    assert caught.value.index == index
    assert caught.value.smallest < 0


def test_rounding_below_zero_is_no_error():
    L = spd_factor(np.diag([1.0, -1e-12]))
    assert_allclose(L @ L.T, np.diag([1.0, 0.0]), atol=1e-15)
