r"""A residual layer on SPD matrices: a step along a learned vector field in the log-Euclidean geometry.

.. math:: \exp\bigl(\log X + Q\,\mathrm{diag}(\phi(z))\,Q^T\bigr), \qquad z = \mathrm{diag}(Q^T \log X\, Q)

Notation  X (..., n, n) SPD tensors; Q learned orthogonal frame; phi a network with one hidden layer.
Cost      two eigendecompositions a matrix.
Pitfalls  log X must be dimensionless numbers of order one: put a batch norm before.
References I. Katsman et al., Riemannian residual neural networks, NeurIPS 2023, arXiv 2310.10013.
"""

import math

import torch

from sciml.linalg.spd.checks import check_eigenvalues, eigh_symmetric, symmetrise
from sciml.linalg.spd.functions import spectral
from sciml.stats.spd.layers import BiMap, check_matrices, start_values
from sciml.validation import check_number

__all__ = ["RiemannianResidual"]


class RiemannianResidual(torch.nn.Module):
    r"""Move along a learned vector field in the log-Euclidean geometry: :math:`\exp(\log X + f(X))`.

    The field is :math:`f(X) = Q\,\mathrm{diag}(\phi(z))\,Q^T`, phi a small network of :math:`z = \mathrm{diag}(Q^T
    \log X\, Q)` and Q a learned orthogonal matrix. It starts at zero, where the layer is the identity; unlike a field
    of the sorted spectrum it has a derivative where eigenvalues repeat.

    Parameters
    ----------
    n : int
        Size of the matrices.
    width : int
        Hidden units of phi; 32 by default.
    rng : numpy.random.Generator or None
        Draws the start; None (the default) draws from torch.

    Raises
    ------
    InvalidInputError
        If an argument is out of range.

    References
    ----------
    I. Katsman et al., Riemannian residual neural networks, NeurIPS 2023, arXiv 2310.10013.

    Examples
    --------
    >>> import torch
    >>> X = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))[None]
    >>> RiemannianResidual(2)(X).detach().numpy().round(12)[0].diagonal()
    array([1., 2.])
    """

    def __init__(self, n, width=32, *, rng=None):
        super().__init__()
        self.n = check_number("n", n, low=1, integer=True)
        width = check_number("width", width, low=1, integer=True)
        self.inner = torch.nn.Parameter(start_values(rng, width, self.n) / math.sqrt(self.n))
        self.inner_bias = torch.nn.Parameter(torch.zeros(width, dtype=torch.float64))
        self.outer = torch.nn.Parameter(torch.zeros(self.n, width, dtype=torch.float64))
        self.turn = BiMap(self.n, self.n, rng=rng)

    def forward(self, X):
        """Return matrices moved along the field.

        Parameters
        ----------
        X : torch.Tensor, shape (..., n, n)
            SPD matrices, dimensionless.

        Returns
        -------
        torch.Tensor, shape (..., n, n)
            SPD matrices.

        Raises
        ------
        NotPositiveDefiniteError
            If a matrix is singular or indefinite.

        Examples
        --------
        >>> import torch
        >>> RiemannianResidual(3)(torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)).shape
        torch.Size([2, 3, 3])
        """
        check_matrices("X", X, self.n)
        X = symmetrise(X)
        eig = eigh_symmetric(X)
        check_eigenvalues("X", eig[0], "positive")
        L = spectral(X, "log", eig=eig)
        Q = self.turn.weight[0].mT
        values = (Q * (L @ Q)).sum(-2)  # the diagonal of Q' L Q
        hidden = torch.nn.functional.softplus(values @ self.inner.mT + self.inner_bias)
        field = (Q * (hidden @ self.outer.mT).unsqueeze(-2)) @ Q.mT
        return spectral(L + field, "exp")
