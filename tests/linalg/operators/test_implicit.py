"""Solves and determinants with derivatives: what the generic tests do not reach."""

import numpy as np
import pytest
import torch

import sciml
from sciml.exceptions import ConvergenceError, ConvergenceWarning, InvalidInputError
from sciml.linalg.operators import Circulant, Dense, Diagonal, Function, LowRank, Product, Sum, Toeplitz
from sciml.linalg.operators.implicit import Options, choose, solve


def test_the_choice_is_told():
    small, large = Sum(Diagonal(np.ones(4)), Circulant(np.eye(4)[1])), Function(lambda x: x, (2000, 2000), posdef=True)
    assert choose(small, "auto") == ("dense", "direct: LU of the dense matrix, n=4")
    assert choose(large, "auto") == ("krylov", "cg: no direct method for Function of n=2000")
    assert choose(large, "direct")[0] == "dense"
    assert choose(Diagonal(np.ones(4)), "auto") == ("direct", "direct: division by the diagonal, n=4")
    assert choose(Dense(np.eye(3)), "krylov") == ("krylov", "gmres: asked for")


def test_the_backward_pass_uses_the_factorisation_of_the_forward_pass():
    A = Dense(torch.eye(3, dtype=torch.float64, requires_grad=True))
    x = A.solve(torch.ones(3, dtype=torch.float64))
    (kept,) = [value for key, value in A._cache.items() if key == "factor"]
    x.sum().backward()
    assert A._cache["factor"] is kept


def test_only_what_is_needed_is_differentiated(rng):
    A = torch.from_numpy(rng.standard_normal((3, 3)))
    b = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(Dense(A).solve(b).sum(), b)
    torch.testing.assert_close(gradient, torch.linalg.solve(A.T, torch.ones(3, dtype=torch.float64)))


def test_complex_right_sides_of_real_operators(rng):
    z = rng.standard_normal(5) + 1j * rng.standard_normal(5)
    for A in (
        Toeplitz([3.0, 1.0, 0.5, 0, 0]),
        Dense(np.diag(np.arange(1.0, 6))),
        LowRank(np.ones((5, 1)), diagonal=2.0),
    ):
        np.testing.assert_allclose(A @ A.solve(z), z, rtol=1e-12)


@pytest.mark.parametrize("adjoint", [False, True])
def test_tensors_go_straight(adjoint, rng):
    A, B = torch.from_numpy(rng.standard_normal((4, 4))), torch.from_numpy(rng.standard_normal((4, 2)))
    note = {}
    found = solve(Dense(A), B, Options(), note, adjoint=adjoint)
    torch.testing.assert_close(found, torch.linalg.solve(A.T if adjoint else A, B))
    assert note["reason"].startswith("direct: LU")


def test_three_derivatives_deep():
    # d^3/dc^3 of 1/c
    c = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    value = Dense(c[None, None]).solve(torch.ones(1, dtype=torch.float64)).sum()
    for _ in range(3):
        (value,) = torch.autograd.grad(value, c, create_graph=True)
    assert value.item() == pytest.approx(-6 / 16)


def test_a_large_determinant_is_estimated_and_says_so(monkeypatch):
    monkeypatch.setattr("sciml.linalg.operators.implicit._DENSE_LOGDET", 100)
    rho = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    A = Toeplitz(rho ** torch.arange(400))
    with sciml.trace() as log:
        value = A.logdet(n_probes=64)
    (entry,) = [entry for entry in log if entry["operation"] == "logdet"]
    assert entry["engine"] == "stochastic Lanczos"
    error = float(entry["reason"].rpartition(" ")[2])
    # det = (1 - rho^2)^(n - 1)
    assert value.item() == pytest.approx(399 * np.log(0.75), abs=4 * error)
    (gradient,) = torch.autograd.grad(value, rho)
    assert float(gradient) == pytest.approx(399 * (-2 * 0.5 / 0.75), rel=0.1)
    assert A.logdet(n_probes=64).item() == value.item()  # the same seed
    assert A.logdet(method="exact").item() == pytest.approx(399 * np.log(0.75), rel=1e-12)


def test_an_estimate_needs_definiteness():
    with pytest.raises(InvalidInputError, match="A must be positive definite for a stochastic logdet"):
        Dense(np.eye(3)).logdet(method="stochastic")


def test_iterations_in_float32(rng):
    c = torch.tensor(np.r_[2.0, -0.9, np.zeros(1998)], dtype=torch.float32, requires_grad=True)
    b = torch.from_numpy(rng.standard_normal(2000)).float().requires_grad_()
    A = Toeplitz(c, posdef=True)
    run = A.solve_run(b)
    assert run.value.dtype == torch.float32
    assert run.residual <= 1e-5
    exact = A.solve_run(b, tol=1e-10)
    assert exact.value.dtype == torch.float64
    assert exact.residual <= 1e-10
    for value in (run.value, exact.value):
        by_c, by_b = torch.autograd.grad(value.sum(), (c, b))
        assert by_c.dtype == by_b.dtype == torch.float32
        wanted = Toeplitz(c.detach().double(), posdef=True).solve(torch.ones(2000, dtype=torch.float64), tol=1e-12)
        torch.testing.assert_close(by_b.double(), wanted, rtol=1e-3, atol=1e-4)


def test_a_missed_tolerance_is_told_at_the_line_of_the_caller(rng):
    A, b = Toeplitz(np.r_[2.0, -1.0, np.zeros(1998)], posdef=True), rng.standard_normal(2000)
    with pytest.warns(ConvergenceWarning, match="cg stopped after 3 iterations with a residual of .*max_iter") as told:
        run = A.solve_run(b, max_iter=3)
    assert told[0].filename == __file__
    assert not run.converged
    with pytest.raises(ConvergenceError, match="cg stopped after 3 iterations"):
        A.solve(b, max_iter=3, on_failure="raise")
    assert not A.solve_run(b, max_iter=3, on_failure="ignore").converged


def test_a_product_of_many_kinds(rng):
    d = torch.from_numpy(rng.uniform(1, 2, 4)).requires_grad_()
    c = torch.tensor([3.0, 0.5, 0.2, 0.1], dtype=torch.float64, requires_grad=True)

    def value(d, c):
        A = 2.0 * Product(Diagonal(d), Toeplitz(c), Diagonal(d)) + Circulant(c)
        return A.logdet() + A.solve(d).sum()

    assert torch.autograd.gradcheck(value, (d, c))
    assert torch.autograd.gradgradcheck(value, (d, c))
