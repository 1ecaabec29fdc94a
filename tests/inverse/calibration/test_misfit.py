"""Residuals that are no noise are noticed, and what is answered then is never worse than data left as they are."""

import numpy as np
import pytest
import torch

from sciml.datasets import gain_pattern, measured_snapshots
from sciml.inverse.calibration.elimination import Diverse, Joint, Shared, Total
from sciml.inverse.calibration.misfit import assess, choose, mean_is_supported
from sciml.inverse.calibration.refinement import refine


def draw(rng, is_complex, *shape):
    x = rng.standard_normal(shape)
    if is_complex:
        x = (x + 1j * rng.standard_normal(shape)) / 2**0.5
    return x


def common(y, A):
    """Snapshots that pass one matrix, as their triangular factor."""
    y, A = torch.as_tensor(y), torch.as_tensor(A).to(torch.as_tensor(y).dtype)
    return Shared(torch.linalg.qr(y, mode="r")[1][None], A[None], torch.tensor([float(len(y))], dtype=torch.float64))


def error(found, d):
    found, d = np.asarray(found), np.asarray(d)
    alpha = np.vdot(found, d) / np.vdot(found, found)
    return np.linalg.norm(alpha * found - d) / np.linalg.norm(d)


def answer(y, A, start=None, **options):
    """Gains that the decision leads to, and the decision."""
    elimination = common(y, A)
    start = torch.ones(1, elimination.m, dtype=elimination.dtype) if start is None else torch.as_tensor(start)[None]
    d = refine(elimination, start, max_iter=15).d
    decision = choose(elimination, d, y=torch.as_tensor(y)[None], **options)
    return (d[0] if decision.gains is None else decision.gains).numpy(), decision


def exact_model(rng, model, is_complex, m, n, p, snr, gains=None):
    """An elimination and its true gains, the noise being white."""
    d = draw(rng, is_complex, m) if gains is None else gains
    A = draw(rng, is_complex, 1 if model == "snapshots" else p, m, n)
    x = draw(rng, is_complex, 1 if model == "repeated" else p, n)
    clean = d * np.einsum("lij,lj->li", np.broadcast_to(A, (p, m, n)), np.broadcast_to(x, (p, n)))
    noise = np.sqrt(np.mean(abs(clean) ** 2)) * 10 ** (-snr / 20)
    y = clean + noise * draw(rng, is_complex, p, m)
    if model == "snapshots":
        return common(y, A[0]), y, d
    kind = Joint if model == "repeated" else Diverse
    return kind(torch.as_tensor(y)[None], torch.as_tensor(A)[None]), y, d


@pytest.mark.parametrize("snr", [5, 20, 60])
@pytest.mark.parametrize(
    ("model", "m", "n", "p"),
    [
        ("snapshots", 32, 8, 20),
        ("snapshots", 64, 16, 16),
        ("snapshots", 32, 8, 2000),
        ("diverse", 32, 8, 20),
        ("repeated", 32, 32, 8),
    ],
)
@pytest.mark.parametrize("is_complex", [False, True])
def test_likelihood_is_kept_where_the_model_holds(model, m, n, p, snr, is_complex):
    """Also for gains of arbitrary phase and at 5 dB, where ratios of eigenvalues look ambiguous."""
    for seed in range(2):
        elimination, y, d = exact_model(np.random.default_rng(seed), model, is_complex, m, n, p, snr)
        d = refine(elimination, torch.as_tensor(d)[None], max_iter=30).d
        decision = choose(elimination, d, y=torch.as_tensor(y)[None])
        assert decision.method == "likelihood"
        assert decision.gains is None
        assert abs(decision.assessment.score) < 7
        assert "white noise" in decision.reason


@pytest.mark.parametrize("kind", ["own", "common"])
@pytest.mark.parametrize("is_complex", [False, True])
def test_scores_of_noise_have_mean_zero_and_deviation_one(is_complex, kind):
    scores, count = [], 400 if kind == "common" else 60
    for seed in range(count):
        rng = np.random.default_rng(seed)
        y, A = draw(rng, is_complex, 40, 24), draw(rng, is_complex, 24, 6)
        elimination = (
            common(y, A) if kind == "common" else Diverse(torch.as_tensor(y)[None], torch.as_tensor(A)[None, None])
        )
        scores.append(assess(elimination, torch.ones(1, 24, dtype=elimination.dtype)).score)
    # Four standard errors of a mean and of a deviation; a deviation known from 32 draws adds a tenth.
    assert abs(np.mean(scores)) < 4 / count**0.5
    assert np.std(scores) == pytest.approx(1, abs=4 / (2 * count) ** 0.5 + (0.1 if kind == "own" else 0.05))


