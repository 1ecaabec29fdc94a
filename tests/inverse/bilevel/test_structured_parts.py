"""Parts of structured lower levels: potentials, features, blurs and maps of hyperparameters, each by itself."""

import numpy as np
import pytest
import torch

from sciml.inverse.bilevel import Blur, Differences, Exp, Filters, Mask
from sciml.inverse.bilevel.filters import xavier_filters
from sciml.inverse.bilevel.maps import ThetaMap, as_map
from sciml.inverse.bilevel.measurements import as_measurement
from sciml.inverse.bilevel.potentials import LogCosh, SmoothAbs, Square
from sciml.linalg.operators import as_operator
from sciml.random import generator, normal
from sciml.testing import check_adjoint

WIDE = [SmoothAbs(), LogCosh()]
each_potential = pytest.mark.parametrize("potential", [*WIDE, Square()], ids=lambda p: type(p).__name__)
LINE = torch.linspace(-3, 3, 2001, dtype=torch.float64)


def derivative(function, t):
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum(), t)[0]


# ---------------------------------------------------------------- potentials


def plain(potential, t, nu):
    if isinstance(potential, SmoothAbs):
        return torch.sqrt(t**2 + nu**2)
    return nu * torch.log(torch.cosh(t / nu)) if isinstance(potential, LogCosh) else 0.5 * t**2


@each_potential
@pytest.mark.parametrize("width", [0.2, 1.0, 3.0])
def test_each_derivative_is_that_of_the_one_before(potential, width):
    nu = torch.tensor(width, dtype=torch.float64)

    def check(ours, theirs):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)

    def of(order, t, nu):
        for _ in range(order):
            t = t if t.requires_grad else t.clone().requires_grad_()
        value = plain(potential, t, nu)
        for _ in range(order):
            (value,) = torch.autograd.grad(value.sum(), t, create_graph=True)
        return value

    check(potential.value(LINE, nu), plain(potential, LINE, nu))
    check(potential.slope(LINE, nu), of(1, LINE, nu).detach())
    check(potential.curvature(LINE, nu), of(2, LINE, nu).detach())
    if potential.has_width:
        check(potential.third(LINE, nu), of(3, LINE, nu).detach())
        for order, ours in ((1, potential.slope_in_width), (2, potential.curvature_in_width)):
            t = LINE.clone().requires_grad_()
            free = nu.expand(len(t)).clone().requires_grad_()
            (theirs,) = torch.autograd.grad(of(order, t, free).sum(), free)
            check(ours(LINE, nu), theirs)


