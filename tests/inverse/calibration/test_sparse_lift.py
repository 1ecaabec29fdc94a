"""SparseLift: the published table, what the second stage adds, and certificates that do not lie."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import (
    AmbiguityWarning,
    ConvergenceError,
    ConvergenceWarning,
    IdentifiabilityError,
    InvalidInputError,
)
from sciml.inverse.calibration.sparse_lift import _Lifted, sparse_lift
from sciml.results import load


def normal(rng, shape, is_complex):
    z = rng.standard_normal(shape)
    return (z + 1j * rng.standard_normal(shape)) / np.sqrt(2) if is_complex else z


def problem(seed, k, s, m=128, n=256, is_complex=True, noise=0.0):
    """One snapshot with gains in k low frequencies (polynomials for real data) and s components."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    if is_complex:
        B = np.exp(-2j * np.pi * np.outer(np.arange(m), np.arange(k)) / m)
    else:
        B = np.linalg.qr(np.vander(np.linspace(-1, 1, m), k))[0]
    h, x = normal(rng, k, is_complex), np.zeros(n, dtype=complex if is_complex else float)
    x[rng.choice(n, s, replace=False)] = normal(rng, s, is_complex)
    y = (B @ h) * (A @ x)
    sigma = noise * np.linalg.norm(y) / np.sqrt(m)
    return y + sigma * normal(rng, m, is_complex), A, B, B @ h, x, sigma


def error(found, d):
    """Distance of the gains after the best complex factor, relative to them (they have root mean square 1)."""
    factor = np.vdot(d, found) / np.vdot(d, d)
    return np.linalg.norm(found - factor * d) / np.linalg.norm(found)


@pytest.mark.parametrize(
    ("k", "s", "penalty", "lowest", "highest"),
    [(4, 8, "l21", 6, 6), (6, 6, "l21", 6, 6), (6, 6, "l1", 0, 1), (4, 12, "l21", 2, 6), (4, 12, "l1", 0, 0)],
)
def test_the_convex_program_recovers_as_often_as_published(k, s, penalty, lowest, highest):
    # Reported, of six: 6, 6, 0, 4 and 0; near the transition the draw decides.
    gaps = []
    for seed in range(6 if penalty == "l21" else 3):
        y, A, B, *_ = problem(seed, k, s)
        run = sparse_lift(y, A, B, penalty=penalty, n_reweight=0, tol=1e-4, on_failure="ignore")
        gaps.append(run.rank_gap)
    # At tol = 1e-4 a recovered matrix is of rank one to about that; the others are far from it.
    assert lowest <= sum(gap < 3e-3 for gap in gaps) <= highest


@pytest.mark.parametrize(("k", "s"), [(4, 12), (8, 8)])
def test_fitting_the_largest_columns_recovers_where_the_program_does_not(k, s):
    for seed in range(3):
        y, A, B, d, x, _ = problem(seed, k, s)
        found = sparse_lift(y, A, B, tol=1e-4)
        assert found.success
        assert found.support.tolist() == np.flatnonzero(x).tolist()
        assert error(found.gains, d) < 1e-8


def test_reweighting_finds_what_one_round_does_not():
    hits = {0: 0, 4: 0}
    for seed in range(4):
        y, A, B, d, x, _ = problem(seed, 5, 10, m=80, n=160)
        for rounds in hits:
            found = sparse_lift(y, A, B, n_reweight=rounds, tol=1e-4, on_failure="ignore")
            hits[rounds] += found.success
            assert found.success == (error(found.gains, d) < 1e-6)
    assert hits[4] > hits[0]


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("n", [20, 120])
def test_exact_data_give_gains_and_signal(n, is_complex):
    y, A, B, d, x, _ = problem(3, 3, 4, m=60, n=n, is_complex=is_complex)
    found = sparse_lift(y, A, B)
    assert found.gains.dtype == y.dtype
    assert_allclose(found.gains, B @ found.coefficients, atol=1e-12)
    assert_allclose(np.mean(np.abs(found.gains) ** 2), 1)
    assert_allclose(found.gains * (A @ found.signal), y, atol=1e-9 * np.abs(y).max())
    assert error(found.gains, d) < 1e-8
    assert error(found.signal, x) < 1e-8
    assert found.success
    assert found.converged


