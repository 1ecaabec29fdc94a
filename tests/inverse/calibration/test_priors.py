"""A prior is a penalty with the right derivatives, and its strength is found where the likelihood cannot be trusted."""

import numpy as np
import pytest
import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.calibration.elimination import Diverse, Shared
from sciml.inverse.calibration.priors import GainPrior, gain_penalty, map_inverse_gains, shrink, two_variances
from sciml.inverse.calibration.refinement import refine


def draw(rng, is_complex, *shape):
    x = rng.standard_normal(shape)
    if is_complex:
        x = (x + 1j * rng.standard_normal(shape)) / 2**0.5
    return torch.as_tensor(x)


def problem(seed, is_complex, spread, noise, m=40, n=8, p=60):
    """Gains of some spread, and data of some noise; snapshots share one matrix."""
    rng = np.random.default_rng(seed)
    d = torch.exp(spread * draw(rng, is_complex, m))
    A, x = draw(rng, is_complex, m, n), draw(rng, is_complex, p, n)
    y = d * (x @ A.T) + noise * draw(rng, is_complex, p, m)
    return Shared(y[None], A[None], torch.tensor([float(p)], dtype=torch.float64)), d


def error(found, d):
    alpha = torch.vdot(found, d) / torch.vdot(found, found)
    return float((alpha * found - d).norm() / d.norm())


@pytest.mark.parametrize("on", ["log", "inverse"])
@pytest.mark.parametrize("is_complex", [False, True])
def test_penalties_have_their_derivatives(on, is_complex):
    rng = np.random.default_rng(0)
    d = torch.exp(0.3 * draw(rng, is_complex, 2, 5))
    centre = torch.exp(0.3 * draw(rng, is_complex, 2, 5))
    weight = torch.tensor([0.7, 2.0], dtype=torch.float64)
    penalty = gain_penalty(centre, weight, on)
    value, vector, matrix = penalty(d)
    rest = torch.log(d / centre) if on == "log" else 1 / d - 1 / centre
    torch.testing.assert_close(value, weight * rest.abs().square().sum(1), rtol=1e-12, atol=0)
    # f(d + t) = f - 2 Re <g, t> + <t, F t> to second order in the linearised residual.
    t = draw(rng, is_complex, 2, 5)
    h = 1e-6
    slope = (penalty(d + h * t)[0] - penalty(d - h * t)[0]) / (2 * h)
    torch.testing.assert_close(slope, -2 * (vector.conj() * t).sum(1).real, rtol=1e-8, atol=1e-9)
    rates = d.reciprocal() if on == "log" else d.square().reciprocal()
    torch.testing.assert_close(
        torch.diagonal(matrix, dim1=1, dim2=2).real, weight[:, None] * rates.abs().square(), rtol=1e-12, atol=0
    )


def test_penalties_leave_out_gains_of_zero():
    value, vector, matrix = gain_penalty(torch.ones(1, 2), torch.ones(1))(torch.tensor([[0.0, 1.0]]))
    assert value.tolist() == [0.0]
    assert vector.abs().max() == 0
    assert matrix[0].tolist() == [[0, 0], [0, 1]]


def test_negative_real_gains_are_as_far_from_one_as_positive_ones():
    penalty = gain_penalty(torch.ones(1, 1), torch.ones(1))
    assert penalty(torch.tensor([[-2.0]]))[0] == penalty(torch.tensor([[2.0]]))[0]


@pytest.mark.parametrize("is_complex", [False, True])
def test_the_refinement_takes_the_penalty(is_complex):
    elimination, d = problem(1, is_complex, 0.3, 0.1)
    centre = torch.ones_like(d)[None]
    strong = refine(elimination, d[None], penalty=gain_penalty(centre, torch.tensor([1e9], dtype=torch.float64))).d
    weak = refine(elimination, d[None], penalty=gain_penalty(centre, torch.tensor([1e-9], dtype=torch.float64))).d
    free = refine(elimination, d[None]).d
    torch.testing.assert_close(strong, centre, rtol=0, atol=1e-5)
    # Of the order of the strength over the information, 1e-9 / 1e2, and the tolerance of the refinement.
    assert error(weak[0], free[0]) < 1e-8


