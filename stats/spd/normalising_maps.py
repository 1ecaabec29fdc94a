r"""The two spectral maps of the batch norms, with exact derivatives: a scaled root that never folds, and a power.

.. math:: h(x) = g(1 + c(\sqrt x - 1))^2, \qquad g(u) = \begin{cases} u & u \ge \delta \\
          \delta^2 / (2\delta - u) & u < \delta \end{cases}

The Bures-Wasserstein exponential map at the identity, :math:`(I + V/2)^2`, is one-to-one only where I + V/2 is
positive; g continues it with one continuous derivative to all arguments, positive and strictly increasing, so that a
sample far below the mean is compressed, and neither folded nor flattened.

Notation  A (..., n, n) whitened matrices; s, U their eigenvalues and eigenvectors; c (..., 1) scale, dimensionless.
Cost      no eigendecomposition here; four products backward.
Pitfalls  delta is absolute, since whitened matrices are dimensionless. First derivatives only.
References Z. Wang et al., Learning to normalize on the SPD manifold under Bures-Wasserstein geometry, CVPR 2025,
          arXiv 2504.00660, whose layer has (I + V/2)^2 without the continuation.
"""

import torch

from sciml.linalg.spd.checks import symmetrise
from sciml.linalg.spd.quotients import divided_difference
from sciml.linalg.spd.second_derivative import refuse_second_derivative

__all__ = ["DELTA", "rescale", "scatter"]

DELTA = 0.1


def _bend(u):
    """Return g(u); the very same tensor where nothing bends."""
    if not bool((u < DELTA).any()):
        return u
    return torch.where(u >= DELTA, u, DELTA**2 / (2 * DELTA - u.clamp(max=DELTA)))


def _bend_slope(u):
    return (DELTA / (2 * DELTA - u.clamp(max=DELTA))).square()


def _bend_quotient(u):
    """Return g[u_i, u_j] = w + (1 - w) D without cancellation, w that of the parts below delta, D of those above."""
    below = DELTA / (2 * DELTA - u.clamp(max=DELTA))
    w = below.unsqueeze(-1) * below.unsqueeze(-2)  # g is a Moebius map there
    gap = u.unsqueeze(-1) - u.unsqueeze(-2)
    above = u.clamp(min=DELTA)
    D = (above.unsqueeze(-1) - above.unsqueeze(-2)) / torch.where(gap == 0, 1.0, gap)
    return w + (1 - w) * D


def _root(s):
    return s.clamp(min=0).sqrt()


def _root_values(s, c):
    shift = _root(s) - 1
    u = 1 + c * shift
    g = _bend(u)
    slopes = 2 * g * shift
    return g.square(), slopes if g is u else slopes * _bend_slope(u)


def _root_quotient(s, c):
    r = _root(s)
    u = 1 + c * (r - 1)
    # The root has an infinite slope at zero: capped where the eigenvalue is rounding next to the mean, which is 1.
    sums = (r.unsqueeze(-1) + r.unsqueeze(-2)).clamp(min=torch.finfo(s.dtype).eps ** 0.5)
    g = _bend(u)
    F = (g.unsqueeze(-1) + g.unsqueeze(-2)) * c.unsqueeze(-1) / sums
    return F if g is u else F * _bend_quotient(u)


def _power_values(s, c):
    y = s**c
    return y, y * s.log()


def _power_quotient(s, c):
    a, b, c = s.unsqueeze(-1), s.unsqueeze(-2), c.unsqueeze(-1)
    hi, lo = torch.maximum(a, b), torch.minimum(a, b)
    gap = hi - lo
    equal = gap == 0
    across = hi**c * -torch.expm1(-c * torch.log1p(gap / lo)) / torch.where(equal, 1.0, gap)
    return torch.where(equal, c * lo ** (c - 1), across)


def _square_values(s, c):
    return _bend(s).square(), torch.zeros_like(s)


def _square_quotient(s, c):
    g = _bend(s)
    F = g.unsqueeze(-1) + g.unsqueeze(-2)
    return F if g is s else F * _bend_quotient(s)


_VALUES = {"root": _root_values, "power": _power_values, "square": _square_values}
_QUOTIENTS = {"root": _root_quotient, "power": _power_quotient, "square": _square_quotient}


