"""The evidence of grouped rows: its gradient, its maximum, what causes mean, and the average over hyper-parameters."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from sciml.solvers.gp_pde.evidence import Evidence, Rows, StructuredPrior
from sciml.solvers.gp_pde.features import JointBasis


@pytest.fixture
def basis():
    return JointBasis((0.0,), (1.0,), np.array([[40.0]]), (5,), (3,))


def rows(basis, n, rng, std=0.3, **options):
    """Noisy values of a tone beside a line."""
    x = torch.as_tensor(rng.random((n, 1)))
    y = torch.sin(40 * x[:, 0]) + x[:, 0] + 0.1 * torch.as_tensor(rng.standard_normal(n))
    return Rows(basis.evaluate(x, (0,)), y, std, **options)


def dense(evidence, x):
    """The density written out: log N(y; 0, A S A' + noise), with the penalties."""
    m = len(evidence.learned)
    s = np.exp(2 * evidence.prior.log_std(x[m:]))
    total, at = 0.0, 0
    blocks, noise = [], []
    for r in evidence.rows:
        level = np.exp(x[at]) if r.learn else r.std
        at += r.learn
        weight = np.ones(len(r.y)) if r.weight is None else r.weight.numpy()
        blocks.append(r.A.numpy())
        noise.append((level * weight) ** 2)
    A, noise = np.concatenate(blocks), np.concatenate(noise)
    y = np.concatenate([r.y.numpy() for r in evidence.rows])
    total = multivariate_normal(np.zeros(len(y)), A * s @ A.T + np.diag(noise)).logpdf(y)
    Q = evidence.prior.n_blocks
    decays = x[m + Q :] - np.log(0.3)
    return total - np.exp(x[m : m + Q]).sum() / evidence.scale - decays @ decays / 8


def test_prior_decays_as_written(basis):
    prior = StructuredPrior.of(basis)
    assert prior.n_blocks == 2
    assert prior.n_params == 4
    x = np.log([2.0, 3.0, 0.5, 0.1])
    k = np.arange(5)
    wanted = np.r_[2 * np.exp(-0.5 * (0.5 * k) ** 2), np.tile(3 * np.exp(-0.5 * (0.1 * k[:3]) ** 2), 2)]
    assert_allclose(np.exp(prior.log_std(x)), wanted, rtol=1e-13)
    slow = StructuredPrior.of(basis, power=1.0)
    assert_allclose(np.exp(slow.log_std(x))[:5], 2 * np.exp(-0.25 * k), rtol=1e-13)


def test_extended_counts_blocks_on_and_keeps_fixed_ones(basis):
    wide = StructuredPrior(np.array([-1, 0]), np.array([[0.0], [1.0]]), np.array([7.0, 1.0]), np.array([1.0, 1.0]))
    both = StructuredPrior.of(basis).extended(wide)
    assert both.n_blocks == 3
    std = np.exp(both.log_std(np.log([2.0, 3.0, 5.0, 0.5, 0.1, 0.4])))
    assert_allclose(std[-2:], [7.0, 5 * np.exp(-0.2)], rtol=1e-13)


def test_value_is_the_density(basis, rng):
    weight = torch.as_tensor(rng.uniform(0.5, 2.0, 7))
    one, two = rows(basis, 40, rng, learn=True, name="a"), rows(basis, 7, rng, weight=weight)
    evidence = Evidence(StructuredPrior.of(basis), [one, two], 2.0)  # forty rows are reduced to twelve
    x = np.log([0.2, 1.5, 0.7, 0.4, 0.2])
    assert_allclose(evidence.value(x, gradient=False), dense(evidence, x), rtol=1e-11)


def test_gradient_is_that_of_the_value(basis, rng):
    one, two = rows(basis, 40, rng, learn=True, name="a"), rows(basis, 30, rng, learn=True, name="b")
    evidence = Evidence(StructuredPrior.of(basis), [one, two], 1.0)
    x = np.log([0.2, 0.1, 1.5, 0.7, 0.4, 0.2])
    slope = [
        (evidence.value(x + e, gradient=False) - evidence.value(x - e, gradient=False)) / 2e-5
        for e in 1e-5 * np.eye(len(x))
    ]
    assert_allclose(evidence.value(x)[1], slope, rtol=1e-6, atol=1e-6)  # central differences of step 1e-5


def test_causes_are_conditioned_on(basis, rng):
    """log p(a | b) = log p(a, b) - log p(b), and the penalty counts once."""
    one, two = rows(basis, 20, rng, learn=True), rows(basis, 6, rng, cause=True)
    prior, x = StructuredPrior.of(basis), np.log([0.2, 1.5, 0.7, 0.4, 0.2])
    data = Rows(two.A, two.y, two.std)
    joint, alone = Evidence(prior, [one, data], 1.0), Evidence(prior, [data], 1.0)
    wanted = joint.value(x, gradient=False) - dense(alone, x[1:]) - joint._penalty(x[1:3], x[3:])
    given = Evidence(prior, [one, two], 1.0)
    value, slope = given.value(x)
    assert_allclose(value, wanted, rtol=1e-10)
    by_noise = joint.value(x)[1][0]  # the causes do not see the noise of the others
    assert slope[0] == pytest.approx(by_noise, rel=1e-5)


def test_maximum_has_no_slope_and_finds_the_noise(basis, rng):
    evidence = Evidence(StructuredPrior.of(basis), [rows(basis, 200, rng, learn=True, name="a")], 1.0)
    fit = evidence.maximise()
    low, high = np.array(evidence.bounds()).T
    inside = (fit.x > low + 1e-6) & (fit.x < high - 1e-6)
    assert np.all(np.abs(evidence.value(fit.x)[1][inside]) < 0.05)  # nats, against a curvature of about one
    assert abs(fit.noise["a"] - 0.1) < 0.02  # four standard deviations of 0.1 / sqrt(400)


def test_a_block_that_is_not_needed_vanishes(rng):
    basis = JointBasis((0.0,), (1.0,), np.array([[40.0], [90.0]]), (5,), (3, 3))
    fit = Evidence(StructuredPrior.of(basis), [rows(basis, 100, rng, learn=True)], 1.0).maximise()
    assert np.exp(fit.x[2]) > 0.2
    assert np.exp(fit.x[3]) < 0.03  # six coefficients of noise 0.1 / sqrt(50) each


def test_evidence_ranks_carriers(rng):
    """Twenty-four noisy values of a modulated tone at 200 among carriers from 150 to 300."""
    x = torch.as_tensor(2 * np.pi * rng.random((24, 1)))
    y = x[:, 0] * torch.sin(200 * x[:, 0]) + 0.05 * torch.as_tensor(rng.standard_normal(24))

    def log_evidence(omega):
        b = JointBasis((0.0,), (2 * np.pi,), np.array([[omega]]), (3,), (3,))
        return Evidence(StructuredPrior.of(b), [Rows(b.evaluate(x, (0,)), y, 1.0, True)], 3.0).maximise().log_evidence

    values = {omega: log_evidence(omega) for omega in (150.0, 180.0, 200.0, 230.0, 300.0)}
    best = max(values, key=values.get)
    assert best == 200.0
    assert values.pop(best) > max(values.values()) + 20  # nats


def test_average_is_wider_than_the_best_and_close_to_it(basis, rng):
    evidence = Evidence(StructuredPrior.of(basis), [rows(basis, 25, rng, learn=True)], 1.0)
    fit = evidence.maximise()
    mean, root = evidence.average(fit, np.random.default_rng(0))
    Phi = basis.evaluate(torch.linspace(0, 1, 50, dtype=torch.float64)[:, None], (0,))
    narrow, wide = (torch.linalg.norm(Phi @ W, dim=1).square().mean().sqrt() for W in (fit.root(), root))
    assert narrow < wide < 3 * narrow
    assert (Phi @ (mean - fit.theta)).square().mean().sqrt() < wide


def test_curvature_is_symmetric_and_positive_at_the_maximum(basis, rng):
    evidence = Evidence(StructuredPrior.of(basis), [rows(basis, 100, rng, learn=True)], 1.0)
    fit = evidence.maximise()
    H = evidence.curvature(fit.x)
    assert_allclose(H, H.T, rtol=0, atol=1e-12)
    assert H[0, 0] == pytest.approx(2 * (100 - 8), rel=0.1)  # of a log noise: twice the degrees of freedom left


def test_units_do_not_matter(basis, rng):
    one = rows(basis, 30, rng, learn=True, name="a")
    scaled = Rows(one.A, 1024 * one.y, 1024 * one.std, True, "a")
    a = Evidence(StructuredPrior.of(basis), [one], 1.0).maximise()
    b = Evidence(StructuredPrior.of(basis), [scaled], 1024.0).maximise()
    assert b.noise["a"] / 1024 == pytest.approx(a.noise["a"], rel=1e-3)  # where the search stops, not rounding
    assert_allclose((b.theta / 1024).numpy(), a.theta.numpy(), rtol=0, atol=1e-3)
