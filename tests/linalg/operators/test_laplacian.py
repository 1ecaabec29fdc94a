"""Laplacians on grids: eigenvalues, transforms, a million unknowns."""

import numpy as np
import pytest
import scipy.fft
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import KroneckerSum, SecondDifference, laplacian
from sciml.linalg.operators.laplacian import BOUNDARIES, dct2, dct3, dst1


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_transforms_are_those_of_scipy(n, rng):
    X = rng.standard_normal((3, n, 2))
    T = torch.from_numpy(X)
    np.testing.assert_allclose(dst1(T), scipy.fft.dst(X, type=1, axis=1, norm="ortho"), atol=1e-13)
    np.testing.assert_allclose(dct2(T), scipy.fft.dct(X, type=2, axis=1, norm="ortho"), atol=1e-13)
    np.testing.assert_allclose(dct3(T), scipy.fft.dct(X, type=3, axis=1, norm="ortho"), atol=1e-13)
    np.testing.assert_allclose(dct3(dct2(1j * T)), 1j * X, atol=1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("n", [3, 6, 7])
def test_eigenvalues_are_those_of_the_matrix(boundary, n):
    A = SecondDifference(n, 0.1, boundary=boundary)
    np.testing.assert_allclose(np.sort(A.eigenvalues()), np.linalg.eigvalsh(A.to_dense()), atol=1e-11)
    # The transform diagonalises it, in the same order.
    basis = A._eigenbasis()
    U = basis.synthesise(torch.eye(n, dtype=torch.float64))
    Z = basis.analyse(A._to_dense().to(U.dtype) @ U)
    np.testing.assert_allclose(abs(Z - torch.diag(basis.values)).max(), 0, atol=1e-11)


def test_the_lowest_eigenvalues_keep_their_digits():
    # 2 - 2 cos(theta) would be wrong by 1e-4 here.
    n, h = 10**6, 1 / (10**6 + 1)
    lowest = SecondDifference(n, h).eigenvalues()[0]
    assert lowest == pytest.approx(np.pi**2 * (1 - (np.pi * h) ** 2 / 12), rel=1e-14)


def test_a_million_unknowns_are_solved_directly(rng):
    n = 1000
    A, h = laplacian((n, n), 1 / (n + 1)), 1 / (n + 1)
    x = np.arange(1, n + 1) * h
    u = np.outer(np.sin(np.pi * x), np.sin(2 * np.pi * x)).ravel()
    value = (4 / h**2) * (np.sin(np.pi * h / 2) ** 2 + np.sin(np.pi * h) ** 2)
    run = A.solve_run(value * u)
    np.testing.assert_allclose(run.value, u, atol=1e-11)
    assert run.residual < 1e-10  # eps times the condition
    assert "fast sine, cosine or Fourier transforms of the factors 1000 x 1000" in run.choices["method"]


@pytest.mark.parametrize("boundary", [*BOUNDARIES, ("dirichlet", "neumann", "periodic")])
def test_solves_in_three_dimensions(boundary, rng):
    A = laplacian((4, 5, 6), (0.1, 0.2, 0.3), boundary=boundary, shift=0.5)
    x = rng.standard_normal(120)
    np.testing.assert_allclose(A.solve(A @ x), x, rtol=1e-9)
    assert A.posdef
    assert A.logdet() == pytest.approx(np.linalg.slogdet(A.to_dense())[1])
    np.testing.assert_allclose(A.diag(), np.diag(A.to_dense()))


@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
def test_constants_are_in_the_kernel_of_closed_boundaries(boundary):
    A = laplacian((4, 5), boundary=boundary)
    np.testing.assert_allclose(A @ np.ones(20), np.zeros(20), atol=1e-15)
    assert not A.posdef
    with pytest.raises(InvalidInputError, match="1 of its 20 eigenvalues vanish .* Add a shift"):
        A.solve(np.ones(20))
    # One axis with given ends is enough.
    assert laplacian((4, 5), boundary=(boundary, "dirichlet")).posdef


def test_the_determinant_of_the_second_difference_is_known():
    assert SecondDifference(99).logdet() == pytest.approx(np.log(100))  # n + 1
    # Spanning trees of the 3 x 3 grid with its boundary as one more vertex
    assert np.exp(laplacian((2, 2)).logdet()) == pytest.approx(192)


def test_goes_by_way_of_float32_and_complex(rng):
    A = laplacian((5, 5), dtype=torch.float32)
    b = rng.standard_normal(25).astype(np.float32)
    assert A.solve(b).dtype == np.float32
    assert A.solve_run(b).residual < 1e-5
    z = rng.standard_normal(25) + 1j * rng.standard_normal(25)
    A = laplacian((5, 5), boundary=("dirichlet", "periodic"))
    np.testing.assert_allclose(A @ A.solve(z), z, rtol=1e-11)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: laplacian((3, 3), (1.0, 1.0, 1.0)), "must have one entry an axis; got 2, 3 and 2"),
        (lambda: laplacian(3, -1.0), "spacing must be a number above 0"),
        (lambda: laplacian(3, boundary="robin"), "boundary must be one of 'dirichlet', 'neumann', 'periodic'"),
        (lambda: laplacian(2, boundary="periodic"), "n must be an integer at least 3"),
    ],
)
def test_says_what_is_wrong(make, complaint):
    with pytest.raises(InvalidInputError, match=complaint):
        make()


def test_is_a_kronecker_sum():
    A = laplacian((3, 4))
    assert isinstance(A, KroneckerSum)
    np.testing.assert_array_equal(A.to_dense(), A.T.to_dense())
