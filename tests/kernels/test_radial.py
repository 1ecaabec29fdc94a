"""Kernels of the distance: closed forms, scikit-learn, spectra, mixtures of Gaussians."""

import numpy as np
import pytest
import torch
from scipy.special import gamma, roots_genlaguerre
from sklearn.gaussian_process import kernels as sklearn_kernels
from sklearn.metrics.pairwise import rbf_kernel

from sciml.exceptions import InvalidInputError
from sciml.kernels import (
    Gaussian,
    InverseMultiquadric,
    Matern,
    Matern12,
    Matern32,
    Matern52,
    RationalQuadratic,
)
from sciml.linalg import kernel_logsumexp

R3, R5 = np.sqrt(3.0), np.sqrt(5.0)
CLOSED = {
    "gaussian": (Gaussian, lambda r: np.exp(-(r**2) / 2)),
    "matern12": (Matern12, lambda r: np.exp(-r)),
    "matern32": (Matern32, lambda r: (1 + R3 * r) * np.exp(-R3 * r)),
    "matern52": (Matern52, lambda r: (1 + R5 * r + 5 * r**2 / 3) * np.exp(-R5 * r)),
    "rational quadratic": (RationalQuadratic, lambda r: 1 / (1 + r**2 / 2)),
    "inverse multiquadric": (InverseMultiquadric, lambda r: 1 / np.sqrt(1 + r**2)),
}


def distance(y, x, length):
    return np.sqrt((((y[:, None] - x[None]) / length) ** 2).sum(-1))


@pytest.mark.parametrize("length", [0.4, [0.4], [0.3, 1.0, 2.5], np.float32(0.5), torch.tensor(0.4)])
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name, length, rng):
    make, truth = CLOSED[name]
    y, x = rng.standard_normal((8, 3)), rng.standard_normal((9, 3))
    x[0] = y[0]
    # An exponent of 30 carries 30 eps.
    np.testing.assert_allclose(make(length)(y, x), truth(distance(y, x, np.asarray(length, float))), rtol=2e-14)


@pytest.mark.parametrize("d", [1, 2, 16, 17, 40])
@pytest.mark.parametrize("name", CLOSED)
def test_many_coordinates(name, d, rng):
    # Beyond 16 coordinates distances may come by a matrix product, which must not show.
    make, truth = CLOSED[name]
    y, x = rng.standard_normal((30, d)), rng.standard_normal((20, d))
    x[:5] = y[:5]
    for length in (0.5 * np.sqrt(d), np.linspace(0.5, 1.5, d) * np.sqrt(d)):
        for kernel, scale in ((make(length), 1.0), (3.0 * make(length), 3.0)):
            got, wanted = kernel(y, x), scale * truth(distance(y, x, length))
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
            short = kernel(y.astype(np.float32), x.astype(np.float32))
            near = scale * truth(
                distance(y.astype(np.float32).astype(float), x.astype(np.float32).astype(float), length)
            )
            np.testing.assert_allclose(short, near, rtol=1.5e-5)


@pytest.mark.parametrize("d", [3, 24])
def test_scikit_learn_agrees(d, rng):
    y, x, length = rng.standard_normal((12, d)), rng.standard_normal((9, d)), np.linspace(1, 2, d)
    for mine, theirs in [
        (Gaussian(length), sklearn_kernels.RBF(length)),
        (Matern12(length), sklearn_kernels.Matern(length, nu=0.5)),
        (Matern32(length), sklearn_kernels.Matern(length, nu=1.5)),
        (Matern52(length), sklearn_kernels.Matern(length, nu=2.5)),
        (RationalQuadratic(1.3, alpha=0.7), sklearn_kernels.RationalQuadratic(1.3, alpha=0.7)),
        (2 * Gaussian(0.9) + RationalQuadratic(), 2 * sklearn_kernels.RBF(0.9) + sklearn_kernels.RationalQuadratic()),
    ]:
        np.testing.assert_allclose(mine(y, x), theirs(y, x), rtol=1e-12, err_msg=repr(mine))
    np.testing.assert_allclose(Gaussian(0.8)(y, x), rbf_kernel(y, x, gamma=1 / (2 * 0.8**2)), rtol=1e-12)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_the_spectrum_of_matern_is_a_power_of_a_lorentzian(nu):
    # The trapezoidal rule on |r| <= 60 is off by h^2 / 12 times the jump of the slope at zero.
    length, h = 0.7, 1e-3
    r = h * np.arange(60_000)
    k = Matern(length, nu)(r[:, None], [[0.0]])[:, 0]
    k[0] /= 2
    for f in (0.0, 0.1, 0.5, 1.0):
        found = 2 * h * np.sum(k * np.cos(2 * np.pi * f * r))
        density = 2 * np.sqrt(np.pi) * gamma(nu + 0.5) * (2 * nu) ** nu / (gamma(nu) * length ** (2 * nu))
        density *= (2 * nu / length**2 + 4 * np.pi**2 * f**2) ** (-nu - 0.5)
        np.testing.assert_allclose(found, density, atol=1e-6)


def test_the_spectrum_of_a_gaussian_is_gaussian():
    # The trapezoidal rule converges at once for an analytic function: 1e-14 is rounding.
    length, h = 0.7, 0.05
    r = h * np.arange(-200, 201)
    k = Gaussian(length)(r[:, None], [[0.0]])[:, 0]
    for f in (0.0, 0.1, 0.5):
        found = h * np.sum(k * np.cos(2 * np.pi * f * r))
        np.testing.assert_allclose(
            found, length * np.sqrt(2 * np.pi) * np.exp(-2 * (np.pi * length * f) ** 2), atol=1e-14
        )


