"""The same answer on CUDA and on the CPU."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sciml.solvers.gp_pde import PDE, Box, Dirichlet, Region, solve_pde

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
