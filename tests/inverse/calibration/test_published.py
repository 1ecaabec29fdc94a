"""The published methods without the stacked matrix, against the stacked matrix."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.inverse.calibration.problem import as_problem, build_elimination
from sciml.inverse.calibration.published import inverse_power
from tests.inverse.calibration.simulated import error, normal, simulate, stacked

MODELS = ["repeated", "diverse", "snapshots"]


def prepare(sim, W=None):
    problem = as_problem(sim.y, sim.A, model=sim.model, weights=W)
    S = stacked(sim.y / problem.y_unit, sim.A / problem.A_unit, sim.model, W)
    return build_elimination(problem), S


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_one_step_is_constrained_least_squares(rng, model, is_complex, weighted):
    sim = simulate(rng, model, 7, 2, 4, snr=20, is_complex=is_complex)
    W = rng.uniform(0.5, 2, (4, 7)) if weighted else None
    w = normal(rng, 7, is_complex=is_complex)
    elimination, S = prepare(sim, W)
    s, cosine = inverse_power(elimination, torch.from_numpy(w))
    # min |S z|^2 with <w, z> = 1: one more row of large weight, or its Lagrange system.
    full = np.zeros(S.shape[1], S.dtype)
    full[:7] = w
    system = np.block([[S.conj().T @ S, full[:, None]], [full.conj()[None], np.zeros((1, 1))]])
    z = np.linalg.solve(system, np.r_[np.zeros(len(full)), 1])
    assert error(s[0].numpy(), z[:7]) < 1e-9
    expected = abs(np.vdot(w, z[:7])) / np.linalg.norm(w) / np.linalg.norm(z[:7])
    assert_allclose(float(cosine), expected, rtol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_many_steps_are_the_smallest_singular_vector(rng, model):
    sim = simulate(rng, model, 7, 2, 4, snr=30)
    elimination, S = prepare(sim)
    s, _ = inverse_power(elimination, n_steps=2000, tol=1e-14)
    assert error(s[0].numpy(), np.linalg.svd(S)[2][-1, :7].conj()) < 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_exact_data_are_recovered_at_once(rng, model):
    sim = simulate(rng, model, 8, 3, 4)
    elimination, _ = prepare(sim)
    assert error(1 / inverse_power(elimination)[0][0].numpy(), sim.d) < 1e-8


def test_one_known_entry_is_a_normaliser(rng):
    sim = simulate(rng, "snapshots", 8, 2, 6)
    elimination, _ = prepare(sim)
    w = torch.zeros(8, dtype=torch.complex128)
    w[3] = 1
    assert error(1 / inverse_power(elimination, w)[0][0].numpy(), sim.d) < 1e-8


def test_patterns_of_flags_are_one_system(rng):
    sim = simulate(rng, "snapshots", 8, 2, 12, snr=20)
    W = np.ones((12, 8))
    W[::2, 1] = 0
    elimination, S = prepare(sim, W)
    assert len(elimination.parts) == 2
    s, _ = inverse_power(elimination, n_steps=500, tol=1e-13)
    assert error(s[0].numpy(), np.linalg.svd(S)[2][-1, :8].conj()) < 1e-6


def test_sensors_that_do_not_take_part_stay_out(rng):
    sim = simulate(rng, "snapshots", 8, 2, 6)
    elimination, _ = prepare(sim)
    active = torch.ones(1, 8, dtype=torch.bool)
    active[0, 3] = False
    s, _ = inverse_power(elimination.restrict(active))
    assert float(s[0, 3].abs()) == 0
    keep = active[0].numpy()
    assert error(1 / s[0].numpy()[keep], sim.d[keep]) < 1e-8


def test_many_null_directions_do_not_stop_it(rng):
    """One snapshot leaves as many directions free as it has signal unknowns: any answers, a crash does not."""
    y, A = normal(rng, 1, 32), normal(rng, 1, 32, 28)
    s, _ = inverse_power(build_elimination(as_problem(y, A)), n_steps=20)
    assert bool(torch.isfinite(s.abs()).all())