@pytest.mark.parametrize("potential", WIDE, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("width", [0.5, 2.0])
def test_suprema_are_attained_and_never_exceeded(potential, width):
    t = width * torch.linspace(-6, 6, 60_001, dtype=torch.float64)
    second, third, mixed = potential.bounds
    for seen, bound in (
        (potential.curvature(t, width), second / width),
        (potential.third(t, width).abs(), third / width**2),
        (potential.curvature_in_width(t, width).abs(), mixed / width**2),
    ):
        # The grid of step 2e-4 misses a smooth maximum by 1e-8.
        assert float(seen.max()) == pytest.approx(bound, rel=1e-7)
        assert float(seen.max()) <= bound * (1 + 1e-14)


@pytest.mark.parametrize("potential", WIDE, ids=lambda p: type(p).__name__)
def test_far_out_a_potential_is_straight_and_finite(potential):
    far = torch.tensor([-1e8, 1e8], dtype=torch.float64)
    assert potential.slope(far, 1e-3).tolist() == [-1.0, 1.0]
    assert potential.value(far, 1e-3).tolist() == pytest.approx([1e8, 1e8], rel=1e-9)
    for second in (potential.curvature, potential.third, potential.curvature_in_width, potential.slope_in_width):
        assert torch.isfinite(second(far, 1e-3)).all()
        assert float(second(far, 1e-3).abs().max()) < 1e-10


@each_potential
def test_a_tensor_given_is_left_alone(potential):
    t = LINE.clone()
    potential.value(t, 1.0), potential.slope(t, 1.0), potential.curvature(t, 1.0), potential.third(t, 1.0)
    assert torch.equal(t, LINE)
    assert potential.slope(t, 1.0) is not t


# ---------------------------------------------------------------- maps of hyperparameters


def test_exponentials_agree_with_automatic_derivatives():
    theta = normal(generator(0), 7)
    for ours, function in (
        (Exp(2), lambda th: torch.exp(th[2])),
        (Exp(0, slice(1, 4), scale=0.5), lambda th: 0.5 * torch.exp(th[0] + th[1:4])),
        (Exp([5, 5, 1], scale=2.0), lambda th: 2 * torch.exp(th[[5, 5, 1]])),
        (Exp(0, 0), lambda th: torch.exp(2 * th[0])),
        (Exp(-1), lambda th: torch.exp(th[-1])),
    ):
        theirs, t = ThetaMap(function), normal(generator(1), 7)
        e = normal(generator(2), (3, max(1, ours.value(theta).numel())))
        for name, arguments in (
            ("value", ()), ("jacobian", ()), ("row_norms", ()), ("pushforward", (t,)), ("pullback", (e,)),
        ):  # fmt: skip
            a, b = getattr(ours, name)(theta, *arguments), getattr(theirs, name)(theta, *arguments)
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_fixed_numbers_have_no_derivative():
    theta, fixed = torch.zeros(3, dtype=torch.float64), as_map("weight", [1.0, 2.0])
    assert fixed.value(theta).tolist() == [1.0, 2.0]
    assert fixed.jacobian(theta).tolist() == [[0.0] * 3] * 2
    assert not fixed.pullback(theta, torch.ones(4, 2)).any()
    assert not ThetaMap(lambda th: torch.ones(2)).jacobian(theta).any()


# ---------------------------------------------------------------- features


def bound(analysis, shape, theta=None):
    return analysis.bind(theta, torch.empty(0, *shape, dtype=torch.float64))


FEATURES = {
    "both axes": (Differences(), (5, 4)),
    "rows": (Differences((-2,)), (5, 4)),
    "line": (Differences((-1,)), (6,)),
    "volume": (Differences((-3, -1)), (3, 2, 4)),
    "one column": (Differences(), (5, 1)),
    "mirrored": (Filters(normal(generator(3), (3, 5, 5))), (7, 9)),
    "mirrored, small": (Filters(normal(generator(3), (2, 5, 5))), (3, 4)),
    "periodic": (Filters(normal(generator(3), (3, 3, 3)), boundary="periodic"), (6, 5)),
    "periodic, small": (Filters(normal(generator(3), (2, 5, 5)), boundary="periodic"), (3, 3)),
    "single pixels": (Filters(normal(generator(3), (2, 1, 1))), (4, 4)),
}
each_feature = pytest.mark.parametrize("name", FEATURES)


@each_feature
def test_features_have_their_adjoint(name):
    D, shape = FEATURES[name]
    D, x = bound(D, shape), torch.empty(2, *shape, dtype=torch.float64)
    check_adjoint(
        lambda x: D.forward(torch.from_numpy(x)), lambda u: D.adjoint(torch.from_numpy(u)), x.shape,
        tuple(D.forward(x.zero_()).shape),
    )  # fmt: skip


def dense(D, shape):
    """Return the matrix of each channel, (K, features, pixels)."""
    d = int(np.prod(shape))
    t = D.forward(torch.eye(d, dtype=torch.float64).reshape(d, *shape))
    return (t if t.ndim > 2 else t[:, None]).flatten(2).permute(1, 2, 0)


@each_feature
def test_bounds_of_features_hold(name):
    D, shape = FEATURES[name]
    D = bound(D, shape)
    matrices = dense(D, shape)
    omega = torch.rand(len(matrices), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    omega = omega if name not in ("both axes", "rows", "line", "volume", "one column") else omega[0]
    highest = float(
        torch.linalg.eigvalsh(torch.einsum("kij,kil->jl", omega.reshape(-1, 1, 1) * matrices, matrices))[-1]
    )
    rows = matrices.norm(dim=2).amax(1)
    assert highest <= D.gram_bound(omega) * (1 + 1e-13)
    assert highest <= D.gram_estimate(omega) * (1 + 1e-13)
    assert D.gram_estimate(omega) <= D.gram_bound(omega)
    # A step is at most a fifth shorter than the best one.
    assert D.gram_estimate(omega) <= 1.25 * highest
    assert (rows <= D.row_norms() * (1 + 1e-13)).all()
    assert (D.row_norms() <= 3 * rows).all()


@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
def test_the_estimate_from_a_small_image_holds_for_large_ones(boundary):
    for seed in range(5):
        bank = Filters(normal(generator(seed), (4, 3, 3)), boundary=boundary)
        omega = torch.ones(4, dtype=torch.float64)
        matrices = dense(bound(bank, (24, 22)), (24, 22))
        highest = float(torch.linalg.eigvalsh(torch.einsum("kij,kil->jl", matrices, matrices))[-1])
        estimate = bound(bank, (24, 22)).gram_estimate(omega)
        assert highest <= estimate <= 1.1 * highest


def test_the_square_of_the_sum_of_moduli_is_no_bound_at_a_mirrored_border():
    """So the bound must look at the border: for three ones on three pixels 9 is exceeded."""
    ones = np.zeros((1, 3, 3))
    ones[0, 1] = 1.0
    D = bound(Filters(ones), (2, 3))
    norm = float(torch.linalg.matrix_norm(dense(D, (2, 3))[0], 2)) ** 2
    assert norm > 9.1
    assert norm <= D.gram_bound(torch.ones((), dtype=torch.float64))


def test_filters_of_theta_are_centred_and_move_with_it():
    theta = normal(generator(4), 2 + 18)
    bank = Filters(index=slice(2, None), n_filters=2, size=3)
    c = bank.kernels_at(theta)
    assert float(c.mean((1, 2)).abs().max()) < 1e-15
    torch.testing.assert_close(c - c.mean((1, 2), keepdim=True), c)
    raw = Filters(index=slice(2, None), n_filters=2, size=3, zero_mean=False).kernels_at(theta)
    assert torch.equal(raw.reshape(-1), theta[2:])
    flat = bound(bank, (6, 6), theta).forward(torch.ones(1, 6, 6, dtype=torch.float64))
    assert float(flat.abs().max()) < 1e-14


def test_random_filters_have_the_variance_asked_for_and_no_mean():
    c = xavier_filters(200, 5, 3)
    assert float(c.mean((1, 2)).abs().max()) < 1e-16
    # The mean takes one of 25 degrees of freedom; 4 standard errors of 4800 normal numbers.
    assert float(c.square().sum() / (200 * 24)) == pytest.approx(2 / (25 * 201), rel=4 * (2 / 4800) ** 0.5)
    assert torch.equal(xavier_filters(2, 3, 1), xavier_filters(2, 3, 1))


def test_large_batches_of_features_are_done_in_groups(monkeypatch):
    D = bound(Filters(normal(generator(3), (3, 5, 5))), (7, 9))
    u, v = normal(generator(5), (4, 3, 7, 9)), normal(generator(6), (4, 7, 9))
    whole = D.adjoint(u)
    monkeypatch.setattr("sciml.inverse.bilevel.filters._SMALL", 0)
    torch.testing.assert_close(D.adjoint(u), whole, rtol=1e-13, atol=1e-13)
    whole = D.adjoint(u)
    out = torch.zeros_like(v)
    D.curve(v, (u,), out)
    monkeypatch.setattr("sciml.inverse.bilevel.filters._TEMPORARY", 2 * 3 * 63)
    part = torch.zeros_like(v)
    D.curve(v, (u,), part)
    assert D.group(4) == 2
    assert torch.equal(D.adjoint(u), whole)
    assert torch.equal(part, out)


# ---------------------------------------------------------------- data

KERNEL = normal(generator(7), (3, 5))
FACTORS = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1])).double()
BLURS = {
    "mirrored": Blur(KERNEL),
    "periodic": Blur(KERNEL, "periodic"),
    "mirrored factors": Blur(FACTORS),
    "periodic factors": Blur(FACTORS, "periodic"),
    "row": Blur(KERNEL[:1]),
    "one": Blur(np.ones((1, 1))),
}
IDX = torch.arange(2)


