"""Distances of all pairs are those of the pairs."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import METRICS, pairwise, pairwise_distances, spd_distance


def batch(rng, count, n=4, complex_=False):
    G = rng.standard_normal((count, n, 2 * n)) + (1j * rng.standard_normal((count, n, 2 * n)) if complex_ else 0)
    A = G @ G.conj().swapaxes(-1, -2) / (2 * n)
    return (A + A.conj().swapaxes(-1, -2)) / 2


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_pairs_are_those_of_the_plain_distance(metric, complex_, backend, rng):
    A, B = batch(rng, 5, complex_=complex_), batch(rng, 3, complex_=complex_)
    options = {"metric": metric, "theta": 0.5, "M": batch(rng, 1)[0] if metric == "gbw" else None}
    plain = spd_distance(A[:, None], B[None], **options)
    found = backend.numpy(pairwise_distances(backend.array(A), backend.array(B), **options))
    assert found.shape == (5, 3)
    assert_allclose(found, plain, rtol=1e-12)
    assert_allclose(pairwise_distances(A, B, fast=True, **options), plain, rtol=1e-7)
    assert_allclose(pairwise_distances(A, B, squared=True, **options), plain**2, rtol=1e-12)
    alone = pairwise_distances(A, **options)
    assert_array_equal(alone, alone.T)
    assert_array_equal(np.diag(alone), 0)
    off = ~np.eye(5, dtype=bool)
    assert_allclose(alone[off], spd_distance(A[:, None], A[None], **options)[off], rtol=1e-11)


def test_blocks_do_not_matter(monkeypatch, rng):
    A, B = batch(rng, 17), batch(rng, 5)
    whole, alone = pairwise_distances(A, B), pairwise_distances(A)
    monkeypatch.setattr(pairwise, "_BLOCK", 1)
    assert_allclose(pairwise_distances(A, B), whole, rtol=1e-14)
    assert_allclose(pairwise_distances(A), alone, rtol=1e-14)


def test_close_pairs_keep_their_digits_but_in_the_fast_way(rng):
    A = batch(rng, 3)
    B = (1 + 1e-9) ** 2 * A
    truth = 1e-9 * np.sqrt(np.trace(A, axis1=1, axis2=2))
    assert_allclose(np.diag(pairwise_distances(A, B)), truth, rtol=1e-5)
    assert_allclose(np.diag(pairwise_distances(A, B, fast=True)), 0, atol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("metric", ["bw", "airm", "logeuclid", "logchol", "euclid"])
def test_gradients_are_those_of_the_plain_distance(metric, fast, rng):
    A, B = (torch.from_numpy(batch(rng, 3)).requires_grad_() for _ in range(2))
    pairwise_distances(A, B, metric=metric, fast=fast).square().sum().backward()
    found = A.grad.clone(), B.grad.clone()
    A.grad = B.grad = None
    spd_distance(A[:, None], B[None], metric=metric).square().sum().backward()
    for ours, plain in zip(found, (A.grad, B.grad), strict=True):
        assert_allclose(ours.numpy(), plain.numpy(), rtol=1e-11, atol=1e-12)


def test_lists_of_matrices_and_singular_ones():
    assert_allclose(pairwise_distances([[[1.0]], [[4.0]]], [[[0.0]]]), [[1.0], [2.0]])


def test_bad_lists_are_named():
    with pytest.raises(InvalidInputError, match=r"A must be a list of matrices .*\(2, 2\)"):
        pairwise_distances(np.eye(2))
    with pytest.raises(InvalidInputError, match="one size"):
        pairwise_distances(np.ones((2, 1, 1)), np.stack([np.eye(2)]))
    with pytest.raises(NotPositiveDefiniteError, match="B must be positive definite"):
        pairwise_distances(np.ones((2, 1, 1)), np.zeros((1, 1, 1)), metric="airm")
