"""Search beyond Lloyd's method: against many starts of scikit-learn, brute force, and its own estimates."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.cluster import KMeans

from sciml.stats.clustering import swaps
from sciml.stats.clustering.lloyd import Points, kmeans, lloyd
from sciml.stats.clustering.swaps import exchange, halves, improve


def blobs(rng, n=300, K=4, p=3, sep=2.0):
    means = sep * rng.standard_normal((K, p))
    return torch.from_numpy(means[rng.integers(0, K, n)] + rng.standard_normal((n, p)))


def sse_of(X, labels, weights=None):
    w = torch.ones_like(X[:, 0]) if weights is None else weights
    total = 0.0
    for k in labels.unique():
        own = labels == k
        total += float(w[own] @ (X[own] - (w[own] @ X[own]) / w[own].sum()).square().sum(1))
    return total


@pytest.mark.parametrize(("K", "p", "sep"), [(20, 20, 8 / 40**0.5), (40, 20, 5 / 40**0.5), (25, 2, 4.0)])
def test_one_start_is_as_good_as_a_hundred_of_scikit_learn(rng, K, p, sep):
    X = blobs(rng, 1000, K, p, sep)
    peer = min(KMeans(K, n_init=1, tol=0, random_state=i).fit(X.numpy()).inertia_ for i in range(100))
    start = kmeans(X, K, rng, n_init=1)[0]
    labels, centres, sse = improve(X, start, K, rng)
    assert sse <= peer * (1 + 1e-9)
    assert_allclose(sse_of(X, labels), sse, rtol=1e-12)
    assert_allclose(centres, torch.stack([X[labels == k].mean(0) for k in range(K)]), rtol=0, atol=1e-12)


def test_small_problems_are_solved_exactly():
    hits = 0
    for number in range(8):
        rng = np.random.default_rng(number)
        X = torch.from_numpy(rng.standard_normal((7, 2)))
        best = min(sse_of(X, torch.tensor((0, *rest))) for rest in itertools.product(range(3), repeat=6))
        found = improve(X, torch.from_numpy(rng.integers(0, 3, 7)), 3, rng)[2]
        assert found >= best * (1 - 1e-12)
        hits += found <= best * (1 + 1e-12)
    assert hits >= 7


def test_an_answer_is_never_worse_than_its_start(rng):
    for K, sep in [(2, 0.0), (5, 1.0), (12, 3.0)]:
        X = blobs(rng, 150, K, 3, sep)
        w = torch.from_numpy(rng.uniform(0.1, 3, len(X)))
        labels = torch.from_numpy(rng.integers(0, K, len(X)))
        for _ in range(3):
            new, _, sse = improve(X, labels, K, rng, w, rounds=1, max_iter=1)
            assert_allclose(sse, sse_of(X, new, w), rtol=1e-12)
            assert sse <= sse_of(X, labels, w) * (1 + 1e-12)
            labels = new


def test_two_clusters_in_one_and_one_in_two_are_repaired(rng):
    # Lloyd's method cannot leave this start.
    X = torch.cat([c + 0.1 * torch.from_numpy(rng.standard_normal((50, 2))) for c in (0.0, 10.0, 20.0)])
    stuck = torch.arange(150) // 50
    stuck[:50], stuck[50:] = torch.arange(50) % 2, 2
    labels, _, sse = improve(X, stuck, 3, rng, rounds=0)
    assert labels.tolist() == (torch.arange(150) // 50).tolist()
    means = torch.stack([X[stuck == k].mean(0) for k in range(3)])
    assert lloyd(X, means)[2] > 100 * sse


def test_single_points_move_where_lloyd_stops():
    # 2.6 is nearer to 0.9 than to 5.05, but 3/2 1.7^2 > 2/3 2.45^2.
    X = torch.tensor([[0.0], [0.1], [2.6], [5.0], [5.1]], dtype=torch.float64)
    stuck = torch.tensor([0, 0, 0, 1, 1])
    assert lloyd(X, torch.stack([X[:3].mean(0), X[3:].mean(0)]))[0].tolist() == stuck.tolist()
    labels, C, sse = exchange(Points(X), stuck, 2)
    assert labels.tolist() == [0, 0, 1, 1, 1]
    assert_allclose(sse, sse_of(X, labels), rtol=1e-12)
    assert_allclose(C - C[0], [[0.0], [12.7 / 3 - 0.05]], rtol=1e-12)
    assert sse < sse_of(X, stuck)
    heavy = torch.tensor([1.0, 1.0, 20.0, 1.0, 1.0], dtype=torch.float64)
    labels, _, sse = exchange(Points(X, heavy), stuck, 2)
    assert_allclose(sse, min(sse_of(X, torch.tensor(t), heavy) for t in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])), rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_after_the_exchange_no_single_move_helps(rng, weighted):
    X = blobs(rng, 60, 4, 3, 0.5)
    w = torch.from_numpy(rng.uniform(0.5, 2, 60)) if weighted else None
    labels, C, sse = exchange(Points(X, w), torch.from_numpy(rng.integers(0, 4, 60)), 4, max_iter=500)
    assert_allclose(sse, sse_of(X, labels, w), rtol=1e-12)
    for i, k in itertools.product(range(60), range(4)):
        other = labels.clone()
        other[i] = k
        assert sse_of(X, other, w) >= sse * (1 - 1e-9)


def test_sweeps_of_the_exchange_never_raise_the_sum(rng):
    X = blobs(rng, 200, 5, 2, 0.5)
    start = torch.from_numpy(rng.integers(0, 5, 200))
    sums = [exchange(Points(X), start, 5, max_iter=sweeps)[2] for sweeps in range(15)]
    assert (np.diff(sums) <= 0).all()
    assert sums[-1] < sums[0]


def test_halves_gain_what_splitting_gains(rng):
    X = blobs(rng, 200, 3, 2, 6.0)
    w = torch.from_numpy(rng.uniform(0.5, 2, 200))
    points = Points(X, w)
    labels = torch.from_numpy(rng.integers(0, 2, 200))
    C, sizes = points.means(labels[None], 2, points.X[:1].expand(1, 2, -1))
    far = (points.X - C[0, labels]).square().sum(1)
    gain, children = halves(points, labels, C[0], far)
    for k in range(2):
        own = labels == k
        side = torch.cdist(points.X[own], children[k]).argmin(1)
        assert_allclose(sse_of(X[own], 0 * side, w[own]) - sse_of(X[own], side, w[own]), gain[k], rtol=0.02)
        # Not far from the best split there is.
        best = KMeans(2, n_init=20, random_state=0).fit(X[own].numpy(), sample_weight=w[own].numpy()).inertia_
        assert sse_of(X[own], side, w[own]) <= 1.2 * best


def test_long_clusters_are_cut_across(rng):
    # Thirty directions: three steps of Lloyd's method do not turn a cut along the cluster round.
    X = torch.from_numpy(rng.standard_normal((400, 30)))
    X[:, 2] = torch.linspace(-6, 6, 400)
    one = torch.zeros(400, dtype=torch.int64)
    points = Points(X)
    gain, children = halves(points, one, 0 * points.X[:1], points.squares)
    # Two halves of a line of length 12, six apart: n / 4 times the square.
    assert float(gain[0]) >= 0.95 * 400 / 4 * 6**2
    assert float((children[0, 1] - children[0, 0])[2].abs()) > 5.5


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_a_weight_of_two_is_a_repeated_row(number):
    rng = np.random.default_rng(number)
    X = blobs(rng, 50, 4, 2, 1.5)
    count = torch.from_numpy(rng.integers(1, 4, 50))
    start = torch.from_numpy(rng.integers(0, 4, 50))
    one = improve(X, start, 4, np.random.default_rng(1), count.double())
    two = improve(X.repeat_interleave(count, 0), start.repeat_interleave(count), 4, np.random.default_rng(1))
    assert torch.equal(one[0].repeat_interleave(count), two[0])
    assert_allclose(one[2], two[2], rtol=1e-11)


@pytest.mark.parametrize(("factor", "shift"), [(2.0**20, 0), (2.0**-20, 0), (1e3, 0), (1e-3, 0), (1, 1e6)])
def test_units_do_not_matter(rng, factor, shift):
    X = blobs(rng, 300, 6, 3, 1.5)
    start = torch.from_numpy(rng.integers(0, 6, 300))
    one = improve(X, start, 6, np.random.default_rng(0))
    two = improve(factor * X + shift, start, 6, np.random.default_rng(0))
    assert torch.equal(one[0], two[0])
    assert_allclose(two[2], factor**2 * one[2], rtol=1e-8 if shift else 1e-12)


def test_the_same_numbers_give_the_same_answer(rng):
    X = blobs(rng, 200, 8, 2, 1.0)
    start = torch.from_numpy(rng.integers(0, 8, 200))
    one, two = (improve(X, start, 8, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    none, other = (improve(X, start, 8, np.random.default_rng(i), rounds=0) for i in range(2))
    assert torch.equal(none[0], other[0])


def test_extreme_numbers_of_clusters(rng):
    X = blobs(rng, 20)
    labels, centres, sse = improve(X, torch.zeros(20, dtype=torch.int64), 1, rng)
    assert labels.unique().tolist() == [0]
    assert_allclose(centres[0], X.mean(0), rtol=0, atol=1e-13)
    labels, centres, sse = improve(X, torch.zeros(20, dtype=torch.int64), 20, rng)
    assert labels.tolist() == list(range(20))
    assert sse < 1e-24
    assert improve(X[:1], torch.tensor([0]), 1, rng)[2] == 0


def test_points_that_coincide(rng):
    X = torch.tensor([[0.0], [0.3], [7.7]], dtype=torch.float64).repeat(20, 1) + 0.1
    for K in (3, 5):
        labels, centres, sse = improve(X, torch.from_numpy(rng.integers(0, K, 60)), K, rng)
        assert sse < 1e-24
        assert labels.tolist() == [0, 1, 2] * 20
        assert torch.isfinite(centres).all()
    same = torch.ones(9, 2, dtype=torch.float64)
    assert improve(same, torch.arange(9) % 4, 4, rng)[2] == 0


def test_many_points_are_searched_by_a_part_of_them(rng, monkeypatch):
    X = blobs(rng, 4000, 15, 2, 6.0)
    w = torch.from_numpy(rng.uniform(0.5, 2, len(X)))
    start = torch.from_numpy(rng.integers(0, 15, len(X)))
    whole = improve(X, start, 15, np.random.default_rng(0), w)[2]
    monkeypatch.setattr(swaps, "_ROWS", 1500)
    labels, centres, sse = improve(X, start, 15, np.random.default_rng(0), w)
    assert sse <= 1.02 * whole
    assert_allclose(sse, sse_of(X, labels, w), rtol=1e-12)
    # A start that a part does not improve is returned.
    best, _, least = improve(X, labels, 15, np.random.default_rng(1), w)
    again = improve(X, best, 15, np.random.default_rng(2), w)
    assert again[2] <= least * (1 + 1e-14)


def test_tiles_do_not_matter(rng, monkeypatch):
    X = blobs(rng, 400, 6, 3, 1.0)
    w = torch.from_numpy(rng.uniform(0.5, 2, 400))
    start = torch.from_numpy(rng.integers(0, 6, 400))
    one = improve(X, start, 6, np.random.default_rng(0), w)
    monkeypatch.setattr(Points, "tiles", lambda self, columns: (slice(i, i + 70) for i in range(0, len(self.X), 70)))
    two = improve(X, start, 6, np.random.default_rng(0), w)
    assert torch.equal(one[0], two[0])
    assert_allclose(one[2], two[2], rtol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(rng):
    X = blobs(rng, 2000, 12, 4, 3.0)
    start = torch.from_numpy(rng.integers(0, 12, 2000))
    one = improve(X, start, 12, np.random.default_rng(0))
    two = improve(X.cuda(), start.cuda(), 12, np.random.default_rng(0))
    assert torch.equal(one[0], two[0].cpu())
    assert_allclose(one[2], two[2], rtol=1e-12)
