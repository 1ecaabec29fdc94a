"""Ward's tree against scipy's, and what the small clusters of many points leave of it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from sciml.stats.clustering import ward as module
from sciml.stats.clustering.lloyd import lloyd
from sciml.stats.clustering.ward import joins, ward


def blobs(rng, n=200, K=4, p=3, sep=2.0):
    means = sep * rng.standard_normal((K, p))
    truth = rng.integers(0, K, n)
    return torch.from_numpy(means[truth] + rng.standard_normal((n, p))), truth


def squares(X):
    return (X[:, None] - X).square().sum(2).numpy()


def test_the_tree_is_scipys(rng):
    X, _ = blobs(rng)
    peer = linkage(X.numpy(), "ward")
    _, heights = joins(squares(X) / 2, np.ones(len(X)))
    assert_allclose(np.sort(heights), peer[:, 2] ** 2 / 2, rtol=1e-9)
    for K in (1, 2, 5, 30, 199, 200):
        labels = ward(X, K, rng)
        assert adjusted_rand_score(labels, fcluster(peer, K, "maxclust")) == 1
        assert len(labels.unique()) == K


def test_a_join_costs_what_the_sum_of_squares_rises(rng):
    X, _ = blobs(rng, 40)
    w = torch.from_numpy(rng.uniform(0.2, 3, len(X)))
    weighed = squares(X) * (w[:, None] * w / (w[:, None] + w)).numpy()
    heights = np.sort(joins(weighed, w.numpy().copy())[1])
    for K in (1, 3, 10):
        labels = ward(X, K, rng, w)
        means = torch.stack([w[labels == k] @ X[labels == k] / w[labels == k].sum() for k in range(K)])
        assert_allclose(w @ (X - means[labels]).square().sum(1), heights[: len(X) - K].sum(), rtol=1e-10)


def test_a_weight_of_two_is_a_repeated_row(rng):
    X, _ = blobs(rng, 120)
    count = torch.from_numpy(rng.integers(1, 4, len(X)))
    for K in (2, 5, 40):
        weighted = ward(X, K, rng, count.double())
        assert torch.equal(weighted.repeat_interleave(count), ward(X.repeat_interleave(count, 0), K, rng))
    assert not torch.equal(ward(X, 5, rng, count.double()), ward(X, 5, rng))


@pytest.mark.parametrize("n", [150, 3500])
@pytest.mark.parametrize(("factor", "shift"), [(2.0**20, 0), (1e-3, 0), (1, 1e6)])
def test_units_do_not_matter(rng, n, factor, shift):
    X, _ = blobs(rng, n)
    one, two = ward(X, 4, np.random.default_rng(0)), ward(factor * X + shift, 4, np.random.default_rng(0))
    assert torch.equal(one, two)


def test_labels_are_numbered_as_they_appear(rng):
    X, _ = blobs(rng)
    labels = ward(X, 7, rng).numpy()
    assert labels[np.unique(labels, return_index=True)[1]].tolist() == list(range(7))
    assert (np.diff(np.unique(labels, return_index=True)[1]) > 0).all()


def test_points_that_coincide(rng):
    X = torch.tensor([[0.0], [0.3], [7.7]], dtype=torch.float64).repeat(20, 1) + 0.1
    assert ward(X, 3, rng).tolist() == [0, 1, 2] * 20
    assert ward(X, 2, rng).tolist() == [0, 0, 1] * 20
    assert len(ward(X, 5, rng).unique()) == 5
    assert ward(X[:1], 1, rng).tolist() == [0]
    assert len(ward(torch.ones(3200, 2, dtype=torch.float64), 2, rng).unique()) == 1


@pytest.mark.parametrize("n", [5000, 30_000])
def test_many_points_are_clustered_as_well_as_few(rng, n):
    X, truth = blobs(rng, n, 6, 5, 4.0)
    labels = ward(X, 6, np.random.default_rng(0))
    assert adjusted_rand_score(labels, truth) > 0.95
    best = lloyd(X, torch.stack([X[torch.from_numpy(truth) == k].mean(0) for k in range(6)]))[2]
    assert_allclose(lloyd(X, torch.stack([X[labels == k].mean(0) for k in range(6)]))[2], best, rtol=1e-6)
    assert torch.equal(labels, ward(X, 6, np.random.default_rng(0)))
    heavy = torch.ones(n, dtype=torch.float64)
    assert torch.equal(labels, ward(X, 6, np.random.default_rng(0), 3 * heavy))


def test_small_clusters_weigh_what_their_points_do(rng, monkeypatch):
    monkeypatch.setattr(module, "_EXACT", 100)
    monkeypatch.setattr(module, "_SMALL", 400)
    X, _ = blobs(rng, 400, 3, 2, 1.0)
    w = torch.from_numpy(rng.uniform(0.1, 5, 400))
    # As many small clusters as points: the tree of the points, with their weights.
    small = ward(X, 5, np.random.default_rng(0), w)
    monkeypatch.setattr(module, "_EXACT", 400)
    assert torch.equal(small, ward(X, 5, rng, w))
    assert not torch.equal(small, ward(X, 5, rng))
