r"""Covariances on an even grid: Toeplitz matrices by their first column, with gradients as cheap as values.

.. math:: C_{ij} = c_{|i-j|}, \qquad
          \frac{\partial}{\partial c_k} \log|C| = \sum_{|i-j|=k} (C^{-1})_{ij}, \qquad
          \frac{\partial}{\partial c_k} \langle V, C^{-1} X\rangle = -\sum_{|i-j|=k} (C^{-1}V\,(C^{-1}X)^T)_{ij}.

Sums along diagonals are correlations, which the fast Fourier transform takes without forming the matrix; those of the
inverse come from its first column alone, by the formula of Gohberg and Semencul.

Notation  c (n,) first column; x first column of the inverse; L Cholesky factor of C.
Cost      one Cholesky factor, n^3 / 3; then n^2 for each right side, and n log n for each product and gradient.
Pitfalls  The gradient of a Cholesky factor, as automatic differentiation takes it, costs several n^3 more.

References
----------
I. Gohberg, A. Semencul, On the inversion of finite Toeplitz matrices and their continuous analogues, 1972.
"""

from __future__ import annotations

import torch

from sciml.exceptions import NotPositiveDefiniteError

__all__ = ["factor", "log_determinant", "product", "solve", "toeplitz"]


def toeplitz(column, sign=1.0):
    """Return the dense matrix with entries column[i - j] below the diagonal and sign * column[j - i] above it.

    Parameters
    ----------
    column : torch.Tensor, shape (n,)
        First column.
    sign : float
        1 for a symmetric matrix, -1 for a skew one.

    Returns
    -------
    torch.Tensor, shape (n, n)

    Examples
    --------
    >>> toeplitz(torch.tensor([0.0, 1.0, 2.0]), -1.0)
    tensor([[ 0., -1., -2.],
            [ 1.,  0., -1.],
            [ 2.,  1.,  0.]])
    """
    n = len(column)
    both = torch.cat([sign * column[1:].flip(0), column])  # entries i - j = 1 - n .. n - 1
    return both.flip(0).unfold(0, n, 1).flip(0)  # row i: the entries of i, i - 1, ..., i - n + 1


def factor(column):
    """Return the lower Cholesky factor of the symmetric Toeplitz matrix, without a graph.

    Parameters
    ----------
    column : torch.Tensor, shape (n,)
        First column.

    Returns
    -------
    torch.Tensor, shape (n, n)

    Raises
    ------
    NotPositiveDefiniteError
        When a pivot is not positive.

    Examples
    --------
    >>> factor(torch.tensor([4.0, 2.0]))
    tensor([[2.0000, 0.0000],
            [1.0000, 1.7321]])
    """
    root, info = torch.linalg.cholesky_ex(toeplitz(column.detach()))
    if int(info) != 0:
        raise NotPositiveDefiniteError(
            f"the covariance of {len(column)} grid values must be positive definite; pivot {int(info)} is not positive "
            f"beside a variance of {column[0].item():.1e}. Raise jitter, or take fewer points."
        )
    return root


def product(column, X, axis=0, sign=1.0):
    """Multiply by a (skew-)symmetric Toeplitz matrix along one axis, through a circulant of twice the size.

    Parameters
    ----------
    column : torch.Tensor, shape (n,)
        First column.
    X : torch.Tensor, with n entries along `axis`
        What is multiplied.
    axis : int
        Where.
    sign : float
        1 for a symmetric matrix, -1 for a skew one.

    Returns
    -------
    torch.Tensor, shape of `X`
        Differentiable in both.

    Examples
    --------
    >>> product(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
    tensor([2., 1.])
    """
    n = len(column)
    wrapped = torch.cat([column, column.new_zeros(1), sign * column[1:].flip(0)])
    spectrum = torch.fft.rfft(wrapped)
    moved = X.movedim(axis, -1)
    out = torch.fft.irfft(spectrum * torch.fft.rfft(moved, n=2 * n), n=2 * n)[..., :n]
    return out.movedim(-1, axis)


def solve(root, column, X, axis=0):
    """Solve with the symmetric Toeplitz matrix along one axis.

    Parameters
    ----------
    root : torch.Tensor, shape (n, n)
        From `factor`.
    column : torch.Tensor, shape (n,)
        First column, to which the gradient flows.
    X : torch.Tensor, with n entries along `axis`
        Right sides.
    axis : int
        Where.

    Returns
    -------
    torch.Tensor, shape of `X`
        Differentiable in `column` and `X`.

    Examples
    --------
    >>> column = torch.tensor([4.0, 2.0])
    >>> solve(factor(column), column, torch.tensor([6.0, 6.0])).numpy().round(5)
    array([1., 1.], dtype=float32)
    """
    moved = X.movedim(axis, 0)
    return _Solve.apply(root, column, moved.reshape(len(column), -1)).reshape(moved.shape).movedim(0, axis)


def log_determinant(root, column):
    """Logarithm of the determinant of the symmetric Toeplitz matrix.

    Parameters
    ----------
    root : torch.Tensor, shape (n, n)
        From `factor`.
    column : torch.Tensor, shape (n,)
        First column, to which the gradient flows.

    Returns
    -------
    torch.Tensor, shape ()

    Examples
    --------
    >>> column = torch.tensor([4.0, 2.0])
    >>> round(log_determinant(factor(column), column).exp().item(), 4)
    12.0
    """
    return _LogDeterminant.apply(root, column)


def correlation(a, b):
    """Sums over i of a[i + k] b[i] for k = 0 .. n-1 and k = 0 .. 1-n, each (n,), summed over columns; a, b (n, m)."""
    n = len(a)
    spectrum = (torch.fft.rfft(a, n=2 * n, dim=0) * torch.fft.rfft(b, n=2 * n, dim=0).conj()).sum(dim=1)
    both = torch.fft.irfft(spectrum, n=2 * n)
    return both[:n], torch.cat([both[:1], both[n + 1 :].flip(0)])


def sums_of_inverse(x):
    """Sums along the diagonals k = 0 .. n-1 of the inverse, from its first column x (n,)."""
    n = len(x)
    k = torch.arange(n, dtype=x.dtype, device=x.device)
    y = torch.cat([x.new_zeros(1), x[1:].flip(0)])

    def triangle(v):  # of L(v) L(v)^T: sum over p of (n - k - p) v_p v_{p+k}
        plain, _ = correlation(v[:, None], v[:, None])
        weighted, _ = correlation(v[:, None], (k * v)[:, None])
        return (n - k) * plain - weighted

    return (triangle(x) - triangle(y)) / x[0]


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, root, column, X):
        S = torch.cholesky_solve(X, root)
        ctx.save_for_backward(root, S)
        return S

    @staticmethod
    def backward(ctx, gradient):
        root, S = ctx.saved_tensors
        V = torch.cholesky_solve(gradient.contiguous(), root)
        by_column = None
        if ctx.needs_input_grad[1]:
            below, above = correlation(V, S)
            by_column = -(below + above)
            by_column[0] *= 0.5  # the main diagonal is there once
        return None, by_column, V


class _LogDeterminant(torch.autograd.Function):
    @staticmethod
    def forward(ctx, root, column):
        ctx.save_for_backward(root)
        return 2 * root.diagonal().log().sum()

    @staticmethod
    def backward(ctx, gradient):
        (root,) = ctx.saved_tensors
        first = root.new_zeros(len(root), 1)
        first[0] = 1.0
        sums = 2 * sums_of_inverse(torch.cholesky_solve(first, root)[:, 0])
        sums[0] *= 0.5
        return None, gradient * sums