def test_both_ways_to_the_score_agree():
    rng = np.random.default_rng(0)
    y, A = draw(rng, False, 200, 24) * np.linspace(1, 2, 24), draw(rng, False, 24, 6)
    ones = torch.ones(1, 24, dtype=torch.float64)
    closed = assess(common(y, A), ones)
    drawn = assess(Diverse(torch.as_tensor(y)[None], torch.as_tensor(A)[None, None]), ones)
    assert closed.score > 10
    # 32 draws know their deviation to an eighth.
    assert drawn.score == pytest.approx(closed.score, rel=0.4)
    assert drawn.fraction == pytest.approx(closed.fraction, rel=1e-10)


def test_scores_do_not_depend_on_units():
    rng = np.random.default_rng(1)
    y, A = draw(rng, True, 30, 16), draw(rng, True, 16, 4)
    ones = torch.ones(1, 16, dtype=torch.complex128)
    scores = [assess(common(a * y, A), ones).score for a in (1, 1e-6, 1e6j)]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-9)


def test_exact_data_have_nothing_to_test():
    rng = np.random.default_rng(2)
    A, x, d = draw(rng, False, 16, 4), draw(rng, False, 30, 4), draw(rng, False, 16)
    verdict = assess(common(d * (x @ A.T), A), torch.as_tensor(d)[None])
    assert verdict.score == 0
    assert not verdict.misfit


def test_flags_do_not_pass_for_misfit():
    for seed in range(4):
        rng = np.random.default_rng(seed)
        A, x, d = draw(rng, False, 24, 6), draw(rng, False, 40, 6), draw(rng, False, 24)
        y = d * (x @ A.T) + 0.1 * draw(rng, False, 40, 24)
        W = (rng.random((40, 24)) > 0.3).astype(float)
        W[:, 0] = 0
        T = torch.as_tensor
        active = T(W.any(0))[None]
        flagged = Diverse(T(y * W)[None], T(A)[None, None], T(W)[None], active)
        assert choose(flagged, torch.where(active, T(d)[None], 0)).method == "likelihood"
        halves = [T(np.arange(20)), T(np.arange(20, 40))]
        total = Total([common(y[h], A) for h in halves], halves)
        assert choose(total, T(d)[None], y=T(y)[None]).method == "likelihood"


REAL = [
    ("digits", "dct", 9),
    ("digits", "dct", 16),
    ("digits", "dct", 25),
    ("digits", "pca", 16),
    ("patches", "dct", 16),
    ("patches", "dct", 36),
    ("patches", "pca", 16),
]


@pytest.mark.parametrize(("source", "basis", "n"), REAL)
def test_measured_signals_are_never_worse_than_uncalibrated(source, basis, n):
    z, A = measured_snapshots(source, basis, n)
    cases = [(0.0, 40, 0), (0.0, 2000, 1), (0.05, 40, 2), (0.05, 2000, 3), (0.2, 100, 4), (0.4, 20, 5), (1.0, 2000, 6)]
    for spread, p, seed in cases:
        z_p = z[np.random.default_rng(seed).permutation(len(z))[:p]]
        heard = (z_p**2).sum(0) > 0
        d = gain_pattern(z.shape[1], spread, random_state=seed)[heard]
        found, decision = answer(z_p[:, heard] * d, A[heard])
        assert decision.method == "prior"
        assert decision.converged
        assert error(found, d) <= error(np.ones_like(d), d) + 1e-12
        if spread == 0:
            np.testing.assert_allclose(found, found.mean(), rtol=1e-9)


@pytest.mark.parametrize(
    ("source", "basis", "n", "spread", "bound"),
    [
        ("digits", "dct", 25, 0.4, 0.8),
        ("digits", "pca", 16, 0.4, 0.25),
        ("digits", "pca", 16, 1.0, 0.15),
        ("patches", "dct", 16, 0.4, 0.3),
        ("patches", "dct", 36, 1.0, 0.15),
        ("patches", "pca", 16, 0.4, 0.2),
    ],
)
def test_measured_signals_are_calibrated(source, basis, n, spread, bound):
    """Shares of the error of data left as they are; maximum likelihood has between 0.3 and 2.4 of it."""
    z, A = measured_snapshots(source, basis, n)
    d = gain_pattern(z.shape[1], spread, random_state=0)
    found, decision = answer(z * d, A)
    assert error(found, d) < bound * error(np.ones_like(d), d)
    # Standard deviations do not leave out the error of the model.
    alpha = np.vdot(found, d) / np.vdot(found, found)
    std = np.sqrt(np.diagonal(decision.covariance.numpy()))
    assert np.sqrt(np.mean(((alpha * found - d) / (alpha * std)) ** 2)) < 3


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(("share", "bound"), [(0.05, 0.004), (0.1, 0.008), (0.2, 0.014), (0.3, 0.02)])
def test_errors_in_proportion_to_the_gains(share, bound, is_complex):
    """m=64, n=16, p=600; refining the best of the plain estimates leaves 0.004, 0.009, 0.027 and 0.057."""
    for seed in range(1):
        rng = np.random.default_rng(seed)
        d, A = gain_pattern(64, 0.4, random_state=rng), draw(rng, is_complex, 64, 16)
        z = draw(rng, is_complex, 600, 16) @ A.T
        z = z + share * np.sqrt(np.mean(abs(z) ** 2)) * draw(rng, is_complex, 600, 64)
        found, decision = answer(z * d, A)
        assert decision.method == "prior"
        assert decision.sensor_weights is not None
        assert error(found, d) < bound


