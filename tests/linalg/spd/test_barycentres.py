"""The Bures-Wasserstein barycentre: known answers, optimality at high condition, and its implicit derivative."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import sqrtm

from sciml.exceptions import (
    ConditioningWarning,
    ConvergenceError,
    ConvergenceWarning,
    InvalidInputError,
    NotPositiveDefiniteError,
)
from sciml.linalg.spd import bures_distance, bures_mean

METHODS = ("procrustes", "newton")


def rotation(n, rng, complex_=False):
    G = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_ else 0)
    return np.linalg.qr(G)[0]


def batch(count, n, cond, rng, complex_=False):
    """Return matrices that do not commute, with eigenvalues from 1 to 1 / cond."""
    Q = np.stack([rotation(n, rng, complex_) for _ in range(count)])
    A = (Q * np.logspace(0, -np.log10(cond), n)) @ Q.conj().swapaxes(-1, -2)
    return (A + A.conj().swapaxes(-1, -2)) / 2


def mean_map(M, X, w):
    """Return sum_i w_i T_i by the textbook formula."""
    root = sqrtm(M)
    inverse = np.linalg.inv(root)
    return sum(v * inverse @ sqrtm(root @ A @ root) @ inverse for v, A in zip(w, X, strict=True))


# ---------------------------------------------------------------- known answers


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("complex_", [False, True])
def test_the_mean_map_is_the_identity(method, complex_, rng):
    X, w = batch(6, 4, 1e3, rng, complex_), rng.uniform(0.1, 1, 6)
    result = bures_mean(X, w, method=method)
    assert result.converged
    assert result.residual <= 1e-12
    assert_allclose(mean_map(result.mean, X, w / w.sum()), np.eye(4), atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cond", [1e2, 1e12])
def test_commuting_matrices_have_the_square_of_the_mean_root(method, cond, rng):
    Q, w = rotation(6, rng), rng.uniform(0.1, 1, 5)
    s = cond ** -rng.uniform(0, 1, (5, 6))
    X = (Q * s[:, None, :]) @ Q.T
    truth = (Q * (w @ np.sqrt(s) / w.sum()) ** 2) @ Q.T
    assert_allclose(bures_mean((X + X.swapaxes(-1, -2)) / 2, w, method=method).mean, truth, rtol=0, atol=1e-13)


@pytest.mark.parametrize("cond", [1e2, 1e6, 1e12])
def test_two_matrices_have_the_midpoint_of_their_geodesic(cond, rng):
    A, B = batch(2, 5, cond, rng)
    M = bures_mean(np.stack([A, B])).mean
    d = bures_distance(A, B)
    assert_allclose([bures_distance(A, M), bures_distance(M, B)], d / 2, rtol=1e-9)
    M = bures_mean(np.stack([A, B]), [1, 3]).mean
    assert_allclose([bures_distance(A, M), bures_distance(M, B)], [0.75 * d, 0.25 * d], rtol=1e-9)


def test_equal_matrices_are_their_own_mean(rng):
    A = batch(1, 5, 1e12, rng)[0]
    result = bures_mean(np.stack([A] * 4))
    assert result.n_iter == 0
    assert_allclose(result.mean, A, rtol=0, atol=1e-15)


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=4), st.lists(st.floats(0.05, 1), min_size=4, max_size=4))
def test_one_by_one_matrices_have_a_scalar_truth(variances, w):
    mean = bures_mean(np.reshape(variances, (4, 1, 1)), w).mean
    assert_allclose(mean.item(), (np.dot(w, np.sqrt(variances)) / np.sum(w)) ** 2, rtol=1e-11)


def test_high_condition_needs_few_steps(rng):
    result = bures_mean(batch(30, 12, 1e10, rng), tol=1e-11)
    assert result.converged
    assert result.settings["method"] == "procrustes"
    assert result.n_iter <= 80


def test_newton_needs_fewer_and_is_taken_where_it_may(rng):
    X = batch(20, 8, 1e6, rng)
    newton, plain = bures_mean(X), bures_mean(X, method="procrustes")
    assert newton.settings["method"] == "newton"
    assert newton.n_iter <= 12 < plain.n_iter
    assert_allclose(newton.mean, plain.mean, atol=1e-12)


def test_anderson_saves_most_of_the_plain_steps(rng):
    from sciml.linalg.spd.barycentres import _evaluate
    from sciml.linalg.spd.factors import factor

    X = torch.from_numpy(batch(20, 8, 1e6, rng))
    w, C = torch.full((20,), 1 / 20, dtype=torch.float64), factor(X.mean(0))[0]
    for plain in range(500):  # noqa: B007
        C, _, _, residual = _evaluate(factor(X)[0], w, C)
        if residual < 1e-10:
            break
    assert 2 * bures_mean(X, method="procrustes", tol=1e-10).n_iter < plain


# ---------------------------------------------------------------- singular matrices


def test_singular_matrices_with_a_whole_one_among_them(rng):
    G = rng.standard_normal((5, 4, 2))
    X = np.concatenate([G @ G.swapaxes(-1, -2), batch(1, 4, 10, rng)])
    result = bures_mean(X)
    assert result.converged
    # No small step in any direction is better.
    value = lambda M: np.mean(bures_distance(M, X, squared=True))  # noqa: E731
    best = value(result.mean)
    for _ in range(20):
        K = np.eye(4) + 1e-3 * rng.standard_normal((4, 4))
        assert value(K @ result.mean @ K.T) > best


def test_a_common_kernel_is_kept_and_no_reason_to_warn(rng):
    X = np.zeros((4, 5, 5))
    X[:, :3, :3] = batch(4, 3, 1e2, rng)
    M = bures_mean(X).mean
    assert_allclose(M[:3, :3], bures_mean(X[:, :3, :3]).mean, atol=1e-12)
    assert_allclose(M[3:], 0, atol=1e-15)


def test_ranks_too_small_for_one_mean_are_told():
    X = np.stack([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])])
    with pytest.warns(ConditioningWarning, match="ranks up to 1 where their sum has 2"):
        M = bures_mean(X).mean
    # Every mean has the mean of the squared distances 1 - tr M / 2 ... here 1/2; this one is symmetric in the two.
    assert_allclose(np.diag(M), [0.25, 0.25], atol=1e-12)
    assert bures_mean(X, on_failure="ignore").converged


def test_zero_matrices():
    assert_array_equal(bures_mean(np.zeros((3, 2, 2))).mean, np.zeros((2, 2)))
    M = bures_mean(np.stack([np.zeros((2, 2)), np.eye(2)])).mean
    assert_allclose(M, np.eye(2) / 4, atol=1e-14)


# ---------------------------------------------------------------- invariances and weights


@settings(max_examples=30)
@given(st.integers(-23, 23))
def test_units_do_not_matter(k):
    X = batch(6, 4, 1e4, np.random.default_rng(1))
    one, scaled = bures_mean(X), bures_mean(4.0**k * X)
    assert scaled.n_iter == one.n_iter
    assert_array_equal(scaled.mean, 4.0**k * one.mean)


@pytest.mark.parametrize("cond", [1e2, 1e10])
def test_any_unit_scales_the_mean(cond, rng):
    X = batch(10, 6, cond, rng)
    M = bures_mean(X).mean
    for c in (1e-14, 3e-5, 1e14):
        assert_allclose(bures_mean(c * X).mean / c, M, rtol=0, atol=1e-12 * np.abs(M).max())


def test_turning_the_frame_turns_the_mean(rng):
    X, Q = batch(6, 4, 1e4, rng), rotation(4, rng)
    turned = Q @ X @ Q.T
    M = bures_mean((turned + turned.swapaxes(-1, -2)) / 2).mean
    assert_allclose(M, Q @ bures_mean(X).mean @ Q.T, atol=1e-12)
    assert_allclose(bures_mean(X[::-1]).mean, bures_mean(X).mean, atol=1e-12)


def test_weights_are_repetitions_and_may_be_huge_or_zero(rng):
    X = batch(3, 4, 1e3, rng)
    truth = bures_mean(X[[0, 0, 1]]).mean
    for w in ([2, 1, 0], [2e300, 1e300, 0], [2e-300, 1e-300, 0]):
        assert_allclose(bures_mean(X, w).mean, truth, atol=1e-12)
    assert_allclose(bures_mean(X, [1 - 1e-13, 5e-14, 5e-14]).mean, X[0], atol=1e-11)
    # A matrix without weight may be anything positive, also the only one of full rank.
    assert_allclose(bures_mean(X, [0, 0, 1]).mean, X[2], atol=1e-14)


# ---------------------------------------------------------------- honesty


@pytest.mark.parametrize("method", METHODS)
def test_says_when_it_did_not_converge(method, rng):
    X = batch(10, 6, 1e7, rng)
    with pytest.warns(ConvergenceWarning, match="bures_mean stopped after 3 iterations with criterion .*max_iter"):
        result = bures_mean(X, method=method, max_iter=3)
    assert not result.converged
    assert result.n_iter == 3
    with pytest.raises(ConvergenceError, match="bures_mean"):
        bures_mean(X, method=method, max_iter=3, on_failure="raise")
    assert not bures_mean(X, method=method, max_iter=3, on_failure="ignore").converged


def test_a_callback_stops_it(rng):
    result = bures_mean(batch(5, 4, 1e6, rng), callback=lambda n_iter, step: n_iter == 2)
    assert result.n_iter == 2
    assert result.status.name == "STOPPED"


@pytest.mark.parametrize(
    ("X", "w", "options", "text"),
    [
        (np.eye(2), None, {}, r"X must be a list of matrices .*\(2, 2\)"),
        (np.empty((0, 2, 2)), None, {}, "at least one matrix"),
        (np.ones((2, 1, 1)), [1.0], {}, "weights must hold one number for each of 2 matrices"),
        (np.ones((2, 1, 1)), [1.0, -1.0], {}, "weights must not be negative.*-1"),
        (np.ones((2, 1, 1)), [0.0, 0.0], {}, "nor all zero"),
        (np.full((1, 1, 1), np.nan), None, {}, "X must be finite"),
        (np.ones((1, 1, 1)), None, {"method": "newtonn"}, "Did you mean 'newton'"),
        (np.ones((1, 1, 1)), None, {"tol": 0}, "tol of bures_mean must be at least 10 eps"),
    ],
)
def test_bad_input_is_named(X, w, options, text):
    with pytest.raises(InvalidInputError, match=text):
        bures_mean(X, w, **options)


def test_an_indefinite_matrix_is_named():
    with pytest.raises(NotPositiveDefiniteError, match="number 1 of X has smallest eigenvalue -1"):
        bures_mean(np.stack([np.eye(2), np.diag([1.0, -1.0])]))


def test_kinds_and_dtypes_stay(backend, rng):
    X = batch(4, 3, 10, rng)
    assert_allclose(backend.numpy(bures_mean(backend.array(X)).mean), bures_mean(X).mean, atol=1e-14)
    single = bures_mean(backend.array(X.astype(np.float32))).mean
    assert backend.numpy(single).dtype == np.float32
    assert_allclose(backend.numpy(single), bures_mean(X).mean, atol=1e-6)


def test_the_result_saves_and_shows(tmp_path, rng):
    import sciml

    result = bures_mean(batch(4, 3, 1e3, rng))
    loaded = sciml.load(result.save(tmp_path / "mean.npz"))
    assert_array_equal(loaded.mean, result.mean)
    assert loaded.residual == result.residual
    assert loaded.metric == "bw"
    assert "MeanResult CONVERGED" in repr(result)


# ---------------------------------------------------------------- derivatives


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("case", ["ordinary", "equal", "multiples of the identity"])
def test_the_implicit_derivative_is_exact(case, complex_, rng):
    X = torch.from_numpy(batch(3, 3, 20, rng, complex_))
    eye = torch.eye(3, dtype=X.dtype)
    X = {
        "ordinary": X,
        "equal": X[:1].expand(3, 3, 3).clone(),
        "multiples of the identity": torch.stack([eye, 2 * eye, 3 * eye]),
    }[case].requires_grad_()
    w = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def function(X, w):
        M = bures_mean((X + X.mH) / 2, w, tol=1e-14, on_failure="ignore").mean
        return torch.view_as_real(M) if complex_ else M

    assert torch.autograd.gradcheck(function, (X, w), eps=1e-6, atol=1e-6)


def test_the_derivative_of_commuting_matrices_is_known_at_any_unit():
    # M = (mean sqrt x)^2 on the diagonal: dM_k / dx_ik = sqrt(M_k) / (N sqrt x_ik).
    x = torch.tensor([[1.0, 1e-6], [4.0, 1e-2], [9.0, 1.0]], dtype=torch.float64)
    root = x.sqrt().mean(0)
    for c in (1e-12, 1.0, 1e12):
        X = torch.diag_embed(c * x).requires_grad_()
        bures_mean(X).mean[1, 1].backward()
        found = X.grad.diagonal(dim1=-2, dim2=-1)
        assert_allclose(found[:, 1].numpy(), (root[1] / (3 * x[:, 1].sqrt())).numpy(), rtol=1e-9)
        assert_allclose(found[:, 0].numpy(), 0, atol=1e-9)


def test_the_derivative_at_singular_matrices_is_that_along_their_range():
    X = torch.diag_embed(torch.tensor([[1.0, 0.0], [4.0, 0.0]], dtype=torch.float64)).requires_grad_()
    bures_mean(X).mean[0, 0].backward()
    assert_allclose(X.grad[:, 0, 0].numpy(), [1.5 / 2, 1.5 / 4], rtol=1e-10)
    assert torch.isfinite(X.grad).all()


def test_a_second_derivative_is_refused():
    X = torch.ones(2, 1, 1, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(bures_mean(X).mean.sum(), X, create_graph=True)
    with pytest.raises(InvalidInputError, match="second derivative of bures_mean"):
        first.sum().backward()
