"""The generalised eigenproblem against LAPACK, and what it promises of noise."""

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.testing import assert_allclose

from sciml.inverse.calibration import spectral
from sciml.inverse.calibration.problem import as_problem, build_elimination
from sciml.inverse.calibration.spectral import smallest_pairs, spectral_start
from tests.inverse.calibration.simulated import error, normal, simulate


def everyone(m):
    return torch.ones(1, m, dtype=torch.bool)


def hermitian_problem(rng, m, is_complex):
    """M with eigenvalues over three decades and a positive N."""
    Q, _ = np.linalg.qr(normal(rng, m, m, is_complex=is_complex))
    M = (Q * np.logspace(-3, 0, m)) @ Q.conj().T
    return (M + M.conj().T) / 2, rng.uniform(0.5, 2, m)


@pytest.mark.parametrize("is_complex", [True, False])
def test_pairs_are_those_of_the_generalised_problem(rng, is_complex):
    M, N = hermitian_problem(rng, 9, is_complex)
    s, lam, _ = spectral_start(torch.from_numpy(M)[None], torch.from_numpy(N)[None], everyone(9))
    expected, V = scipy.linalg.eigh(M, np.diag(N))
    assert_allclose(lam[0].numpy(), expected[:3], rtol=1e-10)
    assert error(s[0].numpy(), V[:, 0]) < 1e-8


@pytest.mark.parametrize("is_complex", [True, False])
def test_large_problems_by_inverse_iterations(rng, is_complex, monkeypatch):
    M, N = hermitian_problem(rng, 60, is_complex)
    whole = spectral_start(torch.from_numpy(M)[None], torch.from_numpy(N)[None], everyone(60))
    monkeypatch.setattr(spectral, "_FULL", 8)
    calls = []
    inner = spectral._inverse_iterations
    monkeypatch.setattr(spectral, "_inverse_iterations", lambda B, k: calls.append(inner(B, k)) or calls[-1])
    again = spectral_start(torch.from_numpy(M)[None], torch.from_numpy(N)[None], everyone(60))
    assert calls[0] is not None
    assert_allclose(again[1].numpy(), whole[1].numpy(), rtol=1e-9)
    assert error(again[0][0].numpy(), whole[0][0].numpy()) < 1e-7


def test_a_matrix_that_is_not_positive_goes_to_the_full_decomposition(monkeypatch):
    monkeypatch.setattr(spectral, "_FULL", 2)
    lam, _ = smallest_pairs(torch.diag(torch.tensor([3.0, -1.0, 2.0, 5.0]))[None].double(), 2)
    assert_allclose(lam[0].numpy(), [-1, 2], rtol=1e-12)


def test_sensors_that_do_not_take_part_stay_out(rng):
    M, N = hermitian_problem(rng, 8, True)
    active = everyone(8)
    active[0, [2, 5]] = False
    keep = active[0].numpy()
    M[~keep], N[~keep] = 0, 0
    M[:, ~keep] = 0
    s, lam, V = spectral_start(torch.from_numpy(M)[None], torch.from_numpy(N)[None], active)
    expected, W = scipy.linalg.eigh(M[keep][:, keep], np.diag(N[keep]))
    assert_allclose(lam[0].numpy(), expected[:3], rtol=1e-10)
    assert error(s[0].numpy()[keep], W[:, 0]) < 1e-8
    assert not s[0].numpy()[~keep].any()
    assert not V[0].numpy()[~keep].any()


def test_a_subspace_of_the_inverse_gains(rng):
    M, N = hermitian_problem(rng, 9, True)
    B = normal(rng, 9, 3)
    s, lam, V = spectral_start(
        torch.from_numpy(M)[None], torch.from_numpy(N)[None], everyone(9), basis=torch.from_numpy(B)
    )
    expected, H = scipy.linalg.eigh(B.conj().T @ M @ B, B.conj().T @ (N[:, None] * B))
    assert_allclose(lam[0].numpy(), expected, rtol=1e-9)
    assert error(s[0].numpy(), B @ H[:, 0]) < 1e-7
    assert_allclose(V[0].numpy().conj().T @ V[0].numpy(), np.eye(3), atol=1e-10)


def test_the_smallest_eigenvalue_estimates_the_noise_and_the_vector_has_no_bias(rng):
    """With the normaliser of the noise the error falls as 1/sqrt(p); without, a bias remains."""
    sim = simulate(rng, "snapshots", 16, 4, 4096, snr=10)
    problem = as_problem(sim.y, sim.A)
    M, N = build_elimination(problem).schur()
    s, lam, _ = spectral_start(M, N, everyone(16))
    assert_allclose(float(lam[0, 0]) * problem.y_unit**2, sim.sigma**2, rtol=0.05)
    plain, _, _ = spectral_start(M, torch.ones_like(N), everyone(16))
    corrected = error(1 / s[0].numpy(), sim.d)
    assert corrected < 0.7 * error(1 / plain[0].numpy(), sim.d)
    assert corrected < 0.06


def test_the_same_matrix_gives_the_same_answer(rng, monkeypatch):
    monkeypatch.setattr(spectral, "_FULL", 8)
    M, N = hermitian_problem(rng, 40, True)
    one, two = (spectral_start(torch.from_numpy(M)[None], torch.from_numpy(N)[None], everyone(40)) for _ in range(2))
    assert all(bool((a == b).all()) for a, b in zip(one, two, strict=True))


def test_batches_equal_one_by_one(rng):
    M, N = (np.stack(part) for part in zip(*(hermitian_problem(rng, 7, True) for _ in range(3)), strict=True))
    active = everyone(7).expand(3, -1)
    lam = spectral_start(torch.from_numpy(M), torch.from_numpy(N), active)[1]
    single = [
        spectral_start(torch.from_numpy(M[c])[None], torch.from_numpy(N[c])[None], everyone(7))[1] for c in range(3)
    ]
    assert_allclose(lam.numpy(), torch.cat(single).numpy(), rtol=1e-12)
