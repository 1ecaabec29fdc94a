r"""The weights of a torch module, with what its submodules tell about their layout.

.. math:: \text{tensors} = \text{parameters} \cup \text{buffers}, \quad \text{in the order of the modules}

Cost      nothing is copied. A weight that a parametrisation computes is computed at each reading.
Pitfalls  a parametrised or weight-normed layer acts by the weight that it computes, not by the numbers it stores: the
          computed weight is reported, the stored ones are skipped. Reading changes neither the module nor its mode.
"""

import torch
from torch.nn.utils import parametrize

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.mappings import add_value
from sciml.stats.spectra.stored_tensors import ModuleInfo, StoredTensor, WeightSource
from sciml.stats.spectra.tensor_names import plain_name
from sciml.stats.spectra.tensor_readers import ComputedReader

_FAMILIES = (
    ("attention", (torch.nn.MultiheadAttention,)),
    ("conv", (torch.nn.modules.conv._ConvNd,)),
    ("recurrent", (torch.nn.RNNBase, torch.nn.RNNCellBase)),
    ("embedding", (torch.nn.Embedding, torch.nn.EmbeddingBag)),
    ("linear", (torch.nn.Linear, torch.nn.Bilinear)),
)
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
_KEEP = ("hidden_size", "head_dim", "model_type", "tie_word_embeddings", "num_experts", "num_local_experts")


