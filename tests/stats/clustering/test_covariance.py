"""Pooled covariances: stationarity by autograd, an objective that rises, peers, shapes, limits."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.covariance import OAS

from sciml.stats.clustering.covariance import pooled_covariances

SHAPED = ("pooled", "diag", "spherical")


def scatters(rng, K=3, p=4, counts=(30, 12, 7)):
    """Scatters of K samples with covariances of their own, and their counts."""
    samples = [rng.standard_normal((n, p)) @ (rng.standard_normal((p, p)) + np.eye(p)) for n in counts[:K]]
    T = np.stack([(X - X.mean(0)).T @ (X - X.mean(0)) for X in samples])
    return torch.from_numpy(T), torch.tensor(counts[:K]).double()


def log_prior(Sigma, W, kappa):
    """The formula of the module's head."""
    inner = sum(torch.logdet(S) + torch.trace(W @ torch.linalg.inv(S)) for S in Sigma)
    return -kappa / 2 * inner + kappa * len(Sigma) / 2 * torch.logdet(W)


def penalised(T, N, floor, Sigma, W, kappa):
    """Log-likelihood of scatters with the floor, plus the log-prior."""
    S = T + torch.diag(floor) * N[:, None, None]
    triples = zip(N, Sigma, S, strict=True)
    fit = -0.5 * sum(n * torch.logdet(C) + torch.trace(A @ torch.linalg.inv(C)) for n, C, A in triples)
    return fit + log_prior(Sigma, W, kappa)


def parametrised(W, prior):
    """The free numbers of a centre, with gradients, and the centre made of them."""
    if prior == "pooled":
        A = W.clone().requires_grad_()
        return A, A
    if prior == "diag":
        A = W.diagonal().clone().requires_grad_()
        return A, torch.diag(A)
    A = W[0, 0].clone().requires_grad_()
    return A, A * torch.eye(len(W)).double()


@pytest.mark.parametrize("prior", SHAPED)
@pytest.mark.parametrize("strength", [None, 0.5, 40.0])
def test_after_many_sweeps_the_penalised_likelihood_is_stationary(rng, prior, strength):
    T, N = scatters(rng)
    floor = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    Sigma, W, _ = pooled_covariances(T, N, floor, prior=prior, strength=strength, sweeps=2000)
    kappa = 2.0 if strength is None else strength
    free = Sigma.clone().requires_grad_()
    A, centre = parametrised(W, prior)
    value = penalised(T, N, floor, free, centre, kappa)
    for slope, at in zip(torch.autograd.grad(value, (free, A)), (Sigma, A), strict=True):
        # In units of the parameter: slope times parameter is of the order of the counts.
        assert float((slope * at.detach()).abs().max()) < 1e-8


@pytest.mark.parametrize("prior", SHAPED)
def test_every_sweep_raises_the_objective(rng, prior):
    T, N = scatters(rng)
    floor = torch.full((4,), 0.01).double()
    values = []
    for sweeps in range(1, 12):
        Sigma, W, prior_value = pooled_covariances(T, N, floor, prior=prior, strength=6.0, sweeps=sweeps)
        assert_allclose(prior_value, log_prior(Sigma, W, 6.0), rtol=1e-12)
        values.append(float(penalised(T, N, floor, Sigma, W, 6.0)))
    assert (np.diff(values) >= -1e-10 * abs(values[0])).all()
    assert values[-1] > values[0]


@pytest.mark.parametrize("prior", SHAPED)
def test_the_covariances_are_the_maximisers_for_the_last_centre(rng, prior):
    T, N = scatters(rng)
    floor = torch.full((4,), 0.01).double()
    Sigma, W, _ = pooled_covariances(T, N, floor, prior=prior, strength=6.0, sweeps=1)
    truth = (T + torch.diag(floor) * N[:, None, None] + 6 * W) / (N + 6)[:, None, None]
    assert_allclose(Sigma, truth, rtol=1e-13)
    assert torch.equal(Sigma, Sigma.mT)
    off = W - torch.diag(W.diagonal())
    assert bool((off == 0).all()) == (prior != "pooled")
    assert (len(set(W.diagonal().tolist())) == 1) == (prior == "spherical")


def test_a_warm_centre_goes_on_where_the_last_call_ended(rng):
    T, N = scatters(rng)
    floor = torch.zeros(4).double()
    Sigma, W, value = pooled_covariances(T, N, floor, sweeps=7)
    first = pooled_covariances(T, N, floor, sweeps=3)
    again = pooled_covariances(T, N, floor, sweeps=4, centre=first[1])
    for one, two in zip((Sigma, W, value), again, strict=True):
        assert_allclose(two, one, rtol=1e-13)


