"""Dense factorisations: equilibration, condition estimates."""

import numpy as np
import pytest
import scipy.linalg
import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.operators import Dense
from sciml.linalg.operators.direct import DenseFactor, equilibrated, inverse_norm, power_of_two


@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_estimate_of_the_inverse_is_close_and_never_above(n, dtype, rng):
    A = torch.from_numpy(rng.standard_normal((5, n, n)).astype(dtype))
    if A.is_complex():
        A = A + 1j * torch.from_numpy(rng.standard_normal((5, n, n)))
    exact = torch.linalg.matrix_norm(torch.linalg.inv(A), 1)
    found = inverse_norm(lambda B: torch.linalg.solve(A, B), lambda B: torch.linalg.solve(A.mH, B), A)
    assert bool((found <= exact * (1 + 1e-12)).all())
    assert bool((found >= exact / 3).all())


def test_a_matrix_that_fools_the_gradient_steps_is_caught():
    # Neither ones nor the first unit vector see the large part, and ties lead back to them.
    n = 8
    inverse = np.eye(n) + 1e8 * np.outer(np.r_[1.0, -1.0, np.zeros(n - 2)], np.r_[0.0, 1.0, -1.0, np.zeros(n - 3)])
    inverse = torch.from_numpy(inverse)
    found = inverse_norm(lambda B: inverse @ B, lambda B: inverse.mH @ B, inverse)
    assert float(found) > np.linalg.norm(inverse.numpy(), 1) / 10


def test_a_hilbert_matrix_has_its_known_condition():
    A = torch.from_numpy(scipy.linalg.hilbert(6))
    # The scaled matrix is better than the raw one, 2.9e7.
    assert 1e5 < DenseFactor(A, posdef=True).condition() < 2.9e7
    assert 1e5 < DenseFactor(A, posdef=False).condition() < 2.9e7


def test_scales_are_powers_of_two_and_level_the_matrix(rng):
    A = torch.from_numpy(rng.standard_normal((4, 6, 6)) * np.logspace(-8, 8, 6)[:, None] * np.logspace(5, -5, 6))
    rows, scaled, columns = equilibrated(A)
    for scale in (rows, columns):
        assert bool((torch.frexp(scale)[0] == 0.5).all())
    torch.testing.assert_close(scaled, rows[..., None] * A * columns[..., None, :], rtol=0, atol=0)
    assert 0.25 <= float(scaled.abs().amax(-1).min()) <= float(scaled.abs().max()) <= 2
    assert float(power_of_two(torch.tensor(0.0))) == 1


@pytest.mark.parametrize("posdef", [True, False])
def test_units_of_each_variable_do_not_matter(posdef, rng):
    R = rng.standard_normal((6, 6))
    A, b = R @ R.T + np.eye(6), rng.standard_normal(6)
    s = 2.0 ** rng.integers(-40, 40, 6)
    one, other = Dense(A, posdef=posdef), Dense(s[:, None] * A * s, posdef=posdef)
    np.testing.assert_allclose(other.solve(s * b) * s, one.solve(b), rtol=1e-13)
    assert other.solve_run(s * b).condition == pytest.approx(one.solve_run(b).condition, rel=100)
    assert other.logdet() == pytest.approx(one.logdet() + 2 * np.log(s).sum(), rel=1e-13)


@pytest.mark.parametrize("k", [-160, 160])
def test_extreme_sizes_are_solved(k, rng):
    A, b = rng.standard_normal((4, 4)) + 4 * np.eye(4), rng.standard_normal(4)
    np.testing.assert_array_equal(Dense(A * 2.0**k).solve(b * 2.0**k), Dense(A).solve(b))
    assert Dense(A * 2.0**k).solve_run(b * 2.0**k).residual < 1e-15


def test_the_determinant_has_the_sign_of_the_permutation(rng):
    for n in (2, 3, 8):
        P = np.eye(n)[rng.permutation(n)]
        sign, value = Dense(P * 3.0).slogdet()
        assert sign == np.linalg.det(P).round()
        assert value == pytest.approx(n * np.log(3))


def test_a_batch_with_one_singular_matrix_names_it():
    A = np.stack([np.eye(2), np.ones((2, 2)), np.eye(2)])
    with pytest.raises(InvalidInputError, match="number 1 of the batch has pivot 1 is exactly zero"):
        Dense(A).solve(np.ones(2))
