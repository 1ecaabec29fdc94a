r"""The matrices of tensors of three or more axes: convolutions, spectral convolutions, stacks of matrices.

.. math:: T_{o c a b} \to W^{(ab)}_{oc}, \qquad T_{e m n} \to W^{(e)}_{mn}

A kernel of k positions holds k matrices (outputs x inputs of a group), one for each position; where they are too small,
one matrix outputs x (inputs k) is looked at. Leading axes of a stack count its matrices.

Notation  o, c output and input channels; g groups; a, b positions in the kernel, k of them.
Pitfalls  a stack (e, m, n) and a one-dimensional kernel (o, c, k) look alike: the module, the name or a short last axis
          tell them apart. A transposed convolution is stored with its inputs first.
"""

from __future__ import annotations

import itertools
import math
import re

from sciml.stats.spectra.views import Cut, Turned

__all__ = ["convolution_views", "is_convolution", "is_spectral", "spectral_views", "stack_views"]

_CONV_NAME = re.compile(r"conv|patch_?embed|down_?sample", re.IGNORECASE)
_SPECTRAL_NAME = re.compile(r"spectral|fourier|fno|(^|\.)weights?_?[1-4]$", re.IGNORECASE)
_STACK_NAME = re.compile(r"expert|moe|rel_?pos|relative|bias_table", re.IGNORECASE)
_LONGEST_KERNEL = 64


def is_convolution(key, shape, info=None, min_size=16):
    """Return whether a tensor of three to five axes is the kernel of a convolution.

    Parameters
    ----------
    key : str
        Its key.
    shape : tuple of int
        Its shape.
    info : object or None
        Description of its module, where known; None by default.
    min_size : int
        A last axis shorter than this belongs to a kernel rather than to a stack of matrices; 16 by default.

    Returns
    -------
    bool
        True for a kernel.

    Examples
    --------
    >>> from sciml.stats.spectra.convolutions import is_convolution
    >>> is_convolution("features.0.weight", (64, 3, 7, 7)), is_convolution("mlp.experts.w1", (8, 64, 64))
    (True, False)
    """
    family = getattr(info, "family", "")
    if family or not 3 <= len(shape) <= 5:
        return family == "conv" and len(shape) > 2
    if _STACK_NAME.search(key) or shape[0] == 1:
        return False
    if _CONV_NAME.search(key) or "Conv" in getattr(info, "type", ""):
        return True
    return shape[-1] < min_size if len(shape) == 3 else max(shape[2:]) <= _LONGEST_KERNEL


def is_spectral(key, shape, is_complex, info=None):
    """Return whether a tensor holds complex weights of Fourier modes, complex or as pairs of real numbers.

    Parameters
    ----------
    key : str
        Its key.
    shape : tuple of int
        Its shape.
    is_complex : bool
        Whether it is stored as complex numbers.
    info : object or None
        Description of its module, where known; None by default.

    Returns
    -------
    bool
        True for spectral weights.

    Examples
    --------
    >>> from sciml.stats.spectra.convolutions import is_spectral
    >>> is_spectral("conv0.weights1", (20, 20, 12, 12), True), is_spectral("conv0.weights1", (20, 20, 12, 12, 2), False)
    (True, True)
    """
    if is_complex:
        return len(shape) >= 3
    named = _SPECTRAL_NAME.search(key) or _SPECTRAL_NAME.search(getattr(info, "type", ""))
    return len(shape) >= 4 and shape[-1] == 2 and bool(named) and getattr(info, "family", "") != "conv"


def _positions(sizes):
    return list(itertools.product(*(range(size) for size in sizes)))


def convolution_views(base, *, conv="slice", min_size=16, groups=None, transposed=False):
    """Return the matrices of a kernel, or why there are none.

    Parameters
    ----------
    base : object
        The stored tensor, (outputs, inputs / g, k...), or (inputs, outputs / g, k...) where transposed.
    conv : {"slice", "flatten"}
        One matrix for each position (the default), or one for each group; matrices whose smaller side is below
        `min_size` are flattened in any case.
    min_size : int
        Smallest side for which slices are taken; 16 by default.
    groups : int or None
        Number of groups g; None (the default): unknown, so that one input for each output means a depthwise kernel.
    transposed : bool
        Whether inputs come first; False by default.

    Returns
    -------
    list or str
        Views of equal shape; the reason, where even the flattened matrix of a depthwise kernel is too small.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.convolutions import convolution_views
    >>> kernel = SimpleNamespace(shape=(32, 16, 3, 3))
    >>> len(convolution_views(kernel)), convolution_views(kernel, conv="flatten")[0].shape
    (9, (32, 144))
    """
    first, second, *kernel = base.shape
    k = math.prod(kernel)
    if second == 1 and groups != 1:
        if min(first, k) < min_size:
            return f"depthwise convolution: its matrix {first} x {k} is below min_size={min_size}"
        return [Cut(base, ((0, first),), ((0, 1),))]
    groups = groups if groups and first % groups == 0 else 1
    size = first // groups
    runs = [(g * size, (g + 1) * size) for g in range(groups)]
    sliced = conv == "slice" and min(size, second) >= min_size
    if not transposed:
        places = _positions(kernel) if sliced else [None]
        return [Cut(base, (run,), ((0, second),), at) for run in runs for at in places]
    if not sliced:
        order = (1, 0, *range(2, len(base.shape)))
        return [Turned(base, *run, order=order) for run in runs]
    whole = slice(None)
    return [Turned(base, *run, (whole, whole, *at), (1, 0)) for run in runs for at in _positions(kernel)]


def spectral_views(base, *, is_complex):
    """Return the matrices (inputs, outputs) of the modes of a spectral convolution.

    Parameters
    ----------
    base : object
        The stored tensor (inputs, outputs, modes...), with a last axis of two where it is not complex.
    is_complex : bool
        Whether it is stored as complex numbers.

    Returns
    -------
    list of Turned
        One for each mode, complex.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.convolutions import spectral_views
    >>> weights = SimpleNamespace(shape=(20, 20, 4, 3, 2), dtype=torch.float32)
    >>> len(spectral_views(weights, is_complex=False)), spectral_views(weights, is_complex=False)[0].dtype
    (12, torch.complex64)
    """
    modes = base.shape[2:] if is_complex else base.shape[2:-1]
    whole = slice(None)
    return [Turned(base, 0, base.shape[0], (whole, whole, *at), paired=not is_complex) for at in _positions(modes)]


def stack_views(base):
    """Return the matrices of a stack, in the order of its leading axes.

    Parameters
    ----------
    base : object
        The stored tensor (..., m, n), of three or more axes.

    Returns
    -------
    list of Turned
        One m x n matrix for each place in the leading axes.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.convolutions import stack_views
    >>> [view.shape for view in stack_views(SimpleNamespace(shape=(1, 2, 16, 8)))]
    [(16, 8), (16, 8)]
    """
    return [Turned(base, at[0], at[0] + 1, (0, *at[1:])) for at in _positions(base.shape[:-2])]
