r"""Layers of networks on SPD matrices: linear maps on the Stiefel manifold, rectification, logarithm, dropout, vectors.

.. math:: \mathrm{BiMap}(X) = W X W^T, \quad \mathrm{ReEig}(X) = U \max(s, \epsilon\,\bar s) U^T, \quad
          \mathrm{LogEig}(X) = \log X

Notation  X (..., n, n) symmetric positive (semi)definite tensors; W (m, n) with orthonormal rows.
Cost      ReEig and LogEig one eigendecomposition a matrix, BiMap two products; no eigendecomposition backward.
Pitfalls  floors are relative to the mean eigenvalue of each matrix, so that the unit of the data does not matter and
          the answer for a matrix does not depend on its batch.
References Z. Huang et al., A Riemannian network for SPD matrix learning, AAAI 2017, arXiv 1608.04233.
"""

import math

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.spd.checks import check_eigenvalues, eigh_symmetric, symmetrise
from sciml.linalg.spd.functions import spectral
from sciml.validation import check_number

__all__ = ["BiMap", "LogEig", "ReEig", "SPDDropout", "SPDVech", "check_matrices", "start_values"]


def start_values(rng, *shape):
    """Return standard normal numbers to start parameters from.

    Parameters
    ----------
    rng : numpy.random.Generator or None
        Source, so that CPU and GPU start alike; None takes torch's own.
    *shape : int
        Shape of the answer.

    Returns
    -------
    torch.Tensor, float64

    Examples
    --------
    >>> import numpy as np
    >>> start_values(np.random.default_rng(0), 1).numpy().round(3)
    array([0.126])
    """
    if rng is None:
        return torch.randn(*shape, dtype=torch.float64)
    return torch.from_numpy(rng.standard_normal(shape))


