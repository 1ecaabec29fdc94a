r"""Names of tensors without what wrappers of modules put into them, and those that an optimiser gives.

.. math:: \text{module.}\_\text{orig}\_\text{mod.layer.weight} \to \text{layer.weight}

Pitfalls  "module." is a wrapper's prefix where every name has it, and the name of a part where some have it.
"""

from collections import Counter

_OPTIMISER = {
    "acc_delta", "exp_avg", "exp_avg_sq", "exp_inf", "grad_avg", "max_exp_avg_sq", "momentum_buffer", "square_avg"
}  # fmt: skip
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def plain_name(name):
    """Return a name without the parts that wrappers of modules put into it.

    Parameters
    ----------
    name : str
        A key of a state dict, or the name of a module.

    Returns
    -------
    str
        Without "_orig_mod", "_fsdp_wrapped_module" and "_checkpoint_wrapped_module".

    Examples
    --------
    >>> from sciml.stats.spectra.tensor_names import plain_name
    >>> plain_name("_orig_mod.layer.0.weight")
    'layer.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS) or name


def plain_names(names):
    """Return {name: plain name} of the keys of one state dict.

    Parameters
    ----------
    names : iterable of str
        All keys; "module." is taken off where every one begins with it, as ``DataParallel`` makes them.

    Returns
    -------
    dict of str to str
        Plain names, all different.

    Examples
    --------
    >>> from sciml.stats.spectra.tensor_names import plain_names
    >>> plain_names(["module.a", "module.b"])
    {'module.a': 'a', 'module.b': 'b'}
    """
    short = {name: plain_name(name) for name in names}
    while short and all(name.startswith("module.") and len(name) > 7 for name in short.values()):
        short = {key: name[7:] for key, name in short.items()}
    # Two keys that differ by a wrapper's part only are two tensors, and keep their full names.
    seen = Counter(short.values())
    return {key: key if seen[name] > 1 else name for key, name in short.items()}


def is_optimiser_key(name):
    """Tell whether a name ends as the entries of an optimiser's state do.

    Parameters
    ----------
    name : str
        A key of a state dict.

    Returns
    -------
    bool
        True for "exp_avg", "momentum_buffer" and their like.

    Examples
    --------
    >>> from sciml.stats.spectra.tensor_names import is_optimiser_key
    >>> is_optimiser_key("state.0.exp_avg"), is_optimiser_key("layer.weight")
    (True, False)
    """
    return name.rpartition(".")[2] in _OPTIMISER
