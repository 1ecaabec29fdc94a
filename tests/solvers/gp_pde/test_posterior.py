"""Claims about the posterior: its mean, its covariance, and that a few numbers rebuild its basis."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.solvers.gp_pde.features import AxisBasis, JointBasis, ProductBasis
from sciml.solvers.gp_pde.posterior import (
    LeastSquaresPosterior,
    TensorPosterior,
    basis_from_state,
    basis_state,
)

JOINT = JointBasis((0.0, 0.0), (1.0, 2.0), np.array([[20.0, 5.0]]), (3, 3), (2,))
PRODUCT = ProductBasis((AxisBasis(0.0, 1.0, (20.0,), 3, (2,)), AxisBasis(0.0, 2.0, (), 4, (), True)))
CUBE = ProductBasis((AxisBasis(0.0, 1.0, (), 3, ()), AxisBasis(0.0, 2.0, (), 4, ()), AxisBasis(0.0, 1.0, (), 2, ())))


def tensor(values):
    return torch.as_tensor(np.asarray(values))


def dense(basis, rng, q=5):
    """Return a posterior of scattered least squares with its covariance of coefficients."""
    root = rng.standard_normal((basis.n_features, q))
    return LeastSquaresPosterior(basis, tensor(rng.standard_normal(basis.n_features)), tensor(root)), root @ root.T


def kronecker(basis, rng, *, complex_pairs=False):
    """Return a posterior of fast diagonalisation, with its covariance of coefficients written out."""
    roots, lams = [], []
    for r in basis.shape:
        V = rng.standard_normal((r, r))
        lam = -1 - 5 * rng.random(r)
        if complex_pairs:
            V, lam = V.astype(complex), lam.astype(complex)
            V[:, 0] = V[:, 0] + 1j * rng.standard_normal(r)
            V[:, 1], lam[1] = V[:, 0].conj(), lam[0]
            lam[0], lam[1] = lam[0] + 2j, lam[0] - 2j
        roots.append(V)
        lams.append(lam)
    full, total = np.ones((1, 1)), np.zeros(1)
    for V, lam in zip(roots, lams, strict=True):
        full = np.kron(full, V)
        total = (total[:, None] + lam[None, :]).reshape(-1)
    W = full / np.abs(total)
    posterior = TensorPosterior(
        basis, tensor(rng.standard_normal(basis.n_features)), list(map(tensor, roots)), list(map(tensor, lams))
    )
    return posterior, (W @ W.conj().T).real


CASES = {
    "joint": lambda rng: dense(JOINT, rng),
    "product": lambda rng: dense(PRODUCT, rng),
    "tensor": lambda rng: kronecker(PRODUCT, rng),
    "tensor, complex": lambda rng: kronecker(PRODUCT, rng, complex_pairs=True),
    "cube": lambda rng: kronecker(CUBE, rng),
}


def points(basis, n, rng):
    return tensor(np.array(basis.upper) * rng.random((n, basis.n_dims)))


@pytest.mark.parametrize("case", CASES)
def test_the_mean_is_the_sum_of_the_features(case, rng):
    posterior, _ = CASES[case](rng)
    X = points(posterior.basis, 9, rng)
    alpha = (1, 2, 0)[: posterior.basis.n_dims]
    zero = (0,) * posterior.basis.n_dims
    c = rng.standard_normal(9)
    got = posterior.apply(X, {alpha: c, zero: -2.0})
    wanted = tensor(c) * (posterior.basis.evaluate(X, alpha) @ posterior.theta) - 2 * (
        posterior.basis.evaluate(X, zero) @ posterior.theta
    )
    assert_allclose(got, wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))
    assert posterior.apply(X[:0], {zero: 1.0}).shape == (0,)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", [0, 1])
def test_the_deviation_is_the_root_of_the_variance(case, order, rng):
    posterior, C = CASES[case](rng)
    X = points(posterior.basis, 9, rng)
    alpha = (order,) + (0,) * (posterior.basis.n_dims - 1)
    Phi = posterior.basis.evaluate(X, alpha).numpy()
    wanted = np.sqrt(np.einsum("ni,ij,nj->n", Phi, C, Phi))
    assert_allclose(posterior.deviation(X, alpha), wanted, rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_draws_have_the_covariance(case, rng):
    posterior, C = CASES[case](rng)
    n_dims = posterior.basis.n_dims
    X = points(posterior.basis, 4, rng)
    Phi = posterior.basis.evaluate(X, (0,) * n_dims).numpy()
    wanted = Phi @ C @ Phi.T
    draws = posterior.draw(X, (0,) * n_dims, 2000, rng).numpy()
    assert draws.shape == (2000, 4)
    scale = np.sqrt(np.diag(wanted))
    # the error of an entry of an empirical correlation matrix is at most sqrt(2 / 2000) = 0.032 a standard deviation
    assert_allclose(draws.T @ draws / 2000 / np.outer(scale, scale), wanted / np.outer(scale, scale), rtol=0, atol=0.15)
    assert_allclose(draws.mean(axis=0) / scale, np.zeros(4), rtol=0, atol=5 / np.sqrt(2000))


@pytest.mark.parametrize("case", CASES)
def test_one_draw_is_one_function_whatever_is_asked_of_it(case, rng):
    posterior, _ = CASES[case](rng)
    d, h = posterior.basis.n_dims, 1e-4
    X = points(posterior.basis, 6, rng) * 0.8 + 0.05

    def draw(Z, alpha):
        return posterior.draw(Z, alpha, 2, np.random.default_rng(3)).numpy()

    up, down, zero = X.clone(), X.clone(), (0,) * d
    up[:, 0] += h
    down[:, 0] -= h
    slope = draw(X, (1,) + zero[1:])
    # the next term of the difference is h^2 / 6 times the third derivative, at most 20^3 times the function
    assert_allclose((draw(up, zero) - draw(down, zero)) / (2 * h), slope, rtol=0, atol=1e-4 * np.abs(slope).max())


def test_a_root_is_made_when_first_asked_and_kept(rng):
    asked = []

    def make():
        asked.append(1)
        return tensor(np.eye(JOINT.n_features))

    posterior = LeastSquaresPosterior(JOINT, tensor(np.ones(JOINT.n_features)), make)
    X = points(JOINT, 3, rng)
    assert_allclose(posterior.apply(X, {(0, 0): 1.0}), JOINT.evaluate(X, (0, 0)).sum(dim=1), rtol=0, atol=1e-13)
    assert not asked
    posterior.deviation(X, (0, 0))
    posterior.deviation(X, (0, 0))
    assert asked == [1]


def test_a_resonant_combination_has_no_gain():
    eye = [torch.eye(r, dtype=torch.float64) for r in (2, 2)]
    basis = ProductBasis((AxisBasis(0.0, 1.0, (), 2, ()), AxisBasis(0.0, 1.0, (), 2, ())))
    posterior = TensorPosterior(basis, torch.zeros(4), eye, [tensor([1.0, 3.0]), tensor([-1.0, 2.0])])
    assert_allclose(posterior.gain, [[0, 1 / 3], [1 / 2, 1 / 5]])


def test_points_in_pieces_give_the_same(rng, monkeypatch):
    for case in CASES:
        posterior, _ = CASES[case](np.random.default_rng(2))
        X, zero = points(posterior.basis, 50, rng), (0,) * posterior.basis.n_dims

        def ask(posterior=posterior, X=X, zero=zero):
            draw = posterior.draw(X, zero, 2, np.random.default_rng(1))
            return posterior.apply(X, {zero: 1.0}), posterior.deviation(X, zero), draw

        whole = ask()
        with monkeypatch.context() as patch:
            patch.setattr("sciml.solvers.gp_pde.posterior.CHUNK", 1000)
            for one, other in zip(ask(), whole, strict=True):
                assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("basis", [JOINT, PRODUCT, CUBE], ids=["joint", "product", "cube"])
def test_a_basis_is_rebuilt_from_plain_numbers(basis, rng):
    again = basis_from_state(json.loads(json.dumps(basis_state(basis))))
    assert type(again) is type(basis)
    X = points(basis, 5, rng)
    alpha = (1,) * basis.n_dims
    assert_array_equal(again.evaluate(X, alpha), basis.evaluate(X, alpha))
