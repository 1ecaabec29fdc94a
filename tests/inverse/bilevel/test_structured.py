"""Structured lower levels: every derivative against automatic ones, every constant against what is seen."""

import pickle

import numpy as np
import pytest
import torch

from sciml._checkpoint import _digest
from sciml.datasets import noisy, photographs
from sciml.exceptions import InvalidInputError, InvalidTypeError
from sciml.inverse.bilevel import Blur, Differences, Exp, Filters, Mask, StructuredLower, Term
from sciml.inverse.bilevel.counter import Counter
from sciml.inverse.bilevel.solve import _parts
from sciml.linalg.operators import as_operator
from sciml.optimize import batched_cg, lanczos_extremes, nag
from sciml.random import generator, normal

from .structured_cases import IDX, MASKS, B, H, W, Y, cases, foe_terms

CASES = cases()
each_case = pytest.mark.parametrize("name", CASES)
# Rounding of sums of about a hundred terms, a few operations deep.
TIGHT = {"rtol": 0, "atol": 2e-13}


def assert_close(a, b, **tolerance):
    torch.testing.assert_close(a.to(torch.float64), b.to(torch.float64), **(tolerance or TIGHT))


def points(case):
    return case.lower.at(case.x, case.theta, IDX, Counter()), case.plain.at(case.x, case.theta, IDX, Counter())


# ---------------------------------------------------------------- derivatives


@each_case
def test_value_and_gradient_are_those_of_the_plain_energy(name):
    case = CASES[name]
    ours, plain = points(case)
    assert_close(ours.value, plain.value, rtol=1e-13, atol=0)
    assert_close(ours.gradient, plain.gradient)
    assert torch.equal(case.lower.gradient(case.x, case.theta, IDX, Counter()), ours.gradient)


@each_case
def test_products_with_the_hessian(name):
    ours, plain = points(CASES[name])
    v = normal(generator(9), tuple(ours.x.shape))
    assert_close(ours.hvp(v), plain.hvp(v))
    rows = torch.tensor([0, 2])
    assert_close(ours.hvp(v[rows], rows), plain.hvp(v)[rows])
    assert_close(ours.hvp(v[1:], torch.tensor([1, 2])), plain.hvp(v)[1:])
    assert_close(ours.hvp(v[1:2], torch.tensor([1])), plain.hvp(v)[1:2])


@each_case
def test_products_with_the_mixed_derivative(name):
    case = CASES[name]
    ours, plain = points(case)
    t, q = normal(generator(10), len(case.theta)), normal(generator(11), tuple(case.x.shape))
    blocks = [slice(0, 2), slice(2, 3)]
    assert_close(ours.cross(t), plain.cross(t))
    assert_close(ours.cross_adjoint(q, blocks), plain.cross_adjoint(q, blocks))
    assert ours.cross_adjoint(q, blocks).dtype == torch.float64


@each_case
def test_third_derivatives(name):
    ours, plain = points(CASES[name])
    p, q = normal(generator(12), tuple(ours.x.shape)), normal(generator(13), tuple(ours.x.shape))
    blocks = [slice(0, 1), slice(1, 3)]
    for a, b in zip(ours.third(p, q, blocks), plain.third(p, q, blocks), strict=True):
        assert_close(a, b, rtol=0, atol=2e-12)


@each_case
def test_derivatives_hold_at_a_constant_sample_too(name):
    case = CASES[name]
    case.x, x = torch.full_like(case.x, 0.3), case.x
    ours, plain = points(case)
    case.x = x
    v, one = normal(generator(9), tuple(x.shape)), [slice(0, B)]
    assert_close(ours.gradient, plain.gradient)
    assert_close(ours.hvp(v), plain.hvp(v))
    assert_close(ours.cross_adjoint(v, one), plain.cross_adjoint(v, one))


# ---------------------------------------------------------------- constants


