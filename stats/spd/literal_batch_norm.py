r"""The published generalised Bures-Wasserstein batch norm, literally, for comparison; its folding is counted.

.. math:: X' = M^{-1/2} X^\theta M^{-1/2}, \quad V = \Gamma_{B \to I} \mathrm{Log}_B X', \quad X_1 = (I + V/2)^2, \quad
          X_2 = \mathrm{Exp}_I\Bigl(\frac{s}{\sqrt{v^2 + \epsilon}} \mathrm{Log}_I X_1\Bigr)

The logarithm at the identity, 2 (X^{1/2} - I), inverts (I + V/2)^2 only where I + V/2 is positive. For numbers,
1 + V/2 = 1 + sqrt x - sqrt b: a sample x below a large mean b is folded onto one above it, and how many are depends on
the unit of the data alone. :class:`sciml.stats.spd.batch_norm.SPDBatchNorm` with ``metric="bw"`` has no folding.

Notation  X (b, n, n); M metric, G bias, s scale; B and v^2 mean and dispersion of the batch; G' = M^{-1/2} G^theta
          M^{-1/2}.
Cost      about six eigendecompositions a matrix, and none backward.
Pitfalls  folding, see above; the mean is one fixed-point step from the arithmetic mean, 20 per cent off at condition
          1e6.
References Z. Wang, Y. Jin, X. Chen, L. Luo, X. Wu, Learning to normalize on the SPD manifold under Bures-Wasserstein
          geometry, CVPR 2025, arXiv 2504.00660.
"""

import warnings

import torch

from sciml.exceptions import ConditioningWarning, InvalidInputError
from sciml.linalg.spd.checks import eigh_symmetric, symmetrise
from sciml.linalg.spd.functions import spectral
from sciml.linalg.spd.multipliers import multiply_in_basis
from sciml.stats.spd.normalising_geometries import positive_lower
from sciml.validation import check_number

__all__ = ["GBWBatchNorm"]


