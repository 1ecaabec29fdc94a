r"""The evidence of a Gaussian-process model in closed form, with its derivative from one factorisation.

Notation  X (n, d) points; Y (n, q) centred targets, a column an output; K = k(X, X) + s^2 I = L L^T; A = K^{-1} Y;

          log p(Y) = -1/2 tr(Y^T A) - q sum_i log L_ii - n q / 2 log 2 pi,
          d log p(Y) = <G, dK>,    G = (A A^T - q K^{-1}) / 2.

Cost      n^3 flops, and twice the entries of k; 3 n^2 numbers of memory: automatic differentiation sees rows of k only,
          never the factorisation.
Pitfalls  a smooth kernel is singular to rounding, and Cholesky fails on it: `floor` is the variance that makes it go
          through, and no noise is taken to be smaller.

References
----------
C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, 2006, chapter 5.
"""

import math

import torch

from sciml.exceptions import NotPositiveDefiniteError
from sciml.linalg import kernel_matrix

_FLOOR = 1e-11  # of k(x, x): the evidence then has an error of 1e-5 at worst
_BLOCK_BYTES = 64 * 2**20  # rows of k whose derivative is taken at a time


def floor(size, n):
    """Return the least noise variance at which a kernel matrix of n points can be factorised, and its evidence trusted.

    Parameters
    ----------
    size : float or torch.Tensor
        k(x, x). The largest eigenvalue is at most n times that, and rounding some eps of it.
    n : int
        Points.
    """
    return max(_FLOOR, 8 * n * torch.finfo(torch.float64).eps) * size


def variance_of(kernel, X):
    """Return k(x, x) of a stationary kernel as a tensor of shape (), differentiable."""
    return kernel.diag(X[:1])[0]


def factor(X, kernel, noise_variance):
    """Return the lower Cholesky factor (n, n) of k(X, X) + noise_variance I.

    Parameters
    ----------
    X : torch.Tensor, shape (n, d)
        Points.
    kernel : sciml.kernels.Kernel
        k.
    noise_variance : float or torch.Tensor
        s^2.

    Raises
    ------
    NotPositiveDefiniteError
        With the pivot that failed.
    """
    K = kernel_matrix(X, X, kernel=kernel, check_finite=False)
    K.diagonal().add_(noise_variance)
    L, info = torch.linalg.cholesky_ex(K, out=(K, torch.empty((), dtype=torch.int32, device=K.device)))
    if int(info) != 0:
        raise NotPositiveDefiniteError(
            f"the kernel matrix of {len(X)} points with noise variance {float(noise_variance):.3g} must be positive "
            f"definite; pivot {int(info) - 1} is not. Points are too close for this kernel: raise noise."
        )
    return L


def log_evidence(L, Y, A):
    """Return log p(Y) as a float, from the factor L (n, n), the targets Y (n, q) and A = K^{-1} Y (n, q)."""
    n, q = Y.shape
    half_logdet = float(L.diagonal().log().sum())
    return -0.5 * float((Y * A).sum()) - q * half_logdet - 0.5 * n * q * math.log(2 * math.pi)


def evidence_with_gradient(theta, parameters, X, Y):
    """Return log p(Y) and its derivative by theta.

    Parameters
    ----------
    theta : torch.Tensor, shape (p,)
        See `Parameters`.
    parameters : Parameters
        What theta means.
    X : torch.Tensor, shape (n, d)
        Points.
    Y : torch.Tensor, shape (n, q)
        Centred targets.

    Returns
    -------
    value : float
    gradient : torch.Tensor, shape (p,)
    """
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        kernel, noise = parameters.model(theta)
        noise = parameters.raised(noise, floor(variance_of(kernel, X), len(X)))
    with torch.no_grad():
        L = factor(X, kernel, noise)
        A = torch.cholesky_solve(Y, L)
        value = log_evidence(L, Y, A)
        G = torch.cholesky_inverse(L)
        del L
        G.mul_(-0.5 * Y.shape[1]).addmm_(A, A.T, alpha=0.5)
        trace = G.diagonal().sum()
    gradient = torch.zeros_like(theta)
    if noise.requires_grad:
        (gradient,) = torch.autograd.grad(noise, theta, trace, retain_graph=True)
    n, d = X.shape
    rows = max(1, min(n, int(_BLOCK_BYTES / (8 * n * (6 + 3 * d)))))
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        # The matrices are symmetric: columns beyond the block are met as rows of a later one.
        weight = G[start:stop, :stop].clone()
        weight[:, :start] *= 2
        with torch.enable_grad():
            kernel, _ = parameters.model(theta)
            part = (kernel_matrix(X[start:stop], X[:stop], kernel=kernel, check_finite=False) * weight).sum()
            if not part.requires_grad:
                break  # the noise alone is learned
            (slope,) = torch.autograd.grad(part, theta)
        gradient = gradient + slope
    return value, gradient.detach()
