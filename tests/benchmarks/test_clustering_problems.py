"""Claims about the clusters of the benchmarks: their errors are counted rightly, their peers are what they say."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks import bench_clustering, bench_clustering_suite
from benchmarks import clustering_problems as problems


def test_errors_do_not_see_the_names_of_clusters():
    truth = np.array([0, 0, 0, 1, 1, 2])
    assert problems.error([2, 2, 2, 0, 0, 1], truth) == 0
    assert problems.error([2, 2, 0, 0, 0, 1], truth) == pytest.approx(1 / 6)
    # One cluster for all is right for the largest; a cluster too many is wrong in its points.
    assert problems.error(np.zeros(6, int), truth) == 0.5
    assert problems.error([0, 0, 3, 1, 1, 2], truth) == pytest.approx(1 / 6)


def test_outliers_of_the_truth_do_not_count_and_those_of_the_labels_are_wrong():
    truth = np.array([0, 0, 1, 1, -1, -1])
    assert problems.error([1, 1, 0, 0, 0, 1], truth) == 0
    assert problems.error([1, 1, 0, -1, -1, -1], truth) == 0.25
    assert problems.error(np.full(6, -1), truth) == 1


@pytest.mark.parametrize("name", problems.FAMILIES)
def test_families_are_drawn_from_their_seed(name):
    X, labels, K = problems.FAMILIES[name](7)
    again, same, _ = problems.FAMILIES[name](7)
    other, _, _ = problems.FAMILIES[name](8)
    assert_array_equal(X, again)
    assert_array_equal(labels, same)
    assert not np.array_equal(X, other)
    assert X.shape[0] == len(labels) <= 3000
    assert set(labels) - {-1} == set(range(K))
    assert (-1 in labels) == ("outliers" in name)
    assert np.isfinite(X).all()


@pytest.mark.parametrize("name", problems.TABLES)
def test_tables_come_raw_and_standardised(name):
    raw, labels, K = problems.table(name, False)
    standard, same, _ = problems.table(name, True)
    assert_array_equal(labels, same)
    assert set(labels) == set(range(K))
    varies = raw.std(0) > 0
    assert_allclose(standard[:, varies].std(0), 1, rtol=1e-12)
    assert_allclose(standard.mean(0), 0, atol=1e-12)


def test_long_clusters_are_long():
    X, labels, _ = problems.parallel(0, n=3000)
    for k in range(3):
        # A ratio of two variances of a thousand normal numbers has a relative deviation of 0.06.
        assert np.linalg.cond(np.cov(X[labels == k].T)) == pytest.approx(100, rel=0.3)


def test_one_covariance_is_one():
    X, labels, K = problems.tied(0, n=60_000)
    covariances = [np.cov(X[labels == k].T) for k in range(K)]
    assert np.linalg.cond(covariances[0]) == pytest.approx(50, rel=0.1)
    assert_allclose(covariances[1], covariances[0], atol=0.05 * np.linalg.norm(covariances[0]))


@pytest.mark.parametrize("name", problems.PEERS)
def test_peers_find_what_is_far_apart(name):
    X, truth, K = bench_clustering.drawn(150, 3, 4, 14, 5)(0)
    assert problems.error(problems.PEERS[name](X, K, 0), truth) == 0


def test_hard_em_ends_at_a_fixed_point_and_keeps_the_best_start():
    X, truth, K = bench_clustering.drawn(300, 3, 5, 6, 10)(1)
    labels, value = problems.hard_em(X, truth, K)
    again, same = problems.hard_em(X, labels, K)
    assert_array_equal(again, labels)
    assert same == pytest.approx(value, rel=1e-12)
    best = problems.by_hard_em(X, K, 0, starts=12)
    assert problems.hard_em(X, best, K)[1] >= value - 1e-6 * abs(value)


def test_hard_em_that_loses_a_cluster_never_wins():
    X = np.random.default_rng(0).standard_normal((30, 2))
    assert problems.hard_em(X, np.zeros(30, int), 2)[1] == -np.inf


def test_the_discriminant_of_the_truth_is_bayes_rule():
    X, truth, K = bench_clustering.drawn(100_000, 2, 3, 4, 1)(0)
    # Two balls of unit variance four apart: errors of Phi(-2), 0.02275, to four standard errors.
    assert problems.error(bench_clustering.discriminant(X, truth, K), truth) == pytest.approx(0.02275, abs=4 * 4.7e-4)


def test_a_row_of_the_suite_compares_with_the_best_peer(monkeypatch):
    truth = np.repeat([0, 1], 5)
    wrong = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    methods = {"sciml": lambda X, K, seed: wrong, "a": lambda X, K, seed: truth, "b": lambda X, K, seed: 0 * truth}
    monkeypatch.setattr(bench_clustering_suite, "methods", lambda case: methods)
    monkeypatch.setattr(bench_clustering_suite, "PEERS", ("a", "b"))
    row = bench_clustering_suite.measured("made up", [(None, truth, 2)] * 2)
    assert (row["sciml"], row["a"], row["b"]) == pytest.approx((0.2, 0.0, 0.5))
    assert row["against best"] == pytest.approx(0.2)
    monkeypatch.setattr(bench_clustering_suite, "PEERS", ("b",))
    row = bench_clustering_suite.measured("made up", [(None, truth, 2)])
    assert row["against best"] == pytest.approx(-0.3)