@each_case
def test_constants_are_never_contradicted(name):
    case = CASES[name]
    known = case.lower.constants(case.theta, IDX)
    assert case.lower.exact == (name not in ("functions", "several terms"))  # which hold bounds that were given
    # Where the features vanish the potentials are steepest, so this is where L is tight.
    for scale in (0.0, 0.1, 1.0):
        point = case.lower.at(scale * case.x, case.theta, IDX, Counter())
        low, high = lanczos_extremes(point.hvp, normal(generator(14), tuple(case.x.shape)), n_steps=H * W)
        assert (low >= known.mu * (1 - 1e-9)).all()
        if known.L is not None:
            assert (high <= known.L * (1 + 1e-9)).all()
            assert (high > 0.4 * known.L).all() or scale or name in ("mirrored blur", "several terms", "inpainting")


def spectral_norm(product, shape, n_steps=40):
    """Return the norms of symmetric maps, from below."""
    low, high = lanczos_extremes(lambda v, rows: product(v), normal(generator(15), shape), n_steps=n_steps)
    return torch.maximum(low.abs(), high.abs())


@each_case
def test_lipschitz_constants_hold_between_random_pairs(name):
    case = CASES[name]
    known = case.lower.constants(case.theta, IDX)
    ratios = []
    for scale in (1e-3, 0.3, 3.0):
        e = scale * normal(generator(16), tuple(case.x.shape))
        # From zero, where third derivatives in the neighbourhood are largest.
        for x in (0.3 * e, case.x):
            a = case.lower.at(x, case.theta, IDX, Counter())
            b = case.lower.at(x + e, case.theta, IDX, Counter())
            distance = e.reshape(B, -1).norm(dim=1)
            assert (spectral_norm(lambda v: a.hvp(v) - b.hvp(v), e.shape) <= known.LH * distance + 1e-9).all()  # noqa: B023
            if known.LJ is not None:
                basis = torch.eye(len(case.theta), dtype=torch.float64)
                J = torch.stack([(a.cross(t) - b.cross(t)).reshape(B, -1) for t in basis], -1)
                ratios.append(torch.linalg.matrix_norm(J, 2) / distance)
    if known.LJ is None:
        assert "experts" in name
    else:
        worst = torch.stack(ratios).amax(0)
        assert (worst <= known.LJ * (1 + 1e-9)).all()
        assert (worst > 0.02 * known.LJ).all()


def test_constants_of_total_variation_are_those_of_the_formulas():
    theta = torch.tensor([-2.0, -3.0], dtype=torch.float64)
    y = torch.zeros(1, 2000, 2000, dtype=torch.float64)
    lower = StructuredLower(None, y, [Term(Differences(), "smooth-abs", Exp(0, scale=0.5), Exp(1))])
    known = lower.constants(theta, IDX[:1])
    w, nu = 0.5 * np.exp(-2), np.exp(-3)
    assert float(known.mu) == 1.0
    # The norm of D squared is 8 up to the square of pi over four times the side.
    assert float(known.L) == pytest.approx(1 + 4 * np.exp(1.0), rel=1e-6)
    assert float(known.LH) == pytest.approx(w * 0.858650 / nu**2 * 2**0.5 * 8, rel=1e-5)
    assert float(known.LJ) == pytest.approx(w / nu * 2**0.5 * 8, rel=1e-5)


def test_the_bound_of_J_holds_for_many_hyperparameters():
    y, K = Y[:, :, :5], 40
    bank = Filters(normal(generator(17), (K, 3, 3)))
    lower = StructuredLower(None, y, [Term(bank, "smooth-abs", Exp(slice(0, K)), Exp(slice(K, 2 * K)))])
    theta = 0.2 * normal(generator(18), 2 * K)
    point = lower.at(y, theta, IDX, Counter())
    J = torch.stack([point.cross(t).reshape(B, -1) for t in torch.eye(2 * K, dtype=torch.float64)], -1)
    norm, bound = torch.linalg.matrix_norm(J, 2), lower.norm_J(point)
    assert (norm <= bound).all()
    assert (bound < 40 * norm).all()
    few = CASES["tv"]
    assert few.lower.norm_J(few.lower.at(few.x, few.theta, IDX, Counter())) is None


