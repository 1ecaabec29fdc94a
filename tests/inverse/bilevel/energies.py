"""Bilevel problems of several samples in plain torch, with their true constants, and their exact solution."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciml.exceptions import ConvergenceWarning
from sciml.inverse.bilevel.evaluate import Evaluator
from sciml.inverse.bilevel.lower import LowerProblem
from sciml.inverse.bilevel.solve import learn_hyperparameters
from sciml.inverse.bilevel.upper import SquaredError, UpperLoss


@dataclass
class Case:
    """A problem; `h` and `constants` are what `lower` was made of, so that a test can make a wrong one."""

    h: Any
    constants: dict
    lower: LowerProblem
    upper: UpperLoss
    x0: np.ndarray
    n: int
    best: np.ndarray | None = None

    def made(self, **changed):
        """The lower level with other constants."""
        return LowerProblem(self.h, **{**self.constants, **changed})

    def learn(self, theta0, *, lower=None, upper=None, quiet=True, **options):
        with warnings.catch_warnings():
            if quiet:
                warnings.simplefilter("ignore", ConvergenceWarning)
            options = {"x0": self.x0, **options}
            theta0 = np.asarray(theta0, float)
            return learn_hyperparameters(lower or self.lower, upper or self.upper, theta0, **options)

    def evaluator(self, lower=None, **options):
        return Evaluator(lower or self.lower, self.upper, torch.as_tensor(self.x0), self.n, **options)

    def truth(self, theta, x=None):
        return truth(self.h, self.upper, theta, self.x0 if x is None else x)


def truth(h, upper, theta, x0):
    """Value, gradient and solutions by dense Newton steps to rounding: another way than the one that is tested."""
    theta = torch.as_tensor(np.asarray(theta), dtype=torch.float64)
    x0 = torch.as_tensor(np.asarray(x0), dtype=torch.float64)
    total, z, solutions = 0.0, torch.zeros_like(theta), []
    for i in range(len(x0)):
        idx = torch.tensor([i])

        def energy(v, t, idx=idx, shape=x0.shape[1:]):
            return h(v.reshape(1, *shape), t, idx)[0]

        x = _minimised(lambda v, energy=energy: energy(v, theta), x0[i].reshape(-1).clone())
        v, t = x.clone().requires_grad_(), theta.clone().requires_grad_()
        H = torch.autograd.functional.hessian(lambda v, energy=energy: energy(v, theta), x)
        loss = upper.value(v.reshape(1, *x0.shape[1:]), t, idx)[0]
        by_x, by_theta = torch.autograd.grad(loss, (v, t), allow_unused=True)
        q = torch.linalg.solve(H, by_x)
        (G,) = torch.autograd.grad(energy(v, t), v, create_graph=True)
        (Jq,) = torch.autograd.grad((G * q).sum(), t, allow_unused=True)
        total += float(loss.detach())
        for part, sign in ((by_theta, 1), (Jq, -1)):
            z = z if part is None else z + sign * part
        solutions.append(x.reshape(x0.shape[1:]))
    r, dr, _ = upper.r(theta)
    z = z / len(x0)
    return total / len(x0) + r, (z if dr is None else z + dr).numpy(), torch.stack(solutions)


def _minimised(energy, x):
    for _ in range(60):
        v = x.clone().requires_grad_()
        value = energy(v)
        (G,) = torch.autograd.grad(value, v)
        p = torch.linalg.solve(torch.autograd.functional.hessian(energy, x), -G)
        t, start = 1.0, float(value.detach())
        while t > 1e-9 and float(energy(x + t * p)) > start + 1e-4 * t * float(G @ p) + 1e-14 * abs(start):
            t /= 2
        x = x + t * p
        if t <= 1e-9 or float((t * p).norm()) <= 1e-15 * float(x.norm()):
            break
    return x


def _products(A, x):
    """A x for each sample, by sums whose bits do not depend on how many samples there are."""
    return (A * x[:, None]).sum(2)


def least_squares(seed=3, B=3, d=5, n=2, condition=20.0, noise=0.3, scale=1.0):
    """h = x' A x / 2 - x' (C theta + b): x is linear in theta, so that the best theta is known by least squares."""
    rng = np.random.default_rng(seed)
    spectrum = np.logspace(0, math.log10(condition), d)
    bases = [np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(B)]
    A = np.stack([Q @ np.diag(spectrum) @ Q.T for Q in bases])
    C, b, told = rng.standard_normal((B, d, n)), rng.standard_normal((B, d)), rng.standard_normal(n)
    M, c = np.linalg.solve(A, C), np.linalg.solve(A, b[..., None])[..., 0]
    x_true = M @ told + c + noise * rng.standard_normal((B, d))
    best = np.linalg.lstsq(M.reshape(-1, n), (x_true - c).ravel(), rcond=None)[0]
    A, C, b = (torch.from_numpy(part) for part in (A, scale * C, scale * b))

    def h(x, theta, idx):
        pull = _products(C[idx], theta.to(C).expand(len(x), n)) + b[idx]
        return (x * (0.5 * _products(A[idx].to(x), x) - pull)).sum(1)

    constants = {"mu": 1 - 1e-9, "L": condition * (1 + 1e-9), "LH": 0.0, "LJ": 0.0}
    case = Case(h, constants, LowerProblem(h, **constants), SquaredError(scale * x_true), np.zeros((B, d)), n, best)
    return case, (M.reshape(-1, n), (x_true - c).ravel())


# Largest second and third derivatives of the losses of a row.
_CURVATURES = {"logistic": (0.25, 1 / (6 * math.sqrt(3))), "huber": (1.0, 1.5 / 1.25**2.5)}


def regression(kind="huber", seed=0, B=3, d=4, n=2, rows=12, feels_theta=False, r=None):
    """Mean of a convex loss of rows and a ridge exp(theta) for each of n groups; half a squared error held out."""
    rng = np.random.default_rng(seed)
    A, V = (torch.from_numpy(rng.standard_normal((B, rows, d))) for _ in range(2))
    w = torch.from_numpy(rng.standard_normal((B, d)))
    score, group = _products(A, w), torch.arange(d) % n
    y = score + torch.from_numpy(rng.standard_normal((B, rows)))
    target = _products(V, w) + 0.5 * torch.from_numpy(rng.standard_normal((B, rows)))

    def losses(u, idx):
        if kind == "logistic":
            return torch.nn.functional.softplus(-torch.sign(y[idx]) * u)
        return torch.sqrt(1 + (u - y[idx]) ** 2)

    def h(x, theta, idx):
        fit = losses(_products(A[idx], x), idx).mean(1)
        return fit + 0.5 * (torch.exp(theta[group]) * x**2).sum(1)

    def g(x, theta, idx):
        miss = _products(V[idx], x) - target[idx]
        return 0.5 * ((miss - theta[0] if feels_theta else miss) ** 2).mean(1)

    second, third = _CURVATURES[kind]
    power = torch.linalg.matrix_norm(A, ord=2) ** 2 / rows
    constants = {
        "mu": lambda t: torch.exp(t.min()),
        "L": lambda t: second * power * (1 + 1e-9) + torch.exp(t.max()),
        "LH": third * power * A.norm(dim=2).amax(1) * (1 + 1e-9),
        "LJ": lambda t: torch.exp(t.max()),
    }
    Lg = torch.linalg.matrix_norm(V, ord=2) ** 2 / rows * (1 + 1e-9)
    Lt = V.mean(1).norm(dim=1) * (1 + 1e-9) if feels_theta else 0.0
    return Case(h, constants, LowerProblem(h, **constants), UpperLoss(g, Lg, Lt=Lt, r=r), np.zeros((B, d)), n)


def shrinking(to=0.3, B=3, noise=0.0, seed=0):
    """One number theta: the data are to be shrunk by 1 / (1 + exp(theta)); best at log(1 / to - 1) without noise."""
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(rng.standard_normal((B, 3)) + 1.0)

    def h(x, theta, idx):
        return 0.5 * ((x - y[idx].to(x)) ** 2).sum(1) + 0.5 * torch.exp(theta[0]) * (x**2).sum(1)

    constants = {"mu": lambda t: 1 + torch.exp(t[0]), "LH": 0.0, "LJ": lambda t: torch.exp(t[0])}
    x_true = to * y.numpy() + noise * rng.standard_normal((B, 3))
    u, v = y.numpy().ravel(), x_true.ravel()
    best = np.array([np.log(u @ u / (u @ v) - 1)])
    return Case(h, constants, LowerProblem(h, **constants), SquaredError(x_true), np.zeros((B, 3)), 1, best)
