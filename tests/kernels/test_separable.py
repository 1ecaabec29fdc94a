"""Laplace and spectral mixtures: closed forms, scikit-learn, spectra."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import laplacian_kernel

from sciml.exceptions import InvalidInputError
from sciml.kernels import Laplace, Matern12, Matern52, SpectralMixture
from sciml.linalg import kernel_logsumexp


def mixture(y, x, w, f, rho, envelope):
    """The sum over components, written out."""
    total = np.zeros((len(y), len(x)))
    for q in range(len(w)):
        for i in range(len(y)):
            for j in range(len(x)):
                r = y[i] - x[j]
                t = np.abs(rho[q] * r)
                a = np.sqrt(5) * t
                shapes = np.exp(-(t**2)) if envelope == "gaussian" else (1 + a + a**2 / 3) * np.exp(-a)
                total[i, j] += w[q] * np.prod(shapes) * np.cos(2 * np.pi * f[q] @ r)
    return total


@pytest.mark.parametrize("length", [0.6, [0.6], [0.3, 1.0, 2.0]])
def test_laplace_is_a_product_over_coordinates(length, rng):
    y, x = rng.standard_normal((8, 3)), rng.standard_normal((9, 3))
    wanted = np.exp(-(np.abs(y[:, None] - x[None]) / length).sum(-1))
    np.testing.assert_allclose(Laplace(length)(y, x), wanted, rtol=1e-14)
    np.testing.assert_allclose(kernel_logsumexp(y, x[:1], kernel_log=Laplace(length)), np.log(wanted[:, 0]), rtol=1e-13)


@pytest.mark.parametrize("d", [2, 30])
def test_scikit_learn_agrees_on_laplace(d, rng):
    y, x = rng.standard_normal((8, d)), rng.standard_normal((9, d))
    np.testing.assert_allclose(Laplace(0.7)(y, x), laplacian_kernel(y, x, gamma=1 / 0.7), rtol=1e-13)


def test_laplace_is_matern_on_a_line_only(rng):
    line, plane = rng.standard_normal((6, 1)), rng.standard_normal((6, 2))
    np.testing.assert_allclose(Laplace(0.4)(line), Matern12(0.4)(line), rtol=1e-14)
    assert np.abs(Laplace(0.4)(plane) - Matern12(0.4)(plane)).max() > 0.01


@pytest.mark.parametrize("envelope", ["gaussian", "matern"])
@pytest.mark.parametrize("d", [1, 2, 20])
def test_mixtures_are_sums_of_waves(envelope, d, rng):
    y, x = rng.standard_normal((5, d)), rng.standard_normal((4, d))
    w, f, rho = rng.uniform(0.1, 1, 3), rng.standard_normal((3, d)), rng.uniform(0, 1, (3, d)) / np.sqrt(d)
    x[0] = y[0]
    # Phases of some 30 radians are rounded by 30 eps.
    np.testing.assert_allclose(
        SpectralMixture(w, f, rho, envelope)(y, x), mixture(y, x, w, f, rho, envelope), rtol=0, atol=3e-14
    )


def test_the_classical_form_of_wilson_and_adams():
    r = np.linspace(-2, 2, 9)
    v, mu = np.array([0.02, 0.3]), np.array([0.8, 2.0])
    wanted = (np.exp(-2 * np.pi**2 * r[:, None] ** 2 * v) * np.cos(2 * np.pi * r[:, None] * mu)) @ [1.5, 0.5]
    found = SpectralMixture([1.5, 0.5], mu, np.pi * np.sqrt(2 * v))(r[:, None], [[0.0]])[:, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-14)


@pytest.mark.parametrize("envelope", ["gaussian", "matern"])
def test_the_spectrum_is_a_pair_of_lines(envelope):
    rho, mu, h = 0.5, 3.0, 2e-3
    r = h * np.arange(-20_000, 20_001)
    k = SpectralMixture([2.0], [mu], [rho], envelope)(r[:, None], [[0.0]])[:, 0]
    for f in (2.8, 3.0, 3.3, 0.0):
        found = h * np.sum(k * np.cos(2 * np.pi * f * r))

        def line(g):
            if envelope == "gaussian":
                return np.sqrt(np.pi) / rho * np.exp(-((np.pi * g / rho) ** 2))
            # Student's t with five degrees of freedom, of total mass 1
            return 16 / 3 * (np.sqrt(5) * rho) ** 5 / (5 * rho**2 + 4 * np.pi**2 * g**2) ** 3

        np.testing.assert_allclose(found, line(f - mu) + line(f + mu), atol=1e-9)


def test_without_frequency_the_matern_envelope_is_matern():
    r = np.linspace(0, 3, 11)[:, None]
    found = SpectralMixture([1.0], [0.0], [0.5], "matern")(r, [[0.0]])
    np.testing.assert_allclose(found, Matern52(2.0)(r, [[0.0]]), rtol=1e-14)


def test_a_pure_tone_never_decays():
    k = SpectralMixture([1.0], [0.25], [0.0])
    np.testing.assert_allclose(k([[0.0]], 4.0 * np.arange(8)[:, None]), np.ones((1, 8)), atol=1e-14)


def test_a_weight_of_zero_is_a_component_less(rng):
    x = rng.standard_normal((5, 1))
    one, two = SpectralMixture([1.0], [0.3], [0.2]), SpectralMixture([1.0, 0.0], [0.3, 9.0], [0.2, 4.0])
    np.testing.assert_allclose(two(x), one(x), rtol=1e-14)


def test_a_component_twice_weighs_double(rng):
    x = rng.standard_normal((5, 1))
    one, two = SpectralMixture([2.0], [0.3], [0.2]), SpectralMixture([1.0, 1.0], [0.3, 0.3], [0.2, 0.2])
    np.testing.assert_allclose(two(x), one(x), rtol=1e-14)


def test_gradients_reach_weights_frequencies_and_bandwidths(rng):
    y, x = (torch.from_numpy(rng.standard_normal((n, 1))) for n in (3, 2))
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([1.0, 0.5], [0.3, 1.1], [0.4, 0.2])]
    for envelope in ("gaussian", "matern"):
        assert torch.autograd.gradcheck(lambda *p, e=envelope: SpectralMixture(*p, envelope=e)(y, x), leaves)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([-1.0], [0.1], [0.1]), "weights must be at least 0 and finite; got -1.0"),
        (([1.0], [0.1], [-0.1]), "bandwidths must be at least 0 and finite; got -0.1"),
        (([1.0], [np.nan], [0.1]), "frequencies must be finite; got nan"),
        (([1.0, 2.0], [0.1], [0.1, 0.2]), r"frequencies must have shape \(2,\) or \(2, d\).*got \(1,\)"),
        (([1.0], [0.1], [[[0.1]]]), r"bandwidths must have shape \(1,\) or \(1, d\).*got \(1, 1, 1\)"),
        (([[1.0]], [0.1], [0.1]), "weights must be"),
        (([1.0], ["a"], [0.1]), "frequencies must be"),
        (([1.0], [0.1], [0.1], "boxcar"), "envelope must be one of 'gaussian', 'matern'; got 'boxcar'"),
    ],
)
def test_mixtures_that_are_none_are_refused(arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        SpectralMixture(*arguments)


def test_mixtures_of_another_width_than_the_points_are_refused():
    with pytest.raises(
        InvalidInputError, match="frequencies of SpectralMixture must have one column for each of the 2"
    ):
        SpectralMixture([1.0], [0.1], [0.1])(np.zeros((3, 2)))
    with pytest.raises(InvalidInputError, match="bandwidths of SpectralMixture must have one column for each of the 2"):
        SpectralMixture([1.0], [[0.1, 0.2]], [0.1])(np.zeros((3, 2)))


@pytest.mark.parametrize("length", [0.0, -1.0, np.nan, np.inf, [1.0, 0.0], "1", None, [[1.0]]])
def test_lengths_that_are_none_are_refused(length):
    with pytest.raises(InvalidInputError, match="lengthscale must be"):
        Laplace(length)
