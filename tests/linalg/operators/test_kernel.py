"""Kernel matrices as operators."""

import numpy as np
import pytest
import torch

from sciml.exceptions import ConditioningWarning, InvalidInputError
from sciml.kernels import Gaussian, Matern32
from sciml.linalg.operators import Diagonal, KernelOperator, ScaledIdentity


def test_is_the_kernel_matrix(rng, backend):
    x, y = rng.standard_normal((6, 2)), rng.standard_normal((4, 2))
    k = 2.0 * Gaussian(lengthscale=0.7) + Matern32(lengthscale=[0.5, 2.0])
    A = KernelOperator(backend.array(x), k, diagonal=0.1)
    np.testing.assert_allclose(backend.numpy(A.to_dense()), k(x) + 0.1 * np.eye(6), rtol=1e-13)
    np.testing.assert_allclose(backend.numpy(A.diag()), 3.1 * np.ones(6), rtol=1e-13)
    C = KernelOperator(x, k, y)
    assert C.shape == (4, 6)
    np.testing.assert_allclose(C @ np.eye(6), k(y, x), rtol=1e-12)
    np.testing.assert_allclose(C.T @ np.eye(4), k(y, x).T, rtol=1e-12)


def test_callables_need_not_be_symmetric(rng):
    x, y = rng.standard_normal((5, 2)), rng.standard_normal((4, 2))

    def slanted(y, x, scale):
        return (-(((y - 2 * x) * scale) ** 2).sum(-1)).exp()

    A = KernelOperator(x, slanted, y, params={"scale": 0.5})
    wanted = np.exp(-(0.25 * (y[:, None] - 2 * x) ** 2).sum(-1))
    np.testing.assert_allclose(A.to_dense(), wanted, rtol=1e-13)
    np.testing.assert_allclose(A.T @ np.eye(4), wanted.T, rtol=1e-12)
    np.testing.assert_allclose(A.diag(), np.diag(wanted), rtol=1e-13)
    assert not A.symmetric


@pytest.mark.parametrize("cache", ["always", "never"])
def test_kept_or_not_the_products_agree(cache, rng):
    x, b = rng.standard_normal((50, 2)), rng.standard_normal((50, 3))
    A = KernelOperator(x, Gaussian(lengthscale=0.5), diagonal=rng.uniform(0.1, 1, 50), cache=cache)
    np.testing.assert_allclose(A @ b, A.to_dense() @ b, rtol=1e-12)
    assert ("dense" in A._cache) == (cache == "always")


def test_the_second_product_pays_for_the_matrix_where_memory_allows(rng, monkeypatch):
    x = rng.standard_normal((50, 2))
    A = KernelOperator(x, Gaussian(lengthscale=0.5))
    A @ np.ones(50)
    assert "dense" not in A._cache
    A @ np.ones(50)
    assert "dense" in A._cache
    monkeypatch.setattr("sciml.linalg.operators.kernel._SHARE", 1e-12)
    B = KernelOperator(x, Gaussian(lengthscale=0.5))
    B @ np.ones(50)
    B @ np.ones(50)
    assert "dense" not in B._cache


def test_equal_points_without_noise_are_refused_by_name(rng):
    x = rng.standard_normal((6, 2))
    x[4] = x[1]
    with pytest.raises(InvalidInputError, match="rows 1 and 4 are equal, so A is singular. Pass diagonal="):
        KernelOperator(x, Gaussian(lengthscale=1.0)).solve(np.ones(6))
    with pytest.raises(InvalidInputError, match="rows 1 and 4 are equal"):
        KernelOperator(x, Gaussian(lengthscale=1.0)).logdet()
    noise = np.array([0, 0.1, 0, 0, 0.1, 0])
    assert np.isfinite(KernelOperator(x, Matern32(lengthscale=1.0), diagonal=noise).solve(np.ones(6))).all()


