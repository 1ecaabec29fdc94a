"""K-means++ and Lloyd's method against scikit-learn, and what must not matter: units, order, repetition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.cluster import KMeans

from sciml.stats.clustering.lloyd import Points, descend, kmeans, kmeans_plus_plus, lloyd, seed


def blobs(rng, n=300, K=4, p=3, sep=6.0):
    means = sep * rng.standard_normal((K, p))
    return torch.from_numpy(means[rng.integers(0, K, n)] + rng.standard_normal((n, p)))


def sse_of(X, labels, weights=None):
    """The slow obvious twin."""
    w = torch.ones_like(X[:, 0]) if weights is None else weights
    total = 0.0
    for k in labels.unique():
        own = labels == k
        mean = (w[own] @ X[own]) / w[own].sum()
        total += float(w[own] @ (X[own] - mean).square().sum(1))
    return total


def test_the_steps_are_those_of_scikit_learn(rng):
    X = blobs(rng, sep=2.0)
    w = torch.from_numpy(rng.uniform(0.5, 2, len(X)))
    for weights in (None, w):
        sample_weight = None if weights is None else weights.numpy()
        peer = KMeans(4, init=X[:4].numpy(), n_init=1, tol=0).fit(X.numpy(), sample_weight=sample_weight)
        labels, centres, sse, n_iter = lloyd(X, X[:4], weights)
        assert labels.tolist() == peer.labels_.tolist()
        assert_allclose(centres, peer.cluster_centers_, rtol=0, atol=1e-12)
        assert_allclose([sse, sse_of(X, labels, weights)], peer.inertia_, rtol=1e-12)
        assert 1 < n_iter < 300


def test_best_of_several_is_as_good_as_scikit_learns(rng):
    for K, p, sep in [(3, 2, 3.0), (8, 5, 3.0), (12, 10, 5.0)]:
        X = blobs(rng, 500, K, p, sep)
        peer = KMeans(K, n_init=10, random_state=0, tol=0).fit(X.numpy()).inertia_
        assert kmeans(X, K, rng, n_init=20)[2] <= peer * 1.001


def test_the_sum_falls_and_ends_where_labels_stay(rng):
    X = blobs(rng, sep=1.5)
    sums = [lloyd(X, X[:4], max_iter=steps)[2] for steps in range(40)]
    assert (np.diff(sums) <= 1e-12 * sums[0]).all()
    labels, centres, sse, n_iter = lloyd(X, X[:4])
    assert sse == sums[-1] < sums[2]
    nearest = (X[:, None] - centres).square().sum(2).argmin(1)
    assert torch.equal(nearest, labels)
    assert_allclose(centres, torch.stack([X[labels == k].mean(0) for k in range(4)]), rtol=0, atol=1e-13)
    assert lloyd(X, X[:4], max_iter=3)[3] == 3
    assert lloyd(X, centres)[3] == 1
    assert 1 < lloyd(X, X[:4], tol=1e-2)[3] < n_iter


def test_runs_side_by_side_are_those_alone(rng):
    points = Points(blobs(rng, sep=2.0))
    C = points.X[seed(points, 4, rng, runs=5)]
    labels, centres, sse, n_iter = descend(points, C)
    for r in range(5):
        alone = descend(points, C[r : r + 1])
        assert torch.equal(alone[0][0], labels[r])
        assert_allclose(alone[1][0], centres[r], rtol=0, atol=1e-13)
        assert_allclose(alone[2][0], sse[r], rtol=1e-13)
        assert alone[3][0] == n_iter[r]


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_a_weight_of_two_is_a_repeated_row(times, number):
    rng = np.random.default_rng(number)
    X = blobs(rng, 60, 3, 2, 2.0)
    count = torch.from_numpy(rng.integers(1, 1 + times, len(X)))
    repeated = X.repeat_interleave(count, 0)
    one = kmeans(X, 3, np.random.default_rng(1), weights=count.double())
    two = kmeans(repeated, 3, np.random.default_rng(1))
    assert torch.equal(one[0].repeat_interleave(count), two[0])
    assert_allclose(one[2], two[2], rtol=1e-12)


@pytest.mark.parametrize(
    ("factor", "shift"), [(2.0**20, 0), (2.0**-20, 0), (1e3, 0), (1e-3, 0), (1, 1e6), (1, 2.0**33)]
)
def test_units_do_not_matter(rng, factor, shift):
    X = blobs(rng, 400, 5, 3, 3.0)
    one = kmeans(X, 5, np.random.default_rng(0))
    two = kmeans(factor * X + shift, 5, np.random.default_rng(0))
    assert torch.equal(one[0], two[0])
    assert_allclose(two[2], factor**2 * one[2], rtol=1e-14 * shift + 1e-12)


def test_digits_are_not_lost_far_from_the_origin(rng):
    X = blobs(rng, 400, 5, 3, 3.0)
    near, far = Points(X), Points(X + 2.0**33)
    rows = seed(near, 5, np.random.default_rng(0))
    assert torch.equal(seed(far, 5, np.random.default_rng(0)), rows)
    # The fast formula, too, which squares lengths.
    assert torch.equal(descend(far, far.X[rows])[0], descend(near, near.X[rows])[0])


def test_the_same_numbers_give_the_same_answer(rng):
    X = blobs(rng)
    one, two = (kmeans(X, 4, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    before = X.clone()
    centres = X[:4].clone()
    lloyd(X, centres)
    assert torch.equal(X, before)
    assert torch.equal(centres, X[:4])


def test_one_cluster_and_as_many_as_points(rng):
    X = blobs(rng, 30)
    labels, centres, sse, _ = kmeans(X, 1, rng)
    assert labels.unique().tolist() == [0]
    assert_allclose(centres[0], X.mean(0), rtol=0, atol=1e-13)
    assert_allclose(sse, (X - X.mean(0)).square().sum(), rtol=1e-13)
    labels, _, sse, _ = kmeans(X, 30, rng)
    assert labels.sort().values.tolist() == list(range(30))
    assert sse < 1e-24


def test_a_single_point():
    X = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    labels, centres, sse, _ = kmeans(X, 1, np.random.default_rng(0))
    assert labels.tolist() == [0]
    assert centres.tolist() == X.tolist()
    assert sse == 0


def test_points_that_coincide(rng):
    X = torch.tensor([[0.0], [0.3], [7.7]], dtype=torch.float64).repeat(20, 1) + 0.1
    for K in (3, 5):
        labels, centres, sse, n_iter = kmeans(X, K, rng)
        assert sse < 1e-24
        assert len(labels.unique()) == 3
        assert torch.isfinite(centres).all()
        assert n_iter < 10
    labels, _, sse, _ = kmeans(torch.ones(9, 2, dtype=torch.float64), 4, rng)
    assert sse == 0
    assert labels.unique().tolist() == [0]


def test_an_empty_cluster_takes_the_point_that_fits_worst():
    X = torch.tensor([[0.0], [0.1], [1.0], [50.0]], dtype=torch.float64)
    labels, centres, sse, _ = lloyd(X, torch.tensor([[0.0], [999.0]], dtype=torch.float64))
    assert labels.tolist() == [0, 0, 0, 1]
    assert centres[1].tolist() == [50]
    # In one step two clusters are empty: the two worst points are taken.
    labels, _, sse, _ = lloyd(X, torch.tensor([[0.0], [999.0], [888.0]], dtype=torch.float64))
    assert labels[:2].unique().tolist() == [0]
    assert sorted(labels[2:].tolist()) == [1, 2]
    assert_allclose(sse, 0.005, rtol=1e-12)


def test_clusters_far_smaller_than_the_cloud_are_told_apart():
    # |x|^2 - 2 x'c + |c|^2 has no digit left for them.
    X = torch.tensor([[0.0], [1e-9], [2e-8], [2.1e-8], [1.0]], dtype=torch.float64)
    labels, _, sse, _ = lloyd(X, X[[0, 1, 4]])
    assert labels.tolist() == [0, 0, 1, 1, 2]
    assert_allclose(sse, 1e-18, rtol=1e-6)


def test_seeds_are_rows_far_from_one_another(rng):
    X = blobs(rng, 500, 6, 2, 60.0)
    truth = kmeans(X, 6, rng, n_init=30)[0]

    def hits(count):
        return [len(truth[seed(Points(X), 6, rng, n_candidates=count)[0]].unique()) for _ in range(20)]

    assert min(hits(None)) == 6
    assert sum(hits(1)) < 6 * 20
    heavy = torch.ones_like(X[:, 0])
    heavy[7] = 1e12
    assert X[7].tolist() in kmeans_plus_plus(X, 2, rng, heavy).tolist()


def test_draws_follow_the_squared_distance():
    points = Points(torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64))
    rows = seed(points, 2, np.random.default_rng(0), runs=20_000, n_candidates=1)
    second = rows[rows[:, 0] == 0, 1]
    assert len(second) == pytest.approx(20_000 / 3, rel=0.05)
    assert float((second == 1).double().mean()) == pytest.approx(1 / 101, rel=0.3)
    assert not bool((second == 0).any())


def test_tiles_do_not_matter(rng, monkeypatch):
    X = blobs(rng, 900, 5, 3, 2.0)
    w = torch.from_numpy(rng.uniform(0.5, 2, len(X)))
    one = kmeans(X, 5, np.random.default_rng(0), weights=w)
    monkeypatch.setattr(Points, "tiles", lambda self, columns: (slice(i, i + 70) for i in range(0, len(self.X), 70)))
    two = kmeans(X, 5, np.random.default_rng(0), weights=w)
    assert torch.equal(one[0], two[0])
    assert_allclose(one[2], two[2], rtol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(rng):
    X = blobs(rng, 2000, 6, 4, 3.0)
    one = kmeans(X, 6, np.random.default_rng(0))
    two = kmeans(X.cuda(), 6, np.random.default_rng(0))
    assert torch.equal(one[0], two[0].cpu())
    assert_allclose(one[2], two[2], rtol=1e-12)
