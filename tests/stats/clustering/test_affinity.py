"""Affinities: what labels cost, matrices that are never formed, weights, units and shifts."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.stats.clustering.affinity import Affinity

KINDS = ["identity", "shared", "own"]


def problem(rng, kind, n=23, p=4, K=3, weighted=True):
    """Points, covariances, weights and labels with no empty cluster."""
    X = torch.from_numpy(rng.standard_normal((n, p)) * rng.uniform(0.3, 3, p))
    R = rng.standard_normal((K, p, 2 * p))
    stack = torch.from_numpy(R @ R.transpose(0, 2, 1) / p)
    covariances = {"identity": None, "shared": stack[0], "own": stack}[kind]
    weights = torch.from_numpy(rng.uniform(0.2, 3, n)) if weighted else None
    labels = torch.from_numpy(np.r_[np.arange(K), rng.integers(0, K, n - K)])
    return X, covariances, weights, labels


def cost_of(X, covariances, weights, labels, K=3):
    """The objective, cluster by cluster, with NumPy."""
    X, labels = X.numpy(), labels.numpy()
    w = np.ones(len(X)) if weights is None else weights.numpy()
    total = 0.0
    for k in range(K):
        i = labels == k
        if covariances is None:
            Sigma = np.eye(X.shape[1])
        else:
            Sigma = (covariances if covariances.ndim == 2 else covariances[k]).numpy()
        d = X[i] - np.average(X[i], axis=0, weights=w[i])
        total += w[i] @ (np.einsum("ij,ij->i", d, np.linalg.solve(Sigma, d.T).T) + np.linalg.slogdet(Sigma)[1])
    return total


def partition(affinity, labels):
    """The Z_k of labels, with the weights inside: shape (B, n, n)."""
    onehot = torch.nn.functional.one_hot(labels, affinity.n_clusters).to(affinity.X.dtype) * affinity.roots[:, None]
    onehot = onehot / torch.linalg.vector_norm(onehot, dim=0)
    Z = onehot.T[:, :, None] * onehot.T[:, None, :]
    return Z if affinity.blocks > 1 else Z.sum(0, keepdim=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_inner_product_with_a_partition_is_what_it_costs(rng, kind, weighted):
    X, covariances, weights, labels = problem(rng, kind, weighted=weighted)
    affinity = Affinity(X, 3, covariances, weights)
    expected = cost_of(X, covariances, weights, labels)
    value = (affinity.dense() * partition(affinity, labels)).sum()
    # Twelve digits of what is summed: the terms of the Mahalanobis distances and of the determinants.
    scale = affinity.scale * float(affinity.weights.sum()) + abs(affinity.shift)
    assert_allclose(float(affinity.to_objective(value)), expected, rtol=0, atol=1e-12 * scale)
    assert_allclose(float(affinity.objective(labels)), expected, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_application_is_that_of_the_dense_matrix(rng, kind):
    X, covariances, weights, _ = problem(rng, kind)
    affinity = Affinity(X, 3, covariances, weights)
    U = torch.from_numpy(rng.standard_normal((affinity.blocks, len(X), 2)))
    dense = affinity.dense()
    assert_allclose(affinity.apply(U).numpy(), (dense @ U).numpy(), rtol=0, atol=1e-12 * float(dense.abs().sum()))
    assert_allclose(float(affinity.value(U)), float((U * (dense @ U)).sum()), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_count_repeated_rows(rng, kind):
    X, covariances, _, labels = problem(rng, kind)
    counts = torch.from_numpy(rng.integers(1, 4, len(X)))
    once = Affinity(X, 3, covariances, counts.double())
    again = Affinity(X.repeat_interleave(counts, 0), 3, covariances)
    assert_allclose(once.scale, again.scale, rtol=1e-13)
    assert_allclose(float(once.objective(labels)), float(again.objective(labels.repeat_interleave(counts))), rtol=1e-12)
    means, sizes = once.means(labels)
    other, others = again.means(labels.repeat_interleave(counts))
    assert_allclose(means.numpy(), other.numpy(), rtol=0, atol=1e-13)
    assert_allclose(sizes.numpy(), others.numpy(), rtol=1e-14)


def test_units_do_not_matter(rng):
    X, _, weights, _ = problem(rng, "identity")
    one, two = Affinity(X, 3, None, weights), Affinity(2.0**30 * X, 3, None, weights)
    assert np.array_equal(one.dense().numpy(), two.dense().numpy())
    assert two.scale == 2.0**60 * one.scale


@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_of_the_points_does_not_matter(rng, kind):
    X, covariances, weights, labels = problem(rng, kind)
    one, two = Affinity(X, 3, covariances, weights), Affinity(X + 1e6, 3, covariances, weights)
    # What is left of the points beside a million is about 1e-10 of them.
    assert_allclose(two.dense().numpy(), one.dense().numpy(), rtol=0, atol=1e-8 * float(one.dense().abs().amax()))
    assert_allclose(float(two.objective(labels)), float(one.objective(labels)), rtol=1e-8)


def test_one_metric_for_all_is_that_of_equal_ones(rng):
    X, covariance, weights, labels = problem(rng, "shared")
    one = Affinity(X, 3, covariance, weights)
    many = Affinity(X, 3, covariance.expand(3, -1, -1), weights)
    assert (one.blocks, many.blocks) == (1, 3)
    assert one.traces.tolist() == [3.0]
    assert many.traces.tolist() == [1.0, 1.0, 1.0]
    assert_allclose(float(one.objective(labels)), float(many.objective(labels)), rtol=1e-13)


def test_costs_are_distances_with_determinants(rng):
    X, covariances, weights, labels = problem(rng, "own")
    affinity = Affinity(X, 3, covariances, weights)
    means, _ = affinity.means(labels)
    d = affinity.X[:, None] - means
    expected = torch.einsum("nkp,kpq,nkq->nk", d, torch.linalg.inv(covariances), d)
    expected = expected + torch.logdet(covariances) - torch.logdet(covariances).min()
    assert_allclose(affinity.costs(means).numpy(), expected.numpy(), rtol=1e-10)


def test_points_that_coincide_have_a_scale():
    affinity = Affinity(torch.ones(4, 2, dtype=torch.float64), 2)
    assert affinity.scale == 1.0
    assert float(affinity.dense().abs().amax()) == 0.0
