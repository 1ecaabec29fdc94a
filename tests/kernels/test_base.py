"""What kernels have in common: algebra, parameters, repr, the dense matrix and its diagonal."""

import pickle

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError, MemoryBudgetError
from sciml.kernels import (
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Matern12,
    Matern32,
    Matern52,
    Radial,
    RationalQuadratic,
    SpectralMixture,
)
from sciml.kernels.base import positive, power_of_two
from sciml.linalg import kernel_logsumexp, kernel_sum

ALL = {
    "gaussian": Gaussian(0.7),
    "gaussian, a length for each coordinate": Gaussian([0.7, 1.9]),
    "matern12": Matern12(1.3),
    "matern32": Matern32([0.5, 2.0]),
    "matern52": Matern52(0.9),
    "laplace": Laplace([0.8, 1.1]),
    "rational quadratic": RationalQuadratic(0.8, alpha=1.7),
    "inverse multiquadric": InverseMultiquadric(1.2),
    "mixture": SpectralMixture([1.0, 0.5], [[0.3, 0.1], [0.0, 1.0]], [[0.5, 0.4], [1.0, 0.0]]),
    "matern mixture": SpectralMixture([1.0, 0.5], [[0.3, 0.1], [0.0, 1.0]], [[0.5, 0.4], [1.0, 0.0]], "matern"),
    "sum": Gaussian(0.7) + 2.0 * Matern12(1.3),
    "product": Gaussian(0.7) * (Laplace(1.0) + Matern52(2.0)),
    "multiple": 3.5 * Matern32(1.1),
}


@pytest.fixture(params=ALL)
def kernel(request):
    """One kernel after the other, all for points in the plane."""
    return ALL[request.param]


# ---------------------------------------------------------------- the matrix


def test_matrices_are_symmetric_and_positive_definite(kernel, rng):
    x = rng.uniform(-2, 2, (60, 2))
    K = kernel(x)
    np.testing.assert_array_equal(K, K.T)
    # Rounding moves an eigenvalue by n eps times the largest.
    assert np.linalg.eigvalsh(K).min() > -60 * 2.3e-16 * np.linalg.eigvalsh(K).max()


def test_the_diagonal_is_that_of_the_matrix(kernel, rng):
    x = rng.standard_normal((9, 2))
    np.testing.assert_array_equal(kernel.diag(x), np.diag(kernel(x)))


def test_values_depend_on_differences_alone(kernel, rng):
    y, x = rng.integers(-50, 50, (2, 8, 2)) / 16
    np.testing.assert_array_equal(kernel(y + 1024.0, x + 1024.0), kernel(y, x))


def test_one_column_of_points_is_one_column_of_the_matrix(kernel, rng):
    y, x = rng.standard_normal((5, 2)), rng.standard_normal((7, 2))
    K = kernel(y, x)
    np.testing.assert_array_equal(np.hstack([kernel(y, x[j : j + 1]) for j in range(7)]), K)


def test_kind_and_dtype_stay(kernel, backend, rng):
    x = rng.standard_normal((4, 2))
    wide, narrow = kernel(backend.array(x)), kernel(backend.array(x, dtype=np.float32))
    assert backend.numpy(wide).dtype == np.float64
    assert backend.numpy(narrow).dtype == np.float32
    # Coordinates of 1 in float32 are off by 6e-8, and kernels here change by at most 7 a unit length.
    np.testing.assert_allclose(backend.numpy(narrow), backend.numpy(wide), atol=2e-6)


def test_batches_of_points_give_batches_of_matrices(rng):
    x = rng.standard_normal((3, 1, 5, 2))
    K = Gaussian(0.5)(x, rng.standard_normal((4, 6, 2)))
    assert K.shape == (3, 4, 5, 6)
    np.testing.assert_array_equal(Gaussian(0.5)(x[1, 0]), Gaussian(0.5)(x)[1, 0])
    assert Gaussian(0.5).diag(x).shape == (3, 1, 5)


@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0), (0, 0)])
def test_no_points_give_an_empty_matrix(kernel, m, n):
    assert kernel(np.zeros((m, 2)), np.zeros((n, 2))).shape == (m, n)