def test_like_clusters_keep_their_covariance(rng):
    S = torch.from_numpy(np.cov(rng.standard_normal((3, 20))))
    N = torch.tensor([10.0, 50.0]).double()
    Sigma, W, _ = pooled_covariances(S * N[:, None, None], N, torch.zeros(3).double())
    assert_allclose(W, S, rtol=1e-12)
    assert_allclose(Sigma, S.expand(2, 3, 3), rtol=1e-12)


@pytest.mark.parametrize("n", [4, 8, 40, 4000])
def test_oracle_approximating_shrinkage_is_where_its_iteration_ends(rng, n):
    # The oracle's formula with its own last estimate in the place of the truth; Chen et al. 2010, equation 22.
    p = 6
    X = rng.standard_normal((n, p)) * np.arange(1, p + 1)
    S = np.cov(X.T, bias=True)
    F, estimate = np.trace(S) / p * np.eye(p), S
    for _ in range(3000):
        cross, square = np.trace(estimate @ S), np.trace(estimate) ** 2
        rho = ((1 - 2 / p) * cross + square) / ((n + 1 - 2 / p) * cross + (1 - n / p) * square)
        estimate = (1 - rho) * S + rho * F
    Sigma, _, value = pooled_covariances(
        torch.from_numpy(n * S)[None], torch.tensor([float(n)]).double(), torch.zeros(p).double(), prior="oas"
    )
    assert_allclose(Sigma[0], estimate, rtol=1e-9, atol=1e-12)
    assert float(value) == 0
    # scikit-learn leaves the terms 2 / p out.
    assert_allclose(Sigma[0], OAS().fit(X).covariance_, rtol=0, atol=2 / p / n * np.trace(S))


def test_no_prior_is_the_scatter_and_the_floor(rng):
    T, N = scatters(rng)
    floor = torch.tensor([0.0, 1.0, 2.0, 3.0]).double()
    Sigma, _, value = pooled_covariances(T, N, floor, prior="none")
    assert_allclose(Sigma, T / N[:, None, None] + torch.diag(floor), rtol=1e-14)
    assert float(value) == 0


@pytest.mark.parametrize("prior", [*SHAPED, "oas"])
def test_units_change_covariances_by_their_square(rng, prior):
    T, N = scatters(rng)
    floor = torch.full((4,), 0.25).double()
    one = pooled_covariances(T, N, floor, prior=prior)
    two = pooled_covariances(4.0**9 * T, N, 4.0**9 * floor, prior=prior)
    assert torch.equal(two[0], 4.0**9 * one[0])  # a power of two rounds nothing
    assert torch.equal(two[1], 4.0**9 * one[1])
    # Of the log-prior what is in units of the data cancels.
    assert_allclose(two[2], one[2], rtol=1e-10)


@pytest.mark.parametrize("prior", [*SHAPED, "oas"])
@pytest.mark.parametrize("case", ["empty", "single", "line", "fraction"])
def test_clusters_of_few_points_get_a_covariance(rng, prior, case):
    T, N = scatters(rng)
    if case == "line":
        v = torch.from_numpy(rng.standard_normal(4))
        T[2] = 7 * torch.outer(v, v)
    else:
        T[2] = 0
        N[2] = {"empty": 0.0, "single": 1.0, "fraction": 1e-7}[case]
    Sigma, _, value = pooled_covariances(T, N, torch.full((4,), 1e-4).double(), prior=prior)
    assert bool(torch.isfinite(Sigma).all())
    assert bool(torch.isfinite(value))
    assert float(torch.linalg.eigvalsh(Sigma).min()) > 1e-6


def test_a_collapsing_cluster_is_drawn_to_the_others(rng):
    T, N = scatters(rng, counts=(400, 400, 3))
    T[2] = 0
    floor = torch.full((4,), 1e-9).double()
    Sigma, W, _ = pooled_covariances(T, N, floor, strength=2.0, sweeps=200)
    # (n S + kappa W) / (n + kappa): all it has is what the prior gives.
    assert_allclose(Sigma[2], 2 / 5 * W, rtol=1e-6)
    none, _, _ = pooled_covariances(T, N, floor, prior="none")
    volume = torch.linalg.slogdet(Sigma)[1]
    # The centre falls with it, but by a bounded factor of the others' covariances, not to the floor.
    assert float(volume[2]) > float(volume[:2].min()) - 20
    assert float(torch.linalg.slogdet(none)[1][2]) < -80


def test_an_empty_cluster_takes_the_centre_of_the_others(rng):
    T, N = scatters(rng)
    T[2], N[2] = 0, 0
    floor = torch.zeros(4).double()
    Sigma, W, _ = pooled_covariances(T, N, floor, strength=3.0, sweeps=500)
    without = pooled_covariances(T[:2], N[:2], floor, strength=3.0, sweeps=500)
    assert_allclose(Sigma[2], W, rtol=1e-8)
    assert_allclose(W, without[1], rtol=1e-8)
