"""Splitting and merging: never worse, optima planted to be bad, proposals that are what they say."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.datasets import gaussian_clusters
from sciml.stats.clustering import split_merge as module
from sciml.stats.clustering.predictive import PredictiveMixtures
from sciml.stats.clustering.split_merge import proposals, search


def one_hot(labels, K):
    return torch.nn.functional.one_hot(torch.as_tensor(labels), K).double()[None]


def blobs(rng, centres, n=40, spread=1.0):
    """Rows around centres, standardised, and their clusters."""
    labels = np.repeat(np.arange(len(centres)), n)
    X = np.asarray(centres, dtype=float)[labels] + spread * rng.standard_normal((len(labels), len(centres[0])))
    return torch.from_numpy((X - X.mean(0)) / X.std(0)), labels


def same(prediction, truth):
    """Whether the clusters are those of the truth but for their names."""
    labels = prediction.memberships[0].argmax(1).tolist()
    return len(set(zip(labels, truth.tolist(), strict=True))) == len(set(labels)) == len(set(truth.tolist()))


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_never_worse_than_its_start(seed):
    X, _ = gaussian_clusters(120, 4, 3, 3, 20, random_state=seed)
    X = torch.from_numpy((X - X.mean(0)) / X.std(0))
    model = PredictiveMixtures(X)
    start = model.fit(one_hot(np.random.default_rng(seed).integers(0, 4, 120), 4), max_iter=40)
    for rounds in (0, 1, 3):
        found = search(model, start, rounds=rounds)
        assert float(found.score[0]) >= float(start.score[0])
        start = found if rounds else start
        assert found.memberships.shape == (1, 120, 4)


def test_two_clusters_in_one_and_one_in_two_are_repaired(rng):
    X, truth = blobs(rng, [[0, 0], [12, 0], [0, 12], [30, 30]])
    bad = truth.copy()
    bad[:40] = np.arange(40) % 2  # halves of the first
    bad[40:120] = 2  # the second and the third
    bad[120:] = 3
    model = PredictiveMixtures(X)
    stuck = model.fit(one_hot(bad, 4), max_iter=300, tol=1e-7)
    assert not same(stuck, truth)  # the steps of the fit alone do not leave it
    found = search(model, stuck)
    assert same(found, truth)
    assert float(found.score[0]) > float(stuck.score[0]) + 10


def test_rounds_go_on_as_long_as_they_gain(rng, monkeypatch):
    X, truth = blobs(rng, [[0, 0], [12, 0], [0, 12], [30, 30]])
    bad = truth.copy()
    bad[:40], bad[40:120], bad[120:] = np.arange(40) % 2, 2, 3
    model = PredictiveMixtures(X)
    stuck = model.fit(one_hot(bad, 4), max_iter=300, tol=1e-7)
    calls = []
    monkeypatch.setattr(module, "proposals", lambda *a: calls.append(0) or proposals(*a))
    counts = []
    for start, rounds in [(stuck, 0), (stuck, 1), (stuck, 5), (search(model, stuck), 5)]:
        calls.clear()
        search(model, start, rounds=rounds)
        counts.append(len(calls))
    # One that gains and one that does not; at the best, only one that does not.
    assert counts[:2] == [0, 1]
    assert 2 <= counts[2] < 5
    assert counts[3] == 1


def test_a_limit_cuts_mergers_and_splits_alike(rng):
    X, truth = blobs(rng, 30 * rng.standard_normal((8, 3)), n=15)
    model = PredictiveMixtures(X)
    best = model.fit(one_hot(truth, 8))
    R, before = proposals(model, best, 30), best.memberships[0]
    assert len(R) == 30
    mergers, splits = set(), set()
    for one in R:
        pairs = [(a, b) for a in range(8) for b in range(8) if a != b]
        mergers |= {(a, b) for a, b in pairs if torch.equal(one[:, a], before[:, a] + before[:, b])}
        halved = (one.sum(0) < 0.8 * before.sum(0)) & (one.sum(0) > 0)
        splits |= set(halved.nonzero()[:, 0].tolist())
    assert len(mergers) >= 3
    assert len(splits) >= 3


def test_the_cheapest_merger_comes_first(rng):
    X, truth = blobs(rng, [[0, 0], [50, 0], [0, 50], [3, 50]])
    model = PredictiveMixtures(X, strength=6.0)
    best = model.fit(one_hot(truth, 4), max_iter=1)
    # The union of the last two, halved at once.
    first = proposals(model, best, 2)
    for one in first:
        assert torch.equal(one[:, :2], best.memberships[0, :, :2])
        assert not torch.equal(one[:, 2:], best.memberships[0, :, 2:])


def test_a_core_and_its_shell_are_told_apart(rng):
    # Halves along the longest axis would not do: both have one centre.
    sizes = np.repeat([0.3, 4.0], 150)
    X = np.concatenate([rng.standard_normal((300, 3)) * sizes[:, None], [60, 0, 0] + rng.standard_normal((100, 3))])
    X = torch.from_numpy((X - X.mean(0)) / X.std(0))
    bad = np.repeat([0, 1, 2], [300, 50, 50])
    model = PredictiveMixtures(X)
    stuck = model.fit(one_hot(bad, 3), max_iter=300, tol=1e-7)
    found = search(model, stuck)
    labels = found.memberships[0].argmax(1)
    truth = torch.from_numpy(np.repeat([0, 1, 2], [150, 150, 100]))
    right = sum(int((labels[truth == k] == labels[truth == k].mode()[0]).sum()) for k in range(3))
    assert right >= 385
    assert len({int(labels[truth == k].mode()[0]) for k in range(3)}) == 3


def test_proposals_move_shares_and_keep_their_sum(rng):
    X, _ = blobs(rng, [[0, 0], [5, 0], [0, 5]])
    model = PredictiveMixtures(X, noise_log_density=-8.0)
    best = model.fit(torch.from_numpy(rng.dirichlet([1, 1, 1], 120))[None], max_iter=5)
    R = proposals(model, best, 50)
    assert R.shape[1:] == (120, 3)
    assert_allclose(R.sum(2), best.memberships.sum(2).expand(len(R), -1), rtol=1e-12)
    assert float(R.min()) >= 0
    for one in R:
        assert len(torch.nonzero((one - best.memberships[0]).abs().sum(0) > 1e-9)) >= 2  # something moved
        assert float(one.sum(0).min()) > 0  # and no cluster is without points
    assert len(proposals(model, best, 5)) == 5
    assert len({tuple(one.flatten().tolist()) for one in R}) == len(R)  # all different


def test_of_one_cluster_there_is_nothing_to_split(rng):
    X, _ = blobs(rng, [[0, 0]])
    model = PredictiveMixtures(X)
    best = model.fit(torch.ones(1, 40, 1).double())
    assert proposals(model, best, 24) is None
    assert search(model, best) is best


def test_weights_are_repeated_rows(rng):
    X, truth = blobs(rng, [[0, 0], [12, 0], [0, 12], [30, 30]], n=15)
    counts = torch.from_numpy(rng.integers(1, 4, 60))
    bad = truth.copy()
    bad[:15], bad[15:45], bad[45:] = np.arange(15) % 2, 2, 3
    one_model = PredictiveMixtures(X, counts.double())
    one = search(one_model, one_model.fit(one_hot(bad, 4)))
    two_model = PredictiveMixtures(X.repeat_interleave(counts, 0))
    two = search(two_model, two_model.fit(one_hot(bad, 4).repeat_interleave(counts, 1)))
    assert same(one, truth)
    assert_allclose(one.score, two.score, rtol=1e-8)
    assert_allclose(one.memberships.repeat_interleave(counts, 1), two.memberships, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["few points", "constant in a cluster", "same"])
def test_degenerate_samples_stay_finite(rng, case):
    X, truth = blobs(rng, [[0, 0, 0], [5, 0, 1], [0, 5, 0]], n=20)
    if case == "few points":
        X, truth = X[::12], truth[::12]
    elif case == "constant in a cluster":
        X[:20, 0] = 1.0
    else:
        X[:] = 0
    model = PredictiveMixtures(X)
    found = search(model, model.fit(one_hot(truth, 3)))
    assert bool(torch.isfinite(found.score).all())
    assert bool(torch.isfinite(found.memberships).all())
