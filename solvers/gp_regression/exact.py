r"""The posterior by Cholesky factorisation: mean, variance and covariance at new points.

Notation  X (n, d) points; K = k(X, X) + s^2 I = L L^T; A = K^{-1} Y (n, q); x* (m, d) new points; V = L^{-1} k(X, x*);

          mean = k(x*, X) A,    covariance = k(x*, x*) - V^T V.

Cost      n^3 / 3 once; n for a mean, n^2 for a variance at a point; n^2 numbers of memory.
"""

import math
import warnings

import torch

from sciml.exceptions import ConditioningWarning, InvalidInputError, NotPositiveDefiniteError
from sciml.iterate import caller_level
from sciml.linalg import kernel_matrix, kernel_sum
from sciml.solvers.gp_regression.evidence import factor, log_evidence, variance_of
from sciml.solvers.gp_regression.parameters import multiplied

_TEST_BLOCK = 2**24  # entries of k(X, x*) at a time


class ExactPosterior:
    """Posterior of a latent function f given Y = f(X) + noise, mean zero.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Points.
    kernel : sciml.kernels.Kernel
        Prior covariance of f.
    noise_variance : float
        s^2.
    """

    def __init__(self, X, kernel, noise_variance):
        self.X, self.kernel, self.noise_variance = X, kernel, noise_variance
        self._L = None

    @property
    def L(self):
        """The Cholesky factor (n, n), made when it is first needed."""
        if self._L is None:
            self._L = factor(self.X, self.kernel, self.noise_variance)
        return self._L

    def solve(self, Y):
        """Return K^{-1} Y, shape (n, q), and log p(Y)."""
        A = torch.cholesky_solve(Y, self.L)
        return A, log_evidence(self.L, Y, A)

    def residual(self, Y, A):
        """Return the largest relative residual of K A = Y over the columns."""
        R = Y - kernel_sum(self.X, self.X, A, kernel=self.kernel, check_finite=False) - self.noise_variance * A
        norms = torch.linalg.vector_norm(Y, dim=0)
        return float((torch.linalg.vector_norm(R, dim=0) / torch.where(norms > 0, norms, 1.0)).max())

    def rescale(self, scale):
        """Change to targets that are `scale`, a power of two, times as large."""
        self.kernel, self.noise_variance = multiplied(self.kernel, scale**2), self.noise_variance * scale**2
        if self._L is not None:
            self._L *= scale

    def variance(self, points):
        """Return the posterior variance of f at points (m, d), shape (m,)."""
        size, block = variance_of(self.kernel, self.X), max(1, _TEST_BLOCK // len(self.X))
        parts = []
        for part in points.split(block):
            V = self._whitened(part)
            parts.append((size - V.square().sum(0)).clamp_min(0.0))
        return torch.cat(parts) if parts else points.new_zeros(0)

    def variance_with_error(self, points):
        """Return the variance at points (m, d), shape (m,), and its relative error: none."""
        return self.variance(points), 0.0

    def state(self):
        """Return what a saved posterior needs besides the points: nothing, the factor is made again."""
        return {}

    @classmethod
    def restored(cls, X, kernel, noise_variance, state):
        """Return the posterior that `state` was taken from."""
        return cls(X, kernel, noise_variance)

    def covariance(self, points):
        """Return the posterior covariance of f between points (m, d), shape (m, m)."""
        V = self._whitened(points)
        return kernel_matrix(points, points, kernel=self.kernel, check_finite=False) - V.T @ V

    def _whitened(self, points):
        cross = kernel_matrix(self.X, points, kernel=self.kernel, check_finite=False)  # (n, m)
        return torch.linalg.solve_triangular(self.L, cross, upper=False)


def mean(points, X, A, kernel):
    """Return k(points, X) A, shape (m, q); differentiable in the points."""
    return kernel_sum(points, X, A, kernel=kernel, check_finite=False)


def jittered(X, kernel):
    """Return the least noise variance of the ladder eps, 10 eps, ... times k(x, x) that a factorisation asks for.

    Raises
    ------
    InvalidInputError
        If points coincide, or 1e-4 k(x, x) is not enough.
    """
    refuse_equal_points(X)
    size = float(variance_of(kernel, X))
    ladder = [0.0] + [torch.finfo(torch.float64).eps * size * 10**k for k in range(13)]
    for jitter in ladder:
        if jitter > 1e-4 * size:
            break
        try:
            factor(X, kernel, jitter)
        except NotPositiveDefiniteError:
            continue
        if jitter > 0:
            text = (
                f"the kernel matrix of {len(X)} points without noise is singular to rounding; a noise of "
                f"{math.sqrt(jitter / size):.1e} standard deviations of f was added. Pass noise= or a rougher kernel."
            )
            warnings.warn(text, ConditioningWarning, stacklevel=caller_level())
        return jitter
    raise InvalidInputError(f"noise must not be 0 for these {len(X)} points: their kernel matrix is singular.")


def refuse_equal_points(X):
    """Raise where two points coincide, which no interpolant without noise can take."""
    _, group, count = torch.unique(X, dim=0, return_inverse=True, return_counts=True)
    if bool((count > 1).any()):
        i, j = (group == int((count > 1).nonzero()[0])).nonzero()[:2, 0].tolist()
        raise InvalidInputError(
            f"X must hold distinct points where noise is 0; rows {i} and {j} are equal. Pass the standard deviation of "
            "the noise, or noise='evidence', or merge equal points."
        )


def root(C, size):
    """Return a factor R (m, m) with R R^T = C, a covariance (m, m) that rounding may have made indefinite."""
    C = (C + C.T) / 2
    for power in range(13):
        jitter = torch.finfo(C.dtype).eps * size * 10**power
        L, info = torch.linalg.cholesky_ex(C + jitter * torch.eye(len(C), dtype=C.dtype, device=C.device))
        if int(info) == 0:
            return L
    raise NotPositiveDefiniteError(f"the posterior covariance of {len(C)} points is not positive definite.")