class GBWBatchNorm(torch.nn.Module):
    r"""Normalise batches of SPD matrices as published, with the folding that this entails counted.

    Parameters
    ----------
    n : int
        Size of the matrices.
    literal : bool
        Must be True (the default): the name says what is computed. Take ``SPDBatchNorm(n, metric="gbw")`` for the same
        geometry without folding.
    theta : float
        Power of the matrices, not 0; 0.5 by default, the published best.
    momentum : float
        Weight of a new batch in the running statistics, in (0, 1]; 0.1 by default, as published.
    eps : float
        Added to the variance, dimensionless; 1e-5 by default, as published.
    dtype : torch.dtype or None
        Of parameters and statistics; None (the default) is float64.
    device : str, torch.device or None
        Where they lie.

    Attributes
    ----------
    mean : torch.Tensor, shape (n, n)
        Running mean in the coordinates of the metric; the identity at the start.
    variance : torch.Tensor, shape ()
        Running variance; 1 at the start.
    folded : torch.Tensor, shape ()
        Fraction of the samples of the last batch where I + V/2 is not positive definite.

    Raises
    ------
    InvalidInputError
        If an argument is out of range or `literal` is not True.

    Notes
    -----
    Parameters are free numbers (Cholesky factor with logarithmic diagonal), so that M and G stay SPD under any
    optimiser, and the running statistics are saved, unlike in the program released with the paper.

    References
    ----------
    Z. Wang et al., arXiv 2504.00660, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> X = torch.diag_embed(torch.tensor([[1.0], [1.44], [1.21]], dtype=torch.float64))
    >>> norm = GBWBatchNorm(1, theta=1.0)
    >>> norm(X).shape, float(norm.folded)
    (torch.Size([3, 1, 1]), 0.0)
    """

    def __init__(self, n, *, literal=True, theta=0.5, momentum=0.1, eps=1e-5, dtype=None, device=None):
        super().__init__()
        if literal is not True:
            raise InvalidInputError(
                f"literal must be True; got {literal!r}. SPDBatchNorm(n, metric='gbw') is the layer without folding."
            )
        self.n = check_number("n", n, low=1, integer=True)
        self.theta = check_number("theta", theta)
        if self.theta == 0:
            raise InvalidInputError("theta must not be 0; got 0. Pass a power such as 0.5.")
        self.momentum = check_number("momentum", momentum, low=0, high=1, inclusive="high")
        self.eps = check_number("eps", eps, low=0, inclusive="neither")
        options = {"dtype": dtype or torch.float64, "device": device}
        self.metric_parameter = torch.nn.Parameter(torch.zeros(n, n, **options))
        self.bias = torch.nn.Parameter(torch.zeros(n, n, **options))
        self.log_scale = torch.nn.Parameter(torch.zeros((), **options))
        self.register_buffer("mean", torch.eye(n, **options))
        self.register_buffer("variance", torch.ones((), **options))
        self.folded = torch.zeros((), **options)
        self._warned = False

    def forward(self, X):
        """Return normalised matrices; in training mode, move the running statistics.

        Parameters
        ----------
        X : torch.Tensor, shape (b, n, n)
            SPD matrices; the answer depends on their unit.

        Returns
        -------
        torch.Tensor, shape (b, n, n)
            Positive semidefinite.

        Raises
        ------
        InvalidInputError
            If the shape does not fit.

        Warns
        -----
        ConditioningWarning
            Once, when a sample is folded.

        Examples
        --------
        >>> import torch
        >>> GBWBatchNorm(2)(torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)).shape
        torch.Size([3, 2, 2])
        """
        if X.ndim != 3 or X.shape[-2:] != (self.n, self.n) or len(X) == 0:
            raise InvalidInputError(
                f"X must be of shape (b, {self.n}, {self.n}) with b >= 1; got {tuple(X.shape)}. Check n."
            )
        X = X.to(self.mean.dtype)
        eye = torch.eye(self.n, dtype=X.dtype, device=X.device)
        M, G = (_product(positive_lower(part)) for part in (self.metric_parameter, self.bias))
        root_M, inverse_M = spectral(M, "sqrt"), spectral(M, "invsqrt")
        Xt = symmetrise(inverse_M @ spectral(X, "pow", self.theta) @ inverse_M)
        Gt = symmetrise(inverse_M @ spectral(G, "pow", self.theta) @ inverse_M)

        B = _one_step_mean(Xt) if self.training and len(X) > 1 else self.mean
        T, root_B = _transport(B, Xt)
        displacement = T - eye
        if self.training and len(X) > 1:
            # d^2(B, X) = tr((T - I) B (T - I))
            v2 = (displacement @ root_B).square().sum((-2, -1)).mean() / self.theta**2
            self._move(B.detach(), v2.detach())
        else:
            v2 = self.variance

        logarithm = displacement @ B
        V = multiply_in_basis(B, logarithm + logarithm.mT, "to_identity")
        W = eye + 0.5 * V
        self._count(W)
        c = self.log_scale.exp() / (v2 + self.eps).sqrt()
        X1 = symmetrise(W @ W)
        W2 = eye + c * (spectral(X1, "sqrt") - eye)
        X2 = symmetrise(W2 @ W2)
        moved = multiply_in_basis(Gt, 2 * (spectral(X2, "sqrt") - eye), "from_identity")
        E = eye + multiply_in_basis(Gt, moved, "lyapunov")
        X3 = symmetrise(E @ Gt @ E)
        return spectral(root_M @ X3 @ root_M, "pow", 1 / self.theta)

    @torch.no_grad()
    def _move(self, B, v2):
        T, _ = _transport(self.mean, B)
        eye = torch.eye(self.n, dtype=B.dtype, device=B.device)
        K = eye + self.momentum * (T - eye)
        self.mean.copy_(symmetrise(K @ self.mean @ K))
        self.variance.mul_(1 - self.momentum).add_(self.momentum * v2)

    @torch.no_grad()
    def _count(self, W):
        self.folded = (torch.linalg.cholesky_ex(symmetrise(W)).info != 0).to(W.dtype).mean()
        if not self._warned and bool(self.folded > 0):
            self._warned = True
            warnings.warn(
                f"GBWBatchNorm folded {100 * float(self.folded):.0f} % of the samples: I + V/2 is not positive, and "
                "the logarithm does not invert the exponential. Rescale the data, or use SPDBatchNorm(metric='bw').",
                ConditioningWarning,
                stacklevel=3,
            )


def _product(L):
    return symmetrise(L @ L.mT)


def _transport(B, X):
    """Return the optimal transport maps from B to X, and the root of B."""
    eig = eigh_symmetric(symmetrise(B))
    root, inverse_root = spectral(B, "sqrt", eig=eig), spectral(B, "invsqrt", eig=eig)
    return symmetrise(inverse_root @ spectral(root @ X @ root, "sqrt") @ inverse_root), root


def _one_step_mean(X):
    """Return one step of B <- mean (B^1/2 X B^1/2)^1/2 from the arithmetic mean."""
    root = spectral(X.mean(0), "sqrt")
    return spectral(root @ X @ root, "sqrt").mean(0)
