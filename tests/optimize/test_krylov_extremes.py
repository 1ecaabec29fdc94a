"""lanczos_extremes: Ritz values within the spectrum, its ends after enough steps, exhausted samples."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse.linalg import eigsh

from sciml.exceptions import InvalidInputError
from sciml.optimize import lanczos_extremes
from tests.optimize.samples import Quadratics, spread


def test_finds_the_whole_spectrum_in_as_many_steps_as_dimensions(rng):
    problem = Quadratics([np.linspace(-3, 5, 25), np.geomspace(1e-3, 1e3, 25), np.linspace(1, 2, 25)], rng)
    lowest, highest = lanczos_extremes(problem.hvp, problem.b, n_steps=99)
    assert problem.used.tolist() == [25, 25, 25]
    assert_allclose(lowest, [-3, 1e-3, 1], rtol=1e-9)
    assert_allclose(highest, [5, 1e3, 2], rtol=1e-12)


def test_ends_of_the_spectrum_come_from_within(rng):
    problem = Quadratics(np.concatenate([np.linspace(1, 2, 198), [0.2, 9.0]])[None], rng)
    seen = [lanczos_extremes(problem.hvp, problem.b, n_steps=k) for k in (1, 2, 4, 8, 16, 32)]
    lowest, highest = (np.array([float(pair[i]) for pair in seen]) for i in (0, 1))
    assert lowest[0] == highest[0]
    assert (np.diff(lowest) <= 1e-12).all()
    assert (np.diff(highest) >= -1e-12).all()
    assert_allclose(lowest[-1], 0.2, rtol=1e-9)
    assert_allclose(highest[-1], 9.0, rtol=1e-12)
    assert (lowest >= 0.2 - 1e-12).all()
    assert_allclose(highest[-2], eigsh(problem.H[0].numpy(), 1, which="LA", return_eigenvectors=False)[0], rtol=1e-6)


def test_orthogonality_outlives_convergence(rng):
    # The largest eigenvalue converges at once; without orthogonalisation copies of it come up in place of the others.
    eigenvalues = np.concatenate([np.geomspace(1e-6, 1e-4, 39), [1e6]])
    problem = Quadratics(np.ones((1, 40)), rng)
    problem.H = torch.diag(torch.from_numpy(eigenvalues))[None]
    lowest, highest = lanczos_extremes(problem.hvp, problem.b, n_steps=40)
    assert_allclose(highest, 1e6, rtol=1e-12)
    assert 0 < lowest.item() < 2e-6 + 1e6 * 1e-15


def test_exhausted_samples_leave(rng):
    eigenvalues = np.stack([np.linspace(1, 9, 12), np.repeat([2.0, 3.0, 7.0], 4), np.full(12, 4.0)])
    problem = Quadratics(eigenvalues, rng)
    problem.H = torch.diag_embed(torch.from_numpy(eigenvalues))  # equal to the last bit
    lowest, highest = lanczos_extremes(problem.hvp, problem.b, n_steps=12)
    assert problem.used.tolist() == [12, 3, 1]
    assert_allclose(lowest, [1, 2, 4], rtol=1e-12)
    assert_allclose(highest, [9, 7, 4], rtol=1e-12)


def test_vectors_and_products_that_are_zero_or_no_numbers(rng):
    problem = Quadratics(spread(4, 9, 10.0), rng)
    start = problem.b.clone()
    start[0], start[1, 2] = 0.0, torch.nan
    problem.H[2, 3, 3] = torch.inf
    lowest, highest = lanczos_extremes(problem.hvp, start, n_steps=9)
    assert lowest[0] == torch.inf
    assert highest[0] == 0
    assert torch.isnan(lowest[1:3]).all()
    assert torch.isnan(highest[1:3]).all()
    assert_allclose([lowest[3], highest[3]], [1, 10], rtol=1e-10)
    zero = lanczos_extremes(lambda v, rows: 0 * v, problem.b, n_steps=5)
    assert [end.tolist() for end in zero] == [[0.0] * 4, [0.0] * 4]


def test_a_sample_is_the_same_in_any_company(rng):
    problem = Quadratics([np.linspace(1, 9, 13), np.geomspace(1, 1e4, 13), np.full(13, 4.0)], rng)
    together = lanczos_extremes(problem.hvp, problem.b, n_steps=7)
    for i in range(3):
        part = problem.some(torch.tensor([i]))
        alone = lanczos_extremes(part.hvp, part.b, n_steps=7)
        assert [end.item() for end in alone] == [end[i].item() for end in together]


@pytest.mark.parametrize("unit", [2.0**40, 2.0**-40])
def test_units_and_the_length_of_the_start_do_not_matter(rng, unit):
    problem = Quadratics(spread(2, 13, 1e3), rng)
    one = lanczos_extremes(problem.hvp, problem.b, n_steps=6)
    part = problem.some(torch.arange(2), unit)
    two = lanczos_extremes(part.hvp, 4 * unit * problem.b, n_steps=6)
    assert all(torch.equal(unit * a, b) for a, b in zip(one, two, strict=True))


def test_float32_shapes_and_small_cases(rng):
    weight = torch.from_numpy(1 + rng.random((2, 3, 4))).float().requires_grad_()
    lowest, highest = lanczos_extremes(lambda v, rows: weight[rows] * v, torch.ones(2, 3, 4), n_steps=12)
    assert lowest.dtype == torch.float64
    assert not lowest.requires_grad
    assert_allclose(lowest, weight.detach().flatten(1).amin(1), rtol=1e-5)
    assert_allclose(highest, weight.detach().flatten(1).amax(1), rtol=1e-5)
    one = lanczos_extremes(lambda v, rows: -3 * v, torch.full((1, 1), 7.0).double(), n_steps=3)
    assert [end.item() for end in one] == [-3.0, -3.0]
    assert len(lanczos_extremes(lambda v, rows: v, torch.zeros(0, 3), n_steps=3)[0]) == 0


def test_errors_name_the_argument(rng):
    with pytest.raises(InvalidInputError, match="n_steps must be an integer at least 1; got 0"):
        lanczos_extremes(lambda v, rows: v, torch.ones(2, 3), n_steps=0)
    with pytest.raises(InvalidInputError, match="v0 must be a floating-point tensor"):
        lanczos_extremes(lambda v, rows: v, torch.ones(3), n_steps=2)
