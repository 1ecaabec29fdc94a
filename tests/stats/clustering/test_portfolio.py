"""The search: standard units, starts, structures that fit the sample, outliers, ties."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.datasets import gaussian_clusters
from sciml.random import generator
from sciml.stats.clustering import portfolio
from sciml.stats.clustering.portfolio import PRIORS, Options, Sample, gather_starts, search_mixture


def sample_of(X, weights=None):
    X = torch.as_tensor(np.asarray(X, dtype=float))
    return Sample(X, torch.ones(len(X)).double() if weights is None else torch.as_tensor(weights).double())


def clusters(n, K, p, separation, seed=0, condition=20):
    X, truth = gaussian_clusters(n, K, p, separation, condition, random_state=seed)
    return sample_of(X), truth


def same(labels, truth):
    """Whether the clusters are those of the truth but for their names."""
    return len(set(zip(np.asarray(labels).tolist(), truth.tolist(), strict=True))) == len(np.unique(truth))


def found_labels(found):
    return found.prediction.memberships[0].argmax(1)


# ---------------------------------------------------------------- standard units


def test_standard_units_have_mean_zero_and_variance_one(rng):
    X, w = rng.standard_normal((50, 3)) * [1e-6, 1, 1e6] + [5, 0, -1e7], rng.uniform(0.5, 3, 50)
    sample = sample_of(X, w)
    assert_allclose(w @ sample.Z.numpy() / w.sum(), 0, atol=1e-8)
    assert_allclose(w @ sample.Z.numpy() ** 2 / w.sum(), 1, rtol=1e-9)
    assert_allclose(sample.Z * sample.std + sample.mean, X, rtol=1e-12)
    assert_allclose(sample.raw, X - sample.mean.numpy(), rtol=1e-12, atol=1e-12)
    # A multiple of the unit matrix in the units of the data.
    assert_allclose(sample.metric * sample.std**2, [float((sample.std**2).mean())] * 3, rtol=1e-12)
    assert_allclose(sample.noise_log_density, -np.log(np.ptp(X, axis=0) / sample.std.numpy()).sum(), rtol=1e-12)


def test_columns_that_vary_by_rounding_are_constant(rng):
    X = rng.standard_normal((40, 4))
    X[:, 1] = 3.0
    X[:, 2] = 1e8 * (1 + np.finfo(float).eps * rng.integers(-2, 3, 40))
    sample = sample_of(X)
    assert sample.varying.tolist() == [True, False, False, True]
    assert sample.Z.shape == (40, 2)
    assert sample.mean.shape == (4,)
    small = sample_of(1e-30 * X[:, [0, 3]])  # small is not constant
    assert small.varying.all()
    assert_allclose(small.Z, sample.Z, rtol=1e-9)


def test_the_floor_is_the_variance_of_a_step_where_values_repeat(rng):
    n = 200
    X = np.column_stack([rng.integers(0, 9, n), 0.1 * rng.integers(-3, 3, n), rng.standard_normal(n)])
    # Six values, but the smallest step between two of them is a half.
    X = np.column_stack([X, rng.choice([0, 0.5, 2, 3, 7, 11], n), rng.integers(0, 2, n)])
    sample = sample_of(X)
    steps = np.array([1, 0.1, 0, 0.5, 1])
    assert_allclose(sample.floor, (steps / sample.std.numpy()) ** 2 / 12 + 1e-9, rtol=1e-6)
    scaled = sample_of(1e-5 * X + 1e3)
    assert_allclose(scaled.floor[[0, 1, 3, 4]], sample.floor[[0, 1, 3, 4]], rtol=1e-3)


def test_a_sample_without_varying_columns_has_no_columns():
    sample = sample_of(np.ones((5, 2)))
    assert sample.Z.shape == (5, 0)
    assert sample.noise_log_density == 0


# ---------------------------------------------------------------- starts


def test_starts_are_labels_of_k_clusters_by_name():
    sample, truth = clusters(120, 3, 4, 8)
    starts = gather_starts(sample, 3, generator(0), n_init=3)
    names = {"kmeans", "ward", "kmeans-standard", "ward-standard"}
    assert names < set(starts)
    assert {f"agglomerate-{size}{suffix}" for size in (20, 36) for suffix in ("", "-standard")} < set(starts)
    assert "random" not in starts
    for labels in starts.values():
        assert labels.dtype == torch.int64
        assert labels.unique().tolist() == [0, 1, 2]
    assert same(starts["ward"], truth)
    again = gather_starts(sample, 3, generator(0), n_init=3)
    assert all(torch.equal(starts[name], again[name]) for name in starts)


def test_wanted_starts_only():
    sample, _ = clusters(60, 3, 2, 8)
    for name in ("kmeans", "ward", "kmeans-standard", "ward-standard", "random"):
        assert list(gather_starts(sample, 3, generator(0), wanted=(name,))) == [name]
    labels = gather_starts(sample, 3, generator(1), wanted=("random",))["random"]
    assert not torch.equal(labels, gather_starts(sample, 3, generator(2), wanted=("random",))["random"])
    assert torch.bincount(labels).min() > 5


def test_standard_starts_do_not_depend_on_the_units_of_columns():
    X, truth = gaussian_clusters(90, 3, 3, 9, 4, random_state=0)
    X[:, 2] *= 1e4  # hides the others where units matter
    starts = gather_starts(sample_of(X), 3, generator(0))
    assert same(starts["kmeans-standard"], truth)
    assert same(starts["ward-standard"], truth)
    assert not same(starts["kmeans"], truth)
    assert not same(starts["ward"], truth)


def test_nested_clusters_are_started_by_likelihood(rng):
    X = np.concatenate([0.2 * rng.standard_normal((150, 2)), 4 * rng.standard_normal((150, 2))])
    truth = np.arange(300) // 150
    starts = gather_starts(sample_of(X), 2, generator(0))

    def error(labels):
        wrong = np.mean(labels.numpy() != truth)
        return min(wrong, 1 - wrong)

    # k-means cuts the shell in two.
    assert error(starts["kmeans"]) > 0.25
    assert min(error(labels) for name, labels in starts.items() if name.startswith("agglomerate")) < 0.15


# ---------------------------------------------------------------- search


def test_the_answer_has_the_best_score_of_all_candidates():
    sample, _ = clusters(150, 3, 4, 3)
    starts = gather_starts(sample, 3, generator(0), n_init=2)
    found = search_mixture(sample, 3, generator(0), starts, Options(moves=1))
    score = float(found.prediction.score[0])
    best = max(found.candidates, key=lambda c: c["score"])
    assert score >= best["score"] - 1e-8 * abs(best["score"])
    assert {c["structure"] for c in found.candidates} == set(PRIORS["auto"])
    assert any(c["noise"] for c in found.candidates)
    assert any(c["start"].endswith("split and merged") for c in found.candidates)
    assert found.structure == best["structure"]
    assert found.noise == best["noise"] == (found.model.noise_log_density is not None)
    assert found.prediction.memberships.shape == (1, 150, 3)


def test_like_covariances_are_tied_and_unlike_ones_free(rng):
    n, truth = 300, np.arange(300) % 2
    A = np.linalg.qr(rng.standard_normal((4, 4)))[0] * [4, 1, 1, 0.25]
    noise = rng.standard_normal((n, 4))
    alike = 3 * truth[:, None] * A.T[3] * 2 + noise @ A.T
    unlike = np.where(truth[:, None] == 0, noise @ A.T, noise @ A.T[:, ::-1]) + 6 * truth[:, None]
    strengths = []
    for X in (alike, unlike):
        sample = sample_of(X)
        found = search_mixture(sample, 2, generator(0), gather_starts(sample, 2, generator(0)), Options())
        assert np.mean(found_labels(found).numpy() == truth) in (pytest.approx(1, abs=0.02), pytest.approx(0, abs=0.02))
        strengths.append(float(found.prediction.strengths[0]))
    assert strengths[0] > 1000
    assert strengths[1] < 50


@pytest.mark.parametrize("prior", ["pooled", "diag", "spherical", "none"])
def test_a_prior_by_name_is_the_only_one_that_is_tried(prior):
    sample, truth = clusters(90, 3, 3, 9)
    starts = gather_starts(sample, 3, generator(0), n_init=2)
    found = search_mixture(sample, 3, generator(0), starts, Options(prior=prior, moves=1))
    assert {c["structure"] for c in found.candidates} == set(PRIORS[prior]) == {found.structure}
    assert not any(c["noise"] for c in found.candidates)
    assert same(found_labels(found), truth)
    W = found.prediction.centres[0]
    if prior == "spherical":
        data_units = W.diagonal() * sample.std**2
        assert_allclose(data_units, data_units.mean().expand(3), rtol=1e-10)
    if prior == "none":
        # What the points say and nothing else.
        own = sample.Z[found_labels(found) == 0]
        assert_allclose(
            found.prediction.covariances[0, 0], torch.cov(own.T, correction=0), rtol=0, atol=1e-4 * float(own.var())
        )


def test_a_strength_is_kept():
    sample, _ = clusters(90, 3, 3, 4)
    starts = gather_starts(sample, 3, generator(0), n_init=2)
    found = search_mixture(sample, 3, generator(0), starts, Options(strength=37.0, moves=1))
    assert float(found.prediction.strengths[0]) == 37


def test_hard_steps_give_hard_memberships():
    sample, _ = clusters(90, 3, 3, 3)
    starts = gather_starts(sample, 3, generator(0), n_init=2)
    found = search_mixture(sample, 3, generator(0), starts, Options(prior="pooled", refine="cem", moves=1))
    assert set(found.prediction.memberships.unique().tolist()) == {0.0, 1.0}
    soft = search_mixture(sample, 3, generator(0), starts, Options(prior="pooled", moves=1))
    assert len(soft.prediction.memberships.unique()) > 2


def test_one_step_judges_the_starts_and_moves_none():
    sample, truth = clusters(90, 3, 3, 9)
    starts = {"wrong": torch.from_numpy((truth + np.arange(90)) % 3), "right": torch.from_numpy(truth)}
    found = search_mixture(sample, 3, generator(0), starts, Options(), max_iter=1)
    assert found.start == "right"
    assert {c["start"] for c in found.candidates} == {"wrong", "right"}
    assert found.prediction.n_iter == 1


def test_memberships_are_starts_too(rng):
    sample, truth = clusters(90, 3, 3, 9)
    R = torch.from_numpy(rng.dirichlet([1, 1, 1], 90) + 2 * np.eye(3)[truth]) / 3
    found = search_mixture(sample, 3, generator(0), {"soft": R}, Options(moves=0))
    assert same(found_labels(found), truth)
    assert found.start.startswith("soft")


# ---------------------------------------------------------------- outliers


def planted(rng, n=200):
    """Two clusters, and ten points far from both and from one another."""
    truth = np.arange(n) % 2
    X = rng.standard_normal((n, 2)) + 8 * truth[:, None]
    far = np.arange(0, n, n // 10)
    X[far] = rng.uniform(-60, 60, (len(far), 2))
    return X, truth, far


def test_outliers_are_a_component_of_their_own_whether_asked_for_or_not(rng):
    X, truth, far = planted(rng)
    sample = sample_of(X)
    starts = gather_starts(sample, 2, generator(0))
    for asked in (True, False):
        found = search_mixture(sample, 2, generator(0), starts, Options(noise=asked))
        assert found.noise
        outside = (found.prediction.noise_memberships[0] > 0.5).nonzero()[:, 0].tolist()
        assert set(outside) <= set(far.tolist())
        assert len(outside) >= 8
        kept = np.setdiff1d(np.arange(200), far)
        assert same(found_labels(found)[kept], truth[kept])


def test_clean_samples_have_no_component_for_outliers_unless_asked_for():
    sample, _ = clusters(200, 2, 3, 8)
    starts = gather_starts(sample, 2, generator(0))
    assert not search_mixture(sample, 2, generator(0), starts, Options()).noise
    asked = search_mixture(sample, 2, generator(0), starts, Options(noise=True))
    assert asked.noise
    assert float(asked.prediction.noise[0]) < 4


def test_small_samples_have_outliers_too(rng):
    # Too few for tenth neighbours.
    X = np.concatenate([rng.standard_normal((9, 2)), [[90.0, -70.0]], [20, 20] + rng.standard_normal((9, 2))])
    sample = sample_of(X)
    assert portfolio._in_company(sample, 2) is None
    starts = {"given": torch.tensor([0] * 10 + [1] * 9)}
    found = search_mixture(sample, 2, generator(0), starts, Options(noise=True))
    assert found.noise
    assert (found.prediction.noise_memberships[0] > 0.5).nonzero()[:, 0].tolist() == [9]


def test_company_is_what_has_near_neighbours(rng):
    X, _, far = planted(rng)
    inner = portfolio._in_company(sample_of(X), 2)
    assert 0.8 <= float(inner.double().mean()) <= 0.86
    assert not bool(inner[far].any())


# ---------------------------------------------------------------- invariances


def test_units_and_order_of_columns_do_not_matter():
    X, _ = gaussian_clusters(120, 3, 3, 4, 20, random_state=1)
    founds = []
    for Y in (X, 2.0**30 * X, X[:, ::-1].copy()):
        sample = sample_of(Y)
        founds.append(search_mixture(sample, 3, generator(0), {"given": torch.arange(120) % 3}, Options(moves=1)))
    one, scaled, turned = founds
    assert one.structure == scaled.structure == turned.structure
    for other in (scaled, turned):
        assert_allclose(other.prediction.score, one.prediction.score, rtol=1e-8)
        # Clusters may change their names where two proposals tie.
        labels = found_labels(one).numpy()
        order = [int(found_labels(other)[labels == k].mode()[0]) for k in range(3)]
        assert_allclose(other.prediction.memberships[..., order], one.prediction.memberships, rtol=0, atol=1e-4)


def test_weights_are_repeated_rows(rng):
    X, _ = gaussian_clusters(60, 2, 3, 4, 20, random_state=1)
    counts = rng.integers(1, 4, 60)
    start = np.arange(60) % 2
    one = search_mixture(
        sample_of(X, counts), 2, generator(0), {"given": torch.from_numpy(start)}, Options(prior="pooled", moves=2)
    )
    two = search_mixture(
        sample_of(np.repeat(X, counts, axis=0)),
        2,
        generator(0),
        {"given": torch.from_numpy(np.repeat(start, counts))},
        Options(prior="pooled", moves=2),
    )
    assert_allclose(one.prediction.score, two.prediction.score, rtol=1e-8)
    expanded = np.repeat(one.prediction.memberships[0].numpy(), counts, axis=0)
    assert_allclose(expanded, two.prediction.memberships[0], rtol=0, atol=1e-5)


def test_of_starts_that_end_alike_the_first_is_kept():
    score = torch.tensor([5.0, -3.0, 5.0, 5.0 - 1e-9, 4.0]).double()
    assert portfolio._distinct(score) == [0, 4, 1]
