r"""Ready imaging problems: total variation and fields of experts, for denoising, deblurring and inpainting.

.. math:: \tfrac12 \|A x - y\|^2 + \tfrac12 e^{\theta_0} \sum \sqrt{(D x)^2 + e^{2 \theta_1}}, \qquad
          \tfrac12 \|A x - y\|^2 + \tfrac12 e^{\theta_0} \sum_k e^{a_k} \sum \sqrt{(c_k * x)^2 + e^{2 b_k}}

Notation  total variation: theta = (log alpha, log nu); field of experts, K filters of side s: theta = (theta_0, a, b,
          c), of length 1 + 2 K + K s^2.
Pitfalls  alpha and nu have the units of the images: bounds and starts for luminance between 0 and 1 do not suit one
          between 0 and 255.
References  L. Rudin, S. Osher, E. Fatemi, Nonlinear total variation based noise removal algorithms, 1992; S. Roth, M.
          Black, Fields of experts, 2009; Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv 2308.10098.
"""

from __future__ import annotations

import math

import torch

from sciml.exceptions import InvalidInputError
from sciml.inverse.bilevel.differences import Differences
from sciml.inverse.bilevel.filters import Filters, xavier_filters
from sciml.inverse.bilevel.maps import Exp
from sciml.inverse.bilevel.structured import StructuredLower
from sciml.inverse.bilevel.terms import Term
from sciml.linalg.arrays import enter
from sciml.validation import check_number

__all__ = ["field_of_experts", "field_of_experts_start", "psnr", "total_variation"]


def total_variation(y, A=None, mu0=0.0, *, shape=None):
    r"""Return the problem of smoothed anisotropic total variation, with theta = (log alpha, log nu).

    .. math:: h = \tfrac12 \|A x - y\|^2 + \tfrac12 e^{\theta_0} \sum \sqrt{(D x)^2 + e^{2 \theta_1}}
              + \tfrac{\mu_0}2 \|x\|^2

    Parameters
    ----------
    y : array, shape (B, H, W), or (B, *data)
        Noisy images, or what A makes of images.
    A : None, Mask, Blur, LinearOperator, or tuple (forward, adjoint)
        As in `StructuredLower`; None (the default) is the identity.
    mu0 : float
        Weight of the square; 0 by default, above 0 where A has a null space.
    shape : tuple of int or None
        Shape of one image, where that of the data is another.

    Returns
    -------
    StructuredLower

    Raises
    ------
    InvalidInputError
        As `StructuredLower`.

    References
    ----------
    Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv 2308.10098, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel import total_variation
    >>> total_variation(np.zeros((2, 8, 8))).n_samples
    2
    """
    term = Term(Differences(), "smooth-abs", weight=Exp(0, scale=0.5), nu=Exp(1))
    return StructuredLower(A, y, [term], mu0, shape=shape)


def field_of_experts(y, A=None, mu0=0.0, *, n_filters=10, size=5, boundary="reflect", shape=None):
    r"""Return the problem of a field of experts, with theta = (theta_0, a, b, c).

    .. math:: h = \tfrac12 \|A x - y\|^2 + \tfrac12 e^{\theta_0} \sum_k e^{a_k} \sum \sqrt{(c_k * x)^2 + e^{2 b_k}}
              + \tfrac{\mu_0}2 \|x\|^2

    Parameters
    ----------
    y : array, shape (B, H, W), or (B, *data)
        Noisy images, or what A makes of images.
    A : None, Mask, Blur, LinearOperator, or tuple (forward, adjoint)
        As in `StructuredLower`; None (the default) is the identity.
    mu0 : float
        Weight of the square; 0 by default, above 0 where A has a null space.
    n_filters : int
        K; 10 by default.
    size : int
        Side s of the filters, odd; 5 by default. The mean of each is taken off.
    boundary : {"reflect", "periodic"}
        How images go on beyond their border; mirrored by default.
    shape : tuple of int or None
        Shape of one image, where that of the data is another.

    Returns
    -------
    StructuredLower

    Raises
    ------
    InvalidInputError
        As `StructuredLower` and `Filters`.

    References
    ----------
    S. Roth, M. Black, Fields of experts, 2009; Y. Chen, R. Ranftl, T. Pock, 2014, arXiv 1401.2804.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel import field_of_experts, field_of_experts_start
    >>> problem = field_of_experts(np.zeros((1, 8, 8)), n_filters=2, size=3)
    >>> len(field_of_experts_start(2, 3))
    23
    """
    K = check_number("n_filters", n_filters, low=1, integer=True)
    bank = Filters(index=slice(1 + 2 * K, None), n_filters=K, size=size, boundary=boundary)
    weight, nu = Exp(0, slice(1, 1 + K), scale=0.5), Exp(slice(1 + K, 1 + 2 * K))
    return StructuredLower(A, y, [Term(bank, "smooth-abs", weight, nu)], mu0, shape=shape)


def field_of_experts_start(n_filters=10, size=5, *, scale=1.0, random_state=0):
    """Return hyperparameters to start from: weak terms, narrow potentials, random filters.

    Parameters
    ----------
    n_filters : int
        K; 10 by default.
    size : int
        Side s of the filters; 5 by default.
    scale : float
        Units of the images: 1 (the default) suits luminance between 0 and 1.
    random_state : None, int or numpy.random.Generator
        Source of the filters; 0 by default.

    Returns
    -------
    torch.Tensor, shape (1 + 2 K + K s^2,), float64
        theta_0 = a_k = -3, b_k = -3.5, with the logarithm of `scale` added to theta_0 and b; filters as
        `xavier_filters` draws them.

    Raises
    ------
    InvalidInputError
        If `n_filters` or `size` is below 1, or `scale` not above 0.

    References
    ----------
    Salehi, Mukherjee, Roberts, Ehrhardt, 2025, arXiv 2308.10098, section 4.

    Examples
    --------
    >>> from sciml.inverse.bilevel import field_of_experts_start
    >>> field_of_experts_start(1, 3)[:3].tolist()
    [-3.0, -3.0, -3.5]
    """
    K = check_number("n_filters", n_filters, low=1, integer=True)
    size = check_number("size", size, low=1, integer=True)
    unit = math.log(check_number("scale", scale, low=0, inclusive="neither"))
    c = xavier_filters(K, size, random_state).reshape(-1)
    return torch.cat([torch.tensor([-3.0 + unit] + [-3.0] * K + [-3.5 + unit] * K, dtype=torch.float64), c])


def psnr(images, truth, peak=1.0):
    r"""Return peak signal-to-noise ratios, :math:`10 \log_{10} (\text{peak}^2 / \text{mean squared error})`.

    Parameters
    ----------
    images, truth : array, shape (n, ...)
        What is judged, and what it should be.
    peak : float
        Range of the images, in their units; 1 by default.

    Returns
    -------
    array, shape (n,)
        In dB; infinite where an image is the truth.

    Raises
    ------
    InvalidInputError
        If the shapes differ, or `peak` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sciml.inverse.bilevel import psnr
    >>> psnr(np.full((1, 4), 0.1), np.zeros((1, 4))).round(6)
    array([20.])
    """
    peak = check_number("peak", peak, low=0, inclusive="neither")
    (images, truth), leave = enter(images, truth, names=("images", "truth"))
    if images.shape != truth.shape or images.ndim == 0:
        raise InvalidInputError(
            f"images must have the shape of truth, {tuple(truth.shape)}, samples first; got {tuple(images.shape)}."
        )
    error = (images - truth).to(torch.float64).reshape(len(images), -1).square().mean(1)
    return leave((10 * torch.log10(peak**2 / error)).to(images.dtype))
