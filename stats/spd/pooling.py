r"""Layers that pool a series into its covariance, with gradients: plain, with the mean, with lagged copies.

.. math:: S = \frac1T \sum_t z_t z_t^T, \qquad \text{answer} = (1 - a) S + a \frac{\mathrm{tr} S}{n} I

Notation  x (..., n, T) series; z what is pooled; a the relative shrinkage.
Cost      one product of n x T by T x n a series.
Pitfalls  the shrinkage is relative to the trace: an absolute ridge would make the answer depend on the unit.
References I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023,
          arXiv 2302.04508.
"""

import torch

from sciml.exceptions import InvalidInputError
from sciml.linalg.spd.checks import symmetrise
from sciml.validation import check_number, check_option

__all__ = ["AugmentedCov", "CovPool"]


class CovPool(torch.nn.Module):
    r"""Pool a series into its covariance, shrunk towards a multiple of the identity by a relative amount.

    Parameters
    ----------
    kind : {"covariance", "second-moment", "gaussian"}
        Centred (the default), not centred, or the Gaussian embedding :math:`E z z^T` of z = (x, r) with r the root
        mean square of the channels of each trial, which keeps the mean and the unit.
    shrink : float
        Weight of :math:`\mathrm{tr}(S)/n\, I`, in [0, 1]; 1e-3 by default.

    Raises
    ------
    InvalidInputError
        If an argument is out of range.

    References
    ----------
    O. Ledoit, M. Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004, for the form.

    Examples
    --------
    >>> import torch
    >>> CovPool(shrink=0.0)(torch.tensor([[[1.0, -1.0], [2.0, -2.0]]])).tolist()
    [[[1.0, 2.0], [2.0, 4.0]]]
    """

    def __init__(self, kind="covariance", shrink=1e-3):
        super().__init__()
        self.kind = check_option("kind", kind, ("covariance", "second-moment", "gaussian"))
        self.shrink = check_number("shrink", shrink, low=0, high=1)

    def forward(self, x):
        """Return the covariances of series.

        Parameters
        ----------
        x : torch.Tensor, shape (..., n, T)
            Series of T >= 2 samples, in any unit.

        Returns
        -------
        torch.Tensor, shape (..., n, n), or (..., n + 1, n + 1) for "gaussian"
            In the square of the unit of `x`.

        Raises
        ------
        InvalidInputError
            If `x` has fewer than two axes or two samples.

        Examples
        --------
        >>> import torch
        >>> CovPool("gaussian")(torch.randn(5, 3, 40)).shape
        torch.Size([5, 4, 4])
        """
        if x.ndim < 2 or x.shape[-1] < 2:
            raise InvalidInputError(
                f"x must be series of shape (..., n, T) with T >= 2; got {tuple(x.shape)}. Put time in the last axis."
            )
        T = x.shape[-1]
        if self.kind == "covariance":
            x = x - x.mean(-1, keepdim=True)
        elif self.kind == "gaussian":
            size = x.square().mean((-2, -1), keepdim=True).sqrt()
            x = torch.cat([x, size.expand(*x.shape[:-2], 1, T)], -2)
        S = symmetrise(x @ x.mT / T)
        target = S.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
        return (1 - self.shrink) * S + self.shrink * target * eye


class AugmentedCov(torch.nn.Module):
    r"""Pool a series and its lagged copies :math:`z_t = (x_t, x_{t+l}, \dots, x_{t+(p-1)l})` into one covariance.

    Parameters
    ----------
    order : int
        Number of copies p; 1 is the plain covariance.
    lag : int
        Samples between copies l; 1 by default.
    kind, shrink
        As in :class:`CovPool`.

    Raises
    ------
    InvalidInputError
        If an argument is out of range.

    References
    ----------
    I. Carrara, T. Papadopoulo, Classification of BCI-EEG based on augmented covariance matrix, 2023, arXiv 2302.04508.

    Examples
    --------
    >>> import torch
    >>> AugmentedCov(order=3, lag=2)(torch.randn(5, 2, 40)).shape
    torch.Size([5, 6, 6])
    """

    def __init__(self, order, lag=1, *, kind="covariance", shrink=1e-3):
        super().__init__()
        self.order = check_number("order", order, low=1, integer=True)
        self.lag = check_number("lag", lag, low=1, integer=True)
        self.pool = CovPool(kind, shrink)

    def forward(self, x):
        """Return the covariances of lagged series; only samples that all copies have are used.

        Parameters
        ----------
        x : torch.Tensor, shape (..., n, T)
            Series, in any unit.

        Returns
        -------
        torch.Tensor, shape (..., n * order, n * order)

        Raises
        ------
        InvalidInputError
            If fewer than two samples are left.

        Examples
        --------
        >>> import torch
        >>> AugmentedCov(order=2)(torch.randn(5, 2, 40)).shape
        torch.Size([5, 4, 4])
        """
        left = x.shape[-1] - (self.order - 1) * self.lag
        if left < 2:
            raise InvalidInputError(
                f"x must be longer than (order - 1) * lag + 1 = {(self.order - 1) * self.lag + 1} samples; got "
                f"{x.shape[-1]}. Lower order or lag."
            )
        copies = [x[..., k * self.lag : k * self.lag + left] for k in range(self.order)]
        return self.pool(torch.cat(copies, -2))
