"""Solutions that are sums of products of one-dimensional functions, with every derivative known by hand."""

from math import comb, perm

import numpy as np

from sciml.solvers.gp_pde import PDE


def tone(omega, phase=0.0):
    """Return x, k -> the k-th derivative of sin(omega x + phase)."""
    return lambda x, k: omega**k * np.sin(omega * x + phase + k * np.pi / 2)


def growth(rate):
    """Return x, k -> the k-th derivative of exp(rate x)."""
    return lambda x, k: rate**k * np.exp(rate * x)


def power(n):
    """Return x, k -> the k-th derivative of x**n."""
    return lambda x, k: perm(n, k) * x ** max(n - k, 0) if k <= n else 0 * x


def product(f, g):
    """Return x, k -> the k-th derivative of f g, by Leibniz."""
    return lambda x, k: sum(comb(k, i) * f(x, i) * g(x, k - i) for i in range(k + 1))


class Solution:
    """u = sum over the terms of coefficient times the product of one function an axis.

    Parameters
    ----------
    *terms : tuples (coefficient, function, function, ...)
        One function x, k -> k-th derivative for each axis.
    """

    def __init__(self, *terms):
        self.terms = terms
        self.n_dims = len(terms[0]) - 1

    def __call__(self, X):
        return self.derivative((0,) * self.n_dims)(X)

    def derivative(self, alpha):
        """Return X -> the derivative alpha of u, (n,)."""
        alpha = (alpha,) if isinstance(alpha, int) else alpha
        return lambda X: sum(
            c * np.prod([f(X[:, j], k) for j, (f, k) in enumerate(zip(factors, alpha, strict=True))], axis=0)
            for c, *factors in self.terms
        )

    def slope(self, dim, sign=1.0):
        """Return X -> sign times the first derivative in one dimension: the normal derivative on a face."""
        alpha = tuple(int(j == dim) for j in range(self.n_dims))
        return lambda X: sign * self.derivative(alpha)(X)

    def problem(self, domain, operator, conditions):
        """Return the problem with this solution."""

        def source(X):
            return sum((c(X) if callable(c) else c) * self.derivative(a)(X) for a, c in operator.items())

        return PDE(domain, operator, source, conditions)

    def error(self, solution, X):
        """Return the relative L2 error at the points X (n, d)."""
        return float(np.linalg.norm(solution(X) - self(X)) / np.linalg.norm(self(X)))


def spots(domain, n=800, seed=5):
    """Return random points of a domain, and of a box its corners too."""
    box = domain.box
    X = box.lower + (box.upper - box.lower) * np.random.default_rng(seed).random((n, box.n_dims))
    if domain is not box:
        return X[domain.contains(X)]
    corners = np.stack(np.meshgrid(*box.bounds, indexing="ij"), axis=-1).reshape(-1, box.n_dims)
    return np.r_[X, corners]


def general(operator):
    """Return the same operator with callables for coefficients: boxes are then solved by collocation."""
    return {alpha: (lambda X, c=c: np.full(len(X), float(c))) for alpha, c in operator.items()}
