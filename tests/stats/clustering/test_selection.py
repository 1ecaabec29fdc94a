"""How many clusters: planted numbers, criteria by their formulas, ranges, warnings."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sciml.datasets import gaussian_clusters
from sciml.exceptions import FallbackWarning, InvalidInputError
from sciml.stats.clustering import cluster, select_n_clusters, selection

# One structure and no outliers: several times as fast as the default.
QUICK = {"covariance_prior": "spherical", "random_state": 0}


def blobs(K, n=16, p=2, seed=0):
    rng = np.random.default_rng(seed)
    centres = 15 * np.stack([np.cos(2 * np.pi * np.arange(K) / K), np.sin(2 * np.pi * np.arange(K) / K)], 1)
    return np.repeat(centres if K > 1 else 0 * centres, n, axis=0) + rng.standard_normal((n * K, p))


@pytest.mark.parametrize("K", [1, 3])
def test_a_planted_number_is_found(K):
    found = select_n_clusters(blobs(K), range(1, 5), **QUICK)
    assert found.n_clusters == K
    assert found.numbers.tolist() == [1, 2, 3, 4]
    assert found.bic.argmin() == found.icl.argmin() == K - 1
    assert found.criterion == "bic"
    assert [row["n_clusters"] for row in found.report] == [1, 2, 3, 4]


def test_clusters_of_unlike_covariances_are_counted_with_all_structures():
    X, _ = gaussian_clusters(75, 3, 3, 8, 20, random_state=0)
    assert select_n_clusters(X, (2, 3, 4), random_state=0).n_clusters == 3


@pytest.mark.parametrize("criterion", ["bic", "icl", "predictive"])
def test_the_number_is_where_the_criterion_is_smallest(criterion):
    X, _ = gaussian_clusters(50, 3, 2, 4, 20, random_state=0)
    found = select_n_clusters(X, (1, 2, 3), criterion, **QUICK)
    assert found.n_clusters == found.numbers[getattr(found, criterion).argmin()]
    assert found.criterion == criterion


def test_without_a_range_it_stops_where_nothing_improves(monkeypatch):
    found = select_n_clusters(blobs(2), **QUICK)
    assert found.n_clusters == 2
    assert found.numbers.tolist() == [1, 2, 3, 4, 5]  # three after the best
    monkeypatch.setattr(selection, "_MOST", 3)
    assert select_n_clusters(blobs(2), **QUICK).numbers.tolist() == [1, 2, 3]
    monkeypatch.setattr(selection, "_PATIENCE", 9)
    # At most as many as different rows.
    with pytest.warns(FallbackWarning, match="the number is uncertain"):
        assert select_n_clusters([[0.0], [0.0], [9.0], [9.0]], **QUICK).numbers.tolist() == [1, 2]


def test_criteria_are_those_of_the_clusters():
    X = blobs(3)
    found = select_n_clusters(X, [3], **QUICK)
    res = cluster(X, 3, n_init=5, certify=False, **QUICK)
    assert_allclose(found.bic, res.bic, rtol=1e-6)
    assert_allclose(found.icl, res.icl, rtol=1e-6)
    entropy = -np.sum(res.membership * np.log(np.maximum(res.membership, 1e-300)))
    assert_allclose(found.icl - found.bic, 2 * entropy, rtol=0, atol=1e-3)


def test_icl_counts_overlap_and_bic_does_not():
    X, _ = gaussian_clusters(120, 2, 2, 2.5, 1, random_state=1)
    found = select_n_clusters(X, (1, 2), **QUICK)
    assert_allclose(found.icl[0], found.bic[0], rtol=1e-12)  # one cluster: nothing to be uncertain of
    assert found.icl[1] > found.bic[1] + 10


def test_weights_are_repeated_rows():
    X = blobs(2)
    counts = 1 + np.arange(32) % 3
    one = select_n_clusters(X, (1, 2, 3), sample_weight=counts, **QUICK)
    two = select_n_clusters(np.repeat(X, counts, axis=0), (1, 2, 3), **QUICK)
    assert_allclose(one.bic, two.bic, rtol=1e-10)
    assert one.n_clusters == two.n_clusters == 2


def test_units_do_not_matter():
    X = blobs(3)
    one, two = (select_n_clusters(u * X, (2, 3, 4), **QUICK) for u in (1, 2.0**20))
    assert two.n_clusters == one.n_clusters == 3
    # All likelihoods change by the same.
    assert_allclose(two.bic - two.bic[0], one.bic - one.bic[0], rtol=0, atol=1e-3)
    assert_allclose(two.bic - one.bic, 2 * 48 * 2 * 20 * np.log(2), rtol=1e-6)


def test_the_same_seed_gives_the_same_answer():
    X = blobs(2)
    one, two = (select_n_clusters(X, (1, 2, 3), **QUICK) for _ in range(2))
    assert_array_equal(one.bic, two.bic)
    assert_array_equal(one.predictive, two.predictive)


def test_outliers_do_not_become_clusters():
    X = blobs(2, n=40)
    X[::16] = np.random.default_rng(3).uniform(-80, 80, (5, 2))
    found = select_n_clusters(X, (1, 2, 3), noise=True, **QUICK)
    assert found.n_clusters == 2
    assert found.settings["noise"] is True


def test_few_points_bring_a_warning():
    X, _ = gaussian_clusters(60, 3, 8, 12, 5, random_state=0)
    with pytest.warns(FallbackWarning, match="chosen by 'bic' from 60 points with 8 features, fewer than 5 K p = 120"):
        assert select_n_clusters(X, (3,), **QUICK).n_clusters == 3


def test_the_result_is_a_table():
    found = select_n_clusters(blobs(2), (1, 2), **QUICK)
    table = found.to_xarray()
    assert table["bic"].sel(candidate=2).item() == found.bic[1]
    assert found.settings["criterion"] == "bic"
    assert found.converged


@pytest.mark.parametrize(
    ("numbers", "options", "text"),
    [
        ((0, 1), {}, "range must be an integer at least 1; got 0"),
        ((1, 2.5), {}, "got 2.5"),
        ((2, 99), {}, "at most the 32 different rows of X; got 99"),
        ((), {}, "range must hold at least one number"),
        ((1,), {"criterion": "aic"}, "criterion must be one of 'bic', 'icl', 'predictive'; got 'aic'"),
        ((1,), {"covariance_prior": "fool"}, "covariance_prior must be one of"),
        ((1,), {"sample_weight": np.ones(3)}, "sample_weight must have one real number"),
    ],
)
def test_bad_arguments_are_named(numbers, options, text):
    with pytest.raises(InvalidInputError, match=text):
        select_n_clusters(blobs(2), numbers, random_state=0, **options)
