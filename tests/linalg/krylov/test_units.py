"""All methods give the same digits in any units, those whose squares overflow or underflow included."""

import numpy as np
import pytest
import torch

from sciml.linalg import cg, gmres, jacobi, lsmr, minres, stochastic_logdet
from tests.linalg.krylov.systems import rotation


def system(n, rng):
    """A positive definite matrix of condition 30, a right side and the answer."""
    Q = rotation(n, rng)
    A, b = (Q * np.geomspace(1, 30, n)) @ Q.T, rng.standard_normal(n)
    return (A + A.T) / 2, b, np.linalg.solve(A, b)


@pytest.mark.parametrize("k", [-900, -665, 900])
@pytest.mark.parametrize(
    ("method", "preconditioned"),
    [(method, False) for method in (cg, minres, gmres, lsmr)] + [(method, True) for method in (cg, minres, gmres)],
)
def test_units_beyond_the_square_root_of_the_range(method, preconditioned, k, rng):
    A, b, x = system(12, rng)
    options = {"M": np.diag(np.ldexp(1 / np.diag(A), -k))} if preconditioned else {}
    for k_b in (0, k):
        run = method(np.ldexp(A, k), np.ldexp(b, k_b), **options)
        assert run.converged
        np.testing.assert_allclose(np.ldexp(run.value, k - k_b), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [-665, 900])
def test_an_indefinite_matrix_is_named_in_the_units_of_the_user(k):
    A = np.ldexp(np.diag([1.0, -1.0, 3.0]), k)
    run = cg(A, np.array([0.0, 1.0, 0.0]), on_failure="ignore")
    assert f"<p, A p> = {-(2.0**k):.3g} <p, p>" in run.reason
    run = cg(np.eye(3), np.array([0.0, 1.0, 0.0]), M=A, on_failure="ignore")
    assert f"<r, M r> = {-(2.0**k):.3g} <r, r>" in run.reason


@pytest.mark.parametrize("damp", [0.0, 2.0])
def test_damped_least_squares_in_tiny_units(damp, rng):
    A, b = rng.standard_normal((20, 5)), rng.standard_normal(20)
    x = np.linalg.solve(A.T @ A + damp**2 * np.eye(5), A.T @ b)
    run = lsmr(np.ldexp(A, -700), np.ldexp(b, -700), damp=np.ldexp(damp, -700), x0=0.5 * x)
    assert run.converged
    np.testing.assert_allclose(run.value, x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("k", [-665, 665])
def test_determinants_in_tiny_and_huge_units(k, preconditioned, rng):
    A = np.ldexp(system(12, rng)[0], k)
    options = {"M": jacobi(A)} if preconditioned else {}
    run = stochastic_logdet(A, n_probes=200, random_state=0, **options)
    assert abs(run.value - np.linalg.slogdet(A)[1]) < 4 * run.standard_error < 2


def test_the_derivative_of_a_determinant_in_huge_units(rng):
    A = torch.tensor(np.ldexp(np.diag(np.arange(1.0, 5)), 300), requires_grad=True)
    stochastic_logdet(A, random_state=0).value.backward()
    np.testing.assert_allclose(np.diag(A.grad) * np.diag(A.detach()), 1, rtol=1e-5)
