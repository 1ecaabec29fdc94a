"""Claims about the Gaussian linear model, its posterior, and the maximisation of its evidence."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.chebyshev import chebvander
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from sciml.exceptions import ConvergenceWarning, InvalidInputError
from sciml.iterate import Status
from sciml.linalg.gaussian_model import (
    GaussianLinearModel,
    fit_evidence,
    fit_evidence_steps,
    sparse_bayes,
    sparse_bayes_steps,
)
from sciml.testing import check_gradient

SHAPES = [(12, 5), (5, 12), (6, 6), (1, 1), (1, 4), (7, 1)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")


def problem(n, p, seed=0, k=None):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, p))
    y = rng.normal(size=n if k is None else (n, k))
    return A, y, rng.uniform(0.5, 2.0, p), rng.uniform(0.3, 1.0, n)


def posterior(A, y, s, e):
    return GaussianLinearModel(A, y, prior_std=s, noise_std=e).posterior()


class Twin:
    """The slow obvious way: 60 digits, explicit covariances and inverses of N(0, A S A^T + Sigma)."""

    def __init__(self, A, y, s, e):
        with mpmath.workdps(60):
            A, y = mpmath.matrix(A.tolist()), mpmath.matrix(y.tolist())
            S = mpmath.diag([mpmath.mpf(float(v)) ** 2 for v in s])
            Sigma = mpmath.diag([mpmath.mpf(float(v)) ** 2 for v in e])
            K = A * S * A.T + Sigma
            Ki = K**-1
            a = Ki * y
            n = A.rows
            self.mean = self._array(S * A.T * a)[:, 0]
            self.cov = self._array(S - S * A.T * Ki * A * S)
            self.loo = np.array([float(a[i] / Ki[i, i]) for i in range(n)])
            self.leverage = np.array([float(1 - Sigma[i, i] * Ki[i, i]) for i in range(n)])
            self.determined = np.diag(self._array(S * A.T * Ki * A)).copy()
            self.log_evidence = float(-((y.T * a)[0] + mpmath.log(mpmath.det(K)) + n * mpmath.log(2 * mpmath.pi)) / 2)

    @staticmethod
    def _array(M):
        return np.array(M.tolist(), dtype=float)


@shapes
def test_agrees_with_sixty_digits(shape):
    A, y, s, e = problem(*shape)
    twin, post = Twin(A, y, s, e), posterior(A, y, s, e)
    everything = np.eye(shape[1])
    # Condition numbers here are below 1e2; 1e-12 leaves two digits beyond cond * eps.
    assert_allclose(post.mean, twin.mean, rtol=0, atol=1e-12)
    assert_allclose(post.whitened, twin.mean / s, rtol=0, atol=1e-12)
    assert_allclose(post.residual, y - A @ twin.mean, rtol=0, atol=1e-12)
    assert_allclose(post.cov(everything), twin.cov, rtol=0, atol=1e-12)
    assert_allclose(post.std(everything), np.sqrt(np.diag(twin.cov)), rtol=1e-12)
    W = post.covariance_root()
    assert_allclose(W @ W.T, twin.cov, rtol=0, atol=1e-12)
    assert_allclose(post.leave_one_out, twin.loo, rtol=0, atol=1e-11)
    assert_allclose(post.leverage, twin.leverage, rtol=0, atol=1e-12)
    assert_allclose(post.determined, twin.determined, rtol=0, atol=1e-12)
    assert_allclose(post.effective_dof, twin.leverage.sum(), rtol=1e-12)
    assert_allclose(post.log_evidence, twin.log_evidence, rtol=1e-13)


@shapes
def test_a_louder_noise_needs_no_new_model(shape):
    A, y, s, e = problem(*shape)
    W = posterior(A, y, s, e).covariance_root(noise_factor=8.0)
    assert_allclose(W @ W.T, posterior(A, y, s, 8.0 * e).cov(np.eye(shape[1])), rtol=0, atol=1e-12)
    with pytest.raises(InvalidInputError, match="noise_factor must be a number at least 1; got 0.5"):
        posterior(A, y, s, e).covariance_root(noise_factor=0.5)


@shapes
def test_evidence_is_the_density_of_the_data(shape):
    A, y, s, e = problem(*shape)
    peer = multivariate_normal(np.zeros(len(y)), (A * s**2) @ A.T + np.diag(e**2))
    assert_allclose(posterior(A, y, s, e).log_evidence, peer.logpdf(y), rtol=1e-12)


@pytest.mark.parametrize("small", [1e-6, 1e-10, 1e-13])
@pytest.mark.parametrize("shape", [(20, 6), (10, 16)], ids=["tall", "wide"])
def test_nearly_exact_rows_cost_no_digits_wherever_they_stand(shape, small):
    A, y, s, e = problem(*shape)
    e[[5, 9]] = small
    twin, post = Twin(A, y, s, e), posterior(A, y, s, e)
    # Unsorted rows, or an SVD of the whitened matrix, lose 4e-4 of the mean at 1e-13.
    assert_allclose(post.mean, twin.mean, rtol=0, atol=1e-13)
    assert_allclose(post.leave_one_out, twin.loo, rtol=0, atol=1e-11)
    assert_allclose(post.std(np.eye(shape[1])), np.sqrt(np.diag(twin.cov)), rtol=1e-11)


def test_leave_one_out_holds_where_leverage_reaches_one():
    A, y, s, _ = problem(20, 6)
    A[:, 5] = 0
    A[3, 5] = 1.0  # observation 3 alone sees the last coefficient: 1 - h is about 1e-14
    y = A @ np.ones(6) + 1e-7 * y
    post = posterior(A, y, s, 1e-7)
    twin = Twin(A, y, s, np.full(20, 1e-7))
    assert 1 - post.leverage[3] < 1e-12
    # Error eps * norm(r) * noise / (1 - h), about 1e-8 here; the plain quotient misses by the whole value, about 1.
    assert_allclose(post.leave_one_out[3], twin.loo[3], rtol=1e-6)
    assert_allclose(post.determined, twin.determined, rtol=1e-12)


def test_leave_one_out_is_leaving_one_out():
    A, y, s, e = problem(9, 4)
    for i in range(9):
        rest = np.arange(9) != i
        fit = posterior(A[rest], y[rest], s, e[rest])
        assert_allclose(posterior(A, y, s, e).leave_one_out[i], y[i] - A[i] @ fit.mean, rtol=1e-11)


def test_determination_stays_relative_for_coefficients_that_the_data_hardly_see():
    A, y, s, e = problem(12, 5)
    s[2] = 1e-9
    d = Twin(A, y, s, e).determined
    assert d[2] < 1e-16
    assert_allclose(posterior(A, y, s, e).determined, d, rtol=1e-6)


def redundant_frame(x, m0=100, m=30, omega=30.0):
    """Chebyshev polynomials that already resolve the carriers beside them: rank 100 of 160 in float64."""
    T, E = chebvander(x, m0 - 1), chebvander(x, m - 1)
    return np.hstack([T, E * np.cos(omega * x)[:, None], E * np.sin(omega * x)[:, None]])


@pytest.mark.parametrize("noise", [1e-12, 1e-14])
@pytest.mark.parametrize("n", [320, 120], ids=["tall", "wide"])
def test_redundant_features_without_noise_leave_a_rounding_residual(n, noise):
    x = np.cos((np.arange(n) + 0.5) * np.pi / n)  # Chebyshev points, so that the fit is good between them too
    y = np.sin(30.3 * x)
    post = posterior(redundant_frame(x), y, 1.0, noise)
    assert np.abs(post.residual).max() < 2e-13
    assert np.abs(post.mean).max() < 2.0
    t = np.linspace(-1, 1, 501)
    assert np.abs(redundant_frame(t) @ post.mean - np.sin(30.3 * t)).max() < 1e-11
    assert post.condition > 1e15


@shapes
def test_gradients_are_those_of_the_evidence(shape):
    n, p = shape
    A, y, s, e = problem(n, p)
    post = posterior(A, y, s, e)

    def by_prior(x):
        return posterior(A, y, s * np.exp(x), e).log_evidence

    def by_noise(x):
        return posterior(A, y, s, e * np.exp(x)).log_evidence

    check_gradient(by_prior, np.zeros(p), post.grad_log_prior_std, rtol=1e-7)
    check_gradient(by_noise, np.zeros(n), post.grad_log_noise_std(), rtol=1e-7)


def test_gradient_by_blocks_of_noise_takes_slices_indices_and_labels():
    A, y, s, e = problem(6, 3)
    post = posterior(A, y, s, e)
    rows = post.grad_log_noise_std()
    expected = [rows[:2].sum(), rows[[3, 5]].sum()]
    assert_allclose(post.grad_log_noise_std([slice(0, 2), [3, 5]]), expected, rtol=1e-12)
    assert_allclose(post.grad_log_noise_std(np.array([0, 0, -1, 1, -1, 1])), expected, rtol=1e-12)
    assert_allclose(post.grad_log_noise_std(torch.tensor([0, 0, -1, 1, -1, 1])), expected, rtol=1e-12)


@given(st.integers(-300, 300), st.integers(-100, 100), st.sampled_from(SHAPES))
@settings(deadline=None, max_examples=20)
def test_units_of_data_and_features_do_not_matter(a, b, shape):
    A, y, s, e = problem(*shape)
    one = posterior(A, y, s, e)
    other = posterior(A * 2.0**b, y * 2.0**a, s * 2.0 ** (a - b), e * 2.0**a)
    # Powers of two rescale without rounding.
    assert_array_equal(other.mean, one.mean * 2.0 ** (a - b))
    assert_array_equal(other.leave_one_out, one.leave_one_out * 2.0**a)
    assert_array_equal(other.std(A * 2.0**b), one.std(A) * 2.0**a)
    assert_allclose(other.log_evidence, one.log_evidence - len(y) * a * np.log(2), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)], ids=["tall", "wide"])
def test_a_row_twice_is_a_row_with_noise_over_root_two(shape):
    A, y, s, e = problem(*shape)
    twice = posterior(np.vstack([A, A[:1]]), np.append(y, y[0]), s, np.append(e, e[0]))
    sharper = posterior(A, y, s, np.append(e[0] / np.sqrt(2), e[1:]))
    assert_allclose(twice.mean, sharper.mean, rtol=0, atol=1e-13)
    assert_allclose(twice.std(A), sharper.std(A), rtol=1e-12)


def test_a_square_problem_and_its_extensions_agree_across_the_two_factorisations():
    A, y, s, e = problem(8, 8)
    tall = posterior(A, y, s, e)
    wide = posterior(np.hstack([A, np.zeros((8, 1))]), y, np.append(s, 1.0), e)  # an unseen coefficient
    assert_allclose(wide.mean, np.append(tall.mean, 0.0), rtol=0, atol=1e-13)
    assert_allclose(wide.log_evidence, tall.log_evidence, rtol=1e-13)
    assert_allclose(wide.std(np.eye(9)), np.append(tall.std(np.eye(8)), 1.0), rtol=1e-12)
    assert_allclose(wide.leverage, tall.leverage, rtol=1e-12)


@shapes
def test_right_sides_share_a_factorisation(shape):
    A, y, s, e = problem(*shape, k=3)
    many, Phi = posterior(A, y, s, e), A[:2]
    for j in range(3):
        one = posterior(A, y[:, j], s, e)
        for name in ("mean", "whitened", "residual", "leave_one_out", "grad_log_prior_std"):
            assert_allclose(getattr(many, name)[:, j], getattr(one, name), rtol=1e-10, atol=1e-12, err_msg=name)
        assert_allclose(many.log_evidence[j], one.log_evidence, rtol=1e-12)
        assert_allclose(many.grad_log_noise_std()[:, j], one.grad_log_noise_std(), rtol=0, atol=1e-12)
        assert_allclose(many.sample(Phi, 4, 0)[..., j], one.sample(Phi, 4, 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)], ids=["tall", "wide"])
def test_samples_have_the_posterior_mean_and_covariance(shape):
    A, y, s, e = problem(*shape)
    post, Phi = posterior(A, y, s, e), A[:3]
    draws = post.sample(Phi, 40_000, 1)
    C = post.cov(Phi)
    scale = np.sqrt(np.outer(np.diag(C), np.diag(C)))
    # Five standard errors: 1 / sqrt(N) for a mean, at most sqrt(2 / N) for a covariance.
    assert (np.abs(draws.mean(0) - Phi @ post.mean) < 5 * np.sqrt(np.diag(C) / 40_000)).all()
    assert (np.abs(np.cov(draws.T) - C) < 5 * np.sqrt(2 / 40_000) * scale).all()
    assert_array_equal(post.sample(Phi, 2, 7), post.sample(Phi, 2, 7))


@shapes
def test_zero_data_give_a_zero_mean_and_the_same_uncertainty(shape):
    A, y, s, e = problem(*shape)
    post = posterior(A, 0 * y, s, e)
    assert_array_equal(post.mean, 0.0)
    assert_array_equal(post.leave_one_out, 0.0)
    assert_array_equal(post.std(A), posterior(A, y, s, e).std(A))


def test_one_by_one_has_a_scalar_truth():
    post = posterior(np.array([[3.0]]), np.array([2.0]), 0.5, 0.25)
    variance = 0.5**2 * 3**2 + 0.25**2
    assert_allclose(post.mean, [0.25 * 3 * 2 / variance], rtol=1e-14)
    assert_allclose(post.std(np.array([[1.0]])), [0.5 * 0.25 / np.sqrt(variance)], rtol=1e-14)
    assert_allclose(post.smallest_singular_value, 0.5 * 3 / 0.25, rtol=1e-14)
    assert post.condition == 1.0


def test_singular_values_are_those_of_the_whitened_features():
    A, y, s, e = problem(9, 4)
    values = np.linalg.svd(A * s / e[:, None], compute_uv=False)
    post = posterior(A, y, s, e)
    assert_allclose(post.smallest_singular_value, values[-1], rtol=1e-12)
    assert_allclose(post.condition, values[0] / values[-1], rtol=1e-12)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)], ids=["tall", "wide"])
def test_kind_and_dtype_follow_the_data(shape):
    A, y, s, e = problem(*shape)
    plain = posterior(A, y, s, e)
    tensors = posterior(*(torch.as_tensor(a) for a in (A, y, s, e)))
    single = posterior(*(a.astype(np.float32) for a in (A, y, s, e)))
    rounded = posterior(*(a.astype(np.float32).astype(float) for a in (A, y, s, e)))
    for name in ("mean", "whitened", "residual", "leave_one_out", "leverage", "determined", "grad_log_prior_std"):
        tensor = getattr(tensors, name)
        assert isinstance(tensor, torch.Tensor)
        assert_array_equal(tensor.numpy(), getattr(plain, name), err_msg=name)
        assert getattr(single, name).dtype == np.float32
        # float64 inside: only the answer is rounded.
        assert_array_equal(getattr(single, name), getattr(rounded, name).astype(np.float32), err_msg=name)
    assert single.sample(A, 2, 0).dtype == np.float32
    assert isinstance(tensors.std(A), torch.Tensor)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@shapes
def test_cuda_agrees_with_the_cpu(shape):
    A, y, s, e = problem(*shape)
    cpu, gpu = posterior(A, y, s, e), posterior(*(torch.as_tensor(a, device="cuda") for a in (A, y, s, e)))
    for name in ("mean", "residual", "leave_one_out", "leverage", "determined", "grad_log_prior_std"):
        tensor = getattr(gpu, name)
        assert tensor.device.type == "cuda"
        assert_allclose(tensor.cpu().numpy(), getattr(cpu, name), rtol=0, atol=1e-12, err_msg=name)
    assert_allclose(gpu.log_evidence, cpu.log_evidence, rtol=1e-12)
    assert_allclose(gpu.sample(A, 3, 0).cpu().numpy(), cpu.sample(A, 3, 0), rtol=0, atol=1e-12)
    fits = [
        sparse_bayes(m.A, m.y, prior_std=m.prior, noise_std=m.noise, on_failure="ignore").value.log_evidence
        for m in (cpu._inside, gpu._inside)
    ]
    assert_allclose(*fits, rtol=1e-10)


def test_arguments_are_left_alone():
    A, y, s, e = problem(12, 5)
    before = [a.copy() for a in (A, y, s, e)]
    post = posterior(A, y, s, e)
    post.leave_one_out, post.sample(A, 2, 0), post.condition  # noqa: B018
    for now, then in zip((A, y, s, e), before, strict=True):
        assert_array_equal(now, then)


A0, Y0 = np.ones((3, 2)), np.ones(3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"A": np.full((3, 2), np.nan)}, r"A must be finite; the entry at index \(0, 0\) is nan"),
        ({"y": np.array([1.0, np.inf, 1.0])}, "y must be finite; the entry at index 1 is inf"),
        ({"A": np.ones(3)}, r"A must be a matrix .* got shape \(3,\).*A\[:, None\]"),
        ({"A": np.ones((0, 2)), "y": np.ones(0)}, r"A must be a matrix .* got shape \(0, 2\)"),
        ({"y": np.ones(4)}, r"y must have shape .* n = 3.* got \(4,\)"),
        ({"noise_std": -0.1}, "noise_std must be positive; entry 0 is -0.1"),
        ({"noise_std": np.array([1.0, 0.0, 1.0])}, "noise_std must be positive; entry 1 is 0"),
        ({"noise_std": np.ones(2)}, r"noise_std must be a number or have shape \(3,\).*row of A; got \(2,\)"),
        ({"prior_std": np.ones(3)}, r"prior_std must be a number or have shape \(2,\).*column of A; got \(3,\)"),
        ({"prior_std": np.inf}, "prior_std must be finite"),
        ({"A": 1j * A0}, "A and y must be real; got complex"),
    ],
)
def test_bad_models_are_refused_by_name(arguments, text):
    good = {"A": A0, "y": Y0, "prior_std": 1.0, "noise_std": 1.0}
    with pytest.raises(InvalidInputError, match=text):
        GaussianLinearModel(**(good | arguments))


def test_bad_questions_are_refused_by_name():
    post = posterior(A0, Y0, 1.0, 1.0)
    with pytest.raises(InvalidInputError, match=r"Phi must have shape \(m, p\) with p = 2.* got \(4, 3\)"):
        post.std(np.ones((4, 3)))
    with pytest.raises(InvalidInputError, match="Phi must be finite"):
        post.cov(np.full((1, 2), np.nan))
    with pytest.raises(InvalidInputError, match="n_samples must be an integer at least 1; got 0"):
        post.sample(A0, 0)
    with pytest.raises(InvalidInputError, match=r"blocks must be a list .* of shape \(3,\)"):
        post.grad_log_noise_std(np.array([0, 1]))
    with pytest.raises(InvalidInputError, match="blocks must not overlap; number 1"):
        post.grad_log_noise_std([slice(0, 2), [1]])
    with pytest.raises(InvalidInputError, match=r"blocks\[0\] must index an axis of length 3"):
        post.grad_log_noise_std([[5]])
    with pytest.raises(InvalidInputError, match="variant must be one of .*mackay.* got 'McKay'"):
        sparse_bayes(A0, Y0, prior_std=1.0, noise_std=1.0, variant="McKay")
    with pytest.raises(InvalidInputError, match="floor must be .* got 0"):
        sparse_bayes(A0, Y0, prior_std=1.0, noise_std=1.0, floor=0)


# Sparse Bayesian learning and the maximisation of the evidence


def orthonormal_problem(n=40, p=6, seed=3):
    """Orthonormal features: every variance has its own scalar truth, max(0, (a_j . y)^2 - noise^2)."""
    rng = np.random.default_rng(seed)
    A = np.linalg.qr(rng.normal(size=(n, p))).Q
    return A, A @ np.array([3.0, 0, -2.0, 0, 0, 1.0]) + 0.1 * rng.normal(size=n)


@pytest.mark.parametrize("variant", ["mackay", "monotone"])
def test_sparse_bayes_finds_the_scalar_truth_of_orthonormal_features(variant):
    A, y = orthonormal_problem()
    result = sparse_bayes(A, y, prior_std=1.0, noise_std=0.1, variant=variant, tol=1e-6, max_iter=5000)
    assert result.converged
    truth = np.maximum((A.T @ y) ** 2 - 0.1**2, 0.0)
    # At the criterion 1e-6 a variance v is known to 1e-6 v, one that should vanish to about sqrt(1e-6) noise^2.
    assert_allclose(result.value.prior_std**2, truth, rtol=1e-5, atol=1e-3 * 0.1**2)
    assert_allclose(result.value.group_factor, result.value.prior_std**2, rtol=1e-12)


def test_monotone_sweeps_never_lower_the_evidence_and_report_that_of_the_whole_model():
    A, y, s, e = problem(30, 8)
    steps = sparse_bayes_steps(GaussianLinearModel(A, y, prior_std=s, noise_std=e), variant="monotone")
    steps = [next(steps) for _ in range(30)]
    evidence = np.array([step.scalars["log_evidence"] for step in steps])
    assert (np.diff(evidence) > -1e-12 * np.abs(evidence[1:])).all()
    assert evidence[-1] > evidence[0] + 0.1
    for step in steps[::10]:
        assert_allclose(step.scalars["log_evidence"], step.value.posterior.log_evidence, rtol=1e-12)


def test_a_monotone_sweep_goes_half_as_far_as_one_of_mackay():
    A, y = orthonormal_problem()
    model = GaussianLinearModel(A, y, prior_std=1.0, noise_std=0.1)
    first = {}
    for variant in ("mackay", "monotone"):
        steps = sparse_bayes_steps(model, variant=variant)
        next(steps)
        first[variant] = next(steps).value.group_factor
    assert_allclose(first["mackay"], first["monotone"] ** 2, rtol=1e-12)
    # One orthonormal feature of unit prior: z = (a . y) / (1 + noise^2), d = 1 / (1 + noise^2).
    assert_allclose(first["mackay"], (A.T @ y) ** 2 / 1.01, rtol=1e-9)


def test_the_criterion_is_the_gradient_of_the_evidence():
    A, y, s, e = problem(30, 6, k=2)
    groups = [[0, 1], [2, 3, 4]]  # coefficient 5 is in no group
    step = next(sparse_bayes_steps(GaussianLinearModel(A, y, prior_std=s, noise_std=e), groups))

    def evidence(x):
        scale = np.repeat(np.append(np.exp(x / 2), 1.0), [2, 3, 1])  # x is the log of a variance
        return posterior(A, y, s * scale, e).log_evidence.sum()

    h = 1e-4
    slope = [(evidence(h * row) - evidence(-h * row)) / (2 * h) for row in np.eye(2)]
    assert_allclose(step.criterion, np.max(2 * np.abs(slope) / (2 * np.array([2, 3]))), rtol=1e-6)


def test_groups_keep_their_ratios_and_what_is_in_none_its_start():
    A, y, s, e = problem(30, 6)
    labels = np.array([0, 0, 1, 1, 1, -1])
    fit = sparse_bayes(A, y, groups=labels, prior_std=s, noise_std=e, max_iter=500).value
    ratio = fit.prior_std / s
    assert_allclose(ratio[:2], np.sqrt(fit.group_factor[0]), rtol=1e-12)
    assert_allclose(ratio[2:5], np.sqrt(fit.group_factor[1]), rtol=1e-12)
    assert fit.prior_std[5] == s[5]
    same = sparse_bayes(A, y, groups=[slice(0, 2), [2, 3, 4]], prior_std=s, noise_std=e, max_iter=500).value
    assert_array_equal(fit.prior_std, same.prior_std)


@given(st.integers(-40, 40))
@settings(deadline=None, max_examples=5)
def test_sparse_bayes_does_not_know_units(k):
    A, y = orthonormal_problem()
    unit = 2.0**k
    one = sparse_bayes(A, y, prior_std=1.0, noise_std=0.1, max_iter=1000)
    other = sparse_bayes(A, unit * y, prior_std=unit, noise_std=0.1 * unit, max_iter=1000)
    assert one.n_iter == other.n_iter
    assert_array_equal(other.value.prior_std, unit * one.value.prior_std)


def test_zero_data_sink_to_the_floor_and_unseen_columns_stay():
    A, y = orthonormal_problem()
    result = sparse_bayes(A, 0 * y, prior_std=1.0, noise_std=0.1)
    assert result.converged
    assert_allclose(result.value.prior_std, 1e-7, rtol=1e-12)
    A[:, 1] = 0
    assert sparse_bayes(A, y, prior_std=1.0, noise_std=0.1, max_iter=1000).value.prior_std[1] == 1.0


@pytest.mark.parametrize("function", [sparse_bayes, fit_evidence])
def test_says_when_it_did_not_converge(function):
    A, y = orthonormal_problem()
    with pytest.warns(ConvergenceWarning, match=f"{function.__name__} stopped after 3 iterations .*max_iter"):
        result = function(A, y, prior_std=0.01, noise_std=1.0, tol=1e-12, max_iter=3)
    assert result.status is Status.MAX_ITER


@pytest.mark.parametrize("function", [sparse_bayes, fit_evidence])
def test_the_starting_point_is_item_zero(function):
    A, y = orthonormal_problem()
    result = function(A, y, prior_std=0.5, noise_std=0.3, max_iter=0, on_failure="ignore")
    assert_allclose(result.value.prior_std, 0.5, rtol=1e-15)
    assert_allclose(result.value.noise_std, 0.3, rtol=1e-15)
    assert_allclose(result.value.log_evidence, posterior(A, y, 0.5, 0.3).log_evidence, rtol=1e-12)


def test_fit_evidence_reaches_a_maximum():
    A, y, s, _ = problem(60, 8)
    y = A @ (0.7 * np.random.default_rng(1).normal(size=8)) + np.repeat([0.05, 0.5], 30) * y
    blocks, groups = [slice(0, 30), slice(30, 60)], [slice(0, 3), slice(3, 8)]
    result = fit_evidence(A, y, groups=groups, noise_blocks=blocks, prior_std=s, noise_std=1.0, tol=1e-8)
    assert result.converged
    fit = result.value
    assert_allclose(fit.noise_std[[0, -1]], [0.05, 0.5], rtol=0.4)  # 30 observations each: 13 % is one standard error
    best = fit.log_evidence
    for x in np.random.default_rng(0).normal(size=(5, 4)) * 0.05:
        worse = posterior(
            A, y, fit.prior_std * np.exp(np.repeat(x[:2], [3, 5])), fit.noise_std * np.exp(np.repeat(x[2:], 30))
        )
        assert worse.log_evidence < best


def test_fit_evidence_stops_at_the_floor_when_the_data_are_exact():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(30, 3))
    y = A @ np.array([1.0, -2.0, 0.5])
    fit = fit_evidence(A, y, prior_std=1.0, noise_std=0.1, noise_floor=1e-6, max_iter=200)
    assert fit.converged
    assert_allclose(fit.value.noise_std, 1e-6 * np.sqrt(np.mean(y**2)), rtol=1e-12)
    assert_allclose(fit.value.posterior.mean, [1.0, -2.0, 0.5], rtol=1e-6)


def test_fit_evidence_never_goes_down_and_knows_no_units():
    A, y = orthonormal_problem()
    one = fit_evidence(A, y, prior_std=1.0, noise_std=1.0)
    assert (np.diff(one.history["log_evidence"]) >= 0).all()
    unit = 2.0**20
    other = fit_evidence(A, unit * y, prior_std=unit, noise_std=unit)
    assert other.n_iter == one.n_iter
    assert_allclose(other.value.noise_std, unit * one.value.noise_std, rtol=1e-9)


def test_the_steps_of_fit_evidence_end_by_themselves():
    A, y = orthonormal_problem()
    steps = list(fit_evidence_steps(GaussianLinearModel(A, y, prior_std=1.0, noise_std=1.0)))
    assert steps[-1].criterion < 1e-6
