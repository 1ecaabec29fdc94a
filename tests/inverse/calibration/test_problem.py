"""What comes through the door: shapes, flags, weights, units; and every refusal with its remedy."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.linalg import aslinearoperator

from sciml.exceptions import AmbiguityWarning, IdentifiabilityError, InvalidInputError, InvalidTypeError
from sciml.inverse.calibration import self_calibrate
from sciml.inverse.calibration.problem import as_problem, build_elimination, power_of_two, triangular_factor
from tests.inverse.calibration.simulated import error, normal, simulate

P, M, N = 6, 5, 2


def good():
    rng = np.random.default_rng(3)
    return {"y": normal(rng, P, M), "A": normal(rng, M, N)}


REFUSED = [
    ("data of one axis", {"y": np.ones(M)}, r"y must have shape \(p, m\).*\(5,\)"),
    ("no data", {"y": np.ones((0, M))}, "y must not be empty"),
    ("other sensors", {"A": np.ones((M + 1, N))}, r"A must have shape \(m, n\).*5.*\(6, 2\)"),
    ("other snapshots", {"A": np.ones((P + 1, M, N))}, r"A must have shape \(p, m, n\) with p = 6.*\(7, 5, 2\)"),
    ("a vector for A", {"A": np.ones(M)}, r"A must have shape.*\(5,\)"),
    ("other channels of A", {"A": np.ones((3, P, M, N)), "y": np.ones((2, P, M))}, "leading axes of y"),
    ("NaN in A", {"A": np.full((M, N), np.nan)}, r"A must be finite.*\(0, 0\)"),
    ("infinity in A", {"A": np.where(np.eye(M, N), np.inf, 1.0)}, r"A must be finite.*\(0, 0\) is .*inf"),
    ("zero A", {"A": np.zeros((M, N))}, "A must not be zero"),
    (
        "infinite data",
        {"y": np.where(np.eye(P, M), np.inf, 1.0)},
        r"y must be finite, or NaN.*\(0, 0, 0\)",
    ),
    ("all flagged", {"y": np.full((P, M), np.nan)}, "every entry is NaN"),
    ("zero data", {"y": np.zeros((P, M))}, "y must not be zero everywhere"),
    ("zero weights", {"weights": np.zeros(M)}, "weights must not all be zero"),
    ("negative weights", {"weights": -np.ones(M)}, "weights must be finite and at least 0.*-1"),
    ("NaN weights", {"weights": np.full(M, np.nan)}, "weights must be finite"),
    ("other weights", {"weights": np.ones(M + 1)}, r"weights must have shape.*\(6,\)"),
    ("duplicate names", {"sensors": list("abcda")}, "sensors must be 5 different names.*4"),
    ("few names", {"sensors": list("abcd")}, "sensors must be 5 different names"),
    ("unknown model", {"model": "two"}, "model.*two"),
    ("unknown method", {"method": "two"}, "method.*two"),
    ("unknown loss", {"loss": "two"}, "loss.*two"),
    ("unknown noise", {"noise": "pink"}, "noise.*pink"),
    (
        "both bases",
        {"s_basis": np.ones((M, 1)), "d_basis": np.ones((M, 1))},
        "s_basis and d_basis must not be",
    ),
    ("other basis", {"s_basis": np.ones((M + 1, 2))}, r"s_basis must have shape \(5, k\).*\(6, 2\)"),
    ("dependent basis", {"d_basis": np.ones((M, 2))}, "d_basis must have independent columns; got rank 1 of 2"),
    ("w of other size", {"w": np.ones(M + 1), "method": "least-squares"}, r"w must have shape \(5,\)"),
    ("zero w", {"w": np.zeros(M), "method": "least-squares"}, "w must not be zero"),
    ("zero noise", {"noise_std": 0.0}, "noise_std must be above 0"),
    ("noise of other size", {"noise_std": np.ones(M + 1)}, r"noise_std must be a number or of shape"),
    ("unknown gauge", {"gauge": "unit"}, "gauge.*unit"),
    ("unknown reference", {"gauge": ("reference", "north")}, "gauge must name one of the 5 sensors.*north"),
    ("negative tol", {"tol": -1.0}, "tol"),
    ("fractional max_iter", {"max_iter": 1.5}, "max_iter"),
    ("no data at all", {"y": None}, "y must be an array; got None"),
    ("no matrix at all", {"A": None}, "A must be an array; got None"),
    ("no columns", {"A": np.ones((M, 0))}, r"A must have columns.*\(5, 0\)"),
    ("words for weights", {"weights": "natural"}, "weights must hold numbers"),
    ("complex weights", {"weights": np.ones(M) * 1j}, "weights must be real"),
    ("complex noise", {"noise_std": 1j}, "noise_std must be real"),
    ("noise of other snapshots", {"noise_std": np.ones((P - 1, M))}, r"noise_std must be.*\(6, 5\); got \(5, 5\)"),
    ("names too few", {"sensors": list("abcd")}, "Pass 5 names"),
    ("an array for a reference", {"gauge": ("reference", np.arange(2))}, "gauge must name one of the 5 sensors"),
    ("an operator of NaN", {"A": aslinearoperator(np.full((M, N), np.nan))}, "A must be finite"),
    ("a covariance of others", {"y": np.eye(4), "A": np.eye(3), "model": "covariance"}, r"\(4, 4\) as y; got \(3, 3\)"),
    (
        "a method for a covariance",
        {"y": np.eye(4), "A": np.eye(4), "model": "covariance", "method": "spectral"},
        "method",
    ),
    (
        "sensor noise of a covariance",
        {"y": np.eye(4), "A": np.eye(4), "model": "covariance", "noise": "per-sensor"},
        "noise",
    ),
]


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refusals_name_the_argument_its_value_and_the_remedy(change, message):
    with pytest.raises(ValueError, match=message) as found:
        self_calibrate(**(good() | change))
    assert isinstance(found.value, InvalidInputError)


def test_complex_input_for_real_data_is_refused():
    real = {"y": good()["y"].real, "A": good()["A"].real}
    for name, value in (("w", np.full(M, 1j)), ("s_basis", np.full((M, 1), 1j)), ("prior", np.full(M, 1j))):
        method = "least-squares" if name == "w" else "auto"
        with pytest.raises(InvalidInputError, match=f"{name}.* real"):
            self_calibrate(**real, **{name: value}, method=method)


def test_too_few_snapshots_are_refused_with_their_number():
    y, A = normal(np.random.default_rng(0), 2, 8), normal(np.random.default_rng(1), 8, 6)
    with pytest.raises(IdentifiabilityError, match="at least 4 snapshots.*got 2, so 2 are missing") as found:
        self_calibrate(y, A)
    assert found.value.missing == 2


def test_flags_count():
    rng = np.random.default_rng(0)
    y, A = normal(rng, 4, 8), normal(rng, 8, 6)
    assert self_calibrate(y, A, on_failure="ignore").gains.shape == (8,)
    y[0, :2] = np.nan
    with pytest.raises(IdentifiabilityError, match="6 equations are left for 7 unknowns after flags") as found:
        self_calibrate(y, A)
    assert found.value.missing == 1


def test_a_reference_without_data_is_refused():
    sim = simulate(np.random.default_rng(0), "snapshots", 8, 2, 6, snr=30)
    sim.y[:, 3] = np.nan
    with pytest.raises(InvalidInputError, match="reference sensor with data; got 3"):
        self_calibrate(sim.y, sim.A, gauge=("reference", 3))


def test_a_reference_without_an_answer_is_told():
    sim = simulate(np.random.default_rng(0), "snapshots", 8, 2, 6, snr=30)
    sim.y[:, 3] = 0
    with pytest.warns(AmbiguityWarning, match="reference sensor 3 has no answer"):
        res = self_calibrate(sim.y, sim.A, gauge=("reference", 3))
    assert res.unidentified == [3]
    assert error(res.gains, sim.d) < 0.1


def test_nan_is_a_weight_of_zero():
    rng = np.random.default_rng(0)
    y, A = normal(rng, P, M), normal(rng, M, N)
    y[2, 3] = np.nan + 1j
    y[4, 0] = np.nan
    problem = as_problem(y, A)
    assert_array_equal(problem.W[0].numpy() == 0, np.isnan(y))
    assert bool(torch.isfinite(problem.y.abs()).all())
    assert float(problem.y[0, 2, 3].abs()) == 0


def test_models_by_shape_and_by_word():
    y = np.ones((P, M))
    for A, model, expected in (
        (np.ones((M, N)), "auto", "snapshots"),
        (np.ones((P, M, N)), "auto", "diverse"),
        (np.ones((P, M, N)), "repeated", "repeated"),
        (np.ones((M, N)), "repeated", "repeated"),
    ):
        assert as_problem(y, A, model=model).model == expected
    channels = as_problem(np.ones((3, 2, P, M)), np.ones((3, 2, M, N)), model="snapshots")
    assert channels.batch == (3, 2)
    assert tuple(channels.A.shape) == (6, 1, M, N)


def test_units_are_powers_of_two_and_leave_no_trace():
    assert power_of_two(torch.tensor([0.3, -5.0])) == 4.0
    assert power_of_two(torch.zeros(3)) == 0.0
    problem = as_problem(np.full((P, M), 3e-200), np.full((M, N), 7e200))
    assert 1 <= float(problem.y.max()) < 2
    assert float(problem.y.max()) * problem.y_unit == 3e-200


def test_the_factor_of_snapshots_holds_their_covariance(rng):
    y = torch.from_numpy(normal(rng, 2, 5000, 4))
    L = triangular_factor(y)
    assert L.shape == (2, 4, 4)
    assert_allclose((L.mH @ L).numpy(), (y.mH @ y).numpy(), rtol=1e-12, atol=1e-9)
    more = triangular_factor(y[:, 3000:], triangular_factor(y[:, :3000]))
    assert_allclose((more.mH @ more).numpy(), (y.mH @ y).numpy(), rtol=1e-12, atol=1e-9)


def test_weights_of_sensors_keep_the_cost_of_the_factor(rng):
    y, A = normal(rng, 50, M), normal(rng, M, N)
    assert type(build_elimination(as_problem(y, A, weights=rng.uniform(1, 2, M)))).__name__ == "Shared"
    flags = np.ones((50, M), bool)
    flags[::2, 1] = False
    assert type(build_elimination(as_problem(y, A, weights=flags))).__name__ == "Total"
    assert type(build_elimination(as_problem(y, A, weights=rng.uniform(1, 2, (50, M))))).__name__ == "Diverse"


def test_booleans_are_flags_and_numbers_are_inverse_variances(rng):
    y, A = normal(rng, P, M), normal(rng, M, N)
    assert not as_problem(y, A, weights=np.ones(M, bool)).absolute
    assert as_problem(y, A, weights=np.ones(M)).absolute
    assert as_problem(y, A, noise_std=2.0).absolute
    assert_allclose(as_problem(y, A, weights=3.0 * np.ones(M), noise_std=2.0).W.numpy(), 0.75)


def test_a_callback_that_cannot_be_called_is_refused():
    with pytest.raises(InvalidTypeError, match="callback must be a function.*int"):
        self_calibrate(**good(), callback=3)


def test_masks_are_flags(rng):
    y, A = normal(rng, 20, M), normal(rng, M, N)
    mask = rng.random(y.shape) < 0.1
    found = self_calibrate(np.ma.masked_array(y, mask), A)
    assert_array_equal(found.gains, self_calibrate(np.where(mask, np.nan, y), A).gains)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("unit", [2.0**1000, 2.0**-900])
def test_units_near_the_limits_of_numbers(rng, unit, is_complex):
    sim = simulate(rng, "snapshots", M, N, 20, snr=30, is_complex=is_complex)
    want = self_calibrate(sim.y, sim.A)
    found = self_calibrate(unit * sim.y, sim.A)
    assert_array_equal(found.gains, want.gains)
    assert_array_equal(found.signals, unit * want.signals)
    assert found.noise_std == unit * want.noise_std
    assert_array_equal(self_calibrate(sim.y, unit * sim.A).gains, want.gains)


@pytest.mark.parametrize(
    ("more", "name"),
    [({"d_basis": np.eye(M)[:, :2]}, "d_basis"), ({"prior": np.ones(M)}, "prior"), ({"loss": "student-t"}, "loss")],
)
def test_what_products_cannot_do_is_refused(more, name):
    with pytest.raises(InvalidInputError, match=f"{name} must be left at its default for matrix-free problems; got"):
        self_calibrate(**good(), method="matrix-free", **more)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": "no"}, "refine must be True or False; got 'no'"),
        ({"loss": "student-t", "noise": "per-sensor"}, "noise must be 'white' with loss='student-t'"),
        ({"w": np.ones(6)}, "w must be None but for method='least-squares'; got one with method='auto'"),
        ({"n_samples": 9}, "n_samples must be None but for model='covariance'; got it with model='auto'"),
    ],
)
def test_what_would_be_ignored_is_refused(rng, options, message):
    with pytest.raises(InvalidInputError, match=message):
        self_calibrate(rng.standard_normal((9, 6)), rng.standard_normal((6, 2)), **options)


def test_the_noise_found_is_in_the_units_of_the_noise_given(rng):
    sim = simulate(rng, "snapshots", 8, 2, 200, snr=20)
    unknown = self_calibrate(sim.y, sim.A)
    known = self_calibrate(sim.y, sim.A, noise_std=3 * sim.sigma)
    assert_allclose(known.noise_std, unknown.noise_std, rtol=1e-10)
    assert_allclose(known.chi2_reduced, (unknown.noise_std / (3 * sim.sigma)) ** 2, rtol=1e-10)
    each = self_calibrate(sim.y, sim.A, noise_std=np.full(8, 3 * sim.sigma))
    assert_allclose(each.noise_std, unknown.noise_std / (3 * sim.sigma), rtol=1e-10)
