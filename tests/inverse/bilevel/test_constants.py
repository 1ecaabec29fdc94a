"""Right constants pass, wrong ones are refuted by name, and how idle a bound is shows."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.exceptions import CertificateError, InvalidInputError
from sciml.inverse.bilevel.constants import check_constants
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.data_cleaning import DataCleaning
from sciml.inverse.bilevel.imaging import field_of_experts, field_of_experts_start, total_variation
from sciml.inverse.bilevel.linear_models import LinearModel
from sciml.inverse.bilevel.lower import LowerProblem
from sciml.inverse.bilevel.sparse_regression import SparseRegression
from sciml.inverse.bilevel.upper import SquaredError, UpperLoss

WEIGHTS = torch.tensor([[1.0, 4.0, 9.0], [2.0, 2.0, 50.0]], dtype=torch.float64)


def quadratic(**constants):
    """Two samples, H = diag(WEIGHTS) + exp(theta), J = exp(theta) x: LJ = exp(theta)."""

    def h(x, theta, idx):
        w = WEIGHTS.to(x.dtype)[idx]
        return 0.5 * (w * (x - 1) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)

    return LowerProblem(h, **{"mu": None, **constants}, shape=(3,), n_samples=2)


TRUE = {"mu": torch.tensor([2.0, 3.0]), "L": torch.tensor([10.0, 51.0]), "LH": 0.0, "LJ": 1.0}


def tv(nu, LH, d=40):
    """|x - y|^2 / 2 + sum sqrt((x_j - x_j-1)^2 + nu^2), smooth on the scale of nu."""
    y = torch.linspace(0, 1, d, dtype=torch.float64)[None] ** 2

    def h(x, theta, idx):
        change = x[:, 1:] - x[:, :-1]
        return 0.5 * ((x - y[idx]) ** 2).sum(1) + torch.exp(theta[0]) * torch.sqrt(change**2 + nu**2).sum(1)

    return LowerProblem(h, mu=1.0, L=1 + 4 / nu, LH=LH, shape=(d,), n_samples=1)


def test_what_is_seen_is_exact_for_few_unknowns():
    report = check_constants(quadratic(**TRUE), [0.0])
    assert_allclose(report.seen["mu"], [2, 3], rtol=1e-12)
    assert_allclose(report.seen["L"], [10, 51], rtol=1e-12)
    assert_allclose(report.seen["LH"], 0, atol=0)  # nothing but rounding, which does not count
    assert_allclose(report.seen["LJ"], 1, rtol=1e-9)
    assert set(report.tightness) == {"mu", "L", "LH", "LJ"}
    assert min(report.tightness.values()) == pytest.approx(1, rel=1e-9)
    assert report.n_units > 4 * 3


@pytest.mark.parametrize(
    ("name", "given", "seen", "sample"),
    [
        ("mu", torch.tensor([2.0, 3.1]), 3.0, 1),
        ("L", torch.tensor([9.9, 51.0]), 10.0, 0),
        ("L", 51 * (1 - 2e-6), 51.0, 1),
        ("mu", 2 * (1 + 2e-6), 2.0, 0),
        ("LJ", 0.5, 1.0, None),
    ],
)
def test_a_wrong_constant_is_refuted_by_name(name, given, seen, sample):
    with pytest.raises(
        CertificateError, match=f"^{name} must be .* Pass a value of at (most|least) .* or None"
    ) as info:
        check_constants(quadratic(**{**TRUE, name: given}), [0.0])
    assert info.value.constant == name
    assert info.value.seen == pytest.approx(seen, rel=1e-8)
    if sample is not None:
        assert info.value.sample == sample
        assert f"but sample {sample} has" in str(info.value)
        assert info.value.given == pytest.approx(float(torch.as_tensor(given).reshape(-1)[-1 if sample else 0]))


def test_a_constant_within_a_millionth_passes():
    near = {"mu": TRUE["mu"] * (1 + 5e-7), "L": TRUE["L"] * (1 - 5e-7)}
    assert check_constants(quadratic(**near), [0.0]).tightness["mu"] == pytest.approx(1)


def test_unknown_constants_are_seen_all_the_same():
    report = check_constants(quadratic(), [0.0])
    assert report.given == {"mu": None, "L": None, "LH": None, "LJ": None}
    assert report.tightness == {}
    assert_allclose(report.seen["L"], [10, 51], rtol=1e-12)


def test_the_mean_over_the_batch_with_the_mu_of_a_sample_is_refuted():
    def h(x, theta, idx):
        return (0.5 * (x - 1) ** 2).sum(1) / 4

    lower = LowerProblem(h, mu=1.0, shape=(3,), n_samples=4)
    with pytest.raises(CertificateError, match="got 1, but sample [0-3] has 0.25. The energy of one sample counts"):
        check_constants(lower, [0.0])


def test_the_curvature_of_a_smoothed_kink_is_found():
    nu = 0.1
    # A difference changes by sqrt(2) |dx| at most, D has a norm below 2, and 0.8587 bounds the third derivative.
    true = 4 * 2**0.5 * 0.8587 / nu**2
    assert 0.2 < check_constants(tv(nu, LH=true), [0.0]).tightness["LH"] <= 1
    with pytest.raises(CertificateError, match="LH must be a Lipschitz constant of the Hessian of h in x; got 97.1"):
        check_constants(tv(nu, LH=0.2 * true), [0.0])


def test_more_unknowns_than_steps():
    # 1 to 100 on 200 unknowns: 20 steps do not reach the ends, but stay within them.
    weight = torch.linspace(1, 100, 200, dtype=torch.float64)

    def h(x, theta, idx):
        return 0.5 * (weight * x**2).sum(1) + 0 * theta.sum()

    lower = LowerProblem(h, mu=1.0, L=100.0, LH=0.0, LJ=0.0, shape=(200,), n_samples=1)
    few, many = (check_constants(lower, [0.0], n_steps=steps) for steps in (5, 20))
    assert 1 <= many.seen["mu"][0] < few.seen["mu"][0] < 5
    assert 90 < few.seen["L"][0] < many.seen["L"][0] <= 100 * (1 + 1e-12)
    assert few.n_units < many.n_units


def test_one_point_costs_a_gradient_and_its_products():
    count = Counter()
    report = check_constants(quadratic(**TRUE), [0.0], n_points=1, count=count)
    assert report.n_units == 1 + 3
    assert count.as_dict() == {"lower": 0, "hvp": 0, "power": 2 * (1 + 3), "cross": 0, "third": 0}
    assert_allclose(report.seen["mu"], [2, 3], rtol=1e-12)
    assert report.seen["LH"].tolist() == [0, 0]
    with pytest.raises(CertificateError, match="L must be"):
        check_constants(quadratic(L=9.0), [0.0], n_points=1)


def test_many_hyperparameters():
    # J = diag(exp(theta) x) with n = 80: the power method comes near max exp(theta).
    def h(x, theta, idx):
        return 0.5 * ((x - 1) ** 2).sum(1) + 0.5 * (torch.exp(theta) * x**2).sum(1)

    theta = np.linspace(-2, 1, 80)
    lower = LowerProblem(h, mu=1.0, LJ=float(np.exp(1)), shape=(80,), n_samples=1)
    report = check_constants(lower, theta)
    assert 0.1 < report.tightness["LJ"] <= 1 + 1e-9


def test_the_upper_level_is_looked_at_too():
    lower = quadratic(**TRUE)
    truth = SquaredError(np.zeros((2, 3)))
    assert check_constants(lower, [0.0], upper=truth).tightness["Lg"] == pytest.approx(1, rel=1e-12)
    concave = UpperLoss(lambda x: -2 * (x**2).sum(1), Lg=3.0)
    with pytest.raises(CertificateError, match="Lg must be a Lipschitz constant of the gradient of g in x; got 3, but"):
        check_constants(lower, [0.0], upper=concave)


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_units_of_the_energy_do_not_matter(scale):
    def scaled(weight):
        def h(x, theta, idx):
            return weight * (torch.cosh(x).sum(1) + (1 + 0.5 * torch.sin(theta[0])) * (x**2).sum(1))

        return LowerProblem(h, mu=0.5 * weight, shape=(3,), n_samples=1)

    x = torch.tensor([[0.3, -0.4, 2.0]], dtype=torch.float64)
    one, other = check_constants(scaled(1.0), [0.2], x), check_constants(scaled(scale), [0.2], x)
    for name in ("mu", "L", "LH", "LJ"):
        assert_allclose(other.seen[name], scale * one.seen[name], rtol=1e-12)


def test_single_precision_has_wider_rounding():
    lower = quadratic(mu=TRUE["mu"], L=TRUE["L"], LH=0.0, LJ=1.0)
    x = torch.ones(2, 3, dtype=torch.float32)
    assert check_constants(lower, [0.0], x).tightness["mu"] == pytest.approx(1, rel=1e-5)


def test_a_sample_at_rest_and_the_same_number_again():
    # x = 1 is the minimiser where the penalty is nothing: no gradient, hence no Newton step.
    lower = quadratic(mu=1.0)
    x = torch.ones(2, 3, dtype=torch.float64)
    one, two = (check_constants(lower, [-50.0], x, random_state=3) for _ in range(2))
    assert one.seen["LJ"].tolist() == two.seen["LJ"].tolist()
    assert np.isfinite(one.seen["L"]).all()


def ready():
    """The models whose constants follow from their own mathematics, each with a theta."""
    rng = np.random.default_rng(0)
    X, w = rng.standard_normal((40, 4)), rng.standard_normal(4)
    y = X @ w + 0.3 * rng.standard_normal(40)
    classes = np.digitize(y, [-1.0, 1.0])
    image = np.cumsum(rng.standard_normal((2, 6, 6)), axis=1) / 3
    yield LinearModel(X, y, penalty="feature"), rng.standard_normal(4)
    yield LinearModel(X, y > 0, loss="logistic", penalty="feature"), rng.standard_normal(4)
    yield LinearModel(X, classes, loss="multinomial", penalty="weight"), rng.standard_normal(12)
    yield DataCleaning(X, y > 0), rng.standard_normal(40)
    for theta in ((-2.0, -3.0), (1.0, 1.0), (0.0, -6.0)):
        yield total_variation(image), np.array(theta)
    yield field_of_experts(image, n_filters=2, size=3), field_of_experts_start(2, 3, random_state=0)


def test_the_constants_of_the_ready_models_hold_and_are_not_idle():
    for lower, theta in ready():
        tightness = check_constants(lower, theta, n_steps=12).tightness
        assert tightness["L"] > 0.3
        assert tightness["LH"] > 0.02
        assert tightness["mu"] > 0.05


def test_off_the_support_of_a_sparse_problem_nothing_is_looked_at():
    # The Hessian is the identity there, which says nothing of a problem whose scale is another.
    rng = np.random.default_rng(0)
    X = 1e-2 * rng.standard_normal((30, 5))
    lower = SparseRegression(X, X @ np.array([1.0, 0, 0, 2, 0]))
    report = check_constants(lower, np.array([-12.0]), np.array([[1.0, 0, 0, 2, 0]]))
    assert report.seen["L"].max() < 1e-2


def test_wrong_input_is_named():
    with pytest.raises(InvalidInputError, match="x must be given, shape .* got None. Pass a starting point"):
        check_constants(LowerProblem(lambda x, theta, idx: x.sum(1), mu=1.0), [0.0])
    with pytest.raises(InvalidInputError, match=r"theta must be of shape \(n,\); got \(1, 1\)"):
        check_constants(quadratic(), [[0.0]])
    with pytest.raises(InvalidInputError, match="n_steps must be"):
        check_constants(quadratic(), [0.0], n_steps=0)
    with pytest.raises(InvalidInputError, match=r"x must be of shape \(B, \.\.\.\), one row a sample; got \(3,\)"):
        check_constants(quadratic(), [0.0], np.zeros(3))