@pytest.mark.parametrize("is_complex", [False, True])
def test_map_inverse_gains_solve_their_equations(is_complex):
    elimination, d = problem(2, is_complex, 0.3, 0.1)
    M, _ = elimination.schur()
    s0 = torch.ones_like(d)[None] * 2
    s = map_inverse_gains(M, s0, 0.1)
    mu = 0.1 * torch.diagonal(M[0]).real.mean()
    rest = (M @ s[..., None])[..., 0] + mu * (s - s0)
    assert rest.abs().max() < 1e-12 * mu * 2 * 40
    torch.testing.assert_close(map_inverse_gains(M, s0, 1e9), s0, rtol=1e-8, atol=0)
    # Towards strength 0 the equations are those of least squares under a fixed sum.
    plain = torch.linalg.solve(M, s0[..., None])[0, :, 0]
    assert error(map_inverse_gains(M, s0, 1e-9)[0], plain) < 1e-6


def test_map_inverse_gains_of_absent_sensors_are_the_mean():
    M = torch.block_diag(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.zeros(1, 1)).double()[None]
    s = map_inverse_gains(M, torch.tensor([[1.0, 3.0, 5.0]]).double(), 1e-6)
    torch.testing.assert_close(s, torch.tensor([[2.0, 2.0, 5.0]]).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("is_complex", [False, True])
def test_both_variances_are_found(is_complex):
    rng = np.random.default_rng(3)
    lam = torch.as_tensor(np.logspace(-2, 4, 4000))
    z = (0.25 + 4.0 / lam).sqrt() * draw(rng, is_complex, 4000)
    spread, error_ = two_variances(z, lam)
    # Four standard errors of a variance from about half of 4000 numbers, and the grid of 6 % steps in each.
    assert spread == pytest.approx(0.25, rel=4 * (2 / 2000) ** 0.5 + 0.06)
    assert error_ == pytest.approx(4.0, rel=4 * (2 / 2000) ** 0.5 + 0.4)


def test_no_spread_is_found_where_there_is_none():
    rng = np.random.default_rng(4)
    lam = torch.as_tensor(np.logspace(-2, 4, 400))
    z = lam.rsqrt() * draw(rng, False, 400)
    spread, error_ = two_variances(z, lam, 1.0, 2.0)
    assert spread == 0
    assert error_ == pytest.approx(1.0, rel=0.3)


def test_errors_alike_in_all_directions_pass_for_a_spread():
    """Where the information is the same everywhere nothing tells the two apart: the error known is believed."""
    z = 0.4 * draw(np.random.default_rng(5), False, 60)
    spread, error_ = two_variances(z, torch.full((60,), 1e4, dtype=torch.float64), 1.0, 2.0)
    assert error_ == 1.0
    assert spread == pytest.approx(0.16, rel=4 * (2 / 60) ** 0.5)


def test_errors_are_never_below_the_floor():
    z = 1e-6 * draw(np.random.default_rng(6), False, 60)
    assert two_variances(z, torch.logspace(0, 4, 60, dtype=torch.float64), 3.0) == (0.0, 3.0)


@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("is_complex", [False, True])
def test_shrinking_changes_little_where_data_are_good(proportional, is_complex):
    elimination, d = problem(7, is_complex, 0.3, 0.01)
    found = shrink(elimination, torch.ones_like(d)[None], torch.ones_like(d)[None], proportional=proportional)
    assert found.converged
    assert error(found.d, d) < 0.005
    assert found.spread == pytest.approx(0.3, rel=0.4)
    likelihood = refine(elimination, d[None]).d[0]
    if not proportional:
        # The prior moves by a share (noise / spread)^2 of the deviation.
        assert error(found.d, likelihood) < 1e-3


def test_shrinking_pays_where_data_are_poor():
    gained = []
    for seed in range(5):
        elimination, d = problem(seed, False, 0.1, 3.0)
        found = shrink(elimination, torch.ones_like(d)[None], torch.ones_like(d)[None]).d
        gained.append(error(found, d) / error(refine(elimination, d[None]).d[0], d))
        assert error(found, d) <= 1.05 * error(torch.ones_like(d), d)
    assert max(gained) < 0.8


def test_gains_of_one_stay_exactly_one():
    for seed in range(5):
        elimination, d = problem(seed, False, 0.0, 1.0)
        found = shrink(elimination, refine(elimination, d[None]).d, torch.ones_like(d)[None])
        torch.testing.assert_close(found.d, torch.ones_like(d), rtol=1e-12, atol=0)
        assert found.spread == 0


def test_the_scatter_of_the_snapshots_bounds_the_error():
    elimination, d = problem(8, False, 0.1, 0.3)
    ones = torch.ones_like(d)[None]
    scores = 1e3 * draw(np.random.default_rng(9), False, 60, 40)
    wary = shrink(elimination, ones, ones, scatter=lambda gains, weights: scores)
    assert shrink(elimination, ones, ones).spread > 0.05
    assert wary.spread == 0
    assert wary.inflation > 100


def test_means_matter_by_their_ratios():
    elimination, d = problem(10, True, 0.2, 2.0)
    ones, mean = torch.ones_like(d)[None], d[None]
    near, far = (shrink(elimination, ones, centre).d for centre in (3j * mean, ones))
    assert error(near, d) < 0.5 * error(far, d)


def test_free_phases_leave_phases_to_the_data():
    elimination, d = problem(11, True, 0.2, 0.05)
    turn = torch.exp(2j * torch.pi * torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    turned = Shared(elimination.factor * turn, elimination.A, elimination.count)
    ones = torch.ones_like(d)[None]
    plain, other = (
        shrink(e, start[None], ones, free_phases=True) for e, start in ((elimination, d), (turned, d * turn))
    )
    torch.testing.assert_close(other.d, plain.d * turn, rtol=1e-4, atol=1e-4)  # where the steps end
    assert plain.spread < 0.4


def test_sensors_that_take_no_part_stay_out():
    elimination, d = problem(12, False, 0.3, 0.1)
    active = torch.ones(1, 40, dtype=torch.bool)
    active[0, 3] = False
    found = shrink(elimination.restrict(active), torch.ones_like(d)[None], torch.ones_like(d)[None])
    assert found.d[3] == 0
    assert found.covariance[3].abs().max() == 0
    known = active[0]
    assert error(found.d[known], d[known]) < 0.05


def test_the_covariance_has_the_size_of_the_errors():
    ratios = []
    for seed in range(12):
        elimination, d = problem(seed, False, 0.2, 1.0)
        found = shrink(elimination, torch.ones_like(d)[None], torch.ones_like(d)[None])
        alpha = float((found.d @ d) / (found.d @ found.d))
        variance = alpha**2 * torch.diagonal(found.covariance)
        ratios.append(float(((alpha * found.d - d).square() / variance).mean()))
    # 12 times 40 squares of normal numbers; variances estimated from 40 gains each are good to some 20 %.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.25)


def test_diverse_matrices_and_flags():
    rng = np.random.default_rng(13)
    d = torch.exp(0.2 * draw(rng, False, 24))
    A, x = draw(rng, False, 1, 10, 24, 6), draw(rng, False, 10, 6)
    y = (d * torch.einsum("lij,lj->li", A[0], x) + 0.01 * draw(rng, False, 10, 24))[None]
    W = (torch.rand(1, 10, 24, generator=torch.Generator().manual_seed(0)) > 0.2).double()
    found = shrink(Diverse(y * W, A, W), torch.ones_like(d)[None], torch.ones_like(d)[None])
    assert error(found.d, d) < 0.02


def test_priors_fit_their_sensors():
    like = torch.zeros(2, 3, dtype=torch.complex128)
    assert GainPrior(mean=[1, 2j, 3]).centre(like)[1].tolist() == [1, 2j, 3]
    assert GainPrior(mean=2).centre(torch.zeros(1, 2)).tolist() == [[2, 2]]
    assert GainPrior().strength == "auto"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: GainPrior(mean=0), "mean must be finite and not zero"),
        (lambda: GainPrior(mean=[1, float("nan")]), "mean must be finite and not zero"),
        (lambda: GainPrior(mean=[[1.0]]), r"mean must be a number or an array \(m,\).*shape \(1, 1\)"),
        (lambda: GainPrior(mean="one"), "mean must be a number or an array"),
        (lambda: GainPrior(strength=-1), "strength must be a number at least 0; got -1"),
        (lambda: GainPrior(strength="strong"), "strength must be 'auto' or a number at least 0; got 'strong'"),
        (lambda: GainPrior(strength=True), "strength must be 'auto' or a number at least 0; got True"),
        (lambda: GainPrior(on="logs"), "on must be one of .*Did you mean 'log'"),
        (lambda: GainPrior(mean=[1, 2]).centre(torch.zeros(1, 3)), "each of the 3 sensors; got 2"),
        (lambda: GainPrior(mean=1j).centre(torch.zeros(1, 3)), "mean of the prior must be real for real data"),
    ],
)
def test_bad_priors_are_named(call, text):
    with pytest.raises(InvalidInputError, match=text):
        call()
