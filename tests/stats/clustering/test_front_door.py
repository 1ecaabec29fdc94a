"""`cluster` as a user meets it: invariances, tables of errors, bad input."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from sciml.datasets import gaussian_clusters, labelled_table
from sciml.exceptions import ConvergenceWarning, FallbackWarning, InvalidInputError
from sciml.stats.clustering import cluster, optimality_gap


def error(labels, truth):
    table = np.zeros((truth.max() + 1, max(labels.max(), truth.max()) + 1))
    np.add.at(table, (truth[labels >= 0], labels[labels >= 0]), 1)
    rows, columns = linear_sum_assignment(-table)
    return 1 - table[rows, columns].sum() / len(truth)


@pytest.fixture(scope="module")
def unlike():
    """Clusters of unlike covariances, 90 points."""
    return gaussian_clusters(90, 3, 4, 6, 20, random_state=1)


@pytest.fixture(scope="module")
def plain(unlike):
    """What each method makes of them, fitted once."""
    return {method: cluster(unlike[0], 3, method=method, random_state=0) for method in ("ila-sdp", "kmeans-sdp")}


@pytest.mark.parametrize("method", ["ila-sdp", "kmeans-sdp"])
@pytest.mark.parametrize("change", [lambda X: 1e3 * X, lambda X: X / 1e3, lambda X: X + 1e6])
def test_units_and_origin_do_not_matter(unlike, plain, method, change):
    changed = cluster(change(unlike[0]), 3, method=method, random_state=0)
    np.testing.assert_array_equal(changed.labels, plain[method].labels)
    assert changed.certified == plain[method].certified


def test_order_of_rows_does_not_matter(unlike, plain):
    X, _ = unlike
    order = np.random.default_rng(0).permutation(len(X))
    shuffled = cluster(X[order], 3, random_state=0)
    assert error(shuffled.labels, plain["ila-sdp"].labels[order]) == 0
    assert shuffled.objective == pytest.approx(plain["ila-sdp"].objective, rel=1e-9)


def test_weights_are_repeated_rows(unlike):
    X, _ = unlike
    weights = 1 + np.arange(len(X)) % 2
    weighted = cluster(X, 3, sample_weight=weights, random_state=0)
    repeated = cluster(np.repeat(X, weights, axis=0), 3, random_state=0)
    np.testing.assert_array_equal(np.repeat(weighted.labels, weights), repeated.labels)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-10)
    assert weighted.lower_bound == pytest.approx(repeated.lower_bound, rel=1e-6)


def test_rows_of_weight_zero_are_labelled_only(unlike):
    X, truth = unlike
    weights = (np.arange(len(X)) >= 10).astype(float)
    found, without = (
        cluster(*a, random_state=0, **k) for a, k in (((X, 3), {"sample_weight": weights}), ((X[10:], 3), {}))
    )
    np.testing.assert_allclose(np.sort(found.means, 0), np.sort(without.means, 0), rtol=1e-10)
    assert error(found.labels, truth) <= 0.05


@pytest.mark.parametrize(
    ("setting", "most"), [((300, 3, 10, 3, 20), 0.087), ((300, 3, 10, 5, 20), 0.029), ((200, 4, 40, 6, 20), 0.0325)]
)
def test_errors_of_the_table(setting, most):
    X, truth = gaussian_clusters(*setting, random_state=0)
    assert error(cluster(X, setting[1], random_state=0, certify=False).labels, truth) <= most


def test_real_tables():
    for name, most in (("iris", 0.05), ("wine", 0.05), ("penguins", 0.03)):
        table = labelled_table(name)
        assert error(cluster(table.X, 3, random_state=0, certify=False).labels, np.asarray(table.labels)) <= most


def test_outliers_are_noise_when_asked_for_and_harmless_when_not():
    X, truth = gaussian_clusters(300, 3, 10, 5, 20, random_state=0)
    rng = np.random.default_rng(7)
    at = rng.random(300) < 0.05
    X[at] = rng.uniform(-12, 12, (at.sum(), 10))
    marked = cluster(X, 3, noise=True, random_state=0, certify=False)
    assert error(np.where(marked.labels < 0, 0, marked.labels)[~at], truth[~at]) < 0.05
    assert np.mean(marked.labels[at] == -1) > 0.9
    np.testing.assert_allclose(marked.membership.sum(1) + marked.noise_probability, 1, atol=1e-12)
    plain = cluster(X, 3, random_state=0, certify=False)
    assert plain.labels.min() == 0
    assert error(plain.labels[~at], truth[~at]) < 0.05


def test_what_comes_back_fits_together(unlike, plain):
    X, _ = unlike
    res = plain["ila-sdp"]
    objective, bound, _ = optimality_gap(X, res.labels, res.covariances)
    assert res.objective == pytest.approx(objective, rel=1e-9)
    assert res.lower_bound <= res.objective
    assert res.gap == pytest.approx(res.objective - res.lower_bound, abs=1e-9)
    assert bound <= objective
    np.testing.assert_array_equal(res.predict(X), res.labels)
    np.testing.assert_allclose(res.membership.sum(1), 1)
    np.testing.assert_array_equal(
        np.unique(res.labels, return_index=True)[1], np.sort(np.unique(res.labels, return_index=True)[1])
    )
    assert res.log_likelihood == pytest.approx(res.score_samples(X).sum(), rel=1e-9)
    again = cluster(X, 3, random_state=0)
    assert np.array_equal(again.membership, res.membership)


def test_k_means_is_never_worse_than_a_hundred_starts():
    X, _ = gaussian_clusters(600, 12, 6, 6, 1, random_state=3)
    best = KMeans(12, n_init=100, random_state=0).fit(X).inertia_
    assert cluster(X, 12, method="kmeans-sdp", random_state=0, certify=False).objective <= best * (1 + 1e-9)


def test_a_sketch_is_lifted_to_all_rows():
    X, truth = gaussian_clusters(6000, 3, 3, 8, 10, random_state=0)
    res = cluster(X, 3, random_state=0)
    assert res.report["rows_searched"] == 1500
    assert error(res.labels, truth) < 0.01
    assert np.isnan(res.lower_bound)
    assert not res.certified


def test_the_number_of_clusters_is_found():
    X, _ = gaussian_clusters(90, 3, 2, 12, 4, random_state=0)
    assert cluster(X, "auto", covariance_prior="spherical", random_state=0, certify=False).n_clusters == 3


def test_few_points():
    assert cluster([[0.0], [5.0]], 2, random_state=0).labels.tolist() == [0, 1]
    assert cluster(np.arange(6.0)[:, None], 1, random_state=0).certified
    assert len(np.unique(cluster(np.random.default_rng(0).random((7, 3)), 7, random_state=0).labels)) == 7
    wide = np.random.default_rng(0).standard_normal((20, 60)) + np.repeat([[0.0], [4.0]], 10, axis=0)
    assert error(cluster(wide, 2, random_state=0, certify=False).labels, np.repeat([0, 1], 10)) == 0
    with pytest.warns(FallbackWarning, match="all rows of X are equal: there will be 1 cluster"):
        assert cluster(np.ones((5, 2)), 3, random_state=0).n_clusters == 1
    with pytest.warns(FallbackWarning, match="X has 3 different rows"):
        assert cluster(np.repeat(np.eye(3), 4, axis=0), 5, random_state=0).n_clusters == 3


def test_tensors_come_back_as_tensors(unlike, plain):
    X, _ = unlike
    res = cluster(torch.as_tensor(X), 3, random_state=0, certify=False)
    assert isinstance(res.labels, torch.Tensor)
    np.testing.assert_allclose(res.means.numpy(), plain["ila-sdp"].means, atol=1e-8)


def test_an_unfinished_fit_says_so(unlike):
    X, _ = unlike
    rng = np.random.default_rng(0).standard_normal(X.shape)
    with pytest.warns(ConvergenceWarning, match=r"memberships still changing by .*tol=1e-09; raise max_iter"):
        assert not cluster(rng, 5, max_iter=2, tol=1e-9, random_state=0, certify=False).converged


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (([[0.0], [np.nan]], 2), {}, r"X must be finite; the entry at index \(1, 0\) is nan"),
        (([[0.0], [np.inf]], 2), {}, "X must be finite"),
        (([[0.0]], 1), {}, "X must have at least 2 rows to be clustered; got n_samples=1"),
        (([0.0, 1.0], 2), {}, r"got \(2,\). Reshape it by"),
        ((np.eye(3), 0), {}, "n_clusters must be an integer at least 1; got 0"),
        ((np.eye(3), 4), {}, "at most the number of points, n_samples=3; got 4"),
        ((np.eye(3), "some"), {}, "n_clusters must be an integer or 'auto'; got 'some'"),
        ((sp.eye(3), 2), {}, "X must be dense; got a sparse"),
        ((np.eye(3) * 1j, 2), {}, "X must be real"),
        ((np.eye(3), 2), {"sample_weight": [1, -1, 1]}, "entry at index 1 is -1"),
        ((np.eye(3), 2), {"sample_weight": [0, 0, 0]}, "all 3 are zero"),
        ((np.eye(3), 2), {"sample_weight": [1, 1]}, r"each of the 3 rows of X; got shape \(2,\)"),
        ((np.eye(3), 2), {"method": "kmean-sdp"}, "Did you mean 'kmeans-sdp'"),
        ((np.eye(3), 2), {"covariance_prior": "poled"}, "Did you mean 'pooled'"),
        ((np.eye(3), 2), {"init": [0, 1, 2]}, "at most n_clusters=2 different labels; got 3"),
        ((np.eye(3), 2), {"certify": "yes"}, "certify must be one of"),
        ((np.eye(3), 2), {"method": "kmeans-sdp", "noise": True}, "noise must be left alone for method='kmeans-sdp'"),
        ((np.eye(3) * 1e-200, 2), {}, "Rescale it"),
    ],
)
def test_bad_arguments_are_named(arguments, options, text):
    with pytest.raises(InvalidInputError, match=text):
        cluster(*arguments, random_state=0, **options)