# ---------------------------------------------------------------- the benchmark on eight photographs


@pytest.fixture(scope="module")
def eight():
    x = torch.from_numpy(photographs("sk8"))
    return x, StructuredLower(None, noisy(x), [Term(Differences(), "smooth-abs", Exp(0, scale=0.5), Exp(1))])


def solved(lower, theta, x0):
    idx = torch.arange(len(x0))
    known = lower.constants(theta, idx)
    found = nag(
        lambda x, rows: lower.gradient(x, theta, idx[rows], Counter()), x0, mu=known.mu, L=known.L, gtol=1e-9,
        max_iter=2000,
    )  # fmt: skip
    assert found.converged.all()
    return found.x


def test_total_variation_of_eight_photographs(eight):
    x_true, lower = eight
    theta, idx = torch.tensor([-2.0, -3.0], dtype=torch.float64), torch.arange(8)

    def f(theta):
        return float(((solved(lower, theta, lower.y) - x_true) ** 2).sum() / 16)

    x = solved(lower, theta, lower.y)
    point = lower.at(x, theta, idx, Counter())
    q = batched_cg(point.hvp, x - x_true, atol=1e-9).x
    z = -point.cross_adjoint(q, [slice(0, 8)])[0] / 8
    assert f(theta) == pytest.approx(11.526322, rel=1e-7)
    np.testing.assert_allclose(z, [-0.798249, 0.726410], rtol=1e-6)
    step = 1e-4 * torch.eye(2, dtype=torch.float64)
    # Errors of central differences: third derivatives of order 1 times 1e-8 / 6.
    np.testing.assert_allclose(z, [(f(theta + e) - f(theta - e)) / 2e-4 for e in step], rtol=1e-6)


# ---------------------------------------------------------------- bookkeeping


@pytest.mark.parametrize("name", ["tv", "inpainting", "mirrored blur", "experts", "several terms", "matrix"])
def test_a_sample_has_the_same_bits_in_every_batch(name):
    case = CASES[name]
    whole = case.lower.at(case.x, case.theta, IDX, Counter())
    v = normal(generator(19), tuple(case.x.shape))
    singles = [slice(i, i + 1) for i in range(B)]
    for rows in (torch.tensor([2]), torch.tensor([0, 2])):
        part = case.lower.at(case.x[rows], case.theta, IDX[rows], Counter())
        assert torch.equal(part.gradient, whole.gradient[rows])
        assert torch.equal(part.value, whole.value[rows])
        assert torch.equal(part.hvp(v[rows]), whole.hvp(v)[rows])
        assert torch.equal(whole.hvp(v[rows], rows), whole.hvp(v)[rows])
        t = torch.ones_like(case.theta)
        assert torch.equal(part.cross(t), whole.cross(t)[rows])
        one = singles[: len(rows)]
        assert torch.equal(part.cross_adjoint(v[rows], one), whole.cross_adjoint(v, singles)[rows])
        for a, b in zip(part.third(v[rows], v[rows], one), whole.third(v, v, singles), strict=True):
            assert torch.equal(a, b[rows])


@pytest.mark.parametrize("side", [33, 50])
@pytest.mark.parametrize("size", [5, 7])
def test_images_of_odd_sizes_have_the_same_bits_in_every_batch(side, size):
    """Their memory begins at another alignment for each place in a batch, which matrix products notice."""
    y = normal(generator(22), (4, side, side + 2))
    lower = StructuredLower(None, y, foe_terms(3, size))
    theta, idx, one = 0.3 * normal(generator(23), 7 + 3 * size**2), torch.arange(4), [slice(i, i + 1) for i in range(4)]
    whole = lower.at(y, theta, idx, Counter())
    for place in (1, 3):
        part = lower.at(y[place : place + 1], theta, idx[place : place + 1], Counter())
        here, own = slice(place, place + 1), y[place : place + 1]
        assert torch.equal(part.gradient, whole.gradient[here])
        assert torch.equal(part.hvp(own), whole.hvp(y)[here])
        assert torch.equal(part.cross(theta), whole.cross(theta)[here])
        assert torch.equal(part.cross_adjoint(own, one[:1]), whole.cross_adjoint(y, one)[here])
        for a, b in zip(part.third(own, own, one[:1]), whole.third(y, y, one), strict=True):
            assert torch.equal(a, b[here])


