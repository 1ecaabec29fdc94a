r"""Groups of an optimiser, split in place so that each holds one layer, and their options.

Notation  a group is a dict of parameters and options, as torch has it.
Cost      none to speak of.
Pitfalls  an option that is a tensor, such as the rate of a compiled optimiser, is shared by all groups that one call
          made: each group gets a copy, which is then filled in place.
References  Y. Zhou and others, Temperature balancing, layer-wise weight analysis, and neural network training, 2023,
          arXiv 2312.00359.
"""

from __future__ import annotations

import torch

from sciml.stats.spectra.layer_groups import layer_owners

__all__ = ["copied", "set_option", "split_groups"]


def split_groups(optimizer, model, left_out):
    """Split the groups of an optimiser in place, so that each holds the parameters of one layer.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its groups that hold several layers are split, with their options.
    model : torch.nn.Module
        Whose parameters they are.
    left_out : set of str
        Layers that count as none.

    Returns
    -------
    base_groups : list of dict
        Copies of the groups as they were.
    places : list of (int, str)
        Of each group now: which it came from, and its layer, "" for none.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.group_options import split_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    >>> split_groups(torch.optim.SGD(model.parameters(), 0.1), model, set())[1]
    [(0, '0.weight'), (0, '1.weight')]
    """
    owners = layer_owners(model)
    layer_of = {id(parameter): owners[name] for name, parameter in model.named_parameters()}
    base_groups, places, groups = [], [], []
    for k, group in enumerate(optimizer.param_groups):
        base_groups.append({key: copied(value) if key != "params" else value for key, value in group.items()})
        parts = {}
        for i, parameter in enumerate(group["params"]):
            layer = layer_of.get(id(parameter)) or ""
            parts.setdefault("" if layer in left_out or group.get("layer") == "" else layer, []).append(i)
        for layer, rows in parts.items():
            part = group if len(parts) == 1 else {key: copied(value) for key, value in group.items()}
            if len(parts) > 1:
                part["params"] = [group["params"][i] for i in rows]
                if "param_names" in group:
                    part["param_names"] = [group["param_names"][i] for i in rows]
            # Groups made by one call share a rate that is a tensor.
            part["lr"] = copied(part["lr"])
            groups.append(part)
            places.append((k, layer))
    optimizer.param_groups[:] = groups
    return base_groups, places


def copied(value):
    """Return an option that shares no memory with another group's.

    Parameters
    ----------
    value : object
        A number, text, tensor, tuple or list.

    Returns
    -------
    object

    Examples
    --------
    >>> from sciml.stats.spectra.group_options import copied
    >>> copied(0.1)
    0.1
    """
    if isinstance(value, torch.Tensor):
        return value.clone()
    return list(value) if isinstance(value, list) else value


def set_option(group, key, value):
    """Set an option of a group, in place where it is a tensor, as captured and compiled optimisers need.

    Parameters
    ----------
    group : dict
        Of an optimiser.
    key : str
        Such as "lr".
    value : float
        The new one.

    Examples
    --------
    >>> from sciml.stats.spectra.group_options import set_option
    >>> group = {"lr": 0.1}
    >>> set_option(group, "lr", 0.2)
    >>> group
    {'lr': 0.2}
    """
    if isinstance(group[key], torch.Tensor):
        group[key].fill_(value)
    else:
        group[key] = value
