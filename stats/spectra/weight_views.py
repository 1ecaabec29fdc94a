r"""Weights of a module as matrices with one row for each output, whatever their layout.

Notation  a Linear holds (out, in); a convolution (out, in/groups, k...); a transposed one (in, out/groups, k...); the
          Conv1D of transformers (in, out); a fused projection or the gates of an LSTM stack outputs along axis 0.
Cost      none: views, but for transposed convolutions with groups, which are copied.
Pitfalls  tied weights are one parameter with several names: they come once, under the first, the others are aliases.
References  M. Sun and others, A simple and effective pruning approach for large language models, 2023,
          arXiv 2306.11695.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sciml.exceptions import InvalidInputError, InvalidTypeError

__all__ = ["PrunableWeight", "as_rows", "from_rows", "is_head", "prunable_weights", "resolve_names"]

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)
# Heads are told by name only: nothing else tells an output projection from an ordinary one.
_HEADS = ("lm_head", "embed_out", "embed_tokens", "output_embeddings")


@dataclass(frozen=True)
class PrunableWeight:
    """A weight of two or more axes and where it sits.

    Parameters
    ----------
    name : str
        First key of the state dict that holds it.
    parameter : torch.Tensor
        The weight itself.
    module : torch.nn.Module
        Its owner.
    path : str
        The owner's path.
    attribute : str
        Name within the owner.
    aliases : tuple of str
        Other keys of the same parameter, and that of the weight that a parametrisation makes of it.
    layer : torch.nn.Module
        The module that uses it: the owner, but for parametrised weights.
    role : str
        What that module calls it, such as "weight".
    embedding : bool
        Whether it is an embedding, tied to one, or named like a head.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.weight_views import prunable_weights
    >>> prunable_weights(torch.nn.Linear(3, 2))[0].attribute
    'weight'
    """

    name: str
    parameter: torch.Tensor
    module: nn.Module
    path: str
    attribute: str
    aliases: tuple
    layer: nn.Module
    role: str
    embedding: bool


def prunable_weights(model):
    """Return every weight of two or more axes that belongs to no normalisation, tied ones once.

    Parameters
    ----------
    model : torch.nn.Module
        On any device.

    Returns
    -------
    list of PrunableWeight
        In the order of the state dict.

    Raises
    ------
    InvalidTypeError
        If `model` is no module.
    InvalidInputError
        If a parameter has no values yet, as in a lazy module.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.weight_views import prunable_weights
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    >>> [weight.name for weight in prunable_weights(model)]
    ['0.weight', '2.weight']
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(
            f"model must be a torch.nn.Module; got {type(model).__name__}. Load the weights into a module first."
        )
    found, embedded = {}, set()
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}" if path else attribute
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise InvalidInputError(f"model must have values; {name!r} has none yet. Run it on a batch first.")
            if is_head(name, module):
                embedded.add(id(parameter))
            matrix = parameter.ndim >= 2 and (parameter.is_floating_point() or parameter.is_complex())
            if not matrix or isinstance(module, _NORMS) or _is_vector(module, attribute, parameter):
                continue
            if id(parameter) in found:
                found[id(parameter)]["aliases"] += (name,)
            else:
                found[id(parameter)] = {
                    "name": name,
                    "parameter": parameter,
                    "module": module,
                    "path": path,
                    "attribute": attribute,
                    **_made(model, path, attribute, module),
                }
    return [PrunableWeight(**fields, embedding=key in embedded) for key, fields in found.items()]


def is_head(name, module):
    """Return whether a parameter is an embedding, or an output head by its name.

    Parameters
    ----------
    name : str
        Key of the state dict.
    module : torch.nn.Module
        Its owner.

    Returns
    -------
    bool

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.weight_views import is_head
    >>> is_head("tokens.weight", torch.nn.Embedding(5, 2)), is_head("fc.weight", torch.nn.Linear(5, 2))
    (True, False)
    """
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or any(part in _HEADS for part in name.split("."))


