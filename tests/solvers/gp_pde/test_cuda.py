"""The same answer on CUDA and on the CPU."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Initial, Region, solve_pde

LAPLACE = {(2, 0): 1.0, (0, 2): 1.0}


def u(X):
    return np.sin(30 * X[:, 0]) * np.cos(20 * X[:, 1])


def disc():
    t = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    return Region([(-1, 1)] * 2, lambda X: np.hypot(X[:, 0], X[:, 1]) < 1, np.c_[np.cos(t), np.sin(t)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("domain", [Box([(-1, 1)] * 2), disc()], ids=["box", "disc"])
def test_cuda_gives_the_answer_of_the_cpu(domain, rng):
    pde = PDE(domain, LAPLACE, lambda X: -1300 * u(X), [Dirichlet(u)])
    X = 0.6 * (2 * rng.random((50, 2)) - 1)
    host, card = solve_pde(pde, device="cpu"), solve_pde(pde, device="cuda")
    assert card.status == host.status == "converged"
    assert_allclose(card(X), host(X), rtol=0, atol=1e-10)
    assert np.all(card.std(X) < 1e-8)
    assert card.sample(X, 2, random_state=0).shape == (2, 50)


def cubic(X, u):
    return u**3 - u


def wave(X):
    return np.cos(9 * (X[:, 0] + X[:, 1]))


PROBLEMS = {
    "nonlinear on products of axes": lambda: PDE(
        Box([(-1, 1)] * 2), LAPLACE, lambda X: -1300 * u(X) + u(X) ** 3 - u(X), [Dirichlet(u)], nonlinear=cubic
    ),
    "nonlinear at scattered points": lambda: PDE(
        disc(), LAPLACE, lambda X: -162 * wave(X) + wave(X) ** 3 - wave(X), [Dirichlet(wave)], nonlinear=cubic
    ),
    "two unknowns": lambda: PDE(
        Box([(0, 2)]),
        [{"u": {1: 1.0}, "v": {0: -7.0}}, {"v": {1: 1.0}, "u": {0: 7.0}}],
        conditions=[Initial(0.0, unknown="u"), Initial(1.0, unknown="v")],
        unknowns=("u", "v"),
    ),
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", PROBLEMS)
def test_cuda_gives_the_answer_of_the_cpu_for_nonlinear_problems_and_systems(name, rng):
    pde = PROBLEMS[name]()
    X = pde.domain.box.lower + (pde.domain.box.upper - pde.domain.box.lower) * (
        0.2 + 0.6 * rng.random((50, pde.n_dims))
    )
    host, card = solve_pde(pde, device="cpu"), solve_pde(pde, device="cuda")
    assert card.status == host.status == "converged"
    assert_allclose(card(X), host(X), rtol=0, atol=1e-10)
