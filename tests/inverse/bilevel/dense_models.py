"""Small bilevel problems written out in dense matrices, with their true constants: the truth that engines are held to.

A model has theta (n,), `h(x)` with gradient, Hessian and J, a loss `g` with gradient, and mu, L, Lg, LH, LJ by the
mathematics of the model. All is NumPy in float64, one sample.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

CUBIC = 1 / (6 * np.sqrt(3))  # the largest |third derivative| of log(1 + exp(t))


def sigmoid(t):
    return 1 / (1 + np.exp(-t))


@dataclass
class Model:
    """The functions take x (d,) and, last, theta (n,)."""

    theta: np.ndarray
    dim: int
    gradient: Any  # (d,)
    hessian: Any  # (d, d)
    J: Any  # (d, n)
    g: Any
    grad_g: Any  # (d,)
    mu: float
    L: float
    Lg: float
    LH: float
    LJ: float

    def solve(self, theta=None):
        """The minimiser to rounding, by Newton's method with a step that is halved until the gradient falls."""
        theta = self.theta if theta is None else theta
        x = np.zeros(self.dim)
        for _ in range(100):
            G = self.gradient(x, theta)
            size = np.linalg.norm(G)
            p, t = np.linalg.solve(self.hessian(x, theta), -G), 1.0
            while t > 1e-8 and np.linalg.norm(self.gradient(x + t * p, theta)) > (1 - 0.1 * t) * size:
                t /= 2
            if t <= 1e-8:
                return x
            x = x + t * p
        return x

    def value(self, theta):
        """The function of theta that is learned."""
        return self.g(self.solve(theta))

    def hypergradient(self, theta=None):
        theta = self.theta if theta is None else theta
        x = self.solve(theta)
        return -self.J(x, theta).T @ np.linalg.solve(self.hessian(x, theta), self.grad_g(x))


def held_out(rng, X, w):
    """Logistic loss on rows of its own: g, its gradient, and its Lipschitz constant."""
    V = rng.standard_normal(X.shape)
    s = np.sign(V @ w + 0.5 * rng.standard_normal(len(V)))

    def g(x):
        return np.logaddexp(0, -s * (V @ x)).mean()

    def grad_g(x):
        return -V.T @ (s * sigmoid(-s * (V @ x))) / len(V)

    return g, grad_g, np.linalg.norm(V, 2) ** 2 / len(V) / 4


def squared_error(w):
    return lambda x: 0.5 * np.sum((x - w) ** 2), lambda x: x - w, 1.0


def logistic(rng, N=200, d=20, log_penalty=-1.0, loss="held-out"):
    """Logistic regression, mean loss, with one ridge exp(theta_j) a feature; the thetas spread around `log_penalty`."""
    X, w = rng.standard_normal((N, d)), rng.standard_normal(d)
    y = np.sign(X @ w + 0.5 * rng.standard_normal(N))
    theta = log_penalty + 0.5 * rng.standard_normal(d)
    g, grad_g, Lg = held_out(rng, X, w) if loss == "held-out" else squared_error(w)
    power = np.linalg.norm(X, 2) ** 2 / N

    def hessian(x, theta):
        s = sigmoid(X @ x)
        return (X.T * (s * (1 - s))) @ X / N + np.diag(np.exp(theta))

    return Model(
        theta,
        d,
        lambda x, theta: -X.T @ (y * sigmoid(-y * (X @ x))) / N + np.exp(theta) * x,
        hessian,
        lambda x, theta: np.diag(np.exp(theta) * x),
        g,
        grad_g,
        mu=np.exp(theta).min(),
        L=power / 4 + np.exp(theta).max(),
        Lg=Lg,
        # Rows change by at most CUBIC |X_i (x - x')| <= CUBIC max ||X_i|| ||x - x'||.
        LH=CUBIC * np.linalg.norm(X, axis=1).max() * power,
        LJ=np.exp(theta).max(),
    )


def ridge(rng, N=30, d=10, log_penalty=-1.0):
    """Least squares with one ridge a feature: H is constant, J is not."""
    X, w = rng.standard_normal((N, d)), rng.standard_normal(d)
    y = X @ w + 0.5 * rng.standard_normal(N)
    theta = log_penalty + 0.5 * rng.standard_normal(d)
    g, grad_g, Lg = squared_error(w)
    spectrum = np.linalg.eigvalsh(X.T @ X / N + np.diag(np.exp(theta)))
    return Model(
        theta,
        d,
        lambda x, theta: X.T @ (X @ x - y) / N + np.exp(theta) * x,
        lambda x, theta: X.T @ X / N + np.diag(np.exp(theta)),
        lambda x, theta: np.diag(np.exp(theta) * x),
        g,
        grad_g,
        mu=spectrum[0],
        L=spectrum[-1],
        Lg=Lg,
        LH=0.0,
        LJ=np.exp(theta).max(),
    )


def quadratic(rng, N=30, d=8, n=5):
    """h = ||A x + C theta - b||^2 / 2 and g another sum of squares: H and J are constant."""
    A, C, b = rng.standard_normal((N, d)), rng.standard_normal((N, n)), rng.standard_normal(N)
    V, v = rng.standard_normal((N, d)), rng.standard_normal(N)
    spectrum = np.linalg.eigvalsh(A.T @ A)
    return Model(
        rng.standard_normal(n),
        d,
        lambda x, theta: A.T @ (A @ x + C @ theta - b),
        lambda x, theta: A.T @ A,
        lambda x, theta: A.T @ C,
        lambda x: 0.5 * np.sum((V @ x - v) ** 2),
        lambda x: V.T @ (V @ x - v),
        mu=spectrum[0],
        L=spectrum[-1],
        Lg=np.linalg.norm(V, 2) ** 2,
        LH=0.0,
        LJ=0.0,
    )


def cleaning(rng, N=40, d=6, c=0.05):
    """Logistic regression with a weight sigmoid(theta_i) a row and one ridge c: n = N > d, and J is dense."""
    X, w = rng.standard_normal((N, d)), rng.standard_normal(d)
    y = np.sign(X @ w + 0.5 * rng.standard_normal(N))
    theta = rng.standard_normal(N)
    g, grad_g, Lg = held_out(rng, X, w)
    weight, longest = sigmoid(theta), np.linalg.norm(X, axis=1).max()

    def slope(x):  # of the loss of each row
        return -y * sigmoid(-y * (X @ x))

    def hessian(x, theta):
        s = sigmoid(X @ x)
        return (X.T * (sigmoid(theta) * s * (1 - s))) @ X / N + c * np.eye(d)

    power = np.linalg.norm(np.sqrt(weight)[:, None] * X, 2) ** 2 / N
    return Model(
        theta,
        d,
        lambda x, theta: X.T @ (sigmoid(theta) * slope(x)) / N + c * x,
        hessian,
        lambda x, theta: X.T * (sigmoid(theta) * sigmoid(-theta) * slope(x)) / N,
        g,
        grad_g,
        mu=c,
        L=power / 4 + c,
        Lg=Lg,
        LH=CUBIC * longest * power,
        # J changes by X' diag(sigmoid'(theta) a) / N with |a_i| <= ||X_i|| ||x - x'|| / 4.
        LJ=np.linalg.norm((weight * (1 - weight))[:, None] * X, 2) * longest / 4 / N,
    )


MODELS = {"quadratic": quadratic, "ridge": ridge, "logistic": logistic, "cleaning": cleaning}