def resolve_names(weights, names, what="ratios"):
    """Return the weight that each name means, aliases included.

    Parameters
    ----------
    weights : list of PrunableWeight
        Of a model.
    names : iterable of str
        Keys of the state dict, or paths of modules whose weight is called "weight".
    what : str
        What the argument is called in messages.

    Returns
    -------
    list of PrunableWeight

    Raises
    ------
    InvalidInputError
        If a name is unknown, or two name one tied weight.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.weight_views import prunable_weights, resolve_names
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    >>> resolve_names(prunable_weights(model), ["0"])[0].name
    '0.weight'
    """
    known = {}
    for weight in weights:
        for key in (weight.name, *weight.aliases):
            known[key] = weight
            known.setdefault(key.removesuffix(".weight"), weight)
    chosen = []
    for name in names:
        if name not in known:
            raise InvalidInputError(
                f"{what} must name weights of two or more axes; {name!r} is none of "
                f"{', '.join(w.name for w in weights)}."
            )
        if any(known[name] is one for one in chosen):
            raise InvalidInputError(f"{what} must name a weight once; {name!r} is tied to another. Leave one out.")
        chosen.append(known[name])
    return chosen


def as_rows(weight, tensor=None):
    """Return a weight, or a tensor of its shape, as a matrix with one row for each output.

    Parameters
    ----------
    weight : PrunableWeight
        Tells the layout.
    tensor : torch.Tensor or None
        Of the shape of the weight; None, the default: the weight itself.

    Returns
    -------
    torch.Tensor, shape (outputs, inputs)
        A view where the layout allows.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.weight_views import as_rows, prunable_weights
    >>> as_rows(prunable_weights(torch.nn.ConvTranspose1d(6, 4, 5, groups=2))[0]).shape
    torch.Size([4, 15])
    """
    tensor = weight.parameter.detach() if tensor is None else tensor
    module = weight.layer
    if weight.role == "weight" and is_transposed_linear(module):
        return tensor.T
    if weight.role == "weight" and isinstance(module, nn.modules.conv._ConvTransposeNd):
        blocks = tensor.reshape(module.groups, -1, *tensor.shape[1:])  # (g, in/g, out/g, k...)
        return blocks.transpose(1, 2).reshape(module.out_channels, -1)
    return tensor.reshape(tensor.shape[0], -1)


def from_rows(weight, matrix):
    """Return a matrix of `as_rows` in the layout of the weight.

    Parameters
    ----------
    weight : PrunableWeight
        Tells the layout.
    matrix : torch.Tensor, shape (outputs, inputs)
        Such as a mask.

    Returns
    -------
    torch.Tensor
        Of the shape of the weight.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.weight_views import as_rows, from_rows, prunable_weights
    >>> weight = prunable_weights(torch.nn.ConvTranspose1d(6, 4, 5, groups=2))[0]
    >>> bool((from_rows(weight, as_rows(weight)) == weight.parameter).all())
    True
    """
    module, shape = weight.layer, weight.parameter.shape
    if weight.role == "weight" and is_transposed_linear(module):
        return matrix.T.contiguous()
    if weight.role == "weight" and isinstance(module, nn.modules.conv._ConvTransposeNd):
        blocks = matrix.reshape(module.groups, shape[1], shape[0] // module.groups, *shape[2:])
        return blocks.transpose(1, 2).reshape(shape)
    return matrix.reshape(shape)


def is_transposed_linear(module):
    """Return whether a module is a Conv1D of transformers, a Linear that stores its transpose.

    Parameters
    ----------
    module : torch.nn.Module
        Any.

    Returns
    -------
    bool
    """
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _made(model, path, attribute, module):
    """Return who uses a parameter and what it is called there: another, where a weight norm makes a weight of it."""
    if isinstance(module, nn.utils.parametrize.ParametrizationList):
        above, _, role = path.replace("parametrizations.", "").rpartition(".")
        return {"aliases": (f"{above}.{role}" if above else role,), "layer": model.get_submodule(above), "role": role}
    if attribute.endswith("_v") and hasattr(module, f"{attribute[:-2]}_g"):
        role = attribute[:-2]
        return {"aliases": (f"{path}.{role}" if path else role,), "layer": module, "role": role}
    return {"aliases": (), "layer": module, "role": attribute}


def _is_vector(module, attribute, parameter):
    """Whether a parameter of several axes is a vector in disguise: gains of a weight norm, biases of attention."""
    if isinstance(module, nn.MultiheadAttention) and attribute in ("bias_k", "bias_v"):
        return True
    if sum(size > 1 for size in parameter.shape) > 1:
        return False
    return not attribute.startswith("weight") or attribute.endswith("_g")
