"""What the key of a tensor tells: embeddings, attention, masks, norms, optimiser states, running statistics.

Notation  a key is a path of words joined by points; the last is the leaf, the one before it the owner.
Pitfalls  names are habits, not promises: they only choose between treatments that the shape allows, and every tensor
          set aside is listed with its reason.
"""

from __future__ import annotations

import math
import re

import torch

from sciml.stats.spectra.experts import is_expert

__all__ = ["is_mask", "kind_of", "logical_key", "reason_to_skip"]

_EMBEDDING = re.compile(
    r"^(wte|wpe|shared|embed(_in|_tokens|_positions)?|embeddings?|(\w+_)?(embed|embeds|embedding|embeddings|emb)|\w*pos_?embed|"
    r"relative_attention_bias|relative_position_bias_table)$",
    re.IGNORECASE,
)
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_embeddings|predictions\.decoder)$|^output$")
_ATTENTION = re.compile(r"(^|[._])(\w*attn\w*|\w*attention\w*)(\.|$)", re.IGNORECASE)
_NORM = re.compile(r"^(\w*_)?(layer_?norm|group_?norm|batch_?norm|rms_?norm|norm|ln|bn)(_?\d+|_f)?$", re.IGNORECASE)
_MASK = re.compile(r"(^|_)(mask(ed)?(_bias)?|tril|triu|causal)$|^(attn_|causal_|attention_)?mask\w*$", re.IGNORECASE)
_STATE = re.compile(r"^(running_(mean|var)|num_batches_tracked)$")
_TABLE = re.compile(r"^(inv_freq|freqs(_cis)?|(cos|sin)(_cached)?|rotary\w*|position_ids|anchors?)$")
_OPTIMISER = re.compile(r"^(exp_avg\w*|max_exp_avg_sq|momentum_buffer|square_avg|grad_avg|acc_delta|prev|sum_sq)$")
_LOOK = 2**20  # bytes of a first row that may be read to recognise a mask
_PARAMETRISED = re.compile(r"parametrizations\.(\w+)\.original[01]?$")


def logical_key(key):
    """Return the key under which a parametrised weight would be stored without its parametrisation.

    Parameters
    ----------
    key : str
        Key of the state dict.

    Returns
    -------
    str
        The same key for anything else.

    Examples
    --------
    >>> from sciml.stats.spectra.names import logical_key
    >>> logical_key("conv.parametrizations.weight.original1")
    'conv.weight'
    """
    return _PARAMETRISED.sub(r"\1", key)


def reason_to_skip(key, stored, info=None):
    """Return why a tensor holds no weight matrix, as far as its name and its shape tell.

    Parameters
    ----------
    key : str
        Logical key.
    stored : object
        The tensor, with `shape` and `dtype`, perhaps `buffer`.
    info : object or None
        Description of its module; None (the default) where there is none.

    Returns
    -------
    str or None
        The reason; None where it may hold a matrix.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.names import reason_to_skip
    >>> reason_to_skip("bn.weight", torch.ones(3)), reason_to_skip("fc.weight", torch.ones(3, 2))
    ('1 dimension', None)
    """
    path, _, leaf = key.rpartition(".")
    shape = tuple(stored.shape)
    if _STATE.match(leaf):
        return "running statistic"
    if not (stored.dtype.is_floating_point or stored.dtype.is_complex):
        return f"no floating point numbers: {str(stored.dtype).removeprefix('torch.')} without a scale"
    if len(shape) < 2:
        return f"{len(shape)} dimension{'' if len(shape) == 1 else 's'}"
    if 0 in shape:
        return f"empty: shape {shape}"
    if _OPTIMISER.match(leaf):
        return "state of an optimiser"
    family = getattr(info, "family", "")
    if family == "norm" or (not family and leaf in ("weight", "bias") and _NORM.match(path.rpartition(".")[2])):
        return "normalisation"
    if _MASK.search(leaf) or (leaf == "bias" and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]):
        return "mask"
    if _TABLE.match(leaf):
        return "table of positions"
    if getattr(stored, "buffer", False) and "weight" not in leaf:
        return "buffer: not trained"
    if leaf == "bias" or (leaf.endswith("_bias") and not re.search(r"rel|pos", leaf)):
        return "bias"
    if sum(size > 1 for size in shape) < 2:
        return f"a vector in effect: shape {shape}"
    return None


def is_mask(key, stored):
    """Return whether the first row of a square tensor holds only zeros and what stands for minus infinity.

    Parameters
    ----------
    key : str
        Logical key; what is called a weight is not looked at.
    stored : object
        The tensor, with `shape`, `dtype` and `rows`.

    Returns
    -------
    bool
        True for a mask that is added to the logarithms of probabilities.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.names import is_mask
    >>> T = torch.full((4, 4), float("-inf")).triu(1)
    >>> is_mask("future", SimpleNamespace(shape=T.shape, dtype=T.dtype, rows=lambda a, b: T[a:b]))
    True
    """
    shape = tuple(stored.shape)
    if "weight" in key.rpartition(".")[2] or shape[-1] != shape[-2] or not stored.dtype.is_floating_point:
        return False
    if math.prod(shape[1:]) * stored.dtype.itemsize > _LOOK:
        return False
    row = stored.rows(0, 1).to(torch.float32)
    return bool(((row == 0) | (row <= -1e4)).all() and (row <= -1e4).any())


def kind_of(key, info=None):
    """Return the kind of a matrix, as its module or its key tells.

    Parameters
    ----------
    key : str
        Logical key.
    info : object or None
        Description of its module; None (the default) where there is none.

    Returns
    -------
    (str, str)
        "embedding", "expert", "attention" or "linear"; and "head" for the output layer over a vocabulary, else an
        empty word.

    Examples
    --------
    >>> from sciml.stats.spectra.names import kind_of
    >>> kind_of("model.embed_tokens.weight"), kind_of("h.0.attn.c_proj.weight"), kind_of("lm_head.weight")
    (('embedding', ''), ('attention', ''), ('embedding', 'head'))
    """
    path, _, leaf = key.rpartition(".")
    owner_path = path if leaf.startswith(("weight", "qweight", "original")) else key
    owner = owner_path.rpartition(".")[2]
    if _HEAD.search(owner_path):
        return "embedding", "head"
    family = getattr(info, "family", "")
    if family == "embedding" or (family != "linear" and _EMBEDDING.match(owner)):
        return "embedding", ""
    if is_expert(key):
        return "expert", ""
    # The output of torch's attention is a linear map of a class of its own.
    told = family == "attention" or getattr(info, "type", "") == "NonDynamicallyQuantizableLinear"
    return ("attention" if told or _ATTENTION.search(path) else "linear"), ""
