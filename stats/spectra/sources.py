r"""One door for weights: a module, a state dict, a tensor, a file, a sharded file or a folder.

.. math:: \text{obj} \to \{\text{name} : \text{tensor that is read by rows}\} \cup \{(\text{name}, \text{reason})\}

Cost      opening reads headers only. Nothing is unpickled, whatever the file: pickles are read as data.
Pitfalls  a source keeps its files open: use it in a ``with`` block, or close it.
"""

import os
from collections.abc import Mapping

import numpy as np
import torch

from sciml.exceptions import InvalidTypeError
from sciml.stats.spectra.mappings import is_array, open_mapping
from sciml.stats.spectra.module_weights import check_not_empty, open_module
from sciml.stats.spectra.safetensors_file import open_safetensors
from sciml.stats.spectra.stored_tensors import ModuleInfo as ModuleInfo
from sciml.stats.spectra.stored_tensors import StoredTensor as StoredTensor
from sciml.stats.spectra.stored_tensors import WeightSource as WeightSource

_ACCEPTED = (
    "a torch.nn.Module, a state dict, a tensor or array, a list of them, or a path to a .safetensors, .pt, .pth, .bin, "
    ".ckpt, .npz file, an index of shards, or a folder"
)


def open_weights(obj):
    """Open the weights of a network, wherever they are.

    Parameters
    ----------
    obj : torch.nn.Module, mapping, tensor, array, list, str, path-like or WeightSource
        A module; a state dict, possibly of dicts; a tensor or array, which gets the name "weight"; a path to a file or
        folder; or what this function returned.

    Returns
    -------
    WeightSource
        ``tensors`` by name, ``skipped`` with reasons, ``metadata`` and ``modules``; a context manager.

    Raises
    ------
    CheckpointError
        If a file is broken, missing or lies about its content.
    UnsafeCheckpointError
        If a file could be read by running what it names only.
    InvalidTypeError
        If `obj` is nothing of the kind.
    InvalidInputError
        If `obj` holds no tensors.

    Examples
    --------
    >>> import torch
    >>> from sciml.stats.spectra.sources import open_weights
    >>> with open_weights({"layer": {"weight": torch.arange(6.0).reshape(3, 2)}}) as source:
    ...     source.tensors["layer.weight"].rows(2, 3)
    tensor([[4., 5.]])
    """
    if isinstance(obj, WeightSource):
        return obj
    if isinstance(obj, torch.nn.Module):
        return check_not_empty(open_module(obj), "the module")
    if isinstance(obj, (str, os.PathLike)):
        return check_not_empty(_open_path(os.fspath(obj)), f"the file {os.fspath(obj)!r}")
    if is_array(obj) and not isinstance(obj, np.generic):
        return check_not_empty(open_mapping({"weight": obj}), "obj")
    if isinstance(obj, Mapping) or (isinstance(obj, (list, tuple)) and any(map(is_array, obj))):
        return check_not_empty(open_mapping(obj), "the state dict")
    raise InvalidTypeError(f"obj must be {_ACCEPTED}; got {type(obj).__name__}.")


def _open_path(path):
    return open_safetensors(path)
