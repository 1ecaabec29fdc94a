r"""Low-rank adapters: which factors belong together, their scale, and the base that they change.

.. math:: \Delta W = \frac{\alpha}{r} B A \quad (\text{rank-stabilised: } \alpha / \sqrt r), \qquad W' = W + \Delta W

Notation  A (r, inputs), B (outputs, r) factors of rank r; alpha the adapter's scale.
Cost      the product is never formed, but for the rows asked for.
Pitfalls  alpha is in the configuration, not in the weights: where it is not told, the scale is taken to be 1 and the
          layer's `part` says so. Adapters with a magnitude vector (DoRA) change the base otherwise: no sum is offered.
References  E. Hu et al., LoRA: low-rank adaptation of large language models, 2021, arXiv 2106.09685. D. Kalajdzievski,
            A rank stabilization scaling factor for fine-tuning with LoRA, 2023, arXiv 2312.03732.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sciml.stats.spectra.low_rank import LowRank, Sum
from sciml.stats.spectra.views import Cut

__all__ = ["Adapter", "find_adapters"]

_FACTOR = re.compile(
    r"^(?P<prefix>.*?)[._]?lora_(?P<table>embedding_)?(?P<side>[AaBb]|down|up)"
    r"(?:\.(?!weight$)(?P<name>[^.]+))?(?:\.weight)?$"
)
_OLD_FACTOR = re.compile(r"^(?P<prefix>.*?)[._]?lora(?:_linear_layer)?\.(?P<side>down|up)(?:\.weight)?$")
_REPEATED_GROUP = re.compile(r"\)\s*[*+{?]|\(\?|\\[1-9]")
_LONGEST, _MOST = 300, 1000  # characters of a pattern or a path, and patterns, that are looked at
_BASES = (".weight", ".base_layer.weight", ".qweight", ".base_layer.qweight", ".linear.weight", ".weight_packed")


@dataclass(frozen=True)
class Adapter:
    """A low-rank product, or a base with one.

    Parameters
    ----------
    name : str
        Name of the layer.
    view : LowRank or Sum
        Its matrix.
    part : str
        "adapter" or "base+adapter", with a note where the scale was not told.

    Examples
    --------
    >>> from sciml.stats.spectra.adapters import Adapter
    >>> Adapter("q[adapter]", None, "adapter").name
    'q[adapter]'
    """

    name: str
    view: object
    part: str


def find_adapters(tensors, restored, metadata, modules):
    """Return the adapters among tensors.

    Parameters
    ----------
    tensors : dict
        Stored tensors by key.
    restored : dict
        Dequantised tensors by key, which replace the stored ones as bases.
    metadata : dict
        With `lora_alpha`, `use_rslora`, `alpha_pattern`, `fan_in_fan_out` where known; under "adapter_configs" a
        dict of them by the name of the adapter, which goes before.
    modules : dict
        Descriptions of modules by path; may be empty.

    Returns
    -------
    adapters : dict
        `Adapter` by the key of its factor B.
    sums : dict
        List of `Adapter` by the key of its base.
    reasons : dict
        Why the keys of the other factors hold no layer of their own.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from sciml.stats.spectra.adapters import find_adapters
    >>> tensors = {"q.lora_A.weight": SimpleNamespace(shape=(2, 8)), "q.lora_B.weight": SimpleNamespace(shape=(6, 2))}
    >>> adapters, sums, reasons = find_adapters(tensors, {}, {"lora_alpha": 4}, {})
    >>> adapters["q.lora_B.weight"].name, reasons
    ('q[adapter]', {'q.lora_A.weight': 'factor A of q[adapter]'})
    """
    pairs = {}
    for key in tensors:
        match = _FACTOR.match(key) or _OLD_FACTOR.match(key)
        if match:
            found = match.groupdict()
            side = "A" if found["side"] in ("A", "a", "down") else "B"
            group = (found["prefix"], found.get("table"), found.get("name"))
            pairs.setdefault(group, {})[side] = key
    with_magnitude = {key.partition(".lora_magnitude_vector")[0] for key in tensors if ".lora_magnitude_vector" in key}
    adapters, sums, reasons = {}, {}, {}
    for (prefix, table, name), keys in pairs.items():
        if set(keys) != {"A", "B"}:
            continue
        own = (metadata.get("adapter_configs") or {}).get(name or "default")
        told = metadata | own if isinstance(own, dict) else metadata
        scale, note = _scale(tensors, told, prefix, name, "_A" in keys["A"] or "_a" in keys["A"])
        update = _product(tensors[keys["A"]], tensors[keys["B"]], table)
        if update is None:
            continue
        rank = update.rank
        power = 0.5 if told.get("use_rslora") or told.get("rslora") else 1.0
        scale = 1.0 if scale is None else scale / rank**power
        label = "" if name in (None, "default") else f" {name}"
        update = LowRank(update.B, update.A, scale, update.turned, update.transposed)
        entry = Adapter(f"{prefix}[adapter{label}]", update, f"adapter{note}")
        adapters[keys["B"]] = entry
        reasons[keys["A"]] = f"factor A of {entry.name}"
        for suffix in _BASES:
            base = f"{prefix}{suffix}"
            if base in tensors and prefix not in with_magnitude:
                info = modules.get(base.rpartition(".")[0])
                total = _sum(restored.get(base, tensors[base]), update, info, told)
                if total is not None:
                    sums.setdefault(base, []).append(
                        Adapter(f"{base}[base+adapter{label}]", total, f"base+adapter{note}")
                    )
                break
    return adapters, sums, reasons


def _scale(tensors, metadata, prefix, name, configured):
    """Return alpha, or None where it is not told, and the note that says so."""
    stored = tensors.get(f"{prefix}.alpha")
    if stored is not None and tuple(stored.shape) in ((), (1,)) and not stored.dtype.is_complex:
        return float(stored.read()), ""
    alpha = metadata.get("lora_alpha")
    if isinstance(alpha, dict):
        alpha = alpha.get(name or "default")
    patterns = metadata.get("alpha_pattern")
    for pattern, value in list(patterns.items())[:_MOST] if isinstance(patterns, dict) else ():
        if _matches(str(pattern), prefix):
            alpha = value
    if type(alpha) in (int, float) and abs(alpha) < 1e300:
        return float(alpha), ""
    # Files of the down/up kind without alpha mean alpha = r.
    return None, ", scale taken to be 1" if configured else ""


def _matches(pattern, path):
    """Return whether the end of a path fits a regular expression, as a word where it may take forever or is none."""
    ends = [path, *(path[k + 1 :] for k, letter in enumerate(path[:_LONGEST]) if letter == ".")]
    if pattern in ends or max(len(pattern), len(path)) > _LONGEST:
        return pattern in ends
    if _REPEATED_GROUP.search(pattern) or sum(map(pattern.count, "*+{")) > 2:
        return False
    try:
        return any(re.fullmatch(pattern.removesuffix("$"), end) for end in ends)
    except (re.error, OverflowError, RecursionError):
        return False


def _product(A, B, table):
    """Return the product of two stored factors, or None where their shapes do not fit."""
    if 0 in (*A.shape, *B.shape):
        return None
    if len(A.shape) == len(B.shape) == 2:
        if A.shape[0] == B.shape[1]:
            return LowRank(B, A, transposed=table is not None)
        return LowRank(B, A, turned=True) if A.shape[1] == B.shape[0] else None
    if len(A.shape) == len(B.shape) > 2 and A.shape[0] == B.shape[1] and all(size == 1 for size in B.shape[2:]):
        A, B = (Cut(part, ((0, part.shape[0]),), ((0, part.shape[1]),)) for part in (A, B))
        return LowRank(B, A)
    return None


def _sum(base, update, info, metadata):
    """Return base plus update, turned where the base is stored as (inputs, outputs); None where shapes do not fit."""
    if len(base.shape) > 2:
        if getattr(info, "transposed", False):
            return None
        base = Cut(base, ((0, base.shape[0]),), ((0, base.shape[1]),))
    shape = tuple(update.shape)
    flipped = getattr(base, "transposed", False) or getattr(info, "input_first", False)
    flipped = flipped or bool(metadata.get("fan_in_fan_out")) or tuple(base.shape) != shape
    if tuple(base.shape) != (shape[::-1] if flipped else shape):
        return None
    if flipped:
        update = LowRank(update.B, update.A, update.scale, update.turned, not update.transposed)
    return Sum(base, update)
