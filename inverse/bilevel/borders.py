"""How images go on beyond their border, and the transpose of that.

Pitfalls  an entry that is mirrored to two places collects from both in the transpose; forgetting it leaves an adjoint
          that is wrong near the border only.
"""

from __future__ import annotations

import torch.nn.functional as F

__all__ = ["BOUNDARIES", "pad", "unpad"]

_MODES = {"reflect": "reflect", "periodic": "circular"}
BOUNDARIES = tuple(_MODES)


def pad(x, p, q, boundary):
    """Continue images beyond their border.

    Parameters
    ----------
    x : torch.Tensor, shape (b, H, W)
        Images.
    p, q : int
        Rows and columns more on each side, less than H and W.
    boundary : {"reflect", "periodic"}
        Mirrored at the outermost pixels, or from the other side.

    Returns
    -------
    torch.Tensor, shape (b, H + 2 p, W + 2 q)

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.borders import pad
    >>> pad(torch.tensor([[[1.0, 2.0, 3.0]]]), 0, 1, "reflect")
    tensor([[[2., 1., 2., 3., 2.]]])
    """
    return F.pad(x[:, None], (q, q, p, p), mode=_MODES[boundary])[:, 0] if p or q else x


def unpad(wide, axis, p, boundary):
    """Add the p entries beyond each end of an axis to the entries that padding took them from.

    Parameters
    ----------
    wide : torch.Tensor, shape (..., n + 2 p, ...)
        Is left alone.
    axis : int
        The axis.
    p : int
        Entries beyond each end, less than n for a mirrored border.
    boundary : {"reflect", "periodic"}
        As the padding was.

    Returns
    -------
    torch.Tensor, shape (..., n, ...)

    Examples
    --------
    >>> import torch
    >>> from sciml.inverse.bilevel.borders import unpad
    >>> unpad(torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0]), 0, 1, "reflect")
    tensor([0., 3., 0.])
    """
    n = wide.shape[axis] - 2 * p
    inner = wide.narrow(axis, p, n).clone()
    if p == 0:
        return inner
    low, high = wide.narrow(axis, 0, p), wide.narrow(axis, p + n, p)
    if boundary == "periodic":
        inner.narrow(axis, n - p, p).add_(low)
        inner.narrow(axis, 0, p).add_(high)
    else:
        inner.narrow(axis, 1, p).add_(low.flip(axis))
        inner.narrow(axis, n - 1 - p, p).add_(high.flip(axis))
    return inner
