"""Clusters that a mixture has missed are put in; those that are there, and outliers, are left alone."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.mixture import GaussianMixture

from sciml.stats.clustering import overlooked as module
from sciml.stats.clustering.density import log_joint
from sciml.stats.clustering.overlooked import em_step, overlooked


def missed(rng, n=6000, rare=60):
    """Two large clusters and a small one; a mixture of three that has split a large one."""
    X = torch.from_numpy(rng.standard_normal((n, 3)))
    X[: n // 2, 0] += 12
    X[:rare, 1] += 15
    truth = (torch.arange(n) < n // 2).long()
    truth[:rare] = 2
    means = torch.tensor([[0.0, -0.8, 0.0], [0.0, 0.8, 0.0], [12.0, 0.0, 0.0]], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    half = eye - 0.6 * torch.diag(torch.tensor([0.0, 1.0, 0.0])).double()
    return X, truth, (torch.tensor([0.25, 0.25, 0.5]).double(), means, torch.stack([half, half, eye]))


def agree(labels, truth):
    pairs = {(int(a), int(b)) for a, b in zip(labels, truth, strict=True)}
    return len(pairs) == len(truth.unique())


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (1e3, 0.0), (1e-3, 0.0), (1.0, 1e6)])
def test_a_missing_cluster_takes_the_place_of_half_a_cluster(rng, factor, shift):
    X, truth, (pi, means, covariances) = missed(rng)
    found = overlooked(
        factor * X + shift, pi, factor * means + shift, factor**2 * covariances, np.random.default_rng(0)
    )
    assert found is not None
    assert agree(log_joint(factor * X + shift, found[1], found[2], found[0]).argmax(1), truth)
    assert_allclose(found[0].sum(), 1, rtol=1e-9)


def test_nothing_is_moved_where_nothing_is_missing(rng):
    X, truth, _ = missed(rng)
    means = torch.stack([X[truth == k].mean(0) for k in range(3)])
    covariances = torch.stack([torch.cov(X[truth == k].T) for k in range(3)])
    pi = torch.bincount(truth).double() / len(X)
    assert overlooked(X, pi, means, covariances, rng) is None


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_scattered_outliers_are_no_cluster(rng, kind):
    # Even where half a cluster could be spared for them.
    X, _, mixture = missed(rng, rare=0)
    size = (len(X[::50]), 3)
    X[::50] = torch.from_numpy(rng.uniform(-60, 60, size) if kind == "uniform" else 25 * rng.standard_normal(size))
    assert overlooked(X, *mixture, rng) is None


def test_too_few_points_are_no_cluster(rng):
    X, _, mixture = missed(rng, rare=8)
    assert overlooked(X, *mixture, rng) is None


def test_many_rows_are_looked_at_in_part(rng, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 3000)
    monkeypatch.setattr(module, "_GROUPED", 20)
    X, truth, mixture = missed(rng, rare=120)
    found = overlooked(X, *mixture, np.random.default_rng(0), torch.ones(len(X)).double() * 3)
    assert agree(log_joint(X, found[1], found[2], found[0]).argmax(1), truth)


def test_a_step_is_a_step_of_em(rng):
    X, _, (pi, means, covariances) = missed(rng, 40_000)
    w = torch.from_numpy(rng.uniform(0.5, 2, len(X)))
    joint = log_joint(X, means, covariances, pi)
    R = torch.softmax(joint, 1) * w[:, None]
    N = R.sum(0)
    new = em_step(X, pi, means, covariances, w)
    assert_allclose(new[1], R.T @ X / N[:, None], rtol=0, atol=1e-12)
    D = X[:, None] - new[1]
    T = torch.einsum("nk,nki,nkj->kij", R, D, D)
    assert_allclose(new[2], (T + 1.5 * T.sum(0) / N.sum()) / (N + 1.5)[:, None, None], rtol=0, atol=1e-12)
    assert_allclose(new[0], (N + 1) / (N.sum() + 3), rtol=1e-12)
    assert_allclose(new[3], w @ torch.logsumexp(joint, 1), rtol=1e-12)
    # A uniform component takes shares.
    level = math.log(0.1)
    noisy = em_step(X, pi, means, covariances, w, level=level)
    assert_allclose(noisy[3], w @ torch.logsumexp(joint, 1).exp().add(0.1).log(), rtol=1e-12)


def test_steps_lead_where_scikit_learns_do(rng):
    X, _, (pi, means, covariances) = missed(rng, 3000, rare=300)
    means[0] = torch.tensor([12.0, 15.0, 0.0])
    w = torch.ones(len(X)).double()
    mixture = (pi, means, covariances)
    for _ in range(30):
        *mixture, value = em_step(X, *mixture, w)
    peer = GaussianMixture(3, means_init=means.numpy(), tol=1e-6).fit(X.numpy())
    assert_allclose(value / len(X), peer.score(X.numpy()), rtol=1e-4)


def test_the_same_numbers_give_the_same_answer(rng):
    X, truth, (pi, means, covariances) = missed(rng)
    answers = [overlooked(X, pi, means, covariances, np.random.default_rng(4)) for _ in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(*answers, strict=True))