def test_rows_given_out_of_order_are_honoured():
    case = CASES["tv"]
    point = case.lower.at(case.x, case.theta, IDX, Counter())
    v, turned = normal(generator(20), tuple(case.x.shape)), torch.tensor([2, 0, 1])
    assert torch.equal(point.hvp(v[turned], turned), point.hvp(v)[turned])


def test_what_is_counted():
    case, count = CASES["tv"], Counter()
    point = case.lower.at(case.x, case.theta, IDX, count)
    assert count == Counter()  # the gradient may be at hand already
    point.gradient, point.value, point.gradient  # noqa: B018
    assert count == Counter(lower=3)
    point.hvp(case.x)
    point.hvp(case.x[:1], torch.tensor([1]))
    point.cross(case.theta)
    point.cross_adjoint(case.x, [slice(0, 2)])
    point.third(case.x, case.x, [slice(0, 3)])
    assert count == Counter(lower=3, hvp=4, cross=5, third=3)
    case.lower.gradient(case.x[:2], case.theta, IDX[:2], count)
    assert count.lower == 5


def test_nothing_given_is_changed():
    case = CASES["experts"]
    x, q = case.x.clone(), normal(generator(21), tuple(case.x.shape))
    before, y, theta = q.clone(), case.lower.y.clone(), case.theta.clone()
    point = case.lower.at(x, theta, IDX, Counter())
    point.gradient, point.value, point.hvp(q), point.cross(theta)  # noqa: B018
    point.cross_adjoint(q, [slice(0, 3)])
    point.third(q, q, [slice(0, 3)])
    case.lower.gradient(x, theta, IDX, Counter())
    assert torch.equal(x, case.x)
    assert torch.equal(q, before)
    assert torch.equal(case.lower.y, y)
    assert torch.equal(theta, case.theta)


def test_another_theta_is_noticed():
    case = CASES["tv"]
    first = case.lower.gradient(case.x, case.theta, IDX, Counter())
    other = case.lower.gradient(case.x, case.theta + 0.1, IDX, Counter())
    assert not torch.equal(first, other)
    assert torch.equal(case.lower.gradient(case.x, case.theta, IDX, Counter()), first)
    low, high = (case.lower.constants(case.theta + s, IDX).L for s in (0.0, torch.tensor([0.5, 0.0])))
    assert (high > low).all()


def test_other_samples_have_other_data():
    case = CASES["inpainting"]
    one = case.lower.at(case.x[:1], case.theta, torch.tensor([2]), Counter())
    plain = case.plain.at(case.x[:1], case.theta, torch.tensor([2]), Counter())
    assert_close(one.gradient, plain.gradient)
    assert_close(one.hvp(case.x[1:2]), plain.hvp(case.x[1:2]))


@pytest.mark.parametrize("name", ["tv", "inpainting", "mirrored blur", "experts", "matrix"])
def test_float32_keeps_its_precision(name):
    case = CASES[name]
    short = case.lower.to(torch.device("cpu"), torch.float32)
    point = short.at(case.x.float(), case.theta, IDX, Counter())
    exact = case.lower.at(case.x.float().double(), case.theta, IDX, Counter())
    assert point.gradient.dtype == point.hvp(case.x.float()).dtype == torch.float32
    assert_close(point.gradient, exact.gradient, rtol=0, atol=3e-5)
    assert_close(point.hvp(case.x.float()), exact.hvp(case.x.float().double()), rtol=0, atol=1e-4)
    assert point.cross_adjoint(case.x.float(), [slice(0, 3)]).dtype == torch.float64
    assert case.lower.to(torch.device("cpu"), torch.float64) is case.lower


