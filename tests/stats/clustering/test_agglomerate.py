"""Mergers by marginal likelihood: densities multiplied one by one, a slow twin over all pairs, limits."""

import itertools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import multivariate_t

from sciml.stats.clustering.agglomerate import agglomerate, group_moments, log_marginal


def by_definition(X, W, nu):
    """Log marginal likelihood of points: each predicted by those before it, the first one flat."""
    n, p = X.shape
    value = 0.0
    for i in range(1, n):
        D = X[:i] - X[:i].mean(0)
        dof = nu + i - p
        shape = (nu * W + D.T @ D) * (i + 1) / (i * dof)
        value += multivariate_t(X[:i].mean(0), shape, df=dof).logpdf(X[i])
    return value


def slow_twin(X, labels, n_clusters, W, nu):
    """Merge sets of rows, all pairs judged anew each time."""
    groups = [np.flatnonzero(labels == g) for g in np.unique(labels)]
    while len(groups) > n_clusters:
        gains = {}
        for a, b in itertools.combinations(range(len(groups)), 2):
            union = np.concatenate([groups[a], groups[b]])
            parts = sum(by_definition(X[groups[g]], W, nu) for g in (a, b))
            gains[a, b] = by_definition(X[union], W, nu) - parts
        a, b = max(gains, key=gains.get)
        groups[a] = np.concatenate([groups[a], groups.pop(b)])
    out = np.empty(len(X), dtype=int)
    for k, rows in enumerate(groups):
        out[rows] = k
    return out


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_the_marginal_likelihood_is_a_product_of_predictive_densities(rng, p, n):
    X, nu = rng.standard_normal((n, p)), p + 2.5
    W = np.cov(rng.standard_normal((p, 20))).reshape(p, p)
    _, _, T = group_moments(torch.from_numpy(X), torch.zeros(n, dtype=torch.int64), 1, torch.ones(n).double())
    value = log_marginal(torch.tensor(float(n)).double(), T[0], torch.from_numpy(W), nu)
    assert_allclose(value, by_definition(X, W, nu) + (n - 1) * p / 2 * np.log(np.pi), rtol=1e-10, atol=1e-10)


def test_of_many_groups_at_once_the_values_are_those_of_each(rng):
    A = torch.from_numpy(rng.standard_normal((5, 3, 6)))
    T, N, W = A @ A.mT, torch.from_numpy(rng.uniform(0, 9, 5)), torch.eye(3).double()
    together = log_marginal(N, T, W, 6.0)
    assert_allclose(together, [log_marginal(n, t, W, 6.0) for n, t in zip(N, T, strict=True)], rtol=1e-14)


def test_moments_of_groups_are_counts_means_and_scatters(rng):
    X, w = torch.from_numpy(rng.standard_normal((40, 3))), torch.from_numpy(rng.uniform(0.5, 2, 40))
    labels = torch.from_numpy(rng.choice([0, 1, 3], 40))  # number 2 is empty
    N, m, T = group_moments(X, labels, 4, w)
    for g in (0, 1, 3):
        own = (labels == g).numpy()
        assert_allclose(N[g], w[own].sum(), rtol=1e-14)
        assert_allclose(m[g], np.average(X[own], axis=0, weights=w[own]), rtol=1e-12)
        assert_allclose(T[g], np.cov(X[own].T, aweights=w[own], ddof=0) * float(w[own].sum()), rtol=1e-10, atol=1e-12)
    assert float(N[2]) == 0
    assert bool((T[2] == 0).all())


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_mergers_is_that_of_the_slow_twin(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((24, 2)) * [3, 0.5] + 4 * rng.integers(0, 2, (24, 1))
    labels = np.argsort(np.argsort(X[:, 0])) // 3  # eight groups along the first axis
    labels = rng.permutation(8)[labels]
    W = np.diag([0.3, 0.2])
    for K in (1, 2, 3, 5, 8):
        found = agglomerate(
            torch.from_numpy(X), torch.from_numpy(labels), 8, K, torch.ones(24).double(), torch.from_numpy(W), nu=4.0
        )
        assert found.unique().tolist() == list(range(K))
        twin = slow_twin(X, labels, K, W, 4.0)
        assert len(set(zip(found.tolist(), twin.tolist(), strict=True))) == K


def test_clusters_are_numbered_by_their_first_group(rng):
    # Group 0 is near to group 5, and both near to group 3, which takes them up.
    centres = torch.tensor([0.0, 100.0, 200.0, 0.1, 201.0, 0.2]).double()
    labels = torch.arange(6).repeat_interleave(5)
    X = (centres[labels] + 0.05 * torch.from_numpy(rng.standard_normal(30)))[:, None]
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 37):
        number = torch.tensor(order)
        found = agglomerate(X, number[labels], 6, 3, torch.ones(30).double(), torch.eye(1).double())
        first = [int(number[labels][found == k].min()) for k in range(3)]
        assert first == sorted(first)
        assert found[0] == found[15] == found[25]
        assert found[10] == found[20]


def test_long_clusters_are_put_together_again(rng):
    # k-means would cut the three strips across.
    truth = np.arange(450) // 150
    X = rng.standard_normal((450, 2)) * [30, 0.3] + 3 * truth[:, None] * [0, 1]
    groups = 8 * truth + np.concatenate([np.argsort(np.argsort(X[truth == k, 0])) * 8 // 150 for k in range(3)])
    # Numbers of groups say nothing of their clusters.
    groups = torch.from_numpy(rng.permutation(24)[groups])
    found = agglomerate(torch.from_numpy(X), groups, 24, 3, torch.ones(450).double(), 0.1 * torch.eye(2).double())
    assert len(set(zip(found.tolist(), truth.tolist(), strict=True))) == 3


def test_weights_are_repeated_rows(rng):
    X, labels = torch.from_numpy(rng.standard_normal((40, 2))), torch.from_numpy(rng.integers(0, 10, 40))
    counts = torch.from_numpy(rng.integers(1, 4, 40))
    one = agglomerate(X, labels, 10, 3, counts.double(), torch.eye(2).double())
    repeated = X.repeat_interleave(counts, 0)
    two = agglomerate(
        repeated, labels.repeat_interleave(counts), 10, 3, torch.ones(len(repeated)).double(), torch.eye(2).double()
    )
    assert torch.equal(one.repeat_interleave(counts), two)


def test_units_do_not_matter(rng):
    X, labels = torch.from_numpy(rng.standard_normal((60, 3))), torch.from_numpy(rng.integers(0, 12, 60))
    one, two = (
        agglomerate(u * X, labels, 12, 4, torch.ones(60).double(), u**2 * torch.eye(3).double()) for u in (1, 2.0**20)
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("case", ["empty groups", "same points", "single points", "enough already"])
def test_degenerate_groups(rng, case):
    X, labels, K = torch.from_numpy(rng.standard_normal((20, 2))), torch.arange(20) // 4, 2
    if case == "empty groups":
        labels = 3 * labels + 1
    elif case == "same points":
        X = torch.zeros_like(X)
    elif case == "single points":
        labels = torch.arange(20)
    else:
        K = 5
    M = int(labels.max()) + 3
    found = agglomerate(X, labels, M, K, torch.ones(20).double(), torch.eye(2).double())
    assert found.unique().tolist() == list(range(K))
    if case == "enough already":
        assert torch.equal(found, labels)
