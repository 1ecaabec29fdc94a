r"""Multinomial logistic regression on SPD matrices: logits from signed distances to hyperplanes of a geometry.

.. math:: \ell_k(X) = \langle \mathrm{Log}_{P_k} X, A_k \rangle_{P_k}

Notation  P_k SPD reference and A_k symmetric normal of class k, both stood for by free numbers (trivialised).
Cost      log-Euclidean one eigendecomposition a matrix, affine-invariant one for each class, log-Cholesky none.
Pitfalls  put it in place of LogEig, SPDVech and a linear layer, which are its log-Euclidean case up to the parameters.
References Z. Chen et al., Riemannian multinomial logistic regression for SPD neural networks, CVPR 2024,
          arXiv 2305.11288.
"""

import torch

from sciml.exceptions import NotPositiveDefiniteError
from sciml.linalg.spd.checks import check_eigenvalues, eigh_symmetric, symmetrise
from sciml.linalg.spd.functions import spectral
from sciml.stats.spd.layers import check_matrices, start_values
from sciml.stats.spd.normalising_geometries import positive_lower
from sciml.validation import check_number, check_option

__all__ = ["SPDMLR"]


class SPDMLR(torch.nn.Module):
    r"""Return a logit for each class from SPD matrices.

    Parameters
    ----------
    n : int
        Size of the matrices.
    n_classes : int
        Number of classes, at least 2.
    metric : {"logeuclid", "airm", "logchol"}
        Geometry; log-Euclidean by default, the cheapest to trust.
    channels : int
        Channels of (b, channels, n, n), whose logits are added; 1 by default.
    rng : numpy.random.Generator or None
        Draws the start; None (the default) draws from torch.

    Raises
    ------
    InvalidInputError
        If an argument is out of range, or a batch does not fit.

    References
    ----------
    Z. Chen et al., arXiv 2305.11288, theorem 4.2.

    Examples
    --------
    >>> import torch
    >>> SPDMLR(3, 4)(torch.eye(3, dtype=torch.float64).repeat(5, 1, 1)).abs().max().item()
    0.0
    """

    def __init__(self, n, n_classes, *, metric="logeuclid", channels=1, rng=None):
        super().__init__()
        self.n = check_number("n", n, low=1, integer=True)
        self.n_classes = check_number("n_classes", n_classes, low=2, integer=True)
        self.channels = check_number("channels", channels, low=1, integer=True)
        self.metric = check_option("metric", metric, ("logeuclid", "airm", "logchol"))
        shape = (self.channels, self.n_classes, self.n, self.n)
        self.reference = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        self.normal = torch.nn.Parameter(symmetrise(start_values(rng, *shape)) / (self.n * self.channels**0.5))

    def forward(self, X):
        """Return logits.

        Parameters
        ----------
        X : torch.Tensor, shape (b, n, n) or (b, channels, n, n)
            SPD matrices.

        Returns
        -------
        torch.Tensor, shape (b, n_classes)
            Dimensionless.

        Raises
        ------
        InvalidInputError
            If the shape does not fit.
        NotPositiveDefiniteError
            If a matrix is singular.

        Examples
        --------
        >>> import torch
        >>> SPDMLR(3, 4, metric="airm")(torch.eye(3, dtype=torch.float64).repeat(5, 1, 1)).shape
        torch.Size([5, 4])
        """
        check_matrices("X", X, self.n, self.channels)
        X = symmetrise(X.reshape(len(X), self.channels, 1, self.n, self.n))
        if self.metric == "airm":
            P = positive_lower(self.reference)
            half = torch.linalg.solve_triangular(P, X, upper=False)
            X = symmetrise(torch.linalg.solve_triangular(P, half.mT, upper=False))
            displacement = _log(X)
        elif self.metric == "logeuclid":
            displacement = _log(X) - symmetrise(self.reference)
        else:
            displacement = self._log_cholesky(X) - self.reference.tril()
        normal = self.normal.tril() if self.metric == "logchol" else symmetrise(self.normal)
        return (displacement * normal).sum((1, 3, 4))

    def _log_cholesky(self, X):
        L, info = torch.linalg.cholesky_ex(X)
        if bool((info != 0).any()):
            where = int((info != 0).flatten(1).any(-1).nonzero()[0, 0])
            raise NotPositiveDefiniteError(
                f"X must be positive definite; the Cholesky factorisation of matrix {where} failed. Estimate "
                "covariances with shrinkage (shrink=1e-3).",
                index=where,
            )
        return L.tril(-1) + torch.diag_embed(L.diagonal(dim1=-2, dim2=-1).log())


def _log(X):
    eig = eigh_symmetric(X)
    check_eigenvalues("X", eig[0], "positive")
    return spectral(X, "log", eig=eig)
