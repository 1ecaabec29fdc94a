"""Visibilities: truths, error bars, groups that no pair joins, and what the published fixed point finds."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import ConvergenceWarning, IdentifiabilityError, InvalidInputError
from sciml.inverse.calibration.visibilities import solve_visibilities, stefcal
from sciml.inverse.calibration.visibility_pairs import connected_groups, read_pairs


def normal(rng, shape, is_complex):
    """Gaussian numbers with E|z|^2 = 1."""
    if not is_complex:
        return rng.standard_normal(shape)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def problem(rng, m, is_complex=True, noise=0.0, spread=0.3, shape=()):
    """Gains of log-normal moduli and any phases, a model of rank m, and visibilities."""
    A = normal(rng, (m, m), is_complex) / np.sqrt(m)
    M = A @ A.conj().T
    turn = np.exp(2j * np.pi * rng.random((*shape, m))) if is_complex else rng.choice([-1.0, 1.0], (*shape, m))
    d = np.exp(spread * rng.standard_normal((*shape, m))) * turn
    E = np.triu(normal(rng, (*shape, m, m), is_complex), 1)
    E = E + np.swapaxes(E, -1, -2).conj()
    return d, d[..., :, None] * M * d[..., None, :].conj() + noise * E, M


def distance(found, d):
    """2-norm of the difference after the best turn; the scale must be right."""
    found = np.asarray(found)
    inner = np.vdot(found, d)
    return np.linalg.norm(found * inner / abs(inner) - d)


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("m", [4, 5, 32])
def test_exact_data_give_the_gains_and_their_scale(rng, m, is_complex):
    d, V, M = problem(rng, m, is_complex)
    found = solve_visibilities(V, M, W=np.ones((m, m)))
    assert bool(found.converged[0])
    # The certificate of 1e-10 bounds the error times the condition of the Fisher matrix, 1e2 to 1e4 at m = 4.
    assert distance(found.gains[0], d) < 1e-6 * np.linalg.norm(d)
    assert found.gains.is_complex() == is_complex
    assert float(found.dof[0]) == m * (m - 1) / 2 - m + is_complex / 2


def test_large_arrays_converge_in_few_steps(rng):
    d, V, M = problem(rng, 256)
    found = solve_visibilities(V, M)
    assert found.n_iter <= 25
    assert distance(found.gains[0], d) < 1e-8 * np.linalg.norm(d)


@pytest.mark.parametrize("is_complex", [True, False])
def test_errors_and_noise_are_as_large_as_stated(rng, is_complex):
    m, runs, noise = 16, 200, 0.01
    d, V, M = problem(rng, m, is_complex, noise, shape=(runs,))
    found = solve_visibilities(V, M, W=np.ones((m, m)))
    stated = found.covariance.diagonal(dim1=1, dim2=2).real.sum(1).numpy()
    ratio = [distance(g, t) ** 2 for g, t in zip(found.gains, d, strict=True)] / stated
    # The ratio of one run has standard deviation below 0.6 (some m degrees of freedom, unevenly weighed): 4 errors of
    # the mean of 200.
    assert abs(np.mean(ratio) - 1) < 4 * 0.6 / np.sqrt(runs)
    # The mean of 200 chi-squares of at least 104 degrees of freedom has a relative standard error below 0.01.
    assert abs(float(found.noise_variance.mean()) / noise**2 - 1) < 0.04
    assert_allclose(found.misfit, found.noise_variance * found.dof)


@pytest.mark.parametrize("is_complex", [True, False])
def test_errors_allow_for_correlated_entries_of_sample_covariances(rng, is_complex):
    m, K, runs = 12, 400, 60
    A = 3 * normal(rng, (m, 4), is_complex)
    d, V = np.ones(m), []
    for _ in range(runs):
        Y = A @ normal(rng, (4, K), is_complex) + normal(rng, (m, K), is_complex)
        V.append(Y @ Y.conj().T / K)
    M, V = A @ A.conj().T, np.stack(V)
    plain, aware = (solve_visibilities(V, M, n_samples=n) for n in (None, K))
    error = np.mean([distance(g, d) ** 2 for g in plain.gains])
    assert_allclose(aware.gains, plain.gains)
    stated = [float(e.covariance.diagonal(dim1=1, dim2=2).real.sum(1).mean()) for e in (plain, aware)]
    # Four correlated directions: a mean of 60 squares with standard deviation below 0.8 each, 3 errors.
    assert abs(error / stated[1] - 1) < 3 * 0.8 / np.sqrt(runs)
    assert error > 2 * stated[0]


@pytest.mark.parametrize("is_complex", [True, False])
def test_covariance_is_that_of_the_split_problem(rng, is_complex):
    m = 7
    _, V, M = problem(rng, m, is_complex, noise=0.05)
    W = 1 + rng.random((m, m))
    W = W + W.T
    found = solve_visibilities(V, M, W=W)
    g = found.gains[0].numpy()
    rows, directions = [], np.eye(m) if not is_complex else np.concatenate([np.eye(m), 1j * np.eye(m)])
    for i in range(m):
        for j in range(i):
            change = [e[i] * M[i, j] * g[j].conj() + g[i] * M[i, j] * e[j].conj() for e in directions]
            rows.append(np.sqrt(W[i, j]) * np.array(change))
    J = np.array(rows)
    J = np.concatenate([J.real, J.imag]) * np.sqrt(2) if is_complex else J
    C = np.linalg.pinv(J.T @ J, rcond=1e-10) * float(found.noise_variance[0])
    expected = directions.T @ C @ directions.conj()
    assert_allclose(found.covariance[0], expected, atol=1e-9 * np.abs(expected).max())
    if is_complex:
        # What is left out is the turn d -> d exp(i phi).
        assert np.abs(C @ np.concatenate([(1j * g).real, (1j * g).imag])).max() < 1e-9 * np.abs(C).max()


def test_both_methods_find_the_same_optimum(rng):
    d, V, M = problem(rng, 24, noise=0.05)
    ours = solve_visibilities(V, M, W=np.ones((24, 24)))
    theirs = stefcal(V, M, W=np.ones((24, 24)))
    assert theirs.converged
    assert distance(ours.gains[0], theirs.value[0].numpy()) < 1e-7 * np.linalg.norm(d)
    assert ours.history["certificate"][-1] <= 1e-10


def test_the_certificate_is_the_distance_to_the_fixed_point(rng):
    m = 10
    d, V, M = problem(rng, m, noise=0.1)
    g = solve_visibilities(V, M, W=np.ones((m, m)), tol=1e-12).gains[0].numpy()
    for i in range(m):
        z = M[i] * g.conj()
        rest = np.arange(m) != i
        best = (V[i] * z.conj())[rest].sum() / (np.abs(z[rest]) ** 2).sum()
        assert abs(best - g[i]) < 1e-10 * abs(g[i])


def test_fixed_point_averages_every_second_step(rng):
    # Without the averaging it swings between d c and d / c for ever.
    m = 6
    M = np.ones((m, m)) + np.eye(m)
    run = stefcal(M, M, W=np.ones((m, m)), start=0.1 + rng.random(m))
    assert run.converged
    assert run.n_iter < 60
    assert_allclose(run.value[0], np.ones(m), rtol=1e-8)


@pytest.mark.parametrize("is_complex", [True, False])
def test_gains_may_spread_over_four_decades(rng, is_complex):
    for _ in range(5):
        d, V, M = problem(rng, 24, is_complex)
        factor = 10 ** rng.uniform(-2, 2, 24)
        found = solve_visibilities(V * np.outer(factor, factor), M)
        assert distance(found.gains[0], d * factor) < 1e-7 * np.linalg.norm(d * factor)


def test_units_order_and_turns_do_not_matter(rng):
    m = 8
    d, V, M = problem(rng, m, noise=0.05)
    V = V + 3 * np.eye(m)
    one = solve_visibilities(V, M)
    order = rng.permutation(m)
    scaled = solve_visibilities(2.0**40 * V, 2.0**-20 * M)
    permuted = solve_visibilities(V[np.ix_(order, order)], M[np.ix_(order, order)])
    mirrored = solve_visibilities(V.conj(), M.conj())
    assert_allclose(scaled.gains, 2.0**30 * one.gains, rtol=1e-9)
    assert_allclose(scaled.covariance, 2.0**60 * one.covariance, rtol=1e-8, atol=1e-9 * 2.0**60)
    assert distance(permuted.gains[0], one.gains[0].numpy()[order]) < 1e-8
    assert distance(mirrored.gains[0], one.gains[0].numpy().conj()) < 1e-8


def test_weights_count_as_repeated_measurements(rng):
    m = 7
    d, V, M = problem(rng, m, noise=0.1)
    W = np.ones((m, m))
    W[0, 1] = W[1, 0] = 1e6
    g = solve_visibilities(V, M, W=W).gains[0].numpy()
    assert abs(g[0] * M[0, 1] * g[1].conj() - V[0, 1]) < 1e-4 * abs(V[0, 1])
    two, one = (solve_visibilities(V, M, W=c * np.ones((m, m))) for c in (2.0, 1.0))
    assert_allclose(two.gains, one.gains, rtol=1e-8)
    assert_allclose(two.noise_variance, 2 * one.noise_variance)
    assert_allclose(two.covariance, one.covariance, rtol=1e-7, atol=1e-12)


def test_usual_weights_are_those_of_the_powers(rng):
    d, V, M = problem(rng, 7, noise=0.1)
    V = V + np.diag(5 + rng.random(7))
    power = np.diag(V).real
    given = solve_visibilities(V, M, W=1 / np.outer(power, power))
    assert_allclose(solve_visibilities(V, M).gains, given.gains, rtol=1e-12)


def test_missing_pairs_are_left_out(rng):
    m = 10
    d, V, M = problem(rng, m)
    V[2, 3] = np.nan
    V[4, :] = V[:, 4] = np.nan
    found = solve_visibilities(V, M, W=np.ones((m, m)))
    known = np.arange(m) != 4
    assert distance(found.gains[0].numpy()[known], d[known]) < 1e-8
    assert bool(found.gains[0, 4].isnan())
    assert found.active[0].tolist() == known.tolist()
    assert float(found.dof[0]) == 36 - 1 - 9 + 0.5
    assert "sensors [4]" in found.notes[0]
    assert not found.covariance[0, 4].any()


def test_groups_that_no_pair_joins_are_named(rng):
    m = 10
    d, V, M = problem(rng, m, noise=0.01)
    W = np.kron(np.diag([1.0, 1.0]), np.ones((5, 5)))
    found = solve_visibilities(V, M, W=W)
    assert connected_groups(M, W) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert "groups [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]: their relative phase is undetermined" in found.notes[0]
    halves = [solve_visibilities(V[s, s], M[s, s], W=np.ones((5, 5))) for s in (slice(5), slice(5, 10))]
    for s, half in zip((slice(5), slice(5, 10)), halves, strict=True):
        assert_allclose(found.gains[0, s], half.gains[0], rtol=1e-8)
    # 20 pairs, 10 gains, of which two phases are free.
    assert float(found.dof[0]) == 20 - 10 + 1
    assert not found.covariance[0, :5, 5:].abs().max() > 1e-12 * found.covariance.abs().max()


def test_the_start_has_the_phases_of_exact_data_in_every_group(rng):
    d, V, M = problem(rng, 11)
    W = np.zeros((11, 11))
    W[:6, :6] = W[6:, 6:] = 1
    start = read_pairs(V, M, W).start[0].numpy()
    for group in (slice(6), slice(6, 11)):
        turn = start[group] / d[group]
        assert_allclose(turn / np.abs(turn), np.full(len(turn), turn[0] / abs(turn[0])), atol=1e-9)


def test_a_scale_that_is_free_between_two_halves_is_no_answer(rng):
    m = 13
    d, V, M = problem(rng, m, noise=0.001)
    W = np.zeros((m, m))
    W[:4, 4:8] = W[4:8, :4] = 1  # bipartite: sensors 0..3 against 4..7
    W[8:, 8:] = 1
    found = solve_visibilities(V, M, W=W)
    assert found.active[0].tolist() == [False] * 8 + [True] * 5
    assert bool(found.gains[0, :8].real.isnan().all())
    assert "scale between the halves" in found.notes[0]
    assert distance(found.gains[0, 8:], d[8:]) < 0.1


def test_dead_sensors_are_named_and_the_rest_is_unharmed(rng):
    m = 16
    d, V, M = problem(rng, m)
    d[5] = 0
    V[5] = V[:, 5] = 0
    silent = solve_visibilities(V, M, W=np.ones((m, m)))
    others = np.arange(m) != 5
    assert distance(silent.gains[0].numpy()[others], d[others]) < 1e-7
    assert not silent.active[0, 5]
    E = 1e-3 * normal(rng, m, True)
    V[5], V[:, 5] = E, E.conj()
    V[5, 5] = 1
    noisy = solve_visibilities(V, M, W=np.ones((m, m)))
    assert bool(noisy.gains[0, 5].real.isnan()) == (not noisy.active[0, 5])
    assert distance(noisy.gains[0].numpy()[others], d[others]) < 0.02
    usual = solve_visibilities(np.where(np.outer(others, others), V, 0) + np.eye(m), M)
    assert not usual.active[0, 5]
    assert distance(usual.gains[0].numpy()[others], d[others]) < 1e-7


def test_a_batch_equals_one_by_one(rng):
    d, V, M = problem(rng, 6, noise=0.05, shape=(5,))
    V[2, 1, :] = V[2, :, 1] = np.nan
    V[3] *= 1e3
    batch = solve_visibilities(V, M, W=np.ones((6, 6)))
    for k in range(5):
        one = solve_visibilities(V[k], M, W=np.ones((6, 6)))
        assert_allclose(batch.gains[k], one.gains[0], rtol=1e-12)
        assert_allclose(
            batch.covariance[k], one.covariance[0], rtol=1e-10, atol=1e-12 * float(one.covariance.abs().max())
        )
        assert_allclose(batch.noise_variance[k], one.noise_variance[0], rtol=1e-10)


def test_a_channel_without_data_does_not_harm_the_others(rng):
    d, V, M = problem(rng, 6, shape=(2,))
    V[0] = np.nan
    found = solve_visibilities(V, M, W=np.ones((6, 6)))
    assert bool(found.gains[0].real.isnan().all())
    assert not found.active[0].any()
    assert bool(found.noise_variance[0].isnan())
    assert any(note.startswith("Channel 0: there are too few pairs") for note in found.notes)
    assert distance(found.gains[1], d[1]) < 1e-8


@pytest.mark.parametrize("is_complex", [True, False])
def test_outliers_are_resisted_with_right_errors(rng, is_complex):
    m, runs, noise = 24, 40, 0.01
    d, V, M = problem(rng, m, is_complex, noise, shape=(runs,))
    hit = np.triu(rng.random(V.shape) < 0.1, 1)
    wrong = 10 * np.abs(V).mean() * normal(rng, V.shape, is_complex) * hit
    found = solve_visibilities(
        V + wrong + np.swapaxes(wrong, 1, 2).conj(), M, W=np.ones((m, m)), loss="student-t", tol=1e-8
    )
    clean = solve_visibilities(V, M, W=np.ones((m, m)))
    errors, best = ([distance(g, t) ** 2 for g, t in zip(e.gains, d, strict=True)] for e in (found, clean))
    # A tenth of the pairs is lost, and Student's weights cost a tenth more of Gaussian data (a fourth, real).
    assert np.mean(errors) < 1.6 * np.mean(best)
    stated = found.covariance.diagonal(dim1=1, dim2=2).real.sum(1).numpy()
    assert 0.75 < np.mean(errors) / np.mean(stated) < 1.35
    # The median of |r|^2 with a tenth of it replaced lies at the quantile 0.5 / 0.9 of the rest: 1.2 to 1.3 times.
    assert 0.8 < float(found.noise_variance.median()) / noise**2 < 1.5


def test_start_and_early_end(rng):
    d, V, M = problem(rng, 12, noise=0.05)
    first = solve_visibilities(V, M, W=np.ones((12, 12)))
    again = solve_visibilities(V, M, W=np.ones((12, 12)), start=first.gains, tol=1e-9)
    assert again.n_iter == 0
    with pytest.warns(ConvergenceWarning, match="solve_visibilities stopped after 3 iterations"):
        early = solve_visibilities(V, M, W=np.ones((12, 12)), max_iter=3)
    assert not early.converged[0]


def test_real_data_stay_real_and_kinds_mix(rng, backend):
    d, V, M = problem(rng, 6, False)
    found = solve_visibilities(backend.array(V), backend.array(M), W=backend.array(np.ones((6, 6))))
    assert found.gains.dtype == torch.float64
    turned = solve_visibilities(V + 0j, M, W=np.ones((6, 6)))
    assert distance(turned.gains[0], d) < 1e-8


BAD = [
    (lambda V, M: dict(V=V[:3]), r"V must have shape \(m, m\).*\(3, 6\)"),
    (lambda V, M: dict(M=M[:5, :5]), r"V \(6, 6\), M \(5, 5\)"),
    (lambda V, M: dict(V=np.triu(V)), "V must be Hermitian.*Fill both"),
    (lambda V, M: dict(M=np.where(np.eye(6), np.inf, M)), r"M must be finite; the entry at \(0, 0, 0\)"),
    (lambda V, M: dict(V=np.where(np.eye(6), V, np.inf)), r"V must be finite.*Use NaN"),
    (lambda V, M: dict(W=-np.ones((6, 6))), r"W must be real, finite and at least 0; got -1.0"),
    (lambda V, M: dict(W=np.triu(np.ones((6, 6)))), "W must be symmetric"),
    (lambda V, M: dict(V=V - 100 * np.eye(6), W=None), "V must have a positive diagonal when W is None.*Pass W"),
    (lambda V, M: dict(start=np.ones(5)), r"start must have shape \(6,\).*\(5,\)"),
    (lambda V, M: dict(V=V.real, M=M.real, start=1j * np.ones(6)), "start must be real for real data"),
    (lambda V, M: dict(loss="huber"), "loss must be one of 'gaussian', 'student-t'; got 'huber'"),
    (lambda V, M: dict(n_samples=0), "n_samples must be an integer at least 1; got 0"),
]


@pytest.mark.parametrize(("change", "text"), BAD)
def test_bad_input_is_named(rng, change, text):
    _, V, M = problem(rng, 6)
    with pytest.raises(InvalidInputError, match=text):
        solve_visibilities(**{"V": V, "M": M, "W": np.ones((6, 6)), **change(V, M)})


def test_too_few_pairs_are_refused(rng):
    _, V, M = problem(rng, 3)
    with pytest.raises(IdentifiabilityError, match="3 usable pairs of 3 usable sensors") as caught:
        solve_visibilities(V, M)
    assert caught.value.missing == 1
    _, V, M = problem(rng, 8)
    W = np.kron(1 - np.eye(2), np.ones((4, 4)))
    with pytest.raises(IdentifiabilityError, match="0 usable sensors.*scale between the halves"):
        solve_visibilities(V, M, W=W)


def test_groups_of_a_batch_and_single_sensors():
    M = np.stack([np.diag([1.0, 1, 1]), np.ones((3, 3))])
    assert connected_groups(M) == [[[0], [1], [2]], [[0, 1, 2]]]
    W = np.ones((3, 3)) - np.eye(3)[:, [2, 1, 0]]
    assert connected_groups(M[1], W) == [[0, 1, 2]]
