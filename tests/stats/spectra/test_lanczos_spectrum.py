"""Stochastic Lanczos quadrature against dense spectra."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.lanczos_spectrum import lanczos_spectrum


def half_hill(lam):
    """Return the exponent of the upper half."""
    tail = np.log(lam[len(lam) // 2 :])
    return 1 + len(tail) / (tail - tail[0]).sum()


def dense(W):
    return np.linalg.svd(W, compute_uv=False)[::-1] ** 2


def gaussian(rng):
    return rng.standard_normal((400, 400))


def long(rng):
    return rng.standard_normal((300, 700))


def covariance(rng):
    return rng.standard_normal((400, 300)) * np.arange(1, 401)[:, None] ** -0.8


def heavy(rng):
    return rng.pareto(1.2, (500, 300)) + 1


@pytest.mark.parametrize("kind", [gaussian, long, covariance, heavy])
def test_numbers_lie_within_their_errors(kind):
    W = kind(np.random.default_rng(0))
    density, truth = lanczos_spectrum(W), dense(W)
    for statistic in (half_hill, np.median, lambda lam: lam.sum() / lam[-1]):
        value, error = density.estimate(statistic)
        assert abs(value - statistic(truth)) < 4 * error
    assert abs(density.estimate(half_hill)[0] - half_hill(truth)) < 0.2
    assert density.trace == pytest.approx((W**2).sum(), rel=1e-12)
    assert density.size == len(truth) == len(density.eigenvalues())
    assert (np.diff(density.eigenvalues()) >= 0).all()


def test_largest_eigenvalues_are_exact():
    W = covariance(np.random.default_rng(1))
    top = lanczos_spectrum(W).top
    assert len(top) >= 10
    assert_allclose(top, dense(W)[-len(top) :], rtol=1e-9)
    assert_allclose(lanczos_spectrum(W).eigenvalues()[-len(top) :], top, atol=0)


def test_all_steps_and_many_probes_give_the_moments():
    """Gauss quadrature is exact for polynomials: what is left is the noise of the probes."""
    rng = np.random.default_rng(2)
    W = rng.standard_normal((40, 60))
    density = lanczos_spectrum(W, n_probes=400, n_steps=12)
    assert_allclose(density.weights.sum(1), 1, rtol=1e-12)
    truth = dense(W)
    for power in (1, 2, 5):
        moments = (density.weights * density.nodes**power).sum(1)
        assert moments.mean() == pytest.approx((truth**power).mean(), abs=4 * moments.std() / 20)


def test_a_layer_is_read_in_blocks_of_rows():
    class Layer:
        rows, cols = 90, 60
        matrices = np.random.default_rng(3).standard_normal((2, 90, 60))

        def row_blocks(self, k=0):
            return iter(torch.from_numpy(self.matrices[k]).split(17))

    for k in (0, 1):
        found, truth = lanczos_spectrum(Layer(), k=k, n_steps=30), lanczos_spectrum(Layer.matrices[k], n_steps=30)
        assert_allclose(found.eigenvalues(), truth.eigenvalues(), rtol=1e-9)
    wide = Layer()
    wide.rows, wide.cols, wide.matrices = 60, 90, Layer.matrices.swapaxes(1, 2).copy()
    assert_allclose(lanczos_spectrum(wide, n_steps=30).top, lanczos_spectrum(Layer(), n_steps=30).top, rtol=1e-9)


def test_exhausted_spaces_zeros_and_repeated_eigenvalues():
    rng = np.random.default_rng(4)
    W = rng.standard_normal((120, 8)) @ rng.standard_normal((8, 150))
    density = lanczos_spectrum(W)
    assert_allclose(density.top[-8:], dense(W)[-8:], rtol=1e-9)
    assert density.eigenvalues()[:100].max() < 1e-9 * density.top[-1]
    assert_allclose(lanczos_spectrum(2 * np.eye(30)).eigenvalues(), 4, rtol=1e-12)
    assert_allclose(lanczos_spectrum(np.zeros((30, 40))).eigenvalues(), 0, atol=0)
    value, error = lanczos_spectrum(2 * np.eye(30)).estimate(lambda lam: np.inf)
    assert value == np.inf
    assert np.isnan(error)
    assert lanczos_spectrum(np.ones((1, 5))).eigenvalues() == pytest.approx([5.0])


def test_complex_weights_units_and_repeatability():
    rng = np.random.default_rng(5)
    W = rng.standard_normal((60, 80)) + 1j * rng.standard_normal((60, 80))
    density = lanczos_spectrum(W, n_steps=60)
    assert density.top[-1] == pytest.approx(dense(W)[-1], rel=1e-9)
    assert_allclose(lanczos_spectrum(W, n_steps=60).nodes, density.nodes, atol=0)
    assert not np.array_equal(lanczos_spectrum(W, n_steps=60, random_state=1).nodes, density.nodes)
    assert_allclose(lanczos_spectrum(2.0**-30 * W, n_steps=60).nodes, 2.0**-60 * density.nodes, rtol=1e-12)


def test_bad_input_is_refused():
    with pytest.raises(InvalidInputError, match=r"W must be a matrix; got shape \(3,\)"):
        lanczos_spectrum(np.ones(3))
    with pytest.raises(InvalidInputError, match="W must be finite, and so must be its squared norm; got nan"):
        lanczos_spectrum(np.full((20, 20), np.nan))
    with pytest.raises(InvalidInputError, match="n_probes must be an integer at least 2; got 1"):
        lanczos_spectrum(np.ones((20, 20)), n_probes=1)
    with pytest.raises(InvalidInputError, match="n_steps must be an integer at least 4; got 3"):
        lanczos_spectrum(np.ones((20, 20)), n_steps=3)