def test_a_matrix_beyond_the_budget_is_refused_before_it_is_formed(monkeypatch):
    monkeypatch.setenv("SCIML_MEMORY", "1MiB")
    with pytest.raises(MemoryBudgetError, match=r"a kernel matrix of 1000 x 1000 takes 7.63 MiB.*kernel_sum") as caught:
        Gaussian()(np.zeros((1000, 2)))
    assert (caught.value.needed, caught.value.allowed) == (8_000_000, 2**20)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (np.zeros(3), r"y must be points of shape \(n, d\); got shape \(3,\)"),
        (np.full((2, 2), np.nan), r"y must be finite; the entry at index \(0, 0\) is nan"),
        (np.full((2, 2), 1j), "y must be real; got dtype torch.complex128"),
        (np.zeros((2, 0)), "at least one coordinate"),
        ([["a"]], "y must hold numbers"),
    ],
)
def test_points_that_are_none_are_refused(points, words):
    with pytest.raises(InvalidInputError, match=words):
        Gaussian()(points)


def test_points_of_unequal_width_are_refused():
    with pytest.raises(InvalidInputError, match=r"equally many coordinates; got shapes \(2, 3\) and \(2, 2\)"):
        Gaussian()(np.zeros((2, 3)), np.zeros((2, 2)))


def test_the_diagonal_of_points_on_a_bare_line_is_refused():
    with pytest.raises(InvalidInputError, match=r"got shape \(4,\). Pass x\[:, None\]"):
        Gaussian().diag(np.zeros(4))


def test_lengths_that_do_not_fit_the_points_are_refused():
    with pytest.raises(InvalidInputError, match=r"one for each of the 2 coordinates; got shape \(3,\). Give 2 numbers"):
        Gaussian([1.0, 2.0, 3.0])(np.zeros((4, 2)))
    with pytest.raises(InvalidInputError, match=r"lengthscale of Laplace"):
        (2 * (Gaussian() + Laplace([1.0, 2.0, 3.0])))(np.zeros((4, 2)))


# ---------------------------------------------------------------- algebra


def test_sums_products_and_multiples_are_those_of_matrices(rng):
    y, x = rng.standard_normal((6, 2)), rng.standard_normal((5, 2))
    a, b, c = Gaussian(0.7), Laplace([0.8, 1.1]), SpectralMixture([1.0], [[0.3, 0.1]], [[0.5, 0.4]])
    A, B, C = a(y, x), b(y, x), c(y, x)
    for kernel, wanted in [
        (a + b, A + B),
        (a * b, A * B),
        (2.5 * a, 2.5 * A),
        (a * np.float64(2.5), 2.5 * A),
        (np.float64(2.5) * a, 2.5 * A),
        (torch.tensor(2.5) * a, 2.5 * A),
        (np.array([2.5]) * a, 2.5 * A),
        (2 * (a + 3 * b) * c, 2 * (A + 3 * B) * C),
        (2 * (3 * a), 6 * A),
        (a + a + a, 3 * A),
        (a * a, A**2),
    ]:
        np.testing.assert_allclose(kernel(y, x), wanted, rtol=1e-14, err_msg=repr(kernel))


@pytest.mark.parametrize("other", [1, 2.0, "rbf", None, np.ones(2)])
def test_only_kernels_are_added(other):
    with pytest.raises(TypeError, match="unsupported operand|does not support"):
        Gaussian() + other


@pytest.mark.parametrize("number", [0, -1.0, np.nan, np.inf, 0.0 * torch.ones(())])
def test_a_multiple_by_what_is_not_positive_is_refused(number):
    with pytest.raises(InvalidInputError, match="variance must be positive and finite; got"):
        number * Gaussian()


def test_a_multiple_by_several_numbers_is_refused():
    with pytest.raises(InvalidInputError, match=r"variance must be .*got shape \(2,\)"):
        np.array([1.0, 2.0]) * Gaussian()


def test_logarithms_of_sums_keep_the_smaller_exponent_when_both_are_huge():
    # The exponents are -2e10 and -200, and float32 knows no number between them that both could be measured from.
    for k in (Gaussian(1.0) + Gaussian(1e4), Gaussian(1e4) + Gaussian(1.0)):
        got = kernel_logsumexp(np.float32([[0]]), np.float32([[2e5]]), kernel_log=k)
        np.testing.assert_allclose(got, [-200.0], rtol=1e-6)


def test_logarithms_of_sums_products_and_multiples(rng):
    y, x = rng.standard_normal((6, 2)), rng.standard_normal((5, 2))
    for k in (Gaussian(0.7) + 2 * Laplace(0.3), 2 * (Matern32(0.4) * Matern12(2.0)), Gaussian(1.0) * Gaussian(1.0)):
        wanted = np.log(k(y, x).sum(1))
        np.testing.assert_allclose(kernel_logsumexp(y, x, kernel_log=k), wanted, rtol=1e-13, err_msg=repr(k))


