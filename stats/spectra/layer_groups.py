r"""Which layer every parameter follows: biases their weight, normalisations the layer they normalise.

Notation  a layer is a weight of two or more axes, called by its key in the state dict.
Cost      a walk over the modules.
Pitfalls  which layer a normalisation normalises shows in names (bn1, conv1) or in the order of definition only; where
          both fail it follows none and keeps the global rate.
References  Y. Zhou and others, Temperature balancing, layer-wise weight analysis, and neural network training, 2023,
          arXiv 2312.00359.
"""

from __future__ import annotations

import re

from torch import nn

from sciml.exceptions import InvalidInputError
from sciml.stats.spectra.weight_views import as_rows, prunable_weights
from sciml.validation import check_number

__all__ = ["excluded_layers", "layer_owners", "param_groups"]

_NORM_WORDS = re.compile(r"batch_?norm|layer_?norm|group_?norm|norm|bn|ln|gn", re.IGNORECASE)
# The parts of torch's own transformer layers are not defined in the order in which they run.
_TRANSFORMER = {
    nn.TransformerEncoderLayer: {"norm1": "self_attn.out_proj", "norm2": "linear2"},
    nn.TransformerDecoderLayer: {
        "norm1": "self_attn.out_proj",
        "norm2": "multihead_attn.out_proj",
        "norm3": "linear2",
    },
}


def param_groups(model, lr, weight_decay=0.0, *, exclude=(), vector_decay=True):
    """Return the parameters of a model as groups for an optimiser, one for each layer.

    Parameters
    ----------
    model : torch.nn.Module
        Frozen parameters are left out.
    lr : float
        Rate of every group: the global one.
    weight_decay : float
        Of every group; 0 by default.
    exclude : sequence of str
        Layers that are not to be tuned: names, "first", "last"; none by default. Their parameters go to the last
        group, with all that follows no layer.
    vector_decay : bool
        Whether biases and normalisations decay, too; True by default, as torch does. False puts those of a layer into a
        group of their own.

    Returns
    -------
    list of dict
        "params", "lr", "weight_decay", and "layer": the name of the layer, "" for what keeps the global rate. A tied
        weight comes once.

    Raises
    ------
    InvalidInputError
        If nothing can be trained, or a name in `exclude` is no layer.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.layer_groups import param_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    >>> groups = param_groups(model, 1e-3, weight_decay=0.01)
    >>> [(group["layer"], len(group["params"])) for group in groups]
    [('0.weight', 4), ('2.weight', 2)]
    >>> optimizer = torch.optim.AdamW(groups)
    """
    lr = check_number("lr", lr, low=0)
    weight_decay = check_number("weight_decay", weight_decay, low=0)
    owners = layer_owners(model)
    left_out = excluded_layers(model, exclude)
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = owners[name]
        layer = "" if layer is None or layer in left_out else layer
        decays = vector_decay or name in owners.values()
        groups.setdefault((layer, decays), []).append(parameter)
    if not groups:
        raise InvalidInputError("model must have parameters that can be trained; got none. Unfreeze some.")
    ordered = sorted(groups, key=lambda key: key[0] == "")
    return [
        {"params": groups[key], "lr": lr, "weight_decay": weight_decay if key[1] else 0.0, "layer": key[0]}
        for key in ordered
    ]


def excluded_layers(model, exclude):
    """Return the names of layers that are not to be tuned.

    Parameters
    ----------
    model : torch.nn.Module
        Any.
    exclude : sequence of str
        Names, "first", "last". Embeddings are neither first nor last: they are never tuned.

    Returns
    -------
    set of str

    Raises
    ------
    InvalidInputError
        If a name is no layer.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.layer_groups import excluded_layers
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    >>> sorted(excluded_layers(model, ["first", "last"]))
    ['0.weight', '2.weight']
    """
    if not isinstance(exclude, (str, list, tuple, set, frozenset)):
        raise InvalidInputError(f"exclude must be a list of 'first', 'last' and names of layers; got {exclude!r}.")
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    weights = prunable_weights(model)
    names = [weight.name for weight in weights if not weight.embedding]
    found = set()
    for one in exclude:
        if one in ("first", "last") and names:
            found.add(names[0 if one == "first" else -1])
        elif one in {weight.name for weight in weights}:
            found.add(one)
        else:
            raise InvalidInputError(f"exclude must hold 'first', 'last' or names of layers; got {one!r}.")
    return found