def test_a_problem_travels_between_processes():
    case = CASES["experts"]
    case.lower.gradient(case.x, case.theta, IDX, Counter())
    other = pickle.loads(pickle.dumps(case.lower))
    assert torch.equal(*(low.gradient(case.x, case.theta, IDX, Counter()) for low in (other, case.lower)))


def test_a_search_starts_at_the_data():
    assert torch.equal(CASES["tv"].lower.start(), Y)
    assert torch.equal(CASES["mirrored blur"].lower.start(), Y)
    masked = CASES["inpainting"].lower.start()
    assert torch.equal(masked, torch.where(MASKS > 0, Y, 0.0))
    assert not CASES["matrix"].lower.start().any()
    assert CASES["tv"].lower.dtype == torch.float64


def test_what_was_derived_is_no_part_of_the_problem():
    """A run that is resumed must know its problem again, whatever was computed before."""
    y, theta = Y.clone(), CASES["tv"].theta
    used, fresh = (StructuredLower(None, y, [Term(Differences(), "smooth-abs", Exp(0), Exp(1))]) for _ in range(2))
    used.at(y, theta, IDX, Counter()).hvp(y)
    used.constants(theta, IDX)
    assert _digest(_parts(used)) == _digest(_parts(fresh))


def test_an_overflow_is_left_to_the_search():
    case = CASES["tv"]
    G = case.lower.gradient(case.x, torch.tensor([800.0, 0.0], dtype=torch.float64), IDX, Counter())
    assert not torch.isfinite(G).all()


def test_only_square_potentials_make_it_quadratic():
    assert CASES["quadratic"].lower.quadratic
    assert not CASES["several terms"].lower.quadratic
    assert float(CASES["quadratic"].lower.constants(CASES["quadratic"].theta, IDX).LH[0]) == 0.0


def test_an_image_of_one_pixel_has_no_differences():
    y = torch.full((2, 1, 1), 3.0, dtype=torch.float64)
    lower = StructuredLower(None, y, [Term(Differences(), "smooth-abs", Exp(0), Exp(1))])
    theta = torch.zeros(2, dtype=torch.float64)
    assert torch.equal(lower.gradient(0 * y, theta, IDX[:2], Counter()), -y)
    assert lower.constants(theta, IDX[:2]).L.tolist() == [1.0, 1.0]


# ---------------------------------------------------------------- errors

