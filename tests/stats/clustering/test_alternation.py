"""The alternation: an objective that rises, scatters that are Laplacians, starts that know nothing, invariances."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment

from sciml.datasets import gaussian_clusters
from sciml.exceptions import ConvergenceWarning
from sciml.iterate import Status
from sciml.random import generator
from sciml.stats.clustering import alternation as module
from sciml.stats.clustering.affinity import Affinity
from sciml.stats.clustering.alternation import alternate
from sciml.stats.clustering.certificates import certify
from sciml.stats.clustering.low_rank import factorise
from sciml.stats.clustering.predictive import PredictiveMixtures


def sample(n, K, p, separation, seed):
    X, truth = gaussian_clusters(n, K, p, separation, 20, random_state=seed)
    return torch.from_numpy(X), truth


def any_labels(n, K, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, K, n))


def error(labels, truth):
    """Share of wrong labels after the best matching."""
    labels = np.asarray(labels)
    table = np.zeros((labels.max() + 1, truth.max() + 1))
    np.add.at(table, (labels, truth), 1)
    return 1 - table[linear_sum_assignment(-table)].sum() / len(truth)


@pytest.fixture
def accurate(monkeypatch):
    """Solve the relaxations a hundred times more accurately than the alternation asks for."""

    def solve(affinity, U, *, tol, max_iter, **options):
        return factorise(affinity, U, tol=1e-2 * tol, max_iter=40, **options)

    monkeypatch.setattr(module, "factorise", solve)


@pytest.mark.usefixtures("accurate")
@pytest.mark.parametrize(("prior", "seed"), [("pooled", 0), ("pooled", 1), ("diag", 2), ("spherical", 3)])
def test_the_objective_rises_in_every_step(prior, seed):
    X, _ = sample(30, 3, 2, 3, seed)
    done = alternate(X, 3, any_labels(30, 3), generator(0), prior=prior, tol=1e-9, max_iter=5)
    values = done.history["objective"]
    # The relaxation is not convex in its factors, and solved to 1e-5.
    assert (np.diff(values) >= -1e-5 * abs(values[-1])).all()
    assert values[-1] > values[0] + 1
    assert done.value.objective == values.max()


def test_with_the_solver_as_it_is_a_dip_is_below_a_thousandth():
    for seed in range(2):
        X, _ = sample(100, 3, 6, 3, seed)
        values = alternate(X, 3, any_labels(100, 3), generator(0)).history["objective"]
        assert (np.diff(values) >= -1e-3 * abs(values[-1])).all()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_labels_that_know_nothing_are_a_good_enough_start(seed):
    X, truth = sample(300, 3, 10, 3, seed)
    done = alternate(X, 3, any_labels(300, 3, seed + 100), generator(0))
    refined = PredictiveMixtures(X).fit(done.value.memberships[None])
    assert error(refined.memberships[0].argmax(1), truth) < 0.15
    # Expectation maximisation from the same labels ends elsewhere for some of these samples.
    assert_allclose(done.value.memberships.sum(1), 1, rtol=1e-12)


def test_the_relaxation_costs_no_more_than_labels_and_no_less_than_a_bound():
    X, _ = sample(60, 3, 3, 4, 0)
    best = alternate(X, 3, any_labels(60, 3), generator(0)).value
    affinity = Affinity(X, 3, best.covariances)
    found = certify(affinity, best.memberships.argmax(1))
    assert best.relaxed <= found.objective + 1e-3 * abs(found.objective)
    # The low-rank solution is feasible to a thousandth.
    assert best.relaxed >= found.bound - 2e-3 * abs(found.objective)


def test_scatters_are_laplacians_of_what_belongs_together(rng):
    X = torch.from_numpy(rng.standard_normal((12, 3)))
    omega = torch.from_numpy(rng.uniform(0.5, 2, 12))
    s = omega.sqrt()
    U = torch.from_numpy(rng.uniform(0, 1, (2, 12, 2)))
    Z = U @ U.mT
    w = ((Z @ s) / s).T
    by_factor = module._scatters(X, omega, w, s[:, None] * X, U=U)
    by_matrix = module._scatters(X, omega, w, s[:, None] * X, Z=Z)
    for k in range(2):
        D = X[:, None] - X[None]
        share = s[:, None] * Z[k] * s
        truth = 0.5 * torch.einsum("ij,ijp,ijq->pq", share, D, D)
        assert_allclose(by_factor[k], truth, rtol=0, atol=1e-12)
        assert_allclose(by_matrix[k], truth, rtol=0, atol=1e-12)


def test_of_labels_the_scatters_are_those_of_the_clusters(rng):
    X, labels = torch.from_numpy(rng.standard_normal((30, 4))), any_labels(30, 3)
    # The last cluster has two points: its scatter is singular.
    labels[labels == 2] = 0
    labels[:2] = 2
    omega = torch.from_numpy(rng.uniform(0.5, 2, 30))
    onehot = torch.nn.functional.one_hot(labels, 3).double()
    U = (omega.sqrt()[:, None] * onehot / (omega @ onehot).sqrt()).T[..., None]
    T = module._scatters(X, omega, onehot, omega.sqrt()[:, None] * X, U=U)
    for k in range(3):
        own = labels == k
        D = X[own] - (omega[own] @ X[own]) / omega[own].sum()
        assert_allclose(T[k], (omega[own, None] * D).T @ D, rtol=0, atol=1e-12)
    assert float(torch.linalg.eigvalsh(T).min()) > -1e-12


def test_the_best_iterate_is_kept(monkeypatch):
    X, _ = sample(90, 3, 3, 6, 0)
    calls = []

    def forgetful(affinity, U, **options):
        calls.append(0)
        found = factorise(affinity, U, **options)
        if len(calls) >= 2:  # worthless from now on
            uniform = torch.full_like(U, 1.0) * affinity.roots[:, None]
            uniform = uniform / torch.linalg.vector_norm(uniform, dim=(1, 2), keepdim=True)
            object.__setattr__(found, "U", uniform)
            object.__setattr__(found, "value", float(affinity.value(uniform)))
        return found

    monkeypatch.setattr(module, "factorise", forgetful)
    done = alternate(X, 3, any_labels(90, 3), generator(0), tol=1e-14, max_iter=3)
    values = done.history["objective"]
    assert len(values) > 1
    assert values[1:].max() < values[0]
    assert done.value.objective == values[0]
    assert float(done.value.memberships.max(1)[0].mean()) > 0.9


def test_the_first_metric_is_the_same_for_all_clusters(monkeypatch):
    X, _ = sample(60, 3, 3, 3, 0)
    seen = []
    monkeypatch.setattr(module, "Affinity", lambda *a: seen.append(a[2]) or Affinity(*a))
    alternate(X, 3, any_labels(60, 3), generator(0), max_iter=1)
    assert_allclose(seen[0], seen[0][:1].expand(3, 3, 3), rtol=1e-12)
    assert float((seen[1] - seen[1][0]).abs().max()) > 0.1


# ---------------------------------------------------------------- invariances


def test_weights_are_repeated_rows(rng):
    X, truth = sample(60, 3, 3, 8, 0)
    counts = torch.from_numpy(rng.integers(1, 4, 60))
    start = any_labels(60, 3)
    one = alternate(X, 3, start, generator(0), weights=counts.double()).value
    repeated = X.repeat_interleave(counts, 0)
    two = alternate(repeated, 3, start.repeat_interleave(counts), generator(0)).value
    assert error(one.memberships.argmax(1), truth) == 0
    assert torch.equal(two.memberships.argmax(1), one.memberships.argmax(1).repeat_interleave(counts))
    # Perturbations are drawn for each row: the two agree as far as the relaxations are solved.
    assert_allclose(two.covariances, one.covariances, rtol=0, atol=0.02 * float(one.covariances.abs().max()))
    assert_allclose(two.objective, one.objective, rtol=2e-3)
    assert_allclose(two.relaxed, one.relaxed, rtol=2e-3)


def test_units_and_origin_do_not_matter(rng):
    X, _ = sample(60, 3, 3, 4, 0)
    one, two, three = (alternate(Y, 3, any_labels(60, 3), generator(0)).value for Y in (X, 2.0**12 * X, X + 2.0**12))
    # Rounding grows in some hundred steps of descent; what it ends at is known to a thousandth.
    for other in (two, three):
        assert torch.equal(other.memberships.argmax(1), one.memberships.argmax(1))
        assert_allclose(other.memberships, one.memberships, rtol=0, atol=1e-2)
    assert_allclose(two.covariances / 4.0**12, one.covariances, rtol=0, atol=1e-2)
    assert_allclose(two.objective, one.objective - 60 * 3 * 12 * np.log(2), rtol=1e-4)


def test_memberships_are_a_start_as_labels_are():
    X, _ = sample(60, 3, 3, 4, 0)
    labels = any_labels(60, 3)
    onehot = torch.nn.functional.one_hot(labels, 3).double()
    one, two = (alternate(X, 3, start, generator(0)).value for start in (labels, onehot))
    assert torch.equal(one.memberships, two.memberships)


# ---------------------------------------------------------------- ends


def test_it_says_when_it_did_not_converge():
    X, _ = sample(60, 3, 3, 3, 0)
    with pytest.warns(ConvergenceWarning, match="alternate stopped after 1 iteration"):
        done = alternate(X, 3, any_labels(60, 3), generator(0), max_iter=1, on_failure="warn")
    assert done.status is Status.MAX_ITER
    seen = []
    stopped = alternate(X, 3, any_labels(60, 3), generator(0), callback=lambda k, step: seen.append(k) or k == 2)
    assert seen == [0, 1, 2]
    assert stopped.status is Status.STOPPED


def test_it_stops_where_memberships_stay():
    X, truth = sample(90, 3, 3, 12, 0)
    done = alternate(X, 3, torch.from_numpy(truth), generator(0))
    assert done.status is Status.CONVERGED
    assert done.value.change <= 1e-3
    assert error(done.value.memberships.argmax(1), truth) == 0


@pytest.mark.parametrize("case", ["one cluster", "empty cluster", "few points", "constant column", "line", "same"])
def test_degenerate_samples_stay_finite(rng, case):
    X, K, labels = torch.from_numpy(rng.standard_normal((40, 3))), 3, any_labels(40, 3)
    if case == "one cluster":
        K, labels = 1, torch.zeros(40, dtype=torch.int64)
    elif case == "empty cluster":
        labels = labels.clamp_max(1)
    elif case == "few points":
        X, labels, K = torch.from_numpy(rng.standard_normal((9, 8))), torch.arange(9) % 4, 4
    elif case == "constant column":
        X[:, 1] = 5.0
    elif case == "line":
        X = X[:, :1] @ torch.ones(1, 3).double()
    else:
        X[:] = X[0]
    best = alternate(X, K, labels, generator(0), max_iter=4).value
    assert bool(torch.isfinite(best.memberships).all())
    assert bool(torch.isfinite(best.covariances).all())
    assert np.isfinite([best.objective, best.relaxed]).all()
    assert_allclose(best.memberships.sum(1), 1, rtol=1e-9)
