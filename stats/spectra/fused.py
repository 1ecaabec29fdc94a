r"""Which rows of a fused weight belong to which matrix: gates, queries with keys and values, gate with up.

.. math:: W = (W_i; W_f; W_g; W_o), \qquad W = (W_q; W_k; W_v), \qquad W = (W_{gate}; W_{up})

A fused weight has the spectrum of none of its parts. The parts are runs of rows (of columns where the weight is stored
as its transpose); which runs, the key, the shape, the module and the number of heads tell. A weight of which they do
not tell enough stays whole: a wrong cut is worse than none.

Notation  H hidden size; E width; h heads and h' groups of keys and values, each of width d: rows (h + 2 h') d.
Pitfalls  "interleaved" is the order of GPT-NeoX, BLOOM and InternLM2: the queries of a group, its key, its value, then
          the next group. "contiguous" is all queries, then all keys, then all values. The keys alone do not tell which
          of the two `query_key_value` has: that needs the name of the model or of the module, or `qkv_layout`.
References  S. Hochreiter, J. Schmidhuber, Long short-term memory, 1997. K. Cho et al., Learning phrase representations
            using RNN encoder-decoder, 2014, arXiv 1406.1078. J. Ainslie et al., GQA: training generalized multi-query
            transformer models, 2023, arXiv 2305.13245.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["GATES", "Reading", "is_transposed", "split_fused_weight"]

GATES = {
    4: ("input gate", "forget gate", "cell gate", "output gate"),
    3: ("reset gate", "update gate", "new gate"),
    1: ("",),
}
_RECURRENT = re.compile(r"weight_(ih|hh|hr)((?:_l\d+)?(?:_reverse)?)$")
_GATE_COUNT = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3, "RNN": 1, "RNNCell": 1}
_CONTIGUOUS = ("in_proj_weight", "c_attn", "qkv", "to_qkv", "Wqkv", "qkv_proj")
_EITHER = ("query_key_value", "wqkv", "linear_qkv")
_INTERLEAVED = ("gptneox", "gpt_neox", "bloom", "internlm2")
_PLAIN_LEAVES = ("weight", "qweight", "weight_packed", "weight_orig", "weight_v", "_data", "kernel")
_GATE_UP = {
    "gate_up_proj": ("gate", "up"),
    "w12": ("gate", "up"),
    "up_gate_proj": ("up", "gate"),
    "up_gate": ("up", "gate"),
    "gate_up": ("gate", "up"),
}


@dataclass(frozen=True)
class Reading:
    """What is known beside a key and a shape.

    Parameters
    ----------
    metadata : dict
        Plain values of the model's configuration; empty by default.
    modules : dict
        Descriptions of modules by path; empty by default, as for a file.
    shapes : dict
        Shapes by key, to look at siblings; empty by default.
    qkv_layout : {None, "contiguous", "interleaved"}
        Order of fused attention weights; None (the default): by the names.
    num_heads, num_kv_heads : int or None
        Heads of the attention and groups of keys and values; None (the default): from module and metadata.

    Examples
    --------
    >>> from sciml.stats.spectra.fused import Reading
    >>> Reading(metadata={"num_heads": 4}).heads("h.0.attn.qkv")
    (4, None)
    """

    metadata: dict = field(default_factory=dict)
    modules: dict = field(default_factory=dict)
    shapes: dict = field(default_factory=dict)
    qkv_layout: str | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None

    def above(self, path):
        """Return the descriptions of a module and of those that hold it, the nearest first.

        Parameters
        ----------
        path : str
            Path of a module.

        Returns
        -------
        list
            Of descriptions, empty without a module.

        Examples
        --------
        >>> from sciml.stats.spectra.fused import Reading
        >>> Reading(modules={"a": 1, "": 0}).above("a.b")
        [1, 0]
        """
        parts = path.split(".") if path else []
        paths = [".".join(parts[:k]) for k in range(len(parts), -1, -1)]
        return [self.modules[p] for p in paths if p in self.modules]

    def heads(self, path):
        """Return (number of heads, number of groups of keys and values) of an attention, None where unknown.

        Parameters
        ----------
        path : str
            Path of the module that holds the weight.

        Returns
        -------
        tuple
            Two entries, int or None.

        Examples
        --------
        >>> from sciml.stats.spectra.fused import Reading
        >>> Reading(metadata={"num_attention_heads": 8, "num_key_value_heads": 2}).heads("attn")
        (8, 2)
        """
        heads, groups = self.num_heads, self.num_kv_heads
        for info in self.above(path):
            heads = heads or getattr(info, "num_heads", None)
            groups = groups or getattr(info, "num_kv_heads", None)
        for word in ("num_heads", "num_attention_heads", "n_head", "n_heads"):
            heads = heads or self.metadata.get(word)
        for word in ("num_kv_heads", "num_key_value_heads", "n_head_kv", "n_kv_heads", "multi_query_group_num"):
            groups = groups or self.metadata.get(word)
        return heads, groups

    def says(self, path, *words):
        """Return whether the model's or a holding module's name contains one of some words.

        Parameters
        ----------
        path : str
            Path of a module.
        *words : str
            In small letters.

        Returns
        -------
        bool
            True where one is found.

        Examples
        --------
        >>> from sciml.stats.spectra.fused import Reading
        >>> Reading(metadata={"model_type": "gpt_neox"}).says("h.0", "gpt_neox")
        True
        """
        names = [getattr(info, "type", "") for info in self.above(path)]
        names += [self.metadata.get("model_type") or "", *(self.metadata.get("architectures") or [])]
        return any(word in str(name).lower() for name in names for word in words)


def is_transposed(key, shape, info=None):
    """Return whether a weight is stored as (inputs, outputs), as those of GPT-2 are.

    Parameters
    ----------
    key : str
        Key of the state dict.
    shape : tuple of int
        Of the stored weight, two axes.
    info : object or None
        Description of its module; None (the default) where there is none.

    Returns
    -------
    bool
        True where the columns are the outputs.

    Examples
    --------
    >>> from sciml.stats.spectra.fused import is_transposed
    >>> is_transposed("h.0.attn.c_attn.weight", (8, 24)), is_transposed("h.0.attn.c_attn.weight", (24, 8))
    (True, False)
    """
    if info is not None:
        return bool(getattr(info, "input_first", False))
    owner = key.rpartition(".")[0].rpartition(".")[2]
    return owner == "c_attn" and shape[1] in (2 * shape[0], 3 * shape[0])


def split_fused_weight(key, shape, reading, transposed=False):
    r"""Return the parts of a fused weight.

    Parameters
    ----------
    key : str
        Key of the state dict.
    shape : tuple of int
        Of the stored weight, two axes.
    reading : Reading
        What else is known.
    transposed : bool
        The weight is stored as (inputs, outputs), so that its columns are cut; False by default.

    Returns
    -------
    list of (str, tuple) or None or str
        Name of each part and its runs [start, stop) along the axis of outputs; None where the weight is not fused; the
        word "fused" where it is, but what is known does not tell the parts.

    Examples
    --------
    >>> from sciml.stats.spectra.fused import Reading, split_fused_weight
    >>> split_fused_weight("attn.in_proj_weight", (6, 2), Reading())
    [('q', ((0, 2),)), ('k', ((2, 4),)), ('v', ((4, 6),))]
    >>> split_fused_weight("attn.query_key_value.weight", (6, 2), Reading())
    'fused'
    >>> split_fused_weight("attn.query_key_value.weight", (6, 2), Reading(qkv_layout="interleaved", num_heads=2))[1]
    ('k', ((1, 2), (4, 5)))
    """
    outputs, inputs = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
    path, _, leaf = key.rpartition(".")
    recurrent = _RECURRENT.search(leaf)
    if recurrent:
        return _gates(key, path, outputs, recurrent, reading)
    owner = path.rpartition(".")[2] if leaf in _PLAIN_LEAVES else leaf
    if owner in _GATE_UP:
        return _equal(outputs, _GATE_UP[owner])
    if owner in ("to_kv", "kv", "kv_proj") and (owner == "to_kv" or outputs == 2 * inputs):
        return _equal(outputs, ("k", "v"))
    if owner == "c_attn" and outputs == 2 * inputs and "cross" in path:
        return _equal(outputs, ("k", "v"))
    if owner == "proj" and getattr(reading.modules.get(path.rpartition(".")[0]), "type", "") in ("GEGLU", "SwiGLU"):
        return _equal(outputs, ("up", "gate"))
    if owner in (*_CONTIGUOUS, *_EITHER):
        return _attention(owner, path, outputs, inputs, reading)
    return None


def _equal(outputs, names):
    """Cut into equal runs, where that is possible."""
    size, rest = divmod(outputs, len(names))
    return "fused" if rest else [(name, ((k * size, (k + 1) * size),)) for k, name in enumerate(names)]


def _gates(key, path, outputs, match, reading):
    """Cut the gates of a recurrent weight: their number from the module, else from the shapes of its siblings."""
    if match[1] == "hr":
        return None
    stem = key[: len(key) - len(match[0])]
    count = _GATE_COUNT.get(getattr(reading.modules.get(path), "type", None))
    if count is None:
        # With a projection the recurrent weight is (4 H, P): H is the number of columns of the projection.
        hr, hh = reading.shapes.get(f"{stem}weight_hr{match[2]}"), reading.shapes.get(f"{stem}weight_hh{match[2]}")
        hidden = hr[1] if hr else hh[1] if hh else 0
        count = outputs // hidden if hidden and outputs % hidden == 0 else None
    if count not in GATES or outputs % count:
        return "fused"
    return None if count == 1 else _equal(outputs, GATES[count])


def _attention(owner, path, outputs, inputs, reading):
    """Cut queries, keys and values, where the order and the numbers of heads are known or need not be."""
    layout = reading.qkv_layout or _layout(owner, path, reading)
    heads, groups = reading.heads(path)
    if owner in ("query_key_value", "c_attn") and reading.metadata.get("multi_query") is True:
        groups = reading.num_kv_heads or (groups if _new_falcon(reading) else 1)
    # Grouped queries have fewer outputs than 3 E. Heads of a text model say nothing of the images' attention beside it.
    square = outputs == 3 * inputs and reading.num_kv_heads is None
    groups = heads if square else groups
    if layout == "contiguous" and (square or (owner == "to_qkv" and outputs % 3 == 0 and groups in (None, heads))):
        return _equal(outputs, ("q", "k", "v"))
    if layout is None or heads is None or (groups is None and not square):
        return "fused"
    groups = groups or heads
    width, rest = divmod(outputs, heads + 2 * groups)
    if rest or heads % groups:
        return "fused"
    if layout == "contiguous":
        ends = (heads * width, (heads + groups) * width, outputs)
        return [("q", ((0, ends[0]),)), ("k", ((ends[0], ends[1]),)), ("v", ((ends[1], ends[2]),))]
    return _interleaved(width, heads // groups, groups)


def _interleaved(width, queries, groups):
    """Return the runs of a layout in which every group holds its queries, its key and its value."""
    starts = [g * (queries + 2) * width for g in range(groups)]
    ends = {"q": (0, queries), "k": (queries, queries + 1), "v": (queries + 1, queries + 2)}
    return [
        (name, tuple((start + first * width, start + last * width) for start in starts))
        for name, (first, last) in ends.items()
    ]


def _new_falcon(reading):
    return reading.metadata.get("new_decoder_architecture") is True


def _layout(owner, path, reading):
    """Return the order of a fused attention weight as its names tell it, or None."""
    if reading.says(path, "codegen"):
        return None
    if owner == "c_attn" and reading.says(path, "bigcode"):
        return "contiguous" if reading.metadata.get("multi_query") is True else "interleaved"
    if owner not in _EITHER:
        return "contiguous"
    if reading.says(path, *_INTERLEAVED):
        return "interleaved"
    if reading.says(path, "chatglm"):
        return "contiguous" if reading.metadata.get("multi_query_attention") is True else "interleaved"
    if reading.says(path, "falcon"):
        multi = reading.metadata.get("multi_query") is True and not _new_falcon(reading)
        return "contiguous" if multi else "interleaved"
    return None