D = Differences()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: StructuredLower(None, Y, []), InvalidInputError, "terms must hold at least one Term"),
        (lambda: StructuredLower(None, Y, [D]), InvalidTypeError, "terms must hold Terms; got Differences"),
        (lambda: StructuredLower(None, Y[0, 0], foe_terms(1, 3)), InvalidInputError, r"y must be of shape \(B, ...\)"),
        (lambda: StructuredLower(None, Y / 0, foe_terms(1, 3)), InvalidInputError, "y must be finite"),
        (lambda: StructuredLower(None, Y, foe_terms(1, 3), -1.0), InvalidInputError, "mu0 must be a number at least 0"),
        (lambda: StructuredLower("blur", Y, foe_terms(1, 3)), InvalidTypeError, "A must be None, Mask, .*; got str"),
        (lambda: StructuredLower(Mask(np.ones(3)), Y, foe_terms(1, 3)), InvalidInputError, r"mask must have .*\(3,\)"),
        (
            lambda: StructuredLower(Mask(np.ones((2, H, W))), Y, foe_terms(1, 3)),
            InvalidInputError,
            "mask must have one entry for each sample; got 2 for 3",
        ),
        (
            lambda: StructuredLower(as_operator(np.ones((4, 3))), Y.reshape(B, -1), [Term(D, "square", 1.0)]),
            InvalidInputError,
            r"y must hold data of shape \(4,\) for each sample; got \(42,\)",
        ),
        (
            lambda: StructuredLower(as_operator(np.ones((4, 3))), Y[:, 0, :4], [Term(D, "square", 1.0)], shape=(2, 2)),
            InvalidInputError,
            r"A must take the 4 entries of a sample of shape \(2, 2\)",
        ),
        (
            lambda: StructuredLower((lambda x: x, lambda z: z[:, 0]), Y, [Term(D, "square", 1.0)]),
            InvalidInputError,
            r"its adjoint made shape \(1, 6\) of data of shape \(1, 7, 6\).*Pass shape",
        ),
        (
            lambda: StructuredLower(None, Y[:, 0], [Term(D, "square", 1.0)]),
            InvalidInputError,
            r"axes must be axes of a sample of shape \(6,\); got \(-2, -1\)",
        ),
        (lambda: StructuredLower(None, Y, foe_terms(1, 15)), InvalidInputError, "filters of size 15 need images"),
        (lambda: StructuredLower(None, Y, foe_terms(1, 4)), InvalidInputError, "size must be odd.*got 4"),
        (lambda: StructuredLower(Blur(np.ones((3, 15))), Y, foe_terms(1, 3)), InvalidInputError, "a kernel of shape"),
        (lambda: Blur(np.ones((2, 3))), InvalidInputError, r"kernel must be a matrix with odd sides.*\(2, 3\)"),
        (
            lambda: StructuredLower(None, Y, foe_terms(1, 3), spectrum=(0, 1)),
            InvalidInputError,
            "spectrum must be None",
        ),
        (lambda: Term(D, "huber", 1.0), InvalidInputError, "potential must be one of .*'huber'"),
        (lambda: Term(D, 3, 1.0), InvalidTypeError, "potential must be a name or a Potential; got int"),
        (lambda: Term(D, "smooth-abs", 1.0), InvalidInputError, "nu must be given"),
        (lambda: Term(D, "square", 1.0, 1.0), InvalidInputError, "nu must be None for the potential Square"),
        (lambda: Term("tv", "square", 1.0), InvalidTypeError, "D must be Differences, .*; got str"),
        (lambda: Term(D, "square", -1.0), InvalidInputError, "weight must be a number above 0; got -1.0"),
        (lambda: Term(D, "square", None), InvalidTypeError, "weight must be Exp.*; got NoneType"),
        (lambda: Exp(), InvalidInputError, "index must name at least one entry"),
        (lambda: Exp(1.5), InvalidInputError, "index must be an int, a slice or a sequence of ints; got 1.5"),
        (lambda: Exp(0, scale=0), InvalidInputError, "scale must be a number above 0"),
        (lambda: Differences((0, 1)), InvalidInputError, "axes must be different negative integers"),
        (lambda: Filters(), InvalidInputError, "kernels or index must be given"),
        (lambda: Filters(np.ones((2, 3, 5))), InvalidInputError, r"kernels must be of shape \(K, s, s\)"),
    ],
)
def test_bad_arguments_are_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize(
    ("terms", "theta", "text"),
    [
        ([Term(D, "square", Exp(5))], 2, "theta must hold the entries .5,. of Exp"),
        ([Term(D, "square", lambda th: -th[0])], 2, "weight must be at least 0 at every theta; got -1.0"),
        ([Term(D, "smooth-abs", 1.0, lambda th: 0 * th[0])], 2, "nu must be above 0 at every theta; got 0.0"),
        ([Term(D, "square", Exp(slice(0, 2)))], 2, "weight must give one number for features without channels; got 2"),
        ([Term(D, "square", lambda th: 3.0)], 2, "must return a torch number or a tensor .K,.; got float"),
        (foe_terms(2, 3), 9, "index must name 18 entries of theta.* names 4 of 9"),
    ],
)
def test_what_does_not_suit_theta_is_named(terms, theta, text):
    lower = StructuredLower(None, Y, terms)
    with pytest.raises(InvalidInputError, match=text):
        lower.gradient(Y, torch.ones(theta, dtype=torch.float64), IDX, Counter())


def test_a_null_space_asks_for_a_square():
    lower = StructuredLower(Mask(np.eye(H, W)), Y, [Term(D, "square", Exp(0))])
    with pytest.raises(InvalidInputError, match="mu0 must be above 0 where A has a null space.*got 0, and 0.0"):
        lower.constants(torch.zeros(1, dtype=torch.float64), IDX)