def layer_owners(model):
    """Return the layer that every parameter follows.

    Parameters
    ----------
    model : torch.nn.Module
        Any.

    Returns
    -------
    dict of str to str or None
        By name of the parameter, tied ones once: the layer's name (a weight is its own layer), or None.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.layer_groups import layer_owners
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    >>> layer_owners(model)
    {'0.weight': '0.weight', '0.bias': '0.weight', '1.weight': '0.weight', '1.bias': '0.weight'}
    """
    weights = prunable_weights(model)
    layers = {weight.name: weight for weight in weights}
    order = {path: i for i, (path, _) in enumerate(model.named_modules())}
    modules = dict(model.named_modules())
    owners, of_norms = {}, {}
    for name, parameter in model.named_parameters():
        path, _, attribute = name.rpartition(".")
        if name in layers:
            owners[name] = name
        elif _is_norm(modules[path], path, weights):
            if path not in of_norms:
                of_norms[path] = _normalised(path, parameter.numel(), weights, order, modules)
            owners[name] = of_norms[path]
        else:
            owners[name] = _weight_of(path, attribute, weights)
    return owners


def _is_norm(module, path, weights):
    if any(weight.path == path for weight in weights):
        return False
    return "norm" in type(module).__name__.lower() or isinstance(module, nn.GroupNorm)


def _weight_of(path, attribute, weights):
    """Return the weight that a bias, or the gain of a weight norm, belongs to."""
    inside = {w.attribute: w.name for w in weights if w.path == path}
    for twin in (attribute.replace("bias", "weight"), attribute.replace("_g", "_v")):
        if twin in inside:
            return inside[twin]
    if inside:
        return next(iter(inside.values()))
    # A parametrised weight lives one floor below its module.
    below = f"{path}.parametrizations." if path else "parametrizations."
    return next((w.name for w in weights if w.path.startswith(below)), None)


def _normalised(path, size, weights, order, modules):
    """Return the layer that a normalisation of `size` features belongs to: by name, then by order, parents first."""
    parent, _, leaf = path.rpartition(".")
    parts = _TRANSFORMER.get(type(modules[parent]), {})
    if leaf in parts:
        wanted = f"{parent}.{parts[leaf]}" if parent else parts[leaf]
        return next((w.name for w in weights if w.path == wanted), None)
    inside = [w for w in weights if not parent or w.path.startswith(f"{parent}.")]
    siblings = [w for w in inside if w.path.rpartition(".")[0] == parent and _fits(w, size)]
    named = [w.name for w in siblings if _same_name(leaf, w.path.rpartition(".")[2])]
    if len(named) == 1:
        return named[0]
    while True:
        before = [w.name for w in inside if order[w.path] < order[path] and _outputs(w) == size]
        after = [w.name for w in inside if order[w.path] > order[path] and size in _inputs(w)]
        if before:
            return before[-1]
        if after:
            return after[0]
        if not parent:
            return None
        parent = parent.rpartition(".")[0]
        inside = [w for w in weights if not parent or w.path.startswith(f"{parent}.")]


def _same_name(norm, layer):
    """Whether two names differ by their words only: bn1 and conv1, conv2_bn and conv2."""
    bare = _NORM_WORDS.sub("", norm).strip("_")
    if bare == layer:
        return True
    digits = re.search(r"\d+$", layer)
    return bare.isdigit() and not layer.isdigit() and digits is not None and digits.group(0) == bare and norm != bare


def _fits(weight, size):
    return _outputs(weight) == size or size in _inputs(weight)


def _outputs(weight):
    return as_rows(weight).shape[0]


def _inputs(weight):
    groups = getattr(weight.layer, "groups", 1)
    return {as_rows(weight).shape[1], weight.parameter.shape[1] * groups, getattr(weight.layer, "in_channels", None)}