def test_a_smooth_kernel_without_noise_is_warned_of_or_refused():
    x = np.linspace(0, 1, 9)[:, None]
    with pytest.warns(ConditioningWarning, match="condition number"):
        KernelOperator(x, Gaussian(lengthscale=1.0)).solve(np.ones(9))
    with pytest.raises(InvalidInputError, match="must be positive definite.*Add a ridge"):
        KernelOperator(np.linspace(0, 1, 40)[:, None], Gaussian(lengthscale=1.0)).solve(np.ones(40))


def test_offsets_do_not_matter(rng):
    x, b = rng.uniform(0, 1, (30, 2)), rng.standard_normal(30)
    near = KernelOperator(x, Gaussian(lengthscale=0.3), diagonal=0.1)
    # Coordinates of a map: the differences are exact to 1e-10.
    far = KernelOperator(x + 2.0**20, Gaussian(lengthscale=0.3), diagonal=0.1)
    np.testing.assert_allclose(far.solve(b), near.solve(b), rtol=1e-7, atol=1e-8)


def test_the_log_likelihood_has_the_gradient_of_the_dense_one(rng):
    x, y = torch.from_numpy(rng.uniform(0, 1, (300, 2))), torch.from_numpy(rng.standard_normal(300))
    length, variance, noise = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, 1.5, 0.1))
    A = KernelOperator(x, variance * Gaussian(lengthscale=length), diagonal=noise)
    ours = torch.autograd.grad(y @ A.solve(y) + A.logdet(), (length, variance, noise))
    K = variance * torch.exp(-(torch.cdist(x, x) ** 2) / (2 * length**2)) + noise * torch.eye(300)
    theirs = torch.autograd.grad(y @ torch.linalg.solve(K, y) + torch.logdet(K), (length, variance, noise))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_beyond_a_factorisation_conjugate_gradients_are_preconditioned(rng, monkeypatch):
    monkeypatch.setattr("sciml.linalg.operators.kernel._CHOLESKY_SIZE", 100)
    x, b = rng.uniform(0, 1, (400, 2)), rng.standard_normal(400)
    length = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    A = KernelOperator(x, Gaussian(lengthscale=length), diagonal=1e-2)
    run = A.solve_run(torch.from_numpy(b), tol=1e-10)
    assert run.choices["method"] == "cg: no direct method for KernelOperator of n=400"
    assert run.preconditioner.startswith("nystrom")
    assert run.n_iter < 30
    K = torch.exp(-(torch.cdist(torch.from_numpy(x), torch.from_numpy(x)) ** 2) / (2 * length**2)) + 0.01 * torch.eye(
        400
    )
    twin = torch.linalg.solve(K, torch.from_numpy(b))
    torch.testing.assert_close(run.value, twin, rtol=1e-6, atol=1e-6)
    (ours,) = torch.autograd.grad(run.value.sin().sum(), length)
    (theirs,) = torch.autograd.grad(twin.sin().sum(), length)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_sums_with_diagonals_are_noise(rng):
    x = rng.standard_normal((5, 2))
    A = KernelOperator(x, Gaussian(lengthscale=1.0)) + ScaledIdentity(5, 0.5) + Diagonal(np.arange(1.0, 6.0))
    assert type(A) is KernelOperator
    np.testing.assert_allclose(A.diag(), 1.5 + np.arange(1.0, 6.0))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda x: KernelOperator(x[:, 0], Gaussian(lengthscale=1.0)), r"x must be real points .* pass x\[:, None\]"),
        (
            lambda x: KernelOperator(x, Gaussian(lengthscale=1.0), diagonal=-1.0),
            "diagonal must not be negative; entry 0",
        ),
        (lambda x: KernelOperator(x, Gaussian(lengthscale=1.0), diagonal=np.ones(3)), r"or have shape \(4,\)"),
        (lambda x: KernelOperator(x, Gaussian(lengthscale=1.0), x, diagonal=1.0), "diagonal must be left out"),
        (lambda x: KernelOperator(x, Gaussian(lengthscale=1.0), engine="gpu"), "engine must be one of"),
    ],
)
def test_says_what_is_wrong(make, complaint, rng):
    with pytest.raises(InvalidInputError, match=complaint):
        make(rng.standard_normal((4, 2)))