@pytest.mark.parametrize("shape", [(6, 7), (2, 3)])
@pytest.mark.parametrize("name", BLURS)
def test_a_blur_has_its_adjoint_and_spectrum(name, shape):
    A = BLURS[name].on(shape)
    check_adjoint(
        lambda x: A.forward(torch.from_numpy(x), IDX), lambda z: A.adjoint(torch.from_numpy(z), IDX), (2, *shape),
        (2, *shape),
    )  # fmt: skip
    d = int(np.prod(shape))
    M = A.forward(torch.eye(d, dtype=torch.float64).reshape(d, *shape), IDX).reshape(d, d).T
    eigenvalues = torch.linalg.eigvalsh(M.T @ M)
    low, high = (float(bound[0]) for bound in A.spectrum(IDX))
    # The smallest eigenvalue may vanish up to rounding.
    assert low <= float(eigenvalues[0]) + 1e-13
    assert float(eigenvalues[-1]) <= high
    if "periodic" in name:
        assert low == pytest.approx(float(eigenvalues[0]), abs=1e-12)
        assert high == pytest.approx(float(eigenvalues[-1]), rel=1e-11)
    elif name == "mirrored factors":
        assert high <= 1.05 * float(eigenvalues[-1])


def test_factors_of_a_kernel_give_the_same_blur():
    x = normal(generator(8), (2, 6, 7))
    whole = Blur(FACTORS)
    whole.stages = [((3, 5), [((i, j), float(FACTORS[i, j])) for i in range(3) for j in range(5)])]
    assert len(Blur(FACTORS).stages) == 2
    assert len(Blur(KERNEL).stages) == 1
    torch.testing.assert_close(Blur(FACTORS).on((6, 7)).forward(x, IDX), whole.on((6, 7)).forward(x, IDX))


