"""Sketches: who is drawn how often, and lifts that are what they would be without tiles."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.stats.clustering import sketch
from sciml.stats.clustering.lloyd import kmeans
from sciml.stats.clustering.sketch import (
    cells,
    disjoint_blocks,
    lift,
    lifted_means,
    matched,
    quadratic_scores,
    sketch_rows,
)


def blobs(rng, n=2000, sep=8.0, sizes=(0.5, 0.3, 0.2)):
    labels = rng.choice(len(sizes), n, p=sizes)
    return torch.from_numpy(sep * np.eye(3)[labels] + rng.standard_normal((n, 3))), torch.from_numpy(labels)


@pytest.mark.parametrize("scheme", ["uniform", "weighted", "balanced"])
def test_rows_are_different_ascending_and_repeatable(rng, scheme):
    labels = torch.from_numpy(rng.choice(3, 5000, p=[0.9, 0.09, 0.01]))
    draws = [sketch_rows(5000, 3, np.random.default_rng(i), size=300, labels=labels, scheme=scheme) for i in (0, 0, 1)]
    rows, counts = draws[0]
    assert (rows.diff() > 0).all()
    assert torch.equal(rows, draws[1][0])
    assert not torch.equal(rows, draws[2][0])
    assert_allclose(counts.mean(), 1, rtol=1e-12)
    assert 200 <= len(rows) <= 400


def test_the_size_has_a_default_and_ends_at_all_rows(rng):
    assert len(sketch_rows(10_000, 3, rng)[0]) == 2000
    assert len(sketch_rows(10_000, 20, rng)[0]) == 4000
    assert sketch_rows(50, 3, rng)[0].tolist() == list(range(50))
    labels = torch.zeros(50, dtype=torch.int64)
    for scheme in ("weighted", "balanced"):
        assert sketch_rows(50, 3, rng, labels=labels, scheme=scheme)[0].tolist() == list(range(50))
    with pytest.raises(InvalidInputError, match="scheme must be one of .*got 'even'"):
        sketch_rows(50, 3, rng, scheme="even")


@pytest.mark.parametrize("scheme", ["weighted", "balanced"])
def test_strata_get_equal_shares_and_counts_undo_them(rng, scheme):
    sizes = np.array([9000, 900, 100])
    labels = torch.from_numpy(rng.permutation(np.repeat([0, 1, 4], sizes)))  # numbers may be missing
    taken, stands = np.zeros(3), np.zeros(3)
    for _ in range(20):
        rows, counts = sketch_rows(10_000, 3, rng, size=240, labels=labels, scheme=scheme)
        for j, name in enumerate((0, 1, 4)):
            own = labels[rows] == name
            taken[j] += int(own.sum())
            stands[j] += float(counts[own].sum() / counts.sum())
    # Twenty draws of eighty: a standard error of nine in 1600 is 0.025.
    assert_allclose(taken / 20, 80, rtol=1e-12 if scheme == "balanced" else 0.1)
    assert_allclose(stands / 20, sizes / 10_000, rtol=1e-12 if scheme == "balanced" else 0.1)
    assert_allclose(
        torch.bincount(labels[sketch_rows(10_000, 3, rng, size=900, labels=labels, scheme="balanced")[0]])[[0, 1, 4]],
        [300, 300, 100],
    )


def test_a_weighted_sketch_estimates_without_bias(rng):
    x = torch.from_numpy(rng.exponential(size=4000))
    labels = (x > 2).long()
    means = []
    for _ in range(200):
        rows, counts = sketch_rows(4000, 2, rng, size=200, labels=labels, scheme="balanced")
        means.append(float((counts * x[rows]).sum() / counts.sum()))
    assert_allclose(np.mean(means), x.mean(), atol=4 * np.std(means) / 200**0.5)


def test_blocks_share_no_row(rng):
    blocks = disjoint_blocks(1000, 200, 4, rng)
    assert [len(rows) for rows in blocks] == [200] * 4
    assert len(torch.cat(blocks).unique()) == 800
    assert len(disjoint_blocks(1000, 400, 9, rng)) == 2
    assert disjoint_blocks(5, 100, 3, rng)[0].tolist() == [0, 1, 2, 3, 4]


def test_means_are_matched_whatever_their_order(rng):
    truth = 10 * torch.from_numpy(rng.standard_normal((6, 3)))
    sets, weights = [], []
    for _ in range(5):
        order = torch.from_numpy(rng.permutation(6))
        sets.append((truth + 0.1 * torch.from_numpy(rng.standard_normal((6, 3))))[order])
        weights.append(torch.arange(1.0, 7.0).double()[order])
    means, orders = matched(sets)
    for own, order in zip(sets, orders, strict=True):
        assert_allclose(own[order], sets[0], rtol=0, atol=1)
    assert_allclose(means, torch.stack([s[o] for s, o in zip(sets, orders, strict=True)]).mean(0), rtol=1e-12)
    assert_allclose(matched(sets, weights)[0], means, rtol=1e-12)
    one, two = torch.tensor([[0.0], [10.0]]).double(), torch.tensor([[12.0], [3.0]]).double()
    heavy = [torch.tensor([2.0, 1.0]).double(), torch.tensor([1.0, 1.0]).double()]
    assert matched([one, two], heavy)[0][:, 0].tolist() == [1.0, 11.0]


def test_a_lift_is_the_rule_without_tiles(rng, monkeypatch):
    X, _ = blobs(rng)
    means = torch.from_numpy(rng.standard_normal((3, 3)))
    root = torch.from_numpy(rng.standard_normal((3, 3, 3)))
    covariances = root @ root.mT + torch.eye(3, dtype=torch.float64)
    pi = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    D = X[:, None] - means
    d = torch.einsum("nki,kij,nkj->nk", D, torch.linalg.inv(covariances), D)
    costs = d + torch.logdet(covariances)
    for tile in (7, 2**15):
        monkeypatch.setattr(sketch, "_TILE", tile)
        assert torch.equal(lift(X, quadratic_scores(means, covariances)), costs.argmin(1))
        assert torch.equal(lift(X, quadratic_scores(means, covariances, pi)), (costs - 2 * pi.log()).argmin(1))


def test_lifted_means_go_on_where_the_sketch_ended(rng):
    X, truth = blobs(rng, 20_000)
    w = torch.from_numpy(rng.uniform(0.5, 2, len(X)))
    rows, counts = sketch_rows(len(X), 3, rng, size=300)
    means = kmeans(X[rows], 3, rng, weights=counts)[1]
    labels, same, sse = lifted_means(X, means, w, passes=0)
    nearest = (X[:, None] - means).square().sum(2)
    assert torch.equal(labels, nearest.argmin(1))
    assert same is means
    assert_allclose(sse, w @ nearest.amin(1), rtol=1e-12)
    _, moved, lower = lifted_means(X, means, w)
    assert lower < sse
    own = torch.stack([(w[labels == k] @ X[labels == k]) / w[labels == k].sum() for k in range(3)])
    assert_allclose(moved, own, rtol=0, atol=1e-10)


def test_averages_over_disjoint_sketches_are_closer(rng):
    X, truth = blobs(rng, 20_000)
    whole = torch.stack([X[truth == k].mean(0) for k in range(3)])
    sets = [kmeans(X[rows], 3, rng)[1] for rows in disjoint_blocks(len(X), 150, 20, rng)]

    def off(means):
        return float(torch.cdist(means, whole).amin(1).square().sum())

    assert off(matched(sets)[0]) < 0.3 * np.mean([off(s) for s in sets])


def test_cells_keep_what_a_uniform_sketch_loses(rng):
    X, truth = blobs(rng, 30_000, sep=12.0, sizes=(0.699, 0.3, 0.001))
    strata = cells(X, 40, rng)
    assert strata.shape == (30_000,)
    rows, _ = sketch_rows(30_000, 3, rng, size=800, labels=strata, scheme="balanced")
    even, _ = sketch_rows(30_000, 3, rng, size=800)
    assert int((truth[rows] == 2).sum()) >= 10
    assert int((truth[even] == 2).sum()) <= 5
    assert len(cells(X[:5], 40, rng).unique()) == 5
    assert cells(torch.ones(9, 2).double(), 3, rng, torch.ones(9).double()).unique().tolist() == [0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(rng):
    X, truth = blobs(rng)
    one = sketch_rows(2000, 3, np.random.default_rng(0), size=99, labels=truth, scheme="balanced")
    two = sketch_rows(2000, 3, np.random.default_rng(0), size=99, labels=truth.cuda(), scheme="balanced")
    assert torch.equal(one[0], two[0].cpu())
    eye = torch.eye(3).double()
    scores = quadratic_scores(8 * eye.cuda(), eye.repeat(3, 1, 1).cuda())
    assert torch.equal(lift(X.cuda(), scores).cpu(), lift(X, quadratic_scores(8 * eye, eye.repeat(3, 1, 1))))
