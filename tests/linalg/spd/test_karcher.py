"""The affine-invariant mean: known answers, invariances, and its implicit derivative."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import expm, logm, sqrtm

from sciml.exceptions import ConvergenceWarning, InvalidInputError, NotPositiveDefiniteError
from sciml.linalg.spd import affine_invariant_distance, affine_invariant_mean


def rotation(n, rng, complex_=False):
    G = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if complex_ else 0)
    return np.linalg.qr(G)[0]


def batch(count, n, cond, rng, complex_=False):
    Q = np.stack([rotation(n, rng, complex_) for _ in range(count)])
    A = (Q * np.logspace(0, -np.log10(cond), n)) @ Q.conj().swapaxes(-1, -2)
    return (A + A.conj().swapaxes(-1, -2)) / 2


@pytest.mark.parametrize("complex_", [False, True])
def test_the_mean_of_the_whitened_logarithms_is_zero(complex_, rng):
    X, w = batch(6, 4, 1e3, rng, complex_), rng.uniform(0.1, 1, 6)
    result = affine_invariant_mean(X, w)
    assert result.converged
    assert result.n_iter <= 20
    inverse = np.linalg.inv(np.linalg.cholesky(result.mean))
    x, U = np.linalg.eigh(inverse @ X @ inverse.conj().T)
    J = np.tensordot(w, (U * np.log(x)[:, None, :]) @ U.conj().swapaxes(-1, -2), 1) / w.sum()
    assert_allclose(J, 0, atol=1e-10)


@pytest.mark.parametrize("cond", [1e2, 1e6, 1e12])
def test_the_residual_falls_to_tol_at_every_condition(cond, rng):
    result = affine_invariant_mean(batch(20, 8, cond, rng))
    assert result.converged
    assert result.residual <= 1e-12
    assert result.n_iter <= 40


@pytest.mark.parametrize("cond", [1e2, 1e8])
def test_commuting_matrices_have_the_geometric_mean(cond, rng):
    Q, w = rotation(5, rng), rng.uniform(0.1, 1, 4)
    s = cond ** -rng.uniform(0, 1, (4, 5))
    X = (Q * s[:, None, :]) @ Q.T
    truth = (Q * np.exp(w @ np.log(s) / w.sum())) @ Q.T
    assert_allclose(affine_invariant_mean((X + X.swapaxes(-1, -2)) / 2, w).mean, truth, rtol=0, atol=1e-14 * cond**0.5)


def test_two_matrices_have_the_weighted_midpoint(rng):
    A, B = batch(2, 4, 1e3, rng)
    root = np.real(sqrtm(A))
    inverse = np.linalg.inv(root)
    for t in (0.5, 0.2):
        truth = root @ expm(t * np.real(logm(inverse @ B @ inverse))) @ root
        assert_allclose(affine_invariant_mean(np.stack([A, B]), [1 - t, t]).mean, truth, atol=1e-11)


def test_mixing_the_channels_mixes_the_mean(rng):
    X, G = batch(6, 4, 1e2, rng), rng.standard_normal((4, 4)) * np.array([1e-6, 1, 1e3, 1e6])[:, None]
    mixed = G @ X @ G.T
    M = affine_invariant_mean((mixed + mixed.swapaxes(-1, -2)) / 2).mean
    truth = G @ affine_invariant_mean(X).mean @ G.T
    assert affine_invariant_distance((M + M.T) / 2, (truth + truth.T) / 2) < 1e-9
    inverses = np.linalg.inv(X)
    assert_allclose(
        affine_invariant_mean((inverses + inverses.swapaxes(-1, -2)) / 2).mean,
        np.linalg.inv(affine_invariant_mean(X).mean),
        atol=1e-10,  # of entries up to 10
    )


def test_channels_of_any_units_are_no_obstacle(rng):
    # Units from 1e-10 to 1e10 make conditions of 1e40; powers of two scale without rounding.
    X, units = batch(10, 5, 1e2, rng), 2.0 ** np.array([-34, -17, 0, 17, 34])
    scaled = affine_invariant_mean(X * units[:, None] * units)
    plain = affine_invariant_mean(X)
    assert scaled.converged
    assert scaled.n_iter == plain.n_iter
    assert_allclose(scaled.mean / units[:, None] / units, plain.mean, atol=1e-12)


@settings(max_examples=20)
@given(st.integers(-23, 23))
def test_units_do_not_matter(k):
    X = batch(6, 4, 1e3, np.random.default_rng(1))
    one, scaled = affine_invariant_mean(X), affine_invariant_mean(4.0**k * X)
    assert scaled.n_iter == one.n_iter
    assert_array_equal(scaled.mean, 4.0**k * one.mean)


def test_any_unit_scales_the_mean(rng):
    X = batch(8, 5, 1e2, rng)
    M = affine_invariant_mean(X).mean
    for c in (1e-14, 3e-5, 1e14):
        assert_allclose(affine_invariant_mean(c * X).mean / c, M, rtol=0, atol=1e-12 * np.abs(M).max())


def test_weights_are_repetitions(rng):
    X = batch(3, 4, 1e3, rng)
    assert_allclose(affine_invariant_mean(X, [2, 1, 0]).mean, affine_invariant_mean(X[[0, 0, 1]]).mean, atol=1e-12)
    assert_allclose(affine_invariant_mean(X, [1 - 1e-13, 5e-14, 5e-14]).mean, X[0], atol=1e-11)
    assert affine_invariant_mean(X[[0, 0]]).n_iter <= 1


def test_matrices_very_far_apart_converge(rng):
    # Logarithms of eigenvalues differ by 46: the curvature varies by that much between the matrices.
    X = np.concatenate([batch(3, 4, 1e10, rng) * c for c in (1e-10, 1.0, 1e10)])
    result = affine_invariant_mean(X)
    assert result.converged
    assert result.n_iter <= 60


def test_says_when_it_did_not_converge(rng):
    X = batch(10, 6, 1e6, rng)
    with pytest.warns(ConvergenceWarning, match="affine_invariant_mean stopped after 3 iterations.*max_iter"):
        assert not affine_invariant_mean(X, max_iter=3).converged


def test_singular_matrices_are_named():
    with pytest.raises(NotPositiveDefiniteError, match='number 1 of X .*metric="bw"'):
        affine_invariant_mean(np.stack([np.eye(2), np.ones((2, 2))]))
    with pytest.raises(InvalidInputError, match="X must be a list"):
        affine_invariant_mean(np.eye(2))


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("case", ["ordinary", "equal", "multiples of the identity"])
def test_the_implicit_derivative_is_exact(case, complex_, rng):
    X = torch.from_numpy(batch(3, 3, 20, rng, complex_))
    eye = torch.eye(3, dtype=X.dtype)
    cases = {
        "ordinary": X,
        "equal": X[:1].expand(3, 3, 3).clone(),
        "multiples of the identity": torch.stack([eye, 2 * eye, 3 * eye]),
    }
    w = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def function(X, w):
        M = affine_invariant_mean((X + X.mH) / 2, w, tol=1e-14, on_failure="ignore").mean
        return torch.view_as_real(M) if complex_ else M

    assert torch.autograd.gradcheck(function, (cases[case].requires_grad_(), w), eps=1e-6, atol=1e-6)


def test_kinds_and_dtypes_stay(backend, rng):
    X = batch(4, 3, 10, rng)
    assert_allclose(backend.numpy(affine_invariant_mean(backend.array(X)).mean), affine_invariant_mean(X).mean)
    assert backend.numpy(affine_invariant_mean(backend.array(X.astype(np.float32))).mean).dtype == np.float32
