"""Kernels taken apart, multiplied, saved, and moved by one vector."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.kernels import Gaussian, Laplace, Matern, Matern12, Matern52, RationalQuadratic, SpectralMixture
from sciml.results import _plain
from sciml.solvers.gp_regression.parameters import (
    NOISE_BOUNDS,
    Parameters,
    detached,
    has_free_size,
    multiplied,
    read,
    replaced,
    written,
)

MIXTURE = SpectralMixture([1.0, 0.5], [[0.3, 0.0], [1.0, -2.0]], [[0.1, 0.2], [0.0, 0.4]], envelope="matern")
KERNELS = [
    Gaussian([0.7, 2.0]),
    2.0 * Matern52(0.5) + 0.3 * Matern12(4.0),
    (Matern(1.5, nu=1.5) + Laplace(2.0)) * RationalQuadratic(0.9, alpha=3.0),
    MIXTURE,
]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_kernel_is_the_same_after_writing_and_multiplying(kernel, rng):
    X = rng.standard_normal((6, 2))
    text = json.loads(json.dumps(_plain(written(kernel), "kernel")))
    assert_allclose(read(text)(X), kernel(X), rtol=1e-15)
    assert_allclose(multiplied(kernel, 4.0)(X), 4 * kernel(X), rtol=1e-14)
    assert_allclose(detached(kernel)(X), kernel(X), rtol=1e-15)


@pytest.mark.parametrize(
    ("kernel", "free"),
    [
        (Gaussian(1.0), False),
        (2.0 * Gaussian(1.0), True),
        (2.0 * Gaussian(1.0) + Matern12(1.0), False),
        (2.0 * Gaussian(1.0) * Matern12(1.0), True),
        (MIXTURE, True),
    ],
    ids=str,
)
def test_whose_size_can_be_learned(kernel, free):
    assert has_free_size(kernel) is free


def test_replaces_by_the_names_of_parameters_and_keeps_the_rest():
    kernel = 2.0 * Gaussian(1.0) + 3.0 * RationalQuadratic(1.0, alpha=2.0)
    other = replaced(kernel, {"second.kernel.alpha": 5.0, "first.variance": 7.0})
    assert {name: float(value) for name, value in other.parameters.items()} == {
        "first.variance": 7.0,
        "first.kernel.lengthscale": 1.0,
        "second.variance": 3.0,
        "second.kernel.lengthscale": 1.0,
        "second.kernel.alpha": 5.0,
    }
    assert float(kernel.parameters["first.variance"]) == 2.0


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_given_vector_gives_the_kernel_back(kernel, rng):
    X = torch.as_tensor(rng.standard_normal((30, 2)))
    parameters = Parameters(kernel, None, list(kernel.parameters), X)
    again, noise = parameters.model(torch.as_tensor(parameters.given))
    assert_allclose(again(X).numpy(), kernel(X).numpy(), rtol=1e-13)
    assert float(noise) == pytest.approx(0.09)
    assert len(parameters.names) == len(parameters.given) == len(parameters.lower)


def test_bounds_follow_the_data_and_the_noise_has_its_own(rng):
    X = torch.as_tensor(rng.uniform(0, 50.0, (100, 2)))
    p = Parameters(2.0 * Gaussian(1.0), None, ["kernel.lengthscale"], X)
    q = Parameters(2.0 * Gaussian(8.0), None, ["kernel.lengthscale"], 8 * X)
    assert_allclose(q.lower[0] - p.lower[0], np.log(8))
    assert_allclose(q.upper[0] - p.upper[0], np.log(8))
    assert_allclose(np.exp([p.lower[1], p.upper[1]]), NOISE_BOUNDS)


def test_starts_are_inside_the_bounds_and_repeat(rng):
    X = torch.as_tensor(rng.uniform(0, 1, (50, 3)))
    p = Parameters(5.0 * Gaussian([1e-9, 1.0, 1e9]), None, ["variance", "kernel.lengthscale"], X)
    one, two = (p.starts(X, 7, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, two)
    assert one.shape == (7, 5)
    assert (one >= p.lower).all()
    assert (one <= p.upper).all()
    assert_allclose(one[1:, 0], 0.0, atol=1e-12)  # a variance of one for targets of unit size
    spread = X.std(0, unbiased=False).numpy() * np.sqrt(3)
    assert_allclose(np.exp(one[1, 1:4]), spread)


def test_refuses_to_write_a_kernel_of_its_own_class():
    class Mine(Gaussian):
        pass

    with pytest.raises(InvalidInputError, match="classes of sciml.kernels to be saved; Mine is not"):
        written(Mine(1.0))


def test_bandwidths_are_bounded_by_inverse_lengths():
    X = torch.linspace(0.0, 2.0, 11, dtype=torch.float64)[:, None]
    parameters = Parameters(SpectralMixture([1.0], [[0.3]], [[0.1]]), 0.1, ["bandwidths"], X)
    # The longest length is a thousand times the data, the shortest a tenth of their mean gap.
    assert np.exp(parameters.lower) == pytest.approx([1 / 2e3])
    assert np.exp(parameters.upper) == pytest.approx([11 / 0.2])


def test_a_given_noise_above_the_floor_is_kept_and_a_learned_one_adds_it():
    X, floor = torch.zeros(3, 1, dtype=torch.float64), torch.tensor(1e-3, dtype=torch.float64)
    variance = torch.tensor(0.25, dtype=torch.float64)
    assert float(Parameters(Gaussian(1.0), 0.5, [], X).raised(variance, floor)) == 0.25
    assert float(Parameters(Gaussian(1.0), None, [], X).raised(variance, floor)) == pytest.approx(0.251)
