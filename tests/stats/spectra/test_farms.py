"""FARMS: no bias by shape, the published grid as a literal twin, plans, dead neurons."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.farms import farms_spectrum
from sciml.stats.spectra.gram_spectrum import ArrayLayer, spectrum
from sciml.stats.spectra.marchenko_pastur import mp_alpha
from sciml.stats.spectra.power_law import hill
from sciml.stats.spectra.windows import plan_windows, window_eigenvalues


def published_grid(W, L, s, Q=1.0):
    """The windows as published: even steps, contiguous, overlapping; squared singular values in one list."""
    rows, cols = W.shape
    width = int(Q * L)
    down, across = max(1, (rows - L) // (s - 1)), max(1, (cols - width) // (s - 1))
    out = []
    for i in range(s):
        for j in range(s):
            window = W[i * down : i * down + L, j * across : j * across + width]
            out.append(np.linalg.svd(window, compute_uv=False) ** 2)
    return np.concatenate(out)


def test_noise_has_one_exponent_whatever_the_shape(rng):
    shapes = [(96, 96), (96, 192), (384, 96), (96, 1536)]
    plain = [hill(spectrum(rng.standard_normal(shape))) for shape in shapes]
    farms = [farms_spectrum(rng.standard_normal(shape)).alpha for shape in shapes]
    # 96 rows: plain exponents fluctuate by some 5 %; FARMS by 1 % about that of square noise, 0.3 % below its limit.
    assert_allclose(plain, [mp_alpha(min(s) / max(s)) for s in shapes], rtol=0.15)
    assert_allclose(farms, mp_alpha(1.0), rtol=0.03)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_grid_is_the_published_one(rng, shape):
    W = rng.standard_normal(shape)
    expected = np.sort(published_grid(W, 20, 4))
    found = farms_spectrum(W, layout="grid", window=20, grid=4)
    assert_allclose(found.eigenvalues, expected, rtol=0, atol=1e-12 * expected[-1])
    assert found.alpha == pytest.approx(hill(expected), rel=1e-10)
    assert found.n_windows == 16
    assert math.isnan(found.se)  # overlapping windows have no interval


def test_one_window_a_side_divides_by_nothing(rng):
    assert farms_spectrum(rng.standard_normal((30, 50)), layout="grid", window=20, grid=1).n_windows == 1


def test_a_partition_uses_every_entry_once(rng):
    plan = plan_windows(48, 64, window=16, repeats=1)
    W = torch.tensor(rng.standard_normal((48, 64)))
    values = window_eigenvalues(ArrayLayer(W), plan, rng=rng, dtype=torch.float64)
    assert values.shape == (1, 3, 4, 16)
    # The traces of the windows add up to the squared norm of the matrix.
    assert values.sum() == pytest.approx(float((W**2).sum()), rel=1e-12)


@pytest.mark.parametrize("Q", [2.0, 0.5])
def test_windows_that_are_not_square_have_their_smaller_spectrum(rng, Q):
    W = rng.standard_normal((32, 64))
    found = farms_spectrum(W, layout="contiguous", window=16, Q=Q)
    width = int(16 * Q)
    assert len(found.eigenvalues) == 32 * 64 // max(16, width)
    blocks = [W[i : i + 16, j : j + width] for i in (0, 16) for j in range(0, 64, width)]
    expected = np.sort(np.concatenate([np.linalg.svd(b, compute_uv=False) ** 2 for b in blocks]))
    assert_allclose(found.eigenvalues, expected, rtol=0, atol=1e-12 * expected[-1])


@pytest.mark.parametrize("turned", [False, True])
def test_a_partition_mixes_rows_and_columns(rng, turned):
    # Half of the neurons are three times as strong: contiguous windows see halves, mixed ones see all.
    W = np.ones((64, 64))
    W[32:] = 3.0
    values = [
        window_eigenvalues(
            ArrayLayer(torch.tensor(W.T if turned else W)),
            plan_windows(64, 64, window=32, repeats=1, layout=layout),
            rng=rng,
            dtype=torch.float64,
        ).sum(-1)
        for layout in ("contiguous", "partition")
    ]
    assert values[0].max() / values[0].min() == pytest.approx(9)
    assert values[1].max() / values[1].min() < 3


def test_contiguous_windows_are_blocks(rng):
    W = rng.standard_normal((32, 48))
    found = farms_spectrum(W, layout="contiguous", window=16)
    blocks = [W[i : i + 16, j : j + 16] for i in (0, 16) for j in (0, 16, 32)]
    expected = np.sort(np.concatenate([np.linalg.svd(b, compute_uv=False) ** 2 for b in blocks]))
    assert_allclose(found.eigenvalues, expected, rtol=0, atol=1e-12 * expected[-1])


def test_slices_share_their_windows(rng):
    W = torch.tensor(rng.standard_normal((32, 32)))
    plan = plan_windows(32, 32, window=16, repeats=2)
    values = window_eigenvalues(ArrayLayer(W, W), plan, rng=rng, dtype=torch.float64)
    assert_allclose(values[..., :16], values[..., 16:])


@pytest.mark.parametrize(
    ("rows", "cols", "options", "expected"),
    [
        # height, width, down, across, repeats
        (384, 384, {}, (192, 192, 2, 2, 2)),
        (384, 1536, {}, (192, 192, 2, 8, 1)),
        (1536, 384, {}, (192, 192, 8, 2, 1)),
        (384, 30522, {}, (192, 192, 2, 16, 1)),
        (4096, 4096, {}, (1024, 1024, 4, 4, 1)),
        (40, 40, {}, (20, 20, 2, 2, 2)),
        (20, 20, {}, (16, 16, 1, 1, 8)),
        (100, 400, {"Q": 2.0}, (50, 100, 2, 4, 1)),
        (400, 100, {"Q": 2.0}, (100, 50, 4, 2, 1)),
        (100, 400, {"Q": 0.5}, (50, 25, 2, 16, 1)),
        (100, 100, {"rho": 0.25}, (25, 25, 4, 4, 1)),
        (64, 64, {"min_windows": 1}, (32, 32, 2, 2, 1)),
        (64, 64, {"repeats": 3}, (32, 32, 2, 2, 3)),
        (64, 64, {"n_slices": 9}, (32, 32, 2, 2, 1)),
    ],
)
def test_plans(rows, cols, options, expected):
    plan = plan_windows(rows, cols, **options)
    assert (plan.height, plan.width, plan.n_down, plan.n_across, plan.repeats) == expected


@pytest.mark.parametrize(("rows", "cols", "options"), [(15, 300, {}), (1, 1, {}), (64, 64, {"window": 65})])
def test_no_window_fits(rows, cols, options):
    assert plan_windows(rows, cols, **options) is None


def test_too_small_has_no_exponent(rng):
    assert math.isnan(farms_spectrum(rng.standard_normal((12, 300))).alpha)


@pytest.mark.parametrize("turned", [False, True])
def test_dead_neurons_are_dropped(rng, turned):
    W = np.zeros((120, 90))
    alive = np.sort(rng.permutation(120)[:60])
    W[alive] = rng.standard_normal((60, 90))
    found = farms_spectrum(W.T if turned else W)
    assert (found.n_dead_cols if turned else found.n_dead_rows) == 60
    assert min(found.height, found.width) == 30
    # A square of dead and living rows would give 1.04.
    assert found.alpha == pytest.approx(mp_alpha(1.0), rel=0.06)


def test_transposition_permutation_and_scale(rng):
    W = rng.standard_t(3, (64, 160))
    one = farms_spectrum(W)
    for other in (W.T, W[rng.permutation(64)][:, rng.permutation(160)]):
        found = farms_spectrum(other)
        assert abs(found.alpha - one.alpha) < 3 * math.hypot(found.se, one.se)
    scaled = farms_spectrum(W * 2.0**-300)
    assert (scaled.alpha, scaled.se) == (one.alpha, one.se)
    assert farms_spectrum(W * 1e-7).alpha == pytest.approx(one.alpha, rel=1e-9)


def test_one_seed_one_answer(rng):
    W = rng.standard_normal((64, 64))
    assert farms_spectrum(W, random_state=3).alpha == farms_spectrum(W, random_state=3).alpha
    assert farms_spectrum(W, random_state=3).alpha != farms_spectrum(W, random_state=4).alpha
    assert farms_spectrum(torch.tensor(W)).alpha == farms_spectrum(W).alpha


def test_float32_agrees(rng):
    W = rng.standard_normal((64, 96)).astype(np.float32)
    assert farms_spectrum(W).alpha == pytest.approx(farms_spectrum(W, dtype="float64").alpha, abs=1e-4)


def test_a_product_of_low_rank_is_fitted_without_its_zeros(rng):
    found = farms_spectrum(rng.standard_normal((96, 12)) @ rng.standard_normal((12, 96)))
    assert found.deficient
    assert 1 < found.alpha < 6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rho": 0}, "rho must be a number above 0 and at most 1; got 0"),
        ({"Q": 0}, "Q must be a number above 0; got 0"),
        ({"q": 1.0}, "q must be a number above 0 and below 1; got 1.0"),
        ({"layout": "random"}, "layout must be one of 'partition', 'contiguous', 'grid'"),
        ({"repeats": 1.5}, "repeats must be an integer at least 1; got 1.5"),
        ({"window": 0}, "window must be an integer at least 1; got 0"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(InvalidInputError, match=text):
        farms_spectrum(np.eye(20), **options)