class BiMap(torch.nn.Module):
    r"""Map :math:`X \to W X W^T` with orthonormal rows of W, kept by Cayley's map from skew matrices.

    Parameters
    ----------
    n_in, n_out : int
        Sizes of the matrices; ``n_out <= n_in``.
    channels : int
        Maps applied to each channel of (b, channels, n_in, n_in); 1 by default, when (b, n_in, n_in) is also taken.
    rng : numpy.random.Generator or None
        Draws the start; None (the default) draws from torch.
    dtype : torch.dtype or None
        None (the default) is float64.

    Attributes
    ----------
    free : torch.nn.Parameter, shape (channels, n_in, n_out)
        Free numbers, zero at the start; W stays on the Stiefel manifold under any optimiser of them.
    base : torch.Tensor, shape (channels, n_in, n_in)
        Orthogonal matrix whose first columns are the W drawn at the start.

    Raises
    ------
    InvalidInputError
        If a size is out of range, or a batch does not fit.

    References
    ----------
    Z. Huang et al., arXiv 1608.04233, equation 2; M. Lezcano-Casado, Trivializations for gradient-based optimization on
    manifolds, NeurIPS 2019, arXiv 1909.09501.

    Examples
    --------
    >>> import torch
    >>> layer = BiMap(4, 2)
    >>> layer(torch.eye(4, dtype=torch.float64)[None])[0].detach().abs().numpy().round(12)
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(self, n_in, n_out, channels=1, *, rng=None, dtype=None):
        super().__init__()
        self.n_in = check_number("n_in", n_in, low=1, integer=True)
        self.n_out = check_number("n_out", n_out, low=1, integer=True)
        self.channels = check_number("channels", channels, low=1, integer=True)
        if self.n_out > self.n_in:
            raise InvalidInputError(
                f"n_out must be at most n_in={self.n_in}; got {self.n_out}. A larger image would be singular."
            )
        drawn = start_values(rng, self.channels, self.n_in, self.n_out)
        base = torch.linalg.qr(drawn, mode="complete").Q.to(dtype or torch.float64)
        self.register_buffer("base", base)
        self.free = torch.nn.Parameter(torch.zeros_like(base[..., : self.n_out]))

    @property
    def weight(self):
        """torch.Tensor, shape (channels, n_out, n_in): W, made anew from the free numbers."""
        # W' is the first columns of base (I - S/2)^-1 (I + S/2), S skew with free numbers below the diagonal of those
        # columns alone: n_out (2 n_in - n_out - 1)/2 of them, as many as the manifold has dimensions.
        lower = torch.nn.functional.pad(self.free.tril(-1), (0, self.n_in - self.n_out))
        half = 0.5 * (lower - lower.mT)
        eye = torch.eye(self.n_in, dtype=half.dtype, device=half.device)
        columns = torch.linalg.solve(eye - half, (eye + half)[..., : self.n_out])
        return (self.base @ columns).mT

    def forward(self, X):
        """Return W X W'.

        Parameters
        ----------
        X : torch.Tensor, shape (b, channels, n_in, n_in), or (b, n_in, n_in) with one channel
            Symmetric matrices, in any unit.

        Returns
        -------
        torch.Tensor, shape (..., n_out, n_out)
            In the unit of `X`.

        Examples
        --------
        >>> import torch
        >>> BiMap(3, 2)(torch.eye(3, dtype=torch.float64).repeat(5, 1, 1)).shape
        torch.Size([5, 2, 2])
        """
        check_matrices("X", X, self.n_in, self.channels)
        W = self.weight
        W = W if X.ndim == 4 else W[0]
        return symmetrise(W @ X @ W.mT)

    def extra_repr(self):
        """Return the sizes for the printed form.

        Returns
        -------
        str

        Examples
        --------
        >>> BiMap(3, 2).extra_repr()
        '3, 2, channels=1'
        """
        return f"{self.n_in}, {self.n_out}, channels={self.channels}"


def check_matrices(name, X, n, channels=None):
    """Raise unless a batch of matrices has the shape that a layer was made for.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    X : torch.Tensor
        The batch.
    n : int
        Size of the matrices.
    channels : int or None
        Channels of (b, channels, n, n); None (the default) takes any leading axes.

    Raises
    ------
    InvalidInputError
        If the shape is another.

    Examples
    --------
    >>> import torch
    >>> check_matrices("X", torch.zeros(5, 2, 2), 2)
    """
    several = X.ndim == 4 and channels is not None and X.shape[1] == channels
    if X.ndim < 3 or X.shape[-2:] != (n, n) or (channels is not None and not several and (X.ndim != 3 or channels > 1)):
        rule = f"(b, {n}, {n})" if channels in (None, 1) else f"(b, {channels}, {n}, {n})"
        raise InvalidInputError(f"{name} must be of shape {rule}; got {tuple(X.shape)}. Check n and channels.")


class ReEig(torch.nn.Module):
    r"""Raise small eigenvalues to a floor: :math:`U \max(s, \epsilon\,\mathrm{tr}(X)/n) U^T`.

    Parameters
    ----------
    eps : float or "auto"
        Floor in units of the mean eigenvalue of each matrix; "auto" (the default) is 1e-4.
    absolute : bool
        Take `eps` in the unit of the data; False by default, since then the unit decides.

    Raises
    ------
    InvalidInputError
        If `eps` is no positive number.

    References
    ----------
    Z. Huang et al., arXiv 1608.04233, equation 3.

    Examples
    --------
    >>> import torch
    >>> ReEig(0.5)(torch.diag(torch.tensor([0.0, 4.0]))).diagonal().tolist()
    [1.0, 4.0]
    """

    def __init__(self, eps="auto", *, absolute=False):
        super().__init__()
        self.eps = 1e-4 if eps == "auto" else check_number("eps", eps, low=0, inclusive="neither")
        self.absolute = bool(absolute)

    def forward(self, X):
        """Return rectified matrices; gradients flow through the floor, too.

        Parameters
        ----------
        X : torch.Tensor, shape (..., n, n)
            Symmetric matrices of positive trace.

        Returns
        -------
        torch.Tensor, shape (..., n, n)

        Examples
        --------
        >>> import torch
        >>> ReEig()(torch.eye(2)[None]).shape
        torch.Size([1, 2, 2])
        """
        if self.absolute:
            return spectral(X, "clip", self.eps)
        floor = self.eps * X.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
        return spectral(X, "clip", floor)


class LogEig(torch.nn.Module):
    """Return the matrix logarithm, where the geometry becomes flat.

    References
    ----------
    Z. Huang et al., arXiv 1608.04233, equation 4.

    Examples
    --------
    >>> import torch
    >>> LogEig()(torch.eye(2)[None]).abs().max().item()
    0.0
    """

    def forward(self, X):
        """Return log X.

        Parameters
        ----------
        X : torch.Tensor, shape (..., n, n)
            Symmetric positive definite matrices.

        Returns
        -------
        torch.Tensor, shape (..., n, n)

        Raises
        ------
        NotPositiveDefiniteError
            If a matrix is singular or indefinite.

        Examples
        --------
        >>> import torch
        >>> LogEig()(torch.eye(2)[None]).shape
        torch.Size([1, 2, 2])
        """
        X = symmetrise(X)
        eig = eigh_symmetric(X)
        check_eigenvalues("X", eig[0], "positive")
        return spectral(X, "log", eig=eig)


class SPDVech(torch.nn.Module):
    r"""Flatten symmetric matrices: upper triangle, off-diagonals times :math:`\sqrt 2`, so that norms stay.

    Examples
    --------
    >>> import torch
    >>> SPDVech()(torch.tensor([[[1.0, 2.0], [2.0, 3.0]]])).square().sum().item()
    18.0
    """

    def forward(self, X):
        """Return vectors of the norms of the matrices.

        Parameters
        ----------
        X : torch.Tensor, shape (b, ..., n, n)
            Symmetric matrices.

        Returns
        -------
        torch.Tensor, shape (b, ... * n (n + 1)/2)
            Channels one after the other.

        Examples
        --------
        >>> import torch
        >>> SPDVech()(torch.eye(3).repeat(4, 2, 1, 1)).shape
        torch.Size([4, 12])
        """
        n = X.shape[-1]
        i, j = torch.triu_indices(n, n, device=X.device)
        weights = torch.full_like(i, math.sqrt(2.0), dtype=X.dtype).masked_fill(i == j, 1.0)
        return (X[..., i, j] * weights).flatten(1)


class SPDDropout(torch.nn.Module):
    r"""Drop channels of SPD matrices in training: a dropped row and column keep only their diagonal entry.

    Off-diagonal entries of kept pairs are unchanged, so the answer, a Schur product with a positive semidefinite
    matrix, stays positive (semi)definite, and every expected entry is a fixed fraction of the original.

    Parameters
    ----------
    p : float
        Probability that a channel is dropped, in [0, 1); 0.1 by default.
    rng : numpy.random.Generator or None
        Draws the channels; None (the default) draws from torch.

    Raises
    ------
    InvalidInputError
        If `p` is out of range.

    References
    ----------
    N. Srivastava et al., Dropout, JMLR 2014, for the principle.

    Examples
    --------
    >>> import torch
    >>> X = torch.ones(1, 2, 2) + torch.eye(2)
    >>> torch.equal(SPDDropout(0.5).eval()(X), X)
    True
    """

    def __init__(self, p=0.1, *, rng=None):
        super().__init__()
        self.p = check_number("p", p, low=0, high=1, inclusive="low")
        self.rng = rng

    def forward(self, X):
        """Return matrices with channels decoupled; in evaluation mode, the matrices.

        Parameters
        ----------
        X : torch.Tensor, shape (..., n, n)
            SPD matrices.

        Returns
        -------
        torch.Tensor, shape (..., n, n)

        Examples
        --------
        >>> import torch
        >>> SPDDropout(0.5)(torch.ones(1, 3, 3)).diagonal(dim1=-2, dim2=-1).tolist()
        [[1.0, 1.0, 1.0]]
        """
        if not self.training or self.p == 0:
            return X
        shape = X.shape[:-1]
        if self.rng is None:
            draw = torch.rand(shape, dtype=X.dtype, device=X.device)
        else:
            draw = torch.from_numpy(self.rng.random(tuple(shape))).to(X)
        kept = draw >= self.p
        pairs = kept.unsqueeze(-1) & kept.unsqueeze(-2)
        pairs = pairs | torch.eye(X.shape[-1], dtype=torch.bool, device=X.device)
        return torch.where(pairs, X, 0.0)
