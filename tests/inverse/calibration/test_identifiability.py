"""Counts, groups, weak sensors and what the eigenvalues say."""

import numpy as np
import pytest
import torch

from sciml.exceptions import IdentifiabilityError
from sciml.inverse.calibration.identifiability import (
    check_counts,
    common_groups,
    dead_sensors,
    null_count,
    quiet_sensors,
    ratio_threshold,
    signals_seen,
    uninformed_sensors,
)
from sciml.inverse.calibration.problem import as_problem, build_elimination
from tests.inverse.calibration.simulated import normal, simulate, stacked


@pytest.mark.parametrize("model", ["repeated", "diverse", "snapshots"])
def test_the_count_is_where_the_stacked_matrix_has_one_null_vector(rng, model):
    for m, n in [(6, 2), (6, 4), (8, 7), (5, 12), (2, 1), (3, 2)]:
        if model != "repeated" and n >= m:
            continue
        for p in range(1, 9):
            sim = simulate(rng, model, m, n, p)
            S = stacked(sim.y, sim.A, model)
            size = np.linalg.svd(S, compute_uv=False)
            null = S.shape[1] - int((size > 1e-9 * size[0]).sum())
            if null == 1:
                check_counts(model, m, n, p)
            else:
                with pytest.raises(IdentifiabilityError):
                    check_counts(model, m, n, p)


def test_the_message_says_how_many_snapshots_are_missing():
    with pytest.raises(IdentifiabilityError, match="at least 4 snapshots.*got 1, so 3 are missing") as found:
        check_counts("diverse", 32, 24, 1)
    assert found.value.missing == 3
    with pytest.raises(IdentifiabilityError, match="No number of snapshots is enough"):
        check_counts("snapshots", 4, 1, 100, k=9)
    with pytest.raises(IdentifiabilityError, match="fewer columns"):
        check_counts("snapshots", 8, 8, 100)
    # A subspace needs fewer: one snapshot is enough up to m - n = k - 1.
    check_counts("diverse", 64, 59, 1, 6)
    with pytest.raises(IdentifiabilityError):
        check_counts("diverse", 64, 60, 1, 6)


def test_groups_are_connected_components():
    M = torch.zeros(2, 6, 6)
    M[:, range(6), range(6)] = 1
    M[0, 0, 4] = M[0, 4, 0] = 0.1
    M[0, 4, 2] = M[0, 2, 4] = -0.1
    active = torch.ones(2, 6, dtype=torch.bool)
    active[1, 3] = False
    assert common_groups(M, active) == [[[0, 2, 4], [1], [3], [5]], [[0], [1], [2], [4], [5]]]


def test_groups_do_not_depend_on_units():
    M = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).double()[None]
    scale = torch.tensor([1e-6, 1.0, 1e6, 1.0]).double()
    M = M * scale[:, None] * scale
    assert common_groups(M, torch.ones(1, 4, dtype=torch.bool)) == [[[0, 1], [2, 3]]]


def test_sensors_without_information(rng):
    sim = simulate(rng, "snapshots", 6, 2, 8)
    sim.y[:, 1] = 0
    A = sim.A.copy()
    A[3] = [1e12, 0]  # a column of its own explains whatever this sensor says
    A[:, 0] = np.where(np.arange(6) == 3, 1e12, 0)
    problem = build_elimination(as_problem(sim.y, A, weights=np.where(np.arange(6) == 4, 0.0, 1.0)))
    M, N = problem.schur()
    assert uninformed_sensors(M, N, problem.active)[0].tolist() == [False, True, False, True, True, False]


def test_eigenvalues_near_the_first_are_counted():
    lam = torch.tensor([[1.0, 1.4, 1.45, 9.0], [0.0, 1e-20, 1.0, 2.0], [1.0, 3.0, 4.0, 5.0]]).double()
    count, ratio = null_count(lam, torch.tensor([1e-9, 1e-9, 1e-9]).double(), torch.tensor([1.5, 1.5, 1.5]).double())
    assert count.tolist() == [3, 2, 1]
    assert ratio[0] == pytest.approx(1.4)
    assert ratio[2] == pytest.approx(3.0)
    assert null_count(lam[:, :0], torch.ones(3), torch.ones(3))[0].tolist() == [1, 1, 1]
    # More data narrow the scatter of equal eigenvalues.
    threshold = ratio_threshold(torch.tensor([1.0, 300.0, 1e6]))
    assert threshold[0] == 1.5
    assert 1 < threshold[2] < threshold[1] < 1.5


@pytest.mark.parametrize("is_complex", [True, False])
def test_a_gain_of_zero_is_dead_where_it_does_not_fit_the_others(rng, is_complex):
    d = torch.from_numpy(1 + 0.1 * normal(rng, 1, 30, is_complex=is_complex))
    d[0, 4] = 1e-3
    std = torch.full((1, 30), 1e-3).double()
    active = torch.ones(1, 30, dtype=torch.bool)
    assert dead_sensors(d, std, active).nonzero().tolist() == [[0, 4]]
    # Gaussian gains do come near zero, with errors that do not tell them from it.
    gaussian = torch.from_numpy(normal(rng, 1, 30, is_complex=is_complex))
    gaussian[0, 4] = 0.05
    assert not bool(dead_sensors(gaussian, 20 * std, active).any())
    # A sensor that did not take part is not dead.
    active[0, 4] = False
    assert not bool(dead_sensors(torch.where(active, d, 0), std, active).any())


def test_quiet_sensors_carry_a_null_vector_of_noise():
    M = torch.diag(torch.tensor([1.0, 50.0, 60.0, 55.0]))[None].double()
    lam, V = torch.linalg.eigh(M)
    everyone = torch.ones(1, 4, dtype=torch.bool)
    quiet = quiet_sensors(M, torch.ones(1, 4).double(), everyone, lam[:, :2], V[:, :, :2], torch.tensor([400.0]))
    assert quiet[0].tolist() == [True, False, False, False]


@pytest.mark.parametrize("is_complex", [True, False])
def test_signals_above_the_noise_are_counted(rng, is_complex):
    for rank in (1, 2, 3):
        sim = simulate(rng, "snapshots", 16, 4, 60, is_complex=is_complex)
        x = normal(rng, 60, rank, is_complex=is_complex) @ normal(rng, rank, 4, is_complex=is_complex)
        y = sim.d * (x @ sim.A.T)
        noise = 0.1 * normal(rng, 60, 16, is_complex=is_complex)
        problem = as_problem(y + noise, sim.A)
        variance = torch.tensor([0.01 / problem.y_unit**2]).double()
        assert signals_seen(build_elimination(problem), variance) == [(rank, 2)]
    assert signals_seen(build_elimination(as_problem(y, sim.A)), torch.zeros(1).double()) == [(3, 2)]
    diverse = simulate(rng, "diverse", 6, 2, 4)
    assert signals_seen(build_elimination(as_problem(diverse.y, diverse.A)), variance) is None
