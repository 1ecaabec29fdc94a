"""Claims about the search for carriers: tones off every grid are found to many digits, noise is not explained."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sciml.solvers.gp_pde.features import JointBasis
from sciml.solvers.gp_pde.frequencies import chebyshev_length, find_carriers, lattice_step


def tensor(values):
    return torch.as_tensor(np.asarray(values, float))


def search(X, Y, lower, upper, top, **options):
    X = X[:, None] if X.ndim == 1 else X
    return find_carriers(tensor(X), tensor(Y.reshape(len(X), -1)), lower, upper, max_frequency=top, **options)


def tones(x):
    return 1.5 * np.sin(94.37 * x + 0.4) + 0.01 * np.cos(106.81 * x)


# ---------------------------------------------------------------- what is found


def test_two_tones_off_the_grid_are_found_from_few_random_samples(rng):
    x = 6.3 * rng.random(60)  # a lattice would need 215 for this frequency
    fit = search(x, tones(x), (0.0,), (6.3,), [300.0])
    order = np.argsort(np.abs(fit.basis.omega[:, 0]))
    found, size = np.abs(fit.basis.omega[order, 0]), fit.weights[order]
    assert fit.residual < 1e-12
    # under m envelope terms an offset of d costs (d h)^m / m!, so the search may stop once d h is below 0.05
    assert_allclose(found, [94.37, 106.81], rtol=0, atol=0.05 / 3.15)
    assert_allclose(size, np.array([1.5, 0.01]) / 2**0.5, rtol=0.15)  # root mean square over the samples


@pytest.mark.parametrize("sign", [1, -1])
def test_a_plane_wave_is_found_with_its_direction(sign, rng):
    X = np.array([-1.0, 2.0]) + np.array([2.0, 3.0]) * rng.random((150, 2))
    omega = np.array([31.7, sign * 22.3])
    fit = search(X, np.cos(X @ omega + 0.7), (-1.0, 2.0), (1.0, 5.0), [80.0, 80.0])
    assert fit.residual < 1e-12
    assert len(fit.basis.omega) == 1
    found = fit.basis.omega[0] * np.sign(fit.basis.omega[0, 0])
    assert_allclose(found * [1, 1.5], omega * [1, 1.5], rtol=0, atol=0.02)  # the phase at the edge, in radians


def test_columns_share_their_carriers(rng):
    x = rng.random(80)
    Y = np.stack([np.sin(70.3 * x), np.cos(70.3 * x + 1), np.sin(110.9 * x)], axis=1)
    fit = search(x, Y, (0.0,), (1.0,), [250.0])
    assert fit.residual < 1e-11
    assert_allclose(np.sort(np.abs(fit.basis.omega[:, 0])), [70.3, 110.9], rtol=0, atol=0.05 / 0.5)


def test_a_broader_line_gets_more_room_about_its_centre(rng):
    x = 2 * rng.random(200) - 1
    pure = search(x, np.sin(90 * x), (-1.0,), (1.0,), [300.0])
    broad = search(x, np.sin(90 * x) * np.exp(-3 * x**2), (-1.0,), (1.0,), [300.0])
    assert max(pure.residual, broad.residual) < 1e-12
    assert pure.basis.n_features < 15 < broad.basis.n_features < 80  # the plain expansion takes 150
    centre = (broad.weights**2 @ np.abs(broad.basis.omega[:, 0])) / (broad.weights**2).sum()
    assert_allclose(centre, 90, rtol=0, atol=1.8)  # the line's own width


def test_smooth_data_need_no_carrier(rng):
    x = rng.random(100)
    fit = search(x, np.exp(x) + x**3, (0.0,), (1.0,), [200.0])
    assert fit.residual < 1e-12
    assert len(fit.basis.omega) == len(fit.weights) == 0


@pytest.mark.parametrize("d", [1, 2])
def test_noise_is_not_explained(d, rng):
    X = rng.random((120, d))
    fit = search(X, rng.standard_normal(120), (0.0,) * d, (1.0,) * d, [300.0] * d)
    assert fit.residual > 0.5  # leave-one-out: predicting nothing gives 1


def test_noise_of_a_tenth_of_a_percent_stays_in_the_residual(rng):
    x = 6.3 * rng.random(150)
    fit = search(x, np.sin(94.37 * x) + 7e-4 * rng.standard_normal(150), (0.0,), (6.3,), [200.0])
    assert 5e-4 < fit.residual < 3e-3
    assert_allclose(abs(fit.basis.omega[np.argmax(fit.weights), 0]), 94.37, rtol=0, atol=1e-3)


# ---------------------------------------------------------------- how it is steered


def test_refining_adds_no_carrier_to_those_given(rng):
    x = 6.3 * rng.random(60)
    start = JointBasis((0.0,), (6.3,), np.array([[94.37], [106.81]]), (4,), (3, 3))
    fit = search(x, tones(x), (0.0,), (6.3,), [300.0], start=start, refine_only=True)
    assert fit.residual < 1e-12
    assert_allclose(fit.basis.omega[:, 0], [94.37, 106.81], rtol=0, atol=1e-3)
    alone = JointBasis((0.0,), (6.3,), np.array([[94.37]]), (4,), (3,))
    fit = search(x, tones(x), (0.0,), (6.3,), [300.0], start=alone, refine_only=True)
    assert len(fit.basis.omega) == 1
    assert fit.residual > 1e-3  # the second tone is a hundredth of the first


def test_a_given_carrier_widens(rng):
    x = 2 * rng.random(200) - 1
    start = JointBasis((-1.0,), (1.0,), np.array([[90.0]]), (4,), (3,))
    one = search(x, np.sin(90 * x) * np.exp(-3 * x**2), (-1.0,), (1.0,), [300.0], start=start, refine_only=True)
    assert one.residual < 1e-10
    assert one.basis.n_envelope[0] >= 15


def test_given_carriers_are_mended(rng):
    x = 6.3 * rng.random(60)
    start = JointBasis((0.0,), (6.3,), np.array([[94.2], [107.0]]), (4,), (3, 3))
    fit = search(x, tones(x), (0.0,), (6.3,), [300.0], start=start, refine_only=True)
    assert fit.residual < 1e-12
    assert_allclose(fit.basis.omega[:, 0], [94.37, 106.81], rtol=0, atol=0.05 / 3.15)


def test_the_bounds_are_kept(rng):
    x = rng.random(200)
    Y = sum(np.cos(w * x) for w in 37.3 * np.arange(1, 9))
    assert len(search(x, Y, (0.0,), (1.0,), [400.0], max_carriers=3).basis.omega) <= 3
    few = search(x, Y, (0.0,), (1.0,), [400.0], max_features=20)
    assert few.basis.n_features <= 20
    assert few.residual > 1e-2
    assert search(x[:12], Y[:12], (0.0,), (1.0,), [400.0]).basis.n_features <= 8  # n / 1.5 at most
    low = search(x, Y, (0.0,), (1.0,), [100.0])
    assert np.all(np.abs(low.basis.omega) < 110)


def test_zero_data_are_explained_by_nothing(rng):
    fit = search(rng.random(30), np.zeros(30), (0.0,), (1.0,), [100.0])
    assert fit.residual == 0
    assert len(fit.basis.omega) == 0


@pytest.mark.parametrize("k", [-40, -20, 20, 40])
def test_units_of_x_do_not_matter(k, rng):
    x, s = rng.random(60), 2.0**k
    Y = np.sin(60.3 * x) + 0.2 * np.cos(81.7 * x)
    one = search(x, Y, (0.0,), (1.0,), [200.0])
    stretched = search(s * x, Y, (0.0,), (s,), [200.0 / s])
    assert_array_equal(stretched.basis.omega, one.basis.omega / s)
    assert stretched.basis.n_envelope == one.basis.n_envelope
    assert stretched.residual == one.residual


@pytest.mark.parametrize("k", [-40, -20, 20, 40])
def test_units_of_the_data_do_not_matter(k, rng):
    x, s = rng.random(60), 2.0**k
    Y = np.sin(60.3 * x) + 0.2 * np.cos(81.7 * x)
    one, louder = search(x, Y, (0.0,), (1.0,), [200.0]), search(x, s * Y, (0.0,), (1.0,), [200.0])
    assert_array_equal(louder.basis.omega, one.basis.omega)
    assert_array_equal(louder.weights, s * one.weights)
    assert louder.residual == one.residual


# ---------------------------------------------------------------- polynomial length


@pytest.mark.parametrize("degree", [0, 1, 5, 26])
def test_a_polynomial_needs_degree_plus_one_coefficients(degree):
    x = np.cos(np.pi * np.arange(33) / 32)
    assert chebyshev_length(np.cos(degree * np.arccos(x))[:, None]) == degree + 1


def test_a_tone_needs_its_half_waves_and_a_few_more():
    x = np.cos(np.pi * np.arange(257) / 256)
    length = chebyshev_length(np.sin(100 * x)[:, None])
    assert 130 < length < 165  # J_k(100) falls below 1e-13 at k = 150
    assert chebyshev_length(np.sin(300 * x)[:, None]) is None
    assert chebyshev_length(np.abs(x)[:, None]) is None


def test_the_longest_column_counts_and_zeros_need_one():
    x = np.cos(np.pi * np.arange(65) / 64)
    assert chebyshev_length(np.stack([x**2, x**9], axis=1)) == 10
    assert chebyshev_length(np.zeros((65, 1))) == 1


def test_a_plateau_of_noise_is_as_far_as_the_data_go(rng):
    x = np.cos(np.pi * np.arange(513) / 512)
    noisy = np.sin(40 * x) + 1e-10 * rng.standard_normal(513)
    assert 50 < chebyshev_length(noisy[:, None]) < 90
    loud = np.sin(40 * x) + 1e-4 * rng.standard_normal(513)
    assert chebyshev_length(loud[:, None]) is None


# ---------------------------------------------------------------- lattices


def test_a_lattice_is_known_by_its_step():
    x = np.linspace(2.0, 5.0, 31)
    assert lattice_step(x, 2.0, 5.0, 200.0) == pytest.approx(2 * np.pi / 0.1, rel=1e-9)
    holes = np.delete(x, [3, 4, 11, 20])
    assert lattice_step(np.repeat(holes, 2), 2.0, 5.0, 200.0) == pytest.approx(2 * np.pi / 0.1, rel=1e-4)
    assert lattice_step(x, 2.0, 5.0, 50.0) is None  # beyond what was searched


def test_points_off_a_lattice_have_no_step(rng):
    assert lattice_step(rng.random(64), 0.0, 1.0, 3000.0) is None
    jittered = np.linspace(0, 1, 64) + 3e-3 * rng.standard_normal(64)
    assert lattice_step(jittered, 0.0, 1.0, 600.0) is None
    assert lattice_step(np.array([0.0, 1.0]), 0.0, 1.0, 100.0) is None  # two points are always a lattice
