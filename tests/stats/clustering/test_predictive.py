"""Leave-one-out mixtures: points really removed, marginal likelihoods by other means, invariances, limits."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import logsumexp, multigammaln
from scipy.stats import multivariate_t

from sciml.stats.clustering import predictive
from sciml.stats.clustering.predictive import STRUCTURES, PredictiveMixtures, evidence


def clouds(rng, n=90, p=3, K=3, distance=4.0, unlike=True):
    """Standardised points around distant means, with spreads that grow from cluster to cluster, and their clusters."""
    labels = np.arange(n) % K
    means = distance * rng.standard_normal((K, p))
    spread = 1 + 0.7 * labels[:, None] if unlike else 1.0
    X = means[labels] + spread * rng.standard_normal((n, p))
    return torch.from_numpy((X - X.mean(0)) / X.std(0)), torch.from_numpy(labels)


def soft(rng, S, n, K):
    """Memberships with rows that sum to one, none of them zero."""
    R = torch.from_numpy(rng.gamma(1.0, size=(S, n, K)))
    return R / R.sum(-1, keepdim=True)


def hard(labels, K):
    return torch.nn.functional.one_hot(labels, K).double()[None]


def moments(X, weights):
    """Count, mean and scatter by definition."""
    N = weights.sum()
    mean = weights @ X / N
    return N, mean, (weights[:, None] * (X - mean)).T @ (X - mean)


def moments_of(X, labels, K):
    """Counts, means and scatters of hard clusters, zero for empty ones."""
    parts = [moments(X, (labels == k).double()) for k in range(K)]
    return tuple(torch.stack(part).nan_to_num() for part in zip(*parts, strict=True))


def slow_log_joint(X, R, noise, found, weights, floor, noise_log_density=None):
    """Log proportion times density of all points, with every point's own share taken out before anything is computed.

    The centre and the strength of the prior, and the floor, are those of all points.
    """
    n, p = X.shape
    K = R.shape[1]
    nu, W = float(found.strengths[0]), found.centres[0].numpy()
    components = K + (noise_log_density is not None)
    joint = np.empty((n, components))
    for i in range(n):
        one = min(weights[i], 1.0)
        total = weights.sum() - one + components
        for k in range(K):
            left = weights * R[:, k]
            whole = left.sum()
            left[i] -= one * R[i, k]
            N, mean, T = moments(X, left)
            C = nu * W + T + np.diag(floor) * max(whole, 1.0)
            dof = nu + N - p
            shape = C * (N + 1) / (N * dof)
            joint[i, k] = np.log((N + 1) / total) + multivariate_t(mean, shape, df=dof).logpdf(X[i])
        if noise_log_density is not None:
            share = weights @ noise - one * noise[i] + 1
            joint[i, K] = np.log(share / total) + noise_log_density
    return joint


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("weighted", [False, True])
def test_points_are_judged_as_if_they_were_removed(rng, structure, weighted):
    X, _ = clouds(rng, n=30)
    R = soft(rng, 1, 30, 3)
    # Below one, one, and above one: a part of a point, and one of several, is set aside.
    w = torch.from_numpy(rng.choice([0.4, 1.0, 2.5], 30)) if weighted else torch.ones(30).double()
    floor = torch.tensor([1e-3, 2e-3, 3e-3]).double()
    model = PredictiveMixtures(X, w if weighted else None, structure, floor=floor)
    found = model.fit(R, max_iter=1)
    joint = slow_log_joint(X.numpy(), R[0].numpy(), np.zeros(30), found, w.numpy(), floor.numpy())
    free = {"full": 6, "diagonal": 3, "spherical": 1}[structure]
    # Random labels have like covariances: nu is 1e6, and log Gamma(nu / 2) has nine digits after the point.
    assert_allclose(found.score[0], w.numpy() @ logsumexp(joint, axis=1) - free, rtol=0, atol=1e-7)
    assert_allclose(found.memberships[0], np.exp(joint - logsumexp(joint, axis=1, keepdims=True)), rtol=0, atol=1e-8)


def test_points_of_a_component_for_outliers_are_removed_from_it_too(rng):
    X, _ = clouds(rng, n=30)
    shares = soft(rng, 1, 30, 4)
    R, noise = shares[..., :3], shares[..., 3]
    w = torch.from_numpy(rng.choice([0.4, 1.0, 2.5], 30))
    floor = torch.full((3,), 1e-3).double()
    model = PredictiveMixtures(X, w, noise_log_density=-4.0, strength=9.0, floor=floor)
    found = model.fit(R, noise=noise, max_iter=1)
    assert_allclose(found.noise, w @ noise[0], rtol=1e-13)
    # Proportions sum to one, that of the outliers included.
    joint = slow_log_joint(X.numpy(), R[0].numpy(), noise[0].numpy(), found, w.numpy(), np.full(3, 1e-3), -4.0)
    share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    assert_allclose(found.score[0], w.numpy() @ logsumexp(joint, axis=1) - 6 - 1, rtol=1e-11)
    assert_allclose(found.memberships[0], share[:, :3], rtol=0, atol=1e-9)
    assert_allclose(found.noise_memberships[0], share[:, 3], rtol=0, atol=1e-9)


def test_without_leaving_out_the_density_is_that_of_all_points_and_integrates_to_one(rng):
    X, _ = clouds(rng, n=40, p=1, K=2)
    R = soft(rng, 1, 40, 2)
    model = PredictiveMixtures(X, leave_one_out=False, strength=9.0)
    found = model.fit(R, max_iter=1)
    nu, W = 9.0, float(found.centres[0])
    grid = np.linspace(-60, 60, 20_001)[:, None]
    density, at_points = 0.0, 0.0
    for k in range(2):
        N, mean, T = moments(X.numpy(), R[0, :, k].numpy())
        scale = (nu * W + T + 1e-9 * N) * (N + 1) / (N * (nu + N - 1))
        law = multivariate_t(mean, scale, df=nu + N - 1)
        density = density + (N + 1) / (40 + 2) * law.pdf(grid)
        at_points = at_points + (N + 1) / (40 + 2) * law.pdf(X.numpy())
    assert_allclose(np.trapezoid(density, grid[:, 0]), 1, rtol=1e-9)
    assert_allclose(found.score[0], np.log(at_points).sum() - 1, rtol=1e-12)


# ---------------------------------------------------------------- the prior


def log_marginal_likelihood(nu, W, N, T):
    """Of the scatters of K clusters under inverse-Wishart priors, but for what depends on the counts alone."""
    p = len(W)
    value = 0.0
    for n, scatter in zip(N, T, strict=True):
        value += nu / 2 * np.linalg.slogdet(nu * W)[1] - multigammaln(nu / 2, p)
        value -= (nu + n - 1) / 2 * np.linalg.slogdet(nu * W + scatter)[1] - multigammaln((nu + n - 1) / 2, p)
    return value


def test_the_evidence_is_the_marginal_likelihood_of_the_scatters(rng):
    p, K = 4, 3
    grid = torch.tensor([3.4, 5.0, 17.0, 400.0]).double()
    N, T = np.array([2.0, 9.5, 31.0]), np.stack([A @ A.T for A in rng.standard_normal((K, p, p))])
    W = np.cov(rng.standard_normal((p, 30)))
    lam = np.linalg.eigvals(np.linalg.solve(W, T)).real
    value = evidence(grid, torch.from_numpy(N[None] - 1), torch.from_numpy(lam[None]))[0]
    truth = np.array([log_marginal_likelihood(float(nu), W, N, T) for nu in grid])
    # The determinant of W to the power of the counts is the same for every strength.
    assert_allclose(value - value[0], truth - truth[0], rtol=1e-10)


def test_the_strength_maximises_the_marginal_likelihood_on_its_grid(rng):
    X, labels = clouds(rng)
    floor = torch.full((3,), 1e-6).double()
    model = PredictiveMixtures(X, floor=floor)
    found = model.fit(hard(labels, 3), max_iter=1)
    N, _, T = zip(*(moments(X.numpy(), (labels == k).double().numpy()) for k in range(3)), strict=True)
    T = np.stack(T) + 1e-6 * 30 * np.eye(3)
    W = T.sum(0) / 90  # the centre that the first estimate sees
    values = [log_marginal_likelihood(float(nu), W, N, T) for nu in model.grid]
    assert float(found.strengths[0]) == float(model.grid[int(np.argmax(values))])
    assert model.grid[0] > 2  # no density below p - 1


def test_the_strength_tells_like_from_unlike_covariances(rng):
    alike, labels = clouds(rng, n=600, unlike=False)
    unlike, _ = clouds(rng, n=600)
    strengths = [float(PredictiveMixtures(X).fit(hard(labels, 3)).strengths[0]) for X in (alike, unlike)]
    assert strengths[0] > 1000
    assert strengths[1] < 50
    assert float(PredictiveMixtures(alike, strength=7.0).fit(hard(labels, 3)).strengths[0]) == 7.0


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("strength", [4.0, 30.0, 1e5])
def test_the_centre_is_a_stationary_point_of_the_marginal_likelihood(rng, structure, strength):
    X, labels = clouds(rng)
    metric = torch.tensor([1.0, 2.0, 5.0]).double() if structure == "spherical" else None
    model = PredictiveMixtures(X, structure=structure, metric=metric, strength=strength)
    found = model.fit(hard(labels, 3), max_iter=1)
    N, m, T = (t[None] for t in moments_of(X, labels, 3))
    state = {"centres": found.centres, "strengths": found.strengths}
    for _ in range(20):
        state = model._parameters(N, m, T, N[:, 0], state, 1)
    W, T = state["centres"][0], state["scatters"][0]
    if structure == "full":
        A = W.clone().requires_grad_()
        centre = A
    elif structure == "diagonal":
        A = W.diagonal().clone().requires_grad_()
        centre = torch.diag(A)
        assert torch.equal(W, torch.diag(W.diagonal()))
    else:
        A = (W[0, 0] / metric[0]).clone().requires_grad_()
        centre = A * torch.diag(metric)
        assert_allclose(W, (A * torch.diag(metric)).detach(), rtol=1e-14)
    value = 3 * strength / 2 * torch.logdet(centre)
    value = value - ((strength + N[0] - 1) / 2 * torch.logdet(strength * centre + T)).sum()
    (slope,) = torch.autograd.grad(value, A)
    size = 1.5 * strength * (torch.linalg.inv(A.detach()) if structure == "full" else 1 / A.detach()).abs().max()
    assert float(slope.abs().max() / size) < 1e-9


def test_the_centre_follows_the_points_also_where_the_prior_is_strong(rng):
    # From labels with covariances far too large, a fixed point that contracts by nu / (nu + n) would stay there.
    X, labels = clouds(rng, n=300, distance=3.0, unlike=False)
    poor = torch.where(torch.arange(300) < 150, labels, torch.from_numpy(rng.integers(0, 3, 300)))
    found = PredictiveMixtures(X, strength=1e6).fit(hard(poor, 3), max_iter=200, tol=1e-9)
    # All covariances are one: the pooled one.
    assert_allclose(found.centres[0], found.scatters[0].sum(0) / (300 - 3), rtol=0, atol=2e-5)


def test_an_empty_cluster_leaves_the_centre_to_the_others(rng):
    X, labels = clouds(rng, n=60, K=2, unlike=False)
    N, m, T = (t[None] for t in moments_of(X, labels, 3))
    assert N.tolist() == [[30, 30, 0]]
    centres = []
    for K in (2, 3):
        model = PredictiveMixtures(X, strength=8.0, floor=torch.zeros(3).double())
        state = None
        for step in range(80):
            state = model._parameters(N[:, :K], m[:, :K], T[:, :K], N[:, 0], state, step)
        centres.append(state["centres"])
    # It says nothing of W: the others decide.
    assert_allclose(centres[1], centres[0], rtol=1e-9)


# ---------------------------------------------------------------- invariances


def test_a_weight_of_two_is_a_repeated_row(rng):
    X, _ = clouds(rng, n=40)
    R, counts = soft(rng, 2, 40, 3), torch.from_numpy(rng.integers(1, 4, 40))
    one = PredictiveMixtures(X, counts.double(), noise_log_density=-5.0).fit(R, max_iter=20)
    two = PredictiveMixtures(X.repeat_interleave(counts, 0), noise_log_density=-5.0).fit(
        R.repeat_interleave(counts, 1), max_iter=20
    )
    assert_allclose(one.score, two.score, rtol=1e-10)
    assert_allclose(one.memberships.repeat_interleave(counts, 1), two.memberships, rtol=0, atol=1e-8)
    assert_allclose(one.centres, two.centres, rtol=1e-8)


def test_many_starts_at_once_are_starts_one_by_one(rng):
    X, labels = clouds(rng)
    R = torch.cat([soft(rng, 4, 90, 3), hard(labels, 3)])
    model = PredictiveMixtures(X)
    together = model.fit(R, max_iter=25, tol=1e-4)
    for s in range(5):
        alone = model.fit(R[s : s + 1], max_iter=25, tol=1e-4)
        # The last digit depends on the shape of the products.
        assert_allclose(together.score[s], alone.score[0], rtol=1e-10)
        assert_allclose(together.memberships[s], alone.memberships[0], rtol=0, atol=1e-8)
        assert_allclose(together.change[s], alone.change[0], rtol=1e-5, atol=1e-10)
        assert_allclose(together.pick(s).covariances, alone.covariances, rtol=1e-7, atol=1e-9)


def test_tiles_of_rows_change_nothing(rng, monkeypatch):
    X, _ = clouds(rng, n=700)
    R, w = soft(rng, 2, 700, 3), torch.from_numpy(rng.uniform(0.5, 2, 700))
    whole = PredictiveMixtures(X, w, noise_log_density=-6.0).fit(R, max_iter=10)
    monkeypatch.setattr(predictive, "_KEPT", 0)
    anew = PredictiveMixtures(X, w, noise_log_density=-6.0).fit(R, max_iter=10)
    monkeypatch.setattr(predictive, "_TILE", 1)
    tiled_model = PredictiveMixtures(X, w, noise_log_density=-6.0)
    assert [rows.start for rows, _ in tiled_model._tiles(6)] == [0, 256, 512]
    tiled = tiled_model.fit(R, max_iter=10)
    for other in (anew, tiled):
        assert_allclose(other.score, whole.score, rtol=1e-11)
        assert_allclose(other.memberships, whole.memberships, rtol=0, atol=1e-9)
        assert_allclose(other.change, whole.change, rtol=0, atol=1e-9)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_units_move_the_score_by_the_logarithm_of_the_unit(rng, structure):
    X, _ = clouds(rng)
    R, floor = soft(rng, 1, 90, 3), torch.full((3,), 1e-6).double()
    one = PredictiveMixtures(X, structure=structure, floor=floor).fit(R, max_iter=30)
    two = PredictiveMixtures(2.0**10 * X, structure=structure, floor=4.0**10 * floor).fit(R, max_iter=30)
    assert_allclose(two.memberships, one.memberships, rtol=0, atol=1e-9)
    assert_allclose(two.score, one.score - 270 * 10 * np.log(2), rtol=1e-11)
    assert_allclose(two.covariances, 4.0**10 * one.covariances, rtol=1e-7)


def test_a_full_centre_turns_with_the_frame(rng):
    X, _ = clouds(rng)
    R, Q = soft(rng, 1, 90, 3), torch.linalg.qr(torch.from_numpy(rng.standard_normal((3, 3))))[0]
    one, two = PredictiveMixtures(X).fit(R, max_iter=20), PredictiveMixtures(X @ Q.T).fit(R, max_iter=20)
    assert_allclose(two.score, one.score, rtol=1e-10)
    assert_allclose(two.centres, Q @ one.centres @ Q.T, rtol=0, atol=1e-8)


# ---------------------------------------------------------------- steps


def test_more_steps_never_score_less(rng):
    X, labels = clouds(rng, n=40)
    poor = torch.where(torch.arange(40) < 20, labels, torch.from_numpy(rng.integers(0, 3, 40)))
    model = PredictiveMixtures(X)
    scores = [float(model.fit(hard(poor, 3), max_iter=steps, tol=0).score[0]) for steps in range(1, 30)]
    assert (np.diff(scores) >= 0).all()
    assert scores[-1] > scores[0] + 1


def test_distant_clusters_are_found_from_a_poor_start(rng):
    X, labels = clouds(rng, n=150, distance=10.0)
    poor = labels.clone()
    poor[:60] = torch.from_numpy(rng.integers(0, 3, 60))
    found = PredictiveMixtures(X).fit(hard(poor, 3))
    assert torch.equal(found.memberships[0].argmax(1), labels)
    assert float(found.change[0]) <= 1e-5
    assert_allclose(found.counts[0].sum(), 150, rtol=1e-9)


def test_hard_steps_give_every_point_to_one_cluster(rng):
    X, _ = clouds(rng, distance=2.0)
    R = soft(rng, 2, 90, 3)
    found = PredictiveMixtures(X, hard=True).fit(R, max_iter=50)
    assert torch.equal(found.memberships.max(2)[0], torch.ones(2, 90).double())
    assert torch.equal(found.memberships.sum(2), torch.ones(2, 90).double())
    assert_allclose(found.counts.sum(1), 90, rtol=1e-12)
    first, gentle = (PredictiveMixtures(X, hard=h).fit(R, max_iter=1).memberships for h in (True, False))
    assert torch.equal(first.argmax(2), gentle.argmax(2))


def test_tempered_steps_begin_with_a_power_of_three_tenths_and_end_with_one(rng):
    X, _ = clouds(rng)
    R = soft(rng, 1, 90, 3)
    model = PredictiveMixtures(X)
    plain, tempered = model.fit(R, max_iter=1), model.fit(R, max_iter=1, temper=10)
    powers = plain.memberships**0.3
    assert_allclose(tempered.memberships, powers / powers.sum(2, keepdim=True), rtol=1e-10)
    end = model.fit(R, max_iter=200, temper=10, tol=1e-9)
    # It goes on for all tempered steps, though labels may stay, and is stationary for the power one.
    assert end.n_iter > 10
    again = model.fit(end.memberships, max_iter=1)
    assert_allclose(again.memberships, end.memberships, rtol=0, atol=1e-3)


def test_the_component_for_outliers_takes_what_is_far(rng):
    X, labels = clouds(rng, n=120, p=2, K=2, distance=3.0, unlike=False)
    X = X.clone()
    far = torch.arange(0, 120, 20)
    X[far] = torch.from_numpy(rng.choice([-1, 1], (6, 2)) * rng.uniform(20, 60, (6, 2)))
    R = hard(labels, 2)
    found = PredictiveMixtures(X, noise_log_density=-2 * np.log(120)).fit(R)
    outside = found.noise_memberships[0] > 0.5
    assert outside.nonzero()[:, 0].tolist() == far.tolist()
    assert_allclose(found.memberships.sum(2) + found.noise_memberships, torch.ones(1, 120), rtol=1e-12)
    without = PredictiveMixtures(X).fit(R)
    assert float(found.score[0]) > float(without.score[0]) + 10
    # Far points would blow the covariances up.
    assert float(torch.linalg.det(found.covariances[0]).max()) < 0.1 * float(
        torch.linalg.det(without.covariances[0]).max()
    )


def test_covariances_lie_between_centre_and_scatter(rng):
    X, labels = clouds(rng)
    found = PredictiveMixtures(X, strength=12.0, floor=torch.zeros(3).double()).fit(hard(labels, 3), max_iter=1)
    for k in range(3):
        N, _, T = moments(X, (labels == k).double())
        assert_allclose(found.scatters[0, k], T, rtol=0, atol=1e-10)
        assert_allclose(found.covariances[0, k], (12 * found.centres[0] + T) / (12 + N), rtol=0, atol=1e-11)


# ---------------------------------------------------------------- limits


def test_one_cluster_keeps_all_points(rng):
    X, _ = clouds(rng)
    found = PredictiveMixtures(X).fit(torch.ones(1, 90, 1).double())
    assert torch.equal(found.memberships, torch.ones(1, 90, 1).double())
    assert_allclose(found.means[0, 0], X.mean(0), rtol=0, atol=1e-12)
    assert found.n_iter == 1


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("case", ["constant in a cluster", "integers", "few points", "empty", "single", "same"])
def test_degenerate_samples_stay_finite(rng, structure, case):
    X, labels = clouds(rng, n=60)
    K = 3
    if case == "constant in a cluster":
        X[labels == 0, 1] = 0.3
    elif case == "integers":
        X = X.round()
    elif case == "few points":
        X, labels, K = torch.from_numpy(rng.standard_normal((12, 8))), torch.arange(12) % 5, 5
    elif case == "empty":
        K = 4
    elif case == "single":
        labels[:] = 1
        labels[0], labels[1] = 0, 2
    else:
        X = torch.zeros_like(X)
    for hard_steps in (False, True):
        model = PredictiveMixtures(X, structure=structure, hard=hard_steps, noise_log_density=-9.0)
        found = model.fit(hard(labels, K), max_iter=30)
        for value in (found.score, found.memberships, found.covariances, found.means, found.strengths):
            assert bool(torch.isfinite(value).all())
        assert bool((torch.linalg.eigvalsh(found.covariances) > 0).all())
        assert_allclose(found.memberships.sum(2) + found.noise_memberships, torch.ones(1, len(X)), rtol=1e-9)


def test_a_cluster_of_as_many_points_as_features_does_not_win_by_fitting_them(rng):
    # Ten points in ten dimensions as a cluster of their own: judged by themselves they are likely, by others not.
    X = torch.from_numpy(rng.standard_normal((120, 10)))
    own, all_in_one = torch.zeros(120, dtype=torch.int64), torch.zeros(120, dtype=torch.int64)
    own[:10] = 1
    fitted, honest = (
        PredictiveMixtures(X, strength=10.0, floor=torch.full((10,), 1e-6).double(), leave_one_out=loo)
        for loo in (False, True)
    )
    R = torch.cat([hard(own, 2), hard(all_in_one, 2)])
    score = fitted.fit(R, max_iter=1).score
    assert float(score[0] - score[1]) > 0
    score = honest.fit(R, max_iter=1).score
    assert float(score[0] - score[1]) < 0