def test_small_phases_are_shrunk_with_the_moduli():
    z, A = measured_snapshots("patches", "dct", 16)
    rng = np.random.default_rng(0)
    d = np.exp(0.1 * (rng.standard_normal(64) + 1j * rng.standard_normal(64)))
    found, decision = answer((z * d)[:100], A)
    assert decision.method == "prior"
    assert error(found, d) < 0.7 * error(np.ones_like(d), d)


def test_arbitrary_signs_start_from_the_data():
    z, A = measured_snapshots("digits", "pca", 16)
    d = gain_pattern(z.shape[1], 0.4, "signs", random_state=1)
    found, decision = answer((z * d)[:200], A)
    assert decision.method == "prior"
    assert error(found, d) < 0.15


def test_arbitrary_phases_start_from_the_data():
    rng = np.random.default_rng(0)
    d, A = gain_pattern(24, 0.4, "phases", random_state=1), draw(rng, True, 24, 6)
    z = draw(rng, True, 100, 6) @ A.T
    z = z + 0.2 * draw(rng, True, 100, 1) * draw(rng, True, 24)
    found, decision = answer(z * d, A, start=d)
    assert decision.method == "prior"
    assert decision.spread == pytest.approx(0.4, rel=0.5)  # of the moduli, whatever the phases
    assert error(found, d) < 0.1


def test_gains_that_two_halves_do_not_share_are_given_up():
    z, A = measured_snapshots("digits", "dct", 9)
    d = gain_pattern(z.shape[1], 0.4, "signs", random_state=1)
    found, decision = answer((z * d)[:100], A)
    assert decision.method == "uncalibrated"
    assert (found == 1).all()
    assert torch.isinf(torch.diagonal(decision.covariance)).all()
    assert "left as they are" in decision.reason


def test_signs_decide_whether_a_mean_is_supported():
    z, A = measured_snapshots("patches", "dct", 16)
    ones = torch.ones(1, 64, dtype=torch.float64)
    for spread in (0.0, 1.0):
        assert mean_is_supported(common(z * gain_pattern(64, spread), A), ones)
    signs = gain_pattern(64, 0.4, "signs")
    assert not mean_is_supported(common(z * signs, A), ones)
    assert mean_is_supported(common(z * signs, A), torch.as_tensor(signs)[None])


def test_the_mean_of_the_prior_is_taken():
    z, A = measured_snapshots("digits", "dct", 16)
    d = gain_pattern(z.shape[1], 0.4, "signs")
    found, decision = answer(z * d, A, centre=torch.as_tensor(3 * d)[None])
    assert decision.method == "prior"
    assert error(found, d) < 1e-9  # the true gains are their mean, and nothing speaks for a spread


def test_answers_without_the_snapshots_differ_little():
    z, A = measured_snapshots("patches", "dct", 16)
    d = gain_pattern(64, 0.4)
    with_y, _ = answer(z * d, A)
    elimination = common(z * d, A)
    without = choose(elimination, refine(elimination, torch.ones(1, 64, dtype=torch.float64)).d).gains
    assert error(without, with_y) < 0.02


def test_decisions_can_be_had_again_and_in_any_units():
    z, A = measured_snapshots("patches", "pca", 16)
    d = gain_pattern(64, 0.4)
    first, decision = answer(z * d, A)
    again, _ = answer(z * d, A)
    scaled, _ = answer(1e-5 * z * d, 7 * A)
    np.testing.assert_array_equal(first, again)
    assert error(scaled, first) < 1e-6
    assert decision.reason.startswith("residuals are no white noise (score ")
    assert f"a spread of {decision.spread:.2g}" in decision.reason


def test_snapshots_of_their_own_matrices():
    """The same digits, half of whose pixels are seen each time."""
    z, A = measured_snapshots("digits", "pca", 10)
    rng = np.random.default_rng(0)
    W = (rng.random((80, z.shape[1])) > 0.3).astype(float)
    d = gain_pattern(z.shape[1], 0.4)
    T = torch.as_tensor
    elimination = Diverse(T(z[:80] * d * W)[None], T(A)[None, None], T(W)[None])
    ones = torch.ones(1, len(d), dtype=torch.float64)
    decision = choose(elimination, refine(elimination, ones, max_iter=60).d)
    assert decision.method == "prior"
    assert error(decision.gains, d) < 0.7 * error(np.ones_like(d), d)
