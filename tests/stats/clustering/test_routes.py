"""From a problem to a mixture or a partition: units, sketches and lifts, and peers that must not be better."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans

from sciml.datasets import gaussian_clusters
from sciml.exceptions import InvalidInputError
from sciml.random import generator
from sciml.stats.clustering import kmeans_route, mixture_route
from sciml.stats.clustering.kmeans_route import fit_partition
from sciml.stats.clustering.mixture_route import Mixture, fit_mixture, mixture_of, shares, singletons, sketch_size
from sciml.stats.clustering.portfolio import Options, Sample
from sciml.stats.clustering.predictive import PredictiveMixtures

QUICK = Options(prior="pooled", n_init=2, moves=0)


def rows_of(*case, seed=0):
    X, truth = gaussian_clusters(*case, random_state=seed)
    return torch.from_numpy(X - X.mean(0)), truth


def ones(rows):
    return torch.ones(len(rows)).double()


def error(labels, truth):
    labels = np.asarray(labels)
    table = np.zeros((labels.max() + 1, truth.max() + 1))
    np.add.at(table, (labels, truth), 1)
    return 1 - table[linear_sum_assignment(-table)].sum() / len(truth)


def sse(rows, labels, w):
    total = 0.0
    for k in labels.unique():
        own = labels == k
        total += float(w[own] @ (rows[own] - w[own] @ rows[own] / w[own].sum()).square().sum(1))
    return total


# ---------------------------------------------------------------- mixtures in units


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("has_noise", [False, True])
def test_a_mixture_says_the_same_in_the_units_of_the_data(rng, constant, has_noise):
    X = torch.from_numpy(rng.standard_normal((80, 3)) * [1e-3, 1, 50] + [1, 2, -900])
    X[:40, 1] += 5
    if constant:
        X = torch.cat([X, torch.full((80, 2), 7.0).double()], 1)
    sample = Sample(X, ones(X))
    R = torch.nn.functional.one_hot(torch.arange(80) // 40, 2).double()[None]
    density = sample.noise_log_density if has_noise else None
    found = PredictiveMixtures(sample.Z, noise_log_density=density, floor=sample.floor).fit(R, max_iter=5)
    standard = mixture_of(found, sample, has_noise, standard=True)
    whole = mixture_of(found, sample, has_noise)
    one, two = shares(standard, sample.Z), shares(whole, X)
    assert_allclose(one[0], two[0], rtol=0, atol=1e-9)
    assert_allclose(one[1], two[1], rtol=0, atol=1e-9)
    assert_allclose(whole.means[:, :3], standard.means * sample.std + sample.mean[:3], rtol=1e-12)
    assert_allclose(whole.proportions.sum() + whole.noise_proportion, 1, rtol=1e-12)
    assert_allclose(whole.score, standard.score - 80 * float(sample.std.log().sum()), rtol=1e-12)
    assert bool((torch.linalg.eigvalsh(whole.covariances) > 0).all())


def test_shares_are_posterior_probabilities(rng):
    mixture = Mixture(
        torch.tensor([0.2, 0.7], dtype=torch.float64),
        torch.from_numpy(rng.standard_normal((2, 3))),
        torch.from_numpy(np.stack([np.cov(rng.standard_normal((3, 9))) for _ in range(2)])),
        torch.tensor([20.0, 70.0]).double(),
        noise_proportion=0.1,
        noise_log_density=-7.0,
    )
    rows = rng.standard_normal((50, 3))
    law = [multivariate_normal(m, S) for m, S in zip(mixture.means.numpy(), mixture.covariances.numpy(), strict=True)]
    joint = np.stack([0.2 * law[0].pdf(rows), 0.7 * law[1].pdf(rows), np.full(50, 0.1 * math.exp(-7))], 1)
    joint /= joint.sum(1, keepdims=True)
    part, noise = shares(mixture, torch.from_numpy(rows))
    assert_allclose(part, joint[:, :2], rtol=1e-9)
    assert_allclose(noise, joint[:, 2], rtol=1e-9)
    turned = mixture.ordered(torch.tensor([1, 0]))
    assert_allclose(shares(turned, torch.from_numpy(rows))[0], joint[:, [1, 0]], rtol=1e-9)
    assert float(turned.counts[0]) == 70


def test_as_many_clusters_as_rows_are_the_rows(rng):
    rows, counts = torch.from_numpy(rng.standard_normal((6, 2))), torch.tensor([1.0, 2, 1, 1, 4, 1]).double()
    rows[:, 1] = 3.0
    mixture = singletons(rows, counts)
    assert torch.equal(mixture.means, rows)
    assert_allclose(mixture.proportions, counts / 10, rtol=1e-14)
    assert shares(mixture, rows)[0].argmax(1).tolist() == list(range(6))


# ---------------------------------------------------------------- the mixture's route


def test_a_sketch_has_rows_enough_for_every_cluster():
    assert sketch_size(1000, 3) == 1000
    assert sketch_size(10_000, 3) == 1500
    assert sketch_size(10_000, 20) == 3000
    assert sketch_size(2000, 50) == 2000


def test_a_small_problem_is_searched_as_a_whole():
    rows, truth = rows_of(120, 3, 3, 8, 20)
    found, sample, projection, history = fit_mixture(rows, ones(rows), 3, generator(0), QUICK)
    assert found.rows == len(sample.Z) == 120
    assert projection is None
    assert error(found.prediction.memberships[0].argmax(1), truth) < 0.02
    starts = {c["start"] for c in found.candidates}
    assert history["objective"].ndim == 1
    assert len(starts) <= 8


@pytest.mark.parametrize("weighted", [False, True])
def test_a_large_problem_is_searched_on_a_sketch_and_fitted_to_all_rows(monkeypatch, rng, weighted):
    monkeypatch.setattr(mixture_route, "_SEARCH", 450)
    rows, truth = rows_of(1200, 3, 3, 9, 20)
    w = torch.from_numpy(rng.integers(1, 4, 1200)).double() if weighted else ones(rows)
    found, sample, _, _ = fit_mixture(rows, w, 3, generator(0), QUICK)
    assert found.rows == 450
    assert len(sample.Z) == 1200
    labels = found.prediction.memberships[0].argmax(1)
    assert error(labels, truth) < 0.01
    assert_allclose(found.prediction.counts.sum(), w.sum(), rtol=1e-9)
    mixture = mixture_of(found.prediction, sample, found.noise)
    for k in range(3):
        own = labels == k
        mean = w[own] @ rows[own] / w[own].sum()
        assert_allclose(mixture.means[k], mean, rtol=0, atol=0.03)
    whole, _, _, _ = fit_mixture(rows[::2], w[::2], 3, generator(0), QUICK)
    assert whole.structure == found.structure


def test_a_column_that_is_constant_in_the_sketch_alone_is_lifted(monkeypatch, rng):
    monkeypatch.setattr(mixture_route, "_SEARCH", 300)
    rows, truth = rows_of(900, 2, 2, 9, 10)
    rare = torch.zeros(900, 1).double()
    rare[5], rare[700] = 3.0, -2.0
    rows = torch.cat([rows[:, :1], rare, rows[:, 1:]], 1)

    class Apart(np.random.Generator):
        """Draws that avoid the two rows."""

        def choice(self, n, size, replace, p=None):
            return super().choice(np.setdiff1d(np.arange(n), [5, 700]), size, replace=replace)

    found, sample, _, _ = fit_mixture(rows - rows.mean(0), ones(rows), 2, Apart(np.random.PCG64(0)), QUICK)
    assert sample.varying.all()
    assert bool(torch.isfinite(found.prediction.covariances).all())
    assert error(found.prediction.memberships[0].argmax(1), truth) < 0.01


def test_relaxations_on_some_of_the_rows_are_starts_for_all(monkeypatch):
    monkeypatch.setattr(mixture_route, "_RELAX", 90)
    rows, truth = rows_of(300, 3, 3, 9, 20)
    found, _, _, _ = fit_mixture(rows, ones(rows), 3, generator(0), QUICK)
    assert error(found.prediction.memberships[0].argmax(1), truth) == 0
    sample = Sample(rows, ones(rows))
    few = torch.arange(0, 300, 4)
    part = torch.from_numpy(truth)[few]
    assert error(mixture_route._all(part, few, sample, 3).argmax(1), truth) < 0.01
    assert mixture_route._all(part, None, sample, 3) is part


def test_many_features_are_reduced_where_asked_for_or_needed():
    rows, truth = rows_of(90, 3, 100, 14, 3)
    for reduce, q in ((5, 5), (None, 100)):
        found, sample, projection, _ = fit_mixture(rows, ones(rows), 3, generator(0), QUICK, reduce=reduce)
        assert sample.Z.shape[1] == q
        assert (projection is None) == (reduce is None)
    found, sample, projection, _ = fit_mixture(rows, ones(rows), 3, generator(0), QUICK)
    assert sample.Z.shape[1] <= 50
    assert error(found.prediction.memberships[0].argmax(1), truth) == 0
    mixture = mixture_of(found.prediction, sample, found.noise, projection=projection)
    assert mixture.covariances.shape == (3, 100, 100)
    assert bool((torch.linalg.eigvalsh(mixture.covariances) > 0).all())
    # In all features the points have the clusters that they have in the few.
    assert error(shares(mixture, rows)[0].argmax(1), truth) == 0


def test_rows_that_differ_by_rounding_alone_are_refused():
    rows = torch.tensor([[1.0], [1.0 + 2e-16], [1.0]]).double() * 1e3
    rows[1] += 1e-13
    with pytest.raises(InvalidInputError, match="X must vary by more than rounding; its 3 different rows do not"):
        fit_mixture(rows, ones(rows), 2, generator(0), QUICK)


def test_without_refinement_the_alternation_is_the_answer():
    rows, truth = rows_of(90, 3, 3, 9, 20)
    found, _, _, history = fit_mixture(rows, ones(rows), 3, generator(0), QUICK, refine=False)
    assert found.start.startswith("ila-sdp")
    assert found.prediction.n_iter == 1
    assert error(found.prediction.memberships[0].argmax(1), truth) == 0
    assert len(history["objective"]) >= 1


def test_labels_are_the_only_start_where_they_are_given():
    rows, truth = rows_of(90, 3, 3, 9, 20)
    found, _, _, _ = fit_mixture(rows, ones(rows), 3, generator(0), QUICK, init=torch.from_numpy(truth))
    assert {c["start"] for c in found.candidates} <= {"given", "ila-sdp from given"}
    named, _, _, _ = fit_mixture(rows, ones(rows), 3, generator(0), QUICK, init="random")
    assert all("random" in c["start"] or c["start"] == "sdp" for c in named.candidates)


# ---------------------------------------------------------------- the partition's route


@pytest.mark.parametrize(
    ("case", "seed"),
    [((300, 12, 5, 5, 1), 0), ((300, 8, 2, 3, 1), 1), ((250, 15, 10, 4, 5), 2), ((400, 3, 4, 2, 20), 3)],
)
def test_no_sum_of_squares_of_a_hundred_starts_is_smaller(case, seed):
    rows, _ = rows_of(*case, seed=seed)
    K = case[1]
    found = fit_partition(rows, ones(rows), K, generator(0), n_init=3)
    peer = KMeans(K, n_init=100, tol=0, random_state=0).fit(rows.numpy()).inertia_
    assert found.sse <= peer * (1 + 1e-9)
    assert_allclose(sse(rows, found.labels, ones(rows)), found.sse, rtol=1e-12)
    assert found.sse <= min(c["score"] for c in found.candidates) * (1 + 1e-12)
    # The relaxation is below the labels, but for the tolerance that it is solved to.
    assert found.relaxed <= found.sse * (1 + 1e-2)


def test_shares_follow_the_labels_and_sum_to_one(rng):
    rows, truth = rows_of(120, 3, 3, 9, 1)
    w = torch.from_numpy(rng.integers(1, 4, 120)).double()
    found = fit_partition(rows, w, 3, generator(0), n_init=2, tol=1e-5)
    assert error(found.labels, truth) == 0
    assert_allclose(found.membership.sum(1), 1, rtol=1e-12)
    assert torch.equal(found.membership.argmax(1), found.labels)
    assert float(found.membership.min()) >= 0
    # Far clusters: the relaxation is the partition.
    assert_allclose(found.relaxed, found.sse, rtol=1e-3)
    assert_allclose(found.membership.max(1)[0], 1, rtol=0, atol=0.02)
    mixture = found.mixture(rows, w)
    for k in range(3):
        own = found.labels == k
        assert_allclose(mixture.proportions[k], w[own].sum() / w.sum(), rtol=1e-12)
        assert_allclose(mixture.means[k], w[own] @ rows[own] / w[own].sum(), rtol=0, atol=1e-12)
        peer = np.cov(rows[own].numpy().T, aweights=w[own].numpy(), ddof=0)
        assert_allclose(mixture.covariances[k], peer, rtol=0, atol=1e-10)


@pytest.mark.parametrize("init", ["kmeans", "ward", "random", "given"])
def test_a_start_by_name_or_by_labels(init):
    rows, truth = rows_of(90, 3, 3, 9, 1)
    start = torch.arange(90) % 3 if init == "given" else init
    found = fit_partition(rows, ones(rows), 3, generator(0), init=start)
    assert found.candidates[0]["start"] == init
    assert [c["start"] for c in found.candidates[1:]] == ["relaxation", "relaxation at random"]
    assert error(found.labels, truth) == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_a_sketch_of_a_large_problem_is_lifted(monkeypatch, rng, weighted):
    monkeypatch.setattr(kmeans_route, "_WHOLE", {"cpu": 600, "cuda": 600})
    rows, truth = rows_of(3000, 4, 4, 9, 1)
    w = torch.from_numpy(rng.integers(1, 4, 3000)).double() if weighted else ones(rows)
    found = fit_partition(rows, w, 4, generator(0), n_init=2)
    assert found.rows == 600
    assert math.isnan(found.relaxed)
    assert found.solution is None
    assert error(found.labels, truth) < 0.01
    assert_allclose(found.sse, sse(rows, found.labels, w), rtol=1e-10)
    peer = KMeans(4, n_init=5, random_state=0).fit(rows.numpy(), sample_weight=w.numpy()).inertia_
    assert found.sse <= peer * (1 + 1e-3)
    assert_allclose(found.membership.sum(1), 1)


def test_an_exact_relaxation_is_no_further_from_the_labels(rng):
    rows, _ = rows_of(40, 3, 2, 3, 1)
    loose = fit_partition(rows, ones(rows), 3, generator(0), n_init=2)
    exact = fit_partition(rows, ones(rows), 3, generator(0), n_init=2, exact=True)
    assert exact.sse == loose.sse
    assert exact.relaxed <= exact.sse * (1 + 1e-5)
    # Solved by other means, to three digits and to six.
    assert_allclose(loose.relaxed, exact.relaxed, rtol=2e-2)


def test_one_cluster_is_the_mean(rng):
    rows = torch.from_numpy(rng.standard_normal((30, 2)))
    found = fit_partition(rows, ones(rows), 1, generator(0))
    assert found.labels.unique().tolist() == [0]
    assert_allclose(found.sse, float((rows - rows.mean(0)).square().sum()), rtol=1e-12)
