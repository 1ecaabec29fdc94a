"""Problems of bilevel learning, with the value that counts as solved; each is ``Problem(lower, upper, theta0, ...)``.

The quadratic and the denoising problems are those of Salehi, Mukherjee, Roberts, Ehrhardt (arXiv 2308.10098, section
4), on data that need no download: photographs of scikit-image for Kodak's, digits of scikit-learn for MNIST.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

FIELD_IMAGES = ["camera", "astronaut", "coffee", "chelsea", "rocket", "brick"]


@dataclass
class Problem:
    """One problem.

    Parameters
    ----------
    lower, upper : Lower, UpperLoss
        The two levels.
    theta0 : ndarray, shape (n,)
        Start.
    target : float
        Value of the upper level that counts as solved.
    options : dict
        More arguments of `learn_hyperparameters`.
    """

    lower: Any
    upper: Any
    theta0: np.ndarray
    target: float
    options: dict = field(default_factory=dict)


def quadratic(seed=0, n_rows=1000, d=10):
    """Return the quadratic problem, to a relative gap of 1e-6; its optimum is a linear least-squares problem."""
    import torch

    from sciml.inverse.bilevel import LowerProblem, UpperLoss

    rng = np.random.RandomState(seed)
    A1, A2, A3 = (rng.uniform(0, 1, (n_rows, d)) for _ in range(3))
    x1, x2, theta_e = (rng.uniform(0, 1, d) for _ in range(3))
    b1 = A1 @ x1 + 0.01 * rng.randn(n_rows)
    b2 = A2 @ x2 + A3 @ theta_e + 0.01 * rng.randn(n_rows)
    response = -np.linalg.solve(A2.T @ A2, A2.T @ A3)
    offset = np.linalg.solve(A2.T @ A2, A2.T @ b2)
    best = np.linalg.lstsq(A1 @ response, b1 - A1 @ offset, rcond=None)[0]
    optimum = 0.5 * np.sum((A1 @ (response @ best + offset) - b1) ** 2)
    t1, t2, t3, s1, s2 = map(torch.as_tensor, (A1, A2, A3, b1, b2))

    def h(x, theta, idx):
        return 0.5 * ((x @ t2.T + t3 @ theta - s2) ** 2).sum(1)

    def g(x):
        return 0.5 * ((x @ t1.T - s1) ** 2).sum(1)

    low, high = np.linalg.eigvalsh(A2.T @ A2)[[0, -1]]
    lower = LowerProblem(h, mu=low, L=high, LH=0.0, LJ=0.0)
    upper = UpperLoss(g, Lg=np.linalg.eigvalsh(A1.T @ A1)[-1])
    return Problem(lower, upper, np.ones(d), optimum * (1 + 1e-6), {"x0": x2[None], "check": False})


def total_variation(theta0=(-5.0, -5.0)):
    """Return denoising of eight photographs by total variation with learned weight and smoothing."""
    import torch

    from sciml import datasets
    from sciml.inverse.bilevel import Differences, Exp, SquaredError, StructuredLower, Term

    clean = datasets.photographs("sk8")
    noisy = datasets.noisy(clean, 0.1, 19)
    term = Term(Differences(), "smooth-abs", weight=Exp(0, scale=0.5), nu=Exp(1))
    lower = StructuredLower(None, torch.as_tensor(noisy), [term])
    return Problem(lower, SquaredError(clean), np.array(theta0), 11.27220)


def field_of_experts(n_filters=10, size=5, seed=0):
    """Return denoising of six photographs by learned filters, to a value below that of total variation (4.3876)."""
    from sciml import datasets
    from sciml.inverse.bilevel import Exp, Filters, SquaredError, StructuredLower, Term

    clean = datasets.photographs(FIELD_IMAGES, size=64)
    noisy = datasets.noisy(clean, 0.1, 19)
    k, rng = n_filters, np.random.default_rng(seed)
    filters = rng.standard_normal((k, size, size)) * np.sqrt(2 / ((1 + k) * size**2))
    filters -= filters.mean(axis=(1, 2), keepdims=True)
    theta0 = np.concatenate([[-3.0], np.full(k, -3.0), np.full(k, -3.5), filters.ravel()])
    where = Filters(index=slice(1 + 2 * k, len(theta0)), n_filters=k, size=size)
    term = Term(where, "smooth-abs", weight=Exp(0, slice(1, 1 + k), scale=0.5), nu=Exp(slice(1 + k, 1 + 2 * k)))
    return Problem(StructuredLower(None, noisy, [term]), SquaredError(clean), theta0, 4.15)


def digits():
    """Return multinomial logistic regression on digits with one penalty a weight, 640 in all."""
    from sklearn.datasets import load_digits

    from sciml.inverse.bilevel import HeldOut, LinearModel

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))
    X, y = data.data[order] / 16, data.target[order]
    lower = LinearModel(X[:900], y[:900], loss="multinomial", penalty="weight")
    upper = HeldOut("multinomial", X[900:1350], y[900:1350])
    return Problem(lower, upper, np.full(640, -3.0), 0.0522, {"bounds": (-10, 8)})


PROBLEMS = {
    "quadratic, n = 10": quadratic,
    "total variation, 8 x 96^2, n = 2": total_variation,
    "field of experts, 6 x 64^2, n = 271": field_of_experts,
    "digits, 640 penalties": digits,
}
