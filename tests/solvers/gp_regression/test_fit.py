"""The front door: kinds of arrays, units, odd data and wrong arguments."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import sciml
from sciml.exceptions import ConditioningWarning, InvalidInputError, InvalidTypeError, MemoryBudgetError
from sciml.kernels import Gaussian, Matern12, Matern52
from sciml.solvers.gp_regression import fit_gp
from sciml.solvers.gp_regression.fit import _method


def data(rng, n=25, d=2):
    return rng.uniform(0, 3, (n, d)), 2 + rng.standard_normal(n)


def test_numpy_and_torch_agree(backend, rng):
    X, y = data(rng)
    gp = fit_gp(backend.array(X), backend.array(y), Gaussian(0.7), noise=0.3, learn="none")
    expected = fit_gp(X, y, Gaussian(0.7), noise=0.3, learn="none")
    answer = gp.predict(backend.array(X))
    assert_array_equal(backend.numpy(answer.mean), expected.predict(X).mean)
    assert_array_equal(backend.numpy(answer.variance), expected.predict(X).variance)
    assert_array_equal(backend.numpy(gp.weights), expected.weights)


def test_takes_xarray(rng):
    import xarray as xr

    X, y = data(rng)
    gp = fit_gp(xr.DataArray(X), xr.DataArray(y), Gaussian(0.7), noise=0.3, learn="none")
    assert_allclose(gp.mean(xr.DataArray(X)), fit_gp(X, y, Gaussian(0.7), noise=0.3, learn="none").mean(X))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_short_dtypes_come_back_but_are_computed_in_float64(dtype, rng):
    X, y = (a.astype(dtype) for a in data(rng))
    gp = fit_gp(X, y, Gaussian(0.7), noise=1e-3, learn="none")
    exact = fit_gp(X.astype(float), y.astype(float), Gaussian(0.7), noise=1e-3, learn="none").mean(X.astype(float))
    assert gp.weights.dtype == np.float64
    assert gp.mean(X.astype(np.float32)).dtype == np.float32
    assert_allclose(gp.mean(X.astype(np.float32)), exact, rtol=1e-6)


@pytest.mark.parametrize("k", [-60, -2, 40])
def test_units_of_the_targets_do_not_matter(k, rng):
    X, y = data(rng, n=40)
    one = fit_gp(X, y, 2.0 * Gaussian(0.7), random_state=0)
    other = fit_gp(X, 2.0**k * y, 2.0 * 4.0**k * Gaussian(0.7), random_state=0)  # powers of two round nothing
    assert other.noise_std == 2.0**k * one.noise_std
    assert_array_equal(other.mean(X), 2.0**k * one.mean(X))
    assert_array_equal(other.variance(X), 4.0**k * one.variance(X))
    assert_allclose(other.log_evidence, one.log_evidence - 40 * k * np.log(2), rtol=1e-12)


@pytest.mark.parametrize("k", [-20, 30])
def test_units_of_the_points_do_not_matter(k, rng):
    X, y = data(rng)
    one = fit_gp(X, y, Matern52(0.7), noise=0.3, learn="none")
    other = fit_gp(2.0**k * X, y, Matern52(2.0**k * 0.7), noise=0.3, learn="none")
    assert_array_equal(other.mean(2.0**k * X), one.mean(X))
    learned, scaled = fit_gp(X, y, Matern52(0.7), random_state=0), fit_gp(2.0**k * X, y, Matern52(1.0), random_state=0)
    assert_allclose(scaled.log_evidence, learned.log_evidence, atol=2e-3)  # both to tol


def test_an_added_constant_is_the_prior_mean(rng):
    X, y = data(rng)
    one, other = (fit_gp(X, y + c, Gaussian(0.7), noise=0.3, learn="none") for c in (0.0, 1000.0))
    assert_allclose(other.mean(X) - 1000, one.mean(X), atol=1e-10)
    assert_allclose(one.mean(X + 100), y.mean(), rtol=1e-12)
    zero = fit_gp(X, y, Gaussian(0.7), noise=0.3, learn="none", prior_mean=0.0)
    assert_allclose(zero.mean(X + 100), 0, atol=1e-12)


def test_outputs_are_independent_and_share_the_kernel(rng):
    X, Y = rng.uniform(0, 3, (25, 2)), rng.standard_normal((25, 3))
    together = fit_gp(X, Y, Gaussian(0.7), noise=0.3, learn="none")
    apart = [fit_gp(X, y, Gaussian(0.7), noise=0.3, learn="none") for y in Y.T]
    assert_allclose(together.mean(X), np.stack([gp.mean(X) for gp in apart], axis=1), rtol=1e-10)
    assert_allclose(together.variance(X), apart[0].variance(X), rtol=1e-12)
    assert_allclose(together.log_evidence, sum(gp.log_evidence for gp in apart), rtol=1e-12)
    assert together.sample(X[:4], 5, 0).shape == (5, 4, 3)


def test_one_point_has_its_closed_form():
    gp = fit_gp([[0.0]], [3.0], 4.0 * Gaussian(1.0), noise=1.0, learn="none", prior_mean=1.0)
    at = np.array([[0.0], [1.0]])
    k = 4 * np.exp([0.0, -0.5])
    assert_allclose(gp.mean(at), 1 + k / 5 * 2)
    assert_allclose(gp.variance(at), 4 - k**2 / 5)


@pytest.mark.parametrize(("X", "y"), [([[0.0]], [3.0]), ([[0.0], [1.0], [1.0]], [3.0, 3.0, 3.0])])
def test_constant_targets_teach_nothing_and_say_so(X, y):
    with pytest.warns(ConditioningWarning, match="y must vary for something to be learned"):
        gp = fit_gp(X, y, 4.0 * Gaussian(1.0))
    assert_allclose(gp.mean([[0.5], [9.0]]), 3.0)
    assert np.isfinite(gp.predict([[0.5]]).variance).all()


def test_a_constant_that_its_mean_rounds_teaches_nothing():
    with pytest.warns(ConditioningWarning, match="y must vary"):
        gp = fit_gp([[float(i)] for i in range(7)], np.full(7, 0.1), Gaussian())  # the mean of seven 0.1 is another
    assert gp.mean([[2.5]]).tolist() == [0.1]


@pytest.mark.parametrize(
    "kernel",
    [
        Gaussian(1.3),
        Gaussian(1.3) + Matern12(2.0),
        Gaussian(1.3) * (2.0 * Matern12(2.0)),
        2.0 * Gaussian(1.3) + Matern12(),
    ],
)
def test_every_name_of_a_kernel_can_be_learned_alone(kernel, rng):
    X, y = data(rng)
    for name in kernel.parameters:
        gp = fit_gp(X, 30 * y, kernel, learn=[name, name], tol=1e-3)
        assert len(gp.settings["learned"]) == 2
        # What is not learned keeps its value, whatever factors came to stand around it.
        kept = [float(v) for v in gp.kernel.parameters.values()]
        for other, given in kernel.parameters.items():
            assert other == name or any(v == pytest.approx(float(given)) for v in kept)
        assert gp.mean(X).shape == y.shape


def test_iterations_without_noise_take_a_little_and_say_so(rng):
    X, y = data(rng)
    with pytest.warns(ConditioningWarning, match="noise=0 with the iterative method"):
        gp = fit_gp(X, y, Matern12(1.0), noise=0, learn="none", method="iterative", random_state=0)
    assert 0 < gp.noise_std < 1e-5
    assert gp.mean(X) == pytest.approx(y, abs=1e-4)


def test_many_coordinates(rng):
    X = rng.standard_normal((60, 40))
    y = X[:, 0] + 0.1 * rng.standard_normal(60)
    gp = fit_gp(X, y, Gaussian(), random_state=0)
    assert np.corrcoef(gp.mean(X), y)[0, 1] > 0.9
    assert float(gp.kernel.parameters["kernel.lengthscale"]) > 1


def test_equal_points_with_noise_are_fine(rng):
    X = np.repeat(rng.uniform(0, 3, (5, 1)), 4, axis=0)
    gp = fit_gp(X, np.sin(X[:, 0]) + 0.1 * rng.standard_normal(20), Gaussian(), random_state=0)
    assert 0.03 < gp.noise_std < 0.3


def test_is_where_it_should_be():
    assert sciml.fit_gp is fit_gp
    assert sciml.GPRegressor.__name__ == "GPRegressor"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.zeros(5)}, InvalidInputError, r"X must have shape \(n, d\).*got \(5,\).*X\[:, None\]"),
        ({"X": np.zeros((0, 2)), "y": np.zeros(0)}, InvalidInputError, r"at least one row.*got \(0, 2\)"),
        ({"X": np.zeros((5, 0))}, InvalidInputError, r"at least one row and one column; got \(5, 0\)"),
        ({"X": [[0.0], [np.nan], [1.0], [2.0], [3.0]]}, InvalidInputError, r"X must be finite; the entry at index \(1"),
        ({"y": np.zeros(4)}, InvalidInputError, r"y must have shape \(5,\) or \(5, q\).*got \(4,\)"),
        ({"y": np.zeros((5, 1, 1))}, InvalidInputError, r"got \(5, 1, 1\)"),
        ({"y": [0.0, 1.0, np.inf, 0.0, 0.0]}, InvalidInputError, "y must be finite; the entry at index 2"),
        ({"y": 1j * np.ones(5)}, InvalidInputError, "must be real; got complex"),
        ({"learn": None}, InvalidInputError, "learn must be 'all', 'none' or a list"),
        ({"y": 1e200 * np.arange(5)}, InvalidInputError, r"has the size 2.0e\+200. Rescale it"),
        ({"kernel": "rbf"}, InvalidTypeError, "kernel must be a kernel of sciml.kernels; got str"),
        ({"kernel": Gaussian([1.0, 2.0])}, InvalidInputError, "lengthscale of Gaussian must be a number or one for"),
        ({"noise": -1.0}, InvalidInputError, "noise must be a number at least 0; got -1"),
        ({"noise": "evidense"}, InvalidInputError, "noise must be one of 'evidence'; got 'evidense'. Did you mean"),
        ({"noise": None}, InvalidInputError, "noise must be a number or 'evidence'; got None"),
        ({"learn": ["lenghtscale"]}, InvalidInputError, "Did you mean 'lengthscale'"),
        ({"method": "cholesky"}, InvalidInputError, "method must be one of 'auto', 'exact', 'iterative'"),
        ({"method": "exact", "memory": "1MiB"}, MemoryBudgetError, "the exact method for 5 points takes 256.00 MiB"),
        ({"n_starts": 0}, InvalidInputError, "n_starts must be an integer at least 1; got 0"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    good = {"X": np.arange(5.0)[:, None], "y": np.arange(5.0), "kernel": Gaussian(1.0)}
    with pytest.raises(error, match=message):
        fit_gp(**{**good, **change})


def test_auto_goes_by_size_and_memory():
    X = torch.zeros(8000, 1)
    assert _method("auto", 8000, X, "8GiB")[0] == "exact"
    assert _method("auto", 8001, X, "8GiB") == ("iterative", "8001 points are more than 8000")
    assert _method("auto", 8000, X, "1GiB") == ("iterative", "factors of 8000 points exceed the memory")
    assert _method("auto", 300, X, "1MiB")[0] == "exact"


def test_given_tensors_keep_their_gradients_to_themselves(rng):
    X, y = data(rng)
    length = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    gp = fit_gp(torch.as_tensor(X).requires_grad_(), torch.as_tensor(y), Matern12(length), noise=0.3, learn="none")
    assert not gp.mean(torch.as_tensor(X)).requires_grad


def test_the_evidence_of_several_outputs_is_in_their_units(rng):
    X, y = data(rng)
    Y = 37.0 * np.stack([y, y[::-1]], axis=1)
    gp = fit_gp(X, Y, 900.0 * Gaussian(1.0), noise=5.0, learn="none")
    K = 900 * np.exp(-((X[:, None] - X) ** 2).sum(-1) / 2) + 25 * np.eye(len(X))
    C = Y - Y.mean(0)
    expected = -0.5 * np.sum(C * np.linalg.solve(K, C)) - np.linalg.slogdet(2 * np.pi * K)[1]
    assert_allclose(gp.log_evidence, expected, rtol=1e-12)


def test_numbers_at_their_bounds_are_named():
    X = np.linspace(0, 6, 30)[:, None]
    assert fit_gp(X, np.sin(X[:, 0]), Gaussian(1.0)).settings["at_bounds"] == ["noise_std"]  # there is no noise


def test_errors_of_iterations_cover_outputs_and_a_small_noise(rng):
    X, y = data(rng, n=120)
    options = {"kernel": Matern52(1.0), "noise": 0.01, "learn": "none", "random_state": 0}
    one = fit_gp(X, y, method="iterative", **options)
    two = fit_gp(X, np.stack([y, y], axis=1), method="iterative", **options)
    assert two.log_evidence_error == pytest.approx(2 * one.log_evidence_error)
    found, exact = one.predict(X[:20] + 0.05), fit_gp(X, y, method="exact", **options).variance(X[:20] + 0.05)
    assert np.max(np.abs(found.variance / exact - 1)) <= found.variance_error
