"""Fewer coordinates: exact identities, known directions, and labels that are better with than without."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment
from sklearn.covariance import OAS
from sklearn.decomposition import PCA

from sciml.stats.clustering import reduction
from sciml.stats.clustering.lloyd import kmeans
from sciml.stats.clustering.predictive import PredictiveMixtures
from sciml.stats.clustering.reduction import advised, discriminant, principal, row_space, whitened


def gaussians(rng, n, K, p, sep, cond, shared=False):
    """Means along axes; covariances of random orientation and condition number, own ones or one for all."""
    labels = rng.integers(0, K, n)
    X = rng.standard_normal((n, p))
    for k in range(K):
        if k == 0 or not shared:
            Q, _ = np.linalg.qr(rng.standard_normal((p, p)))
            e = np.exp(rng.uniform(-0.5, 0.5, p) * np.log(cond))
            root = np.sqrt(e / np.exp(np.log(e).mean()))
        own = labels == k
        X[own] = (X[own] * root) @ Q.T
        X[own, k] += sep / np.sqrt(2)
    return torch.from_numpy(X), torch.from_numpy(labels)


def error(labels, truth):
    K = int(max(labels.max(), truth.max())) + 1
    table = np.zeros((K, K))
    np.add.at(table, (labels.numpy(), truth.numpy()), 1)
    rows, columns = linear_sum_assignment(-table)
    return 1 - table[rows, columns].sum() / len(truth)


def every(X, rng, weights=None):
    labels = torch.arange(len(X)) % 3
    return {
        "row_space": row_space(X, weights),
        "principal": principal(X, 3, rng, weights),
        "whitened": whitened(X, weights),
        "discriminant": discriminant(X, labels, 4, weights),
    }


@pytest.mark.parametrize(("n", "p"), [(60, 7), (12, 30)])
def test_the_way_back_is_the_way_there(rng, n, p):
    X, _ = gaussians(rng, n, 3, p, 3.0, 10.0)
    for found in every(X, rng).values():
        q = found.into.shape[1]
        assert_allclose(found.into.T @ found.back, np.eye(q), rtol=0, atol=1e-8)
        Y = torch.from_numpy(rng.standard_normal((5, q)))
        assert_allclose(found.project(found.lift_means(Y)), Y, rtol=0, atol=1e-8)
        root = torch.from_numpy(rng.standard_normal((2, q, q)))
        C = root @ root.mT + torch.eye(q, dtype=torch.float64)
        lifted = found.lift_covariances(C)
        assert_allclose(found.into.T @ lifted @ found.into, C, rtol=0, atol=1e-6 * float(C.abs().max()))
        assert float(torch.linalg.eigvalsh(lifted).min()) > 0


@pytest.mark.parametrize("name", ["principal", "discriminant", "whitened"])
def test_labels_by_the_lifted_mixture_are_those_in_the_coordinates(rng, name):
    X, _ = gaussians(rng, 80, 3, 6, 3.0, 10.0)
    found = every(X, rng)[name]
    q = found.into.shape[1]
    root = torch.from_numpy(rng.standard_normal((3, q, q)))
    covariances = root @ root.mT + 0.3 * torch.eye(q, dtype=torch.float64)
    means = torch.from_numpy(rng.standard_normal((3, q)))

    def costs(X, means, covariances):
        columns = []
        for mean, C in zip(means, covariances, strict=True):
            D = X - mean
            columns.append((D * torch.linalg.solve(C, D.T).T).sum(1) + torch.logdet(C))
        return torch.stack(columns, 1)

    few = costs(found.project(X), means, covariances)
    all_ = costs(X, found.lift_means(means), found.lift_covariances(covariances))
    # What the other directions cost is the same for all clusters.
    assert_allclose(all_ - all_[:, :1], few - few[:, :1], rtol=0, atol=1e-8 * float(few.abs().max()))


def test_the_row_space_keeps_distances(rng):
    X, _ = gaussians(rng, 20, 3, 100, 3.0, 10.0)
    w = torch.from_numpy(rng.uniform(0.5, 2, 20))
    Y = row_space(X, w).project(X)
    assert Y.shape == (20, 19)
    assert_allclose(torch.pdist(Y), torch.pdist(X), rtol=1e-12)
    assert_allclose(w @ Y, 0, atol=1e-11)
    few = row_space(X[:, :5])
    assert_allclose(few.project(X[:, :5]), X[:, :5] - X[:, :5].mean(0), rtol=0, atol=1e-14)
    assert row_space(X[:1]).project(X[:1]).abs().max() == 0


@pytest.mark.parametrize(("n", "p"), [(50, 10), (10, 50), (450, 410), (410, 450)])
def test_principal_components_are_scikit_learns(rng, n, p):
    X, _ = gaussians(rng, n, 3, p, 9.0, 4.0)
    peer = PCA(2, svd_solver="full").fit(X.numpy())
    found = principal(X, 2, rng)
    assert_allclose(abs(found.into.numpy().T @ peer.components_.T), np.eye(2), rtol=0, atol=2e-3)
    Y = found.project(X)
    assert_allclose(Y.square().sum(0) / (n - 1), peer.explained_variance_, rtol=1e-5)
    total = float((X - X.mean(0)).square().sum())
    assert_allclose(found.outside * (p - 2) * n + float(Y.square().sum()), total, rtol=1e-10)


def test_a_weight_of_two_is_a_repeated_row(rng):
    X, _ = gaussians(rng, 60, 3, 6, 3.0, 10.0)
    count = torch.from_numpy(rng.integers(1, 4, 60))
    labels = torch.arange(60) % 3
    repeated = X.repeat_interleave(count, 0)
    pairs = [
        (principal(X, 3, rng, count.double()), principal(repeated, 3, rng)),
        (whitened(X, count.double()), whitened(repeated)),
        (discriminant(X, labels, 4, count.double()), discriminant(repeated, labels.repeat_interleave(count), 4)),
    ]
    for one, two in pairs:
        # Directions of the decompositions may come with the other sign.
        assert_allclose(one.project(X).abs(), two.project(X).abs(), rtol=0, atol=1e-8)
        assert_allclose(one.lift_covariances(0 * one.into.T @ one.into + torch.eye(one.into.shape[1]).double()),
                        two.lift_covariances(0 * two.into.T @ two.into + torch.eye(two.into.shape[1]).double()),
                        rtol=0, atol=1e-8)  # fmt: skip


@pytest.mark.parametrize("name", ["principal", "whitened", "discriminant"])
def test_units_do_not_matter(rng, name):
    X, _ = gaussians(rng, 90, 3, 6, 3.0, 10.0)
    one, two = every(X, rng)[name], every(X * 2.0**20 + 2.0**20, rng)[name]
    factor = 2.0**20 if name == "principal" else 1.0
    assert_allclose(two.project(X * 2.0**20 + 2.0**20).abs(), factor * one.project(X).abs(), rtol=0, atol=1e-7 * factor)


def test_whitened_points_have_variance_one(rng):
    X, _ = gaussians(rng, 400, 3, 6, 3.0, 50.0)
    Y = whitened(X).project(X)
    peer = OAS().fit(X.numpy()).covariance_
    assert_allclose(whitened(X).lift_covariances(torch.eye(6).double()[None])[0], peer, rtol=2e-3, atol=2e-3)
    assert_allclose(Y.T @ Y / 400, np.eye(6), rtol=0, atol=0.1)


def test_clusters_hidden_by_common_variation_come_out(rng):
    X, truth = gaussians(rng, 1000, 4, 20, 4.0, 100.0, shared=True)
    assert error(kmeans(X, 4, rng)[0], truth) > 0.3
    assert error(kmeans(whitened(X).project(X), 4, rng)[0], truth) < 0.1


def test_discriminants_are_fishers_directions(rng):
    X, truth = gaussians(rng, 3000, 3, 8, 6.0, 30.0, shared=True)
    found = discriminant(X, truth, 2)
    # Within the clusters the coordinates are uncorrelated with variance one, and the means differ in nothing else.
    R = X - torch.stack([X[truth == k].mean(0) for k in range(3)])[truth]
    assert_allclose(found.into.T @ (R.T @ R) @ found.into / 3000, np.eye(2), rtol=0, atol=0.02)
    means = torch.stack([X[truth == k].mean(0) for k in range(3)]) - X.mean(0)
    W = R.T @ R / 3000
    whole = (means * torch.linalg.solve(W, means.T).T).sum(1)
    assert_allclose(found.project(means + X.mean(0)).square().sum(1), whole, rtol=0.02)


def test_directions_of_unlike_covariances_are_found(rng):
    labels = torch.from_numpy(rng.integers(0, 2, 2000))
    X = torch.from_numpy(rng.standard_normal((2000, 10)))
    X[labels == 0, 3] *= 3.0
    X[labels == 1, 7] *= 0.2
    found = discriminant(X, labels, 10)
    own = found.into / found.into.norm(dim=0)
    assert own.shape[1] in (3, 4)
    # Mean differences are noise; both directions lie in the span of the rest.
    Q = torch.linalg.qr(found.into).Q
    for axis in (3, 7):
        assert float(Q[axis].square().sum()) > 0.95
    nothing = discriminant(torch.from_numpy(rng.standard_normal((2000, 10))), labels, 10)
    assert nothing.into.shape[1] == 1
    assert discriminant(X, labels, 2).into.shape[1] == 2


def test_memberships_may_be_shares(rng):
    X, truth = gaussians(rng, 200, 3, 5, 4.0, 10.0)
    hard = torch.nn.functional.one_hot(truth).double()
    one, two = discriminant(X, truth, 4), discriminant(X, hard, 4)
    assert_allclose(one.into, two.into, rtol=0, atol=1e-12)
    soft = discriminant(X, 0.9 * hard + 0.1 / 3, 4)
    assert soft.into.shape[0] == 5


def test_reductions_can_be_joined(rng):
    X, truth = gaussians(rng, 200, 3, 9, 4.0, 10.0)
    first = principal(X, 6, rng)
    second = discriminant(first.project(X), truth, 3)
    both = first.then(second)
    assert_allclose(both.project(X), second.project(first.project(X)), rtol=0, atol=1e-10)
    C = torch.eye(both.into.shape[1]).double()[None]
    assert_allclose(both.lift_covariances(C), first.lift_covariances(second.lift_covariances(C)), rtol=0, atol=1e-10)
    M = torch.from_numpy(rng.standard_normal((3, both.into.shape[1])))
    assert_allclose(both.lift_means(M), first.lift_means(second.lift_means(M)), rtol=0, atol=1e-10)


def test_what_is_advised_costs_what_it_says():
    assert advised(300, 10, 3) == (10, True)
    q, whole = advised(1000, 200, 4)
    assert whole
    assert 4 * 1000 * 4 * q**2 + 20 * 4 * q**3 <= reduction._SEARCH
    # No more than half a point for each direction and cluster.
    assert advised(400, 400, 4) == (50, True)
    assert advised(2000, 4000, 4)[1] is False
    assert advised(20, 5000, 10)[0] == 10


def test_all_features_do_better_than_principal_components(rng):
    X, truth = gaussians(rng, 200, 4, 40, 6.0, 20.0)
    start = kmeans(X, 4, rng)[0]
    R = torch.nn.functional.one_hot(start, 4).double()[None]

    def fitted(Y):
        Y = Y - Y.mean(0)
        return error(PredictiveMixtures(Y, structure="spherical").fit(R).memberships[0].argmax(1), truth)

    assert error(start, truth) > 0.01
    assert fitted(X) <= 0.012
    assert fitted(principal(X, 12, rng).project(X)) >= fitted(X)


def test_a_search_in_few_components_finds_starts_for_all_features(rng):
    X, truth = gaussians(rng, 400, 4, 200, 6.0, 20.0)
    Y = principal(X, advised(400, 200, 4)[0], rng).project(X)
    start = torch.nn.functional.one_hot(kmeans(Y, 4, rng)[0], 4).double()[None]
    few = PredictiveMixtures(Y, structure="spherical").fit(start, max_iter=30).memberships
    whole = PredictiveMixtures(X - X.mean(0), structure="spherical").fit(few, max_iter=15).memberships[0].argmax(1)
    assert error(start[0].argmax(1), truth) > 0.02
    assert error(whole, truth) <= 0.015


def test_points_that_coincide_and_single_features(rng):
    same = torch.ones(9, 3, dtype=torch.float64)
    for found in (row_space(same), principal(same, 2, rng), whitened(same), discriminant(same, torch.arange(9) % 2, 2)):
        assert torch.isfinite(found.into).all()
        assert float(found.project(same).abs().max()) == 0
    X = torch.from_numpy(rng.standard_normal((9, 1)))
    for found in every(X, rng).values():
        assert found.into.shape == (1, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(rng):
    X, truth = gaussians(rng, 500, 3, 450, 9.0, 4.0)
    one = principal(X, 2, np.random.default_rng(0)).project(X)
    two = principal(X.cuda(), 2, np.random.default_rng(0)).project(X.cuda())
    assert_allclose(one, two.cpu(), rtol=0, atol=1e-3)