def test_a_kernel_with_negative_values_has_no_logarithm():
    mixture = SpectralMixture([1.0], [0.5], [0.1])
    for kernel in (mixture, 2 * mixture, mixture + Gaussian(), mixture * Gaussian()):
        with pytest.raises(InvalidInputError, match="kernel_log must be positive everywhere.*SpectralMixture is not"):
            kernel_logsumexp([[0.0]], [[1.0]], kernel_log=kernel)


# ---------------------------------------------------------------- repr and parameters


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        (Gaussian(0.5), "Gaussian(lengthscale=0.5)"),
        (Gaussian([0.5, 2]), "Gaussian(lengthscale=[0.5 2. ])"),
        (RationalQuadratic(1.0, alpha=3), "RationalQuadratic(lengthscale=1, alpha=3)"),
        (2 * Gaussian(torch.tensor(0.5, requires_grad=True)), "2 * Gaussian(lengthscale=0.5)"),
        (2 * (Gaussian() + Laplace()), "2 * (Gaussian(lengthscale=1) + Laplace(lengthscale=1))"),
        ((Gaussian() + Laplace()) * Gaussian(), "(Gaussian(lengthscale=1) + Laplace(lengthscale=1)) * Gaussian(length"),
        (SpectralMixture([1.0], [0.5], [0.1], "matern"), "bandwidths=[0.1], envelope='matern')"),
    ],
)
def test_the_repr_says_what_the_kernel_is(kernel, text):
    assert text in repr(kernel)


def test_parameters_are_named_and_tensors_stay_themselves():
    length, variance = torch.tensor(0.5, requires_grad=True), torch.tensor(2.0)
    k = variance * Gaussian(length) + Laplace([1.0, 2.0])
    found = k.parameters
    assert list(found) == ["first.variance", "first.kernel.lengthscale", "second.lengthscale"]
    assert found["first.kernel.lengthscale"] is length
    assert found["first.variance"] is variance
    assert found["second.lengthscale"].dtype == torch.float64
    assert found["second.lengthscale"].tolist() == [1.0, 2.0]


def test_gradients_reach_every_parameter(rng):
    y, x = (torch.from_numpy(rng.standard_normal((n, 2))) for n in (4, 3))

    def leaf(*values):
        return torch.tensor(values, dtype=torch.float64, requires_grad=True)

    length, alpha, variance, w, f, rho = leaf(0.5, 1.5), leaf(1.2), leaf(2.0), leaf(1.0, 0.5), leaf(0.2), leaf(0.7)

    def matrix(length, alpha, variance, w, f, rho):
        mixture = SpectralMixture(w, torch.stack([f, 2 * f]).expand(2, 2), rho.expand(2, 2))
        return (variance * RationalQuadratic(length, alpha) * mixture + Matern32(length))(y, x)

    given = (length, alpha, variance, w, f, rho)
    assert torch.autograd.gradcheck(matrix, given)
    assert torch.autograd.gradgradcheck(matrix, given)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("mixture", "matern mixture")])
def test_derivatives_in_the_points_where_they_coincide(name, rng):
    # At r = 0 the kernels with a kink have the derivative zero by convention, others have it by nature.
    k = ALL[name]
    x = torch.from_numpy(rng.standard_normal((3, 2))).requires_grad_()
    (gradient,) = torch.autograd.grad(k(x, x.detach()).diagonal().sum(), x, create_graph=True)
    np.testing.assert_array_equal(gradient.detach(), np.zeros((3, 2)))
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert torch.isfinite(second).all()


def test_points_pass_gradcheck_at_ordinary_and_smooth_coincident_points(rng):
    y = torch.from_numpy(rng.standard_normal((3, 2))).requires_grad_()
    apart = torch.from_numpy(rng.standard_normal((2, 2)))
    together = y.detach().clone()[:2].requires_grad_()
    for k in ALL.values():
        assert torch.autograd.gradcheck(k, (y, apart))
        assert torch.autograd.gradgradcheck(k, (y, apart))
    for k in (Gaussian(0.7), Matern52(0.9), RationalQuadratic(0.8), InverseMultiquadric(1.1), ALL["matern mixture"]):
        assert torch.autograd.gradcheck(k, (y, together))
        # Second derivatives of Matern 5/2 exist at zero, but their difference quotients of 1e-6 see the cubic kink.
        assert torch.autograd.gradgradcheck(k, (y, together), atol=1e-4)


# ---------------------------------------------------------------- units


