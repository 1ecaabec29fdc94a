"""The bound against all partitions of small samples, and the gap of anybody's labels."""

import itertools

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError, NotPositiveDefiniteError
from sciml.stats.clustering import optimality_gap
from sciml.stats.clustering.affinity import Affinity
from sciml.stats.clustering.sketch_bound import sketch_bound


def partitions(n, K):
    """All labels with the first point in cluster 0, as an array."""
    return np.array([(0, *rest) for rest in itertools.product(range(K), repeat=n - 1)])


def all_partitions(n, K):
    return np.array(list(itertools.product(range(K), repeat=n)))


def cost(X, labels, covariances=None, weights=None):
    """What labels cost, by the definition."""
    weights = np.ones(len(X)) if weights is None else weights
    total = 0.0
    for k in np.unique(labels):
        w, D = weights[labels == k], X[labels == k]
        D = D - w @ D / w.sum()
        P = np.eye(X.shape[1]) if covariances is None else np.linalg.inv(covariances[k])
        total += w @ np.einsum("ij,jk,ik->i", D, P, D)
        total += 0 if covariances is None else w.sum() * np.linalg.slogdet(covariances[k])[1]
    return total


def sample(seed, n, apart):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2)) * [1, 0.5]
    return X + apart * np.array([[0, 0], [1, 0], [0, 1]])[rng.integers(0, 3, n)], rng


@pytest.mark.parametrize("apart", [0, 3, 12])
@pytest.mark.parametrize("seed", range(4))
def test_no_partition_costs_less_than_the_bound_of_k_means(seed, apart):
    X, rng = sample(seed, 8, apart)
    costs = [cost(X, labels) for labels in partitions(8, 3)]
    best = partitions(8, 3)[np.argmin(costs)]
    for labels in (best, rng.integers(0, 3, 8)):
        objective, bound, gap = optimality_gap(X, labels, n_clusters=3)
        assert objective == pytest.approx(cost(X, labels), rel=1e-10)
        assert bound <= min(costs) * (1 + 1e-12) + 1e-12
        assert gap == pytest.approx(objective - bound, abs=1e-9 * objective)


@pytest.mark.parametrize("apart", [0, 4, 15])
@pytest.mark.parametrize("seed", range(2))
def test_no_partition_costs_less_than_the_bound_with_covariances(seed, apart):
    X, rng = sample(seed, 7, apart)
    covariances = np.array([np.diag([1, 0.3]), np.diag([0.2, 2.0]), [[1, 0.5], [0.5, 1]]])
    costs = [cost(X, labels, covariances) for labels in all_partitions(7, 3)]
    best = all_partitions(7, 3)[np.argmin(costs)]
    for labels in (best, np.concatenate([[0, 1, 2], rng.integers(0, 3, 4)])):
        if len(np.unique(labels)) < 3:
            continue
        objective, bound, _ = optimality_gap(X, labels, covariances)
        assert objective == pytest.approx(cost(X, labels, covariances), rel=1e-10, abs=1e-10)
        assert bound <= min(costs) + 1e-9 * abs(min(costs))


def separated(n=60, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 3
    return rng.standard_normal((n, 2)) + 14 * np.array([[0, 0], [1, 0], [0, 1]])[truth], truth


def test_separated_clusters_are_proved_and_wrong_labels_are_not():
    X, truth = separated()
    objective, _, gap = optimality_gap(X, truth)
    assert gap <= 1e-6 * objective
    wrong = truth.copy()
    wrong[:2] = truth[1], truth[0]
    objective, bound, gap = optimality_gap(X, wrong)
    assert gap > 1e-3 * objective
    assert bound <= cost(X, truth) * (1 + 1e-9)


@pytest.mark.parametrize("change", [lambda X: 1e3 * X, lambda X: X / 1e3, lambda X: X + 1e6])
def test_units_and_origin_do_not_matter(change):
    X, truth = separated()
    plain, changed = optimality_gap(X, truth), optimality_gap(change(X), truth)
    assert changed.gap <= 1e-6 * changed.objective
    assert plain.gap <= 1e-6 * plain.objective


def test_a_weight_of_two_is_a_row_twice():
    X, truth = separated(30)
    weights = np.where(np.arange(30) < 10, 2, 1)
    weighted = optimality_gap(X, truth, sample_weight=weights)
    repeated = optimality_gap(np.repeat(X, weights, axis=0), np.repeat(truth, weights))
    np.testing.assert_allclose(weighted, repeated, rtol=1e-6, atol=1e-6 * weighted.objective)


def test_labels_may_be_texts_floats_or_noise():
    X, truth = separated(30)
    plain = optimality_gap(X, truth).objective
    assert optimality_gap(X, np.array(["a", "b", "c"])[truth]).objective == plain
    assert optimality_gap(torch.as_tensor(X), torch.as_tensor(truth)).objective == plain
    far = np.vstack([X, [[1e3, 1e3]]])
    assert optimality_gap(far, np.append(truth, -1)).objective == pytest.approx(plain, rel=1e-9)


def test_one_covariance_for_all_is_k_means_in_its_metric():
    X, truth = separated(30)
    C = np.array([[2.0, 0.3], [0.3, 0.5]])
    L = np.linalg.cholesky(np.linalg.inv(C))
    given, whitened = optimality_gap(X, truth, C), optimality_gap(X @ L, truth)
    assert given.objective - 30 * np.linalg.slogdet(C)[1] == pytest.approx(whitened.objective, rel=1e-9)
    assert given.gap == pytest.approx(whitened.gap, abs=1e-6 * whitened.objective)


def test_samples_of_the_rows_estimate_the_bound():
    X, truth = separated(3000)
    affinity = Affinity(torch.as_tensor(X), 3)
    objective = float(affinity.objective(torch.as_tensor(truth)))
    found = sketch_bound(affinity, torch.as_tensor(truth), np.random.default_rng(0), size=300, samples=6)
    assert found.bound < objective
    # The means of 300 points fit them too well by 1 %; what is left is the error of the estimate.
    assert abs(found.corrected - objective) < 5 * found.error + 0.01 * objective


def test_bad_arguments_are_named():
    X, truth = separated(30)
    with pytest.raises(InvalidInputError, match="labels must have one entry for each of the 30 rows"):
        optimality_gap(X, truth[:-1])
    with pytest.raises(InvalidInputError, match="entry at index 0 is nan"):
        optimality_gap(X, np.where(truth == 0, np.nan, truth))
    with pytest.raises(InvalidInputError, match=r"covariances must have shape \(K, 2, 2\)"):
        optimality_gap(X, truth, np.ones((3, 2)))
    with pytest.raises(NotPositiveDefiniteError, match="number 1 has smallest eigenvalue -1"):
        optimality_gap(X, truth, np.array([np.eye(2), -np.eye(2), np.eye(2)]))
    with pytest.raises(InvalidInputError, match="one for each cluster; got 3 for 2"):
        optimality_gap(X, truth > 0, np.array([np.eye(2)] * 3), n_clusters=2)
    with pytest.raises(InvalidInputError, match="labels must leave a row"):
        optimality_gap(X, np.full(30, -1))
