"""The published quadratic problem with its exact upper level, and a small one of many samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciml.inverse.bilevel.lower import LowerProblem
from sciml.inverse.bilevel.upper import SquaredError, UpperLoss


@dataclass
class Quadratic:
    """h = |A2 x + A3 theta - b2|^2 / 2, g = |A1 x - b1|^2 / 2, with f(theta) and its minimum in closed form."""

    lower: LowerProblem
    upper: UpperLoss
    x0: np.ndarray
    f: Any
    best: float


def quadratic(seed=17, rows=1000, d=10):
    """Matrices uniform on (0, 1); the default has condition numbers like the published one, 37 and 1.8e5."""
    rng = np.random.default_rng(seed)
    A1, A2, A3 = (torch.from_numpy(rng.random((rows, d))) for _ in range(3))
    x1, x2, truth = (torch.from_numpy(rng.random(d)) for _ in range(3))
    b1 = A1 @ x1 + 0.01 * torch.from_numpy(rng.standard_normal(rows))
    b2 = A2 @ x2 + A3 @ truth + 0.01 * torch.from_numpy(rng.standard_normal(rows))
    H = A2.T @ A2
    ends = torch.linalg.eigvalsh(H)

    def h(x, theta, idx):
        return 0.5 * ((x @ A2.T + A3 @ theta - b2) ** 2).sum(1)

    def g(x):
        return 0.5 * ((x @ A1.T - b1) ** 2).sum(1)

    constants = {"mu": float(ends[0]) * (1 - 1e-9), "L": float(ends[-1]) * (1 + 1e-9), "LH": 0.0, "LJ": 0.0}
    lower = LowerProblem(h, **constants, shape=(d,), n_samples=1)
    upper = UpperLoss(g, Lg=float(torch.linalg.matrix_norm(A1, ord=2) ** 2))
    M, c = -torch.linalg.solve(H, A2.T @ A3), torch.linalg.solve(H, A2.T @ b2)

    def f(theta):
        return float(g((M @ torch.as_tensor(theta) + c)[None]))

    best = torch.linalg.lstsq(A1 @ M, (b1 - A1 @ c)[:, None]).solution[:, 0]
    return Quadratic(lower, upper, x2[None].numpy(), f, f(best))


def shrinkage(B=24, d=6, seed=0):
    """B noisy signals with two penalties, one for each half of the unknowns; f and its minimum by dense search."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((B, d)) * np.repeat([1.5, 0.8], d // 2)
    y = torch.from_numpy(truth + rng.standard_normal((B, d)))
    half = torch.arange(d) < d // 2

    def h(x, theta, idx):
        weight = torch.exp(torch.where(half, theta[0], theta[1]))
        return 0.5 * ((x - y[idx]) ** 2).sum(1) + 0.5 * (weight * x**2).sum(1)

    constants = {"mu": lambda t: 1 + torch.exp(t).min(), "L": lambda t: 1 + torch.exp(t).max()}
    lower = LowerProblem(h, **constants, LH=0.0, LJ=lambda t: torch.exp(t).max(), shape=(d,), n_samples=B)

    def f(theta):
        weight = np.exp(np.where(half.numpy(), theta[0], theta[1]))
        return 0.5 * np.mean(np.sum((y.numpy() / (1 + weight) - truth) ** 2, axis=1))

    # Each penalty has a closed form: 1 / (1 + w) = <y, truth> / <y, y> on its half.
    best = []
    for part in (half.numpy(), ~half.numpy()):
        u, v = y.numpy()[:, part], truth[:, part]
        best.append(np.log(np.sum(u * u) / np.sum(u * v) - 1))
    return Quadratic(lower, SquaredError(truth), np.zeros((B, d)), f, f(best)), np.array(best)
