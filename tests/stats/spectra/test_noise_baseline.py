"""The mean and the spread of the exponent of noise, against exact cases and fresh simulations."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import chi2, kstest

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.marchenko_pastur import mp_alpha
from sciml.stats.spectra.noise_baseline import null_alpha, null_std
from sciml.stats.spectra.power_law import hill
from sciml.stats.spectra.real_wishart import wishart_density


def spectra(count, m, n, rng):
    """Return the eigenvalues of W W^T for many Gaussian windows, shape (count, m)."""
    X = rng.standard_normal((count, m, n))
    return np.linalg.eigvalsh(X @ X.swapaxes(1, 2))


def exponents(pools, q=0.5):
    """Return the half-Hill exponent of each row."""
    pools = np.sort(pools, axis=1)
    i = int(q * pools.shape[1])
    logs = np.log(pools[:, i:])
    return 1 + logs.shape[1] / (logs - logs[:, :1]).sum(1)


# ---------------------------------------------------------------- the density


def test_density_of_one_row_is_chi():
    density = wishart_density(1, 5)
    inside = density.nodes > 0.1
    truth = chi2(5).pdf(density.nodes**2) * 2 * density.nodes
    assert_allclose(density.values[inside], truth[inside], rtol=0, atol=1e-12)
    median = chi2(5).median()
    mean = quad(lambda x: np.log(x / median) * chi2(5).pdf(x), median, np.inf, epsabs=1e-13)[0]
    assert density.upper_log_mean(0.5) == pytest.approx(mean, abs=1e-11)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (7, 9), (20, 20), (33, 80), (64, 1024)])
def test_density_has_the_moments_of_traces(m, n):
    density = wishart_density(m, n)
    x, mass = density.nodes**2, density.weights * density.values
    assert mass.sum() == pytest.approx(m, rel=1e-10)
    assert (mass * x).sum() == pytest.approx(m * n, rel=1e-10)
    assert (mass * x**2).sum() == pytest.approx(m * n * (m + n + 1), rel=1e-10)  # E tr (W W^T)^2
    assert density.values.min() > -1e-10


# ---------------------------------------------------------------- the mean


@pytest.mark.parametrize(
    ("m", "n", "q", "count"), [(2, 8, 0.5, 20000), (8, 8, 0.25, 8000), (9, 18, 0.5, 8000), (16, 64, 0.75, 3000)]
)
def test_mean_is_that_of_fresh_windows(m, n, q, count):
    rng = np.random.default_rng(0)
    groups = spectra(count, m, n, rng).reshape(10, -1)
    found = exponents(groups, q)
    error = found.std(ddof=1) / np.sqrt(len(found))
    # Pools of hundreds of windows: what a finite pool adds is far below the error.
    assert found.mean() == pytest.approx(null_alpha(m, n, q), abs=4 * error)
    assert error < 0.01 * (found.mean() - 1)


@pytest.mark.parametrize("n_windows", [1, 2, 9])
def test_mean_of_few_windows(n_windows):
    found = exponents(spectra(3600, 16, 24, np.random.default_rng(1)).reshape(-1, 16 * n_windows))
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert found.mean() == pytest.approx(null_alpha(16, 24, n_windows=n_windows), abs=4 * error)
    assert null_alpha(16, 24, n_windows=n_windows) > null_alpha(16, 24)


@pytest.mark.parametrize(("gamma", "q"), [(1.0, 0.5), (0.8, 0.25), (1 / 16, 0.5), (0.5, 0.75)])
def test_mean_of_large_windows_continues_that_of_small_ones(gamma, q):
    """Up to 64 the density itself, beyond it an expansion: the two agree where both can be had."""
    m = 80
    n = m / gamma
    exact = 1 + (1 - q) / wishart_density(m, n).upper_log_mean(q)
    assert null_alpha(m, int(n), q) == pytest.approx(exact, abs=1e-5)


def test_mean_tends_to_the_limit_as_one_over_the_size():
    sizes = np.array([8, 32, 128, 512, 2048])
    for ratio in (1, 4):
        gaps = np.array([mp_alpha(1 / ratio) - null_alpha(m, ratio * m) for m in sizes]) * sizes
        assert (np.diff(gaps) > 0).all()
        assert_allclose(gaps[3:], gaps[-1], rtol=0.002)
    assert null_alpha(128, 128) == pytest.approx(2.1217 - 0.0045, abs=2e-4)


def test_mean_does_not_depend_on_orientation():
    assert null_alpha(24, 100, 0.4) == null_alpha(100, 24, 0.4)
    assert isinstance(null_alpha(24, 100), float)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 8), "height must be an integer at least 1; got 0"),
        ((8, 8.5), "width must be an integer"),
        ((8, 8, 1.0), "q must be a number above 0 and below 1"),
        ((8, 8, 0.5, 0), "n_windows must be an integer at least 1"),
    ],
)
def test_mean_refuses_bad_sizes(arguments, text):
    with pytest.raises(InvalidInputError, match=text):
        null_alpha(*arguments)


# ---------------------------------------------------------------- the spread


def cut(W, height, width, repeats, rng):
    """Return the pooled eigenvalues of a matrix cut anew several times."""
    down, across = W.shape[0] // height, W.shape[1] // width
    pool = []
    for _ in range(repeats):
        V = W[rng.permutation(len(W))][:, rng.permutation(W.shape[1])][: down * height, : across * width]
        tiles = V.reshape(down, height, across, width).swapaxes(1, 2).reshape(-1, height, width)
        pool.append(np.linalg.eigvalsh(tiles @ tiles.swapaxes(1, 2)).ravel())
    return np.concatenate(pool)


@pytest.mark.parametrize(
    ("shape", "window", "repeats", "count"),
    [((32, 64), (16, 16), 1, 1500), ((32, 32), (16, 16), 6, 500), ((40, 40), (32, 32), 4, 400)],
)
def test_spread_is_that_of_fresh_matrices(shape, window, repeats, count):
    rng = np.random.default_rng(4)
    found = [exponents(cut(rng.standard_normal(shape), *window, repeats, rng)[None])[0] for _ in range(count)]
    # 5 % of the formula and two standard errors of the simulation.
    tolerance = 0.05 + 2 / np.sqrt(2 * count)
    assert null_std(*shape, *window, repeats) == pytest.approx(np.std(found), rel=tolerance)


def test_score_of_noise_is_standard_normal():
    rng = np.random.default_rng(5)
    scores = []
    for shape, window in (((32, 96), (16, 16)), ((48, 48), (24, 24)), ((64, 40), (20, 20)), ((60, 60), (16, 32))):
        down, across = shape[0] // window[0], shape[1] // window[1]
        mean = null_alpha(*window, n_windows=2 * down * across)
        for _ in range(75):
            alpha = exponents(cut(rng.standard_normal(shape), *window, 2, rng)[None])[0]
            scores.append((mean - alpha) / null_std(*shape, *window, 2))
    assert kstest(scores, "norm").pvalue > 0.01
    assert abs(np.mean(scores)) < 4 / np.sqrt(300)


def test_spread_follows_its_laws():
    one = null_std(64, 64, 32, 32)
    assert null_std(64, 128, 32, 32) == pytest.approx(one / 2**0.5, rel=0.02)  # twice the windows
    assert null_std(64, 64, 32, 32, n_matrices=4) == pytest.approx(one / 2, rel=1e-12)
    assert null_std(64, 64, 32, 32, n_windows=4) == one
    assert null_std(64, 64, 32, 32, n_windows=1) == pytest.approx(2 * one, rel=0.1)  # no count to round
    # Repeats help, less and less: what all cuts of a matrix have in common remains.
    many = [null_std(64, 64, 32, 32, r) for r in (1, 4, 16, 10**6)]
    assert np.all(np.diff(many) < 0)
    assert 0.5 * many[0] < many[1] < 0.6 * many[0]
    assert many[3] > 0.1 * many[0]
    # Linear statistics: one over the size, but for a logarithm.
    assert 1.8 < null_std(256, 256, 128, 128) / null_std(512, 512, 256, 256) < 2


def test_spread_refuses_windows_that_do_not_fit():
    with pytest.raises(InvalidInputError, match="height and width must be at most the 32 rows .* got 64 and 16"):
        null_std(32, 32, 64, 16)
    with pytest.raises(InvalidInputError, match="n_windows must be an integer at least 1 and at most 4; got 5"):
        null_std(32, 32, 16, 16, n_windows=5)


# ---------------------------------------------------------------- complex entries


def test_complex_noise_has_half_the_variance_and_no_first_correction():
    rng = np.random.default_rng(6)
    X = (rng.standard_normal((6000, 12, 18)) + 1j * rng.standard_normal((6000, 12, 18))) / 2**0.5
    lam = np.linalg.eigvalsh(X @ X.conj().swapaxes(1, 2))
    found = exponents(lam.reshape(20, -1))
    assert found.mean() == pytest.approx(null_alpha(12, 18, is_complex=True), abs=4 * found.std() / 20**0.5)
    pools = exponents(lam.reshape(-1, 16 * 12))
    mean = null_alpha(12, 18, n_windows=16, is_complex=True)
    assert pools.mean() == pytest.approx(mean, abs=4 * pools.std() / len(pools) ** 0.5)
    # 5 % of the formula and two standard errors.
    wanted = null_std(12, 16 * 18, 12, 18, is_complex=True)
    assert pools.std() == pytest.approx(wanted, rel=0.05 + 2 / np.sqrt(2 * len(pools)))
    gaps = [null_alpha(m, 2 * m, is_complex=True) - mp_alpha(0.5) for m in (16, 64, 256)]
    assert_allclose(np.array(gaps) * np.array([16, 64, 256]) ** 2, gaps[1] * 64**2, rtol=0.08)
    ratio = null_std(128, 128, 64, 64, is_complex=True) / null_std(128, 128, 64, 64)
    assert 0.65 < ratio < 0.8


def test_complex_density_of_one_row_is_gamma():
    density = wishart_density(1, 5, True)
    truth = chi2(10).pdf(2 * density.nodes**2) * 4 * density.nodes
    inside = density.nodes > 0.1
    assert_allclose(density.values[inside], truth[inside], rtol=0, atol=1e-12)


def test_flat_entries_have_a_larger_exponent(rng):
    draws = rng.uniform(-1, 1, (900, 32, 32))
    lam = np.linalg.eigvalsh(draws @ draws.transpose(0, 2, 1)).reshape(30, -1)
    found = np.array([hill(values) for values in lam])  # thirty pools of thirty windows
    error = found.std() / math.sqrt(30)
    assert abs(found.mean() - null_alpha(32, 32, n_windows=30, kurtosis=-1.2)) < 4 * error
    assert found.mean() - null_alpha(32, 32, n_windows=30) > 4 * error
    with pytest.raises(InvalidInputError, match="kurtosis must be a number at least -2 and at most 0; got 3"):
        null_alpha(32, 32, kurtosis=3)