class _Rescale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, A, c, kind, log, s, U):
        values, slopes = _VALUES[kind](s, c)
        ctx.kind, ctx.log = kind, log
        if log:
            ctx.save_for_backward(A, c, s, U, slopes / values, values)
            values = values.log()
        else:
            ctx.save_for_backward(A, c, s, U, slopes)
        return symmetrise((U * values.unsqueeze(-2)) @ U.mT)

    @staticmethod
    def backward(ctx, grad):
        A, c, s, U, slopes, *values = ctx.saved_tensors
        grad_A = grad_c = None
        with torch.no_grad():
            inner = U.mT @ symmetrise(grad) @ U
            if ctx.needs_input_grad[0]:
                F = _QUOTIENTS[ctx.kind](s, c)
                if ctx.log:  # quotients of a composition multiply
                    F = F * divided_difference("log", values[0].unsqueeze(-1), values[0].unsqueeze(-2))
                grad_A = symmetrise(U @ (F * inner) @ U.mT)
            if ctx.needs_input_grad[1]:
                grad_c = (inner.diagonal(dim1=-2, dim2=-1) * slopes).sum_to_size(c.shape)
        grads = (refuse_second_derivative("a batch norm's map", G, A, c, grad) for G in (grad_A, grad_c))
        return *grads, None, None, None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, A, kind, s, U):
        distances = _root(s) - 1 if kind == "root" else s.log()
        ctx.save_for_backward(A, s, U, distances)
        ctx.kind = kind
        return distances.square().sum(-1)

    @staticmethod
    def backward(ctx, grad):
        A, s, U, distances = ctx.saved_tensors
        with torch.no_grad():
            root = _root(s).clamp(min=torch.finfo(s.dtype).eps ** 0.5)
            slope = distances / (root if ctx.kind == "root" else 0.5 * s)
            grad_A = symmetrise((U * (grad.unsqueeze(-1) * slope).unsqueeze(-2)) @ U.mT)
        return refuse_second_derivative("a batch norm's dispersion", grad_A, A, grad), None, None, None


def rescale(A, c, kind, eig, *, log=False):
    """Return h(A) or its logarithm, with gradients to A and c.

    Parameters
    ----------
    A : torch.Tensor, shape (..., n, n)
        Whitened symmetric matrices, dimensionless.
    c : torch.Tensor, broadcastable to shape (..., 1)
        Positive scale, dimensionless; not used by "square".
    kind : {"root", "power", "square"}
        The map h above; :math:`A^c`; or :math:`g(A)^2` for A = I + V/2.
    eig : tuple of torch.Tensor
        Eigenvalues (..., n) and eigenvectors (..., n, n) of `A`.
    log : bool
        Return log h(A), from the same eigendecomposition; False by default.

    Returns
    -------
    torch.Tensor, shape (..., n, n)
        Symmetric; positive definite without `log`.

    Examples
    --------
    >>> import torch
    >>> A, c = torch.diag(torch.tensor([4.0, 1.0])), torch.tensor([0.5])
    >>> rescale(A, c, "root", torch.linalg.eigh(A)).diagonal().tolist()
    [2.25, 1.0]
    """
    return _Rescale.apply(A, c, kind, log, *eig)


def scatter(A, kind, eig):
    r"""Return the squared distance of whitened matrices to the identity, with gradients.

    Parameters
    ----------
    A : torch.Tensor, shape (..., n, n)
        Whitened symmetric matrices, dimensionless.
    kind : {"root", "power"}
        Bures-Wasserstein, :math:`\sum_k (\sqrt{s_k} - 1)^2`, or affine-invariant, :math:`\sum_k \log^2 s_k`.
    eig : tuple of torch.Tensor
        Eigenvalues (..., n) and eigenvectors (..., n, n) of `A`.

    Returns
    -------
    torch.Tensor, shape (...)
        Dimensionless.

    Examples
    --------
    >>> import torch
    >>> A = torch.diag(torch.tensor([4.0, 1.0]))
    >>> scatter(A, "root", torch.linalg.eigh(A)).item()
    1.0
    """
    return _Scatter.apply(A, kind, *eig)