def test_units_do_not_matter():
    y, A, B, *_ = problem(1, 3, 4, m=60, n=100, noise=0.02)
    one = sparse_lift(y, A, B, epsilon=0.03 * np.linalg.norm(y))
    for a, b, c in ((1e6, 1, 1), (1e-6, 1, 1), (1, 1e6, 1e-6), (1e-6, 1e-6, 1e6)):
        other = sparse_lift(a * y, b * A, c * B, epsilon=0.03 * a * np.linalg.norm(y))
        assert other.support.tolist() == one.support.tolist()
        turn = np.vdot(one.gains, other.gains)
        assert abs(abs(turn) / len(y) - 1) < 1e-9
        assert_allclose(np.abs(other.signal), np.abs(one.signal) * a / b, rtol=1e-6, atol=1e-12 * a / b)
        assert_allclose(other.gains_std, one.gains_std, rtol=1e-6)
        assert other.rank_gap == pytest.approx(one.rank_gap, rel=1e-3)


def test_errors_are_as_long_as_stated():
    ratios = []
    for seed in range(20):
        y, A, B, d, x, sigma = problem(seed, 4, 4, m=64, n=96, noise=0.01)
        found = sparse_lift(y, A, B, epsilon=1.2 * sigma * 8, tol=1e-3)
        assert found.support.tolist() == np.flatnonzero(x).tolist()
        ratios.append((error(found.gains, d) * 8) ** 2 / np.sum(found.gains_std**2))
    # Three complex directions at most, unevenly weighed: a standard deviation of 0.8 a run, 4 errors of the mean.
    assert abs(np.mean(ratios) - 1) < 4 * 0.8 / np.sqrt(20)


def test_errors_are_those_of_the_least_squares_problem_with_the_norm_of_the_gains_held():
    y, A, B, _, _, sigma = problem(7, 4, 5, m=64, n=96, noise=0.1)
    found = sparse_lift(y, A, B, epsilon=1.2 * sigma * 8)
    A = A[:, found.support]
    d, h, x = found.gains, found.coefficients, found.signal[found.support]
    J = np.concatenate([(A @ x)[:, None] * B, d[:, None] * A], 1)
    held = np.concatenate([B.conj().T @ d, np.zeros(len(x))])
    free = np.linalg.svd(held[None].conj())[2][1:].conj().T
    to_gains = np.concatenate([B, np.zeros((64, len(x)))], 1) @ free @ np.linalg.pinv(J @ free)
    noise = np.linalg.norm(y - d * (A @ x)) / np.sqrt(64 - 4 - len(x) + 1)
    assert_allclose(found.gains_std, noise * np.linalg.norm(to_gains, axis=1), rtol=1e-6)
    assert len(h) == 4


def test_the_noise_ball_is_met_with_the_least_sum_of_norms():
    y, A, B, d, x, sigma = problem(2, 3, 4, m=60, n=100, noise=0.05)
    loose, tight = (sparse_lift(y, A, B, epsilon=c * sigma * np.sqrt(60), tol=1e-6, n_reweight=0) for c in (1.3, 1.1))
    assert tight.residual * np.linalg.norm(y) <= 1.1 * sigma * np.sqrt(60)
    assert error(tight.gains, d) < 0.05
    assert loose.support.tolist() == tight.support.tolist()


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.9])
def test_projection_is_the_nearest_matrix_within_the_ball(rng, fraction):
    y, A, B = (torch.from_numpy(t) for t in problem(2, 3, 4, m=20, n=30)[:3])
    X = torch.from_numpy(normal(rng, (3, 30), True))
    lifted = _Lifted(y, A + 0j, B, fraction * float((y - (A * (B @ X)).sum(1)).norm()))
    P = lifted.project(X)
    r = y - lifted.forward(P)
    assert_allclose(float(r.norm()), lifted.epsilon, rtol=1e-9)
    # Nearest: the change is a positive multiple of the adjoint of what is left over.
    change, normal_direction = (P - X).flatten(), lifted.adjoint(r).flatten()
    cosine = torch.vdot(normal_direction, change) / change.norm() / normal_direction.norm()
    assert abs(complex(cosine) - 1) < 1e-9
    assert_allclose(lifted.project(P), P, atol=1e-7)


