"""Eigenvalues of Gram matrices: singular values as oracle, blocks, scales, precisions."""

import importlib
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.gram_spectrum import ArrayLayer, eigenvalues, low_rank_eigenvalues, scan, spectrum

module = importlib.import_module("sciml.stats.spectra.gram_spectrum")


def squared_singular_values(W):
    return np.sort(np.linalg.svd(W, compute_uv=False) ** 2)


def matrix(rng, shape, is_complex):
    W = rng.standard_normal(shape)
    return W + 1j * rng.standard_normal(shape) if is_complex else W


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25), (1, 7), (7, 1), (1, 1)])
def test_equal_to_singular_values(rng, shape, is_complex):
    W = matrix(rng, shape, is_complex)
    expected = squared_singular_values(W)
    for method in ("gram", "svd"):
        found = spectrum(W, method=method)
        assert isinstance(found, np.ndarray)
        assert_allclose(found, expected, rtol=0, atol=1e-13 * expected[-1])


def test_of_a_tensor_comes_a_tensor_of_its_precision(rng):
    W = torch.tensor(rng.standard_normal((12, 20)), dtype=torch.float32)
    found = spectrum(W)
    assert found.dtype == torch.float32
    assert_allclose(found.numpy(), squared_singular_values(W.double().numpy()), rtol=1e-4)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("shape", [(40, 15), (15, 40), (23, 23)])
def test_blocks_do_not_matter(rng, shape, is_complex):
    W = matrix(rng, shape, is_complex)
    whole = scan(ArrayLayer(torch.tensor(W)))
    blocks = scan(ArrayLayer(torch.tensor(W)), nbytes=2 * W.itemsize * shape[1] * 4)  # four rows at a time
    expected = squared_singular_values(W)
    for found in (whole, blocks):
        assert_allclose(found.row_squares, (abs(W) ** 2).sum(1), rtol=1e-13)
        assert_allclose(found.col_squares, (abs(W) ** 2).sum(0), rtol=1e-13)
        assert found.largest == pytest.approx(max(abs(W.real).max(), abs(W.imag).max()))
        assert_allclose(eigenvalues(found.grams[0]), expected, rtol=0, atol=1e-13 * expected[-1])


def test_both_packages_read_the_triangle_that_is_set(rng, monkeypatch):
    W = matrix(rng, (30, 20), True)
    one = eigenvalues(scan(ArrayLayer(torch.tensor(W))).grams[0])
    monkeypatch.setattr(module, "_TORCH_FROM", 1)
    other = eigenvalues(scan(ArrayLayer(torch.tensor(W))).grams[0])
    assert_allclose(other, one, rtol=0, atol=1e-13 * one[-1])


@pytest.mark.parametrize("k", [-530, -200, 30, 480])
def test_powers_of_two_are_exact(rng, k):
    W = rng.standard_normal((12, 9))
    one, scaled = scan(ArrayLayer(torch.tensor(W))), scan(ArrayLayer(torch.tensor(W * 2.0**k)))
    ratio = 2.0 ** (2 * k - scaled.shift)
    assert_array_equal(eigenvalues(scaled.grams[0]), eigenvalues(one.grams[0]) * ratio)
    assert_array_equal(scaled.row_squares, one.row_squares * ratio)


def test_subnormal_weights_have_a_spectrum(rng):
    W = rng.standard_normal((30, 20)) * 1e-310
    found = scan(ArrayLayer(torch.tensor(W)))
    lam = eigenvalues(found.grams[0])
    # Subnormal numbers of some 1e-310 have about 13 digits left.
    expected = (
        squared_singular_values(W * 2.0**1000) * 2.0 ** (-1000 - found.shift / 2) * 2.0 ** (-1000 - found.shift / 2)
    )
    assert_allclose(lam, expected, rtol=0, atol=1e-9 * lam[-1])


def test_numbers_that_are_none_are_counted():
    W = torch.ones(4, 3, dtype=torch.float64)
    W[1, 1], W[3, 0] = math.nan, -math.inf
    assert scan(ArrayLayer(W)).n_bad == 2
    assert scan(ArrayLayer(torch.complex(W, W))).n_bad == 2


def test_half_precision_is_computed_in_double(rng):
    W = torch.tensor(rng.standard_normal((20, 10))).bfloat16()
    lam = eigenvalues(scan(ArrayLayer(W)).grams[0])
    assert_allclose(lam, squared_singular_values(W.double().numpy()), rtol=1e-12)


def test_core_of_a_thin_product(rng):
    B, A = rng.standard_normal((40, 3)), rng.standard_normal((3, 25))
    lam = low_rank_eigenvalues(torch.tensor(B), torch.tensor(A), 0.5)
    assert_allclose(lam, squared_singular_values(0.5 * B @ A)[-3:], rtol=1e-12)
    assert len(lam) == 3


@pytest.mark.parametrize(
    ("W", "options", "text"),
    [
        (np.ones(3), {}, r"W must be a matrix, shape \(m, n\); got shape \(3,\)"),
        (np.ones((0, 3)), {}, r"got shape \(0, 3\)"),
        (np.array([[1.0, math.nan]]), {}, "W must be finite"),
        (np.full((2, 2), 1e300), {}, r"its largest entry is 1e\+300"),
        (np.full((2, 2), 1e-300), {}, r"its largest entry is 1e-300"),
        (None, {}, "W must be a matrix, .* got None"),
        (np.ones((2, 2)), {"method": "eig"}, "method must be one of"),
    ],
)
def test_bad_input(W, options, text):
    with pytest.raises(InvalidInputError, match=text):
        spectrum(W, **options)


def test_a_matrix_that_learns_is_read_without_its_gradient(rng):
    W = torch.tensor(rng.standard_normal((6, 4)), requires_grad=True)
    lam = spectrum(W)
    assert not lam.requires_grad
    assert_allclose(lam, squared_singular_values(W.detach().numpy()), rtol=1e-12)
