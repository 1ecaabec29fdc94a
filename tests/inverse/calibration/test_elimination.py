"""Elimination of the signals against the stacked matrix, ordinary least squares and finite differences."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.inverse.calibration.bases import least_squares, range_basis
from sciml.inverse.calibration.elimination import Diverse, Joint, Shared, Total
from sciml.inverse.calibration.problem import as_problem, build_elimination, triangular_factor
from tests.inverse.calibration.simulated import misfit, normal, simulate, stacked

MODELS = ["repeated", "diverse", "snapshots"]
KINDS = [(model, is_complex) for model in MODELS for is_complex in (True, False)]


def eliminate(sim, W=None):
    """The elimination of one channel."""
    W = None if W is None else torch.tensor(np.broadcast_to(W, sim.y.shape).copy())[None]
    y, A = torch.from_numpy(sim.y)[None], torch.from_numpy(sim.A)[None]
    if sim.model == "repeated":
        return Joint(y, A, W)
    if sim.model == "diverse":
        return Diverse(y, A, W)
    if W is None or bool((W[:, :1] == W).all()):
        return Shared(y, A, torch.tensor([float(len(sim.y))]), None if W is None else W[:, 0])
    return Diverse(y, A[:, None], W)


def schur_of_stacked(sim, W=None):
    """Schur complement of the block of the inverse gains, by the pseudo-inverse."""
    S = stacked(sim.y, sim.A, sim.model, W)
    m = sim.y.shape[1]
    left, right = S[:, :m], S[:, m:]
    return left.conj().T @ (left - right @ np.linalg.pinv(right) @ left)


@pytest.mark.parametrize(("model", "is_complex"), KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_schur_complement_is_that_of_the_stacked_matrix(rng, model, is_complex, weighted):
    sim = simulate(rng, model, 7, 3, 4, snr=10, is_complex=is_complex)
    W = rng.uniform(0.5, 2, (4, 7)) if weighted else None
    M, _ = eliminate(sim, W).schur()
    # Rounding of two ways to one matrix.
    assert_allclose(M[0].numpy(), schur_of_stacked(sim, W), atol=1e-12 * abs(sim.y).max() ** 2)
    assert M.is_complex() == is_complex


@pytest.mark.parametrize("model", MODELS)
def test_noise_adds_its_variance_times_the_normaliser(rng, model):
    """E M = M_0 + sigma^2 diag(N), exactly, as an average over the noise of each entry by itself."""
    sim = simulate(rng, model, 5, 2, 3)
    problem = eliminate(sim)
    M, N = problem.schur()
    # M is a Hermitian form in y: its mean over noise is the sum of its values at single entries.
    total = np.zeros((5, 5), complex)
    for k in range(3):
        for i in range(5):
            one = np.zeros_like(sim.y)
            one[k, i] = 1.0
            sim_one = type(sim)(one, sim.A, sim.d, sim.x, 0.0, model)
            total += eliminate(sim_one).schur()[0][0].numpy()
    assert_allclose(total, np.diag(N[0].numpy()), atol=1e-13)


@pytest.mark.parametrize(("model", "is_complex"), KINDS)
def test_cost_is_that_of_ordinary_least_squares(rng, model, is_complex):
    sim = simulate(rng, model, 7, 3, 4, snr=10, is_complex=is_complex)
    W = rng.uniform(0.5, 2, (4, 7))
    d = normal(rng, 7, is_complex=is_complex)
    problem = eliminate(sim, W)
    expected = misfit(sim.y, sim.A, d, model, W)
    assert_allclose(float(problem.cost(torch.from_numpy(d)[None])), expected, rtol=1e-12)
    assert_allclose(float(problem.gauss_newton(torch.from_numpy(d)[None])[0]), expected, rtol=1e-12)


@pytest.mark.parametrize(("model", "is_complex"), KINDS)
def test_gradient_is_that_of_finite_differences(rng, model, is_complex):
    sim = simulate(rng, model, 6, 2, 4, snr=10, is_complex=is_complex)
    W = rng.uniform(0.5, 2, (4, 6))
    d, step = normal(rng, 6, is_complex=is_complex) + 2, 1e-6
    _, g, _ = eliminate(sim, W).gauss_newton(torch.from_numpy(d)[None])
    for direction in [1.0, 1j] if is_complex else [1.0]:
        for i in range(6):
            e = np.zeros(6, complex if is_complex else float)
            e[i] = direction * step
            slope = (misfit(sim.y, sim.A, d + e, model, W) - misfit(sim.y, sim.A, d - e, model, W)) / (2 * step)
            # d f = -2 Re <g, e>; central differences leave step^2 and eps / step.
            assert_allclose(slope, -2 * np.real(np.conj(g[0, i].numpy()) * direction), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_gauss_newton_matrix_is_the_curvature_of_exact_data(rng, model):
    """At the truth f(d + e) = e^* F e + O(e^3)."""
    sim = simulate(rng, model, 6, 2, 4)
    _, g, F = eliminate(sim).gauss_newton(torch.from_numpy(sim.d)[None])
    e = 1e-4 * normal(rng, 6)
    assert_allclose(misfit(sim.y, sim.A, sim.d + e, model), np.real(e.conj() @ F[0].numpy() @ e), rtol=1e-2)
    assert float(g.abs().max()) < 1e-12
    # The common factor is in its null space.
    assert np.linalg.norm(F[0].numpy() @ sim.d) < 1e-12 * np.linalg.norm(F[0].numpy())


@pytest.mark.parametrize("model", MODELS)
def test_noise_part_is_the_mean_of_the_gauss_newton_matrix_of_noise(rng, model):
    sim = simulate(rng, model, 5, 2, 3)
    d = normal(rng, 5) + 2
    W = rng.uniform(0.5, 2, (3, 5)) if model != "snapshots" else np.tile(rng.uniform(0.5, 2, 5), (3, 1))
    total = np.zeros((5, 5), complex)
    for k in range(3):
        for i in range(5):
            one = np.zeros_like(sim.y)
            # Noise of an entry of weight w has the variance 1 / w.
            one[k, i] = 1 / np.sqrt(W[k, i])
            sim_one = type(sim)(one, sim.A, sim.d, sim.x, 0.0, model)
            total += eliminate(sim_one, W).gauss_newton(torch.from_numpy(d)[None])[2][0].numpy()
    assert_allclose(eliminate(sim, W).noise_part(torch.from_numpy(d)[None])[0].numpy(), total, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_weight_two_counts_a_sample_twice(rng, model):
    sim = simulate(rng, model, 6, 2, 4, snr=10)
    W = np.ones((4, 6))
    W[2] = 2.0
    again = [0, 1, 2, 2, 3]
    A = sim.A if sim.A.ndim == 2 else sim.A[again]
    twice = type(sim)(sim.y[again], A, sim.d, sim.x, 0.0, model)
    d = torch.from_numpy(normal(rng, 6))[None]
    for one, two in zip(eliminate(sim, W).schur(), eliminate(twice).schur(), strict=True):
        # The factors of a repeated signal are stacked, so that leverages of the copies differ.
        if one.ndim == 3 or model != "repeated":
            assert_allclose(one.numpy(), two.numpy(), atol=1e-12)
    for one, two in zip(eliminate(sim, W).gauss_newton(d), eliminate(twice).gauss_newton(d), strict=True):
        assert_allclose(one.numpy(), two.numpy(), atol=1e-11)


@pytest.mark.parametrize("model", MODELS)
def test_flags_are_removed_rows(rng, model):
    sim = simulate(rng, model, 6, 2, 4, snr=10)
    W = (rng.random((4, 6)) > 0.3).astype(float)
    junk = type(sim)(np.where(W > 0, sim.y, 1e3), sim.A, sim.d, sim.x, 0.0, model)
    M, N = eliminate(junk, W).schur()
    S = stacked(sim.y, sim.A, model)[W.reshape(-1) > 0]
    left, right = S[:, :6], S[:, 6:]
    assert_allclose(M[0].numpy(), left.conj().T @ (left - right @ np.linalg.pinv(right) @ left), atol=1e-11)
    P = np.eye(len(S)) - right @ np.linalg.pinv(right)
    expected = [np.real(np.diag(P))[np.nonzero(left[:, i])[0]].sum() for i in range(6)]
    assert_allclose(N[0].numpy(), expected, atol=1e-10)


def test_a_snapshot_with_few_rows_says_nothing(rng):
    sim = simulate(rng, "diverse", 6, 3, 2, snr=10)
    W = np.ones((2, 6))
    W[1, 3:] = 0
    with_it, without = eliminate(sim, W), eliminate(type(sim)(sim.y[:1], sim.A[:1], sim.d, sim.x, 0.0, "diverse"))
    for one, two in zip(with_it.schur(), without.schur(), strict=True):
        assert_allclose(one.numpy(), two.numpy(), atol=1e-12)
    d = torch.from_numpy(sim.d)[None]
    assert int(with_it.degrees(d)) == int(without.degrees(d)) == 3
    # One row less than unknowns: the snapshot does not tell its signal.
    W[1, 2] = 0
    assert torch.isnan(eliminate(sim, W).signals(d, torch.from_numpy(sim.y)[None])[0, 1].abs()).all()


@pytest.mark.parametrize("model", MODELS)
def test_degrees_and_signals(rng, model):
    sim = simulate(rng, model, 6, 2, 4)
    problem, d = eliminate(sim), torch.from_numpy(sim.d)[None]
    assert int(problem.degrees(d)) == 24 - (2 if model == "repeated" else 8)
    x = problem.signals(d, torch.from_numpy(sim.y)[None])
    assert_allclose(x[0].numpy(), sim.x, atol=1e-11)
    assert_allclose(problem.predict(d, x)[0].numpy(), sim.y, atol=1e-11)


def test_blocks_of_snapshots_do_not_show(rng, monkeypatch):
    from sciml.inverse.calibration import elimination

    sim = simulate(rng, "diverse", 6, 2, 5, snr=10)
    d = torch.from_numpy(sim.d)[None]
    whole = [*eliminate(sim).schur(), *eliminate(sim).gauss_newton(d), eliminate(sim).noise_part(d)]
    monkeypatch.setattr(elimination, "_BLOCK", {"cpu": 1})
    parts = [*eliminate(sim).schur(), *eliminate(sim).gauss_newton(d), eliminate(sim).noise_part(d)]
    for one, two in zip(whole, parts, strict=True):
        assert_allclose(one.numpy(), two.numpy(), atol=1e-12)


@pytest.mark.parametrize("name", ["schur", "gauss_newton", "noise_part", "residual_powers", "degrees", "cost"])
def test_common_snapshots_by_their_factor_or_one_by_one(rng, name):
    sim = simulate(rng, "snapshots", 6, 2, 9, snr=10)
    w = rng.uniform(0.5, 2, 6)
    y, A = torch.from_numpy(sim.y)[None], torch.from_numpy(sim.A)[None]
    d = torch.from_numpy(normal(rng, 6))[None]
    W = torch.from_numpy(np.tile(w, (9, 1)))[None]
    factor = Shared(triangular_factor(y), A, torch.tensor([9.0]), torch.from_numpy(w)[None])
    slow = Diverse(y, A[:, None], W)
    arguments = () if name == "schur" else (d,)
    one, two = getattr(factor, name)(*arguments), getattr(slow, name)(*arguments)
    for a, b in zip(one if isinstance(one, tuple) else (one,), two if isinstance(two, tuple) else (two,), strict=True):
        assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-10)


def test_patterns_of_flags_share_factors(rng):
    sim = simulate(rng, "snapshots", 6, 2, 12, snr=10)
    W = np.ones((12, 6))
    W[::2, 1] = 0
    W[1::4, 4] = 0
    problem = build_elimination(as_problem(sim.y, sim.A, weights=W))
    assert isinstance(problem, Total)
    slow = eliminate(sim, W)
    d = torch.from_numpy(sim.d)[None]
    unit = as_problem(sim.y, sim.A, weights=W)
    energy = unit.y_unit**2
    for one, two, scale in zip(problem.schur(), slow.schur(), (energy, 1), strict=True):
        assert_allclose(scale * one.numpy(), two.numpy(), atol=1e-12)
    for one, two in zip(problem.gauss_newton(d), slow.gauss_newton(d), strict=True):
        assert_allclose(energy * one.numpy(), two.numpy(), atol=1e-12)
    x = problem.signals(d, unit.y)[0].numpy() * unit.y_unit / unit.A_unit
    assert_allclose(x, slow.signals(d, torch.from_numpy(sim.y)[None])[0].numpy(), atol=1e-12)


def test_residual_powers_sum_to_the_misfit_and_its_degrees(rng):
    for model in MODELS:
        sim = simulate(rng, model, 6, 2, 4, snr=10)
        problem, d = eliminate(sim), torch.from_numpy(sim.d)[None]
        power, freedom = problem.residual_powers(d)
        assert_allclose(float(power.sum()), float(problem.cost(d)), rtol=1e-12)
        assert_allclose(float(freedom.sum()), float(problem.degrees(d)), rtol=1e-12)


def test_bases_of_deficient_and_badly_scaled_matrices(rng):
    B = normal(rng, 3, 8, 3)
    B[0, :, 2] = B[0, :, 0] - 2 * B[0, :, 1]
    sizes = np.array([1e-150, 1, 1e150])
    B[1] *= sizes
    Q = range_basis(torch.from_numpy(B))
    assert_allclose(np.linalg.norm(Q.numpy(), axis=(1, 2)) ** 2, [2, 3, 3], atol=1e-12)
    P = Q[0].numpy() @ Q[0].numpy().conj().T
    assert_allclose(P @ B[0], B[0], atol=1e-12)
    x = normal(rng, 1, 3, 3)
    x[0, 1] /= sizes
    z = torch.from_numpy((B[None] @ x[..., None])[..., 0])
    found = least_squares(torch.from_numpy(B)[None], z)[0].numpy()
    assert np.isnan(found[0]).all()
    assert_allclose(found[1:], x[0, 1:], rtol=1e-10)