def test_projection_on_exact_data_and_adjoint(rng):
    y, A, B = (torch.from_numpy(t) for t in problem(2, 3, 4, m=20, n=30)[:3])
    X, u = torch.from_numpy(normal(rng, (3, 30), True)), torch.from_numpy(normal(rng, 20, True))
    lifted = _Lifted(y, A + 0j, B, 0.0)
    assert_allclose(lifted.forward(lifted.project(X)), y, atol=1e-11)
    left, right = torch.vdot(u, lifted.forward(X)), torch.vdot(lifted.adjoint(u).flatten(), X.flatten())
    assert abs(complex(left - right)) < 1e-12 * abs(complex(left))


def test_missing_entries_are_left_out():
    y, A, B, d, x, _ = problem(5, 3, 4, m=60, n=100)
    y[[3, 17, 40]] = np.nan
    found = sparse_lift(y, A, B)
    assert error(found.gains, d) < 1e-8
    assert found.gains.shape == (60,)


def test_an_unrecoverable_signal_is_no_success():
    y, A, B, *_ = problem(0, 6, 30, m=48, n=96)
    with pytest.warns(AmbiguityWarning, match="ratio of singular values is 0.*smaller basis"):
        found = sparse_lift(y, A, B, tol=1e-3, n_reweight=1)
    assert not found.success
    assert found.rank_gap > 0.05
    with pytest.raises(IdentifiabilityError, match="found no answer"):
        sparse_lift(y, A, B, tol=1e-3, n_reweight=0, on_failure="raise")


def test_an_early_end_is_told():
    y, A, B, *_ = problem(0, 3, 4, m=60, n=100)
    with pytest.warns(ConvergenceWarning, match="sparse_lift stopped after 3 iterations"):
        sparse_lift(y, A, B, max_iter=3, n_reweight=0)
    with pytest.raises(ConvergenceError, match="max_iter"):
        sparse_lift(y, A, B, max_iter=3, on_failure="raise")


def test_kinds_of_arrays_and_precision(backend):
    y, A, B, d, *_ = problem(1, 3, 4, m=60, n=100)
    found = sparse_lift(backend.array(y), backend.array(A), backend.array(B))
    assert error(backend.numpy(found.gains), d) < 1e-8
    short = sparse_lift(*(backend.array(t.astype(c)) for t, c in ((y, "c8"), (A, "f4"), (B, "c8"))), epsilon=1e-4)
    assert backend.numpy(short.gains).dtype == np.complex64
    assert error(backend.numpy(short.gains), d) < 1e-4


BAD = [
    (lambda y, A, B: dict(y=y[:5]), r"must have shapes \(m,\), \(m, n\) and \(m, k\); got \(5,\), \(60, 100\)"),
    (lambda y, A, B: dict(y=np.where(y == y[2], np.inf, y)), r"y must be finite; the entry at \(2,\)"),
    (lambda y, A, B: dict(A=np.where(A[2, 3] == A, np.nan, A)), r"A must be finite; the entry at \(2, 3\)"),
    (lambda y, A, B: dict(d_basis=B[:, [0, 0]]), "d_basis must have independent columns"),
    (lambda y, A, B: dict(A=0 * A), "A must not be zero"),
    (lambda y, A, B: dict(y=0 * y), "y must be larger than epsilon"),
    (lambda y, A, B: dict(epsilon=1e9), "y must be larger than epsilon.*Lower"),
    (lambda y, A, B: dict(epsilon=-1), "epsilon must be a number at least 0; got -1"),
    (lambda y, A, B: dict(penalty="l2"), "penalty must be one of 'l21', 'l1'; got 'l2'"),
    (lambda y, A, B: dict(d_basis=np.eye(60)), "y must have more data than d_basis has columns; got 60 data for 60"),
]


@pytest.mark.parametrize(("change", "text"), BAD)
def test_bad_input_is_named(change, text):
    y, A, B, *_ = problem(1, 3, 4, m=60, n=100)
    with pytest.raises(InvalidInputError, match=text):
        sparse_lift(**{"y": y, "A": A, "d_basis": B, **change(y, A, B)})


def test_result_is_saved_and_loaded(tmp_path):
    y, A, B, *_ = problem(1, 3, 4, m=60, n=100)
    found = sparse_lift(y, A, B)
    again = load(found.save(tmp_path / "lift.npz"))
    assert_allclose(again.gains, found.gains)
    assert again.rank_gap == found.rank_gap
    assert again.success