def test_a_blur_is_a_correlation():
    kernel = torch.arange(9.0).reshape(3, 3).double()
    x = torch.zeros(1, 5, 5, dtype=torch.float64)
    x[0, 2, 2] = 1.0
    assert torch.equal(Blur(kernel).forward(x, IDX)[0, 1:4, 1:4], kernel.flip(0, 1))


def test_masks_know_their_spectrum():
    low, high = Mask([[1.0, 0.5], [2.0, 1.0]]).on((2, 2)).spectrum(IDX)
    assert low.tolist() == [0.25, 0.25]
    assert high.tolist() == [4.0, 4.0]
    low, high = Mask(np.array([[[1.0, 1.0]], [[0.0, 3.0]]])).on((1, 2)).spectrum(torch.tensor([1, 0]))
    assert low.tolist() == [0.0, 1.0]
    assert high.tolist() == [9.0, 1.0]
    assert Mask(np.array([[True, False]])).on((1, 2)).forward(torch.ones(1, 1, 2), IDX[:1]).tolist() == [[[1.0, 0.0]]]


def test_one_object_serves_several_shapes():
    blur = Blur(KERNEL, "periodic")
    small, large = blur.on((5, 5)), blur.on((6, 7))
    assert small.shape == (5, 5)
    assert large.shape == (6, 7)
    assert blur.shape is None


def test_spectra_of_operators_are_computed_or_taken():
    A = normal(generator(9), (4, 6))
    eigenvalues = torch.linalg.svdvals(A) ** 2
    low, high = as_measurement(as_operator(A)).spectrum(IDX)
    assert low.tolist() == [0.0, 0.0]
    assert high.tolist() == pytest.approx([float(eigenvalues[0])] * 2, rel=1e-11)
    low, high = as_measurement(as_operator(A.T)).spectrum(IDX)
    assert float(low[0]) == pytest.approx(float(eigenvalues[-1]), rel=1e-9)
    assert float(low[0]) <= float(eigenvalues[-1])
    low, high = as_measurement(as_operator(A), (0.5, 3.0)).spectrum(IDX)
    assert (low.tolist(), high.tolist()) == ([0.5, 0.5], [3.0, 3.0])
    assert as_measurement((lambda x: x, lambda z: z)).spectrum(IDX)[1] is None
