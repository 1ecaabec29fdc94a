"""Covariances: the definitions, scikit-learn and pyRiemann as oracles, units, outliers, gradients."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.covariance import ledoit_wolf, oas

from sciml.exceptions import InvalidInputError
from sciml.stats.spd.covariance import ESTIMATORS, covariance, numerical_rank

MIX = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 0.5, 0.3]])


def schaefer_strimmer(t):
    """The paper's equations 9 and 10 for the correlations, entry by entry."""
    n, T = t.shape
    t = t - t.mean(axis=1, keepdims=True)
    S, s = np.cov(t), t / t.std(axis=1, ddof=1, keepdims=True)
    noise = signal = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                w = s[i] * s[j]
                noise += T / (T - 1) ** 3 * ((w - w.mean()) ** 2).sum()
                signal += (T / (T - 1) * w.mean()) ** 2
    gamma = np.clip(noise / signal, 0, 1)
    return np.where(np.eye(n, dtype=bool), S, (1 - gamma) * S)


@pytest.fixture
def x(rng):
    return MIX @ rng.normal(size=(5, 3, 40)) + 3.0


@pytest.mark.parametrize(
    ("estimator", "oracle"),
    [
        ("scm", lambda t: np.cov(t, bias=True)),
        ("scm_unbiased", np.cov),
        ("lw", lambda t: ledoit_wolf(t.T)[0]),
        ("oas", lambda t: oas(t.T)[0]),
        ("ss", schaefer_strimmer),
    ],
)
def test_agrees_with_the_oracle(x, estimator, oracle):
    expected = np.stack([oracle(t) for t in x])
    assert_allclose(covariance(x, estimator, 0), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("word", "name"), [("cov", "scm_unbiased"), ("lwf", "lw"), ("sch", "ss"), ("tyl", "tyler"), ("hub", "huber")]
)
def test_words_of_another_package_are_understood(x, word, name):
    assert_array_equal(covariance(x, word), covariance(x, name))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_units_leave_no_trace(x, estimator):
    C = covariance(x, estimator)
    for k in (-300, -40, 40, 300):
        assert_array_equal(covariance(2.0**k * x, estimator), 4.0**k * C)
    assert_allclose(covariance(1e-6 * x, estimator), 1e-12 * C, rtol=1e-7)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_channels_and_trials_may_be_permuted(x, estimator, rng):
    C, order, rows = covariance(x, estimator), rng.permutation(3), rng.permutation(5)
    tol = 1e-7 if estimator in ("tyler", "huber") else 1e-13
    assert_allclose(
        covariance(x[rows][:, order], estimator), C[rows][:, order][:, :, order], rtol=0, atol=tol * C.max()
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_batches_of_any_shape_and_torch(x, estimator):
    C = covariance(x, estimator)
    tol = 1e-7 if estimator in ("tyler", "huber") else 1e-14
    assert_allclose(covariance(x[3], estimator), C[3], rtol=0, atol=tol * C.max())
    assert covariance(x.reshape(5, 1, 3, 40), estimator).shape == (5, 1, 3, 3)
    ours = covariance(torch.from_numpy(x), estimator)
    assert isinstance(ours, torch.Tensor)
    assert_array_equal(ours.numpy(), C)
    assert_array_equal(C, C.transpose(0, 2, 1))


@pytest.mark.parametrize("estimator", ["tyler", "huber"])
def test_robust_estimates_are_consistent_for_gaussian_samples(estimator, rng):
    C = covariance(MIX @ rng.normal(size=(3, 100_000)) + 5.0, estimator, 0)
    assert_allclose(
        C, MIX @ MIX.T, atol=0.06
    )  # sampling error of the largest entry: 4 sqrt(2 / 1e5) = 0.02, Tyler's scale 3 times


@pytest.mark.parametrize("estimator", ["tyler", "huber"])
def test_robust_estimates_turn_with_any_linear_map(estimator, rng, x):
    A = rng.normal(size=(3, 3)) + 3 * np.eye(3)
    assert_allclose(covariance(A @ x, estimator, 0), A @ covariance(x, estimator, 0) @ A.T, rtol=1e-5, atol=1e-5)


def test_robust_estimates_bear_outliers(rng):
    x = MIX @ rng.normal(size=(3, 2000))
    spoiled = x.copy()
    spoiled[:, ::20] += 1000.0
    truth = MIX @ MIX.T
    assert np.abs(covariance(spoiled, "scm", 0) - truth).max() > 1e4
    for estimator in ("tyler", "huber"):
        assert np.abs(covariance(spoiled, estimator, 0) - truth).max() < 1.5


def test_tyler_fulfils_its_equation(x):
    t = x[0] - x[0].mean(axis=1, keepdims=True)
    C = covariance(t, "tyler", 0, assume_centered=True)
    d = np.einsum("it,ij,jt->t", t, np.linalg.inv(C), t)
    rebuilt = 3 * (t / d) @ t.T / t.shape[1]
    assert_allclose(rebuilt / np.trace(rebuilt), C / np.trace(C), atol=1e-8)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_shrinkage_is_towards_the_mean_variance(x, estimator):
    if estimator in ("tyler", "huber"):
        full = covariance(x, estimator, 1.0)
        assert_allclose(full, full[:, :1, :1] * np.eye(3), atol=1e-12 * full.max())
        return
    C = covariance(x, estimator, 0)
    level = np.trace(C, axis1=1, axis2=2)[:, None, None] / 3
    assert_allclose(covariance(x, estimator, 0.25), 0.75 * C + 0.25 * level * np.eye(3), rtol=1e-14, atol=1e-14)


def test_offsets_cost_no_digits(x):
    x = x - x.mean(axis=-1, keepdims=True)
    x = np.round(x * 2**20) / 2**20  # so that adding 2^20 is exact
    C = covariance(x, shrink=0)
    assert_allclose(covariance(x + 2.0**20, shrink=0), C, rtol=0, atol=1e-8 * C.max())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_short_trials_have_regular_matrices_once_shrunk(estimator, rng):
    C = covariance(rng.normal(size=(4, 8, 5)), estimator, 1e-2)
    assert (np.linalg.eigvalsh(C)[:, 0] > 1e-4 * np.linalg.eigvalsh(C)[:, -1]).all()


def test_a_flat_channel_does_no_harm(x):
    x[:, 1] = 7.0
    for estimator in ("scm", "scm_unbiased", "lw", "oas", "ss"):
        C = covariance(x, estimator, 0)
        assert np.isfinite(C).all()
        assert_allclose(C[:, 1, 0], 0.0, atol=1e-12)
    with pytest.raises(InvalidInputError, match="trial 0 do not"):
        covariance(x, "tyler", 0)


@pytest.mark.parametrize("estimator", ["scm", "scm_unbiased", "lw", "oas", "ss"])
def test_gradients(estimator, rng):
    x = torch.from_numpy(rng.normal(size=(2, 3, 9))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: covariance(x, estimator, 0.1), (x,))


def test_ranks_know_no_units(rng):
    C = covariance(rng.normal(size=(3, 6, 4)), shrink=0)
    for unit in (1e-12, 1.0, 1e12):
        assert_array_equal(numerical_rank(unit * C), [3, 3, 3])
    assert numerical_rank(np.diag([1.0, 1e-14, 1e-17])) == 2


def test_known_by_hand():
    assert_array_equal(covariance(np.array([[1.0, 3.0], [0.0, 4.0]]), shrink=0), [[1.0, 2.0], [2.0, 4.0]])
    assert_array_equal(covariance(np.array([[1.0, 3.0]]), shrink=0, assume_centered=True), [[5.0]])


@pytest.mark.parametrize(
    ("x", "options", "text"),
    [
        (np.ones((3, 1)), {}, "T at least 2"),
        (np.ones(3), {}, "must have shape"),
        (np.ones((3, 4)) * 1j, {}, "must be real"),
        (np.ones((3, 4)), {"estimator": "scmm"}, "Did you mean 'scm'"),
        (np.ones((3, 4)), {"shrink": 1.5}, "shrink must be"),
        (np.eye(4)[:, :3], {"estimator": "tyler", "shrink": 0}, "more samples than channels"),
    ],
)
def test_bad_input_is_told(x, options, text):
    with pytest.raises(InvalidInputError, match=text):
        covariance(x, **options)
