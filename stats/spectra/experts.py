r"""Experts stored in one tensor: one matrix for each, cut into gate and up where they are fused.

.. math:: T_{e m n} \to W^{(e)}_{mn}, \qquad W^{(e)} = (W^{(e)}_{gate}, W^{(e)}_{up})

Notation  e expert; H hidden size; I intermediate size.
Pitfalls  fused gates lie along the axis of length 2 I, rows or columns: the sibling `down_proj`, whose axes are H and
          I, tells. GPT-OSS interleaves gate and up; its biases beside the weights tell.
References  N. Shazeer et al., Outrageously large neural networks: the sparsely-gated mixture-of-experts layer, 2017,
            arXiv 1701.06538.
"""

from __future__ import annotations

import itertools
import re

__all__ = ["expert_parts", "is_expert"]

_EXPERT = re.compile(r"(^|[._])(experts?|moe)([._]|$)", re.IGNORECASE)
_ROUTER = re.compile(r"(^|\.)(gate|router)(\.weight)?$")
_GATE_UP = re.compile(r"(gate_up|up_gate)(_proj)?(?=$|\.|_blocks$)")


def is_expert(key):
    """Return whether a key belongs to experts.

    Parameters
    ----------
    key : str
        Key of the state dict.

    Returns
    -------
    bool
        True where a word of it says so.

    Examples
    --------
    >>> from sciml.stats.spectra.experts import is_expert
    >>> is_expert("layers.0.mlp.experts.down_proj"), is_expert("layers.0.mlp.down_proj")
    (True, False)
    """
    return bool(_EXPERT.search(key)) and not _ROUTER.search(key)


def expert_parts(key, shape, reading=None):
    """Return the parts of a stack of experts.

    Parameters
    ----------
    key : str
        Key of the state dict.
    shape : tuple of int
        (experts, m, n); further leading axes count experts as well.
    reading : Reading or None
        Shapes of the siblings, to cut gate from up; None (the default) keeps them together.

    Returns
    -------
    list of (str, tuple)
        Name of each part and its place in the tensor: integers for the leading axes, slices for the last two.

    Examples
    --------
    >>> from sciml.stats.spectra.experts import expert_parts
    >>> from sciml.stats.spectra.fused import Reading
    >>> shapes = {"experts.gate_up_proj": (2, 8, 6), "experts.down_proj": (2, 3, 8)}
    >>> [name for name, _ in expert_parts("experts.gate_up_proj", (2, 8, 6), Reading(shapes=shapes))]
    ['expert 0 gate', 'expert 0 up', 'expert 1 gate', 'expert 1 up']
    """
    halves = _halves(key, shape, reading) if reading is not None else None
    halves = halves or [("", (slice(None), slice(None)))]
    places = itertools.product(*(range(size) for size in shape[:-2]))
    return [(f"expert {e}{word}", (*place, *cut)) for e, place in enumerate(places) for word, cut in halves]


def _halves(key, shape, reading):
    """Return the two halves of one fused expert, or None where they are not told."""
    match = _GATE_UP.search(key)
    down = reading.shapes.get(key.replace(match[0], "down_proj")) if match else None
    if down is None or len(down) != len(shape):
        return None
    # Inputs and outputs change places from one to the other: (2 I, H) goes with (H, I), and (H, 2 I) with (I, H).
    m, n = shape[-2:]
    axes = [axis for axis, fits in ((0, (n, m / 2)), (1, (n / 2, m))) if tuple(down[-2:]) == fits]
    if len(axes) != 1:
        return None
    axis = axes[0]
    size = shape[axis - 2]
    interleaved = f"{key.removesuffix('_blocks')}_bias" in reading.shapes
    first, second = (
        (slice(0, size, 2), slice(1, size, 2)) if interleaved else (slice(0, size // 2), slice(size // 2, size))
    )
    names = (" gate", " up") if match[0].startswith("gate") else (" up", " gate")
    whole = slice(None)
    return [
        (name, (cut, whole) if axis == 0 else (whole, cut)) for name, cut in zip(names, (first, second), strict=True)
    ]
