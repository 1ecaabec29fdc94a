"""The distance between a layer's spectrum and that of its scrambled entries."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.stats.spectra.scrambled import rand_distance, scramble


def eigenvalues(W):
    return np.linalg.eigvalsh(W @ W.T)


def test_distance_is_that_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(size=90), rng.lognormal(1.0, 2.0, size=120)
    edges = np.linspace(np.log(np.r_[a, b]).min(), np.log(np.r_[a, b]).max(), 10)  # 9 bins, the root of 90
    p, r = (np.histogram(np.log(x), edges)[0] for x in (a, b))
    assert rand_distance(a, b) == pytest.approx(jensenshannon(p, r, base=2), rel=1e-12)
    assert rand_distance(a, b, bins=3) < rand_distance(a, b, bins=60)
    assert rand_distance(b, a) == rand_distance(a, b)
    assert rand_distance(2.0**30 * a, 2.0**30 * b) == pytest.approx(rand_distance(a, b), abs=0.02)


def test_extremes():
    assert rand_distance([1.0, 2.0], [2.0, 1.0]) == 0
    assert rand_distance([1.0, 1.1], [8.0, 9.0]) == 1
    assert rand_distance([0.0, 0.0], [8.0, 9.0]) == 1
    assert rand_distance([0.0, 0.0], [0.0]) == 0
    assert rand_distance([0.0, 1.0], [0.0, 1.0]) == 0
    assert math.isnan(rand_distance([], [1.0]))


def test_structure_is_far_and_noise_is_near():
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((100, 200))
    layer = noise * np.arange(1, 101)[:, None] ** -0.5
    near, far = (rand_distance(eigenvalues(W), eigenvalues(scramble(W))) for W in (noise, layer))
    assert near < 0.12
    assert far > 0.25


def test_scrambling_keeps_entries_kind_and_is_repeatable():
    W = np.arange(12.0).reshape(3, 4)
    V = scramble(W)
    assert V.shape == W.shape
    assert sorted(V.ravel()) == sorted(W.ravel())
    assert not np.array_equal(V, W)
    assert np.array_equal(V, scramble(W, random_state=0))
    assert not np.array_equal(V, scramble(W, random_state=1))
    T = scramble(torch.from_numpy(W).float())
    assert T.dtype == torch.float32
    assert np.array_equal(T.numpy(), V)


def test_bad_input_is_refused():
    with pytest.raises(InvalidInputError, match=r"scrambled must be a vector of finite numbers; got shape \(1, 1\)"):
        rand_distance([1.0], [[1.0]])
    with pytest.raises(InvalidInputError, match="eigenvalues must be .* 1 that are not"):
        rand_distance([np.nan], [1.0])
    with pytest.raises(InvalidInputError, match="bins must be an integer at least 1; got 0"):
        rand_distance([1.0], [1.0], bins=0)
    with pytest.raises(InvalidTypeError, match="W must be a NumPy array or a torch tensor; got list"):
        scramble([[1.0]])