def open_module(module):
    """Return the tensors of a module.

    Parameters
    ----------
    module : torch.nn.Module
        Any module; ``DataParallel`` and compiled wrappers are looked through.

    Returns
    -------
    WeightSource
        With ``modules`` filled, and ``metadata`` from the module's ``config`` where it has one.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.module_weights import open_module
    >>> source = open_module(torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3, groups=2), torch.nn.Linear(8, 2)))
    >>> list(source.tensors), source.modules["0"].groups
    (['0.weight', '0.bias', '1.weight', '1.bias'], 2)
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and type(module).__name__ in ("DataParallel", "DistributedDataParallel", "DDP"):
            inner = module.module
        if not isinstance(inner, torch.nn.Module):
            break
        module = inner
    config = getattr(module, "config", None)
    source = WeightSource({}, metadata=plain_config(config) | _adapters(module))
    heads = {}
    for full, part in module.named_modules(remove_duplicate=False):
        name = plain_name(full)
        heads[full] = _heads(part, heads.get(full.rpartition(".")[0], (None, None)))
        if name == "parametrizations" or ".parametrizations" in f".{name}":
            continue
        _add_module(source, f"{name}." if name else "", part)
        source.modules[name] = _info(part, *heads[full])
    return source


def plain_config(config):
    """Return what a model's configuration tells about the layout of its tensors.

    Parameters
    ----------
    config : dict, object with ``to_dict``, or None
        As in a file config.json.

    Returns
    -------
    dict
        ``num_heads``, ``num_kv_heads`` and some more plain values where they are known, and the whole under "config".

    Examples
    --------
    >>> from sciml.stats.spectra.module_weights import plain_config
    >>> plain_config({"num_attention_heads": 4})["num_heads"]
    4
    """
    if config is not None and not isinstance(config, dict):
        to_dict = getattr(config, "to_dict", None)
        config = to_dict() if callable(to_dict) else getattr(config, "__dict__", None)
    if not isinstance(config, dict):
        return {}
    inner = config.get("text_config")
    both = {**(inner if isinstance(inner, dict) else {}), **config}
    found = {key: both[key] for key in _KEEP if isinstance(both.get(key), (int, str))}
    for word, keys in (("num_heads", _HEADS), ("num_kv_heads", _KV_HEADS)):
        value = next((both[key] for key in keys if _is_count(both.get(key))), None)
        found |= {} if value is None else {word: value}
    return {**found, "config": config}


def _adapters(module):
    """Return what the configurations of adapters inside a module tell, as peft keeps them: by name of the adapter."""
    configs = (getattr(part, "peft_config", None) for part in module.modules())
    configs = next((found for found in configs if isinstance(found, dict)), {})
    told = {str(name): plain_config(config).get("config", {}) for name, config in configs.items()}
    first = next(iter(told.values()), {})
    return {key: first[key] for key in ("r", "lora_alpha") if key in first} | (
        {"adapter_configs": told} if told else {}
    )


def _is_count(value):
    return type(value) is int and value > 0


def _add_module(source, prefix, module):
    made = _computed(module)
    for key, (make, stored) in made.items():
        with torch.no_grad():
            value = make()
        source.tensors[prefix + key] = StoredTensor(
            prefix + key, tuple(value.shape), value.dtype, value.nbytes, reader=ComputedReader(make)
        )
        for name, tensor in stored:
            add_value(source, prefix + name, tensor, reason=f"part of {prefix + key}, which is computed from it")
    parts = {id(tensor) for _, stored in made.values() for _, tensor in stored}
    for holder, buffer in ((module._parameters, False), (module._buffers, True)):
        for key, tensor in holder.items():
            if tensor is not None and id(tensor) not in parts and key not in made:
                add_value(source, prefix + key, tensor, buffer=buffer)


def _computed(module):
    """Return {name: (function that computes the weight, [(name, tensor) that it is computed from])}."""
    found = {}
    if parametrize.is_parametrized(module):
        for key, chain in module.parametrizations.items():
            stored = [
                (f"parametrizations.{key}.{name}", tensor)
                for name, tensor in [*chain.named_parameters(), *chain.named_buffers()]
            ]
            found[key] = (_quiet(module, chain), stored)
    for hook in module._forward_pre_hooks.values():
        key = getattr(hook, "name", None) or getattr(hook, "_tensor_name", None)
        kind = type(hook).__name__
        own = {**module._parameters, **module._buffers}
        if kind == "WeightNorm" and f"{key}_v" in own:
            stored = [(name, own[name]) for name in (f"{key}_g", f"{key}_v")]
            found[key] = (lambda hook=hook: hook.compute_weight(module), stored)
        elif kind == "SpectralNorm" and f"{key}_orig" in own:
            stored = [(name, own[name]) for name in (f"{key}_orig", f"{key}_u", f"{key}_v") if name in own]
            found[key] = (lambda hook=hook: hook.compute_weight(module, do_power_iteration=False), stored)
        elif f"{key}_orig" in own and f"{key}_mask" in own:
            stored = [(name, own[name]) for name in (f"{key}_orig", f"{key}_mask")]
            found[key] = (lambda key=key: getattr(module, f"{key}_orig") * getattr(module, f"{key}_mask"), stored)
    return found


def _quiet(module, chain):
    """Return a function that evaluates a parametrisation without the updates that some make in training."""

    def make():
        modes = [(part, part.training) for part in chain.modules()]
        try:
            chain.eval()
            return chain()
        finally:
            for part, mode in modes:
                part.training = mode

    return make


def _heads(module, inherited):
    def first(keys, default):
        values = (getattr(module, key, None) for key in keys)
        return next((value for value in values if _is_count(value)), default)

    heads = first(_HEADS, None)
    if heads is None:
        return inherited
    return heads, first(_KV_HEADS, None)


def _info(module, num_heads, num_kv_heads):
    kind = getattr(module, "original_name", None) or type(module).__name__
    if parametrize.is_parametrized(module):
        kind = parametrize.type_before_parametrizations(module).__name__
    family = next((word for word, classes in _FAMILIES if isinstance(module, classes)), "")
    if kind == "Conv1D":
        family = "linear"
    elif "norm" in kind.lower() and not family:
        family = "norm"
    return ModuleInfo(
        kind,
        groups=module.groups if family == "conv" else 1,
        transposed=bool(getattr(module, "transposed", False)) and family == "conv",
        input_first=kind == "Conv1D",
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        family=family,
    )


def check_not_empty(source, what):
    """Return a source, or say that it holds nothing.

    Parameters
    ----------
    source : WeightSource
        What was found.
    what : str
        What was opened, for the message.

    Returns
    -------
    WeightSource
        The same.

    Raises
    ------
    InvalidInputError
        If it holds neither a tensor nor something that was skipped.

    Examples
    --------
    >>> from sciml.stats.spectra.module_weights import check_not_empty
    >>> from sciml.stats.spectra.stored_tensors import WeightSource
    >>> check_not_empty(WeightSource({}, skipped=[("a", "no tensor")]), "obj")
    <WeightSource: 0 tensors, 1 skipped>
    """
    if source.tensors or source.skipped:
        return source
    raise InvalidInputError(f"{what} holds no tensors. Pass a module, a state dict or a file that has weights.")