@pytest.mark.parametrize(("dtype", "k"), [("float64", -80), ("float64", 80), ("float32", -30), ("float32", 30)])
def test_units_do_not_matter(dtype, k, rng):
    y, x = rng.standard_normal((9, 2)).astype(dtype), rng.standard_normal((8, 2)).astype(dtype)
    s = 2.0**k

    def kernels(s):
        yield Gaussian(0.7 * s)
        yield Gaussian([0.7 * s, 1.9 * s])
        yield Matern12(1.3 * s)
        yield Matern32([0.5 * s, 2.0 * s])
        yield Matern52(torch.tensor(0.9 * s, dtype=torch.float64))
        yield Laplace([0.8 * s, 1.1 * s])
        yield RationalQuadratic(0.8 * s, alpha=1.7)
        yield InverseMultiquadric(1.2 * s)
        yield SpectralMixture([1.0, 0.5], np.array([[0.3, 0.1], [0, 1]]) / s, np.array([[0.5, 0.4], [1, 0]]) / s)
        yield SpectralMixture([1.0], np.array([[0.3, 0.1]]) / s, np.array([[0.5, 0.4]]) / s, "matern")
        yield 3 * Gaussian(0.7 * s) + Laplace(1.3 * s) * Matern12(0.1 * s)

    for one, scaled in zip(kernels(1.0), kernels(s), strict=True):
        np.testing.assert_array_equal(scaled(y * y.dtype.type(s), x * x.dtype.type(s)), one(y, x), err_msg=repr(one))


@pytest.mark.parametrize("length", [1e-300, 1e-50, 1e50, 1e300])
def test_the_whole_range_of_lengths_is_open(length):
    np.testing.assert_allclose(Gaussian(length)([[0.0]], [[length]]), [[np.exp(-0.5)]], rtol=1e-15)


# ---------------------------------------------------------------- kernels made elsewhere


class Cosine(Kernel):
    """One dimension, one frequency, which is no parameter."""

    def __init__(self, frequency):
        super().__init__()
        self.frequency = frequency

    def _prepared(self, unit):
        return []

    def _pair(self, y, x):
        return ((y - x) * self.frequency).sum(-1).cos()


class Shadow(Radial):
    """A radial kernel made elsewhere."""

    def _profile(self, q):
        return 1 / (1 + q)


Shadow.__name__ = "Gaussian"  # a second kernel of a name that the library has, too


@pytest.mark.parametrize("engine", ["dense", "eager", "compiled"])
def test_kernels_made_elsewhere_are_not_taken_for_one_another(engine, rng):
    y, x, b = rng.standard_normal((4, 1)), rng.standard_normal((5, 1)), rng.standard_normal(5)
    r = y - x.T
    pairs = [
        (Cosine(1.0), np.cos(r)),
        (Cosine(3.0), np.cos(3 * r)),
        (Gaussian(), np.exp(-(r**2) / 2)),
        (Shadow(), 1 / (1 + r**2)),
    ]
    if engine != "compiled":  # four tiles are enough
        pairs += [
            (2 * Cosine(2.0) + Gaussian(), 2 * np.cos(2 * r) + np.exp(-(r**2) / 2)),
            (2 * Cosine(3.0) + Gaussian(), 2 * np.cos(3 * r) + np.exp(-(r**2) / 2)),
        ]
    for kernel, truth in pairs:
        np.testing.assert_allclose(kernel_sum(y, x, b, kernel=kernel, engine=engine), truth @ b, rtol=1e-13)


def test_kernels_are_pickled(kernel, rng):
    x = rng.standard_normal((4, 2))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(kernel))(x), kernel(x))


# ---------------------------------------------------------------- helpers


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "length must be positive and finite; got 0.0"),
        ([1.0, -2.0], "length must be positive and finite; got -2.0"),
        (np.nan, "got nan"),
        ("long", "got 'long' of type str"),
        ([], r"a number or a vector; got shape \(0,\)"),
        (np.ones((2, 2)), r"a number or a vector; got shape \(2, 2\)"),
        (torch.tensor([1.0, -3.0]), "got -3.0"),
    ],
)
def test_what_is_not_positive_is_refused(value, words):
    with pytest.raises(InvalidInputError, match=words):
        positive("length", value)


def test_zero_may_be_allowed():
    assert positive("weight", 0, zero=True) == 0.0
    with pytest.raises(InvalidInputError, match="weight must be at least 0 and finite; got -1.0"):
        positive("weight", -1, zero=True)


@pytest.mark.parametrize(("lengths", "power"), [(1.0, 1.0), (1.999, 1.0), ([3.0, 0.3], 0.25), (1e-310, 2.0**-1030)])
def test_the_power_of_two_at_or_below(lengths, power):
    assert power_of_two(lengths) == power