@pytest.mark.parametrize(("power", "kernel"), [(0.5, "imq"), (2.5, "rq")])
def test_mixtures_of_gaussians_over_widths(power, kernel, rng):
    # (1 + q)^-a = 1 / Gamma(a) * integral of t^(a-1) exp(-t) exp(-t q); Gauss-Laguerre is exact to 1e-13 for small q.
    y, x = rng.uniform(-0.3, 0.3, (2, 6, 2))
    t, w = roots_genlaguerre(40, power - 1)
    q = distance(y, x, 1.0) ** 2 if kernel == "imq" else distance(y, x, 1.0) ** 2 / (2 * power)
    wanted = (w * np.exp(-q[..., None] * t)).sum(-1) / gamma(power)
    found = (InverseMultiquadric() if kernel == "imq" else RationalQuadratic(alpha=power))(y, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-14), (np.float32, 1e-6)])
def test_a_rational_quadratic_of_large_power_is_gaussian_to_the_last_digit(dtype, rtol):
    # log(1 + q / (2 alpha)) loses log10(alpha) digits if the sum is rounded first.
    r = np.linspace(0, 3, 20, dtype=dtype)[:, None]
    wanted = np.exp(-1e4 * np.log1p(r.astype(float)[:, 0] ** 2 / 2e4))
    np.testing.assert_allclose(RationalQuadratic(alpha=1e4)(r, np.zeros((1, 1), dtype))[:, 0], wanted, rtol=rtol)


@pytest.mark.parametrize("name", CLOSED)
def test_logarithms_reach_far_beyond_the_underflow(name):
    make, truth = CLOSED[name]
    logs = {
        "gaussian": lambda r: -(r**2) / 2,
        "matern12": lambda r: -r,
        "matern32": lambda r: np.log1p(R3 * r) - R3 * r,
        "matern52": lambda r: np.log1p(R5 * r + 5 * r**2 / 3) - R5 * r,
        "rational quadratic": lambda r: -np.log1p(r**2 / 2),
        "inverse multiquadric": lambda r: -np.log1p(r**2) / 2,
    }
    for r in (0.0, 1e-9, 0.5, 30.0, 1e4):
        got = kernel_logsumexp([[r]], [[0.0]], kernel_log=make(1.0))
        np.testing.assert_allclose(got, [logs[name](r)], rtol=1e-13, atol=1e-16, err_msg=str(r))


@pytest.mark.parametrize("name", CLOSED)
def test_large_distances_give_zero_and_no_nan(name):
    make, _ = CLOSED[name]
    for dtype, r in ((np.float32, 1e18), (np.float64, 1e150)):
        y = torch.tensor([[r]], dtype=getattr(torch, np.dtype(dtype).name), requires_grad=True)
        value = make(1.0)(y, torch.zeros((1, 1), dtype=y.dtype))
        value.sum().backward()
        assert 0 <= float(value.detach()) < 1e-17
        assert torch.isfinite(y.grad).all()


def test_slopes_of_matern_are_those_of_the_formulas():
    # -3 r exp(-a) / l^2 and -(5/3) r (1 + a) exp(-a) / l^2: without a division by |r|, so exact at zero.
    length = 0.8
    y = torch.tensor([[0.0], [1e-160], [1e-8], [0.3], [-2.0]], dtype=torch.float64, requires_grad=True)
    r = y.detach().numpy()[:, 0]
    for make, c in ((Matern32, R3), (Matern52, R5)):
        (slope,) = torch.autograd.grad(make(length)(y, torch.zeros((1, 1), dtype=y.dtype)).sum(), y)
        a = c * abs(r) / length
        wanted = -3 * r * np.exp(-a) / length**2 if c == R3 else -5 / 3 * r * (1 + a) * np.exp(-a) / length**2
        np.testing.assert_allclose(slope[:, 0], wanted, rtol=1e-14)


@pytest.mark.parametrize(("make", "second"), [(Gaussian, -1.0), (Matern52, -5 / 3), (RationalQuadratic, -1.0)])
def test_second_derivatives_at_zero_are_those_of_the_series(make, second):
    y = torch.zeros((1, 1), dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(make(2.0)(y, torch.zeros_like(y)).sum(), y, create_graph=True)
    (found,) = torch.autograd.grad(first.sum(), y)
    np.testing.assert_allclose(found, [[second / 4]], rtol=1e-14)


def test_the_three_maternes_are_one():
    r = np.linspace(0, 3, 7)[:, None]
    for nu, short in ((0.5, Matern12), (1.5, Matern32), (2.5, Matern52)):
        np.testing.assert_array_equal(Matern(0.7, nu)(r), short(0.7)(r))
        assert f"nu={nu}" in repr(Matern(0.7, nu))


@pytest.mark.parametrize("nu", [0, 1.0, 3.5, None, "5/2", np.array([0.5, 1.5]), np.nan])
def test_other_smoothness_is_refused(nu):
    with pytest.raises(InvalidInputError, match="nu must be 0.5, 1.5 or 2.5; got .*use Gaussian"):
        Matern(1.0, nu=nu)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("length", [0.0, -1.0, np.nan, np.inf, [1.0, 0.0], "1", None, [[1.0]]])
def test_lengths_that_are_none_are_refused(name, length):
    with pytest.raises(InvalidInputError, match="lengthscale must be"):
        CLOSED[name][0](length)


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.inf, [1.0, 2.0]])
def test_powers_that_are_none_are_refused(alpha):
    with pytest.raises(InvalidInputError, match="alpha must be"):
        RationalQuadratic(alpha=alpha)
